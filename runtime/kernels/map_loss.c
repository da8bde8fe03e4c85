/* Elementwise losses of a prediction x and a target t, and their derivatives by x times dy and a scale. */
#include "map.h"
#include "math_f32.h"

#define ZERO v_like(x[0], 0.0)
#define ONE v_like(x[0], 1.0)
#define v_log(a) V_PICK(a, log)(a)
#define v_exp(a) V_PICK(a, exp)(a)
#define v_between(a, low, high) v_min(high, v_max(low, a))
#define v_sign(a) v_select(v_eq(a, ZERO), a, v_copysign(ONE, a))
/* the second operand of v_max passes NaN on */
#define CLAMPED_LOG(a) v_max(v_like(x[0], -100.0), v_log(a))

#define PREDICTION x[0]
#define TARGET x[1]
#define DISTANCE (x[0] - x[1])

MAP_FLOAT(loss_square, 2, 0, DISTANCE * DISTANCE)
MAP_FLOAT(loss_abs, 2, 0, v_abs(DISTANCE))
/* d^2 / (2 beta) below beta, |d| - beta / 2 beyond */
MAP_FLOAT(loss_smooth, 2, 1,
          v_select(v_lt(v_abs(DISTANCE), p[0]), 0.5f * DISTANCE * DISTANCE / p[0], v_abs(DISTANCE) - 0.5f * p[0]))
/* d^2 / 2 up to delta, delta (|d| - delta / 2) beyond */
MAP_FLOAT(loss_huber, 2, 1,
          v_select(v_le(v_abs(DISTANCE), p[0]), 0.5f * DISTANCE * DISTANCE, p[0] * (v_abs(DISTANCE) - 0.5f * p[0])))
/* -(t log x + (1 - t) log(1 - x)), each logarithm at least -100 */
MAP_FLOAT(loss_bce, 2, 0, (TARGET - 1.0f) * CLAMPED_LOG(1.0f - PREDICTION) - TARGET * CLAMPED_LOG(PREDICTION))
/* the same of the logistic function of x */
MAP_FLOAT(loss_bce_logits, 2, 0, V_PICK(x[0], softplus)(PREDICTION) - PREDICTION * TARGET)
/* t (log t - x), 0 where t is 0; with log t for a target e^t (t - x) */
MAP_FLOAT(loss_kl, 2, 0,
          v_select(v_eq(TARGET, ZERO), ZERO, TARGET * v_log(TARGET)) - TARGET * PREDICTION)
MAP_FLOAT(loss_kl_log, 2, 0, v_exp(TARGET) * (TARGET - PREDICTION))

#undef PREDICTION
#undef TARGET
#undef DISTANCE
#define DY (x[0] * p[0])
#define PREDICTION x[1]
#define TARGET x[2]
#define DISTANCE (x[1] - x[2])

MAP_FLOAT(loss_square_grad, 3, 1, DY * (2.0f * DISTANCE))
MAP_FLOAT(loss_abs_grad, 3, 1, DY * v_sign(DISTANCE))
MAP_FLOAT(loss_smooth_grad, 3, 2,
          DY * v_select(v_lt(v_abs(DISTANCE), p[1]), DISTANCE / p[1], v_sign(DISTANCE)))
MAP_FLOAT(loss_huber_grad, 3, 2, DY * v_between(DISTANCE, -p[1], p[1]))
MAP_FLOAT(loss_bce_grad, 3, 1,
          DY * DISTANCE / v_max(v_like(x[0], 1e-12), (1.0f - PREDICTION) * PREDICTION))
MAP_FLOAT(loss_bce_logits_grad, 3, 1, DY * (V_PICK(x[0], sigmoid)(PREDICTION) - TARGET))
MAP_FLOAT(loss_kl_grad, 3, 1, -DY * TARGET)
MAP_FLOAT(loss_kl_log_grad, 3, 1, -DY * v_exp(TARGET))
