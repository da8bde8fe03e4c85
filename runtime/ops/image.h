/* Tensors of batch x channels x places as pooling and normalisation walk them (image.c). */
#ifndef NNL_OPS_IMAGE_H
#define NNL_OPS_IMAGE_H

#include "op.h"

/* Whether t lies channels-last; with a single place both orders are one, and this one is the
 * faster. */
bool nnl_lies_channels_last(const nnl_tensor *t);

/* t itself if it lies as wanted, else a copy that does; a new reference. */
nnl_status nnl_image_laid(nnl_tensor *t, bool channels_last, nnl_tensor **out);

/* The constants of y = (x - center) scale + shift that normalises channels by given statistics;
 * weight and bias may be NULL.  What the center loses by rounding to dtype goes into the shift
 * (batch_norm.c). */
void nnl_norm_constants(nnl_dtype dtype, int64_t channels, const nnl_tensor *mean,
                        const nnl_tensor *var, const nnl_tensor *weight, const nnl_tensor *bias,
                        double eps, void *center, void *scale, void *shift);

#endif
