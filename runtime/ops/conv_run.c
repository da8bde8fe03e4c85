/* Computes convolutions: cuts the result into blocks of pixels by shape, shares them out to
 * threads, brings the part of the image that a block reads into a buffer with its padding, and
 * calls the kernels of kernels/conv.c. */
#include "conv.h"

#include <string.h>

/* Bytes of the image that a block may read: a part of L2. */
#define WINDOW 131072
/* Multiplications below which no worker is woken, and the least worth a block of its own. */
#define PARALLEL_WORK 1500000
#define BLOCK_WORK 400000
#define BLOCKS 16 /* as many as there are threads to feed, if they are worth it */
#define LANES_PER_THREAD 4
/* Bytes of partial sums of a weight's gradient, and how many parts at most. */
#define PARTS_BYTES (2 << 20)
#define PARTS 16

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

/* ---------------------------------------------------------------- images in memory */

/* N x C x depth x height x width with its steps in elements. */
typedef struct image {
    const char *data;
    int64_t sample, channel, place[3];
} image;

static image image_of(const nnl_tensor *t, const nnl_conv *v)
{
    image m = {.data = t->data,
               .sample = v->batched ? t->strides[0] : 0,
               .channel = t->strides[v->batched]};
    for (int i = 0; i < v->rank; i++) m.place[3 - v->rank + i] = t->strides[1 + v->batched + i];
    return m;
}

/* The steps of a dense image whose channels are together. */
static image dense_image(const void *data, int64_t channels, const int64_t sizes[3])
{
    image m = {.data = data, .channel = 1};
    m.place[2] = channels;
    m.place[1] = m.place[2] * sizes[2];
    m.place[0] = m.place[1] * sizes[1];
    m.sample = m.place[0] * sizes[0];
    return m;
}

/* Whether the image lies so, up to dimensions of size 1. */
static bool is_dense(const image *m, int64_t samples, int64_t channels, const int64_t sizes[3])
{
    image d = dense_image(NULL, channels, sizes);
    bool same = (m->channel == 1 || channels == 1) && (m->sample == d.sample || samples == 1);
    for (int i = 0; i < 3; i++) same = same && (m->place[i] == d.place[i] || sizes[i] == 1);
    return same;
}

/* t as a dense image: its own memory, or that of a copy that the caller drops. */
static nnl_status dense_copy(nnl_runtime *rt, const nnl_conv *v, const nnl_tensor *t,
                             const int64_t sizes[3], image *out, nnl_tensor **copy)
{
    int64_t channels = t->shape[v->batched];
    image m = image_of(t, v);
    *copy = NULL;
    *out = dense_image(t->data, channels, sizes);
    if (is_dense(&m, v->samples, channels, sizes)) return NNL_OK;
    nnl_spec spec = {.dtype = (nnl_dtype)t->dtype, .ndim = v->rank + 2, .channels_last = true};
    spec.shape[0] = v->samples;
    for (int d = 1; d < spec.ndim; d++) spec.shape[d] = t->shape[d - !v->batched];
    NNL_TRY(nnl_tensor_make(rt, &spec, NULL, copy));
    out->data = (*copy)->data;
    nnl_status status = nnl_copy(*copy, t);
    if (status != NNL_OK) nnl_tensor_unref(*copy);
    return status;
}

/* Results are made as dense images.  One that lies otherwise (it has no dimension N) is copied from
 * a temporary. */
static nnl_status result_open(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *t, nnl_tensor **made)
{
    *made = t;
    if (v->batched) return NNL_OK;
    nnl_spec spec = {.dtype = (nnl_dtype)t->dtype, .ndim = t->ndim + 1, .channels_last = true};
    spec.shape[0] = 1;
    for (int d = 0; d < t->ndim; d++) spec.shape[1 + d] = t->shape[d];
    return nnl_tensor_make(rt, &spec, NULL, made);
}

static nnl_status result_close(nnl_tensor *t, nnl_tensor *made, nnl_status status)
{
    if (made == t) return status;
    if (status == NNL_OK) status = nnl_copy(t, made);
    nnl_tensor_unref(made);
    return status;
}

/* ---------------------------------------------------------------- blocks of pixels */

/* What every block of one call has in common. */
typedef struct plan {
    const nnl_conv *v;
    nnl_conv shape; /* *v, with dimensions joined where nothing tells them apart */
    const nnl_kernels *kernels;
    nnl_dtype dtype;
    int64_t size;                      /* bytes an element */
    int64_t channels_in, channels_out; /* of a group; depthwise, of all that are walked together */
    bool depthwise; /* a group for each channel: kernels with channels as lanes */
    image x;
    bool direct;           /* the image is read where it lies */
    int64_t rows, columns; /* of a block */
    int64_t row_blocks, column_blocks, blocks;
    int64_t window_bytes; /* of a block's buffer */
    /* bytes of each lane's memory, and how the blocks go to lanes */
    char *memory;
    int64_t lane_bytes, lanes, tasks;
    void (*task)(const struct plan *p, int64_t i, char *buffer);
    /* the calls' own */
    const char *weight, *bias;
    image y;
    char *sums;
    char *dx;
    int64_t row_bytes, windows_bytes; /* of a row of dx, and of the windows of a row of dy */
    int64_t parts, panels, panel_width, sums_step, sums_bytes, group_bytes, part_bytes;
    int64_t dy_bytes; /* of a block's dy, where its channels are apart; else 0 */
    bool with_bias, lane_sums, across;
    char *dw, *db;
    nnl_conv_order order;
} plan;

static const void *at(const plan *p, const char *base, int64_t place)
{
    return base + place * p->size;
}

static void run_lane(void *context, int64_t lane)
{
    const plan *p = context;
    char *buffer = p->memory ? p->memory + lane * p->lane_bytes : NULL;
    for (int64_t i = p->tasks * lane / p->lanes; i < p->tasks * (lane + 1) / p->lanes; i++)
        p->task(p, i, buffer);
}

/* Runs p->tasks, each with p->lane_bytes of memory of its own.  work: multiplications. */
static nnl_status run_tasks(nnl_runtime *rt, plan *p, double work)
{
    bool parallel = rt->threads > 1 && work >= PARALLEL_WORK;
    p->lanes = NNL_MIN(p->tasks, parallel ? LANES_PER_THREAD * (int64_t)rt->threads : 1);
    if (p->lanes == 0) return NNL_OK;
    void *memory = NULL;
    p->lane_bytes = round_up(p->lane_bytes, 64);
    size_t bytes = (size_t)(p->lanes * p->lane_bytes);
    if (bytes > 0) NNL_TRY(nnl_alloc(rt, bytes, &memory));
    p->memory = memory;
    nnl_status status = NNL_OK;
    if (p->lanes == 1)
        run_lane(p, 0);
    else
        status = nnl_parallel(rt, p->lanes, run_lane, p);
    if (bytes > 0) nnl_free(rt, memory, bytes);
    return status;
}

/* Places of the input that a run of results reads. */
static int64_t reach_of(const nnl_conv *v, int d, int64_t results)
{
    return (results - 1) * v->stride[d] + nnl_conv_reach(v, d);
}

/* Elements of the window of rows x columns results; with fewer than 4 columns the kernels look
 * further. */
static int64_t window_size(const nnl_conv *v, int64_t rows, int64_t columns, int64_t channels)
{
    int64_t width = reach_of(v, 2, columns), more = columns < 4 ? (4 - columns) * v->stride[2] : 0;
    return (v->kernel[0] * reach_of(v, 1, rows) * width + more) * channels;
}

static double work_of(const nnl_conv *v)
{
    double work =
        (double)v->samples * (double)v->out_channels * (double)(v->in_channels / v->groups);
    for (int i = 0; i < 3; i++) work *= (double)v->out[i] * (double)v->kernel[i];
    return work;
}

/* Depthwise convolutions walk all channels together. */
static void walk_groups(plan *p)
{
    const nnl_conv *v = p->v;
    p->depthwise = v->groups > 1 && v->groups == v->in_channels && v->groups == v->out_channels;
    p->shape.groups = p->depthwise ? 1 : v->groups;
    p->channels_in = v->in_channels / p->shape.groups;
    p->channels_out = v->out_channels / p->shape.groups;
}

/* Convolutions of single places know no rows: an image, or the whole batch, is one row of pixels.
 */
static void join_places(plan *p)
{
    nnl_conv *s = &p->shape;
    for (int d = 1; d >= 0; d--) {
        if (s->kernel[d] > 1 || s->kernel[2] > 1 || s->stride[d] > 1 || s->stride[2] > 1) return;
        if (s->in[d] != s->out[d] || s->in[2] != s->out[2]) return;
        if (p->x.place[d] != s->in[2] * p->x.place[2] && s->in[d] > 1) return;
        s->in[2] = s->out[2] = s->in[2] * s->in[d];
        s->in[d] = s->out[d] = 1;
    }
    if (p->x.sample != s->in[2] * p->x.place[2] && s->samples > 1) return;
    s->in[2] = s->out[2] = s->in[2] * s->samples;
    s->samples = 1;
}

/* No tap of any result lies outside of the image, whose elements are together as the kernels want
 * them. */
static bool reads_direct(const plan *p)
{
    const nnl_conv *s = &p->shape;
    if (p->channels_in > 1 && p->x.channel != 1) return false;
    for (int d = 0; d < 3; d++) {
        if (s->low[d] > 0 || reach_of(s, d, s->out[d]) - s->low[d] > s->in[d]) return false;
    }
    return true;
}

/* Cuts the result into blocks, by shape alone: windows that fit a cache, and work for several
 * threads. */
static void choose_blocks(plan *p)
{
    const nnl_conv *s = &p->shape;
    int64_t rows = s->out[1], columns = s->out[2];
    while (rows > 1 && window_size(s, rows, columns, p->channels_in) * p->size > WINDOW)
        rows = divide_up(rows, 2);
    while (columns > 16 && window_size(s, rows, columns, p->channels_in) * p->size > WINDOW)
        columns = round_up(divide_up(columns, 2), 4);
    double work = work_of(p->v) /
                  (double)NNL_MAX(s->samples * s->groups * s->out[0] * s->out[1] * s->out[2], 1);
    int64_t images = s->samples * s->groups * s->out[0];
    for (;;) {
        int64_t blocks = images * divide_up(s->out[1], rows) * divide_up(s->out[2], columns);
        if (blocks >= BLOCKS || work * (double)rows * (double)columns < 2 * BLOCK_WORK) break;
        if (rows > 1)
            rows = divide_up(rows, 2);
        else if (columns >= 32)
            columns = round_up(divide_up(columns, 2), 4);
        else
            break;
    }
    p->rows = rows;
    p->columns = columns;
    p->row_blocks = divide_up(s->out[1], rows);
    p->column_blocks = divide_up(s->out[2], columns);
    p->blocks = images * p->row_blocks * p->column_blocks;
    /* Four columns are always read: not beyond the end of the image itself. */
    p->direct = p->direct && s->out[2] - (p->column_blocks - 1) * columns >= 4;
    if (!p->direct)
        p->window_bytes = round_up(window_size(s, rows, columns, p->channels_in) * p->size, 64);
}

/* pixels: results are pixels, whose bits depend neither on blocks nor on runs: rows may be joined
 * and taps read in whatever runs memory allows.  Else these are the same wherever the image lies.
 */
static plan plan_of(nnl_runtime *rt, const nnl_conv *v, nnl_dtype dtype, const image *x,
                    bool pixels)
{
    plan p = {.v = v, .shape = *v, .kernels = rt->kernels, .dtype = dtype, .x = *x};
    p.size = (int64_t)nnl_width(dtype);
    walk_groups(&p);
    p.direct = reads_direct(&p);
    if (!pixels && !p.depthwise && v->kernel[2] > 1 && x->place[2] != p.channels_in)
        p.direct = false;
    if (p.direct && pixels) join_places(&p);
    choose_blocks(&p);
    return p;
}

/* One block: results [r0, r1) x [c0, c1) of a plane of the result, and its window. */
typedef struct block {
    int64_t sample, group, plane, r0, r1, c0, c1;
    const char *x; /* first tap of its first pixel */
    int64_t x_row, x_column, taps[3], x_tap[3], run;
} block;

static block block_at(const plan *p, int64_t i)
{
    const nnl_conv *s = &p->shape;
    block b;
    int64_t column = i % p->column_blocks, row = i / p->column_blocks % p->row_blocks;
    i /= p->column_blocks * p->row_blocks;
    b.plane = i % s->out[0];
    i /= s->out[0];
    b.group = i % s->groups;
    b.sample = i / s->groups;
    b.r0 = row * p->rows;
    b.r1 = NNL_MIN(b.r0 + p->rows, s->out[1]);
    b.c0 = column * p->columns;
    b.c1 = NNL_MIN(b.c0 + p->columns, s->out[2]);
    return b;
}

/* Copies the window into the buffer: [plane][row][column][channel], zeros outside of the image. */
static void fill_window(const plan *p, const block *b, const char *image_, char *buffer)
{
    const nnl_conv *s = &p->shape;
    int64_t rows = reach_of(s, 1, b->r1 - b->r0), columns = reach_of(s, 2, b->c1 - b->c0);
    int64_t first = b->c0 * s->stride[2] - s->low[2];
    int64_t left = NNL_MIN(NNL_MAX(-first, 0), columns),
            right = NNL_MIN(NNL_MAX(first + columns - s->in[2], 0), columns - left);
    int64_t row_bytes = columns * p->channels_in * p->size;
    for (int64_t d = 0; d < s->kernel[0]; d++) {
        int64_t plane = b->plane * s->stride[0] + d * s->dilation[0] - s->low[0];
        for (int64_t r = 0; r < rows; r++, buffer += row_bytes) {
            int64_t row = b->r0 * s->stride[1] + r - s->low[1];
            if (plane < 0 || plane >= s->in[0] || row < 0 || row >= s->in[1]) {
                memset(buffer, 0, (size_t)row_bytes);
                continue;
            }
            int64_t place =
                plane * p->x.place[0] + row * p->x.place[1] + (first + left) * p->x.place[2];
            p->kernels->conv_row((int)p->size, buffer, left, columns - left - right, right,
                                 p->channels_in, at(p, image_, place), p->x.place[2], p->x.channel);
        }
    }
}

/* Fills the block's description of what it reads, from the image or from the buffer. */
static void open_window(const plan *p, block *b, char *buffer)
{
    const nnl_conv *s = &p->shape;
    const char *image_ =
        at(p, p->x.data, b->sample * p->x.sample + b->group * p->channels_in * p->x.channel);
    int64_t step[3] = {p->x.place[0], p->x.place[1], p->x.place[2]};
    if (p->direct) {
        int64_t place = (b->plane * s->stride[0] - s->low[0]) * step[0] +
                        (b->r0 * s->stride[1] - s->low[1]) * step[1] +
                        (b->c0 * s->stride[2] - s->low[2]) * step[2];
        b->x = at(p, image_, place);
        for (int d = 0; d < 3; d++) b->x_tap[d] = s->dilation[d] * step[d];
    } else {
        fill_window(p, b, image_, buffer);
        step[2] = p->channels_in;
        step[1] = step[2] * reach_of(s, 2, b->c1 - b->c0);
        step[0] = step[1] * reach_of(s, 1, b->r1 - b->r0);
        b->x = buffer;
        b->x_tap[0] = step[0]; /* only planes that are read are there */
        for (int d = 1; d < 3; d++) b->x_tap[d] = s->dilation[d] * step[d];
    }
    b->x_row = s->stride[1] * step[1];
    b->x_column = s->stride[2] * step[2];
    for (int d = 0; d < 3; d++) b->taps[d] = s->kernel[d];
    b->run = p->channels_in;
    /* Taps whose elements follow one another are one run; the order of sums over pixels depends on
     * the run, so that there it may not depend on where the image lies. */
    for (int d = 2; d >= (p->sums_step > 0 ? 2 : 0) && !p->depthwise; d--) {
        if (b->taps[d] > 1 && b->x_tap[d] != b->run) break;
        b->run *= b->taps[d];
        b->taps[d] = 1;
    }
}

/* ---------------------------------------------------------------- forward */

static void pack(const plan *p, char *out, const char *in, const nnl_conv_order *order)
{
    if (p->dtype == NNL_F32)
        p->kernels->conv_pack_f32((float *)(void *)out, (const float *)(const void *)in, order);
    else
        p->kernels->conv_pack_f64((double *)(void *)out, (const double *)(const void *)in, order);
}

static int64_t lanes_of(const plan *p) { return p->kernels->vector_bytes / p->size; }
static int64_t taps_of(const nnl_conv *v) { return v->kernel[0] * v->kernel[1] * v->kernel[2]; }

/* The steps of a weight out_channels x in_channels of a group x taps, in elements. */
typedef struct weight_steps {
    int64_t out, in, tap[3];
} weight_steps;

static weight_steps steps_of(const nnl_tensor *w, const nnl_conv *v)
{
    weight_steps s = {.out = w->strides[0], .in = w->strides[1]};
    for (int i = 0; i < v->rank; i++) s.tap[3 - v->rank + i] = w->strides[2 + i];
    return s;
}

/* Taps x input channels, output channels being the lanes; the order of sums in every kernel. */
static nnl_conv_order forward_order(const plan *p, const weight_steps *w)
{
    const int64_t *kernel = p->v->kernel;
    return (nnl_conv_order){
        .size = {kernel[0], kernel[1], kernel[2], p->depthwise ? 1 : p->channels_in},
        .step = {w->tap[0], w->tap[1], w->tap[2], w->in},
        .lanes = p->channels_out,
        .lane_step = w->out};
}

/* Packs the weight of every group; the caller frees *packed, of *bytes. */
static nnl_status pack_groups(nnl_runtime *rt, const plan *p, const char *from, int64_t group_step,
                              const nnl_conv_order *order, char **packed, size_t *bytes)
{
    int64_t depth = order->size[0] * order->size[1] * order->size[2] * order->size[3];
    int64_t group = depth * round_up(order->lanes, lanes_of(p)) * p->size;
    void *memory;
    *bytes = (size_t)(group * p->shape.groups);
    NNL_TRY(nnl_alloc(rt, *bytes, &memory));
    *packed = memory;
    for (int64_t g = 0; g < p->shape.groups; g++)
        pack(p, *packed + g * group, at(p, from, g * group_step), order);
    return NNL_OK;
}

static void forward_task(const plan *p, int64_t i, char *buffer)
{
    const nnl_conv *s = &p->shape;
    block b = block_at(p, i);
    open_window(p, &b, buffer);
    int64_t depth = taps_of(s) * p->channels_in, channel = b.group * p->channels_out;
    int64_t y = b.sample * p->y.sample + b.plane * p->y.place[0] + b.r0 * p->y.place[1] +
                b.c0 * p->y.place[2] + channel;
    nnl_conv_block call = {
        .rows = b.r1 - b.r0,
        .columns = b.c1 - b.c0,
        .x = b.x,
        .x_row = b.x_row,
        .x_column = b.x_column,
        .run = b.run,
        .w = at(p, p->weight, b.group * depth * round_up(p->channels_out, lanes_of(p))),
        .channels = p->channels_out,
        .y = (char *)at(p, p->y.data, y),
        .y_row = p->y.place[1],
        .y_column = p->y.place[2],
        .bias = p->bias ? at(p, p->bias, channel) : NULL};
    memcpy(call.taps, b.taps, sizeof call.taps);
    memcpy(call.x_tap, b.x_tap, sizeof call.x_tap);
    const nnl_kernels *k = p->kernels;
    if (p->dtype == NNL_F32)
        (p->depthwise ? k->conv_depthwise_f32 : k->conv_block_f32)(&call);
    else
        (p->depthwise ? k->conv_depthwise_f64 : k->conv_block_f64)(&call);
}

/* y, a dense image of v->out_channels, from x and a packed weight. */
static nnl_status run_blocks(nnl_runtime *rt, plan *p, void *y, const char *packed,
                             const char *bias)
{
    p->y = dense_image(y, p->v->out_channels, p->shape.out);
    p->weight = packed;
    p->bias = bias;
    p->task = forward_task;
    p->tasks = p->blocks;
    p->lane_bytes = p->window_bytes;
    return run_tasks(rt, p, work_of(p->v));
}

static nnl_status forward(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *out,
                          const nnl_tensor *input, const nnl_tensor *weight, const nnl_tensor *bias)
{
    image x = image_of(input, v);
    plan p = plan_of(rt, v, (nnl_dtype)out->dtype, &x, true);
    weight_steps w = steps_of(weight, v);
    nnl_conv_order order = forward_order(&p, &w);
    char *packed;
    size_t bytes;
    NNL_TRY(pack_groups(rt, &p, weight->data, p.channels_out * w.out, &order, &packed, &bytes));
    nnl_status status = run_blocks(rt, &p, out->data, packed, bias ? bias->data : NULL);
    nnl_free(rt, packed, bytes);
    return status;
}

nnl_status nnl_conv_forward(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *out,
                            const nnl_tensor *input, const nnl_tensor *weight,
                            const nnl_tensor *bias)
{
    nnl_tensor *made, *adjacent = NULL;
    if (out->numel == 0) return NNL_OK;
    if (bias && bias->strides[0] != 1) {
        nnl_spec spec;
        nnl_spec_like(&spec, bias);
        NNL_TRY(nnl_tensor_make(rt, &spec, NULL, &adjacent));
        nnl_status status = nnl_copy(adjacent, bias);
        if (status != NNL_OK) {
            nnl_tensor_unref(adjacent);
            return status;
        }
        bias = adjacent;
    }
    nnl_status status = result_open(rt, v, out, &made);
    if (status == NNL_OK)
        status = result_close(out, made, forward(rt, v, made, input, weight, bias));
    nnl_tensor_unref(adjacent);
    return status;
}

/* ---------------------------------------------------------------- the input's gradient */

/* With strides of 1 it is a convolution of dy with the weight turned around. */
static nnl_conv turned(const nnl_conv *v)
{
    nnl_conv t = *v;
    t.in_channels = v->out_channels;
    t.out_channels = v->in_channels;
    for (int i = 0; i < 3; i++) {
        t.in[i] = v->out[i];
        t.out[i] = v->in[i];
        t.low[i] = nnl_conv_reach(v, i) - 1 - v->low[i];
        t.high[i] = nnl_conv_reach(v, i) - 1 - v->high[i];
    }
    return t;
}

static nnl_status grad_input_turned(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *dx,
                                    const nnl_tensor *dy, const nnl_tensor *weight)
{
    nnl_conv t = turned(v);
    image y = image_of(dy, v);
    plan p = plan_of(rt, &t, (nnl_dtype)dx->dtype, &y, true);
    weight_steps w = steps_of(weight, v);
    nnl_conv_order order = {
        .size = {v->kernel[0], v->kernel[1], v->kernel[2], p.depthwise ? 1 : p.channels_in},
        .step = {-w.tap[0], -w.tap[1], -w.tap[2], w.out},
        .lanes = p.channels_out,
        .lane_step = p.depthwise ? w.out : w.in};
    int64_t last = 0; /* tap */
    for (int i = 0; i < 3; i++) last += (v->kernel[i] - 1) * w.tap[i];
    char *packed;
    size_t bytes;
    NNL_TRY(pack_groups(rt, &p, at(&p, weight->data, last), v->out_channels / v->groups * w.out,
                        &order, &packed, &bytes));
    nnl_status status = run_blocks(rt, &p, dx->data, packed, NULL);
    nnl_free(rt, packed, bytes);
    return status;
}

/* Otherwise every pixel of dy times the weight is added where the pixel's window lies: blocks are
 * rows of dx. */

/* floor and ceiling of a / b, b > 0 */
static int64_t floor_of(int64_t a, int64_t b) { return a >= 0 ? a / b : -divide_up(-a, b); }
static int64_t ceiling_of(int64_t a, int64_t b) { return -floor_of(-a, b); }

/* Rows [first, end) of dy's plane, for one tap of depth and height, times the weight: their
 * windows. */
static void window_products(const plan *p, int64_t tap, int64_t dy, int64_t rows, char *windows)
{
    int64_t columns = p->v->kernel[2] * p->channels_in;
    nnl_gemm_block g = {.rows = rows * p->v->out[2],
                        .columns = columns,
                        .depth = p->channels_out,
                        .a = at(p, p->y.data, dy),
                        .a_row = p->y.place[2],
                        .a_depth = 1,
                        .b = at(p, p->weight, tap * p->channels_out * columns),
                        .b_step = columns,
                        .b_panel = p->kernels->gemm_tile_vectors() * lanes_of(p),
                        .c = windows,
                        .c_row = columns,
                        .alpha = 1};
    if (p->dtype == NNL_F32)
        p->kernels->gemm_block_f32(&g);
    else
        p->kernels->gemm_block_f64(&g);
}

/* Adds the windows of a row of dy to a row of dx. */
static void spread_windows(const plan *p, char *row, const char *windows)
{
    const nnl_conv *v = p->v;
    int64_t column = v->stride[2] * p->channels_in, piece = v->dilation[2] * p->channels_in;
    bool together = v->dilation[2] == 1;
    int64_t pieces = together ? 1 : v->kernel[2], n = v->kernel[2] * p->channels_in / pieces;
    if (p->dtype == NNL_F32)
        p->kernels->conv_spread_f32((float *)(void *)row, column, piece,
                                    (const float *)(const void *)windows, v->out[2], pieces, n);
    else
        p->kernels->conv_spread_f64((double *)(void *)row, column, piece,
                                    (const double *)(const void *)windows, v->out[2], pieces, n);
}

/* The same for a depthwise weight, which needs no product first. */
static void spread_depthwise(const plan *p, char *row, int64_t tap, int64_t dy)
{
    const nnl_conv *v = p->v;
    int64_t column = v->stride[2] * p->channels_in, piece = v->dilation[2] * p->channels_in;
    const void *w = at(p, p->weight, tap * v->kernel[2] * p->channels_in),
               *from = at(p, p->y.data, dy);
    if (p->dtype == NNL_F32)
        p->kernels->conv_depthwise_spread_f32((float *)(void *)row, column, piece, from,
                                              p->y.place[2], w, v->out[2], v->kernel[2],
                                              p->channels_in);
    else
        p->kernels->conv_depthwise_spread_f64((double *)(void *)row, column, piece, from,
                                              p->y.place[2], w, v->out[2], v->kernel[2],
                                              p->channels_in);
}

/* What one tap of depth and height adds to rows [r0, r1) of plane `plane` of dx. */
static void spread_tap(const plan *p, const block *b, int64_t d, int64_t h, char *rows,
                       char *windows)
{
    const nnl_conv *v = p->v;
    int64_t plane = b->plane + v->low[0] - d * v->dilation[0];
    if (plane % v->stride[0] != 0 || plane < 0 || plane / v->stride[0] >= v->out[0]) return;
    int64_t shift = v->low[1] - h * v->dilation[1];
    int64_t first = NNL_MAX(ceiling_of(b->r0 + shift, v->stride[1]), 0),
            end = NNL_MIN(floor_of(b->r1 - 1 + shift, v->stride[1]) + 1, v->out[1]);
    if (first >= end) return;
    int64_t tap = (b->group * v->kernel[0] + d) * v->kernel[1] + h;
    int64_t dy = b->sample * p->y.sample + plane / v->stride[0] * p->y.place[0] +
                 first * p->y.place[1] + b->group * p->channels_out;
    if (!p->depthwise) window_products(p, tap, dy, end - first, windows);
    for (int64_t row = first; row < end; row++) {
        char *to = rows + (row * v->stride[1] - shift - b->r0) * p->row_bytes;
        if (p->depthwise)
            spread_depthwise(p, to, tap, dy + (row - first) * p->y.place[1]);
        else
            spread_windows(p, to, windows + (row - first) * p->windows_bytes);
    }
}

/* Rows of the buffer, without their padding, into dx. */
static void store_rows(const plan *p, const block *b, const char *rows, char *dx)
{
    const nnl_conv *v = p->v;
    int64_t width = reach_of(v, 2, v->out[2]), from = NNL_MIN(v->low[2], width);
    int64_t count = NNL_MIN(v->in[2], width - from);
    size_t bytes = (size_t)(p->channels_in * p->size);
    for (int64_t r = b->r0; r < b->r1; r++, rows += p->row_bytes) {
        const char *first = rows + (size_t)from * bytes;
        if (p->shape.groups == 1) {
            memcpy(dx, first, (size_t)count * bytes);
            memset(dx + (size_t)count * bytes, 0, (size_t)(v->in[2] - count) * bytes);
            dx += (size_t)v->in[2] * bytes;
            continue;
        }
        for (int64_t c = 0; c < v->in[2]; c++, dx += v->in_channels * p->size) {
            if (c < count)
                memcpy(dx, first + (size_t)c * bytes, bytes);
            else
                memset(dx, 0, bytes);
        }
    }
}

static void spread_task(const plan *p, int64_t i, char *buffer)
{
    const nnl_conv *v = p->v;
    block b = {.r0 = i % p->row_blocks * p->rows};
    b.r1 = NNL_MIN(b.r0 + p->rows, v->in[1]);
    i /= p->row_blocks;
    b.plane = i % v->in[0];
    b.group = i / v->in[0] % p->shape.groups;
    b.sample = i / v->in[0] / p->shape.groups;
    image x = dense_image(p->dx, v->in_channels, v->in);
    char *dx = p->dx + (b.sample * x.sample + b.plane * x.place[0] + b.r0 * x.place[1] +
                        b.group * p->channels_in) *
                           p->size;
    char *rows = p->direct ? dx : buffer, *windows = buffer + p->window_bytes;
    memset(rows, 0, (size_t)((b.r1 - b.r0) * p->row_bytes));
    for (int64_t d = 0; d < v->kernel[0]; d++) {
        for (int64_t h = 0; h < v->kernel[1]; h++) spread_tap(p, &b, d, h, rows, windows);
    }
    if (!p->direct) store_rows(p, &b, rows, dx);
}

/* Blocks are rows of dx: in place where no column hangs over, else in a buffer with its padding. */
static void choose_spread_rows(plan *p)
{
    const nnl_conv *v = p->v;
    int64_t width = reach_of(v, 2, v->out[2]);
    p->direct = p->shape.groups == 1 && v->low[2] == 0 && width <= v->in[2];
    p->row_bytes = (p->direct ? v->in[2] : width) * p->channels_in * p->size;
    p->windows_bytes = p->depthwise ? 0 : v->out[2] * v->kernel[2] * p->channels_in * p->size;
    int64_t rows = v->in[1], images = v->samples * p->shape.groups * v->in[0];
    double work = work_of(v) / (double)(images * v->in[1]);
    while (rows > 1 &&
           rows * p->row_bytes + divide_up(rows, v->stride[1]) * p->windows_bytes > WINDOW)
        rows = divide_up(rows, 2);
    while (rows > v->stride[1] && images * divide_up(v->in[1], rows) < BLOCKS &&
           work * (double)rows >= 2 * BLOCK_WORK)
        rows = divide_up(rows, 2);
    p->rows = rows;
    p->row_blocks = divide_up(v->in[1], rows);
    p->window_bytes = p->direct ? 0 : round_up(rows * p->row_bytes, 64);
    p->lane_bytes = p->window_bytes + (divide_up(rows, v->stride[1]) + 1) * p->windows_bytes;
    p->tasks = images * p->row_blocks;
}

/* The weight as matrices for window_products(): taps of depth and height, then output channels x
 * the row's taps and input channels.  Depthwise: taps x channels. */
static void lay_matrices(const plan *p, const nnl_conv *v, const nnl_tensor *weight, char *out)
{
    weight_steps w = steps_of(weight, v);
    int64_t outs = p->depthwise ? 1 : p->channels_out;
    nnl_conv_order order = {.size = {v->kernel[0], v->kernel[1], outs, v->kernel[2]},
                            .step = {w.tap[0], w.tap[1], w.out, w.tap[2]},
                            .lanes = p->channels_in,
                            .lane_step = p->depthwise ? w.out : w.in};
    int64_t group = taps_of(v) * outs * p->channels_in * p->size;
    for (int64_t g = 0; g < p->shape.groups; g++, out += group) {
        const void *from = at(p, weight->data, g * p->channels_out * w.out);
        if (p->dtype == NNL_F32)
            p->kernels->conv_rows_f32((float *)(void *)out, from, &order);
        else
            p->kernels->conv_rows_f64((double *)(void *)out, from, &order);
    }
}

static nnl_status grad_input_spread(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *dx,
                                    const nnl_tensor *dy, const nnl_tensor *weight)
{
    plan p = {.v = v,
              .shape = *v,
              .kernels = rt->kernels,
              .dtype = (nnl_dtype)dx->dtype,
              .size = (int64_t)nnl_width(dx->dtype),
              .dx = dx->data,
              .task = spread_task};
    nnl_tensor *copy;
    void *memory;
    walk_groups(&p);
    choose_spread_rows(&p);
    /* the product reads whole vectors, beyond the end of a matrix, too */
    size_t bytes =
        (size_t)weight->numel * nnl_width(weight->dtype) + (size_t)p.kernels->vector_bytes;
    NNL_TRY(dense_copy(rt, v, dy, v->out, &p.y, &copy));
    nnl_status status = nnl_alloc(rt, bytes, &memory);
    if (status == NNL_OK) {
        lay_matrices(&p, v, weight, memory);
        p.weight = memory;
        status = run_tasks(rt, &p, work_of(v));
        nnl_free(rt, memory, bytes);
    }
    nnl_tensor_unref(copy);
    return status;
}

/* The part of a vector's lanes that n elements fill. */
static double filled(const nnl_runtime *rt, nnl_dtype dtype, int64_t n)
{
    int64_t lanes = rt->kernels->vector_bytes / (int64_t)nnl_width(dtype);
    return (double)n / (double)round_up(n, lanes);
}

nnl_status nnl_conv_grad_input(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *dx,
                               const nnl_tensor *dy, const nnl_tensor *weight)
{
    nnl_tensor *made;
    if (dx->numel == 0) return NNL_OK;
    if (dy->numel == 0) return nnl_fill(dx, V_INT(0));
    int64_t channels = v->in_channels / v->groups;
    bool depthwise = v->groups > 1 && channels == 1 && v->groups == v->out_channels;
    bool unit = v->stride[0] == 1 && v->stride[1] == 1 && v->stride[2] == 1;
    /* Spreading costs about a fifth, but fills vectors across taps, too. */
    bool turn =
        unit && (depthwise || filled(rt, (nnl_dtype)dx->dtype, channels) >=
                                  0.8 * filled(rt, (nnl_dtype)dx->dtype, channels * v->kernel[2]));
    NNL_TRY(result_open(rt, v, dx, &made));
    nnl_status status = turn ? grad_input_turned(rt, v, made, dy, weight)
                             : grad_input_spread(rt, v, made, dy, weight);
    return result_close(dx, made, status);
}

/* ---------------------------------------------------------------- the weight's gradient */

/* Sums over pixels are cut into parts by shape; a task is a part, a group and some panels of output
 * channels.  Rows of sums are taps x input channels, their lanes output channels; or, where that
 * fills vectors better (`across`), rows are taps x output channels and lanes the run of a tap.
 * Behind them is a row for the bias. */

static void collect(const plan *p, char *out, const nnl_conv_order *order, const char *sums,
                    int64_t parts)
{
    if (p->dtype == NNL_F32)
        p->kernels->conv_collect_f32((float *)(void *)out, order, (const float *)(const void *)sums,
                                     p->sums_step, parts, p->part_bytes / p->size);
    else
        p->kernels->conv_collect_f64((double *)(void *)out, order,
                                     (const double *)(const void *)sums, p->sums_step, parts,
                                     p->part_bytes / p->size);
}

/* Elements of a tap's run, and how many taps there are then. */
static int64_t run_of(const plan *p)
{
    bool together = p->v->dilation[2] == 1 && !p->depthwise;
    return p->channels_in * (together ? p->v->kernel[2] : 1);
}

static int64_t rows_of_sums(const plan *p)
{
    if (p->depthwise) return taps_of(p->v);
    int64_t elements = taps_of(p->v) * p->channels_in;
    return p->across ? elements / run_of(p) * p->channels_out : elements;
}

/* The run of each tap and channel, piece by piece, into dw. */
static void collect_across(const plan *p, int64_t group, const char *sums, int64_t parts)
{
    const nnl_conv_order *o = &p->order; /* taps, input channels; lanes: output channels */
    int64_t pieces = run_of(p) / p->channels_in, last = o->size[2] / pieces;
    char *out = p->dw + group * p->channels_out * o->lane_step * p->size;
    nnl_conv_order one = {.size = {1, 1, 1, p->channels_out},
                          .step = {0, 0, 0, o->lane_step},
                          .lanes = p->channels_in,
                          .lane_step = o->step[3]};
    for (int64_t tap = 0; tap < o->size[0] * o->size[1] * last; tap++) {
        int64_t k = tap % last * pieces, j = tap / last % o->size[1], i = tap / last / o->size[1];
        for (int64_t piece = 0; piece < pieces; piece++) {
            int64_t place = i * o->step[0] + j * o->step[1] + (k + piece) * o->step[2];
            collect(p, out + place * p->size, &one, at(p, sums, piece * p->channels_in), parts);
        }
        sums += p->channels_out * p->sums_step * p->size;
    }
}

/* Sums of `count` channels from `channel` on of a group into dw and db. */
static void collect_channels(const plan *p, int64_t group, int64_t channel, int64_t count,
                             const char *sums, int64_t parts)
{
    nnl_conv_order order = p->order;
    int64_t first = group * p->channels_out + channel;
    order.lanes = count;
    if (p->dw && p->across)
        collect_across(p, group, sums, parts);
    else if (p->dw)
        collect(p, p->dw + first * order.lane_step * p->size, &order, sums, parts);
    if (!p->with_bias) return;
    nnl_conv_order one = {.size = {1, 1, 1, 1}, .lanes = count, .lane_step = 1};
    collect(p, p->db + first * p->size, &one, sums + rows_of_sums(p) * p->sums_step * p->size,
            parts);
}

static void add_sums(const plan *p, const nnl_conv_sums *call, bool depthwise)
{
    const nnl_kernels *k = p->kernels;
    if (p->dtype == NNL_F32)
        (depthwise ? k->conv_depthwise_sums_f32 : k->conv_sums_f32)(call);
    else
        (depthwise ? k->conv_depthwise_sums_f64 : k->conv_sums_f64)(call);
}

/* The same sums with rows and lanes exchanged. */
static nnl_conv_sums exchanged(const nnl_conv_sums *s)
{
    nnl_conv_sums t = *s;
    t.x = s->dy;
    t.x_row = s->dy_row;
    t.x_column = s->dy_column;
    t.run = s->channels;
    t.dy = s->x;
    t.dy_row = s->x_row;
    t.dy_column = s->x_column;
    t.channels = s->run;
    return t;
}

/* What the block's pixels give for `count` channels from `channel` on. */
static void sum_block(const plan *p, const block *b, int64_t channel, int64_t count, char *sums,
                      char *buffer)
{
    static const float one_f32 = 1;
    static const double one_f64 = 1;
    const image *y = &p->y;
    int64_t dy = b->sample * y->sample + b->plane * y->place[0] + b->r0 * y->place[1] +
                 b->c0 * y->place[2] + (b->group * p->channels_out + channel) * y->channel;
    nnl_conv_sums call = {.rows = b->r1 - b->r0,
                          .columns = b->c1 - b->c0,
                          .x_row = b->x_row,
                          .x_column = b->x_column,
                          .run = b->run,
                          .dy = at(p, y->data, dy),
                          .dy_row = y->place[1],
                          .dy_column = y->place[2],
                          .channels = count,
                          .sums = sums,
                          .sums_step = p->sums_step};
    if (p->dy_bytes > 0) {
        call.dy = buffer;
        call.dy_column = count;
        call.dy_row = count * call.columns;
        for (int64_t r = 0; r < call.rows; r++, dy += y->place[1])
            p->kernels->conv_row((int)p->size, buffer + r * call.dy_row * p->size, 0, call.columns,
                                 0, count, at(p, y->data, dy), y->place[2], y->channel);
    }
    nnl_conv_sums tap = p->across ? exchanged(&call) : call;
    int64_t rows = p->depthwise ? 1 : tap.run, from = p->depthwise ? channel : 0;
    for (int64_t i = 0; i < b->taps[0]; i++) {
        for (int64_t j = 0; j < b->taps[1]; j++) {
            for (int64_t k = 0; k < b->taps[2]; k++) {
                int64_t place = i * b->x_tap[0] + j * b->x_tap[1] + k * b->x_tap[2] + from;
                *(p->across ? &tap.dy : &tap.x) = at(p, b->x, place);
                add_sums(p, &tap, p->depthwise);
                tap.sums = (char *)tap.sums + rows * p->sums_step * p->size;
            }
        }
    }
    if (!p->with_bias) return;
    call.x = p->dtype == NNL_F32 ? (const void *)&one_f32 : (const void *)&one_f64;
    call.x_row = call.x_column = 0;
    call.run = 1;
    call.sums = tap.sums;
    add_sums(p, &call, false);
}

static void sums_task(const plan *p, int64_t i, char *buffer)
{
    int64_t panel = i % p->panels, group = i / p->panels % p->shape.groups,
            part = i / p->panels / p->shape.groups;
    int64_t channel = panel * p->panel_width,
            count = NNL_MIN(p->panel_width, p->channels_out - channel);
    char *sums = p->lane_sums
                     ? buffer + p->window_bytes + p->dy_bytes
                     : p->sums + part * p->part_bytes + group * p->group_bytes + channel * p->size;
    if (p->lane_sums) memset(sums, 0, (size_t)p->sums_bytes);
    /* Blocks of one group: every groups-th run of them. */
    int64_t in_image = p->row_blocks * p->column_blocks * p->shape.out[0],
            blocks = p->blocks / p->shape.groups;
    for (int64_t u = blocks * part / p->parts; u < blocks * (part + 1) / p->parts; u++) {
        block b = block_at(p, (u / in_image * p->shape.groups + group) * in_image + u % in_image);
        open_window(p, &b, buffer);
        sum_block(p, &b, channel, count, sums, buffer + p->window_bytes);
    }
    if (p->lane_sums) collect_channels(p, group, channel, count, sums, 1);
}

static void collect_task(const plan *p, int64_t i, char *buffer)
{
    (void)buffer;
    int64_t group = i / p->panels, channel = i % p->panels * p->panel_width;
    collect_channels(p, group, channel, NNL_MIN(p->panel_width, p->channels_out - channel),
                     p->sums + group * p->group_bytes + channel * p->size, p->parts);
}

/* Vectors by elements, of which a single vector runs at two thirds of the speed of two. */
static double cost_of(int64_t lanes_used, int64_t elements, int64_t lanes)
{
    return (double)elements * (double)divide_up(lanes_used, lanes) * (lanes_used > lanes ? 1 : 1.5);
}

static void choose_parts(plan *p)
{
    int64_t lanes = lanes_of(p), width = round_up(p->channels_out, lanes), tile = 2 * lanes;
    int64_t run = run_of(p);
    p->across = !p->depthwise && run > 0 && p->channels_out <= lanes &&
                cost_of(run, p->channels_out, lanes) < cost_of(p->channels_out, run, lanes);
    if (p->across) width = round_up(run, lanes);
    int64_t depth = rows_of_sums(p) + p->with_bias, panels = p->across ? 1 : divide_up(width, tile);
    int64_t bytes = depth * width * p->size * p->shape.groups;
    p->parts = NNL_MIN(NNL_MAX(PARTS_BYTES / NNL_MAX(bytes, 1), 1), PARTS);
    p->parts = NNL_MIN(p->parts, p->blocks / p->shape.groups);
    p->parts = (int64_t)NNL_MIN((double)p->parts, NNL_MAX(work_of(p->v) / (2 * BLOCK_WORK), 1));
    p->lane_sums = p->parts == 1;
    int64_t groups = NNL_MIN(panels, divide_up(BLOCKS / 2, p->parts * p->shape.groups));
    if (p->lane_sums && divide_up(panels, groups) * tile * depth * p->size > PARTS_BYTES / 4)
        groups = panels;
    p->panel_width = p->across ? p->channels_out : divide_up(panels, groups) * tile;
    p->panels = p->across ? 1 : divide_up(width, p->panel_width);
    p->sums_step = p->lane_sums && !p->across ? NNL_MIN(p->panel_width, width) : width;
    p->group_bytes = depth * width * p->size;
    p->part_bytes = p->group_bytes * p->shape.groups;
    p->sums_bytes = depth * p->sums_step * p->size;
    if (p->y.channel != 1 && p->channels_out > 1)
        p->dy_bytes = round_up(p->rows * p->columns * p->panel_width * p->size, 64);
    /* Pieces of runs are read by whole vectors. */
    int64_t more = p->across ? lanes * p->size : 0;
    p->lane_bytes = p->window_bytes + p->dy_bytes + (p->lane_sums ? p->sums_bytes + more : 0);
    p->tasks = p->parts * p->shape.groups * p->panels;
}

static nnl_status sum_parts(nnl_runtime *rt, plan *p)
{
    p->task = sums_task;
    if (p->lane_sums) return run_tasks(rt, p, work_of(p->v));
    void *sums;
    size_t bytes = (size_t)(p->parts * p->part_bytes + lanes_of(p) * p->size);
    NNL_TRY(nnl_alloc_zeroed(rt, bytes, &sums));
    p->sums = sums;
    nnl_status status = run_tasks(rt, p, work_of(p->v));
    if (status == NNL_OK) {
        p->task = collect_task;
        p->lane_bytes = 0;
        p->tasks = p->shape.groups * p->panels;
        status = run_tasks(rt, p, (double)(p->parts * p->part_bytes));
    }
    nnl_free(rt, sums, bytes);
    return status;
}

nnl_status nnl_conv_grad_weight(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *dw, nnl_tensor *db,
                                const nnl_tensor *dy, const nnl_tensor *input)
{
    image x = image_of(input, v);
    if (dy->numel == 0 || dw->numel == 0) {
        NNL_TRY(nnl_fill(dw, V_INT(0)));
        if (!db) return NNL_OK;
        if (dy->numel == 0) return nnl_fill(db, V_INT(0));
    }
    plan p = plan_of(rt, v, (nnl_dtype)dw->dtype, &x, false);
    weight_steps w = steps_of(dw, v);
    p.order = forward_order(&p, &w);
    p.y = image_of(dy, v);
    p.dw = dw->numel > 0 ? dw->data : NULL;
    p.db = db ? db->data : NULL;
    p.with_bias = db != NULL;
    choose_parts(&p);
    return sum_parts(rt, &p);
}
