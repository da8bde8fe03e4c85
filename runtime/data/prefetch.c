/* Batches made ahead: the owner gives out memory for a few of them (a ring of slots), threads fill
 * it in the order of the batches, the owner takes them in the same order.  A batch that no thread
 * has begun when it is wanted is filled by the owner. */
#include "prefetch.h"

#include "../kernels/kernels.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#define WORKERS 16
#define SLOTS_A_WORKER 2
#define CHUNK 4096 /* elements of a task where the owner's threads fill a batch */

typedef struct slot {
    nnl_tensor *out[NNL_PREFETCH_COLUMNS];
    bool filled; /* guarded by the lock, as what follows with a word about it */
} slot;

struct nnl_prefetch {
    nnl_runtime *rt;
    const nnl_kernels *kernels;
    nnl_prefetch_column column[NNL_PREFETCH_COLUMNS];
    int n_columns, n_slots, n_workers;
    int64_t count, size, batches;
    int64_t *order; /* places from 0, or NULL */
    size_t order_bytes;
    int64_t taken; /* batches that the owner has got; the owner's own */
    int64_t given; /* batches that have memory: guarded */
    int64_t begun; /* guarded */
    bool stop;     /* guarded */
    pid_t process;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    pthread_t worker[WORKERS];
    slot slot[WORKERS * SLOTS_A_WORKER];
};

/* ---------------------------------------------------------------- making a batch, in any thread */

static int64_t rows_in(const nnl_prefetch *p, int64_t batch)
{
    return NNL_MIN(p->size, p->count - batch * p->size);
}

static const char *row_at(const nnl_prefetch *p, const nnl_tensor *rows, int64_t i, int64_t bytes)
{
    return rows->data + (p->order ? p->order[i] : i) * bytes;
}

static int64_t length_of(const nnl_tensor *rows)
{
    return nnl_shape_numel(rows->ndim - 1, rows->shape + 1);
}

/* Rows [i, end) of the batch. */
static void fill_rows(const nnl_prefetch *p, const nnl_prefetch_column *column, int64_t batch,
                      char *out, int64_t i, int64_t end)
{
    const nnl_tensor *rows = column->rows;
    int64_t length = length_of(rows), bytes = length * (int64_t)nnl_width(rows->dtype);
    for (int64_t first = batch * p->size; i < end; i++) {
        const char *row = row_at(p, rows, first + i, bytes);
        if (p->order && i + 1 < end) nnl_fetch_ahead(row_at(p, rows, first + i + 1, bytes), bytes);
        if (column->scaled)
            p->kernels->convert_divided(rows->dtype, (float *)(void *)out + i * length, row,
                                        column->scale, length);
        else
            memcpy(out + i * bytes, row, (size_t)bytes);
    }
}

static slot *slot_of(nnl_prefetch *p, int64_t batch) { return &p->slot[batch % p->n_slots]; }

static void fill(nnl_prefetch *p, int64_t batch)
{
    for (int c = 0; c < p->n_columns; c++)
        fill_rows(p, &p->column[c], batch, slot_of(p, batch)->out[c]->data, 0, rows_in(p, batch));
}

typedef struct part {
    nnl_prefetch *p;
    int64_t batch, rows; /* of a task */
    int column;
} part;

static void fill_part(void *context, int64_t task)
{
    const part *t = context;
    int64_t first = task * t->rows, end = NNL_MIN(first + t->rows, rows_in(t->p, t->batch));
    fill_rows(t->p, &t->p->column[t->column], t->batch,
              slot_of(t->p, t->batch)->out[t->column]->data, first, end);
}

/* By the owner, with all its threads; a batch that was begun is finished, whoever cancels. */
static void fill_here(nnl_prefetch *p, int64_t batch)
{
    p->rt->hold_cancel = true;
    for (int c = 0; c < p->n_columns; c++) {
        int64_t length = length_of(p->column[c].rows), n = rows_in(p, batch);
        part t = {p, batch, NNL_MAX(1, CHUNK / NNL_MAX(1, length)), c};
        if (n * length <= nnl_serial_work(p->rt)) t.rows = NNL_MAX(1, n);
        nnl_parallel(p->rt, (n + t.rows - 1) / t.rows, fill_part, &t);
    }
    p->rt->hold_cancel = false;
}

static void *work(void *argument)
{
    nnl_prefetch *p = argument;
    nnl_fp_state fp;
    nnl_fp_enter(&fp);
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        if (p->begun == p->given) {
            pthread_cond_wait(&p->work, &p->lock);
            continue;
        }
        int64_t batch = p->begun++;
        pthread_mutex_unlock(&p->lock);
        fill(p, batch);
        pthread_mutex_lock(&p->lock);
        slot_of(p, batch)->filled = true;
        pthread_cond_signal(&p->done);
    }
    pthread_mutex_unlock(&p->lock);
    nnl_fp_leave(&fp);
    return NULL;
}

/* ---------------------------------------------------------------- the owner */

/* Memory for a batch. */
static nnl_status make_tensors(const nnl_prefetch *p, int64_t batch, nnl_tensor **out)
{
    for (int c = 0; c < p->n_columns; c++) {
        const nnl_tensor *rows = p->column[c].rows;
        int64_t shape[NNL_MAX_DIMS];
        memcpy(shape, rows->shape, sizeof(int64_t) * rows->ndim);
        shape[0] = rows_in(p, batch);
        nnl_status status =
            nnl_tensor_new(p->rt, p->column[c].scaled ? NNL_F32 : (nnl_dtype)rows->dtype,
                           rows->ndim, shape, &out[c]);
        if (status == NNL_OK) continue;
        while (c-- > 0) {
            nnl_tensor_unref(out[c]);
            out[c] = NULL;
        }
        return status;
    }
    return NNL_OK;
}

static nnl_status read_order(nnl_prefetch *p, const nnl_tensor *order)
{
    void *block;
    p->count = order->numel;
    size_t bytes = sizeof(int64_t) * (size_t)p->count;
    NNL_TRY(nnl_alloc(p->rt, bytes, &block));
    p->order = block;
    p->order_bytes = bytes;
    int64_t rows = p->column[0].rows->shape[0];
    for (int64_t i = 0; i < p->count; i++) {
        p->order[i] = ((const int64_t *)(const void *)order->data)[i * order->strides[0]] - 1;
        if (p->order[i] < 0 || p->order[i] >= rows)
            return NNL_FAIL(p->rt, NNL_EINVAL,
                            "Loader: position %lld is %lld, but valid are 1 to %lld",
                            (long long)i + 1, (long long)p->order[i] + 1, (long long)rows);
    }
    return NNL_OK;
}

static nnl_status give_first(nnl_prefetch *p)
{
    for (; p->given < NNL_MIN(p->n_slots, p->batches); p->given++)
        NNL_TRY(make_tensors(p, p->given, slot_of(p, p->given)->out));
    return NNL_OK;
}

static bool init_locks(nnl_prefetch *p)
{
    if (pthread_mutex_init(&p->lock, NULL)) return false;
    if (pthread_cond_init(&p->work, NULL)) goto no_work;
    if (pthread_cond_init(&p->done, NULL)) goto no_done;
    return true;
no_done:
    pthread_cond_destroy(&p->work);
no_work:
    pthread_mutex_destroy(&p->lock);
    return false;
}

nnl_status nnl_prefetch_new(nnl_runtime *rt, const nnl_prefetch_column *columns, int n_columns,
                            const nnl_tensor *order, int64_t size, int64_t batches, int workers,
                            nnl_prefetch **out)
{
    void *block;
    *out = NULL;
    NNL_TRY(nnl_alloc_zeroed(rt, sizeof(nnl_prefetch), &block));
    nnl_prefetch *p = block;
    /* A host with threads of its own wants no others; and where all processors compute, one more
     * thread would keep these from it: together they fill a batch sooner. */
    bool none = rt->parallel_for || rt->threads >= nnl_processors();
    workers = none ? 0 : NNL_MIN(workers, WORKERS);
    *p = (nnl_prefetch){.rt = rt,
                        .kernels = rt->kernels,
                        .n_columns = n_columns,
                        .size = size,
                        .batches = batches,
                        .count = columns[0].rows->shape[0],
                        .process = getpid(),
                        .n_slots = NNL_MAX(1, workers * SLOTS_A_WORKER)};
    if (!init_locks(p)) {
        nnl_free(rt, p, sizeof *p);
        return NNL_FAIL(rt, NNL_ENOMEM,
                        "Loader: the system has no mutex or condition variable left");
    }
    for (int c = 0; c < n_columns; c++) {
        p->column[c] = columns[c];
        nnl_tensor_ref(columns[c].rows);
    }
    nnl_status status = order ? read_order(p, order) : NNL_OK;
    if (status == NNL_OK) status = give_first(p);
    if (status != NNL_OK) {
        nnl_prefetch_free(p);
        return status;
    }
    while (p->n_workers < workers && nnl_thread_start(&p->worker[p->n_workers], work, p) == 0)
        p->n_workers++;
    *out = p;
    return NNL_OK;
}

/* Until the batch is filled, by a thread or here. */
static void await(nnl_prefetch *p, int64_t batch)
{
    /* in a forked child there are no threads, and one may have held the lock */
    if (p->process != getpid()) {
        fill_here(p, batch);
        return;
    }
    pthread_mutex_lock(&p->lock);
    bool begun = p->begun > batch;
    p->begun += !begun;
    while (begun && !slot_of(p, batch)->filled) pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
    if (!begun) fill_here(p, batch);
}

/* The slot of a batch that was taken gets memory for a later one, or none. */
static void give_again(nnl_prefetch *p, int64_t batch, nnl_tensor *const *tensors, bool last)
{
    bool threads = p->process == getpid();
    if (threads) pthread_mutex_lock(&p->lock);
    slot *s = slot_of(p, batch);
    for (int c = 0; c < p->n_columns; c++) s->out[c] = last ? NULL : tensors[c];
    s->filled = false;
    p->given += !last;
    if (!threads) return;
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
}

nnl_status nnl_prefetch_next(nnl_prefetch *p, nnl_tensor **out, bool *more)
{
    nnl_tensor *tensors[NNL_PREFETCH_COLUMNS] = {NULL};
    int64_t batch = p->taken;
    *more = batch < p->batches;
    if (!*more) return NNL_OK;
    NNL_TRY(nnl_poll_cancel(p->rt));
    bool last = batch + p->n_slots >= p->batches;
    if (!last) NNL_TRY(make_tensors(p, batch + p->n_slots, tensors));
    await(p, batch);
    for (int c = 0; c < p->n_columns; c++) out[c] = slot_of(p, batch)->out[c];
    give_again(p, batch, tensors, last);
    p->taken++;
    return NNL_OK;
}

void nnl_prefetch_free(nnl_prefetch *p)
{
    if (!p) return;
    if (p->process == getpid()) {
        pthread_mutex_lock(&p->lock);
        p->stop = true;
        pthread_cond_broadcast(&p->work);
        pthread_mutex_unlock(&p->lock);
        for (int i = 0; i < p->n_workers; i++) pthread_join(p->worker[i], NULL);
        pthread_cond_destroy(&p->done);
        pthread_cond_destroy(&p->work);
        pthread_mutex_destroy(&p->lock);
    }
    for (int c = 0; c < p->n_columns; c++) {
        for (int s = 0; s < p->n_slots; s++) nnl_tensor_unref(p->slot[s].out[c]);
        nnl_tensor_unref(p->column[c].rows);
    }
    nnl_free(p->rt, p->order, p->order_bytes);
    nnl_free(p->rt, p, sizeof *p);
}
