/* N-d iteration over several operands at once. */
#include "tensor.h"

#include <string.h>

/* Elements in a chunk of nnl_loop_run: large enough that claiming it is nothing, small enough that
 * a chunk of four f32 operands stays in L2. */
#define CHUNK 16384

static void drop_ones(nnl_loop *loop, int ndim)
{
    int kept = 0;
    for (int d = 0; d < ndim; d++) {
        if (loop->size[d] == 1) continue;
        loop->size[kept] = loop->size[d];
        for (int o = 0; o < loop->operands; o++) loop->step[o][kept] = loop->step[o][d];
        kept++;
    }
    loop->ndim = kept;
}

static void swap_dims(nnl_loop *loop, int a, int b)
{
    int64_t size = loop->size[a];
    loop->size[a] = loop->size[b];
    loop->size[b] = size;
    for (int o = 0; o < loop->operands; o++) {
        int64_t step = loop->step[o][a];
        loop->step[o][a] = loop->step[o][b];
        loop->step[o][b] = step;
    }
}

/* The first operand, mostly the result, is walked from its largest step to its smallest. */
static void sort_dims(nnl_loop *loop)
{
    for (int d = 1; d < loop->ndim; d++) {
        for (int e = d; e > 0 && loop->step[0][e - 1] < loop->step[0][e]; e--)
            swap_dims(loop, e - 1, e);
    }
}

static void join_dims(nnl_loop *loop)
{
    int last = 0;
    for (int d = 1; d < loop->ndim; d++) {
        bool joins = true;
        for (int o = 0; o < loop->operands && joins; o++)
            joins = loop->step[o][last] == loop->step[o][d] * loop->size[d];
        if (joins) {
            loop->size[last] *= loop->size[d];
        } else {
            loop->size[++last] = loop->size[d];
        }
        for (int o = 0; o < loop->operands; o++) loop->step[o][last] = loop->step[o][d];
    }
    loop->ndim = last + 1;
}

void nnl_loop_plan(nnl_loop *loop, int ndim, const int64_t *shape, int operands,
                   nnl_tensor *const *tensors)
{
    loop->operands = operands;
    loop->numel = nnl_shape_numel(ndim, shape);
    bool flat = true;
    for (int o = 0; o < operands; o++) {
        const nnl_tensor *t = tensors[o];
        loop->data[o] = t->data;
        flat &= t->contiguous && (t->numel == loop->numel || t->numel == 1);
    }
    if (flat) { /* the frequent case: everything contiguous, or one element for all */
        loop->ndim = 1;
        loop->size[0] = loop->inner = loop->numel;
        loop->outer = loop->numel > 0;
        for (int o = 0; o < operands; o++)
            loop->step[o][0] = tensors[o]->numel == 1 ? 0 : (int64_t)nnl_width(tensors[o]->dtype);
        return;
    }
    memcpy(loop->size, shape, sizeof(int64_t) * (size_t)ndim);
    for (int o = 0; o < operands; o++) {
        const nnl_tensor *t = tensors[o];
        int64_t width = (int64_t)nnl_width(t->dtype);
        int missing = ndim - t->ndim;
        for (int d = 0; d < ndim; d++)
            loop->step[o][d] =
                d < missing || t->shape[d - missing] == 1 ? 0 : t->strides[d - missing] * width;
    }
    drop_ones(loop, ndim);
    if (loop->ndim == 0) {
        loop->ndim = 1;
        loop->size[0] = 1;
        for (int o = 0; o < operands; o++) loop->step[o][0] = 0;
    }
    sort_dims(loop);
    join_dims(loop);
    loop->inner = loop->size[loop->ndim - 1];
    loop->outer = loop->inner > 0 ? loop->numel / loop->inner : 0;
}

void nnl_loop_at(const nnl_loop *loop, int64_t row, char *address[NNL_LOOP_MAX])
{
    for (int o = 0; o < loop->operands; o++) address[o] = loop->data[o];
    for (int d = loop->ndim - 2; d >= 0; d--) {
        int64_t place = row % loop->size[d];
        row /= loop->size[d];
        for (int o = 0; o < loop->operands; o++) address[o] += place * loop->step[o][d];
    }
}

/* Moves the addresses one place on in the dimensions outside the innermost. */
static void step_row(const nnl_loop *loop, int64_t place[NNL_MAX_DIMS], char **address)
{
    for (int d = loop->ndim - 2; d >= 0; d--) {
        bool wraps = ++place[d] == loop->size[d];
        int64_t by = wraps ? 1 - loop->size[d] : 1;
        for (int o = 0; o < loop->operands; o++) address[o] += by * loop->step[o][d];
        if (!wraps) return;
        place[d] = 0;
    }
}

typedef struct walk {
    const nnl_loop *loop;  /* what is walked */
    const nnl_loop *whole; /* what the body sees */
    nnl_loop_body *body;
    void *context;
    int64_t rows;    /* a chunk; or, with long rows, */
    int64_t columns; /* elements of one row a chunk, and */
    int64_t pieces;  /* chunks a row */
} walk;

static void walk_rows(const walk *w, int64_t first, int64_t count)
{
    const nnl_loop *loop = w->loop;
    char *address[NNL_LOOP_MAX];
    int64_t place[NNL_MAX_DIMS];
    nnl_loop_at(loop, first, address);
    int64_t rest = first;
    for (int d = loop->ndim - 2; d >= 0; d--) {
        place[d] = rest % loop->size[d];
        rest /= loop->size[d];
    }
    for (int64_t row = 0; row < count; row++) {
        w->body(w->context, w->whole, address, loop->inner);
        step_row(loop, place, address);
    }
}

static void rows_task(void *context, int64_t chunk)
{
    const walk *w = context;
    int64_t first = chunk * w->rows;
    walk_rows(w, first, NNL_MIN(w->rows, w->loop->outer - first));
}

static void columns_task(void *context, int64_t chunk)
{
    const walk *w = context;
    const nnl_loop *loop = w->loop;
    char *address[NNL_LOOP_MAX];
    int64_t first = chunk % w->pieces * w->columns;
    nnl_loop_at(loop, chunk / w->pieces, address);
    for (int o = 0; o < loop->operands; o++) address[o] += first * loop->step[o][loop->ndim - 1];
    w->body(w->context, w->whole, address, NNL_MIN(w->columns, loop->inner - first));
}

/* Every place of the walked loop stands for `each` elements. */
static nnl_status run_walk(nnl_runtime *rt, walk *w, int work, int64_t each)
{
    const nnl_loop *loop = w->loop;
    if (loop->numel == 0) return NNL_OK;
    if (loop->numel * each <= nnl_serial_work(rt) / work) {
        if (loop->outer == 1)
            w->body(w->context, w->whole, loop->data, loop->inner);
        else
            walk_rows(w, 0, loop->outer);
        return NNL_OK;
    }
    const int64_t chunk = NNL_MAX(1, CHUNK / each);
    if (loop->inner >= chunk) {
        w->columns = chunk;
        w->pieces = (loop->inner + chunk - 1) / chunk;
        return nnl_parallel(rt, loop->outer * w->pieces, columns_task, w);
    }
    w->rows = chunk / loop->inner;
    return nnl_parallel(rt, (loop->outer + w->rows - 1) / w->rows, rows_task, w);
}

nnl_status nnl_loop_run(nnl_runtime *rt, const nnl_loop *loop, int work, nnl_loop_body *body,
                        void *context)
{
    walk w = {.loop = loop, .whole = loop, .body = body, .context = context};
    return run_walk(rt, &w, work, 1);
}

nnl_status nnl_loop_run_rows(nnl_runtime *rt, const nnl_loop *loop, int work, nnl_loop_body *body,
                             void *context)
{
    if (loop->numel == 0) return NNL_OK;
    nnl_loop rows = *loop;
    rows.ndim--;
    rows.numel = loop->outer;
    rows.inner = rows.size[rows.ndim - 1];
    rows.outer = rows.numel / rows.inner;
    walk w = {.loop = &rows, .whole = loop, .body = body, .context = context};
    return run_walk(rt, &w, work, loop->inner);
}
