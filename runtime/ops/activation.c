/* Activations.  Each has a fused gradient; the smooth ones also a composition for higher derivatives. */
#include "op.h"

static void relu_grad(nnl_grad *g) { g->dx[0] = DO(g->s, relu_backward, g->dy[0], g->out[0]); }

NNL_OP(relu,
    .sig = "input:number -> same",
    .doc = "max(0, x).",
    .example = "nn.F.relu(nn.tensor({-1, 2}))",
    .infer = nnl_infer_same,
    .run = nnl_run_map,
    .kernel = NNL_MAP_relu,
    .grad = relu_grad,
    .saves = NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4!0",
    .traits = NNL_ELEMENTWISE | NNL_INPLACE_OK);

static void relu_backward_grad(nnl_grad *g) { g->dx[0] = DO(g->s, relu_backward, g->dy[0], g->in[1]); }

NNL_OP(relu_backward,
    .sig = "dy:float, x:float -> same",
    .doc = "dy where x > 0, else 0.  x may be relu's input or its result.",
    .infer = nnl_infer_broadcast,
    .run = nnl_run_map,
    .kernel = NNL_MAP_relu_grad,
    .grad = relu_backward_grad, /* nothing flows to x: relu is piecewise linear */
    .saves = NNL_SAVE_INPUT(1),
    .sample = "dy:3x4 x:3x4!0",
    .traits = NNL_ELEMENTWISE | NNL_HIDDEN);
