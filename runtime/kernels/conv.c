/* Convolution.  conv_block holds pixels x output channels in registers: elements of the input,
 * broadcast, against vectors of the packed weight.  conv_sums does the same for the weight's
 * gradient: input elements x output channels, over pixels.  conv_spread adds pixels of dy times
 * the weight where the pixels' windows lie.  The depthwise kernels have their vectors along
 * the channels. */
#include "vec.h"

#include "conv.h"

/* Pixels come in fours of a row, so that few addresses reach many: accumulators are QUADS x 4 x
 * vectors.  Of 32 registers (avx512, neon) or 16 some stay free for the weight's row and a
 * broadcast. */
#if defined(VEC_AVX512) || defined(VEC_NEON)
#define QUADS_1 7 /* of one vector */
#define QUADS_2 3 /* of two */
#define PAIR_FOURS 3
#define SUMS 24 /* accumulators of conv_sums */
#define SUM_RUN 12
#define DEPTHWISE_FOURS 3
#define SPREAD_PIXELS 8 /* x SPREAD_VECTORS sums of conv_spread */
#else
#define QUADS_1 3
#define QUADS_2 1
#define PAIR_FOURS 1
#define SUMS 12
#define SUM_RUN 6
#define DEPTHWISE_FOURS 1
#define SPREAD_PIXELS 4
#endif
#define QUADS QUADS_1
#define PHASES 4
#define SPREAD_VECTORS 3

#ifdef __clang__
#define UNROLL_FOR(i, count) _Pragma("clang loop unroll(full)") for (int i = 0; i < (count); i++)
#else
#define UNROLL_FOR(i, count) _Pragma("GCC unroll 32") for (int i = 0; i < (count); i++)
#endif

#define T float
#define V vf
#define T_(name) NNL_JOIN(name, _f32)
#define V_(name) NNL_JOIN(vf_, name)
#define LANES VF_LANES
#define INDEX vi
#include "conv_tile.h"
#include "conv_spread.h"
#include "conv_flat.h"
#include "conv_winograd.h"
#undef T
#undef V
#undef T_
#undef V_
#undef LANES
#undef INDEX

#define T double
#define V vd
#define T_(name) NNL_JOIN(name, _f64)
#define V_(name) NNL_JOIN(vd_, name)
#define LANES VD_LANES
#define INDEX vl
#include "conv_tile.h"
#include "conv_spread.h"

/* ---------------------------------------------------------------- rows of images */

#define COPY_ROW(type)                                                                            \
    static void copy_row_##type(type *restrict out, int64_t columns, int64_t channels,            \
                                const type *restrict x, int64_t x_column, int64_t x_channel)      \
    {                                                                                             \
        if (channels == 1) {                                                                      \
            for (int64_t i = 0; i < columns; i++) out[i] = x[i * x_column];                       \
        } else if (x_channel == 1) {                                                              \
            for (int64_t i = 0; i < columns; i++)                                                 \
                memcpy(out + i * channels, x + i * x_column, (size_t)channels * sizeof(type));    \
        } else {                                                                                  \
            for (int64_t c = 0; c < channels; c++) {                                              \
                const type *from = x + c * x_channel;                                             \
                for (int64_t i = 0; i < columns; i++) out[i * channels + c] = from[i * x_column]; \
            }                                                                                     \
        }                                                                                         \
    }
COPY_ROW(uint32_t)
COPY_ROW(uint64_t)

void K(conv_row)(int width, void *out, int64_t columns, int64_t channels, const void *x,
                 int64_t x_column, int64_t x_channel)
{
    if (width == 4)
        copy_row_uint32_t(out, columns, channels, x, x_column, x_channel);
    else
        copy_row_uint64_t(out, columns, channels, x, x_column, x_channel);
}
