/* Any bytes as an IDX file. */
#include "../../runtime/data/idx.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    nnl_runtime *rt = fuzz_open();
    nnl_tensor *t;
    const size_t before = fuzz_live(rt);
    const nnl_status status = nnl_idx_read_memory(rt, "fuzz", data, size, &t);
    if (status == NNL_OK)
        fuzz_check_tensor(t);
    else
        fuzz_check_message(rt, status);
    nnl_tensor_unref(t);
    if (fuzz_live(rt) != before) __builtin_trap();
    fuzz_close(rt);
    return 0;
}
