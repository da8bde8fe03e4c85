/* Keys of 4 bytes with their places: a radix sort, for short rows a merge sort, and a heap for the
 * first few. */
#include "sort_words.h"

#include <string.h>

#define RUN 12     /* words sorted by insertion */
#define SHORT 64   /* words for which merging is quicker than counting */
#define LOOK 65536 /* words between two looks at the cancel flag */
#define DIGITS 4   /* of a key */
#define BUCKETS 256

#define SIGN UINT32_C(0x80000000)

/* ---------------------------------------------------------------- keys */

/* The bits, with negative numbers turned round; both zeros are one, all NaN are one. */
static inline uint32_t float_key(float x)
{
    uint32_t bits;
    x += 0.0f;
    memcpy(&bits, &x, sizeof bits);
    return x != x ? NNL_WORDS_NAN : bits ^ (-(bits >> 31) | SIGN);
}

/* What a key and its place i are good for, once for each type. */
#define EACH_KEY(dtype, x, step, flip, use)                            \
    switch (dtype) {                                                   \
    case NNL_F32: EACH(float, float_key(e), x, step, flip, use) break; \
    case NNL_I32: EACH(uint32_t, e ^ SIGN, x, step, flip, use) break;  \
    default: EACH(uint8_t, (uint32_t)e, x, step, flip, use) break;     \
    }
#define EACH(type, of_e, x, step, flip, use)                        \
    for (; i < end; i++) {                                          \
        const type e = *(const type *)(const void *)(x + i * step); \
        const uint32_t key = (of_e) ^ flip;                         \
        use                                                         \
    }

static inline uint64_t word_of(uint32_t key, int64_t place)
{
    return (uint64_t)key << 32 | (uint32_t)place;
}

static void read_words(const nnl_runtime *rt, nnl_dtype dtype, const char *x, int64_t step,
                       int64_t n, uint32_t flip, uint64_t *out)
{
    for (int64_t i = 0; i < n && !nnl_is_cancelled(rt);) {
        int64_t end = NNL_MIN(i + LOOK, n);
        EACH_KEY(dtype, x, step, flip, out[i] = word_of(key, i);)
    }
}

/* ---------------------------------------------------------------- merging */

static void insertion(uint64_t *a, int64_t n)
{
    for (int64_t i = 1; i < n; i++) {
        uint64_t word = a[i];
        int64_t j = i;
        for (; j > 0 && a[j - 1] > word; j--) a[j] = a[j - 1];
        a[j] = word;
    }
}

static void merge(uint64_t *out, const uint64_t *a, int64_t n, const uint64_t *b, int64_t m)
{
    while (n > 0 && m > 0) {
        bool second = *b < *a;
        *out++ = second ? *b : *a;
        a += !second;
        n -= !second;
        b += second;
        m -= second;
    }
    memcpy(out, a, (size_t)n * sizeof *out);
    memcpy(out + n, b, (size_t)m * sizeof *out);
}

static void merge_sort(uint64_t *a, uint64_t *spare, int64_t n)
{
    for (int64_t i = 0; i < n; i += RUN) insertion(a + i, NNL_MIN(RUN, n - i));
    uint64_t *from = a, *to = spare;
    for (int64_t width = RUN; width < n; width *= 2) {
        for (int64_t i = 0; i < n; i += 2 * width) {
            int64_t first = NNL_MIN(width, n - i), second = NNL_MIN(width, n - i - first);
            merge(to + i, from + i, first, from + i + first, second);
        }
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != a) memcpy(a, from, (size_t)n * sizeof *a);
}

/* ---------------------------------------------------------------- counting */

static inline uint64_t digit_of(uint64_t word, int d)
{
    return word >> (32 + 8 * d) & (BUCKETS - 1);
}

static void count_digits(const nnl_runtime *rt, const uint64_t *a, int64_t n,
                         uint32_t count[DIGITS][BUCKETS])
{
    memset(count, 0, sizeof(uint32_t[DIGITS][BUCKETS]));
    for (int64_t i = 0; i < n && !nnl_is_cancelled(rt);) {
        for (int64_t end = NNL_MIN(i + LOOK, n); i < end; i++) {
            for (int d = 0; d < DIGITS; d++) count[d][digit_of(a[i], d)]++;
        }
    }
}

/* By the lowest digit first; what has the same digit keeps its order, so that places stay in
 * theirs. */
static void radix_sort(const nnl_runtime *rt, uint64_t *a, uint64_t *spare, int64_t n)
{
    uint32_t count[DIGITS][BUCKETS];
    uint64_t *from = a, *to = spare;
    count_digits(rt, a, n, count);
    for (int d = 0; d < DIGITS && !nnl_is_cancelled(rt); d++) {
        uint32_t *start = count[d], total = 0;
        if (start[digit_of(a[0], d)] == n) continue; /* all have this one */
        for (int b = 0; b < BUCKETS; b++) {
            uint32_t words = start[b];
            start[b] = total;
            total += words;
        }
        for (int64_t i = 0; i < n && !nnl_is_cancelled(rt);) {
            for (int64_t end = NNL_MIN(i + LOOK, n); i < end; i++)
                to[start[digit_of(from[i], d)]++] = from[i];
        }
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != a) memcpy(a, from, (size_t)n * sizeof *a);
}

static void sort_words(const nnl_runtime *rt, uint64_t *a, uint64_t *spare, int64_t n)
{
    if (n <= SHORT)
        merge_sort(a, spare, n);
    else
        radix_sort(rt, a, spare, n);
}

/* ---------------------------------------------------------------- the first few */

static void sift(uint64_t *heap, int64_t at, int64_t count)
{
    uint64_t word = heap[at];
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= count) break;
        if (child + 1 < count && heap[child + 1] > heap[child]) child++;
        if (heap[child] <= word) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = word;
}

/* By a heap of the best so far, the worst on top; of equal elements the first one is better. */
static void select_words(const nnl_runtime *rt, nnl_dtype dtype, const char *x, int64_t step,
                         int64_t n, uint32_t flip, uint64_t *heap, int64_t k)
{
    read_words(rt, dtype, x, step, k, flip, heap);
    for (int64_t i = k / 2 - 1; i >= 0; i--) sift(heap, i, k);
    uint32_t worst = nnl_words_key(heap[0]);
    for (int64_t i = k; i < n && !nnl_is_cancelled(rt);) {
        int64_t end = NNL_MIN(i + LOOK, n);
        EACH_KEY(dtype, x, step, flip, {
            if (key >= worst) continue;
            heap[0] = word_of(key, i);
            sift(heap, 0, k);
            worst = nnl_words_key(heap[0]);
        })
    }
    for (int64_t end = k - 1; end > 0; end--) {
        uint64_t top = heap[0];
        heap[0] = heap[end];
        heap[end] = top;
        sift(heap, 0, end);
    }
}

void nnl_words_order(const nnl_runtime *rt, nnl_dtype dtype, const char *x, int64_t step, int64_t n,
                     uint32_t flip, uint64_t *a, int64_t k)
{
    if (k == 0) return;
    if (k < n / 8) {
        select_words(rt, dtype, x, step, n, flip, a, k);
    } else {
        read_words(rt, dtype, x, step, n, flip, a);
        if (!nnl_is_cancelled(rt)) sort_words(rt, a, a + n, n);
    }
}
