/* require "nnlua" in stock Lua: a runtime of its own, configured by the environment. */
#include "lua_nnlua.h"

#include "environment.h"

int nnl_lua_open_protected(lua_State *L);
int nnl_lua_load_library(lua_State *L);

LUAMOD_API int luaopen_nnlua(lua_State *L);

/* Called by require "nnlua" when the C module is found; loads the Lua library on top of it. */
__attribute__((visibility("default"))) int luaopen_nnlua(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, "nnlua.state");
    if (lua_isnil(L, -1)) {
        nnl_runtime_config config;
        char problem[160];
        nnl_runtime *rt;
        if (!nnl_config_from_environment(&config, problem, sizeof problem))
            return luaL_error(L, "nnlua: %s", problem);
        nnl_status status = nnl_runtime_new(&config, &rt);
        if (status != NNL_OK)
            return luaL_error(L, "nnlua: the runtime could not be made (%s)",
                              nnl_status_name(status));
        lua_pushcfunction(L, nnl_lua_open_protected);
        lua_pushlightuserdata(L, rt);
        lua_pushboolean(L, true);
        if (lua_pcall(L, 2, 0, 0) != LUA_OK) {
            nnl_runtime_free(rt);
            return lua_error(L);
        }
    }
    return nnl_lua_load_library(L);
}
