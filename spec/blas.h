/* OpenBLAS's answer to a call of nnl_gemm(), for specs and benchmarks to compare with: the library
 * itself does without it. */
#ifndef SPEC_BLAS_H
#define SPEC_BLAS_H

#include "../runtime/ops/gemm.h"

#if NNL_BLAS
#include <cblas.h>

/* Columns or rows of a tile, as many tiles as threads want, and multiplications that are worth it.
 */
#define BLAS_TILE 1024
#define BLAS_TASKS 4
#define BLAS_PARALLEL_WORK 1e6

#define BLAS_MATRIX(name, T, gemm)                                                              \
    static void name(const nnl_gemm_call *c, int64_t item, int64_t r0, int64_t r1, int64_t c0,  \
                     int64_t c1)                                                                \
    {                                                                                           \
        const T *a = (const T *)c->a + item * c->stride_a + r0 * (c->trans_a ? 1 : c->lda),     \
                *b = (const T *)c->b + item * c->stride_b + c0 * (c->trans_b ? c->ldb : 1),     \
                *bias = c->bias ? (const T *)c->bias + c0 : NULL;                               \
        T *out = (T *)c->c + item * c->stride_c + r0 * c->ldc + c0;                             \
        gemm(CblasRowMajor, c->trans_a ? CblasTrans : CblasNoTrans,                             \
             c->trans_b ? CblasTrans : CblasNoTrans, (int)(r1 - r0), (int)(c1 - c0), (int)c->k, \
             (T)c->alpha, a, (int)c->lda, b, (int)c->ldb, c->accumulate ? 1 : 0, out,           \
             (int)c->ldc);                                                                      \
        for (int64_t i = r0; i < r1; i++, out += c->ldc) {                                      \
            for (int64_t j = 0; bias && j < c1 - c0; j++) out[j] += bias[j];                    \
            for (int64_t j = 0; c->activation == NNL_ACT_RELU && j < c1 - c0; j++)              \
                out[j] = out[j] < 0 ? 0 : out[j];                                               \
        }                                                                                       \
    }
BLAS_MATRIX(blas_matrix_f32, float, cblas_sgemm)
BLAS_MATRIX(blas_matrix_f64, double, cblas_dgemm)
#undef BLAS_MATRIX

typedef struct blas_plan {
    const nnl_gemm_call *call;
    int64_t row_tiles, column_tiles;
} blas_plan;

static void blas_tile(void *context, int64_t place)
{
    const blas_plan *p = context;
    const nnl_gemm_call *c = p->call;
    int64_t column = place % p->column_tiles, row = place / p->column_tiles % p->row_tiles;
    (c->dtype == NNL_F32 ? blas_matrix_f32 : blas_matrix_f64)(
        c, place / p->column_tiles / p->row_tiles, c->m * row / p->row_tiles,
        c->m * (row + 1) / p->row_tiles, c->n * column / p->column_tiles,
        c->n * (column + 1) / p->column_tiles);
}

/* In a few coarse tiles, which rt's threads share.  False where it has no such call. */
static inline bool blas_gemm(nnl_runtime *rt, const nnl_gemm_call *c)
{
    if (c->beside || c->k == 0) return false;
    blas_plan p = {.call = c,
                   .row_tiles = (c->m + BLAS_TILE - 1) / BLAS_TILE,
                   .column_tiles = (c->n + BLAS_TILE - 1) / BLAS_TILE};
    double work = (double)c->m * (double)c->n * (double)c->k * (double)c->batch;
    bool parallel = work >= BLAS_PARALLEL_WORK;
    if (parallel && p.row_tiles * p.column_tiles * c->batch < BLAS_TASKS) {
        if (c->m >= c->n)
            p.row_tiles = NNL_MIN(p.row_tiles * BLAS_TASKS, c->m);
        else
            p.column_tiles = NNL_MIN(p.column_tiles * BLAS_TASKS, c->n);
    }
    int64_t tiles = p.row_tiles * p.column_tiles * c->batch;
    if (parallel) return nnl_parallel(rt, tiles, blas_tile, &p) == NNL_OK;
    for (int64_t i = 0; i < tiles; i++) blas_tile(&p, i);
    return true;
}

#else

static inline bool blas_gemm(nnl_runtime *rt, const nnl_gemm_call *c)
{
    (void)rt, (void)c;
    return false;
}

#endif
#endif
