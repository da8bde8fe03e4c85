#include "lua_nnlua.h"
int nnl_lua_index(lua_State *L, nnl_lua *state, nnl_tensor *t) { (void)state; (void)t; return nnl_lua_error(L, "index: being written"); }
int nnl_lua_assign(lua_State *L, nnl_lua *state, nnl_tensor *t) { (void)state; (void)t; return nnl_lua_error(L, "index: being written"); }
