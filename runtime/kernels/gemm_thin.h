/* The kernels of gemm.c for products that are no blocks of tiles: one row, few rows, little depth, few columns.  For T as
 * in gemm_tile.h, behind which it is included. */

/* ---------------------------------------------------------------- vectors along the depth */

/* The sums of the lanes of x[0 .. n) in the order of V_(sum), scaled, added and so on as in
 * store_tile(). */
VEC_INLINE void T_(store_dots)(const int COLUMNS, const nnl_gemm_block *g, const V *x, T *c,
                               const T *bias)
{
    T value[8];
    if (COLUMNS == 1) {
        value[0] = V_(sum)(x[0]);
    } else {
        UNROLL_FOR (q, COLUMNS / 4) T_(four_sums)(value + 4 * q, x + 4 * q);
    }
    const T alpha = (T)g->alpha;
    const bool add = g->add, relu = g->relu;
    const int64_t bias_step = g->bias_step;
    const T *beside = T_(beside_at)(g, c);
    UNROLL_FOR (j, COLUMNS) {
        value[j] *= alpha;
        if (add) value[j] = c[j] + value[j];
        if (bias) value[j] = value[j] + bias[j * bias_step];
    }
    if (beside) { /* a copy, so that the others may stay in registers */
        T joined[8];
        UNROLL_FOR (j, COLUMNS) joined[j] = value[j];
        T_(join_beside)(g->how, joined, beside, COLUMNS);
        UNROLL_FOR (j, COLUMNS) value[j] = joined[j];
    }
    UNROLL_FOR (j, COLUMNS) {
        if (relu) value[j] = value[j] < 0 ? 0 : value[j];
    }
    UNROLL_FOR (j, COLUMNS) c[j] = value[j];
}

VEC_INLINE void T_(dot_body)(const int ROWS, const int COLUMNS, const nnl_gemm_block *g, const T *a,
                             const T *b, T *c, const T *bias)
{
    V sum[4][8];
    const int64_t a_row = g->a_row, b_row = g->b_step, c_row = g->c_row, depth = g->depth;
    UNROLL_FOR (i, ROWS) {
        UNROLL_FOR (j, COLUMNS) sum[i][j] = V_(zero)();
    }
    int64_t p = 0;
    for (; p + LANES <= depth; p += LANES) {
        V x[4];
        UNROLL_FOR (i, ROWS) x[i] = V_(load)(a + i * a_row + p);
        UNROLL_FOR (j, COLUMNS) {
            V y = V_(load)(b + j * b_row + p);
            UNROLL_FOR (i, ROWS) sum[i][j] = V_(fma)(x[i], y, sum[i][j]);
        }
    }
    if (p < depth) {
        V x[4];
        UNROLL_FOR (i, ROWS) x[i] = V_(load_n)(a + i * a_row + p, depth - p);
        UNROLL_FOR (j, COLUMNS) {
            V y = V_(load_n)(b + j * b_row + p, depth - p);
            UNROLL_FOR (i, ROWS) sum[i][j] = V_(fma)(x[i], y, sum[i][j]);
        }
    }
    UNROLL_FOR (i, ROWS) {
        T_(store_dots)(COLUMNS, g, sum[i], c + i * c_row, bias);
    }
}

typedef void T_(dot)(const nnl_gemm_block *g, const T *a, const T *b, T *c, const T *bias);
#define DOT(rows, columns)                                                                        \
    static void T_(dot_##rows##_##columns)(const nnl_gemm_block *g, const T *a, const T *b, T *c, \
                                           const T *bias)                                         \
    {                                                                                             \
        T_(dot_body)(rows, columns, g, a, b, c, bias);                                            \
    }
/* clang-format off */
DOT(1, 1) DOT(2, 1) DOT(3, 1) DOT(1, 8) DOT(2, 4) DOT(3, 4)
#if DOT_ROWS > 3
DOT(4, 1) DOT(4, 4)
#endif

static T_(dot) *const T_(dots)[DOT_ROWS][2] = {
    {T_(dot_1_1), T_(dot_1_8)}, {T_(dot_2_1), T_(dot_2_4)}, {T_(dot_3_1), T_(dot_3_4)},
#if DOT_ROWS > 3
    {T_(dot_4_1), T_(dot_4_4)},
#endif
};
/* clang-format on */
#undef DOT

/* a, b: rows and columns of `depth` adjacent elements.  Columns outside, rows inside: b is read
 * once. */
void K(T_(gemm_dot))(const nnl_gemm_block *g)
{
    const T *a = g->a, *b = g->b, *bias = g->bias;
    T *c = g->c;
    int64_t panels = (g->rows + DOT_ROWS - 1) / DOT_ROWS; /* of 1 row only if there is but one */
    int64_t width = g->rows == 1 ? 8 : 4;
    for (int64_t j = 0, columns; j < g->columns; j += columns) {
        bool whole = g->columns - j >= width;
        columns = whole ? width : 1;
        for (int64_t s = 0; s < panels; s++) {
            int64_t i = g->rows * s / panels, rows = g->rows * (s + 1) / panels - i;
            T_(dot) *dot = T_(dots)[rows - 1][whole];
            dot(g, a + i * g->a_row, b + j * g->b_step, c + i * g->c_row + j,
                bias ? bias + j * g->bias_step : NULL);
        }
    }
}

/* ---------------------------------------------------------------- one row */

/* sums[j] += a[p] b[p][j] for ROWS rows p, one after the other. */
VEC_INLINE void T_(add_rows)(const int ROWS, T *sums, const nnl_gemm_block *g, int64_t p,
                             const T *b, int64_t columns)
{
    const int64_t b_step = g->b_step;
    const T *a = (const T *)g->a + p * g->a_depth;
    V x[8];
    UNROLL_FOR (r, ROWS) x[r] = V_(set1)(a[r * g->a_depth]);
    b += p * b_step;
    int64_t j = 0;
    for (; j + LANES <= columns; j += LANES) {
        V sum = V_(load)(sums + j);
        UNROLL_FOR (r, ROWS) sum = V_(fma)(x[r], V_(load)(b + r * b_step + j), sum);
        V_(store)(sums + j, sum);
    }
    if (j < columns) {
        V sum = V_(load_n)(sums + j, columns - j);
        for (int r = 0; r < ROWS; r++) {
            sum = V_(fma)(x[r], V_(load_n)(b + r * b_step + j, columns - j), sum);
        }
        V_(store_n)(sums + j, sum, columns - j);
    }
}

/* The sums of one row for some columns of b, each one chain of fma. */
static void T_(sum_row)(T *sums, const nnl_gemm_block *g, const T *b, int64_t columns)
{
    int64_t p = 0;
    for (int64_t i = 0; i < columns; i++) sums[i] = 0;
    for (; p + 8 <= g->depth; p += 8) T_(add_rows)(8, sums, g, p, b, columns);
    for (; p < g->depth; p++) T_(add_rows)(1, sums, g, p, b, columns);
}

/* Sums of one row into columns [j, j + columns) of c, finished as in store_tile(). */
static void T_(store_row)(const nnl_gemm_block *g, T *c, int64_t j, int64_t columns, const T *sums)
{
    const T *bias = g->bias, *beside = T_(beside_at)(g, c + j);
    const T alpha = (T)g->alpha;
    for (int64_t i = 0; i < columns; i++) {
        T value = sums[i] * alpha;
        if (g->add) value = c[j + i] + value;
        if (bias) value = value + bias[(j + i) * g->bias_step];
        if (beside) value = T_(with_one_beside)(g->how, value, beside[i]);
        c[j + i] = g->relu && value < 0 ? 0 : value;
    }
}

#define ROW_COLUMNS (8192 / (int64_t)sizeof(T)) /* sums that stay in L1 */

void K(T_(gemm_row))(const nnl_gemm_block *g)
{
    T sums[ROW_COLUMNS];
    for (int64_t j = 0; j < g->columns; j += ROW_COLUMNS) {
        int64_t columns = g->columns - j < ROW_COLUMNS ? g->columns - j : ROW_COLUMNS;
        T_(sum_row)(sums, g, (const T *)g->b + j, columns);
        T_(store_row)(g, g->c, j, columns, sums);
    }
}
#undef ROW_COLUMNS

/* ---------------------------------------------------------------- gemm_dot's sums by columns */

/* A lane of gemm_dot is the sum over every LANES-th place.  Here the lanes come one after the
 * other, in an order that lets few of them wait until V_(sum) would add them: 0, 8, 4, 12, 2 ...
 * of 16. */
#define APART_SUMS (4096 / (int64_t)sizeof(T)) /* of each; LEVELS of them stay in L1 */
#define LEVELS (LANES >= 16 ? 5 : LANES >= 8 ? 4 : LANES >= 4 ? 3 : 2)

static int T_(apart_lane)(int turn)
{
    int lane = 0;
    for (int bit = 1, mirrored = LANES / 2; mirrored > 0; bit *= 2, mirrored /= 2)
        lane += turn & bit ? mirrored : 0;
    return lane;
}

/* sums = (g->add: +=) the rows x columns sums of one lane's places; columns are whole vectors. */
static void T_(apart_part)(T *sums, nnl_gemm_block *g, const T *b, int64_t columns)
{
    int64_t panels = (g->rows + TILE_ROWS - 1) / TILE_ROWS;
    g->c_row = columns;
    for (int64_t j = 0; j < columns; j += WIDTH) {
        int64_t n = columns - j < WIDTH ? columns - j : WIDTH;
        for (int64_t s = 0; s < panels; s++) {
            int64_t i = g->rows * s / panels, rows = g->rows * (s + 1) / panels - i;
            T_(tile) *tile = T_(tiles)[rows - 1][1][(n - 1) / LANES];
            tile(g, (const T *)g->a + i * g->a_row, b + j, LANES, sums + i * columns + j, NULL, n);
        }
    }
}

/* Where lanes end at different places, gemm_dot adds products of zeros: no sum of it is -0. */
static void T_(store_apart)(const nnl_gemm_block *g, int64_t row, int64_t j, int64_t columns,
                            T *sums)
{
    for (int64_t i = 0; i < columns && g->depth % LANES > 0; i++) sums[i] += 0;
    T_(store_row)(g, (T *)g->c + row * g->c_row, j, columns, sums);
}

static void T_(apart_strip)(const nnl_gemm_block *g, int64_t j, int64_t columns)
{
    T sums[LEVELS][APART_SUMS];
    const int64_t count = g->rows * columns;
    int level = 0;
    for (int turn = 0; turn < LANES; turn++, level++) {
        const int64_t lane = T_(apart_lane)(turn);
        const T *b = (const T *)g->b + lane * g->b_step + j;
        nnl_gemm_block part = {.rows = g->rows,
                               .depth = (g->depth - lane + LANES - 1) / LANES,
                               .a = (const T *)g->a + lane * g->a_depth,
                               .a_row = g->a_row,
                               .a_depth = LANES * g->a_depth,
                               .b_step = LANES * g->b_step,
                               .alpha = 1};
        int joined = 0; /* levels */
        if (g->rows == 1) {
            T_(sum_row)(sums[level], &part, b, columns);
        } else {
            joined = turn & 1;
            part.add = joined == 1;
            T_(apart_part)(sums[level - joined], &part, b, columns);
        }
        for (int bit = 1 << joined; turn & bit; bit *= 2, joined++) {
            T *low = sums[level - joined - 1], *high = sums[level - joined];
            for (int64_t i = 0; i < count; i++) low[i] += high[i];
        }
        level -= joined;
    }
    for (int64_t i = 0; i < g->rows; i++) T_(store_apart)(g, i, j, columns, sums[0] + i * columns);
}

/* One row, less than a vector of columns: all lanes of gemm_dot side by side. */
static void T_(apart_narrow)(const nnl_gemm_block *g, int64_t row, int64_t j, int64_t columns)
{
    V sum[LANES];
    T sums[LANES];
    const T *a = (const T *)g->a + row * g->a_row, *b = (const T *)g->b + j;
    const int64_t a_depth = g->a_depth, b_step = g->b_step;
    int64_t left = g->depth;
    UNROLL_FOR (l, LANES) sum[l] = V_(zero)();
    for (; left >= LANES; left -= LANES) {
        UNROLL_FOR (l, LANES) {
            sum[l] = V_(fma)(V_(set1)(*a), V_(load_n)(b, columns), sum[l]);
            a += a_depth;
            b += b_step;
        }
    }
    UNROLL_FOR (l, LANES - 1) {
        if (l < left) {
            V y = V_(load_n)(b + l * b_step, columns);
            sum[l] = V_(fma)(V_(set1)(a[l * a_depth]), y, sum[l]);
        }
    }
    UNROLL_FOR (l, LANES / 2) sum[l] = sum[l] + sum[l + LANES / 2];
    UNROLL_FOR (l, LANES / 4) sum[l] = sum[l] + sum[l + LANES / 4];
    UNROLL_FOR (l, LANES / 8) sum[l] = sum[l] + sum[l + LANES / 8];
    UNROLL_FOR (l, LANES / 16) sum[l] = sum[l] + sum[l + LANES / 16];
    V_(store)(sums, sum[0]);
    T_(store_apart)(g, row, j, columns, sums);
}

void K(T_(gemm_apart))(const nnl_gemm_block *g)
{
    const int64_t whole = g->columns / LANES * LANES, strip = APART_SUMS / g->rows / WIDTH * WIDTH;
    for (int64_t j = 0; j < whole; j += strip)
        T_(apart_strip)(g, j, whole - j < strip ? whole - j : strip);
    for (int64_t i = 0; i < g->rows && whole < g->columns; i++)
        T_(apart_narrow)(g, i, whole, g->columns - whole);
}
#undef APART_SUMS
#undef LEVELS

/* ---------------------------------------------------------------- little depth, few columns */

#define ROWS_WIDTH (NNL_GEMM_ROWS_VECTORS * LANES)

/* What stays in registers while the rows of a and c pass. */
typedef struct T_(held) {
    V b[NNL_GEMM_ROWS_DEPTH][NNL_GEMM_ROWS_VECTORS], shift[NNL_GEMM_ROWS_VECTORS], alpha, low;
} T_(held);

VEC_INLINE void T_(one_row)(const int DEPTH, const int VECTORS, V *out, const T *a, int64_t a_depth,
                            const T_(held) * h)
{
    UNROLL_FOR (v, VECTORS) out[v] = V_(zero)();
    UNROLL_FOR (p, DEPTH) {
        V x = V_(set1)(a[p * a_depth]);
        UNROLL_FOR (v, VECTORS) out[v] = V_(fma)(x, h->b[p][v], out[v]);
    }
    UNROLL_FOR (v, VECTORS) out[v] = V_(max)(h->low, out[v] * h->alpha + h->shift[v]);
}

/* The sums are those of tile_body().  b: DEPTH rows of ROWS_WIDTH, and the bias as one more. */
VEC_INLINE void T_(rows_body)(const int DEPTH, const int VECTORS, const nnl_gemm_block *g,
                              const T (*b)[ROWS_WIDTH])
{
    const int64_t columns = g->columns, last = (VECTORS - 1) * LANES;
    const int64_t a_row = g->a_row, a_depth = g->a_depth, c_row = g->c_row;
    /* Without relu nothing is below -infinity. */
    T_(held) h;
    h.alpha = V_(set1)((T)g->alpha);
    h.low = g->relu ? V_(zero)() : V_(set1)((T)-__builtin_inf());
    UNROLL_FOR (v, VECTORS) {
        UNROLL_FOR (p, DEPTH) h.b[p][v] = V_(load)(b[p] + v * LANES);
        h.shift[v] = V_(load)(b[DEPTH] + v * LANES);
    }
    const T *a = g->a;
    T *c = g->c;
    int64_t left = g->rows;
    V out[NNL_GEMM_ROWS_VECTORS];
#ifndef VEC_AVX512
    /* Where rows follow each other, what is written too far belongs to the next ones. */
    bool adjoin = c_row == columns || columns == VECTORS * LANES;
    int64_t beyond = adjoin ? (VECTORS * LANES - 1) / columns : left;
    for (; left > beyond; left--, a += a_row, c += c_row) {
        T_(one_row)(DEPTH, VECTORS, out, a, a_depth, &h);
        UNROLL_FOR (v, VECTORS) V_(store)(c + v * LANES, out[v]);
    }
#endif
    for (; left > 0; left--, a += a_row, c += c_row) {
        T_(one_row)(DEPTH, VECTORS, out, a, a_depth, &h);
        UNROLL_FOR (v, VECTORS - 1) V_(store)(c + v * LANES, out[v]);
#ifdef VEC_AVX512
        T_(store_narrow)(c + last, out[VECTORS - 1], columns - last);
#else
        T_(store_part)(c + last, out[VECTORS - 1], columns - last);
#endif
    }
}

typedef void T_(rows)(const nnl_gemm_block *g, const T (*b)[ROWS_WIDTH]);
#define ROWS(depth)                                                                    \
    static void T_(rows_##depth##_1)(const nnl_gemm_block *g, const T(*b)[ROWS_WIDTH]) \
    {                                                                                  \
        T_(rows_body)(depth, 1, g, b);                                                 \
    }                                                                                  \
    static void T_(rows_##depth##_2)(const nnl_gemm_block *g, const T(*b)[ROWS_WIDTH]) \
    {                                                                                  \
        T_(rows_body)(depth, 2, g, b);                                                 \
    }
#define ENTRY(depth)                               \
    {                                              \
        T_(rows_##depth##_1), T_(rows_##depth##_2) \
    }
/* clang-format off */
ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8)
static T_(rows) *const T_(rows_of_depth)[NNL_GEMM_ROWS_DEPTH][NNL_GEMM_ROWS_VECTORS] = {
    ENTRY(1), ENTRY(2), ENTRY(3), ENTRY(4), ENTRY(5), ENTRY(6), ENTRY(7), ENTRY(8),
};
/* clang-format on */
#undef ROWS
#undef ENTRY

void K(T_(gemm_rows))(const nnl_gemm_block *g)
{
    T copy[NNL_GEMM_ROWS_DEPTH + 1][ROWS_WIDTH];
    const T *b = g->b, *bias = g->bias;
    const int64_t columns = g->columns, depth = g->depth;
    /* Without a bias -0 is added, which changes nothing. */
    UNROLL_FOR (v, NNL_GEMM_ROWS_VECTORS) V_(store)(copy[depth] + v * LANES, V_(set1)((T)-0.0));
    for (int64_t p = 0; p < depth; p++, b += g->b_step) {
        /* Chance values beyond the columns could be subnormal, which is slow on many processors. */
        UNROLL_FOR (v, NNL_GEMM_ROWS_VECTORS) V_(store)(copy[p] + v * LANES, V_(zero)());
        for (int64_t j = 0; j < columns; j++) copy[p][j] = b[j * g->b_panel];
    }
    for (int64_t j = 0; bias && j < columns; j++) copy[depth][j] = bias[j * g->bias_step];
    T_(rows_of_depth)[depth - 1][(columns - 1) / LANES](g, (const T(*)[ROWS_WIDTH])copy);
}
#undef ROWS_WIDTH

/* ---------------------------------------------------------------- great depth, few rows and
 * columns */

/* Chains of fma side by side, each taking every DEEP_CHAINS-th place; pieces keep them short. */
VEC_INLINE void T_(deep_body)(const int ROWS, const nnl_gemm_block *g)
{
    V total[NNL_GEMM_DEEP_ROWS][TILE_VECTORS];
    const T *a = g->a, *b = g->b;
    const int64_t a_row = g->a_row, a_depth = g->a_depth, b_step = g->b_step, columns = g->columns;
    UNROLL_FOR (i, ROWS) total[i][0] = V_(zero)();
    for (int64_t left = g->depth; left > 0; left -= DEEP_PIECE) {
        int64_t n = left < DEEP_PIECE ? left : DEEP_PIECE;
        V sum[NNL_GEMM_DEEP_ROWS][DEEP_CHAINS];
        UNROLL_FOR (i, ROWS) {
            UNROLL_FOR (q, DEEP_CHAINS) sum[i][q] = V_(zero)();
        }
        for (; n >= DEEP_CHAINS; n -= DEEP_CHAINS) {
            UNROLL_FOR (q, DEEP_CHAINS) {
                V y = V_(load_n)(b, columns);
                UNROLL_FOR (i, ROWS) {
                    sum[i][q] = V_(fma)(V_(set1)(a[i * a_row]), y, sum[i][q]);
                }
                a += a_depth;
                b += b_step;
            }
        }
        for (; n > 0; n--, a += a_depth, b += b_step) {
            V y = V_(load_n)(b, columns);
            UNROLL_FOR (i, ROWS) sum[i][0] = V_(fma)(V_(set1)(a[i * a_row]), y, sum[i][0]);
        }
        UNROLL_FOR (i, ROWS) {
            V piece = sum[i][0];
            UNROLL_FOR (q, DEEP_CHAINS - 1) piece = piece + sum[i][q + 1];
            total[i][0] = total[i][0] + piece;
        }
    }
    T_(store_tile)(ROWS, 1, true, g, total, g->c, g->bias, columns);
}

void K(T_(gemm_deep))(const nnl_gemm_block *g)
{
    switch (g->rows) {
    case 2: T_(deep_body)(2, g); break;
    case 3: T_(deep_body)(3, g); break;
    default: T_(deep_body)(4, g); break;
    }
}
