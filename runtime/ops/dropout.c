/* Dropout: elements kept or set to 0 by random words. */
#include "dense.h"
#include "random.h"

#include <string.h>

#define BLOCK 512 /* elements a chunk */

typedef struct keep_job {
    nnl_stream stream;
    const nnl_tensor *in;
    nnl_tensor *out;
    uint32_t threshold;
    double scale;
} keep_job;

static void keep_task(void *context, int64_t chunk)
{
    const keep_job *job = context;
    int64_t first = chunk * BLOCK, n = NNL_MIN(BLOCK, job->out->numel - first);
    uint32_t words[BLOCK];
    nnl_random_words(&job->stream, first, n, words);
    if (job->out->dtype == NNL_F32)
        job->stream.kernels->random_keep_f32((float *)(void *)job->out->data + first,
                                             (const float *)(const void *)job->in->data + first,
                                             words, job->threshold, job->scale, n);
    else
        job->stream.kernels->random_keep_f64((double *)(void *)job->out->data + first,
                                             (const double *)(const void *)job->in->data + first,
                                             words, job->threshold, job->scale, n);
}

/* out = in / (1 - p) where the element's word of the stream says keep, else 0. */
static nnl_status keep(nnl_call *c, double p, nnl_stream stream)
{
    nnl_tensor *packed, *out = c->out[0];
    if (p >= 1) {
        memset(out->data, 0, (size_t)out->numel * nnl_dtype_size((nnl_dtype)out->dtype));
        return NNL_OK;
    }
    NNL_TRY(nnl_dense(c->in[0], &packed));
    keep_job job = {.stream = stream,
                    .in = packed,
                    .out = out,
                    .threshold = (uint32_t)(p * 0x1p32),
                    .scale = 1 / (1 - p)};
    int64_t chunks = (out->numel + BLOCK - 1) / BLOCK;
    nnl_status status = NNL_OK;
    if (out->numel * 4 > nnl_serial_work(c->rt))
        status = nnl_parallel(c->rt, chunks, keep_task, &job);
    else
        for (int64_t i = 0; i < chunks; i++) keep_task(&job, i);
    nnl_tensor_unref(packed);
    return status;
}

static nnl_status dropout_infer(nnl_call *c)
{
    double p = c->attr[0].as.f;
    if (!(p >= 0 && p <= 1))
        return nnl_call_fail(c, NNL_EINVAL, "p is %g, but it must lie in [0, 1]", p);
    nnl_spec_like(&c->spec[0], c->in[0]);
    if (!c->attr[1].as.i || p == 0) c->out[0] = nnl_tensor_ref(c->in[0]);
    return NNL_OK;
}

static nnl_status dropout_run(nnl_call *c)
{
    return keep(c, c->attr[0].as.f, nnl_stream_of(c->rt, c->random));
}

static void dropout_grad(nnl_grad *g)
{
    g->dx[0] = DO_WITH(g->s, dropout_backward,
                       (g->attr[0], V_INT((int64_t)g->random), V_INT((int64_t)g->seed)), g->dy[0]);
}

NNL_OP(dropout,
    .sig = "input:real, p:num=0.5, training:flag=true -> same",
    .doc = "While training, each element is 0 with probability p, else divided by 1 - p; the "
           "input itself otherwise (Srivastava et al., JMLR 15, 2014).",
    .example = "nn.F.dropout(nn.ones(8), 0.25)",
    .infer = dropout_infer,
    .run = dropout_run,
    .grad = dropout_grad,
    .sample = "input:3x4; input:3x4 p=0.2; input:3x4 p=0.5 training=false",
    .traits = NNL_RANDOM);

/* The numbers are made again, which is cheaper than keeping a mask. */
static nnl_status dropout_backward_run(nnl_call *c)
{
    nnl_stream stream = {c->rt->kernels, (uint64_t)c->attr[2].as.i, (uint64_t)c->attr[1].as.i};
    return keep(c, c->attr[0].as.f, stream);
}

static void dropout_backward_grad(nnl_grad *g)
{
    g->dx[0] = DO_WITH(g->s, dropout_backward, (g->attr[0], g->attr[1], g->attr[2]), g->dy[0]);
}

NNL_OP(dropout_backward,
    .sig = "dy:float, p:num, call:int, seed:int -> same",
    .doc = "dy / (1 - p) where that call of dropout kept the element, else 0.",
    .infer = nnl_infer_same,
    .run = dropout_backward_run,
    .grad = dropout_backward_grad,
    .traits = NNL_HIDDEN);
