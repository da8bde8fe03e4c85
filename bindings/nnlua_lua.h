/* nnlua in a host's own Lua 5.4 state. */
#ifndef NNLUA_LUA_H
#define NNLUA_LUA_H

#include <lua.h>

#include "nnlua.h"

/* Makes require "nnlua" work in L, on a runtime of the host's that outlives L.  Leaves the stack as
 * it was. One runtime may serve one lua_State (and its coroutines).  Returns LUA_OK, or a Lua error
 * status with the message in nnl_error_message(rt). */
NNL_API int nnl_lua_open(lua_State *L, nnl_runtime *rt);

/* The tensor at a stack place, borrowed, or NULL when there is none.  Pushes a tensor: takes over
 * one reference, also on failure. */
NNL_API nnl_tensor *nnl_lua_to_tensor(lua_State *L, int index);
NNL_API void nnl_lua_push_tensor(lua_State *L, nnl_tensor *t);

#endif
