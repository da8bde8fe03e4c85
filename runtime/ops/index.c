/* x[{a, {}, b}]: several index tensors at once, each for one dimension or, if it is a mask, for
 * several. */
#include "index_walk.h"

#include <string.h>

#define FIRST_INDEX(c) ((c)->start[(c)->sig->tensors - 1])

/* What the index tensors (the call's last list) make of a tensor. */
typedef struct index_plan {
    nnl_tensor *target;       /* the tensor that is indexed, or one like it */
    int n_index;              /* entries of the list; NULL ones keep their dimension */
    int of_dim[NNL_MAX_DIMS]; /* of each dimension: the entry, or -1 */
    int ndim;                 /* of the result */
    int64_t shape[NNL_MAX_DIMS];
    int64_t strides[NNL_MAX_DIMS]; /* of target along the result's dimensions; 0 for those of the
                                      positions */
    int at, n_places;              /* the positions' dimensions begin at `at` in the result */
    int64_t places;                /* how many there are */
} index_plan;

/* An entry takes one dimension, a mask as many as it has. */
static nnl_status place_entry(nnl_call *c, index_plan *p, int entry, const nnl_tensor *t, int *dim)
{
    const nnl_tensor *x = p->target;
    char text[NNL_SHAPE_TEXT], whole[NNL_SHAPE_TEXT];
    bool mask = t->dtype == NNL_BOOL;
    int takes = mask ? t->ndim : 1;
    if (nnl_is_float((nnl_dtype)t->dtype))
        return nnl_call_fail(
            c, NNL_ETYPE,
            "index %d is %s; positions are integers, masks bool: convert it with :to(\"i64\")",
            entry + 1, nnl_dtype_name((nnl_dtype)t->dtype));
    if (mask && takes == 0)
        return nnl_call_fail(c, NNL_ESHAPE, "index %d is a 0-d mask; a mask needs a dimension",
                             entry + 1);
    bool fits = *dim + takes <= x->ndim;
    for (int d = 0; mask && d < takes && fits; d++) fits = t->shape[d] == x->shape[*dim + d];
    if (!fits)
        return nnl_call_fail(
            c, NNL_ESHAPE, "index %d is %s%s and stands for dimension %d%s of a tensor of %s",
            entry + 1, mask ? "a mask of " : "positions of ",
            nnl_shape_text(text, t->ndim, t->shape), *dim + c->index_base,
            takes > 1 ? " and the following" : "", nnl_shape_text(whole, x->ndim, x->shape));
    for (int d = 0; d < takes; d++) p->of_dim[(*dim)++] = entry;
    return NNL_OK;
}

static nnl_status plan_index(nnl_call *c, nnl_tensor *target, index_plan *p)
{
    int first = FIRST_INDEX(c), dim = 0, indexed = 0, at = -1, last = -1, places_ndim = 0;
    int64_t places[NNL_MAX_DIMS];
    p->target = target;
    p->n_index = c->n_in - first;
    for (int d = 0; d < NNL_MAX_DIMS; d++) p->of_dim[d] = -1;
    for (int e = 0; e < p->n_index; e++) {
        const nnl_tensor *t = c->in[first + e];
        if (!t) {
            if (dim++ >= target->ndim)
                return nnl_call_fail(c, NNL_ESHAPE, "more entries than the tensor has dimensions");
            continue;
        }
        NNL_TRY(place_entry(c, p, e, t, &dim));
        if (t->dtype == NNL_BOOL) NNL_TRY(nnl_call_needs_values(c));
        int64_t count = t->dtype == NNL_BOOL ? nnl_count_true(t) : 0;
        bool joins = t->dtype == NNL_BOOL ? nnl_broadcast(&places_ndim, places, 1, &count)
                                          : nnl_broadcast(&places_ndim, places, t->ndim, t->shape);
        if (!joins)
            return nnl_call_fail(
                c, NNL_ESHAPE,
                "the index tensors do not broadcast: number %d does not fit those before it",
                e + 1);
    }
    bool adjacent = true;
    for (int d = 0; d < target->ndim; d++) {
        if (p->of_dim[d] < 0) continue;
        if (at < 0)
            at = d;
        else
            adjacent &= d == last + 1;
        last = d;
        indexed++;
    }
    if (indexed == 0) return nnl_call_fail(c, NNL_EINVAL, "no index tensor is given");
    if (target->ndim - indexed + places_ndim > NNL_MAX_DIMS)
        return nnl_call_fail(c, NNL_ESHAPE, "the result would have more than %d dimensions",
                             NNL_MAX_DIMS);
    /* Between the other dimensions when the indexed ones are neighbours, else in front: as in
     * torch. */
    p->at = adjacent ? at : 0;
    p->n_places = places_ndim;
    p->ndim = 0;
    p->places = nnl_shape_numel(places_ndim, places);
    for (int d = 0, done = false; d <= target->ndim; d++) {
        if (!done && p->ndim == p->at && (d == target->ndim || p->of_dim[d] >= 0 || !adjacent)) {
            for (int i = 0; i < places_ndim; i++, p->ndim++) {
                p->shape[p->ndim] = places[i];
                p->strides[p->ndim] = 0;
            }
            done = true;
        }
        if (d == target->ndim || p->of_dim[d] >= 0) continue;
        p->shape[p->ndim] = target->shape[d];
        p->strides[p->ndim++] = target->strides[d];
    }
    return NNL_OK;
}

/* Adds an entry's offsets, broadcast, to all. */
static nnl_status add_entry(nnl_call *c, const index_plan *p, int entry, int dim, nnl_tensor *all)
{
    const nnl_tensor *t = c->in[FIRST_INDEX(c) + entry];
    bool mask = t->dtype == NNL_BOOL;
    int64_t count = mask ? nnl_count_true(t) : t->numel;
    nnl_offsets own;
    NNL_TRY(nnl_offsets_new(c->rt, count, &own));
    nnl_status status = NNL_OK;
    if (mask)
        nnl_mask_offsets(t, p->target, dim, own.at);
    else
        status = nnl_positions_read(c, FIRST_INDEX(c) + entry, dim, p->target->shape[dim],
                                    nnl_stride_bytes(p->target, dim), own.at);
    if (status == NNL_OK) {
        nnl_tensor part =
            nnl_header_of(c->rt, NNL_I64, own.at, mask ? 1 : t->ndim, mask ? &count : t->shape);
        status = nnl_map_run(c->rt, NNL_MAP_add, 2, (nnl_tensor *[]){all, &part}, all, NULL);
    }
    nnl_offsets_free(c->rt, &own);
    return status;
}

static nnl_status plan_offsets(nnl_call *c, const index_plan *p, nnl_offsets *out)
{
    int only = -1, entries = 0, entry = -1;
    for (int d = 0; d < p->target->ndim; d++) {
        if (p->of_dim[d] < 0 || p->of_dim[d] == entry) continue;
        entry = p->of_dim[d];
        only = d;
        entries++;
    }
    const nnl_tensor *t = c->in[FIRST_INDEX(c) + entry];
    if (entries == 1 && t->dtype != NNL_BOOL)
        return nnl_offsets_read(c, FIRST_INDEX(c) + entry, only, p->target->shape[only],
                                nnl_stride_bytes(p->target, only), out);
    NNL_TRY(nnl_offsets_new(c->rt, p->places, out));
    if (entries == 1) {
        nnl_mask_offsets(t, p->target, only, out->at);
        return NNL_OK;
    }
    memset(out->at, 0, (size_t)p->places * sizeof(int64_t));
    nnl_tensor all = nnl_header_of(c->rt, NNL_I64, out->at, p->n_places, p->shape + p->at);
    nnl_status status = NNL_OK;
    entry = -1;
    for (int d = 0; d < p->target->ndim && status == NNL_OK; d++) {
        if (p->of_dim[d] < 0 || p->of_dim[d] == entry) continue;
        entry = p->of_dim[d];
        status = add_entry(c, p, entry, d, &all);
    }
    if (status != NNL_OK) nnl_offsets_free(c->rt, out);
    return status;
}

static void plan_walk(const index_plan *p, const nnl_tensor *packed, const nnl_tensor *base,
                      int64_t *offsets, nnl_walk *w)
{
    int64_t strides[NNL_MAX_DIMS] = {0};
    nnl_strides_contiguous(p->n_places, p->shape + p->at, strides + p->at);
    for (int d = 0; d < p->ndim; d++) {
        w->apart[d] = d < p->at || d >= p->at + p->n_places;
        if (w->apart[d]) strides[d] = 0;
    }
    nnl_walk_set(w, packed, base, offsets, strides, p->strides);
}

static nnl_status index_infer(nnl_call *c)
{
    index_plan p;
    NNL_TRY(plan_index(c, c->in[0], &p));
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->in[0]->dtype, p.ndim, p.shape);
    return NNL_OK;
}

static nnl_status index_run(nnl_call *c)
{
    index_plan p;
    nnl_offsets offsets;
    nnl_walk w;
    NNL_TRY(plan_index(c, c->in[0], &p));
    NNL_TRY(plan_offsets(c, &p, &offsets));
    plan_walk(&p, c->out[0], c->in[0], offsets.at, &w);
    nnl_status status = nnl_gather_walk(c->rt, &w);
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

/* The gradient's inputs: one or two tensors, then the index tensors. */
static nnl_tensor *with_indices(nnl_grad *g, const nnl_op *op, int n, nnl_tensor *const *first,
                                int n_attr, const nnl_value *attr)
{
    nnl_tensor *in[NNL_MAX_DIMS + 2];
    int from = g->start[g->sig->tensors - 1], count = g->n_in - from;
    for (int i = 0; i < n; i++) in[i] = first[i];
    for (int i = 0; i < count; i++) in[n + i] = g->in[from + i];
    return nnl_do(g->s, op, n + count, in, n_attr, attr);
}

static void index_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0];
    g->dx[0] = with_indices(g, &nnl_op_index_backward, 1, g->dy, 1, &V_INTS(x->ndim, x->shape));
}

#define SAVE_FROM(place) (NNL_SAVE_INPUTS & ~((1u << (place)) - 1u))

NNL_OP(index,
    .sig = "input:any, index:any*? -> same",
    .doc = "x[{a, {}, b}]: index tensors of positions or masks, one for each dimension (a mask "
           "for several), absent ones keep it; they are broadcast against each other.  Their "
           "dimensions stand in place of the indexed ones, or first if these are no neighbours.",
    .infer = index_infer,
    .run = index_run,
    .grad = index_grad,
    .saves = SAVE_FROM(1),
    .traits = NNL_HIDDEN);

static nnl_status index_backward_infer(nnl_call *c) { return nnl_shape_attr_infer(c, &c->attr[0]); }

/* Values broadcast to the plan's shape and made contiguous, so that the order of writing is always
 * the same. */
static nnl_status packed_values(const index_plan *p, nnl_tensor *values, nnl_tensor **out)
{
    bool same = values->contiguous && values->ndim == p->ndim &&
                memcmp(values->shape, p->shape, sizeof(int64_t) * (size_t)p->ndim) == 0;
    if (same) {
        *out = nnl_tensor_ref(values);
        return NNL_OK;
    }
    nnl_spec spec;
    nnl_spec_set(&spec, (nnl_dtype)values->dtype, p->ndim, p->shape);
    return nnl_copy_as(&spec, values, out);
}

/* One index tensor for the first dimension of something contiguous: rows. */
static bool are_rows(const index_plan *p, const nnl_tensor *out)
{
    if (!out->contiguous || p->of_dim[0] < 0 || p->n_index < 1) return false;
    for (int d = 1; d < out->ndim; d++) {
        if (p->of_dim[d] >= 0) return false;
    }
    return true;
}

static nnl_status put(nnl_call *c, const index_plan *p, const nnl_tensor *input, nnl_tensor *values,
                      bool add)
{
    nnl_tensor *out = c->out[0], *packed;
    nnl_offsets offsets;
    nnl_walk w;
    NNL_TRY(plan_offsets(c, p, &offsets));
    nnl_status status = packed_values(p, values, &packed);
    if (status == NNL_OK) {
        status = input ? nnl_begin_with(out, input) : NNL_OK;
        int64_t row = out->ndim ? nnl_stride_bytes(out, 0) : 0;
        if (status != NNL_OK || packed->numel == 0) {
            /* nothing to write */
        } else if (add && are_rows(p, out) && row > 0) {
            for (int64_t i = 0; i < offsets.count; i++) offsets.at[i] /= row;
            status =
                nnl_add_rows(c->rt, (nnl_dtype)out->dtype, out->data, out->shape[0], packed->data,
                             offsets.at, offsets.count, out->numel / out->shape[0]);
        } else {
            plan_walk(p, packed, out, offsets.at, &w);
            status = add ? nnl_add_walk(c->rt, &w, 1) : nnl_set_walk(c->rt, &w);
        }
        nnl_tensor_unref(packed);
    }
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static nnl_status index_backward_run(nnl_call *c)
{
    index_plan p;
    NNL_TRY(plan_index(c, c->out[0], &p));
    nnl_set_zero(c->out[0]);
    return put(c, &p, NULL, c->in[0], true);
}

static void index_backward_grad(nnl_grad *g)
{
    g->dx[0] = with_indices(g, &nnl_op_index, 1, g->dy, 0, NULL);
}

NNL_OP(index_backward,
    .sig = "dy:float, index:any*?, shape:int* -> same",
    .doc = "Zeros of a shape with dy added at the places that index took.",
    .infer = index_backward_infer,
    .run = index_backward_run,
    .grad = index_backward_grad,
    .saves = SAVE_FROM(1),
    .traits = NNL_HIDDEN);

static nnl_status index_put_infer(nnl_call *c)
{
    index_plan p;
    const nnl_tensor *values = c->in[1];
    if (values->dtype != c->in[0]->dtype)
        return nnl_call_fail(c, NNL_ETYPE, "values is %s, but input is %s",
                             nnl_dtype_name((nnl_dtype)values->dtype),
                             nnl_dtype_name((nnl_dtype)c->in[0]->dtype));
    NNL_TRY(plan_index(c, c->in[0], &p));
    nnl_spec_like(&c->spec[0], c->in[0]);
    int ndim = p.ndim;
    int64_t shape[NNL_MAX_DIMS];
    char a[NNL_NAMED_TEXT], b[NNL_SHAPE_TEXT];
    memcpy(shape, p.shape, sizeof shape);
    if (nnl_broadcast(&ndim, shape, values->ndim, values->shape) && ndim == p.ndim &&
        memcmp(shape, p.shape, sizeof(int64_t) * (size_t)ndim) == 0)
        return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE, "%s does not fit the elements that are named (%s)",
                         nnl_call_input_text(c, 1, a), nnl_shape_text(b, p.ndim, p.shape));
}

static nnl_status index_put_run(nnl_call *c)
{
    index_plan p;
    NNL_TRY(plan_index(c, c->out[0], &p));
    return put(c, &p, c->in[0], c->in[1], c->attr[0].as.i);
}

static void index_put_grad(nnl_grad *g)
{
    bool add = g->attr[0].as.i;
    if (g->needs[0]) {
        nnl_tensor *zero = add ? NULL : nnl_number(g->s, g->dy[0], 0);
        g->dx[0] = add ? g->dy[0]
                       : with_indices(g, &nnl_op_index_put, 2, (nnl_tensor *[]){g->dy[0], zero}, 1,
                                      &V_FLAG(false));
    }
    if (g->needs[1])
        g->dx[1] = with_indices(g, add ? &nnl_op_index : &nnl_op_index_last, 1, g->dy, 0, NULL);
}

NNL_OP(index_put,
    .sig = "input:any, values:any, index:any*?, accumulate:flag=false -> same",
    .doc = "x[{a, {}, b}] = values: input with values (broadcast) put, or added, at the elements "
           "that `index` would take.  Of several for one place the last one stays; sums are in "
           "the values' order.",
    .infer = index_put_infer,
    .run = index_put_run,
    .grad = index_put_grad,
    .saves = SAVE_FROM(2),
    .traits = NNL_INPLACE_OK | NNL_HIDDEN);

static nnl_status index_last_run(nnl_call *c)
{
    index_plan p;
    nnl_offsets offsets;
    nnl_tensor *spoilt;
    nnl_walk w;
    NNL_TRY(nnl_copy_new(c->in[0], &spoilt));
    nnl_status status = plan_index(c, spoilt, &p);
    if (status == NNL_OK) status = plan_offsets(c, &p, &offsets);
    if (status == NNL_OK) {
        plan_walk(&p, c->out[0], spoilt, offsets.at, &w);
        status = nnl_take_last_walk(c->rt, &w);
        nnl_offsets_free(c->rt, &offsets);
    }
    nnl_tensor_unref(spoilt);
    return status;
}

static void index_last_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0];
    nnl_tensor *zeros = nnl_full(g->s, (nnl_dtype)x->dtype, x->ndim, x->shape, 0);
    g->dx[0] =
        with_indices(g, &nnl_op_index_put, 2, (nnl_tensor *[]){zeros, g->dy[0]}, 1, &V_FLAG(false));
}

NNL_OP(index_last,
    .sig = "input:float, index:any*? -> same",
    .doc = "As index, but of several places that take the same element only the last one gets it, "
           "the others 0: what flows back through index_put.",
    .infer = index_infer,
    .run = index_last_run,
    .grad = index_last_grad,
    .saves = SAVE_FROM(1),
    .traits = NNL_HIDDEN);
