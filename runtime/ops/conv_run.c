/* Convolutions forward and the gradient of their input, on the kernels of kernels/conv.c. */
#include "conv_plan.h"
#include "image.h"
#include "pool.h"

#include <string.h>

/* ---------------------------------------------------------------- images in memory */

/* Whether the image lies so, up to dimensions of size 1. */
static bool is_dense(const nnl_conv_image *m, int64_t samples, int64_t channels,
                     const int64_t sizes[3])
{
    nnl_conv_image d = nnl_conv_image_dense(NULL, channels, sizes);
    bool same = (m->channel == 1 || channels == 1) && (m->sample == d.sample || samples == 1);
    for (int i = 0; i < 3; i++) same = same && (m->place[i] == d.place[i] || sizes[i] == 1);
    return same;
}

/* t as a dense image: its own memory, or that of a copy that the caller drops. */
static nnl_status dense_copy(const nnl_conv *v, const nnl_tensor *t, const int64_t sizes[3],
                             nnl_conv_image *out, nnl_tensor **copy)
{
    int64_t channels = t->shape[v->batched];
    nnl_conv_image m = nnl_conv_image_of(t, v);
    *copy = NULL;
    *out = nnl_conv_image_dense(t->data, channels, sizes);
    if (is_dense(&m, v->samples, channels, sizes)) return NNL_OK;
    nnl_spec spec = {.dtype = (nnl_dtype)t->dtype, .ndim = v->rank + 2, .channels_last = true};
    spec.shape[0] = v->samples;
    for (int d = 1; d < spec.ndim; d++) spec.shape[d] = t->shape[d - !v->batched];
    NNL_TRY(nnl_copy_as(&spec, t, copy));
    out->data = (*copy)->data;
    return NNL_OK;
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

/* ---------------------------------------------------------------- forward */

static void pack(const nnl_conv_plan *p, char *out, const char *in, const nnl_conv_order *order)
{
    if (p->dtype == NNL_F32)
        p->kernels->conv_pack_f32((float *)(void *)out, (const float *)(const void *)in, order);
    else
        p->kernels->conv_pack_f64((double *)(void *)out, (const double *)(const void *)in, order);
}

/* Of a packed weight. */
static int64_t group_bytes(const nnl_conv_plan *p, const nnl_conv_order *order)
{
    int64_t depth = order->size[0] * order->size[1] * order->size[2] * order->size[3];
    return depth * nnl_round_up(order->lanes, nnl_conv_lanes(p)) * p->size;
}

/* Packs the weight of every group; the caller frees *packed, of *bytes. */
static nnl_status pack_groups(nnl_runtime *rt, const nnl_conv_plan *p, const char *from,
                              int64_t group_step, const nnl_conv_order *order, char **packed,
                              size_t *bytes)
{
    int64_t group = group_bytes(p, order);
    void *memory;
    *bytes = (size_t)(group * p->shape.groups);
    NNL_TRY(nnl_alloc(rt, *bytes, &memory));
    *packed = memory;
    for (int64_t g = 0; g < p->shape.groups; g++)
        pack(p, *packed + g * group, nnl_conv_at(p, from, g * group_step), order);
    return NNL_OK;
}

/* Zeros behind each of the block's rows, which are those before the next row, too. */
static void write_frame(const nnl_conv_plan *p, const nnl_conv_part *b, char *y)
{
    int64_t side = p->frame * p->v->out_channels * p->size, row = p->y.place[1] * p->size;
    bool last = b->sample == p->v->samples - 1 && b->r1 == p->v->out[1];
    if (b->sample == 0 && b->r0 == 0) memset(y - side, 0, (size_t)side);
    y += p->v->out[2] * p->y.place[2] * p->size;
    for (int64_t r = b->r0; r < b->r1; r++, y += row)
        memset(y, 0, (size_t)(last && r == b->r1 - 1 ? side : 2 * side));
}

static void forward_task(const nnl_conv_plan *p, int64_t i, char *buffer)
{
    const nnl_conv *s = &p->shape;
    nnl_conv_part b = nnl_conv_part_at(p, i);
    nnl_conv_part_open(p, &b, buffer);
    int64_t depth = nnl_conv_taps(s) * p->channels_in, channel = b.group * p->channels_out;
    int64_t y = b.sample * p->y.sample + b.plane * p->y.place[0] + b.r0 * p->y.place[1] +
                b.c0 * p->y.place[2] + channel;
    nnl_conv_block call = {
        .rows = b.r1 - b.r0,
        .columns = b.c1 - b.c0,
        .x = b.x,
        .x_row = b.x_row,
        .x_column = b.x_column,
        .first_row = b.first_row,
        .end_row = b.end_row,
        .row_step = b.taps[1] == s->kernel[1] ? s->stride[1] : 0,
        .row_tap = s->dilation[1],
        .run = b.run,
        .w = nnl_conv_at(p, p->weight,
                         b.group * depth * nnl_round_up(p->channels_out, nnl_conv_lanes(p))),
        .channels = p->channels_out,
        .y = (char *)nnl_conv_at(p, p->y.data, y),
        .y_row = p->y.place[1],
        .y_column = p->y.place[2],
        .bias = p->bias ? nnl_conv_at(p, p->bias, channel) : NULL,
        .center = p->center ? nnl_conv_at(p, p->center, channel) : NULL,
        .scale = p->scale ? nnl_conv_at(p, p->scale, channel) : NULL,
        .shift = p->shift ? nnl_conv_at(p, p->shift, channel) : NULL,
        .residual = p->residual ? nnl_conv_at(p, p->residual, y) : NULL,
        .relu = p->relu};
    memcpy(call.taps, b.taps, sizeof call.taps);
    memcpy(call.x_tap, b.x_tap, sizeof call.x_tap);
    const nnl_kernels *k = p->kernels;
    if (p->dtype == NNL_F32)
        (p->depthwise ? k->conv_depthwise_f32 : k->conv_block_f32)(&call);
    else
        (p->depthwise ? k->conv_depthwise_f64 : k->conv_block_f64)(&call);
    if (p->frame > 0 && b.group == 0 && b.c0 == 0) write_frame(p, &b, call.y);
}

/* y, a dense image of v->out_channels, from x and a packed weight. */
static nnl_status run_blocks(nnl_runtime *rt, nnl_conv_plan *p, void *y, const char *packed,
                             const char *bias)
{
    p->y = nnl_conv_image_dense(y, p->v->out_channels, p->shape.out);
    p->weight = packed;
    p->bias = bias;
    p->task = forward_task;
    p->tasks = p->blocks;
    p->lane_bytes = p->window_bytes;
    return nnl_conv_run_tasks(rt, p, nnl_conv_work(p->v));
}

static nnl_status forward(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *out,
                          const nnl_tensor *input, const nnl_tensor *weight, const nnl_tensor *bias,
                          bool relu)
{
    if (nnl_conv_is_flat(rt, v, (nnl_dtype)out->dtype))
        return nnl_conv_flat_forward(rt, v, out, input, weight, bias, relu);
    nnl_conv_image x = nnl_conv_image_of(input, v);
    nnl_conv_plan p = nnl_conv_plan_make(rt, v, (nnl_dtype)out->dtype, &x, true);
    nnl_conv_steps w = nnl_conv_steps_of(weight, v);
    nnl_conv_order order = nnl_conv_order_of(&p, &w);
    char *packed;
    size_t bytes;
    NNL_TRY(pack_groups(rt, &p, weight->data, p.channels_out * w.out, &order, &packed, &bytes));
    p.relu = relu;
    nnl_status status = run_blocks(rt, &p, out->data, packed, bias ? bias->data : NULL);
    nnl_free(rt, packed, bytes);
    return status;
}

nnl_status nnl_conv_forward(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *out,
                            const nnl_tensor *input, const nnl_tensor *weight,
                            const nnl_tensor *bias, bool relu)
{
    nnl_tensor *made, *adjacent = NULL;
    if (out->numel == 0) return NNL_OK;
    if (bias && bias->strides[0] != 1) {
        NNL_TRY(nnl_copy_new(bias, &adjacent));
        bias = adjacent;
    }
    nnl_status status = result_open(rt, v, out, &made);
    if (status == NNL_OK)
        status = result_close(out, made, forward(rt, v, made, input, weight, bias, relu));
    nnl_tensor_unref(adjacent);
    return status;
}

/* ---------------------------------------------------------------- run again and again */

enum conv_way { BY_BLOCKS, BY_WINOGRAD, FLAT };

struct nnl_conv_ready {
    nnl_conv v;
    nnl_conv_plan plan;
    enum conv_way way;
    bool copies; /* the input, whose channels lie apart */
};

/* By Winograd's tiles the input is copied first where its channels lie apart. */
static bool lies_apart(const nnl_conv *v, const nnl_conv_image *x)
{
    return v->in_channels > 1 && x->channel != 1;
}

static nnl_conv_plan winograd_plan(nnl_runtime *rt, const nnl_conv *v, nnl_conv_image *x,
                                   int64_t frame)
{
    if (lies_apart(v, x)) *x = nnl_conv_image_dense(NULL, v->in_channels, v->in);
    return nnl_conv_winograd_plan(rt, v, x, frame);
}

static void set_forward(const nnl_runtime *rt, nnl_conv_plan *p)
{
    p->task = forward_task;
    if (rt->pool) nnl_conv_cut(rt, p);
    nnl_conv_cut_windows(p);
    p->tasks = p->blocks;
    p->lane_bytes = nnl_conv_lane_bytes(p);
    nnl_conv_share(rt, p, nnl_conv_lane_work(p), rt->pool != NULL);
}

/* The block's results are made in the lane's memory, and the maxima of their windows go to y. */
static void pooled_task(const nnl_conv_plan *p, int64_t i, char *buffer)
{
    const nnl_conv_part b = nnl_conv_part_at(p, i);
    const int64_t side = p->pool, row = p->y.place[1] * p->size;
    char *results = buffer + p->window_bytes;
    nnl_conv_plan block = *p;
    block.y.sample = 0;
    block.y.data = results - b.r0 * row;
    p->before_pool(&block, i, buffer);
    char *to = p->pooled + (b.sample * p->v->out[1] + b.r0) / side * (row / side);
    for (int64_t r = b.r0; r < b.r1; r += side, to += row / side)
        p->kernels->pool_max_row(p->pool_row, (int)p->dtype, to, NULL, results + (r - b.r0) * row);
}

static void set_pool(nnl_conv_plan *p, void *memory)
{
    p->pool_row = nnl_pool_tiles(p->kernels, p->pool, p->v->out[2], p->v->out_channels, memory);
    p->before_pool = p->task;
    p->task = pooled_task;
}

static enum conv_way way_of(const nnl_runtime *rt, const nnl_conv *v, nnl_dtype dtype,
                            const nnl_conv_last *last)
{
    if (last->winograd) return BY_WINOGRAD;
    bool plain = !last->mean && !last->residual && last->frame_out == 0;
    return plain && nnl_conv_is_flat(rt, v, dtype) ? FLAT : BY_BLOCKS;
}

/* The plan of y, and how its tasks go to threads. */
static nnl_conv_plan ready_plan(nnl_runtime *rt, const nnl_conv *v, enum conv_way way,
                                const nnl_tensor *y, nnl_conv_image *x, const nnl_conv_last *last)
{
    nnl_conv_plan p;
    if (way == FLAT) {
        p = nnl_conv_flat_plan(rt, v, x);
        p.flat.relu = last->relu;
        p.pool = last->pool;
        nnl_conv_flat_share(rt, &p);
        return p;
    }
    p = way == BY_WINOGRAD ? winograd_plan(rt, v, x, last->frame_in)
                           : nnl_conv_plan_framed(rt, v, (nnl_dtype)y->dtype, x, last->frame_in,
                                                  last->frame_out == 0 && !last->pool);
    p.pool = last->pool;
    p.y = last->frame_out ? nnl_conv_image_of(y, v)
                          : nnl_conv_image_dense(NULL, v->out_channels, p.shape.out);
    p.frame = last->frame_out;
    p.relu = last->relu;
    if (way == BY_WINOGRAD)
        nnl_conv_winograd_share(rt, &p);
    else
        set_forward(rt, &p);
    return p;
}

/* Bytes of the packed weight. */
static int64_t packed_bytes(const nnl_conv_plan *p, enum conv_way way, const nnl_conv_order *order)
{
    if (way == FLAT) return nnl_conv_flat_weight_bytes(p);
    if (way == BY_WINOGRAD) return nnl_conv_winograd_weight_bytes(p);
    return group_bytes(p, order) * p->shape.groups;
}

static nnl_status pack_ready(nnl_runtime *rt, nnl_conv_plan *p, enum conv_way way,
                             const nnl_tensor *weight, const nnl_conv_order *order, char *packed)
{
    p->weight = packed;
    if (way == FLAT) nnl_conv_flat_pack(p, packed, weight);
    if (way == BY_WINOGRAD) return nnl_conv_winograd_pack(rt, p, packed, weight->data, order);
    int64_t group = group_bytes(p, order), step = p->channels_out * weight->strides[0];
    for (int64_t g = 0; g < p->shape.groups && way == BY_BLOCKS; g++)
        pack(p, packed + g * group, nnl_conv_at(p, weight->data, g * step), order);
    return NNL_OK;
}

nnl_status nnl_conv_get_ready(nnl_runtime *rt, const nnl_conv *v, const nnl_tensor *y,
                              const nnl_tensor *input, const nnl_tensor *weight,
                              const nnl_conv_last *last, nnl_conv_ready **out, size_t *bytes)
{
    *out = NULL;
    if (!v->batched || y->numel == 0 || (last->bias && last->bias->strides[0] != 1)) return NNL_OK;
    nnl_conv_image x = nnl_conv_image_of(input, v);
    const enum conv_way way = way_of(rt, v, (nnl_dtype)y->dtype, last);
    const bool copies = way == BY_WINOGRAD && lies_apart(v, &x);
    nnl_conv_plan p = ready_plan(rt, v, way, y, &x, last);
    nnl_conv_steps w = nnl_conv_steps_of(weight, v);
    nnl_conv_order order = nnl_conv_order_of(&p, &w);
    int64_t head = nnl_round_up(sizeof(nnl_conv_ready), 64),
            channels = nnl_round_up(v->out_channels * p.size, 64),
            packed = nnl_round_up(packed_bytes(&p, way, &order), 64);
    void *block;
    *bytes = (size_t)(head + 3 * channels + packed) +
             (last->pool ? nnl_pool_tiles_bytes(last->pool, v->out[2]) : 0);
    NNL_TRY(nnl_alloc(rt, *bytes, &block));
    nnl_conv_ready *ready = block;
    *ready = (nnl_conv_ready){.v = *v, .way = way, .copies = copies};
    p.v = &ready->v;
    char *norm = (char *)block + head;
    nnl_status status = pack_ready(rt, &p, way, weight, &order, norm + 3 * channels);
    if (status != NNL_OK) {
        nnl_free(rt, block, *bytes);
        return status;
    }
    if (last->mean) {
        nnl_norm_constants(p.dtype, v->out_channels, last->mean, last->var, last->norm_weight,
                           last->norm_bias, last->eps, norm, norm + channels, norm + 2 * channels);
        p.center = norm;
        p.scale = norm + channels;
        p.shift = norm + 2 * channels;
    }
    if (p.pool) set_pool(&p, norm + 3 * channels + packed);
    ready->plan = p;
    *out = ready;
    return NNL_OK;
}

nnl_status nnl_conv_run_ready(nnl_runtime *rt, nnl_conv_ready *ready, void *y,
                              const nnl_tensor *input, const void *bias, const void *residual)
{
    nnl_conv_plan *p = &ready->plan;
    nnl_conv_image x = {.data = input->data};
    nnl_tensor *copy = NULL;
    if (ready->copies) NNL_TRY(dense_copy(&ready->v, input, ready->v.in, &x, &copy));
    p->x.data = x.data;
    if (p->pool)
        p->pooled = y;
    else
        p->y.data = y;
    p->bias = bias;
    p->residual = residual;
    if (ready->way == FLAT) nnl_conv_flat_set_bias(p, bias);
    nnl_status status = nnl_conv_run_lanes(rt, p);
    nnl_tensor_unref(copy);
    return status;
}

/* ---------------------------------------------------------------- the input's gradient */

nnl_conv nnl_conv_turned(const nnl_conv *v)
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

/* The order of the weight turned around, and its first element. */
static nnl_conv_order turned_order(const nnl_conv_plan *p, const nnl_conv *v,
                                   const nnl_tensor *weight, const void **first)
{
    nnl_conv_steps w = nnl_conv_steps_of(weight, v);
    int64_t last = 0; /* tap */
    for (int i = 0; i < 3; i++) last += (v->kernel[i] - 1) * w.tap[i];
    *first = nnl_conv_at(p, weight->data, last);
    return (nnl_conv_order){
        .size = {v->kernel[0], v->kernel[1], v->kernel[2], p->depthwise ? 1 : p->channels_in},
        .step = {-w.tap[0], -w.tap[1], -w.tap[2], w.out},
        .lanes = p->channels_out,
        .lane_step = p->depthwise ? w.out : w.in};
}

static nnl_status grad_input_turned(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *dx,
                                    const nnl_tensor *dy, const nnl_tensor *weight)
{
    nnl_conv t = nnl_conv_turned(v);
    nnl_conv_image y = nnl_conv_image_of(dy, v);
    nnl_conv_plan p = nnl_conv_plan_make(rt, &t, (nnl_dtype)dx->dtype, &y, true);
    const void *from;
    nnl_conv_order order = turned_order(&p, v, weight, &from);
    char *packed;
    size_t bytes;
    NNL_TRY(pack_groups(rt, &p, from, v->out_channels / v->groups * weight->strides[0], &order,
                        &packed, &bytes));
    nnl_status status = run_blocks(rt, &p, dx->data, packed, NULL);
    nnl_free(rt, packed, bytes);
    return status;
}

nnl_status nnl_conv_winograd_grad_input(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *dx,
                                        const nnl_tensor *dy, const nnl_tensor *weight)
{
    nnl_conv t = nnl_conv_turned(v);
    nnl_conv_image y = nnl_conv_image_of(dy, v);
    nnl_tensor *copy = NULL;
    void *packed;
    if (lies_apart(&t, &y)) NNL_TRY(dense_copy(v, dy, v->out, &y, &copy));
    nnl_conv_plan p = nnl_conv_winograd_plan(rt, &t, &y, 0);
    size_t bytes = (size_t)nnl_conv_winograd_weight_bytes(&p);
    nnl_status status = nnl_alloc(rt, bytes, &packed);
    if (status == NNL_OK) {
        const void *from;
        nnl_conv_order order = turned_order(&p, v, weight, &from);
        p.y = nnl_conv_image_dense(dx->data, v->in_channels, v->in);
        p.weight = packed;
        status = nnl_conv_winograd_pack(rt, &p, packed, from, &order);
        nnl_conv_winograd_share(rt, &p);
        if (status == NNL_OK) status = nnl_conv_run_lanes(rt, &p);
        nnl_free(rt, packed, bytes);
    }
    nnl_tensor_unref(copy);
    return status;
}

/* Otherwise every pixel of dy times the weight is added where the pixel's window lies: blocks are
 * rows of dx. */

/* floor and ceiling of a / b, b > 0 */
static int64_t floor_of(int64_t a, int64_t b) { return a >= 0 ? a / b : -nnl_divide_up(-a, b); }
static int64_t ceiling_of(int64_t a, int64_t b) { return -floor_of(-a, b); }

/* Adds rows of dy times the weight, for one tap of depth and height, where their windows lie: taps
 * that are adjacent at once. */
static void spread_rows(const nnl_conv_plan *p, int64_t tap, int64_t dy, int64_t rows, char *dx)
{
    const nnl_conv *v = p->v;
    bool together = v->dilation[2] == 1;
    int64_t pieces = together ? 1 : v->kernel[2], n = v->kernel[2] * p->channels_in;
    nnl_conv_spread s = {.rows = rows,
                         .columns = v->out[2],
                         .depth = p->channels_out,
                         .n = n / pieces,
                         .dy = nnl_conv_at(p, p->y.data, dy),
                         .dy_row = p->y.place[1],
                         .dy_column = p->y.place[2],
                         .w_row = n,
                         .dx_row = v->stride[1] * p->row_bytes / p->size,
                         .dx_column = v->stride[2] * p->channels_in};
    for (int64_t piece = 0; piece < pieces; piece++) {
        s.w = nnl_conv_at(p, p->weight, tap * p->channels_out * n + piece * s.n);
        s.dx = dx + piece * v->dilation[2] * p->channels_in * p->size;
        if (p->dtype == NNL_F32)
            p->kernels->conv_spread_f32(&s);
        else
            p->kernels->conv_spread_f64(&s);
    }
}

/* The same for a depthwise weight, which needs no product first. */
static void spread_depthwise(const nnl_conv_plan *p, char *row, int64_t tap, int64_t dy)
{
    const nnl_conv *v = p->v;
    int64_t column = v->stride[2] * p->channels_in, piece = v->dilation[2] * p->channels_in;
    const void *w = nnl_conv_at(p, p->weight, tap * v->kernel[2] * p->channels_in),
               *from = nnl_conv_at(p, p->y.data, dy);
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
static void spread_tap(const nnl_conv_plan *p, const nnl_conv_part *b, int64_t d, int64_t h,
                       char *rows)
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
    char *to = rows + (first * v->stride[1] - shift - b->r0) * p->row_bytes;
    if (!p->depthwise) {
        spread_rows(p, tap, dy, end - first, to);
        return;
    }
    for (int64_t row = first; row < end; row++) {
        spread_depthwise(p, to, tap, dy + (row - first) * p->y.place[1]);
        to += v->stride[1] * p->row_bytes;
    }
}

/* Rows of the buffer, without their padding, into dx. */
static void store_rows(const nnl_conv_plan *p, const nnl_conv_part *b, const char *rows, char *dx)
{
    const nnl_conv *v = p->v;
    int64_t width = nnl_conv_reach_of(v, 2, v->out[2]), from = NNL_MIN(v->low[2], width);
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

static void spread_task(const nnl_conv_plan *p, int64_t i, char *buffer)
{
    const nnl_conv *v = p->v;
    nnl_conv_part b = {.r0 = i % p->row_blocks * p->rows};
    b.r1 = NNL_MIN(b.r0 + p->rows, v->in[1]);
    i /= p->row_blocks;
    b.plane = i % v->in[0];
    b.group = i / v->in[0] % p->shape.groups;
    b.sample = i / v->in[0] / p->shape.groups;
    nnl_conv_image x = nnl_conv_image_dense(p->dx, v->in_channels, v->in);
    char *dx = p->dx + (b.sample * x.sample + b.plane * x.place[0] + b.r0 * x.place[1] +
                        b.group * p->channels_in) *
                           p->size;
    char *rows = p->direct ? dx : buffer;
    memset(rows, 0, (size_t)((b.r1 - b.r0) * p->row_bytes));
    for (int64_t d = 0; d < v->kernel[0]; d++) {
        for (int64_t h = 0; h < v->kernel[1]; h++) spread_tap(p, &b, d, h, rows);
    }
    if (!p->direct) store_rows(p, &b, rows, dx);
}

/* Blocks are rows of dx: in place where no column hangs over, else in a buffer with its padding. */
static void choose_spread_rows(nnl_conv_plan *p)
{
    const nnl_conv *v = p->v;
    int64_t width = nnl_conv_reach_of(v, 2, v->out[2]);
    p->direct = p->shape.groups == 1 && v->low[2] == 0 && width <= v->in[2];
    p->row_bytes = (p->direct ? v->in[2] : width) * p->channels_in * p->size;
    int64_t rows = v->in[1], images = v->samples * p->shape.groups * v->in[0];
    double work = nnl_conv_work(v) / (double)(images * v->in[1]);
    while (rows > 1 && rows * p->row_bytes > NNL_CONV_WINDOW) rows = nnl_divide_up(rows, 2);
    while (rows > v->stride[1] && images * nnl_divide_up(v->in[1], rows) < NNL_CONV_BLOCKS &&
           work * (double)rows >= 2 * NNL_CONV_BLOCK_WORK)
        rows = nnl_divide_up(rows, 2);
    p->rows = rows;
    p->row_blocks = nnl_divide_up(v->in[1], rows);
    p->window_bytes = p->direct ? 0 : nnl_round_up(rows * p->row_bytes, 64);
    p->lane_bytes = p->window_bytes;
    p->tasks = images * p->row_blocks;
}

/* The weight as matrices for window_products(): taps of depth and height, then output channels x
 * the row's taps and input channels.  Depthwise: taps x channels. */
static void lay_matrices(const nnl_conv_plan *p, const nnl_conv *v, const nnl_tensor *weight,
                         char *out)
{
    nnl_conv_steps w = nnl_conv_steps_of(weight, v);
    int64_t outs = p->depthwise ? 1 : p->channels_out;
    nnl_conv_order order = {.size = {v->kernel[0], v->kernel[1], outs, v->kernel[2]},
                            .step = {w.tap[0], w.tap[1], w.out, w.tap[2]},
                            .lanes = p->channels_in,
                            .lane_step = p->depthwise ? w.out : w.in};
    int64_t group = nnl_conv_taps(v) * outs * p->channels_in * p->size;
    for (int64_t g = 0; g < p->shape.groups; g++, out += group) {
        const void *from = nnl_conv_at(p, weight->data, g * p->channels_out * w.out);
        if (p->dtype == NNL_F32)
            p->kernels->conv_rows_f32((float *)(void *)out, from, &order);
        else
            p->kernels->conv_rows_f64((double *)(void *)out, from, &order);
    }
}

static nnl_status grad_input_spread(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *dx,
                                    const nnl_tensor *dy, const nnl_tensor *weight)
{
    nnl_conv_plan p = {.v = v,
                       .shape = *v,
                       .kernels = rt->kernels,
                       .dtype = (nnl_dtype)dx->dtype,
                       .size = (int64_t)nnl_width(dx->dtype),
                       .dx = dx->data,
                       .task = spread_task};
    nnl_tensor *copy;
    void *memory;
    nnl_conv_walk_groups(&p);
    choose_spread_rows(&p);
    /* whole vectors are read, beyond the end of a matrix, too */
    size_t bytes =
        (size_t)weight->numel * nnl_width(weight->dtype) + (size_t)p.kernels->vector_bytes;
    NNL_TRY(dense_copy(v, dy, v->out, &p.y, &copy));
    nnl_status status = nnl_alloc(rt, bytes, &memory);
    if (status == NNL_OK) {
        lay_matrices(&p, v, weight, memory);
        p.weight = memory;
        status = nnl_conv_run_tasks(rt, &p, nnl_conv_work(v));
        nnl_free(rt, memory, bytes);
    }
    nnl_tensor_unref(copy);
    return status;
}

/* The part of a vector's lanes that n elements fill. */
static double filled(const nnl_runtime *rt, nnl_dtype dtype, int64_t n)
{
    int64_t lanes = rt->kernels->vector_bytes / (int64_t)nnl_width(dtype);
    return (double)n / (double)nnl_round_up(n, lanes);
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
