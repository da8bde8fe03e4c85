/* Mean pooling, over regular windows and over windows that share the places out. */
#include "pool.h"

enum { KERNEL_SIZE, STRIDE, PADDING, CEIL_MODE, COUNT_INCLUDE_PAD, DIVISOR_OVERRIDE }; /* attributes */
enum { OUTPUT_SIZE };                                                                  /* of the adaptive form */

static bool is_adaptive(const nnl_op *op) { return op->variant < 0; }
static int dims_of(const nnl_op *op) { return op->variant < 0 ? -op->variant : op->variant; }

/* a: kernel_size and what follows it */
static nnl_status read_windows(nnl_call *c, nnl_pool *pool, int dims, const nnl_value *a, const nnl_value *divisor)
{
    NNL_TRY(nnl_pool_read(c, pool, dims, &a[KERNEL_SIZE], &a[STRIDE], &a[PADDING], NULL));
    pool->ceil = a[CEIL_MODE].as.i != 0;
    for (int d = 0; d < NNL_POOL_DIMS; d++) pool->dim[d].inside_only = !a[COUNT_INCLUDE_PAD].as.i;
    if (!divisor || !nnl_given(divisor)) return NNL_OK;
    pool->divisor = divisor->as.i;
    return pool->divisor ? NNL_OK : nnl_call_fail(c, NNL_EINVAL, "divisor_override must not be 0");
}

static nnl_status read_pool(nnl_call *c, nnl_pool *pool)
{
    int dims = dims_of(c->op);
    if (is_adaptive(c->op)) return nnl_pool_read_adaptive(c, pool, dims, &c->attr[OUTPUT_SIZE]);
    return read_windows(c, pool, dims, c->attr, dims > 1 ? &c->attr[DIVISOR_OVERRIDE] : NULL);
}

static nnl_status mean_infer(nnl_call *c)
{
    nnl_pool pool;
    NNL_TRY(read_pool(c, &pool));
    return nnl_pool_infer(c, &pool, &c->spec[0]);
}

static void mean_row(const nnl_pool_walk *w, int64_t plane, int64_t depth, int64_t height)
{
    int64_t first;
    nnl_pool_row row = nnl_pool_row_at(w, depth, height, &first);
    w->rt->kernels->pool_mean_row(&row, w->dtype, w->out + nnl_pool_result_row(w, plane, depth, height) * w->width,
                                  w->in + (nnl_pool_input_row(w, plane, 0, 0) + first) * w->width);
}

static void add_row(const nnl_pool_walk *w, const nnl_pool_row *row, char *dx, int64_t at)
{
    w->rt->kernels->pool_mean_back_row(row, w->dtype, dx, w->in + at * w->width);
}

static void back_row(const nnl_pool_walk *w, int64_t plane, int64_t depth, int64_t height)
{
    nnl_pool_collect(w, plane, depth, height, add_row);
}

static nnl_status share_out(const nnl_call *c, nnl_pool_walk *walk, const nnl_tensor *in, bool backward)
{
    walk->out = c->out[0]->data;
    walk->in = in->data;
    walk->row = backward ? back_row : mean_row;
    return nnl_pool_walk_run(walk, backward);
}

static nnl_status run_walk(nnl_call *c, const nnl_pool *pool, bool channels_last, bool backward)
{
    nnl_tensor *in;
    nnl_pool_walk *walk = NULL;
    NNL_TRY(nnl_image_laid(c->in[0], channels_last, &in));
    nnl_status status = nnl_pool_walk_new(c->rt, pool, in, channels_last, &walk);
    if (status == NNL_OK) status = share_out(c, walk, in, backward);
    nnl_pool_walk_free(walk);
    nnl_tensor_unref(in);
    return status;
}

static nnl_status mean_run(nnl_call *c)
{
    nnl_pool pool;
    nnl_spec spec;
    NNL_TRY(read_pool(c, &pool));
    NNL_TRY(nnl_pool_infer(c, &pool, &spec));
    return run_walk(c, &pool, spec.channels_last, false);
}

static nnl_status run_ready(nnl_ready *r) { return share_out(r->call, r->plan, r->call->in[0], false); }

static nnl_status mean_ready(nnl_ready *r)
{
    nnl_call *c = r->call;
    nnl_pool pool;
    nnl_spec spec;
    NNL_TRY(read_pool(c, &pool));
    NNL_TRY(nnl_pool_infer(c, &pool, &spec));
    return nnl_pool_walk_keep(r, &pool, spec.channels_last, run_ready);
}

/* ---------------------------------------------------------------- gradients */

static void mean_grad(nnl_grad *g)
{
    const nnl_value *a = g->attr;
    int dims = dims_of(g->op), lead = g->in_layout[0].ndim - dims;
    const nnl_value size = V_INTS(dims, g->in_layout[0].shape + lead);
    if (!g->dy[0]) return;
    if (is_adaptive(g->op)) {
        g->dx[0] = DO_WITH(g->s, avg_pool_backward, (size), g->dy[0]);
        return;
    }
    int64_t kernel[NNL_POOL_DIMS], stride[NNL_POOL_DIMS], padding[NNL_POOL_DIMS];
    nnl_pool_sizes(&a[KERNEL_SIZE], dims, kernel);
    nnl_pool_sizes(nnl_given(&a[STRIDE]) ? &a[STRIDE] : &a[KERNEL_SIZE], dims, stride);
    nnl_pool_sizes(&a[PADDING], dims, padding);
    g->dx[0] = DO_WITH(g->s, avg_pool_backward, (size, V_INTS(dims, kernel), V_INTS(dims, stride), V_INTS(dims, padding), a[CEIL_MODE],
                       a[COUNT_INCLUDE_PAD], dims > 1 ? a[DIVISOR_OVERRIDE] : V_NONE), g->dy[0]);
}

/* kernel_size is absent: adaptive */
static nnl_status read_backward(nnl_call *c, nnl_pool *pool, nnl_spec *spec)
{
    const nnl_value *a = c->attr;
    int dims = a[0].count;
    if (nnl_given(&a[1])) NNL_TRY(read_windows(c, pool, dims, a + 1, a + 1 + DIVISOR_OVERRIDE));
    else NNL_TRY(nnl_pool_read_adaptive(c, pool, dims, &V_INTS(dims, c->in[0]->shape + c->in[0]->ndim - dims)));
    nnl_pool_infer_backward(c, pool, &a[0], spec);
    return NNL_OK;
}

static nnl_status backward_infer(nnl_call *c)
{
    nnl_pool pool;
    return read_backward(c, &pool, &c->spec[0]);
}

static nnl_status backward_run(nnl_call *c)
{
    nnl_pool pool;
    nnl_spec spec;
    NNL_TRY(read_backward(c, &pool, &spec));
    return run_walk(c, &pool, spec.channels_last, true);
}

/* Both are linear: the gradient of the gradient is the pooling of what comes. */
static void backward_grad(nnl_grad *g)
{
    static const nnl_op *const pool[] = {&nnl_op_avg_pool1d, &nnl_op_avg_pool2d, &nnl_op_avg_pool3d};
    static const nnl_op *const adaptive[] = {&nnl_op_adaptive_avg_pool1d, &nnl_op_adaptive_avg_pool2d, &nnl_op_adaptive_avg_pool3d};
    const nnl_value *a = g->attr;
    int dims = a[0].count;
    if (!g->dy[0]) return;
    if (nnl_given(&a[1])) {
        g->dx[0] = nnl_do(g->s, pool[dims - 1], 1, g->dy, dims > 1 ? 6 : 5, a + 1);
        return;
    }
    const nnl_layout *results = &g->in_layout[0];
    g->dx[0] = nnl_do(g->s, adaptive[dims - 1], 1, g->dy, 1, &V_INTS(dims, results->shape + results->ndim - dims));
}

NNL_OP(avg_pool_backward,
    .sig = "dy:float, input_size:int*, kernel_size:int*?, stride:int*?, padding:int*?, ceil_mode:flag=false, "
           "count_include_pad:flag=true, divisor_override:int? -> same",
    .doc = "The gradient of avg_pool1d to 3d and their adaptive forms: every element of dy shared out over its window.",
    .infer = backward_infer,
    .run = backward_run,
    .grad = backward_grad,
    .traits = NNL_HIDDEN);

/* ---------------------------------------------------------------- the ops */

#define SIG(n)                                                                                               \
    "input:real, kernel_size:int[" n "], stride:int[" n "]?, padding:int[" n "]=0, ceil_mode:flag=false, "   \
    "count_include_pad:flag=true"
#define DIVISOR ", divisor_override:int? -> same"
#define ADAPTIVE_SIG(n) "input:real, output_size:int[" n "] -> same"
#define DOC(form)                                                                                            \
    "The mean of every window over " form ".  Windows are stride apart (kernel_size by default); padding places on each " \
    "side count as 0, and not at all without count_include_pad; with ceil_mode the last window may reach over the end."
#define DIVISOR_DOC "  divisor_override is what sums are divided by instead."
#define ADAPTIVE_DOC(form)                                                                                   \
    "The mean of every window over " form ", where output_size windows share the places out evenly: window o has those " \
    "from floor(o in / out) to ceil((o + 1) in / out)."
#define COMMON .infer = mean_infer, .run = mean_run, .ready = mean_ready, .grad = mean_grad, .traits = NNL_NO_METHOD
#define LENGTHS "batch x channels x length"
#define AREAS "batch x channels x height x width"
#define VOLUMES "batch x channels x depth x height x width"

NNL_OP(avg_pool1d,
    .sig = SIG("1") " -> same",
    .doc = DOC(LENGTHS),
    .example = "nn.F.avg_pool1d(nn.tensor({{1, 5, 2, 4}}), 2)",
    .variant = 1,
    .sample = "input:2x3x7 kernel_size=2; input:2x3x8 kernel_size=3 stride=2 padding=1 ceil_mode=true count_include_pad=false; "
              "input:3x9 kernel_size=4 stride=1",
    COMMON);

NNL_OP(avg_pool2d,
    .sig = SIG("2") DIVISOR,
    .doc = DOC(AREAS) DIVISOR_DOC,
    .example = "nn.F.avg_pool2d(nn.randn(8, 3, 28, 28), 2)",
    .variant = 2,
    .sample = "input:2x3x4x6 kernel_size=2; input:2x2x5x7 kernel_size={3,2} stride={2,1} padding={1,0} count_include_pad=false; "
              "input:3x5x6 kernel_size=3 stride=2 padding=1 ceil_mode=true; input:2x17x3x3 kernel_size=2 stride=1 divisor_override=3",
    COMMON);

NNL_OP(avg_pool3d,
    .sig = SIG("3") DIVISOR,
    .doc = DOC(VOLUMES) DIVISOR_DOC,
    .example = "nn.F.avg_pool3d(nn.randn(2, 3, 8, 8, 8), 2, {stride = 1})",
    .variant = 3,
    .sample = "input:2x2x4x3x4 kernel_size=2; input:1x2x5x4x5 kernel_size={2,3,2} stride={2,1,2} padding={1,1,0} ceil_mode=true",
    COMMON);

NNL_OP(adaptive_avg_pool1d,
    .sig = ADAPTIVE_SIG("1"),
    .doc = ADAPTIVE_DOC(LENGTHS),
    .example = "nn.F.adaptive_avg_pool1d(nn.tensor({{1, 5, 2, 4}}), 2)",
    .variant = -1,
    .sample = "input:2x3x7 output_size=3; input:2x5 output_size=2",
    COMMON);

NNL_OP(adaptive_avg_pool2d,
    .sig = ADAPTIVE_SIG("2"),
    .doc = ADAPTIVE_DOC(AREAS),
    .example = "nn.F.adaptive_avg_pool2d(nn.randn(8, 3, 28, 28), 1)",
    .variant = -2,
    .sample = "input:2x3x5x7 output_size={2,3}; input:2x3x4x6 output_size=1; input:2x2x3x3 output_size=5",
    COMMON);

NNL_OP(adaptive_avg_pool3d,
    .sig = ADAPTIVE_SIG("3"),
    .doc = ADAPTIVE_DOC(VOLUMES),
    .example = "nn.F.adaptive_avg_pool3d(nn.randn(2, 3, 8, 8, 8), 4)",
    .variant = -3,
    .sample = "input:2x2x3x4x5 output_size={2,3,2}",
    COMMON);
