/* Views of parts of a tensor: ranges, single positions, diagonals, windows. */
#include "op.h"

#include <string.h>

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
