/* Random numbers for ops: functions of the seed, the call's number and the element, whoever
 * computes them. */
#ifndef NNL_RANDOM_H
#define NNL_RANDOM_H

#include "op.h"

/* Where a call's numbers come from. */
typedef struct nnl_stream {
    const nnl_kernels *kernels;
    uint64_t seed, call;
} nnl_stream;

static inline nnl_stream nnl_stream_of(const nnl_runtime *rt, uint64_t call)
{
    return (nnl_stream){rt->kernels, rt->seed, call};
}

/* Words first .. first + n - 1 of the call: word w is Philox(key = seed, counter = {w / 4, call})
 * word w % 4. */
void nnl_random_words(const nnl_stream *stream, int64_t first, int64_t n, uint32_t *out);
/* Elements first .. first + n - 1, uniform in [low, low + range): f32 in steps of 2^-24 from one
 * word each, f64 in steps of 2^-53 from words 2e and 2e + 1. */
void nnl_random_uniform_f32(const nnl_stream *stream, int64_t first, int64_t n, double low,
                            double range, float *out);
void nnl_random_uniform_f64(const nnl_stream *stream, int64_t first, int64_t n, double low,
                            double range, double *out);
/* 64 bits of words 2e and 2e + 1 as an integer in [0, bound); bound 0 stands for 2^64. */
uint64_t nnl_random_below(uint64_t bits, uint64_t bound);

#endif
