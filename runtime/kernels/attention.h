/* A block of attention's scores, between the two matrix products. */
#ifndef NNL_KERNELS_ATTENTION_H
#define NNL_KERNELS_ATTENTION_H

#include <stdint.h>

typedef struct nnl_scores {
    int64_t rows, columns, step; /* rows step elements apart */
    int64_t seen;                /* row r counts in its columns 0 .. seen + r only; the others have weight 0 */
    const void *bias;            /* added to the scores, or NULL */
    int64_t bias_step;           /* between its rows; 0: one for all */
} nnl_scores;

#endif
