/* Reductions over any set of dimensions. */
#include "op.h"

static nnl_status reduce_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    nnl_spec *spec = &c->spec[0];
    bool reduced[NNL_MAX_DIMS], keepdim = c->attr[1].as.i;
    nnl_dim_flags(&c->attr[0], x->ndim, reduced);
    spec->dtype = nnl_is_float((nnl_dtype)x->dtype) ? (nnl_dtype)x->dtype : NNL_I64;
    spec->ndim = 0;
    for (int d = 0; d < x->ndim; d++) {
        if (!reduced[d]) spec->shape[spec->ndim++] = x->shape[d];
        else if (keepdim) spec->shape[spec->ndim++] = 1;
    }
    return NNL_OK;
}

/* TEMPORARY FIRST CUT: one element at a time. */
static nnl_status sum_run(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    bool reduced[NNL_MAX_DIMS];
    nnl_dim_flags(&c->attr[0], x->ndim, reduced);
    nnl_tensor *out = c->out[0];
    double *acc; void *block;
    size_t bytes = (size_t)out->numel * sizeof(double);
    NNL_TRY(nnl_alloc_zeroed(c->rt, bytes, &block));
    acc = block;
    for (int64_t i = 0; i < x->numel; i++) {
        int64_t rest = i, from = 0, to = 0, step = 1;
        for (int d = x->ndim - 1; d >= 0; d--) {
            int64_t place = rest % x->shape[d];
            rest /= x->shape[d];
            from += place * x->strides[d];
            if (!reduced[d]) { to += place * step; step *= x->shape[d]; }
        }
        acc[to] += nnl_element_double(x, from);
    }
    for (int64_t i = 0; i < out->numel; i++) {
        if (out->dtype == NNL_F32) ((float *)out->data)[i] = (float)acc[i];
        else if (out->dtype == NNL_F64) ((double *)out->data)[i] = acc[i];
        else ((int64_t *)out->data)[i] = (int64_t)acc[i];
    }
    nnl_free(c->rt, block, bytes);
    return NNL_OK;
}

static void sum_grad(nnl_grad *g)
{
    g->dx[0] = nnl_unreduced(g->s, g->dy[0], &g->attr[0], g->attr[1].as.i, g->in_layout[0].ndim, g->in_layout[0].shape);
}

NNL_OP(sum,
    .sig = "input:any, dim:dim*?, keepdim:flag=false -> same",
    .doc = "Sum over the given dimensions, or over all.  Integers and bool give i64.",
    .example = "nn.ones(2, 3):sum(1)",
    .infer = reduce_infer,
    .run = sum_run,
    .grad = sum_grad);
