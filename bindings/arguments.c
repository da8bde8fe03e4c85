/* Arguments of functions that are no ops: positions, a trailing table of options, their number. */
#include "lua_nnlua.h"

#include <string.h>

const char *nnl_lua_value_text(lua_State *L, int index, char buffer[NNL_LUA_VALUE_TEXT])
{
    const size_t size = NNL_LUA_VALUE_TEXT;
    nnl_box *box = nnl_lua_to_box(L, index);
    if (box) {
        char shape[NNL_SHAPE_TEXT];
        if (!box->t)
            nnl_format(buffer, size, "a freed tensor");
        else
            nnl_format(buffer, size, "a tensor (%s)",
                       nnl_shape_text(shape, box->t->ndim, box->t->shape));
        return buffer;
    }
    switch (lua_type(L, index)) {
    case LUA_TNONE:
    case LUA_TNIL: return "nil";
    case LUA_TSTRING:
        nnl_format(buffer, size, "the string \"%s\"", lua_tostring(L, index));
        return buffer;
    case LUA_TNUMBER:
        if (lua_isinteger(L, index))
            nnl_format(buffer, size, "%lld", (long long)lua_tointeger(L, index));
        else
            nnl_format_double(buffer, size, lua_tonumber(L, index));
        return buffer;
    case LUA_TBOOLEAN: return lua_toboolean(L, index) ? "true" : "false";
    default: nnl_format(buffer, size, "a %s", luaL_typename(L, index)); return buffer;
    }
}

void nnl_lua_check_end(lua_State *L, int most, const char *function)
{
    int got = lua_gettop(L);
    while (got > most && lua_isnil(L, got)) got--;
    if (got > most && most == 0) nnl_lua_error(L, "%s: takes no arguments, got %d", function, got);
    if (got > most) {
        nnl_lua_error(L,
                      "%s: takes at most %d argument%s, got %d; put a call that gives several "
                      "results in parentheses, "
                      "as in f((g(x)))",
                      function, most, most == 1 ? "" : "s", got);
    }
    lua_settop(L, most);
}

int nnl_lua_unknown_option(lua_State *L, const char *function, const char *key,
                           const char *const *names, int count)
{
    const char *near = nnl_nearest(key, names, count);
    if (near)
        return nnl_lua_error(L, "%s: there is no option '%s' (did you mean '%s'?)", function, key,
                             near);
    char list[256] = "";
    size_t length = 0;
    for (int i = 0; i < count && length < sizeof list - 32; i++)
        length +=
            (size_t)nnl_format(list + length, sizeof list - length, i ? ", %s" : "%s", names[i]);
    return nnl_lua_error(L, "%s: there is no option '%s'; there are: %s", function, key, list);
}

static int find_name(const char *key, const char *const *names, int count)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(key, names[i]) == 0) return i;
    }
    return -1;
}

void nnl_lua_read_options(lua_State *L, int first, const char *function, const char *const *names,
                          int count)
{
    int top = lua_gettop(L);
    while (top >= first && lua_isnil(L, top)) top--;
    lua_settop(L, NNL_MAX(top, first - 1));
    bool named = top >= first && lua_istable(L, top);
    if (named) lua_insert(L, first); /* below the arguments with a position */
    nnl_lua_check_end(L, first + count - 1 + named, function);
    if (!named) return;
    for (lua_pushnil(L); lua_next(L, first) != 0;) {
        if (lua_type(L, -2) != LUA_TSTRING)
            nnl_lua_error(L, "%s: options are given by name, as in {%s = ...}", function, names[0]);
        const char *key = lua_tostring(L, -2);
        int place = find_name(key, names, count);
        if (place < 0) nnl_lua_unknown_option(L, function, key, names, count);
        if (!lua_isnil(L, first + 1 + place))
            nnl_lua_error(L, "%s: %s is given twice, as an argument and as an option", function,
                          key);
        lua_replace(L, first + 1 + place);
    }
    lua_remove(L, first);
}

bool nnl_lua_check_flag(lua_State *L, int index, bool otherwise, const char *function,
                        const char *name)
{
    char text[NNL_LUA_VALUE_TEXT];
    if (lua_isnoneornil(L, index)) return otherwise;
    if (!lua_isboolean(L, index))
        nnl_lua_error(L, "%s: %s must be true or false, got %s", function, name,
                      nnl_lua_value_text(L, index, text));
    return lua_toboolean(L, index);
}

void nnl_lua_check_list(lua_State *L, int index, lua_Integer count, const char *function)
{
    /* Lua keeps what is no position behind the last one. */
    if (count > 0)
        lua_pushinteger(L, count);
    else
        lua_pushnil(L);
    while (lua_next(L, index) != 0) {
        lua_pop(L, 1);
        if (lua_type(L, -1) == LUA_TSTRING)
            nnl_lua_error(L,
                          "%s: the list has a field '%s'; a table is a list or names options, not "
                          "both, and options stand "
                          "behind the list",
                          function, lua_tostring(L, -1));
        if (!lua_isinteger(L, -1) || lua_tointeger(L, -1) > count)
            nnl_lua_error(L, "%s: the list has a gap behind its %lld elements", function,
                          (long long)count);
    }
}
