/* Calls of functions made by nn.compile: finds the program that serves the arguments, or has one
 * captured, and runs it. */
#include "capture.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- the key of a call */

static void add_bytes(lua_State *L, nnl_lua_arguments *a, const void *bytes, size_t size)
{
    if (a->key_size + size > NNL_LUA_KEY_BYTES)
        nnl_lua_error(L, "compile: the arguments are too many or too long");
    memcpy(a->key + a->key_size, bytes, size);
    a->key_size += size;
}

static void add_tensor(lua_State *L, nnl_lua_arguments *a, nnl_tensor *t, bool grad_mode)
{
    struct {
        char mark;
        uint8_t dtype, ndim, grad;
    } head = {'t', t->dtype, t->ndim, nnl_tracks(t)};
    if (a->count == NNL_LUA_TENSORS)
        nnl_lua_error(L, "compile: more than %d tensors among the arguments", NNL_LUA_TENSORS);
    if (NNL_UNLIKELY(t->node && grad_mode))
        nnl_lua_error(L,
                      "compile: an argument (tensor %d) is the result of an op, and gradients "
                      "would end here; detach it",
                      a->count + 1);
    a->tensor[a->count++] = t;
    add_bytes(L, a, &head, sizeof head);
    add_bytes(L, a, t->shape, sizeof(int64_t) * t->ndim);
    add_bytes(L, a, t->strides, sizeof(int64_t) * t->ndim);
}

bool nnl_lua_is_plain_table(lua_State *L, int index)
{
    if (lua_type(L, index) != LUA_TTABLE) return false;
    if (!lua_getmetatable(L, index)) return true;
    lua_pop(L, 1);
    return false;
}

static bool key_less(lua_State *L, int keys, lua_Integer i, lua_Integer k)
{
    lua_rawgeti(L, keys, i);
    lua_rawgeti(L, keys, k);
    int a = lua_type(L, -2), b = lua_type(L, -1);
    bool less = a != b ? a < b : lua_compare(L, -2, -1, LUA_OPLT);
    lua_pop(L, 2);
    return less;
}

void nnl_lua_sorted_keys(lua_State *L, int index)
{
    lua_newtable(L);
    int keys = lua_gettop(L);
    lua_Integer count = 0;
    lua_pushnil(L);
    while (lua_next(L, index)) {
        lua_pop(L, 1);
        if (lua_type(L, -1) != LUA_TSTRING && !lua_isinteger(L, -1))
            nnl_lua_error(L,
                          "compile: a key of a table among the arguments is a %s; strings and "
                          "integers can be",
                          luaL_typename(L, -1));
        lua_pushvalue(L, -1);
        lua_rawseti(L, keys, ++count);
        for (lua_Integer i = count; i > 1 && key_less(L, keys, i, i - 1); i--) {
            lua_rawgeti(L, keys, i);
            lua_rawgeti(L, keys, i - 1);
            lua_rawseti(L, keys, i);
            lua_rawseti(L, keys, i - 1);
        }
    }
}

static void add_value(lua_State *L, nnl_lua_arguments *a, int index, bool grad_mode);

static void add_table(lua_State *L, nnl_lua_arguments *a, int index, bool grad_mode)
{
    luaL_checkstack(L, 8, "arguments nested too deeply");
    nnl_lua_sorted_keys(L, index);
    int keys = lua_gettop(L);
    lua_Integer count = (lua_Integer)lua_rawlen(L, keys);
    add_bytes(L, a, "{", 1);
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(L, keys, i);
        add_value(L, a, lua_gettop(L), grad_mode);
        lua_rawget(L, index);
        add_value(L, a, lua_gettop(L), grad_mode);
        lua_pop(L, 1);
    }
    add_bytes(L, a, "}", 1);
    lua_pop(L, 1);
}

static void add_value(lua_State *L, nnl_lua_arguments *a, int index, bool grad_mode)
{
    nnl_box *box = nnl_lua_to_box(L, index);
    if (box) {
        if (!box->t) nnl_lua_error(L, "compile: an argument is a tensor that was freed");
        add_tensor(L, a, box->t, grad_mode);
        return;
    }
    int type = lua_type(L, index);
    char mark = (char)('0' + type);
    size_t size;
    if (type == LUA_TTABLE && nnl_lua_is_plain_table(L, index)) {
        add_table(L, a, index, grad_mode);
        return;
    }
    add_bytes(L, a, &mark, 1);
    if (type == LUA_TSTRING) {
        const char *text = lua_tolstring(L, index, &size);
        add_bytes(L, a, &size, sizeof size);
        add_bytes(L, a, text, size);
    } else if (type == LUA_TNUMBER) {
        lua_Integer whole = lua_isinteger(L, index) ? lua_tointeger(L, index) : 0;
        lua_Number number = lua_tonumber(L, index);
        add_bytes(L, a, lua_isinteger(L, index) ? "i" : "f", 1);
        add_bytes(L, a, lua_isinteger(L, index) ? (void *)&whole : (void *)&number, 8);
    } else if (type == LUA_TBOOLEAN) {
        add_bytes(L, a, lua_toboolean(L, index) ? "1" : "0", 1);
    } else if (type != LUA_TNIL) { /* functions, modules, userdata: by identity */
        const void *address = lua_topointer(L, index);
        add_bytes(L, a, &address, sizeof address);
    }
}

static void read_arguments(lua_State *L, nnl_runtime *rt, nnl_lua_arguments *a, int first, int last)
{
    bool grad_mode = nnl_grad_mode(rt);
    a->count = 0;
    a->key_size = 1;
    a->key[0] = grad_mode ? 'g' : 'n';
    for (int i = first; i <= last; i++) add_value(L, a, i, grad_mode);
}

/* ---------------------------------------------------------------- finding the program */

/* Whether the modules that were met are in the modes that they were in. */
static bool same_modes(lua_State *L, nnl_lua_compiled *compiled, int place)
{
    lua_getiuservalue(L, 1, 3);
    lua_rawgeti(L, -1, place + 1);
    lua_getiuservalue(L, -1, 1);
    bool same = true;
    for (lua_Integer i = 1, n = (lua_Integer)lua_rawlen(L, -1); i < n && same; i += 2) {
        lua_rawgeti(L, -1, i);
        lua_getfield(L, -1, "training");
        lua_rawgeti(L, -3, i + 1);
        same = lua_toboolean(L, -1) == lua_toboolean(L, -2);
        lua_pop(L, 3);
    }
    lua_pop(L, 3);
    (void)compiled;
    return same;
}

/* Whether what is watched is as it was. */
static bool same_watched(lua_State *L, int place)
{
    int top = lua_gettop(L);
    lua_getiuservalue(L, 1, 3);
    lua_rawgeti(L, -1, place + 1);
    lua_getiuservalue(L, -1, 4);
    bool same = true;
    for (lua_Integer i = 1, n = (lua_Integer)lua_rawlen(L, top + 3); i < n && same; i += 3) {
        lua_rawgeti(L, top + 3, i);
        lua_rawgeti(L, top + 3, i + 2);
        lua_rawgeti(L, top + 3, i + 1);
        same = nnl_lua_watched_form(L, top + 4) == lua_tointeger(L, top + 5);
        lua_settop(L, top + 3);
    }
    lua_settop(L, top);
    return same;
}

static nnl_lua_entry *find(lua_State *L, nnl_lua *state, nnl_lua_compiled *compiled,
                           const nnl_lua_arguments *a)
{
    for (int i = 0; i < compiled->count; i++) {
        nnl_lua_entry *e = compiled->entry[i];
        if (e->key_size != a->key_size || memcmp(e->key, a->key, a->key_size) != 0) continue;
        if (e->context && !nnl_context_fits(e->context, a->tensor)) continue;
        if (e->mode_epoch != state->mode_epoch) {
            if (!same_modes(L, compiled, i)) continue;
            e->mode_epoch = state->mode_epoch;
        }
        if (!same_watched(L, i)) continue;
        e->used = ++compiled->clock;
        return e;
    }
    return NULL;
}

static int place_of(const nnl_lua_compiled *compiled, const nnl_lua_entry *e)
{
    int place = 0;
    while (compiled->entry[place] != e) place++;
    return place;
}

/* ---------------------------------------------------------------- running it */

static void read_live(lua_State *L, const nnl_lua_compiled *compiled, nnl_lua_entry *e)
{
    if (e->n_live == 0) return;
    lua_getiuservalue(L, 1, 3);
    lua_rawgeti(L, -1, place_of(compiled, e) + 1);
    lua_getiuservalue(L, -1, 2);
    int tables = lua_gettop(L);
    for (int i = 0; i < e->n_live; i++) {
        const nnl_live *live = &e->live[i];
        lua_rawgeti(L, tables, live->table);
        int type = lua_getfield(L, -1, live->name);
        if (live->sub && type == LUA_TTABLE) type = lua_rawgeti(L, -1, live->sub);
        if (type == LUA_TNUMBER)
            nnl_context_set(e->context, live->step, live->attr, V_NUM(lua_tonumber(L, -1)));
        else if (type == LUA_TBOOLEAN)
            nnl_context_set(e->context, live->step, live->attr, V_FLAG(lua_toboolean(L, -1)));
        else
            nnl_lua_error(L, "compile: '%s' must be a number, got %s", live->name,
                          luaL_typename(L, -1));
        lua_settop(L, tables);
    }
    lua_settop(L, tables - 3);
}

/* Pushes a copy of the template at the stack's top with boxes for light userdata; the template
 * goes. */
static void push_filled(lua_State *L, int boxes)
{
    if (lua_islightuserdata(L, -1)) {
        lua_pushvalue(L, boxes + (int)(intptr_t)lua_touserdata(L, -1) - 1);
    } else if (nnl_lua_is_plain_table(L, lua_gettop(L))) {
        luaL_checkstack(L, 8, "results nested too deeply");
        lua_newtable(L);
        int out = lua_gettop(L);
        lua_pushnil(L);
        while (lua_next(L, out - 1)) {
            lua_pushvalue(L, -2);
            lua_insert(L, -2);
            push_filled(L, boxes);
            lua_rawset(L, out);
        }
    } else {
        return;
    }
    lua_replace(L, -2);
}

static int push_results(lua_State *L, const nnl_lua_compiled *compiled, nnl_lua_entry *e, int boxes)
{
    if (e->flat && e->n_results == e->program->n_results) return e->n_results;
    lua_getiuservalue(L, 1, 3);
    lua_rawgeti(L, -1, place_of(compiled, e) + 1);
    lua_getiuservalue(L, -1, 3);
    int template = lua_gettop(L);
    luaL_checkstack(L, e->n_results + 8, "too many results");
    for (int i = 1; i <= e->n_results; i++) {
        lua_rawgeti(L, template, i);
        push_filled(L, boxes);
    }
    return e->n_results;
}

/* An argument that is handed on keeps its userdata. */
static void keep_identity(lua_State *L, const nnl_tensor *t, int box, int last)
{
    for (int i = 2; i <= last && t->refs > 1; i++) {
        nnl_box *argument = nnl_lua_to_box(L, i);
        if (!argument || argument->t != t) continue;
        lua_pushvalue(L, i);
        lua_replace(L, box);
        return;
    }
}

static int replay(lua_State *L, nnl_lua *state, const nnl_lua_compiled *compiled, nnl_lua_entry *e,
                  const nnl_lua_arguments *a)
{
    nnl_tensor *results[NNL_LUA_TENSORS];
    int count = e->program->n_results, last = lua_gettop(L);
    nnl_lua_collect(L, state);
    read_live(L, compiled, e);
    luaL_checkstack(L, count + 16, "too many results");
    for (int i = 0; i < count; i++)
        nnl_lua_new_box(L); /* userdata first, so that a failure here loses nothing */
    NNL_LUA_RUN(L, state, nnl_context_run(e->context, a->tensor, a->count, results, count));
    for (int i = 0; i < count; i++) {
        nnl_lua_fill_box(state, lua_touserdata(L, last + 1 + i), results[i]);
        keep_identity(L, results[i], last + 1 + i, last);
    }
    return push_results(L, compiled, e, last + 1);
}

static int call_as_it_is(lua_State *L)
{
    lua_getiuservalue(L, 1, 2);
    lua_replace(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

static int call_compiled(lua_State *L)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    nnl_lua_compiled *compiled = lua_touserdata(L, 1);
    nnl_runtime *rt = state->rt;
    nnl_lua_arguments a;
    int last = lua_gettop(L);
    while (last > 1 && lua_isnil(L, last)) last--;
    lua_settop(L, last);
    /* Inside another captured function its ops are that one's; in anomaly mode each op is looked
     * at. */
    if (NNL_UNLIKELY(rt->capturing || rt->engine->anomaly)) return call_as_it_is(L);
    read_arguments(L, rt, &a, 2, last);
    nnl_lua_entry *e = find(L, state, compiled, &a);
    if (NNL_UNLIKELY(!e)) e = nnl_lua_capture(L, state, compiled, &a);
    return e->context ? replay(L, state, compiled, e, &a) : call_as_it_is(L);
}

/* ---------------------------------------------------------------- explaining */

/* f:explain(): its programs as text; with the time of each step when f ran inside nn.profile
 * before. */
static int lua_explain(lua_State *L)
{
    nnl_lua_compiled *compiled = luaL_checkudata(L, 1, "compiled function");
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (int i = 0; i < compiled->count; i++) {
        const nnl_lua_entry *e = compiled->entry[i];
        if (!e->program) {
            luaL_addstring(&b, "a function that runs as it is\n");
            continue;
        }
        size_t size = nnl_program_explain(e->program, e->context, NULL, 0) + 1;
        char *text = luaL_prepbuffsize(&b, size);
        nnl_program_explain(e->program, e->context, text, size);
        luaL_addsize(&b, size - 1);
    }
    luaL_pushresult(&b);
    return 1;
}

/* ---------------------------------------------------------------- making one */

static const char compiled_key;

/* compiled(f, wrapped, fallback, exact): wrapped(modes, ...) calls f(...) and notes the modules met
 * in modes. */
static int lua_compiled(lua_State *L)
{
    nnl_lua_compiled *compiled = lua_newuserdatauv(L, sizeof *compiled, 3);
    memset(compiled, 0, sizeof *compiled);
    compiled->fallback = lua_toboolean(L, 3);
    compiled->inexact = !lua_toboolean(L, 4);
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, -2, 1);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 2);
    lua_newtable(L);
    lua_setiuservalue(L, -2, 3);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &compiled_key);
    lua_setmetatable(L, -2);
    return 1;
}

void nnl_lua_open_replay(lua_State *L, nnl_lua *state)
{
    static const luaL_Reg functions[] = {{"compiled", lua_compiled}, {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__call", call_compiled}, {NULL, NULL}};
    static const luaL_Reg methods[] = {{"explain", lua_explain}, {NULL, NULL}};
    nnl_lua_set_functions(L, state, -1, functions);
    luaL_newmetatable(L, "compiled function"); /* sets __name */
    nnl_lua_set_functions(L, state, -1, meta);
    lua_newtable(L);
    nnl_lua_set_functions(L, state, -1, methods);
    lua_setfield(L, -2, "__index");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &compiled_key);
}
