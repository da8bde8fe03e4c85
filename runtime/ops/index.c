/* Choosing and changing elements by positions that stand in tensors: gather, scatter, index_select,
 * masks.
 *
 * All of them walk three operands together over one shape: the packed side (result or source), byte
 * offsets made from the positions, and the indexed tensor seen with step 0 along the dimensions
 * that the offsets stand for.  Whatever is written more than once is written in the order of the
 * packed side's elements. */
#include "index.h"
#include "window.h"

#include <string.h>

#define GRAIN 16384 /* elements that a piece of a split walk should have */

/* ---------------------------------------------------------------- positions */

static nnl_tensor header_of(nnl_runtime *rt, nnl_dtype dtype, void *data, int ndim,
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
    _Atomic bool bad;
} position_job;

static void position_task(void *context, int64_t chunk)
{
    position_job *job = context;
    int64_t first = chunk * GRAIN, end = NNL_MIN(first + GRAIN, job->count);
    uint64_t size = (uint64_t)job->size;
    bool bad = false;
    for (int64_t i = first; i < end; i++) {
        int64_t v = job->in[i];
        v = v < 0 ? v + job->size : v - job->base;
        bad |= (uint64_t)v >= size;
        job->out[i] = v * job->scale;
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
static nnl_status position_fail(nnl_call *c, int place, int dim, int64_t size)
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
        int64_t v = value < 0 ? value + size : value - base;
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
        nnl_format(range, sizeof range, "has positions %d to %lld (or -%lld to -1)", base,
                   (long long)size - 1 + base, (long long)size);
    return nnl_call_fail(c, NNL_EINDEX, "%s is %lld%s, but %s %s", index_name(c, place, name),
                         (long long)value, where, dimension, range);
}

void nnl_offsets_free(nnl_runtime *rt, nnl_offsets *offsets)
{
    if (offsets->at) nnl_free(rt, offsets->at, offsets->bytes);
    offsets->at = NULL;
}

static nnl_status offsets_new(nnl_runtime *rt, int64_t count, nnl_offsets *out)
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
static nnl_status read_positions(nnl_call *c, int place, int dim, int64_t size, int64_t scale,
                                 int64_t *out)
{
    const nnl_tensor *t = c->in[place];
    position_job job = {
        .out = out, .count = t->numel, .size = size, .base = c->index_base, .scale = scale};
    if (t->numel == 0) return NNL_OK;
    job.in = out;
    if (t->dtype == NNL_I64 && t->contiguous) {
        job.in = (const int64_t *)(const void *)t->data;
    } else {
        nnl_tensor wide = header_of(c->rt, NNL_I64, out, t->ndim, t->shape);
        NNL_TRY(nnl_copy(&wide, t));
    }
    int64_t chunks = (t->numel + GRAIN - 1) / GRAIN;
    if (chunks == 1)
        position_task(&job, 0);
    else
        NNL_TRY(nnl_parallel(c->rt, chunks, position_task, &job));
    return job.bad ? position_fail(c, place, dim, size) : NNL_OK;
}

nnl_status nnl_offsets_read(nnl_call *c, int place, int dim, int64_t size, int64_t scale,
                            nnl_offsets *out)
{
    NNL_TRY(offsets_new(c->rt, c->in[place]->numel, out));
    nnl_status status = read_positions(c, place, dim, size, scale, out->at);
    if (status != NNL_OK) nnl_offsets_free(c->rt, out);
    return status;
}

/* ---------------------------------------------------------------- the walk */

/* Three operands over one shape.  `packed` is the first, so that its steps order the walk. */
typedef struct walk {
    nnl_tensor packed, offset, base;
    bool apart[NNL_MAX_DIMS]; /* places along this dimension never meet in base: it may be split
                                 among threads */
} walk;

/* A walk over packed's shape with offsets of strides in elements, and base with strides of base. */
static void walk_set(walk *w, const nnl_tensor *packed, const nnl_tensor *base, int64_t *offsets,
                     const int64_t *offset_strides, const int64_t *base_strides)
{
    nnl_tensor integers = {.dtype = NNL_I64, .rt = packed->rt};
    w->packed = *packed;
    w->offset = nnl_window(&integers, (char *)offsets, packed->ndim, packed->shape, offset_strides);
    w->base = nnl_window(base, base->data, packed->ndim, packed->shape, base_strides);
}

typedef struct scatter_context {
    const nnl_kernels *kernels;
    int width, map; /* bytes an element; the kernel that adds runs */
    nnl_dtype dtype;
    double alpha;
} scatter_context;

#define AT(type, address) (*(type *)(void *)(address))
#define DISTANCE(address) (*(const int64_t *)(const void *)(address))

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
            base += DISTANCE(offset);                                                    \
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
                AT(const type, base + i * step + DISTANCE(offset + i * offset_step));    \
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
            base += DISTANCE(offset);                                                     \
            if (from_step == sizeof(type) && step == sizeof(type))                        \
                memcpy(base, from, (size_t)n * sizeof(type));                             \
            else                                                                          \
                job->kernels->copy_strided(sizeof(type), base, step, from, from_step, n); \
            return;                                                                       \
        }                                                                                 \
        for (int64_t i = 0; i < n; i++)                                                   \
            AT(type, base + i * step + DISTANCE(offset + i * offset_step)) =              \
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
        (void)context;                                                                      \
        int inner = loop->ndim - 1;                                                         \
        int64_t to_step = loop->step[0][inner], offset_step = loop->step[1][inner],         \
                step = loop->step[2][inner];                                                \
        for (int64_t i = n - 1; i >= 0; i--) {                                              \
            char *place = address[2] + i * step + DISTANCE(address[1] + i * offset_step);   \
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
            base += DISTANCE(offset);                                                            \
            job->kernels->map[job->map][job->dtype](base, (const void *const[]){base, from},     \
                                                    (const int32_t[]){1, from_step != 0},        \
                                                    &job->alpha, n);                             \
            return;                                                                              \
        }                                                                                        \
        type alpha = (type)(whole)job->alpha;                                                    \
        (void)alpha;                                                                             \
        for (int64_t i = 0; i < n; i++) {                                                        \
            type *place = &AT(type, base + i * step + DISTANCE(offset + i * offset_step));       \
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

static nnl_loop_body *by_width(int width, nnl_loop_body *one, nnl_loop_body *four,
                               nnl_loop_body *eight)
{
    return width == 1 ? one : width == 4 ? four : eight;
}

static scatter_context context_of(nnl_runtime *rt, nnl_dtype dtype, double alpha)
{
    return (scatter_context){.kernels = rt->kernels,
                             .width = (int)nnl_dtype_size(dtype),
                             .dtype = dtype,
                             .alpha = alpha,
                             .map = dtype == NNL_BOOL ? NNL_MAP_logical_or
                                    : alpha == 1      ? NNL_MAP_add
                                                      : NNL_MAP_add_scaled};
}

static nnl_status gather_walk(nnl_runtime *rt, walk *w)
{
    scatter_context job = context_of(rt, (nnl_dtype)w->packed.dtype, 1);
    nnl_loop loop;
    nnl_loop_plan(&loop, w->packed.ndim, w->packed.shape, 3,
                  (nnl_tensor *[]){&w->packed, &w->offset, &w->base});
    return nnl_loop_run(
        rt, &loop, 2, by_width(job.width, gather_uint8_t, gather_uint32_t, gather_uint64_t), &job);
}

/* A walk that writes base: split along one dimension only, in order otherwise. */
typedef struct split_walk {
    const walk *walk;
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
    }
    nnl_loop loop;
    nnl_loop_plan(&loop, packed.ndim, packed.shape, 3, (nnl_tensor *[]){&packed, &offset, &base});
    char *address[NNL_LOOP_MAX];
    for (int64_t i = 0; i < loop.outer; i++) {
        nnl_loop_at(&loop, s->backwards ? loop.outer - 1 - i : i, address);
        s->body(s->context, &loop, address, loop.inner);
    }
}

static nnl_status scatter_walk(nnl_runtime *rt, const walk *w, nnl_loop_body *body,
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
    if (s.dim >= 0) s.pieces = NNL_MAX(1, NNL_MIN(w->packed.shape[s.dim], w->packed.numel / GRAIN));
    if (s.pieces > 1) return nnl_parallel(rt, s.pieces, split_task, &s);
    s.dim = -1;
    split_task(&s, 0);
    return NNL_OK;
}

static nnl_status add_walk(nnl_runtime *rt, const walk *w, double alpha)
{
    scatter_context context = context_of(rt, (nnl_dtype)w->packed.dtype, alpha);
    return scatter_walk(rt, w, adders[w->packed.dtype], &context, false);
}

static nnl_status set_walk(nnl_runtime *rt, const walk *w)
{
    scatter_context context = context_of(rt, (nnl_dtype)w->packed.dtype, 1);
    return scatter_walk(
        rt, w, by_width(context.width, scatter_uint8_t, scatter_uint32_t, scatter_uint64_t),
        &context, false);
}

/* packed from a copy of base, which is spoilt. */
static nnl_status take_last_walk(nnl_runtime *rt, const walk *w)
{
    scatter_context context = context_of(rt, (nnl_dtype)w->packed.dtype, 1);
    return scatter_walk(rt, w, context.width == 4 ? take_last_uint32_t : take_last_uint64_t,
                        &context, true);
}

static nnl_status copy_new(nnl_runtime *rt, const nnl_tensor *t, nnl_tensor **out)
{
    nnl_spec spec;
    nnl_spec_like(&spec, t);
    NNL_TRY(nnl_tensor_make(rt, &spec, NULL, out));
    nnl_status status = nnl_copy(*out, t);
    if (status != NNL_OK) nnl_tensor_unref(*out);
    return status;
}

/* What an op with an in-place twin begins with. */
static nnl_status begin_with(nnl_tensor *out, const nnl_tensor *input)
{
    return out == input ? NNL_OK : nnl_copy(out, input);
}

static void set_zero(nnl_tensor *out)
{
    memset(out->data, 0, (size_t)out->numel * nnl_dtype_size((nnl_dtype)out->dtype));
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

/* ---------------------------------------------------------------- index_select and index_add */

static nnl_status check_one_dim(nnl_call *c, int place)
{
    char a[NNL_NAMED_TEXT];
    if (c->in[place]->ndim <= 1) return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE, "%s must have one dimension",
                         nnl_call_input_text(c, place, a));
}

/* packed: like base but for dimension dim, where it has as many positions as there are offsets. */
static void line_walk(walk *w, const nnl_tensor *packed, const nnl_tensor *base, int dim,
                      int64_t *offsets)
{
    int64_t offset_strides[NNL_MAX_DIMS] = {0}, base_strides[NNL_MAX_DIMS];
    memcpy(base_strides, base->strides, sizeof base_strides);
    offset_strides[dim] = 1;
    base_strides[dim] = 0;
    walk_set(w, packed, base, offsets, offset_strides, base_strides);
    for (int d = 0; d < packed->ndim; d++) w->apart[d] = d != dim;
}

static int64_t stride_bytes(const nnl_tensor *t, int dim)
{
    return t->strides[dim] * (int64_t)nnl_dtype_size((nnl_dtype)t->dtype);
}

static nnl_status index_select_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    NNL_TRY(check_one_dim(c, 1));
    nnl_spec_like(&c->spec[0], x);
    if (x->ndim == 0)
        return nnl_call_fail(c, NNL_ESHAPE, "a 0-d tensor has no dimension to choose from");
    c->spec[0].shape[c->attr[0].as.i] = c->in[1]->numel;
    return NNL_OK;
}

static nnl_status index_select_run(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    int dim = (int)c->attr[0].as.i;
    nnl_offsets offsets;
    walk w;
    NNL_TRY(nnl_offsets_read(c, 1, dim, x->shape[dim], stride_bytes(x, dim), &offsets));
    line_walk(&w, c->out[0], x, dim, offsets.at);
    nnl_status status = gather_walk(c->rt, &w);
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static void index_select_grad(nnl_grad *g)
{
    g->dx[0] =
        DO_WITH(g->s, index_select_backward,
                (g->attr[0], V_INT(g->in_layout[0].shape[g->attr[0].as.i])), g->dy[0], g->in[1]);
}

NNL_OP(index_select,
    .sig = "input:any, dim:dim, index:index -> same",
    .doc = "The positions of a dimension that index names, in its order; a copy.",
    .example = "nn.arange(5):index_select(1, {5, 1, 1})",
    .infer = index_select_infer,
    .run = index_select_run,
    .grad = index_select_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:4x3 dim=1 index:5<4>; input:2x3x4 dim=2 index:2<3>; input:5 dim=-1 index:3<5>");

/* Adds source's positions of dimension dim of out, which begins as input (NULL: it stands ready).
 */
static nnl_status add_lines(nnl_call *c, const nnl_tensor *input, const nnl_tensor *source,
                            double alpha)
{
    nnl_tensor *out = c->out[0];
    int dim = (int)c->attr[0].as.i;
    bool rows = dim == 0 && out->contiguous && source->contiguous && alpha == 1;
    nnl_offsets offsets;
    walk w;
    NNL_TRY(
        nnl_offsets_read(c, 1, dim, out->shape[dim], rows ? 1 : stride_bytes(out, dim), &offsets));
    nnl_status status = input ? begin_with(out, input) : NNL_OK;
    if (status == NNL_OK && rows) {
        int64_t length = nnl_shape_numel(out->ndim - 1, out->shape + 1);
        status = nnl_add_rows(c->rt, (nnl_dtype)out->dtype, out->data, out->shape[0], source->data,
                              offsets.at, offsets.count, length);
    } else if (status == NNL_OK) {
        line_walk(&w, source, out, dim, offsets.at);
        status = add_walk(c->rt, &w, alpha);
    }
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static nnl_status index_select_backward_infer(nnl_call *c)
{
    nnl_spec_like(&c->spec[0], c->in[0]);
    c->spec[0].shape[c->attr[0].as.i] = c->attr[1].as.i;
    return NNL_OK;
}

static nnl_status index_select_backward_run(nnl_call *c)
{
    set_zero(c->out[0]);
    return add_lines(c, NULL, c->in[0], 1);
}

static void index_select_backward_grad(nnl_grad *g)
{
    g->dx[0] = DO_WITH(g->s, index_select, (g->attr[0]), g->dy[0], g->in[1]);
}

NNL_OP(index_select_backward,
    .sig = "dy:float, index:index, dim:int, size:int -> same",
    .doc = "Zeros with dy's positions of a dimension added at those that index names.",
    .infer = index_select_backward_infer,
    .run = index_select_backward_run,
    .grad = index_select_backward_grad,
    .saves = NNL_SAVE_INPUT(1),
    .traits = NNL_HIDDEN);

static nnl_status index_add_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0], *index = c->in[1], *source = c->in[2];
    int64_t dim = c->attr[0].as.i;
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    NNL_TRY(check_one_dim(c, 1));
    nnl_spec_like(&c->spec[0], x);
    bool fits = x->ndim > 0 && source->ndim == x->ndim && source->shape[dim] == index->numel;
    for (int d = 0; d < x->ndim && fits; d++) fits = d == dim || source->shape[d] == x->shape[d];
    if (fits) return NNL_OK;
    return nnl_call_fail(
        c, NNL_ESHAPE,
        "%s must be like %s but for dimension %lld, where it has index's %lld positions",
        nnl_call_input_text(c, 2, b), nnl_call_input_text(c, 0, a), (long long)dim + c->index_base,
        (long long)index->numel);
}

static nnl_status index_add_run(nnl_call *c)
{
    return add_lines(c, c->in[0], c->in[2], nnl_value_double(&c->attr[1]));
}

static void index_add_grad(nnl_grad *g)
{
    g->dx[0] = g->dy[0];
    if (!g->needs[2]) return;
    nnl_tensor *picked = DO_WITH(g->s, index_select, (g->attr[0]), g->dy[0], g->in[1]);
    double alpha = nnl_value_double(&g->attr[1]);
    g->dx[2] = alpha == 1 ? picked : nnl_scaled(g->s, picked, alpha);
}

NNL_OP(index_add,
    .sig = "input:any, dim:dim, index:index, source:any, alpha:scalar=1 -> same",
    .doc = "input with alpha * source's positions of a dimension added at those that index names, "
           "in index's order.",
    .example = "nn.zeros(3, 2):index_add(1, {1, 3, 1}, nn.ones(3, 2))",
    .infer = index_add_infer,
    .run = index_add_run,
    .grad = index_add_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:4x3 dim=1 index:5<4> source:5x3; input:2x3x4 dim=2 index:2<3> source:2x2x4 "
              "alpha=0.5",
    .traits = NNL_PROMOTE | NNL_INPLACE_OK);

/* ---------------------------------------------------------------- gather and scatter */

/* Checks that index fits x but for dimension dim. */
static nnl_status check_index_shape(nnl_call *c, int place)
{
    const nnl_tensor *x = c->in[0], *index = c->in[place];
    int64_t dim = c->attr[0].as.i;
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    bool fits = x->ndim == index->ndim;
    for (int d = 0; d < x->ndim && fits; d++) fits = d == dim || index->shape[d] <= x->shape[d];
    if (fits) return NNL_OK;
    return nnl_call_fail(
        c, NNL_ESHAPE,
        "%s must have as many dimensions as %s, and none but dimension %lld may be longer",
        nnl_call_input_text(c, place, b), nnl_call_input_text(c, 0, a),
        (long long)dim + c->index_base);
}

/* packed has index's shape; places that differ in any dimension but dim never meet. */
static void gather_walk_set(walk *w, const nnl_tensor *packed, const nnl_tensor *base, int dim,
                            int64_t *offsets)
{
    int64_t offset_strides[NNL_MAX_DIMS], base_strides[NNL_MAX_DIMS];
    nnl_strides_contiguous(packed->ndim, packed->shape, offset_strides);
    memcpy(base_strides, base->strides, sizeof base_strides);
    if (packed->ndim > 0) base_strides[dim] = 0;
    walk_set(w, packed, base, offsets, offset_strides, base_strides);
    for (int d = 0; d < packed->ndim; d++) w->apart[d] = d != dim;
}

/* Offsets along dim of x; a 0-d tensor counts as one position. */
static nnl_status gather_offsets(nnl_call *c, const nnl_tensor *x, int place, int dim,
                                 nnl_offsets *offsets)
{
    bool has_dim = x->ndim > 0;
    return nnl_offsets_read(c, place, dim, has_dim ? x->shape[dim] : 1,
                            has_dim ? stride_bytes(x, dim) : 0, offsets);
}

static nnl_status gather_infer(nnl_call *c)
{
    NNL_TRY(check_index_shape(c, 1));
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->in[0]->dtype, c->in[1]->ndim, c->in[1]->shape);
    return NNL_OK;
}

/* Positions used as they are read: what is out of range takes place 0 and is noted, as the result
 * is nobody's before the call has succeeded. */
typedef struct pick_job {
    int64_t size, base, scale;
    _Atomic bool bad;
} pick_job;

#define PICK(type)                                                                                \
    static void pick_##type(void *context, const nnl_loop *loop, char *const *address, int64_t n) \
    {                                                                                             \
        pick_job *job = context;                                                                  \
        int inner = loop->ndim - 1;                                                               \
        int64_t to_step = loop->step[0][inner], index_step = loop->step[1][inner],                \
                step = loop->step[2][inner];                                                      \
        int64_t size = job->size, base = job->base, scale = job->scale;                           \
        char *to = address[0];                                                                    \
        const char *index = address[1], *from = address[2];                                       \
        bool bad = false;                                                                         \
        for (int64_t i = 0; i < n; i++) {                                                         \
            int64_t v = DISTANCE(index + i * index_step);                                         \
            v = v < 0 ? v + size : v - base;                                                      \
            bool wrong = (uint64_t)v >= (uint64_t)size;                                           \
            bad |= wrong;                                                                         \
            AT(type, to + i * to_step) =                                                          \
                AT(const type, from + i * step + (wrong ? 0 : v) * scale);                        \
        }                                                                                         \
        if (bad) job->bad = true;                                                                 \
    }
PICK(uint8_t)
PICK(uint32_t)
PICK(uint64_t)

static nnl_status gather_directly(nnl_call *c, int dim)
{
    const nnl_tensor *x = c->in[0];
    nnl_tensor *out = c->out[0];
    pick_job job = {.size = x->shape[dim], .base = c->index_base, .scale = stride_bytes(x, dim)};
    int64_t strides[NNL_MAX_DIMS];
    memcpy(strides, x->strides, sizeof strides);
    strides[dim] = 0;
    nnl_tensor base = nnl_window(x, x->data, out->ndim, out->shape, strides);
    nnl_loop loop;
    nnl_loop_plan(&loop, out->ndim, out->shape, 3, (nnl_tensor *[]){out, c->in[1], &base});
    int width = (int)nnl_dtype_size((nnl_dtype)x->dtype);
    NNL_TRY(nnl_loop_run(c->rt, &loop, 2,
                         by_width(width, pick_uint8_t, pick_uint32_t, pick_uint64_t), &job));
    return job.bad ? position_fail(c, 1, dim, job.size) : NNL_OK;
}

static nnl_status gather_run(nnl_call *c)
{
    int dim = (int)c->attr[0].as.i;
    if (c->in[1]->dtype == NNL_I64 && c->in[0]->ndim > 0 && c->in[0]->shape[dim] > 0)
        return gather_directly(c, dim);
    nnl_offsets offsets;
    walk w;
    NNL_TRY(gather_offsets(c, c->in[0], 1, dim, &offsets));
    gather_walk_set(&w, c->out[0], c->in[0], dim, offsets.at);
    nnl_status status = gather_walk(c->rt, &w);
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static void gather_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0];
    g->dx[0] =
        DO_WITH(g->s, gather_backward, (g->attr[0], V_INTS(x->ndim, x->shape)), g->dy[0], g->in[1]);
}

NNL_OP(gather,
    .sig = "input:any, dim:dim, index:index -> same",
    .doc = "Elements chosen along a dimension: for dim 1 of a matrix, result[i][j] = "
           "input[index[i][j]][j].",
    .example = "nn.tensor({{1, 2}, {3, 4}}):gather(2, nn.tensor({{2}, {1}}, \"i64\"))",
    .infer = gather_infer,
    .run = gather_run,
    .grad = gather_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:4x3 dim=1 index:5x2<4>; input:2x3x4 dim=3 index:2x3x2<4>; input:3 dim=1 "
              "index:4<3>");

static nnl_status shape_attr_infer(nnl_call *c, const nnl_value *shape)
{
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->in[0]->dtype, shape->count, shape->as.ints);
    return NNL_OK;
}

static nnl_status gather_backward_infer(nnl_call *c) { return shape_attr_infer(c, &c->attr[1]); }

static nnl_status gather_backward_run(nnl_call *c)
{
    int dim = (int)c->attr[0].as.i;
    nnl_offsets offsets;
    walk w;
    NNL_TRY(gather_offsets(c, c->out[0], 1, dim, &offsets));
    set_zero(c->out[0]);
    gather_walk_set(&w, c->in[0], c->out[0], dim, offsets.at);
    nnl_status status = add_walk(c->rt, &w, 1);
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static void gather_backward_grad(nnl_grad *g)
{
    g->dx[0] = DO_WITH(g->s, gather, (g->attr[0]), g->dy[0], g->in[1]);
}

NNL_OP(gather_backward,
    .sig = "dy:float, index:index, dim:int, shape:int* -> same",
    .doc = "Zeros of a shape with dy added at the places from which gather took.",
    .infer = gather_backward_infer,
    .run = gather_backward_run,
    .grad = gather_backward_grad,
    .saves = NNL_SAVE_INPUT(1),
    .traits = NNL_HIDDEN);

static nnl_status scatter_infer(nnl_call *c)
{
    const nnl_tensor *index = c->in[1], *src = c->in[2];
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    NNL_TRY(check_index_shape(c, 1));
    nnl_spec_like(&c->spec[0], c->in[0]);
    bool fits = src->ndim == 0 || src->ndim == index->ndim;
    for (int d = 0; d < src->ndim && fits; d++) fits = src->shape[d] >= index->shape[d];
    if (fits) return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE,
                         "%s must be as large as %s in every dimension, or one number",
                         nnl_call_input_text(c, 2, b), nnl_call_input_text(c, 1, a));
}

/* The part of src that index uses; one number stands for all. */
static nnl_tensor scatter_source(const nnl_tensor *index, const nnl_tensor *src)
{
    static const int64_t none[NNL_MAX_DIMS] = {0};
    return nnl_window(src, src->data, index->ndim, index->shape, src->ndim ? src->strides : none);
}

static nnl_status scatter_with(nnl_call *c, bool add)
{
    int dim = (int)c->attr[0].as.i;
    nnl_tensor *out = c->out[0];
    nnl_offsets offsets;
    walk w;
    NNL_TRY(gather_offsets(c, out, 1, dim, &offsets));
    nnl_status status = begin_with(out, c->in[0]);
    if (status == NNL_OK) {
        nnl_tensor source = scatter_source(c->in[1], c->in[2]);
        gather_walk_set(&w, &source, out, dim, offsets.at);
        status = add ? add_walk(c->rt, &w, 1) : set_walk(c->rt, &w);
    }
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static nnl_status scatter_run(nnl_call *c) { return scatter_with(c, false); }
static nnl_status scatter_add_run(nnl_call *c) { return scatter_with(c, true); }

/* The gradient of src: of index's shape, with zeros around it where src is larger. */
static nnl_tensor *source_grad(nnl_grad *g, nnl_tensor *picked)
{
    const nnl_layout *src = &g->in_layout[2];
    int64_t strides[NNL_MAX_DIMS];
    if (!picked || src->ndim == 0 ||
        memcmp(src->shape, picked->shape, sizeof(int64_t) * src->ndim) == 0)
        return picked;
    nnl_strides_contiguous(src->ndim, src->shape, strides);
    return DO_WITH(g->s, place,
                   (V_INTS(src->ndim, src->shape), V_INTS(src->ndim, strides), V_INT(0)), picked);
}

static void scatter_grad(nnl_grad *g)
{
    if (g->needs[0])
        g->dx[0] =
            DO_WITH(g->s, scatter, (g->attr[0]), g->dy[0], g->in[1], nnl_number(g->s, g->dy[0], 0));
    if (g->needs[2])
        g->dx[2] = source_grad(g, DO_WITH(g->s, gather_last, (g->attr[0]), g->dy[0], g->in[1]));
}

NNL_OP(scatter,
    .sig = "input:any, dim:dim, index:index, src:any|scalar -> same",
    .doc = "input with elements of src (or a number) put where index says: for dim 1 of a matrix, "
           "result[index[i][j]][j] = src[i][j].  Of several for one place the last one stays.",
    .example = "nn.zeros(2, 3):scatter(2, nn.tensor({{3}, {1}}, \"i64\"), 1)",
    .infer = scatter_infer,
    .run = scatter_run,
    .grad = scatter_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:3x4 dim=2 index:3x2<4> src:3x2; input:3x4 dim=1 index:2x4<3> src:3x5; "
              "input:3x4 dim=2 index:3x1<4> src=1.5",
    .traits = NNL_PROMOTE | NNL_INPLACE_OK);

static nnl_status gather_last_run(nnl_call *c)
{
    int dim = (int)c->attr[0].as.i;
    nnl_offsets offsets;
    nnl_tensor *spoilt;
    walk w;
    NNL_TRY(copy_new(c->rt, c->in[0], &spoilt));
    nnl_status status = gather_offsets(c, spoilt, 1, dim, &offsets);
    if (status == NNL_OK) {
        gather_walk_set(&w, c->out[0], spoilt, dim, offsets.at);
        status = take_last_walk(c->rt, &w);
        nnl_offsets_free(c->rt, &offsets);
    }
    nnl_tensor_unref(spoilt);
    return status;
}

static void gather_last_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0];
    nnl_tensor *zeros = nnl_full(g->s, (nnl_dtype)x->dtype, x->ndim, x->shape, 0);
    g->dx[0] = DO_WITH(g->s, scatter, (g->attr[0]), zeros, g->in[1], g->dy[0]);
}

NNL_OP(gather_last,
    .sig = "input:float, dim:dim, index:index -> same",
    .doc = "As gather, but of several places that take the same element only the last one gets "
           "it, the others 0: what flows back through scatter.",
    .infer = gather_infer,
    .run = gather_last_run,
    .grad = gather_last_grad,
    .saves = NNL_SAVE_INPUT(1),
    .traits = NNL_HIDDEN);

static void scatter_add_grad(nnl_grad *g)
{
    g->dx[0] = g->dy[0];
    if (g->needs[2])
        g->dx[2] = source_grad(g, DO_WITH(g->s, gather, (g->attr[0]), g->dy[0], g->in[1]));
}

NNL_OP(scatter_add,
    .sig = "input:any, dim:dim, index:index, src:any|scalar -> same",
    .doc = "input with elements of src added where index says: for dim 1 of a matrix, "
           "result[index[i][j]][j] += src[i][j], in the order of i.",
    .example = "nn.zeros(3):scatter_add(1, {1, 3, 1}, nn.ones(3))",
    .infer = scatter_infer,
    .run = scatter_add_run,
    .grad = scatter_add_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:3x4 dim=2 index:3x2<4> src:3x2; input:3x4 dim=1 index:2x4<3> src:3x5; "
              "input:5 dim=1 index:7<5> src:7",
    .traits = NNL_PROMOTE | NNL_INPLACE_OK);

/* ---------------------------------------------------------------- take */

static nnl_status take_infer(nnl_call *c)
{
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->in[0]->dtype, c->in[1]->ndim, c->in[1]->shape);
    return NNL_OK;
}

/* Offsets of flat positions of x, whatever its layout is. */
static nnl_status flat_offsets(nnl_call *c, const nnl_tensor *x, nnl_offsets *offsets)
{
    int64_t width = (int64_t)nnl_dtype_size((nnl_dtype)x->dtype);
    NNL_TRY(nnl_offsets_read(c, 1, -1, x->numel, x->contiguous ? width : 1, offsets));
    for (int64_t i = 0; i < offsets->count && !x->contiguous; i++) {
        int64_t rest = offsets->at[i], offset = 0;
        for (int d = x->ndim - 1; d >= 0; d--) {
            offset += rest % x->shape[d] * x->strides[d];
            rest /= x->shape[d];
        }
        offsets->at[i] = offset * width;
    }
    return NNL_OK;
}

static void flat_walk(walk *w, const nnl_tensor *packed, const nnl_tensor *base, int64_t *offsets)
{
    static const int64_t none[NNL_MAX_DIMS] = {0};
    int64_t strides[NNL_MAX_DIMS];
    nnl_strides_contiguous(packed->ndim, packed->shape, strides);
    walk_set(w, packed, base, offsets, strides, none);
    for (int d = 0; d < packed->ndim; d++) w->apart[d] = false;
}

static nnl_status take_run(nnl_call *c)
{
    nnl_offsets offsets;
    walk w;
    NNL_TRY(flat_offsets(c, c->in[0], &offsets));
    flat_walk(&w, c->out[0], c->in[0], offsets.at);
    nnl_status status = gather_walk(c->rt, &w);
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static void take_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0];
    g->dx[0] = DO_WITH(g->s, take_backward, (V_INTS(x->ndim, x->shape)), g->dy[0], g->in[1]);
}

NNL_OP(take,
    .sig = "input:any, index:index -> same",
    .doc = "Elements at positions of the flattened input, in index's shape.",
    .example = "nn.tensor({{1, 2}, {3, 4}}):take({4, 1})",
    .infer = take_infer,
    .run = take_run,
    .grad = take_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:3x4 index:5<12>; input:2x3 index:2x2<6>");

static nnl_status take_backward_infer(nnl_call *c) { return shape_attr_infer(c, &c->attr[0]); }

static nnl_status take_backward_run(nnl_call *c)
{
    nnl_offsets offsets;
    walk w;
    NNL_TRY(flat_offsets(c, c->out[0], &offsets));
    set_zero(c->out[0]);
    /* The sums' order is that of dy's elements, wherever they lie. */
    nnl_tensor *packed = nnl_tensor_ref(c->in[0]);
    nnl_status status = NNL_OK;
    if (!packed->contiguous) {
        nnl_tensor_unref(packed);
        packed = NULL;
        status = copy_new(c->rt, c->in[0], &packed);
    }
    if (status == NNL_OK) {
        flat_walk(&w, packed, c->out[0], offsets.at);
        status = add_walk(c->rt, &w, 1);
        nnl_tensor_unref(packed);
    }
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static void take_backward_grad(nnl_grad *g) { g->dx[0] = DO(g->s, take, g->dy[0], g->in[1]); }

NNL_OP(take_backward,
    .sig = "dy:float, index:index, shape:int* -> same",
    .doc = "Zeros of a shape with dy added at flat positions.",
    .infer = take_backward_infer,
    .run = take_backward_run,
    .grad = take_backward_grad,
    .saves = NNL_SAVE_INPUT(1),
    .traits = NNL_HIDDEN);

/* ---------------------------------------------------------------- several index tensors at once:
 * x[{a, {}, b}] */

#define FIRST_INDEX(c) ((c)->start[(c)->sig->tensors - 1])

/* What the index tensors (the call's last list) make of a tensor. */
typedef struct index_plan {
    nnl_tensor *target;       /* the tensor that is indexed, or one like it */
    int n_index;              /* entries of the list; NULL ones keep their dimension */
    int of_dim[NNL_MAX_DIMS]; /* of each dimension: the entry, or -1 */
    int ndim;                 /* of the result */
    int64_t shape[NNL_MAX_DIMS];
    int64_t strides[NNL_MAX_DIMS]; /* of target along the result's dimensions; 0 for those of the
                                      positions */
    int at, n_places;              /* the positions' dimensions begin at `at` in the result */
    int64_t places;                /* how many there are */
} index_plan;

static int64_t count_true(const nnl_tensor *mask)
{
    int64_t count = 0;
    if (mask->contiguous) {
        const uint8_t *truth = (const uint8_t *)mask->data;
        for (int64_t i = 0; i < mask->numel; i++) count += truth[i] != 0;
        return count;
    }
    for (int64_t i = 0; i < mask->numel; i++) {
        int64_t rest = i, offset = 0;
        for (int d = mask->ndim - 1; d >= 0; d--) {
            offset += rest % mask->shape[d] * mask->strides[d];
            rest /= mask->shape[d];
        }
        count += mask->data[offset] != 0;
    }
    return count;
}

/* An entry takes one dimension, a mask as many as it has. */
static nnl_status place_entry(nnl_call *c, index_plan *p, int entry, const nnl_tensor *t, int *dim)
{
    const nnl_tensor *x = p->target;
    char text[NNL_SHAPE_TEXT], whole[NNL_SHAPE_TEXT];
    bool mask = t->dtype == NNL_BOOL;
    int takes = mask ? t->ndim : 1;
    if (nnl_is_float((nnl_dtype)t->dtype))
        return nnl_call_fail(
            c, NNL_ETYPE,
            "index %d is %s; positions are integers, masks bool: convert it with :to(\"i64\")",
            entry + 1, nnl_dtype_name((nnl_dtype)t->dtype));
    if (mask && takes == 0)
        return nnl_call_fail(c, NNL_ESHAPE, "index %d is a 0-d mask; a mask needs a dimension",
                             entry + 1);
    bool fits = *dim + takes <= x->ndim;
    for (int d = 0; mask && d < takes && fits; d++) fits = t->shape[d] == x->shape[*dim + d];
    if (!fits)
        return nnl_call_fail(
            c, NNL_ESHAPE, "index %d is %s%s and stands for dimension %d%s of a tensor of %s",
            entry + 1, mask ? "a mask of " : "positions of ",
            nnl_shape_text(text, t->ndim, t->shape), *dim + c->index_base,
            takes > 1 ? " and the following" : "", nnl_shape_text(whole, x->ndim, x->shape));
    for (int d = 0; d < takes; d++) p->of_dim[(*dim)++] = entry;
    return NNL_OK;
}

static nnl_status plan_index(nnl_call *c, nnl_tensor *target, index_plan *p)
{
    int first = FIRST_INDEX(c), dim = 0, indexed = 0, at = -1, last = -1, places_ndim = 0;
    int64_t places[NNL_MAX_DIMS];
    p->target = target;
    p->n_index = c->n_in - first;
    for (int d = 0; d < NNL_MAX_DIMS; d++) p->of_dim[d] = -1;
    for (int e = 0; e < p->n_index; e++) {
        const nnl_tensor *t = c->in[first + e];
        if (!t) {
            if (dim++ >= target->ndim)
                return nnl_call_fail(c, NNL_ESHAPE, "more entries than the tensor has dimensions");
            continue;
        }
        NNL_TRY(place_entry(c, p, e, t, &dim));
        int64_t count = t->dtype == NNL_BOOL ? count_true(t) : 0;
        bool joins = t->dtype == NNL_BOOL ? nnl_broadcast(&places_ndim, places, 1, &count)
                                          : nnl_broadcast(&places_ndim, places, t->ndim, t->shape);
        if (!joins)
            return nnl_call_fail(
                c, NNL_ESHAPE,
                "the index tensors do not broadcast: number %d does not fit those before it",
                e + 1);
    }
    bool adjacent = true;
    for (int d = 0; d < target->ndim; d++) {
        if (p->of_dim[d] < 0) continue;
        if (at < 0)
            at = d;
        else
            adjacent &= d == last + 1;
        last = d;
        indexed++;
    }
    if (indexed == 0) return nnl_call_fail(c, NNL_EINVAL, "no index tensor is given");
    if (target->ndim - indexed + places_ndim > NNL_MAX_DIMS)
        return nnl_call_fail(c, NNL_ESHAPE, "the result would have more than %d dimensions",
                             NNL_MAX_DIMS);
    /* Between the other dimensions when the indexed ones are neighbours, else in front: as in
     * torch. */
    p->at = adjacent ? at : 0;
    p->n_places = places_ndim;
    p->ndim = 0;
    p->places = nnl_shape_numel(places_ndim, places);
    for (int d = 0, done = false; d <= target->ndim; d++) {
        if (!done && p->ndim == p->at && (d == target->ndim || p->of_dim[d] >= 0 || !adjacent)) {
            for (int i = 0; i < places_ndim; i++, p->ndim++) {
                p->shape[p->ndim] = places[i];
                p->strides[p->ndim] = 0;
            }
            done = true;
        }
        if (d == target->ndim || p->of_dim[d] >= 0) continue;
        p->shape[p->ndim] = target->shape[d];
        p->strides[p->ndim++] = target->strides[d];
    }
    return NNL_OK;
}

/* Byte offsets of a mask's true places from its dimensions' first.  out has room for one more than
 * there are, so that every place can be written and only the true ones counted. */
static void mask_offsets(const nnl_tensor *mask, const nnl_tensor *target, int dim, int64_t *out)
{
    int last = mask->ndim - 1;
    int64_t at[NNL_MAX_DIMS] = {0}, row = 0, place = 0;
    int64_t columns = last < 0 ? 1 : mask->shape[last], step = last < 0 ? 0 : mask->strides[last];
    int64_t place_step = last < 0 ? 0 : stride_bytes(target, dim + last);
    for (int64_t done = 0; done < mask->numel; done += columns) {
        const char *truth = mask->data + row;
        for (int64_t i = 0; i < columns; i++) {
            *out = place + i * place_step;
            out += truth[i * step] != 0;
        }
        for (int d = last - 1; d >= 0; d--) {
            row += mask->strides[d];
            place += stride_bytes(target, dim + d);
            if (++at[d] < mask->shape[d]) break;
            row -= at[d] * mask->strides[d];
            place -= at[d] * stride_bytes(target, dim + d);
            at[d] = 0;
        }
    }
}

/* Adds an entry's offsets, broadcast, to all. */
static nnl_status add_entry(nnl_call *c, const index_plan *p, int entry, int dim, nnl_tensor *all)
{
    const nnl_tensor *t = c->in[FIRST_INDEX(c) + entry];
    bool mask = t->dtype == NNL_BOOL;
    int64_t count = mask ? count_true(t) : t->numel;
    nnl_offsets own;
    NNL_TRY(offsets_new(c->rt, count, &own));
    nnl_status status = NNL_OK;
    if (mask)
        mask_offsets(t, p->target, dim, own.at);
    else
        status = read_positions(c, FIRST_INDEX(c) + entry, dim, p->target->shape[dim],
                                stride_bytes(p->target, dim), own.at);
    if (status == NNL_OK) {
        nnl_tensor part =
            header_of(c->rt, NNL_I64, own.at, mask ? 1 : t->ndim, mask ? &count : t->shape);
        status = nnl_map_run(c->rt, NNL_MAP_add, 2, (nnl_tensor *[]){all, &part}, all, NULL);
    }
    nnl_offsets_free(c->rt, &own);
    return status;
}

static nnl_status plan_offsets(nnl_call *c, const index_plan *p, nnl_offsets *out)
{
    int only = -1, entries = 0, entry = -1;
    for (int d = 0; d < p->target->ndim; d++) {
        if (p->of_dim[d] < 0 || p->of_dim[d] == entry) continue;
        entry = p->of_dim[d];
        only = d;
        entries++;
    }
    const nnl_tensor *t = c->in[FIRST_INDEX(c) + entry];
    if (entries == 1 && t->dtype != NNL_BOOL)
        return nnl_offsets_read(c, FIRST_INDEX(c) + entry, only, p->target->shape[only],
                                stride_bytes(p->target, only), out);
    NNL_TRY(offsets_new(c->rt, p->places, out));
    if (entries == 1) {
        mask_offsets(t, p->target, only, out->at);
        return NNL_OK;
    }
    memset(out->at, 0, (size_t)p->places * sizeof(int64_t));
    nnl_tensor all = header_of(c->rt, NNL_I64, out->at, p->n_places, p->shape + p->at);
    nnl_status status = NNL_OK;
    entry = -1;
    for (int d = 0; d < p->target->ndim && status == NNL_OK; d++) {
        if (p->of_dim[d] < 0 || p->of_dim[d] == entry) continue;
        entry = p->of_dim[d];
        status = add_entry(c, p, entry, d, &all);
    }
    if (status != NNL_OK) nnl_offsets_free(c->rt, out);
    return status;
}

static void plan_walk(const index_plan *p, const nnl_tensor *packed, const nnl_tensor *base,
                      int64_t *offsets, walk *w)
{
    int64_t strides[NNL_MAX_DIMS] = {0};
    nnl_strides_contiguous(p->n_places, p->shape + p->at, strides + p->at);
    for (int d = 0; d < p->ndim; d++) {
        w->apart[d] = d < p->at || d >= p->at + p->n_places;
        if (w->apart[d]) strides[d] = 0;
    }
    walk_set(w, packed, base, offsets, strides, p->strides);
}

static nnl_status index_infer(nnl_call *c)
{
    index_plan p;
    NNL_TRY(plan_index(c, c->in[0], &p));
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->in[0]->dtype, p.ndim, p.shape);
    return NNL_OK;
}

static nnl_status index_run(nnl_call *c)
{
    index_plan p;
    nnl_offsets offsets;
    walk w;
    NNL_TRY(plan_index(c, c->in[0], &p));
    NNL_TRY(plan_offsets(c, &p, &offsets));
    plan_walk(&p, c->out[0], c->in[0], offsets.at, &w);
    nnl_status status = gather_walk(c->rt, &w);
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

/* The gradient's inputs: one or two tensors, then the index tensors. */
static nnl_tensor *with_indices(nnl_grad *g, const nnl_op *op, int n, nnl_tensor *const *first,
                                int n_attr, const nnl_value *attr)
{
    nnl_tensor *in[NNL_MAX_DIMS + 2];
    int from = g->start[g->sig->tensors - 1], count = g->n_in - from;
    for (int i = 0; i < n; i++) in[i] = first[i];
    for (int i = 0; i < count; i++) in[n + i] = g->in[from + i];
    return nnl_do(g->s, op, n + count, in, n_attr, attr);
}

static void index_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0];
    g->dx[0] = with_indices(g, &nnl_op_index_backward, 1, g->dy, 1, &V_INTS(x->ndim, x->shape));
}

#define SAVE_FROM(place) (NNL_SAVE_INPUTS & ~((1u << (place)) - 1u))

NNL_OP(index,
    .sig = "input:any, index:any*? -> same",
    .doc = "x[{a, {}, b}]: index tensors of positions or masks, one for each dimension (a mask "
           "for several), absent ones keep it; they are broadcast against each other.  Their "
           "dimensions stand in place of the indexed ones, or first if these are no neighbours.",
    .infer = index_infer,
    .run = index_run,
    .grad = index_grad,
    .saves = SAVE_FROM(1),
    .traits = NNL_HIDDEN);

static nnl_status index_backward_infer(nnl_call *c) { return shape_attr_infer(c, &c->attr[0]); }

/* Values broadcast to the plan's shape and made contiguous, so that the order of writing is always
 * the same. */
static nnl_status packed_values(nnl_call *c, const index_plan *p, nnl_tensor *values,
                                nnl_tensor **out)
{
    bool same = values->contiguous && values->ndim == p->ndim &&
                memcmp(values->shape, p->shape, sizeof(int64_t) * (size_t)p->ndim) == 0;
    if (same) {
        *out = nnl_tensor_ref(values);
        return NNL_OK;
    }
    nnl_spec spec;
    nnl_spec_set(&spec, (nnl_dtype)values->dtype, p->ndim, p->shape);
    NNL_TRY(nnl_tensor_make(c->rt, &spec, NULL, out));
    nnl_status status = nnl_copy(*out, values);
    if (status != NNL_OK) nnl_tensor_unref(*out);
    return status;
}

/* One index tensor for the first dimension of something contiguous: rows. */
static bool are_rows(const index_plan *p, const nnl_tensor *out)
{
    if (!out->contiguous || p->of_dim[0] < 0 || p->n_index < 1) return false;
    for (int d = 1; d < out->ndim; d++) {
        if (p->of_dim[d] >= 0) return false;
    }
    return true;
}

static nnl_status put(nnl_call *c, const index_plan *p, const nnl_tensor *input, nnl_tensor *values,
                      bool add)
{
    nnl_tensor *out = c->out[0], *packed;
    nnl_offsets offsets;
    walk w;
    NNL_TRY(plan_offsets(c, p, &offsets));
    nnl_status status = packed_values(c, p, values, &packed);
    if (status == NNL_OK) {
        status = input ? begin_with(out, input) : NNL_OK;
        int64_t row = out->ndim ? stride_bytes(out, 0) : 0;
        if (status != NNL_OK || packed->numel == 0) {
            /* nothing to write */
        } else if (add && are_rows(p, out) && row > 0) {
            for (int64_t i = 0; i < offsets.count; i++) offsets.at[i] /= row;
            status =
                nnl_add_rows(c->rt, (nnl_dtype)out->dtype, out->data, out->shape[0], packed->data,
                             offsets.at, offsets.count, out->numel / out->shape[0]);
        } else {
            plan_walk(p, packed, out, offsets.at, &w);
            status = add ? add_walk(c->rt, &w, 1) : set_walk(c->rt, &w);
        }
        nnl_tensor_unref(packed);
    }
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static nnl_status index_backward_run(nnl_call *c)
{
    index_plan p;
    NNL_TRY(plan_index(c, c->out[0], &p));
    set_zero(c->out[0]);
    return put(c, &p, NULL, c->in[0], true);
}

static void index_backward_grad(nnl_grad *g)
{
    g->dx[0] = with_indices(g, &nnl_op_index, 1, g->dy, 0, NULL);
}

NNL_OP(index_backward,
    .sig = "dy:float, index:any*?, shape:int* -> same",
    .doc = "Zeros of a shape with dy added at the places that index took.",
    .infer = index_backward_infer,
    .run = index_backward_run,
    .grad = index_backward_grad,
    .saves = SAVE_FROM(1),
    .traits = NNL_HIDDEN);

static nnl_status index_put_infer(nnl_call *c)
{
    index_plan p;
    const nnl_tensor *values = c->in[1];
    if (values->dtype != c->in[0]->dtype)
        return nnl_call_fail(c, NNL_ETYPE, "values is %s, but input is %s",
                             nnl_dtype_name((nnl_dtype)values->dtype),
                             nnl_dtype_name((nnl_dtype)c->in[0]->dtype));
    NNL_TRY(plan_index(c, c->in[0], &p));
    nnl_spec_like(&c->spec[0], c->in[0]);
    int ndim = p.ndim;
    int64_t shape[NNL_MAX_DIMS];
    char a[NNL_NAMED_TEXT], b[NNL_SHAPE_TEXT];
    memcpy(shape, p.shape, sizeof shape);
    if (nnl_broadcast(&ndim, shape, values->ndim, values->shape) && ndim == p.ndim &&
        memcmp(shape, p.shape, sizeof(int64_t) * (size_t)ndim) == 0)
        return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE, "%s does not fit the elements that are named (%s)",
                         nnl_call_input_text(c, 1, a), nnl_shape_text(b, p.ndim, p.shape));
}

static nnl_status index_put_run(nnl_call *c)
{
    index_plan p;
    NNL_TRY(plan_index(c, c->out[0], &p));
    return put(c, &p, c->in[0], c->in[1], c->attr[0].as.i);
}

static void index_put_grad(nnl_grad *g)
{
    bool add = g->attr[0].as.i;
    if (g->needs[0]) {
        nnl_tensor *zero = add ? NULL : nnl_number(g->s, g->dy[0], 0);
        g->dx[0] = add ? g->dy[0]
                       : with_indices(g, &nnl_op_index_put, 2, (nnl_tensor *[]){g->dy[0], zero}, 1,
                                      &V_FLAG(false));
    }
    if (g->needs[1])
        g->dx[1] = with_indices(g, add ? &nnl_op_index : &nnl_op_index_last, 1, g->dy, 0, NULL);
}

NNL_OP(index_put,
    .sig = "input:any, values:any, index:any*?, accumulate:flag=false -> same",
    .doc = "x[{a, {}, b}] = values: input with values (broadcast) put, or added, at the elements "
           "that `index` would take.  Of several for one place the last one stays; sums are in "
           "the values' order.",
    .infer = index_put_infer,
    .run = index_put_run,
    .grad = index_put_grad,
    .saves = SAVE_FROM(2),
    .traits = NNL_INPLACE_OK | NNL_HIDDEN);

static nnl_status index_last_run(nnl_call *c)
{
    index_plan p;
    nnl_offsets offsets;
    nnl_tensor *spoilt;
    walk w;
    NNL_TRY(copy_new(c->rt, c->in[0], &spoilt));
    nnl_status status = plan_index(c, spoilt, &p);
    if (status == NNL_OK) status = plan_offsets(c, &p, &offsets);
    if (status == NNL_OK) {
        plan_walk(&p, c->out[0], spoilt, offsets.at, &w);
        status = take_last_walk(c->rt, &w);
        nnl_offsets_free(c->rt, &offsets);
    }
    nnl_tensor_unref(spoilt);
    return status;
}

static void index_last_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0];
    nnl_tensor *zeros = nnl_full(g->s, (nnl_dtype)x->dtype, x->ndim, x->shape, 0);
    g->dx[0] =
        with_indices(g, &nnl_op_index_put, 2, (nnl_tensor *[]){zeros, g->dy[0]}, 1, &V_FLAG(false));
}

NNL_OP(index_last,
    .sig = "input:float, index:any*? -> same",
    .doc = "As index, but of several places that take the same element only the last one gets it, "
           "the others 0: what flows back through index_put.",
    .infer = index_infer,
    .run = index_last_run,
    .grad = index_last_grad,
    .saves = SAVE_FROM(1),
    .traits = NNL_HIDDEN);

/* ---------------------------------------------------------------- masks */

static const int64_t *expanded_strides(const nnl_tensor *t, int ndim, const int64_t *shape,
                                       int64_t out[NNL_MAX_DIMS])
{
    int missing = ndim - t->ndim;
    for (int d = 0; d < ndim; d++)
        out[d] = d < missing || (t->shape[d - missing] == 1 && shape[d] != 1)
                     ? 0
                     : t->strides[d - missing];
    return out;
}

static nnl_tensor expanded(const nnl_tensor *t, int ndim, const int64_t *shape)
{
    int64_t strides[NNL_MAX_DIMS];
    return nnl_window(t, t->data, ndim, shape, expanded_strides(t, ndim, shape, strides));
}

/* The common shape of input 0 and the mask. */
static nnl_status masked_shape(nnl_call *c, nnl_spec *spec)
{
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    nnl_spec_like(spec, c->in[0]);
    if (nnl_broadcast(&spec->ndim, spec->shape, c->in[1]->ndim, c->in[1]->shape)) return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE, "%s and %s do not broadcast", nnl_call_input_text(c, 0, a),
                         nnl_call_input_text(c, 1, b));
}

static nnl_status masked_select_infer(nnl_call *c)
{
    nnl_spec common;
    NNL_TRY(masked_shape(c, &common));
    nnl_tensor mask = expanded(c->in[1], common.ndim, common.shape);
    int64_t count = count_true(&mask);
    nnl_spec_set(&c->spec[0], common.dtype, 1, &count);
    return NNL_OK;
}

static nnl_status masked_select_run(nnl_call *c)
{
    nnl_spec common;
    nnl_offsets offsets;
    walk w;
    NNL_TRY(masked_shape(c, &common));
    nnl_tensor mask = expanded(c->in[1], common.ndim, common.shape),
               x = expanded(c->in[0], common.ndim, common.shape);
    NNL_TRY(offsets_new(c->rt, c->out[0]->numel, &offsets));
    mask_offsets(&mask, &x, 0, offsets.at);
    flat_walk(&w, c->out[0], &x, offsets.at);
    nnl_status status = gather_walk(c->rt, &w);
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static void masked_select_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0];
    nnl_tensor *mask = g->in[1];
    int ndim = x->ndim;
    int64_t shape[NNL_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    nnl_broadcast(&ndim, shape, mask->ndim, mask->shape);
    nnl_tensor *zeros = nnl_full(g->s, (nnl_dtype)x->dtype, ndim, shape, 0);
    g->dx[0] = DO(g->s, masked_scatter, zeros, mask, g->dy[0]);
}

NNL_OP(masked_select,
    .sig = "input:any, mask:bool -> same",
    .doc = "The elements where mask (broadcast) is true, in row-major order, as one dimension.",
    .example = "nn.arange(5):masked_select(nn.arange(5):gt(2))",
    .infer = masked_select_infer,
    .run = masked_select_run,
    .grad = masked_select_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:3x4 mask:3x4; input:2x3 mask:3; input:3 mask:2x1");

static nnl_status masked_scatter_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    nnl_spec common;
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    NNL_TRY(masked_shape(c, &common));
    nnl_spec_like(&c->spec[0], x);
    if (common.ndim != x->ndim || memcmp(common.shape, x->shape, sizeof(int64_t) * x->ndim) != 0)
        return nnl_call_fail(c, NNL_ESHAPE, "%s does not fit into %s", nnl_call_input_text(c, 1, b),
                             nnl_call_input_text(c, 0, a));
    nnl_tensor mask = expanded(c->in[1], x->ndim, x->shape);
    int64_t count = count_true(&mask);
    if (count <= c->in[2]->numel) return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE, "mask is true at %lld places, but %s has %lld elements",
                         (long long)count, nnl_call_input_text(c, 2, b),
                         (long long)c->in[2]->numel);
}

static nnl_status masked_scatter_run(nnl_call *c)
{
    nnl_tensor *out = c->out[0], *source = nnl_tensor_ref(c->in[2]);
    nnl_tensor mask = expanded(c->in[1], out->ndim, out->shape);
    nnl_offsets offsets;
    walk w;
    nnl_status status = NNL_OK;
    if (!source->contiguous) {
        nnl_tensor_unref(source);
        NNL_TRY(copy_new(c->rt, c->in[2], &source));
    }
    status = offsets_new(c->rt, count_true(&mask), &offsets);
    if (status == NNL_OK) {
        mask_offsets(&mask, out, 0, offsets.at);
        status = begin_with(out, c->in[0]);
        nnl_tensor packed =
            header_of(c->rt, (nnl_dtype)source->dtype, source->data, 1, &offsets.count);
        flat_walk(&w, &packed, out, offsets.at);
        if (status == NNL_OK) status = set_walk(c->rt, &w);
        nnl_offsets_free(c->rt, &offsets);
    }
    nnl_tensor_unref(source);
    return status;
}

static void masked_scatter_grad(nnl_grad *g)
{
    const nnl_layout *source = &g->in_layout[2];
    if (g->needs[0]) {
        nnl_tensor *zeros =
            nnl_full(g->s, (nnl_dtype)source->dtype, source->ndim, source->shape, 0);
        g->dx[0] = DO(g->s, masked_scatter, g->dy[0], g->in[1], zeros);
    }
    if (!g->needs[2]) return;
    /* What was not used of the source gets 0. */
    int64_t numel = nnl_shape_numel(source->ndim, source->shape), one = 1;
    nnl_tensor *dy = g->dy[0], *picked = DO(g->s, masked_select, dy, g->in[1]);
    nnl_tensor *padded =
        DO_WITH(g->s, place, (V_INTS(1, &numel), V_INTS(1, &one), V_INT(0)), picked);
    g->dx[2] = nnl_reshaped(g->s, padded, source->ndim, source->shape);
}

NNL_OP(masked_scatter,
    .sig = "input:any, mask:bool, source:any -> same",
    .doc = "input with the elements where mask (broadcast) is true replaced by source's, one "
           "after the other.",
    .example = "nn.zeros(4):masked_scatter(nn.arange(4):gt(2), nn.tensor({7, 8}))",
    .infer = masked_scatter_infer,
    .run = masked_scatter_run,
    .grad = masked_scatter_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:3x4 mask:3x4 source:3x5; input:2x3 mask:3 source:6",
    .traits = NNL_PROMOTE | NNL_INPLACE_OK);
