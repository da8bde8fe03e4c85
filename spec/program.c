/* Captured programs through nnlua.h: the bits of the calls themselves, no allocation but the
 * results, failing allocations, one program in several threads. */
#include "host.h"

#define STEPS 8

/* The calls of one step, on what stands for the network's batch; *loss is a new reference. */
static nnl_status step_calls(network *n, nnl_tensor *x, nnl_tensor *labels, bool update,
                             nnl_tensor **loss)
{
    network seen = *n;
    seen.x = x;
    seen.labels = labels;
    *loss = NULL;
    network_zero_grad(&seen);
    nnl_status status = network_loss(&seen, loss);
    if (status == NNL_OK && update) status = nnl_backward(*loss, NULL, false, false);
    if (status == NNL_OK && update) status = network_update(&seen);
    return status;
}

static nnl_status capture(network *n, bool update, nnl_program **program)
{
    nnl_tensor *stand_ins[2] = {NULL, NULL}, *loss = NULL;
    *program = NULL;
    nnl_status status = nnl_capture_begin(n->rt, (nnl_tensor *[]){n->x, n->labels}, 2, stand_ins);
    if (status != NNL_OK) return status;
    status = step_calls(n, stand_ins[0], stand_ins[1], update, &loss);
    if (status == NNL_OK)
        status = nnl_capture_end(n->rt, &loss, 1, program);
    else
        nnl_capture_abandon(n->rt);
    for (int i = 0; i < 2; i++) nnl_tensor_unref(stand_ins[i]);
    nnl_tensor_unref(loss);
    return status;
}

static float value_of(const nnl_tensor *t) { return *(const float *)nnl_tensor_const_data(t); }

static nnl_status run_once(nnl_context *context, network *n, float *loss)
{
    nnl_tensor *out = NULL;
    nnl_status status = nnl_context_run(context, (nnl_tensor *[]){n->x, n->labels}, 2, &out, 1);
    if (status == NNL_OK) *loss = value_of(out);
    nnl_tensor_unref(out);
    return status;
}

/* ---------------------------------------------------------------- the same bits */

static void train_by_calls(int threads, float loss[STEPS], float *params[PARAMS])
{
    ledger l;
    network n;
    nnl_runtime *rt = open_with(&l, threads);
    network_new(&n, rt, 24, 70, 90, 11);
    nnl_manual_seed(rt, 3);
    for (int i = 0; i < STEPS; i++) {
        nnl_tensor *out;
        if (step_calls(&n, n.x, n.labels, true, &out) != NNL_OK) exit(2);
        loss[i] = value_of(out);
        nnl_tensor_unref(out);
    }
    for (int i = 0; i < PARAMS; i++) params[i] = elements_of(n.param[i]);
    network_zero_grad(&n);
    network_drop(&n);
    CHECK(nnl_runtime_free(rt) == 0 && l.live == 0, "calls leak");
}

static void train_by_program(int threads, const float loss[STEPS], float *const params[PARAMS])
{
    ledger l;
    network n;
    nnl_program *program;
    nnl_context *context;
    nnl_runtime *rt = open_with(&l, threads);
    network_new(&n, rt, 24, 70, 90, 11);
    nnl_manual_seed(rt, 3);
    CHECK(capture(&n, true, &program) == NNL_OK, "capture: %s", nnl_error_message(rt));
    CHECK(nnl_tensor_grad(n.param[0]) == NULL, "a capture leaves a gradient behind");
    CHECK(nnl_context_new(program, rt, &context) == NNL_OK, "context: %s", nnl_error_message(rt));
    int64_t calls = 0;
    for (int i = 0; i < STEPS; i++) {
        float got = 0;
        CHECK(run_once(context, &n, &got) == NNL_OK, "run %d: %s", i, nnl_error_message(rt));
        CHECK(got == loss[i], "step %d with %d threads: loss %.9g, by calls %.9g", i, threads,
              (double)got, (double)loss[i]);
        if (i == 2) calls = l.calls;
    }
    CHECK(l.calls == calls, "%lld calls of the allocator in steady steps",
          (long long)(l.calls - calls));
    for (int i = 0; i < PARAMS; i++)
        CHECK(same_bits(n.param[i], params[i]), "parameter %d differs with %d threads", i, threads);
    nnl_context_free(context);
    nnl_program_unref(program);
    network_zero_grad(&n);
    network_drop(&n);
    CHECK(nnl_runtime_free(rt) == 0 && l.live == 0 && l.wrong == 0, "a program leaks %zu bytes",
          l.live);
    ledger_close(&l);
}

static void same_bits_as_calls(void)
{
    float loss[STEPS], *params[PARAMS];
    train_by_calls(1, loss, params);
    CHECK(loss[STEPS - 1] != loss[0], "training does nothing");
    train_by_program(1, loss, params);
    train_by_program(2, loss, params);
    for (int i = 0; i < PARAMS; i++) free(params[i]);
}

/* ---------------------------------------------------------------- failures */

/* Fails allocation 1, 2, 3 ... of capture, context and first run, until all succeed; each time
 * nothing is lost. */
static void every_allocation_fails_once(void)
{
    ledger l;
    network n;
    nnl_runtime *rt = open_with(&l, 1);
    network_new(&n, rt, 4, 6, 5, 3);
    float *before = elements_of(n.param[0]);
    int64_t tensors = memory_of(rt).tensors;
    bool done = false;
    int failures = 0;
    for (int64_t at = 1; !done && at < 5000; at++) {
        nnl_program *program = NULL;
        nnl_context *context = NULL;
        float loss;
        nnl_memory_fail_after(rt, at, false);
        nnl_status status = capture(&n, true, &program);
        if (status == NNL_OK) status = nnl_context_new(program, rt, &context);
        if (status == NNL_OK) {
            status = run_once(context, &n, &loss);
            done = status == NNL_OK;
        }
        nnl_memory_fail_after(rt, 0, false);
        if (!done) {
            failures++;
            if (status != NNL_ENOMEM)
                CHECK(false, "allocation %lld: status %s", (long long)at, nnl_status_name(status));
            if (!same_bits(n.param[0], before))
                CHECK(false, "allocation %lld: a parameter changed", (long long)at);
        }
        nnl_context_free(context);
        nnl_program_unref(program);
        network_zero_grad(&n);
        if (memory_of(rt).tensors != tensors)
            CHECK(false, "allocation %lld: %lld tensors stay", (long long)at,
                  (long long)(memory_of(rt).tensors - tensors));
    }
    CHECK(done && failures > 20, "%d allocations failed", failures);
    free(before);
    network_drop(&n);
    CHECK(nnl_runtime_free(rt) == 0 && l.live == 0, "%zu bytes are lost", l.live);
    ledger_close(&l);
}

static void misuse(void)
{
    ledger l;
    network n;
    nnl_program *program;
    nnl_context *context;
    nnl_tensor *stand_in, *out, *other;
    nnl_runtime *rt = open_with(&l, 1);
    network_new(&n, rt, 4, 6, 5, 3);
    CHECK(nnl_capture_begin(rt, &n.x, 1, &stand_in) == NNL_OK, "%s", nnl_error_message(rt));
    CHECK(nnl_capture_begin(rt, NULL, 0, NULL) == NNL_ESTATE &&
              has(nnl_error_message(rt), "under way"),
          "%s", nnl_error_message(rt));
    nnl_capture_abandon(rt);
    nnl_capture_abandon(rt);
    CHECK(nnl_capture_inexact(rt) == NNL_ESTATE && has(nnl_error_message(rt), "none is under way"),
          "%s", nnl_error_message(rt));
    CHECK(apply(rt, "relu", 1, &stand_in, NULL, &out) == NNL_ESTATE &&
              has(nnl_error_message(rt), "return it"),
          "%s", nnl_error_message(rt));
    nnl_tensor_unref(stand_in);
    CHECK(capture(&n, false, &program) == NNL_OK &&
              nnl_context_new(program, rt, &context) == NNL_OK,
          "%s", nnl_error_message(rt));
    other = some_tensor(rt, 2, (int64_t[]){5, 6}, 1, 0);
    CHECK(nnl_context_run(context, (nnl_tensor *[]){other, n.labels}, 2, &out, 1) == NNL_ESHAPE &&
              !out && has(nnl_error_message(rt), "5x6"),
          "%s", nnl_error_message(rt));
    CHECK(nnl_context_run(context, (nnl_tensor *[]){n.labels, n.labels}, 2, &out, 1) == NNL_ETYPE,
          "%s", nnl_error_message(rt));
    CHECK(nnl_context_run(context, &n.x, 1, &out, 1) == NNL_EINVAL, "%s", nnl_error_message(rt));
    nnl_tensor_unref(other);
    nnl_context_free(context);
    nnl_program_unref(program);
    network_drop(&n);
    CHECK(nnl_runtime_free(rt) == 0 && l.live == 0, "%zu bytes are lost", l.live);
    ledger_close(&l);
}

/* ---------------------------------------------------------------- one program, several threads */

typedef struct reader {
    nnl_program *program;
    const network *n;
    pthread_barrier_t *start;
    float loss[STEPS];
    bool good;
} reader;

static void *read_weights(void *argument)
{
    reader *r = argument;
    ledger l;
    network own;
    nnl_context *context;
    nnl_runtime *rt = open_with(&l, 1);
    nnl_manual_seed(rt, 9);
    network_new(&own, rt, 24, 70, 90, 11);
    r->good = nnl_context_new(r->program, rt, &context) == NNL_OK;
    pthread_barrier_wait(r->start);
    for (int i = 0; i < STEPS && r->good; i++)
        r->good = run_once(context, &own, &r->loss[i]) == NNL_OK;
    nnl_context_free(context);
    network_drop(&own);
    r->good = nnl_runtime_free(rt) == 0 && l.live == 0 && l.wrong == 0 && r->good;
    ledger_close(&l);
    return NULL;
}

static void one_program_in_two_threads(void)
{
    ledger l;
    network n;
    nnl_program *program;
    pthread_t threads[2];
    pthread_barrier_t start;
    reader readers[2];
    nnl_runtime *rt = open_with(&l, 1);
    network_new(&n, rt, 24, 70, 90, 11);
    CHECK(capture(&n, false, &program) == NNL_OK, "%s", nnl_error_message(rt));
    pthread_barrier_init(&start, NULL, 2);
    for (int i = 0; i < 2; i++) {
        readers[i] = (reader){.program = program, .n = &n, .start = &start};
        if (pthread_create(&threads[i], NULL, read_weights, &readers[i])) exit(2);
    }
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&start);
    nnl_manual_seed(rt, 9);
    for (int i = 0; i < STEPS; i++) {
        nnl_tensor *out;
        if (step_calls(&n, n.x, n.labels, false, &out) != NNL_OK) exit(2);
        for (int k = 0; k < 2; k++)
            CHECK(readers[k].good && readers[k].loss[i] == value_of(out),
                  "thread %d, run %d: %.9g, by calls %.9g", k, i, (double)readers[k].loss[i],
                  (double)value_of(out));
        nnl_tensor_unref(out);
    }
    nnl_program_unref(program);
    network_drop(&n);
    CHECK(nnl_runtime_free(rt) == 0 && l.live == 0, "%zu bytes are lost", l.live);
    ledger_close(&l);
}

int main(void)
{
    same_bits_as_calls();
    every_allocation_fails_once();
    misuse();
    one_program_in_two_threads();
    return report();
}
