/* What attention does with a block of scores: softmax over blocks that come one after the other (Milakov and
 * Gimelshein, arXiv:1805.02867), and its way back from each row's kept largest score and sum (Dao, arXiv:2307.08691). */
#include "kernels.h"
#include "math_f32.h"

#if defined(VEC_AVX512)
#define LARGEST_f32(x) _mm512_reduce_max_ps(x)
#define LARGEST_f64(x) _mm512_reduce_max_pd(x)
#else
#define LARGEST_f32(x) vf_max_lane(x)
#define LARGEST_f64(x) vd_max_lane(x)
#endif

#define T float
#define V vf
#define T_(name) NNL_JOIN(name, _f32)
#define V_(name) NNL_JOIN(vf_, name)
#define FIRST(n) mf_first(n)
#define LARGEST(x) LARGEST_f32(x)
#define LANES VF_LANES
#include "attention_rows.h"
#undef T
#undef V
#undef T_
#undef V_
#undef FIRST
#undef LARGEST
#undef LANES

#define T double
#define V vd
#define T_(name) NNL_JOIN(name, _f64)
#define V_(name) NNL_JOIN(vd_, name)
#define FIRST(n) md_first(n)
#define LARGEST(x) LARGEST_f64(x)
#define LANES VD_LANES
#include "attention_rows.h"

void K(attention_mask)(int dtype, void *bias, const uint8_t *mask, int64_t n)
{
    if (dtype == 4) mask_f32(bias, mask, n);
    else mask_f64(bias, mask, n);
}

void K(attention_soften)(int dtype, const nnl_scores *block, void *s, void *out, int64_t out_step, int64_t width,
                         void *max, double *sum)
{
    if (dtype == 4) soften_f32(block, s, out, out_step, width, max, sum);
    else soften_f64(block, s, out, out_step, width, max, sum);
}

void K(attention_finish)(int dtype, void *out, void *top, void *inverse, int64_t out_step, int64_t width,
                         const void *max, const double *sum, int64_t rows)
{
    if (dtype == 4) finish_f32(out, top, inverse, out_step, width, max, sum, rows);
    else finish_f64(out, top, inverse, out_step, width, max, sum, rows);
}

void K(attention_weights)(int dtype, const nnl_scores *block, void *s, const void *top, const void *inverse)
{
    if (dtype == 4) weights_f32(block, s, top, inverse);
    else weights_f64(block, s, top, inverse);
}

void K(attention_back_scores)(int dtype, const nnl_scores *block, void *ds, const void *p, const void *delta)
{
    if (dtype == 4) back_scores_f32(block, ds, p, delta);
    else back_scores_f64(block, ds, p, delta);
}

void K(attention_dots)(int dtype, void *dots, const void *a, int64_t a_step, const void *b, int64_t b_step,
                       int64_t rows, int64_t n)
{
    if (dtype == 4) dots_f32(dots, a, a_step, b, b_step, rows, n);
    else dots_f64(dots, a, a_step, b, b_step, rows, n);
}
