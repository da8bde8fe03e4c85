/* The rarer cases of composed ops, by way of their composition. */
#ifndef NNL_OPS_COMPOSED_H
#define NNL_OPS_COMPOSED_H

#include "op.h"

/* Runs a call of one result as its op's .define says. */
nnl_status nnl_run_define(nnl_call *c);

/* Fills g->dx from result 0 by walking back through .define; for gradients without create_graph. */
void nnl_grad_define(nnl_grad *g);

#endif
