/* Softmax and its kin along the rows or the columns of a matrix.  Sums are accumulated in f64. */
#include "kernels.h"
#include "math_f32.h"

/* The forms of one algorithm: softmax of x, of -x (softmin), and the logarithm of the first. */
enum { PLAIN, NEGATED, LOGARITHM };

/* ---------------------------------------------------------------- what differs between f32 and f64 */

VEC_INLINE vd add_f32(vd sum, vf e) { return sum + (vf_low_to_vd(e) + vf_high_to_vd(e)); }
VEC_INLINE vd add_f64(vd sum, vd e) { return sum + e; }
VEC_INLINE vd add_product_f32(vd sum, vf a, vf b)
{
    sum = vd_fma(vf_low_to_vd(a), vf_low_to_vd(b), sum);
    return vd_fma(vf_high_to_vd(a), vf_high_to_vd(b), sum);
}
VEC_INLINE vd add_product_f64(vd sum, vd a, vd b) { return vd_fma(a, b, sum); }

/* The largest lane by halves; a NaN may get lost, and is found again by the sum. */
VEC_INLINE float largest_f32(vf x)
{
#if defined(VEC_AVX512)
    return _mm512_reduce_max_ps(x);
#else
    return vf_max_lane(x);
#endif
}
VEC_INLINE double largest_f64(vd x)
{
#if defined(VEC_AVX512)
    return _mm512_reduce_max_pd(x);
#else
    return vd_max_lane(x);
#endif
}

#define GROUP 64 /* rows whose logarithms are taken together */

VEC_INLINE void logs_of(double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += VD_LANES) {
        const int64_t count = n - i < VD_LANES ? n - i : VD_LANES;
        vd_store_n(x + i, vd_log(vd_load_n(x + i, count)), count);
    }
}

/* ---------------------------------------------------------------- rows */

#define ROWS(suffix, v, m, element, lanes)                                                                   \
    /* a lane beyond the row counts as -infinity */                                                          \
    VEC_INLINE v read_##suffix(int form, const element *x, int64_t count)                                    \
    {                                                                                                        \
        v a = count >= lanes ? v##_load(x) : v##_load_n(x, count);                                           \
        if (form == NEGATED) a = -a;                                                                         \
        if (count < lanes) a = v##_select(m##_first(count), a, v##_set1((element)-__builtin_inf()));         \
        return a;                                                                                            \
    }                                                                                                        \
    VEC_INLINE void write_##suffix(element *out, v a, int64_t count)                                         \
    {                                                                                                        \
        if (count >= lanes) v##_store(out, a);                                                               \
        else v##_store_n(out, a, count);                                                                     \
    }                                                                                                        \
    VEC_INLINE element row_max_##suffix(int form, const element *x, int64_t n)                               \
    {                                                                                                        \
        v best = v##_set1((element)-__builtin_inf()), other = best;                                          \
        int64_t i = 0;                                                                                       \
        for (; i + 2 * lanes <= n; i += 2 * lanes) {                                                         \
            best = v##_max(best, read_##suffix(form, x + i, lanes));                                         \
            other = v##_max(other, read_##suffix(form, x + i + lanes, lanes));                               \
        }                                                                                                    \
        for (; i < n; i += lanes) best = v##_max(best, read_##suffix(form, x + i, n - i));                   \
        return largest_##suffix(v##_max(best, other));                                                       \
    }                                                                                                        \
    /* the sum of e^(x - max), the terms stored if out is not NULL */                                        \
    VEC_INLINE double row_exps_##suffix(int form, element *out, const element *x, element max, int64_t n)    \
    {                                                                                                        \
        const v top = v##_set1(max);                                                                         \
        vd sum = vd_zero(), other = vd_zero();                                                               \
        int64_t i = 0;                                                                                       \
        for (; i + 2 * lanes <= n; i += 2 * lanes) {                                                         \
            v a = v##_exp(read_##suffix(form, x + i, lanes) - top);                                          \
            v b = v##_exp(read_##suffix(form, x + i + lanes, lanes) - top);                                  \
            if (out) {                                                                                       \
                v##_store(out + i, a);                                                                       \
                v##_store(out + i + lanes, b);                                                               \
            }                                                                                                \
            sum = add_##suffix(sum, a);                                                                      \
            other = add_##suffix(other, b);                                                                  \
        }                                                                                                    \
        for (; i < n; i += lanes) {                                                                          \
            v a = v##_exp(read_##suffix(form, x + i, n - i) - top);                                          \
            a = n - i < lanes ? v##_select(m##_first(n - i), a, v##_zero()) : a;                             \
            if (out) write_##suffix(out + i, a, n - i);                                                      \
            sum = add_##suffix(sum, a);                                                                      \
        }                                                                                                    \
        return vd_sum(sum + other);                                                                          \
    }                                                                                                        \
    VEC_INLINE void softmax_rows_##suffix(int form, char *out, const char *x, int64_t rows, int64_t n)       \
    {                                                                                                        \
        const int64_t step = n * (int64_t)sizeof(element);                                                   \
        for (int64_t r = 0; r < rows; r++, out += step, x += step) {                                         \
            element *to = (element *)(void *)out;                                                            \
            const element *from = (const element *)(const void *)x;                                          \
            const element max = row_max_##suffix(form, from, n);                                             \
            const v factor = v##_set1((element)(1 / row_exps_##suffix(form, to, from, max, n)));             \
            for (int64_t i = 0; i < n; i += lanes)                                                           \
                write_##suffix(to + i, read_##suffix(PLAIN, to + i, n - i) * factor, n - i);                 \
        }                                                                                                    \
    }                                                                                                        \
    static void log_softmax_rows_##suffix(char *out, const char *x, int64_t rows, int64_t n)                 \
    {                                                                                                        \
        const int64_t step = n * (int64_t)sizeof(element);                                                   \
        element top[GROUP];                                                                                  \
        double sum[GROUP];                                                                                   \
        for (int64_t first = 0; first < rows; first += GROUP) {                                              \
            const int64_t count = rows - first < GROUP ? rows - first : GROUP;                               \
            for (int64_t r = 0; r < count; r++) {                                                            \
                const element *from = (const element *)(const void *)(x + r * step);                         \
                top[r] = row_max_##suffix(PLAIN, from, n);                                                   \
                sum[r] = row_exps_##suffix(PLAIN, NULL, from, top[r], n);                                    \
            }                                                                                                \
            logs_of(sum, count);                                                                             \
            for (int64_t r = 0; r < count; r++, out += step, x += step) {                                    \
                element *to = (element *)(void *)out;                                                        \
                const element *from = (const element *)(const void *)x;                                      \
                const v max = v##_set1(top[r]), log = v##_set1((element)sum[r]);                             \
                for (int64_t i = 0; i < n; i += lanes)                                                       \
                    write_##suffix(to + i, (read_##suffix(PLAIN, from + i, n - i) - max) - log, n - i);      \
            }                                                                                                \
        }                                                                                                    \
    }                                                                                                        \
    static void softmax_back_rows_##suffix(bool logarithm, char *dx, const char *dy, const char *y,          \
                                           int64_t rows, int64_t n)                                          \
    {                                                                                                        \
        const int64_t step = n * (int64_t)sizeof(element);                                                   \
        for (int64_t r = 0; r < rows; r++, dx += step, dy += step, y += step) {                              \
            element *to = (element *)(void *)dx;                                                             \
            const element *g = (const element *)(const void *)dy, *p = (const element *)(const void *)y;     \
            vd sum = vd_zero();                                                                              \
            for (int64_t i = 0; i < n; i += lanes) {                                                         \
                int64_t count = n - i < lanes ? n - i : lanes;                                               \
                v a = v##_load_n(g + i, count);                                                              \
                sum = logarithm ? add_##suffix(sum, a) : add_product_##suffix(sum, a, v##_load_n(p + i, count)); \
            }                                                                                                \
            const v total = v##_set1((element)vd_sum(sum));                                                  \
            for (int64_t i = 0; i < n; i += lanes) {                                                         \
                int64_t count = n - i < lanes ? n - i : lanes;                                               \
                v a = v##_load_n(g + i, count), b = v##_load_n(p + i, count);                                \
                write_##suffix(to + i, logarithm ? v##_fnma(v##_exp(b), total, a) : b * (a - total), count); \
            }                                                                                                \
        }                                                                                                    \
    }                                                                                                        \
    static void lse_rows_##suffix(double *out, const char *x, int64_t step, int64_t rows, int64_t n)         \
    {                                                                                                        \
        element top[GROUP];                                                                                  \
        for (int64_t first = 0; first < rows; first += GROUP, out += GROUP) {                                \
            const int64_t count = rows - first < GROUP ? rows - first : GROUP;                               \
            for (int64_t r = 0; r < count; r++, x += step) {                                                 \
                top[r] = row_max_##suffix(PLAIN, (const element *)(const void *)x, n);                       \
                out[r] = row_exps_##suffix(PLAIN, NULL, (const element *)(const void *)x, top[r], n);        \
            }                                                                                                \
            logs_of(out, count);                                                                             \
            for (int64_t r = 0; r < count; r++) {                                                            \
                if (top[r] - top[r] == 0) out[r] += (double)top[r];                                          \
                else out[r] = top[r] < 0 ? (double)top[r] : __builtin_nan(""); /* no finite largest one */   \
            }                                                                                                \
        }                                                                                                    \
    }                                                                                                        \
    static void probability_rows_##suffix(char *out, const char *x, int64_t step, const double *lse,         \
                                          const double *scale, int64_t rows, int64_t n)                      \
    {                                                                                                        \
        const int64_t out_step = n * (int64_t)sizeof(element);                                               \
        for (int64_t r = 0; r < rows; r++, out += out_step, x += step) {                                     \
            element *to = (element *)(void *)out;                                                            \
            const element *from = (const element *)(const void *)x;                                          \
            const element high = (element)lse[r], low = (element)(lse[r] - (double)high);                    \
            const v factor = v##_set1((element)scale[r]), above = v##_set1(high), below = v##_set1(low);     \
            if (scale[r] == 0) {                                                                             \
                memset(out, 0, (size_t)out_step);                                                            \
                continue;                                                                                    \
            }                                                                                                \
            for (int64_t i = 0; i < n; i += lanes) {                                                         \
                v a = v##_exp((read_##suffix(PLAIN, from + i, n - i) - above) - below);                      \
                write_##suffix(to + i, a * factor, n - i);                                                   \
            }                                                                                                \
        }                                                                                                    \
    }
ROWS(f32, vf, mf, float, VF_LANES)
ROWS(f64, vd, md, double, VD_LANES)

/* ---------------------------------------------------------------- columns, a vector of them at a time */

#define COLUMNS(suffix, v, element, lanes)                                                                   \
    VEC_INLINE void softmax_columns_##suffix(int form, char *out, const char *x, int64_t step, int64_t rows, int64_t n) \
    {                                                                                                        \
        for (int64_t j = 0; j < n; j += lanes, out += VEC_BYTES, x += VEC_BYTES) {                           \
            const int64_t count = n - j < lanes ? n - j : lanes;                                             \
            v max = v##_set1((element)-__builtin_inf()), sum = v##_zero(), lost = v##_zero();                \
            for (int64_t r = 0; r < rows; r++)                                                               \
                max = v##_max(max, read_##suffix(form, (const element *)(const void *)(x + r * step), count)); \
            for (int64_t r = 0; r < rows; r++) {                                                             \
                v e = v##_exp(read_##suffix(form, (const element *)(const void *)(x + r * step), count) - max); \
                if (form != LOGARITHM) write_##suffix((element *)(void *)(out + r * step), e, count);        \
                v term = e - lost, next = sum + term; /* compensated: Kahan, CACM 8 (1965) */                \
                lost = (next - sum) - term;                                                                  \
                sum = next;                                                                                  \
            }                                                                                                \
            const v factor = form == LOGARITHM ? v##_log(sum) : (element)1 / sum;                            \
            for (int64_t r = 0; r < rows; r++) {                                                             \
                element *to = (element *)(void *)(out + r * step);                                           \
                v a = read_##suffix(form == LOGARITHM ? form : PLAIN, form == LOGARITHM ?                    \
                                    (const element *)(const void *)(x + r * step) : to, count);              \
                write_##suffix(to, form == LOGARITHM ? (a - max) - factor : a * factor, count);              \
            }                                                                                                \
        }                                                                                                    \
    }                                                                                                        \
    static void softmax_back_columns_##suffix(bool logarithm, char *dx, const char *dy, const char *y,       \
                                              int64_t step, int64_t rows, int64_t n)                         \
    {                                                                                                        \
        for (int64_t j = 0; j < n; j += lanes, dx += VEC_BYTES, dy += VEC_BYTES, y += VEC_BYTES) {           \
            const int64_t count = n - j < lanes ? n - j : lanes;                                             \
            v sum = v##_zero(), lost = v##_zero();                                                           \
            for (int64_t r = 0; r < rows; r++) {                                                             \
                v a = v##_load_n((const element *)(const void *)(dy + r * step), count);                     \
                if (!logarithm) a = a * v##_load_n((const element *)(const void *)(y + r * step), count);    \
                v term = a - lost, next = sum + term;                                                        \
                lost = (next - sum) - term;                                                                  \
                sum = next;                                                                                  \
            }                                                                                                \
            for (int64_t r = 0; r < rows; r++) {                                                             \
                v a = v##_load_n((const element *)(const void *)(dy + r * step), count);                     \
                v b = v##_load_n((const element *)(const void *)(y + r * step), count);                      \
                write_##suffix((element *)(void *)(dx + r * step),                                           \
                               logarithm ? v##_fnma(v##_exp(b), sum, a) : b * (a - sum), count);             \
            }                                                                                                \
        }                                                                                                    \
    }
COLUMNS(f32, vf, float, VF_LANES)
COLUMNS(f64, vd, double, VD_LANES)

/* ---------------------------------------------------------------- the slots */

#define ROW_FORMS(suffix)                                                \
    switch (form) {                                                       \
    case PLAIN: softmax_rows_##suffix(PLAIN, out, x, rows, n); break;     \
    case NEGATED: softmax_rows_##suffix(NEGATED, out, x, rows, n); break; \
    default: log_softmax_rows_##suffix(out, x, rows, n); break;           \
    }

void K(softmax_rows)(int form, int dtype, void *out, const void *x, int64_t rows, int64_t n)
{
    if (dtype == 4) ROW_FORMS(f32)
    else ROW_FORMS(f64)
}

#define COLUMN_FORMS(suffix)                                                       \
    switch (form) {                                                                \
    case PLAIN: softmax_columns_##suffix(PLAIN, out, x, step, rows, n); break;     \
    case NEGATED: softmax_columns_##suffix(NEGATED, out, x, step, rows, n); break; \
    default: softmax_columns_##suffix(LOGARITHM, out, x, step, rows, n); break;    \
    }

void K(softmax_columns)(int form, int dtype, void *out, const void *x, int64_t step, int64_t rows, int64_t n)
{
    if (dtype == 4) COLUMN_FORMS(f32)
    else COLUMN_FORMS(f64)
}

void K(softmax_back_rows)(bool logarithm, int dtype, void *dx, const void *dy, const void *y, int64_t rows, int64_t n)
{
    if (dtype == 4) softmax_back_rows_f32(logarithm, dx, dy, y, rows, n);
    else softmax_back_rows_f64(logarithm, dx, dy, y, rows, n);
}

void K(softmax_back_columns)(bool logarithm, int dtype, void *dx, const void *dy, const void *y, int64_t step,
                             int64_t rows, int64_t n)
{
    if (dtype == 4) softmax_back_columns_f32(logarithm, dx, dy, y, step, rows, n);
    else softmax_back_columns_f64(logarithm, dx, dy, y, step, rows, n);
}

void K(logsumexp_rows)(int dtype, double *out, const void *x, int64_t step, int64_t rows, int64_t n)
{
    if (dtype == 4) lse_rows_f32(out, x, step, rows, n);
    else lse_rows_f64(out, x, step, rows, n);
}

void K(probability_rows)(int dtype, void *out, const void *x, int64_t step, const double *lse, const double *scale,
                         int64_t rows, int64_t n)
{
    if (dtype == 4) probability_rows_f32(out, x, step, lse, scale, rows, n);
    else probability_rows_f64(out, x, step, lse, scale, rows, n);
}
