/* The library in a lua_State: opening, errors with the user's line, and the collector's rule. */
#include "lua_nnlua.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const char state_key[] = "nnlua.state";

nnl_lua *nnl_lua_state(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, state_key);
    nnl_lua *state = lua_touserdata(L, -1);
    lua_pop(L, 1);
    if (!state) luaL_error(L, "nnlua is not open in this Lua state");
    return state;
}

void nnl_lua_set_functions(lua_State *L, nnl_lua *state, int index, const luaL_Reg *functions)
{
    index = lua_absindex(L, index);
    for (; functions->name; functions++) {
        lua_pushlightuserdata(L, state);
        lua_pushcclosure(L, functions->func, 1);
        lua_setfield(L, index, functions->name);
    }
}

/* ---------------------------------------------------------------- errors */

/* Chunks of the Lua library are named "=nnlua/..."; an error is the user's line's, not theirs. */
static bool is_ours(const lua_Debug *ar) { return strncmp(ar->source, "=nnlua", 6) == 0; }

void nnl_lua_where(lua_State *L, char *buffer, size_t size)
{
    lua_Debug ar;
    buffer[0] = 0;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (ar.currentline <= 0 || is_ours(&ar)) continue;
        nnl_format(buffer, size, "%s:%d: ", ar.short_src, ar.currentline);
        return;
    }
}

/* The path of the module whose forward runs: frames of Module's call leave the module in their
 * first local. library "nnlua.module_path" (set by the Lua library) turns outermost and innermost
 * into text. */
static bool push_module_path(lua_State *L)
{
    if (lua_getfield(L, LUA_REGISTRYINDEX, "nnlua.module_call") != LUA_TFUNCTION) {
        lua_pop(L, 1);
        return false;
    }
    int call = lua_gettop(L);
    lua_newtable(L); /* modules, innermost first */
    int found = 0;
    lua_Debug ar;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "f", &ar);
        bool same = lua_rawequal(L, -1, call);
        lua_pop(L, 1);
        if (same && lua_getlocal(L, &ar, 1)) lua_rawseti(L, call + 1, ++found);
    }
    bool done = false;
    if (found > 0 && lua_getfield(L, LUA_REGISTRYINDEX, "nnlua.module_path") == LUA_TFUNCTION) {
        lua_pushvalue(L, call + 1);
        done = lua_pcall(L, 1, 1, 0) == LUA_OK && lua_isstring(L, -1);
    }
    if (!done) {
        lua_settop(L, call - 1);
        return false;
    }
    lua_replace(L, call);
    lua_settop(L, call);
    return true;
}

static int raise_text(lua_State *L, const char *text)
{
    char where[300];
    luaL_checkstack(L, 8, "error");
    nnl_lua_where(L, where, sizeof where);
    lua_pushstring(L, where);
    if (push_module_path(L)) {
        lua_pushliteral(L, ": ");
        lua_concat(L, 3);
    }
    lua_pushstring(L, text);
    lua_concat(L, 2);
    return lua_error(L);
}

int nnl_lua_raise(lua_State *L, nnl_runtime *rt)
{
    char text[NNL_MESSAGE_SIZE];
    nnl_format(text, sizeof text, "%s", nnl_error_message(rt));
    return raise_text(L, text);
}

int nnl_lua_raise_status(lua_State *L, nnl_runtime *rt, nnl_status status)
{
    if (status != NNL_ECALLBACK) return nnl_lua_raise(L, rt);
    lua_pushstring(L, nnl_error_message(rt));
    return lua_error(L);
}

int nnl_lua_error(lua_State *L, const char *format, ...)
{
    char text[NNL_MESSAGE_SIZE];
    va_list list;
    va_start(list, format);
    nnl_format_list(text, sizeof text, format, list);
    va_end(list);
    return raise_text(L, text);
}

/* error() of the Lua library: nn.raise("Linear: ...") puts the user's line before the message. */
static int lua_raise(lua_State *L)
{
    char text[NNL_MESSAGE_SIZE];
    nnl_format(text, sizeof text, "%s", luaL_checkstring(L, 1));
    return raise_text(L, text);
}

/* caller_line(level) and parameters(f) -> count, variadic: what the Lua library needs of debug,
 * which a sandbox may not have */
static int lua_caller_line(lua_State *L)
{
    lua_Debug ar;
    bool found = lua_getstack(L, (int)luaL_checkinteger(L, 1), &ar) && lua_getinfo(L, "l", &ar);
    lua_pushinteger(L, found ? ar.currentline : 0);
    return 1;
}

static int lua_parameters(lua_State *L)
{
    lua_Debug ar;
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_settop(L, 1);
    lua_getinfo(L, ">u", &ar);
    lua_pushinteger(L, ar.nparams);
    lua_pushboolean(L, ar.isvararg);
    return 2;
}

int64_t nnl_lua_check_int(lua_State *L, int index, const char *function, const char *name)
{
    int exact;
    lua_Integer value = lua_tointegerx(L, index, &exact);
    if (!exact || lua_type(L, index) != LUA_TNUMBER) {
        char text[NNL_LUA_VALUE_TEXT];
        nnl_lua_error(L, "%s: %s must be an integer, got %s", function, name,
                      nnl_lua_value_text(L, index, text));
    }
    return value;
}

/* ---------------------------------------------------------------- memory */

/* The collector sees of a tensor the few bytes of its userdata.  So the binding counts the bytes of
 * the tensors handed to Lua, and collects when enough of them may be garbage: at a function's
 * entry, never inside an allocation.
 *
 * In generational mode a step is a young collection, which costs next to nothing and finds what was
 * dropped at once; then a few megabytes are enough, and the same memory is used again while it is
 * in the cache.  There is no way to ask for the mode, so a step is tried, and tried again later
 * when it did not help.  In incremental mode only a full collection helps.  It comes the sooner the
 * quicker it is.
 *
 * While steps find nearly everything dropped they come sooner, down to LEAST_DEBT, so that the
 * memory used again lies nearer still.  Tensors that outlive such a step would grow old in a few of
 * them: then the debt is doubled.  Where that makes it MIN_DEBT again, four times as many steps
 * must have gone well before the next try, up to MOST_CALM; where it stays small, that is
 * forgotten.
 *
 * Beside a large Lua heap full collections would take most of the time of a script that makes and
 * drops large tensors (20 MB of small tables: 10 ms for each 32 MB).  When they do, the collector
 * is changed to generational mode, once; who sets it back to incremental keeps that. */
#define MIN_DEBT ((size_t)8 << 20)
#define MAX_DEBT ((size_t)32 << 20)
#define LEAST_DEBT ((size_t)1 << 20)
#define CALM 16 /* steps that go well before the first try with less */
#define MOST_CALM 256
#define LITTLE_CALM \
    4 /* the same after something outlived a step, such as the inputs of what comes next */
#define BYTES_A_NANOSECOND \
    96 /* of tensors, for each of a full collection's: it may take as long as reading them */
#define TRIALS 3 /* steps without success until ... */
#define FINALIZER_NS \
    150 /* a tensor's share of a collection, which is no reason to wait longer for the next */
#define FREEING_NS 1000 /* what freeing a tensor may take in a step, about as long as making it */
#define PATIENCE 32     /* ... so many full collections have been made */
#define BUSY 8     /* a full collection in less than so many times its own time is too much, ... */
#define TOO_BUSY 1 /* ... more often in a row than that */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void collected(nnl_lua *state)
{
    state->debt = state->unkept = 0;
    state->live = state->live_full = state->rt->heap.live;
    state->collected_at = now_ns();
    if (state->step_patience > 0) state->step_patience--;
}

/* True when full collections take too much of the time; once. */
static bool too_busy(nnl_lua *state, uint64_t now)
{
    bool busy = state->collection_ns > MAX_DEBT / BYTES_A_NANOSECOND &&
                now - state->collected_at < BUSY * state->collection_ns;
    if (state->busy > TOO_BUSY) return false;
    state->busy = busy ? state->busy + 1 : 0;
    return state->busy > TOO_BUSY;
}

void nnl_lua_collect_all(lua_State *L, nnl_lua *state)
{
    uint64_t start = now_ns();
    int64_t tensors = state->rt->tensors;
    if (too_busy(state, start)) {
        lua_gc(L, LUA_GCGEN, 0, 0); /* a full collection itself */
        state->step_patience = 0;
    } else {
        lua_gc(L, LUA_GCCOLLECT);
    }
    collected(state);
    uint64_t took = state->collected_at - start,
             freed = (uint64_t)NNL_MAX(tensors - state->rt->tensors, 0);
    took = NNL_MAX(took / 8, took - NNL_MIN(took, freed * FINALIZER_NS));
    /* The quickest counts, so that an interruption does not; but a heap may have grown. */
    uint64_t slower = state->collection_ns + state->collection_ns / 4;
    state->collection_ns = state->collection_ns == 0 || took < slower ? took : slower;
}

/* Sets the debt that the next step waits for; false when this one came too soon to tell whether
 * steps help. */
static bool adapt_step(nnl_lua *state, size_t freed, bool quick)
{
    bool all = freed >= state->debt - state->debt / 4;
    if (state->young < MIN_DEBT && !(all && quick)) {
        state->young *= 2;
        if (state->young >= MIN_DEBT)
            state->calm_wanted = NNL_MIN(state->calm_wanted * 4, MOST_CALM);
        state->calm = state->young < MIN_DEBT ? LITTLE_CALM : state->calm_wanted;
        return false;
    }
    if (!all) return true;
    if (state->calm > 0)
        state->calm--;
    else if (state->young > LEAST_DEBT)
        state->young /= 2;
    else
        state->calm = state->calm_wanted = NNL_MAX(state->calm_wanted / 4, CALM);
    return true;
}

/* A step, and whether it was worth while.  An incremental cycle may take several, so that those
 * which free nothing count for the next that does; one that was slow for once does not. */
static bool step_helps(lua_State *L, nnl_lua *state)
{
    size_t before = state->rt->heap.live;
    int64_t tensors = state->rt->tensors;
    uint64_t start = now_ns();
    lua_gc(L, LUA_GCSTEP, 0);
    uint64_t took = state->step_ns + now_ns() - start;
    size_t after = state->rt->heap.live, freed = before - NNL_MIN(before, after);
    uint64_t may_take = freed / (BYTES_A_NANOSECOND / 2) +
                        (uint64_t)NNL_MAX(tensors - state->rt->tensors, 0) * FREEING_NS;
    bool much = freed >= state->debt / 4, quick = took <= may_take;
    bool soon = !adapt_step(state, freed, quick);
    if (!soon && (!much || !quick)) {
        state->debt -= NNL_MIN(state->debt, freed);
        state->step_ns = much ? 0 : took;
        if (++state->steps == TRIALS) {
            state->step_patience = PATIENCE;
            state->step_ns = 0;
            state->steps = 0;
        }
        return false;
    }
    state->step_ns = 0;
    state->steps = 0;
    state->live = after;
    state->debt = 0;
    return true;
}

/* Tensors that became old before they were dropped wait for a full collection. */
static bool may_have_old_garbage(const nnl_lua *state)
{
    return state->live - NNL_MIN(state->live, state->live_full) >
           NNL_MAX(MAX_DEBT, state->live_full);
}

void nnl_lua_collect_some(lua_State *L, nnl_lua *state)
{
    size_t live = state->rt->heap.live, limit = MIN_DEBT;
    if (!lua_gc(L, LUA_GCISRUNNING)) { /* the host stopped the collector */
        state->debt = 0;
        return;
    }
    /* What Lua has collected in its own time is no garbage any more. */
    state->live = NNL_MIN(state->live, live);
    state->live_full = NNL_MIN(state->live_full, live);
    state->debt = NNL_MIN(state->debt, live - state->live);
    if (state->debt <= state->limit / 2) return;

    if (state->collection_ns >= MAX_DEBT / BYTES_A_NANOSECOND)
        limit = MAX_DEBT;
    else
        limit = NNL_MAX((size_t)state->collection_ns * BYTES_A_NANOSECOND, MIN_DEBT);
    if (state->step_patience == 0 && step_helps(L, state)) {
        if (may_have_old_garbage(state)) nnl_lua_collect_all(L, state);
        state->limit = state->young;
    } else if (state->debt >= limit / 2) {
        nnl_lua_collect_all(L, state);
        state->limit = state->step_patience == 0 ? MIN_DEBT : limit;
    } else {
        state->limit = state->step_patience == 0 ? state->limit + MIN_DEBT : limit;
    }
}

void nnl_lua_free_memory(lua_State *L, nnl_runtime *rt)
{
    if (lua_gc(L, LUA_GCISRUNNING)) {
        lua_gc(L, LUA_GCCOLLECT);
        collected(nnl_lua_state(L));
    }
    nnl_memory_trim(rt);
}

/* For the engine: the collection between two steps of a call that came from Lua. */
static bool relieve(void *user)
{
    nnl_lua *state = user;
    if (!state->running || !lua_gc(state->running, LUA_GCISRUNNING)) return false;
    nnl_lua_free_memory(state->running, state->rt);
    return true;
}

/* ---------------------------------------------------------------- opening */

/* Generated from bindings/nnlua by scripts/embed.sh. */
extern const struct nnl_embedded {
    const char *name, *text, *code; /* "nnlua.module"; its source; the same compiled, or NULL */
    size_t size, code_size;
} nnl_embedded[];

static int load_embedded(lua_State *L, const struct nnl_embedded *e, const char *chunk)
{
    if (e->code) {
        if (luaL_loadbufferx(L, e->code, e->code_size, chunk, "b") == LUA_OK) return LUA_OK;
        lua_pop(L, 1); /* another release of Lua 5.4 may refuse it */
    }
    return luaL_loadbufferx(L, e->text, e->size, chunk, "t");
}

/* package.searchers entry: the embedded library, found after the path so that files can override
 * it. */
static int search_embedded(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    for (const struct nnl_embedded *e = nnl_embedded; e->name; e++) {
        if (strcmp(e->name, name) != 0) continue;
        char chunk[80];
        nnl_format(chunk, sizeof chunk, "=%s", name);
        for (char *c = chunk; *c; c++) {
            if (*c == '.') *c = '/';
        }
        if (load_embedded(L, e, chunk) != LUA_OK) return lua_error(L);
        lua_pushstring(L, chunk + 1);
        return 2;
    }
    lua_pushfstring(L, "no embedded module '%s'", name);
    return 1;
}

/* resource("data/digits-images.idx") -> the bytes of a data file that is built in, or nil */
static int lua_resource(lua_State *L)
{
    lua_pushliteral(L, "nnlua.");
    luaL_gsub(L, luaL_checkstring(L, 1), "/", ".");
    lua_concat(L, 2);
    const char *name = lua_tostring(L, -1);
    for (const struct nnl_embedded *e = nnl_embedded; e->name; e++) {
        if (strcmp(e->name, name) != 0) continue;
        lua_pushlstring(L, e->text, e->size);
        return 1;
    }
    return 0;
}

/* The loader of "nnlua" itself: a file on the path overrides what is built in. */
int nnl_lua_load_library(lua_State *L)
{
    lua_settop(L, 0);
    lua_getglobal(L, "package");
    lua_getfield(L, 1, "searchpath");
    lua_pushliteral(L, "nnlua");
    lua_getfield(L, 1, "path");
    lua_call(L, 2, 1);
    if (lua_isstring(L, -1)) {
        if (luaL_loadfile(L, lua_tostring(L, -1)) != LUA_OK) return lua_error(L);
    } else {
        lua_settop(L, 0);
        lua_pushliteral(L, "nnlua");
        search_embedded(L);
        lua_settop(L, 2);
        if (!lua_isfunction(L, 2)) return luaL_error(L, "nnlua: the Lua library is not built in");
    }
    /* Nothing of the library is garbage: a collection meanwhile is a tenth of the time to start. */
    bool running = lua_gc(L, LUA_GCISRUNNING);
    lua_gc(L, LUA_GCSTOP);
    lua_pushliteral(L, "nnlua");
    int status = lua_pcall(L, 1, 1, 0);
    if (running) lua_gc(L, LUA_GCRESTART);
    return status == LUA_OK ? 1 : lua_error(L);
}

/* The native table again, when a script has emptied package.loaded (as test runners do). */
static int load_native(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, "nnlua.native");
    return 1;
}

static int add_searcher(lua_State *L)
{
    if (lua_getglobal(L, "package") != LUA_TTABLE || lua_getfield(L, -1, "preload") != LUA_TTABLE)
        return luaL_error(L, "nnlua needs Lua's package library");
    lua_pushcfunction(L, nnl_lua_load_library);
    lua_setfield(L, -2, "nnlua");
    lua_pushcfunction(L, load_native);
    lua_setfield(L, -2, "nnlua.native");
    lua_pop(L, 1);
    lua_getfield(L, -1, "searchers");
    if (!lua_istable(L, -1)) return luaL_error(L, "nnlua needs Lua's package library");
    lua_pushcfunction(L, search_embedded);
    lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
    return 0;
}

void nnl_lua_close_hooks(nnl_lua *state); /* autograd.c */

/* Called last when the Lua state closes; finalizers of older objects may still call ops, which then
 * fail. */
static int close_state(lua_State *L)
{
    nnl_lua *state = lua_touserdata(L, 1);
    nnl_lua_close_hooks(state);
    nnl_engine *engine = state->rt ? state->rt->engine : NULL;
    if (engine && engine->where_user == state) engine->where = NULL;
    if (engine && engine->relieve_user == state) engine->relieve = NULL;
    if (state->owns_runtime && state->rt) nnl_runtime_free(state->rt);
    state->rt = NULL;
    return 0;
}

/* Pushes the table of native functions, nnlua.native, on which the Lua library builds. */
static void push_native(lua_State *L, nnl_lua *state)
{
    lua_newtable(L);
    lua_newtable(L);
    int methods = lua_gettop(L);
    lua_pushvalue(L, -2);
    nnl_lua_open_ops(L, state, methods);
    nnl_lua_open_table(L, state, methods);
    nnl_lua_open_autograd(L, state, methods);
    nnl_lua_open_checkpoint(L, state);
    nnl_lua_open_prefetch(L, state);
    nnl_lua_open_registry(L, state, methods);
    nnl_lua_open_files(L, state, methods);
    nnl_lua_open_capture(L, state);
    nnl_lua_open_replay(L, state);
    nnl_lua_open_tensor(L, state, methods);
    nnl_lua_set_functions(L, state, -1,
                          (luaL_Reg[]){{"raise", lua_raise},
                                       {"resource", lua_resource},
                                       {"caller_line", lua_caller_line},
                                       {"parameters", lua_parameters},
                                       {NULL, NULL}});
    lua_pushstring(L, NNL_VERSION);
    lua_setfield(L, -2, "version");
    lua_pushvalue(L, methods);
    lua_setfield(L, -2, "methods");
    lua_replace(L, methods - 1);
    lua_settop(L, methods - 1);
}

/* nnl_lua_open's work under protection: light userdata (runtime), boolean (owns it). */
int nnl_lua_open_protected(lua_State *L)
{
    nnl_runtime *rt = lua_touserdata(L, 1);
    lua_getfield(L, LUA_REGISTRYINDEX, state_key);
    if (!lua_isnil(L, -1)) return luaL_error(L, "nnlua is open in this Lua state already");
    nnl_lua *state = lua_newuserdatauv(L, sizeof *state, 0);
    int place = lua_gettop(L);
    *state = (nnl_lua){
        .rt = rt, .limit = MIN_DEBT, .young = MIN_DEBT, .calm = CALM, .calm_wanted = CALM};
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    state->main = lua_tothread(L, -1);
    lua_newtable(L);
    lua_pushcfunction(L, close_state);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, place);
    add_searcher(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    push_native(L, state);
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, "nnlua.native");
    lua_setfield(L, -2, "nnlua.native");
    /* Known only when everything is there: what failed can be tried again. */
    lua_pushvalue(L, place);
    lua_setfield(L, LUA_REGISTRYINDEX, state_key);
    state->owns_runtime = lua_toboolean(L, 2);
    rt->engine->relieve = relieve;
    rt->engine->relieve_user = state;
    return 0;
}

int nnl_lua_open(lua_State *L, nnl_runtime *rt)
{
    lua_pushcfunction(L, nnl_lua_open_protected);
    lua_pushlightuserdata(L, rt);
    lua_pushboolean(L, false);
    int status = lua_pcall(L, 2, 0, 0);
    if (status != LUA_OK) {
        nnl_fail(rt, NNL_ECALLBACK, "%s",
                 lua_tostring(L, -1) ? lua_tostring(L, -1) : "the library could not be opened");
        lua_pop(L, 1);
    }
    return status;
}
