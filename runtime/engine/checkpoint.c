/* Parts of the tape whose values are not kept.  When backward needs them, the function that made
 * them runs again: call by call, what backward reads is saved into the node of the first run.  The
 * second run's own nodes hold nothing, and go with its tensors. */
#include "engine.h"

#include <string.h>

struct nnl_segment {
    nnl_runtime *rt;
    int32_t refs; /* its nodes, inner segments, and whoever runs it */
    bool running;
    nnl_segment *outer;  /* reference; in whose function this one's was called */
    uint64_t seed, call; /* the random numbers at the beginning */
    nnl_node **node;     /* not references; NULL for those that went */
    nnl_segment **inner; /* the same */
    int n_nodes, n_inner, node_capacity, inner_capacity;
    int next_node, next_inner; /* of a run again */
    nnl_status (*again)(void *user);
    void (*drop)(void *user);
    void *user; /* NULL: comes when the outer function runs again */
};

static nnl_keeping *keeping(nnl_runtime *rt) { return &rt->engine->keeping; }

static void unref(nnl_segment *s)
{
    while (s && --s->refs == 0) {
        nnl_segment *outer = s->outer;
        for (int i = 0; outer && i < outer->n_inner; i++) {
            if (outer->inner[i] == s) outer->inner[i] = NULL;
        }
        if (s->user) s->drop(s->user);
        nnl_free(s->rt, s->node, sizeof(nnl_node *) * (size_t)s->node_capacity);
        nnl_free(s->rt, s->inner, sizeof(nnl_segment *) * (size_t)s->inner_capacity);
        nnl_free(s->rt, s, sizeof *s);
        s = outer;
    }
}

/* Room for one more pointer. */
static nnl_status widen(nnl_runtime *rt, void *list, int count, int *capacity)
{
    void *block;
    if (count < *capacity) return NNL_OK;
    int grown = *capacity ? 2 * *capacity : 8;
    memcpy(&block, list, sizeof block);
    NNL_TRY(
        nnl_resize(rt, sizeof(void *) * (size_t)*capacity, sizeof(void *) * (size_t)grown, &block));
    memcpy(list, &block, sizeof block);
    *capacity = grown;
    return NNL_OK;
}

static nnl_status differs(nnl_runtime *rt, const char *how)
{
    return NNL_FAIL(rt, NNL_ESTATE,
                    "checkpoint: the function did something else when it ran again for backward: "
                    "%s; it must do "
                    "the same each time",
                    how);
}

/* ---------------------------------------------------------------- the first run */

static nnl_status segment_new(nnl_runtime *rt, nnl_segment **out)
{
    nnl_segment *outer = keeping(rt)->segment;
    void *block;
    if (outer) NNL_TRY(widen(rt, &outer->inner, outer->n_inner, &outer->inner_capacity));
    NNL_TRY(nnl_alloc_zeroed(rt, sizeof(nnl_segment), &block));
    nnl_segment *s = block;
    *s = (nnl_segment){.rt = rt,
                       .refs = 1,
                       .running = true,
                       .outer = outer,
                       .seed = rt->seed,
                       .call = rt->random_call};
    if (outer) {
        outer->refs++;
        outer->inner[outer->n_inner++] = s;
    }
    *out = s;
    return NNL_OK;
}

/* What an outer function, running again, calls: the inner one's segment learns how to run. */
static nnl_status hand_on(nnl_runtime *rt, nnl_status (*again)(void *), void (*drop)(void *),
                          void *user)
{
    nnl_segment *outer = keeping(rt)->segment;
    if (outer->next_inner == outer->n_inner) return differs(rt, "it called checkpoint more often");
    nnl_segment *s = outer->inner[outer->next_inner++];
    if (!s || s->user) {
        drop(user);
        return NNL_OK;
    }
    s->again = again;
    s->drop = drop;
    s->user = user;
    return NNL_OK;
}

nnl_status nnl_segment_open(nnl_runtime *rt, nnl_status (*again)(void *), void (*drop)(void *),
                            void *user, nnl_keeping *before)
{
    nnl_keeping now = *keeping(rt);
    *before = now;
    if (now.mode == NNL_KEEP_AGAIN) NNL_TRY(hand_on(rt, again, drop, user));
    if (now.mode == NNL_KEEP_NOWHERE) drop(user);
    if (now.mode == NNL_KEEP_AGAIN || now.mode == NNL_KEEP_NOWHERE) {
        *keeping(rt) = (nnl_keeping){.mode = NNL_KEEP_NOWHERE, .run = now.run};
        return NNL_OK;
    }
    nnl_segment *s;
    NNL_TRY(segment_new(rt, &s));
    s->again = again;
    s->drop = drop;
    s->user = user;
    *keeping(rt) = (nnl_keeping){.mode = NNL_KEEP_NONE, .segment = s, .run = now.run};
    return NNL_OK;
}

void nnl_segment_close(nnl_runtime *rt, const nnl_keeping *before)
{
    nnl_segment *s = keeping(rt)->segment;
    *keeping(rt) = *before;
    if (!s) return;
    s->running = false;
    if (s->outer && s->user) {
        s->drop(s->user);
        s->user = NULL;
    }
    unref(s);
}

static nnl_status note_first(const nnl_call *c, nnl_node *node)
{
    nnl_segment *s = keeping(c->rt)->segment;
    NNL_TRY(widen(c->rt, &s->node, s->n_nodes, &s->node_capacity));
    for (int i = 0; i < c->n_in; i++) node->version[i] = c->in[i] ? c->in[i]->storage->version : 0;
    s->refs++;
    node->segment = s;
    node->place = s->n_nodes;
    s->node[s->n_nodes++] = node;
    return NNL_OK;
}

/* ---------------------------------------------------------------- the run again */

static bool same_layout(const nnl_layout *a, const nnl_layout *b)
{
    return a->dtype == b->dtype && a->ndim == b->ndim &&
           memcmp(a->shape, b->shape, sizeof(int64_t) * a->ndim) == 0;
}

static bool same_call(const nnl_node *a, const nnl_node *b)
{
    bool same = a->op == b->op && a->n_in == b->n_in && a->n_out == b->n_out;
    for (int i = 0; same && i < a->n_out; i++)
        same = same_layout(&a->layout[a->n_in + i], &b->layout[b->n_in + i]);
    return same;
}

static nnl_status other_call(nnl_runtime *rt, const nnl_node *first, const nnl_node *now)
{
    char how[128 + 2 * NNL_SHAPE_TEXT], a[NNL_SHAPE_TEXT], b[NNL_SHAPE_TEXT];
    const nnl_layout *x = &first->layout[first->n_in], *y = &now->layout[now->n_in];
    nnl_format(how, sizeof how, "where %s (%s) was, %s (%s) is now", first->op->name,
               nnl_shape_text(a, x->ndim, x->shape), now->op->name,
               nnl_shape_text(b, y->ndim, y->shape));
    return differs(rt, how);
}

/* Nothing of a run that failed stays; leaves were saved before it. */
static void empty(nnl_node *node)
{
    for (int i = 0; i < node->n_in + node->n_out; i++) {
        if (i < node->n_in && node->edge[i].leaf) continue;
        nnl_tensor_unref(node->saved[i]);
        node->saved[i] = NULL;
    }
}

/* What was saved comes from the second run, but belongs to the history of the first. */
static void adopt(nnl_runtime *rt, const nnl_node *node)
{
    for (int i = 0; i < node->n_in; i++) {
        nnl_tensor *saved = node->saved[i];
        if (!saved || !saved->node) continue;
        nnl_node *other = saved->node;
        saved->node = nnl_node_ref(node->edge[i].node);
        saved->result = node->edge[i].result;
        nnl_node_unref(rt, other);
    }
}

static nnl_status note_again(const nnl_call *c, const nnl_node *now)
{
    nnl_segment *s = keeping(c->rt)->segment;
    if (s->next_node == s->n_nodes) return differs(c->rt, "it went on where it had ended");
    nnl_node *node = s->node[s->next_node];
    if (node && !node->filled) {
        if (!same_call(node, now)) return other_call(c->rt, node, now);
        for (int i = 0; i < c->n_in; i++) {
            if ((node->edge[i].node != NULL) != (now->edge[i].node != NULL))
                return other_call(c->rt, node, now);
            if (c->in[i] && c->in[i]->storage->version != node->version[i])
                return NNL_FAIL(c->rt, NNL_ESTATE,
                                "checkpoint: an input of %s was changed in place after the "
                                "function ran, so that "
                                "backward would compute with other values; change a clone instead",
                                c->op->name);
        }
        NNL_TRY(nnl_node_save(c, node, false));
        adopt(c->rt, node);
    }
    s->next_node++;
    return NNL_OK;
}

static nnl_status run_again(nnl_segment *s)
{
    nnl_runtime *rt = s->rt;
    nnl_keeping before = *keeping(rt);
    uint64_t seed = rt->seed, call = rt->random_call;
    bool mode = nnl_set_grad_mode(rt, true);
    *keeping(rt) = (nnl_keeping){NNL_KEEP_AGAIN, s, ++rt->engine->runs_again};
    rt->seed = s->seed;
    rt->random_call = s->call;
    s->running = true;
    s->next_node = s->next_inner = 0;
    nnl_status status = s->again(s->user);
    s->running = false;
    rt->seed = seed;
    rt->random_call = call;
    *keeping(rt) = before;
    nnl_set_grad_mode(rt, mode);
    NNL_TRY(status);
    return s->next_node == s->n_nodes ? NNL_OK : differs(rt, "it ended earlier");
}

nnl_status nnl_segment_again(nnl_segment *s)
{
    if (s->running)
        return NNL_FAIL(s->rt, NNL_ESTATE,
                        "checkpoint: backward through what the function computes cannot be called "
                        "inside of it, "
                        "where values are not kept");
    if (!s->user && s->outer) NNL_TRY(nnl_segment_again(s->outer));
    if (!s->user) return differs(s->rt, "it called checkpoint less often");
    s->refs++; /* hooks and the function may drop the nodes */
    nnl_status status = run_again(s);
    for (int i = 0; i < s->n_nodes; i++) {
        nnl_node *node = s->node[i];
        if (!node || node->filled) continue;
        if (status == NNL_OK)
            node->filled = true;
        else
            empty(node);
    }
    unref(s);
    return status;
}

/* ---------------------------------------------------------------- what the tape asks */

nnl_status nnl_segment_note(const nnl_call *c, nnl_node *node)
{
    switch (keeping(c->rt)->mode) {
    case NNL_KEEP_NONE: return note_first(c, node);
    case NNL_KEEP_AGAIN: return note_again(c, node);
    default: return NNL_OK;
    }
}

int nnl_segment_mark(const nnl_runtime *rt)
{
    const nnl_keeping *k = &rt->engine->keeping;
    return k->mode == NNL_KEEP_NONE    ? k->segment->n_nodes
           : k->mode == NNL_KEEP_AGAIN ? k->segment->next_node
                                       : 0;
}

void nnl_segment_rewind(nnl_runtime *rt, int mark)
{
    const nnl_keeping *k = keeping(rt);
    if (k->mode == NNL_KEEP_NONE) k->segment->n_nodes = mark;
    if (k->mode == NNL_KEEP_AGAIN) k->segment->next_node = mark;
}

void nnl_segment_leave(nnl_runtime *rt, nnl_node *node)
{
    (void)rt;
    nnl_segment *s = node->segment;
    node->segment = NULL;
    if (s->node[node->place] == node) s->node[node->place] = NULL;
    unref(s);
}
