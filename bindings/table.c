/* Between Lua tables and tensors: tensor(t), x:totable(), x:item(). */
#include "lua_nnlua.h"

#include <math.h>

/* ---------------------------------------------------------------- Lua to tensor */

typedef struct shape_search {
    lua_State *L;
    const char *function;
    int dtype; /* that is wanted; negative: to be found */
    int ndim;
    int64_t shape[NNL_MAX_DIMS];
    int64_t place[NNL_MAX_DIMS]; /* of the element that is looked at, from 1 */
    bool any_float, any_int, any_bool;
} shape_search;

/* The shape is that of the first elements all the way down. */
static void find_shape(shape_search *s, int index)
{
    lua_State *L = s->L;
    int top = lua_gettop(L);
    lua_pushvalue(L, index);
    while (lua_type(L, -1) == LUA_TTABLE) {
        if (s->ndim == NNL_MAX_DIMS)
            nnl_lua_error(L, "%s: the list is nested more than %d deep", s->function, NNL_MAX_DIMS);
        s->shape[s->ndim++] = (int64_t)lua_rawlen(L, -1);
        if (s->shape[s->ndim - 1] == 0) break;
        lua_rawgeti(L, -1, 1);
    }
    lua_settop(L, top);
}

/* "the element at {2, 1}", "the element at 3", "the value". */
static const char *place_text(const shape_search *s, int dims, char *buffer, size_t size)
{
    if (dims == 0) return "the value";
    size_t at = (size_t)nnl_format(buffer, size, dims > 1 ? "the element at {" : "the element at ");
    for (int d = 0; d < dims && at < size - 24; d++)
        at += (size_t)nnl_format(buffer + at, size - at, d ? ", %lld" : "%lld",
                                 (long long)s->place[d]);
    nnl_format(buffer + at, size - at, dims > 1 ? "}" : "");
    return buffer;
}

static void check_fits(const shape_search *s, int index)
{
    char place[160], text[NNL_LUA_VALUE_TEXT];
    lua_State *L = s->L;
    double low = s->dtype == NNL_U8 ? 0 : s->dtype == NNL_I32 ? INT32_MIN : -0x1p63;
    double high = s->dtype == NNL_U8 ? UINT8_MAX : s->dtype == NNL_I32 ? INT32_MAX : 0x1p63;
    const char *name = nnl_dtype_name((nnl_dtype)s->dtype);
    double value = lua_tonumber(L, index);
    if (value != floor(value))
        nnl_lua_error(L, "%s: %s is %s, not an integer, but %s is wanted", s->function,
                      place_text(s, s->ndim, place, sizeof place),
                      nnl_lua_value_text(L, index, text), name);
    if (!lua_isinteger(L, index) && value == 0x1p63) high = 0; /* one beyond the last */
    if (value < low || value > high)
        nnl_lua_error(L, "%s: %s is %s, which %s does not hold", s->function,
                      place_text(s, s->ndim, place, sizeof place),
                      nnl_lua_value_text(L, index, text), name);
}

static void check_element(shape_search *s, int index)
{
    char place[160], text[NNL_LUA_VALUE_TEXT];
    lua_State *L = s->L;
    int type = lua_type(L, index);
    if (type == LUA_TBOOLEAN)
        s->any_bool = true;
    else if (type == LUA_TNUMBER && lua_isinteger(L, index))
        s->any_int = true;
    else if (type == LUA_TNUMBER)
        s->any_float = true;
    else
        nnl_lua_error(L, "%s: %s is %s; numbers and booleans are possible%s", s->function,
                      place_text(s, s->ndim, place, sizeof place),
                      nnl_lua_value_text(L, index, text),
                      nnl_lua_to_box(L, index) ? " (nn.stack makes one tensor of several)" : "");
    if (type == LUA_TNUMBER && s->dtype >= 0 && nnl_is_int((nnl_dtype)s->dtype))
        check_fits(s, index);
}

static void check_level(shape_search *s, int index, int dim)
{
    char place[160];
    lua_State *L = s->L;
    if (dim == s->ndim) {
        check_element(s, index);
        return;
    }
    if (lua_type(L, index) != LUA_TTABLE)
        nnl_lua_error(
            L, "%s: the list is uneven: %s is a %s, but the first one of its kind is a list",
            s->function, place_text(s, dim, place, sizeof place), luaL_typename(L, index));
    lua_Integer count = (lua_Integer)lua_rawlen(L, index);
    if (count != s->shape[dim])
        nnl_lua_error(
            L,
            "%s: the list is uneven: %s has %lld elements, but the first one of its kind has %lld",
            s->function, place_text(s, dim, place, sizeof place), (long long)count,
            (long long)s->shape[dim]);
    luaL_checkstack(L, 6, "nested list");
    nnl_lua_check_list(L, index, count, s->function);
    for (lua_Integer i = 1; i <= count; i++) {
        s->place[dim] = i;
        lua_rawgeti(L, index, i);
        check_level(s, lua_gettop(L), dim + 1);
        lua_pop(L, 1);
    }
}

static char *store_level(lua_State *L, int index, int depth, nnl_dtype dtype, char *out)
{
    if (depth > 0) {
        lua_Integer count = (lua_Integer)lua_rawlen(L, index);
        for (lua_Integer i = 1; i <= count; i++) {
            lua_rawgeti(L, index, i);
            out = store_level(L, lua_gettop(L), depth - 1, dtype, out);
            lua_pop(L, 1);
        }
        return out;
    }
    bool boolean = lua_type(L, index) == LUA_TBOOLEAN;
    int64_t i = boolean                   ? lua_toboolean(L, index)
                : lua_isinteger(L, index) ? lua_tointeger(L, index)
                                          : 0;
    double d = boolean || lua_isinteger(L, index) ? (double)i : lua_tonumber(L, index);
    if (!boolean && !lua_isinteger(L, index)) /* saturates as conversions do */
        i = d >= 9223372036854775808.0    ? INT64_MAX
            : d >= -9223372036854775808.0 ? (int64_t)d
            : d < 0                       ? INT64_MIN
                                          : 0;
    switch (dtype) {
    case NNL_BOOL: *(uint8_t *)out = d != 0; break;
    case NNL_U8: *(uint8_t *)out = (uint8_t)i; break;
    case NNL_I32: *(int32_t *)(void *)out = (int32_t)i; break;
    case NNL_I64: *(int64_t *)(void *)out = i; break;
    case NNL_F32: *(float *)(void *)out = (float)d; break;
    case NNL_F64: *(double *)(void *)out = d; break;
    }
    return out + nnl_dtype_size(dtype);
}

nnl_status nnl_lua_tensor_of_table(lua_State *L, nnl_runtime *rt, int index, int dtype,
                                   const char *function, nnl_tensor **out)
{
    shape_search s = {.L = L, .function = function, .dtype = dtype};
    index = lua_absindex(L, index);
    find_shape(&s, index);
    check_level(&s, index, 0);
    bool integers = s.any_int && !s.any_float && !s.any_bool;
    if (dtype == NNL_LUA_INTEGERS_I64 && integers) dtype = NNL_I64;
    if (dtype < 0) dtype = s.any_bool && !s.any_int && !s.any_float ? NNL_BOOL : NNL_F32;
    NNL_TRY(nnl_tensor_new(rt, (nnl_dtype)dtype, s.ndim, s.shape, out));
    store_level(L, index, s.ndim, (nnl_dtype)dtype, (*out)->data);
    return NNL_OK;
}

/* tensor(data, dtype, requires_grad) */
static int lua_tensor(lua_State *L)
{
    static const char *const names[] = {"dtype", "requires_grad"};
    nnl_lua *state = nnl_lua_upvalue(L);
    char text[NNL_LUA_VALUE_TEXT];
    nnl_lua_collect(L, state);
    if (lua_isnoneornil(L, 1))
        return nnl_lua_error(L, "tensor: data is missing: a number, a boolean or a list is wanted");
    nnl_lua_read_options(L, 2, "tensor", names, NNL_COUNT(names));
    bool requires_grad = nnl_lua_check_flag(L, 3, false, "tensor", names[1]);
    int dtype = NNL_LUA_FIND;
    nnl_dtype found;
    if (!lua_isnil(L, 2)) {
        if (lua_type(L, 2) != LUA_TSTRING || nnl_dtype_parse(lua_tostring(L, 2), &found) != NNL_OK)
            return nnl_lua_error(L,
                                 "tensor: dtype must be \"f32\", \"f64\", \"i64\", \"i32\", \"u8\" "
                                 "or \"bool\", got %s",
                                 nnl_lua_value_text(L, 2, text));
        dtype = (int)found;
    }
    nnl_box *box = nnl_lua_new_box(L);
    nnl_tensor *t, *given = nnl_lua_to_box(L, 1) ? nnl_lua_check_tensor(L, 1, "tensor") : NULL;
    if (given) { /* a copy, as torch.tensor(x) makes */
        nnl_spec spec;
        nnl_spec_like(&spec, given);
        if (dtype >= 0) spec.dtype = (nnl_dtype)dtype;
        NNL_LUA_TRY(L, state->rt, nnl_tensor_make(state->rt, &spec, NULL, &t));
        nnl_lua_fill_box(state, box, t);
        NNL_LUA_TRY(L, state->rt, nnl_copy(t, given));
    } else {
        NNL_LUA_TRY(L, state->rt, nnl_lua_tensor_of_table(L, state->rt, 1, dtype, "tensor", &t));
        nnl_lua_fill_box(state, box, t);
    }
    if (requires_grad && nnl_tensor_set_requires_grad(t, true) != NNL_OK)
        return nnl_lua_raise(L, state->rt);
    return 1;
}

/* ---------------------------------------------------------------- tensor to Lua */

static void push_element(lua_State *L, const nnl_tensor *t, int64_t offset)
{
    if (t->dtype == NNL_BOOL)
        lua_pushboolean(L, nnl_element_int(t, offset) != 0);
    else if (nnl_is_float((nnl_dtype)t->dtype))
        lua_pushnumber(L, nnl_element_double(t, offset));
    else
        lua_pushinteger(L, nnl_element_int(t, offset));
}

static void push_level(lua_State *L, const nnl_tensor *t, int dim, int64_t offset)
{
    if (dim == t->ndim) {
        push_element(L, t, offset);
        return;
    }
    luaL_checkstack(L, 4, "totable");
    lua_createtable(L, (int)NNL_MIN(t->shape[dim], 1 << 26), 0);
    for (int64_t i = 0; i < t->shape[dim]; i++) {
        push_level(L, t, dim + 1, offset + i * t->strides[dim]);
        lua_rawseti(L, -2, i + 1);
    }
}

/* The tensor argument of a function that reads elements. */
static nnl_tensor *check_readable(lua_State *L, int index, const char *function)
{
    nnl_tensor *t = nnl_lua_check_tensor(L, index, function);
    if (nnl_check_values(t, function) != NNL_OK) nnl_lua_raise(L, t->rt);
    return t;
}

static int lua_totable(lua_State *L)
{
    nnl_tensor *t = check_readable(L, 1, "totable");
    nnl_lua_check_end(L, 1, "totable");
    push_level(L, t, 0, 0);
    return 1;
}

static int lua_item(lua_State *L)
{
    nnl_tensor *t = nnl_lua_check_tensor(L, 1, "item");
    nnl_lua_check_end(L, 1, "item");
    if (t->numel != 1) {
        char text[NNL_SHAPE_TEXT];
        return nnl_lua_error(L,
                             "item: the tensor (%s) has %lld elements; only one element is a "
                             "number, totable() gives all",
                             nnl_shape_text(text, t->ndim, t->shape), (long long)t->numel);
    }
    push_element(L, check_readable(L, 1, "item"), 0);
    return 1;
}

/* True when shapes and all elements are equal. */
static int lua_equal(lua_State *L)
{
    nnl_tensor *a = check_readable(L, 1, "equal"), *b = check_readable(L, 2, "equal");
    nnl_lua_check_end(L, 2, "equal");
    nnl_loop loop;
    bool equal = nnl_same_shape(a, b);
    if (equal && a->numel > 0) {
        nnl_loop_plan(&loop, a->ndim, a->shape, 2, (nnl_tensor *[]){a, b});
        for (int64_t row = 0; row < loop.outer && equal; row++) {
            char *at[NNL_LOOP_MAX];
            nnl_loop_at(&loop, row, at);
            for (int64_t i = 0; i < loop.inner && equal; i++) {
                nnl_tensor x = {.dtype = a->dtype, .data = at[0] + i * loop.step[0][loop.ndim - 1]};
                nnl_tensor y = {.dtype = b->dtype, .data = at[1] + i * loop.step[1][loop.ndim - 1]};
                bool integers =
                    !nnl_is_float((nnl_dtype)a->dtype) && !nnl_is_float((nnl_dtype)b->dtype);
                equal = integers ? nnl_element_int(&x, 0) == nnl_element_int(&y, 0)
                                 : nnl_element_double(&x, 0) == nnl_element_double(&y, 0);
            }
        }
    }
    lua_pushboolean(L, equal);
    return 1;
}

static int lua_is_tensor(lua_State *L)
{
    bool is_tensor = nnl_lua_to_box(L, 1) != NULL;
    nnl_lua_check_end(L, 1, "is_tensor");
    lua_pushboolean(L, is_tensor);
    return 1;
}

void nnl_lua_open_table(lua_State *L, nnl_lua *state, int methods)
{
    static const luaL_Reg both[] = {
        {"totable", lua_totable}, {"item", lua_item}, {"equal", lua_equal}, {NULL, NULL}};
    static const luaL_Reg functions[] = {
        {"tensor", lua_tensor}, {"is_tensor", lua_is_tensor}, {NULL, NULL}};
    nnl_lua_set_functions(L, state, methods, both);
    nnl_lua_set_functions(L, state, -1, both);
    nnl_lua_set_functions(L, state, -1, functions);
}
