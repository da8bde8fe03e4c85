/* Convolutions of one, two and three dimensions: shapes, gradients, the composition. */
#include "conv.h"
#include "image.h"

#include <string.h>

enum { STRIDE, PADDING, DILATION, GROUPS }; /* attributes of convolutions */

/* ---------------------------------------------------------------- shapes */

/* Value d of an attribute that is one number or one a dimension. */
static int64_t value_at(const nnl_value *value, int d)
{
    return value->kind == NNL_KIND_INTS ? value->as.ints[d] : value->as.i;
}

static bool is_word(const nnl_value *value, const char *word)
{
    return value->kind == NNL_KIND_STRING && strcmp(value->as.s, word) == 0;
}

/* Everything but out, of arguments that were checked. */
static nnl_conv describe(int rank, const nnl_tensor *x, const nnl_tensor *w, const nnl_value *attr)
{
    nnl_conv v = {.rank = rank, .batched = x->ndim == rank + 2, .samples = 1, .groups = attr[GROUPS].as.i};
    const int64_t *size = x->shape + v.batched;
    if (v.batched) v.samples = x->shape[0];
    v.in_channels = size[0];
    v.out_channels = w->shape[0];
    for (int i = 0, d = rank - 3; i < 3; i++, d++) {
        v.in[i] = d < 0 ? 1 : size[1 + d];
        v.kernel[i] = d < 0 ? 1 : w->shape[2 + d];
        v.stride[i] = d < 0 ? 1 : value_at(&attr[STRIDE], d);
        v.dilation[i] = d < 0 ? 1 : value_at(&attr[DILATION], d);
        bool words = attr[PADDING].kind == NNL_KIND_STRING;
        if (d >= 0 && !words) v.low[i] = v.high[i] = value_at(&attr[PADDING], d);
        if (d < 0 || !is_word(&attr[PADDING], "same")) continue;
        int64_t both = v.dilation[i] * (v.kernel[i] - 1);
        v.low[i] = both / 2;
        v.high[i] = both - v.low[i];
    }
    return v;
}

/* The sizes of the result, of sizes that fit. */
static void fill_out(nnl_conv *v)
{
    for (int i = 0; i < 3; i++)
        v->out[i] = (v->in[i] + v->low[i] + v->high[i] - nnl_conv_reach(v, i)) / v->stride[i] + 1;
}

static nnl_conv described(int rank, const nnl_tensor *x, const nnl_tensor *w, const nnl_value *attr)
{
    nnl_conv v = describe(rank, x, w, attr);
    fill_out(&v);
    return v;
}

static const char *const places[3] = {"length", "height x width", "depth x height x width"};

static nnl_status check_ranks(nnl_call *c, int rank)
{
    const nnl_tensor *x = c->in[0], *w = c->in[1], *bias = c->in[2];
    char text[NNL_NAMED_TEXT];
    if (x->ndim != rank + 1 && x->ndim != rank + 2)
        return nnl_call_fail(c, NNL_ESHAPE, "%s must be channels x %s or batch x channels x %s",
                             nnl_call_input_text(c, 0, text), places[rank - 1], places[rank - 1]);
    if (w->ndim != rank + 2)
        return nnl_call_fail(c, NNL_ESHAPE, "%s must be out_channels x in_channels / groups x %s",
                             nnl_call_input_text(c, 1, text), places[rank - 1]);
    if (bias && (bias->ndim != 1 || bias->shape[0] != w->shape[0]))
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have one element for each of the %lld output channels",
                             nnl_call_input_text(c, 2, text), (long long)w->shape[0]);
    return NNL_OK;
}

static nnl_status check_channels(nnl_call *c, int rank)
{
    const nnl_tensor *x = c->in[0], *w = c->in[1];
    int64_t groups = c->attr[GROUPS].as.i, channels = x->shape[x->ndim - rank - 1];
    char text[NNL_NAMED_TEXT];
    if (groups < 1 || w->shape[0] % groups != 0)
        return nnl_call_fail(c, NNL_EINVAL, "groups is %lld, but it must divide the %lld output channels of %s",
                             (long long)groups, (long long)w->shape[0], nnl_call_input_text(c, 1, text));
    if (channels == w->shape[1] * groups) return NNL_OK;
    if (groups == 1)
        return nnl_call_fail(c, NNL_ESHAPE, "weight has %lld input channels, but %s has %lld", (long long)w->shape[1],
                             nnl_call_input_text(c, 0, text), (long long)channels);
    return nnl_call_fail(c, NNL_ESHAPE, "weight has %lld input channels in each of %lld groups, but %s has %lld",
                         (long long)w->shape[1], (long long)groups, nnl_call_input_text(c, 0, text),
                         (long long)channels);
}

static nnl_status check_numbers(nnl_call *c, int rank)
{
    static const struct {
        const char *name;
        int attr, least;
    } all[] = {{"stride", STRIDE, 1}, {"padding", PADDING, 0}, {"dilation", DILATION, 1}};
    for (int i = 0; i < NNL_COUNT(all); i++) {
        const nnl_value *value = &c->attr[all[i].attr];
        for (int d = 0; d < rank && value->kind != NNL_KIND_STRING; d++) {
            if (value_at(value, d) < all[i].least || value_at(value, d) > INT32_MAX)
                return nnl_call_fail(c, NNL_EINVAL, "%s is %lld, but it must be at least %d", all[i].name,
                                     (long long)value_at(value, d), all[i].least);
        }
    }
    for (int d = 0; d < rank && is_word(&c->attr[PADDING], "same"); d++) {
        if (value_at(&c->attr[STRIDE], d) != 1)
            return nnl_call_fail(c, NNL_EINVAL, "padding \"same\" needs a stride of 1, got %lld",
                                 (long long)value_at(&c->attr[STRIDE], d));
    }
    return NNL_OK;
}

static nnl_status check_sizes(nnl_call *c, const nnl_conv *v)
{
    char text[NNL_NAMED_TEXT];
    for (int i = 3 - v->rank; i < 3; i++) {
        int64_t reach;
        if (v->kernel[i] < 1)
            return nnl_call_fail(c, NNL_ESHAPE, "%s has no taps", nnl_call_input_text(c, 1, text));
        if (!nnl_mul_size(v->dilation[i], v->kernel[i] - 1, &reach) ||
            reach + 1 > v->in[i] + v->low[i] + v->high[i])
            return nnl_call_fail(c, NNL_ESHAPE, "the kernel reaches over %lld places, but with padding %s has %lld",
                                 (long long)reach + 1, nnl_call_input_text(c, 0, text),
                                 (long long)(v->in[i] + v->low[i] + v->high[i]));
    }
    return NNL_OK;
}

/* N x channels x sizes, or without N. */
static int shape_of(const nnl_conv *v, int64_t channels, const int64_t sizes[3], int64_t *shape)
{
    int ndim = 0;
    if (v->batched) shape[ndim++] = v->samples;
    shape[ndim++] = channels;
    for (int i = 3 - v->rank; i < 3; i++) shape[ndim++] = sizes[i];
    return ndim;
}

static nnl_status conv_infer(nnl_call *c)
{
    int rank = c->op->variant;
    int64_t shape[NNL_MAX_DIMS];
    NNL_TRY(check_ranks(c, rank));
    NNL_TRY(check_channels(c, rank));
    NNL_TRY(check_numbers(c, rank));
    nnl_conv v = describe(rank, c->in[0], c->in[1], c->attr);
    NNL_TRY(check_sizes(c, &v));
    fill_out(&v);
    int ndim = shape_of(&v, v.out_channels, v.out, shape);
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->in[0]->dtype, ndim, shape);
    c->spec[0].channels_last = v.batched;
    return NNL_OK;
}

static nnl_status conv_run(nnl_call *c)
{
    nnl_conv v = described(c->op->variant, c->in[0], c->in[1], c->attr);
    return nnl_conv_forward(c->rt, &v, c->out[0], c->in[0], c->in[1], c->in[2], c->relu);
}

/* ---------------------------------------------------------------- run again and again, and with what follows it */

enum { IN_INPUT, IN_WEIGHT, IN_BIAS, IN_MEAN, IN_VAR, IN_NORM_WEIGHT, IN_NORM_BIAS, IN_RESIDUAL };
enum { EPS = GROUPS + 1, FRAME_IN, FRAME_OUT, POOL };

static const void *data_of(const nnl_call *c, int place)
{
    return place < c->n_in && c->in[place] ? c->in[place]->data : NULL;
}

static nnl_status get_ready(const nnl_call *c, nnl_conv_ready **plan, size_t *bytes)
{
    nnl_conv v = described(c->op->variant, c->in[IN_INPUT], c->in[IN_WEIGHT], c->attr);
    nnl_conv_last last = {.bias = c->in[IN_BIAS], .relu = c->relu, .winograd = c->op == &nnl_op_conv2d_winograd};
    if (c->n_in > IN_MEAN) {
        last.mean = c->in[IN_MEAN];
        last.var = c->in[IN_VAR];
        last.norm_weight = c->in[IN_NORM_WEIGHT];
        last.norm_bias = c->in[IN_NORM_BIAS];
        last.residual = data_of(c, IN_RESIDUAL) != NULL;
        last.eps = nnl_value_double(&c->attr[EPS]);
        last.frame_in = c->attr[FRAME_IN].as.i;
        last.frame_out = c->attr[FRAME_OUT].as.i;
        last.pool = c->attr[POOL].as.i;
    }
    return nnl_conv_get_ready(c->rt, &v, c->out[0], c->in[IN_INPUT], c->in[IN_WEIGHT], &last, plan, bytes);
}

static nnl_status run_planned(const nnl_call *c, nnl_conv_ready *plan)
{
    return nnl_conv_run_ready(c->rt, plan, c->out[0]->data, c->in[IN_INPUT], data_of(c, IN_BIAS), data_of(c, IN_RESIDUAL));
}

static nnl_status run_ready(nnl_ready *r) { return run_planned(r->call, r->plan); }

static nnl_status conv_ready(nnl_ready *r)
{
    const nnl_call *c = r->call;
    for (int i = IN_WEIGHT; i < NNL_MIN(c->n_in, IN_RESIDUAL); i++) {
        if (i != IN_BIAS && c->in[i] && !(r->fixed >> i & 1u)) return NNL_OK;
    }
    nnl_conv_ready *plan;
    NNL_TRY(get_ready(c, &plan, &r->plan_bytes));
    if (!plan) return NNL_OK;
    r->plan = plan;
    r->run = run_ready;
    return NNL_OK;
}

static nnl_status fused_run(nnl_call *c)
{
    nnl_conv_ready *plan;
    size_t bytes;
    NNL_TRY(get_ready(c, &plan, &bytes));
    if (!plan) return NNL_OK; /* no elements */
    nnl_status status = run_planned(c, plan);
    nnl_free(c->rt, plan, bytes);
    return status;
}

/* ---------------------------------------------------------------- gradients */

enum { BACK_SHAPE, BACK_STRIDE, BACK_PADDING, BACK_DILATION, BACK_GROUPS, BACK_BIAS }; /* attributes */

/* Of shapes of the input, the weight and the result, which fit one another. */
static nnl_conv describe_back(const nnl_value *attr, int ndim, const int64_t *x, int w_ndim, const int64_t *w,
                              const int64_t *y)
{
    nnl_conv v = {.rank = w_ndim - 2, .batched = ndim == w_ndim, .samples = 1, .groups = attr[BACK_GROUPS].as.i};
    if (v.batched) v.samples = x[0];
    v.in_channels = x[v.batched];
    v.out_channels = w[0];
    for (int i = 0, d = v.rank - 3; i < 3; i++, d++) {
        bool given = d >= 0;
        v.in[i] = given ? x[1 + v.batched + d] : 1;
        v.out[i] = given ? y[1 + v.batched + d] : 1;
        v.kernel[i] = given ? w[2 + d] : 1;
        v.stride[i] = given ? value_at(&attr[BACK_STRIDE], d) : 1;
        v.dilation[i] = given ? value_at(&attr[BACK_DILATION], d) : 1;
        v.low[i] = given ? value_at(&attr[BACK_PADDING], d) : 0;
        v.high[i] = (v.out[i] - 1) * v.stride[i] + nnl_conv_reach(&v, i) - v.in[i] - v.low[i];
    }
    return v;
}

static nnl_status grad_input_infer(nnl_call *c)
{
    const nnl_value *shape = &c->attr[BACK_SHAPE];
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->in[0]->dtype, shape->count, shape->as.ints);
    c->spec[0].channels_last = shape->count == c->in[1]->ndim;
    return NNL_OK;
}

static nnl_status grad_input_run(nnl_call *c)
{
    const nnl_tensor *dx = c->out[0], *dy = c->in[0], *w = c->in[1];
    nnl_conv v = describe_back(c->attr, dx->ndim, dx->shape, w->ndim, w->shape, dy->shape);
    return nnl_conv_grad_input(c->rt, &v, c->out[0], dy, w);
}

NNL_OP(conv_grad_input,
    .sig = "dy:float, weight:float, shape:int*, stride:int*, padding:int*, dilation:int*, groups:int -> same",
    .doc = "The gradient of a convolution's input, which has the given shape; padding: zeros before it.",
    .infer = grad_input_infer,
    .run = grad_input_run,
    NNL_NO_GRAD("second derivatives go by the composition"),
    .traits = NNL_HIDDEN);

static nnl_status grad_input_winograd_run(nnl_call *c)
{
    const nnl_tensor *dx = c->out[0], *dy = c->in[0], *w = c->in[1];
    nnl_conv v = describe_back(c->attr, dx->ndim, dx->shape, w->ndim, w->shape, dy->shape);
    return nnl_conv_winograd_grad_input(c->rt, &v, c->out[0], dy, w);
}

NNL_OP(conv_grad_input_winograd,
    .sig = "dy:float, weight:float, shape:int*, stride:int*, padding:int*, dilation:int*, groups:int -> same",
    .doc = "conv_grad_input in another order of adding up, by Winograd's F(4x4, 3x3): what programs make of it that may.",
    .infer = grad_input_infer,
    .run = grad_input_winograd_run,
    NNL_NO_GRAD("second derivatives go by the composition"),
    .traits = NNL_HIDDEN);

static nnl_status grad_weight_infer(nnl_call *c)
{
    const nnl_value *shape = &c->attr[BACK_SHAPE];
    bool bias = c->attr[BACK_BIAS].as.i;
    NNL_TRY(nnl_call_results(c, bias ? 2 : 1));
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->in[0]->dtype, shape->count, shape->as.ints);
    if (bias) nnl_spec_set(&c->spec[1], (nnl_dtype)c->in[0]->dtype, 1, shape->as.ints);
    return NNL_OK;
}

static nnl_status grad_weight_run(nnl_call *c)
{
    const nnl_tensor *dy = c->in[0], *x = c->in[1], *dw = c->out[0];
    nnl_conv v = describe_back(c->attr, x->ndim, x->shape, dw->ndim, dw->shape, dy->shape);
    return nnl_conv_grad_weight(c->rt, &v, c->out[0], c->n_out > 1 ? c->out[1] : NULL, dy, x);
}

NNL_OP(conv_grad_weight,
    .sig = "dy:float, input:float, shape:int*, stride:int*, padding:int*, dilation:int*, groups:int, bias:flag -> "
           "dw:same, db:same",
    .doc = "The gradients of a convolution's weight, which has the given shape, and, if asked for, of its bias; padding: "
           "zeros before the input.",
    .infer = grad_weight_infer,
    .run = grad_weight_run,
    NNL_NO_GRAD("second derivatives go by the composition"),
    .traits = NNL_HIDDEN);

static void conv_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    nnl_tensor *x = g->in[0], *w = g->in[1], *dy = g->dy[0], *dw[2] = {NULL, NULL};
    nnl_conv v = described(g->op->variant, x, w, g->attr);
    int from = 3 - v.rank;
    bool with_bias = g->in[2] && g->needs[2];
    nnl_value values[] = {V_NONE,
                          V_INTS(v.rank, v.stride + from),
                          V_INTS(v.rank, v.low + from),
                          V_INTS(v.rank, v.dilation + from),
                          V_INT(v.groups),
                          V_FLAG(with_bias)};
    if (g->needs[0]) {
        values[BACK_SHAPE] = V_INTS(x->ndim, x->shape);
        g->dx[0] = nnl_do(s, &nnl_op_conv_grad_input, 2, (nnl_tensor *[]){dy, w}, BACK_BIAS, values);
    }
    if (!g->needs[1] && with_bias) {
        int64_t dims[NNL_MAX_DIMS];
        int count = 0;
        for (int d = 0; d < dy->ndim; d++) {
            if (d != v.batched) dims[count++] = d;
        }
        g->dx[2] = nnl_sum_dims(s, dy, &V_INTS(count, dims), false);
    }
    if (!g->needs[1]) return;
    values[BACK_SHAPE] = V_INTS(w->ndim, w->shape);
    nnl_do_many(s, &nnl_op_conv_grad_weight, 2, (nnl_tensor *[]){dy, x}, BACK_BIAS + 1, values, 1 + with_bias, dw);
    g->dx[1] = dw[0];
    if (with_bias) g->dx[2] = dw[1];
}

/* ---------------------------------------------------------------- the composition */

/* The input with its padding, N x C x depth x height x width. */
static nnl_tensor *padded(nnl_scope *s, const nnl_conv *v, nnl_tensor *x, int64_t size[5])
{
    int64_t strides[5], offset = 0;
    int64_t given[5] = {v->samples, v->in_channels, v->in[0], v->in[1], v->in[2]};
    size[0] = v->samples;
    size[1] = v->in_channels;
    for (int i = 0; i < 3; i++) size[2 + i] = v->in[i] + v->low[i] + v->high[i];
    nnl_strides_contiguous(5, size, strides);
    for (int i = 0; i < 3; i++) offset += v->low[i] * strides[2 + i];
    x = nnl_reshaped(s, x, 5, given);
    return DO_WITH(s, place, (V_INTS(5, size), V_INTS(5, strides), V_INT(offset)), x);
}

/* Its windows as rows: N x groups x places of the result x (channels of a group x taps). */
static nnl_tensor *windows(nnl_scope *s, const nnl_conv *v, nnl_tensor *x)
{
    static const int64_t order[8] = {0, 2, 3, 4, 1, 5, 6, 7};
    int64_t whole[5], from[5], channels = v->in_channels / v->groups, places_ = 1, taps = channels;
    x = padded(s, v, x, whole);
    nnl_strides_contiguous(5, whole, from);
    int64_t size[8] = {v->samples * v->groups, channels}, step[8] = {channels * from[1], from[1]};
    for (int i = 0; i < 3; i++) {
        size[2 + i] = v->out[i];
        step[2 + i] = v->stride[i] * from[2 + i];
        size[5 + i] = v->kernel[i];
        step[5 + i] = v->dilation[i] * from[2 + i];
        places_ *= v->out[i];
        taps *= v->kernel[i];
    }
    x = DO_WITH(s, as_strided, (V_INTS(8, size), V_INTS(8, step), V_INT(0)), x);
    x = DO_WITH(s, permute, (V_INTS(8, order)), x);
    return nnl_reshaped(s, x, 4, (int64_t[]){v->samples, v->groups, places_, taps});
}

static void conv_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    nnl_tensor *w = d->in[1], *bias = d->in[2];
    nnl_conv v = described(d->op->variant, d->in[0], w, d->attr);
    int64_t shape[NNL_MAX_DIMS], taps = v.in_channels / v.groups * v.kernel[0] * v.kernel[1] * v.kernel[2];
    nnl_tensor *rows = windows(s, &v, d->in[0]);
    w = nnl_reshaped(s, w, 4, (int64_t[]){1, v.groups, v.out_channels / v.groups, taps});
    w = DO_WITH(s, transpose, (V_INT(2), V_INT(3)), w);
    nnl_tensor *y = DO_WITH(s, transpose, (V_INT(2), V_INT(3)), DO(s, matmul, rows, w));
    int ndim = shape_of(&v, v.out_channels, v.out, shape);
    y = nnl_reshaped(s, y, ndim, shape);
    if (bias) {
        int64_t ones[4] = {v.out_channels, 1, 1, 1};
        y = DO(s, add, y, nnl_reshaped(s, bias, 1 + v.rank, ones));
    }
    d->out[0] = y;
}

/* ---------------------------------------------------------------- records */

#define CONVOLUTION(rank_, sizes_, example_, sample_)                                                            \
    .sig = "input:real, weight:float, bias:float?, stride:int[" #rank_ "]=1, padding:int|{valid|same}[" #rank_   \
           "]=0, dilation:int[" #rank_ "]=1, groups:int=1 -> same",                                              \
    .doc = "The " #rank_ "-dimensional convolution (cross-correlation) of input, [N x] C x " sizes_               \
           ", with weight, out_channels x C / groups x kernel: y[o] = bias[o] + sum over c and the taps k of "   \
           "weight[o][c][k] x[c][stride i + dilation k - padding].  padding: zeros on both sides, \"valid\" "    \
           "for none, \"same\" for a result of the input's size.  groups: channels are convolved in so many "    \
           "groups; as many as channels is depthwise.  The result lies in memory with its channels together.",   \
    .example = example_,                                                                                          \
    .infer = conv_infer,                                                                                          \
    .run = conv_run,                                                                                              \
    .ready = conv_ready,                                                                                          \
    .grad = conv_grad,                                                                                            \
    .define = conv_define,                                                                                        \
    .variant = rank_,                                                                                             \
    .sample = sample_,                                                                                            \
    .traits = NNL_PROMOTE | NNL_NO_METHOD | NNL_TAKES_RELU

NNL_OP(conv1d,
    CONVOLUTION(1, "length", "nn.F.conv1d(nn.ones(1, 2, 8), nn.ones(4, 2, 3), {padding = 1})",
        "input:2x3x7 weight:4x3x3 bias:4; input:2x4x9 weight:6x2x2 bias:- stride=2 padding=1 dilation=2 groups=2; "
        "input:3x6 weight:2x3x4 bias:2 padding=\"same\"; input:2x1x5 weight:3x1x5 bias:3"));

NNL_OP(conv2d,
    CONVOLUTION(2, "height x width", "nn.F.conv2d(nn.ones(8, 1, 28, 28), nn.ones(16, 1, 3, 3), {padding = 1})",
        "input:2x3x5x6 weight:4x3x3x3 bias:4 padding=1; "
        "input:2x4x6x5 weight:6x2x3x2 bias:- stride={2,1} padding={0,2} dilation={1,2} groups=2; "
        "input:3x6x5 weight:2x3x2x4 bias:2 padding=\"same\"; input:2x3x6x6 weight:3x1x3x3 bias:3 groups=3 stride=2 padding=1; "
        "input:2x3x3x3 weight:5x3x1x1 bias:5"));

NNL_OP(conv3d,
    CONVOLUTION(3, "depth x height x width", "nn.F.conv3d(nn.ones(1, 2, 4, 4, 4), nn.ones(3, 2, 3, 3, 3))",
        "input:2x2x3x4x3 weight:3x2x2x2x2 bias:3 padding=1; "
        "input:1x2x4x3x5 weight:2x1x2x3x2 bias:- stride={2,1,2} padding={0,1,1} dilation={1,1,2} groups=2"));

/* ---------------------------------------------------------------- with what follows in a program */

static nnl_status infer_pooled(nnl_call *c)
{
    const int64_t side = c->attr[POOL].as.i;
    int64_t *size = c->spec[0].shape + 2;
    if (c->op != &nnl_op_conv2d_fused || size[0] % side || size[1] % side)
        return nnl_call_fail(c, NNL_ESHAPE, "pool is %lld, but windows must tile the result's %lld x %lld places",
                             (long long)side, (long long)size[0], (long long)size[1]);
    if (c->in[IN_RESIDUAL] || c->attr[GROUPS].as.i != 1 || c->attr[FRAME_OUT].as.i)
        return nnl_call_fail(c, NNL_EUNSUPPORTED, "pool goes with one group, without residual and frame_out");
    for (int d = 0; d < 2; d++) size[d] /= side;
    return NNL_OK;
}

static nnl_status fused_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[IN_INPUT], *w = c->in[IN_WEIGHT], *bias = c->in[IN_BIAS], *residual = c->in[IN_RESIDUAL];
    char text[NNL_NAMED_TEXT];
    NNL_TRY(conv_infer(c));
    if (x->ndim != w->ndim)
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have a batch's dimension", nnl_call_input_text(c, IN_INPUT, text));
    if (bias && bias->strides[0] != 1)
        return nnl_call_fail(c, NNL_EINVAL, "%s must be contiguous", nnl_call_input_text(c, IN_BIAS, text));
    if (!c->in[IN_MEAN] != !c->in[IN_VAR])
        return nnl_call_fail(c, NNL_EINVAL, "mean and var are given together, or neither");
    for (int i = IN_MEAN; i < IN_RESIDUAL; i++) {
        if (!c->in[i] || (c->in[i]->ndim == 1 && c->in[i]->shape[0] == w->shape[0])) continue;
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have one element for each of the %lld output channels",
                             nnl_call_input_text(c, i, text), (long long)w->shape[0]);
    }
    bool fits = !residual || (nnl_lies_channels_last(residual) && residual->ndim == c->spec[0].ndim &&
                              memcmp(residual->shape, c->spec[0].shape, sizeof(int64_t) * residual->ndim) == 0);
    if (!fits) return nnl_call_fail(c, NNL_ESHAPE, "%s must lie as the result does", nnl_call_input_text(c, IN_RESIDUAL, text));
    return c->attr[POOL].as.i ? infer_pooled(c) : NNL_OK;
}

static void fused_define(nnl_define *d)
{
    static const nnl_op *const convs[] = {&nnl_op_conv1d, &nnl_op_conv2d, &nnl_op_conv3d};
    nnl_scope *s = d->s;
    nnl_tensor *const *in = d->in, *y = nnl_do(s, convs[d->op->variant - 1], IN_BIAS + 1, in, GROUPS + 1, d->attr);
    if (in[IN_MEAN])
        y = DO_WITH(s, batch_norm_eval, (d->attr[EPS]), y, in[IN_NORM_WEIGHT], in[IN_NORM_BIAS], in[IN_MEAN], in[IN_VAR]);
    if (in[IN_RESIDUAL]) y = DO(s, add, y, in[IN_RESIDUAL]);
    d->out[0] = d->attr[POOL].as.i ? DO_WITH(s, max_pool2d, (d->attr[POOL]), y) : y;
}

#define FUSED(rank_)                                                                                               \
    .sig = "input:float, weight:float, bias:float?, mean:float?, var:float?, norm_weight:float?, "                 \
           "norm_bias:float?, residual:float?, stride:int[" #rank_ "]=1, "                                         \
           "padding:int|{valid|same}[" #rank_ "]=0, dilation:int[" #rank_ "]=1, groups:int=1, eps:num=1e-5, " \
           "frame_in:size=0, frame_out:size=0, pool:size=0 -> same",                                                            \
    .doc = "batch_norm_eval(conv" #rank_ "d(input)) + residual in one pass, with the same bits: what programs make of these "\
           "steps.  The residual lies as the result does.  In programs, frame_in columns of zeros lie beside the input's rows, "\
           "and frame_out are written beside the result's.  With pool, the maxima of windows pool x pool that tile the result.",                                                       \
    .infer = fused_infer,                                                                                          \
    .run = fused_run,                                                                                              \
    .ready = conv_ready,                                                                                           \
    .define = fused_define,                                                                                        \
    .variant = rank_,                                                                                              \
    .traits = NNL_HIDDEN | NNL_TAKES_RELU

NNL_OP(conv1d_fused, FUSED(1));
NNL_OP(conv2d_fused, FUSED(2));
NNL_OP(conv3d_fused, FUSED(3));

/* ---------------------------------------------------------------- in another order of adding up */

NNL_OP(conv2d_winograd, FUSED(2));

bool nnl_conv_call_suits_winograd(const nnl_runtime *rt, const nnl_op *op, const nnl_tensor *input, const nnl_tensor *weight,
                                  const nnl_tensor *out, const nnl_value *attr, bool fixed)
{
    nnl_conv v;
    if (op == &nnl_op_conv_grad_input) {
        v = describe_back(attr, out->ndim, out->shape, weight->ndim, weight->shape, input->shape);
        v = nnl_conv_turned(&v);
    } else {
        v = described(op->variant, input, weight, attr);
    }
    return nnl_conv_suits_winograd(rt, &v, (nnl_dtype)out->dtype, fixed && op != &nnl_op_conv_grad_input);
}
