/* Mathematical functions on floats, and the exact rest of a division. */
#include "map.h"
#include "math_trig.h"

#define FUNCTION(name) MAP_FLOAT(name, 1, 0, V_PICK(x[0], name)(x[0]))

FUNCTION(exp)
FUNCTION(exp2)
FUNCTION(expm1)
FUNCTION(log)
FUNCTION(log2)
FUNCTION(log10)
FUNCTION(log1p)
FUNCTION(sin)
FUNCTION(cos)
FUNCTION(tan)
FUNCTION(asin)
FUNCTION(acos)
FUNCTION(atan)
FUNCTION(sinh)
FUNCTION(cosh)
FUNCTION(tanh)
FUNCTION(asinh)
FUNCTION(acosh)
FUNCTION(atanh)
FUNCTION(erf)
FUNCTION(erfc)
MAP_FLOAT(pow, 2, 0, V_PICK(x[0], pow)(x[0], x[1]))
MAP_FLOAT(atan2, 2, 0, V_PICK(x[0], atan2)(x[0], x[1]))

/* ---------------------------------------------------------------- the rest of a division */

/* The rest of a / b by long division on the integers m 2^e, for finite a and b > 0: exact whatever
 * the quotient, in time that grows with its logarithm. */
static double rest_long(double a, double b)
{
    uint64_t bits_a, bits_b;
    memcpy(&bits_a, &a, sizeof bits_a);
    memcpy(&bits_b, &b, sizeof bits_b);
    int exponent_a = (int)(bits_a >> 52), exponent_b = (int)(bits_b >> 52);
    uint64_t m = bits_a & 0xfffffffffffff, divisor = bits_b & 0xfffffffffffff;
    if (exponent_a > 0) m |= 0x10000000000000; else exponent_a = 1;
    if (exponent_b > 0) divisor |= 0x10000000000000; else exponent_b = 1;
    if (exponent_a < exponent_b) return a;
    for (m %= divisor; exponent_a > exponent_b; ) {
        /* m < 2^53: eleven more bits fit */
        int step = exponent_a - exponent_b < 11 ? exponent_a - exponent_b : 11;
        m = (m << step) % divisor;
        exponent_a -= step;
    }
    if (m == 0) return 0;
    int lift = __builtin_clzll(m) - 11;
    if (lift >= exponent_b) lift = exponent_b - 1;
    m <<= lift;
    uint64_t exponent = m >> 52 ? (uint64_t)(exponent_b - lift) : 0;
    uint64_t bits = exponent << 52 | (m & 0xfffffffffffff);
    double r;
    memcpy(&r, &bits, sizeof r);
    return r;
}

/* C's fmod.  A quotient below 2^52 is found by division: its whole part q is right or, where the
 * division rounded up to a whole number, one too large, and a - q b is exact in both cases. */
static inline vd vd_fmod(vd x, vd y)
{
    vd a = vd_abs(x), b = vd_abs(y), q = vd_trunc(a / b);
    vd_pair product = vd_two_product(q, b);
    vd r = (a - product.high) - product.low;
    r = vd_select(vd_lt(r, vd_zero()), r + b, r);
    r = vd_select(vd_lt(a, b), a, r);
    /* beyond these the product's low part could be inexact */
    md plain = md_and(vd_lt(q, vd_set1(0x1p52)), vd_lt(a, vd_set1(0x1p990)));
    plain = md_or(md_and(plain, vd_gt(b, vd_set1(0x1p-900))), vd_lt(a, b));
    uint32_t lanes = md_bits(md_not(plain));
    if (__builtin_expect(lanes != 0, 0)) {
        double dividend[VD_LANES], divisor[VD_LANES], rest[VD_LANES];
        vd_store(dividend, a);
        vd_store(divisor, b);
        vd_store(rest, r);
        for (int i = 0; i < VD_LANES; i++) {
            if (!(lanes >> i & 1)) continue;
            bool defined = dividend[i] - dividend[i] == 0 && divisor[i] > 0;
            rest[i] = defined ? rest_long(dividend[i], divisor[i]) : __builtin_nan("");
        }
        r = vd_load(rest);
    }
    return vd_copysign(r, x);
}

/* As above, moved by one divisor to the divisor's sign. */
static inline vd vd_remainder(vd x, vd y)
{
    vd r = vd_fmod(x, y);
    md other = md_xor(vd_lt(r, vd_zero()), vd_lt(y, vd_zero()));
    return vd_select(md_and(other, vd_ne(r, vd_zero())), r + y, r);
}

static inline vf vf_fmod(vf x, vf y)
{
    return vd_to_vf(vd_fmod(vf_low_to_vd(x), vf_low_to_vd(y)),
                    vd_fmod(vf_high_to_vd(x), vf_high_to_vd(y)));
}
/* The sum r + y rounds, once, in f32. */
static inline vf vf_remainder(vf x, vf y)
{
    vf r = vf_fmod(x, y);
    mf other = mf_xor(vf_lt(r, vf_zero()), vf_lt(y, vf_zero()));
    return vf_select(mf_and(other, vf_ne(r, vf_zero())), r + y, r);
}

/* The whole part that belongs to the remainder: (x - rest) / y is whole but for its rounding, and one less
 * where the rest has the other sign.  floor(x / y) is not that: 1 / 0.1 rounds to 10, but nine times
 * the double 0.1 fit into 1. */
#define FLOOR_DIVIDE(v, mask)                                                                      \
    static inline v v##_floor_divide(v x, v y)                                                     \
    {                                                                                              \
        v zero = v_like(x, 0), one = v_like(x, 1), ratio = x / y, rest = v##_fmod(x, y);           \
        v q = (x - rest) / y;                                                                      \
        mask other = mask##_xor(v_lt(rest, zero), v_lt(y, zero));                                  \
        q = v_select(mask##_and(other, v_ne(rest, zero)), q - one, q);                             \
        v whole = v_floor(q);                                                                      \
        whole = v_select(v_gt(q - whole, v_like(x, 0.5)), whole + one, whole);                     \
        whole = v_select(v_eq(q, zero), v_copysign(zero, ratio), whole);                           \
        return v_select(v_eq(y, zero), ratio, whole);                                              \
    }
FLOOR_DIVIDE(vf, mf)
FLOOR_DIVIDE(vd, md)

MAP_FLOAT(fmod, 2, 0, V_PICK(x[0], fmod)(x[0], x[1]))
MAP_FLOAT(remainder, 2, 0, V_PICK(x[0], remainder)(x[0], x[1]))
MAP_FLOAT(floor_divide, 2, 0, V_PICK(x[0], floor_divide)(x[0], x[1]))
