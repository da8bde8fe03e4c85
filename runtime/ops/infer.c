/* Common shape inference, and what calls say of themselves in messages. */
#include "op.h"

#include <stdarg.h>
#include <string.h>

nnl_status nnl_call_fail(nnl_call *c, nnl_status status, const char *format, ...)
{
    char text[NNL_MESSAGE_SIZE];
    va_list list;
    va_start(list, format);
    nnl_format_list(text, sizeof text, format, list);
    va_end(list);
    return NNL_FAIL(c->rt, status, "%s%s: %s", c->op->name, c->inplace ? "_" : "", text);
}

nnl_status nnl_call_needs_values(nnl_call *c)
{
    if (NNL_LIKELY(!c->rt->capturing)) return NNL_OK;
    return nnl_call_fail(c, NNL_ESTATE,
                         "the result's size depends on values, which a captured function does not "
                         "have; use where or masked_fill, "
                         "or compile with {fallback = true}");
}

const char *nnl_call_input_text(nnl_call *c, int place, char buffer[NNL_NAMED_TEXT])
{
    char shape[NNL_SHAPE_TEXT];
    const nnl_tensor *t = c->in[place];
    const char *name = NULL;
    int number = 0;
    for (int p = 0; p < c->sig->tensors && !name; p++) {
        int first = c->sig->list_input ? c->start[p] : p,
            end = c->sig->list_input ? c->start[p + 1] : p + 1;
        if (place < first || place >= end) continue;
        name = c->sig->tensor[p]->name;
        number = c->sig->tensor[p]->list ? place - first + 1 : 0;
    }
    nnl_shape_text(shape, t->ndim, t->shape);
    if (number)
        nnl_format(buffer, NNL_NAMED_TEXT, "%s %d (%s)", name, number, shape);
    else
        nnl_format(buffer, NNL_NAMED_TEXT, "%s (%s)", name ? name : "input", shape);
    return buffer;
}

const char *nnl_place_text(char text[NNL_PLACE_TEXT], const nnl_tensor *t, int64_t i, int base)
{
    int64_t place[NNL_MAX_DIMS];
    size_t size = NNL_PLACE_TEXT;
    text[0] = 0;
    if (t->ndim == 0) return text;
    for (int d = t->ndim - 1; d >= 0; d--) {
        place[d] = i % t->shape[d] + base;
        i /= t->shape[d];
    }
    size_t length =
        (size_t)nnl_format(text, size, t->ndim == 1 ? " at position " : " at position {");
    for (int d = 0; d < t->ndim && length < size; d++)
        length += (size_t)nnl_format(text + length, size - length, d ? ", %lld" : "%lld",
                                     (long long)place[d]);
    if (t->ndim > 1 && length < size) nnl_format(text + length, size - length, "}");
    return text;
}

void nnl_spec_set(nnl_spec *spec, nnl_dtype dtype, int ndim, const int64_t *shape)
{
    spec->dtype = dtype;
    spec->ndim = ndim;
    for (int d = 0; d < ndim; d++) spec->shape[d] = shape[d];
    nnl_spec_plain(spec);
}

nnl_status nnl_call_wrong_ndim(nnl_call *c, int place, int wanted)
{
    char text[NNL_NAMED_TEXT];
    return nnl_call_fail(c, NNL_ESHAPE, "%s must have %d dimension%s",
                         nnl_call_input_text(c, place, text), wanted, wanted == 1 ? "" : "s");
}

nnl_status nnl_call_make(nnl_call *c, int i, nnl_dtype dtype, int ndim, const int64_t *shape)
{
    NNL_TRY(nnl_shape_check(c->rt, c->op->name, dtype, ndim, shape));
    nnl_spec_set(&c->spec[i], dtype, ndim, shape);
    return nnl_tensor_make(c->rt, &c->spec[i], NULL, &c->out[i]);
}

void nnl_spec_like(nnl_spec *spec, const nnl_tensor *t)
{
    nnl_spec_set(spec, (nnl_dtype)t->dtype, t->ndim, t->shape);
}

void nnl_spec_view(nnl_spec *spec, const int64_t *strides, int64_t offset)
{
    spec->view = true;
    spec->offset = offset;
    for (int d = 0; d < spec->ndim; d++) spec->strides[d] = strides[d];
}

void nnl_spec_laid_like(nnl_spec *spec, const nnl_tensor *t)
{
    spec->ordered = true;
    nnl_strides_like(spec->ndim, spec->shape, t, spec->strides);
}

/* An elementwise result lies as the images lie that it is made from; other runs expect contiguous
 * ones. */
static bool keeps_channels_last(const nnl_call *c, const nnl_tensor *t)
{
    return c->op->traits & NNL_ELEMENTWISE && nnl_is_channels_last(t);
}

nnl_status nnl_infer_same(nnl_call *c)
{
    nnl_spec_like(&c->spec[0], c->in[0]);
    c->spec[0].channels_last = keeps_channels_last(c, c->in[0]);
    return NNL_OK;
}

static nnl_status broadcast_all(nnl_call *c)
{
    nnl_spec *spec = &c->spec[0];
    nnl_spec_like(spec, c->in[0]);
    for (int i = 1; i < c->n_in; i++) {
        const nnl_tensor *t = c->in[i];
        if (!t || nnl_same_shape(t, c->in[0]) ||
            nnl_broadcast(&spec->ndim, spec->shape, t->ndim, t->shape))
            continue;
        char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
        return nnl_call_fail(
            c, NNL_ESHAPE,
            "%s and %s do not broadcast: sizes must be equal or 1, from the last dimension on",
            nnl_call_input_text(c, 0, a), nnl_call_input_text(c, i, b));
    }
    for (int i = 0; i < c->n_in && !spec->channels_last; i++) {
        const nnl_tensor *t = c->in[i];
        spec->channels_last = t && !t->contiguous &&
                              t->numel == nnl_shape_numel(spec->ndim, spec->shape) &&
                              t->ndim == spec->ndim && keeps_channels_last(c, t);
    }
    return NNL_OK;
}

nnl_status nnl_infer_broadcast(nnl_call *c)
{
    NNL_TRY(broadcast_all(c));
    /* `where` and `masked` begin with a bool input that does not set the type. */
    c->spec[0].dtype = (nnl_dtype)c->in[c->n_in - 1]->dtype;
    return NNL_OK;
}

nnl_status nnl_infer_number(nnl_call *c)
{
    if (c->in[0]->dtype == NNL_BOOL)
        return nnl_call_fail(
            c, NNL_ETYPE,
            "%s must be a number type when all inputs are bool; convert it with :to(\"i64\")",
            c->sig->tensor[0]->name);
    return nnl_infer_broadcast(c);
}

nnl_status nnl_infer_compare(nnl_call *c)
{
    NNL_TRY(broadcast_all(c));
    c->spec[0].dtype = NNL_BOOL;
    return NNL_OK;
}

nnl_status nnl_call_position(nnl_call *c, const char *what, int64_t position, int dim, int64_t size,
                             int64_t *out)
{
    int64_t place = position < 0 ? position + size : position;
    if (place < 0 || place >= size) {
        int base = c->index_base;
        int64_t shown = position < 0 ? position : position + base;
        if (size == 0)
            return nnl_call_fail(c, NNL_EINDEX, "%s is %lld, but dimension %d is empty", what,
                                 (long long)shown, dim + base);
        return nnl_call_fail(
            c, NNL_EINDEX, "%s is %lld, but dimension %d has positions %d to %lld (or -%lld to -1)",
            what, (long long)shown, dim + base, base, (long long)(size - 1 + base),
            (long long)size);
    }
    *out = place;
    return NNL_OK;
}

void nnl_dim_flags(const nnl_value *dims, int ndim, bool flags[NNL_MAX_DIMS])
{
    bool all = !nnl_given(dims) || (dims->kind == NNL_KIND_INTS && dims->count == 0);
    for (int d = 0; d < ndim; d++) flags[d] = all;
    if (dims->kind == NNL_KIND_INT) flags[dims->as.i] = true;
    if (dims->kind == NNL_KIND_INTS)
        for (int i = 0; i < dims->count; i++) flags[dims->as.ints[i]] = true;
}
