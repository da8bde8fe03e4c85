/* The JSON reader: a small machine over the text; its stack is a bit for each open bracket. */
#include "json.h"

#include "../base/file.h"

#include <string.h>

enum { VALUE, VALUE_OR_END, KEY_OR_END, KEY_ONLY, COMMA_OR_END, NOTHING };

nnl_json nnl_json_open(nnl_runtime *rt, const char *file, int64_t origin, const char *text,
                       size_t size, char *strings)
{
    return (nnl_json){.rt = rt,
                      .file = file,
                      .origin = origin,
                      .text = text,
                      .size = size,
                      .strings = strings,
                      .expect = VALUE};
}

/* ---------------------------------------------------------------- UTF-8 */

/* Length of the character at text (RFC 3629: no overlong forms, no surrogates), or 0. */
static size_t utf8_length(const unsigned char *text, size_t left)
{
    const unsigned char a = text[0];
    if (a < 0x80) return 1;
    const size_t n = a >= 0xC2 && a <= 0xDF   ? 2
                     : a >= 0xE0 && a <= 0xEF ? 3
                     : a >= 0xF0 && a <= 0xF4 ? 4
                                              : 0;
    if (n == 0 || n > left) return 0;
    for (size_t i = 1; i < n; i++) {
        if ((text[i] & 0xC0) != 0x80) return 0;
    }
    if ((a == 0xE0 && text[1] < 0xA0) || (a == 0xED && text[1] > 0x9F)) return 0;
    if ((a == 0xF0 && text[1] < 0x90) || (a == 0xF4 && text[1] > 0x8F)) return 0;
    return n;
}

static size_t utf8_put(char *out, uint32_t code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    const size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)(lead[n] | code);
    return n;
}

bool nnl_utf8_valid(const char *text, size_t length)
{
    for (size_t i = 0; i < length;) {
        const size_t n = utf8_length((const unsigned char *)text + i, length - i);
        if (n == 0) return false;
        i += n;
    }
    return true;
}

/* ---------------------------------------------------------------- tokens */

static nnl_status bad(nnl_json *json, const char *wanted)
{
    const int64_t at = json->origin + (int64_t)json->place;
    nnl_status status;
    if (json->place >= json->size) {
        status = NNL_FAIL(json->rt, NNL_EFORMAT, "JSON: wants %s, but the text ends", wanted);
    } else {
        char clip[NNL_CLIP_SIZE];
        const unsigned char c = (unsigned char)json->text[json->place];
        if (c >= 0x20 && c < 0x7F) {
            nnl_clip(clip, json->text + json->place, 1);
            status = NNL_FAIL(json->rt, NNL_EFORMAT, "JSON: wants %s, got '%s'", wanted, clip);
        } else {
            status =
                NNL_FAIL(json->rt, NNL_EFORMAT, "JSON: wants %s, got byte %u", wanted, (unsigned)c);
        }
    }
    return nnl_file_error(json->rt, json->file, at, status);
}

static int peek(const nnl_json *json)
{
    return json->place < json->size ? (unsigned char)json->text[json->place] : -1;
}

static bool is_digit(int c) { return c >= '0' && c <= '9'; }

static nnl_status hex4(nnl_json *json, uint32_t *out)
{
    uint32_t code = 0;
    for (int i = 0; i < 4; i++, json->place++) {
        const int c = peek(json);
        const int digit = is_digit(c)            ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0) return bad(json, "four hexadecimal digits");
        code = code * 16 + (uint32_t)digit;
    }
    *out = code;
    return NNL_OK;
}

/* After a backslash.  The six bytes of \uXXXX make at most three, a pair of them four. */
static nnl_status read_escape(nnl_json *json, char **out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const int c = peek(json);
    const char *simple = c > 0 ? strchr(from, c) : NULL;
    if (simple) {
        *(*out)++ = to[simple - from];
        json->place++;
        return NNL_OK;
    }
    if (c != 'u') return bad(json, "a known escape");
    json->place++;
    uint32_t code, low;
    NNL_TRY(hex4(json, &code));
    if (code >= 0xDC00 && code <= 0xDFFF) return bad(json, "a first surrogate before the second");
    if (code >= 0xD800 && code <= 0xDBFF) {
        if (peek(json) != '\\') return bad(json, "a second surrogate");
        json->place++;
        if (peek(json) != 'u') return bad(json, "a second surrogate");
        json->place++;
        NNL_TRY(hex4(json, &low));
        if (low < 0xDC00 || low > 0xDFFF) return bad(json, "a second surrogate");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    *out += utf8_put(*out, code);
    return NNL_OK;
}

static nnl_status read_string(nnl_json *json, nnl_json_kind kind)
{
    char *start = json->strings + json->used, *out = start;
    json->place++;
    for (;;) {
        const int c = peek(json);
        if (c == '"') break;
        if (c < 0x20) return bad(json, "the end of a string");
        if (c == '\\') {
            json->place++;
            NNL_TRY(read_escape(json, &out));
            continue;
        }
        const unsigned char *here = (const unsigned char *)json->text + json->place;
        const size_t n = utf8_length(here, json->size - json->place);
        if (n == 0) return bad(json, "valid UTF-8");
        memcpy(out, here, n);
        out += n;
        json->place += n;
    }
    json->place++;
    *out = '\0';
    json->kind = kind;
    json->string = start;
    json->length = (size_t)(out - start);
    json->used += json->length + 1;
    return NNL_OK;
}

static nnl_status skip_digits(nnl_json *json)
{
    if (!is_digit(peek(json))) return bad(json, "a digit");
    while (is_digit(peek(json))) json->place++;
    return NNL_OK;
}

static bool read_int64(const char *text, const char *end, int64_t *out)
{
    const bool negative = *text == '-';
    int64_t value = 0;
    for (text += negative; text < end; text++) {
        const int64_t digit = *text - '0';
        if (__builtin_mul_overflow(value, (int64_t)10, &value)) return false;
        if (__builtin_add_overflow(value, negative ? -digit : digit, &value)) return false;
    }
    *out = value;
    return true;
}

static nnl_status read_number(nnl_json *json)
{
    const size_t start = json->place;
    bool whole = true;
    if (peek(json) == '-') json->place++;
    if (peek(json) == '0')
        json->place++;
    else
        NNL_TRY(skip_digits(json));
    if (is_digit(peek(json))) return bad(json, "a number without leading zeros");
    if (peek(json) == '.') {
        whole = false;
        json->place++;
        NNL_TRY(skip_digits(json));
    }
    if (peek(json) == 'e' || peek(json) == 'E') {
        whole = false;
        json->place++;
        if (peek(json) == '+' || peek(json) == '-') json->place++;
        NNL_TRY(skip_digits(json));
    }
    const char *text = json->text + start, *end = json->text + json->place;
    json->kind = NNL_JSON_NUMBER;
    if (whole && read_int64(text, end, &json->integer)) {
        json->kind = NNL_JSON_INT;
        json->number = (double)json->integer;
    } else if (nnl_parse_double(text, end, &json->number) != end) {
        json->place = start;
        return bad(json, "a number");
    }
    return NNL_OK;
}

static nnl_status read_word(nnl_json *json)
{
    static const struct {
        const char *word;
        nnl_json_kind kind;
    } words[] = {{"true", NNL_JSON_TRUE}, {"false", NNL_JSON_FALSE}, {"null", NNL_JSON_NULL}};
    for (int i = 0; i < NNL_COUNT(words); i++) {
        const size_t n = strlen(words[i].word);
        if (json->size - json->place < n) continue;
        if (memcmp(json->text + json->place, words[i].word, n) != 0) continue;
        json->place += n;
        json->kind = words[i].kind;
        return NNL_OK;
    }
    return bad(json, "a value");
}

static nnl_status open_bracket(nnl_json *json, bool object)
{
    if (json->depth == NNL_JSON_MAX_DEPTH) return bad(json, "at most 32 brackets in each other");
    const uint64_t bit = (uint64_t)1 << json->depth++;
    json->objects = object ? json->objects | bit : json->objects & ~bit;
    json->expect = object ? KEY_OR_END : VALUE_OR_END;
    json->kind = object ? NNL_JSON_OBJECT : NNL_JSON_ARRAY;
    json->place++;
    return NNL_OK;
}

static nnl_status close_bracket(nnl_json *json, bool object)
{
    json->depth--;
    json->expect = json->depth > 0 ? COMMA_OR_END : NOTHING;
    json->kind = object ? NNL_JSON_OBJECT_END : NNL_JSON_ARRAY_END;
    json->place++;
    return NNL_OK;
}

static int skip_space(nnl_json *json)
{
    int c = peek(json);
    while (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
        json->place++;
        c = peek(json);
    }
    return c;
}

static nnl_status read_value(nnl_json *json, int c)
{
    if (c == '{' || c == '[') return open_bracket(json, c == '{');
    json->expect = json->depth > 0 ? COMMA_OR_END : NOTHING;
    if (c == '"') return read_string(json, NNL_JSON_STRING);
    if (c == '-' || is_digit(c)) return read_number(json);
    return read_word(json);
}

static nnl_status read_key(nnl_json *json, int c)
{
    if (c != '"') return bad(json, "a name in quotes");
    NNL_TRY(read_string(json, NNL_JSON_KEY));
    if (skip_space(json) != ':') return bad(json, "':'");
    json->place++;
    json->expect = VALUE;
    return NNL_OK;
}

nnl_status nnl_json_next(nnl_json *json)
{
    int c = skip_space(json);
    const bool in_object = json->depth > 0 && (json->objects >> (json->depth - 1) & 1) != 0;
    const int closing = in_object ? '}' : ']';
    if (json->expect == COMMA_OR_END && c == ',') {
        json->place++;
        json->expect = in_object ? KEY_ONLY : VALUE;
        c = skip_space(json);
    }
    json->at = json->origin + (int64_t)json->place;
    switch (json->expect) {
    case COMMA_OR_END:
        if (c == closing) return close_bracket(json, in_object);
        return bad(json, in_object ? "',' or '}'" : "',' or ']'");
    case KEY_OR_END:
        if (c == closing) return close_bracket(json, true);
        return read_key(json, c);
    case KEY_ONLY: return read_key(json, c);
    case VALUE_OR_END:
        if (c == closing) return close_bracket(json, false);
        return read_value(json, c);
    case VALUE: return read_value(json, c);
    default:
        if (c != -1) return bad(json, "the end of the text");
        json->kind = NNL_JSON_END;
        return NNL_OK;
    }
}

nnl_status nnl_json_expect(nnl_json *json, nnl_json_kind kind, const char *what)
{
    static const char *const names[] = {
        "the end", "an object", "the end of an object", "a list",   "the end of a list",
        "a name",  "a string",  "an integer",           "a number", "true",
        "false",   "null"};
    NNL_TRY(nnl_json_next(json));
    if (json->kind == kind) return NNL_OK;
    return nnl_file_error(json->rt, json->file, json->at,
                          NNL_FAIL(json->rt, NNL_EFORMAT, "%s must be %s, got %s", what,
                                   names[kind], names[json->kind]));
}

bool nnl_json_is(const nnl_json *json, const char *word)
{
    return json->length == strlen(word) && memcmp(json->string, word, json->length) == 0;
}

/* ---------------------------------------------------------------- writing */

size_t nnl_json_quote(char *out, const char *text, size_t length)
{
    static const char digits[] = "0123456789abcdef";
    size_t n = 0;
#define PUT(c)                       \
    do {                             \
        if (out) out[n] = (char)(c); \
        n++;                         \
    } while (0)
    PUT('"');
    for (size_t i = 0; i < length; i++) {
        const unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\') {
            PUT('\\');
            PUT(c);
        } else if (c < 0x20) {
            PUT('\\');
            PUT('u');
            PUT('0');
            PUT('0');
            PUT(digits[c >> 4]);
            PUT(digits[c & 15]);
        } else {
            PUT(c);
        }
    }
    PUT('"');
#undef PUT
    return n;
}
