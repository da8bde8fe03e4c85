/* The kernels of layer_norm.c for one type: T the element, V its vector.  Included twice, hence without a
 * guard. */

/* The first count lanes, zero beyond. */
VEC_INLINE V T_(read)(const T *x, int64_t count)
{
    return count >= LANES ? V_(load)(x) : V_(load_n)(x, count);
}

VEC_INLINE void T_(write)(T *to, V x, int64_t count)
{
    if (count >= LANES) V_(store)(to, x);
    else V_(store_n)(to, x, count);
}

/* The sum of x - shift, or of its square. */
VEC_INLINE double T_(row_sum)(const bool SQUARE, const T *x, int64_t n, T shift)
{
    const V from = V_(set1)(shift);
    double total = 0;
    for (int64_t block = 0; block < n; block += BLOCK) {
        const int64_t end = n - block < BLOCK ? n : block + BLOCK;
        V sum[4] = {V_(zero)(), V_(zero)(), V_(zero)(), V_(zero)()};
        int64_t i = block;
        for (; i + 4 * LANES <= end; i += 4 * LANES) {
            for (int k = 0; k < 4; k++) {
                V a = V_(load)(x + i + k * LANES) - from;
                sum[k] = SQUARE ? V_(fma)(a, a, sum[k]) : sum[k] + a;
            }
        }
        for (; i < end; i += LANES) {
            V a = T_(read)(x + i, end - i) - from;
            if (end - i < LANES) a = V_(select)(FIRST(end - i), a, V_(zero)());
            sum[0] = SQUARE ? V_(fma)(a, a, sum[0]) : sum[0] + a;
        }
        total += (double)V_(sum)((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
    return total;
}

/* y = (x - mean) rstd w + b, w and b one number or one for each element. */
VEC_INLINE void T_(scale_run)(T *y, const T *x, T mean, T rstd, const T *w, const T *b, const bool EACH, int64_t n)
{
    const V shift = V_(set1)(mean), factor = V_(set1)(rstd);
    V scale = V_(set1)(w ? *w : 1), move = V_(set1)(b ? *b : 0);
    for (int64_t i = 0; i < n; i += LANES) {
        if (EACH && w) scale = T_(read)(w + i, n - i);
        if (EACH && b) move = T_(read)(b + i, n - i);
        V a = (T_(read)(x + i, n - i) - shift) * factor;
        T_(write)(y + i, V_(fma)(a, scale, move), n - i);
    }
}

VEC_INLINE void T_(forward)(const nnl_norm *norm, T *y, double *mean, double *rstd, const T *x, int64_t first,
                            int64_t rows)
{
    const int64_t channels = norm->channels, inner = norm->inner, n = channels * inner;
    for (int64_t r = 0; r < rows; r++, x += n, y += n) {
        const int64_t channel = (first + r) % norm->groups * channels;
        const T *w = norm->weight ? (const T *)norm->weight + channel : NULL;
        const T *b = norm->bias ? (const T *)norm->bias + channel : NULL;
        const double middle = norm->center ? T_(row_sum)(false, x, n, 0) / (double)n : 0;
        const double spread = T_(row_sum)(true, x, n, (T)middle) / (double)n;
        const double factor = 1 / __builtin_sqrt(spread + norm->eps);
        if (mean) mean[r] = middle;
        rstd[r] = factor;
        if (inner == 1) {
            T_(scale_run)(y, x, (T)middle, (T)factor, w, b, true, n);
            continue;
        }
        for (int64_t c = 0; c < channels; c++)
            T_(scale_run)(y + c * inner, x + c * inner, (T)middle, (T)factor, w ? w + c : NULL, b ? b + c : NULL, false,
                          inner);
    }
}

/* The sums over a row of g = dy w and of g xhat, xhat = (x - mean) rstd. */
typedef struct T_(row_sums) {
    double g, g_xhat;
} T_(row_sums);

/* One channel for each element; dw += dy xhat and db += dy on the way. */
VEC_INLINE T_(row_sums) T_(sums_of_elements)(T *dw, T *db, const T *dy, const T *x, T mean, T rstd, const T *w, int64_t n)
{
    const V shift = V_(set1)(mean), factor = V_(set1)(rstd);
    T_(row_sums) total = {0, 0};
    for (int64_t block = 0; block < n; block += BLOCK) {
        const int64_t end = n - block < BLOCK ? n : block + BLOCK;
        V sum = V_(zero)(), sum_xhat = V_(zero)();
        for (int64_t i = block; i < end; i += LANES) {
            const int64_t count = end - i;
            V d = T_(read)(dy + i, count), xhat = (T_(read)(x + i, count) - shift) * factor;
            V g = w ? d * T_(read)(w + i, count) : d;
            sum = sum + g;
            sum_xhat = V_(fma)(g, xhat, sum_xhat);
            if (dw) T_(write)(dw + i, V_(fma)(d, xhat, T_(read)(dw + i, count)), count);
            if (db) T_(write)(db + i, T_(read)(db + i, count) + d, count);
        }
        total.g += (double)V_(sum)(sum);
        total.g_xhat += (double)V_(sum)(sum_xhat);
    }
    return total;
}

/* A channel of `inner` elements. */
VEC_INLINE T_(row_sums) T_(sums_of_channel)(const T *dy, const T *x, T mean, T rstd, int64_t inner)
{
    return T_(sums_of_elements)(NULL, NULL, dy, x, mean, rstd, NULL, inner);
}

/* dx = rstd (g - a - b xhat), a and b the means of g and of g xhat. */
VEC_INLINE void T_(grad_run)(T *dx, const T *dy, const T *x, T mean, T rstd, T a, T b, const T *w, const bool EACH,
                             int64_t n)
{
    const V shift = V_(set1)(mean), factor = V_(set1)(rstd), less = V_(set1)(a), slope = V_(set1)(b);
    V scale = V_(set1)(w ? *w : 1);
    for (int64_t i = 0; i < n; i += LANES) {
        if (EACH && w) scale = T_(read)(w + i, n - i);
        V xhat = (T_(read)(x + i, n - i) - shift) * factor, g = T_(read)(dy + i, n - i) * scale;
        T_(write)(dx + i, V_(fnma)(xhat, slope, g - less) * factor, n - i);
    }
}

VEC_INLINE void T_(backward)(const nnl_norm *norm, T *dx, T *dweight, T *dbias, const T *dy, const T *x,
                             const double *mean, const double *rstd, int64_t first, int64_t rows)
{
    const int64_t channels = norm->channels, inner = norm->inner, n = channels * inner;
    for (int64_t r = 0; r < rows; r++, dx += n, dy += n, x += n) {
        const int64_t channel = (first + r) % norm->groups * channels;
        const T *w = norm->weight ? (const T *)norm->weight + channel : NULL;
        T *dw = dweight ? dweight + channel : NULL, *db = dbias ? dbias + channel : NULL;
        const T middle = mean ? (T)mean[r] : 0, factor = (T)rstd[r];
        T_(row_sums) sums = {0, 0};
        if (inner == 1) sums = T_(sums_of_elements)(dw, db, dy, x, middle, factor, w, n);
        for (int64_t c = 0; inner > 1 && c < channels; c++) {
            T_(row_sums) part = T_(sums_of_channel)(dy + c * inner, x + c * inner, middle, factor, inner);
            if (dw) dw[c] += (T)part.g_xhat;
            if (db) db[c] += (T)part.g;
            sums.g += w ? (double)w[c] * part.g : part.g;
            sums.g_xhat += w ? (double)w[c] * part.g_xhat : part.g_xhat;
        }
        const T a = norm->center ? (T)(sums.g / (double)n) : 0, b = (T)(sums.g_xhat / (double)n);
        if (inner == 1) {
            T_(grad_run)(dx, dy, x, middle, factor, a, b, w, true, n);
            continue;
        }
        for (int64_t c = 0; c < channels; c++)
            T_(grad_run)(dx + c * inner, dy + c * inner, x + c * inner, middle, factor, a, b, w ? w + c : NULL, false,
                         inner);
    }
}

/* Sums in f64 take over those of some rows, which begin anew. */
VEC_INLINE void T_(fold)(double *sum, T *part, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        sum[i] += (double)part[i];
        part[i] = 0;
    }
}
