/* What every file of the runtime stands on: status and messages, memory, threads, random numbers,
 * processor detection, numbers as text.  Knows nothing of tensors. */
#ifndef NNL_BASE_H
#define NNL_BASE_H

#include "../nnlua.h"

#include <pthread.h>
#include <stdatomic.h>

/* ---------------------------------------------------------------- status */

#if defined(__GNUC__)
#define NNL_PRINTF(place, first) __attribute__((format(printf, place, first)))
#define NNL_LIKELY(x) __builtin_expect(!!(x), 1)
#define NNL_UNLIKELY(x) __builtin_expect(!!(x), 0)
#else
#define NNL_PRINTF(text, first)
#define NNL_LIKELY(x) (x)
#define NNL_UNLIKELY(x) (x)
#endif

#define NNL_COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))
#define NNL_MIN(a, b) ((a) < (b) ? (a) : (b))
#define NNL_MAX(a, b) ((a) > (b) ? (a) : (b))

/* Passes a failure on. */
#define NNL_TRY(call)                                                \
    do {                                                             \
        nnl_status try_status_ = (call);                             \
        if (NNL_UNLIKELY(try_status_ != NNL_OK)) return try_status_; \
    } while (0)

/* Makes a failure: return NNL_FAIL(rt, NNL_ESHAPE, "...", ...).  The format knows %d %i %u %x %c %s
 * %p %f %g %ld %lld %zu %%, and is written by the locale-free formatter below. */
#define NNL_FAIL(rt, status, ...) nnl_fail((rt), (status), __VA_ARGS__)

#define NNL_MESSAGE_SIZE 1024

/* ---------------------------------------------------------------- the runtime */

typedef struct nnl_pool nnl_pool;
typedef struct nnl_kernels nnl_kernels; /* kernels/kernels.h */
typedef struct nnl_engine nnl_engine;   /* engine/engine.h */

/* Blocks of up to 64 bytes, then four classes for each power of two. */
#define NNL_SIZE_CLASSES 248 /* a class fits a byte; the last one holds 2^43 bytes and more */

typedef struct nnl_heap {
    nnl_allocator allocate;
    void *user;
    /* live and held count whole blocks with their headers, so that held - live is what the free
     * lists hold */
    size_t limit, live, held, peak;
    size_t live_peak;  /* highest live since the last trim: what a steady loop comes back to */
    size_t most_live;  /* the same since the last nnl_memory_reset_peak() */
    size_t cached_max; /* the free lists hold at most max(cached_max, live_peak) */
    uint64_t calls;
    int64_t fail_countdown; /* 0: off; 1: the next request fails */
    bool fail_sticky;
    void *free_list[NNL_SIZE_CLASSES];
} nnl_heap;

struct nnl_runtime {
    nnl_heap heap;
    nnl_pool *pool;
    int threads;
    nnl_parallel_for parallel_for;
    void *parallel_user;
    uint32_t capture; /* number of the last capture */
    bool capturing;   /* calls are noted down, not computed: see engine.h, nnl_recorder */
    bool pool_held;   /* workers do not sleep: see nnl_pool_hold() */
    bool in_parallel; /* nnl_parallel() is running: calls from its tasks run where they are made */
    nnl_log log;
    void *log_user;
    atomic_bool cancelled;
    bool hold_cancel;     /* a change in place is being written: nnl_parallel lets it finish */
    uint64_t seed;        /* of the random numbers, with ... */
    uint64_t random_call; /* ... the number of the next call that draws */
    nnl_isa isa;
    const nnl_kernels *kernels;
    nnl_engine *engine;
    int64_t tensors; /* alive */
    char message[NNL_MESSAGE_SIZE];
};

/* Writes the message and returns status; keeps the first message of NNL_ENOMEM short and
 * allocation-free. */
nnl_status nnl_fail(nnl_runtime *rt, nnl_status status, const char *format, ...) NNL_PRINTF(3, 4);
/* Puts "prefix: " before the message that stands. */
void nnl_error_prefix(nnl_runtime *rt, const char *format, ...) NNL_PRINTF(2, 3);
void nnl_log_message(nnl_runtime *rt, nnl_log_level level, const char *format, ...)
    NNL_PRINTF(3, 4);

/* Made and freed with the runtime; provided by engine/ and kernels/.  Unknown or not built in:
 * NULL. */
nnl_status nnl_engine_new(nnl_runtime *rt);
void nnl_engine_free(nnl_runtime *rt);
const nnl_kernels *nnl_kernels_for(nnl_isa isa);

/* ---------------------------------------------------------------- memory (memory.c) */

/* A block of at least `size` bytes aligned to 64, from a free list or the host; size 0 gives a
 * valid block. Fails with NNL_ENOMEM and a message.  The caller keeps the size and hands it back.
 * Blocks are freed by the runtime's own thread only, and are poisoned under ASan while they lie in
 * a free list. */
nnl_status nnl_alloc(nnl_runtime *rt, size_t size, void **out);
nnl_status nnl_alloc_zeroed(nnl_runtime *rt, size_t size, void **out);
/* May move; keeps min(old, new) bytes.  *block is unchanged on failure. */
nnl_status nnl_resize(nnl_runtime *rt, size_t old_size, size_t new_size, void **block);
void nnl_free(nnl_runtime *rt, void *block, size_t size); /* NULL is allowed */

/* Sets up the heap of a runtime that is being made, with the runtime itself as its first live
 * block. */
void nnl_heap_init(nnl_heap *heap, nnl_allocator allocate, void *user, size_t limit);

/* Sizes that come from outside are multiplied and added only here; false on overflow. */
static inline bool nnl_mul_size(int64_t a, int64_t b, int64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool nnl_add_size(int64_t a, int64_t b, int64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

/* Asks the processor for what is read next, where it cannot guess the place: the beginning, from
 * which it goes on. */
static inline void nnl_fetch_ahead(const char *next, int64_t bytes)
{
    const int64_t beginning = 4096, line = 64;
    for (int64_t at = 0; at < NNL_MIN(bytes, beginning); at += line) __builtin_prefetch(next + at);
}

/* ---------------------------------------------------------------- threads (threads.c) */

/* Calls task(context, i) for i in [0, count), claimed dynamically by the pool's threads (or the
 * host's parallel-for); runs on the caller alone if count is 1, threads is 1, or it is called from
 * within a task. Polls the cancel flag before each chunk and then returns NNL_ECANCELLED, with
 * chunks left out.  Chunks must be fixed by shapes, never by the number of threads, wherever that
 * could change a bit.  Tasks allocate nothing and do not fail; the floating-point state is set to
 * its defaults in workers. A request that came while the last chunks ran counts, too: long ones may
 * look with nnl_is_cancelled() and leave the rest undone. */
nnl_status nnl_parallel(nnl_runtime *rt, int64_t count, void (*task)(void *context, int64_t i),
                        void *context);

/* The pool of a runtime with more than one thread; its workers are started by the first
 * nnl_parallel(). */
nnl_status nnl_pool_new(nnl_runtime *rt);
void nnl_pool_free(nnl_runtime *rt); /* ends the workers; NULL pool is allowed */

/* A thread beside the pool's, which its owner joins; returns 0 or an error number. */
int nnl_thread_start(pthread_t *thread, void *(*run)(void *), void *argument);

/* Whether the running call is to stop.  Stays so until the request is taken. */
static inline bool nnl_is_cancelled(const nnl_runtime *rt)
{
    return NNL_UNLIKELY(atomic_load_explicit(&rt->cancelled, memory_order_relaxed)) &&
           !rt->hold_cancel;
}
/* Takes the cancel request: NNL_ECANCELLED once, else NNL_OK. */
nnl_status nnl_poll_cancel(nnl_runtime *rt);

/* Work below this many elementary operations (about 20 us) is not worth waking a worker. */
#define NNL_SERIAL_WORK 60000
/* While a program is replayed, and a while after each job, workers wait without sleeping, and less
 * work is worth sharing. */
#define NNL_SERIAL_WORK_AWAKE 12000
bool nnl_pool_is_awake(const nnl_runtime *rt);
static inline int64_t nnl_serial_work(const nnl_runtime *rt)
{
    return rt->pool && nnl_pool_is_awake(rt) ? NNL_SERIAL_WORK_AWAKE : NNL_SERIAL_WORK;
}
void nnl_pool_hold(nnl_runtime *rt, bool on);

uint64_t nnl_now_ns(void); /* monotonic */

/* Floating-point control (rounding, flush-to-zero, exceptions): saved, set to the defaults,
 * restored. */
typedef struct nnl_fp_state {
    uint64_t control;
    bool changed;
} nnl_fp_state;
void nnl_fp_enter(nnl_fp_state *state);
void nnl_fp_flush(nnl_fp_state *state); /* the same, but subnormal numbers count as 0 where the
                                           processor can do that */
void nnl_fp_leave(const nnl_fp_state *state);

/* ---------------------------------------------------------------- random numbers (random.c) */

/* Philox4x32-10 (Salmon et al., SC'11): 4 words from a 128-bit counter and a 64-bit key. */
void nnl_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);
/* The number of a call that draws random numbers; element e of call c is Philox(key = seed,
 * counter = {e / 4, c}) word e % 4. */
uint64_t nnl_random_next_call(nnl_runtime *rt);

/* ---------------------------------------------------------------- processor (cpu.c) */

bool nnl_isa_supported(nnl_isa isa); /* by the processor and the operating system, and built in */
nnl_isa nnl_isa_best(void);
int nnl_processors(void);                                 /* that this process may use */
nnl_status nnl_isa_parse(const char *name, nnl_isa *out); /* NNL_EINVAL, no message */

/* ---------------------------------------------------------------- numbers as text (text.c,
 * number.c) */

/* As snprintf and strtod in the C locale, whatever the process's locale is. */
int nnl_format(char *buffer, size_t size, const char *format, ...) NNL_PRINTF(3, 4);
int nnl_format_list(char *buffer, size_t size, const char *format, __builtin_va_list list);
/* Shortest text that reads back as the same number: "0.1", "1e-07", "nan", "inf".  Returns its
 * length. */
int nnl_format_double(char *buffer, size_t size, double value);
int nnl_format_float(char *buffer, size_t size, float value);
/* Reads a decimal number at text (end exclusive): sign, inf and nan are allowed, blanks before it
 * are not. Correctly rounded; infinity beyond the range, but no integer.  Returns the place after
 * it, or NULL when there is none. */
const char *nnl_parse_double(const char *text, const char *end, double *out);
const char *nnl_parse_int(const char *text, const char *end, int64_t *out);
/* For "did you mean": the nearest of n names to word by edit distance, else one that begins with
 * it, or NULL. */
const char *nnl_nearest(const char *word, const char *const *names, int n);

#endif
