/* Steps whose results nobody needs are left out, and those that compute what an earlier one did.
 * Random numbers keep their places: a step's is counted from the run's first, whatever goes before
 * it. */
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

static void drop_unneeded(nnl_program *p)
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

/* ---------------------------------------------------------------- equal steps */

#define BUCKETS 1024
#define MOST_BYTES 4096 /* of constants that are compared */

typedef struct merging {
    nnl_program *p;
    uint32_t *writes;     /* one a buffer: steps so far that wrote into it */
    uint32_t *all_writes; /* by all steps */
    uint32_t outside;     /* writes so far into what lies outside, where two buffers may be the same
                             memory */
    uint32_t **seen;      /* one a step: .writes of its inputs when it ran */
    int32_t *same;        /* one a value: the one that stands for it */
    int32_t *before;      /* one a step: an earlier one in its bucket, -1 ends it */
    int32_t bucket[BUCKETS];
} merging;

static uint32_t writes_of(const merging *m, int32_t value)
{
    int32_t buffer = m->p->value[value].buffer;
    return nnl_buffer_is_outside(&m->p->buffer[buffer]) ? m->outside : m->writes[buffer];
}

static bool same_step(const merging *m, int i, int k)
{
    const nnl_step *a = &m->p->step[i], *b = &m->p->step[k];
    const nnl_sig *sig = m->p->rt->engine->sig[a->op->id];
    bool same = a->op == b->op && a->n_in == b->n_in && a->n_out == b->n_out &&
                a->index_base == b->index_base && a->keep == b->keep &&
                a->run_again == b->run_again && !b->inplace && !b->draws && b->call_attr < 0 &&
                b->live < 0;
    for (int n = 0; same && n < a->n_in; n++)
        same = a->in[n] == b->in[n] && (a->in[n] < 0 || m->seen[i][n] == m->seen[k][n]);
    for (int n = 0; same && n < a->n_attr; n++) same = nnl_same_attribute(&a->attr[n], &b->attr[n]);
    if (same && a->start)
        same = memcmp(a->start, b->start, sizeof(int16_t) * (size_t)(sig->tensors + 1)) == 0;
    for (int n = 0; same && n < a->n_out; n++) {
        int32_t v = b->out[n];
        same = (a->out[n] < 0) == (v < 0);
        if (!same || v < 0) continue;
        const nnl_buffer *buffer = &m->p->buffer[m->p->value[v].buffer];
        same = buffer->kind == NNL_BUFFER_TEMP && m->all_writes[m->p->value[v].buffer] == 1 &&
               nnl_same_form(&m->p->value[v].form, &m->p->value[a->out[n]].form) &&
               m->p->value[v].offset == m->p->value[a->out[n]].offset;
    }
    return same;
}

/* The values of buffer `from` become values of `to`. */
static void move_values(const merging *m, int32_t from, int32_t to)
{
    nnl_program *p = m->p;
    for (int32_t v = p->buffer[from].first_value, next; v >= 0; v = next) {
        next = p->value[v].next;
        int32_t w = p->buffer[to].first_value;
        while (w >= 0 && (p->value[w].offset != p->value[v].offset ||
                          !nnl_same_form(&p->value[w].form, &p->value[v].form)))
            w = p->value[w].next;
        if (w >= 0) {
            m->same[v] = m->same[w];
            continue;
        }
        p->value[v].buffer = to;
        p->value[v].next = p->buffer[to].first_value;
        p->buffer[to].first_value = v;
    }
    p->buffer[from].first_value = -1;
}

static unsigned bucket_of(const nnl_step *step)
{
    unsigned hash = (unsigned)step->op->id;
    for (int k = 0; k < step->n_in; k++) hash = hash * 31 + (unsigned)step->in[k];
    return (hash ^ hash >> 10) & (BUCKETS - 1);
}

/* An earlier step that left what step `i` computes, or -1. */
static int find_equal(const merging *m, int i, unsigned bucket)
{
    if (!nnl_step_is_pure(m->p, &m->p->step[i], m->all_writes)) return -1;
    for (int k = m->bucket[bucket]; k >= 0; k = m->before[k]) {
        if (same_step(m, i, k)) return k;
    }
    return -1;
}

static nnl_status merge_steps(merging *m, nnl_bump *bump)
{
    nnl_program *p = m->p;
    int kept = 0;
    for (int i = 0; i < p->n_steps; i++) {
        nnl_step *step = &p->step[kept];
        *step = p->step[i];
        for (int k = 0; k < step->n_in; k++)
            step->in[k] = step->in[k] < 0 ? -1 : m->same[step->in[k]];
        NNL_TRY(nnl_bump_alloc(bump, sizeof(uint32_t) * (size_t)NNL_MAX(step->n_in, 1),
                               &m->seen[kept]));
        for (int k = 0; k < step->n_in; k++)
            m->seen[kept][k] = step->in[k] < 0 ? 0 : writes_of(m, step->in[k]);
        unsigned bucket = bucket_of(step);
        int equal = find_equal(m, kept, bucket);
        if (equal >= 0) {
            for (int k = 0; k < step->n_out; k++) {
                if (step->out[k] >= 0)
                    move_values(m, p->value[step->out[k]].buffer,
                                p->value[p->step[equal].out[k]].buffer);
            }
            continue;
        }
        m->outside += (uint32_t)nnl_step_count_writes(p, step, m->writes);
        m->before[kept] = m->bucket[bucket];
        m->bucket[bucket] = kept++;
    }
    p->n_steps = kept;
    return NNL_OK;
}

static bool same_content(const nnl_buffer *a, const nnl_buffer *b)
{
    return a->bytes == b->bytes && memcmp(a->storage->data, b->storage->data, a->bytes) == 0;
}

/* Constants with the same content are one, so that steps with the same number are equal. */
static nnl_status merge_constants(merging *m, nnl_bump *bump)
{
    nnl_program *p = m->p;
    int32_t *before;
    NNL_TRY(nnl_bump_alloc(bump, sizeof(int32_t) * (size_t)(p->n_buffers + 1), &before));
    for (int b = 0; b < p->n_buffers; b++) {
        const nnl_buffer *buffer = &p->buffer[b];
        if (buffer->kind != NNL_BUFFER_CONST || nnl_buffer_is_copied(buffer)) continue;
        if (!buffer->storage || buffer->bytes > MOST_BYTES) continue;
        const unsigned char *data = buffer->storage->data;
        unsigned hash = (unsigned)buffer->bytes;
        for (size_t i = 0; i < buffer->bytes; i++) hash = hash * 31 + data[i];
        int32_t *bucket = &m->bucket[(hash ^ hash >> 10) & (BUCKETS - 1)], other = *bucket;
        while (other >= 0 && !same_content(&p->buffer[other], buffer)) other = before[other];
        if (other >= 0) {
            move_values(m, b, other);
            continue;
        }
        before[b] = *bucket;
        *bucket = b;
    }
    memset(m->bucket, -1, sizeof m->bucket);
    return NNL_OK;
}

static nnl_status make_lists(merging *m, nnl_bump *bump)
{
    const nnl_program *p = m->p;
    size_t buffers = (size_t)p->n_buffers + 1, steps = (size_t)p->n_steps + 1;
    NNL_TRY(nnl_bump_alloc(bump, sizeof(uint32_t) * buffers, &m->writes));
    NNL_TRY(nnl_bump_alloc(bump, sizeof(uint32_t) * buffers, &m->all_writes));
    NNL_TRY(nnl_bump_alloc(bump, sizeof(uint32_t *) * steps, &m->seen));
    NNL_TRY(nnl_bump_alloc(bump, sizeof(int32_t) * steps, &m->before));
    NNL_TRY(nnl_bump_alloc(bump, sizeof(int32_t) * (size_t)(p->n_values + 1), &m->same));
    memset(m->bucket, -1, sizeof m->bucket);
    for (int v = 0; v < p->n_values; v++) m->same[v] = v;
    for (int i = 0; i < p->n_steps; i++) nnl_step_count_writes(p, &p->step[i], m->all_writes);
    return NNL_OK;
}

static nnl_status merge_equal(nnl_program *p)
{
    nnl_bump bump = {.rt = p->rt};
    merging *m;
    NNL_TRY(nnl_bump_alloc(&bump, sizeof *m, &m));
    m->p = p;
    nnl_status status = make_lists(m, &bump);
    if (status == NNL_OK) status = merge_constants(m, &bump);
    if (status == NNL_OK) status = merge_steps(m, &bump);
    nnl_bump_free(&bump);
    return status;
}

nnl_status nnl_program_simplify(nnl_program *p)
{
    drop_unneeded(p);
    NNL_TRY(nnl_program_constants(p));
    return merge_equal(p);
}
