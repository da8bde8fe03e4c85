/* Two runtimes in two threads at once, and one runtime with several threads: the bits are those of
 * a lone run. */
#include "training.h"

#include "data/prefetch.h"

#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#define STEPS 6

/* What a run leaves behind. */
typedef struct outcome {
    float loss[STEPS];
    float *param[PARAMS];
    size_t bytes[PARAMS];
    nnl_status status;
} outcome;

typedef struct job {
    int threads;
    int64_t batch;
    nnl_parallel_for parallel_for;
    pthread_barrier_t *start;
    outcome out;
} job;

static void *train(void *argument)
{
    job *j = argument;
    nnl_runtime_config config = nnl_runtime_defaults();
    nnl_runtime *rt;
    network n;
    ledger l;
    ledger_open(&l);
    config.allocate = ledger_allocate;
    config.allocate_user = &l;
    config.threads = j->threads;
    config.parallel_for = j->parallel_for;
    if (nnl_runtime_new(&config, &rt) != NNL_OK) exit(2);
    network_new(&n, rt, j->batch, 150, 260, 11);
    nnl_manual_seed(rt, 3);
    if (j->start) pthread_barrier_wait(j->start);
    j->out.status = NNL_OK;
    for (int i = 0; i < STEPS && j->out.status == NNL_OK; i++)
        j->out.status = network_step(&n, &j->out.loss[i]);
    for (int i = 0; i < PARAMS; i++) {
        j->out.bytes[i] = bytes_of(n.param[i]);
        j->out.param[i] = elements_of(n.param[i]);
    }
    network_drop(&n);
    if (nnl_runtime_free(rt) != 0 || l.live != 0 || l.wrong != 0) j->out.status = NNL_ESTATE;
    ledger_close(&l);
    return NULL;
}

static bool same(const outcome *a, const outcome *b)
{
    bool equal =
        a->status == NNL_OK && b->status == NNL_OK && memcmp(a->loss, b->loss, sizeof a->loss) == 0;
    for (int i = 0; i < PARAMS; i++)
        equal = equal && memcmp(a->param[i], b->param[i], a->bytes[i]) == 0;
    return equal;
}

static void drop(outcome *o)
{
    for (int i = 0; i < PARAMS; i++) free(o->param[i]);
}

/* Last first, on the caller's thread. */
static void backwards(void *user, int64_t count, void (*task)(void *context, int64_t i),
                      void *context)
{
    (void)user;
    for (int64_t i = count - 1; i >= 0; i--) task(context, i);
}

static void training(int64_t batch)
{
    job lone = {.threads = 1, .batch = batch};
    train(&lone);
    CHECK(lone.out.status == NNL_OK && lone.out.loss[STEPS - 1] < lone.out.loss[0],
          "batch %lld: from %g to %g", (long long)batch, (double)lone.out.loss[0],
          (double)lone.out.loss[STEPS - 1]);
    for (int threads = 2; threads <= 4; threads++) {
        job several = {.threads = threads, .batch = batch};
        train(&several);
        CHECK(same(&lone.out, &several.out), "batch %lld: %d threads give other bits than one",
              (long long)batch, threads);
        drop(&several.out);
    }
    job turned = {.threads = 4, .batch = batch, .parallel_for = backwards};
    train(&turned);
    CHECK(same(&lone.out, &turned.out), "batch %lld: the order of chunks changes bits",
          (long long)batch);
    drop(&turned.out);

    pthread_barrier_t start;
    pthread_t thread[3];
    job at_once[3] = {{.threads = 1, .batch = batch, .start = &start},
                      {.threads = 2, .batch = batch, .start = &start},
                      {.threads = 3, .batch = batch, .start = &start}};
    pthread_barrier_init(&start, NULL, COUNT(thread));
    for (int i = 0; i < COUNT(thread); i++) {
        if (pthread_create(&thread[i], NULL, train, &at_once[i]) != 0) exit(2);
    }
    for (int i = 0; i < COUNT(thread); i++) pthread_join(thread[i], NULL);
    pthread_barrier_destroy(&start);
    for (int i = 0; i < COUNT(thread); i++) {
        CHECK(same(&lone.out, &at_once[i].out),
              "batch %lld: the runtime with %d threads was disturbed by another", (long long)batch,
              at_once[i].threads);
        drop(&at_once[i].out);
    }
    drop(&lone.out);
}

/* Chunks are fixed by shapes: whatever the size, sums and scans have the same bits with any number
 * of threads. */
static void *of_op(nnl_runtime *rt, const char *op, nnl_tensor *x, const nnl_attr *attrs,
                   size_t *bytes)
{
    nnl_tensor *y;
    if (apply(rt, op, 1, &x, attrs, &y) != NNL_OK) {
        CHECK(false, "%s: %s", op, nnl_error_message(rt));
        *bytes = 0;
        return NULL;
    }
    *bytes = bytes_of(y);
    void *elements = elements_of(y);
    nnl_tensor_unref(y);
    return elements;
}

static void shapes(void)
{
    static const int64_t sizes[][2] = {{1, 1},     {1, 100003}, {100003, 1}, {257, 1023},
                                       {3, 65537}, {1024, 300}, {0, 5}};
    static const struct {
        const char *op;
        nnl_attr attrs[2];
    } ops[] = {{"sum", {NNL_END}},
               {"sum", {NNL_INT("dim", 0), NNL_END}},
               {"mean", {NNL_INT("dim", 1), NNL_END}},
               {"var", {NNL_INT("dim", 0), NNL_END}},
               {"norm", {NNL_END}},
               {"softmax", {NNL_INT("dim", 0), NNL_END}},
               {"softmax", {NNL_INT("dim", 1), NNL_END}},
               {"logsumexp", {NNL_INT("dim", 1), NNL_END}},
               {"cumsum", {NNL_INT("dim", 1), NNL_END}},
               {"cumsum", {NNL_INT("dim", 0), NNL_END}},
               {"prod", {NNL_INT("dim", 1), NNL_END}},
               {"tanh", {NNL_END}},
               {"rand_like", {NNL_END}},
               {"randn_like", {NNL_END}},
               {"dropout", {NNL_FLOAT("p", 0.3), NNL_END}}};
    nnl_runtime *rt[3];
    for (int i = 0; i < COUNT(rt); i++) {
        nnl_runtime_config config = nnl_runtime_defaults();
        config.threads = i + 1;
        if (nnl_runtime_new(&config, &rt[i]) != NNL_OK) exit(2);
    }
    for (int s = 0; s < COUNT(sizes); s++) {
        nnl_tensor *x[COUNT(rt)];
        for (int i = 0; i < COUNT(rt); i++) x[i] = some_tensor(rt[i], 2, sizes[s], 1, 42);
        for (int o = 0; o < COUNT(ops); o++) {
            void *wanted = NULL;
            for (int i = 0; i < COUNT(rt); i++) {
                size_t bytes;
                nnl_manual_seed(rt[i], 9);
                void *have = of_op(rt[i], ops[o].op, x[i], ops[o].attrs, &bytes);
                if (i == 0) {
                    wanted = have;
                    continue;
                }
                CHECK(have && wanted && memcmp(have, wanted, bytes) == 0,
                      "%s of %lldx%lld has other bits with %d threads", ops[o].op,
                      (long long)sizes[s][0], (long long)sizes[s][1], i + 1);
                free(have);
            }
            free(wanted);
        }
        for (int i = 0; i < COUNT(rt); i++) nnl_tensor_unref(x[i]);
    }
    for (int i = 0; i < COUNT(rt); i++) CHECK(nnl_runtime_free(rt[i]) == 0, "tensors left");
}

/* A runtime may move from thread to thread, as long as one uses it at a time. */
static void *one_step(void *argument)
{
    CHECK(network_step(argument, NULL) == NNL_OK, "a step in another thread");
    return NULL;
}

static void moving(void)
{
    nnl_runtime_config config = nnl_runtime_defaults();
    nnl_runtime *rt;
    network n;
    config.threads = 2;
    if (nnl_runtime_new(&config, &rt) != NNL_OK) exit(2);
    network_new(&n, rt, 64, 100, 200, 10);
    for (int i = 0; i < 4; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, one_step, &n) != 0) exit(2);
        pthread_join(thread, NULL);
        one_step(&n);
    }
    network_drop(&n);
    CHECK(nnl_runtime_free(rt) == 0, "tensors left");
}

/* In a forked child the workers are gone: it starts its own. */
static void forking(void)
{
#ifndef __SANITIZE_THREAD__ /* which ends a child that starts threads */
    nnl_runtime_config config = nnl_runtime_defaults();
    nnl_runtime *rt;
    network n;
    config.threads = 2;
    if (nnl_runtime_new(&config, &rt) != NNL_OK) exit(2);
    network_new(&n, rt, 64, 100, 200, 10);
    one_step(&n);
    pid_t child = fork();
    if (child == 0) {
        alarm(20); /* instead of waiting for threads for ever */
        bool good = network_step(&n, NULL) == NNL_OK && network_step(&n, NULL) == NNL_OK;
        network_drop(&n);
        _exit(good && nnl_runtime_free(rt) == 0 ? 0 : 1);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0,
          "a forked child ends with %d", status);
    one_step(&n);
    network_drop(&n);
    CHECK(nnl_runtime_free(rt) == 0, "tensors left");
#endif
}

/* Batches that threads make while the owner trains, and loops that are left early. */
static void batches_ahead(int workers, int64_t leave_after)
{
    enum { ROWS = 203, LENGTH = 310, SIZE = 10 };
    nnl_runtime_config config = nnl_runtime_defaults();
    nnl_runtime *rt;
    nnl_prefetch *p;
    nnl_tensor *images, *labels, *order, *batch[2];
    network n;
    int64_t taken = 0, wrong = 0;
    bool more;
    config.threads = 2;
    if (nnl_runtime_new(&config, &rt) != NNL_OK) exit(2);
    network_new(&n, rt, 24, 70, 90, 11);
    if (nnl_tensor_new(rt, NNL_U8, 2, (int64_t[]){ROWS, LENGTH}, &images) != NNL_OK) exit(2);
    if (nnl_tensor_new(rt, NNL_I64, 1, (int64_t[]){ROWS}, &labels) != NNL_OK) exit(2);
    if (nnl_tensor_new(rt, NNL_I64, 1, (int64_t[]){ROWS}, &order) != NNL_OK) exit(2);
    for (int64_t i = 0; i < ROWS * LENGTH; i++)
        ((uint8_t *)nnl_tensor_data(images))[i] = (uint8_t)(i / LENGTH + i % 7);
    for (int64_t i = 0; i < ROWS; i++) {
        ((int64_t *)nnl_tensor_data(labels))[i] = i;
        ((int64_t *)nnl_tensor_data(order))[i] = i * 64 % ROWS + 1;
    }
    const nnl_prefetch_column columns[] = {{images, true, 5}, {.rows = labels}};
    nnl_status status =
        nnl_prefetch_new(rt, columns, 2, order, SIZE, (ROWS + SIZE - 1) / SIZE, workers, &p);
    CHECK(status == NNL_OK, "loader: %s", nnl_error_message(rt));
    nnl_runtime_cancel(rt);
    CHECK(nnl_prefetch_next(p, batch, &more) == NNL_ECANCELLED,
          "a loader does not see a cancel request");
    while (nnl_prefetch_next(p, batch, &more) == NNL_OK && more && taken < leave_after) {
        const float *x = nnl_tensor_const_data(batch[0]);
        const int64_t *y = nnl_tensor_const_data(batch[1]);
        for (int64_t r = 0; r < NNL_MIN(SIZE, ROWS - taken * SIZE); r++) {
            int64_t row = (taken * SIZE + r) * 64 % ROWS;
            wrong += y[r] != row;
            for (int64_t i = 0; i < LENGTH; i++)
                wrong += x[r * LENGTH + i] != (float)(uint8_t)(row + (row * LENGTH + i) % 7) / 5.0f;
        }
        for (int c = 0; c < 2; c++) nnl_tensor_unref(batch[c]);
        if (taken++ % 4 == 0) CHECK(network_step(&n, NULL) == NNL_OK, "a step beside a loader");
    }
    if (more) nnl_tensor_unref(batch[0]), nnl_tensor_unref(batch[1]);
    CHECK(wrong == 0, "%lld elements of %lld batches differ", (long long)wrong, (long long)taken);
    CHECK(taken == NNL_MIN(leave_after, (ROWS + SIZE - 1) / SIZE), "%lld batches",
          (long long)taken);
    nnl_prefetch_free(p);
    nnl_tensor_unref(images);
    nnl_tensor_unref(labels);
    nnl_tensor_unref(order);
    network_drop(&n);
    CHECK(nnl_runtime_free(rt) == 0, "tensors left");
}

int main(void)
{
    training(64);
    training(7);
    shapes();
    moving();
    forking();
    for (int workers = 0; workers < 4; workers++) {
        batches_ahead(workers, 100);
        batches_ahead(workers, 3);
        batches_ahead(workers, 0);
    }
    return report();
}
