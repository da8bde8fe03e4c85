/* Activations and their derivatives.  An infinite x gives the limit: silu(-inf) is -0, not NaN. */
#include "map.h"
#include "math_f32.h"

#define v_exp(a) V_PICK(a, exp)(a)
#define v_expm1(a) V_PICK(a, expm1)(a)
#define v_tanh(a) V_PICK(a, tanh)(a)
#define v_sigmoid(a) V_PICK(a, sigmoid)(a)
#define v_sigmoid_times(a, factor) V_PICK(a, sigmoid_times)(a, factor)
#define v_softplus(a) V_PICK(a, softplus)(a)
#define v_gaussian(a) V_PICK(a, gaussian)(a)
#define v_normal_times(a, factor) V_PICK(a, normal_times)(a, factor)
#define v_bound(a, low, high) V_PICK(a, between)(a, low, high)
#define ZERO v_like(x[0], 0.0)
#define ONE v_like(x[0], 1.0)

/* ---------------------------------------------------------------- piecewise linear */

/* the second operand of v_max and v_min passes NaN on */
MAP_FLOAT(relu, 1, 0, v_max(ZERO, x[0]))
MAP_FLOAT(relu6, 1, 0, v_min(v_like(x[0], 6.0), v_max(ZERO, x[0])))
MAP_FLOAT(binary_step, 1, 0, v_keep(v_ge(x[0], ZERO), ONE))
MAP_FLOAT(leaky_relu, 1, 1, v_select(v_gt(x[0], ZERO), x[0], p[0] * x[0]))
MAP_FLOAT(prelu, 2, 0, v_select(v_gt(x[0], ZERO), x[0], x[1] * x[0]))
MAP_FLOAT(hardsigmoid, 1, 0, v_min(ONE, v_max(ZERO, (x[0] + 3.0f) / 6.0f)))
MAP_FLOAT(hardswish, 1, 0,
          v_max(v_like(x[0], -4.0), x[0]) * v_min(ONE, v_max(ZERO, (x[0] + 3.0f) / 6.0f)))
MAP_FLOAT(hardshrink, 1, 1, v_select(v_le(v_abs(x[0]), p[0]), ZERO, x[0]))
MAP_FLOAT(softshrink, 1, 1,
          v_select(v_le(v_abs(x[0]), p[0]), ZERO, x[0] - v_copysign(p[0], x[0])))
MAP_FLOAT(threshold, 1, 2, v_select(v_le(x[0], p[0]), p[1], x[0]))

MAP_FLOAT(relu_grad, 2, 0, v_keep(v_gt(x[1], ZERO), x[0]))
MAP_FLOAT(relu6_grad, 2, 0, v_keep(v_gt(x[1], ZERO), v_keep(v_lt(x[1], v_like(x[1], 6.0)), x[0])))
MAP_FLOAT(leaky_relu_grad, 2, 1, v_select(v_gt(x[1], ZERO), x[0], p[0] * x[0]))
MAP_FLOAT(hardsigmoid_grad, 2, 0, v_keep(v_lt(v_abs(x[1]), v_like(x[1], 3.0)), x[0] / 6.0f))
MAP_FLOAT(hardswish_grad, 2, 0,
          v_select(v_ge(x[1], v_like(x[1], 3.0)), x[0],
                   v_keep(v_gt(x[1], v_like(x[1], -3.0)), x[0] * ((2.0f * x[1] + 3.0f) / 6.0f))))
MAP_FLOAT(hardshrink_grad, 2, 1, v_keep(v_gt(v_abs(x[1]), p[0]), x[0]))
MAP_FLOAT(threshold_grad, 2, 1, v_keep(v_gt(x[1], p[0]), x[0]))
MAP_FLOAT(clamp_grad, 2, 2, v_keep(v_ge(x[1], p[0]), v_keep(v_le(x[1], p[1]), x[0])))

/* ---------------------------------------------------------------- smooth */

/* Where a function of 1 / (1 + e^-x) has a factor x, the factor stops where the result is 0
 * already. */
VEC_INLINE vf vf_silu(vf x) { return vf_sigmoid_small(x, vf_max(vf_set1(-130.0f), x)); }
VEC_INLINE vd vd_silu(vd x) { return vd_sigmoid_times(x, vd_max(vd_set1(-800.0), x)); }
VEC_INLINE vf vf_gelu(vf x) { return vf_normal_times(x, vf_max(vf_set1(-15.0f), x)); }
VEC_INLINE vd vd_gelu(vd x) { return vd_normal_times(x, vd_max(vd_set1(-40.0), x)); }

/* Hendrycks and Gimpel, arXiv:1606.08415: 2 sqrt(2 / pi) (x + 0.044715 x^3), of which the logistic
 * function is (1 + tanh) / 2. */
#define GELU_SLOPE 0x1.9884533d43651p+0
#define GELU_CUBIC 0.044715
/* The function multiplies errors of the inner one: the slope has two parts, and the larger product rounds once. */
VEC_INLINE vf vf_gelu_tanh(vf x)
{
    const double low = GELU_SLOPE - (double)(float)GELU_SLOPE;
    vf inner = vf_fma(x, vf_splat(GELU_SLOPE), x * vf_fma(x * x, vf_splat(GELU_SLOPE * GELU_CUBIC), vf_splat(low)));
    return vf_sigmoid_small(inner, vf_max(vf_set1(-20.0f), x));
}
VEC_INLINE vd vd_gelu_tanh(vd x)
{
    vd inner = x * vd_fma(x * x, vd_splat(GELU_SLOPE * GELU_CUBIC), vd_splat(GELU_SLOPE));
    return vd_sigmoid_times(inner, vd_max(vd_set1(-40.0), x));
}

/* Misra, arXiv:1908.08681: x tanh(log(1 + e)) = x t / (t + 2) with t = e (e + 2) and e = e^x = 2^n p */
VEC_INLINE vf vf_mish(vf x)
{
    vf n, p = vf_exp_parts(vf_between(x, -130.0f, 20.0f), vf_zero(), &n);
    vf scale = vf_pow2(vf_max(n, vf_set1(-120.0f))), t = vf_fma(p, p * scale, p + p); /* without 2^n */
    vf y = vf_max(vf_set1(-130.0f), x) * t / vf_fma(t, scale, vf_set1(2.0f));
    return vf_select(vf_gt(x, vf_set1(20.0f)), x, vf_scale(vf_before_scale(y, n), n));
}
VEC_INLINE vd vd_mish(vd x)
{
    vd n, p = vd_exp_parts(vd_between(x, -800.0, 40.0), vd_zero(), &n);
    vd e = p * vd_pow2(vd_max(n, vd_set1(-1000.0)));
    vd y = vd_max(vd_set1(-800.0), x) * (p * (e + 2.0)) / vd_fma(e, e + 2.0, vd_set1(2.0));
    return vd_select(vd_gt(x, vd_set1(40.0)), x, vd_scale(y, n));
}

MAP_FLOAT(sigmoid, 1, 0, v_sigmoid(x[0]))
MAP_FLOAT(log_sigmoid, 1, 0, -v_softplus(-x[0]))
MAP_FLOAT(softsign, 1, 0,
          v_select(v_eq(v_abs(x[0]), v_like(x[0], __builtin_inf())), v_copysign(ONE, x[0]),
                   x[0] / (1.0f + v_abs(x[0]))))
MAP_FLOAT(elu, 1, 3, v_select(v_gt(x[0], ZERO), p[1] * x[0], p[1] * p[0] * v_expm1(p[2] * x[0])))
MAP_FLOAT(softplus, 1, 2,
          v_select(v_gt(x[0] * p[0], p[1]), x[0], v_softplus(x[0] * p[0]) / p[0]))
MAP_FLOAT(silu, 1, 0, V_PICK(x[0], silu)(x[0]))
MAP_FLOAT(gelu, 1, 0, V_PICK(x[0], gelu)(x[0]))
MAP_FLOAT(gelu_tanh, 1, 0, V_PICK(x[0], gelu_tanh)(x[0]))
MAP_FLOAT(mish, 1, 0, V_PICK(x[0], mish)(x[0]))
MAP_FLOAT(tanhshrink, 1, 0, V_PICK(x[0], tanhshrink)(x[0]))
MAP_FLOAT(gaussian, 1, 0, v_gaussian(x[0]))

/* ---------------------------------------------------------------- their derivatives */

MAP_FLOAT(tanh_grad, 2, 0, x[0] * v_fnma(x[1], x[1], ONE))
MAP_FLOAT(sigmoid_grad, 2, 0, x[0] * (x[1] * (1.0f - x[1])))
MAP_FLOAT(log_sigmoid_grad, 2, 0, v_sigmoid_times(-x[1], x[0]))
MAP_FLOAT(softsign_grad, 2, 0, x[0] / (1.0f + v_abs(x[1])) / (1.0f + v_abs(x[1])))
MAP_FLOAT(elu_grad, 2, 3,
          x[0] * v_select(v_gt(x[1], ZERO), p[1], p[1] * p[0] * p[2] * v_exp(p[2] * x[1])))
MAP_FLOAT(softplus_grad, 2, 2,
          v_select(v_gt(x[1] * p[0], p[1]), x[0], v_sigmoid_times(x[1] * p[0], x[0])))
MAP_FLOAT(gaussian_grad, 2, 0, -2.0f * x[0] * v_bound(x[1], -30.0f, 30.0f) * v_gaussian(x[1]))

/* s (1 + x (1 - s)), s the logistic function of x; beyond the bounds the second term is 0 */
#define SILU_GRAD(s, x) ((s) * v_fma(x, 1.0f - (s), v_like(s, 1.0)))
VEC_INLINE vf vf_silu_grad(vf x)
{
    vf s = vf_sigmoid(x);
    return SILU_GRAD(s, vf_between(x, -130.0f, 130.0f));
}
VEC_INLINE vd vd_silu_grad(vd x)
{
    vd s = vd_sigmoid(x);
    return SILU_GRAD(s, vd_between(x, -800.0, 800.0));
}

/* Phi(x) + x phi(x), phi(x) = e^(-x^2 / 2) / sqrt(2 pi) */
#define INVERSE_ROOT_2PI 0x1.9884533d43651p-2
VEC_INLINE vf vf_gelu_grad(vf x)
{
    vf a = vf_min(vf_set1(15.0f), vf_abs(x)), square = a * a, n;
    vf p = vf_exp_times(square * -0.5f, vf_square_error(a, square) * -0.5f, vf_set1(1.0f), &n);
    vf bell = vf_scale(vf_before_scale(p, n), n), tail = bell * vf_normal_tail_ratio(a);
    vf y = vf_select(vf_lt(x, vf_zero()), tail, 1.0f - tail);
    y = vf_select(vf_lt(a, vf_set1(0.5f)), vf_normal_small(x, square), y);
    return vf_fma(vf_copysign(a, x) * vf_splat(INVERSE_ROOT_2PI), bell, y);
}
VEC_INLINE vd vd_gelu_grad(vd x)
{
    vd a = vd_between(x, -39.5, 39.5), n, p = vd_exp_parts(a * a * -0.5, vd_zero(), &n);
    return vd_fma(a * INVERSE_ROOT_2PI, vd_scale(p, n), vd_normal_times(x, vd_set1(1.0)));
}

/* s + x s (1 - s) u', u' the inner polynomial's derivative; beyond the bounds s (1 - s) is 0 */
#define GELU_TANH_GRAD(x, low, high)                                                               \
    do {                                                                                           \
        x = v_bound(x, low, high);                                                                 \
        const __typeof__(x) square = x * x;                                                        \
        const __typeof__(x) slope = v_like(x, GELU_SLOPE);                                         \
        const __typeof__(x) inner = x * v_fma(square, v_like(x, GELU_SLOPE * GELU_CUBIC), slope);  \
        const __typeof__(x) change = v_fma(square, v_like(x, 3 * GELU_SLOPE * GELU_CUBIC), slope); \
        const __typeof__(x) s = v_sigmoid(inner);                                                  \
        return v_fma(x * s * (1.0f - s), change, s);                                               \
    } while (0)
VEC_INLINE vf vf_gelu_tanh_grad(vf x) { GELU_TANH_GRAD(x, -20.0f, 20.0f); }
VEC_INLINE vd vd_gelu_tanh_grad(vd x) { GELU_TANH_GRAD(x, -40.0, 40.0); }

/* With e = e^x and d = e (e + 2) + 2: tanh(log(1 + e)) = e (e + 2) / d, its derivative 4 e (1 + e)
 * / d^2 */
VEC_INLINE vf vf_mish_grad(vf x)
{
    vf a = vf_between(x, -130.0f, 20.0f), e = vf_exp(a), t = e * (e + 2.0f), d = t + 2.0f;
    return vf_fma(4.0f * a * e / d, (1.0f + e) / d, t / d);
}
VEC_INLINE vd vd_mish_grad(vd x)
{
    vd a = vd_between(x, -800.0, 40.0), e = vd_exp(a), t = e * (e + 2.0), d = t + 2.0;
    return vd_fma(4.0 * a * e / d, (1.0 + e) / d, t / d);
}

#define CHAIN(name) MAP_FLOAT(name##_grad, 2, 0, x[0] * V_PICK(x[1], name##_grad)(x[1]))
CHAIN(silu)
CHAIN(gelu)
CHAIN(gelu_tanh)
CHAIN(mish)

/* With the bits of the two loops. */
#define GELU_SLOPE_LOOP(type, V, LANES)                                                            \
    void K(gelu_slope_##type)(ELEMENT_##type * y, ELEMENT_##type * slope,                          \
                              const ELEMENT_##type *x, int64_t n)                                  \
    {                                                                                              \
        for (; n > 0; n -= LANES, x += LANES, y += LANES, slope += LANES) {                        \
            const V a = n < LANES ? V##_load_n(x, n) : V##_load(x);                                \
            const V value = V##_gelu(a), grad = V##_gelu_grad(a);                                  \
            if (n < LANES) {                                                                       \
                V##_store_n(y, value, n);                                                          \
                V##_store_n(slope, grad, n);                                                       \
            } else {                                                                               \
                V##_store(y, value);                                                               \
                V##_store(slope, grad);                                                            \
            }                                                                                      \
        }                                                                                          \
    }
#define ELEMENT_f32 float
#define ELEMENT_f64 double
GELU_SLOPE_LOOP(f32, vf, VF_LANES)
GELU_SLOPE_LOOP(f64, vd, VD_LANES)

VEC_INLINE vf vf_tanh_square(vf x) { vf t = vf_tanh(x); return t * t; }
VEC_INLINE vd vd_tanh_square(vd x) { vd t = vd_tanh(x); return t * t; }
MAP_FLOAT(tanhshrink_grad, 2, 0, x[0] * V_PICK(x[1], tanh_square)(x[1]))
