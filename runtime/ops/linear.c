/* The products of layers: linear and bilinear, over the last dimension, with a bias. */
#include "dense.h"
#include "product.h"
#include "window.h"

#include <string.h>

static nnl_status linear_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0], *w = c->in[1], *bias = c->in[2];
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    if (w->ndim != 2) return nnl_call_wrong_ndim(c, 1, 2);
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

/* Of linear_add, too. */
enum { IN_INPUT, IN_WEIGHT, IN_BIAS, IN_RESIDUAL };

static const nnl_tensor *residual_of(const nnl_call *c) { return c->n_in > IN_RESIDUAL ? c->in[IN_RESIDUAL] : NULL; }

static const void *data_of(const nnl_tensor *t) { return t ? t->data : NULL; }

static nnl_status linear_run(nnl_call *c)
{
    nnl_tensor *w = c->in[1], *out = c->out[0], *dense = NULL, *bias = NULL;
    nnl_tensor x = *c->in[0], y = *out;
    int64_t k = w->shape[1], n = w->shape[0];
    if (x.ndim != 2) { /* all rows as one matrix */
        int64_t rows = nnl_shape_numel(x.ndim - 1, x.shape), strides[2];
        if (!nnl_reshape_strides(x.ndim, x.shape, x.strides, 2, (int64_t[]){rows, k}, strides)) {
            NNL_TRY(nnl_dense(c->in[0], &dense));
            x = *dense;
            strides[0] = k;
            strides[1] = 1;
        }
        x = nnl_window(&x, x.data, 2, (int64_t[]){rows, k}, strides);
        y = nnl_window(out, out->data, 2, (int64_t[]){rows, n}, (int64_t[]){NNL_MAX(n, 1), 1});
    }
    nnl_status status = c->in[2] ? nnl_dense(c->in[2], &bias) : NNL_OK;
    if (status == NNL_OK)
        status = nnl_product_with(&y, &x, false, w, true, bias, residual_of(c), NNL_BESIDE_PLUS, 1, false,
                                  c->relu ? NNL_ACT_RELU : NNL_ACT_NONE);
    nnl_tensor_unref(dense);
    nnl_tensor_unref(bias);
    return status;
}

static nnl_status run_ready_linear(nnl_ready *r)
{
    const nnl_call *c = r->call;
    return nnl_gemm_run(c->rt, r->plan, c->in[IN_INPUT]->data, c->in[IN_WEIGHT]->data, c->out[0]->data, data_of(c->in[IN_BIAS]),
                        data_of(residual_of(c)));
}

static nnl_status linear_ready(nnl_ready *r)
{
    const nnl_call *c = r->call;
    nnl_tensor *x = c->in[0], *w = c->in[1], *bias = c->in[2], *out = c->out[0];
    int64_t k = w->shape[1], n = w->shape[0], rows = nnl_shape_numel(x->ndim - 1, x->shape), strides[2];
    if ((bias && !bias->contiguous) || !nnl_reshape_strides(x->ndim, x->shape, x->strides, 2, (int64_t[]){rows, k}, strides))
        return NNL_OK;
    nnl_tensor matrix = nnl_window(x, x->data, 2, (int64_t[]){rows, k}, strides);
    nnl_tensor flat = nnl_window(out, out->data, 2, (int64_t[]){rows, n}, (int64_t[]){NNL_MAX(n, 1), 1});
    return nnl_product_ready(r, run_ready_linear, &flat, &matrix, false, w, true, residual_of(c), NNL_BESIDE_PLUS);
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

/* ---------------------------------------------------------------- with the sum that follows in a program */

static nnl_status linear_add_infer(nnl_call *c)
{
    const nnl_tensor *residual = c->in[IN_RESIDUAL];
    char text[NNL_NAMED_TEXT], wanted[NNL_SHAPE_TEXT];
    NNL_TRY(linear_infer(c));
    if (residual->contiguous && residual->ndim == c->spec[0].ndim &&
        memcmp(residual->shape, c->spec[0].shape, sizeof(int64_t) * residual->ndim) == 0)
        return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE, "%s must be contiguous and have the result's shape %s",
                         nnl_call_input_text(c, IN_RESIDUAL, text), nnl_shape_text(wanted, c->spec[0].ndim, c->spec[0].shape));
}

static void linear_add_define(nnl_define *d)
{
    nnl_tensor *y = DO(d->s, linear, d->in[IN_INPUT], d->in[IN_WEIGHT], d->in[IN_BIAS]);
    d->out[0] = DO(d->s, add, y, d->in[IN_RESIDUAL]);
}

NNL_OP(linear_add,
    .sig = "input:float, weight:float, bias:float?, residual:float -> same",
    .doc = "linear(input, weight, bias) + residual in one pass, with the same bits: what programs make of these steps.",
    .infer = linear_add_infer,
    .run = linear_run,
    .ready = linear_ready,
    .define = linear_add_define,
    .sample = "input:3x4 weight:2x4 bias:2 residual:3x2; input:2x3x4 weight:5x4 bias:- residual:2x3x5",
    .traits = NNL_HIDDEN | NNL_TAKES_RELU);

/* ---------------------------------------------------------------- bilinear */

static nnl_status bilinear_infer(nnl_call *c)
{
    const nnl_tensor *w = c->in[2], *bias = c->in[3];
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    if (w->ndim != 3) return nnl_call_wrong_ndim(c, 2, 3);
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
