/* Reduction over a set of dimensions, for the files that need one: reduce.c, loss.c. */
#ifndef NNL_OPS_REDUCE_H
#define NNL_OPS_REDUCE_H

#include "op.h"

/* Fills result `place` of an op over the dimensions in dims: the shape that is left, of the given
 * type. */
void nnl_reduce_spec(nnl_call *c, int place, nnl_dtype dtype, const nnl_value *dims, bool keepdim);

/* What is done with an accumulator a to make a result. */
typedef enum nnl_reduce_end {
    NNL_END_PLAIN, /* a */
    NNL_END_SCALE, /* s a */
    NNL_END_ROOT   /* sqrt(s a) */
} nnl_reduce_end;

/* out = end(accumulation of kind over dims of x), converted to out's type.  out is contiguous. */
nnl_status nnl_reduce(nnl_runtime *rt, nnl_reduce_kind kind, nnl_tensor *x, const nnl_value *dims,
                      nnl_reduce_end end, double scale, nnl_tensor *out);

/* For nnl_op.ready of an op that is nnl_reduce() of its input 0 into its result. */
nnl_status nnl_reduce_ready(nnl_ready *r, nnl_reduce_kind kind, const nnl_value *dims,
                            nnl_reduce_end end, double scale);

/* The same in two steps.  Accumulators are f64 for float x, else i64; one for each result, in
 * order. */
typedef struct nnl_accumulators {
    void *data;
    int64_t count;
    size_t bytes; /* of a block of their own */
    double few[256];
} nnl_accumulators;
/* parameter, of the kinds that have one: for each result (each) or for all; NULL for the others. */
nnl_status nnl_reduce_accumulate(nnl_runtime *rt, nnl_reduce_kind kind, nnl_tensor *x,
                                 const bool *reduced, const double *parameter, bool each,
                                 nnl_accumulators *acc);
void nnl_accumulators_store(nnl_runtime *rt, nnl_accumulators *acc, bool is_float,
                            nnl_reduce_end end, double scale, nnl_tensor *out);
/* Where each result stands (the first place, or the first NaN): along the one reduced dimension, or
 * among all elements in row-major order when every dimension is.  places is i64 and contiguous, and
 * counts from base. */
nnl_status nnl_reduce_find(nnl_runtime *rt, nnl_tensor *x, const bool *reduced,
                           const nnl_accumulators *acc, int base, nnl_tensor *places);
void nnl_accumulators_free(nnl_runtime *rt, nnl_accumulators *acc);

/* How many elements of x make one result. */
int64_t nnl_reduce_count(int ndim, const int64_t *shape, const nnl_value *dims);

#endif
