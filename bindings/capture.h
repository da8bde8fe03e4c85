/* Functions made by nn.compile: what capture.c makes and replay.c runs. */
#ifndef LUA_CAPTURE_H
#define LUA_CAPTURE_H

#include "lua_nnlua.h"
#include "program/program.h"

#define NNL_LUA_KEY_BYTES 8192
#define NNL_LUA_TENSORS 256
#define NNL_LUA_PROGRAMS 8 /* of one function; the one not used for longest goes */

/* The arguments of a call: their tensors in order, and a key that is the same for calls that one
 * program serves. */
typedef struct nnl_lua_arguments {
    int count; /* of tensors */
    nnl_tensor *tensor[NNL_LUA_TENSORS];
    size_t key_size;
    char key[NNL_LUA_KEY_BYTES];
} nnl_lua_arguments;

/* A number that a program reads from a Lua table at each run: attribute `attr` of step `step` is
 * table[name], or table[name][sub]. */
typedef struct nnl_live {
    int32_t step, attr, table, sub;
    nnl_kind kind;
    char name[24];
} nnl_live;

/* One program of a compiled function.  User values: 1 the modules met and their modes, {m1, mode1,
 * m2, ...}; 2 the tables of live numbers; 3 the results, with light userdata (place + 1) for
 * tensors; 4 what is watched, {table, name, form, table, ...}. */
typedef struct nnl_lua_entry {
    nnl_program *program;
    nnl_context *context; /* NULL: the function cannot be captured and runs as it is */
    nnl_runtime *rt;
    void *key;
    size_t key_size;
    uint64_t mode_epoch, used;
    nnl_live *live;
    size_t live_bytes;
    int n_live, n_results;
    bool flat; /* the results are tensors, no tables or other values */
} nnl_lua_entry;

/* User values: 1 the function as capture calls it (modes, ...); 2 the function itself; 3 the
 * entries' userdata. */
typedef struct nnl_lua_compiled {
    int count;
    uint64_t clock;
    bool fallback, inexact;
    nnl_lua_entry *entry[NNL_LUA_PROGRAMS];
} nnl_lua_compiled;

/* Of table[name], whose name is at the stack's top and goes: whether it is neither 0, false nor
 * nil; for "#" the table's length. */
lua_Integer nnl_lua_watched_form(lua_State *L, int table);
bool nnl_lua_is_plain_table(lua_State *L, int index); /* without a metatable */
/* Pushes the list of a table's keys, strings and integers, in an order that depends on nothing
 * else. */
void nnl_lua_sorted_keys(lua_State *L, int index);
/* Captures the function of the compiled userdata at stack place 1, called with the arguments behind
 * it. */
nnl_lua_entry *nnl_lua_capture(lua_State *L, nnl_lua *state, nnl_lua_compiled *compiled,
                               const nnl_lua_arguments *arguments);

#endif
