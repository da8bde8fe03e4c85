/* 3x3 convolutions by Winograd's F(4x4, 3x3), for programs that may add up in another order: which
 * shapes, blocks of tiles, and the transformed weight.  The kernel is kernels/conv_winograd.h. */
#include "conv_plan.h"

#include <string.h>

/* Bytes of the transformed weight, and of a block's two sets of matrices: both in the cache of a
 * core, and less than 4 MB with those of two threads. */
#define WEIGHT_BYTES 2400000
#define BLOCK_BYTES 400000
#define BLOCK_TILES 24
#define LANES_PER_THREAD 2
/* Tasks that are wanted, and tiles that are worth one. */
#define TASKS 4
#define TASK_TILES 8
/* Rows of the weight that are transformed at once, and multiplications that an element of it is
 * worth. */
#define WEIGHT_DEPTH 16
#define WEIGHT_WORK 50.0
/* Of fewer tiles reading the transformed weight, or transforming it in each run, takes longer than
 * is saved. */
#define LEAST_TILES 8
#define LEAST_TILES_ANEW 16
#define LEAST_CHANNELS 8

bool nnl_conv_suits_winograd(const nnl_runtime *rt, const nnl_conv *v, nnl_dtype dtype, bool fixed)
{
    int64_t lanes = rt->kernels->vector_bytes / (int64_t)sizeof(float);
    if (dtype != NNL_F32 || !v->batched || v->rank != 2 || v->groups != 1) return false;
    for (int i = 1; i < 3; i++) {
        if (v->kernel[i] != 3 || v->stride[i] != 1 || v->dilation[i] != 1) return false;
        if (NNL_MIN(v->low[i], v->high[i]) < 0 || NNL_MAX(v->low[i], v->high[i]) > 2) return false;
    }
    int64_t places = v->out[1] * v->out[2],
            tiles = nnl_divide_up(v->out[1], 4) * nnl_divide_up(v->out[2], 4);
    int64_t matrix = v->in_channels * nnl_round_up(v->out_channels, lanes);
    if (NNL_MIN(v->in_channels, v->out_channels) < NNL_MAX(lanes, LEAST_CHANNELS)) return false;
    if (36 * matrix * (int64_t)sizeof(float) > WEIGHT_BYTES) return false;
    /* half of the tiles' results are there, at least */
    return v->samples * tiles >= (fixed ? LEAST_TILES : LEAST_TILES_ANEW) &&
           2 * places >= 16 * tiles;
}

/* From matrix to matrix of the weight: an odd number of vectors, so that they do not share the sets
 * of a cache. */
static int64_t matrix_step(const nnl_conv_plan *p)
{
    int64_t lanes = nnl_conv_lanes(p),
            vectors = p->channels_in * nnl_divide_up(p->channels_out, lanes);
    return (vectors | 1) * lanes;
}

int64_t nnl_conv_winograd_weight_bytes(const nnl_conv_plan *p)
{
    return 36 * matrix_step(p) * p->size;
}

/* A piece of a panel of two vectors of output channels: taps side by side, then their transforms.
 */
static void weight_task(const nnl_conv_plan *p, int64_t i, char *buffer)
{
    int64_t panel = i % p->panels * p->panel_width, first = i / p->panels * WEIGHT_DEPTH;
    nnl_conv_order order = p->order;
    order.size[3] = NNL_MIN(WEIGHT_DEPTH, p->channels_in - first);
    order.lanes = NNL_MIN(p->panel_width, p->channels_out - panel);
    int64_t width = nnl_round_up(order.lanes, nnl_conv_lanes(p));
    float *out = (float *)(void *)p->sums + panel * p->channels_in + first * width,
          *packed = (float *)(void *)buffer;
    p->kernels->conv_pack_f32(
        packed, nnl_conv_at(p, p->weight, panel * order.lane_step + first * order.step[3]), &order);
    p->kernels->conv_winograd_weight(out, matrix_step(p), packed, order.size[3], order.lanes);
}

nnl_status nnl_conv_winograd_pack(nnl_runtime *rt, const nnl_conv_plan *plan, void *out,
                                  const void *weight, const nnl_conv_order *order)
{
    nnl_conv_plan p = *plan;
    p.weight = weight;
    p.sums = out;
    p.order = *order;
    p.task = weight_task;
    p.panel_width = 2 * nnl_conv_lanes(&p);
    p.panels = nnl_divide_up(p.channels_out, p.panel_width);
    p.tasks = p.panels * nnl_divide_up(p.channels_in, WEIGHT_DEPTH);
    p.lane_bytes = 9 * WEIGHT_DEPTH * p.panel_width * p.size;
    nnl_conv_share(rt, &p, WEIGHT_WORK * (double)matrix_step(&p), rt->pool != NULL);
    return nnl_conv_run_lanes(rt, &p);
}

/* Zeros behind the rows that end in tiles [first, end), which are those before the next row, too.
 */
static void write_frames(const nnl_conv_plan *p, int64_t first, int64_t end)
{
    const nnl_conv *v = p->v;
    int64_t side = p->frame * v->out_channels * p->size;
    char *y = (char *)p->y.data;
    if (first == 0) memset(y - side, 0, (size_t)side);
    for (int64_t t = nnl_round_up(first + 1, p->column_blocks) - 1; t < end;
         t += p->column_blocks) {
        int64_t sample = t / p->column_blocks / p->row_blocks,
                row = t / p->column_blocks % p->row_blocks * 4;
        for (int64_t r = row; r < NNL_MIN(row + 4, v->out[1]); r++) {
            bool last = sample == v->samples - 1 && r == v->out[1] - 1;
            int64_t at = sample * p->y.sample + r * p->y.place[1] + v->out[2] * p->y.place[2];
            memset(y + at * p->size, 0, (size_t)(last ? side : 2 * side));
        }
    }
}

static void winograd_task(const nnl_conv_plan *p, int64_t i, char *buffer)
{
    const nnl_conv *v = p->v;
    int64_t panel = i % p->panels, channel = panel * p->panel_width, block = i / p->panels;
    int64_t first = block * p->columns, end = NNL_MIN(first + p->columns, p->blocks);
    const float *bias = (const void *)p->bias, *center = (const void *)p->center,
                *scale = (const void *)p->scale, *shift = (const void *)p->shift,
                *residual = (const void *)p->residual;
    nnl_conv_winograd call = {.tile = first,
                              .tiles = end - first,
                              .tile_rows = p->row_blocks,
                              .tile_columns = p->column_blocks,
                              .x = (const void *)p->x.data,
                              .x_sample = p->x.sample,
                              .x_row = p->x.place[1],
                              .x_column = p->x.place[2],
                              .rows = v->in[1],
                              .first_column = -p->frame_in,
                              .end_column = v->in[2] + p->frame_in,
                              .low = {v->low[1], v->low[2]},
                              .depth = p->channels_in,
                              .w =
                                  (const float *)(const void *)p->weight + channel * p->channels_in,
                              .w_step = matrix_step(p),
                              .y = (float *)(intptr_t)p->y.data + channel,
                              .y_sample = p->y.sample,
                              .y_row = p->y.place[1],
                              .y_column = p->y.place[2],
                              .y_rows = v->out[1],
                              .y_columns = v->out[2],
                              .channels = NNL_MIN(p->panel_width, p->channels_out - channel),
                              .bias = bias ? bias + channel : NULL,
                              .center = center ? center + channel : NULL,
                              .scale = scale ? scale + channel : NULL,
                              .shift = shift ? shift + channel : NULL,
                              .residual = residual ? residual + channel : NULL,
                              .relu = p->relu,
                              .memory = (float *)(void *)buffer};
    p->kernels->conv_winograd(&call);
    if (p->frame > 0 && panel == 0) write_frames(p, first, end);
}

nnl_conv_plan nnl_conv_winograd_plan(nnl_runtime *rt, const nnl_conv *v, const nnl_conv_image *x,
                                     int64_t frame)
{
    nnl_conv_plan p = {.v = v,
                       .shape = *v,
                       .kernels = rt->kernels,
                       .dtype = NNL_F32,
                       .size = sizeof(float),
                       .x = *x,
                       .frame_in = frame,
                       .task = winograd_task};
    nnl_conv_walk_groups(&p);
    int64_t lanes = nnl_conv_lanes(&p), in = nnl_divide_up(p.channels_in, lanes),
            out = nnl_divide_up(p.channels_out, lanes);
    p.row_blocks = nnl_divide_up(v->out[1], 4);
    p.column_blocks = nnl_divide_up(v->out[2], 4);
    p.blocks = v->samples * p.row_blocks * p.column_blocks; /* tiles */
    int64_t most = BLOCK_BYTES / (36 * (in + out) * p.kernels->vector_bytes) / 4 * 4;
    most = NNL_MIN(NNL_MAX(most, 8), BLOCK_TILES);
    int64_t parts =
        NNL_MAX(nnl_divide_up(p.blocks, most), NNL_MIN(nnl_divide_up(p.blocks, TASK_TILES), TASKS));
    if (parts < 4 * TASKS && parts > 2) parts = nnl_round_up(parts, TASKS);
    p.columns = nnl_round_up(nnl_divide_up(p.blocks, parts), 4); /* of tiles in a block */
    p.parts = nnl_divide_up(p.blocks, p.columns);
    /* Of few tiles, each task transforms the image again for some of the channels. */
    p.panels = p.parts > 1 ? 1 : NNL_MIN(nnl_divide_up(out, 2), TASKS);
    p.panel_width = nnl_divide_up(nnl_divide_up(out, 2), p.panels) * 2 * lanes;
    p.panels = nnl_divide_up(p.channels_out, p.panel_width);
    p.tasks = p.parts * p.panels;
    p.lane_bytes = NNL_CONV_WINOGRAD_ROOM(p.columns, in, out) * p.kernels->vector_bytes;
    return p;
}

void nnl_conv_winograd_share(const nnl_runtime *rt, nnl_conv_plan *p)
{
    nnl_conv_share(rt, p, nnl_conv_work(p->v) / 2, rt->pool != NULL);
    p->lanes = NNL_MIN(p->lanes, LANES_PER_THREAD * (int64_t)rt->threads);
}
