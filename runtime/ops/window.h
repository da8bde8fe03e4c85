/* Looks at a tensor made on the stack: headers without references, for runs that copy to and from a
 * part of a tensor or walk it with other strides.  They must not outlive the tensor nor be handed
 * on. */
#ifndef NNL_WINDOW_H
#define NNL_WINDOW_H

#include "../tensor/tensor.h"

/* t's storage with another shape; data is its first element, strides count elements. */
static inline nnl_tensor nnl_window(const nnl_tensor *t, char *data, int ndim, const int64_t *shape,
                                    const int64_t *strides)
{
    nnl_tensor w = {.refs = 1,
                    .dtype = t->dtype,
                    .ndim = (uint8_t)ndim,
                    .numel = 1,
                    .data = data,
                    .storage = t->storage,
                    .rt = t->rt};
    for (int d = 0; d < ndim; d++) {
        w.numel *= shape[d];
        w.shape[d] = shape[d];
        w.strides[d] = strides[d];
    }
    w.contiguous = nnl_is_contiguous(ndim, w.shape, w.strides);
    return w;
}

/* Positions first .. first + count - 1 of a dimension. */
static inline nnl_tensor nnl_window_part(const nnl_tensor *t, int dim, int64_t first, int64_t count)
{
    nnl_tensor w = *t;
    w.shape[dim] = count;
    w.numel = nnl_shape_numel(w.ndim, w.shape);
    w.data += first * t->strides[dim] * (int64_t)nnl_dtype_size((nnl_dtype)t->dtype);
    w.contiguous = nnl_is_contiguous(w.ndim, w.shape, w.strides);
    return w;
}

/* One position of a dimension, which goes. */
static inline nnl_tensor nnl_window_select(const nnl_tensor *t, int dim, int64_t position)
{
    nnl_tensor w = nnl_window_part(t, dim, position, 1);
    w.ndim--;
    for (int d = dim; d < w.ndim; d++) {
        w.shape[d] = w.shape[d + 1];
        w.strides[d] = w.strides[d + 1];
    }
    return w;
}

#endif
