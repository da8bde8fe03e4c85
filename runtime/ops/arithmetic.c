/* Arithmetic, mostly on two tensors, or a tensor and a number, with broadcasting. */
#include "elementwise.h"

static void add_grad(nnl_grad *g)
{
    double alpha = nnl_value_double(&g->attr[0]);
    g->dx[0] = g->dy[0];
    if (g->needs[1]) g->dx[1] = alpha == 1 ? g->dy[0] : nnl_scaled(g->s, g->dy[0], alpha);
}

/* alpha 1 is an addition of its own: exact for i64, and one multiplication less. */
static bool add_map(nnl_call *c, nnl_map_form *form)
{
    form->map = c->in[0]->dtype == NNL_BOOL ? NNL_MAP_logical_or : form->param[0] == 1 ? NNL_MAP_add : NNL_MAP_add_scaled;
    return true;
}

NNL_OP(add,
    .sig = "input:any, other:any|scalar, alpha:scalar=1 -> same",
    .doc = "input + alpha * other, elementwise with broadcasting.  On bool it is logical or.",
    .example = "nn.tensor({1, 2}):add(3)",
    .infer = nnl_infer_broadcast,
    .run = nnl_run_map,
    .map = add_map,
    .grad = add_grad,
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_INPLACE_OK);

static void sub_grad(nnl_grad *g)
{
    g->dx[0] = g->dy[0];
    if (g->needs[1]) g->dx[1] = nnl_scaled(g->s, g->dy[0], -nnl_value_double(&g->attr[0]));
}

static bool sub_map(nnl_call *c, nnl_map_form *form)
{
    (void)c;
    form->param[0] = -form->param[0];
    form->map = form->param[0] == -1 ? NNL_MAP_sub : NNL_MAP_add_scaled;
    return true;
}

NNL_OP(sub,
    .sig = "input:number, other:number|scalar, alpha:scalar=1 -> same",
    .doc = "input - alpha * other, elementwise with broadcasting.",
    .example = "nn.tensor({1, 2}):sub(3)",
    .infer = nnl_infer_broadcast,
    .run = nnl_run_map,
    .map = sub_map,
    .grad = sub_grad,
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_INPLACE_OK);

static bool mul_map(nnl_call *c, nnl_map_form *form)
{
    form->map = c->in[0]->dtype == NNL_BOOL ? NNL_MAP_logical_and : NNL_MAP_mul;
    return true;
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
    .run = nnl_run_map,
    .map = mul_map,
    .grad = mul_grad,
    .saves = NNL_SAVE_INPUTS | NNL_SAVE_CROSS,
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_INPLACE_OK);

enum { DIV_TRUE, DIV_TRUNC, DIV_FLOOR };

/* Rounded quotients of bool are i64. */
static nnl_status div_infer(nnl_call *c)
{
    NNL_TRY(nnl_infer_broadcast(c));
    if (c->spec[0].dtype == NNL_BOOL) c->spec[0].dtype = NNL_I64;
    return NNL_OK;
}

/* The operand as the result's type; *copy is it when that needed a copy. */
static nnl_status div_operand(nnl_call *c, int place, nnl_tensor **copy)
{
    nnl_tensor *x = c->in[place];
    if (x->dtype == c->out[0]->dtype) return NNL_OK;
    nnl_spec spec;
    nnl_spec_like(&spec, x);
    spec.dtype = (nnl_dtype)c->out[0]->dtype;
    return nnl_copy_as(&spec, x, copy);
}

static nnl_status div_run(nnl_call *c)
{
    nnl_tensor *copy[2] = {NULL, NULL}, *in[2], *out = c->out[0];
    int64_t mode = c->attr[0].as.i;
    nnl_status status = div_operand(c, 0, &copy[0]);
    if (status == NNL_OK) status = div_operand(c, 1, &copy[1]);
    for (int i = 0; i < 2; i++) in[i] = copy[i] ? copy[i] : c->in[i];
    if (status == NNL_OK && mode == DIV_TRUNC && !nnl_is_float((nnl_dtype)out->dtype)) {
        /* a / b towards zero is (a - fmod(a, b)) / b, which divides evenly */
        nnl_tensor *whole;
        nnl_spec spec;
        nnl_spec_like(&spec, out);
        status = nnl_tensor_make(c->rt, &spec, NULL, &whole);
        if (status == NNL_OK) {
            nnl_map_run(c->rt, NNL_MAP_fmod, 2, in, whole, NULL);
            nnl_map_run(c->rt, NNL_MAP_sub, 2, (nnl_tensor *[]){in[0], whole}, whole, NULL);
            status = nnl_map_run(c->rt, NNL_MAP_floor_divide, 2, (nnl_tensor *[]){whole, in[1]}, out, NULL);
            nnl_tensor_unref(whole);
        }
    } else if (status == NNL_OK) {
        status = nnl_map_run(c->rt, mode == DIV_FLOOR ? NNL_MAP_floor_divide : NNL_MAP_div, 2, in, out, NULL);
        if (status == NNL_OK && mode == DIV_TRUNC) status = nnl_map_run(c->rt, NNL_MAP_trunc, 1, &out, out, NULL);
    }
    nnl_tensor_unref(copy[0]);
    nnl_tensor_unref(copy[1]);
    return status;
}

static bool div_map(nnl_call *c, nnl_map_form *form)
{
    form->map = c->attr[0].as.i == DIV_FLOOR ? NNL_MAP_floor_divide : NNL_MAP_div;
    return c->attr[0].as.i != DIV_TRUNC && nnl_is_float((nnl_dtype)c->out[0]->dtype) &&
           c->in[0]->dtype == c->out[0]->dtype && c->in[1]->dtype == c->out[0]->dtype;
}

/* d (a / b) = dy / b;  -dy a / b^2 = -dy (a / b) / b.  A rounded quotient is flat. */
static void div_grad(nnl_grad *g)
{
    if (g->attr[0].as.i != DIV_TRUE) {
        for (int i = 0; i < 2; i++) {
            const nnl_layout *x = &g->in_layout[i];
            if (g->needs[i]) g->dx[i] = nnl_full(g->s, (nnl_dtype)x->dtype, x->ndim, x->shape, 0);
        }
        return;
    }
    nnl_tensor *over_b = DO(g->s, div, g->dy[0], g->in[1]);
    g->dx[0] = over_b;
    if (g->needs[1]) g->dx[1] = DO(g->s, neg, DO(g->s, mul, over_b, DO(g->s, div, g->in[0], g->in[1])));
}

NNL_OP(div,
    .sig = "input:any, other:any|scalar, rounding_mode:{none|trunc|floor}=none -> same",
    .doc = "input / other, elementwise with broadcasting; integers give f32.  rounding_mode \"trunc\" drops the fraction, "
           "\"floor\" rounds down; with them integers stay integers.",
    .example = "nn.tensor({1, 2}):div(4)",
    .infer = div_infer,
    .run = div_run,
    .map = div_map,
    .grad = div_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:3x4 other:3x4[0.5,2]; input:3x4 other:4[-2,-0.5]",
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_TRUE_QUOTIENT | NNL_INPLACE_OK);

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

/* ---------------------------------------------------------------- products, quotients and their rests */

#define QUOTIENT(map)                                                                              \
    .sig = "input:any, other:any|scalar -> same", .infer = nnl_infer_number, .run = nnl_run_map,  \
    .kernel = NNL_MAP_##map, .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_INPLACE_OK

static bool rsub_map(nnl_call *c, nnl_map_form *form)
{
    sub_map(c, form);
    form->in[0] = c->in[1];
    form->in[1] = c->in[0];
    return true;
}

static void rsub_grad(nnl_grad *g)
{
    g->dx[1] = g->dy[0];
    if (g->needs[0]) g->dx[0] = nnl_scaled(g->s, g->dy[0], -nnl_value_double(&g->attr[0]));
}

NNL_OP(rsub,
    .sig = "input:number, other:number|scalar, alpha:scalar=1 -> same",
    .doc = "other - alpha * input, elementwise with broadcasting.",
    .example = "nn.tensor({1, 2}):rsub(3)",
    .infer = nnl_infer_broadcast,
    .run = nnl_run_map,
    .map = rsub_map,
    .grad = rsub_grad,
    .sample = "input:3x4 other:3x4; input:3x4 other:4 alpha=2.5",
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE);

static nnl_status positive_infer(nnl_call *c)
{
    nnl_spec_like(&c->spec[0], c->in[0]);
    c->out[0] = nnl_tensor_ref(c->in[0]);
    return NNL_OK;
}

static nnl_status positive_run(nnl_call *c) { return nnl_copy(c->out[0], c->in[0]); }
static void pass_grad(nnl_grad *g) { g->dx[0] = g->dy[0]; }

NNL_OP(positive,
    .sig = "input:number -> same",
    .doc = "The tensor itself.",
    .example = "nn.tensor({-1, 2}):positive()",
    .infer = positive_infer,
    .run = positive_run,
    .grad = pass_grad);

NNL_OP(floor_divide, QUOTIENT(floor_divide),
    .doc = "The whole part, towards minus infinity, of input / other, elementwise with broadcasting; an integer divided by 0 gives "
           "0.  Its gradient is 0.",
    .example = "nn.tensor({-7, 7}) // 2",
    .grad = nnl_flat_grad,
    .sample = "input:3x4[3.2,3.8] other:3x4[-2,-1.95]");

/* input - other * whole part of the quotient, which is constant between jumps. */
static void rest_grad(nnl_grad *g, bool floor)
{
    g->dx[0] = g->dy[0];
    if (!g->needs[1]) return;
    nnl_tensor *whole = floor ? DO(g->s, floor_divide, g->in[0], g->in[1]) : DO(g->s, trunc, DO(g->s, div, g->in[0], g->in[1]));
    g->dx[1] = DO(g->s, neg, DO(g->s, mul, g->dy[0], whole));
}

static void remainder_grad(nnl_grad *g) { rest_grad(g, true); }
static void fmod_grad(nnl_grad *g) { rest_grad(g, false); }

NNL_OP(remainder, QUOTIENT(remainder),
    .doc = "input - other * floor(input / other), elementwise with broadcasting: the sign is other's, as with Lua's %.  An integer "
           "by 0 gives 0.",
    .example = "nn.tensor({-7, 7}) % 3",
    .grad = remainder_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:3x4[3.2,3.8] other:3x4[-2,-1.95]; input:3x4[-0.9,-0.1] other:4[1,2]");

NNL_OP(fmod, QUOTIENT(fmod),
    .doc = "input - other * trunc(input / other), elementwise with broadcasting: the sign is input's, as with C's fmod.  An integer "
           "by 0 gives 0.",
    .example = "nn.tensor({-7, 7}):fmod(3)",
    .grad = fmod_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:3x4[3.2,3.8] other:3x4[-2,-1.95]; input:3x4[-0.9,-0.1] other:4[1,2]");

static void addcmul_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    double value = nnl_value_double(&g->attr[0]);
    g->dx[0] = g->dy[0];
    if (!g->needs[1] && !g->needs[2]) return;
    nnl_tensor *dy = value == 1 ? g->dy[0] : nnl_scaled(s, g->dy[0], value);
    if (g->needs[1]) g->dx[1] = DO(s, mul, dy, g->in[2]);
    if (g->needs[2]) g->dx[2] = DO(s, mul, dy, g->in[1]);
}

NNL_OP(addcmul,
    .sig = "input:number, tensor1:number, tensor2:number, value:scalar=1 -> same",
    .doc = "input + value * tensor1 * tensor2, elementwise with broadcasting.",
    .example = "nn.zeros(2):addcmul(nn.tensor({1, 2}), nn.tensor({3, 4}), 0.5)",
    .infer = nnl_infer_broadcast,
    .run = nnl_run_map,
    .kernel = NNL_MAP_addcmul,
    .grad = addcmul_grad,
    .saves = NNL_SAVE_INPUT(1) | NNL_SAVE_INPUT(2),
    .sample = "input:3x4 tensor1:3x4 tensor2:3x4; input:3x4 tensor1:3x1 tensor2:4 value=-0.5",
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_INPLACE_OK);

static void addcdiv_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    double value = nnl_value_double(&g->attr[0]);
    g->dx[0] = g->dy[0];
    if (!g->needs[1] && !g->needs[2]) return;
    nnl_tensor *dy = value == 1 ? g->dy[0] : nnl_scaled(s, g->dy[0], value);
    nnl_tensor *over = g->dx[1] = DO(s, div, dy, g->in[2]);
    if (g->needs[2]) g->dx[2] = DO(s, neg, DO(s, mul, over, DO(s, div, g->in[1], g->in[2])));
}

NNL_OP(addcdiv,
    .sig = "input:float, tensor1:float, tensor2:float, value:scalar=1 -> same",
    .doc = "input + value * tensor1 / tensor2, elementwise with broadcasting.",
    .example = "nn.zeros(2):addcdiv(nn.tensor({1, 2}), nn.tensor({4, 4}), 0.5)",
    .infer = nnl_infer_broadcast,
    .run = nnl_run_map,
    .kernel = NNL_MAP_addcdiv,
    .grad = addcdiv_grad,
    .saves = NNL_SAVE_INPUT(1) | NNL_SAVE_INPUT(2),
    .sample = "input:3x4 tensor1:3x4 tensor2:3x4[0.5,2]; input:3x4 tensor1:3x1 tensor2:4[-2,-0.5] value=-0.5",
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_INPLACE_OK);

static void lerp_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    nnl_tensor *dy = g->dy[0], *weight = g->in[2];
    if (g->needs[0]) g->dx[0] = DO(s, mul, dy, DO(s, sub, nnl_number(s, weight, 1), weight));
    if (g->needs[1]) g->dx[1] = DO(s, mul, dy, weight);
    if (g->needs[2]) g->dx[2] = DO(s, mul, dy, DO(s, sub, g->in[1], g->in[0]));
}

NNL_OP(lerp,
    .sig = "input:float, end:float, weight:float|scalar -> same",
    .doc = "input + weight * (end - input), elementwise with broadcasting; weight is a tensor or a number.",
    .example = "nn.zeros(2):lerp(nn.tensor({1, 2}), 0.25)",
    .infer = nnl_infer_broadcast,
    .run = nnl_run_map,
    .kernel = NNL_MAP_lerp,
    .grad = lerp_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1) | NNL_SAVE_INPUT(2),
    .sample = "input:3x4 end:3x4 weight:3x4[0,1]; input:3x4 end:4 weight:0d[0,1]",
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_INPLACE_OK);

/* ---------------------------------------------------------------- powers */

/* A negative power of an integer is none; elementwise, torch takes its whole part. */
static nnl_status pow_infer(nnl_call *c)
{
    const nnl_tensor *exponent = c->in[1];
    NNL_TRY(nnl_infer_number(c));
    bool known = exponent->ndim == 0 && !c->rt->capturing;
    if (known && !nnl_is_float((nnl_dtype)exponent->dtype) && nnl_element_double(exponent, 0) < 0)
        return nnl_call_fail(c, NNL_EINVAL, "exponent is %lld, but integers have no negative powers; convert them with :to(\"f32\")",
                             (long long)nnl_element_double(exponent, 0));
    return NNL_OK;
}

/* The loop of a frequent exponent, the same ones as in torch; else that of all. */
static int power_map(double exponent)
{
    if (exponent == 2) return NNL_MAP_square;
    if (exponent == 3) return NNL_MAP_cube;
    if (exponent == 0.5) return NNL_MAP_sqrt;
    if (exponent == -0.5) return NNL_MAP_rsqrt;
    if (exponent == -1) return NNL_MAP_reciprocal;
    if (exponent == -2) return NNL_MAP_inverse_square;
    return NNL_MAP_pow;
}

static bool pow_map(nnl_call *c, nnl_map_form *form)
{
    const nnl_tensor *exponent = c->in[1];
    form->map = NNL_MAP_pow;
    if (exponent->ndim > 0 || !nnl_is_float((nnl_dtype)exponent->dtype)) return true;
    if (!exponent->data) return false;
    double value = nnl_element_double(exponent, 0);
    form->map = power_map(value);
    if (form->map != NNL_MAP_pow) form->inputs = 1;
    return value != 1;
}

static nnl_status pow_run(nnl_call *c)
{
    nnl_map_form form;
    if (nnl_map_form_of(c, &form)) return nnl_map_run(c->rt, form.map, form.inputs, form.in, c->out[0], NULL);
    return c->out[0] == c->in[0] ? NNL_OK : nnl_copy(c->out[0], c->in[0]);
}

/* log a for the derivative by the exponent, which is 0 where a is 0 and the exponent not negative. */
static nnl_tensor *exponent_log(nnl_scope *s, nnl_tensor *a, nnl_tensor *exponent)
{
    nnl_tensor *zero = nnl_number(s, a, 0);
    nnl_tensor *flat = DO(s, logical_and, DO(s, eq, a, zero), DO(s, ge, exponent, zero));
    return DO(s, log, DO(s, where, flat, nnl_number(s, a, 1), a));
}

static void pow_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    nnl_tensor *dy = g->dy[0], *a = g->in[0], *b = g->in[1];
    if (g->needs[0]) g->dx[0] = DO(s, mul, dy, DO(s, pow_slope, a, b));
    if (g->needs[1]) g->dx[1] = DO(s, mul, dy, DO(s, mul, DO(s, pow, a, b), exponent_log(s, a, b)));
}

NNL_OP(pow,
    .sig = "input:any|scalar, exponent:any|scalar -> same",
    .doc = "input ^ exponent, elementwise with broadcasting; one of the two may be a number.  Integers have no negative power; where "
           "a tensor of exponents holds one they give the whole part.",
    .example = "nn.tensor({1, 2}) ^ 3",
    .infer = pow_infer,
    .run = pow_run,
    .map = pow_map,
    .grad = pow_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:3x4[0.3,2] exponent:3x4; input:3x4[0.3,2] exponent:0d; input:3x4!0 exponent=2; input:3x4!0 exponent=3; "
              "input:3x4[0.3,2] exponent=0.5; input:3x4[0.3,2] exponent=-0.5; input:3x4!0 exponent=-2; input=2 exponent:3x4",
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_INPLACE_OK);

static nnl_status pow_slope_run(nnl_call *c)
{
    const nnl_tensor *exponent = c->in[1];
    double b = exponent->ndim == 0 ? nnl_element_double(exponent, 0) : 0;
    const double scale[] = {b, 0};
    if (b == 2) return nnl_map_run(c->rt, NNL_MAP_scale_shift, 1, c->in, c->out[0], scale);
    int map = power_map(b - 1);
    if (b == 0 || map == NNL_MAP_pow) return nnl_map_run(c->rt, NNL_MAP_pow_slope, 2, c->in, c->out[0], NULL);
    NNL_TRY(nnl_map_run(c->rt, map, 1, c->in, c->out[0], NULL));
    return nnl_map_run(c->rt, NNL_MAP_scale_shift, 1, c->out, c->out[0], scale);
}

/* by a: b (b - 1) a^(b - 2);  by b: a^(b - 1) (1 + b log a) */
static void pow_slope_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    nnl_tensor *dy = g->dy[0], *a = g->in[0], *b = g->in[1], *less = nnl_shifted(s, b, -1);
    if (g->needs[0]) g->dx[0] = DO(s, mul, dy, DO(s, mul, b, DO(s, pow_slope, a, less)));
    if (!g->needs[1]) return;
    nnl_tensor *factor = nnl_shifted(s, DO(s, mul, b, exponent_log(s, a, less)), 1);
    g->dx[1] = DO(s, mul, dy, DO(s, mul, DO(s, pow, a, less), factor));
}

NNL_OP(pow_slope,
    .sig = "input:float, exponent:float -> same",
    .doc = "exponent * input ^ (exponent - 1), and 0 where exponent is 0.",
    .infer = nnl_infer_broadcast,
    .run = pow_slope_run,
    .grad = pow_slope_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:3x4[0.3,2] exponent:3x4; input:3x4[0.3,2] exponent:0d",
    .traits = NNL_ELEMENTWISE | NNL_HIDDEN);

static void square_grad(nnl_grad *g) { g->dx[0] = DO(g->s, mul, g->dy[0], nnl_scaled(g->s, g->in[0], 2)); }

NNL_OP(square, NNL_UNARY("number", "", square),
    .doc = "input ^ 2.",
    .example = "nn.tensor({-1, 2}):square()",
    .grad = square_grad,
    .saves = NNL_SAVE_INPUT(0));

/* d (1 / x) = -dy / x^2 = -dy y^2 */
static void reciprocal_grad(nnl_grad *g)
{
    g->dx[0] = DO(g->s, mul, DO(g->s, neg, g->dy[0]), DO(g->s, square, g->out[0]));
}

NNL_OP(reciprocal, NNL_UNARY("real", "", reciprocal),
    .doc = "1 / input.",
    .example = "nn.tensor({2, 4}):reciprocal()",
    .grad = reciprocal_grad,
    .saves = NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4[0.5,2]; input:3x4[-2,-0.5]");

/* ---------------------------------------------------------------- size and sign */

static void abs_grad(nnl_grad *g) { g->dx[0] = DO(g->s, mul, g->dy[0], DO(g->s, sign, g->in[0])); }

NNL_OP(abs, NNL_UNARY("number", "", abs),
    .doc = "|input|.  The gradient at 0 is 0.",
    .example = "nn.tensor({-1, 2}):abs()",
    .grad = abs_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4!0");

NNL_OP(sign, NNL_UNARY("number", "", sign),
    .doc = "-1, 0 or 1.  The gradient is 0.",
    .example = "nn.tensor({-3, 0, 2}):sign()",
    .grad = nnl_flat_grad,
    .sample = "input:3x4!0");

/* d atan(a / b) = (b da - a db) / (a^2 + b^2), and 0 at the origin */
static void atan2_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    nnl_tensor *a = g->in[0], *b = g->in[1];
    nnl_tensor *squares = DO(s, add, DO(s, square, a), DO(s, square, b));
    nnl_tensor *origin = DO(s, eq, squares, nnl_number(s, squares, 0));
    nnl_tensor *scaled = DO(s, div, g->dy[0], DO(s, where, origin, nnl_number(s, squares, 1), squares));
    if (g->needs[0]) g->dx[0] = DO(s, mul, scaled, b);
    if (g->needs[1]) g->dx[1] = DO(s, neg, DO(s, mul, scaled, a));
}

NNL_OP(atan2, NNL_BINARY("real", atan2),
    .doc = "The angle in (-pi, pi] of the point with ordinate input and abscissa other, elementwise with broadcasting.",
    .example = "nn.tensor({1, -1}):atan2(nn.tensor({-1, 1}))",
    .grad = atan2_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:3x4[0.5,2] other:3x4!0; input:3x4[-2,-0.5] other:4!0");

/* ---------------------------------------------------------------- the larger, the smaller, and between */

/* Nothing flows to a and b: piecewise linear. */
static void maximum_backward_grad(nnl_grad *g)
{
    g->dx[0] = DO(g->s, maximum_backward, g->dy[0], g->in[1], g->in[2]);
}

NNL_OP(maximum_backward,
    .sig = "dy:float, a:float, b:float -> same",
    .doc = "dy where a > b (or one is NaN), dy / 2 where a = b, else 0.  In place dy may have the narrower type of the target.",
    .infer = nnl_infer_broadcast,
    .run = nnl_run_map,
    .kernel = NNL_MAP_maximum_grad,
    .grad = maximum_backward_grad,
    .saves = NNL_SAVE_INPUT(1) | NNL_SAVE_INPUT(2),
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_HIDDEN);

static void maximum_grad(nnl_grad *g)
{
    nnl_tensor *dy = g->dy[0], *a = g->in[0], *b = g->in[1];
    if (g->needs[0]) g->dx[0] = DO(g->s, maximum_backward, dy, a, b);
    if (g->needs[1]) g->dx[1] = DO(g->s, maximum_backward, dy, b, a);
}

static void minimum_grad(nnl_grad *g)
{
    nnl_tensor *dy = g->dy[0], *a = g->in[0], *b = g->in[1];
    if (g->needs[0]) g->dx[0] = DO(g->s, maximum_backward, dy, b, a);
    if (g->needs[1]) g->dx[1] = DO(g->s, maximum_backward, dy, a, b);
}

NNL_OP(maximum, NNL_BINARY("any", maximum),
    .doc = "The larger of input and other, elementwise with broadcasting; NaN if either is.  Equal ones share the gradient.",
    .example = "nn.tensor({1, 4}):maximum(nn.tensor({3, 2}))",
    .grad = maximum_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:3x4 other:3x4; input:3x4!0.5 other=0.5");

NNL_OP(minimum, NNL_BINARY("any", minimum),
    .doc = "The smaller of input and other, elementwise with broadcasting; NaN if either is.  Equal ones share the gradient.",
    .example = "nn.tensor({1, 4}):minimum(nn.tensor({3, 2}))",
    .grad = minimum_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:3x4 other:3x4; input:3x4!0.5 other=0.5");

static nnl_status clamp_infer(nnl_call *c)
{
    if (!c->in[1] && !c->in[2]) return nnl_call_fail(c, NNL_EINVAL, "min or max must be given");
    NNL_TRY(nnl_infer_compare(c));
    c->spec[0].dtype = (nnl_dtype)c->in[0]->dtype;
    return NNL_OK;
}

static bool clamp_map(nnl_call *c, nnl_map_form *form)
{
    bool both = c->in[1] && c->in[2];
    form->map = both ? NNL_MAP_clamp_tensor : c->in[1] ? NNL_MAP_maximum : NNL_MAP_minimum;
    form->inputs = both ? 3 : 2;
    form->in[1] = c->in[1] ? c->in[1] : c->in[2];
    return !both || c->in[0]->dtype != NNL_BOOL;
}

/* A 0-d float of x's type that is not NaN. */
static bool read_bound(const nnl_tensor *x, const nnl_tensor *bound, double *value)
{
    if (!bound || bound->ndim > 0 || bound->dtype != x->dtype || !nnl_is_float((nnl_dtype)x->dtype)) return false;
    if (x->dtype == NNL_F32) *value = (double)*(const float *)(const void *)bound->data;
    else *value = *(const double *)(const void *)bound->data;
    return *value == *value;
}

static nnl_status clamp_run(nnl_call *c)
{
    nnl_map_form form;
    nnl_tensor *out = c->out[0];
    double bounds[2];
    /* the same bits, with one operand to read instead of three */
    if (read_bound(c->in[0], c->in[1], &bounds[0]) && read_bound(c->in[0], c->in[2], &bounds[1]))
        return nnl_map_run(c->rt, NNL_MAP_clamp, 1, c->in, out, bounds);
    if (nnl_map_form_of(c, &form)) return nnl_map_run(c->rt, form.map, form.inputs, form.in, out, NULL);
    NNL_TRY(nnl_map_run(c->rt, NNL_MAP_maximum, 2, c->in, out, NULL));
    return nnl_map_run(c->rt, NNL_MAP_minimum, 2, (nnl_tensor *[]){out, c->in[2]}, out, NULL);
}

/* Numbers cut hard: nothing passes at them.  Tensors share with what equals them, as in maximum. */
static bool is_number(const nnl_grad *g, int place)
{
    return place == 0 || !g->in[place] || (g->in[place]->ndim == 0 && !g->needs[place]);
}

/* low, high: the places of the bounds; 0 where the op has none. */
static void between_grad(nnl_grad *g, int low, int high)
{
    nnl_scope *s = g->s;
    nnl_tensor *x = g->in[0], *min = low ? g->in[low] : NULL, *max = high ? g->in[high] : NULL, *dy = g->dy[0];
    if (is_number(g, low) && is_number(g, high)) {
        nnl_tensor *above = min ? DO(s, gt, x, min) : NULL, *below = max ? DO(s, lt, x, max) : NULL;
        g->dx[0] = DO(s, masked, min && max ? DO(s, logical_and, above, below) : min ? above : below, dy);
        return;
    }
    /* where min lies above max the result is max */
    nnl_tensor *between = dy, *valid = min && max ? DO(s, le, min, max) : NULL;
    if (min) between = DO(s, maximum_backward, between, x, min);
    if (max) between = DO(s, maximum_backward, between, max, x);
    g->dx[0] = valid ? DO(s, masked, valid, between) : between;
    if (min && g->needs[low]) {
        nnl_tensor *raised = DO(s, maximum_backward, dy, min, x);
        g->dx[low] = valid ? DO(s, masked, valid, raised) : raised;
    }
    if (max && g->needs[high]) {
        nnl_tensor *cut = DO(s, maximum_backward, dy, x, max);
        g->dx[high] = valid ? DO(s, where, valid, cut, dy) : cut;
    }
}

static void clamp_grad(nnl_grad *g) { between_grad(g, 1, 2); }

NNL_OP(clamp,
    .sig = "input:any, min:any|scalar?, max:any|scalar? -> same",
    .doc = "min(max(input, min), max), elementwise with broadcasting; the bounds are numbers or tensors, and one of them may be absent.  "
           "No gradient passes at a number; tensors share it with what equals them.",
    .example = "nn.tensor({-2, 0.5, 2}):clamp(-1, 1)",
    .infer = clamp_infer,
    .run = clamp_run,
    .map = clamp_map,
    .grad = clamp_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1) | NNL_SAVE_INPUT(2),
    .sample = "input:3x4!-1!1 min=-1 max=1; input:3x4!0.5 max=0.5; input:3x4 min:3x4[-2,-0.5] max:4[0.5,2]; input:3x4 min:3x4",
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_SATURATE | NNL_INPLACE_OK);

static void clamp_min_grad(nnl_grad *g) { between_grad(g, 1, 0); }

NNL_OP(clamp_min,
    .sig = "input:any, min:any|scalar -> same",
    .doc = "max(input, min), elementwise with broadcasting.  No gradient passes at a number; a tensor "
           "shares it with what equals it.",
    .example = "nn.tensor({-2, 2}):clamp_min(-1)",
    .infer = nnl_infer_broadcast,
    .run = nnl_run_map,
    .kernel = NNL_MAP_maximum,
    .grad = clamp_min_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:3x4!-1 min=-1; input:3x4 min:4",
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_SATURATE | NNL_INPLACE_OK);

static void clamp_max_grad(nnl_grad *g) { between_grad(g, 0, 1); }

NNL_OP(clamp_max,
    .sig = "input:any, max:any|scalar -> same",
    .doc = "min(input, max), elementwise with broadcasting.  No gradient passes at a number; a tensor "
           "shares it with what equals it.",
    .example = "nn.tensor({-2, 2}):clamp_max(1)",
    .infer = nnl_infer_broadcast,
    .run = nnl_run_map,
    .kernel = NNL_MAP_minimum,
    .grad = clamp_max_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:3x4!1 max=1; input:3x4 max:4",
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_SATURATE | NNL_INPLACE_OK);
