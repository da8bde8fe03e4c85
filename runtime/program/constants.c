/* Steps that depend on nothing but constants of the capture are run now, and their results are
 * constants, too. Tensors from outside are none: the script may change them between runs. */
#include "program.h"

#include <string.h>

static bool is_constant(const nnl_program *p, int32_t value)
{
    if (value < 0) return true;
    const nnl_buffer *b = &p->buffer[p->value[value].buffer];
    return b->kind == NNL_BUFFER_CONST && !nnl_buffer_is_copied(b);
}

static bool depends_on_constants(const nnl_program *p, const nnl_step *step, const uint32_t *writes)
{
    if (!nnl_step_is_pure(p, step, writes)) return false;
    for (int k = 0; k < step->n_in; k++) {
        if (!is_constant(p, step->in[k])) return false;
    }
    return true;
}

static void drop_storages(nnl_program *p, const nnl_step *step)
{
    for (int k = 0; k < step->n_out; k++) {
        nnl_buffer *b = step->out[k] < 0 ? NULL : &p->buffer[p->value[step->out[k]].buffer];
        if (!b || !b->storage) continue;
        nnl_storage_unref(b->storage);
        b->storage = NULL;
    }
}

/* Memory of their own for the step's results. */
static nnl_status make_storages(nnl_program *p, const nnl_step *step)
{
    nnl_status status = NNL_OK;
    for (int k = 0; k < step->n_out && status == NNL_OK; k++) {
        nnl_buffer *b = step->out[k] < 0 ? NULL : &p->buffer[p->value[step->out[k]].buffer];
        if (b) status = nnl_storage_new(p->rt, b->bytes, &b->storage);
    }
    if (status != NNL_OK) drop_storages(p, step);
    return status;
}

static nnl_status run_now(nnl_program *p, const nnl_step *step)
{
    nnl_bump bump = {.rt = p->rt};
    nnl_tensor *tensors;
    int count = step->n_in + step->n_out;
    nnl_call c = {.rt = p->rt,
                  .op = step->op,
                  .n_in = step->n_in,
                  .n_out = step->n_out,
                  .attr = step->attr,
                  .spec = step->spec,
                  .index_base = step->index_base,
                  .keep = step->keep};
    nnl_status status = nnl_sig_of(p->rt, step->op, &c.sig);
    if (status == NNL_OK)
        status = nnl_bump_alloc(&bump, sizeof(nnl_tensor) * (size_t)count, &tensors);
    if (status == NNL_OK)
        status = nnl_bump_alloc(&bump, sizeof(nnl_tensor *) * (size_t)count, &c.in);
    for (int k = 0; k < count && status == NNL_OK; k++) {
        int32_t v = k < step->n_in ? step->in[k] : step->out[k - step->n_in];
        if (v < 0) continue;
        nnl_storage *storage = p->buffer[p->value[v].buffer].storage;
        tensors[k] = p->value[v].form;
        tensors[k].refs = 1;
        tensors[k].rt = p->rt;
        tensors[k].storage = storage;
        tensors[k].data = (char *)storage->data + p->value[v].offset;
        c.in[k] = &tensors[k];
    }
    if (status == NNL_OK) {
        c.out = c.in + step->n_in;
        if (step->start)
            memcpy(c.start, step->start, sizeof(int16_t) * (size_t)(c.sig->tensors + 1));
        nnl_fp_state fp;
        nnl_fp_enter(&fp);
        status = step->op->run(&c);
        nnl_fp_leave(&fp);
    }
    nnl_bump_free(&bump);
    return status;
}

/* A step that fails for what it computes (a position out of range) stays, and fails when the
 * program runs. */
static nnl_status fold(nnl_program *p, const nnl_step *step, bool *done)
{
    *done = false;
    NNL_TRY(make_storages(p, step));
    nnl_status status = run_now(p, step);
    if (status != NNL_OK) {
        drop_storages(p, step);
        return status == NNL_ENOMEM || status == NNL_ECANCELLED ? status : NNL_OK;
    }
    for (int k = 0; k < step->n_out; k++) {
        if (step->out[k] < 0) continue;
        nnl_buffer *b = &p->buffer[p->value[step->out[k]].buffer];
        b->kind = NNL_BUFFER_CONST;
        b->written = false;
    }
    *done = true;
    return NNL_OK;
}

/* Constants that only led to others are not kept. */
static void drop_unused(nnl_program *p)
{
    for (int b = 0; b < p->n_buffers; b++) p->buffer[b].last = 0;
    for (int i = 0; i < p->n_steps; i++) {
        const nnl_step *step = &p->step[i];
        for (int k = 0; k < step->n_in + step->n_out; k++) {
            int32_t v = k < step->n_in ? step->in[k] : step->out[k - step->n_in];
            if (v >= 0) p->buffer[p->value[v].buffer].last = 1;
        }
    }
    for (int b = 0; b < p->n_buffers; b++) {
        nnl_buffer *buffer = &p->buffer[b];
        bool unused = buffer->kind == NNL_BUFFER_CONST && !buffer->last && !buffer->escapes;
        buffer->last = -1;
        if (!unused || !buffer->storage) continue;
        nnl_storage_unref(buffer->storage);
        buffer->storage = NULL;
    }
}

nnl_status nnl_program_constants(nnl_program *p)
{
    void *block;
    size_t bytes = sizeof(uint32_t) * (size_t)(p->n_buffers + 1);
    NNL_TRY(nnl_alloc_zeroed(p->rt, bytes, &block));
    uint32_t *writes = block;
    for (int i = 0; i < p->n_steps; i++) nnl_step_count_writes(p, &p->step[i], writes);
    nnl_status status = NNL_OK;
    int kept = 0;
    for (int i = 0; i < p->n_steps; i++) {
        bool done = false;
        p->step[kept] = p->step[i];
        if (status == NNL_OK && depends_on_constants(p, &p->step[kept], writes))
            status = fold(p, &p->step[kept], &done);
        kept += !done;
    }
    p->n_steps = kept;
    nnl_free(p->rt, block, bytes);
    drop_unused(p);
    return status;
}
