/* Matrix products: cuts C into tiles by shape, shares them out to threads, cuts the depth into
 * blocks, packs what does not lie well, and calls the kernels of kernels/gemm.c. */
#include "gemm.h"
#include "../kernels/kernels.h"

#include <string.h>

/* A block of B of this depth stays in L2; sums of blocks are added in C, which also keeps rounding
 * errors of long products down.  Part of what an element's bits depend on, as DOT_* are. */
#define DEPTH 384
/* Of a tile of C at most.  A panel of A is read once and stays in L1 while B's block, DEPTH x
 * TILE_COLUMNS, passes from L2: only the columns are limited by the cache. */
#define TILE_ROWS 1024
#define TILE_ROWS_PACKED 512 /* where A may be packed: this is in L2, too */
#define TILE_COLUMNS 384
/* From so many rows on B is packed even if its rows could be used in place. */
#define PACK_ROWS 192
/* From so much depth on, and for so many panels of B in a tile, A is packed that is stored along its rows. */
#define PACK_DEPTH 64
#define PACK_PANELS 4
#define PACK_PANELS_COLLIDING 2
/* From so much work on, m n k, B is packed first, once for all tiles, unless it is larger or tiles pack A.  Then tiles of
 * few rows cost nothing, and threads of different speed end together.  Workers that sleep have to be woken twice. */
#define SHARE_WORK 256000000
#define SHARE_WORK_HELD 16000000
#define SHARE_BYTES (16 << 20)
#define SHARED_TASKS 8 /* a thread */
/* m n k below which no worker is woken, and the least worth a task of its own; while workers are
 * kept awake, two tasks are shared. */
#define PARALLEL_WORK 1500000
#define PARALLEL_THIN 400000 /* of up to four rows: bound by memory, two caches hold more */
#define TASK_WORK 150000
#define TASK_WORK_THIN 40000 /* of up to four rows */
#define THIN_BYTES 262144    /* of B in a tile of so few rows, where a cache does not hold */
#define THIN_LARGE 1048576   /* so much of B */
#define TINY_WORK 65536
#define TASKS_PER_THREAD 2 /* more would pack more */
/* Bytes of B that are packed on the stack: no allocation for tiny products. */
#define STACK_BYTES 8192
#define ALIGN 64
/* Rows this far apart compete for the same sets of a cache; a multiple of less leaves few sets, if
 * rows are far enough from each other. */
#define PAGE 4096
#define CROWDED 256
#define FAR 2048
#define DOT_DEPTH 16
#define DOT_COLUMNS 8 /* that the kernel takes at once */
#define DEEP_DEPTH 16 /* from so much on, short chains side by side pay */
#define DEEP_COLUMNS 4

/* The order in which an element's products are added up is BLOCK's, DOT's or DEEP's, chosen by m, n
 * and k alone; APART has DOT's, ROW and ROWS have BLOCK's. */
typedef enum algorithm { BLOCK, DOT, APART, ROW, ROWS, DEEP } algorithm;
typedef void kernel(const nnl_gemm_block *g);

struct nnl_gemm_plan {
    nnl_runtime *rt;
    nnl_gemm_call call;    /* with this run's addresses */
    nnl_gemm_block whole;  /* of a product that is one call of a kernel */
    kernel *run_whole;     /* that one, or NULL */
    kernel *block, *piece; /* gemm_block, and the algorithm's own */
    const nnl_kernels *kernels;
    algorithm algorithm;
    bool turned;         /* A and B changed places: see turn_column() */
    bool backwards;      /* this run takes the tiles from behind */
    int64_t size, width; /* bytes an element; columns of a kernel's tile */
    int64_t cut;         /* columns where tiles may begin */
    int64_t depth_blocks, row_tiles, column_tiles, tiles, lanes;
    int64_t tile_rows, tile_columns; /* of the largest tile */
    bool pack_a, pack_b, pack_edge;  /* edge: only the last panel, which has not whole vectors */
    bool turn_operand;               /* DOT's A, DEEP's B, in the buffer as the kernel wants it */
    bool share_b;                    /* all of B is packed first, by all threads together */
    const char *packed;              /* all of B, block after block of the depth, or NULL */
    int64_t packed_columns;          /* whole panels */
    int64_t bias_step;
    char *buffers;
    int64_t lane_bytes, a_bytes;
};
typedef nnl_gemm_plan plan;

static int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

static void pack_b(const plan *p, void *out, const char *in, int64_t depth, int64_t columns)
{
    const nnl_gemm_call *c = &p->call;
    if (c->dtype == NNL_F32) {
        p->kernels->gemm_pack_f32((float *)out, (const float *)(const void *)in, c->ldb, c->trans_b,
                                  depth, columns);
    } else {
        p->kernels->gemm_pack_f64((double *)out, (const double *)(const void *)in, c->ldb,
                                  c->trans_b, depth, columns);
    }
}

/* A block of A, stored along its rows, as the kernel wants it. */
static void pack_a(const plan *p, void *out, const void *in, int64_t rows, int64_t depth)
{
    if (p->call.dtype == NNL_F32)
        p->kernels->gemm_pack_rows_f32(out, in, p->call.lda, depth, rows);
    else
        p->kernels->gemm_pack_rows_f64(out, in, p->call.lda, depth, rows);
}

/* A tile of C: rows [r0, r1), columns [c0, c1) of matrix `item` of the batch. */
typedef struct tile {
    int64_t item, r0, r1, c0, c1;
} tile;

static const char *element(const plan *p, const void *base, int64_t place)
{
    return (const char *)base + place * p->size;
}

/* The kernel's description of a tile, with the whole depth and B in place. */
static nnl_gemm_block describe(const plan *p, const tile *t)
{
    const nnl_gemm_call *c = &p->call;
    int64_t a_row = c->trans_a ? 1 : c->lda, a_depth = c->trans_a ? c->lda : 1;
    int64_t b_column = c->trans_b ? c->ldb : 1;
    bool any_steps = p->algorithm == ROWS;
    int64_t c_place = t->item * c->stride_c + t->r0 * c->ldc + t->c0;
    return (nnl_gemm_block){.rows = t->r1 - t->r0,
                            .columns = t->c1 - t->c0,
                            .depth = c->k,
                            .a = element(p, c->a, t->item * c->stride_a + t->r0 * a_row),
                            .a_row = a_row,
                            .a_depth = a_depth,
                            .b = element(p, c->b, t->item * c->stride_b + t->c0 * b_column),
                            .b_step = any_steps && c->trans_b ? 1 : c->ldb,
                            .b_panel = any_steps ? b_column : p->width,
                            .c = (char *)c->c + c_place * p->size,
                            .c_row = c->ldc,
                            .alpha = c->alpha,
                            .add = c->accumulate,
                            .relu = c->activation == NNL_ACT_RELU,
                            .bias = c->bias ? element(p, c->bias, t->c0 * p->bias_step) : NULL,
                            .bias_step = p->bias_step,
                            .beside = c->beside ? element(p, c->beside, c_place) : NULL,
                            .how = c->how};
}

/* One depth block [p0, p1) of a tile, with B in place for whole panels and packed for the others.
 */
static void run_block(const plan *p, const nnl_gemm_block *whole_depth, int64_t first_column,
                      int64_t p0, int64_t p1, char *buffer)
{
    const nnl_gemm_call *c = &p->call;
    nnl_gemm_block g = *whole_depth;
    const char *b = element(p, g.b, p0 * (c->trans_b ? 1 : c->ldb));
    char *packed = buffer + p->a_bytes;
    g.depth = p1 - p0;
    g.add = c->accumulate || p0 > 0;
    g.a = element(p, g.a, p0 * g.a_depth);
    if (p1 < c->k) {
        g.bias = g.beside = NULL;
        g.relu = false;
    }
    if (p->pack_a) {
        pack_a(p, buffer, g.a, g.rows, g.depth);
        g.a = buffer;
        g.a_packed = true;
    }
    if (p->packed) {
        g.b = p->packed + (p0 * p->packed_columns + first_column * g.depth) * p->size;
        g.b_step = p->width;
        g.b_panel = g.depth * p->width;
        p->block(&g);
        return;
    }
    int64_t whole = p->pack_b ? 0 : p->pack_edge ? g.columns / p->width * p->width : g.columns;
    if (whole > 0) {
        nnl_gemm_block direct = g;
        direct.b = b;
        direct.columns = whole;
        p->block(&direct);
    }
    if (whole == g.columns) return;
    pack_b(p, packed, b + whole * p->size, g.depth, g.columns - whole);
    g.b = packed;
    g.b_step = p->width;
    g.b_panel = g.depth * p->width;
    g.c = (char *)g.c + whole * p->size;
    if (g.bias) g.bias = element(p, g.bias, whole * g.bias_step);
    if (g.beside) g.beside = element(p, g.beside, whole);
    g.columns -= whole;
    p->block(&g);
}

/* Copies the smaller operand as the kernel wants it stored. */
static void turn_operand(const plan *p, nnl_gemm_block *g, char *buffer)
{
    if (p->algorithm == DEEP) {
        pack_b(p, buffer, g->b, g->depth, g->columns);
        g->b = buffer;
        g->b_step = p->width;
        return;
    }
    for (int64_t i = 0; i < g->rows; i++)
        p->kernels->copy_strided((int)p->size, buffer + i * g->depth * p->size, p->size,
                                 element(p, g->a, i), p->call.lda * p->size, g->depth);
    g->a = buffer;
    g->a_row = g->depth;
    g->a_depth = 1;
}

static void run_tile(const plan *p, int64_t place, char *buffer)
{
    const nnl_gemm_call *c = &p->call;
    int64_t item = place / p->column_tiles / p->row_tiles, column, row;
    place -= item * p->column_tiles * p->row_tiles;
    /* A thread reads little of the larger operand, and of what others have packed; where C itself is
     * the largest, it has whole rows, as others that work on C after it will. */
    if (p->share_b || (c->n > c->m && c->k > c->m))
        column = place / p->row_tiles, row = place % p->row_tiles;
    else
        row = place / p->column_tiles, column = place % p->column_tiles;
    int64_t panels = divide_up(c->n, p->cut);
    tile t = {.item = item,
              .r0 = c->m * row / p->row_tiles,
              .r1 = c->m * (row + 1) / p->row_tiles,
              .c0 = panels * column / p->column_tiles * p->cut,
              .c1 = NNL_MIN(panels * (column + 1) / p->column_tiles * p->cut, c->n)};
    nnl_gemm_block g = describe(p, &t);
    if (p->algorithm != BLOCK) {
        if (p->turn_operand) turn_operand(p, &g, buffer);
        p->piece(&g);
        return;
    }
    for (int64_t d = 0; d < p->depth_blocks; d++) {
        if (d > 0 && nnl_is_cancelled(p->rt)) return;
        run_block(p, &g, t.c0, c->k * d / p->depth_blocks, c->k * (d + 1) / p->depth_blocks,
                  buffer);
    }
}

/* The lane that lies as far from the end of its thread's share, in nnl_parallel(), as `lane` from
 * the beginning. */
static int64_t mirrored(const plan *p, int64_t lane)
{
    int64_t threads = NNL_MAX(p->rt->threads, 1), share = ((lane + 1) * threads - 1) / p->lanes;
    return p->lanes * share / threads + p->lanes * (share + 1) / threads - 1 - lane;
}

/* A plan that is run again goes through B from the front and from behind in turns: it begins with
 * what the run before has left in the thread's cache. */
static void run_lane(void *context, int64_t lane)
{
    const plan *p = context;
    char *buffer = p->buffers ? p->buffers + lane * p->lane_bytes : NULL;
    if (p->backwards) lane = mirrored(p, lane);
    int64_t first = p->tiles * lane / p->lanes, end = p->tiles * (lane + 1) / p->lanes;
    for (int64_t i = first; i < end && !nnl_is_cancelled(p->rt); i++)
        run_tile(p, p->backwards ? first + end - 1 - i : i, buffer);
}

/* ---------------------------------------------------------------- choices by shape */

static void choose_kernels(plan *p, const nnl_kernels *k)
{
    bool f32 = p->call.dtype == NNL_F32;
    p->kernels = k;
    p->size = f32 ? 4 : 8;
    p->width = k->vector_bytes / p->size * k->gemm_tile_vectors();
    p->cut = p->algorithm == DOT ? DOT_COLUMNS : p->width;
    p->block = f32 ? k->gemm_block_f32 : k->gemm_block_f64;
    switch (p->algorithm) {
    case DOT: p->piece = f32 ? k->gemm_dot_f32 : k->gemm_dot_f64; break;
    case APART: p->piece = f32 ? k->gemm_apart_f32 : k->gemm_apart_f64; break;
    case ROW: p->piece = f32 ? k->gemm_row_f32 : k->gemm_row_f64; break;
    case ROWS: p->piece = f32 ? k->gemm_rows_f32 : k->gemm_rows_f64; break;
    case DEEP: p->piece = f32 ? k->gemm_deep_f32 : k->gemm_deep_f64; break;
    default: p->piece = NULL; break;
    }
}

/* Few rows against long ones: packing B would cost more than adding up lanes.  Measured on Zen 4,
 * where the two meet near k = 16 m for every n and up to 12 rows.  Layouts choose only between
 * algorithms of one order. */
static algorithm choose_algorithm(const nnl_gemm_call *c, const nnl_kernels *k)
{
    int64_t lanes = k->vector_bytes / (c->dtype == NNL_F32 ? 4 : 8);
    bool shallow = c->k > 0 && c->k <= NNL_GEMM_ROWS_DEPTH;
    if (shallow && c->n <= lanes * NNL_GEMM_ROWS_VECTORS && !c->accumulate && !c->beside)
        return ROWS;
    if (c->m > 1 && c->m <= NNL_GEMM_DEEP_ROWS && c->n <= NNL_MIN(DEEP_COLUMNS, lanes) &&
        c->k >= DEEP_DEPTH)
        return DEEP;
    if (c->m <= NNL_GEMM_DOT_ROWS && c->k >= NNL_MAX(2 * lanes, DOT_DEPTH * c->m))
        return c->trans_b ? DOT : APART;
    if (c->m == 1 && !c->trans_b) return ROW;
    return BLOCK;
}

/* Whether A, stored along the rows of C, has panels that may be worth packing: one that lies where it is touches a line
 * for each step of the depth. */
static bool may_pack_a(const nnl_gemm_call *c) { return c->trans_a && c->k >= PACK_DEPTH; }

/* Then the lines of a panel compete for few sets of L1.  An A that is stored along the depth has no more rows in a panel
 * than a cache has ways. */
static bool a_collides(const plan *p)
{
    int64_t bytes = p->call.lda * p->size;
    return bytes > FAR && bytes % CROWDED == 0;
}

static size_t packed_bytes(const plan *p) { return (size_t)(p->call.k * p->packed_columns * p->size); }

/* C is cut so that a tile's part of A and B stays in L2, and further so that every thread has work.
 * Where B is packed, rows are cut last: each tile packs its own columns.  Where A is packed, tiles
 * are wide: each packs its own rows. */
static void choose_tiles(plan *p, int64_t tasks)
{
    const nnl_gemm_call *c = &p->call;
    int64_t panels = divide_up(c->n, p->cut);
    bool block = p->algorithm == BLOCK, by_rows = block || p->algorithm == ROWS;
    int64_t least_rows = block && !c->trans_b ? 24 : 96;
    int64_t wide = block && !c->trans_b && may_pack_a(c) ? 2 : 1;
    p->row_tiles = block ? divide_up(c->m, c->trans_a ? TILE_ROWS_PACKED : TILE_ROWS) : 1;
    p->column_tiles = block ? divide_up(c->n, TILE_COLUMNS) : 1;
    const int64_t wanted = divide_up(tasks, c->batch);
    while (p->row_tiles * p->column_tiles < wanted) {
        int64_t rows = divide_up(c->m, p->row_tiles),
                columns = divide_up(panels, p->column_tiles) * p->cut;
        bool cut_rows = by_rows && rows >= 2 * least_rows, cut_columns = columns > p->cut;
        if (cut_columns && (!cut_rows || (!p->share_b && columns >= wide * rows)))
            p->column_tiles = NNL_MIN(NNL_MIN(2 * p->column_tiles, panels), divide_up(wanted, p->row_tiles));
        else if (cut_rows)
            p->row_tiles = NNL_MIN(2 * p->row_tiles, divide_up(wanted, p->column_tiles));
        else
            break;
    }
    p->tile_rows = divide_up(c->m, p->row_tiles);
    p->tile_columns = divide_up(panels, p->column_tiles) * p->cut;
    p->tiles = p->row_tiles * p->column_tiles * c->batch;
}

/* What of the operands is not used where it lies. */
static void choose_packing(plan *p)
{
    const nnl_gemm_call *c = &p->call;
    int64_t lanes = p->kernels->vector_bytes / p->size;
    p->depth_blocks = NNL_MAX(divide_up(c->k, DEPTH), 1);
    bool b_collides = c->ldb * p->size % (PAGE / 2) == 0;
    p->pack_b = p->share_b || c->trans_b || p->tile_rows >= (b_collides ? PACK_ROWS / 8 : PACK_ROWS);
    p->pack_edge = c->n % lanes != 0;
    p->pack_a = may_pack_a(c) && p->tile_columns >= (a_collides(p) ? PACK_PANELS_COLLIDING : PACK_PANELS) * p->width;
    int64_t depth = divide_up(c->k, p->depth_blocks);
    if (p->pack_a) p->a_bytes = round_up(depth * p->tile_rows * p->size, ALIGN);
    int64_t columns = p->share_b ? 0 : p->pack_b ? p->tile_columns : p->pack_edge ? p->width : 0;
    p->lane_bytes = round_up(p->a_bytes + depth * columns * p->size, ALIGN);
}

/* ---------------------------------------------------------------- making and running a plan */

/* A product with one column is the transposed one with one row, where C's elements are adjacent. */
static void turn_column(plan *p)
{
    nnl_gemm_call *c = &p->call, old = *c;
    p->turned = true;
    p->bias_step = 0;
    c->m = 1;
    c->n = old.m;
    c->a = old.b;
    c->lda = old.ldb;
    c->stride_a = old.stride_b;
    c->trans_a = !old.trans_b;
    c->b = old.a;
    c->ldb = old.lda;
    c->stride_b = old.stride_a;
    c->trans_b = !old.trans_a;
    c->ldc = old.m;
}

/* Where one row or column can be seen in two ways: the one that the algorithms ask for. */
static void straighten(plan *p)
{
    nnl_gemm_call *c = &p->call;
    bool streams = c->k > 0 && c->k <= NNL_GEMM_ROWS_DEPTH && !c->trans_a; /* as gemm_rows does */
    if (c->n == 1 && c->m > 1 && c->ldc == 1 && !streams) turn_column(p);
    if (c->m == 1 && c->trans_a && c->lda == 1) {
        c->trans_a = false;
        c->lda = c->k;
    }
    if (c->n == 1 && !c->trans_b && c->ldb == 1) {
        c->trans_b = true;
        c->ldb = c->k;
    }
}

static int64_t turned_bytes(const plan *p)
{
    return p->call.k * (p->algorithm == DOT ? p->call.m : p->width) * p->size;
}

/* A tiny product: one block, with what is packed on the stack. */
static bool choose_tiny(plan *p, double work)
{
    const nnl_gemm_call *c = &p->call;
    int64_t lanes = p->kernels->vector_bytes / p->size;
    bool block = p->algorithm == BLOCK, pack_b = block && (c->trans_b || c->n % lanes != 0);
    if (!(block || p->turn_operand) || work > TINY_WORK || (block && c->k > DEPTH) ||
        (pack_b && c->k * round_up(c->n, p->width) * p->size > STACK_BYTES) ||
        (p->turn_operand && turned_bytes(p) > STACK_BYTES))
        return false;
    p->pack_b = pack_b;
    p->depth_blocks = p->row_tiles = p->column_tiles = 1;
    p->tiles = c->batch;
    p->lanes = 0;
    return true;
}

/* All of it is one call of the algorithm's kernel. */
static void make_whole(plan *p)
{
    tile all = {.r1 = p->call.m, .c1 = p->call.n};
    p->whole = describe(p, &all);
    p->run_whole = p->piece;
}

/* Reading B once for few rows is bound by memory, not by arithmetic. */
static int64_t task_work(const plan *p) { return p->call.m <= 4 ? TASK_WORK_THIN : TASK_WORK; }

/* What depends on shapes, layouts and the number of threads; held: workers are kept awake. */
static void make_plan(plan *p, nnl_runtime *rt, const nnl_gemm_call *call, bool held)
{
    memset(p, 0, sizeof *p);
    p->rt = rt;
    p->call = *call;
    p->bias_step = 1;
    straighten(p);
    nnl_gemm_call *c = &p->call;
    p->algorithm = choose_algorithm(c, rt->kernels);
    choose_kernels(p, rt->kernels);
    p->packed_columns = round_up(c->n, p->width);
    p->turn_operand = (p->algorithm == DOT && c->trans_a) || (p->algorithm == DEEP && c->trans_b);
    double work = (double)c->m * (double)c->n * (double)c->k * (double)c->batch;
    if (choose_tiny(p, work)) return;
    if (p->algorithm != BLOCK && !p->turn_operand && c->batch == 1 && work <= TINY_WORK) {
        make_whole(p);
        return;
    }
    int64_t least = task_work(p);
    double worth = held ? 2 * (double)least : c->m <= 4 ? PARALLEL_THIN : PARALLEL_WORK;
    bool parallel = rt->threads > 1 && work >= worth;
    /* Tiles may follow the number of threads: no bit depends on where C is cut. */
    p->share_b = p->algorithm == BLOCK && !may_pack_a(c) && c->batch == 1 && c->m >= 2 * PACK_ROWS &&
                 work >= (held ? SHARE_WORK_HELD : SHARE_WORK) && packed_bytes(p) <= SHARE_BYTES;
    int64_t tasks = parallel ? (p->share_b ? SHARED_TASKS : TASKS_PER_THREAD) * (int64_t)rt->threads : 1;
    int64_t wanted = (int64_t)NNL_MIN((double)tasks, work / (double)least + 1);
    int64_t bytes = c->n * c->k * p->size;
    if (c->m <= 4 && bytes >= THIN_LARGE) wanted = NNL_MAX(wanted, bytes / THIN_BYTES);
    choose_tiles(p, wanted);
    if (p->algorithm == BLOCK) choose_packing(p);
    if (p->turn_operand) p->lane_bytes = round_up(turned_bytes(p), ALIGN);
    p->lanes = NNL_MIN(p->tiles, tasks);
    if (p->algorithm != BLOCK && !p->turn_operand && p->tiles == 1) make_whole(p);
}

/* All of B is packed by groups of panels times blocks of the depth, in the order of tiles: a thread packs what it will
 * read, mostly. */
static int64_t pack_groups(const plan *p)
{
    return NNL_MIN(p->packed_columns / p->width, 4 * (int64_t)NNL_MAX(p->rt->threads, 1));
}
static int64_t pack_tasks(const plan *p) { return p->depth_blocks * pack_groups(p); }

static void pack_task(void *context, int64_t i)
{
    const plan *p = context;
    const nnl_gemm_call *c = &p->call;
    int64_t groups = pack_groups(p), panels = p->packed_columns / p->width;
    int64_t group = i / p->depth_blocks, d = i % p->depth_blocks;
    int64_t p0 = c->k * d / p->depth_blocks, p1 = c->k * (d + 1) / p->depth_blocks;
    int64_t c0 = panels * group / groups * p->width, c1 = NNL_MIN(panels * (group + 1) / groups * p->width, c->n);
    int64_t row = c->trans_b ? 1 : c->ldb, column = c->trans_b ? c->ldb : 1;
    char *to = (char *)(uintptr_t)p->packed + (p0 * p->packed_columns + c0 * (p1 - p0)) * p->size;
    pack_b(p, to, element(p, c->b, p0 * row + c0 * column), p1 - p0, c1 - c0);
}

static nnl_status run_lanes(nnl_runtime *rt, plan *p)
{
    size_t bytes = (size_t)(p->lanes * p->lane_bytes);
    void *buffers = NULL;
    if (bytes > 0) NNL_TRY(nnl_alloc(rt, bytes, &buffers));
    p->buffers = buffers;
    nnl_status status = nnl_parallel(rt, p->lanes, run_lane, p);
    if (bytes > 0) nnl_free(rt, buffers, bytes);
    return status;
}

static nnl_status run_plan(nnl_runtime *rt, plan *p)
{
    if (p->lanes == 0) {
        _Alignas(ALIGN) char stack[STACK_BYTES];
        for (int64_t i = 0; i < p->tiles; i++) run_tile(p, i, stack);
        return NNL_OK;
    }
    if (!p->share_b) return run_lanes(rt, p);
    size_t bytes = packed_bytes(p);
    void *packed;
    NNL_TRY(nnl_alloc(rt, bytes, &packed));
    p->packed = packed;
    nnl_status status = nnl_parallel(rt, pack_tasks(p), pack_task, p);
    if (status == NNL_OK) status = run_lanes(rt, p);
    p->packed = NULL;
    nnl_free(rt, packed, bytes);
    return status;
}

nnl_status nnl_gemm(nnl_runtime *rt, const nnl_gemm_call *call)
{
    if (call->m <= 0 || call->n <= 0 || call->batch <= 0) return NNL_OK;
    plan p;
    make_plan(&p, rt, call, rt->pool_held);
    if (!p.run_whole) return run_plan(rt, &p);
    p.run_whole(&p.whole);
    return NNL_OK;
}

nnl_status nnl_gemm_run(nnl_runtime *rt, nnl_gemm_plan *p, const void *a, const void *b, void *c,
                        const void *bias, const void *beside)
{
    if (p->turned) {
        const void *first = a;
        a = b;
        b = first;
    }
    if (NNL_LIKELY(p->run_whole != NULL)) {
        p->whole.a = a;
        p->whole.b = b;
        p->whole.c = c;
        p->whole.bias = bias;
        p->whole.beside = beside;
        p->run_whole(&p->whole);
        return NNL_OK;
    }
    p->call.a = a;
    p->call.b = b;
    p->call.c = c;
    p->call.bias = bias;
    p->call.beside = beside;
    p->backwards = !p->backwards;
    return run_plan(rt, p);
}

/* Packing that every run would do. */
static bool pays_to_pack(const plan *p)
{
    return !p->turned && p->algorithm == BLOCK && p->call.stride_b == 0 &&
           (p->pack_b || p->pack_edge);
}

/* For many runs. */
static void pack_all(plan *p, char *out)
{
    p->packed = out;
    p->share_b = false;
    for (int64_t i = 0; i < pack_tasks(p); i++) pack_task(p, i);
    /* What remains is A. */
    p->lane_bytes = round_up(p->a_bytes, ALIGN);
}

nnl_status nnl_gemm_ready(nnl_runtime *rt, const nnl_gemm_call *call, bool fixed_b,
                          nnl_gemm_plan **out, size_t *bytes)
{
    plan p;
    void *block;
    make_plan(&p, rt, call, rt->pool != NULL);
    if (call->batch == 1) p.call.stride_b = 0;
    fixed_b = fixed_b && pays_to_pack(&p);
    *bytes = sizeof p + (fixed_b ? packed_bytes(&p) + ALIGN : 0);
    NNL_TRY(nnl_alloc(rt, *bytes, &block));
    *out = block;
    **out = p;
    if (fixed_b) pack_all(*out, (char *)(((uintptr_t)(*out + 1) + ALIGN - 1) / ALIGN * ALIGN));
    return NNL_OK;
}
