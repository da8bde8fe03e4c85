/* Steps whose results nobody needs are left out.  Random numbers keep their places: a step's is counted from the
 * run's first, whatever goes before it. */
#include "program.h"

#include <string.h>

/* Whether a step changes something that outlives the run. */
static bool has_effect(const nnl_program *p, const nnl_step *step)
{
    for (int i = 0; i < step->n_out; i++) {
        if (step->out[i] < 0) continue;
        const nnl_buffer *b = &p->buffer[p->value[step->out[i]].buffer];
        if (b->escapes || (b->kind != NNL_BUFFER_TEMP && b->kind != NNL_BUFFER_CONST)) return true;
    }
    return (step->op->traits & NNL_IN_PLACE) != 0;
}

void nnl_program_simplify(nnl_program *p)
{
    /* .last serves as a mark: 1 where a later step reads the buffer. */
    for (int b = 0; b < p->n_buffers; b++) p->buffer[b].last = 0;
    int kept = p->n_steps;
    for (int i = p->n_steps - 1; i >= 0; i--) {
        const nnl_step *step = &p->step[i];
        bool needed = has_effect(p, step);
        for (int k = 0; k < step->n_out && !needed; k++)
            needed = step->out[k] >= 0 && p->buffer[p->value[step->out[k]].buffer].last;
        if (!needed) continue;
        for (int k = 0; k < step->n_in; k++) {
            if (step->in[k] >= 0) p->buffer[p->value[step->in[k]].buffer].last = 1;
        }
        p->step[--kept] = *step;
    }
    p->n_steps -= kept;
    memmove(p->step, p->step + kept, sizeof(nnl_step) * (size_t)p->n_steps);
    for (int b = 0; b < p->n_buffers; b++) p->buffer[b].last = -1;
}
