/* Cuts convolutions into blocks by shape, shares them out to threads, and brings what a block reads
 * into a buffer with its padding. */
#include "conv_plan.h"

#include <string.h>

/* Multiplications below which no worker is woken. */
#define PARALLEL_WORK 1500000
#define LANES_PER_THREAD 4
/* Multiplications that the last pass over a result and its place in a tile are worth. */
#define LAST_WORK 16

nnl_conv_image nnl_conv_image_of(const nnl_tensor *t, const nnl_conv *v)
{
    nnl_conv_image m = {.data = t->data,
                        .sample = v->batched ? t->strides[0] : 0,
                        .channel = t->strides[v->batched]};
    for (int i = 0; i < v->rank; i++) m.place[3 - v->rank + i] = t->strides[1 + v->batched + i];
    return m;
}

nnl_conv_image nnl_conv_image_dense(const void *data, int64_t channels, const int64_t sizes[3])
{
    nnl_conv_image m = {.data = data, .channel = 1};
    m.place[2] = channels;
    m.place[1] = m.place[2] * sizes[2];
    m.place[0] = m.place[1] * sizes[1];
    m.sample = m.place[0] * sizes[0];
    return m;
}

/* ---------------------------------------------------------------- blocks of pixels */

static void run_lane(void *context, int64_t lane)
{
    const nnl_conv_plan *p = context;
    char *buffer = p->memory ? p->memory + lane * p->lane_bytes : NULL;
    for (int64_t i = p->tasks * lane / p->lanes; i < p->tasks * (lane + 1) / p->lanes; i++)
        p->task(p, i, buffer);
}

void nnl_conv_share(const nnl_runtime *rt, nnl_conv_plan *p, double work, bool held)
{
    bool parallel = rt->threads > 1 && work >= (held ? 2 * NNL_CONV_TASK_WORK : PARALLEL_WORK);
    p->lanes = NNL_MIN(p->tasks, parallel ? LANES_PER_THREAD * (int64_t)rt->threads : 1);
    p->lane_bytes = nnl_round_up(p->lane_bytes, 64);
}

nnl_status nnl_conv_run_lanes(nnl_runtime *rt, nnl_conv_plan *p)
{
    if (p->lanes == 0) return NNL_OK;
    void *memory = NULL;
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

nnl_status nnl_conv_run_tasks(nnl_runtime *rt, nnl_conv_plan *p, double work)
{
    nnl_conv_share(rt, p, work, false);
    return nnl_conv_run_lanes(rt, p);
}

/* Elements of the window of rows x columns results; with fewer than 4 columns the kernels look
 * further. */
static int64_t window_size(const nnl_conv *v, int64_t rows, int64_t columns, int64_t channels)
{
    int64_t width = nnl_conv_reach_of(v, 2, columns),
            more = columns < 4 ? (4 - columns) * v->stride[2] : 0;
    return (v->kernel[0] * nnl_conv_reach_of(v, 1, rows) * width + more) * channels;
}

double nnl_conv_lane_work(const nnl_conv_plan *p)
{
    const nnl_conv *s = &p->shape;
    int64_t depth = nnl_conv_taps(s) * (p->depthwise ? 1 : p->channels_in);
    double work = (double)nnl_round_up(p->channels_out, nnl_conv_lanes(p)) * (double)s->groups *
                  (double)(depth + LAST_WORK) * (double)s->samples;
    for (int i = 0; i < 3; i++) work *= (double)s->out[i];
    return work;
}

double nnl_conv_work(const nnl_conv *v)
{
    double work =
        (double)v->samples * (double)v->out_channels * (double)(v->in_channels / v->groups);
    for (int i = 0; i < 3; i++) work *= (double)v->out[i] * (double)v->kernel[i];
    return work;
}

void nnl_conv_walk_groups(nnl_conv_plan *p)
{
    const nnl_conv *v = p->v;
    p->depthwise = v->groups > 1 && v->groups == v->in_channels && v->groups == v->out_channels;
    p->shape.groups = p->depthwise ? 1 : v->groups;
    p->channels_in = v->in_channels / p->shape.groups;
    p->channels_out = v->out_channels / p->shape.groups;
}

/* Of single places, an image or the whole batch is one row of pixels. */
static void join_places(nnl_conv_plan *p)
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

/* No tap of any result lies outside of the image and its frame, whose elements are together as the
 * kernels want them.  With a frame, rows above and below are not read: no two rows are one run,
 * since results of four columns and more are wanted. */
static bool reads_direct(const nnl_conv_plan *p, int64_t frame)
{
    const nnl_conv *s = &p->shape;
    bool skips = frame > 0 && !p->depthwise;
    if (p->channels_in > 1 && p->x.channel != 1) return false;
    for (int d = 0; d < 3; d++) {
        int64_t room = d == 2 ? frame : 0;
        if (d == 1 && skips) continue;
        if (s->low[d] > room || nnl_conv_reach_of(s, d, s->out[d]) - s->low[d] > s->in[d] + room)
            return false;
    }
    return true;
}

static int64_t images_of(const nnl_conv *s) { return s->samples * s->groups * s->out[0]; }

static int64_t blocks_of(const nnl_conv *s, int64_t rows, int64_t columns)
{
    return images_of(s) * nnl_divide_up(s->out[1], rows) * nnl_divide_up(s->out[2], columns);
}

static void set_blocks(nnl_conv_plan *p, int64_t rows, int64_t columns)
{
    const nnl_conv *s = &p->shape;
    p->rows = rows;
    p->columns = columns;
    p->row_blocks = nnl_divide_up(s->out[1], rows);
    p->column_blocks = nnl_divide_up(s->out[2], columns);
    p->blocks = blocks_of(s, rows, columns);
    /* Four columns are always read: not beyond the end of the image itself. */
    p->direct = p->direct && s->out[2] - (p->column_blocks - 1) * columns >= 4;
    if (!p->direct)
        p->window_bytes = nnl_round_up(window_size(s, rows, columns, p->channels_in) * p->size, 64);
}

/* Cuts the result into blocks, by shape alone: windows that fit a cache, and work for several
 * threads. */
static void choose_blocks(nnl_conv_plan *p)
{
    const nnl_conv *s = &p->shape;
    int64_t rows = s->out[1], columns = s->out[2];
    while (rows > 1 && window_size(s, rows, columns, p->channels_in) * p->size > NNL_CONV_WINDOW)
        rows = nnl_divide_up(rows, 2);
    while (columns > 16 &&
           window_size(s, rows, columns, p->channels_in) * p->size > NNL_CONV_WINDOW)
        columns = nnl_round_up(nnl_divide_up(columns, 2), 4);
    double work = nnl_conv_work(p->v) / (double)NNL_MAX(images_of(s) * s->out[1] * s->out[2], 1);
    for (;;) {
        if (blocks_of(s, rows, columns) >= NNL_CONV_BLOCKS ||
            work * (double)rows * (double)columns < 2 * NNL_CONV_BLOCK_WORK)
            break;
        if (rows > 1)
            rows = nnl_divide_up(rows, 2);
        else if (columns >= 32)
            columns = nnl_round_up(nnl_divide_up(columns, 2), 4);
        else
            break;
    }
    set_blocks(p, rows, columns);
}

/* Half of the rows, an even number where there are several: kernels take rows in pairs. */
static int64_t fewer(int64_t rows)
{
    return rows > 2 ? nnl_round_up(nnl_divide_up(rows, 2), 2) : nnl_divide_up(rows, 2);
}

void nnl_conv_cut(const nnl_runtime *rt, nnl_conv_plan *p)
{
    const nnl_conv *s = &p->shape;
    int64_t blocks = LANES_PER_THREAD * (int64_t)rt->threads;
    double work = nnl_conv_lane_work(p) / (double)(images_of(s) * s->out[1] * s->out[2]);
    int64_t rows = p->rows, columns = p->columns;
    while (blocks_of(s, rows, columns) < blocks &&
           work * (double)(rows * columns) >= 2 * NNL_CONV_TASK_WORK) {
        int64_t half = nnl_round_up(nnl_divide_up(columns, 2), 4);
        /* No row is brought into more than two windows, if there is a block for each thread. */
        bool often = nnl_conv_reach_of(s, 1, fewer(rows)) > 2 * fewer(rows) * s->stride[1];
        if (often && !p->direct && blocks_of(s, rows, columns) >= 2 * rt->threads) break;
        if (rows > 1)
            rows = fewer(rows);
        else if (half < columns && s->out[2] % half % 4 == 0)
            columns = half;
        else
            break;
    }
    set_blocks(p, rows, columns);
}

void nnl_conv_cut_rows(nnl_conv_plan *p, int64_t rows) { set_blocks(p, rows, p->columns); }

void nnl_conv_cut_windows(nnl_conv_plan *p)
{
    if (p->pool) set_blocks(p, nnl_round_up(p->rows, p->pool), p->shape.out[2]);
}

int64_t nnl_conv_lane_bytes(const nnl_conv_plan *p)
{
    return p->window_bytes + (p->pool ? p->rows * p->columns * p->channels_out * p->size : 0);
}

nnl_conv_plan nnl_conv_plan_framed(nnl_runtime *rt, const nnl_conv *v, nnl_dtype dtype,
                                   const nnl_conv_image *x, int64_t frame, bool joins)
{
    nnl_conv_plan p = {.v = v, .shape = *v, .kernels = rt->kernels, .dtype = dtype, .x = *x};
    p.size = (int64_t)nnl_width(dtype);
    nnl_conv_walk_groups(&p);
    p.direct = reads_direct(&p, frame);
    if (p.direct && joins) join_places(&p);
    choose_blocks(&p);
    return p;
}

nnl_conv_plan nnl_conv_plan_make(nnl_runtime *rt, const nnl_conv *v, nnl_dtype dtype,
                                 const nnl_conv_image *x, bool pixels)
{
    if (pixels) return nnl_conv_plan_framed(rt, v, dtype, x, 0, true);
    nnl_conv_plan p = {.v = v, .shape = *v, .kernels = rt->kernels, .dtype = dtype, .x = *x};
    p.size = (int64_t)nnl_width(dtype);
    nnl_conv_walk_groups(&p);
    p.direct = reads_direct(&p, 0);
    if (!p.depthwise && v->kernel[2] > 1 && x->place[2] != p.channels_in) p.direct = false;
    choose_blocks(&p);
    return p;
}

nnl_conv_part nnl_conv_part_at(const nnl_conv_plan *p, int64_t i)
{
    const nnl_conv *s = &p->shape;
    nnl_conv_part b;
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

void nnl_conv_copy_row(const nnl_conv_plan *p, char *out, const nnl_conv_image *image,
                       const void *from, int64_t columns, int64_t channels)
{
    int64_t width = channels * p->size;
    if (image->place[2] == channels && (image->channel == 1 || channels == 1))
        memcpy(out, from, (size_t)(columns * width));
    else if (image->place[2] == 1) /* each channel has a row of its own */
        p->kernels->transpose((int)p->size, out, width, from, image->channel * p->size, columns,
                              channels);
    else
        p->kernels->conv_row((int)p->size, out, columns, channels, from, image->place[2],
                             image->channel);
}

/* Copies the window into the buffer: [plane][row][column][channel], zeros outside of the image. */
static void fill_window(const nnl_conv_plan *p, const nnl_conv_part *b, const char *image_,
                        char *buffer)
{
    const nnl_conv *s = &p->shape;
    int64_t rows = nnl_conv_reach_of(s, 1, b->r1 - b->r0),
            columns = nnl_conv_reach_of(s, 2, b->c1 - b->c0);
    int64_t first = b->c0 * s->stride[2] - s->low[2];
    int64_t left = NNL_MIN(NNL_MAX(-first, 0), columns),
            right = NNL_MIN(NNL_MAX(first + columns - s->in[2], 0), columns - left);
    int64_t column_bytes = p->channels_in * p->size, row_bytes = columns * column_bytes;
    int64_t count = columns - left - right;
    if (row_bytes == 0) return; /* no channels, and no buffer */
    char *filled = buffer; /* so far; what is left out up to the next row of the image are zeros */
    for (int64_t d = 0; d < s->kernel[0]; d++) {
        int64_t plane = b->plane * s->stride[0] + d * s->dilation[0] - s->low[0];
        for (int64_t r = 0; r < rows; r++, buffer += row_bytes) {
            int64_t row = b->r0 * s->stride[1] + r - s->low[1];
            if (plane < 0 || plane >= s->in[0] || row < 0 || row >= s->in[1]) continue;
            const void *from = nnl_conv_at(p, image_,
                                           plane * p->x.place[0] + row * p->x.place[1] +
                                               (first + left) * p->x.place[2]);
            char *to = buffer + left * column_bytes;
            memset(filled, 0, (size_t)(to - filled));
            nnl_conv_copy_row(p, to, &p->x, from, count, p->channels_in);
            filled = to + count * column_bytes;
        }
    }
    memset(filled, 0, (size_t)(buffer - filled));
}

void nnl_conv_part_open(const nnl_conv_plan *p, nnl_conv_part *b, char *buffer)
{
    const nnl_conv *s = &p->shape;
    const char *image_ = nnl_conv_at(
        p, p->x.data, b->sample * p->x.sample + b->group * p->channels_in * p->x.channel);
    int64_t step[3] = {p->x.place[0], p->x.place[1], p->x.place[2]};
    if (p->direct) {
        int64_t place = (b->plane * s->stride[0] - s->low[0]) * step[0] +
                        (b->r0 * s->stride[1] - s->low[1]) * step[1] +
                        (b->c0 * s->stride[2] - s->low[2]) * step[2];
        b->x = nnl_conv_at(p, image_, place);
        for (int d = 0; d < 3; d++) b->x_tap[d] = s->dilation[d] * step[d];
    } else {
        fill_window(p, b, image_, buffer);
        step[2] = p->channels_in;
        step[1] = step[2] * nnl_conv_reach_of(s, 2, b->c1 - b->c0);
        step[0] = step[1] * nnl_conv_reach_of(s, 1, b->r1 - b->r0);
        b->x = buffer;
        b->x_tap[0] = step[0]; /* only planes that are read are there */
        for (int d = 1; d < 3; d++) b->x_tap[d] = s->dilation[d] * step[d];
    }
    b->x_row = s->stride[1] * step[1];
    b->x_column = s->stride[2] * step[2];
    b->first_row = s->low[1] - b->r0 * s->stride[1];
    b->end_row = b->first_row + s->in[1];
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

nnl_conv_steps nnl_conv_steps_of(const nnl_tensor *w, const nnl_conv *v)
{
    nnl_conv_steps s = {.out = w->strides[0], .in = w->strides[1]};
    for (int i = 0; i < v->rank; i++) s.tap[3 - v->rank + i] = w->strides[2 + i];
    return s;
}

nnl_conv_order nnl_conv_order_of(const nnl_conv_plan *p, const nnl_conv_steps *w)
{
    const int64_t *kernel = p->v->kernel;
    return (nnl_conv_order){
        .size = {kernel[0], kernel[1], kernel[2], p->depthwise ? 1 : p->channels_in},
        .step = {w->tap[0], w->tap[1], w->tap[2], w->in},
        .lanes = p->channels_out,
        .lane_step = w->out};
}
