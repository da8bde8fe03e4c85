/* Matrix products against a triple loop in f64, on every instruction set that this machine has:
 * shapes, layouts, batches, epilogues; and the promise that bits depend neither on threads nor on
 * how operands are stored or C is cut, nor on whether a product was made ready before. */
#include "../runtime/kernels/kernels.h"
#include "../runtime/ops/gemm.h"
#include "blas.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Sanitizers look at every access: fewer draws have them see every loop, and large products only
 * cost minutes. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DRAWS 60
#define LARGE 100
#define TRANS_STEP 3 /* both operands stored transposed, or none */
#else
#define DRAWS 600
#define LARGE 500
#define TRANS_STEP 1
#endif

static int passed, failed;
static uint64_t state = 88172645463325252u;

static uint64_t draw(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}
static int64_t draw_below(int64_t n) { return (int64_t)(draw() % (uint64_t)n); }
static double draw_value(void) { return (double)(int64_t)(draw() >> 32) / 2147483648.0 - 1.0; }

static void check(bool good, const char *isa, const char *what, const nnl_gemm_call *c)
{
    if (good) {
        passed++;
        return;
    }
    failed++;
    printf("%s: %s: %s m %d n %d k %d batch %d trans %d%d lda %d ldb %d ldc %d accumulate %d alpha "
           "%g bias %d\n",
           isa, what, c->dtype == NNL_F32 ? "f32" : "f64", (int)c->m, (int)c->n, (int)c->k,
           (int)c->batch, c->trans_a, c->trans_b, (int)c->lda, (int)c->ldb, (int)c->ldc,
           c->accumulate, c->alpha, c->bias != NULL);
}

static double get(nnl_dtype dtype, const void *p, int64_t i)
{
    return dtype == NNL_F32 ? (double)((const float *)p)[i] : ((const double *)p)[i];
}
static void set(nnl_dtype dtype, void *p, int64_t i, double v)
{
    if (dtype == NNL_F32)
        ((float *)p)[i] = (float)v;
    else
        ((double *)p)[i] = v;
}

static void *new_values(nnl_dtype dtype, int64_t n)
{
    void *p = malloc((size_t)(n > 0 ? n : 1) * nnl_dtype_size(dtype));
    if (!p) exit(2);
    for (int64_t i = 0; i < n; i++) set(dtype, p, i, draw_value());
    return p;
}

/* Operands of a call, with C as it is before. */
typedef struct problem {
    nnl_gemm_call call;
    void *a, *b, *c, *bias, *beside;
    int64_t c_size;
} problem;

static problem new_problem(nnl_dtype dtype, int64_t m, int64_t n, int64_t k, int64_t batch,
                           int flags, bool plain)
{
    problem p;
    nnl_gemm_call c = {.dtype = dtype,
                       .trans_a = flags & 1,
                       .trans_b = flags & 2,
                       .m = m,
                       .n = n,
                       .k = k,
                       .accumulate = flags & 4,
                       .alpha = flags & 8 ? 0.75 : 1.0,
                       .batch = batch,
                       .activation = flags & 32 ? NNL_ACT_RELU : NNL_ACT_NONE};
    int64_t spare = plain ? 0 : draw_below(5);
    c.lda = (c.trans_a ? m : k) + spare;
    c.ldb = (c.trans_b ? k : n) + (plain ? 0 : draw_below(5));
    c.ldc = n + (plain ? 0 : draw_below(5));
    c.stride_a = flags & 64 ? 0 : (c.trans_a ? k : m) * c.lda;
    c.stride_b = flags & 128 ? 0 : (c.trans_b ? n : k) * c.ldb;
    c.stride_c = m * c.ldc;
    p.c_size = batch * m * c.ldc;
    p.a = new_values(dtype, batch * (c.trans_a ? k : m) * c.lda);
    p.b = new_values(dtype, batch * (c.trans_b ? n : k) * c.ldb);
    p.c = new_values(dtype, p.c_size);
    p.bias = new_values(dtype, n);
    p.beside = new_values(dtype, p.c_size);
    c.a = p.a;
    c.b = p.b;
    c.bias = flags & 16 ? p.bias : NULL;
    c.beside = flags & 256 ? p.beside : NULL;
    c.how = (nnl_beside)(flags / 512 % 3);
    p.call = c;
    return p;
}

static void free_problem(problem *p)
{
    free(p->a);
    free(p->b);
    free(p->c);
    free(p->bias);
    free(p->beside);
}

/* A copy of C, in which what is not accumulated must not be read. */
static void *new_result(const problem *p)
{
    size_t bytes = (size_t)p->c_size * nnl_dtype_size(p->call.dtype);
    const nnl_gemm_call *c = &p->call;
    void *out = malloc(bytes + 1);
    if (!out) exit(2);
    memcpy(out, p->c, bytes);
    for (int64_t i = 0; !c->accumulate && i < c->batch * c->m; i++) {
        for (int64_t j = 0; j < c->n; j++)
            set(c->dtype, out, i / c->m * c->stride_c + i % c->m * c->ldc + j, NAN);
    }
    return out;
}

static void *compute(nnl_runtime *rt, const problem *p)
{
    nnl_gemm_call c = p->call;
    c.c = new_result(p);
    if (nnl_gemm(rt, &c) != NNL_OK) {
        printf("%s\n", nnl_error_message(rt));
        failed++;
    }
    return c.c;
}

/* The second run of a plan that was made without addresses, but for B where that is fixed. */
static void *compute_ready(nnl_runtime *rt, const problem *p, bool fixed_b)
{
    nnl_gemm_call c = p->call;
    nnl_gemm_plan *plan;
    size_t bytes;
    void *first = new_result(p), *second = new_result(p);
    if (c.m == 0 || c.n == 0) return free(first), second;
    c.a = c.c = NULL;
    c.bias = NULL;
    if (!fixed_b) c.b = NULL;
    if (nnl_gemm_ready(rt, &c, fixed_b, &plan, &bytes) != NNL_OK ||
        nnl_gemm_run(rt, plan, p->call.a, p->call.b, first, p->call.bias, p->call.beside) !=
            NNL_OK ||
        nnl_gemm_run(rt, plan, p->call.a, p->call.b, second, p->call.bias, p->call.beside) !=
            NNL_OK) {
        printf("%s\n", nnl_error_message(rt));
        failed++;
    } else {
        nnl_free(rt, plan, bytes);
    }
    free(first);
    return second;
}

/* What lies beside joins a sum and the size of its terms. */
static void join(nnl_beside how, double beside, double *sum, double *size)
{
    if (how == NNL_BESIDE_PLUS) {
        *sum += beside;
        *size += fabs(beside);
        return;
    }
    double factor = how == NNL_BESIDE_TIMES ? beside : beside > 0;
    *sum *= factor;
    *size *= fabs(factor);
}

/* |error| <= 8 eps sum |a| |b|, and what lies between C's rows untouched. */
static bool is_right(const problem *p, const void *result)
{
    const nnl_gemm_call *c = &p->call;
    double eps = c->dtype == NNL_F32 ? 0x1p-23 : 0x1p-52;
    for (int64_t x = 0; x < c->batch; x++) {
        for (int64_t i = 0; i < c->m; i++) {
            for (int64_t j = 0; j < c->ldc; j++) {
                int64_t place = x * c->stride_c + i * c->ldc + j;
                double before = get(c->dtype, p->c, place), got = get(c->dtype, result, place);
                if (j >= c->n) {
                    if (got != before) return false;
                    continue;
                }
                double sum = 0, size = 0;
                for (int64_t q = 0; q < c->k; q++) {
                    double product =
                        get(c->dtype, c->a,
                            x * c->stride_a + (c->trans_a ? q * c->lda + i : i * c->lda + q)) *
                        get(c->dtype, c->b,
                            x * c->stride_b + (c->trans_b ? j * c->ldb + q : q * c->ldb + j));
                    sum += product;
                    size += fabs(product);
                }
                sum *= c->alpha;
                if (c->accumulate) sum += before, size += fabs(before);
                if (c->bias)
                    sum += get(c->dtype, p->bias, j), size += fabs(get(c->dtype, p->bias, j));
                if (c->beside) join(c->how, get(c->dtype, p->beside, place), &sum, &size);
                if (c->activation == NNL_ACT_RELU && sum < 0) sum = 0;
                if (!(fabs(got - sum) <= 8 * eps * size)) return false;
            }
        }
    }
    return true;
}

static bool same_bits(const problem *p, const void *x, const void *y)
{
    return memcmp(x, y, (size_t)p->c_size * nnl_dtype_size(p->call.dtype)) == 0;
}

/* The matrices of an operand, stored the other way, with new steps. */
static void *turned(const nnl_gemm_call *c, const void *from, bool trans, int64_t rows,
                    int64_t columns, int64_t *ld, int64_t *stride)
{
    int64_t step = (trans ? columns : rows) + draw_below(3);
    int64_t new_stride = *stride ? (trans ? rows : columns) * step : 0;
    char *to = new_values(c->dtype, c->batch * rows * columns + c->batch * (rows + columns) * 3);
    for (int64_t x = 0; x < (*stride ? c->batch : 1); x++) {
        for (int64_t i = 0; i < rows; i++) {
            for (int64_t j = 0; j < columns; j++) {
                int64_t place = x * *stride + (trans ? j * *ld + i : i * *ld + j);
                set(c->dtype, to, x * new_stride + (trans ? i * step + j : j * step + i),
                    get(c->dtype, from, place));
            }
        }
    }
    *ld = step;
    *stride = new_stride;
    return to;
}

static void try_layouts(nnl_runtime *rt, const char *isa, const problem *p, const void *wanted)
{
    for (int which = 1; which < 4; which++) {
        problem q = *p;
        nnl_gemm_call *c = &q.call;
        if (which & 1) {
            c->a = q.a = turned(c, p->a, c->trans_a, c->m, c->k, &c->lda, &c->stride_a);
            c->trans_a = !c->trans_a;
        }
        if (which & 2) {
            c->b = q.b = turned(c, p->b, c->trans_b, c->k, c->n, &c->ldb, &c->stride_b);
            c->trans_b = !c->trans_b;
        }
        void *got = compute(rt, &q);
        check(same_bits(p, wanted, got), isa, "bits depend on how operands are stored", c);
        free(got);
        if (which & 1) free(q.a);
        if (which & 2) free(q.b);
    }
}

/* The oracle itself, where OpenBLAS has such a product. */
static void compare_with_blas(nnl_runtime *rt, const char *isa, const problem *p)
{
    nnl_gemm_call c = p->call;
    c.c = new_result(p);
    if (blas_gemm(rt, &c)) check(is_right(p, c.c), isa, "error too large with OpenBLAS", &p->call);
    free(c.c);
}

/* A problem with one thread and with more, and stored otherwise: right, and the same bits. */
static void try_problem(nnl_runtime *const rt[2], const char *isa, problem *p, bool oracle)
{
    void *one = compute(rt[0], p), *two = compute(rt[1], p);
    if (oracle) check(is_right(p, one), isa, "error too large", &p->call);
    check(same_bits(p, one, two), isa, "bits depend on threads", &p->call);
    try_layouts(rt[1], isa, p, one);
    if (oracle) compare_with_blas(rt[0], isa, p);
    for (int i = 0; i < 4; i++) {
        void *ready = compute_ready(rt[i / 2], p, i % 2);
        check(same_bits(p, one, ready), isa, "bits depend on being made ready", &p->call);
        free(ready);
    }
    free(one);
    free(two);
    free_problem(p);
}

/* The kernels themselves: C in one piece, and cut at random rows and columns. */
static void try_cuts(nnl_runtime *rt, const char *isa, nnl_dtype dtype, int64_t m, int64_t n,
                     int64_t k, int kind)
{
    const nnl_kernels *kernels = rt->kernels;
    bool f32 = dtype == NNL_F32;
    int64_t size = f32 ? 4 : 8, width = kernels->vector_bytes / size * kernels->gemm_tile_vectors();
    problem p = new_problem(dtype, m, n, k, 1, kind == 1 ? 2 : kind == 2 ? 1 : 0, true);
    int64_t padded = (n + width - 1) / width * width;
    char *packed = malloc((size_t)(padded * k * size)), *cut = malloc((size_t)(m * n * size));
    if (!packed || !cut) exit(2);
    if (f32)
        kernels->gemm_pack_f32((float *)(void *)packed, p.b, p.call.ldb, p.call.trans_b, k, n);
    else
        kernels->gemm_pack_f64((double *)(void *)packed, p.b, p.call.ldb, p.call.trans_b, k, n);
    nnl_gemm_block whole = {.rows = m,
                            .columns = n,
                            .depth = k,
                            .a = p.a,
                            .a_row = p.call.trans_a ? 1 : k,
                            .a_depth = p.call.trans_a ? m : 1,
                            .b = packed,
                            .b_step = width,
                            .b_panel = k * width,
                            .c = p.c,
                            .c_row = n,
                            .alpha = 1};
    void (*block)(const nnl_gemm_block *) = f32 ? kernels->gemm_block_f32 : kernels->gemm_block_f64;
    if (kind == 1) {
        block = f32 ? kernels->gemm_dot_f32 : kernels->gemm_dot_f64;
        whole.b = p.b;
        whole.b_step = k;
        width = 1;
    } else if (kind == 3) {
        block = f32 ? kernels->gemm_row_f32 : kernels->gemm_row_f64;
        whole.b = p.b;
        whole.b_step = n;
        width = 1;
    }
    block(&whole);
    for (int64_t i = 0, rows; i < m; i += rows) {
        rows = 1 + draw_below(m - i);
        for (int64_t j = 0, columns; j < n; j += columns) {
            columns = (1 + draw_below((n - j + width - 1) / width)) * width;
            if (columns > n - j) columns = n - j;
            nnl_gemm_block piece = whole;
            piece.rows = rows;
            piece.columns = columns;
            piece.a = (const char *)p.a + i * whole.a_row * size;
            piece.b = kind == 1   ? (const char *)p.b + j * k * size
                      : kind == 3 ? (const char *)p.b + j * size
                                  : packed + j / width * whole.b_panel * size;
            piece.c = cut + (i * n + j) * size;
            block(&piece);
        }
    }
    check(memcmp(p.c, cut, (size_t)(m * n * size)) == 0, isa, "bits depend on how C is cut",
          &p.call);
    free(packed);
    free(cut);
    free_problem(&p);
}

static void try_isa(nnl_isa isa)
{
    if (!nnl_isa_supported(isa)) return;
    const char *name = nnl_isa_name(isa);
    nnl_runtime *rt[2];
    for (int i = 0; i < 2; i++) {
        nnl_runtime_config config = nnl_runtime_defaults();
        config.isa = isa;
        config.threads = i == 0 ? 1 : 3;
        if (nnl_runtime_new(&config, &rt[i]) != NNL_OK) {
            printf("%s: no runtime\n", name);
            failed++;
            return;
        }
    }
    nnl_memory memory = {.size = sizeof memory};
    nnl_memory_stats(rt[1], &memory);
    size_t live = memory.live;
    for (int d = 0; d < 2; d++) {
        nnl_dtype dtype = d == 0 ? NNL_F32 : NNL_F64;
        problem p;
        static const int64_t shapes[][4] = {
            /* m, n, k, batch */
            {2, 1, 3, 1},     {100, 3, 2, 1},    {64, 10, 256, 1},   {1, 256, 784, 1},
            {1, 300, 7, 1},   {1, 2500, 40, 1},  {300, 1, 70, 1},    {64, 64, 32, 6},
            {5, 7, 0, 1},     {0, 7, 3, 1},      {7, 0, 3, 1},       {1, 1, 1, 1},
            {1, 1, 1000, 1},  {64, 256, 400, 1}, {100, 128, 130, 1}, {200, 300, 520, 1},
            {3, 40, 900, 2},  {400, 130, 410, 1}, {1000, 5, 9, 1},   {17, 33, 385, 1},   {33, 17, 771, 3},
            {13, 1030, 3, 1}, {4, 4, 4, 50},     {100, 1, 3, 1},     {100, 3, 1, 1},
            {1, 3, 100, 1},   {3, 2, 100, 1},    {4, 9, 1500, 2},    {2000, 20, 8, 1},
            {1, 1, 40, 3},    {2, 1, 7000, 1}};
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            for (int trans = 0; trans < 4; trans += TRANS_STEP) {
                p = new_problem(dtype, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3],
                                trans, i % 2 == 0);
                try_problem(rt, name, &p, true);
            }
        }
        for (int i = 0; i < DRAWS; i++) {
            int64_t limit = i % 3 == 0 ? 12 : i % 3 == 1 ? 50 : 130;
            p = new_problem(dtype, 1 + draw_below(limit), 1 + draw_below(limit),
                            draw_below(limit * (i % 5 ? 1 : 4)), i % 4 ? 1 : 1 + draw_below(4),
                            (int)draw_below(3 * 512), i % 2 == 0);
            try_problem(rt, name, &p, true);
        }
        for (int trans = 0; trans < 4; trans += TRANS_STEP) {
            p = new_problem(dtype, LARGE, LARGE + 200, LARGE + 400, 1, trans + 16 + 32, true);
            try_problem(rt, name, &p, false);
            p = new_problem(dtype, 64, LARGE * 2 + 24, 784, 1, trans, true);
            try_problem(rt, name, &p, false);
        }
        for (int i = 0; i < 200; i++) {
            int kind = i % 4;
            try_cuts(rt[0], name, dtype, kind == 3 ? 1 : 1 + draw_below(60),
                     1 + draw_below(kind == 3 ? 2500 : 120), 1 + draw_below(150), kind);
        }
    }
    nnl_memory_stats(rt[1], &memory);
    if (memory.live != live)
        printf("%s: %zu bytes live before, %zu after\n", name, live, memory.live);
    *(memory.live == live ? &passed : &failed) += 1;
    for (int i = 0; i < 2; i++) nnl_runtime_free(rt[i]);
}

int main(void)
{
    static const nnl_isa all[] = {NNL_ISA_BASE, NNL_ISA_AVX2, NNL_ISA_AVX512, NNL_ISA_NEON};
    for (int i = 0; i < 4; i++) try_isa(all[i]);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
