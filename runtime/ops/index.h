/* Positions read from tensor data, and rows added to rows by them (index_walk.c). */
#ifndef NNL_INDEX_H
#define NNL_INDEX_H

#include "op.h"

/* Byte distances to be added to an address: contiguous, of a shape of its own.  The block is the
 * reader's. */
typedef struct nnl_offsets {
    int64_t *at;
    int64_t count;
    size_t bytes;
} nnl_offsets;

/* The elements of input `place` as positions of a dimension (dim < 0: of the flattened tensor) of
 * this size, counted from the call's index_base, negative ones from the end, times scale.  All are
 * checked before anything else happens: NNL_EINDEX names the first that is out of range. */
nnl_status nnl_offsets_read(nnl_call *c, int place, int dim, int64_t size, int64_t scale,
                            nnl_offsets *out);
void nnl_offsets_free(nnl_runtime *rt, nnl_offsets *offsets);

/* out[row of k] += in[k] for k in [0, n), always in this order for each row: out rows x length and
 * in n x length are contiguous; a negative row is left out. */
nnl_status nnl_add_rows(nnl_runtime *rt, nnl_dtype dtype, char *out, int64_t rows, const char *in,
                        const int64_t *row, int64_t n, int64_t length);

#endif
