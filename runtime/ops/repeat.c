/* Copies with elements in other places: repeated, reversed, rolled, spread over a grid. */
#include "op.h"
#include "dense.h"
#include "window.h"

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
