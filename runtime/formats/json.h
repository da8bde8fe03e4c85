/* Strict JSON (RFC 8259), a token at a time: UTF-8 and escapes are checked, depth is limited,
 * nothing is recursive and nothing is allocated. */
#ifndef NNL_JSON_H
#define NNL_JSON_H

#include "../base/base.h"

#define NNL_JSON_MAX_DEPTH 32

typedef enum nnl_json_kind {
    NNL_JSON_END, /* of the text */
    NNL_JSON_OBJECT,
    NNL_JSON_OBJECT_END,
    NNL_JSON_ARRAY,
    NNL_JSON_ARRAY_END,
    NNL_JSON_KEY, /* of an object's member; its value is the next token */
    NNL_JSON_STRING,
    NNL_JSON_INT,    /* without fraction and exponent, and fits in 64 bits */
    NNL_JSON_NUMBER, /* another number */
    NNL_JSON_TRUE,
    NNL_JSON_FALSE,
    NNL_JSON_NULL
} nnl_json_kind;

typedef struct nnl_json {
    /* set by nnl_json_open */
    nnl_runtime *rt;
    const char *file; /* for messages, with ... */
    int64_t origin;   /* ... the text's place in that file */
    const char *text;
    size_t size;
    char *strings; /* room for decoded strings */
    size_t used;
    /* where the reader stands */
    size_t place;
    uint64_t objects; /* bit d: what is open at depth d is an object */
    int depth, expect;
    /* the token read last */
    nnl_json_kind kind;
    int64_t at;         /* its place in the file */
    const char *string; /* of KEY and STRING: decoded, ended by a 0 that length does not count */
    size_t length;
    int64_t integer; /* of INT */
    double number;   /* of INT and NUMBER */
} nnl_json;

/* `strings` has room for `size` bytes, which is always enough; the decoded strings stay in it. */
nnl_json nnl_json_open(nnl_runtime *rt, const char *file, int64_t origin, const char *text,
                       size_t size, char *strings);
/* Reads the next token.  NNL_EFORMAT, with file and place. */
nnl_status nnl_json_next(nnl_json *json);
/* As nnl_json_next, but only `kind` will do; `what` says what stands there: "the shape". */
nnl_status nnl_json_expect(nnl_json *json, nnl_json_kind kind, const char *what);
bool nnl_json_is(const nnl_json *json, const char *word); /* the last KEY or STRING */

bool nnl_utf8_valid(const char *text, size_t length);
/* Writes text (valid UTF-8) as a JSON string with its quotes; returns the bytes needed.  out NULL:
 * only measures. */
size_t nnl_json_quote(char *out, const char *text, size_t length);

#endif
