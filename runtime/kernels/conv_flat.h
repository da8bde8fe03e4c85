/* Convolutions of one input channel and few output channels, where a vector of output channels would be mostly empty: a
 * vector holds adjacent elements of a row of results, channel by channel and pixel by pixel, and the image is spread over
 * them.  Part of conv.c. */

#define IMAGE_VECTORS 512 /* of the image: a quarter of L1 and less */
#define FLAT_ROWS 14
#if defined(VEC_AVX512) || defined(VEC_NEON)
#define FLAT_TAPS 25 /* sums in registers */
#else
#define FLAT_TAPS 9
#endif

/* Vector number `vector` of rows of results: the pixels that its lanes belong to, counted from the first. */
typedef struct flat_vector {
    int64_t first, pixel, lanes;
    vi place;
} flat_vector;

VEC_INLINE flat_vector flat_vector_at(const nnl_conv_flat *f, int64_t vector)
{
    const int64_t at = vector * VF_LANES, left = f->columns * f->channels - at;
    flat_vector v = {.first = at, .pixel = at / f->channels, .lanes = left < VF_LANES ? left : VF_LANES};
    v.place = vi_quotient(vi_places() + vi_set1((int32_t)(at % f->channels)), (int32_t)f->channels);
    return v;
}

/* What the vector's lanes read of rows [row, row + rows) of the image, one vector for each place of a row of taps: TAPS
 * of them, or any number where it is 0. */
VEC_INLINE void spread_image(const int TAPS, const nnl_conv_flat *f, const flat_vector *v, int64_t row, int64_t rows, vf *spread)
{
    const mf mask = mf_first(v->lanes);
    const float *x = f->x + row * f->x_row + v->pixel;
    vi place[NNL_CONV_FLAT_TAPS];
    UNROLL_FOR (k, TAPS) place[k] = v->place + vi_set1(k);
    for (int64_t r = 0; r < rows; r++, x += f->x_row) {
        if (TAPS) {
            const vf all = vf_load(x);
            UNROLL_FOR (k, TAPS) *spread++ = vf_select(mask, vf_permute(all, place[k]), vf_zero());
        }
        for (int64_t k = 0; k < (TAPS ? 0 : f->taps[1]); k++)
            *spread++ = vf_select(mask, vf_permute(vf_load(x + k), v->place), vf_zero());
    }
}

/* The usual numbers of taps have loops of their own, where a vector of the image has all that they spread. */
VEC_INLINE int64_t usual_taps(const nnl_conv_flat *f)
{
    const int64_t reach = (VF_LANES + f->channels - 2) / f->channels + f->taps[1]; /* pixels */
    return VF_LANES > 4 && reach <= VF_LANES && (f->taps[1] == 5 || f->taps[1] == 3) ? f->taps[1] : 0;
}

VEC_INLINE int64_t rows_at_once(const nnl_conv_flat *f) { return IMAGE_VECTORS / f->taps[1] - f->taps[0] + 1; }

VEC_INLINE void flat_results(const int TAPS, const int ROWS, const nnl_conv_flat *f, const flat_vector *v, const vf *spread,
                             const float *w, int64_t w_step, vf shift, float *y)
{
    const int64_t across = TAPS ? TAPS : f->taps[1], taps = f->taps[0] * across;
    vf sum[FLAT_ROWS];
    UNROLL_FOR (r, ROWS) sum[r] = vf_zero();
    for (int64_t t = 0; t < taps; t++, w += w_step, spread++) {
        const vf one = vf_load(w);
        UNROLL_FOR (r, ROWS) sum[r] = vf_fma(spread[r * across], one, sum[r]);
    }
    const vf floor = vf_set1(f->relu ? 0 : -__builtin_inff());
    UNROLL_FOR (r, ROWS) store_first_f32(y + r * f->y_row, vf_max(floor, sum[r] + shift), v->lanes);
}

VEC_INLINE void flat_columns(const int TAPS, const nnl_conv_flat *f)
{
    vf spread[IMAGE_VECTORS];
    const int64_t vectors = (f->columns * f->channels + VF_LANES - 1) / VF_LANES, period = f->period;
    const int64_t most = rows_at_once(f), w_step = period * VF_LANES;
    for (int64_t n = 0; n < vectors; n++) {
        const flat_vector v = flat_vector_at(f, n);
        const float *w = f->w + n % period * VF_LANES;
        const vf shift = f->bias ? vf_load(f->bias + n % period * VF_LANES) : vf_zero();
        for (int64_t row = 0; row < f->rows; row += most) {
            const int64_t rows = f->rows - row < most ? f->rows - row : most;
            float *y = f->y + row * f->y_row + v.first;
            spread_image(TAPS, f, &v, row, rows + f->taps[0] - 1, spread);
            /* the last rows may be computed twice, and come out the same */
#define RESULTS(count)                                                                                       \
    for (int64_t r = 0; r < rows; r += count) {                                                              \
        const int64_t first = r < rows - count ? r : rows - count;                                           \
        flat_results(TAPS, count, f, &v, spread + first * f->taps[1], w, w_step, shift, y + first * f->y_row); \
    }
            if (rows >= 14) RESULTS(14)
            else if (rows >= 7) RESULTS(7)
            else RESULTS(1)
#undef RESULTS
        }
    }
}

void K(conv_flat)(const nnl_conv_flat *f)
{
    switch (usual_taps(f)) {
    case 5: flat_columns(5, f); break;
    case 3: flat_columns(3, f); break;
    default: flat_columns(0, f);
    }
}

/* sums[r] += the sum over rows of dy[row] spread[row][r]; and that of dy[row] alone */
VEC_INLINE void flat_sums(const int RUN, const nnl_conv_flat *f, const flat_vector *v, const float *dy, int64_t rows,
                          const vf *spread, float *sums, int64_t sums_step, float *bias)
{
    vf sum[FLAT_TAPS], all = vf_zero();
    UNROLL_FOR (r, RUN) sum[r] = vf_load(sums + r * sums_step);
    for (int64_t row = 0; row < rows; row++, spread += f->taps[1], dy += f->y_row) {
        const vf one = load_first_f32(dy, v->lanes);
        UNROLL_FOR (r, RUN) sum[r] = vf_fma(spread[r], one, sum[r]);
        all = all + one;
    }
    UNROLL_FOR (r, RUN) vf_store(sums + r * sums_step, sum[r]);
    if (bias) vf_store(bias, vf_load(bias) + all);
}

void K(conv_flat_sums)(const nnl_conv_flat *f)
{
    vf spread[IMAGE_VECTORS];
    const int64_t vectors = (f->columns * f->channels + VF_LANES - 1) / VF_LANES;
    const int64_t most = rows_at_once(f), step = f->period * VF_LANES, taps = f->taps[0] * f->taps[1], usual = usual_taps(f);
    for (int64_t n = 0; n < vectors; n++) {
        const flat_vector v = flat_vector_at(f, n);
        for (int64_t row = 0; row < f->rows; row += most) {
            const int64_t rows = f->rows - row < most ? f->rows - row : most;
            const float *dy = f->y + row * f->y_row + v.first;
            float *sums = f->sums + n % f->period * VF_LANES, *bias = sums + taps * step;
            int64_t t = 0;
            if (usual == 5) spread_image(5, f, &v, row, rows + f->taps[0] - 1, spread);
            else if (usual == 3) spread_image(3, f, &v, row, rows + f->taps[0] - 1, spread);
            else spread_image(0, f, &v, row, rows + f->taps[0] - 1, spread);
#define SUMS_OF(run)                                                                                         \
    for (; t + run <= taps; t += run)                                                                        \
        flat_sums(run, f, &v, dy, rows, spread + t, sums + t * step, step, t == 0 ? bias : NULL);
#if FLAT_TAPS > 9
            SUMS_OF(25)
#endif
            SUMS_OF(9)
            SUMS_OF(3)
            SUMS_OF(1)
#undef SUMS_OF
        }
    }
}
