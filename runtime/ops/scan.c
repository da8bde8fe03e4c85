/* Running sums and products along a dimension, and the recurrence that their gradients need. */
#include "op.h"
#include "dense.h"

#include <string.h>

static nnl_dtype type_of(const nnl_tensor *t) { return (nnl_dtype)t->dtype; }

/* A dense tensor as outer x size x inner around the dimension. */
typedef struct job {
    const nnl_kernels *kernels;
    nnl_scan_kind kind;
    int dtype;
    char *out;
    const char *x, *a;
    int64_t out_width, width, outer, size, inner, columns, groups;
    bool reverse;
} job;

#define LINES 4 /* of single columns, a task: the kernel takes them side by side */

static void scan_task(void *context, int64_t i)
{
    const job *j = context;
    if (j->inner == 1) {
        int64_t first = i * LINES, at = first * j->size;
        j->kernels->scan_columns((int)j->kind, j->dtype, j->out + at * j->out_width, j->x + at * j->width,
                                 j->a ? j->a + at * j->width : NULL, 1, j->size, 1, NNL_MIN(LINES, j->outer - first), j->reverse);
        return;
    }
    int64_t first = i % j->groups * j->columns, count = NNL_MIN(j->columns, j->inner - first);
    int64_t at = i / j->groups * j->size * j->inner + first;
    j->kernels->scan_columns((int)j->kind, j->dtype, j->out + at * j->out_width, j->x + at * j->width,
                             j->a ? j->a + at * j->width : NULL, j->inner, j->size, count, 1, j->reverse);
}

/* out, x and a (or NULL) are dense. */
static nnl_status run_dense(nnl_call *c, nnl_scan_kind kind, nnl_tensor *out, const nnl_tensor *x, const nnl_tensor *a, int64_t dim,
                            bool reverse)
{
    job j = {.kernels = c->rt->kernels, .kind = kind, .dtype = x->dtype, .out = out->data, .x = x->data,
             .a = a ? a->data : NULL, .out_width = (int64_t)nnl_dtype_size(type_of(out)),
             .width = (int64_t)nnl_dtype_size(type_of(x)), .outer = 1, .size = 1, .inner = 1, .reverse = reverse};
    for (int d = 0; d < x->ndim; d++) *(d < dim ? &j.outer : d > dim ? &j.inner : &j.size) *= x->shape[d];
    if (x->numel == 0) return NNL_OK;
    j.columns = NNL_MIN(j.inner, 1024);
    j.groups = (j.inner + j.columns - 1) / j.columns;
    int64_t tasks = j.inner == 1 ? (j.outer + LINES - 1) / LINES : j.outer * j.groups;
    if (x->numel > NNL_SERIAL_WORK / 2) return nnl_parallel(c->rt, tasks, scan_task, &j);
    for (int64_t i = 0; i < tasks; i++) scan_task(&j, i);
    return NNL_OK;
}

static nnl_status run_scan(nnl_call *c, nnl_scan_kind kind, nnl_tensor *out, nnl_tensor *input, nnl_tensor *factor, int64_t dim,
                           bool reverse)
{
    nnl_tensor *x, *a = NULL;
    NNL_TRY(nnl_dense(input, &x));
    nnl_status status = factor ? nnl_dense(factor, &a) : NNL_OK;
    if (status == NNL_OK) status = run_dense(c, kind, out, x, a, dim, reverse);
    nnl_tensor_unref(a);
    nnl_tensor_unref(x);
    return status;
}

static nnl_dtype cumulative_type(const nnl_tensor *x) { return nnl_is_float(type_of(x)) ? type_of(x) : NNL_I64; }

/* Attributes dim, dtype; integers and bool give i64. */
static nnl_status cumulative_infer(nnl_call *c)
{
    nnl_spec_like(&c->spec[0], c->in[0]);
    c->spec[0].dtype = c->sig->attrs > 1 && nnl_given(&c->attr[1]) ? (nnl_dtype)c->attr[1].as.i : cumulative_type(c->in[0]);
    return NNL_OK;
}

/* variant: the kind, or -1 for sums from the end */
static nnl_status cumulative_run(nnl_call *c)
{
    bool reverse = c->op->variant < 0;
    nnl_scan_kind kind = reverse ? NNL_SCAN_SUM : (nnl_scan_kind)c->op->variant;
    nnl_tensor *out = c->out[0], *wide;
    if (out->contiguous && type_of(out) == cumulative_type(c->in[0]))
        return run_scan(c, kind, out, c->in[0], NULL, c->attr[0].as.i, reverse);
    /* in place of a strided tensor, or asked for as a narrow integer type */
    nnl_spec spec;
    nnl_spec_like(&spec, out);
    spec.dtype = cumulative_type(c->in[0]);
    NNL_TRY(nnl_tensor_make(c->rt, &spec, NULL, &wide));
    nnl_status status = run_scan(c, kind, wide, c->in[0], NULL, c->attr[0].as.i, reverse);
    if (status == NNL_OK) status = nnl_copy(out, wide);
    nnl_tensor_unref(wide);
    return status;
}

static void cumsum_grad(nnl_grad *g) { g->dx[0] = DO_WITH(g->s, cumsum_reverse, (g->attr[0]), g->dy[0]); }
static void cumsum_reverse_grad(nnl_grad *g) { g->dx[0] = DO_WITH(g->s, cumsum, (g->attr[0]), g->dy[0]); }

NNL_OP(cumsum,
    .sig = "input:any, dim:dim, dtype:dtype? -> same",
    .doc = "Running sum along dim: element i is the sum of elements 1 to i.  Integers and bool give i64.  With dtype the "
           "input is converted to that type first.",
    .example = "nn.tensor({1, 2, 3}):cumsum(1)",
    .infer = cumulative_infer,
    .run = cumulative_run,
    .variant = NNL_SCAN_SUM,
    .grad = cumsum_grad,
    .sample = "input:3x4 dim=2; input:2x3x4 dim=2; input:3x4 dim=1 dtype=\"f64\"",
    .traits = NNL_CAST | NNL_INPLACE_OK);

NNL_OP(cumsum_reverse,
    .sig = "input:float, dim:dim -> same",
    .doc = "Running sum along dim from its end.",
    .infer = cumulative_infer,
    .run = cumulative_run,
    .variant = -1,
    .grad = cumsum_reverse_grad,
    .sample = "input:3x4 dim=2",
    .traits = NNL_HIDDEN);

/* With P the product of what stands before x_i, and S_i = dy_i + x_(i+1) S_(i+1): dx_i = P_i S_i.  Nothing
 * is divided, so that zeros are elements like others. */
static void cumprod_grad(nnl_grad *g)
{
    nnl_tensor *before = DO_WITH(g->s, shift_along, (g->attr[0], V_NUM(1)), g->out[0]);
    nnl_tensor *behind = DO_WITH(g->s, linear_scan, (g->attr[0], V_FLAG(true)), g->dy[0], g->in[0]);
    g->dx[0] = DO(g->s, mul, before, behind);
}

NNL_OP(cumprod,
    .sig = "input:any, dim:dim, dtype:dtype? -> same",
    .doc = "Running product along dim: element i is the product of elements 1 to i.  Integers and bool give i64.  With dtype the "
           "input is converted to that type first.",
    .example = "nn.tensor({1, 2, 3}):cumprod(1)",
    .infer = cumulative_infer,
    .run = cumulative_run,
    .variant = NNL_SCAN_PROD,
    .grad = cumprod_grad,
    .saves = NNL_SAVE_INPUT(0) | NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4 dim=2; input:2x3x4 dim=2; input:3x4 dim=1 dtype=\"f64\"",
    .traits = NNL_CAST | NNL_INPLACE_OK);

/* ---------------------------------------------------------------- linear recurrences */

static nnl_status linear_infer(nnl_call *c)
{
    char x[NNL_NAMED_TEXT], a[NNL_NAMED_TEXT];
    nnl_spec_like(&c->spec[0], c->in[0]);
    if (nnl_same_shape(c->in[0], c->in[1]) && c->in[0]->dtype == c->in[1]->dtype) return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE, "%s and %s must have one shape and type", nnl_call_input_text(c, 0, x),
                         nnl_call_input_text(c, 1, a));
}

static nnl_status linear_run(nnl_call *c)
{
    return run_scan(c, NNL_SCAN_LINEAR, c->out[0], c->in[0], c->in[1], c->attr[0].as.i, c->attr[1].as.i);
}

/* The way back is the recurrence in the other direction: dx.  da_i = dx_i y_(i-1) forwards, dx_(i-1) y_i backwards. */
static void linear_grad(nnl_grad *g)
{
    bool reverse = g->attr[1].as.i;
    nnl_tensor *dx = DO_WITH(g->s, linear_scan, (g->attr[0], V_FLAG(!reverse)), g->dy[0], g->in[1]);
    g->dx[0] = dx;
    if (!g->needs[1]) return;
    nnl_tensor *earlier = DO_WITH(g->s, shift_along, (g->attr[0], V_NUM(0)), reverse ? dx : g->out[0]);
    g->dx[1] = DO(g->s, mul, earlier, reverse ? g->out[0] : dx);
}

NNL_OP(linear_scan,
    .sig = "input:float, factor:float, dim:dim, reverse:flag=false -> same",
    .doc = "y[i] = input[i] + factor[i] y[i - 1] along dim; in reverse y[i - 1] = input[i - 1] + factor[i] y[i].",
    .infer = linear_infer,
    .run = linear_run,
    .grad = linear_grad,
    .saves = NNL_SAVE_INPUT(1) | NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4 factor:3x4 dim=2; input:3x4 factor:3x4 dim=1 reverse=true",
    .traits = NNL_PROMOTE | NNL_HIDDEN);

/* ---------------------------------------------------------------- one place on */

static nnl_status shift_run(nnl_call *c)
{
    nnl_tensor *out = c->out[0], *x = c->in[0], *to, *from;
    int64_t dim = c->attr[0].as.i;
    bool reverse = c->attr[2].as.i;
    NNL_TRY(nnl_fill(out, c->attr[1]));
    if (out->numel == 0 || out->ndim == 0 || out->shape[dim] == 1) return NNL_OK;
    nnl_spec spec;
    nnl_spec_like(&spec, x);
    spec.shape[dim]--;
    nnl_spec_view(&spec, out->strides, reverse ? 0 : out->strides[dim]);
    NNL_TRY(nnl_tensor_make(c->rt, &spec, out, &to));
    nnl_spec_view(&spec, x->strides, reverse ? x->strides[dim] : 0);
    nnl_status status = nnl_tensor_make(c->rt, &spec, x, &from);
    if (status == NNL_OK) {
        status = nnl_copy(to, from);
        nnl_tensor_unref(from);
    }
    nnl_tensor_unref(to);
    return status;
}

static void shift_grad(nnl_grad *g)
{
    g->dx[0] = DO_WITH(g->s, shift_along, (g->attr[0], V_NUM(0), V_FLAG(!g->attr[2].as.i)), g->dy[0]);
}

NNL_OP(shift_along,
    .sig = "input:float, dim:dim, fill:num, reverse:flag=false -> same",
    .doc = "Every element one place on along dim (back in reverse); fill takes the free place.",
    .infer = nnl_infer_same,
    .run = shift_run,
    .grad = shift_grad,
    .sample = "input:3x4 dim=2 fill=1; input:3x4 dim=1 fill=0 reverse=true",
    .traits = NNL_HIDDEN);
