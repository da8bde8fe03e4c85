/* The host is in charge: its memory and its limit, its threads, its log, its floating-point state and its locale are
 * respected. */
#include "host.h"

#include <fenv.h>
#include <locale.h>
#include <math.h>
#include <stdatomic.h>
#include <stddef.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

/* ---------------------------------------------------------------- memory */

static void memory(void)
{
    ledger l;
    nnl_runtime_config config = nnl_runtime_defaults();
    nnl_runtime *rt;
    nnl_tensor *small, *large, *out;
    ledger_open(&l);
    config.allocate = ledger_allocate;
    config.allocate_user = &l;
    config.memory_limit = 32 << 20;
    config.threads = 2;
    if (nnl_runtime_new(&config, &rt) != NNL_OK) exit(2);
    CHECK(nnl_tensor_zeros(rt, NNL_F32, 1, (int64_t[]){2 << 20}, &small) == NNL_OK, "8 MB of 32");
    REFUSED(rt, nnl_tensor_zeros(rt, NNL_F32, 1, (int64_t[]){16 << 20}, &large), NNL_ENOMEM, "out of memory");
    CHECK(!large && has(nnl_error_message(rt), "limit 33554432"), "%s", nnl_error_message(rt));
    nnl_tensor *hold[8] = {NULL};
    nnl_status status = NNL_OK;
    int made = 0;
    while (made < 8 && status == NNL_OK) status = apply(rt, "exp", 1, &small, NULL, &hold[made++]);
    CHECK(status == NNL_ENOMEM && made >= 2 && made <= 4, "the limit stopped after %d: %s", made, nnl_status_name(status));
    for (int i = 0; i < 8; i++) nnl_tensor_unref(hold[i]);
    CHECK(apply(rt, "exp", 1, &small, NULL, &out) == NNL_OK && value_at(out, 2000000) == 1, "it goes on: %s",
          nnl_error_message(rt));
    nnl_tensor_unref(out);
    nnl_memory m = memory_of(rt);
    CHECK(m.held <= 32 << 20 && m.peak <= 32 << 20 && l.peak <= 32 << 20, "held %zu, at most %zu, the host says %zu",
          m.held, m.peak, l.peak);
    CHECK(m.held == l.live, "%zu bytes held by the books, %zu by the host's", m.held, l.live);
    CHECK(m.calls == (uint64_t)l.calls, "%llu calls counted, %lld made", (unsigned long long)m.calls, (long long)l.calls);
    CHECK(m.tensors == 1 && m.live >= 8 << 20 && m.live < 9 << 20, "%lld tensors, %zu bytes live", (long long)m.tensors, m.live);
    nnl_memory_trim(rt);
    CHECK(memory_of(rt).held == memory_of(rt).live && l.live == memory_of(rt).live, "trimming gives back what is cached");
    nnl_memory_reset_peak(rt);
    CHECK(memory_of(rt).peak == memory_of(rt).held, "the peak starts again");
    CHECK(memory_of(rt).peak_live == memory_of(rt).live, "the peak of what is in use starts again");
    nnl_memory_set_limit(rt, 0);
    CHECK(nnl_tensor_zeros(rt, NNL_F32, 1, (int64_t[]){16 << 20}, &large) == NNL_OK && memory_of(rt).limit == 0, "no limit");
    nnl_tensor_unref(large);

    /* a structure of an older header is shorter */
    struct {
        nnl_memory m;
    } old;
    memset(&old, 0x55, sizeof old);
    old.m.size = offsetof(nnl_memory, peak);
    nnl_memory_stats(rt, &old.m);
    unsigned char untouched[sizeof old.m.peak];
    memset(untouched, 0x55, sizeof untouched);
    CHECK(old.m.live == memory_of(rt).live && memcmp(&old.m.peak, untouched, sizeof untouched) == 0, "an older nnl_memory");

    /* a steady loop asks the host for nothing */
    network n;
    network_new(&n, rt, 16, 12, 20, 5);
    for (int i = 0; i < 3; i++) CHECK(network_step(&n, NULL) == NNL_OK, "%s", nnl_error_message(rt));
    m = memory_of(rt);
    for (int i = 0; i < 100; i++) CHECK(network_step(&n, NULL) == NNL_OK, "%s", nnl_error_message(rt));
    CHECK(memory_of(rt).calls == m.calls && memory_of(rt).live == m.live && memory_of(rt).tensors == m.tensors,
          "a hundred steps made %llu calls of the allocator, %zd bytes and %lld tensors more",
          (unsigned long long)(memory_of(rt).calls - m.calls), (ssize_t)(memory_of(rt).live - m.live),
          (long long)(memory_of(rt).tensors - m.tensors));
    network_drop(&n);
    nnl_tensor_unref(small);
    close_with(&l, rt);

    /* what the host forgot is counted */
    rt = open_with(&l, 1);
    CHECK(nnl_tensor_zeros(rt, NNL_F32, 0, NULL, &small) == NNL_OK, "zeros");
    CHECK(nnl_tensor_zeros(rt, NNL_F32, 0, NULL, &large) == NNL_OK, "zeros");
    nnl_tensor_unref(small);
    CHECK(nnl_runtime_free(rt) == 1, "a tensor that is left is not counted");
    ledger_close(&l);
}

/* ---------------------------------------------------------------- the host's threads */

typedef struct crew {
    int64_t calls, tasks;
    bool backwards;
} crew;

typedef struct share {
    void (*task)(void *context, int64_t i);
    void *context;
    int64_t count;
    atomic_int_fast64_t next;
    bool backwards, odd_state;
} share;

static void *work_on(void *argument)
{
    share *s = argument;
#if defined(__x86_64__)
    if (s->odd_state) _mm_setcsr(_mm_getcsr() | 0x8040u | 0x6000u); /* flush to zero, denormals are zero, round to zero */
#endif
    for (;;) {
        int64_t i = atomic_fetch_add(&s->next, 1);
        if (i >= s->count) return NULL;
        s->task(s->context, s->backwards ? s->count - 1 - i : i);
    }
}

static void parallel_for(void *user, int64_t count, void (*task)(void *context, int64_t i), void *context)
{
    crew *c = user;
    share s = {.task = task, .context = context, .count = count, .backwards = c->backwards, .odd_state = true};
    pthread_t helper;
    atomic_init(&s.next, 0);
    c->calls++;
    c->tasks += count;
    if (pthread_create(&helper, NULL, work_on, &s) != 0) exit(2);
    pthread_join(helper, NULL);
}

static void quiet(void *user, nnl_log_level level, const char *message)
{
    (void)level;
    (void)message;
    ++*(int *)user;
}

/* The loss of five steps. */
static void train_steps(network *n, float losses[5])
{
    nnl_manual_seed(n->rt, 11);
    for (int i = 0; i < 5; i++) {
        losses[i] = NAN;
        CHECK(network_step(n, &losses[i]) == NNL_OK, "%s", nnl_error_message(n->rt));
    }
}

/* Of a network that is large enough for several threads. */
static void train(nnl_runtime *rt, float losses[5])
{
    network n;
    network_new(&n, rt, 64, 100, 200, 10);
    train_steps(&n, losses);
    network_drop(&n);
}

static void host_threads(void)
{
    float alone[5], shared[5];
    ledger l;
    nnl_runtime *rt = open_with(&l, 1);
    train(rt, alone);
    close_with(&l, rt);
    CHECK(alone[4] < alone[0], "training does not lower the loss: %g to %g", (double)alone[0], (double)alone[4]);
    for (int backwards = 0; backwards < 2; backwards++) {
        nnl_runtime_config config = nnl_runtime_defaults();
        crew c = {.backwards = backwards};
        int messages = 0;
        ledger_open(&l);
        config.allocate = ledger_allocate;
        config.allocate_user = &l;
        config.threads = 3;
        config.parallel_for = parallel_for;
        config.parallel_user = &c;
        config.log = quiet;
        config.log_user = &messages;
        if (nnl_runtime_new(&config, &rt) != NNL_OK) exit(2);
        train(rt, shared);
        CHECK(c.calls > 0 && c.tasks > c.calls, "the host's parallel-for was not used");
        CHECK(memcmp(alone, shared, sizeof alone) == 0, "the host's threads change bits: %.9g and %.9g", (double)alone[4],
              (double)shared[4]);
        CHECK(messages == 0, "%d messages were logged", messages);
        close_with(&l, rt);
    }
}

/* ---------------------------------------------------------------- the floating-point state */

/* Results of ops whose last bit depends on the rounding, and of numbers that flushing would lose. */
typedef struct numbers {
    float loss[5], third[64], tiny[64], narrow[64], sum, slope[64];
} numbers;

/* Rounding mode -1: the state is left as it is. */
static unsigned enter_state(int rounding)
{
    unsigned control = 0;
    if (rounding < 0) return control;
    fesetround(rounding);
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040u); /* flush to zero, denormals are zero */
    control = _mm_getcsr() & 0x8040u;   /* valgrind has no such state */
#endif
    return control;
}

static void check_state(int rounding, unsigned control)
{
    if (rounding < 0) return;
    int now = fegetround();
#if defined(__x86_64__)
    unsigned after = _mm_getcsr();
    _mm_setcsr(after & ~0x8040u);
    CHECK((after & 0x8040u) == control, "the control register is %x after the calls", after);
#else
    (void)control;
#endif
    fesetround(FE_TONEAREST);
    CHECK(now == rounding, "the rounding mode was %d and is %d", rounding, now);
}

static void compute(nnl_runtime *rt, int rounding, numbers *n)
{
    memset(n, 0, sizeof *n);
    double wide[64];
    float data[64], small[64];
    for (int i = 0; i < 64; i++) {
        data[i] = 3 + some_number(i);
        small[i] = 1e-39f * (float)(i + 1);
        wide[i] = 1.0 / (3 + i);
    }
    nnl_tensor *x = floats(rt, 1, (int64_t[]){64}, data), *s = floats(rt, 1, (int64_t[]){64}, small), *w, *y, *total;
    network net;
    CHECK(nnl_tensor_from(rt, NNL_F64, 1, (int64_t[]){64}, wide, &w) == NNL_OK, "from");
    CHECK(nnl_tensor_set_requires_grad(x, true) == NNL_OK, "requires_grad");
    network_new(&net, rt, 64, 100, 200, 10);
    unsigned control = enter_state(rounding);
    CHECK(apply(rt, "reciprocal", 1, &x, NULL, &y) == NNL_OK, "reciprocal");
    CHECK(nnl_tensor_read(y, NNL_F32, n->third, sizeof n->third) == NNL_OK, "read");
    CHECK(apply(rt, "sum", 1, &y, NULL, &total) == NNL_OK, "sum");
    n->sum = value_at(total, 0);
    CHECK(nnl_backward(total, NULL, false, false) == NNL_OK, "backward");
    CHECK(nnl_tensor_read(nnl_tensor_grad(x), NNL_F32, n->slope, sizeof n->slope) == NNL_OK, "read");
    nnl_tensor_unref(total);
    nnl_tensor_unref(y);
    CHECK(apply(rt, "add", 2, (nnl_tensor *[]){s, s}, NULL, &y) == NNL_OK, "add");
    CHECK(nnl_tensor_read(y, NNL_F32, n->tiny, sizeof n->tiny) == NNL_OK, "read");
    CHECK(nnl_tensor_read(w, NNL_F32, n->narrow, sizeof n->narrow) == NNL_OK, "read");
    train_steps(&net, n->loss);
    check_state(rounding, control);
    network_drop(&net);
    nnl_tensor_unref(y);
    nnl_tensor_unref(x);
    nnl_tensor_unref(s);
    nnl_tensor_unref(w);
}

static void floating_point(void)
{
    static const int roundings[] = {-1, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    numbers plain, odd;
    for (int i = 0; i < COUNT(roundings); i++) {
        ledger l;
        nnl_runtime *rt = open_with(&l, 2); /* its workers start under the odd state */
        compute(rt, roundings[i], i == 0 ? &plain : &odd);
        close_with(&l, rt);
        if (i == 0) {
            CHECK(plain.tiny[0] > 0, "denormal numbers are lost");
            continue;
        }
        CHECK(memcmp(plain.third, odd.third, sizeof plain.third) == 0, "1/x depends on the rounding mode");
        CHECK(memcmp(plain.tiny, odd.tiny, sizeof plain.tiny) == 0, "x + x depends on flushing to zero");
        CHECK(memcmp(plain.narrow, odd.narrow, sizeof plain.narrow) == 0, "reading f64 as f32 depends on the rounding mode");
        CHECK(memcmp(plain.slope, odd.slope, sizeof plain.slope) == 0, "a gradient depends on the rounding mode");
        CHECK(memcmp(&plain.sum, &odd.sum, sizeof plain.sum) == 0, "a sum depends on the rounding mode");
        CHECK(memcmp(plain.loss, odd.loss, sizeof plain.loss) == 0, "training depends on the rounding mode");
    }
}

/* ---------------------------------------------------------------- the locale */

static void locale(void)
{
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "fr_FR.utf8", "nl_NL.UTF-8", "pl_PL.UTF-8",
                                        "de_DE",       "fr_FR",      "ru_RU.UTF-8"};
    const char *found = NULL;
    for (int i = 0; i < COUNT(names) && !found; i++) {
        if (setlocale(LC_ALL, names[i]) && strcmp(localeconv()->decimal_point, ",") == 0) found = names[i];
    }
    ledger l;
    nnl_runtime *rt = open_with(&l, 1);
    nnl_tensor *x = FLOATS(rt, 2, 1, 2), *y;
    const nnl_attr too_much[] = {NNL_FLOAT("p", 1.5), NNL_END};
    REFUSED(rt, apply(rt, "dropout", 1, &x, too_much, &y), NNL_EINVAL, "1.5");
    if (found) CHECK(strcmp(setlocale(LC_NUMERIC, NULL), found) == 0, "the locale was changed");
    setlocale(LC_ALL, "C");
    nnl_tensor_unref(x);
    close_with(&l, rt);
}

int main(void)
{
    memory();
    host_threads();
    floating_point();
    locale();
    return report();
}
