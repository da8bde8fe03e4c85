/* Where a program may add up in other orders, 3x3 convolutions and their input's gradient go by
 * Winograd's tiles. */
#include "program.h"

#include "../ops/conv.h"

static bool suits(const nnl_program *p, const nnl_step *step)
{
    bool forward = step->op == &nnl_op_conv2d || step->op == &nnl_op_conv2d_fused;
    if (step->chain || (!forward && step->op != &nnl_op_conv_grad_input)) return false;
    if (forward && !nnl_is_convolution(p, step)) return false;
    const nnl_tensor *input = &p->value[step->in[0]].form, *weight = &p->value[step->in[1]].form,
                     *out = &p->value[step->out[0]].form;
    bool fixed = nnl_buffer_is_fixed(&p->buffer[p->value[step->in[1]].buffer]);
    return nnl_conv_call_suits_winograd(p->rt, step->op, input, weight, out, step->attr, fixed);
}

nnl_status nnl_program_winograd(nnl_program *p)
{
    for (int i = 0; i < p->n_steps && p->inexact; i++) {
        nnl_step *step = &p->step[i];
        if (!suits(p, step)) continue;
        if (step->op == &nnl_op_conv_grad_input) {
            step->op = &nnl_op_conv_grad_input_winograd;
        } else {
            NNL_TRY(nnl_widen_convolution(p, step));
            step->op = &nnl_op_conv2d_winograd;
        }
    }
    return NNL_OK;
}
