/* Derivatives of arithmetic and of clamping, and comparison within a tolerance. */
#include "map.h"
#include "math_f32.h"

#define ZERO v_like(x[0], 0.0)
#define v_pow(a, b) V_PICK(a, pow)(a, b)

MAP_FLOAT(hardtanh_grad, 2, 2, v_keep(v_gt(x[1], p[0]), v_keep(v_lt(x[1], p[1]), x[0])))
MAP_FLOAT(maximum_grad, 3, 0,
          v_select(v_lt(x[1], x[2]), ZERO, v_select(v_eq(x[1], x[2]), 0.5f * x[0], x[0])))
/* at b = 0 the power may be infinite, and 0 times that is not 0 */
MAP_FLOAT(pow_slope, 2, 0, v_select(v_eq(x[1], ZERO), ZERO, x[1] * v_pow(x[0], x[1] - 1.0f)))

/* In f64 for every type; infinities are close to themselves only. */
static inline uint8_t is_close(double a, double b, const double *param)
{
    const double inf = __builtin_inf(), distance = a > b ? a - b : b - a, size = b < 0 ? -b : b;
    const bool near = (distance <= param[1] + param[0] * size) & (distance < inf) & (size < inf);
    return (uint8_t)(near | (a == b) | ((param[2] != 0) & (a != a) & (b != b)));
}

#define CLOSE(type, element)                                                                        \
    MAP_SCALAR2(isclose, type, element, element, uint8_t, , is_close((double)a, (double)b, param))

CLOSE(b8, uint8_t)
CLOSE(u8, uint8_t)
CLOSE(i32, int32_t)
CLOSE(i64, int64_t)
CLOSE(f32, float)
CLOSE(f64, double)
