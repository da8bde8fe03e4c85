/* A program as text: its steps with shapes and script lines, and what memory it takes. */
#include "program.h"

#include <stdarg.h>
#include <string.h>

typedef struct text {
    char *data;
    size_t size, length;
} text;

static void add(text *t, const char *format, ...)
{
    char line[512];
    va_list list;
    va_start(list, format);
    nnl_format_list(line, sizeof line, format, list);
    va_end(list);
    size_t n = strlen(line);
    if (t->length < t->size) {
        size_t room = t->size - t->length - 1;
        memcpy(t->data + t->length, line, NNL_MIN(n, room));
        t->data[t->length + NNL_MIN(n, room)] = 0;
    }
    t->length += n;
}

static const char *const kinds[] = {
    [NNL_BUFFER_INPUT] = "argument", [NNL_BUFFER_OUTER] = "outside",
    [NNL_BUFFER_CONST] = "constant", [NNL_BUFFER_GRAD] = "gradient",
    [NNL_BUFFER_TEMP] = "%",
};

/* "%12 (64x256)" for results of steps, "outside 3 (256)" for what comes from elsewhere. */
static void add_value(text *t, const nnl_program *p, int32_t v)
{
    if (v < 0) {
        add(t, "-");
        return;
    }
    const nnl_program_value *value = &p->value[v];
    const nnl_buffer *b = &p->buffer[value->buffer];
    char shape[NNL_SHAPE_TEXT];
    bool temp = b->kind == NNL_BUFFER_TEMP;
    add(t, "%s%s%d (%s)", kinds[b->kind], temp ? "" : " ", (int)value->buffer,
        nnl_shape_text(shape, value->form.ndim, value->form.shape));
}

static void add_step(text *t, const nnl_program *p, const nnl_context *times, int i)
{
    const nnl_step *step = &p->step[i];
    double us = times ? nnl_context_step_us(times, i) : -1;
    add(t, "%4d  ", i + 1);
    if (us >= 0) add(t, "%9.2f us  ", us);
    for (int k = 0; k < step->n_out; k++) {
        if (k) add(t, ", ");
        add_value(t, p, step->out[k]);
    }
    add(t, "%s", step->n_out ? " = " : "");
    for (int k = 0; step->chain && k + 1 < step->chain->n_links; k++)
        add(t, "%s+", step->chain->link[k].op->name);
    bool pools = step->op == &nnl_op_conv2d_fused && step->attr[NNL_CONV_POOL].as.i > 0;
    add(t, "%s%s%s", step->op->name, step->relu ? "+relu" : "", pools ? "+max_pool" : "");
    for (int k = 0; k < NNL_MIN(step->n_in, 6); k++) {
        add(t, k ? ", " : " ");
        add_value(t, p, step->in[k]);
    }
    if (step->n_in > 6) add(t, ", ... (%d)", step->n_in);
    if (step->where && step->where[0]) add(t, "   -- %s", step->where);
    add(t, "\n");
}

size_t nnl_program_explain(const nnl_program *p, const nnl_context *times, char *buffer,
                           size_t size)
{
    text t = {buffer, size, 0};
    size_t results = 0;
    for (int b = 0; b < p->n_buffers; b++) results += p->buffer[b].escapes ? p->buffer[b].bytes : 0;
    add(&t, "%d steps of %d calls that were captured\n", p->n_steps, p->captured_steps);
    for (int i = 0; i < p->n_steps; i++) add_step(&t, p, times, i);
    add(&t, "memory: %lld bytes between the steps, %lld in results and gradients\n",
        (long long)p->arena_bytes, (long long)results);
    return t.length;
}
