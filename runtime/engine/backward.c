/* The way back along the tape: iterative, in the reverse order of recording, with gradients of
 * leaves staged and committed when nothing can fail any more. */
#include "engine.h"

#include <string.h>

typedef struct target {
    nnl_tensor *tensor; /* whose gradient is wanted */
    nnl_tensor *grad;   /* reference; what has arrived so far */
} target;

typedef struct walk {
    nnl_runtime *rt;
    nnl_node **nodes; /* reachable ones */
    int64_t count, capacity;
    uint64_t mark, floor; /* nodes older than floor are not entered */
    target *targets;      /* asked for (nnl_grad_of), or the leaves met (nnl_backward) */
    int64_t n_targets, targets_capacity;
    bool collect_leaves, create_graph, retain_graph;
    bool relieved; /* memory was short once */
} walk;

/* After a failure: whether the step that failed, and has changed nothing, is worth another try. */
static bool relieve(walk *w, nnl_status status)
{
    nnl_engine *engine = w->rt->engine;
    if (NNL_LIKELY(status != NNL_ENOMEM) || w->relieved || !engine->relieve) return false;
    w->relieved = true;
    return engine->relieve(engine->relieve_user);
}

/* Twice the room, or room for the first ones, in a list of the walk. */
static nnl_status grow(walk *w, void **list, int64_t *capacity, size_t element, int64_t first)
{
    int64_t grown = *capacity ? *capacity * 2 : first;
    size_t size = (size_t)*capacity * element;
    nnl_status status = nnl_resize(w->rt, size, (size_t)grown * element, list);
    if (relieve(w, status)) status = nnl_resize(w->rt, size, (size_t)grown * element, list);
    if (status == NNL_OK) *capacity = grown;
    return status;
}

static nnl_status push_node(walk *w, nnl_node *node)
{
    if (node->busy)
        return NNL_FAIL(
            w->rt, NNL_ESTATE,
            "backward: a gradient hook cannot walk back through the graph that is being walked");
    if (w->count == w->capacity) {
        void *block = w->nodes;
        NNL_TRY(grow(w, &block, &w->capacity, sizeof(nnl_node *), 64));
        w->nodes = block;
    }
    node->mark = w->mark;
    node->busy = true;
    node->needed = w->collect_leaves;
    w->nodes[w->count++] = node;
    return NNL_OK;
}

/* Ascending by sequence, in place and without the heap that qsort may use; mostly sorted input is
 * left at once. */
static void sift(nnl_node **a, int64_t at, int64_t count)
{
    nnl_node *node = a[at];
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= count) break;
        if (child + 1 < count && a[child + 1]->sequence > a[child]->sequence) child++;
        if (a[child]->sequence <= node->sequence) break;
        a[at] = a[child];
        at = child;
    }
    a[at] = node;
}

static void sort_nodes(nnl_node **a, int64_t count)
{
    bool ascending = true, descending = true;
    for (int64_t i = 1; i < count; i++) {
        ascending &= a[i - 1]->sequence < a[i]->sequence;
        descending &= a[i - 1]->sequence > a[i]->sequence;
    }
    if (ascending) return;
    if (descending) {
        for (int64_t i = 0, j = count - 1; i < j; i++, j--) {
            nnl_node *node = a[i];
            a[i] = a[j];
            a[j] = node;
        }
        return;
    }
    for (int64_t i = count / 2 - 1; i >= 0; i--) sift(a, i, count);
    for (int64_t end = count - 1; end > 0; end--) {
        nnl_node *top = a[0];
        a[0] = a[end];
        a[end] = top;
        sift(a, 0, end);
    }
}

static target *find_target(walk *w, const nnl_edge *edge)
{
    for (int64_t i = 0; i < w->n_targets; i++) {
        nnl_tensor *t = w->targets[i].tensor;
        if (edge->leaf ? t == edge->leaf : t->node == edge->node && t->result == edge->result)
            return &w->targets[i];
    }
    return NULL;
}

static bool enters(const walk *w, const nnl_node *node) { return node->sequence >= w->floor; }

static nnl_status collect(walk *w, nnl_node *root)
{
    w->mark = ++w->rt->engine->mark;
    NNL_TRY(push_node(w, root));
    for (int64_t i = 0; i < w->count; i++) {
        NNL_TRY(nnl_poll_cancel(w->rt));
        for (int e = 0; e < w->nodes[i]->n_in; e++) {
            nnl_node *next = w->nodes[i]->edge[e].node;
            if (next && next->mark != w->mark && enters(w, next)) NNL_TRY(push_node(w, next));
        }
    }
    sort_nodes(w->nodes, w->count);
    if (w->collect_leaves) return NNL_OK;
    /* Only what lies between the root and the targets is computed. */
    for (int64_t i = 0; i < w->count; i++) {
        nnl_node *node = w->nodes[i];
        for (int e = 0; e < node->n_in && !node->needed; e++) {
            const nnl_edge *edge = &node->edge[e];
            node->needed = (edge->node && enters(w, edge->node) && edge->node->needed) ||
                           ((edge->node || edge->leaf) && find_target(w, edge));
        }
    }
    return NNL_OK;
}

/* ---------------------------------------------------------------- collecting gradients */

static bool unshared(const nnl_tensor *t)
{
    int32_t recorded =
        t->rt->capturing && t->storage->unset; /* the recorder holds a reference, too */
    return t->refs == 1 && t->storage->refs - recorded <= 1 &&
           (t->contiguous || nnl_is_channels_last(t));
}

/* Adds a gradient (borrowed) to *slot. */
static nnl_status accumulate(walk *w, nnl_tensor **slot, nnl_tensor *grad)
{
    if (!*slot) {
        *slot = nnl_tensor_ref(grad);
        return NNL_OK;
    }
    bool inplace = !w->create_graph && unshared(*slot) && (*slot)->dtype == grad->dtype;
    nnl_request request = {
        .op = &nnl_op_add, .in = (nnl_tensor *[]){*slot, grad}, .n_in = 2, .inplace = inplace};
    nnl_results results;
    NNL_TRY(nnl_request_run(w->rt, &request, &results));
    nnl_tensor_unref(*slot);
    *slot = results.out[0];
    return NNL_OK;
}

/* The same, with another try. */
static nnl_status gather(walk *w, nnl_tensor **slot, nnl_tensor *grad)
{
    nnl_status status = accumulate(w, slot, grad);
    return relieve(w, status) ? accumulate(w, slot, grad) : status;
}

static void sweep_hooks(nnl_runtime *rt, nnl_grad_hook **place)
{
    while (*place) {
        nnl_grad_hook *hook = *place;
        if (!hook->removed) {
            place = &hook->next;
            continue;
        }
        *place = hook->next;
        if (hook->drop) hook->drop(hook->user);
        nnl_free(rt, hook, sizeof *hook);
    }
}

/* Hooks may remove themselves and others, which then are not called any more, and add some, which
 * wait for the next time. */
static nnl_status run_hooks(nnl_runtime *rt, nnl_grad_hook **hooks, int32_t result,
                            nnl_tensor **grad)
{
    if (!*hooks) return NNL_OK;
    nnl_status status = NNL_OK;
    int64_t first_new = (int64_t)rt->engine->sequence;
    rt->engine->hooks_running++;
    for (nnl_grad_hook *hook = *hooks; hook && status == NNL_OK; hook = hook->next) {
        if (hook->result != result || hook->removed || hook->id >= first_new) continue;
        nnl_tensor *replace = NULL;
        status = hook->call(hook->user, *grad, &replace);
        if (status != NNL_OK || !replace) continue;
        nnl_tensor_unref(*grad);
        *grad = replace;
    }
    if (--rt->engine->hooks_running == 0) sweep_hooks(rt, hooks);
    return status;
}

static nnl_status leaf_target(walk *w, nnl_tensor *leaf, target **out)
{
    /* Leaves of earlier nodes are found from the back: layers come in reverse. */
    for (int64_t i = w->n_targets - 1; i >= 0; i--) {
        if (w->targets[i].tensor == leaf) {
            *out = &w->targets[i];
            return NNL_OK;
        }
    }
    if (w->n_targets == w->targets_capacity) {
        void *block = w->targets;
        NNL_TRY(grow(w, &block, &w->targets_capacity, sizeof(target), 32));
        w->targets = block;
    }
    *out = &w->targets[w->n_targets++];
    **out = (target){nnl_tensor_ref(leaf), NULL}; /* hooks may drop it */
    return NNL_OK;
}

static nnl_status deliver(walk *w, const nnl_edge *edge, nnl_tensor *grad)
{
    if (edge->node && enters(w, edge->node))
        return gather(w, &edge->node->grad[edge->result], grad);
    target *t = NULL;
    if (w->collect_leaves)
        NNL_TRY(leaf_target(w, edge->leaf, &t));
    else
        t = find_target(w, edge);
    return t ? gather(w, &t->grad, grad) : NNL_OK;
}

/* Brings a gradient to the form of its input: sums over broadcast dimensions, converts the type. */
static nnl_tensor *fit(nnl_scope *s, nnl_tensor *dx, const nnl_layout *layout)
{
    if (!dx) return NULL;
    if (dx->ndim != layout->ndim ||
        memcmp(dx->shape, layout->shape, sizeof(int64_t) * layout->ndim) != 0) {
        int64_t dims[NNL_MAX_DIMS];
        int count = 0, extra = dx->ndim - layout->ndim;
        for (int d = 0; d < dx->ndim; d++) {
            if (d < extra || (layout->shape[d - extra] == 1 && dx->shape[d] != 1))
                dims[count++] = d;
        }
        if (count > 0) dx = DO_WITH(s, sum, (V_INTS(count, dims), V_FLAG(true)), dx);
        if (extra != 0) dx = nnl_reshaped(s, dx, layout->ndim, layout->shape);
    }
    return nnl_converted(s, dx, (nnl_dtype)layout->dtype);
}

/* ---------------------------------------------------------------- one node */

static nnl_status walk_back(walk *w, nnl_node *root, int32_t result, nnl_tensor *seed);

static nnl_status node_fail(nnl_runtime *rt, const nnl_node *node, nnl_status status,
                            const char *what)
{
    if (node->where)
        return NNL_FAIL(rt, status, "backward of %s (recorded at %s): %s", node->op->name,
                        node->where, what);
    return NNL_FAIL(rt, status, "backward of %s: %s", node->op->name, what);
}

static nnl_status check_saved(nnl_runtime *rt, const nnl_node *node)
{
    if (node->consumed)
        return node_fail(
            rt, node, NNL_ESTATE,
            "the graph was already used; call the first backward with retain_graph = true");
    for (int i = 0; i < node->n_in + node->n_out; i++) {
        const nnl_tensor *saved = node->saved[i];
        if (saved && saved->storage->version != node->version[i])
            return node_fail(
                rt, node, NNL_ESTATE,
                i < node->n_in
                    ? "one of its inputs was changed in place after the op ran; change a clone "
                      "instead"
                    : "its result was changed in place after the op ran; change a clone instead");
    }
    return NNL_OK;
}

/* The gradient by way of the op's composition: runs it under recording and walks back through that.
 */
static void grad_by_define(walk *w, nnl_grad *g, nnl_node *node)
{
    nnl_scope *s = g->s;
    nnl_runtime *rt = w->rt;
    nnl_tensor *out[NNL_MAX_RESULTS] = {NULL};
    bool mode = nnl_set_grad_mode(rt, true);
    walk inner = {.rt = rt,
                  .create_graph = w->create_graph,
                  .floor = rt->engine->sequence,
                  .retain_graph = true, /* results share nodes; the scope frees them */
                  .relieved = true};    /* the whole step is tried again */
    /* Stand-ins without history of their own, so that gradients stop at this op's inputs. */
    nnl_tensor **in = NULL;
    size_t n_in = (size_t)node->n_in, bytes = n_in * (sizeof(nnl_tensor *) + sizeof(target));
    void *block = NULL;
    nnl_status status = nnl_alloc_zeroed(rt, bytes, &block);
    if (status == NNL_OK) {
        inner.targets = block;
        in = (nnl_tensor **)(void *)(inner.targets + n_in);
        for (size_t i = 0; i < n_in; i++) in[i] = node->saved[i];
        nnl_define d = {.s = s,
                        .op = node->op,
                        .n_in = node->n_in,
                        .n_out = node->n_out,
                        .in = in,
                        .out = out,
                        .attr = node->attr,
                        .start = node->start,
                        .random = node->random,
                        .seed = node->seed};
        node->op->define(&d);
        for (size_t i = 0; i < n_in; i++) {
            if (g->needs[i]) inner.targets[inner.n_targets++].tensor = in[i];
        }
        status = s->status;
    }
    nnl_set_grad_mode(rt, w->create_graph);
    for (int r = 0; r < node->n_out && status == NNL_OK; r++) {
        if (!g->dy[r] || !out[r] || !out[r]->node || !enters(&inner, out[r]->node)) {
            /* The composition may hand an input straight on. */
            for (int64_t i = 0; i < inner.n_targets && out[r] && g->dy[r]; i++) {
                if (inner.targets[i].tensor == out[r])
                    status = accumulate(&inner, &inner.targets[i].grad, g->dy[r]);
            }
            continue;
        }
        status = walk_back(&inner, out[r]->node, out[r]->result,
                           fit(s, g->dy[r], &node->layout[node->n_in + r]));
    }
    for (int i = 0, k = 0; i < node->n_in && block; i++) {
        if (!g->needs[i]) continue;
        nnl_tensor *grad = inner.targets[k].grad;
        inner.targets[k++].grad = NULL;
        if (grad) g->dx[i] = nnl_keep(s, grad);
    }
    if (inner.nodes) nnl_free(rt, inner.nodes, (size_t)inner.capacity * sizeof(nnl_node *));
    nnl_free(rt, block, bytes);
    nnl_set_grad_mode(rt, mode);
    if (status != NNL_OK) nnl_scope_fail(s, status);
}

/* Saved results, as tensors that belong to the node, for gradients of gradients. */
static nnl_status restore_outputs(nnl_scope *s, nnl_node *node, nnl_tensor **out)
{
    for (int i = 0; i < node->n_out; i++) {
        nnl_tensor *saved = node->saved[node->n_in + i];
        out[i] = NULL;
        if (!saved) continue;
        NNL_TRY(nnl_tensor_alias(saved, &out[i]));
        out[i]->node = nnl_node_ref(node);
        out[i]->result = i;
        out[i]->requires_grad = true;
        if (!nnl_keep(s, out[i])) return s->status;
    }
    return NNL_OK;
}

static nnl_status step_back(walk *w, nnl_node *node)
{
    nnl_runtime *rt = w->rt;
    if (NNL_UNLIKELY(node->segment && !node->filled)) NNL_TRY(nnl_segment_again(node->segment));
    NNL_TRY(check_saved(rt, node));
    const nnl_sig *sig;
    NNL_TRY(nnl_sig_of(rt, node->op, &sig));
    size_t n_in = (size_t)node->n_in, n_out = (size_t)node->n_out;
    size_t bytes = (n_in + n_out) * sizeof(nnl_tensor *) + n_in * sizeof(bool);
    nnl_tensor *inline_[2 * NNL_CALL_INLINE + 2];
    void *block = inline_;
    if (bytes > sizeof inline_) NNL_TRY(nnl_alloc(rt, bytes, &block));
    memset(block, 0, bytes);
    nnl_tensor **dx = block, **out = dx + n_in;
    bool *needs = (bool *)(out + n_out);
    for (int i = 0; i < node->n_in; i++) {
        const nnl_edge *edge = &node->edge[i];
        needs[i] = edge->leaf || edge->node;
        if (needs[i] && !w->collect_leaves)
            needs[i] =
                (edge->node && enters(w, edge->node) && edge->node->needed) || find_target(w, edge);
    }
    nnl_scope s;
    nnl_scope_open(&s, rt, node->index_base);
    nnl_status status = NNL_OK;
    if (w->create_graph)
        status = restore_outputs(&s, node, out);
    else
        for (int i = 0; i < node->n_out; i++) out[i] = node->saved[node->n_in + i];

    nnl_grad g = {.s = &s,
                  .op = node->op,
                  .sig = sig,
                  .n_in = node->n_in,
                  .n_out = node->n_out,
                  .in = node->saved,
                  .out = out,
                  .dy = node->grad,
                  .dx = dx,
                  .needs = needs,
                  .attr = node->attr,
                  .in_layout = node->layout,
                  .out_layout = node->layout + node->n_in,
                  .start = node->start,
                  .random = node->random,
                  .seed = node->seed};
    if (status != NNL_OK)
        nnl_scope_fail(&s, status);
    else if (node->op->define && (w->create_graph || !node->op->grad))
        grad_by_define(w, &g, node);
    else if (node->op->grad)
        node->op->grad(&g);
    else
        nnl_scope_fail(&s, node_fail(rt, node, NNL_EUNSUPPORTED, "it has no gradient"));

    status = s.status;
    /* all before the first is handed on, so that until then the step can be tried again */
    for (int i = 0; i < node->n_in && status == NNL_OK; i++) {
        if (needs[i] && dx[i]) dx[i] = fit(&s, dx[i], &node->layout[i]);
        status = s.status;
    }
    for (int i = 0; i < node->n_in && status == NNL_OK; i++) {
        if (!needs[i] || !dx[i]) continue;
        status = deliver(w, &node->edge[i], dx[i]);
        if (status == NNL_ENOMEM) w->relieved = true;
    }
    /* In anomaly mode the op of the script is wanted, not only the one within its gradient. */
    if (status == NNL_EINVAL && node->where && w->floor == 0)
        nnl_error_prefix(rt, "backward of %s (recorded at %s)", node->op->name, node->where);
    nnl_scope_close(&s);
    if (block != inline_) nnl_free(rt, block, bytes);
    return status;
}

static void drop_grads(nnl_node *node)
{
    for (int i = 0; i < node->n_out; i++) {
        nnl_tensor_unref(node->grad[i]);
        node->grad[i] = NULL;
    }
}

/* Targets inside the graph have all their gradient when their node's turn comes. */
static nnl_status capture_targets(walk *w, nnl_node *node)
{
    if (w->collect_leaves) return NNL_OK;
    for (int64_t i = 0; i < w->n_targets; i++) {
        target *t = &w->targets[i];
        if (t->tensor->node == node && node->grad[t->tensor->result])
            NNL_TRY(gather(w, &t->grad, node->grad[t->tensor->result]));
    }
    return NNL_OK;
}

static nnl_status visit_node(walk *w, nnl_node *node)
{
    bool arrived = false;
    for (int i = 0; i < node->n_out; i++) {
        if (!node->grad[i]) continue;
        arrived = true;
        NNL_TRY(run_hooks(w->rt, &node->hooks, i, &node->grad[i]));
    }
    if (!arrived) return NNL_OK;
    NNL_TRY(capture_targets(w, node));
    if (!node->needed) return NNL_OK;
    nnl_status status = step_back(w, node);
    if (relieve(w, status)) status = step_back(w, node);
    NNL_TRY(status);
    if (!w->retain_graph) {
        nnl_node_release(w->rt, node);
        node->consumed = true;
    }
    return NNL_OK;
}

static nnl_status walk_back(walk *w, nnl_node *root, int32_t result, nnl_tensor *seed)
{
    if (!seed) return NNL_ENOMEM; /* the scope that should have made it failed, with a message */
    w->count = 0;
    nnl_status status = collect(w, root);
    /* The nodes stay alive through the root, whatever hooks do. */
    nnl_node_ref(root);
    if (status == NNL_OK) status = gather(w, &root->grad[result], seed);
    int64_t i = w->count - 1;
    for (; i >= 0 && status == NNL_OK; i--) {
        status = nnl_poll_cancel(w->rt);
        if (status == NNL_OK) status = visit_node(w, w->nodes[i]);
        drop_grads(w->nodes[i]);
    }
    for (; i >= 0; i--) drop_grads(w->nodes[i]);
    for (i = 0; i < w->count; i++) w->nodes[i]->busy = false;
    nnl_node_unref(w->rt, root);
    return status;
}

static void walk_end(walk *w)
{
    if (w->nodes) nnl_free(w->rt, w->nodes, (size_t)w->capacity * sizeof(nnl_node *));
    for (int64_t i = 0; i < w->n_targets; i++) {
        nnl_tensor_unref(w->targets[i].grad);
        nnl_tensor_unref(w->targets[i].tensor);
    }
    if (w->targets) nnl_free(w->rt, w->targets, (size_t)w->targets_capacity * sizeof(target));
}

/* ---------------------------------------------------------------- from the root */

static nnl_status make_seed(nnl_tensor *root, nnl_tensor *seed, const char *who, nnl_tensor **out)
{
    nnl_runtime *rt = root->rt;
    char a[NNL_SHAPE_TEXT], b[NNL_SHAPE_TEXT];
    NNL_TRY(nnl_tape_refresh(root));
    if (!root->requires_grad)
        return NNL_FAIL(
            rt, NNL_ESTATE,
            "%s: the tensor was not made from any that requires grad (or inside no_grad)", who);
    if (seed) {
        if (seed->rt != rt)
            return NNL_FAIL(rt, NNL_EINVAL, "%s: the gradient belongs to another runtime", who);
        if (!nnl_same_shape(root, seed))
            return NNL_FAIL(rt, NNL_ESHAPE, "%s: the gradient is %s, but the tensor is %s", who,
                            nnl_shape_text(a, seed->ndim, seed->shape),
                            nnl_shape_text(b, root->ndim, root->shape));
        if (seed->dtype != root->dtype)
            return NNL_FAIL(rt, NNL_ETYPE, "%s: the gradient is %s, but the tensor is %s", who,
                            nnl_dtype_name((nnl_dtype)seed->dtype),
                            nnl_dtype_name((nnl_dtype)root->dtype));
        *out = nnl_tensor_ref(seed);
        return NNL_OK;
    }
    if (root->numel != 1)
        return NNL_FAIL(rt, NNL_ESHAPE,
                        "%s: the tensor is %s; only a single element needs no gradient argument "
                        "(sum it, or take its mean)",
                        who, nnl_shape_text(a, root->ndim, root->shape));
    nnl_spec spec;
    nnl_spec_like(&spec, root);
    NNL_TRY(nnl_tensor_make(rt, &spec, NULL, out));
    if (root->dtype == NNL_F32)
        *(float *)(*out)->data = 1;
    else
        *(double *)(*out)->data = 1;
    return NNL_OK;
}

static nnl_status run_walk(walk *w, nnl_tensor *root, nnl_tensor *seed)
{
    nnl_runtime *rt = w->rt;
    bool mode = nnl_set_grad_mode(rt, w->create_graph);
    nnl_keeping keeping = rt->engine->keeping;
    nnl_status status;
    rt->engine->keeping = (nnl_keeping){.mode = NNL_KEEP_ALL};
    if (root->node) {
        status = walk_back(w, root->node, root->result, seed);
    } else {
        nnl_edge edge = {.leaf = root};
        status = deliver(w, &edge, seed);
    }
    rt->engine->keeping = keeping;
    nnl_set_grad_mode(rt, mode);
    return status;
}

/* A gradient that becomes somebody's own: not shared, contiguous. */
static nnl_status make_own(walk *w, nnl_tensor **grad)
{
    if (unshared(*grad) && (*grad)->contiguous && !(*grad)->base) return NNL_OK;
    bool mode = nnl_set_grad_mode(w->rt, w->create_graph);
    nnl_request request = {.op = &nnl_op_clone, .in = grad, .n_in = 1};
    nnl_results results;
    nnl_status status = nnl_request_run(w->rt, &request, &results);
    nnl_set_grad_mode(w->rt, mode);
    NNL_TRY(status);
    nnl_tensor_unref(*grad);
    *grad = results.out[0];
    return NNL_OK;
}

/* A gradient that a script has set may be expanded: its elements are not written. */
static bool is_expanded(const nnl_tensor *t)
{
    for (int d = 0; d < t->ndim; d++) {
        if (t->strides[d] == 0 && t->shape[d] > 1) return true;
    }
    return false;
}

static bool adds_in_place(const walk *w, const nnl_tensor *old)
{
    return old && !w->create_graph && !is_expanded(old) && !w->rt->capturing;
}

static nnl_status prepare_commit(walk *w)
{
    /* All hooks first: they may change gradients that stand. */
    for (int64_t i = 0; i < w->n_targets; i++)
        NNL_TRY(run_hooks(w->rt, &w->targets[i].tensor->hooks, 0, &w->targets[i].grad));
    for (int64_t i = 0; i < w->n_targets; i++) {
        target *t = &w->targets[i];
        NNL_TRY(nnl_grad_touch(t->tensor, true));
        nnl_tensor *old = t->tensor->grad;
        if (adds_in_place(w, old)) continue;
        if (!old) {
            nnl_status status = make_own(w, &t->grad);
            if (relieve(w, status)) status = make_own(w, &t->grad);
            NNL_TRY(status);
            continue;
        }
        bool mode = nnl_set_grad_mode(w->rt, w->create_graph);
        nnl_status status = gather(w, &t->grad, old);
        nnl_set_grad_mode(w->rt, mode);
        NNL_TRY(status);
    }
    return nnl_poll_cancel(w->rt);
}

static void commit(walk *w)
{
    w->rt->hold_cancel = true;
    for (int64_t i = 0; i < w->n_targets; i++) {
        target *t = &w->targets[i];
        nnl_tensor *leaf = t->tensor, *old = leaf->grad;
        if (adds_in_place(w, old)) {
            /* Written straight into the gradient that stands: no allocation, nothing that can fail.
             */
            const double scale = 1;
            nnl_map_run(w->rt, NNL_MAP_add, 2, (nnl_tensor *[]){old, t->grad}, old, &scale);
            nnl_tensor_touch(old);
        } else {
            leaf->grad = t->grad;
            t->grad = NULL;
            nnl_tensor_unref(old);
        }
    }
    w->rt->hold_cancel = false;
}

nnl_status nnl_backward(nnl_tensor *root, nnl_tensor *seed, bool retain_graph, bool create_graph)
{
    if (!root) return NNL_EINVAL;
    nnl_fp_state fp;
    nnl_tensor *own_seed = NULL;
    walk w = {.rt = root->rt,
              .collect_leaves = true,
              .create_graph = create_graph,
              .retain_graph = retain_graph || create_graph};
    nnl_fp_enter(&fp);
    nnl_tensor_ref(root); /* hooks may drop it */
    nnl_status status = make_seed(root, seed, "backward", &own_seed);
    if (relieve(&w, status)) status = make_seed(root, seed, "backward", &own_seed);
    if (status == NNL_OK) status = run_walk(&w, root, own_seed);
    if (status == NNL_OK) status = prepare_commit(&w);
    if (status == NNL_OK) commit(&w);
    walk_end(&w);
    nnl_tensor_unref(own_seed);
    nnl_tensor_unref(root);
    nnl_fp_leave(&fp);
    return status;
}

nnl_status nnl_grad_of(nnl_tensor *root, nnl_tensor *seed, nnl_tensor *const *inputs, int n_inputs,
                       bool retain_graph, bool create_graph, bool allow_unused, nnl_tensor **grads)
{
    if (!root) return NNL_EINVAL;
    nnl_runtime *rt = root->rt;
    nnl_fp_state fp;
    nnl_tensor *own_seed = NULL;
    NNL_TRY(nnl_check_list(rt, "grad", "the inputs", n_inputs, inputs));
    NNL_TRY(nnl_check_list(rt, "grad", "the results", n_inputs, grads));
    walk w = {.rt = rt, .create_graph = create_graph, .retain_graph = retain_graph || create_graph};
    for (int i = 0; i < n_inputs; i++) grads[i] = NULL;
    if (n_inputs == 0) return NNL_OK;
    for (int i = 0; i < n_inputs; i++) {
        if (!inputs[i]) return NNL_FAIL(rt, NNL_EINVAL, "grad: input %d is NULL", i + 1);
        if (inputs[i]->rt != rt)
            return NNL_FAIL(rt, NNL_EINVAL, "grad: input %d belongs to another runtime", i + 1);
        nnl_status status = nnl_tape_refresh(inputs[i]);
        if (relieve(&w, status)) status = nnl_tape_refresh(inputs[i]);
        NNL_TRY(status);
        if (!inputs[i]->requires_grad)
            return NNL_FAIL(rt, NNL_EINVAL, "grad: input %d does not require grad", i + 1);
    }
    void *block;
    w.targets_capacity = n_inputs;
    nnl_status made = nnl_alloc_zeroed(rt, (size_t)n_inputs * sizeof(target), &block);
    if (relieve(&w, made)) made = nnl_alloc_zeroed(rt, (size_t)n_inputs * sizeof(target), &block);
    NNL_TRY(made);
    w.targets = block;
    for (int i = 0; i < n_inputs; i++) {
        bool again = false;
        for (int64_t k = 0; k < w.n_targets && !again; k++)
            again = w.targets[k].tensor == inputs[i];
        if (!again) w.targets[w.n_targets++].tensor = nnl_tensor_ref(inputs[i]);
    }
    nnl_fp_enter(&fp);
    nnl_tensor_ref(root);
    nnl_status status = make_seed(root, seed, "grad", &own_seed);
    if (relieve(&w, status)) status = make_seed(root, seed, "grad", &own_seed);
    if (status == NNL_OK) status = run_walk(&w, root, own_seed);
    for (int i = 0; i < n_inputs && status == NNL_OK; i++) {
        target *t = w.targets;
        while (t->tensor != inputs[i]) t++;
        if (t->grad)
            grads[i] = nnl_tensor_ref(t->grad);
        else if (!allow_unused)
            status = NNL_FAIL(rt, NNL_EINVAL,
                              "grad: the result does not depend on input %d; allow_unused = true "
                              "gives nil for it",
                              i + 1);
    }
    if (status != NNL_OK) {
        for (int i = 0; i < n_inputs; i++) {
            nnl_tensor_unref(grads[i]);
            grads[i] = NULL;
        }
    }
    walk_end(&w);
    nnl_tensor_unref(own_seed);
    nnl_tensor_unref(root);
    nnl_fp_leave(&fp);
    return status;
}
