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
    bool pairs; /* window o has the places 2 o and 2 o + 1 */
    bool fresh; /* backward: windows tile the row, and what they give is stored, not added */
    double factor; /* means: what a window's extent is multiplied with before the sum is divided by it */
} nnl_pool_row;

#endif
