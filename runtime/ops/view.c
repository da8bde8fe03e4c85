/* Other looks at the same elements: reshape, expand, transpose and their kin. */
#include "op.h"
#include "dense.h"
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

/* ---------------------------------------------------------------- parts of a tensor */

/* The gradient of a view that shows some elements of the input, whose strides and offset are those
 * that the view has in a contiguous input of this shape. */
static nnl_tensor *placed(nnl_grad *g, nnl_tensor *dy, int ndim, const int64_t *strides,
                          int64_t offset)
{
    const nnl_layout *layout = &g->in_layout[0];
    return DO_WITH(g->s, place,
                   (V_INTS(layout->ndim, layout->shape), V_INTS(ndim, strides), V_INT(offset)), dy);
}

static nnl_status slice_view(nnl_call *c, int64_t dim, int64_t first, int64_t count, int64_t step)
{
    const nnl_tensor *x = c->in[0];
    nnl_spec *spec = &c->spec[0];
    int64_t strides[NNL_MAX_DIMS];
    nnl_spec_like(spec, x);
    memcpy(strides, x->strides, sizeof strides);
    spec->shape[dim] = count;
    strides[dim] *= step;
    nnl_spec_view(spec, strides, count > 0 ? first * x->strides[dim] : 0);
    return NNL_OK;
}

static void slice_gradient(nnl_grad *g, int64_t dim, int64_t first, int64_t step)
{
    const nnl_layout *layout = &g->in_layout[0];
    int64_t strides[NNL_MAX_DIMS];
    nnl_strides_contiguous(layout->ndim, layout->shape, strides);
    int64_t offset = first * strides[dim];
    strides[dim] *= step;
    g->dx[0] = placed(g, g->dy[0], layout->ndim, strides, offset);
}

static nnl_status no_dimension(nnl_call *c)
{
    return nnl_call_fail(c, NNL_ESHAPE, "a 0-d tensor has no dimension to choose from");
}

static nnl_status narrow_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    int64_t dim = c->attr[0].as.i, start = c->attr[1].as.i, length = c->attr[2].as.i;
    if (x->ndim == 0) return no_dimension(c);
    int64_t size = x->shape[dim];
    /* An empty part may stand behind the last position. */
    if (!(start == size && length == 0))
        NNL_TRY(nnl_call_position(c, "start", start, (int)dim, size, &start));
    if (length > size - start)
        return nnl_call_fail(c, NNL_EINDEX,
                             "%lld positions from %lld on are more than dimension %d has (%lld)",
                             (long long)length, (long long)start + c->index_base,
                             (int)dim + c->index_base, (long long)size);
    return slice_view(c, dim, start, length, 1);
}

static void narrow_grad(nnl_grad *g)
{
    int64_t dim = g->attr[0].as.i, start = g->attr[1].as.i;
    slice_gradient(g, dim, start < 0 ? start + g->in_layout[0].shape[dim] : start, 1);
}

NNL_OP(narrow,
    .sig = "input:any, dim:dim, start:pos, length:size -> same",
    .doc = "A view of `length` positions of a dimension, from start on.",
    .example = "nn.arange(10):narrow(1, 3, 2)",
    .infer = narrow_infer,
    .grad = narrow_grad,
    .sample = "input:3x4 dim=2 start=2 length=2; input:3x4 dim=1 start=-2 length=2; input:3x4 "
              "dim=1 start=2 length=0",
    .traits = NNL_VIEW);

static nnl_status slice_infer(nnl_call *c)
{
    return slice_view(c, c->attr[0].as.i, c->attr[1].as.i, c->attr[2].as.i, c->attr[3].as.i);
}

static void slice_grad(nnl_grad *g)
{
    slice_gradient(g, g->attr[0].as.i, g->attr[1].as.i, g->attr[3].as.i);
}

NNL_OP(slice,
    .sig = "input:any, dim:int, first:int, count:int, step:int -> same",
    .doc = "A view of every step-th position of a dimension; all arguments are known to be in "
           "range and count from 0.",
    .infer = slice_infer,
    .grad = slice_grad,
    .traits = NNL_VIEW | NNL_HIDDEN);

static nnl_status select_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    int64_t dim = c->attr[0].as.i, index = c->attr[1].as.i;
    nnl_spec *spec = &c->spec[0];
    int64_t strides[NNL_MAX_DIMS];
    if (x->ndim == 0) return no_dimension(c);
    NNL_TRY(nnl_call_position(c, "index", index, (int)dim, x->shape[dim], &index));
    spec->dtype = (nnl_dtype)x->dtype;
    spec->ndim = x->ndim - 1;
    for (int d = 0; d < spec->ndim; d++) {
        spec->shape[d] = x->shape[d + (d >= dim)];
        strides[d] = x->strides[d + (d >= dim)];
    }
    nnl_spec_view(spec, strides, index * x->strides[dim]);
    return NNL_OK;
}

static void select_grad(nnl_grad *g)
{
    const nnl_layout *layout = &g->in_layout[0];
    int64_t dim = g->attr[0].as.i, index = g->attr[1].as.i, strides[NNL_MAX_DIMS];
    nnl_strides_contiguous(layout->ndim, layout->shape, strides);
    int64_t offset = (index < 0 ? index + layout->shape[dim] : index) * strides[dim];
    for (int d = (int)dim; d < layout->ndim - 1; d++) strides[d] = strides[d + 1];
    g->dx[0] = placed(g, g->dy[0], layout->ndim - 1, strides, offset);
}

NNL_OP(select,
    .sig = "input:any, dim:dim, index:pos -> same",
    .doc = "A view of one position of a dimension, which goes: select(1, i) is x[i].",
    .example = "nn.ones(2, 3):select(2, -1)",
    .infer = select_infer,
    .grad = select_grad,
    .sample = "input:3x4 dim=1 index=2; input:2x3x4 dim=2 index=-1; input:3 dim=1 index=1",
    .traits = NNL_VIEW);

/* x[{...}] with integers and ranges: one view, one gradient, however many dimensions it names. */
static nnl_status subscript_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    const int64_t *first = c->attr[0].as.ints, *count = c->attr[1].as.ints,
                  *step = c->attr[2].as.ints;
    nnl_spec *spec = &c->spec[0];
    int64_t strides[NNL_MAX_DIMS], offset = 0;
    spec->dtype = (nnl_dtype)x->dtype;
    spec->ndim = 0;
    for (int d = 0; d < x->ndim; d++) {
        bool named = d < c->attr[1].count;
        if (named && count[d] != 0) offset += first[d] * x->strides[d];
        if (named && count[d] < 0) continue;
        spec->shape[spec->ndim] = named ? count[d] : x->shape[d];
        strides[spec->ndim++] = x->strides[d] * (named ? step[d] : 1);
    }
    nnl_spec_view(spec, strides, nnl_shape_numel(spec->ndim, spec->shape) > 0 ? offset : 0);
    return NNL_OK;
}

static void subscript_grad(nnl_grad *g)
{
    const nnl_layout *layout = &g->in_layout[0];
    const int64_t *first = g->attr[0].as.ints, *count = g->attr[1].as.ints,
                  *step = g->attr[2].as.ints;
    int64_t from[NNL_MAX_DIMS], strides[NNL_MAX_DIMS], offset = 0;
    int ndim = 0;
    nnl_strides_contiguous(layout->ndim, layout->shape, from);
    for (int d = 0; d < layout->ndim; d++) {
        bool named = d < g->attr[1].count;
        if (named) offset += first[d] * from[d];
        if (named && count[d] < 0) continue;
        strides[ndim++] = from[d] * (named ? step[d] : 1);
    }
    g->dx[0] = placed(g, g->dy[0], ndim, strides, offset);
}

NNL_OP(subscript,
    .sig = "input:any, first:int*, count:int*, step:int* -> same",
    .doc = "A view of count[d] positions of dimension d, first[d] + step[d] i counting from 0; a "
           "count of -1 is one position of a dimension that goes.  All are known to be in range; "
           "dimensions beyond the lists stay whole.",
    .infer = subscript_infer,
    .grad = subscript_grad,
    .traits = NNL_VIEW | NNL_HIDDEN);

/* Length of the diagonal and the offset of its first element. */
static int64_t diagonal_length(int64_t rows, int64_t columns, int64_t offset)
{
    int64_t length =
        offset >= 0 ? NNL_MIN(rows, columns - offset) : NNL_MIN(rows + offset, columns);
    return NNL_MAX(length, 0);
}

static int64_t diagonal_strides(int ndim, const int64_t *shape, const int64_t *from, int64_t offset,
                                int64_t dim1, int64_t dim2, int64_t *out_shape, int64_t *strides)
{
    int kept = 0;
    for (int d = 0; d < ndim; d++) {
        if (d == dim1 || d == dim2) continue;
        out_shape[kept] = shape[d];
        strides[kept++] = from[d];
    }
    out_shape[kept] = diagonal_length(shape[dim1], shape[dim2], offset);
    strides[kept] = from[dim1] + from[dim2];
    if (out_shape[kept] == 0) return 0;
    return offset >= 0 ? offset * from[dim2] : -offset * from[dim1];
}

static nnl_status diagonal_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    int64_t dim1 = c->attr[1].as.i, dim2 = c->attr[2].as.i, shape[NNL_MAX_DIMS],
            strides[NNL_MAX_DIMS];
    char text[NNL_NAMED_TEXT];
    if (x->ndim < 2 || dim1 == dim2)
        return nnl_call_fail(c, NNL_ESHAPE,
                             "two different dimensions are needed; %s, dim1 %lld, dim2 %lld",
                             nnl_call_input_text(c, 0, text), (long long)dim1 + c->index_base,
                             (long long)dim2 + c->index_base);
    int64_t offset = diagonal_strides(x->ndim, x->shape, x->strides, c->attr[0].as.i, dim1, dim2,
                                      shape, strides);
    nnl_spec_set(&c->spec[0], (nnl_dtype)x->dtype, x->ndim - 1, shape);
    nnl_spec_view(&c->spec[0], strides, offset);
    return NNL_OK;
}

static void diagonal_grad(nnl_grad *g)
{
    const nnl_layout *layout = &g->in_layout[0];
    int64_t from[NNL_MAX_DIMS], shape[NNL_MAX_DIMS], strides[NNL_MAX_DIMS];
    nnl_strides_contiguous(layout->ndim, layout->shape, from);
    int64_t offset = diagonal_strides(layout->ndim, layout->shape, from, g->attr[0].as.i,
                                      g->attr[1].as.i, g->attr[2].as.i, shape, strides);
    g->dx[0] = placed(g, g->dy[0], layout->ndim - 1, strides, offset);
}

NNL_OP(diagonal,
    .sig = "input:any, offset:int=0, dim1:dim=0, dim2:dim=1 -> same",
    .doc = "A view of the diagonal of the matrices that dim1 and dim2 span, as the last "
           "dimension; offset > 0 is above the main one.",
    .example = "nn.eye(3):diagonal()",
    .infer = diagonal_infer,
    .grad = diagonal_grad,
    .sample = "input:3x4; input:3x4 offset=-1; input:2x3x4 offset=1 dim1=-1 dim2=1",
    .traits = NNL_VIEW);

static nnl_status unfold_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    int64_t dim = c->attr[0].as.i, size = c->attr[1].as.i, step = c->attr[2].as.i,
            strides[NNL_MAX_DIMS];
    nnl_spec *spec = &c->spec[0];
    if (x->ndim == 0) return no_dimension(c);
    if (x->ndim == NNL_MAX_DIMS)
        return nnl_call_fail(c, NNL_ESHAPE, "the input has %d dimensions already", x->ndim);
    if (step < 1)
        return nnl_call_fail(c, NNL_EINVAL, "step is %lld, but it must be at least 1",
                             (long long)step);
    if (size > x->shape[dim])
        return nnl_call_fail(c, NNL_EINVAL, "size is %lld, but dimension %lld has %lld positions",
                             (long long)size, (long long)dim + c->index_base,
                             (long long)x->shape[dim]);
    nnl_spec_like(spec, x);
    memcpy(strides, x->strides, sizeof strides);
    spec->shape[dim] = (x->shape[dim] - size) / step + 1;
    if (spec->shape[dim] > 1) strides[dim] *= step; /* a step to nowhere may be of any size */
    spec->shape[spec->ndim] = size;
    strides[spec->ndim++] = x->strides[dim];
    nnl_spec_view(spec, strides, 0);
    return NNL_OK;
}

static void unfold_grad(nnl_grad *g)
{
    const nnl_layout *layout = &g->in_layout[0];
    int64_t dim = g->attr[0].as.i, strides[NNL_MAX_DIMS];
    nnl_strides_contiguous(layout->ndim, layout->shape, strides);
    strides[layout->ndim] = strides[dim];
    if (g->out_layout[0].shape[dim] > 1) strides[dim] *= g->attr[2].as.i;
    g->dx[0] = placed(g, g->dy[0], layout->ndim + 1, strides, 0);
}

NNL_OP(unfold,
    .sig = "input:any, dim:dim, size:size, step:int -> same",
    .doc = "A view of all windows of `size` positions of a dimension, `step` apart; the positions "
           "of a window are the last dimension.",
    .example = "nn.arange(7):unfold(1, 3, 2)",
    .infer = unfold_infer,
    .grad = unfold_grad,
    .sample = "input:7 dim=1 size=3 step=2; input:2x5 dim=2 size=3 step=1; input:4x3 dim=1 size=2 "
              "step=2",
    .traits = NNL_VIEW);

/* ---------------------------------------------------------------- the way back from a view */

/* Whether every element of the window is another one of the tensor.  Strides are not negative. */
static bool is_injective(int ndim, const int64_t *shape, const int64_t *strides)
{
    bool used[NNL_MAX_DIMS] = {false};
    int64_t reach = 0; /* of the dimensions with smaller strides */
    for (int i = 0; i < ndim; i++) {
        int least = -1;
        for (int d = 0; d < ndim; d++) {
            if (!used[d] && (least < 0 || strides[d] < strides[least])) least = d;
        }
        used[least] = true;
        if (shape[least] <= 1) continue;
        if (strides[least] <= reach) return false;
        reach += (shape[least] - 1) * strides[least];
    }
    return true;
}

#define ADD_WINDOW(type)                                                                \
    static void add_window_##type(type *out, const nnl_tensor *w, const nnl_tensor *dy) \
    {                                                                                   \
        const type *from = (const type *)(const void *)dy->data;                        \
        for (int64_t i = 0; i < dy->numel; i++) {                                       \
            int64_t rest = i, to = 0;                                                   \
            for (int d = dy->ndim - 1; d >= 0; d--) {                                   \
                to += rest % dy->shape[d] * w->strides[d];                              \
                rest /= dy->shape[d];                                                   \
            }                                                                           \
            out[to] += from[i];                                                         \
        }                                                                               \
    }
ADD_WINDOW(float)
ADD_WINDOW(double)

static nnl_status place_infer(nnl_call *c)
{
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->in[0]->dtype, c->attr[0].count, c->attr[0].as.ints);
    return NNL_OK;
}

static nnl_status place_run(nnl_call *c)
{
    nnl_tensor *dy = c->in[0], *out = c->out[0];
    const int64_t *strides = c->attr[1].as.ints;
    int64_t width = (int64_t)nnl_dtype_size((nnl_dtype)dy->dtype);
    if (dy->numel < out->numel || !is_injective(dy->ndim, dy->shape, strides))
        memset(out->data, 0, (size_t)(out->numel * width));
    if (dy->numel == 0) return NNL_OK;
    nnl_tensor window =
        nnl_window(out, out->data + c->attr[2].as.i * width, dy->ndim, dy->shape, strides);
    if (is_injective(dy->ndim, dy->shape, strides)) return nnl_copy(&window, dy);
    /* Windows that overlap, as those of unfold: element by element, always in the same order. */
    nnl_tensor *packed;
    NNL_TRY(nnl_dense(dy, &packed));
    if (dy->dtype == NNL_F32) add_window_float((float *)(void *)window.data, &window, packed);
    if (dy->dtype == NNL_F64) add_window_double((double *)(void *)window.data, &window, packed);
    nnl_tensor_unref(packed);
    return NNL_OK;
}

static void place_grad(nnl_grad *g)
{
    const nnl_layout *dy = &g->in_layout[0];
    nnl_tensor *whole = DO(g->s, contiguous, g->dy[0]);
    g->dx[0] =
        DO_WITH(g->s, as_strided, (V_INTS(dy->ndim, dy->shape), g->attr[1], g->attr[2]), whole);
}

NNL_OP(place,
    .sig = "dy:float, shape:int*, stride:int*, offset:int -> same",
    .doc = "Zeros of a shape, with dy added at the elements that as_strided would show: the "
           "gradient of a view.",
    .infer = place_infer,
    .run = place_run,
    .grad = place_grad,
    .traits = NNL_HIDDEN);

/* ---------------------------------------------------------------- any geometry, for views changed
 * in place */

static nnl_status as_strided_infer(nnl_call *c)
{
    nnl_spec *spec = &c->spec[0];
    nnl_spec_set(spec, (nnl_dtype)c->in[0]->dtype, c->attr[0].count, c->attr[0].as.ints);
    nnl_spec_view(spec, c->attr[1].as.ints, c->attr[2].as.i);
    return NNL_OK;
}

static void as_strided_grad(nnl_grad *g)
{
    g->dx[0] = placed(g, g->dy[0], g->attr[1].count, g->attr[1].as.ints, g->attr[2].as.i);
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
    nnl_tensor *out = c->out[0];
    char *first = out->data + c->attr[2].as.i * (int64_t)nnl_dtype_size((nnl_dtype)out->dtype);
    nnl_tensor window =
        nnl_window(out, first, c->attr[0].count, c->attr[0].as.ints, c->attr[1].as.ints);
    NNL_TRY(nnl_copy(out, c->in[0]));
    return nnl_copy(&window, c->in[1]);
}

static void scatter_grad(nnl_grad *g)
{
    const nnl_layout *source = &g->in_layout[1];
    nnl_tensor *dy = DO(g->s, contiguous, g->dy[0]);
    if (g->needs[0]) {
        nnl_tensor *zeros =
            nnl_full(g->s, (nnl_dtype)source->dtype, source->ndim, source->shape, 0);
        g->dx[0] =
            DO_WITH(g->s, as_strided_scatter, (g->attr[0], g->attr[1], g->attr[2]), dy, zeros);
    }
    if (g->needs[1]) g->dx[1] = DO_WITH(g->s, as_strided, (g->attr[0], g->attr[1], g->attr[2]), dy);
}

NNL_OP(as_strided_scatter,
    .sig = "input:any, source:any, size:int*, stride:int*, offset:int -> same",
    .doc = "A contiguous copy of input in which the elements that as_strided would show are "
           "source's.",
    .infer = nnl_infer_same,
    .run = scatter_run,
    .grad = scatter_grad,
    .traits = NNL_HIDDEN);
