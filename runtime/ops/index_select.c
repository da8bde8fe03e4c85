/* Whole positions of one dimension chosen by an index tensor, and added to. */
#include "index_walk.h"

#include <string.h>

static nnl_status check_one_dim(nnl_call *c, int place)
{
    char a[NNL_NAMED_TEXT];
    if (c->in[place]->ndim <= 1) return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE, "%s must have one dimension",
                         nnl_call_input_text(c, place, a));
}

/* packed: like base but for dimension dim, where it has as many positions as there are offsets. */
static void line_walk(nnl_walk *w, const nnl_tensor *packed, const nnl_tensor *base, int dim,
                      int64_t *offsets)
{
    int64_t offset_strides[NNL_MAX_DIMS] = {0}, base_strides[NNL_MAX_DIMS];
    memcpy(base_strides, base->strides, sizeof base_strides);
    offset_strides[dim] = 1;
    base_strides[dim] = 0;
    nnl_walk_set(w, packed, base, offsets, offset_strides, base_strides);
    for (int d = 0; d < packed->ndim; d++) w->apart[d] = d != dim;
}

static nnl_status index_select_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    NNL_TRY(check_one_dim(c, 1));
    nnl_spec_like(&c->spec[0], x);
    if (x->ndim == 0)
        return nnl_call_fail(c, NNL_ESHAPE, "a 0-d tensor has no dimension to choose from");
    c->spec[0].shape[c->attr[0].as.i] = c->in[1]->numel;
    return NNL_OK;
}

static nnl_status index_select_run(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    int dim = (int)c->attr[0].as.i;
    nnl_offsets offsets;
    nnl_walk w;
    bool plain = nnl_positions_plain(c, 1, x->shape[dim], &offsets);
    if (!plain) NNL_TRY(nnl_offsets_read(c, 1, dim, x->shape[dim], nnl_stride_bytes(x, dim), &offsets));
    line_walk(&w, c->out[0], x, dim, offsets.at);
    if (plain) nnl_walk_plain(&w, c, x, dim);
    nnl_status status = nnl_gather_walk(c->rt, &w);
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static void index_select_grad(nnl_grad *g)
{
    g->dx[0] =
        DO_WITH(g->s, index_select_backward,
                (g->attr[0], V_INT(g->in_layout[0].shape[g->attr[0].as.i])), g->dy[0], g->in[1]);
}

NNL_OP(index_select,
    .sig = "input:any, dim:dim, index:index -> same",
    .doc = "The positions of a dimension that index names, in its order; a copy.",
    .example = "nn.arange(5):index_select(1, {5, 1, 1})",
    .infer = index_select_infer,
    .run = index_select_run,
    .grad = index_select_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:4x3 dim=1 index:5<4>; input:2x3x4 dim=2 index:2<3>; input:5 dim=-1 index:3<5>");

/* Adds source's positions of dimension dim of out, which begins as input (NULL: it stands ready).
 */
static nnl_status add_lines(nnl_call *c, const nnl_tensor *input, const nnl_tensor *source,
                            double alpha)
{
    nnl_tensor *out = c->out[0];
    int dim = (int)c->attr[0].as.i;
    bool rows = dim == 0 && out->contiguous && source->contiguous && alpha == 1;
    nnl_offsets offsets;
    nnl_walk w;
    NNL_TRY(nnl_offsets_read(c, 1, dim, out->shape[dim], rows ? 1 : nnl_stride_bytes(out, dim),
                             &offsets));
    nnl_status status = input ? nnl_begin_with(out, input) : NNL_OK;
    if (status == NNL_OK && rows) {
        int64_t length = nnl_shape_numel(out->ndim - 1, out->shape + 1);
        status = nnl_add_rows(c->rt, (nnl_dtype)out->dtype, out->data, out->shape[0], source->data,
                              offsets.at, offsets.count, length);
    } else if (status == NNL_OK) {
        line_walk(&w, source, out, dim, offsets.at);
        status = nnl_add_walk(c->rt, &w, alpha);
    }
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static nnl_status index_select_backward_infer(nnl_call *c)
{
    nnl_spec_like(&c->spec[0], c->in[0]);
    c->spec[0].shape[c->attr[0].as.i] = c->attr[1].as.i;
    return NNL_OK;
}

static nnl_status index_select_backward_run(nnl_call *c)
{
    nnl_set_zero(c->out[0]);
    return add_lines(c, NULL, c->in[0], 1);
}

static void index_select_backward_grad(nnl_grad *g)
{
    g->dx[0] = DO_WITH(g->s, index_select, (g->attr[0]), g->dy[0], g->in[1]);
}

NNL_OP(index_select_backward,
    .sig = "dy:float, index:index, dim:int, size:int -> same",
    .doc = "Zeros with dy's positions of a dimension added at those that index names.",
    .infer = index_select_backward_infer,
    .run = index_select_backward_run,
    .grad = index_select_backward_grad,
    .saves = NNL_SAVE_INPUT(1),
    .traits = NNL_HIDDEN);

static nnl_status index_add_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0], *index = c->in[1], *source = c->in[2];
    int64_t dim = c->attr[0].as.i;
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    NNL_TRY(check_one_dim(c, 1));
    nnl_spec_like(&c->spec[0], x);
    bool fits = x->ndim > 0 && source->ndim == x->ndim && source->shape[dim] == index->numel;
    for (int d = 0; d < x->ndim && fits; d++) fits = d == dim || source->shape[d] == x->shape[d];
    if (fits) return NNL_OK;
    return nnl_call_fail(
        c, NNL_ESHAPE,
        "%s must be like %s but for dimension %lld, where it has index's %lld positions",
        nnl_call_input_text(c, 2, b), nnl_call_input_text(c, 0, a), (long long)dim + c->index_base,
        (long long)index->numel);
}

static nnl_status index_add_run(nnl_call *c)
{
    return add_lines(c, c->in[0], c->in[2], nnl_value_double(&c->attr[1]));
}

static void index_add_grad(nnl_grad *g)
{
    g->dx[0] = g->dy[0];
    if (!g->needs[2]) return;
    nnl_tensor *picked = DO_WITH(g->s, index_select, (g->attr[0]), g->dy[0], g->in[1]);
    double alpha = nnl_value_double(&g->attr[1]);
    g->dx[2] = alpha == 1 ? picked : nnl_scaled(g->s, picked, alpha);
}

NNL_OP(index_add,
    .sig = "input:any, dim:dim, index:index, source:any, alpha:scalar=1 -> same",
    .doc = "input with alpha * source's positions of a dimension added at those that index names, "
           "in index's order.",
    .example = "nn.zeros(3, 2):index_add(1, {1, 3, 1}, nn.ones(3, 2))",
    .infer = index_add_infer,
    .run = index_add_run,
    .grad = index_add_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:4x3 dim=1 index:5<4> source:5x3; input:2x3x4 dim=2 index:2<3> source:2x2x4 "
              "alpha=0.5",
    .traits = NNL_PROMOTE | NNL_INPLACE_OK);
