/* Matrix products for the ops: one call for every size, layout and batch. */
#ifndef NNL_GEMM_H
#define NNL_GEMM_H

#include "../base/base.h"
#include "../kernels/gemm_block.h"

typedef enum nnl_activation { NNL_ACT_NONE, NNL_ACT_RELU } nnl_activation;

/* For each matrix of the batch: C = act((alpha A B [+ C] + bias) with what lies beside), where C
 * overlaps no operand. */
typedef struct nnl_gemm_call {
    nnl_dtype dtype; /* F32 or F64 */
    /* A is m x k (stored k x m if trans), B is k x n (stored n x k if trans) */
    bool trans_a, trans_b;
    int64_t m, n, k;
    const void *a;
    int64_t lda; /* steps between stored rows, in elements */
    const void *b;
    int64_t ldb;
    void *c;
    int64_t ldc;
    bool accumulate; /* C += A B, else C = A B, whatever C holds */
    double alpha;
    const void *bias;   /* n values added to each row, or NULL */
    const void *beside; /* lies as C does; or NULL */
    nnl_beside how;
    nnl_activation activation;
    /* batch >= 1; elements between matrices, 0 shares a or b */
    int64_t batch, stride_a, stride_b, stride_c;
} nnl_gemm_call;

/* Fails with NNL_ENOMEM (C is then unchanged) or NNL_ECANCELLED only.  An element of C depends on
 * its row of A, its column of B and the shapes, never on how they are stored or on the number of
 * threads. */
nnl_status nnl_gemm(nnl_runtime *rt, const nnl_gemm_call *call);

/* A product that is run again and again: what depends on shapes and layouts is chosen once, and
 * only addresses change.  With fixed_b, B's elements stay, too: they are packed here where that
 * pays, and B is then read no more.  The plan is one block of *bytes from nnl_alloc(). */
typedef struct nnl_gemm_plan nnl_gemm_plan;
nnl_status nnl_gemm_ready(nnl_runtime *rt, const nnl_gemm_call *call, bool fixed_b,
                          nnl_gemm_plan **out, size_t *bytes);
/* The bits, and the failures, of nnl_gemm().  A plan is run by one thread at a time. */
nnl_status nnl_gemm_run(nnl_runtime *rt, nnl_gemm_plan *plan, const void *a, const void *b, void *c,
                        const void *bias, const void *beside);

#endif
