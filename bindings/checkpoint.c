/* nn.checkpoint: a function whose intermediate values are computed again when backward needs them.
 */
#include "lua_nnlua.h"

/* Runs under lua_pcall: 1 what is kept, {[0] = count, f, arguments ...}. */
static int call_again(lua_State *L)
{
    lua_rawgeti(L, 1, 0);
    int count = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    luaL_checkstack(L, count + 8, "checkpoint: too many arguments");
    for (int i = 1; i <= count; i++) lua_rawgeti(L, 1, i);
    lua_call(L, count - 1, 0);
    return 0;
}

/* What a run left is garbage, or will be when backward has used what it saved; since memory is what
 * counts here, not much of it may gather. */
static void count_garbage(lua_State *L, nnl_lua *state, size_t before)
{
    size_t after = state->rt->heap.live;
    state->unkept += after - NNL_MIN(before, after);
    if (state->unkept > NNL_LUA_UNKEPT && !state->rt->capturing && lua_gc(L, LUA_GCISRUNNING))
        nnl_lua_collect_all(L, state);
}

static nnl_status again(void *user)
{
    const nnl_lua_kept *kept = user;
    size_t before = kept->rt->heap.live;
    nnl_status status = nnl_lua_call_kept(kept, "checkpoint", call_again, NULL, NULL);
    nnl_lua *state = kept->state;
    if (status == NNL_OK)
        count_garbage(state->running ? state->running : state->main, state, before);
    return status;
}

/* checkpoint(f, ...): f's results; what lies between them and the arguments is not kept for
 * backward. */
static int lua_checkpoint(lua_State *L)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    nnl_runtime *rt = state->rt;
    char text[NNL_LUA_VALUE_TEXT];
    int count = lua_gettop(L);
    if (!lua_isfunction(L, 1) && luaL_getmetafield(L, 1, "__call") == LUA_TNIL)
        return nnl_lua_error(L, "checkpoint: argument 1 must be a function or a module, got %s",
                             nnl_lua_value_text(L, 1, text));
    lua_settop(L, count);
    luaL_checkstack(L, count + 8, "checkpoint: too many arguments");
    if (!nnl_grad_mode(rt)) {
        lua_call(L, count - 1, LUA_MULTRET);
        return lua_gettop(L);
    }
    lua_createtable(L, count, 1);
    for (int i = 1; i <= count; i++) {
        lua_pushvalue(L, i);
        lua_rawseti(L, -2, i);
    }
    lua_pushinteger(L, count);
    lua_rawseti(L, -2, 0);
    nnl_lua_kept *kept = nnl_lua_keep(L, state);
    nnl_keeping before;
    nnl_status opened = nnl_segment_open(rt, again, nnl_lua_drop_kept, kept, &before);
    if (opened == NNL_ENOMEM) {
        nnl_lua_free_memory(L, rt);
        opened = nnl_segment_open(rt, again, nnl_lua_drop_kept, kept, &before);
    }
    if (opened != NNL_OK) {
        nnl_lua_drop_kept(kept);
        return nnl_lua_raise(L, rt);
    }
    size_t live = rt->heap.live;
    int status = lua_pcall(L, count - 1, LUA_MULTRET, 0);
    nnl_segment_close(rt, &before);
    if (status != LUA_OK) return lua_error(L);
    if (before.mode == NNL_KEEP_ALL) count_garbage(L, state, live);
    return lua_gettop(L);
}

/* recomputing(): whether a function runs again for backward.  What counts its calls, such as
 * running statistics, counted the first one. */
static int lua_recomputing(lua_State *L)
{
    lua_pushboolean(L, nnl_lua_upvalue(L)->rt->engine->keeping.run != 0);
    return 1;
}

void nnl_lua_open_checkpoint(lua_State *L, nnl_lua *state)
{
    static const luaL_Reg functions[] = {
        {"checkpoint", lua_checkpoint}, {"recomputing", lua_recomputing}, {NULL, NULL}};
    nnl_lua_set_functions(L, state, -1, functions);
}
