/* One closure for every op: reads the signature, turns Lua values into a request, hands results
 * back. */
#include "lua_nnlua.h"

#include <math.h>
#include <string.h>

#define MAX_TENSORS 64 /* more than that, in a list, take a block */
#define MAX_NUMBERS 64
#define RUN (1 << 20) /* more than a Lua stack holds */

enum { PLAIN, IN_PLACE, BY_DEFINE };

/* A call being read. */
typedef struct reading {
    lua_State *L;
    nnl_lua *state;
    const nnl_op *op;
    const nnl_sig *sig;
    bool inplace, by_define;
    int args, options;         /* arguments; stack place of the options table, or 0 */
    int passed;                /* arguments with nils at the end and options */
    int given[NNL_MAX_PARAMS]; /* stack place of each parameter's value, 0 if absent, or -(first *
                                * RUN + count): a run of arguments */
    nnl_tensor **in;
    int *in_at; /* stack places of the inputs' userdata, 0 for converted ones */
    nnl_value *numbers;
    int n_in, capacity;
    bool any_number;
    int16_t start[NNL_MAX_PARAMS + 1];
    nnl_value attr[NNL_MAX_ATTRS];
    int64_t *ints; /* room for lists of integers */
    int n_ints, ints_capacity;
    int64_t ints_[MAX_NUMBERS];
    nnl_tensor *in_[MAX_TENSORS];
    int in_at_[MAX_TENSORS];
    nnl_value numbers_[MAX_TENSORS];
} reading;

static const char *op_name(const reading *r, char buffer[64])
{
    nnl_format(buffer, 64, "%s%s", r->op->name, r->inplace ? "_" : "");
    return buffer;
}

#define FAIL(r, ...)                                                 \
    do {                                                             \
        char name_[64], text_[NNL_MESSAGE_SIZE];                     \
        nnl_format(text_, sizeof text_, __VA_ARGS__);                \
        nnl_lua_error((r)->L, "%s: %s", op_name((r), name_), text_); \
    } while (0)

/* ---------------------------------------------------------------- which argument is which
 * parameter */

/* Ops that make tensors of nothing or in another's shape have the option requires_grad besides. */
static bool makes_leaves(const reading *r)
{
    size_t length = strlen(r->op->name);
    return r->sig->tensors == 0 || (length > 5 && strcmp(r->op->name + length - 5, "_like") == 0);
}

static void unknown_option(reading *r, const char *key)
{
    const char *names[NNL_MAX_PARAMS + 1];
    int count = 0;
    for (int p = 0; p < r->sig->params; p++) names[count++] = r->sig->param[p].name;
    if (makes_leaves(r)) names[count++] = "requires_grad";
    char name[64];
    nnl_lua_unknown_option(r->L, op_name(r, name), key, names, count);
}

/* A table with string keys is options; an empty one too, where no argument is waiting for it. */
static bool is_options(reading *r, int index)
{
    lua_State *L = r->L;
    if (lua_type(L, index) != LUA_TTABLE) return false;
    lua_pushnil(L);
    if (!lua_next(L, index)) return index > 1 || r->sig->tensors == 0;
    bool string_key = lua_type(L, -2) == LUA_TSTRING;
    lua_pop(L, 2);
    if (!string_key) {
        /* A list; but a list with names in it is a mistake. */
        lua_pushnil(L);
        while (lua_next(L, index)) {
            lua_pop(L, 1);
            if (lua_type(L, -1) == LUA_TSTRING) {
                char key[64];
                nnl_format(key, sizeof key, "%s", lua_tostring(L, -1));
                FAIL(r, "a table is a list or names options, not both (it has positions and '%s')",
                     key);
            }
        }
        return false;
    }
    return true;
}

static int find_param(const nnl_sig *sig, const char *name)
{
    for (int p = 0; p < sig->params; p++) {
        if (strcmp(sig->param[p].name, name) == 0) return p;
    }
    return -1;
}

/* Puts the option's values on the stack and notes their places. */
static void read_options(reading *r)
{
    lua_State *L = r->L;
    luaL_checkstack(L, NNL_MAX_PARAMS + 4, "too many options");
    lua_pushnil(L);
    while (lua_next(L, r->options)) {
        if (lua_type(L, -2) != LUA_TSTRING)
            FAIL(r, "a table is a list or names options, not both (it has names and a position)");
        const char *key = lua_tostring(L, -2);
        int p = find_param(r->sig, key);
        if (p < 0) {
            if (makes_leaves(r) && strcmp(key, "requires_grad") == 0) {
                char name[64];
                nnl_lua_check_flag(L, -1, false, op_name(r, name), key);
                lua_pop(L, 1);
                continue;
            }
            unknown_option(r, key);
        }
        if (r->given[p]) FAIL(r, "%s is given twice, as an argument and as an option", key);
        lua_insert(L, -2); /* the value stays below the key */
        r->given[p] = lua_gettop(L) - 1;
    }
}

static void too_many(reading *r)
{
    int wanted = r->sig->params;
    FAIL(r,
         "takes at most %d argument%s, got %d; put a call that gives several results in "
         "parentheses, as in f((g(x)))",
         wanted, wanted == 1 ? "" : "s", r->args);
}

/* Whether an argument can belong to a variadic parameter. */
static bool fits_run(const reading *r, const nnl_param *p, int arg)
{
    return nnl_is_tensor_type(p->type) ? nnl_lua_to_box(r->L, arg) != NULL
                                       : lua_type(r->L, arg) == LUA_TNUMBER;
}

/* Arguments in the signature's order, then options by name. */
static void assign(reading *r)
{
    lua_State *L = r->L;
    int arg = 1;
    memset(r->given, 0, sizeof r->given);
    if (lua_type(L, 1) == LUA_TTABLE && luaL_getmetafield(L, 1, "is_namespace") != LUA_TNIL)
        FAIL(r, "functions are called with a dot, as in nn.%s()", r->op->name);
    for (int p = 0; p < r->sig->params && arg <= r->args; p++, arg++) {
        const nnl_param *param = &r->sig->param[p];
        if (param->variadic && lua_type(L, arg) != LUA_TTABLE && !lua_isnil(L, arg)) {
            int first = arg;
            while (arg <= r->args && fits_run(r, param, arg)) arg++;
            if (arg > first) r->given[p] = -(first * RUN + (arg - first));
            arg--; /* what follows is for the next parameter */
            continue;
        }
        if (param->variadic && lua_isnil(L, arg) && lua_type(L, arg + 1) == LUA_TNUMBER)
            FAIL(r, "the first of %s is nil", param->name);
        if (!lua_isnil(L, arg)) r->given[p] = arg;
    }
    for (; arg <= r->args; arg++) {
        if (!lua_isnil(L, arg)) too_many(r);
    }
    if (r->options) read_options(r);
}

/* ---------------------------------------------------------------- tensors */

static void wrong_tensor(reading *r, const nnl_param *p, int index)
{
    char text[NNL_LUA_VALUE_TEXT];
    FAIL(r, "%s must be a tensor%s, got %s", p->name,
         p->scalar                ? " or a number"
         : p->type == NNL_T_INDEX ? " of positions or a list of integers"
                                  : "",
         nnl_lua_value_text(r->L, index, text));
}

static void grow_inputs(reading *r)
{
    int capacity = r->capacity * 4;
    size_t one = sizeof(nnl_tensor *) + sizeof(nnl_value) + sizeof(int);
    char *block = lua_newuserdatauv(r->L, one * (size_t)capacity, 0); /* stays on the stack */
    nnl_value *numbers = (nnl_value *)(void *)block;
    nnl_tensor **in = (nnl_tensor **)(void *)(numbers + capacity);
    int *in_at = (int *)(void *)(in + capacity);
    memcpy(numbers, r->numbers, sizeof *numbers * (size_t)r->n_in);
    memcpy(in, r->in, sizeof *in * (size_t)r->n_in);
    memcpy(in_at, r->in_at, sizeof *in_at * (size_t)r->n_in);
    r->numbers = numbers;
    r->in = in;
    r->in_at = in_at;
    r->capacity = capacity;
}

static void add_input(reading *r, nnl_tensor *t, int place)
{
    if (r->n_in == r->capacity) grow_inputs(r);
    r->in[r->n_in] = t;
    r->numbers[r->n_in] = V_NONE;
    r->in_at[r->n_in] = place;
    r->n_in++;
}

static void read_tensor(reading *r, const nnl_param *p, int index)
{
    lua_State *L = r->L;
    nnl_box *box = nnl_lua_to_box(L, index);
    if (NNL_LIKELY(box != NULL)) {
        if (!box->t) FAIL(r, "%s was freed", p->name);
        add_input(r, box->t, index);
        return;
    }
    int type = lua_type(L, index);
    if (p->scalar && (type == LUA_TNUMBER || type == LUA_TBOOLEAN)) {
        add_input(r, NULL, 0);
        nnl_value *number = &r->numbers[r->n_in - 1];
        if (type == LUA_TBOOLEAN)
            *number = V_FLAG(lua_toboolean(L, index));
        else if (lua_isinteger(L, index))
            *number = V_INT(lua_tointeger(L, index));
        else
            *number = V_NUM(lua_tonumber(L, index));
        r->any_number = true;
        return;
    }
    /* Positions may be a list; so may targets that are class numbers or probabilities. */
    bool listed = p->type == NNL_T_INDEX ||
                  (p->type == NNL_T_ANY && p->place > 0 && !(r->op->traits & NNL_PROMOTE));
    if (listed && (type == LUA_TTABLE ||
                   (p->type == NNL_T_INDEX && type == LUA_TNUMBER && lua_isinteger(L, index)))) {
        char name[64];
        nnl_box *list = nnl_lua_new_box(L); /* stays on the stack */
        int dtype = p->type == NNL_T_INDEX ? NNL_I64 : NNL_LUA_INTEGERS_I64;
        nnl_status status =
            nnl_lua_tensor_of_table(L, r->state->rt, index, dtype, op_name(r, name), &list->t);
        if (status != NNL_OK) nnl_lua_raise(L, r->state->rt);
        add_input(r, list->t, 0);
        return;
    }
    if (p->optional && type == LUA_TBOOLEAN &&
        !lua_toboolean(L, index)) { /* false is torch's None */
        add_input(r, NULL, 0);
        return;
    }
    wrong_tensor(r, p, index);
}

static void read_tensor_list(reading *r, const nnl_param *p, int index)
{
    lua_State *L = r->L;
    if (lua_type(L, index) != LUA_TTABLE) {
        char text[NNL_LUA_VALUE_TEXT];
        FAIL(r, "%s must be a list of tensors, got %s", p->name,
             nnl_lua_value_text(L, index, text));
    }
    lua_Integer count = (lua_Integer)lua_rawlen(L, index);
    char name[64];
    nnl_lua_check_list(L, index, count, op_name(r, name));
    luaL_checkstack(L, (int)count + 8, "too many tensors");
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(L, index, i); /* stays on the stack: nothing else may hold it */
        nnl_box *box = nnl_lua_to_box(L, -1);
        char text[NNL_LUA_VALUE_TEXT];
        bool none = p->optional && lua_isboolean(L, -1) && !lua_toboolean(L, -1);
        if ((!box || !box->t) && !none)
            FAIL(r, "%s must be a list of tensors, but number %d is %s", p->name, (int)i,
                 nnl_lua_value_text(L, -1, text));
        read_tensor(r, p, lua_gettop(L));
    }
}

/* ---------------------------------------------------------------- attributes */

static int64_t *room(reading *r, int count)
{
    if (r->n_ints + count > r->ints_capacity) {
        int capacity = (r->n_ints + count) * 2;
        int64_t *grown =
            lua_newuserdatauv(r->L, sizeof(int64_t) * (size_t)capacity, 0); /* stays on the stack */
        /* Lists already read point into the old room, which stays as well. */
        r->ints = grown;
        r->n_ints = 0;
        r->ints_capacity = capacity;
    }
    int64_t *out = r->ints + r->n_ints;
    r->n_ints += count;
    return out;
}

/* Dimensions and positions count from 1 in Lua and from 0 below. */
static int64_t from_one(reading *r, const nnl_param *p, int64_t value)
{
    if (p->type != NNL_T_DIM && p->type != NNL_T_NEWDIM && p->type != NNL_T_POS) return value;
    if (value == 0)
        FAIL(r, "%s is 0, but %s count from 1 (or from -1, the last one, backwards)", p->name,
             p->type == NNL_T_POS ? "positions" : "dimensions");
    return value > 0 ? value - 1 : value;
}

static const char *kind_wanted(const nnl_param *p)
{
    switch (p->type) {
    case NNL_T_SIZE: return "a size (an integer, 0 or more)";
    case NNL_T_NUM: return "a number";
    case NNL_T_SCALAR: return "a number or a boolean";
    case NNL_T_FLAG: return "true or false";
    case NNL_T_DIM:
    case NNL_T_NEWDIM: return "a dimension (an integer)";
    case NNL_T_POS: return "a position (an integer)";
    case NNL_T_DTYPE:
        return "the name of a type: \"f32\", \"f64\", \"i64\", \"i32\", \"u8\" or \"bool\"";
    case NNL_T_WORD:
    case NNL_T_STRING: return "a string";
    default: return "an integer";
    }
}

static void wrong_value(reading *r, const nnl_param *p, int index)
{
    char text[NNL_LUA_VALUE_TEXT];
    FAIL(r, "%s must be %s%s%s, got %s", p->name, kind_wanted(p),
         p->list || p->repeat ? " or a list of them" : "",
         p->words && p->type != NNL_T_WORD ? " or a string" : "",
         nnl_lua_value_text(r->L, index, text));
}

static int64_t read_int(reading *r, const nnl_param *p, int index)
{
    int exact = 0;
    lua_Integer value =
        lua_type(r->L, index) == LUA_TNUMBER ? lua_tointegerx(r->L, index, &exact) : 0;
    if (!exact || (p->type == NNL_T_SIZE && value < 0)) wrong_value(r, p, index);
    return from_one(r, p, value);
}

static nnl_value read_word(reading *r, const nnl_param *p, int index)
{
    if (lua_type(r->L, index) != LUA_TSTRING) wrong_value(r, p, index);
    const char *word = lua_tostring(r->L, index);
    int place = nnl_word_place(p, word);
    if (place < 0) {
        char words[160];
        nnl_format(words, sizeof words, "%s", p->words);
        for (char *c = words; *c; c++) {
            if (*c == '}') *c = 0;
        }
        FAIL(r, "%s is \"%s\", but it can be: %s", p->name, word, words);
    }
    return V_INT(place);
}

static nnl_value read_one(reading *r, const nnl_param *p, int index)
{
    lua_State *L = r->L;
    int type = lua_type(L, index);
    nnl_dtype dtype = NNL_F32;
    switch (p->type) {
    case NNL_T_NUM:
        if (type != LUA_TNUMBER) wrong_value(r, p, index);
        return V_NUM(lua_tonumber(L, index));
    case NNL_T_SCALAR:
        if (type == LUA_TBOOLEAN) return V_FLAG(lua_toboolean(L, index));
        if (type != LUA_TNUMBER) wrong_value(r, p, index);
        return lua_isinteger(L, index) ? V_INT(lua_tointeger(L, index))
                                       : V_NUM(lua_tonumber(L, index));
    case NNL_T_FLAG:
        if (type != LUA_TBOOLEAN) wrong_value(r, p, index);
        return V_FLAG(lua_toboolean(L, index));
    case NNL_T_DTYPE:
        if (type != LUA_TSTRING || nnl_dtype_parse(lua_tostring(L, index), &dtype) != NNL_OK)
            wrong_value(r, p, index);
        return V_INT(dtype);
    case NNL_T_STRING:
        if (type != LUA_TSTRING) wrong_value(r, p, index);
        return (nnl_value){NNL_KIND_STRING, 0, {.s = lua_tostring(L, index)}};
    case NNL_T_WORD: return read_word(r, p, index);
    default: return V_INT(read_int(r, p, index));
    }
}

static nnl_value read_list(reading *r, const nnl_param *p, int index)
{
    lua_State *L = r->L;
    lua_Integer count = (lua_Integer)lua_rawlen(L, index);
    if (p->repeat && count != p->repeat)
        FAIL(r, "%s must be one value or a list of %d, got %d", p->name, p->repeat, (int)count);
    if (count > 1 << 24) FAIL(r, "%s is too long", p->name);
    char name[64];
    nnl_lua_check_list(L, index, count, op_name(r, name));
    nnl_value value = {p->type == NNL_T_NUM ? NNL_KIND_FLOATS : NNL_KIND_INTS,
                       (int32_t)count,
                       {.ints = room(r, (int)count)}};
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(L, index, i);
        int at = lua_gettop(L);
        if (p->type == NNL_T_NUM) {
            if (lua_type(L, at) != LUA_TNUMBER) wrong_value(r, p, at);
            ((double *)(void *)(int64_t *)value.as.ints)[i - 1] = lua_tonumber(L, at);
        } else if (p->type == NNL_T_WORD) {
            ((int64_t *)value.as.ints)[i - 1] = read_word(r, p, at).as.i;
        } else {
            ((int64_t *)value.as.ints)[i - 1] = read_int(r, p, at);
        }
        lua_pop(L, 1);
    }
    return value;
}

static nnl_value read_attr(reading *r, const nnl_param *p, int given)
{
    if (given < 0) { /* a run of numbers among the arguments */
        int first = -given / RUN, count = -given % RUN;
        int64_t *out = room(r, count);
        for (int i = 0; i < count; i++) out[i] = read_int(r, p, first + i);
        return V_INTS(count, out);
    }
    bool list = p->list || p->repeat;
    if (list && lua_type(r->L, given) == LUA_TTABLE) return read_list(r, p, given);
    /* false: torch's None. */
    if (p->optional && p->type != NNL_T_FLAG && p->type != NNL_T_SCALAR &&
        lua_isboolean(r->L, given) && !lua_toboolean(r->L, given))
        return V_NONE;
    if (p->words && p->type != NNL_T_WORD && lua_type(r->L, given) == LUA_TSTRING) {
        read_word(r, p, given);
        return (nnl_value){NNL_KIND_STRING, 0, {.s = lua_tostring(r->L, given)}};
    }
    nnl_value value = read_one(r, p, given);
    if (p->list) {
        int64_t *out = room(r, 1);
        *out = value.as.i;
        return V_INTS(1, out);
    }
    return value;
}

/* A parameter that must be given was not, or as nil: what a function without return gives. */
static void absent(reading *r, int p)
{
    const char *name = r->sig->param[p].name;
    if (p < r->passed && !r->options) FAIL(r, "%s is nil", name);
    FAIL(r, "%s is missing%s", name, p == 0 ? "; call a method with a colon, as in x:sum()" : "");
}

static void read_params(reading *r)
{
    for (int p = 0; p < r->sig->params; p++) {
        const nnl_param *param = &r->sig->param[p];
        int given = r->given[p];
        if (!nnl_is_tensor_type(param->type)) {
            r->attr[param->place] = given ? read_attr(r, param, given) : V_NONE;
            continue;
        }
        r->start[param->place] = (int16_t)r->n_in;
        if (given < 0) {
            for (int i = 0; i < -given % RUN; i++) read_tensor(r, param, -given / RUN + i);
        } else if (param->list && given)
            read_tensor_list(r, param, given);
        else if (given)
            read_tensor(r, param, given);
        else if (!param->list || !param->optional) {
            if (!param->optional) absent(r, p);
            add_input(r, NULL, 0);
        }
    }
    r->start[r->sig->tensors] = (int16_t)r->n_in;
}

/* ---------------------------------------------------------------- results */

static int push_input(reading *r, const nnl_tensor *t)
{
    for (int i = 0; i < r->n_in; i++) {
        if (r->in[i] == t && r->in_at[i]) {
            lua_pushvalue(r->L, r->in_at[i]);
            return 1;
        }
    }
    return 0;
}

static void request_grad(reading *r, nnl_tensor *t)
{
    lua_State *L = r->L;
    if (!r->options || !makes_leaves(r)) return;
    lua_getfield(L, r->options, "requires_grad");
    bool on = lua_toboolean(L, -1);
    lua_pop(L, 1);
    if (on && nnl_tensor_set_requires_grad(t, true) != NNL_OK) nnl_lua_raise(L, r->state->rt);
}

/* The room for many results belongs to the runtime, and pushing may raise: they move into Lua's
 * memory first. */
static int new_list(lua_State *L)
{
    lua_newuserdatauv(L, (size_t)lua_tointeger(L, 1) * sizeof(nnl_tensor *), 0);
    return 1;
}

static int push_list(reading *r, nnl_results *results)
{
    lua_State *L = r->L;
    int count = results->count;
    lua_pushcfunction(L, new_list);
    lua_pushinteger(L, NNL_MAX(count, 1));
    bool room = lua_pcall(L, 1, 1, 0) == LUA_OK;
    nnl_tensor **list = room ? lua_touserdata(L, -1) : NULL;
    int kept = 0;
    for (int i = 0; i < count; i++) {
        const nnl_result *result = &r->sig->result[NNL_MIN(i, r->sig->results - 1)];
        if (room && !result->hidden)
            list[kept++] = results->many[i];
        else
            nnl_tensor_unref(results->many[i]);
    }
    nnl_results_free(r->state->rt, results);
    if (!room) return lua_error(L);
    nnl_lua_push_tensors(L, list, kept);
    return kept;
}

static int visible_results(const nnl_sig *sig)
{
    int visible = 0;
    while (visible < sig->results && !sig->result[visible].hidden) visible++;
    return visible;
}

static int run(reading *r)
{
    lua_State *L = r->L;
    nnl_runtime *rt = r->state->rt;
    int visible = visible_results(r->sig), first = 0;
    bool list = r->sig->list_result;
    luaL_checkstack(L, NNL_MAX_RESULTS + 8, "too many results");
    if (!r->inplace && !list) { /* userdata first, so that a failure here loses nothing */
        first = lua_gettop(L) + 1;
        for (int i = 0; i < visible; i++) nnl_lua_new_box(L);
    }
    nnl_request request = {.op = r->op,
                           .in = r->in,
                           .numbers = r->any_number ? r->numbers : NULL,
                           .n_in = r->n_in,
                           .start = r->start,
                           .attr = r->attr,
                           .n_attr = r->sig->attrs,
                           .index_base = 1,
                           .inplace = r->inplace,
                           .by_define = r->by_define};
    nnl_results results;
    NNL_LUA_RUN(L, r->state, nnl_request_run(rt, &request, &results));
    if (list) return push_list(r, &results);
    if (r->inplace) {
        for (int i = 0; i < results.count; i++) nnl_tensor_unref(results.many[i]);
        lua_pushvalue(L, r->in_at[0]);
        return 1;
    }
    for (int i = 0; i < results.count; i++) {
        nnl_tensor *t = results.many[i];
        if (i >= visible) {
            nnl_tensor_unref(t);
        } else {
            nnl_lua_fill_box(r->state, lua_touserdata(L, first + i), t);
        }
    }
    int count = NNL_MIN(visible, results.count);
    lua_settop(L, first + count - 1);
    for (int i = 0; i < count; i++) {
        nnl_tensor *t = results.many[i];
        request_grad(r, t);
        /* An input that is handed on keeps its userdata. */
        if (t->refs > 1 && push_input(r, t)) lua_replace(L, first + i);
    }
    return count;
}

/* The usual call, a tensor for each tensor parameter and nothing else; 0 where the call is another.
 */
static int call_plain(lua_State *L, nnl_lua *state, const nnl_op *op, const nnl_sig *sig, int how)
{
    nnl_tensor *in[NNL_MAX_PARAMS];
    for (int i = 0; i < sig->tensors; i++) {
        const nnl_box *box = nnl_lua_to_box(L, i + 1);
        if (!box || !box->t) return 0;
        in[i] = box->t;
    }
    nnl_box *box = how == IN_PLACE ? NULL : nnl_lua_new_box_like(L, 1);
    nnl_request request = {.op = op,
                           .in = in,
                           .n_in = sig->tensors,
                           .index_base = 1,
                           .inplace = how == IN_PLACE,
                           .by_define = how == BY_DEFINE};
    nnl_results results;
    NNL_LUA_RUN(L, state, nnl_request_run(state->rt, &request, &results));
    nnl_tensor *t = results.out[0];
    if (how == IN_PLACE) {
        nnl_tensor_unref(t);
        lua_settop(L, 1);
        return 1;
    }
    nnl_lua_fill_box(state, box, t);
    for (int i = 0; t->refs > 1 && i < sig->tensors; i++) {
        if (in[i] == t) { /* an input that is handed on keeps its userdata */
            lua_settop(L, i + 1);
            break;
        }
    }
    return 1;
}

static int call_read(lua_State *L, nnl_lua *state, const nnl_op *op, const nnl_sig *sig, int how)
{
    reading r;
    r.L = L;
    r.state = state;
    r.op = op;
    r.sig = sig;
    r.inplace = how == IN_PLACE;
    r.by_define = how == BY_DEFINE;
    r.args = r.passed = lua_gettop(L);
    r.options = 0;
    r.in = r.in_;
    r.in_at = r.in_at_;
    r.numbers = r.numbers_;
    r.n_in = 0;
    r.capacity = MAX_TENSORS;
    r.any_number = false;
    r.ints = r.ints_;
    r.n_ints = 0;
    r.ints_capacity = MAX_NUMBERS;
    while (r.args > 0 && lua_isnil(L, r.args)) r.args--;
    if (r.args > 0 && is_options(&r, r.args)) r.options = r.args--;
    assign(&r);
    read_params(&r);
    return run(&r);
}

static int call_op(lua_State *L)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    const nnl_op *op = lua_touserdata(L, lua_upvalueindex(2));
    const nnl_sig *sig;
    int how = (int)lua_tointeger(L, lua_upvalueindex(3));
    nnl_lua_collect(L, state);
    if (nnl_sig_of(state->rt, op, &sig) != NNL_OK) nnl_lua_raise(L, state->rt);
    if (sig->plain && lua_gettop(L) == sig->tensors && call_plain(L, state, op, sig, how)) return 1;
    return call_read(L, state, op, sig, how);
}

static void push_closure(lua_State *L, nnl_lua *state, const nnl_op *op, int how)
{
    lua_pushlightuserdata(L, state);
    lua_pushlightuserdata(L, (void *)op);
    lua_pushinteger(L, how);
    lua_pushcclosure(L, call_op, 3);
}

void nnl_lua_push_op(lua_State *L, nnl_lua *state, const nnl_op *op, bool inplace)
{
    push_closure(L, state, op, inplace ? IN_PLACE : PLAIN);
}

void nnl_lua_push_define(lua_State *L, nnl_lua *state, const nnl_op *op)
{
    push_closure(L, state, op, BY_DEFINE);
}

void nnl_lua_open_ops(lua_State *L, nnl_lua *state, int methods)
{
    int module = lua_gettop(L);
    for (int i = 0; i < nnl_op_count(); i++) {
        const nnl_op *op = nnl_op_at(i);
        if (op->traits & NNL_HIDDEN) continue;
        const nnl_sig *sig;
        if (nnl_sig_of(state->rt, op, &sig) != NNL_OK) nnl_lua_raise(L, state->rt);
        bool method = sig->params > 0 && nnl_is_tensor_type(sig->param[0].type) &&
                      !sig->param[0].list && !(op->traits & NNL_NO_METHOD);
        nnl_lua_push_op(L, state, op, false);
        if (method) {
            lua_pushvalue(L, -1);
            lua_setfield(L, methods, op->name);
        }
        lua_setfield(L, module, op->name);
        if (!(op->traits & NNL_INPLACE_OK)) continue;
        char name[64];
        nnl_format(name, sizeof name, "%s_", op->name);
        nnl_lua_push_op(L, state, op, true);
        lua_pushvalue(L, -1);
        lua_setfield(L, methods, name);
        lua_setfield(L, module, name);
    }
}

int nnl_lua_apply(lua_State *L, const nnl_op *op, nnl_tensor *const *in, int n_in,
                  const nnl_value *attr, int n_attr, bool inplace)
{
    nnl_lua *state = nnl_lua_state(L);
    nnl_box *box = nnl_lua_new_box(L);
    nnl_request request = {.op = op,
                           .in = in,
                           .n_in = n_in,
                           .attr = attr,
                           .n_attr = n_attr,
                           .index_base = 1,
                           .inplace = inplace};
    int16_t start[NNL_MAX_PARAMS + 1] = {0};
    for (int p = 0; p < NNL_MAX_PARAMS; p++) start[p + 1] = (int16_t)NNL_MIN(p + 1, n_in);
    request.start = start;
    nnl_results results;
    NNL_LUA_RUN(L, state, nnl_request_run(state->rt, &request, &results));
    nnl_lua_fill_box(state, box, results.many[0]);
    for (int i = 1; i < results.count; i++) nnl_tensor_unref(results.many[i]);
    nnl_results_free(state->rt, &results);
    return 1;
}

/* x + y and the like: exactly two operands, either of which may be a number. */
static int call_binary(lua_State *L)
{
    nnl_lua *state = nnl_lua_upvalue(L);
    const nnl_op *op = lua_touserdata(L, lua_upvalueindex(2));
    nnl_runtime *rt = state->rt;
    nnl_tensor *in[2];
    nnl_value numbers[2] = {V_NONE, V_NONE};
    bool any_number = false;
    nnl_lua_collect(L, state);
    for (int i = 0; i < 2; i++) {
        nnl_box *box = nnl_lua_to_box(L, i + 1);
        in[i] = box ? box->t : NULL;
        if (in[i]) continue;
        int type = lua_type(L, i + 1);
        char text[NNL_LUA_VALUE_TEXT];
        if (box) nnl_lua_error(L, "%s: operand %d was freed", op->name, i + 1);
        if (type == LUA_TBOOLEAN)
            numbers[i] = V_FLAG(lua_toboolean(L, i + 1));
        else if (type != LUA_TNUMBER)
            nnl_lua_error(L, "%s: operand %d must be a tensor or a number, got %s", op->name, i + 1,
                          nnl_lua_value_text(L, i + 1, text));
        else if (lua_isinteger(L, i + 1))
            numbers[i] = V_INT(lua_tointeger(L, i + 1));
        else
            numbers[i] = V_NUM(lua_tonumber(L, i + 1));
        any_number = true;
    }
    nnl_box *box =
        nnl_lua_new_box_like(L, in[0] ? 1 : 2); /* the metamethod was found in one of them */
    nnl_request request = {
        .op = op, .in = in, .numbers = any_number ? numbers : NULL, .n_in = 2, .index_base = 1};
    nnl_results results;
    NNL_LUA_RUN(L, state, nnl_request_run(rt, &request, &results));
    nnl_lua_fill_box(state, box, results.out[0]);
    return 1;
}

void nnl_lua_push_binary(lua_State *L, nnl_lua *state, const nnl_op *op)
{
    lua_pushlightuserdata(L, state);
    lua_pushlightuserdata(L, (void *)op);
    lua_pushcclosure(L, call_binary, 2);
}
