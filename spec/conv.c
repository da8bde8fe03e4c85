/* The kernel of convolutions against plain loops in f64, on every instruction set that this machine
 * has: pixels, channels, taps, and the endings (bias, normalisation, residual, activation) that
 * fused programs use; and windows that are added where they lie.  Nothing beyond may be written. */
#include "../runtime/kernels/kernels.h"
#include "../runtime/base/base.h"
#include "check.h"

#include <math.h>

enum { ROOM = 1 << 16 };

static uint64_t state = 88172645463325252u;

static int64_t draw(int64_t n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (int64_t)(state % (uint64_t)n);
}

static double get(nnl_dtype dtype, const void *p, int64_t i)
{
    return dtype == NNL_F32 ? (double)((const float *)p)[i] : ((const double *)p)[i];
}

static void set(nnl_dtype dtype, void *p, int64_t i, double v)
{
    if (dtype == NNL_F32)
        ((float *)p)[i] = (float)v;
    else
        ((double *)p)[i] = v;
}

static void fill(nnl_dtype dtype, void *p, int64_t n)
{
    for (int64_t i = 0; i < n; i++) set(dtype, p, i, (double)draw(2001) / 1000 - 1);
}

static void pack(const nnl_kernels *k, nnl_dtype dtype, void *out, const void *in,
                 const nnl_conv_order *order)
{
    if (dtype == NNL_F32)
        k->conv_pack_f32(out, in, order);
    else
        k->conv_pack_f64(out, in, order);
}

static void run(const nnl_kernels *k, nnl_dtype dtype, bool depthwise, const nnl_conv_block *b)
{
    if (dtype == NNL_F32)
        (depthwise ? k->conv_depthwise_f32 : k->conv_block_f32)(b);
    else
        (depthwise ? k->conv_depthwise_f64 : k->conv_block_f64)(b);
}

/* What pixel (row, column), channel c should be, and the sum of the magnitudes. */
static double wanted(nnl_dtype dtype, bool depthwise, const nnl_conv_block *b, const void *w,
                     int64_t row, int64_t column, int64_t c, double *size)
{
    double sum = 0;
    int64_t corner = row * b->x_row + column * b->x_column, run_ = depthwise ? 1 : b->run, tap = 0;
    *size = 0;
    for (int64_t i = 0; i < b->taps[0]; i++) {
        for (int64_t j = 0; j < b->taps[1]; j++) {
            for (int64_t t = 0; t < b->taps[2]; t++) {
                int64_t x_row = row * b->row_step + j * b->row_tap;
                bool read = b->row_step == 0 || (x_row >= b->first_row && x_row < b->end_row);
                for (int64_t r = 0; r < run_; r++, tap++) {
                    if (!read) continue;
                    int64_t at = corner + i * b->x_tap[0] + j * b->x_tap[1] + t * b->x_tap[2];
                    double one = get(dtype, b->x, at + (depthwise ? c : r)) *
                                 get(dtype, w, tap * b->channels + c);
                    sum += one;
                    *size += fabs(one);
                }
            }
        }
    }
    int64_t place = row * b->y_row + column * b->y_column + c;
    if (b->bias) sum += get(dtype, b->bias, c);
    *size += 2;
    if (b->scale) {
        double scale = get(dtype, b->scale, c);
        sum = (sum - get(dtype, b->center, c)) * scale + get(dtype, b->shift, c);
        *size = (*size + 1) * fabs(scale) + 1;
    }
    if (b->residual) sum += get(dtype, b->residual, place);
    *size += 2;
    return b->relu && sum < 0 ? 0 : sum;
}

static char x[ROOM * 8], w[ROOM * 8], packed[ROOM * 8], y[ROOM * 8], bias[ROOM], norm[3][ROOM],
    residual[ROOM * 8];

static void try_block(const nnl_kernels *k, nnl_dtype dtype, bool depthwise)
{
    int64_t sizes[] = {1, 2, 3, 4, 5, 7, 8, 9, 13};
    nnl_conv_block b = {.rows = sizes[draw(6)],
                        .columns = sizes[draw(COUNT(sizes))],
                        .channels = 1 + draw(40),
                        .run = 1 + draw(5),
                        .taps = {1 + draw(2), 1 + draw(3), 1 + draw(3)}};
    if (depthwise) b.run = b.channels;
    int64_t pixel = depthwise ? b.channels : b.run + draw(2), stride = 1 + draw(2);
    b.x_column = stride * pixel;
    b.x_tap[2] = (1 + draw(2)) * pixel;
    int64_t width = 32 * pixel;
    b.x_row = (1 + draw(2)) * width;
    b.x_tap[1] = (1 + draw(2)) * width;
    b.x_tap[0] = 24 * width;
    b.y_column = b.channels + draw(3);
    b.y_row = b.y_column * (b.columns + draw(2));
    int64_t depth = b.taps[0] * b.taps[1] * b.taps[2] * (depthwise ? 1 : b.run),
            end = b.rows * b.y_row + b.y_column;
    if (!depthwise && draw(3) == 0) {
        b.row_step = b.x_row / width;
        b.row_tap = b.x_tap[1] / width;
        b.first_row = draw(6) - 2;
        b.end_row = draw(16);
    }
    fill(dtype, x, ROOM);
    fill(dtype, w, depth * b.channels);
    fill(dtype, bias, b.channels);
    for (int i = 0; i < 3; i++) fill(dtype, norm[i], b.channels);
    fill(dtype, residual, end);
    nnl_conv_order order = {
        .size = {depth, 1, 1, 1}, .step = {b.channels}, .lanes = b.channels, .lane_step = 1};
    pack(k, dtype, packed, w, &order);
    b.x = x;
    b.w = packed;
    b.y = y;
    if (draw(2)) b.bias = bias;
    if (draw(2)) b.residual = residual;
    if (draw(2)) {
        b.center = norm[0];
        b.scale = norm[1];
        b.shift = norm[2];
    }
    b.relu = draw(2);
    for (int64_t i = 0; i < end; i++) set(dtype, y, i, 77);
    run(k, dtype, depthwise, &b);
    double eps = dtype == NNL_F32 ? 0x1p-23 : 0x1p-52;
    bool good = true, clean = true;
    for (int64_t i = 0; i < end; i++) {
        int64_t row = i / b.y_row, column = i % b.y_row / b.y_column, c = i % b.y_row % b.y_column;
        double size, got = get(dtype, y, i);
        if (row < b.rows && column < b.columns && c < b.channels)
            good = good && fabs(got - wanted(dtype, depthwise, &b, w, row, column, c, &size)) <=
                               4 * eps * size;
        else
            clean = clean && got == 77;
    }
    CHECK(good && clean,
          "%s: %s %s: %d x %d pixels, %d channels, %d x %d x %d taps of %d, rows %d to %d, bias "
          "%d, norm %d, residual %d, relu %d: %s",
          k->name, dtype == NNL_F32 ? "f32" : "f64", depthwise ? "depthwise" : "block", (int)b.rows,
          (int)b.columns, (int)b.channels, (int)b.taps[0], (int)b.taps[1], (int)b.taps[2],
          (int)b.run, (int)b.first_row, b.row_step ? (int)b.end_row : 0, b.bias != NULL,
          b.scale != NULL, b.residual != NULL, b.relu, good ? "writes beyond" : "is wrong");
}

/* Windows that overlap, and are farther apart than they are wide. */
static void try_spread(const nnl_kernels *k, nnl_dtype dtype)
{
    static double sum[ROOM], size[ROOM];
    nnl_conv_spread s = {.rows = draw(14),
                         .columns = 1 + draw(11),
                         .depth = draw(5) ? 1 + draw(20) : 0,
                         .n = 1 + draw(draw(2) ? 12 : 120),
                         .dy = x,
                         .w = w,
                         .dx = y};
    s.dy_column = s.depth + draw(3);
    s.dy_row = s.columns * s.dy_column + draw(3);
    s.w_row = s.n + draw(3);
    s.dx_column = 1 + draw(2 * s.n);
    s.dx_row = (s.columns - 1) * s.dx_column + s.n + draw(3);
    fill(dtype, x, ROOM);
    fill(dtype, w, ROOM);
    fill(dtype, y, ROOM);
    for (int64_t i = 0; i < ROOM; i++) {
        sum[i] = get(dtype, y, i);
        size[i] = 0;
    }
    for (int64_t p = 0; p < s.rows * s.columns; p++) {
        int64_t from = p / s.columns * s.dy_row + p % s.columns * s.dy_column;
        double *to = sum + p / s.columns * s.dx_row + p % s.columns * s.dx_column;
        for (int64_t i = 0; i < s.n; i++) {
            for (int64_t d = 0; d < s.depth; d++) {
                double one = get(dtype, x, from + d) * get(dtype, w, d * s.w_row + i);
                to[i] += one;
                size[to - sum + i] += fabs(one);
            }
        }
    }
    (dtype == NNL_F32 ? k->conv_spread_f32 : k->conv_spread_f64)(&s);
    double eps = dtype == NNL_F32 ? 0x1p-23 : 0x1p-52;
    bool good = true; /* what nothing is added to has size 0, and must be as it was */
    for (int64_t i = 0; i < ROOM; i++) {
        double error = fabs(get(dtype, y, i) - sum[i]);
        good = good && error <= (size[i] > 0 ? 16 * eps * (size[i] + 1) : 0);
    }
    CHECK(good, "%s: %s spread: %d x %d pixels %d apart, depth %d, windows of %d", k->name,
          dtype == NNL_F32 ? "f32" : "f64", (int)s.rows, (int)s.columns, (int)s.dx_column,
          (int)s.depth, (int)s.n);
}

int main(void)
{
    for (nnl_isa isa = NNL_ISA_BASE; isa <= NNL_ISA_NEON; isa++) {
        if (!nnl_isa_supported(isa)) continue;
        const nnl_kernels *k = nnl_kernels_for(isa);
        for (int i = 0; i < 400; i++) try_block(k, i % 2 ? NNL_F64 : NNL_F32, i % 4 > 1);
        for (int i = 0; i < 200; i++) try_spread(k, i % 2 ? NNL_F64 : NNL_F32);
    }
    return report();
}
