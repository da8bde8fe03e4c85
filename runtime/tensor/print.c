/* Tensors as text. */
#include "tensor.h"

size_t nnl_tensor_print(const nnl_tensor *t, char *buffer, size_t size)
{
    char shape[NNL_SHAPE_TEXT];
    return (size_t)nnl_format(buffer, size, "tensor %s %s", nnl_dtype_name((nnl_dtype)t->dtype), nnl_shape_text(shape, t->ndim, t->shape));
}
