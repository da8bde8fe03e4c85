/* What passes ask about one step of a program. */
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
