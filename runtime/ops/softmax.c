/* Softmax, softmin and log softmax along a dimension. */
#include "op.h"
#include "dense.h"

#define TASK 8192 /* elements */

enum { PLAIN, NEGATED, LOGARITHM }; /* as in kernels/softmax.c */

/* A dense tensor as outer x size x inner around the dimension. */
typedef struct job {
    nnl_runtime *rt;
    int form, dtype;
    char *out;
    const char *x, *dy; /* dy and the result x: backward */
    int64_t outer, size, inner, width;
    int64_t group;  /* rows, or columns, of a task */
    int64_t groups; /* columns: tasks of one outer place */
} job;

static void rows_task(void *context, int64_t i)
{
    const job *j = context;
    const nnl_kernels *k = j->rt->kernels;
    int64_t first = i * j->group, count = NNL_MIN(j->group, j->outer - first), at = first * j->size * j->width;
    if (j->dy) k->softmax_back_rows(j->form == LOGARITHM, j->dtype, j->out + at, j->dy + at, j->x + at, count, j->size);
    else k->softmax_rows(j->form, j->dtype, j->out + at, j->x + at, count, j->size);
}

static void columns_task(void *context, int64_t i)
{
    const job *j = context;
    const nnl_kernels *k = j->rt->kernels;
    int64_t first = i % j->groups * j->group, count = NNL_MIN(j->group, j->inner - first);
    int64_t at = (i / j->groups * j->size * j->inner + first) * j->width, step = j->inner * j->width;
    if (j->dy) k->softmax_back_columns(j->form == LOGARITHM, j->dtype, j->out + at, j->dy + at, j->x + at, step, j->size, count);
    else k->softmax_columns(j->form, j->dtype, j->out + at, j->x + at, step, j->size, count);
}

static nnl_status run_job(job *j, const nnl_tensor *out, int64_t dim)
{
    j->dtype = out->dtype;
    j->width = (int64_t)nnl_dtype_size((nnl_dtype)out->dtype);
    j->out = out->data;
    j->outer = j->inner = 1;
    j->size = out->ndim ? out->shape[dim] : 1;
    for (int d = 0; d < out->ndim; d++) {
        if (d < dim) j->outer *= out->shape[d];
        if (d > dim) j->inner *= out->shape[d];
    }
    if (out->numel == 0) return NNL_OK;
    bool rows = j->inner == 1;
    j->group = NNL_MAX(1, TASK / j->size);
    if (!rows) j->group = NNL_MIN(j->inner, (j->group + 63) / 64 * 64);
    j->groups = rows ? 1 : (j->inner + j->group - 1) / j->group;
    int64_t tasks = rows ? (j->outer + j->group - 1) / j->group : j->outer * j->groups;
    if (out->numel > nnl_serial_work(j->rt) / 4) return nnl_parallel(j->rt, tasks, rows ? rows_task : columns_task, j);
    for (int64_t i = 0; i < tasks; i++) (rows ? rows_task : columns_task)(j, i);
    return NNL_OK;
}

static nnl_status softmax_run(nnl_call *c)
{
    nnl_tensor *x;
    NNL_TRY(nnl_dense(c->in[0], &x));
    job j = {.rt = c->rt, .form = c->op->variant, .x = x->data};
    nnl_status status = run_job(&j, c->out[0], c->attr[0].as.i);
    nnl_tensor_unref(x);
    return status;
}

static nnl_status backward_run(nnl_call *c)
{
    nnl_tensor *dy, *y;
    NNL_TRY(nnl_dense(c->in[0], &dy));
    nnl_status status = nnl_dense(c->in[1], &y);
    if (status == NNL_OK) {
        job j = {.rt = c->rt, .form = c->op->variant, .dy = dy->data, .x = y->data};
        status = run_job(&j, c->out[0], c->attr[0].as.i);
    }
    nnl_tensor_unref(dy);
    nnl_tensor_unref(y);
    return status;
}

static void softmax_grad(nnl_grad *g)
{
    g->dx[0] = DO_WITH(g->s, softmax_backward, (g->attr[0]), g->dy[0], g->out[0]);
    if (g->op->variant == NEGATED) g->dx[0] = DO(g->s, neg, g->dx[0]);
}

NNL_OP(softmax,
    .sig = "input:real, dim:dim=-1, dtype:dtype? -> same",
    .doc = "exp(x) / sum of exp(x) along dim: positive numbers that add up to 1.  With dtype x is converted to that "
           "type first.",
    .example = "nn.tensor({1, 2, 3}):softmax(-1)",
    .infer = nnl_infer_same,
    .run = softmax_run,
    .variant = PLAIN,
    .grad = softmax_grad,
    .saves = NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4 dim=2; input:2x3x4 dim=2; input:3x4 dim=1 dtype=\"f64\"",
    .traits = NNL_CAST);

NNL_OP(softmin,
    .sig = "input:real, dim:dim=-1, dtype:dtype? -> same",
    .doc = "softmax(-x): the smallest element gets the largest share.  With dtype x is converted to that type first.",
    .example = "nn.F.softmin(nn.tensor({1, 2, 3}), -1)",
    .infer = nnl_infer_same,
    .run = softmax_run,
    .variant = NEGATED,
    .grad = softmax_grad,
    .saves = NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4 dim=2; input:2x3x4 dim=2; input:3x4 dim=1 dtype=\"f64\"",
    .traits = NNL_CAST);

/* y (dy - sum(y dy)) */
static void softmax_backward_define(nnl_define *d)
{
    nnl_tensor *sum = nnl_sum_dims(d->s, DO(d->s, mul, d->in[0], d->in[1]), &d->attr[0], true);
    d->out[0] = DO(d->s, mul, d->in[1], DO(d->s, sub, d->in[0], sum));
}

NNL_OP(softmax_backward,
    .sig = "dy:float, y:float, dim:dim -> same",
    .doc = "y (dy - sum of y dy along dim), y being softmax's result.",
    .infer = nnl_infer_same,
    .run = backward_run,
    .variant = PLAIN,
    .define = softmax_backward_define,
    .sample = "dy:3x4 y:3x4 dim=2; dy:2x3x4 y:2x3x4 dim=1",
    .traits = NNL_HIDDEN);

static void log_softmax_grad(nnl_grad *g)
{
    g->dx[0] = DO_WITH(g->s, log_softmax_backward, (g->attr[0]), g->dy[0], g->out[0]);
}

NNL_OP(log_softmax,
    .sig = "input:real, dim:dim=-1, dtype:dtype? -> same",
    .doc = "x - log(sum of exp(x) along dim), the logarithm of softmax, computed without overflow.  With dtype x is "
           "converted to that type first.",
    .example = "nn.tensor({1, 2, 3}):log_softmax(-1)",
    .infer = nnl_infer_same,
    .run = softmax_run,
    .variant = LOGARITHM,
    .grad = log_softmax_grad,
    .saves = NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4 dim=2; input:2x3x4 dim=2; input:3x4 dim=1 dtype=\"f64\"",
    .traits = NNL_CAST);

/* dy - exp(y) sum(dy) */
static void log_softmax_backward_define(nnl_define *d)
{
    nnl_tensor *sum = nnl_sum_dims(d->s, d->in[0], &d->attr[0], true);
    d->out[0] = DO(d->s, sub, d->in[0], DO(d->s, mul, DO(d->s, exp, d->in[1]), sum));
}

NNL_OP(log_softmax_backward,
    .sig = "dy:float, y:float, dim:dim -> same",
    .doc = "dy - exp(y) times the sum of dy along dim, y being log_softmax's result.",
    .infer = nnl_infer_same,
    .run = backward_run,
    .variant = LOGARITHM,
    .define = log_softmax_backward_define,
    .sample = "dy:3x4 y:3x4 dim=2; dy:2x3x4 y:2x3x4 dim=1",
    .traits = NNL_HIDDEN);
