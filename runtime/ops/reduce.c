/* Reductions over any set of dimensions. */
#include "reduce.h"

#include <math.h>

static nnl_dtype type_of(const nnl_tensor *t) { return (nnl_dtype)t->dtype; }

/* "2" or "all dimensions": for messages. */
static nnl_status fail_empty(nnl_call *c)
{
    char text[NNL_NAMED_TEXT];
    return nnl_call_fail(c, NNL_ESHAPE, "%s has no elements to choose from", nnl_call_input_text(c, 0, text));
}

/* ---------------------------------------------------------------- sums and means */

/* Attributes dim, keepdim, dtype; integers and bool give i64. */
static nnl_status sum_infer(nnl_call *c)
{
    nnl_dtype dtype = nnl_is_float(type_of(c->in[0])) ? type_of(c->in[0]) : NNL_I64;
    if (nnl_given(&c->attr[2])) dtype = (nnl_dtype)c->attr[2].as.i;
    nnl_reduce_spec(c, 0, dtype, &c->attr[0], c->attr[1].as.i);
    return NNL_OK;
}

static nnl_status sum_run(nnl_call *c)
{
    return nnl_reduce(c->rt, (nnl_reduce_kind)c->op->variant, c->in[0], &c->attr[0], NNL_END_PLAIN, 1, c->out[0]);
}

static nnl_status sum_ready(nnl_ready *r)
{
    return nnl_reduce_ready(r, (nnl_reduce_kind)r->call->op->variant, &r->call->attr[0], NNL_END_PLAIN, 1);
}

/* A result, or its gradient, in the form of the input again. */
static nnl_tensor *spread(nnl_grad *g, nnl_tensor *y, int dims, int keepdim)
{
    return nnl_unreduced(g->s, y, &g->attr[dims], g->attr[keepdim].as.i, g->in_layout[0].ndim, g->in_layout[0].shape);
}

static void sum_grad(nnl_grad *g) { g->dx[0] = spread(g, g->dy[0], 0, 1); }

NNL_OP(sum,
    .sig = "input:any, dim:dim*?, keepdim:flag=false, dtype:dtype? -> same",
    .doc = "Sum over the given dimensions, or over all.  Integers and bool give i64.  The sum of no elements is 0.  With "
           "dtype the input is converted to that type first.",
    .example = "nn.ones(2, 3):sum(1)",
    .infer = sum_infer,
    .run = sum_run,
    .ready = sum_ready,
    .variant = NNL_REDUCE_SUM,
    .grad = sum_grad,
    .sample = "input:3x4; input:3x4 dim=1; input:2x3x4 dim={1, 3} keepdim=true; input:3x4 dim=1 dtype=\"f64\"",
    .traits = NNL_CAST);

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

static nnl_status mean_ready(nnl_ready *r)
{
    const nnl_tensor *x = r->call->in[0];
    double over = 1 / (double)nnl_reduce_count(x->ndim, x->shape, &r->call->attr[0]);
    return nnl_reduce_ready(r, NNL_REDUCE_SUM, &r->call->attr[0], NNL_END_SCALE, over);
}

static void mean_grad(nnl_grad *g)
{
    double n = (double)nnl_reduce_count(g->in_layout[0].ndim, g->in_layout[0].shape, &g->attr[0]);
    g->dx[0] = spread(g, nnl_scaled(g->s, g->dy[0], 1 / n), 0, 1);
}

NNL_OP(mean,
    .sig = "input:real, dim:dim*?, keepdim:flag=false, dtype:dtype? -> same",
    .doc = "Mean over the given dimensions, or over all.  Integers and bool are converted to f32, with dtype "
           "the input to that type.  The mean of no elements is NaN.",
    .example = "nn.tensor({1, 2, 6}):mean()",
    .infer = same_infer,
    .run = mean_run,
    .ready = mean_ready,
    .grad = mean_grad,
    .sample = "input:3x4; input:3x4 dim=2; input:2x3x4 dim={1, 3} keepdim=true; input:3x4 dim=1 dtype=\"f64\"",
    .traits = NNL_CAST);

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

/* Zeros but for dy at the places along the dimension of the first attribute. */
static nnl_tensor *along_grad(nnl_grad *g, nnl_tensor *dy, nnl_tensor *places)
{
    const nnl_layout *x = &g->in_layout[0];
    int64_t shape[NNL_MAX_DIMS];
    for (int d = 0; d < x->ndim; d++) shape[d] = d == g->attr[0].as.i ? 1 : x->shape[d];
    dy = nnl_reshaped(g->s, dy, x->ndim, shape);
    places = nnl_reshaped(g->s, places, x->ndim, shape);
    return DO_WITH(g->s, gather_backward, (g->attr[0], V_INTS(x->ndim, x->shape)), dy, places);
}

static void max_grad(nnl_grad *g)
{
    if (!nnl_given(&g->attr[0])) {
        g->dx[0] = ties_grad(g, 0, 1);
    } else if (g->dy[0]) {
        g->dx[0] = along_grad(g, g->dy[0], g->out[1]);
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

/* ---------------------------------------------------------------- products */

/* The reduced dimensions last, as one: x as kept x reduced. */
static nnl_tensor *reduced_last(nnl_grad *g, nnl_tensor *x, int64_t order[NNL_MAX_DIMS], int64_t size[2])
{
    const nnl_layout *layout = &g->in_layout[0];
    bool reduced[NNL_MAX_DIMS];
    int count = 0;
    nnl_dim_flags(&g->attr[0], layout->ndim, reduced);
    size[0] = size[1] = 1;
    for (int last = 0; last < 2; last++) {
        for (int d = 0; d < layout->ndim; d++) {
            if (reduced[d] != (last == 1)) continue;
            order[count++] = d;
            size[last] *= layout->shape[d];
        }
    }
    if (count > 0) x = DO_WITH(g->s, permute, (V_INTS(count, order)), x);
    return nnl_reshaped(g->s, x, 2, size);
}

/* dx_i is dy times the product of what stands before x_i and behind it: as cumprod's gradient, with dy at
 * the last place. */
static void prod_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    const nnl_layout *layout = &g->in_layout[0];
    int64_t order[NNL_MAX_DIMS], inverse[NNL_MAX_DIMS], shape[NNL_MAX_DIMS], size[2];
    nnl_tensor *x = reduced_last(g, g->in[0], order, size);
    if (size[1] == 0) return;
    const nnl_value dim = V_INT(1);
    nnl_tensor *before = DO_WITH(s, shift_along, (dim, V_NUM(1)), DO_WITH(s, cumprod, (dim), x));
    nnl_tensor *zeros = nnl_full(s, (nnl_dtype)layout->dtype, 2, size, 0);
    nnl_tensor *dy = nnl_reshaped(s, g->dy[0], 1, size);
    dy = DO_WITH(s, as_strided_scatter, (V_INTS(1, size), V_INTS(1, &size[1]), V_INT(size[1] - 1)), zeros, dy);
    nnl_tensor *behind = DO_WITH(s, linear_scan, (dim, V_FLAG(true)), dy, x);
    nnl_tensor *dx = DO(s, mul, before, behind);
    for (int d = 0; d < layout->ndim; d++) {
        shape[d] = layout->shape[order[d]];
        inverse[order[d]] = d;
    }
    dx = nnl_reshaped(s, dx, layout->ndim, shape);
    g->dx[0] = layout->ndim > 0 ? DO_WITH(s, permute, (V_INTS(layout->ndim, inverse)), dx) : dx;
}

NNL_OP(prod,
    .sig = "input:any, dim:dim*?, keepdim:flag=false, dtype:dtype? -> same",
    .doc = "Product over the given dimensions, or over all.  Integers and bool give i64.  The product of no elements is 1.  "
           "With dtype the input is converted to that type first.",
    .example = "nn.tensor({1, 2, 3}):prod()",
    .infer = sum_infer,
    .run = sum_run,
    .ready = sum_ready,
    .variant = NNL_REDUCE_PROD,
    .grad = prod_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4; input:3x4 dim=1; input:2x3x4 dim={1, 3} keepdim=true; input:3x4 dim=1 dtype=\"f64\"",
    .traits = NNL_CAST);

/* ---------------------------------------------------------------- counting */

static nnl_status count_infer(nnl_call *c)
{
    nnl_reduce_spec(c, 0, NNL_I64, &c->attr[0], false);
    return NNL_OK;
}

NNL_OP(count_nonzero,
    .sig = "input:any, dim:dim*? -> i64",
    .doc = "How many elements are not 0, over the given dimensions or over all.",
    .example = "nn.tensor({1, 0, 3}):count_nonzero()",
    .infer = count_infer,
    .run = sum_run,
    .ready = sum_ready,
    .variant = NNL_REDUCE_NONZERO,
    NNL_NO_GRAD("counts are whole numbers"),
    .sample = "input:3x4; input:3x4 dim=1");

static nnl_status any_infer(nnl_call *c)
{
    nnl_reduce_spec(c, 0, NNL_BOOL, &c->attr[0], c->attr[1].as.i);
    return NNL_OK;
}

/* variant: how many elements, of all, must be true: 0 all, 1 one */
static nnl_status any_run(nnl_call *c)
{
    nnl_tensor *x = c->in[0];
    int64_t terms = nnl_reduce_count(x->ndim, x->shape, &c->attr[0]), wanted = c->op->variant ? 1 : terms;
    bool reduced[NNL_MAX_DIMS];
    nnl_accumulators acc;
    nnl_dim_flags(&c->attr[0], x->ndim, reduced);
    NNL_TRY(nnl_reduce_accumulate(c->rt, NNL_REDUCE_NONZERO, x, reduced, NULL, false, &acc));
    uint8_t *out = (uint8_t *)c->out[0]->data;
    for (int64_t i = 0; i < acc.count; i++)
        out[i] = nnl_is_float(type_of(x)) ? ((double *)acc.data)[i] >= (double)wanted : ((int64_t *)acc.data)[i] >= wanted;
    nnl_accumulators_free(c->rt, &acc);
    return NNL_OK;
}

NNL_OP(any,
    .sig = "input:any, dim:dim*?, keepdim:flag=false -> bool",
    .doc = "Whether some element is true (not 0), over the given dimensions or over all.",
    .example = "nn.tensor({1, 2, 3}):gt(2):any()",
    .infer = any_infer,
    .run = any_run,
    .variant = 1,
    NNL_NO_GRAD("the result is a truth value"),
    .sample = "input:3x4{bool}; input:3x4{bool} dim=1; input:2x3x4{bool} dim={1, 3} keepdim=true");

NNL_OP(all,
    .sig = "input:any, dim:dim*?, keepdim:flag=false -> bool",
    .doc = "Whether every element is true (not 0), over the given dimensions or over all.",
    .example = "nn.tensor({1, 2, 3}):gt(0):all()",
    .infer = any_infer,
    .run = any_run,
    .variant = 0,
    NNL_NO_GRAD("the result is a truth value"),
    .sample = "input:3x4{bool}; input:3x4{bool} dim=1; input:2x3x4{bool} dim={1, 3} keepdim=true");

/* ---------------------------------------------------------------- variance */

enum { DIM, UNBIASED, KEEPDIM, CORRECTION }; /* attributes of var and std */

static nnl_status var_infer(nnl_call *c)
{
    nnl_reduce_spec(c, 0, type_of(c->in[0]), &c->attr[DIM], c->attr[KEEPDIM].as.i);
    return NNL_OK;
}

/* n - correction, but not below 0 */
static double degrees(const nnl_value *attr, int ndim, const int64_t *shape)
{
    double correction = nnl_given(&attr[CORRECTION]) ? nnl_value_double(&attr[CORRECTION]) : attr[UNBIASED].as.i ? 1 : 0;
    double n = (double)nnl_reduce_count(ndim, shape, &attr[DIM]) - correction;
    return n > 0 ? n : 0;
}

/* Two passes: the mean, then the squared distances from it. */
static nnl_status var_run(nnl_call *c)
{
    nnl_tensor *x = c->in[0];
    bool reduced[NNL_MAX_DIMS];
    nnl_accumulators mean, squares;
    nnl_dim_flags(&c->attr[DIM], x->ndim, reduced);
    double terms = (double)nnl_reduce_count(x->ndim, x->shape, &c->attr[DIM]);
    NNL_TRY(nnl_reduce_accumulate(c->rt, NNL_REDUCE_SUM, x, reduced, NULL, false, &mean));
    for (int64_t i = 0; i < mean.count; i++) ((double *)mean.data)[i] /= terms;
    nnl_status status = nnl_reduce_accumulate(c->rt, NNL_REDUCE_DEVIATIONS, x, reduced, mean.data, true, &squares);
    if (status == NNL_OK) {
        nnl_accumulators_store(c->rt, &squares, true, (nnl_reduce_end)c->op->variant,
                               1 / degrees(c->attr, x->ndim, x->shape), c->out[0]);
        nnl_accumulators_free(c->rt, &squares);
    }
    nnl_accumulators_free(c->rt, &mean);
    return status;
}

/* x - mean */
static nnl_tensor *centred(nnl_grad *g)
{
    nnl_tensor *mean = DO_WITH(g->s, mean, (g->attr[DIM], V_FLAG(true)), g->in[0]);
    return DO(g->s, sub, g->in[0], mean);
}

static void var_grad(nnl_grad *g)
{
    double n = degrees(g->attr, g->in_layout[0].ndim, g->in_layout[0].shape);
    nnl_tensor *dy = spread(g, nnl_scaled(g->s, g->dy[0], 2 / n), DIM, KEEPDIM);
    g->dx[0] = DO(g->s, mul, dy, centred(g));
}

NNL_OP(var,
    .sig = "input:real, dim:dim*?, unbiased:flag=true, keepdim:flag=false, correction:num? -> same",
    .doc = "Variance over the given dimensions, or over all: the sum of (x - mean)^2 divided by n - correction, where "
           "correction is 1, or 0 with unbiased = false.",
    .example = "nn.tensor({1, 2, 6}):var()",
    .infer = var_infer,
    .run = var_run,
    .variant = NNL_END_SCALE,
    .grad = var_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4; input:3x4 dim=1 unbiased=false; input:2x3x4 dim={1, 3} keepdim=true; input:3x4 dim=2 correction=2");

/* a / b, 0 where b is 0 */
static nnl_tensor *safe_ratio(nnl_scope *s, nnl_tensor *a, nnl_tensor *b)
{
    if (s->status != NNL_OK) return NULL;
    nnl_tensor *valid = DO(s, ne, b, nnl_number(s, b, 0));
    return DO(s, masked, valid, DO(s, div, a, DO(s, where, valid, b, nnl_number(s, b, 1))));
}

static void std_grad(nnl_grad *g)
{
    double n = degrees(g->attr, g->in_layout[0].ndim, g->in_layout[0].shape);
    nnl_tensor *slope = nnl_scaled(g->s, safe_ratio(g->s, g->dy[0], g->out[0]), 1 / n);
    g->dx[0] = DO(g->s, mul, spread(g, slope, DIM, KEEPDIM), centred(g));
}

NNL_OP(std,
    .sig = "input:real, dim:dim*?, unbiased:flag=true, keepdim:flag=false, correction:num? -> same",
    .doc = "Standard deviation: the square root of var.  Where it is 0 its gradient counts as 0.",
    .example = "nn.tensor({1, 2, 6}):std()",
    .infer = var_infer,
    .run = var_run,
    .variant = NNL_END_ROOT,
    .grad = std_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4; input:3x4 dim=1 unbiased=false; input:2x3x4 dim={1, 3} keepdim=true; input:3x4 dim=2 correction=2");

/* ---------------------------------------------------------------- norms */

/* Attributes p, dim, keepdim. */
static nnl_status norm_infer(nnl_call *c)
{
    if (nnl_value_double(&c->attr[0]) == -HUGE_VAL || isinf(nnl_value_double(&c->attr[0]))) NNL_TRY(check_choice(c, &c->attr[1]));
    nnl_reduce_spec(c, 0, type_of(c->in[0]), &c->attr[1], c->attr[2].as.i);
    return NNL_OK;
}

static nnl_status norm_run(nnl_call *c)
{
    nnl_tensor *x = c->in[0];
    double p = nnl_value_double(&c->attr[0]);
    bool reduced[NNL_MAX_DIMS];
    nnl_accumulators acc;
    nnl_dim_flags(&c->attr[1], x->ndim, reduced);
    nnl_reduce_kind kind = p == 2 ? NNL_REDUCE_SQUARES : p == 1 ? NNL_REDUCE_ABS : p == 0 ? NNL_REDUCE_NONZERO
                         : p == HUGE_VAL ? NNL_REDUCE_MAX_ABS : p == -HUGE_VAL ? NNL_REDUCE_MIN_ABS : NNL_REDUCE_POWERS;
    NNL_TRY(nnl_reduce_accumulate(c->rt, kind, x, reduced, kind == NNL_REDUCE_POWERS ? &p : NULL, false, &acc));
    if (kind == NNL_REDUCE_POWERS) {
        const double root = 1 / p;
        const void *in[2] = {acc.data, &root};
        c->rt->kernels->map[NNL_MAP_pow][NNL_F64](acc.data, in, (const int32_t[]){1, 0}, NULL, acc.count);
    }
    nnl_accumulators_store(c->rt, &acc, true, p == 2 ? NNL_END_ROOT : NNL_END_PLAIN, 1, c->out[0]);
    nnl_accumulators_free(c->rt, &acc);
    return NNL_OK;
}

/* p = 2: x dy / y;  p = 1: sign(x) dy;  p = inf: sign(x) dy, shared among the largest;
 * else: x |x|^(p - 2) dy / y^(p - 1).  0 where y is 0. */
static void norm_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    double p = nnl_value_double(&g->attr[0]);
    nnl_tensor *x = g->in[0], *dy = g->dy[0], *y = g->out[0];
    if (p == 0) return;
    if (p == 2) {
        g->dx[0] = DO(s, mul, x, spread(g, safe_ratio(s, dy, y), 1, 2));
    } else if (p == 1) {
        g->dx[0] = DO(s, mul, DO(s, sign, x), spread(g, dy, 1, 2));
    } else if (isinf(p)) {
        nnl_tensor *share = DO_WITH(s, extreme_share, (g->attr[1]), DO(s, abs, x), spread(g, y, 1, 2));
        g->dx[0] = DO(s, mul, DO(s, mul, DO(s, sign, x), share), spread(g, dy, 1, 2));
    } else {
        nnl_tensor *slope = safe_ratio(s, dy, DO(s, pow, y, nnl_number(s, y, p - 1)));
        nnl_tensor *size = DO(s, abs, x), *power = DO(s, pow, size, nnl_number(s, size, p - 1));
        if (p < 1) power = DO(s, masked, DO(s, ne, x, nnl_number(s, x, 0)), power);
        g->dx[0] = DO(s, mul, DO(s, mul, DO(s, sign, x), power), spread(g, slope, 1, 2));
    }
}

NNL_OP(norm,
    .sig = "input:real, p:num=2, dim:dim*?, keepdim:flag=false, dtype:dtype? -> same",
    .doc = "(sum of |x|^p)^(1/p) over the given dimensions, or over all; p = math.huge: the largest |x|, -math.huge: the "
           "smallest, 0: how many are not 0.  With dtype the input is converted to that type first.",
    .example = "nn.tensor({3, 4}):norm()",
    .infer = norm_infer,
    .run = norm_run,
    .grad = norm_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4!0; input:3x4!0 p=1 dim=1; input:2x3x4!0 p=3 dim={1, 3} keepdim=true; input:3x4!0^ p=math.huge dim=2",
    .traits = NNL_CAST);

/* ---------------------------------------------------------------- log of a sum of exponentials */

/* m + log(sum of e^(x - m)), m the largest x, or 0 where that is infinite */
static nnl_status logsumexp_run(nnl_call *c)
{
    nnl_tensor *x = c->in[0];
    bool reduced[NNL_MAX_DIMS];
    nnl_accumulators top, sum;
    nnl_dim_flags(&c->attr[0], x->ndim, reduced);
    NNL_TRY(nnl_reduce_accumulate(c->rt, NNL_REDUCE_MAX, x, reduced, NULL, false, &top));
    double *m = top.data;
    for (int64_t i = 0; i < top.count; i++) m[i] = isinf(m[i]) ? 0 : m[i];
    nnl_status status = nnl_reduce_accumulate(c->rt, NNL_REDUCE_EXPS, x, reduced, m, true, &sum);
    if (status == NNL_OK) {
        const void *in[1] = {sum.data};
        c->rt->kernels->map[NNL_MAP_log][NNL_F64](sum.data, in, (const int32_t[]){1}, NULL, sum.count);
        for (int64_t i = 0; i < sum.count; i++) ((double *)sum.data)[i] += m[i];
        nnl_accumulators_store(c->rt, &sum, true, NNL_END_PLAIN, 1, c->out[0]);
        nnl_accumulators_free(c->rt, &sum);
    }
    nnl_accumulators_free(c->rt, &top);
    return status;
}

static void logsumexp_grad(nnl_grad *g)
{
    nnl_tensor *share = DO(g->s, exp, DO(g->s, sub, g->in[0], spread(g, g->out[0], 0, 1)));
    g->dx[0] = DO(g->s, mul, spread(g, g->dy[0], 0, 1), share);
}

NNL_OP(logsumexp,
    .sig = "input:real, dim:dim*?, keepdim:flag=false -> same",
    .doc = "log(sum of exp(x)) over the given dimensions, or over all, computed without overflow.",
    .example = "nn.tensor({1000, 1000}):logsumexp(1)",
    .infer = same_infer,
    .run = logsumexp_run,
    .grad = logsumexp_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4 dim=1; input:2x3x4 dim={1, 3} keepdim=true");
