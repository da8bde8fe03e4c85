/* The first, second, third ... request for memory fails, until the work is done: nothing crashes,
 * nothing is lost, nothing is changed by a call that fails, and the work that is done at last has
 * the right bits. */
#include "training.h"

/* A piece of work on tensors that it does not change, or changes at its end only. */
typedef struct work {
    const char *name;
    nnl_runtime *rt;
    network net;
    nnl_tensor *a, *b; /* 4x6, 6: require grad */
    nnl_tensor *plain; /* 4x6 */
    int64_t failures;
} work;

typedef nnl_status work_body(work *w, float *result);

/* ---------------------------------------------------------------- what must not change */

typedef struct snapshot {
    nnl_tensor *tensor;
    void *bytes;
} snapshot;

static snapshot take(nnl_tensor *t) { return (snapshot){t, t ? elements_of(t) : NULL}; }

static void look(snapshot *s, const char *what, const work *w)
{
    if (!s->tensor) return;
    CHECK(same_bits(s->tensor, s->bytes), "%s: %s changed in a call that failed", w->name, what);
    free(s->bytes);
}

/* nnl_backward: on failure no gradient has changed, appeared or gone. */
static nnl_status backward(work *w, nnl_tensor *root, nnl_tensor *const *leaves, int n,
                           bool create_graph)
{
    snapshot before[8];
    for (int i = 0; i < n; i++) before[i] = take(nnl_tensor_grad(leaves[i]));
    nnl_status status = nnl_backward(root, NULL, false, create_graph);
    for (int i = 0; i < n; i++) {
        if (status != NNL_OK) {
            CHECK(nnl_tensor_grad(leaves[i]) == before[i].tensor, "%s: a gradient appeared or went",
                  w->name);
            look(&before[i], "a gradient", w);
        } else {
            free(before[i].bytes);
        }
    }
    return status;
}

static nnl_status inplace(work *w, const char *op, nnl_tensor *target, nnl_tensor *other)
{
    snapshot before = take(target);
    nnl_status status =
        nnl_apply_inplace(w->rt, nnl_op_find(op), (nnl_tensor *[]){target, other}, 2, NULL);
    if (status != NNL_OK)
        look(&before, "the target of an op in place", w);
    else
        free(before.bytes);
    return status;
}

/* ---------------------------------------------------------------- the pieces of work */

static nnl_status training(work *w, float *result)
{
    network *n = &w->net;
    nnl_tensor *loss = NULL;
    nnl_manual_seed(w->rt, 5);
    nnl_status status = network_loss(n, &loss);
    if (status == NNL_OK) status = backward(w, loss, n->param, PARAMS, false);
    if (status == NNL_OK) {
        snapshot before[2 * PARAMS + 1];
        for (int i = 0; i < PARAMS; i++)
            before[i] = take(n->param[i]), before[PARAMS + i] = take(n->momentum[i]);
        before[2 * PARAMS] = take(n->steps);
        status = network_update(n);
        for (int i = 0; i < COUNT(before); i++) {
            if (status != NNL_OK)
                look(&before[i], "a parameter or its state", w);
            else
                free(before[i].bytes);
        }
    }
    if (status == NNL_OK) {
        *result = *(const float *)nnl_tensor_const_data(loss);
        for (int i = 0; i < PARAMS; i++)
            *result += ((const float *)nnl_tensor_const_data(n->param[i]))[0];
    }
    nnl_tensor_unref(loss);
    network_zero_grad(n);
    return status;
}

static nnl_status mse(work *w, float *result)
{
    nnl_tensor *y = NULL, *p = NULL, *loss = NULL;
    nnl_status status = apply(w->rt, "mul", 2, (nnl_tensor *[]){w->a, w->b}, NULL, &y);
    if (status == NNL_OK) status = apply(w->rt, "sigmoid", 1, &y, NULL, &p);
    if (status == NNL_OK)
        status = apply(w->rt, "mse_loss", 2, (nnl_tensor *[]){p, w->plain}, NULL, &loss);
    /* twice, so that the second is added to what the first left */
    if (status == NNL_OK) status = nnl_backward(loss, NULL, true, false);
    if (status == NNL_OK) status = backward(w, loss, (nnl_tensor *[]){w->a, w->b}, 2, false);
    if (status == NNL_OK) {
        const float *da = nnl_tensor_const_data(nnl_tensor_grad(w->a)),
                    *db = nnl_tensor_const_data(nnl_tensor_grad(w->b));
        *result = da[0] + da[23] + db[5];
    }
    nnl_tensor_unref(y);
    nnl_tensor_unref(p);
    nnl_tensor_unref(loss);
    (void)nnl_tensor_set_grad(w->a, NULL);
    (void)nnl_tensor_set_grad(w->b, NULL);
    return status;
}

static nnl_status second_order(work *w, float *result)
{
    nnl_tensor *y = NULL, *s = NULL, *g[2] = {NULL}, *g2 = NULL, *total = NULL, *h[2] = {NULL};
    nnl_status status = apply(w->rt, "mul", 2, (nnl_tensor *[]){w->a, w->b}, NULL, &y);
    if (status == NNL_OK) status = apply(w->rt, "gelu", 1, &y, NULL, &s);
    nnl_tensor_unref(y);
    y = NULL;
    if (status == NNL_OK) status = apply(w->rt, "sum", 1, &s, NULL, &y);
    nnl_tensor *const leaves[] = {w->a, w->b};
    if (status == NNL_OK) status = nnl_grad_of(y, NULL, leaves, 2, true, true, false, g);
    if (status == NNL_OK) status = apply(w->rt, "square", 1, &g[0], NULL, &g2);
    if (status == NNL_OK) status = apply(w->rt, "sum", 1, &g2, NULL, &total);
    if (status == NNL_OK) status = nnl_grad_of(total, NULL, leaves, 2, false, false, false, h);
    if (status == NNL_OK)
        *result = ((const float *)nnl_tensor_const_data(h[0]))[7] +
                  ((const float *)nnl_tensor_const_data(h[1]))[2];
    else
        CHECK(!h[0] && !h[1], "%s: results of a call that failed", w->name);
    nnl_tensor *const all[] = {y, s, g[0], g[1], g2, total, h[0], h[1]};
    for (int i = 0; i < COUNT(all); i++) nnl_tensor_unref(all[i]);
    return status;
}

static nnl_status views(work *w, float *result)
{
    nnl_tensor *y = NULL, *row = NULL, *part = NULL, *all = NULL, *loss = NULL;
    const nnl_attr rows[] = {NNL_INT("dim", 0), NNL_INT("start", 1), NNL_INT("length", 2), NNL_END};
    const nnl_attr column[] = {NNL_INT("dim", 1), NNL_INT("index", 3), NNL_END};
    nnl_status status = apply(w->rt, "mul", 2, (nnl_tensor *[]){w->a, w->b}, NULL, &y);
    if (status == NNL_OK) status = apply(w->rt, "narrow", 1, &y, rows, &part);
    if (status == NNL_OK) status = apply(w->rt, "select", 1, &y, column, &row);
    if (status == NNL_OK) status = inplace(w, "mul", part, w->b);
    if (status == NNL_OK) status = inplace(w, "add", row, row);
    if (status == NNL_OK) status = apply(w->rt, "mul", 2, (nnl_tensor *[]){y, y}, NULL, &all);
    if (status == NNL_OK) status = apply(w->rt, "sum", 1, &all, NULL, &loss);
    if (status == NNL_OK) status = backward(w, loss, (nnl_tensor *[]){w->a, w->b}, 2, false);
    if (status == NNL_OK) {
        const float *da = nnl_tensor_const_data(nnl_tensor_grad(w->a)),
                    *db = nnl_tensor_const_data(nnl_tensor_grad(w->b));
        *result = da[3] + da[9] + da[8] + db[3] + db[5];
    }
    nnl_tensor *const drop[] = {y, row, part, all, loss};
    for (int i = 0; i < COUNT(drop); i++) nnl_tensor_unref(drop[i]);
    (void)nnl_tensor_set_grad(w->a, NULL);
    (void)nnl_tensor_set_grad(w->b, NULL);
    return status;
}

#define MANY 20

/* Lists of tensors in and out, longer than what a call holds without a block. */
static nnl_status lists(work *w, float *result)
{
    nnl_tensor *piece[MANY] = {NULL}, *joined = NULL, *back[MANY] = {NULL}, *sum = NULL,
               *loss = NULL;
    nnl_status status = NNL_OK;
    const nnl_attr first[] = {NNL_INT("dim", 0), NNL_END};
    const nnl_attr sizes[] = {NNL_INT("size", 4), NNL_INT("dim", 0), NNL_END};
    for (int i = 0; i < MANY && status == NNL_OK; i++)
        status = apply(w->rt, "neg", 1, &w->a, NULL, &piece[i]);
    if (status == NNL_OK)
        status = nnl_apply(w->rt, nnl_op_find("cat"), piece, MANY, first, &joined, 1);
    if (status == NNL_OK)
        status = nnl_apply(w->rt, nnl_op_find("split"), &joined, 1, sizes, back, MANY);
    if (status == NNL_OK)
        status = apply(w->rt, "mul", 2, (nnl_tensor *[]){back[2], back[MANY - 1]}, NULL, &sum);
    if (status == NNL_OK) status = apply(w->rt, "sum", 1, &sum, NULL, &loss);
    if (status == NNL_OK) status = backward(w, loss, &w->a, 1, false);
    if (status == NNL_OK)
        *result = ((const float *)nnl_tensor_const_data(nnl_tensor_grad(w->a)))[11];
    for (int i = 0; i < MANY; i++) {
        nnl_tensor_unref(piece[i]);
        nnl_tensor_unref(back[i]);
    }
    nnl_tensor_unref(joined);
    nnl_tensor_unref(sum);
    nnl_tensor_unref(loss);
    (void)nnl_tensor_set_grad(w->a, NULL);
    return status;
}

/* Positions, sorting, conversions: ops that take blocks of their own while they run. */
static nnl_status assorted(work *w, float *result)
{
    static const struct {
        const char *op;
        nnl_attr attrs[3];
    } calls[] = {
        {"softmax", {NNL_INT("dim", 0), NNL_END}},
        {"logsumexp", {NNL_INT("dim", 1), NNL_END}},
        {"cumsum", {NNL_INT("dim", 0), NNL_END}},
        {"std", {NNL_END}},
        {"sort", {NNL_INT("dim", 1), NNL_END}},
        {"topk", {NNL_INT("k", 2), NNL_INT("dim", 1), NNL_END}},
        {"unique", {NNL_END}},
        {"nonzero", {NNL_END}},
        {"flip", {NNL_INT("dims", 0), NNL_END}},
        {"median", {NNL_END}},
        {"norm", {NNL_END}},
    };
    *result = 0;
    for (int i = 0; i < COUNT(calls); i++) {
        const nnl_op *op = nnl_op_find(calls[i].op);
        nnl_tensor *out = NULL;
        if (!op) continue;
        nnl_status status = nnl_apply(w->rt, op, &w->plain, 1, calls[i].attrs, &out, 1);
        if (status != NNL_OK) {
            CHECK(!out, "%s: a result of a call that failed", calls[i].op);
            return status;
        }
        double all[64] = {0};
        status = nnl_tensor_read(out, NNL_F64, all, sizeof all);
        nnl_tensor_unref(out);
        if (status != NNL_OK) return status;
        *result += (float)all[0];
    }
    return NNL_OK;
}

/* ---------------------------------------------------------------- failing */

enum { ONE, STICKY, HOST, WAYS };
static const char *const way_name[] = {"one request", "all requests from one on",
                                       "the host's allocator"};

static void work_open(work *w, const char *name, ledger *l, int threads)
{
    nnl_runtime_config config = nnl_runtime_defaults();
    config.allocate = ledger_allocate;
    config.allocate_user = l;
    config.threads = threads;
    *w = (work){.name = name};
    if (nnl_runtime_new(&config, &w->rt) != NNL_OK) exit(2);
    network_new(&w->net, w->rt, 8, 6, 10, 4);
    w->a = some_tensor(w->rt, 2, (int64_t[]){4, 6}, 1, 1);
    w->b = some_tensor(w->rt, 1, (int64_t[]){6}, 1, 100);
    w->plain = some_tensor(w->rt, 2, (int64_t[]){4, 6}, 1, 200);
    if (nnl_tensor_set_requires_grad(w->a, true) != NNL_OK ||
        nnl_tensor_set_requires_grad(w->b, true) != NNL_OK)
        exit(2);
}

static void work_close(work *w, ledger *l)
{
    network_drop(&w->net);
    nnl_tensor_unref(w->a);
    nnl_tensor_unref(w->b);
    nnl_tensor_unref(w->plain);
    int64_t left = nnl_runtime_free(w->rt);
    CHECK(left == 0, "%s: %lld tensors left", w->name, (long long)left);
    CHECK(l->live == 0 && l->blocks == 0, "%s: %zu bytes in %lld blocks were not given back",
          w->name, l->live, (long long)l->blocks);
    CHECK(l->wrong == 0, "%s: the allocator was called wrongly %lld times", w->name,
          (long long)l->wrong);
    ledger_close(l);
}

static void fail(work *w, ledger *l, int way, int64_t n)
{
    if (way == HOST) {
        nnl_memory_trim(w->rt);
        l->refuse_at = n;
    } else {
        nnl_memory_fail_after(w->rt, n, way == STICKY);
    }
}

/* warm: the signatures are read, so that memory comes back to the byte. */
static void run(const char *name, work_body *body, int way, bool warm, float wanted)
{
    ledger l;
    work w;
    ledger_open(&l);
    work_open(&w, name, &l, 1);
    float result = 0;
    if (warm) {
        nnl_memory_fail_after(w.rt, INT64_MAX, false);
        network spare;
        network kept = w.net;
        network_new(&spare, w.rt, 8, 6, 10, 4);
        w.net = spare;
        CHECK(body(&w, &result) == NNL_OK, "%s: %s", name, nnl_error_message(w.rt));
        network_drop(&w.net);
        w.net = kept;
    }
    nnl_status status = NNL_ENOMEM;
    int64_t n = 0;
    while (status == NNL_ENOMEM && n < 5000) {
        nnl_memory before = memory_of(w.rt);
        fail(&w, &l, way, ++n);
        status = body(&w, &result);
        nnl_memory_fail_after(w.rt, 0, false);
        l.refuse_at = 0;
        if (status == NNL_OK) break;
        nnl_memory after = memory_of(w.rt);
        CHECK(status == NNL_ENOMEM, "%s, %s, request %lld: status %s: %s", name, way_name[way],
              (long long)n, nnl_status_name(status), nnl_error_message(w.rt));
        CHECK(has(nnl_error_message(w.rt), "memory"), "%s: the message is: %s", name,
              nnl_error_message(w.rt));
        CHECK(after.tensors == before.tensors, "%s, %s, request %lld: %lld tensors lost", name,
              way_name[way], (long long)n, (long long)(after.tensors - before.tensors));
        if (warm)
            CHECK(after.live == before.live, "%s, %s, request %lld: %lld bytes lost", name,
                  way_name[way], (long long)n, (long long)after.live - (long long)before.live);
    }
    CHECK(status == NNL_OK, "%s, %s: no success after %lld requests", name, way_name[way],
          (long long)n);
    CHECK(n > 1 || way == HOST, "%s: nothing was asked for", name);
    CHECK(memcmp(&result, &wanted, sizeof result) == 0, "%s, %s: the result is %.9g, wanted %.9g",
          name, way_name[way], (double)result, (double)wanted);
    work_close(&w, &l);
}

/* Making a runtime is a piece of work too. */
static void making_a_runtime(void)
{
    nnl_status status = NNL_ENOMEM;
    for (int64_t n = 1; status == NNL_ENOMEM && n < 50; n++) {
        ledger l;
        ledger_open(&l);
        nnl_runtime_config config = nnl_runtime_defaults();
        nnl_runtime *rt = NULL;
        config.allocate = ledger_allocate;
        config.allocate_user = &l;
        config.threads = 2;
        l.refuse_at = n;
        status = nnl_runtime_new(&config, &rt);
        CHECK((status == NNL_OK) == (rt != NULL), "a runtime that failed is NULL");
        CHECK(status == NNL_OK || status == NNL_ENOMEM, "making a runtime gives %s",
              nnl_status_name(status));
        l.refuse_at = 0;
        if (rt) CHECK(nnl_runtime_free(rt) == 0, "tensors left");
        CHECK(l.live == 0, "making a runtime lost %zu bytes", l.live);
        ledger_close(&l);
    }
    CHECK(status == NNL_OK, "no runtime could be made");
}

int main(void)
{
    static const struct {
        const char *name;
        work_body *body;
        const char *needs;
    } all[] = {
        {"training step", training, "sgd_step"},
        {"mse", mse, "mse_loss"},
        {"second order", second_order, "gelu"},
        {"views", views, "narrow"},
        {"lists", lists, "split"},
        {"assorted", assorted, "softmax"},
    };
    making_a_runtime();
    for (int i = 0; i < COUNT(all); i++) {
        if (!CHECK(nnl_op_find(all[i].needs) != NULL, "there is no op %s", all[i].needs)) continue;
        ledger l;
        work w;
        float wanted = 0;
        ledger_open(&l);
        work_open(&w, all[i].name, &l, 1);
        nnl_status status = all[i].body(&w, &wanted);
        CHECK(status == NNL_OK, "%s: %s", all[i].name, nnl_error_message(w.rt));
        work_close(&w, &l);
        if (status != NNL_OK) continue;
        for (int way = 0; way < WAYS; way++) {
            run(all[i].name, all[i].body, way, true, wanted);
            run(all[i].name, all[i].body, way, false, wanted);
        }
    }
    return report();
}
