/* Rows of a table chosen by positions. */
#include "dense.h"
#include "index_walk.h"

#include <string.h>

/* padding_idx as a row, or -1. */
static nnl_status padding_row(nnl_call *c, const nnl_value *padding, int64_t rows, int64_t *row)
{
    *row = -1;
    return nnl_given(padding) ? nnl_call_position(c, "padding_idx", padding->as.i, 0, rows, row)
                              : NNL_OK;
}

static nnl_status embedding_infer(nnl_call *c)
{
    const nnl_tensor *input = c->in[0], *weight = c->in[1];
    int64_t padding;
    char text[NNL_NAMED_TEXT];
    if (weight->ndim != 2)
        return nnl_call_fail(c, NNL_ESHAPE, "%s must be a matrix with a row for each position",
                             nnl_call_input_text(c, 1, text));
    if (input->ndim == NNL_MAX_DIMS)
        return nnl_call_fail(c, NNL_ESHAPE, "%s has %d dimensions already",
                             nnl_call_input_text(c, 0, text), input->ndim);
    NNL_TRY(padding_row(c, &c->attr[0], weight->shape[0], &padding));
    nnl_spec_set(&c->spec[0], (nnl_dtype)weight->dtype, input->ndim, input->shape);
    c->spec[0].shape[c->spec[0].ndim++] = weight->shape[1];
    return NNL_OK;
}

typedef struct rows_copy {
    char *out;
    const char *in;
    const int64_t *offset; /* (offset - first) * step bytes */
    int64_t first, step, count, per_chunk, bytes;
} rows_copy;

static void rows_task(void *context, int64_t chunk)
{
    const rows_copy *job = context;
    int64_t end = NNL_MIN((chunk + 1) * job->per_chunk, job->count);
    for (int64_t i = chunk * job->per_chunk; i < end; i++)
        memcpy(job->out + i * job->bytes, job->in + (job->offset[i] - job->first) * job->step, (size_t)job->bytes);
}

static nnl_status embedding_run(nnl_call *c)
{
    const nnl_tensor *weight = c->in[1];
    nnl_tensor *out = c->out[0];
    int64_t width = (int64_t)nnl_dtype_size((nnl_dtype)weight->dtype), length = weight->shape[1];
    nnl_offsets offsets;
    bool plain = nnl_positions_plain(c, 0, weight->shape[0], &offsets);
    if (!plain) NNL_TRY(nnl_offsets_read(c, 0, 0, weight->shape[0], 1, &offsets));
    const int64_t first = plain ? c->index_base : 0, step = weight->strides[0] * width;
    nnl_status status = NNL_OK;
    if (weight->strides[1] == 1 || length == 1) {
        rows_copy job = {.out = out->data,
                         .in = weight->data,
                         .offset = offsets.at,
                         .first = first,
                         .step = step,
                         .count = offsets.count,
                         .bytes = length * width};
        job.per_chunk =
            out->numel <= NNL_SERIAL_WORK ? NNL_MAX(offsets.count, 1) : NNL_MAX(1, 16384 / length);
        status =
            nnl_parallel(c->rt, (job.count + job.per_chunk - 1) / job.per_chunk, rows_task, &job);
    } else {
        for (int64_t i = 0; i < offsets.count && status == NNL_OK; i++)
            c->rt->kernels->copy_strided((int)width, out->data + i * length * width, width,
                                         weight->data + (offsets.at[i] - first) * step, weight->strides[1] * width,
                                         length);
    }
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

static void embedding_grad(nnl_grad *g)
{
    const nnl_layout *weight = &g->in_layout[1];
    int64_t padding = nnl_given(&g->attr[0]) ? g->attr[0].as.i : -1;
    if (nnl_given(&g->attr[0]) && padding < 0) padding += weight->shape[0];
    g->dx[1] = DO_WITH(g->s, embedding_backward, (V_INT(weight->shape[0]), V_INT(padding)),
                       g->dy[0], g->in[0]);
}

NNL_OP(embedding,
    .sig = "input:index, weight:float, padding_idx:pos? -> float",
    .doc = "The rows of weight at the positions in input, along a new last dimension.  No "
           "gradient flows to row padding_idx.",
    .example = "nn.F.embedding(nn.tensor({1, 3}, \"i64\"), nn.randn(3, 4))",
    .infer = embedding_infer,
    .run = embedding_run,
    .grad = embedding_grad,
    .saves = NNL_SAVE_INPUT(0),
    .sample = "input:2x3<4> weight:4x3; input:5<4> weight:4x2 padding_idx=2; input:0d<4> "
              "weight:4x3",
    .traits = NNL_NO_METHOD | NNL_IDS);

static nnl_status embedding_backward_infer(nnl_call *c)
{
    const nnl_tensor *dy = c->in[0];
    nnl_spec_set(&c->spec[0], (nnl_dtype)dy->dtype, 2,
                 (int64_t[]){c->attr[0].as.i, dy->shape[dy->ndim - 1]});
    return NNL_OK;
}

static nnl_status embedding_backward_run(nnl_call *c)
{
    nnl_tensor *dy, *out = c->out[0];
    int64_t padding = c->attr[1].as.i;
    nnl_offsets rows;
    NNL_TRY(nnl_dense(c->in[0], &dy));
    nnl_status status = nnl_offsets_read(c, 1, 0, out->shape[0], 1, &rows);
    if (status == NNL_OK) {
        for (int64_t i = 0; i < rows.count && padding >= 0; i++) {
            if (rows.at[i] == padding) rows.at[i] = -1;
        }
        memset(out->data, 0, (size_t)out->numel * nnl_dtype_size((nnl_dtype)out->dtype));
        status = nnl_add_rows(c->rt, (nnl_dtype)out->dtype, out->data, out->shape[0], dy->data,
                              rows.at, rows.count, out->shape[1]);
        nnl_offsets_free(c->rt, &rows);
    }
    nnl_tensor_unref(dy);
    return status;
}

/* Back to embedding, from a table in which the padding's row is 0. */
static void embedding_backward_grad(nnl_grad *g)
{
    const nnl_layout *dy = &g->in_layout[0];
    int64_t padding = g->attr[1].as.i, length = dy->shape[dy->ndim - 1], one = 1;
    nnl_tensor *table = g->dy[0];
    if (padding >= 0) {
        nnl_tensor *zeros = nnl_full(g->s, (nnl_dtype)dy->dtype, 1, &length, 0);
        table = DO_WITH(g->s, as_strided_scatter,
                        (V_INTS(1, &length), V_INTS(1, &one), V_INT(padding * length)),
                        DO(g->s, contiguous, table), zeros);
    }
    g->dx[0] = DO(g->s, embedding, g->in[1], table);
}

NNL_OP(embedding_backward,
    .sig = "dy:float, input:index, rows:int, padding:int -> same",
    .doc = "The sum of dy's rows at each position, in the order of input; 0 for the padding.",
    .infer = embedding_backward_infer,
    .run = embedding_backward_run,
    .grad = embedding_backward_grad,
    .saves = NNL_SAVE_INPUT(1),
    .traits = NNL_HIDDEN);
