/* Gathers elementwise steps over the same elements into chains.  A step that stands between two of
 * them and has nothing to do with the chain goes before it.  What only passes from link to link
 * needs no memory. */
#include "program.h"

#include <string.h>

typedef struct gathering {
    nnl_program *p;
    int32_t *uses; /* of each buffer, by all steps */
    nnl_step *out; /* the new steps */
    int n_out;
    int count; /* of the chain that is open */
    nnl_step member[NNL_CHAIN_LINKS];
    nnl_link link[NNL_CHAIN_LINKS];
    int64_t numel, row;
    int n_rows; /* distinct repeated rows */
    int32_t row_value[NNL_CHAIN_ROWS];
    const nnl_tensor *form; /* of the elements: what others are compared with */
} gathering;

static int32_t buffer_of(const nnl_program *p, int32_t value)
{
    return value < 0 ? -1 : p->value[value].buffer;
}

/* ---------------------------------------------------------------- one step as a link */

static bool is_dense(const nnl_tensor *t) { return t->contiguous || nnl_is_channels_last(t); }

static bool same_order(const nnl_tensor *a, const nnl_tensor *b)
{
    if (!nnl_same_shape(a, b)) return false;
    for (int d = 0; d < a->ndim; d++) {
        if (a->shape[d] != 1 && a->strides[d] != b->strides[d]) return false;
    }
    return true;
}

/* t repeats along the leading dimensions of a contiguous result: the elements of its row, or 0. */
static int64_t repeated_row(const nnl_tensor *t, const nnl_tensor *out)
{
    if (!t->contiguous || !out->contiguous || t->ndim > out->ndim) return 0;
    int lead = 0;
    while (lead < t->ndim && t->shape[lead] == 1) lead++;
    for (int d = lead; d < t->ndim; d++) {
        if (t->shape[d] != out->shape[out->ndim - t->ndim + d]) return 0;
    }
    return t->numel;
}

/* A stand-in for the call: forms with data only where it is constant. */
static void form_call(const nnl_program *p, const nnl_step *step, nnl_call *c, const nnl_sig *sig,
                      nnl_tensor *forms)
{
    *c = (nnl_call){.rt = p->rt,
                    .op = step->op,
                    .sig = sig,
                    .n_in = step->n_in,
                    .n_out = step->n_out,
                    .attr = step->attr,
                    .index_base = step->index_base,
                    .inplace = step->inplace};
    c->in = c->in_;
    c->out = c->out_;
    c->spec = step->spec;
    for (int i = 0; i < step->n_in + step->n_out; i++) {
        int32_t v = i < step->n_in ? step->in[i] : step->out[i - step->n_in];
        nnl_tensor **place = i < step->n_in ? &c->in[i] : &c->out[i - step->n_in];
        *place = NULL;
        if (v < 0) continue;
        const nnl_buffer *b = &p->buffer[p->value[v].buffer];
        forms[i] = p->value[v].form;
        if (b->kind == NNL_BUFFER_CONST && !b->written)
            forms[i].data = (char *)b->storage->data + p->value[v].offset;
        *place = &forms[i];
    }
}

static bool set_operand(const nnl_program *p, nnl_operand *operand, int32_t value,
                        const nnl_tensor *out, int64_t *row)
{
    const nnl_tensor *t = &p->value[value].form;
    *operand = (nnl_operand){
        .value = value, .slot = -1, .width = (int8_t)nnl_width(t->dtype), .pace = NNL_PACE_EACH};
    if (same_order(t, out)) return true;
    operand->pace = NNL_PACE_ONE;
    if (t->numel == 1) return true;
    operand->pace = NNL_PACE_ROW;
    int64_t elements = repeated_row(t, out);
    if (elements == 0 || (*row && *row != elements)) return false;
    *row = elements;
    return true;
}

/* Whether the step is one loop over dense operands, and which. */
static bool as_link(const nnl_program *p, const nnl_step *step, nnl_link *link, int64_t *row)
{
    nnl_call c;
    nnl_map_form form;
    nnl_tensor forms[NNL_CALL_INLINE];
    const nnl_sig *sig = p->rt->engine->sig[step->op->id];
    *row = 0;
    if (!(step->op->traits & NNL_ELEMENTWISE) && step->op->run != nnl_run_map) return false;
    if (step->n_out != 1 || step->n_in + 1 > NNL_CALL_INLINE || step->live >= 0 || step->chain)
        return false;
    form_call(p, step, &c, sig, forms);
    if (!nnl_map_form_of(&c, &form) || form.inputs > 3) return false;
    const nnl_tensor *out = &p->value[step->out[0]].form;
    if (!is_dense(out) || out->numel == 0) return false;
    *link = (nnl_link){.op = step->op, .map = (int16_t)form.map, .inputs = (int16_t)form.inputs};
    memcpy(link->param, form.param, sizeof link->param);
    for (int i = 0; i < form.inputs; i++) {
        int32_t value = step->in[form.in[i] - forms];
        if (!set_operand(p, &link->in[i], value, out, row)) return false;
        link->dtype = p->value[value].form.dtype;
    }
    link->out =
        (nnl_operand){.value = step->out[0], .slot = -1, .width = (int8_t)nnl_width(out->dtype)};
    return p->rt->kernels->map[link->map][link->dtype] != NULL;
}

/* ---------------------------------------------------------------- gathering */

/* What a step touches: every buffer it reads or writes. */
static bool touches(const nnl_program *p, const nnl_step *step, int32_t buffer, bool writes_only)
{
    for (int i = 0; i < step->n_out; i++) {
        if (buffer_of(p, step->out[i]) == buffer) return true;
    }
    bool in_too = !writes_only || step->op->traits & NNL_IN_PLACE;
    for (int i = 0; i < step->n_in && in_too; i++) {
        if (buffer_of(p, step->in[i]) == buffer) return true;
    }
    return false;
}

/* Whether the step can run before the open chain. */
static bool is_apart(const gathering *g, const nnl_step *step)
{
    for (int m = 0; m < g->count; m++) {
        const nnl_step *member = &g->member[m];
        if (touches(g->p, step, buffer_of(g->p, member->out[0]), false)) return false;
        for (int i = 0; i < member->n_in; i++) {
            if (member->in[i] >= 0 && touches(g->p, step, buffer_of(g->p, member->in[i]), true))
                return false;
        }
    }
    return true;
}

/* Two values of one buffer, one of them written, must be the same value; and a repeated or single
 * element must not be written by the chain at all. */
static bool collides(const gathering *g, const nnl_link *link)
{
    const nnl_program *p = g->p;
    for (int m = 0; m < g->count; m++) {
        const nnl_link *other = &g->link[m];
        for (int i = 0; i <= link->inputs; i++) {
            const nnl_operand *a = i < link->inputs ? &link->in[i] : &link->out;
            for (int k = 0; k <= other->inputs; k++) {
                const nnl_operand *b = k < other->inputs ? &other->in[k] : &other->out;
                bool written = i == link->inputs || k == other->inputs;
                if (!written || buffer_of(p, a->value) != buffer_of(p, b->value)) continue;
                if (a->value != b->value || a->pace != NNL_PACE_EACH || b->pace != NNL_PACE_EACH)
                    return true;
            }
        }
    }
    return false;
}

/* Adds the link's repeated rows to the chain's; false when they would be too many. */
static bool add_rows(gathering *g, const nnl_link *link)
{
    int count = g->n_rows;
    for (int i = 0; i < link->inputs; i++) {
        if (link->in[i].pace != NNL_PACE_ROW) continue;
        int k = 0;
        while (k < count && g->row_value[k] != link->in[i].value) k++;
        if (k == NNL_CHAIN_ROWS) return false;
        if (k == count) g->row_value[count++] = link->in[i].value;
    }
    g->n_rows = count;
    return true;
}

static bool joins(const gathering *g, const nnl_link *link, int64_t row)
{
    const nnl_tensor *out = &g->p->value[link->out.value].form;
    if (g->count == 0) return true;
    if (g->count == NNL_CHAIN_LINKS || out->numel != g->numel) return false;
    if (row && g->row && row != g->row) return false;
    /* The same order of elements; contiguous ones may have any shape when nothing repeats. */
    bool same = out->contiguous && g->form->contiguous ? true : same_order(out, g->form);
    return same && !collides(g, link);
}

/* Uses of a buffer within the chain. */
static int uses_inside(const gathering *g, int32_t buffer)
{
    int count = 0;
    for (int m = 0; m < g->count; m++) {
        const nnl_step *s = &g->member[m];
        for (int i = 0; i < s->n_in; i++) count += buffer_of(g->p, s->in[i]) == buffer;
        count += buffer_of(g->p, s->out[0]) == buffer;
    }
    return count;
}

static bool stays_inside(const gathering *g, int32_t value)
{
    int32_t buffer = buffer_of(g->p, value);
    const nnl_buffer *b = &g->p->buffer[buffer];
    return b->kind == NNL_BUFFER_TEMP && !b->escapes && uses_inside(g, buffer) == g->uses[buffer];
}

/* The last link that reads a value from link `m` on, before it is written again. */
static int last_reader(const nnl_chain *chain, int m, int32_t value)
{
    int last = m;
    for (int k = m + 1; k < chain->n_links; k++) {
        for (int i = 0; i < chain->link[k].inputs; i++) {
            if (chain->link[k].in[i].value == value) last = k;
        }
        if (chain->link[k].out.value == value) break;
    }
    return last;
}

/* Blocks for values that stay inside, used again when their last reader is done; what finds no
 * block keeps its memory. */
static void assign_slots(const gathering *g, nnl_chain *chain)
{
    int busy_until[NNL_CHAIN_SLOTS];
    int32_t value_in[NNL_CHAIN_SLOTS];
    for (int s = 0; s < NNL_CHAIN_SLOTS; s++) busy_until[s] = value_in[s] = -1;
    for (int m = 0; m < chain->n_links; m++) {
        nnl_link *link = &chain->link[m];
        for (int i = 0; i < link->inputs; i++) {
            for (int s = 0; s < NNL_CHAIN_SLOTS && link->in[i].pace == NNL_PACE_EACH; s++) {
                if (value_in[s] >= 0 && value_in[s] == link->in[i].value)
                    link->in[i].slot = (int16_t)s;
            }
        }
        for (int s = 0; s < NNL_CHAIN_SLOTS;
             s++) { /* a loop may write over an input of the same width */
            bool same = value_in[s] >= 0 &&
                        nnl_width(g->p->value[value_in[s]].form.dtype) == (size_t)link->out.width;
            if (busy_until[s] < m || (busy_until[s] == m && same)) value_in[s] = busy_until[s] = -1;
        }
        for (int s = 0; s < NNL_CHAIN_SLOTS;
             s++) { /* written again: what was there is read no more */
            if (value_in[s] == link->out.value) value_in[s] = busy_until[s] = -1;
        }
        if (!stays_inside(g, link->out.value)) continue;
        for (int s = 0; s < NNL_CHAIN_SLOTS && link->out.slot < 0; s++) {
            if (busy_until[s] >= 0) continue;
            link->out.slot = (int16_t)s;
            value_in[s] = link->out.value;
            busy_until[s] = last_reader(chain, m, link->out.value);
        }
    }
}

static void assign_rows(const gathering *g, nnl_chain *chain)
{
    if (chain->row == 0 || chain->row > chain->block / 2) return;
    chain->n_rows = g->n_rows;
    for (int r = 0; r < g->n_rows; r++) {
        chain->row_value[r] = g->row_value[r];
        chain->row_width[r] = (int8_t)nnl_width(g->p->value[g->row_value[r]].form.dtype);
    }
    for (int m = 0; m < chain->n_links; m++) {
        for (int i = 0; i < chain->link[m].inputs; i++) {
            nnl_operand *o = &chain->link[m].in[i];
            for (int r = 0; r < g->n_rows && o->pace == NNL_PACE_ROW; r++) {
                if (o->value == g->row_value[r]) o->slot = (int16_t)r;
            }
        }
    }
}

static int64_t block_of(const nnl_chain *chain)
{
    int width = 1;
    for (int m = 0; m < chain->n_links; m++) {
        const nnl_link *link = &chain->link[m];
        width = NNL_MAX(width, link->out.width);
        for (int i = 0; i < link->inputs; i++) width = NNL_MAX(width, link->in[i].width);
    }
    int64_t block = NNL_CHAIN_SLOT_BYTES / width;
    if (chain->row > 0 && chain->row <= block / 2)
        block = block / chain->row * chain->row;
    else if (chain->row > 0)
        block = NNL_MIN(block, chain->row);
    return block;
}

/* The values that a chain reads from memory and writes there, each once. */
static nnl_status outer_values(nnl_program *p, nnl_step *step, const nnl_chain *chain)
{
    int32_t in[3 * NNL_CHAIN_LINKS], out[NNL_CHAIN_LINKS];
    int n_in = 0, n_out = 0;
    for (int m = 0; m < chain->n_links; m++) {
        const nnl_link *link = &chain->link[m];
        for (int i = 0; i < link->inputs; i++) {
            int k = 0;
            while (k < n_in && in[k] != link->in[i].value) k++;
            if (link->in[i].slot < 0 && k == n_in) in[n_in++] = link->in[i].value;
        }
        if (link->out.slot < 0) out[n_out++] = link->out.value;
    }
    step->n_in = (int16_t)n_in;
    step->n_out = (int16_t)n_out;
    NNL_TRY(
        nnl_bump_alloc(&p->bump, sizeof(int32_t) * (size_t)NNL_MAX(n_in + n_out, 1), &step->in));
    step->out = step->in + n_in;
    memcpy(step->in, in, sizeof(int32_t) * (size_t)n_in);
    memcpy(step->out, out, sizeof(int32_t) * (size_t)n_out);
    return NNL_OK;
}

static nnl_status close_chain(gathering *g)
{
    nnl_program *p = g->p;
    if (g->count == 0) return NNL_OK;
    nnl_chain *chain;
    NNL_TRY(nnl_bump_alloc(&p->bump, sizeof *chain, &chain));
    NNL_TRY(nnl_bump_alloc(&p->bump, sizeof(nnl_link) * (size_t)g->count, &chain->link));
    memcpy(chain->link, g->link, sizeof(nnl_link) * (size_t)g->count);
    chain->n_links = g->count;
    chain->numel = g->numel;
    chain->row = g->row;
    for (int m = 0; m < g->count; m++)
        chain->work += chain->link[m].map >= NNL_MAP_reciprocal ? 8 : 2;
    assign_slots(g, chain);
    chain->block = block_of(chain);
    NNL_TRY(outer_values(p, &g->member[g->count - 1], chain));
    assign_rows(g, chain);
    nnl_step *step = &g->out[g->n_out++];
    *step = g->member[g->count - 1];
    step->chain = chain;
    step->inplace = false;
    g->count = g->n_rows = 0;
    g->row = 0;
    return NNL_OK;
}

static nnl_status gather(gathering *g, const nnl_step *step)
{
    nnl_link link;
    int64_t row;
    bool maps = as_link(g->p, step, &link, &row);
    if (maps && g->count > 0 && !joins(g, &link, row)) {
        if (is_apart(g, step))
            maps = false;
        else
            NNL_TRY(close_chain(g));
    }
    if (maps && !add_rows(g, &link)) {
        NNL_TRY(close_chain(g));
        maps = add_rows(g, &link);
    }
    if (!maps) {
        if (g->count > 0 && !is_apart(g, step)) NNL_TRY(close_chain(g));
        g->out[g->n_out++] = *step;
        return NNL_OK;
    }
    const nnl_tensor *out = &g->p->value[step->out[0]].form;
    if (g->count == 0) {
        g->numel = out->numel;
        g->form = out;
    }
    if (row) g->row = row;
    g->member[g->count] = *step;
    g->link[g->count++] = link;
    return NNL_OK;
}

static void count_uses(const nnl_program *p, int32_t *uses)
{
    for (int s = 0; s < p->n_steps; s++) {
        const nnl_step *step = &p->step[s];
        for (int i = 0; i < step->n_in; i++) {
            if (step->in[i] >= 0) uses[buffer_of(p, step->in[i])]++;
        }
        for (int i = 0; i < step->n_out; i++) {
            if (step->out[i] >= 0) uses[buffer_of(p, step->out[i])]++;
        }
    }
}

nnl_status nnl_program_fuse(nnl_program *p)
{
    nnl_runtime *rt = p->rt;
    void *block;
    size_t uses = sizeof(int32_t) * (size_t)(p->n_buffers + 1),
           steps = sizeof(nnl_step) * (size_t)(p->n_steps + 1);
    NNL_TRY(nnl_alloc_zeroed(rt, sizeof(gathering) + uses + steps, &block));
    gathering *g = block;
    g->p = p;
    g->out = (nnl_step *)(void *)(g + 1);
    g->uses = (int32_t *)(void *)((char *)g->out + steps);
    count_uses(p, g->uses);
    nnl_status status = NNL_OK;
    for (int i = 0; i < p->n_steps && status == NNL_OK; i++) status = gather(g, &p->step[i]);
    if (status == NNL_OK) status = close_chain(g);
    if (status == NNL_OK) {
        memcpy(p->step, g->out, sizeof(nnl_step) * (size_t)g->n_out);
        p->n_steps = g->n_out;
    }
    nnl_free(rt, block, sizeof(gathering) + uses + steps);
    return status;
}
