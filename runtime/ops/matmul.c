/* Products of vectors and matrices. */
#include "op.h"
#include "dense.h"
#include "gemm.h"

#include <string.h>

/* ---------------------------------------------------------------- running */

/* One operand: how a stack of matrices lies in memory. */
typedef struct stack {
    const nnl_tensor *t;
    nnl_tensor *copy;              /* contiguous one, when t's layout suits no product */
    bool trans;
    int64_t ld, batch[NNL_MAX_DIMS]; /* steps of the batch dimensions, 0 where broadcast */
} stack;

/* Rows one behind the other, or columns (then it is the transpose that lies in rows). */
static bool find_layout(const nnl_tensor *t, bool *trans, int64_t *ld)
{
    int64_t rows = t->shape[t->ndim - 2], columns = t->shape[t->ndim - 1];
    int64_t row_step = t->strides[t->ndim - 2], column_step = t->strides[t->ndim - 1];
    if ((columns <= 1 || column_step == 1) && (rows <= 1 || row_step >= columns)) {
        *trans = false;
        *ld = rows <= 1 ? NNL_MAX(columns, 1) : row_step;
        return true;
    }
    if ((rows <= 1 || row_step == 1) && (columns <= 1 || column_step >= rows)) {
        *trans = true;
        *ld = columns <= 1 ? NNL_MAX(rows, 1) : column_step;
        return true;
    }
    return false;
}

static nnl_status prepare(stack *s, nnl_tensor *t, bool transposed, int batch_dims, const int64_t *batch_shape)
{
    s->t = t;
    s->copy = NULL;
    bool narrow = nnl_is_int((nnl_dtype)t->dtype) && t->dtype != NNL_I64;
    if (narrow || !find_layout(t, &s->trans, &s->ld)) {
        nnl_spec spec;
        nnl_spec_like(&spec, t);
        if (narrow) spec.dtype = NNL_I64;
        NNL_TRY(nnl_copy_as(&spec, t, &s->copy));
        s->t = s->copy;
        find_layout(s->copy, &s->trans, &s->ld);
    }
    s->trans ^= transposed;
    int missing = batch_dims - (t->ndim - 2);
    for (int d = 0; d < batch_dims; d++)
        s->batch[d] = d < missing || (s->t->shape[d - missing] == 1 && batch_shape[d] != 1) ? 0 : s->t->strides[d - missing];
    return NNL_OK;
}

/* Joins batch dimensions that one step walks in both operands (the result is contiguous). */
static int join_batch(int dims, int64_t *shape, stack *a, stack *b)
{
    int last = 0;
    for (int d = 1; d < dims; d++) {
        bool joins = a->batch[last] == a->batch[d] * shape[d] && b->batch[last] == b->batch[d] * shape[d];
        if (joins) {
            shape[last] *= shape[d];
        } else {
            shape[++last] = shape[d];
        }
        a->batch[last] = a->batch[d];
        b->batch[last] = b->batch[d];
    }
    return dims > 0 ? last + 1 : 0;
}

/* Integers are multiplied as i64, plainly: they are counts and masks, not networks. */
static void integer_matrix(int64_t *out, const int64_t *a, const int64_t *b, const nnl_gemm_call *call)
{
    for (int64_t i = 0; i < call->m; i++) {
        for (int64_t j = 0; j < call->n; j++) {
            uint64_t sum = 0; /* wraps around, as torch's does */
            for (int64_t k = 0; k < call->k; k++) {
                int64_t x = a[call->trans_a ? k * call->lda + i : i * call->lda + k];
                int64_t y = b[call->trans_b ? j * call->ldb + k : k * call->ldb + j];
                sum += (uint64_t)x * (uint64_t)y;
            }
            out[i * call->ldc + j] = (int64_t)sum;
        }
    }
}

static nnl_status multiply(nnl_runtime *rt, const nnl_gemm_call *call)
{
    if (call->dtype != NNL_I64) return nnl_gemm(rt, call);
    for (int64_t i = 0; i < call->batch; i++)
        integer_matrix((int64_t *)call->c + i * call->stride_c, (const int64_t *)call->a + i * call->stride_a,
                       (const int64_t *)call->b + i * call->stride_b, call);
    return NNL_OK;
}

/* The products along the last of the joined batch dimensions, at their first matrices. */
static nnl_gemm_call describe(const nnl_tensor *out, const stack *a, bool trans_a, const stack *b, int dims, int64_t inner)
{
    int64_t m = out->shape[out->ndim - 2], n = out->shape[out->ndim - 1];
    return (nnl_gemm_call){
        .dtype = (nnl_dtype)out->dtype, .trans_a = a->trans, .trans_b = b->trans, .m = m, .n = n,
        .k = a->t->shape[a->t->ndim - (trans_a ? 2 : 1)], .a = a->t->data, .lda = a->ld, .b = b->t->data, .ldb = b->ld,
        .ldc = NNL_MAX(n, 1), .alpha = 1, .batch = inner, .stride_a = dims > 0 ? a->batch[dims - 1] : 0,
        .stride_b = dims > 0 ? b->batch[dims - 1] : 0, .stride_c = m * n,
    };
}

/* out (contiguous, batch dimensions then m x n) = act(alpha A B + bias).  A and B have two dimensions or more. */
static nnl_status activated(nnl_tensor *out, nnl_tensor *a, bool trans_a, nnl_tensor *b, bool trans_b,
                            const nnl_tensor *bias, double alpha, bool accumulate, nnl_activation activation)
{
    if (nnl_is_int((nnl_dtype)out->dtype) && out->dtype != NNL_I64) {
        nnl_tensor *wide;
        nnl_spec spec;
        nnl_spec_like(&spec, out);
        spec.dtype = NNL_I64;
        NNL_TRY(nnl_tensor_make(out->rt, &spec, NULL, &wide));
        nnl_status wide_status = activated(wide, a, trans_a, b, trans_b, NULL, 1, false, NNL_ACT_NONE);
        if (wide_status == NNL_OK) wide_status = nnl_copy(out, wide);
        nnl_tensor_unref(wide);
        return wide_status;
    }
    int64_t shape[NNL_MAX_DIMS];
    int dims = out->ndim - 2;
    memcpy(shape, out->shape, sizeof(int64_t) * (size_t)NNL_MAX(dims, 0));
    stack sa, sb = {.copy = NULL};
    nnl_status status = prepare(&sa, a, trans_a, dims, shape);
    if (status == NNL_OK) status = prepare(&sb, b, trans_b, dims, shape);
    dims = join_batch(dims, shape, &sa, &sb);
    int64_t inner = dims > 0 ? shape[dims - 1] : 1, outer = 1;
    for (int d = 0; d < dims - 1; d++) outer *= shape[d];
    size_t width = nnl_dtype_size((nnl_dtype)out->dtype);
    nnl_gemm_call call = describe(out, &sa, trans_a, &sb, dims, inner);
    call.accumulate = accumulate;
    call.activation = activation;
    call.alpha = alpha;
    call.bias = bias ? bias->data : NULL;
    for (int64_t i = 0; i < outer && status == NNL_OK && out->numel > 0; i++) {
        int64_t rest = i, offset_a = 0, offset_b = 0;
        for (int d = dims - 2; d >= 0; d--) {
            offset_a += rest % shape[d] * sa.batch[d];
            offset_b += rest % shape[d] * sb.batch[d];
            rest /= shape[d];
        }
        call.a = sa.t->data + offset_a * (int64_t)width;
        call.b = sb.t->data + offset_b * (int64_t)width;
        call.c = out->data + i * inner * call.stride_c * (int64_t)width;
        status = multiply(out->rt, &call);
    }
    nnl_tensor_unref(sa.copy);
    nnl_tensor_unref(sb.copy);
    return status;
}

static nnl_status product(nnl_tensor *out, nnl_tensor *a, bool trans_a, nnl_tensor *b, bool trans_b,
                          const nnl_tensor *bias, double alpha, bool accumulate)
{
    return activated(out, a, trans_a, b, trans_b, bias, alpha, accumulate, NNL_ACT_NONE);
}

/* t seen with another shape; only for tensors whose layout allows it. */
static nnl_status seen_as(nnl_tensor *t, int ndim, const int64_t *shape, const int64_t *strides, nnl_tensor **out)
{
    nnl_spec spec = {.dtype = (nnl_dtype)t->dtype};
    nnl_spec_set(&spec, spec.dtype, ndim, shape);
    nnl_spec_view(&spec, strides, 0);
    return nnl_tensor_make(t->rt, &spec, t, out);
}

/* ---------------------------------------------------------------- run again and again */

static nnl_status run_ready_pair(nnl_ready *r)
{
    const nnl_call *c = r->call;
    return nnl_gemm_run(c->rt, r->plan, c->in[0]->data, c->in[1]->data, c->out[0]->data, NULL);
}

static nnl_status run_ready_linear(nnl_ready *r)
{
    const nnl_call *c = r->call;
    const nnl_tensor *bias = c->in[2];
    return nnl_gemm_run(c->rt, r->plan, c->in[0]->data, c->in[1]->data, c->out[0]->data, bias ? bias->data : NULL);
}

/* Makes a plan of the product of in[0] and in[1], seen as a and b, into out[0], seen as out, if that is one call of
 * nnl_gemm(); else r stays as it is. */
static nnl_status make_ready(nnl_ready *r, nnl_status (*run)(nnl_ready *), const nnl_tensor *out, nnl_tensor *a, bool trans_a,
                             nnl_tensor *b, bool trans_b)
{
    stack sa, sb;
    bool trans;
    int64_t ld, shape[NNL_MAX_DIMS];
    if (!nnl_is_float((nnl_dtype)out->dtype) || out->numel == 0 || !find_layout(a, &trans, &ld) || !find_layout(b, &trans, &ld))
        return NNL_OK;
    int dims = out->ndim - 2;
    memcpy(shape, out->shape, sizeof(int64_t) * (size_t)dims);
    NNL_TRY(prepare(&sa, a, trans_a, dims, shape));
    NNL_TRY(prepare(&sb, b, trans_b, dims, shape));
    dims = join_batch(dims, shape, &sa, &sb);
    if (dims > 1) return NNL_OK;
    nnl_gemm_call call = describe(out, &sa, trans_a, &sb, dims, dims > 0 ? shape[0] : 1);
    call.activation = r->call->relu ? NNL_ACT_RELU : NNL_ACT_NONE;
    nnl_gemm_plan *plan;
    NNL_TRY(nnl_gemm_ready(out->rt, &call, r->fixed & 2u, &plan, &r->plan_bytes));
    r->plan = plan;
    r->run = run;
    return NNL_OK;
}

/* t's header with another shape, at the same place. */
static nnl_tensor header(const nnl_tensor *t, int ndim, const int64_t *shape, const int64_t *strides)
{
    nnl_tensor view = *t;
    view.ndim = (uint8_t)ndim;
    memcpy(view.shape, shape, sizeof(int64_t) * (size_t)ndim);
    memcpy(view.strides, strides, sizeof(int64_t) * (size_t)ndim);
    return view;
}

static nnl_status mismatch(nnl_call *c, int64_t columns, int64_t rows)
{
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    return nnl_call_fail(c, NNL_ESHAPE, "%s has %lld columns, but %s has %lld rows", nnl_call_input_text(c, 0, a),
                         (long long)columns, nnl_call_input_text(c, 1, b), (long long)rows);
}

static nnl_status wrong_ndim(nnl_call *c, int place, int wanted)
{
    char text[NNL_NAMED_TEXT];
    return nnl_call_fail(c, NNL_ESHAPE, "%s must have %d dimension%s", nnl_call_input_text(c, place, text), wanted,
                         wanted == 1 ? "" : "s");
}

/* ---------------------------------------------------------------- two matrices, either transposed */

static nnl_status gemm_infer(nnl_call *c)
{
    const nnl_tensor *a = c->in[0], *b = c->in[1];
    bool trans_a = c->attr[0].as.i, trans_b = c->attr[1].as.i;
    for (int i = 0; i < 2; i++) {
        if (c->in[i]->ndim != 2) return wrong_ndim(c, i, 2);
    }
    if (a->shape[!trans_a] != b->shape[trans_b]) return mismatch(c, a->shape[!trans_a], b->shape[trans_b]);
    nnl_spec_set(&c->spec[0], (nnl_dtype)a->dtype, 2, (int64_t[]){a->shape[trans_a], b->shape[!trans_b]});
    return NNL_OK;
}

static nnl_status gemm_run(nnl_call *c)
{
    return product(c->out[0], c->in[0], c->attr[0].as.i, c->in[1], c->attr[1].as.i, NULL, 1, false);
}

static nnl_status gemm_ready(nnl_ready *r)
{
    nnl_call *c = r->call;
    return make_ready(r, run_ready_pair, c->out[0], c->in[0], c->attr[0].as.i, c->in[1], c->attr[1].as.i);
}

/* Y = A B:  dA = dY B^T,  dB = A^T dY; with transposes accordingly. */
static void gemm_grad(nnl_grad *g)
{
    bool ta = g->attr[0].as.i, tb = g->attr[1].as.i;
    nnl_tensor *a = g->in[0], *b = g->in[1], *dy = g->dy[0];
    if (g->needs[0]) {
        g->dx[0] = ta ? DO_WITH(g->s, gemm, (V_FLAG(tb), V_FLAG(true)), b, dy)
                      : DO_WITH(g->s, gemm, (V_FLAG(false), V_FLAG(!tb)), dy, b);
    }
    if (g->needs[1]) {
        g->dx[1] = tb ? DO_WITH(g->s, gemm, (V_FLAG(true), V_FLAG(ta)), dy, a)
                      : DO_WITH(g->s, gemm, (V_FLAG(!ta), V_FLAG(false)), a, dy);
    }
}

NNL_OP(gemm,
    .sig = "input:float, other:float, trans_a:flag=false, trans_b:flag=false -> same",
    .doc = "The product of two matrices, each transposed first if asked for.",
    .infer = gemm_infer,
    .run = gemm_run,
    .ready = gemm_ready,
    .grad = gemm_grad,
    .saves = NNL_SAVE_INPUTS | NNL_SAVE_CROSS,
    .sample = "input:3x4 other:4x2; input:4x3 other:2x4 trans_a=true trans_b=true",
    .traits = NNL_PROMOTE | NNL_HIDDEN);

static nnl_status mm_infer(nnl_call *c)
{
    for (int i = 0; i < 2; i++) {
        if (c->in[i]->ndim != 2) return wrong_ndim(c, i, 2);
    }
    if (c->in[0]->shape[1] != c->in[1]->shape[0]) return mismatch(c, c->in[0]->shape[1], c->in[1]->shape[0]);
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->in[0]->dtype, 2, (int64_t[]){c->in[0]->shape[0], c->in[1]->shape[1]});
    return NNL_OK;
}

static nnl_status plain_run(nnl_call *c) { return product(c->out[0], c->in[0], false, c->in[1], false, NULL, 1, false); }

static nnl_status plain_ready(nnl_ready *r)
{
    nnl_call *c = r->call;
    return make_ready(r, run_ready_pair, c->out[0], c->in[0], false, c->in[1], false);
}

static void mm_grad(nnl_grad *g)
{
    if (g->needs[0]) g->dx[0] = DO_WITH(g->s, gemm, (V_FLAG(false), V_FLAG(true)), g->dy[0], g->in[1]);
    if (g->needs[1]) g->dx[1] = DO_WITH(g->s, gemm, (V_FLAG(true), V_FLAG(false)), g->in[0], g->dy[0]);
}

NNL_OP(mm,
    .sig = "input:number, mat2:number -> same",
    .doc = "The product of two matrices: n x m times m x p gives n x p.",
    .example = "nn.ones(2, 3):mm(nn.ones(3, 4))",
    .infer = mm_infer,
    .run = plain_run,
    .ready = plain_ready,
    .grad = mm_grad,
    .saves = NNL_SAVE_INPUTS | NNL_SAVE_CROSS,
    .sample = "input:3x4 mat2:4x2",
    .traits = NNL_PROMOTE);

/* ---------------------------------------------------------------- stacks of matrices, vectors too */

static nnl_status bmm_infer(nnl_call *c)
{
    const nnl_tensor *a = c->in[0], *b = c->in[1];
    char ta[NNL_NAMED_TEXT], tb[NNL_NAMED_TEXT];
    for (int i = 0; i < 2; i++) {
        if (c->in[i]->ndim != 3) return wrong_ndim(c, i, 3);
    }
    if (a->shape[0] != b->shape[0])
        return nnl_call_fail(c, NNL_ESHAPE, "%s has %lld matrices, but %s has %lld", nnl_call_input_text(c, 0, ta),
                             (long long)a->shape[0], nnl_call_input_text(c, 1, tb), (long long)b->shape[0]);
    if (a->shape[2] != b->shape[1]) return mismatch(c, a->shape[2], b->shape[1]);
    nnl_spec_set(&c->spec[0], (nnl_dtype)a->dtype, 3, (int64_t[]){a->shape[0], a->shape[1], b->shape[2]});
    return NNL_OK;
}

static nnl_tensor *transposed(nnl_scope *s, nnl_tensor *t)
{
    if (!t) return NULL;
    return DO_WITH(s, transpose, (V_INT(t->ndim - 2), V_INT(t->ndim - 1)), t);
}

static void bmm_grad(nnl_grad *g)
{
    if (g->needs[0]) g->dx[0] = DO(g->s, bmm, g->dy[0], transposed(g->s, g->in[1]));
    if (g->needs[1]) g->dx[1] = DO(g->s, bmm, transposed(g->s, g->in[0]), g->dy[0]);
}

NNL_OP(bmm,
    .sig = "input:number, mat2:number -> same",
    .doc = "Products of two stacks of matrices: b x n x m times b x m x p gives b x n x p.",
    .example = "nn.ones(5, 2, 3):bmm(nn.ones(5, 3, 4))",
    .infer = bmm_infer,
    .run = plain_run,
    .ready = plain_ready,
    .grad = bmm_grad,
    .saves = NNL_SAVE_INPUTS | NNL_SAVE_CROSS,
    .sample = "input:2x3x4 mat2:2x4x2",
    .traits = NNL_PROMOTE);

/* A vector on the left is a row, on the right a column; the dimension that it lacks is not in the result. */
static nnl_status matmul_infer(nnl_call *c)
{
    const nnl_tensor *a = c->in[0], *b = c->in[1];
    nnl_spec *spec = &c->spec[0];
    char text[NNL_NAMED_TEXT], other[NNL_NAMED_TEXT];
    for (int i = 0; i < 2; i++) {
        if (c->in[i]->ndim == 0)
            return nnl_call_fail(c, NNL_ESHAPE, "%s must have 1 dimension or more; * multiplies elementwise",
                                 nnl_call_input_text(c, i, text));
    }
    int64_t k = a->shape[a->ndim - 1], rows = b->shape[b->ndim > 1 ? b->ndim - 2 : 0];
    if (k != rows) return mismatch(c, k, rows);
    spec->dtype = (nnl_dtype)a->dtype;
    spec->ndim = NNL_MAX(a->ndim - 2, 0);
    memcpy(spec->shape, a->shape, sizeof(int64_t) * (size_t)spec->ndim);
    if (!nnl_broadcast(&spec->ndim, spec->shape, NNL_MAX(b->ndim - 2, 0), b->shape))
        return nnl_call_fail(c, NNL_ESHAPE, "the batch dimensions of %s and %s do not broadcast",
                             nnl_call_input_text(c, 0, text), nnl_call_input_text(c, 1, other));
    if (spec->ndim + 2 > NNL_MAX_DIMS) return nnl_call_fail(c, NNL_ESHAPE, "too many dimensions");
    if (a->ndim > 1) spec->shape[spec->ndim++] = a->shape[a->ndim - 2];
    if (b->ndim > 1) spec->shape[spec->ndim++] = b->shape[b->ndim - 1];
    return NNL_OK;
}

/* With a matrix on the right, all rows on the left are one long matrix, whatever their layout: the bits of a product depend
 * on its number of rows. */
static bool folds(const nnl_tensor *a, const nnl_tensor *b) { return b->ndim == 2 && a->ndim > 2; }

/* The operands and the result of matmul seen as matrices: the headers of three tensors.  An input 0 that folds is contiguous. */
static void matmul_headers(const nnl_call *c, const nnl_tensor *input, nnl_tensor *a, nnl_tensor *b, nnl_tensor *out)
{
    *a = *input;
    *b = *c->in[1];
    *out = *c->out[0];
    int64_t k = a->shape[a->ndim - 1], shape[NNL_MAX_DIMS], strides[NNL_MAX_DIMS];
    if (folds(a, b)) {
        int64_t rows = k > 0 ? a->numel / k : nnl_shape_numel(a->ndim - 1, a->shape), n = b->shape[1];
        *a = header(a, 2, (int64_t[]){rows, k}, (int64_t[]){k, 1});
        *out = header(out, 2, (int64_t[]){rows, n}, (int64_t[]){n, 1});
        return;
    }
    bool row = a->ndim == 1, column = b->ndim == 1;
    if (!row && !column) return;
    /* The result with the dropped dimensions put back. */
    int batch = out->ndim - !row - !column;
    memcpy(shape, out->shape, sizeof(int64_t) * (size_t)batch);
    shape[batch] = row ? 1 : a->shape[a->ndim - 2];
    shape[batch + 1] = column ? 1 : b->shape[b->ndim - 1];
    nnl_strides_contiguous(batch + 2, shape, strides);
    *out = header(out, batch + 2, shape, strides);
    if (row) *a = header(a, 2, (int64_t[]){1, k}, (int64_t[]){k * a->strides[0], a->strides[0]});
    if (column) *b = header(b, 2, (int64_t[]){k, 1}, (int64_t[]){b->strides[0], 1});
}

static nnl_status matmul_run(nnl_call *c)
{
    nnl_tensor a, b, out, *dense = NULL;
    if (folds(c->in[0], c->in[1])) NNL_TRY(nnl_dense(c->in[0], &dense));
    matmul_headers(c, dense ? dense : c->in[0], &a, &b, &out);
    nnl_status status = product(&out, &a, false, &b, false, NULL, 1, false);
    nnl_tensor_unref(dense);
    return status;
}

static nnl_status matmul_ready(nnl_ready *r)
{
    nnl_tensor a, b, out, *input = r->call->in[0];
    if (folds(input, r->call->in[1]) && !input->contiguous) return NNL_OK;
    matmul_headers(r->call, input, &a, &b, &out);
    return make_ready(r, run_ready_pair, &out, &a, false, &b, false);
}

static nnl_tensor *as_matrix(nnl_scope *s, nnl_tensor *t, bool column)
{
    if (!t || t->ndim != 1) return t;
    return nnl_reshaped(s, t, 2, column ? (int64_t[]){t->shape[0], 1} : (int64_t[]){1, t->shape[0]});
}

static void matmul_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    const nnl_layout *la = &g->in_layout[0], *lb = &g->in_layout[1], *ly = &g->out_layout[0];
    nnl_tensor *a = as_matrix(s, g->in[0], false), *b = as_matrix(s, g->in[1], true), *dy = g->dy[0];
    if (la->ndim == 1 || lb->ndim == 1) {
        int64_t shape[NNL_MAX_DIMS];
        int batch = ly->ndim - (la->ndim > 1) - (lb->ndim > 1);
        memcpy(shape, ly->shape, sizeof(int64_t) * (size_t)batch);
        shape[batch] = la->ndim > 1 ? la->shape[la->ndim - 2] : 1;
        shape[batch + 1] = lb->ndim > 1 ? lb->shape[lb->ndim - 1] : 1;
        dy = nnl_reshaped(s, dy, batch + 2, shape);
    }
    if (g->needs[0]) {
        nnl_tensor *da = DO(s, matmul, dy, transposed(s, b));
        /* Sizes of broadcast batches are summed by the engine; the row of a vector goes with a reshape. */
        if (la->ndim == 1 && da) {
            int64_t dims[NNL_MAX_DIMS];
            for (int d = 0; d < da->ndim - 1; d++) dims[d] = d;
            da = DO_WITH(s, sum, (V_INTS(da->ndim - 1, dims), V_FLAG(false)), da);
        }
        g->dx[0] = da;
    }
    if (g->needs[1]) {
        nnl_tensor *db;
        if (lb->ndim == 2 && la->ndim > 2 && a && dy) { /* one product over all rows, not a batch to be summed */
            int64_t rows = nnl_shape_numel(la->ndim - 1, la->shape);
            db = DO_WITH(s, gemm, (V_FLAG(true), V_FLAG(false)), nnl_reshaped(s, a, 2, (int64_t[]){rows, la->shape[la->ndim - 1]}),
                         nnl_reshaped(s, dy, 2, (int64_t[]){rows, lb->shape[1]}));
        } else {
            db = DO(s, matmul, transposed(s, a), dy);
        }
        if (lb->ndim == 1 && db) {
            int64_t dims[NNL_MAX_DIMS];
            int count = 0;
            for (int d = 0; d < db->ndim; d++) {
                if (d != db->ndim - 2) dims[count++] = d;
            }
            db = DO_WITH(s, sum, (V_INTS(count, dims), V_FLAG(false)), db);
        }
        g->dx[1] = db;
    }
}

NNL_OP(matmul,
    .sig = "input:number, other:number -> same",
    .doc = "The matrix product over the last two dimensions; dimensions before them broadcast.  A vector on the left is a "
           "row, on the right a column, and the result lacks that dimension.",
    .example = "nn.ones(5, 2, 3):matmul(nn.ones(3, 4))",
    .infer = matmul_infer,
    .run = matmul_run,
    .ready = matmul_ready,
    .grad = matmul_grad,
    .saves = NNL_SAVE_INPUTS | NNL_SAVE_CROSS,
    .sample = "input:3x4 other:4x2; input:4 other:4; input:4 other:4x3; input:2x3x4 other:4; input:2x3x4 other:4x2; "
              "input:2x1x3x4 other:3x4x2",
    .traits = NNL_PROMOTE);

/* ---------------------------------------------------------------- vectors */

static nnl_status vectors_infer(nnl_call *c, int a_dims, int b_dims)
{
    if (c->in[0]->ndim != a_dims) return wrong_ndim(c, 0, a_dims);
    if (c->in[1]->ndim != b_dims) return wrong_ndim(c, 1, b_dims);
    return NNL_OK;
}

static nnl_status mv_infer(nnl_call *c)
{
    NNL_TRY(vectors_infer(c, 2, 1));
    return matmul_infer(c);
}

NNL_OP(mv,
    .sig = "input:number, vec:number -> same",
    .doc = "The product of a matrix and a vector: n x m times m gives n.",
    .example = "nn.ones(2, 3):mv(nn.ones(3))",
    .infer = mv_infer,
    .run = matmul_run,
    .ready = matmul_ready,
    .grad = matmul_grad,
    .saves = NNL_SAVE_INPUTS | NNL_SAVE_CROSS,
    .sample = "input:3x4 vec:4",
    .traits = NNL_PROMOTE);

static nnl_status dot_infer(nnl_call *c)
{
    NNL_TRY(vectors_infer(c, 1, 1));
    return matmul_infer(c);
}

NNL_OP(dot,
    .sig = "input:number, other:number -> same",
    .doc = "The sum of the products of two vectors' elements, 0-d.",
    .example = "nn.ones(3):dot(nn.ones(3))",
    .infer = dot_infer,
    .run = matmul_run,
    .ready = matmul_ready,
    .grad = matmul_grad,
    .saves = NNL_SAVE_INPUTS | NNL_SAVE_CROSS,
    .sample = "input:4 other:4",
    .traits = NNL_PROMOTE);

static nnl_status outer_infer(nnl_call *c)
{
    NNL_TRY(vectors_infer(c, 1, 1));
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->in[0]->dtype, 2, (int64_t[]){c->in[0]->numel, c->in[1]->numel});
    return NNL_OK;
}

static nnl_status outer_run(nnl_call *c)
{
    nnl_tensor *a = c->in[0], *column;
    NNL_TRY(seen_as(a, 2, (int64_t[]){a->numel, 1}, (int64_t[]){a->strides[0], 1}, &column));
    nnl_status status = nnl_map_run(c->rt, NNL_MAP_mul, 2, (nnl_tensor *[]){column, c->in[1]}, c->out[0], NULL);
    nnl_tensor_unref(column);
    return status;
}

static void outer_grad(nnl_grad *g)
{
    if (g->needs[0]) g->dx[0] = DO(g->s, matmul, g->dy[0], g->in[1]);
    if (g->needs[1]) g->dx[1] = DO(g->s, matmul, g->in[0], g->dy[0]);
}

NNL_OP(outer,
    .sig = "input:number, vec2:number -> same",
    .doc = "All products of two vectors' elements: n and m elements give n x m.",
    .example = "nn.arange(1, 3):to(\"f32\"):outer(nn.ones(2))",
    .infer = outer_infer,
    .run = outer_run,
    .grad = outer_grad,
    .saves = NNL_SAVE_INPUTS | NNL_SAVE_CROSS,
    .sample = "input:3 vec2:4",
    .traits = NNL_PROMOTE);

/* ---------------------------------------------------------------- with a sum */

static nnl_status addmm_infer(nnl_call *c)
{
    char a[NNL_NAMED_TEXT], out[NNL_SHAPE_TEXT];
    const nnl_tensor *m1 = c->in[1], *m2 = c->in[2];
    for (int i = 1; i < 3; i++) {
        if (c->in[i]->ndim != 2) return wrong_ndim(c, i, 2);
    }
    if (m1->shape[1] != m2->shape[0])
        return nnl_call_fail(c, NNL_ESHAPE, "mat1 has %lld columns, but mat2 has %lld rows", (long long)m1->shape[1],
                             (long long)m2->shape[0]);
    nnl_spec *spec = &c->spec[0];
    nnl_spec_set(spec, (nnl_dtype)m1->dtype, 2, (int64_t[]){m1->shape[0], m2->shape[1]});
    int64_t shape[NNL_MAX_DIMS] = {spec->shape[0], spec->shape[1]};
    int ndim = 2;
    if (!nnl_broadcast(&ndim, shape, c->in[0]->ndim, c->in[0]->shape) || ndim != 2 || shape[0] != spec->shape[0] || shape[1] != spec->shape[1])
        return nnl_call_fail(c, NNL_ESHAPE, "%s does not broadcast to the product (%s)", nnl_call_input_text(c, 0, a),
                             nnl_shape_text(out, 2, spec->shape));
    return NNL_OK;
}

/* The product first: its factors may be the target of a call in place. */
static nnl_status integer_addmm(nnl_call *c)
{
    nnl_tensor *factors, *out = c->out[0];
    double alpha = nnl_value_double(&c->attr[1]), scale[] = {nnl_value_double(&c->attr[0]), 0};
    nnl_spec spec;
    nnl_spec_like(&spec, out);
    NNL_TRY(nnl_tensor_make(c->rt, &spec, NULL, &factors));
    nnl_status status = product(factors, c->in[1], false, c->in[2], false, NULL, 1, false);
    if (status == NNL_OK) status = nnl_map_run(c->rt, NNL_MAP_scale_shift, 1, &c->in[0], out, scale);
    if (status == NNL_OK) status = nnl_map_run(c->rt, NNL_MAP_add_scaled, 2, (nnl_tensor *[]){out, factors}, out, &alpha);
    nnl_tensor_unref(factors);
    return status;
}

static nnl_status addmm_run(nnl_call *c)
{
    if (nnl_is_int((nnl_dtype)c->out[0]->dtype)) return integer_addmm(c);
    double beta = nnl_value_double(&c->attr[0]), alpha = nnl_value_double(&c->attr[1]);
    nnl_tensor *out = c->out[0];
    bool inplace = out == c->in[0];
    nnl_tensor *target = out;
    if (inplace) { /* the factors may be the target itself: the product goes beside it */
        nnl_spec spec;
        nnl_spec_like(&spec, out);
        NNL_TRY(nnl_tensor_make(c->rt, &spec, NULL, &target));
    }
    nnl_status status = NNL_OK;
    if (beta != 0) {
        double param[] = {beta, 0};
        status = nnl_map_run(c->rt, NNL_MAP_scale_shift, 1, &c->in[0], target, param);
    }
    if (status == NNL_OK) status = product(target, c->in[1], false, c->in[2], false, NULL, alpha, beta != 0);
    if (inplace) {
        if (status == NNL_OK) status = nnl_copy(out, target);
        nnl_tensor_unref(target);
    }
    return status;
}

static void addmm_grad(nnl_grad *g)
{
    double beta = nnl_value_double(&g->attr[0]), alpha = nnl_value_double(&g->attr[1]);
    nnl_scope *s = g->s;
    if (g->needs[0]) g->dx[0] = beta == 1 ? g->dy[0] : nnl_scaled(s, g->dy[0], beta);
    nnl_tensor *dy = alpha == 1 ? g->dy[0] : nnl_scaled(s, g->dy[0], alpha);
    if (g->needs[1]) g->dx[1] = DO_WITH(s, gemm, (V_FLAG(false), V_FLAG(true)), dy, g->in[2]);
    if (g->needs[2]) g->dx[2] = DO_WITH(s, gemm, (V_FLAG(true), V_FLAG(false)), g->in[1], dy);
}

NNL_OP(addmm,
    .sig = "input:number, mat1:number, mat2:number, beta:num=1, alpha:num=1 -> same",
    .doc = "beta * input + alpha * (mat1 times mat2); input broadcasts to the product's shape.",
    .example = "nn.ones(4):addmm(nn.ones(2, 3), nn.ones(3, 4))",
    .infer = addmm_infer,
    .run = addmm_run,
    .grad = addmm_grad,
    .saves = NNL_SAVE_INPUT(1) | NNL_SAVE_INPUT(2),
    .sample = "input:3x2 mat1:3x4 mat2:4x2; input:2 mat1:3x4 mat2:4x2 beta=0.5 alpha=2",
    .traits = NNL_PROMOTE | NNL_INPLACE_OK);

/* ---------------------------------------------------------------- bilinear */

static nnl_status bilinear_infer(nnl_call *c)
{
    const nnl_tensor *w = c->in[2], *bias = c->in[3];
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    if (w->ndim != 3) return wrong_ndim(c, 2, 3);
    for (int i = 0; i < 2; i++) {
        const nnl_tensor *x = c->in[i];
        if (x->ndim == 0 || x->shape[x->ndim - 1] != w->shape[i + 1])
            return nnl_call_fail(c, NNL_ESHAPE, "%s has %lld features, but %s wants %lld", nnl_call_input_text(c, i, a),
                                 x->ndim ? (long long)x->shape[x->ndim - 1] : 0LL, nnl_call_input_text(c, 2, b),
                                 (long long)w->shape[i + 1]);
    }
    if (c->in[0]->ndim != c->in[1]->ndim || memcmp(c->in[0]->shape, c->in[1]->shape, sizeof(int64_t) * (size_t)(c->in[0]->ndim - 1)) != 0)
        return nnl_call_fail(c, NNL_ESHAPE, "%s and %s must agree but for the last dimension", nnl_call_input_text(c, 0, a),
                             nnl_call_input_text(c, 1, b));
    if (bias && (bias->ndim != 1 || bias->shape[0] != w->shape[0]))
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have %lld elements, one for each output feature",
                             nnl_call_input_text(c, 3, a), (long long)w->shape[0]);
    return NNL_OK;
}

static void bilinear_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    const nnl_value equation = {NNL_KIND_STRING, 0, {.s = "...i,oij,...j->...o"}};
    nnl_tensor *y = nnl_do(s, &nnl_op_einsum, 3, (nnl_tensor *[]){d->in[0], d->in[2], d->in[1]}, 1, &equation);
    d->out[0] = d->in[3] ? DO(s, add, y, d->in[3]) : y;
}

NNL_OP(bilinear,
    .sig = "input1:float, input2:float, weight:float, bias:float? -> same",
    .doc = "y_o = input1^T W_o input2 + b_o over the last dimension: ... x in1 and ... x in2 with weight out x in1 x in2 give "
           "... x out.",
    .example = "nn.F.bilinear(nn.ones(2, 3), nn.ones(2, 4), nn.ones(5, 3, 4))",
    .infer = bilinear_infer,
    .define = bilinear_define,
    .sample = "input1:2x3 input2:2x4 weight:5x3x4 bias:5; input1:3 input2:4 weight:2x3x4",
    .traits = NNL_PROMOTE);

/* ---------------------------------------------------------------- a linear layer */

static nnl_status linear_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0], *w = c->in[1], *bias = c->in[2];
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    if (w->ndim != 2) return wrong_ndim(c, 1, 2);
    if (x->ndim == 0 || x->shape[x->ndim - 1] != w->shape[1])
        return nnl_call_fail(c, NNL_ESHAPE, "%s has %lld features, but weight (%s) wants %lld", nnl_call_input_text(c, 0, a),
                             x->ndim ? (long long)x->shape[x->ndim - 1] : 0LL, nnl_shape_text(b, 2, w->shape), (long long)w->shape[1]);
    if (bias && (bias->ndim != 1 || bias->shape[0] != w->shape[0]))
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have %lld elements, one for each output feature",
                             nnl_call_input_text(c, 2, a), (long long)w->shape[0]);
    nnl_spec_like(&c->spec[0], x);
    c->spec[0].shape[x->ndim - 1] = w->shape[0];
    return NNL_OK;
}

static nnl_status linear_run(nnl_call *c)
{
    nnl_tensor *x = c->in[0], *w = c->in[1], *bias = c->in[2], *out = c->out[0];
    nnl_tensor *matrix = NULL, *flat = NULL, *dense = NULL, *dense_bias = NULL;
    int64_t k = w->shape[1], n = w->shape[0];
    nnl_status status = NNL_OK;
    if (x->ndim != 2) { /* all rows as one matrix */
        int64_t rows = nnl_shape_numel(x->ndim - 1, x->shape), strides[2];
        if (!nnl_reshape_strides(x->ndim, x->shape, x->strides, 2, (int64_t[]){rows, k}, strides)) {
            NNL_TRY(nnl_dense(x, &dense));
            strides[0] = k;
            strides[1] = 1;
        }
        status = seen_as(dense ? dense : x, 2, (int64_t[]){rows, k}, strides, &matrix);
        if (status == NNL_OK) status = seen_as(out, 2, (int64_t[]){rows, n}, (int64_t[]){NNL_MAX(n, 1), 1}, &flat);
    }
    if (bias && status == NNL_OK) status = nnl_dense(bias, &dense_bias);
    if (status == NNL_OK)
        status = activated(flat ? flat : out, matrix ? matrix : x, false, w, true, dense_bias, 1, false,
                           c->relu ? NNL_ACT_RELU : NNL_ACT_NONE);
    nnl_tensor_unref(matrix);
    nnl_tensor_unref(flat);
    nnl_tensor_unref(dense);
    nnl_tensor_unref(dense_bias);
    return status;
}

static nnl_status linear_ready(nnl_ready *r)
{
    const nnl_call *c = r->call;
    nnl_tensor *x = c->in[0], *w = c->in[1], *bias = c->in[2], *out = c->out[0];
    int64_t k = w->shape[1], n = w->shape[0], rows = nnl_shape_numel(x->ndim - 1, x->shape), strides[2];
    if ((bias && !bias->contiguous) || !nnl_reshape_strides(x->ndim, x->shape, x->strides, 2, (int64_t[]){rows, k}, strides))
        return NNL_OK;
    nnl_tensor matrix = header(x, 2, (int64_t[]){rows, k}, strides);
    nnl_tensor flat = header(out, 2, (int64_t[]){rows, n}, (int64_t[]){NNL_MAX(n, 1), 1});
    return make_ready(r, run_ready_linear, &flat, &matrix, false, w, true);
}

static void linear_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    const nnl_layout *lx = &g->in_layout[0], *lw = &g->in_layout[1];
    int64_t rows = nnl_shape_numel(lx->ndim - 1, lx->shape);
    nnl_tensor *x = g->in[0], *dy = g->dy[0];
    if (lx->ndim != 2) {
        dy = nnl_reshaped(s, dy, 2, (int64_t[]){rows, lw->shape[0]});
        if (g->needs[1]) x = nnl_reshaped(s, x, 2, (int64_t[]){rows, lw->shape[1]});
    }
    if (g->needs[0]) {
        nnl_tensor *dx = DO(s, gemm, dy, g->in[1]);
        g->dx[0] = lx->ndim != 2 ? nnl_reshaped(s, dx, lx->ndim, lx->shape) : dx;
    }
    if (g->needs[1]) g->dx[1] = DO_WITH(s, gemm, (V_FLAG(true), V_FLAG(false)), dy, x);
    if (g->n_in > 2 && g->needs[2]) g->dx[2] = DO_WITH(s, sum, (V_INTS(1, (int64_t[]){0}), V_FLAG(false)), dy);
}

NNL_OP(linear,
    .sig = "input:float, weight:float, bias:float? -> same",
    .doc = "input weight^T + bias over the last dimension: ... x in_features with weight out_features x in_features gives "
           "... x out_features.",
    .example = "nn.F.linear(nn.ones(2, 3), nn.ones(4, 3), nn.zeros(4))",
    .infer = linear_infer,
    .run = linear_run,
    .ready = linear_ready,
    .grad = linear_grad,
    .saves = NNL_SAVE_INPUTS | NNL_SAVE_CROSS,
    .sample = "input:3x4 weight:2x4 bias:2; input:2x3x4 weight:5x4; input:4 weight:2x4 bias:2",
    .traits = NNL_PROMOTE | NNL_TAKES_RELU);
