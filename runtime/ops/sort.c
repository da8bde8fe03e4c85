/* Sorting and what rests on it: sort, argsort, topk, median, unique, searchsorted.  The sort is stable, by merging or
 * (sort_words.c) by digits; NaN counts as larger than every number. */
#include "sort_words.h"
#include "dense.h"

#include <string.h>

#define RUN 12            /* elements sorted by insertion */
#define LOOK 65536        /* elements between two looks at the cancel flag */
#define MAX_GROUPS 16     /* tasks of a sort at most, each with memory of its own */
#define GROUP_PAIRS 4194304

static nnl_dtype type_of(const nnl_tensor *t) { return (nnl_dtype)t->dtype; }
static int64_t *ints(nnl_tensor *t) { return (int64_t *)(void *)t->data; }

/* ---------------------------------------------------------------- keys */

typedef struct pair {
    uint64_t key; /* orders as the element does */
    int64_t place;
} pair;

#define SIGN (UINT64_C(1) << 63)

/* Of a float as f64: the bits, with negative numbers turned round; both zeros are one, all NaN are one. */
static uint64_t float_key(double x)
{
    uint64_t bits;
    if (x != x) return UINT64_MAX;
    x += 0.0;
    memcpy(&bits, &x, sizeof bits);
    return bits & SIGN ? ~bits : bits | SIGN;
}

static uint64_t key_of(nnl_dtype dtype, const char *at)
{
    switch (dtype) {
    case NNL_F32: return float_key((double)*(const float *)(const void *)at);
    case NNL_F64: return float_key(*(const double *)(const void *)at);
    case NNL_I64: return (uint64_t)*(const int64_t *)(const void *)at ^ SIGN;
    case NNL_I32: return (uint64_t)(int64_t)*(const int32_t *)(const void *)at ^ SIGN;
    default: return *(const uint8_t *)at;
    }
}

/* Everything below that may take long stops halfway when the call is cancelled; the caller then must not read
 * the pairs. */

/* n elements, step bytes apart; flip turns the order round and leaves ties as they are. */
static void read_pairs(const nnl_runtime *rt, nnl_dtype dtype, const char *x, int64_t step, int64_t n, uint64_t flip,
                       pair *out)
{
    for (int64_t i = 0; i < n && !nnl_is_cancelled(rt);) {
        for (int64_t end = NNL_MIN(i + LOOK, n); i < end; i++, x += step) out[i] = (pair){key_of(dtype, x) ^ flip, i};
    }
}

/* ---------------------------------------------------------------- sorting */

static void insertion(pair *a, int64_t n)
{
    for (int64_t i = 1; i < n; i++) {
        pair p = a[i];
        int64_t j = i;
        for (; j > 0 && a[j - 1].key > p.key; j--) a[j] = a[j - 1];
        a[j] = p;
    }
}

static void merge(const nnl_runtime *rt, pair *out, const pair *a, int64_t n, const pair *b, int64_t m)
{
    while (n > 0 && m > 0) {
        if (nnl_is_cancelled(rt)) return;
        for (int64_t look = LOOK; look > 0 && n > 0 && m > 0; look--) {
            bool second = b->key < a->key;
            *out++ = second ? *b : *a;
            a += !second;
            n -= !second;
            b += second;
            m -= second;
        }
    }
    memcpy(out, a, (size_t)n * sizeof(pair));
    memcpy(out + n, b, (size_t)m * sizeof(pair));
}

/* Sorts a by way of spare; the result is in a. */
static void sort_pairs(const nnl_runtime *rt, pair *a, pair *spare, int64_t n)
{
    for (int64_t i = 0; i < n; i += RUN) {
        if (i % (RUN * LOOK) == 0 && nnl_is_cancelled(rt)) return;
        insertion(a + i, NNL_MIN(RUN, n - i));
    }
    pair *from = a, *to = spare;
    for (int64_t width = RUN; width < n; width *= 2) {
        for (int64_t i = 0; i < n; i += 2 * width) {
            int64_t first = NNL_MIN(width, n - i), second = NNL_MIN(width, n - i - first);
            merge(rt, to + i, from + i, first, from + i + first, second);
        }
        pair *swap = from;
        from = to;
        to = swap;
    }
    if (from != a) memcpy(a, from, (size_t)n * sizeof(pair));
}

static bool is_after(pair a, pair b) { return a.key > b.key || (a.key == b.key && a.place > b.place); }

static void sift(pair *heap, int64_t at, int64_t count)
{
    pair p = heap[at];
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= count) break;
        if (child + 1 < count && is_after(heap[child + 1], heap[child])) child++;
        if (!is_after(heap[child], p)) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = p;
}

/* The first k of the sorted order come to a[0 .. k), sorted: a heap of the best so far, the worst on top. */
static void select_pairs(const nnl_runtime *rt, pair *a, pair *spare, int64_t n, int64_t k)
{
    if (k >= n / 8) {
        sort_pairs(rt, a, spare, n);
        return;
    }
    if (k == 0) return;
    for (int64_t i = k / 2 - 1; i >= 0; i--) sift(a, i, k);
    for (int64_t i = k; i < n; i++) {
        if (i % LOOK == 0 && nnl_is_cancelled(rt)) return;
        if (a[i].key >= a[0].key) continue;
        a[0] = a[i];
        sift(a, 0, k);
    }
    for (int64_t end = k - 1; end > 0; end--) {
        pair top = a[0];
        a[0] = a[end];
        a[end] = top;
        sift(a, 0, end);
    }
}

/* ---------------------------------------------------------------- along a dimension */

/* For every row along dim: the elements first .. first + take - 1 of the sorted order, or what `choose` picks. */
typedef struct sort_job {
    const nnl_tensor *x;
    nnl_tensor *values, *places; /* contiguous or NULL; of size `take` along dim */
    int64_t dim, size, take, rows, inner, group;
    uint64_t flip;
    int base;
    bool median, words;
    char *scratch; /* 2 size pairs or words a group */
    size_t scratch_bytes; /* of a group */
} sort_job;

static void put(const sort_job *j, const char *row, int64_t step, int64_t at, int64_t place)
{
    size_t width = nnl_dtype_size(type_of(j->x));
    if (j->values) memcpy(j->values->data + at * (int64_t)width, row + place * step, width);
    if (j->places) ints(j->places)[at] = place + j->base;
}

static bool is_nan_at(const sort_job *j, const void *sorted, int64_t i)
{
    if (j->words) return nnl_words_key(((const uint64_t *)sorted)[i]) == NNL_WORDS_NAN;
    return ((const pair *)sorted)[i].key == UINT64_MAX;
}

static int64_t place_at(const sort_job *j, const void *sorted, int64_t i)
{
    return j->words ? nnl_words_place(((const uint64_t *)sorted)[i]) : ((const pair *)sorted)[i].place;
}

/* The lower middle one, or the first NaN. */
static int64_t median_place(const sort_job *j, const void *sorted)
{
    if (nnl_is_float(type_of(j->x))) {
        int64_t i = j->size - 1;
        while (i > 0 && is_nan_at(j, sorted, i) && is_nan_at(j, sorted, i - 1)) i--;
        if (is_nan_at(j, sorted, i)) return place_at(j, sorted, i);
    }
    return place_at(j, sorted, (j->size - 1) / 2);
}

/* The frequent case of put: results that lie together, of 4 bytes. */
static void put_words(const sort_job *j, const char *row, int64_t step, int64_t at, const uint64_t *sorted)
{
    uint32_t *values = j->values ? (uint32_t *)(void *)j->values->data + at : NULL;
    int64_t *places = j->places ? ints(j->places) + at : NULL;
    for (int64_t i = 0; i < j->take; i++) {
        int64_t place = nnl_words_place(sorted[i]);
        if (values) memcpy(&values[i], row + place * step, sizeof *values);
        if (places) places[i] = place + j->base;
    }
}

/* The elements of a row as keys with places, what is wanted of their order first. */
static void order_row(const sort_job *j, const char *from, int64_t step, void *scratch)
{
    const nnl_runtime *rt = j->x->rt;
    nnl_dtype dtype = type_of(j->x);
    int64_t take = j->median ? j->size : j->take;
    if (j->words) {
        nnl_words_order(rt, dtype, from, step, j->size, (uint32_t)j->flip, scratch, take);
    } else {
        pair *a = scratch;
        read_pairs(rt, dtype, from, step, j->size, j->flip, a);
        select_pairs(rt, a, a + j->size, j->size, take);
    }
}

static void sort_row(const sort_job *j, int64_t row, void *scratch)
{
    const nnl_tensor *x = j->x;
    int64_t width = (int64_t)nnl_dtype_size(type_of(x)), rest = row, offset = 0;
    for (int d = x->ndim - 1; d >= 0; d--) {
        if (d == j->dim) continue;
        offset += rest % x->shape[d] * x->strides[d];
        rest /= x->shape[d];
    }
    const char *from = x->data + offset * width;
    int64_t step = x->ndim ? x->strides[j->dim] * width : 0;
    int64_t at = row / j->inner * j->inner * j->take + row % j->inner;
    order_row(j, from, step, scratch);
    if (nnl_is_cancelled(x->rt)) return;
    if (j->median) {
        put(j, from, step, at, median_place(j, scratch));
    } else if (j->words && width == 4 && j->inner == 1) {
        put_words(j, from, step, at, scratch);
    } else {
        for (int64_t i = 0; i < j->take; i++) put(j, from, step, at + i * j->inner, place_at(j, scratch, i));
    }
}

static void sort_task(void *context, int64_t i)
{
    const sort_job *j = context;
    int64_t end = NNL_MIN((i + 1) * j->group, j->rows);
    for (int64_t row = i * j->group; row < end && !nnl_is_cancelled(j->x->rt); row++)
        sort_row(j, row, j->scratch + (size_t)i * j->scratch_bytes);
}

static nnl_status run_sort(nnl_runtime *rt, sort_job *j)
{
    const nnl_tensor *x = j->x;
    j->size = x->ndim ? x->shape[j->dim] : 1;
    if (x->numel == 0 || j->take == 0) return NNL_OK;
    j->rows = x->numel / j->size;
    j->inner = 1;
    for (int d = (int)j->dim + 1; d < x->ndim; d++) j->inner *= x->shape[d];
    int64_t groups = NNL_MAX(1, NNL_MIN(NNL_MIN(j->rows, MAX_GROUPS), GROUP_PAIRS / j->size));
    j->group = (j->rows + groups - 1) / groups;
    groups = (j->rows + j->group - 1) / j->group;
    void *block;
    j->words = nnl_words_fit(type_of(x), j->size);
    j->scratch_bytes = 2 * (size_t)j->size * (j->words ? sizeof(uint64_t) : sizeof(pair));
    size_t bytes = (size_t)groups * j->scratch_bytes;
    NNL_TRY(nnl_alloc(rt, bytes, &block));
    j->scratch = block;
    nnl_status status = NNL_OK;
    if (x->numel > NNL_SERIAL_WORK / 16) status = nnl_parallel(rt, groups, sort_task, j);
    else for (int64_t i = 0; i < groups; i++) sort_task(j, i);
    if (status == NNL_OK) status = nnl_poll_cancel(rt);
    nnl_free(rt, block, bytes);
    return status;
}

static nnl_status sort_infer(nnl_call *c)
{
    nnl_spec_like(&c->spec[0], c->in[0]);
    nnl_spec_like(&c->spec[1], c->in[0]);
    c->spec[1].dtype = NNL_I64;
    return NNL_OK;
}

/* Attributes dim, descending. */
static nnl_status sort_run(nnl_call *c)
{
    sort_job j = {.x = c->in[0], .values = c->out[0], .places = c->out[1], .dim = c->attr[0].as.i, .base = c->index_base,
                  .flip = c->attr[1].as.i ? UINT64_MAX : 0};
    j.take = j.x->ndim ? j.x->shape[j.dim] : 1;
    return run_sort(c->rt, &j);
}

/* Places in output 1, dim in the attribute. */
static void places_grad(nnl_grad *g, const nnl_value *dim)
{
    const nnl_layout *x = &g->in_layout[0];
    if (g->dy[0]) g->dx[0] = DO_WITH(g->s, gather_backward, (*dim, V_INTS(x->ndim, x->shape)), g->dy[0], g->out[1]);
}

static void sort_grad(nnl_grad *g) { places_grad(g, &g->attr[0]); }

NNL_OP(sort,
    .sig = "input:any, dim:dim=-1, descending:flag=false, stable:flag=true -> values:same, places:i64",
    .doc = "The elements in order along dim, and the places where they stood.  Equal elements keep their order; NaN counts as "
           "largest.",
    .example = "local values, places = nn.tensor({3, 1, 2}):sort()",
    .infer = sort_infer,
    .run = sort_run,
    .grad = sort_grad,
    .saves = NNL_SAVE_OUTPUT(1),
    .sample = "input:5^; input:3x4^ dim=1; input:2x5x3^ dim=2 descending=true");

static nnl_status argsort_infer(nnl_call *c)
{
    nnl_spec_like(&c->spec[0], c->in[0]);
    c->spec[0].dtype = NNL_I64;
    return NNL_OK;
}

static nnl_status argsort_run(nnl_call *c)
{
    sort_job j = {.x = c->in[0], .places = c->out[0], .dim = c->attr[0].as.i, .base = c->index_base,
                  .flip = c->attr[1].as.i ? UINT64_MAX : 0};
    j.take = j.x->ndim ? j.x->shape[j.dim] : 1;
    return run_sort(c->rt, &j);
}

NNL_OP(argsort,
    .sig = "input:any, dim:dim=-1, descending:flag=false, stable:flag=true -> i64",
    .doc = "The places of the elements in order along dim: sort's second result.",
    .example = "nn.tensor({3, 1, 2}):argsort()",
    .infer = argsort_infer,
    .run = argsort_run,
    NNL_NO_GRAD("places are whole numbers"),
    .sample = "input:5^; input:3x4^ dim=1; input:2x5x3^ dim=2 descending=true");

/* Attributes k, dim, largest, sorted. */
static nnl_status topk_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    int64_t k = c->attr[0].as.i, dim = c->attr[1].as.i, size = x->ndim ? x->shape[dim] : 1;
    char text[NNL_NAMED_TEXT];
    if (k > size)
        return nnl_call_fail(c, NNL_EINVAL, "k is %lld, but %s has %lld elements in dimension %lld", (long long)k,
                             nnl_call_input_text(c, 0, text), (long long)size, (long long)dim + c->index_base);
    NNL_TRY(sort_infer(c));
    if (x->ndim > 0) c->spec[0].shape[dim] = c->spec[1].shape[dim] = k;
    return NNL_OK;
}

static nnl_status topk_run(nnl_call *c)
{
    sort_job j = {.x = c->in[0], .values = c->out[0], .places = c->out[1], .dim = c->attr[1].as.i, .base = c->index_base,
                  .flip = c->attr[2].as.i ? UINT64_MAX : 0, .take = c->in[0]->ndim ? c->attr[0].as.i : 1};
    return run_sort(c->rt, &j);
}

static void topk_grad(nnl_grad *g) { places_grad(g, &g->attr[1]); }

NNL_OP(topk,
    .sig = "input:any, k:size, dim:dim=-1, largest:flag=true, sorted:flag=true -> values:same, places:i64",
    .doc = "The k largest elements along dim (the smallest with largest = false) in order, and their places.  NaN counts as "
           "largest; of equal elements the first come first.",
    .example = "local values, places = nn.tensor({3, 1, 2}):topk(2)",
    .infer = topk_infer,
    .run = topk_run,
    .grad = topk_grad,
    .saves = NNL_SAVE_OUTPUT(1),
    .sample = "input:5^ k=2; input:9x4^ dim=1 k=1; input:2x5x3^ dim=2 k=3 largest=false");

/* ---------------------------------------------------------------- median */

static nnl_status median_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    bool along = nnl_given(&c->attr[0]), keepdim = c->attr[1].as.i;
    nnl_spec *spec = &c->spec[0];
    char text[NNL_NAMED_TEXT];
    bool nothing = along ? x->ndim > 0 && x->shape[c->attr[0].as.i] == 0 : x->numel == 0;
    if (nothing) return nnl_call_fail(c, NNL_ESHAPE, "%s has no elements to choose from", nnl_call_input_text(c, 0, text));
    if (!along) NNL_TRY(nnl_call_results(c, 1));
    spec->dtype = type_of(x);
    spec->ndim = 0;
    for (int d = 0; d < x->ndim; d++) {
        bool goes = !along || d == c->attr[0].as.i;
        if (!goes || keepdim) spec->shape[spec->ndim++] = goes ? 1 : x->shape[d];
    }
    if (!along) return NNL_OK;
    c->spec[1] = *spec;
    c->spec[1].dtype = NNL_I64;
    return NNL_OK;
}

static nnl_status median_run(nnl_call *c)
{
    nnl_tensor *x = c->in[0], *flat = NULL;
    sort_job j = {.x = x, .values = c->out[0], .places = c->n_out > 1 ? c->out[1] : NULL, .dim = c->attr[0].as.i,
                  .take = 1, .base = c->index_base, .median = true};
    if (c->n_out == 1) {
        NNL_TRY(nnl_tensor_new(c->rt, type_of(x), 1, &x->numel, &flat));
        nnl_spec spec;
        nnl_tensor *shaped;
        int64_t strides[NNL_MAX_DIMS];
        nnl_spec_like(&spec, x);
        nnl_strides_contiguous(x->ndim, x->shape, strides);
        nnl_spec_view(&spec, strides, 0);
        nnl_status status = nnl_tensor_make(c->rt, &spec, flat, &shaped);
        if (status == NNL_OK) {
            status = nnl_copy(shaped, x);
            nnl_tensor_unref(shaped);
        }
        if (status != NNL_OK) {
            nnl_tensor_unref(flat);
            return status;
        }
        j.x = flat;
        j.dim = 0;
    }
    nnl_status status = run_sort(c->rt, &j);
    nnl_tensor_unref(flat);
    return status;
}

static void median_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0];
    int64_t shape[NNL_MAX_DIMS];
    if (!g->dy[0]) return;
    for (int d = 0; d < x->ndim; d++) shape[d] = nnl_given(&g->attr[0]) && d != g->attr[0].as.i ? x->shape[d] : 1;
    nnl_tensor *dy = nnl_reshaped(g->s, g->dy[0], x->ndim, shape);
    if (nnl_given(&g->attr[0])) {
        nnl_tensor *places = nnl_reshaped(g->s, g->out[1], x->ndim, shape);
        g->dx[0] = DO_WITH(g->s, gather_backward, (g->attr[0], V_INTS(x->ndim, x->shape)), dy, places);
    } else {
        nnl_tensor *y = nnl_expanded(g->s, nnl_reshaped(g->s, g->out[0], x->ndim, shape), x->ndim, x->shape);
        g->dx[0] = DO(g->s, mul, dy, DO_WITH(g->s, extreme_share, (V_NONE), g->in[0], y));
    }
}

NNL_OP(median,
    .sig = "input:any, dim:dim?, keepdim:flag=false -> values:same, places:i64",
    .doc = "The middle element in order, the lower one of two; with dim along that dimension, and its place.  NaN if there is "
           "one.  Without dim the gradient is shared evenly among equal elements.",
    .example = "nn.tensor({3, 1, 2}):median()",
    .infer = median_infer,
    .run = median_run,
    .grad = median_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_OUTPUT(0) | NNL_SAVE_OUTPUT(1),
    .sample = "input:5^; input:3x4^ dim=1; input:2x5x3^ dim=2 keepdim=true");

/* ---------------------------------------------------------------- distinct values */

/* Whether sorted element i differs from the one before; NaN differs from NaN. */
static bool is_new(nnl_dtype dtype, const pair *a, int64_t i)
{
    return i == 0 || a[i].key != a[i - 1].key || (nnl_is_float(dtype) && a[i].key == UINT64_MAX);
}

/* Sorted pairs into distinct values, where each element's value is found, and how often each occurs. */
static nnl_status make_unique(nnl_call *c, const nnl_tensor *x, const pair *a)
{
    int64_t n = x->numel, distinct = 0;
    bool inverse = c->attr[1].as.i, counts = c->attr[2].as.i;
    size_t width = nnl_dtype_size(type_of(x));
    for (int64_t i = 0; i < n; i++) distinct += is_new(type_of(x), a, i);
    NNL_TRY(nnl_call_results(c, 1 + inverse + counts));
    NNL_TRY(nnl_call_make(c, 0, type_of(x), 1, &distinct));
    if (inverse) NNL_TRY(nnl_call_make(c, 1, NNL_I64, x->ndim, x->shape));
    if (counts) NNL_TRY(nnl_call_make(c, 1 + inverse, NNL_I64, 1, &distinct));
    int64_t at = -1, *found = inverse ? ints(c->out[1]) : NULL, *count = counts ? ints(c->out[1 + inverse]) : NULL;
    for (int64_t i = 0; i < n; i++) {
        if (is_new(type_of(x), a, i)) {
            memcpy(c->out[0]->data + ++at * (int64_t)width, x->data + a[i].place * (int64_t)width, width);
            if (count) count[at] = 0;
        }
        if (found) found[a[i].place] = at + c->index_base;
        if (count) count[at]++;
    }
    return NNL_OK;
}

static nnl_status unique_infer(nnl_call *c)
{
    nnl_tensor *x;
    void *block;
    NNL_TRY(nnl_dense(c->in[0], &x));
    size_t bytes = 2 * (size_t)x->numel * sizeof(pair);
    nnl_status status = nnl_alloc(c->rt, bytes, &block);
    if (status == NNL_OK) {
        pair *a = block;
        read_pairs(c->rt, type_of(x), x->data, (int64_t)nnl_dtype_size(type_of(x)), x->numel, 0, a);
        sort_pairs(c->rt, a, a + x->numel, x->numel);
        status = nnl_poll_cancel(c->rt);
        if (status == NNL_OK) status = make_unique(c, x, a);
        nnl_free(c->rt, block, bytes);
    }
    nnl_tensor_unref(x);
    return status;
}

NNL_OP(unique,
    .sig = "input:any, sorted:flag=true, return_inverse:flag=false, return_counts:flag=false -> values:same, inverse:i64, counts:i64",
    .doc = "The distinct elements in order; with return_inverse also where in them each element is found, with return_counts "
           "how often each occurs.  Every NaN is a value of its own.",
    .example = "local values, counts = nn.tensor({3, 1, 3}):unique({return_counts = true})",
    .infer = unique_infer,
    NNL_NO_GRAD("the choice of elements jumps"),
    .sample = "input:8<4>; input:3x4<5> return_inverse=true return_counts=true",
    .traits = NNL_COMPLETE_RUN);

/* ---------------------------------------------------------------- places in a sorted sequence */

static nnl_status searchsorted_infer(nnl_call *c)
{
    const nnl_tensor *sequence = c->in[0], *x = c->in[1];
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    bool fits = sequence->ndim == 1 || (sequence->ndim == x->ndim && sequence->ndim > 0);
    for (int d = 0; d < sequence->ndim - 1 && fits; d++) fits = sequence->shape[d] == x->shape[d];
    if (!fits)
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have one dimension, or agree with %s in all but the last",
                             nnl_call_input_text(c, 0, a), nnl_call_input_text(c, 1, b));
    nnl_spec_set(&c->spec[0], NNL_I64, x->ndim, x->shape);
    return NNL_OK;
}

/* How many of the n sorted elements stand before key (with right: before those that are larger). */
static int64_t search(nnl_dtype dtype, const char *x, int64_t n, uint64_t key, bool right)
{
    int64_t low = 0, width = (int64_t)nnl_dtype_size(dtype);
    while (n > 0) {
        int64_t half = n / 2;
        uint64_t at = key_of(dtype, x + (low + half) * width);
        bool before = right ? at <= key : at < key;
        low += before ? half + 1 : 0;
        n = before ? n - half - 1 : half;
    }
    return low;
}

static nnl_status searchsorted_run(nnl_call *c)
{
    nnl_tensor *sequence, *x;
    bool right = c->attr[0].as.i;
    NNL_TRY(nnl_dense(c->in[0], &sequence));
    nnl_status status = nnl_dense(c->in[1], &x);
    if (status == NNL_OK) {
        nnl_dtype dtype = type_of(x);
        int64_t width = (int64_t)nnl_dtype_size(dtype), n = sequence->shape[sequence->ndim - 1];
        int64_t row = sequence->ndim > 1 ? x->shape[x->ndim - 1] : 0;
        for (int64_t i = 0; i < x->numel; i++) {
            const char *from = sequence->data + (row ? i / row * n * width : 0);
            ints(c->out[0])[i] = search(dtype, from, n, key_of(dtype, x->data + i * width), right) + c->index_base;
        }
        nnl_tensor_unref(x);
    }
    nnl_tensor_unref(sequence);
    return status;
}

NNL_OP(searchsorted,
    .sig = "sorted_sequence:any, input:any|scalar, right:flag=false -> i64",
    .doc = "Where each element of input would be put into a sequence sorted along its last dimension: before equal ones, or with "
           "right behind them.",
    .example = "nn.searchsorted(nn.tensor({1, 3, 5}), nn.tensor({3, 6}))",
    .infer = searchsorted_infer,
    .run = searchsorted_run,
    NNL_NO_GRAD("places are whole numbers"),
    .sample = "sorted_sequence:5<1> input:3x4[0,2]; sorted_sequence:5<1> input=1.5 right=true",
    .traits = NNL_PROMOTE);
