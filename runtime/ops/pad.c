/* Padding: more positions on both sides of dimensions. */
#include "op.h"
#include "window.h"

enum { CONSTANT, REFLECT, REPLICATE, CIRCULAR };

/* Positions put before (side 0) or behind (side 1) dimension d: pairs begin with the last dimension. */
static int64_t pad_of(const nnl_value *pads, int ndim, int d, int side)
{
    int place = 2 * (ndim - 1 - d) + side;
    return place < pads->count ? pads->as.ints[place] : 0;
}

/* The padded shape; with names of the mode in messages. */
static nnl_status padded_shape(nnl_call *c, const nnl_value *pads, int64_t mode)
{
    const nnl_tensor *x = c->in[0];
    nnl_spec *spec = &c->spec[0];
    char text[NNL_NAMED_TEXT];
    if (pads->count % 2 != 0 || pads->count > 2 * x->ndim)
        return nnl_call_fail(c, NNL_EINVAL, "pad has %d numbers, but %s takes pairs, at most %d", pads->count,
                             nnl_call_input_text(c, 0, text), x->ndim);
    nnl_spec_like(spec, x);
    for (int d = 0; d < x->ndim; d++) {
        int64_t low = pad_of(pads, x->ndim, d, 0), high = pad_of(pads, x->ndim, d, 1), size = x->shape[d];
        int64_t most = mode == REFLECT ? size - 1 : size;
        if ((mode == REFLECT || mode == CIRCULAR) && (low > most || high > most))
            return nnl_call_fail(c, NNL_EINVAL, "pad is %lld and %lld, but dimension %d of %s can be padded by at most %lld",
                                 (long long)low, (long long)high, d + c->index_base, nnl_call_input_text(c, 0, text),
                                 (long long)NNL_MAX(most, 0));
        if (mode == REPLICATE && size == 0 && (low > 0 || high > 0))
            return nnl_call_fail(c, NNL_ESHAPE, "dimension %d of %s is empty: there is nothing to replicate",
                                 d + c->index_base, nnl_call_input_text(c, 0, text));
        if (low < -size || high < -size || !nnl_add_size(size, low, &size) || !nnl_add_size(size, high, &size) || size < 0)
            return nnl_call_fail(c, NNL_EINVAL, "pad is %lld and %lld, which does not fit dimension %d of %s",
                                 (long long)low, (long long)high, d + c->index_base, nnl_call_input_text(c, 0, text));
        spec->shape[d] = size;
    }
    return NNL_OK;
}

/* ---------------------------------------------------------------- with a number */

static nnl_status constant_infer(nnl_call *c) { return padded_shape(c, &c->attr[0], CONSTANT); }

static nnl_status constant_run(nnl_call *c)
{
    nnl_tensor *x = c->in[0], *out = c->out[0], from = *x, to = *out;
    NNL_TRY(nnl_fill(out, c->attr[1]));
    for (int d = 0; d < x->ndim; d++) {
        int64_t low = pad_of(&c->attr[0], x->ndim, d, 0), high = pad_of(&c->attr[0], x->ndim, d, 1);
        int64_t first = NNL_MAX(-low, 0), count = x->shape[d] - first + NNL_MIN(high, 0);
        if (count <= 0) return NNL_OK;
        from = nnl_window_part(&from, d, first, count);
        to = nnl_window_part(&to, d, NNL_MAX(low, 0), count);
    }
    return nnl_copy(&to, &from);
}

static void constant_grad(nnl_grad *g)
{
    int64_t back[2 * NNL_MAX_DIMS];
    for (int i = 0; i < g->attr[0].count; i++) back[i] = -g->attr[0].as.ints[i];
    g->dx[0] = DO_WITH(g->s, pad_constant, (V_INTS(g->attr[0].count, back), V_NUM(0)), g->dy[0]);
}

NNL_OP(pad_constant,
    .sig = "input:any, pad:int*, value:num -> same",
    .doc = "pad with a number; negative ones cut off.",
    .infer = constant_infer,
    .run = constant_run,
    .grad = constant_grad,
    .traits = NNL_HIDDEN);

/* ---------------------------------------------------------------- with positions of the input */

/* The position of the input that stands at `place` of the padded dimension, from 0. */
static int64_t source(int64_t mode, int64_t place, int64_t size)
{
    if (mode == REPLICATE) return NNL_MIN(NNL_MAX(place, 0), size - 1);
    if (mode == CIRCULAR) return place < 0 ? place + size : place >= size ? place - size : place;
    return place < 0 ? -place : place >= size ? 2 * (size - 1) - place : place;
}

static nnl_tensor *sources(nnl_scope *s, int64_t mode, int64_t size, int64_t low, int64_t high)
{
    nnl_tensor *t;
    if (s->status != NNL_OK) return NULL;
    int64_t count = size + low + high;
    nnl_status status = nnl_tensor_new(s->rt, NNL_I64, 1, &count, &t);
    if (status != NNL_OK) {
        nnl_scope_fail(s, status);
        return NULL;
    }
    for (int64_t i = 0; i < count; i++)
        ((int64_t *)(void *)t->data)[i] = source(mode, i - low, size) + s->index_base;
    return nnl_keep(s, t);
}

static nnl_status pad_infer(nnl_call *c) { return padded_shape(c, &c->attr[0], c->attr[1].as.i); }

static void pad_define(nnl_define *d)
{
    nnl_scope *s = d->s;
    nnl_tensor *x = d->in[0];
    const nnl_value *pads = &d->attr[0];
    int64_t mode = d->attr[1].as.i;
    if (mode == CONSTANT) {
        d->out[0] = DO_WITH(s, pad_constant, (*pads, d->attr[2]), x);
        return;
    }
    for (int i = x->ndim - 1; i >= 0 && s->status == NNL_OK; i--) {
        int64_t low = pad_of(pads, x->ndim, i, 0), high = pad_of(pads, x->ndim, i, 1);
        if (low == 0 && high == 0) continue;
        x = DO_WITH(s, index_select, (V_INT(i)), x, sources(s, mode, x->shape[i], low, high));
    }
    d->out[0] = s->status == NNL_OK && x == d->in[0] ? DO(s, clone, x) : x;
}

NNL_OP(pad,
    .sig = "input:any, pad:int*, mode:{constant|reflect|replicate|circular}=constant, value:num=0 -> same",
    .doc = "input with more positions before and behind dimensions: pad = {before, behind} of the last one, then of the one "
           "before it and so on; negative numbers cut off.  mode: what stands there, the value (constant), the input mirrored "
           "at its border (reflect), its border (replicate), its other end (circular).",
    .example = "nn.F.pad(nn.arange(4), {1, 2}, \"reflect\")",
    .infer = pad_infer,
    .define = pad_define,
    .sample = "input:3x4 pad={1,2} value=1.5; input:2x3x4 pad={1,-1,0,2}; input:2x3x4 pad={2,1,1,2} mode=\"reflect\"; "
              "input:2x3x4 pad={3,1,2,1} mode=\"replicate\"; input:2x3x4 pad={4,1,-1,3} mode=\"circular\"",
    .traits = NNL_NO_METHOD);
