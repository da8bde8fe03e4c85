/* Takes down the calls of a function, as they pass the door, as steps of a program.  Nothing is
 * computed: the tensors have shapes and no values, and all that is changed outside is put back at
 * the end. */
#include "program.h"

#include "../ops/composed.h"

#include <string.h>

typedef struct recording {
    nnl_recorder recorder; /* first: the door hands it back */
    nnl_program *p;
    int32_t *table; /* storages by address: buffer + 1, 0 where empty */
    size_t table_size;
    uint64_t random_base;
    int32_t live;
} recording;

static recording *current(nnl_runtime *rt) { return (recording *)(void *)rt->engine->recorder; }

/* ---------------------------------------------------------------- buffers and values */

static size_t place_of(const recording *r, const nnl_storage *s)
{
    size_t at = ((uintptr_t)s >> 6) * 0x9e3779b1u & (r->table_size - 1);
    while (r->table[at] && r->p->buffer[r->table[at] - 1].storage != s)
        at = (at + 1) & (r->table_size - 1);
    return at;
}

static nnl_status widen_table(recording *r)
{
    if ((size_t)r->p->n_buffers * 2 < r->table_size) return NNL_OK;
    size_t old = r->table_size, size = old ? old * 2 : 128;
    void *block;
    NNL_TRY(nnl_alloc_zeroed(r->p->rt, size * sizeof(int32_t), &block));
    nnl_free(r->p->rt, r->table, old * sizeof(int32_t));
    r->table = block;
    r->table_size = size;
    for (int b = 0; b < r->p->n_buffers; b++)
        r->table[place_of(r, r->p->buffer[b].storage)] = b + 1;
    return NNL_OK;
}

static nnl_status add_buffer(recording *r, nnl_storage *s, nnl_buffer_kind kind, int source,
                             int32_t *out)
{
    nnl_program *p = r->p;
    NNL_TRY(widen_table(r));
    NNL_TRY(nnl_bump_grow(&p->bump, sizeof(nnl_buffer), p->n_buffers, &p->buffer));
    s->refs++;
    r->table[place_of(r, s)] = p->n_buffers + 1;
    p->buffer[p->n_buffers] = (nnl_buffer){.kind = kind,
                                           .source = source,
                                           .storage = s,
                                           .bytes = s->bytes,
                                           .version = s->version,
                                           .first = -1,
                                           .last = -1,
                                           .first_value = -1};
    *out = p->n_buffers++;
    return NNL_OK;
}

/* The buffer of a storage; one not met before was made outside, or filled during capture, or is a
 * result. */
static nnl_status buffer_of(recording *r, nnl_storage *s, bool result, int32_t *out)
{
    if (r->table_size) {
        int32_t found = r->table[place_of(r, s)];
        *out = found - 1;
        if (found) return NNL_OK;
    }
    nnl_buffer_kind kind = !s->unset ? NNL_BUFFER_OUTER
                           : result  ? NNL_BUFFER_TEMP
                                     : NNL_BUFFER_CONST;
    return add_buffer(r, s, kind, 0, out);
}

bool nnl_same_form(const nnl_tensor *a, const nnl_tensor *b)
{
    return a->dtype == b->dtype && nnl_same_shape(a, b) &&
           memcmp(a->strides, b->strides, sizeof(int64_t) * a->ndim) == 0;
}

static nnl_status value_of(recording *r, nnl_tensor *t, bool result, int32_t *out)
{
    nnl_program *p = r->p;
    int32_t buffer;
    *out = -1;
    if (!t) return NNL_OK;
    NNL_TRY(buffer_of(r, t->storage, result, &buffer));
    int64_t offset = t->data - (char *)t->storage->data;
    for (int32_t v = p->buffer[buffer].first_value; v >= 0; v = p->value[v].next) {
        if (p->value[v].offset != offset || !nnl_same_form(&p->value[v].form, t)) continue;
        *out = v;
        return NNL_OK;
    }
    NNL_TRY(nnl_bump_grow(&p->bump, sizeof(nnl_program_value), p->n_values, &p->value));
    nnl_program_value *value = &p->value[p->n_values];
    *value = (nnl_program_value){
        .buffer = buffer, .next = p->buffer[buffer].first_value, .offset = offset, .form = *t};
    value->form.data = NULL;
    value->form.storage = NULL;
    value->form.node = NULL;
    value->form.base = value->form.grad = NULL;
    value->form.hooks = NULL;
    value->form.requires_grad = false;
    *out = p->buffer[buffer].first_value = p->n_values++;
    return NNL_OK;
}

static nnl_status values_of(recording *r, nnl_tensor *const *tensors, int count, bool results,
                            int32_t **out)
{
    NNL_TRY(nnl_bump_alloc(&r->p->bump, sizeof(int32_t) * (size_t)NNL_MAX(count, 1), out));
    for (int i = 0; i < count; i++) NNL_TRY(value_of(r, tensors[i], results, &(*out)[i]));
    return NNL_OK;
}

/* ---------------------------------------------------------------- steps */

static nnl_status copy_attributes(recording *r, const nnl_call *c, nnl_step *step)
{
    nnl_bump *bump = &r->p->bump;
    step->n_attr = c->sig->attrs;
    NNL_TRY(
        nnl_bump_alloc(bump, sizeof(nnl_value) * (size_t)NNL_MAX(step->n_attr, 1), &step->attr));
    for (int i = 0; i < step->n_attr; i++) {
        nnl_value *v = &step->attr[i];
        *v = c->attr[i];
        size_t bytes = v->kind == NNL_KIND_STRING ? strlen(v->as.s) + 1
                       : v->kind == NNL_KIND_INTS || v->kind == NNL_KIND_FLOATS
                           ? 8 * (size_t)v->count
                           : 0;
        if (!bytes) continue;
        void *copy;
        NNL_TRY(nnl_bump_alloc(bump, bytes, &copy));
        memcpy(copy, v->as.s, bytes);
        v->as.s = copy;
    }
    return NNL_OK;
}

/* A gradient that draws an earlier call's numbers again says so in attributes named call and seed.
 */
static void note_random(recording *r, const nnl_call *c, nnl_step *step)
{
    step->call_attr = -1;
    step->draws = (c->op->traits & NNL_RANDOM) != 0;
    step->random = c->random - r->random_base;
    for (int i = 0; i + 1 < c->sig->attrs; i++) {
        bool pair = strcmp(c->sig->attr[i]->name, "call") == 0 &&
                    strcmp(c->sig->attr[i + 1]->name, "seed") == 0;
        if (!pair || (uint64_t)step->attr[i].as.i < r->random_base) continue;
        step->call_attr = (int16_t)i;
        step->attr[i].as.i -= (int64_t)r->random_base;
    }
}

static nnl_status note_where(recording *r, nnl_step *step)
{
    nnl_program *p = r->p;
    nnl_engine *engine = p->rt->engine;
    char text[256] = "";
    if (engine->where) engine->where(engine->where_user, text, sizeof text);
    const char *last = p->n_steps ? p->step[p->n_steps - 1].where : NULL;
    if (last && strcmp(last, text) == 0) {
        step->where = last;
        return NNL_OK;
    }
    char *copy;
    NNL_TRY(nnl_bump_alloc(&p->bump, strlen(text) + 1, &copy));
    memcpy(copy, text, strlen(text) + 1);
    step->where = copy;
    return NNL_OK;
}

/* A copy over all of a tensor that no step has seen yet makes it: what stood there does not matter.
 */
static nnl_status note_target(recording *r, const nnl_call *c)
{
    const nnl_tensor *t = c->in[0];
    int32_t value;
    bool copies = c->op == &nnl_op_copy && c->inplace && t->storage->unset;
    bool whole = copies && (t->contiguous || nnl_is_channels_last(t)) &&
                 (size_t)t->numel * nnl_width(t->dtype) == t->storage->bytes;
    return whole ? value_of(r, c->in[0], true, &value) : NNL_OK;
}

static nnl_status record_call(nnl_recorder *recorder, nnl_call *c)
{
    recording *r = (recording *)(void *)recorder;
    nnl_program *p = r->p;
    if (c->op->run == nnl_run_define) return nnl_run_define(c); /* its parts are taken down */
    NNL_TRY(nnl_bump_grow(&p->bump, sizeof(nnl_step), p->n_steps, &p->step));
    nnl_step *step = &p->step[p->n_steps];
    *step = (nnl_step){.op = c->op,
                       .n_in = (int16_t)c->n_in,
                       .n_out = (int16_t)c->n_out,
                       .live = r->live,
                       .index_base = (int8_t)c->index_base,
                       .inplace = c->inplace,
                       .keep = c->keep,
                       .run_again = p->rt->engine->keeping.run};
    r->live = -1;
    NNL_TRY(note_target(r, c));
    NNL_TRY(values_of(r, c->in, c->n_in, false, &step->in));
    NNL_TRY(values_of(r, c->out, c->n_out, true, &step->out));
    NNL_TRY(copy_attributes(r, c, step));
    NNL_TRY(nnl_bump_alloc(&p->bump, sizeof(nnl_spec) * (size_t)NNL_MAX(c->n_out, 1), &step->spec));
    memcpy(step->spec, c->spec, sizeof(nnl_spec) * (size_t)c->n_out);
    if (c->sig->list_input) {
        NNL_TRY(nnl_bump_alloc(&p->bump, sizeof(int16_t) * (NNL_MAX_PARAMS + 1), &step->start));
        memcpy(step->start, c->start, sizeof(int16_t) * (size_t)(c->sig->tensors + 1));
    }
    note_random(r, c, step);
    NNL_TRY(note_where(r, step));
    for (int i = 0; i < step->n_out; i++) {
        if (step->out[i] >= 0) p->buffer[p->value[step->out[i]].buffer].written = true;
    }
    for (int i = 0; i < step->n_in && c->op->traits & NNL_IN_PLACE; i++) {
        if (step->in[i] >= 0) p->buffer[p->value[step->in[i]].buffer].written = true;
    }
    p->n_steps++;
    return NNL_OK;
}

/* ---------------------------------------------------------------- gradients that stand */

static nnl_status touch_grad(nnl_recorder *recorder, nnl_tensor *leaf, bool read)
{
    recording *r = (recording *)(void *)recorder;
    nnl_program *p = r->p;
    for (int i = 0; i < p->n_slots; i++) {
        if (p->slot[i].leaf == leaf) return NNL_OK;
    }
    NNL_TRY(nnl_bump_grow(&p->bump, sizeof(nnl_slot), p->n_slots, &p->slot));
    nnl_slot *slot = &p->slot[p->n_slots];
    *slot = (nnl_slot){.leaf = nnl_tensor_ref(leaf),
                       .input = -1,
                       .read = read,
                       .present = leaf->grad != NULL,
                       .value = -1,
                       .entry = -1};
    for (int i = 0; i < p->n_inputs; i++) {
        if (p->input[i] == leaf) slot->input = i;
    }
    slot->before = leaf->grad ? nnl_tensor_ref(leaf->grad) : NULL;
    int place = p->n_slots++;
    if (!read || !leaf->grad) return NNL_OK;
    int32_t buffer = r->table_size ? r->table[place_of(r, leaf->grad->storage)] : 0;
    if (!buffer) NNL_TRY(add_buffer(r, leaf->grad->storage, NNL_BUFFER_GRAD, place, &buffer));
    return value_of(r, leaf->grad, false, &p->slot[place].entry);
}

/* ---------------------------------------------------------------- beginning and end */

void nnl_capture_live(nnl_runtime *rt, int live) { current(rt)->live = live; }

nnl_capture_pause nnl_capture_suspend(nnl_runtime *rt)
{
    nnl_capture_pause pause = {rt->engine->recorder, rt->capturing};
    rt->engine->recorder = NULL;
    rt->capturing = false;
    return pause;
}

void nnl_capture_resume(nnl_runtime *rt, nnl_capture_pause pause)
{
    rt->engine->recorder = pause.recorder;
    rt->capturing = pause.capturing;
}

/* A tensor of the same form with a storage of its own. */
static nnl_status stand_in(nnl_runtime *rt, nnl_tensor *t, nnl_tensor **out)
{
    int64_t span = t->numel > 0 ? 1 : 0;
    for (int d = 0; d < t->ndim && span; d++) span += (t->shape[d] - 1) * t->strides[d];
    nnl_tensor *flat;
    nnl_spec spec = {.dtype = (nnl_dtype)t->dtype, .ndim = 1, .shape = {span}};
    NNL_TRY(nnl_tensor_make_hollow(rt, &spec, NULL, &flat));
    nnl_spec_like(&spec, t);
    nnl_spec_view(&spec, t->strides, 0);
    nnl_status status = nnl_tensor_make(rt, &spec, flat, out);
    nnl_tensor_unref(flat);
    NNL_TRY(status);
    (*out)->requires_grad = nnl_tracks(t);
    (*out)->grad = t->grad ? nnl_tensor_ref(t->grad) : NULL;
    return NNL_OK;
}

static nnl_status begin(recording *r, nnl_tensor *const *inputs, nnl_tensor **stand_ins)
{
    nnl_program *p = r->p;
    NNL_TRY(nnl_bump_alloc(&p->bump, sizeof(nnl_tensor *) * (size_t)NNL_MAX(p->n_inputs, 1),
                           &p->input));
    NNL_TRY(nnl_bump_alloc(&p->bump, sizeof(int32_t) * (size_t)NNL_MAX(p->n_inputs, 1),
                           &p->input_value));
    for (int i = 0; i < p->n_inputs; i++) {
        int32_t buffer;
        NNL_TRY(stand_in(p->rt, inputs[i], &p->input[i]));
        NNL_TRY(add_buffer(r, p->input[i]->storage, NNL_BUFFER_INPUT, i, &buffer));
        NNL_TRY(value_of(r, p->input[i], false, &p->input_value[i]));
    }
    for (int i = 0; i < p->n_inputs; i++) stand_ins[i] = nnl_tensor_ref(p->input[i]);
    return NNL_OK;
}

static void recording_free(nnl_runtime *rt)
{
    recording *r = current(rt);
    rt->engine->recorder = NULL;
    rt->capturing = false;
    nnl_free(rt, r->table, r->table_size * sizeof(int32_t));
    nnl_free(rt, r, sizeof *r);
}

nnl_status nnl_capture_begin(nnl_runtime *rt, nnl_tensor *const *inputs, int n_inputs,
                             nnl_tensor **stand_ins)
{
    if (rt->engine->recorder) return NNL_FAIL(rt, NNL_ESTATE, "capture: a capture is under way");
    void *block, *program;
    NNL_TRY(nnl_alloc_zeroed(rt, sizeof(recording), &block));
    nnl_status status = nnl_alloc_zeroed(rt, sizeof(nnl_program), &program);
    if (status != NNL_OK) {
        nnl_free(rt, block, sizeof(recording));
        return status;
    }
    recording *r = block;
    *r = (recording){.recorder = {record_call, touch_grad},
                     .p = program,
                     .random_base = rt->random_call,
                     .live = -1};
    *r->p = (nnl_program){.rt = rt, .bump = {.rt = rt}, .refs = 1, .n_inputs = n_inputs};
    rt->engine->recorder = &r->recorder;
    rt->capturing = true;
    rt->capture = NNL_MAX(rt->capture + 1, 1);
    status = begin(r, inputs, stand_ins);
    if (status != NNL_OK) nnl_capture_abandon(rt);
    return status;
}

nnl_status nnl_capture_inexact(nnl_runtime *rt)
{
    recording *r = current(rt);
    if (!r) return NNL_FAIL(rt, NNL_ESTATE, "capture: none is under way");
    r->p->inexact = true;
    return NNL_OK;
}

/* What was changed outside while nothing was computed goes back. */
static void put_back(recording *r)
{
    nnl_program *p = r->p;
    for (int i = 0; i < p->n_slots; i++) {
        nnl_tensor *leaf = p->slot[i].leaf, *left = leaf->grad;
        leaf->grad = p->slot[i].before;
        p->slot[i].before = NULL;
        nnl_tensor_unref(left);
    }
    for (int b = 0; b < p->n_buffers; b++) {
        if (p->buffer[b].kind == NNL_BUFFER_OUTER || p->buffer[b].kind == NNL_BUFFER_GRAD)
            p->buffer[b].storage->version = p->buffer[b].version;
    }
    p->rt->random_call = r->random_base;
}

static nnl_status note_slots(recording *r)
{
    nnl_program *p = r->p;
    for (int i = 0; i < p->n_slots; i++) {
        nnl_slot *slot = &p->slot[i];
        slot->set = slot->leaf->grad != slot->before;
        if (slot->set) NNL_TRY(value_of(r, slot->leaf->grad, false, &slot->value));
    }
    return NNL_OK;
}

static void mark_escaping(nnl_program *p)
{
    for (int i = 0; i < p->n_slots; i++) {
        if (p->slot[i].value >= 0) p->buffer[p->value[p->slot[i].value].buffer].escapes = true;
    }
    for (int i = 0; i < p->n_results; i++) p->buffer[p->value[p->result[i]].buffer].escapes = true;
}

static void drop_stand_ins(nnl_program *p)
{
    for (int i = 0; p->input && i < p->n_inputs; i++) {
        nnl_tensor_unref(p->input[i]);
        p->input[i] = NULL;
    }
    for (int b = 0; b < p->n_buffers; b++) {
        if (p->buffer[b].kind == NNL_BUFFER_OUTER || p->buffer[b].kind == NNL_BUFFER_CONST ||
            !p->buffer[b].storage)
            continue;
        nnl_storage_unref(p->buffer[b].storage);
        p->buffer[b].storage = NULL;
    }
    for (int i = 0; i < p->n_slots; i++) {
        if (p->slot[i].input < 0) continue;
        nnl_tensor_unref(p->slot[i].leaf);
        p->slot[i].leaf = NULL;
    }
}

nnl_status nnl_capture_take(nnl_runtime *rt, nnl_tensor *const *results, int n_results,
                            nnl_program **out)
{
    recording *r = current(rt);
    *out = NULL;
    if (!r) return NNL_FAIL(rt, NNL_ESTATE, "capture: none is under way");
    nnl_program *p = r->p;
    p->n_results = n_results;
    p->draws = rt->random_call - r->random_base;
    p->captured_steps = p->n_steps;
    nnl_status status = values_of(r, results, n_results, false, &p->result);
    if (status == NNL_OK) status = note_slots(r);
    if (status != NNL_OK) {
        nnl_capture_abandon(rt);
        return status;
    }
    mark_escaping(p);
    put_back(r);
    recording_free(rt);
    drop_stand_ins(p);
    *out = p;
    return NNL_OK;
}

nnl_status nnl_capture_end(nnl_runtime *rt, nnl_tensor *const *results, int n_results,
                           nnl_program **out)
{
    NNL_TRY(nnl_capture_take(rt, results, n_results, out));
    nnl_status status = nnl_program_finish(*out);
    if (status == NNL_OK) return NNL_OK;
    nnl_program_unref(*out);
    *out = NULL;
    return status;
}

void nnl_capture_abandon(nnl_runtime *rt)
{
    recording *r = current(rt);
    if (!r) return;
    nnl_program *p = r->p;
    put_back(r);
    recording_free(rt);
    drop_stand_ins(p);
    nnl_program_unref(p);
}

nnl_program *nnl_program_ref(nnl_program *p)
{
    p->refs++;
    return p;
}

void nnl_program_unref(nnl_program *p)
{
    if (!p || --p->refs > 0) return;
    for (int b = 0; b < p->n_buffers; b++) {
        if (p->buffer[b].storage) nnl_storage_unref(p->buffer[b].storage);
    }
    for (int i = 0; i < p->n_slots; i++) nnl_tensor_unref(p->slot[i].leaf);
    nnl_bump bump = p->bump;
    nnl_free(p->rt, p, sizeof *p);
    nnl_bump_free(&bump);
}

/* ---------------------------------------------------------------- comparing two captures */

bool nnl_same_attribute(const nnl_value *a, const nnl_value *b)
{
    if (a->kind != b->kind || a->count != b->count) return false;
    switch (a->kind) {
    case NNL_KIND_NONE: return true;
    case NNL_KIND_STRING: return strcmp(a->as.s, b->as.s) == 0;
    case NNL_KIND_INTS:
    case NNL_KIND_FLOATS: return memcmp(a->as.ints, b->as.ints, 8 * (size_t)a->count) == 0;
    default: return a->as.i == b->as.i; /* a float's bits, too */
    }
}

static bool same_values(const nnl_program *a, const nnl_program *b, const int32_t *x,
                        const int32_t *y, int n)
{
    for (int i = 0; i < n; i++) {
        if (x[i] != y[i]) return false;
        if (x[i] < 0) continue;
        const nnl_program_value *v = &a->value[x[i]], *w = &b->value[y[i]];
        if (v->buffer != w->buffer || v->offset != w->offset || !nnl_same_form(&v->form, &w->form))
            return false;
    }
    return true;
}

static bool same_structure(const nnl_program *a, const nnl_program *b, int i)
{
    const nnl_step *s = &a->step[i], *t = &b->step[i];
    return s->op == t->op && s->n_in == t->n_in && s->n_out == t->n_out &&
           s->inplace == t->inplace && s->random == t->random &&
           same_values(a, b, s->in, t->in, s->n_in) && same_values(a, b, s->out, t->out, s->n_out);
}

bool nnl_program_agrees(const nnl_program *a, const nnl_program *b, bool *number,
                        const char **where)
{
    *number = false;
    *where = NULL;
    if (a->n_steps != b->n_steps || a->n_buffers != b->n_buffers || a->n_slots != b->n_slots ||
        a->n_results != b->n_results || a->draws != b->draws)
        return false;
    for (int i = 0; i < a->n_steps; i++) {
        if (!same_structure(a, b, i)) {
            *where = b->step[i].where;
            return false;
        }
    }
    for (int i = 0; i < a->n_slots; i++) {
        const nnl_slot *s = &a->slot[i], *t = &b->slot[i];
        if (s->leaf != t->leaf || s->input != t->input || s->set != t->set || s->value != t->value)
            return false;
    }
    if (!same_values(a, b, a->result, b->result, a->n_results)) return false;
    for (int i = 0; i < a->n_steps; i++) {
        const nnl_step *s = &a->step[i], *t = &b->step[i];
        for (int k = 0; k < s->n_attr && s->live < 0; k++) {
            if (nnl_same_attribute(&s->attr[k], &t->attr[k])) continue;
            *number = true;
            *where = t->where;
            return false;
        }
        for (int k = 0; k < s->n_in; k++) {
            if (s->in[k] < 0) continue;
            const nnl_buffer *x = &a->buffer[a->value[s->in[k]].buffer],
                             *y = &b->buffer[b->value[t->in[k]].buffer];
            if (x->kind != y->kind) return false;
            if (x->kind == NNL_BUFFER_OUTER && x->storage != y->storage) return false;
            if (x->kind != NNL_BUFFER_CONST) continue;
            if (x->bytes == y->bytes && memcmp(x->storage->data, y->storage->data, x->bytes) == 0)
                continue;
            *number = true;
            *where = t->where;
            return false;
        }
    }
    return true;
}
