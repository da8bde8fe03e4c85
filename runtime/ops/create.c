/* Tensors made from nothing but numbers. */
#include "op.h"

#include <math.h>
#include <string.h>

#define NOTHING NNL_NO_GRAD("it has no inputs")
#define NOT_OF_VALUES NNL_NO_GRAD("the result does not depend on the input's elements")

/* Shape from attribute 0, type from attribute `place`. */
static nnl_status sized_infer(nnl_call *c, int place)
{
    const nnl_value *sizes = &c->attr[0];
    int count = nnl_given(sizes) ? sizes->count : 0;
    if (count > NNL_MAX_DIMS)
        return nnl_call_fail(c, NNL_ESHAPE, "%d sizes given, but at most %d are possible", count,
                             NNL_MAX_DIMS);
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->attr[place].as.i, count, sizes->as.ints);
    return NNL_OK;
}

static nnl_status size_dtype_infer(nnl_call *c) { return sized_infer(c, 1); }

static nnl_status zeros_run(nnl_call *c)
{
    memset(c->out[0]->data, 0,
           (size_t)c->out[0]->numel * nnl_dtype_size((nnl_dtype)c->out[0]->dtype));
    return NNL_OK;
}

static nnl_status ones_run(nnl_call *c) { return nnl_fill(c->out[0], V_INT(1)); }

NNL_OP(zeros,
    .sig = "size:size..., dtype:dtype=f32 -> dtype",
    .doc = "Zeros of a shape.",
    .example = "nn.zeros(2, 3)",
    .infer = size_dtype_infer,
    .run = zeros_run,
    .sample = "size={2, 3}; size={2, 0} dtype=\"i64\"",
    NOTHING);

NNL_OP(ones,
    .sig = "size:size..., dtype:dtype=f32 -> dtype",
    .doc = "Ones of a shape.",
    .example = "nn.ones(2, 3, {dtype = \"f64\"})",
    .infer = size_dtype_infer,
    .run = ones_run,
    .sample = "size={2, 3}; size=4 dtype=\"bool\"",
    NOTHING);

/* Memory that was used before would make results depend on what ran before: zeros cost one pass. */
NNL_OP(empty,
    .sig = "size:size..., dtype:dtype=f32 -> dtype",
    .doc = "A tensor of a shape for values to be written into; until then they are 0.",
    .example = "nn.empty(2, 3)",
    .infer = size_dtype_infer,
    .run = zeros_run,
    .sample = "size={2, 3}",
    NOTHING);

static nnl_status full_infer(nnl_call *c) { return sized_infer(c, 2); }
static nnl_status full_run(nnl_call *c) { return nnl_fill(c->out[0], c->attr[1]); }

NNL_OP(full,
    .sig = "size:size*, fill_value:scalar, dtype:dtype=f32 -> dtype",
    .doc = "A tensor of a shape with every element fill_value.",
    .example = "nn.full({2, 3}, 7)",
    .infer = full_infer,
    .run = full_run,
    .sample = "size={2, 3} fill_value=7; size={} fill_value=0.5",
    NOTHING);

static nnl_status eye_infer(nnl_call *c)
{
    int64_t n = c->attr[0].as.i, m = nnl_given(&c->attr[1]) ? c->attr[1].as.i : n;
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->attr[2].as.i, 2, (int64_t[]){n, m});
    return NNL_OK;
}

static nnl_status eye_run(nnl_call *c)
{
    nnl_tensor *out = c->out[0];
    size_t width = nnl_dtype_size((nnl_dtype)out->dtype);
    nnl_tensor *one;
    NNL_TRY(zeros_run(c));
    NNL_TRY(nnl_tensor_scalar(c->rt, (nnl_dtype)out->dtype, V_INT(1), &one));
    for (int64_t i = 0; i < NNL_MIN(out->shape[0], out->shape[1]); i++)
        memcpy(out->data + (size_t)(i * (out->shape[1] + 1)) * width, one->data, width);
    nnl_tensor_unref(one);
    return NNL_OK;
}

NNL_OP(eye,
    .sig = "n:size, m:size?, dtype:dtype=f32 -> dtype",
    .doc = "An n x m matrix (n x n if m is not given) with ones on the diagonal, else zeros.",
    .example = "nn.eye(3)",
    .infer = eye_infer,
    .run = eye_run,
    .sample = "n=3; n=2 m=4",
    NOTHING);

/* ---------------------------------------------------------------- ranges */

static bool is_whole(const nnl_value *v) { return v->kind != NNL_KIND_FLOAT; }

typedef struct range {
    nnl_value first, last, step;
    bool whole;
} range;

static range range_of(const nnl_call *c)
{
    range r = {c->attr[0], c->attr[1], c->attr[2], false};
    if (!nnl_given(&r.last)) {
        r.last = r.first;
        r.first = V_INT(1);
    }
    r.whole = is_whole(&r.first) && is_whole(&r.last) && is_whole(&r.step);
    return r;
}

/* Values in a range of integers: exact where first - last overflows, too. */
static nnl_status count_whole(nnl_call *c, const range *r, int64_t *count)
{
    int64_t first = r->first.as.i, last = r->last.as.i, step = r->step.as.i;
    *count = 0;
    if (step == 0) return nnl_call_fail(c, NNL_EINVAL, "step is 0");
    if (step > 0 ? last < first : last > first) return NNL_OK;
    uint64_t distance =
        step > 0 ? (uint64_t)last - (uint64_t)first : (uint64_t)first - (uint64_t)last;
    uint64_t stride = step > 0 ? (uint64_t)step : -(uint64_t)step;
    uint64_t n = distance / stride;
    if (n >= (uint64_t)INT64_MAX)
        return nnl_call_fail(c, NNL_ENOMEM, "there are too many values in this range");
    *count = (int64_t)n + 1;
    return NNL_OK;
}

static nnl_status count_real(nnl_call *c, const range *r, int64_t *count)
{
    double first = nnl_value_double(&r->first), last = nnl_value_double(&r->last),
           step = nnl_value_double(&r->step);
    *count = 0;
    if (step == 0 || !isfinite(first) || !isfinite(last) || !isfinite(step))
        return nnl_call_fail(c, NNL_EINVAL,
                             "first, last and step must be finite numbers and step not 0");
    double n = floor((last - first) / step + 1e-9) + 1;
    if (n >= 0x1p62) return nnl_call_fail(c, NNL_ENOMEM, "there are too many values in this range");
    *count = n > 0 ? (int64_t)n : 0;
    return NNL_OK;
}

static nnl_status arange_infer(nnl_call *c)
{
    range r = range_of(c);
    int64_t count;
    NNL_TRY(r.whole ? count_whole(c, &r, &count) : count_real(c, &r, &count));
    nnl_dtype dtype = nnl_given(&c->attr[3]) ? (nnl_dtype)c->attr[3].as.i
                      : r.whole              ? NNL_I64
                                             : NNL_F32;
    nnl_spec_set(&c->spec[0], dtype, 1, &count);
    return NNL_OK;
}

/* Values are computed in i64 or f64 and converted block by block. */
#define BLOCK 512

typedef struct sequence {
    nnl_tensor *out;
    bool whole;
    uint64_t first_whole, step_whole;
    double first, last, step;
    int64_t half; /* from here on counted back from last: both ends are exact */
} sequence;

static void sequence_task(void *context, int64_t chunk)
{
    const sequence *s = context;
    nnl_tensor *out = s->out;
    nnl_dtype dtype = (nnl_dtype)out->dtype;
    int64_t from = chunk * BLOCK, count = NNL_MIN(BLOCK, out->numel - from), n = out->numel;
    char *to = out->data + from * (int64_t)nnl_dtype_size(dtype);
    if (s->whole) {
        int64_t values[BLOCK];
        for (int64_t i = 0; i < count; i++)
            values[i] = (int64_t)(s->first_whole + s->step_whole * (uint64_t)(from + i));
        out->rt->kernels->convert(dtype, NNL_I64, to, values, count);
    } else {
        double values[BLOCK];
        for (int64_t i = 0; i < count; i++) {
            int64_t k = from + i;
            values[i] = k < s->half ? s->first + s->step * (double)k
                                    : s->last - s->step * (double)(n - 1 - k);
        }
        out->rt->kernels->convert(dtype, NNL_F64, to, values, count);
    }
}

static nnl_status sequence_run(nnl_call *c, sequence *s)
{
    s->out = c->out[0];
    int64_t chunks = (s->out->numel + BLOCK - 1) / BLOCK;
    if (s->out->numel > NNL_SERIAL_WORK) return nnl_parallel(c->rt, chunks, sequence_task, s);
    for (int64_t i = 0; i < chunks; i++) sequence_task(s, i);
    return NNL_OK;
}

static nnl_status arange_run(nnl_call *c)
{
    range r = range_of(c);
    sequence s = {.whole = r.whole,
                  .first_whole = (uint64_t)r.first.as.i,
                  .step_whole = (uint64_t)r.step.as.i,
                  .first = nnl_value_double(&r.first),
                  .step = nnl_value_double(&r.step),
                  .half = INT64_MAX};
    return sequence_run(c, &s);
}

NNL_OP(arange,
    .sig = "first:scalar, last:scalar?, step:scalar=1, dtype:dtype? -> dtype",
    .doc = "first, first + step, ... up to last, which is included: floor((last - first) / step + "
           "1e-9) + 1 values.  With one argument 1 .. first.  Integers give i64, floats f32.  "
           "Counts the same from C.",
    .example = "nn.arange(1, 10)",
    .infer = arange_infer,
    .run = arange_run,
    .sample = "first=5; first=0 last=1 step=0.25; first=10 last=1 step=-3",
    NOTHING);

static nnl_status linspace_infer(nnl_call *c)
{
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->attr[3].as.i, 1, &c->attr[2].as.i);
    return NNL_OK;
}

static nnl_status linspace_run(nnl_call *c)
{
    int64_t steps = c->attr[2].as.i;
    sequence s = {.first = nnl_value_double(&c->attr[0]),
                  .last = nnl_value_double(&c->attr[1]),
                  .half = (steps + 1) / 2};
    s.step = steps > 1 ? (s.last - s.first) / (double)(steps - 1) : 0;
    return sequence_run(c, &s);
}

NNL_OP(linspace,
    .sig = "first:num, last:num, steps:size, dtype:dtype=f32 -> dtype",
    .doc = "`steps` values at equal distances from first to last, both included.",
    .example = "nn.linspace(0, 1, 5)",
    .infer = linspace_infer,
    .run = linspace_run,
    .sample = "first=0 last=1 steps=5; first=2 last=-1 steps=1",
    NOTHING);

/* ---------------------------------------------------------------- like another tensor */

static nnl_status like_infer(nnl_call *c, int place)
{
    nnl_spec_like(&c->spec[0], c->in[0]);
    if (nnl_given(&c->attr[place])) c->spec[0].dtype = (nnl_dtype)c->attr[place].as.i;
    return NNL_OK;
}

static nnl_status dtype_like_infer(nnl_call *c) { return like_infer(c, 0); }
static nnl_status full_like_infer(nnl_call *c) { return like_infer(c, 1); }
static nnl_status full_like_run(nnl_call *c) { return nnl_fill(c->out[0], c->attr[0]); }

NNL_OP(zeros_like,
    .sig = "input:any, dtype:dtype? -> dtype",
    .doc = "Zeros of input's shape and type.",
    .example = "nn.zeros_like(nn.ones(2, 3))",
    .infer = dtype_like_infer,
    .run = zeros_run,
    NOT_OF_VALUES);

NNL_OP(ones_like,
    .sig = "input:any, dtype:dtype? -> dtype",
    .doc = "Ones of input's shape and type.",
    .example = "nn.ones_like(nn.zeros(2, 3))",
    .infer = dtype_like_infer,
    .run = ones_run,
    NOT_OF_VALUES);

NNL_OP(empty_like,
    .sig = "input:any, dtype:dtype? -> dtype",
    .doc = "A tensor of input's shape and type for values to be written into; until then they are "
           "0.",
    .example = "nn.empty_like(nn.ones(2, 3))",
    .infer = dtype_like_infer,
    .run = zeros_run,
    NOT_OF_VALUES);

NNL_OP(full_like,
    .sig = "input:any, fill_value:scalar, dtype:dtype? -> dtype",
    .doc = "A tensor of input's shape and type with every element fill_value.",
    .example = "nn.full_like(nn.ones(2, 3), 0.5)",
    .infer = full_like_infer,
    .run = full_like_run,
    .sample = "input:3x4 fill_value=2.5",
    NOT_OF_VALUES);
