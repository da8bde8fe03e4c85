/* Safetensors files (https://github.com/huggingface/safetensors): named tensors and a map of
 * strings.
 *
 *     8 bytes   length N of the header, little-endian
 *     N bytes   JSON: {"__metadata__": {"key": "text"}, "name": {"dtype": "F32", "shape": [2, 3],
 *               "data_offsets": [0, 24]}}, perhaps padded with spaces
 *     the rest  the tensors' elements, row-major, little-endian, without gaps or overlaps
 *
 * A file is data from outside: every size in it is checked before anything is made from it. */
#ifndef NNL_SAFETENSORS_H
#define NNL_SAFETENSORS_H

#include "../tensor/tensor.h"

#define NNL_SAFETENSORS_MAX_HEADER 100000000

typedef struct nnl_named_tensor {
    const char *name; /* UTF-8; a 0 stands behind it, and may stand in it */
    size_t name_length;
    nnl_tensor *tensor;
} nnl_named_tensor;

typedef struct nnl_text_pair {
    const char *key, *value; /* UTF-8, as above */
    size_t key_length, value_length;
} nnl_text_pair;

typedef struct nnl_tensor_file {
    nnl_runtime *rt;
    int64_t count, meta_count;
    nnl_named_tensor *tensors; /* in the header's order; the file holds the references */
    nnl_text_pair *meta;       /* in the header's order */
    /* what it stands on */
    char *strings;
    size_t strings_size;
    int64_t tensors_room, meta_room;
} nnl_tensor_file;

/* Loads a file.  Its tensors show the mapped file, copied on the first write to a page, and keep
 * the mapping alive; tensors that do not lie aligned in the file are copied.  `copy`: all of them
 * are copied, and the file may then be changed in place by others.  NNL_EIO; NNL_EFORMAT with the
 * byte where the file is wrong; NNL_EUNSUPPORTED names a tensor of another type than bool, u8, i32,
 * i64, f32, f64.  On failure *out is NULL. */
nnl_status nnl_safetensors_load(nnl_runtime *rt, const char *path, bool copy,
                                nnl_tensor_file **out);
/* The same from bytes in memory, which are copied; `name` stands for the path in messages. */
nnl_status nnl_safetensors_read_memory(nnl_runtime *rt, const char *name, const void *bytes,
                                       size_t size, nnl_tensor_file **out);
/* Tensors that are referenced elsewhere live on; NULL is allowed. */
void nnl_tensor_file_free(nnl_tensor_file *file);

/* Writes a file, whole or not at all (base/file.h).  The order of the arguments does not matter to
 * the bytes: tensors are written by size of element, then by name, and so are aligned; the data
 * begin at a multiple of 64.  NNL_EINVAL: a name twice, "__metadata__" as a name, text that is not
 * UTF-8. */
nnl_status nnl_safetensors_save(nnl_runtime *rt, const char *path, const nnl_named_tensor *tensors,
                                int64_t count, const nnl_text_pair *meta, int64_t meta_count);

#endif
