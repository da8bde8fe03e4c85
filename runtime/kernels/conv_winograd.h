/* 3x3 convolutions with stride 1 by Winograd's F(4x4, 3x3): Lavin and Gray, Fast Algorithms for
 * Convolutional Neural Networks (arXiv:1509.09308), section 4.1, where the matrices A, B and G
 * stand. A tile is Y = A' [(G g G') * (B' d B)] A, products summed over channels: a quarter of the
 * multiplications.  Vectors hold channels.  Part of conv.c. */

#define PANEL (2 * LANES) /* channels that conv_pack lays side by side */

/* out[i] = (B' d)[i] */
VEC_INLINE void winograd_input(vf *out, int64_t step, const vf d[6])
{
    const vf four = vf_set1(4), five = vf_set1(5), two = vf_set1(2);
    const vf even = vf_fnma(four, d[2], d[4]), odd = vf_fnma(four, d[1], d[3]);
    const vf narrow = d[4] - d[2], wide = d[3] - d[1];
    out[0] = vf_fma(four, d[0], vf_fnma(five, d[2], d[4]));
    out[step] = even + odd;
    out[2 * step] = even - odd;
    out[3 * step] = vf_fma(two, wide, narrow);
    out[4 * step] = vf_fnma(two, wide, narrow);
    out[5 * step] = vf_fma(four, d[1], vf_fnma(five, d[3], d[5]));
}

/* out[i] = (A' m)[i] */
VEC_INLINE void winograd_output(vf *out, int64_t step, const vf m[6])
{
    const vf two = vf_set1(2), four = vf_set1(4), eight = vf_set1(8);
    const vf sum = m[1] + m[2], difference = m[1] - m[2], sum2 = m[3] + m[4],
             difference2 = m[3] - m[4];
    out[0] = m[0] + sum + sum2;
    out[step] = vf_fma(two, difference2, difference);
    out[2 * step] = vf_fma(four, sum2, sum);
    out[3 * step] = vf_fma(eight, difference2, difference) + m[5];
}

/* out[i] = (G g)[i] */
VEC_INLINE void winograd_taps(vf *out, int64_t step, const vf g[3])
{
    const vf even = g[0] + g[2], wide = vf_fma(vf_set1(4), g[2], g[0]) * vf_set1(1.0f / 24);
    const vf sixth = vf_set1(-1.0f / 6), twelfth = vf_set1(1.0f / 12);
    out[0] = g[0] * vf_set1(0.25f);
    out[step] = (even + g[1]) * sixth;
    out[2 * step] = (even - g[1]) * sixth;
    out[3 * step] = vf_fma(twelfth, g[1], wide);
    out[4 * step] = vf_fnma(twelfth, g[1], wide);
    out[5 * step] = g[2];
}

void K(conv_winograd_weight)(float *out, int64_t step, const float *packed, int64_t depth,
                             int64_t channels)
{
    for (int64_t channel = 0; channel < channels; channel += PANEL) {
        const int64_t width = channels - channel > LANES ? PANEL : LANES, tap = depth * width;
        for (int64_t at = 0; at < tap; at += LANES, out += LANES) {
            vf g[3], taps[6 * 3], made[6];
            for (int64_t j = 0; j < 3; j++) {
                UNROLL_FOR (i, 3) g[i] = vf_load(packed + (i * 3 + j) * tap + at);
                winograd_taps(taps + j, 3, g);
            }
            for (int64_t i = 0; i < 6; i++) {
                winograd_taps(made, 1, taps + 3 * i);
                UNROLL_FOR (j, 6) vf_store(out + (6 * i + j) * step, made[j]);
            }
        }
        packed += 9 * tap;
    }
}

/* ---------------------------------------------------------------- the image's tiles */

/* Where a tile lies: its image, and its first result. */
typedef struct winograd_place {
    int64_t sample, row, column;
} winograd_place;

VEC_INLINE winograd_place winograd_place_of(const nnl_conv_winograd *b, int64_t tile)
{
    return (winograd_place){.sample = tile / b->tile_columns / b->tile_rows,
                            .row = tile / b->tile_columns % b->tile_rows * 4,
                            .column = tile % b->tile_columns * 4};
}

VEC_INLINE winograd_place winograd_next(const nnl_conv_winograd *b, winograd_place p)
{
    p.column += 4;
    if (p.column < 4 * b->tile_columns) return p;
    p.column = 0;
    p.row += 4;
    if (p.row < 4 * b->tile_rows) return p;
    return (winograd_place){.sample = p.sample + 1};
}

/* Up to LANES channels of a tile, whose first place is x; its places [rows[0], rows[1]) x
 * [columns[0], columns[1]) are there.  The matrices are step apart. */
VEC_INLINE void winograd_tile(const bool WHOLE, const nnl_conv_winograd *b, const float *x,
                              const int64_t rows[2], const int64_t columns[2], int64_t n,
                              float *out, int64_t step)
{
    vf d[6], made[6 * 6];
    for (int64_t j = 0; j < 6; j++, x += b->x_column) {
        if (j < columns[0] || j >= columns[1]) {
            UNROLL_FOR (i, 6) made[6 * i + j] = vf_zero();
            continue;
        }
        UNROLL_FOR (i, 6)
            d[i] = WHOLE || (i >= rows[0] && i < rows[1]) ? load_first_f32(x + i * b->x_row, n)
                                                          : vf_zero();
        winograd_input(made + j, 6, d);
    }
    for (int64_t i = 0; i < 6; i++, out += 6 * step) {
        winograd_input(d, 1, made + 6 * i);
        UNROLL_FOR (j, 6) vf_store(out + j * step, d[j]);
    }
}

/* Vectors of channels x tiles; `room` tiles, of which those that are none are zeros. */
static void winograd_image(const nnl_conv_winograd *b, float *out, int64_t room, int64_t step)
{
    winograd_place p = winograd_place_of(b, b->tile);
    for (int64_t t = 0; t < room; t++, p = winograd_next(b, p)) {
        const int64_t row = p.row - b->low[0], column = p.column - b->low[1];
        int64_t rows[2] = {row < 0 ? -row : 0, b->rows - row},
                columns[2] = {b->first_column - column, b->end_column - column};
        const bool whole = rows[0] == 0 && rows[1] >= 6;
        const float *x = b->x + p.sample * b->x_sample + row * b->x_row + column * b->x_column;
        if (t >= b->tiles) {
            x = b->x;
            columns[1] = 0;
        }
        for (int64_t c = 0; c < b->depth; c += LANES) {
            const int64_t n = b->depth - c < LANES ? b->depth - c : LANES;
            float *to = out + c * room + t * LANES;
            if (whole && n == LANES)
                winograd_tile(true, b, x + c, rows, columns, LANES, to, step);
            else
                winograd_tile(false, b, x + c, rows, columns, n, to, step);
        }
    }
}

/* ---------------------------------------------------------------- products */

#define AHEAD (4096 / VEC_BYTES) /* vectors of the weight */

/* Tiles x channels of one matrix, summed over the image's channels. */
typedef void winograd_product(const float *x, int64_t room, int64_t depth, const float *w,
                              float *out);

VEC_INLINE void winograd_body(const int FOURS, const int VECTORS, const float *x, int64_t room,
                              int64_t depth, const float *w, float *out)
{
    vf sum[QUADS * 4][2];
    UNROLL_FOR (t, 4 * FOURS) {
        UNROLL_FOR (v, VECTORS) sum[t][v] = vf_zero();
    }
    for (; depth > 0; depth -= LANES, x += (room - 1) * LANES) {
        for (int64_t n = depth < LANES ? depth : LANES; n > 0; n--, x++, w += VECTORS * LANES) {
            vf row[2];
            UNROLL_FOR (v, VECTORS) row[v] = vf_load(w + v * LANES);
            if (FOURS == 1) { /* few products for what is read */
                UNROLL_FOR (v, VECTORS) __builtin_prefetch(w + (AHEAD + v) * LANES);
            }
            UNROLL_FOR (t, 4 * FOURS) {
                const vf one = vf_set1(x[t * LANES]);
                UNROLL_FOR (v, VECTORS) sum[t][v] = vf_fma(one, row[v], sum[t][v]);
            }
        }
    }
    UNROLL_FOR (v, VECTORS) {
        UNROLL_FOR (t, 4 * FOURS) vf_store(out + (v * room + t) * LANES, sum[t][v]);
    }
}

#define PRODUCT(fours, vectors)                                                                   \
    static void winograd_product_##fours##_##vectors(const float *x, int64_t room, int64_t depth, \
                                                     const float *w, float *out)                  \
    {                                                                                             \
        winograd_body(fours, vectors, x, room, depth, w, out);                                    \
    }
/* clang-format off */
PRODUCT(1, 1) PRODUCT(2, 1) PRODUCT(3, 1) PRODUCT(1, 2)
#if QUADS > 3
PRODUCT(4, 1) PRODUCT(5, 1) PRODUCT(6, 1) PRODUCT(2, 2) PRODUCT(3, 2)
#define WINOGRAD_FOURS 6
#else
#define WINOGRAD_FOURS 3
#endif

static winograd_product *const winograd_products[2][WINOGRAD_FOURS] = {
#if QUADS > 3
    {winograd_product_1_1, winograd_product_2_1, winograd_product_3_1, winograd_product_4_1, winograd_product_5_1,
     winograd_product_6_1},
    {winograd_product_1_2, winograd_product_2_2, winograd_product_3_2},
#else
    {winograd_product_1_1, winograd_product_2_1, winograd_product_3_1},
    {winograd_product_1_2},
#endif
};
/* clang-format on */
#undef PRODUCT

static void winograd_matrix(const nnl_conv_winograd *b, const float *x, int64_t room,
                            const float *w, float *out)
{
    for (int64_t channel = 0; channel < b->channels; channel += PANEL) {
        const int vectors = b->channels - channel > LANES ? 2 : 1;
        const int64_t fours = room / 4, most = vectors == 2 ? QUADS_2 : WINOGRAD_FOURS,
                      pieces = (fours + most - 1) / most; /* nearly equal */
        for (int64_t i = 0; i < pieces; i++) {
            const int64_t four = fours * i / pieces, count = fours * (i + 1) / pieces - four;
            winograd_products[vectors - 1][count - 1](x + 4 * four * LANES, room, b->depth,
                                                      w + channel * b->depth,
                                                      out + (channel * room + 4 * four * LANES));
        }
    }
}

/* ---------------------------------------------------------------- results */

/* Up to LANES channels from `channel` on of a tile's results; y: of its first. */
VEC_INLINE void winograd_store(const nnl_conv_winograd *b, const float *in, int64_t step,
                               int64_t channel, int64_t y, int64_t rows, int64_t columns, int64_t n)
{
    const vf floor = vf_set1(b->relu ? 0 : -__builtin_inff());
    const vf bias = b->bias ? load_first_f32(b->bias + channel, n) : vf_zero();
    vf m[6], made[4 * 6];
    for (int64_t j = 0; j < 6; j++, in += step) {
        UNROLL_FOR (i, 6) m[i] = vf_load(in + 6 * i * step);
        winograd_output(made + j, 6, m);
    }
    vf center = vf_zero(), scale = vf_zero(), shift = vf_zero();
    if (b->scale) {
        center = load_first_f32(b->center + channel, n);
        scale = load_first_f32(b->scale + channel, n);
        shift = load_first_f32(b->shift + channel, n);
    }
    for (int64_t i = 0; i < rows; i++, y += b->y_row) {
        winograd_output(m, 1, made + 6 * i);
        UNROLL_FOR (j, 4) {
            const int64_t at = y + j * b->y_column;
            vf value = m[j] + bias;
            if (b->scale) value = vf_fma(value - center, scale, shift);
            if (j >= columns) continue;
            if (b->residual) value = value + load_first_f32(b->residual + at, n);
            store_first_f32(b->y + at, vf_max(floor, value), n);
        }
    }
}

static void winograd_results(const nnl_conv_winograd *b, const float *in, int64_t room,
                             int64_t step)
{
    for (int64_t c = 0; c < b->channels; c += LANES) {
        const int64_t n = b->channels - c < LANES ? b->channels - c : LANES;
        winograd_place p = winograd_place_of(b, b->tile);
        for (int64_t t = 0; t < b->tiles; t++, p = winograd_next(b, p)) {
            const int64_t rows = b->y_rows - p.row < 4 ? b->y_rows - p.row : 4,
                          columns = b->y_columns - p.column < 4 ? b->y_columns - p.column : 4;
            const int64_t y =
                p.sample * b->y_sample + p.row * b->y_row + p.column * b->y_column + c;
            const float *from = in + c * room + t * LANES;
            if (n == LANES)
                winograd_store(b, from, step, c, y, rows, columns, LANES);
            else
                winograd_store(b, from, step, c, y, rows, columns, n);
        }
    }
}

void K(conv_winograd)(const nnl_conv_winograd *b)
{
    const int64_t room = (b->tiles + 3) / 4 * 4;
    const int64_t in = ((b->depth + LANES - 1) / LANES * room + 1) * LANES,
                  out = ((b->channels + LANES - 1) / LANES * room + 1) * LANES;
    /* Sums of one panel may take the place of what they are made of, once it is read. */
    float *image = b->memory, *sums = b->channels <= PANEL && in == out ? image : image + 36 * in;
    winograd_image(b, image, room, in);
    for (int64_t k = 0; k < 36; k++)
        winograd_matrix(b, image + k * in, room, b->w + k * b->w_step, sums + k * out);
    winograd_results(b, sums, room, out);
}
