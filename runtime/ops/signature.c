/* Reads the signatures of op records.  The grammar is in runtime/README.md. */
#include "op.h"

#include <string.h>

typedef struct reader {
    const char *at;
    const char *problem; /* NULL while all is well */
} reader;

static const struct {
    const char *word;
    nnl_param_type type;
} type_words[] = {
    {"any", NNL_T_ANY},     {"number", NNL_T_NUMBER},     {"real", NNL_T_REAL},
    {"float", NNL_T_FLOAT}, {"integral", NNL_T_INTEGRAL}, {"bool", NNL_T_BOOL},
    {"index", NNL_T_INDEX}, {"int", NNL_T_INT},           {"size", NNL_T_SIZE},
    {"num", NNL_T_NUM},     {"scalar", NNL_T_SCALAR},     {"flag", NNL_T_FLAG},
    {"dim", NNL_T_DIM},     {"newdim", NNL_T_NEWDIM},     {"pos", NNL_T_POS},
    {"dtype", NNL_T_DTYPE}, {"string", NNL_T_STRING},
};

const char *nnl_param_type_name(nnl_param_type type)
{
    if (type == NNL_T_WORD) return "word";
    for (int i = 0; i < NNL_COUNT(type_words); i++) {
        if (type_words[i].type == type) return type_words[i].word;
    }
    return "?";
}

static void spaces(reader *r)
{
    while (*r->at == ' ' || *r->at == '\n') r->at++;
}

static bool take(reader *r, const char *text)
{
    spaces(r);
    size_t length = strlen(text);
    if (strncmp(r->at, text, length) != 0) return false;
    r->at += length;
    return true;
}

static bool word_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static void word(reader *r, char *out, size_t size)
{
    spaces(r);
    size_t length = 0;
    while (word_char(r->at[length])) length++;
    if (length == 0 || length >= size) {
        r->problem = "a name is missing or too long";
        length = 0;
    }
    memcpy(out, r->at, length);
    out[length] = 0;
    r->at += length;
}

/* Place of a word in {a|b|c} (text behind the brace), or -1. */
static int word_place(const char *words, const char *name, size_t length)
{
    for (int place = 0;; place++) {
        size_t n = strcspn(words, "|}");
        if (n == length && strncmp(words, name, n) == 0) return place;
        if (words[n] != '|') return -1;
        words += n + 1;
    }
}

int nnl_word_place(const nnl_param *p, const char *name)
{
    return word_place(p->words, name, strlen(name));
}

static void type(reader *r, nnl_param *p)
{
    if (take(r, "{")) {
        p->type = NNL_T_WORD;
        p->words = r->at;
        r->at += strcspn(r->at, "}");
        if (!take(r, "}")) r->problem = "a brace is not closed";
        return;
    }
    char name[24];
    word(r, name, sizeof name);
    for (int i = 0; i < NNL_COUNT(type_words); i++) {
        if (strcmp(name, type_words[i].word) == 0) {
            p->type = type_words[i].type;
            return;
        }
    }
    r->problem = "a type is unknown";
}

static void default_value(reader *r, nnl_param *p)
{
    spaces(r);
    const char *end = r->at + strcspn(r->at, ",-> \n");
    if (*r->at == '-') end = r->at + 1 + strcspn(r->at + 1, ",-> \n");
    while (end[-1] == 'e' && (*end == '-')) end += 1 + strcspn(end + 1, ",-> \n"); /* 1e-5 */
    size_t length = (size_t)(end - r->at);
    nnl_value *v = &p->value;
    nnl_dtype dtype;
    char text[32];
    if (length >= sizeof text) {
        r->problem = "a default is too long";
        return;
    }
    memcpy(text, r->at, length);
    text[length] = 0;
    if (p->type == NNL_T_WORD) {
        *v = V_INT(word_place(p->words, text, length));
        if (v->as.i < 0) r->problem = "a default is none of its words";
    } else if (p->type == NNL_T_DTYPE && nnl_dtype_parse(text, &dtype) == NNL_OK) {
        *v = V_INT(dtype);
    } else if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0) {
        *v = V_FLAG(text[0] == 't');
    } else if (p->type == NNL_T_NUM || strpbrk(text, ".eni")) {
        *v = V_NUM(0);
        if (nnl_parse_double(r->at, end, &v->as.f) != end) r->problem = "a default is not a number";
    } else {
        *v = V_INT(0);
        if (nnl_parse_int(r->at, end, &v->as.i) != end) r->problem = "a default is not an integer";
    }
    r->at = end;
}

static void param(reader *r, nnl_sig *sig)
{
    if (sig->params == NNL_MAX_PARAMS) {
        r->problem = "too many parameters";
        return;
    }
    nnl_param *p = &sig->param[sig->params++];
    word(r, p->name, sizeof p->name);
    if (!take(r, ":")) r->problem = "a colon is missing";
    type(r, p);
    if (take(r, "|scalar")) p->scalar = true;
    if (take(r, "|{")) { /* words that may stand for the value */
        p->words = r->at;
        r->at += strcspn(r->at, "}");
        if (!take(r, "}")) r->problem = "a brace is not closed";
    }
    if (take(r, "..."))
        p->variadic = p->list = true;
    else if (take(r, "*"))
        p->list = true;
    else if (take(r, "[")) {
        p->repeat = (int8_t)(*r->at++ - '0');
        if (!take(r, "]")) r->problem = "a bracket is not closed";
    }
    if (take(r, "?")) p->optional = true;
    if (take(r, "=")) {
        p->optional = true;
        default_value(r, p);
    }
    if (nnl_is_tensor_type(p->type)) {
        p->place = (int8_t)sig->tensors;
        sig->tensor[sig->tensors++] = p;
        sig->list_input |= p->list;
    } else if (sig->attrs == NNL_MAX_ATTRS) {
        r->problem = "too many attributes";
    } else {
        p->place = (int8_t)sig->attrs;
        sig->attr[sig->attrs++] = p;
    }
}

static void result(reader *r, nnl_sig *sig)
{
    if (sig->results == NNL_MAX_RESULTS) {
        r->problem = "too many results";
        return;
    }
    nnl_result *res = &sig->result[sig->results++];
    word(r, res->name, sizeof res->name);
    if (take(r, ":")) {
        word(r, res->type, sizeof res->type);
    } else { /* a type alone */
        memcpy(res->type, res->name, sizeof res->type - 1);
        memcpy(res->name, "output", sizeof "output");
    }
    if (take(r, "*")) res->list = sig->list_result = true;
    if (take(r, "!")) res->hidden = true;
}

static bool is_plain(const nnl_sig *sig)
{
    for (int p = 0; p < sig->params; p++) {
        if (p < sig->tensors ? !nnl_is_tensor_type(sig->param[p].type) : !sig->param[p].optional)
            return false;
    }
    return sig->tensors > 0 && sig->results == 1 && !sig->list_input && !sig->list_result;
}

nnl_status nnl_sig_parse(nnl_runtime *rt, const nnl_op *op, nnl_sig *sig)
{
    memset(sig, 0, sizeof *sig);
    reader r = {.at = op->sig};
    spaces(&r);
    while (!r.problem && !take(&r, "->")) {
        param(&r, sig);
        if (!take(&r, ",")) {
            if (!take(&r, "->")) r.problem = r.problem ? r.problem : "an arrow is missing";
            break;
        }
    }
    spaces(&r);
    while (!r.problem && *r.at) {
        result(&r, sig);
        if (!take(&r, ",")) break;
    }
    spaces(&r);
    if (!r.problem && *r.at) r.problem = "something follows the results";
    if (r.problem)
        return NNL_FAIL(rt, NNL_EINVAL, "signature of %s: %s, at \"%s\"", op->name, r.problem,
                        r.at);
    sig->plain = is_plain(sig);
    return NNL_OK;
}
