/* Runs a reduction: brings it to rows or columns of matrices, and shares these out to threads. */
#include "reduce.h"

#include <math.h>
#include <string.h>

#define BLOCK 2048     /* elements gathered at a time when none are adjacent */
#define PIECE 16384    /* of a long row, or elements of a task */
#define STRIP 1024     /* columns of a task */
#define DEEP 16        /* rows read side by side when a strip does not fit into L1 */
#define MAX_PARTS 64   /* accumulators for each result at most */
#define SHORT_ROW 4096 /* bytes: the processor fetches ahead within a page */

typedef struct dim {
    int64_t size, step; /* bytes */
} dim;

/* x as kept dimensions (in the order of the results) and reduced ones (the longest steps first).
 * The last of each are walked by the kernels. */
typedef struct plan {
    nnl_runtime *rt;
    const nnl_kernels *kernels;
    nnl_reduce_kind kind;
    int dtype, width;
    const char *data;
    dim kept[NNL_MAX_DIMS + 1], reduced[NNL_MAX_DIMS + 1];
    int n_kept, n_reduced;
    int64_t results, terms;  /* results, and elements that make one */
    bool columns;            /* adjacent elements belong to different results */
    bool gather;             /* rows whose elements are not adjacent */
    int64_t units, piece;    /* the reduced places, as pieces of the last reduced dimension */
    int64_t pieces;          /* of one */
    int64_t parts, per_part; /* tasks that share the terms, units of each */
    int64_t group, groups;   /* results of a task, tasks that share the results */
    void *acc;               /* parts x results */
    const double *parameter;
    bool parameter_each;
} plan;

static bool is_cheap(nnl_reduce_kind kind)
{
    return kind != NNL_REDUCE_EXPS && kind != NNL_REDUCE_POWERS;
}

/* ---------------------------------------------------------------- making the plan */

static void push(dim *dims, int *count, int64_t size, int64_t step)
{
    if (size == 1) return;
    if (*count > 0 && dims[*count - 1].step == step * size) { /* joins its left neighbour */
        dims[*count - 1] = (dim){dims[*count - 1].size * size, step};
        return;
    }
    dims[(*count)++] = (dim){size, step};
}

/* Repeated elements (step 0) count as far apart. */
static bool is_before(dim a, dim b) { return b.step != 0 && (a.step == 0 || a.step > b.step); }

static void collect(plan *p, const nnl_tensor *x, const bool *reduced)
{
    dim unsorted[NNL_MAX_DIMS];
    int count = 0;
    for (int d = 0; d < x->ndim; d++) {
        int64_t step = x->strides[d] * p->width;
        if (!reduced[d]) {
            push(p->kept, &p->n_kept, x->shape[d], step);
        } else if (x->shape[d] != 1) {
            int at = count++;
            dim new = {x->shape[d], step};
            for (; at > 0 && is_before(new, unsorted[at - 1]); at--)
                unsorted[at] = unsorted[at - 1];
            unsorted[at] = new;
        }
    }
    for (int i = 0; i < count; i++)
        push(p->reduced, &p->n_reduced, unsorted[i].size, unsorted[i].step);
    if (p->n_kept == 0) p->kept[p->n_kept++] = (dim){1, 0};
    if (p->n_reduced == 0) p->reduced[p->n_reduced++] = (dim){1, 0};
}

static int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Who does what, from shapes alone. */
static void share_out(plan *p)
{
    const dim *row = &p->reduced[p->n_reduced - 1], *column = &p->kept[p->n_kept - 1];
    int64_t outer = p->terms / row->size, total = p->terms * p->results;
    int64_t limit = is_cheap(p->kind) ? 4 * NNL_SERIAL_WORK : NNL_SERIAL_WORK / 4;
    p->parts = p->groups = 1;
    p->group = p->results;
    p->piece = p->columns ? NNL_MAX(DEEP, PIECE / column->size) : PIECE;
    if (total > limit) {
        int64_t blocks =
            p->columns ? p->results / column->size * up(column->size, STRIP) : p->results;
        /* Short rows are read in the order in which they lie, whichever results they belong to. */
        bool scattered =
            !p->columns && row->size * row->step < SHORT_ROW && outer >= 8 && p->terms > PIECE / 2;
        if (blocks >= 8 && !scattered) {
            p->group = p->columns ? NNL_MIN(STRIP, column->size) : NNL_MAX(1, PIECE / p->terms);
            p->groups = p->columns ? blocks : up(p->results, p->group);
        } else {
            p->parts = NNL_MIN(MAX_PARTS, up(total, 4 * PIECE));
            p->piece = NNL_MIN(p->piece,
                               NNL_MAX(1, PIECE / (p->columns ? NNL_MIN(column->size, STRIP) : 1)));
        }
    }
    p->piece = NNL_MIN(p->piece, row->size);
    p->pieces = up(row->size, p->piece);
    p->units = outer * p->pieces;
    p->per_part = up(p->units, p->parts);
    p->parts = up(p->units, p->per_part);
}

/* ---------------------------------------------------------------- walking it */

/* Divisions take as long as a short row: there is none for one dimension. */
static const char *place_of(const dim *dims, int count, int64_t index, const char *from)
{
    for (int d = count - 1; d > 0; d--) {
        from += index % dims[d].size * dims[d].step;
        index /= dims[d].size;
    }
    return count > 0 ? from + index * dims[0].step : from;
}

static const double *parameter_at(const plan *p, int64_t result)
{
    return p->parameter && p->parameter_each ? p->parameter + result : p->parameter;
}

/* n elements of a row, step bytes apart, collected block by block */
static void take_gathered(const plan *p, char *acc, const char *x, int64_t step, int64_t n,
                          const double *parameter)
{
    _Alignas(64) char block[BLOCK * 8];
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t count = NNL_MIN(BLOCK, n - i);
        p->kernels->copy_strided(p->width, block, p->width, x + i * step, step, count);
        p->kernels->reduce_rows((int)p->kind, p->dtype, acc, block, 0, 1, count, parameter);
    }
}

/* Takes piece `unit` into `count` neighbouring results of the last kept dimension. */
static void take(const plan *p, char *acc, int64_t result, int64_t count, int64_t unit)
{
    const dim *row = &p->reduced[p->n_reduced - 1], *column = &p->kept[p->n_kept - 1];
    const char *x = place_of(p->kept, p->n_kept, result, p->data);
    int64_t first = 0, n = row->size;
    if (p->pieces > 1) {
        first = unit % p->pieces * p->piece;
        n = NNL_MIN(p->piece, row->size - first);
        unit /= p->pieces;
    }
    x = place_of(p->reduced, p->n_reduced - 1, unit, x) + first * row->step;
    const double *parameter = parameter_at(p, result);
    if (p->columns) {
        p->kernels->reduce_columns((int)p->kind, p->dtype, acc, x, row->step, n, count, parameter);
    } else if (!p->gather) {
        p->kernels->reduce_rows((int)p->kind, p->dtype, acc, x, column->step, count, n, parameter);
    } else {
        for (int64_t i = 0; i < count; i++)
            take_gathered(p, acc + i * 8, x + i * column->step, row->step, n,
                          parameter_at(p, result + i));
    }
}

static void start(const plan *p, void *acc, int64_t count)
{
    double f = 0;
    int64_t i = 0;
    switch (p->kind) {
    case NNL_REDUCE_PROD:
        f = 1;
        i = 1;
        break;
    case NNL_REDUCE_MIN_ABS:
    case NNL_REDUCE_MIN:
        f = HUGE_VAL;
        i = INT64_MAX;
        break;
    case NNL_REDUCE_MAX:
        f = -HUGE_VAL;
        i = INT64_MIN;
        break;
    default: break;
    }
    for (int64_t k = 0; k < count; k++) {
        if (nnl_is_float((nnl_dtype)p->dtype))
            ((double *)acc)[k] = f;
        else
            ((int64_t *)acc)[k] = i;
    }
}

static void reduce_task(void *context, int64_t index)
{
    const plan *p = context;
    const dim *column = &p->kept[p->n_kept - 1];
    int64_t part = index / p->groups, first = index % p->groups * p->group, end;
    if (p->columns && p->groups > 1) { /* strips end with their row of results */
        int64_t strips = up(column->size, p->group), g = index % p->groups;
        first = g / strips * column->size + g % strips * p->group;
        end = NNL_MIN(first + p->group, (g / strips + 1) * column->size);
    } else {
        end = NNL_MIN(first + p->group, p->results);
    }
    char *acc = (char *)p->acc + part * p->results * 8;
    start(p, acc + first * 8, end - first);
    int64_t unit_end = NNL_MIN(p->units, (part + 1) * p->per_part);
    while (first < end) {
        int64_t count = NNL_MIN(end, (first / column->size + 1) * column->size) - first;
        if (p->columns) count = NNL_MIN(count, STRIP);
        for (int64_t unit = part * p->per_part; unit < unit_end; unit++)
            take(p, acc + first * 8, first, count, unit);
        first += count;
    }
}

static double join_f64(nnl_reduce_kind kind, double a, double b)
{
    switch (kind) {
    case NNL_REDUCE_PROD: return a * b;
    case NNL_REDUCE_MIN_ABS:
    case NNL_REDUCE_MIN: return b < a || isnan(b) ? (isnan(a) ? a : b) : a;
    case NNL_REDUCE_MAX:
    case NNL_REDUCE_MAX_ABS: return b > a || isnan(b) ? (isnan(a) ? a : b) : a;
    default: return a + b;
    }
}

static int64_t join_i64(nnl_reduce_kind kind, int64_t a, int64_t b)
{
    switch (kind) {
    case NNL_REDUCE_PROD: return (int64_t)((uint64_t)a * (uint64_t)b);
    case NNL_REDUCE_MIN: return NNL_MIN(a, b);
    case NNL_REDUCE_MAX: return NNL_MAX(a, b);
    default: return (int64_t)((uint64_t)a + (uint64_t)b);
    }
}

/* The parts into the first of them, one after the other. */
static void join_parts(const plan *p)
{
    bool is_float = nnl_is_float((nnl_dtype)p->dtype);
    double *f = p->acc;
    int64_t *n = p->acc;
    for (int64_t part = p->results; part < p->parts * p->results; part += p->results) {
        for (int64_t k = 0; k < p->results; k++) {
            if (is_float)
                f[k] = join_f64(p->kind, f[k], f[part + k]);
            else
                n[k] = join_i64(p->kind, n[k], n[part + k]);
        }
    }
}

static nnl_status run_plan(plan *p)
{
    int64_t tasks = p->parts * p->groups;
    if (p->terms == 0)
        start(p, p->acc, p->results);
    else if (p->results > 0)
        NNL_TRY(nnl_parallel(p->rt, tasks, reduce_task, p));
    if (p->terms > 0) join_parts(p);
    return NNL_OK;
}

/* ---------------------------------------------------------------- from a tensor to accumulators */

int64_t nnl_reduce_count(int ndim, const int64_t *shape, const nnl_value *dims)
{
    bool reduced[NNL_MAX_DIMS];
    int64_t count = 1;
    nnl_dim_flags(dims, ndim, reduced);
    for (int d = 0; d < ndim; d++) count *= reduced[d] ? shape[d] : 1;
    return count;
}

void nnl_reduce_spec(nnl_call *c, int place, nnl_dtype dtype, const nnl_value *dims, bool keepdim)
{
    const nnl_tensor *x = c->in[0];
    nnl_spec *spec = &c->spec[place];
    bool reduced[NNL_MAX_DIMS];
    nnl_dim_flags(dims, x->ndim, reduced);
    spec->dtype = dtype;
    spec->ndim = 0;
    nnl_spec_plain(spec);
    for (int d = 0; d < x->ndim; d++) {
        if (!reduced[d])
            spec->shape[spec->ndim++] = x->shape[d];
        else if (keepdim)
            spec->shape[spec->ndim++] = 1;
    }
}

static void make_plan(plan *p, nnl_runtime *rt, nnl_reduce_kind kind, const nnl_tensor *x,
                      const bool *reduced)
{
    *p = (plan){.rt = rt,
                .kernels = rt->kernels,
                .kind = kind,
                .dtype = x->dtype,
                .data = x->data,
                .width = (int)nnl_dtype_size((nnl_dtype)x->dtype)};
    collect(p, x, reduced);
    p->results = p->terms = 1;
    for (int d = 0; d < p->n_kept; d++) p->results *= p->kept[d].size;
    for (int d = 0; d < p->n_reduced; d++) p->terms *= p->reduced[d].size;
    p->columns =
        p->reduced[p->n_reduced - 1].step != p->width && p->kept[p->n_kept - 1].step == p->width;
    p->gather = !p->columns && p->reduced[p->n_reduced - 1].step != p->width;
    if (p->results > 0 && p->terms > 0) share_out(p);
}

/* A layout that fits neither rows nor columns, but where some other dimension has adjacent
 * elements: a copy is cheaper than picking them one by one. */
static bool wants_copy(const plan *p)
{
    if (!p->gather || p->terms < 8) return false;
    for (int d = 0; d < p->n_kept; d++) {
        if (p->kept[d].step == p->width) return true;
    }
    return false;
}

nnl_status nnl_reduce_accumulate(nnl_runtime *rt, nnl_reduce_kind kind, nnl_tensor *x,
                                 const bool *reduced, const double *parameter, bool each,
                                 nnl_accumulators *acc)
{
    plan p;
    nnl_tensor *copy = NULL;
    make_plan(&p, rt, kind, x, reduced);
    if (wants_copy(&p)) {
        NNL_TRY(nnl_copy_new(x, &copy));
        make_plan(&p, rt, kind, copy, reduced);
    }
    int64_t count = NNL_MAX(p.parts, 1) * p.results;
    nnl_status status = NNL_OK;
    acc->count = p.results;
    acc->bytes = 0;
    acc->data = acc->few;
    if (count > NNL_COUNT(acc->few)) {
        acc->bytes = (size_t)count * 8;
        status = nnl_alloc(rt, acc->bytes, &acc->data);
        if (status != NNL_OK) acc->bytes = 0;
    }
    p.acc = acc->data;
    p.parameter = parameter;
    p.parameter_each = each;
    if (status == NNL_OK) status = run_plan(&p);
    if (status != NNL_OK) nnl_accumulators_free(rt, acc);
    nnl_tensor_unref(copy);
    return status;
}

void nnl_accumulators_free(nnl_runtime *rt, nnl_accumulators *acc)
{
    if (acc->bytes) nnl_free(rt, acc->data, acc->bytes);
    acc->bytes = 0;
}

/* ---------------------------------------------------------------- places */

typedef struct find {
    const plan *p;
    const char *value; /* of each result, 8 bytes */
    int64_t *place;
    int64_t group, groups; /* results of a task, tasks of a last kept dimension */
    int base;
} find;

static void find_task(void *context, int64_t index)
{
    const find *f = context;
    const plan *p = f->p;
    const dim *row = &p->reduced[0], *column = &p->kept[p->n_kept - 1];
    int64_t from = index % f->groups * f->group, count = NNL_MIN(f->group, column->size - from);
    int64_t first = index / f->groups * column->size + from;
    const char *x = place_of(p->kept, p->n_kept, first, p->data), *value = f->value + first * 8;
    int64_t *place = f->place + first;
    if (p->columns) {
        p->kernels->find_columns(p->dtype, place, x, row->step, row->size, count, value);
    } else if (!p->gather) {
        p->kernels->find_rows(p->dtype, place, x, column->step, count, row->size, value);
    } else {
        _Alignas(64) char block[BLOCK * 8];
        for (int64_t k = 0; k < count; k++) {
            place[k] = -1;
            for (int64_t i = 0; i < row->size && place[k] < 0; i += BLOCK) {
                int64_t n = NNL_MIN(BLOCK, row->size - i);
                p->kernels->copy_strided(p->width, block, p->width,
                                         x + k * column->step + i * row->step, row->step, n);
                p->kernels->find_rows(p->dtype, &place[k], block, 0, 1, n, value + k * 8);
                if (place[k] >= 0) place[k] += i;
            }
        }
    }
    for (int64_t k = 0; k < count; k++) place[k] += f->base;
}

nnl_status nnl_reduce_find(nnl_runtime *rt, nnl_tensor *x, const bool *reduced,
                           const nnl_accumulators *acc, int base, nnl_tensor *places)
{
    plan p;
    nnl_tensor *copy = NULL;
    if (places->numel == 0) return NNL_OK;
    memset(places->data, 0, (size_t)places->numel * 8);
    make_plan(&p, rt, NNL_REDUCE_MAX, x, reduced);
    bool all = true;
    for (int d = 0; d < x->ndim; d++) all &= reduced[d];
    if (all && !x->contiguous) { /* the plan goes by memory, places by the shape */
        NNL_TRY(nnl_copy_new(x, &copy));
        make_plan(&p, rt, NNL_REDUCE_MAX, copy, reduced);
    }
    find f = {.p = &p, .value = acc->data, .place = (int64_t *)(void *)places->data, .base = base};
    int64_t last = p.kept[p.n_kept - 1].size;
    f.group = NNL_MIN(last, p.columns ? STRIP : NNL_MAX(1, PIECE / p.terms));
    f.groups = up(last, f.group);
    int64_t tasks = p.results / last * f.groups;
    nnl_status status = NNL_OK;
    if (p.results * p.terms <= 4 * NNL_SERIAL_WORK) {
        for (int64_t i = 0; i < tasks; i++) find_task(&f, i);
    } else {
        status = nnl_parallel(rt, tasks, find_task, &f);
    }
    nnl_tensor_unref(copy);
    return status;
}

/* ---------------------------------------------------------------- from accumulators to results */

static void store(nnl_runtime *rt, double *a, int64_t count, bool is_float, nnl_reduce_end end,
                  double scale, nnl_tensor *out)
{
    if (end == NNL_END_SCALE) {
        for (int64_t i = 0; i < count; i++) a[i] *= scale;
    } else if (end == NNL_END_ROOT) {
        for (int64_t i = 0; i < count; i++) a[i] = sqrt(a[i] * scale);
    }
    rt->kernels->convert(out->dtype, is_float ? NNL_F64 : NNL_I64, out->data, a, count);
}

void nnl_accumulators_store(nnl_runtime *rt, nnl_accumulators *acc, bool is_float,
                            nnl_reduce_end end, double scale, nnl_tensor *out)
{
    store(rt, acc->data, acc->count, is_float, end, scale, out);
}

nnl_status nnl_reduce(nnl_runtime *rt, nnl_reduce_kind kind, nnl_tensor *x, const nnl_value *dims,
                      nnl_reduce_end end, double scale, nnl_tensor *out)
{
    bool reduced[NNL_MAX_DIMS];
    nnl_accumulators acc;
    nnl_dim_flags(dims, x->ndim, reduced);
    NNL_TRY(nnl_reduce_accumulate(rt, kind, x, reduced, NULL, false, &acc));
    nnl_accumulators_store(rt, &acc, nnl_is_float((nnl_dtype)x->dtype), end, scale, out);
    nnl_accumulators_free(rt, &acc);
    return NNL_OK;
}

/* ---------------------------------------------------------------- again and again */

#define READY_BYTES \
    16384 /* of accumulators that are kept between runs; more are worth an allocation each time */

typedef struct ready_plan {
    plan plan;
    nnl_reduce_end end;
    double scale;
    double acc[]; /* parts x results */
} ready_plan;

static nnl_status run_ready(nnl_ready *r)
{
    ready_plan *p = r->plan;
    nnl_tensor *out = r->call->out[0];
    p->plan.data = r->call->in[0]->data;
    if (NNL_LIKELY(p->plan.parts * p->plan.groups == 1))
        reduce_task(&p->plan, 0);
    else
        NNL_TRY(run_plan(&p->plan));
    store(p->plan.rt, p->acc, p->plan.results, nnl_is_float((nnl_dtype)p->plan.dtype), p->end,
          p->scale, out);
    return NNL_OK;
}

nnl_status nnl_reduce_ready(nnl_ready *r, nnl_reduce_kind kind, const nnl_value *dims,
                            nnl_reduce_end end, double scale)
{
    nnl_call *c = r->call;
    const nnl_tensor *x = c->in[0];
    bool reduced[NNL_MAX_DIMS];
    plan p;
    nnl_dim_flags(dims, x->ndim, reduced);
    make_plan(&p, c->rt, kind, x, reduced);
    size_t bytes = (size_t)(p.parts * p.results) * sizeof(double);
    if (p.results == 0 || p.terms == 0 || bytes > READY_BYTES || wants_copy(&p)) return NNL_OK;
    void *block;
    NNL_TRY(nnl_alloc(c->rt, sizeof(ready_plan) + bytes, &block));
    ready_plan *ready = block;
    *ready = (ready_plan){.plan = p, .end = end, .scale = scale};
    ready->plan.acc = ready->acc;
    r->plan = ready;
    r->plan_bytes = sizeof(ready_plan) + bytes;
    r->run = run_ready;
    return NNL_OK;
}
