/* What the files of losses share. */
#ifndef NNL_OPS_LOSS_H
#define NNL_OPS_LOSS_H

#include "op.h"

/* " at position 3", " at position {2, 3}" or "", for element i (row-major) of t.  Returns the buffer. */
#define NNL_PLACE_TEXT 192
const char *nnl_place_text(char text[NNL_PLACE_TEXT], const nnl_tensor *t, int64_t i, int base);

/* Runs a call by its op's composition: for the rarer cases of ops whose kernels know the frequent ones. */
nnl_status nnl_run_define(nnl_call *c);

#endif
