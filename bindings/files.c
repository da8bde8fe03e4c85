/* Files in Lua: load, save, idx, npy, npy_save.  A Lua error may leave any call here, so what C
 * holds stands in userdata before it is made, and names and values stay on the stack while C points
 * at them. */
#include "base/file.h"
#include "data/idx.h"
#include "data/npy.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "lua_nnlua.h"

#include <string.h>

/* Files hold strings only.  The keys whose values were numbers or booleans are listed under this
 * key, as a JSON list of strings, so that they come back as what they were. */
#define TYPED_KEY "nnlua.typed"
#define MAX_DEPTH 32

/* Puts the function's name before a failure's message. */
static nnl_status named(nnl_runtime *rt, const char *function, nnl_status status)
{
    if (status != NNL_OK) nnl_error_prefix(rt, "%s", function);
    return status;
}

static const char *check_path(lua_State *L, int index, const char *function)
{
    size_t length;
    if (lua_type(L, index) != LUA_TSTRING) {
        nnl_lua_error(L, "%s: path must be a string, got %s", function, luaL_typename(L, index));
    }
    const char *path = lua_tolstring(L, index, &length);
    if (strlen(path) != length) nnl_lua_error(L, "%s: path holds a zero byte", function);
    return path;
}

/* Options of which there is one: pushes its value, or nil. */
static void push_option(lua_State *L, int index, const char *function, const char *name)
{
    if (lua_isnoneornil(L, index)) {
        lua_pushnil(L);
        return;
    }
    if (!lua_istable(L, index)) {
        nnl_lua_error(L, "%s: options must be a table {%s = ...}, got %s", function, name,
                      luaL_typename(L, index));
    }
    for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1)) {
        const char *key =
            lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : luaL_typename(L, -2);
        if (lua_type(L, -2) != LUA_TSTRING || strcmp(key, name) != 0) {
            nnl_lua_unknown_option(L, function, key, &name, 1);
        }
    }
    lua_getfield(L, index, name);
}

/* ---------------------------------------------------------------- load */

typedef struct holder {
    nnl_tensor_file *file;
} holder;

static int holder_free(lua_State *L)
{
    holder *h = lua_touserdata(L, 1);
    nnl_tensor_file_free(h->file);
    h->file = NULL;
    return 0;
}

static holder *new_holder(lua_State *L)
{
    holder *h = lua_newuserdatauv(L, sizeof *h, 0);
    h->file = NULL;
    if (luaL_newmetatable(L, "nnlua.tensor_file")) {
        lua_pushcfunction(L, holder_free);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return h;
}

static void push_tensors(lua_State *L, nnl_lua *state, const nnl_tensor_file *file)
{
    lua_createtable(L, 0, (int)NNL_MIN(file->count, 1 << 20));
    for (int64_t i = 0; i < file->count; i++) {
        const nnl_named_tensor *named_tensor = &file->tensors[i];
        lua_pushlstring(L, named_tensor->name, named_tensor->name_length);
        nnl_box *box = nnl_lua_new_box(L);
        nnl_lua_fill_box(state, box, nnl_tensor_ref(named_tensor->tensor));
        lua_rawset(L, -3);
    }
}

/* Replaces the string at the top by the number or boolean that it writes out. */
static void read_typed(lua_State *L)
{
    size_t length;
    int64_t whole;
    double number;
    const char *text = lua_tolstring(L, -1, &length), *end = text + length;
    if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0)
        lua_pushboolean(L, text[0] == 't');
    else if (nnl_parse_int(text, end, &whole) == end)
        lua_pushinteger(L, whole);
    else if (nnl_parse_double(text, end, &number) == end)
        lua_pushnumber(L, number);
    else
        return;
    lua_replace(L, -2);
}

/* In the metadata table at the top: the values whose keys `pair` lists.  A list that is none is
 * left alone. */
static void restore_types(lua_State *L, nnl_runtime *rt, const nnl_text_pair *pair)
{
    char *strings = lua_newuserdatauv(L, pair->value_length + 1, 0);
    const int table = lua_gettop(L) - 1;
    nnl_json json = nnl_json_open(rt, TYPED_KEY, 0, pair->value, pair->value_length, strings);
    bool good = nnl_json_next(&json) == NNL_OK && json.kind == NNL_JSON_ARRAY;
    while (good && (good = nnl_json_next(&json) == NNL_OK) && json.kind == NNL_JSON_STRING) {
        lua_pushlstring(L, json.string, json.length);
        lua_pushvalue(L, -1);
        if (lua_rawget(L, table) == LUA_TSTRING) {
            read_typed(L);
            lua_rawset(L, table);
        } else {
            lua_pop(L, 2);
        }
    }
    if (good && json.kind == NNL_JSON_ARRAY_END) {
        lua_pushnil(L);
        lua_setfield(L, table, TYPED_KEY);
    }
    lua_settop(L, table);
}

static void push_metadata(lua_State *L, const nnl_tensor_file *file)
{
    const nnl_text_pair *typed = NULL;
    lua_newtable(L);
    for (int64_t i = 0; i < file->meta_count; i++) {
        const nnl_text_pair *pair = &file->meta[i];
        if (pair->key_length == strlen(TYPED_KEY) && strcmp(pair->key, TYPED_KEY) == 0)
            typed = pair;
        lua_pushlstring(L, pair->key, pair->key_length);
        lua_pushlstring(L, pair->value, pair->value_length);
        lua_rawset(L, -3);
    }
    if (typed) restore_types(L, file->rt, typed);
}

/* load(path [, {copy = true}]) -> {name = tensor}, metadata */
static int files_load(lua_State *L)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    const char *path = check_path(L, 1, "load");
    nnl_lua_check_end(L, 2, "load");
    push_option(L, 2, "load", "copy");
    const bool copy = lua_toboolean(L, -1);
    nnl_lua_collect(L, state);
    holder *h = new_holder(L);
    NNL_LUA_TRY(L, state->rt,
                named(state->rt, "load", nnl_safetensors_load(state->rt, path, copy, &h->file)));
    push_tensors(L, state, h->file);
    push_metadata(L, h->file);
    nnl_tensor_file_free(h->file);
    h->file = NULL;
    return 2;
}

/* ---------------------------------------------------------------- save */

/* Pushes the name of the entry whose key is at `key`: the key itself, or "prefix.key". */
static void push_name(lua_State *L, int prefix, int key)
{
    const bool whole = lua_isinteger(L, key);
    if (lua_type(L, key) != LUA_TSTRING && !whole) {
        nnl_lua_error(L, "save: names must be strings or integers, got a %s",
                      luaL_typename(L, key));
    }
    if (prefix != 0) {
        lua_pushvalue(L, prefix);
        lua_pushliteral(L, ".");
    }
    if (whole)
        lua_pushfstring(L, "%I", (LUAI_UACINT)lua_tointeger(L, key));
    else
        lua_pushvalue(L, key);
    if (prefix != 0) lua_concat(L, 3);
}

/* Appends name, tensor, name, tensor ... to the list at `list`; returns its new length. */
static lua_Integer flatten(lua_State *L, int table, int prefix, int list, lua_Integer length,
                           int depth)
{
    if (depth == MAX_DEPTH) {
        nnl_lua_error(L,
                      "save: tables stand more than %d deep in each other (does one hold itself?)",
                      MAX_DEPTH);
    }
    luaL_checkstack(L, 10, "save");
    for (lua_pushnil(L); lua_next(L, table) != 0; lua_pop(L, 1)) {
        const int value = lua_gettop(L);
        push_name(L, prefix, value - 1);
        if (nnl_lua_to_box(L, value)) {
            lua_rawseti(L, list, ++length);
            lua_pushvalue(L, value);
            lua_rawseti(L, list, ++length);
        } else if (lua_istable(L, value)) {
            length = flatten(L, value, value + 1, list, length, depth + 1);
            lua_settop(L, value);
        } else {
            nnl_lua_error(
                L,
                "save: '%s' must be a tensor or a table of tensors, got a %s; other values go into "
                "{meta = {...}}",
                lua_tostring(L, -1), luaL_typename(L, value));
        }
    }
    return length;
}

/* Pushes the value at `index` as text; false when it was a string. */
static bool push_value_text(lua_State *L, int index, const char *key)
{
    char text[64];
    switch (lua_type(L, index)) {
    case LUA_TSTRING: lua_pushvalue(L, index); return false;
    case LUA_TBOOLEAN: lua_pushstring(L, lua_toboolean(L, index) ? "true" : "false"); return true;
    case LUA_TNUMBER:
        if (lua_isinteger(L, index)) {
            nnl_format(text, sizeof text, "%lld", (long long)lua_tointeger(L, index));
        } else {
            nnl_format_double(text, sizeof text - 2, lua_tonumber(L, index));
            /* so that 3.0 does not come back as 3 */
            if (text[strspn(text, "-0123456789")] == '\0') strcat(text, ".0");
        }
        lua_pushstring(L, text);
        return true;
    default:
        nnl_lua_error(L, "save: meta '%s' must be a string, a number or a boolean, got a %s", key,
                      luaL_typename(L, index));
        return false;
    }
}

static int compare_keys(const nnl_text_pair *a, const nnl_text_pair *b)
{
    const int order = memcmp(a->key, b->key, NNL_MIN(a->key_length, b->key_length));
    return order != 0 ? order : (a->key_length > b->key_length) - (a->key_length < b->key_length);
}

static void sort_pairs(nnl_text_pair *pairs, bool *typed, int64_t n)
{
    for (int64_t i = 1; i < n; i++) {
        const nnl_text_pair moved = pairs[i];
        const bool flag = typed[i];
        int64_t k = i;
        for (; k > 0 && compare_keys(&pairs[k - 1], &moved) > 0; k--) {
            pairs[k] = pairs[k - 1];
            typed[k] = typed[k - 1];
        }
        pairs[k] = moved;
        typed[k] = flag;
    }
}

/* The JSON list of the keys that are typed; text NULL: only measures. */
static size_t write_typed(char *text, const nnl_text_pair *pairs, const bool *typed, int64_t n)
{
    size_t size = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!typed[i]) continue;
        if (text) text[size] = size == 0 ? '[' : ',';
        size++;
        size += nnl_json_quote(text ? text + size : NULL, pairs[i].key, pairs[i].key_length);
    }
    if (size > 0 && text) text[size] = ']';
    return size > 0 ? size + 1 : 0;
}

/* Pushes an array of the metadata of the table at `table`, and what keeps its strings.  The pairs
 * are sorted: Lua gives them in an order that differs from run to run, and files should not. */
static nnl_text_pair *push_pairs(lua_State *L, int table, int64_t *count)
{
    int64_t n = 0, room = 0;
    *count = 0;
    if (lua_isnil(L, table)) return NULL;
    if (!lua_istable(L, table)) {
        nnl_lua_error(L, "save: meta must be a table of strings, numbers and booleans, got a %s",
                      luaL_typename(L, table));
    }
    for (lua_pushnil(L); lua_next(L, table) != 0; lua_pop(L, 1)) room++;
    nnl_text_pair *pairs = lua_newuserdatauv(L, sizeof *pairs * (size_t)(room + 1), 0);
    bool *typed = lua_newuserdatauv(L, sizeof *typed * (size_t)(room + 1), 0);
    lua_newtable(L); /* keeps keys and values */
    const int texts = lua_gettop(L);
    for (lua_pushnil(L); n < room && lua_next(L, table) != 0; lua_pop(L, 1), n++) {
        if (lua_type(L, -2) != LUA_TSTRING) {
            nnl_lua_error(L, "save: keys of meta must be strings, got a %s", luaL_typename(L, -2));
        }
        pairs[n].key = lua_tolstring(L, -2, &pairs[n].key_length);
        if (strcmp(pairs[n].key, TYPED_KEY) == 0) {
            nnl_lua_error(L, "save: the key '" TYPED_KEY "' of meta is taken by nnlua itself");
        }
        typed[n] = push_value_text(L, texts + 2, pairs[n].key);
        pairs[n].value = lua_tolstring(L, -1, &pairs[n].value_length);
        lua_rawseti(L, texts, 2 * n + 1);
        lua_pushvalue(L, texts + 1);
        lua_rawseti(L, texts, 2 * n + 2);
    }
    lua_settop(L, texts);
    sort_pairs(pairs, typed, n);
    const size_t size = write_typed(NULL, pairs, typed, n);
    if (size > 0) {
        char *text = lua_newuserdatauv(L, size, 0);
        write_typed(text, pairs, typed, n);
        pairs[n++] = (nnl_text_pair){
            .key = TYPED_KEY, .key_length = strlen(TYPED_KEY), .value = text, .value_length = size};
    }
    *count = n;
    return pairs;
}

/* What save hands to C; the list at `list` keeps names and tensors. */
typedef struct saving {
    const char *path;
    int list;
    nnl_named_tensor *tensors;
    const nnl_text_pair *meta;
    int64_t count, meta_count;
} saving;

/* The boxes are looked into at the last moment: a finalizer may free a tensor whenever Lua
 * allocates. */
static nnl_status save_once(lua_State *L, nnl_runtime *rt, const saving *s)
{
    for (int64_t i = 0; i < s->count; i++) {
        nnl_named_tensor *t = &s->tensors[i];
        lua_rawgeti(L, s->list, 2 * i + 1);
        lua_rawgeti(L, s->list, 2 * i + 2);
        t->name = lua_tolstring(L, -2, &t->name_length);
        t->tensor = nnl_lua_to_box(L, -1)->t;
        if (!t->tensor) nnl_lua_error(L, "save: tensor '%s' has been freed", t->name);
        lua_pop(L, 2);
    }
    return named(rt, "save",
                 nnl_safetensors_save(rt, s->path, s->tensors, s->count, s->meta, s->meta_count));
}

/* save(path, {name = tensor, ...} [, {meta = {...}}]) */
static int files_save(lua_State *L)
{
    nnl_runtime *rt = ((nnl_lua *)nnl_lua_upvalue(L))->rt;
    saving s = {.path = check_path(L, 1, "save")};
    nnl_lua_check_end(L, 3, "save");
    if (luaL_getmetafield(L, 2, "is_module") != LUA_TNIL)
        nnl_lua_error(
            L, "save: tensors must be a table {name = tensor, ...}, got a module; its tensors are "
               "net:state_dict(), and net:save(path) writes them");
    if (!lua_istable(L, 2)) {
        nnl_lua_error(L, "save: tensors must be a table {name = tensor, ...}, got a %s",
                      nnl_lua_to_box(L, 2) ? "tensor" : luaL_typename(L, 2));
    }
    push_option(L, 3, "save", "meta");
    s.meta = push_pairs(L, lua_gettop(L), &s.meta_count);
    lua_newtable(L);
    s.list = lua_gettop(L);
    s.count = flatten(L, 2, 0, s.list, 0, 0) / 2;
    s.tensors = lua_newuserdatauv(L, sizeof *s.tensors * (size_t)(s.count + 1), 0);
    NNL_LUA_TRY(L, rt, save_once(L, rt, &s));
    return 0;
}

/* ---------------------------------------------------------------- one tensor a file */

typedef nnl_status load_function(nnl_runtime *rt, const char *path, nnl_tensor **out);

static int load_tensor(lua_State *L, const char *function, load_function *load)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    nnl_tensor *t;
    const char *path = check_path(L, 1, function);
    nnl_lua_check_end(L, 1, function);
    nnl_lua_collect(L, state);
    nnl_box *box = nnl_lua_new_box(L);
    NNL_LUA_TRY(L, state->rt, named(state->rt, function, load(state->rt, path, &t)));
    nnl_lua_fill_box(state, box, t);
    return 1;
}

/* idx(path) -> tensor */
static int files_idx(lua_State *L) { return load_tensor(L, "idx", nnl_idx_load); }

/* npy(path) -> tensor */
static int files_npy(lua_State *L) { return load_tensor(L, "npy", nnl_npy_load); }

/* npy_save(path, tensor) */
static int files_npy_save(lua_State *L)
{
    nnl_runtime *rt = ((nnl_lua *)nnl_lua_upvalue(L))->rt;
    const char *path = check_path(L, 1, "npy_save");
    nnl_lua_check_end(L, 2, "npy_save");
    NNL_LUA_TRY(
        L, rt,
        named(rt, "npy_save", nnl_npy_save(rt, path, nnl_lua_check_tensor(L, 2, "npy_save"))));
    return 0;
}

/* idx_bytes(name, bytes) -> tensor: an IDX file that is a string; `name` stands for the path in
 * messages. */
static int files_idx_bytes(lua_State *L)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    nnl_tensor *t;
    size_t size;
    const char *name = check_path(L, 1, "idx_bytes"), *bytes = luaL_checklstring(L, 2, &size);
    nnl_lua_collect(L, state);
    nnl_box *box = nnl_lua_new_box(L);
    NNL_LUA_TRY(
        L, state->rt,
        named(state->rt, "idx_bytes", nnl_idx_read_memory(state->rt, name, bytes, size, &t)));
    nnl_lua_fill_box(state, box, t);
    return 1;
}

void nnl_lua_open_files(lua_State *L, nnl_lua *state, int methods)
{
    static const luaL_Reg functions[] = {
        {"load", files_load}, {"save", files_save},         {"idx", files_idx},
        {"npy", files_npy},   {"npy_save", files_npy_save}, {"idx_bytes", files_idx_bytes},
        {NULL, NULL}};
    (void)methods;
    nnl_lua_set_functions(L, state, -1, functions);
}
