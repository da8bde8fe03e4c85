/* gelu whose gradient follows leaves its derivative, too: the exponential in both is taken once,
 * and the gradient becomes a product. */
#include "program.h"

/* Whether the step is the gradient of gelu at x. */
static bool is_gradient(const nnl_program *p, const nnl_step *step, int32_t x)
{
    return step->op == &nnl_op_gelu_backward && step->in[1] == x && !step->inplace &&
           p->value[step->out[0]].form.dtype == p->value[x].form.dtype;
}

/* The first step after `i` that is the gradient of this gelu; -1 when there is none, or when its
 * input changes before. */
static int gradient_of(const nnl_program *p, int i)
{
    int32_t x = p->step[i].in[0];
    for (int k = i + 1; k < p->n_steps; k++) {
        if (is_gradient(p, &p->step[k], x))
            return nnl_is_written(p, p->value[x].buffer, i, k) ? -1 : k;
    }
    return -1;
}

static bool can_leave_slope(const nnl_program *p, const nnl_step *step)
{
    if (step->op != &nnl_op_gelu || step->inplace || step->live >= 0 || step->attr[0].as.i != 0)
        return false;
    const nnl_program_value *x = &p->value[step->in[0]], *y = &p->value[step->out[0]];
    return p->buffer[x->buffer].kind == NNL_BUFFER_TEMP && x->buffer != y->buffer &&
           x->form.contiguous && y->form.contiguous;
}

static nnl_status leave_slope(nnl_program *p, nnl_step *step, nnl_step *gradient)
{
    int32_t *out, *in;
    nnl_spec *spec;
    NNL_TRY(nnl_bump_alloc(&p->bump, 2 * sizeof(int32_t), &out));
    NNL_TRY(nnl_bump_alloc(&p->bump, 2 * sizeof(int32_t), &in));
    NNL_TRY(nnl_bump_alloc(&p->bump, 2 * sizeof(nnl_spec), &spec));
    out[0] = step->out[0];
    NNL_TRY(nnl_program_temporary(p, step->in[0], &out[1]));
    spec[0] = spec[1] = step->spec[0];
    step->op = &nnl_op_gelu_slope;
    step->n_attr = 0;
    step->n_out = 2;
    step->out = out;
    step->spec = spec;
    in[0] = gradient->in[0];
    in[1] = out[1];
    gradient->op = &nnl_op_mul;
    gradient->in = in;
    return NNL_OK;
}

nnl_status nnl_program_slope(nnl_program *p)
{
    for (int i = 0; i < p->n_steps; i++) {
        if (!can_leave_slope(p, &p->step[i])) continue;
        int gradient = gradient_of(p, i);
        if (gradient >= 0) NNL_TRY(leave_slope(p, &p->step[i], &p->step[gradient]));
    }
    return NNL_OK;
}
