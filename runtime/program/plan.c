/* Places of temporary buffers in one arena: largest first, each at the lowest place where nothing
 * lies that lives at the same time. */
#include "program.h"

#include <string.h>

#define ALIGN 64

static void touch(nnl_program *p, int32_t value, int step)
{
    if (value < 0) return;
    nnl_buffer *b = &p->buffer[p->value[value].buffer];
    if (b->first < 0) b->first = step;
    b->last = step;
}

static void find_lifetimes(nnl_program *p)
{
    for (int b = 0; b < p->n_buffers; b++) p->buffer[b].first = p->buffer[b].last = -1;
    for (int i = 0; i < p->n_steps; i++) {
        const nnl_step *step = &p->step[i];
        for (int k = 0; k < step->n_in; k++) touch(p, step->in[k], i);
        for (int k = 0; k < step->n_out; k++) touch(p, step->out[k], i);
    }
    for (int b = 0; b < p->n_buffers; b++) { /* filled before the first step */
        if (nnl_buffer_is_copied(&p->buffer[b]) && p->buffer[b].first >= 0) p->buffer[b].first = 0;
    }
}

static void sift(const nnl_program *p, int32_t *order, int at, int count)
{
    int32_t item = order[at];
    for (;;) {
        int child = 2 * at + 1;
        if (child >= count) break;
        if (child + 1 < count && p->buffer[order[child + 1]].bytes < p->buffer[order[child]].bytes)
            child++;
        if (p->buffer[order[child]].bytes >= p->buffer[item].bytes) break;
        order[at] = order[child];
        at = child;
    }
    order[at] = item;
}

static void sort_by_size(const nnl_program *p, int32_t *order, int count)
{
    for (int i = count / 2 - 1; i >= 0; i--) sift(p, order, i, count);
    for (int end = count - 1; end > 0;
         end--) { /* a heap with the smallest on top: the result descends */
        int32_t top = order[0];
        order[0] = order[end];
        order[end] = top;
        sift(p, order, 0, end);
    }
}

static int64_t room_of(const nnl_buffer *b)
{
    return (int64_t)((b->bytes + ALIGN - 1) / ALIGN * ALIGN);
}

/* The lowest place for buffer `b` beside those placed before it, which are kept sorted by place. */
static int64_t lowest(const nnl_program *p, const nnl_buffer *b, const int32_t *placed, int count)
{
    int64_t at = 0;
    for (int i = 0; i < count; i++) {
        const nnl_buffer *other = &p->buffer[placed[i]];
        if (other->last < b->first || other->first > b->last) continue;
        if (at + room_of(b) <= other->place) break;
        at = NNL_MAX(at, other->place + room_of(other));
    }
    return at;
}

nnl_status nnl_program_plan(nnl_program *p)
{
    find_lifetimes(p);
    void *block;
    size_t bytes = 2 * sizeof(int32_t) * (size_t)NNL_MAX(p->n_buffers, 1);
    NNL_TRY(nnl_alloc(p->rt, bytes, &block));
    int32_t *order = block, *placed = order + p->n_buffers;
    int count = 0;
    for (int b = 0; b < p->n_buffers; b++) {
        if (nnl_buffer_is_in_arena(&p->buffer[b])) order[count++] = b;
    }
    sort_by_size(p, order, count);
    p->arena_bytes = 0;
    for (int i = 0; i < count; i++) {
        nnl_buffer *b = &p->buffer[order[i]];
        b->place = lowest(p, b, placed, i);
        int at = i;
        for (; at > 0 && p->buffer[placed[at - 1]].place > b->place; at--)
            placed[at] = placed[at - 1];
        placed[at] = order[i];
        p->arena_bytes = NNL_MAX(p->arena_bytes, (size_t)(b->place + room_of(b)));
    }
    nnl_free(p->rt, block, bytes);
    return NNL_OK;
}

nnl_status nnl_program_finish(nnl_program *p)
{
    if (p->n_steps == 0) return NNL_OK; /* arguments are handed on, at most */
    NNL_TRY(nnl_program_simplify(p));
    NNL_TRY(nnl_program_reorder(p));
    NNL_TRY(nnl_program_slope(p));
    NNL_TRY(nnl_program_fold(p));
    NNL_TRY(nnl_program_absorb(p));
    NNL_TRY(nnl_program_join(p));
    NNL_TRY(nnl_program_frame(p));
    NNL_TRY(nnl_program_winograd(p));
    NNL_TRY(nnl_program_pool(p));
    NNL_TRY(nnl_program_fuse(p));
    return nnl_program_plan(p);
}
