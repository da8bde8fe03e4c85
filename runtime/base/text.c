/* Text made of numbers and other text, independent of the process's locale, and the nearest of
 * several words. */
#include "number.h"

#include <stdarg.h>
#include <string.h>

/* ---------------------------------------------------------------- formatting */

typedef struct sink {
    char *buffer;
    size_t size;
    size_t length; /* of the whole text, written or not */
} sink;

static void put(sink *out, char c, size_t times)
{
    for (; times > 0; times--) {
        if (out->length < out->size) out->buffer[out->length] = c;
        out->length++;
    }
}

static void put_text(sink *out, const char *text, size_t n)
{
    if (out->length < out->size) {
        memcpy(out->buffer + out->length, text, NNL_MIN(n, out->size - out->length));
    }
    out->length += n;
}

typedef struct directive {
    bool left, zero, plus, blank, alternate;
    int width;
    int precision; /* -1: none */
} directive;

/* sign and prefix, zeros to the width, body */
static void put_field(sink *out, const directive *d, bool zero, const char *prefix,
                      const char *body, size_t n)
{
    size_t prefix_length = strlen(prefix);
    size_t width = (size_t)d->width;
    size_t fill = prefix_length + n < width ? width - prefix_length - n : 0;
    zero = zero && d->zero && !d->left;
    if (!d->left && !zero) put(out, ' ', fill);
    put_text(out, prefix, prefix_length);
    if (zero) put(out, '0', fill);
    put_text(out, body, n);
    if (d->left) put(out, ' ', fill);
}

static const char *sign_text(const directive *d, bool negative)
{
    return negative ? "-" : d->plus ? "+" : d->blank ? " " : "";
}

static void put_unsigned(sink *out, const directive *d, const char *prefix, uint64_t value,
                         unsigned base, const char *digits)
{
    char text[NNL_PRECISION_MAX];
    size_t at = sizeof text;
    while (value) {
        text[--at] = digits[value % base];
        value /= base;
    }
    size_t least = d->precision < 0 ? 1 : (size_t)NNL_MIN(d->precision, NNL_PRECISION_MAX);
    while (sizeof text - at < least) text[--at] = '0';
    put_field(out, d, d->precision < 0, prefix, text + at, sizeof text - at);
}

static void put_double(sink *out, const directive *d, double value, char conversion)
{
    nnl_binary b = nnl_take_apart(value);
    const char *sign = sign_text(d, b.negative);
    bool upper = conversion >= 'A' && conversion <= 'Z';
    if (value - value != 0) { /* no number is left of infinities and NaN */
        bool nan = value != value;
        const char *text = nan ? (upper ? "NAN" : "nan") : upper ? "INF" : "inf";
        put_field(out, d, false, nan ? sign_text(d, false) : sign, text, 3);
        return;
    }
    char text[NNL_NUMBER_TEXT];
    char kind = (char)(upper ? conversion - 'A' + 'a' : conversion);
    int n = nnl_write_number(text, b, kind, d->precision < 0 ? 6 : d->precision);
    for (int i = 0; upper && i < n; i++) {
        if (text[i] == 'e') text[i] = 'E';
    }
    put_field(out, d, true, sign, text, (size_t)n);
}

static void put_string(sink *out, const directive *d, const char *text)
{
    if (!text) text = "(null)";
    size_t n = 0;
    while ((d->precision < 0 || n < (size_t)d->precision) && text[n]) n++;
    put_field(out, d, false, "", text, n);
}

typedef enum argument {
    LENGTH_CHAR,
    LENGTH_SHORT,
    LENGTH_INT,
    LENGTH_LONG,
    LENGTH_LLONG,
    LENGTH_SIZE
} argument;

static argument read_length(const char **format)
{
    const char *p = *format;
    argument l = LENGTH_INT;
    if (*p == 'z' || *p == 't') {
        p++;
        l = LENGTH_SIZE;
    } else if (*p == 'j') {
        p++;
        l = LENGTH_LLONG;
    } else if (*p == 'l') {
        l = *++p == 'l' ? LENGTH_LLONG : LENGTH_LONG;
        p += l == LENGTH_LLONG;
    } else if (*p == 'h') {
        l = *++p == 'h' ? LENGTH_CHAR : LENGTH_SHORT;
        p += l == LENGTH_CHAR;
    }
    *format = p;
    return l;
}

static void read_flags(const char **format, directive *d)
{
    for (;; ++*format) {
        switch (**format) {
        case '-': d->left = true; break;
        case '0': d->zero = true; break;
        case '+': d->plus = true; break;
        case ' ': d->blank = true; break;
        case '#': d->alternate = true; break;
        default: return;
        }
    }
}

/* Digits of a width or precision; what is beyond any use is cut. */
static int read_count(const char **format)
{
    int count = 0;
    for (; **format >= '0' && **format <= '9'; ++*format) {
        count = NNL_MIN(count * 10 + (**format - '0'), 100000);
    }
    return count;
}

static int end_text(const sink *out)
{
    if (out->size > 0) out->buffer[NNL_MIN(out->length, out->size - 1)] = '\0';
    return out->length > INT32_MAX ? INT32_MAX : (int)out->length;
}

int nnl_format_list(char *buffer, size_t size, const char *format, __builtin_va_list list)
{
    sink out = {buffer, size, 0};
    while (*format) {
        size_t plain = 0;
        while (format[plain] && format[plain] != '%') plain++;
        put_text(&out, format, plain);
        format += plain;
        if (!*format) break;
        const char *start = format++;

        directive d = {.precision = -1};
        read_flags(&format, &d);
        d.width = *format == '*' ? (format++, va_arg(list, int)) : read_count(&format);
        if (d.width < 0) {
            d.left = true;
            d.width = -d.width;
        }
        if (*format == '.') {
            format++;
            d.precision = *format == '*' ? (format++, va_arg(list, int)) : read_count(&format);
        }
        argument l = read_length(&format);
        switch (*format) {
        case 'd':
        case 'i': {
            int64_t v = l == LENGTH_LLONG  ? va_arg(list, long long)
                        : l == LENGTH_LONG ? va_arg(list, long)
                        : l == LENGTH_SIZE ? va_arg(list, ptrdiff_t)
                                           : va_arg(list, int);
            if (l == LENGTH_SHORT) v = (short)v;
            if (l == LENGTH_CHAR) v = (signed char)v;
            uint64_t size_of = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
            put_unsigned(&out, &d, sign_text(&d, v < 0), size_of, 10, "0123456789");
            break;
        }
        case 'u':
        case 'x':
        case 'X': {
            uint64_t v = l == LENGTH_LLONG  ? va_arg(list, unsigned long long)
                         : l == LENGTH_LONG ? va_arg(list, unsigned long)
                         : l == LENGTH_SIZE ? va_arg(list, size_t)
                                            : va_arg(list, unsigned);
            if (l == LENGTH_SHORT) v = (unsigned short)v;
            if (l == LENGTH_CHAR) v = (unsigned char)v;
            const char *digits = *format == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
            const char *prefix = *format == 'u' || !d.alternate || !v ? ""
                                 : *format == 'x'                     ? "0x"
                                                                      : "0X";
            put_unsigned(&out, &d, prefix, v, *format == 'u' ? 10 : 16, digits);
            break;
        }
        case 'p':
            put_unsigned(&out, &d, "0x", (uintptr_t)va_arg(list, void *), 16, "0123456789abcdef");
            break;
        case 'c': {
            char c = (char)va_arg(list, int);
            put_field(&out, &d, false, "", &c, 1);
            break;
        }
        case 's': put_string(&out, &d, va_arg(list, const char *)); break;
        case 'f':
        case 'F':
        case 'e':
        case 'E':
        case 'g':
        case 'G': put_double(&out, &d, va_arg(list, double), *format); break;
        case '%': put(&out, '%', 1); break;
        default: /* not known: as it stands, and what follows cannot be read */
            put_text(&out, start, strlen(start));
            return end_text(&out);
        }
        format++;
    }
    return end_text(&out);
}

int nnl_format(char *buffer, size_t size, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    int n = nnl_format_list(buffer, size, format, list);
    va_end(list);
    return n;
}

static int format_shortest(char *buffer, size_t size, double value, nnl_binary b)
{
    sink out = {buffer, size, 0};
    const directive d = {.precision = -1};
    if (value - value != 0) {
        put_double(&out, &d, value, 'g');
    } else {
        char text[NNL_NUMBER_TEXT];
        int n = nnl_write_number(text, b, 's', 0);
        put_field(&out, &d, false, sign_text(&d, b.negative), text, (size_t)n);
    }
    return end_text(&out);
}

int nnl_format_double(char *buffer, size_t size, double value)
{
    return format_shortest(buffer, size, value, nnl_take_apart(value));
}

int nnl_format_float(char *buffer, size_t size, float value)
{
    return format_shortest(buffer, size, (double)value, nnl_take_apart_float(value));
}

/* ---------------------------------------------------------------- did you mean */

#define WORD_MAX 64

static int lower(char c) { return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c; }

/* Damerau-Levenshtein distance (insert, delete, change, swap neighbours; no part edited twice),
 * with letters of either case alike. */
static int edit_distance(const char *a, int a_length, const char *b, int b_length)
{
    int rows[3][WORD_MAX + 1];
    int *before = rows[0], *last = rows[1], *row = rows[2];
    for (int j = 0; j <= b_length; j++) last[j] = j;
    memcpy(before, last, sizeof rows[0]);
    for (int i = 1; i <= a_length; i++) {
        row[0] = i;
        for (int j = 1; j <= b_length; j++) {
            int x = lower(a[i - 1]), y = lower(b[j - 1]);
            int best = last[j - 1] + (x != y);
            best = NNL_MIN(best, last[j] + 1);
            best = NNL_MIN(best, row[j - 1] + 1);
            if (i > 1 && j > 1 && x == lower(b[j - 2]) && lower(a[i - 2]) == y) {
                best = NNL_MIN(best, before[j - 2] + 1);
            }
            row[j] = best;
        }
        int *spare = before;
        before = last;
        last = row;
        row = spare;
    }
    return last[b_length];
}

/* The shortest name that goes on where the word ends; an abbreviation is three letters at least. */
static const char *continued(const char *word, int length, const char *const *names, int n)
{
    const char *best = NULL;
    for (int i = 0; i < n && length >= 3; i++) {
        int same = 0;
        while (same < length && lower(word[same]) == lower(names[i][same])) same++;
        if (same == length && (!best || strlen(names[i]) < strlen(best))) best = names[i];
    }
    return best;
}

const char *nnl_nearest(const char *word, const char *const *names, int n)
{
    size_t length = strlen(word);
    if (length == 0 || length > WORD_MAX) return NULL;
    int word_length = (int)length;
    /* one slip in a short word, more in a long one; of two letters any two would be near */
    int least = word_length < 3 ? 1 : NNL_MIN((word_length + 2) / 4, 4) + 1;
    const char *nearest = NULL;
    for (int i = 0; i < n; i++) {
        size_t name_size = strlen(names[i]);
        if (name_size > WORD_MAX) continue;
        int distance = edit_distance(word, word_length, names[i], (int)name_size);
        if (distance < least) {
            least = distance;
            nearest = names[i];
        }
    }
    return nearest ? nearest : continued(word, word_length, names, n);
}
