/* Positions read from tensors, the walks that gather and scatter by them, and rows added to rows.
 * Whatever is written more than once is written in the order of the packed side's elements. */
#include "index_walk.h"

#include <string.h>

#define GRAIN 16384        /* elements that a piece of a split walk should have */
#define SCATTER_GRAIN 4096 /* the same where they lie scattered */
#define SLABS 32768        /* bytes that a piece copies, and then finds in the cache */

/* ---------------------------------------------------------------- positions */

nnl_tensor nnl_header_of(nnl_runtime *rt, nnl_dtype dtype, void *data, int ndim,
                         const int64_t *shape)
{
    nnl_tensor like = {.dtype = (uint8_t)dtype, .rt = rt};
    int64_t strides[NNL_MAX_DIMS];
    nnl_strides_contiguous(ndim, shape, strides);
    return nnl_window(&like, data, ndim, shape, strides);
}

typedef struct position_job {
    const int64_t *in;
    int64_t *out;
    int64_t count, size, base, scale;
    int64_t behind; /* what is added to negative ones */
    _Atomic bool bad;
} position_job;

/* Ids do not count from the end: below 0 they stay out of range. */
static int64_t behind(const nnl_call *c, int64_t size)
{
    return c->op->traits & NNL_IDS ? 0 : size;
}

static void position_task(void *context, int64_t chunk)
{
    position_job *job = context;
    int64_t first = chunk * GRAIN, end = NNL_MIN(first + GRAIN, job->count);
    uint64_t size = (uint64_t)job->size;
    bool bad = false;
    for (int64_t i = first; i < end; i++) {
        int64_t v = job->in[i];
        v = v < 0 ? v + job->behind : v - job->base;
        bad |= (uint64_t)v >= size;
        /* unsigned, because a position that is refused afterwards may be anything */
        job->out[i] = (int64_t)((uint64_t)v * (uint64_t)job->scale);
    }
    if (bad) job->bad = true;
}

static const char *index_name(const nnl_call *c, int place, char buffer[48])
{
    for (int p = 0; p < c->sig->tensors; p++) {
        int first = c->sig->list_input ? c->start[p] : p,
            end = c->sig->list_input ? c->start[p + 1] : p + 1;
        if (place < first || place >= end) continue;
        if (c->sig->tensor[p]->list)
            nnl_format(buffer, 48, "%s %d", c->sig->tensor[p]->name, place - first + 1);
        else
            nnl_format(buffer, 48, "%s", c->sig->tensor[p]->name);
        return buffer;
    }
    return "index";
}

/* The first position that is out of range, and where it stands. */
nnl_status nnl_position_fail(nnl_call *c, int place, int dim, int64_t size)
{
    const nnl_tensor *t = c->in[place];
    int base = c->index_base;
    int64_t at[NNL_MAX_DIMS] = {0}, value = 0;
    for (int64_t i = 0; i < t->numel; i++) {
        int64_t rest = i, offset = 0;
        for (int d = t->ndim - 1; d >= 0; d--) {
            at[d] = rest % t->shape[d];
            rest /= t->shape[d];
            offset += at[d] * t->strides[d];
        }
        value = nnl_element_int(t, offset);
        int64_t v = value < 0 ? value + behind(c, size) : value - base;
        if (v < 0 || v >= size) break;
    }
    char name[48], where[NNL_MAX_DIMS * 22 + 16] = "", range[96], dimension[32];
    size_t length = 0;
    for (int d = 0; d < t->ndim; d++)
        length += (size_t)nnl_format(where + length, sizeof where - length,
                                     d             ? ", %lld"
                                     : t->ndim > 1 ? " at {%lld"
                                                   : " at %lld",
                                     (long long)at[d] + base);
    if (t->ndim > 1) nnl_format(where + length, sizeof where - length, "}");
    if (dim >= 0)
        nnl_format(dimension, sizeof dimension, "dimension %d", dim + base);
    else
        nnl_format(dimension, sizeof dimension, "the input");
    if (size == 0)
        nnl_format(range, sizeof range, "is empty");
    else
        nnl_format(range, sizeof range,
                   behind(c, size) ? "has positions %d to %lld (or -%lld to -1)"
                                   : "has positions %d to %lld",
                   base, (long long)size - 1 + base, (long long)size);
    return nnl_call_fail(c, NNL_EINDEX, "%s is %lld%s, but %s %s", index_name(c, place, name),
                         (long long)value, where, dimension, range);
}

bool nnl_positions_plain(nnl_call *c, int place, int64_t size, nnl_offsets *out)
{
    const nnl_tensor *t = c->in[place];
    if (t->dtype != NNL_I64 || !t->contiguous) return false;
    *out = (nnl_offsets){.at = (int64_t *)(void *)t->data, .count = t->numel};
    return c->rt->kernels->within(out->at, c->index_base, size, t->numel);
}

void nnl_offsets_free(nnl_runtime *rt, nnl_offsets *offsets)
{
    if (offsets->bytes) nnl_free(rt, offsets->at, offsets->bytes);
    offsets->at = NULL;
}

nnl_status nnl_offsets_new(nnl_runtime *rt, int64_t count, nnl_offsets *out)
{
    void *block;
    out->at = NULL;
    out->count = count;
    out->bytes = ((size_t)count + 1) * sizeof(int64_t);
    NNL_TRY(nnl_alloc(rt, out->bytes, &block));
    out->at = block;
    return NNL_OK;
}

/* Into a block of the tensor's number of elements. */
nnl_status nnl_positions_read(nnl_call *c, int place, int dim, int64_t size, int64_t scale,
                              int64_t *out)
{
    const nnl_tensor *t = c->in[place];
    position_job job = {.out = out,
                        .count = t->numel,
                        .size = size,
                        .base = c->index_base,
                        .scale = scale,
                        .behind = behind(c, size)};
    if (t->numel == 0) return NNL_OK;
    job.in = out;
    if (t->dtype == NNL_I64 && t->contiguous) {
        job.in = (const int64_t *)(const void *)t->data;
    } else {
        nnl_tensor wide = nnl_header_of(c->rt, NNL_I64, out, t->ndim, t->shape);
        NNL_TRY(nnl_copy(&wide, t));
    }
    int64_t chunks = (t->numel + GRAIN - 1) / GRAIN;
    if (chunks == 1)
        position_task(&job, 0);
    else
        NNL_TRY(nnl_parallel(c->rt, chunks, position_task, &job));
    return job.bad ? nnl_position_fail(c, place, dim, size) : NNL_OK;
}

nnl_status nnl_offsets_read(nnl_call *c, int place, int dim, int64_t size, int64_t scale,
                            nnl_offsets *out)
{
    NNL_TRY(nnl_offsets_new(c->rt, c->in[place]->numel, out));
    nnl_status status = nnl_positions_read(c, place, dim, size, scale, out->at);
    if (status != NNL_OK) nnl_offsets_free(c->rt, out);
    return status;
}

/* ---------------------------------------------------------------- the nnl_walk */

/* A walk over packed's shape with offsets of strides in elements, and base with strides of base. */
void nnl_walk_set(nnl_walk *w, const nnl_tensor *packed, const nnl_tensor *base, int64_t *offsets,
                  const int64_t *offset_strides, const int64_t *base_strides)
{
    nnl_tensor integers = {.dtype = NNL_I64, .rt = packed->rt};
    w->first = 0;
    w->scale = 1;
    w->begin = NULL;
    w->packed = *packed;
    w->offset = nnl_window(&integers, (char *)offsets, packed->ndim, packed->shape, offset_strides);
    w->base = nnl_window(base, base->data, packed->ndim, packed->shape, base_strides);
}

void nnl_flat_walk(nnl_walk *w, const nnl_tensor *packed, const nnl_tensor *base, int64_t *offsets)
{
    static const int64_t none[NNL_MAX_DIMS] = {0};
    int64_t strides[NNL_MAX_DIMS];
    nnl_strides_contiguous(packed->ndim, packed->shape, strides);
    nnl_walk_set(w, packed, base, offsets, strides, none);
    for (int d = 0; d < packed->ndim; d++) w->apart[d] = false;
}

typedef struct scatter_context {
    const nnl_kernels *kernels;
    int width, map; /* bytes an element; the kernel that adds runs */
    nnl_dtype dtype;
    double alpha;
    int64_t first, scale;
} scatter_context;

#define OFFSET(address) ((DISTANCE(address) - job->first) * job->scale)

/* packed[i] = base[i] */
#define GATHER(type)                                                                     \
    static void gather_##type(void *context, const nnl_loop *loop, char *const *address, \
                              int64_t n)                                                 \
    {                                                                                    \
        const scatter_context *job = context;                                            \
        int inner = loop->ndim - 1;                                                      \
        int64_t to_step = loop->step[0][inner], offset_step = loop->step[1][inner],      \
                step = loop->step[2][inner];                                             \
        char *to = address[0];                                                           \
        const char *offset = address[1], *base = address[2];                             \
        if (offset_step == 0 || n == 1) {                                                \
            base += OFFSET(offset);                                                      \
            if (n == 1)                                                                  \
                AT(type, to) = AT(const type, base);                                     \
            else if (to_step == sizeof(type) && step == sizeof(type))                    \
                memcpy(to, base, (size_t)n * sizeof(type));                              \
            else                                                                         \
                job->kernels->copy_strided(sizeof(type), to, to_step, base, step, n);    \
            return;                                                                      \
        }                                                                                \
        for (int64_t i = 0; i < n; i++)                                                  \
            AT(type, to + i * to_step) =                                                 \
                AT(const type, base + i * step + OFFSET(offset + i * offset_step));      \
    }
GATHER(uint8_t)
GATHER(uint32_t)
GATHER(uint64_t)

/* base[i] = packed[i], the last one of several */
#define SCATTER(type)                                                                     \
    static void scatter_##type(void *context, const nnl_loop *loop, char *const *address, \
                               int64_t n)                                                 \
    {                                                                                     \
        const scatter_context *job = context;                                             \
        int inner = loop->ndim - 1;                                                       \
        int64_t from_step = loop->step[0][inner], offset_step = loop->step[1][inner],     \
                step = loop->step[2][inner];                                              \
        const char *from = address[0], *offset = address[1];                              \
        char *base = address[2];                                                          \
        if (offset_step == 0) {                                                           \
            base += OFFSET(offset);                                                       \
            if (from_step == sizeof(type) && step == sizeof(type))                        \
                memcpy(base, from, (size_t)n * sizeof(type));                             \
            else                                                                          \
                job->kernels->copy_strided(sizeof(type), base, step, from, from_step, n); \
            return;                                                                       \
        }                                                                                 \
        for (int64_t i = 0; i < n; i++)                                                   \
            AT(type, base + i * step + OFFSET(offset + i * offset_step)) =                \
                AT(const type, from + i * from_step);                                     \
    }
SCATTER(uint8_t)
SCATTER(uint32_t)
SCATTER(uint64_t)

/* Backwards: packed[i] = base[i], base[i] = 0, so that of several only the last one gets what
 * stands there. */
#define TAKE_LAST(type)                                                                     \
    static void take_last_##type(void *context, const nnl_loop *loop, char *const *address, \
                                 int64_t n)                                                 \
    {                                                                                       \
        const scatter_context *job = context;                                               \
        int inner = loop->ndim - 1;                                                         \
        int64_t to_step = loop->step[0][inner], offset_step = loop->step[1][inner],         \
                step = loop->step[2][inner];                                                \
        for (int64_t i = n - 1; i >= 0; i--) {                                              \
            char *place = address[2] + i * step + OFFSET(address[1] + i * offset_step);     \
            AT(type, address[0] + i * to_step) = AT(type, place);                           \
            AT(type, place) = 0;                                                            \
        }                                                                                   \
    }
TAKE_LAST(uint32_t)
TAKE_LAST(uint64_t)

/* base[i] += alpha packed[i] */
#define ADD(type, name, whole, expression)                                                       \
    static void add_##name(void *context, const nnl_loop *loop, char *const *address, int64_t n) \
    {                                                                                            \
        const scatter_context *job = context;                                                    \
        int inner = loop->ndim - 1;                                                              \
        int64_t from_step = loop->step[0][inner], offset_step = loop->step[1][inner],            \
                step = loop->step[2][inner];                                                     \
        const char *from = address[0], *offset = address[1];                                     \
        char *base = address[2];                                                                 \
        if (offset_step == 0 && step == sizeof(type) && (from_step == step || from_step == 0)) { \
            base += OFFSET(offset);                                                              \
            job->kernels->map[job->map][job->dtype](base, (const void *const[]){base, from},     \
                                                    (const int32_t[]){1, from_step != 0},        \
                                                    &job->alpha, n);                             \
            return;                                                                              \
        }                                                                                        \
        type alpha = (type)(whole)job->alpha;                                                    \
        (void)alpha;                                                                             \
        /* positions in a row, added to one of base */                                           \
        if (job->scale == sizeof(type) && job->alpha == 1 && step == 0 &&                        \
            from_step == sizeof(type) && offset_step == sizeof(int64_t)) {                       \
            const int64_t *position = (const int64_t *)(const void *)offset, first = job->first; \
            for (int64_t i = 0; i < n; i++) {                                                    \
                type *place = &AT(type, base) + (position[i] - first);                           \
                type a = *place, b = AT(const type, from + i * (int64_t)sizeof(type));           \
                *place = (type)(expression);                                                     \
            }                                                                                    \
            return;                                                                              \
        }                                                                                        \
        for (int64_t i = 0; i < n; i++) {                                                        \
            type *place = &AT(type, base + i * step + OFFSET(offset + i * offset_step));         \
            type a = *place, b = AT(const type, from + i * from_step);                           \
            *place = (type)(expression);                                                         \
        }                                                                                        \
    }
ADD(uint8_t, bool, int64_t, a | b)
ADD(uint8_t, u8, int64_t, a + alpha * b)
ADD(int32_t, i32, int64_t, (uint32_t)a + (uint32_t)alpha * (uint32_t)b)
ADD(int64_t, i64, int64_t, (uint64_t)a + (uint64_t)alpha * (uint64_t)b)
ADD(float, f32, double, a + alpha * b)
ADD(double, f64, double, a + alpha * b)

static nnl_loop_body *const adders[] = {add_bool, add_u8, add_i32, add_i64, add_f32, add_f64};

nnl_loop_body *nnl_by_width(int width, nnl_loop_body *one, nnl_loop_body *four,
                            nnl_loop_body *eight)
{
    return width == 1 ? one : width == 4 ? four : eight;
}

static scatter_context context_of(nnl_runtime *rt, const nnl_walk *w, double alpha)
{
    nnl_dtype dtype = (nnl_dtype)w->packed.dtype;
    return (scatter_context){.kernels = rt->kernels,
                             .first = w->first,
                             .scale = w->scale,
                             .width = (int)nnl_dtype_size(dtype),
                             .dtype = dtype,
                             .alpha = alpha,
                             .map = dtype == NNL_BOOL ? NNL_MAP_logical_or
                                    : alpha == 1      ? NNL_MAP_add
                                                      : NNL_MAP_add_scaled};
}

nnl_status nnl_gather_walk(nnl_runtime *rt, nnl_walk *w)
{
    scatter_context job = context_of(rt, w, 1);
    nnl_loop loop;
    nnl_loop_plan(&loop, w->packed.ndim, w->packed.shape, 3,
                  (nnl_tensor *[]){&w->packed, &w->offset, &w->base});
    return nnl_loop_run(rt, &loop, 2,
                        nnl_by_width(job.width, gather_uint8_t, gather_uint32_t, gather_uint64_t),
                        &job);
}

/* A walk that writes base: split along one dimension only, in order otherwise. */
typedef struct split_walk {
    const nnl_walk *walk;
    nnl_loop_body *body;
    scatter_context *context;
    int dim; /* -1: not split */
    int64_t pieces;
    bool backwards;
} split_walk;

static void split_task(void *context, int64_t piece)
{
    const split_walk *s = context;
    nnl_tensor packed = s->walk->packed, offset = s->walk->offset, base = s->walk->base;
    if (s->dim >= 0) {
        int64_t size = packed.shape[s->dim], first = size * piece / s->pieces,
                count = size * (piece + 1) / s->pieces - first;
        packed = nnl_window_part(&packed, s->dim, first, count);
        offset = nnl_window_part(&offset, s->dim, first, count);
        base = nnl_window_part(&base, s->dim, first, count);
        if (s->walk->begin) {
            int64_t slab = s->walk->slab;
            memcpy(base.data, s->walk->begin + first * slab, (size_t)(count * slab));
        }
    }
    nnl_loop loop;
    nnl_loop_plan(&loop, packed.ndim, packed.shape, 3, (nnl_tensor *[]){&packed, &offset, &base});
    char *address[NNL_LOOP_MAX];
    for (int64_t i = 0; i < loop.outer; i++) {
        nnl_loop_at(&loop, s->backwards ? loop.outer - 1 - i : i, address);
        s->body(s->context, &loop, address, loop.inner);
    }
}

static nnl_status scatter_walk(nnl_runtime *rt, const nnl_walk *w, nnl_loop_body *body,
                               scatter_context *context, bool backwards)
{
    split_walk s = {.walk = w,
                    .body = body,
                    .context = context,
                    .dim = -1,
                    .pieces = 1,
                    .backwards = backwards};
    if (w->packed.numel == 0) return NNL_OK;
    for (int d = 0; d < w->packed.ndim; d++) {
        if (w->apart[d] && (s.dim < 0 || w->packed.shape[d] > w->packed.shape[s.dim])) s.dim = d;
    }
    int64_t work = w->packed.numel / SCATTER_GRAIN;
    if (w->begin) {
        s.dim = 0;
        work = NNL_MAX(work, w->packed.shape[0] * w->slab / SLABS);
    }
    if (s.dim >= 0) s.pieces = NNL_MAX(1, NNL_MIN(w->packed.shape[s.dim], work));
    if (s.pieces > 1) return nnl_parallel(rt, s.pieces, split_task, &s);
    if (!w->begin) s.dim = -1;
    split_task(&s, 0);
    return NNL_OK;
}

nnl_status nnl_add_walk(nnl_runtime *rt, const nnl_walk *w, double alpha)
{
    scatter_context context = context_of(rt, w, alpha);
    return scatter_walk(rt, w, adders[w->packed.dtype], &context, false);
}

nnl_status nnl_set_walk(nnl_runtime *rt, const nnl_walk *w)
{
    scatter_context context = context_of(rt, w, 1);
    return scatter_walk(
        rt, w, nnl_by_width(context.width, scatter_uint8_t, scatter_uint32_t, scatter_uint64_t),
        &context, false);
}

/* packed from a copy of base, which is spoilt. */
nnl_status nnl_take_last_walk(nnl_runtime *rt, const nnl_walk *w)
{
    scatter_context context = context_of(rt, w, 1);
    return scatter_walk(rt, w, context.width == 4 ? take_last_uint32_t : take_last_uint64_t,
                        &context, true);
}

/* What an op with an in-place twin begins with. */
nnl_status nnl_begin_with(nnl_tensor *out, const nnl_tensor *input)
{
    return out == input ? NNL_OK : nnl_copy(out, input);
}

void nnl_set_zero(nnl_tensor *out)
{
    memset(out->data, 0, (size_t)out->numel * nnl_dtype_size((nnl_dtype)out->dtype));
}

nnl_status nnl_shape_attr_infer(nnl_call *c, const nnl_value *shape)
{
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->in[0]->dtype, shape->count, shape->as.ints);
    return NNL_OK;
}

/* ---------------------------------------------------------------- rows added to rows */

typedef struct rows_job {
    const nnl_kernels *kernels;
    nnl_dtype dtype;
    int map;
    char *out;
    const char *in;
    const int32_t *start,
        *order; /* of a row: its sources are order[start[row]] .. order[start[row + 1] - 1] */
    int64_t rows, per_chunk, length, bytes;
} rows_job;

static void rows_task(void *context, int64_t chunk)
{
    const rows_job *job = context;
    int64_t first = chunk * job->per_chunk, end = NNL_MIN(first + job->per_chunk, job->rows);
    static const int32_t step[2] = {1, 1};
    static const double one = 1;
    for (int64_t row = first; row < end; row++) {
        char *to = job->out + row * job->bytes;
        for (int32_t k = job->start[row]; k < job->start[row + 1]; k++) {
            const void *const in[2] = {to, job->in + job->order[k] * job->bytes};
            job->kernels->map[job->map][job->dtype](to, in, step, &one, job->length);
        }
    }
}

nnl_status nnl_add_rows(nnl_runtime *rt, nnl_dtype dtype, char *out, int64_t rows, const char *in,
                        const int64_t *row, int64_t n, int64_t length)
{
    if (n == 0 || length == 0 || rows == 0) return NNL_OK;
    if (n > INT32_MAX - 1)
        return NNL_FAIL(rt, NNL_EUNSUPPORTED, "%lld rows are too many to be added up",
                        (long long)n);
    size_t bytes = (size_t)(rows + 1 + n) * sizeof(int32_t);
    void *block;
    NNL_TRY(nnl_alloc_zeroed(rt, bytes, &block));
    int32_t *start = block, *order = start + rows + 1;
    for (int64_t k = 0; k < n; k++) start[row[k] < 0 ? 0 : row[k] + 1] += row[k] >= 0;
    for (int64_t r = 0; r < rows; r++) start[r + 1] += start[r];
    /* Filling moves each start to its row's end, which is the next row's start. */
    for (int64_t k = 0; k < n; k++) {
        if (row[k] >= 0) order[start[row[k]]++] = (int32_t)k;
    }
    memmove(start + 1, start, (size_t)rows * sizeof(int32_t));
    start[0] = 0;
    rows_job job = {.kernels = rt->kernels,
                    .dtype = dtype,
                    .map = dtype == NNL_BOOL ? NNL_MAP_logical_or : NNL_MAP_add,
                    .out = out,
                    .in = in,
                    .start = start,
                    .order = order,
                    .rows = rows,
                    .length = length,
                    .bytes = length * (int64_t)nnl_dtype_size(dtype)};
    job.per_chunk = NNL_MAX(1, rows * GRAIN / (n * length + rows));
    nnl_status status = NNL_OK;
    if (n * length + rows <= NNL_SERIAL_WORK) {
        job.per_chunk = rows;
        rows_task(&job, 0);
    } else {
        status = nnl_parallel(rt, (rows + job.per_chunk - 1) / job.per_chunk, rows_task, &job);
    }
    nnl_free(rt, block, bytes);
    return status;
}
