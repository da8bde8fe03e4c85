/* Losses between a prediction and a target, element by element, and their reduction. */
#include "composed.h"
#include "reduce.h"

#include <string.h>

enum { MEAN, SUM, NONE, BATCH_MEAN };

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

/* total of a map over two dense tensors of one shape */
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
    if (t->contiguous && t->numel == nnl_shape_numel(ndim, shape)) {
        *out = nnl_tensor_ref(t);
        return NNL_OK;
    }
    nnl_spec spec;
    nnl_spec_set(&spec, type_of(t), ndim, shape);
    return nnl_copy_as(&spec, t, out);
}

/* ---------------------------------------------------------------- shapes and values */

/* Inputs are prediction, target and perhaps weights; attributes begin with the reduction, then comes the
 * loss's own parameter.  kernel is the loss's map, variant that of its derivative. */
enum { PREDICTION, TARGET, WEIGHT, POS_WEIGHT };

static nnl_status fail_broadcast(nnl_call *c, int i)
{
    char x[NNL_NAMED_TEXT], y[NNL_NAMED_TEXT];
    return nnl_call_fail(c, NNL_ESHAPE, "%s and %s do not broadcast: sizes must be equal or 1, from the last dimension on",
                         nnl_call_input_text(c, 0, x), nnl_call_input_text(c, i, y));
}

/* The shape of the losses, one an element. */
static nnl_status pair_shape(nnl_call *c, nnl_spec *spec)
{
    nnl_spec_like(spec, c->in[PREDICTION]);
    for (int i = 1; i < c->n_in; i++) {
        if (c->in[i] && !nnl_broadcast(&spec->ndim, spec->shape, c->in[i]->ndim, c->in[i]->shape)) return fail_broadcast(c, i);
    }
    return NNL_OK;
}

static nnl_status loss_infer(nnl_call *c)
{
    nnl_spec shape;
    NNL_TRY(pair_shape(c, &shape));
    nnl_spec_set(&c->spec[0], shape.dtype, c->attr[0].as.i == NONE ? shape.ndim : 0, shape.shape);
    return NNL_OK;
}

/* Losses in which a target of another shape is a mistake more often than not. */
static nnl_status strict_infer(nnl_call *c)
{
    char x[NNL_NAMED_TEXT], y[NNL_NAMED_TEXT];
    nnl_spec shape;
    if (!nnl_same_shape(c->in[PREDICTION], c->in[TARGET]))
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have the shape of %s", nnl_call_input_text(c, TARGET, y),
                             nnl_call_input_text(c, PREDICTION, x));
    const nnl_tensor *prediction = c->in[PREDICTION];
    for (int i = WEIGHT; i < c->n_in; i++) {
        if (!c->in[i]) continue;
        nnl_spec_like(&shape, prediction);
        if (!nnl_broadcast(&shape.ndim, shape.shape, c->in[i]->ndim, c->in[i]->shape)) return fail_broadcast(c, i);
        if (shape.ndim != prediction->ndim || memcmp(shape.shape, prediction->shape, sizeof(int64_t) * prediction->ndim) != 0)
            return nnl_call_fail(c, NNL_ESHAPE, "%s does not broadcast to the shape of %s", nnl_call_input_text(c, i, y),
                                 nnl_call_input_text(c, PREDICTION, x));
    }
    return loss_infer(c);
}

static void store(nnl_tensor *out, double value)
{
    if (out->dtype == NNL_F32) *(float *)(void *)out->data = (float)value;
    else *(double *)(void *)out->data = value;
}

static double parameter(const nnl_value *attr, const nnl_sig *sig)
{
    return sig->attrs > 1 ? nnl_value_double(&attr[1]) : 0;
}

/* What a sum over elements is multiplied with. */
static double factor(int64_t reduction, int64_t numel, int ndim, const int64_t *shape)
{
    if (reduction == MEAN) return 1 / (double)numel;
    if (reduction == BATCH_MEAN) return 1 / (double)(ndim ? shape[0] : 1);
    return 1;
}

/* The losses into a tensor of their shape. */
static nnl_status run_each(nnl_call *c, int map, nnl_tensor *out)
{
    double param = parameter(c->attr, c->sig);
    NNL_TRY(nnl_map_run(c->rt, map, 2, c->in, out, &param));
    nnl_tensor *weight = c->n_in > WEIGHT ? c->in[WEIGHT] : NULL;
    return weight ? nnl_map_run(c->rt, NNL_MAP_mul, 2, (nnl_tensor *[]){out, weight}, out, NULL) : NNL_OK;
}

static nnl_status run_total(nnl_call *c, int map, const nnl_spec *shape, double *total)
{
    nnl_tensor *a, *b;
    double param = parameter(c->attr, c->sig);
    if (c->n_in > WEIGHT && c->in[WEIGHT]) {
        const nnl_value all = V_NONE;
        nnl_accumulators acc;
        bool reduced[NNL_MAX_DIMS];
        nnl_dim_flags(&all, shape->ndim, reduced);
        NNL_TRY(nnl_tensor_make(c->rt, shape, NULL, &a));
        nnl_status status = run_each(c, map, a);
        if (status == NNL_OK) status = nnl_reduce_accumulate(c->rt, NNL_REDUCE_SUM, a, reduced, NULL, false, &acc);
        nnl_tensor_unref(a);
        NNL_TRY(status);
        *total = *(double *)acc.data;
        nnl_accumulators_free(c->rt, &acc);
        return NNL_OK;
    }
    NNL_TRY(dense(c->in[PREDICTION], shape->ndim, shape->shape, &a));
    nnl_status status = dense(c->in[TARGET], shape->ndim, shape->shape, &b);
    if (status == NNL_OK) {
        status = sum_map(c->rt, map, a, b, &param, total);
        nnl_tensor_unref(b);
    }
    nnl_tensor_unref(a);
    return status;
}

static nnl_status run_loss(nnl_call *c, int map)
{
    nnl_spec shape;
    double total;
    int64_t reduction = c->attr[0].as.i;
    if (reduction == NONE) return run_each(c, map, c->out[0]);
    NNL_TRY(pair_shape(c, &shape));
    NNL_TRY(run_total(c, map, &shape, &total));
    int64_t numel = nnl_shape_numel(shape.ndim, shape.shape);
    store(c->out[0], total * factor(reduction, numel, shape.ndim, shape.shape));
    return NNL_OK;
}

static nnl_status loss_run(nnl_call *c) { return run_loss(c, c->op->kernel); }

/* ---------------------------------------------------------------- gradients */

static nnl_status loss_backward_infer(nnl_call *c)
{
    nnl_spec *spec = &c->spec[0];
    nnl_spec_like(spec, c->in[0]);
    nnl_broadcast(&spec->ndim, spec->shape, c->in[1]->ndim, c->in[1]->shape);
    nnl_broadcast(&spec->ndim, spec->shape, c->in[2]->ndim, c->in[2]->shape);
    return NNL_OK;
}

static bool loss_backward_map(nnl_call *c, nnl_map_form *form)
{
    form->map = (int)c->attr[0].as.i;
    for (int i = 0; i < 2; i++) form->param[i] = nnl_value_double(&c->attr[i + 1]);
    return true;
}

NNL_OP(loss_backward,
    .sig = "dy:float, input:float, target:float, map:int, scale:num, param:num -> same",
    .doc = "The derivative of an elementwise loss (the number of its kernel) by its input, times dy and scale.",
    .infer = loss_backward_infer,
    .run = nnl_run_map,
    .map = loss_backward_map,
    NNL_NO_GRAD("second derivatives go by the composition"),
    .traits = NNL_HIDDEN);

/* What every loss is multiplied with: dy by the reduction's factor, which is handed on apart, and weights. */
static nnl_tensor *loss_dy(nnl_grad *g, double *scale)
{
    int ndim = g->in_layout[0].ndim;
    int64_t shape[NNL_MAX_DIMS];
    for (int d = 0; d < ndim; d++) shape[d] = g->in_layout[0].shape[d];
    for (int i = 1; i < g->n_in; i++) nnl_broadcast(&ndim, shape, g->in_layout[i].ndim, g->in_layout[i].shape);
    *scale = factor(g->attr[0].as.i, nnl_shape_numel(ndim, shape), ndim, shape);
    bool weighted = g->n_in > WEIGHT && g->in[WEIGHT];
    return weighted ? DO(g->s, mul, g->dy[0], g->in[WEIGHT]) : g->dy[0];
}

static nnl_tensor *loss_dx(nnl_grad *g, nnl_tensor *dy, int map, double scale)
{
    return DO_WITH(g->s, loss_backward, (V_INT(map), V_NUM(scale), V_NUM(parameter(g->attr, g->sig))), dy, g->in[0], g->in[1]);
}

/* Of losses that depend on the difference alone. */
static void difference_grad(nnl_grad *g)
{
    double scale;
    nnl_tensor *dy = loss_dy(g, &scale);
    g->dx[0] = loss_dx(g, dy, g->op->variant, scale);
    if (g->needs[1]) g->dx[1] = DO(g->s, neg, g->dx[0]);
}

/* ---------------------------------------------------------------- compositions */

/* Weights and the reduction of a composed loss. */
static void finish(nnl_define *d, nnl_tensor *loss)
{
    nnl_scope *s = d->s;
    int64_t reduction = d->attr[0].as.i;
    if (d->n_in > WEIGHT && d->in[WEIGHT]) loss = DO(s, mul, loss, d->in[WEIGHT]);
    if (reduction == MEAN) loss = DO(s, mean, loss);
    else if (reduction != NONE) loss = DO(s, sum, loss);
    if (reduction == BATCH_MEAN) loss = nnl_scaled(s, loss, factor(reduction, 1, d->in[0]->ndim, d->in[0]->shape));
    d->out[0] = loss;
}

static nnl_tensor *difference(nnl_define *d) { return DO(d->s, sub, d->in[PREDICTION], d->in[TARGET]); }

/* small where |x| < limit, else large */
static nnl_tensor *choose(nnl_scope *s, nnl_tensor *size, double limit, nnl_tensor *small, nnl_tensor *large)
{
    return DO(s, where, DO(s, lt, size, nnl_number(s, size, limit)), small, large);
}

/* ---------------------------------------------------------------- regression */

static void mse_define(nnl_define *d) { finish(d, DO(d->s, square, difference(d))); }

NNL_OP(mse_loss,
    .sig = "input:real, target:real, reduction:{mean|sum|none}=mean -> same",
    .doc = "(input - target)^2: its mean, its sum or every element.",
    .example = "nn.F.mse_loss(nn.tensor({1, 2}), nn.tensor({1, 4}))",
    .infer = loss_infer,
    .run = loss_run,
    .kernel = NNL_MAP_loss_square,
    .variant = NNL_MAP_loss_square_grad,
    .grad = difference_grad,
    .define = mse_define,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:3x4 target:3x4; input:3x4 target:4 reduction=\"sum\"; input:3x4 target:3x4 reduction=\"none\"",
    .traits = NNL_PROMOTE | NNL_NO_METHOD);

static void l1_define(nnl_define *d) { finish(d, DO(d->s, abs, difference(d))); }

NNL_OP(l1_loss,
    .sig = "input:real, target:real, reduction:{mean|sum|none}=mean -> same",
    .doc = "|input - target|: its mean, its sum or every element.",
    .example = "nn.F.l1_loss(nn.tensor({1, 2}), nn.tensor({1, 4}))",
    .infer = loss_infer,
    .run = loss_run,
    .kernel = NNL_MAP_loss_abs,
    .variant = NNL_MAP_loss_abs_grad,
    .grad = difference_grad,
    .define = l1_define,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:3x4[0.1,1] target:3x4[-1,-0.1]; input:3x4[0.1,1] target:4[-1,-0.1] reduction=\"sum\"; "
              "input:3x4[0.1,1] target:3x4[-1,-0.1] reduction=\"none\"",
    .traits = NNL_PROMOTE | NNL_NO_METHOD);

/* A limit that must be positive, or may be 0. */
static nnl_status check_limit(nnl_call *c, bool zero)
{
    double limit = nnl_value_double(&c->attr[1]);
    if (limit > 0 || (zero && limit == 0)) return loss_infer(c);
    char text[32];
    nnl_format_double(text, sizeof text, limit);
    return nnl_call_fail(c, NNL_EINVAL, "%s is %s, but it must be %s", c->sig->attr[1]->name, text,
                         zero ? "0 or more" : "more than 0");
}

static nnl_status smooth_infer(nnl_call *c) { return check_limit(c, true); }
static nnl_status huber_infer(nnl_call *c) { return check_limit(c, false); }

static void smooth_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    double beta = nnl_value_double(&d->attr[1]);
    nnl_tensor *x = difference(d), *size = DO(s, abs, x);
    if (beta > 0)
        size = choose(s, size, beta, nnl_scaled(s, DO(s, square, x), 0.5 / beta), nnl_shifted(s, size, -0.5 * beta));
    finish(d, size);
}

NNL_OP(smooth_l1_loss,
    .sig = "input:real, target:real, reduction:{mean|sum|none}=mean, beta:num=1 -> same",
    .doc = "With d = input - target: d^2 / (2 beta) where |d| < beta, else |d| - beta / 2; its mean, its sum or every element.",
    .example = "nn.F.smooth_l1_loss(nn.tensor({1, 2}), nn.tensor({1, 4}))",
    .infer = smooth_infer,
    .run = loss_run,
    .kernel = NNL_MAP_loss_smooth,
    .variant = NNL_MAP_loss_smooth_grad,
    .grad = difference_grad,
    .define = smooth_define,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:3x4[0.1,0.4] target:3x4[-0.4,-0.1]; input:3x4[0.6,1] target:3x4[-1,-0.6] reduction=\"sum\"; "
              "input:3x4[0.1,0.4] target:3x4[-0.4,-0.1] reduction=\"none\" beta=2",
    .traits = NNL_PROMOTE | NNL_NO_METHOD);

static void huber_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    double delta = nnl_value_double(&d->attr[1]);
    nnl_tensor *x = difference(d), *size = DO(s, abs, x);
    nnl_tensor *small = nnl_scaled(s, DO(s, square, x), 0.5), *large = nnl_scaled(s, nnl_shifted(s, size, -0.5 * delta), delta);
    finish(d, choose(s, size, delta, small, large));
}

NNL_OP(huber_loss,
    .sig = "input:real, target:real, reduction:{mean|sum|none}=mean, delta:num=1 -> same",
    .doc = "With d = input - target: d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2); its mean, its sum or every element.",
    .example = "nn.F.huber_loss(nn.tensor({1, 2}), nn.tensor({1, 4}))",
    .infer = huber_infer,
    .run = loss_run,
    .kernel = NNL_MAP_loss_huber,
    .variant = NNL_MAP_loss_huber_grad,
    .grad = difference_grad,
    .define = huber_define,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:3x4[0.1,0.4] target:3x4[-0.4,-0.1]; input:3x4[0.6,1] target:3x4[-1,-0.6] reduction=\"sum\"; "
              "input:3x4[0.1,0.4] target:3x4[-0.4,-0.1] reduction=\"none\" delta=2",
    .traits = NNL_PROMOTE | NNL_NO_METHOD);

/* ---------------------------------------------------------------- binary cross entropy */

/* Probabilities that are none, and the first of them. */
static nnl_status check_probabilities(nnl_call *c)
{
    nnl_tensor *x = c->in[PREDICTION], *probabilities;
    nnl_accumulators least, most;
    bool reduced[NNL_MAX_DIMS];
    for (int d = 0; d < x->ndim; d++) reduced[d] = true;
    if (x->numel == 0) return NNL_OK;
    NNL_TRY(nnl_reduce_accumulate(c->rt, NNL_REDUCE_MIN, x, reduced, NULL, false, &least));
    NNL_TRY(nnl_reduce_accumulate(c->rt, NNL_REDUCE_MAX, x, reduced, NULL, false, &most));
    if (*(double *)least.data >= 0 && *(double *)most.data <= 1) return NNL_OK;
    NNL_TRY(dense(x, x->ndim, x->shape, &probabilities));
    int64_t i = 0;
    while (nnl_element_double(probabilities, i) >= 0 && nnl_element_double(probabilities, i) <= 1) i++;
    char value[32], place[NNL_PLACE_TEXT];
    nnl_format_double(value, sizeof value, nnl_element_double(probabilities, i));
    nnl_tensor_unref(probabilities);
    return nnl_call_fail(c, NNL_EINVAL, "input must be probabilities between 0 and 1, but it is %s%s", value,
                         nnl_place_text(place, x, i, c->index_base));
}

static nnl_status bce_run(nnl_call *c)
{
    NNL_TRY(check_probabilities(c));
    return run_loss(c, NNL_MAP_loss_bce);
}

/* log(x), at least -100 (of e^-100), and then with gradient 0 */
static nnl_tensor *clamped_log(nnl_scope *s, nnl_tensor *x)
{
    return DO(s, log, DO(s, clamp_min, x, nnl_number(s, x, 3.720075976020836e-44)));
}

static nnl_tensor *one_minus(nnl_scope *s, nnl_tensor *x) { return nnl_shifted(s, DO(s, neg, x), 1); }

static void bce_grad(nnl_grad *g)
{
    if (g->needs[WEIGHT]) {
        nnl_grad_define(g);
        return;
    }
    double scale;
    nnl_scope *s = g->s;
    nnl_tensor *dy = loss_dy(g, &scale), *x = g->in[PREDICTION];
    if (g->needs[0]) g->dx[0] = loss_dx(g, dy, NNL_MAP_loss_bce_grad, scale);
    if (g->needs[1])
        g->dx[1] = DO(s, mul, nnl_scaled(s, dy, scale), DO(s, sub, clamped_log(s, one_minus(s, x)), clamped_log(s, x)));
}

/* -(t log x + (1 - t) log(1 - x)) */
static void bce_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    nnl_tensor *x = d->in[PREDICTION], *t = d->in[TARGET];
    nnl_tensor *yes = DO(s, mul, t, clamped_log(s, x)), *no = DO(s, mul, one_minus(s, t), clamped_log(s, one_minus(s, x)));
    finish(d, DO(s, neg, DO(s, add, yes, no)));
}

NNL_OP(binary_cross_entropy,
    .sig = "input:real, target:real, weight:real?, reduction:{mean|sum|none}=mean -> same",
    .doc = "-(t log x + (1 - t) log(1 - x)), x being input (probabilities) and t target, times weight; its mean, its sum or "
           "every element.  Logarithms count as -100 at least.",
    .example = "nn.F.binary_cross_entropy(nn.tensor({0.001, 0.999}), nn.tensor({0, 0}), {reduction = \"none\"})",
    .infer = strict_infer,
    .run = bce_run,
    .grad = bce_grad,
    .define = bce_define,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1) | NNL_SAVE_INPUT(2),
    .sample = "input:3x4[0.1,0.9] target:3x4[0,1]; input:3x4[0.1,0.9] target:3x4[0,1] weight:4[0.5,2] reduction=\"sum\"; "
              "input:3x4[0.1,0.9] target:3x4[0,1] reduction=\"none\"",
    .traits = NNL_PROMOTE | NNL_NO_METHOD);

/* (1 - t) x + (1 + (p - 1) t) softplus(-x), p the weight of positive targets */
static nnl_tensor *weighted_logits(nnl_scope *s, nnl_tensor *x, nnl_tensor *t, nnl_tensor *pos_weight)
{
    nnl_tensor *soft = DO(s, neg, DO(s, logsigmoid, x));
    if (pos_weight) soft = DO(s, mul, soft, nnl_shifted(s, DO(s, mul, nnl_shifted(s, pos_weight, -1), t), 1));
    return DO(s, add, DO(s, mul, one_minus(s, t), x), soft);
}

static void logits_define(nnl_define *d)
{
    finish(d, weighted_logits(d->s, d->in[PREDICTION], d->in[TARGET], d->in[POS_WEIGHT]));
}

static nnl_status logits_run(nnl_call *c)
{
    if (!c->in[POS_WEIGHT]) return run_loss(c, NNL_MAP_loss_bce_logits);
    return nnl_run_define(c);
}

/* dx = (sigmoid(x) - t) dy, dt = -x dy; with weights p of positive targets dx = (1 - t - (1 + (p - 1) t) sigmoid(-x)) dy,
 * dt = (-x + (p - 1) softplus(-x)) dy */
static void logits_grad(nnl_grad *g)
{
    if (g->needs[WEIGHT] || g->needs[POS_WEIGHT]) {
        nnl_grad_define(g);
        return;
    }
    double scale;
    nnl_scope *s = g->s;
    nnl_tensor *dy = loss_dy(g, &scale), *x = g->in[PREDICTION], *t = g->in[TARGET], *p = g->in[POS_WEIGHT];
    nnl_tensor *more = p ? nnl_shifted(s, p, -1) : NULL;
    if (g->needs[0] && !p) {
        g->dx[0] = loss_dx(g, dy, NNL_MAP_loss_bce_logits_grad, scale);
    } else if (g->needs[0]) {
        nnl_tensor *soft = DO(s, mul, nnl_shifted(s, DO(s, mul, more, t), 1), DO(s, sigmoid, DO(s, neg, x)));
        g->dx[0] = DO(s, mul, nnl_scaled(s, dy, scale), DO(s, sub, one_minus(s, t), soft));
    }
    if (!g->needs[1]) return;
    nnl_tensor *slope = DO(s, neg, x);
    if (p) slope = DO(s, sub, slope, DO(s, mul, more, DO(s, logsigmoid, x)));
    g->dx[1] = DO(s, mul, nnl_scaled(s, dy, scale), slope);
}

NNL_OP(binary_cross_entropy_with_logits,
    .sig = "input:real, target:real, weight:real?, reduction:{mean|sum|none}=mean, pos_weight:real? -> same",
    .doc = "binary_cross_entropy of sigmoid(input), computed without overflow.  weight multiplies every loss, pos_weight the "
           "part of targets that are 1.",
    .example = "nn.F.binary_cross_entropy_with_logits(nn.tensor({2, -1}), nn.tensor({1, 0}))",
    .infer = strict_infer,
    .run = logits_run,
    .grad = logits_grad,
    .define = logits_define,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1) | NNL_SAVE_INPUT(2) | NNL_SAVE_INPUT(3),
    .sample = "input:3x4 target:3x4[0,1]; input:3x4 target:3x4[0,1] weight:4[0.5,2] reduction=\"sum\"; "
              "input:3x4 target:3x4[0,1] pos_weight:4[0.5,2] reduction=\"none\"",
    .traits = NNL_PROMOTE | NNL_NO_METHOD);

/* ---------------------------------------------------------------- Kullback-Leibler divergence */

static nnl_status kl_run(nnl_call *c) { return run_loss(c, c->attr[1].as.i ? NNL_MAP_loss_kl_log : NNL_MAP_loss_kl); }

/* t log t, 0 where t is 0 */
static nnl_tensor *self_information(nnl_scope *s, nnl_tensor *t)
{
    if (s->status != NNL_OK) return NULL;
    nnl_tensor *valid = DO(s, ne, t, nnl_number(s, t, 0));
    return DO(s, masked, valid, DO(s, mul, t, DO(s, log, DO(s, where, valid, t, nnl_number(s, t, 1)))));
}

static void kl_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    nnl_tensor *x = d->in[PREDICTION], *t = d->in[TARGET];
    if (d->attr[1].as.i) finish(d, DO(s, mul, DO(s, exp, t), DO(s, sub, t, x)));
    else finish(d, DO(s, sub, self_information(s, t), DO(s, mul, t, x)));
}

/* dt = (log t + 1 - x) dy, 0 where t is 0; with log_target e^t (t + 1 - x) dy */
static void kl_grad(nnl_grad *g)
{
    double scale;
    nnl_scope *s = g->s;
    bool log_target = g->attr[1].as.i;
    nnl_tensor *dy = loss_dy(g, &scale), *x = g->in[PREDICTION], *t = g->in[TARGET];
    if (g->needs[0]) g->dx[0] = loss_dx(g, dy, log_target ? NNL_MAP_loss_kl_log_grad : NNL_MAP_loss_kl_grad, scale);
    if (!g->needs[1]) return;
    nnl_tensor *slope;
    if (log_target) {
        slope = DO(s, mul, DO(s, exp, t), nnl_shifted(s, DO(s, sub, t, x), 1));
    } else {
        nnl_tensor *valid = DO(s, ne, t, nnl_number(s, t, 0));
        nnl_tensor *log = DO(s, log, DO(s, where, valid, t, nnl_number(s, t, 1)));
        slope = DO(s, sub, DO(s, masked, valid, nnl_shifted(s, log, 1)), x);
    }
    g->dx[1] = DO(s, mul, nnl_scaled(s, dy, scale), slope);
}

NNL_OP(kl_div,
    .sig = "input:real, target:real, reduction:{mean|sum|none|batchmean}=mean, log_target:flag=false -> same",
    .doc = "The pointwise Kullback-Leibler divergence t (log t - x), x being input (log probabilities) and t target "
           "(probabilities, or with log_target their logarithms); batchmean, the mathematical one, divides the sum by the first "
           "size.",
    .example = "nn.F.kl_div(nn.tensor({{0.2, 0.8}}):log(), nn.tensor({{0.5, 0.5}}), {reduction = \"batchmean\"})",
    .infer = loss_infer,
    .run = kl_run,
    .grad = kl_grad,
    .define = kl_define,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:3x4 target:3x4[0.1,1]; input:3x4 target:3x4 log_target=true reduction=\"sum\"; "
              "input:3x4 target:3x4[0.1,1] reduction=\"batchmean\"; input:3x4 target:3x4[0.1,1] reduction=\"none\"",
    .traits = NNL_PROMOTE | NNL_NO_METHOD);
