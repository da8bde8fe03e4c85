/* sin, cos and tan of every f32 and f64.  The argument is brought to [-pi/4, pi/4] with pi/2 in
 * parts (Cody and Waite); a large one, lane by lane, with as many bits of 2/pi as it needs (Payne
 * and Hanek, SIGNUM Newsletter 18 (1983)). */
#ifndef NNL_KERNELS_MATH_TRIG_H
#define NNL_KERNELS_MATH_TRIG_H

#include "math_f32.h"

/* ---------------------------------------------------------------- large arguments */

/* The high half of a 64 x 64 bit product. */
static inline uint64_t trig_multiply_high(uint64_t a, uint64_t b)
{
    uint64_t a0 = a & 0xffffffffu, a1 = a >> 32, b0 = b & 0xffffffffu, b1 = b >> 32;
    uint64_t middle = a1 * b0 + (a0 * b0 >> 32), other = a0 * b1 + (middle & 0xffffffffu);
    return a1 * b1 + (middle >> 32) + (other >> 32);
}

/* x = quadrant pi/2 + rest[0] + rest[1] (mod 2 pi), |x| >= 2 and finite. */
static __attribute__((noinline, unused)) int trig_reduce_large(double x, double rest[2])
{
    /* 2/pi after 64 bits of zero */
    static const uint64_t two_over_pi[] = {
        0x0000000000000000, 0xa2f9836e4e441529, 0xfc2757d1f534ddc0, 0xdb6295993c439041,
        0xfe5163abdebbc561, 0xb7246e3a424dd2e0, 0x06492eea09d1921c, 0xfe1deb1cb129a73e,
        0xe88235f52ebb4484, 0xe99c7026b45f7e41, 0x3991d639835339f4, 0x9c845f8bbdf9283b,
        0x1ff897ffde05980f, 0xef2f118b5a0a6d1f, 0x6d367ecf27cb09b7, 0x4f463f669e5fea2d,
        0x7527bac7ebe5f17b, 0x3d0739f78a5292ea, 0x6bfb5fb11f8d5d08, 0x56033046fc7b6bab,
        0xf0cfbc209af4361d,
    };
    uint64_t bits, word[3], product[3], carry;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 52 & 0x7ff) - 1075;
    uint64_t m = (bits & 0xfffffffffffff) | 0x10000000000000;
    /* x 2/pi mod 4 = m 2^exponent 2/pi: bits of 2/pi above 2^(2 - exponent) give multiples of 4 */
    int first = exponent - 2 + 64, index = first / 64, shift = first % 64;
    for (int i = 0; i < 3; i++) {
        word[i] = two_over_pi[index + i] << shift;
        if (shift > 0) word[i] |= two_over_pi[index + i + 1] >> (64 - shift);
    }
    product[2] = m * word[2];
    carry = trig_multiply_high(m, word[2]);
    product[1] = m * word[1] + carry;
    carry = trig_multiply_high(m, word[1]) + (product[1] < carry);
    product[0] = m * word[0] + carry;
    /* two bits of quadrant, then the fraction, to be taken in [-1/2, 1/2) */
    int quadrant = (int)(product[0] >> 62);
    uint64_t high = product[0] << 2 | product[1] >> 62, low = product[1] << 2 | product[2] >> 62;
    uint64_t end = product[2] << 2;
    bool negative = high >> 63 != 0;
    if (negative) {
        quadrant++;
        end = ~end + 1;
        low = ~low + (end == 0);
        high = ~high + (end == 0 && low == 0);
    }
    const double part[5] = {
        (double)(high >> 32) * 0x1p-32, (double)(high & 0xffffffffu) * 0x1p-64,
        (double)(low >> 32) * 0x1p-96, (double)(low & 0xffffffffu) * 0x1p-128,
        (double)(end >> 32) * 0x1p-160,
    };
    double f = part[4], f_low = 0;
    for (int i = 3; i >= 0; i--) {
        double sum = part[i] + f;
        f_low += f - (sum - part[i]);
        f = sum;
    }
    /* times pi/2 as a pair; the factors are split so that the products are exact without fma */
    const double pi_half = PI_HALF_HIGH;
    double split_f = f * 0x1.0000002p27, split_p = pi_half * 0x1.0000002p27;
    double f1 = split_f - (split_f - f), f2 = f - f1;
    double p1 = split_p - (split_p - pi_half), p2 = pi_half - p1;
    double y = f * pi_half;
    double y_low = ((f1 * p1 - y) + f1 * p2 + f2 * p1) + f2 * p2;
    y_low += f * PI_HALF_LOW + f_low * pi_half;
    if ((x < 0) != negative) {
        y = -y;
        y_low = -y_low;
    }
    rest[0] = y;
    rest[1] = y_low;
    return x < 0 ? -quadrant & 3 : quadrant & 3;
}

/* ---------------------------------------------------------------- f64 */

#define TRIG_LARGE 0x1p20

VEC_INLINE vd_pair vd_trig_reduce(vd x, vl *quadrant)
{
    md large = md_not(vd_lt(vd_abs(x), vd_set1(TRIG_LARGE)));
    vd y = vd_select(large, vd_zero(), x), q = vd_round(y * 0x1.45f306dc9c883p-1);
    /* pi/2 in 33 + 33 + 33 + 53 bits: the first three products are exact */
    vd_pair a = vd_two_sum(y - q * 0x1.921fb544p+0, -(q * 0x1.0b4611a6p-34));
    vd_pair b = vd_two_sum(a.high, -(q * 0x1.3198a2ep-69));
    vd_pair r = vd_two_sum(b.high, (a.low + b.low) - q * 0x1.b839a252049c1p-104);
    *quadrant = vd_to_vl(q);
    uint32_t lanes = md_bits(large);
    if (__builtin_expect(lanes != 0, 0)) {
        double in[VD_LANES], high[VD_LANES], low[VD_LANES];
        int64_t turns[VD_LANES];
        vd_store(in, x);
        vd_store(high, r.high);
        vd_store(low, r.low);
        vl_store(turns, *quadrant);
        for (int i = 0; i < VD_LANES; i++) {
            if (!(lanes >> i & 1)) continue;
            double rest[2] = {in[i] - in[i], 0}; /* NaN */
            if (in[i] - in[i] == 0) turns[i] = trig_reduce_large(in[i], rest);
            high[i] = rest[0];
            low[i] = rest[1];
        }
        r = (vd_pair){vd_load(high), vd_load(low)};
        *quadrant = vl_load(turns);
    }
    return r;
}

/* (sin r - r) / r^3, error 2^-66, and (cos r - 1 + r^2/2) / r^4, error 2^-60; the low part of r
 * enters by its first derivative, and 1 - r^2/2 is kept as a pair (FreeBSD's k_sin.c and k_cos.c
 * do the same). */
VEC_INLINE vd vd_sin_reduced(vd_pair r)
{
    static const double c[7] = {
        -0.16666666666666666, 0.0083333333333333315, -0.00019841269841264567,
        2.7557319218954762e-06, -2.505210610025599e-08, 1.6058510875319195e-10,
        -7.5854864852359384e-13,
    };
    vd z = r.high * r.high;
    vd rest = vd_fma(r.low, vd_fma(z, vd_set1(-0.5), vd_set1(1.0)),
                     r.high * z * vd_polynomial(z, c, 7));
    return r.high + rest;
}
VEC_INLINE vd vd_cos_reduced(vd_pair r)
{
    static const double c[6] = {
        0.041666666666666664, -0.0013888888888887241, 2.480158729853226e-05,
        -2.7557317151858866e-07, 2.0876121534608454e-09, -1.1380868171449914e-11,
    };
    vd z = r.high * r.high, half = 0.5 * z, w = 1.0 - half;
    vd rest = vd_fma(z * z, vd_polynomial(z, c, 6), -(r.high * r.low));
    return w + (((1.0 - w) - half) + rest);
}

VEC_INLINE vd vd_sin(vd x)
{
    vl q;
    vd_pair r = vd_trig_reduce(x, &q);
    vd y = vd_select(vl_eq(q & 1, vl_zero()), vd_sin_reduced(r), vd_cos_reduced(r));
    y = (vd)((vul)y ^ ((vul)(q & 2) << 62));
    return vd_select(vd_eq(x, vd_zero()), x, y);
}
VEC_INLINE vd vd_cos(vd x)
{
    vl q;
    vd_pair r = vd_trig_reduce(x, &q);
    vd y = vd_select(vl_eq(q & 1, vl_zero()), vd_cos_reduced(r), vd_sin_reduced(r));
    return (vd)((vul)y ^ ((vul)((q + 1) & 2) << 62));
}
VEC_INLINE vd vd_tan(vd x)
{
    vl q;
    vd_pair r = vd_trig_reduce(x, &q);
    vd s = vd_sin_reduced(r), c = vd_cos_reduced(r);
    md even = vl_eq(q & 1, vl_zero());
    vd y = vd_select(even, s, -c) / vd_select(even, c, s);
    return vd_select(vd_eq(x, vd_zero()), x, y);
}

/* ---------------------------------------------------------------- f32 */

VF_VIA_F64(tan)

#define TRIG_LARGE_F 0x1p17f

VEC_INLINE vf vf_trig_reduce(vf x, vi *quadrant)
{
    mf large = mf_not(vf_lt(vf_abs(x), vf_set1(TRIG_LARGE_F)));
    vf y = vf_select(large, vf_zero(), x), q = vf_round(y * 0x1.45f306p-1f), r;
#if defined(VEC_FMA)
    r = vf_fnma(q, vf_set1(0x1.921fb6p+0f), y);
    r = vf_fnma(q, vf_set1(-0x1.777a5cp-25f), r);
    r = vf_fnma(q, vf_set1(-0x1.ee59dap-50f), r);
#else
    vd low = vf_low_to_vd(q), high = vf_high_to_vd(q);
    low = (vf_low_to_vd(y) - low * 0x1.921fb544p+0) - low * 0x1.0b4611a626331p-34;
    high = (vf_high_to_vd(y) - high * 0x1.921fb544p+0) - high * 0x1.0b4611a626331p-34;
    r = vd_to_vf(low, high);
#endif
    *quadrant = vf_to_vi(q);
    uint32_t lanes = mf_bits(large);
    if (__builtin_expect(lanes != 0, 0)) {
        float in[VF_LANES], out[VF_LANES];
        int32_t turns[VF_LANES];
        vf_store(in, x);
        vf_store(out, r);
        vi_store(turns, *quadrant);
        for (int i = 0; i < VF_LANES; i++) {
            if (!(lanes >> i & 1)) continue;
            double rest[2] = {(double)(in[i] - in[i]), 0};
            if (in[i] - in[i] == 0) turns[i] = trig_reduce_large((double)in[i], rest);
            out[i] = (float)rest[0];
        }
        r = vf_load(out);
        *quadrant = vi_load(turns);
    }
    return r;
}

/* As for f64; errors 2^-35 and 2^-30. */
VEC_INLINE vf vf_sin_reduced(vf r)
{
    static const float c[4] = {-0.166666672f, 0.00833333191f, -0.00019840039f, 2.72437819e-06f};
    vf z = r * r;
    return vf_fma(r * z, vf_polynomial(z, c, 4), r);
}
VEC_INLINE vf vf_cos_reduced(vf r)
{
    static const float c[3] = {0.0416666642f, -0.00138882792f, 2.4542871e-05f};
    vf z = r * r;
    return vf_fma(z * z, vf_polynomial(z, c, 3), vf_fma(z, vf_set1(-0.5f), vf_set1(1.0f)));
}

VEC_INLINE vf vf_sin(vf x)
{
    vi q;
    vf r = vf_trig_reduce(x, &q);
    vf y = vf_select(vi_eq(q & 1, vi_zero()), vf_sin_reduced(r), vf_cos_reduced(r));
    y = (vf)((vu)y ^ ((vu)(q & 2) << 30));
    return vf_select(vf_eq(x, vf_zero()), x, y);
}
VEC_INLINE vf vf_cos(vf x)
{
    vi q;
    vf r = vf_trig_reduce(x, &q);
    vf y = vf_select(vi_eq(q & 1, vi_zero()), vf_cos_reduced(r), vf_sin_reduced(r));
    return (vf)((vu)y ^ ((vu)((q + 1) & 2) << 30));
}

#endif
