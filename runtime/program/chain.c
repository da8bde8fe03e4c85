/* Runs a chain of elementwise loops block by block. */
#include "program.h"

#include <string.h>

#define CHUNK 16384 /* elements a task, rounded to whole blocks */

typedef struct run {
    const nnl_kernels *kernels;
    const nnl_chain *chain;
    const nnl_tensor *values;
    int64_t chunk;
} run;

/* A row written side by side until the block is full. */
static void repeat_row(char *to, const char *row, int64_t row_bytes, int64_t bytes)
{
    memcpy(to, row, (size_t)row_bytes);
    for (int64_t filled = row_bytes; filled < bytes; filled *= 2)
        memcpy(to + filled, to, (size_t)NNL_MIN(filled, bytes - filled));
}

typedef struct scratch {
    _Alignas(64) char slot[NNL_CHAIN_SLOTS][NNL_CHAIN_SLOT_BYTES];
    char row[NNL_CHAIN_ROWS][NNL_CHAIN_SLOT_BYTES];
} scratch;

static const void *input_of(const run *r, const nnl_operand *o, const scratch *s, int64_t at)
{
    if (o->slot >= 0) return o->pace == NNL_PACE_ROW ? s->row[o->slot] : s->slot[o->slot];
    const char *data = r->values[o->value].data;
    if (o->pace == NNL_PACE_ONE) return data;
    return data + (o->pace == NNL_PACE_EACH ? at : at % r->chain->row) * o->width;
}

static void run_block(const run *r, scratch *s, int64_t at, int64_t n)
{
    const nnl_chain *chain = r->chain;
    for (int m = 0; m < chain->n_links; m++) {
        const nnl_link *link = &chain->link[m];
        const void *in[3];
        int32_t step[3];
        for (int i = 0; i < link->inputs; i++) {
            in[i] = input_of(r, &link->in[i], s, at);
            step[i] = link->in[i].pace != NNL_PACE_ONE;
        }
        void *out = link->out.slot >= 0
                        ? s->slot[link->out.slot]
                        : (void *)(r->values[link->out.value].data + at * link->out.width);
        r->kernels->map[link->map][link->dtype](out, in, step, link->param, n);
    }
}

static void run_chunk(void *context, int64_t i)
{
    const run *r = context;
    const nnl_chain *chain = r->chain;
    scratch s;
    int64_t end = NNL_MIN((i + 1) * r->chunk, chain->numel);
    bool part_rows = chain->row > 0 && chain->n_rows == 0;
    for (int k = 0; k < chain->n_rows; k++) {
        int64_t bytes = NNL_MIN(chain->block, chain->numel) * chain->row_width[k];
        repeat_row(s.row[k], r->values[chain->row_value[k]].data, chain->row * chain->row_width[k],
                   bytes);
    }
    for (int64_t at = i * r->chunk; at < end;) {
        int64_t n = NNL_MIN(chain->block, end - at);
        if (part_rows) n = NNL_MIN(n, chain->row - at % chain->row);
        run_block(r, &s, at, n);
        at += n;
    }
}

nnl_status nnl_chain_run(nnl_runtime *rt, const nnl_chain *chain, const nnl_tensor *values)
{
    run r = {rt->kernels, chain, values, chain->numel};
    if (chain->numel * chain->work <= nnl_serial_work(rt)) {
        run_chunk(&r, 0);
        return NNL_OK;
    }
    r.chunk = NNL_MAX(CHUNK / chain->block, 1) * chain->block;
    return nnl_parallel(rt, (chain->numel + r.chunk - 1) / r.chunk, run_chunk, &r);
}
