/* Batch normalisation.  batch_norm is a composition of hidden ops: one that normalises by the batch's statistics or one
 * that uses running ones, and one that moves the running ones on once everything else has succeeded. */
#include "composed.h"
#include "image.h"

#include <math.h>
#include <string.h>

#define TASK 16384 /* elements */
#define MAX_CHUNKS 64
#define TILE 64    /* columns that few channels are repeated to: neighbouring places fill a vector */

/* ---------------------------------------------------------------- how images are split */

/* Images as a matrix.  last: rows of n elements, tile places with all their channels, and then perhaps a shorter
 * one; else a row for each sample and channel. */
typedef struct images {
    nnl_runtime *rt;
    int dtype;
    bool last;
    int64_t width, batch, channels, places, numel;
    int64_t rows, n, tail;
    int64_t per_chunk, chunks; /* rows, or samples, that are summed up together; the tail is a chunk of its own */
    int64_t group, groups;     /* not last: channels of a task */
} images;

static void split(images *m, const nnl_tensor *x)
{
    *m = (images){.rt = x->rt, .dtype = x->dtype, .last = nnl_lies_channels_last(x), .numel = x->numel,
                  .width = (int64_t)nnl_dtype_size((nnl_dtype)x->dtype), .batch = x->shape[0], .channels = x->shape[1], .places = 1};
    for (int d = 2; d < x->ndim; d++) m->places *= x->shape[d];
    if (m->numel == 0) return;
    if (m->last) {
        int64_t all = m->batch * m->places, tile = NNL_MIN(all, NNL_MAX(1, TILE / m->channels));
        m->n = tile * m->channels;
        m->rows = all / tile;
        m->tail = all % tile * m->channels;
        m->per_chunk = NNL_MAX(NNL_MAX(1, TASK / m->n), (m->rows + MAX_CHUNKS - 1) / MAX_CHUNKS);
        m->chunks = (m->rows + m->per_chunk - 1) / m->per_chunk + (m->tail > 0);
        return;
    }
    m->n = m->channels;
    m->rows = m->batch * m->channels;
    m->per_chunk = NNL_MAX(NNL_MAX(1, TASK / m->places), (m->batch + MAX_CHUNKS - 1) / MAX_CHUNKS);
    m->chunks = (m->batch + m->per_chunk - 1) / m->per_chunk;
    m->group = NNL_MAX(1, TASK / (NNL_MIN(m->per_chunk, m->batch) * m->places));
    m->groups = (m->channels + m->group - 1) / m->group;
}

static nnl_status each_task(const images *m, int64_t count, void (*task)(void *context, int64_t i), void *context)
{
    if (m->numel > NNL_SERIAL_WORK) return nnl_parallel(m->rt, count, task, context);
    for (int64_t i = 0; i < count; i++) task(context, i);
    return NNL_OK;
}

/* What a task of sums covers: chunk, and rows from first on. */
typedef struct part {
    int64_t chunk, first, rows, columns; /* last */
    int64_t channel, channels;           /* else: of the samples first .. first + rows */
} part;

static part part_of(const images *m, int64_t task)
{
    part p = {.chunk = m->last ? task : task / m->groups};
    p.first = p.chunk * m->per_chunk;
    p.rows = NNL_MIN(m->per_chunk, (m->last ? m->rows : m->batch) - p.first);
    p.columns = m->n;
    if (!m->last) {
        p.channel = task % m->groups * m->group;
        p.channels = NNL_MIN(m->group, m->channels - p.channel);
    } else if (m->tail && p.chunk == m->chunks - 1) {
        p.first = m->rows;
        p.rows = 1;
        p.columns = m->tail;
    }
    return p;
}

static part chunk_of(const images *m, int64_t chunk) { return part_of(m, m->last ? chunk : chunk * m->groups); }

static int64_t sum_tasks(const images *m) { return m->last ? m->chunks : m->chunks * m->groups; }

static double per_channel(const images *m) { return (double)m->batch * (double)m->places; }

/* Memory of a call: two numbers for every column of every chunk, two a channel, and the kernels' constants. */
enum { CENTER, SCALE, SHIFT, SLOPE, REST, CONSTANTS };

typedef struct scratch {
    double *first, *second;            /* [chunks][n] */
    double *total, *center;            /* [n] */
    double *sum, *product;             /* [channels] */
    char *constant[CONSTANTS];         /* [n] elements each */
    void *block;
    size_t bytes;
} scratch;

static nnl_status open_scratch(const images *m, scratch *s)
{
    size_t parts = (size_t)m->chunks * (size_t)m->n, channels = (size_t)m->channels, n = NNL_MAX((size_t)m->n, channels);
    s->bytes = (2 * parts + 2 * channels + (2 + CONSTANTS) * n) * sizeof(double);
    NNL_TRY(nnl_alloc(m->rt, s->bytes, &s->block));
    s->first = s->block;
    s->second = s->first + parts;
    s->total = s->second + parts;
    s->center = s->total + n;
    s->sum = s->center + n;
    s->product = s->sum + channels;
    for (int i = 0; i < CONSTANTS; i++) s->constant[i] = (char *)(s->product + channels) + (size_t)i * n * sizeof(double);
    return NNL_OK;
}

static void put(int dtype, void *to, int64_t i, double value)
{
    if (dtype == NNL_F32) ((float *)to)[i] = (float)value;
    else ((double *)to)[i] = value;
}

/* A channel's constant in all of its columns. */
static void set_constant(const images *m, char *to, int64_t channel, double value)
{
    for (int64_t j = channel; j < NNL_MAX(m->n, m->channels); j += m->channels) put(m->dtype, to, j, value);
}

/* out[channel] = the sum of its columns in s->total. */
static void fold_columns(const images *m, const scratch *s, double *out)
{
    for (int64_t c = 0; c < m->channels; c++) {
        out[c] = 0;
        for (int64_t j = c; j < m->n; j += m->channels) out[c] += s->total[j];
    }
}

/* out[channel] = sum over chunks and columns, always in the same order. */
static void add_parts(const images *m, scratch *s, const double *from, double *out)
{
    memset(s->total, 0, (size_t)m->n * sizeof(double));
    for (int64_t chunk = 0; chunk < m->chunks; chunk++, from += m->n) {
        int64_t columns = chunk_of(m, chunk).columns;
        for (int64_t j = 0; j < columns; j++) s->total[j] += from[j];
    }
    fold_columns(m, s, out);
}

/* ---------------------------------------------------------------- statistics of the batch */

typedef struct pass {
    const images *m;
    const char *x, *dy;
    char *out;
    scratch *s;
    nnl_batch_norm constants;
    bool backward;
    int64_t rows_per_task;
} pass;

static void moments_task(void *context, int64_t task)
{
    const pass *p = context;
    const images *m = p->m;
    const nnl_kernels *k = m->rt->kernels;
    part t = part_of(m, task);
    double *mean = p->s->first + t.chunk * m->n, *m2 = p->s->second + t.chunk * m->n;
    if (m->last) {
        k->moments_columns(m->dtype, mean, m2, p->x + t.first * m->n * m->width, t.rows, t.columns);
        return;
    }
    int64_t row = m->places * m->width, step = m->channels * row;
    for (int64_t c = t.channel; c < t.channel + t.channels; c++)
        k->moments_rows(m->dtype, mean + c, m2 + c, p->x + t.first * step + c * row, step, t.rows, m->places);
}

/* Mean and variance from those of the parts: Chan, Golub and LeVeque, The American Statistician 37 (1983). */
static nnl_status find_moments(const images *m, scratch *s, const char *x, double *mean, double *var)
{
    pass p = {.m = m, .x = x, .s = s};
    NNL_TRY(each_task(m, sum_tasks(m), moments_task, &p));
    double count = per_channel(m), places = m->last ? 1 : (double)m->places;
    memset(s->total, 0, (size_t)m->n * sizeof(double));
    for (int64_t chunk = 0; chunk < m->chunks; chunk++) {
        part t = chunk_of(m, chunk);
        const double *part_mean = s->first + chunk * m->n;
        for (int64_t j = 0; j < t.columns; j++) s->total[j] += (double)t.rows * places * part_mean[j];
    }
    fold_columns(m, s, mean);
    for (int64_t c = 0; c < m->channels; c++) {
        mean[c] /= NNL_MAX(1, count);
        for (int64_t j = c; j < m->n; j += m->channels) s->center[j] = mean[c];
    }
    memset(s->total, 0, (size_t)m->n * sizeof(double));
    for (int64_t chunk = 0; chunk < m->chunks; chunk++) {
        part t = chunk_of(m, chunk);
        const double *part_mean = s->first + chunk * m->n, *m2 = s->second + chunk * m->n;
        for (int64_t j = 0; j < t.columns; j++) {
            double off = part_mean[j] - s->center[j];
            s->total[j] += m2[j] + (double)t.rows * places * off * off;
        }
    }
    fold_columns(m, s, var);
    for (int64_t c = 0; c < m->channels; c++) var[c] = NNL_MAX(0, var[c] / NNL_MAX(1, count));
    return NNL_OK;
}

/* ---------------------------------------------------------------- the passes over all elements */

static void rows_task(void *context, int64_t task)
{
    const pass *p = context;
    const images *m = p->m;
    const nnl_kernels *k = m->rt->kernels;
    int64_t first = task * p->rows_per_task, end = NNL_MIN(first + p->rows_per_task, m->rows);
    while (!m->last && first < end) { /* the channels of one sample at a time */
        int64_t channel = first % m->channels, count = NNL_MIN(end - first, m->channels - channel);
        int64_t at = first * m->places * m->width, skip = channel * m->width;
        nnl_batch_norm own = p->constants;
        const void **field[] = {&own.center, &own.scale, &own.shift, &own.slope, &own.rest};
        for (size_t i = 0; i < NNL_COUNT(field); i++) *field[i] = *field[i] ? (const char *)*field[i] + skip : NULL;
        if (p->backward) k->batch_norm_back_rows(&own, m->dtype, p->out + at, p->dy + at, p->x + at, count, m->places);
        else k->batch_norm_rows(&own, m->dtype, p->out + at, p->x + at, count, m->places);
        first += count;
    }
    if (!m->last) return;
    int64_t at = first * m->n * m->width, behind = m->rows * m->n * m->width;
    bool tail = m->tail && end == m->rows;
    if (p->backward) {
        k->batch_norm_back_columns(&p->constants, m->dtype, p->out + at, p->dy + at, p->x + at, end - first, m->n);
        if (tail) k->batch_norm_back_columns(&p->constants, m->dtype, p->out + behind, p->dy + behind, p->x + behind, 1, m->tail);
    } else {
        k->batch_norm_columns(&p->constants, m->dtype, p->out + at, p->x + at, end - first, m->n);
        if (tail) k->batch_norm_columns(&p->constants, m->dtype, p->out + behind, p->x + behind, 1, m->tail);
    }
}

static nnl_status run_rows(pass *p)
{
    const images *m = p->m;
    p->rows_per_task = NNL_MAX(1, TASK / (m->last ? m->n : m->places));
    return each_task(m, (m->rows + p->rows_per_task - 1) / p->rows_per_task, rows_task, p);
}

static double element_of(const nnl_tensor *t, int64_t channel, double absent)
{
    return t ? nnl_element_double(t, channel * t->strides[0]) : absent;
}

/* A channel's center, scale and shift in y = (x - center) scale + shift; what the center loses by rounding goes into the
 * shift. */
static void channel_constants(int dtype, double mean, double var, double weight, double bias, double eps, double constant[3])
{
    double center = dtype == NNL_F32 ? (double)(float)mean : mean, scale = weight / sqrt(var + eps);
    constant[CENTER] = center;
    constant[SCALE] = scale;
    constant[SHIFT] = bias - (mean - center) * scale;
}

void nnl_norm_constants(nnl_dtype dtype, int64_t channels, const nnl_tensor *mean, const nnl_tensor *var, const nnl_tensor *weight,
                        const nnl_tensor *bias, double eps, void *center, void *scale, void *shift)
{
    double constant[3];
    for (int64_t c = 0; c < channels; c++) {
        channel_constants(dtype, element_of(mean, c, 0), element_of(var, c, 1), element_of(weight, c, 1), element_of(bias, c, 0), eps,
                          constant);
        put(dtype, center, c, constant[CENTER]);
        put(dtype, scale, c, constant[SCALE]);
        put(dtype, shift, c, constant[SHIFT]);
    }
}

static nnl_batch_norm forward_constants(const images *m, scratch *s, const double *mean, const double *var,
                                        const nnl_tensor *weight, const nnl_tensor *bias, double eps, bool relu)
{
    for (int64_t c = 0; c < m->channels; c++) {
        double constant[3];
        channel_constants(m->dtype, mean[c], var[c], element_of(weight, c, 1), element_of(bias, c, 0), eps, constant);
        for (int i = CENTER; i <= SHIFT; i++) set_constant(m, s->constant[i], c, constant[i]);
    }
    return (nnl_batch_norm){.center = s->constant[CENTER], .scale = s->constant[SCALE], .shift = s->constant[SHIFT], .relu = relu};
}

enum { INPUT, WEIGHT, BIAS, MEAN, VAR };

static nnl_status forward(nnl_call *c, bool training)
{
    images m;
    scratch s;
    nnl_tensor *x;
    double eps = nnl_value_double(&c->attr[0]);
    bool relu = c->attr[1].as.i != 0;
    NNL_TRY(nnl_image_laid(c->in[INPUT], nnl_lies_channels_last(c->in[INPUT]), &x));
    split(&m, x);
    nnl_status status = open_scratch(&m, &s);
    if (status == NNL_OK) {
        double *mean = s.sum, *var = s.product;
        if (training) {
            mean = (double *)(void *)c->out[1]->data;
            var = (double *)(void *)c->out[2]->data;
            status = find_moments(&m, &s, x->data, mean, var);
        } else {
            for (int64_t i = 0; i < m.channels; i++) {
                mean[i] = element_of(c->in[MEAN], i, 0);
                var[i] = element_of(c->in[VAR], i, 1);
            }
        }
        pass p = {.m = &m, .x = x->data, .out = c->out[0]->data, .s = &s};
        p.constants = forward_constants(&m, &s, mean, var, c->in[WEIGHT], c->in[BIAS], eps, relu);
        if (status == NNL_OK && m.numel > 0) status = run_rows(&p);
        nnl_free(c->rt, s.block, s.bytes);
    }
    nnl_tensor_unref(x);
    return status;
}

static nnl_status train_run(nnl_call *c) { return forward(c, true); }
static nnl_status eval_run(nnl_call *c) { return forward(c, false); }

static void like_input(nnl_spec *spec, const nnl_tensor *x)
{
    nnl_spec_like(spec, x);
    spec->channels_last = nnl_lies_channels_last(x);
}

static nnl_status train_infer(nnl_call *c)
{
    like_input(&c->spec[0], c->in[INPUT]);
    for (int i = 1; i < 3; i++) nnl_spec_set(&c->spec[i], NNL_F64, 1, &c->in[INPUT]->shape[1]);
    return NNL_OK;
}

static nnl_status eval_infer(nnl_call *c)
{
    like_input(&c->spec[0], c->in[INPUT]);
    return NNL_OK;
}

/* ---------------------------------------------------------------- backward */

enum { BACK_DY, BACK_INPUT, BACK_MEAN, BACK_VAR, BACK_WEIGHT, BACK_BIAS };
enum { BACK_EPS, BACK_TRAINING, BACK_WANTED, BACK_RELU };

static nnl_status backward_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[BACK_INPUT];
    like_input(&c->spec[0], x);
    if (!c->attr[BACK_WANTED].as.i) nnl_spec_set(&c->spec[0], (nnl_dtype)x->dtype, 1, (int64_t[]){0});
    for (int i = 1; i < 3; i++) nnl_spec_set(&c->spec[i], (nnl_dtype)x->dtype, 1, &x->shape[1]);
    return NNL_OK;
}

static void sums_task(void *context, int64_t task)
{
    const pass *p = context;
    const images *m = p->m;
    const nnl_kernels *k = m->rt->kernels;
    part t = part_of(m, task);
    double *sum = p->s->first + t.chunk * m->n, *product = p->s->second + t.chunk * m->n;
    if (m->last) {
        int64_t at = t.first * m->n * m->width;
        k->batch_norm_sums_columns(&p->constants, m->dtype, sum, product, p->dy + at, p->x + at, t.rows, t.columns);
        return;
    }
    int64_t row = m->places * m->width, step = m->channels * row;
    for (int64_t c = t.channel; c < t.channel + t.channels; c++) {
        int64_t at = t.first * step + c * row;
        nnl_batch_norm own = {.center = p->s->constant[CENTER] + c * m->width, .scale = p->s->constant[SCALE] + c * m->width,
                              .shift = p->s->constant[SHIFT] + c * m->width, .relu = p->constants.relu};
        k->batch_norm_sums_rows(&own, m->dtype, sum + c, product + c, p->dy + at, p->x + at, step, t.rows, m->places);
    }
}

static void store(nnl_tensor *t, int64_t i, double value) { put(t->dtype, t->data, i, value); }

/* With S the sum of dy and P that of dy (x - mean), over the n elements of a channel:
 * dbias = S, dweight = P / std, and dx = weight / std (dy - S / n - (x - mean) P / (n std^2)), the last two terms only
 * where mean and variance are the batch's. */
static nnl_status run_backward(nnl_call *c, const images *m, scratch *s, const char *dy, const char *x)
{
    double eps = nnl_value_double(&c->attr[BACK_EPS]), count = NNL_MAX(1, per_channel(m));
    bool training = c->attr[BACK_TRAINING].as.i != 0;
    double *mean = s->sum, *var = s->product;
    for (int64_t i = 0; i < m->channels; i++) {
        mean[i] = element_of(c->in[BACK_MEAN], i, 0);
        var[i] = element_of(c->in[BACK_VAR], i, 1);
    }
    pass p = {.m = m, .x = x, .dy = dy, .out = c->out[0]->data, .s = s, .backward = true};
    p.constants = forward_constants(m, s, mean, var, c->in[BACK_WEIGHT], c->in[BACK_BIAS], eps, c->attr[BACK_RELU].as.i != 0);
    if (m->numel > 0) NNL_TRY(each_task(m, sum_tasks(m), sums_task, &p));
    add_parts(m, s, s->first, s->sum);
    add_parts(m, s, s->second, s->product);
    for (int64_t i = 0; i < m->channels; i++) {
        double exact = element_of(c->in[BACK_MEAN], i, 0), variance = element_of(c->in[BACK_VAR], i, 1) + eps;
        double center = m->dtype == NNL_F32 ? (double)(float)exact : exact, lost = exact - center;
        double product = s->product[i] - lost * s->sum[i], scale = element_of(c->in[BACK_WEIGHT], i, 1) / sqrt(variance);
        double slope = -scale * product / (count * variance);
        store(c->out[1], i, product / sqrt(variance));
        store(c->out[2], i, s->sum[i]);
        set_constant(m, s->constant[SLOPE], i, slope);
        set_constant(m, s->constant[REST], i, -scale * s->sum[i] / count - lost * slope);
    }
    if (training) {
        p.constants.slope = s->constant[SLOPE];
        p.constants.rest = s->constant[REST];
    }
    return m->numel > 0 && c->attr[BACK_WANTED].as.i ? run_rows(&p) : NNL_OK;
}

static nnl_status backward_run(nnl_call *c)
{
    images m;
    scratch s;
    nnl_tensor *x, *dy;
    bool last = nnl_lies_channels_last(c->in[BACK_INPUT]);
    NNL_TRY(nnl_image_laid(c->in[BACK_INPUT], last, &x));
    nnl_status status = nnl_image_laid(c->in[BACK_DY], last, &dy);
    if (status == NNL_OK) {
        split(&m, x);
        status = open_scratch(&m, &s);
        if (status == NNL_OK) {
            status = run_backward(c, &m, &s, dy->data, x->data);
            nnl_free(c->rt, s.block, s.bytes);
        }
        nnl_tensor_unref(dy);
    }
    nnl_tensor_unref(x);
    return status;
}

NNL_OP(batch_norm_backward,
    .sig = "dy:float, input:float, mean:float, var:float, weight:float?, bias:float?, eps:num, training:flag, wanted:flag, "
           "relu:flag=false -> same, dweight:same, dbias:same",
    .doc = "The gradients of batch_norm by its input (an empty tensor unless wanted), weight and bias.",
    .infer = backward_infer,
    .run = backward_run,
    NNL_NO_GRAD("second derivatives go by the composition"),
    .traits = NNL_HIDDEN);

static void backward_ops(nnl_grad *g, nnl_tensor *mean, nnl_tensor *var, bool training)
{
    nnl_tensor *in[] = {g->dy[0], g->in[INPUT], mean, var, g->in[WEIGHT], g->in[BIAS]}, *out[3];
    const nnl_value attr[] = {g->attr[0], V_FLAG(training), V_FLAG(g->needs[INPUT]), g->attr[1]};
    if (!g->dy[0]) return;
    nnl_do_many(g->s, &nnl_op_batch_norm_backward, NNL_COUNT(in), in, NNL_COUNT(attr), attr, 3, out);
    for (int i = 0; i < 3; i++) g->dx[i] = g->needs[i] ? out[i] : NULL;
}

/* ---------------------------------------------------------------- compositions */

/* A value a channel as a tensor that broadcasts with x. */
static nnl_tensor *channel_shape(nnl_scope *s, nnl_tensor *t, const nnl_tensor *x)
{
    int64_t shape[NNL_MAX_DIMS];
    for (int d = 0; d < x->ndim; d++) shape[d] = d == 1 ? x->shape[1] : 1;
    return nnl_reshaped(s, t, x->ndim, shape);
}

static nnl_tensor *scaled(nnl_define *d, nnl_tensor *centered, nnl_tensor *var)
{
    nnl_scope *s = d->s;
    nnl_tensor *x = d->in[INPUT], *y = DO(s, mul, centered, DO(s, rsqrt, nnl_shifted(s, var, nnl_value_double(&d->attr[0]))));
    if (d->in[WEIGHT]) y = DO(s, mul, y, channel_shape(s, d->in[WEIGHT], x));
    if (d->in[BIAS]) y = DO(s, add, y, channel_shape(s, d->in[BIAS], x));
    return d->attr[1].as.i ? DO(s, relu, y) : y;
}

static void train_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    nnl_tensor *x = d->in[INPUT];
    int64_t dims[NNL_MAX_DIMS];
    int count = 0;
    for (int i = 0; i < x->ndim; i++) {
        if (i != 1) dims[count++] = i;
    }
    nnl_tensor *mean = DO_WITH(s, mean, (V_INTS(count, dims), V_FLAG(true)), x), *centered = DO(s, sub, x, mean);
    nnl_tensor *var = DO_WITH(s, mean, (V_INTS(count, dims), V_FLAG(true)), DO(s, square, centered));
    d->out[0] = scaled(d, centered, var);
    d->out[1] = nnl_reshaped(s, nnl_converted(s, mean, NNL_F64), 1, &x->shape[1]);
    d->out[2] = nnl_reshaped(s, nnl_converted(s, var, NNL_F64), 1, &x->shape[1]);
}

static void eval_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    nnl_tensor *x = d->in[INPUT];
    d->out[0] = scaled(d, DO(s, sub, x, channel_shape(s, d->in[MEAN], x)), channel_shape(s, d->in[VAR], x));
}

static void train_grad(nnl_grad *g) { backward_ops(g, g->out[1], g->out[2], true); }

static void eval_grad(nnl_grad *g)
{
    if (g->needs[MEAN] || g->needs[VAR]) nnl_grad_define(g);
    else backward_ops(g, g->in[MEAN], g->in[VAR], false);
}

NNL_OP(batch_norm_train,
    .sig = "input:float, weight:float?, bias:float?, eps:num, relu:flag=false -> same, mean:f64, var:f64",
    .doc = "input normalised by the mean and variance of each channel, which are results, too; relu: the positive part.",
    .infer = train_infer,
    .run = train_run,
    .grad = train_grad,
    .define = train_define,
    .saves = NNL_SAVE_INPUTS | NNL_SAVE_OUTPUT(1) | NNL_SAVE_OUTPUT(2),
    .traits = NNL_HIDDEN | NNL_TAKES_RELU);

NNL_OP(batch_norm_eval,
    .sig = "input:float, weight:float?, bias:float?, mean:float, var:float, eps:num, relu:flag=false -> same",
    .doc = "input normalised by given means and variances of the channels; relu: the positive part.",
    .infer = eval_infer,
    .run = eval_run,
    .grad = eval_grad,
    .define = eval_define,
    .saves = NNL_SAVE_INPUTS,
    .traits = NNL_HIDDEN | NNL_TAKES_RELU);

/* ---------------------------------------------------------------- running statistics */

enum { RUNNING_MEAN, RUNNING_VAR, BATCH_MEAN, BATCH_VAR, BATCHES };
enum { UPDATE_MOMENTUM, UPDATE_COUNT, UPDATE_CUMULATIVE };

static void move_on(nnl_tensor *running, const nnl_tensor *batch, double scale, double momentum)
{
    if (!running) return;
    for (int64_t c = 0; c < running->numel; c++) {
        int64_t at = c * running->strides[0];
        double value = (1 - momentum) * nnl_element_double(running, at) + momentum * scale * element_of(batch, c, 0);
        store(running, at, value);
    }
    nnl_tensor_touch(running);
}

static nnl_status update_run(nnl_call *c)
{
    double momentum = nnl_value_double(&c->attr[UPDATE_MOMENTUM]), count = (double)c->attr[UPDATE_COUNT].as.i;
    nnl_tensor *batches = c->in[BATCHES];
    if (batches) {
        int64_t number = ++*(int64_t *)(void *)batches->data;
        if (c->attr[UPDATE_CUMULATIVE].as.i) momentum = 1 / (double)number;
        nnl_tensor_touch(batches);
    }
    move_on(c->in[RUNNING_MEAN], c->in[BATCH_MEAN], 1, momentum);
    move_on(c->in[RUNNING_VAR], c->in[BATCH_VAR], count / (count - 1), momentum);
    return NNL_OK;
}

NNL_OP(batch_norm_update,
    .sig = "running_mean:float?, running_var:float?, mean:float, var:float, num_batches_tracked:integral?, momentum:num, "
           "count:int, cumulative:flag ->",
    .doc = "Moves running statistics on by those of a batch with count values a channel, and counts the batch.",
    .run = update_run,
    NNL_NO_GRAD("it changes running statistics in place"),
    .traits = NNL_IN_PLACE | NNL_HIDDEN);

/* ---------------------------------------------------------------- the op */

enum { IN_INPUT, IN_MEAN, IN_VAR, IN_WEIGHT, IN_BIAS, IN_BATCHES };
enum { TRAINING, MOMENTUM, EPS, CUMULATIVE };

static nnl_status check_channels(nnl_call *c, int place)
{
    const nnl_tensor *x = c->in[IN_INPUT], *t = c->in[place];
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    if (!t) return NNL_OK;
    if (t->ndim != 1 || t->shape[0] != x->shape[1])
        return nnl_call_fail(c, NNL_ESHAPE, "%s must hold a value for each of the %lld channels of %s",
                             nnl_call_input_text(c, place, a), (long long)x->shape[1], nnl_call_input_text(c, IN_INPUT, b));
    if (t->dtype != x->dtype)
        return nnl_call_fail(c, NNL_ETYPE, "%s is %s, but input is %s", c->sig->tensor[place]->name,
                             nnl_dtype_name((nnl_dtype)t->dtype), nnl_dtype_name((nnl_dtype)x->dtype));
    if (place <= IN_VAR && c->attr[TRAINING].as.i && t->strides[0] == 0 && t->shape[0] > 1)
        return nnl_call_fail(c, NNL_ESTATE, "%s is expanded and cannot be changed in place", c->sig->tensor[place]->name);
    return NNL_OK;
}

static nnl_status batch_norm_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[IN_INPUT], *batches = c->in[IN_BATCHES];
    char text[NNL_NAMED_TEXT];
    bool training = c->attr[TRAINING].as.i != 0;
    if (x->ndim < 2)
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have 2 or more dimensions, batch x channels x ...", nnl_call_input_text(c, 0, text));
    for (int i = IN_MEAN; i <= IN_BIAS; i++) NNL_TRY(check_channels(c, i));
    if (batches && (batches->dtype != NNL_I64 || batches->numel != 1))
        return nnl_call_fail(c, NNL_ETYPE, "num_batches_tracked must be an i64 tensor of one element");
    if (c->attr[CUMULATIVE].as.i && !batches) return nnl_call_fail(c, NNL_EINVAL, "cumulative wants num_batches_tracked");
    if (!training && (!c->in[IN_MEAN] || !c->in[IN_VAR]))
        return nnl_call_fail(c, NNL_EINVAL, "running_mean and running_var are needed unless training is true");
    if (training && x->numel == x->shape[1] && x->numel > 0)
        return nnl_call_fail(c, NNL_ESHAPE, "%s has 1 value per channel, but training wants more than 1", nnl_call_input_text(c, 0, text));
    return NNL_OK;
}

static void batch_norm_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    nnl_tensor *x = d->in[IN_INPUT], *out[3], *weight = d->in[IN_WEIGHT], *bias = d->in[IN_BIAS];
    nnl_tensor *mean = d->in[IN_MEAN], *var = d->in[IN_VAR], *batches = d->in[IN_BATCHES];
    if (!d->attr[TRAINING].as.i) {
        d->out[0] = DO_WITH(s, batch_norm_eval, (d->attr[EPS]), x, weight, bias, mean, var);
        return;
    }
    nnl_do_many(s, &nnl_op_batch_norm_train, 3, (nnl_tensor *[]){x, weight, bias}, 1, &d->attr[EPS], 3, out);
    d->out[0] = out[0];
    if ((!mean && !var && !batches) || x->numel == 0) return;
    DO_WITH(s, batch_norm_update, (d->attr[MOMENTUM], V_INT(x->numel / x->shape[1]), d->attr[CUMULATIVE]), mean, var, out[1], out[2],
            batches);
}

NNL_OP(batch_norm,
    .sig = "input:float, running_mean:float?, running_var:float?, weight:float?, bias:float?, training:flag=false, "
           "momentum:num=0.1, eps:num=1e-5, num_batches_tracked:integral?, cumulative:flag=false -> same",
    .doc = "(x - mean) / sqrt(var + eps) * weight + bias for every channel (dimension 2) of batch x channels x ...  In training "
           "mean and variance are the batch's, and the running ones move on in place: r = (1 - momentum) r + momentum "
           "(batch's), with the unbiased variance; num_batches_tracked counts the calls, and cumulative makes the momentum "
           "1 / their number.  Otherwise the running ones are used.  Ioffe and Szegedy, arXiv:1502.03167.",
    .example = "nn.F.batch_norm(nn.randn(8, 3, 4, 4), nil, nil, {training = true})",
    .infer = batch_norm_infer,
    .define = batch_norm_define,
    .sample = "input:4x3 training=true; input:3x2x4 weight:2 bias:2 training=true eps=0.1; "
              "input:2x3x2x3 running_mean:3~ running_var:3[0.5,2]~ weight:3 bias:3; input:2x2x2x1x2 weight:2 training=true; "
              "input:3x2 running_mean:2 running_var:2[0.5,2] bias:2",
    .traits = NNL_NO_METHOD);

/* ---------------------------------------------------------------- each sample for itself */

/* Values a channel of a sample. */
static int64_t places_of(const nnl_tensor *x) { return nnl_shape_numel(x->ndim - 2, x->shape + 2); }

static nnl_status instance_norm_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[IN_INPUT];
    char text[NNL_NAMED_TEXT];
    bool own = c->attr[TRAINING].as.i != 0;
    if (x->ndim < 3)
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have 3 or more dimensions, batch x channels x places ...",
                             nnl_call_input_text(c, 0, text));
    for (int i = IN_MEAN; i <= IN_BIAS; i++) NNL_TRY(check_channels(c, i));
    if (!own && (!c->in[IN_MEAN] || !c->in[IN_VAR]))
        return nnl_call_fail(c, NNL_EINVAL, "running_mean and running_var are needed unless use_input_stats is true");
    if (own && places_of(x) == 1)
        return nnl_call_fail(c, NNL_ESHAPE, "%s has 1 value per channel in a sample, but its own statistics want more than 1",
                             nnl_call_input_text(c, 0, text));
    return NNL_OK;
}

/* A statistic of each channel of each sample as batch x channels, without its history. */
static nnl_tensor *statistic(nnl_scope *s, nnl_tensor *each, const nnl_tensor *x)
{
    nnl_tensor *plain = NULL;
    if (s->status != NNL_OK) return NULL;
    nnl_scope_fail(s, nnl_tensor_alias(each, &plain));
    return s->status == NNL_OK ? nnl_reshaped(s, nnl_keep(s, plain), 2, x->shape) : NULL;
}

static void instance_norm_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    nnl_tensor *x = d->in[IN_INPUT], *out[3], *weight = d->in[IN_WEIGHT], *bias = d->in[IN_BIAS];
    nnl_tensor *mean = d->in[IN_MEAN], *var = d->in[IN_VAR];
    if (!d->attr[TRAINING].as.i) {
        d->out[0] = DO_WITH(s, batch_norm_eval, (d->attr[EPS]), x, weight, bias, mean, var);
        return;
    }
    const nnl_value attr[] = {V_INT(x->shape[1]), d->attr[EPS]};
    if (x->shape[1] == 0) { /* no group to be in */
        d->out[0] = DO(s, clone, x);
        return;
    }
    nnl_do_many(s, &nnl_op_group_norm, 3, (nnl_tensor *[]){x, weight, bias}, 2, attr, 3, out);
    d->out[0] = out[0];
    if ((!mean && !var) || x->numel == 0) return;
    /* group_norm gives rstd = 1 / sqrt(var + eps). */
    const nnl_value samples = V_INTS(1, (int64_t[]){0});
    nnl_tensor *with_eps = DO(s, reciprocal, DO(s, square, statistic(s, out[2], x)));
    nnl_tensor *own_var = DO_WITH(s, mean, (samples, V_FLAG(false)), nnl_shifted(s, with_eps, -nnl_value_double(&d->attr[EPS])));
    nnl_tensor *own_mean = DO_WITH(s, mean, (samples, V_FLAG(false)), statistic(s, out[1], x));
    DO_WITH(s, batch_norm_update, (d->attr[MOMENTUM], V_INT(places_of(x)), V_FLAG(false)), mean, var, own_mean, own_var, NULL);
}

NNL_OP(instance_norm,
    .sig = "input:float, running_mean:float?, running_var:float?, weight:float?, bias:float?, use_input_stats:flag=true, "
           "momentum:num=0.1, eps:num=1e-5 -> same",
    .doc = "(x - mean) / sqrt(var + eps) * weight + bias for every channel (dimension 2) of every sample of batch x channels x "
           "...  mean and variance are the sample's own, and the running ones move on in place by the means over the batch, with "
           "the unbiased variance; without use_input_stats the running ones are used.  Ulyanov et al., arXiv:1607.08022.",
    .example = "nn.F.instance_norm(nn.randn(2, 3, 4, 4))",
    .infer = instance_norm_infer,
    .define = instance_norm_define,
    .sample = "input:2x3x4; input:3x2x5 weight:2 bias:2 eps=0.1; input:2x3x2x3 weight:3; input:2x2x2x1x2 bias:2; "
              "input:2x3x2x3 running_mean:3~ running_var:3[0.5,2]~ weight:3 bias:3 use_input_stats=false",
    .traits = NNL_NO_METHOD);
