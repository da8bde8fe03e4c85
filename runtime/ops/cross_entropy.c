/* Cross entropy from class numbers or probabilities, and the negative log likelihood. */
#include "composed.h"
#include "window.h"

#include <math.h>
#include <string.h>

enum { MEAN, SUM, NONE };
enum { IGNORE, REDUCTION, SMOOTHING }; /* attributes of cross_entropy, and of its backward */

#define TASK 8192 /* elements */

static nnl_dtype type_of(const nnl_tensor *t) { return (nnl_dtype)t->dtype; }

/* ---------------------------------------------------------------- shapes */

/* input is (C) or (N, C, d1, ...): where the classes are */
static int class_dim(int ndim) { return ndim > 1; }

/* Checks target against input and weight; class numbers have no class dimension.  The result's shape, for
 * reduction none, is that of class numbers. */
static nnl_status check_shapes(nnl_call *c, bool probabilities, nnl_spec *numbers)
{
    const nnl_tensor *x = c->in[0], *target = c->in[1], *weight = c->in[2];
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT], text[NNL_SHAPE_TEXT];
    if (x->ndim == 0) return nnl_call_fail(c, NNL_ESHAPE, "input must be C or N x C x ..., but it is 0-d");
    int dim = class_dim(x->ndim);
    numbers->dtype = type_of(x);
    numbers->ndim = 0;
    for (int d = 0; d < x->ndim; d++) {
        if (d != dim) numbers->shape[numbers->ndim++] = x->shape[d];
    }
    if (probabilities && !nnl_same_shape(x, target))
        return nnl_call_fail(c, NNL_ESHAPE, "%s, as probabilities, must have the shape of %s; class numbers are integers, convert them with :to(\"i64\")",
                             nnl_call_input_text(c, 1, a), nnl_call_input_text(c, 0, b));
    if (!probabilities && (target->ndim != numbers->ndim ||
                           memcmp(target->shape, numbers->shape, sizeof(int64_t) * target->ndim) != 0))
        return nnl_call_fail(c, NNL_ESHAPE, "%s must be %s, as %s has its classes in dimension %d",
                             nnl_call_input_text(c, 1, a), nnl_shape_text(text, numbers->ndim, numbers->shape),
                             nnl_call_input_text(c, 0, b), dim + c->index_base);
    if (weight && (weight->ndim != 1 || weight->shape[0] != x->shape[dim]))
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have one element for each of the %lld classes",
                             nnl_call_input_text(c, 2, a), (long long)x->shape[dim]);
    return NNL_OK;
}

/* ---------------------------------------------------------------- labels, weights, rows */

/* Everything about a call that forward and backward both look at. */
typedef struct rows {
    nnl_runtime *rt;
    nnl_dtype dtype;
    int64_t count, classes;
    const char *x;       /* row r begins at x + r step; its elements are adjacent */
    int64_t step;
    nnl_tensor *dense;   /* x in that form, if it was not; else NULL */
    nnl_tensor *labels;  /* i64: from 0, -1 where ignored */
    double *weight;      /* one a class, or NULL */
    double weight_sum;   /* over classes; their number without weights */
    double total;        /* sum of the weights of the labels */
} rows;

static void free_rows(rows *v)
{
    nnl_tensor_unref(v->dense);
    nnl_tensor_unref(v->labels);
    if (v->weight) nnl_free(v->rt, v->weight, (size_t)v->classes * sizeof(double));
}

static int64_t label(const rows *v, int64_t row) { return ((const int64_t *)(const void *)v->labels->data)[row]; }
static double weight_of(const rows *v, int64_t class) { return v->weight ? v->weight[class] : 1; }

static double element(const rows *v, int64_t row, int64_t class)
{
    const char *at = v->x + row * v->step;
    return v->dtype == NNL_F32 ? (double)((const float *)(const void *)at)[class] : ((const double *)(const void *)at)[class];
}

/* x (N, C, d1, ...) as seen with the classes last. */
static nnl_tensor classes_last(const nnl_tensor *x)
{
    int64_t shape[NNL_MAX_DIMS], strides[NNL_MAX_DIMS];
    int dim = class_dim(x->ndim), count = 0;
    for (int d = 0; d < x->ndim; d++) {
        if (d == dim) continue;
        shape[count] = x->shape[d];
        strides[count++] = x->strides[d];
    }
    shape[count] = x->shape[dim];
    strides[count] = x->strides[dim];
    return nnl_window(x, x->data, x->ndim, shape, strides);
}

static nnl_status find_rows(rows *v, const nnl_tensor *x)
{
    int dim = class_dim(x->ndim);
    int64_t width = (int64_t)nnl_dtype_size(type_of(x));
    v->classes = x->shape[dim];
    v->count = 1;
    for (int d = 0; d < x->ndim; d++) v->count *= d == dim ? 1 : x->shape[d];
    v->x = x->data;
    v->step = v->classes * width;
    if (x->ndim <= 2 && (x->strides[dim] == 1 || v->classes == 1)) {
        if (x->ndim == 2) v->step = x->strides[0] * width;
        return NNL_OK;
    }
    nnl_tensor last = classes_last(x);
    NNL_TRY(nnl_copy_new(&last, &v->dense));
    v->x = v->dense->data;
    return NNL_OK;
}

/* Labels from 0, -1 for ignored ones; fails at the first that is no class. */
static nnl_status find_labels(nnl_call *c, rows *v, const nnl_tensor *target)
{
    nnl_spec spec;
    nnl_spec_like(&spec, target);
    spec.dtype = NNL_I64;
    NNL_TRY(nnl_copy_as(&spec, target, &v->labels));
    int64_t *at = (int64_t *)(void *)v->labels->data;
    const nnl_value *ignore = &c->attr[IGNORE];
    bool ignores = nnl_given(ignore);
    int base = c->index_base;
    v->total = 0;
    for (int64_t i = 0; i < v->count; i++) {
        int64_t number = at[i];
        if (ignores && number == ignore->as.i) {
            at[i] = -1;
            continue;
        }
        at[i] = number - base;
        if (number < base || at[i] >= v->classes) {
            char place[NNL_PLACE_TEXT];
            return nnl_call_fail(c, NNL_EINDEX, "target is %lld%s, but the classes are %d to %lld%s", (long long)number,
                                 nnl_place_text(place, target, i, base), base, (long long)(v->classes - 1 + base),
                                 base == 1 && number == 0 ? "; labels that count from 0 become labels + 1" : "");
        }
        v->total += weight_of(v, at[i]);
    }
    return NNL_OK;
}

static nnl_status find_weights(rows *v, const nnl_tensor *weight)
{
    v->weight_sum = (double)v->classes;
    if (!weight) return NNL_OK;
    void *block;
    NNL_TRY(nnl_alloc(v->rt, (size_t)v->classes * sizeof(double), &block));
    v->weight = block;
    v->weight_sum = 0;
    for (int64_t k = 0; k < v->classes; k++)
        v->weight_sum += v->weight[k] = nnl_element_double(weight, k * weight->strides[0]);
    return NNL_OK;
}

/* x, target, weight of a call; its attributes begin with ignore_index. */
static nnl_status open_rows(nnl_call *c, rows *v, nnl_tensor *x, nnl_tensor *target, nnl_tensor *weight)
{
    *v = (rows){.rt = c->rt, .dtype = type_of(x), .classes = x->shape[class_dim(x->ndim)]};
    nnl_status status = find_weights(v, weight);
    if (status == NNL_OK) {
        v->count = target->numel;
        status = find_labels(c, v, target);
    }
    if (status == NNL_OK) status = find_rows(v, x);
    if (status != NNL_OK) free_rows(v);
    return status;
}

/* Calls task for groups of rows. */
static int64_t group_of(const rows *v) { return NNL_MAX(1, TASK / NNL_MAX(v->classes, 1)); }

static nnl_status each_group(const rows *v, void (*task)(void *context, int64_t i), void *context)
{
    int64_t tasks = (v->count + group_of(v) - 1) / group_of(v);
    if (v->count * v->classes > nnl_serial_work(v->rt) / 4) return nnl_parallel(v->rt, tasks, task, context);
    for (int64_t i = 0; i < tasks; i++) task(context, i);
    return NNL_OK;
}

/* ---------------------------------------------------------------- cross entropy, forward */

static nnl_status cross_entropy_infer(nnl_call *c)
{
    nnl_dtype target = type_of(c->in[1]);
    bool probabilities = nnl_is_float(target);
    nnl_spec numbers;
    double smoothing = nnl_value_double(&c->attr[SMOOTHING]);
    if (target == NNL_BOOL) return nnl_call_fail(c, NNL_ETYPE, "target must be class numbers of an integer type or probabilities, but it is bool");
    if (!(smoothing >= 0 && smoothing <= 1)) {
        char text[32];
        nnl_format_double(text, sizeof text, smoothing);
        return nnl_call_fail(c, NNL_EINVAL, "label_smoothing is %s, but it must be between 0 and 1", text);
    }
    if (probabilities && nnl_given(&c->attr[IGNORE]))
        return nnl_call_fail(c, NNL_EINVAL, "ignore_index means nothing for probabilities");
    NNL_TRY(check_shapes(c, probabilities, &numbers));
    nnl_spec_set(&c->spec[0], type_of(c->in[0]), c->attr[REDUCTION].as.i == NONE ? numbers.ndim : 0, numbers.shape);
    if (probabilities) return nnl_call_results(c, 1);
    nnl_spec_set(&c->spec[1], NNL_F64, numbers.ndim, numbers.shape);
    return NNL_OK;
}

typedef struct forward {
    const rows *v;
    double *lse;
} forward;

static void forward_task(void *context, int64_t i)
{
    const forward *f = context;
    const rows *v = f->v;
    int64_t first = i * group_of(v), count = NNL_MIN(group_of(v), v->count - first);
    v->rt->kernels->logsumexp_rows((int)v->dtype, f->lse + first, v->x + first * v->step, v->step, count, v->classes);
}

/* w_y (1 - s) (lse - x_y) + s / C sum over classes of w_c (lse - x_c) */
static double row_loss(const rows *v, int64_t row, double lse, double smoothing)
{
    int64_t y = label(v, row);
    if (y < 0) return 0;
    double loss = (1 - smoothing) * weight_of(v, y) * (lse - element(v, row, y));
    if (smoothing == 0) return loss;
    double spread = 0;
    for (int64_t k = 0; k < v->classes; k++) spread += weight_of(v, k) * (lse - element(v, row, k));
    return loss + smoothing / (double)v->classes * spread;
}

static void set_element(nnl_tensor *t, int64_t i, double value)
{
    if (t->dtype == NNL_F32) ((float *)(void *)t->data)[i] = (float)value;
    else ((double *)(void *)t->data)[i] = value;
}

static nnl_status run_numbers(nnl_call *c)
{
    rows v;
    NNL_TRY(open_rows(c, &v, c->in[0], c->in[1], c->in[2]));
    forward f = {.v = &v, .lse = (double *)(void *)c->out[1]->data};
    nnl_status status = each_group(&v, forward_task, &f);
    if (status == NNL_OK) {
        int64_t reduction = c->attr[REDUCTION].as.i;
        double smoothing = nnl_value_double(&c->attr[SMOOTHING]), sum = 0;
        for (int64_t r = 0; r < v.count; r++) {
            double loss = row_loss(&v, r, f.lse[r], smoothing);
            if (reduction == NONE) set_element(c->out[0], r, loss);
            sum += loss;
        }
        if (reduction != NONE) set_element(c->out[0], 0, reduction == MEAN ? sum / v.total : sum);
    }
    free_rows(&v);
    return status;
}

static nnl_status cross_entropy_run(nnl_call *c)
{
    return nnl_is_float(type_of(c->in[1])) ? nnl_run_define(c) : run_numbers(c);
}

/* ---------------------------------------------------------------- cross entropy, backward */

typedef struct backward {
    const rows *v;
    const double *lse, *scale; /* scale: of the probabilities of a row */
    const double *dy;          /* of the row's loss */
    char *dx;                  /* dense rows */
    double smoothing;
} backward;

static void add_to(const rows *v, char *dx, int64_t row, int64_t class, double value)
{
    if (v->dtype == NNL_F32) {
        float *at = (float *)(void *)dx + row * v->classes + class;
        *at = (float)((double)*at + value);
    } else {
        ((double *)(void *)dx)[row * v->classes + class] += value;
    }
}

/* dx_c = dy (p_c (w_y (1 - s) + s / C sum of w) - [c = y] w_y (1 - s) - s / C w_c) */
static void backward_task(void *context, int64_t i)
{
    const backward *b = context;
    const rows *v = b->v;
    int64_t first = i * group_of(v), count = NNL_MIN(group_of(v), v->count - first);
    int64_t out_step = v->classes * (int64_t)nnl_dtype_size(v->dtype);
    v->rt->kernels->probability_rows((int)v->dtype, b->dx + first * out_step, v->x + first * v->step, v->step,
                                     b->lse + first, b->scale + first, count, v->classes);
    for (int64_t r = first; r < first + count; r++) {
        int64_t y = label(v, r);
        if (y < 0) continue;
        add_to(v, b->dx, r, y, -b->dy[r] * (1 - b->smoothing) * weight_of(v, y));
        if (b->smoothing == 0) continue;
        for (int64_t k = 0; k < v->classes; k++)
            add_to(v, b->dx, r, k, -b->dy[r] * b->smoothing / (double)v->classes * weight_of(v, k));
    }
}

/* The gradient of every row's loss, and what its probabilities are multiplied with. */
static void find_scales(const rows *v, const nnl_tensor *dy, int64_t reduction, double smoothing, double *scale, double *row_dy)
{
    double one = reduction == NONE ? 0 : nnl_element_double(dy, 0);
    if (reduction == MEAN) one /= v->total;
    for (int64_t r = 0; r < v->count; r++) {
        int64_t y = label(v, r);
        row_dy[r] = reduction == NONE ? ((const double *)(const void *)dy->data)[r] : one;
        scale[r] = y < 0 ? 0 : row_dy[r] * ((1 - smoothing) * weight_of(v, y) + smoothing / (double)v->classes * v->weight_sum);
    }
}

static nnl_status cross_entropy_backward_infer(nnl_call *c)
{
    nnl_spec_like(&c->spec[0], c->in[1]);
    return NNL_OK;
}

static nnl_status run_backward(nnl_call *c, rows *v)
{
    nnl_tensor *x = c->in[1], *out = c->out[0], *dense = out;
    nnl_tensor last = classes_last(out);
    nnl_spec spec;
    void *block;
    size_t bytes = (size_t)v->count * 2 * sizeof(double);
    NNL_TRY(nnl_alloc(v->rt, bytes, &block));
    double smoothing = nnl_value_double(&c->attr[SMOOTHING]);
    double *scale = block, *row_dy = scale + v->count;
    find_scales(v, c->in[0], c->attr[REDUCTION].as.i, smoothing, scale, row_dy);
    nnl_status status = NNL_OK;
    if (x->ndim > 2) {
        nnl_spec_like(&spec, &last);
        status = nnl_tensor_make(v->rt, &spec, NULL, &dense);
    }
    if (status == NNL_OK) {
        backward b = {.v = v, .lse = (const double *)(const void *)c->in[3]->data, .scale = scale, .dy = row_dy,
                      .dx = dense->data, .smoothing = smoothing};
        status = each_group(v, backward_task, &b);
        if (status == NNL_OK && dense != out) status = nnl_copy(&last, dense);
        if (dense != out) nnl_tensor_unref(dense);
    }
    nnl_free(v->rt, block, bytes);
    return status;
}

static nnl_status cross_entropy_backward_run(nnl_call *c)
{
    rows v;
    NNL_TRY(open_rows(c, &v, c->in[1], c->in[2], c->in[4]));
    nnl_status status = run_backward(c, &v);
    free_rows(&v);
    return status;
}

NNL_OP(cross_entropy_backward,
    .sig = "dy:float, input:float, target:any, lse:any, weight:float?, ignore_index:int?, "
           "reduction:{mean|sum|none}=mean, label_smoothing:num=0 -> same",
    .doc = "The gradient of cross_entropy from class numbers; dy is f64 and dense with reduction none.",
    .infer = cross_entropy_backward_infer,
    .run = cross_entropy_backward_run,
    NNL_NO_GRAD("second derivatives go by the composition"),
    .traits = NNL_HIDDEN);

/* ---------------------------------------------------------------- cross entropy as a composition */

static nnl_tensor *reduced(nnl_scope *s, nnl_tensor *loss, int64_t reduction)
{
    return reduction == NONE ? loss : reduction == SUM ? DO(s, sum, loss) : DO(s, mean, loss);
}

static nnl_value class_value(const nnl_tensor *x) { return V_INT(class_dim(x->ndim)); }

/* weight as a tensor that broadcasts with x (N, C, d1, ...). */
static nnl_tensor *weight_like(nnl_scope *s, nnl_tensor *weight, const nnl_tensor *x)
{
    int64_t shape[NNL_MAX_DIMS];
    for (int d = 0; d < x->ndim; d++) shape[d] = d == class_dim(x->ndim) ? x->shape[d] : 1;
    return nnl_converted(s, nnl_reshaped(s, weight, x->ndim, shape), type_of(x));
}

/* minus the sum over classes, dimension dim, of w_c a_c */
static nnl_tensor *class_loss(nnl_scope *s, nnl_tensor *a, nnl_tensor *weight, nnl_value dim)
{
    if (weight) a = DO(s, mul, a, weight);
    return DO(s, neg, nnl_sum_dims(s, a, &dim, false));
}

static void from_probabilities(nnl_define *d, nnl_tensor *logp, nnl_tensor *weight)
{
    nnl_scope *s = d->s;
    double smoothing = nnl_value_double(&d->attr[SMOOTHING]), classes = (double)d->in[0]->shape[class_dim(d->in[0]->ndim)];
    nnl_tensor *target = nnl_converted(s, d->in[1], type_of(d->in[0]));
    if (smoothing > 0) target = nnl_shifted(s, nnl_scaled(s, target, 1 - smoothing), smoothing / classes);
    nnl_tensor *loss = class_loss(s, DO(s, mul, logp, target), weight, class_value(d->in[0]));
    d->out[0] = reduced(s, loss, d->attr[REDUCTION].as.i);
}

/* The elements of a (N, C, d1, ...) at the labels; a label that is ignored takes part as the first class. */
typedef struct picked {
    nnl_tensor *labels, *counts; /* counts: 1, or 0 where ignored; NULL where nothing can be */
} picked;

static nnl_tensor *integer(nnl_scope *s, int64_t value)
{
    nnl_tensor *t;
    if (s->status != NNL_OK) return NULL;
    nnl_status status = nnl_tensor_scalar(s->rt, NNL_I64, V_INT(value), &t);
    if (status == NNL_OK) return nnl_keep(s, t);
    nnl_scope_fail(s, status);
    return NULL;
}

static picked pick_labels(nnl_scope *s, nnl_tensor *target, const nnl_value *ignore, nnl_dtype dtype)
{
    picked p = {.labels = nnl_converted(s, target, NNL_I64)};
    if (!nnl_given(ignore) || s->status != NNL_OK) return p;
    nnl_tensor *valid = DO(s, ne, p.labels, integer(s, ignore->as.i)), *first = integer(s, s->index_base);
    p.labels = DO(s, where, valid, p.labels, first);
    p.counts = nnl_converted(s, valid, dtype);
    return p;
}

/* a (N, C, d1, ...), which broadcasts to like's shape, at the labels (N, d1, ...). */
static nnl_tensor *at_labels(nnl_scope *s, nnl_tensor *a, const nnl_tensor *like, nnl_tensor *labels)
{
    if (s->status != NNL_OK) return NULL;
    int64_t shape[NNL_MAX_DIMS];
    int dim = class_dim(like->ndim);
    for (int d = 0; d < like->ndim; d++) shape[d] = d == dim ? 1 : like->shape[d];
    if (!nnl_same_shape(a, like)) a = nnl_expanded(s, a, like->ndim, like->shape);
    nnl_tensor *picks = DO_WITH(s, gather, (V_INT(dim)), a, nnl_reshaped(s, labels, like->ndim, shape));
    return nnl_reshaped(s, picks, labels->ndim, labels->shape);
}

/* -w_y a_y for every label y, and in *weights what its mean is divided by, or NULL. */
static nnl_tensor *label_loss(nnl_scope *s, nnl_tensor *a, nnl_tensor *weight, const picked *p, nnl_tensor **weights)
{
    nnl_tensor *loss = DO(s, neg, at_labels(s, a, a, p->labels));
    *weights = p->counts;
    if (weight && s->status == NNL_OK) {
        *weights = at_labels(s, weight, a, p->labels);
        if (p->counts) *weights = DO(s, mul, *weights, p->counts);
    }
    return *weights ? DO(s, mul, loss, *weights) : loss;
}

/* Where nothing has weight the mean is NaN, but pulls at nothing. */
static nnl_tensor *weighted_mean(nnl_scope *s, nnl_tensor *loss, nnl_tensor *weights)
{
    if (!weights) return DO(s, mean, loss);
    nnl_tensor *total = DO(s, sum, weights), *none = DO(s, eq, total, nnl_number(s, total, 0));
    nnl_tensor *mean = DO(s, div, DO(s, sum, loss), DO(s, where, none, nnl_number(s, total, 1), total));
    return DO(s, where, none, nnl_number(s, total, NAN), mean);
}

static void cross_entropy_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    nnl_tensor *x = d->in[0], *weight = d->in[2] ? weight_like(s, d->in[2], x) : NULL, *weights;
    nnl_tensor *logp = DO_WITH(s, log_softmax, (class_value(x)), x);
    if (s->status != NNL_OK) return;
    if (nnl_is_float(type_of(d->in[1]))) {
        from_probabilities(d, logp, weight);
        return;
    }
    double smoothing = nnl_value_double(&d->attr[SMOOTHING]), classes = (double)x->shape[class_dim(x->ndim)];
    picked p = pick_labels(s, d->in[1], &d->attr[IGNORE], type_of(x));
    nnl_tensor *loss = label_loss(s, logp, weight, &p, &weights);
    if (smoothing > 0) {
        nnl_tensor *spread = class_loss(s, logp, weight, class_value(x));
        if (p.counts) spread = DO(s, mul, spread, p.counts);
        loss = DO(s, add, nnl_scaled(s, loss, 1 - smoothing), nnl_scaled(s, spread, smoothing / classes));
    }
    int64_t reduction = d->attr[REDUCTION].as.i;
    d->out[0] = reduction == MEAN ? weighted_mean(s, loss, weights) : reduced(s, loss, reduction);
}

/* With t the smoothed target: dx = (p sum(w t) - w t) dy, dt = -(1 - s) w log p dy. */
static void probabilities_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    nnl_tensor *x = g->in[0], *target = nnl_converted(s, g->in[1], type_of(x)), *dy = g->dy[0];
    int dim = class_dim(x->ndim);
    double smoothing = nnl_value_double(&g->attr[SMOOTHING]), classes = (double)x->shape[dim];
    nnl_tensor *weight = g->in[2] ? weight_like(s, g->in[2], x) : NULL;
    const nnl_value dims = class_value(x);
    if (g->attr[REDUCTION].as.i == MEAN) dy = nnl_scaled(s, dy, classes / (double)x->numel);
    if (g->attr[REDUCTION].as.i == NONE) dy = nnl_unreduced(s, dy, &dims, false, x->ndim, x->shape);
    if (g->needs[0]) {
        if (smoothing > 0) target = nnl_shifted(s, nnl_scaled(s, target, 1 - smoothing), smoothing / classes);
        if (weight) target = DO(s, mul, target, weight);
        nnl_tensor *p = DO_WITH(s, softmax, (class_value(x)), x);
        nnl_tensor *pull = DO(s, mul, p, nnl_sum_dims(s, target, &dims, true));
        g->dx[0] = DO(s, mul, DO(s, sub, pull, target), dy);
    }
    if (g->needs[1]) {
        nnl_tensor *logp = DO_WITH(s, log_softmax, (class_value(x)), x);
        if (weight) logp = DO(s, mul, logp, weight);
        g->dx[1] = DO(s, mul, nnl_scaled(s, logp, smoothing - 1), dy);
    }
}

static void cross_entropy_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    if (g->needs[2]) {
        nnl_grad_define(g);
        return;
    }
    if (nnl_is_float((nnl_dtype)g->in_layout[1].dtype)) {
        probabilities_grad(g);
        return;
    }
    if (!g->dy[0]) return;
    nnl_tensor *dy = g->dy[0];
    if (g->attr[REDUCTION].as.i == NONE) dy = DO(s, contiguous, nnl_converted(s, dy, NNL_F64));
    g->dx[0] = DO_WITH(s, cross_entropy_backward, (g->attr[IGNORE], g->attr[REDUCTION], g->attr[SMOOTHING]), dy, g->in[0],
                       g->in[1], g->out[1], g->in[2]);
}

NNL_OP(cross_entropy,
    .sig = "input:real, target:any, weight:float?, ignore_index:int?, reduction:{mean|sum|none}=mean, "
           "label_smoothing:num=0 -> same, lse:f64!",
    .doc = "-log softmax(input) at the target's class.  input is C or N x C x d1 x ...; target holds class numbers of an "
           "integer type (0-d or N x d1 x ...) or probabilities of input's shape.  weight: one a class, by which also the "
           "mean is taken.  Targets equal to ignore_index count for nothing.  label_smoothing s mixes the target with s / C "
           "for every class.",
    .example = "nn.F.cross_entropy(nn.tensor({{2, 1, 0}, {0, 1, 3}}), nn.tensor({1, 3}, \"i64\"))",
    .infer = cross_entropy_infer,
    .run = cross_entropy_run,
    .grad = cross_entropy_grad,
    .define = cross_entropy_define,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1) | NNL_SAVE_INPUT(2) | NNL_SAVE_OUTPUT(1),
    .sample = "input:3x4 target:3<4>; input:3x4 target:3<4> reduction=\"sum\" label_smoothing=0.1; "
              "input:2x3x4 target:2x4<3> weight:3[0.5,2] reduction=\"none\"; input:3x4 target:3x4[0.1,1] label_smoothing=0.2",
    .traits = NNL_NO_METHOD);

/* ---------------------------------------------------------------- negative log likelihood */

static nnl_status nll_infer(nnl_call *c)
{
    nnl_spec numbers;
    NNL_TRY(check_shapes(c, false, &numbers));
    nnl_spec_set(&c->spec[0], type_of(c->in[0]), c->attr[REDUCTION].as.i == NONE ? numbers.ndim : 0, numbers.shape);
    return NNL_OK;
}

static nnl_status nll_run(nnl_call *c)
{
    rows v;
    int64_t reduction = c->attr[REDUCTION].as.i;
    double sum = 0;
    NNL_TRY(open_rows(c, &v, c->in[0], c->in[1], c->in[2]));
    for (int64_t r = 0; r < v.count; r++) {
        int64_t y = label(&v, r);
        double loss = y < 0 ? 0 : -weight_of(&v, y) * element(&v, r, y);
        if (reduction == NONE) set_element(c->out[0], r, loss);
        sum += loss;
    }
    if (reduction != NONE) set_element(c->out[0], 0, reduction == MEAN ? sum / v.total : sum);
    free_rows(&v);
    return NNL_OK;
}

static nnl_status nll_backward_run(nnl_call *c)
{
    rows v;
    nnl_tensor *dy = c->in[0], *out = c->out[0], last = classes_last(out);
    int64_t reduction = c->attr[REDUCTION].as.i, place[NNL_MAX_DIMS];
    NNL_TRY(nnl_fill(out, V_INT(0)));
    NNL_TRY(open_rows(c, &v, c->in[1], c->in[2], c->in[3]));
    double one = reduction == NONE ? 0 : nnl_element_double(dy, 0) / (reduction == MEAN ? v.total : 1);
    for (int64_t r = 0; r < v.count; r++) {
        int64_t y = label(&v, r), rest = r, from = 0, to = 0;
        if (y < 0) continue;
        for (int d = last.ndim - 2; d >= 0; d--) {
            place[d] = rest % last.shape[d];
            rest /= last.shape[d];
            to += place[d] * last.strides[d];
            if (reduction == NONE) from += place[d] * dy->strides[d];
        }
        double each = reduction == NONE ? nnl_element_double(dy, from) : one;
        set_element(out, to + y * last.strides[last.ndim - 1], -weight_of(&v, y) * each);
    }
    free_rows(&v);
    return NNL_OK;
}

NNL_OP(nll_loss_backward,
    .sig = "dy:float, input:float, target:any, weight:float?, ignore_index:int?, reduction:{mean|sum|none}=mean -> same",
    .doc = "The gradient of nll_loss.",
    .infer = cross_entropy_backward_infer,
    .run = nll_backward_run,
    NNL_NO_GRAD("second derivatives go by the composition"),
    .traits = NNL_HIDDEN);

static void nll_grad(nnl_grad *g)
{
    if (g->needs[2]) {
        nnl_grad_define(g);
        return;
    }
    g->dx[0] = DO_WITH(g->s, nll_loss_backward, (g->attr[IGNORE], g->attr[REDUCTION]), g->dy[0], g->in[0], g->in[1], g->in[2]);
}

static void nll_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    nnl_tensor *x = d->in[0], *weight = d->in[2] ? weight_like(s, d->in[2], x) : NULL, *weights;
    picked p = pick_labels(s, d->in[1], &d->attr[IGNORE], type_of(x));
    nnl_tensor *loss = label_loss(s, x, weight, &p, &weights);
    int64_t reduction = d->attr[REDUCTION].as.i;
    d->out[0] = reduction == MEAN ? weighted_mean(s, loss, weights) : reduced(s, loss, reduction);
}

NNL_OP(nll_loss,
    .sig = "input:real, target:index, weight:float?, ignore_index:int?, reduction:{mean|sum|none}=mean -> same",
    .doc = "-input at the target's class; input holds log probabilities, C or N x C x d1 x ..., target class numbers, 0-d or "
           "N x d1 x ...  weight: one a class, by which also the mean is taken.  Targets equal to ignore_index count for nothing.",
    .example = "nn.F.nll_loss(nn.tensor({{2, 1, 0}, {0, 1, 3}}):log_softmax(2), {1, 3})",
    .infer = nll_infer,
    .run = nll_run,
    .grad = nll_grad,
    .define = nll_define,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1) | NNL_SAVE_INPUT(2),
    .sample = "input:3x4 target:3<4>; input:3x4 target:3<4> reduction=\"sum\"; "
              "input:2x3x4 target:2x4<3> weight:3[0.5,2] reduction=\"none\"",
    .traits = NNL_NO_METHOD);
