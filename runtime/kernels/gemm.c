/* Matrix products.  gemm_block holds a tile of C in registers: rows of A broadcast against vectors
 * of B's columns; every element is one chain of fma along the depth, whatever tile it lies in, so
 * that C may be cut anywhere.  gemm_dot has its vectors along the depth, for operands that are both
 * adjacent there and too small to be worth packing; gemm_apart makes the same sums where it is B's
 * columns that are adjacent.  gemm_row is one row of A times a wide B, at the speed of memory.
 * gemm_rows and gemm_deep are for the products of tiny networks: B or C is so small that it stays
 * in registers. */
#include "vec.h"

#include "gemm_block.h"

/* Accumulators TILE_ROWS x TILE_VECTORS, with room left for a row of B and a broadcast: of 32
 * registers (avx512, neon) or 16. */
#if defined(VEC_AVX512) || defined(VEC_NEON)
#ifdef VEC_AVX512
#define TILE_ROWS 8 /* fewer broadcasts than with 12 x 2, whose loads compete with prefetching */
#define TILE_VECTORS 3
#else
#define TILE_ROWS 12
#define TILE_VECTORS 2
#endif
#define DOT_ROWS 4 /* by 4 columns */
#define DEEP_CHAINS 4
#else
#define TILE_ROWS 6
#define TILE_VECTORS 2
#define DOT_ROWS 3
#define DEEP_CHAINS 2
#endif
/* Rows that are fetched before they are needed: their distance is more than processors guess. */
#define A_AHEAD 16
#define B_AHEAD 32 /* from L2, while the sums of a panel of A are made */
#define PACK_AHEAD 16
/* Rows of A in groups with a pointer each: twelve distances would not all stay in registers. */
#define ROW_GROUPS ((TILE_ROWS + 3) / 4)
#define KEEP_POINTER(p) __asm__("" : "+r"(p))
#define DEEP_PIECE (256 * DEEP_CHAINS)

/* Arrays of vectors live in registers only when every loop over them is unrolled. */
#ifdef __clang__
#define UNROLL_FOR(i, count) _Pragma("clang loop unroll(full)") for (int i = 0; i < (count); i++)
#define UNROLL_TWICE _Pragma("clang loop unroll_count(2)")
#else
#define UNROLL_FOR(i, count) _Pragma("GCC unroll 16") for (int i = 0; i < (count); i++)
#define UNROLL_TWICE _Pragma("GCC unroll 2")
#endif
#if VEC_BYTES == 16 /* the reference, where it is the library's size that counts */
#undef UNROLL_TWICE
#define UNROLL_TWICE
#endif

/* Transposing goes in pieces of 16 bytes: gather() loads the piece at `place` of every fourth (f64:
 * every second) row, transpose() exchanges rows and places within the pieces. */
typedef vec_f4 vec_f4_memory __attribute__((aligned(4), may_alias));
typedef vec_d2 vec_d2_memory __attribute__((aligned(8), may_alias));
#define PIECE_F32(i) (*(const vec_f4_memory *)(rows[4 * (i)] + place))
#define PIECE_F64(i) (*(const vec_d2_memory *)(rows[2 * (i)] + place))

VEC_INLINE vf gather_f32(const float *const *rows, int64_t place)
{
#if VEC_BYTES == 64
    vec_f8 low = __builtin_shufflevector(PIECE_F32(0), PIECE_F32(1), 0, 1, 2, 3, 4, 5, 6, 7);
    vec_f8 high = __builtin_shufflevector(PIECE_F32(2), PIECE_F32(3), 0, 1, 2, 3, 4, 5, 6, 7);
    return vf_join(low, high);
#elif VEC_BYTES == 32
    return vf_join(PIECE_F32(0), PIECE_F32(1));
#else
    return PIECE_F32(0);
#endif
}

VEC_INLINE vd gather_f64(const double *const *rows, int64_t place)
{
#if VEC_BYTES == 64
    vec_d4 low = __builtin_shufflevector(PIECE_F64(0), PIECE_F64(1), 0, 1, 2, 3);
    vec_d4 high = __builtin_shufflevector(PIECE_F64(2), PIECE_F64(3), 0, 1, 2, 3);
    return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
#elif VEC_BYTES == 32
    return __builtin_shufflevector(PIECE_F64(0), PIECE_F64(1), 0, 1, 2, 3);
#else
    return PIECE_F64(0);
#endif
}

/* In each piece: the low (high) halves of a and b side by side, by elements of 4 or 8 bytes. */
#if VEC_BYTES == 64
#define LOW_4(a, b) \
    __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define HIGH_4(a, b) \
    __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LOW_8(a, b) __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14)
#define HIGH_8(a, b) __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15)
#elif VEC_BYTES == 32
#define LOW_4(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH_4(a, b) __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOW_8(a, b) __builtin_shufflevector(a, b, 0, 4, 2, 6)
#define HIGH_8(a, b) __builtin_shufflevector(a, b, 1, 5, 3, 7)
#else
#define LOW_4(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define HIGH_4(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#define LOW_8(a, b) __builtin_shufflevector(a, b, 0, 2)
#define HIGH_8(a, b) __builtin_shufflevector(a, b, 1, 3)
#endif

VEC_INLINE void transpose_f32(vf x[4])
{
    vd low_01 = (vd)LOW_4(x[0], x[1]), high_01 = (vd)HIGH_4(x[0], x[1]);
    vd low_23 = (vd)LOW_4(x[2], x[3]), high_23 = (vd)HIGH_4(x[2], x[3]);
    x[0] = (vf)LOW_8(low_01, low_23);
    x[1] = (vf)HIGH_8(low_01, low_23);
    x[2] = (vf)LOW_8(high_01, high_23);
    x[3] = (vf)HIGH_8(high_01, high_23);
}

VEC_INLINE void transpose_f64(vd x[2])
{
    vd low = LOW_8(x[0], x[1]), high = HIGH_8(x[0], x[1]);
    x[0] = low;
    x[1] = high;
}

/* out[i] = sum of the lanes of x[i], each in the order of vf_sum(): the halves, then their halves.
 */
VEC_INLINE void four_sums_f32(float out[4], const vf x[4])
{
    vec_f4 z[4];
    for (int i = 0; i < 4; i++) {
#if VEC_BYTES == 64
        vec_f8 y = vf_low(x[i]) + vf_high(x[i]);
        z[i] =
            __builtin_shufflevector(y, y, 0, 1, 2, 3) + __builtin_shufflevector(y, y, 4, 5, 6, 7);
#elif VEC_BYTES == 32
        z[i] = vf_low(x[i]) + vf_high(x[i]);
#else
        z[i] = x[i];
#endif
    }
    vec_f4 s = __builtin_shufflevector(z[0], z[1], 0, 4, 1, 5) +
               __builtin_shufflevector(z[0], z[1], 2, 6, 3, 7);
    vec_f4 t = __builtin_shufflevector(z[2], z[3], 0, 4, 1, 5) +
               __builtin_shufflevector(z[2], z[3], 2, 6, 3, 7);
    vec_f4 sums =
        __builtin_shufflevector(s, t, 0, 1, 4, 5) + __builtin_shufflevector(s, t, 2, 3, 6, 7);
    memcpy(out, &sums, sizeof sums);
}

VEC_INLINE void four_sums_f64(double out[4], const vd x[4])
{
    for (int i = 0; i < 4; i++) out[i] = vd_sum(x[i]);
}

#ifdef VEC_AVX512
/* The first n lanes, in a store that seldom crosses a cache line when they are few. */
VEC_INLINE void store_narrow_f32(float *to, vf x, int64_t n)
{
    if (n <= 4)
        _mm_mask_storeu_ps(to, (__mmask8)mf_first(n), _mm512_castps512_ps128(x));
    else
        vf_store_n(to, x, n);
}
VEC_INLINE void store_narrow_f64(double *to, vd x, int64_t n)
{
    if (n <= 2)
        _mm_mask_storeu_pd(to, (__mmask8)md_first(n), _mm512_castpd512_pd128(x));
    else
        vd_store_n(to, x, n);
}
#endif

/* A function that the compiler makes no variants of. */
#if defined(__clang__)
#define ONE_COPY __attribute__((noinline))
#else
#define ONE_COPY __attribute__((noinline, noclone))
#endif

#define T float
#define V vf
#define T_(name) NNL_JOIN(name, _f32)
#define V_(name) NNL_JOIN(vf_, name)
#define LANES VF_LANES
#define IN_16_BYTES 4
#include "gemm_tile.h"
#include "gemm_thin.h"
#undef WIDTH
#undef T
#undef V
#undef T_
#undef V_
#undef LANES
#undef IN_16_BYTES

#define T double
#define V vd
#define T_(name) NNL_JOIN(name, _f64)
#define V_(name) NNL_JOIN(vd_, name)
#define LANES VD_LANES
#define IN_16_BYTES 2
#include "gemm_tile.h"
#include "gemm_thin.h"

int K(gemm_tile_vectors)(void) { return TILE_VECTORS; }
