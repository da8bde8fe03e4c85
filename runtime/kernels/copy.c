/* Copying with steps, transposing and type conversion, also with a division. */
#include "vec.h"

#include <string.h>

#define STRIDED(type)                                                                        \
    static void strided_##type(char *out, int64_t out_step, const char *in, int64_t in_step, \
                               int64_t n)                                                    \
    {                                                                                        \
        if (in_step == 0) {                                                                  \
            type value = *(const type *)in;                                                  \
            if (out_step == (int64_t)sizeof(type)) {                                         \
                for (int64_t i = 0; i < n; i++) ((type *)out)[i] = value;                    \
            } else {                                                                         \
                for (int64_t i = 0; i < n; i++) *(type *)(out + i * out_step) = value;       \
            }                                                                                \
        } else if (out_step == (int64_t)sizeof(type)) {                                      \
            for (int64_t i = 0; i < n; i++) ((type *)out)[i] = *(const type *)(in + i * in_step); \
        } else {                                                                             \
            for (int64_t i = 0; i < n; i++)                                                  \
                *(type *)(out + i * out_step) = *(const type *)(in + i * in_step);           \
        }                                                                                    \
    }
STRIDED(uint8_t)
STRIDED(uint32_t)
STRIDED(uint64_t)

void K(copy_strided)(int width, void *out, int64_t out_step, const void *in, int64_t in_step, int64_t n)
{
    if (width == 4) strided_uint32_t(out, out_step, in, in_step, n);
    else if (width == 8) strided_uint64_t(out, out_step, in, in_step, n);
    else strided_uint8_t(out, out_step, in, in_step, n);
}

/* Rows of one to two times a type: two moves of it, the second of which ends where the row does.  Four rows at a time,
 * whose loads do not wait for each other's stores.  No loop runs along a row: the compiler would call the library. */
#define SIDE_BY_SIDE 4
#define ROWS(name, type)                                                                                      \
    VEC_INLINE void band_##name(const int count, const bool two, char *restrict out, int64_t out_row,         \
                                const char *restrict in, int64_t in_row, int64_t last)                        \
    {                                                                                                         \
        type a[SIDE_BY_SIDE], b[SIDE_BY_SIDE];                                                                \
        for (int r = 0; r < count; r++) {                                                                     \
            memcpy(&a[r], in + r * in_row, sizeof(type));                                                     \
            if (two) memcpy(&b[r], in + r * in_row + last, sizeof(type));                                     \
        }                                                                                                     \
        for (int r = 0; r < count; r++) {                                                                     \
            memcpy(out + r * out_row, &a[r], sizeof(type));                                                   \
            if (two) memcpy(out + r * out_row + last, &b[r], sizeof(type));                                   \
        }                                                                                                     \
    }                                                                                                         \
    VEC_INLINE void bands_##name(const bool two, char *restrict out, int64_t out_row, const char *restrict in, \
                                 int64_t in_row, int64_t rows, int64_t last)                                  \
    {                                                                                                         \
        for (; rows >= SIDE_BY_SIDE; rows -= SIDE_BY_SIDE) {                                                  \
            band_##name(SIDE_BY_SIDE, two, out, out_row, in, in_row, last);                                   \
            out += SIDE_BY_SIDE * out_row;                                                                    \
            in += SIDE_BY_SIDE * in_row;                                                                      \
        }                                                                                                     \
        for (; rows > 0; rows--, out += out_row, in += in_row)                                                \
            band_##name(1, two, out, out_row, in, in_row, last);                                              \
    }                                                                                                         \
    static void rows_##name(char *restrict out, int64_t out_row, const char *restrict in, int64_t in_row,      \
                            int64_t rows, int64_t bytes)                                                      \
    {                                                                                                         \
        const int64_t last = bytes - (int64_t)sizeof(type);                                                   \
        if (last == 0) bands_##name(false, out, out_row, in, in_row, rows, last);                             \
        else bands_##name(true, out, out_row, in, in_row, rows, last);                                        \
    }
typedef uint64_t words_16 __attribute__((vector_size(16)));
typedef uint64_t words_32 __attribute__((vector_size(32)));
typedef uint64_t words_vector __attribute__((vector_size(VEC_BYTES)));
ROWS(1, uint8_t)
ROWS(2, uint16_t)
ROWS(4, uint32_t)
ROWS(8, uint64_t)
#if VEC_BYTES > 16
ROWS(16, words_16)
#endif
#if VEC_BYTES > 32
ROWS(32, words_32)
#endif
ROWS(vector, words_vector)

/* Four vectors, the last two of which lie before `end`. */
VEC_INLINE void move_four(char *restrict out, const char *restrict in, int64_t end)
{
    words_vector a, b, c, d;
    memcpy(&a, in, VEC_BYTES);
    memcpy(&b, in + VEC_BYTES, VEC_BYTES);
    memcpy(&c, in + end - 2 * VEC_BYTES, VEC_BYTES);
    memcpy(&d, in + end - VEC_BYTES, VEC_BYTES);
    memcpy(out, &a, VEC_BYTES);
    memcpy(out + VEC_BYTES, &b, VEC_BYTES);
    memcpy(out + end - 2 * VEC_BYTES, &c, VEC_BYTES);
    memcpy(out + end - VEC_BYTES, &d, VEC_BYTES);
}

static void rows_vectors(char *restrict out, int64_t out_row, const char *restrict in, int64_t in_row, int64_t rows,
                         int64_t bytes)
{
    const int64_t four = 4 * VEC_BYTES;
    for (; rows > 0; rows--, out += out_row, in += in_row) {
        int64_t at = 0;
        for (; bytes - at > four; at += four) move_four(out + at, in + at, four);
        if (bytes >= four) at = bytes - four;
        move_four(out + at, in + at, bytes - at);
    }
}

/* The library's copying is best for what is longer. */
#define LONG_ROW (16 * VEC_BYTES)

static void dense_rows(char *out, int64_t out_row, const char *in, int64_t in_row, int64_t rows, int64_t bytes)
{
    if (bytes > LONG_ROW) {
        for (int64_t r = 0; r < rows; r++) memcpy(out + r * out_row, in + r * in_row, (size_t)bytes);
    } else if (bytes > 2 * VEC_BYTES) {
        rows_vectors(out, out_row, in, in_row, rows, bytes);
    } else if (bytes >= VEC_BYTES) {
        rows_vector(out, out_row, in, in_row, rows, bytes);
#if VEC_BYTES > 32
    } else if (bytes >= 32) {
        rows_32(out, out_row, in, in_row, rows, bytes);
#endif
#if VEC_BYTES > 16
    } else if (bytes >= 16) {
        rows_16(out, out_row, in, in_row, rows, bytes);
#endif
    } else if (bytes >= 8) {
        rows_8(out, out_row, in, in_row, rows, bytes);
    } else if (bytes >= 4) {
        rows_4(out, out_row, in, in_row, rows, bytes);
    } else if (bytes >= 2) {
        rows_2(out, out_row, in, in_row, rows, bytes);
    } else {
        rows_1(out, out_row, in, in_row, rows, bytes);
    }
}

/* Short rows with steps are copied column by column, so many rows at a time that they stay in L1. */
#define SHORT_ROW 8
#define BAND 256

void K(copy_rows)(int width, void *out, int64_t out_row, int64_t out_step, const void *in, int64_t in_row, int64_t in_step,
                  int64_t rows, int64_t n)
{
    char *to = out;
    const char *from = in;
    if (out_step == width && in_step == width) {
        dense_rows(to, out_row, from, in_row, rows, n * width);
    } else if (n <= SHORT_ROW && rows > n) {
        for (int64_t r = 0; r < rows; r += BAND) {
            for (int64_t i = 0; i < n; i++)
                K(copy_strided)(width, to + r * out_row + i * out_step, out_row, from + r * in_row + i * in_step, in_row,
                                rows - r < BAND ? rows - r : BAND);
        }
    } else {
        for (int64_t r = 0; r < rows; r++) K(copy_strided)(width, to + r * out_row, out_step, from + r * in_row, in_step, n);
    }
}

/* Tiles of 16 x 16 keep both sides in L1 whatever the steps are. */
#define TILE 16

#define TRANSPOSE(type)                                                                          \
    static void transpose_##type(char *restrict out, int64_t out_step, const char *restrict in,  \
                                 int64_t in_step, int64_t rows, int64_t columns)                 \
    {                                                                                            \
        for (int64_t c0 = 0; c0 < columns; c0 += TILE) {                                         \
            int64_t c_end = c0 + TILE < columns ? c0 + TILE : columns;                           \
            for (int64_t r0 = 0; r0 < rows; r0 += TILE) {                                        \
                int64_t r_end = r0 + TILE < rows ? r0 + TILE : rows;                             \
                for (int64_t r = r0; r < r_end; r++) {                                           \
                    type *to = (type *)(out + r * out_step);                                     \
                    const char *from = in + r * (int64_t)sizeof(type);                           \
                    for (int64_t c = c0; c < c_end; c++) to[c] = *(const type *)(from + c * in_step); \
                }                                                                                \
            }                                                                                    \
        }                                                                                        \
    }
TRANSPOSE(uint8_t)
TRANSPOSE(uint32_t)
TRANSPOSE(uint64_t)

/* Elements of 4 bytes, as many rows as a vector has lanes, in registers. */
#define SIDE VF_LANES
typedef uint32_t tile_row __attribute__((vector_size(VEC_BYTES)));

#if SIDE == 16
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif SIDE == 8
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#endif

/* Interleaving rows with those half a tile further turns their number by one bit, log2(SIDE) times. */
static void transpose_tile(char *restrict out, int64_t out_step, const char *restrict in, int64_t in_step)
{
    tile_row a[SIDE], b[SIDE];
    for (int i = 0; i < SIDE; i++) memcpy(&a[i], in + i * in_step, sizeof a[i]);
    for (int size = SIDE; size > 1; size /= 2) {
        for (int i = 0; i < SIDE / 2; i++) {
            b[2 * i] = LOW(a[i], a[i + SIDE / 2]);
            b[2 * i + 1] = HIGH(a[i], a[i + SIDE / 2]);
        }
        memcpy(a, b, sizeof a);
    }
    for (int i = 0; i < SIDE; i++) memcpy(out + i * out_step, &a[i], sizeof a[i]);
}

static void transpose_tiles(char *restrict out, int64_t out_step, const char *restrict in, int64_t in_step, int64_t rows,
                            int64_t columns)
{
    const int64_t whole_rows = rows / SIDE * SIDE, whole_columns = columns / SIDE * SIDE;
    for (int64_t c = 0; c < whole_columns; c += SIDE) {
        for (int64_t r = 0; r < whole_rows; r += SIDE)
            transpose_tile(out + r * out_step + c * 4, out_step, in + c * in_step + r * 4, in_step);
    }
    transpose_uint32_t(out + whole_columns * 4, out_step, in + whole_columns * in_step, in_step, whole_rows, columns - whole_columns);
    transpose_uint32_t(out + whole_rows * out_step, out_step, in + whole_rows * 4, in_step, rows - whole_rows, columns);
}

void K(transpose)(int width, void *out, int64_t out_step, const void *in, int64_t in_step, int64_t rows,
                  int64_t columns)
{
    if (width == 4) transpose_tiles(out, out_step, in, in_step, rows, columns);
    else if (width == 8) transpose_uint64_t(out, out_step, in, in_step, rows, columns);
    else transpose_uint8_t(out, out_step, in, in_step, rows, columns);
}

bool K(within)(const int64_t *index, int64_t first, int64_t size, int64_t n)
{
    uint64_t below = (uint64_t)size, outside = 0;
    for (int64_t i = 0; i < n; i++) outside |= (uint64_t)index[i] - (uint64_t)first >= below;
    return !outside;
}

#define PICK(type)                                                                                              \
    static void pick_##type(type *restrict out, const type *restrict in, const int64_t *restrict index,          \
                            int64_t first, int64_t n)                                                           \
    {                                                                                                           \
        for (int64_t i = 0; i < n; i++) out[i] = in[index[i] - first];                                          \
    }
PICK(uint8_t)
PICK(uint32_t)
PICK(uint64_t)

void K(pick)(int width, void *out, const void *in, const int64_t *index, int64_t first, int64_t n)
{
    if (width == 4) pick_uint32_t(out, in, index, first, n);
    else if (width == 8) pick_uint64_t(out, in, index, first, n);
    else pick_uint8_t(out, in, index, first, n);
}

/* Conversions of one element. */
#define PLAIN(to, x) ((to)(x))
#define TRUTH(to, x) ((to)((x) != 0))
#define SATURATE(to, x, lo, hi) ((x) >= (hi) ? (to)(hi) : (x) > (lo) ? (to)(x) : (x) <= (lo) ? (to)(lo) : 0)
#define TO_U8(to, x) ((uint8_t)(int64_t)SATURATE(int64_t, x, -9223372036854775808.0, 9223372036854774784.0))
#define TO_I32(to, x) ((x) >= 2147483648.0 ? INT32_MAX : (x) >= -2147483648.0 ? (int32_t)(x) : (x) < 0 ? INT32_MIN : 0)
#define TO_I64(to, x) \
    ((x) >= 9223372036854775808.0 ? INT64_MAX : (x) >= -9223372036854775808.0 ? (int64_t)(x) : (x) < 0 ? INT64_MIN : 0)

#define CONVERT(name, to, from, how)                                                     \
    static void name(void *restrict out, const void *restrict in, int64_t n)             \
    {                                                                                    \
        to *restrict o = out;                                                            \
        const from *restrict x = in;                                                     \
        for (int64_t i = 0; i < n; i++) o[i] = how(to, x[i]);                            \
    }
#define FROM(from, f)                      \
    CONVERT(bool_of_##f, uint8_t, from, TRUTH) \
    CONVERT(f32_of_##f, float, from, PLAIN)    \
    CONVERT(f64_of_##f, double, from, PLAIN)
#define FROM_INT(from, f)                   \
    FROM(from, f)                           \
    CONVERT(u8_of_##f, uint8_t, from, PLAIN)  \
    CONVERT(i32_of_##f, int32_t, from, PLAIN) \
    CONVERT(i64_of_##f, int64_t, from, PLAIN)
#define FROM_FLOAT(from, f)                  \
    FROM(from, f)                            \
    CONVERT(u8_of_##f, uint8_t, from, TO_U8)   \
    CONVERT(i32_of_##f, int32_t, from, TO_I32) \
    CONVERT(i64_of_##f, int64_t, from, TO_I64)
FROM_INT(uint8_t, u8)
FROM_INT(int32_t, i32)
FROM_INT(int64_t, i64)
FROM_FLOAT(float, f32)
FROM_FLOAT(double, f64)

typedef void converter(void *restrict out, const void *restrict in, int64_t n);
#define ROW(to) {to##_of_u8, to##_of_u8, to##_of_i32, to##_of_i64, to##_of_f32, to##_of_f64}
static converter *const converters[6][6] = {ROW(bool), ROW(u8), ROW(i32), ROW(i64), ROW(f32), ROW(f64)};

void K(convert)(int to, int from, void *out, const void *in, int64_t n) { converters[to][from](out, in, n); }

/* What quotients() takes: 12 bits, and such a size that the reciprocal and its parts are normal numbers. */
static bool is_short_divisor(float divisor)
{
    uint32_t bits;
    memcpy(&bits, &divisor, sizeof bits);
    return divisor >= 0x1p-64f && divisor <= 0x1p64f && (bits & 0xfff) == 0;
}

/* x / divisor, rounded as a division rounds it, in two products.  high has 16 bits, so that x high is exact, and is
 * within 2^-15 of 1 / divisor; two roundings to f32 of what is left, and those of f64, move the sum by less than 2^-37
 * of it.  A quotient that is no f32 keeps a greater distance from where rounding turns: from a number m of 25 bits,
 * as x differs from m divisor, which has 37 bits at most. */
static void quotients(float *restrict out, const uint8_t *restrict in, float divisor, int64_t n)
{
    const double reciprocal = 1.0 / (double)divisor;
    float high = (float)reciprocal;
    uint32_t bits;
    memcpy(&bits, &high, sizeof bits);
    bits &= ~UINT32_C(0xff);
    memcpy(&high, &bits, sizeof bits);
    const float low = (float)(reciprocal - (double)high);
    for (int64_t i = 0; i < n; i++) out[i] = (float)in[i] * high + (float)in[i] * low;
}

void K(convert_divided)(int from, float *out, const void *in, float divisor, int64_t n)
{
    if (from <= 1 && is_short_divisor(divisor)) { /* bool, u8 */
        quotients(out, in, divisor, n);
        return;
    }
    converters[4][from](out, in, n);
    for (int64_t i = 0; i < n; i++) out[i] /= divisor;
}
