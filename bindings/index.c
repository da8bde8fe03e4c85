/* x[key] and x[key] = value for keys that are no names: integers, lists with an entry for each
 * dimension, masks and tensors of positions. */
#include "lua_nnlua.h"

#include <string.h>

/* A key, taken apart: the part that is a view, then index tensors for the dimensions that it
 * leaves. */
typedef struct subscript {
    int dims; /* entries; the dimensions beyond stay whole */
    int64_t first[NNL_MAX_DIMS], count[NNL_MAX_DIMS],
        step[NNL_MAX_DIMS];          /* count -1: the dimension goes */
    nnl_tensor *index[NNL_MAX_DIMS]; /* of the view's dimensions */
    int n_index;                     /* as far as the last that is given */
    bool whole;                      /* the view is the tensor itself */
} subscript;

static const char *shape_of(const nnl_tensor *t, char text[NNL_SHAPE_TEXT])
{
    return nnl_shape_text(text, t->ndim, t->shape);
}

/* ipairs ends at nil, which no position of a tensor gives. */
static const char *loop_hint(lua_State *L)
{
    lua_Debug ar;
    bool loop = lua_getstack(L, 1, &ar) && lua_getinfo(L, "n", &ar) &&
                strcmp(ar.namewhat, "for iterator") == 0;
    return loop ? "; pairs goes through the rows of a tensor, ipairs does not end" : "";
}

/* From 1 or from the end to a place counted from 0. */
static int64_t place_of(lua_State *L, const nnl_tensor *t, int dim, int64_t position,
                        const char *what)
{
    char text[NNL_SHAPE_TEXT];
    if (dim >= t->ndim)
        nnl_lua_error(
            L,
            t->ndim == 0
                ? "index: the tensor is %s and has no dimension to index; item() gives its value"
                : "index: more subscripts than the tensor (%s) has dimensions",
            shape_of(t, text));
    int64_t size = t->shape[dim], place = position < 0 ? position + size : position - 1;
    if (position == 0 || place < 0 || place >= size) {
        if (size == 0)
            nnl_lua_error(
                L, "index: %s %lld is out of range: dimension %d of the tensor (%s) is empty", what,
                (long long)position, dim + 1, shape_of(t, text));
        nnl_lua_error(L,
                      "index: %s %lld is out of range: dimension %d of the tensor (%s) has "
                      "positions 1 to %lld (or -%lld to -1)%s",
                      what, (long long)position, dim + 1, shape_of(t, text), (long long)size,
                      (long long)size, loop_hint(L));
    }
    return place;
}

static int64_t range_part(lua_State *L, int range, int i, int dim)
{
    char text[NNL_LUA_VALUE_TEXT];
    int exact;
    lua_rawgeti(L, range, i);
    lua_Integer value = lua_tointegerx(L, -1, &exact);
    if (!exact || lua_type(L, -1) != LUA_TNUMBER)
        nnl_lua_error(L, "index: the range for dimension %d must hold integers, got %s", dim + 1,
                      nnl_lua_value_text(L, -1, text));
    lua_pop(L, 1);
    return value;
}

/* {first, last [, step]} with both ends included; {} is all. */
static void read_range(lua_State *L, const nnl_tensor *t, int range, subscript *s, int dim)
{
    lua_Integer parts = (lua_Integer)lua_rawlen(L, range);
    char text[NNL_SHAPE_TEXT];
    if (dim >= t->ndim)
        nnl_lua_error(L, "index: more subscripts than the tensor (%s) has dimensions",
                      shape_of(t, text));
    s->first[dim] = 0;
    s->count[dim] = t->shape[dim];
    s->step[dim] = 1;
    lua_pushnil(L);
    if (lua_next(L, range)) {
        if (parts == 0)
            nnl_lua_error(L,
                          "index: a range is {first, last} or {first, last, step}, without names");
        lua_pop(L, 2);
    }
    if (parts == 0) return;
    if (parts == 1 || parts > 3)
        nnl_lua_error(L,
                      "index: a range is {first, last} or {first, last, step}, but the one for "
                      "dimension %d has %d element%s",
                      dim + 1, (int)parts,
                      parts == 1 ? "; a single position is written without braces"
                                 : "s; positions are given as a tensor");
    int64_t first = range_part(L, range, 1, dim), last = range_part(L, range, 2, dim),
            step = parts == 3 ? range_part(L, range, 3, dim) : 1;
    if (step < 1)
        nnl_lua_error(L, "index: the step for dimension %d is %lld, but it must be positive",
                      dim + 1, (long long)step);
    first = place_of(L, t, dim, first, "position");
    last = place_of(L, t, dim, last, "position");
    s->first[dim] = first;
    s->count[dim] = last < first ? 0 : (last - first) / step + 1;
    s->step[dim] = s->count[dim] > 1 ? step : 1; /* a step to nowhere may be of any size */
    s->whole = false;
}

/* An index tensor takes one dimension, a mask as many as it has. */
static int take_tensor(lua_State *L, const nnl_tensor *t, nnl_box *box, subscript *s, int dim)
{
    char text[NNL_SHAPE_TEXT], own[NNL_SHAPE_TEXT];
    nnl_tensor *index = box->t;
    if (!index) nnl_lua_error(L, "index: the tensor for dimension %d was freed", dim + 1);
    bool mask = index->dtype == NNL_BOOL;
    if (nnl_is_float((nnl_dtype)index->dtype))
        nnl_lua_error(L,
                      "index: the tensor for dimension %d is %s; positions are integers and masks "
                      "bool: convert it with :to(\"i64\")",
                      dim + 1, nnl_dtype_name((nnl_dtype)index->dtype));
    int takes = mask ? index->ndim : 1;
    if (dim + takes > t->ndim || takes == 0)
        nnl_lua_error(L, "index: a %s of %s does not fit dimension %d of the tensor (%s)",
                      mask ? "mask" : "tensor of positions", shape_of(index, own), dim + 1,
                      shape_of(t, text));
    for (int d = 0; mask && d < takes; d++) {
        if (index->shape[d] != t->shape[dim + d])
            nnl_lua_error(
                L, "index: the mask is %s, but the tensor is %s: dimension %d has another size",
                shape_of(index, own), shape_of(t, text), dim + d + 1);
    }
    for (int d = 0; d < takes; d++) {
        s->first[dim + d] = 0;
        s->count[dim + d] = t->shape[dim + d];
        s->step[dim + d] = 1;
    }
    s->index[s->n_index++] = index;
    return takes;
}

static void read_list(lua_State *L, const nnl_tensor *t, int key, subscript *s)
{
    char text[NNL_LUA_VALUE_TEXT];
    lua_Integer entries = (lua_Integer)lua_rawlen(L, key);
    luaL_checkstack(L, 8, "too many subscripts");
    lua_pushnil(L);
    while (lua_next(L, key)) {
        lua_pop(L, 1);
        if (lua_type(L, -1) == LUA_TSTRING)
            nnl_lua_error(
                L, "index: a key is a list with an entry for each dimension; it has the name '%s'",
                lua_tostring(L, -1));
    }
    int dim = 0, given = 0;
    for (lua_Integer i = 1; i <= entries; i++) {
        lua_rawgeti(L, key, i);
        int entry = lua_gettop(L), exact;
        nnl_box *box = nnl_lua_to_box(L, entry);
        if (box) {
            dim += take_tensor(L, t, box, s, dim);
            given = s->n_index;
        } else if (lua_type(L, entry) == LUA_TNUMBER) {
            lua_Integer position = lua_tointegerx(L, entry, &exact);
            if (!exact)
                nnl_lua_error(L, "index: subscript %d is %f, but it must be an integer", (int)i,
                              lua_tonumber(L, entry));
            s->first[dim] = place_of(L, t, dim, position, "position");
            s->count[dim] = -1;
            s->step[dim++] = 1;
            s->whole = false;
        } else if (lua_type(L, entry) == LUA_TTABLE || lua_isnil(L, entry)) {
            if (lua_isnil(L, entry)) {
                lua_newtable(L);
                lua_replace(L, entry);
            }
            read_range(L, t, entry, s, dim++);
            s->index[s->n_index++] = NULL;
        } else {
            nnl_lua_error(L,
                          "index: subscript %d must be an integer, a range {first, last}, {} or a "
                          "tensor, got %s",
                          (int)i, nnl_lua_value_text(L, entry, text));
        }
        lua_pop(L, 1);
    }
    s->dims = dim;
    s->n_index = given;
}

static void read_key(lua_State *L, const nnl_tensor *t, int key, subscript *s)
{
    char text[NNL_LUA_VALUE_TEXT];
    int exact = 0;
    s->dims = s->n_index = 0;
    s->whole = true;
    nnl_box *box = nnl_lua_to_box(L, key);
    if (box) {
        s->dims = take_tensor(L, t, box, s, 0);
    } else if (lua_type(L, key) == LUA_TNUMBER) {
        lua_Integer position = lua_tointegerx(L, key, &exact);
        if (!exact)
            nnl_lua_error(L, "index: the subscript is %s, but it must be an integer",
                          nnl_lua_value_text(L, key, text));
        s->first[0] = place_of(L, t, 0, position, "position");
        s->count[0] = -1;
        s->step[0] = 1;
        s->dims = 1;
        s->whole = false;
    } else if (lua_type(L, key) == LUA_TTABLE) {
        read_list(L, t, key, s);
    } else {
        nnl_lua_error(L,
                      "index: a tensor is indexed by an integer, a list with an entry for each "
                      "dimension, a mask or a tensor of "
                      "positions, got %s",
                      luaL_typename(L, key));
    }
}

/* Runs an op; the reference of its result goes into a box at the top of the stack. */
static nnl_tensor *run(lua_State *L, nnl_lua *state, const nnl_op *op, int n_in,
                       nnl_tensor *const *in, const nnl_value *attr, int n_attr, bool inplace)
{
    int16_t start[NNL_MAX_PARAMS + 1] = {0};
    nnl_runtime *rt = state->rt;
    const nnl_sig *sig;
    if (nnl_sig_of(rt, op, &sig) != NNL_OK) nnl_lua_raise(L, rt);
    for (int p = 0; p < sig->tensors; p++)
        start[p + 1] = (int16_t)(p == sig->tensors - 1 ? n_in : p + 1);
    nnl_box *box = inplace ? NULL : nnl_lua_new_box(L);
    nnl_request request = {.op = op,
                           .in = in,
                           .n_in = n_in,
                           .start = start,
                           .attr = attr,
                           .n_attr = n_attr,
                           .index_base = 1,
                           .inplace = inplace};
    nnl_results results;
    NNL_LUA_RUN(L, state, nnl_request_run(rt, &request, &results));
    if (!inplace)
        nnl_lua_fill_box(state, box, results.out[0]);
    else
        nnl_tensor_unref(results.out[0]);
    return inplace ? NULL : results.out[0];
}

/* Pushes the view, if it is another tensor than t. */
static nnl_tensor *view_of(lua_State *L, nnl_lua *state, nnl_tensor *t, const subscript *s)
{
    if (s->whole) return t;
    if (s->dims == 1 && s->count[0] < 0)
        return run(L, state, &nnl_op_select, 1, &t, (nnl_value[]){V_INT(0), V_INT(s->first[0])}, 2,
                   false);
    nnl_value attr[] = {V_INTS(s->dims, s->first), V_INTS(s->dims, s->count),
                        V_INTS(s->dims, s->step)};
    return run(L, state, &nnl_op_subscript, 1, &t, attr, 3, false);
}

int nnl_lua_index(lua_State *L, nnl_lua *state, nnl_tensor *t)
{
    subscript s;
    nnl_lua_collect(L, state);
    read_key(L, t, 2, &s);
    nnl_tensor *view = view_of(L, state, t, &s);
    if (s.n_index > 0) {
        nnl_tensor *in[NNL_MAX_DIMS + 1] = {view};
        for (int i = 0; i < s.n_index; i++) in[i + 1] = s.index[i];
        run(L, state, &nnl_op_index, s.n_index + 1, in, NULL, 0, false);
    } else if (view == t) { /* x[{}]: all of it, as a view of its own */
        run(L, state, &nnl_op_view, 1, &t, &V_INTS(t->ndim, t->shape), 1, false);
    }
    return 1;
}

static nnl_value number_at(lua_State *L, int index)
{
    if (lua_type(L, index) == LUA_TBOOLEAN) return V_FLAG(lua_toboolean(L, index));
    return lua_isinteger(L, index) ? V_INT(lua_tointeger(L, index)) : V_NUM(lua_tonumber(L, index));
}

/* x[mask or positions] = value */
static void put(lua_State *L, nnl_lua *state, nnl_tensor *view, const subscript *s,
                nnl_tensor *value, nnl_value number)
{
    nnl_tensor *in[NNL_MAX_DIMS + 2] = {view, value};
    if (!value) {
        nnl_box *box = nnl_lua_new_box(L);
        NNL_LUA_TRY(L, state->rt,
                    nnl_tensor_scalar(state->rt, (nnl_dtype)view->dtype, number, &box->t));
        in[1] = box->t;
    } else if (value->dtype != view->dtype) {
        in[1] = run(L, state, &nnl_op_to, 1, &value, &V_INT(view->dtype), 1, false);
    }
    nnl_tensor *first = s->index[0];
    if (!value && s->n_index == 1 && first && first->dtype == NNL_BOOL &&
        first->ndim == view->ndim) {
        run(L, state, &nnl_op_masked_fill, 3, (nnl_tensor *[]){view, first, in[1]}, NULL, 0, true);
        return;
    }
    for (int i = 0; i < s->n_index; i++) in[i + 2] = s->index[i];
    run(L, state, &nnl_op_index_put, s->n_index + 2, in, &V_FLAG(false), 1, true);
}

int nnl_lua_assign(lua_State *L, nnl_lua *state, nnl_tensor *t)
{
    char text[NNL_LUA_VALUE_TEXT];
    subscript s;
    nnl_box *box = nnl_lua_to_box(L, 3);
    int type = lua_type(L, 3);
    nnl_lua_collect(L, state);
    if (box && !box->t) return nnl_lua_error(L, "assignment: the value was freed");
    if (!box && type != LUA_TNUMBER && type != LUA_TBOOLEAN)
        return nnl_lua_error(
            L, "assignment: the value must be a number, a boolean or a tensor, got %s%s",
            nnl_lua_value_text(L, 3, text),
            type == LUA_TTABLE ? "; nn.tensor makes a tensor of a list" : "");
    read_key(L, t, 2, &s);
    nnl_tensor *view = view_of(L, state, t, &s);
    nnl_value number = box ? V_NONE : number_at(L, 3);
    if (s.n_index > 0)
        put(L, state, view, &s, box ? box->t : NULL, number);
    else if (box)
        run(L, state, &nnl_op_copy, 2, (nnl_tensor *[]){view, box->t}, NULL, 0, true);
    else
        run(L, state, &nnl_op_fill, 1, &view, &number, 1, true);
    return 0;
}
