/* Captures functions for nn.compile: runs them twice while nothing is computed, compares what was
 * taken down, and makes a program of it. */
#include "capture.h"

#include <string.h>

#define MOST_CAPTURES 4 /* until two in a row agree */

/* ---------------------------------------------------------------- entries */

/* In the registry: entries' metatable; of the capture under way the tables of live numbers and what
 * is watched. */
static const char entry_key, live_key, watched_key;

static int entry_gc(lua_State *L)
{
    nnl_lua_entry *e = lua_touserdata(L, 1);
    if (!e->rt) return 0;
    nnl_context_free(e->context);
    nnl_program_unref(e->program);
    nnl_free(e->rt, e->key, e->key_size);
    nnl_free(e->rt, e->live, e->live_bytes);
    e->rt = NULL;
    return 0;
}

static nnl_lua_entry *new_entry(lua_State *L, nnl_runtime *rt)
{
    nnl_lua_entry *e = lua_newuserdatauv(L, sizeof *e, 4);
    *e = (nnl_lua_entry){.rt = rt};
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &entry_key) == LUA_TNIL) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_pushcfunction(L, entry_gc);
        lua_setfield(L, -2, "__gc");
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &entry_key);
    }
    lua_setmetatable(L, -2);
    for (int i = 1; i <= 4; i++) {
        lua_newtable(L);
        lua_setiuservalue(L, -2, i);
    }
    return e;
}

/* ---------------------------------------------------------------- one run of the function */

/* Pushes the value at `index` with the next boxes in place of its tensors, in the order in which
 * keys are made. */
static void push_substitute(lua_State *L, int index, int boxes, int *next)
{
    if (nnl_lua_to_box(L, index)) {
        lua_rawgeti(L, boxes, ++*next);
        return;
    }
    if (!nnl_lua_is_plain_table(L, index)) {
        lua_pushvalue(L, index);
        return;
    }
    luaL_checkstack(L, 8, "arguments nested too deeply");
    lua_newtable(L);
    int out = lua_gettop(L);
    nnl_lua_sorted_keys(L, index);
    int keys = lua_gettop(L);
    for (lua_Integer i = 1, n = (lua_Integer)lua_rawlen(L, keys); i <= n; i++) {
        lua_rawgeti(L, keys, i);
        lua_pushvalue(L, -1);
        lua_rawget(L, index);
        push_substitute(L, lua_gettop(L), boxes, next);
        lua_replace(L, -2);
        lua_rawset(L, out);
    }
    lua_settop(L, out);
}

/* Pushes the value at `index` with light userdata in place of its tensors, which go to the list. */
static void push_template(lua_State *L, int index, nnl_tensor **results, int *count)
{
    nnl_box *box = nnl_lua_to_box(L, index);
    if (box) {
        if (!box->t) nnl_lua_error(L, "compile: the function returned a tensor that was freed");
        if (*count == NNL_LUA_TENSORS)
            nnl_lua_error(L, "compile: the function returned more than %d tensors",
                          NNL_LUA_TENSORS);
        results[(*count)++] = box->t;
        lua_pushlightuserdata(L, (void *)(intptr_t)*count);
        return;
    }
    if (!nnl_lua_is_plain_table(L, index)) {
        lua_pushvalue(L, index);
        return;
    }
    luaL_checkstack(L, 8, "results nested too deeply");
    lua_newtable(L);
    int out = lua_gettop(L);
    lua_pushnil(L);
    while (lua_next(L, index)) {
        lua_pushvalue(L, -2);
        push_template(L, lua_gettop(L) - 1, results, count);
        lua_rawset(L, out);
        lua_pop(L, 1);
    }
}

/* Runs under lua_pcall: 1 the function, 2 the entry, 3 light userdata (arguments), 4 whether other
 * orders of adding up may be used, then the arguments. */
static int capture_once(lua_State *L)
{
    nnl_lua *state = nnl_lua_state(L);
    nnl_runtime *rt = state->rt;
    nnl_lua_entry *e = lua_touserdata(L, 2);
    const nnl_lua_arguments *a = lua_touserdata(L, 3);
    int top = lua_gettop(L);
    nnl_tensor *tensors[NNL_LUA_TENSORS];
    luaL_checkstack(L, top + 16, "arguments");
    lua_createtable(L, a->count, 0);
    int boxes = lua_gettop(L);
    for (int i = 0; i < a->count; i++) {
        nnl_lua_new_box(L);
        lua_rawseti(L, boxes, i + 1);
    }
    NNL_LUA_TRY(L, rt, nnl_capture_begin(rt, a->tensor, a->count, tensors));
    if (lua_toboolean(L, 4)) NNL_LUA_TRY(L, rt, nnl_capture_inexact(rt));
    for (int i = 0; i < a->count; i++) {
        lua_rawgeti(L, boxes, i + 1);
        nnl_lua_fill_box(state, lua_touserdata(L, -1), tensors[i]);
        lua_pop(L, 1);
    }
    lua_getiuservalue(L, 2, 2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &live_key);
    lua_getiuservalue(L, 2, 4);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &watched_key);
    lua_pushvalue(L, 1);
    lua_getiuservalue(L, 2, 1);
    int next = 0, first = lua_gettop(L) - 1;
    for (int i = 5; i <= top; i++) push_substitute(L, i, boxes, &next);
    lua_call(L, lua_gettop(L) - first, LUA_MULTRET);
    int count = lua_gettop(L) - first + 1, found = 0;
    lua_createtable(L, count, 0);
    int template = lua_gettop(L);
    e->flat = true;
    for (int i = 0; i < count; i++) {
        push_template(L, first + i, tensors, &found);
        e->flat &= lua_islightuserdata(L, -1);
        lua_rawseti(L, template, i + 1);
    }
    lua_setiuservalue(L, 2, 3);
    e->n_results = count;
    NNL_LUA_TRY(L, rt, nnl_capture_take(rt, tensors, found, &e->program));
    return 0;
}

/* Pushes an entry with the program of one run, or without one if that failed and the function is to
 * run as it is then; otherwise raises what the function raises. */
static nnl_lua_entry *push_captured(lua_State *L, nnl_lua *state, const nnl_lua_compiled *compiled,
                                    const nnl_lua_arguments *a, int last_argument)
{
    luaL_checkstack(L, last_argument + 16, "arguments");
    nnl_lua_entry *e = new_entry(L, state->rt);
    int place = lua_gettop(L);
    lua_pushcfunction(L, capture_once);
    lua_getiuservalue(L, 1, 1);
    lua_pushvalue(L, place);
    lua_pushlightuserdata(L, (void *)a);
    lua_pushboolean(L, compiled->inexact);
    for (int i = 2; i <= last_argument; i++) lua_pushvalue(L, i);
    if (lua_pcall(L, lua_gettop(L) - place - 1, 0, 0) != LUA_OK) {
        nnl_capture_abandon(state->rt);
        if (!compiled->fallback) lua_error(L);
        lua_settop(L, place);
    }
    return e;
}

/* ---------------------------------------------------------------- live numbers */

/* Where attribute `name` is found in the table at the top of the stack: itself, or beta1 in
 * betas[1]. */
static bool find_live(lua_State *L, const char *name, nnl_live *live)
{
    size_t length = strlen(name);
    int type = lua_getfield(L, -1, name);
    lua_pop(L, 1);
    live->sub = 0;
    nnl_format(live->name, sizeof live->name, "%s", name);
    if (type == LUA_TNUMBER || type == LUA_TBOOLEAN) return true;
    if (length < 2 || length + 1 > sizeof live->name || name[length - 1] < '1' ||
        name[length - 1] > '9')
        return false;
    live->sub = name[length - 1] - '0';
    live->name[length - 1] = 's';
    type = lua_getfield(L, -1, live->name);
    lua_pop(L, 1);
    return type == LUA_TTABLE;
}

static void collect_live(lua_State *L, nnl_lua *state, nnl_lua_entry *e, int place)
{
    const nnl_program *p = e->program;
    size_t most = 0;
    for (int i = 0; i < p->n_steps; i++)
        most += p->step[i].live >= 0 ? (size_t)p->step[i].n_attr : 0;
    if (!most) return;
    void *block;
    NNL_LUA_TRY(L, state->rt, nnl_alloc(state->rt, most * sizeof(nnl_live), &block));
    e->live = block;
    e->live_bytes = most * sizeof(nnl_live);
    lua_getiuservalue(L, place, 2);
    for (int i = 0; i < p->n_steps; i++) {
        const nnl_step *step = &p->step[i];
        if (step->live < 0) continue;
        const nnl_sig *sig;
        NNL_LUA_TRY(L, state->rt, nnl_sig_of(state->rt, step->op, &sig));
        lua_rawgeti(L, -1, step->live + 1);
        for (int k = 0; k < step->n_attr; k++) {
            nnl_live live = {
                .step = i, .attr = k, .table = step->live + 1, .kind = step->attr[k].kind};
            if (find_live(L, sig->attr[k]->name, &live)) e->live[e->n_live++] = live;
        }
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* live(table): the next op's attributes are that table's fields, now and at each run of the
 * program. */
static int lua_live(lua_State *L)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    if (!state->rt->capturing || lua_rawgetp(L, LUA_REGISTRYINDEX, &live_key) != LUA_TTABLE)
        return 0;
    int place = (int)lua_rawlen(L, -1);
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, place + 1);
    nnl_capture_live(state->rt, place);
    return 0;
}

lua_Integer nnl_lua_watched_form(lua_State *L, int table)
{
    const char *name = lua_tostring(L, -1);
    lua_Integer form;
    if (name[0] == '#') {
        form = (lua_Integer)lua_rawlen(L, table);
    } else {
        int type = lua_getfield(L, table, name);
        form = type == LUA_TNUMBER ? lua_tonumber(L, -1) != 0 : lua_toboolean(L, -1);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return form;
}

/* watch(table, name ...): the function does something else when one of the table's fields becomes 0
 * or false, or is so no more, or (name "#") the list has another length. */
static int lua_watch(lua_State *L)
{
    int last = lua_gettop(L);
    if (!nnl_lua_upvalue(L)->rt->capturing ||
        lua_rawgetp(L, LUA_REGISTRYINDEX, &watched_key) != LUA_TTABLE)
        return 0;
    lua_Integer place = (lua_Integer)lua_rawlen(L, -1);
    for (int i = 2; i <= last; i++) {
        lua_pushvalue(L, 1);
        lua_rawseti(L, last + 1, ++place);
        lua_pushvalue(L, i);
        lua_rawseti(L, last + 1, ++place);
        lua_pushvalue(L, i);
        lua_pushinteger(L, nnl_lua_watched_form(L, 1));
        lua_rawseti(L, last + 1, ++place);
    }
    return 0;
}

/* outside(f, ...): f's results, made for real while a function is captured: for what is made once
 * and kept. */
static int lua_outside(lua_State *L)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    nnl_capture_pause pause = nnl_capture_suspend(state->rt);
    int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
    nnl_capture_resume(state->rt, pause);
    if (status != LUA_OK) return lua_error(L);
    return lua_gettop(L);
}

static int lua_capturing(lua_State *L)
{
    lua_pushboolean(L, nnl_lua_upvalue(L)->rt->capturing);
    return 1;
}

/* mode_changed(): some module's training flag was set. */
static int lua_mode_changed(lua_State *L)
{
    nnl_lua_upvalue(L)->mode_epoch++;
    return 0;
}

/* ---------------------------------------------------------------- until two runs agree */

static int difference(lua_State *L, bool number, const char *where)
{
    const char *line = where && where[0] ? where : "?";
    if (number)
        return nnl_lua_error(
            L,
            "compile: a number at %s was another one when the function ran a second time, and a "
            "captured "
            "function would keep the first; pass it as an argument, or make it an nn.scalar",
            line);
    return nnl_lua_error(L,
                         "compile: the function did something else (at %s) each time it ran while "
                         "it was captured; what decides "
                         "must be an argument, or compile with {fallback = true}",
                         line);
}

static nnl_lua_entry *push_agreed(lua_State *L, nnl_lua *state, const nnl_lua_compiled *compiled,
                                  const nnl_lua_arguments *a, int last_argument)
{
    nnl_lua_entry *before = push_captured(L, state, compiled, a, last_argument);
    bool number = false;
    const char *where = NULL;
    for (int i = 1; i < MOST_CAPTURES && before->program; i++) {
        nnl_lua_entry *e = push_captured(L, state, compiled, a, last_argument);
        if (!e->program || nnl_program_agrees(before->program, e->program, &number, &where)) {
            lua_replace(L, -2);
            return e;
        }
        if (number) break;
        before = e;
        lua_replace(L, -2);
    }
    if (!compiled->fallback) difference(L, number, where);
    nnl_program_unref(before->program);
    before->program = NULL;
    return before;
}

/* The programs of a function share the memory between their steps. */
static nnl_context *other_context(const nnl_lua_compiled *compiled)
{
    for (int i = 0; i < compiled->count; i++) {
        if (compiled->entry[i]->context) return compiled->entry[i]->context;
    }
    return NULL;
}

static void finish(lua_State *L, nnl_lua *state, const nnl_lua_compiled *compiled, nnl_lua_entry *e,
                   const nnl_lua_arguments *a, int place)
{
    nnl_runtime *rt = state->rt;
    if (e->program) {
        NNL_LUA_TRY(L, rt, nnl_program_finish(e->program));
        NNL_LUA_TRY(L, rt,
                    nnl_context_new_beside(e->program, rt, other_context(compiled), &e->context));
        collect_live(L, state, e, place);
    }
    NNL_LUA_TRY(L, rt, nnl_alloc(rt, a->key_size, &e->key));
    memcpy(e->key, a->key, a->key_size);
    e->key_size = a->key_size;
    e->mode_epoch = state->mode_epoch;
}

/* The entry at the stack's top takes its place among the function's, where the oldest may have to
 * go. */
static void enlist(lua_State *L, nnl_lua_compiled *compiled, nnl_lua_entry *e)
{
    int place = compiled->count;
    if (place == NNL_LUA_PROGRAMS) {
        place = 0;
        for (int i = 1; i < compiled->count; i++) {
            if (compiled->entry[i]->used < compiled->entry[place]->used) place = i;
        }
    } else {
        compiled->count++;
    }
    lua_getiuservalue(L, 1, 3);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, place + 1);
    lua_pop(L, 2);
    compiled->entry[place] = e;
    e->used = ++compiled->clock;
}

nnl_lua_entry *nnl_lua_capture(lua_State *L, nnl_lua *state, nnl_lua_compiled *compiled,
                               const nnl_lua_arguments *arguments)
{
    int last_argument = lua_gettop(L);
    nnl_lua_entry *e = push_agreed(L, state, compiled, arguments, last_argument);
    finish(L, state, compiled, e, arguments, lua_gettop(L));
    enlist(L, compiled, e);
    lua_settop(L, last_argument);
    return e;
}

void nnl_lua_open_capture(lua_State *L, nnl_lua *state)
{
    static const luaL_Reg functions[] = {
        {"live", lua_live},
        {"watch", lua_watch},
        {"outside", lua_outside},
        {"capturing", lua_capturing},
        {"mode_changed", lua_mode_changed},
        {NULL, NULL},
    };
    nnl_lua_set_functions(L, state, -1, functions);
}
