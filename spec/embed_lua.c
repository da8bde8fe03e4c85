/* A host with a Lua state of its own, without os, io and debug: the library works there, errors are
 * caught by pcall, memory is limited and given back, and tensors go to and fro. */
#include "check.h"

#include "../bindings/nnlua_lua.h"

#include <lauxlib.h>
#include <lualib.h>

/* Lua's own allocator: counted, and refusing from a given request on. */
typedef struct lua_memory {
    size_t live;
    int64_t refuse_at;
} lua_memory;

static void *lua_allocate(void *user, void *pointer, size_t old_size, size_t new_size)
{
    lua_memory *m = user;
    if (!pointer) old_size = 0; /* Lua says the kind of object there */
    if (new_size == 0) {
        free(pointer);
        m->live -= old_size;
        return NULL;
    }
    if (new_size > old_size && m->refuse_at > 0 && --m->refuse_at == 0) {
        m->refuse_at = 1;
        return NULL;
    }
    void *moved = realloc(pointer, new_size);
    if (moved) m->live += new_size - old_size;
    return moved;
}

static lua_State *open_sandbox(lua_memory *m, bool with_package)
{
    static const luaL_Reg libraries[] = {
        {LUA_GNAME, luaopen_base},          {LUA_STRLIBNAME, luaopen_string},
        {LUA_TABLIBNAME, luaopen_table},    {LUA_MATHLIBNAME, luaopen_math},
        {LUA_COLIBNAME, luaopen_coroutine}, {LUA_UTF8LIBNAME, luaopen_utf8}};
    *m = (lua_memory){0, 0};
    lua_State *L = lua_newstate(lua_allocate, m);
    if (!L) exit(2);
    for (int i = 0; i < COUNT(libraries); i++) {
        luaL_requiref(L, libraries[i].name, libraries[i].func, 1);
        lua_pop(L, 1);
    }
    if (with_package) {
        luaL_requiref(L, LUA_LOADLIBNAME, luaopen_package, 1);
        /* nothing is found on the disk: what the library needs is built in */
        lua_pushliteral(L, "");
        lua_setfield(L, -2, "path");
        lua_pushliteral(L, "");
        lua_setfield(L, -2, "cpath");
        lua_pop(L, 1);
    }
    return L;
}

static nnl_runtime *open_runtime(ledger *l, size_t limit)
{
    nnl_runtime_config config = nnl_runtime_defaults();
    nnl_runtime *rt;
    ledger_open(l);
    config.allocate = ledger_allocate;
    config.allocate_user = l;
    config.memory_limit = limit;
    config.threads = 2;
    if (nnl_runtime_new(&config, &rt) != NNL_OK) exit(2);
    return rt;
}

/* The Lua state goes first. */
static void close_both(lua_State *L, const lua_memory *m, nnl_runtime *rt, ledger *l)
{
    lua_close(L);
    CHECK(m->live == 0, "Lua has not freed %zu bytes", m->live);
    int64_t left = nnl_runtime_free(rt);
    CHECK(left == 0, "%lld tensors left", (long long)left);
    CHECK(l->live == 0 && l->wrong == 0, "%zu bytes were not given back, %lld calls were wrong",
          l->live, (long long)l->wrong);
    ledger_close(l);
}

/* Runs a chunk; its error is a failure of the check. */
static bool runs_at(int line, lua_State *L, const char *text)
{
    int top = lua_gettop(L);
    bool good = luaL_dostring(L, text) == LUA_OK;
    check_at(good, line, "%s", good ? "" : lua_tostring(L, -1));
    lua_settop(L, top);
    return good;
}
#define RUNS(L, text) runs_at(__LINE__, (L), (text))

static const char train[] =
    "local nn = require 'nnlua'\n"
    "nn.manual_seed(1)\n"
    "local net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))\n"
    "local opt, loss = nn.optim.SGD(net:parameters(), {lr = 0.5}), nn.CrossEntropyLoss()\n"
    "local x, y = nn.randn(30, 4), nn.randint(1, 3, {30})\n"
    "local first, last\n"
    "for i = 1, 100 do\n"
    "  opt:zero_grad()\n"
    "  local l = loss(net(x), y)\n"
    "  l:backward()\n"
    "  opt:step()\n"
    "  first, last = first or l:item(), l:item()\n"
    "end\n"
    "assert(last < first * 0.8, first .. ' to ' .. last)\n"
    "return last";

static void sandbox(void)
{
    ledger l;
    lua_memory m;
    nnl_runtime *rt = open_runtime(&l, 64 << 20);
    lua_State *L = open_sandbox(&m, true);
    int top = lua_gettop(L);
    CHECK(nnl_lua_open(L, rt) == LUA_OK, "%s", nnl_error_message(rt));
    CHECK(lua_gettop(L) == top, "the stack is not as it was");
    CHECK(nnl_lua_open(L, rt) != LUA_OK && has(nnl_error_message(rt), "already"),
          "opened twice: %s", nnl_error_message(rt));
    CHECK(lua_gettop(L) == top, "the stack is not as it was");
    RUNS(L, "assert(not io and not os and not debug)");
    RUNS(L, train);

    /* an error is caught, has its place, and everything goes on */
    RUNS(L, "local nn = require 'nnlua'\n"
            "local ok, e = pcall(function() local y = nn.ones(2, 3):matmul(nn.ones(2, 3)) return y "
            "end)\n"
            "assert(not ok and e:find(']:2: matmul: ', 1, true), e)\n"
            "assert(nn.ones(2, 3):sum():item() == 6)");
    /* the limit is an error like others */
    RUNS(L,
         "local nn = require 'nnlua'\n"
         "for _ = 1, 3 do\n"
         "  local ok, e = pcall(nn.zeros, 5000, 5000)\n"
         "  assert(not ok and e:find('zeros: ', 1, true) == nil and e:find('memory', 1, true), e)\n"
         "end\n"
         "local keep = {}\n"
         "local ok, e = pcall(function() for i = 1, 100 do keep[i] = nn.zeros(250000) end end)\n"
         "assert(not ok and #keep >= 40 and #keep < 64 and e:find('memory', 1, true), #keep)\n"
         "keep = nil\n"
         "for i = 1, 500 do local x = nn.zeros(250000) assert(x[1]:item() == 0) end");
    CHECK(l.peak <= 64 << 20, "%zu bytes were held", l.peak);
    RUNS(L, train);
    close_both(L, &m, rt, &l);
}

static int give_tensor(lua_State *L)
{
    nnl_runtime *rt = lua_touserdata(L, lua_upvalueindex(1));
    nnl_tensor *t;
    if (nnl_tensor_from(rt, NNL_F32, 1, (int64_t[]){3}, (float[]){1, 2, 3}, &t) != NNL_OK)
        return luaL_error(L, "%s", nnl_error_message(rt));
    nnl_lua_push_tensor(L, t);
    return 1;
}

static void tensors(void)
{
    ledger l;
    lua_memory m;
    nnl_runtime *rt = open_runtime(&l, 0);
    lua_State *L = open_sandbox(&m, true);
    CHECK(nnl_lua_open(L, rt) == LUA_OK, "%s", nnl_error_message(rt));
    lua_pushlightuserdata(L, rt);
    lua_pushcclosure(L, give_tensor, 1);
    lua_setglobal(L, "give");
    RUNS(L, "local nn = require 'nnlua'\n"
            "local x = give()\n"
            "assert(x:sum():item() == 6 and nn.is_tensor(x))\n"
            "x:mul_(2)\n"
            "result = x");
    lua_getglobal(L, "result");
    nnl_tensor *t = nnl_lua_to_tensor(L, -1);
    CHECK(t && nnl_tensor_numel(t) == 3 && ((const float *)nnl_tensor_const_data(t))[2] == 6,
          "a tensor of Lua's in C");
    CHECK(!nnl_lua_to_tensor(L, 99) && !nnl_lua_to_tensor(L, LUA_REGISTRYINDEX),
          "what is no tensor");
    lua_pushlightuserdata(L, rt);
    CHECK(!nnl_lua_to_tensor(L, -1), "what is no tensor");
    lua_pop(L, 2);

    /* the host keeps one that has a hook of Lua's, beyond the end of the Lua state */
    RUNS(L, "local nn = require 'nnlua'\n"
            "leaf = nn.ones(3, {requires_grad = true})\n"
            "root = (leaf * 2):sum()\n"
            "calls = 0\n"
            "leaf:register_hook(function(g) calls = calls + 1 return g * 3 end)\n"
            "root:register_hook(function(g) calls = calls + 1 end)");
    lua_getglobal(L, "root");
    nnl_tensor *root = nnl_tensor_ref(nnl_lua_to_tensor(L, -1));
    lua_getglobal(L, "leaf");
    nnl_tensor *leaf = nnl_tensor_ref(nnl_lua_to_tensor(L, -1));
    lua_pop(L, 2);
    CHECK(nnl_backward(root, NULL, true, false) == NNL_OK, "%s", nnl_error_message(rt));
    CHECK(((const float *)nnl_tensor_const_data(nnl_tensor_grad(leaf)))[0] == 6,
          "the hook's gradient");
    RUNS(L, "assert(calls == 2)");
    nnl_memory before = memory_of(rt);
    lua_close(L);
    CHECK(m.live == 0 && memory_of(rt).tensors < before.tensors, "closing frees Lua's tensors");
    CHECK(nnl_backward(root, NULL, false, false) == NNL_ECALLBACK &&
              has(nnl_error_message(rt), "closed"),
          "a hook without its Lua state: %s", nnl_error_message(rt));
    nnl_tensor_unref(root);
    nnl_tensor_unref(leaf);
    CHECK(nnl_runtime_free(rt) == 0 && l.live == 0, "%zu bytes were not given back", l.live);
    ledger_close(&l);
}

/* Closing: objects that are older than the library come last, and may still call it. */
static void closing(void)
{
    ledger l;
    lua_memory m;
    nnl_runtime *rt = open_runtime(&l, 0);
    lua_State *L = open_sandbox(&m, true);
    RUNS(L, "older = setmetatable({}, {__gc = function(o)\n"
            "  assert(not pcall(o.nn.zeros, 3) and not pcall(o.nn.memory) and not pcall(o.x.sum, "
            "o.x))\n"
            "  assert(not pcall(function() return o.x + 1 end) and not pcall(function() return "
            "o.x.shape end))\n"
            "  done(o)\n"
            "end})");
    CHECK(nnl_lua_open(L, rt) == LUA_OK, "%s", nnl_error_message(rt));
    RUNS(L, "older.nn = require 'nnlua'\n"
            "older.x = older.nn.ones(3)\n"
            "function done() end\n"
            "coroutine.wrap(function() thread_tensor = older.nn.ones(3) coroutine.yield() end)()");
    close_both(L, &m, rt, &l);

    /* opened from a coroutine that is gone when a hook is called */
    rt = open_runtime(&l, 0);
    L = open_sandbox(&m, true);
    lua_State *thread = lua_newthread(L);
    CHECK(nnl_lua_open(thread, rt) == LUA_OK, "%s", nnl_error_message(rt));
    lua_settop(L, 0);
    lua_gc(L, LUA_GCCOLLECT);
    RUNS(L, "local nn = require 'nnlua'\n"
            "local x = nn.ones(2, {requires_grad = true})\n"
            "x:register_hook(function(g) return g * 2 end)\n"
            "collectgarbage()\n"
            "x:sum():backward()\n"
            "assert(x.grad[1]:item() == 2)");
    close_both(L, &m, rt, &l);
}

static void without_package(void)
{
    ledger l;
    lua_memory m;
    nnl_runtime *rt = open_runtime(&l, 0);
    lua_State *L = open_sandbox(&m, false);
    CHECK(nnl_lua_open(L, rt) != LUA_OK && has(nnl_error_message(rt), "package"), "%s",
          nnl_error_message(rt));
    luaL_requiref(L, LUA_LOADLIBNAME, luaopen_package, 1);
    lua_pop(L, 1);
    CHECK(nnl_lua_open(L, rt) == LUA_OK, "what failed can be tried again: %s",
          nnl_error_message(rt));
    RUNS(L, "assert(require('nnlua').ones(2):sum():item() == 2)");
    close_both(L, &m, rt, &l);
}

/* Each of Lua's own allocations fails in turn, from the opening of the library on. */
static void lua_out_of_memory(const char *text)
{
    bool done = false;
    int64_t n = 0, step = 1;
    while (!done && n < 200000) {
        ledger l;
        lua_memory m;
        nnl_runtime *rt = open_runtime(&l, 0);
        lua_State *L = open_sandbox(&m, true);
        n += step;
        if (n > 400) step = 1 + n / 40; /* a sample of the later ones */
        m.refuse_at = n;
        done = nnl_lua_open(L, rt) == LUA_OK && luaL_dostring(L, text) == LUA_OK;
        bool refused = m.refuse_at == 1;
        m.refuse_at = 0;
        if (!done) CHECK(refused, "it failed without a reason: %s", lua_tostring(L, -1));
        lua_settop(L, 0);
        close_both(L, &m, rt, &l);
    }
    CHECK(done, "no success");
}

int main(void)
{
    sandbox();
    tensors();
    closing();
    without_package();
    lua_out_of_memory("local nn = require 'nnlua.native'\n"
                      "local x = nn.ones(4, 2, {requires_grad = true})\n"
                      "x:register_hook(function(g) return g * 2 end)\n"
                      "local a, b = x:split(2, 1)\n"
                      "local v, p = (a * b):max(2)\n"
                      "local t = nn.tensor({{1, 2}, {3, 4}})\n"
                      "t[{1, {}}] = 7\n"
                      "v:sum():backward()\n"
                      "local g = nn.grad((x * x):sum(), {x})\n"
                      "assert(tostring(x.grad) .. g .. t and x.shape)\n");
    return report();
}
