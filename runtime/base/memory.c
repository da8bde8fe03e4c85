/* Memory: every block comes from the host's allocator, is counted, and goes through free lists by
 * size class, so that a loop which asks for the same sizes again makes no call of the host.
 *
 * A block is HEADER bytes larger than its class.  What the caller gets lies on the first 64-byte
 * boundary that leaves room for two bytes before it: the distance to the host's pointer and the
 * class. */
#include "base.h"

#include <assert.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define POISONS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POISONS 1
#endif
#endif

#ifdef POISONS
#include <sanitizer/asan_interface.h>
#define POISON(address, size) __asan_poison_memory_region((address), (size))
#define UNPOISON(address, size) __asan_unpoison_memory_region((address), (size))
#else
#define POISON(address, size) ((void)(address), (void)(size))
#define UNPOISON(address, size) ((void)(address), (void)(size))
#endif

#define ALIGNMENT 64
#define HEADER 64 /* enough for any host whose pointers are even */
#define SLACK                                                                                  \
    128 /* of large classes, for what stands before a tensor's elements: 2^n bytes of them are \
           frequent */
#define SLACK_FROM 2048
#define CACHED_MAX ((size_t)64 << 20)

typedef struct free_block {
    struct free_block *next;
} free_block;

/* Class 0 holds up to 64 bytes; above, each power of two is cut into 4 classes, from 2^FINE on into
 * 8: the part e of 2^b holds up to 2^b + (e + 1) 2^(b - 2) (or 2^(b - 3)), and SLACK more if that
 * is above SLACK_FROM.  Sizes beyond the last class give a place beyond the table. */
#define FINE 20
#define FIRST_FINE (1 + 4 * (FINE - 6))

static inline int class_of(size_t size)
{
    if (size <= 64) return 0;
    if (size > SLACK_FROM + SLACK) size -= SLACK;
    unsigned long long last = (unsigned long long)size - 1;
    int b = 63 - __builtin_clzll(last);
    if (NNL_LIKELY(b < FINE)) return 1 + 4 * (b - 6) + (int)((last >> (b - 2)) & 3);
    return FIRST_FINE + 8 * (b - FINE) + (int)((last >> (b - 3)) & 7);
}

/* What a block of the class takes from the host; 0 when size_t cannot say it. */
static inline size_t class_bytes(int class)
{
    if (class == 0) return 64 + HEADER;
    bool fine = class >= FIRST_FINE;
    int b = fine ? FINE + (class - FIRST_FINE) / 8 : 6 + (class - 1) / 4;
    unsigned long long parts =
        fine ? 9 + (unsigned)((class - FIRST_FINE) & 7) : 5 + (unsigned)((class - 1) & 3);
    unsigned long long bytes = (parts << (fine ? b - 3 : b - 2)) + HEADER;
    if (bytes > SLACK_FROM + HEADER) bytes += SLACK;
    return bytes > SIZE_MAX ? 0 : (size_t)bytes;
}

static void *host(nnl_heap *heap, void *pointer, size_t old_size, size_t new_size)
{
    heap->calls++;
    return heap->allocate(heap->user, pointer, old_size, new_size);
}

static void give_back(nnl_heap *heap, void *block, int class)
{
    unsigned char *at = block;
    UNPOISON(at - 2, 2);
    char *raw = (char *)block - at[-1];
    size_t bytes = class_bytes(class);
    UNPOISON(raw, bytes);
    heap->held -= bytes;
    host(heap, raw, bytes, 0);
}

/* Empties free lists, largest blocks first, until `held` is at most target. */
static void trim_to(nnl_heap *heap, size_t target)
{
    for (int class = NNL_SIZE_CLASSES - 1; class >= 0 && heap->held > target; class --) {
        while (heap->free_list[class] && heap->held > target) {
            free_block *block = heap->free_list[class];
            UNPOISON(block, sizeof *block);
            heap->free_list[class] = block->next;
            give_back(heap, block, class);
        }
    }
}

/* Room for `bytes` more: false when that is impossible within `most`. */
static bool make_room(nnl_heap *heap, size_t bytes, size_t most)
{
    if (bytes > most || heap->live > most - bytes) return false;
    if (heap->held > most - bytes) trim_to(heap, most - bytes);
    return true;
}

static void *from_host(nnl_heap *heap, size_t bytes)
{
    if (heap->limit && !make_room(heap, bytes, heap->limit)) return NULL;
    /* The free lists may hold as much as the peak again, not every size there ever was. */
    size_t peak = NNL_MAX(heap->live_peak, heap->live + bytes);
    size_t cached = NNL_MAX(heap->cached_max, peak);
    if (cached <= SIZE_MAX - peak) make_room(heap, bytes, peak + cached);
    void *raw = host(heap, NULL, 0, bytes);
    if (!raw && heap->held > heap->live) {
        trim_to(heap, 0);
        raw = host(heap, NULL, 0, bytes);
    }
    return raw;
}

static bool injected_failure(nnl_heap *heap)
{
    if (heap->fail_countdown == 0) return false;
    if (heap->fail_countdown > 1) {
        heap->fail_countdown--;
        return false;
    }
    if (!heap->fail_sticky) heap->fail_countdown = 0;
    return true;
}

static nnl_status no_memory(nnl_runtime *rt, size_t size)
{
    const nnl_heap *heap = &rt->heap;
    if (heap->limit) {
        return NNL_FAIL(rt, NNL_ENOMEM, "out of memory: %zu bytes wanted, %zu in use, limit %zu",
                        size, heap->live, heap->limit);
    }
    return NNL_FAIL(rt, NNL_ENOMEM, "out of memory: %zu bytes wanted, %zu in use", size,
                    heap->live);
}

static void count_live(nnl_heap *heap, size_t bytes)
{
    heap->live += bytes;
    if (heap->live > heap->live_peak) heap->live_peak = heap->live;
    if (heap->live > heap->most_live) heap->most_live = heap->live;
}

/* All that is not a hit in a free list; the request has passed fault injection. */
static nnl_status alloc_fresh(nnl_runtime *rt, size_t size, void **out)
{
    nnl_heap *heap = &rt->heap;
    int class = class_of(size);
    size_t bytes = class < NNL_SIZE_CLASSES ? class_bytes(class) : 0;
    char *raw = bytes ? from_host(heap, bytes) : NULL;
    if (!raw) return no_memory(rt, size);
    heap->held += bytes;
    if (heap->held > heap->peak) heap->peak = heap->held;
    count_live(heap, bytes);

    size_t distance = ALIGNMENT - ((uintptr_t)raw & (ALIGNMENT - 1));
    if (distance < 2) distance += ALIGNMENT;
    assert(distance <= HEADER);
    unsigned char *block = (unsigned char *)raw + distance;
    block[-1] = (unsigned char)distance;
    block[-2] = (unsigned char)class;
    POISON(raw, bytes);
    UNPOISON(block, size);
    *out = block;
    return NNL_OK;
}

nnl_status nnl_alloc(nnl_runtime *rt, size_t size, void **out)
{
    nnl_heap *heap = &rt->heap;
    if (NNL_UNLIKELY(heap->fail_countdown) && injected_failure(heap)) return no_memory(rt, size);
    int class = class_of(size);
    if (NNL_UNLIKELY(class >= NNL_SIZE_CLASSES)) return no_memory(rt, size);
    free_block *block = heap->free_list[class];
    if (NNL_UNLIKELY(!block)) return alloc_fresh(rt, size, out);
    UNPOISON(block, NNL_MAX(size, sizeof *block));
    heap->free_list[class] = block->next;
    POISON(block, sizeof *block);
    UNPOISON(block, size);
    count_live(heap, class_bytes(class));
    *out = block;
    return NNL_OK;
}

nnl_status nnl_alloc_zeroed(nnl_runtime *rt, size_t size, void **out)
{
    NNL_TRY(nnl_alloc(rt, size, out));
    memset(*out, 0, size);
    return NNL_OK;
}

void nnl_free(nnl_runtime *rt, void *pointer, size_t size)
{
    if (!pointer) return;
    nnl_heap *heap = &rt->heap;
    int class = class_of(size);
#ifdef POISONS
    unsigned char *at = pointer;
    UNPOISON(at - 2, 2);
    assert(at[-2] == class && "freed with another size than it was allocated with");
    POISON(at - 2, 2);
#endif
    free_block *block = pointer;
    UNPOISON(block, sizeof *block);
    block->next = heap->free_list[class];
    heap->free_list[class] = block;
    heap->live -= class_bytes(class);
    POISON(block, class_bytes(class) - HEADER);
}

nnl_status nnl_resize(nnl_runtime *rt, size_t old_size, size_t new_size, void **block)
{
    nnl_heap *heap = &rt->heap;
    if (!*block) return nnl_alloc(rt, new_size, block);
    int class = class_of(old_size);
    if (class == class_of(new_size)) {
        if (injected_failure(heap)) return no_memory(rt, new_size);
        POISON(*block, class_bytes(class) - HEADER);
        UNPOISON(*block, new_size);
        return NNL_OK;
    }
    void *moved;
    NNL_TRY(nnl_alloc(rt, new_size, &moved));
    memcpy(moved, *block, NNL_MIN(old_size, new_size));
    nnl_free(rt, *block, old_size);
    *block = moved;
    return NNL_OK;
}

void nnl_heap_init(nnl_heap *heap, nnl_allocator allocate, void *user, size_t limit)
{
    *heap =
        (nnl_heap){.allocate = allocate, .user = user, .limit = limit, .cached_max = CACHED_MAX};
    heap->live = heap->held = heap->peak = heap->live_peak = heap->most_live = sizeof(nnl_runtime);
    heap->calls = 1;
}

void nnl_memory_stats(const nnl_runtime *rt, nnl_memory *out)
{
    const nnl_heap *heap = &rt->heap;
    nnl_memory all = {
        .size = NNL_MIN(out->size, sizeof all),
        .live = heap->live,
        .held = heap->held,
        .peak = heap->peak,
        .limit = heap->limit,
        .calls = heap->calls,
        .tensors = rt->tensors,
        .peak_live = heap->most_live,
    };
    memcpy(out, &all, all.size); /* an older caller's structure is shorter */
}

void nnl_memory_reset_peak(nnl_runtime *rt)
{
    rt->heap.peak = rt->heap.held;
    rt->heap.most_live = rt->heap.live;
}

void nnl_memory_trim(nnl_runtime *rt)
{
    trim_to(&rt->heap, 0);
    rt->heap.live_peak = rt->heap.live;
}

void nnl_memory_set_limit(nnl_runtime *rt, size_t bytes)
{
    rt->heap.limit = bytes;
    if (bytes) trim_to(&rt->heap, bytes);
}

void nnl_memory_fail_after(nnl_runtime *rt, int64_t countdown, bool sticky)
{
    rt->heap.fail_countdown = NNL_MAX(countdown, 0);
    rt->heap.fail_sticky = sticky;
}
