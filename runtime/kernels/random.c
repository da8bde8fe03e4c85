/* Random numbers in bulk: words of Philox4x32-10 and the numbers made from them.  Word w of a call
 * is word w % 4 of the block with counter w / 4; f32 numbers take one word an element, f64 two. */
#include "math_f32.h"
#include "math_f64.h"
#include "math_trig.h"

#include "kernels.h"

#define ROUNDS 10
#define GOLDEN 0x9E3779B9u
#define SQRT3 0xBB67AE85u

/* The low 32 bits of each lane times those of m, as 64 bits. */
VEC_INLINE vul mul_low(vul a, uint32_t m)
{
#if defined(VEC_AVX512)
    return (vul)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(m));
#elif defined(VEC_AVX2)
    return (vul)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
#elif defined(VEC_X86)
    return (vul)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(m));
#else
    return (a & 0xffffffffu) * m;
#endif
}

/* A counter in each lane; the upper halves of the lanes may hold anything on the way, products
 * ignore them. out: the words of VD_LANES blocks, 0 and 1 of a block in one lane, 2 and 3 in the
 * other. */
VEC_INLINE void philox(vul counter, uint64_t call, uint64_t seed, vul *words01, vul *words23)
{
    vul c0 = counter, c1 = counter >> 32, c2 = call - (vul){0}, c3 = c2 >> 32;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < ROUNDS; round++) {
        vul a = mul_low(c0, 0xD2511F53u), b = mul_low(c2, 0xCD9E8D57u);
        c0 = (b >> 32) ^ c1 ^ k0;
        c1 = b;
        c2 = (a >> 32) ^ c3 ^ k1;
        c3 = a;
        k0 += GOLDEN;
        k1 += SQRT3;
    }
    *words01 = (c0 & 0xffffffffu) | c1 << 32;
    *words23 = (c2 & 0xffffffffu) | c3 << 32;
}

/* out: 4 words of each of the blocks. */
void K(random_words)(uint32_t *out, uint64_t seed, uint64_t call, uint64_t block, int64_t blocks)
{
    vul lane;
    for (int i = 0; i < VD_LANES; i++) lane[i] = (uint64_t)i;
    for (int64_t done = 0; done < blocks; done += VD_LANES) {
        vul low, high;
        uint64_t words[VD_LANES][2];
        philox(lane + (block + (uint64_t)done), call, seed, &low, &high);
        for (int i = 0; i < VD_LANES; i++) {
            words[i][0] = low[i] & 0xffffffffu;
            words[i][1] = low[i] >> 32;
        }
        int64_t count = blocks - done < VD_LANES ? blocks - done : VD_LANES;
        for (int i = 0; i < count; i++) {
            uint32_t *to = out + 4 * (done + i);
            to[0] = (uint32_t)words[i][0];
            to[1] = (uint32_t)words[i][1];
            to[2] = (uint32_t)high[i];
            to[3] = (uint32_t)(high[i] >> 32);
        }
    }
}

/* low + (high - low) u for u = word / 2^32 in steps of 2^-24: [0, 1). */
void K(random_uniform_f32)(float *out, const uint32_t *words, double low, double range, int64_t n)
{
    float base = (float)low, scale = (float)range;
    for (int64_t i = 0; i < n; i++)
        out[i] = base + scale * ((float)(int32_t)(words[i] >> 8) * 0x1p-24f);
}

/* 53 bits of two words an element: [0, 1). */
VEC_INLINE double unit_f64(uint32_t low, uint32_t high)
{
    return ((double)(int32_t)(high >> 5) * 0x1p26 + (double)(int32_t)(low >> 6)) * 0x1p-53;
}

void K(random_uniform_f64)(double *out, const uint32_t *words, double low, double range, int64_t n)
{
    for (int64_t i = 0; i < n; i++) out[i] = low + range * unit_f64(words[2 * i], words[2 * i + 1]);
}

#define PAIRS 64

/* Box and Muller: two uniform numbers u, v give r cos(2 pi v), r sin(2 pi v) with r = sqrt(-2 log
 * u), u in (0, 1].  Elements 2k and 2k + 1 belong together.  n is even. */
void K(random_normal_f32)(float *out, const uint32_t *words, double mean, double std, int64_t n)
{
    float u[PAIRS], v[PAIRS], x[PAIRS], y[PAIRS];
    vf mu = vf_set1((float)mean), sigma = vf_set1((float)std);
    for (int64_t done = 0; done < n; done += 2 * PAIRS) {
        int64_t pairs = (n - done) / 2 < PAIRS ? (n - done) / 2 : PAIRS;
        for (int64_t k = 0; k < PAIRS; k++) {
            int64_t from = done + 2 * (k < pairs ? k : 0);
            /* all 32 bits: they make the tail, up to 6.6 sigma */
            u[k] = ((float)(int32_t)(words[from] >> 8) * 256.0f +
                    ((float)(int32_t)(words[from] & 255) + 1.0f)) *
                   0x1p-32f;
            v[k] = (float)(int32_t)(words[from + 1] >> 8) * (6.28318530717958648f * 0x1p-24f);
        }
        for (int64_t k = 0; k < PAIRS; k += VF_LANES) {
            vf r = vf_sqrt(vf_log(vf_load(u + k)) * vf_set1(-2.0f)) * sigma, angle = vf_load(v + k);
            vf_store(x + k, r * vf_cos(angle) + mu);
            vf_store(y + k, r * vf_sin(angle) + mu);
        }
        for (int64_t k = 0; k < pairs; k++) {
            out[done + 2 * k] = x[k];
            out[done + 2 * k + 1] = y[k];
        }
    }
}

void K(random_normal_f64)(double *out, const uint32_t *words, double mean, double std, int64_t n)
{
    double u[PAIRS], v[PAIRS], x[PAIRS], y[PAIRS];
    vd mu = vd_set1(mean), sigma = vd_set1(std);
    for (int64_t done = 0; done < n; done += 2 * PAIRS) {
        int64_t pairs = (n - done) / 2 < PAIRS ? (n - done) / 2 : PAIRS;
        for (int64_t k = 0; k < PAIRS; k++) {
            const uint32_t *from = words + 2 * (done + 2 * (k < pairs ? k : 0));
            u[k] = unit_f64(from[0], from[1]) + 0x1p-53;
            v[k] = unit_f64(from[2], from[3]) * 6.283185307179586476925;
        }
        for (int64_t k = 0; k < PAIRS; k += VD_LANES) {
            vd r = vd_sqrt(vd_log(vd_load(u + k)) * vd_set1(-2.0)) * sigma, angle = vd_load(v + k);
            vd_store(x + k, r * vd_cos(angle) + mu);
            vd_store(y + k, r * vd_sin(angle) + mu);
        }
        for (int64_t k = 0; k < pairs; k++) {
            out[done + 2 * k] = x[k];
            out[done + 2 * k + 1] = y[k];
        }
    }
}

/* scale in[i] where word i >= threshold, else 0: dropout. */
void K(random_keep_f32)(float *out, const float *in, const uint32_t *words, uint32_t threshold,
                        double scale, int64_t n)
{
    float factor = (float)scale;
    for (int64_t i = 0; i < n; i++) out[i] = words[i] >= threshold ? in[i] * factor : 0.0f;
}

void K(random_keep_f64)(double *out, const double *in, const uint32_t *words, uint32_t threshold,
                        double scale, int64_t n)
{
    for (int64_t i = 0; i < n; i++) out[i] = words[i] >= threshold ? in[i] * scale : 0.0;
}
