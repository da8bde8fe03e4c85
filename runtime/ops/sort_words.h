/* Sorting elements of at most 4 bytes: key and place together are a word of 8 bytes, and words are
 * all different. */
#ifndef NNL_SORT_WORDS_H
#define NNL_SORT_WORDS_H

#include "op.h"

static inline bool nnl_words_fit(nnl_dtype dtype, int64_t n)
{
    return nnl_dtype_size(dtype) <= 4 && n <= UINT32_MAX;
}

/* The key that all NaN have. */
#define NNL_WORDS_NAN UINT32_MAX

static inline uint32_t nnl_words_key(uint64_t word) { return (uint32_t)(word >> 32); }
static inline int64_t nnl_words_place(uint64_t word) { return (uint32_t)word; }

/* The first k of n elements, step bytes apart, in their order: a[0 .. k), where a has room for 2 n.
 * flip, all ones, turns the order round and leaves ties as they are.  It stops halfway when the
 * call is cancelled; the caller then must not read the words. */
void nnl_words_order(const nnl_runtime *rt, nnl_dtype dtype, const char *x, int64_t step, int64_t n,
                     uint32_t flip, uint64_t *a, int64_t k);

#endif
