/* Activations.  Each has a fused gradient; the smooth ones also a composition for higher derivatives.  Some of
 * the usual list are mathematics: maths.c has sigmoid, tanh, logsigmoid, arctan, sinusoid, gaussian. */
#include "elementwise.h"
#include "window.h"

/* dx = OP(dy, x) with the attributes of the call. */
static void backward(nnl_grad *g, const nnl_op *op)
{
    g->dx[0] = nnl_do(g->s, op, NNL_TENSORS(g->dy[0], g->in[0]), g->sig->attrs, g->attr);
}

/* Of a backward op whose function is piecewise linear: nothing flows to x, and dy is scaled as before. */
static void again(nnl_grad *g)
{
    g->dx[0] = nnl_do(g->s, g->op, NNL_TENSORS(g->dy[0], g->in[1]), g->sig->attrs, g->attr);
}

#define PIECEWISE .grad = again, .saves = NNL_SAVE_INPUT(1)
#define BY_COMPOSITION NNL_NO_GRAD("second derivatives go by the composition")

/* ---------------------------------------------------------------- piecewise linear */

static nnl_status hand_on(nnl_call *c)
{
    nnl_spec_like(&c->spec[0], c->in[0]);
    c->out[0] = nnl_tensor_ref(c->in[0]);
    return NNL_OK;
}

static nnl_status copy_run(nnl_call *c) { return nnl_copy(c->out[0], c->in[0]); }
static void pass_grad(nnl_grad *g) { g->dx[0] = g->dy[0]; }

NNL_OP(identity,
    .sig = "input:any -> same",
    .doc = "x: the tensor itself.",
    .example = "nn.F.identity(nn.tensor({-1, 2}))",
    .infer = hand_on,
    .run = copy_run,
    .grad = pass_grad);

NNL_OP(binary_step, NNL_UNARY("number", "", binary_step),
    .doc = "1 for x >= 0, else 0.  The gradient is 0.",
    .example = "nn.F.binary_step(nn.tensor({-1, 2}))",
    .grad = nnl_flat_grad,
    .sample = "input:3x4!0");

static void relu_grad(nnl_grad *g) { g->dx[0] = DO(g->s, relu_backward, g->dy[0], g->out[0]); }

NNL_OP(relu,
    .sig = "input:number -> same",
    .doc = "max(0, x).",
    .example = "nn.F.relu(nn.tensor({-1, 2}))",
    .infer = nnl_infer_same,
    .run = nnl_run_map,
    .kernel = NNL_MAP_relu,
    .grad = relu_grad,
    .saves = NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4!0",
    .traits = NNL_ELEMENTWISE | NNL_INPLACE_OK);

static void relu_backward_grad(nnl_grad *g) { g->dx[0] = DO(g->s, relu_backward, g->dy[0], g->in[1]); }

NNL_OP(relu_backward,
    .sig = "dy:float, x:float -> same",
    .doc = "dy where x > 0, else 0.  x may be relu's input or its result.",
    .infer = nnl_infer_broadcast,
    .run = nnl_run_map,
    .kernel = NNL_MAP_relu_grad,
    .grad = relu_backward_grad, /* nothing flows to x: relu is piecewise linear */
    .saves = NNL_SAVE_INPUT(1),
    .sample = "dy:3x4 x:3x4!0",
    .traits = NNL_ELEMENTWISE | NNL_HIDDEN);

static void relu6_grad(nnl_grad *g) { g->dx[0] = DO(g->s, relu6_backward, g->dy[0], g->out[0]); }

NNL_OP(relu6, NNL_UNARY("number", "", relu6),
    .doc = "min(max(0, x), 6).",
    .example = "nn.F.relu6(nn.tensor({-1, 2, 8}))",
    .grad = relu6_grad,
    .saves = NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4[-3,9]!0!6");

NNL_OP(relu6_backward, NNL_BACKWARD("", relu6_grad),
    .doc = "dy where 0 < x < 6, else 0.  x may be relu6's input or its result.",
    PIECEWISE);

static void leaky_relu_grad(nnl_grad *g) { backward(g, &nnl_op_leaky_relu_backward); }

NNL_OP(leaky_relu, NNL_UNARY("float", ", negative_slope:num=0.01", leaky_relu),
    .doc = "x for x > 0, else negative_slope * x.",
    .example = "nn.F.leaky_relu(nn.tensor({-1, 2}), 0.2)",
    .grad = leaky_relu_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4!0; input:3x4!0 negative_slope=-0.5");

NNL_OP(leaky_relu_backward, NNL_BACKWARD(", negative_slope:num", leaky_relu_grad),
    .doc = "dy where x > 0, else negative_slope * dy.",
    PIECEWISE);

static void hardtanh_grad(nnl_grad *g) { backward(g, &nnl_op_hardtanh_backward); }

static nnl_status hardtanh_infer(nnl_call *c)
{
    double low = nnl_value_double(&c->attr[0]), high = nnl_value_double(&c->attr[1]);
    if (low > high) return nnl_call_fail(c, NNL_EINVAL, "min_val is %g, above max_val, which is %g", low, high);
    return nnl_infer_same(c);
}

NNL_OP(hardtanh,
    .sig = "input:number, min_val:num=-1, max_val:num=1 -> same",
    .doc = "x between min_val and max_val, else the nearer of them.",
    .example = "nn.F.hardtanh(nn.tensor({-2, 0.5, 2}))",
    .infer = hardtanh_infer,
    .run = nnl_run_map,
    .kernel = NNL_MAP_clamp,
    .grad = hardtanh_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4!-1!1; input:3x4!-0.5!1.5 min_val=-0.5 max_val=1.5",
    .traits = NNL_ELEMENTWISE | NNL_INPLACE_OK);

NNL_OP(hardtanh_backward, NNL_BACKWARD(", min_val:num, max_val:num", hardtanh_grad),
    .doc = "dy where min_val < x < max_val, else 0.",
    PIECEWISE);

static void hardsigmoid_grad(nnl_grad *g) { backward(g, &nnl_op_hardsigmoid_backward); }

NNL_OP(hardsigmoid, NNL_UNARY("float", "", hardsigmoid),
    .doc = "0 up to -3, 1 from 3 on, (x + 3) / 6 between.",
    .example = "nn.F.hardsigmoid(nn.tensor({-4, 0, 4}))",
    .grad = hardsigmoid_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4[-5,5]!-3!3");

NNL_OP(hardsigmoid_backward, NNL_BACKWARD("", hardsigmoid_grad),
    .doc = "dy / 6 where -3 < x < 3, else 0.",
    PIECEWISE);

static void hardshrink_grad(nnl_grad *g) { backward(g, &nnl_op_hardshrink_backward); }

NNL_OP(hardshrink, NNL_UNARY("float", ", lambd:num=0.5", hardshrink),
    .doc = "0 where |x| <= lambd, else x.",
    .example = "nn.F.hardshrink(nn.tensor({-1, 0.2, 1}))",
    .grad = hardshrink_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4!-0.5!0.5; input:3x4!-1!1 lambd=1");

NNL_OP(softshrink, NNL_UNARY("float", ", lambd:num=0.5", softshrink),
    .doc = "0 where |x| <= lambd, else x moved by lambd towards 0.",
    .example = "nn.F.softshrink(nn.tensor({-1, 0.2, 1}))",
    .grad = hardshrink_grad, /* the same slope */
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4!-0.5!0.5; input:3x4!-1!1 lambd=1");

NNL_OP(hardshrink_backward, NNL_BACKWARD(", lambd:num", hardshrink_grad),
    .doc = "dy where |x| > lambd, else 0.",
    PIECEWISE);

static void threshold_grad(nnl_grad *g) { backward(g, &nnl_op_threshold_backward); }

NNL_OP(threshold, NNL_UNARY("number", ", threshold:num, value:num", threshold),
    .doc = "x where x > threshold, else value.",
    .example = "nn.F.threshold(nn.tensor({-1, 2}), 0, 7)",
    .grad = threshold_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4!0.5 threshold=0.5 value=-3");

NNL_OP(threshold_backward, NNL_BACKWARD(", threshold:num, value:num", threshold_grad),
    .doc = "dy where x > threshold, else 0.",
    PIECEWISE);

/* ---------------------------------------------------------------- slopes from elsewhere */

/* The weight with the channels, dimension 1 of input, in place; a single weight is for all. */
static int weight_shape(int ndim, int64_t count, int64_t shape[NNL_MAX_DIMS])
{
    if (count == 1) return 0;
    for (int d = 0; d < ndim; d++) shape[d] = d == 1 ? count : 1;
    return ndim;
}

static nnl_status prelu_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0], *weight = c->in[1];
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    int64_t channels = x->ndim > 1 ? x->shape[1] : 1;
    if (weight->ndim > 1 || (weight->numel != 1 && weight->numel != channels))
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have 1 element or one for each channel of %s, which has %lld",
                             nnl_call_input_text(c, 1, a), nnl_call_input_text(c, 0, b), (long long)channels);
    return nnl_infer_same(c);
}

static nnl_status prelu_run(nnl_call *c)
{
    nnl_tensor *weight = c->in[1];
    int64_t shape[NNL_MAX_DIMS] = {0}, strides[NNL_MAX_DIMS] = {0};
    int ndim = weight_shape(c->in[0]->ndim, weight->numel, shape);
    if (ndim > 0) strides[1] = weight->strides[0];
    nnl_tensor placed = nnl_window(weight, weight->data, ndim, shape, strides);
    return nnl_map_run(c->rt, NNL_MAP_prelu, 2, (nnl_tensor *[]){c->in[0], &placed}, c->out[0], NULL);
}

static void prelu_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    nnl_tensor *x = g->in[0], *dy = g->dy[0], *zero = nnl_number(s, x, 0), *above = DO(s, gt, x, zero);
    const nnl_layout *layout = &g->in_layout[1];
    int64_t shape[NNL_MAX_DIMS], count = layout->ndim ? layout->shape[0] : 1;
    int ndim = weight_shape(g->in_layout[0].ndim, count, shape);
    if (g->needs[0])
        g->dx[0] = DO(s, where, above, dy, DO(s, mul, dy, nnl_reshaped(s, g->in[1], ndim, shape)));
    if (!g->needs[1]) return;
    nnl_tensor *each = DO(s, where, above, zero, DO(s, mul, dy, x));
    int64_t dims[NNL_MAX_DIMS];
    int n = 0;
    for (int d = 0; d < g->in_layout[0].ndim; d++) {
        if (count == 1 || d != 1) dims[n++] = d;
    }
    nnl_tensor *sum = n == 0 ? each : DO_WITH(s, sum, (V_INTS(n, dims), V_FLAG(false)), each);
    g->dx[1] = nnl_reshaped(s, sum, layout->ndim, layout->shape);
}

NNL_OP(prelu,
    .sig = "input:float, weight:float -> same",
    .doc = "x for x > 0, else weight * x.  weight has one element, or one for each channel (dimension 2 of input).  He et al., "
           "arXiv:1502.01852.",
    .example = "nn.F.prelu(nn.tensor({{-1, 2}, {3, -4}}), nn.tensor({0.1, 0.2}))",
    .infer = prelu_infer,
    .run = prelu_run,
    .grad = prelu_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_INPUT(1),
    .sample = "input:2x4x3!0 weight:4; input:3x4!0 weight:1; input:3!0 weight:0d",
    .traits = NNL_PROMOTE);

/* Slopes drawn for x <= 0, and 1 for x > 0, so that output and gradient are products. */
typedef struct draw {
    nnl_runtime *rt;
    uint64_t call;
    double low, range;
    const nnl_tensor *slope;
} draw;

static void draw_slopes(void *context, const nnl_loop *loop, char *const *address, int64_t n)
{
    const draw *d = context;
    int inner = loop->ndim - 1;
    bool narrow = d->slope->dtype == NNL_F32;
    const uint32_t key[2] = {(uint32_t)d->rt->seed, (uint32_t)(d->rt->seed >> 32)};
    uint32_t words[4];
    uint64_t have = UINT64_MAX;
    for (int64_t i = 0; i < n; i++) {
        char *to = address[0] + i * loop->step[0][inner];
        const char *from = address[1] + i * loop->step[1][inner];
        bool above = narrow ? *(const float *)(const void *)from > 0 : *(const double *)(const void *)from > 0;
        double slope = 1;
        if (!above) {
            uint64_t element = (uint64_t)(to - d->slope->data) / nnl_dtype_size((nnl_dtype)d->slope->dtype), block = element / 4;
            if (block != have) {
                const uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)d->call,
                                             (uint32_t)(d->call >> 32)};
                nnl_philox(counter, key, words);
                have = block;
            }
            slope = d->low + d->range * ((words[element % 4] >> 8) * 0x1p-24);
        }
        if (narrow) *(float *)(void *)to = (float)slope;
        else *(double *)(void *)to = slope;
    }
}

static nnl_status rrelu_infer(nnl_call *c)
{
    double lower = nnl_value_double(&c->attr[0]), upper = nnl_value_double(&c->attr[1]);
    if (!(lower <= upper)) return nnl_call_fail(c, NNL_EINVAL, "lower is %g, above upper, which is %g", lower, upper);
    nnl_spec_like(&c->spec[0], c->in[0]);
    if (c->attr[2].as.i) nnl_spec_like(&c->spec[1], c->in[0]);
    else nnl_spec_set(&c->spec[1], (nnl_dtype)c->in[0]->dtype, 1, (int64_t[]){0});
    return NNL_OK;
}

static nnl_status rrelu_run(nnl_call *c)
{
    double lower = nnl_value_double(&c->attr[0]), upper = nnl_value_double(&c->attr[1]), mean = (lower + upper) / 2;
    if (!c->attr[2].as.i) return nnl_map_run(c->rt, NNL_MAP_leaky_relu, 1, c->in, c->out[0], &mean);
    draw d = {c->rt, c->random, lower, upper - lower, c->out[1]};
    nnl_loop loop;
    nnl_loop_plan(&loop, c->out[1]->ndim, c->out[1]->shape, 2, (nnl_tensor *[]){c->out[1], c->in[0]});
    NNL_TRY(nnl_loop_run(c->rt, &loop, 20, draw_slopes, &d));
    return nnl_map_run(c->rt, NNL_MAP_mul, 2, (nnl_tensor *[]){c->in[0], c->out[1]}, c->out[0], NULL);
}

static void rrelu_grad(nnl_grad *g)
{
    if (!g->dy[0]) return; /* of the slopes, which do not depend on x */
    double mean = (nnl_value_double(&g->attr[0]) + nnl_value_double(&g->attr[1])) / 2;
    if (g->attr[2].as.i) g->dx[0] = DO(g->s, mul, g->dy[0], g->out[1]);
    else g->dx[0] = DO_WITH(g->s, leaky_relu_backward, (V_NUM(mean)), g->dy[0], g->in[0]);
}

NNL_OP(rrelu,
    .sig = "input:float, lower:num=0.125, upper:num=0.3333333333333333, training:flag=false -> output:same, slope:same!",
    .doc = "x for x > 0, else a * x: in training a is drawn from [lower, upper) for each element, otherwise it is their mean.  Xu et "
           "al., arXiv:1505.00853.",
    .example = "nn.F.rrelu(nn.tensor({-1, 2}))",
    .infer = rrelu_infer,
    .run = rrelu_run,
    .grad = rrelu_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_OUTPUT(1),
    .sample = "input:3x4!0; input:3x4!0 lower=0.2 upper=0.6 training=false",
    .traits = NNL_ELEMENTWISE | NNL_RANDOM);

/* Exponential below 0 (elu, selu, celu): p1 x above, p1 p0 (e^(p2 x) - 1) below. */
enum { ELU, SELU, CELU };

static void elu_parameters(const nnl_op *op, const nnl_value *attr, double p[3])
{
    double alpha = op->variant == SELU ? 1.6732632423543772 : nnl_value_double(&attr[0]);
    p[0] = alpha;
    p[1] = op->variant == SELU ? 1.0507009873554805 : 1;
    p[2] = op->variant == CELU ? 1 / alpha : 1;
}

static bool elu_map(nnl_call *c, nnl_map_form *form)
{
    form->map = NNL_MAP_elu;
    elu_parameters(c->op, c->attr, form->param);
    return true;
}

static void elu_grad(nnl_grad *g)
{
    double p[3];
    elu_parameters(g->op, g->attr, p);
    g->dx[0] = DO_WITH(g->s, elu_backward, (V_NUM(p[0]), V_NUM(p[1]), V_NUM(p[2])), g->dy[0], g->in[0]);
}

/* Cut at 0 before the exponential: its overflow would reach the gradient as 0 times infinity. */
static void elu_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    nnl_tensor *x = d->in[0], *zero = nnl_number(s, x, 0);
    double p[3];
    elu_parameters(d->op, d->attr, p);
    nnl_tensor *above = DO(s, gt, x, zero);
    nnl_tensor *below = DO(s, expm1, nnl_scaled(s, DO(s, where, above, zero, x), p[2]));
    d->out[0] = DO(s, where, above, nnl_scaled(s, x, p[1]), nnl_scaled(s, below, p[0] * p[1]));
}

#define ELU_OF(attrs, which)                                                                           .sig = "input:float" attrs " -> same", .infer = nnl_infer_same, .run = nnl_run_map, .map = elu_map, .grad = elu_grad,     .define = elu_define, .variant = which, .saves = NNL_SAVE_INPUT(0), .traits = NNL_ELEMENTWISE | NNL_INPLACE_OK

NNL_OP(elu, ELU_OF(", alpha:num=1.0", ELU),
    .doc = "x for x > 0, else alpha * (e^x - 1).  Clevert et al., arXiv:1511.07289.",
    .example = "nn.F.elu(nn.tensor({-1, 2}))",
    .sample = "input:3x4!0; input:3x4!0 alpha=1.5");

NNL_OP(selu, ELU_OF("", SELU),
    .doc = "s * x for x > 0, else s * a * (e^x - 1), with s = 1.0507009873554805 and a = 1.6732632423543772.  Klambauer et al., "
           "arXiv:1706.02515.",
    .example = "nn.F.selu(nn.tensor({-1, 2}))",
    .sample = "input:3x4!0");

NNL_OP(celu, ELU_OF(", alpha:num=1.0", CELU),
    .doc = "x for x > 0, else alpha * (e^(x / alpha) - 1).  Barron, arXiv:1704.07483.",
    .example = "nn.F.celu(nn.tensor({-1, 2}), 2)",
    .sample = "input:3x4!0; input:3x4!0 alpha=1.5");

NNL_OP(elu_backward, NNL_BACKWARD(", alpha:num, scale:num, input_scale:num", elu_grad),
    .doc = "dy * scale where x > 0, else dy * scale * alpha * input_scale * e^(input_scale * x).",
    BY_COMPOSITION);

/* ---------------------------------------------------------------- smooth */

static void softplus_grad(nnl_grad *g) { backward(g, &nnl_op_softplus_backward); }

/* log(1 + e^z) = -logsigmoid(-z) */
static void softplus_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    nnl_tensor *x = d->in[0];
    double beta = nnl_value_double(&d->attr[0]), threshold = nnl_value_double(&d->attr[1]);
    nnl_tensor *minus = nnl_scaled(s, x, -beta);
    nnl_tensor *linear = DO(s, lt, minus, nnl_number(s, x, -threshold));
    d->out[0] = DO(s, where, linear, x, nnl_scaled(s, DO(s, logsigmoid, minus), -1 / beta));
}

NNL_OP(softplus, NNL_UNARY("float", ", beta:num=1, threshold:num=20", softplus),
    .doc = "log(1 + e^(beta * x)) / beta; x where beta * x > threshold.",
    .example = "nn.F.softplus(nn.tensor({-1, 2}))",
    .grad = softplus_grad,
    .define = softplus_define,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4; input:3x4[0.5,3]!1 beta=2 threshold=2");

NNL_OP(softplus_backward, NNL_BACKWARD(", beta:num, threshold:num", softplus_grad),
    .doc = "dy sigmoid(beta x); dy where beta x > threshold.",
    BY_COMPOSITION);

static void softsign_grad(nnl_grad *g) { backward(g, &nnl_op_softsign_backward); }
static void softsign_define(nnl_define *d)
{
    d->out[0] = DO(d->s, div, d->in[0], nnl_shifted(d->s, DO(d->s, abs, d->in[0]), 1));
}

NNL_OP(softsign, NNL_UNARY("float", "", softsign),
    .doc = "x / (1 + |x|).",
    .example = "nn.F.softsign(nn.tensor({-1, 3}))",
    .grad = softsign_grad,
    .define = softsign_define,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4!0");

NNL_OP(softsign_backward, NNL_BACKWARD("", softsign_grad),
    .doc = "dy / (1 + |x|)^2.",
    BY_COMPOSITION);

static void silu_grad(nnl_grad *g) { backward(g, &nnl_op_silu_backward); }
static void silu_define(nnl_define *d) { d->out[0] = DO(d->s, mul, d->in[0], DO(d->s, sigmoid, d->in[0])); }

NNL_OP(silu, NNL_UNARY("float", "", silu),
    .doc = "x * sigmoid(x), also called swish.  Ramachandran et al., arXiv:1710.05941.",
    .example = "nn.F.silu(nn.tensor({-1, 2}))",
    .grad = silu_grad,
    .define = silu_define,
    .saves = NNL_SAVE_INPUT(0));

NNL_OP(silu_backward, NNL_BACKWARD("", silu_grad),
    .doc = "dy s (1 + x (1 - s)), s = sigmoid(x).",
    BY_COMPOSITION);

#define ROOT_HALF 0x1.6a09e667f3bcdp-1
#define ROOT_8_OVER_PI 0x1.9884533d43651p+0
enum { GELU_ERF, GELU_TANH };

static bool gelu_map(nnl_call *c, nnl_map_form *form)
{
    form->map = c->attr[0].as.i == GELU_TANH ? NNL_MAP_gelu_tanh : NNL_MAP_gelu;
    return true;
}

static void gelu_grad(nnl_grad *g)
{
    if (g->attr[0].as.i == GELU_TANH) g->dx[0] = DO(g->s, gelu_tanh_backward, g->dy[0], g->in[0]);
    else g->dx[0] = DO(g->s, gelu_backward, g->dy[0], g->in[0]);
}

/* By erfc and by sigmoid, which keep their digits where 1 + erf and 1 + tanh lose them. */
static void gelu_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    nnl_tensor *x = d->in[0], *share;
    if (d->attr[0].as.i == GELU_TANH) {
        nnl_tensor *inner = nnl_shifted(s, nnl_scaled(s, DO(s, square, x), 0.044715), 1);
        share = DO(s, sigmoid, nnl_scaled(s, DO(s, mul, x, inner), ROOT_8_OVER_PI));
    } else {
        share = nnl_scaled(s, DO(s, erfc, nnl_scaled(s, x, -ROOT_HALF)), 0.5);
    }
    d->out[0] = DO(s, mul, x, share);
}

NNL_OP(gelu,
    .sig = "input:float, approximate:{none|tanh}=none -> same",
    .doc = "x * Phi(x), Phi being the normal distribution function (1 + erf(x / sqrt 2)) / 2; with approximate = \"tanh\" it is "
           "(1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2.  Hendrycks and Gimpel, arXiv:1606.08415.",
    .example = "nn.F.gelu(nn.tensor({-1, 2}))",
    .infer = nnl_infer_same,
    .run = nnl_run_map,
    .map = gelu_map,
    .grad = gelu_grad,
    .define = gelu_define,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4; input:3x4 approximate=\"tanh\"",
    .traits = NNL_ELEMENTWISE | NNL_INPLACE_OK);

NNL_OP(gelu_backward, NNL_BACKWARD("", gelu_grad),
    .doc = "dy (Phi(x) + x Phi'(x)).",
    BY_COMPOSITION);

NNL_OP(gelu_tanh_backward, NNL_BACKWARD("", gelu_tanh_grad),
    .doc = "The gradient of gelu with approximate = \"tanh\".",
    BY_COMPOSITION);

static void mish_grad(nnl_grad *g) { backward(g, &nnl_op_mish_backward); }
static void mish_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    nnl_tensor *softplus = DO(s, neg, DO(s, logsigmoid, DO(s, neg, d->in[0])));
    d->out[0] = DO(s, mul, d->in[0], DO(s, tanh, softplus));
}

NNL_OP(mish, NNL_UNARY("float", "", mish),
    .doc = "x * tanh(log(1 + e^x)).  Misra, arXiv:1908.08681.",
    .example = "nn.F.mish(nn.tensor({-1, 2}))",
    .grad = mish_grad,
    .define = mish_define,
    .saves = NNL_SAVE_INPUT(0));

NNL_OP(mish_backward, NNL_BACKWARD("", mish_grad),
    .doc = "dy times the derivative of mish at x.",
    BY_COMPOSITION);

static void hardswish_grad(nnl_grad *g) { backward(g, &nnl_op_hardswish_backward); }
static void hardswish_define(nnl_define *d) { d->out[0] = DO(d->s, mul, d->in[0], DO(d->s, hardsigmoid, d->in[0])); }

NNL_OP(hardswish, NNL_UNARY("float", "", hardswish),
    .doc = "x * hardsigmoid(x): 0 up to -3, x from 3 on, x (x + 3) / 6 between.  Howard et al., arXiv:1905.02244.",
    .example = "nn.F.hardswish(nn.tensor({-4, 1, 4}))",
    .grad = hardswish_grad,
    .define = hardswish_define,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4[-5,5]!-3!3");

NNL_OP(hardswish_backward, NNL_BACKWARD("", hardswish_grad),
    .doc = "dy where x >= 3, dy (2 x + 3) / 6 where -3 < x < 3, else 0.",
    BY_COMPOSITION);

static void tanhshrink_grad(nnl_grad *g) { backward(g, &nnl_op_tanhshrink_backward); }
static void tanhshrink_define(nnl_define *d) { d->out[0] = DO(d->s, sub, d->in[0], DO(d->s, tanh, d->in[0])); }

NNL_OP(tanhshrink, NNL_UNARY("float", "", tanhshrink),
    .doc = "x - tanh(x).",
    .example = "nn.F.tanhshrink(nn.tensor({-1, 2}))",
    .grad = tanhshrink_grad,
    .define = tanhshrink_define,
    .saves = NNL_SAVE_INPUT(0));

NNL_OP(tanhshrink_backward, NNL_BACKWARD("", tanhshrink_grad),
    .doc = "dy tanh(x)^2.",
    BY_COMPOSITION);

/* ---------------------------------------------------------------- gates and pieces along a dimension */

/* Every step-th of the places along a dimension, from first on: `count` of them. */
static nnl_tensor every(const nnl_tensor *t, int64_t dim, int64_t first, int64_t count, int64_t step)
{
    nnl_tensor window = nnl_window_part(t, (int)dim, first, count);
    window.strides[dim] *= step;
    window.contiguous = nnl_is_contiguous(window.ndim, window.shape, window.strides);
    return window;
}

/* The same in a composition; t is contiguous. */
static nnl_tensor *every_of(nnl_scope *s, nnl_tensor *t, int64_t dim, int64_t first, int64_t count, int64_t step)
{
    if (!t) return NULL;
    nnl_tensor w = every(t, dim, first, count, step);
    return DO_WITH(s, as_strided, (V_INTS(w.ndim, w.shape), V_INTS(w.ndim, w.strides), V_INT(first * t->strides[dim])), t);
}

static nnl_status split_infer(nnl_call *c, int64_t dim, int64_t pieces)
{
    const nnl_tensor *x = c->in[0];
    char text[NNL_NAMED_TEXT];
    if (x->ndim == 0) return nnl_call_fail(c, NNL_ESHAPE, "%s has no dimension to split", nnl_call_input_text(c, 0, text));
    if (x->shape[dim] % pieces != 0)
        return nnl_call_fail(c, NNL_ESHAPE, "dimension %lld of %s is not a multiple of %lld", (long long)(dim + c->index_base),
                             nnl_call_input_text(c, 0, text), (long long)pieces);
    nnl_spec_like(&c->spec[0], x);
    c->spec[0].shape[dim] /= pieces;
    return NNL_OK;
}

static nnl_status glu_infer(nnl_call *c) { return split_infer(c, c->attr[0].as.i, 2); }

static nnl_status glu_run(nnl_call *c)
{
    int64_t dim = c->attr[0].as.i, count = c->out[0]->shape[dim];
    nnl_tensor a = every(c->in[0], dim, 0, count, 1), b = every(c->in[0], dim, count, count, 1), *out = c->out[0];
    NNL_TRY(nnl_map_run(c->rt, NNL_MAP_sigmoid, 1, (nnl_tensor *[]){&b}, out, NULL));
    return nnl_map_run(c->rt, NNL_MAP_mul, 2, (nnl_tensor *[]){&a, out}, out, NULL);
}

/* With s = sigmoid(b): da = dy s, db = da a (1 - s). */
static nnl_status glu_backward_run(nnl_call *c)
{
    int64_t dim = c->attr[0].as.i, count = c->in[0]->shape[dim] / 2;
    nnl_runtime *rt = c->rt;
    nnl_tensor a = every(c->in[0], dim, 0, count, 1), b = every(c->in[0], dim, count, count, 1), *dy = c->in[1];
    nnl_tensor da = every(c->out[0], dim, 0, count, 1), db = every(c->out[0], dim, count, count, 1);
    NNL_TRY(nnl_map_run(rt, NNL_MAP_sigmoid, 1, (nnl_tensor *[]){&b}, &db, NULL));
    NNL_TRY(nnl_map_run(rt, NNL_MAP_mul, 2, (nnl_tensor *[]){dy, &db}, &da, NULL));
    NNL_TRY(nnl_map_run(rt, NNL_MAP_scale_shift, 1, (nnl_tensor *[]){&db}, &db, (const double[]){-1, 1}));
    NNL_TRY(nnl_map_run(rt, NNL_MAP_mul, 2, (nnl_tensor *[]){&a, &db}, &db, NULL));
    return nnl_map_run(rt, NNL_MAP_mul, 2, (nnl_tensor *[]){&da, &db}, &db, NULL);
}

static void glu_grad(nnl_grad *g) { g->dx[0] = DO_WITH(g->s, glu_backward, (g->attr[0]), g->in[0], g->dy[0]); }

static void glu_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    int64_t dim = d->attr[0].as.i, count = d->in[0]->shape[dim] / 2;
    nnl_tensor *x = DO(s, contiguous, d->in[0]);
    nnl_tensor *a = every_of(s, x, dim, 0, count, 1), *b = every_of(s, x, dim, count, count, 1);
    d->out[0] = DO(s, mul, a, DO(s, sigmoid, b));
}

NNL_OP(glu,
    .sig = "input:float, dim:dim=-1 -> same",
    .doc = "a * sigmoid(b), a and b being the halves of input along dim.  Dauphin et al., arXiv:1612.08083.",
    .example = "nn.F.glu(nn.tensor({1, 2, 0, 3}))",
    .infer = glu_infer,
    .run = glu_run,
    .grad = glu_grad,
    .define = glu_define,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:3x4; input:4x3x2 dim=1");

NNL_OP(glu_backward,
    .sig = "input:float, dy:float, dim:dim -> same",
    .doc = "The gradient of glu: dy s for the first half, dy a s (1 - s) for the second, s = sigmoid(b).",
    .infer = nnl_infer_same,
    .run = glu_backward_run,
    BY_COMPOSITION,
    .traits = NNL_HIDDEN);

static nnl_status maxout_infer(nnl_call *c)
{
    if (c->attr[0].as.i < 1) return nnl_call_fail(c, NNL_EINVAL, "pieces must be at least 1");
    return split_infer(c, c->attr[1].as.i, c->attr[0].as.i);
}

static nnl_status maxout_run(nnl_call *c)
{
    int64_t pieces = c->attr[0].as.i, dim = c->attr[1].as.i, count = c->out[0]->shape[dim];
    nnl_tensor *out = c->out[0], piece = every(c->in[0], dim, 0, count, pieces);
    NNL_TRY(nnl_copy(out, &piece));
    for (int64_t i = 1; i < pieces && out->numel > 0; i++) {
        piece = every(c->in[0], dim, i, count, pieces);
        NNL_TRY(nnl_map_run(c->rt, NNL_MAP_maximum, 2, (nnl_tensor *[]){out, &piece}, out, NULL));
    }
    return NNL_OK;
}

static void maxout_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    int64_t pieces = d->attr[0].as.i, dim = d->attr[1].as.i, count = d->in[0]->shape[dim] / pieces;
    nnl_tensor *x = DO(s, contiguous, d->in[0]);
    for (int64_t i = 0; i < (d->in[0]->numel ? pieces : 1); i++) { /* of nothing there may be any number of pieces */
        nnl_tensor *window = every_of(s, x, dim, i, count, pieces);
        d->out[0] = i == 0 ? window : DO(s, maximum, d->out[0], window);
    }
}

NNL_OP(maxout,
    .sig = "input:number, pieces:size, dim:dim=-1 -> same",
    .doc = "The largest of each `pieces` neighbours along dim, which becomes that much shorter: y_i = max over j = 1 .. pieces of "
           "x_((i - 1) * pieces + j).  Goodfellow et al., arXiv:1302.4389.",
    .example = "nn.F.maxout(nn.tensor({1, 5, 3, 2}), 2)",
    .infer = maxout_infer,
    .run = maxout_run,
    .define = maxout_define, /* its gradient, too */
    .sample = "input:3x4^ pieces=2; input:6x3^ pieces=3 dim=1; input:3x4^ pieces=1");
