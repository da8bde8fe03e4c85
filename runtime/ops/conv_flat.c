/* Convolutions of one input channel and few output channels, by the kernels that fill vectors with
 * adjacent elements of the results (kernels/conv_flat.h).  Forward, the bits are those of the other
 * kernels. */
#include "conv_plan.h"

#include <string.h>

/* Parts of the batch whose sums are kept apart, at most. */
#define PARTS 16

typedef struct flat_job {
    nnl_conv_plan p;
    nnl_conv_flat call; /* what all blocks have in common */
    int64_t part_floats;
} flat_job;

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
static flat_job job_of(nnl_runtime *rt, const nnl_conv *v, const nnl_tensor *input)
{
    nnl_conv_image x = nnl_conv_image_of(input, v);
    flat_job job = {.p = nnl_conv_plan_make(rt, v, NNL_F32, &x, false)};
    nnl_conv_plan *p = &job.p;
    int64_t window =
        nnl_conv_reach_of(v, 1, p->rows) * nnl_conv_reach_of(v, 2, p->columns) * p->size;
    p->direct = false;
    p->window_bytes = nnl_round_up(window + p->kernels->vector_bytes, 64);
    job.call = (nnl_conv_flat){.channels = v->out_channels,
                               .period = period_of(rt, v->out_channels),
                               .taps = {v->kernel[1], v->kernel[2]}};
    return job;
}

static nnl_conv_flat block_at(const flat_job *job, int64_t i, char *buffer, int64_t *y)
{
    const nnl_conv_plan *p = &job->p;
    nnl_conv_part b = nnl_conv_part_at(p, i);
    nnl_conv_part_open(p, &b, buffer);
    nnl_conv_flat f = job->call;
    f.rows = b.r1 - b.r0;
    f.columns = b.c1 - b.c0;
    f.x = (const float *)(const void *)b.x;
    f.x_row = b.x_row;
    *y = b.sample * p->y.sample + b.plane * p->y.place[0] + b.r0 * p->y.place[1] +
         b.c0 * p->y.place[2];
    return f;
}

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
    nnl_conv_flat f = block_at((const flat_job *)(const void *)p, i, buffer, &y);
    f.y = (float *)(void *)(char *)nnl_conv_at(p, p->y.data, y);
    f.y_row = p->y.place[1];
    p->kernels->conv_flat(&f);
}

nnl_status nnl_conv_flat_forward(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *out,
                                 const nnl_tensor *input, const nnl_tensor *weight,
                                 const nnl_tensor *bias, bool relu)
{
    flat_job job = job_of(rt, v, input);
    nnl_conv_steps w = nnl_conv_steps_of(weight, v);
    int64_t length = job.call.period * nnl_conv_lanes(&job.p), taps = nnl_conv_taps(v);
    size_t bytes = (size_t)((taps + 1) * length) * sizeof(float);
    void *block;
    NNL_TRY(nnl_alloc(rt, bytes, &block));
    float *packed = block;
    for (int64_t t = 0; t < taps; t++) {
        int64_t place = t / v->kernel[2] * w.tap[1] + t % v->kernel[2] * w.tap[2];
        repeat(packed + t * length, (const float *)(const void *)weight->data + place, w.out,
               v->out_channels, length);
    }
    if (bias)
        repeat(packed + taps * length, (const float *)(const void *)bias->data, 1, v->out_channels,
               length);
    job.call.w = packed;
    job.call.bias = bias ? packed + taps * length : NULL;
    job.call.relu = relu;
    job.p.y = nnl_conv_image_dense(out->data, v->out_channels, v->out);
    job.p.task = forward_task;
    job.p.tasks = job.p.blocks;
    job.p.lane_bytes = job.p.window_bytes;
    nnl_status status = nnl_conv_run_tasks(rt, &job.p, nnl_conv_work(v));
    nnl_free(rt, block, bytes);
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
    const flat_job *job = (const flat_job *)(const void *)p;
    for (int64_t i = p->blocks * part / p->parts; i < p->blocks * (part + 1) / p->parts; i++) {
        int64_t dy;
        nnl_conv_flat f = block_at(job, i, buffer, &dy);
        f.y = (float *)(void *)(char *)(const void *)rows_of(p, &f, dy, buffer + p->window_bytes);
        f.y_row = p->dy_bytes ? f.columns * f.channels : p->y.place[1];
        f.sums = (float *)(void *)p->sums + part * job->part_floats;
        p->kernels->conv_flat_sums(&f);
    }
}

/* out[channel * step] is the sum of the row's elements that belong to the channel, over all parts.
 */
static void collect(const flat_job *job, float *out, int64_t step, int64_t row)
{
    int64_t length = job->call.period * nnl_conv_lanes(&job->p);
    const float *sums = (const float *)(const void *)job->p.sums + row * length;
    for (int64_t c = 0; c < job->call.channels; c++) {
        float sum = 0;
        for (int64_t part = 0; part < job->p.parts; part++) {
            for (int64_t i = c; i < length; i += job->call.channels)
                sum += sums[part * job->part_floats + i];
        }
        out[c * step] = sum;
    }
}

nnl_status nnl_conv_flat_grad_weight(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *dw,
                                     nnl_tensor *db, const nnl_tensor *dy, const nnl_tensor *input)
{
    flat_job job = job_of(rt, v, input);
    nnl_conv_plan *p = &job.p;
    nnl_conv_steps w = nnl_conv_steps_of(dw, v);
    int64_t taps = nnl_conv_taps(v);
    job.part_floats = (taps + 1) * job.call.period * nnl_conv_lanes(p);
    p->y = nnl_conv_image_of(dy, v);
    p->parts = NNL_MAX(
        NNL_MIN(NNL_MIN(p->blocks, PARTS), (int64_t)(nnl_conv_work(v) / (2 * NNL_CONV_BLOCK_WORK))),
        1);
    if (p->y.channel != 1 || p->y.place[2] != v->out_channels)
        p->dy_bytes = nnl_round_up(p->rows * p->columns * v->out_channels * p->size, 64);
    size_t bytes = (size_t)(p->parts * job.part_floats) * sizeof(float);
    void *sums;
    NNL_TRY(nnl_alloc_zeroed(rt, bytes, &sums));
    p->sums = sums;
    p->task = sums_task;
    p->tasks = p->parts;
    p->lane_bytes = p->window_bytes + p->dy_bytes;
    nnl_status status = nnl_conv_run_tasks(rt, p, nnl_conv_work(v));
    for (int64_t t = 0; t < taps && status == NNL_OK; t++) {
        int64_t place = t / v->kernel[2] * w.tap[1] + t % v->kernel[2] * w.tap[2];
        collect(&job, (float *)(void *)dw->data + place, w.out, t);
    }
    if (db && status == NNL_OK) collect(&job, (float *)(void *)db->data, 1, taps);
    nnl_free(rt, sums, bytes);
    return status;
}
