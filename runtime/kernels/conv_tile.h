/* The kernels of conv.c for one type: T the element, V its vector, T_() and V_() names for them.
 * Included twice, hence without a guard. */

#define WIDTH \
    (2 * LANES) /* channels of a panel of the packed weight; the last may have one vector */

/* The first n lanes.  Masks cost nothing where they are native ones. */
VEC_INLINE V T_(load_first)(const T *p, int64_t n)
{
#if defined(VEC_AVX512) || defined(VEC_AVX2)
    return V_(load_n)(p, n);
#else
    return n == LANES ? V_(load)(p) : V_(load_n)(p, n);
#endif
}

VEC_INLINE void T_(store_first)(T *p, V x, int64_t n)
{
    if (n == LANES)
        V_(store)(p, x);
    else
        V_(store_n)(p, x, n);
}

/* ---------------------------------------------------------------- pixels x channels */

/* Of the second dimension, taps [first, end). */
typedef void T_(conv_tile)(const nnl_conv_block *b, const T *const *corner, const int64_t *place,
                           const T *w, int64_t channel, int64_t first, int64_t end);

/* Channels from `at` on, of which n count, normalised as kernels/batch_norm.c does it. */
VEC_INLINE V T_(normal)(const nnl_conv_block *b, V value, int64_t at, int64_t n)
{
    const V center = T_(load_first)((const T *)b->center + at, n);
    return V_(fma)(value - center, T_(load_first)((const T *)b->scale + at, n),
                   T_(load_first)((const T *)b->shift + at, n));
}

/* The rarer endings: part of a vector or of four pixels. */
static void T_(finish_pixels)(const nnl_conv_block *b, const T *sum, int fours, int vectors,
                              const int64_t *place, int64_t channel)
{
    const T *bias = b->bias, *residual = b->residual;
    for (int q = 0; q < fours; q++) {
        for (int p = 0; p < 4; p++) {
            for (int v = 0; v < vectors; v++, sum += LANES) {
                int64_t at = channel + v * LANES, to = place[q] + p * b->y_column + at;
                int64_t n = b->channels - at < LANES ? b->channels - at : LANES;
                V value = V_(load)(sum);
                if (p >= b->columns) continue;
                value = value + (bias ? T_(load_first)(bias + at, n) : V_(zero)());
                if (b->scale) value = T_(normal)(b, value, at, n);
                if (residual) value = value + T_(load_first)(residual + to, n);
                if (b->relu) value = V_(max)(V_(zero)(), value);
                T_(store_first)((T *)b->y + to, value, n);
            }
        }
    }
}

/* Adds bias and residual, applies the activation and stores; place: of the fours' first pixels in
 * y. */
VEC_INLINE void T_(store_pixels)(const int FOURS, const int VECTORS, const nnl_conv_block *b,
                                 V (*sum)[4][2], const int64_t *place, int64_t channel)
{
    const int64_t step = b->y_column, last = b->channels - channel - (VECTORS - 1) * LANES;
    const V floor =
        V_(set1)(b->relu ? 0 : (T)-__builtin_inf()); /* nothing is below it without relu */
    if (b->columns >= 4) {
        UNROLL_FOR (v, VECTORS) {
            const int64_t at = channel + v * LANES,
                          n = v < VECTORS - 1 || last >= LANES ? LANES : last;
            const V bias = b->bias ? T_(load_first)((const T *)b->bias + at, n) : V_(zero)();
            UNROLL_FOR (q, FOURS) {
                UNROLL_FOR (p, 4) sum[q][p][v] = sum[q][p][v] + bias;
            }
            if (b->scale) {
                const V center = T_(load_first)((const T *)b->center + at, n),
                        scale = T_(load_first)((const T *)b->scale + at, n),
                        shift = T_(load_first)((const T *)b->shift + at, n);
                UNROLL_FOR (q, FOURS) {
                    UNROLL_FOR (p, 4) sum[q][p][v] = V_(fma)(sum[q][p][v] - center, scale, shift);
                }
            }
            if (b->residual) {
                UNROLL_FOR (q, FOURS) {
                    const T *residual = (const T *)b->residual + place[q] + at;
                    UNROLL_FOR (p, 4)
                        sum[q][p][v] = sum[q][p][v] + T_(load_first)(residual + p * step, n);
                }
            }
            UNROLL_FOR (q, FOURS) {
                T *y = (T *)b->y + place[q] + at;
                if (n == LANES) {
                    UNROLL_FOR (p, 4) V_(store)(y + p * step, V_(max)(floor, sum[q][p][v]));
                } else {
                    UNROLL_FOR (p, 4) V_(store_n)(y + p * step, V_(max)(floor, sum[q][p][v]), n);
                }
            }
        }
        return;
    }
    T lanes[QUADS * 4 * 2 * LANES];
    UNROLL_FOR (q, FOURS) {
        UNROLL_FOR (p, 4) {
            UNROLL_FOR (v, VECTORS)
                V_(store)(lanes + ((q * 4 + p) * VECTORS + v) * LANES, sum[q][p][v]);
        }
    }
    T_(finish_pixels)(b, lanes, FOURS, VECTORS, place, channel);
}

VEC_INLINE void T_(tile_body)(const int FOURS, const int VECTORS, const nnl_conv_block *b,
                              const T *const *corner, const int64_t *place, const T *w,
                              int64_t channel, int64_t first, int64_t end)
{
    V sum[QUADS][4][2];
    UNROLL_FOR (q, FOURS) {
        UNROLL_FOR (p, 4) {
            UNROLL_FOR (v, VECTORS) sum[q][p][v] = V_(zero)();
        }
    }
    const int64_t step = b->x_column, run = b->run, tap_row = b->taps[2] * run * VECTORS * LANES;
    w += first * tap_row;
    for (int64_t i = 0; i < b->taps[0]; i++, w += (b->taps[1] - end + first) * tap_row) {
        for (int64_t j = first; j < end; j++) {
            for (int64_t k = 0; k < b->taps[2]; k++) {
                int64_t tap = i * b->x_tap[0] + j * b->x_tap[1] + k * b->x_tap[2];
                const T *x[QUADS];
                UNROLL_FOR (q, FOURS) x[q] = corner[q] + tap;
                for (int64_t n = run; n > 0; n--) {
                    V row[2];
                    UNROLL_FOR (v, VECTORS) row[v] = V_(load)(w + v * LANES);
                    UNROLL_FOR (q, FOURS) {
                        UNROLL_FOR (p, 4) {
                            V one = V_(set1)(x[q][p * step]);
                            UNROLL_FOR (v, VECTORS)
                                sum[q][p][v] = V_(fma)(one, row[v], sum[q][p][v]);
                        }
                        x[q]++;
                    }
                    w += VECTORS * LANES;
                }
            }
        }
    }
    T_(store_pixels)(FOURS, VECTORS, b, sum, place, channel);
}

#define TILE(fours, vectors)                                                                    \
    static void T_(tile_##fours##_##vectors)(const nnl_conv_block *b, const T *const *corner,   \
                                             const int64_t *place, const T *w, int64_t channel, \
                                             int64_t first, int64_t end)                        \
    {                                                                                           \
        T_(tile_body)(fours, vectors, b, corner, place, w, channel, first, end);                \
    }
/* clang-format off */
TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(1, 2)
#if QUADS > 3
TILE(4, 1) TILE(5, 1) TILE(6, 1) TILE(7, 1) TILE(2, 2) TILE(3, 2)
#endif

static T_(conv_tile) *const T_(conv_tiles)[2][QUADS] = {
#if QUADS > 3
    {T_(tile_1_1), T_(tile_2_1), T_(tile_3_1), T_(tile_4_1), T_(tile_5_1), T_(tile_6_1), T_(tile_7_1)},
    {T_(tile_1_2), T_(tile_2_2), T_(tile_3_2)},
#else
    {T_(tile_1_1), T_(tile_2_1), T_(tile_3_1)},
    {T_(tile_1_2)},
#endif
};
/* clang-format on */
#undef TILE

/* One vector of channels in two rows of pixels, which read the same rows of x with other taps: a
 * broadcast serves both.  corner: of the upper row; place: of the upper row's fours, then of the
 * lower one's.  [first, end): rows of x, of which the lower row has one more. */
VEC_INLINE void T_(rows_step)(const int FOURS, const bool UPPER, const bool LOWER, const T **x,
                              int64_t step, int64_t run, const T *w_upper, const T *w_lower,
                              V (*sum)[4][2])
{
    for (int64_t n = 0; n < run; n++) {
        V upper = UPPER ? V_(load)(w_upper + n * LANES) : V_(zero)();
        V lower = LOWER ? V_(load)(w_lower + n * LANES) : V_(zero)();
        UNROLL_FOR (q, FOURS) {
            UNROLL_FOR (p, 4) {
                V one = V_(set1)(x[q][p * step]);
                if (UPPER) sum[q][p][0] = V_(fma)(one, upper, sum[q][p][0]);
                if (LOWER) sum[FOURS + q][p][0] = V_(fma)(one, lower, sum[FOURS + q][p][0]);
            }
            x[q]++;
        }
    }
}

VEC_INLINE void T_(pair_body)(const int FOURS, const nnl_conv_block *b, const T *const *corner,
                              const int64_t *place, const T *w, int64_t channel, int64_t first,
                              int64_t end)
{
    V sum[2 * PAIR_FOURS][4][2];
    UNROLL_FOR (q, 2 * FOURS) {
        UNROLL_FOR (p, 4) sum[q][p][0] = V_(zero)();
    }
    const int64_t step = b->x_column, run = b->run, tap = run * LANES, row = b->taps[2] * tap;
    for (int64_t i = 0; i < b->taps[0]; i++, w += b->taps[1] * row) {
        for (int64_t j = first; j < end; j++) {
            for (int64_t k = 0; k < b->taps[2]; k++) {
                int64_t at = i * b->x_tap[0] + j * b->x_tap[1] + k * b->x_tap[2];
                const T *upper = w + j * row + k * tap, *lower = upper - row, *x[PAIR_FOURS];
                UNROLL_FOR (q, FOURS) x[q] = corner[q] + at;
                if (j == 0)
                    T_(rows_step)(FOURS, true, false, x, step, run, upper, lower, sum);
                else if (j == b->taps[1])
                    T_(rows_step)(FOURS, false, true, x, step, run, upper, lower, sum);
                else
                    T_(rows_step)(FOURS, true, true, x, step, run, upper, lower, sum);
            }
        }
    }
    T_(store_pixels)(2 * FOURS, 1, b, sum, place, channel);
}

#define PAIR(fours)                                                                                \
    static void T_(pair_##fours)(const nnl_conv_block *b, const T *const *corner,                  \
                                 const int64_t *place, const T *w, int64_t channel, int64_t first, \
                                 int64_t end)                                                      \
    {                                                                                              \
        T_(pair_body)(fours, b, corner, place, w, channel, first, end);                            \
    }
/* clang-format off */
PAIR(1)
#if PAIR_FOURS > 1
PAIR(2) PAIR(3)
static T_(conv_tile) *const T_(pairs)[PAIR_FOURS] = {T_(pair_1), T_(pair_2), T_(pair_3)};
#else
static T_(conv_tile) *const T_(pairs)[PAIR_FOURS] = {T_(pair_1)};
#endif
/* clang-format on */
#undef PAIR

/* The last four of a row overlaps the one before: pixels computed twice come out the same. */
VEC_INLINE int64_t T_(column_of)(const nnl_conv_block *b, int64_t four)
{
    int64_t last = b->columns < 4 ? 0 : b->columns - 4;
    return four * 4 < last ? four * 4 : last;
}

/* The taps of pixel row `row` whose rows of x are read, of n taps. */
VEC_INLINE void T_(taps_of)(const nnl_conv_block *b, int64_t row, int64_t n, int64_t *first,
                            int64_t *end)
{
    *first = 0;
    *end = n;
    if (b->row_step == 0) return;
    const int64_t at = row * b->row_step, above = b->first_row - at, below = b->end_row - at;
    if (above > 0) *first = (above + b->row_tap - 1) / b->row_tap;
    if (below < (n - 1) * b->row_tap + 1)
        *end = below > 0 ? (below + b->row_tap - 1) / b->row_tap : 0;
    if (*first > *end) *first = *end;
}

/* Rows [row, row + 2) of one vector of channels. */
static void T_(block_pair)(const nnl_conv_block *b, int64_t row, const T *w, int64_t channel)
{
    const int64_t fours = (b->columns + 3) / 4, tiles = (fours + PAIR_FOURS - 1) / PAIR_FOURS;
    int64_t tap, tap_end;
    T_(taps_of)(b, row, b->taps[1] + 1, &tap, &tap_end);
    for (int64_t t = 0; t < tiles; t++) {
        const T *corner[PAIR_FOURS];
        int64_t place[2 * PAIR_FOURS], first = fours * t / tiles,
                                       count = fours * (t + 1) / tiles - first;
        for (int64_t q = 0; q < count; q++) {
            int64_t at = T_(column_of)(b, first + q);
            corner[q] = (const T *)b->x + row * b->x_row + at * b->x_column;
            place[q] = row * b->y_row + at * b->y_column;
            place[count + q] = place[q] + b->y_row;
        }
        T_(pairs)[count - 1](b, corner, place, w, channel, tap, tap_end);
    }
}

/* Rows [row, end), which have the same taps. */
static void T_(block_rows)(const nnl_conv_block *b, int64_t row, int64_t end, int vectors,
                           const T *w, int64_t channel, int64_t tap, int64_t tap_end)
{
    const int64_t in_row = (b->columns + 3) / 4, fours = (end - row) * in_row;
    const int64_t most = vectors == 2 ? QUADS_2 : QUADS_1,
                  tiles = (fours + most - 1) / most; /* nearly equal */
    int64_t four = 0;
    for (int64_t t = 0; t < tiles; t++) {
        const T *corner[QUADS];
        int64_t place[QUADS], count = fours * (t + 1) / tiles - fours * t / tiles;
        for (int64_t q = 0; q < count; q++) {
            int64_t at = T_(column_of)(b, four);
            corner[q] = (const T *)b->x + row * b->x_row + at * b->x_column;
            place[q] = row * b->y_row + at * b->y_column;
            if (++four == in_row) {
                four = 0;
                row++;
            }
        }
        T_(conv_tiles)[vectors - 1][count - 1](b, corner, place, w, channel, tap, tap_end);
    }
}

void K(T_(conv_block))(const nnl_conv_block *b)
{
    const int64_t depth = b->taps[0] * b->taps[1] * b->taps[2] * b->run;
    const bool pairs = b->taps[1] > 1 && b->x_tap[1] == b->x_row;
    for (int64_t channel = 0; channel < b->channels; channel += WIDTH) {
        const int vectors = b->channels - channel > LANES ? 2 : 1;
        const T *w = (const T *)b->w + channel * depth;
        int64_t row = 0;
        for (; pairs && vectors == 1 && row + 2 <= b->rows; row += 2)
            T_(block_pair)(b, row, w, channel);
        while (row < b->rows) {
            int64_t tap, tap_end, other, other_end, end = row + 1;
            T_(taps_of)(b, row, b->taps[1], &tap, &tap_end);
            for (; end < b->rows; end++) {
                T_(taps_of)(b, end, b->taps[1], &other, &other_end);
                if (other != tap || other_end != tap_end) break;
            }
            T_(block_rows)(b, row, end, vectors, w, channel, tap, tap_end);
            row = end;
        }
    }
}

/* ---------------------------------------------------------------- the weight's gradient */

typedef void T_(sum_tile)(const nnl_conv_sums *s, int64_t first, int64_t channel);

/* Pixels of a row take turns among the phases, so that short runs do not wait for their sums. */
VEC_INLINE void T_(sum_body)(const int RUN, const int VECTORS, const nnl_conv_sums *s,
                             int64_t first, int64_t channel)
{
    const int turns = SUMS / (RUN * VECTORS) < PHASES ? SUMS / (RUN * VECTORS) : PHASES;
    const int TURNS = turns < 1 ? 1 : turns;
    V sum[PHASES][SUM_RUN][2];
    UNROLL_FOR (u, TURNS) {
        UNROLL_FOR (r, RUN) {
            UNROLL_FOR (v, VECTORS) sum[u][r][v] = V_(zero)();
        }
    }
    const int64_t x_step = s->x_column, dy_step = s->dy_column;
    int64_t last = s->channels - channel - (VECTORS - 1) * LANES;
    if (last > LANES) last = LANES;
    for (int64_t row = 0; row < s->rows; row++) {
        const T *x = (const T *)s->x + row * s->x_row + first,
                *dy = (const T *)s->dy + row * s->dy_row + channel;
        int64_t n = s->columns;
        for (; n >= TURNS; n -= TURNS) {
            UNROLL_FOR (u, TURNS) {
                V d[2];
                if (VECTORS == 2) d[0] = V_(load)(dy);
                d[VECTORS - 1] = T_(load_first)(dy + (VECTORS - 1) * LANES, last);
                UNROLL_FOR (r, RUN) {
                    V one = V_(set1)(x[r]);
                    UNROLL_FOR (v, VECTORS) sum[u][r][v] = V_(fma)(one, d[v], sum[u][r][v]);
                }
                x += x_step;
                dy += dy_step;
            }
        }
        for (; TURNS > 1 && n > 0; n--) {
            V d[2];
            if (VECTORS == 2) d[0] = V_(load)(dy);
            d[VECTORS - 1] = T_(load_first)(dy + (VECTORS - 1) * LANES, last);
            UNROLL_FOR (r, RUN) {
                V one = V_(set1)(x[r]);
                UNROLL_FOR (v, VECTORS) sum[0][r][v] = V_(fma)(one, d[v], sum[0][r][v]);
            }
            x += x_step;
            dy += dy_step;
        }
    }
    UNROLL_FOR (r, RUN) {
        UNROLL_FOR (v, VECTORS) {
            T *to = (T *)s->sums + (first + r) * s->sums_step + channel + v * LANES;
            V value = sum[0][r][v];
            UNROLL_FOR (u, TURNS - 1) value = value + sum[u + 1][r][v];
            V_(store)(to, V_(load)(to) + value);
        }
    }
}

#define SUM(run)                                                                          \
    static void T_(sum_##run##_1)(const nnl_conv_sums *s, int64_t first, int64_t channel) \
    {                                                                                     \
        T_(sum_body)(run, 1, s, first, channel);                                          \
    }                                                                                     \
    static void T_(sum_##run##_2)(const nnl_conv_sums *s, int64_t first, int64_t channel) \
    {                                                                                     \
        T_(sum_body)(run, 2, s, first, channel);                                          \
    }
#define ENTRY(run)                           \
    {                                        \
        T_(sum_##run##_1), T_(sum_##run##_2) \
    }
/* clang-format off */
SUM(1) SUM(2) SUM(3) SUM(4) SUM(5) SUM(6)
#if SUM_RUN > 6
SUM(7) SUM(8) SUM(9) SUM(10) SUM(11) SUM(12)
#endif

static T_(sum_tile) *const T_(sum_tiles)[SUM_RUN][2] = {
    ENTRY(1), ENTRY(2), ENTRY(3), ENTRY(4), ENTRY(5), ENTRY(6),
#if SUM_RUN > 6
    ENTRY(7), ENTRY(8), ENTRY(9), ENTRY(10), ENTRY(11), ENTRY(12),
#endif
};
/* clang-format on */
#undef SUM
#undef ENTRY

void K(T_(conv_sums))(const nnl_conv_sums *s)
{
    const int64_t tiles = (s->run + SUM_RUN - 1) / SUM_RUN;
    for (int64_t channel = 0; channel < s->channels; channel += WIDTH) {
        int two = s->channels - channel > LANES;
        for (int64_t t = 0; t < tiles; t++) {
            int64_t first = s->run * t / tiles, count = s->run * (t + 1) / tiles - first;
            T_(sum_tiles)[count - 1][two](s, first, channel);
        }
    }
}

/* ---------------------------------------------------------------- depthwise: lanes are channels */

/* PART: of the only vector, n channels. */
VEC_INLINE void T_(depthwise_body)(const int FOURS, const int VECTORS, const bool PART,
                                   const nnl_conv_block *b, const T *const *corner,
                                   const int64_t *place, const T *w, int64_t w_step,
                                   int64_t channel, int64_t n)
{
    V sum[DEPTHWISE_FOURS][4][2];
    UNROLL_FOR (q, FOURS) {
        UNROLL_FOR (p, 4) {
            UNROLL_FOR (v, VECTORS) sum[q][p][v] = V_(zero)();
        }
    }
    const int64_t step = b->x_column;
    for (int64_t i = 0; i < b->taps[0]; i++) {
        for (int64_t j = 0; j < b->taps[1]; j++) {
            for (int64_t k = 0; k < b->taps[2]; k++, w += w_step) {
                int64_t tap = i * b->x_tap[0] + j * b->x_tap[1] + k * b->x_tap[2] + channel;
                V row[2];
                UNROLL_FOR (v, VECTORS) row[v] = V_(load)(w + v * LANES);
                UNROLL_FOR (q, FOURS) {
                    UNROLL_FOR (p, 4) {
                        const T *x = corner[q] + tap + p * step;
                        UNROLL_FOR (v, VECTORS) {
                            V value = PART ? V_(load_n)(x, n) : V_(load)(x + v * LANES);
                            sum[q][p][v] = V_(fma)(value, row[v], sum[q][p][v]);
                        }
                    }
                }
            }
        }
    }
    T lanes[DEPTHWISE_FOURS * 4 * 2 * LANES];
    const V floor = V_(set1)(b->relu ? 0 : (T)-__builtin_inf());
    if (b->columns >= 4 && !PART) {
        UNROLL_FOR (v, VECTORS) {
            const int64_t at = channel + v * LANES;
            const V bias = b->bias ? V_(load)((const T *)b->bias + at) : V_(zero)();
            UNROLL_FOR (q, FOURS) {
                UNROLL_FOR (p, 4) {
                    const int64_t to = place[q] + p * b->y_column + at;
                    V value = sum[q][p][v] + bias;
                    if (b->scale) value = T_(normal)(b, value, at, LANES);
                    if (b->residual) value = value + V_(load)((const T *)b->residual + to);
                    V_(store)((T *)b->y + to, V_(max)(floor, value));
                }
            }
        }
        return;
    }
    UNROLL_FOR (q, FOURS) {
        UNROLL_FOR (p, 4) {
            UNROLL_FOR (v, VECTORS)
                V_(store)(lanes + ((q * 4 + p) * VECTORS + v) * LANES, sum[q][p][v]);
        }
    }
    T_(finish_pixels)(b, lanes, FOURS, VECTORS, place, channel);
}

typedef void T_(depthwise_tile)(const nnl_conv_block *b, const T *const *corner,
                                const int64_t *place, const T *w, int64_t w_step, int64_t channel,
                                int64_t n);
#define DEPTHWISE(name, fours, vectors, part)                                                   \
    static void T_(name)(const nnl_conv_block *b, const T *const *corner, const int64_t *place, \
                         const T *w, int64_t w_step, int64_t channel, int64_t n)                \
    {                                                                                           \
        T_(depthwise_body)(fours, vectors, part, b, corner, place, w, w_step, channel, n);      \
    }
DEPTHWISE(depthwise_1_1, 1, 1, false)
DEPTHWISE(depthwise_1_2, 1, 2, false)
DEPTHWISE(depthwise_1_part, 1, 1, true)
#if DEPTHWISE_FOURS > 1
DEPTHWISE(depthwise_3_1, 3, 1, false)
DEPTHWISE(depthwise_3_2, 3, 2, false)
DEPTHWISE(depthwise_3_part, 3, 1, true)
#define DEPTHWISE_TILE(form) (count == 1 ? T_(depthwise_1_##form) : T_(depthwise_3_##form))
#else
#define DEPTHWISE_TILE(form) T_(depthwise_1_##form)
#endif

/* Fours of pixels [f0, f0 + count), all channels. */
static void T_(depthwise_pixels)(const nnl_conv_block *b, int64_t f0, int64_t count)
{
    const int64_t in_row = (b->columns + 3) / 4, last = b->columns < 4 ? 0 : b->columns - 4;
    const int64_t depth = b->taps[0] * b->taps[1] * b->taps[2];
    const T *corner[DEPTHWISE_FOURS];
    int64_t place[DEPTHWISE_FOURS];
    for (int64_t q = 0; q < count; q++) {
        int64_t row = (f0 + q) / in_row, column = (f0 + q) % in_row * 4;
        if (column > last) column = last;
        corner[q] = (const T *)b->x + row * b->x_row + column * b->x_column;
        place[q] = row * b->y_row + column * b->y_column;
    }
    for (int64_t c = 0; c < b->channels;) {
        int64_t panel = c - c % WIDTH, left = b->channels - c;
        int64_t w_step = b->channels - panel > LANES ? WIDTH : LANES;
        const T *w = (const T *)b->w + panel * depth + (c - panel);
        if (left >= WIDTH) {
            DEPTHWISE_TILE(2)(b, corner, place, w, w_step, c, LANES);
            c += WIDTH;
        } else if (left >= LANES) {
            DEPTHWISE_TILE(1)(b, corner, place, w, w_step, c, LANES);
            c += LANES;
        } else {
            DEPTHWISE_TILE(part)(b, corner, place, w, w_step, c, left);
            c += left;
        }
    }
}

/* As conv_block with a group for each channel: the weight is packed with rows for the taps,
 * channels as lanes. */
void K(T_(conv_depthwise))(const nnl_conv_block *b)
{
    const int64_t fours = b->rows * ((b->columns + 3) / 4);
    int64_t f = 0;
    for (; f + DEPTHWISE_FOURS <= fours; f += DEPTHWISE_FOURS)
        T_(depthwise_pixels)(b, f, DEPTHWISE_FOURS);
    for (; f < fours; f++) T_(depthwise_pixels)(b, f, 1);
}
#undef DEPTHWISE
#undef DEPTHWISE_TILE

/* sums[c] += sum over pixels of x[pixel][c] dy[pixel][c] */
void K(T_(conv_depthwise_sums))(const nnl_conv_sums *s)
{
    for (int64_t c = 0; c < s->channels; c += LANES) {
        int64_t n = s->channels - c < LANES ? s->channels - c : LANES;
        V sum[PHASES];
        UNROLL_FOR (u, PHASES) sum[u] = V_(zero)();
        for (int64_t row = 0; row < s->rows; row++) {
            const T *x = (const T *)s->x + row * s->x_row + c,
                    *dy = (const T *)s->dy + row * s->dy_row + c;
            int64_t left = s->columns;
            for (; left >= PHASES; left -= PHASES) {
                UNROLL_FOR (u, PHASES) {
                    sum[u] = V_(fma)(T_(load_first)(x, n), T_(load_first)(dy, n), sum[u]);
                    x += s->x_column;
                    dy += s->dy_column;
                }
            }
            for (; left > 0; left--) {
                sum[0] = V_(fma)(T_(load_first)(x, n), T_(load_first)(dy, n), sum[0]);
                x += s->x_column;
                dy += s->dy_column;
            }
        }
        T *to = (T *)s->sums + c;
        V_(store)(to, V_(load)(to) + ((sum[0] + sum[1]) + (sum[2] + sum[3])));
    }
}

/* ---------------------------------------------------------------- orders of weights */

/* Panels of WIDTH lanes, each with a row for each (a, b, c, d); the last panel has whole vectors,
 * filled with zeros. */
void K(T_(conv_pack))(T *restrict out, const T *restrict in, const nnl_conv_order *o)
{
    for (int64_t lane = 0; lane < o->lanes; lane += WIDTH) {
        int64_t n = o->lanes - lane < WIDTH ? o->lanes - lane : WIDTH,
                width = n > LANES ? WIDTH : LANES;
        const T *panel = in + lane * o->lane_step;
        for (int64_t a = 0; a < o->size[0]; a++) {
            for (int64_t b = 0; b < o->size[1]; b++) {
                for (int64_t c = 0; c < o->size[2]; c++) {
                    const T *from = panel + a * o->step[0] + b * o->step[1] + c * o->step[2];
                    for (int64_t d = 0; d < o->size[3]; d++, from += o->step[3], out += width) {
                        for (int64_t i = 0; i < n; i++) out[i] = from[i * o->lane_step];
                        for (int64_t i = n; i < width; i++) out[i] = 0;
                    }
                }
            }
        }
    }
}

/* Rows of lanes, as wide as they are: a matrix of (a, b, c) x (d, lane). */
void K(T_(conv_rows))(T *restrict out, const T *restrict in, const nnl_conv_order *o)
{
    for (int64_t a = 0; a < o->size[0]; a++) {
        for (int64_t b = 0; b < o->size[1]; b++) {
            for (int64_t c = 0; c < o->size[2]; c++) {
                const T *from = in + a * o->step[0] + b * o->step[1] + c * o->step[2];
                for (int64_t d = 0; d < o->size[3]; d++, from += o->step[3], out += o->lanes) {
                    for (int64_t i = 0; i < o->lanes; i++) out[i] = from[i * o->lane_step];
                }
            }
        }
    }
}

/* The way back for sums: out's element (a, b, c, d, lane) is the sum over parts of sums[a, b, c,
 * d][lane]. */
void K(T_(conv_collect))(T *restrict out, const nnl_conv_order *o, const T *restrict sums,
                         int64_t sums_step, int64_t parts, int64_t part_step)
{
    for (int64_t a = 0; a < o->size[0]; a++) {
        for (int64_t b = 0; b < o->size[1]; b++) {
            for (int64_t c = 0; c < o->size[2]; c++) {
                T *to = out + a * o->step[0] + b * o->step[1] + c * o->step[2];
                for (int64_t d = 0; d < o->size[3]; d++, to += o->step[3], sums += sums_step) {
                    for (int64_t i = 0; i < o->lanes; i += LANES) {
                        T lane[LANES];
                        V sum = V_(load)(sums + i);
                        for (int64_t p = 1; p < parts; p++)
                            sum = sum + V_(load)(sums + p * part_step + i);
                        V_(store)(lane, sum);
                        for (int64_t j = 0; j < LANES && i + j < o->lanes; j++)
                            to[(i + j) * o->lane_step] = lane[j];
                    }
                }
            }
        }
    }
}
#undef WIDTH
