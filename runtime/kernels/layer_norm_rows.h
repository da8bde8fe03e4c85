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

/* The sums over a row or a channel of g = dy w and of g xhat. */
typedef struct T_(row_sums) {
    double g, g_xhat;
} T_(row_sums);

/* Of a channel of n elements, without its weight. */
VEC_INLINE T_(row_sums) T_(sums_of_channel)(const T *dy, const T *x, T_(line) l, int64_t n)
{
    T_(row_sums) total = {0, 0};
    for (int64_t i = 0; i < n;) {
        const int64_t end = n - i < BLOCK ? n : i + BLOCK;
        V sum = V_(zero)(), sum_xhat = V_(zero)();
        for (; i < end; i += LANES) {
            const V d = T_(read)(dy + i, end - i);
            sum = sum + d;
            sum_xhat = V_(fma)(d, T_(xhat)(l, T_(read)(x + i, end - i)), sum_xhat);
        }
        i = end;
        total.g += (double)V_(sum)(sum);
        total.g_xhat += (double)V_(sum)(sum_xhat);
    }
    return total;
}

/* dx = rstd (g - a - b xhat) + residual, a and b the means of g and of g xhat, at `at`, where count elements are left. */
VEC_INLINE void T_(write_grad)(T *dx, T_(line) l, const T *dy, const T *x, const T *residual, int64_t at, int64_t count, V w,
                               V a, V b)
{
    const V xhat = T_(xhat)(l, T_(read)(x + at, count));
    V grad = V_(fnma)(xhat, b, T_(read)(dy + at, count) * w - a) * l.factor;
    if (residual) grad = T_(read)(residual + at, count) + grad;
    T_(write)(dx + at, grad, count);
}

/* A row of channels of `inner` elements. */
VEC_INLINE void T_(back_channels)(const nnl_norm *norm, T *dx, T *dw, T *db, const T *dy, const T *x, const T *residual,
                                  const T *w, T_(line) l)
{
    const int64_t channels = norm->channels, inner = norm->inner;
    double g = 0, g_xhat = 0;
    for (int64_t c = 0; c < channels; c++) {
        T_(row_sums) part = T_(sums_of_channel)(dy + c * inner, x + c * inner, l, inner);
        if (dw) dw[c] += (T)part.g_xhat;
        if (db) db[c] += (T)part.g;
        g += w ? (double)w[c] * part.g : part.g;
        g_xhat += w ? (double)w[c] * part.g_xhat : part.g_xhat;
    }
    const double n = (double)(channels * inner);
    const V a = V_(set1)(norm->center ? (T)(g / n) : 0), b = V_(set1)((T)(g_xhat / n));
    for (int64_t c = 0; c < channels; c++) {
        const V scale = V_(set1)(w ? w[c] : 1);
        for (int64_t i = 0; i < inner; i += LANES)
            T_(write_grad)(dx, l, dy, x, residual, c * inner + i, inner - i, scale, a, b);
    }
}

/* A vector of each of ROWS rows: adds to the rows' sums of g and of g xhat and, SCALED, to dw and db, which are read
 * and written once for all. */
VEC_INLINE void T_(add_column)(const int ROWS, const bool SCALED, V *g, V *g_xhat, T *dw, T *db, const T *dy, const T *x,
                               const T *w, const T_(line) *l, int64_t n, int64_t count)
{
    const V scale = w ? T_(read)(w, count) : V_(set1)(1);
    V sum_dw = SCALED ? T_(read)(dw, count) : V_(zero)(), sum_db = SCALED ? T_(read)(db, count) : V_(zero)();
    for (int r = 0; r < ROWS; r++) {
        const V d = T_(read)(dy + r * n, count), xhat = T_(xhat)(l[r], T_(read)(x + r * n, count));
        g[r] = V_(fma)(d, scale, g[r]);
        g_xhat[r] = V_(fma)(d * scale, xhat, g_xhat[r]);
        sum_dw = V_(fma)(d, xhat, sum_dw);
        sum_db = sum_db + d;
    }
    if (!SCALED) return;
    T_(write)(dw, sum_dw, count);
    T_(write)(db, sum_db, count);
}

/* ROWS rows of n elements, each a channel. */
VEC_INLINE void T_(back_few)(const int ROWS, const bool SCALED, const nnl_norm *norm, T *dx, T *dw, T *db, const T *dy,
                             const T *x, const T *residual, const T *w, const T_(line) *l)
{
    const int64_t n = norm->channels;
    double g_total[FEW] = {0}, g_xhat_total[FEW] = {0};
    for (int64_t i = 0; i < n;) {
        const int64_t end = n - i < BLOCK ? n : i + BLOCK;
        V g[FEW], g_xhat[FEW];
        for (int r = 0; r < ROWS; r++) g[r] = g_xhat[r] = V_(zero)();
        for (; i < end; i += LANES)
            T_(add_column)(ROWS, SCALED, g, g_xhat, SCALED ? dw + i : NULL, SCALED ? db + i : NULL, dy + i, x + i,
                           w ? w + i : NULL, l, n, end - i);
        i = end;
        for (int r = 0; r < ROWS; r++) {
            g_total[r] += (double)V_(sum)(g[r]);
            g_xhat_total[r] += (double)V_(sum)(g_xhat[r]);
        }
    }
    V a[FEW], b[FEW];
    const double part = 1 / (double)n;
    for (int r = 0; r < ROWS; r++) {
        a[r] = V_(set1)(norm->center ? (T)(g_total[r] * part) : 0);
        b[r] = V_(set1)((T)(g_xhat_total[r] * part));
    }
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t count = n - i;
        const V scale = w ? T_(read)(w + i, count) : V_(set1)(1);
        for (int r = 0; r < ROWS; r++) T_(write_grad)(dx, l[r], dy, x, residual, r * n + i, count, scale, a[r], b[r]);
    }
}

VEC_INLINE void T_(backward)(const nnl_norm *norm, T *dx, T *dweight, T *dbias, const T *dy, const T *x,
                             const T *residual, const double *mean, const double *rstd, int64_t first, int64_t rows)
{
    const int64_t channels = norm->channels, n = channels * norm->inner;
    const bool together = norm->inner == 1 && norm->groups == 1;
    for (int64_t r = 0, few; r < rows; r += few, dx += few * n, dy += few * n, x += few * n) {
        const int64_t channel = (first + r) % norm->groups * channels;
        const T *w = norm->weight ? (const T *)norm->weight + channel : NULL;
        T *dw = dweight ? dweight + channel : NULL, *db = dbias ? dbias + channel : NULL;
        T_(line) l[FEW];
        few = together && rows - r >= FEW ? FEW : 1;
        for (int64_t k = 0; k < few; k++) l[k] = T_(line_of)(mean ? mean[r + k] : 0, rstd[r + k]);
        const T *beside = residual ? residual + r * n : NULL;
        if (norm->inner > 1) T_(back_channels)(norm, dx, dw, db, dy, x, beside, w, l[0]);
        else if (few == FEW && dw) T_(back_few)(FEW, true, norm, dx, dw, db, dy, x, beside, w, l);
        else if (few == FEW) T_(back_few)(FEW, false, norm, dx, NULL, NULL, dy, x, beside, w, l);
        else if (dw) T_(back_few)(1, true, norm, dx, dw, db, dy, x, beside, w, l);
        else T_(back_few)(1, false, norm, dx, NULL, NULL, dy, x, beside, w, l);
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
