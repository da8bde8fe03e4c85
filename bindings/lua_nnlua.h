/* What the files of the binding share. */
#ifndef LUA_NNLUA_H
#define LUA_NNLUA_H

#include <lauxlib.h>
#include <lua.h>

#include "engine/engine.h"
#include "nnlua_lua.h"

/* One for each lua_State that has the library open; a full userdata in the registry. */
typedef struct nnl_lua {
    nnl_runtime *rt;
    bool owns_runtime;
    size_t debt;  /* bytes of tensors handed to Lua since the last collection */
    size_t limit; /* of the debt: beyond it garbage is collected */
    size_t young; /* what it is where steps help */
    uint32_t calm,
        calm_wanted;  /* steps that must go well before that becomes less, now and the next time */
    size_t live;      /* bytes in use after it, or fewer; debt is at most what has come since */
    size_t live_full; /* bytes in use after the last full collection */
    size_t unkept;    /* bytes that runs of checkpointed functions left since it */
    uint64_t collection_ns; /* what a full collection takes */
    uint64_t collected_at, step_ns;
    int steps, step_patience, busy; /* see state.c */
    lua_State *main;
    lua_State *running; /* the coroutine whose call is under way; NULL when the host itself calls */
    uint64_t mode_epoch;       /* counts changes of modules between training and evaluation */
    struct nnl_lua_kept *kept; /* by tensors, which may outlive the Lua state */
} nnl_lua;

/* A tensor in Lua: the userdata exists before its C memory, so that nothing is lost when either
 * fails. User value 1 is the userdata of .grad, so that it keeps its identity. */
typedef struct nnl_box {
    const void *tag;
    nnl_tensor *t; /* reference; NULL before and after its life */
} nnl_box;

/* A Lua value that the history of a tensor keeps, in the registry: a hook's function, a
 * checkpoint's. */
typedef struct nnl_lua_kept {
    nnl_lua *state; /* NULL when it has been closed before the tensor went */
    int reference;
    nnl_runtime *rt;
    struct nnl_lua_kept *next, **place;
} nnl_lua_kept;
nnl_lua_kept *
nnl_lua_keep(lua_State *L,
             nnl_lua *state); /* the value on top, which goes; raises when memory is short */
void nnl_lua_drop_kept(void *kept);
/* Calls function(value, light userdata a, light userdata b) under lua_pcall; what it raises becomes
 * the message. */
nnl_status nnl_lua_call_kept(const nnl_lua_kept *kept, const char *name, lua_CFunction function,
                             void *a, void *b);

nnl_lua *nnl_lua_state(lua_State *L); /* from the registry; raises when the library is not open */
static inline nnl_runtime *nnl_lua_runtime(lua_State *L) { return nnl_lua_state(L)->rt; }

/* The box at a stack place, or NULL when it is no tensor. */
nnl_box *nnl_lua_to_box(lua_State *L, int index);
/* The tensor, or an error that names the function and the argument ("save: argument 1 ..."). */
nnl_tensor *nnl_lua_check_tensor(lua_State *L, int index, const char *function);
/* Pushes an empty box to be filled. */
nnl_box *nnl_lua_new_box(lua_State *L);
/* The same, quicker, where there is a box at a stack place. */
nnl_box *nnl_lua_new_box_like(lua_State *L, int index);
/* Pushes tensors, taking over a reference of each, also on failure. */
void nnl_lua_push_tensors(lua_State *L, nnl_tensor *const *t, int count);
/* Fills it, taking over the reference, and counts the memory. */
void nnl_lua_fill_box(nnl_lua *state, nnl_box *box, nnl_tensor *t);
/* At the entry of functions that make tensors: collects garbage when enough of it may have
 * gathered. */
void nnl_lua_collect_some(lua_State *L, nnl_lua *state);
static inline void nnl_lua_collect(lua_State *L, nnl_lua *state)
{
    if (NNL_UNLIKELY(state->debt > state->limit)) nnl_lua_collect_some(L, state);
}

/* A full collection; checkpointed functions ask for it when they left so much. */
#define NNL_LUA_UNKEPT ((size_t)32 << 20)
void nnl_lua_collect_all(lua_State *L, nnl_lua *state);

/* The script's line, "script.lua:12: ". */
void nnl_lua_where(lua_State *L, char *buffer, size_t size);
/* Raises the runtime's message, with the caller's line and the module's path before it. */
int nnl_lua_raise(lua_State *L, nnl_runtime *rt);
/* The same, but for a script's own error (NNL_ECALLBACK), which has its line already. */
int nnl_lua_raise_status(lua_State *L, nnl_runtime *rt, nnl_status status);
/* Raises a message of the binding's own: "name: ...". */
int nnl_lua_error(lua_State *L, const char *format, ...);
/* Raises on a failure; asks once more after a collection when memory was short: NNL_LUA_TRY(L, rt,
 * call). */
#define NNL_LUA_TRY(L, rt, call)                             \
    do {                                                     \
        nnl_status lua_status_ = (call);                     \
        if (lua_status_ == NNL_ENOMEM) {                     \
            nnl_lua_free_memory((L), (rt));                  \
            lua_status_ = (call);                            \
        }                                                    \
        if (lua_status_ != NNL_OK) nnl_lua_raise((L), (rt)); \
    } while (0)
void nnl_lua_free_memory(lua_State *L, nnl_runtime *rt);
/* The same for what the engine tries again by itself, asking for a collection between its steps. */
#define NNL_LUA_RUN_ONCE(L, state, call)                                                \
    do {                                                                                \
        lua_State *lua_before_ = (state)->running;                                      \
        (state)->running = (L);                                                         \
        nnl_status lua_status_ = (call);                                                \
        (state)->running = lua_before_;                                                 \
        if (lua_status_ != NNL_OK) nnl_lua_raise_status((L), (state)->rt, lua_status_); \
    } while (0)
/* The same for calls that may call back into Lua: hooks and the search for the script's line use L.
 */
#define NNL_LUA_RUN(L, state, call)                                                     \
    do {                                                                                \
        lua_State *lua_before_ = (state)->running;                                      \
        (state)->running = (L);                                                         \
        nnl_status lua_status_ = (call);                                                \
        if (lua_status_ == NNL_ENOMEM) {                                                \
            nnl_lua_free_memory((L), (state)->rt);                                      \
            lua_status_ = (call);                                                       \
        }                                                                               \
        (state)->running = lua_before_;                                                 \
        if (lua_status_ != NNL_OK) nnl_lua_raise_status((L), (state)->rt, lua_status_); \
    } while (0)

/* An integer at a stack place (3.0 is 3); raises "function: name must be an integer ...". */
int64_t nnl_lua_check_int(lua_State *L, int index, const char *function, const char *name);

/* arguments.c: arguments of functions that are no ops. */
/* Raises when there are more than `most`, nil apart; then there are just as many. */
void nnl_lua_check_end(lua_State *L, int most, const char *function);
/* Arguments from `first` on have these names: brings each to its place on the stack, nil where it
 * is absent, from wherever it stands: by position, or by name in a trailing table. */
void nnl_lua_read_options(lua_State *L, int first, const char *function, const char *const *names,
                          int count);
/* Raises for a list of `count` elements that has names besides, or elements behind a gap. */
void nnl_lua_check_list(lua_State *L, int index, lua_Integer count, const char *function);
/* A boolean at a stack place, `otherwise` for nil. */
bool nnl_lua_check_flag(lua_State *L, int index, bool otherwise, const char *function,
                        const char *name);
/* Raises "function: there is no option 'key' ..." with the nearest of the names, or all. */
int nnl_lua_unknown_option(lua_State *L, const char *function, const char *key,
                           const char *const *names, int count);
/* What a value is called in messages: "a table", "nil", "a tensor (2x3)", "the string \"abc\"",
 * "3.5". */
enum { NNL_LUA_VALUE_TEXT = 80 };
const char *nnl_lua_value_text(lua_State *L, int index, char buffer[NNL_LUA_VALUE_TEXT]);

/* Applies an op from C within the binding: tensors and attributes as in nnl_request, positions
 * counting from 1; pushes the first result. */
int nnl_lua_apply(lua_State *L, const nnl_op *op, nnl_tensor *const *in, int n_in,
                  const nnl_value *attr, int n_attr, bool inplace);

/* One entry of each file: sets fields of the module table at the top of the stack. */
void nnl_lua_open_ops(lua_State *L, nnl_lua *state,
                      int methods); /* op_call.c: a function for each op */
void nnl_lua_open_tensor(lua_State *L, nnl_lua *state,
                         int methods); /* tensor.c: metatable, properties */
void nnl_lua_open_table(lua_State *L, nnl_lua *state,
                        int methods); /* table.c: tensor(), totable, item */
void nnl_lua_open_autograd(lua_State *L, nnl_lua *state, int methods); /* autograd.c */
void nnl_lua_open_checkpoint(lua_State *L, nnl_lua *state);            /* checkpoint.c */
void nnl_lua_open_prefetch(lua_State *L, nnl_lua *state); /* prefetch.c: the loader's threads */
void nnl_lua_open_registry(lua_State *L, nnl_lua *state,
                           int methods); /* registry.c: ops(), memory, profile ... */
void nnl_lua_open_files(lua_State *L, nnl_lua *state, int methods); /* files.c */
void nnl_lua_open_capture(lua_State *L, nnl_lua *state);            /* capture.c */
void nnl_lua_open_replay(lua_State *L,
                         nnl_lua *state); /* replay.c: the functions that nn.compile makes */

/* index.c: x[key] for keys that are no strings; x[key] = value. */
int nnl_lua_index(lua_State *L, nnl_lua *state, nnl_tensor *t);
int nnl_lua_assign(lua_State *L, nnl_lua *state, nnl_tensor *t);

/* state.c: the script's place, "train.lua:12: ", or nothing */
void nnl_lua_where(lua_State *L, char *buffer, size_t size);

/* table.c: the (nested) Lua list at a stack place as a tensor; dtype < 0: found from the elements,
 * as tensor() does, or with lists of integers as i64. */
enum { NNL_LUA_FIND = -1, NNL_LUA_INTEGERS_I64 = -2 };
nnl_status nnl_lua_tensor_of_table(lua_State *L, nnl_runtime *rt, int index, int dtype,
                                   const char *function, nnl_tensor **out);
void nnl_lua_push_shape(lua_State *L, int ndim, const int64_t *shape);

/* Sets functions with the state as upvalue 1 into the table at `index`. */
void nnl_lua_set_functions(lua_State *L, nnl_lua *state, int index, const luaL_Reg *functions);
static inline nnl_lua *nnl_lua_upvalue(lua_State *L)
{
    nnl_lua *state = lua_touserdata(L, lua_upvalueindex(1));
    if (NNL_UNLIKELY(!state->rt)) nnl_lua_error(L, "nnlua: the Lua state is being closed");
    return state;
}

#endif
