/* The true places of a mask: counted, as offsets, and the elements there picked and replaced. */
#include "dense.h"
#include "index_walk.h"

#include <string.h>

int64_t nnl_count_true(const nnl_tensor *mask)
{
    int64_t count = 0;
    if (mask->contiguous) {
        const uint8_t *truth = (const uint8_t *)mask->data;
        for (int64_t i = 0; i < mask->numel; i++) count += truth[i] != 0;
        return count;
    }
    for (int64_t i = 0; i < mask->numel; i++) {
        int64_t rest = i, offset = 0;
        for (int d = mask->ndim - 1; d >= 0; d--) {
            offset += rest % mask->shape[d] * mask->strides[d];
            rest /= mask->shape[d];
        }
        count += mask->data[offset] != 0;
    }
    return count;
}

/* Byte offsets of a mask's true places from its dimensions' first.  out has room for one more than
 * there are, so that every place can be written and only the true ones counted. */
void nnl_mask_offsets(const nnl_tensor *mask, const nnl_tensor *target, int dim, int64_t *out)
{
    int last = mask->ndim - 1;
    int64_t at[NNL_MAX_DIMS] = {0}, row = 0, place = 0;
    int64_t columns = last < 0 ? 1 : mask->shape[last], step = last < 0 ? 0 : mask->strides[last];
    int64_t place_step = last < 0 ? 0 : nnl_stride_bytes(target, dim + last);
    for (int64_t done = 0; done < mask->numel; done += columns) {
        const char *truth = mask->data + row;
        for (int64_t i = 0; i < columns; i++) {
            *out = place + i * place_step;
            out += truth[i * step] != 0;
        }
        for (int d = last - 1; d >= 0; d--) {
            row += mask->strides[d];
            place += nnl_stride_bytes(target, dim + d);
            if (++at[d] < mask->shape[d]) break;
            row -= at[d] * mask->strides[d];
            place -= at[d] * nnl_stride_bytes(target, dim + d);
            at[d] = 0;
        }
    }
}

static const int64_t *expanded_strides(const nnl_tensor *t, int ndim, const int64_t *shape,
                                       int64_t out[NNL_MAX_DIMS])
{
    int missing = ndim - t->ndim;
    for (int d = 0; d < ndim; d++)
        out[d] = d < missing || (t->shape[d - missing] == 1 && shape[d] != 1)
                     ? 0
                     : t->strides[d - missing];
    return out;
}

static nnl_tensor expanded(const nnl_tensor *t, int ndim, const int64_t *shape)
{
    int64_t strides[NNL_MAX_DIMS];
    return nnl_window(t, t->data, ndim, shape, expanded_strides(t, ndim, shape, strides));
}

/* The common shape of input 0 and the mask. */
static nnl_status masked_shape(nnl_call *c, nnl_spec *spec)
{
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    nnl_spec_like(spec, c->in[0]);
    if (nnl_broadcast(&spec->ndim, spec->shape, c->in[1]->ndim, c->in[1]->shape)) return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE, "%s and %s do not broadcast", nnl_call_input_text(c, 0, a),
                         nnl_call_input_text(c, 1, b));
}

static nnl_status masked_select_infer(nnl_call *c)
{
    NNL_TRY(nnl_call_needs_values(c));
    nnl_spec common;
    NNL_TRY(masked_shape(c, &common));
    nnl_tensor mask = expanded(c->in[1], common.ndim, common.shape);
    int64_t count = nnl_count_true(&mask);
    nnl_spec_set(&c->spec[0], common.dtype, 1, &count);
    return NNL_OK;
}

static nnl_status masked_select_run(nnl_call *c)
{
    nnl_spec common;
    nnl_offsets offsets;
    nnl_walk w;
    NNL_TRY(masked_shape(c, &common));
    nnl_tensor mask = expanded(c->in[1], common.ndim, common.shape),
               x = expanded(c->in[0], common.ndim, common.shape);
    NNL_TRY(nnl_offsets_new(c->rt, c->out[0]->numel, &offsets));
    nnl_mask_offsets(&mask, &x, 0, offsets.at);
    nnl_flat_walk(&w, c->out[0], &x, offsets.at);
    nnl_status status = nnl_gather_walk(c->rt, &w);
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static void masked_select_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0];
    nnl_tensor *mask = g->in[1];
    int ndim = x->ndim;
    int64_t shape[NNL_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    nnl_broadcast(&ndim, shape, mask->ndim, mask->shape);
    nnl_tensor *zeros = nnl_full(g->s, (nnl_dtype)x->dtype, ndim, shape, 0);
    g->dx[0] = DO(g->s, masked_scatter, zeros, mask, g->dy[0]);
}

NNL_OP(masked_select,
    .sig = "input:any, mask:bool -> same",
    .doc = "The elements where mask (broadcast) is true, in row-major order, as one dimension.",
    .example = "nn.arange(5):masked_select(nn.arange(5):gt(2))",
    .infer = masked_select_infer,
    .run = masked_select_run,
    .grad = masked_select_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:3x4 mask:3x4; input:2x3 mask:3; input:3 mask:2x1");

static nnl_status masked_scatter_infer(nnl_call *c)
{
    NNL_TRY(nnl_call_needs_values(c));
    const nnl_tensor *x = c->in[0];
    nnl_spec common;
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    NNL_TRY(masked_shape(c, &common));
    nnl_spec_like(&c->spec[0], x);
    if (common.ndim != x->ndim || memcmp(common.shape, x->shape, sizeof(int64_t) * x->ndim) != 0)
        return nnl_call_fail(c, NNL_ESHAPE, "%s does not fit into %s", nnl_call_input_text(c, 1, b),
                             nnl_call_input_text(c, 0, a));
    nnl_tensor mask = expanded(c->in[1], x->ndim, x->shape);
    int64_t count = nnl_count_true(&mask);
    if (count <= c->in[2]->numel) return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE, "mask is true at %lld places, but %s has %lld elements",
                         (long long)count, nnl_call_input_text(c, 2, b),
                         (long long)c->in[2]->numel);
}

static nnl_status masked_scatter_run(nnl_call *c)
{
    nnl_tensor *out = c->out[0], *source;
    nnl_tensor mask = expanded(c->in[1], out->ndim, out->shape);
    nnl_offsets offsets;
    nnl_walk w;
    NNL_TRY(nnl_dense(c->in[2], &source));
    nnl_status status = nnl_offsets_new(c->rt, nnl_count_true(&mask), &offsets);
    if (status == NNL_OK) {
        nnl_mask_offsets(&mask, out, 0, offsets.at);
        status = nnl_begin_with(out, c->in[0]);
        nnl_tensor packed =
            nnl_header_of(c->rt, (nnl_dtype)source->dtype, source->data, 1, &offsets.count);
        nnl_flat_walk(&w, &packed, out, offsets.at);
        if (status == NNL_OK) status = nnl_set_walk(c->rt, &w);
        nnl_offsets_free(c->rt, &offsets);
    }
    nnl_tensor_unref(source);
    return status;
}

static void masked_scatter_grad(nnl_grad *g)
{
    const nnl_layout *source = &g->in_layout[2];
    if (g->needs[0]) {
        nnl_tensor *zeros =
            nnl_full(g->s, (nnl_dtype)source->dtype, source->ndim, source->shape, 0);
        g->dx[0] = DO(g->s, masked_scatter, g->dy[0], g->in[1], zeros);
    }
    if (!g->needs[2]) return;
    /* What was not used of the source gets 0. */
    int64_t numel = nnl_shape_numel(source->ndim, source->shape), one = 1;
    nnl_tensor *dy = g->dy[0], *picked = DO(g->s, masked_select, dy, g->in[1]);
    nnl_tensor *padded =
        DO_WITH(g->s, place, (V_INTS(1, &numel), V_INTS(1, &one), V_INT(0)), picked);
    g->dx[2] = nnl_reshaped(g->s, padded, source->ndim, source->shape);
}

NNL_OP(masked_scatter,
    .sig = "input:any, mask:bool, source:any -> same",
    .doc = "input with the elements where mask (broadcast) is true replaced by source's, one "
           "after the other.",
    .example = "nn.zeros(4):masked_scatter(nn.arange(4):gt(2), nn.tensor({7, 8}))",
    .infer = masked_scatter_infer,
    .run = masked_scatter_run,
    .grad = masked_scatter_grad,
    .saves = NNL_SAVE_INPUT(1),
    .sample = "input:3x4 mask:3x4 source:3x5; input:2x3 mask:3 source:6",
    .traits = NNL_PROMOTE | NNL_INPLACE_OK);
