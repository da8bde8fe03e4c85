/* IDX files, the form of MNIST and its relatives: 2 zero bytes, a type, the number of dimensions,
 * the sizes and the elements, all big-endian; plain or compressed by gzip. */
#ifndef NNL_IDX_H
#define NNL_IDX_H

#include "../tensor/tensor.h"

/* Reads a file into a new tensor: u8 as u8; i8, i16 and i32 as i32; f32 and f64 as themselves.  The
 * values stay as they are.  NNL_EIO; NNL_EFORMAT with the place; NNL_EUNSUPPORTED: gzip in a build
 * without zlib.  On failure *out is NULL. */
nnl_status nnl_idx_load(nnl_runtime *rt, const char *path, nnl_tensor **out);
/* The same from bytes in memory; `name` stands for the path in messages. */
nnl_status nnl_idx_read_memory(nnl_runtime *rt, const char *name, const void *bytes, size_t size,
                               nnl_tensor **out);

#endif
