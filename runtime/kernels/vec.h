/* The vector layer of the kernel files, and of no other file: one width for each instruction set
 * (base and neon 16 bytes, avx2 32, avx512 64), chosen by NNL_ISA_NAME.  Arithmetic is written with
 * the operators of the compiler's vector types; functions stand here only for what these lack.
 *
 *   vf  f32 lanes    vd  f64 lanes    vi  i32, as many as vf    vl  i64, as many as vd
 *   mf  a truth value for each lane of vf and vi                md  the same for vd and vl
 *
 * Everything is static: the same text compiled with other target flags must never be linked
 * instead. */
#ifndef NNL_KERNELS_VEC_H
#define NNL_KERNELS_VEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define NNL_JOIN2(a, b) a##b
#define NNL_JOIN(a, b) NNL_JOIN2(a, b)
/* The name of a kernel for the instruction set being compiled: K(gemm) is gemm_avx2. */
#define K(name) NNL_JOIN(NNL_JOIN(name, _), NNL_ISA_NAME)

#define NNL_ISA_ID_base 1
#define NNL_ISA_ID_avx2 2
#define NNL_ISA_ID_avx512 3
#define NNL_ISA_ID_neon 4
#define NNL_ISA_ID NNL_JOIN(NNL_ISA_ID_, NNL_ISA_NAME)
#if NNL_ISA_ID == NNL_ISA_ID_base
#define VEC_BASE 1
#elif NNL_ISA_ID == NNL_ISA_ID_avx2
#define VEC_AVX2 1
#elif NNL_ISA_ID == NNL_ISA_ID_avx512
#define VEC_AVX512 1
#elif NNL_ISA_ID == NNL_ISA_ID_neon
#define VEC_NEON 1
#else
#error "NNL_ISA_NAME must be base, avx2, avx512 or neon"
#endif

#if defined(VEC_AVX2) || defined(VEC_AVX512) || (defined(VEC_BASE) && defined(__SSE2__))
#define VEC_X86 1
#include <immintrin.h>
#elif defined(VEC_NEON)
#include <arm_neon.h>
#endif

#if defined(VEC_AVX512)
#define VEC_BYTES 64
#elif defined(VEC_AVX2)
#define VEC_BYTES 32
#else
#define VEC_BYTES 16
#endif
#ifndef VEC_BASE
#define VEC_FMA 1 /* vf_fma and vd_fma round once */
#endif
#define VF_LANES (VEC_BYTES / 4)
#define VD_LANES (VEC_BYTES / 8)

#define VEC_INLINE static inline __attribute__((always_inline, unused))

typedef float vf __attribute__((vector_size(VEC_BYTES)));
typedef double vd __attribute__((vector_size(VEC_BYTES)));
typedef int32_t vi __attribute__((vector_size(VEC_BYTES)));
typedef int64_t vl __attribute__((vector_size(VEC_BYTES)));
typedef uint32_t vu __attribute__((vector_size(VEC_BYTES)));
typedef uint64_t vul __attribute__((vector_size(VEC_BYTES)));
typedef float vf_half __attribute__((vector_size(VEC_BYTES / 2)));
typedef int32_t vi_half __attribute__((vector_size(VEC_BYTES / 2)));
#ifdef VEC_AVX512
typedef __mmask16 mf;
typedef __mmask8 md;
#else
typedef vi mf; /* all bits of a lane set or none */
typedef vl md;
#endif

typedef float vec_f4 __attribute__((vector_size(16)));
typedef double vec_d2 __attribute__((vector_size(16)));
typedef float vec_f8 __attribute__((vector_size(32)));
typedef double vec_d4 __attribute__((vector_size(32)));

/* ------------------------------------------------------ memory: no alignment beyond the element */

#define VEC_MEMORY(type, element)                                                                  \
    typedef type type##_memory __attribute__((aligned(sizeof(element)), may_alias));               \
    VEC_INLINE type type##_load(const element *p) { return *(const type##_memory *)p; }            \
    VEC_INLINE void type##_store(element *p, type x) { *(type##_memory *)p = x; }                  \
    VEC_INLINE type type##_set1(element x) { return x - (type){0}; }                               \
    VEC_INLINE type type##_zero(void) { return (type){0}; }
VEC_MEMORY(vf, float)
VEC_MEMORY(vd, double)
VEC_MEMORY(vi, int32_t)
VEC_MEMORY(vl, int64_t)
#undef VEC_MEMORY

/* The first n lanes, 0 <= n <= lanes: the others read as zero and are not written.  Nothing beyond
 * element n is touched. */
#if defined(VEC_AVX512)
VEC_INLINE mf mf_first(int64_t n) { return (mf)((1u << n) - 1u); }
VEC_INLINE md md_first(int64_t n) { return (md)((1u << n) - 1u); }
VEC_INLINE vf vf_load_n(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(mf_first(n), p); }
VEC_INLINE vd vd_load_n(const double *p, int64_t n)
{
    return _mm512_maskz_loadu_pd(md_first(n), p);
}
VEC_INLINE vi vi_load_n(const int32_t *p, int64_t n)
{
    return (vi)_mm512_maskz_loadu_epi32(mf_first(n), p);
}
VEC_INLINE vl vl_load_n(const int64_t *p, int64_t n)
{
    return (vl)_mm512_maskz_loadu_epi64(md_first(n), p);
}
VEC_INLINE void vf_store_n(float *p, vf x, int64_t n) { _mm512_mask_storeu_ps(p, mf_first(n), x); }
VEC_INLINE void vd_store_n(double *p, vd x, int64_t n) { _mm512_mask_storeu_pd(p, md_first(n), x); }
VEC_INLINE void vi_store_n(int32_t *p, vi x, int64_t n)
{
    _mm512_mask_storeu_epi32(p, mf_first(n), (__m512i)x);
}
VEC_INLINE void vl_store_n(int64_t *p, vl x, int64_t n)
{
    _mm512_mask_storeu_epi64(p, md_first(n), (__m512i)x);
}
#elif defined(VEC_AVX2)
VEC_INLINE mf mf_first(int64_t n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (mf)_mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}
VEC_INLINE md md_first(int64_t n)
{
    return (md)_mm256_cmpgt_epi64(_mm256_set1_epi64x((long long)n), _mm256_setr_epi64x(0, 1, 2, 3));
}
VEC_INLINE vf vf_load_n(const float *p, int64_t n)
{
    return _mm256_maskload_ps(p, (__m256i)mf_first(n));
}
VEC_INLINE vd vd_load_n(const double *p, int64_t n)
{
    return _mm256_maskload_pd(p, (__m256i)md_first(n));
}
VEC_INLINE vi vi_load_n(const int32_t *p, int64_t n)
{
    return (vi)_mm256_maskload_epi32(p, (__m256i)mf_first(n));
}
VEC_INLINE vl vl_load_n(const int64_t *p, int64_t n)
{
    return (vl)_mm256_maskload_epi64((const long long *)(const void *)p, (__m256i)md_first(n));
}
VEC_INLINE void vf_store_n(float *p, vf x, int64_t n)
{
    _mm256_maskstore_ps(p, (__m256i)mf_first(n), x);
}
VEC_INLINE void vd_store_n(double *p, vd x, int64_t n)
{
    _mm256_maskstore_pd(p, (__m256i)md_first(n), x);
}
VEC_INLINE void vi_store_n(int32_t *p, vi x, int64_t n)
{
    _mm256_maskstore_epi32(p, (__m256i)mf_first(n), (__m256i)x);
}
VEC_INLINE void vl_store_n(int64_t *p, vl x, int64_t n)
{
    _mm256_maskstore_epi64((long long *)(void *)p, (__m256i)md_first(n), (__m256i)x);
}
#else
VEC_INLINE mf mf_first(int64_t n) { return (vi){0, 1, 2, 3} < ((int32_t)n - (vi){0}); }
VEC_INLINE md md_first(int64_t n) { return (vl){0, 1} < (n - (vl){0}); }
#define VEC_TAILS(type, element, lanes)                                                            \
    VEC_INLINE type type##_load_n(const element *p, int64_t n)                                     \
    {                                                                                              \
        element lane[lanes] = {0};                                                                 \
        for (int i = 0; i < lanes; i++) {                                                          \
            if (i < n) lane[i] = p[i];                                                             \
        }                                                                                          \
        return type##_load(lane);                                                                  \
    }                                                                                              \
    VEC_INLINE void type##_store_n(element *p, type x, int64_t n)                                  \
    {                                                                                              \
        element lane[lanes];                                                                       \
        type##_store(lane, x);                                                                     \
        for (int i = 0; i < lanes; i++) {                                                          \
            if (i < n) p[i] = lane[i];                                                             \
        }                                                                                          \
    }
VEC_TAILS(vf, float, VF_LANES)
VEC_TAILS(vd, double, VD_LANES)
VEC_TAILS(vi, int32_t, VF_LANES)
VEC_TAILS(vl, int64_t, VD_LANES)
#undef VEC_TAILS
#endif

/* ---------------------------------------------------------------- bits */

VEC_INLINE vi vf_bits(vf x) { return (vi)x; }
VEC_INLINE vf vi_bits(vi x) { return (vf)x; }
VEC_INLINE vl vd_bits(vd x) { return (vl)x; }
VEC_INLINE vd vl_bits(vl x) { return (vd)x; }
VEC_INLINE vf vf_abs(vf x) { return (vf)((vi)x & vi_set1(INT32_MAX)); }
VEC_INLINE vd vd_abs(vd x) { return (vd)((vl)x & vl_set1(INT64_MAX)); }
VEC_INLINE vf vf_neg(vf x) { return (vf)((vi)x ^ vi_set1(INT32_MIN)); }
VEC_INLINE vd vd_neg(vd x) { return (vd)((vl)x ^ vl_set1(INT64_MIN)); }
/* The magnitude of x with the sign of s. */
VEC_INLINE vf vf_copysign(vf x, vf s)
{
    return (vf)(((vi)x & vi_set1(INT32_MAX)) | ((vi)s & vi_set1(INT32_MIN)));
}
VEC_INLINE vd vd_copysign(vd x, vd s)
{
    return (vd)(((vl)x & vl_set1(INT64_MAX)) | ((vl)s & vl_set1(INT64_MIN)));
}
/* x with its sign flipped where s is negative. */
VEC_INLINE vf vf_mulsign(vf x, vf s) { return (vf)((vi)x ^ ((vi)s & vi_set1(INT32_MIN))); }
VEC_INLINE vd vd_mulsign(vd x, vd s) { return (vd)((vl)x ^ ((vl)s & vl_set1(INT64_MIN))); }

/* ------------------------------------------------------- compare and choose; NaN compares false */

#if defined(VEC_AVX512)
#define VEC_COMPARE(name, code, integer_code)                                                      \
    VEC_INLINE mf vf_##name(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, code); }                 \
    VEC_INLINE md vd_##name(vd a, vd b) { return _mm512_cmp_pd_mask(a, b, code); }                 \
    VEC_INLINE mf vi_##name(vi a, vi b)                                                            \
    {                                                                                              \
        return _mm512_cmp_epi32_mask((__m512i)a, (__m512i)b, integer_code);                        \
    }                                                                                              \
    VEC_INLINE md vl_##name(vl a, vl b)                                                            \
    {                                                                                              \
        return _mm512_cmp_epi64_mask((__m512i)a, (__m512i)b, integer_code);                        \
    }
VEC_COMPARE(eq, _CMP_EQ_OQ, _MM_CMPINT_EQ)
VEC_COMPARE(ne, _CMP_NEQ_UQ, _MM_CMPINT_NE)
VEC_COMPARE(lt, _CMP_LT_OQ, _MM_CMPINT_LT)
VEC_COMPARE(le, _CMP_LE_OQ, _MM_CMPINT_LE)
VEC_COMPARE(gt, _CMP_GT_OQ, _MM_CMPINT_NLE)
VEC_COMPARE(ge, _CMP_GE_OQ, _MM_CMPINT_NLT)
VEC_INLINE mf mf_and(mf a, mf b) { return (mf)(a & b); }
VEC_INLINE md md_and(md a, md b) { return (md)(a & b); }
VEC_INLINE mf mf_or(mf a, mf b) { return (mf)(a | b); }
VEC_INLINE md md_or(md a, md b) { return (md)(a | b); }
VEC_INLINE mf mf_xor(mf a, mf b) { return (mf)(a ^ b); }
VEC_INLINE md md_xor(md a, md b) { return (md)(a ^ b); }
VEC_INLINE mf mf_not(mf a) { return (mf)~a; }
VEC_INLINE md md_not(md a) { return (md)~a; }
/* Bit i: lane i. */
VEC_INLINE uint32_t mf_bits(mf a) { return a; }
VEC_INLINE uint32_t md_bits(md a) { return a; }
/* m ? a : b */
VEC_INLINE vf vf_select(mf m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); }
VEC_INLINE vd vd_select(md m, vd a, vd b) { return _mm512_mask_blend_pd(m, b, a); }
VEC_INLINE vi vi_select(mf m, vi a, vi b)
{
    return (vi)_mm512_mask_blend_epi32(m, (__m512i)b, (__m512i)a);
}
VEC_INLINE vl vl_select(md m, vl a, vl b)
{
    return (vl)_mm512_mask_blend_epi64(m, (__m512i)b, (__m512i)a);
}
#else
#define VEC_COMPARE(name, operator)                                                                \
    VEC_INLINE mf vf_##name(vf a, vf b) { return (mf)(a operator b); }                             \
    VEC_INLINE md vd_##name(vd a, vd b) { return (md)(a operator b); }                             \
    VEC_INLINE mf vi_##name(vi a, vi b) { return (mf)(a operator b); }                             \
    VEC_INLINE md vl_##name(vl a, vl b) { return (md)(a operator b); }
VEC_COMPARE(eq, ==)
VEC_COMPARE(ne, !=)
VEC_COMPARE(lt, <)
VEC_COMPARE(le, <=)
VEC_COMPARE(gt, >)
VEC_COMPARE(ge, >=)
VEC_INLINE mf mf_and(mf a, mf b) { return a & b; }
VEC_INLINE md md_and(md a, md b) { return a & b; }
VEC_INLINE mf mf_or(mf a, mf b) { return a | b; }
VEC_INLINE md md_or(md a, md b) { return a | b; }
VEC_INLINE mf mf_xor(mf a, mf b) { return a ^ b; }
VEC_INLINE md md_xor(md a, md b) { return a ^ b; }
VEC_INLINE mf mf_not(mf a) { return ~a; }
VEC_INLINE md md_not(md a) { return ~a; }
#if defined(VEC_AVX2)
VEC_INLINE uint32_t mf_bits(mf a) { return (uint32_t)_mm256_movemask_ps((__m256)a); }
VEC_INLINE uint32_t md_bits(md a) { return (uint32_t)_mm256_movemask_pd((__m256d)a); }
VEC_INLINE vf vf_select(mf m, vf a, vf b) { return _mm256_blendv_ps(b, a, (__m256)m); }
VEC_INLINE vd vd_select(md m, vd a, vd b) { return _mm256_blendv_pd(b, a, (__m256d)m); }
#else
#if defined(VEC_X86)
VEC_INLINE uint32_t mf_bits(mf a) { return (uint32_t)_mm_movemask_ps((__m128)a); }
VEC_INLINE uint32_t md_bits(md a) { return (uint32_t)_mm_movemask_pd((__m128d)a); }
#else
VEC_INLINE uint32_t mf_bits(mf a)
{
    return (a[0] & 1u) | (a[1] & 2u) | (a[2] & 4u) | (a[3] & 8u);
}
VEC_INLINE uint32_t md_bits(md a) { return (uint32_t)((a[0] & 1) | (a[1] & 2)); }
#endif
VEC_INLINE vf vf_select(mf m, vf a, vf b) { return (vf)(((vi)a & m) | ((vi)b & ~m)); }
VEC_INLINE vd vd_select(md m, vd a, vd b) { return (vd)(((vl)a & m) | ((vl)b & ~m)); }
#endif
VEC_INLINE vi vi_select(mf m, vi a, vi b) { return (a & m) | (b & ~m); }
VEC_INLINE vl vl_select(md m, vl a, vl b) { return (a & m) | (b & ~m); }
#endif
#undef VEC_COMPARE

VEC_INLINE bool mf_any(mf a) { return mf_bits(a) != 0; }
VEC_INLINE bool md_any(md a) { return md_bits(a) != 0; }
VEC_INLINE bool mf_all(mf a) { return mf_bits(a) == (1u << VF_LANES) - 1u; }
VEC_INLINE bool md_all(md a) { return md_bits(a) == (1u << VD_LANES) - 1u; }
VEC_INLINE mf vf_isnan(vf x) { return vf_ne(x, x); }
VEC_INLINE md vd_isnan(vd x) { return vd_ne(x, x); }
/* One of the two is NaN. */
#if defined(VEC_AVX512)
VEC_INLINE mf vf_unordered(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
#elif defined(VEC_AVX2)
VEC_INLINE mf vf_unordered(vf a, vf b) { return (mf)_mm256_cmp_ps(a, b, _CMP_UNORD_Q); }
#else
VEC_INLINE mf vf_unordered(vf a, vf b) { return mf_or(vf_isnan(a), vf_isnan(b)); }
#endif

/* ---------------------------------------------------------------- arithmetic */

/* fma: a b + c, fnma: c - a b; rounded once where VEC_FMA is defined, else twice.
 * min, max: a < b ? a : b and a > b ? a : b, so b where one is NaN. */
#if defined(VEC_AVX512)
VEC_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
VEC_INLINE vd vd_fma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }
VEC_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
VEC_INLINE vd vd_fnma(vd a, vd b, vd c) { return _mm512_fnmadd_pd(a, b, c); }
VEC_INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
VEC_INLINE vd vd_min(vd a, vd b) { return _mm512_min_pd(a, b); }
VEC_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
VEC_INLINE vd vd_max(vd a, vd b) { return _mm512_max_pd(a, b); }
VEC_INLINE vf vf_sqrt(vf x) { return _mm512_sqrt_ps(x); }
VEC_INLINE vd vd_sqrt(vd x) { return _mm512_sqrt_pd(x); }
#define VEC_ROUND(name, mode)                                                                      \
    VEC_INLINE vf vf_##name(vf x) { return _mm512_roundscale_ps(x, mode); }                        \
    VEC_INLINE vd vd_##name(vd x) { return _mm512_roundscale_pd(x, mode); }
#elif defined(VEC_AVX2)
VEC_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
VEC_INLINE vd vd_fma(vd a, vd b, vd c) { return _mm256_fmadd_pd(a, b, c); }
VEC_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
VEC_INLINE vd vd_fnma(vd a, vd b, vd c) { return _mm256_fnmadd_pd(a, b, c); }
VEC_INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
VEC_INLINE vd vd_min(vd a, vd b) { return _mm256_min_pd(a, b); }
VEC_INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
VEC_INLINE vd vd_max(vd a, vd b) { return _mm256_max_pd(a, b); }
VEC_INLINE vf vf_sqrt(vf x) { return _mm256_sqrt_ps(x); }
VEC_INLINE vd vd_sqrt(vd x) { return _mm256_sqrt_pd(x); }
#define VEC_ROUND(name, mode)                                                                      \
    VEC_INLINE vf vf_##name(vf x) { return _mm256_round_ps(x, mode); }                             \
    VEC_INLINE vd vd_##name(vd x) { return _mm256_round_pd(x, mode); }
#else
#if defined(VEC_NEON)
VEC_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
VEC_INLINE vd vd_fma(vd a, vd b, vd c)
{
    return (vd)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
VEC_INLINE vf vf_fnma(vf a, vf b, vf c)
{
    return (vf)vfmsq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
VEC_INLINE vd vd_fnma(vd a, vd b, vd c)
{
    return (vd)vfmsq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
VEC_INLINE vf vf_round(vf x) { return (vf)vrndnq_f32((float32x4_t)x); }
VEC_INLINE vd vd_round(vd x) { return (vd)vrndnq_f64((float64x2_t)x); }
VEC_INLINE vf vf_floor(vf x) { return (vf)vrndmq_f32((float32x4_t)x); }
VEC_INLINE vd vd_floor(vd x) { return (vd)vrndmq_f64((float64x2_t)x); }
VEC_INLINE vf vf_ceil(vf x) { return (vf)vrndpq_f32((float32x4_t)x); }
VEC_INLINE vd vd_ceil(vd x) { return (vd)vrndpq_f64((float64x2_t)x); }
VEC_INLINE vf vf_trunc(vf x) { return (vf)vrndq_f32((float32x4_t)x); }
VEC_INLINE vd vd_trunc(vd x) { return (vd)vrndq_f64((float64x2_t)x); }
#else
VEC_INLINE vf vf_fma(vf a, vf b, vf c) { return a * b + c; }
VEC_INLINE vd vd_fma(vd a, vd b, vd c) { return a * b + c; }
VEC_INLINE vf vf_fnma(vf a, vf b, vf c) { return c - a * b; }
VEC_INLINE vd vd_fnma(vd a, vd b, vd c) { return c - a * b; }
#endif
#if defined(VEC_X86)
VEC_INLINE vf vf_min(vf a, vf b) { return _mm_min_ps(a, b); }
VEC_INLINE vd vd_min(vd a, vd b) { return _mm_min_pd(a, b); }
VEC_INLINE vf vf_max(vf a, vf b) { return _mm_max_ps(a, b); }
VEC_INLINE vd vd_max(vd a, vd b) { return _mm_max_pd(a, b); }
VEC_INLINE vf vf_sqrt(vf x) { return _mm_sqrt_ps(x); }
VEC_INLINE vd vd_sqrt(vd x) { return _mm_sqrt_pd(x); }
#else
VEC_INLINE vf vf_min(vf a, vf b) { return vf_select(vf_lt(a, b), a, b); }
VEC_INLINE vd vd_min(vd a, vd b) { return vd_select(vd_lt(a, b), a, b); }
VEC_INLINE vf vf_max(vf a, vf b) { return vf_select(vf_gt(a, b), a, b); }
VEC_INLINE vd vd_max(vd a, vd b) { return vd_select(vd_gt(a, b), a, b); }
VEC_INLINE vf vf_sqrt(vf x)
{
    for (int i = 0; i < VF_LANES; i++) x[i] = __builtin_sqrtf(x[i]);
    return x;
}
VEC_INLINE vd vd_sqrt(vd x)
{
    for (int i = 0; i < VD_LANES; i++) x[i] = __builtin_sqrt(x[i]);
    return x;
}
#endif
#endif

#if defined(VEC_ROUND)
VEC_ROUND(round, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
VEC_ROUND(floor, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)
VEC_ROUND(ceil, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC)
VEC_ROUND(trunc, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)
#undef VEC_ROUND
#elif defined(VEC_BASE)
/* Adding 2^23 (2^52) leaves no room for a fraction; anything larger has none. */
VEC_INLINE vf vf_round(vf x)
{
    vf magic = vf_set1(0x1p23f), a = vf_abs(x);
    return vf_copysign(vf_select(vf_lt(a, magic), (a + magic) - magic, a), x);
}
VEC_INLINE vd vd_round(vd x)
{
    vd magic = vd_set1(0x1p52), a = vd_abs(x);
    return vd_copysign(vd_select(vd_lt(a, magic), (a + magic) - magic, a), x);
}
#define VEC_ROUND(name, type, mask, operator, step)                                                \
    VEC_INLINE type type##_##name(type x)                                                          \
    {                                                                                              \
        type r = type##_round(x);                                                                  \
        return type##_copysign(type##_select(r operator x, r + type##_set1(step), r), x);          \
    }
VEC_ROUND(floor, vf, mf, >, -1.0f)
VEC_ROUND(floor, vd, md, >, -1.0)
VEC_ROUND(ceil, vf, mf, <, 1.0f)
VEC_ROUND(ceil, vd, md, <, 1.0)
#undef VEC_ROUND
VEC_INLINE vf vf_trunc(vf x) { return vf_copysign(vf_floor(vf_abs(x)), x); }
VEC_INLINE vd vd_trunc(vd x) { return vd_copysign(vd_floor(vd_abs(x)), x); }
#endif

/* ---------------------------------------------------------------- lanes */

/* 0, 1, 2 ... */
VEC_INLINE vi vi_places(void)
{
    vi place;
    for (int i = 0; i < VF_LANES; i++) place[i] = i;
    return place;
}
/* Lane i of the result is lane index[i] of x, or of x and y one behind the other. */
#if defined(VEC_AVX512)
VEC_INLINE vf vf_permute(vf x, vi index) { return _mm512_permutexvar_ps((__m512i)index, x); }
VEC_INLINE vf vf_permute2(vf x, vf y, vi index) { return _mm512_permutex2var_ps(x, (__m512i)index, y); }
VEC_INLINE vd vd_permute2(vd x, vd y, vl index) { return _mm512_permutex2var_pd(x, (__m512i)index, y); }
#else
#if defined(VEC_AVX2)
VEC_INLINE vf vf_permute(vf x, vi index) { return _mm256_permutevar8x32_ps(x, (__m256i)index); }
#else
VEC_INLINE vf vf_permute(vf x, vi index)
{
    vf r;
    for (int i = 0; i < VF_LANES; i++) r[i] = x[index[i] & (VF_LANES - 1)];
    return r;
}
#endif
VEC_INLINE vf vf_permute2(vf x, vf y, vi index)
{
    return vf_select(index < VF_LANES, vf_permute(x, index), vf_permute(y, index - VF_LANES));
}
VEC_INLINE vd vd_permute2(vd x, vd y, vl index)
{
    vd r;
    for (int i = 0; i < VD_LANES; i++) r[i] = index[i] < VD_LANES ? x[index[i]] : y[index[i] - VD_LANES];
    return r;
}
#endif

/* ---------------------------------------------------------------- conversion */

VEC_INLINE vf vi_to_vf(vi x) { return __builtin_convertvector(x, vf); }
/* towards zero, |x| < 2^31 */
VEC_INLINE vi vf_to_vi(vf x) { return __builtin_convertvector(x, vi); }
/* Between whole f64 and i64 of magnitude below 2^51: few instruction sets have the full
 * conversion. */
VEC_INLINE vd vl_to_vd(vl x)
{
    vd magic = vd_set1(0x1.8p52);
    return (vd)((vul)x + (vul)magic) - magic;
}
VEC_INLINE vl vd_to_vl(vd x)
{
    vd magic = vd_set1(0x1.8p52);
    return (vl)((vul)(x + magic) - (vul)magic);
}

/* x / length, for 0 <= x < 2^20 */
VEC_INLINE vi vi_quotient(vi x, int32_t length)
{
    return vf_to_vi((vi_to_vf(x) + vf_set1(0.5f)) * vf_set1(1.0f / (float)length));
}
/* Bytes, one a lane; _n: the first n lanes, fewer than all.  Compilers take the general conversion apart, lane by lane. */
#if defined(VEC_AVX512)
VEC_INLINE vi vi_load_u8(const uint8_t *p) { return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)); }
VEC_INLINE vl vl_load_u8(const uint8_t *p) { return (vl)_mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)(const void *)p)); }
VEC_INLINE void vi_store_u8(uint8_t *p, vi x) { _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8((__m512i)x)); }
VEC_INLINE void vl_store_u8(uint8_t *p, vl x) { _mm_storel_epi64((__m128i *)(void *)p, _mm512_cvtepi64_epi8((__m512i)x)); }
VEC_INLINE __m128i bytes_load_n(const uint8_t *p, int64_t n) { return _mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1u), p); }
VEC_INLINE vi vi_load_u8_n(const uint8_t *p, int64_t n) { return (vi)_mm512_cvtepu8_epi32(bytes_load_n(p, n)); }
VEC_INLINE vl vl_load_u8_n(const uint8_t *p, int64_t n) { return (vl)_mm512_cvtepu8_epi64(bytes_load_n(p, n)); }
VEC_INLINE void vi_store_u8_n(uint8_t *p, vi x, int64_t n) { _mm512_mask_cvtepi32_storeu_epi8(p, (__mmask16)((1u << n) - 1u), (__m512i)x); }
VEC_INLINE void vl_store_u8_n(uint8_t *p, vl x, int64_t n) { _mm512_mask_cvtepi64_storeu_epi8(p, (__mmask8)((1u << n) - 1u), (__m512i)x); }
#else
#if defined(VEC_AVX2)
VEC_INLINE vi vi_load_u8(const uint8_t *p) { return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)); }
#else
VEC_INLINE vi vi_load_u8(const uint8_t *p)
{
    vi x;
    for (int i = 0; i < VF_LANES; i++) x[i] = p[i];
    return x;
}
#endif
VEC_INLINE vl vl_load_u8(const uint8_t *p)
{
    vl x;
    for (int i = 0; i < VD_LANES; i++) x[i] = p[i];
    return x;
}
VEC_INLINE void vi_store_u8(uint8_t *p, vi x)
{
    for (int i = 0; i < VF_LANES; i++) p[i] = (uint8_t)x[i];
}
VEC_INLINE void vl_store_u8(uint8_t *p, vl x)
{
    for (int i = 0; i < VD_LANES; i++) p[i] = (uint8_t)x[i];
}
/* n bytes, fewer than 16. */
VEC_INLINE void bytes_copy_n(uint8_t *restrict out, const uint8_t *restrict in, int64_t n)
{
    if (n >= 8) {
        memcpy(out, in, 8);
        memcpy(out + n - 8, in + n - 8, 8);
    } else if (n >= 4) {
        memcpy(out, in, 4);
        memcpy(out + n - 4, in + n - 4, 4);
    } else {
        for (int64_t k = 0; k < n; k++) out[k] = in[k];
    }
}
#define VEC_FEW_BYTES(type)                                          \
    VEC_INLINE type type##_load_u8_n(const uint8_t *p, int64_t n)    \
    {                                                                \
        uint8_t few[16] = {0};                                       \
        bytes_copy_n(few, p, n);                                     \
        return type##_load_u8(few);                                  \
    }                                                                \
    VEC_INLINE void type##_store_u8_n(uint8_t *p, type x, int64_t n) \
    {                                                                \
        uint8_t few[16];                                             \
        type##_store_u8(few, x);                                     \
        bytes_copy_n(p, few, n);                                     \
    }
VEC_FEW_BYTES(vi)
VEC_FEW_BYTES(vl)
#undef VEC_FEW_BYTES
#endif

#if defined(VEC_AVX512)
VEC_INLINE vf_half vf_low(vf x) { return _mm512_castps512_ps256(x); }
VEC_INLINE vf_half vf_high(vf x) { return _mm512_extractf32x8_ps(x, 1); }
VEC_INLINE vf vf_join(vf_half low, vf_half high)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}
VEC_INLINE vd vf_half_to_vd(vf_half x) { return _mm512_cvtps_pd(x); }
VEC_INLINE vf_half vd_to_vf_half(vd x) { return _mm512_cvtpd_ps(x); }
#elif defined(VEC_AVX2)
VEC_INLINE vf_half vf_low(vf x) { return _mm256_castps256_ps128(x); }
VEC_INLINE vf_half vf_high(vf x) { return _mm256_extractf128_ps(x, 1); }
VEC_INLINE vf vf_join(vf_half low, vf_half high) { return _mm256_set_m128(high, low); }
VEC_INLINE vd vf_half_to_vd(vf_half x) { return _mm256_cvtps_pd(x); }
VEC_INLINE vf_half vd_to_vf_half(vd x) { return _mm256_cvtpd_ps(x); }
#else
VEC_INLINE vf_half vf_low(vf x) { return __builtin_shufflevector(x, x, 0, 1); }
VEC_INLINE vf_half vf_high(vf x) { return __builtin_shufflevector(x, x, 2, 3); }
VEC_INLINE vf vf_join(vf_half low, vf_half high)
{
    return __builtin_shufflevector(low, high, 0, 1, 2, 3);
}
VEC_INLINE vd vf_half_to_vd(vf_half x) { return __builtin_convertvector(x, vd); }
VEC_INLINE vf_half vd_to_vf_half(vd x) { return __builtin_convertvector(x, vf_half); }
#endif
/* f32 to f64 and back in two halves, lane order kept. */
VEC_INLINE vd vf_low_to_vd(vf x) { return vf_half_to_vd(vf_low(x)); }
VEC_INLINE vd vf_high_to_vd(vf x) { return vf_half_to_vd(vf_high(x)); }
VEC_INLINE vf vd_to_vf(vd low, vd high) { return vf_join(vd_to_vf_half(low), vd_to_vf_half(high)); }

/* VD_LANES floats: from memory a conversion takes half the operations that it takes from a register. */
VEC_INLINE vd vd_load_f32(const float *p)
{
#if defined(VEC_AVX512)
    return _mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif defined(VEC_AVX2)
    return _mm256_cvtps_pd(_mm_loadu_ps(p));
#else
    vf_half x;
    memcpy(&x, p, sizeof x);
    return vf_half_to_vd(x);
#endif
}

/* --------------------------------------------------------------- across lanes, in a fixed order */

/* Lane i with lane i + lanes/2, and so on down to one. */
VEC_INLINE float vf_sum(vf x)
{
#if defined(VEC_AVX512)
    vec_f8 y = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
               __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
#elif defined(VEC_AVX2)
    vec_f8 y = x;
#endif
#if defined(VEC_AVX512) || defined(VEC_AVX2)
    vec_f4 z = __builtin_shufflevector(y, y, 0, 1, 2, 3) +
               __builtin_shufflevector(y, y, 4, 5, 6, 7);
#else
    vec_f4 z = x;
#endif
    return (z[0] + z[2]) + (z[1] + z[3]);
}
VEC_INLINE double vd_sum(vd x)
{
#if defined(VEC_AVX512)
    vec_d4 y = __builtin_shufflevector(x, x, 0, 1, 2, 3) +
               __builtin_shufflevector(x, x, 4, 5, 6, 7);
#elif defined(VEC_AVX2)
    vec_d4 y = x;
#endif
#if defined(VEC_AVX512) || defined(VEC_AVX2)
    vec_d2 z = __builtin_shufflevector(y, y, 0, 1) + __builtin_shufflevector(y, y, 2, 3);
#else
    vec_d2 z = x;
#endif
    return z[0] + z[1];
}
/* The largest and smallest lane; no lane may be NaN. */
VEC_INLINE float vf_max_lane(vf x)
{
    float m = x[0];
    for (int i = 1; i < VF_LANES; i++) m = x[i] > m ? x[i] : m;
    return m;
}
VEC_INLINE float vf_min_lane(vf x)
{
    float m = x[0];
    for (int i = 1; i < VF_LANES; i++) m = x[i] < m ? x[i] : m;
    return m;
}
VEC_INLINE double vd_max_lane(vd x)
{
    double m = x[0];
    for (int i = 1; i < VD_LANES; i++) m = x[i] > m ? x[i] : m;
    return m;
}
VEC_INLINE double vd_min_lane(vd x)
{
    double m = x[0];
    for (int i = 1; i < VD_LANES; i++) m = x[i] < m ? x[i] : m;
    return m;
}

#endif
