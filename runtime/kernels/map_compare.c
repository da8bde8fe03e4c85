/* Comparison, logic, bits and choice by a condition.  Plain loops: the compiler makes them
 * vectors, and no result depends on how. */
#include "map.h"

#define COMPARE(name, type, element, operator)                                                     \
    MAP_SCALAR2(name, type, element, element, uint8_t, , (uint8_t)(a operator b))
#define COMPARE_ALL(name, operator)                                                                \
    COMPARE(name, b8, uint8_t, operator)                                                          \
    COMPARE(name, u8, uint8_t, operator)                                                           \
    COMPARE(name, i32, int32_t, operator)                                                          \
    COMPARE(name, i64, int64_t, operator)                                                          \
    COMPARE(name, f32, float, operator)                                                            \
    COMPARE(name, f64, double, operator)

COMPARE_ALL(eq, ==)
COMPARE_ALL(ne, !=)
COMPARE_ALL(lt, <)
COMPARE_ALL(le, <=)
COMPARE_ALL(gt, >)
COMPARE_ALL(ge, >=)

#define LOGIC(name, type, element, operator)                                                       \
    MAP_SCALAR2(name, type, element, element, uint8_t, , (uint8_t)((a != 0) operator (b != 0)))
#define LOGIC_ALL(name, operator)                                                                  \
    LOGIC(name, b8, uint8_t, operator)                                                            \
    LOGIC(name, u8, uint8_t, operator)                                                             \
    LOGIC(name, i32, int32_t, operator)                                                            \
    LOGIC(name, i64, int64_t, operator)                                                            \
    LOGIC(name, f32, float, operator)                                                              \
    LOGIC(name, f64, double, operator)

LOGIC_ALL(logical_and, &)
LOGIC_ALL(logical_or, |)
LOGIC_ALL(logical_xor, ^)

#define PREDICATE(name, whole, fraction)                                                           \
    MAP_SCALAR1(name, b8, uint8_t, uint8_t, , whole)                                              \
    MAP_SCALAR1(name, u8, uint8_t, uint8_t, , whole)                                               \
    MAP_SCALAR1(name, i32, int32_t, uint8_t, , whole)                                              \
    MAP_SCALAR1(name, i64, int64_t, uint8_t, , whole)                                              \
    MAP_SCALAR1(name, f32, float, uint8_t, , fraction)                                             \
    MAP_SCALAR1(name, f64, double, uint8_t, , fraction)

PREDICATE(logical_not, a == 0, a == 0)
PREDICATE(isnan, ((void)a, 0), a != a)
/* inf - inf is NaN, a finite number less itself is 0 */
PREDICATE(isinf, ((void)a, 0), (uint8_t)((a == a) & (a - a != 0)))
PREDICATE(isfinite, ((void)a, 1), a - a == 0)

#define BITS(name, operator)                                                                       \
    MAP_SCALAR2(name, b8, uint8_t, uint8_t, uint8_t, , (uint8_t)((a != 0) operator (b != 0)))     \
    MAP_SCALAR2(name, u8, uint8_t, uint8_t, uint8_t, , (uint8_t)(a operator b))                    \
    MAP_SCALAR2(name, i32, int32_t, int32_t, int32_t, , a operator b)                              \
    MAP_SCALAR2(name, i64, int64_t, int64_t, int64_t, , a operator b)

BITS(bitwise_and, &)
BITS(bitwise_or, |)
BITS(bitwise_xor, ^)
MAP_SCALAR1(bitwise_not, b8, uint8_t, uint8_t, , a == 0)
MAP_SCALAR1(bitwise_not, u8, uint8_t, uint8_t, , (uint8_t)~a)
MAP_SCALAR1(bitwise_not, i32, int32_t, int32_t, , ~a)
MAP_SCALAR1(bitwise_not, i64, int64_t, int64_t, , ~a)

#define CHOICE(type, element)                                                                      \
    MAP_SCALAR3(where, type, uint8_t, element, element, , a != 0 ? b : c)                          \
    MAP_SCALAR2(masked, type, uint8_t, element, element, , a != 0 ? b : 0)

CHOICE(b8, uint8_t)
CHOICE(u8, uint8_t)
CHOICE(i32, int32_t)
CHOICE(i64, int64_t)
CHOICE(f32, float)
CHOICE(f64, double)
