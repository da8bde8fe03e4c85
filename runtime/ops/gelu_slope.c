/* gelu together with its derivative, for captured programs (program/slope.c): the gradient is then
 * one product. */
#include "../kernels/kernels.h"
#include "dense.h"
#include "op.h"

#define CHUNK 4096
#define WORK 16 /* an element's, where an addition's is 1 */

typedef struct slope_job {
    const nnl_kernels *kernels;
    nnl_dtype dtype;
    const char *x;
    char *y, *slope;
    int64_t n;
} slope_job;

static void slope_task(void *context, int64_t chunk)
{
    const slope_job *j = context;
    int64_t first = chunk * CHUNK, n = NNL_MIN(CHUNK, j->n - first);
    size_t at = (size_t)first * nnl_dtype_size(j->dtype);
    void *y = j->y + at, *slope = j->slope + at;
    const void *x = j->x + at;
    if (j->dtype == NNL_F32)
        j->kernels->gelu_slope_f32(y, slope, x, n);
    else
        j->kernels->gelu_slope_f64(y, slope, x, n);
}

static nnl_status slope_infer(nnl_call *c)
{
    nnl_spec_like(&c->spec[0], c->in[0]);
    nnl_spec_like(&c->spec[1], c->in[0]);
    return NNL_OK;
}

static nnl_status slope_run(nnl_call *c)
{
    nnl_tensor *x;
    NNL_TRY(nnl_dense(c->in[0], &x));
    slope_job job = {.kernels = c->rt->kernels,
                     .dtype = (nnl_dtype)x->dtype,
                     .x = x->data,
                     .y = c->out[0]->data,
                     .slope = c->out[1]->data,
                     .n = x->numel};
    int64_t chunks = (x->numel + CHUNK - 1) / CHUNK;
    nnl_status status = NNL_OK;
    if (x->numel * WORK > nnl_serial_work(c->rt))
        status = nnl_parallel(c->rt, chunks, slope_task, &job);
    else
        for (int64_t i = 0; i < chunks; i++) slope_task(&job, i);
    nnl_tensor_unref(x);
    return status;
}

NNL_OP(gelu_slope,
    .sig = "input:float -> y:same, slope:same",
    .doc = "gelu(input), and its derivative Phi(x) + x Phi'(x).",
    .infer = slope_infer,
    .run = slope_run,
    NNL_NO_GRAD("programs call it, whose gradients are steps already"),
    .traits = NNL_HIDDEN);
