/* Arithmetic on integers.  Sums and products wrap around, computed without sign so that nothing is
 * undefined; parameters are brought into the type first. */
#include "map.h"

/* The parameter as a whole number in [low, high], rounded towards zero; NaN gives 0.  The doubles
 * next to 2^63 are 1024 apart, hence >=. */
static int64_t whole(double x, int64_t low, int64_t high)
{
    if (x != x) return 0;
    if (x >= (double)high) return high;
    if (x <= (double)low) return low;
    return (int64_t)x;
}

/* The least whole number not below x, and the greatest not above it. */
static int64_t whole_above(double x, int64_t low, int64_t high)
{
    int64_t n = whole(x, low, high);
    return (double)n < x && n < high ? n + 1 : n;
}
static int64_t whole_below(double x, int64_t low, int64_t high)
{
    int64_t n = whole(x, low, high);
    return (double)n > x && n > low ? n - 1 : n;
}

VEC_INLINE int64_t divide_trunc(int64_t a, int64_t b)
{
    if (b == 0) return 0;
    return b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b; /* INT64_MIN / -1 traps */
}
VEC_INLINE int64_t divide_floor(int64_t a, int64_t b)
{
    if (b == 0) return 0;
    if (b == -1) return (int64_t)(0 - (uint64_t)a);
    int64_t q = a / b;
    return q - (a % b != 0 && (a < 0) != (b < 0));
}
VEC_INLINE int64_t rest_trunc(int64_t a, int64_t b)
{
    return b == 0 || b == -1 ? 0 : a % b;
}
VEC_INLINE int64_t rest_floor(int64_t a, int64_t b)
{
    int64_t r = rest_trunc(a, b);
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
/* The power modulo 2^64; the narrower types keep its low bits. */
static int64_t power(int64_t base, int64_t exponent)
{
    if (exponent < 0) {
        if (base == 1) return 1;
        return base == -1 ? (exponent % 2 == 0 ? 1 : -1) : 0;
    }
    uint64_t result = 1, square = (uint64_t)base;
    for (; exponent > 0; exponent >>= 1) {
        if (exponent & 1) result *= square;
        square *= square;
    }
    return (int64_t)result;
}

/* The rows for one type: `wide` is the unsigned type that its sums wrap in. */
#define INTEGER(type, element, wide, low, high)                                                    \
    MAP_SCALAR2(add, type, element, element, element, , (element)((wide)a + (wide)b))              \
    MAP_SCALAR2(sub, type, element, element, element, , (element)((wide)a - (wide)b))              \
    MAP_SCALAR2(mul, type, element, element, element, , (element)((wide)a * (wide)b))              \
    MAP_SCALAR2(floor_divide, type, element, element, element, , (element)divide_floor(a, b))      \
    MAP_SCALAR2(remainder, type, element, element, element, , (element)rest_floor(a, b))           \
    MAP_SCALAR2(fmod, type, element, element, element, , (element)rest_trunc(a, b))                \
    MAP_SCALAR2(pow, type, element, element, element, , (element)power(a, b))                      \
    MAP_SCALAR2(maximum, type, element, element, element, , a > b ? a : b)                         \
    MAP_SCALAR2(minimum, type, element, element, element, , a < b ? a : b)                         \
    MAP_SCALAR3(addcmul, type, element, element, element,                                          \
                const wide p0 = (wide)whole(param[0], INT64_MIN, INT64_MAX);                       \
                , (element)((wide)a + (wide)(p0 * (wide)b) * (wide)c))                             \
    MAP_SCALAR2(add_scaled, type, element, element, element,                                       \
                const wide p0 = (wide)whole(param[0], INT64_MIN, INT64_MAX);                       \
                , (element)((wide)a + p0 * (wide)b))                                               \
    MAP_SCALAR1(scale_shift, type, element, element,                                               \
                const wide p0 = (wide)whole(param[0], INT64_MIN, INT64_MAX);                       \
                const wide p1 = (wide)whole(param[1], INT64_MIN, INT64_MAX);                       \
                , (element)(p0 * (wide)a + p1))                                                    \
    MAP_SCALAR1(neg, type, element, element, , (element)(0u - (wide)a))                            \
    MAP_SCALAR1(abs, type, element, element, , (element)(a > 0 ? (wide)a : 0u - (wide)a))          \
    MAP_SCALAR1(sign, type, element, element, , (element)(2 * (a > 0) - (a != 0)))                 \
    MAP_SCALAR1(square, type, element, element, , (element)((wide)a * (wide)a))                    \
    MAP_SCALAR1(clamp, type, element, element,                                                     \
                const element p0 = (element)whole_above(param[0], low, high);                      \
                const element p1 = (element)whole_below(param[1], low, high);                      \
                , (element)((a > p0 ? a : p0) < p1 ? (a > p0 ? a : p0) : p1))                      \
    MAP_SCALAR3(clamp_tensor, type, element, element, element, ,                                   \
                (element)((a > b ? a : b) < c ? (a > b ? a : b) : c))                              \
    MAP_SCALAR1(floor, type, element, element, , a)                                                \
    MAP_SCALAR1(ceil, type, element, element, , a)                                                 \
    MAP_SCALAR1(round, type, element, element, , a)                                                \
    MAP_SCALAR1(trunc, type, element, element, , a)                                                \
    MAP_SCALAR1(relu, type, element, element, , (element)(a > 0 ? a : 0))                          \
    MAP_SCALAR1(relu6, type, element, element, , (element)(a > 0 ? (a < 6 ? a : 6) : 0))           \
    MAP_SCALAR1(binary_step, type, element, element, , (a > 0) | (a == 0))                         \
    MAP_SCALAR1(threshold, type, element, element,                                                 \
                const bool all = param[0] < (double)low;                                           \
                const element p0 = (element)whole_below(param[0], low, high);                      \
                const element p1 = (element)whole(param[1], INT64_MIN, INT64_MAX);                 \
                , ((a > p0) | all) ? a : p1)

INTEGER(u8, uint8_t, uint32_t, 0, UINT8_MAX)
INTEGER(i32, int32_t, uint32_t, INT32_MIN, INT32_MAX)
INTEGER(i64, int64_t, uint64_t, INT64_MIN, INT64_MAX)

MAP_SCALAR2(maximum, b8, uint8_t, uint8_t, uint8_t, , a > b ? a : b)
MAP_SCALAR2(minimum, b8, uint8_t, uint8_t, uint8_t, , a < b ? a : b)
