/* The prompt, and what it needs of the command. */
#ifndef NNL_REPL_H
#define NNL_REPL_H

#include <lua.h>

/* Reads, runs and prints until the input ends. */
void nnlua_prompt(lua_State *L);

/* Provided by nnlua.c: a protected call with Ctrl-C and traceback; the message printed. */
int nnlua_call(lua_State *L, int n, int results);
int nnlua_report(lua_State *L, int status);

#endif
