/* 3x3 convolutions by Winograd's F(4x4, 3x3), for programs that may add up in another order: which
 * shapes, blocks of tiles, and the transformed weight.  The kernel is kernels/conv_winograd.h. */
#include "conv_plan.h"

#include <string.h>

/* Bytes of the transformed weight, and of a block's two sets of matrices: the cache that a core has for itself,
 * and less than 4 MB with the threads there are. */
#define WEIGHT_BYTES 2400000
#define BLOCK_BYTES 400000
#define BLOCK_TILES 24
/* Of fewer tiles or channels transforms take longer than they save. */
#define LEAST_TILES 4

bool nnl_conv_suits_winograd(const nnl_runtime *rt, const nnl_conv *v, nnl_dtype dtype)
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
    if (v->in_channels < NNL_MAX(lanes, 8) || v->out_channels < NNL_MAX(lanes, 8)) return false;
    if (36 * matrix * (int64_t)sizeof(float) > WEIGHT_BYTES) return false;
    /* half of the tiles' results are there, at least */
    return v->samples * tiles >= LEAST_TILES && 2 * places >= 16 * tiles;
}

static int64_t matrix_size(const nnl_conv_plan *p) { return p->channels_in * nnl_round_up(p->channels_out, nnl_conv_lanes(p)); }

int64_t nnl_conv_winograd_weight_bytes(const nnl_conv_plan *p) { return 36 * matrix_size(p) * p->size; }

nnl_status nnl_conv_winograd_pack(nnl_runtime *rt, const nnl_conv_plan *p, void *out, const void *weight,
                                  const nnl_conv_order *order)
{
    void *packed;
    size_t bytes = (size_t)(9 * matrix_size(p) * p->size);
    NNL_TRY(nnl_alloc(rt, bytes, &packed));
    p->kernels->conv_pack_f32(packed, weight, order);
    p->kernels->conv_winograd_weight(out, matrix_size(p), packed, p->channels_in, p->channels_out);
    nnl_free(rt, packed, bytes);
    return NNL_OK;
}

/* Zeros behind the rows that end in tiles [first, end), which are those before the next row, too. */
static void write_frames(const nnl_conv_plan *p, int64_t first, int64_t end)
{
    const nnl_conv *v = p->v;
    int64_t side = p->frame * v->out_channels * p->size;
    char *y = (char *)p->y.data;
    if (first == 0) memset(y - side, 0, (size_t)side);
    for (int64_t t = nnl_round_up(first + 1, p->column_blocks) - 1; t < end; t += p->column_blocks) {
        int64_t sample = t / p->column_blocks / p->row_blocks, row = t / p->column_blocks % p->row_blocks * 4;
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
    int64_t first = p->blocks * block / p->parts, end = p->blocks * (block + 1) / p->parts;
    const float *bias = (const void *)p->bias, *center = (const void *)p->center, *scale = (const void *)p->scale,
                *shift = (const void *)p->shift, *residual = (const void *)p->residual;
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
                              .w = (const float *)(const void *)p->weight + channel * p->channels_in,
                              .w_step = matrix_size(p),
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

nnl_conv_plan nnl_conv_winograd_plan(nnl_runtime *rt, const nnl_conv *v, const nnl_conv_image *x, int64_t frame)
{
    nnl_conv_plan p = {.v = v, .shape = *v, .kernels = rt->kernels, .dtype = NNL_F32, .size = sizeof(float), .x = *x,
                       .frame_in = frame, .task = winograd_task};
    nnl_conv_walk_groups(&p);
    int64_t lanes = nnl_conv_lanes(&p), in = nnl_divide_up(p.channels_in, lanes), out = nnl_divide_up(p.channels_out, lanes);
    p.row_blocks = nnl_divide_up(v->out[1], 4);
    p.column_blocks = nnl_divide_up(v->out[2], 4);
    p.blocks = v->samples * p.row_blocks * p.column_blocks; /* tiles */
    int64_t most = BLOCK_BYTES / (36 * (in + out) * p.kernels->vector_bytes) / 4 * 4;
    most = NNL_MIN(NNL_MAX(most, 8), BLOCK_TILES);
    p.parts = nnl_divide_up(p.blocks, most);
    p.panels = 1;
    p.panel_width = nnl_round_up(p.channels_out, lanes);
    p.tasks = p.parts * p.panels;
    p.lane_bytes = NNL_CONV_WINOGRAD_ROOM(nnl_divide_up(p.blocks, p.parts), in, out) * p.kernels->vector_bytes;
    return p;
}
