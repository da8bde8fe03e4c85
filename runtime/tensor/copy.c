/* Copying and converting between any two layouts. */
#include "tensor.h"

#include "../kernels/kernels.h"

#include <string.h>

#define BLOCK 512 /* elements converted at a time */

typedef struct copy_job {
    const nnl_kernels *kernels;
    nnl_dtype to, from;
    int width; /* bytes an element, when the types agree */
} copy_job;

static void copy_run(void *context, const nnl_loop *loop, char *const *address, int64_t n)
{
    const copy_job *job = context;
    int64_t to_step = loop->step[0][loop->ndim - 1], from_step = loop->step[1][loop->ndim - 1];
    if (to_step == job->width && from_step == job->width)
        memcpy(address[0], address[1], (size_t)(n * job->width));
    else
        job->kernels->copy_strided(job->width, address[0], to_step, address[1], from_step, n);
}

static void copy_rows_run(void *context, const nnl_loop *loop, char *const *address, int64_t rows)
{
    const copy_job *job = context;
    const int row = loop->ndim - 2, inner = loop->ndim - 1;
    job->kernels->copy_rows(job->width, address[0], loop->step[0][row], loop->step[0][inner],
                            address[1], loop->step[1][row], loop->step[1][inner], rows,
                            loop->inner);
}

static void convert_run(void *context, const nnl_loop *loop, char *const *address, int64_t n)
{
    const copy_job *job = context;
    int64_t to_step = loop->step[0][loop->ndim - 1], from_step = loop->step[1][loop->ndim - 1];
    int to_width = (int)nnl_dtype_size(job->to), from_width = (int)nnl_dtype_size(job->from);
    _Alignas(64) char gathered[BLOCK * 8], converted[BLOCK * 8];
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t count = NNL_MIN(BLOCK, n - i);
        const char *from = address[1] + i * from_step;
        char *to = address[0] + i * to_step;
        if (from_step != from_width) {
            job->kernels->copy_strided(from_width, gathered, from_width, from, from_step, count);
            from = gathered;
        }
        if (to_step == to_width) {
            job->kernels->convert(job->to, job->from, to, from, count);
        } else {
            job->kernels->convert(job->to, job->from, converted, from, count);
            job->kernels->copy_strided(to_width, to, to_step, converted, to_width, count);
        }
    }
}

/* A transposed copy: one dimension has unit step in the source, the innermost one in the target. */
typedef struct transpose_job {
    const nnl_kernels *kernels;
    const nnl_loop *loop; /* without the dimension `across`, and walked by rows */
    int64_t across, to_step, from_step, panel, blocks, width;
} transpose_job;

#define PANEL 64 /* rows of the source dimension a chunk, or where this gives few chunks: */
#define PANEL_LEAST 16
#define FEW_CHUNKS 4

static void transpose_task(void *context, int64_t chunk)
{
    const transpose_job *job = context;
    const nnl_loop *loop = job->loop;
    char *address[NNL_LOOP_MAX];
    nnl_loop_at(loop, chunk / job->blocks, address);
    int64_t first = chunk % job->blocks * job->panel;
    job->kernels->transpose((int)job->width, address[0] + first * job->to_step, job->to_step,
                            address[1] + first * job->width, loop->step[1][loop->ndim - 1],
                            NNL_MIN(job->panel, job->across - first), loop->inner);
}

static bool plan_transpose(const nnl_loop *loop, int width, nnl_loop *rest, transpose_job *job)
{
    int inner = loop->ndim - 1;
    if (loop->ndim < 2 || loop->step[0][inner] != width || loop->step[1][inner] == width)
        return false;
    int dim = -1;
    for (int d = 0; d < inner; d++) {
        if (loop->step[1][d] == width && loop->size[d] >= 4) dim = d;
    }
    if (dim < 0 || loop->size[inner] < 4) return false;
    *rest = *loop;
    job->across = loop->size[dim];
    job->to_step = loop->step[0][dim];
    job->from_step = width;
    job->width = width;
    for (int d = dim; d < inner; d++) {
        rest->size[d] = loop->size[d + 1];
        for (int o = 0; o < 2; o++) rest->step[o][d] = loop->step[o][d + 1];
    }
    rest->ndim--;
    rest->numel = loop->numel / job->across;
    rest->outer = rest->numel / rest->inner;
    job->panel =
        rest->outer * ((job->across + PANEL - 1) / PANEL) < FEW_CHUNKS ? PANEL_LEAST : PANEL;
    job->blocks = (job->across + job->panel - 1) / job->panel;
    job->loop = rest;
    return true;
}

nnl_status nnl_copy(nnl_tensor *dst, const nnl_tensor *src)
{
    nnl_runtime *rt = dst->rt;
    nnl_loop loop;
    nnl_loop_plan(&loop, dst->ndim, dst->shape, 2, (nnl_tensor *[]){dst, (nnl_tensor *)src});
    if (loop.numel == 0) return NNL_OK;
    copy_job job = {.kernels = rt->kernels,
                    .to = (nnl_dtype)dst->dtype,
                    .from = (nnl_dtype)src->dtype,
                    .width = (int)nnl_dtype_size((nnl_dtype)dst->dtype)};
    if (dst->dtype != src->dtype) return nnl_loop_run(rt, &loop, 1, convert_run, &job);
    nnl_loop rest;
    transpose_job transpose = {.kernels = rt->kernels};
    if (plan_transpose(&loop, job.width, &rest, &transpose)) {
        int64_t chunks = rest.outer * transpose.blocks;
        if (loop.numel > nnl_serial_work(rt) / 2)
            return nnl_parallel(rt, chunks, transpose_task, &transpose);
        for (int64_t i = 0; i < chunks; i++) transpose_task(&transpose, i);
        return NNL_OK;
    }
    if (loop.ndim > 1) return nnl_loop_run_rows(rt, &loop, 1, copy_rows_run, &job);
    return nnl_loop_run(rt, &loop, 1, copy_run, &job);
}

nnl_status nnl_fill(nnl_tensor *dst, nnl_value number)
{
    nnl_tensor *one;
    NNL_TRY(nnl_tensor_scalar(dst->rt, (nnl_dtype)dst->dtype, number, &one));
    nnl_status status = nnl_copy(dst, one);
    nnl_tensor_unref(one);
    return status;
}

nnl_status nnl_copy_as(const nnl_spec *spec, const nnl_tensor *src, nnl_tensor **out)
{
    nnl_tensor *made;
    *out = NULL;
    NNL_TRY(nnl_tensor_make(src->rt, spec, NULL, &made));
    nnl_status status = nnl_copy(made, src);
    if (status == NNL_OK)
        *out = made;
    else
        nnl_tensor_unref(made);
    return status;
}

nnl_status nnl_copy_new(const nnl_tensor *src, nnl_tensor **out)
{
    nnl_spec spec = {.dtype = (nnl_dtype)src->dtype, .ndim = src->ndim};
    memcpy(spec.shape, src->shape, sizeof(int64_t) * (size_t)src->ndim);
    return nnl_copy_as(&spec, src, out);
}
