/* Mathematical functions of one tensor; integers are converted to f32 first.  Gradients are in ops that have
 * gradients again, so that any order is right. */
#include "elementwise.h"

static nnl_tensor *times(nnl_grad *g, nnl_tensor *slope) { return DO(g->s, mul, g->dy[0], slope); }
static nnl_tensor *over(nnl_grad *g, nnl_tensor *x) { return DO(g->s, div, g->dy[0], x); }

/* 1 + x^2, and 1 - x^2 as (1 - x)(1 + x), which keeps its digits near 1. */
static nnl_tensor *one_plus_square(nnl_scope *s, nnl_tensor *x) { return nnl_shifted(s, DO(s, square, x), 1); }
static nnl_tensor *one_minus_square(nnl_scope *s, nnl_tensor *x)
{
    return DO(s, mul, DO(s, sub, nnl_number(s, x, 1), x), nnl_shifted(s, x, 1));
}

#define LN2 0x1.62e42fefa39efp-1
#define LN10 0x1.26bb1bbb55516p+1
#define TWO_OVER_ROOT_PI 0x1.20dd750429b6dp+0

/* ---------------------------------------------------------------- exponentials and logarithms */

static void exp_grad(nnl_grad *g) { g->dx[0] = times(g, g->out[0]); }
static void exp2_grad(nnl_grad *g) { g->dx[0] = times(g, nnl_scaled(g->s, g->out[0], LN2)); }
static void expm1_grad(nnl_grad *g) { g->dx[0] = times(g, nnl_shifted(g->s, g->out[0], 1)); }
static void log_grad(nnl_grad *g) { g->dx[0] = over(g, g->in[0]); }
static void log2_grad(nnl_grad *g) { g->dx[0] = over(g, nnl_scaled(g->s, g->in[0], LN2)); }
static void log10_grad(nnl_grad *g) { g->dx[0] = over(g, nnl_scaled(g->s, g->in[0], LN10)); }
static void log1p_grad(nnl_grad *g) { g->dx[0] = over(g, nnl_shifted(g->s, g->in[0], 1)); }

NNL_OP(exp, NNL_UNARY("real", "", exp),
    .doc = "e ^ input.",
    .example = "nn.tensor({0, 1}):exp()",
    .grad = exp_grad,
    .saves = NNL_SAVE_OUTPUT(0));

NNL_OP(exp2, NNL_UNARY("real", "", exp2),
    .doc = "2 ^ input.",
    .example = "nn.tensor({0, 3}):exp2()",
    .grad = exp2_grad,
    .saves = NNL_SAVE_OUTPUT(0));

NNL_OP(expm1, NNL_UNARY("real", "", expm1),
    .doc = "e ^ input - 1, exact for small input.",
    .example = "nn.tensor({0, 1e-6}):expm1()",
    .grad = expm1_grad,
    .saves = NNL_SAVE_OUTPUT(0));

NNL_OP(log, NNL_UNARY("real", "", log),
    .doc = "Natural logarithm.",
    .example = "nn.tensor({1, 2.5}):log()",
    .grad = log_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4[0.2,3]");

NNL_OP(log2, NNL_UNARY("real", "", log2),
    .doc = "Logarithm to base 2.",
    .example = "nn.tensor({1, 8}):log2()",
    .grad = log2_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4[0.2,3]");

NNL_OP(log10, NNL_UNARY("real", "", log10),
    .doc = "Logarithm to base 10.",
    .example = "nn.tensor({1, 1000}):log10()",
    .grad = log10_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4[0.2,3]");

NNL_OP(log1p, NNL_UNARY("real", "", log1p),
    .doc = "Natural logarithm of 1 + input, exact for small input.",
    .example = "nn.tensor({0, 1e-6}):log1p()",
    .grad = log1p_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4[-0.8,2]");

/* ---------------------------------------------------------------- roots */

/* dy / (2 y) */
static void sqrt_grad(nnl_grad *g) { g->dx[0] = over(g, nnl_scaled(g->s, g->out[0], 2)); }
/* -dy y^3 / 2 */
static void rsqrt_grad(nnl_grad *g)
{
    nnl_tensor *cube = DO(g->s, mul, DO(g->s, square, g->out[0]), g->out[0]);
    g->dx[0] = times(g, nnl_scaled(g->s, cube, -0.5));
}

NNL_OP(sqrt, NNL_UNARY("real", "", sqrt),
    .doc = "Square root.",
    .example = "nn.tensor({4, 9}):sqrt()",
    .grad = sqrt_grad,
    .saves = NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4[0.2,3]");

NNL_OP(rsqrt, NNL_UNARY("real", "", rsqrt),
    .doc = "1 / square root.",
    .example = "nn.tensor({4, 16}):rsqrt()",
    .grad = rsqrt_grad,
    .saves = NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4[0.2,3]");

/* ---------------------------------------------------------------- circle */

static void sin_grad(nnl_grad *g) { g->dx[0] = times(g, DO(g->s, cos, g->in[0])); }
static void cos_grad(nnl_grad *g) { g->dx[0] = times(g, DO(g->s, neg, DO(g->s, sin, g->in[0]))); }
static void tan_grad(nnl_grad *g) { g->dx[0] = times(g, one_plus_square(g->s, g->out[0])); }
static void asin_grad(nnl_grad *g) { g->dx[0] = times(g, DO(g->s, rsqrt, one_minus_square(g->s, g->in[0]))); }
static void acos_grad(nnl_grad *g)
{
    g->dx[0] = times(g, DO(g->s, neg, DO(g->s, rsqrt, one_minus_square(g->s, g->in[0]))));
}
static void atan_grad(nnl_grad *g) { g->dx[0] = over(g, one_plus_square(g->s, g->in[0])); }

NNL_OP(sin, NNL_UNARY("real", "", sin),
    .doc = "Sine of an angle in radians.",
    .example = "nn.tensor({0, math.pi / 2}):sin()",
    .grad = sin_grad,
    .saves = NNL_SAVE_INPUT(0));

NNL_OP(sinusoid, NNL_UNARY("real", "", sin),
    .doc = "sin(x), as an activation.",
    .example = "nn.F.sinusoid(nn.tensor({0, 1}))",
    .grad = sin_grad,
    .saves = NNL_SAVE_INPUT(0));

NNL_OP(cos, NNL_UNARY("real", "", cos),
    .doc = "Cosine of an angle in radians.",
    .example = "nn.tensor({0, math.pi}):cos()",
    .grad = cos_grad,
    .saves = NNL_SAVE_INPUT(0));

NNL_OP(tan, NNL_UNARY("real", "", tan),
    .doc = "Tangent of an angle in radians.",
    .example = "nn.tensor({0, math.pi / 4}):tan()",
    .grad = tan_grad,
    .saves = NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4[-1.2,1.2]");

NNL_OP(asin, NNL_UNARY("real", "", asin),
    .doc = "The angle in [-pi/2, pi/2] with this sine.",
    .example = "nn.tensor({0, 1}):asin()",
    .grad = asin_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4[-0.8,0.8]");

NNL_OP(acos, NNL_UNARY("real", "", acos),
    .doc = "The angle in [0, pi] with this cosine.",
    .example = "nn.tensor({0, 1}):acos()",
    .grad = acos_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4[-0.8,0.8]");

NNL_OP(atan, NNL_UNARY("real", "", atan),
    .doc = "The angle in (-pi/2, pi/2) with this tangent.",
    .example = "nn.tensor({0, 1}):atan()",
    .grad = atan_grad,
    .saves = NNL_SAVE_INPUT(0));

NNL_OP(arctan, NNL_UNARY("real", "", atan),
    .doc = "atan(x), as an activation.",
    .example = "nn.F.arctan(nn.tensor({0, 1}))",
    .grad = atan_grad,
    .saves = NNL_SAVE_INPUT(0));

/* ---------------------------------------------------------------- hyperbola */

static void sinh_grad(nnl_grad *g) { g->dx[0] = times(g, DO(g->s, cosh, g->in[0])); }
static void cosh_grad(nnl_grad *g) { g->dx[0] = times(g, DO(g->s, sinh, g->in[0])); }
static void tanh_grad(nnl_grad *g) { g->dx[0] = DO(g->s, tanh_backward, g->dy[0], g->out[0]); }
static void asinh_grad(nnl_grad *g) { g->dx[0] = times(g, DO(g->s, rsqrt, one_plus_square(g->s, g->in[0]))); }
static void acosh_grad(nnl_grad *g)
{
    nnl_tensor *x = g->in[0];
    g->dx[0] = times(g, DO(g->s, rsqrt, DO(g->s, mul, nnl_shifted(g->s, x, -1), nnl_shifted(g->s, x, 1))));
}
static void atanh_grad(nnl_grad *g) { g->dx[0] = over(g, one_minus_square(g->s, g->in[0])); }

NNL_OP(sinh, NNL_UNARY("real", "", sinh),
    .doc = "(e^x - e^-x) / 2.",
    .example = "nn.tensor({0, 1}):sinh()",
    .grad = sinh_grad,
    .saves = NNL_SAVE_INPUT(0));

NNL_OP(cosh, NNL_UNARY("real", "", cosh),
    .doc = "(e^x + e^-x) / 2.",
    .example = "nn.tensor({0, 1}):cosh()",
    .grad = cosh_grad,
    .saves = NNL_SAVE_INPUT(0));

NNL_OP(tanh, NNL_UNARY("real", "", tanh),
    .doc = "(e^x - e^-x) / (e^x + e^-x), in (-1, 1).",
    .example = "nn.tensor({0, 1}):tanh()",
    .grad = tanh_grad,
    .saves = NNL_SAVE_OUTPUT(0));

/* dy (1 - y^2):  by y it is -2 dy y */
static void tanh_backward_grad(nnl_grad *g)
{
    if (g->needs[0]) g->dx[0] = DO(g->s, tanh_backward, g->dy[0], g->in[1]);
    if (g->needs[1]) g->dx[1] = times(g, nnl_scaled(g->s, DO(g->s, mul, g->in[0], g->in[1]), -2));
}

NNL_OP(tanh_backward, NNL_BACKWARD("", tanh_grad),
    .doc = "dy (1 - x^2), x being tanh's result.",
    .grad = tanh_backward_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1));

NNL_OP(asinh, NNL_UNARY("real", "", asinh),
    .doc = "log(x + sqrt(x^2 + 1)).",
    .example = "nn.tensor({0, 1}):asinh()",
    .grad = asinh_grad,
    .saves = NNL_SAVE_INPUT(0));

NNL_OP(acosh, NNL_UNARY("real", "", acosh),
    .doc = "log(x + sqrt(x^2 - 1)), NaN below 1.",
    .example = "nn.tensor({1, 2}):acosh()",
    .grad = acosh_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4[1.3,4]");

NNL_OP(atanh, NNL_UNARY("real", "", atanh),
    .doc = "log((1 + x) / (1 - x)) / 2.",
    .example = "nn.tensor({0, 0.5}):atanh()",
    .grad = atanh_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4[-0.8,0.8]");

/* ---------------------------------------------------------------- the normal distribution, the logistic one */

static void erf_grad(nnl_grad *g) { g->dx[0] = times(g, nnl_scaled(g->s, DO(g->s, gaussian, g->in[0]), TWO_OVER_ROOT_PI)); }
static void erfc_grad(nnl_grad *g) { g->dx[0] = times(g, nnl_scaled(g->s, DO(g->s, gaussian, g->in[0]), -TWO_OVER_ROOT_PI)); }
/* -2 x y dy */
static void gaussian_grad(nnl_grad *g)
{
    g->dx[0] = times(g, DO(g->s, mul, nnl_scaled(g->s, g->in[0], -2), g->out[0]));
}
static void sigmoid_grad(nnl_grad *g) { g->dx[0] = DO(g->s, sigmoid_backward, g->dy[0], g->out[0]); }

NNL_OP(erf, NNL_UNARY("real", "", erf),
    .doc = "Error function: 2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x.",
    .example = "nn.tensor({0, 1}):erf()",
    .grad = erf_grad,
    .saves = NNL_SAVE_INPUT(0));

NNL_OP(erfc, NNL_UNARY("real", "", erfc),
    .doc = "1 - erf(x), exact where that is small.",
    .example = "nn.tensor({0, 5}):erfc()",
    .grad = erfc_grad,
    .saves = NNL_SAVE_INPUT(0));

NNL_OP(gaussian, NNL_UNARY("float", "", gaussian),
    .doc = "exp(-x^2), as an activation.",
    .example = "nn.F.gaussian(nn.tensor({0, 1}))",
    .grad = gaussian_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_OUTPUT(0));

NNL_OP(sigmoid, NNL_UNARY("real", "", sigmoid),
    .doc = "1 / (1 + e^-x), in (0, 1).",
    .example = "nn.tensor({0, 2}):sigmoid()",
    .grad = sigmoid_grad,
    .saves = NNL_SAVE_OUTPUT(0));

/* dy y (1 - y):  by y it is dy (1 - 2 y) */
static void sigmoid_backward_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    if (g->needs[0]) g->dx[0] = DO(s, sigmoid_backward, g->dy[0], g->in[1]);
    if (!g->needs[1]) return;
    nnl_tensor *slope = DO_WITH(s, sub, (V_INT(2)), nnl_number(s, g->in[1], 1), g->in[1]);
    g->dx[1] = times(g, DO(s, mul, g->in[0], slope));
}

NNL_OP(sigmoid_backward, NNL_BACKWARD("", sigmoid_grad),
    .doc = "dy x (1 - x), x being sigmoid's result.",
    .grad = sigmoid_backward_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1));

static void logsigmoid_grad(nnl_grad *g) { g->dx[0] = DO(g->s, logsigmoid_backward, g->dy[0], g->in[0]); }

NNL_OP(logsigmoid, NNL_UNARY("float", "", log_sigmoid),
    .doc = "log(1 / (1 + e^-x)) = -softplus(-x), without overflow.",
    .example = "nn.F.logsigmoid(nn.tensor({0, -200}))",
    .grad = logsigmoid_grad,
    .saves = NNL_SAVE_INPUT(0));

/* dy sigmoid(-x):  by x it is -dy s (1 - s), s = sigmoid(-x) */
static void logsigmoid_backward_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    if (g->needs[0]) g->dx[0] = DO(s, logsigmoid_backward, g->dy[0], g->in[1]);
    if (!g->needs[1]) return;
    nnl_tensor *y = DO(s, sigmoid, DO(s, neg, g->in[1]));
    g->dx[1] = DO(s, neg, DO(s, sigmoid_backward, DO(s, mul, g->dy[0], g->in[0]), y));
}

NNL_OP(logsigmoid_backward, NNL_BACKWARD("", log_sigmoid_grad),
    .doc = "dy sigmoid(-x).",
    .grad = logsigmoid_backward_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1));

/* ---------------------------------------------------------------- rounding */

NNL_OP(floor, NNL_UNARY("number", "", floor),
    .doc = "The greatest whole number not above input.  The gradient is 0.",
    .example = "nn.tensor({-1.5, 1.5}):floor()",
    .grad = nnl_flat_grad,
    .sample = "input:3x4!0!1!-1!2!-2");

NNL_OP(ceil, NNL_UNARY("number", "", ceil),
    .doc = "The least whole number not below input.  The gradient is 0.",
    .example = "nn.tensor({-1.5, 1.5}):ceil()",
    .grad = nnl_flat_grad,
    .sample = "input:3x4!0!1!-1!2!-2");

NNL_OP(trunc, NNL_UNARY("number", "", trunc),
    .doc = "The whole part, towards 0.  The gradient is 0.",
    .example = "nn.tensor({-1.5, 1.5}):trunc()",
    .grad = nnl_flat_grad,
    .sample = "input:3x4!0!1!-1!2!-2");

static nnl_status round_infer(nnl_call *c)
{
    int64_t decimals = c->attr[0].as.i;
    if (decimals < -30 || decimals > 30)
        return nnl_call_fail(c, NNL_EINVAL, "decimals is %lld, but can be -30 to 30", (long long)decimals);
    return nnl_infer_same(c);
}

static nnl_status round_run(nnl_call *c)
{
    int64_t decimals = c->attr[0].as.i;
    if (decimals == 0 || !nnl_is_float((nnl_dtype)c->in[0]->dtype))
        return nnl_map_run(c->rt, NNL_MAP_round, 1, c->in, c->out[0], NULL);
    double scale = 1;
    for (int64_t i = decimals < 0 ? -decimals : decimals; i > 0; i--) scale *= 10;
    /* Both steps by the number that is whole. */
    nnl_tensor *power;
    NNL_TRY(nnl_tensor_scalar(c->rt, (nnl_dtype)c->in[0]->dtype, V_NUM(scale), &power));
    int up = decimals > 0 ? NNL_MAP_mul : NNL_MAP_div, down = decimals > 0 ? NNL_MAP_div : NNL_MAP_mul;
    nnl_status status = nnl_map_run(c->rt, up, 2, (nnl_tensor *[]){c->in[0], power}, c->out[0], NULL);
    if (status == NNL_OK) status = nnl_map_run(c->rt, NNL_MAP_round, 1, c->out, c->out[0], NULL);
    if (status == NNL_OK) status = nnl_map_run(c->rt, down, 2, (nnl_tensor *[]){c->out[0], power}, c->out[0], NULL);
    nnl_tensor_unref(power);
    return status;
}

NNL_OP(round,
    .sig = "input:number, decimals:int=0 -> same",
    .doc = "The nearest number with so many decimals (before the point if negative), a half to the even one.  The gradient is 0.",
    .example = "nn.tensor({0.5, 1.5, 2.5}):round()",
    .infer = round_infer,
    .run = round_run,
    .grad = nnl_flat_grad,
    .sample = "input:3x4[0.6,1.4]; input:3x4[-0.4,0.4]",
    .traits = NNL_ELEMENTWISE | NNL_INPLACE_OK);

static void frac_grad(nnl_grad *g) { g->dx[0] = g->dy[0]; }

NNL_OP(frac, NNL_UNARY("real", "", frac),
    .doc = "input - trunc(input).",
    .example = "nn.tensor({-1.5, 1.25}):frac()",
    .grad = frac_grad,
    .sample = "input:3x4!0!1!-1!2!-2");
