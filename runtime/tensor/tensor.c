/* Making and dropping tensors and their storage. */
#include "tensor.h"

#include <string.h>

#define HEADER ((sizeof(nnl_storage) + 63) / 64 * 64)

/* Provided by engine/tape.c: lets go of node, base, grad and hooks. */
void nnl_tape_drop(nnl_tensor *t);

static nnl_status storage_new(nnl_runtime *rt, size_t bytes, bool hollow, nnl_storage **out)
{
    void *block;
    size_t block_size = HEADER + (hollow ? 0 : bytes);
    NNL_TRY(nnl_alloc(rt, block_size, &block));
    nnl_storage *storage = block;
    *storage = (nnl_storage){.refs = 1,
                             .bytes = bytes,
                             .data = (char *)block + HEADER,
                             .block_size = block_size,
                             .rt = rt,
                             .unset = rt->capturing ? rt->capture : 0,
                             .hollow = hollow};
    *out = storage;
    return NNL_OK;
}

nnl_status nnl_storage_new(nnl_runtime *rt, size_t bytes, nnl_storage **out)
{
    return storage_new(rt, bytes, false, out);
}

void nnl_storage_unref(nnl_storage *storage)
{
    if (--storage->refs > 0) return;
    if (storage->release) storage->release(storage->release_user, storage->data);
    nnl_free(storage->rt, storage, storage->block_size);
}

static nnl_status header_new(nnl_runtime *rt, nnl_dtype dtype, int ndim, const int64_t *shape,
                             nnl_tensor **out)
{
    void *block;
    NNL_TRY(nnl_alloc(rt, sizeof(nnl_tensor), &block));
    nnl_tensor *t = block;
    t->refs = 1;
    t->dtype = (uint8_t)dtype;
    t->ndim = (uint8_t)ndim;
    t->requires_grad = false;
    int64_t numel = 1;
    for (int d = 0; d < ndim; d++) numel *= (t->shape[d] = shape[d]);
    t->numel = numel;
    t->rt = rt;
    t->node = NULL;
    t->result = 0;
    t->history = 0;
    t->base = NULL;
    t->grad = NULL;
    t->hooks = NULL;
    rt->tensors++;
    *out = t;
    return NNL_OK;
}

static void header_free(nnl_tensor *t)
{
    t->rt->tensors--;
    nnl_free(t->rt, t, sizeof(nnl_tensor));
}

static nnl_status make(nnl_runtime *rt, const nnl_spec *spec, nnl_tensor *source, bool hollow,
                       nnl_tensor **out)
{
    nnl_tensor *t;
    NNL_TRY(header_new(rt, spec->dtype, spec->ndim, spec->shape, &t));
    if (spec->view) {
        memcpy(t->strides, spec->strides, sizeof(int64_t) * (size_t)spec->ndim);
        t->contiguous = nnl_is_contiguous(spec->ndim, spec->shape, spec->strides);
        t->storage = source->storage;
        t->storage->refs++;
        t->data = source->data + spec->offset * (int64_t)nnl_width(spec->dtype);
    } else {
        if (NNL_UNLIKELY(spec->channels_last || spec->ordered)) {
            if (spec->ordered)
                memcpy(t->strides, spec->strides, sizeof(int64_t) * (size_t)spec->ndim);
            else
                nnl_strides_channels_last(spec->ndim, t->shape, t->strides);
            t->contiguous = nnl_is_contiguous(spec->ndim, t->shape, t->strides);
        } else {
            nnl_strides_contiguous(spec->ndim, t->shape, t->strides);
            t->contiguous = true;
        }
        nnl_status status =
            storage_new(rt, (size_t)t->numel * nnl_width(spec->dtype), hollow, &t->storage);
        if (status != NNL_OK) {
            header_free(t);
            return status;
        }
        t->data = t->storage->data;
    }
    *out = t;
    return NNL_OK;
}

nnl_status nnl_tensor_make(nnl_runtime *rt, const nnl_spec *spec, nnl_tensor *source,
                           nnl_tensor **out)
{
    return make(rt, spec, source, false, out);
}

nnl_status nnl_tensor_make_hollow(nnl_runtime *rt, const nnl_spec *spec, nnl_tensor *source,
                                  nnl_tensor **out)
{
    return make(rt, spec, source, true, out);
}

/* What a host asks for: a place for the result, a type, a shape. */
static nnl_status check_wish(nnl_runtime *rt, nnl_dtype dtype, int ndim, const int64_t *shape,
                             nnl_tensor **out)
{
    if (!out) return NNL_FAIL(rt, NNL_EINVAL, "tensor: the place for the result is NULL");
    *out = NULL;
    if (!rt) return NNL_EINVAL;
    if ((unsigned)dtype >= NNL_DTYPES)
        return NNL_FAIL(rt, NNL_ETYPE, "tensor: type %d does not exist", (int)dtype);
    return nnl_shape_check(rt, "tensor", dtype, ndim, shape);
}

static nnl_status check_data(nnl_runtime *rt, int ndim, const int64_t *shape, const void *data)
{
    int64_t numel = nnl_shape_numel(ndim, shape);
    if (data || numel == 0) return NNL_OK;
    return NNL_FAIL(rt, NNL_EINVAL, "tensor: the address of its %lld elements is NULL",
                    (long long)numel);
}

nnl_status nnl_tensor_new(nnl_runtime *rt, nnl_dtype dtype, int ndim, const int64_t *shape,
                          nnl_tensor **out)
{
    NNL_TRY(check_wish(rt, dtype, ndim, shape, out));
    nnl_spec spec = {.dtype = dtype, .ndim = ndim};
    if (ndim > 0) memcpy(spec.shape, shape, sizeof(int64_t) * (size_t)ndim);
    return nnl_tensor_make(rt, &spec, NULL, out);
}

nnl_status nnl_tensor_zeros(nnl_runtime *rt, nnl_dtype dtype, int ndim, const int64_t *shape,
                            nnl_tensor **out)
{
    NNL_TRY(nnl_tensor_new(rt, dtype, ndim, shape, out));
    memset((*out)->data, 0, (*out)->storage->bytes);
    return NNL_OK;
}

nnl_status nnl_tensor_from(nnl_runtime *rt, nnl_dtype dtype, int ndim, const int64_t *shape,
                           const void *data, nnl_tensor **out)
{
    NNL_TRY(check_wish(rt, dtype, ndim, shape, out));
    NNL_TRY(check_data(rt, ndim, shape, data));
    NNL_TRY(nnl_tensor_new(rt, dtype, ndim, shape, out));
    if ((*out)->storage->bytes > 0) memcpy((*out)->data, data, (*out)->storage->bytes);
    return NNL_OK;
}

nnl_status nnl_tensor_wrap(nnl_runtime *rt, nnl_dtype dtype, int ndim, const int64_t *shape,
                           void *data, void (*release)(void *user, void *data), void *user,
                           nnl_tensor **out)
{
    NNL_TRY(check_wish(rt, dtype, ndim, shape, out));
    NNL_TRY(check_data(rt, ndim, shape, data));
    if ((uintptr_t)data % nnl_dtype_size(dtype) != 0)
        return NNL_FAIL(rt, NNL_EINVAL,
                        "tensor: the memory is not aligned to its elements of type %s",
                        nnl_dtype_name(dtype));
    nnl_tensor *t;
    NNL_TRY(header_new(rt, dtype, ndim, shape, &t));
    void *block;
    nnl_status status = nnl_alloc(rt, sizeof(nnl_storage), &block);
    if (status != NNL_OK) {
        header_free(t);
        return status;
    }
    nnl_strides_contiguous(ndim, t->shape, t->strides);
    t->contiguous = true;
    t->storage = block;
    *t->storage = (nnl_storage){.refs = 1,
                                .bytes = (size_t)t->numel * nnl_dtype_size(dtype),
                                .data = data,
                                .block_size = sizeof(nnl_storage),
                                .rt = rt,
                                .release = release,
                                .release_user = user};
    t->data = data;
    *out = t;
    return NNL_OK;
}

nnl_status nnl_tensor_alias(nnl_tensor *t, nnl_tensor **out)
{
    nnl_tensor *alias;
    NNL_TRY(header_new(t->rt, (nnl_dtype)t->dtype, t->ndim, t->shape, &alias));
    memcpy(alias->strides, t->strides, sizeof(int64_t) * t->ndim);
    alias->contiguous = t->contiguous;
    alias->storage = t->storage;
    alias->storage->refs++;
    alias->data = t->data;
    *out = alias;
    return NNL_OK;
}

nnl_status nnl_tensor_scalar(nnl_runtime *rt, nnl_dtype dtype, nnl_value number, nnl_tensor **out)
{
    nnl_spec spec = {.dtype = dtype};
    NNL_TRY(nnl_tensor_make(rt, &spec, NULL, out));
    void *data = (*out)->data;
    switch (dtype) {
    case NNL_BOOL:
        *(uint8_t *)data = number.kind == NNL_KIND_FLOAT ? number.as.f != 0 : number.as.i != 0;
        break;
    case NNL_U8: *(uint8_t *)data = (uint8_t)nnl_value_int(&number); break;
    case NNL_I32: *(int32_t *)data = (int32_t)nnl_value_int(&number); break;
    case NNL_I64: *(int64_t *)data = nnl_value_int(&number); break;
    case NNL_F32: *(float *)data = (float)nnl_value_double(&number); break;
    case NNL_F64: *(double *)data = nnl_value_double(&number); break;
    }
    return NNL_OK;
}

nnl_tensor *nnl_tensor_ref(nnl_tensor *t)
{
    t->refs++;
    return t;
}

void nnl_tensor_unref(nnl_tensor *t)
{
    if (!t || --t->refs > 0) return;
    nnl_storage_unref(t->storage);
    if (t->node || t->base || t->grad || t->hooks) nnl_tape_drop(t);
    header_free(t);
}

void nnl_tensor_touch(nnl_tensor *t) { t->storage->version++; }

nnl_runtime *nnl_tensor_runtime(const nnl_tensor *t) { return t->rt; }
nnl_dtype nnl_tensor_dtype(const nnl_tensor *t) { return (nnl_dtype)t->dtype; }
int nnl_tensor_ndim(const nnl_tensor *t) { return t->ndim; }
const int64_t *nnl_tensor_shape(const nnl_tensor *t) { return t->shape; }
const int64_t *nnl_tensor_strides(const nnl_tensor *t) { return t->strides; }
int64_t nnl_tensor_numel(const nnl_tensor *t) { return t->numel; }
bool nnl_tensor_is_contiguous(const nnl_tensor *t) { return t->contiguous; }

void *nnl_tensor_data(nnl_tensor *t)
{
    nnl_tensor_touch(t);
    return t->storage->hollow ? NULL : t->data;
}

const void *nnl_tensor_const_data(const nnl_tensor *t)
{
    return t->storage->hollow ? NULL : t->data;
}

nnl_status nnl_tensor_read(nnl_tensor *t, nnl_dtype dtype, void *buffer, size_t bytes)
{
    if (!t) return NNL_EINVAL;
    if ((unsigned)dtype >= NNL_DTYPES)
        return NNL_FAIL(t->rt, NNL_ETYPE, "read: type %d does not exist", (int)dtype);
    size_t need = (size_t)t->numel * nnl_dtype_size(dtype);
    if (bytes < need)
        return NNL_FAIL(t->rt, NNL_EINVAL,
                        "read: the buffer has %zu bytes, but the elements take %zu", bytes, need);
    if (!buffer && need > 0) return NNL_FAIL(t->rt, NNL_EINVAL, "read: the buffer is NULL");
    nnl_tensor *target;
    NNL_TRY(nnl_tensor_wrap(t->rt, dtype, t->ndim, t->shape, buffer, NULL, NULL, &target));
    nnl_fp_state fp;
    nnl_fp_enter(&fp); /* f64 to f32 rounds */
    nnl_status status = nnl_copy(target, t);
    nnl_fp_leave(&fp);
    nnl_tensor_unref(target);
    return status;
}

double nnl_element_double(const nnl_tensor *t, int64_t offset)
{
    switch ((nnl_dtype)t->dtype) {
    case NNL_F32: return ((const float *)t->data)[offset];
    case NNL_F64: return ((const double *)t->data)[offset];
    default: return (double)nnl_element_int(t, offset);
    }
}

int64_t nnl_element_int(const nnl_tensor *t, int64_t offset)
{
    switch ((nnl_dtype)t->dtype) {
    case NNL_BOOL:
    case NNL_U8: return ((const uint8_t *)t->data)[offset];
    case NNL_I32: return ((const int32_t *)t->data)[offset];
    case NNL_I64: return ((const int64_t *)t->data)[offset];
    default: return (int64_t)nnl_element_double(t, offset);
    }
}
