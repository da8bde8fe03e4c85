/* Batches of rows, made ahead of their use by threads of their own. */
#ifndef NNL_PREFETCH_H
#define NNL_PREFETCH_H

#include "../tensor/tensor.h"

#define NNL_PREFETCH_COLUMNS 16

/* A tensor whose rows (dimension 0) batches are made of: contiguous, and not changed meanwhile. */
typedef struct nnl_prefetch_column {
    nnl_tensor *rows;
    bool scaled; /* batches are f32, divided by scale; else of the rows' type */
    float scale;
} nnl_prefetch_column;

typedef struct nnl_prefetch nnl_prefetch;

/* `batches` batches of `size` rows (the last one may be shorter) of the columns, which have `count`
 * rows; order: i64, the places from 1 of the rows, or NULL: as they stand.  Keeps references to the
 * tensors.  Where threads cannot be had, or the runtime's take all processors, nnl_prefetch_next()
 * makes the batches.  NNL_EINVAL: a place is out of range. */
nnl_status nnl_prefetch_new(nnl_runtime *rt, const nnl_prefetch_column *columns, int n_columns,
                            const nnl_tensor *order, int64_t size, int64_t batches, int workers,
                            nnl_prefetch **out);
/* The next batch: a new tensor for each column.  *more is false, and there are none, behind the
 * last.  All memory is taken here, in the owner's thread; a failure leaves the batch for the next
 * call. */
nnl_status nnl_prefetch_next(nnl_prefetch *p, nnl_tensor **out, bool *more);
/* Waits for the batches that are being made. */
void nnl_prefetch_free(nnl_prefetch *p);

#endif
