/* The one door through which every op goes: check, convert, infer, allocate, run, record. */
#include "engine.h"

#include <math.h>
#include <string.h>

#define BIT(dtype) (1u << (dtype))
#define FLOATS (BIT(NNL_F32) | BIT(NNL_F64))
#define INTEGERS (BIT(NNL_U8) | BIT(NNL_I32) | BIT(NNL_I64))

/* Types that each tensor class takes as they are. */
static const uint8_t takes[] = {
    [NNL_T_ANY] = BIT(NNL_BOOL) | INTEGERS | FLOATS,
    [NNL_T_NUMBER] = INTEGERS | FLOATS,
    [NNL_T_REAL] = FLOATS,
    [NNL_T_FLOAT] = FLOATS,
    [NNL_T_INTEGRAL] = INTEGERS,
    [NNL_T_BOOL] = BIT(NNL_BOOL),
    [NNL_T_INDEX] = INTEGERS,
};

nnl_status nnl_sig_of(nnl_runtime *rt, const nnl_op *op, const nnl_sig **out)
{
    nnl_sig **slot = &rt->engine->sig[op->id];
    if (NNL_UNLIKELY(!*slot)) {
        void *block;
        NNL_TRY(nnl_alloc(rt, sizeof(nnl_sig), &block));
        nnl_status status = nnl_sig_parse(rt, op, block);
        if (status != NNL_OK) {
            nnl_free(rt, block, sizeof(nnl_sig));
            return status;
        }
        *slot = block;
    }
    *out = *slot;
    return NNL_OK;
}

/* ---------------------------------------------------------------- what a call holds while it runs
 */

typedef struct visit {
    nnl_call call;
    nnl_tensor *target; /* of an in-place call */
    nnl_tensor **owned; /* converted inputs, by place; NULL where the caller's own stands */
    nnl_tensor *owned_[NNL_CALL_INLINE];
    void *input_block; /* when there are more inputs than fit */
    size_t input_block_size;
    int64_t dims_[NNL_MAX_ATTRS][NNL_MAX_DIMS]; /* normalised dimensions */
    bool any_owned, tracked;
} visit;

static void leave(visit *v)
{
    nnl_call *c = &v->call;
    if (v->any_owned) {
        for (int i = 0; i < c->n_in; i++) nnl_tensor_unref(v->owned[i]);
    }
    if (v->input_block) nnl_free(c->rt, v->input_block, v->input_block_size);
    if (c->block) nnl_free(c->rt, c->block, c->block_size);
}

nnl_status nnl_call_results(nnl_call *c, int n)
{
    if (n > NNL_CALL_INLINE) {
        size_t size = (size_t)n * (sizeof(nnl_spec) + sizeof(nnl_tensor *));
        NNL_TRY(nnl_alloc(c->rt, size, &c->block));
        c->block_size = size;
        c->spec = c->block;
        c->out = (nnl_tensor **)(void *)(c->spec + n);
    }
    for (int i = 0; i < n; i++) {
        c->out[i] = NULL;
        nnl_spec_plain(&c->spec[i]);
    }
    c->n_out = n;
    return NNL_OK;
}

/* Which parameter an input belongs to. */
static const nnl_param *param_of(const nnl_call *c, int place)
{
    const nnl_sig *sig = c->sig;
    if (!sig->list_input) return sig->tensor[place];
    for (int p = 0; p < sig->tensors; p++) {
        if (place < c->start[p + 1]) return sig->tensor[p];
    }
    return sig->tensor[sig->tensors - 1];
}

/* ---------------------------------------------------------------- inputs: presence, type,
 * promotion */

static nnl_status own(visit *v, int place, nnl_tensor *converted)
{
    if (!v->any_owned) {
        memset(v->owned, 0, sizeof(nnl_tensor *) * (size_t)v->call.n_in);
        v->any_owned = true;
    }
    nnl_tensor_unref(v->owned[place]);
    v->owned[place] = v->call.in[place] = converted;
    return NNL_OK;
}

static nnl_status convert(visit *v, int place, nnl_dtype dtype)
{
    nnl_call *c = &v->call;
    nnl_request request = {
        .op = &nnl_op_to, .in = &c->in[place], .n_in = 1, .attr = &V_INT(dtype), .n_attr = 1};
    nnl_results results;
    NNL_TRY(nnl_request_run(c->rt, &request, &results));
    return own(v, place, results.out[0]);
}

static nnl_status wrong_type(visit *v, int place)
{
    static const char *const wanted[] = {
        [NNL_T_NUMBER] = "a number type, not bool",
        [NNL_T_FLOAT] = "f32 or f64",
        [NNL_T_REAL] = "f32 or f64",
        [NNL_T_INTEGRAL] = "an integer type (u8, i32 or i64)",
        [NNL_T_BOOL] = "bool",
        [NNL_T_INDEX] = "positions of an integer type",
    };
    nnl_call *c = &v->call;
    const nnl_param *p = param_of(c, place);
    const char *hint = p->type == NNL_T_FLOAT  ? "; convert it with :to(\"f32\")"
                       : p->type == NNL_T_BOOL ? "; compare it, as in x:ne(0)"
                       : p->type == NNL_T_INDEX || p->type == NNL_T_INTEGRAL
                           ? "; convert it with :to(\"i64\")"
                           : "";
    return nnl_call_fail(c, NNL_ETYPE, "%s must be %s, but it is %s%s", p->name, wanted[p->type],
                         nnl_dtype_name((nnl_dtype)c->in[place]->dtype), hint);
}

static nnl_status check_inputs(visit *v, const nnl_request *request)
{
    nnl_call *c = &v->call;
    for (int i = 0; i < c->n_in; i++) {
        nnl_tensor *t = c->in[i];
        const nnl_param *p = param_of(c, i);
        if (!t) {
            bool number = request->numbers && nnl_given(&request->numbers[i]);
            if (!number && !p->optional)
                return nnl_call_fail(c, NNL_EINVAL, "%s is missing", p->name);
            continue;
        }
        if (NNL_UNLIKELY(t->rt != c->rt))
            return nnl_call_fail(c, NNL_EINVAL, "%s belongs to another runtime", p->name);
        if (NNL_UNLIKELY(t->storage->unset &&
                         (!c->rt->capturing || t->storage->unset != c->rt->capture)))
            return nnl_call_fail(c, NNL_ESTATE,
                                 "%s was made inside a captured function%s, where nothing is "
                                 "computed; return it from the function",
                                 p->name, c->rt->capturing ? " when it ran before" : "");
        if (NNL_UNLIKELY(!(takes[p->type] >> t->dtype & 1u))) {
            if (p->type != NNL_T_REAL) return wrong_type(v, i);
            if (!(c->op->traits & NNL_PROMOTE)) NNL_TRY(convert(v, i, NNL_F32));
        }
    }
    return NNL_OK;
}

/* The type to which a reduction brings its input first, where the call names one: torch's option
 * dtype. */
static nnl_status cast_input(visit *v, const nnl_request *request)
{
    nnl_call *c = &v->call;
    int place = 0;
    while (c->sig->attr[place]->type != NNL_T_DTYPE) place++;
    if (!c->in[0] || place >= request->n_attr || !nnl_given(&request->attr[place])) return NNL_OK;
    nnl_dtype dtype = (nnl_dtype)request->attr[place].as.i;
    if (!(takes[param_of(c, 0)->type] >> dtype & 1u))
        return nnl_call_fail(c, NNL_ETYPE, "dtype must be f32 or f64, got %s",
                             nnl_dtype_name(dtype));
    return c->in[0]->dtype == dtype ? NNL_OK : convert(v, 0, dtype);
}

static int category(nnl_dtype d) { return d == NNL_BOOL ? 0 : nnl_is_int(d) ? 1 : 2; }

/* The common type, by torch's rule: tensors with dimensions decide, then those without, then
 * numbers; a later group has a say only when its category (bool, integer, float) is higher. */
static bool common_type(const nnl_call *c, const nnl_request *request, nnl_dtype *out)
{
    int with = -1, without = -1, number = -1;
    bool rounded =
        request->n_attr > 0 && nnl_given(&request->attr[0]) && request->attr[0].as.i != 0;
    bool real = c->op->traits & NNL_TRUE_QUOTIENT && !rounded;
    for (int i = 0; i < c->n_in; i++) {
        const nnl_param *p = param_of(c, i);
        if (p->type == NNL_T_BOOL || p->type == NNL_T_INDEX) continue;
        real |= p->type == NNL_T_REAL;
        const nnl_tensor *t = c->in[i];
        if (t) {
            int *group = t->ndim ? &with : &without;
            *group = NNL_MAX(*group, (int)t->dtype);
        } else if (request->numbers && nnl_given(&request->numbers[i])) {
            nnl_kind kind = request->numbers[i].kind;
            int dtype = kind == NNL_KIND_BOOL ? NNL_BOOL : kind == NNL_KIND_INT ? NNL_I64 : NNL_F32;
            number = NNL_MAX(number, dtype);
        }
    }
    int type = with;
    if (without >= 0 && (type < 0 || category((nnl_dtype)without) > category((nnl_dtype)type)))
        type = NNL_MAX(type, without);
    if (number >= 0 && (type < 0 || category((nnl_dtype)number) > category((nnl_dtype)type)))
        type = number;
    if (type < 0) return false;
    if (real && type < NNL_F32) type = NNL_F32;
    *out = (nnl_dtype)type;
    return true;
}

/* A bound beyond an integer type bounds nothing, and must not wrap around. */
static nnl_value saturated(nnl_dtype dtype, nnl_value number)
{
    const int64_t lowest = dtype == NNL_U8 ? 0 : INT32_MIN,
                  highest = dtype == NNL_U8 ? UINT8_MAX : INT32_MAX;
    if ((dtype != NNL_U8 && dtype != NNL_I32) || number.kind != NNL_KIND_INT) return number;
    return V_INT(NNL_MAX(lowest, NNL_MIN(highest, number.as.i)));
}

/* The common type is input 0's: a number takes it, a tensor of a higher category would lose what it
 * says. */
static nnl_status first_type(nnl_call *c, nnl_dtype *out)
{
    *out = (nnl_dtype)c->in[0]->dtype;
    for (int i = 1; i < c->n_in; i++) {
        const nnl_param *p = param_of(c, i);
        if (!c->in[i] || p->type == NNL_T_BOOL || p->type == NNL_T_INDEX) continue;
        if (category((nnl_dtype)c->in[i]->dtype) > category(*out))
            return nnl_call_fail(c, NNL_ETYPE, "%s is %s and cannot be written into a tensor of %s",
                                 p->name, nnl_dtype_name((nnl_dtype)c->in[i]->dtype),
                                 nnl_dtype_name(*out));
    }
    return NNL_OK;
}

static nnl_status promote(visit *v, const nnl_request *request)
{
    nnl_call *c = &v->call;
    nnl_dtype common;
    if (!common_type(c, request, &common)) return NNL_OK;
    if (c->op->traits & NNL_FIRST_TYPE) NNL_TRY(first_type(c, &common));
    for (int i = 0; i < c->n_in; i++) {
        const nnl_param *p = param_of(c, i);
        if (p->type == NNL_T_BOOL || p->type == NNL_T_INDEX) continue;
        if (c->in[i]) {
            if (c->in[i]->dtype != common) NNL_TRY(convert(v, i, common));
        } else if (request->numbers && nnl_given(&request->numbers[i])) {
            nnl_tensor *number;
            bool bound = c->op->traits & NNL_SATURATE;
            NNL_TRY(nnl_tensor_scalar(
                c->rt, common, bound ? saturated(common, request->numbers[i]) : request->numbers[i],
                &number));
            NNL_TRY(own(v, i, number));
        }
    }
    return NNL_OK;
}

/* ---------------------------------------------------------------- attributes */

static nnl_status one_dim(nnl_call *c, const nnl_param *p, int ndim, int64_t given, int64_t *out)
{
    /* A 0-d tensor may be reduced or transposed over its "last" dimension, as in torch. */
    int range = NNL_MAX(ndim, 1);
    int64_t dim = given < 0 ? given + range : given;
    if (dim < 0 || dim >= range) {
        int base = c->index_base;
        char text[NNL_NAMED_TEXT];
        bool of_input = p->type != NNL_T_NEWDIM && c->n_in > 0 && c->in[0];
        const char *input = of_input ? nnl_call_input_text(c, 0, text) : "the result";
        return nnl_call_fail(
            c, NNL_EINVAL, "%s is %lld, but %s has dimensions %d to %d (or -%d to -1)", p->name,
            (long long)(given < 0 ? given : given + base), input, base, range - 1 + base, range);
    }
    *out = dim;
    return NNL_OK;
}

static nnl_status normalise_dims(visit *v, int place)
{
    nnl_call *c = &v->call;
    const nnl_param *p = c->sig->attr[place];
    nnl_value *value = &c->attr[place];
    int ndim = c->n_in > 0 && c->in[0] ? c->in[0]->ndim : 0;
    if (p->type == NNL_T_NEWDIM) ndim += value->kind == NNL_KIND_INTS ? value->count : 1;
    if (value->kind == NNL_KIND_INT) return one_dim(c, p, ndim, value->as.i, &value->as.i);
    if (value->kind != NNL_KIND_INTS) return NNL_OK;
    if (value->count > NNL_MAX_DIMS)
        return nnl_call_fail(c, NNL_EINVAL, "%s names %d dimensions", p->name, value->count);
    for (int i = 0; i < value->count; i++) {
        int64_t *dim = &v->dims_[place][i];
        NNL_TRY(one_dim(c, p, ndim, value->as.ints[i], dim));
        for (int j = 0; j < i; j++) {
            if (v->dims_[place][j] == *dim)
                return nnl_call_fail(c, NNL_EINVAL, "%s names dimension %d twice", p->name,
                                     (int)*dim + c->index_base);
        }
    }
    value->as.ints = v->dims_[place];
    return NNL_OK;
}

static nnl_status attributes(visit *v, const nnl_request *request)
{
    nnl_call *c = &v->call;
    for (int i = 0; i < c->sig->attrs; i++) {
        const nnl_param *p = c->sig->attr[i];
        c->attr[i] =
            i < request->n_attr && nnl_given(&request->attr[i]) ? request->attr[i] : p->value;
        if (!nnl_given(&c->attr[i])) {
            if (!p->optional && !p->variadic)
                return nnl_call_fail(c, NNL_EINVAL, "%s is missing", p->name);
            continue;
        }
        if (p->type == NNL_T_DIM || p->type == NNL_T_NEWDIM) NNL_TRY(normalise_dims(v, i));
    }
    return NNL_OK;
}

/* ---------------------------------------------------------------- results */

/* While calls are only noted down, their results need no memory. */
static nnl_status make_result(nnl_call *c, const nnl_spec *spec, nnl_tensor *source,
                              nnl_tensor **out)
{
    if (NNL_UNLIKELY(c->rt->capturing)) return nnl_tensor_make_hollow(c->rt, spec, source, out);
    return nnl_tensor_make(c->rt, spec, source, out);
}

static nnl_status allocate(nnl_call *c)
{
    for (int i = 0; i < c->n_out; i++) {
        const nnl_spec *spec = &c->spec[i];
        if (c->out[i]) continue; /* infer handed on an input */
        NNL_TRY(nnl_shape_check(c->rt, c->op->name, spec->dtype, spec->ndim, spec->shape));
        NNL_TRY(make_result(c, spec, c->in[0], &c->out[i]));
        if (spec->view) {
            nnl_tensor *root = c->in[0]->base ? c->in[0]->base : c->in[0];
            c->out[i]->base = nnl_tensor_ref(root);
            c->out[i]->history = root->history;
        }
    }
    return NNL_OK;
}

static bool needs_run(const nnl_call *c)
{
    if (!c->op->run) return false;
    for (int i = 0; i < c->n_out; i++) {
        if (!c->spec[i].view && !(i == 0 && c->n_in > 0 && c->out[0] == c->in[0])) return true;
    }
    return c->n_out == 0;
}

static void drop_results(nnl_call *c)
{
    for (int i = 0; i < c->n_out; i++) {
        nnl_tensor_unref(c->out[i]);
        c->out[i] = NULL;
    }
}

/* A comparison in place of floats leaves nothing of what they were: its gradient, zeros, ends their
 * history. */
static bool ends_history(const nnl_call *c)
{
    return c->inplace && c->op->grad && nnl_is_float((nnl_dtype)c->in[0]->dtype);
}

static bool is_tracked(const nnl_call *c)
{
    if (!c->rt->engine->grad_enabled || (c->op->no_grad && !ends_history(c))) return false;
    for (int i = 0; i < c->n_in; i++) {
        if (c->in[i] && nnl_tracks(c->in[i])) return true;
    }
    return false;
}

static bool all_finite(const nnl_tensor *t)
{
    for (int64_t row = 0, n = t->numel; row < n; row++) {
        int64_t rest = row, offset = 0;
        for (int d = t->ndim - 1; d >= 0; d--) {
            offset += rest % t->shape[d] * t->strides[d];
            rest /= t->shape[d];
        }
        if (!isfinite(nnl_element_double(t, offset))) return false;
    }
    return true;
}

/* Anomaly detection: the first result that is not finite stops everything. */
static nnl_status look_for_anomaly(nnl_call *c)
{
    for (int i = 0; i < c->n_out; i++) {
        if (!nnl_is_float((nnl_dtype)c->out[i]->dtype) || all_finite(c->out[i])) continue;
        bool from_inputs = false;
        for (int j = 0; j < c->n_in; j++)
            from_inputs |=
                c->in[j] && nnl_is_float((nnl_dtype)c->in[j]->dtype) && !all_finite(c->in[j]);
        return nnl_call_fail(c, NNL_EINVAL,
                             "the result contains NaN or infinity%s (anomaly detection)",
                             from_inputs ? ", as an input does" : ", though the inputs are finite");
    }
    return NNL_OK;
}

static nnl_status run_op(nnl_call *c)
{
    nnl_recorder *recorder = c->rt->engine->recorder;
    nnl_profile_row *rows = c->rt->engine->profile;
    if (NNL_UNLIKELY(recorder)) return recorder->call(recorder, c);
    if (NNL_LIKELY(!rows)) return c->op->run(c);
    uint64_t start = nnl_now_ns();
    nnl_status status = c->op->run(c);
    nnl_profile_row *row = &rows[c->op->id];
    row->calls++;
    row->nanoseconds += nnl_now_ns() - start;
    for (int i = 0; i < c->n_in; i++) {
        if (c->in[i])
            row->bytes += (uint64_t)c->in[i]->numel * nnl_dtype_size((nnl_dtype)c->in[i]->dtype);
    }
    for (int i = 0; i < c->n_out; i++)
        row->bytes += (uint64_t)c->out[i]->numel * nnl_dtype_size((nnl_dtype)c->out[i]->dtype);
    return status;
}

/* ---------------------------------------------------------------- in place */

static bool same_place(const nnl_tensor *a, const nnl_tensor *b)
{
    return a->data == b->data && nnl_same_shape(a, b) &&
           memcmp(a->strides, b->strides, sizeof(int64_t) * a->ndim) == 0;
}

static nnl_status check_target(visit *v)
{
    nnl_call *c = &v->call;
    nnl_tensor *target = v->target;
    if (c->rt->engine->grad_enabled && target->requires_grad && !target->node)
        return nnl_call_fail(
            c, NNL_ESTATE,
            "a leaf that requires grad cannot be changed in place; do it inside no_grad");
    if (c->rt->engine->grad_enabled && target->base && target->base->requires_grad &&
        !target->base->node)
        return nnl_call_fail(
            c, NNL_ESTATE,
            "a view of a leaf that requires grad cannot be changed in place; do it inside no_grad");
    if (c->rt->engine->grad_enabled && target->base && target->base->requires_grad &&
        !nnl_tracks(target))
        return nnl_call_fail(c, NNL_ESTATE,
                             "this view was made inside no_grad, so that gradients of its base "
                             "would miss the change; make it outside");
    for (int d = 0; d < target->ndim; d++) {
        if (target->strides[d] == 0 && target->shape[d] > 1)
            return nnl_call_fail(c, NNL_ESTATE,
                                 "an expanded tensor holds its elements once and cannot be changed "
                                 "in place; clone it first");
    }
    const nnl_spec *spec = &c->spec[0];
    if (spec->ndim != target->ndim ||
        memcmp(spec->shape, target->shape, sizeof(int64_t) * target->ndim) != 0) {
        char a[NNL_SHAPE_TEXT], b[NNL_SHAPE_TEXT];
        return nnl_call_fail(
            c, NNL_ESHAPE,
            "the result (%s) does not fit into the tensor (%s) that is changed in place",
            nnl_shape_text(a, spec->ndim, spec->shape),
            nnl_shape_text(b, target->ndim, target->shape));
    }
    if (category(spec->dtype) > category((nnl_dtype)target->dtype))
        return nnl_call_fail(c, NNL_ETYPE,
                             "the result is %s and cannot be written into a tensor of %s",
                             nnl_dtype_name(spec->dtype), nnl_dtype_name((nnl_dtype)target->dtype));
    return NNL_OK;
}

nnl_status nnl_copy_noted(nnl_tensor *to, nnl_tensor *from)
{
    nnl_runtime *rt = to->rt;
    if (NNL_LIKELY(!rt->engine->recorder)) return nnl_copy(to, from);
    nnl_call c = {.rt = rt, .op = &nnl_op_copy, .n_in = 2, .n_out = 1, .inplace = true};
    c.in = c.in_;
    c.out = c.out_;
    c.attr = c.attr_;
    c.spec = c.spec_;
    c.in[0] = c.out[0] = to;
    c.in[1] = from;
    NNL_TRY(nnl_sig_of(rt, c.op, &c.sig));
    return run_op(&c);
}

/* Backward needs input 0 as it was: a copy takes its place in the record. */
static nnl_status keep_old_value(visit *v)
{
    nnl_call *c = &v->call;
    const nnl_op *op = c->op;
    bool saved = op->define || (op->saves & NNL_SAVE_INPUT(0) && !(op->saves & NNL_SAVE_CROSS));
    for (int i = 1; i < c->n_in; i++)
        saved |= (op->saves & NNL_SAVE_CROSS) && (op->saves & NNL_SAVE_INPUT(0)) && c->in[i] &&
                 nnl_tracks(c->in[i]);
    if (!v->tracked || !saved) return NNL_OK;
    NNL_TRY(nnl_tape_refresh(c->in[0])); /* its base may have been rewritten since */
    nnl_tensor *copy;
    nnl_spec spec;
    nnl_spec_like(&spec, c->in[0]);
    NNL_TRY(make_result(c, &spec, NULL, &copy));
    nnl_status status = nnl_copy_noted(copy, c->in[0]);
    if (status != NNL_OK) {
        nnl_tensor_unref(copy);
        return status;
    }
    copy->requires_grad = c->in[0]->requires_grad;
    copy->node = c->in[0]->node ? nnl_node_ref(c->in[0]->node) : NULL;
    copy->result = c->in[0]->result;
    return own(v, 0, copy);
}

/* Computes into a tensor beside the target, and copies when nothing can fail any more. */
static nnl_status run_beside(visit *v)
{
    nnl_call *c = &v->call;
    nnl_tensor *target = v->target, *result;
    nnl_record record = {NULL, NULL, NULL};
    c->spec[0].view = false;
    NNL_TRY(make_result(c, &c->spec[0], NULL, &result));
    c->out[0] = result;
    nnl_status status = run_op(c);
    if (status == NNL_OK && c->rt->engine->anomaly && !c->rt->capturing)
        status = look_for_anomaly(c);
    c->out[0] = nnl_tensor_ref(target);
    if (status == NNL_OK && v->tracked) status = nnl_tape_prepare(c, &record);
    if (status == NNL_OK) status = nnl_poll_cancel(c->rt);
    if (status == NNL_OK) {
        c->rt->hold_cancel = true;
        status = nnl_copy_noted(target, result);
        c->rt->hold_cancel = false;
        nnl_tensor_touch(target);
        if (v->tracked) nnl_tape_commit(c, &record);
    } else {
        nnl_tape_forget(c->rt, &record);
    }
    nnl_tensor_unref(result);
    return status;
}

static nnl_status run_in_place(visit *v)
{
    nnl_call *c = &v->call;
    nnl_tensor *target = v->target;
    NNL_TRY(check_target(v));
    NNL_TRY(keep_old_value(v));
    bool direct = !v->tracked && c->spec[0].dtype == target->dtype && c->in[0] == target &&
                  !c->rt->engine->anomaly;
    const bool elementwise =
        c->op->traits & NNL_ELEMENTWISE; /* reads every element before it is written */
    for (int i = 1; i < c->n_in && direct; i++) {
        const nnl_tensor *t = c->in[i];
        direct = !t || t->storage != target->storage || (elementwise && same_place(t, target));
    }
    if (!direct) return run_beside(v);
    c->out[0] = nnl_tensor_ref(target);
    c->rt->hold_cancel = true;
    nnl_status status = run_op(c);
    c->rt->hold_cancel = false;
    if (status == NNL_OK) nnl_tensor_touch(target);
    return status;
}

/* A result that is a view of what nobody else holds, without history, becomes the owner: its memory
 * is then seen to be its own by who counts what may be given back. */
static void own_result(nnl_tensor *t)
{
    nnl_tensor *base = t ? t->base : NULL;
    if (!base || t->refs > 1 || base->refs > 1 || base->node || t->node || t->requires_grad ||
        base->requires_grad || base->hooks || t->rt->capturing)
        return;
    t->base = NULL;
    t->history = 0;
    nnl_tensor_unref(base);
}

/* The composition in place of the op; what it applies is recorded, not the call itself. */
static nnl_status run_define(nnl_call *c)
{
    nnl_scope s;
    nnl_scope_open(&s, c->rt, c->index_base);
    nnl_define d = {.s = &s,
                    .op = c->op,
                    .n_in = c->n_in,
                    .n_out = c->n_out,
                    .in = c->in,
                    .out = c->out,
                    .attr = c->attr,
                    .start = c->start,
                    .random = c->random,
                    .seed = c->rt->seed};
    c->op->define(&d);
    for (int i = 0; i < c->n_out; i++)
        c->out[i] = s.status == NNL_OK && c->out[i] ? nnl_tensor_ref(c->out[i]) : NULL;
    nnl_status status = nnl_scope_close(&s);
    for (int i = 0; i < c->n_out && status == NNL_OK; i++) own_result(c->out[i]);
    return status;
}

/* ---------------------------------------------------------------- the door itself */

static nnl_status enter(visit *v, nnl_runtime *rt, const nnl_request *request)
{
    nnl_call *c = &v->call;
    c->rt = rt;
    c->op = request->op;
    c->inplace = request->inplace;
    c->relu = false;
    c->index_base = request->index_base;
    c->block = NULL;
    c->random = 0;
    c->n_in = request->n_in;
    c->n_out = 0;
    v->input_block = NULL;
    v->any_owned = false;
    v->tracked = false;
    v->target = NULL;
    c->in = c->in_;
    v->owned = v->owned_;
    c->attr = c->attr_;
    c->spec = c->spec_;
    c->out = c->out_;
    NNL_TRY(nnl_sig_of(rt, c->op, &c->sig));
    if (c->n_in > NNL_CALL_INLINE) {
        v->input_block_size = (size_t)c->n_in * 2 * sizeof(nnl_tensor *);
        NNL_TRY(nnl_alloc(rt, v->input_block_size, &v->input_block));
        c->in = v->input_block;
        v->owned = c->in + c->n_in;
    }
    for (int i = 0; i < c->n_in; i++) c->in[i] = request->in[i];
    if (c->sig->list_input) {
        for (int p = 0; p <= c->sig->tensors; p++) c->start[p] = request->start[p];
    } else if (NNL_UNLIKELY(c->n_in != c->sig->tensors)) {
        return nnl_call_fail(c, NNL_EINVAL, "%d tensors given, %d wanted", c->n_in,
                             c->sig->tensors);
    }
    return NNL_OK;
}

static nnl_status pass(visit *v, const nnl_request *request)
{
    nnl_call *c = &v->call;
    nnl_runtime *rt = c->rt;
    NNL_TRY(nnl_poll_cancel(rt));
    if (c->inplace) {
        if (!(c->op->traits & NNL_INPLACE_OK))
            return nnl_call_fail(c, NNL_EUNSUPPORTED, "%s has no in-place form", c->op->name);
        v->target = c->n_in > 0 ? c->in[0] : NULL;
        if (!v->target)
            return nnl_call_fail(c, NNL_EINVAL, "only a tensor can be changed in place");
    }
    if (c->op->traits & NNL_CAST) NNL_TRY(cast_input(v, request));
    NNL_TRY(check_inputs(v, request));
    if (c->op->traits & NNL_PROMOTE) NNL_TRY(promote(v, request));
    NNL_TRY(attributes(v, request));
    c->n_out = c->sig->results;
    for (int i = 0; i < c->n_out; i++) {
        c->out[i] = NULL;
        nnl_spec_plain(&c->spec[i]);
    }
    if (c->sig->list_result) c->n_out = 0;
    if (c->op->traits & NNL_COMPLETE_RUN) NNL_TRY(nnl_call_needs_values(c));
    if (c->op->infer)
        NNL_TRY(c->op->infer(c)); /* ops that are nothing but a composition need none */
    if (c->op->traits & NNL_RANDOM)
        c->random = request->random ? request->random - 1 : rt->random_call;
    bool composition = !c->op->run && c->op->define;
    if (NNL_UNLIKELY(request->by_define || composition)) return run_define(c);
    v->tracked = is_tracked(c);
    c->keep = v->tracked;
    if (c->inplace) return run_in_place(v);
    NNL_TRY(allocate(c));
    if (needs_run(c)) {
        NNL_TRY(run_op(c));
        if (NNL_UNLIKELY(rt->engine->anomaly && !rt->capturing)) NNL_TRY(look_for_anomaly(c));
    }
    bool handed_on = c->n_out == 1 && c->n_in > 0 && c->out[0] == c->in[0];
    if (!v->tracked || handed_on) return NNL_OK;
    nnl_record record;
    NNL_TRY(nnl_tape_prepare(c, &record));
    nnl_tape_commit(c, &record);
    return NNL_OK;
}

nnl_status nnl_request_run(nnl_runtime *rt, const nnl_request *request, nnl_results *results)
{
    visit v;
    nnl_call *c = &v.call;
    nnl_fp_state fp;
    nnl_fp_enter(&fp);
    nnl_status status = enter(&v, rt, request);
    if (status == NNL_OK) status = pass(&v, request);
    /* Only a call that succeeds takes a number: asked again, it draws the same. */
    if (status == NNL_OK && c->op->traits & NNL_RANDOM && !request->random) rt->random_call++;
    results->count = 0;
    results->many = results->out;
    results->block_size = 0;
    if (status == NNL_OK && c->n_out > NNL_CALL_INLINE) {
        void *block;
        results->block_size = (size_t)c->n_out * sizeof(nnl_tensor *);
        status = nnl_alloc(rt, results->block_size, &block);
        if (status == NNL_OK)
            results->many = block;
        else
            results->block_size = 0;
    }
    if (status == NNL_OK) {
        for (int i = 0; i < c->n_out; i++) results->many[i] = c->out[i];
        results->count = c->n_out;
    } else {
        drop_results(c);
    }
    leave(&v);
    nnl_fp_leave(&fp);
    return status;
}

void nnl_results_free(nnl_runtime *rt, nnl_results *results)
{
    if (results->block_size) nnl_free(rt, results->many, results->block_size);
    results->block_size = 0;
}
