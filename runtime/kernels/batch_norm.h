/* Normalisation channel by channel as its loops see it. */
#ifndef NNL_KERNELS_BATCH_NORM_H
#define NNL_KERNELS_BATCH_NORM_H

#include <stdbool.h>

/* One element a channel each, of the type of the images.  Forward: y = (x - center) scale + shift, and with relu the
 * positive part of that.  Backward: dx = scale dy + (slope (x - center) + rest), or scale dy where slope is NULL; with
 * relu, dy counts only where y is above 0. */
typedef struct nnl_batch_norm {
    const void *center, *scale, *shift, *slope, *rest;
    bool relu;
} nnl_batch_norm;

#endif
