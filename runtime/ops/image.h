/* Tensors of batch x channels x places as pooling and normalisation walk them (image.c). */
#ifndef NNL_OPS_IMAGE_H
#define NNL_OPS_IMAGE_H

#include "op.h"

/* Whether t lies channels-last; with a single place both orders are one, and this one is the faster. */
bool nnl_lies_channels_last(const nnl_tensor *t);

/* t itself if it lies as wanted, else a copy that does; a new reference. */
nnl_status nnl_image_laid(nnl_tensor *t, bool channels_last, nnl_tensor **out);

#endif
