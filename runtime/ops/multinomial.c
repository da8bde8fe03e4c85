/* Drawing positions by weights, with and without replacement. */
#include "random.h"
#include "window.h"

#include <math.h>

static nnl_status multinomial_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    int64_t count = c->attr[0].as.i;
    char text[NNL_NAMED_TEXT];
    if (x->ndim < 1 || x->ndim > 2 || x->shape[x->ndim - 1] == 0)
        return nnl_call_fail(c, NNL_ESHAPE, "%s must be a row of weights or a matrix of rows",
                             nnl_call_input_text(c, 0, text));
    if (!c->attr[1].as.i && count > x->shape[x->ndim - 1])
        return nnl_call_fail(
            c, NNL_EINVAL,
            "num_samples is %lld, but there are %lld weights; draw with replacement = true",
            (long long)count, (long long)x->shape[x->ndim - 1]);
    nnl_spec_set(&c->spec[0], NNL_I64, x->ndim, x->shape);
    c->spec[0].shape[x->ndim - 1] = count;
    return NNL_OK;
}

static nnl_status check_weights(nnl_call *c, const double *w, int64_t row, int64_t n, int64_t count,
                                bool replacement)
{
    double sum = 0;
    int64_t positive = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!(w[i] >= 0) || !isfinite(w[i]))
            return nnl_call_fail(
                c, NNL_EINVAL,
                "weight %lld of row %lld is %g, but weights are finite and not negative",
                (long long)i + c->index_base, (long long)row + c->index_base, w[i]);
        sum += w[i];
        positive += w[i] > 0;
    }
    if (positive == 0 || !isfinite(sum))
        return nnl_call_fail(c, NNL_EINVAL, "the weights of row %lld sum up to %g",
                             (long long)row + c->index_base, sum);
    if (!replacement && positive < count)
        return nnl_call_fail(c, NNL_EINVAL,
                             "row %lld has %lld weights above 0, fewer than num_samples (%lld)",
                             (long long)row + c->index_base, (long long)positive, (long long)count);
    return NNL_OK;
}

/* Drawing by the running sum of the weights, which replaces them. */
static void draw_again(const nnl_stream *stream, int64_t row, double *w, int64_t n, int64_t *out,
                       int64_t count)
{
    int64_t last = 0; /* with a weight: for numbers that rounding puts at the very end */
    for (int64_t i = 0; i < n; i++) {
        if (w[i] > 0) last = i;
        if (i > 0) w[i] += w[i - 1];
    }
    for (int64_t k = 0; k < count; k++) {
        double u;
        nnl_random_uniform_f64(stream, row * count + k, 1, 0, w[n - 1], &u);
        int64_t low = 0, high = last; /* the first whose running sum lies above u */
        while (low < high) {
            int64_t middle = (low + high) / 2;
            if (w[middle] > u)
                high = middle;
            else
                low = middle + 1;
        }
        out[k] = low;
    }
}

/* Without replacement: the smallest of e_i / w_i with e_i exponential (Efraimidis and Spirakis,
 * Information Processing Letters 97, 2006), in ascending order, which is the order of drawing one
 * after the other. */
static void draw_once(const nnl_stream *stream, int64_t row, double *w, double *key, int64_t n,
                      int64_t *out, int64_t count)
{
    const int32_t step = 1;
    const void *in[1] = {key};
    nnl_random_uniform_f64(stream, row * n, n, 0, -1, key);
    stream->kernels->map[NNL_MAP_log1p][NNL_F64](key, in, &step, NULL, n);
    for (int64_t i = 0; i < n; i++) key[i] = w[i] > 0 ? -key[i] / w[i] : INFINITY;
    /* A heap of the count smallest, the largest of them on top; then sorted by taking it off. */
    int64_t held = 0;
    for (int64_t i = 0; i < n; i++) {
        if (held == count && (count == 0 || !(key[i] < key[out[0]]))) continue;
        int64_t at;
        if (held < count) {
            for (at = held++; at > 0 && key[out[(at - 1) / 2]] < key[i]; at = (at - 1) / 2)
                out[at] = out[(at - 1) / 2];
        } else {
            for (at = 0;;) {
                int64_t child = 2 * at + 1;
                if (child + 1 < held && key[out[child + 1]] > key[out[child]]) child++;
                if (child >= held || key[out[child]] <= key[i]) break;
                out[at] = out[child];
                at = child;
            }
        }
        out[at] = i;
    }
    for (int64_t end = held - 1; end > 0; end--) {
        int64_t moved = out[end], at = 0;
        out[end] = out[0];
        for (;;) {
            int64_t child = 2 * at + 1;
            if (child + 1 < end && key[out[child + 1]] > key[out[child]]) child++;
            if (child >= end || key[out[child]] <= key[moved]) break;
            out[at] = out[child];
            at = child;
        }
        out[at] = moved;
    }
}

static nnl_status multinomial_run(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    bool replacement = c->attr[1].as.i;
    int64_t n = x->shape[x->ndim - 1], rows = x->numel / n, count = c->attr[0].as.i;
    int64_t *out = (int64_t *)(void *)c->out[0]->data;
    nnl_stream stream = nnl_stream_of(c->rt, c->random);
    size_t bytes = (size_t)(x->numel + n) * sizeof(double);
    void *block;
    NNL_TRY(nnl_alloc(c->rt, bytes, &block));
    double *weights = block, *key = weights + x->numel;
    nnl_tensor like = {.dtype = NNL_F64, .rt = c->rt};
    int64_t strides[NNL_MAX_DIMS];
    nnl_strides_contiguous(x->ndim, x->shape, strides);
    nnl_tensor wide = nnl_window(&like, block, x->ndim, x->shape, strides);
    nnl_status status = nnl_copy(&wide, x);
    for (int64_t r = 0; r < rows && status == NNL_OK; r++)
        status = check_weights(c, weights + r * n, r, n, count, replacement);
    for (int64_t r = 0; r < rows && status == NNL_OK; r++) {
        if (replacement)
            draw_again(&stream, r, weights + r * n, n, out + r * count, count);
        else
            draw_once(&stream, r, weights + r * n, key, n, out + r * count, count);
        for (int64_t k = 0; k < count; k++) out[r * count + k] += c->index_base;
        status = nnl_poll_cancel(c->rt);
    }
    nnl_free(c->rt, block, bytes);
    return status;
}

NNL_OP(multinomial,
    .sig = "input:real, num_samples:size, replacement:flag=false -> i64",
    .doc = "Positions drawn from each row with probabilities proportional to its weights; without "
           "replacement, each at most once.",
    .example = "nn.multinomial(nn.tensor({1, 2, 7}), 2)",
    .infer = multinomial_infer,
    .run = multinomial_run,
    .sample = "input:3x4[0.1,2] num_samples=2; input:5[0.1,2] num_samples=8 replacement=true",
    .traits = NNL_RANDOM,
    NNL_NO_GRAD("drawing is not differentiable"));
