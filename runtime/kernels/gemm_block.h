/* One piece of a matrix product, as ops/gemm.c hands it to the kernels of kernels/gemm.c. */
#ifndef NNL_KERNELS_GEMM_BLOCK_H
#define NNL_KERNELS_GEMM_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

/* gemm_rows: so deep at most, up to so many vectors of columns, no `add`; any steps of a. */
#define NNL_GEMM_ROWS_DEPTH 8
#define NNL_GEMM_ROWS_VECTORS 2
/* gemm_deep: from two to so many rows, up to one vector of columns; any steps of a. */
#define NNL_GEMM_DEEP_ROWS 4
/* gemm_dot, gemm_apart: so many rows at most.  gemm_apart takes any steps of a. */
#define NNL_GEMM_DOT_ROWS 12

/* What lies beside c is added to it, multiplied by it, or keeps c where positive (else 0). */
typedef enum nnl_beside { NNL_BESIDE_PLUS, NNL_BESIDE_TIMES, NNL_BESIDE_KEEPS } nnl_beside;

/* c = alpha a b, or c + alpha a b with `add`; then + bias, what lies beside and the activation, if
 * any.  Steps are in elements.  a: rows x depth, element (i, p) at a[i * a_row + p * a_depth], one
 * of the two steps is 1. */
typedef struct nnl_gemm_block {
    int64_t rows, columns, depth;
    const void *a;
    int64_t a_row, a_depth;
    bool a_packed; /* gemm_block: a is what gemm_pack_rows made of rows of step 1 */
    /* gemm_block: panels of the tile's width, element (p, j) at b[j / width * b_panel + p * b_step
     * + j % width]; the last panel can be read up to a whole vector.  gemm_dot: element (p, j) at
     * b[j * b_step + p]. gemm_row, gemm_apart, gemm_deep: element (p, j) at b[p * b_step +
     * j].  gemm_rows: at b[p * b_step + j * b_panel]. */
    const void *b;
    int64_t b_step, b_panel;
    void *c; /* rows x columns */
    int64_t c_row;
    double alpha;
    bool add, relu;
    const void *bias; /* columns values, or one for all with bias_step 0; or NULL */
    int64_t bias_step;
    const void *beside; /* lies as c does, or NULL; gemm_rows: NULL */
    nnl_beside how;
} nnl_gemm_block;

#endif
