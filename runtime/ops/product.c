/* Products of stacks of matrices in any layout and number type: calls of nnl_gemm(), or plain loops
 * for integers. */
#include "product.h"

#include <string.h>

/* One operand: how a stack of matrices lies in memory. */
typedef struct stack {
    const nnl_tensor *t;
    nnl_tensor *copy; /* contiguous one, when t's layout suits no product */
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

/* Integers that are multiplied as i64. */
static bool is_narrow(const nnl_tensor *t)
{
    return nnl_is_int((nnl_dtype)t->dtype) && t->dtype != NNL_I64;
}

static nnl_status prepare(stack *s, nnl_tensor *t, bool transposed, int batch_dims,
                          const int64_t *batch_shape)
{
    s->t = t;
    s->copy = NULL;
    if (is_narrow(t) || !find_layout(t, &s->trans, &s->ld)) {
        nnl_spec spec;
        nnl_spec_like(&spec, t);
        if (is_narrow(t)) spec.dtype = NNL_I64;
        NNL_TRY(nnl_copy_as(&spec, t, &s->copy));
        s->t = s->copy;
        find_layout(s->copy, &s->trans, &s->ld);
    }
    s->trans ^= transposed;
    int missing = batch_dims - (t->ndim - 2);
    for (int d = 0; d < batch_dims; d++)
        s->batch[d] = d < missing || (s->t->shape[d - missing] == 1 && batch_shape[d] != 1)
                          ? 0
                          : s->t->strides[d - missing];
    return NNL_OK;
}

/* Joins batch dimensions that one step walks in both operands (the result is contiguous). */
static int join_batch(int dims, int64_t *shape, stack *a, stack *b)
{
    int last = 0;
    for (int d = 1; d < dims; d++) {
        bool joins =
            a->batch[last] == a->batch[d] * shape[d] && b->batch[last] == b->batch[d] * shape[d];
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
static void integer_matrix(int64_t *out, const int64_t *a, const int64_t *b,
                           const nnl_gemm_call *call)
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
        integer_matrix((int64_t *)call->c + i * call->stride_c,
                       (const int64_t *)call->a + i * call->stride_a,
                       (const int64_t *)call->b + i * call->stride_b, call);
    return NNL_OK;
}

/* The products along the last of the joined batch dimensions, at their first matrices. */
static nnl_gemm_call describe(const nnl_tensor *out, const stack *a, bool trans_a, const stack *b,
                              int dims, int64_t inner)
{
    int64_t m = out->shape[out->ndim - 2], n = out->shape[out->ndim - 1];
    return (nnl_gemm_call){
        .dtype = (nnl_dtype)out->dtype,
        .trans_a = a->trans,
        .trans_b = b->trans,
        .m = m,
        .n = n,
        .k = a->t->shape[a->t->ndim - (trans_a ? 2 : 1)],
        .a = a->t->data,
        .lda = a->ld,
        .b = b->t->data,
        .ldb = b->ld,
        .ldc = NNL_MAX(n, 1),
        .alpha = 1,
        .batch = inner,
        .stride_a = dims > 0 ? a->batch[dims - 1] : 0,
        .stride_b = dims > 0 ? b->batch[dims - 1] : 0,
        .stride_c = m * n,
    };
}

/* Every product of the stacks, from what call says of the first. */
static nnl_status multiply_stacks(nnl_tensor *out, const stack *a, const stack *b, int dims,
                                  const int64_t *shape, nnl_gemm_call *call)
{
    int64_t outer = 1, width = (int64_t)nnl_dtype_size((nnl_dtype)out->dtype);
    const char *beside = call->beside;
    for (int d = 0; d < dims - 1; d++) outer *= shape[d];
    for (int64_t i = 0; i < outer && out->numel > 0; i++) {
        int64_t rest = i, offset_a = 0, offset_b = 0;
        for (int d = dims - 2; d >= 0; d--) {
            offset_a += rest % shape[d] * a->batch[d];
            offset_b += rest % shape[d] * b->batch[d];
            rest /= shape[d];
        }
        call->a = a->t->data + offset_a * width;
        call->b = b->t->data + offset_b * width;
        call->c = out->data + i * call->batch * call->stride_c * width;
        if (beside) call->beside = beside + ((char *)call->c - out->data);
        NNL_TRY(multiply(out->rt, call));
    }
    return NNL_OK;
}

/* The product of integers narrower than i64. */
static nnl_status narrow_product(nnl_tensor *out, nnl_tensor *a, bool trans_a, nnl_tensor *b,
                                 bool trans_b)
{
    nnl_tensor *wide;
    nnl_spec spec;
    nnl_spec_like(&spec, out);
    spec.dtype = NNL_I64;
    NNL_TRY(nnl_tensor_make(out->rt, &spec, NULL, &wide));
    nnl_status status = nnl_product(wide, a, trans_a, b, trans_b);
    if (status == NNL_OK) status = nnl_copy(out, wide);
    nnl_tensor_unref(wide);
    return status;
}

nnl_status nnl_product_with(nnl_tensor *out, nnl_tensor *a, bool trans_a, nnl_tensor *b,
                            bool trans_b, const nnl_tensor *bias, const nnl_tensor *beside,
                            nnl_beside how, double alpha, bool accumulate,
                            nnl_activation activation)
{
    if (is_narrow(out)) return narrow_product(out, a, trans_a, b, trans_b);
    int64_t shape[NNL_MAX_DIMS];
    int dims = out->ndim - 2;
    memcpy(shape, out->shape, sizeof(int64_t) * (size_t)NNL_MAX(dims, 0));
    stack sa, sb = {.copy = NULL};
    nnl_status status = prepare(&sa, a, trans_a, dims, shape);
    if (status == NNL_OK) status = prepare(&sb, b, trans_b, dims, shape);
    if (status == NNL_OK) {
        dims = join_batch(dims, shape, &sa, &sb);
        nnl_gemm_call call = describe(out, &sa, trans_a, &sb, dims, dims > 0 ? shape[dims - 1] : 1);
        call.accumulate = accumulate;
        call.activation = activation;
        call.alpha = alpha;
        call.bias = bias ? bias->data : NULL;
        call.beside = beside ? beside->data : NULL;
        call.how = how;
        status = multiply_stacks(out, &sa, &sb, dims, shape, &call);
    }
    nnl_tensor_unref(sa.copy);
    nnl_tensor_unref(sb.copy);
    return status;
}

nnl_status nnl_product(nnl_tensor *out, nnl_tensor *a, bool trans_a, nnl_tensor *b, bool trans_b)
{
    return nnl_product_with(out, a, trans_a, b, trans_b, NULL, NULL, NNL_BESIDE_PLUS, 1, false,
                            NNL_ACT_NONE);
}

nnl_status nnl_product_ready(nnl_ready *r, nnl_status (*run)(nnl_ready *), const nnl_tensor *out,
                             nnl_tensor *a, bool trans_a, nnl_tensor *b, bool trans_b,
                             const nnl_tensor *beside, nnl_beside how)
{
    stack sa, sb;
    bool trans;
    int64_t ld, shape[NNL_MAX_DIMS];
    if (!nnl_is_float((nnl_dtype)out->dtype) || out->numel == 0 || !find_layout(a, &trans, &ld) ||
        !find_layout(b, &trans, &ld))
        return NNL_OK;
    int dims = out->ndim - 2;
    memcpy(shape, out->shape, sizeof(int64_t) * (size_t)dims);
    NNL_TRY(prepare(&sa, a, trans_a, dims, shape));
    NNL_TRY(prepare(&sb, b, trans_b, dims, shape));
    dims = join_batch(dims, shape, &sa, &sb);
    if (dims > 1) return NNL_OK;
    nnl_gemm_call call = describe(out, &sa, trans_a, &sb, dims, dims > 0 ? shape[0] : 1);
    call.activation = r->call->relu ? NNL_ACT_RELU : NNL_ACT_NONE;
    call.beside = beside; /* stands for its elements, which have no place yet */
    call.how = how;
    nnl_gemm_plan *plan;
    NNL_TRY(nnl_gemm_ready(out->rt, &call, r->fixed & 2u, &plan, &r->plan_bytes));
    r->plan = plan;
    r->run = run;
    return NNL_OK;
}
