/* The runtime's handle: configuration, making and freeing. */
#define _DEFAULT_SOURCE /* madvise */
#include "base.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#define THREADS_MAX 1024

/* Large blocks are mapped so that the system may back them by huge pages: the processor misses far
 * fewer addresses' translations, which takes 2 to 5 % off the steps of networks.  Sanitizers watch
 * what malloc gives. */
#if defined(__linux__) && defined(MADV_HUGEPAGE) && !defined(__SANITIZE_ADDRESS__)
#define HUGE_PAGE ((size_t)2 << 20)

static bool is_large(size_t size) { return size >= HUGE_PAGE; }

static size_t mapped_bytes(size_t size)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (size + page - 1) / page * page;
}

static void *map_large(size_t size)
{
    const size_t bytes = mapped_bytes(size);
    if (size > PTRDIFF_MAX - 2 * HUGE_PAGE) return NULL;
    char *all =
        mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) return NULL;
    const size_t before = (HUGE_PAGE - (uintptr_t)all % HUGE_PAGE) % HUGE_PAGE;
    if (before > 0) munmap(all, before);
    munmap(all + before + bytes, HUGE_PAGE - before);
    madvise(all + before, bytes, MADV_HUGEPAGE); /* a wish */
    return all + before;
}

static void unmap_large(void *pointer, size_t size) { munmap(pointer, mapped_bytes(size)); }
#else
static bool is_large(size_t size)
{
    (void)size;
    return false;
}
static void *map_large(size_t size) { return malloc(size); }
static void unmap_large(void *pointer, size_t size)
{
    (void)size;
    free(pointer);
}
#endif

/* The heap never asks for another size of a block. */
static void *allocate_default(void *user, void *pointer, size_t old_size, size_t new_size)
{
    (void)user;
    assert(!pointer || new_size == 0);
    if (new_size > 0) return is_large(new_size) ? map_large(new_size) : malloc(new_size);
    if (pointer && is_large(old_size))
        unmap_large(pointer, old_size);
    else
        free(pointer);
    return NULL;
}

nnl_runtime_config nnl_runtime_defaults(void)
{
    return (nnl_runtime_config){.size = sizeof(nnl_runtime_config), .isa = NNL_ISA_AUTO};
}

/* An older caller's structure is shorter: what it lacks has its default.  A longer one asks for
 * something that this library does not know. */
static nnl_status read_config(const nnl_runtime_config *config, nnl_runtime_config *out)
{
    *out = nnl_runtime_defaults();
    if (config) {
        if (config->size < sizeof config->size || config->size > sizeof *out) return NNL_EINVAL;
        memcpy(out, config, config->size);
        out->size = sizeof *out;
    }
    if (!out->allocate) out->allocate = allocate_default;
    if (out->threads < 0) return NNL_EINVAL;
    if (out->threads == 0) out->threads = nnl_processors();
    out->threads = NNL_MIN(out->threads, THREADS_MAX);
    if (out->isa == NNL_ISA_AUTO) out->isa = nnl_isa_best();
    return nnl_isa_supported(out->isa) ? NNL_OK : NNL_EUNSUPPORTED;
}

nnl_status nnl_runtime_new(const nnl_runtime_config *config, nnl_runtime **out)
{
    if (!out) return NNL_EINVAL;
    *out = NULL;
    nnl_runtime_config c;
    NNL_TRY(read_config(config, &c));
    if (c.memory_limit && c.memory_limit < sizeof(nnl_runtime)) return NNL_ENOMEM;
    nnl_runtime *rt = c.allocate(c.allocate_user, NULL, 0, sizeof *rt);
    if (!rt) return NNL_ENOMEM;
    memset(rt, 0, sizeof *rt);
    nnl_heap_init(&rt->heap, c.allocate, c.allocate_user, c.memory_limit);
    atomic_init(&rt->cancelled, false);
    rt->threads = c.threads;
    rt->parallel_for = c.parallel_for;
    rt->parallel_user = c.parallel_user;
    rt->log = c.log;
    rt->log_user = c.log_user;
    rt->isa = c.isa;
    rt->kernels = nnl_kernels_for(c.isa);
    nnl_manual_seed(rt, c.seed);

    nnl_status status = NNL_OK;
    if (rt->threads > 1 && !rt->parallel_for) status = nnl_pool_new(rt);
    if (status == NNL_OK) status = nnl_engine_new(rt);
    if (status != NNL_OK) {
        nnl_runtime_free(rt);
        return status;
    }
    *out = rt;
    return NNL_OK;
}

int64_t nnl_runtime_free(nnl_runtime *rt)
{
    if (!rt) return 0;
    if (rt->engine) nnl_engine_free(rt);
    nnl_pool_free(rt);
    int64_t tensors = rt->tensors;
    nnl_memory_trim(rt);
    rt->heap.allocate(rt->heap.user, rt, sizeof *rt, 0);
    return tensors;
}

void nnl_runtime_cancel(nnl_runtime *rt) { atomic_store(&rt->cancelled, true); }

nnl_isa nnl_runtime_isa(const nnl_runtime *rt) { return rt->isa; }

int nnl_runtime_threads(const nnl_runtime *rt) { return rt->threads; }

nnl_status nnl_runtime_set_threads(nnl_runtime *rt, int threads)
{
    if (threads < 0 || threads > 1024)
        return NNL_FAIL(rt, NNL_EINVAL,
                        "set_threads: threads is %d, 0 (all processors) to 1024 are possible",
                        threads);
    if (threads == 0) threads = nnl_processors();
    if (threads == rt->threads || rt->parallel_for) return NNL_OK;
    nnl_pool *old_pool = rt->pool;
    int old_threads = rt->threads;
    rt->pool = NULL;
    rt->threads = threads;
    nnl_status status = threads > 1 ? nnl_pool_new(rt) : NNL_OK;
    if (status != NNL_OK) { /* go on with the old ones */
        rt->pool = old_pool;
        rt->threads = old_threads;
        return status;
    }
    nnl_pool *new_pool = rt->pool;
    rt->pool = old_pool;
    nnl_pool_free(rt);
    rt->pool = new_pool;
    return NNL_OK;
}
