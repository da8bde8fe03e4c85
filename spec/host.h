/* What the programs share that are hosts and know nothing but nnlua.h: runtimes whose allocator keeps books, short
 * tensors, calls that must fail. */
#ifndef HOST_H
#define HOST_H

#include "training.h"

static inline nnl_runtime *open_with(ledger *l, int threads)
{
    nnl_runtime_config config = nnl_runtime_defaults();
    nnl_runtime *rt;
    ledger_open(l);
    config.allocate = ledger_allocate;
    config.allocate_user = l;
    config.threads = threads;
    if (nnl_runtime_new(&config, &rt) != NNL_OK) exit(2);
    return rt;
}

static inline void close_with(ledger *l, nnl_runtime *rt)
{
    int64_t left = nnl_runtime_free(rt);
    CHECK(left == 0, "%lld tensors left", (long long)left);
    CHECK(l->live == 0 && l->blocks == 0, "%zu bytes in %lld blocks were not given back", l->live, (long long)l->blocks);
    CHECK(l->wrong == 0, "the allocator was called wrongly %lld times", (long long)l->wrong);
    ledger_close(l);
}

static inline nnl_tensor *floats(nnl_runtime *rt, int ndim, const int64_t *shape, const float *data)
{
    nnl_tensor *t;
    if (nnl_tensor_from(rt, NNL_F32, ndim, shape, data, &t) != NNL_OK) exit(2);
    return t;
}
#define FLOATS(rt, n, ...) floats((rt), 1, (const int64_t[]){(n)}, (const float[]){__VA_ARGS__})

static inline float value_at(const nnl_tensor *t, int64_t place) { return ((const float *)nnl_tensor_const_data(t))[place]; }

/* A call that must fail with this status and these words in its message. */
static inline void refused_at(int line, nnl_runtime *rt, nnl_status status, nnl_status wanted, const char *words)
{
    check_at(status == wanted, line, "status %s, wanted %s: %s", nnl_status_name(status), nnl_status_name(wanted),
             nnl_error_message(rt));
    check_at(has(nnl_error_message(rt), words), line, "\"%s\" is not in the message: %s", words, nnl_error_message(rt));
}
#define REFUSED(rt, call, wanted, words) refused_at(__LINE__, (rt), (call), (wanted), (words))

#endif
