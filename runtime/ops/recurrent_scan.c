/* Runs recurrent layers through time.  What comes from the input is one product for all steps; then
 * each step adds what comes from the state before it and computes the gates, piece by piece of the
 * hidden columns, while the sums are in the cache.  Rows of the batch do not meet: threads take
 * rows through the whole sequence, or, where there are few rows or the weights fill more than a
 * processor's cache, columns of one step after the other.  An element's bits are the same either
 * way.  Where a few products are all, packing the weights for them would cost more than it saves.
 */
#include "recurrent.h"
#include "dense.h"
#include "gemm.h"
#include "panels.h"

#include <string.h>

/* Rows that a task is made of at least, and at most: more would not stay in the cache. */
#define LEAST_ROWS 4
#define MOST_ROWS 64
/* Columns are shared out from this many multiplications a step on: waking takes the time of about
 * as many. */
#define COLUMNS_WORK 2000000
#define CACHE_BYTES 1500000
/* Rows of all steps together, and of a single step, up to which weights are used as they lie. */
#define UNPACKED_ROWS 8
#define UNPACKED_STEP 64
/* Panels of hidden columns that are computed at once: a product's rows stay in the nearest cache
 * meanwhile. */
#define GROUP 8

int nnl_recurrent_gates(int variant)
{
    return variant == NNL_LSTM ? 4 : variant == NNL_GRU ? 3 : 1;
}

/* ---------------------------------------------------------------- a layer on its way */

/* A right operand of the steps' products: depth x columns, or stored the other way round if
 * transposed. */
typedef struct factor {
    const char *w;
    int64_t ldw, depth;
    bool transposed;
    nnl_panels packed;
} factor;

typedef struct scan {
    nnl_runtime *rt;
    nnl_dtype dtype;
    int variant, gates;
    bool reverse, relu;
    int64_t width; /* bytes an element */
    int64_t steps, batch;
    int64_t size, states; /* hidden columns; those of h, fewer with a projection */
    /* steps x batch x ..., dense: gates x size, size, states, size */
    char *gate, *recurrent, *output, *cell;
    const char *h0, *c0;    /* batch x states, batch x size */
    const char *fresh_bias; /* GRU: b_hn, or NULL */
    factor weight[4], projection;
    bool projects, unpacked;
    char *scratch; /* with a projection: batch x size, h before it, or its gradient */
    /* gradients: dgate and drecurrent as above; dtotal, with a projection: of output through all
     * ways */
    const char *dy;
    int64_t dy_step, dy_row;
    char *dgate, *drecurrent, *dtotal, *dstate, *dcell;
    bool initial; /* the gradient of the state before the first step is wanted */
    /* how it is shared out */
    int64_t tasks, group, now;
    nnl_status (*step)(const struct scan *s, int64_t number, int64_t row, int64_t rows,
                       int64_t column, int64_t columns);
    void *block;
    size_t bytes;
    nnl_tensor *dense[9];
    int held;
} scan;

/* Where step `number` (from 0, in the order of computing) stands in the sequence. */
static int64_t time_of(const scan *s, int64_t number)
{
    return s->reverse ? s->steps - 1 - number : number;
}

static char *place(const scan *s, char *array, int64_t number, int64_t row, int64_t columns,
                   int64_t column)
{
    return array ? array + ((time_of(s, number) * s->batch + row) * columns + column) * s->width
                 : NULL;
}

/* Of an array x batch x columns, or of the state before the first step. */
static const char *place_before(const scan *s, char *array, const char *first, int64_t number,
                                int64_t row, int64_t columns, int64_t column)
{
    if (number == 0) return first ? first + (row * columns + column) * s->width : NULL;
    return place(s, array, number - 1, row, columns, column);
}

/* The tensor itself or a dense copy, held until the end. */
static nnl_status dense(scan *s, nnl_tensor *t, const char **out)
{
    *out = NULL;
    if (!t) return NNL_OK;
    nnl_tensor **held = &s->dense[s->held];
    NNL_TRY(nnl_dense(t, held));
    s->held++;
    *out = (*held)->data;
    return NNL_OK;
}

static void close_scan(scan *s)
{
    for (int i = 0; i < s->held; i++) nnl_tensor_unref(s->dense[i]);
    if (s->block) nnl_free(s->rt, s->block, s->bytes);
}

/* A part of the one block of memory that a run asks for; the first round, without it, adds up the
 * bytes. */
static char *take(scan *s, size_t bytes)
{
    char *part = s->block ? (char *)s->block + s->bytes : NULL;
    s->bytes += (bytes + 63) / 64 * 64;
    return part;
}

static char *take_array(scan *s, int64_t rows, int64_t columns)
{
    return take(s, (size_t)(rows * columns * s->width));
}

static factor take_factor(scan *s, const char *w, int64_t ldw, bool transposed, int64_t depth,
                          int64_t columns)
{
    factor f = {.w = w, .ldw = ldw, .depth = depth, .transposed = transposed};
    if (s->unpacked) return f;
    void *memory = take(s, nnl_panels_bytes(s->rt, s->dtype, depth, columns));
    if (memory)
        f.packed = nnl_panels_pack(s->rt, s->dtype, memory, w, ldw, transposed, depth, columns);
    return f;
}

/* Calls lay_out(s) twice: to learn how much memory it takes, and to fill it. */
static nnl_status allocate(scan *s, void (*lay_out)(scan *s))
{
    lay_out(s);
    size_t bytes = s->bytes;
    s->bytes = 0;
    NNL_TRY(nnl_alloc(s->rt, bytes, &s->block));
    lay_out(s);
    return NNL_OK;
}

static scan open_scan(nnl_call *c, int variant, const nnl_tensor *w_hh, const nnl_tensor *gates)
{
    int64_t steps = gates->shape[0], batch = gates->shape[1];
    scan s = {.rt = c->rt,
              .dtype = (nnl_dtype)w_hh->dtype,
              .variant = variant,
              .gates = nnl_recurrent_gates(variant),
              .width = (int64_t)nnl_width(w_hh->dtype),
              .steps = steps,
              .batch = batch,
              .unpacked = steps * batch <= (steps == 1 ? UNPACKED_STEP : UNPACKED_ROWS),
              .size = w_hh->shape[0] / nnl_recurrent_gates(variant),
              .states = w_hh->shape[1]};
    return s;
}

/* c = [c +] a w [+ bias] for some columns of w; fails only where weights are not packed. */
static nnl_status multiply(const scan *s, const factor *f, int64_t rows, const void *a, int64_t lda,
                           int64_t column, int64_t columns, void *c, int64_t ldc, bool add,
                           const void *bias)
{
    if (!s->unpacked) {
        nnl_panels_multiply(&f->packed, rows, a, lda, column, columns, c, ldc, add, bias);
        return NNL_OK;
    }
    return nnl_gemm(s->rt,
                    &(nnl_gemm_call){.dtype = s->dtype,
                                     .trans_b = f->transposed,
                                     .m = rows,
                                     .n = columns,
                                     .k = f->depth,
                                     .a = a,
                                     .lda = lda,
                                     .b = f->w + column * (f->transposed ? f->ldw : 1) * s->width,
                                     .ldb = f->ldw,
                                     .c = c,
                                     .ldc = ldc,
                                     .accumulate = add,
                                     .alpha = 1,
                                     .bias = bias,
                                     .batch = 1});
}

/* ---------------------------------------------------------------- sharing out */

/* Steps in the order of computing; on the way back one before the first gives the gradient of the
 * state there. */
static int64_t first_number(const scan *s) { return s->dgate ? s->steps - 1 : 0; }
static int64_t end_number(const scan *s) { return s->dgate ? (s->initial ? -2 : -1) : s->steps; }
static int64_t next_number(const scan *s, int64_t number)
{
    return s->dgate ? number - 1 : number + 1;
}

static void rows_task(void *context, int64_t i)
{
    const scan *s = context;
    int64_t first = s->batch * i / s->tasks, rows = s->batch * (i + 1) / s->tasks - first;
    for (int64_t number = first_number(s); number != end_number(s);
         number = next_number(s, number)) {
        for (int64_t column = 0; column < s->size; column += s->group)
            s->step(s, number, first, rows, column, NNL_MIN(s->group, s->size - column));
    }
}

static void columns_task(void *context, int64_t i)
{
    const scan *s = context;
    int64_t column = i * s->group;
    s->step(s, s->now, 0, s->batch, column, NNL_MIN(s->group, s->size - column));
}

static nnl_status run_columns(scan *s)
{
    for (s->now = first_number(s); s->now != end_number(s); s->now = next_number(s, s->now))
        NNL_TRY(nnl_parallel(s->rt, (s->size + s->group - 1) / s->group, columns_task, s));
    return NNL_OK;
}

static nnl_status run_whole_steps(scan *s)
{
    for (int64_t number = first_number(s); number != end_number(s); number = next_number(s, number))
        NNL_TRY(s->step(s, number, 0, s->batch, 0, s->size));
    return NNL_OK;
}

static nnl_status run_scan(scan *s)
{
    if (s->batch == 0) return NNL_OK;
    if (s->unpacked) return run_whole_steps(s);
    int64_t threads = s->rt->threads, panel = nnl_panels_width(s->rt, s->dtype);
    double weights = (double)s->gates * (double)s->size * (double)s->states;
    double work = weights * (double)s->batch;
    bool large = weights * (double)s->width > CACHE_BYTES;
    bool columns = threads > 1 && (large || s->batch < LEAST_ROWS * threads);
    s->group = GROUP * panel;
    if (columns && work >= COLUMNS_WORK && !s->projects) {
        int64_t panels = (s->size + panel - 1) / panel;
        s->group = NNL_MIN(NNL_MAX(panels / (2 * threads), 1), GROUP) * panel;
        return run_columns(s);
    }
    int64_t share = (s->batch + threads - 1) / threads;
    int64_t rows = NNL_MIN(NNL_MAX(share, LEAST_ROWS), MOST_ROWS);
    s->tasks = (s->batch + rows - 1) / rows;
    if (work * (double)s->steps >= NNL_SERIAL_WORK * 4)
        return nnl_parallel(s->rt, s->tasks, rows_task, s);
    for (int64_t i = 0; i < s->tasks; i++) rows_task(s, i);
    return NNL_OK;
}

/* ---------------------------------------------------------------- forward */

static void run_kernel(const scan *s, const nnl_recurrent_tile *tile)
{
    const nnl_kernels *k = s->rt->kernels;
    bool back = s->dgate != NULL;
    if (s->variant == NNL_LSTM)
        (back ? k->lstm_back : k->lstm_step)((int)s->dtype, tile);
    else if (s->variant == NNL_GRU)
        (back ? k->gru_back : k->gru_step)((int)s->dtype, tile);
    else
        (back ? k->rnn_back : k->rnn_step)((int)s->dtype, tile);
}

/* The arrays of a tile; those that the layer has not are NULL. */
static nnl_recurrent_tile tile_of(const scan *s, int64_t number, int64_t row, int64_t rows,
                                  int64_t column, int64_t columns)
{
    return (nnl_recurrent_tile){
        .rows = rows,
        .columns = columns,
        .size = s->size,
        .relu = s->relu,
        .gates = place(s, s->gate, number, row, s->gates * s->size, column),
        .recurrent = place(s, s->recurrent, number, row, s->size, column),
        .state = s->projects ? s->scratch + (row * s->size + column) * s->width
                             : place(s, s->output, number, row, s->size, column),
        .state_before = s->variant == NNL_GRU
                            ? place_before(s, s->output, s->h0, number, row, s->size, column)
                            : NULL,
        .cell = place(s, s->cell, number, row, s->size, column),
        .cell_before =
            s->cell ? place_before(s, s->cell, s->c0, number, row, s->size, column) : NULL};
}

static nnl_status forward_step(const scan *s, int64_t number, int64_t row, int64_t rows,
                               int64_t column, int64_t columns)
{
    nnl_recurrent_tile tile = tile_of(s, number, row, rows, column, columns);
    const char *before = place_before(s, s->output, s->h0, number, row, s->states, 0);
    bool gru = s->variant == NNL_GRU;
    for (int g = 0; g < (gru ? 2 : s->gates); g++)
        NNL_TRY(multiply(s, &s->weight[g], rows, before, s->states, column, columns,
                         (char *)tile.gates + g * s->size * s->width, s->gates * s->size, true,
                         NULL));
    if (gru)
        NNL_TRY(multiply(s, &s->weight[2], rows, before, s->states, column, columns,
                         place(s, s->recurrent, number, row, s->size, column), s->size, false,
                         s->fresh_bias ? s->fresh_bias + column * s->width : NULL));
    run_kernel(s, &tile);
    if (!s->projects || column + columns < s->size) return NNL_OK;
    return multiply(s, &s->projection, rows, s->scratch + row * s->size * s->width, s->size, 0,
                    s->states, place(s, s->output, number, row, s->states, 0), s->states, false,
                    NULL);
}

typedef struct forward {
    scan s;
    const char *w_hh, *w_hr, *h0, *c0;
    char *bias;
} forward;

/* What is added to the gates of all steps: both biases, but for b_hn of the GRU, which r
 * multiplies. */
static void add_biases(const forward *f, nnl_tensor *ih, nnl_tensor *hh)
{
    const scan *s = &f->s;
    int64_t both = s->variant == NNL_GRU ? 2 * s->size : s->size * s->gates;
    for (int64_t i = 0; i < s->gates * s->size; i++) {
        double first = ih ? nnl_element_double(ih, i * ih->strides[0]) : 0;
        double second = hh && i < both ? nnl_element_double(hh, i * hh->strides[0]) : 0;
        if (s->dtype == NNL_F32)
            ((float *)(void *)f->bias)[i] = (float)(first + second);
        else
            ((double *)(void *)f->bias)[i] = first + second;
    }
}

static void lay_out_forward(scan *s)
{
    forward *f = (forward *)s;
    for (int g = 0; g < s->gates; g++)
        s->weight[g] = take_factor(s, f->w_hh + g * s->size * s->states * s->width, s->states, true,
                                   s->states, s->size);
    if (s->projects) {
        s->projection = take_factor(s, f->w_hr, s->size, true, s->size, s->states);
        s->scratch = take_array(s, s->batch, s->size);
    }
    char *zeros = take_array(s, s->batch, NNL_MAX(s->size, s->states));
    f->bias = take_array(s, s->gates, s->size);
    if (!s->block) return;
    memset(zeros, 0, (size_t)(s->batch * NNL_MAX(s->size, s->states) * s->width));
    s->h0 = f->h0 ? f->h0 : zeros;
    s->c0 = f->c0 ? f->c0 : zeros;
}

static nnl_status input_products(forward *f, const char *x, const nnl_tensor *w_ih, const char *w)
{
    scan *s = &f->s;
    int64_t columns = s->gates * s->size, features = w_ih->shape[1];
    return nnl_gemm(s->rt, &(nnl_gemm_call){.dtype = s->dtype,
                                            .trans_b = true,
                                            .m = s->steps * s->batch,
                                            .n = columns,
                                            .k = features,
                                            .a = x,
                                            .lda = NNL_MAX(features, 1),
                                            .b = w,
                                            .ldb = NNL_MAX(features, 1),
                                            .c = s->gate,
                                            .ldc = columns,
                                            .alpha = 1,
                                            .bias = f->bias,
                                            .batch = 1});
}

static nnl_status forward_run(nnl_call *c, forward *f)
{
    scan *s = &f->s;
    nnl_tensor **in = c->in, *w_hr = s->variant == NNL_LSTM ? in[NNL_REC_W_HR] : NULL;
    const char *x, *w_ih;
    NNL_TRY(dense(s, in[NNL_REC_INPUT], &x));
    NNL_TRY(dense(s, in[NNL_REC_W_IH], &w_ih));
    NNL_TRY(dense(s, in[NNL_REC_W_HH], &f->w_hh));
    NNL_TRY(dense(s, in[NNL_REC_H0], &f->h0));
    if (s->variant == NNL_LSTM) NNL_TRY(dense(s, in[NNL_REC_C0], &f->c0));
    NNL_TRY(dense(s, w_hr, &f->w_hr));
    if (s->variant == NNL_GRU && in[NNL_REC_B_HH]) {
        NNL_TRY(dense(s, in[NNL_REC_B_HH], &s->fresh_bias));
        s->fresh_bias += 2 * s->size * s->width;
    }
    s->projects = w_hr != NULL;
    NNL_TRY(allocate(s, lay_out_forward));
    add_biases(f, in[NNL_REC_B_IH], in[NNL_REC_B_HH]);
    NNL_TRY(input_products(f, x, in[NNL_REC_W_IH], w_ih));
    return run_scan(s);
}

nnl_status nnl_recurrent_run(nnl_call *c)
{
    int variant = c->op->variant;
    nnl_tensor **out = c->out;
    forward f = {.s = open_scan(c, variant, c->in[NNL_REC_W_HH], c->in[NNL_REC_INPUT])};
    scan *s = &f.s;
    s->step = forward_step;
    s->reverse = c->attr[variant == NNL_RNN].as.i;
    s->relu = variant == NNL_RNN && c->attr[0].as.i;
    s->output = out[NNL_REC_OUTPUT]->data;
    s->gate = variant == NNL_RNN ? s->output : out[variant == NNL_LSTM ? 3 : 2]->data;
    if (variant == NNL_GRU) s->recurrent = out[3]->data;
    if (variant == NNL_LSTM) s->cell = out[4]->data;
    nnl_status status = forward_run(c, &f);
    if (status == NNL_OK) {
        size_t row = (size_t)(s->batch * s->width);
        int64_t last = s->steps - 1;
        memcpy(out[NNL_REC_H_N]->data, place(s, s->output, last, 0, s->states, 0),
               row * (size_t)s->states);
        if (variant == NNL_LSTM)
            memcpy(out[2]->data, place(s, s->cell, last, 0, s->size, 0), row * (size_t)s->size);
    }
    close_scan(s);
    return status;
}

/* ---------------------------------------------------------------- backward */

/* dstate [+]= what flows back from the gates of step `number` to columns of the state before it. */
static nnl_status flow_back(const scan *s, int64_t number, int64_t row, int64_t rows,
                            int64_t column, int64_t columns)
{
    int64_t gates = s->gates * s->size;
    char *to = s->dstate + (row * s->states + column) * s->width;
    bool gru = s->variant == NNL_GRU;
    NNL_TRY(multiply(s, &s->weight[0], rows, place(s, s->dgate, number, row, gates, 0), gates,
                     column, columns, to, s->states, gru, NULL));
    if (!gru) return NNL_OK;
    return multiply(s, &s->weight[1], rows, place(s, s->drecurrent, number, row, s->size, 0),
                    s->size, column, columns, to, s->states, true, NULL);
}

/* Columns of the gradient of h before its projection: into scratch; with the first ones dtotal. */
static nnl_status project_back(const scan *s, int64_t number, int64_t row, int64_t rows,
                               int64_t column, int64_t columns)
{
    char *total = place(s, s->dtotal, number, row, s->states, 0);
    const int32_t step[2] = {1, 1};
    const double scale = 1;
    nnl_map_kernel *add = s->rt->kernels->map[NNL_MAP_add][s->dtype];
    for (int64_t r = 0; r < rows && column == 0; r++) {
        const char *own = s->dstate + (row + r) * s->states * s->width;
        char *to = total + r * s->states * s->width;
        const char *dy =
            s->dy ? s->dy + (time_of(s, number) * s->dy_step + (row + r) * s->dy_row) * s->width
                  : NULL;
        if (dy)
            add(to, (const void *[]){own, dy}, step, &scale, s->states);
        else
            memcpy(to, own, (size_t)(s->states * s->width));
    }
    return multiply(s, &s->projection, rows, total, s->states, column, columns,
                    s->scratch + (row * s->size + column) * s->width, s->size, false, NULL);
}

static nnl_status backward_step(const scan *s, int64_t number, int64_t row, int64_t rows,
                                int64_t column, int64_t columns)
{
    bool last = number == s->steps - 1;
    if (!last && !s->projects) NNL_TRY(flow_back(s, number + 1, row, rows, column, columns));
    if (!last && s->projects && column == 0)
        NNL_TRY(flow_back(s, number + 1, row, rows, 0, s->states));
    if (number < 0) return NNL_OK;
    nnl_recurrent_tile tile = tile_of(s, number, row, rows, column, columns);
    if (s->projects) {
        NNL_TRY(project_back(s, number, row, rows, column, columns));
        tile.dstate = tile.state;
    } else {
        tile.dstate = s->dstate + (row * s->size + column) * s->width;
        if (s->dy)
            tile.dy =
                s->dy + (time_of(s, number) * s->dy_step + row * s->dy_row + column) * s->width;
        tile.dy_row = s->dy_row;
    }
    if (s->dcell) tile.dcell = s->dcell + (row * s->size + column) * s->width;
    tile.dgates = place(s, s->dgate, number, row, s->gates * s->size, column);
    tile.drecurrent = place(s, s->drecurrent, number, row, s->size, column);
    run_kernel(s, &tile);
    return NNL_OK;
}

typedef struct backward {
    scan s;
    const char *w_hh, *w_hr, *h0, *c0;
} backward;

static void lay_out_backward(scan *s)
{
    backward *b = (backward *)s;
    int64_t depth = (s->variant == NNL_GRU ? 2 : s->gates) * s->size;
    s->weight[0] = take_factor(s, b->w_hh, s->states, false, depth, s->states);
    if (s->variant == NNL_GRU)
        s->weight[1] = take_factor(s, b->w_hh + depth * s->states * s->width, s->states, false,
                                   s->size, s->states);
    if (s->projects) {
        s->projection = take_factor(s, b->w_hr, s->size, false, s->states, s->size);
        s->scratch = take_array(s, s->batch, s->size);
    }
    char *zeros = take_array(s, s->batch, NNL_MAX(s->size, s->states));
    if (!s->block) return;
    memset(zeros, 0, (size_t)(s->batch * NNL_MAX(s->size, s->states) * s->width));
    s->h0 = b->h0 ? b->h0 : zeros;
    s->c0 = b->c0 ? b->c0 : zeros;
}

/* The result's gradient as it lies, if its rows are dense, and what flows in at the end of the
 * sequence. */
static nnl_status open_gradients(scan *s, nnl_tensor *dy, nnl_tensor *dh_n, nnl_tensor *dc_n,
                                 nnl_tensor *dh, nnl_tensor *dc)
{
    s->dy_step = s->batch * s->states;
    s->dy_row = s->states;
    if (dy && (dy->strides[2] == 1 || s->states == 1)) {
        s->dy = dy->data;
        s->dy_step = dy->strides[0];
        s->dy_row = dy->strides[1];
    } else {
        NNL_TRY(dense(s, dy, &s->dy));
    }
    s->dstate = dh->data;
    NNL_TRY(dh_n ? nnl_copy(dh, dh_n) : nnl_fill(dh, V_INT(0)));
    if (!dc) return NNL_OK;
    s->dcell = dc->data;
    return dc_n ? nnl_copy(dc, dc_n) : nnl_fill(dc, V_INT(0));
}

static nnl_status backward_scan(backward *b, nnl_tensor *w_hh)
{
    b->s.step = backward_step;
    NNL_TRY(dense(&b->s, w_hh, &b->w_hh));
    NNL_TRY(allocate(&b->s, lay_out_backward));
    return run_scan(&b->s);
}

nnl_status nnl_lstm_backward_run(nnl_call *c)
{
    nnl_tensor **in = c->in, **out = c->out, *gates = in[3], *w_hh = in[5], *w_hr = in[7];
    backward b = {.s = open_scan(c, NNL_LSTM, w_hh, gates)};
    scan *s = &b.s;
    s->reverse = c->attr[0].as.i;
    s->initial = c->attr[1].as.i;
    s->gate = gates->data;
    s->cell = in[4]->data;
    s->dgate = out[0]->data;
    s->projects = w_hr != NULL;
    if (w_hr) s->dtotal = out[3]->data;
    nnl_status status = open_gradients(s, in[0], in[1], in[2], out[1], out[2]);
    if (status == NNL_OK) status = dense(s, in[6], &b.c0);
    if (status == NNL_OK) status = dense(s, w_hr, &b.w_hr);
    if (status == NNL_OK) status = backward_scan(&b, w_hh);
    close_scan(s);
    return status;
}

nnl_status nnl_gru_backward_run(nnl_call *c)
{
    nnl_tensor **in = c->in, **out = c->out, *gates = in[2], *w_hh = in[5];
    backward b = {.s = open_scan(c, NNL_GRU, w_hh, gates)};
    scan *s = &b.s;
    s->reverse = c->attr[0].as.i;
    s->initial = c->attr[1].as.i;
    s->gate = gates->data;
    s->recurrent = in[3]->data;
    s->output = in[4]->data;
    s->dgate = out[0]->data;
    s->drecurrent = out[1]->data;
    nnl_status status = open_gradients(s, in[0], in[1], NULL, out[2], NULL);
    if (status == NNL_OK) status = dense(s, in[6], &b.h0);
    if (status == NNL_OK) status = backward_scan(&b, w_hh);
    close_scan(s);
    return status;
}

nnl_status nnl_rnn_backward_run(nnl_call *c)
{
    nnl_tensor **in = c->in, **out = c->out, *w_hh = in[3];
    backward b = {.s = open_scan(c, NNL_RNN, w_hh, in[2])};
    scan *s = &b.s;
    s->relu = c->attr[0].as.i;
    s->reverse = c->attr[1].as.i;
    s->initial = c->attr[2].as.i;
    s->gate = s->output = in[2]->data;
    s->dgate = out[0]->data;
    nnl_status status = open_gradients(s, in[0], in[1], NULL, out[1], NULL);
    if (status == NNL_OK) status = backward_scan(&b, w_hh);
    close_scan(s);
    return status;
}
