/* Reductions over any set of dimensions. */
#include "reduce.h"

#include <string.h>

static nnl_dtype type_of(const nnl_tensor *t) { return (nnl_dtype)t->dtype; }

/* "2" or "all dimensions": for messages. */
static nnl_status fail_empty(nnl_call *c)
{
    char text[NNL_NAMED_TEXT];
    return nnl_call_fail(c, NNL_ESHAPE, "%s has no elements to choose from", nnl_call_input_text(c, 0, text));
}

/* ---------------------------------------------------------------- sums and means */

/* Attributes dim, keepdim; integers and bool give i64. */
static nnl_status sum_infer(nnl_call *c)
{
    nnl_dtype dtype = nnl_is_float(type_of(c->in[0])) ? type_of(c->in[0]) : NNL_I64;
    nnl_reduce_spec(c, 0, dtype, &c->attr[0], c->attr[1].as.i);
    return NNL_OK;
}

static nnl_status sum_run(nnl_call *c)
{
    return nnl_reduce(c->rt, (nnl_reduce_kind)c->op->variant, c->in[0], &c->attr[0], NNL_END_PLAIN, 1, c->out[0]);
}

/* A result, or its gradient, in the form of the input again. */
static nnl_tensor *spread(nnl_grad *g, nnl_tensor *y, int dims, int keepdim)
{
    return nnl_unreduced(g->s, y, &g->attr[dims], g->attr[keepdim].as.i, g->in_layout[0].ndim, g->in_layout[0].shape);
}

static void sum_grad(nnl_grad *g) { g->dx[0] = spread(g, g->dy[0], 0, 1); }

NNL_OP(sum,
    .sig = "input:any, dim:dim*?, keepdim:flag=false -> same",
    .doc = "Sum over the given dimensions, or over all.  Integers and bool give i64.  The sum of no elements is 0.",
    .example = "nn.ones(2, 3):sum(1)",
    .infer = sum_infer,
    .run = sum_run,
    .variant = NNL_REDUCE_SUM,
    .grad = sum_grad,
    .sample = "input:3x4; input:3x4 dim=1; input:2x3x4 dim={1, 3} keepdim=true");

static nnl_status same_infer(nnl_call *c)
{
    nnl_reduce_spec(c, 0, type_of(c->in[0]), &c->attr[0], c->attr[1].as.i);
    return NNL_OK;
}

static nnl_status mean_run(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    double over = 1 / (double)nnl_reduce_count(x->ndim, x->shape, &c->attr[0]);
    return nnl_reduce(c->rt, NNL_REDUCE_SUM, c->in[0], &c->attr[0], NNL_END_SCALE, over, c->out[0]);
}

static void mean_grad(nnl_grad *g)
{
    double n = (double)nnl_reduce_count(g->in_layout[0].ndim, g->in_layout[0].shape, &g->attr[0]);
    g->dx[0] = spread(g, nnl_scaled(g->s, g->dy[0], 1 / n), 0, 1);
}

NNL_OP(mean,
    .sig = "input:real, dim:dim*?, keepdim:flag=false -> same",
    .doc = "Mean over the given dimensions, or over all.  Integers and bool are converted to f32.  The mean of no "
           "elements is NaN.",
    .example = "nn.tensor({1, 2, 6}):mean()",
    .infer = same_infer,
    .run = mean_run,
    .grad = mean_grad,
    .sample = "input:3x4; input:3x4 dim=2; input:2x3x4 dim={1, 3} keepdim=true");

/* ---------------------------------------------------------------- extremes and their places */

/* One dimension, or all elements in row-major order: values (or NULL) and places. */
static nnl_status extreme_run(nnl_call *c, nnl_reduce_kind kind, const nnl_value *dim, nnl_tensor *values, nnl_tensor *places)
{
    nnl_tensor *x = c->in[0];
    bool reduced[NNL_MAX_DIMS];
    nnl_accumulators acc;
    nnl_dim_flags(dim, x->ndim, reduced);
    NNL_TRY(nnl_reduce_accumulate(c->rt, kind, x, reduced, NULL, false, &acc));
    nnl_status status = NNL_OK;
    if (places) status = nnl_reduce_find(c->rt, x, reduced, &acc, c->index_base, places);
    if (values) nnl_accumulators_store(c->rt, &acc, nnl_is_float(type_of(x)), NNL_END_PLAIN, 1, values);
    nnl_accumulators_free(c->rt, &acc);
    return status;
}

/* There is something to choose from, wherever a result is asked for. */
static nnl_status check_choice(nnl_call *c, const nnl_value *dims)
{
    const nnl_tensor *x = c->in[0];
    bool reduced[NNL_MAX_DIMS];
    int64_t results = 1;
    nnl_dim_flags(dims, x->ndim, reduced);
    for (int d = 0; d < x->ndim; d++) results *= reduced[d] ? 1 : x->shape[d];
    return results > 0 && nnl_reduce_count(x->ndim, x->shape, dims) == 0 ? fail_empty(c) : NNL_OK;
}

static nnl_status max_infer(nnl_call *c)
{
    bool places = nnl_given(&c->attr[0]);
    NNL_TRY(check_choice(c, &c->attr[0]));
    if (!places) NNL_TRY(nnl_call_results(c, 1));
    nnl_reduce_spec(c, 0, type_of(c->in[0]), &c->attr[0], c->attr[1].as.i);
    if (places) nnl_reduce_spec(c, 1, NNL_I64, &c->attr[0], c->attr[1].as.i);
    return NNL_OK;
}

static nnl_status max_run(nnl_call *c)
{
    return extreme_run(c, (nnl_reduce_kind)c->op->variant, &c->attr[0], c->out[0], c->n_out > 1 ? c->out[1] : NULL);
}

/* Each element that equals its result, by an equal share. */
static nnl_tensor *ties_grad(nnl_grad *g, int dims, int keepdim)
{
    nnl_tensor *share = DO_WITH(g->s, extreme_share, (g->attr[dims]), g->in[0], spread(g, g->out[0], dims, keepdim));
    return DO(g->s, mul, spread(g, g->dy[0], dims, keepdim), share);
}

static void max_grad(nnl_grad *g)
{
    if (!nnl_given(&g->attr[0])) {
        g->dx[0] = ties_grad(g, 0, 1);
    } else if (g->dy[0]) {
        const nnl_layout *layout = &g->in_layout[0];
        int64_t size = layout->ndim ? layout->shape[g->attr[0].as.i] : 1;
        g->dx[0] = DO_WITH(g->s, place_along, (g->attr[0], g->attr[1], V_INT(size), V_FLAG(layout->ndim == 0)),
                           g->dy[0], g->out[1]);
    }
}

NNL_OP(max,
    .sig = "input:any, dim:dim?, keepdim:flag=false -> values:same, places:i64",
    .doc = "The largest element; with dim, the largest along that dimension and its place (the first, when there are "
           "several).  NaN counts as largest.  Without dim the gradient is shared evenly among equal elements.",
    .example = "local values, places = nn.tensor({{1, 5}, {7, 2}}):max(2)",
    .infer = max_infer,
    .run = max_run,
    .variant = NNL_REDUCE_MAX,
    .grad = max_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_OUTPUT(0) | NNL_SAVE_OUTPUT(1),
    .sample = "input:3x4^; input:3x4^ dim=1; input:2x3x4^ dim=-1 keepdim=true");

NNL_OP(min,
    .sig = "input:any, dim:dim?, keepdim:flag=false -> values:same, places:i64",
    .doc = "The smallest element; with dim, the smallest along that dimension and its place (the first, when there are "
           "several).  NaN counts as smallest.  Without dim the gradient is shared evenly among equal elements.",
    .example = "local values, places = nn.tensor({{1, 5}, {7, 2}}):min(2)",
    .infer = max_infer,
    .run = max_run,
    .variant = NNL_REDUCE_MIN,
    .grad = max_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_OUTPUT(0) | NNL_SAVE_OUTPUT(1),
    .sample = "input:3x4^; input:3x4^ dim=1; input:2x3x4^ dim=-1 keepdim=true");

static nnl_status amax_infer(nnl_call *c)
{
    NNL_TRY(check_choice(c, &c->attr[0]));
    return same_infer(c);
}

static nnl_status amax_run(nnl_call *c)
{
    return extreme_run(c, (nnl_reduce_kind)c->op->variant, &c->attr[0], c->out[0], NULL);
}

static void amax_grad(nnl_grad *g) { g->dx[0] = ties_grad(g, 0, 1); }

NNL_OP(amax,
    .sig = "input:any, dim:dim*?, keepdim:flag=false -> same",
    .doc = "The largest element over the given dimensions, or over all.  The gradient is shared evenly among equal elements.",
    .example = "nn.tensor({{1, 5}, {7, 2}}):amax(2)",
    .infer = amax_infer,
    .run = amax_run,
    .variant = NNL_REDUCE_MAX,
    .grad = amax_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4^; input:2x3x4^ dim={1, 3}; input:3x4^ dim=2 keepdim=true");

NNL_OP(amin,
    .sig = "input:any, dim:dim*?, keepdim:flag=false -> same",
    .doc = "The smallest element over the given dimensions, or over all.  The gradient is shared evenly among equal elements.",
    .example = "nn.tensor({{1, 5}, {7, 2}}):amin(2)",
    .infer = amax_infer,
    .run = amax_run,
    .variant = NNL_REDUCE_MIN,
    .grad = amax_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4^; input:2x3x4^ dim={1, 3}; input:3x4^ dim=2 keepdim=true");

static nnl_status argmax_infer(nnl_call *c)
{
    NNL_TRY(check_choice(c, &c->attr[0]));
    nnl_reduce_spec(c, 0, NNL_I64, &c->attr[0], c->attr[1].as.i);
    return NNL_OK;
}

static nnl_status argmax_run(nnl_call *c)
{
    return extreme_run(c, (nnl_reduce_kind)c->op->variant, &c->attr[0], NULL, c->out[0]);
}

NNL_OP(argmax,
    .sig = "input:any, dim:dim?, keepdim:flag=false -> i64",
    .doc = "The place of the largest element along dim, or among all elements in row-major order; the first, when there "
           "are several.  NaN counts as largest.",
    .example = "nn.tensor({{1, 5}, {7, 2}}):argmax(2)",
    .infer = argmax_infer,
    .run = argmax_run,
    .variant = NNL_REDUCE_MAX,
    NNL_NO_GRAD("places are whole numbers"),
    .sample = "input:3x4^; input:3x4^ dim=1; input:2x3x4^ dim=-1 keepdim=true");

NNL_OP(argmin,
    .sig = "input:any, dim:dim?, keepdim:flag=false -> i64",
    .doc = "The place of the smallest element along dim, or among all elements in row-major order; the first, when there "
           "are several.  NaN counts as smallest.",
    .example = "nn.tensor({{1, 5}, {7, 2}}):argmin(2)",
    .infer = argmax_infer,
    .run = argmax_run,
    .variant = NNL_REDUCE_MIN,
    NNL_NO_GRAD("places are whole numbers"),
    .sample = "input:3x4^; input:3x4^ dim=1; input:2x3x4^ dim=-1 keepdim=true");

/* 1 / (number of x equal to y) where x equals y, else 0. */
static nnl_status share_run(nnl_call *c)
{
    nnl_tensor *x = c->in[0], *out = c->out[0], *equal, *count;
    nnl_spec spec;
    nnl_runtime *rt = c->rt;
    bool reduced[NNL_MAX_DIMS];
    nnl_spec_like(&spec, x);
    spec.dtype = NNL_BOOL;
    NNL_TRY(nnl_tensor_make(rt, &spec, NULL, &equal));
    nnl_status status = nnl_map_run(rt, NNL_MAP_eq, 2, c->in, equal, NULL);
    if (status == NNL_OK) status = nnl_copy(out, equal);
    spec.dtype = type_of(x);
    nnl_dim_flags(&c->attr[0], x->ndim, reduced);
    for (int d = 0; d < x->ndim; d++) spec.shape[d] = reduced[d] ? 1 : x->shape[d];
    if (status == NNL_OK) status = nnl_tensor_make(rt, &spec, NULL, &count);
    if (status == NNL_OK) {
        status = nnl_reduce(rt, NNL_REDUCE_NONZERO, equal, &c->attr[0], NNL_END_PLAIN, 1, count);
        if (status == NNL_OK) status = nnl_map_run(rt, NNL_MAP_div, 2, (nnl_tensor *[]){out, count}, out, NULL);
        nnl_tensor_unref(count);
    }
    nnl_tensor_unref(equal);
    return status;
}

NNL_OP(extreme_share,
    .sig = "input:float, y:float, dim:dim*? -> same",
    .doc = "1 / n where input equals y, else 0; n is how many along the dimensions do.",
    .infer = nnl_infer_same,
    .run = share_run,
    NNL_NO_GRAD("piecewise constant"),
    .sample = "input:3x4^ y:3x4^",
    .traits = NNL_HIDDEN);

/* ---------------------------------------------------------------- one element along a dimension */

/* Between a tensor and one element of it along a dimension, for every place of the other dimensions. */
typedef struct along {
    int64_t step; /* bytes, along the dimension, of operand 0 */
    int width, base;
    bool into;    /* operand 1 into operand 0, or the reverse */
} along;

static void along_body(void *context, const nnl_loop *loop, char *const *address, int64_t n)
{
    const along *a = context;
    int inner = loop->ndim - 1;
    int64_t big_step = loop->step[0][inner], small_step = loop->step[1][inner], place_step = loop->step[2][inner];
    for (int64_t i = 0; i < n; i++) {
        int64_t place = *(const int64_t *)(const void *)(address[2] + i * place_step) - a->base;
        char *big = address[0] + i * big_step + place * a->step, *small = address[1] + i * small_step;
        if (a->into) memcpy(big, small, (size_t)a->width);
        else memcpy(small, big, (size_t)a->width);
    }
}

/* small and places have big's shape without the dimension, or with size 1 there. */
static nnl_status run_along(nnl_call *c, nnl_tensor *big, nnl_tensor *small, nnl_tensor *places, bool into)
{
    int64_t dim = c->attr[0].as.i, strides[NNL_MAX_DIMS];
    nnl_spec spec;
    nnl_tensor *face;
    nnl_spec_like(&spec, small);
    for (int d = 0; d < small->ndim; d++)
        strides[d] = small->ndim == big->ndim ? big->strides[d] : big->strides[d + (d >= dim)];
    nnl_spec_view(&spec, strides, 0);
    NNL_TRY(nnl_tensor_make(c->rt, &spec, big, &face));
    nnl_loop loop;
    nnl_loop_plan(&loop, small->ndim, small->shape, 3, (nnl_tensor *[]){face, small, places});
    along a = {.width = (int)nnl_dtype_size(type_of(big)), .base = c->index_base, .into = into};
    a.step = big->ndim ? big->strides[dim] * a.width : 0;
    nnl_status status = nnl_loop_run(c->rt, &loop, 4, along_body, &a);
    nnl_tensor_unref(face);
    return status;
}

/* Attributes dim, keepdim, size. */
static nnl_status place_along_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    nnl_spec *spec = &c->spec[0];
    int64_t dim = c->attr[0].as.i;
    bool keepdim = c->attr[1].as.i;
    nnl_spec_like(spec, x);
    if (keepdim) {
        if (x->ndim > 0) spec->shape[dim] = c->attr[2].as.i;
        return NNL_OK;
    }
    if (x->ndim == 0 && dim == 0 && c->attr[2].as.i == 1 && c->attr[3].as.i) return NNL_OK;
    for (int64_t d = spec->ndim++; d > dim; d--) spec->shape[d] = spec->shape[d - 1];
    spec->shape[dim] = c->attr[2].as.i;
    return NNL_OK;
}

static nnl_status place_along_run(nnl_call *c)
{
    NNL_TRY(nnl_fill(c->out[0], V_INT(0)));
    return run_along(c, c->out[0], c->in[0], c->in[1], true);
}

static void place_along_grad(nnl_grad *g)
{
    g->dx[0] = DO_WITH(g->s, take_along, (g->attr[0], g->attr[1], g->attr[3]), g->dy[0], g->in[1]);
}

NNL_OP(place_along,
    .sig = "input:any, places:index, dim:int, keepdim:flag, size:int, whole:flag=false -> same",
    .doc = "Zeros but for the elements of input, which stand at their places along a dimension.  whole: of a 0-d tensor.",
    .infer = place_along_infer,
    .run = place_along_run,
    .grad = place_along_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:3 places:3<4>{i64} dim=1 keepdim=false size=4",
    .traits = NNL_HIDDEN);

static nnl_status take_along_infer(nnl_call *c)
{
    nnl_spec_like(&c->spec[0], c->in[1]);
    c->spec[0].dtype = type_of(c->in[0]);
    return NNL_OK;
}

static nnl_status take_along_run(nnl_call *c) { return run_along(c, c->in[0], c->out[0], c->in[1], false); }

static void take_along_grad(nnl_grad *g)
{
    const nnl_layout *layout = &g->in_layout[0];
    int64_t size = layout->ndim ? layout->shape[g->attr[0].as.i] : 1;
    g->dx[0] = DO_WITH(g->s, place_along, (g->attr[0], g->attr[1], V_INT(size), g->attr[2]), g->dy[0], g->in[1]);
}

NNL_OP(take_along,
    .sig = "input:any, places:index, dim:int, keepdim:flag, whole:flag=false -> same",
    .doc = "The elements at these places along a dimension: one for each place of the other dimensions.",
    .infer = take_along_infer,
    .run = take_along_run,
    .grad = take_along_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:3x4 places:3<4>{i64} dim=1 keepdim=false",
    .traits = NNL_HIDDEN);
