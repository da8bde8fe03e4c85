/* Runs and differentiates ops by their compositions. */
#include "composed.h"

#include <string.h>

nnl_status nnl_run_define(nnl_call *c)
{
    nnl_scope s;
    nnl_tensor *out[NNL_MAX_RESULTS] = {NULL};
    bool mode = nnl_set_grad_mode(c->rt, false);
    nnl_scope_open(&s, c->rt, c->index_base);
    nnl_define d = {.s = &s,
                    .op = c->op,
                    .n_in = c->n_in,
                    .n_out = c->n_out,
                    .in = c->in,
                    .out = out,
                    .attr = c->attr,
                    .random = c->random,
                    .seed = c->rt->seed};
    c->op->define(&d);
    nnl_status status = s.status;
    if (status == NNL_OK) status = nnl_copy_noted(c->out[0], out[0]);
    nnl_scope_close(&s);
    nnl_set_grad_mode(c->rt, mode);
    return status;
}

/* Headers of the inputs without history, so that the walk ends at them. */
static void stand_ins(nnl_grad *g, nnl_tensor **in, nnl_tensor **wanted, int *count)
{
    for (int i = 0; i < g->n_in; i++) {
        in[i] = g->in[i];
        if (!g->needs[i] || g->s->status != NNL_OK) continue;
        nnl_tensor *alias;
        nnl_status status = nnl_tensor_alias(g->in[i], &alias);
        if (status != NNL_OK) {
            nnl_scope_fail(g->s, status);
            return;
        }
        alias->requires_grad = true;
        wanted[(*count)++] = in[i] = nnl_keep(g->s, alias);
    }
}

void nnl_grad_define(nnl_grad *g)
{
    nnl_scope *s = g->s;
    nnl_tensor *in[NNL_MAX_PARAMS], *wanted[NNL_MAX_PARAMS], *grads[NNL_MAX_PARAMS] = {NULL},
                                                             *out[NNL_MAX_RESULTS] = {NULL};
    int count = 0, taken = 0;
    stand_ins(g, in, wanted, &count);
    if (s->status != NNL_OK || !g->dy[0]) return;
    bool mode = nnl_set_grad_mode(s->rt, true);
    nnl_define d = {.s = s,
                    .op = g->op,
                    .n_in = g->n_in,
                    .n_out = g->n_out,
                    .in = in,
                    .out = out,
                    .attr = g->attr,
                    .random = g->random,
                    .seed = g->seed};
    g->op->define(&d);
    nnl_set_grad_mode(s->rt, mode);
    if (s->status != NNL_OK) return;
    nnl_tensor *dy = nnl_converted(s, g->dy[0], (nnl_dtype)out[0]->dtype);
    if (s->status == NNL_OK)
        nnl_scope_fail(s, nnl_grad_of(out[0], dy, wanted, count, false, false, true, grads));
    for (int i = 0; i < g->n_in && s->status == NNL_OK; i++) {
        if (!g->needs[i]) continue;
        nnl_tensor *grad = grads[taken++];
        if (grad) g->dx[i] = nnl_keep(s, grad);
    }
}
