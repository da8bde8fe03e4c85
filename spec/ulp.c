/* Measures the error of the elementwise float kernels against libm and fails where a bound of
 * runtime/kernels/ulp.def is exceeded: f32 over all 2^32 values against f64, f64 over special and
 * random values against the widest type that libm has.
 *
 *   ulp [--stride N] [--isa NAME] [--only LOOP] [--samples N]
 *
 * A stride of N takes every Nth f32.  Half of the work is done by a child process. */
#define _GNU_SOURCE
#define __STDC_WANT_IEC_60559_TYPES_EXT__ 1
#include "../runtime/kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <tgmath.h>
#include <unistd.h>

#if defined(__HAVE_FLOAT128) && __HAVE_FLOAT128 && !defined(__clang__)
typedef _Float128 wide;
#else
typedef long double wide;
#endif

/* ---------------------------------------------------------------- references */

typedef struct reference {
    double (*f32)(double x, double y, const double *p);
    wide (*f64)(wide x, wide y, const double *p);
} reference;

/* The same formula in both types, by <tgmath.h>. */
#define REFERENCE(name, expression)                               \
    static double name##_f32(double x, double y, const double *p) \
    {                                                             \
        (void)y, (void)p;                                         \
        return expression;                                        \
    }                                                             \
    static wide name##_f64(wide x, wide y, const double *p)       \
    {                                                             \
        (void)y, (void)p;                                         \
        return expression;                                        \
    }

#define MINIMUM(a, b) ((b) < (a) ? (b) : (a)) /* a where b is NaN */
#define MAXIMUM(a, b) ((b) > (a) ? (b) : (a))
#define SIGMOID(z) ((z) < 0 ? exp(z) / (1 + exp(z)) : 1 / (1 + exp(-(z))))
#define SOFTPLUS(z) ((z) > 0 ? (z) + log1p(exp(-(z))) : log1p(exp(z)))
#define INFINITE_TO_ZERO(z) (x == -(__typeof__(x))INFINITY ? -(__typeof__(x))0 : (z))
#define TWO ((__typeof__(x))2)

REFERENCE(neg, -x)
REFERENCE(abs, fabs(x))
REFERENCE(sign, x > 0 ? 1 : x < 0 ? -1 : 0 * TWO) /* 0 for NaN and both zeros, as torch */
REFERENCE(square, x *x)
REFERENCE(cube, x *x *x)
REFERENCE(inverse_square, 1 / (x * x))
REFERENCE(scale_shift, p[0] * x + p[1])
REFERENCE(clamp, MINIMUM(MAXIMUM(x, p[0]), p[1]))
REFERENCE(floor, floor(x))
REFERENCE(ceil, ceil(x))
REFERENCE(round, rint(x))
REFERENCE(trunc, trunc(x))
REFERENCE(frac, x - trunc(x)) /* NaN for infinities, as torch */
REFERENCE(reciprocal, 1 / x)
REFERENCE(sqrt, sqrt(x))
REFERENCE(rsqrt, 1 / sqrt(x))
REFERENCE(exp, exp(x))
REFERENCE(exp2, exp2(x))
REFERENCE(expm1, expm1(x))
REFERENCE(log, log(x))
REFERENCE(log2, log2(x))
REFERENCE(log10, log10(x))
REFERENCE(log1p, log1p(x))
REFERENCE(sin, sin(x))
REFERENCE(cos, cos(x))
REFERENCE(tan, tan(x))
REFERENCE(asin, asin(x))
REFERENCE(acos, acos(x))
REFERENCE(atan, atan(x))
REFERENCE(sinh, sinh(x))
REFERENCE(cosh, cosh(x))
REFERENCE(tanh, tanh(x))
REFERENCE(asinh, asinh(x))
REFERENCE(acosh, acosh(x))
REFERENCE(atanh, atanh(x))
REFERENCE(erf, erf(x))
REFERENCE(erfc, erfc(x))
REFERENCE(relu, x < 0 ? 0 : x)
REFERENCE(relu6, x<0 ? 0 : x> 6 ? 6 : x)
REFERENCE(binary_step, x >= 0 ? 1 : 0)
REFERENCE(leaky_relu, x > 0 ? x : p[0] * x)
REFERENCE(hardshrink, fabs(x) <= p[0] ? 0 : x)
REFERENCE(softshrink, fabs(x) <= p[0] ? 0 : x - copysign((__typeof__(x))p[0], x))
REFERENCE(threshold, x <= p[0] ? p[1] : x)
REFERENCE(hardsigmoid, x<-3 ? 0 : x> 3 ? 1 : (x + 3) / 6)
REFERENCE(hardswish, x<-3 ? -(0 * TWO) : x> 3 ? x : x *(x + 3) / 6)
REFERENCE(softsign, isinf(x) ? copysign(TWO / 2, x) : x / (1 + fabs(x)))
REFERENCE(sigmoid, SIGMOID(x))
REFERENCE(log_sigmoid, -SOFTPLUS(-x))
REFERENCE(softplus, x *p[0] > p[1] ? x : SOFTPLUS(x * p[0]) / p[0])
REFERENCE(elu, x > 0 ? p[1] * x : p[1] * p[0] * expm1(p[2] * x))
REFERENCE(silu, INFINITE_TO_ZERO(x *SIGMOID(x)))
REFERENCE(gelu, INFINITE_TO_ZERO(x / 2 * erfc(-x / sqrt(TWO))))
/* sqrt(8 / pi), in two doubles */
#define GELU_SLOPE ((__typeof__(x))0x1.9884533d43651p+0 + (__typeof__(x))-0x1.cbc0d30ebfd15p-54)
#define GELU_INNER (GELU_SLOPE * (x + (__typeof__(x))0.044715 * x * x * x))
REFERENCE(gelu_tanh, INFINITE_TO_ZERO(x *SIGMOID(GELU_INNER)))
REFERENCE(mish, INFINITE_TO_ZERO(x *tanh(SOFTPLUS(x))))
REFERENCE(gaussian, exp(-x *x))
/* the difference loses what the wider type has to spare for small x: the series */
REFERENCE(tanhshrink, fabs(x) < (__typeof__(x))(sizeof x > 8 ? 0x1p-10 : 0x1p-4)
                          ? x * x * x * (945 - x * x * (378 - x * x * (153 - 62 * x * x))) / 2835
                          : x - tanh(x))

REFERENCE(pow, pow(x, y))
REFERENCE(atan2, atan2(x, y))
REFERENCE(fmod, fmod(x, y))
static wide floored(wide r, wide y) { return r != 0 && (r < 0) != (y < 0) ? r + y : r; }
REFERENCE(remainder, (__typeof__(x))floored(fmod(x, y), y))

#define WITH(name) [NNL_MAP_##name] = {name##_f32, name##_f64},
static const reference references[NNL_MAP_COUNT] = {
#define X(name, f32, f64) WITH(name)
#include "../runtime/kernels/ulp.def"
#undef X
#undef XC
    WITH(pow) WITH(atan2) WITH(fmod) WITH(remainder)};

typedef struct bounds {
    double f32, f64;
    bool conditioned;
} bounds;
static const bounds limits[NNL_MAP_COUNT] = {
#define X(name, f32, f64) [NNL_MAP_##name] = {f32, f64, false},
#define XC(name, f32, f64) [NNL_MAP_##name] = {f32, f64, true},
#include "../runtime/kernels/ulp.def"
#undef X
#undef XC
    [NNL_MAP_pow] = {1, 1.5, false},
    [NNL_MAP_atan2] = {1, 2, false},
    /* remainder: the divisor's sign costs one rounding */
    [NNL_MAP_fmod] = {0, 0, false},
    [NNL_MAP_remainder] = {0, 0, false},
};

/* Numbers that f32 has, so that both types get the same. */
static const double *parameters(int map)
{
    static const double none[3] = {0}, clamp[3] = {-1, 2}, scale[3] = {1.5, -0.25},
                        slope[3] = {0.01171875}, shrink[3] = {0.5}, threshold[3] = {0.125, 20},
                        elu[3] = {1, 1, 1}, softplus[3] = {1, 30};
    switch (map) {
    case NNL_MAP_clamp: return clamp;
    case NNL_MAP_scale_shift: return scale;
    case NNL_MAP_leaky_relu: return slope;
    case NNL_MAP_hardshrink:
    case NNL_MAP_softshrink: return shrink;
    case NNL_MAP_threshold: return threshold;
    case NNL_MAP_elu: return elu;
    case NNL_MAP_softplus: return softplus;
    default: return none;
    }
}

static const struct row {
    const char *name, *types;
    int inputs;
} rows[NNL_MAP_COUNT] = {
#define X(name, inputs, types) {#name, #types, inputs},
#include "../runtime/kernels/map.def"
#undef X
};

/* ---------------------------------------------------------------- errors in ulp */

/* |got - want| in units of the last place of want, for a type of `digits` bits and exponents from
 * `least` (of its smallest denormal) to `most` (2^most overflows); 1e30 for a wrong infinity, NaN
 * or sign of 0.  `real` holds the reference and the difference. */
#define ULP_ERROR(name, real, digits, least, most)                                        \
    static double name(double got, real want)                                             \
    {                                                                                     \
        if (want != want || got != got) return (want != want) == (got != got) ? 0 : 1e30; \
        if (want == 0) return got == 0 && !signbit(got) == !signbit(want) ? 0 : 1e30;     \
        real limit = ldexp((real)1, most), size = fabs(want), found = fabs((real)got);    \
        if (isinf(want) && isinf(got)) return (want < 0) == (got < 0) ? 0 : 1e30;         \
        if (found != 0 && !signbit(got) != !signbit(want)) return 1e30;                   \
        if (size > limit) size = limit;                                                   \
        if (found > limit) found = limit;                                                 \
        int exponent;                                                                     \
        (void)frexp(size, &exponent);                                                     \
        exponent -= digits;                                                               \
        if (exponent < least) exponent = least;                                           \
        if (size == limit) exponent = most - digits; /* the last binade below it */       \
        return (double)fabs(ldexp(found - size, -exponent));                              \
    }
ULP_ERROR(ulp_error_f32, double, 24, -149, 128)
ULP_ERROR(ulp_error_f64, wide, 53, -1074, 1024)

typedef struct worst {
    double error, x, y, got;
} worst;

static const nnl_kernels *const all_kernels[] = {
#if defined(__x86_64__)
    &nnl_kernels_base,
    &nnl_kernels_avx2,
    &nnl_kernels_avx512,
#elif defined(__aarch64__)
    &nnl_kernels_base,
    &nnl_kernels_neon,
#else
    &nnl_kernels_base,
#endif
};
enum { ISAS = sizeof all_kernels / sizeof all_kernels[0], BLOCK = 4096, TYPES = 2 };

static bool usable(const nnl_kernels *kernels)
{
#if defined(__x86_64__)
    if (strcmp(kernels->name, "avx2") == 0) {
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    }
    if (strcmp(kernels->name, "avx512") == 0) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    }
#endif
    return true;
}

/* The share of an error that stays after the condition is taken out: the change of f over one ulp
 * of x. */
static double conditioned(double error, double change)
{
    return change > 1 ? error / change : error;
}

static void note(worst *w, double error, double x, double y, double got)
{
    if (error > w->error || (error > 0 && w->error == 0)) *w = (worst){error, x, y, got};
}

/* ---------------------------------------------------------------- f32 */

static void check_f32(int map, const bool *chosen, const float *x, const float *y, int64_t n,
                      worst *found)
{
    static float out[BLOCK];
    static double want[BLOCK];
    const double *p = parameters(map);
    const void *in[2] = {x, y};
    const int32_t step[2] = {1, 1};
    for (int64_t i = 0; i < n; i++) want[i] = references[map].f32((double)x[i], (double)y[i], p);
    for (int isa = 0; isa < ISAS; isa++) {
        if (!chosen[isa]) continue;
        all_kernels[isa]->map[map][4](out, in, step, p, n);
        for (int64_t i = 0; i < n; i++) {
            /* nearly every result is the reference rounded: half an ulp, which every bound allows
             */
            float nearest = (float)want[i];
            if (memcmp(&nearest, &out[i], sizeof nearest) == 0) continue;
            double error = ulp_error_f32((double)out[i], want[i]);
            if (error > 0.5 && limits[map].conditioned && error < 1e30) {
                double next = (double)nextafterf(x[i], INFINITY);
                float moved = (float)references[map].f32(next, 0, p);
                error = conditioned(error, ulp_error_f32((double)moved, want[i]));
            }
            note(&found[isa], error, (double)x[i], (double)y[i], (double)out[i]);
        }
    }
}

static void all_f32(int map, const bool *chosen, uint64_t stride, int part, worst *found)
{
    static float x[BLOCK];
    uint64_t first = (uint64_t)part << 31, end = first + (1ull << 31);
    while (first < end) {
        int64_t n = 0;
        for (; n < BLOCK && first < end; n++, first += stride) {
            uint32_t bits = (uint32_t)first;
            memcpy(&x[n], &bits, sizeof bits);
        }
        check_f32(map, chosen, x, x, n, found);
    }
}

/* ---------------------------------------------------------------- samples */

static uint64_t random_bits(uint64_t *state) /* Steele, Lea and Flood, OOPSLA 2014 */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Special values, all bit patterns, magnitudes near 1, neighbours of multiples of pi/4, of 1/8. */
static double sample(uint64_t *state)
{
    static const double special[] = {
        0,
        1,
        2,
        3,
        0.5,
        0.25,
        10,
        20,
        1e-300,
        1e300,
        0x1p-1022,
        0x1p-1074,
        0x1.fffffffffffffp1023,
        709.782712893384,
        710.4758600739439,
        745.1332191019411,
        0x1p52,
        0x1p53,
        0x1p63,
        88.72283,
        103.97208,
        0x1p-149,
        0x1p-126,
        0x1.fffffep127,
        0.7071067811865476,
        1.4142135623730951,
        1e6,
        0x1p20,
        0x1p28,
        __builtin_inf(),
        __builtin_nan(""),
    };
    uint64_t r = random_bits(state), kind = r % 8, bits = random_bits(state);
    double sign = r >> 63 ? -1 : 1, uniform = (double)(bits >> 11) * 0x1p-53, x;
    if (kind == 0) return sign * special[bits % (sizeof special / sizeof special[0])];
    if (kind == 1) {
        memcpy(&x, &bits, sizeof x);
        return x;
    }
    if (kind == 2)
        x = 0.78539816339744831 * (double)(bits >> 60 ? bits >> 40 : bits >> 8);
    else if (kind == 3)
        x = (double)(bits % 200) / 8;
    else
        return sign * ldexp(1 + uniform, (int)(r >> 8) % 40 - 28);
    bits = random_bits(state) % 64;
    memcpy(&r, &x, sizeof r);
    r += bits;
    memcpy(&x, &r, sizeof x);
    return sign * x;
}

static void samples_f64(int map, const bool *chosen, int64_t count, int part, worst *found)
{
    static double x[BLOCK], y[BLOCK], out[BLOCK];
    static wide want[BLOCK];
    const double *p = parameters(map);
    const void *in[2] = {x, y};
    const int32_t step[2] = {1, 1};
    uint64_t state = (uint64_t)part + 1;
    for (; count > 0; count -= BLOCK) {
        int64_t n = count < BLOCK ? count : BLOCK;
        for (int64_t i = 0; i < n; i++) {
            x[i] = sample(&state);
            y[i] = sample(&state);
            want[i] = references[map].f64(x[i], y[i], p);
        }
        for (int isa = 0; isa < ISAS; isa++) {
            if (!chosen[isa]) continue;
            all_kernels[isa]->map[map][5](out, in, step, p, n);
            for (int64_t i = 0; i < n; i++) {
                double error = ulp_error_f64(out[i], want[i]);
                if (error > 0.5 && limits[map].conditioned && error < 1e30) {
                    wide next = references[map].f64(nextafter(x[i], (double)INFINITY), 0, p);
                    error = conditioned(error, ulp_error_f64((double)next, want[i]));
                }
                note(&found[isa], error, x[i], y[i], out[i]);
            }
        }
    }
}

static void samples_f32(int map, const bool *chosen, int64_t count, int part, worst *found)
{
    static float x[BLOCK], y[BLOCK];
    uint64_t state = (uint64_t)part + 1;
    for (; count > 0; count -= BLOCK) {
        for (int64_t i = 0; i < BLOCK; i++) {
            x[i] = (float)sample(&state);
            y[i] = (float)sample(&state);
        }
        check_f32(map, chosen, x, y, BLOCK, found);
    }
}

/* ---------------------------------------------------------------- the run */

typedef struct options {
    uint64_t stride;
    int64_t samples;
    const char *isa, *only;
} options;

/* found[type][isa]: one half of the work */
static void measure(int map, const options *o, const bool *chosen, int part,
                    worst found[TYPES][ISAS])
{
    memset(found, 0, TYPES * sizeof found[0]);
    if (rows[map].inputs == 1) all_f32(map, chosen, o->stride, part, found[0]);
    samples_f32(map, chosen, o->samples / 2, part, found[0]); /* specials, whatever the stride */
    samples_f64(map, chosen, o->samples / 2, part, found[1]);
}

static bool report(int map, const bool *chosen, worst found[TYPES][ISAS])
{
    bool passed = true;
    for (int type = 0; type < TYPES; type++) {
        double bound = type == 0 ? limits[map].f32 : limits[map].f64;
        for (int isa = 0; isa < ISAS; isa++) {
            if (!chosen[isa]) continue;
            const worst *w = &found[type][isa];
            /* 0 means rounded correctly: half an ulp, and what the f64 reference of f32 itself
             * rounds */
            bool good = w->error <= (bound > 0 ? bound : 0.5 + 1e-8);
            passed = passed && good;
            printf("%-12s %s %-6s %10.4g of %4g  at %.17g", rows[map].name,
                   type == 0 ? "f32" : "f64", all_kernels[isa]->name, w->error, bound, w->x);
            if (rows[map].inputs == 2) printf(", %.17g", w->y);
            printf(" = %.17g%s\n", w->got, good ? "" : "  EXCEEDED");
        }
    }
    (void)fflush(stdout);
    return passed;
}

/* Both halves, the second by a child; false when the child failed. */
static bool measure_both(int map, const options *o, const bool *chosen, worst found[TYPES][ISAS])
{
    worst other[TYPES][ISAS];
    int ends[2];
    if (pipe(ends) != 0) return false;
    pid_t child = fork();
    if (child < 0) return false;
    if (child == 0) {
        measure(map, o, chosen, 1, other);
        _exit(write(ends[1], other, sizeof other) == (ssize_t)sizeof other ? 0 : 1);
    }
    measure(map, o, chosen, 0, found);
    bool good = read(ends[0], other, sizeof other) == (ssize_t)sizeof other;
    int status = 1;
    good = waitpid(child, &status, 0) == child && status == 0 && good;
    (void)close(ends[0]);
    (void)close(ends[1]);
    for (int i = 0; good && i < TYPES * ISAS; i++) {
        worst *mine = &found[i / ISAS][i % ISAS];
        if (other[i / ISAS][i % ISAS].error > mine->error) *mine = other[i / ISAS][i % ISAS];
    }
    return good;
}

int main(int argc, char **argv)
{
    options o = {1, 400000, NULL, NULL};
    bool chosen[ISAS], passed = true;
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--stride") == 0)
            o.stride = strtoull(value, NULL, 10);
        else if (strcmp(argv[i], "--samples") == 0)
            o.samples = strtoll(value, NULL, 10);
        else if (strcmp(argv[i], "--isa") == 0)
            o.isa = value;
        else if (strcmp(argv[i], "--only") == 0)
            o.only = value;
        else
            o.stride = 0;
    }
    if (o.stride == 0 || o.samples <= 0) {
        fputs("usage: ulp [--stride N] [--isa NAME] [--only LOOP] [--samples N]\n", stderr);
        return 2;
    }
    for (int isa = 0; isa < ISAS; isa++) {
        const nnl_kernels *kernels = all_kernels[isa];
        chosen[isa] = usable(kernels) && (!o.isa || strcmp(o.isa, kernels->name) == 0);
    }
    for (int map = 0; map < NNL_MAP_COUNT; map++) {
        bool floats = rows[map].types[0] == 'F' || rows[map].types[0] == 'N';
        if (o.only && strcmp(o.only, rows[map].name) != 0) continue;
        if (!references[map].f32) {
            if (rows[map].inputs == 1 && floats) {
                printf("%s has no reference and no bound\n", rows[map].name);
                passed = false;
            }
            continue;
        }
        worst found[TYPES][ISAS];
        if (!measure_both(map, &o, chosen, found)) {
            printf("%s: the second process failed\n", rows[map].name);
            return 2;
        }
        passed = report(map, chosen, found) && passed;
    }
    return passed ? 0 : 1;
}
