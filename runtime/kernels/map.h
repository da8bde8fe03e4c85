/* What the elementwise kernel files share: the declarations made from map.def, the loops over
 * arrays, and one spelling for both float widths.  Kernel files only. */
#ifndef NNL_KERNELS_MAP_H
#define NNL_KERNELS_MAP_H

#include "kernels.h"
#include "vec.h"

/* The types behind the letters of map.def (b8 is bool, whose own name is a macro), with their
 * places in nnl_kernels.map. */
#define MAP_TYPES_B(DO, name) DO(name, b8, 0)
#define MAP_TYPES_I(DO, name) DO(name, u8, 1) DO(name, i32, 2) DO(name, i64, 3)
#define MAP_TYPES_F(DO, name) DO(name, f32, 4) DO(name, f64, 5)
#define MAP_TYPES_L(DO, name) MAP_TYPES_B(DO, name) MAP_TYPES_I(DO, name)
#define MAP_TYPES_N(DO, name) MAP_TYPES_I(DO, name) MAP_TYPES_F(DO, name)
#define MAP_TYPES_A(DO, name) MAP_TYPES_B(DO, name) MAP_TYPES_N(DO, name)

#define MAP_DECLARE(name, type, place) nnl_map_kernel K(map_##name##_##type);
#define X(name, inputs, types) MAP_TYPES_##types(MAP_DECLARE, name)
#include "map.def"
#undef X
#undef MAP_DECLARE

#define MAP_KERNEL(name, type)                                                                     \
    void K(map_##name##_##type)(void *out, const void *const *in, const int32_t *step,             \
                                const double *param, int64_t n)

/* ---------------------------------------------------------------- loops of vectors, f32 and f64 */

/* f gets a vector of each input and the parameters.  An input with step 0 is read again and again
 * from a vector of copies; the last, partial vector passes through the same code by way of padded
 * copies, so that an element's bits do not depend on its place. */
VEC_INLINE void map_loop_f32(float *out, const void *const *in, const int32_t *step,
                             const double *param, int64_t n, int inputs, int params,
                             vf (*f)(const vf *x, const vf *p))
{
    const float *input[3] = {0};
    float copy[3][VF_LANES], last[VF_LANES];
    int64_t advance[3] = {0}, rest = 0;
    float *out_rest = out;
    vf x[3], p[3];
    if (n <= 0) return;
    for (int j = 0; j < params; j++) p[j] = vf_set1((float)param[j]);
    for (int j = 0; j < inputs; j++) {
        input[j] = in[j];
        advance[j] = VF_LANES;
        if (step[j] == 0) {
            vf_store(copy[j], vf_set1(*input[j]));
            input[j] = copy[j];
            advance[j] = 0;
        }
    }
    for (;;) {
        for (; n >= VF_LANES; n -= VF_LANES) {
            for (int j = 0; j < inputs; j++) {
                x[j] = vf_load(input[j]);
                input[j] += advance[j];
            }
            vf_store(out, f(x, p));
            out += VF_LANES;
        }
        if (n == 0) break;
        for (int j = 0; j < inputs; j++) {
            vf_store(copy[j], vf_load_n(input[j], n));
            input[j] = copy[j];
        }
        out_rest = out;
        out = last;
        rest = n;
        n = VF_LANES;
    }
    if (rest > 0) vf_store_n(out_rest, vf_load(last), rest);
}

VEC_INLINE void map_loop_f64(double *out, const void *const *in, const int32_t *step,
                             const double *param, int64_t n, int inputs, int params,
                             vd (*f)(const vd *x, const vd *p))
{
    const double *input[3] = {0};
    double copy[3][VD_LANES], last[VD_LANES];
    int64_t advance[3] = {0}, rest = 0;
    double *out_rest = out;
    vd x[3], p[3];
    if (n <= 0) return;
    for (int j = 0; j < params; j++) p[j] = vd_set1(param[j]);
    for (int j = 0; j < inputs; j++) {
        input[j] = in[j];
        advance[j] = VD_LANES;
        if (step[j] == 0) {
            vd_store(copy[j], vd_set1(*input[j]));
            input[j] = copy[j];
            advance[j] = 0;
        }
    }
    for (;;) {
        for (; n >= VD_LANES; n -= VD_LANES) {
            for (int j = 0; j < inputs; j++) {
                x[j] = vd_load(input[j]);
                input[j] += advance[j];
            }
            vd_store(out, f(x, p));
            out += VD_LANES;
        }
        if (n == 0) break;
        for (int j = 0; j < inputs; j++) {
            vd_store(copy[j], vd_load_n(input[j], n));
            input[j] = copy[j];
        }
        out_rest = out;
        out = last;
        rest = n;
        n = VD_LANES;
    }
    if (rest > 0) vd_store_n(out_rest, vd_load(last), rest);
}

/* Defines the f32 (f64) kernel of a row from an expression in the inputs x[] and the parameters
 * p[]. */
#define MAP_F32(name, inputs, params, expression)                                                  \
    VEC_INLINE vf name##_vf(const vf *x, const vf *p)                                              \
    {                                                                                              \
        (void)p;                                                                                   \
        return expression;                                                                         \
    }                                                                                              \
    MAP_KERNEL(name, f32)                                                                          \
    {                                                                                              \
        map_loop_f32(out, in, step, param, n, inputs, params, name##_vf);                          \
    }
#define MAP_F64(name, inputs, params, expression)                                                  \
    VEC_INLINE vd name##_vd(const vd *x, const vd *p)                                              \
    {                                                                                              \
        (void)p;                                                                                   \
        return expression;                                                                         \
    }                                                                                              \
    MAP_KERNEL(name, f64)                                                                          \
    {                                                                                              \
        map_loop_f64(out, in, step, param, n, inputs, params, name##_vd);                          \
    }
#define MAP_FLOAT(name, inputs, params, expression)                                                \
    MAP_F32(name, inputs, params, expression)                                                      \
    MAP_F64(name, inputs, params, expression)

/* One spelling for both widths: v_max(a, b) is vf_max or vd_max by the type of a. */
#define V_PICK(a, name) _Generic((a), vf: vf_##name, vd: vd_##name)
#define v_fma(a, b, c) V_PICK(a, fma)(a, b, c)
#define v_fnma(a, b, c) V_PICK(a, fnma)(a, b, c)
#define v_min(a, b) V_PICK(a, min)(a, b)
#define v_max(a, b) V_PICK(a, max)(a, b)
#define v_abs(a) V_PICK(a, abs)(a)
#define v_neg(a) V_PICK(a, neg)(a)
#define v_sqrt(a) V_PICK(a, sqrt)(a)
#define v_round(a) V_PICK(a, round)(a)
#define v_floor(a) V_PICK(a, floor)(a)
#define v_ceil(a) V_PICK(a, ceil)(a)
#define v_trunc(a) V_PICK(a, trunc)(a)
#define v_copysign(a, b) V_PICK(a, copysign)(a, b)
#define v_eq(a, b) V_PICK(a, eq)(a, b)
#define v_ne(a, b) V_PICK(a, ne)(a, b)
#define v_lt(a, b) V_PICK(a, lt)(a, b)
#define v_le(a, b) V_PICK(a, le)(a, b)
#define v_gt(a, b) V_PICK(a, gt)(a, b)
#define v_ge(a, b) V_PICK(a, ge)(a, b)
#define v_isnan(a) V_PICK(a, isnan)(a)
/* m ? a : b */
#define v_select(m, a, b) V_PICK(a, select)(m, a, b)
/* a where m is true, else 0 */
#define v_keep(m, a) v_select(m, a, v_like(a, 0.0))
/* The number c in all lanes, of the type of a. */
#define v_like(a, c) V_PICK(a, splat)(c)
VEC_INLINE vf vf_splat(double c) { return vf_set1((float)c); }
VEC_INLINE vd vd_splat(double c) { return vd_set1(c); }

/* ----------------------------------------------------------- loops of scalars, for the compiler */

#if defined(__clang__)
/* a loop that calls a function is not vectorised, and need not be */
#pragma clang diagnostic ignored "-Wpass-failed"
#define MAP_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define MAP_INDEPENDENT _Pragma("GCC ivdep")
#endif

/* Elements are independent even where out is an input, which the compiler cannot know. */
#define MAP_EACH(read_a, read_b, read_c, expression)                                               \
    do {                                                                                           \
        MAP_INDEPENDENT                                                                            \
        for (int64_t i = 0; i < n; i++) {                                                          \
            read_a read_b read_c result[i] = (expression);                                         \
        }                                                                                          \
    } while (0)

/* Defines a kernel from an expression in the elements a, b and c.  `prepare` stands before the
 * loop. */
#define MAP_SCALAR1(name, type, element, result_element, prepare, expression)                      \
    MAP_KERNEL(name, type)                                                                         \
    {                                                                                              \
        const element *in_a = in[0];                                                               \
        result_element *result = out;                                                              \
        (void)param;                                                                               \
        if (n <= 0) return;                                                                        \
        prepare                                                                                    \
        if (step[0] != 0) {                                                                        \
            MAP_EACH(const element a = in_a[i];, , , expression);                                  \
        } else {                                                                                   \
            const element a = in_a[0];                                                             \
            MAP_EACH(, , , expression);                                                            \
        }                                                                                          \
    }

#define MAP_SCALAR2(name, type, element_a, element, result_element, prepare, expression)           \
    MAP_KERNEL(name, type)                                                                         \
    {                                                                                              \
        const element_a *in_a = in[0];                                                             \
        const element *in_b = in[1];                                                               \
        result_element *result = out;                                                              \
        (void)param;                                                                               \
        if (n <= 0) return;                                                                        \
        prepare                                                                                    \
        if (step[0] != 0 && step[1] != 0) {                                                        \
            MAP_EACH(const element_a a = in_a[i];, const element b = in_b[i];, , expression);      \
        } else if (step[0] != 0) {                                                                 \
            const element b = in_b[0];                                                             \
            MAP_EACH(const element_a a = in_a[i];, , , expression);                                \
        } else if (step[1] != 0) {                                                                 \
            const element_a a = in_a[0];                                                           \
            MAP_EACH(, const element b = in_b[i];, , expression);                                  \
        } else {                                                                                   \
            const element_a a = in_a[0];                                                           \
            const element b = in_b[0];                                                             \
            MAP_EACH(, , , expression);                                                            \
        }                                                                                          \
    }

/* Of three inputs only the common patterns have loops of their own. */
#define MAP_SCALAR3(name, type, element_a, element, result_element, prepare, expression)           \
    MAP_KERNEL(name, type)                                                                         \
    {                                                                                              \
        const element_a *in_a = in[0];                                                             \
        const element *in_b = in[1], *in_c = in[2];                                                \
        const int64_t step_a = step[0], step_b = step[1], step_c = step[2];                        \
        result_element *result = out;                                                              \
        (void)param;                                                                               \
        if (n <= 0) return;                                                                        \
        prepare                                                                                    \
        if (step_a != 0 && step_b != 0 && step_c != 0) {                                           \
            MAP_EACH(const element_a a = in_a[i];, const element b = in_b[i];,                     \
                     const element c = in_c[i];, expression);                                      \
        } else if (step_a != 0 && step_b != 0) {                                                   \
            const element c = in_c[0];                                                             \
            MAP_EACH(const element_a a = in_a[i];, const element b = in_b[i];, , expression);      \
        } else if (step_a != 0 && step_c != 0) {                                                   \
            const element b = in_b[0];                                                             \
            MAP_EACH(const element_a a = in_a[i];, , const element c = in_c[i];, expression);      \
        } else if (step_a != 0) {                                                                  \
            const element b = in_b[0], c = in_c[0];                                                \
            MAP_EACH(const element_a a = in_a[i];, , , expression);                                \
        } else {                                                                                   \
            const element_a a = in_a[0];                                                           \
            const element b0 = in_b[0], c0 = in_c[0];                                              \
            MAP_EACH(, const element b = step_b != 0 ? in_b[i] : b0;,                              \
                     const element c = step_c != 0 ? in_c[i] : c0;, expression);                   \
        }                                                                                          \
    }

#endif
