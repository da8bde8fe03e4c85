/* Scaled dot product attention in tiles: scores exist for a block of queries and keys at a time only, forward
 * (softmax over blocks as they come) and backward (weights made again from each row's kept largest score and sum).
 * Dao et al., arXiv:2205.14135; Dao, arXiv:2307.08691. */
#include "composed.h"
#include "dense.h"
#include "random.h"
#include "window.h"

#include <math.h>
#include <string.h>

#define ROWS 64      /* queries of a block, ... */
#define EDGE_ROWS 32 /* (fewer where a part of the keys is not seen: less is computed in vain) */
#define COLUMNS 128  /* ... and keys: their scores stay in L1 */
#define TASK_ROWS 256 /* queries of a forward task: they share the packed keys and values */
#define LANES 16     /* workspaces at most; tasks take turns in them */
#define BACK_TASKS 8 /* least tasks of a backward call, as far as keys can be split among more */
#define SPLITS 4     /* at most */
#define ALIGN 64

enum { QUERY, KEY, VALUE, MASK, OPERANDS }; /* inputs */
enum { DROPOUT, CAUSAL, SCALE, GROUPED };   /* attributes */

static nnl_dtype type_of(const nnl_tensor *t) { return (nnl_dtype)t->dtype; }
static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* ---------------------------------------------------------------- what a call computes */

/* Matrices in a stack, an input's or a result's: rows row elements apart, elements of a row side by side. */
typedef struct operand {
    nnl_tensor *dense; /* reference, when t's rows are not */
    char *data;
    int64_t row, batch[NNL_MAX_DIMS]; /* steps; 0 where broadcast */
    int64_t group;                    /* so many heads (the last batch dimension) share a matrix */
} operand;

typedef struct attention {
    nnl_runtime *rt;
    const nnl_kernels *kernels;
    nnl_dtype dtype;
    int64_t size, panel, lanes;     /* bytes of an element; columns of gemm's tile; elements of a vector */
    int batch_dims;
    int64_t batch[NNL_MAX_DIMS], items; /* as of the result: one attention each */
    int64_t queries, keys, width, value_width;
    int64_t group;                  /* heads that share a key and value */
    double scale, dropout;
    bool causal, grouped;
    nnl_stream stream;
    operand in[OPERANDS];           /* query, key, value, mask */
    const nnl_tensor *mask;
    int64_t mask_column;            /* step along the keys */
    void (*gemm)(const nnl_gemm_block *block);
} attention;

static double scale_of(const nnl_value *scale, int64_t width)
{
    return nnl_given(scale) ? nnl_value_double(scale) : 1 / sqrt((double)width);
}

/* Heads of the query for each one of the key; 0 when key and value differ in that. */
static int64_t group_of(nnl_tensor *const *in, bool grouped)
{
    if (!grouped) return 1;
    const nnl_tensor *q = in[QUERY], *k = in[KEY], *v = in[VALUE];
    int64_t heads = k->shape[k->ndim - 3];
    if (v->shape[v->ndim - 3] != heads) return 0;
    return heads == 0 ? 1 : q->shape[q->ndim - 3] / heads;
}

/* The batch dimensions of the result; false when they do not broadcast. */
static bool batch_shape(nnl_tensor *const *in, bool grouped, int *dims, int64_t *shape)
{
    const nnl_tensor *q = in[QUERY];
    *dims = q->ndim - 2;
    memcpy(shape, q->shape, sizeof(int64_t) * (size_t)*dims);
    for (int i = KEY; i <= VALUE; i++) {
        int64_t own[NNL_MAX_DIMS];
        int count = in[i]->ndim - 2;
        memcpy(own, in[i]->shape, sizeof(int64_t) * (size_t)count);
        if (grouped) own[count - 1] = q->shape[q->ndim - 3]; /* after each head is repeated */
        if (!nnl_broadcast(dims, shape, count, own)) return false;
    }
    return true;
}

static bool side_by_side(const nnl_tensor *t) { return t->shape[t->ndim - 1] <= 1 || t->strides[t->ndim - 1] == 1; }

/* A result lies in memory as the input does that it belongs to, so that what split heads off puts them together again
 * without a copy. */
static void lay_out(nnl_spec *spec, const nnl_tensor *input)
{
    if (!input->contiguous && side_by_side(input)) nnl_spec_laid_like(spec, input);
}

static void place_operand(const attention *a, operand *o, const nnl_tensor *t, int64_t group)
{
    o->data = t->data;
    o->row = t->strides[t->ndim - 2];
    o->group = group;
    int missing = a->batch_dims - (t->ndim - 2);
    for (int d = 0; d < a->batch_dims; d++) {
        bool shared = d < missing || (t->shape[d - missing] == 1 && (group == 1 || d < a->batch_dims - 1));
        o->batch[d] = shared ? 0 : t->strides[d - missing];
    }
}

static nnl_status open_operand(const attention *a, operand *o, nnl_tensor *t, int64_t group)
{
    if (!side_by_side(t)) {
        NNL_TRY(nnl_dense(t, &o->dense));
        t = o->dense;
    }
    place_operand(a, o, t, group);
    return NNL_OK;
}

static void open_mask(attention *a, const nnl_tensor *mask)
{
    operand *o = &a->in[MASK];
    a->mask = mask;
    if (!mask) return;
    int64_t steps[NNL_MAX_DIMS];
    int missing = a->batch_dims + 2 - mask->ndim;
    for (int d = 0; d < a->batch_dims + 2; d++)
        steps[d] = d < missing || mask->shape[d - missing] == 1 ? 0 : mask->strides[d - missing];
    memcpy(o->batch, steps, sizeof(int64_t) * (size_t)a->batch_dims);
    o->data = mask->data;
    o->group = 1;
    o->row = steps[a->batch_dims];
    a->mask_column = steps[a->batch_dims + 1];
}

static void close_attention(attention *a)
{
    for (int i = 0; i < OPERANDS; i++) nnl_tensor_unref(a->in[i].dense);
}

static nnl_status open_attention(attention *a, nnl_runtime *rt, nnl_tensor *const *in, const nnl_value *attr, nnl_stream stream)
{
    const nnl_tensor *q = in[QUERY], *k = in[KEY], *v = in[VALUE];
    *a = (attention){.rt = rt, .kernels = rt->kernels, .dtype = type_of(q), .stream = stream, .items = 1};
    a->size = (int64_t)nnl_dtype_size(a->dtype);
    a->lanes = a->kernels->vector_bytes / a->size;
    a->panel = a->lanes * a->kernels->gemm_tile_vectors();
    a->gemm = a->dtype == NNL_F32 ? a->kernels->gemm_block_f32 : a->kernels->gemm_block_f64;
    a->queries = q->shape[q->ndim - 2];
    a->keys = k->shape[k->ndim - 2];
    a->width = q->shape[q->ndim - 1];
    a->value_width = v->shape[v->ndim - 1];
    a->dropout = nnl_value_double(&attr[DROPOUT]);
    a->causal = attr[CAUSAL].as.i;
    a->grouped = attr[GROUPED].as.i;
    a->scale = scale_of(&attr[SCALE], a->width);
    a->group = group_of(in, a->grouped);
    batch_shape(in, a->grouped, &a->batch_dims, a->batch);
    for (int d = 0; d < a->batch_dims; d++) a->items *= a->batch[d];
    open_mask(a, in[MASK]);
    nnl_status status = open_operand(a, &a->in[QUERY], in[QUERY], 1);
    if (status == NNL_OK) status = open_operand(a, &a->in[KEY], in[KEY], a->group);
    if (status == NNL_OK) status = open_operand(a, &a->in[VALUE], in[VALUE], a->group);
    if (status != NNL_OK) close_attention(a);
    return status;
}

/* Elements from an operand's first one to the matrix of an item. */
static int64_t place_of(const attention *a, const operand *o, int64_t item)
{
    int64_t place = 0;
    for (int d = a->batch_dims - 1; d >= 0; d--) {
        int64_t position = item % a->batch[d];
        item /= a->batch[d];
        place += (d == a->batch_dims - 1 ? position / o->group : position) * o->batch[d];
    }
    return place;
}

static char *row_of(const attention *a, const operand *o, int64_t item, int64_t row)
{
    return o->data + (place_of(a, o, item) + row * o->row) * a->size;
}

/* ---------------------------------------------------------------- checks */

static nnl_status check_sizes(nnl_call *c)
{
    const nnl_tensor *q = c->in[QUERY], *k = c->in[KEY], *v = c->in[VALUE];
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    for (int i = QUERY; i <= VALUE; i++) {
        if (c->in[i]->ndim < 2)
            return nnl_call_fail(c, NNL_ESHAPE, "%s must be ... x positions x features", nnl_call_input_text(c, i, a));
        if (c->in[i]->dtype != q->dtype)
            return nnl_call_fail(c, NNL_ETYPE, "query is %s, but %s is %s: they must be of one type",
                                 nnl_dtype_name(type_of(q)), i == KEY ? "key" : "value", nnl_dtype_name(type_of(c->in[i])));
    }
    if (k->shape[k->ndim - 1] != q->shape[q->ndim - 1])
        return nnl_call_fail(c, NNL_ESHAPE, "%s has %lld features, but %s has %lld", nnl_call_input_text(c, QUERY, a),
                             (long long)q->shape[q->ndim - 1], nnl_call_input_text(c, KEY, b), (long long)k->shape[k->ndim - 1]);
    if (k->shape[k->ndim - 2] != v->shape[v->ndim - 2])
        return nnl_call_fail(c, NNL_ESHAPE, "%s has %lld positions, but %s has %lld", nnl_call_input_text(c, KEY, a),
                             (long long)k->shape[k->ndim - 2], nnl_call_input_text(c, VALUE, b), (long long)v->shape[v->ndim - 2]);
    return NNL_OK;
}

static nnl_status check_heads(nnl_call *c)
{
    const nnl_tensor *q = c->in[QUERY];
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    for (int i = QUERY; i <= VALUE; i++) {
        const nnl_tensor *t = c->in[i];
        if (t->ndim < 3)
            return nnl_call_fail(c, NNL_ESHAPE, "%s must be ... x heads x positions x features with enable_gqa",
                                 nnl_call_input_text(c, i, a));
        int64_t heads = q->shape[q->ndim - 3], own = t->shape[t->ndim - 3];
        if (heads != own && (own == 0 || heads % own != 0))
            return nnl_call_fail(c, NNL_ESHAPE, "%s has %lld heads, which the %lld of %s do not divide",
                                 nnl_call_input_text(c, QUERY, a), (long long)heads, (long long)own, nnl_call_input_text(c, i, b));
    }
    return NNL_OK;
}

static nnl_status check_mask(nnl_call *c, int ndim, const int64_t *scores)
{
    const nnl_tensor *mask = c->in[MASK];
    char text[NNL_NAMED_TEXT], shape[NNL_SHAPE_TEXT];
    if (!mask) return NNL_OK;
    if (c->attr[CAUSAL].as.i) return nnl_call_fail(c, NNL_EINVAL, "attn_mask is given, so that is_causal cannot be true");
    if (mask->dtype != NNL_BOOL && mask->dtype != c->in[QUERY]->dtype)
        return nnl_call_fail(c, NNL_ETYPE, "attn_mask must be bool or %s as query is, but it is %s",
                             nnl_dtype_name(type_of(c->in[QUERY])), nnl_dtype_name(type_of(mask)));
    bool fits = mask->ndim <= ndim;
    for (int d = 1; fits && d <= mask->ndim; d++)
        fits = mask->shape[mask->ndim - d] == 1 || mask->shape[mask->ndim - d] == scores[ndim - d];
    if (fits) return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE, "%s does not broadcast to the scores (%s)", nnl_call_input_text(c, MASK, text),
                         nnl_shape_text(shape, ndim, scores));
}

static nnl_status attention_infer(nnl_call *c)
{
    const nnl_tensor *q = c->in[QUERY], *k = c->in[KEY], *v = c->in[VALUE];
    double p = nnl_value_double(&c->attr[DROPOUT]);
    bool grouped = c->attr[GROUPED].as.i;
    int dims;
    int64_t shape[NNL_MAX_DIMS + 2];
    if (!(p >= 0 && p <= 1)) return nnl_call_fail(c, NNL_EINVAL, "dropout_p is %g, but it must lie in [0, 1]", p);
    NNL_TRY(check_sizes(c));
    if (grouped) NNL_TRY(check_heads(c));
    if (!batch_shape(c->in, grouped, &dims, shape)) {
        char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT], d[NNL_NAMED_TEXT];
        return nnl_call_fail(c, NNL_ESHAPE, "%s, %s and %s do not broadcast but for the last two dimensions",
                             nnl_call_input_text(c, QUERY, a), nnl_call_input_text(c, KEY, b), nnl_call_input_text(c, VALUE, d));
    }
    shape[dims] = q->shape[q->ndim - 2];
    shape[dims + 1] = k->shape[k->ndim - 2];
    NNL_TRY(check_mask(c, dims + 2, shape));
    shape[dims + 1] = v->shape[v->ndim - 1];
    nnl_spec_set(&c->spec[0], type_of(q), dims + 2, shape);
    lay_out(&c->spec[0], q);
    for (int i = 1; i <= 2; i++) nnl_spec_set(&c->spec[i], type_of(q), dims + 1, shape);
    return NNL_OK;
}

/* ---------------------------------------------------------------- blocks */

/* A matrix as the right factor of gemm: where its rows lie, or packed. */
typedef struct factor {
    const char *b;
    int64_t step, panel;
} factor;

static factor packed(const attention *a, char *buffer, const char *rows, int64_t step, bool transposed, int64_t depth,
                     int64_t columns)
{
    if (a->dtype == NNL_F32)
        a->kernels->gemm_pack_f32((float *)(void *)buffer, (const float *)(const void *)rows, step, transposed, depth, columns);
    else
        a->kernels->gemm_pack_f64((double *)(void *)buffer, (const double *)(const void *)rows, step, transposed, depth, columns);
    return (factor){buffer, a->panel, depth * a->panel};
}

/* Rows whose distance would have them compete for the same sets of a cache are packed, too. */
static factor right_factor(const attention *a, char *buffer, const char *rows, int64_t step, int64_t depth, int64_t columns)
{
    bool collides = step * a->size % 1024 == 0 && step > columns;
    if (columns % a->lanes == 0 && !collides) return (factor){rows, step, a->panel};
    return packed(a, buffer, rows, step, false, depth, columns);
}

/* c (rows x columns) = alpha a b, or c + alpha a b; a is rows x depth, or stored the other way round. */
static void multiply(const attention *at, char *c, int64_t c_row, const char *a, int64_t a_step, bool transposed, factor b,
                     int64_t rows, int64_t columns, int64_t depth, double alpha, bool add)
{
    at->gemm(&(nnl_gemm_block){.rows = rows, .columns = columns, .depth = depth, .a = a, .a_row = transposed ? 1 : a_step,
                               .a_depth = transposed ? a_step : 1, .b = b.b, .b_step = b.step, .b_panel = b.panel, .c = c,
                               .c_row = c_row, .alpha = alpha, .add = add});
}

/* Queries first .. first + rows - 1 of an item against keys from .. from + columns - 1. */
typedef struct block {
    int64_t item, first, rows, from, columns;
    nnl_scores scores;
} block;

static block block_of(const attention *a, int64_t item, int64_t first, int64_t end, int64_t from)
{
    int64_t rows = a->causal && first < from + COLUMNS ? EDGE_ROWS : ROWS;
    block b = {.item = item, .first = first, .rows = NNL_MIN(rows, end - first), .from = from};
    b.columns = NNL_MIN(COLUMNS, a->keys - from);
    if (a->causal) b.columns = NNL_MIN(b.columns, first + b.rows - from);
    b.scores = (nnl_scores){.rows = b.rows, .columns = b.columns, .step = COLUMNS,
                            .seen = a->causal ? first - from : a->keys};
    return b;
}

/* What a block's scores are shifted by: the mask where it lies, or numbers made of it. */
static void find_bias(const attention *a, block *b, char *buffer)
{
    if (!a->mask) return;
    const operand *o = &a->in[MASK];
    int64_t width = (int64_t)nnl_dtype_size(type_of(a->mask));
    const char *from = o->data + (place_of(a, o, b->item) + b->first * o->row + b->from * a->mask_column) * width;
    bool boolean = a->mask->dtype == NNL_BOOL;
    if (!boolean && a->mask_column == 1) {
        b->scores.bias = from;
        b->scores.bias_step = o->row;
        return;
    }
    uint8_t one[COLUMNS];
    int64_t rows = o->row == 0 ? 1 : b->rows;
    for (int64_t r = 0; r < rows; r++, from += o->row * width) {
        char *to = buffer + r * COLUMNS * a->size;
        if (!boolean) {
            a->kernels->copy_strided((int)width, to, width, from, a->mask_column * width, b->columns);
        } else if (a->mask_column == 1) {
            a->kernels->attention_mask(a->dtype, to, (const uint8_t *)from, b->columns);
        } else {
            a->kernels->copy_strided(1, one, 1, from, a->mask_column, b->columns);
            a->kernels->attention_mask(a->dtype, to, one, b->columns);
        }
    }
    b->scores.bias = buffer;
    b->scores.bias_step = o->row == 0 ? 0 : COLUMNS;
}

/* Row r of out = in / (1 - p) where the call's numbers say keep, else 0: the weights' elements are counted in
 * row-major order. */
static void drop(const attention *a, const block *b, char *out, const char *in)
{
    uint32_t words[COLUMNS], threshold = (uint32_t)(a->dropout * 0x1p32);
    double scale = 1 / (1 - a->dropout);
    for (int64_t r = 0; r < b->rows; r++, out += COLUMNS * a->size, in += COLUMNS * a->size) {
        if (a->dropout >= 1) {
            memset(out, 0, (size_t)(b->columns * a->size));
            continue;
        }
        nnl_random_words(&a->stream, (b->item * a->queries + b->first + r) * a->keys + b->from, b->columns, words);
        if (a->dtype == NNL_F32)
            a->kernels->random_keep_f32((float *)(void *)out, (const float *)(const void *)in, words, threshold, scale, b->columns);
        else
            a->kernels->random_keep_f64((double *)(void *)out, (const double *)(const void *)in, words, threshold, scale, b->columns);
    }
}

/* ---------------------------------------------------------------- workspaces */

/* Parts of a workspace, in bytes from its beginning. */
static int64_t part(int64_t *total, int64_t bytes)
{
    int64_t at = *total;
    *total += divide_up(bytes, ALIGN) * ALIGN;
    return at;
}

static int64_t packed_bytes(const attention *a, int64_t depth, int64_t columns)
{
    return depth * divide_up(columns, a->panel) * a->panel * a->size;
}

/* Tasks i, i + lanes, ... run in lane i's workspace: no bit depends on how many there are. */
typedef struct lanes {
    void (*task)(void *context, int64_t task, char *workspace);
    void *context;
    int64_t tasks, lanes, bytes;
    char *workspaces;
} lanes;

static void run_lane(void *context, int64_t lane)
{
    const lanes *l = context;
    for (int64_t i = lane; i < l->tasks; i += l->lanes) l->task(l->context, i, l->workspaces + lane * l->bytes);
}

static nnl_status run_tasks(nnl_runtime *rt, int64_t tasks, int64_t bytes, double work,
                            void (*task)(void *context, int64_t task, char *workspace), void *context)
{
    if (tasks == 0) return NNL_OK;
    lanes l = {task, context, tasks, work < 500000 ? 1 : NNL_MIN(tasks, LANES), bytes, NULL};
    void *workspaces;
    NNL_TRY(nnl_alloc(rt, (size_t)(l.lanes * bytes), &workspaces));
    l.workspaces = workspaces;
    nnl_status status = nnl_parallel(rt, l.lanes, run_lane, &l);
    nnl_free(rt, workspaces, (size_t)(l.lanes * bytes));
    return status;
}

/* Products and sums of a product of all queries and keys. */
static double work_of(const attention *a)
{
    return (double)a->items * (double)a->queries * (double)a->keys * (double)(a->width + a->value_width);
}

/* ---------------------------------------------------------------- forward */

typedef struct forward {
    attention a;
    operand out;
    char *top, *inverse;
    int64_t row_tasks; /* of an item */
    int64_t keys, values, scores, bias, max, sum; /* parts of the workspace */
} forward;

static void forward_block(const forward *f, block *b, factor keys, factor values, char *workspace)
{
    const attention *a = &f->a;
    char *s = workspace + f->scores, *q = row_of(a, &a->in[QUERY], b->item, b->first);
    int64_t in_task = b->first % TASK_ROWS;
    char *out = row_of(a, &f->out, b->item, b->first), *max = workspace + f->max + in_task * a->size;
    double *sum = (double *)(void *)(workspace + f->sum) + in_task;
    find_bias(a, b, workspace + f->bias);
    multiply(a, s, COLUMNS, q, a->in[QUERY].row, false, keys, b->rows, b->columns, a->width, a->scale, false);
    a->kernels->attention_soften(a->dtype, &b->scores, s, out, f->out.row, a->value_width, max, sum);
    if (a->dropout > 0) drop(a, b, s, s);
    multiply(a, out, f->out.row, s, COLUMNS, false, values, b->rows, a->value_width, b->columns, 1, b->from > 0);
}

static void forward_task(void *context, int64_t task, char *workspace)
{
    const forward *f = context;
    const attention *a = &f->a;
    int64_t item = task / f->row_tasks, first = task % f->row_tasks * TASK_ROWS;
    int64_t end = NNL_MIN(first + TASK_ROWS, a->queries), last = a->causal ? NNL_MIN(a->keys, end) : a->keys;
    double *sum = (double *)(void *)(workspace + f->sum);
    for (int64_t i = 0; i < end - first; i++) {
        sum[i] = 0;
        if (a->dtype == NNL_F32) ((float *)(void *)(workspace + f->max))[i] = -INFINITY;
        else ((double *)(void *)(workspace + f->max))[i] = -INFINITY;
    }
    for (int64_t from = 0; from < last; from += COLUMNS) {
        int64_t columns = NNL_MIN(COLUMNS, last - from);
        factor keys = packed(a, workspace + f->keys, row_of(a, &a->in[KEY], item, from), a->in[KEY].row, true, a->width, columns);
        factor values = right_factor(a, workspace + f->values, row_of(a, &a->in[VALUE], item, from), a->in[VALUE].row, columns,
                                     a->value_width);
        int64_t row = a->causal ? NNL_MAX(first, from) : first;
        while (row < end) {
            block b = block_of(a, item, row, end, from);
            forward_block(f, &b, keys, values, workspace);
            row += b.rows;
        }
    }
    int64_t row = item * a->queries + first;
    a->kernels->attention_finish(a->dtype, row_of(a, &f->out, item, first), f->top + row * a->size, f->inverse + row * a->size,
                                 f->out.row, a->value_width, workspace + f->max, sum, end - first);
}

static nnl_status attention_run(nnl_call *c)
{
    forward f = {.top = c->out[1]->data, .inverse = c->out[2]->data};
    if (group_of(c->in, c->attr[GROUPED].as.i) == 0) return nnl_run_define(c);
    NNL_TRY(open_attention(&f.a, c->rt, c->in, c->attr, nnl_stream_of(c->rt, c->random)));
    const attention *a = &f.a;
    place_operand(a, &f.out, c->out[0], 1);
    int64_t bytes = 0, scores = ROWS * COLUMNS * a->size;
    f.keys = part(&bytes, packed_bytes(a, a->width, COLUMNS));
    f.values = part(&bytes, packed_bytes(a, COLUMNS, a->value_width));
    f.scores = part(&bytes, scores);
    f.bias = part(&bytes, a->mask ? scores : 0);
    f.max = part(&bytes, TASK_ROWS * a->size);
    f.sum = part(&bytes, TASK_ROWS * (int64_t)sizeof(double));
    f.row_tasks = divide_up(a->queries, TASK_ROWS);
    nnl_status status = run_tasks(c->rt, a->items * f.row_tasks, bytes, work_of(a), forward_task, &f);
    close_attention(&f.a);
    return status;
}

/* ---------------------------------------------------------------- backward */

enum { DY, FROM_QUERY }; /* inputs of the backward op: dy, those of the forward call, its results */
enum { OUT = FROM_QUERY + OPERANDS, TOP, INVERSE };
enum { CALL = GROUPED + 1, SEED };

/* A task takes every splits-th block of keys of one key head, for all queries that share it. */
typedef struct backward {
    attention a;
    operand dy, out, dq, dk, dv;
    const char *top, *inverse;
    char *partial;      /* dq of the second, third ... split */
    int64_t splits, dq_bytes;
    int64_t delta, keys, key_rows, values, queries, dy_rows, weights, dropped, grads, bias; /* parts of the workspace */
} backward;

/* The key block's factors, and where its gradients begin. */
typedef struct key_block {
    factor keys, key_rows, values;
    char *dk, *dv;
} key_block;

/* With P the weights and D their dropout: dv += (D P)^T dy, dP = D (dy v^T), dS = P (dP - delta), dk += dS^T q,
 * dq += dS k; delta_i = sum_j P_ij dP_ij = dy_i out_i. */
static void backward_block(const backward *w, block *b, const key_block *k, const char *delta, const operand *dq,
                           bool add_keys, bool add_query, char *workspace)
{
    const attention *a = &w->a;
    const operand *query = &a->in[QUERY];
    int64_t place = (b->item * a->queries + b->first) * a->size;
    char *p = workspace + w->weights, *ds = workspace + w->grads, *dropped = p;
    const char *q = row_of(a, query, b->item, b->first), *dy = row_of(a, &w->dy, b->item, b->first);
    find_bias(a, b, workspace + w->bias);
    multiply(a, p, COLUMNS, q, query->row, false, k->keys, b->rows, b->columns, a->width, a->scale, false);
    a->kernels->attention_weights(a->dtype, &b->scores, p, w->top + place, w->inverse + place);
    multiply(a, ds, COLUMNS, dy, w->dy.row, false, k->values, b->rows, b->columns, a->value_width, 1, false);
    if (a->dropout > 0) {
        dropped = workspace + w->dropped;
        drop(a, b, dropped, p);
        drop(a, b, ds, ds);
    }
    a->kernels->attention_back_scores(a->dtype, &b->scores, ds, p, delta);
    factor dy_rows = right_factor(a, workspace + w->dy_rows, dy, w->dy.row, b->rows, a->value_width);
    factor q_rows = right_factor(a, workspace + w->queries, q, query->row, b->rows, a->width);
    multiply(a, k->dv, w->dv.row, dropped, COLUMNS, true, dy_rows, b->columns, a->value_width, b->rows, 1, add_keys);
    multiply(a, k->dk, w->dk.row, ds, COLUMNS, true, q_rows, b->columns, a->width, b->rows, a->scale, add_keys);
    multiply(a, row_of(a, dq, b->item, b->first), dq->row, ds, COLUMNS, false, k->key_rows, b->rows, a->width, b->columns,
             a->scale, add_query);
}

static void clear_rows(const attention *a, char *at, int64_t row, int64_t rows, int64_t width)
{
    for (int64_t i = 0; i < rows; i++) memset(at + i * row * a->size, 0, (size_t)(width * a->size));
}

/* Packs the block's keys and values, and sets their gradients to 0 from key `covered` on. */
static key_block open_keys(const backward *w, int64_t unit, int64_t from, int64_t covered, char *workspace)
{
    const attention *a = &w->a;
    const operand *key = &a->in[KEY], *value = &a->in[VALUE];
    int64_t item = unit * a->group, columns = NNL_MIN(COLUMNS, a->keys - from);
    const char *k = row_of(a, key, item, from), *v = row_of(a, value, item, from);
    key_block b = {.dk = row_of(a, &w->dk, item, from), .dv = row_of(a, &w->dv, item, from)};
    b.keys = packed(a, workspace + w->keys, k, key->row, true, a->width, columns);
    b.key_rows = right_factor(a, workspace + w->key_rows, k, key->row, columns, a->width);
    b.values = packed(a, workspace + w->values, v, value->row, true, a->value_width, columns);
    clear_rows(a, b.dk + covered * w->dk.row * a->size, w->dk.row, columns - covered, a->width);
    clear_rows(a, b.dv + covered * w->dv.row * a->size, w->dv.row, columns - covered, a->value_width);
    return b;
}

static void backward_task(void *context, int64_t task, char *workspace)
{
    const backward *w = context;
    const attention *a = &w->a;
    int64_t unit = task / w->splits, split = task % w->splits, item = unit * a->group;
    char *delta = workspace + w->delta;
    operand dq = w->dq;
    if (split > 0) dq.data = w->partial + (split - 1) * w->dq_bytes;
    /* the first keys are seen by every query: their block writes all of dq */
    bool written = split == 0 && a->keys > 0;
    for (int64_t g = 0; g < a->group && !written; g++)
        clear_rows(a, row_of(a, &dq, item + g, 0), dq.row, a->queries, a->width);
    for (int64_t g = 0; g < a->group; g++)
        a->kernels->attention_dots(a->dtype, delta + g * a->queries * a->size, row_of(a, &w->out, item + g, 0), w->out.row,
                                   row_of(a, &w->dy, item + g, 0), w->dy.row, a->queries, a->value_width);
    for (int64_t from = split * COLUMNS; from < a->keys; from += w->splits * COLUMNS) {
        int64_t start = a->causal ? from : 0;
        int64_t covered = start < a->queries ? block_of(a, item, start, a->queries, from).columns : 0;
        key_block k = open_keys(w, unit, from, covered, workspace);
        for (int64_t g = 0; g < a->group; g++) {
            block b;
            for (int64_t row = start; row < a->queries; row += b.rows) {
                b = block_of(a, item + g, row, a->queries, from);
                backward_block(w, &b, &k, delta + (g * a->queries + row) * a->size, &dq, g > 0 || row > start,
                               !written || from > 0, workspace);
            }
        }
    }
}

static nnl_status add_partial(const backward *w, nnl_tensor *dq)
{
    for (int64_t i = 0; i < w->splits - 1; i++) {
        nnl_tensor other = nnl_window(dq, w->partial + i * w->dq_bytes, dq->ndim, dq->shape, dq->strides);
        NNL_TRY(nnl_map_run(w->a.rt, NNL_MAP_add, 2, (nnl_tensor *[]){dq, &other}, dq, (double[]){1}));
    }
    return NNL_OK;
}

/* Elements from its first to its last place. */
static int64_t extent(const nnl_tensor *t)
{
    int64_t n = t->numel > 0;
    for (int d = 0; d < t->ndim && n > 0; d++) n += (t->shape[d] - 1) * t->strides[d];
    return n;
}

static nnl_status run_backward(nnl_call *c, backward *w)
{
    const attention *a = &w->a;
    int64_t bytes = 0, scores = ROWS * COLUMNS * a->size, units = a->items / a->group;
    w->delta = part(&bytes, a->group * a->queries * a->size);
    w->keys = part(&bytes, packed_bytes(a, a->width, COLUMNS));
    w->key_rows = part(&bytes, packed_bytes(a, COLUMNS, a->width));
    w->values = part(&bytes, packed_bytes(a, a->value_width, COLUMNS));
    w->queries = part(&bytes, packed_bytes(a, ROWS, a->width));
    w->dy_rows = part(&bytes, packed_bytes(a, ROWS, a->value_width));
    w->weights = part(&bytes, scores);
    w->grads = part(&bytes, scores);
    w->dropped = part(&bytes, a->dropout > 0 ? scores : 0);
    w->bias = part(&bytes, a->mask ? scores : 0);
    w->splits = NNL_MIN(divide_up(BACK_TASKS, NNL_MAX(units, 1)), NNL_MIN(SPLITS, divide_up(a->keys, COLUMNS)));
    w->splits = NNL_MAX(w->splits, 1);
    w->dq_bytes = extent(c->out[0]) * a->size;
    size_t partial = (size_t)((w->splits - 1) * w->dq_bytes);
    void *others = NULL;
    if (partial > 0) NNL_TRY(nnl_alloc(c->rt, partial, &others));
    w->partial = others;
    nnl_status status = run_tasks(c->rt, units * w->splits, bytes, work_of(a), backward_task, w);
    if (status == NNL_OK) status = add_partial(w, c->out[0]);
    nnl_free(c->rt, others, partial);
    return status;
}

static nnl_status attention_backward_run(nnl_call *c)
{
    backward w = {.top = c->in[TOP]->data, .inverse = c->in[INVERSE]->data};
    nnl_stream stream = {c->rt->kernels, (uint64_t)c->attr[SEED].as.i, (uint64_t)c->attr[CALL].as.i};
    NNL_TRY(open_attention(&w.a, c->rt, c->in + FROM_QUERY, c->attr, stream));
    place_operand(&w.a, &w.dq, c->out[0], 1);
    place_operand(&w.a, &w.dk, c->out[1], w.a.group);
    place_operand(&w.a, &w.dv, c->out[2], w.a.group);
    nnl_status status = open_operand(&w.a, &w.out, c->in[OUT], 1);
    if (status == NNL_OK) status = open_operand(&w.a, &w.dy, c->in[DY], 1);
    if (status == NNL_OK) status = run_backward(c, &w);
    nnl_tensor_unref(w.out.dense);
    nnl_tensor_unref(w.dy.dense);
    close_attention(&w.a);
    return status;
}

static nnl_status attention_backward_infer(nnl_call *c)
{
    nnl_tensor **in = c->in + FROM_QUERY;
    const nnl_tensor *q = in[QUERY], *k = in[KEY], *v = in[VALUE];
    bool grouped = c->attr[GROUPED].as.i;
    int dims;
    int64_t shape[NNL_MAX_DIMS];
    batch_shape(in, grouped, &dims, shape);
    shape[dims] = q->shape[q->ndim - 2];
    shape[dims + 1] = q->shape[q->ndim - 1];
    nnl_spec_set(&c->spec[0], type_of(q), dims + 2, shape);
    if (grouped) shape[dims - 1] /= group_of(in, true);
    shape[dims] = k->shape[k->ndim - 2];
    nnl_spec_set(&c->spec[1], type_of(q), dims + 2, shape);
    shape[dims + 1] = v->shape[v->ndim - 1];
    nnl_spec_set(&c->spec[2], type_of(q), dims + 2, shape);
    for (int i = QUERY; i <= VALUE; i++) lay_out(&c->spec[i], in[i]);
    return NNL_OK;
}

NNL_OP(attention_backward,
    .sig = "dy:float, query:float, key:float, value:float, attn_mask:any?, out:float, top:float, "
           "inverse:float, dropout_p:num, is_causal:flag, scale:num?, enable_gqa:flag, call:int, seed:int -> dq:same, dk:same, dv:same",
    .doc = "The gradients of scaled_dot_product_attention, whose results are out, top and inverse.",
    .infer = attention_backward_infer,
    .run = attention_backward_run,
    NNL_NO_GRAD("second derivatives go by the composition"),
    .traits = NNL_HIDDEN | NNL_ROWS_APART);

static void attention_grad(nnl_grad *g)
{
    if (g->needs[MASK] || group_of(g->in, g->attr[GROUPED].as.i) == 0) {
        nnl_grad_define(g);
        return;
    }
    nnl_tensor *in[] = {g->dy[0], g->in[QUERY], g->in[KEY], g->in[VALUE], g->in[MASK], g->out[0], g->out[1], g->out[2]};
    const nnl_value attr[] = {g->attr[DROPOUT], g->attr[CAUSAL], g->attr[SCALE], g->attr[GROUPED], V_INT((int64_t)g->random),
                              V_INT((int64_t)g->seed)};
    nnl_do_many(g->s, &nnl_op_attention_backward, NNL_COUNT(in), in, NNL_COUNT(attr), attr, 3, g->dx);
}

/* ---------------------------------------------------------------- the composition */

static nnl_tensor *repeated(nnl_scope *s, nnl_tensor *t, int64_t heads)
{
    int64_t own = t->shape[t->ndim - 3];
    if (own == heads || own == 0) return t;
    return DO_WITH(s, repeat_interleave, (V_INT(heads / own), V_INT(t->ndim - 3)), t);
}

/* Scores with those of wrong positions at -infinity; *dead tells rows without any right one. */
static nnl_tensor *masked(nnl_define *d, nnl_tensor *scores, nnl_tensor **dead)
{
    nnl_scope *s = d->s;
    nnl_tensor *mask = d->in[MASK], *bottom = nnl_number(s, scores, -INFINITY);
    *dead = NULL;
    if (d->attr[CAUSAL].as.i && s->status == NNL_OK) {
        nnl_tensor *ones = nnl_full(s, NNL_BOOL, 2, scores->shape + scores->ndim - 2, 1);
        return DO(s, masked_fill, scores, DO(s, logical_not, DO(s, tril, ones)), bottom);
    }
    if (!mask) return scores;
    scores = mask->dtype == NNL_BOOL ? DO(s, masked_fill, scores, DO(s, logical_not, mask), bottom) : DO(s, add, scores, mask);
    *dead = DO_WITH(s, all, (V_INTS(1, (int64_t[]){-1}), V_FLAG(true)), DO(s, eq, scores, bottom));
    return DO(s, masked_fill, scores, *dead, nnl_number(s, scores, 0));
}

static void attention_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    nnl_tensor *q = d->in[QUERY], *k = d->in[KEY], *v = d->in[VALUE], *dead;
    bool grouped = d->attr[GROUPED].as.i;
    int dims;
    int64_t shape[NNL_MAX_DIMS], heads = grouped ? q->shape[q->ndim - 3] : 0;
    batch_shape(d->in, grouped, &dims, shape);
    shape[dims] = q->shape[q->ndim - 2];
    shape[dims + 1] = k->shape[k->ndim - 2];
    if (grouped) {
        k = repeated(s, k, heads);
        v = repeated(s, v, heads);
    }
    if (s->status != NNL_OK) return;
    k = DO_WITH(s, transpose, (V_INT(-2), V_INT(-1)), k);
    nnl_tensor *scores = nnl_scaled(s, DO(s, matmul, q, k), scale_of(&d->attr[SCALE], q->shape[q->ndim - 1]));
    scores = masked(d, nnl_expanded(s, scores, dims + 2, shape), &dead);
    nnl_tensor *weights = DO_WITH(s, softmax, (V_INT(-1)), scores);
    if (dead) weights = DO(s, masked_fill, weights, dead, nnl_number(s, weights, 0));
    if (nnl_value_double(&d->attr[DROPOUT]) > 0) /* as the dropout op does with this call's numbers */
        weights = DO_WITH(s, dropout_backward, (d->attr[DROPOUT], V_INT((int64_t)d->random), V_INT((int64_t)d->seed)), weights);
    d->out[0] = DO(s, matmul, weights, v);
}

NNL_OP(scaled_dot_product_attention,
    .sig = "query:float, key:float, value:float, attn_mask:any?, dropout_p:num=0, is_causal:flag=false, scale:num?, "
           "enable_gqa:flag=false -> same, top:same!, inverse:same!",
    .doc = "softmax(query key^T scale) value, for query ... x L x E, key ... x S x E and value ... x S x Ev; scale is "
           "1 / sqrt(E), if not given.  attn_mask broadcasts to the scores ... x L x S: bool (true takes part) or numbers that "
           "are added.  is_causal: position i sees the positions up to i.  dropout_p: of the weights, always; pass 0 outside "
           "training.  enable_gqa: dimension -3 of query is a multiple of key's and value's, whose heads serve several.  The "
           "scores are computed in tiles and never kept.  A query that sees nothing gets 0.  The result's dimensions lie in "
           "memory in query's order, so that heads split off by transpose are joined again without a copy.  Vaswani et al., "
           "arXiv:1706.03762; Dao et al., arXiv:2205.14135.",
    .example = "nn.F.scaled_dot_product_attention(nn.randn(2, 4, 5, 8), nn.randn(2, 4, 7, 8), nn.randn(2, 4, 7, 8))",
    .infer = attention_infer,
    .run = attention_run,
    .grad = attention_grad,
    .define = attention_define,
    .saves = NNL_SAVE_INPUTS | NNL_SAVE_OUTPUT(0) | NNL_SAVE_OUTPUT(1) | NNL_SAVE_OUTPUT(2),
    .sample = "query:2x3x4 key:2x5x4 value:2x5x3; query:3x4 key:3x4 value:3x2 is_causal=true scale=0.3; "
              "query:2x2x3x4 key:2x2x5x4 value:2x2x5x4 attn_mask:2x1x3x5; "
              "query:2x2x3x4 key:2x2x5x4 value:2x2x5x4 attn_mask:2x1x3x5{bool}; "
              "query:4x3x2 key:2x3x2 value:2x3x2 is_causal=true enable_gqa=true; "
              "query:2x3x4 key:2x5x4 value:2x5x3 dropout_p=0.4",
    .traits = NNL_RANDOM | NNL_NO_METHOD);
