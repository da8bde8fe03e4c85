/* relu's gradient behind that of max pooling changes places with it: where a window's maximum came
 * from, relu's result is that maximum, so the mask may be made from the pooled values, a quarter of
 * the elements.  Every gradient is kept or set to zero whole, whichever comes first: same bits. */
#include "program.h"

#include <string.h>

static bool is_max_pool(const nnl_op *op)
{
    static const nnl_op *const pools[] = {&nnl_op_max_pool1d,          &nnl_op_max_pool2d,
                                          &nnl_op_max_pool3d,          &nnl_op_adaptive_max_pool1d,
                                          &nnl_op_adaptive_max_pool2d, &nnl_op_adaptive_max_pool3d};
    for (int i = 0; i < NNL_COUNT(pools); i++) {
        if (op == pools[i]) return true;
    }
    return false;
}

/* The only step that writes the value's buffer, before step `end`; -1 when there are others. */
static int only_maker(const nnl_program *p, int32_t value, int end)
{
    int maker = -1;
    for (int i = 0; i < p->n_steps; i++) {
        for (int k = 0; k < p->step[i].n_out; k++) {
            int32_t out = p->step[i].out[k];
            if (out < 0 || p->value[out].buffer != p->value[value].buffer) continue;
            if (maker >= 0 || out != value || i >= end || p->step[i].inplace) return -1;
            maker = i;
        }
    }
    return maker;
}

static int readers(const nnl_program *p, int32_t value)
{
    int count = 0;
    for (int i = 0; i < p->n_steps; i++) {
        for (int k = 0; k < p->step[i].n_in; k++) {
            int32_t in = p->step[i].in[k];
            count += in >= 0 && p->value[in].buffer == p->value[value].buffer;
        }
    }
    return count;
}

/* The pooling step of which `back` is the gradient and relu's result, `mask`, the input; NULL when
 * that is not so. */
static const nnl_step *pooling_of(const nnl_program *p, int back, int32_t mask)
{
    int maker = only_maker(p, p->step[back].in[1], back);
    if (maker < 0) return NULL;
    const nnl_step *pool = &p->step[maker];
    if (!is_max_pool(pool->op) || pool->out[1] != p->step[back].in[1] || pool->in[0] != mask)
        return NULL;
    return only_maker(p, mask, maker) >= 0 && only_maker(p, pool->out[0], back) >= 0 ? pool : NULL;
}

static nnl_status exchange(nnl_program *p, int back, int relu, const nnl_step *pool)
{
    int32_t small, *in, *out;
    nnl_spec *spec;
    NNL_TRY(nnl_program_temporary(p, pool->out[0], &small));
    NNL_TRY(nnl_bump_alloc(&p->bump, 3 * sizeof(int32_t), &in));
    NNL_TRY(nnl_bump_alloc(&p->bump, 3 * sizeof(int32_t), &out));
    NNL_TRY(nnl_bump_alloc(&p->bump, sizeof(nnl_spec), &spec));
    const nnl_step masks = p->step[relu], spreads = p->step[back];
    memcpy(in, (int32_t[]){spreads.in[0], pool->out[0], small}, 3 * sizeof(int32_t));
    memcpy(out, (int32_t[]){small, spreads.in[1], masks.out[0]}, 3 * sizeof(int32_t));
    *spec = pool->spec[0];
    p->step[back] = masks;
    p->step[back].in = in;
    p->step[back].out = in + 2;
    p->step[back].spec = spec;
    p->step[relu] = spreads;
    p->step[relu].in = out;
    p->step[relu].out = out + 2;
    return NNL_OK;
}

nnl_status nnl_program_reorder(nnl_program *p)
{
    for (int i = 0; i < p->n_steps; i++) {
        const nnl_step *relu = &p->step[i];
        if (relu->op != &nnl_op_relu_backward || relu->inplace) continue;
        int back = only_maker(p, relu->in[0], i);
        const nnl_buffer *between = &p->buffer[p->value[relu->in[0]].buffer],
                         *result = &p->buffer[p->value[relu->out[0]].buffer];
        if (back < 0 || p->step[back].op != &nnl_op_max_pool_backward ||
            readers(p, relu->in[0]) != 1)
            continue;
        if (between->kind != NNL_BUFFER_TEMP || between->escapes || result->kind != NNL_BUFFER_TEMP)
            continue;
        if (!nnl_same_form(&p->value[relu->in[0]].form, &p->value[relu->out[0]].form)) continue;
        const nnl_step *pool = pooling_of(p, back, relu->in[1]);
        if (pool) NNL_TRY(exchange(p, back, i, pool));
    }
    return NNL_OK;
}
