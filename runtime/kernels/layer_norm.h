/* Rows that are normalised one by one: layer, group and root mean square normalisation. */
#ifndef NNL_KERNELS_LAYER_NORM_H
#define NNL_KERNELS_LAYER_NORM_H

#include <stdbool.h>
#include <stdint.h>

typedef struct nnl_norm {
    int64_t channels, inner; /* a row: channels x inner elements, a scale and a shift for each channel */
    int64_t groups;          /* row r begins with channel r % groups * channels */
    bool center;             /* else the mean counts as 0 */
    double eps;
    const void *weight, *bias; /* groups x channels; NULL: 1, 0 */
} nnl_norm;

#endif
