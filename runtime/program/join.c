/* Results that cat would bring together are made where it would put them, if the ops that make them
 * can write rows that lie apart: the parts of a gradient, such as that of queries, keys and values
 * which one layer computes. */
#include "program.h"

/* In elements: parts of `part` adjacent ones become parts of `whole`, the first at `offset`. */
typedef struct window {
    int64_t part, whole, offset;
} window;

/* Elements of the dimensions from cat's on: adjacent ones. */
static int64_t part_of(const nnl_tensor *form, const nnl_step *cat)
{
    int64_t part = 1;
    for (int d = (int)cat->attr[0].as.i; d < form->ndim; d++) part *= form->shape[d];
    return part;
}

static int32_t buffer_of(const nnl_program *p, int32_t value) { return p->value[value].buffer; }

/* The result of the step that makes `value`, which nobody else sees; -1 when there is none whose op
 * can leave it elsewhere. */
static int32_t result_behind(const nnl_program *p, int32_t value, const nnl_touch *touches)
{
    const nnl_buffer *b = &p->buffer[buffer_of(p, value)];
    const nnl_touch *t = &touches[buffer_of(p, value)];
    if (b->kind != NNL_BUFFER_TEMP || b->escapes || t->count != 2 || t->maker < 0) return -1;
    const nnl_step *maker = &p->step[t->maker];
    if (!(maker->op->traits & NNL_ROWS_APART) || maker->inplace) return -1;
    for (int k = 0; k < maker->n_out; k++) {
        if (maker->out[k] >= 0 && buffer_of(p, maker->out[k]) == buffer_of(p, value))
            return maker->out[k];
    }
    return -1;
}

/* Whether the form, of a whole buffer, keeps its rows when the buffer is cut into parts: a
 * dimension goes from part to part or stays within one. */
static bool keeps_rows(const nnl_tensor *form, int64_t part)
{
    int64_t within = 1;
    for (int d = 0; d < form->ndim; d++) {
        if (form->strides[d] < part)
            within += (form->shape[d] - 1) * form->strides[d];
        else if (form->strides[d] % part != 0)
            return false;
    }
    return within <= part && form->strides[form->ndim - 1] == 1;
}

static bool can_join(const nnl_program *p, int i, const nnl_touch *touches)
{
    const nnl_step *cat = &p->step[i];
    const nnl_program_value *result = &p->value[cat->out[0]];
    const nnl_buffer *b = &p->buffer[result->buffer];
    if (b->kind != NNL_BUFFER_TEMP || b->escapes || touches[result->buffer].maker != i)
        return false;
    if (!result->form.contiguous || result->offset != 0 || result->form.numel == 0) return false;
    for (int k = 0; k < cat->n_in; k++) {
        const nnl_program_value *in = &p->value[cat->in[k]];
        int32_t made = result_behind(p, cat->in[k], touches);
        if (made < 0 || in->form.dtype != result->form.dtype || !in->form.contiguous) return false;
        const nnl_program_value *v = &p->value[made];
        bool whole = v->form.numel == in->form.numel && v->offset == 0 && in->offset == 0;
        if (!whole || v->form.dtype != in->form.dtype ||
            !keeps_rows(&v->form, part_of(&in->form, cat)))
            return false;
    }
    return true;
}

/* The value becomes a window of another buffer. */
static void move_value(nnl_program *p, int32_t value, int32_t buffer, const window *w)
{
    nnl_program_value *v = &p->value[value];
    int32_t *link = &p->buffer[v->buffer].first_value;
    while (*link != value) link = &p->value[*link].next;
    *link = v->next;
    v->next = p->buffer[buffer].first_value;
    p->buffer[buffer].first_value = value;
    v->buffer = buffer;
    v->offset = w->offset * (int64_t)nnl_width(v->form.dtype);
    for (int d = 0; d < v->form.ndim; d++) {
        if (v->form.strides[d] >= w->part)
            v->form.strides[d] = v->form.strides[d] / w->part * w->whole;
    }
    v->form.contiguous = nnl_is_contiguous(v->form.ndim, v->form.shape, v->form.strides);
}

static void join(nnl_program *p, int i, nnl_touch *touches)
{
    nnl_step *cat = &p->step[i];
    window w = {.whole = part_of(&p->value[cat->out[0]].form, cat)};
    int32_t buffer = buffer_of(p, cat->out[0]);
    for (int k = 0; k < cat->n_in; k++) {
        w.part = part_of(&p->value[cat->in[k]].form, cat);
        int maker = touches[buffer_of(p, cat->in[k])].maker;
        touches[buffer].maker = NNL_MIN(touches[buffer].maker, maker);
        move_value(p, result_behind(p, cat->in[k], touches), buffer, &w);
        w.offset += w.part;
    }
    cat->op = NULL;
}

nnl_status nnl_program_join(nnl_program *p)
{
    void *block;
    size_t bytes = sizeof(nnl_touch) * (size_t)(p->n_buffers + 1);
    NNL_TRY(nnl_alloc(p->rt, bytes, &block));
    nnl_touch *touches = block;
    nnl_count_touches(p, touches);
    for (int i = 0; i < p->n_steps; i++) {
        if (p->step[i].op == &nnl_op_cat && can_join(p, i, touches)) join(p, i, touches);
    }
    nnl_program_close_up(p);
    nnl_free(p->rt, block, bytes);
    return NNL_OK;
}
