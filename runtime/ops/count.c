/* Positions and counts, whose number depends on the data: the infer functions read these and make the results themselves. */
#include "op.h"

#include <string.h>

static nnl_dtype type_of(const nnl_tensor *t) { return (nnl_dtype)t->dtype; }
static int64_t *ints(nnl_tensor *t) { return (int64_t *)(void *)t->data; }

static nnl_status copy_of(const nnl_tensor *t, nnl_dtype dtype, nnl_tensor **out)
{
    nnl_spec spec;
    nnl_spec_like(&spec, t);
    spec.dtype = dtype;
    return nnl_copy_as(&spec, t, out);
}

/* A row of ndim positions for each true element, or with as_tuple a result for each dimension. */
static nnl_status make_positions(nnl_call *c, const nnl_tensor *x)
{
    bool apart = c->attr[0].as.i;
    int columns = apart ? NNL_MAX(x->ndim, 1) : x->ndim;
    int64_t shape[2] = {0, x->ndim}, *column[NNL_MAX_DIMS], row = 0;
    for (int64_t i = 0; i < x->numel; i++) shape[0] += x->data[i] != 0;
    NNL_TRY(nnl_call_results(c, apart ? columns : 1));
    for (int i = 0; i < c->n_out; i++) NNL_TRY(nnl_call_make(c, i, NNL_I64, apart ? 1 : 2, shape));
    for (int d = 0; d < columns; d++) column[d] = apart ? ints(c->out[d]) : ints(c->out[0]) + d;
    for (int64_t i = 0, rest; i < x->numel; i++) {
        if (!x->data[i]) continue;
        rest = i;
        for (int d = columns - 1; d >= 0; d--) {
            int64_t size = x->ndim ? x->shape[d] : 1;
            column[d][apart ? row : row * columns] = rest % size + c->index_base;
            rest /= size;
        }
        row++;
    }
    return NNL_OK;
}

static nnl_status nonzero_infer(nnl_call *c)
{
    nnl_tensor *x;
    NNL_TRY(copy_of(c->in[0], NNL_BOOL, &x));
    nnl_status status = make_positions(c, x);
    nnl_tensor_unref(x);
    return status;
}

NNL_OP(nonzero,
    .sig = "input:any, as_tuple:flag=false -> i64*",
    .doc = "The positions of the elements that are not 0, one a row, in row-major order: n x dimensions.  With as_tuple a "
           "result for each dimension, which together index them.",
    .example = "nn.tensor({0, 5, 7}):nonzero()",
    .infer = nonzero_infer,
    NNL_NO_GRAD("positions are whole numbers"),
    .sample = "input:3x4{bool}; input:5<3>; input:3x4{bool} as_tuple=true",
    .traits = NNL_COMPLETE_RUN);

/* Positions from 0 in a dense i64 copy of input 0, and their number; fails at one below 0, or at or above
 * limit (when that is not negative). */
static nnl_status read_positions(nnl_call *c, int64_t limit, nnl_tensor **out, int64_t *highest)
{
    char place[NNL_PLACE_TEXT], range[48];
    int base = c->index_base;
    NNL_TRY(copy_of(c->in[0], NNL_I64, out));
    int64_t *at = ints(*out);
    *highest = -1;
    for (int64_t i = 0; i < (*out)->numel; i++) {
        int64_t number = at[i];
        at[i] -= base;
        *highest = NNL_MAX(*highest, at[i]);
        if (number >= base && (limit < 0 || at[i] < limit)) continue;
        if (limit < 0) nnl_format(range, sizeof range, "must be %d or more", base);
        else nnl_format(range, sizeof range, "can be %d to %lld", base, (long long)(limit - 1 + base));
        nnl_status status = nnl_call_fail(c, NNL_EINDEX, "input is %lld%s, but it %s", (long long)number,
                                          nnl_place_text(place, *out, i, base), range);
        nnl_tensor_unref(*out);
        return status;
    }
    return NNL_OK;
}

static nnl_status make_counts(nnl_call *c, nnl_tensor *positions, int64_t size)
{
    nnl_tensor *weights = NULL;
    const int64_t *at = ints(positions);
    if (c->in[1]) NNL_TRY(copy_of(c->in[1], NNL_F64, &weights));
    nnl_status status = nnl_call_make(c, 0, weights ? NNL_F64 : NNL_I64, 1, &size);
    if (status == NNL_OK) {
        memset(c->out[0]->data, 0, (size_t)size * 8);
        for (int64_t i = 0; i < positions->numel; i++) {
            if (weights) ((double *)(void *)c->out[0]->data)[at[i]] += ((const double *)(const void *)weights->data)[i];
            else ints(c->out[0])[at[i]]++;
        }
    }
    nnl_tensor_unref(weights);
    if (status != NNL_OK || !weights || type_of(c->in[1]) != NNL_F32) return status;
    nnl_tensor *sums = c->out[0]; /* torch keeps the type of f32 weights */
    c->out[0] = NULL;
    c->spec[0].dtype = NNL_F32;
    status = nnl_tensor_make(c->rt, &c->spec[0], NULL, &c->out[0]);
    if (status == NNL_OK) status = nnl_copy(c->out[0], sums);
    nnl_tensor_unref(sums);
    return status;
}

static nnl_status bincount_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0], *weights = c->in[1];
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    nnl_tensor *positions;
    int64_t highest;
    if (x->ndim != 1) return nnl_call_fail(c, NNL_ESHAPE, "%s must have one dimension", nnl_call_input_text(c, 0, a));
    if (weights && !nnl_same_shape(x, weights))
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have the shape of %s", nnl_call_input_text(c, 1, b), nnl_call_input_text(c, 0, a));
    NNL_TRY(read_positions(c, -1, &positions, &highest));
    highest = NNL_MIN(highest, INT64_MAX - 1); /* too large in any case */
    nnl_status status = make_counts(c, positions, NNL_MAX(highest + 1, c->attr[0].as.i));
    nnl_tensor_unref(positions);
    return status;
}

NNL_OP(bincount,
    .sig = "input:index, weights:any?, minlength:size=0 -> i64",
    .doc = "How often each number occurs: element k of the result counts the elements of input that are k (class numbers and "
           "other positions, which count from 1 in Lua), or sums their weights.  Its size is the largest number, at least minlength.",
    .example = "nn.bincount({1, 3, 3})",
    .infer = bincount_infer,
    NNL_NO_GRAD("counts are whole numbers"),
    .sample = "input:8<4>; input:8<4> minlength=6; input:8<4> weights:8",
    .traits = NNL_COMPLETE_RUN);

static nnl_status one_hot_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    nnl_tensor *positions;
    int64_t classes = c->attr[0].as.i, highest, shape[NNL_MAX_DIMS + 1];
    char text[NNL_NAMED_TEXT];
    if (x->ndim == NNL_MAX_DIMS) return nnl_call_fail(c, NNL_ESHAPE, "%s has no room for one more dimension", nnl_call_input_text(c, 0, text));
    NNL_TRY(read_positions(c, classes, &positions, &highest));
    if (classes < 0) classes = NNL_MIN(highest, INT64_MAX - 1) + 1;
    for (int d = 0; d < x->ndim; d++) shape[d] = x->shape[d];
    shape[x->ndim] = classes;
    nnl_status status = nnl_call_make(c, 0, NNL_I64, x->ndim + 1, shape);
    if (status == NNL_OK) {
        memset(c->out[0]->data, 0, (size_t)c->out[0]->numel * 8);
        for (int64_t i = 0; i < x->numel; i++) ints(c->out[0])[i * classes + ints(positions)[i]] = 1;
    }
    nnl_tensor_unref(positions);
    return status;
}

NNL_OP(one_hot,
    .sig = "input:index, num_classes:int=-1 -> i64",
    .doc = "Class numbers as rows of zeros with a 1 at the class: a last dimension of num_classes more (-1: as many as the "
           "largest number needs).",
    .example = "nn.F.one_hot({1, 3}, 3)",
    .infer = one_hot_infer,
    NNL_NO_GRAD("the result is whole numbers"),
    .sample = "input:5<4>; input:2x3<4> num_classes=5",
    .traits = NNL_COMPLETE_RUN | NNL_NO_METHOD);
