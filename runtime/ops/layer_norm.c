/* Normalisation of each sample by itself: layer, root mean square and group normalisation. */
#include "dense.h"
#include "op.h"

#include <math.h>
#include <string.h>

#define TASK 16384     /* elements of a forward task */
#define BACK_TASK 8192 /* least elements, */
#define BACK_TASKS 32  /* and most tasks of a backward call, */
#define BACK_ROWS 16   /* and least rows for each set of sums that a task keeps */
#define FOLD_ROWS 64   /* rows whose sums for a weight are kept in the tensor's type */

enum { LAYER, RMS, GROUP };

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static nnl_dtype type_of(const nnl_tensor *t) { return (nnl_dtype)t->dtype; }

/* ---------------------------------------------------------------- what a call normalises */

/* The number of trailing dimensions that layer and rms normalisation take together. */
static int normalized_dims(const nnl_value *shape) { return shape->kind == NNL_KIND_INTS ? shape->count : 1; }
static int64_t normalized_size(const nnl_value *shape, int d)
{
    return shape->kind == NNL_KIND_INTS ? shape->as.ints[d] : shape->as.i;
}

static double eps_of(const nnl_value *eps, const nnl_tensor *x)
{
    if (nnl_given(eps)) return nnl_value_double(eps);
    return x->dtype == NNL_F32 ? 0x1p-23 : 0x1p-52; /* rms_norm, as in torch */
}

/* Rows and their number; weight and bias are set later, when they are dense. */
static nnl_norm rows_of(int variant, const nnl_value *attr, const nnl_tensor *x, int64_t *rows)
{
    nnl_norm norm = {.inner = 1, .groups = 1, .center = variant != RMS, .eps = eps_of(&attr[1], x)};
    if (variant == GROUP) {
        norm.groups = attr[0].as.i;
        norm.channels = x->shape[1] / norm.groups;
        for (int d = 2; d < x->ndim; d++) norm.inner *= x->shape[d];
        *rows = x->shape[0] * norm.groups;
    } else {
        int dims = normalized_dims(&attr[0]);
        norm.channels = nnl_shape_numel(dims, x->shape + x->ndim - dims);
        *rows = nnl_shape_numel(x->ndim - dims, x->shape);
    }
    return norm;
}

/* ---------------------------------------------------------------- checks */

static nnl_status check_shape(nnl_call *c, const nnl_value *shape)
{
    const nnl_tensor *x = c->in[0];
    int dims = normalized_dims(shape);
    char wanted[NNL_SHAPE_TEXT], end[NNL_SHAPE_TEXT], text[NNL_NAMED_TEXT];
    if (dims == 0) return nnl_call_fail(c, NNL_ESHAPE, "normalized_shape must have one size or more");
    bool fits = dims <= x->ndim;
    int64_t sizes[NNL_MAX_DIMS];
    for (int d = 0; d < dims && d < NNL_MAX_DIMS; d++) {
        sizes[d] = normalized_size(shape, d);
        fits = fits && sizes[d] == x->shape[x->ndim - dims + d];
    }
    if (fits) return NNL_OK;
    int last = NNL_MIN(dims, x->ndim);
    return nnl_call_fail(c, NNL_ESHAPE, "normalized_shape is %s, but %s ends with %s",
                         nnl_shape_text(wanted, NNL_MIN(dims, NNL_MAX_DIMS), sizes), nnl_call_input_text(c, 0, text),
                         nnl_shape_text(end, last, x->shape + x->ndim - last));
}

/* weight and bias: of the input's shape from dimension first on, dims of them */
static nnl_status check_scales(nnl_call *c, int count, int first, int dims)
{
    const int64_t *shape = c->in[0]->shape + first;
    for (int i = 1; i <= count; i++) {
        const nnl_tensor *w = c->in[i];
        if (!w || (w->ndim == dims && memcmp(w->shape, shape, sizeof(int64_t) * (size_t)dims) == 0)) continue;
        char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT], wanted[NNL_SHAPE_TEXT];
        return nnl_call_fail(c, NNL_ESHAPE, "%s does not fit %s: it must have the shape %s", nnl_call_input_text(c, i, a),
                             nnl_call_input_text(c, 0, b), nnl_shape_text(wanted, dims, shape));
    }
    return NNL_OK;
}

static void statistics(nnl_call *c, int64_t rows)
{
    nnl_spec_like(&c->spec[0], c->in[0]);
    for (int i = 1; i < c->n_out; i++) nnl_spec_set(&c->spec[i], NNL_F64, 1, &rows);
}

static nnl_status layer_norm_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    NNL_TRY(check_shape(c, &c->attr[0]));
    int dims = normalized_dims(&c->attr[0]);
    NNL_TRY(check_scales(c, c->n_in - 1, x->ndim - dims, dims));
    int64_t rows;
    rows_of(c->op->variant, c->attr, x, &rows);
    statistics(c, rows);
    return NNL_OK;
}

static nnl_status group_norm_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    int64_t groups = c->attr[0].as.i, rows;
    char text[NNL_NAMED_TEXT];
    if (x->ndim < 2)
        return nnl_call_fail(c, NNL_ESHAPE, "%s must be N x C x ...", nnl_call_input_text(c, 0, text));
    if (groups == 0 || x->shape[1] % groups != 0)
        return nnl_call_fail(c, NNL_ESHAPE, "num_groups is %lld, which does not divide the %lld channels of %s",
                             (long long)groups, (long long)x->shape[1], nnl_call_input_text(c, 0, text));
    NNL_TRY(check_scales(c, 2, 1, 1));
    rows_of(GROUP, c->attr, x, &rows);
    statistics(c, rows);
    return NNL_OK;
}

/* ---------------------------------------------------------------- forward */

typedef struct job {
    const nnl_kernels *kernels;
    nnl_norm norm;
    int dtype;
    int64_t rows, group, row_bytes; /* group: rows of a task */
    char *y;                        /* dx in backward */
    const char *x, *dy, *residual; /* residual: may be y, or NULL */
    double *mean, *rstd;
    /* backward: for each task sums for dweight and dbias in f64, and the same in the tensor's type */
    double *sums;
    char *parts;
    int64_t scales, task_bytes; /* scales: groups x channels; 0 where no sums are wanted */
} job;

static void forward_task(void *context, int64_t i)
{
    const job *j = context;
    int64_t first = i * j->group, at = first * j->row_bytes;
    j->kernels->layer_norm_rows(j->dtype, &j->norm, j->y + at, j->mean ? j->mean + first : NULL, j->rstd + first, j->x + at,
                                first, NNL_MIN(j->group, j->rows - first));
}

static nnl_status each_task(nnl_runtime *rt, job *j, void (*task)(void *context, int64_t i), int64_t elements)
{
    int64_t tasks = divide_up(j->rows, j->group);
    if (elements > NNL_SERIAL_WORK / 4) return nnl_parallel(rt, tasks, task, j);
    for (int64_t i = 0; i < tasks; i++) task(j, i);
    return NNL_OK;
}

/* Dense forms of the tensors, where they are given. */
#define OPERANDS 4
static nnl_status open_operands(nnl_tensor *const *from, int count, nnl_tensor **dense)
{
    memset(dense, 0, sizeof(nnl_tensor *) * OPERANDS);
    for (int i = 0; i < count; i++) {
        if (from[i]) NNL_TRY(nnl_dense(from[i], &dense[i]));
    }
    return NNL_OK;
}

static void close_operands(nnl_tensor **dense)
{
    for (int i = 0; i < OPERANDS; i++) nnl_tensor_unref(dense[i]);
}

static double *numbers(nnl_tensor *t) { return t ? (double *)(void *)t->data : NULL; }

static job job_of(nnl_call *c, const nnl_tensor *x, const nnl_tensor *weight, const nnl_tensor *bias)
{
    job j = {.kernels = c->rt->kernels, .dtype = x->dtype};
    j.norm = rows_of(c->op->variant, c->attr, x, &j.rows);
    j.norm.weight = weight ? weight->data : NULL;
    j.norm.bias = bias ? bias->data : NULL;
    j.row_bytes = j.norm.channels * j.norm.inner * (int64_t)nnl_dtype_size(type_of(x));
    j.x = x->data;
    return j;
}

static nnl_status forward_run(nnl_call *c)
{
    nnl_tensor *dense[OPERANDS];
    nnl_status status = open_operands(c->in, c->n_in, dense);
    if (status == NNL_OK) {
        job j = job_of(c, dense[0], dense[1], dense[2]);
        j.y = c->out[0]->data;
        j.mean = c->n_out > 2 ? numbers(c->out[1]) : NULL;
        j.rstd = numbers(c->out[c->n_out - 1]);
        j.group = NNL_MAX(1, TASK / NNL_MAX(j.norm.channels * j.norm.inner, 1));
        if (c->in[0]->numel > 0) status = each_task(c->rt, &j, forward_task, c->in[0]->numel);
    }
    close_operands(dense);
    return status;
}

/* ---------------------------------------------------------------- backward */

static void backward_task(void *context, int64_t i)
{
    const job *j = context;
    int64_t end = NNL_MIN((i + 1) * j->group, j->rows);
    double *sums = j->sums ? j->sums + i * 2 * j->scales : NULL;
    char *part = j->sums ? j->parts + i * j->task_bytes : NULL;
    if (part) {
        memset(sums, 0, (size_t)j->scales * 2 * sizeof(double));
        memset(part, 0, (size_t)j->task_bytes);
    }
    for (int64_t first = i * j->group; first < end; first += FOLD_ROWS) {
        int64_t at = first * j->row_bytes;
        j->kernels->layer_norm_back_rows(j->dtype, &j->norm, j->y + at, part, part ? part + j->task_bytes / 2 : NULL, j->dy + at,
                                         j->x + at, j->residual ? j->residual + at : NULL, j->mean ? j->mean + first : NULL, j->rstd + first, first,
                                         NNL_MIN(FOLD_ROWS, end - first));
        if (part) j->kernels->layer_norm_fold(j->dtype, sums, part, 2 * j->scales);
    }
}

static void store_sums(const job *j, int64_t tasks, int which, nnl_tensor *out)
{
    for (int64_t i = 0; i < j->scales; i++) {
        double sum = 0;
        for (int64_t t = 0; t < tasks; t++) sum += j->sums[(2 * t + which) * j->scales + i];
        if (out->dtype == NNL_F32) ((float *)(void *)out->data)[i] = (float)sum;
        else ((double *)(void *)out->data)[i] = sum;
    }
}

static nnl_status run_backward(nnl_call *c, job *j)
{
    int64_t elements = j->norm.channels * j->norm.inner, width = (int64_t)nnl_dtype_size((nnl_dtype)j->dtype);
    bool scaled = c->n_out > 1;
    int64_t rows = divide_up(j->rows, BACK_TASKS);
    rows = NNL_MAX(rows, BACK_TASK / NNL_MAX(elements, 1));
    j->group = NNL_MAX(rows, scaled ? BACK_ROWS * j->norm.groups : 1);
    int64_t tasks = elements > 0 ? divide_up(j->rows, j->group) : 0;
    j->scales = scaled ? j->norm.groups * j->norm.channels : 0;
    j->task_bytes = 2 * j->scales * width;
    size_t bytes = (size_t)(tasks * (2 * j->scales * (int64_t)sizeof(double) + j->task_bytes));
    void *block = NULL;
    if (scaled) {
        NNL_TRY(nnl_alloc(c->rt, bytes, &block));
        j->sums = block;
        j->parts = (char *)(j->sums + tasks * 2 * j->scales);
    }
    nnl_status status = tasks > 0 ? each_task(c->rt, j, backward_task, j->rows * elements) : NNL_OK;
    for (int i = 1; i < c->n_out && status == NNL_OK; i++) store_sums(j, tasks, i - 1, c->out[i]);
    nnl_free(c->rt, block, bytes);
    return status;
}

enum { DY, X, WEIGHT, RESIDUAL, MEAN, RSTD };

static nnl_status backward_run(nnl_call *c)
{
    nnl_tensor *dense[OPERANDS];
    nnl_status status = open_operands(c->in, RESIDUAL + 1, dense);
    if (status == NNL_OK) {
        job j = job_of(c, dense[X], dense[WEIGHT], NULL);
        j.y = c->out[0]->data;
        j.dy = dense[DY]->data;
        j.residual = dense[RESIDUAL] ? dense[RESIDUAL]->data : NULL;
        j.mean = numbers(c->in[MEAN]);
        j.rstd = numbers(c->in[RSTD]);
        status = run_backward(c, &j);
    }
    close_operands(dense);
    return status;
}

/* dx, and with `scales` the gradients of weight and bias. */
static nnl_status backward_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[X];
    bool scales = c->attr[2].as.i;
    int dims = c->op->variant == GROUP ? 1 : normalized_dims(&c->attr[0]);
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    if (c->in[RESIDUAL] && !nnl_same_shape(c->in[RESIDUAL], x))
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have the shape of %s", nnl_call_input_text(c, RESIDUAL, a),
                             nnl_call_input_text(c, X, b));
    NNL_TRY(nnl_call_results(c, scales ? 3 : 1));
    nnl_spec_like(&c->spec[0], x);
    for (int i = 1; i < c->n_out; i++)
        nnl_spec_set(&c->spec[i], type_of(x), dims, c->op->variant == GROUP ? x->shape + 1 : x->shape + x->ndim - dims);
    return NNL_OK;
}

#define BACKWARD(name, variant_)                                                                                        \
    .sig = "dy:float, input:float, weight:float?, residual:float?, mean:float?, rstd:float, " name                      \
           ", eps:num?, scales:flag=true -> same*",                                                                     \
    .doc = "The gradient of input, with the residual added to it, and, with `scales`, those of weight and bias.",       \
    .infer = backward_infer,                                                                                            \
    .run = backward_run,                                                                                                \
    .variant = variant_,                                                                                                \
    NNL_NO_GRAD("second derivatives go by the composition"),                                                            \
    .traits = NNL_HIDDEN

NNL_OP(layer_norm_backward, BACKWARD("normalized_shape:size*", LAYER));
NNL_OP(rms_norm_backward, BACKWARD("normalized_shape:size*", RMS));
NNL_OP(group_norm_backward, BACKWARD("num_groups:size", GROUP));

static void backward(nnl_grad *g, const nnl_op *op, nnl_tensor *mean, nnl_tensor *rstd)
{
    bool bias = g->n_in > 2 && g->needs[2], scales = g->needs[1] || bias;
    nnl_tensor *out[3];
    nnl_tensor *in[] = {g->dy[0], g->in[0], g->in[1], NULL, mean, rstd};
    nnl_do_many(g->s, op, NNL_COUNT(in), in, 3, (nnl_value[]){g->attr[0], g->attr[1], V_FLAG(scales)}, scales ? 3 : 1, out);
    g->dx[0] = out[0];
    if (g->needs[1]) g->dx[1] = out[1];
    if (bias) g->dx[2] = out[2];
}

static void layer_norm_grad(nnl_grad *g) { backward(g, &nnl_op_layer_norm_backward, g->out[1], g->out[2]); }
static void rms_norm_grad(nnl_grad *g) { backward(g, &nnl_op_rms_norm_backward, NULL, g->out[1]); }
static void group_norm_grad(nnl_grad *g) { backward(g, &nnl_op_group_norm_backward, g->out[1], g->out[2]); }

/* ---------------------------------------------------------------- the compositions */

/* (x - mean) / sqrt(var + eps) over the given dimensions. */
static nnl_tensor *normalized(nnl_scope *s, nnl_tensor *x, const nnl_value *dims, bool center, double eps)
{
    if (center) x = DO(s, sub, x, DO_WITH(s, mean, (*dims, V_FLAG(true)), x));
    nnl_tensor *var = DO_WITH(s, mean, (*dims, V_FLAG(true)), DO(s, mul, x, x));
    return DO(s, mul, x, DO(s, rsqrt, nnl_shifted(s, var, eps)));
}

static nnl_tensor *scaled(nnl_scope *s, nnl_tensor *x, nnl_tensor *weight, nnl_tensor *bias)
{
    if (weight) x = DO(s, mul, x, weight);
    return bias ? DO(s, add, x, bias) : x;
}

static void layer_norm_define(nnl_define *d)
{
    const nnl_tensor *x = d->in[0];
    int64_t places[NNL_MAX_DIMS];
    int dims = normalized_dims(&d->attr[0]);
    for (int i = 0; i < dims; i++) places[i] = x->ndim - dims + i;
    nnl_tensor *y = normalized(d->s, d->in[0], &V_INTS(dims, places), d->op->variant != RMS, eps_of(&d->attr[1], x));
    d->out[0] = scaled(d->s, y, d->in[1], d->n_in > 2 ? d->in[2] : NULL);
}

static void group_norm_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    const nnl_tensor *x = d->in[0];
    int64_t rows, place = 2, shape[NNL_MAX_DIMS];
    nnl_norm norm = rows_of(GROUP, d->attr, x, &rows);
    nnl_tensor *y = nnl_reshaped(s, d->in[0], 3, (int64_t[]){x->shape[0], norm.groups, norm.channels * norm.inner});
    y = nnl_reshaped(s, normalized(s, y, &V_INTS(1, &place), true, norm.eps), x->ndim, x->shape);
    for (int i = 0; i < x->ndim; i++) shape[i] = i == 1 ? x->shape[1] : 1;
    nnl_tensor *weight = d->in[1] ? nnl_reshaped(s, d->in[1], x->ndim, shape) : NULL;
    d->out[0] = scaled(s, y, weight, d->in[2] ? nnl_reshaped(s, d->in[2], x->ndim, shape) : NULL);
}

/* ---------------------------------------------------------------- the records */

NNL_OP(layer_norm,
    .sig = "input:float, normalized_shape:size*, weight:float?, bias:float?, eps:num=1e-5 -> same, mean:f64!, rstd:f64!",
    .doc = "(x - mean) / sqrt(var + eps) weight + bias, mean and variance (of all elements, divided by their number) taken over "
           "the last dimensions, whose sizes are normalized_shape.  Ba, Kiros and Hinton, arXiv:1607.06450.",
    .example = "nn.F.layer_norm(nn.tensor({{1, 2, 3}, {4, 6, 8}}), {3})",
    .infer = layer_norm_infer,
    .run = forward_run,
    .variant = LAYER,
    .grad = layer_norm_grad,
    .define = layer_norm_define,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1) | NNL_SAVE_OUTPUT(1) | NNL_SAVE_OUTPUT(2),
    .sample = "input:3x4 normalized_shape={4} weight:4 bias:4; input:2x3x4 normalized_shape={3, 4} weight:3x4; "
              "input:2x37 normalized_shape={37} bias:37 eps=0.1; input:2x3x4 normalized_shape={4}",
    .traits = NNL_PROMOTE | NNL_NO_METHOD);

NNL_OP(rms_norm,
    .sig = "input:float, normalized_shape:size*, weight:float?, eps:num? -> same, rstd:f64!",
    .doc = "x / sqrt(mean(x^2) + eps) weight over the last dimensions, whose sizes are normalized_shape.  eps is the spacing of "
           "the type's numbers at 1, if not given.  Zhang and Sennrich, arXiv:1910.07467.",
    .example = "nn.F.rms_norm(nn.tensor({{1, 2, 3}, {4, 6, 8}}), {3})",
    .infer = layer_norm_infer,
    .run = forward_run,
    .variant = RMS,
    .grad = rms_norm_grad,
    .define = layer_norm_define,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1) | NNL_SAVE_OUTPUT(1),
    .sample = "input:3x4 normalized_shape={4} weight:4; input:2x3x4 normalized_shape={3, 4} eps=0.1; "
              "input:2x37 normalized_shape={37} weight:37",
    .traits = NNL_PROMOTE | NNL_NO_METHOD);

NNL_OP(group_norm,
    .sig = "input:float, num_groups:size, weight:float?, bias:float?, eps:num=1e-5 -> same, mean:f64!, rstd:f64!",
    .doc = "(x - mean) / sqrt(var + eps) weight + bias for input N x C x ..., mean and variance taken over each of num_groups "
           "groups of channels in each sample; weight and bias have an element for each channel.  Wu and He, arXiv:1803.08494.",
    .example = "nn.F.group_norm(nn.randn(2, 6, 5), 3)",
    .infer = group_norm_infer,
    .run = forward_run,
    .variant = GROUP,
    .grad = group_norm_grad,
    .define = group_norm_define,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1) | NNL_SAVE_OUTPUT(1) | NNL_SAVE_OUTPUT(2),
    .sample = "input:2x6x5 num_groups=3 weight:6 bias:6; input:3x8 num_groups=2 weight:8 bias:8; "
              "input:2x4x3x3 num_groups=1 eps=0.1; input:2x4x21 num_groups=4 bias:4",
    .traits = NNL_PROMOTE | NNL_NO_METHOD);
