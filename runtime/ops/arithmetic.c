/* Arithmetic on two tensors, or a tensor and a number, with broadcasting. */
#include "op.h"

static void add_grad(nnl_grad *g)
{
    g->dx[0] = g->dy[0];
    if (g->needs[1]) g->dx[1] = nnl_scaled(g->s, g->dy[0], nnl_value_double(&g->attr[0]));
}

/* alpha 1 is an addition of its own: exact for i64, and one multiplication less. */
static nnl_status add_run(nnl_call *c)
{
    double alpha = nnl_value_double(&c->attr[0]);
    int map = c->in[0]->dtype == NNL_BOOL ? NNL_MAP_logical_or : alpha == 1 ? NNL_MAP_add : NNL_MAP_add_scaled;
    return nnl_map_run(c->rt, map, 2, c->in, c->out[0], &alpha);
}

NNL_OP(add,
    .sig = "input:any, other:any|scalar, alpha:scalar=1 -> same",
    .doc = "input + alpha * other, elementwise with broadcasting.  On bool it is logical or.",
    .example = "nn.tensor({1, 2}):add(3)",
    .infer = nnl_infer_broadcast,
    .run = add_run,
    .grad = add_grad,
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_INPLACE_OK);

static void sub_grad(nnl_grad *g)
{
    g->dx[0] = g->dy[0];
    if (g->needs[1]) g->dx[1] = nnl_scaled(g->s, g->dy[0], -nnl_value_double(&g->attr[0]));
}

static nnl_status sub_run(nnl_call *c)
{
    double alpha = -nnl_value_double(&c->attr[0]);
    return nnl_map_run(c->rt, alpha == -1 ? NNL_MAP_sub : NNL_MAP_add_scaled, 2, c->in, c->out[0], &alpha);
}

NNL_OP(sub,
    .sig = "input:number, other:number|scalar, alpha:scalar=1 -> same",
    .doc = "input - alpha * other, elementwise with broadcasting.",
    .example = "nn.tensor({1, 2}):sub(3)",
    .infer = nnl_infer_broadcast,
    .run = sub_run,
    .grad = sub_grad,
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_INPLACE_OK);

static nnl_status mul_run(nnl_call *c)
{
    int map = c->in[0]->dtype == NNL_BOOL ? NNL_MAP_logical_and : NNL_MAP_mul;
    return nnl_map_run(c->rt, map, 2, c->in, c->out[0], NULL);
}

static void mul_grad(nnl_grad *g)
{
    if (g->needs[0]) g->dx[0] = DO(g->s, mul, g->dy[0], g->in[1]);
    if (g->needs[1]) g->dx[1] = DO(g->s, mul, g->dy[0], g->in[0]);
}

NNL_OP(mul,
    .sig = "input:any, other:any|scalar -> same",
    .doc = "input * other, elementwise with broadcasting.  On bool it is logical and.",
    .example = "nn.tensor({1, 2}):mul(3)",
    .infer = nnl_infer_broadcast,
    .run = mul_run,
    .grad = mul_grad,
    .saves = NNL_SAVE_INPUTS | NNL_SAVE_CROSS,
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_INPLACE_OK);

/* d (a / b) = dy / b;  -dy a / b^2 = -dy (a / b) / b */
static void div_grad(nnl_grad *g)
{
    nnl_tensor *over_b = DO(g->s, div, g->dy[0], g->in[1]);
    g->dx[0] = over_b;
    if (g->needs[1]) g->dx[1] = DO(g->s, neg, DO(g->s, mul, over_b, DO(g->s, div, g->in[0], g->in[1])));
}

NNL_OP(div,
    .sig = "input:real, other:real|scalar -> same",
    .doc = "input / other, elementwise with broadcasting; integers are converted to f32 first.",
    .example = "nn.tensor({1, 2}):div(4)",
    .infer = nnl_infer_broadcast,
    .run = nnl_run_map,
    .kernel = NNL_MAP_div,
    .grad = div_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:3x4 other:3x4[0.5,2]; input:3x4 other:4[-2,-0.5]",
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_INPLACE_OK);

static void neg_grad(nnl_grad *g) { g->dx[0] = DO(g->s, neg, g->dy[0]); }

NNL_OP(neg,
    .sig = "input:number -> same",
    .doc = "-input.",
    .example = "-nn.tensor({1, 2})",
    .infer = nnl_infer_same,
    .run = nnl_run_map,
    .kernel = NNL_MAP_neg,
    .grad = neg_grad,
    .traits = NNL_ELEMENTWISE | NNL_INPLACE_OK);
