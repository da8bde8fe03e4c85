/* The kernels of gemm.c for one type: T the element, V its vector, T_() and V_() names for them.
 * Included twice, hence without a guard. */

#define WIDTH (TILE_VECTORS * LANES)

/* second: elements from the first vector of b to the second where there are two, which may belong to two panels. */
typedef void T_(tile)(const nnl_gemm_block *g, const T *a, const T *b, int64_t second, T *c, const T *bias,
                      int64_t columns);

/* The first n lanes, n < LANES.  A masked store costs many cycles where it is not a native one. */
VEC_INLINE void T_(store_part)(T *to, V x, int64_t n)
{
#ifdef VEC_AVX512
    V_(store_n)(to, x, n);
#else
    T lane[LANES], *from = lane;
    V_(store)(lane, x);
    if (LANES > 4 && n & 4) {
        memcpy(to, from, 4 * sizeof(T));
        to += 4;
        from += 4;
    }
    if (LANES > 2 && n & 2) {
        memcpy(to, from, 2 * sizeof(T));
        to += 2;
        from += 2;
    }
    if (n & 1) *to = *from;
#endif
}

VEC_INLINE V T_(load_part)(const T *x, int64_t n)
{
    return n == LANES ? V_(load)(x) : V_(load_n)(x, n);
}

/* What lies beside a place of c, or NULL. */
VEC_INLINE const T *T_(beside_at)(const nnl_gemm_block *g, const T *c)
{
    return g->beside ? (const T *)g->beside + (c - (const T *)g->c) : NULL;
}
VEC_INLINE V T_(with_beside)(nnl_beside how, V value, V beside)
{
    if (how == NNL_BESIDE_PLUS) return value + beside;
    if (how == NNL_BESIDE_TIMES) return value * beside;
    return V_(select)(V_(gt)(beside, V_(zero)()), value, V_(zero)());
}
VEC_INLINE T T_(with_one_beside)(nnl_beside how, T value, T beside)
{
    if (how == NNL_BESIDE_PLUS) return value + beside;
    if (how == NNL_BESIDE_TIMES) return value * beside;
    return beside > 0 ? value : 0;
}

ONE_COPY static void T_(fetch_beside)(const nnl_gemm_block *g, const T *c, int rows, int vectors)
{
    const T *beside = T_(beside_at)(g, c);
    for (int i = 0; i < rows; i++, beside += g->c_row) {
        for (int v = 0; v < vectors; v++) __builtin_prefetch(beside + v * LANES);
    }
}

ONE_COPY static void T_(join_beside)(nnl_beside how, T *value, const T *beside, int n)
{
    for (int i = 0; i < n; i++) value[i] = T_(with_one_beside)(how, value[i], beside[i]);
}

/* What store_tile() does with what lies beside, or of a transposed A with more than sums: one
 * function for all sizes, which keeps the library small.  All is read before C is written: a load
 * waits for a store to the same place of another page. */
ONE_COPY static void T_(store_beside)(const nnl_gemm_block *g, V *sums, int rows, int vectors, T *c,
                                      const T *bias, int64_t rest)
{
    const V alpha = V_(set1)((T)g->alpha);
    const T *beside = T_(beside_at)(g, c);
    const int64_t c_row = g->c_row;
    for (int v = 0; v < vectors; v++) {
        const int64_t n = v < vectors - 1 ? LANES : rest, at = v * LANES;
        V shift = V_(zero)();
        if (bias && g->bias_step == 0)
            shift = V_(set1)(*bias);
        else if (bias)
            shift = T_(load_part)(bias + at, n);
        for (int i = 0; i < rows; i++) {
            V value = sums[i * vectors + v] * alpha;
            if (g->add) value = T_(load_part)(c + i * c_row + at, n) + value;
            if (bias) value = value + shift;
            if (beside)
                value = T_(with_beside)(g->how, value, T_(load_part)(beside + i * c_row + at, n));
            if (g->relu) value = V_(max)(V_(zero)(), value);
            sums[i * vectors + v] = value;
        }
    }
    for (int i = 0; i < rows; i++) {
        for (int v = 0; v < vectors; v++) {
            T *to = c + i * c_row + v * LANES;
            if (v < vectors - 1 || rest == LANES)
                V_(store)(to, sums[i * vectors + v]);
            else
                T_(store_part)(to, sums[i * vectors + v], rest);
        }
    }
}

/* Stores ROWS x VECTORS sums, of which the last vector has `rest` columns. */
VEC_INLINE void T_(store_tile)(const int ROWS, const int VECTORS, const bool BY_ROW,
                               const nnl_gemm_block *g, V (*sum)[TILE_VECTORS], T *c, const T *bias,
                               int64_t rest)
{
    const int64_t c_row = g->c_row;
    const bool add = g->add, relu = g->relu, whole = rest == LANES;
    const V alpha = V_(set1)((T)g->alpha);
    if (g->beside || (!BY_ROW && (relu || bias))) {
        V sums[TILE_ROWS * TILE_VECTORS];
        UNROLL_FOR (i, ROWS) {
            UNROLL_FOR (v, VECTORS) sums[i * VECTORS + v] = sum[i][v];
        }
        T_(store_beside)(g, sums, ROWS, VECTORS, c, bias, rest);
        return;
    }
    if (!add && !relu && !bias) {
        UNROLL_FOR (i, ROWS) {
            UNROLL_FOR (v, VECTORS) {
                T *to = c + i * c_row + v * LANES;
                if (v < VECTORS - 1 || whole)
                    V_(store)(to, sum[i][v] * alpha);
                else
                    T_(store_part)(to, sum[i][v] * alpha, rest);
            }
        }
        return;
    }
    UNROLL_FOR (v, VECTORS) {
        bool all = v < VECTORS - 1 || whole;
        V shift = V_(zero)();
        if (bias && g->bias_step == 0)
            shift = V_(set1)(*bias);
        else if (bias)
            shift = all ? V_(load)(bias + v * LANES) : V_(load_n)(bias + v * LANES, rest);
        UNROLL_FOR (i, ROWS) {
            T *to = c + i * c_row + v * LANES;
            V value = sum[i][v] * alpha;
            if (add) value = (all ? V_(load)(to) : V_(load_n)(to, rest)) + value;
            if (bias) value = value + shift;
            if (relu) value = V_(max)(V_(zero)(), value);
            if (all)
                V_(store)(to, value);
            else
                T_(store_part)(to, value, rest);
        }
    }
}

/* a: ROWS x depth, b: depth x columns in (VECTORS - 1, VECTORS] vectors, c: ROWS x columns. */
VEC_INLINE void T_(tile_body)(const int ROWS, const int VECTORS, const bool BY_ROW,
                              const nnl_gemm_block *g, const T *a, const T *b, int64_t second, T *c,
                              const T *bias, int64_t columns)
{
    V sum[TILE_ROWS][TILE_VECTORS];
    if (VECTORS != 2) second = LANES;
    UNROLL_FOR (i, ROWS) {
        UNROLL_FOR (v, VECTORS) sum[i][v] = V_(zero)();
    }
    const int64_t a_row = BY_ROW ? g->a_row : 1, a_depth = g->a_depth, b_step = g->b_step;
    /* C and what lies beside are on their way while the sums are made: stores would wait for lines that are far away. */
    UNROLL_FOR (i, ROWS) {
        UNROLL_FOR (v, VECTORS) __builtin_prefetch(c + i * g->c_row + v * LANES, 1);
    }
    if (g->beside) T_(fetch_beside)(g, c, ROWS, VECTORS);
    const T *x[ROW_GROUPS];
    UNROLL_FOR (q, ROW_GROUPS) {
        x[q] = a + 4 * q * (4 * q < ROWS ? a_row : 0);
        KEEP_POINTER(x[q]);
    }
    UNROLL_TWICE for (int64_t p = g->depth; p > 0; p--)
    {
        V row[TILE_VECTORS];
        UNROLL_FOR (v, VECTORS) row[v] = V_(load)(b + v * second);
        UNROLL_FOR (v, VECTORS) __builtin_prefetch(b + B_AHEAD * b_step + v * second);
        if (!BY_ROW) {
            __builtin_prefetch(x[0] + A_AHEAD * a_depth);
            __builtin_prefetch(x[0] + A_AHEAD * a_depth + ROWS - 1);
        }
        UNROLL_FOR (i, ROWS) {
            V one = V_(set1)(BY_ROW ? x[i / 4][i % 4 * a_row] : x[0][i]);
            UNROLL_FOR (v, VECTORS) sum[i][v] = V_(fma)(one, row[v], sum[i][v]);
        }
        UNROLL_FOR (q, ROW_GROUPS) x[q] += a_depth;
        b += b_step;
    }
    T_(store_tile)(ROWS, VECTORS, BY_ROW, g, sum, c, bias, columns - (VECTORS - 1) * LANES);
}

#define TILE(rows, vectors)                                                                      \
    static void T_(by_row_##rows##_##vectors)(const nnl_gemm_block *g, const T *a, const T *b,   \
                                              int64_t second, T *c, const T *bias, int64_t columns) \
    {                                                                                            \
        T_(tile_body)(rows, vectors, true, g, a, b, second, c, bias, columns);                   \
    }                                                                                            \
    static void T_(by_depth_##rows##_##vectors)(const nnl_gemm_block *g, const T *a, const T *b, \
                                                int64_t second, T *c, const T *bias, int64_t columns) \
    {                                                                                            \
        T_(tile_body)(rows, vectors, false, g, a, b, second, c, bias, columns);                  \
    }
/* clang-format off */
#if TILE_VECTORS > 2
#define TILES(rows) TILE(rows, 1) TILE(rows, 2) TILE(rows, 3)
#define ENTRY(rows)                                                              \
    {{T_(by_depth_##rows##_1), T_(by_depth_##rows##_2), T_(by_depth_##rows##_3)}, \
     {T_(by_row_##rows##_1), T_(by_row_##rows##_2), T_(by_row_##rows##_3)}}
#else
#define TILES(rows) TILE(rows, 1) TILE(rows, 2)
#define ENTRY(rows)                                      \
    {{T_(by_depth_##rows##_1), T_(by_depth_##rows##_2)}, \
     {T_(by_row_##rows##_1), T_(by_row_##rows##_2)}}
#endif
TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6)
#if TILE_ROWS > 6
TILES(7) TILES(8)
#endif
#if TILE_ROWS > 8
TILES(9) TILES(10) TILES(11) TILES(12)
#endif

static T_(tile) *const T_(tiles)[TILE_ROWS][2][TILE_VECTORS] = {
    ENTRY(1), ENTRY(2), ENTRY(3), ENTRY(4), ENTRY(5), ENTRY(6),
#if TILE_ROWS > 6
    ENTRY(7), ENTRY(8),
#endif
#if TILE_ROWS > 8
    ENTRY(9), ENTRY(10), ENTRY(11), ENTRY(12),
#endif
};
/* clang-format on */
#undef TILE
#undef TILES
#undef ENTRY

/* A panel of rows against columns [j, j + columns): one tile. */
VEC_INLINE void T_(one_tile)(const nnl_gemm_block *g, const T *a, int64_t i, int64_t rows, const T *b, int64_t second,
                             int64_t j, int64_t columns)
{
    const T *bias = g->bias;
    T_(tile) *tile = T_(tiles)[rows - 1][g->a_depth == 1][(columns - 1) / LANES];
    tile(g, a, b, second, (T *)g->c + i * g->c_row + j, bias ? bias + j * g->bias_step : NULL, columns);
}

/* A panel of rows against all columns.  The last four vectors are taken in twos: three and one would keep the processor
 * waiting for the loads of one. */
VEC_INLINE void T_(row_panel)(const nnl_gemm_block *g, const T *a, int64_t i, int64_t rows)
{
    const T *b = g->b;
    int64_t j = 0;
    for (; j < g->columns; j += WIDTH, b += g->b_panel) {
        const int64_t left = g->columns - j;
        if (TILE_VECTORS == 3 && left > WIDTH && left <= WIDTH + LANES) {
            T_(one_tile)(g, a, i, rows, b, LANES, j, 2 * LANES);
            T_(one_tile)(g, a, i, rows, b + 2 * LANES, g->b_panel - 2 * LANES, j + 2 * LANES, left - 2 * LANES);
            return;
        }
        T_(one_tile)(g, a, i, rows, b, LANES, j, left < WIDTH ? left : WIDTH);
    }
}

void K(T_(gemm_block))(const nnl_gemm_block *g)
{
    int64_t row_panels = (g->rows + TILE_ROWS - 1) / TILE_ROWS; /* of nearly equal height */
    nnl_gemm_block panel = *g;
    for (int64_t s = 0; s < row_panels; s++) {
        int64_t i = g->rows * s / row_panels, rows = g->rows * (s + 1) / row_panels - i;
        if (g->a_packed) panel.a_depth = rows;
        T_(row_panel)(&panel, (const T *)g->a + i * (g->a_packed ? g->depth : g->a_row), i, rows);
    }
}

/* ---------------------------------------------------------------- packing */

/* Columns of a panel that lie along the depth: LANES rows of `in` become depth vectors, WIDTH
 * apart.  A row beyond the last is the last again: those sums are never stored. */
VEC_INLINE void T_(pack_across)(T *restrict out, const T *restrict in, int64_t in_step,
                                int64_t depth, int64_t rows)
{
    const T *from[LANES];
    for (int i = 0; i < LANES; i++) from[i] = in + (i < rows ? i : rows - 1) * in_step;
    int64_t p = 0;
#if VEC_BYTES == 64
    /* A whole cache line of each row at once: with rows 4 kB apart not all of them stay in L1. */
    for (; p + 4 * IN_16_BYTES <= depth; p += 4 * IN_16_BYTES) {
        V across[4][IN_16_BYTES];
        UNROLL_FOR (r, IN_16_BYTES) {
            UNROLL_FOR (q, 4) across[q][r] = T_(gather)(from + r, p + q * IN_16_BYTES);
        }
        UNROLL_FOR (q, 4) {
            T_(transpose)(across[q]);
            UNROLL_FOR (r, IN_16_BYTES) {
                V_(store)(out + (p + q * IN_16_BYTES + r) * WIDTH, across[q][r]);
            }
        }
    }
#endif
    for (; p + IN_16_BYTES <= depth; p += IN_16_BYTES) {
        V across[IN_16_BYTES];
        UNROLL_FOR (r, IN_16_BYTES) across[r] = T_(gather)(from + r, p);
        T_(transpose)(across);
        UNROLL_FOR (r, IN_16_BYTES) V_(store)(out + (p + r) * WIDTH, across[r]);
    }
    for (; p < depth; p++) {
        for (int i = 0; i < LANES; i++) out[p * WIDTH + i] = from[i][p];
    }
}

/* Panels of WIDTH columns, depth x WIDTH each, the last one filled up to whole vectors.  in is
 * depth x columns, or columns x depth when transposed, its rows in_step apart. */
void K(T_(gemm_pack))(T *restrict out, const T *restrict in, int64_t in_step, bool transposed,
                      int64_t depth, int64_t columns)
{
    for (int64_t j = 0; j < columns; j += WIDTH, out += depth * WIDTH) {
        int64_t n = columns - j < WIDTH ? columns - j : WIDTH;
        if (transposed) {
            for (int64_t v = 0; v < n; v += LANES) {
                T_(pack_across)(out + v, in + (j + v) * in_step, in_step, depth, n - v);
            }
            continue;
        }
        for (int64_t p = 0; p < depth; p++) {
            const T *from = in + p * in_step + j;
            T *to = out + p * WIDTH;
            UNROLL_FOR (v, TILE_VECTORS)
                __builtin_prefetch(from + PACK_AHEAD * in_step + v * LANES);
            if (n == WIDTH) {
                UNROLL_FOR (v, TILE_VECTORS) {
                    V_(store)(to + v * LANES, V_(load)(from + v * LANES));
                }
            } else {
                for (int64_t v = 0; v < n; v += LANES) {
                    V x = n - v < LANES ? V_(load_n)(from + v, n - v) : V_(load)(from + v);
                    V_(store)(to + v, x);
                }
            }
        }
    }
}

/* Panels of TILE_ROWS rows as gemm_block cuts them, depth x rows each.  in is depth x rows.  Some steps of the depth at
 * once: what is read of their rows stays in L1, and lines of `out` are filled one after the other. */
#define PACK_STEPS 8
void K(T_(gemm_pack_rows))(T *restrict out, const T *restrict in, int64_t in_step, int64_t depth, int64_t rows)
{
    const int64_t row_panels = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t first = 0, end; first < depth; first = end) {
        end = first + PACK_STEPS < depth ? first + PACK_STEPS : depth;
        for (int64_t s = 0; s < row_panels; s++) {
            const int64_t i = rows * s / row_panels, n = rows * (s + 1) / row_panels - i;
            T *to = out + i * depth + first * n;
            for (int64_t p = first; p < end; p++, to += n) {
                const T *from = in + p * in_step + i;
                int64_t v = 0;
                __builtin_prefetch(from + PACK_STEPS * in_step);
                if (n == TILE_ROWS) {
                    memcpy(to, from, TILE_ROWS * sizeof(T));
                    continue;
                }
                for (; v + LANES <= n; v += LANES) V_(store)(to + v, V_(load)(from + v));
                if (v < n) T_(store_part)(to + v, V_(load_n)(from + v, n - v), n - v);
            }
        }
    }
}
#undef PACK_STEPS
