/* Tensors as Lua values: their userdata, metatable, properties and operators. */
#include "lua_nnlua.h"

#include <string.h>

static const char tag; /* its address marks our userdata */

/* ---------------------------------------------------------------- userdata */

nnl_box *nnl_lua_to_box(lua_State *L, int index)
{
    nnl_box *box = lua_touserdata(L, index);
    if (!box || lua_rawlen(L, index) != sizeof(nnl_box))
        return NULL; /* light userdata have length 0 */
    return box->tag == &tag ? box : NULL;
}

nnl_tensor *nnl_lua_to_tensor(lua_State *L, int index)
{
    nnl_box *box = nnl_lua_to_box(L, index);
    return box ? box->t : NULL;
}

nnl_tensor *nnl_lua_check_tensor(lua_State *L, int index, const char *function)
{
    nnl_box *box = nnl_lua_to_box(L, index);
    if (!box) {
        char text[NNL_LUA_VALUE_TEXT];
        nnl_lua_error(L, "%s: argument %d must be a tensor, got %s%s%s%s", function, index,
                      nnl_lua_value_text(L, index, text),
                      index == 1 ? "; call a method with a colon, as in x:" : "",
                      index == 1 ? function : "", index == 1 ? "()" : "");
    }
    if (!box->t) nnl_lua_error(L, "%s: the tensor was freed", function);
    return box->t;
}

nnl_box *nnl_lua_new_box(lua_State *L)
{
    nnl_box *box = lua_newuserdatauv(L, sizeof *box, 1);
    box->tag = &tag;
    box->t = NULL;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &tag);
    lua_setmetatable(L, -2);
    return box;
}

nnl_box *nnl_lua_new_box_like(lua_State *L, int index)
{
    nnl_box *box = lua_newuserdatauv(L, sizeof *box, 1);
    box->tag = &tag;
    box->t = NULL;
    lua_getmetatable(L, index);
    lua_setmetatable(L, -2);
    return box;
}

/* What dropping it would give back, about: a header, memory if it is not shared, how it was made.
 */
static size_t cost_of(const nnl_tensor *t)
{
    size_t cost = sizeof *t + 256;
    if (t->storage->refs == 1) cost += t->storage->block_size;
    if (t->node && t->node->refs == 1) cost += t->node->block_size;
    return cost;
}

void nnl_lua_fill_box(nnl_lua *state, nnl_box *box, nnl_tensor *t)
{
    box->t = t;
    state->debt += cost_of(t);
}

static int new_boxes(lua_State *L)
{
    lua_Integer count = lua_tointeger(L, 1);
    nnl_lua_state(L); /* raises when the library is not open */
    luaL_checkstack(L, (int)count, "too many results");
    for (lua_Integer i = 0; i < count; i++) nnl_lua_new_box(L);
    return (int)count;
}

void nnl_lua_push_tensors(lua_State *L, nnl_tensor *const *t, int count)
{
    /* The userdata may not be had: then the tensors are dropped before the error goes on. */
    bool room = lua_checkstack(L, count + 2);
    if (room) {
        lua_pushcfunction(L, new_boxes);
        lua_pushinteger(L, count);
    }
    if (!room || lua_pcall(L, 1, count, 0) != LUA_OK) {
        for (int i = 0; i < count; i++) nnl_tensor_unref(t[i]);
        if (!room) luaL_error(L, "%d results are too many for Lua's stack", count);
        lua_error(L);
    }
    nnl_lua *state = nnl_lua_state(L);
    for (int i = 0; i < count; i++) nnl_lua_fill_box(state, lua_touserdata(L, i - count), t[i]);
}

void nnl_lua_push_tensor(lua_State *L, nnl_tensor *t) { nnl_lua_push_tensors(L, &t, 1); }

static void release(nnl_box *box)
{
    nnl_tensor *t = box->t;
    box->t = NULL;
    nnl_tensor_unref(t);
}

static int tensor_gc(lua_State *L)
{
    nnl_box *box = lua_touserdata(L, 1);
    release(box);
    return 0;
}

/* What is freed by hand is no garbage. */
static int tensor_close(lua_State *L)
{
    nnl_lua *state = lua_touserdata(L, lua_upvalueindex(1));
    nnl_box *box = lua_touserdata(L, 1);
    if (box->t && box->t->refs == 1) state->debt -= NNL_MIN(state->debt, cost_of(box->t));
    release(box);
    return 0;
}

static int tensor_free(lua_State *L)
{
    nnl_box *box = nnl_lua_to_box(L, 1);
    if (!box)
        return nnl_lua_error(L, "free: argument 1 must be a tensor, got %s", luaL_typename(L, 1));
    nnl_lua_check_end(L, 1, "free");
    return tensor_close(L);
}

/* become(x, y): from now on the value x is the tensor that y is; views and histories of the old one
 * stay with it. */
static int tensor_become(lua_State *L)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    nnl_tensor *new = nnl_lua_check_tensor(L, 2, "become");
    nnl_lua_check_tensor(L, 1, "become");
    nnl_box *box = nnl_lua_to_box(L, 1);
    release(box);
    nnl_lua_fill_box(state, box, nnl_tensor_ref(new));
    lua_pushnil(L);
    lua_setiuservalue(L, 1, 1); /* the gradient's userdata */
    return 0;
}

/* ---------------------------------------------------------------- shapes as Lua lists */

static const char shape_key;

static int shape_tostring(lua_State *L)
{
    luaL_Buffer b;
    lua_Integer n = (lua_Integer)lua_rawlen(L, 1);
    if (n == 0) {
        lua_pushliteral(L, "0-d");
        return 1;
    }
    luaL_buffinit(L, &b);
    for (lua_Integer i = 1; i <= n; i++) {
        if (i > 1) luaL_addchar(&b, 'x');
        lua_rawgeti(L, 1, i);
        luaL_addvalue(&b);
    }
    luaL_pushresult(&b);
    return 1;
}

static int shape_eq(lua_State *L)
{
    bool equal = lua_istable(L, 1) && lua_istable(L, 2) && lua_rawlen(L, 1) == lua_rawlen(L, 2);
    for (lua_Integer i = 1; equal && i <= (lua_Integer)lua_rawlen(L, 1); i++) {
        lua_rawgeti(L, 1, i);
        lua_rawgeti(L, 2, i);
        equal = lua_compare(L, -1, -2, LUA_OPEQ);
        lua_pop(L, 2);
    }
    lua_pushboolean(L, equal);
    return 1;
}

static int shape_concat(lua_State *L)
{
    luaL_tolstring(L, 1, NULL);
    luaL_tolstring(L, 2, NULL);
    lua_concat(L, 2);
    return 1;
}

static int shape_call(lua_State *L)
{
    return nnl_lua_error(
        L, "shape: it is a field, not a method: x.shape, or x:size(1) for one dimension");
}

void nnl_lua_push_shape(lua_State *L, int ndim, const int64_t *shape)
{
    lua_createtable(L, ndim, 0);
    for (int d = 0; d < ndim; d++) {
        lua_pushinteger(L, shape[d]);
        lua_rawseti(L, -2, d + 1);
    }
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &shape_key) != LUA_TTABLE) {
        lua_pop(L, 1);
        lua_newtable(L);
        luaL_setfuncs(L,
                      (luaL_Reg[]){{"__tostring", shape_tostring},
                                   {"__eq", shape_eq},
                                   {"__concat", shape_concat},
                                   {"__call", shape_call},
                                   {NULL, NULL}},
                      0);
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &shape_key);
    }
    lua_setmetatable(L, -2);
}

/* ---------------------------------------------------------------- properties */

static void get_grad(lua_State *L, nnl_lua *state, nnl_tensor *t)
{
    if (nnl_grad_touch(t, true) != NNL_OK) nnl_lua_raise(L, t->rt);
    nnl_tensor *grad = t->grad;
    if (!grad) {
        lua_pushnil(L);
        return;
    }
    /* The userdata made before, if it still stands for this gradient. */
    lua_getiuservalue(L, 1, 1);
    nnl_box *box = nnl_lua_to_box(L, -1);
    if (box && box->t == grad) return;
    lua_pop(L, 1);
    box = nnl_lua_new_box(L);
    nnl_lua_fill_box(state, box, nnl_tensor_ref(grad));
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, 1, 1);
}

static const char *const properties[] = {"shape",         "dtype",   "grad",
                                         "requires_grad", "is_leaf", "ndim"};

static bool get_property(lua_State *L, nnl_lua *state, nnl_tensor *t, const char *key)
{
    if (strcmp(key, "shape") == 0)
        nnl_lua_push_shape(L, t->ndim, t->shape);
    else if (strcmp(key, "dtype") == 0)
        lua_pushstring(L, nnl_dtype_name((nnl_dtype)t->dtype));
    else if (strcmp(key, "grad") == 0)
        get_grad(L, state, t);
    else if (strcmp(key, "requires_grad") == 0)
        lua_pushboolean(L, nnl_tracks(t));
    else if (strcmp(key, "is_leaf") == 0)
        lua_pushboolean(L, t->node == NULL);
    else if (strcmp(key, "ndim") == 0)
        lua_pushinteger(L, t->ndim);
    else
        return false;
    return true;
}

/* What torch's and Lua's users look for under other names. */
static const struct {
    const char *name, *here;
} habits[] = {
    {"float", "x:to(\"f32\")"},
    {"double", "x:to(\"f64\")"},
    {"long", "x:to(\"i64\")"},
    {"int", "x:to(\"i32\")"},
    {"byte", "x:to(\"u8\")"},
    {"bool", "x:to(\"bool\")"},
    {"type", "x:to(\"f64\") or x.dtype"},
    {"T", "x:t()"},
    {"tolist", "x:totable()"},
    {"numpy", "x:totable()"},
    {"data", "x:detach()"},
    {"length", "#x or x:numel()"},
    {"len", "#x or x:numel()"},
    {"insert", "nn.cat{x, y}"},
    {"append", "nn.cat{x, y}"},
};

/* The nearest of all methods and properties. */
static int unknown_field(lua_State *L, int methods, const char *key)
{
    for (int i = 0; i < NNL_COUNT(habits); i++) {
        if (strcmp(key, habits[i].name) == 0)
            return nnl_lua_error(L, "tensor: there is no field or method '%s'; it is %s", key,
                                 habits[i].here);
    }
    const char *names[512];
    int count = 0;
    for (; count < NNL_COUNT(properties); count++) names[count] = properties[count];
    lua_pushnil(L);
    while (lua_next(L, methods) && count < NNL_COUNT(names)) {
        lua_pop(L, 1);
        if (lua_type(L, -1) == LUA_TSTRING) names[count++] = lua_tostring(L, -1);
    }
    const char *near = nnl_nearest(key, names, count);
    if (near)
        return nnl_lua_error(L, "tensor: there is no field or method '%s' (did you mean '%s'?)",
                             key, near);
    return nnl_lua_error(L, "tensor: there is no field or method '%s'", key);
}

static int tensor_index(lua_State *L)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    if (lua_type(L, 2) == LUA_TSTRING) {
        lua_pushvalue(L, 2);
        if (lua_rawget(L, lua_upvalueindex(2)) != LUA_TNIL) return 1;
        lua_pop(L, 1);
    }
    nnl_box *box = nnl_lua_to_box(L, 1);
    if (!box) return luaL_error(L, "tensor expected");
    if (!box->t) return nnl_lua_error(L, "tensor: it was freed and cannot be used");
    if (lua_type(L, 2) != LUA_TSTRING) return nnl_lua_index(L, state, box->t);
    const char *key = lua_tostring(L, 2);
    if (get_property(L, state, box->t, key)) return 1;
    return unknown_field(L, lua_upvalueindex(2), key);
}

static int set_grad(lua_State *L, nnl_lua *state, nnl_tensor *t)
{
    nnl_tensor *grad = NULL;
    char text[NNL_LUA_VALUE_TEXT];
    if (!lua_isnil(L, 3) && !nnl_lua_to_box(L, 3))
        return nnl_lua_error(L, "grad: the value must be a tensor or nil, got %s",
                             nnl_lua_value_text(L, 3, text));
    if (!lua_isnil(L, 3)) grad = nnl_lua_check_tensor(L, 3, "grad");
    if (nnl_tensor_set_grad(t, grad) != NNL_OK) return nnl_lua_raise(L, state->rt);
    lua_pushvalue(L, 3);
    lua_setiuservalue(L, 1, 1);
    return 0;
}

static int tensor_newindex(lua_State *L)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    nnl_tensor *t = nnl_lua_check_tensor(L, 1, "assignment");
    if (lua_type(L, 2) != LUA_TSTRING) return nnl_lua_assign(L, state, t);
    const char *key = lua_tostring(L, 2);
    if (strcmp(key, "grad") == 0) return set_grad(L, state, t);
    if (strcmp(key, "requires_grad") == 0) {
        bool on = nnl_lua_check_flag(L, 3, false, "requires_grad", "the value");
        if (nnl_tensor_set_requires_grad(t, on) != NNL_OK) return nnl_lua_raise(L, state->rt);
        return 0;
    }
    return nnl_lua_error(L, "tensor: field '%s' cannot be set; grad and requires_grad can", key);
}

/* ---------------------------------------------------------------- plain methods */

static int tensor_size(lua_State *L)
{
    nnl_tensor *t = nnl_lua_check_tensor(L, 1, "size");
    nnl_lua_check_end(L, 2, "size");
    if (lua_isnoneornil(L, 2)) {
        nnl_lua_push_shape(L, t->ndim, t->shape);
        return 1;
    }
    int64_t dim = nnl_lua_check_int(L, 2, "size", "dim"), place = dim < 0 ? dim + t->ndim : dim - 1;
    if (place < 0 || place >= t->ndim) {
        char shape[NNL_SHAPE_TEXT];
        return nnl_lua_error(
            L, "size: dim is %lld, but the tensor (%s) has dimensions 1 to %d (or -%d to -1)",
            (long long)dim, nnl_shape_text(shape, t->ndim, t->shape), t->ndim, t->ndim);
    }
    lua_pushinteger(L, t->shape[place]);
    return 1;
}

static int tensor_dim(lua_State *L)
{
    nnl_tensor *t = nnl_lua_check_tensor(L, 1, "dim");
    nnl_lua_check_end(L, 1, "dim");
    lua_pushinteger(L, t->ndim);
    return 1;
}

static int tensor_numel(lua_State *L)
{
    nnl_tensor *t = nnl_lua_check_tensor(L, 1, "numel");
    nnl_lua_check_end(L, 1, "numel");
    lua_pushinteger(L, t->numel);
    return 1;
}

static int tensor_is_contiguous(lua_State *L)
{
    nnl_tensor *t = nnl_lua_check_tensor(L, 1, "is_contiguous");
    nnl_lua_check_end(L, 1, "is_contiguous");
    lua_pushboolean(L, t->contiguous);
    return 1;
}

static int tensor_stride(lua_State *L)
{
    nnl_tensor *t = nnl_lua_check_tensor(L, 1, "stride");
    nnl_lua_check_end(L, 1, "stride");
    nnl_lua_push_shape(L, t->ndim, t->strides);
    return 1;
}

static int tensor_version(lua_State *L)
{
    lua_pushinteger(L, nnl_lua_check_tensor(L, 1, "version")->storage->version);
    return 1;
}

static int tensor_len(lua_State *L)
{
    nnl_tensor *t = nnl_lua_check_tensor(L, 1, "#");
    if (t->ndim == 0)
        return nnl_lua_error(L, "#: a 0-d tensor has no length; item() gives its value");
    lua_pushinteger(L, t->shape[0]);
    return 1;
}

/* ---------------------------------------------------------------- operators */

static int compare_numbers(lua_State *L, bool or_equal)
{
    const char *name = or_equal ? "le" : "lt";
    double value[2];
    for (int i = 0; i < 2; i++) {
        nnl_tensor *t = nnl_lua_to_box(L, i + 1) ? nnl_lua_check_tensor(L, i + 1, name) : NULL;
        char text[NNL_LUA_VALUE_TEXT];
        if (t && t->numel == 1)
            value[i] = nnl_element_double(t, 0);
        else if (t)
            return nnl_lua_error(
                L,
                "%s: only tensors of one element compare with < and <=, got %s; a:lt(b), a:le(b), "
                "a:gt(b) and a:ge(b) compare elementwise",
                name, nnl_lua_value_text(L, i + 1, text));
        else if (lua_type(L, i + 1) == LUA_TNUMBER)
            value[i] = lua_tonumber(L, i + 1);
        else
            return nnl_lua_error(L, "%s: operand %d must be a tensor or a number, got %s", name,
                                 i + 1, nnl_lua_value_text(L, i + 1, text));
    }
    lua_pushboolean(L, or_equal ? value[0] <= value[1] : value[0] < value[1]);
    return 1;
}

static int tensor_lt(lua_State *L) { return compare_numbers(L, false); }
static int tensor_le(lua_State *L) { return compare_numbers(L, true); }

static int tensor_tostring(lua_State *L)
{
    nnl_box *box = nnl_lua_to_box(L, 1);
    if (!box || !box->t) {
        lua_pushliteral(L, "freed tensor");
        return 1;
    }
    if (nnl_check_values(box->t, "tostring") != NNL_OK) return nnl_lua_raise(L, box->t->rt);
    luaL_Buffer b;
    size_t size = nnl_tensor_print(box->t, NULL, 0) + 1;
    char *text = luaL_buffinitsize(L, &b, size);
    nnl_tensor_print(box->t, text, size);
    luaL_pushresultsize(&b, size - 1);
    return 1;
}

/* "loss " .. loss: the number of a tensor with one element. */
static int tensor_concat(lua_State *L)
{
    for (int i = 1; i <= 2; i++) {
        nnl_tensor *t = nnl_lua_to_box(L, i) ? nnl_lua_check_tensor(L, i, "..") : NULL;
        if (!t || t->numel != 1) {
            luaL_tolstring(L, i, NULL);
            continue;
        }
        char text[40];
        if (nnl_check_values(t, "..") != NNL_OK) return nnl_lua_raise(L, t->rt);
        if (t->dtype == NNL_BOOL)
            nnl_format(text, sizeof text, "%s", nnl_element_int(t, 0) ? "true" : "false");
        else if (t->dtype == NNL_F32)
            nnl_format_float(text, sizeof text, *(const float *)t->data);
        else if (t->dtype == NNL_F64)
            nnl_format_double(text, sizeof text, *(const double *)t->data);
        else
            nnl_format(text, sizeof text, "%lld", (long long)nnl_element_int(t, 0));
        lua_pushstring(L, text);
    }
    lua_concat(L, 2);
    return 1;
}

static int next_row(lua_State *L)
{
    nnl_tensor *t = nnl_lua_check_tensor(L, 1, "pairs");
    lua_Integer i = lua_tointeger(L, 2) + 1;
    if (t->ndim == 0 || i > t->shape[0]) return 0;
    lua_pushinteger(L, i);
    lua_pushinteger(L, i);
    lua_gettable(L, 1);
    return 2;
}

static int tensor_pairs(lua_State *L)
{
    nnl_lua_check_tensor(L, 1, "pairs");
    lua_pushcfunction(L, next_row);
    lua_pushvalue(L, 1);
    lua_pushinteger(L, 0);
    return 3;
}

/* Operators are the ops of these names; a number on the left becomes a 0-d tensor through the "r"
 * forms of the Lua library, which the op's own promotion takes over. */
static const struct {
    const char *event, *method;
} operators[] = {
    {"__add", "add"},           {"__sub", "sub"},          {"__mul", "mul"},
    {"__div", "div"},           {"__pow", "pow"},          {"__mod", "remainder"},
    {"__idiv", "floor_divide"}, {"__band", "bitwise_and"}, {"__bor", "bitwise_or"},
    {"__bxor", "bitwise_xor"},
};

void nnl_lua_push_binary(lua_State *L, nnl_lua *state, const nnl_op *op); /* op_call.c */
void nnl_lua_push_op(lua_State *L, nnl_lua *state, const nnl_op *op, bool inplace);

/* Lua calls unary metamethods with the operand twice. */
static int tensor_unm(lua_State *L)
{
    nnl_tensor *t = nnl_lua_check_tensor(L, 1, "neg");
    return nnl_lua_apply(L, nnl_op_find("neg"), &t, 1, NULL, 0, false);
}

static int tensor_bnot(lua_State *L)
{
    nnl_tensor *t = nnl_lua_check_tensor(L, 1, "bitwise_not");
    return nnl_lua_apply(L, nnl_op_find("bitwise_not"), &t, 1, NULL, 0, false);
}

void nnl_lua_open_tensor(lua_State *L, nnl_lua *state, int methods)
{
    static const luaL_Reg plain[] = {
        {"free", tensor_free},
        {"size", tensor_size},
        {"dim", tensor_dim},
        {"numel", tensor_numel},
        {"is_contiguous", tensor_is_contiguous},
        {"stride", tensor_stride},
        {NULL, NULL},
    };
    static const luaL_Reg events[] = {
        {"__gc", tensor_gc},
        {"__close", tensor_close},
        {"__len", tensor_len},
        {"__lt", tensor_lt},
        {"__le", tensor_le},
        {"__tostring", tensor_tostring},
        {"__concat", tensor_concat},
        {"__pairs", tensor_pairs},
        {"__unm", tensor_unm},
        {"__bnot", tensor_bnot},
        {"__newindex", tensor_newindex},
        {NULL, NULL},
    };
    nnl_lua_set_functions(L, state, methods, plain);
    nnl_lua_set_functions(L, state, -1, plain); /* every method is a function as well */
    nnl_lua_set_functions(L, state, methods,
                          (luaL_Reg[]){{"version", tensor_version}, {NULL, NULL}});
    nnl_lua_set_functions(L, state, -1, (luaL_Reg[]){{"become", tensor_become}, {NULL, NULL}});
    lua_newtable(L);
    nnl_lua_set_functions(L, state, -1, events);
    lua_pushlightuserdata(L, state);
    lua_pushvalue(L, methods);
    lua_pushcclosure(L, tensor_index, 2);
    lua_setfield(L, -2, "__index");
    for (int i = 0; i < NNL_COUNT(operators); i++) {
        const nnl_op *op = nnl_op_find(operators[i].method);
        if (!op) continue;
        nnl_lua_push_binary(L, state, op);
        lua_setfield(L, -2, operators[i].event);
    }
    lua_pushliteral(L, "nnlua tensor");
    lua_setfield(L, -2, "__name");
    lua_pushliteral(
        L, "nnlua tensor"); /* getmetatable(x) shows this, so that scripts cannot break it */
    lua_setfield(L, -2, "__metatable");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &tag);
}
