/* Products of vectors and matrices. */
#include "dense.h"
#include "product.h"
#include "window.h"

#include <string.h>

static nnl_status run_ready_pair(nnl_ready *r)
{
    const nnl_call *c = r->call;
    return nnl_gemm_run(c->rt, r->plan, c->in[0]->data, c->in[1]->data, c->out[0]->data, NULL, NULL);
}

static nnl_status run_ready_beside(nnl_ready *r)
{
    const nnl_call *c = r->call;
    return nnl_gemm_run(c->rt, r->plan, c->in[0]->data, c->in[1]->data, c->out[0]->data, NULL, c->in[2]->data);
}

static nnl_status mismatch(nnl_call *c, int64_t columns, int64_t rows)
{
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    return nnl_call_fail(c, NNL_ESHAPE, "%s has %lld columns, but %s has %lld rows", nnl_call_input_text(c, 0, a),
                         (long long)columns, nnl_call_input_text(c, 1, b), (long long)rows);
}

/* ---------------------------------------------------------------- two matrices, either transposed */

static nnl_status gemm_infer(nnl_call *c)
{
    const nnl_tensor *a = c->in[0], *b = c->in[1];
    bool trans_a = c->attr[0].as.i, trans_b = c->attr[1].as.i;
    for (int i = 0; i < 2; i++) {
        if (c->in[i]->ndim != 2) return nnl_call_wrong_ndim(c, i, 2);
    }
    if (a->shape[!trans_a] != b->shape[trans_b]) return mismatch(c, a->shape[!trans_a], b->shape[trans_b]);
    nnl_spec_set(&c->spec[0], (nnl_dtype)a->dtype, 2, (int64_t[]){a->shape[trans_a], b->shape[!trans_b]});
    return NNL_OK;
}

static nnl_status gemm_run(nnl_call *c)
{
    return nnl_product(c->out[0], c->in[0], c->attr[0].as.i, c->in[1], c->attr[1].as.i);
}

static nnl_status gemm_ready(nnl_ready *r)
{
    nnl_call *c = r->call;
    return nnl_product_ready(r, run_ready_pair, c->out[0], c->in[0], c->attr[0].as.i, c->in[1], c->attr[1].as.i, NULL,
                             NNL_BESIDE_PLUS);
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

/* ---------------------------------------------------------------- with the gradient that follows in a program */

enum { TRANS_A, TRANS_B, KEEPS };

static nnl_beside how_of(const nnl_call *c) { return c->attr[KEEPS].as.i ? NNL_BESIDE_KEEPS : NNL_BESIDE_TIMES; }

static nnl_status gemm_beside_infer(nnl_call *c)
{
    const nnl_tensor *beside = c->in[2];
    char text[NNL_NAMED_TEXT], wanted[NNL_SHAPE_TEXT];
    NNL_TRY(gemm_infer(c));
    const int64_t *shape = c->spec[0].shape;
    if (beside->contiguous && beside->ndim == 2 && beside->shape[0] == shape[0] && beside->shape[1] == shape[1])
        return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE, "%s must be contiguous and have the result's shape %s", nnl_call_input_text(c, 2, text),
                         nnl_shape_text(wanted, 2, shape));
}

static nnl_status gemm_beside_run(nnl_call *c)
{
    return nnl_product_with(c->out[0], c->in[0], c->attr[TRANS_A].as.i, c->in[1], c->attr[TRANS_B].as.i, NULL, c->in[2],
                            how_of(c), 1, false, NNL_ACT_NONE);
}

static nnl_status gemm_beside_ready(nnl_ready *r)
{
    nnl_call *c = r->call;
    return nnl_product_ready(r, run_ready_beside, c->out[0], c->in[0], c->attr[TRANS_A].as.i, c->in[1], c->attr[TRANS_B].as.i,
                             c->in[2], how_of(c));
}

static void gemm_beside_define(nnl_define *d)
{
    nnl_tensor *y = DO_WITH(d->s, gemm, (d->attr[TRANS_A], d->attr[TRANS_B]), d->in[0], d->in[1]);
    if (d->attr[KEEPS].as.i) d->out[0] = DO(d->s, relu_backward, y, d->in[2]);
    else d->out[0] = DO(d->s, mul, y, d->in[2]);
}

NNL_OP(gemm_beside,
    .sig = "input:float, other:float, beside:float, trans_a:flag=false, trans_b:flag=false, keeps:flag=false -> same",
    .doc = "The product of two matrices times beside, element by element; or kept where that is positive, else 0: what programs "
           "make of a product and the derivative behind it, with the same bits.",
    .infer = gemm_beside_infer,
    .run = gemm_beside_run,
    .ready = gemm_beside_ready,
    .define = gemm_beside_define,
    .sample = "input:3x4 other:4x2 beside:3x2; input:4x3 other:2x4 beside:3x2 trans_a=true trans_b=true keeps=true",
    .traits = NNL_HIDDEN);

static nnl_status mm_infer(nnl_call *c)
{
    for (int i = 0; i < 2; i++) {
        if (c->in[i]->ndim != 2) return nnl_call_wrong_ndim(c, i, 2);
    }
    if (c->in[0]->shape[1] != c->in[1]->shape[0]) return mismatch(c, c->in[0]->shape[1], c->in[1]->shape[0]);
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->in[0]->dtype, 2, (int64_t[]){c->in[0]->shape[0], c->in[1]->shape[1]});
    return NNL_OK;
}

static nnl_status plain_run(nnl_call *c) { return nnl_product(c->out[0], c->in[0], false, c->in[1], false); }

static nnl_status plain_ready(nnl_ready *r)
{
    nnl_call *c = r->call;
    return nnl_product_ready(r, run_ready_pair, c->out[0], c->in[0], false, c->in[1], false, NULL, NNL_BESIDE_PLUS);
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
        if (c->in[i]->ndim != 3) return nnl_call_wrong_ndim(c, i, 3);
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
        *a = nnl_window(a, a->data, 2, (int64_t[]){rows, k}, (int64_t[]){k, 1});
        *out = nnl_window(out, out->data, 2, (int64_t[]){rows, n}, (int64_t[]){n, 1});
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
    *out = nnl_window(out, out->data, batch + 2, shape, strides);
    if (row) *a = nnl_window(a, a->data, 2, (int64_t[]){1, k}, (int64_t[]){k * a->strides[0], a->strides[0]});
    if (column) *b = nnl_window(b, b->data, 2, (int64_t[]){k, 1}, (int64_t[]){b->strides[0], 1});
}

static nnl_status matmul_run(nnl_call *c)
{
    nnl_tensor a, b, out, *dense = NULL;
    if (folds(c->in[0], c->in[1])) NNL_TRY(nnl_dense(c->in[0], &dense));
    matmul_headers(c, dense ? dense : c->in[0], &a, &b, &out);
    nnl_status status = nnl_product(&out, &a, false, &b, false);
    nnl_tensor_unref(dense);
    return status;
}

static nnl_status matmul_ready(nnl_ready *r)
{
    nnl_tensor a, b, out, *input = r->call->in[0];
    if (folds(input, r->call->in[1]) && !input->contiguous) return NNL_OK;
    matmul_headers(r->call, input, &a, &b, &out);
    return nnl_product_ready(r, run_ready_pair, &out, &a, false, &b, false, NULL, NNL_BESIDE_PLUS);
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
    if (c->in[0]->ndim != a_dims) return nnl_call_wrong_ndim(c, 0, a_dims);
    if (c->in[1]->ndim != b_dims) return nnl_call_wrong_ndim(c, 1, b_dims);
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
    const nnl_tensor *a = c->in[0];
    nnl_tensor column = nnl_window(a, a->data, 2, (int64_t[]){a->numel, 1}, (int64_t[]){a->strides[0], 1});
    return nnl_map_run(c->rt, NNL_MAP_mul, 2, (nnl_tensor *[]){&column, c->in[1]}, c->out[0], NULL);
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
        if (c->in[i]->ndim != 2) return nnl_call_wrong_ndim(c, i, 2);
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
    nnl_status status = nnl_product(factors, c->in[1], false, c->in[2], false);
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
    if (status == NNL_OK) status = nnl_product_with(target, c->in[1], false, c->in[2], false, NULL, NULL, NNL_BESIDE_PLUS, alpha, beta != 0,
                                                          NNL_ACT_NONE);
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
