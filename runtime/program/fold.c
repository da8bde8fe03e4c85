/* Ops take into their last pass what follows them: convolutions a normalisation by given
 * statistics, then the sum with another image; linear layers and the gradients of normalisations a
 * sum; products the derivative that they are multiplied by.  (A relu behind that is absorb.c's.)
 * Operations keep their order, and results their bits. */
#include "program.h"

#include <string.h>

typedef struct folding {
    nnl_program *p;
    nnl_touch *touches;
} folding;

/* Inputs and attributes of batch_norm_eval. */
enum { EVAL_INPUT, EVAL_WEIGHT, EVAL_BIAS, EVAL_MEAN, EVAL_VAR };
enum { EVAL_EPS, EVAL_RELU };

static const struct {
    const nnl_op *plain, *fused;
} pairs[] = {{&nnl_op_conv1d, &nnl_op_conv1d_fused},
             {&nnl_op_conv2d, &nnl_op_conv2d_fused},
             {&nnl_op_conv3d, &nnl_op_conv3d_fused}};

static int32_t buffer_of(const nnl_program *p, int32_t value)
{
    return value < 0 ? -1 : p->value[value].buffer;
}

static const nnl_op *fused_of(const nnl_op *op)
{
    for (int i = 0; i < NNL_COUNT(pairs); i++) {
        if (op == pairs[i].plain || op == pairs[i].fused) return pairs[i].fused;
    }
    return NULL;
}

/* What the fused ops ask for, too. */
bool nnl_is_convolution(const nnl_program *p, const nnl_step *step)
{
    if (!fused_of(step->op)) return false;
    const nnl_tensor *out = &p->value[step->out[0]].form;
    bool adjacent =
        step->in[NNL_CONV_BIAS] < 0 || p->value[step->in[NNL_CONV_BIAS]].form.strides[0] == 1;
    return adjacent && out->numel > 0 && out->ndim == p->value[step->in[NNL_CONV_WEIGHT]].form.ndim;
}

/* The step that makes `value`, when `reader`, which makes `result` of it in the same places, is all
 * that sees it, or changes it before others see it; -1 when there is none. */
static int maker_of(const folding *f, int32_t value, int reader, int32_t result)
{
    const nnl_program *p = f->p;
    if (value < 0) return -1;
    int32_t from = buffer_of(p, value);
    const nnl_touch *t = &f->touches[from];
    if (p->buffer[from].kind != NNL_BUFFER_TEMP || t->maker < 0) return -1;
    if (value == result) {
        if (nnl_is_touched(p, from, t->maker + 1, reader)) return -1;
    } else if (p->buffer[from].escapes || t->count != 2) {
        return -1;
    }
    const nnl_step *step = &p->step[t->maker];
    if (step->out[0] != value || step->relu) return -1;
    return nnl_same_places(&p->value[value].form, &p->value[result].form) ? t->maker : -1;
}

/* Whether `place` can leave reader's result: nobody has one there before. */
static bool is_new(const folding *f, int32_t value, int reader, int32_t result)
{
    int32_t to = buffer_of(f->p, result);
    return value == result ||
           (f->p->buffer[to].kind == NNL_BUFFER_TEMP && f->touches[to].maker == reader);
}

/* Makes the step one of the fused op, if it is not yet. */
nnl_status nnl_widen_convolution(nnl_program *p, nnl_step *step)
{
    const nnl_sig *sig;
    int32_t *in;
    nnl_value *attr;
    if (step->op == fused_of(step->op)) return NNL_OK;
    NNL_TRY(nnl_sig_of(p->rt, fused_of(step->op), &sig));
    NNL_TRY(nnl_bump_alloc(&p->bump, sizeof(int32_t) * NNL_CONV_INPUTS, &in));
    NNL_TRY(nnl_bump_alloc(&p->bump, sizeof(nnl_value) * NNL_CONV_ATTRIBUTES, &attr));
    for (int i = 0; i < NNL_CONV_INPUTS; i++) in[i] = i < step->n_in ? step->in[i] : -1;
    memcpy(attr, step->attr, sizeof(nnl_value) * NNL_CONV_EPS);
    attr[NNL_CONV_EPS] = V_NUM(0);
    attr[NNL_CONV_FRAME_IN] = attr[NNL_CONV_FRAME_OUT] = attr[NNL_CONV_POOL] = V_INT(0);
    step->op = fused_of(step->op);
    step->in = in;
    step->n_in = NNL_CONV_INPUTS;
    step->attr = attr;
    step->n_attr = NNL_CONV_ATTRIBUTES;
    return NNL_OK;
}

/* The step leaves `reader`'s result instead of its own. */
static void take_result(folding *f, int place, nnl_step *reader)
{
    nnl_touch *t = &f->touches[buffer_of(f->p, reader->out[0])];
    f->p->step[place].out[0] = reader->out[0];
    if (t->maker == (int)(reader - f->p->step)) t->maker = place;
    reader->op = NULL;
}

static nnl_status fold_normalisation(folding *f, int i)
{
    nnl_program *p = f->p;
    nnl_step *norm = &p->step[i];
    int32_t image = norm->in[EVAL_INPUT];
    int place = maker_of(f, image, i, norm->out[0]);
    if (place < 0 || norm->attr[EVAL_RELU].as.i || !is_new(f, image, i, norm->out[0]))
        return NNL_OK;
    nnl_step *step = &p->step[place];
    if (!nnl_is_convolution(p, step)) return NNL_OK;
    if (step->op == fused_of(step->op))
        return NNL_OK; /* the order is fixed: normalised once, before the sum */
    for (int k = EVAL_WEIGHT; k <= EVAL_VAR; k++) {
        if (norm->in[k] >= 0 && !nnl_buffer_is_fixed(&p->buffer[buffer_of(p, norm->in[k])]))
            return NNL_OK;
    }
    NNL_TRY(nnl_widen_convolution(p, step));
    step->in[NNL_CONV_MEAN] = norm->in[EVAL_MEAN];
    step->in[NNL_CONV_VAR] = norm->in[EVAL_VAR];
    step->in[NNL_CONV_NORM_WEIGHT] = norm->in[EVAL_WEIGHT];
    step->in[NNL_CONV_NORM_BIAS] = norm->in[EVAL_BIAS];
    step->attr[NNL_CONV_EPS] = norm->attr[EVAL_EPS];
    take_result(f, place, norm);
    return NNL_OK;
}

/* Ops that add a residual to their result; beside: it may lie where the result will be. */
static const struct adding {
    const nnl_op *plain, *op;
    int residual;
    bool beside;
} addings[] = {
    {&nnl_op_conv1d, &nnl_op_conv1d_fused, NNL_CONV_RESIDUAL, false},
    {&nnl_op_conv2d, &nnl_op_conv2d_fused, NNL_CONV_RESIDUAL, false},
    {&nnl_op_conv3d, &nnl_op_conv3d_fused, NNL_CONV_RESIDUAL, false},
    {&nnl_op_linear, &nnl_op_linear_add, 3, false},
    {&nnl_op_layer_norm_backward, &nnl_op_layer_norm_backward, 3, true},
    {&nnl_op_rms_norm_backward, &nnl_op_rms_norm_backward, 3, true},
    {&nnl_op_group_norm_backward, &nnl_op_group_norm_backward, 3, true},
};

/* How the step can add something, which it does not do yet; or NULL. */
static const struct adding *adding_of(const nnl_program *p, const nnl_step *step)
{
    for (int i = 0; i < NNL_COUNT(addings); i++) {
        const struct adding *a = &addings[i];
        if (step->op != a->plain && step->op != a->op) continue;
        if (step->n_in > a->residual && step->in[a->residual] >= 0) return NULL;
        return a->residual != NNL_CONV_RESIDUAL || nnl_is_convolution(p, step) ? a : NULL;
    }
    return NULL;
}

/* The step that makes operand k of a sum and can add the other operand, which is there when it
 * runs; or -1. */
static int adder(const folding *f, int i, int k)
{
    const nnl_program *p = f->p;
    const nnl_step *sum = &p->step[i];
    int32_t value = sum->in[k], other = sum->in[1 - k], result = sum->out[0];
    int place = maker_of(f, value, i, result);
    if (place < 0 || other < 0 || !nnl_same_places(&p->value[other].form, &p->value[result].form))
        return -1;
    const struct adding *a = adding_of(p, &p->step[place]);
    if (!a || nnl_is_written(p, buffer_of(p, other), place, i)) return -1;
    if (other == result)
        return a->beside && !nnl_is_touched(p, buffer_of(p, other), place, i) ? place : -1;
    return is_new(f, value, i, result) ? place : -1;
}

static nnl_status add_residual(nnl_program *p, nnl_step *step, int32_t residual)
{
    const struct adding *a = adding_of(p, step);
    if (a->residual == NNL_CONV_RESIDUAL) {
        NNL_TRY(nnl_widen_convolution(p, step));
    } else if (step->n_in <= a->residual) {
        const nnl_sig *sig;
        int32_t *in;
        NNL_TRY(nnl_sig_of(p->rt, a->op, &sig));
        NNL_TRY(nnl_bump_alloc(&p->bump, sizeof(int32_t) * (size_t)(a->residual + 1), &in));
        for (int i = 0; i < a->residual; i++) in[i] = i < step->n_in ? step->in[i] : -1;
        step->op = a->op;
        step->in = in;
        step->n_in = (int16_t)(a->residual + 1);
    }
    step->in[a->residual] = residual;
    return NNL_OK;
}

static nnl_status fold_sum(folding *f, int i)
{
    nnl_program *p = f->p;
    nnl_step *sum = &p->step[i];
    if (sum->n_in != 2 || nnl_value_double(&sum->attr[0]) != 1) return NNL_OK;
    for (int k = 0; k < 2; k++) {
        int place = adder(f, i, k);
        if (place < 0) continue;
        NNL_TRY(add_residual(p, &p->step[place], sum->in[1 - k]));
        take_result(f, place, sum);
        return NNL_OK;
    }
    return NNL_OK;
}

/* ---------------------------------------------------------------- products and derivatives */

static bool is_whole(const nnl_program *p, int32_t value, int32_t like)
{
    const nnl_program_value *v = &p->value[value];
    return v->form.contiguous && v->offset == 0 && v->form.dtype == p->value[like].form.dtype &&
           v->form.numel == p->value[like].form.numel;
}

/* The product of two matrices whose elements step i multiplies by those of `other`, or keeps by
 * them, and which nobody else sees; -1 when there is none. */
static int product_of(const folding *f, int i, int32_t value, int32_t other)
{
    const nnl_program *p = f->p;
    if (value < 0 || other < 0) return -1;
    int32_t result = p->step[i].out[0], from = buffer_of(p, value);
    const nnl_touch *t = &f->touches[from];
    if (p->buffer[from].kind != NNL_BUFFER_TEMP || p->buffer[from].escapes || t->count != 2 ||
        t->maker < 0 || from == buffer_of(p, result) || from == buffer_of(p, other) ||
        buffer_of(p, other) == buffer_of(p, result) || !is_new(f, value, i, result))
        return -1;
    const nnl_step *step = &p->step[t->maker];
    if (p->buffer[buffer_of(p, other)].kind != NNL_BUFFER_TEMP) return -1; /* others may alias */
    if (step->op != &nnl_op_gemm || nnl_is_written(p, buffer_of(p, other), t->maker, i)) return -1;
    bool whole = is_whole(p, step->out[0], result) && is_whole(p, value, result) &&
                 is_whole(p, other, result);
    return whole && p->value[result].form.contiguous && p->value[result].offset == 0 &&
                   nnl_same_shape(&p->value[value].form, &p->value[other].form)
               ? t->maker
               : -1;
}

static nnl_status take_beside(folding *f, int place, int i, int32_t other)
{
    nnl_program *p = f->p;
    nnl_step *step = &p->step[place], *reader = &p->step[i];
    int32_t *in, *out, product = step->out[0];
    nnl_value *attr;
    NNL_TRY(nnl_bump_alloc(&p->bump, 3 * sizeof(int32_t), &in));
    NNL_TRY(nnl_bump_alloc(&p->bump, sizeof(int32_t), &out));
    NNL_TRY(nnl_bump_alloc(&p->bump, 3 * sizeof(nnl_value), &attr));
    in[0] = step->in[0];
    in[1] = step->in[1];
    NNL_TRY(nnl_program_view(p, other, product, &in[2]));
    NNL_TRY(nnl_program_view(p, reader->out[0], product, &out[0]));
    attr[0] = step->attr[0];
    attr[1] = step->attr[1];
    attr[2] = V_FLAG(reader->op == &nnl_op_relu_backward);
    take_result(f, place, reader);
    step->op = &nnl_op_gemm_beside;
    step->in = in;
    step->n_in = 3;
    step->out = out;
    step->attr = attr;
    step->n_attr = 3;
    return NNL_OK;
}

/* The derivative of what made a product's left operand, in the gradient's last pass. */
static nnl_status fold_derivative(folding *f, int i)
{
    const nnl_step *step = &f->p->step[i];
    int orders = step->op == &nnl_op_mul ? 2 : 1; /* a product's operands may change places */
    if (step->n_in != 2 || step->inplace) return NNL_OK;
    for (int k = 0; k < orders; k++) {
        int place = product_of(f, i, step->in[k], step->in[1 - k]);
        if (place >= 0) return take_beside(f, place, i, step->in[1 - k]);
    }
    return NNL_OK;
}

static nnl_status fold_all(folding *f)
{
    nnl_program *p = f->p;
    for (int i = 0; i < p->n_steps; i++) {
        if (p->step[i].op == &nnl_op_batch_norm_eval)
            NNL_TRY(fold_normalisation(f, i));
        else if (p->step[i].op == &nnl_op_add)
            NNL_TRY(fold_sum(f, i));
        else if (p->step[i].op == &nnl_op_mul || p->step[i].op == &nnl_op_relu_backward)
            NNL_TRY(fold_derivative(f, i));
    }
    nnl_program_close_up(p);
    return NNL_OK;
}

nnl_status nnl_program_fold(nnl_program *p)
{
    void *block;
    size_t bytes = sizeof(nnl_touch) * (size_t)(p->n_buffers + 1);
    NNL_TRY(nnl_alloc(p->rt, bytes, &block));
    folding f = {p, block};
    nnl_count_touches(p, f.touches);
    nnl_status status = fold_all(&f);
    nnl_free(p->rt, block, bytes);
    return status;
}
