/* Work shared out to threads.  The caller publishes a job, works on it itself, and waits only for
 * workers that have joined in: one that is still waking up when the work is done finds the job
 * closed.
 *
 * pool->state holds it all in one word: the job's number, an open bit, and how many workers are
 * inside. A worker enters by compare-and-swap while the bit is set, so a job's fields are never
 * read late.  They lie in the word's cache line: a line takes some 0.1 us from core to core, and a
 * job that waits for few of them is worth having for work of a microsecond. */
#define _GNU_SOURCE
#include "base.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#endif

#define INSIDE_MASK 0xffffu
#define OPEN 0x10000u
#define NUMBER_ONE 0x20000u /* the rest of the word counts jobs */

/* How long a waiting thread looks before it sleeps: as long as waking it takes, so that waiting
 * costs at most twice what the better choice would have cost.  Consecutive ops, and runs of a
 * program, come closer together. */
#define SPIN_NS 30000
#define HELD_NS 4000000 /* the caller may be kept from running for long */
#define LOOKS 16        /* between two looks at the clock; processors pause for 10 to 50 ns */
#define STACK_BYTES ((size_t)1 << 20)

/* A thread's share of a job: grains [front, back), 32 bits each.  Its owner takes from the front,
 * so that the same thread works on the same part of an array job after job and finds it in its
 * cache; who has nothing left takes from the back of others. */
typedef struct share {
    _Alignas(64) atomic_uint_least64_t range;
} share;

#define SHARES_MAX 64 /* threads beyond that own none */

/* What a thread copies before it works, as others go on changing the line. */
typedef struct job {
    nnl_runtime *rt;
    void (*task)(void *context, int64_t i);
    void *context;
    int64_t count, grain;
    int shares;
} job;

struct nnl_pool {
    _Alignas(64) atomic_uint_least64_t state;
    job job;
    atomic_bool cancelled; /* tasks of the job were left out */
    share share[SHARES_MAX];
    _Alignas(64) pthread_mutex_t lock;
    pthread_cond_t work; /* workers sleep here */
    pthread_cond_t done; /* the caller sleeps here */
    atomic_int sleepers;
    atomic_bool held; /* spin on */
    atomic_bool caller_sleeps;
    bool stop; /* guarded by lock */
    bool started;
    bool spins; /* waiting threads do, before they sleep */
    int wanted, workers;
    atomic_int numbered; /* workers that have their number: 1, 2, ...; the caller is 0 */
    int avoided;         /* the processor that the workers are kept off, or -1 */
    pid_t process;
    char *mark; /* a page that is zero in a forked child, or NULL */
    pthread_t threads[];
};

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

uint64_t nnl_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static size_t pool_bytes(int workers)
{
    return sizeof(nnl_pool) + (size_t)workers * sizeof(pthread_t);
}

/* ---------------------------------------------------------------- forks */

/* Whether this process is the one that started the workers is asked before every job: by a page
 * that forks wipe where there is such a thing, since getpid() is a system call. */
static size_t page_bytes(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static char *make_mark(void)
{
#if defined(MADV_WIPEONFORK)
    void *page =
        mmap(NULL, page_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return NULL;
    if (madvise(page, page_bytes(), MADV_WIPEONFORK) == 0) {
        *(char *)page = 1;
        return page;
    }
    munmap(page, page_bytes());
#endif
    return NULL;
}

static bool is_own_process(const nnl_pool *pool)
{
    return pool->mark ? *pool->mark != 0 : pool->process == getpid();
}

static void own_process(nnl_pool *pool)
{
    pool->process = getpid();
    if (pool->mark) *pool->mark = 1;
}

/* ---------------------------------------------------------------- one thread's share of a job */

/* A grain of a share, or -1. */
static int64_t take(share *s, bool front)
{
    uint64_t range = atomic_load_explicit(&s->range, memory_order_relaxed);
    for (;;) {
        uint64_t first = range >> 32, end = range & 0xffffffffu;
        if (first >= end) return -1;
        uint64_t rest = front ? (first + 1) << 32 | end : first << 32 | (end - 1);
        if (atomic_compare_exchange_weak_explicit(&s->range, &range, rest, memory_order_relaxed,
                                                  memory_order_relaxed))
            return (int64_t)(front ? first : end - 1);
    }
}

static bool run_grain(const job *j, int64_t grain)
{
    int64_t end = NNL_MIN((grain + 1) * j->grain, j->count);
    for (int64_t i = grain * j->grain; i < end; i++) {
        if (nnl_is_cancelled(j->rt)) return false;
        j->task(j->context, i);
    }
    return true;
}

/* Takes grain after grain until nothing is left; the cancel flag is looked at before every task. */
static void work_on(nnl_pool *pool, const job *j, int self)
{
    for (int k = 0; k < j->shares; k++) {
        share *s = &pool->share[(self + k) % j->shares];
        for (int64_t grain; (grain = take(s, k == 0)) >= 0;) {
            if (run_grain(j, grain)) continue;
            atomic_store_explicit(&pool->cancelled, true, memory_order_relaxed);
            return;
        }
    }
}

static void share_out(nnl_pool *pool, const job *j)
{
    int64_t grains = (j->count + j->grain - 1) / j->grain;
    for (int k = 0; k < j->shares; k++) {
        uint64_t first = (uint64_t)(grains * k / j->shares),
                 end = (uint64_t)(grains * (k + 1) / j->shares);
        atomic_store_explicit(&pool->share[k].range, first << 32 | end, memory_order_relaxed);
    }
}

/* A job of the host's parallel-for: its threads may have any floating-point state. */
typedef struct host_job {
    job job;
    atomic_bool cancelled;
} host_job;

static void host_task(void *context, int64_t i)
{
    host_job *h = context;
    if (nnl_is_cancelled(h->job.rt)) {
        atomic_store_explicit(&h->cancelled, true, memory_order_relaxed);
        return;
    }
    nnl_fp_state fp;
    nnl_fp_enter(&fp);
    h->job.task(h->job.context, i);
    nnl_fp_leave(&fp);
}

/* ---------------------------------------------------------------- workers */

static bool is_news(uint64_t state, uint64_t seen)
{
    return (state & OPEN) && state / NUMBER_ONE != seen;
}

/* Joins the open job if it is not the one seen last; returns its number, or seen. */
static uint64_t join(nnl_pool *pool, uint64_t seen, int self)
{
    uint64_t state = atomic_load(&pool->state);
    __builtin_prefetch(&pool->share[self % SHARES_MAX], 1);
    while (is_news(state, seen)) {
        if (!atomic_compare_exchange_weak(&pool->state, &state, state + 1)) continue;
        const job j = pool->job;
        work_on(pool, &j, self);
        uint64_t before = atomic_fetch_sub(&pool->state, 1);
        if (!(before & OPEN) && (before & INSIDE_MASK) == 1 && atomic_load(&pool->caller_sleeps)) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->lock);
        }
        return state / NUMBER_ONE;
    }
    return seen;
}

static bool is_held(nnl_pool *pool)
{
    return atomic_load_explicit(&pool->held, memory_order_relaxed);
}

/* Waits for a job that is not the one seen last; false when the pool is being freed. */
static bool await_job(nnl_pool *pool, uint64_t seen)
{
    uint64_t begin = pool->spins ? nnl_now_ns() : 0, now = begin, end = begin + SPIN_NS;
    while (pool->spins && now < end) {
        for (int i = 0; i < LOOKS; i++) {
            if (is_news(atomic_load_explicit(&pool->state, memory_order_relaxed), seen))
                return true;
            relax();
        }
        now = nnl_now_ns();
        if (is_held(pool) && now < begin + HELD_NS) end = now + SPIN_NS;
    }
    pthread_mutex_lock(&pool->lock);
    /* The caller opens, then looks for sleepers; a worker is counted, then looks whether one is
     * open. */
    atomic_fetch_add(&pool->sleepers, 1);
    while (!pool->stop && !is_news(atomic_load(&pool->state), seen)) {
        pthread_cond_wait(&pool->work, &pool->lock);
    }
    atomic_fetch_sub(&pool->sleepers, 1);
    bool stop = pool->stop;
    pthread_mutex_unlock(&pool->lock);
    return !stop;
}

static void *worker(void *argument)
{
    nnl_pool *pool = argument;
    nnl_fp_state fp;
    nnl_fp_enter(&fp); /* inherited from the thread that started this one */
    uint64_t seen = 0;
    int self = atomic_fetch_add(&pool->numbered, 1) + 1;
    while (await_job(pool, seen)) seen = join(pool, seen, self);
    return NULL;
}

static nnl_status pool_init(nnl_pool *pool)
{
    atomic_init(&pool->state, 0);
    atomic_init(&pool->sleepers, 0);
    atomic_init(&pool->held, false);
    atomic_init(&pool->caller_sleeps, false);
    atomic_init(&pool->numbered, 0);
    pool->stop = pool->started = false;
    pool->workers = 0;
    pool->avoided = -1;
    if (pthread_mutex_init(&pool->lock, NULL)) return NNL_ENOMEM;
    if (pthread_cond_init(&pool->work, NULL)) goto no_work;
    if (pthread_cond_init(&pool->done, NULL)) goto no_done;
    return NNL_OK;
no_done:
    pthread_cond_destroy(&pool->work);
no_work:
    pthread_mutex_destroy(&pool->lock);
    return NNL_ENOMEM;
}

nnl_status nnl_pool_new(nnl_runtime *rt)
{
    int wanted = rt->threads - 1;
    void *block;
    NNL_TRY(nnl_alloc_zeroed(rt, pool_bytes(wanted), &block));
    nnl_pool *pool = block;
    pool->wanted = wanted;
    /* with more threads than processors a spinning thread keeps a working one off */
    pool->spins = rt->threads <= nnl_processors();
    pool->mark = make_mark();
    own_process(pool);
    if (pool_init(pool) != NNL_OK) {
        if (pool->mark) munmap(pool->mark, page_bytes());
        nnl_free(rt, block, pool_bytes(wanted));
        return NNL_FAIL(rt, NNL_ENOMEM,
                        "threads: the system has no mutex or condition variable left");
    }
    rt->pool = pool;
    return NNL_OK;
}

/* It leaves signals to the host's threads, except those that its own faults raise: blocked, these
 * would end the process past the host's handlers. */
int nnl_thread_start(pthread_t *thread, void *(*run)(void *), void *argument)
{
    static const int own_faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (int i = 0; i < NNL_COUNT(own_faults); i++) sigdelset(&blocked, own_faults[i]);
    pthread_attr_t attributes;
    int problem = pthread_attr_init(&attributes);
    if (problem) return problem;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    problem = pthread_create(thread, &attributes, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return problem;
}

static void start_workers(nnl_runtime *rt, nnl_pool *pool)
{
    int problem = 0;
    pool->started = true;
    while (!problem && pool->workers < pool->wanted) {
        problem = nnl_thread_start(&pool->threads[pool->workers], worker, pool);
        if (!problem) pool->workers++;
    }
    if (problem) {
        nnl_log_message(rt, NNL_LOG_WARNING, "only %d of %d threads could be started (error %d)",
                        pool->workers + 1, pool->wanted + 1, problem);
    }
}

void nnl_pool_free(nnl_runtime *rt)
{
    nnl_pool *pool = rt->pool;
    if (!pool) return;
    if (is_own_process(pool)) {
        pthread_mutex_lock(&pool->lock);
        pool->stop = true;
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->lock);
        for (int i = 0; i < pool->workers; i++) pthread_join(pool->threads[i], NULL);
        pthread_cond_destroy(&pool->done);
        pthread_cond_destroy(&pool->work);
        pthread_mutex_destroy(&pool->lock);
    }
    rt->pool = NULL;
    if (pool->mark) munmap(pool->mark, page_bytes());
    nnl_free(rt, pool, pool_bytes(pool->wanted));
}

/* ---------------------------------------------------------------- the caller */

#define AVOID_WORKERS 15

/* Linux likes to wake a thread on the processor of the one that wakes it, where it then waits until
 * the caller has done all the work alone (measured: 404 us instead of 240 for two tasks of 200). So
 * the workers of a small pool are kept off the caller's processor, within what the caller itself
 * may use. */
static void keep_off_caller(nnl_pool *pool)
{
#if defined(__linux__)
    if (pool->workers > AVOID_WORKERS) return;
    int processor = sched_getcpu();
    if (processor < 0 || processor == pool->avoided) return;
    pool->avoided = processor;
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) != 0) return;
    CPU_CLR((unsigned)processor, &mask);
    if (CPU_COUNT(&mask) == 0) return;
    for (int i = 0; i < pool->workers; i++) {
        pthread_setaffinity_np(pool->threads[i], sizeof mask, &mask);
    }
#else
    (void)pool;
#endif
}

static void wake(nnl_pool *pool, int64_t useful)
{
    int64_t sleepers = atomic_load(&pool->sleepers);
    if (sleepers == 0) return;
    /* After this a counted worker either sleeps or has seen the job.  The lock is let go first, or
     * the woken ones would go to sleep again on it. */
    pthread_mutex_lock(&pool->lock);
    pthread_mutex_unlock(&pool->lock);
    if (useful >= sleepers) {
        pthread_cond_broadcast(&pool->work);
    } else {
        for (int64_t i = 0; i < useful; i++) pthread_cond_signal(&pool->work);
    }
}

static void await_workers(nnl_pool *pool)
{
    uint64_t end = pool->spins ? nnl_now_ns() + (is_held(pool) ? HELD_NS : SPIN_NS) : 0;
    do {
        for (int i = 0; i < LOOKS; i++) {
            if (!(atomic_load_explicit(&pool->state, memory_order_acquire) & INSIDE_MASK)) return;
            if (pool->spins) relax();
        }
    } while (pool->spins && nnl_now_ns() < end);
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_sleeps, true);
    while (atomic_load(&pool->state) & INSIDE_MASK) pthread_cond_wait(&pool->done, &pool->lock);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->lock);
}

/* Makes the pool ready; false when there is no worker to share with. */
static bool have_workers(nnl_runtime *rt, nnl_pool *pool)
{
    if (NNL_UNLIKELY(!is_own_process(pool))) {
        /* In a forked child the workers are gone, and one of them may hold the lock for ever. */
        own_process(pool);
        if (pool_init(pool) != NNL_OK) pool->started = true;
    }
    if (!pool->started) start_workers(rt, pool);
    return pool->workers > 0;
}

/* Returns whether tasks were left out. */
static bool run_on_pool(nnl_runtime *rt, nnl_pool *pool, int64_t count,
                        void (*task)(void *context, int64_t i), void *context)
{
    const job j = {.rt = rt,
                   .task = task,
                   .context = context,
                   .count = count,
                   /* many small tasks are claimed some at a time, few enough to even out the end */
                   .grain = NNL_MAX(1, count / (32 * ((int64_t)pool->workers + 1))),
                   .shares = NNL_MIN(pool->workers + 1, SHARES_MAX)};
    share_out(pool, &j);
    uint64_t state = atomic_load(&pool->state);
    pool->job = j;
    atomic_store_explicit(&pool->cancelled, false, memory_order_relaxed);
    atomic_store(&pool->state, (state & ~(uint64_t)OPEN) + NUMBER_ONE + OPEN);
    keep_off_caller(pool);
    wake(pool, count - 1);
    work_on(pool, &j, 0);
    atomic_fetch_and(&pool->state, ~(uint64_t)OPEN);
    await_workers(pool);
    return atomic_load_explicit(&pool->cancelled, memory_order_relaxed);
}

static bool run_on_host(nnl_runtime *rt, int64_t count, void (*task)(void *context, int64_t i),
                        void *context)
{
    host_job h = {.job = {.rt = rt, .task = task, .context = context, .count = count}};
    atomic_init(&h.cancelled, false);
    rt->parallel_for(rt->parallel_user, count, host_task, &h);
    return atomic_load(&h.cancelled);
}

static bool run_alone(nnl_runtime *rt, int64_t count, void (*task)(void *context, int64_t i),
                      void *context)
{
    for (int64_t i = 0; i < count; i++) {
        if (nnl_is_cancelled(rt)) return true;
        task(context, i);
    }
    return false;
}

static nnl_status take_cancel(nnl_runtime *rt)
{
    atomic_store(&rt->cancelled, false);
    return NNL_FAIL(rt, NNL_ECANCELLED, "cancelled");
}

nnl_status nnl_parallel(nnl_runtime *rt, int64_t count, void (*task)(void *context, int64_t i),
                        void *context)
{
    if (rt->in_parallel) {
        /* a task's own call: whether to go on is the outer call's business */
        for (int64_t i = 0; i < count; i++) task(context, i);
        return NNL_OK;
    }
    bool left_out;
    rt->in_parallel = true;
    if (count > 1 && rt->threads > 1 && rt->parallel_for) {
        left_out = run_on_host(rt, count, task, context);
    } else if (count > 1 && rt->pool && have_workers(rt, rt->pool)) {
        left_out = run_on_pool(rt, rt->pool, count, task, context);
    } else {
        left_out = run_alone(rt, count, task, context);
    }
    rt->in_parallel = false;
    /* a task may have looked, too, and have left the rest of its own work */
    return NNL_UNLIKELY(left_out || nnl_is_cancelled(rt)) ? take_cancel(rt) : NNL_OK;
}

bool nnl_pool_is_awake(const nnl_runtime *rt)
{
    const nnl_pool *pool = rt->pool;
    return rt->pool_held ||
           (pool->workers > 0 && atomic_load_explicit(&pool->sleepers, memory_order_relaxed) == 0);
}

void nnl_pool_hold(nnl_runtime *rt, bool on)
{
    if (!rt->pool || !rt->pool->spins) return;
    rt->pool_held = on;
    atomic_store_explicit(&rt->pool->held, on, memory_order_relaxed);
}

nnl_status nnl_poll_cancel(nnl_runtime *rt)
{
    if (NNL_LIKELY(!atomic_load_explicit(&rt->cancelled, memory_order_relaxed))) return NNL_OK;
    return take_cancel(rt);
}
