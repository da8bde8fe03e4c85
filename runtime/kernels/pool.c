/* Pooling, a row of results at a time.  Lanes are the adjacent elements of a place. */
#include "kernels.h"
#include "vec.h"

#include <string.h>

/* ---------------------------------------------------------------- codes: u8 or i32 in memory, lanes here */

/* Loops take a vector where fewer elements are meant, as long as their row has room for it: what is read beyond them has
 * no effect, and what is written there is written again by the windows that follow. */

#define CODES(v, i, lanes)                                                                                   \
    VEC_INLINE i v##_codes_load(const void *codes, bool wide, int64_t at, int64_t room)                      \
    {                                                                                                        \
        if (!wide && room >= lanes) return i##_load_u8((const uint8_t *)codes + at);                         \
        if (!wide) return i##_load_u8_n((const uint8_t *)codes + at, room);                                  \
        i x = i##_set1(-1);                                                                                  \
        for (int64_t k = 0; k < room && k < lanes; k++) x[k] = ((const int32_t *)codes)[at + k];             \
        return x;                                                                                            \
    }                                                                                                        \
    VEC_INLINE void v##_codes_store(void *codes, bool wide, int64_t at, i x, int64_t room)                   \
    {                                                                                                        \
        if (!wide && room >= lanes) {                                                                        \
            i##_store_u8((uint8_t *)codes + at, x);                                                          \
        } else if (!wide) {                                                                                  \
            i##_store_u8_n((uint8_t *)codes + at, x, room);                                                  \
        } else {                                                                                             \
            for (int64_t k = 0; k < room && k < lanes; k++) ((int32_t *)codes)[at + k] = (int32_t)x[k];      \
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
VEC_INLINE void join_f32(wide_f32 *sum, const wide_f32 *x)
{
    sum->low += x->low;
    sum->high += x->high;
}
VEC_INLINE void join_f64(wide_f64 *sum, const wide_f64 *x) { sum->low += x->low; }
VEC_INLINE vf scaled_f32(const wide_f32 *sum, double scale)
{
    return vd_to_vf(sum->low * vd_set1(scale), sum->high * vd_set1(scale));
}
VEC_INLINE vd scaled_f64(const wide_f64 *sum, double scale) { return sum->low * vd_set1(scale); }

VEC_INLINE void spread_f32(double *out, const wide_f32 *sum)
{
    vd_store(out, sum->low);
    vd_store(out + VD_LANES, sum->high);
}
VEC_INLINE void spread_f64(double *out, const wide_f64 *sum) { vd_store(out, sum->low); }

#define RUN 16 /* terms that are added in the elements' own type */

/* ---------------------------------------------------------------- rows */

#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Means add up the columns of a window first, then these, as suits rows of single elements; but within a lone row its
 * elements.  The order is the same whatever the layout. */
VEC_INLINE bool is_line(const nnl_pool_row *p) { return p->planes * p->rows == 1; }

/* As torch: the first of equal elements wins, and the last NaN. */
#define POOL(suffix, v, i, m, element, lanes)                                                                \
    VEC_INLINE v read_##suffix(const element *x, int64_t n) { return n >= lanes ? v##_load(x) : v##_load_n(x, n); } \
    VEC_INLINE void write_##suffix(element *x, v a, int64_t n)                                               \
    {                                                                                                        \
        if (n >= lanes) v##_store(x, a);                                                                     \
        else v##_store_n(x, a, n);                                                                           \
    }                                                                                                        \
    VEC_INLINE void max_window_##suffix(const nnl_pool_row *p, const nnl_pool_window *w, element *out,       \
                                        void *code, int64_t at, const element *x, int64_t room)              \
    {                                                                                                        \
        v best = v##_set1((element)-__builtin_inf());                                                        \
        i place = i##_set1(p->code + w->number);                                                             \
        for (int64_t d = 0; d < p->planes; d++) {                                                            \
            for (int64_t r = 0; r < p->rows; r++) {                                                          \
                const element *from = x + d * p->plane_step + r * p->row_step;                               \
                const int32_t first = p->code + (int32_t)d * p->plane_code + (int32_t)r * p->row_code + w->number; \
                for (int32_t t = 0; t < w->count; t++) {                                                     \
                    const int64_t step = t * p->dilation * p->inner;                                         \
                    const v a = read_##suffix(from + step, room - step);                                     \
                    const m take = m##_or(v##_gt(a, best), v##_isnan(a));                                    \
                    best = v##_select(take, a, best);                                                        \
                    if (code) place = i##_select(take, i##_set1(first + t), place);                          \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
        write_##suffix(out + at, best, p->windows * p->inner - at);                                          \
        if (code) v##_codes_store(code, p->wide, at, place, p->windows * p->inner - at);                     \
    }                                                                                                        \
    /* without codes, where windows of SIDE x SIDE and whole vectors are the rule */                         \
    VEC_INLINE void max_square_##suffix(const int SIDE, const nnl_pool_row *p, element *out, const element *x) \
    {                                                                                                        \
        const int64_t step = p->dilation * p->inner, end = p->width * p->inner, out_end = p->windows * p->inner; \
        for (int64_t o = 0; o < p->windows; o++) {                                                           \
            const nnl_pool_window *w = p->window + o;                                                        \
            for (int64_t c = 0; c < p->inner; c += lanes) {                                                  \
                const int64_t at = w->first * p->inner + c, to = o * p->inner + c;                           \
                if (w->count != SIDE || at + (SIDE - 1) * step + lanes > end || to + lanes > out_end) {      \
                    max_window_##suffix(p, w, out, NULL, to, x + at, end - at);                              \
                    continue;                                                                                \
                }                                                                                            \
                v best = v##_load(x + at);                                                                   \
                UNROLL for (int k = 1; k < SIDE * SIDE; k++) {                                               \
                    const v a = v##_load(x + at + k / SIDE * p->row_step + k % SIDE * step);                 \
                    best = v##_select(m##_or(v##_gt(a, best), v##_isnan(a)), a, best);                       \
                }                                                                                            \
                v##_store(out + to, best);                                                                   \
            }                                                                                                \
        }                                                                                                    \
    }                                                                                                        \
    static void max_row_##suffix(const nnl_pool_row *p, element *out, void *code, const element *x)          \
    {                                                                                                        \
        if (!code && p->planes == 1 && p->rows == 2) {                                                       \
            max_square_##suffix(2, p, out, x);                                                               \
            return;                                                                                          \
        }                                                                                                    \
        if (!code && p->planes == 1 && p->rows == 3) {                                                       \
            max_square_##suffix(3, p, out, x);                                                               \
            return;                                                                                          \
        }                                                                                                    \
        for (int64_t o = 0; o < p->windows; o++) {                                                           \
            const nnl_pool_window *w = p->window + o;                                                        \
            for (int64_t c = 0; c < p->inner; c += lanes) {                                                  \
                const int64_t at = w->first * p->inner + c, room = p->width * p->inner - at;                 \
                if (code) max_window_##suffix(p, w, out, code, o * p->inner + c, x + at, room);              \
                else max_window_##suffix(p, w, out, NULL, o * p->inner + c, x + at, room);                   \
            }                                                                                                \
        }                                                                                                    \
    }                                                                                                        \
    VEC_INLINE void max_back_row_##suffix(const nnl_pool_row *p, bool fresh, element *dx, const element *dy, const void *code) \
    {                                                                                                        \
        for (int64_t o = 0; o < p->windows; o++) {                                                           \
            const nnl_pool_window *w = p->window + o;                                                        \
            for (int64_t c = 0; c < p->inner; c += lanes) {                                                  \
                const int64_t at = o * p->inner + c, n = p->inner - c, room = p->windows * p->inner - at;    \
                const v g = read_##suffix(dy + at, room);                                                    \
                const i place = v##_codes_load(code, p->wide, at, room);                                     \
                for (int32_t t = 0; t < w->count; t++) {                                                     \
                    const int64_t to = (w->first + t * p->dilation) * p->inner + c;                          \
                    const m hit = i##_eq(place, i##_set1(p->code + w->number + t));                          \
                    if (fresh) {                                                                             \
                        const v a = v##_select(hit, g, v##_zero());                                          \
                        write_##suffix(dx + to, a, p->inner < lanes ? p->width * p->inner - to : n);         \
                    } else {                                                                                 \
                        const v a = read_##suffix(dx + to, n);                                               \
                        write_##suffix(dx + to, v##_select(hit, a + g, a), n);                               \
                    }                                                                                        \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
    }                                                                                                        \
    VEC_INLINE void add_rows_##suffix(wide_##suffix *total, const nnl_pool_row *p, const element *x, int64_t room) \
    {                                                                                                        \
        for (int64_t t = 0; t < p->rows; t += RUN) {                                                         \
            v sum = v##_zero();                                                                              \
            for (int64_t r = t; r < p->rows && r < t + RUN; r++) sum += read_##suffix(x + r * p->row_step, room); \
            widen_##suffix(total, sum);                                                                      \
        }                                                                                                    \
    }                                                                                                        \
    VEC_INLINE void add_column_##suffix(wide_##suffix *total, const nnl_pool_row *p, const element *x, int64_t room) \
    {                                                                                                        \
        if (p->planes == 1 && p->rows <= RUN) { /* as below, with fewer additions */                         \
            add_rows_##suffix(total, p, x, room);                                                            \
            return;                                                                                          \
        }                                                                                                    \
        wide_##suffix column = {0};                                                                          \
        for (int64_t d = 0; d < p->planes; d++) add_rows_##suffix(&column, p, x + d * p->plane_step, room);  \
        join_##suffix(total, &column);                                                                       \
    }                                                                                                        \
    VEC_INLINE void mean_windows_##suffix(const nnl_pool_row *p, bool line, element *out, const element *x)  \
    {                                                                                                        \
        for (int64_t o = 0; o < p->windows; o++) {                                                           \
            const nnl_pool_window *w = p->window + o;                                                        \
            const double scale = 1 / (p->factor * (double)w->extent);                                        \
            for (int64_t c = 0; c < p->inner; c += lanes) {                                                  \
                const int64_t at = w->first * p->inner + c, room = p->width * p->inner - at;                 \
                wide_##suffix total = {0};                                                                   \
                if (line) {                                                                                  \
                    const element *from = x + at;                                                            \
                    for (int32_t t = 0; t < w->count; t += RUN) {                                            \
                        v sum = v##_zero();                                                                  \
                        for (int32_t k = t; k < w->count && k < t + RUN; k++)                                \
                            sum += read_##suffix(from + k * p->inner, room - k * p->inner);                  \
                        widen_##suffix(&total, sum);                                                         \
                    }                                                                                        \
                } else {                                                                                     \
                    for (int32_t t = 0; t < w->count; t++)                                                   \
                        add_column_##suffix(&total, p, x + at + t * p->inner, room - t * p->inner);          \
                }                                                                                            \
                write_##suffix(out + o * p->inner + c, scaled_##suffix(&total, scale), (p->windows - o) * p->inner - c); \
            }                                                                                                \
        }                                                                                                    \
    }                                                                                                        \
    static void mean_row_##suffix(const nnl_pool_row *p, element *out, const element *x) { mean_windows_##suffix(p, false, out, x); } \
    static void mean_line_##suffix(const nnl_pool_row *p, element *out, const element *x) { mean_windows_##suffix(p, true, out, x); } \
    VEC_INLINE void mean_back_row_##suffix(const nnl_pool_row *p, bool fresh, element *dx, const element *dy) \
    {                                                                                                        \
        for (int64_t o = 0; o < p->windows; o++) {                                                           \
            const nnl_pool_window *w = p->window + o;                                                        \
            const v scale = v##_set1((element)(1 / (p->factor * (double)w->extent)));                        \
            for (int64_t c = 0; c < p->inner; c += lanes) {                                                  \
                const int64_t n = p->inner - c;                                                              \
                const v g = read_##suffix(dy + o * p->inner + c, (p->windows - o) * p->inner - c) * scale;   \
                for (int32_t t = 0; t < w->count; t++) {                                                     \
                    const int64_t to = (w->first + t) * p->inner + c;                                        \
                    if (fresh) write_##suffix(dx + to, g, p->inner < lanes ? p->width * p->inner - to : n);  \
                    else write_##suffix(dx + to, read_##suffix(dx + to, n) + g, n);                          \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
    }
POOL(f32, vf, vi, mf, float, VF_LANES)
POOL(f64, vd, vl, md, double, VD_LANES)

#include "pool_pairs.h"

/* ---------------------------------------------------------------- rows whose places are single elements */

/* Columns are pooled first, a vector of them at a time, then windows along the row. */
#define WIDEST 1024 /* columns of a row that is pooled so */

VEC_INLINE int32_t code_of(const void *codes, bool wide, int64_t at)
{
    return wide ? ((const int32_t *)codes)[at] : ((const uint8_t *)codes)[at];
}

#define PLAIN(suffix, v, i, m, element, integer, lanes)                                                      \
    /* the largest element of every column, and the code of its row */                                       \
    VEC_INLINE void max_columns_##suffix(const nnl_pool_row *p, bool codes, element *best, integer *place,   \
                                         const element *x)                                                   \
    {                                                                                                        \
        for (int64_t j = 0; j < p->columns; j += lanes) {                                                    \
            v top = v##_set1((element)-__builtin_inf());                                                     \
            i row = i##_set1(p->code);                                                                       \
            for (int64_t d = 0; d < p->planes; d++) {                                                        \
                for (int64_t r = 0; r < p->rows; r++) {                                                      \
                    const v a = read_##suffix(x + d * p->plane_step + r * p->row_step + j, p->columns - j);  \
                    const m take = m##_or(v##_gt(a, top), v##_isnan(a));                                     \
                    top = v##_select(take, a, top);                                                          \
                    if (codes) row = i##_select(take, i##_set1(p->code + (int32_t)d * p->plane_code + (int32_t)r * p->row_code), row); \
                }                                                                                            \
            }                                                                                                \
            v##_store(best + j, top);                                                                        \
            if (codes) i##_store(place + j, row);                                                            \
        }                                                                                                    \
    }                                                                                                        \
    /* the largest element of a window, the first of equal ones */                                           \
    static element max_element_##suffix(const nnl_pool_row *p, const nnl_pool_window *w, const element *x)   \
    {                                                                                                        \
        element top = (element)-__builtin_inf();                                                             \
        for (int64_t d = 0; d < p->planes; d++) {                                                            \
            for (int64_t r = 0; r < p->rows; r++) {                                                          \
                const element *from = x + d * p->plane_step + r * p->row_step + w->first;                    \
                for (int32_t t = 0; t < w->count; t++) {                                                     \
                    const element a = from[t * p->dilation];                                                 \
                    top = ((a > top) | (a != a)) ? a : top;                                                  \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
        return top;                                                                                          \
    }                                                                                                        \
    VEC_INLINE void max_plain_##suffix(const nnl_pool_row *p, bool codes, element *out, void *code, const element *x) \
                                                                                                             \
    {                                                                                                        \
        element best[WIDEST + lanes];                                                                        \
        integer place[WIDEST + lanes];                                                                       \
        max_columns_##suffix(p, codes, best, place, x + p->first_column);                                    \
        for (int64_t o = 0; o < p->windows; o++) {                                                           \
            const nnl_pool_window *w = p->window + o;                                                        \
            element top = (element)-__builtin_inf();                                                         \
            integer from = p->code + w->number;                                                              \
            bool signs = false; /* zeros with both */                                                        \
            for (int32_t t = 0; t < w->count; t++) {                                                         \
                const int64_t at = w->first - p->first_column + t * p->dilation;                             \
                const element a = best[at];                                                                  \
                if (!codes) {                                                                                \
                    signs |= (a == top) & (__builtin_signbit(a) != __builtin_signbit(top));                  \
                    top = ((a > top) | (a != a)) ? a : top;                                                  \
                    continue;                                                                                \
                }                                                                                            \
                const integer here = place[at] + w->number + t;                                              \
                const bool take = (a > top) | ((a == top) & (here < from)) | ((a != a) & ((top == top) | (here > from))); \
                top = take ? a : top;                                                                        \
                from = take ? here : from;                                                                   \
            }                                                                                                \
            out[o] = signs ? max_element_##suffix(p, w, x) : top;                                            \
            if (!codes) continue;                                                                            \
            if (p->wide) ((int32_t *)code)[o] = (int32_t)from;                                               \
            else ((uint8_t *)code)[o] = (uint8_t)from;                                                       \
        }                                                                                                    \
    }                                                                                                        \
    static void max_back_plain_##suffix(const nnl_pool_row *p, element *dx, const element *dy, const void *code) \
    {                                                                                                        \
        if (p->fresh) memset(dx, 0, (size_t)p->width * sizeof *dx);                                          \
        for (int64_t o = 0; o < p->windows; o++) {                                                           \
            const nnl_pool_window *w = p->window + o;                                                        \
            const int32_t t = code_of(code, p->wide, o) - p->code - w->number;                               \
            if (t >= 0 && t < w->count) dx[w->first + t * p->dilation] += dy[o]; /* the rest is 0 by now */  \
        }                                                                                                    \
    }                                                                                                        \
    static void mean_plain_##suffix(const nnl_pool_row *p, element *out, const element *x)                   \
    {                                                                                                        \
        double sum[WIDEST + lanes];                                                                          \
        for (int64_t j = 0; j < p->columns; j += lanes) {                                                    \
            wide_##suffix total = {0};                                                                       \
            add_column_##suffix(&total, p, x + p->first_column + j, p->columns - j);                         \
            spread_##suffix(sum + j, &total);                                                                \
        }                                                                                                    \
        for (int64_t o = 0; o < p->windows; o++) {                                                           \
            const nnl_pool_window *w = p->window + o;                                                        \
            double all = 0;                                                                                  \
            for (int32_t t = 0; t < w->count; t++) all += sum[w->first - p->first_column + t];               \
            out[o] = (element)(all * (1 / (p->factor * (double)w->extent)));                                 \
        }                                                                                                    \
    }                                                                                                        \
    /* one row */                                                                                            \
    VEC_INLINE element sum_##suffix(const element *x, int32_t n)                                             \
    {                                                                                                        \
        element sum = 0;                                                                                     \
        for (int32_t t = 0; t < n; t++) sum += x[t];                                                         \
        return sum;                                                                                          \
    }                                                                                                        \
    static void mean_line_plain_##suffix(const nnl_pool_row *p, element *out, const element *x)              \
    {                                                                                                        \
        for (int64_t o = 0; o < p->windows; o++) {                                                           \
            const nnl_pool_window *w = p->window + o;                                                        \
            const element *from = x + w->first;                                                              \
            int32_t left = w->count;                                                                         \
            double all = 0;                                                                                  \
            for (; left > RUN; left -= RUN, from += RUN) all += (double)sum_##suffix(from, RUN);             \
            all += (double)sum_##suffix(from, left);                                                         \
            out[o] = (element)(all * (1 / (p->factor * (double)w->extent)));                                 \
        }                                                                                                    \
    }                                                                                                        \
    static void mean_back_plain_##suffix(const nnl_pool_row *p, element *dx, const element *dy)              \
    {                                                                                                        \
        if (p->fresh) memset(dx, 0, (size_t)p->width * sizeof *dx);                                          \
        for (int64_t o = 0; o < p->windows; o++) {                                                           \
            const nnl_pool_window *w = p->window + o;                                                        \
            const element g = dy[o] * (element)(1 / (p->factor * (double)w->extent));                        \
            for (int32_t t = 0; t < w->count; t++) dx[w->first + t] = p->fresh ? g : dx[w->first + t] + g;   \
        }                                                                                                    \
    }
PLAIN(f32, vf, vi, mf, float, int32_t, VF_LANES)
PLAIN(f64, vd, vl, md, double, int64_t, VD_LANES)

/* Whether columns go first. */
VEC_INLINE bool is_plain(const nnl_pool_row *p) { return p->inner == 1 && p->columns > 0 && p->columns <= WIDEST; }

/* ---------------------------------------------------------------- the slots */

void K(pool_max_row)(const nnl_pool_row *p, int dtype, void *out, void *code, const void *x)
{
    if (dtype == 4 && p->pairs && !p->wide) {
        if (code) max_pairs(true, p, out, code, x);
        else max_pairs(false, p, out, NULL, x);
    } else if (!is_plain(p)) {
        if (dtype == 4) max_row_f32(p, out, code, x);
        else max_row_f64(p, out, code, x);
    } else if (dtype == 4) {
        if (code) max_plain_f32(p, true, out, code, x);
        else max_plain_f32(p, false, out, code, x);
    } else {
        if (code) max_plain_f64(p, true, out, code, x);
        else max_plain_f64(p, false, out, code, x);
    }
}

void K(pool_max_back_row)(const nnl_pool_row *p, int dtype, void *dx, const void *dy, const void *code)
{
    if (dtype == 4) {
        if (p->fresh && p->pairs && !p->wide) max_back_pairs(p, dx, dy, code);
        else if (p->inner == 1) max_back_plain_f32(p, dx, dy, code);
        else if (p->fresh) max_back_row_f32(p, true, dx, dy, code);
        else max_back_row_f32(p, false, dx, dy, code);
    } else {
        if (p->inner == 1) max_back_plain_f64(p, dx, dy, code);
        else if (p->fresh) max_back_row_f64(p, true, dx, dy, code);
        else max_back_row_f64(p, false, dx, dy, code);
    }
}

void K(pool_mean_row)(const nnl_pool_row *p, int dtype, void *out, const void *x)
{
    if (dtype == 4) {
        if (is_plain(p) && is_line(p)) mean_line_plain_f32(p, out, x);
        else if (is_line(p)) mean_line_f32(p, out, x);
        else if (is_plain(p)) mean_plain_f32(p, out, x);
        else mean_row_f32(p, out, x);
    } else {
        if (is_plain(p) && is_line(p)) mean_line_plain_f64(p, out, x);
        else if (is_line(p)) mean_line_f64(p, out, x);
        else if (is_plain(p)) mean_plain_f64(p, out, x);
        else mean_row_f64(p, out, x);
    }
}

void K(pool_mean_back_row)(const nnl_pool_row *p, int dtype, void *dx, const void *dy)
{
    if (dtype == 4) {
        if (p->inner == 1) mean_back_plain_f32(p, dx, dy);
        else if (p->fresh) mean_back_row_f32(p, true, dx, dy);
        else mean_back_row_f32(p, false, dx, dy);
    } else {
        if (p->inner == 1) mean_back_plain_f64(p, dx, dy);
        else if (p->fresh) mean_back_row_f64(p, true, dx, dy);
        else mean_back_row_f64(p, false, dx, dy);
    }
}
