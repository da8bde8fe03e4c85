/* Numbers to digits and back, independent of the process's locale.  Conversions are exact: where 64
 * bits do not carry them they are done in long integers, so what is printed and read is correctly
 * rounded. */
#include "number.h"

#include <float.h>
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
    for (; power >= 13; power -= 13) big_scale(b, 1220703125u, 0); /* 5^13 */
    uint32_t rest = 1;
    while (power-- > 0) rest *= 5;
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
    while (a->n > 0 && a->limb[a->n - 1] == 0) a->n--;
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

/* 0.d1 d2 ... dn x 10^point; n = 0 is zero. */
typedef struct decimal {
    int n, point;
    char digit[NNL_DIGITS_MAX + 1];
} decimal;

nnl_binary nnl_take_apart(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    int exponent = (int)(bits >> 52 & 0x7ff);
    nnl_binary b = {.fraction = bits & (((uint64_t)1 << 52) - 1), .negative = bits >> 63};
    b.narrow = b.fraction == 0 && exponent > 1;
    if (exponent > 0) b.fraction |= (uint64_t)1 << 52;
    b.exponent = NNL_MAX(exponent, 1) - 1075;
    return b;
}

nnl_binary nnl_take_apart_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    int exponent = (int)(bits >> 23 & 0xff);
    nnl_binary b = {.fraction = bits & ((1u << 23) - 1), .negative = bits >> 31};
    b.narrow = b.fraction == 0 && exponent > 1;
    if (exponent > 0) b.fraction |= 1u << 23;
    b.exponent = NNL_MAX(exponent, 1) - 150;
    return b;
}

/* value = r / s x 10^power with 1/10 <= r / s < 10, so the first digit is that of power or one
 * below. */
static int start_digits(nnl_binary b, big *r, big *s)
{
    int top = 63 - __builtin_clzll(b.fraction) + b.exponent;
    double estimate = top * 0.30102999566398120 - 1e-10; /* log10(2) */
    int power = (int)estimate;
    if (estimate > power) power++;
    big_set(r, b.fraction);
    big_set(s, 1);
    if (power >= 0)
        big_scale_power5(s, power);
    else
        big_scale_power5(r, -power);
    int shift = b.exponent - power; /* the powers of two in 2^exponent / 10^power */
    if (shift >= 0)
        big_shift(r, shift);
    else
        big_shift(s, -shift);
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
    while (i > 0 && d->digit[i - 1] == '9') d->digit[--i] = '0';
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
static void shortest_digits(nnl_binary b, decimal *d)
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
static void fixed_digits(nnl_binary b, bool by_places, int count, decimal *d)
{
    d->n = d->point = 0;
    if (b.fraction == 0) return;
    big r, s;
    int power = start_digits(b, &r, &s);
    if (big_compare(&r, &s) >= 0)
        power++;
    else
        big_scale(&r, 10, 0);
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

static char digit_at(const decimal *d, int place)
{
    return place >= 0 && place < d->n ? d->digit[place] : '0';
}

static int write_plain(char *text, const decimal *d, int places)
{
    int n = 0;
    if (d->point <= 0) text[n++] = '0';
    for (int i = 0; i < d->point; i++) text[n++] = digit_at(d, i);
    if (places > 0) text[n++] = '.';
    for (int i = 0; i < places; i++) text[n++] = digit_at(d, d->point + i);
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
static int write_shortest(char *text, nnl_binary b)
{
    decimal d = {.n = 0, .point = 1};
    if (b.fraction) shortest_digits(b, &d);
    if (d.point < -3 || d.point > 16) return write_exponent(text, &d, d.n - 1);
    return write_plain(text, &d, NNL_MAX(d.n - d.point, 0));
}

/* conversion: f e g, or s for the shortest.  Without the sign. */
int nnl_write_number(char *text, nnl_binary b, char conversion, int precision)
{
    if (conversion == 's') return write_shortest(text, b);
    decimal d;
    if (precision > NNL_PRECISION_MAX) precision = NNL_PRECISION_MAX;
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
    while (d.n > 0 && d.digit[d.n - 1] == '0') d.n--;
    if (exponent < -4 || exponent >= digits) return write_exponent(text, &d, NNL_MAX(d.n - 1, 0));
    return write_plain(text, &d, NNL_MAX(d.n - d.point, 0));
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
    if (exponent >= 0)
        big_scale_power5(&number, exponent);
    else
        big_scale_power5(&divisor, -exponent);
    int shift = big_bits(&number) - big_bits(&divisor);
    if (shift >= 0)
        big_shift(&divisor, shift);
    else
        big_shift(&number, -shift);
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
    for (int i = exponent < 0 ? -exponent : exponent; i > 0; i--) power *= 5;
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

static bool is_digit(const char *p, const char *end) { return p < end && *p >= '0' && *p <= '9'; }

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
