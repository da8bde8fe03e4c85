/* Other looks at the same elements: reshape, expand, transpose and their kin. */
#include "op.h"
#include "window.h"

#include <string.h>

/* The result, seen with the input's shape, receives the elements in row-major order. */
static nnl_status copy_run(nnl_call *c)
{
    int64_t strides[NNL_MAX_DIMS];
    const nnl_tensor *x = c->in[0];
    nnl_strides_contiguous(x->ndim, x->shape, strides);
    nnl_tensor out = nnl_window(c->out[0], c->out[0]->data, x->ndim, x->shape, strides);
    return nnl_copy(&out, x);
}

/* ---------------------------------------------------------------- shapes */

/* The wanted shape, with one -1 filled in. */
static nnl_status wanted_shape(nnl_call *c, const nnl_value *sizes, nnl_spec *spec)
{
    const nnl_tensor *x = c->in[0];
    char text[NNL_NAMED_TEXT], wanted[NNL_SHAPE_TEXT];
    int count = sizes->kind == NNL_KIND_INTS ? sizes->count : 0, unknown = -1;
    if (count > NNL_MAX_DIMS)
        return nnl_call_fail(c, NNL_ESHAPE, "%d sizes given, but at most %d are possible", count,
                             NNL_MAX_DIMS);
    int64_t product = 1;
    spec->dtype = (nnl_dtype)x->dtype;
    spec->ndim = count;
    for (int d = 0; d < count; d++) {
        int64_t size = spec->shape[d] = sizes->as.ints[d];
        if (size == -1 && unknown < 0)
            unknown = d;
        else if (size < 0)
            return nnl_call_fail(c, NNL_ESHAPE, "size %lld is negative (one size may be -1)",
                                 (long long)size);
        else if (!nnl_mul_size(product, size, &product))
            product = -1;
    }
    if (unknown >= 0 && product > 0 && x->numel % product == 0)
        spec->shape[unknown] = x->numel / product;
    else if (unknown >= 0 || product != x->numel)
        return nnl_call_fail(c, NNL_ESHAPE, "%s has %lld elements, which do not fill %s",
                             nnl_call_input_text(c, 0, text), (long long)x->numel,
                             nnl_shape_text(wanted, count, sizes->as.ints));
    return nnl_shape_check(c->rt, c->op->name, spec->dtype, count, spec->shape);
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
    .doc = "The same elements in row-major order as another shape: a view where the layout allows "
           "it, else a copy.  One size may be -1; no sizes make a 0-d tensor of one element.",
    .example = "nn.arange(6):reshape(2, -1)",
    .infer = reshape_infer,
    .run = copy_run,
    .grad = reshape_grad,
    .sample = "input:3x4 shape={2, 6}",
    .traits = NNL_VIEW);

static nnl_status not_a_view(nnl_call *c)
{
    char text[NNL_NAMED_TEXT];
    return nnl_call_fail(
        c, NNL_ESHAPE,
        "%s is not contiguous enough to be seen as that shape; use reshape, which copies",
        nnl_call_input_text(c, 0, text));
}

/* Images are copied: that they lie channels last is this library's choice, not the user's. */
static nnl_status view_or_images(nnl_call *c)
{
    return c->spec[0].view || nnl_is_channels_last(c->in[0]) ? NNL_OK : not_a_view(c);
}

static nnl_status view_infer(nnl_call *c)
{
    NNL_TRY(reshape_infer(c));
    return view_or_images(c);
}

NNL_OP(view,
    .sig = "input:any, shape:int... -> same",
    .doc = "The same elements as another shape, in the same memory; an error where the layout does not "
           "allow it.  Images that lie with their channels together, as results of convolutions do, "
           "are copied where they must be.",
    .example = "nn.arange(6):view(2, 3)",
    .infer = view_infer,
    .run = copy_run,
    .grad = reshape_grad,
    .sample = "input:3x4 shape={2, 6}",
    .traits = NNL_VIEW);

static nnl_status expand_to(nnl_call *c, int count, const int64_t *sizes)
{
    nnl_spec *spec = &c->spec[0];
    const nnl_tensor *x = c->in[0];
    int extra = count - x->ndim;
    int64_t strides[NNL_MAX_DIMS];
    char text[NNL_NAMED_TEXT], wanted[NNL_SHAPE_TEXT];
    bool fits = extra >= 0 && count <= NNL_MAX_DIMS;
    spec->dtype = (nnl_dtype)x->dtype;
    spec->ndim = count;
    for (int d = 0; d < count && fits; d++) {
        int64_t size = sizes[d], have = d < extra ? 1 : x->shape[d - extra];
        if (size == -1 && d >= extra) size = have;
        fits = size >= 0 && (have == size || have == 1);
        spec->shape[d] = size;
        strides[d] = d < extra || (have == 1 && size != 1) ? 0 : x->strides[d - extra];
    }
    if (!fits)
        return nnl_call_fail(
            c, NNL_ESHAPE,
            "%s does not expand to %s: only dimensions of size 1 grow, and new ones come first",
            nnl_call_input_text(c, 0, text),
            nnl_shape_text(wanted, NNL_MIN(count, NNL_MAX_DIMS), sizes));
    nnl_spec_view(spec, strides, 0);
    return NNL_OK;
}

static nnl_status expand_infer(nnl_call *c)
{
    const nnl_value *sizes = &c->attr[0];
    return expand_to(c, sizes->kind == NNL_KIND_INTS ? sizes->count : 0, sizes->as.ints);
}

/* The engine sums over what was expanded. */
static void expand_grad(nnl_grad *g) { g->dx[0] = g->dy[0]; }

NNL_OP(expand,
    .sig = "input:any, sizes:int... -> same",
    .doc = "A view in which dimensions of size 1 are repeated without memory; -1 keeps a size, "
           "new dimensions come first.",
    .example = "nn.ones(3, 1):expand(3, 4)",
    .infer = expand_infer,
    .grad = expand_grad,
    .sample = "input:3x1 sizes={2, 3, 4}",
    .traits = NNL_VIEW);

/* ---------------------------------------------------------------- shapes made from the tensor's
 * own */

/* The result has spec's shape; a view where the layout allows it. */
static nnl_status shape_infer(nnl_call *c, int ndim, const int64_t *shape)
{
    const nnl_tensor *x = c->in[0];
    nnl_spec *spec = &c->spec[0];
    int64_t strides[NNL_MAX_DIMS];
    if (ndim > NNL_MAX_DIMS) {
        char text[NNL_NAMED_TEXT];
        return nnl_call_fail(c, NNL_ESHAPE, "%s has %d dimensions, and at most %d are possible",
                             nnl_call_input_text(c, 0, text), x->ndim, NNL_MAX_DIMS);
    }
    nnl_spec_set(spec, (nnl_dtype)x->dtype, ndim, shape);
    if (nnl_reshape_strides(x->ndim, x->shape, x->strides, ndim, shape, strides))
        nnl_spec_view(spec, strides, 0);
    return NNL_OK;
}

static nnl_status flatten_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    int64_t first = c->attr[0].as.i, last = c->attr[1].as.i, shape[NNL_MAX_DIMS], size = 1;
    int ndim = 0;
    if (first > last)
        return nnl_call_fail(c, NNL_EINVAL, "start_dim (%lld) comes after end_dim (%lld)",
                             (long long)first + c->index_base, (long long)last + c->index_base);
    for (int d = 0; d < first; d++) shape[ndim++] = x->shape[d];
    for (int64_t d = first; d <= last && d < x->ndim; d++) size *= x->shape[d];
    shape[ndim++] = size;
    for (int64_t d = last + 1; d < x->ndim; d++) shape[ndim++] = x->shape[d];
    return shape_infer(c, ndim, shape);
}

NNL_OP(flatten,
    .sig = "input:any, start_dim:dim=0, end_dim:dim=-1 -> same",
    .doc = "The dimensions from start_dim to end_dim as one: a view where the layout allows it, "
           "else a copy.",
    .example = "nn.ones(2, 3, 4):flatten(2)",
    .infer = flatten_infer,
    .run = copy_run,
    .grad = reshape_grad,
    .sample = "input:2x3x4; input:2x3x4 start_dim=2; input:2x3x2x2 start_dim=2 end_dim=3",
    .traits = NNL_VIEW);

static nnl_status unflatten_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    int64_t dim = c->attr[0].as.i, shape[2 * NNL_MAX_DIMS], product = 1;
    const nnl_value *sizes = &c->attr[1];
    int count = sizes->count, unknown = -1, ndim = 0;
    char text[NNL_NAMED_TEXT], wanted[NNL_SHAPE_TEXT];
    if (x->ndim == 0)
        return nnl_call_fail(c, NNL_ESHAPE, "a 0-d tensor has no dimension to take apart");
    if (count < 1 || count + x->ndim - 1 > NNL_MAX_DIMS)
        return nnl_call_fail(
            c, NNL_ESHAPE,
            "%d sizes given for dimension %lld of %s; the result may have at most %d dimensions",
            count, (long long)dim + c->index_base, nnl_call_input_text(c, 0, text), NNL_MAX_DIMS);
    for (int d = 0; d < dim; d++) shape[ndim++] = x->shape[d];
    for (int i = 0; i < count; i++) {
        int64_t size = shape[ndim + i] = sizes->as.ints[i];
        if (size == -1 && unknown < 0)
            unknown = i;
        else if (size < 0)
            return nnl_call_fail(c, NNL_ESHAPE, "size %lld is negative (one size may be -1)",
                                 (long long)size);
        else if (!nnl_mul_size(product, size, &product))
            product = -1;
    }
    if (unknown >= 0 && product > 0 && x->shape[dim] % product == 0)
        shape[ndim + unknown] = x->shape[dim] / product;
    else if (unknown >= 0 || product != x->shape[dim])
        return nnl_call_fail(c, NNL_ESHAPE, "dimension %lld of %s does not come apart into %s",
                             (long long)dim + c->index_base, nnl_call_input_text(c, 0, text),
                             nnl_shape_text(wanted, count, sizes->as.ints));
    ndim += count;
    for (int64_t d = dim + 1; d < x->ndim; d++) shape[ndim++] = x->shape[d];
    return shape_infer(c, ndim, shape);
}

NNL_OP(unflatten,
    .sig = "input:any, dim:dim, sizes:int... -> same",
    .doc = "One dimension taken apart into several whose product it is; one size may be -1.",
    .example = "nn.arange(12):unflatten(1, {3, -1})",
    .infer = unflatten_infer,
    .run = copy_run,
    .grad = reshape_grad,
    .sample = "input:2x6 dim=2 sizes={2, -1}; input:6x2 dim=1 sizes={2, 3}",
    .traits = NNL_VIEW);

static nnl_status squeeze_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    bool flags[NNL_MAX_DIMS];
    int64_t shape[NNL_MAX_DIMS], strides[NNL_MAX_DIMS];
    int ndim = 0;
    nnl_dim_flags(&c->attr[0], x->ndim, flags);
    for (int d = 0; d < x->ndim; d++) {
        if (flags[d] && x->shape[d] == 1) continue;
        shape[ndim] = x->shape[d];
        strides[ndim++] = x->strides[d];
    }
    nnl_spec_set(&c->spec[0], (nnl_dtype)x->dtype, ndim, shape);
    nnl_spec_view(&c->spec[0], strides, 0);
    return NNL_OK;
}

NNL_OP(squeeze,
    .sig = "input:any, dim:dim...? -> same",
    .doc = "A view without the dimensions of size 1, or without those of the given ones that have "
           "size 1.",
    .example = "nn.ones(1, 3, 1):squeeze(1)",
    .infer = squeeze_infer,
    .grad = reshape_grad,
    .sample = "input:1x3x1; input:1x3x1 dim=1; input:1x3x1 dim={1, 2}",
    .traits = NNL_VIEW);

static nnl_status unsqueeze_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    int64_t dim = c->attr[0].as.i, shape[NNL_MAX_DIMS + 1], strides[NNL_MAX_DIMS + 1];
    char text[NNL_NAMED_TEXT];
    if (x->ndim == NNL_MAX_DIMS)
        return nnl_call_fail(c, NNL_ESHAPE, "%s has %d dimensions already, more are not possible",
                             nnl_call_input_text(c, 0, text), x->ndim);
    for (int d = 0; d < x->ndim; d++) {
        int to = d + (d >= dim);
        shape[to] = x->shape[d];
        strides[to] = x->strides[d];
    }
    shape[dim] = 1;
    strides[dim] = dim < x->ndim ? x->strides[dim] * NNL_MAX(x->shape[dim], 1) : 1;
    nnl_spec_set(&c->spec[0], (nnl_dtype)x->dtype, x->ndim + 1, shape);
    nnl_spec_view(&c->spec[0], strides, 0);
    return NNL_OK;
}

NNL_OP(unsqueeze,
    .sig = "input:any, dim:newdim -> same",
    .doc = "A view with a dimension of size 1 put in at the given place of the result.",
    .example = "nn.ones(3):unsqueeze(1)",
    .infer = unsqueeze_infer,
    .grad = reshape_grad,
    .sample = "input:3x4 dim=1; input:3x4 dim=3; input:0d dim=1",
    .traits = NNL_VIEW);

/* ---------------------------------------------------------------- the shape of another tensor */

static nnl_status reshape_to(nnl_call *c)
{
    const nnl_tensor *x = c->in[0], *other = c->in[1];
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    if (x->numel != other->numel)
        return nnl_call_fail(c, NNL_ESHAPE, "%s has %lld elements, but %s has %lld",
                             nnl_call_input_text(c, 0, a), (long long)x->numel,
                             nnl_call_input_text(c, 1, b), (long long)other->numel);
    return shape_infer(c, other->ndim, other->shape);
}

NNL_OP(reshape_as,
    .sig = "input:any, other:any -> same",
    .doc = "input reshaped to other's shape.",
    .example = "nn.arange(6):reshape_as(nn.ones(2, 3))",
    .infer = reshape_to,
    .run = copy_run,
    .grad = reshape_grad,
    .sample = "input:3x4 other:2x6~",
    .traits = NNL_VIEW);

static nnl_status view_to(nnl_call *c)
{
    NNL_TRY(reshape_to(c));
    return view_or_images(c);
}

NNL_OP(view_as,
    .sig = "input:any, other:any -> same",
    .doc = "input seen with other's shape, as by view.",
    .example = "nn.arange(6):view_as(nn.ones(2, 3))",
    .infer = view_to,
    .run = copy_run,
    .grad = reshape_grad,
    .sample = "input:3x4 other:2x6~",
    .traits = NNL_VIEW);

static nnl_status expand_as_infer(nnl_call *c)
{
    return expand_to(c, c->in[1]->ndim, c->in[1]->shape);
}

NNL_OP(expand_as,
    .sig = "input:any, other:any -> same",
    .doc = "input expanded to other's shape, as a view.",
    .example = "nn.ones(3, 1):expand_as(nn.ones(3, 4))",
    .infer = expand_as_infer,
    .grad = expand_grad,
    .sample = "input:3x1 other:2x3x4~",
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
        return nnl_call_fail(c, NNL_ESHAPE, "%d dimensions given, but %s has %d", count,
                             nnl_call_input_text(c, 0, text), x->ndim);
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

static void transpose_grad(nnl_grad *g)
{
    g->dx[0] = DO_WITH(g->s, transpose, (g->attr[0], g->attr[1]), g->dy[0]);
}

NNL_OP(transpose,
    .sig = "input:any, dim0:dim, dim1:dim -> same",
    .doc = "A view with two dimensions exchanged.",
    .example = "nn.ones(2, 3):transpose(1, 2)",
    .infer = transpose_infer,
    .grad = transpose_grad,
    .sample = "input:2x3x4 dim0=1 dim1=3",
    .traits = NNL_VIEW);

static nnl_status t_infer(nnl_call *c)
{
    nnl_spec *spec = &c->spec[0];
    const nnl_tensor *x = c->in[0];
    char text[NNL_NAMED_TEXT];
    nnl_spec_like(spec, x);
    if (x->ndim > 2)
        return nnl_call_fail(c, NNL_ESHAPE, "%s has more than two dimensions; use transpose",
                             nnl_call_input_text(c, 0, text));
    int64_t strides[2] = {x->strides[0], 0};
    if (x->ndim == 2) {
        spec->shape[0] = x->shape[1];
        spec->shape[1] = x->shape[0];
        strides[0] = x->strides[1];
        strides[1] = x->strides[0];
    }
    nnl_spec_view(spec, strides, 0);
    return NNL_OK;
}

static void t_grad(nnl_grad *g) { g->dx[0] = DO(g->s, t, g->dy[0]); }

NNL_OP(t,
    .sig = "input:any -> same",
    .doc = "A view of a matrix with rows and columns exchanged; tensors of less than two "
           "dimensions stay as they are.",
    .example = "nn.ones(2, 3):t()",
    .infer = t_infer,
    .grad = t_grad,
    .sample = "input:3x4; input:3",
    .traits = NNL_VIEW);

/* Where each dimension of the result comes from. */
static nnl_status moved_order(nnl_call *c, int64_t order[NNL_MAX_DIMS])
{
    const nnl_value *from = &c->attr[0], *to = &c->attr[1];
    int ndim = c->in[0]->ndim;
    bool taken[NNL_MAX_DIMS] = {false};
    if (from->count != to->count)
        return nnl_call_fail(c, NNL_EINVAL, "source names %d dimensions, destination %d",
                             from->count, to->count);
    for (int d = 0; d < ndim; d++) order[d] = -1;
    for (int i = 0; i < from->count && ndim > 0; i++) {
        order[to->as.ints[i]] = from->as.ints[i];
        taken[from->as.ints[i]] = true;
    }
    for (int d = 0, next = 0; d < ndim; d++) {
        if (order[d] >= 0) continue;
        while (taken[next]) next++;
        order[d] = next++;
    }
    return NNL_OK;
}

static nnl_status movedim_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    int64_t order[NNL_MAX_DIMS], shape[NNL_MAX_DIMS], strides[NNL_MAX_DIMS];
    NNL_TRY(moved_order(c, order));
    for (int d = 0; d < x->ndim; d++) {
        shape[d] = x->shape[order[d]];
        strides[d] = x->strides[order[d]];
    }
    nnl_spec_set(&c->spec[0], (nnl_dtype)x->dtype, x->ndim, shape);
    nnl_spec_view(&c->spec[0], strides, 0);
    return NNL_OK;
}

static void movedim_grad(nnl_grad *g)
{
    g->dx[0] = DO_WITH(g->s, movedim, (g->attr[1], g->attr[0]), g->dy[0]);
}

NNL_OP(movedim,
    .sig = "input:any, source:dim*, destination:dim* -> same",
    .doc = "A view with dimensions moved to other places; the others keep their order.",
    .example = "nn.ones(2, 3, 4):movedim(1, -1)",
    .infer = movedim_infer,
    .grad = movedim_grad,
    .sample = "input:2x3x4 source=1 destination=-1; input:2x3x4 source={1, 3} destination={2, 1}",
    .traits = NNL_VIEW);
