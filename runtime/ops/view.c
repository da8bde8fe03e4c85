/* Other looks at the same elements: reshape, expand, transpose and their kin. */
#include "op.h"

#include <string.h>

static nnl_status copy_run(nnl_call *c) { return nnl_copy(c->out[0], c->in[0]); }

/* ---------------------------------------------------------------- shapes */

/* The wanted shape, with one -1 filled in. */
static nnl_status wanted_shape(nnl_call *c, const nnl_value *sizes, nnl_spec *spec)
{
    const nnl_tensor *x = c->in[0];
    char text[NNL_NAMED_TEXT], wanted[NNL_SHAPE_TEXT];
    int count = sizes->kind == NNL_KIND_INTS ? sizes->count : 0, unknown = -1;
    if (count > NNL_MAX_DIMS) return nnl_call_fail(c, NNL_ESHAPE, "%d sizes given, but at most %d are possible", count, NNL_MAX_DIMS);
    int64_t product = 1;
    spec->dtype = (nnl_dtype)x->dtype;
    spec->ndim = count;
    for (int d = 0; d < count; d++) {
        int64_t size = spec->shape[d] = sizes->as.ints[d];
        if (size == -1 && unknown < 0) unknown = d;
        else if (size < 0) return nnl_call_fail(c, NNL_ESHAPE, "size %lld is negative (one size may be -1)", (long long)size);
        else if (!nnl_mul_size(product, size, &product)) product = -1;
    }
    if (unknown >= 0 && product > 0 && x->numel % product == 0) spec->shape[unknown] = x->numel / product;
    else if (unknown >= 0 || product != x->numel)
        return nnl_call_fail(c, NNL_ESHAPE, "%s has %lld elements, which do not fill %s", nnl_call_input_text(c, 0, text),
                             (long long)x->numel, nnl_shape_text(wanted, count, sizes->as.ints));
    return NNL_OK;
}

static nnl_status reshape_infer(nnl_call *c)
{
    nnl_spec *spec = &c->spec[0];
    const nnl_tensor *x = c->in[0];
    int64_t strides[NNL_MAX_DIMS];
    NNL_TRY(wanted_shape(c, &c->attr[0], spec));
    if (nnl_reshape_strides(x->ndim, x->shape, x->strides, spec->ndim, spec->shape, strides))
        nnl_spec_view(spec, strides, 0);
    return NNL_OK;
}

static void reshape_grad(nnl_grad *g)
{
    g->dx[0] = nnl_reshaped(g->s, g->dy[0], g->in_layout[0].ndim, g->in_layout[0].shape);
}

NNL_OP(reshape,
    .sig = "input:any, shape:int... -> same",
    .doc = "The same elements in row-major order as another shape: a view where the layout allows it, else a copy.  "
           "One size may be -1; no sizes make a 0-d tensor of one element.",
    .example = "nn.arange(6):reshape(2, -1)",
    .infer = reshape_infer,
    .run = copy_run,
    .grad = reshape_grad,
    .sample = "input:3x4 shape={2, 6}",
    .traits = NNL_VIEW);

static nnl_status view_infer(nnl_call *c)
{
    NNL_TRY(reshape_infer(c));
    if (c->spec[0].view) return NNL_OK;
    char text[NNL_NAMED_TEXT];
    return nnl_call_fail(c, NNL_ESHAPE, "%s is not contiguous enough to be seen as that shape; use reshape, which copies",
                         nnl_call_input_text(c, 0, text));
}

NNL_OP(view,
    .sig = "input:any, shape:int... -> same",
    .doc = "The same elements as another shape, never a copy; an error where the layout does not allow it.",
    .example = "nn.arange(6):view(2, 3)",
    .infer = view_infer,
    .grad = reshape_grad,
    .sample = "input:3x4 shape={2, 6}",
    .traits = NNL_VIEW);

static nnl_status expand_infer(nnl_call *c)
{
    nnl_spec *spec = &c->spec[0];
    const nnl_tensor *x = c->in[0];
    const nnl_value *sizes = &c->attr[0];
    int count = sizes->kind == NNL_KIND_INTS ? sizes->count : 0, extra = count - x->ndim;
    int64_t strides[NNL_MAX_DIMS];
    char text[NNL_NAMED_TEXT], wanted[NNL_SHAPE_TEXT];
    bool fits = extra >= 0 && count <= NNL_MAX_DIMS;
    spec->dtype = (nnl_dtype)x->dtype;
    spec->ndim = count;
    for (int d = 0; d < count && fits; d++) {
        int64_t size = sizes->as.ints[d], have = d < extra ? 1 : x->shape[d - extra];
        if (size == -1 && d >= extra) size = have;
        fits = size >= 0 && (have == size || have == 1);
        spec->shape[d] = size;
        strides[d] = d < extra || (have == 1 && size != 1) ? 0 : x->strides[d - extra];
    }
    if (!fits)
        return nnl_call_fail(c, NNL_ESHAPE, "%s does not expand to %s: only dimensions of size 1 grow, and new ones come first",
                             nnl_call_input_text(c, 0, text), nnl_shape_text(wanted, NNL_MIN(count, NNL_MAX_DIMS), sizes->as.ints));
    nnl_spec_view(spec, strides, 0);
    return NNL_OK;
}

/* The engine sums over what was expanded. */
static void expand_grad(nnl_grad *g) { g->dx[0] = g->dy[0]; }

NNL_OP(expand,
    .sig = "input:any, sizes:int... -> same",
    .doc = "A view in which dimensions of size 1 are repeated without memory; -1 keeps a size, new dimensions come first.",
    .example = "nn.ones(3, 1):expand(3, 4)",
    .infer = expand_infer,
    .grad = expand_grad,
    .sample = "input:3x1 sizes={2, 3, 4}",
    .traits = NNL_VIEW);

/* ---------------------------------------------------------------- order of dimensions */

static nnl_status permute_infer(nnl_call *c)
{
    nnl_spec *spec = &c->spec[0];
    const nnl_tensor *x = c->in[0];
    const nnl_value *dims = &c->attr[0];
    int64_t strides[NNL_MAX_DIMS];
    char text[NNL_NAMED_TEXT];
    int count = dims->kind == NNL_KIND_INTS ? dims->count : 0;
    if (count != x->ndim)
        return nnl_call_fail(c, NNL_ESHAPE, "%d dimensions given, but %s has %d", count, nnl_call_input_text(c, 0, text), x->ndim);
    spec->dtype = (nnl_dtype)x->dtype;
    spec->ndim = count;
    for (int d = 0; d < count; d++) {
        spec->shape[d] = x->shape[dims->as.ints[d]];
        strides[d] = x->strides[dims->as.ints[d]];
    }
    nnl_spec_view(spec, strides, 0);
    return NNL_OK;
}

static void permute_grad(nnl_grad *g)
{
    int64_t inverse[NNL_MAX_DIMS];
    for (int d = 0; d < g->attr[0].count; d++) inverse[g->attr[0].as.ints[d]] = d;
    g->dx[0] = DO_WITH(g->s, permute, (V_INTS(g->attr[0].count, inverse)), g->dy[0]);
}

NNL_OP(permute,
    .sig = "input:any, dims:dim... -> same",
    .doc = "A view with the dimensions in another order.",
    .example = "nn.ones(2, 3, 4):permute(3, 1, 2)",
    .infer = permute_infer,
    .grad = permute_grad,
    .sample = "input:2x3x4 dims={3, 1, 2}",
    .traits = NNL_VIEW);

static nnl_status transpose_infer(nnl_call *c)
{
    nnl_spec *spec = &c->spec[0];
    const nnl_tensor *x = c->in[0];
    int64_t strides[NNL_MAX_DIMS], a = c->attr[0].as.i, b = c->attr[1].as.i;
    nnl_spec_like(spec, x);
    memcpy(strides, x->strides, sizeof strides);
    if (x->ndim > 0) {
        spec->shape[a] = x->shape[b];
        spec->shape[b] = x->shape[a];
        strides[a] = x->strides[b];
        strides[b] = x->strides[a];
    }
    nnl_spec_view(spec, strides, 0);
    return NNL_OK;
}

static void transpose_grad(nnl_grad *g) { g->dx[0] = DO_WITH(g->s, transpose, (g->attr[0], g->attr[1]), g->dy[0]); }

NNL_OP(transpose,
    .sig = "input:any, dim0:dim, dim1:dim -> same",
    .doc = "A view with two dimensions exchanged.",
    .example = "nn.ones(2, 3):transpose(1, 2)",
    .infer = transpose_infer,
    .grad = transpose_grad,
    .sample = "input:2x3x4 dim0=1 dim1=3",
    .traits = NNL_VIEW);

/* ---------------------------------------------------------------- any geometry, for views changed in place */

static nnl_status as_strided_infer(nnl_call *c)
{
    nnl_spec *spec = &c->spec[0];
    nnl_spec_set(spec, (nnl_dtype)c->in[0]->dtype, c->attr[0].count, c->attr[0].as.ints);
    nnl_spec_view(spec, c->attr[1].as.ints, c->attr[2].as.i);
    return NNL_OK;
}

static void as_strided_grad(nnl_grad *g)
{
    const nnl_layout *layout = &g->in_layout[0];
    nnl_tensor *zeros = nnl_full(g->s, (nnl_dtype)layout->dtype, layout->ndim, layout->shape, 0);
    g->dx[0] = DO_WITH(g->s, as_strided_scatter, (g->attr[0], g->attr[1], g->attr[2]), zeros, g->dy[0]);
}

NNL_OP(as_strided,
    .sig = "input:any, size:int*, stride:int*, offset:int -> same",
    .doc = "A view of the storage of a contiguous tensor with any shape, strides and offset.",
    .infer = as_strided_infer,
    .grad = as_strided_grad,
    .traits = NNL_VIEW | NNL_HIDDEN);

/* input with the elements at a view's places replaced by source's.  input is contiguous. */
static nnl_status scatter_run(nnl_call *c)
{
    nnl_tensor *window;
    nnl_spec spec = {.dtype = (nnl_dtype)c->in[0]->dtype};
    NNL_TRY(nnl_copy(c->out[0], c->in[0]));
    nnl_spec_set(&spec, spec.dtype, c->attr[0].count, c->attr[0].as.ints);
    nnl_spec_view(&spec, c->attr[1].as.ints, c->attr[2].as.i);
    NNL_TRY(nnl_tensor_make(c->rt, &spec, c->out[0], &window));
    nnl_status status = nnl_copy(window, c->in[1]);
    nnl_tensor_unref(window);
    return status;
}

static void scatter_grad(nnl_grad *g)
{
    const nnl_layout *source = &g->in_layout[1];
    nnl_tensor *dy = DO(g->s, contiguous, g->dy[0]);
    if (g->needs[0]) {
        nnl_tensor *zeros = nnl_full(g->s, (nnl_dtype)source->dtype, source->ndim, source->shape, 0);
        g->dx[0] = DO_WITH(g->s, as_strided_scatter, (g->attr[0], g->attr[1], g->attr[2]), dy, zeros);
    }
    if (g->needs[1]) g->dx[1] = DO_WITH(g->s, as_strided, (g->attr[0], g->attr[1], g->attr[2]), dy);
}

NNL_OP(as_strided_scatter,
    .sig = "input:any, source:any, size:int*, stride:int*, offset:int -> same",
    .doc = "A contiguous copy of input in which the elements that as_strided would show are source's.",
    .infer = nnl_infer_same,
    .run = scatter_run,
    .grad = scatter_grad,
    .traits = NNL_HIDDEN);
