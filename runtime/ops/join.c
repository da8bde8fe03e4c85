/* Putting tensors together and taking them apart: cat, stack, split, repeat and the rearrangements
 * that copy. */
#include "op.h"
#include "dense.h"
#include "window.h"

#include <string.h>

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

/* ---------------------------------------------------------------- repeat */

/* The input's shape and the repeats, both with as many dimensions as the result has. */
static int repeated(const nnl_value *repeats, int ndim, const int64_t *shape,
                    int64_t own[NNL_MAX_DIMS], int64_t times[NNL_MAX_DIMS])
{
    int count = nnl_given(repeats) ? repeats->count : 0, all = NNL_MAX(count, ndim);
    for (int d = 0; d < all; d++) {
        own[d] = d < all - ndim ? 1 : shape[d - (all - ndim)];
        times[d] = d < all - count ? 1 : repeats->as.ints[d - (all - count)];
    }
    return all;
}

static nnl_status repeated_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    nnl_spec *spec = &c->spec[0];
    int64_t times[NNL_MAX_DIMS];
    char text[NNL_NAMED_TEXT];
    if (nnl_given(&c->attr[0]) && c->attr[0].count > NNL_MAX_DIMS)
        return nnl_call_fail(c, NNL_ESHAPE,
                             "%d repeats are given for %s, but %d dimensions are possible",
                             c->attr[0].count, nnl_call_input_text(c, 0, text), NNL_MAX_DIMS);
    spec->dtype = (nnl_dtype)x->dtype;
    spec->ndim = repeated(&c->attr[0], x->ndim, x->shape, spec->shape, times);
    for (int d = 0; d < spec->ndim; d++) {
        if (!nnl_mul_size(spec->shape[d], times[d], &spec->shape[d]))
            return nnl_call_fail(c, NNL_ENOMEM, "the result is too large");
    }
    return NNL_OK;
}

static nnl_status repeat_infer(nnl_call *c)
{
    int count = nnl_given(&c->attr[0]) ? c->attr[0].count : 0;
    char text[NNL_NAMED_TEXT];
    if (count >= c->in[0]->ndim) return repeated_infer(c);
    return nnl_call_fail(
        c, NNL_ESHAPE,
        "%d repeats are given for %s: one for each dimension is needed (tile takes fewer)", count,
        nnl_call_input_text(c, 0, text));
}

/* One copy of the input, which is doubled along one dimension after the other, from the last on. */
static nnl_status repeat_run(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    nnl_tensor *out = c->out[0];
    int64_t have[NNL_MAX_DIMS], times[NNL_MAX_DIMS];
    int ndim = repeated(&c->attr[0], x->ndim, x->shape, have, times);
    if (out->numel == 0) return NNL_OK;
    nnl_tensor first = nnl_window(out, out->data, ndim, have, out->strides);
    NNL_TRY(nnl_copy(&first, x));
    for (int d = ndim - 1; d >= 0; d--) {
        while (have[d] < out->shape[d]) {
            nnl_tensor from = nnl_window(out, out->data, ndim, have, out->strides), to = from;
            int64_t more = NNL_MIN(have[d], out->shape[d] - have[d]);
            from = nnl_window_part(&from, d, 0, more);
            to = nnl_window_part(&to, d, have[d], more);
            NNL_TRY(nnl_copy(&to, &from));
            have[d] += more;
        }
    }
    return NNL_OK;
}

/* Sums over the copies, one dimension after the other, seen as (before, copies, size and behind).
 */
static void repeat_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0], *y = &g->out_layout[0];
    int64_t own[NNL_MAX_DIMS], times[NNL_MAX_DIMS], before = 1;
    int ndim = repeated(&g->attr[0], x->ndim, x->shape, own, times);
    nnl_tensor *dy = DO(g->s, contiguous, g->dy[0]);
    for (int d = 0; d < ndim; d++) {
        int64_t copies = times[d], behind = own[d], one = 1;
        for (int e = d + 1; e < ndim; e++) behind *= y->shape[e];
        if (copies != 1)
            dy = nnl_sum_dims(g->s, nnl_reshaped(g->s, dy, 3, (int64_t[]){before, copies, behind}),
                              &V_INTS(1, &one), false);
        before *= own[d];
    }
    g->dx[0] = nnl_reshaped(g->s, dy, x->ndim, x->shape);
}

NNL_OP(repeat,
    .sig = "input:any, repeats:size... -> same",
    .doc = "Copies of the input beside each other, so many along each dimension; additional "
           "dimensions come first.",
    .example = "nn[\"repeat\"](nn.arange(3), 2, 2)", /* a word of Lua's */
    .infer = repeat_infer,
    .run = repeat_run,
    .grad = repeat_grad,
    .sample = "input:3x4 repeats={2, 3}; input:3 repeats={2, 2}; input:2x3 repeats={2, 1, 3}");

NNL_OP(tile,
    .sig = "input:any, dims:size... -> same",
    .doc = "As repeat, but fewer repeats than the input has dimensions are for its last ones.",
    .example = "nn.ones(2, 3):tile(2)",
    .infer = repeated_infer,
    .run = repeat_run,
    .grad = repeat_grad,
    .sample = "input:3x4 dims=2; input:3 dims={2, 2}");

static nnl_status interleave_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    nnl_spec *spec = &c->spec[0];
    nnl_spec_like(spec, x);
    int64_t dim = 0;
    if (nnl_given(&c->attr[1]) && x->ndim > 0) {
        dim = c->attr[1].as.i;
    } else {
        spec->ndim = 1;
        spec->shape[0] = x->numel;
    }
    if (!nnl_mul_size(spec->shape[dim], c->attr[0].as.i, &spec->shape[dim]))
        return nnl_call_fail(c, NNL_ENOMEM, "the result is too large");
    return NNL_OK;
}

/* The input as (before, size, behind). */
static void three_parts(int ndim, const int64_t *shape, const nnl_value *dim, int64_t parts[3])
{
    parts[0] = parts[1] = parts[2] = 1;
    for (int d = 0; d < ndim; d++)
        parts[!nnl_given(dim) ? 1 : d < dim->as.i ? 0 : d == dim->as.i ? 1 : 2] *= shape[d];
}

static nnl_status interleave_run(nnl_call *c)
{
    nnl_tensor *out = c->out[0], *x;
    int64_t parts[3], repeats = c->attr[0].as.i;
    if (out->numel == 0) return NNL_OK;
    NNL_TRY(nnl_dense(c->in[0], &x));
    three_parts(x->ndim, x->shape, &c->attr[1], parts);
    int64_t size = parts[1], behind = parts[2], shape[] = {parts[0], size, repeats, behind};
    nnl_tensor to = nnl_window(out, out->data, 4, shape,
                               (int64_t[]){size * repeats * behind, repeats * behind, behind, 1});
    nnl_tensor from = nnl_window(x, x->data, 4, shape, (int64_t[]){size * behind, behind, 0, 1});
    nnl_status status = nnl_copy(&to, &from);
    nnl_tensor_unref(x);
    return status;
}

static void interleave_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0];
    int64_t parts[3], dim = 1;
    three_parts(x->ndim, x->shape, &g->attr[1], parts);
    int64_t shape[] = {parts[0] * parts[1], g->attr[0].as.i, parts[2]};
    nnl_tensor *sum =
        nnl_sum_dims(g->s, nnl_reshaped(g->s, g->dy[0], 3, shape), &V_INTS(1, &dim), false);
    g->dx[0] = nnl_reshaped(g->s, sum, x->ndim, x->shape);
}

NNL_OP(repeat_interleave,
    .sig = "input:any, repeats:size, dim:dim? -> same",
    .doc = "Every position of a dimension repeated in its place; of the flattened input without "
           "dim.",
    .example = "nn.arange(3):repeat_interleave(2)",
    .infer = interleave_infer,
    .run = interleave_run,
    .grad = interleave_grad,
    .sample = "input:3x4 repeats=2; input:2x3x2 repeats=3 dim=2");

/* ---------------------------------------------------------------- flip and roll */

static nnl_status flip_run(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    bool flags[NNL_MAX_DIMS] = {false};
    nnl_tensor from = *x; /* backwards along the named dimensions */
    for (int i = 0; i < c->attr[0].count; i++) flags[c->attr[0].as.ints[i]] = true;
    if (x->numel == 0) return NNL_OK;
    for (int d = 0; d < x->ndim; d++) {
        if (!flags[d] || x->shape[d] == 1) continue;
        from.data +=
            (x->shape[d] - 1) * x->strides[d] * (int64_t)nnl_dtype_size((nnl_dtype)x->dtype);
        from.strides[d] = -x->strides[d];
        from.contiguous = false;
    }
    return nnl_copy(c->out[0], &from);
}

static void flip_grad(nnl_grad *g) { g->dx[0] = DO_WITH(g->s, flip, (g->attr[0]), g->dy[0]); }

NNL_OP(flip,
    .sig = "input:any, dims:dim... -> same",
    .doc = "A copy with the order of positions reversed in some dimensions.",
    .example = "nn.arange(4):flip(1)",
    .infer = nnl_infer_same,
    .run = flip_run,
    .grad = flip_grad,
    .sample = "input:3x4 dims=1; input:2x3x4 dims={1, 3}");

static nnl_status roll_infer(nnl_call *c)
{
    const nnl_value *dims = &c->attr[1];
    int shifts = c->attr[0].count, count = nnl_given(dims) ? dims->count : 1;
    if (shifts != count)
        return nnl_call_fail(c, NNL_EINVAL, "%d shifts are given for %d dimensions", shifts, count);
    return nnl_infer_same(c);
}

/* Both sides of each rolled dimension are copied, as blocks: 2^k for k dimensions. */
static nnl_status roll_run(nnl_call *c)
{
    const nnl_value *shifts = &c->attr[0], *dims = &c->attr[1];
    nnl_tensor *out = c->out[0], from = *c->in[0], to = *out;
    int64_t flat = out->numel;
    nnl_tensor *packed = NULL;
    if (out->numel == 0) return NNL_OK;
    if (!nnl_given(dims)) {
        NNL_TRY(nnl_dense(c->in[0], &packed));
        from = nnl_window(packed, packed->data, 1, &flat, (int64_t[]){1});
        to = nnl_window(out, out->data, 1, &flat, (int64_t[]){1});
    }
    nnl_status status = NNL_OK;
    for (unsigned block = 0; block < 1u << shifts->count && status == NNL_OK; block++) {
        nnl_tensor a = from, b = to;
        for (int i = 0; i < shifts->count && from.ndim > 0; i++) {
            int dim = nnl_given(dims) ? (int)dims->as.ints[i] : 0;
            int64_t size = from.shape[dim], shift = shifts->as.ints[i] % size;
            if (shift < 0) shift += size;
            bool tail = block >> i & 1u; /* the last `shift` positions come to the front */
            a = nnl_window_part(&a, dim, tail ? size - shift : 0, tail ? shift : size - shift);
            b = nnl_window_part(&b, dim, tail ? 0 : shift, tail ? shift : size - shift);
        }
        status = nnl_copy(&b, &a);
    }
    nnl_tensor_unref(packed);
    return status;
}

static void roll_grad(nnl_grad *g)
{
    int64_t back[NNL_MAX_DIMS];
    for (int i = 0; i < g->attr[0].count; i++)
        back[i] = g->attr[0].as.ints[i] == INT64_MIN ? 0 : -g->attr[0].as.ints[i];
    g->dx[0] = DO_WITH(g->s, roll, (V_INTS(g->attr[0].count, back), g->attr[1]), g->dy[0]);
}

NNL_OP(roll,
    .sig = "input:any, shifts:int*, dims:dim*? -> same",
    .doc = "A copy with positions moved on by an offset along dimensions; those that leave at the "
           "end enter at the beginning.  The flattened elements are rolled without dims.",
    .example = "nn.arange(5):roll(2)",
    .infer = roll_infer,
    .run = roll_run,
    .grad = roll_grad,
    .sample = "input:3x4 shifts=1; input:2x3x4 shifts={1, -2} dims={1, 3}; input:3x4 shifts=-5 "
              "dims=2");

/* ---------------------------------------------------------------- triangles and diagonals */

typedef struct triangle_job {
    nnl_tensor *out;
    int64_t diagonal, per_chunk, rows;
    bool upper;
} triangle_job;

static void triangle_task(void *context, int64_t chunk)
{
    const triangle_job *job = context;
    const nnl_tensor *out = job->out;
    int last = out->ndim - 1;
    int64_t width = (int64_t)nnl_dtype_size((nnl_dtype)out->dtype), columns = out->shape[last],
            step = out->strides[last] * width;
    int64_t end = NNL_MIN((chunk + 1) * job->per_chunk, job->rows);
    static const int64_t zero;
    for (int64_t row = chunk * job->per_chunk; row < end; row++) {
        int64_t rest = row, i = row % out->shape[last - 1];
        char *to = out->data;
        for (int d = last - 1; d >= 0; d--) {
            to += rest % out->shape[d] * out->strides[d] * width;
            rest /= out->shape[d];
        }
        /* columns first .. stop - 1 are on the other side of the diagonal */
        int64_t edge = i + job->diagonal + (job->upper ? 0 : 1);
        int64_t first = job->upper ? 0 : NNL_MIN(NNL_MAX(edge, 0), columns),
                stop = job->upper ? NNL_MIN(edge, columns) : columns;
        if (stop > first)
            out->rt->kernels->copy_strided((int)width, to + first * step, step, &zero, 0,
                                           stop - first);
    }
}

static nnl_status triangle_infer(nnl_call *c)
{
    char text[NNL_NAMED_TEXT];
    if (c->in[0]->ndim >= 2) return nnl_infer_same(c);
    return nnl_call_fail(c, NNL_ESHAPE, "%s must have two dimensions or more",
                         nnl_call_input_text(c, 0, text));
}

static nnl_status triangle(nnl_call *c, bool upper)
{
    nnl_tensor *out = c->out[0];
    int64_t columns = out->shape[out->ndim - 1];
    if (out != c->in[0]) NNL_TRY(nnl_copy(out, c->in[0]));
    if (out->numel == 0) return NNL_OK;
    /* Far enough out is as good as any offset, and does not overflow. */
    int64_t rows = out->shape[out->ndim - 2],
            diagonal = NNL_MAX(-rows - 1, NNL_MIN(c->attr[0].as.i, columns + 1));
    triangle_job job = {
        .out = out, .diagonal = diagonal, .upper = upper, .rows = out->numel / columns};
    job.per_chunk = out->numel <= NNL_SERIAL_WORK ? job.rows : NNL_MAX(1, 16384 / columns);
    return nnl_parallel(c->rt, (job.rows + job.per_chunk - 1) / job.per_chunk, triangle_task, &job);
}

static nnl_status tril_run(nnl_call *c) { return triangle(c, false); }
static nnl_status triu_run(nnl_call *c) { return triangle(c, true); }
static void tril_grad(nnl_grad *g) { g->dx[0] = DO_WITH(g->s, tril, (g->attr[0]), g->dy[0]); }
static void triu_grad(nnl_grad *g) { g->dx[0] = DO_WITH(g->s, triu, (g->attr[0]), g->dy[0]); }

NNL_OP(tril,
    .sig = "input:any, diagonal:int=0 -> same",
    .doc = "The lower triangle of matrices, with their diagonal, else zeros; diagonal > 0 keeps "
           "as many more above it.",
    .example = "nn.ones(3, 3):tril()",
    .infer = triangle_infer,
    .run = tril_run,
    .grad = tril_grad,
    .sample = "input:4x4; input:3x4 diagonal=1; input:2x3x4 diagonal=-1",
    .traits = NNL_INPLACE_OK);

NNL_OP(triu,
    .sig = "input:any, diagonal:int=0 -> same",
    .doc = "The upper triangle of matrices, with their diagonal, else zeros; diagonal > 0 leaves "
           "out as many more from it on.",
    .example = "nn.ones(3, 3):triu(1)",
    .infer = triangle_infer,
    .run = triu_run,
    .grad = triu_grad,
    .sample = "input:4x4; input:3x4 diagonal=1; input:2x3x4 diagonal=-1",
    .traits = NNL_INPLACE_OK);

/* The diagonal of a matrix of this shape. */
static int64_t diagonal_of(int64_t rows, int64_t columns, int64_t offset)
{
    int64_t above = NNL_MAX(offset, 0), below = NNL_MAX(-offset, 0);
    return NNL_MAX(0, NNL_MIN(rows - below, columns - above));
}

static nnl_status diag_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    int64_t offset = c->attr[0].as.i, size[2];
    char text[NNL_NAMED_TEXT];
    if (x->ndim != 1 && x->ndim != 2)
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have one or two dimensions",
                             nnl_call_input_text(c, 0, text));
    if (offset < -((int64_t)1 << 40) || offset > (int64_t)1 << 40)
        return nnl_call_fail(c, NNL_EINVAL, "diagonal is %lld", (long long)offset);
    size[0] = size[1] = x->ndim == 1 ? x->shape[0] + (offset < 0 ? -offset : offset)
                                     : diagonal_of(x->shape[0], x->shape[1], offset);
    nnl_spec_set(&c->spec[0], (nnl_dtype)x->dtype, 3 - x->ndim, size);
    return NNL_OK;
}

/* The diagonal of matrix m as a window of n elements. */
static nnl_tensor diagonal_window(const nnl_tensor *m, int64_t offset, int64_t n)
{
    int64_t width = (int64_t)nnl_dtype_size((nnl_dtype)m->dtype),
            first = offset >= 0 ? offset * m->strides[1] : -offset * m->strides[0];
    return nnl_window(m, m->data + (n > 0 ? first * width : 0), 1, &n,
                      (int64_t[]){m->strides[0] + m->strides[1]});
}

static nnl_status diag_run(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    nnl_tensor *out = c->out[0];
    if (x->ndim == 2) {
        nnl_tensor from = diagonal_window(x, c->attr[0].as.i, out->numel);
        return nnl_copy(out, &from);
    }
    memset(out->data, 0, (size_t)out->numel * nnl_dtype_size((nnl_dtype)out->dtype));
    nnl_tensor to = diagonal_window(out, c->attr[0].as.i, x->numel);
    return nnl_copy(&to, x);
}

static void diag_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0];
    int64_t offset = g->attr[0].as.i, columns = x->shape[1], step = columns + 1;
    if (x->ndim == 1) {
        g->dx[0] = DO_WITH(g->s, diag, (g->attr[0]), g->dy[0]);
        return;
    }
    g->dx[0] = DO_WITH(
        g->s, place,
        (V_INTS(2, x->shape), V_INTS(1, &step), V_INT(offset >= 0 ? offset : -offset * columns)),
        g->dy[0]);
}

NNL_OP(diag,
    .sig = "input:any, diagonal:int=0 -> same",
    .doc = "A matrix with a vector on its diagonal, or the diagonal of a matrix as a vector; "
           "diagonal > 0 is above the main one.",
    .example = "nn.diag(nn.arange(3))",
    .infer = diag_infer,
    .run = diag_run,
    .grad = diag_grad,
    .sample = "input:3; input:3 diagonal=-1; input:4x4; input:3x4 diagonal=2");

/* ---------------------------------------------------------------- meshgrid */

/* Which dimension of the result input i runs along. */
static int mesh_dim(const nnl_value *indexing, int n, int i)
{
    return indexing->as.i == 1 && n >= 2 && i < 2 ? 1 - i : i;
}

static nnl_status meshgrid_infer(nnl_call *c)
{
    int64_t shape[NNL_MAX_DIMS];
    char text[NNL_NAMED_TEXT];
    if (c->n_in == 0 || c->n_in > NNL_MAX_DIMS)
        return nnl_call_fail(c, NNL_EINVAL, "%d tensors are given; 1 to %d are possible", c->n_in,
                             NNL_MAX_DIMS);
    for (int i = 0; i < c->n_in; i++) {
        if (c->in[i]->ndim > 1)
            return nnl_call_fail(c, NNL_ESHAPE, "%s must have one dimension",
                                 nnl_call_input_text(c, i, text));
        shape[mesh_dim(&c->attr[0], c->n_in, i)] = c->in[i]->numel;
    }
    NNL_TRY(nnl_call_results(c, c->n_in));
    for (int i = 0; i < c->n_in; i++) {
        nnl_spec_set(&c->spec[i], (nnl_dtype)c->in[i]->dtype, c->n_in, shape);
    }
    return NNL_OK;
}

static nnl_status meshgrid_run(nnl_call *c)
{
    for (int i = 0; i < c->n_in; i++) {
        int64_t strides[NNL_MAX_DIMS] = {0};
        if (c->in[i]->ndim == 1) strides[mesh_dim(&c->attr[0], c->n_in, i)] = c->in[i]->strides[0];
        nnl_tensor from = nnl_window(c->in[i], c->in[i]->data, c->n_in, c->out[i]->shape, strides);
        NNL_TRY(nnl_copy(c->out[i], &from));
    }
    return NNL_OK;
}

static void meshgrid_grad(nnl_grad *g)
{
    for (int i = 0; i < g->n_in; i++) {
        if (!g->needs[i] || !g->dy[i]) continue;
        int64_t dims[NNL_MAX_DIMS];
        int count = 0;
        for (int d = 0; d < g->n_in; d++) {
            if (d != mesh_dim(&g->attr[0], g->n_in, i)) dims[count++] = d;
        }
        nnl_tensor *dx =
            count > 0 ? nnl_sum_dims(g->s, g->dy[i], &V_INTS(count, dims), false) : g->dy[i];
        g->dx[i] = nnl_reshaped(g->s, dx, g->in_layout[i].ndim, g->in_layout[i].shape);
    }
}

NNL_OP(meshgrid,
    .sig = "tensors:any*, indexing:{ij|xy}=ij -> same*",
    .doc = "Each vector spread over the grid that all span: result i runs along dimension i; with "
           "xy the first two are exchanged.",
    .example = "nn.meshgrid({nn.arange(2), nn.arange(3)})",
    .infer = meshgrid_infer,
    .run = meshgrid_run,
    .grad = meshgrid_grad,
    .sample = "tensors:2+3; tensors:2+3+4 indexing=\"xy\"");
