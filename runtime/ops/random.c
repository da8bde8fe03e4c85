/* Tensors of random numbers. */
#include "elementwise.h"
#include "random.h"

#include <math.h>
#include <string.h>

#define BLOCK 512 /* elements made at a time: even, and a whole number of Philox blocks */

/* ---------------------------------------------------------------- numbers in bulk */

void nnl_random_words(const nnl_stream *stream, int64_t first, int64_t n, uint32_t *out)
{
    uint32_t one[4];
    for (; n > 0 && first % 4 != 0; first++, n--) {
        stream->kernels->random_words(one, stream->seed, stream->call, (uint64_t)first / 4, 1);
        *out++ = one[first % 4];
    }
    stream->kernels->random_words(out, stream->seed, stream->call, (uint64_t)first / 4, n / 4);
    if (n % 4 == 0) return;
    stream->kernels->random_words(one, stream->seed, stream->call, (uint64_t)(first + n) / 4, 1);
    memcpy(out + n / 4 * 4, one, (size_t)(n % 4) * sizeof *out);
}

void nnl_random_uniform_f32(const nnl_stream *stream, int64_t first, int64_t n, double low,
                            double range, float *out)
{
    uint32_t words[BLOCK];
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t count = NNL_MIN(BLOCK, n - i);
        nnl_random_words(stream, first + i, count, words);
        stream->kernels->random_uniform_f32(out + i, words, low, range, count);
    }
}

void nnl_random_uniform_f64(const nnl_stream *stream, int64_t first, int64_t n, double low,
                            double range, double *out)
{
    uint32_t words[2 * BLOCK];
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t count = NNL_MIN(BLOCK, n - i);
        nnl_random_words(stream, 2 * (first + i), 2 * count, words);
        stream->kernels->random_uniform_f64(out + i, words, low, range, count);
    }
}

/* The high half of bits * bound: uniform but for one part in 2^64 / bound. */
uint64_t nnl_random_below(uint64_t bits, uint64_t bound)
{
    if (bound == 0) return bits;
    uint64_t a0 = bits & 0xffffffffu, a1 = bits >> 32, b0 = bound & 0xffffffffu, b1 = bound >> 32;
    uint64_t middle = a1 * b0 + (a0 * b0 >> 32), other = a0 * b1 + (middle & 0xffffffffu);
    return a1 * b1 + (middle >> 32) + (other >> 32);
}

/* ---------------------------------------------------------------- filling a tensor */

typedef struct fill_job fill_job;
/* Makes elements first .. first + n - 1 in f32, f64 or i64, as job->made says; first is even. */
typedef void maker(const fill_job *job, int64_t first, int64_t n, void *out);

struct fill_job {
    nnl_stream stream;
    maker *make;
    nnl_dtype made;
    nnl_tensor *out;
    double a, b;
    uint64_t low, bound;
};

/* Elements are counted in row-major order, whatever the tensor's layout is. */
static void store_strided(nnl_tensor *out, int64_t first, int64_t n, const char *from)
{
    size_t width = nnl_dtype_size((nnl_dtype)out->dtype);
    for (int64_t i = 0; i < n; i++) {
        int64_t rest = first + i, offset = 0;
        for (int d = out->ndim - 1; d >= 0; d--) {
            offset += rest % out->shape[d] * out->strides[d];
            rest /= out->shape[d];
        }
        memcpy(out->data + (size_t)offset * width, from + (size_t)i * width, width);
    }
}

static void fill_task(void *context, int64_t chunk)
{
    const fill_job *job = context;
    nnl_tensor *out = job->out;
    nnl_dtype dtype = (nnl_dtype)out->dtype;
    _Alignas(64) char made[BLOCK * 8], converted[BLOCK * 8];
    int64_t first = chunk * BLOCK, n = NNL_MIN(BLOCK, out->numel - first);
    char *to = out->data + first * (int64_t)nnl_dtype_size(dtype);
    if (out->contiguous && dtype == job->made) {
        job->make(job, first, n, to);
        return;
    }
    job->make(job, first, n, made);
    if (!out->contiguous) to = converted;
    if (dtype == job->made)
        to = made;
    else
        job->stream.kernels->convert(dtype, job->made, to, made, n);
    if (!out->contiguous) store_strided(out, first, n, to);
}

static nnl_status fill(nnl_call *c, fill_job *job)
{
    job->stream = nnl_stream_of(c->rt, c->random);
    job->out = c->out[0];
    int64_t chunks = (job->out->numel + BLOCK - 1) / BLOCK;
    if (job->out->numel * 4 > nnl_serial_work(c->rt)) return nnl_parallel(c->rt, chunks, fill_task, job);
    for (int64_t i = 0; i < chunks; i++) fill_task(job, i);
    return NNL_OK;
}

/* Numbers of other types than f64 are made in f32. */
static nnl_dtype made_in(const nnl_tensor *out)
{
    return out->dtype == NNL_F64 ? NNL_F64 : NNL_F32;
}

static void make_uniform(const fill_job *job, int64_t first, int64_t n, void *out)
{
    if (job->made == NNL_F32)
        nnl_random_uniform_f32(&job->stream, first, n, job->a, job->b - job->a, out);
    else
        nnl_random_uniform_f64(&job->stream, first, n, job->a, job->b - job->a, out);
}

static void make_normal(const fill_job *job, int64_t first, int64_t n, void *out)
{
    uint32_t words[2 * BLOCK + 4];
    int64_t even = n + n % 2; /* pairs belong together: an odd end is made beside */
    float last32[2];
    double last64[2];
    if (job->made == NNL_F32) {
        nnl_random_words(&job->stream, first, even, words);
        job->stream.kernels->random_normal_f32(out, words, job->a, job->b, n - n % 2);
        if (n % 2 == 0) return;
        job->stream.kernels->random_normal_f32(last32, words + n - 1, job->a, job->b, 2);
        ((float *)out)[n - 1] = last32[0];
    } else {
        nnl_random_words(&job->stream, 2 * first, 2 * even, words);
        job->stream.kernels->random_normal_f64(out, words, job->a, job->b, n - n % 2);
        if (n % 2 == 0) return;
        job->stream.kernels->random_normal_f64(last64, words + 2 * (n - 1), job->a, job->b, 2);
        ((double *)out)[n - 1] = last64[0];
    }
}

static void make_integer(const fill_job *job, int64_t first, int64_t n, void *out)
{
    uint32_t words[2 * BLOCK];
    int64_t *to = out;
    nnl_random_words(&job->stream, 2 * first, 2 * n, words);
    for (int64_t i = 0; i < n; i++) {
        uint64_t bits = words[2 * i] | (uint64_t)words[2 * i + 1] << 32;
        to[i] = (int64_t)(job->low + nnl_random_below(bits, job->bound));
    }
}

/* -log(1 - u) / lambda */
static void make_exponential(const fill_job *job, int64_t first, int64_t n, void *out)
{
    const nnl_kernels *kernels = job->stream.kernels;
    const int32_t step = 1;
    int map = NNL_MAP_log1p, scale = NNL_MAP_scale_shift;
    double param[2] = {-1 / job->a, 0};
    if (job->made == NNL_F32)
        nnl_random_uniform_f32(&job->stream, first, n, 0, -1, out);
    else
        nnl_random_uniform_f64(&job->stream, first, n, 0, -1, out);
    const void *in[1] = {out};
    kernels->map[map][job->made](out, in, &step, param, n);
    kernels->map[scale][job->made](out, in, &step, param, n);
}

/* ---------------------------------------------------------------- tensors of random numbers */

#define NOTHING NNL_NO_GRAD("it has no inputs")
#define NOT_OF_VALUES NNL_NO_GRAD("the result does not depend on the input's elements")

static nnl_status sized_infer(nnl_call *c, const nnl_value *sizes, const nnl_value *dtype)
{
    int count = nnl_given(sizes) ? sizes->count : 0;
    if (count > NNL_MAX_DIMS)
        return nnl_call_fail(c, NNL_ESHAPE, "%d sizes given, but at most %d are possible", count,
                             NNL_MAX_DIMS);
    nnl_spec_set(&c->spec[0], (nnl_dtype)dtype->as.i, count, sizes->as.ints);
    return NNL_OK;
}

static nnl_status check_float(nnl_call *c)
{
    if (nnl_is_float(c->spec[0].dtype)) return NNL_OK;
    return nnl_call_fail(c, NNL_ETYPE, "dtype must be f32 or f64, got %s",
                         nnl_dtype_name(c->spec[0].dtype));
}

static nnl_status float_infer(nnl_call *c)
{
    NNL_TRY(sized_infer(c, &c->attr[0], &c->attr[1]));
    return check_float(c);
}

static nnl_status rand_run(nnl_call *c)
{
    fill_job job = {.make = make_uniform, .made = made_in(c->out[0]), .a = 0, .b = 1};
    return fill(c, &job);
}

static nnl_status randn_run(nnl_call *c)
{
    fill_job job = {.make = make_normal, .made = made_in(c->out[0]), .a = 0, .b = 1};
    return fill(c, &job);
}

NNL_OP(rand,
    .sig = "size:size..., dtype:dtype=f32 -> dtype",
    .doc = "Uniform random numbers in [0, 1).",
    .example = "nn.rand(2, 3)",
    .infer = float_infer,
    .run = rand_run,
    .sample = "size={2, 3}; size={2, 3} dtype=\"f64\"",
    .traits = NNL_RANDOM,
    NOTHING);

NNL_OP(randn,
    .sig = "size:size..., dtype:dtype=f32 -> dtype",
    .doc = "Normal random numbers of mean 0 and standard deviation 1.",
    .example = "nn.randn(2, 3)",
    .infer = float_infer,
    .run = randn_run,
    .sample = "size={2, 3}; size=5 dtype=\"f64\"",
    .traits = NNL_RANDOM,
    NOTHING);

static nnl_status like_infer(nnl_call *c)
{
    nnl_spec_like(&c->spec[0], c->in[0]);
    if (nnl_given(&c->attr[0])) c->spec[0].dtype = (nnl_dtype)c->attr[0].as.i;
    return check_float(c);
}

NNL_OP(rand_like,
    .sig = "input:any, dtype:dtype? -> dtype",
    .doc = "Uniform random numbers in [0, 1) in input's shape.",
    .example = "nn.rand_like(nn.ones(2, 3))",
    .infer = like_infer,
    .run = rand_run,
    .traits = NNL_RANDOM,
    NOT_OF_VALUES);

NNL_OP(randn_like,
    .sig = "input:any, dtype:dtype? -> dtype",
    .doc = "Normal random numbers of mean 0 and standard deviation 1 in input's shape.",
    .example = "nn.randn_like(nn.ones(2, 3))",
    .infer = like_infer,
    .run = randn_run,
    .traits = NNL_RANDOM,
    NOT_OF_VALUES);

static nnl_status randint_infer(nnl_call *c)
{
    int64_t low = c->attr[0].as.i, high = c->attr[1].as.i;
    if (low > high)
        return nnl_call_fail(c, NNL_EINVAL, "low (%lld) is above high (%lld)", (long long)low,
                             (long long)high);
    return sized_infer(c, &c->attr[2], &c->attr[3]);
}

static nnl_status randint_run(nnl_call *c)
{
    uint64_t low = (uint64_t)c->attr[0].as.i, high = (uint64_t)c->attr[1].as.i;
    fill_job job = {.make = make_integer, .made = NNL_I64, .low = low, .bound = high - low + 1};
    return fill(c, &job);
}

NNL_OP(randint,
    .sig = "low:int, high:int, size:size..., dtype:dtype=i64 -> dtype",
    .doc = "Uniform random integers from low to high, both included, as math.random's.",
    .example = "nn.randint(1, 6, {2, 3})",
    .infer = randint_infer,
    .run = randint_run,
    .sample = "low=1 high=6 size={2, 3}; low=-3 high=3 size=7 dtype=\"f32\"",
    .traits = NNL_RANDOM,
    NOTHING);

static nnl_status randperm_infer(nnl_call *c)
{
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->attr[1].as.i, 1, &c->attr[0].as.i);
    return NNL_OK;
}

/* Fisher and Yates's shuffle: number i comes from words 2i and 2i + 1. */
static nnl_status randperm_run(nnl_call *c)
{
    int64_t n = c->attr[0].as.i;
    nnl_tensor *out = c->out[0], *wide = out;
    nnl_stream stream = nnl_stream_of(c->rt, c->random);
    nnl_spec spec;
    nnl_spec_set(&spec, NNL_I64, 1, &n);
    if (out->dtype != NNL_I64) NNL_TRY(nnl_tensor_make(c->rt, &spec, NULL, &wide));
    int64_t *p = (int64_t *)(void *)wide->data;
    uint32_t words[2 * BLOCK];
    for (int64_t i = 0; i < n; i++) {
        if (i % BLOCK == 0) {
            if (nnl_is_cancelled(c->rt)) break;
            nnl_random_words(&stream, 2 * i, 2 * NNL_MIN(BLOCK, n - i), words);
        }
        uint64_t bits = words[i % BLOCK * 2] | (uint64_t)words[i % BLOCK * 2 + 1] << 32;
        int64_t j = (int64_t)nnl_random_below(bits, (uint64_t)i + 1);
        p[i] = p[j]; /* with j = i the next line sets it */
        p[j] = i + c->index_base;
    }
    nnl_status status = nnl_poll_cancel(c->rt);
    if (wide == out) return status;
    if (status == NNL_OK) status = nnl_copy(out, wide);
    nnl_tensor_unref(wide);
    return status;
}

NNL_OP(randperm,
    .sig = "n:size, dtype:dtype=i64 -> dtype",
    .doc = "The positions 1 .. n (from C: 0 .. n - 1) in random order.",
    .example = "nn.randperm(10)",
    .infer = randperm_infer,
    .run = randperm_run,
    .sample = "n=10; n=0",
    .traits = NNL_RANDOM,
    NOTHING);

/* ---------------------------------------------------------------- filling in place */

static nnl_status two_params(nnl_call *c, maker *make)
{
    fill_job job = {.make = make,
                    .made = made_in(c->out[0]),
                    .a = nnl_value_double(&c->attr[0]),
                    .b = nnl_value_double(&c->attr[1])};
    return fill(c, &job);
}

static nnl_status uniform_infer(nnl_call *c)
{
    double low = nnl_value_double(&c->attr[0]), high = nnl_value_double(&c->attr[1]);
    if (!(low <= high))
        return nnl_call_fail(c, NNL_EINVAL, "from (%g) is above to (%g)", low, high);
    return nnl_infer_same(c);
}

static nnl_status uniform_run(nnl_call *c) { return two_params(c, make_uniform); }

NNL_OP(uniform,
    .sig = "input:float, from:num=0, to:num=1 -> same",
    .doc = "Uniform random numbers in [from, to) in input's shape; x:uniform_(from, to) writes "
           "them into x.",
    .example = "nn.zeros(3):uniform_(-1, 1)",
    .infer = uniform_infer,
    .run = uniform_run,
    .grad = nnl_flat_grad, /* the result does not depend on the input's elements */
    .traits = NNL_RANDOM | NNL_INPLACE_OK);

static nnl_status normal_infer(nnl_call *c)
{
    double std = nnl_value_double(&c->attr[1]);
    if (!(std >= 0))
        return nnl_call_fail(c, NNL_EINVAL, "std is %g, but it cannot be negative", std);
    return nnl_infer_same(c);
}

static nnl_status normal_run(nnl_call *c) { return two_params(c, make_normal); }

NNL_OP(normal,
    .sig = "input:float, mean:num=0, std:num=1 -> same",
    .doc = "Normal random numbers in input's shape; x:normal_(mean, std) writes them into x.",
    .example = "nn.zeros(3):normal_(0, 0.02)",
    .infer = normal_infer,
    .run = normal_run,
    .grad = nnl_flat_grad,
    .traits = NNL_RANDOM | NNL_INPLACE_OK);

static nnl_status exponential_infer(nnl_call *c)
{
    double rate = nnl_value_double(&c->attr[0]);
    if (!(rate > 0))
        return nnl_call_fail(c, NNL_EINVAL, "lambd is %g, but it must be positive", rate);
    return nnl_infer_same(c);
}

static nnl_status exponential_run(nnl_call *c)
{
    fill_job job = {
        .make = make_exponential, .made = made_in(c->out[0]), .a = nnl_value_double(&c->attr[0])};
    return fill(c, &job);
}

NNL_OP(exponential,
    .sig = "input:float, lambd:num=1 -> same",
    .doc = "Random numbers with density lambd e^(-lambd x) in input's shape; "
           "x:exponential_(lambd) writes them into x.",
    .example = "nn.zeros(3):exponential_()",
    .infer = exponential_infer,
    .run = exponential_run,
    .grad = nnl_flat_grad,
    .traits = NNL_RANDOM | NNL_INPLACE_OK);

/* ---------------------------------------------------------------- bernoulli */

static nnl_status bernoulli_infer(nnl_call *c)
{
    double p = nnl_value_double(&c->attr[0]);
    if (nnl_given(&c->attr[0]) && !(p >= 0 && p <= 1))
        return nnl_call_fail(c, NNL_EINVAL, "p is %g, but it must lie in [0, 1]", p);
    return nnl_infer_same(c);
}

/* 1 where a uniform number lies below the probability, in out, which holds uniform numbers; -1 when
 * all is well, else the place of the first that is no probability. */
#define COMPARE(type)                                                  \
    static int64_t compare_##type(type *out, const type *p, int64_t n) \
    {                                                                  \
        for (int64_t i = 0; i < n; i++) {                              \
            if (!(p[i] >= 0 && p[i] <= 1)) return i;                   \
        }                                                              \
        for (int64_t i = 0; i < n; i++) out[i] = out[i] < p[i];        \
        return -1;                                                     \
    }
COMPARE(float)
COMPARE(double)

static nnl_status bernoulli_run(nnl_call *c)
{
    nnl_tensor *x = c->in[0], *numbers, *p = NULL;
    bool given = nnl_given(&c->attr[0]);
    nnl_value chance = given ? c->attr[0] : V_NUM(0.5);
    nnl_spec spec;
    nnl_spec_like(&spec, x);
    NNL_TRY(nnl_tensor_make(c->rt, &spec, NULL, &numbers));
    nnl_status status = nnl_tensor_make(c->rt, &spec, NULL, &p);
    if (status == NNL_OK) status = given || c->inplace ? nnl_fill(p, chance) : nnl_copy(p, x);
    if (status == NNL_OK) {
        nnl_tensor *out = c->out[0];
        fill_job job = {.make = make_uniform, .made = (nnl_dtype)x->dtype, .a = 0, .b = 1};
        c->out[0] = numbers;
        status = fill(c, &job);
        c->out[0] = out;
    }
    if (status == NNL_OK) {
        int64_t bad = x->dtype == NNL_F32
                          ? compare_float((float *)(void *)numbers->data,
                                          (const float *)(const void *)p->data, x->numel)
                          : compare_double((double *)(void *)numbers->data,
                                           (const double *)(const void *)p->data, x->numel);
        if (bad >= 0)
            status =
                nnl_call_fail(c, NNL_EINVAL, "element %lld is %g, but probabilities lie in [0, 1]",
                              (long long)bad + c->index_base, nnl_element_double(p, bad));
    }
    if (status == NNL_OK) status = nnl_copy(c->out[0], numbers);
    nnl_tensor_unref(numbers);
    nnl_tensor_unref(p);
    return status;
}

NNL_OP(bernoulli,
    .sig = "input:real, p:num? -> same",
    .doc = "1 with the probability that the input's element gives, else 0; with p, this "
           "probability for all.  x:bernoulli_(p) writes them into x; there p is 0.5 by default.",
    .example = "nn.bernoulli(nn.full({3}, 0.5))",
    .infer = bernoulli_infer,
    .run = bernoulli_run,
    .grad = nnl_flat_grad,
    .sample = "input:3x4[0,1]; input:3x4 p=0.25",
    .traits = NNL_RANDOM | NNL_INPLACE_OK);
