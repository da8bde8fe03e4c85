/* Gradients from Lua: backward, grad, the grad mode, hooks, detach. */
#include "lua_nnlua.h"

#include <string.h>

/* What flows into an output, or NULL. */
static nnl_tensor *seed_at(lua_State *L, int index, const char *function, const char *name)
{
    char text[NNL_LUA_VALUE_TEXT];
    nnl_box *box = nnl_lua_to_box(L, index);
    if (box) return nnl_lua_check_tensor(L, index, function);
    if (!lua_isnil(L, index) && !(lua_isboolean(L, index) && !lua_toboolean(L, index)))
        nnl_lua_error(L, "%s: %s must be a tensor, got %s", function, name,
                      nnl_lua_value_text(L, index, text));
    return NULL;
}

/* x:backward(gradient, retain_graph, create_graph) */
static int lua_backward(lua_State *L)
{
    static const char *const names[] = {"gradient", "retain_graph", "create_graph"};
    nnl_lua *state = nnl_lua_upvalue(L);
    nnl_tensor *t = nnl_lua_check_tensor(L, 1, "backward");
    nnl_lua_collect(L, state);
    nnl_lua_read_options(L, 2, "backward", names, NNL_COUNT(names));
    nnl_tensor *seed = seed_at(L, 2, "backward", names[0]);
    bool create = nnl_lua_check_flag(L, 4, false, "backward", names[2]);
    bool retain = nnl_lua_check_flag(L, 3, create, "backward", names[1]);
    NNL_LUA_RUN_ONCE(L, state, nnl_backward(t, seed, retain, create));
    return 0;
}

/* grad(output, inputs, grad_outputs, retain_graph, create_graph, allow_unused) */
static int lua_grad(lua_State *L)
{
    static const char *const names[] = {"grad_outputs", "retain_graph", "create_graph",
                                        "allow_unused"};
    nnl_lua *state = nnl_lua_upvalue(L);
    char text[NNL_LUA_VALUE_TEXT];
    if (!nnl_lua_to_box(L, 1))
        return nnl_lua_error(L, "grad: output must be a tensor, got %s",
                             nnl_lua_value_text(L, 1, text));
    nnl_tensor *t = nnl_lua_check_tensor(L, 1, "grad");
    bool single = nnl_lua_to_box(L, 2) != NULL;
    if (!single && !lua_istable(L, 2))
        return nnl_lua_error(L, "grad: inputs must be a tensor or a list of tensors, got %s",
                             nnl_lua_value_text(L, 2, text));
    nnl_lua_read_options(L, 3, "grad", names, NNL_COUNT(names));
    nnl_tensor *seed = seed_at(L, 3, "grad", names[0]);
    bool create = nnl_lua_check_flag(L, 5, false, "grad", names[2]);
    bool retain = nnl_lua_check_flag(L, 4, create, "grad", names[1]);
    bool unused = nnl_lua_check_flag(L, 6, false, "grad", names[3]);
    int count = single ? 1 : (int)lua_rawlen(L, 2);
    luaL_checkstack(L, count + 8, "too many inputs");
    nnl_tensor **inputs = lua_newuserdatauv(L, sizeof *inputs * 2 * (size_t)NNL_MAX(count, 1), 0),
               **grads = inputs + count;
    for (int i = 0; i < count; i++) {
        if (single) {
            inputs[i] = nnl_lua_check_tensor(L, 2, "grad");
        } else {
            lua_rawgeti(L, 2, i + 1);
            nnl_box *box = nnl_lua_to_box(L, -1);
            if (!box || !box->t)
                return nnl_lua_error(L, "grad: input %d must be a tensor, got %s", i + 1,
                                     luaL_typename(L, -1));
            inputs[i] = box->t;
            lua_pop(L, 1);
        }
    }
    int first = lua_gettop(L) + 1;
    for (int i = 0; i < count; i++) nnl_lua_new_box(L);
    NNL_LUA_RUN_ONCE(L, state, nnl_grad_of(t, seed, inputs, count, retain, create, unused, grads));
    for (int i = 0; i < count; i++) {
        if (grads[i]) {
            nnl_lua_fill_box(state, lua_touserdata(L, first + i), grads[i]);
        } else {
            lua_pushnil(L);
            lua_replace(L, first + i);
        }
    }
    return count;
}

/* ---------------------------------------------------------------- the grad mode */

/* no_grad(f, ...): f's results; the mode comes back on error too, and the message keeps its place.
 */
static int with_mode(lua_State *L, bool on, const char *name)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    char text[NNL_LUA_VALUE_TEXT];
    if (!lua_isfunction(L, 1) && luaL_getmetafield(L, 1, "__call") == LUA_TNIL)
        return nnl_lua_error(L, "%s: argument 1 must be a function, got %s", name,
                             nnl_lua_value_text(L, 1, text));
    if (!lua_isfunction(L, 1)) lua_pop(L, 1); /* __call */
    bool before = nnl_set_grad_mode(state->rt, on);
    int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
    nnl_set_grad_mode(state->rt, before);
    if (status != LUA_OK) return lua_error(L);
    return lua_gettop(L);
}

static int lua_no_grad(lua_State *L) { return with_mode(L, false, "no_grad"); }
static int lua_enable_grad(lua_State *L) { return with_mode(L, true, "enable_grad"); }

static int lua_is_grad_enabled(lua_State *L)
{
    nnl_lua_check_end(L, 0, "is_grad_enabled");
    lua_pushboolean(L, nnl_grad_mode(nnl_lua_upvalue(L)->rt));
    return 1;
}

static int lua_detach(lua_State *L)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    nnl_tensor *t = nnl_lua_check_tensor(L, 1, "detach"), *alias;
    nnl_lua_check_end(L, 1, "detach");
    nnl_box *box = nnl_lua_new_box(L);
    NNL_LUA_TRY(L, state->rt, nnl_tensor_alias(t, &alias));
    nnl_lua_fill_box(state, box, alias);
    return 1;
}

static int lua_set_requires_grad(lua_State *L)
{
    nnl_tensor *t = nnl_lua_check_tensor(L, 1, "requires_grad_");
    nnl_lua_check_end(L, 2, "requires_grad_");
    bool on = nnl_lua_check_flag(L, 2, true, "requires_grad_", "on");
    if (nnl_tensor_set_requires_grad(t, on) != NNL_OK) return nnl_lua_raise(L, t->rt);
    lua_settop(L, 1);
    return 1;
}

/* ---------------------------------------------------------------- hooks */

/* The registry goes with the Lua state; tensors that the host holds may stay. */
void nnl_lua_close_hooks(nnl_lua *state)
{
    for (nnl_lua_kept *kept = state->kept; kept; kept = kept->next) kept->state = NULL;
    state->kept = NULL;
}

nnl_lua_kept *nnl_lua_keep(lua_State *L, nnl_lua *state)
{
    void *block;
    int reference = luaL_ref(L, LUA_REGISTRYINDEX);
    nnl_status status = nnl_alloc(state->rt, sizeof(nnl_lua_kept), &block);
    if (status == NNL_ENOMEM) {
        nnl_lua_free_memory(L, state->rt);
        status = nnl_alloc(state->rt, sizeof(nnl_lua_kept), &block);
    }
    if (status != NNL_OK) {
        luaL_unref(L, LUA_REGISTRYINDEX, reference);
        nnl_lua_raise(L, state->rt);
    }
    nnl_lua_kept *kept = block;
    *kept = (nnl_lua_kept){.state = state,
                           .reference = reference,
                           .rt = state->rt,
                           .next = state->kept,
                           .place = &state->kept};
    if (kept->next) kept->next->place = &kept->next;
    state->kept = kept;
    return kept;
}

void nnl_lua_drop_kept(void *user)
{
    nnl_lua_kept *kept = user;
    if (kept->state) {
        luaL_unref(kept->state->main, LUA_REGISTRYINDEX, kept->reference);
        *kept->place = kept->next;
        if (kept->next) kept->next->place = kept->place;
    }
    nnl_free(kept->rt, kept, sizeof *kept);
}

nnl_status nnl_lua_call_kept(const nnl_lua_kept *kept, const char *name, lua_CFunction function,
                             void *a, void *b)
{
    if (!kept->state)
        return NNL_FAIL(kept->rt, NNL_ECALLBACK, "%s: the Lua state of the function was closed",
                        name);
    lua_State *L = kept->state->running ? kept->state->running : kept->state->main;
    if (!lua_checkstack(L, 8))
        return NNL_FAIL(kept->rt, NNL_ECALLBACK, "%s: Lua's stack is full", name);
    lua_pushcfunction(L, function);
    lua_rawgeti(L, LUA_REGISTRYINDEX, kept->reference);
    lua_pushlightuserdata(L, a);
    lua_pushlightuserdata(L, b);
    if (lua_pcall(L, 3, 0, 0) == LUA_OK) return NNL_OK;
    /* The message has its line already (lua_nnlua.h, NNL_LUA_RUN). */
    const char *message = lua_tostring(L, -1);
    char where[300];
    if (!message) nnl_lua_where(L, where, sizeof where);
    NNL_FAIL(kept->rt, NNL_ECALLBACK, "%s%s%s", message ? "" : where, message ? message : name,
             message ? "" : ": the function failed");
    lua_pop(L, 1);
    return NNL_ECALLBACK;
}

/* Runs under lua_pcall: function, light userdata grad, light userdata place of the replacement. */
static int call_hook(lua_State *L)
{
    nnl_tensor *grad = lua_touserdata(L, 2);
    nnl_tensor **replace = lua_touserdata(L, 3);
    nnl_box *box = nnl_lua_new_box(L);
    nnl_lua_fill_box(nnl_lua_state(L), box, nnl_tensor_ref(grad));
    lua_pushvalue(L, 1);
    lua_insert(L, -2);
    lua_call(L, 1, 1);
    nnl_tensor *result = nnl_lua_to_tensor(L, -1);
    if (!result && !lua_isnil(L, -1))
        return nnl_lua_error(L, "register_hook: the function must return a tensor or nil");
    if (result && (!nnl_same_shape(result, grad) || result->dtype != grad->dtype))
        return nnl_lua_error(L, "register_hook: the function returned a tensor of another shape or "
                                "type than the gradient");
    if (result) *replace = nnl_tensor_ref(result);
    return 0;
}

static nnl_status hook_call(void *user, nnl_tensor *grad, nnl_tensor **replace)
{
    const nnl_lua_kept *kept = user;
    return nnl_lua_call_kept(kept, "register_hook", call_hook, grad, replace);
}

/* x:register_hook(function(grad) return new_grad or nil end) -> a handle: handle:remove() takes it
 * away */
static int remove_hook(lua_State *L)
{
    nnl_box *box = nnl_lua_to_box(L, lua_upvalueindex(2));
    if (box && box->t) nnl_hook_remove(box->t, lua_tointeger(L, lua_upvalueindex(3)));
    return 0;
}

static int lua_register_hook(lua_State *L)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    nnl_tensor *t = nnl_lua_check_tensor(L, 1, "register_hook");
    nnl_lua_check_end(L, 2, "register_hook");
    if (!lua_isfunction(L, 2))
        return nnl_lua_error(L, "register_hook: argument 2 must be a function, got %s",
                             luaL_typename(L, 2));
    lua_pushvalue(L, 2);
    nnl_lua_kept *kept = nnl_lua_keep(L, state);
    int64_t id = 0;
    if (nnl_hook_add(t, hook_call, nnl_lua_drop_kept, kept, &id) != NNL_OK) {
        nnl_lua_drop_kept(kept);
        return nnl_lua_raise(L, state->rt);
    }
    lua_createtable(L, 0, 1);
    lua_pushlightuserdata(L, state);
    lua_pushvalue(L, 1);
    lua_pushinteger(L, id);
    lua_pushcclosure(L, remove_hook, 3);
    lua_setfield(L, -2, "remove");
    return 1;
}

/* ---------------------------------------------------------------- anomaly detection */

static void script_place(void *user, char *buffer, size_t size)
{
    const nnl_lua *state = user;
    nnl_lua_where(state->running ? state->running : state->main, buffer, size);
    size_t length = strlen(buffer);
    if (length > 2) buffer[length - 2] = 0; /* without ": " */
}

static int lua_detect_anomaly(lua_State *L)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    nnl_engine *engine = state->rt->engine;
    bool before = engine->anomaly;
    nnl_lua_check_end(L, 1, "detect_anomaly");
    engine->anomaly = nnl_lua_check_flag(L, 1, true, "detect_anomaly", "on");
    lua_pushboolean(L, before);
    return 1;
}

void nnl_lua_open_autograd(lua_State *L, nnl_lua *state, int methods)
{
    static const luaL_Reg both[] = {
        {"backward", lua_backward},
        {"detach", lua_detach},
        {"requires_grad_", lua_set_requires_grad},
        {"register_hook", lua_register_hook},
        {NULL, NULL},
    };
    static const luaL_Reg functions[] = {
        {"grad", lua_grad},
        {"no_grad", lua_no_grad},
        {"enable_grad", lua_enable_grad},
        {"is_grad_enabled", lua_is_grad_enabled},
        {"detect_anomaly", lua_detect_anomaly},
        {NULL, NULL},
    };
    state->rt->engine->where = script_place;
    state->rt->engine->where_user = state;
    nnl_lua_set_functions(L, state, methods, both);
    nnl_lua_set_functions(L, state, -1, both);
    nnl_lua_set_functions(L, state, -1, functions);
}
