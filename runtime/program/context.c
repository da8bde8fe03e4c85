/* Replays a program: every step's call lies ready, with tensors whose addresses are fixed but for
 * arguments, results and gradients, which are set at the beginning of a run. */
#include "program.h"

#include <stdlib.h>
#include <string.h>

typedef struct kept_grad {
    nnl_tensor *t[2]; /* written in turns, where the function adds to the gradient that stands */
} kept_grad;

/* What lies between the steps of a run.  Contexts that never run at the same time share one. */
typedef struct arena {
    char *data;
    size_t bytes;
    uint32_t moves;
    nnl_context *contexts; /* list of those that use it */
} arena;

/* Whether short runs are shared out to threads: what takes some ten microseconds often goes quicker
 * on one, whose cache holds everything.  How much quicker depends on the machine, so both are
 * timed; no bit depends on it. */
#define TRIAL 15             /* runs of either kind whose median counts */
#define TRIAL_WARM 5         /* before those */
#define TRIAL_AGAIN 5000     /* runs after which both are timed again */
#define TRIAL_LONGEST 300000 /* ns: longer runs are always shared out */

typedef struct trial {
    uint64_t ns[2][TRIAL]; /* shared out, alone */
    int runs;
    bool alone;
} trial;

struct nnl_context {
    nnl_program *program;
    nnl_runtime *rt;
    nnl_bump bump;
    arena *arena;
    nnl_context *next;    /* of the same arena */
    uint32_t moves;       /* of the arena, when temporary buffers were given their places */
    nnl_storage *storage; /* one a buffer: what the steps' tensors see */
    nnl_tensor *value;
    nnl_call *call;
    nnl_ready *ready;  /* one a step */
    uint32_t *version; /* one a buffer: of the fixed ones, when steps were made ready for them */
    nnl_storage *
        *bound; /* one a buffer: real storage of what leaves a TEMP one in this run; a reference */
    kept_grad *grad;      /* one a slot */
    nnl_tensor **leaving; /* one a slot: its gradient of this run */
    uint64_t *ns; /* one a step: the shortest time in a profiled run, 0 before there was one */
    bool any_fixed;
    trial trial;
    int first_effect; /* first step that changes something outside, or the number of steps */
};

/* ---------------------------------------------------------------- making */

static void place_values(nnl_context *x, int buffer)
{
    const nnl_program *p = x->program;
    char *data = x->storage[buffer].data;
    for (int32_t v = p->buffer[buffer].first_value; v >= 0; v = p->value[v].next)
        x->value[v].data = data + p->value[v].offset;
}

static void place_temporary(nnl_context *x)
{
    const nnl_program *p = x->program;
    for (int b = 0; b < p->n_buffers; b++) {
        const nnl_buffer *buffer = &p->buffer[b];
        if (!nnl_buffer_is_in_arena(buffer)) continue;
        x->storage[b].data = x->arena->data + buffer->place;
        place_values(x, b);
    }
    x->moves = x->arena->moves;
}

static void make_values(nnl_context *x)
{
    const nnl_program *p = x->program;
    for (int v = 0; v < p->n_values; v++) {
        x->value[v] = p->value[v].form;
        x->value[v].refs = 1;
        x->value[v].rt = x->rt;
        x->value[v].storage = &x->storage[p->value[v].buffer];
    }
    for (int b = 0; b < p->n_buffers; b++) {
        const nnl_buffer *buffer = &p->buffer[b];
        bool fixed = (buffer->kind == NNL_BUFFER_OUTER || buffer->kind == NNL_BUFFER_CONST) &&
                     !nnl_buffer_is_copied(buffer);
        x->storage[b] = (nnl_storage){.refs = 1, .bytes = buffer->bytes, .rt = x->rt};
        if (fixed && buffer->storage) x->storage[b].data = buffer->storage->data;
        if (x->storage[b].data) place_values(x, b);
    }
    place_temporary(x);
}

static nnl_status run_as_it_is(nnl_ready *r) { return r->call->op->run(r->call); }

static nnl_status make_ready(nnl_context *x, int place)
{
    const nnl_program *p = x->program;
    const nnl_step *step = &p->step[place];
    nnl_ready *r = &x->ready[place];
    if (!step->op->ready || step->chain) return NNL_OK;
    for (int i = 0; i < NNL_MIN(step->n_in, 32); i++) {
        if (step->in[i] < 0) continue;
        int buffer = p->value[step->in[i]].buffer;
        if (!nnl_buffer_is_fixed(&p->buffer[buffer])) continue;
        r->fixed |= 1u << i;
        x->version[buffer] = p->buffer[buffer].storage->version;
    }
    return step->op->ready(r);
}

static void drop_ready(nnl_context *x, int place)
{
    nnl_ready *r = &x->ready[place];
    nnl_free(x->rt, r->plan, r->plan_bytes);
    *r = (nnl_ready){.run = run_as_it_is, .call = r->call};
}

/* Makes steps ready again for fixed inputs that were changed since. */
static nnl_status refresh(nnl_context *x)
{
    const nnl_program *p = x->program;
    for (int i = 0; i < p->n_steps; i++) {
        bool stale = false;
        for (int k = 0; k < NNL_MIN(p->step[i].n_in, 32) && x->ready[i].fixed; k++) {
            if (!(x->ready[i].fixed >> k & 1u)) continue;
            int buffer = p->value[p->step[i].in[k]].buffer;
            stale |= x->version[buffer] != p->buffer[buffer].storage->version;
        }
        if (!stale) continue;
        drop_ready(x, i);
        NNL_TRY(make_ready(x, i));
    }
    return NNL_OK;
}

static nnl_status make_call(nnl_context *x, int place)
{
    const nnl_step *step = &x->program->step[place];
    nnl_call *c = &x->call[place];
    x->ready[place] = (nnl_ready){.run = run_as_it_is, .call = c};
    if (step->chain) return NNL_OK;
    *c = (nnl_call){.rt = x->rt,
                    .op = step->op,
                    .n_in = step->n_in,
                    .n_out = step->n_out,
                    .index_base = step->index_base,
                    .inplace = step->inplace,
                    .keep = step->keep,
                    .relu = step->relu};
    NNL_TRY(nnl_sig_of(x->rt, step->op, &c->sig));
    NNL_TRY(nnl_bump_alloc(
        &x->bump, sizeof(nnl_tensor *) * (size_t)NNL_MAX(step->n_in + step->n_out, 1), &c->in));
    c->out = c->in + step->n_in;
    for (int i = 0; i < step->n_in; i++) c->in[i] = step->in[i] < 0 ? NULL : &x->value[step->in[i]];
    for (int i = 0; i < step->n_out; i++)
        c->out[i] = step->out[i] < 0 ? NULL : &x->value[step->out[i]];
    NNL_TRY(
        nnl_bump_alloc(&x->bump, sizeof(nnl_value) * (size_t)NNL_MAX(step->n_attr, 1), &c->attr));
    memcpy(c->attr, step->attr, sizeof(nnl_value) * (size_t)step->n_attr);
    c->spec = step->spec;
    if (step->start) memcpy(c->start, step->start, sizeof(int16_t) * (size_t)(c->sig->tensors + 1));
    return NNL_OK;
}

static bool changes_outside(const nnl_program *p, const int32_t *values, int count)
{
    for (int i = 0; i < count; i++) {
        if (values[i] < 0) continue;
        nnl_buffer_kind kind = p->buffer[p->value[values[i]].buffer].kind;
        if (kind == NNL_BUFFER_OUTER || kind == NNL_BUFFER_INPUT || kind == NNL_BUFFER_GRAD)
            return true;
    }
    return false;
}

static int find_first_effect(const nnl_program *p)
{
    for (int i = 0; i < p->n_steps; i++) {
        const nnl_step *step = &p->step[i];
        if (changes_outside(p, step->out, step->n_out) ||
            (step->op->traits & NNL_IN_PLACE && changes_outside(p, step->in, step->n_in)))
            return i;
    }
    return p->n_steps;
}

/* The context joins an arena, which then is as large as the largest of its contexts needs. */
static nnl_status join_arena(nnl_context *x, arena *a)
{
    void *data;
    size_t bytes = x->program->arena_bytes;
    for (const nnl_context *other = a->contexts; other; other = other->next)
        bytes = NNL_MAX(bytes, other->program->arena_bytes);
    if (bytes != a->bytes || !a->data) {
        nnl_status status = nnl_alloc(x->rt, bytes, &data);
        if (status != NNL_OK && bytes > a->bytes) return status;
        if (status == NNL_OK) {
            nnl_free(x->rt, a->data, a->bytes);
            a->data = data;
            a->bytes = bytes;
            a->moves++;
        }
    }
    x->arena = a;
    x->next = a->contexts;
    a->contexts = x;
    return NNL_OK;
}

static nnl_status find_arena(nnl_context *x, nnl_context *other)
{
    void *block;
    if (other) return join_arena(x, other->arena);
    NNL_TRY(nnl_alloc_zeroed(x->rt, sizeof(arena), &block));
    nnl_status status = join_arena(x, block);
    if (status != NNL_OK) nnl_free(x->rt, block, sizeof(arena));
    return status;
}

static void leave_arena(nnl_context *x)
{
    arena *a = x->arena;
    if (!a) return;
    nnl_context **place = &a->contexts;
    while (*place != x) place = &(*place)->next;
    *place = x->next;
    if (a->contexts) return;
    nnl_free(x->rt, a->data, a->bytes);
    nnl_free(x->rt, a, sizeof *a);
}

static nnl_status make_parts(nnl_context *x, nnl_context *other)
{
    const nnl_program *p = x->program;
    nnl_bump *bump = &x->bump;
    NNL_TRY(find_arena(x, other));
    NNL_TRY(nnl_bump_alloc(bump, sizeof(nnl_storage) * (size_t)(p->n_buffers + 1), &x->storage));
    NNL_TRY(nnl_bump_alloc(bump, sizeof(nnl_storage *) * (size_t)(p->n_buffers + 1), &x->bound));
    NNL_TRY(nnl_bump_alloc(bump, sizeof(nnl_tensor) * (size_t)(p->n_values + 1), &x->value));
    NNL_TRY(nnl_bump_alloc(bump, sizeof(nnl_call) * (size_t)(p->n_steps + 1), &x->call));
    NNL_TRY(nnl_bump_alloc(bump, sizeof(nnl_ready) * (size_t)(p->n_steps + 1), &x->ready));
    NNL_TRY(nnl_bump_alloc(bump, sizeof(uint32_t) * (size_t)(p->n_buffers + 1), &x->version));
    NNL_TRY(nnl_bump_alloc(bump, sizeof(uint64_t) * (size_t)(p->n_steps + 1), &x->ns));
    NNL_TRY(nnl_bump_alloc(bump, sizeof(kept_grad) * (size_t)(p->n_slots + 1), &x->grad));
    NNL_TRY(nnl_bump_alloc(bump, sizeof(nnl_tensor *) * (size_t)(p->n_slots + 1), &x->leaving));
    make_values(x);
    for (int i = 0; i < p->n_steps; i++) NNL_TRY(make_call(x, i));
    for (int i = 0; i < p->n_steps; i++) {
        NNL_TRY(make_ready(x, i));
        x->any_fixed |= x->ready[i].fixed != 0;
    }
    x->first_effect = find_first_effect(p);
    return NNL_OK;
}

nnl_status nnl_context_new(nnl_program *program, nnl_runtime *rt, nnl_context **out)
{
    return nnl_context_new_beside(program, rt, NULL, out);
}

nnl_status nnl_context_new_beside(nnl_program *program, nnl_runtime *rt, nnl_context *other,
                                  nnl_context **out)
{
    void *block;
    *out = NULL;
    if (rt->isa != program->rt->isa)
        return NNL_FAIL(rt, NNL_EINVAL,
                        "context: the program was captured for %s, but the runtime uses %s",
                        nnl_isa_name(program->rt->isa), nnl_isa_name(rt->isa));
    NNL_TRY(nnl_alloc_zeroed(rt, sizeof(nnl_context), &block));
    nnl_context *x = block;
    *x = (nnl_context){.program = program, .rt = rt, .bump = {.rt = rt}};
    nnl_status status = make_parts(x, other);
    if (status != NNL_OK) {
        nnl_context_free(x);
        return status;
    }
    *out = x;
    return NNL_OK;
}

void nnl_context_free(nnl_context *x)
{
    if (!x) return;
    for (int i = 0; x->grad && i < x->program->n_slots; i++) {
        for (int k = 0; k < 2; k++) nnl_tensor_unref(x->grad[i].t[k]);
    }
    for (int i = 0; x->ready && i < x->program->n_steps; i++) drop_ready(x, i);
    leave_arena(x);
    nnl_bump bump = x->bump;
    nnl_free(x->rt, x, sizeof *x);
    nnl_bump_free(&bump);
}

void nnl_context_set(nnl_context *x, int step, int attr, nnl_value value)
{
    x->call[step].attr[attr] = value;
}

double nnl_context_step_us(const nnl_context *x, int step)
{
    return x->ns[step] ? (double)x->ns[step] / 1000 : -1;
}

static nnl_tensor *leaf_of(const nnl_slot *slot, nnl_tensor *const *inputs)
{
    return slot->input < 0 ? slot->leaf : inputs[slot->input];
}

bool nnl_context_fits(const nnl_context *x, nnl_tensor *const *inputs)
{
    const nnl_program *p = x->program;
    for (int i = 0; i < p->n_slots; i++) {
        const nnl_slot *slot = &p->slot[i];
        if (slot->read && (leaf_of(slot, inputs)->grad != NULL) != slot->present) return false;
    }
    return true;
}

/* ---------------------------------------------------------------- the beginning of a run */

static nnl_status check_input(nnl_context *x, int i, const nnl_tensor *t)
{
    const nnl_program *p = x->program;
    if (p->input_value[i] < 0) return NNL_OK;
    const nnl_tensor *form = &p->value[p->input_value[i]].form;
    bool same = t->dtype == form->dtype && nnl_same_shape(t, form) &&
                memcmp(t->strides, form->strides, sizeof(int64_t) * t->ndim) == 0;
    if (NNL_LIKELY(same)) return NNL_OK;
    char a[NNL_SHAPE_TEXT], b[NNL_SHAPE_TEXT];
    return NNL_FAIL(x->rt, t->dtype == form->dtype ? NNL_ESHAPE : NNL_ETYPE,
                    "program: argument %d is %s %s, but was captured as %s %s%s", i,
                    nnl_dtype_name((nnl_dtype)t->dtype), nnl_shape_text(a, t->ndim, t->shape),
                    nnl_dtype_name((nnl_dtype)form->dtype),
                    nnl_shape_text(b, form->ndim, form->shape),
                    nnl_same_shape(t, form) ? " with other strides" : "");
}

static nnl_status set_inputs(nnl_context *x, nnl_tensor *const *inputs)
{
    const nnl_program *p = x->program;
    for (int i = 0; i < p->n_inputs; i++) {
        NNL_TRY(check_input(x, i, inputs[i]));
        if (p->input_value[i] < 0) continue;
        int buffer = p->value[p->input_value[i]].buffer;
        x->storage[buffer].data = inputs[i]->data;
        place_values(x, buffer);
    }
    for (int i = 0; i < p->n_slots; i++) {
        const nnl_slot *slot = &p->slot[i];
        if (!slot->read || !slot->present || slot->entry < 0) continue;
        const nnl_tensor *grad = leaf_of(slot, inputs)->grad;
        const nnl_tensor *form = &p->value[slot->entry].form;
        if (memcmp(grad->strides, form->strides, sizeof(int64_t) * form->ndim) != 0)
            return NNL_FAIL(x->rt, NNL_ESTATE,
                            "program: a gradient that stands has other strides than at capture");
        int buffer = p->value[slot->entry].buffer;
        x->storage[buffer].data = grad->data - p->value[slot->entry].offset;
        place_values(x, buffer);
    }
    return NNL_OK;
}

/* A tensor of a value's form over a storage. */
static nnl_status header_over(nnl_context *x, int value, nnl_storage *storage, nnl_tensor **out)
{
    const nnl_program_value *v = &x->program->value[value];
    nnl_tensor source = {.rt = x->rt, .storage = storage, .data = storage->data};
    nnl_spec spec;
    nnl_spec_like(&spec, &v->form);
    nnl_spec_view(&spec, v->form.strides, v->offset / (int64_t)nnl_width(v->form.dtype));
    return nnl_tensor_make(x->rt, &spec, &source, out);
}

static void bind(nnl_context *x, int buffer, nnl_storage *storage)
{
    x->bound[buffer] = storage;
    x->storage[buffer].data = storage->data;
    place_values(x, buffer);
}

static bool is_free(const nnl_tensor *t, const nnl_tensor *leaf, bool reads)
{
    int32_t ours = leaf->grad == t && !reads ? 2 : 1;
    return t->refs == ours && t->storage->refs == 1;
}

/* The gradient that slot i will have: the tensor of an earlier run if nobody else holds it, else a
 * fresh one. */
static nnl_status kept_gradient(nnl_context *x, int i, const nnl_tensor *leaf, nnl_tensor **out)
{
    const nnl_slot *slot = &x->program->slot[i];
    nnl_tensor **kept = x->grad[i].t;
    for (int k = 0; k < 2; k++) {
        if (!kept[k] || !is_free(kept[k], leaf, slot->read)) continue;
        *out = nnl_tensor_ref(kept[k]);
        return NNL_OK;
    }
    int k = kept[0] && leaf->grad == kept[0] ? 1 : 0;
    nnl_storage *storage;
    NNL_TRY(nnl_storage_new(x->rt, x->program->buffer[x->program->value[slot->value].buffer].bytes,
                            &storage));
    nnl_status status = header_over(x, slot->value, storage, out);
    nnl_storage_unref(storage);
    NNL_TRY(status);
    nnl_tensor_unref(kept[k]);
    kept[k] = nnl_tensor_ref(*out);
    return NNL_OK;
}

static bool is_fresh(const nnl_buffer *b)
{
    return b->kind == NNL_BUFFER_TEMP || b->kind == NNL_BUFFER_CONST;
}

static nnl_status bind_gradients(nnl_context *x, nnl_tensor *const *inputs)
{
    const nnl_program *p = x->program;
    for (int i = 0; i < p->n_slots; i++) {
        const nnl_slot *slot = &p->slot[i];
        if (slot->value < 0) continue;
        int buffer = p->value[slot->value].buffer;
        if (!is_fresh(&p->buffer[buffer])) continue;
        if (x->bound[buffer]) {
            NNL_TRY(header_over(x, slot->value, x->bound[buffer], &x->leaving[i]));
            continue;
        }
        NNL_TRY(kept_gradient(x, i, leaf_of(slot, inputs), &x->leaving[i]));
        x->leaving[i]->storage->refs++;
        bind(x, buffer, x->leaving[i]->storage);
    }
    return NNL_OK;
}

static nnl_status bind_results(nnl_context *x)
{
    const nnl_program *p = x->program;
    for (int i = 0; i < p->n_results; i++) {
        int buffer = p->value[p->result[i]].buffer;
        if (!is_fresh(&p->buffer[buffer]) || x->bound[buffer]) continue;
        nnl_storage *storage;
        NNL_TRY(nnl_storage_new(x->rt, p->buffer[buffer].bytes, &storage));
        bind(x, buffer, storage);
    }
    return NNL_OK;
}

static void fill_constants(nnl_context *x)
{
    const nnl_program *p = x->program;
    for (int b = 0; b < p->n_buffers; b++) {
        const nnl_buffer *buffer = &p->buffer[b];
        if (nnl_buffer_is_copied(buffer) && x->storage[b].data)
            memcpy(x->storage[b].data, buffer->storage->data, buffer->bytes);
    }
}

/* ---------------------------------------------------------------- the steps, and the end */

static void set_random(nnl_context *x, int i)
{
    const nnl_step *step = &x->program->step[i];
    nnl_call *c = &x->call[i];
    if (step->draws) c->random = x->rt->random_call + step->random;
    if (step->call_attr < 0) return;
    c->attr[step->call_attr].as.i = step->attr[step->call_attr].as.i + (int64_t)x->rt->random_call;
    c->attr[step->call_attr + 1].as.i = (int64_t)x->rt->seed;
}

static nnl_status run_profiled(nnl_context *x, int i, nnl_profile_row *rows);

static inline nnl_status run_step(nnl_context *x, int i)
{
    const nnl_chain *chain = x->program->step[i].chain;
    nnl_profile_row *rows = x->rt->engine->profile;
    if (NNL_UNLIKELY(rows)) return run_profiled(x, i, rows);
    if (chain) return nnl_chain_run(x->rt, chain, x->value);
    return x->ready[i].run(&x->ready[i]);
}

static nnl_status run_profiled(nnl_context *x, int i, nnl_profile_row *rows)
{
    const nnl_program *p = x->program;
    const nnl_step *step = &p->step[i];
    nnl_profile_row *row = &rows[step->op->id];
    uint64_t start = nnl_now_ns();
    x->rt->engine->profile = NULL;
    nnl_status status = run_step(x, i);
    x->rt->engine->profile = rows;
    uint64_t time = nnl_now_ns() - start;
    if (x->ns[i] == 0 || time < x->ns[i]) x->ns[i] = NNL_MAX(time, 1);
    row->calls++;
    row->nanoseconds += time;
    for (int k = 0; k < step->n_in + step->n_out; k++) {
        int32_t v = k < step->n_in ? step->in[k] : step->out[k - step->n_in];
        if (v >= 0)
            row->bytes += (uint64_t)p->value[v].form.numel * nnl_width(p->value[v].form.dtype);
    }
    return status;
}

static nnl_status run_steps(nnl_context *x)
{
    const nnl_program *p = x->program;
    if (p->draws) {
        for (int i = 0; i < p->n_steps; i++) set_random(x, i);
    }
    for (int i = 0; i < x->first_effect; i++) NNL_TRY(run_step(x, i));
    NNL_TRY(nnl_poll_cancel(x->rt));
    /* From here on the run changes what is outside: it is not left half way. */
    nnl_status status = NNL_OK;
    x->rt->hold_cancel = true;
    for (int i = x->first_effect; i < p->n_steps && status == NNL_OK; i++) {
        status = run_step(x, i);
        x->rt->hold_cancel = true; /* ops that hold it for themselves let it go */
    }
    x->rt->hold_cancel = false;
    return status;
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void judge(trial *t)
{
    for (int kind = 0; kind < 2; kind++) qsort(t->ns[kind], TRIAL, sizeof t->ns[kind][0], by_size);
    t->alone = t->ns[1][TRIAL / 2] < t->ns[0][TRIAL / 2];
}

/* run_steps(), on this thread alone or on all. */
static nnl_status run_shared_or_alone(nnl_context *x)
{
    nnl_runtime *rt = x->rt;
    trial *t = &x->trial;
    if (rt->threads < 2 || rt->in_parallel) return run_steps(x);
    int place = t->runs % (TRIAL_WARM + TRIAL) - TRIAL_WARM, kind = t->runs / (TRIAL_WARM + TRIAL);
    bool timed = kind < 2 && place >= 0, alone = kind == 1 || (kind > 1 && t->alone);
    uint64_t start = timed ? nnl_now_ns() : 0;
    if (alone)
        rt->in_parallel = true;
    else
        nnl_pool_hold(rt, true);
    nnl_status status = run_steps(x);
    if (alone)
        rt->in_parallel = false;
    else
        nnl_pool_hold(rt, false);
    if (timed) t->ns[kind][place] = nnl_now_ns() - start;
    if (timed && kind == 0 && t->ns[0][place] > TRIAL_LONGEST) {
        t->alone = false;
        t->runs = 2 * (TRIAL_WARM + TRIAL);
    } else if (kind == 1 && place == TRIAL - 1) {
        judge(t);
    }
    if (++t->runs >= TRIAL_AGAIN) t->runs = 0;
    return status;
}

static nnl_status take_result(nnl_context *x, int i, nnl_tensor *const *inputs, nnl_tensor **out)
{
    const nnl_program *p = x->program;
    int value = p->result[i], buffer = p->value[value].buffer;
    const nnl_buffer *b = &p->buffer[buffer];
    for (int k = 0; k < p->n_inputs; k++) {
        if (p->input_value[k] != value) continue;
        *out = nnl_tensor_ref(inputs[k]);
        return NNL_OK;
    }
    if (is_fresh(b)) return header_over(x, value, x->bound[buffer], out);
    if (b->kind == NNL_BUFFER_OUTER) return header_over(x, value, b->storage, out);
    nnl_tensor *source = b->kind == NNL_BUFFER_INPUT ? inputs[b->source]
                                                     : leaf_of(&p->slot[b->source], inputs)->grad;
    nnl_spec spec;
    nnl_spec_like(&spec, &p->value[value].form);
    int64_t bytes = x->value[value].data - source->data;
    nnl_spec_view(&spec, p->value[value].form.strides, bytes / (int64_t)nnl_width(source->dtype));
    return nnl_tensor_make(x->rt, &spec, source, out);
}

static void count_changes(nnl_context *x, nnl_tensor *const *inputs)
{
    const nnl_program *p = x->program;
    for (int b = 0; b < p->n_buffers; b++) {
        const nnl_buffer *buffer = &p->buffer[b];
        if (!buffer->written) continue;
        if (buffer->kind == NNL_BUFFER_OUTER)
            buffer->storage->version++;
        else if (buffer->kind == NNL_BUFFER_INPUT)
            inputs[buffer->source]->storage->version++;
    }
}

static void set_gradients(nnl_context *x, nnl_tensor *const *inputs)
{
    const nnl_program *p = x->program;
    for (int i = 0; i < p->n_slots; i++) {
        const nnl_slot *slot = &p->slot[i];
        if (!slot->set) continue;
        nnl_tensor *leaf = leaf_of(slot, inputs), *before = leaf->grad;
        leaf->grad = x->leaving[i];
        x->leaving[i] = NULL;
        nnl_tensor_unref(before);
    }
}

static void release(nnl_context *x)
{
    const nnl_program *p = x->program;
    for (int i = 0; i < p->n_slots; i++) {
        nnl_tensor_unref(x->leaving[i]);
        x->leaving[i] = NULL;
    }
    for (int b = 0; b < p->n_buffers; b++) {
        if (!x->bound[b]) continue;
        nnl_storage_unref(x->bound[b]);
        x->bound[b] = NULL;
    }
}

static nnl_status run(nnl_context *x, nnl_tensor *const *inputs, nnl_tensor **outputs)
{
    const nnl_program *p = x->program;
    NNL_TRY(nnl_poll_cancel(x->rt));
    if (NNL_UNLIKELY(x->moves != x->arena->moves)) place_temporary(x);
    if (x->any_fixed) NNL_TRY(refresh(x));
    NNL_TRY(set_inputs(x, inputs));
    NNL_TRY(bind_gradients(x, inputs));
    NNL_TRY(bind_results(x));
    for (int i = 0; i < p->n_results; i++) NNL_TRY(take_result(x, i, inputs, &outputs[i]));
    fill_constants(x);
    NNL_TRY(run_shared_or_alone(x));
    count_changes(x, inputs);
    set_gradients(x, inputs);
    x->rt->random_call += p->draws;
    return NNL_OK;
}

nnl_status nnl_context_run(nnl_context *x, nnl_tensor *const *inputs, int n_inputs,
                           nnl_tensor **outputs, int n_outputs)
{
    const nnl_program *p = x->program;
    nnl_fp_state fp;
    for (int i = 0; i < n_outputs; i++) outputs[i] = NULL;
    if (n_inputs != p->n_inputs || n_outputs != p->n_results)
        return NNL_FAIL(x->rt, NNL_EINVAL,
                        "program: %d arguments and %d results were captured, %d and %d are given",
                        p->n_inputs, p->n_results, n_inputs, n_outputs);
    nnl_fp_enter(&fp);
    nnl_status status = run(x, inputs, outputs);
    for (int i = 0; i < n_outputs && status != NNL_OK; i++) {
        nnl_tensor_unref(outputs[i]);
        outputs[i] = NULL;
    }
    release(x);
    nnl_fp_leave(&fp);
    return status;
}
