/* What the fuzz targets share: a runtime with a memory limit, and the check that reading a file,
 * well or not, leaves nothing behind.  Build with clang -fsanitize=fuzzer,address,undefined and
 * link libnnlua's objects. */
#ifndef NNL_FUZZ_H
#define NNL_FUZZ_H

#include "../../runtime/tensor/tensor.h"

#include <string.h>

/* A runtime an input: what an input leaves behind is then seen, by the runtime and by
 * LeakSanitizer. */
static inline nnl_runtime *fuzz_open(void)
{
    nnl_runtime *rt;
    nnl_runtime_config config = nnl_runtime_defaults();
    config.memory_limit = (size_t)256 << 20;
    config.threads = 1;
    config.isa = NNL_ISA_BASE;
    if (nnl_runtime_new(&config, &rt) != NNL_OK) __builtin_trap();
    return rt;
}

static inline void fuzz_close(nnl_runtime *rt)
{
    if (nnl_runtime_free(rt) != 0) __builtin_trap();
}

static inline size_t fuzz_live(nnl_runtime *rt)
{
    nnl_memory memory = {.size = sizeof memory};
    nnl_memory_stats(rt, &memory);
    return memory.live;
}

/* A tensor that was read has a shape and as many readable elements. */
static inline void fuzz_check_tensor(nnl_tensor *t)
{
    volatile unsigned char sum = 0;
    const unsigned char *bytes = nnl_tensor_const_data(t);
    const size_t size = (size_t)nnl_tensor_numel(t) * nnl_dtype_size(nnl_tensor_dtype(t));
    for (size_t i = 0; i < size; i++) sum = (unsigned char)(sum + bytes[i]);
    if (nnl_tensor_ndim(t) < 0 || nnl_tensor_ndim(t) > NNL_MAX_DIMS) __builtin_trap();
    if (nnl_tensor_dtype(t) == NNL_BOOL) {
        for (size_t i = 0; i < size; i++) {
            if (bytes[i] > 1) __builtin_trap();
        }
    }
}

/* A failure has a message that names the file. */
static inline void fuzz_check_message(nnl_runtime *rt, nnl_status status)
{
    if (status == NNL_ENOMEM) return;
    if (strncmp(nnl_error_message(rt), "fuzz", 4) != 0) __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
