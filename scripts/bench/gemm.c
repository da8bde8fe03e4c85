/* GFLOP/s of matrix products by shape: this project's kernels with one thread and with all,
 * OpenBLAS with one where it is built in, and the part of the processor's measured FMA rate that
 * one thread reaches.
 *
 *     bench_gemm [base|avx2|avx512|neon] [f32|f64] [m n k [tt]]
 *     bench_gemm --serve --threads N
 *
 * tt is nn, nt, tn or tt: which operands are stored transposed.  Figures are the best of several
 * runs with warm caches.  --serve answers each line on standard input with what the better one of
 * own kernels and OpenBLAS sustains at 1024^3 with so many threads, as sides.sh says: other
 * benchmarks call it the GEMM peak. */
#include "../../spec/blas.h"
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* ---------------------------------------------------------------- the processor's rate */

/* Twelve chains of fma, more than latency times units; zeros keep them going for ever. */
#define PEAK_STEPS 4000
#ifdef __clang__
#define PEAK_UNROLL _Pragma("unroll")
#else
#define PEAK_UNROLL _Pragma("GCC unroll 12")
#endif
#define PEAK_BODY(vector, zero, fma)                        \
    vector sum[12], one = zero;                             \
    PEAK_UNROLL for (int i = 0; i < 12; i++) sum[i] = zero; \
    for (int step = 0; step < PEAK_STEPS; step++) {         \
        PEAK_UNROLL for (int i = 0; i < 12; i++)            \
        {                                                   \
            sum[i] = fma(one, one, sum[i]);                 \
            __asm__ volatile("" : PEAK_REGISTER(sum[i]));   \
        }                                                   \
    }

#if defined(__x86_64__)
#define PEAK_REGISTER(x) "+v"(x)
__attribute__((target("avx512f"))) static void peak_avx512(void)
{
    PEAK_BODY(__m512, _mm512_setzero_ps(), _mm512_fmadd_ps)
}
__attribute__((target("avx2,fma"))) static void peak_avx2(void)
{
#undef PEAK_REGISTER
#define PEAK_REGISTER(x) "+x"(x)
    PEAK_BODY(__m256, _mm256_setzero_ps(), _mm256_fmadd_ps)
}
static __m128 multiply_add(__m128 a, __m128 b, __m128 c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
static void peak_base(void) { PEAK_BODY(__m128, _mm_setzero_ps(), multiply_add) }
#elif defined(__aarch64__)
#include <arm_neon.h>
#define PEAK_REGISTER(x) "+w"(x)
static float32x4_t multiply_add(float32x4_t a, float32x4_t b, float32x4_t c)
{
    return vfmaq_f32(c, a, b);
}
static void peak_base(void) { PEAK_BODY(float32x4_t, vdupq_n_f32(0), multiply_add) }
#else
#define PEAK_REGISTER(x) "+r"(x)
static float multiply_add(float a, float b, float c) { return a * b + c; }
static void peak_base(void) { PEAK_BODY(float, 0, multiply_add) }
#endif

/* f32 GFLOP/s of one core; f64 is half of it. */
static double measure_peak(nnl_isa isa)
{
    void (*loop)(void) = peak_base;
    double lanes = 4, best = 1e9;
#if defined(__x86_64__)
    if (isa == NNL_ISA_AVX2) loop = peak_avx2, lanes = 8;
    if (isa == NNL_ISA_AVX512) loop = peak_avx512, lanes = 16;
#else
    (void)isa;
#endif
    for (int i = 0; i < 1000; i++) {
        double start = bench_now(CLOCK_MONOTONIC);
        loop();
        best = NNL_MIN(best, bench_now(CLOCK_MONOTONIC) - start);
    }
    return 2 * lanes * 12 * PEAK_STEPS / best * 1e-9;
}

/* ---------------------------------------------------------------- products */

typedef struct shape {
    const char *what;
    int64_t m, n, k, batch;
    const char *stored;
} shape;

static const shape shapes[] = {{"square", 128, 128, 128, 1, "nn"},
                               {"", 256, 256, 256, 1, "nn"},
                               {"", 512, 512, 512, 1, "nn"},
                               {"", 512, 512, 512, 1, "nt"},
                               {"", 512, 512, 512, 1, "tn"},
                               {"", 512, 512, 512, 1, "tt"},
                               {"", 1024, 1024, 1024, 1, "nn"},
                               {"", 2048, 2048, 2048, 1, "nt"},
                               {"mlp forward", 64, 128, 784, 1, "nt"},
                               {"", 64, 256, 784, 1, "nt"},
                               {"", 64, 128, 256, 1, "nt"},
                               {"", 64, 10, 128, 1, "nt"},
                               {"", 256, 512, 784, 1, "nt"},
                               {"", 64, 128, 784, 1, "nn"},
                               {"mlp dw", 256, 784, 64, 1, "tn"},
                               {"", 128, 256, 64, 1, "tn"},
                               {"", 10, 128, 64, 1, "tn"},
                               {"mlp dx", 64, 256, 128, 1, "nn"},
                               {"", 64, 128, 10, 1, "nn"},
                               {"one row", 1, 256, 784, 1, "nt"},
                               {"", 1, 256, 784, 1, "nn"},
                               {"", 1, 4096, 4096, 1, "nt"},
                               {"", 1, 4096, 4096, 1, "nn"},
                               {"few rows", 4, 1024, 1024, 1, "nt"},
                               {"", 8, 1024, 1024, 1, "nt"},
                               {"", 8, 1024, 1024, 1, "nn"},
                               {"tiny", 2, 1, 3, 1, "nn"},
                               {"", 3, 2, 2, 1, "nt"},
                               {"", 100, 3, 2, 1, "nt"},
                               {"", 100, 3, 2, 1, "nn"},
                               {"", 16, 16, 16, 1, "nn"},
                               {"", 32, 32, 32, 1, "nt"},
                               {"tall", 20000, 10, 64, 1, "nt"},
                               {"", 20000, 32, 27, 1, "nt"},
                               {"", 64, 64, 20000, 1, "tn"},
                               {"attention", 64, 64, 32, 48, "nt"},
                               {"", 64, 32, 64, 48, "nn"},
                               {"", 256, 256, 64, 8, "nt"},
                               {"convolution", 784, 32, 288, 8, "nt"},
                               {"", 12544, 64, 576, 1, "nn"}};

#define WINDOW 0.15

/* GFLOP/s of the best of many short runs, as on a machine that does other things, too, some are not
 * disturbed; or sustained, over all of them.  0 where OpenBLAS is asked and not there. */
static double rate(nnl_runtime *rt, bool blas, const nnl_gemm_call *c, bool sustained)
{
    double flops = 2.0 * (double)c->m * (double)c->n * (double)c->k * (double)c->batch, best = 1e9;
    int64_t repeat = (int64_t)(2e6 / (flops + 1e3)) + 1, runs = 0;
    double begin = bench_now(CLOCK_MONOTONIC), now = begin;
    while (now < begin + WINDOW) {
        double start = now;
        for (int64_t i = 0; i < repeat; i++) {
            if (blas ? !blas_gemm(rt, c) : nnl_gemm(rt, c) != NNL_OK) return 0;
        }
        now = bench_now(CLOCK_MONOTONIC);
        best = NNL_MIN(best, (now - start) / (double)repeat);
        runs += repeat;
    }
    return flops / (sustained ? (now - begin) / (double)runs : best) * 1e-9;
}

static void fill(void *p, nnl_dtype dtype, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double value = (double)(i * 7919 % 2001 - 1000) / 1000;
        if (dtype == NNL_F32)
            ((float *)p)[i] = (float)value;
        else
            ((double *)p)[i] = value;
    }
}

static int measure(nnl_runtime *const rt[2], nnl_dtype dtype, double peak, const shape *s)
{
    size_t size = nnl_dtype_size(dtype);
    nnl_gemm_call c = {.dtype = dtype,
                       .trans_a = s->stored[0] == 't',
                       .trans_b = s->stored[1] == 't',
                       .m = s->m,
                       .n = s->n,
                       .k = s->k,
                       .alpha = 1,
                       .batch = s->batch,
                       .stride_a = s->m * s->k,
                       .stride_b = s->k * s->n,
                       .stride_c = s->m * s->n};
    c.lda = c.trans_a ? c.m : c.k;
    c.ldb = c.trans_b ? c.k : c.n;
    c.ldc = c.n;
    void *a = aligned_alloc(64, ((size_t)(c.batch * c.stride_a) * size + 63) / 64 * 64);
    void *b = aligned_alloc(64, ((size_t)(c.batch * c.stride_b) * size + 63) / 64 * 64);
    c.c = aligned_alloc(64, ((size_t)(c.batch * c.stride_c) * size + 63) / 64 * 64);
    int status = 1;
    if (a && b && c.c) {
        fill(a, dtype, c.batch * c.stride_a);
        fill(b, dtype, c.batch * c.stride_b);
        fill(c.c, dtype, c.batch * c.stride_c);
        c.a = a;
        c.b = b;
        double one = rate(rt[0], false, &c, false), all = rate(rt[1], false, &c, false);
        double blas = rate(rt[0], true, &c, false);
        double us = 2e-3 * (double)c.m * (double)c.n * (double)c.k * (double)c.batch / one;
        printf("%-12s %2d x %5d x %5d x %5d %s %10.2f us %8.1f %5.1f %% %8.1f %8.1f %6.2f\n",
               s->what, (int)c.batch, (int)c.m, (int)c.n, (int)c.k, s->stored, us, one,
               100 * one / peak, all, blas, blas > 0 ? one / blas : 0);
        status = 0;
    }
    free(a);
    free(b);
    free(c.c);
    return status;
}

static int serve_peak(int threads)
{
    nnl_runtime_config config = nnl_runtime_defaults();
    config.threads = threads;
    nnl_runtime *rt;
    if (nnl_runtime_new(&config, &rt) != NNL_OK) return 1;
    nnl_gemm_call c = {.dtype = NNL_F32,
                       .m = 1024,
                       .n = 1024,
                       .k = 1024,
                       .lda = 1024,
                       .ldb = 1024,
                       .ldc = 1024,
                       .alpha = 1,
                       .batch = 1};
    void *p[3];
    for (int i = 0; i < 3; i++) {
        p[i] = aligned_alloc(64, 1024 * 1024 * sizeof(float));
        if (!p[i]) return 1;
        fill(p[i], NNL_F32, 1024 * 1024);
    }
    c.a = p[0], c.b = p[1], c.c = p[2];
    char name[256];
    while (fgets(name, sizeof(name), stdin)) {
        name[strcspn(name, "\n")] = 0;
        double own = rate(rt, false, &c, true), blas = rate(rt, true, &c, true);
        printf("%s\t%.1f\tGFLOP/s\n", name, NNL_MAX(own, blas));
        fflush(stdout);
    }
    for (int i = 0; i < 3; i++) free(p[i]);
    return nnl_runtime_free(rt) != 0;
}

int main(int argc, char **argv)
{
    if (argc > 3 && strcmp(argv[1], "--serve") == 0) return serve_peak(atoi(argv[3]));
    nnl_isa isa = NNL_ISA_AUTO;
    nnl_dtype dtype = NNL_F32;
    int place = 1;
    if (place < argc && nnl_isa_parse(argv[place], &isa) == NNL_OK) place++;
    if (place < argc && argv[place][0] == 'f')
        dtype = strcmp(argv[place++], "f64") == 0 ? NNL_F64 : NNL_F32;
    nnl_runtime *rt[2];
    if (!bench_open("bench_gemm", isa, rt)) return 1;
    double peak = measure_peak(nnl_runtime_isa(rt[0])) / (dtype == NNL_F64 ? 2 : 1);
    printf("%s %s, peak %.1f GFLOP/s a core\n%-12s %2s   %5s   %5s   %5s    %10s    %8s   of peak "
           "%d thr. OpenBLAS  ratio\n",
           nnl_isa_name(nnl_runtime_isa(rt[0])), nnl_dtype_name(dtype), peak, "", "", "m", "n", "k",
           "time", "GFLOP/s", nnl_runtime_threads(rt[1]));
    int status = 0;
    if (argc - place >= 3) {
        shape s = {"",
                   atoll(argv[place]),
                   atoll(argv[place + 1]),
                   atoll(argv[place + 2]),
                   1,
                   argc - place > 3 ? argv[place + 3] : "nn"};
        status = measure(rt, dtype, peak, &s);
    } else {
        for (int i = 0; i < NNL_COUNT(shapes) && status == 0; i++)
            status = measure(rt, dtype, peak, &shapes[i]);
    }
    for (int i = 0; i < 2; i++) nnl_runtime_free(rt[i]);
    return status;
}
