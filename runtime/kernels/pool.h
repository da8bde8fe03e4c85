/* Pooling as its loops see it: the windows of one row of results. */
#ifndef NNL_KERNELS_POOL_H
#define NNL_KERNELS_POOL_H

#include <stdbool.h>
#include <stdint.h>

/* A window along one dimension: its taps that lie inside the input. */
typedef struct nnl_pool_window {
    int64_t first;  /* place of the first of them, dilation apart from the next */
    int32_t count;
    int32_t number; /* which tap of the window the first one is */
    int64_t extent; /* places that a mean divides by */
} nnl_pool_window;

/* Windows of two places side by side with fewer elements than a vector has lanes: how the lanes belong to them
 * (pool_pairs.h). */
#define NNL_POOL_LANES 16
typedef struct nnl_pool_pairs {
    int64_t group;                                             /* elements of the windows that fit into a vector */
    int32_t left[NNL_POOL_LANES], right[NNL_POOL_LANES];       /* forward: from lanes of the results to elements of the places */
    int32_t window[2][NNL_POOL_LANES], tap[2][NNL_POOL_LANES]; /* backward: from lanes of the places to those of the results */
} nnl_pool_pairs;

/* A row of windows along the last dimension.  Every place of a row has inner adjacent elements (the channels of
 * images that lie channels-last, else 1), which are pooled each for itself.  Steps are in elements. */
typedef struct nnl_pool_row {
    const nnl_pool_window *window; /* windows of them */
    int64_t windows, inner, dilation;
    int64_t width;                 /* places of a row of the input */
    int64_t first_column, columns; /* those that windows reach */
    int64_t planes, rows, plane_step, row_step; /* rows of the input that the windows reach */
    /* a tap's code is its place in the window as a kernel lies in memory: that of the first tap of the first row,
     * and how far it is to the next plane and row; wide: codes are i32, not u8 */
    int32_t code, plane_code, row_code;
    bool wide;
    const nnl_pool_pairs *pairs; /* where window o has the places 2 o and 2 o + 1, few elements each; else NULL */
    bool fresh; /* backward: windows tile the row, and what they give is stored, not added */
    double factor; /* means: what a window's extent is multiplied with before the sum is divided by it */
} nnl_pool_row;

#endif
