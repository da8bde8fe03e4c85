/* Tensors of batch x channels x places as pooling and normalisation walk them. */
#include "image.h"

bool nnl_lies_channels_last(const nnl_tensor *t)
{
    if (t->ndim < 2 || !t->contiguous) return nnl_is_channels_last(t);
    for (int d = 2; d < t->ndim; d++) {
        if (t->shape[d] != 1) return false;
    }
    return true;
}

nnl_status nnl_image_laid(nnl_tensor *t, bool channels_last, nnl_tensor **out)
{
    if (channels_last ? nnl_lies_channels_last(t) : t->contiguous) {
        *out = nnl_tensor_ref(t);
        return NNL_OK;
    }
    nnl_spec spec;
    nnl_spec_like(&spec, t);
    spec.channels_last = channels_last;
    return nnl_copy_as(&spec, t, out);
}
