/* Windows over images: their sizes, checks, and the walk over rows that all pooling shares. */
#include "pool.h"

#include <string.h>

#define TASK 16384 /* taps */

enum { DEPTH, HEIGHT, WIDTH };

static int first_dim(const nnl_pool *pool) { return NNL_POOL_DIMS - pool->dims; }

void nnl_pool_sizes(const nnl_value *value, int n, int64_t *out)
{
    for (int d = 0; d < n; d++)
        out[d] = value->kind == NNL_KIND_INTS ? value->as.ints[d] : nnl_value_int(value);
}

static void begin(nnl_pool *pool, int dims)
{
    *pool = (nnl_pool){.dims = dims};
    for (int d = 0; d < NNL_POOL_DIMS; d++)
        pool->dim[d] = (nnl_pool_dim){1, 1, 1, 1, 0, 1, false, false};
}

nnl_status nnl_pool_read(nnl_call *c, nnl_pool *pool, int dims, const nnl_value *kernel,
                         const nnl_value *stride, const nnl_value *padding,
                         const nnl_value *dilation)
{
    int64_t k[NNL_POOL_DIMS], s[NNL_POOL_DIMS], p[NNL_POOL_DIMS], l[NNL_POOL_DIMS] = {1, 1, 1};
    begin(pool, dims);
    nnl_pool_sizes(kernel, dims, k);
    nnl_pool_sizes(nnl_given(stride) ? stride : kernel, dims, s);
    nnl_pool_sizes(padding, dims, p);
    if (dilation) nnl_pool_sizes(dilation, dims, l);
    int64_t taps = 1;
    for (int d = 0; d < dims; d++) {
        int64_t reach;
        if (k[d] < 1)
            return nnl_call_fail(c, NNL_EINVAL, "kernel_size must be 1 or more, got %lld",
                                 (long long)k[d]);
        if (s[d] < 1)
            return nnl_call_fail(c, NNL_EINVAL, "stride must be 1 or more, got %lld",
                                 (long long)s[d]);
        if (l[d] < 1)
            return nnl_call_fail(c, NNL_EINVAL, "dilation must be 1 or more, got %lld",
                                 (long long)l[d]);
        if (!nnl_mul_size(taps, k[d], &taps) || taps > INT32_MAX ||
            !nnl_mul_size(k[d], l[d], &reach))
            return nnl_call_fail(c, NNL_EINVAL, "kernel_size and dilation make too large a window");
        reach -= l[d] - 1;
        if (p[d] < 0 || p[d] > reach / 2)
            return nnl_call_fail(c, NNL_EINVAL,
                                 "padding must be 0 to %lld, half the window, got %lld",
                                 (long long)(reach / 2), (long long)p[d]);
        pool->dim[NNL_POOL_DIMS - dims + d] = (nnl_pool_dim){
            .in = 1, .out = 1, .kernel = k[d], .stride = s[d], .padding = p[d], .dilation = l[d]};
    }
    return NNL_OK;
}

nnl_status nnl_pool_read_adaptive(nnl_call *c, nnl_pool *pool, int dims,
                                  const nnl_value *output_size)
{
    int64_t size[NNL_POOL_DIMS];
    begin(pool, dims);
    pool->adaptive = true;
    nnl_pool_sizes(output_size, dims, size);
    for (int d = 0; d < dims; d++) {
        if (size[d] < 0)
            return nnl_call_fail(c, NNL_EINVAL, "output_size must be 0 or more, got %lld",
                                 (long long)size[d]);
        pool->dim[NNL_POOL_DIMS - dims + d] =
            (nnl_pool_dim){.in = 1, .out = size[d], .dilation = 1, .adaptive = true};
    }
    return NNL_OK;
}

/* How many windows fit; with ceil one more may begin inside the input or the padding before it. */
static nnl_status count_windows(nnl_call *c, nnl_pool_dim *dim, int shown, bool ceil)
{
    int64_t reach = dim->dilation * (dim->kernel - 1) + 1, padded;
    if (!nnl_add_size(dim->in, 2 * dim->padding, &padded) || padded > INT64_MAX / 2)
        return nnl_call_fail(c, NNL_ESHAPE, "padding is too large");
    int64_t rest = padded - reach;
    if (rest < 0) {
        char text[NNL_NAMED_TEXT];
        return nnl_call_fail(
            c, NNL_ESHAPE,
            "the window reaches over %lld places, but dimension %d of %s has %lld with padding",
            (long long)reach, shown + c->index_base, nnl_call_input_text(c, 0, text),
            (long long)padded);
    }
    dim->out = rest / dim->stride + 1;
    if (ceil && rest % dim->stride != 0 &&
        dim->out < (dim->in + dim->padding + dim->stride - 1) / dim->stride)
        dim->out++;
    return NNL_OK;
}

/* The most places that a window of an adaptive pool has. */
static void set_shared(nnl_pool_dim *dim)
{
    dim->kernel = dim->out ? (dim->in + dim->out - 1) / dim->out + (dim->in % dim->out != 0) : 1;
}

nnl_status nnl_pool_infer(nnl_call *c, nnl_pool *pool, nnl_spec *spec)
{
    const nnl_tensor *x = c->in[0];
    int lead = x->ndim - pool->dims;
    char text[NNL_NAMED_TEXT];
    if (lead != 1 && lead != 2)
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have %d dimensions, (batch x) channels x %s",
                             nnl_call_input_text(c, 0, text), pool->dims + 2,
                             pool->dims == 1   ? "length"
                             : pool->dims == 2 ? "height x width"
                                               : "depth x height x width");
    nnl_spec_like(spec, x);
    for (int d = first_dim(pool); d < NNL_POOL_DIMS; d++) {
        nnl_pool_dim *dim = &pool->dim[d];
        int shown = lead + d - first_dim(pool);
        dim->in = x->shape[shown];
        if (dim->in == 0)
            return nnl_call_fail(c, NNL_ESHAPE, "dimension %d of %s is empty",
                                 shown + c->index_base, nnl_call_input_text(c, 0, text));
        if (pool->adaptive)
            set_shared(dim);
        else
            NNL_TRY(count_windows(c, dim, shown, pool->ceil));
        spec->shape[shown] = dim->out;
    }
    spec->channels_last = lead == 2 && nnl_lies_channels_last(x);
    return NNL_OK;
}

void nnl_pool_infer_backward(nnl_call *c, nnl_pool *pool, const nnl_value *input_size,
                             nnl_spec *spec)
{
    const nnl_tensor *results = c->in[c->n_in - 1]; /* lies as the input did; a gradient may not */
    int lead = results->ndim - pool->dims;
    int64_t size[NNL_POOL_DIMS];
    nnl_pool_sizes(input_size, pool->dims, size);
    nnl_spec_like(spec, c->in[0]);
    for (int d = first_dim(pool); d < NNL_POOL_DIMS; d++) {
        int place = d - first_dim(pool);
        pool->dim[d].in = spec->shape[lead + place] = size[place];
        pool->dim[d].out = results->shape[lead + place];
        if (pool->adaptive) set_shared(&pool->dim[d]);
    }
    spec->channels_last = lead == 2 && nnl_lies_channels_last(results);
}

/* ---------------------------------------------------------------- windows */

static nnl_pool_window regular(const nnl_pool_dim *dim, int64_t o)
{
    int64_t start = o * dim->stride - dim->padding, end = start + dim->kernel;
    nnl_pool_window w = {
        .number = start < 0 ? (int32_t)((dim->dilation - 1 - start) / dim->dilation) : 0};
    w.first = start + w.number * dim->dilation;
    int64_t fit = w.first < dim->in ? (dim->in - 1 - w.first) / dim->dilation + 1 : 0;
    w.count = (int32_t)NNL_MAX(0, NNL_MIN(dim->kernel - w.number, fit));
    w.extent =
        dim->inside_only ? NNL_MAX(1, w.count) : NNL_MIN(end, dim->in + dim->padding) - start;
    return w;
}

/* The places from floor(o in / out) up to ceil((o + 1) in / out). */
static nnl_pool_window shared(const nnl_pool_dim *dim, int64_t o)
{
    int64_t first = o / dim->out * dim->in + o % dim->out * dim->in / dim->out;
    int64_t count = 1 + ((o + 1) * dim->in - 1) / dim->out - first;
    return (nnl_pool_window){.first = first, .count = (int32_t)count, .extent = count};
}

/* Last place of a window and one. */
static int64_t end_of(const nnl_pool_walk *walk, int d, int64_t o)
{
    const nnl_pool_window *w = &walk->window[d][o];
    return w->count ? w->first + (w->count - 1) * walk->pool.dim[d].dilation + 1 : w->first;
}

static void find_ranges(nnl_pool_walk *walk, int d)
{
    struct nnl_pool_range *range = walk->range[d];
    for (int64_t place = 0; place < walk->pool.dim[d].in; place++)
        range[place] = (struct nnl_pool_range){0, 0};
    for (int64_t o = 0; o < walk->pool.dim[d].out; o++) {
        int64_t end = end_of(walk, d, o);
        for (int64_t place = walk->window[d][o].first; place < end; place++) {
            if (range[place].end == 0) range[place].first = o;
            range[place].end = o + 1;
        }
    }
}

static bool is_tiled(const nnl_pool_walk *walk)
{
    int64_t end = 0;
    for (int64_t o = 0; o < walk->pool.dim[WIDTH].out; o++) {
        if (walk->window[WIDTH][o].first != end) return false;
        end = end_of(walk, WIDTH, o);
    }
    return walk->pool.dim[WIDTH].dilation == 1 && end == walk->pool.dim[WIDTH].in;
}

static bool are_paired(const nnl_pool_walk *walk)
{
    for (int64_t o = 0; o < walk->pool.dim[WIDTH].out; o++) {
        const nnl_pool_window *w = &walk->window[WIDTH][o];
        if (w->first != 2 * o || w->count != 2 || w->number != 0) return false;
    }
    return walk->pool.dim[WIDTH].dilation == 1;
}

static void find_columns(nnl_pool_walk *walk)
{
    int64_t first = walk->pool.dim[WIDTH].in, end = 0;
    for (int64_t o = 0; o < walk->pool.dim[WIDTH].out; o++) {
        if (walk->window[WIDTH][o].count == 0) continue;
        first = NNL_MIN(first, walk->window[WIDTH][o].first);
        end = NNL_MAX(end, end_of(walk, WIDTH, o));
    }
    walk->first_column = first;
    walk->columns = NNL_MAX(0, end - first);
}

nnl_status nnl_pool_walk_new(nnl_runtime *rt, const nnl_pool *pool, const nnl_tensor *images,
                             bool channels_last, nnl_pool_walk **out)
{
    int lead = images->ndim - pool->dims;
    int64_t channels = images->shape[lead - 1], batch = lead == 2 ? images->shape[0] : 1,
            windows = 0;
    for (int d = 0; d < NNL_POOL_DIMS; d++) windows += pool->dim[d].out;
    size_t ranges =
        (size_t)(pool->dim[DEPTH].in + pool->dim[HEIGHT].in) * sizeof(struct nnl_pool_range);
    size_t bytes = sizeof(nnl_pool_walk) + (size_t)windows * sizeof(nnl_pool_window) + ranges;
    void *block;
    NNL_TRY(nnl_alloc(rt, bytes, &block));
    nnl_pool_walk *walk = *out = block;
    *walk = (nnl_pool_walk){.rt = rt,
                            .bytes = bytes,
                            .pool = *pool,
                            .dtype = images->dtype,
                            .width = (int64_t)nnl_dtype_size((nnl_dtype)images->dtype),
                            .outer = channels_last ? batch : batch * channels,
                            .inner = channels_last ? channels : 1};
    nnl_pool_window *w = (nnl_pool_window *)(walk + 1);
    for (int d = 0; d < NNL_POOL_DIMS; d++) {
        walk->window[d] = w;
        for (int64_t o = 0; o < pool->dim[d].out; o++)
            *w++ = pool->adaptive ? shared(&pool->dim[d], o) : regular(&pool->dim[d], o);
    }
    for (int64_t o = 0; o < pool->dim[WIDTH].out && pool->divisor; o++)
        walk->window[WIDTH][o].extent = 1;
    walk->range[DEPTH] = (struct nnl_pool_range *)(void *)w;
    walk->range[HEIGHT] = walk->range[DEPTH] + pool->dim[DEPTH].in;
    for (int d = DEPTH; d < WIDTH; d++) find_ranges(walk, d);
    walk->tiles = is_tiled(walk);
    walk->paired = are_paired(walk) && rt->kernels->pool_pairs(walk->inner, &walk->pairs);
    find_columns(walk);
    return NNL_OK;
}

nnl_status nnl_pool_walk_keep(nnl_ready *r, const nnl_pool *pool, bool channels_last,
                              nnl_status (*run)(nnl_ready *r))
{
    const nnl_tensor *images = r->call->in[0];
    nnl_pool_walk *walk;
    if (!channels_last && !images->contiguous) return NNL_OK;
    NNL_TRY(nnl_pool_walk_new(r->call->rt, pool, images, channels_last, &walk));
    r->plan = walk;
    r->plan_bytes = walk->bytes;
    r->run = run;
    return NNL_OK;
}

void nnl_pool_walk_free(nnl_pool_walk *walk)
{
    if (walk) nnl_free(walk->rt, walk, walk->bytes);
}

int64_t nnl_pool_result_row(const nnl_pool_walk *walk, int64_t plane, int64_t depth, int64_t height)
{
    const nnl_pool_dim *dim = walk->pool.dim;
    return ((plane * dim[DEPTH].out + depth) * dim[HEIGHT].out + height) * dim[WIDTH].out *
           walk->inner;
}

int64_t nnl_pool_input_row(const nnl_pool_walk *walk, int64_t plane, int64_t depth, int64_t height)
{
    const nnl_pool_dim *dim = walk->pool.dim;
    return ((plane * dim[DEPTH].in + depth) * dim[HEIGHT].in + height) * dim[WIDTH].in *
           walk->inner;
}

/* Number of the tap by which the window reaches a place along a dimension, or -1. */
static int32_t tap(const nnl_pool_walk *walk, int d, int64_t window, int64_t place)
{
    const nnl_pool_window *w = &walk->window[d][window];
    int64_t dilation = walk->pool.dim[d].dilation, from = place - w->first;
    if (from < 0) return -1;
    if (dilation > 1) {
        if (from % dilation != 0) return -1;
        from /= dilation;
    }
    return from < w->count ? w->number + (int32_t)from : -1;
}

void nnl_pool_collect(const nnl_pool_walk *walk, int64_t plane, int64_t depth, int64_t height,
                      nnl_pool_add *add)
{
    char *dx = walk->out + nnl_pool_input_row(walk, plane, depth, height) * walk->width;
    const struct nnl_pool_range *d = &walk->range[DEPTH][depth], *h = &walk->range[HEIGHT][height];
    size_t length = (size_t)(walk->pool.dim[WIDTH].in * walk->inner * walk->width);
    bool fresh = walk->tiles;
    if (!fresh) memset(dx, 0, length);
    for (int64_t od = d->first; od < d->end; od++) {
        int32_t tap_depth = tap(walk, DEPTH, od, depth);
        for (int64_t oh = h->first; oh < h->end && tap_depth >= 0; oh++) {
            int32_t tap_height = tap(walk, HEIGHT, oh, height);
            int64_t first;
            if (tap_height < 0) continue;
            nnl_pool_row row = nnl_pool_row_at(walk, od, oh, &first);
            row.code = tap_depth * row.plane_code + tap_height * row.row_code;
            row.fresh = fresh;
            add(walk, &row, dx, nnl_pool_result_row(walk, plane, od, oh));
            fresh = false;
        }
    }
    if (fresh) memset(dx, 0, length); /* no window reaches the row */
}

nnl_pool_row nnl_pool_row_at(const nnl_pool_walk *walk, int64_t depth, int64_t height,
                             int64_t *first)
{
    const nnl_pool_dim *dim = walk->pool.dim;
    const nnl_pool_window *d = &walk->window[DEPTH][depth], *h = &walk->window[HEIGHT][height];
    int64_t row = dim[WIDTH].in * walk->inner, plane = dim[HEIGHT].in * row;
    int32_t row_code = (int32_t)dim[WIDTH].kernel,
            plane_code = (int32_t)(dim[HEIGHT].kernel * dim[WIDTH].kernel);
    *first = d->first * plane + h->first * row;
    return (nnl_pool_row){.window = walk->window[WIDTH],
                          .windows = dim[WIDTH].out,
                          .inner = walk->inner,
                          .dilation = dim[WIDTH].dilation,
                          .width = dim[WIDTH].in,
                          .first_column = walk->first_column,
                          .columns = walk->columns,
                          .planes = d->count,
                          .rows = h->count,
                          .plane_step = dim[DEPTH].dilation * plane,
                          .row_step = dim[HEIGHT].dilation * row,
                          .code = d->number * plane_code + h->number * row_code,
                          .plane_code = plane_code,
                          .row_code = row_code,
                          .wide = walk->wide,
                          .pairs = walk->paired ? &walk->pairs : NULL,
                          .factor = walk->pool.divisor ? (double)walk->pool.divisor
                                                       : (double)d->extent * (double)h->extent};
}

typedef struct tiles {
    nnl_pool_row row;
    nnl_pool_pairs pairs;
    nnl_pool_window window[];
} tiles;

size_t nnl_pool_tiles_bytes(int64_t side, int64_t places)
{
    return sizeof(tiles) + (size_t)(places / side) * sizeof(nnl_pool_window);
}

const nnl_pool_row *nnl_pool_tiles(const nnl_kernels *kernels, int64_t side, int64_t places,
                                   int64_t channels, void *memory)
{
    tiles *t = memory;
    const nnl_pool_dim dim = {
        .in = places, .out = places / side, .kernel = side, .stride = side, .dilation = 1};
    for (int64_t o = 0; o < dim.out; o++) t->window[o] = regular(&dim, o);
    t->row = (nnl_pool_row){
        .window = t->window,
        .windows = dim.out,
        .inner = channels,
        .dilation = 1,
        .width = places,
        .columns = places,
        .planes = 1,
        .rows = side,
        .row_step = places * channels,
        .pairs = side == 2 && kernels->pool_pairs(channels, &t->pairs) ? &t->pairs : NULL};
    return &t->row;
}

/* ---------------------------------------------------------------- the walk */

typedef struct span {
    const nnl_pool_walk *walk;
    int64_t rows, depths, heights;
} span;

static void rows_task(void *context, int64_t task)
{
    const span *s = context;
    int64_t end = NNL_MIN((task + 1) * s->walk->rows_per_task, s->rows);
    for (int64_t row = task * s->walk->rows_per_task; row < end; row++)
        s->walk->row(s->walk, row / s->heights / s->depths, row / s->heights % s->depths,
                     row % s->heights);
}

nnl_status nnl_pool_walk_run(nnl_pool_walk *walk, bool backward)
{
    const nnl_pool_dim *dim = walk->pool.dim;
    span s = {.walk = walk,
              .depths = backward ? dim[DEPTH].in : dim[DEPTH].out,
              .heights = backward ? dim[HEIGHT].in : dim[HEIGHT].out};
    s.rows = walk->outer * s.depths * s.heights;
    double work = (double)walk->outer * (double)walk->inner;
    for (int d = 0; d < NNL_POOL_DIMS; d++)
        work *= (double)NNL_MAX(1, dim[d].out) * (double)dim[d].kernel;
    if (s.rows == 0 || walk->inner == 0) return NNL_OK;
    walk->rows_per_task = NNL_MAX(1, (int64_t)((double)s.rows * TASK / work));
    int64_t tasks = (s.rows + walk->rows_per_task - 1) / walk->rows_per_task;
    if (work > (double)nnl_serial_work(walk->rt))
        return nnl_parallel(walk->rt, tasks, rows_task, &s);
    for (int64_t i = 0; i < tasks; i++) rows_task(&s, i);
    return NNL_OK;
}
