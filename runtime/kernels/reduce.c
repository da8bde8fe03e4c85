/* Reductions of the rows or the columns of a matrix.  Floats are accumulated in f64, integers in i64; each
 * result's terms are added in an order that depends on the matrix's shape only. */
#include "kernels.h"
#include "math_f32.h"

/* ---------------------------------------------------------------- sums and products of f32 and f64 */

/* Long, and called from many loops. */
static __attribute__((noinline)) vd power_of(vd x, vd p) { return vd_pow(vd_abs(x), p); }

VEC_INLINE vd term(int kind, vd x, vd p)
{
    switch (kind) {
    case NNL_REDUCE_NONZERO: return vd_select(vd_ne(x, vd_zero()), vd_set1(1.0), vd_zero());
    case NNL_REDUCE_ABS: return vd_abs(x);
    case NNL_REDUCE_SQUARES: return x * x;
    case NNL_REDUCE_POWERS: return power_of(x, p);
    case NNL_REDUCE_DEVIATIONS: x = x - p; return x * x;
    case NNL_REDUCE_EXPS: return vd_exp(x - p);
    default: return x;
    }
}

VEC_INLINE vd combine(int kind, vd a, vd b) { return kind == NNL_REDUCE_PROD ? a * b : a + b; }
VEC_INLINE vd neutral(int kind) { return vd_set1(kind == NNL_REDUCE_PROD ? 1.0 : 0.0); }

VEC_INLINE double across(int kind, vd a)
{
    if (kind != NNL_REDUCE_PROD) return vd_sum(a);
    double product = a[0];
    for (int i = 1; i < VD_LANES; i++) product *= a[i];
    return product;
}

/* The terms of a vector of f32, as two halves. */
VEC_INLINE void terms_f32(int kind, vf x, vd p_low, vd p_high, vd *low, vd *high)
{
    if (kind == NNL_REDUCE_EXPS) { /* m is an element, so that x - m is as exact as x */
        vf e = vf_exp(x - vd_to_vf(p_low, p_high));
        *low = vf_low_to_vd(e);
        *high = vf_high_to_vd(e);
    } else {
        *low = term(kind, vf_low_to_vd(x), p_low);
        *high = term(kind, vf_high_to_vd(x), p_high);
    }
}

VEC_INLINE void load_terms_f32(int kind, const float *x, vd p_low, vd p_high, vd *low, vd *high)
{
    if (kind == NNL_REDUCE_EXPS) {
        terms_f32(kind, vf_load(x), p_low, p_high, low, high);
    } else {
        *low = term(kind, vd_load_f32(x), p_low);
        *high = term(kind, vd_load_f32(x + VD_LANES), p_high);
    }
}

VEC_INLINE vd first_of(vd x, int64_t n, vd rest)
{
    n = n < 0 ? 0 : n > VD_LANES ? VD_LANES : n;
    return vd_select(md_first(n), x, rest);
}

#define WIDE 4 /* vectors in flight */
#define AHEAD 512 /* elements: from beyond L2 the processor by itself fetches too late for f32 */

VEC_INLINE vd combined(int kind, vd *acc)
{
    VEC_UNROLL
    for (int step = WIDE; step > 0; step /= 2) {
        VEC_UNROLL
        for (int i = 0; i < step; i++) acc[i] = combine(kind, acc[i], acc[i + step]);
    }
    return acc[0];
}

VEC_INLINE double row_f32(int kind, const float *x, int64_t n, double parameter)
{
    const vd p = vd_set1(parameter), none = neutral(kind);
    vd acc[2 * WIDE], low, high;
    for (int i = 0; i < 2 * WIDE; i++) acc[i] = none;
    int64_t at = 0;
    for (; at + WIDE * VF_LANES <= n; at += WIDE * VF_LANES) {
        for (int i = 0; i < WIDE; i++) {
            __builtin_prefetch(x + at + i * VF_LANES + AHEAD);
            load_terms_f32(kind, x + at + i * VF_LANES, p, p, &low, &high);
            acc[2 * i] = combine(kind, acc[2 * i], low);
            acc[2 * i + 1] = combine(kind, acc[2 * i + 1], high);
        }
    }
    for (; at + VF_LANES <= n; at += VF_LANES) {
        load_terms_f32(kind, x + at, p, p, &low, &high);
        acc[0] = combine(kind, acc[0], low);
        acc[1] = combine(kind, acc[1], high);
    }
    if (at < n) {
        terms_f32(kind, vf_load_n(x + at, n - at), p, p, &low, &high);
        acc[2] = combine(kind, acc[2], first_of(low, n - at, none));
        acc[3] = combine(kind, acc[3], first_of(high, n - at - VD_LANES, none));
    }
    return across(kind, combined(kind, acc));
}

VEC_INLINE double row_f64(int kind, const double *x, int64_t n, double parameter)
{
    const vd p = vd_set1(parameter), none = neutral(kind);
    vd acc[2 * WIDE];
    for (int i = 0; i < 2 * WIDE; i++) acc[i] = none;
    int64_t at = 0;
    for (; at + 2 * WIDE * VD_LANES <= n; at += 2 * WIDE * VD_LANES) {
        for (int i = 0; i < 2 * WIDE; i++)
            acc[i] = combine(kind, acc[i], term(kind, vd_load(x + at + i * VD_LANES), p));
    }
    for (; at + VD_LANES <= n; at += VD_LANES) acc[0] = combine(kind, acc[0], term(kind, vd_load(x + at), p));
    if (at < n) {
        vd last = first_of(term(kind, vd_load_n(x + at, n - at), p), n - at, none);
        acc[1] = combine(kind, acc[1], last);
    }
    return across(kind, combined(kind, acc));
}

/* Column sums: a strip of columns keeps its accumulators in registers while the rows pass. */
VEC_INLINE void strip_f32(int kind, double *acc, const char *x, int64_t step, int64_t rows, const double *parameter,
                          int vectors)
{
    vd sum[2 * WIDE], p[2 * WIDE], low, high;
    for (int i = 0; i < 2 * vectors; i++) {
        sum[i] = vd_load(acc + i * VD_LANES);
        p[i] = parameter ? vd_load(parameter + i * VD_LANES) : vd_zero();
    }
    for (int64_t r = 0; r < rows; r++, x += step) {
        for (int i = 0; i < vectors; i++) {
            load_terms_f32(kind, (const float *)x + i * VF_LANES, p[2 * i], p[2 * i + 1], &low, &high);
            sum[2 * i] = combine(kind, sum[2 * i], low);
            sum[2 * i + 1] = combine(kind, sum[2 * i + 1], high);
        }
    }
    for (int i = 0; i < 2 * vectors; i++) vd_store(acc + i * VD_LANES, sum[i]);
}

VEC_INLINE void strip_f64(int kind, double *acc, const char *x, int64_t step, int64_t rows, const double *parameter,
                          int vectors)
{
    vd sum[2 * WIDE], p[2 * WIDE];
    for (int i = 0; i < vectors; i++) {
        sum[i] = vd_load(acc + i * VD_LANES);
        p[i] = parameter ? vd_load(parameter + i * VD_LANES) : vd_zero();
    }
    for (int64_t r = 0; r < rows; r++, x += step) {
        for (int i = 0; i < vectors; i++)
            sum[i] = combine(kind, sum[i], term(kind, vd_load((const double *)x + i * VD_LANES), p[i]));
    }
    for (int i = 0; i < vectors; i++) vd_store(acc + i * VD_LANES, sum[i]);
}

/* One vector of columns or less: APART sums side by side, as one chain of additions would wait for each. */
#define APART 4
VEC_INLINE void narrow_f32(int kind, double *acc, const char *x, int64_t step, int64_t rows, const double *parameter,
                           int64_t n, const bool two_halves)
{
    double ends[VF_LANES] = {0}, last_p[VF_LANES] = {0};
    memcpy(ends, acc, (size_t)n * sizeof(double));
    if (parameter) memcpy(last_p, parameter, (size_t)n * sizeof(double));
    const vd p_low = vd_load(last_p), p_high = vd_load(last_p + VD_LANES);
    vd low[APART], high[APART], a, b;
    for (int i = 0; i < APART; i++) low[i] = high[i] = neutral(kind);
    low[0] = vd_load(ends);
    high[0] = vd_load(ends + VD_LANES);
    for (; rows >= APART; rows -= APART) {
        for (int i = 0; i < APART; i++, x += step) {
            terms_f32(kind, vf_load_n((const float *)x, n), p_low, p_high, &a, &b);
            low[i] = combine(kind, low[i], a);
            if (two_halves) high[i] = combine(kind, high[i], b);
        }
    }
    for (; rows > 0; rows--, x += step) {
        terms_f32(kind, vf_load_n((const float *)x, n), p_low, p_high, &a, &b);
        low[0] = combine(kind, low[0], a);
        if (two_halves) high[0] = combine(kind, high[0], b);
    }
    vd_store(ends, combine(kind, combine(kind, low[0], low[1]), combine(kind, low[2], low[3])));
    if (two_halves)
        vd_store(ends + VD_LANES, combine(kind, combine(kind, high[0], high[1]), combine(kind, high[2], high[3])));
    memcpy(acc, ends, (size_t)n * sizeof(double));
}

VEC_INLINE void narrow_f64(int kind, double *acc, const char *x, int64_t step, int64_t rows, const double *parameter, int64_t n)
{
    const vd p = parameter ? vd_load_n(parameter, n) : vd_zero();
    vd sum[APART];
    for (int i = 1; i < APART; i++) sum[i] = neutral(kind);
    sum[0] = vd_load_n(acc, n);
    for (; rows >= APART; rows -= APART) {
        for (int i = 0; i < APART; i++, x += step)
            sum[i] = combine(kind, sum[i], term(kind, vd_load_n((const double *)x, n), p));
    }
    for (; rows > 0; rows--, x += step) sum[0] = combine(kind, sum[0], term(kind, vd_load_n((const double *)x, n), p));
    vd_store_n(acc, combine(kind, combine(kind, sum[0], sum[1]), combine(kind, sum[2], sum[3])), n);
}

/* shared: one parameter for all columns */
VEC_INLINE void columns_f32(int kind, double *acc, const char *x, int64_t step, int64_t rows, int64_t n,
                            const double *parameter)
{
    double same[2 * WIDE * VD_LANES];
    bool shared = kind == NNL_REDUCE_POWERS;
    if (shared) {
        for (int i = 0; i < 2 * WIDE * VD_LANES; i++) same[i] = *parameter;
        parameter = same;
    }
    int64_t at = 0, advance = parameter && !shared;
    for (; at + WIDE * VF_LANES <= n; at += WIDE * VF_LANES, x += WIDE * VEC_BYTES) {
        strip_f32(kind, acc + at, x, step, rows, parameter, WIDE);
        if (advance) parameter += WIDE * VF_LANES;
    }
    for (; n - at > VD_LANES; at += VF_LANES, x += VEC_BYTES) {
        narrow_f32(kind, acc + at, x, step, rows, parameter, n - at < VF_LANES ? n - at : VF_LANES, true);
        if (advance) parameter += VF_LANES;
    }
    if (at < n) narrow_f32(kind, acc + at, x, step, rows, parameter, n - at, false);
}

VEC_INLINE void columns_f64(int kind, double *acc, const char *x, int64_t step, int64_t rows, int64_t n,
                            const double *parameter)
{
    double same[2 * WIDE * VD_LANES];
    bool shared = kind == NNL_REDUCE_POWERS;
    if (shared) {
        for (int i = 0; i < 2 * WIDE * VD_LANES; i++) same[i] = *parameter;
        parameter = same;
    }
    int64_t at = 0, advance = parameter && !shared;
    for (; at + 2 * WIDE * VD_LANES <= n; at += 2 * WIDE * VD_LANES, x += 2 * WIDE * VEC_BYTES) {
        strip_f64(kind, acc + at, x, step, rows, parameter, 2 * WIDE);
        if (advance) parameter += 2 * WIDE * VD_LANES;
    }
    for (; at < n; at += VD_LANES, x += VEC_BYTES) {
        narrow_f64(kind, acc + at, x, step, rows, parameter, n - at < VD_LANES ? n - at : VD_LANES);
        if (advance) parameter += VD_LANES;
    }
}

/* ---------------------------------------------------------------- extremes of f32 and f64 */

/* v_max(a, b) is b where one is NaN: what was NaN once is remembered in a mask. */
#define EXTREME_ROW(suffix, v, m, element, lanes, mask)                                                        \
    VEC_INLINE double extreme_row_##suffix(bool largest, bool magnitude, const element *x, int64_t n)           \
    {                                                                                                           \
        const element worst = (element)(largest ? -__builtin_inf() : __builtin_inf());                         \
        v best[WIDE], a;                                                                                        \
        mask nan = m##_first(0);                                                                                \
        for (int i = 0; i < WIDE; i++) best[i] = v##_set1(0) + worst;                                           \
        int64_t at = 0;                                                                                         \
        for (; at + WIDE * lanes <= n; at += WIDE * lanes) {                                                    \
            for (int i = 0; i < WIDE; i++) {                                                                    \
                a = v##_load(x + at + i * lanes);                                                               \
                if (magnitude) a = v##_abs(a);                                                                  \
                nan = m##_or(nan, v##_isnan(a));                                                                \
                best[i] = largest ? v##_max(best[i], a) : v##_min(best[i], a);                                  \
            }                                                                                                   \
        }                                                                                                       \
        for (; at < n; at += lanes) {                                                                           \
            int64_t count = n - at < lanes ? n - at : lanes;                                                    \
            a = v##_select(m##_first(count), v##_load_n(x + at, count), v##_set1(0) + worst);                   \
            if (magnitude) a = v##_select(m##_first(count), v##_abs(a), a);                                     \
            nan = m##_or(nan, v##_isnan(a));                                                                    \
            best[0] = largest ? v##_max(best[0], a) : v##_min(best[0], a);                                      \
        }                                                                                                       \
        for (int i = 1; i < WIDE; i++) best[0] = largest ? v##_max(best[i], best[0]) : v##_min(best[i], best[0]); \
        if (m##_any(nan)) return __builtin_nan("");                                                             \
        return (double)(largest ? v##_max_lane(best[0]) : v##_min_lane(best[0]));                               \
    }
EXTREME_ROW(f32, vf, mf, float, VF_LANES, mf)
EXTREME_ROW(f64, vd, md, double, VD_LANES, md)

/* acc is the better, or NaN when one is. */
static void extreme_join(bool largest, double *acc, double x)
{
    if (x != x || (largest ? x > *acc : x < *acc)) *acc = *acc == *acc ? x : *acc;
}

#define EXTREME_COLUMNS(name, element, read, better)                                                        \
    static void name(double *restrict acc, const char *x, int64_t step, int64_t rows, int64_t n)            \
    {                                                                                                       \
        for (int64_t r = 0; r < rows; r++, x += step) {                                                     \
            const element *row = (const element *)x;                                                        \
            for (int64_t j = 0; j < n; j++) {                                                               \
                const double a = (double)read(row[j]), b = acc[j];                                          \
                acc[j] = a better b || a != a ? (b == b ? a : b) : b;                                       \
            }                                                                                               \
        }                                                                                                   \
    }
#define SELF(a) (a)
EXTREME_COLUMNS(max_columns_f32, float, SELF, >)
EXTREME_COLUMNS(max_columns_f64, double, SELF, >)
EXTREME_COLUMNS(min_columns_f32, float, SELF, <)
EXTREME_COLUMNS(min_columns_f64, double, SELF, <)
EXTREME_COLUMNS(max_abs_columns_f32, float, __builtin_fabsf, >)
EXTREME_COLUMNS(max_abs_columns_f64, double, __builtin_fabs, >)
EXTREME_COLUMNS(min_abs_columns_f32, float, __builtin_fabsf, <)
EXTREME_COLUMNS(min_abs_columns_f64, double, __builtin_fabs, <)

/* ---------------------------------------------------------------- integers */

#define EACH_ROW(statement)                                                       \
    for (int64_t r = 0; r < rows; r++, x += step) {                               \
        int64_t a = acc[r];                                                       \
        for (int64_t i = 0; i < n; i++) {                                         \
            const int64_t e = row_at(x, i);                                       \
            a = statement;                                                        \
        }                                                                         \
        acc[r] = a;                                                               \
    }
#define EACH_COLUMN(statement)                                                    \
    for (int64_t r = 0; r < rows; r++, x += step) {                               \
        for (int64_t j = 0; j < n; j++) {                                         \
            const int64_t e = row_at(x, j), a = acc[j];                           \
            acc[j] = statement;                                                   \
        }                                                                         \
    }
#define INTEGER_KINDS(EACH)                                                       \
    switch (kind) {                                                               \
    case NNL_REDUCE_PROD: EACH((int64_t)((uint64_t)a * (uint64_t)e)) break;       \
    case NNL_REDUCE_MIN: EACH(e < a ? e : a) break;                               \
    case NNL_REDUCE_MAX: EACH(e > a ? e : a) break;                               \
    case NNL_REDUCE_NONZERO: EACH(a + (e != 0)) break;                            \
    default: EACH((int64_t)((uint64_t)a + (uint64_t)e)) break;                    \
    }
#define INTEGER(suffix, element)                                                                             \
    static void rows_##suffix(int kind, int64_t *restrict acc, const char *x, int64_t step, int64_t rows, int64_t n) \
    {                                                                                                        \
        INTEGER_KINDS(EACH_ROW)                                                                              \
    }                                                                                                        \
    static void columns_##suffix(int kind, int64_t *restrict acc, const char *x, int64_t step, int64_t rows, int64_t n) \
    {                                                                                                        \
        INTEGER_KINDS(EACH_COLUMN)                                                                           \
    }
#define row_at(x, i) ((int64_t)((const uint8_t *)(x))[i])
INTEGER(u8, uint8_t)
#undef row_at
#define row_at(x, i) ((int64_t)((const int32_t *)(x))[i])
INTEGER(i32, int32_t)
#undef row_at
#define row_at(x, i) (((const int64_t *)(x))[i])
INTEGER(i64, int64_t)
#undef row_at

/* ---------------------------------------------------------------- the slots */

#define SUM_KINDS(EACH)                                        \
    EACH(NNL_REDUCE_SUM) EACH(NNL_REDUCE_PROD) EACH(NNL_REDUCE_NONZERO) EACH(NNL_REDUCE_ABS) \
    EACH(NNL_REDUCE_SQUARES) EACH(NNL_REDUCE_POWERS) EACH(NNL_REDUCE_DEVIATIONS) EACH(NNL_REDUCE_EXPS)

#define FLOAT_ROWS(suffix, element)                                                                          \
    static void rows_##suffix(int kind, double *acc, const char *x, int64_t step, int64_t rows, int64_t n,   \
                              const double *parameter)                                                       \
    {                                                                                                        \
        int64_t advance = parameter && kind != NNL_REDUCE_POWERS;                                            \
        switch (kind) {                                                                                      \
            SUM_KINDS(ROW_CASE_##suffix)                                                                     \
        default:                                                                                             \
            for (int64_t r = 0; r < rows; r++, x += step) {                                                  \
                const element *row = (const element *)x;                                                     \
                const bool largest = kind == NNL_REDUCE_MAX || kind == NNL_REDUCE_MAX_ABS;                   \
                double best;                                                                                 \
                if (kind == NNL_REDUCE_MIN) best = extreme_row_##suffix(false, false, row, n);               \
                else if (kind == NNL_REDUCE_MAX) best = extreme_row_##suffix(true, false, row, n);           \
                else if (kind == NNL_REDUCE_MAX_ABS) best = extreme_row_##suffix(true, true, row, n);        \
                else best = extreme_row_##suffix(false, true, row, n);                                       \
                extreme_join(largest, &acc[r], best);                                                        \
            }                                                                                                \
        }                                                                                                    \
    }
#define ROW_CASE(kind_, suffix, element)                                                      \
    case kind_:                                                                               \
        for (int64_t r = 0; r < rows; r++, x += step) {                                       \
            double a = row_##suffix(kind_, (const element *)x, n, parameter ? *parameter : 0); \
            acc[r] = kind_ == NNL_REDUCE_PROD ? acc[r] * a : acc[r] + a;                      \
            if (advance) parameter++;                                                         \
        }                                                                                     \
        break;
#define ROW_CASE_f32(kind_) ROW_CASE(kind_, f32, float)
#define ROW_CASE_f64(kind_) ROW_CASE(kind_, f64, double)
FLOAT_ROWS(f32, float)
FLOAT_ROWS(f64, double)

/* acc[r] takes in x[r][0 .. n) */
void K(reduce_rows)(int kind, int dtype, void *acc, const void *x, int64_t step, int64_t rows, int64_t n,
                    const double *parameter)
{
    switch (dtype) {
    case 2: rows_i32(kind, acc, x, step, rows, n); break;
    case 3: rows_i64(kind, acc, x, step, rows, n); break;
    case 4: rows_f32(kind, acc, x, step, rows, n, parameter); break;
    case 5: rows_f64(kind, acc, x, step, rows, n, parameter); break;
    default: rows_u8(kind, acc, x, step, rows, n); break;
    }
}

#define COLUMN_CASE_f32(kind_) case kind_: columns_f32(kind_, acc, x, step, rows, n, parameter); break;
#define COLUMN_CASE_f64(kind_) case kind_: columns_f64(kind_, acc, x, step, rows, n, parameter); break;
#define FLOAT_COLUMNS(suffix)                                                                                \
    static void all_columns_##suffix(int kind, double *acc, const char *x, int64_t step, int64_t rows,       \
                                     int64_t n, const double *parameter)                                     \
    {                                                                                                        \
        switch (kind) {                                                                                      \
            SUM_KINDS(COLUMN_CASE_##suffix)                                                                  \
        case NNL_REDUCE_MIN: min_columns_##suffix(acc, x, step, rows, n); break;                             \
        case NNL_REDUCE_MAX: max_columns_##suffix(acc, x, step, rows, n); break;                             \
        case NNL_REDUCE_MAX_ABS: max_abs_columns_##suffix(acc, x, step, rows, n); break;                     \
        default: min_abs_columns_##suffix(acc, x, step, rows, n); break;                                     \
        }                                                                                                    \
    }
FLOAT_COLUMNS(f32)
FLOAT_COLUMNS(f64)

/* acc[j] takes in x[0 .. rows)[j] */
void K(reduce_columns)(int kind, int dtype, void *acc, const void *x, int64_t step, int64_t rows, int64_t n,
                       const double *parameter)
{
    switch (dtype) {
    case 2: columns_i32(kind, acc, x, step, rows, n); break;
    case 3: columns_i64(kind, acc, x, step, rows, n); break;
    case 4: all_columns_f32(kind, acc, x, step, rows, n, parameter); break;
    case 5: all_columns_f64(kind, acc, x, step, rows, n, parameter); break;
    default: columns_u8(kind, acc, x, step, rows, n); break;
    }
}

/* ---------------------------------------------------------------- places */

/* place[r]: the first i where x[r][i] is value[r], or NaN; value as the accumulators above */
#define FIND_ROW(v, m, element, lanes)                                                     \
    for (int64_t r = 0; r < rows; r++, x += step) {                                        \
        const element *row = (const element *)(const void *)x;                             \
        const v wanted = v##_set1((element)((const double *)value)[r]);                    \
        for (int64_t i = 0; i < n; i += lanes) {                                           \
            int64_t count = n - i < lanes ? n - i : lanes;                                 \
            v a = count == lanes ? v##_load(row + i) : v##_load_n(row + i, count);         \
            uint32_t hits = m##_bits(m##_and(m##_first(count), m##_or(v##_eq(a, wanted), v##_isnan(a)))); \
            if (!hits) continue;                                                           \
            place[r] = i + __builtin_ctz(hits);                                            \
            break;                                                                         \
        }                                                                                  \
    }
#define FIND_ROW_INTEGER(element)                                                          \
    for (int64_t r = 0; r < rows; r++, x += step) {                                        \
        const element *row = (const element *)(const void *)x;                             \
        const int64_t wanted = ((const int64_t *)value)[r];                                \
        int64_t i = 0;                                                                     \
        while (i < n && row[i] != wanted) i++;                                             \
        if (i < n) place[r] = i;                                                           \
    }
void K(find_rows)(int dtype, int64_t *place, const void *in, int64_t step, int64_t rows, int64_t n, const void *value)
{
    const char *x = in;
    switch (dtype) {
    case 2: FIND_ROW_INTEGER(int32_t) break;
    case 3: FIND_ROW_INTEGER(int64_t) break;
    case 4: FIND_ROW(vf, mf, float, VF_LANES) break;
    case 5: FIND_ROW(vd, md, double, VD_LANES) break;
    default: FIND_ROW_INTEGER(uint8_t) break;
    }
}

/* The same for columns: the last row first, so that the first hit stays. */
#define FIND_COLUMN(element, wide)                                                         \
    for (int64_t r = rows - 1; r >= 0; r--) {                                              \
        const element *row = (const element *)(const void *)(x + r * step);                \
        const wide *wanted = value;                                                        \
        for (int64_t j = 0; j < n; j++)                                                    \
            place[j] = (wide)row[j] == wanted[j] || row[j] != row[j] ? r : place[j];       \
    }
void K(find_columns)(int dtype, int64_t *restrict place, const void *in, int64_t step, int64_t rows, int64_t n,
                     const void *value)
{
    const char *x = in;
    switch (dtype) {
    case 2: FIND_COLUMN(int32_t, int64_t) break;
    case 3: FIND_COLUMN(int64_t, int64_t) break;
    case 4: FIND_COLUMN(float, double) break;
    case 5: FIND_COLUMN(double, double) break;
    default: FIND_COLUMN(uint8_t, int64_t) break;
    }
}
