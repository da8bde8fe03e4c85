/* Any bytes as a safetensors file; and as its header and data, so that the length need not be
 * guessed. */
#include "../../runtime/formats/safetensors.h"
#include "fuzz.h"

static void try_bytes(nnl_runtime *rt, const void *data, size_t size)
{
    nnl_tensor_file *file;
    const size_t before = fuzz_live(rt);
    const nnl_status status = nnl_safetensors_read_memory(rt, "fuzz", data, size, &file);
    if (status == NNL_OK) {
        size_t bytes = 0;
        for (int64_t i = 0; i < file->count; i++) {
            nnl_tensor *t = file->tensors[i].tensor;
            fuzz_check_tensor(t);
            bytes += (size_t)nnl_tensor_numel(t) * nnl_dtype_size(nnl_tensor_dtype(t));
            if (strlen(file->tensors[i].name) > file->tensors[i].name_length) __builtin_trap();
        }
        if (bytes > size) __builtin_trap();
    } else {
        fuzz_check_message(rt, status);
    }
    nnl_tensor_file_free(file);
    if (fuzz_live(rt) != before) __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    nnl_runtime *rt = fuzz_open();
    try_bytes(rt, data, size);

    size_t header = size; /* up to the last closing brace */
    while (header > 0 && data[header - 1] != '}') header--;
    void *block;
    if (nnl_alloc(rt, 8 + size, &block) != NNL_OK) __builtin_trap();
    unsigned char *bytes = block;
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)((uint64_t)header >> (8 * i));
    if (size > 0) memcpy(bytes + 8, data, size);
    try_bytes(rt, bytes, 8 + size);
    nnl_free(rt, block, 8 + size);
    fuzz_close(rt);
    return 0;
}
