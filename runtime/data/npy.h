/* NumPy's .npy files, versions 1 to 3: a magic, a header that is the text of a Python dictionary
 * (parsed here, never executed), and the elements. */
#ifndef NNL_NPY_H
#define NNL_NPY_H

#include "../tensor/tensor.h"

/* Reads a file into a new contiguous tensor: b1, u1, i4, i8, f4 and f8 as themselves; i1, i2 and u2
 * as i32, u4 as i64, f2 as f32, which hold all their values; either byte order; C and Fortran
 * order.  NNL_EIO; NNL_EFORMAT with the place; NNL_EUNSUPPORTED names another type.  On failure
 * *out is NULL. */
nnl_status nnl_npy_load(nnl_runtime *rt, const char *path, nnl_tensor **out);
/* The same from bytes in memory; `name` stands for the path in messages. */
nnl_status nnl_npy_read_memory(nnl_runtime *rt, const char *name, const void *bytes, size_t size,
                               nnl_tensor **out);

/* Writes version 1.0, in C order and little-endian, whole or not at all (base/file.h). */
nnl_status nnl_npy_save(nnl_runtime *rt, const char *path, nnl_tensor *t);

#endif
