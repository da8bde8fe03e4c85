/* Dense operands, for runs whose kernels want elements side by side. */
#ifndef NNL_DENSE_H
#define NNL_DENSE_H

#include "../tensor/tensor.h"

/* t itself, as a new reference, or a copy that is contiguous; *out is NULL after a failure. */
static inline nnl_status nnl_dense(nnl_tensor *t, nnl_tensor **out)
{
    if (!t->contiguous) return nnl_copy_new(t, out);
    *out = nnl_tensor_ref(t);
    return NNL_OK;
}

#endif
