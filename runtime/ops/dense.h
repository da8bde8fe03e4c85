/* Dense copies, for runs whose kernels want elements side by side. */
#ifndef NNL_DENSE_H
#define NNL_DENSE_H

#include "../tensor/tensor.h"

/* t itself, as a new reference, or a copy that is contiguous. */
static inline nnl_status nnl_dense(nnl_tensor *t, nnl_tensor **out)
{
    nnl_spec spec = {.dtype = (nnl_dtype)t->dtype, .ndim = t->ndim};
    if (t->contiguous) {
        *out = nnl_tensor_ref(t);
        return NNL_OK;
    }
    for (int d = 0; d < t->ndim; d++) spec.shape[d] = t->shape[d];
    *out = NULL;
    nnl_tensor *made;
    NNL_TRY(nnl_tensor_make(t->rt, &spec, NULL, &made));
    nnl_status status = nnl_copy(made, t);
    if (status == NNL_OK) *out = made;
    else nnl_tensor_unref(made);
    return status;
}

#endif
