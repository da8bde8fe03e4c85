/* Shapes and strides. */
#include "tensor.h"

#include <string.h>

int64_t nnl_shape_numel(int ndim, const int64_t *shape)
{
    int64_t numel = 1;
    for (int d = 0; d < ndim; d++) numel *= shape[d];
    return numel;
}

nnl_status nnl_shape_check(nnl_runtime *rt, const char *who, nnl_dtype dtype, int ndim,
                           const int64_t *shape)
{
    if (ndim < 0 || ndim > NNL_MAX_DIMS)
        return NNL_FAIL(rt, NNL_ESHAPE, "%s: %d dimensions, but at most %d are possible", who, ndim,
                        NNL_MAX_DIMS);
    if (ndim > 0 && !shape)
        return NNL_FAIL(rt, NNL_EINVAL, "%s: %d dimensions, but the shape is NULL", who, ndim);
    /* Strides of empty tensors are computed too, so that the product skips sizes of 0. */
    int64_t bytes = (int64_t)nnl_dtype_size(dtype);
    for (int d = 0; d < ndim; d++) {
        if (shape[d] < 0)
            return NNL_FAIL(rt, NNL_ESHAPE, "%s: size %lld is negative", who, (long long)shape[d]);
        if (shape[d] > 0 && !nnl_mul_size(bytes, shape[d], &bytes)) {
            char text[NNL_SHAPE_TEXT];
            return NNL_FAIL(rt, NNL_ENOMEM, "%s: a %s tensor of %s is too large", who,
                            nnl_dtype_name(dtype), nnl_shape_text(text, ndim, shape));
        }
    }
    return NNL_OK;
}

void nnl_strides_contiguous(int ndim, const int64_t *shape, int64_t *strides)
{
    int64_t step = 1;
    for (int d = ndim - 1; d >= 0; d--) {
        strides[d] = step;
        if (shape[d] > 1) step *= shape[d];
    }
}

bool nnl_is_contiguous(int ndim, const int64_t *shape, const int64_t *strides)
{
    int64_t step = 1;
    for (int d = ndim - 1; d >= 0; d--) {
        if (shape[d] == 0) return true;
        if (shape[d] != 1 && strides[d] != step) {
            for (int e = 0; e < d; e++) {
                if (shape[e] == 0) return true;
            }
            return false;
        }
        step *= shape[d];
    }
    return true;
}

void nnl_strides_channels_last(int ndim, const int64_t *shape, int64_t *strides)
{
    strides[1] = 1;
    int64_t step = NNL_MAX(shape[1], 1);
    for (int d = ndim - 1; d >= 0; d--) {
        if (d == 1) continue;
        strides[d] = step;
        if (shape[d] > 1) step *= shape[d];
    }
}

bool nnl_is_channels_last(const nnl_tensor *t)
{
    if (t->ndim < 3 || t->contiguous) return false;
    int64_t strides[NNL_MAX_DIMS];
    nnl_strides_channels_last(t->ndim, t->shape, strides);
    for (int d = 0; d < t->ndim; d++) {
        if (t->shape[d] != 1 && t->strides[d] != strides[d]) return false;
    }
    return true;
}

void nnl_strides_like(int ndim, const int64_t *shape, const nnl_tensor *t, int64_t *strides)
{
    int64_t step[NNL_MAX_DIMS], widest = 0; /* in t's memory */
    int missing = ndim - t->ndim;
    for (int d = ndim - 1; d >= 0; d--) {
        bool told = d >= missing && t->shape[d - missing] > 1 && t->strides[d - missing] != 0;
        step[d] = told ? t->strides[d - missing] : widest;
        widest = NNL_MAX(widest, step[d]);
    }
    for (int d = 0; d < ndim; d++) {
        strides[d] = 1;
        for (int e = 0; e < ndim; e++) {
            bool inside = step[e] < step[d] || (step[e] == step[d] && e > d);
            if (inside && shape[e] > 1) strides[d] *= shape[e];
        }
    }
}

bool nnl_broadcast(int *ndim, int64_t *shape, int b_ndim, const int64_t *b_shape)
{
    if (b_ndim > *ndim) {
        int extra = b_ndim - *ndim;
        memmove(shape + extra, shape, sizeof(int64_t) * (size_t)*ndim);
        for (int d = 0; d < extra; d++) shape[d] = 1;
        *ndim = b_ndim;
    }
    int64_t *tail = shape + (*ndim - b_ndim);
    for (int d = 0; d < b_ndim; d++) {
        if (tail[d] == b_shape[d] || b_shape[d] == 1) continue;
        if (tail[d] != 1) return false;
        tail[d] = b_shape[d];
    }
    return true;
}

const char *nnl_shape_text(char buffer[NNL_SHAPE_TEXT], int ndim, const int64_t *shape)
{
    if (ndim == 0) {
        nnl_format(buffer, NNL_SHAPE_TEXT, "0-d");
        return buffer;
    }
    size_t length = 0;
    for (int d = 0; d < ndim && length < NNL_SHAPE_TEXT; d++)
        length += (size_t)nnl_format(buffer + length, NNL_SHAPE_TEXT - length, d ? "x%lld" : "%lld",
                                     (long long)shape[d]);
    return buffer;
}

bool nnl_reshape_strides(int ndim, const int64_t *shape, const int64_t *strides, int new_ndim,
                         const int64_t *new_shape, int64_t *new_strides)
{
    if (nnl_is_contiguous(ndim, shape, strides)) {
        nnl_strides_contiguous(new_ndim, new_shape, new_strides);
        return true;
    }
    /* Groups of old dimensions that lie one behind the other are matched with groups of new ones.
     */
    int o = 0, n = 0;
    while (o < ndim || n < new_ndim) {
        int o_end = o, n_end = n;
        int64_t old_size = 1, new_size = 1;
        do {
            if (old_size <= new_size && o_end < ndim)
                old_size *= shape[o_end++];
            else if (n_end < new_ndim)
                new_size *= new_shape[n_end++];
            else
                old_size *= shape[o_end++];
        } while (old_size != new_size);
        while (o_end < ndim && shape[o_end] == 1) o_end++;
        while (n_end < new_ndim && new_shape[n_end] == 1) n_end++;

        int64_t step = 1, size = 1;
        bool first = true;
        for (int d = o_end - 1; d >= o; d--) {
            if (shape[d] == 1) continue;
            if (first)
                step = strides[d];
            else if (strides[d] != step * size)
                return false;
            first = false;
            size *= shape[d];
        }
        for (int d = n_end - 1; d >= n; d--) {
            new_strides[d] = step;
            step *= new_shape[d];
        }
        o = o_end;
        n = n_end;
    }
    return true;
}
