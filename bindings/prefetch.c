/* The loader's threads: native.prefetch gives the batches of a data set that lies in memory. */
#include "lua_nnlua.h"

#include "data/prefetch.h"

typedef struct ahead {
    nnl_prefetch *prefetch; /* NULL when it is closed */
    int columns;
} ahead;

static const char ahead_key; /* in the registry: their metatable */

static int ahead_close(lua_State *L)
{
    ahead *a = lua_touserdata(L, 1);
    nnl_prefetch *prefetch = a->prefetch;
    a->prefetch = NULL;
    nnl_prefetch_free(prefetch);
    return 0;
}

/* The next batch's tensors, or nothing. */
static int ahead_call(lua_State *L)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    ahead *a = lua_touserdata(L, 1);
    nnl_tensor *batch[NNL_PREFETCH_COLUMNS];
    bool more = false;
    if (!a->prefetch) return 0;
    nnl_lua_collect(L, state);
    lua_settop(L, 1);
    luaL_checkstack(L, a->columns + 4, "columns");
    for (int c = 0; c < a->columns; c++) nnl_lua_new_box(L);
    NNL_LUA_TRY(L, state->rt, nnl_prefetch_next(a->prefetch, batch, &more));
    if (!more) return ahead_close(L);
    for (int c = 0; c < a->columns; c++)
        nnl_lua_fill_box(state, lua_touserdata(L, 2 + c), batch[c]);
    return a->columns;
}

/* Whether rows of t can be copied by threads. */
static bool can_be_rows(const nnl_tensor *t, int64_t count)
{
    return t->ndim > 0 && t->contiguous && t->shape[0] == count && !nnl_tensor_requires_grad(t);
}

/* Reads {{tensor, scale or nil}, ...}; returns how many, or 0 when they are no columns for threads.
 */
static int read_columns(lua_State *L, int index, nnl_prefetch_column *columns)
{
    int count = (int)lua_rawlen(L, index);
    if (count > NNL_PREFETCH_COLUMNS) return 0;
    for (int c = 0; c < count; c++) {
        lua_rawgeti(L, index, c + 1);
        lua_rawgeti(L, -1, 1);
        lua_rawgeti(L, -2, 2);
        nnl_tensor *t = nnl_lua_check_tensor(L, -2, "Loader");
        columns[c] = (nnl_prefetch_column){t, !lua_isnil(L, -1), (float)lua_tonumber(L, -1)};
        if (!can_be_rows(t, c ? columns[0].rows->shape[0] : t->ndim ? t->shape[0] : 0)) return 0;
        lua_pop(L, 3);
    }
    return count;
}

/* prefetch(columns, order or nil, batch_size, batches, workers): what gives a batch at each call,
 * or nil. */
static int lua_prefetch(lua_State *L)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    nnl_prefetch_column columns[NNL_PREFETCH_COLUMNS];
    int count = state->rt->capturing ? 0 : read_columns(L, 1, columns);
    if (count == 0) return 0;
    const nnl_tensor *order = lua_isnil(L, 2) ? NULL : nnl_lua_check_tensor(L, 2, "Loader");
    int64_t size = nnl_lua_check_int(L, 3, "Loader", "batch_size"),
            batches = nnl_lua_check_int(L, 4, "Loader", "batches");
    int workers = (int)NNL_MIN(nnl_lua_check_int(L, 5, "Loader", "workers"), INT16_MAX);
    ahead *a = lua_newuserdatauv(L, sizeof *a, 0);
    *a = (ahead){NULL, count};
    lua_rawgetp(L, LUA_REGISTRYINDEX, &ahead_key);
    lua_setmetatable(L, -2);
    NNL_LUA_TRY(
        L, state->rt,
        nnl_prefetch_new(state->rt, columns, count, order, size, batches, workers, &a->prefetch));
    return 1;
}

void nnl_lua_open_prefetch(lua_State *L, nnl_lua *state)
{
    static const luaL_Reg functions[] = {{"prefetch", lua_prefetch}, {NULL, NULL}};
    static const luaL_Reg meta[] = {
        {"__call", ahead_call}, {"__close", ahead_close}, {"__gc", ahead_close}, {NULL, NULL}};
    nnl_lua_set_functions(L, state, -1, functions);
    lua_newtable(L);
    nnl_lua_set_functions(L, state, -1, meta);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &ahead_key);
}
