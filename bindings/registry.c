/* The runtime and its registry as Lua sees them: records of ops, memory, profile, threads, seed,
 * clock. */
#include "lua_nnlua.h"

#include <string.h>
#include <time.h>

static void set_string(lua_State *L, const char *key, const char *value)
{
    if (!value) return;
    lua_pushstring(L, value);
    lua_setfield(L, -2, key);
}

static void set_flag(lua_State *L, const char *key, bool value)
{
    lua_pushboolean(L, value);
    lua_setfield(L, -2, key);
}

static void push_default(lua_State *L, const nnl_param *p)
{
    const nnl_value *v = &p->value;
    /* Positions are shown as users count them. */
    bool position = p->type == NNL_T_DIM || p->type == NNL_T_NEWDIM || p->type == NNL_T_POS;
    if (v->kind == NNL_KIND_FLOAT)
        lua_pushnumber(L, v->as.f);
    else if (v->kind == NNL_KIND_BOOL)
        lua_pushboolean(L, v->as.i != 0);
    else if (v->kind == NNL_KIND_INT && p->type == NNL_T_DTYPE)
        lua_pushstring(L, nnl_dtype_name((nnl_dtype)v->as.i));
    else if (v->kind == NNL_KIND_INT)
        lua_pushinteger(L, position && v->as.i >= 0 ? v->as.i + 1 : v->as.i);
    else
        lua_pushnil(L);
}

static void push_words(lua_State *L, const char *words)
{
    lua_newtable(L);
    for (int i = 1;; i++) {
        size_t n = strcspn(words, "|}");
        lua_pushlstring(L, words, n);
        lua_rawseti(L, -2, i);
        if (words[n] != '|') return;
        words += n + 1;
    }
}

static void push_param(lua_State *L, const nnl_param *p)
{
    lua_newtable(L);
    set_string(L, "name", p->name);
    set_string(L, "type", nnl_param_type_name(p->type));
    set_flag(L, "tensor", nnl_is_tensor_type(p->type));
    set_flag(L, "optional", p->optional);
    set_flag(L, "list", p->list);
    set_flag(L, "variadic", p->variadic);
    set_flag(L, "scalar", p->scalar);
    if (p->repeat) {
        lua_pushinteger(L, p->repeat);
        lua_setfield(L, -2, "count");
    }
    if (p->type == NNL_T_WORD) {
        push_words(L, p->words);
        if (p->value.kind == NNL_KIND_INT) {
            lua_rawgeti(L, -1, p->value.as.i + 1);
            lua_setfield(L, -3, "default");
        }
        lua_setfield(L, -2, "words");
    } else {
        if (p->words) {
            push_words(L, p->words);
            lua_setfield(L, -2, "alternatives");
        }
        push_default(L, p);
        lua_setfield(L, -2, "default");
    }
}

/* The file of runtime/ops in which an op stands, without .c: what the help puts together. */
static const char *const families[NNL_OP_TOTAL] = {
#define X(name, file) [NNL_ID_##name] = #file,
#include "op_files.h"
#undef X
};

static void push_record(lua_State *L, nnl_runtime *rt, const nnl_op *op)
{
    static const struct {
        uint32_t bit;
        const char *name;
    } traits[] = {
        {NNL_ELEMENTWISE, "elementwise"}, {NNL_PROMOTE, "promote"},
        {NNL_INPLACE_OK, "inplace"},      {NNL_VIEW, "view"},
        {NNL_RANDOM, "random"},           {NNL_HIDDEN, "hidden"},
        {NNL_IN_PLACE, "in_place"},       {NNL_NO_METHOD, "no_method"},
    };
    const nnl_sig *sig;
    if (nnl_sig_of(rt, op, &sig) != NNL_OK) nnl_lua_raise(L, rt);
    lua_newtable(L);
    set_string(L, "name", op->name);
    set_string(L, "signature", op->sig);
    set_string(L, "doc", op->doc);
    set_string(L, "family", families[op->id]);
    set_string(L, "example", op->example);
    set_string(L, "no_grad", op->no_grad);
    set_string(L, "sample", op->sample);
    set_flag(L, "has_grad", op->grad != NULL);
    set_flag(L, "has_define", op->define != NULL);
    lua_pushnumber(L, op->error > 0 ? op->error : 8);
    lua_setfield(L, -2, "error");
    lua_newtable(L);
    for (int i = 0; i < NNL_COUNT(traits); i++)
        set_flag(L, traits[i].name, op->traits & traits[i].bit);
    lua_setfield(L, -2, "traits");
    lua_newtable(L);
    for (int p = 0; p < sig->params; p++) {
        push_param(L, &sig->param[p]);
        lua_rawseti(L, -2, p + 1);
    }
    lua_setfield(L, -2, "params");
    lua_newtable(L);
    for (int i = 0; i < sig->results; i++) {
        lua_newtable(L);
        set_string(L, "name", sig->result[i].name);
        set_string(L, "type", sig->result[i].type);
        set_flag(L, "list", sig->result[i].list);
        set_flag(L, "hidden", sig->result[i].hidden);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "results");
}

static int lua_ops(lua_State *L)
{
    nnl_runtime *rt = nnl_lua_upvalue(L)->rt;
    lua_createtable(L, nnl_op_count(), 0);
    for (int i = 0; i < nnl_op_count(); i++) {
        push_record(L, rt, nnl_op_at(i));
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* op_names() -> the names that scripts may call */
static int lua_op_names(lua_State *L)
{
    lua_newtable(L);
    for (int i = 0, n = 0; i < nnl_op_count(); i++) {
        if (nnl_op_at(i)->traits & NNL_HIDDEN) continue;
        lua_pushstring(L, nnl_op_at(i)->name);
        lua_rawseti(L, -2, ++n);
    }
    return 1;
}

void nnl_lua_push_op(lua_State *L, nnl_lua *state, const nnl_op *op, bool inplace);

/* op("name"): the function of any op, hidden ones too */
static int lua_op(lua_State *L)
{
    const nnl_op *op = nnl_op_find(luaL_checkstring(L, 1));
    if (!op)
        lua_pushnil(L);
    else
        nnl_lua_push_op(L, nnl_lua_upvalue(L), op, lua_toboolean(L, 2));
    return 1;
}

/* run_define(name, inputs...): the composition instead of the op, for specs */
void nnl_lua_push_define(lua_State *L, nnl_lua *state, const nnl_op *op);
static int lua_run_define(lua_State *L)
{
    const nnl_op *op = nnl_op_find(luaL_checkstring(L, 1));
    if (!op || !op->define)
        return nnl_lua_error(L, "run_define: %s has no composition", lua_tostring(L, 1));
    nnl_lua_push_define(L, nnl_lua_upvalue(L), op);
    lua_replace(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

/* ---------------------------------------------------------------- the runtime */

static void set_integer(lua_State *L, const char *key, lua_Integer value)
{
    lua_pushinteger(L, value);
    lua_setfield(L, -2, key);
}

/* memory() -> {live, held, peak, peak_live, limit (bytes), calls (of the allocator), tensors};
 * memory("reset") resets the peaks, memory("trim") gives cached blocks back */
static int lua_memory(lua_State *L)
{
    nnl_runtime *rt = nnl_lua_upvalue(L)->rt;
    nnl_lua_check_end(L, 1, "memory");
    const char *what = luaL_optstring(L, 1, "");
    if (strcmp(what, "reset") == 0)
        nnl_memory_reset_peak(rt);
    else if (strcmp(what, "trim") == 0)
        nnl_memory_trim(rt);
    else if (what[0])
        return nnl_lua_error(L, "memory: \"%s\" is unknown; \"reset\" and \"trim\" are possible",
                             what);
    nnl_memory m = {.size = sizeof m};
    nnl_memory_stats(rt, &m);
    lua_newtable(L);
    set_integer(L, "live", (lua_Integer)m.live);
    set_integer(L, "held", (lua_Integer)m.held);
    set_integer(L, "peak", (lua_Integer)m.peak);
    set_integer(L, "peak_live", (lua_Integer)m.peak_live);
    set_integer(L, "limit", (lua_Integer)m.limit);
    set_integer(L, "calls", (lua_Integer)m.calls);
    set_integer(L, "tensors", m.tensors);
    return 1;
}

static int lua_set_memory_limit(lua_State *L)
{
    nnl_memory_set_limit(nnl_lua_upvalue(L)->rt, (size_t)luaL_checkinteger(L, 1));
    return 0;
}

/* fail_allocation(countdown [, sticky]): fault injection for tests */
static int lua_fail_allocation(lua_State *L)
{
    nnl_memory_fail_after(nnl_lua_upvalue(L)->rt, luaL_checkinteger(L, 1), lua_toboolean(L, 2));
    return 0;
}

static int by_time(const nnl_profile_row *a, const nnl_profile_row *b)
{
    return a->nanoseconds < b->nanoseconds;
}

/* profile(f, ...) -> a list of {op, calls, seconds, bytes}, the most expensive first */
static int lua_profile(lua_State *L)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    nnl_runtime *rt = state->rt;
    luaL_checktype(L, 1, LUA_TFUNCTION);
    if (nnl_profile_start(rt) != NNL_OK) return nnl_lua_raise(L, rt);
    int status = lua_pcall(L, lua_gettop(L) - 1, 0, 0);
    nnl_profile_stop(rt);
    if (status != LUA_OK) return lua_error(L);
    const nnl_profile_row *rows = rt->engine->rows;
    lua_newtable(L);
    int order[NNL_OP_TOTAL], count = 0;
    for (int i = 0; i < NNL_OP_TOTAL; i++) {
        if (!rows[i].calls) continue;
        int at = count++;
        for (; at > 0 && by_time(&rows[order[at - 1]], &rows[i]); at--) order[at] = order[at - 1];
        order[at] = i;
    }
    for (int i = 0; i < count; i++) {
        const nnl_profile_row *row = &rows[order[i]];
        lua_newtable(L);
        set_string(L, "op", nnl_op_at(order[i])->name);
        set_integer(L, "calls", (lua_Integer)row->calls);
        set_integer(L, "bytes", (lua_Integer)row->bytes);
        lua_pushnumber(L, (double)row->nanoseconds * 1e-9);
        lua_setfield(L, -2, "seconds");
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static int lua_manual_seed(lua_State *L)
{
    nnl_lua_check_end(L, 1, "manual_seed");
    if (nnl_lua_upvalue(L)->rt->capturing)
        return nnl_lua_error(L, "manual_seed: a captured function draws the numbers that come "
                                "next; set the seed outside");
    nnl_manual_seed(nnl_lua_upvalue(L)->rt,
                    (uint64_t)nnl_lua_check_int(L, 1, "manual_seed", "seed"));
    return 0;
}

/* rng_state() -> seed, call: the place in the stream of random numbers; set_rng_state(seed, call)
 * goes there */
static int lua_rng_state(lua_State *L)
{
    nnl_runtime *rt = nnl_lua_upvalue(L)->rt;
    lua_pushinteger(L, (lua_Integer)rt->seed);
    lua_pushinteger(L, (lua_Integer)rt->random_call);
    return 2;
}

static int lua_set_rng_state(lua_State *L)
{
    nnl_runtime *rt = nnl_lua_upvalue(L)->rt;
    uint64_t seed = (uint64_t)nnl_lua_check_int(L, 1, "set_rng_state", "seed");
    rt->random_call = (uint64_t)nnl_lua_check_int(L, 2, "set_rng_state", "call");
    rt->seed = seed;
    return 0;
}

/* set_threads(n): from now on; results do not depend on it */
static int lua_set_threads(lua_State *L)
{
    nnl_runtime *rt = nnl_lua_upvalue(L)->rt;
    nnl_lua_check_end(L, 1, "set_threads");
    int64_t count = nnl_lua_check_int(L, 1, "set_threads", "n");
    if (count < 1 || count > 1024)
        return nnl_lua_error(L, "set_threads: n is %lld, 1 to 1024 are possible", (long long)count);
    if (nnl_runtime_set_threads(rt, (int)count) != NNL_OK) return nnl_lua_raise(L, rt);
    return 0;
}

static int lua_threads(lua_State *L)
{
    lua_pushinteger(L, nnl_lua_upvalue(L)->rt->threads);
    return 1;
}

static int lua_clock(lua_State *L)
{
    struct timespec t;
    nnl_lua_check_end(L, 0, "clock");
    clock_gettime(CLOCK_MONOTONIC, &t);
    lua_pushnumber(L, (double)t.tv_sec + (double)t.tv_nsec * 1e-9);
    return 1;
}

static int lua_info(lua_State *L)
{
    nnl_runtime *rt = nnl_lua_upvalue(L)->rt;
    lua_newtable(L);
    set_string(L, "version", NNL_VERSION);
    set_string(L, "isa", nnl_isa_name(rt->isa));
    set_integer(L, "threads", rt->threads);
    set_integer(L, "processors", nnl_processors());
    set_integer(L, "ops", nnl_op_count());
#ifdef NNL_HAVE_ZLIB
    set_flag(L, "zlib", true);
#else
    set_flag(L, "zlib", false);
#endif
    lua_newtable(L);
    int n = 0;
    for (nnl_isa isa = NNL_ISA_BASE; isa <= NNL_ISA_NEON; isa++) {
        if (!nnl_isa_supported(isa)) continue;
        lua_pushstring(L, nnl_isa_name(isa));
        lua_rawseti(L, -2, ++n);
    }
    lua_setfield(L, -2, "isas");
    return 1;
}

/* set_module_hooks(call, path): Module's call function, whose frames are looked for when an error
 * is raised, and the function that turns the modules met (innermost first) into text */
static int lua_set_module_hooks(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    lua_setfield(L, LUA_REGISTRYINDEX, "nnlua.module_path");
    lua_setfield(L, LUA_REGISTRYINDEX, "nnlua.module_call");
    return 0;
}

static int lua_nearest(lua_State *L)
{
    const char *names[1024];
    int count = 0;
    const char *word = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    for (lua_Integer i = 1; count < NNL_COUNT(names); i++) {
        if (lua_rawgeti(L, 2, i) != LUA_TSTRING) break;
        names[count++] = lua_tostring(L, -1); /* the table holds the string */
        lua_pop(L, 1);
    }
    lua_pushstring(L, nnl_nearest(word, names, count));
    return 1;
}

void nnl_lua_open_registry(lua_State *L, nnl_lua *state, int methods)
{
    static const luaL_Reg functions[] = {
        {"ops", lua_ops},
        {"op_names", lua_op_names},
        {"op", lua_op},
        {"run_define", lua_run_define},
        {"memory", lua_memory},
        {"set_memory_limit", lua_set_memory_limit},
        {"fail_allocation", lua_fail_allocation},
        {"profile", lua_profile},
        {"manual_seed", lua_manual_seed},
        {"rng_state", lua_rng_state},
        {"set_rng_state", lua_set_rng_state},
        {"clock", lua_clock},
        {"set_threads", lua_set_threads},
        {"threads", lua_threads},
        {"info", lua_info},
        {"set_module_hooks", lua_set_module_hooks},
        {"nearest", lua_nearest},
        {NULL, NULL},
    };
    (void)methods;
    nnl_lua_set_functions(L, state, -1, functions);
}
