/* Vector mathematics in f32 for the functions that networks spend their time in; the rare ones go
 * through f64 (VF_VIA_F64).  Reductions, polynomials and bounds as told in math_f64.h. */
#ifndef NNL_KERNELS_MATH_F32_H
#define NNL_KERNELS_MATH_F32_H

#include "math_f64.h"

/* Computes in f64 and rounds: an error little above half an ulp. */
#define VF_VIA_F64(name)                                                                           \
    VEC_INLINE vf vf_##name(vf x)                                                                  \
    {                                                                                              \
        return vd_to_vf(vd_##name(vf_low_to_vd(x)), vd_##name(vf_high_to_vd(x)));                  \
    }
VF_VIA_F64(exp2)
VF_VIA_F64(log2)
VF_VIA_F64(log10)
VF_VIA_F64(log1p)
VF_VIA_F64(erfc)
VF_VIA_F64(sinh)
VF_VIA_F64(cosh)
VF_VIA_F64(tanhshrink)
VF_VIA_F64(asinh)
VF_VIA_F64(acosh)
VF_VIA_F64(atanh)
VF_VIA_F64(asin)
VF_VIA_F64(acos)
VF_VIA_F64(atan)

VEC_INLINE vf vf_atan2(vf y, vf x)
{
    return vd_to_vf(vd_atan2(vf_low_to_vd(y), vf_low_to_vd(x)),
                    vd_atan2(vf_high_to_vd(y), vf_high_to_vd(x)));
}
VEC_INLINE vf vf_pow(vf x, vf y)
{
    return vd_to_vf(vd_pow(vf_low_to_vd(x), vf_low_to_vd(y)),
                    vd_pow(vf_high_to_vd(x), vf_high_to_vd(y)));
}

VEC_INLINE vf vf_polynomial(vf x, const float *c, int n)
{
    vf y = vf_set1(c[n - 1]);
    VEC_UNROLL
    for (int i = n - 2; i >= 0; i--) y = vf_fma(y, x, vf_set1(c[i]));
    return y;
}

/* The same by pairs of terms, square being x^2: one more operation, half the latency. */
VEC_INLINE vf vf_polynomial_pairs(vf x, vf square, const float *c, int n)
{
    vf even = vf_set1(c[(n - 1) & ~1]), odd = vf_set1(c[(n - 2) | 1]);
    VEC_UNROLL
    for (int i = ((n - 1) & ~1) - 2; i >= 0; i -= 2) even = vf_fma(even, square, vf_set1(c[i]));
    VEC_UNROLL
    for (int i = ((n - 2) | 1) - 2; i >= 1; i -= 2) odd = vf_fma(odd, square, vf_set1(c[i]));
    return vf_fma(odd, x, even);
}

/* 2^n for a whole n in [-126, 127]. */
VEC_INLINE vf vf_pow2(vf n) { return (vf)((vu)(n + (0x1.8p23f + 127.0f)) << 23); }

/* x where 2^n x may round to something, else 0 with its sign, for |x| < 2^8: a multiplication that underflows costs
 * 100 ns. */
VEC_INLINE vf vf_before_scale(vf x, vf n)
{
    return vf_select(vf_lt(n, vf_set1(-158.0f)), vf_copysign(vf_zero(), x), x);
}

/* 2^n x for a whole n in [-252, 254], rounded once. */
VEC_INLINE vf vf_scale(vf x, vf n)
{
#if defined(VEC_AVX512)
    return _mm512_scalef_ps(x, n);
#else
    vf half = vf_round(n * 0.5f);
    return x * vf_pow2(half) * vf_pow2(n - half);
#endif
}

VEC_INLINE vf vf_between(vf x, float low, float high)
{
    return vf_min(vf_set1(high), vf_max(vf_set1(low), x));
}

/* x^2 - square, square being x^2 rounded. */
VEC_INLINE vf vf_square_error(vf x, vf square)
{
#if defined(VEC_FMA)
    return vf_fma(x, x, -square);
#else
    vf high = (vf)((vi)x & vi_set1(-4096)), low = x - high; /* 12 and 12 bits */
    return ((high * high - square) + 2.0f * high * low) + low * low;
#endif
}

/* ---------------------------------------------------------------- exponentials */

#define LOG2E_F 0x1.715476p+0f
#define LN2_HIGH_F 0x1.62e4p-1f /* 15 bits */
#define LN2_LOW_F 0x1.7f7d1cp-20f

/* x / ln 2 rounded to a whole number, for |x| < 2^20. */
VEC_INLINE vf vf_exponent(vf x)
{
    const vf magic = vf_set1(0x1.8p23f);
    return vf_fma(x, vf_set1(LOG2E_F), magic) - magic;
}

/* (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2, error 2^-27.  Terms in pairs: what waits for a result fills the processor's
 * window, and fewer vectors overlap. */
VEC_INLINE vf vf_exp_polynomial(vf r)
{
    vf square = r * r;
    vf high = vf_fma(r, vf_set1(0.00836323295f), vf_set1(0.0416665524f));
    vf low = vf_fma(r, vf_set1(0.166665763f), vf_set1(0.5f));
    return vf_fma(square, vf_fma(square, vf_set1(0.00139262504f), high), low);
}
VEC_INLINE vf vf_expm1_reduced(vf r) { return vf_fma(r * r, vf_exp_polynomial(r), r); }

/* factor e^(x + low) as 2^n p, |p| in [0.7, 1.42] of factor, for |x| < 2^8. */
VEC_INLINE vf vf_exp_times(vf x, vf low, vf factor, vf *n)
{
    vf whole = vf_exponent(x);
    vf r = vf_fnma(whole, vf_set1(LN2_LOW_F), vf_fnma(whole, vf_set1(LN2_HIGH_F), x)) + low;
    *n = whole;
    return vf_fma(vf_expm1_reduced(r), factor, factor);
}
VEC_INLINE vf vf_exp_parts(vf x, vf low, vf *n)
{
    return vf_exp_times(x, low, vf_set1(1.0f), n);
}

/* What rounds to 0 is 0 before it is scaled: the lanes beyond a row and masked scores are -infinity. */
VEC_INLINE vf vf_exp(vf x)
{
#if defined(VEC_AVX512)
    vf y = vf_min(vf_set1(89.0f), x), n = vf_exponent(y); /* nonsense far below 0, where nothing is left of it */
#else
    vf y = vf_between(x, -105.0f, 89.0f), n = vf_exponent(y);
#endif
    vf p = vf_expm1_reduced(vf_fnma(n, vf_set1(LN2_LOW_F), vf_fnma(n, vf_set1(LN2_HIGH_F), y))) + 1.0f;
#if defined(VEC_AVX512)
    return _mm512_maskz_scalef_ps(mf_not(vf_lt(x, vf_set1(-104.0f))), p, n);
#else
    return vf_scale(vf_select(vf_lt(x, vf_set1(-104.0f)), vf_zero(), p), n);
#endif
}

VEC_INLINE vf vf_expm1(vf x)
{
    vf y = vf_between(x, -30.0f, 89.0f), n = vf_exponent(y);
    vf r = vf_fnma(n, vf_set1(LN2_LOW_F), vf_fnma(n, vf_set1(LN2_HIGH_F), y));
    vf p = vf_expm1_reduced(r), half = vf_pow2(n - 1.0f);
    vf result = vf_fma(half, p, half - 0.5f) * 2.0f;
    return vf_select(vf_eq(n, vf_zero()), vf_select(vf_eq(x, vf_zero()), x, p), result);
}

VEC_INLINE vf vf_gaussian(vf x)
{
    vf a = vf_between(vf_abs(x), 0.0f, 11.0f), n, square = a * a;
    vf p = vf_exp_parts(-square, -vf_square_error(a, square), &n);
    return vf_scale(vf_before_scale(p, n), n);
}

/* ---------------------------------------------------------------- logarithms */

/* log(1 + f) - f for f in [-0.293, 0.415], plus extra; (log(1 + f) - f + f^2/2) / f^3, error 2^-28
 * of f^2 */
VEC_INLINE vf vf_log1p_rest(vf f, vf extra)
{
    static const float c[9] = {
        0.333333313f, -0.24999997f, 0.200007156f, -0.166678026f, 0.142490581f, -0.124256872f,
        0.116854198f, -0.114797339f, 0.0697161183f,
    };
    vf square = f * f;
    vf cubic = vf_fma(f * square, vf_polynomial_pairs(f, square, c, 9), extra);
    return vf_fma(square, vf_set1(-0.5f), cubic);
}

#if defined(VEC_AVX512)
/* Exponent and mantissa of denormals, infinities, 0 and NaN come out such that nothing is left to choose; of negative
 * numbers the mantissa is NaN. */
VEC_INLINE vf vf_log(vf x)
{
    vf m = _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_nan), k = _mm512_getexp_ps(x);
    mf upper = vf_gt(m, vf_set1(1.41421356f));
    vf f = vf_select(upper, m * 0.5f, m) - 1.0f;
    k = vf_select(upper, k + 1.0f, k);
    return vf_fma(k, vf_set1(LN2_HIGH_F), f + vf_log1p_rest(f, k * LN2_LOW_F));
}
#else
VEC_INLINE vf vf_log(vf x)
{
    const vf infinite = vf_set1(__builtin_inff());
    mf tiny = vf_lt(x, vf_set1(0x1p-126f));
    vf y = vf_select(tiny, x * 0x1p23f, x);
    vu offset = (vu)y - 0x3f3504f3u; /* sqrt(1/2) */
    vf f = (vf)((vu)y - (offset & 0xff800000u)) - 1.0f;
    vf k = vi_to_vf((vi)offset >> 23) - vf_select(tiny, vf_set1(23.0f), vf_zero());
    vf rest = vf_log1p_rest(f, k * LN2_LOW_F);
    vf result = vf_fma(k, vf_set1(LN2_HIGH_F), f + rest);
    result = vf_select(vf_eq(x, infinite), infinite, result);
    vf otherwise = vf_select(vf_eq(x, vf_zero()), -infinite, vf_set1(__builtin_nanf("")));
    return vf_select(vf_gt(x, vf_zero()), result, otherwise);
}
#endif

/* log(1 + t) for t in [0, 1]; above sqrt(2) - 1 it is ln 2 + log(1 + (t - 1) / 2). */
VEC_INLINE vf vf_log1p_unit(vf t)
{
    mf upper = vf_gt(t, vf_set1(0.41421356f));
    vf f = vf_select(upper, 0.5f * (t - 1.0f), t);
    vf base = vf_select(upper, vf_set1(LN2_HIGH_F), vf_zero());
    vf rest = vf_log1p_rest(f, vf_select(upper, vf_set1(LN2_LOW_F), vf_zero()));
    return base + (f + rest);
}

/* ------------------------------------------------------------ the logistic function and its kin */

/* factor / (1 + e^-x); for x < 0 as factor e^x / (1 + e^x), e^x = 2^n (1 + t), the power of two
 * last. */
VEC_INLINE vf vf_sigmoid_parts(vf x, vf factor, vf *scale_last)
{
    vf y = -vf_min(vf_set1(130.0f), vf_abs(x)), n = vf_exponent(y);
    vf high = vf_fnma(n, vf_set1(LN2_HIGH_F), y), r = vf_fnma(n, vf_set1(LN2_LOW_F), high);
    vf lost = vf_fnma(n, vf_set1(LN2_LOW_F), high - r); /* by rounding r */
    vf t = r + vf_fma(r * r, vf_exp_polynomial(r), lost);
    vf scale = vf_pow2(vf_max(n, vf_set1(-120.0f)));
    vf q = factor / vf_fma(scale, t, 1.0f + scale);
    mf negative = vf_lt(x, vf_zero());
    *scale_last = vf_select(negative, n, vf_zero());
    return vf_select(negative, vf_fma(q, t, q), q);
}
VEC_INLINE vf vf_sigmoid_times(vf x, vf factor)
{
    vf n, q = vf_sigmoid_parts(x, factor, &n);
    return vf_scale(q, n);
}
/* The same for |factor| < 2^8. */
VEC_INLINE vf vf_sigmoid_small(vf x, vf factor)
{
    vf n, q = vf_sigmoid_parts(x, factor, &n);
    return vf_scale(vf_before_scale(q, n), n);
}
VEC_INLINE vf vf_sigmoid(vf x) { return vf_sigmoid_small(x, vf_set1(1.0f)); }

VEC_INLINE vf vf_softplus(vf x)
{
    return vf_max(vf_zero(), x) + vf_log1p_unit(vf_exp(-vf_abs(x)));
}

/* (tanh(sqrt z) - sqrt z) / (z sqrt z) for z <= 0.0729, error 2^-27 (least squares, weights raised where the error is
 * large); beyond, e / (e + 2) with e = e^(2 |x|) - 1, which rounds once too often for smaller ones. */
VEC_INLINE vf vf_tanh(vf x)
{
    vf a = vf_abs(x), z = a * a, y = vf_min(vf_set1(20.0f), a + a), n = vf_exponent(y);
    vf series = vf_fma(vf_fma(vf_set1(-0.051028103f), z, vf_set1(0.1332109f)), z, vf_set1(-0.33333188f));
    vf small = vf_fma(a * z, series, a);
    vf r = vf_fnma(n, vf_set1(LN2_LOW_F), vf_fnma(n, vf_set1(LN2_HIGH_F), y));
    vf scale = vf_pow2(n), e = vf_fma(scale, vf_expm1_reduced(r), scale - 1.0f);
    return vf_copysign(vf_select(vf_lt(a, vf_set1(0.27f)), small, e / (e + 2.0f)), x);
}

/* ---------------------------------------------------------------- the error function */

/* erf(sqrt z) / sqrt z - 1 for z <= 0.81, error 2^-26 */
VEC_INLINE vf vf_erf_small(vf x)
{
    static const float c[6] = {
        0.128379151f, -0.376125276f, 0.112821944f, -0.0267807189f, 0.00501448428f, -0.000610268675f,
    };
    return vf_fma(x, vf_polynomial(x * x, c, 6), x);
}

/* Beyond 0.9 by a polynomial for log(erfc a), error 2^-27 of erf. */
VEC_INLINE vf vf_erf(vf x)
{
    static const float large_c[9] = {
        0.000324776251f, -1.13025916f, -0.63177073f, -0.110142507f, 0.0264622327f,
        -0.00477595674f, 0.000600684201f, -4.65619269e-05f, 1.6647582e-06f,
    };
    vf a = vf_abs(x), small = vf_erf_small(x), n;
    vf p = vf_exp_parts(vf_polynomial(vf_min(vf_set1(3.93f), a), large_c, 9), vf_zero(), &n);
    vf large = vf_copysign(1.0f - p * vf_pow2(n), x);
    return vf_select(vf_lt(a, vf_set1(0.9f)), small, large);
}

/* The normal distribution function: its tail at -a is e^(-a^2 / 2) h(u) / (a + 3), u = (a - 1/2) / (a + 3) and h a
 * polynomial, error 2^-29.  Near 0 it is 1/2 and an odd polynomial, error 2^-29 (least squares, weights raised where the
 * error is large). */
VEC_INLINE vf vf_normal_tail_ratio(vf a)
{
    static const float c[11] = {
        1.22366595f, -1.52196169f, 0.824941039f, 0.0237000436f, -0.175808936f, -0.0257043466f,
        0.041927062f, 0.0168706607f, 0.0127198212f, -0.0335354283f, 0.0121337902f,
    };
    vf over = 1.0f / (a + 3.0f), u = (a - 0.5f) * over;
    /* the last step by itself: in pairs it would round once more */
    vf h = vf_fma(u, vf_polynomial_pairs(u, u * u, c + 1, 10), vf_set1(c[0]));
#if defined(VEC_FMA)
    return h * over;
#else
    return h / (a + 3.0f); /* rounds once less, where the polynomial does so more often */
#endif
}
VEC_INLINE vf vf_normal_small(vf x, vf square)
{
    static const float c[4] = {0.39894226f, -0.06648958f, 0.009961892f, -0.0011244145f};
    return vf_fma(x, vf_polynomial(square, c, 4), vf_set1(0.5f));
}

/* factor, below 2^8, times the distribution function; multiplied before the power of two, for the product may be normal
 * where the tail is not. */
VEC_INLINE vf vf_normal_times(vf x, vf factor)
{
    vf a = vf_min(vf_set1(15.0f), vf_abs(x)), square = a * a, n;
    vf low = vf_square_error(a, square) * -0.5f;
    vf tail = vf_exp_times(square * -0.5f, low, vf_normal_tail_ratio(a), &n) * factor;
    tail = vf_scale(vf_before_scale(tail, n), n);
    vf y = vf_select(vf_lt(x, vf_zero()), tail, factor - tail);
    return vf_select(vf_lt(a, vf_set1(0.5f)), factor * vf_normal_small(x, square), y);
}

#endif
