/* Triangles of matrices, and diagonals as matrices and vectors. */
#include "op.h"
#include "window.h"

#include <string.h>

typedef struct triangle_job {
    nnl_tensor *out;
    int64_t diagonal, per_chunk, rows;
    bool upper;
} triangle_job;

static void triangle_task(void *context, int64_t chunk)
{
    const triangle_job *job = context;
    const nnl_tensor *out = job->out;
    int last = out->ndim - 1;
    int64_t width = (int64_t)nnl_dtype_size((nnl_dtype)out->dtype), columns = out->shape[last],
            step = out->strides[last] * width;
    int64_t end = NNL_MIN((chunk + 1) * job->per_chunk, job->rows);
    static const int64_t zero;
    for (int64_t row = chunk * job->per_chunk; row < end; row++) {
        int64_t rest = row, i = row % out->shape[last - 1];
        char *to = out->data;
        for (int d = last - 1; d >= 0; d--) {
            to += rest % out->shape[d] * out->strides[d] * width;
            rest /= out->shape[d];
        }
        /* columns first .. stop - 1 are on the other side of the diagonal */
        int64_t edge = i + job->diagonal + (job->upper ? 0 : 1);
        int64_t first = job->upper ? 0 : NNL_MIN(NNL_MAX(edge, 0), columns),
                stop = job->upper ? NNL_MIN(edge, columns) : columns;
        if (stop > first)
            out->rt->kernels->copy_strided((int)width, to + first * step, step, &zero, 0,
                                           stop - first);
    }
}

static nnl_status triangle_infer(nnl_call *c)
{
    char text[NNL_NAMED_TEXT];
    if (c->in[0]->ndim >= 2) return nnl_infer_same(c);
    return nnl_call_fail(c, NNL_ESHAPE, "%s must have two dimensions or more",
                         nnl_call_input_text(c, 0, text));
}

static nnl_status triangle(nnl_call *c, bool upper)
{
    nnl_tensor *out = c->out[0];
    int64_t columns = out->shape[out->ndim - 1];
    if (out != c->in[0]) NNL_TRY(nnl_copy(out, c->in[0]));
    if (out->numel == 0) return NNL_OK;
    /* Far enough out is as good as any offset, and does not overflow. */
    int64_t rows = out->shape[out->ndim - 2],
            diagonal = NNL_MAX(-rows - 1, NNL_MIN(c->attr[0].as.i, columns + 1));
    triangle_job job = {
        .out = out, .diagonal = diagonal, .upper = upper, .rows = out->numel / columns};
    job.per_chunk = out->numel <= NNL_SERIAL_WORK ? job.rows : NNL_MAX(1, 16384 / columns);
    return nnl_parallel(c->rt, (job.rows + job.per_chunk - 1) / job.per_chunk, triangle_task, &job);
}

static nnl_status tril_run(nnl_call *c) { return triangle(c, false); }
static nnl_status triu_run(nnl_call *c) { return triangle(c, true); }
static void tril_grad(nnl_grad *g) { g->dx[0] = DO_WITH(g->s, tril, (g->attr[0]), g->dy[0]); }
static void triu_grad(nnl_grad *g) { g->dx[0] = DO_WITH(g->s, triu, (g->attr[0]), g->dy[0]); }

NNL_OP(tril,
    .sig = "input:any, diagonal:int=0 -> same",
    .doc = "The lower triangle of matrices, with their diagonal, else zeros; diagonal > 0 keeps "
           "as many more above it.",
    .example = "nn.ones(3, 3):tril()",
    .infer = triangle_infer,
    .run = tril_run,
    .grad = tril_grad,
    .sample = "input:4x4; input:3x4 diagonal=1; input:2x3x4 diagonal=-1",
    .traits = NNL_INPLACE_OK);

NNL_OP(triu,
    .sig = "input:any, diagonal:int=0 -> same",
    .doc = "The upper triangle of matrices, with their diagonal, else zeros; diagonal > 0 leaves "
           "out as many more from it on.",
    .example = "nn.ones(3, 3):triu(1)",
    .infer = triangle_infer,
    .run = triu_run,
    .grad = triu_grad,
    .sample = "input:4x4; input:3x4 diagonal=1; input:2x3x4 diagonal=-1",
    .traits = NNL_INPLACE_OK);

/* The diagonal of a matrix of this shape. */
static int64_t diagonal_of(int64_t rows, int64_t columns, int64_t offset)
{
    int64_t above = NNL_MAX(offset, 0), below = NNL_MAX(-offset, 0);
    return NNL_MAX(0, NNL_MIN(rows - below, columns - above));
}

static nnl_status diag_infer(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    int64_t offset = c->attr[0].as.i, size[2];
    char text[NNL_NAMED_TEXT];
    if (x->ndim != 1 && x->ndim != 2)
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have one or two dimensions",
                             nnl_call_input_text(c, 0, text));
    if (offset < -((int64_t)1 << 40) || offset > (int64_t)1 << 40)
        return nnl_call_fail(c, NNL_EINVAL, "diagonal is %lld", (long long)offset);
    size[0] = size[1] = x->ndim == 1 ? x->shape[0] + (offset < 0 ? -offset : offset)
                                     : diagonal_of(x->shape[0], x->shape[1], offset);
    nnl_spec_set(&c->spec[0], (nnl_dtype)x->dtype, 3 - x->ndim, size);
    return NNL_OK;
}

/* The diagonal of matrix m as a window of n elements. */
static nnl_tensor diagonal_window(const nnl_tensor *m, int64_t offset, int64_t n)
{
    int64_t width = (int64_t)nnl_dtype_size((nnl_dtype)m->dtype),
            first = offset >= 0 ? offset * m->strides[1] : -offset * m->strides[0];
    return nnl_window(m, m->data + (n > 0 ? first * width : 0), 1, &n,
                      (int64_t[]){m->strides[0] + m->strides[1]});
}

static nnl_status diag_run(nnl_call *c)
{
    const nnl_tensor *x = c->in[0];
    nnl_tensor *out = c->out[0];
    if (x->ndim == 2) {
        nnl_tensor from = diagonal_window(x, c->attr[0].as.i, out->numel);
        return nnl_copy(out, &from);
    }
    memset(out->data, 0, (size_t)out->numel * nnl_dtype_size((nnl_dtype)out->dtype));
    nnl_tensor to = diagonal_window(out, c->attr[0].as.i, x->numel);
    return nnl_copy(&to, x);
}

static void diag_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0];
    int64_t offset = g->attr[0].as.i, columns = x->shape[1], step = columns + 1;
    if (x->ndim == 1) {
        g->dx[0] = DO_WITH(g->s, diag, (g->attr[0]), g->dy[0]);
        return;
    }
    g->dx[0] = DO_WITH(
        g->s, place,
        (V_INTS(2, x->shape), V_INTS(1, &step), V_INT(offset >= 0 ? offset : -offset * columns)),
        g->dy[0]);
}

NNL_OP(diag,
    .sig = "input:any, diagonal:int=0 -> same",
    .doc = "A matrix with a vector on its diagonal, or the diagonal of a matrix as a vector; "
           "diagonal > 0 is above the main one.",
    .example = "nn.diag(nn.arange(3))",
    .infer = diag_infer,
    .run = diag_run,
    .grad = diag_grad,
    .sample = "input:3; input:3 diagonal=-1; input:4x4; input:3x4 diagonal=2");
