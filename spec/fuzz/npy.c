/* Any bytes as an npy file; and as its dictionary and elements, so that the start need not be
 * guessed. */
#include "../../runtime/data/npy.h"
#include "fuzz.h"

static void try_bytes(nnl_runtime *rt, const void *data, size_t size)
{
    nnl_tensor *t;
    const size_t before = fuzz_live(rt);
    const nnl_status status = nnl_npy_read_memory(rt, "fuzz", data, size, &t);
    if (status == NNL_OK)
        fuzz_check_tensor(t);
    else
        fuzz_check_message(rt, status);
    nnl_tensor_unref(t);
    if (fuzz_live(rt) != before) __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    nnl_runtime *rt = fuzz_open();
    try_bytes(rt, data, size);
    if (size > 60000) {
        fuzz_close(rt);
        return 0;
    }

    size_t header = size; /* up to the last closing brace */
    while (header > 0 && data[header - 1] != '}') header--;
    void *block;
    if (nnl_alloc(rt, 10 + size, &block) != NNL_OK) __builtin_trap();
    unsigned char *bytes = block;
    memcpy(bytes, "\x93NUMPY\x01\x00", 8);
    bytes[8] = (unsigned char)header;
    bytes[9] = (unsigned char)(header >> 8);
    if (size > 0) memcpy(bytes + 10, data, size);
    try_bytes(rt, bytes, 10 + size);
    nnl_free(rt, block, 10 + size);
    fuzz_close(rt);
    return 0;
}
