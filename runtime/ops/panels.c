/* Matrices packed for the kernels of products: blocks of the depth one after the other, in each of
 * them panels of a kernel's width. */
#include "panels.h"
#include "../kernels/kernels.h"

/* Sums of blocks are added in C, as in gemm.c: that keeps rounding errors of long products down. */
#define DEPTH 256

static int64_t size_of(nnl_dtype dtype) { return dtype == NNL_F32 ? 4 : 8; }

static int64_t width_of(const nnl_kernels *k, nnl_dtype dtype)
{
    return k->vector_bytes / size_of(dtype) * k->gemm_tile_vectors();
}

static int64_t padded(const nnl_panels *p)
{
    int64_t width = width_of(p->kernels, p->dtype);
    return (p->columns + width - 1) / width * width;
}

int64_t nnl_panels_width(const nnl_runtime *rt, nnl_dtype dtype)
{
    return width_of(rt->kernels, dtype);
}

size_t nnl_panels_bytes(const nnl_runtime *rt, nnl_dtype dtype, int64_t depth, int64_t columns)
{
    nnl_panels p = {.kernels = rt->kernels, .dtype = dtype, .columns = columns};
    return (size_t)((depth * padded(&p) * size_of(dtype) + 63) / 64 * 64);
}

nnl_panels nnl_panels_pack(nnl_runtime *rt, nnl_dtype dtype, void *memory, const void *w,
                           int64_t ldw, bool transposed, int64_t depth, int64_t columns)
{
    nnl_panels p = {rt->kernels, dtype, depth, columns, memory};
    int64_t size = size_of(dtype), row = padded(&p) * size;
    for (int64_t d = 0; d < depth; d += DEPTH) {
        int64_t count = NNL_MIN(DEPTH, depth - d);
        const char *from = (const char *)w + (transposed ? d : d * ldw) * size;
        void *to = p.data + d * row;
        if (dtype == NNL_F32)
            p.kernels->gemm_pack_f32(to, (const float *)(const void *)from, ldw, transposed, count,
                                     columns);
        else
            p.kernels->gemm_pack_f64(to, (const double *)(const void *)from, ldw, transposed, count,
                                     columns);
    }
    return p;
}

void nnl_panels_multiply(const nnl_panels *w, int64_t rows, const void *a, int64_t lda,
                         int64_t first, int64_t count, void *c, int64_t ldc, bool add,
                         const void *bias)
{
    int64_t size = size_of(w->dtype), row = padded(w) * size,
            width = width_of(w->kernels, w->dtype);
    for (int64_t d = 0; d < w->depth; d += DEPTH) {
        int64_t depth = NNL_MIN(DEPTH, w->depth - d);
        nnl_gemm_block block = {.rows = rows,
                                .columns = count,
                                .depth = depth,
                                .a = (const char *)a + d * size,
                                .a_row = lda,
                                .a_depth = 1,
                                .b = w->data + d * row + first * depth * size,
                                .b_step = width,
                                .b_panel = depth * width,
                                .c = c,
                                .c_row = ldc,
                                .alpha = 1,
                                .add = add || d > 0,
                                .bias = d + depth == w->depth ? bias : NULL,
                                .bias_step = 1};
        if (w->dtype == NNL_F32)
            w->kernels->gemm_block_f32(&block);
        else
            w->kernels->gemm_block_f64(&block);
    }
}
