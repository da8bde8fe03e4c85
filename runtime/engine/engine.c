/* A runtime's engine, and the door as C programs see it. */
#include "engine.h"

#include <string.h>

nnl_status nnl_engine_new(nnl_runtime *rt)
{
    void *block;
    NNL_TRY(nnl_alloc_zeroed(rt, sizeof(nnl_engine), &block));
    rt->engine = block;
    rt->engine->grad_enabled = true;
    rt->engine->sequence = 1;
    return NNL_OK;
}

void nnl_engine_free(nnl_runtime *rt)
{
    nnl_engine *engine = rt->engine;
    if (!engine) return;
    for (int i = 0; i < NNL_OP_TOTAL; i++) {
        if (engine->sig[i]) nnl_free(rt, engine->sig[i], sizeof(nnl_sig));
    }
    if (engine->rows) nnl_free(rt, engine->rows, NNL_OP_TOTAL * sizeof(nnl_profile_row));
    nnl_free(rt, engine, sizeof *engine);
    rt->engine = NULL;
}

nnl_status nnl_profile_start(nnl_runtime *rt)
{
    nnl_engine *engine = rt->engine;
    if (!engine->rows) {
        void *block;
        NNL_TRY(nnl_alloc(rt, NNL_OP_TOTAL * sizeof(nnl_profile_row), &block));
        engine->rows = block;
    }
    memset(engine->rows, 0, NNL_OP_TOTAL * sizeof(nnl_profile_row));
    engine->profile = engine->rows;
    return NNL_OK;
}

void nnl_profile_stop(nnl_runtime *rt) { rt->engine->profile = NULL; }

nnl_status nnl_check_values(const nnl_tensor *t, const char *who)
{
    if (t->rt->capturing)
        return NNL_FAIL(t->rt, NNL_ESTATE,
                        "%s: values cannot be read inside a captured function, which computes "
                        "nothing while it is captured; "
                        "return the tensor, or compile with {fallback = true}",
                        who);
    if (t->storage->unset)
        return NNL_FAIL(t->rt, NNL_ESTATE,
                        "%s: the tensor was made inside a captured function and holds no values; "
                        "return it from the function",
                        who);
    return NNL_OK;
}

/* ---------------------------------------------------------------- nnl_apply */

nnl_status nnl_check_list(nnl_runtime *rt, const char *who, const char *what, int count,
                          const void *list)
{
    if (count < 0)
        return NNL_FAIL(rt, NNL_EINVAL, "%s: %s number %d, 0 or more are wanted", who, what, count);
    if (count > 0 && !list)
        return NNL_FAIL(rt, NNL_EINVAL, "%s: %s number %d, but their address is NULL", who, what,
                        count);
    return NNL_OK;
}

static nnl_status check_size(nnl_runtime *rt, const nnl_op *op, const nnl_param *p, int64_t value)
{
    if (p->type != NNL_T_SIZE || value >= 0) return NNL_OK;
    return NNL_FAIL(rt, NNL_EINVAL, "%s: %s is %lld, but a size is 0 or more", op->name, p->name,
                    (long long)value);
}

static nnl_status attribute_kind(nnl_runtime *rt, const nnl_op *op, const nnl_param *p,
                                 nnl_value *v)
{
    bool list = p->list || p->repeat;
    if (v->kind == NNL_KIND_INTS || v->kind == NNL_KIND_FLOATS)
        NNL_TRY(nnl_check_list(rt, op->name, p->name, v->count, v->as.ints));
    if (v->kind == NNL_KIND_STRING && !v->as.s)
        return NNL_FAIL(rt, NNL_EINVAL, "%s: %s is NULL", op->name, p->name);
    switch (v->kind) {
    case NNL_KIND_NONE: return NNL_OK;
    case NNL_KIND_INT:
        if (p->type == NNL_T_NUM) *v = V_NUM((double)v->as.i);
        if (p->type == NNL_T_FLAG) *v = V_FLAG(v->as.i != 0);
        if (p->type == NNL_T_DTYPE && (v->as.i < 0 || v->as.i >= NNL_DTYPES))
            return NNL_FAIL(rt, NNL_ETYPE, "%s: %s is %lld, no type", op->name, p->name,
                            (long long)v->as.i);
        if (p->type != NNL_T_STRING && p->type != NNL_T_WORD) return check_size(rt, op, p, v->as.i);
        break;
    case NNL_KIND_FLOAT:
        if (p->type == NNL_T_NUM || p->type == NNL_T_SCALAR) return NNL_OK;
        break;
    case NNL_KIND_BOOL:
        v->as.i = v->as.i != 0;
        if (p->type == NNL_T_FLAG || p->type == NNL_T_SCALAR) return NNL_OK;
        break;
    case NNL_KIND_STRING:
        if (p->type == NNL_T_STRING) return NNL_OK;
        if (p->words && p->type != NNL_T_WORD && nnl_word_place(p, v->as.s) >= 0) return NNL_OK;
        if (p->type == NNL_T_DTYPE) {
            nnl_dtype dtype;
            if (nnl_dtype_parse(v->as.s, &dtype) == NNL_OK) {
                *v = V_INT(dtype);
                return NNL_OK;
            }
        }
        if (p->type == NNL_T_WORD) {
            int place = nnl_word_place(p, v->as.s);
            if (place >= 0) {
                *v = V_INT(place);
                return NNL_OK;
            }
        }
        return NNL_FAIL(rt, NNL_EINVAL, "%s: %s cannot be \"%s\"", op->name, p->name, v->as.s);
    case NNL_KIND_INTS:
        if (!list || p->type == NNL_T_NUM) break;
        for (int i = 0; i < v->count; i++) NNL_TRY(check_size(rt, op, p, v->as.ints[i]));
        return NNL_OK;
    case NNL_KIND_FLOATS:
        if (list && p->type == NNL_T_NUM) return NNL_OK;
        break;
    }
    return NNL_FAIL(rt, NNL_EINVAL, "%s: %s has the wrong kind of value, a %s is wanted", op->name,
                    p->name, nnl_param_type_name(p->type));
}

static nnl_status place_attributes(nnl_runtime *rt, const nnl_op *op, const nnl_sig *sig,
                                   const nnl_attr *attrs, nnl_value values[NNL_MAX_ATTRS])
{
    for (int i = 0; i < sig->attrs; i++) values[i] = V_NONE;
    for (; attrs && attrs->name; attrs++) {
        int place = 0;
        while (place < sig->attrs && strcmp(sig->attr[place]->name, attrs->name) != 0) place++;
        if (place == sig->attrs) {
            const char *names[NNL_MAX_ATTRS];
            for (int i = 0; i < sig->attrs; i++) names[i] = sig->attr[i]->name;
            const char *near = nnl_nearest(attrs->name, names, sig->attrs);
            return NNL_FAIL(rt, NNL_EINVAL, "%s: there is no option %s%s%s%s", op->name,
                            attrs->name, near ? " (did you mean " : "", near ? near : "",
                            near ? "?)" : "");
        }
        values[place] = attrs->value;
        NNL_TRY(attribute_kind(rt, op, sig->attr[place], &values[place]));
        if (sig->attr[place]->list && values[place].kind == NNL_KIND_INT)
            values[place] = V_INTS(1, &attrs->value.as.i);
    }
    return NNL_OK;
}

static nnl_status check_op(nnl_runtime *rt, const nnl_op *op)
{
    if (!rt) return NNL_EINVAL;
    if (!op) return NNL_FAIL(rt, NNL_EINVAL, "apply: op is NULL (nnl_op_find found none)");
    /* What only other ops apply trusts them; optimizers have no Lua name, but are for hosts. */
    if ((op->traits & (NNL_HIDDEN | NNL_IN_PLACE)) == NNL_HIDDEN)
        return NNL_FAIL(rt, NNL_EUNSUPPORTED, "%s: this op is for the library's own use", op->name);
    return NNL_OK;
}

static nnl_status apply(nnl_runtime *rt, const nnl_op *op, nnl_tensor *const *inputs, int n_inputs,
                        const nnl_attr *attrs, bool inplace, nnl_results *results)
{
    NNL_TRY(nnl_check_list(rt, op->name, "the input tensors", n_inputs, inputs));
    const nnl_sig *sig;
    NNL_TRY(nnl_sig_of(rt, op, &sig));
    nnl_value values[NNL_MAX_ATTRS];
    NNL_TRY(place_attributes(rt, op, sig, attrs, values));
    nnl_request request = {.op = op,
                           .in = inputs,
                           .n_in = n_inputs,
                           .attr = values,
                           .n_attr = sig->attrs,
                           .inplace = inplace};
    int16_t start[NNL_MAX_PARAMS + 1];
    nnl_tensor *padded[NNL_MAX_PARAMS]; /* trailing optional inputs may be left out */
    if (sig->list_input) {
        start[0] = 0;
        int lists = 0, single = 0;
        for (int p = 0; p < sig->tensors; p++) *(sig->tensor[p]->list ? &lists : &single) += 1;
        int rest = n_inputs - single;
        if (rest < 0 || rest % lists != 0)
            return NNL_FAIL(rt, NNL_EINVAL, "%s: %d tensors do not make %d lists of equal length",
                            op->name, n_inputs, lists);
        for (int p = 0; p < sig->tensors; p++)
            start[p + 1] = (int16_t)(start[p] + (sig->tensor[p]->list ? rest / lists : 1));
        request.start = start;
    } else if (n_inputs > sig->tensors) {
        return NNL_FAIL(rt, NNL_EINVAL, "%s: %d tensors given, %d wanted", op->name, n_inputs,
                        sig->tensors);
    } else if (n_inputs < sig->tensors) {
        for (int i = 0; i < sig->tensors; i++) padded[i] = i < n_inputs ? inputs[i] : NULL;
        request.in = padded;
        request.n_in = sig->tensors;
    }
    return nnl_request_run(rt, &request, results);
}

nnl_status nnl_apply(nnl_runtime *rt, const nnl_op *op, nnl_tensor *const *inputs, int n_inputs,
                     const nnl_attr *attrs, nnl_tensor **outputs, int n_outputs)
{
    NNL_TRY(check_op(rt, op));
    NNL_TRY(nnl_check_list(rt, op->name, "the results", n_outputs, outputs));
    for (int i = 0; i < n_outputs; i++) outputs[i] = NULL;
    nnl_results results;
    NNL_TRY(apply(rt, op, inputs, n_inputs, attrs, false, &results));
    nnl_status status = NNL_OK;
    if (results.count < n_outputs)
        status = NNL_FAIL(rt, NNL_EINVAL, "%s: %d results wanted, but there are %d", op->name,
                          n_outputs, results.count);
    for (int i = 0; i < results.count; i++) {
        if (status == NNL_OK && i < n_outputs)
            outputs[i] = results.many[i];
        else
            nnl_tensor_unref(results.many[i]);
    }
    nnl_results_free(rt, &results);
    return status;
}

nnl_status nnl_apply_inplace(nnl_runtime *rt, const nnl_op *op, nnl_tensor *const *inputs,
                             int n_inputs, const nnl_attr *attrs)
{
    NNL_TRY(check_op(rt, op));
    nnl_results results;
    NNL_TRY(apply(rt, op, inputs, n_inputs, attrs, true, &results));
    for (int i = 0; i < results.count; i++) nnl_tensor_unref(results.many[i]);
    nnl_results_free(rt, &results);
    return NNL_OK;
}
