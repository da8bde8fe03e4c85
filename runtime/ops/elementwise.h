/* Pieces of the records of elementwise ops, and what several families need for their gradients. */
#ifndef NNL_OPS_ELEMENTWISE_H
#define NNL_OPS_ELEMENTWISE_H

#include "op.h"

/* One input of a type class, and attributes (", slope:num=0.01", or "") that are the kernel's
 * parameters in order. */
#define NNL_UNARY(class, attrs, map)                                                     \
    .sig = "input:" class attrs " -> same", .infer = nnl_infer_same, .run = nnl_run_map, \
    .kernel = NNL_MAP_##map, .traits = NNL_ELEMENTWISE | NNL_INPLACE_OK

/* Two inputs, brought to one type, the second of which may be a number. */
#define NNL_BINARY(class, map)                                                              \
    .sig = "input:" class ", other:" class "|scalar -> same", .infer = nnl_infer_broadcast, \
    .run = nnl_run_map, .kernel = NNL_MAP_##map,                                            \
    .traits = NNL_ELEMENTWISE | NNL_PROMOTE | NNL_INPLACE_OK

/* The product of dy with the derivative at x, in one pass. */
#define NNL_BACKWARD(attrs, map)                                                                   \
    .sig = "dy:float, x:float" attrs " -> same", .infer = nnl_infer_broadcast, .run = nnl_run_map, \
    .kernel = NNL_MAP_##map, .traits = NNL_ELEMENTWISE | NNL_HIDDEN

/* The gradient of functions that are flat wherever they are differentiable: torch, too, gives
 * zeros. */
static inline void nnl_flat_grad(nnl_grad *g)
{
    for (int i = 0; i < g->n_in; i++) {
        const nnl_layout *x = &g->in_layout[i];
        if (g->needs[i]) g->dx[i] = nnl_full(g->s, (nnl_dtype)x->dtype, x->ndim, x->shape, 0);
    }
}

#endif
