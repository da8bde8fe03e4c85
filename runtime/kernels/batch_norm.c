/* Batch normalisation: statistics and the passes over images.  Channels are the columns of a matrix (images that lie
 * channels-last), or its rows.  Sums are kept in f64, of at most RUN terms added in the elements' own type. */
#include "kernels.h"
#include "vec.h"

#define RUN 32
#define FIRST 16 /* elements whose mean the others are measured from, so that large means do not cancel */
#define BLOCK 4  /* vectors of columns, or of a row, that are summed side by side */

typedef struct sum_f32 { vd low, high; } sum_f32;
typedef struct sum_f64 { vd low; } sum_f64;
VEC_INLINE sum_f32 none_f32(void) { return (sum_f32){vd_zero(), vd_zero()}; }
VEC_INLINE sum_f64 none_f64(void) { return (sum_f64){vd_zero()}; }
VEC_INLINE void gather_f32(sum_f32 *sum, vf x)
{
    sum->low += vf_low_to_vd(x);
    sum->high += vf_high_to_vd(x);
}
VEC_INLINE void gather_f64(sum_f64 *sum, vd x) { sum->low += x; }
VEC_INLINE double across_f32(const sum_f32 *sum) { return vd_sum(sum->low + sum->high); }
VEC_INLINE double across_f64(const sum_f64 *sum) { return vd_sum(sum->low); }
VEC_INLINE void spread_f32(double *out, const sum_f32 *sum)
{
    vd_store(out, sum->low);
    vd_store(out + VD_LANES, sum->high);
}
VEC_INLINE void spread_f64(double *out, const sum_f64 *sum) { vd_store(out, sum->low); }

#define BATCH_NORM(suffix, v, m, element, lanes)                                                             \
    VEC_INLINE v read_##suffix(const element *x, int64_t n) { return n >= lanes ? v##_load(x) : v##_load_n(x, n); } \
    VEC_INLINE void write_##suffix(element *x, v a, int64_t n)                                               \
    {                                                                                                        \
        if (n >= lanes) v##_store(x, a);                                                                     \
        else v##_store_n(x, a, n);                                                                           \
    }                                                                                                        \
    /* the first n lanes of a, zeros behind them */                                                          \
    VEC_INLINE v only_##suffix(v a, int64_t n) { return n >= lanes ? a : v##_select(m##_first(n), a, v##_zero()); } \
                                                                                                             \
    /* ------------------------------------------------------------ mean and squared deviations */           \
    VEC_INLINE void moments_block_##suffix(int vectors, double *mean, double *m2, const element *x, int64_t rows, \
                                           int64_t n, int64_t count)                                         \
    {                                                                                                        \
        v from[BLOCK];                                                                                       \
        sum_##suffix first[BLOCK], second[BLOCK];                                                            \
        const int64_t few = rows < FIRST ? rows : FIRST;                                                     \
        for (int b = 0; b < vectors; b++) {                                                                  \
            first[b] = second[b] = none_##suffix();                                                          \
            from[b] = v##_zero();                                                                            \
            for (int64_t r = 0; r < few; r++) from[b] += read_##suffix(x + r * n + b * lanes, count - b * lanes); \
            from[b] /= (element)few;                                                                         \
        }                                                                                                    \
        for (int64_t r = 0; r < rows; r += RUN) {                                                            \
            const int64_t end = r + RUN < rows ? r + RUN : rows;                                             \
            v one[BLOCK], two[BLOCK];                                                                        \
            for (int b = 0; b < vectors; b++) one[b] = two[b] = v##_zero();                                  \
            for (int64_t k = r; k < end; k++) {                                                              \
                for (int b = 0; b < vectors; b++) {                                                          \
                    const v d = read_##suffix(x + k * n + b * lanes, count - b * lanes) - from[b];           \
                    one[b] += d;                                                                             \
                    two[b] = v##_fma(d, d, two[b]);                                                          \
                }                                                                                            \
            }                                                                                                \
            for (int b = 0; b < vectors; b++) {                                                              \
                gather_##suffix(&first[b], one[b]);                                                          \
                gather_##suffix(&second[b], two[b]);                                                         \
            }                                                                                                \
        }                                                                                                    \
        for (int b = 0; b < vectors; b++) {                                                                  \
            double one[lanes], two[lanes];                                                                   \
            spread_##suffix(one, &first[b]);                                                                 \
            spread_##suffix(two, &second[b]);                                                                \
            for (int64_t l = 0; l < lanes && b * lanes + l < count; l++) {                                   \
                mean[b * lanes + l] = (double)from[b][l] + one[l] / (double)rows;                            \
                m2[b * lanes + l] = two[l] - one[l] * one[l] / (double)rows;                                 \
            }                                                                                                \
        }                                                                                                    \
    }                                                                                                        \
    static void moments_columns_##suffix(double *mean, double *m2, const element *x, int64_t rows, int64_t n) \
    {                                                                                                        \
        int64_t j = 0;                                                                                       \
        for (; j + BLOCK * lanes <= n; j += BLOCK * lanes)                                                   \
            moments_block_##suffix(BLOCK, mean + j, m2 + j, x + j, rows, n, BLOCK * lanes);                  \
        for (; j < n; j += lanes) moments_block_##suffix(1, mean + j, m2 + j, x + j, rows, n, n - j);        \
    }                                                                                                        \
    static void moments_rows_##suffix(double *mean, double *m2, const char *x, int64_t step, int64_t rows, int64_t n) \
    {                                                                                                        \
        const element *start = (const element *)(const void *)x;                                             \
        const int64_t few = n < FIRST ? n : FIRST;                                                           \
        element level = 0;                                                                                   \
        for (int64_t i = 0; i < few; i++) level += start[i];                                                 \
        level /= (element)few;                                                                               \
        const v from = v##_set1(level);                                                                      \
        sum_##suffix first = none_##suffix(), second = none_##suffix();                                      \
        v one[BLOCK] = {{0}}, two[BLOCK] = {{0}};                                                            \
        int64_t pending = 0;                                                                                 \
        for (int64_t r = 0; r < rows; r++, x += step) {                                                      \
            const element *row = (const element *)(const void *)x;                                           \
            for (int64_t i = 0; i < n; i += BLOCK * lanes, pending++) {                                      \
                if (pending == RUN) {                                                                        \
                    for (int b = 0; b < BLOCK; b++) {                                                        \
                        gather_##suffix(&first, one[b]);                                                     \
                        gather_##suffix(&second, two[b]);                                                    \
                        one[b] = two[b] = v##_zero();                                                        \
                    }                                                                                        \
                    pending = 0;                                                                             \
                }                                                                                            \
                for (int b = 0; b < BLOCK && i + b * lanes < n; b++) {                                       \
                    const int64_t left = n - i - b * lanes;                                                  \
                    const v d = only_##suffix(read_##suffix(row + i + b * lanes, left) - from, left);        \
                    one[b] += d;                                                                             \
                    two[b] = v##_fma(d, d, two[b]);                                                          \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
        for (int b = 0; b < BLOCK; b++) {                                                                    \
            gather_##suffix(&first, one[b]);                                                                 \
            gather_##suffix(&second, two[b]);                                                                \
        }                                                                                                    \
        const double sum = across_##suffix(&first), count = (double)rows * (double)n;                        \
        *mean = (double)level + sum / count;                                                                 \
        *m2 = across_##suffix(&second) - sum * sum / count;                                                  \
    }                                                                                                        \
                                                                                                             \
    /* ------------------------------------------------------------ forward */                               \
    VEC_INLINE v normal_##suffix(bool relu, v x, v center, v scale, v shift)                                 \
    {                                                                                                        \
        const v y = v##_fma(x - center, scale, shift);                                                       \
        return relu ? v##_select(v##_le(y, v##_zero()), v##_zero(), y) : y; /* NaN stays */                  \
    }                                                                                                        \
    VEC_INLINE void norm_columns_##suffix(bool relu, const nnl_batch_norm *p, element *out, const element *x, \
                                          int64_t rows, int64_t n)                                           \
    {                                                                                                        \
        const element *center = p->center, *scale = p->scale, *shift = p->shift;                             \
        for (int64_t r = 0; r < rows; r++, out += n, x += n) {                                               \
            for (int64_t j = 0; j < n; j += lanes) {                                                         \
                const int64_t left = n - j;                                                                  \
                write_##suffix(out + j, normal_##suffix(relu, read_##suffix(x + j, left), read_##suffix(center + j, left), \
                                                        read_##suffix(scale + j, left), read_##suffix(shift + j, left)), left); \
            }                                                                                                \
        }                                                                                                    \
    }                                                                                                        \
    VEC_INLINE void norm_rows_##suffix(bool relu, const nnl_batch_norm *p, element *out, const element *x,   \
                                       int64_t rows, int64_t n)                                              \
    {                                                                                                        \
        for (int64_t r = 0; r < rows; r++, out += n, x += n) {                                               \
            const v center = v##_set1(((const element *)p->center)[r]);                                      \
            const v scale = v##_set1(((const element *)p->scale)[r]), shift = v##_set1(((const element *)p->shift)[r]); \
            for (int64_t i = 0; i < n; i += lanes)                                                           \
                write_##suffix(out + i, normal_##suffix(relu, read_##suffix(x + i, n - i), center, scale, shift), n - i); \
        }                                                                                                    \
    }                                                                                                        \
                                                                                                             \
    /* ------------------------------------------------------------ backward */                              \
    VEC_INLINE v passed_##suffix(bool relu, v dy, v x, v center, v scale, v shift)                           \
    {                                                                                                        \
        return relu ? v##_select(v##_gt(v##_fma(x - center, scale, shift), v##_zero()), dy, v##_zero()) : dy; \
    }                                                                                                        \
    VEC_INLINE void sums_block_##suffix(bool relu, int vectors, const nnl_batch_norm *p, double *sum, double *product, \
                                        const element *dy, const element *x, int64_t rows, int64_t n, int64_t j, int64_t count) \
    {                                                                                                        \
        v center[BLOCK], scale[BLOCK], shift[BLOCK];                                                         \
        sum_##suffix first[BLOCK], second[BLOCK];                                                            \
        for (int b = 0; b < vectors; b++) {                                                                  \
            const int64_t at = j + b * lanes, left = count - b * lanes;                                      \
            first[b] = second[b] = none_##suffix();                                                          \
            center[b] = read_##suffix((const element *)p->center + at, left);                                \
            scale[b] = relu ? read_##suffix((const element *)p->scale + at, left) : v##_zero();              \
            shift[b] = relu ? read_##suffix((const element *)p->shift + at, left) : v##_zero();              \
        }                                                                                                    \
        for (int64_t r = 0; r < rows; r += RUN) {                                                            \
            const int64_t end = r + RUN < rows ? r + RUN : rows;                                             \
            v one[BLOCK], two[BLOCK];                                                                        \
            for (int b = 0; b < vectors; b++) one[b] = two[b] = v##_zero();                                  \
            for (int64_t k = r; k < end; k++) {                                                              \
                for (int b = 0; b < vectors; b++) {                                                          \
                    const int64_t at = k * n + j + b * lanes, left = count - b * lanes;                      \
                    const v a = read_##suffix(x + at, left);                                                 \
                    const v g = passed_##suffix(relu, read_##suffix(dy + at, left), a, center[b], scale[b], shift[b]); \
                    one[b] += g;                                                                             \
                    two[b] = v##_fma(g, a - center[b], two[b]);                                              \
                }                                                                                            \
            }                                                                                                \
            for (int b = 0; b < vectors; b++) {                                                              \
                gather_##suffix(&first[b], one[b]);                                                          \
                gather_##suffix(&second[b], two[b]);                                                         \
            }                                                                                                \
        }                                                                                                    \
        for (int b = 0; b < vectors; b++) {                                                                  \
            double one[lanes], two[lanes];                                                                   \
            spread_##suffix(one, &first[b]);                                                                 \
            spread_##suffix(two, &second[b]);                                                                \
            for (int64_t l = 0; l < lanes && b * lanes + l < count; l++) {                                   \
                sum[j + b * lanes + l] = one[l];                                                             \
                product[j + b * lanes + l] = two[l];                                                         \
            }                                                                                                \
        }                                                                                                    \
    }                                                                                                        \
    VEC_INLINE void sums_columns_##suffix(bool relu, const nnl_batch_norm *p, double *sum, double *product,  \
                                          const element *dy, const element *x, int64_t rows, int64_t n)      \
    {                                                                                                        \
        int64_t j = 0;                                                                                       \
        for (; j + BLOCK * lanes <= n; j += BLOCK * lanes)                                                   \
            sums_block_##suffix(relu, BLOCK, p, sum, product, dy, x, rows, n, j, BLOCK * lanes);             \
        for (; j < n; j += lanes) sums_block_##suffix(relu, 1, p, sum, product, dy, x, rows, n, j, n - j);   \
    }                                                                                                        \
    VEC_INLINE void sums_rows_##suffix(bool relu, const nnl_batch_norm *p, double *sum, double *product, const char *dy, \
                                       const char *x, int64_t step, int64_t rows, int64_t n)                 \
    {                                                                                                        \
        const v center = v##_set1(*(const element *)p->center);                                              \
        const v scale = v##_set1(relu ? *(const element *)p->scale : 0), shift = v##_set1(relu ? *(const element *)p->shift : 0); \
        sum_##suffix first = none_##suffix(), second = none_##suffix();                                      \
        v one[BLOCK] = {{0}}, two[BLOCK] = {{0}};                                                            \
        int64_t pending = 0;                                                                                 \
        for (int64_t r = 0; r < rows; r++, x += step, dy += step) {                                          \
            const element *row = (const element *)(const void *)x, *pull = (const element *)(const void *)dy; \
            for (int64_t i = 0; i < n; i += BLOCK * lanes, pending++) {                                      \
                if (pending == RUN) {                                                                        \
                    for (int b = 0; b < BLOCK; b++) {                                                        \
                        gather_##suffix(&first, one[b]);                                                     \
                        gather_##suffix(&second, two[b]);                                                    \
                        one[b] = two[b] = v##_zero();                                                        \
                    }                                                                                        \
                    pending = 0;                                                                             \
                }                                                                                            \
                for (int b = 0; b < BLOCK && i + b * lanes < n; b++) {                                       \
                    const int64_t left = n - i - b * lanes;                                                  \
                    const v a = read_##suffix(row + i + b * lanes, left);                                    \
                    const v g = passed_##suffix(relu, read_##suffix(pull + i + b * lanes, left), a, center, scale, shift); \
                    one[b] += g;                                                                             \
                    two[b] = v##_fma(g, a - center, two[b]);                                                 \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
        for (int b = 0; b < BLOCK; b++) {                                                                    \
            gather_##suffix(&first, one[b]);                                                                 \
            gather_##suffix(&second, two[b]);                                                                \
        }                                                                                                    \
        *sum = across_##suffix(&first);                                                                      \
        *product = across_##suffix(&second);                                                                 \
    }                                                                                                        \
    VEC_INLINE v back_##suffix(bool relu, bool eval, v dy, v x, v center, v scale, v shift, v slope, v rest) \
    {                                                                                                        \
        const v g = passed_##suffix(relu, dy, x, center, scale, shift);                                      \
        return eval ? g * scale : v##_fma(g, scale, v##_fma(x - center, slope, rest));                       \
    }                                                                                                        \
    VEC_INLINE void back_columns_##suffix(bool relu, bool eval, const nnl_batch_norm *p, element *dx, const element *dy, \
                                          const element *x, int64_t rows, int64_t n)                         \
    {                                                                                                        \
        const element *center = p->center, *scale = p->scale, *shift = p->shift, *slope = p->slope, *rest = p->rest; \
        for (int64_t r = 0; r < rows; r++, dx += n, dy += n, x += n) {                                       \
            for (int64_t j = 0; j < n; j += lanes) {                                                         \
                const int64_t left = n - j;                                                                  \
                const bool need = relu || !eval;                                                             \
                const v a = need ? read_##suffix(x + j, left) : v##_zero();                                  \
                const v c = need ? read_##suffix(center + j, left) : v##_zero();                             \
                const v up = relu ? read_##suffix(shift + j, left) : v##_zero();                             \
                const v b = eval ? v##_zero() : read_##suffix(slope + j, left);                              \
                const v e = eval ? v##_zero() : read_##suffix(rest + j, left);                               \
                write_##suffix(dx + j, back_##suffix(relu, eval, read_##suffix(dy + j, left), a, c,          \
                                                     read_##suffix(scale + j, left), up, b, e), left);       \
            }                                                                                                \
        }                                                                                                    \
    }                                                                                                        \
    VEC_INLINE void back_rows_##suffix(bool relu, bool eval, const nnl_batch_norm *p, element *dx, const element *dy, \
                                       const element *x, int64_t rows, int64_t n)                            \
    {                                                                                                        \
        const element *center = p->center, *scale = p->scale, *shift = p->shift, *slope = p->slope, *rest = p->rest; \
        for (int64_t r = 0; r < rows; r++, dx += n, dy += n, x += n) {                                       \
            const v c = v##_set1(center[r]), s = v##_set1(scale[r]), up = v##_set1(relu ? shift[r] : 0);     \
            const v b = v##_set1(eval ? 0 : slope[r]), e = v##_set1(eval ? 0 : rest[r]);                     \
            for (int64_t i = 0; i < n; i += lanes) {                                                         \
                const v a = relu || !eval ? read_##suffix(x + i, n - i) : v##_zero();                        \
                write_##suffix(dx + i, back_##suffix(relu, eval, read_##suffix(dy + i, n - i), a, c, s, up, b, e), n - i); \
            }                                                                                                \
        }                                                                                                    \
    }
BATCH_NORM(f32, vf, mf, float, VF_LANES)
BATCH_NORM(f64, vd, md, double, VD_LANES)

/* ---------------------------------------------------------------- the slots */

void K(moments_columns)(int dtype, double *mean, double *m2, const void *x, int64_t rows, int64_t n)
{
    if (dtype == 4) moments_columns_f32(mean, m2, x, rows, n);
    else moments_columns_f64(mean, m2, x, rows, n);
}

void K(moments_rows)(int dtype, double *mean, double *m2, const void *x, int64_t step, int64_t rows, int64_t n)
{
    if (dtype == 4) moments_rows_f32(mean, m2, x, step, rows, n);
    else moments_rows_f64(mean, m2, x, step, rows, n);
}

/* A loop of its own for every type and form. */
#define FORMS(loop, ...)                                                                                     \
    if (dtype == 4) {                                                                                        \
        if (p->relu) loop##_f32(true, __VA_ARGS__);                                                          \
        else loop##_f32(false, __VA_ARGS__);                                                                 \
    } else {                                                                                                 \
        if (p->relu) loop##_f64(true, __VA_ARGS__);                                                          \
        else loop##_f64(false, __VA_ARGS__);                                                                 \
    }

void K(batch_norm_columns)(const nnl_batch_norm *p, int dtype, void *out, const void *x, int64_t rows, int64_t n)
{
    FORMS(norm_columns, p, out, x, rows, n)
}

void K(batch_norm_rows)(const nnl_batch_norm *p, int dtype, void *out, const void *x, int64_t rows, int64_t n)
{
    FORMS(norm_rows, p, out, x, rows, n)
}

void K(batch_norm_sums_columns)(const nnl_batch_norm *p, int dtype, double *sum, double *product, const void *dy,
                                const void *x, int64_t rows, int64_t n)
{
    FORMS(sums_columns, p, sum, product, dy, x, rows, n)
}

void K(batch_norm_sums_rows)(const nnl_batch_norm *p, int dtype, double *sum, double *product, const void *dy,
                             const void *x, int64_t step, int64_t rows, int64_t n)
{
    FORMS(sums_rows, p, sum, product, dy, x, step, rows, n)
}

void K(batch_norm_back_columns)(const nnl_batch_norm *p, int dtype, void *dx, const void *dy, const void *x,
                                int64_t rows, int64_t n)
{
    if (p->slope) {
        FORMS(back_columns, false, p, dx, dy, x, rows, n)
    } else {
        FORMS(back_columns, true, p, dx, dy, x, rows, n)
    }
}

void K(batch_norm_back_rows)(const nnl_batch_norm *p, int dtype, void *dx, const void *dy, const void *x, int64_t rows,
                             int64_t n)
{
    if (p->slope) {
        FORMS(back_rows, false, p, dx, dy, x, rows, n)
    } else {
        FORMS(back_rows, true, p, dx, dy, x, rows, n)
    }
}
