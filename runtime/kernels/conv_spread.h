/* The input's gradient where vectors go across taps: what a pixel of dy gives to its window is added where the window
 * lies.  Part of conv.c, for T as in conv_tile.h. */

/* Of pixels x vectors.  Windows that overlap are added one after the other: with several rows of pixels the next one
 * does not wait for the stores of the one before. */
VEC_INLINE void T_(spread_tile)(const int PIXELS, const int VECTORS, const nnl_conv_spread *s, const T *const *dy,
                                T *const *dx, int64_t at)
{
    const T *w = (const T *)s->w + at;
    V sum[SPREAD_PIXELS * SPREAD_VECTORS], row[SPREAD_VECTORS];
    UNROLL_FOR (i, PIXELS * VECTORS) sum[i] = V_(zero)();
    for (int64_t d = 0; d < s->depth; d++, w += s->w_row) {
        UNROLL_FOR (v, VECTORS) row[v] = V_(load)(w + v * LANES);
        UNROLL_FOR (p, PIXELS) {
            const V one = V_(set1)(dy[p][d]);
            UNROLL_FOR (v, VECTORS) sum[p * VECTORS + v] = V_(fma)(one, row[v], sum[p * VECTORS + v]);
        }
    }
    const int64_t last = s->n - at - (VECTORS - 1) * LANES < LANES ? s->n - at - (VECTORS - 1) * LANES : LANES;
    UNROLL_FOR (p, PIXELS) {
        T *to = dx[p] + at;
        UNROLL_FOR (v, VECTORS - 1) V_(store)(to + v * LANES, V_(load)(to + v * LANES) + sum[p * VECTORS + v]);
        to += (VECTORS - 1) * LANES;
        T_(store_first)(to, T_(load_first)(to, last) + sum[p * VECTORS + VECTORS - 1], last);
    }
}

/* Elements of windows from `at` on, of all pixels, column by column. */
VEC_INLINE void T_(spread_strip)(const int VECTORS, const nnl_conv_spread *s, int64_t at)
{
    const T *dy[SPREAD_PIXELS];
    T *dx[SPREAD_PIXELS];
    int64_t left = s->rows * s->columns, row = 0, column = 0;
#define TILES(count)                                                                       \
    for (; left >= count; left -= count) {                                                 \
        for (int p = 0; p < count; p++) {                                                  \
            dy[p] = (const T *)s->dy + row * s->dy_row + column * s->dy_column;            \
            dx[p] = (T *)s->dx + row * s->dx_row + column * s->dx_column;                  \
            if (++row < s->rows) continue;                                                 \
            row = 0;                                                                       \
            column++;                                                                      \
        }                                                                                  \
        T_(spread_tile)(count, VECTORS, s, dy, dx, at);                                    \
    }
    TILES(SPREAD_PIXELS)
#if SPREAD_PIXELS > 4
    TILES(4)
#endif
    TILES(2)
    TILES(1)
#undef TILES
}

void K(T_(conv_spread))(const nnl_conv_spread *s)
{
    for (int64_t at = 0; at < s->n; at += SPREAD_VECTORS * LANES) {
        const int64_t vectors = (s->n - at + LANES - 1) / LANES;
        if (vectors >= 3) T_(spread_strip)(3, s, at);
        else if (vectors == 2) T_(spread_strip)(2, s, at);
        else T_(spread_strip)(1, s, at);
    }
}

/* out[column * out_column + piece * out_piece + c] += dy[column * dy_column + c] w[piece][c] */
void K(T_(conv_depthwise_spread))(T *restrict out, int64_t out_column, int64_t out_piece,
                                  const T *restrict dy, int64_t dy_column, const T *restrict w,
                                  int64_t columns, int64_t pieces, int64_t channels)
{
    for (int64_t column = 0; column < columns; column++) {
        const T *from = dy + column * dy_column;
        for (int64_t piece = 0; piece < pieces; piece++) {
            T *to = out + column * out_column + piece * out_piece;
            const T *row = w + piece * channels;
            int64_t c = 0;
            for (; c + LANES <= channels; c += LANES)
                V_(store)(to + c, V_(fma)(V_(load)(from + c), V_(load)(row + c), V_(load)(to + c)));
            if (c < channels) {
                int64_t n = channels - c;
                V value =
                    V_(fma)(V_(load_n)(from + c, n), V_(load_n)(row + c, n), V_(load_n)(to + c, n));
                V_(store_n)(to + c, value, n);
            }
        }
    }
}
