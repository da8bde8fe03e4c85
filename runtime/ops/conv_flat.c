/* Convolutions of one input channel and few output channels, by the kernels that fill vectors with
 * adjacent elements of the results (kernels/conv_flat.h).  Forward, the bits are those of the other
 * kernels. */
#include "conv_plan.h"

#include <string.h>

/* Parts of the batch whose sums are kept apart, at most. */
#define PARTS 16

bool nnl_conv_is_flat(const nnl_runtime *rt, const nnl_conv *v, nnl_dtype dtype)
{
    int64_t lanes = rt->kernels->vector_bytes / (int64_t)nnl_width(NNL_F32);
    bool narrow = v->in_channels == 1 && 2 * v->out_channels <= lanes && dtype == NNL_F32;
    bool plane = v->kernel[0] == 1 && v->stride[0] == 1 && v->in[0] == v->out[0];
    for (int d = 1; d < 3; d++)
        narrow &= v->stride[d] == 1 && v->dilation[d] == 1 && v->kernel[d] <= NNL_CONV_FLAT_TAPS;
    return narrow && plane && v->out_channels > 1;
}

static int64_t period_of(const nnl_runtime *rt, int64_t channels)
{
    int64_t lanes = rt->kernels->vector_bytes / (int64_t)nnl_width(NNL_F32), period = 1;
    while (period * lanes % channels != 0) period++;
    return period;
}

/* The image is always read from a buffer: kernels look a vector further. */
static void take_windows(nnl_conv_plan *p)
{
    int64_t window = nnl_conv_reach_of(p->v, 1, p->rows) * nnl_conv_reach_of(p->v, 2, p->columns);
    p->direct = false;
    p->window_bytes = nnl_round_up(window * p->size + p->kernels->vector_bytes, 64);
    p->tasks = p->blocks;
    p->lane_bytes = nnl_conv_lane_bytes(p);
}

static nnl_conv_flat block_at(const nnl_conv_plan *p, int64_t i, char *buffer, int64_t *y)
{
    nnl_conv_part b = nnl_conv_part_at(p, i);
    nnl_conv_part_open(p, &b, buffer);
    nnl_conv_flat f = p->flat;
    f.rows = b.r1 - b.r0;
    f.columns = b.c1 - b.c0;
    f.x = (const float *)(const void *)b.x;
    f.x_row = b.x_row;
    *y = b.sample * p->y.sample + b.plane * p->y.place[0] + b.r0 * p->y.place[1] +
         b.c0 * p->y.place[2];
    return f;
}

/* Floats of a whole period. */
static int64_t period_length(const nnl_conv_plan *p) { return p->flat.period * nnl_conv_lanes(p); }

/* ---------------------------------------------------------------- forward */

/* Rows of whole periods: element i of a row is that of channel i modulo channels. */
static void repeat(float *out, const float *in, int64_t step, int64_t channels, int64_t length)
{
    for (int64_t i = 0, c = 0; i < length; i++, c = c + 1 == channels ? 0 : c + 1)
        out[i] = in[c * step];
}

static void forward_task(const nnl_conv_plan *p, int64_t i, char *buffer)
{
    int64_t y;
    nnl_conv_flat f = block_at(p, i, buffer, &y);
    f.y = (float *)(void *)(char *)nnl_conv_at(p, p->y.data, y);
    f.y_row = p->y.place[1];
    p->kernels->conv_flat(&f);
}

nnl_conv_plan nnl_conv_flat_plan(nnl_runtime *rt, const nnl_conv *v, const nnl_conv_image *x)
{
    nnl_conv_plan p = nnl_conv_plan_make(rt, v, NNL_F32, x, false);
    p.flat = (nnl_conv_flat){.channels = v->out_channels,
                             .period = period_of(rt, v->out_channels),
                             .taps = {v->kernel[1], v->kernel[2]}};
    p.y = nnl_conv_image_dense(NULL, v->out_channels, v->out);
    p.task = forward_task;
    take_windows(&p);
    return p;
}

/* A period for each tap, and one for the bias. */
int64_t nnl_conv_flat_weight_bytes(const nnl_conv_plan *p)
{
    return (nnl_conv_taps(p->v) + 1) * period_length(p) * p->size;
}

void nnl_conv_flat_pack(nnl_conv_plan *p, void *out, const nnl_tensor *weight)
{
    const nnl_conv *v = p->v;
    nnl_conv_steps w = nnl_conv_steps_of(weight, v);
    const int64_t length = period_length(p), taps = nnl_conv_taps(v);
    float *packed = out;
    for (int64_t t = 0; t < taps; t++) {
        int64_t place = t / v->kernel[2] * w.tap[1] + t % v->kernel[2] * w.tap[2];
        repeat(packed + t * length, (const float *)(const void *)weight->data + place, w.out,
               v->out_channels, length);
    }
    p->flat.w = packed;
}

void nnl_conv_flat_set_bias(nnl_conv_plan *p, const void *bias)
{
    float *packed = (float *)(uintptr_t)p->flat.w + nnl_conv_taps(p->v) * period_length(p);
    if (bias) repeat(packed, bias, 1, p->v->out_channels, period_length(p));
    p->flat.bias = bias ? packed : NULL;
}

void nnl_conv_flat_share(const nnl_runtime *rt, nnl_conv_plan *p)
{
    double work = nnl_conv_work(p->v);
    if (rt->pool && p->v->samples < rt->threads && work >= 2 * NNL_CONV_TASK_WORK)
        nnl_conv_cut_rows(p, nnl_divide_up(p->rows, rt->threads));
    nnl_conv_cut_windows(p);
    take_windows(p);
    nnl_conv_share(rt, p, work, rt->pool != NULL);
}

nnl_status nnl_conv_flat_forward(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *out,
                                 const nnl_tensor *input, const nnl_tensor *weight,
                                 const nnl_tensor *bias, bool relu)
{
    nnl_conv_image x = nnl_conv_image_of(input, v);
    nnl_conv_plan p = nnl_conv_flat_plan(rt, v, &x);
    size_t bytes = (size_t)nnl_conv_flat_weight_bytes(&p);
    void *packed;
    NNL_TRY(nnl_alloc(rt, bytes, &packed));
    nnl_conv_flat_pack(&p, packed, weight);
    nnl_conv_flat_set_bias(&p, bias ? bias->data : NULL);
    p.flat.relu = relu;
    p.y.data = out->data;
    nnl_status status = nnl_conv_run_tasks(rt, &p, nnl_conv_work(v));
    nnl_free(rt, packed, bytes);
    return status;
}

/* ---------------------------------------------------------------- the gradients of weight and bias
 */

/* Rows of dy as the kernel reads them: where they are, or from the buffer. */
static const float *rows_of(const nnl_conv_plan *p, const nnl_conv_flat *f, int64_t dy,
                            char *buffer)
{
    if (p->dy_bytes == 0) return (const float *)(const void *)nnl_conv_at(p, p->y.data, dy);
    int64_t row = f->columns * f->channels * p->size;
    for (int64_t r = 0; r < f->rows; r++, dy += p->y.place[1])
        nnl_conv_copy_row(p, buffer + r * row, &p->y, nnl_conv_at(p, p->y.data, dy), f->columns,
                          f->channels);
    return (const float *)(const void *)buffer;
}

static void sums_task(const nnl_conv_plan *p, int64_t part, char *buffer)
{
    for (int64_t i = p->blocks * part / p->parts; i < p->blocks * (part + 1) / p->parts; i++) {
        int64_t dy;
        nnl_conv_flat f = block_at(p, i, buffer, &dy);
        f.y = (float *)(void *)(char *)(const void *)rows_of(p, &f, dy, buffer + p->window_bytes);
        f.y_row = p->dy_bytes ? f.columns * f.channels : p->y.place[1];
        f.sums = (float *)(void *)(p->sums + part * p->part_bytes);
        p->kernels->conv_flat_sums(&f);
    }
}

/* out[channel * step] is the sum of the row's elements that belong to the channel, over all parts.
 */
static void collect(const nnl_conv_plan *p, float *out, int64_t step, int64_t row)
{
    int64_t length = period_length(p);
    for (int64_t c = 0; c < p->flat.channels; c++) {
        float sum = 0;
        for (int64_t part = 0; part < p->parts; part++) {
            const float *sums =
                (const float *)(const void *)(p->sums + part * p->part_bytes) + row * length;
            for (int64_t i = c; i < length; i += p->flat.channels) sum += sums[i];
        }
        out[c * step] = sum;
    }
}

nnl_status nnl_conv_flat_grad_weight(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *dw,
                                     nnl_tensor *db, const nnl_tensor *dy, const nnl_tensor *input)
{
    nnl_conv_image x = nnl_conv_image_of(input, v);
    nnl_conv_plan p = nnl_conv_flat_plan(rt, v, &x);
    nnl_conv_steps w = nnl_conv_steps_of(dw, v);
    int64_t taps = nnl_conv_taps(v);
    p.part_bytes = nnl_conv_flat_weight_bytes(&p);
    p.y = nnl_conv_image_of(dy, v);
    p.parts = NNL_MAX(
        NNL_MIN(NNL_MIN(p.blocks, PARTS), (int64_t)(nnl_conv_work(v) / (2 * NNL_CONV_BLOCK_WORK))),
        1);
    if (p.y.channel != 1 || p.y.place[2] != v->out_channels)
        p.dy_bytes = nnl_round_up(p.rows * p.columns * v->out_channels * p.size, 64);
    size_t bytes = (size_t)(p.parts * p.part_bytes);
    void *sums;
    NNL_TRY(nnl_alloc_zeroed(rt, bytes, &sums));
    p.sums = sums;
    p.task = sums_task;
    p.tasks = p.parts;
    p.lane_bytes = p.window_bytes + p.dy_bytes;
    nnl_status status = nnl_conv_run_tasks(rt, &p, nnl_conv_work(v));
    for (int64_t t = 0; t < taps && status == NNL_OK; t++) {
        int64_t place = t / v->kernel[2] * w.tap[1] + t % v->kernel[2] * w.tap[2];
        collect(&p, (float *)(void *)dw->data + place, w.out, t);
    }
    if (db && status == NNL_OK) collect(&p, (float *)(void *)db->data, 1, taps);
    nnl_free(rt, sums, bytes);
    return status;
}
