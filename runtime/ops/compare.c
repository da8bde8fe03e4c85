/* Comparison, logic, bits, and choice by a condition. */
#include "elementwise.h"

#define NO_DERIVATIVE NNL_NO_GRAD("the result is true or false")
#define FLAT_IN_PLACE NO_DERIVATIVE, .grad = nnl_flat_grad

/* ---------------------------------------------------------------- comparison -> bool */

#define COMPARE(map)                                                                               \
    .sig = "input:any, other:any|scalar -> bool", .infer = nnl_infer_compare, .run = nnl_run_map,  \
    .kernel = NNL_MAP_##map, .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_INPLACE_OK, FLAT_IN_PLACE

NNL_OP(eq, COMPARE(eq),
    .doc = "Where input equals other (a tensor or a number), elementwise with broadcasting; NaN equals nothing.",
    .example = "nn.tensor({1, 2}):eq(2)",
    .sample = "input:3x4[0,3]{i64} other:3x4[0,3]{i64}; input:3x4 other:4");

NNL_OP(ne, COMPARE(ne),
    .doc = "Where input differs from other (a tensor or a number), elementwise with broadcasting; NaN differs from all.",
    .example = "nn.tensor({1, 2}):ne(2)",
    .sample = "input:3x4[0,3]{i64} other:3x4[0,3]{i64}; input:3x4 other:4");

NNL_OP(lt, COMPARE(lt),
    .doc = "Where input < other (a tensor or a number), elementwise with broadcasting.",
    .example = "nn.tensor({1, 2}):lt(2)",
    .sample = "input:3x4 other:3x4; input:3x4[0,3]{i64} other:4[0,3]{i64}");

NNL_OP(le, COMPARE(le),
    .doc = "Where input <= other (a tensor or a number), elementwise with broadcasting.",
    .example = "nn.tensor({1, 2}):le(1)",
    .sample = "input:3x4 other:3x4; input:3x4[0,3]{i64} other:4[0,3]{i64}");

NNL_OP(gt, COMPARE(gt),
    .doc = "Where input > other (a tensor or a number), elementwise with broadcasting.",
    .example = "nn.tensor({1, 2}):gt(1)",
    .sample = "input:3x4 other:3x4; input:3x4[0,3]{i64} other:4[0,3]{i64}");

NNL_OP(ge, COMPARE(ge),
    .doc = "Where input >= other (a tensor or a number), elementwise with broadcasting.",
    .example = "nn.tensor({1, 2}):ge(2)",
    .sample = "input:3x4 other:3x4; input:3x4[0,3]{i64} other:4[0,3]{i64}");

NNL_OP(isclose,
    .sig = "input:any, other:any, rtol:num=1e-5, atol:num=1e-8, equal_nan:flag=false -> bool",
    .doc = "Where |input - other| <= atol + rtol * |other|, computed in f64, elementwise with broadcasting.  Infinities are close to "
           "themselves, and NaN to NaN with equal_nan.",
    .example = "nn.tensor({1, 2}):isclose(nn.tensor({1.000001, 2.1}))",
    .infer = nnl_infer_compare,
    .run = nnl_run_map,
    .kernel = NNL_MAP_isclose,
    NO_DERIVATIVE,
    .sample = "input:3x4 other:3x4; input:3x4 other:4 rtol=0.5 atol=0.1 equal_nan=true",
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE);

#define PREDICATE(map)                                                                             \
    .sig = "input:any -> bool", .infer = nnl_infer_compare, .run = nnl_run_map, .kernel = NNL_MAP_##map, \
    .traits = NNL_ELEMENTWISE, NO_DERIVATIVE

NNL_OP(isnan, PREDICATE(isnan),
    .doc = "Where input is not a number.",
    .example = "nn.tensor({1, 0/0}):isnan()");

NNL_OP(isinf, PREDICATE(isinf),
    .doc = "Where input is plus or minus infinity.",
    .example = "nn.tensor({1, math.huge}):isinf()");

NNL_OP(isfinite, PREDICATE(isfinite),
    .doc = "Where input is neither infinite nor NaN.",
    .example = "nn.tensor({1, math.huge}):isfinite()");

/* ---------------------------------------------------------------- logic -> bool; what is not 0 is true */

#define LOGIC(map)                                                                                 \
    .sig = "input:any, other:any|scalar -> bool", .infer = nnl_infer_compare, .run = nnl_run_map,  \
    .kernel = NNL_MAP_##map, .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_INPLACE_OK, FLAT_IN_PLACE, \
    .sample = "input:3x4{bool} other:3x4{bool}; input:3x4{bool} other:4{bool}"

NNL_OP(logical_and, LOGIC(logical_and),
    .doc = "Where both input and other are true or not 0, elementwise with broadcasting.",
    .example = "nn.tensor({true, false}):logical_and(nn.tensor({true, true}))");

NNL_OP(logical_or, LOGIC(logical_or),
    .doc = "Where input or other is true or not 0, elementwise with broadcasting.",
    .example = "nn.tensor({true, false}):logical_or(nn.tensor({true, true}))");

NNL_OP(logical_xor, LOGIC(logical_xor),
    .doc = "Where one of input and other, and not both, is true or not 0, elementwise with broadcasting.",
    .example = "nn.tensor({true, false}):logical_xor(nn.tensor({true, true}))");

NNL_OP(logical_not,
    .sig = "input:any -> bool",
    .doc = "Where input is false or 0.",
    .example = "nn.tensor({true, false}):logical_not()",
    .infer = nnl_infer_compare,
    .run = nnl_run_map,
    .kernel = NNL_MAP_logical_not,
    FLAT_IN_PLACE,
    .sample = "input:3x4{bool}",
    .traits = NNL_ELEMENTWISE | NNL_INPLACE_OK);

/* ---------------------------------------------------------------- bits */

static nnl_status bits_infer(nnl_call *c)
{
    for (int i = 0; i < c->n_in; i++) {
        nnl_dtype dtype = (nnl_dtype)c->in[i]->dtype;
        if (nnl_is_float(dtype))
            return nnl_call_fail(c, NNL_ETYPE, "bits are of bool and of integers, not of %s", nnl_dtype_name(dtype));
    }
    return nnl_infer_broadcast(c);
}

#define BITS(map)                                                                                  \
    .sig = "input:any, other:any|scalar -> same", .infer = bits_infer, .run = nnl_run_map, .kernel = NNL_MAP_##map, \
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_INPLACE_OK, NNL_NO_GRAD("of integers and bool"), \
    .sample = "input:3x4[0,9]{i64} other:3x4[0,9]{i64}; input:3x4{bool} other:4{bool}"

NNL_OP(bitwise_and, BITS(bitwise_and),
    .doc = "Bit by bit and of integers, elementwise with broadcasting; logical and of bool.",
    .example = "nn.tensor({6, 5}, \"i64\"):bitwise_and(3)");

NNL_OP(bitwise_or, BITS(bitwise_or),
    .doc = "Bit by bit or of integers, elementwise with broadcasting; logical or of bool.",
    .example = "nn.tensor({6, 5}, \"i64\"):bitwise_or(3)");

NNL_OP(bitwise_xor, BITS(bitwise_xor),
    .doc = "Bit by bit exclusive or of integers, elementwise with broadcasting; logical exclusive or of bool.",
    .example = "nn.tensor({6, 5}, \"i64\"):bitwise_xor(3)");

NNL_OP(bitwise_not,
    .sig = "input:any -> same",
    .doc = "Every bit of an integer inverted; logical not of bool.",
    .example = "~nn.tensor({true, false})",
    .infer = bits_infer,
    .run = nnl_run_map,
    .kernel = NNL_MAP_bitwise_not,
    NNL_NO_GRAD("of integers and bool"),
    .sample = "input:3x4[0,9]{i64}; input:3x4{bool}",
    .traits = NNL_ELEMENTWISE | NNL_INPLACE_OK);

/* ---------------------------------------------------------------- choice by a condition */

static void masked_grad(nnl_grad *g) { g->dx[1] = DO(g->s, masked, g->in[0], g->dy[0]); }

NNL_OP(masked,
    .sig = "condition:bool, input:any -> same",
    .doc = "input where condition is true, else 0: unlike a product, also where input is NaN.",
    .infer = nnl_infer_broadcast,
    .run = nnl_run_map,
    .kernel = NNL_MAP_masked,
    .grad = masked_grad,
    .saves = NNL_SAVE_INPUT(0),
    .traits = NNL_ELEMENTWISE | NNL_HIDDEN);

/* What `masked` leaves out. */
static nnl_tensor *unmasked(nnl_scope *s, nnl_tensor *condition, nnl_tensor *dy)
{
    return DO(s, where, condition, nnl_number(s, dy, 0), dy);
}

static void where_grad(nnl_grad *g)
{
    if (g->needs[1]) g->dx[1] = DO(g->s, masked, g->in[0], g->dy[0]);
    if (g->needs[2]) g->dx[2] = unmasked(g->s, g->in[0], g->dy[0]);
}

NNL_OP(where,
    .sig = "condition:bool, input:any|scalar, other:any|scalar -> same",
    .doc = "input where condition is true, else other, with broadcasting; both are tensors or numbers.",
    .example = "nn.where(nn.tensor({true, false}), 1, nn.tensor({5, 6}))",
    .infer = nnl_infer_broadcast,
    .run = nnl_run_map,
    .kernel = NNL_MAP_where,
    .grad = where_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "condition:3x4 input:3x4 other:3x4; condition:4 input:3x4 other:3x1; condition:3x4 input:3x4 other=0",
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_NO_METHOD);

static nnl_status masked_fill_infer(nnl_call *c)
{
    char text[NNL_NAMED_TEXT];
    if (c->in[2]->ndim != 0)
        return nnl_call_fail(c, NNL_ESHAPE, "%s must be a number or a 0-d tensor", nnl_call_input_text(c, 2, text));
    return nnl_infer_broadcast(c);
}

static nnl_status masked_fill_run(nnl_call *c)
{
    return nnl_map_run(c->rt, NNL_MAP_where, 3, (nnl_tensor *[]){c->in[1], c->in[2], c->in[0]}, c->out[0], NULL);
}

static void masked_fill_grad(nnl_grad *g)
{
    if (g->needs[0]) g->dx[0] = unmasked(g->s, g->in[1], g->dy[0]);
    if (g->needs[2]) g->dx[2] = DO(g->s, masked, g->in[1], g->dy[0]);
}

NNL_OP(masked_fill,
    .sig = "input:any, mask:bool, value:any|scalar -> same",
    .doc = "value (a number or a 0-d tensor) where mask is true, else input; input and mask broadcast.  The type is "
           "input's.",
    .example = "nn.ones(2):masked_fill(nn.tensor({true, false}), 7)",
    .infer = masked_fill_infer,
    .run = masked_fill_run,
    .grad = masked_fill_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:3x4 mask:3x4 value=1.5; input:3x4 mask:4 value:0d",
    .traits = NNL_PROMOTE | NNL_FIRST_TYPE | NNL_INPLACE_OK);
