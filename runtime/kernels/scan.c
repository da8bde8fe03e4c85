/* Running sums and products, and linear recurrences, along the rows of `columns` neighbouring columns; with inner = 1 of
 * `lines` such columns, each behind the other in memory.  Floats are accumulated in f64, integers in i64. */
#include "kernels.h"
#include "vec.h"

#define STRIP 256

/* Rows of single columns go side by side: a sum waits for the one before. */
#define SIDE 4
#define LINES(count, in_type, out_type, wide, step)                                              \
    {                                                                                            \
        wide accs[count];                                                                        \
        for (int l = 0; l < count; l++) accs[l] = first;                                         \
        for (int64_t r = 0, at = start; r < size; r++, at += by) {                               \
            const int64_t factor_at = r > 0 && reverse ? at + inner : at;                        \
            for (int l = 0; l < count; l++) {                                                    \
                const wide e = (wide)x[at + l * size], factor = (wide)a[factor_at + l * size];   \
                const wide acc = accs[l];                                                        \
                (void)factor;                                                                    \
                accs[l] = (wide)(step);                                                          \
                out[at + l * size] = (out_type)accs[l];                                          \
            }                                                                                    \
        }                                                                                        \
    }

/* acc of a column after row r: SUM: acc + x, PROD: acc x, LINEAR: x + a acc, where a is read one row earlier
 * when the way goes backwards. */
#define SCAN(name, in_type, out_type, wide, step)                                                            \
    static void name(out_type *out, const in_type *x, const in_type *a, int64_t inner, int64_t size, int64_t n, \
                     int64_t lines, bool reverse, wide first)                                                \
    {                                                                                                        \
        const int64_t by = reverse ? -inner : inner, start = reverse ? (size - 1) * inner : 0;               \
        if (n == 1) {                                                                                        \
            for (; lines >= SIDE; lines -= SIDE, x += SIDE * size, a += SIDE * size, out += SIDE * size)     \
                LINES(SIDE, in_type, out_type, wide, step)                                                   \
            for (; lines > 0; lines--, x += size, a += size, out += size) LINES(1, in_type, out_type, wide, step) \
            return;                                                                                          \
        }                                                                                                    \
        wide accs[STRIP];                                                                                    \
        for (int64_t j = 0; j < n; j++) accs[j] = first;                                                     \
        for (int64_t r = 0, at = start; r < size; r++, at += by) {                                           \
            const in_type *row = x + at, *factors = a + (r == 0 ? at : reverse ? at + inner : at);           \
            out_type *to = out + at;                                                                         \
            for (int64_t j = 0; j < n; j++) {                                                                \
                const wide e = (wide)row[j], factor = (wide)factors[j], acc = accs[j];                       \
                (void)factor;                                                                                \
                accs[j] = (wide)(step);                                                                      \
                to[j] = (out_type)accs[j];                                                                   \
            }                                                                                                \
        }                                                                                                    \
    }
#define WRAPPED(operator) ((uint64_t)acc operator (uint64_t)e)
#define SCANS(suffix, in_type, out_type, wide, plus, times) \
    SCAN(sum_##suffix, in_type, out_type, wide, plus)       \
    SCAN(prod_##suffix, in_type, out_type, wide, times)
SCANS(u8, uint8_t, int64_t, int64_t, WRAPPED(+), WRAPPED(*))
SCANS(i32, int32_t, int64_t, int64_t, WRAPPED(+), WRAPPED(*))
SCANS(i64, int64_t, int64_t, int64_t, WRAPPED(+), WRAPPED(*))
SCANS(f32, float, float, double, acc + e, acc * e)
SCANS(f64, double, double, double, acc + e, acc * e)
SCAN(linear_f32, float, float, double, e + factor * acc)
SCAN(linear_f64, double, double, double, e + factor * acc)

#define STRIPS(name, in_type, out_type, first)                                                     \
    for (int64_t j = 0; j < columns; j += STRIP) {                                                 \
        const in_type *factors = kind == NNL_SCAN_LINEAR ? (const in_type *)a : (const in_type *)x; \
        name((out_type *)out + j, (const in_type *)x + j, factors + j, inner, size,                \
             columns - j < STRIP ? columns - j : STRIP, lines, reverse, first);                           \
    }
#define CASES(suffix, in_type, out_type)                                                \
    if (kind == NNL_SCAN_PROD) STRIPS(prod_##suffix, in_type, out_type, 1)              \
    else STRIPS(sum_##suffix, in_type, out_type, 0)                                     \
    break;

void K(scan_columns)(int kind, int dtype, void *out, const void *x, const void *a, int64_t inner, int64_t size,
                     int64_t columns, int64_t lines, bool reverse)
{
    switch (dtype) {
    case 2: CASES(i32, int32_t, int64_t)
    case 3: CASES(i64, int64_t, int64_t)
    case 4:
        if (kind == NNL_SCAN_LINEAR) {
            STRIPS(linear_f32, float, float, 0)
            break;
        }
        CASES(f32, float, float)
    case 5:
        if (kind == NNL_SCAN_LINEAR) {
            STRIPS(linear_f64, double, double, 0)
            break;
        }
        CASES(f64, double, double)
    default: CASES(u8, uint8_t, int64_t)
    }
}
