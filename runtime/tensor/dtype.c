/* Element types: names and sizes. */
#include "tensor.h"

#include <string.h>

static const struct {
    const char *name;
    size_t size;
} types[NNL_DTYPES] = {
    [NNL_BOOL] = {"bool", 1}, [NNL_U8] = {"u8", 1},   [NNL_I32] = {"i32", 4},
    [NNL_I64] = {"i64", 8},   [NNL_F32] = {"f32", 4}, [NNL_F64] = {"f64", 8},
};

const char *nnl_dtype_name(nnl_dtype dtype)
{
    return (unsigned)dtype < NNL_DTYPES ? types[dtype].name : "unknown type";
}

size_t nnl_dtype_size(nnl_dtype dtype)
{
    return (unsigned)dtype < NNL_DTYPES ? types[dtype].size : 0;
}

nnl_status nnl_dtype_parse(const char *name, nnl_dtype *out)
{
    for (int i = 0; i < NNL_DTYPES; i++) {
        if (strcmp(name, types[i].name) == 0) {
            *out = (nnl_dtype)i;
            return NNL_OK;
        }
    }
    return NNL_EINVAL;
}
