/* Losses between a prediction and a target, element by element, and their reduction. */
#include "op.h"

enum { MEAN, SUM, NONE };

#define BLOCK 1024  /* elements whose losses are held between the map and the sum */
#define PIECE 16384 /* elements of a task */
#define MAX_PARTS 64

static nnl_dtype type_of(const nnl_tensor *t) { return (nnl_dtype)t->dtype; }

/* A map summed up without storing its results. */
typedef struct map_sum {
    const nnl_kernels *kernels;
    nnl_map_kernel *kernel;
    const double *param;
    const char *a, *b;
    int64_t width, numel, per_part;
    int dtype;
    double sum[MAX_PARTS];
} map_sum;

static void map_sum_task(void *context, int64_t part)
{
    map_sum *m = context;
    static const int32_t step[2] = {1, 1};
    _Alignas(64) char block[BLOCK * 8];
    int64_t end = NNL_MIN(m->numel, (part + 1) * m->per_part);
    m->sum[part] = 0;
    for (int64_t i = part * m->per_part; i < end; i += BLOCK) {
        int64_t n = NNL_MIN(BLOCK, end - i);
        const void *in[2] = {m->a + i * m->width, m->b + i * m->width};
        m->kernel(block, in, step, m->param, n);
        m->kernels->reduce_rows(NNL_REDUCE_SUM, m->dtype, &m->sum[part], block, 0, 1, n, NULL);
    }
}

static nnl_status sum_map(nnl_runtime *rt, int map, const nnl_tensor *a, const nnl_tensor *b, const double *param, double *out)
{
    map_sum m = {.kernels = rt->kernels, .kernel = rt->kernels->map[map][a->dtype], .param = param, .a = a->data, .b = b->data,
                 .width = (int64_t)nnl_dtype_size(type_of(a)), .numel = a->numel, .dtype = a->dtype};
    int64_t parts = NNL_MIN(MAX_PARTS, (m.numel + PIECE - 1) / PIECE);
    *out = 0;
    if (parts == 0) return NNL_OK;
    m.per_part = (m.numel + parts - 1) / parts;
    if (m.numel <= NNL_SERIAL_WORK) {
        for (int64_t i = 0; i < parts; i++) map_sum_task(&m, i);
    } else {
        NNL_TRY(nnl_parallel(rt, parts, map_sum_task, &m));
    }
    for (int64_t i = 0; i < parts; i++) *out += m.sum[i];
    return NNL_OK;
}

/* t broadcast to the shape and dense: t itself, or a copy. */
static nnl_status dense(nnl_tensor *t, int ndim, const int64_t *shape, nnl_tensor **out)
{
    nnl_spec spec;
    nnl_spec_set(&spec, type_of(t), ndim, shape);
    if (t->contiguous && t->numel == nnl_shape_numel(ndim, shape)) {
        *out = nnl_tensor_ref(t);
        return NNL_OK;
    }
    NNL_TRY(nnl_tensor_make(t->rt, &spec, NULL, out));
    nnl_status status = nnl_copy(*out, t);
    if (status != NNL_OK) nnl_tensor_unref(*out);
    return status;
}

/* The broadcast shape of prediction and target. */
static nnl_status pair_shape(nnl_call *c, nnl_spec *spec)
{
    const nnl_tensor *a = c->in[0], *b = c->in[1];
    char x[NNL_NAMED_TEXT], y[NNL_NAMED_TEXT];
    nnl_spec_like(spec, a);
    if (nnl_broadcast(&spec->ndim, spec->shape, b->ndim, b->shape)) return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE, "%s and %s do not broadcast: sizes must be equal or 1, from the last dimension on",
                         nnl_call_input_text(c, 0, x), nnl_call_input_text(c, 1, y));
}

/* Attributes: reduction first, then the map's parameters. */
static nnl_status loss_infer(nnl_call *c)
{
    nnl_spec shape;
    NNL_TRY(pair_shape(c, &shape));
    nnl_spec_set(&c->spec[0], shape.dtype, c->attr[0].as.i == NONE ? shape.ndim : 0, shape.shape);
    return NNL_OK;
}

static void store(nnl_tensor *out, double value)
{
    if (out->dtype == NNL_F32) *(float *)(void *)out->data = (float)value;
    else *(double *)(void *)out->data = value;
}

static nnl_status loss_run(nnl_call *c)
{
    nnl_tensor *a, *b;
    nnl_spec shape;
    double param = c->sig->attrs > 1 ? nnl_value_double(&c->attr[1]) : 0, sum;
    if (c->attr[0].as.i == NONE) return nnl_map_run(c->rt, c->op->kernel, 2, c->in, c->out[0], &param);
    NNL_TRY(pair_shape(c, &shape));
    NNL_TRY(dense(c->in[0], shape.ndim, shape.shape, &a));
    nnl_status status = dense(c->in[1], shape.ndim, shape.shape, &b);
    if (status == NNL_OK) {
        status = sum_map(c->rt, c->op->kernel, a, b, &param, &sum);
        if (status == NNL_OK) store(c->out[0], c->attr[0].as.i == MEAN ? sum / (double)a->numel : sum);
        nnl_tensor_unref(b);
    }
    nnl_tensor_unref(a);
    return status;
}

/* What a mean's gradient is divided by. */
static int64_t pair_count(const nnl_grad *g)
{
    int ndim = g->in_layout[0].ndim;
    int64_t shape[NNL_MAX_DIMS];
    for (int d = 0; d < ndim; d++) shape[d] = g->in_layout[0].shape[d];
    nnl_broadcast(&ndim, shape, g->in_layout[1].ndim, g->in_layout[1].shape);
    return nnl_shape_numel(ndim, shape);
}

static nnl_status loss_backward_infer(nnl_call *c)
{
    nnl_spec *spec = &c->spec[0];
    nnl_spec_like(spec, c->in[1]);
    nnl_broadcast(&spec->ndim, spec->shape, c->in[2]->ndim, c->in[2]->shape);
    return NNL_OK;
}

/* ---------------------------------------------------------------- mean squared error */

static void mse_grad(nnl_grad *g)
{
    double scale = g->attr[0].as.i == MEAN ? 1 / (double)pair_count(g) : 1;
    nnl_tensor *dx = DO_WITH(g->s, mse_loss_backward, (V_NUM(scale)), g->dy[0], g->in[0], g->in[1]);
    g->dx[0] = dx;
    if (g->needs[1]) g->dx[1] = DO(g->s, neg, dx);
}

NNL_OP(mse_loss,
    .sig = "input:real, target:real, reduction:{mean|sum|none}=mean -> same",
    .doc = "(input - target)^2: its mean, its sum or every element.",
    .example = "nn.F.mse_loss(nn.tensor({1, 2}), nn.tensor({1, 4}))",
    .infer = loss_infer,
    .run = loss_run,
    .kernel = NNL_MAP_loss_square,
    .grad = mse_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:3x4 target:3x4; input:3x4 target:4 reduction=\"sum\"; input:3x4 target:3x4 reduction=\"none\"",
    .traits = NNL_PROMOTE | NNL_NO_METHOD);

static void mse_backward_define(nnl_define *d)
{
    nnl_tensor *slope = nnl_scaled(d->s, DO(d->s, sub, d->in[1], d->in[2]), 2 * nnl_value_double(&d->attr[0]));
    d->out[0] = DO(d->s, mul, d->in[0], slope);
}

NNL_OP(mse_loss_backward,
    .sig = "dy:float, input:float, target:float, scale:num -> same",
    .doc = "2 scale dy (input - target).",
    .infer = loss_backward_infer,
    .run = nnl_run_map,
    .kernel = NNL_MAP_loss_square_grad,
    .define = mse_backward_define,
    .sample = "dy:3x4 input:3x4 target:3x4 scale=0.5",
    .traits = NNL_HIDDEN);
