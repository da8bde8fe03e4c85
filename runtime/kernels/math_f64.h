/* Vector mathematics in f64: exponentials, logarithms, error function, inverse and hyperbolic
 * functions; sin, cos and tan are in math_trig.h.  No libm.  Errors in ulp are bounded in ulp.def
 * and measured by spec/ulp.c.
 *
 * Polynomials interpolate the function named at Chebyshev nodes, computed with 60 digits and
 * rounded; the comment gives the largest error relative to the whole result.  Reductions follow
 * Cody and Waite, Software Manual for the Elementary Functions (1980), and Tang, ACM TOMS 16
 * (1990); pairs of f64 follow Dekker, Numer. Math. 18 (1971). */
#ifndef NNL_KERNELS_MATH_F64_H
#define NNL_KERNELS_MATH_F64_H

#include "vec.h"

#if defined(__clang__)
#define VEC_UNROLL _Pragma("clang loop unroll(full)")
#else
#define VEC_UNROLL _Pragma("GCC unroll 32")
#endif

/* c[0] + c[1] x + ... + c[n - 1] x^(n - 1); n is a constant. */
VEC_INLINE vd vd_polynomial(vd x, const double *c, int n)
{
    vd y = vd_set1(c[n - 1]);
    VEC_UNROLL
    for (int i = n - 2; i >= 0; i--) y = vd_fma(y, x, vd_set1(c[i]));
    return y;
}

/* 2^n for a whole n in [-1022, 1023]: n + 1023 is put into the exponent field. */
VEC_INLINE vd vd_pow2(vd n) { return (vd)((vul)(n + (0x1.8p52 + 1023.0)) << 52); }

/* 2^n x for a whole n in [-2044, 2046], rounded once; 2^n may lie beyond the range of f64. */
VEC_INLINE vd vd_scale(vd x, vd n)
{
#if defined(VEC_AVX512)
    return _mm512_scalef_pd(x, n);
#else
    vd half = vd_round(n * 0.5);
    return x * vd_pow2(half) * vd_pow2(n - half);
#endif
}

/* ---------------------------------------------------------------- pairs: a number as high + low */

typedef struct vd_pair { vd high, low; } vd_pair;

VEC_INLINE vd_pair vd_two_sum(vd a, vd b)
{
    vd s = a + b, t = s - a;
    return (vd_pair){s, (a - (s - t)) + (b - t)};
}
/* As above for |a| >= |b| or a = 0. */
VEC_INLINE vd_pair vd_fast_two_sum(vd a, vd b)
{
    vd s = a + b;
    return (vd_pair){s, b - (s - a)};
}
VEC_INLINE vd_pair vd_two_product(vd a, vd b)
{
    vd p = a * b;
#if defined(VEC_FMA)
    return (vd_pair){p, vd_fma(a, b, -p)};
#else
    vd ta = a * 0x1.0000002p27, tb = b * 0x1.0000002p27;
    vd ah = ta - (ta - a), bh = tb - (tb - b), al = a - ah, bl = b - bh;
    return (vd_pair){p, ((ah * bh - p) + ah * bl + al * bh) + al * bl};
#endif
}
VEC_INLINE vd_pair vd_pair_multiply(vd_pair a, vd_pair b)
{
    vd_pair p = vd_two_product(a.high, b.high);
    return vd_fast_two_sum(p.high, p.low + (a.high * b.low + a.low * b.high));
}

/* ---------------------------------------------------------------- exponentials */

#define LOG2E 0x1.71547652b82fep+0
#define LN2_HIGH 0x1.62e42fefa3800p-1 /* 42 bits: n LN2_HIGH is exact for |n| < 2^11 */
#define LN2_LOW 0x1.ef35793c76730p-45

/* e^r - 1 for |r| <= ln 2 / 2; (e^r - 1 - r - r^2/2) / r^3, error 2^-55 of r^3 */
VEC_INLINE vd vd_expm1_reduced(vd r)
{
    static const double c[10] = {
        0.16666666666666669, 0.041666666666666664, 0.008333333333330039, 0.0013888888888886537,
        0.00019841269863171557, 2.4801587317228724e-05, 2.7557268276905696e-06,
        2.7557282838800484e-07, 2.5100472505694996e-08, 2.09112987659402e-09,
    };
    vd square = r * r;
    return r + vd_fma(square * r, vd_polynomial(r, c, 10), square * 0.5);
}

/* factor e^(x + low) as 2^n p, |p| in [0.7, 1.42] of factor, for |x| < 2^11. */
VEC_INLINE vd vd_exp_times(vd x, vd low, vd factor, vd *n)
{
    vd whole = vd_round(x * LOG2E);
    vd r = vd_fnma(whole, vd_set1(LN2_LOW), vd_fnma(whole, vd_set1(LN2_HIGH), x)) + low;
    *n = whole;
    return vd_fma(vd_expm1_reduced(r), factor, factor);
}
VEC_INLINE vd vd_exp_parts(vd x, vd low, vd *n)
{
    return vd_exp_times(x, low, vd_set1(1.0), n);
}

/* x between the bounds, NaN kept. */
VEC_INLINE vd vd_between(vd x, double low, double high)
{
    return vd_min(vd_set1(high), vd_max(vd_set1(low), x));
}

VEC_INLINE vd vd_exp(vd x)
{
    vd n, p = vd_exp_parts(vd_between(x, -746.0, 710.0), vd_zero(), &n);
    return vd_scale(vd_select(vd_lt(x, vd_set1(-745.2)), vd_zero(), p), n); /* as in vf_exp */
}

/* (2^r - 1) / r for |r| <= 1/2, error 2^-63 */
VEC_INLINE vd vd_exp2(vd x)
{
    static const double c[12] = {
        0.69314718055994529, 0.24022650695910072, 0.055504108664821625, 0.0096181291076284803,
        0.0013333558146406295, 0.00015403530393370645, 1.5252733841782436e-05,
        1.3215486808817261e-06, 1.01780569717918e-07, 7.0548972467672364e-09,
        4.4558384999982015e-10, 2.5729426100386435e-11,
    };
    x = vd_between(x, -1076.0, 1024.0);
    vd n = vd_round(x), r = x - n;
    return vd_scale(vd_fma(r, vd_polynomial(r, c, 12), vd_set1(1.0)), n);
}

VEC_INLINE vd vd_expm1(vd x)
{
    vd y = vd_between(x, -50.0, 710.0), n = vd_round(y * LOG2E);
    vd r = vd_fnma(n, vd_set1(LN2_LOW), vd_fnma(n, vd_set1(LN2_HIGH), y));
    vd p = vd_expm1_reduced(r), half = vd_pow2(n - 1.0); /* half: 2^n itself may overflow */
    vd result = vd_fma(half, p, half - 0.5) * 2.0;
    return vd_select(vd_eq(n, vd_zero()), vd_select(vd_eq(x, vd_zero()), x, p), result);
}

/* ---------------------------------------------------------------- logarithms */

/* x = 2^k m with m in [sqrt(1/2), sqrt(2)), x > 0 and finite.  *one_over gets 2^-k where that is
 * normal. */
VEC_INLINE vd vd_split(vd x, vd *k, vd *one_over)
{
    md tiny = vd_lt(x, vd_set1(0x1p-1022));
    vd y = vd_select(tiny, x * 0x1p54, x);
    vul offset = (vul)y - 0x3fe6a09e667f3bcdu; /* sqrt(1/2) */
    vul exponent = offset & 0xfff0000000000000u;
    /* k + 2048 as an unsigned number, placed into the fraction of 2^52 */
    vul biased = (offset + 0x8000000000000000u) >> 52;
    vd number = (vd)(biased | (vul)vd_set1(0x1p52)) - (0x1p52 + 2048.0);
    *k = number - vd_select(tiny, vd_set1(54.0), vd_zero());
    *one_over = (vd)((vul)vd_set1(1.0) - exponent);
    return (vd)((vul)y - exponent);
}

/* k ln 2 + log(1 + f), f in [-0.293, 0.415].  With s = f / (2 + f), log(1 + f) = 2 s + s z (2/3 +
 * ...), z = s^2, rearranged so that f itself is added last (Tang 1990; the form of FreeBSD's
 * e_log.c). Error of the polynomial 2^-56. */
VEC_INLINE vd vd_log_reduced(vd f, vd k)
{
    static const double c[7] = {
        0.66666666666666696, 0.39999999999899505, 0.28571428625975487, 0.22222211134795081,
        0.18182889125261723, 0.15331721600556042, 0.14616449685043406,
    };
    vd s = f / (2.0 + f), z = s * s, half_square = 0.5 * f * f;
    vd rest = vd_fma(k, vd_set1(LN2_LOW), s * vd_fma(z, vd_polynomial(z, c, 7), half_square));
    return vd_fma(k, vd_set1(LN2_HIGH), f - (half_square - rest));
}

/* result where x > 0 is finite; the logarithm's value elsewhere */
VEC_INLINE vd vd_log_special(vd x, vd result)
{
    vd infinite = vd_set1(__builtin_inf());
    result = vd_select(vd_eq(x, infinite), infinite, result);
    vd otherwise = vd_select(vd_eq(x, vd_zero()), -infinite, vd_set1(__builtin_nan("")));
    return vd_select(vd_gt(x, vd_zero()), result, otherwise);
}

VEC_INLINE vd vd_log(vd x)
{
    vd k, unused, m = vd_split(x, &k, &unused);
    return vd_log_special(x, vd_log_reduced(m - 1.0, k));
}

/* Of the rounded sum u = 1 + x; what was lost is added to the fraction. */
VEC_INLINE vd vd_log1p(vd x)
{
    vd_pair sum = vd_two_sum(vd_set1(1.0), x);
    vd k, scale, m = vd_split(sum.high, &k, &scale);
    vd lost = vd_select(vd_lt(x, vd_set1(0x1p60)), sum.low * scale, vd_zero());
    vd result = vd_log_special(sum.high, vd_log_reduced((m - 1.0) + lost, k));
    return vd_select(vd_eq(x, vd_zero()), x, result);
}

/* log(x / 2^k) for x = 2^k m as a pair with an error below 2^-64 of it: the first two terms of the
 * series in s = (m - 1) / (m + 1) are computed in pairs, the rest (z^2 times a polynomial, error
 * 2^-69) is small. */
VEC_INLINE vd_pair vd_log_pair(vd x, vd *k)
{
    static const double c[8] = {
        0.40000000000000002, 0.28571428571429364, 0.22222222221656232, 0.18181818335314404,
        0.15384594970895457, 0.13334804238225345, 0.11706248540922384, 0.11723051028097757,
    };
    vd unused, m = vd_split(x, k, &unused), f = m - 1.0;
    vd_pair divisor = vd_fast_two_sum(vd_set1(2.0), f);
    vd_pair s;
    s.high = f / divisor.high;
    vd_pair back = vd_two_product(s.high, divisor.high);
    s.low = (((f - back.high) - back.low) - s.high * divisor.low) / divisor.high;
    vd_pair z = vd_two_product(s.high, s.high);
    z.low += 2.0 * s.high * s.low;
    vd rest = z.high * vd_polynomial(z.high, c, 8);
    vd_pair series = vd_fast_two_sum(vd_set1(0x1.5555555555555p-1), rest);
    series.low += 0x1.5555555555555p-55;
    vd_pair tail = vd_pair_multiply(vd_pair_multiply(s, z), series);
    vd_pair sum = vd_fast_two_sum(2.0 * s.high, tail.high);
    return vd_fast_two_sum(sum.high, sum.low + (2.0 * s.low + tail.low));
}

VEC_INLINE vd vd_log2(vd x)
{
    const vd_pair log2e = {vd_set1(0x1.71547652b82fep+0), vd_set1(0x1.777d0ffda0d24p-56)};
    vd k;
    vd_pair part = vd_pair_multiply(vd_log_pair(x, &k), log2e);
    vd_pair sum = vd_fast_two_sum(k, part.high);
    return vd_log_special(x, sum.high + (sum.low + part.low));
}

VEC_INLINE vd vd_log10(vd x)
{
    const vd_pair log10e = {vd_set1(0x1.bcb7b1526e50ep-2), vd_set1(0x1.95355baaafad3p-57)};
    vd k;
    vd_pair part = vd_pair_multiply(vd_log_pair(x, &k), log10e);
    /* log10(2): 42 bits and the rest, so that k times the first is exact */
    vd_pair sum = vd_fast_two_sum(k * 0x1.34413509f7800p-2, part.high);
    return vd_log_special(x, sum.high + (sum.low + (part.low + k * 0x1.fef311f12b358p-46)));
}

/* ---------------------------------------------------------------- powers */

/* e^(y log |x|) with the logarithm as a pair; what IEEE 754 asks of pow in the special cases. */
VEC_INLINE vd vd_pow(vd x, vd y)
{
    const vd zero = vd_zero(), one = vd_set1(1.0), infinite = vd_set1(__builtin_inf());
    vd a = vd_abs(x), k, n;
    vd_pair part = vd_log_pair(a, &k);
    /* ln 2 in 42 + 42 + 53 bits */
    vd_pair sum = vd_fast_two_sum(k * LN2_HIGH, part.high);
    vd low = part.low + vd_fma(k, vd_set1(0x1.cc01f97b57a08p-87), k * 0x1.ef35793c76000p-45);
    vd_pair log = vd_fast_two_sum(sum.high, sum.low + low);
    log.high = vd_log_special(a, log.high);
    /* beyond 2^100 the power has no finite value left but 1 */
    vd_pair power = vd_two_product(vd_between(y, -0x1p100, 0x1p100), log.high);
    vd clipped = vd_between(power.high, -800.0, 800.0);
    low = vd_select(vd_eq(clipped, power.high), vd_fma(y, log.low, power.low), zero);
    vd p = vd_exp_parts(clipped, low, &n);
    vd result = vd_scale(p, n);

    vd half = y * 0.5;
    md whole = vd_eq(vd_trunc(y), y), odd = md_and(whole, vd_ne(vd_trunc(half), half));
    odd = md_and(odd, vd_lt(vd_abs(y), infinite));
    md edge = md_or(vd_eq(a, zero), vd_eq(a, infinite));
    vd at_edge = vd_select(md_xor(vd_eq(a, zero), vd_lt(y, zero)), zero, infinite);
    result = vd_select(edge, at_edge, result);
    md negative = vd_lt(vd_copysign(one, x), zero);
    result = vd_select(md_and(negative, odd), -result, result);
    md real = md_or(whole, md_or(edge, md_not(vd_lt(x, zero))));
    result = vd_select(real, result, vd_set1(__builtin_nan("")));
    md unordered = md_or(vd_isnan(x), vd_isnan(y));
    result = vd_select(unordered, x + y, result);
    md is_one = md_or(vd_eq(y, zero), vd_eq(x, one));
    is_one = md_or(is_one, md_and(vd_eq(x, -one), vd_eq(vd_abs(y), infinite)));
    return vd_select(is_one, one, result);
}

/* ---------------------------------------------------------------- the error function */

/* erf(sqrt z) / sqrt z - 1 for z <= 1/4, error 2^-65 */
VEC_INLINE vd vd_erf_small(vd x)
{
    static const double c[10] = {
        0.12837916709551259, -0.37612638903183748, 0.11283791670954869, -0.026866170644999719,
        0.0052239776220169365, -0.0008548326510724796, 0.00012055286202005714,
        -1.4923003368152099e-05, 1.637123442577e-06, -1.4620913409451749e-07,
    };
    return vd_fma(x, vd_polynomial(x * x, c, 10), x);
}

/* e^(z^2) erfc(z) for z in [1/2, 28]: (z + 5/2) times it is a polynomial in (z - 1) / (z + 5/2), a
 * transformation as in Shepherd and Laframboise, Math. Comp. 36 (1981); error 2^-60. */
VEC_INLINE vd vd_erfcx(vd z)
{
    static const double c[24] = {
        1.4965425165453246, -1.850304664557433, 1.4215288481603836, -0.57695397205905918,
        -0.0010756991487354483, 0.098574348621538493, -0.007395136156889269,
        -0.021194979950603487, -0.00059006221670476723, 0.0051027083961536794,
        0.0014051419587651952, -0.00096346718153537134, -0.0007392106352251583,
        -4.4483510278130847e-06, 0.00021978057818196488, 2.9604255432423609e-05,
        0.00031541740524910182, -0.00082774701335760906, 0.0012089354260679695,
        -0.00131463825048222, 0.00095886654730137865, -0.00042474963352591145,
        0.0001024066925016312, -1.0215883565261928e-05,
    };
    vd sum = z + 2.5, u = (z - 1.0) / sum;
    return vd_polynomial(u, c, 24) / sum;
}

VEC_INLINE vd vd_erf(vd x)
{
    vd a = vd_between(vd_abs(x), 0.5, 6.5), n;
    vd p = vd_exp_times(-(a * a), vd_zero(), vd_erfcx(a), &n);
    vd large = vd_copysign(1.0 - p * vd_pow2(n), x);
    vd result = vd_select(vd_lt(vd_abs(x), vd_set1(0.5)), vd_erf_small(x), large);
    return vd_select(vd_isnan(x), x, result);
}

VEC_INLINE vd vd_erfc(vd x)
{
    vd a = vd_between(vd_abs(x), 0.5, 28.0), n;
    vd_pair square = vd_two_product(a, a);
    vd large = vd_exp_times(-square.high, -square.low, vd_erfcx(a), &n);
    large = vd_scale(large, n);
    large = vd_select(vd_lt(x, vd_zero()), 2.0 - large, large);
    vd result = vd_select(vd_lt(vd_abs(x), vd_set1(0.5)), 1.0 - vd_erf_small(x), large);
    return vd_select(vd_isnan(x), x, result);
}

/* x times the normal distribution function, x erfc(-x / sqrt 2) / 2; scaled last, for it is normal
 * where the distribution function is denormal. */
VEC_INLINE vd vd_normal_times(vd x, vd factor)
{
    vd a = vd_between(vd_abs(x), 0.0, 39.5), n, z = vd_max(a * 0x1.6a09e667f3bcdp-1, vd_set1(0.5));
    vd_pair square = vd_two_product(a, a);
    vd tail = vd_exp_times(square.high * -0.5, square.low * -0.5, vd_erfcx(z) * 0.5, &n);
    vd small = 0.5 + 0.5 * vd_erf_small(vd_min(a, vd_set1(0.71)) * 0x1.6a09e667f3bcdp-1);
    md is_small = vd_lt(a, vd_set1(0.7071));
    vd upper = vd_select(is_small, small, 1.0 - tail * vd_pow2(vd_max(n, vd_set1(-1000.0))));
    md negative = vd_lt(x, vd_zero());
    vd lower = vd_select(is_small, factor * (1.0 - small), vd_scale(factor * tail, n));
    return vd_select(negative, lower, factor * upper);
}

/* ---------------------------------------------------------------- hyperbolic functions */

/* (sinh(sqrt z) - sqrt z) / (z sqrt z) for z <= 1, error 2^-71; beyond, (e^x - e^-x) / 2. */
VEC_INLINE vd vd_sinh(vd x)
{
    static const double c[8] = {
        0.16666666666666666, 0.0083333333333333332, 0.00019841269841269773, 2.755731922404034e-06,
        2.5052108364058039e-08, 1.6059048396350562e-10, 7.6466253616566573e-13,
        2.8445264169895285e-15,
    };
    vd a = vd_abs(x), n, p = vd_exp_parts(vd_between(a, 0.0, 711.0), vd_zero(), &n);
    vd half = vd_scale(p, n - 1.0);
    vd large = vd_copysign(half - 0.25 / half, x);
    vd z = x * x, small = vd_fma(x * z, vd_polynomial(z, c, 8), x);
    return vd_select(vd_lt(a, vd_set1(1.0)), small, vd_select(vd_isnan(x), x, large));
}

VEC_INLINE vd vd_cosh(vd x)
{
    vd n, p = vd_exp_parts(vd_between(vd_abs(x), 0.0, 711.0), vd_zero(), &n);
    vd half = vd_scale(p, n - 1.0);
    return half + 0.25 / half;
}

/* t / (t + 2), t = e^(2 |x|) - 1 */
VEC_INLINE vd vd_tanh(vd x)
{
    vd t = vd_expm1(vd_min(vd_set1(44.0), 2.0 * vd_abs(x)));
    return vd_copysign(t / (t + 2.0), x);
}

/* x - tanh x without cancellation: for |x| < 2 it is (x cosh x - sinh x) / cosh x, the numerator
 * x^3 times a polynomial in x^2, error 2^-67. */
VEC_INLINE vd vd_tanhshrink(vd x)
{
    static const double c[10] = {
        0.33333333333333331, 0.033333333333333333, 0.0011904761904761897, 2.2045855379191042e-05,
        2.5052108385063549e-07, 1.9270852639452778e-09, 1.0706027223242858e-11,
        4.498401844767704e-14, 1.4782268075816062e-16, 4.0883946385603341e-19,
    };
    vd z = x * x, small = x * z * vd_polynomial(z, c, 10) / vd_cosh(x);
    return vd_select(vd_lt(vd_abs(x), vd_set1(2.0)), small, x - vd_tanh(x));
}

/* For large |x| both inverse functions are log |2 x|. */
VEC_INLINE vd vd_asinh(vd x)
{
    vd a = vd_abs(x), square = a * a;
    md large = vd_gt(a, vd_set1(0x1p28));
    vd y = vd_select(large, a - 1.0, a + square / (1.0 + vd_sqrt(1.0 + square)));
    y = vd_log1p(y);
    return vd_copysign(vd_select(large, y + 0x1.62e42fefa39efp-1, y), x);
}

VEC_INLINE vd vd_acosh(vd x)
{
    vd t = x - 1.0;
    md large = vd_gt(x, vd_set1(0x1p28));
    vd y = vd_select(large, t, t + vd_sqrt(2.0 * t + t * t));
    y = vd_log1p(y);
    y = vd_select(large, y + 0x1.62e42fefa39efp-1, y);
    return vd_select(vd_lt(x, vd_set1(1.0)), vd_set1(__builtin_nan("")), y);
}

VEC_INLINE vd vd_atanh(vd x)
{
    vd a = vd_abs(x);
    return vd_copysign(0.5 * vd_log1p(2.0 * a / (1.0 - a)), x);
}

/* ---------------------------------------------------------------- inverse circular functions */

#define PI_HALF_HIGH 0x1.921fb54442d18p+0
#define PI_HALF_LOW 0x1.1a62633145c07p-54

/* (asin s - s) / s^3 at z = s^2 <= 1/4, error 2^-57 */
VEC_INLINE vd vd_asin_polynomial(vd z)
{
    static const double c[13] = {
        0.16666666666666669, 0.074999999999984329, 0.044642857146355429, 0.030381944138531247,
        0.022372172942149889, 0.017352392720869973, 0.013971212973552933, 0.011479177415184906,
        0.010322814350185781, 0.0054575067186403503, 0.017400879442694042,
        -0.014851887071247231, 0.028757851367421584,
    };
    return vd_polynomial(z, c, 13);
}

/* asin a for a in (1/2, 1] is pi/2 - 2 asin(s), s = sqrt((1 - a) / 2): returns 2 asin(s) as a
 * pair. */
VEC_INLINE vd_pair vd_asin_beyond_half(vd a)
{
    vd z = (1.0 - a) * 0.5, s = vd_sqrt(z);
    vd_pair square = vd_two_product(s, s);
    vd lost = ((z - square.high) - square.low) / (s + s);
    lost = vd_select(vd_eq(s, vd_zero()), vd_zero(), lost);
    return (vd_pair){2.0 * s, 2.0 * (lost + s * z * vd_asin_polynomial(z))};
}

VEC_INLINE vd vd_asin(vd x)
{
    vd a = vd_abs(x), z = x * x;
    vd_pair beyond = vd_asin_beyond_half(a);
    vd_pair large = vd_fast_two_sum(vd_set1(PI_HALF_HIGH), -beyond.high);
    vd result = large.high + (large.low + (PI_HALF_LOW - beyond.low));
    vd small = vd_fma(x * z, vd_asin_polynomial(z), x);
    return vd_select(vd_gt(a, vd_set1(0.5)), vd_copysign(result, x), small);
}

VEC_INLINE vd vd_acos(vd x)
{
    vd a = vd_abs(x), z = x * x;
    vd_pair beyond = vd_asin_beyond_half(a);
    vd_pair pi = vd_fast_two_sum(vd_set1(2.0 * PI_HALF_HIGH), -beyond.high);
    vd low = pi.high + (pi.low + (2.0 * PI_HALF_LOW - beyond.low));
    vd large = vd_select(vd_lt(x, vd_zero()), low, beyond.high + beyond.low);
    vd_pair middle = vd_fast_two_sum(vd_set1(PI_HALF_HIGH), -x);
    vd small = middle.high + (middle.low + (PI_HALF_LOW - x * z * vd_asin_polynomial(z)));
    return vd_select(vd_gt(a, vd_set1(0.5)), large, small);
}

/* The angle of the point (x, y) for x >= 0, y >= 0, not both 0 or infinite: turned by 0, pi/4 or
 * pi/2 so that the tangent left is at most tan(pi/8); (atan t - t) / t^3, error 2^-62. */
VEC_INLINE vd_pair vd_angle(vd y, vd x)
{
    static const double c[12] = {
        -0.33333333333333331, 0.19999999999999804, -0.14285714285659779, 0.11111111105150588,
        -0.090909087532591124, 0.076922963680422965, -0.066664247602005205, 0.058789275544738069,
        -0.052304436406869478, 0.045515447340221615, -0.034569315063326084, 0.016284375050043386,
    };
    const double tan_eighth = 0x1.a827999fcef32p-2; /* tan(pi/8) */
    md steep = vd_gt(x, y * tan_eighth), flat = vd_gt(y, x * tan_eighth);
    md middle = md_and(steep, flat); /* between pi/8 and 3 pi/8 */
    vd above = vd_select(middle, y - x, vd_select(flat, -x, y));
    vd below = vd_select(middle, y + x, vd_select(flat, y, x));
    vd t = above / below, z = t * t;
    vd turn = vd_select(middle, vd_set1(0.5), vd_select(flat, vd_set1(1.0), vd_zero()));
    vd_pair sum = vd_fast_two_sum(turn * PI_HALF_HIGH, t);
    vd rest = vd_fma(t * z, vd_polynomial(z, c, 12), turn * PI_HALF_LOW);
    return (vd_pair){sum.high, sum.low + rest};
}

VEC_INLINE vd vd_atan(vd x)
{
    vd a = vd_min(vd_abs(x), vd_set1(0x1p60));
    vd_pair angle = vd_angle(a, vd_set1(1.0));
    return vd_select(vd_isnan(x), x, vd_copysign(angle.high + angle.low, x));
}

VEC_INLINE vd vd_atan2(vd y, vd x)
{
    vd ay = vd_abs(y), ax = vd_abs(x), infinite = vd_set1(__builtin_inf());
    md both = md_and(vd_eq(ay, infinite), vd_eq(ax, infinite));
    md none = md_and(vd_eq(ay, vd_zero()), vd_eq(ax, vd_zero()));
    vd v = vd_select(both, vd_set1(1.0), ay), h = vd_select(md_or(both, none), vd_set1(1.0), ax);
    /* an infinity beside a finite number is as good as a large one; sums must neither overflow
     * nor be denormal */
    vd larger = vd_max(v, h);
    md huge = vd_gt(larger, vd_set1(0x1p1000)), tiny = vd_lt(larger, vd_set1(0x1p-900));
    vd scale = vd_select(huge, vd_set1(0x1p-100), vd_select(tiny, vd_set1(0x1p150), vd_set1(1.0)));
    v = vd_min(vd_set1(0x1p1020), v * scale);
    h = vd_min(vd_set1(0x1p1020), h * scale);
    v = vd_select(md_and(vd_eq(ax, infinite), md_not(both)), vd_zero(), v);
    h = vd_select(md_and(vd_eq(ay, infinite), md_not(both)), vd_zero(), h);
    vd_pair angle = vd_angle(v, h);
    vd_pair left = vd_fast_two_sum(vd_set1(2.0 * PI_HALF_HIGH), -angle.high);
    vd result = vd_select(vd_lt(vd_copysign(vd_set1(1.0), x), vd_zero()),
                          left.high + (left.low + (2.0 * PI_HALF_LOW - angle.low)),
                          angle.high + angle.low);
    return vd_select(md_or(vd_isnan(x), vd_isnan(y)), x + y, vd_copysign(result, y));
}

/* ------------------------------------------------------------ the logistic function and its kin */

/* e^(-x^2), x^2 as a pair */
VEC_INLINE vd vd_gaussian(vd x)
{
    vd a = vd_between(vd_abs(x), 0.0, 28.0), n;
    vd_pair square = vd_two_product(a, a);
    vd p = vd_exp_parts(-square.high, -square.low, &n);
    return vd_select(vd_isnan(x), x, vd_scale(p, n));
}

/* factor / (1 + e^-x); for x < 0 as factor e^x / (1 + e^x), e^x = 2^n (1 + t), the power of two
 * last. */
VEC_INLINE vd vd_sigmoid_times(vd x, vd factor)
{
    vd y = -vd_min(vd_set1(760.0), vd_abs(x)), n = vd_round(y * LOG2E);
    vd r = vd_fnma(n, vd_set1(LN2_LOW), vd_fnma(n, vd_set1(LN2_HIGH), y));
    vd t = vd_expm1_reduced(r), scale = vd_pow2(vd_max(n, vd_set1(-1000.0)));
    vd q = factor / vd_fma(scale, t, 1.0 + scale);
    md negative = vd_lt(x, vd_zero());
    q = vd_select(negative, vd_fma(q, t, q), q);
    return vd_scale(q, vd_select(negative, n, vd_zero()));
}
VEC_INLINE vd vd_sigmoid(vd x) { return vd_sigmoid_times(x, vd_set1(1.0)); }

/* log(1 + e^x) */
VEC_INLINE vd vd_softplus(vd x)
{
    return vd_max(vd_zero(), x) + vd_log1p(vd_exp(-vd_abs(x)));
}

#endif
