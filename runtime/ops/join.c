/* Putting tensors together and taking them apart along a dimension. */
#include "op.h"
#include "window.h"

/* ---------------------------------------------------------------- cat and stack */

static nnl_status check_list(nnl_call *c, bool along, int64_t dim)
{
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    if (c->n_in == 0) return nnl_call_fail(c, NNL_EINVAL, "tensors is an empty list");
    if (c->n_in > INT16_MAX)
        return nnl_call_fail(c, NNL_EUNSUPPORTED, "%d tensors are too many", c->n_in);
    for (int i = 1; i < c->n_in; i++) {
        bool fits = c->in[i]->ndim == c->in[0]->ndim;
        for (int d = 0; d < c->in[0]->ndim && fits; d++)
            fits = (along && d == dim) || c->in[i]->shape[d] == c->in[0]->shape[d];
        if (fits) continue;
        if (!along)
            return nnl_call_fail(c, NNL_ESHAPE, "%s and %s must have the same shape",
                                 nnl_call_input_text(c, 0, a), nnl_call_input_text(c, i, b));
        return nnl_call_fail(c, NNL_ESHAPE, "%s and %s must agree in all dimensions but %lld",
                             nnl_call_input_text(c, 0, a), nnl_call_input_text(c, i, b),
                             (long long)dim + c->index_base);
    }
    return NNL_OK;
}

static nnl_status cat_infer(nnl_call *c)
{
    int64_t dim = c->attr[0].as.i;
    char text[NNL_NAMED_TEXT];
    NNL_TRY(check_list(c, true, dim));
    nnl_spec *spec = &c->spec[0];
    nnl_spec_like(spec, c->in[0]);
    if (spec->ndim == 0)
        return nnl_call_fail(c, NNL_ESHAPE, "%s has no dimension; use stack",
                             nnl_call_input_text(c, 0, text));
    for (int i = 1; i < c->n_in; i++) {
        if (!nnl_add_size(spec->shape[dim], c->in[i]->shape[dim], &spec->shape[dim]))
            return nnl_call_fail(c, NNL_ENOMEM, "the result is too large");
    }
    return NNL_OK;
}

static nnl_status cat_run(nnl_call *c)
{
    int dim = (int)c->attr[0].as.i;
    int64_t at = 0;
    for (int i = 0; i < c->n_in; i++) {
        nnl_tensor part = nnl_window_part(c->out[0], dim, at, c->in[i]->shape[dim]);
        NNL_TRY(nnl_copy(&part, c->in[i]));
        at += c->in[i]->shape[dim];
    }
    return NNL_OK;
}

static void cat_grad(nnl_grad *g)
{
    int64_t dim = g->attr[0].as.i, at = 0;
    for (int i = 0; i < g->n_in; i++) {
        int64_t size = g->in_layout[i].shape[dim];
        if (g->needs[i])
            g->dx[i] =
                DO_WITH(g->s, slice, (V_INT(dim), V_INT(at), V_INT(size), V_INT(1)), g->dy[0]);
        at += size;
    }
}

NNL_OP(cat,
    .sig = "tensors:any*, dim:dim=0 -> same",
    .doc = "Tensors one after the other along a dimension.",
    .example = "nn.cat({nn.ones(2, 3), nn.zeros(1, 3)}, 1)",
    .infer = cat_infer,
    .run = cat_run,
    .grad = cat_grad,
    .sample = "tensors:2x3+1x3; tensors:2x3+2x1+2x2 dim=2; tensors:2x3x2+2x3x2 dim=-1",
    .traits = NNL_PROMOTE);

static nnl_status stack_infer(nnl_call *c)
{
    int64_t dim = c->attr[0].as.i;
    char text[NNL_NAMED_TEXT];
    NNL_TRY(check_list(c, false, dim));
    const nnl_tensor *x = c->in[0];
    nnl_spec *spec = &c->spec[0];
    if (x->ndim == NNL_MAX_DIMS)
        return nnl_call_fail(c, NNL_ESHAPE, "%s has %d dimensions already",
                             nnl_call_input_text(c, 0, text), x->ndim);
    spec->dtype = (nnl_dtype)x->dtype;
    spec->ndim = x->ndim + 1;
    for (int d = 0; d < x->ndim; d++) spec->shape[d + (d >= dim)] = x->shape[d];
    spec->shape[dim] = c->n_in;
    return NNL_OK;
}

static nnl_status stack_run(nnl_call *c)
{
    for (int i = 0; i < c->n_in; i++) {
        nnl_tensor part = nnl_window_select(c->out[0], (int)c->attr[0].as.i, i);
        NNL_TRY(nnl_copy(&part, c->in[i]));
    }
    return NNL_OK;
}

static void stack_grad(nnl_grad *g)
{
    for (int i = 0; i < g->n_in; i++) {
        if (g->needs[i]) g->dx[i] = DO_WITH(g->s, select, (g->attr[0], V_INT(i)), g->dy[0]);
    }
}

NNL_OP(stack,
    .sig = "tensors:any*, dim:newdim=0 -> same",
    .doc = "Tensors of one shape along a new dimension.",
    .example = "nn.stack({nn.ones(3), nn.zeros(3)}, 2)",
    .infer = stack_infer,
    .run = stack_run,
    .grad = stack_grad,
    .sample = "tensors:2x3+2x3; tensors:3+3+3 dim=-1; tensors:2x3+2x3 dim=2",
    .traits = NNL_PROMOTE);

/* ---------------------------------------------------------------- split, chunk, unbind */

static nnl_status check_dim(nnl_call *c)
{
    if (c->in[0]->ndim > 0) return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE, "a 0-d tensor has no dimension to take apart");
}

/* Piece i of the result is positions first .. first + size - 1 of dimension dim. */
static void piece(nnl_call *c, int i, int64_t dim, int64_t first, int64_t size)
{
    const nnl_tensor *x = c->in[0];
    nnl_spec *spec = &c->spec[i];
    nnl_spec_like(spec, x);
    spec->shape[dim] = size;
    nnl_spec_view(spec, x->strides, size > 0 ? first * x->strides[dim] : 0);
}

static nnl_status pieces_of(nnl_call *c, int64_t dim, int64_t size)
{
    int64_t whole = c->in[0]->shape[dim],
            n = size > 0 ? NNL_MAX(1, whole / size + (whole % size != 0)) : 1;
    if (n > INT16_MAX)
        return nnl_call_fail(c, NNL_EUNSUPPORTED, "%lld pieces are too many", (long long)n);
    NNL_TRY(nnl_call_results(c, (int)n));
    for (int i = 0; i < n; i++) piece(c, i, dim, i * size, NNL_MIN(size, whole - i * size));
    return NNL_OK;
}

static nnl_status split_infer(nnl_call *c)
{
    const nnl_value *sizes = &c->attr[0];
    int64_t dim = c->attr[1].as.i, sum = 0;
    char text[NNL_NAMED_TEXT];
    NNL_TRY(check_dim(c));
    int64_t whole = c->in[0]->shape[dim];
    int count = sizes->kind == NNL_KIND_INT ? 1 : sizes->count;
    int64_t size = sizes->kind == NNL_KIND_INT ? sizes->as.i : count > 0 ? sizes->as.ints[0] : 0;
    if (count == 1) {
        if (size == 0 && whole > 0)
            return nnl_call_fail(c, NNL_EINVAL, "size is 0, but dimension %lld has %lld positions",
                                 (long long)dim + c->index_base, (long long)whole);
        return pieces_of(c, dim, size);
    }
    for (int i = 0; i < count && sum >= 0; i++) {
        if (sizes->as.ints[i] < 0 || !nnl_add_size(sum, sizes->as.ints[i], &sum)) sum = -1;
    }
    if (sum != whole || count == 0 || count > INT16_MAX)
        return nnl_call_fail(
            c, NNL_ESHAPE,
            "the %d sizes sum up to %lld, but dimension %lld of %s has %lld positions", count,
            (long long)sum, (long long)dim + c->index_base, nnl_call_input_text(c, 0, text),
            (long long)whole);
    NNL_TRY(nnl_call_results(c, count));
    int64_t first = 0;
    for (int i = 0; i < count; i++) {
        piece(c, i, dim, first, sizes->as.ints[i]);
        first += sizes->as.ints[i];
    }
    return NNL_OK;
}

/* The pieces' gradients put together again; zeros where none has come. */
static void join_grad(nnl_grad *g, const nnl_op *op, int64_t dim)
{
    void *block;
    size_t bytes = (size_t)g->n_out * sizeof(nnl_tensor *);
    nnl_status status = nnl_alloc(g->s->rt, bytes, &block);
    if (status != NNL_OK) {
        nnl_scope_fail(g->s, status);
        return;
    }
    nnl_tensor **dy = block, *zero = NULL;
    for (int i = 0; i < g->n_out; i++) {
        const nnl_layout *layout = &g->out_layout[i];
        dy[i] = g->dy[i];
        if (dy[i]) continue;
        if (!zero) zero = nnl_full(g->s, (nnl_dtype)layout->dtype, 0, NULL, 0);
        dy[i] = nnl_expanded(g->s, zero, layout->ndim, layout->shape);
    }
    g->dx[0] = nnl_do(g->s, op, g->n_out, dy, 1, &V_INT(dim));
    nnl_free(g->s->rt, block, bytes);
}

static void split_grad(nnl_grad *g) { join_grad(g, &nnl_op_cat, g->attr[1].as.i); }

NNL_OP(split,
    .sig = "input:any, size:size*, dim:dim=0 -> same*",
    .doc = "Views of pieces of a dimension: of `size` positions each (the last one may be "
           "shorter), or of the sizes in a list.",
    .example = "nn.arange(5):split({1, 4})",
    .infer = split_infer,
    .grad = split_grad,
    .sample = "input:5x2 size=2; input:2x5 size={1, 4} dim=2; input:2x5 size={0, 3, 2} dim=-1",
    .traits = NNL_VIEW);

static nnl_status chunk_infer(nnl_call *c)
{
    int64_t chunks = c->attr[0].as.i, dim = c->attr[1].as.i;
    NNL_TRY(check_dim(c));
    if (chunks < 1)
        return nnl_call_fail(c, NNL_EINVAL, "chunks is %lld, but it must be at least 1",
                             (long long)chunks);
    int64_t whole = c->in[0]->shape[dim], size = whole / chunks + (whole % chunks != 0);
    if (whole > 0) return pieces_of(c, dim, size);
    if (chunks > INT16_MAX)
        return nnl_call_fail(c, NNL_EUNSUPPORTED, "%lld pieces are too many", (long long)chunks);
    NNL_TRY(nnl_call_results(c, (int)chunks));
    for (int i = 0; i < chunks; i++) piece(c, i, dim, 0, 0);
    return NNL_OK;
}

static void chunk_grad(nnl_grad *g) { join_grad(g, &nnl_op_cat, g->attr[1].as.i); }

NNL_OP(chunk,
    .sig = "input:any, chunks:size, dim:dim=0 -> same*",
    .doc = "Views of at most `chunks` pieces of a dimension, all of one size but for the last "
           "one, which may be shorter.",
    .example = "nn.arange(6):chunk(3)",
    .infer = chunk_infer,
    .grad = chunk_grad,
    .sample = "input:5x2 chunks=2; input:2x6 chunks=3 dim=2",
    .traits = NNL_VIEW);

static nnl_status unbind_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    int64_t dim = c->attr[0].as.i, strides[NNL_MAX_DIMS];
    NNL_TRY(check_dim(c));
    int64_t n = x->shape[dim];
    if (n > INT16_MAX)
        return nnl_call_fail(c, NNL_EUNSUPPORTED, "%lld pieces are too many", (long long)n);
    NNL_TRY(nnl_call_results(c, (int)n));
    for (int i = 0; i < n; i++) {
        nnl_spec *spec = &c->spec[i];
        spec->dtype = (nnl_dtype)x->dtype;
        spec->ndim = x->ndim - 1;
        for (int d = 0; d < spec->ndim; d++) {
            spec->shape[d] = x->shape[d + (d >= dim)];
            strides[d] = x->strides[d + (d >= dim)];
        }
        nnl_spec_view(spec, strides, i * x->strides[dim]);
    }
    return NNL_OK;
}

static void unbind_grad(nnl_grad *g) { join_grad(g, &nnl_op_stack, g->attr[0].as.i); }

NNL_OP(unbind,
    .sig = "input:any, dim:dim=0 -> same*",
    .doc = "Views of every position of a dimension, which goes.",
    .example = "nn.ones(3, 2):unbind()",
    .infer = unbind_infer,
    .grad = unbind_grad,
    .sample = "input:3x4; input:2x3x2 dim=2",
    .traits = NNL_VIEW);
