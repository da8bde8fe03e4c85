/* Single elements chosen along a dimension (gather, scatter) or of the flattened tensor (take). */
#include "dense.h"
#include "index_walk.h"

#include <string.h>

/* ---------------------------------------------------------------- gather and scatter */

/* Checks that index fits x but for dimension dim. */
static nnl_status check_index_shape(nnl_call *c, int place)
{
    const nnl_tensor *x = c->in[0], *index = c->in[place];
    int64_t dim = c->attr[0].as.i;
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    bool fits = x->ndim == index->ndim;
    for (int d = 0; d < x->ndim && fits; d++) fits = d == dim || index->shape[d] <= x->shape[d];
    if (fits) return NNL_OK;
    return nnl_call_fail(
        c, NNL_ESHAPE,
        "%s must have as many dimensions as %s, and none but dimension %lld may be longer",
        nnl_call_input_text(c, place, b), nnl_call_input_text(c, 0, a),
        (long long)dim + c->index_base);
}

/* packed has index's shape; places that differ in any dimension but dim never meet. */
static void gather_walk_set(nnl_walk *w, const nnl_tensor *packed, const nnl_tensor *base, int dim,
                            int64_t *offsets)
{
    int64_t offset_strides[NNL_MAX_DIMS], base_strides[NNL_MAX_DIMS];
    nnl_strides_contiguous(packed->ndim, packed->shape, offset_strides);
    memcpy(base_strides, base->strides, sizeof base_strides);
    if (packed->ndim > 0) base_strides[dim] = 0;
    nnl_walk_set(w, packed, base, offsets, offset_strides, base_strides);
    for (int d = 0; d < packed->ndim; d++) w->apart[d] = d != dim;
}

/* Offsets along dim of x; a 0-d tensor counts as one position. */
static nnl_status gather_offsets(nnl_call *c, const nnl_tensor *x, int place, int dim,
                                 nnl_offsets *offsets)
{
    bool has_dim = x->ndim > 0;
    return nnl_offsets_read(c, place, dim, has_dim ? x->shape[dim] : 1,
                            has_dim ? nnl_stride_bytes(x, dim) : 0, offsets);
}

static nnl_status gather_infer(nnl_call *c)
{
    NNL_TRY(check_index_shape(c, 1));
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->in[0]->dtype, c->in[1]->ndim, c->in[1]->shape);
    return NNL_OK;
}

/* Positions used as they are read: what is out of range takes place 0 and is noted, as the result
 * is nobody's before the call has succeeded. */
typedef struct pick_job {
    const nnl_kernels *kernels;
    int64_t size, base, scale;
    _Atomic bool bad;
} pick_job;

#define FEW 8

#define PICK(type)                                                                                \
    static void pick_##type(void *context, const nnl_loop *loop, char *const *address, int64_t n) \
    {                                                                                             \
        pick_job *job = context;                                                                  \
        int inner = loop->ndim - 1;                                                               \
        int64_t to_step = loop->step[0][inner], index_step = loop->step[1][inner],                \
                step = loop->step[2][inner];                                                      \
        int64_t size = job->size, base = job->base, scale = job->scale;                           \
        char *to = address[0];                                                                    \
        const char *index = address[1], *from = address[2];                                       \
        bool bad = false;                                                                         \
        /* all but a few calls: adjacent elements of one row, none counted from the end */        \
        if (to_step == sizeof(type) && index_step == sizeof(int64_t) && step == 0 &&              \
            scale == sizeof(type) && n >= FEW &&                                                  \
            job->kernels->within((const void *)index, base, size, n)) {                           \
            job->kernels->pick(sizeof(type), to, from, (const void *)index, base, n);             \
            return;                                                                               \
        }                                                                                         \
        for (int64_t i = 0; i < n; i++) {                                                         \
            int64_t v = DISTANCE(index + i * index_step);                                         \
            v = v < 0 ? v + size : v - base;                                                      \
            bool wrong = (uint64_t)v >= (uint64_t)size;                                           \
            bad |= wrong;                                                                         \
            AT(type, to + i * to_step) =                                                          \
                AT(const type, from + i * step + (wrong ? 0 : v) * scale);                        \
        }                                                                                         \
        if (bad) job->bad = true;                                                                 \
    }
PICK(uint8_t)
PICK(uint32_t)
PICK(uint64_t)

static nnl_status gather_directly(nnl_call *c, int dim)
{
    const nnl_tensor *x = c->in[0];
    nnl_tensor *out = c->out[0];
    pick_job job = {
        .kernels = c->rt->kernels, .size = x->shape[dim], .base = c->index_base, .scale = nnl_stride_bytes(x, dim)};
    int64_t strides[NNL_MAX_DIMS];
    memcpy(strides, x->strides, sizeof strides);
    strides[dim] = 0;
    nnl_tensor base = nnl_window(x, x->data, out->ndim, out->shape, strides);
    nnl_loop loop;
    nnl_loop_plan(&loop, out->ndim, out->shape, 3, (nnl_tensor *[]){out, c->in[1], &base});
    int width = (int)nnl_dtype_size((nnl_dtype)x->dtype);
    NNL_TRY(nnl_loop_run(c->rt, &loop, 2,
                         nnl_by_width(width, pick_uint8_t, pick_uint32_t, pick_uint64_t), &job));
    return job.bad ? nnl_position_fail(c, 1, dim, job.size) : NNL_OK;
}

static nnl_status gather_run(nnl_call *c)
{
    int dim = (int)c->attr[0].as.i;
    if (c->in[1]->dtype == NNL_I64 && c->in[0]->ndim > 0 && c->in[0]->shape[dim] > 0)
        return gather_directly(c, dim);
    nnl_offsets offsets;
    nnl_walk w;
    NNL_TRY(gather_offsets(c, c->in[0], 1, dim, &offsets));
    gather_walk_set(&w, c->out[0], c->in[0], dim, offsets.at);
    nnl_status status = nnl_gather_walk(c->rt, &w);
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static void gather_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0];
    g->dx[0] =
        DO_WITH(g->s, gather_backward, (g->attr[0], V_INTS(x->ndim, x->shape)), g->dy[0], g->in[1]);
}

NNL_OP(gather,
    .sig = "input:any, dim:dim, index:index -> same",
    .doc = "Elements chosen along a dimension: for dim 1 of a matrix, result[i][j] = "
           "input[index[i][j]][j].",
    .example = "nn.tensor({{1, 2}, {3, 4}}):gather(2, nn.tensor({{2}, {1}}, \"i64\"))",
    .infer = gather_infer,
    .run = gather_run,
    .grad = gather_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:4x3 dim=1 index:5x2<4>; input:2x3x4 dim=3 index:2x3x2<4>; input:3 dim=1 "
              "index:4<3>");

static nnl_status gather_backward_infer(nnl_call *c)
{
    return nnl_shape_attr_infer(c, &c->attr[1]);
}

static nnl_status gather_backward_run(nnl_call *c)
{
    int dim = (int)c->attr[0].as.i;
    nnl_offsets offsets;
    nnl_walk w;
    nnl_tensor *out = c->out[0];
    bool plain = out->ndim > 0 && nnl_positions_plain(c, 1, out->shape[dim], &offsets);
    if (!plain) NNL_TRY(gather_offsets(c, out, 1, dim, &offsets));
    nnl_set_zero(out);
    gather_walk_set(&w, c->in[0], out, dim, offsets.at);
    if (plain) nnl_walk_plain(&w, c, out, dim);
    nnl_status status = nnl_add_walk(c->rt, &w, 1);
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static void gather_backward_grad(nnl_grad *g)
{
    g->dx[0] = DO_WITH(g->s, gather, (g->attr[0]), g->dy[0], g->in[1]);
}

NNL_OP(gather_backward,
    .sig = "dy:float, index:index, dim:int, shape:int* -> same",
    .doc = "Zeros of a shape with dy added at the places from which gather took.",
    .infer = gather_backward_infer,
    .run = gather_backward_run,
    .grad = gather_backward_grad,
    .saves = NNL_SAVE_INPUT(1),
    .traits = NNL_HIDDEN);

static nnl_status scatter_infer(nnl_call *c)
{
    const nnl_tensor *index = c->in[1], *src = c->in[2];
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    NNL_TRY(check_index_shape(c, 1));
    nnl_spec_like(&c->spec[0], c->in[0]);
    bool fits = src->ndim == 0 || src->ndim == index->ndim;
    for (int d = 0; d < src->ndim && fits; d++) fits = src->shape[d] >= index->shape[d];
    if (fits) return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE,
                         "%s must be as large as %s in every dimension, or one number",
                         nnl_call_input_text(c, 2, b), nnl_call_input_text(c, 1, a));
}

/* The part of src that index uses; one number stands for all. */
static nnl_tensor scatter_source(const nnl_tensor *index, const nnl_tensor *src)
{
    static const int64_t none[NNL_MAX_DIMS] = {0};
    return nnl_window(src, src->data, index->ndim, index->shape, src->ndim ? src->strides : none);
}

/* Whether the walk along dim can copy input piece by piece before it writes there. */
static bool copies_by_slabs(const nnl_call *c, int dim)
{
    const nnl_tensor *input = c->in[0], *out = c->out[0], *index = c->in[1];
    return out != input && dim > 0 && out->contiguous && input->contiguous && index->numel > 0 &&
           index->shape[0] == out->shape[0];
}

static nnl_status scatter_with(nnl_call *c, bool add)
{
    int dim = (int)c->attr[0].as.i;
    nnl_tensor *out = c->out[0];
    nnl_offsets offsets;
    nnl_walk w;
    bool plain = out->ndim > 0 && out->storage != c->in[1]->storage &&
                 nnl_positions_plain(c, 1, out->shape[dim], &offsets);
    if (!plain) NNL_TRY(gather_offsets(c, out, 1, dim, &offsets));
    bool slabs = copies_by_slabs(c, dim);
    nnl_status status = slabs ? NNL_OK : nnl_begin_with(out, c->in[0]);
    if (status == NNL_OK) {
        nnl_tensor source = scatter_source(c->in[1], c->in[2]);
        gather_walk_set(&w, &source, out, dim, offsets.at);
        if (slabs) {
            w.begin = c->in[0]->data;
            w.slab = nnl_stride_bytes(out, 0);
        }
        if (plain) nnl_walk_plain(&w, c, out, dim);
        status = add ? nnl_add_walk(c->rt, &w, 1) : nnl_set_walk(c->rt, &w);
    }
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static nnl_status scatter_run(nnl_call *c) { return scatter_with(c, false); }
static nnl_status scatter_add_run(nnl_call *c) { return scatter_with(c, true); }

/* The gradient of src: of index's shape, with zeros around it where src is larger. */
static nnl_tensor *source_grad(nnl_grad *g, nnl_tensor *picked)
{
    const nnl_layout *src = &g->in_layout[2];
    int64_t strides[NNL_MAX_DIMS];
    if (!picked || src->ndim == 0 ||
        memcmp(src->shape, picked->shape, sizeof(int64_t) * src->ndim) == 0)
        return picked;
    nnl_strides_contiguous(src->ndim, src->shape, strides);
    return DO_WITH(g->s, place,
                   (V_INTS(src->ndim, src->shape), V_INTS(src->ndim, strides), V_INT(0)), picked);
}

static void scatter_grad(nnl_grad *g)
{
    if (g->needs[0])
        g->dx[0] =
            DO_WITH(g->s, scatter, (g->attr[0]), g->dy[0], g->in[1], nnl_number(g->s, g->dy[0], 0));
    if (g->needs[2])
        g->dx[2] = source_grad(g, DO_WITH(g->s, gather_last, (g->attr[0]), g->dy[0], g->in[1]));
}

NNL_OP(scatter,
    .sig = "input:any, dim:dim, index:index, src:any|scalar -> same",
    .doc = "input with elements of src (or a number) put where index says: for dim 1 of a matrix, "
           "result[index[i][j]][j] = src[i][j].  Of several for one place the last one stays.",
    .example = "nn.zeros(2, 3):scatter(2, nn.tensor({{3}, {1}}, \"i64\"), 1)",
    .infer = scatter_infer,
    .run = scatter_run,
    .grad = scatter_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:3x4 dim=2 index:3x2<4> src:3x2; input:3x4 dim=1 index:2x4<3> src:3x5; "
              "input:3x4 dim=2 index:3x1<4> src=1.5",
    .traits = NNL_PROMOTE | NNL_FIRST_TYPE | NNL_INPLACE_OK);

static nnl_status gather_last_run(nnl_call *c)
{
    int dim = (int)c->attr[0].as.i;
    nnl_offsets offsets;
    nnl_tensor *spoilt;
    nnl_walk w;
    NNL_TRY(nnl_copy_new(c->in[0], &spoilt));
    nnl_status status = gather_offsets(c, spoilt, 1, dim, &offsets);
    if (status == NNL_OK) {
        gather_walk_set(&w, c->out[0], spoilt, dim, offsets.at);
        status = nnl_take_last_walk(c->rt, &w);
        nnl_offsets_free(c->rt, &offsets);
    }
    nnl_tensor_unref(spoilt);
    return status;
}

static void gather_last_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0];
    nnl_tensor *zeros = nnl_full(g->s, (nnl_dtype)x->dtype, x->ndim, x->shape, 0);
    g->dx[0] = DO_WITH(g->s, scatter, (g->attr[0]), zeros, g->in[1], g->dy[0]);
}

NNL_OP(gather_last,
    .sig = "input:float, dim:dim, index:index -> same",
    .doc = "As gather, but of several places that take the same element only the last one gets "
           "it, the others 0: what flows back through scatter.",
    .infer = gather_infer,
    .run = gather_last_run,
    .grad = gather_last_grad,
    .saves = NNL_SAVE_INPUT(1),
    .traits = NNL_HIDDEN);

static void scatter_add_grad(nnl_grad *g)
{
    g->dx[0] = g->dy[0];
    if (g->needs[2])
        g->dx[2] = source_grad(g, DO_WITH(g->s, gather, (g->attr[0]), g->dy[0], g->in[1]));
}

NNL_OP(scatter_add,
    .sig = "input:any, dim:dim, index:index, src:any|scalar -> same",
    .doc = "input with elements of src added where index says: for dim 1 of a matrix, "
           "result[index[i][j]][j] += src[i][j], in the order of i.",
    .example = "nn.zeros(3):scatter_add(1, {1, 3, 1}, nn.ones(3))",
    .infer = scatter_infer,
    .run = scatter_add_run,
    .grad = scatter_add_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:3x4 dim=2 index:3x2<4> src:3x2; input:3x4 dim=1 index:2x4<3> src:3x5; "
              "input:5 dim=1 index:7<5> src:7",
    .traits = NNL_PROMOTE | NNL_FIRST_TYPE | NNL_INPLACE_OK);

/* ---------------------------------------------------------------- take */

static nnl_status take_infer(nnl_call *c)
{
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->in[0]->dtype, c->in[1]->ndim, c->in[1]->shape);
    return NNL_OK;
}

/* Offsets of flat positions of x, whatever its layout is. */
static nnl_status flat_offsets(nnl_call *c, const nnl_tensor *x, nnl_offsets *offsets)
{
    int64_t width = (int64_t)nnl_dtype_size((nnl_dtype)x->dtype);
    NNL_TRY(nnl_offsets_read(c, 1, -1, x->numel, x->contiguous ? width : 1, offsets));
    for (int64_t i = 0; i < offsets->count && !x->contiguous; i++) {
        int64_t rest = offsets->at[i], offset = 0;
        for (int d = x->ndim - 1; d >= 0; d--) {
            offset += rest % x->shape[d] * x->strides[d];
            rest /= x->shape[d];
        }
        offsets->at[i] = offset * width;
    }
    return NNL_OK;
}

static nnl_status take_run(nnl_call *c)
{
    nnl_offsets offsets;
    nnl_walk w;
    NNL_TRY(flat_offsets(c, c->in[0], &offsets));
    nnl_flat_walk(&w, c->out[0], c->in[0], offsets.at);
    nnl_status status = nnl_gather_walk(c->rt, &w);
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static void take_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0];
    g->dx[0] = DO_WITH(g->s, take_backward, (V_INTS(x->ndim, x->shape)), g->dy[0], g->in[1]);
}

NNL_OP(take,
    .sig = "input:any, index:index -> same",
    .doc = "Elements at positions of the flattened input, in index's shape.",
    .example = "nn.tensor({{1, 2}, {3, 4}}):take({4, 1})",
    .infer = take_infer,
    .run = take_run,
    .grad = take_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:3x4 index:5<12>; input:2x3 index:2x2<6>");

static nnl_status take_backward_infer(nnl_call *c) { return nnl_shape_attr_infer(c, &c->attr[0]); }

static nnl_status take_backward_run(nnl_call *c)
{
    nnl_offsets offsets;
    nnl_walk w;
    NNL_TRY(flat_offsets(c, c->out[0], &offsets));
    nnl_set_zero(c->out[0]);
    /* The sums' order is that of dy's elements, wherever they lie. */
    nnl_tensor *packed;
    nnl_status status = nnl_dense(c->in[0], &packed);
    if (status == NNL_OK) {
        nnl_flat_walk(&w, packed, c->out[0], offsets.at);
        status = nnl_add_walk(c->rt, &w, 1);
        nnl_tensor_unref(packed);
    }
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static void take_backward_grad(nnl_grad *g) { g->dx[0] = DO(g->s, take, g->dy[0], g->in[1]); }

NNL_OP(take_backward,
    .sig = "dy:float, index:index, shape:int* -> same",
    .doc = "Zeros of a shape with dy added at flat positions.",
    .infer = take_backward_infer,
    .run = take_backward_run,
    .grad = take_backward_grad,
    .saves = NNL_SAVE_INPUT(1),
    .traits = NNL_HIDDEN);
