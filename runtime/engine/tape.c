/* The tape: one node for each recorded call, holding what backward will need. */
#include "engine.h"

#include <string.h>

bool nnl_tracks(const nnl_tensor *t)
{
    /* A view made before its base was rewritten with a tracked value is tracked through the base.
     */
    return t->requires_grad ||
           (t->base && t->history != t->base->history && t->base->requires_grad);
}

nnl_node *nnl_node_ref(nnl_node *node)
{
    node->refs++;
    return node;
}

static void drop_hooks(nnl_runtime *rt, nnl_grad_hook *hook)
{
    while (hook) {
        nnl_grad_hook *next = hook->next;
        if (hook->drop) hook->drop(hook->user);
        nnl_free(rt, hook, sizeof *hook);
        hook = next;
    }
}

/* Gives up what the node saved for backward. */
void nnl_node_release(nnl_runtime *rt, nnl_node *node)
{
    if (node->segment) nnl_segment_leave(rt, node);
    for (int i = 0; i < node->n_in + node->n_out; i++) {
        nnl_tensor *saved = node->saved[i];
        node->saved[i] = NULL;
        nnl_tensor_unref(saved);
    }
}

static void node_free(nnl_runtime *rt, nnl_node *node)
{
    nnl_node_release(rt, node);
    for (int i = 0; i < node->n_in; i++) {
        if (node->edge[i].node) nnl_node_unref(rt, node->edge[i].node);
        nnl_tensor_unref(node->edge[i].leaf);
    }
    drop_hooks(rt, node->hooks);
    if (node->where) nnl_free(rt, node->where, node->where_size);
    nnl_free(rt, node, node->block_size);
}

/* A chain of any length is freed without recursion: nodes whose count reaches 0 while another is
 * being freed queue up. */
void nnl_node_unref(nnl_runtime *rt, nnl_node *node)
{
    if (--node->refs > 0) return;
    nnl_engine *engine = rt->engine;
    node->next_dead = engine->dead;
    engine->dead = node;
    if (engine->draining) return;
    engine->draining = true;
    while (engine->dead) {
        nnl_node *next = engine->dead;
        engine->dead = next->next_dead;
        node_free(rt, next);
    }
    engine->draining = false;
}

/* tensor/tensor.c calls it for a tensor that goes. */
void nnl_tape_drop(nnl_tensor *t)
{
    if (t->node) nnl_node_unref(t->rt, t->node);
    if (t->base) nnl_tensor_unref(t->base);
    if (t->grad) nnl_tensor_unref(t->grad);
    drop_hooks(t->rt, t->hooks);
}

/* ---------------------------------------------------------------- recording */

static size_t up8(size_t n) { return (n + 7) / 8 * 8; }

static size_t value_bytes(const nnl_value *v)
{
    if (v->kind == NNL_KIND_INTS || v->kind == NNL_KIND_FLOATS) return 8 * (size_t)v->count;
    if (v->kind == NNL_KIND_STRING) return up8(strlen(v->as.s) + 1);
    return 0;
}

/* One block holds the node and everything of variable size behind it. */
static nnl_status node_new(nnl_call *c, nnl_node **out)
{
    size_t n_in = (size_t)c->n_in, n_out = (size_t)c->n_out, n_attr = (size_t)c->sig->attrs;
    size_t starts = c->sig->list_input ? (size_t)c->sig->tensors + 1 : 0;
    size_t size = up8(sizeof(nnl_node));
    size_t edges = size, saved, layouts, attrs, grads, versions, start, tail;
    saved = edges + n_in * sizeof(nnl_edge);
    grads = saved + (n_in + n_out) * sizeof(nnl_tensor *);
    layouts = grads + n_out * sizeof(nnl_tensor *);
    attrs = up8(layouts + (n_in + n_out) * sizeof(nnl_layout));
    versions = attrs + n_attr * sizeof(nnl_value);
    start = up8(versions + (n_in + n_out) * sizeof(uint32_t));
    tail = up8(start + starts * sizeof(int16_t));
    size = tail;
    for (size_t i = 0; i < n_attr; i++) size += value_bytes(&c->attr[i]);

    void *block;
    NNL_TRY(nnl_alloc(c->rt, size, &block));
    char *at = block;
    nnl_node *node = block;
    memset(node, 0, layouts);
    node->refs = 1;
    node->n_in = (int32_t)n_in;
    node->n_out = (int32_t)n_out;
    node->n_attr = (int32_t)n_attr;
    node->op = c->op;
    node->sequence = c->rt->engine->sequence++;
    node->random = c->random;
    node->seed = c->rt->seed;
    node->block_size = size;
    node->index_base = (int8_t)c->index_base;
    node->edge = (nnl_edge *)(void *)(at + edges);
    node->saved = (nnl_tensor **)(void *)(at + saved);
    node->grad = (nnl_tensor **)(void *)(at + grads);
    node->layout = (nnl_layout *)(void *)(at + layouts);
    node->attr = (nnl_value *)(void *)(at + attrs);
    node->version = (uint32_t *)(void *)(at + versions);
    node->start = starts ? (int16_t *)(void *)(at + start) : NULL;
    if (starts) memcpy(node->start, c->start, starts * sizeof(int16_t));
    char *rest = at + tail;
    for (size_t i = 0; i < n_attr; i++) {
        nnl_value *v = &node->attr[i];
        *v = c->attr[i];
        size_t bytes = value_bytes(v);
        if (!bytes) continue;
        memcpy(rest, v->as.s, v->kind == NNL_KIND_STRING ? strlen(v->as.s) + 1 : bytes);
        v->as.s = rest;
        rest += bytes;
    }
    *out = node;
    return NNL_OK;
}

static void note_layout(nnl_layout *layout, const nnl_tensor *t)
{
    layout->ndim = 0;
    layout->dtype = NNL_F32;
    if (!t) return;
    layout->dtype = t->dtype;
    layout->ndim = t->ndim;
    memcpy(layout->shape, t->shape, sizeof(int64_t) * t->ndim);
}

static bool saves_input(const nnl_call *c, int place)
{
    const nnl_op *op = c->op;
    if (op->define) return true;
    if (!(op->saves & NNL_SAVE_INPUT(NNL_MIN(place, 15)))) return false;
    if (!(op->saves & NNL_SAVE_CROSS)) return true;
    for (int i = 0; i < c->n_in; i++) {
        if (i != place && c->in[i] && nnl_tracks(c->in[i])) return true;
    }
    return false;
}

static void connect(nnl_edge *edge, nnl_tensor *t)
{
    if (!t->requires_grad) return;
    if (t->node) {
        edge->node = nnl_node_ref(t->node);
        edge->result = t->result;
    } else {
        edge->leaf = nnl_tensor_ref(t);
    }
}

static void set_history(nnl_tensor *t, nnl_node *node, int result)
{
    nnl_node *old = t->node;
    t->node = nnl_node_ref(node);
    t->result = result;
    t->requires_grad = true;
    if (old) nnl_node_unref(t->rt, old);
}

/* A second header for anything that may be changed in place under recording: its history would then
 * lead back to this node and keep both alive for ever.  Leaves that require grad are not, and are
 * known by their address. */
static nnl_status save_input(const nnl_call *c, nnl_node *node, int i)
{
    nnl_tensor *t = c->in[i];
    node->version[i] = t->storage->version;
    if (t->requires_grad && !t->node) {
        node->saved[i] = nnl_tensor_ref(t);
        return NNL_OK;
    }
    NNL_TRY(nnl_tensor_alias(t, &node->saved[i]));
    node->saved[i]->requires_grad = t->requires_grad;
    node->saved[i]->node = t->node ? nnl_node_ref(t->node) : NULL;
    node->saved[i]->result = t->result;
    return NNL_OK;
}

static nnl_status save_output(const nnl_call *c, nnl_node *node, int i)
{
    /* A second header, because the result itself refers to the node.  A result in place is noted
     * before it is written. */
    int place = c->n_in + i;
    NNL_TRY(nnl_tensor_alias(c->out[i], &node->saved[place]));
    node->version[place] = c->out[i]->storage->version + (c->inplace ? 1 : 0);
    return NNL_OK;
}

nnl_status nnl_node_save(const nnl_call *c, nnl_node *node, bool leaves_only)
{
    for (int i = 0; i < c->n_in; i++) {
        const nnl_tensor *t = c->in[i];
        if (!t || node->saved[i] || !saves_input(c, i)) continue;
        if (!leaves_only || (t->requires_grad && !t->node)) NNL_TRY(save_input(c, node, i));
    }
    for (int i = 0; i < c->n_out && !leaves_only; i++) {
        bool saves =
            c->op->saves & NNL_SAVE_OUTPUT(NNL_MIN(i, 14)) && !(c->op->define && !c->op->grad);
        if (saves && !node->saved[c->n_in + i]) NNL_TRY(save_output(c, node, i));
    }
    return NNL_OK;
}

static nnl_status note_where(nnl_runtime *rt, nnl_node *node)
{
    char text[256] = "";
    nnl_engine *engine = rt->engine;
    if (engine->where) engine->where(engine->where_user, text, sizeof text);
    if (!text[0]) return NNL_OK;
    void *block;
    size_t size = strlen(text) + 1;
    NNL_TRY(nnl_alloc(rt, size, &block));
    memcpy(block, text, size);
    node->where = block;
    node->where_size = size;
    return NNL_OK;
}

/* A node for the call with edges, saved values and layouts, not yet attached to its results. */
static nnl_status node_of_call(nnl_call *c, nnl_node **out)
{
    nnl_runtime *rt = c->rt;
    for (int i = 0; i < c->n_in; i++) {
        if (c->in[i] && c->in[i]->base) NNL_TRY(nnl_tape_refresh(c->in[i]));
    }
    nnl_node *node;
    bool keep_all = rt->engine->keeping.mode == NNL_KEEP_ALL;
    NNL_TRY(node_new(c, &node));
    for (int i = 0; i < c->n_in; i++) {
        note_layout(&node->layout[i], c->in[i]);
        if (c->in[i]) connect(&node->edge[i], c->in[i]);
    }
    for (int i = 0; i < c->n_out; i++) note_layout(&node->layout[c->n_in + i], c->out[i]);
    nnl_status status = nnl_node_save(c, node, !keep_all);
    if (status == NNL_OK && rt->engine->anomaly) status = note_where(rt, node);
    if (status == NNL_OK && NNL_UNLIKELY(!keep_all)) status = nnl_segment_note(c, node);
    if (status != NNL_OK) {
        nnl_node_unref(rt, node);
        return status;
    }
    *out = node;
    return NNL_OK;
}

/* ---------------------------------------------------------------- views changed in place */

/* The place of view within base, as attributes of as_strided: shape, strides, offset. */
static void view_geometry(const nnl_tensor *view, const nnl_tensor *base, nnl_value attr[3])
{
    attr[0] = V_INTS(view->ndim, view->shape);
    attr[1] = V_INTS(view->ndim, view->strides);
    attr[2] = V_INT((view->data - base->data) / (int64_t)nnl_dtype_size((nnl_dtype)view->dtype));
}

/* Records a call that is never run, because the storage already holds its result. */
static nnl_status record_formally(nnl_runtime *rt, const nnl_op *op, int n_in, nnl_tensor **in,
                                  nnl_value *attr, nnl_tensor *out, nnl_node **node)
{
    nnl_call c = {.rt = rt, .op = op, .in = in, .n_in = n_in, .attr = attr, .n_out = 1};
    c.out = &out;
    NNL_TRY(nnl_sig_of(rt, op, &c.sig));
    return node_of_call(&c, node);
}

nnl_status nnl_tape_refresh(nnl_tensor *t)
{
    nnl_tensor *base = t->base;
    if (!base || t->history == base->history) return NNL_OK;
    if (base->requires_grad) {
        nnl_value attr[3];
        nnl_node *node;
        view_geometry(t, base, attr);
        NNL_TRY(record_formally(t->rt, &nnl_op_as_strided, 1, &base, attr, t, &node));
        set_history(t, node, 0);
        nnl_node_unref(t->rt, node);
    }
    t->history = base->history;
    return NNL_OK;
}

/* The new value of a view becomes part of its base's history; the view then is a view of that. */
static nnl_status prepare_rebase(nnl_tensor *view, nnl_record *record)
{
    nnl_runtime *rt = view->rt;
    nnl_tensor *base = view->base;
    if (!base->contiguous)
        return NNL_FAIL(rt, NNL_ESTATE,
                        "%s_: this is a view of a detached tensor that is not contiguous; clone it "
                        "before changing it in place",
                        record->node->op->name);
    nnl_tensor *value, *whole = NULL;
    nnl_value attr[3];
    view_geometry(view, base, attr);
    NNL_TRY(nnl_tensor_alias(view, &value));
    set_history(value, record->node, 0);
    nnl_status status = record_formally(rt, &nnl_op_as_strided_scatter, 2,
                                        (nnl_tensor *[]){base, value}, attr, base, &record->write);
    if (status == NNL_OK) status = nnl_tensor_alias(base, &whole);
    if (status == NNL_OK) {
        set_history(whole, record->write, 0);
        status = record_formally(rt, &nnl_op_as_strided, 1, &whole, attr, view, &record->view);
    }
    nnl_tensor_unref(whole);
    nnl_tensor_unref(value);
    return status;
}

nnl_status nnl_tape_prepare(nnl_call *c, nnl_record *record)
{
    int mark = nnl_segment_mark(c->rt);
    *record = (nnl_record){NULL, NULL, NULL};
    NNL_TRY(node_of_call(c, &record->node));
    if (!c->inplace || !c->out[0]->base) return NNL_OK;
    nnl_status status = prepare_rebase(c->out[0], record);
    if (status == NNL_OK) return NNL_OK;
    nnl_tape_forget(c->rt, record);
    nnl_segment_rewind(c->rt, mark);
    return status;
}

void nnl_tape_forget(nnl_runtime *rt, nnl_record *record)
{
    nnl_node *nodes[] = {record->node, record->write, record->view};
    for (int i = 0; i < NNL_COUNT(nodes); i++) {
        if (nodes[i]) nnl_node_unref(rt, nodes[i]);
    }
    *record = (nnl_record){NULL, NULL, NULL};
}

void nnl_tape_commit(nnl_call *c, nnl_record *record)
{
    if (record->write) {
        nnl_tensor *view = c->out[0], *base = view->base;
        set_history(base, record->write, 0);
        view->history = ++base->history;
        set_history(view, record->view, 0);
    } else {
        for (int i = 0; i < c->n_out; i++) {
            if (nnl_is_float((nnl_dtype)c->out[i]->dtype)) set_history(c->out[i], record->node, i);
        }
        /* Views of a tensor that was rewritten look its history up again. */
        if (c->inplace) c->out[0]->history++;
    }
    nnl_tape_forget(c->rt, record);
}

/* ---------------------------------------------------------------- what users see of it */

bool nnl_grad_mode(const nnl_runtime *rt) { return rt->engine->grad_enabled; }

bool nnl_set_grad_mode(nnl_runtime *rt, bool on)
{
    bool before = rt->engine->grad_enabled;
    rt->engine->grad_enabled = on;
    return before;
}

bool nnl_tensor_requires_grad(const nnl_tensor *t) { return nnl_tracks(t); }

nnl_status nnl_tensor_set_requires_grad(nnl_tensor *t, bool on)
{
    if (!t) return NNL_EINVAL;
    if (on && !nnl_is_float((nnl_dtype)t->dtype))
        return NNL_FAIL(t->rt, NNL_ETYPE,
                        "requires_grad: only f32 and f64 tensors have gradients, this one is %s",
                        nnl_dtype_name((nnl_dtype)t->dtype));
    if (t->node && !on)
        return NNL_FAIL(t->rt, NNL_ESTATE,
                        "requires_grad: the result of an op cannot be switched off; detach it");
    if (!t->node) t->requires_grad = on;
    return NNL_OK;
}

nnl_tensor *nnl_tensor_grad(const nnl_tensor *t)
{
    nnl_recorder *r = t->rt->engine->recorder;
    if (NNL_UNLIKELY(r)) (void)r->grad(r, (nnl_tensor *)(uintptr_t)t, true);
    return t->grad;
}

nnl_status nnl_tensor_set_grad(nnl_tensor *t, nnl_tensor *grad)
{
    if (!t) return NNL_EINVAL;
    if (grad && grad->rt != t->rt)
        return NNL_FAIL(t->rt, NNL_EINVAL, "grad: the gradient belongs to another runtime");
    if (grad && (!nnl_same_shape(t, grad) || t->dtype != grad->dtype)) {
        char a[NNL_SHAPE_TEXT], b[NNL_SHAPE_TEXT];
        return NNL_FAIL(t->rt, NNL_ESHAPE, "grad: the gradient is %s %s, but the tensor is %s %s",
                        nnl_dtype_name((nnl_dtype)grad->dtype),
                        nnl_shape_text(a, grad->ndim, grad->shape),
                        nnl_dtype_name((nnl_dtype)t->dtype), nnl_shape_text(b, t->ndim, t->shape));
    }
    NNL_TRY(nnl_grad_touch(t, false));
    nnl_tensor *old = t->grad;
    t->grad = grad ? nnl_tensor_ref(grad) : NULL;
    nnl_tensor_unref(old);
    return NNL_OK;
}

nnl_status nnl_hook_add(nnl_tensor *t, nnl_status (*call)(void *, nnl_tensor *, nnl_tensor **),
                        void (*drop)(void *), void *user, int64_t *id)
{
    if (!nnl_tracks(t))
        return NNL_FAIL(t->rt, NNL_ESTATE, "register_hook: the tensor does not require grad");
    NNL_TRY(nnl_tape_refresh(t));
    void *block;
    NNL_TRY(nnl_alloc(t->rt, sizeof(nnl_grad_hook), &block));
    nnl_grad_hook *hook = block;
    *hook = (nnl_grad_hook){.id = (int64_t)t->rt->engine->sequence++,
                            .result = t->result,
                            .call = call,
                            .drop = drop,
                            .user = user};
    /* Hooks run in the order in which they were added. */
    nnl_grad_hook **end = t->node ? &t->node->hooks : &t->hooks;
    while (*end) end = &(*end)->next;
    *end = hook;
    *id = hook->id;
    return NNL_OK;
}

void nnl_hook_remove(nnl_tensor *t, int64_t id)
{
    nnl_grad_hook **place = t->node ? &t->node->hooks : &t->hooks;
    for (; *place; place = &(*place)->next) {
        if ((*place)->id != id) continue;
        nnl_grad_hook *hook = *place;
        if (t->rt->engine->hooks_running > 0) {
            hook->removed = true;
            return;
        }
        *place = hook->next;
        hook->next = NULL;
        drop_hooks(t->rt, hook);
        return;
    }
}
