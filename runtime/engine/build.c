/* Ops applied from C inside gradients and defines, and the frequent pieces of their formulas. */
#include "engine.h"

#include <string.h>

void nnl_scope_open(nnl_scope *s, nnl_runtime *rt, int index_base)
{
    s->rt = rt;
    s->status = NNL_OK;
    s->index_base = index_base;
    s->held = s->held_;
    s->count = 0;
    s->capacity = NNL_COUNT(s->held_);
}

nnl_status nnl_scope_close(nnl_scope *s)
{
    for (int i = s->count - 1; i >= 0; i--) nnl_tensor_unref(s->held[i]);
    if (s->held != s->held_) nnl_free(s->rt, s->held, (size_t)s->capacity * sizeof(nnl_tensor *));
    s->held = s->held_;
    s->count = 0;
    return s->status;
}

void nnl_scope_fail(nnl_scope *s, nnl_status status)
{
    if (s->status == NNL_OK) s->status = status;
}

static nnl_status grow(nnl_scope *s)
{
    int capacity = s->capacity * 2;
    void *block;
    NNL_TRY(nnl_alloc(s->rt, (size_t)capacity * sizeof(nnl_tensor *), &block));
    memcpy(block, s->held, (size_t)s->count * sizeof(nnl_tensor *));
    if (s->held != s->held_) nnl_free(s->rt, s->held, (size_t)s->capacity * sizeof(nnl_tensor *));
    s->held = block;
    s->capacity = capacity;
    return NNL_OK;
}

nnl_tensor *nnl_keep(nnl_scope *s, nnl_tensor *t)
{
    if (s->count == s->capacity) {
        nnl_status status = grow(s);
        if (status != NNL_OK) {
            nnl_scope_fail(s, status);
            nnl_tensor_unref(t);
            return NULL;
        }
    }
    s->held[s->count++] = t;
    return t;
}

void nnl_do_many(nnl_scope *s, const nnl_op *op, int n_in, nnl_tensor *const *in, int n_attr,
                 const nnl_value *attr, int n_out, nnl_tensor **out)
{
    memset(out, 0, (size_t)n_out * sizeof *out);
    if (s->status != NNL_OK) return;
    int16_t start[NNL_MAX_PARAMS + 1];
    const nnl_sig *sig;
    nnl_status status = nnl_sig_of(s->rt, op, &sig);
    if (status != NNL_OK) {
        nnl_scope_fail(s, status);
        return;
    }
    if (sig->list_input) {
        /* One list takes what the other parameters leave. */
        int rest = n_in - (sig->tensors - 1);
        start[0] = 0;
        for (int p = 0; p < sig->tensors; p++)
            start[p + 1] = (int16_t)(start[p] + (sig->tensor[p]->list ? rest : 1));
    }
    nnl_request request = {.op = op,
                           .in = in,
                           .n_in = n_in,
                           .start = start,
                           .attr = attr,
                           .n_attr = n_attr,
                           .index_base = s->index_base};
    nnl_tensor *padded[NNL_MAX_PARAMS] = {NULL}; /* trailing optional tensors may be left out */
    if (!sig->list_input && n_in < sig->tensors) {
        memcpy(padded, in, (size_t)n_in * sizeof *in);
        request.in = padded;
        request.n_in = sig->tensors;
    }
    nnl_results results;
    status = nnl_request_run(s->rt, &request, &results);
    if (status != NNL_OK) {
        nnl_scope_fail(s, status);
        return;
    }
    for (int i = 0; i < results.count; i++) {
        nnl_tensor *t = nnl_keep(s, results.many[i]);
        if (i < n_out) out[i] = t;
    }
    nnl_results_free(s->rt, &results);
}

nnl_tensor *nnl_do(nnl_scope *s, const nnl_op *op, int n_in, nnl_tensor *const *in, int n_attr,
                   const nnl_value *attr)
{
    nnl_tensor *out;
    nnl_do_many(s, op, n_in, in, n_attr, attr, 1, &out);
    return out;
}

nnl_tensor *nnl_number(nnl_scope *s, const nnl_tensor *like, double value)
{
    if (s->status != NNL_OK || !like) return NULL;
    nnl_tensor *t;
    nnl_status status = nnl_tensor_scalar(s->rt, (nnl_dtype)like->dtype, V_NUM(value), &t);
    if (status != NNL_OK) {
        nnl_scope_fail(s, status);
        return NULL;
    }
    return nnl_keep(s, t);
}

nnl_tensor *nnl_scaled(nnl_scope *s, nnl_tensor *x, double scale)
{
    return DO(s, mul, x, nnl_number(s, x, scale));
}

nnl_tensor *nnl_shifted(nnl_scope *s, nnl_tensor *x, double shift)
{
    return DO_WITH(s, add, (V_NUM(1)), x, nnl_number(s, x, shift));
}

nnl_tensor *nnl_sum_dims(nnl_scope *s, nnl_tensor *x, const nnl_value *dims, bool keepdim)
{
    return DO_WITH(s, sum, (*dims, V_FLAG(keepdim)), x);
}

nnl_tensor *nnl_reshaped(nnl_scope *s, nnl_tensor *x, int ndim, const int64_t *shape)
{
    return DO_WITH(s, reshape, (V_INTS(ndim, shape)), x);
}

nnl_tensor *nnl_expanded(nnl_scope *s, nnl_tensor *x, int ndim, const int64_t *shape)
{
    return DO_WITH(s, expand, (V_INTS(ndim, shape)), x);
}

nnl_tensor *nnl_converted(nnl_scope *s, nnl_tensor *x, nnl_dtype dtype)
{
    if (!x || x->dtype == dtype) return x;
    return DO_WITH(s, to, (V_INT(dtype)), x);
}

nnl_tensor *nnl_full(nnl_scope *s, nnl_dtype dtype, int ndim, const int64_t *shape, double value)
{
    if (s->status != NNL_OK) return NULL;
    nnl_tensor *t;
    nnl_status status = value == 0 ? nnl_tensor_zeros(s->rt, dtype, ndim, shape, &t)
                                   : nnl_tensor_new(s->rt, dtype, ndim, shape, &t);
    if (status == NNL_OK && value != 0) {
        status = nnl_fill(t, V_NUM(value));
        if (status != NNL_OK) nnl_tensor_unref(t);
    }
    if (status != NNL_OK) {
        nnl_scope_fail(s, status);
        return NULL;
    }
    return nnl_keep(s, t);
}

nnl_tensor *nnl_unreduced(nnl_scope *s, nnl_tensor *x, const nnl_value *dims, bool keepdim,
                          int ndim, const int64_t *shape)
{
    if (!x) return NULL;
    if (!keepdim && ndim > 0) {
        bool reduced[NNL_MAX_DIMS];
        int64_t kept[NNL_MAX_DIMS];
        nnl_dim_flags(dims, ndim, reduced);
        for (int d = 0; d < ndim; d++) kept[d] = reduced[d] ? 1 : shape[d];
        x = nnl_reshaped(s, x, ndim, kept);
    }
    return nnl_expanded(s, x, ndim, shape);
}
