/* Elementwise losses of a prediction x[0] and a target x[1], and their gradients: x[0] is dy then, x[1] the
 * prediction, x[2] the target. */
#include "map.h"
#include "math_f32.h"

#define ZERO v_like(x[0], 0.0)
#define ONE v_like(x[0], 1.0)
/* a - b, b the last input */
MAP_FLOAT(loss_square, 2, 0, (x[0] - x[1]) * (x[0] - x[1]))
MAP_FLOAT(loss_abs, 2, 0, v_abs(x[0] - x[1]))
MAP_FLOAT(loss_square_grad, 3, 1, x[0] * p[0] * (2.0f * (x[1] - x[2])))
