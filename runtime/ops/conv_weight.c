/* The gradient of a convolution's weight and bias. */
#include "conv_plan.h"

#include <string.h>

/* Bytes of partial sums, and how many parts of them at most. */
#define PARTS_BYTES (2 << 20)
#define PARTS 16

/* Sums over pixels are cut into parts by shape; a task is a part, a group and some panels of output
 * channels.  Rows of sums are taps x input channels, their lanes output channels; or, where that
 * fills vectors better (`across`), rows are taps x output channels and lanes the run of a tap.
 * Behind them is a row for the bias. */

static void collect(const nnl_conv_plan *p, char *out, const nnl_conv_order *order,
                    const char *sums, int64_t parts)
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
static int64_t run_of(const nnl_conv_plan *p)
{
    bool together = p->v->dilation[2] == 1 && !p->depthwise;
    return p->channels_in * (together ? p->v->kernel[2] : 1);
}

static int64_t rows_of_sums(const nnl_conv_plan *p)
{
    if (p->depthwise) return nnl_conv_taps(p->v);
    int64_t elements = nnl_conv_taps(p->v) * p->channels_in;
    return p->across ? elements / run_of(p) * p->channels_out : elements;
}

/* The run of each tap and channel, piece by piece, into dw. */
static void collect_across(const nnl_conv_plan *p, int64_t group, const char *sums, int64_t parts)
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
            collect(p, out + place * p->size, &one, nnl_conv_at(p, sums, piece * p->channels_in),
                    parts);
        }
        sums += p->channels_out * p->sums_step * p->size;
    }
}

/* Sums of `count` channels from `channel` on of a group into dw and db. */
static void collect_channels(const nnl_conv_plan *p, int64_t group, int64_t channel, int64_t count,
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

static void add_sums(const nnl_conv_plan *p, const nnl_conv_sums *call, bool depthwise)
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
static void sum_block(const nnl_conv_plan *p, const nnl_conv_part *b, int64_t channel,
                      int64_t count, char *sums, char *buffer)
{
    static const float one_f32 = 1;
    static const double one_f64 = 1;
    const nnl_conv_image *y = &p->y;
    int64_t dy = b->sample * y->sample + b->plane * y->place[0] + b->r0 * y->place[1] +
                 b->c0 * y->place[2] + (b->group * p->channels_out + channel) * y->channel;
    nnl_conv_sums call = {.rows = b->r1 - b->r0,
                          .columns = b->c1 - b->c0,
                          .x_row = b->x_row,
                          .x_column = b->x_column,
                          .run = b->run,
                          .dy = nnl_conv_at(p, y->data, dy),
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
            nnl_conv_copy_row(p, buffer + r * call.dy_row * p->size, y, nnl_conv_at(p, y->data, dy),
                              call.columns, count);
    }
    nnl_conv_sums tap = p->across ? exchanged(&call) : call;
    int64_t rows = p->depthwise ? 1 : tap.run, from = p->depthwise ? channel : 0;
    for (int64_t i = 0; i < b->taps[0]; i++) {
        for (int64_t j = 0; j < b->taps[1]; j++) {
            for (int64_t k = 0; k < b->taps[2]; k++) {
                int64_t place = i * b->x_tap[0] + j * b->x_tap[1] + k * b->x_tap[2] + from;
                *(p->across ? &tap.dy : &tap.x) = nnl_conv_at(p, b->x, place);
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

static void sums_task(const nnl_conv_plan *p, int64_t i, char *buffer)
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
        nnl_conv_part b =
            nnl_conv_part_at(p, (u / in_image * p->shape.groups + group) * in_image + u % in_image);
        nnl_conv_part_open(p, &b, buffer);
        sum_block(p, &b, channel, count, sums, buffer + p->window_bytes);
    }
    if (p->lane_sums) collect_channels(p, group, channel, count, sums, 1);
}

static void collect_task(const nnl_conv_plan *p, int64_t i, char *buffer)
{
    (void)buffer;
    int64_t group = i / p->panels, channel = i % p->panels * p->panel_width;
    collect_channels(p, group, channel, NNL_MIN(p->panel_width, p->channels_out - channel),
                     p->sums + group * p->group_bytes + channel * p->size, p->parts);
}

/* Vectors by elements, of which a single vector runs at two thirds of the speed of two. */
static double cost_of(int64_t lanes_used, int64_t elements, int64_t lanes)
{
    return (double)elements * (double)nnl_divide_up(lanes_used, lanes) *
           (lanes_used > lanes ? 1 : 1.5);
}

static void choose_parts(nnl_conv_plan *p)
{
    int64_t lanes = nnl_conv_lanes(p), width = nnl_round_up(p->channels_out, lanes),
            tile = 2 * lanes;
    int64_t run = run_of(p);
    p->across = !p->depthwise && run > 0 && p->channels_out <= lanes &&
                cost_of(run, p->channels_out, lanes) < cost_of(p->channels_out, run, lanes);
    if (p->across) width = nnl_round_up(run, lanes);
    int64_t depth = rows_of_sums(p) + p->with_bias,
            panels = p->across ? 1 : nnl_divide_up(width, tile);
    int64_t bytes = depth * width * p->size * p->shape.groups;
    p->parts = NNL_MIN(NNL_MAX(PARTS_BYTES / NNL_MAX(bytes, 1), 1), PARTS);
    p->parts = NNL_MIN(p->parts, p->blocks / p->shape.groups);
    p->parts = (int64_t)NNL_MIN((double)p->parts,
                                NNL_MAX(nnl_conv_work(p->v) / (2 * NNL_CONV_BLOCK_WORK), 1));
    p->lane_sums = p->parts == 1;
    int64_t groups =
        NNL_MIN(panels, nnl_divide_up(NNL_CONV_BLOCKS / 2, p->parts * p->shape.groups));
    if (p->lane_sums && nnl_divide_up(panels, groups) * tile * depth * p->size > PARTS_BYTES / 4)
        groups = panels;
    p->panel_width = p->across ? p->channels_out : nnl_divide_up(panels, groups) * tile;
    p->panels = p->across ? 1 : nnl_divide_up(width, p->panel_width);
    p->sums_step = p->lane_sums && !p->across ? NNL_MIN(p->panel_width, width) : width;
    p->group_bytes = depth * width * p->size;
    p->part_bytes = p->group_bytes * p->shape.groups;
    p->sums_bytes = depth * p->sums_step * p->size;
    if (p->y.channel != 1 && p->channels_out > 1)
        p->dy_bytes = nnl_round_up(p->rows * p->columns * p->panel_width * p->size, 64);
    /* Pieces of runs are read by whole vectors. */
    int64_t more = p->across ? lanes * p->size : 0;
    p->lane_bytes = p->window_bytes + p->dy_bytes + (p->lane_sums ? p->sums_bytes + more : 0);
    p->tasks = p->parts * p->shape.groups * p->panels;
}

static nnl_status sum_parts(nnl_runtime *rt, nnl_conv_plan *p)
{
    p->task = sums_task;
    if (p->lane_sums) return nnl_conv_run_tasks(rt, p, nnl_conv_work(p->v));
    void *sums;
    size_t bytes = (size_t)(p->parts * p->part_bytes + nnl_conv_lanes(p) * p->size);
    NNL_TRY(nnl_alloc_zeroed(rt, bytes, &sums));
    p->sums = sums;
    nnl_status status = nnl_conv_run_tasks(rt, p, nnl_conv_work(p->v));
    if (status == NNL_OK) {
        p->task = collect_task;
        p->lane_bytes = 0;
        p->tasks = p->shape.groups * p->panels;
        status = nnl_conv_run_tasks(rt, p, (double)(p->parts * p->part_bytes));
    }
    nnl_free(rt, sums, bytes);
    return status;
}

nnl_status nnl_conv_grad_weight(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *dw, nnl_tensor *db,
                                const nnl_tensor *dy, const nnl_tensor *input)
{
    nnl_conv_image x = nnl_conv_image_of(input, v);
    if (dy->numel == 0 || dw->numel == 0) {
        NNL_TRY(nnl_fill(dw, V_INT(0)));
        if (!db) return NNL_OK;
        if (dy->numel == 0) return nnl_fill(db, V_INT(0));
    }
    if (dy->numel > 0 && dw->numel > 0 && nnl_conv_is_flat(rt, v, (nnl_dtype)dw->dtype))
        return nnl_conv_flat_grad_weight(rt, v, dw, db, dy, input);
    nnl_conv_plan p = nnl_conv_plan_make(rt, v, (nnl_dtype)dw->dtype, &x, false);
    nnl_conv_steps w = nnl_conv_steps_of(dw, v);
    p.order = nnl_conv_order_of(&p, &w);
    p.y = nnl_conv_image_of(dy, v);
    p.dw = dw->numel > 0 ? dw->data : NULL;
    p.db = db ? db->data : NULL;
    p.with_bias = db != NULL;
    choose_parts(&p);
    return sum_parts(rt, &p);
}
