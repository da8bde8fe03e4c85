/* The kernels of attention.c for one type: T the element, V its vector.  Included twice, hence without a
 * guard. */

/* Where a mask holds 0 the score falls to -infinity. */
VEC_INLINE void T_(mask)(T *bias, const uint8_t *mask, int64_t n)
{
    for (int64_t i = 0; i < n; i++) bias[i] = mask[i] ? 0 : -(T)__builtin_inf();
}

VEC_INLINE V T_(read)(const T *x, int64_t count)
{
    return count >= LANES ? V_(load)(x) : V_(load_n)(x, count);
}

VEC_INLINE void T_(write)(T *to, V x, int64_t count)
{
    if (count >= LANES) V_(store)(to, x);
    else V_(store_n)(to, x, count);
}

VEC_INLINE int64_t T_(seen)(const nnl_scores *block, int64_t r)
{
    const int64_t seen = block->seen + r + 1;
    return seen < 0 ? 0 : seen < block->columns ? seen : block->columns;
}

/* x += bias where there is one; the largest. */
VEC_INLINE T T_(row_max)(T *x, const T *bias, int64_t n)
{
    V best = V_(set1)(-(T)__builtin_inf());
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        V a = V_(load)(x + i);
        if (bias) {
            a = a + V_(load)(bias + i);
            V_(store)(x + i, a);
        }
        best = V_(max)(best, a);
    }
    if (i < n) {
        V a = V_(load_n)(x + i, n - i);
        if (bias) {
            a = a + V_(load_n)(bias + i, n - i);
            V_(store_n)(x + i, a, n - i);
        }
        best = V_(max)(best, V_(select)(FIRST(n - i), a, best));
    }
    return LARGEST(best);
}

/* x = e^(x - top), 0 from place n to the end; the sum. */
VEC_INLINE T T_(row_exps)(T *x, T top, int64_t n, int64_t end)
{
    const V less = V_(set1)(top);
    V sum = V_(zero)();
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        V e = V_(exp)(V_(load)(x + i) - less);
        V_(store)(x + i, e);
        sum = sum + e;
    }
    if (i < n) {
        V e = V_(exp)(V_(load_n)(x + i, n - i) - less);
        e = V_(select)(FIRST(n - i), e, V_(zero)());
        T_(write)(x + i, e, end - i);
        sum = sum + e;
        i += LANES;
    }
    for (; i < end; i += LANES) T_(write)(x + i, V_(zero)(), end - i);
    return V_(sum)(sum);
}

/* s becomes e^(s - max), max the largest score of the row so far.  Where that has grown, the sum of the blocks
 * before and their part of out (rows x width) shrink accordingly. */
VEC_INLINE void T_(soften)(const nnl_scores *block, T *s, T *out, int64_t out_step, int64_t width, T *max, double *sum)
{
    const T *bias = block->bias;
    for (int64_t r = 0; r < block->rows; r++, s += block->step, out += out_step) {
        const int64_t n = T_(seen)(block, r);
        const T old = max[r], top = T_(row_max)(s, bias ? bias + r * block->bias_step : NULL, n);
        const T new = top > old ? top : old;
        /* as long as nothing counts, the largest is -infinity and every term 0 */
        const T part = T_(row_exps)(s, new == -(T)__builtin_inf() ? 0 : new, n, block->columns);
        if (top > old && sum[r] != 0) {
            const V shrink = V_(exp)(V_(set1)(old - new));
            sum[r] *= (double)shrink[0];
            for (int64_t i = 0; i < width; i += LANES) T_(write)(out + i, T_(read)(out + i, width - i) * shrink, width - i);
        }
        max[r] = new;
        sum[r] += (double)part;
    }
}

/* out / sum, and what makes the weights of scores again: their largest, and 1 / sum; of nothing: 0 and 0, 0. */
VEC_INLINE void T_(finish)(T *out, T *top, T *inverse, int64_t out_step, int64_t width, const T *max, const double *sum,
                           int64_t rows)
{
    for (int64_t r = 0; r < rows; r++, out += out_step) {
        const bool nothing = sum[r] == 0;
        top[r] = nothing ? 0 : max[r];
        inverse[r] = nothing ? 0 : (T)(1 / sum[r]);
        const V factor = V_(set1)(inverse[r]);
        for (int64_t i = 0; i < width; i += LANES)
            T_(write)(out + i, nothing ? V_(zero)() : T_(read)(out + i, width - i) * factor, width - i);
    }
}

/* s becomes the weights inverse e^(s + bias - top). */
VEC_INLINE void T_(weights)(const nnl_scores *block, T *s, const T *top, const T *inverse)
{
    for (int64_t r = 0; r < block->rows; r++, s += block->step) {
        const T *bias = block->bias ? (const T *)block->bias + r * block->bias_step : NULL;
        const int64_t n = T_(seen)(block, r);
        const V less = V_(set1)(top[r]), factor = V_(set1)(inverse[r]);
        int64_t i = 0;
        for (; i + LANES <= n; i += LANES) {
            V a = V_(load)(s + i);
            if (bias) a = a + V_(load)(bias + i);
            V_(store)(s + i, V_(exp)(a - less) * factor);
        }
        if (i < n) {
            V a = V_(load_n)(s + i, n - i);
            if (bias) a = a + V_(load_n)(bias + i, n - i);
            a = V_(select)(FIRST(n - i), V_(exp)(a - less) * factor, V_(zero)());
            T_(write)(s + i, a, block->columns - i);
            i += LANES;
        }
        for (; i < block->columns; i += LANES) T_(write)(s + i, V_(zero)(), block->columns - i);
    }
}

/* ds, the gradient of the weights, becomes that of the scores: p (ds - delta). */
VEC_INLINE void T_(back_scores)(const nnl_scores *block, T *ds, const T *p, const T *delta)
{
    for (int64_t r = 0; r < block->rows; r++, ds += block->step, p += block->step) {
        const V less = V_(set1)(delta[r]);
        for (int64_t i = 0; i < block->columns; i += LANES) {
            const int64_t count = block->columns - i;
            T_(write)(ds + i, T_(read)(p + i, count) * (T_(read)(ds + i, count) - less), count);
        }
    }
}

/* The products of the rows of a and b. */
VEC_INLINE void T_(dots)(T *dots, const T *a, int64_t a_step, const T *b, int64_t b_step, int64_t rows, int64_t n)
{
    for (int64_t r = 0; r < rows; r++, a += a_step, b += b_step) {
        V sum = V_(zero)();
        for (int64_t i = 0; i < n; i += LANES) sum = V_(fma)(T_(read)(a + i, n - i), T_(read)(b + i, n - i), sum);
        dots[r] = V_(sum)(sum);
    }
}
