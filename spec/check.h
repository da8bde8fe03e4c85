/* Counting for the C programs here: each ends with "N passed, N failed". */
#ifndef CHECK_H
#define CHECK_H

#include "../runtime/nnlua.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

static int passed, failed;

/* Says what went wrong, and where, at most fifty times. */
__attribute__((format(printf, 3, 4))) static inline bool check_at(bool good, int line, const char *format, ...)
{
    if (good) {
        passed++;
        return true;
    }
    if (failed++ < 50) {
        va_list list;
        va_start(list, format);
        printf("line %d: ", line);
        vprintf(format, list);
        printf("\n");
        va_end(list);
    }
    return false;
}
#define CHECK(condition, ...) check_at((condition), __LINE__, __VA_ARGS__)

static inline int report(void)
{
    printf("%d passed, %d failed\n", passed, failed);
    return failed > 0;
}

/* ---------------------------------------------------------------- an allocator that keeps books */

typedef struct ledger_block {
    struct ledger_block *next, *before;
    size_t size;
    size_t fence;
} ledger_block;

typedef struct ledger {
    ledger_block all;     /* ring of the blocks handed out */
    size_t live, peak;
    int64_t blocks, calls;
    int64_t refuse_at;    /* number of the first call for memory that is refused, with all after it; 0: none */
    int64_t wrong;        /* calls that break the rules: another size, another thread */
    pthread_t owner;
} ledger;

static inline void ledger_open(ledger *l)
{
    memset(l, 0, sizeof *l);
    l->all.next = l->all.before = &l->all;
    l->owner = pthread_self();
}

static inline void *ledger_allocate(void *user, void *pointer, size_t old_size, size_t new_size)
{
    ledger *l = user;
    l->calls++;
    if (!pthread_equal(l->owner, pthread_self())) l->wrong++;
    if ((pointer == NULL) != (old_size == 0)) l->wrong++;
    ledger_block *old = pointer ? (ledger_block *)pointer - 1 : NULL;
    if (old && (old->size != old_size || old->fence != ~old_size)) l->wrong++;
    ledger_block *block = NULL;
    if (new_size > 0) {
        if (l->refuse_at > 0 && --l->refuse_at == 0) {
            l->refuse_at = 1;
            return NULL;
        }
        block = malloc(sizeof *block + new_size);
        if (!block) return NULL;
        block->size = new_size;
        block->fence = ~new_size;
        block->next = l->all.next;
        block->before = &l->all;
        block->next->before = l->all.next = block;
        if (old) memcpy(block + 1, pointer, old_size < new_size ? old_size : new_size);
        l->live += new_size;
        l->blocks++;
        if (l->live > l->peak) l->peak = l->live;
    }
    if (old) {
        l->live -= old->size;
        l->blocks--;
        old->next->before = old->before;
        old->before->next = old->next;
        free(old);
    }
    return block ? block + 1 : NULL;
}

/* Frees what was never given back. */
static inline void ledger_close(ledger *l)
{
    while (l->all.next != &l->all) {
        ledger_block *block = l->all.next;
        l->all.next = block->next;
        block->next->before = &l->all;
        free(block);
    }
}

/* ---------------------------------------------------------------- short forms */

static inline nnl_status apply(nnl_runtime *rt, const char *op, int n, nnl_tensor *const *in, const nnl_attr *attrs,
                               nnl_tensor **out)
{
    return nnl_apply(rt, nnl_op_find(op), in, n, attrs, out, 1);
}

static inline nnl_memory memory_of(const nnl_runtime *rt)
{
    nnl_memory m = {.size = sizeof m};
    nnl_memory_stats(rt, &m);
    return m;
}

static inline size_t bytes_of(const nnl_tensor *t)
{
    return (size_t)nnl_tensor_numel(t) * nnl_dtype_size(nnl_tensor_dtype(t));
}

/* The elements in row-major order, in memory of malloc's; asks the runtime for nothing. */
static inline void *elements_of(const nnl_tensor *t)
{
    size_t size = nnl_dtype_size(nnl_tensor_dtype(t)), bytes = bytes_of(t);
    const int64_t *shape = nnl_tensor_shape(t), *strides = nnl_tensor_strides(t);
    char *buffer = malloc(bytes ? bytes : 1);
    if (!buffer) exit(2);
    for (int64_t i = 0; i < nnl_tensor_numel(t); i++) {
        int64_t rest = i, place = 0;
        for (int d = nnl_tensor_ndim(t) - 1; d >= 0; d--) {
            place += rest % shape[d] * strides[d];
            rest /= shape[d];
        }
        memcpy(buffer + (size_t)i * size, (const char *)nnl_tensor_const_data(t) + place * (int64_t)size, size);
    }
    return buffer;
}

static inline bool same_bits(const nnl_tensor *t, const void *wanted)
{
    void *have = elements_of(t);
    bool same = memcmp(have, wanted, bytes_of(t)) == 0;
    free(have);
    return same;
}

static inline bool has(const char *text, const char *part) { return strstr(text, part) != NULL; }

#endif
