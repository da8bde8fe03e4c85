/* The price of the door: add of two tensors of 4 elements, from C by handle. */
#include "bench.h"

int main(void)
{
    nnl_runtime_config config = nnl_runtime_defaults();
    nnl_runtime *rt;
    if (nnl_runtime_new(&config, &rt) != NNL_OK) return 1;
    float data[4] = {1, 2, 3, 4};
    nnl_tensor *in[2], *out;
    for (int i = 0; i < 2; i++) {
        if (nnl_tensor_from(rt, NNL_F32, 1, (int64_t[]){4}, data, &in[i]) != NNL_OK) return 1;
    }
    const nnl_op *add = nnl_op_find("add");
    double best = 1e9;
    for (int round = 0; round < 20; round++) {
        double start = bench_now(CLOCK_MONOTONIC);
        for (int i = 0; i < 100000; i++) {
            if (nnl_apply(rt, add, in, 2, NULL, &out, 1) != NNL_OK) return 1;
            nnl_tensor_unref(out);
        }
        double time = (bench_now(CLOCK_MONOTONIC) - start) / 100000;
        if (time < best) best = time;
    }
    printf("add of 4 elements from C: %.3f us\n", best * 1e6);
    for (int i = 0; i < 2; i++) nnl_tensor_unref(in[i]);
    return nnl_runtime_free(rt) != 0;
}
