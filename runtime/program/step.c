/* What passes ask about the steps of a program, and add to it. */
#include "program.h"

bool nnl_buffer_is_outside(const nnl_buffer *b)
{
    return b->kind != NNL_BUFFER_TEMP && b->kind != NNL_BUFFER_CONST;
}

int nnl_step_count_writes(const nnl_program *p, const nnl_step *step, uint32_t *writes)
{
    int count = step->n_out + (step->op->traits & NNL_IN_PLACE ? step->n_in : 0), outside = 0;
    for (int k = 0; k < count; k++) {
        int32_t v = k < step->n_out ? step->out[k] : step->in[k - step->n_out];
        if (v < 0) continue;
        writes[p->value[v].buffer]++;
        outside += nnl_buffer_is_outside(&p->buffer[p->value[v].buffer]);
    }
    return outside;
}

bool nnl_step_is_pure(const nnl_program *p, const nnl_step *step, const uint32_t *writes)
{
    if (step->draws || step->call_attr >= 0 || step->live >= 0) return false;
    if (step->inplace || step->op->traits & NNL_IN_PLACE) return false;
    for (int k = 0; k < step->n_out; k++) {
        if (step->out[k] < 0) continue;
        int32_t b = p->value[step->out[k]].buffer;
        if (p->buffer[b].kind != NNL_BUFFER_TEMP || p->buffer[b].escapes || writes[b] != 1)
            return false;
    }
    return step->n_out > 0;
}

static bool writes_into(const nnl_program *p, int32_t value, int32_t buffer)
{
    return value >= 0 && p->value[value].buffer == buffer;
}

bool nnl_is_written(const nnl_program *p, int32_t buffer, int first, int end)
{
    for (int i = first; i < end; i++) {
        const nnl_step *step = &p->step[i];
        if (!step->op) continue;
        for (int k = 0; k < step->n_out; k++) {
            if (writes_into(p, step->out[k], buffer)) return true;
        }
        for (int k = 0; k < step->n_in && step->op->traits & NNL_IN_PLACE; k++) {
            if (writes_into(p, step->in[k], buffer)) return true;
        }
    }
    return false;
}

nnl_status nnl_program_temporary(nnl_program *p, int32_t like, int32_t *out)
{
    NNL_TRY(nnl_bump_grow(&p->bump, sizeof(nnl_buffer), p->n_buffers, &p->buffer));
    NNL_TRY(nnl_bump_grow(&p->bump, sizeof(nnl_program_value), p->n_values, &p->value));
    const nnl_tensor *form = &p->value[like].form;
    p->buffer[p->n_buffers] = (nnl_buffer){.kind = NNL_BUFFER_TEMP,
                                           .bytes = (size_t)form->numel * nnl_width(form->dtype),
                                           .written = true,
                                           .first = -1,
                                           .last = -1,
                                           .first_value = p->n_values};
    p->value[p->n_values] =
        (nnl_program_value){.buffer = p->n_buffers++, .next = -1, .form = *form};
    *out = p->n_values++;
    return NNL_OK;
}

nnl_status nnl_program_view(nnl_program *p, int32_t of, int32_t like, int32_t *out)
{
    *out = of;
    if (nnl_same_form(&p->value[of].form, &p->value[like].form)) return NNL_OK;
    NNL_TRY(nnl_bump_grow(&p->bump, sizeof(nnl_program_value), p->n_values, &p->value));
    nnl_program_value *v = &p->value[p->n_values];
    int32_t *first = &p->buffer[p->value[of].buffer].first_value;
    *v = p->value[of];
    v->form = p->value[like].form;
    v->next = *first;
    *out = *first = p->n_values++;
    return NNL_OK;
}

void nnl_program_close_up(nnl_program *p)
{
    int kept = 0;
    for (int i = 0; i < p->n_steps; i++) {
        if (p->step[i].op) p->step[kept++] = p->step[i];
    }
    p->n_steps = kept;
}
