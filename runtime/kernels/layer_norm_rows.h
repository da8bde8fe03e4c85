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

/* The sums of a = x - shift and, with SQUARES, of a^2. */
typedef struct T_(sums) {
    double first, second;
} T_(sums);

VEC_INLINE T_(sums) T_(sums_of)(const bool SQUARES, const T *x, int64_t n, T shift)
{
    const V from = V_(set1)(shift);
    T_(sums) total = {0, 0};
    for (int64_t block = 0; block < n; block += BLOCK) {
        const int64_t end = n - block < BLOCK ? n : block + BLOCK;
        V sum[2] = {V_(zero)(), V_(zero)()}, square[2] = {V_(zero)(), V_(zero)()};
        int64_t i = block;
        for (; i + 2 * LANES <= end; i += 2 * LANES) {
            for (int k = 0; k < 2; k++) {
                V a = V_(load)(x + i + k * LANES) - from;
                sum[k] = sum[k] + a;
                if (SQUARES) square[k] = V_(fma)(a, a, square[k]);
            }
        }
        for (; i < end; i += LANES) {
            V a = T_(read)(x + i, end - i) - from;
            if (end - i < LANES) a = V_(select)(FIRST(end - i), a, V_(zero)());
            sum[0] = sum[0] + a;
            if (SQUARES) square[0] = V_(fma)(a, a, square[0]);
        }
        total.first += (double)V_(sum)(sum[0] + sum[1]);
        if (SQUARES) total.second += (double)V_(sum)(square[0] + square[1]);
    }
    return total;
}

/* xhat = (x - mean) rstd as (x - middle) factor - rest: what the mean loses by rounding is not lost. */
typedef struct T_(line) {
    V middle, factor, rest;
} T_(line);

VEC_INLINE T_(line) T_(line_of)(double mean, double rstd)
{
    const T middle = (T)mean;
    return (T_(line)){V_(set1)(middle), V_(set1)((T)rstd), V_(set1)((T)((mean - (double)middle) * rstd))};
}

VEC_INLINE V T_(xhat)(T_(line) l, V x) { return V_(fma)(x - l.middle, l.factor, -l.rest); }

/* y = xhat w + b, w and b one number or one for each element. */
VEC_INLINE void T_(scale_run)(T *y, const T *x, T_(line) l, const T *w, const T *b, const bool EACH, int64_t n)
{
    V scale = V_(set1)(w ? *w : 1), move = V_(set1)(b ? *b : 0);
    for (int64_t i = 0; i < n; i += LANES) {
        if (EACH && w) scale = T_(read)(w + i, n - i);
        if (EACH && b) move = T_(read)(b + i, n - i);
        T_(write)(y + i, V_(fma)(T_(xhat)(l, T_(read)(x + i, n - i)), scale, move), n - i);
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
        /* what the first sum of large numbers lost shows in the second, of their distances */
        const T rough = norm->center ? (T)(T_(sums_of)(false, x, n, 0).first / (double)n) : 0;
        const T_(sums) sums = T_(sums_of)(true, x, n, rough);
        const double lost = norm->center ? sums.first / (double)n : 0, middle = (double)rough + lost;
        const double factor = 1 / __builtin_sqrt(sums.second / (double)n - lost * lost + norm->eps);
        if (mean) mean[r] = middle;
        rstd[r] = factor;
        const T_(line) l = T_(line_of)(middle, factor);
        if (inner == 1) {
            T_(scale_run)(y, x, l, w, b, true, n);
            continue;
        }
        for (int64_t c = 0; c < channels; c++)
            T_(scale_run)(y + c * inner, x + c * inner, l, w ? w + c : NULL, b ? b + c : NULL, false, inner);
    }
}

/* The sums over a row of g = dy w and of g xhat. */
typedef struct T_(row_sums) {
    double g, g_xhat;
} T_(row_sums);

/* One channel for each element; dw += dy xhat and db += dy on the way. */
VEC_INLINE T_(row_sums) T_(sums_of_elements)(T *dw, T *db, const T *dy, const T *x, T_(line) l, const T *w, int64_t n)
{
    T_(row_sums) total = {0, 0};
    for (int64_t block = 0; block < n; block += BLOCK) {
        const int64_t end = n - block < BLOCK ? n : block + BLOCK;
        V sum = V_(zero)(), sum_xhat = V_(zero)();
        for (int64_t i = block; i < end; i += LANES) {
            const int64_t count = end - i;
            V d = T_(read)(dy + i, count), xhat = T_(xhat)(l, T_(read)(x + i, count));
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

/* dx = rstd (g - a - b xhat), a and b the means of g and of g xhat. */
VEC_INLINE void T_(grad_run)(T *dx, const T *dy, const T *x, T_(line) l, T a, T b, const T *w, const bool EACH, int64_t n)
{
    const V less = V_(set1)(a), slope = V_(set1)(b);
    V scale = V_(set1)(w ? *w : 1);
    for (int64_t i = 0; i < n; i += LANES) {
        if (EACH && w) scale = T_(read)(w + i, n - i);
        V xhat = T_(xhat)(l, T_(read)(x + i, n - i)), g = T_(read)(dy + i, n - i) * scale;
        T_(write)(dx + i, V_(fnma)(xhat, slope, g - less) * l.factor, n - i);
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
        const T_(line) l = T_(line_of)(mean ? mean[r] : 0, rstd[r]);
        T_(row_sums) sums = {0, 0};
        if (inner == 1) sums = T_(sums_of_elements)(dw, db, dy, x, l, w, n);
        for (int64_t c = 0; inner > 1 && c < channels; c++) {
            T_(row_sums) part = T_(sums_of_elements)(NULL, NULL, dy + c * inner, x + c * inner, l, NULL, inner);
            if (dw) dw[c] += (T)part.g_xhat;
            if (db) db[c] += (T)part.g;
            sums.g += w ? (double)w[c] * part.g : part.g;
            sums.g_xhat += w ? (double)w[c] * part.g_xhat : part.g_xhat;
        }
        const T a = norm->center ? (T)(sums.g / (double)n) : 0, b = (T)(sums.g_xhat / (double)n);
        if (inner == 1) {
            T_(grad_run)(dx, dy, x, l, a, b, w, true, n);
            continue;
        }
        for (int64_t c = 0; c < channels; c++)
            T_(grad_run)(dx + c * inner, dy + c * inner, x + c * inner, l, a, b, w ? w + c : NULL, false, inner);
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
