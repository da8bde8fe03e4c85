/* A host that asks for a stop while calls run: they end soon, change nothing, and can be made again. */
#include "host.h"

#include <unistd.h>

static void *cancel_soon(void *rt)
{
    usleep(3000);
    nnl_runtime_cancel(rt);
    return NULL;
}

static void cancelling(int threads)
{
    ledger l;
    nnl_runtime *rt = open_with(&l, threads);
    nnl_tensor *x, *one = FLOATS(rt, 1, 1), *y = NULL;
    const int64_t size = 3 << 20;
    CHECK(nnl_tensor_zeros(rt, NNL_F32, 1, &size, &x) == NNL_OK, "zeros");
    nnl_runtime_cancel(rt);
    REFUSED(rt, apply(rt, "exp", 1, &x, NULL, &y), NNL_ECANCELLED, "cancelled");
    CHECK(!y && apply(rt, "exp", 1, &x, NULL, &y) == NNL_OK, "a request stops one call");
    nnl_tensor_unref(y);

    /* a change in place happens wholly or not at all */
    int64_t done = 0, stopped = 0;
    for (int round = 0; round < 4; round++) {
        pthread_t canceller;
        if (pthread_create(&canceller, NULL, cancel_soon, rt) != 0) exit(2);
        nnl_status status = NNL_OK;
        for (int i = 0; i < 100000 && status == NNL_OK; i++) {
            status = nnl_apply_inplace(rt, nnl_op_find("add"), (nnl_tensor *[]){x, one}, 2, NULL);
            done += status == NNL_OK;
        }
        pthread_join(canceller, NULL);
        stopped += status == NNL_ECANCELLED;
        const float *data = nnl_tensor_const_data(x);
        int64_t odd = 0;
        for (int64_t i = 0; i < size; i++) odd += data[i] != (float)done;
        CHECK(odd == 0, "%lld elements are not %lld", (long long)odd, (long long)done);
    }
    CHECK(stopped == 4, "%lld of 4 requests stopped a call", (long long)stopped);

    /* backward that is stopped leaves no gradient, and can be asked again */
    for (int round = 0; round < 3; round++) {
        network n;
        nnl_tensor *loss;
        pthread_t canceller;
        network_new(&n, rt, 256, 300, 300, 10);
        nnl_status status = NNL_OK;
        if (pthread_create(&canceller, NULL, cancel_soon, rt) != 0) exit(2);
        for (int i = 0; i < 10000 && status == NNL_OK; i++) {
            loss = NULL;
            network_zero_grad(&n);
            status = network_loss(&n, &loss);
            if (status == NNL_OK) {
                status = nnl_backward(loss, NULL, false, false);
                for (int p = 0; p < PARAMS && status != NNL_OK; p++)
                    CHECK(!nnl_tensor_grad(n.param[p]), "a gradient after a backward that was cancelled");
            }
            nnl_tensor_unref(loss);
        }
        pthread_join(canceller, NULL);
        CHECK(status == NNL_ECANCELLED, "not cancelled: %s", nnl_status_name(status));
        CHECK(network_step(&n, NULL) == NNL_OK, "after it: %s", nnl_error_message(rt));
        network_drop(&n);
    }
    nnl_tensor_unref(x);
    nnl_tensor_unref(one);
    close_with(&l, rt);
}

/* An allocator that asks for a stop while the call that wants memory runs. */
typedef struct stopper {
    ledger l;
    nnl_runtime *rt; /* NULL: not now */
    size_t from;     /* bytes of the request that it waits for */
} stopper;

static void *allocate_and_stop(void *user, void *pointer, size_t old_size, size_t new_size)
{
    stopper *s = user;
    if (s->rt && new_size >= s->from) nnl_runtime_cancel(s->rt);
    return ledger_allocate(&s->l, pointer, old_size, new_size);
}

/* A long call looks for a request all the way, with one thread too, and a short one does not hand on halves. */
static void stopping(int threads)
{
    static const struct {
        const char *op;
        int inputs;
        int64_t size[2];
        size_t from; /* what the call itself asks for */
    } calls[] = {{"matmul", 2, {400, 400}, 400 * 400 * 4}, {"matmul", 2, {60, 60}, 60 * 60 * 4}, {"sort", 1, {3, 50000}, 600000},
                 {"sort", 1, {1, 1000}, 4000}, {"argsort", 1, {1, 50000}, 400000}, {"unique", 1, {1, 50000}, 200000},
                 {"cumsum", 1, {100, 1000}, 400000}, {"exp", 1, {1, 300000}, 1200000}};
    const nnl_attr last[] = {NNL_INT("dim", -1), NNL_END};
    stopper s = {.from = 0};
    nnl_runtime_config config = nnl_runtime_defaults();
    nnl_runtime *rt;
    ledger_open(&s.l);
    config.allocate = allocate_and_stop;
    config.allocate_user = &s;
    config.threads = threads;
    if (nnl_runtime_new(&config, &rt) != NNL_OK) exit(2);
    for (int i = 0; i < COUNT(calls); i++) {
        nnl_tensor *x, *in[2], *y = NULL, *z = NULL;
        const nnl_attr *attrs = strcmp(calls[i].op, "cumsum") == 0 ? last : NULL;
        CHECK(nnl_tensor_zeros(rt, NNL_F32, 2, calls[i].size, &x) == NNL_OK, "zeros");
        in[0] = in[1] = x;
        nnl_memory_trim(rt);
        s.from = calls[i].from;
        s.rt = rt;
        nnl_status status = apply(rt, calls[i].op, calls[i].inputs, in, attrs, &y);
        s.rt = NULL;
        CHECK(status == NNL_ECANCELLED && !y, "%s of %lldx%lld: %s", calls[i].op, (long long)calls[i].size[0],
              (long long)calls[i].size[1], nnl_status_name(status));
        nnl_tensor_unref(y);
        CHECK(apply(rt, calls[i].op, calls[i].inputs, in, attrs, &z) == NNL_OK, "after it: %s", nnl_error_message(rt));
        nnl_tensor_unref(z);
        nnl_tensor_unref(x);
    }

    nnl_tensor *x = FLOATS(rt, 1, 1), *one = FLOATS(rt, 1, 1), *y = nnl_tensor_ref(x), *z;
    CHECK(nnl_tensor_set_requires_grad(x, true) == NNL_OK, "requires_grad");
    for (int i = 0; i < 2000; i++) {
        CHECK(apply(rt, "add", 2, (nnl_tensor *[]){y, one}, NULL, &z) == NNL_OK, "add");
        nnl_tensor_unref(y);
        y = z;
    }
    nnl_memory_trim(rt);
    s.from = 2048 * sizeof(void *); /* the list of the ops that are walked back through */
    s.rt = rt;
    REFUSED(rt, nnl_backward(y, NULL, false, false), NNL_ECANCELLED, "cancelled");
    s.rt = NULL;
    CHECK(!nnl_tensor_grad(x) && nnl_backward(y, NULL, false, false) == NNL_OK && value_at(nnl_tensor_grad(x), 0) == 1,
          "backward after it: %s", nnl_error_message(rt));
    nnl_tensor_unref(x);
    nnl_tensor_unref(y);
    nnl_tensor_unref(one);
    close_with(&s.l, rt);
}

int main(void)
{
    cancelling(1);
    cancelling(2);
    stopping(1);
    stopping(2);
    return report();
}
