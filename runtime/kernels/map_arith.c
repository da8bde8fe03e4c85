/* Arithmetic on floats: sums and products, extremes, rounding, sign.  All of it is exact or
 * rounded once for each operation written. */
#include "map.h"

MAP_FLOAT(add, 2, 0, x[0] + x[1])
MAP_FLOAT(sub, 2, 0, x[0] - x[1])
MAP_FLOAT(mul, 2, 0, x[0] * x[1])
MAP_FLOAT(div, 2, 0, x[0] / x[1])
/* b - a rounds, so an overflow there is an infinity here; w = 0 gives a, w = 1 need not give b
 * exactly */
MAP_FLOAT(lerp, 3, 0, v_fma(x[2], x[1] - x[0], x[0]))
MAP_FLOAT(addcmul, 3, 1, v_fma(p[0] * x[1], x[2], x[0]))
MAP_FLOAT(addcdiv, 3, 1, v_fma(p[0], x[1] / x[2], x[0]))
MAP_FLOAT(add_scaled, 2, 1, v_fma(p[0], x[1], x[0]))
MAP_FLOAT(scale_shift, 1, 2, v_fma(p[0], x[0], p[1]))
MAP_FLOAT(neg, 1, 0, v_neg(x[0]))
MAP_FLOAT(abs, 1, 0, v_abs(x[0]))
MAP_FLOAT(square, 1, 0, x[0] * x[0])
MAP_FLOAT(cube, 1, 0, x[0] * x[0] * x[0])
MAP_FLOAT(inverse_square, 1, 0, (1.0f / x[0]) * (1.0f / x[0])) /* x^2 overflows too early */
MAP_FLOAT(reciprocal, 1, 0, 1.0f / x[0])
MAP_FLOAT(sqrt, 1, 0, v_sqrt(x[0]))
MAP_FLOAT(rsqrt, 1, 0, 1.0f / v_sqrt(x[0]))
MAP_FLOAT(floor, 1, 0, v_floor(x[0]))
MAP_FLOAT(ceil, 1, 0, v_ceil(x[0]))
MAP_FLOAT(round, 1, 0, v_round(x[0]))
MAP_FLOAT(trunc, 1, 0, v_trunc(x[0]))
/* NaN for infinities, as in torch */
MAP_FLOAT(frac, 1, 0, x[0] - v_trunc(x[0]))
MAP_FLOAT(sign, 1, 0, v_select(v_gt(v_abs(x[0]), v_like(x[0], 0.0)),
                               v_copysign(v_like(x[0], 1.0), x[0]), v_like(x[0], 0.0)))

/* v_max and v_min give their second operand when either is NaN: a NaN there passes by itself, and
 * one in the first is put back. */
#define NAN_FIRST(a, otherwise) v_select(v_isnan(a), a, otherwise)
MAP_FLOAT(maximum, 2, 0, NAN_FIRST(x[0], v_max(x[0], x[1])))
MAP_FLOAT(minimum, 2, 0, NAN_FIRST(x[0], v_min(x[0], x[1])))
MAP_FLOAT(clamp, 1, 2, v_min(p[1], v_max(p[0], x[0])))
MAP_FLOAT(clamp_tensor, 3, 0,
          NAN_FIRST(x[2], v_min(x[2], NAN_FIRST(x[1], v_max(x[1], x[0])))))
