/* A host that knows nothing but nnlua.h: what runtimes, tensors, ops and gradients do for it,
 * errors that have their form, and nothing that is left behind. */
#include "host.h"

#include <math.h>
#include <stddef.h>

/* ---------------------------------------------------------------- making a runtime */

static void configuration(void)
{
    nnl_runtime_config config = nnl_runtime_defaults();
    nnl_runtime *rt;
    CHECK(config.size == sizeof config && !config.allocate && config.isa == NNL_ISA_AUTO,
          "the defaults are others");
    CHECK(nnl_runtime_new(NULL, &rt) == NNL_OK && rt, "no configuration means the defaults");
    CHECK(nnl_runtime_threads(rt) >= 1 && nnl_runtime_isa(rt) != NNL_ISA_AUTO,
          "threads and instruction set are known");
    CHECK(strcmp(nnl_error_message(rt), "") == 0, "there is a message before any error");
    CHECK(nnl_runtime_free(rt) == 0, "tensors left");
    CHECK(nnl_runtime_free(NULL) == 0, "freeing NULL");

    /* A program built against an older header says so by a smaller size; what lies behind it is not
     * read. */
    struct {
        nnl_runtime_config config;
        char guard[64];
    } old;
    memset(&old, 0x7f, sizeof old);
    old.config = nnl_runtime_defaults();
    memset((char *)&old.config + offsetof(nnl_runtime_config, threads), 0x7f,
           sizeof old.config - offsetof(nnl_runtime_config, threads));
    old.config.size = offsetof(nnl_runtime_config, threads);
    old.config.memory_limit = 123 << 20;
    CHECK(nnl_runtime_new(&old.config, &rt) == NNL_OK, "an older configuration is refused");
    CHECK(memory_of(rt).limit == 123 << 20, "the limit of an older configuration is lost");
    nnl_runtime_free(rt);

    static const size_t sizes[] = {0, 1, sizeof(size_t) - 1, sizeof(nnl_runtime_config) + 1,
                                   SIZE_MAX};
    for (int i = 0; i < COUNT(sizes); i++) {
        config = nnl_runtime_defaults();
        config.size = sizes[i];
        rt = (nnl_runtime *)(void *)&config;
        CHECK(nnl_runtime_new(&config, &rt) == NNL_EINVAL && !rt,
              "a configuration of %zu bytes is taken", sizes[i]);
    }
    config = nnl_runtime_defaults();
    config.threads = -1;
    CHECK(nnl_runtime_new(&config, &rt) == NNL_EINVAL && !rt, "-1 threads");
    config = nnl_runtime_defaults();
    config.memory_limit = 64;
    CHECK(nnl_runtime_new(&config, &rt) == NNL_ENOMEM && !rt, "a limit of 64 bytes");

    int known = 0;
    for (nnl_isa isa = NNL_ISA_BASE; isa <= NNL_ISA_NEON; isa++) {
        config = nnl_runtime_defaults();
        config.isa = isa;
        nnl_status status = nnl_runtime_new(&config, &rt);
        CHECK(status == NNL_OK || (status == NNL_EUNSUPPORTED && !rt), "forcing %s: %s",
              nnl_isa_name(isa), nnl_status_name(status));
        if (status != NNL_OK) continue;
        known++;
        CHECK(nnl_runtime_isa(rt) == isa, "%s was forced, but %s runs", nnl_isa_name(isa),
              nnl_isa_name(nnl_runtime_isa(rt)));
        nnl_tensor *x = FLOATS(rt, 3, -1, 0.5f, 2), *y;
        CHECK(apply(rt, "relu", 1, &x, NULL, &y) == NNL_OK && value_at(y, 0) == 0 &&
                  value_at(y, 2) == 2,
              "relu on %s", nnl_isa_name(isa));
        nnl_tensor_unref(x);
        nnl_tensor_unref(y);
        CHECK(nnl_runtime_free(rt) == 0, "tensors left");
    }
    CHECK(known >= 1, "no instruction set runs");
    CHECK(strcmp(nnl_isa_name(NNL_ISA_AVX2), "avx2") == 0 &&
              strcmp(nnl_isa_name(NNL_ISA_AUTO), "auto") == 0,
          "names");
    CHECK(strcmp(nnl_status_name(NNL_ESHAPE), "NNL_ESHAPE") == 0 &&
              nnl_status_name((nnl_status)999),
          "status names");
    CHECK(strcmp(nnl_dtype_name(NNL_F32), "f32") == 0 && nnl_dtype_size(NNL_I64) == 8, "types");
}

/* ---------------------------------------------------------------- tensors */

static int releases;
static void release(void *user, void *data)
{
    releases++;
    *(void **)user = data;
}

static void tensors(void)
{
    ledger l;
    nnl_runtime *rt = open_with(&l, 1);
    nnl_tensor *t, *u;
    CHECK(nnl_tensor_new(rt, NNL_F64, 2, (int64_t[]){2, 3}, &t) == NNL_OK, "%s",
          nnl_error_message(rt));
    CHECK(nnl_tensor_runtime(t) == rt && nnl_tensor_dtype(t) == NNL_F64 && nnl_tensor_ndim(t) == 2,
          "what it is");
    CHECK(nnl_tensor_shape(t)[1] == 3 && nnl_tensor_strides(t)[0] == 3 && nnl_tensor_numel(t) == 6,
          "its shape");
    CHECK(nnl_tensor_is_contiguous(t) && !nnl_tensor_requires_grad(t) && !nnl_tensor_grad(t),
          "its state");
    CHECK((uintptr_t)nnl_tensor_data(t) % 64 == 0, "elements are not aligned to 64 bytes");
    CHECK(nnl_tensor_ref(t) == t, "ref returns its tensor");
    nnl_tensor_unref(t);
    nnl_tensor_unref(t);
    nnl_tensor_unref(NULL);

    CHECK(nnl_tensor_zeros(rt, NNL_I32, 0, NULL, &t) == NNL_OK && nnl_tensor_numel(t) == 1, "0-d");
    CHECK(*(const int32_t *)nnl_tensor_const_data(t) == 0, "zeros");
    nnl_tensor_unref(t);
    CHECK(nnl_tensor_zeros(rt, NNL_F32, 3, (int64_t[]){4, 0, 5}, &t) == NNL_OK &&
              nnl_tensor_numel(t) == 0,
          "empty");
    nnl_tensor_unref(t);

    /* conversions on reading */
    t = floats(rt, 2, (int64_t[]){2, 2}, (float[]){1.5f, -2.75f, 1e20f, NAN});
    int64_t whole[4];
    double wide[4];
    CHECK(nnl_tensor_read(t, NNL_I64, whole, sizeof whole) == NNL_OK, "%s", nnl_error_message(rt));
    CHECK(whole[0] == 1 && whole[1] == -2 && whole[2] == INT64_MAX && whole[3] == 0,
          "conversion to i64");
    CHECK(nnl_tensor_read(t, NNL_F64, wide, sizeof wide) == NNL_OK && wide[1] == -2.75,
          "conversion to f64");
    REFUSED(rt, nnl_tensor_read(t, NNL_F64, wide, sizeof wide - 1), NNL_EINVAL,
            "read: the buffer has 31 bytes");
    CHECK(apply(rt, "t", 1, &t, NULL, &u) == NNL_OK && !nnl_tensor_is_contiguous(u),
          "a transposed view");
    CHECK(nnl_tensor_read(u, NNL_F64, wide, sizeof wide) == NNL_OK && wide[1] == (double)1e20f &&
              wide[2] == -2.75,
          "reading is in row-major order");
    nnl_tensor_unref(u);
    nnl_tensor_unref(t);

    /* memory of the host's */
    float mine[6] = {1, 2, 3, 4, 5, 6};
    void *given_back = NULL;
    CHECK(nnl_tensor_wrap(rt, NNL_F32, 2, (int64_t[]){2, 3}, mine, release, &given_back, &t) ==
              NNL_OK,
          "wrap");
    CHECK(nnl_tensor_const_data(t) == mine, "it is used in place");
    const nnl_attr flat[] = {NNL_INTS("shape", 1, ((const int64_t[]){6})), NNL_END};
    CHECK(apply(rt, "reshape", 1, &t, flat, &u) == NNL_OK, "%s", nnl_error_message(rt));
    nnl_tensor_unref(t);
    CHECK(releases == 0, "released while a view is alive");
    CHECK(nnl_apply_inplace(rt, nnl_op_find("neg"), &u, 1, NULL) == NNL_OK && mine[5] == -6,
          "writing through a view");
    nnl_tensor_unref(u);
    CHECK(releases == 1 && given_back == mine, "released once, with its memory");
    REFUSED(
        rt,
        nnl_tensor_wrap(rt, NNL_F32, 1, (int64_t[]){1}, (char *)mine + 1, release, &given_back, &t),
        NNL_EINVAL, "align");
    CHECK(!t && releases == 1, "a wrap that failed released its memory");

    /* what is no tensor */
    static const struct {
        int ndim;
        int64_t shape[9];
    } bad[] = {{1, {-1}},
               {2, {3, -5}},
               {9, {1, 1, 1, 1, 1, 1, 1, 1, 1}},
               {-1, {0}},
               {2, {INT64_MAX, 2}},
               {3, {1 << 30, 1 << 30, 1 << 30}},
               {3, {INT64_MAX, INT64_MAX, 0}}};
    for (int i = 0; i < COUNT(bad); i++) {
        t = (nnl_tensor *)(void *)mine;
        nnl_status status = nnl_tensor_new(rt, NNL_F64, bad[i].ndim, bad[i].shape, &t);
        CHECK(status != NNL_OK && !t, "shape %d of the bad ones: %s", i, nnl_status_name(status));
        CHECK(strncmp(nnl_error_message(rt), "tensor: ", 8) == 0, "the message is: %s",
              nnl_error_message(rt));
    }
    REFUSED(rt, nnl_tensor_new(rt, (nnl_dtype)77, 0, NULL, &t), NNL_ETYPE, "type 77");
    close_with(&l, rt);
}

/* ---------------------------------------------------------------- ops */

static void ops(void)
{
    ledger l;
    nnl_runtime *rt = open_with(&l, 1);
    nnl_tensor *x = floats(rt, 2, (int64_t[]){2, 3}, (float[]){1, 5, 3, 4, 2, 6}),
               *y = FLOATS(rt, 3, 10, 20, 30), *z, *out[4];
    CHECK(nnl_op_count() > 200, "%d ops", nnl_op_count());
    for (int i = 0; i < nnl_op_count(); i++) {
        const nnl_op *op = nnl_op_at(i);
        CHECK(op && nnl_op_find(nnl_op_name(op)) == op && nnl_op_signature(op),
              "op %d is not found by its name", i);
    }
    CHECK(!nnl_op_find("no_such_op") && !nnl_op_at(-1) && !nnl_op_at(nnl_op_count()),
          "ops that are none");

    const nnl_attr twice[] = {NNL_FLOAT("alpha", 2), NNL_END};
    CHECK(apply(rt, "add", 2, (nnl_tensor *[]){x, y}, twice, &z) == NNL_OK && value_at(z, 5) == 66,
          "add with alpha");
    nnl_tensor_unref(z);
    const nnl_attr over[] = {NNL_INT("dim", -1), NNL_FLAG("keepdim", true), NNL_END};
    CHECK(apply(rt, "sum", 1, &x, over, &z) == NNL_OK && nnl_tensor_ndim(z) == 2 &&
              value_at(z, 1) == 12,
          "sum");
    nnl_tensor_unref(z);
    const nnl_attr both[] = {NNL_INTS("dim", 2, ((const int64_t[]){0, -1})), NNL_END};
    CHECK(apply(rt, "sum", 1, &x, both, &z) == NNL_OK && nnl_tensor_ndim(z) == 0 &&
              value_at(z, 0) == 21,
          "sum over two");
    nnl_tensor_unref(z);

    /* one number where a list is possible */
    CHECK(apply(rt, "zeros", 0, NULL, (nnl_attr[]){NNL_INT("size", 5), NNL_END}, &z) == NNL_OK &&
              nnl_tensor_ndim(z) == 1 && nnl_tensor_numel(z) == 5,
          "zeros of size 5");
    nnl_tensor_unref(z);

    /* several results, and positions counted from 0 */
    const nnl_attr rows[] = {NNL_INT("dim", 1), NNL_END};
    CHECK(nnl_apply(rt, nnl_op_find("max"), &x, 1, rows, out, 2) == NNL_OK, "%s",
          nnl_error_message(rt));
    const int64_t *places = nnl_tensor_const_data(out[1]);
    CHECK(value_at(out[0], 0) == 5 && places[0] == 1 && places[1] == 2, "max and its places");
    nnl_tensor_unref(out[0]);
    nnl_tensor_unref(out[1]);
    CHECK(nnl_apply(rt, nnl_op_find("max"), &x, 1, rows, out, 1) == NNL_OK,
          "surplus results are dropped");
    nnl_tensor_unref(out[0]);
    REFUSED(rt, nnl_apply(rt, nnl_op_find("max"), &x, 1, rows, out, 3), NNL_EINVAL,
            "max: 3 results wanted");
    CHECK(!out[0] && !out[1] && !out[2], "results of a call that failed");

    /* errors: op, argument, got, wanted */
    const nnl_op *add = nnl_op_find("add"), *sum = nnl_op_find("sum"),
                 *matmul = nnl_op_find("matmul");
    REFUSED(rt, nnl_apply(rt, NULL, &x, 1, NULL, &z, 1), NNL_EINVAL, "op is NULL");
    REFUSED(rt, nnl_apply(rt, matmul, (nnl_tensor *[]){x, x}, 2, NULL, &z, 1), NNL_ESHAPE,
            "matmul: ");
    CHECK(has(nnl_error_message(rt), "2x3"), "the message names no shape: %s",
          nnl_error_message(rt));
    REFUSED(rt, nnl_apply(rt, sum, &x, 1, (nnl_attr[]){NNL_FLAG("keepdims", true), NNL_END}, &z, 1),
            NNL_EINVAL, "did you mean keepdim?");
    REFUSED(rt, nnl_apply(rt, sum, &x, 1, (nnl_attr[]){NNL_WORD("dim", "last"), NNL_END}, &z, 1),
            NNL_EINVAL, "sum: dim");
    REFUSED(rt, nnl_apply(rt, sum, &x, 1, (nnl_attr[]){NNL_INT("dim", 2), NNL_END}, &z, 1),
            NNL_EINVAL, "dimensions 0 to 1 (or -2 to -1)");
    REFUSED(rt, nnl_apply(rt, add, (nnl_tensor *[]){x, y, y}, 3, NULL, &z, 1), NNL_EINVAL,
            "3 tensors given, 2 wanted");
    REFUSED(rt, nnl_apply(rt, add, (nnl_tensor *[]){x}, 1, NULL, &z, 1), NNL_EINVAL,
            "other is missing");
    REFUSED(rt, nnl_apply(rt, add, (nnl_tensor *[]){NULL, x}, 2, NULL, &z, 1), NNL_EINVAL,
            "input is missing");
    nnl_tensor *odd = FLOATS(rt, 2, 1, 2), *label;
    REFUSED(rt, nnl_apply(rt, add, (nnl_tensor *[]){x, odd}, 2, NULL, &z, 1), NNL_ESHAPE, "add: ");
    CHECK(!z, "a result of a call that failed");
    CHECK(nnl_tensor_from(rt, NNL_I64, 1, (int64_t[]){2}, (int64_t[]){2, 3}, &label) == NNL_OK,
          "labels");
    REFUSED(rt, apply(rt, "cross_entropy", 2, (nnl_tensor *[]){x, label}, NULL, &z), NNL_EINDEX,
            "cross_entropy: ");
    CHECK(has(nnl_error_message(rt), "3"), "the class is not named: %s", nnl_error_message(rt));
    REFUSED(rt, apply(rt, "gelu", 1, &label, NULL, &z), NNL_ETYPE,
            "gelu: input must be f32 or f64, but it is i64");
    REFUSED(rt,
            apply(rt, "gelu", 1, &x, (nnl_attr[]){NNL_WORD("approximate", "exactly"), NNL_END}, &z),
            NNL_EINVAL, "exactly");

    ledger l2;
    nnl_runtime *other = open_with(&l2, 1);
    nnl_tensor *foreign = FLOATS(other, 3, 1, 2, 3);
    REFUSED(rt, nnl_apply(rt, add, (nnl_tensor *[]){x, foreign}, 2, NULL, &z, 1), NNL_EINVAL,
            "another runtime");
    nnl_tensor_unref(foreign);
    close_with(&l2, other);

    /* the message stands until the next failure, also when it is its own argument */
    REFUSED(rt, nnl_apply(rt, add, (nnl_tensor *[]){x, odd}, 2, NULL, &z, 1), NNL_ESHAPE, "add: ");
    CHECK(apply(rt, "neg", 1, &x, NULL, &z) == NNL_OK && has(nnl_error_message(rt), "add: "),
          "the message was lost");
    nnl_tensor_unref(z);

    /* in place */
    CHECK(nnl_apply_inplace(rt, add, (nnl_tensor *[]){x, y}, 2, NULL) == NNL_OK &&
              value_at(x, 0) == 11,
          "add in place");
    REFUSED(rt, nnl_apply_inplace(rt, add, (nnl_tensor *[]){y, x}, 2, NULL), NNL_ESHAPE,
            "does not fit");
    CHECK(value_at(y, 0) == 10, "a call that failed changed its target");
    REFUSED(rt, nnl_apply_inplace(rt, matmul, (nnl_tensor *[]){x, y}, 2, NULL), NNL_EUNSUPPORTED,
            "matmul");
    REFUSED(rt, nnl_apply_inplace(rt, add, (nnl_tensor *[]){label, odd}, 2, NULL), NNL_ETYPE,
            "i64");
    const nnl_attr five[] = {NNL_INTS("sizes", 2, ((const int64_t[]){5, 3})), NNL_END};
    CHECK(apply(rt, "expand", 1, &y, five, &z) == NNL_OK, "%s", nnl_error_message(rt));
    REFUSED(rt, nnl_apply_inplace(rt, add, (nnl_tensor *[]){z, y}, 2, NULL), NNL_ESTATE,
            "expanded");
    nnl_tensor *const all[] = {x, y, z, odd, label};
    for (int i = 0; i < COUNT(all); i++) nnl_tensor_unref(all[i]);
    close_with(&l, rt);
}

/* What a host in a language with wrappers gets wrong: NULL, negative counts, sizes beyond
 * everything. */
static void misuse(void)
{
    ledger l, l2;
    nnl_runtime *rt = open_with(&l, 1), *other = open_with(&l2, 1);
    nnl_tensor *x = FLOATS(rt, 2, 1, 2), *foreign = FLOATS(other, 2, 1, 2), *y, *z, *out[2];
    const nnl_op *relu = nnl_op_find("relu"), *cat = nnl_op_find("cat"), *sum = nnl_op_find("sum");
    float data[2];
    CHECK(!nnl_op_find(NULL), "an op without a name");
    CHECK(nnl_runtime_new(NULL, NULL) == NNL_EINVAL, "a runtime for nobody");

    REFUSED(rt, nnl_apply(rt, relu, &x, 1, NULL, NULL, 1), NNL_EINVAL,
            "relu: the results number 1, but their address is NULL");
    REFUSED(rt, nnl_apply(rt, relu, &x, 1, NULL, out, -1), NNL_EINVAL,
            "relu: the results number -1");
    REFUSED(rt, nnl_apply(rt, relu, NULL, 1, NULL, out, 1), NNL_EINVAL,
            "relu: the input tensors number 1");
    REFUSED(rt, nnl_apply(rt, cat, &x, -1, NULL, out, 1), NNL_EINVAL,
            "cat: the input tensors number -1");
    REFUSED(rt, nnl_apply(rt, cat, (nnl_tensor *[]){x, NULL}, 2, NULL, out, 1), NNL_EINVAL,
            "cat: tensors is missing");
    REFUSED(rt, nnl_apply_inplace(rt, relu, NULL, 1, NULL), NNL_EINVAL,
            "relu: the input tensors number 1");
    REFUSED(rt, nnl_apply_inplace(rt, NULL, &x, 1, NULL), NNL_EINVAL, "op is NULL");
    CHECK(nnl_apply(NULL, relu, &x, 1, NULL, out, 1) == NNL_EINVAL, "no runtime");
    REFUSED(rt, nnl_apply(rt, sum, &x, 1, (nnl_attr[]){NNL_INTS("dim", 1, NULL), NNL_END}, out, 1),
            NNL_EINVAL, "sum: dim");
    REFUSED(rt,
            nnl_apply(rt, sum, &x, 1, (nnl_attr[]){NNL_INTS("dim", -1, &(int64_t){0}), NNL_END},
                      out, 1),
            NNL_EINVAL, "sum: dim number -1");
    REFUSED(rt, apply(rt, "gelu", 1, &x, (nnl_attr[]){NNL_WORD("approximate", NULL), NNL_END}, out),
            NNL_EINVAL, "gelu: approximate is NULL");
    REFUSED(rt, nnl_apply(rt, sum, &x, 1, (nnl_attr[]){NNL_INT("dim", INT64_MIN), NNL_END}, out, 1),
            NNL_EINVAL, "sum: dim");

    REFUSED(rt, apply(rt, "as_strided", 1, &x, NULL, out), NNL_EUNSUPPORTED,
            "as_strided: this op is for the library's own use");
    REFUSED(rt,
            apply(rt, "zeros", 0, NULL, (nnl_attr[]){NNL_INTS("size", 1, &(int64_t){-2}), NNL_END},
                  out),
            NNL_EINVAL, "zeros: size is -2");
    REFUSED(rt, apply(rt, "zeros", 0, NULL, (nnl_attr[]){NNL_INT("dtype", 77), NNL_END}, out),
            NNL_ETYPE, "zeros: dtype is 77");
    const nnl_attr rate[] = {NNL_FLOAT("lr", 0.1), NNL_FLOAT("momentum", 0.9), NNL_END};
    REFUSED(rt,
            nnl_apply(rt, nnl_op_find("rmsprop_step"), (nnl_tensor *[]){x, x, x, x, NULL}, 5, rate,
                      NULL, 0),
            NNL_EINVAL, "rmsprop_step: momentum_buffer of parameter 0 is missing");

    REFUSED(rt, nnl_tensor_new(rt, NNL_F32, 2, NULL, &y), NNL_EINVAL, "the shape is NULL");
    REFUSED(rt, nnl_tensor_new(rt, NNL_F32, 1, &(int64_t){1}, NULL), NNL_EINVAL, "result is NULL");
    CHECK(nnl_tensor_new(NULL, NNL_F32, 1, &(int64_t){1}, &y) == NNL_EINVAL, "no runtime");
    REFUSED(rt, nnl_tensor_new(rt, NNL_U8, 3, (int64_t[]){INT64_MAX, 0, 2}, &y), NNL_ENOMEM,
            "too large");
    REFUSED(rt, nnl_tensor_from(rt, NNL_F32, 1, &(int64_t){3}, NULL, &y), NNL_EINVAL,
            "3 elements is NULL");
    REFUSED(rt, nnl_tensor_wrap(rt, NNL_F32, 1, &(int64_t){3}, NULL, NULL, NULL, &y), NNL_EINVAL,
            "3 elements is NULL");
    REFUSED(rt, nnl_tensor_read(x, NNL_F32, NULL, 1000), NNL_EINVAL, "read: the buffer is NULL");
    CHECK(nnl_tensor_read(NULL, NNL_F32, data, sizeof data) == NNL_EINVAL, "read of nothing");
    /* a view has room for its size only in an int64_t, as everything */
    const nnl_attr huge[] = {
        NNL_INTS("sizes", 3, ((const int64_t[]){INT64_C(1) << 40, INT64_C(1) << 40, 2})), NNL_END};
    REFUSED(rt, apply(rt, "expand", 1, &x, huge, &y), NNL_ENOMEM,
            "expand: a f32 tensor of 1099511627776x1099511627776x2 is too large");

    CHECK(nnl_tensor_set_requires_grad(NULL, true) == NNL_EINVAL &&
              nnl_tensor_set_grad(NULL, x) == NNL_EINVAL,
          "NULL");
    REFUSED(rt, nnl_tensor_set_grad(x, foreign), NNL_EINVAL,
            "grad: the gradient belongs to another runtime");
    CHECK(nnl_tensor_set_requires_grad(x, true) == NNL_OK &&
              nnl_tensor_set_requires_grad(foreign, true) == NNL_OK,
          "leaves");
    CHECK(nnl_apply(rt, relu, &x, 1, NULL, &z, 1) == NNL_OK, "relu");
    CHECK(nnl_backward(NULL, NULL, false, false) == NNL_EINVAL, "backward from nothing");
    CHECK(nnl_grad_of(NULL, NULL, &x, 1, false, false, false, out) == NNL_EINVAL,
          "grad of nothing");
    REFUSED(rt, nnl_backward(z, foreign, false, false), NNL_EINVAL,
            "backward: the gradient belongs to another runtime");
    REFUSED(rt, nnl_grad_of(z, x, NULL, 1, false, false, false, out), NNL_EINVAL,
            "grad: the inputs number 1");
    REFUSED(rt, nnl_grad_of(z, x, &x, 1, false, false, false, NULL), NNL_EINVAL,
            "grad: the results number 1");
    REFUSED(rt, nnl_grad_of(z, x, &x, -1, false, false, false, out), NNL_EINVAL,
            "grad: the inputs number -1");
    REFUSED(rt, nnl_grad_of(z, x, &(nnl_tensor *){NULL}, 1, false, false, false, out), NNL_EINVAL,
            "grad: input 1 is NULL");
    REFUSED(rt, nnl_grad_of(z, x, &foreign, 1, false, false, true, out), NNL_EINVAL,
            "input 1 belongs to another runtime");
    CHECK(!nnl_tensor_grad(x), "a gradient after calls that failed");
    nnl_tensor_unref(z);
    nnl_tensor_unref(x);
    nnl_tensor_unref(foreign);
    close_with(&l, rt);
    close_with(&l2, other);
}

/* ---------------------------------------------------------------- gradients */

static bool near(double a, double b) { return fabs(a - b) <= 1e-5 * (1 + fabs(b)); }

static nnl_tensor *cube_sum(nnl_runtime *rt, nnl_tensor *x)
{
    nnl_tensor *s = NULL, *c = NULL, *y = NULL;
    CHECK(apply(rt, "mul", 2, (nnl_tensor *[]){x, x}, NULL, &s) == NNL_OK, "%s",
          nnl_error_message(rt));
    CHECK(apply(rt, "mul", 2, (nnl_tensor *[]){s, x}, NULL, &c) == NNL_OK, "%s",
          nnl_error_message(rt));
    CHECK(apply(rt, "sum", 1, &c, NULL, &y) == NNL_OK, "%s", nnl_error_message(rt));
    nnl_tensor_unref(s);
    nnl_tensor_unref(c);
    return y;
}

static void gradients(void)
{
    ledger l;
    nnl_runtime *rt = open_with(&l, 1);
    nnl_tensor *x = FLOATS(rt, 3, 1, -2, 3), *unused = FLOATS(rt, 1, 5), *g[2], *h = NULL, *y;
    CHECK(nnl_tensor_set_requires_grad(x, true) == NNL_OK && nnl_tensor_requires_grad(x),
          "requires_grad");
    CHECK(nnl_tensor_set_requires_grad(unused, true) == NNL_OK, "requires_grad");
    nnl_tensor *label;
    CHECK(nnl_tensor_zeros(rt, NNL_I64, 1, (int64_t[]){2}, &label) == NNL_OK, "zeros");
    REFUSED(rt, nnl_tensor_set_requires_grad(label, true), NNL_ETYPE, "i64");

    /* d sum(x^3) = 3 x^2, added at the second time */
    y = cube_sum(rt, x);
    CHECK(nnl_backward(y, NULL, true, false) == NNL_OK, "%s", nnl_error_message(rt));
    nnl_tensor *grad = nnl_tensor_grad(x);
    CHECK(grad && near(value_at(grad, 0), 3) && near(value_at(grad, 1), 12) &&
              near(value_at(grad, 2), 27),
          "3 x^2");
    CHECK(nnl_backward(y, NULL, false, false) == NNL_OK, "%s", nnl_error_message(rt));
    CHECK(nnl_tensor_grad(x) == grad && near(value_at(grad, 2), 54),
          "gradients are added, into the same tensor");
    REFUSED(rt, nnl_backward(y, NULL, false, false), NNL_ESTATE, "retain_graph");
    CHECK(near(value_at(grad, 2), 54), "a backward that failed changed a gradient");
    REFUSED(rt, nnl_tensor_set_grad(x, unused), NNL_ESHAPE, "grad: ");
    CHECK(nnl_tensor_set_grad(x, NULL) == NNL_OK && !nnl_tensor_grad(x), "clearing the gradient");
    nnl_tensor_unref(y);

    /* first and second derivatives without touching .grad */
    y = cube_sum(rt, x);
    CHECK(nnl_grad_of(y, NULL, &x, 1, false, true, false, g) == NNL_OK && !nnl_tensor_grad(x),
          "grad_of");
    CHECK(near(value_at(g[0], 1), 12), "3 x^2 is %g", (double)value_at(g[0], 1));
    nnl_tensor *ones = FLOATS(rt, 3, 1, 1, 1);
    CHECK(nnl_grad_of(g[0], ones, &x, 1, false, false, false, &h) == NNL_OK, "%s",
          nnl_error_message(rt));
    CHECK(near(value_at(h, 0), 6) && near(value_at(h, 1), -12) && near(value_at(h, 2), 18), "6 x");
    nnl_tensor_unref(h);
    nnl_tensor_unref(g[0]);
    nnl_tensor_unref(y);

    y = cube_sum(rt, x);
    nnl_tensor *const wanted[] = {x, unused};
    REFUSED(rt, nnl_grad_of(y, NULL, wanted, 2, true, false, false, g), NNL_EINVAL,
            "does not depend on input 2");
    CHECK(!g[0] && !g[1], "results of a call that failed");
    CHECK(nnl_grad_of(y, NULL, wanted, 2, true, false, true, g) == NNL_OK && g[0] && !g[1],
          "allow_unused");
    nnl_tensor_unref(g[0]);
    REFUSED(rt, nnl_grad_of(y, NULL, &label, 1, true, false, true, g), NNL_EINVAL,
            "does not require grad");
    CHECK(!nnl_tensor_grad(x), "grad_of left a gradient behind");
    nnl_tensor_unref(y);

    /* roots that do not do */
    nnl_tensor *many;
    CHECK(apply(rt, "mul", 2, (nnl_tensor *[]){x, x}, NULL, &many) == NNL_OK, "mul");
    REFUSED(rt, nnl_backward(many, NULL, false, false), NNL_ESHAPE, "backward: the tensor is 3");
    REFUSED(rt, nnl_backward(many, unused, false, false), NNL_ESHAPE,
            "backward: the gradient is 1");
    REFUSED(rt, nnl_backward(ones, ones, false, false), NNL_ESTATE, "requires grad");
    CHECK(nnl_backward(many, ones, false, false) == NNL_OK &&
              near(value_at(nnl_tensor_grad(x), 1), -4),
          "with a seed");
    CHECK(value_at(ones, 0) == 1, "the seed was changed");
    nnl_tensor_unref(many);
    (void)nnl_tensor_set_grad(x, NULL);

    /* the mode */
    CHECK(nnl_grad_mode(rt) && nnl_set_grad_mode(rt, false) && !nnl_grad_mode(rt), "the mode");
    CHECK(apply(rt, "mul", 2, (nnl_tensor *[]){x, x}, NULL, &many) == NNL_OK &&
              !nnl_tensor_requires_grad(many),
          "off");
    nnl_tensor_unref(many);
    CHECK(nnl_apply_inplace(rt, nnl_op_find("neg"), &x, 1, NULL) == NNL_OK && value_at(x, 0) == -1,
          "a leaf in place");
    nnl_set_grad_mode(rt, true);
    REFUSED(rt, nnl_apply_inplace(rt, nnl_op_find("neg"), &x, 1, NULL), NNL_ESTATE, "leaf");
    CHECK(value_at(x, 0) == -1, "a call that failed changed its target");

    /* a value that backward needs may not change in between, by whatever way */
    y = cube_sum(rt, x);
    ((float *)nnl_tensor_data(x))[0] = 7;
    REFUSED(rt, nnl_backward(y, NULL, false, false), NNL_ESTATE, "changed in place");
    CHECK(!nnl_tensor_grad(x), "a backward that failed left a gradient");
    nnl_tensor *const all[] = {x, y, unused, label, ones};
    for (int i = 0; i < COUNT(all); i++) nnl_tensor_unref(all[i]);
    close_with(&l, rt);
}

int main(void)
{
    configuration();
    tensors();
    ops();
    misuse();
    gradients();
    return report();
}
