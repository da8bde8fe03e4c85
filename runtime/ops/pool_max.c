/* Max pooling.  A hidden result says for every maximum which tap of its window it came from; by it gradients find
 * their way back, and positions are made from it for who asks. */
#include "pool.h"

#include <string.h>

enum { VALUES, CODES, INDICES };
enum { KERNEL_SIZE, STRIDE, PADDING, DILATION, CEIL_MODE, RETURN_INDICES }; /* attributes */
enum { OUTPUT_SIZE, ADAPTIVE_INDICES };                                     /* of the adaptive form */

static bool is_adaptive(const nnl_op *op) { return op->variant < 0; }
static int dims_of(const nnl_op *op) { return op->variant < 0 ? -op->variant : op->variant; }

static nnl_status read_pool(nnl_call *c, nnl_pool *pool)
{
    int dims = dims_of(c->op);
    const nnl_value *a = c->attr;
    if (is_adaptive(c->op)) return nnl_pool_read_adaptive(c, pool, dims, &a[OUTPUT_SIZE]);
    NNL_TRY(nnl_pool_read(c, pool, dims, &a[KERNEL_SIZE], &a[STRIDE], &a[PADDING], &a[DILATION]));
    pool->ceil = a[CEIL_MODE].as.i != 0;
    return NNL_OK;
}

static int64_t taps_of(const nnl_pool *pool) { return pool->dim[0].kernel * pool->dim[1].kernel * pool->dim[2].kernel; }

static nnl_status max_infer(nnl_call *c)
{
    nnl_pool pool;
    bool indices = c->attr[is_adaptive(c->op) ? ADAPTIVE_INDICES : RETURN_INDICES].as.i != 0;
    NNL_TRY(read_pool(c, &pool));
    NNL_TRY(nnl_call_results(c, indices ? 3 : 2));
    NNL_TRY(nnl_pool_infer(c, &pool, &c->spec[VALUES]));
    if (taps_of(&pool) > INT32_MAX) return nnl_call_fail(c, NNL_EUNSUPPORTED, "the windows have too many places");
    for (int i = 1; i < c->n_out; i++) c->spec[i] = c->spec[VALUES];
    c->spec[CODES].dtype = taps_of(&pool) > UINT8_MAX + 1 ? NNL_I32 : NNL_U8;
    if (indices) c->spec[INDICES].dtype = NNL_I64;
    return NNL_OK;
}

static int64_t code_at(const nnl_pool_walk *w, int64_t at)
{
    return w->wide ? ((const int32_t *)(const void *)w->code)[at] : ((const uint8_t *)w->code)[at];
}

/* The place in its plane that a code stands for. */
static int64_t place_of(const nnl_pool_walk *w, int64_t code, int64_t depth, int64_t height, int64_t width)
{
    const nnl_pool_dim *dim = w->pool.dim;
    const int64_t tap[NNL_POOL_DIMS] = {code / dim[2].kernel / dim[1].kernel, code / dim[2].kernel % dim[1].kernel, code % dim[2].kernel};
    const int64_t window[NNL_POOL_DIMS] = {depth, height, width};
    int64_t place = 0;
    for (int d = 0; d < NNL_POOL_DIMS; d++) {
        const nnl_pool_window *at = &w->window[d][window[d]];
        int64_t here = at->first + (tap[d] - at->number) * dim[d].dilation;
        place = place * dim[d].in + NNL_MAX(0, NNL_MIN(here, dim[d].in - 1)); /* a window without taps has no place */
    }
    return place;
}

static void max_row(const nnl_pool_walk *w, int64_t plane, int64_t depth, int64_t height)
{
    int64_t first, at = nnl_pool_result_row(w, plane, depth, height);
    nnl_pool_row row = nnl_pool_row_at(w, depth, height, &first);
    w->rt->kernels->pool_max_row(&row, w->dtype, w->out + at * w->width, w->code ? w->code + at * w->code_width : NULL,
                                 w->in + (nnl_pool_input_row(w, plane, 0, 0) + first) * w->width);
}

static void set_codes(nnl_pool_walk *walk, const nnl_tensor *codes)
{
    walk->wide = codes->dtype == NNL_I32;
    walk->code_width = walk->wide ? 4 : 1;
    walk->code = codes->data;
}

static nnl_status new_walk(nnl_call *c, const nnl_pool *pool, const nnl_tensor *images, const nnl_tensor *codes,
                           bool channels_last, nnl_pool_walk **out)
{
    NNL_TRY(nnl_pool_walk_new(c->rt, pool, images, channels_last, out));
    set_codes(*out, codes);
    return NNL_OK;
}

static void write_indices(const nnl_pool_walk *w, nnl_tensor *out, int base)
{
    const nnl_pool_dim *dim = w->pool.dim;
    int64_t at = 0, *index = (int64_t *)(void *)out->data;
    for (int64_t plane = 0; plane < w->outer; plane++) {
        for (int64_t o = 0; o < dim[0].out * dim[1].out * dim[2].out; o++) {
            int64_t width = o % dim[2].out, height = o / dim[2].out % dim[1].out, depth = o / dim[2].out / dim[1].out;
            for (int64_t c = 0; c < w->inner; c++, at++) index[at] = place_of(w, code_at(w, at), depth, height, width) + base;
        }
    }
}

/* Codes are written where somebody asks for them. */
static nnl_status pool_rows(const nnl_call *c, nnl_pool_walk *walk, const nnl_tensor *x)
{
    bool indices = c->n_out > INDICES;
    walk->out = c->out[VALUES]->data;
    walk->in = x->data;
    walk->code = c->keep || indices ? c->out[CODES]->data : NULL;
    walk->row = max_row;
    NNL_TRY(nnl_pool_walk_run(walk, false));
    if (indices) write_indices(walk, c->out[INDICES], c->index_base);
    return NNL_OK;
}

static nnl_status max_run(nnl_call *c)
{
    nnl_pool pool;
    nnl_spec spec;
    nnl_tensor *x;
    nnl_pool_walk *walk = NULL;
    NNL_TRY(read_pool(c, &pool));
    NNL_TRY(nnl_pool_infer(c, &pool, &spec));
    NNL_TRY(nnl_image_laid(c->in[0], spec.channels_last, &x));
    nnl_status status = new_walk(c, &pool, x, c->out[CODES], spec.channels_last, &walk);
    if (status == NNL_OK) status = pool_rows(c, walk, x);
    nnl_pool_walk_free(walk);
    nnl_tensor_unref(x);
    return status;
}

static nnl_status run_ready(nnl_ready *r) { return pool_rows(r->call, r->plan, r->call->in[0]); }

static nnl_status max_ready(nnl_ready *r)
{
    nnl_call *c = r->call;
    nnl_pool pool;
    nnl_spec spec;
    NNL_TRY(read_pool(c, &pool));
    NNL_TRY(nnl_pool_infer(c, &pool, &spec));
    NNL_TRY(nnl_pool_walk_keep(r, &pool, spec.channels_last, run_ready));
    if (r->plan) set_codes(r->plan, c->out[CODES]);
    return NNL_OK;
}

/* ---------------------------------------------------------------- gradients */

/* The attributes that tell backward of the windows; sizes are the input's. */
typedef struct form {
    int64_t size[NNL_POOL_DIMS], kernel[NNL_POOL_DIMS], stride[NNL_POOL_DIMS], padding[NNL_POOL_DIMS], dilation[NNL_POOL_DIMS];
} form;

static void max_grad(nnl_grad *g)
{
    int dims = dims_of(g->op), lead = g->in_layout[0].ndim - dims;
    form f = {0};
    for (int d = 0; d < dims; d++) f.size[d] = g->in_layout[0].shape[lead + d];
    if (!g->dy[VALUES]) return;
    if (is_adaptive(g->op)) {
        g->dx[0] = DO_WITH(g->s, max_pool_backward, (V_INTS(dims, f.size)), g->dy[VALUES], g->out[CODES]);
        return;
    }
    nnl_pool_sizes(&g->attr[KERNEL_SIZE], dims, f.kernel);
    nnl_pool_sizes(nnl_given(&g->attr[STRIDE]) ? &g->attr[STRIDE] : &g->attr[KERNEL_SIZE], dims, f.stride);
    nnl_pool_sizes(&g->attr[PADDING], dims, f.padding);
    nnl_pool_sizes(&g->attr[DILATION], dims, f.dilation);
    g->dx[0] = DO_WITH(g->s, max_pool_backward, (V_INTS(dims, f.size), V_INTS(dims, f.kernel), V_INTS(dims, f.stride),
                       V_INTS(dims, f.padding), V_INTS(dims, f.dilation)), g->dy[VALUES], g->out[CODES]);
}

/* kernel_size is absent: adaptive.  The spec is that of the input. */
static nnl_status read_backward(nnl_call *c, nnl_pool *pool, nnl_spec *spec)
{
    const nnl_value *a = c->attr;
    int dims = a[0].count;
    if (nnl_given(&a[1])) NNL_TRY(nnl_pool_read(c, pool, dims, &a[1], &a[2], &a[3], &a[4]));
    else NNL_TRY(nnl_pool_read_adaptive(c, pool, dims, &V_INTS(dims, c->in[1]->shape + c->in[1]->ndim - dims)));
    nnl_pool_infer_backward(c, pool, &a[0], spec);
    return NNL_OK;
}

static nnl_status backward_infer(nnl_call *c)
{
    nnl_pool pool;
    return read_backward(c, &pool, &c->spec[0]);
}

static void add_row(const nnl_pool_walk *w, const nnl_pool_row *row, char *dx, int64_t at)
{
    w->rt->kernels->pool_max_back_row(row, w->dtype, dx, w->in + at * w->width, w->code + at * w->code_width);
}

static void back_row(const nnl_pool_walk *w, int64_t plane, int64_t depth, int64_t height)
{
    nnl_pool_collect(w, plane, depth, height, add_row);
}

/* Runs row() over what input 0 holds and the codes. */
static nnl_status walk_codes(nnl_call *c, const nnl_pool *pool, bool channels_last, bool backward,
                            void (*row)(const nnl_pool_walk *, int64_t, int64_t, int64_t))
{
    nnl_tensor *x, *codes = NULL;
    nnl_pool_walk *walk = NULL;
    NNL_TRY(nnl_image_laid(c->in[0], channels_last, &x));
    nnl_status status = nnl_image_laid(c->in[1], channels_last, &codes);
    if (status == NNL_OK) status = new_walk(c, pool, c->out[0], codes, channels_last, &walk);
    if (status == NNL_OK) {
        walk->out = c->out[0]->data;
        walk->in = x->data;
        walk->row = row;
        status = nnl_pool_walk_run(walk, backward);
    }
    nnl_pool_walk_free(walk);
    nnl_tensor_unref(codes);
    nnl_tensor_unref(x);
    return status;
}

static nnl_status backward_run(nnl_call *c)
{
    nnl_pool pool;
    nnl_spec spec;
    NNL_TRY(read_backward(c, &pool, &spec));
    return walk_codes(c, &pool, spec.channels_last, true, back_row);
}

static void backward_grad(nnl_grad *g)
{
    const nnl_value *a = g->attr;
    if (g->dy[0]) g->dx[0] = DO_WITH(g->s, max_pool_pick, (a[0], a[1], a[2], a[3], a[4]), g->dy[0], g->in[1]);
}

#define FORM "input_size:int*, kernel_size:int*?, stride:int*?, padding:int*?, dilation:int*?"

NNL_OP(max_pool_backward,
    .sig = "dy:float, code:any, " FORM " -> same",
    .doc = "The gradient of max_pool1d to 3d and their adaptive forms: every element of dy at the place of its maximum.",
    .infer = backward_infer,
    .run = backward_run,
    .grad = backward_grad,
    .saves = NNL_SAVE_INPUT(1),
    .traits = NNL_HIDDEN);

/* ---------------------------------------------------------------- what stands at the maxima's places */

static nnl_status pick_infer(nnl_call *c)
{
    nnl_spec_like(&c->spec[0], c->in[1]);
    c->spec[0].dtype = (nnl_dtype)c->in[0]->dtype;
    c->spec[0].channels_last = c->in[1]->ndim - c->attr[0].count == 2 && nnl_lies_channels_last(c->in[1]);
    return NNL_OK;
}

static void pick_row(const nnl_pool_walk *w, int64_t plane, int64_t depth, int64_t height)
{
    int64_t at = nnl_pool_result_row(w, plane, depth, height);
    const char *in = w->in + nnl_pool_input_row(w, plane, 0, 0) * w->width;
    for (int64_t o = 0; o < w->pool.dim[2].out; o++) {
        for (int64_t c = 0; c < w->inner; c++, at++) {
            int64_t from = place_of(w, code_at(w, at), depth, height, o) * w->inner + c;
            memcpy(w->out + at * w->width, in + from * w->width, (size_t)w->width);
        }
    }
}

static nnl_status pick_run(nnl_call *c)
{
    nnl_pool pool;
    nnl_spec spec;
    NNL_TRY(read_backward(c, &pool, &spec));
    return walk_codes(c, &pool, spec.channels_last, false, pick_row);
}

static void pick_grad(nnl_grad *g)
{
    const nnl_value *a = g->attr;
    if (g->dy[0]) g->dx[0] = DO_WITH(g->s, max_pool_backward, (a[0], a[1], a[2], a[3], a[4]), g->dy[0], g->in[1]);
}

NNL_OP(max_pool_pick,
    .sig = "input:float, code:any, " FORM " -> same",
    .doc = "The elements of input at the places where max pooling found its maxima.",
    .infer = pick_infer,
    .run = pick_run,
    .grad = pick_grad,
    .saves = NNL_SAVE_INPUT(1),
    .traits = NNL_HIDDEN);

/* ---------------------------------------------------------------- the ops */

#define SIG(n)                                                                                               \
    "input:real, kernel_size:int[" n "], stride:int[" n "]?, padding:int[" n "]=0, dilation:int[" n "]=1, "  \
    "ceil_mode:flag=false, return_indices:flag=false -> same, code:any!, indices:i64*"
#define ADAPTIVE_SIG(n) "input:real, output_size:int[" n "], return_indices:flag=false -> same, code:any!, indices:i64*"
#define DOC(form)                                                                                            \
    "The largest element of every window over " form ".  Windows are stride apart (kernel_size by default); padding places " \
    "on each side count as -infinity; dilation is the distance between the places of a window; with ceil_mode the last " \
    "window may reach over the end.  With return_indices a second result has the position of every maximum among the " \
    "places of its channel."
#define ADAPTIVE_DOC(form)                                                                                   \
    "The largest element of every window over " form ", where output_size windows share the places out evenly: " \
    "window o has those from floor(o in / out) to ceil((o + 1) in / out).  With return_indices a second result has the " \
    "position of every maximum among the places of its channel."
#define COMMON .infer = max_infer, .run = max_run, .ready = max_ready, .grad = max_grad, .saves = NNL_SAVE_OUTPUT(CODES), .traits = NNL_NO_METHOD
#define LENGTHS "batch x channels x length"
#define AREAS "batch x channels x height x width"
#define VOLUMES "batch x channels x depth x height x width"

NNL_OP(max_pool1d,
    .sig = SIG("1"),
    .doc = DOC(LENGTHS),
    .example = "nn.F.max_pool1d(nn.tensor({{1, 5, 2, 4}}), 2)",
    .variant = 1,
    .sample = "input:2x3x7^ kernel_size=2; input:2x3x8^ kernel_size=3 stride=2 padding=1 ceil_mode=true; "
              "input:3x9^ kernel_size=2 stride=1 dilation=3; input:1x2x7^ kernel_size=3 return_indices=true",
    COMMON);

NNL_OP(max_pool2d,
    .sig = SIG("2"),
    .doc = DOC(AREAS),
    .example = "nn.F.max_pool2d(nn.randn(8, 3, 28, 28), 2)",
    .variant = 2,
    .sample = "input:2x3x4x6^ kernel_size=2; input:2x2x5x7^ kernel_size={3,2} stride={2,1} padding={1,0} dilation={1,2}; "
              "input:3x5x6^ kernel_size=3 stride=2 padding=1 ceil_mode=true; "
              "input:2x17x4x4^ kernel_size=2 stride=1 return_indices=true; input:1x2x18x17^ kernel_size=17 stride=1",
    COMMON);

NNL_OP(max_pool3d,
    .sig = SIG("3"),
    .doc = DOC(VOLUMES),
    .example = "nn.F.max_pool3d(nn.randn(2, 3, 8, 8, 8), 2, {stride = 1})",
    .variant = 3,
    .sample = "input:2x2x4x3x4^ kernel_size=2; input:1x2x5x4x5^ kernel_size={2,3,2} stride={2,1,2} padding={1,1,0} "
              "dilation={2,1,1} ceil_mode=true return_indices=true",
    COMMON);

NNL_OP(adaptive_max_pool1d,
    .sig = ADAPTIVE_SIG("1"),
    .doc = ADAPTIVE_DOC(LENGTHS),
    .example = "nn.F.adaptive_max_pool1d(nn.tensor({{1, 5, 2, 4}}), 2)",
    .variant = -1,
    .sample = "input:2x3x7^ output_size=3; input:2x5^ output_size=2 return_indices=true",
    COMMON);

NNL_OP(adaptive_max_pool2d,
    .sig = ADAPTIVE_SIG("2"),
    .doc = ADAPTIVE_DOC(AREAS),
    .example = "nn.F.adaptive_max_pool2d(nn.randn(8, 3, 28, 28), 7)",
    .variant = -2,
    .sample = "input:2x3x5x7^ output_size={2,3}; input:2x3x4x6^ output_size=1; input:2x2x3x3^ output_size=5 return_indices=true",
    COMMON);

NNL_OP(adaptive_max_pool3d,
    .sig = ADAPTIVE_SIG("3"),
    .doc = ADAPTIVE_DOC(VOLUMES),
    .example = "nn.F.adaptive_max_pool3d(nn.randn(2, 3, 8, 8, 8), 4)",
    .variant = -3,
    .sample = "input:2x2x3x4x5^ output_size={2,3,2}",
    COMMON);
