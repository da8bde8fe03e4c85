/* Memory that is taken piece by piece and goes as a whole. */
#include "program.h"

#include <string.h>

#define BLOCK 16384
#define ALIGN 16

struct nnl_bump_block {
    nnl_bump_block *next;
    size_t size;
};

#define HEADER ((sizeof(nnl_bump_block) + ALIGN - 1) / ALIGN * ALIGN)

nnl_status nnl_bump_alloc(nnl_bump *bump, size_t size, void *out)
{
    size = (size + ALIGN - 1) / ALIGN * ALIGN;
    if (!bump->blocks || bump->used + size > bump->blocks->size) {
        size_t bytes = NNL_MAX((size_t)BLOCK, size + HEADER);
        void *block;
        NNL_TRY(nnl_alloc(bump->rt, bytes, &block));
        nnl_bump_block *header = block;
        *header = (nnl_bump_block){bump->blocks, bytes};
        bump->blocks = header;
        bump->used = HEADER;
    }
    void *at = (char *)bump->blocks + bump->used;
    bump->used += size;
    memset(at, 0, size);
    memcpy(out, &at, sizeof at);
    return NNL_OK;
}

void nnl_bump_free(nnl_bump *bump)
{
    while (bump->blocks) {
        nnl_bump_block *next = bump->blocks->next;
        nnl_free(bump->rt, bump->blocks, bump->blocks->size);
        bump->blocks = next;
    }
}

nnl_status nnl_bump_grow(nnl_bump *bump, size_t element, int count, void *array)
{
    bool full = count == 0 || (count >= 16 && (count & (count - 1)) == 0);
    if (!full) return NNL_OK;
    size_t capacity = count ? 2 * (size_t)count : 16;
    void *old, *grown;
    memcpy(&old, array, sizeof old);
    NNL_TRY(nnl_bump_alloc(bump, capacity * element, &grown));
    if (count) memcpy(grown, old, (size_t)count * element);
    memcpy(array, &grown, sizeof grown);
    return NNL_OK;
}
