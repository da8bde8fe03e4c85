/* A matrix packed once as the right operand of many products, for runs that multiply by it inside
 * their tasks: multiplying allocates nothing and wakes no thread. */
#ifndef NNL_PANELS_H
#define NNL_PANELS_H

#include "../base/base.h"

typedef struct nnl_panels {
    const nnl_kernels *kernels;
    nnl_dtype dtype; /* F32 or F64 */
    int64_t depth, columns;
    char *data;
} nnl_panels;

/* Columns of one panel: where products may begin. */
int64_t nnl_panels_width(const nnl_runtime *rt, nnl_dtype dtype);
/* Bytes, a multiple of 64, that a packed matrix takes. */
size_t nnl_panels_bytes(const nnl_runtime *rt, nnl_dtype dtype, int64_t depth, int64_t columns);
/* Packs w into memory of that size: depth x columns, or stored columns x depth if transposed, rows
 * ldw elements apart. */
nnl_panels nnl_panels_pack(nnl_runtime *rt, nnl_dtype dtype, void *memory, const void *w,
                           int64_t ldw, bool transposed, int64_t depth, int64_t columns);
/* c = a w + bias or, with `add`, c + a w + bias, of w's columns first .. first + count - 1; first
 * is a multiple of the width.  a: rows x depth, c: rows x count, bias: count values or NULL.  An
 * element's bits depend on its row of a and its column of w alone. */
void nnl_panels_multiply(const nnl_panels *w, int64_t rows, const void *a, int64_t lda,
                         int64_t first, int64_t count, void *c, int64_t ldc, bool add,
                         const void *bias);

#endif
