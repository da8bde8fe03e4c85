/* Pooling, a row of results at a time.  Lanes are the adjacent elements of a place. */
#include "kernels.h"
#include "vec.h"

/* ---------------------------------------------------------------- codes: u8 or i32 in memory, lanes here */

typedef uint8_t vf_codes __attribute__((vector_size(VF_LANES)));
typedef uint8_t vd_codes __attribute__((vector_size(VD_LANES)));

#define CODES(v, i, lanes)                                                                                   \
    VEC_INLINE i v##_codes_load(const void *codes, bool wide, int64_t at, int64_t n)                         \
    {                                                                                                        \
        if (!wide && n >= lanes) {                                                                           \
            v##_codes narrow;                                                                                \
            memcpy(&narrow, (const uint8_t *)codes + at, lanes);                                             \
            return __builtin_convertvector(narrow, i);                                                       \
        }                                                                                                    \
        i x = i##_set1(-1);                                                                                  \
        for (int64_t k = 0; k < n && k < lanes; k++)                                                         \
            x[k] = wide ? ((const int32_t *)codes)[at + k] : ((const uint8_t *)codes)[at + k];               \
        return x;                                                                                            \
    }                                                                                                        \
    VEC_INLINE void v##_codes_store(void *codes, bool wide, int64_t at, i x, int64_t n)                      \
    {                                                                                                        \
        if (!wide && n >= lanes) {                                                                           \
            v##_codes narrow = __builtin_convertvector(x, v##_codes);                                        \
            memcpy((uint8_t *)codes + at, &narrow, lanes);                                                   \
            return;                                                                                          \
        }                                                                                                    \
        for (int64_t k = 0; k < n && k < lanes; k++) {                                                       \
            if (wide) ((int32_t *)codes)[at + k] = (int32_t)x[k];                                            \
            else ((uint8_t *)codes)[at + k] = (uint8_t)x[k];                                                 \
        }                                                                                                    \
    }
CODES(vf, vi, VF_LANES)
CODES(vd, vl, VD_LANES)

/* Sums of many terms are kept in f64. */
typedef struct wide_f32 { vd low, high; } wide_f32;
typedef struct wide_f64 { vd low; } wide_f64;
VEC_INLINE void widen_f32(wide_f32 *sum, vf x)
{
    sum->low += vf_low_to_vd(x);
    sum->high += vf_high_to_vd(x);
}
VEC_INLINE void widen_f64(wide_f64 *sum, vd x) { sum->low += x; }
VEC_INLINE vf scaled_f32(const wide_f32 *sum, double scale)
{
    return vd_to_vf(sum->low * vd_set1(scale), sum->high * vd_set1(scale));
}
VEC_INLINE vd scaled_f64(const wide_f64 *sum, double scale) { return sum->low * vd_set1(scale); }

#define RUN 16 /* terms that are added in the elements' own type */

/* ---------------------------------------------------------------- rows */

/* As torch: the first of equal elements wins, and the last NaN. */
#define POOL(suffix, v, i, m, element, lanes)                                                                \
    VEC_INLINE v read_##suffix(const element *x, int64_t n) { return n >= lanes ? v##_load(x) : v##_load_n(x, n); } \
    VEC_INLINE void write_##suffix(element *x, v a, int64_t n)                                               \
    {                                                                                                        \
        if (n >= lanes) v##_store(x, a);                                                                     \
        else v##_store_n(x, a, n);                                                                           \
    }                                                                                                        \
    VEC_INLINE void max_window_##suffix(const nnl_pool_row *p, const nnl_pool_window *w, element *out,       \
                                        void *code, int64_t at, const element *x, int64_t n)                 \
    {                                                                                                        \
        v best = v##_set1((element)-__builtin_inf());                                                        \
        i place = i##_set1(p->code + w->number);                                                             \
        for (int64_t d = 0; d < p->planes; d++) {                                                            \
            for (int64_t r = 0; r < p->rows; r++) {                                                          \
                const element *from = x + d * p->plane_step + r * p->row_step;                               \
                const int32_t first = p->code + (int32_t)d * p->plane_code + (int32_t)r * p->row_code + w->number; \
                for (int32_t t = 0; t < w->count; t++, from += p->dilation * p->inner) {                     \
                    const v a = read_##suffix(from, n);                                                      \
                    const m take = m##_or(v##_gt(a, best), v##_isnan(a));                                    \
                    best = v##_select(take, a, best);                                                        \
                    if (code) place = i##_select(take, i##_set1(first + t), place);                          \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
        write_##suffix(out + at, best, n);                                                                   \
        if (code) v##_codes_store(code, p->wide, at, place, n);                                              \
    }                                                                                                        \
    static void max_row_##suffix(const nnl_pool_row *p, element *out, void *code, const element *x)          \
    {                                                                                                        \
        for (int64_t o = 0; o < p->windows; o++) {                                                           \
            const nnl_pool_window *w = p->window + o;                                                        \
            for (int64_t c = 0; c < p->inner; c += lanes) {                                                  \
                const element *from = x + w->first * p->inner + c;                                           \
                if (code) max_window_##suffix(p, w, out, code, o * p->inner + c, from, p->inner - c);        \
                else max_window_##suffix(p, w, out, NULL, o * p->inner + c, from, p->inner - c);             \
            }                                                                                                \
        }                                                                                                    \
    }                                                                                                        \
    static void max_back_row_##suffix(const nnl_pool_row *p, element *dx, const element *dy, const void *code) \
    {                                                                                                        \
        for (int64_t o = 0; o < p->windows; o++) {                                                           \
            const nnl_pool_window *w = p->window + o;                                                        \
            for (int64_t c = 0; c < p->inner; c += lanes) {                                                  \
                const int64_t at = o * p->inner + c, n = p->inner - c;                                       \
                const v g = read_##suffix(dy + at, n);                                                       \
                const i place = v##_codes_load(code, p->wide, at, n);                                        \
                element *to = dx + w->first * p->inner + c;                                                  \
                for (int32_t t = 0; t < w->count; t++, to += p->dilation * p->inner) {                       \
                    const m hit = i##_eq(place, i##_set1(p->code + w->number + t));                          \
                    const v a = read_##suffix(to, n);                                                        \
                    write_##suffix(to, v##_select(hit, a + g, a), n);                                        \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
    }                                                                                                        \
    static void mean_row_##suffix(const nnl_pool_row *p, element *out, const element *x)                     \
    {                                                                                                        \
        for (int64_t o = 0; o < p->windows; o++) {                                                           \
            const nnl_pool_window *w = p->window + o;                                                        \
            const double scale = 1 / (p->factor * (double)w->extent);                                        \
            for (int64_t c = 0; c < p->inner; c += lanes) {                                                  \
                const int64_t n = p->inner - c;                                                              \
                wide_##suffix total = {0};                                                                   \
                for (int64_t d = 0; d < p->planes; d++) {                                                    \
                    for (int64_t r = 0; r < p->rows; r++) {                                                  \
                        const element *from = x + d * p->plane_step + r * p->row_step + w->first * p->inner + c; \
                        for (int32_t t = 0; t < w->count; t += RUN) {                                        \
                            v sum = v##_zero();                                                              \
                            for (int32_t k = t; k < w->count && k < t + RUN; k++)                            \
                                sum += read_##suffix(from + k * p->inner, n);                                \
                            widen_##suffix(&total, sum);                                                     \
                        }                                                                                    \
                    }                                                                                        \
                }                                                                                            \
                write_##suffix(out + o * p->inner + c, scaled_##suffix(&total, scale), n);                   \
            }                                                                                                \
        }                                                                                                    \
    }                                                                                                        \
    static void mean_back_row_##suffix(const nnl_pool_row *p, element *dx, const element *dy)                \
    {                                                                                                        \
        for (int64_t o = 0; o < p->windows; o++) {                                                           \
            const nnl_pool_window *w = p->window + o;                                                        \
            const v scale = v##_set1((element)(1 / (p->factor * (double)w->extent)));                        \
            for (int64_t c = 0; c < p->inner; c += lanes) {                                                  \
                const int64_t n = p->inner - c;                                                              \
                const v g = read_##suffix(dy + o * p->inner + c, n) * scale;                                 \
                element *to = dx + w->first * p->inner + c;                                                  \
                for (int32_t t = 0; t < w->count; t++, to += p->inner)                                       \
                    write_##suffix(to, read_##suffix(to, n) + g, n);                                         \
            }                                                                                                \
        }                                                                                                    \
    }
POOL(f32, vf, vi, mf, float, VF_LANES)
POOL(f64, vd, vl, md, double, VD_LANES)

/* ---------------------------------------------------------------- the slots */

void K(pool_max_row)(const nnl_pool_row *p, int dtype, void *out, void *code, const void *x)
{
    if (dtype == 4) max_row_f32(p, out, code, x);
    else max_row_f64(p, out, code, x);
}

void K(pool_max_back_row)(const nnl_pool_row *p, int dtype, void *dx, const void *dy, const void *code)
{
    if (dtype == 4) max_back_row_f32(p, dx, dy, code);
    else max_back_row_f64(p, dx, dy, code);
}

void K(pool_mean_row)(const nnl_pool_row *p, int dtype, void *out, const void *x)
{
    if (dtype == 4) mean_row_f32(p, out, x);
    else mean_row_f64(p, out, x);
}

void K(pool_mean_back_row)(const nnl_pool_row *p, int dtype, void *dx, const void *dy)
{
    if (dtype == 4) mean_back_row_f32(p, dx, dy);
    else mean_back_row_f64(p, dx, dy);
}
