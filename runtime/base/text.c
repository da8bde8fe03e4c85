/* Numbers as text and back, independent of the process's locale.  Conversions are exact: where 64
 * bits do not carry them they are done in long integers, so what is printed and read is correctly
 * rounded. */
#include "base.h"

#include <float.h>
#include <stdarg.h>
#include <string.h>

/* ---------------------------------------------------------------- long integers */

/* Enough for 801 digits against 10^1127, what reading needs; printing needs less. */
#define LIMBS 96

typedef struct big {
    int n; /* limbs in use; the highest is not 0 */
    uint32_t limb[LIMBS];
} big;

static void big_set(big *b, uint64_t value)
{
    b->limb[0] = (uint32_t)value;
    b->limb[1] = (uint32_t)(value >> 32);
    b->n = b->limb[1] ? 2 : b->limb[0] ? 1 : 0;
}

/* b = b factor + add */
static void big_scale(big *b, uint32_t factor, uint32_t add)
{
    uint64_t carry = add;
    for (int i = 0; i < b->n; i++) {
        carry += (uint64_t)b->limb[i] * factor;
        b->limb[i] = (uint32_t)carry;
        carry >>= 32;
    }
    if (carry) b->limb[b->n++] = (uint32_t)carry;
}

static void big_scale_power5(big *b, int64_t power)
{
    for (; power >= 13; power -= 13)
        big_scale(b, 1220703125u, 0); /* 5^13 */
    uint32_t rest = 1;
    while (power-- > 0)
        rest *= 5;
    big_scale(b, rest, 0);
}

static void big_shift(big *b, int bits)
{
    if (b->n == 0 || bits == 0) return;
    int whole = bits / 32, part = bits % 32;
    uint32_t carry = part ? b->limb[b->n - 1] >> (32 - part) : 0;
    int top = b->n + whole;
    b->limb[top] = carry;
    for (int i = b->n - 1; i >= 0; i--) {
        uint32_t below = part && i > 0 ? b->limb[i - 1] >> (32 - part) : 0;
        b->limb[i + whole] = b->limb[i] << part | below;
    }
    memset(b->limb, 0, (size_t)whole * sizeof b->limb[0]);
    b->n = carry ? top + 1 : top;
}

static int big_bits(const big *b)
{
    return b->n ? 32 * b->n - __builtin_clz(b->limb[b->n - 1]) : 0;
}

static int big_compare(const big *a, const big *b)
{
    if (a->n != b->n) return a->n < b->n ? -1 : 1;
    for (int i = a->n - 1; i >= 0; i--) {
        if (a->limb[i] != b->limb[i]) return a->limb[i] < b->limb[i] ? -1 : 1;
    }
    return 0;
}

/* a -= b, where a >= b */
static void big_subtract(big *a, const big *b)
{
    uint64_t borrow = 0;
    for (int i = 0; i < a->n; i++) {
        uint64_t take = (i < b->n ? b->limb[i] : 0) + borrow;
        borrow = a->limb[i] < take;
        a->limb[i] = (uint32_t)(a->limb[i] - take);
    }
    while (a->n > 0 && a->limb[a->n - 1] == 0)
        a->n--;
}

/* Sign of a + b - c. */
static int big_compare_sum(const big *a, const big *b, const big *c)
{
    big sum = a->n >= b->n ? *a : *b;
    const big *other = a->n >= b->n ? b : a;
    uint64_t carry = 0;
    for (int i = 0; i < sum.n; i++) {
        carry += (uint64_t)sum.limb[i] + (i < other->n ? other->limb[i] : 0);
        sum.limb[i] = (uint32_t)carry;
        carry >>= 32;
    }
    if (carry) sum.limb[sum.n++] = (uint32_t)carry;
    return big_compare(&sum, c);
}

/* ---------------------------------------------------------------- digits of a number */

/* Exact integers and the longest %f of a double: 309 places before the point. */
#define PRECISION_MAX 99
#define DIGITS_MAX (310 + PRECISION_MAX)

/* 0.d1 d2 ... dn x 10^point; n = 0 is zero. */
typedef struct decimal {
    int n, point;
    char digit[DIGITS_MAX + 1];
} decimal;

/* A finite number as fraction x 2^exponent, exactly. */
typedef struct binary {
    uint64_t fraction;
    int exponent;
    bool negative;
    bool narrow; /* the next number below is half as far as the one above */
} binary;

static binary take_apart(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    int exponent = (int)(bits >> 52 & 0x7ff);
    binary b = {.fraction = bits & (((uint64_t)1 << 52) - 1), .negative = bits >> 63};
    b.narrow = b.fraction == 0 && exponent > 1;
    if (exponent > 0) b.fraction |= (uint64_t)1 << 52;
    b.exponent = NNL_MAX(exponent, 1) - 1075;
    return b;
}

static binary take_apart_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    int exponent = (int)(bits >> 23 & 0xff);
    binary b = {.fraction = bits & ((1u << 23) - 1), .negative = bits >> 31};
    b.narrow = b.fraction == 0 && exponent > 1;
    if (exponent > 0) b.fraction |= 1u << 23;
    b.exponent = NNL_MAX(exponent, 1) - 150;
    return b;
}

/* value = r / s x 10^power with 1/10 <= r / s < 10, so the first digit is that of power or one
 * below. */
static int start_digits(binary b, big *r, big *s)
{
    int top = 63 - __builtin_clzll(b.fraction) + b.exponent;
    double estimate = top * 0.30102999566398120 - 1e-10; /* log10(2) */
    int power = (int)estimate;
    if (estimate > power) power++;
    big_set(r, b.fraction);
    big_set(s, 1);
    if (power >= 0) big_scale_power5(s, power);
    else big_scale_power5(r, -power);
    int shift = b.exponent - power; /* the powers of two in 2^exponent / 10^power */
    if (shift >= 0) big_shift(r, shift);
    else big_shift(s, -shift);
    return power;
}

static int next_digit(big *r, const big *s)
{
    int digit = 0;
    while (big_compare(r, s) >= 0) {
        big_subtract(r, s);
        digit++;
    }
    return digit;
}

static void round_up(decimal *d)
{
    int i = d->n;
    while (i > 0 && d->digit[i - 1] == '9')
        d->digit[--i] = '0';
    if (i > 0) {
        d->digit[i - 1]++;
        return;
    }
    /* 9.99 became 10.0: the digits behind the new one are all 0 */
    d->digit[0] = '1';
    if (d->n == 0) d->n = 1;
    d->point++;
}

/* The shortest digits that no other number of the type is nearer to: R. Burger and R. Dybvig,
 * "Printing floating-point numbers quickly and accurately", PLDI'96. */
static void shortest_digits(binary b, decimal *d)
{
    big r, s, below, above; /* the distances to half way to the neighbours, over s */
    int power = start_digits(b, &r, &s);
    big_set(&below, 1);
    if (power < 0) big_scale_power5(&below, -power);
    if (b.exponent - power >= 0) big_shift(&below, b.exponent - power);
    above = below;
    big_shift(&r, b.narrow ? 2 : 1);
    big_shift(&s, b.narrow ? 2 : 1);
    if (b.narrow) big_shift(&above, 1);
    int ends = (b.fraction & 1) == 0; /* half way rounds to an even number */

    if (big_compare_sum(&r, &above, &s) >= 1 - ends) {
        power++;
    } else {
        big_scale(&r, 10, 0);
        big_scale(&below, 10, 0);
        big_scale(&above, 10, 0);
    }
    d->point = power;
    d->n = 0;
    for (;;) {
        int digit = next_digit(&r, &s);
        bool low = big_compare(&r, &below) < ends;
        bool high = big_compare_sum(&r, &above, &s) >= 1 - ends;
        d->digit[d->n++] = (char)('0' + digit);
        if (low || high) {
            if (high && (!low || big_compare_sum(&r, &r, &s) >= 0)) round_up(d);
            return;
        }
        big_scale(&r, 10, 0);
        big_scale(&below, 10, 0);
        big_scale(&above, 10, 0);
    }
}

/* `count` digits, or those up to `places` behind the point; correctly rounded, ties to even. */
static void fixed_digits(binary b, bool by_places, int count, decimal *d)
{
    d->n = d->point = 0;
    if (b.fraction == 0) return;
    big r, s;
    int power = start_digits(b, &r, &s);
    if (big_compare(&r, &s) >= 0) power++;
    else big_scale(&r, 10, 0);
    d->point = power;
    int wanted = by_places ? power + count : count;
    if (wanted < 0) return;
    if (wanted == 0) big_scale(&s, 10, 0); /* only the rounding is left */
    while (d->n < wanted) {
        d->digit[d->n++] = (char)('0' + next_digit(&r, &s));
        if (d->n < wanted) big_scale(&r, 10, 0);
    }
    int rest = big_compare_sum(&r, &r, &s);
    bool odd = d->n > 0 && (d->digit[d->n - 1] & 1);
    if (rest > 0 || (rest == 0 && odd)) {
        round_up(d);
    }
}

/* ---------------------------------------------------------------- digits as text */

/* Sign, point, exponent and precision beside the digits. */
#define NUMBER_TEXT (DIGITS_MAX + 16)

static char digit_at(const decimal *d, int place)
{
    return place >= 0 && place < d->n ? d->digit[place] : '0';
}

static int write_plain(char *text, const decimal *d, int places)
{
    int n = 0;
    if (d->point <= 0) text[n++] = '0';
    for (int i = 0; i < d->point; i++)
        text[n++] = digit_at(d, i);
    if (places > 0) text[n++] = '.';
    for (int i = 0; i < places; i++)
        text[n++] = digit_at(d, d->point + i);
    return n;
}

static int write_exponent(char *text, const decimal *d, int places)
{
    int n = 0;
    for (int i = 0; i <= places; i++) {
        if (i == 1) text[n++] = '.';
        text[n++] = digit_at(d, i);
    }
    int exponent = d->n ? d->point - 1 : 0;
    text[n++] = 'e';
    text[n++] = exponent < 0 ? '-' : '+';
    if (exponent < 0) exponent = -exponent;
    if (exponent >= 100) text[n++] = (char)('0' + exponent / 100);
    text[n++] = (char)('0' + exponent / 10 % 10);
    text[n++] = (char)('0' + exponent % 10);
    return n;
}

/* Shortest text of a number that has been taken apart; special numbers are seen by the callers. */
static int write_shortest(char *text, binary b)
{
    decimal d = {.n = 0, .point = 1};
    if (b.fraction) shortest_digits(b, &d);
    if (d.point < -3 || d.point > 16) return write_exponent(text, &d, d.n - 1);
    return write_plain(text, &d, NNL_MAX(d.n - d.point, 0));
}

/* conversion: f e g, or s for the shortest.  Without the sign. */
static int write_number(char *text, binary b, char conversion, int precision)
{
    if (conversion == 's') return write_shortest(text, b);
    decimal d;
    if (precision > PRECISION_MAX) precision = PRECISION_MAX;
    if (conversion == 'f') {
        fixed_digits(b, true, precision, &d);
        return write_plain(text, &d, precision);
    }
    if (conversion == 'e') {
        fixed_digits(b, false, precision + 1, &d);
        return write_exponent(text, &d, precision);
    }
    int digits = NNL_MAX(precision, 1);
    fixed_digits(b, false, digits, &d);
    int exponent = d.n ? d.point - 1 : 0;
    while (d.n > 0 && d.digit[d.n - 1] == '0')
        d.n--;
    if (exponent < -4 || exponent >= digits) return write_exponent(text, &d, NNL_MAX(d.n - 1, 0));
    return write_plain(text, &d, NNL_MAX(d.n - d.point, 0));
}

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
    char text[PRECISION_MAX];
    size_t at = sizeof text;
    while (value) {
        text[--at] = digits[value % base];
        value /= base;
    }
    size_t least = d->precision < 0 ? 1 : (size_t)NNL_MIN(d->precision, PRECISION_MAX);
    while (sizeof text - at < least)
        text[--at] = '0';
    put_field(out, d, d->precision < 0, prefix, text + at, sizeof text - at);
}

static void put_double(sink *out, const directive *d, double value, char conversion)
{
    binary b = take_apart(value);
    const char *sign = sign_text(d, b.negative);
    bool upper = conversion >= 'A' && conversion <= 'Z';
    if (value - value != 0) { /* no number is left of infinities and NaN */
        bool nan = value != value;
        const char *text = nan ? (upper ? "NAN" : "nan") : upper ? "INF" : "inf";
        put_field(out, d, false, nan ? sign_text(d, false) : sign, text, 3);
        return;
    }
    char text[NUMBER_TEXT];
    char kind = (char)(upper ? conversion - 'A' + 'a' : conversion);
    int n = write_number(text, b, kind, d->precision < 0 ? 6 : d->precision);
    for (int i = 0; upper && i < n; i++) {
        if (text[i] == 'e') text[i] = 'E';
    }
    put_field(out, d, true, sign, text, (size_t)n);
}

static void put_string(sink *out, const directive *d, const char *text)
{
    if (!text) text = "(null)";
    size_t n = 0;
    while ((d->precision < 0 || n < (size_t)d->precision) && text[n])
        n++;
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
        while (format[plain] && format[plain] != '%')
            plain++;
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

static int format_shortest(char *buffer, size_t size, double value, binary b)
{
    sink out = {buffer, size, 0};
    const directive d = {.precision = -1};
    if (value - value != 0) {
        put_double(&out, &d, value, 'g');
    } else {
        char text[NUMBER_TEXT];
        int n = write_number(text, b, 's', 0);
        put_field(&out, &d, false, sign_text(&d, b.negative), text, (size_t)n);
    }
    return end_text(&out);
}

int nnl_format_double(char *buffer, size_t size, double value)
{
    return format_shortest(buffer, size, value, take_apart(value));
}

int nnl_format_float(char *buffer, size_t size, float value)
{
    return format_shortest(buffer, size, (double)value, take_apart_float(value));
}

/* ---------------------------------------------------------------- reading */

/* More digits than a double can depend on, behind which it only matters whether one is not 0. */
#define READ_DIGITS 800

/* The double nearest to q 2^exponent, or to a little more when there is a rest; ties to even. */
static double put_together(uint64_t q, int exponent, bool rest)
{
    if (q == 0) return 0;
    int zeros = __builtin_clzll(q);
    q <<= zeros;
    int power = exponent - zeros + 63; /* of the leading bit */
    uint64_t bits = (uint64_t)0x7ff << 52;
    if (power <= 1023) {
        int drop = power >= -1022 ? 11 : 11 + (-1022 - power);
        if (drop > 64) return 0;
        uint64_t kept = drop < 64 ? q >> drop : 0;
        uint64_t cut = drop < 64 ? q & (((uint64_t)1 << drop) - 1) : q;
        uint64_t half = (uint64_t)1 << (drop - 1);
        bool up = cut > half || (cut == half && (rest || (kept & 1)));
        /* the leading bit counts one into the exponent, as does a carry */
        uint64_t base = power >= -1022 ? (uint64_t)(power + 1022) << 52 : 0;
        bits = base + kept + up;
    }
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A number as it was read: digits (leading zeros skipped) from `first`, with a point somewhere
 * among them. */
typedef struct numeral {
    const char *first, *end;
    uint64_t head;    /* the first 19 digits */
    int64_t digits;   /* how many there are */
    int64_t exponent; /* of ten, of the last digit */
} numeral;

/* Exactly, with long integers: digits 10^exponent = ratio 2^(...), 1/2 < ratio < 2. */
static double read_exactly(const numeral *t)
{
    big number, divisor;
    big_set(&number, 0);
    big_set(&divisor, 1);
    int64_t taken = 0, exponent = t->exponent;
    bool rest = false;
    for (const char *p = t->first; p < t->end; p++) {
        if (*p == '.') continue;
        uint32_t digit = (uint32_t)(*p - '0');
        if (taken < READ_DIGITS) {
            big_scale(&number, 10, digit);
            taken++;
        } else {
            exponent++;
            rest = rest || digit != 0;
        }
    }
    if (rest) {
        big_scale(&number, 10, 1);
        exponent--;
    }
    if (exponent >= 0) big_scale_power5(&number, exponent);
    else big_scale_power5(&divisor, -exponent);
    int shift = big_bits(&number) - big_bits(&divisor);
    if (shift >= 0) big_shift(&divisor, shift);
    else big_shift(&number, -shift);
    uint64_t q = 0;
    for (int bit = 0; bit < 64; bit++) {
        q <<= 1;
        if (big_compare(&number, &divisor) >= 0) {
            big_subtract(&number, &divisor);
            q |= 1;
        }
        big_shift(&number, 1);
    }
    return put_together(q, (int)exponent + shift - 63, number.n > 0);
}

#ifdef __SIZEOF_INT128__
__extension__ typedef unsigned __int128 wide;

/* All digits in 64 bits and 5^|exponent| in 63. */
static double read_wide(uint64_t head, int exponent)
{
    uint64_t power = 1;
    for (int i = exponent < 0 ? -exponent : exponent; i > 0; i--)
        power *= 5;
    wide q;
    bool rest = false;
    int shift = 0;
    if (exponent >= 0) {
        q = (wide)head * power;
    } else {
        shift = __builtin_clzll(head) + 63;
        wide dividend = (wide)head << shift;
        q = dividend / power;
        rest = q * power != dividend;
    }
    uint64_t high = (uint64_t)(q >> 64);
    if (high) {
        int low = 64 - __builtin_clzll(high);
        rest = rest || (uint64_t)(q << (128 - low) >> 64) || (uint64_t)(q << (128 - low));
        q >>= low;
        shift -= low;
    }
    return put_together((uint64_t)q, exponent - shift, rest);
}
#endif

static double read_numeral(const numeral *t)
{
    static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                    1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                    1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    if (t->head == 0) return 0;
    /* the place of the leading digit tells what is out of range, before anything is multiplied */
    if (t->exponent > 400 || t->digits + t->exponent > 310) return put_together(1, 2000, false);
    if (t->digits + t->exponent < -330) return 0;
    if (t->digits <= 19) {
#if FLT_EVAL_METHOD == 0
        /* both are exact, so one rounding: W. Clinger, PLDI'90 */
        if (t->head < (uint64_t)1 << 53 && t->exponent >= -22 && t->exponent <= 22) {
            double head = (double)t->head;
            return t->exponent < 0 ? head / powers[-t->exponent] : head * powers[t->exponent];
        }
#endif
#ifdef __SIZEOF_INT128__
        if (t->exponent >= -27 && t->exponent <= 27) return read_wide(t->head, (int)t->exponent);
#endif
    }
    return read_exactly(t);
}

/* Whether text begins with a word in lower case, whatever its own case is. */
static bool begins(const char *text, const char *end, const char *word)
{
    for (; *word; word++, text++) {
        if (text == end || (*text | 0x20) != *word) return false;
    }
    return true;
}

static bool is_digit(const char *p, const char *end)
{
    return p < end && *p >= '0' && *p <= '9';
}

/* Digits with at most one point; NULL when there is no digit. */
static const char *scan_digits(const char *p, const char *end, numeral *t)
{
    *t = (numeral){.first = NULL};
    bool any = false, point = false;
    for (; is_digit(p, end) || (p < end && *p == '.' && !point); p++) {
        if (*p == '.') {
            point = true;
            continue;
        }
        any = true;
        if (point) t->exponent--;
        if (*p == '0' && !t->first) continue;
        if (!t->first) t->first = p;
        if (t->digits < 19) t->head = t->head * 10 + (uint64_t)(*p - '0');
        t->digits++;
    }
    t->end = p;
    return any ? p : NULL;
}

const char *nnl_parse_double(const char *text, const char *end, double *out)
{
    const char *p = text;
    bool negative = p < end && *p == '-';
    if (p < end && (*p == '-' || *p == '+')) p++;
    double value;
    if (begins(p, end, "inf")) {
        p += begins(p, end, "infinity") ? 8 : 3;
        value = put_together(1, 2000, false);
    } else if (begins(p, end, "nan")) {
        p += 3;
        value = __builtin_nan("");
    } else {
        numeral t;
        p = scan_digits(p, end, &t);
        if (!p) return NULL;
        if (p < end && (*p | 0x20) == 'e') {
            const char *q = p + 1;
            bool minus = q < end && *q == '-';
            if (q < end && (*q == '-' || *q == '+')) q++;
            if (is_digit(q, end)) {
                int64_t exponent = 0;
                for (; is_digit(q, end); q++) {
                    if (exponent < INT64_MAX / 100) exponent = exponent * 10 + (*q - '0');
                }
                t.exponent += minus ? -exponent : exponent;
                p = q;
            }
        }
        value = read_numeral(&t);
    }
    *out = negative ? -value : value;
    return p;
}

const char *nnl_parse_int(const char *text, const char *end, int64_t *out)
{
    const char *p = text;
    bool negative = p < end && *p == '-';
    if (p < end && (*p == '-' || *p == '+')) p++;
    if (!is_digit(p, end)) return NULL;
    int64_t value = 0;
    for (; is_digit(p, end); p++) {
        int64_t digit = *p - '0';
        if (__builtin_mul_overflow(value, (int64_t)10, &value)) return NULL;
        if (__builtin_add_overflow(value, negative ? -digit : digit, &value)) return NULL;
    }
    *out = value;
    return p;
}

/* ---------------------------------------------------------------- did you mean */

#define WORD_MAX 64

static int lower(char c)
{
    return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c;
}

/* Damerau-Levenshtein distance (insert, delete, change, swap neighbours; no part edited twice),
 * with letters of either case alike. */
static int edit_distance(const char *a, int a_length, const char *b, int b_length)
{
    int rows[3][WORD_MAX + 1];
    int *before = rows[0], *last = rows[1], *row = rows[2];
    for (int j = 0; j <= b_length; j++)
        last[j] = j;
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
    return nearest;
}
