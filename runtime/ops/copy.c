/* Copies and conversions: clone, contiguous, to, copy, fill. */
#include "elementwise.h"

static nnl_status copy_run(nnl_call *c) { return nnl_copy(c->out[0], c->in[0]); }
static void pass_grad(nnl_grad *g) { g->dx[0] = g->dy[0]; }

NNL_OP(clone,
    .sig = "input:any -> same",
    .doc = "A contiguous copy with memory of its own; gradients flow through it.",
    .example = "nn.ones(2):clone()",
    .infer = nnl_infer_same,
    .run = copy_run,
    .grad = pass_grad);

static nnl_status contiguous_infer(nnl_call *c)
{
    nnl_spec_like(&c->spec[0], c->in[0]);
    if (c->in[0]->contiguous) c->out[0] = nnl_tensor_ref(c->in[0]);
    return NNL_OK;
}

NNL_OP(contiguous,
    .sig = "input:any -> same",
    .doc = "The tensor itself when its elements lie one behind the other in row-major order, else a copy for which that is so.",
    .example = "nn.ones(2, 3):t():contiguous()",
    .infer = contiguous_infer,
    .run = copy_run,
    .grad = pass_grad);

static nnl_status to_infer(nnl_call *c)
{
    nnl_spec_like(&c->spec[0], c->in[0]);
    c->spec[0].dtype = (nnl_dtype)c->attr[0].as.i;
    if (c->spec[0].dtype == c->in[0]->dtype) c->out[0] = nnl_tensor_ref(c->in[0]);
    return NNL_OK;
}

NNL_OP(to,
    .sig = "input:any, dtype:dtype -> dtype",
    .doc = "The tensor converted to another type; itself when it has the type already.  Floats become integers by "
           "truncation; out-of-range values saturate and NaN becomes 0.",
    .example = "nn.tensor({1.5, 2}):to(\"i64\")",
    .infer = to_infer,
    .run = copy_run,
    .sample = "input:3x4 dtype=\"f64\"",
    .grad = pass_grad); /* the engine converts the gradient back */

static nnl_status copy_into_infer(nnl_call *c)
{
    const nnl_tensor *to = c->in[0], *from = c->in[1];
    nnl_spec *spec = &c->spec[0];
    nnl_spec_like(spec, to);
    char a[NNL_NAMED_TEXT], b[NNL_NAMED_TEXT];
    if (!nnl_broadcast(&spec->ndim, spec->shape, from->ndim, from->shape) ||
        nnl_shape_numel(spec->ndim, spec->shape) != to->numel || spec->ndim != to->ndim)
        return nnl_call_fail(c, NNL_ESHAPE, "%s does not fit into %s", nnl_call_input_text(c, 1, b), nnl_call_input_text(c, 0, a));
    return NNL_OK;
}

static nnl_status copy_into_run(nnl_call *c) { return nnl_copy(c->out[0], c->in[1]); }
static void copy_into_grad(nnl_grad *g) { g->dx[1] = g->dy[0]; }

NNL_OP(copy,
    .sig = "input:any, source:any -> same",
    .doc = "source, broadcast to input's shape and converted to its type; x:copy_(source) writes it into x.",
    .example = "nn.zeros(2, 3):copy_(nn.ones(3))",
    .infer = copy_into_infer,
    .run = copy_into_run,
    .grad = copy_into_grad,
    .traits = NNL_INPLACE_OK);

static nnl_status fill_run(nnl_call *c) { return nnl_fill(c->out[0], c->attr[0]); }

NNL_OP(fill,
    .sig = "input:any, value:scalar -> same",
    .doc = "A tensor like input with every element set to value; x:fill_(value) writes it into x.",
    .example = "nn.zeros(2):fill_(7)",
    .infer = nnl_infer_same,
    .run = fill_run,
    .sample = "input:3x4 value=1.5",
    .grad = nnl_flat_grad, /* the result does not depend on the input's elements */
    .traits = NNL_ELEMENTWISE | NNL_INPLACE_OK);

static nnl_status zero_run(nnl_call *c) { return nnl_fill(c->out[0], V_INT(0)); }

NNL_OP(zero,
    .sig = "input:any -> same",
    .doc = "A tensor like input with every element 0; x:zero_() writes it into x.",
    .example = "nn.ones(2):zero_()",
    .infer = nnl_infer_same,
    .run = zero_run,
    .grad = nnl_flat_grad,
    .traits = NNL_ELEMENTWISE | NNL_INPLACE_OK);
