/* The nnlua command: runs scripts and expressions with the library built in. */
#include "lua_nnlua.h"

#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "environment.h"

int main(int argc, char **argv)
{
    nnl_runtime_config config;
    char problem[160];
    nnl_runtime *rt;
    if (!nnl_config_from_environment(&config, problem, sizeof problem)) { fprintf(stderr, "nnlua: %s\n", problem); return 1; }
    if (nnl_runtime_new(&config, &rt) != NNL_OK) return 1;
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    if (nnl_lua_open(L, rt) != LUA_OK) { fprintf(stderr, "nnlua: %s\n", nnl_error_message(rt)); return 1; }
    int status = luaL_loadfile(L, argc > 1 ? argv[1] : NULL);
    if (status == LUA_OK) status = lua_pcall(L, 0, 0, 0);
    if (status != LUA_OK) fprintf(stderr, "%s\n", lua_tostring(L, -1));
    lua_close(L);
    nnl_runtime_free(rt);
    return status != LUA_OK;
}
