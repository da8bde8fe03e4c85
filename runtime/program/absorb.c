/* relu behind convolutions, products and normalisations: computed in their last pass, where the
 * values are at hand. */
#include "program.h"

#include <string.h>

static int attribute_named(const nnl_program *p, const nnl_op *op, const char *name)
{
    const nnl_sig *sig = p->rt->engine->sig[op->id];
    for (int i = 0; i < sig->attrs; i++) {
        if (strcmp(sig->attr[i]->name, name) == 0) return i;
    }
    return -1;
}

static int32_t buffer_of(const nnl_program *p, int32_t value)
{
    return value < 0 ? -1 : p->value[value].buffer;
}

void nnl_count_touches(const nnl_program *p, nnl_touch *touches)
{
    for (int b = 0; b < p->n_buffers; b++) touches[b] = (nnl_touch){0, -1};
    for (int i = 0; i < p->n_steps; i++) {
        const nnl_step *step = &p->step[i];
        for (int k = 0; k < step->n_in + step->n_out; k++) {
            int32_t b = buffer_of(p, k < step->n_in ? step->in[k] : step->out[k - step->n_in]);
            if (b < 0) continue;
            touches[b].count++;
            if (k >= step->n_in && touches[b].maker < 0) touches[b].maker = i;
        }
    }
}

bool nnl_is_touched(const nnl_program *p, int32_t buffer, int first, int end)
{
    for (int i = first; i < end; i++) {
        const nnl_step *step = &p->step[i];
        for (int k = 0; k < step->n_in + step->n_out && step->op; k++) {
            if (buffer_of(p, k < step->n_in ? step->in[k] : step->out[k - step->n_in]) == buffer)
                return true;
        }
    }
    return false;
}

bool nnl_same_places(const nnl_tensor *a, const nnl_tensor *b)
{
    if (a->dtype != b->dtype || !nnl_same_shape(a, b)) return false;
    for (int d = 0; d < a->ndim; d++) {
        if (a->shape[d] != 1 && a->strides[d] != b->strides[d]) return false;
    }
    return true;
}

/* The step that can take over `relu`: it makes relu's input, which nobody else sees before, and
 * takes a relu. */
static nnl_step *taker(nnl_program *p, const nnl_step *relu, const nnl_touch *touches)
{
    int32_t from = relu->in[0], to = relu->out[0];
    const nnl_buffer *between = &p->buffer[buffer_of(p, from)],
                     *result = &p->buffer[buffer_of(p, to)];
    const nnl_touch *t = &touches[buffer_of(p, from)];
    int place = (int)(relu - p->step);
    if (between->kind != NNL_BUFFER_TEMP || t->maker < 0) return NULL;
    if (from == to) { /* in place */
        if (nnl_is_touched(p, buffer_of(p, from), t->maker + 1, place)) return NULL;
    } else {
        if (between->escapes || t->count != 2 || result->kind != NNL_BUFFER_TEMP) return NULL;
        if (touches[buffer_of(p, to)].maker != place) return NULL;
    }
    nnl_step *maker = &p->step[t->maker];
    bool takes = maker->op->traits & NNL_TAKES_RELU && !maker->relu && !maker->inplace &&
                 maker->out[0] == from;
    return takes && nnl_same_places(&p->value[from].form, &p->value[to].form) ? maker : NULL;
}

static void take_over(nnl_program *p, nnl_step *maker, const nnl_step *relu)
{
    int attr = attribute_named(p, maker->op, "relu");
    if (attr >= 0)
        maker->attr[attr] = V_FLAG(true);
    else
        maker->relu = true;
    maker->out[0] = relu->out[0];
}

/* A step moves forward over those that are gone. */
static void move(nnl_program *p, int from, int to, nnl_touch *touches)
{
    p->step[to] = p->step[from];
    for (int k = 0; k < p->step[to].n_out; k++) {
        int32_t b = buffer_of(p, p->step[to].out[k]);
        if (b >= 0 && touches[b].maker == from) touches[b].maker = to;
    }
}

nnl_status nnl_program_absorb(nnl_program *p)
{
    void *block;
    size_t bytes = sizeof(nnl_touch) * (size_t)(p->n_buffers + 1);
    NNL_TRY(nnl_alloc(p->rt, bytes, &block));
    nnl_touch *touches = block;
    nnl_count_touches(p, touches);
    int kept = 0;
    for (int i = 0; i < p->n_steps; i++) {
        move(p, i, kept, touches);
        nnl_step *step = &p->step[kept],
                 *maker = step->op == &nnl_op_relu ? taker(p, step, touches) : NULL;
        if (maker)
            take_over(p, maker, step);
        else
            kept++;
    }
    p->n_steps = kept;
    nnl_free(p->rt, block, bytes);
    return NNL_OK;
}
