/* The way back from a view, and views of any geometry: what gradients of views, and of views changed in place, are
 * written in. */
#include "op.h"
#include "dense.h"
#include "window.h"

#include <string.h>

/* Whether every element of the window is another one of the tensor.  Strides are not negative. */
static bool is_injective(int ndim, const int64_t *shape, const int64_t *strides)
{
    bool used[NNL_MAX_DIMS] = {false};
    int64_t reach = 0; /* of the dimensions with smaller strides */
    for (int i = 0; i < ndim; i++) {
        int least = -1;
        for (int d = 0; d < ndim; d++) {
            if (!used[d] && (least < 0 || strides[d] < strides[least])) least = d;
        }
        used[least] = true;
        if (shape[least] <= 1) continue;
        if (strides[least] <= reach) return false;
        reach += (shape[least] - 1) * strides[least];
    }
    return true;
}

#define ADD_WINDOW(type)                                                                \
    static void add_window_##type(type *out, const nnl_tensor *w, const nnl_tensor *dy) \
    {                                                                                   \
        const type *from = (const type *)(const void *)dy->data;                        \
        for (int64_t i = 0; i < dy->numel; i++) {                                       \
            int64_t rest = i, to = 0;                                                   \
            for (int d = dy->ndim - 1; d >= 0; d--) {                                   \
                to += rest % dy->shape[d] * w->strides[d];                              \
                rest /= dy->shape[d];                                                   \
            }                                                                           \
            out[to] += from[i];                                                         \
        }                                                                               \
    }
ADD_WINDOW(float)
ADD_WINDOW(double)

static nnl_status place_infer(nnl_call *c)
{
    nnl_spec_set(&c->spec[0], (nnl_dtype)c->in[0]->dtype, c->attr[0].count, c->attr[0].as.ints);
    return NNL_OK;
}

static nnl_status place_run(nnl_call *c)
{
    nnl_tensor *dy = c->in[0], *out = c->out[0];
    const int64_t *strides = c->attr[1].as.ints;
    int64_t width = (int64_t)nnl_dtype_size((nnl_dtype)dy->dtype);
    if (dy->numel < out->numel || !is_injective(dy->ndim, dy->shape, strides))
        memset(out->data, 0, (size_t)(out->numel * width));
    if (dy->numel == 0) return NNL_OK;
    nnl_tensor window =
        nnl_window(out, out->data + c->attr[2].as.i * width, dy->ndim, dy->shape, strides);
    if (is_injective(dy->ndim, dy->shape, strides)) return nnl_copy(&window, dy);
    /* Windows that overlap, as those of unfold: element by element, always in the same order. */
    nnl_tensor *packed;
    NNL_TRY(nnl_dense(dy, &packed));
    if (dy->dtype == NNL_F32) add_window_float((float *)(void *)window.data, &window, packed);
    if (dy->dtype == NNL_F64) add_window_double((double *)(void *)window.data, &window, packed);
    nnl_tensor_unref(packed);
    return NNL_OK;
}

static void place_grad(nnl_grad *g)
{
    const nnl_layout *dy = &g->in_layout[0];
    nnl_tensor *whole = DO(g->s, contiguous, g->dy[0]);
    g->dx[0] =
        DO_WITH(g->s, as_strided, (V_INTS(dy->ndim, dy->shape), g->attr[1], g->attr[2]), whole);
}

NNL_OP(place,
    .sig = "dy:float, shape:int*, stride:int*, offset:int -> same",
    .doc = "Zeros of a shape, with dy added at the elements that as_strided would show: the "
           "gradient of a view.",
    .infer = place_infer,
    .run = place_run,
    .grad = place_grad,
    .traits = NNL_HIDDEN);

/* ---------------------------------------------------------------- any geometry, for views changed in place */

static nnl_status as_strided_infer(nnl_call *c)
{
    nnl_spec *spec = &c->spec[0];
    nnl_spec_set(spec, (nnl_dtype)c->in[0]->dtype, c->attr[0].count, c->attr[0].as.ints);
    nnl_spec_view(spec, c->attr[1].as.ints, c->attr[2].as.i);
    return NNL_OK;
}

static void as_strided_grad(nnl_grad *g)
{
    const nnl_layout *x = &g->in_layout[0];
    g->dx[0] = DO_WITH(g->s, place, (V_INTS(x->ndim, x->shape), g->attr[1], g->attr[2]), g->dy[0]);
}

NNL_OP(as_strided,
    .sig = "input:any, size:int*, stride:int*, offset:int -> same",
    .doc = "A view of the storage of a contiguous tensor with any shape, strides and offset.",
    .infer = as_strided_infer,
    .grad = as_strided_grad,
    .traits = NNL_VIEW | NNL_HIDDEN);

/* input with the elements at a view's places replaced by source's.  input is contiguous. */
static nnl_status scatter_run(nnl_call *c)
{
    nnl_tensor *out = c->out[0];
    char *first = out->data + c->attr[2].as.i * (int64_t)nnl_dtype_size((nnl_dtype)out->dtype);
    nnl_tensor window =
        nnl_window(out, first, c->attr[0].count, c->attr[0].as.ints, c->attr[1].as.ints);
    NNL_TRY(nnl_copy(out, c->in[0]));
    return nnl_copy(&window, c->in[1]);
}

static void scatter_grad(nnl_grad *g)
{
    const nnl_layout *source = &g->in_layout[1];
    nnl_tensor *dy = DO(g->s, contiguous, g->dy[0]);
    if (g->needs[0]) {
        nnl_tensor *zeros =
            nnl_full(g->s, (nnl_dtype)source->dtype, source->ndim, source->shape, 0);
        g->dx[0] =
            DO_WITH(g->s, as_strided_scatter, (g->attr[0], g->attr[1], g->attr[2]), dy, zeros);
    }
    if (g->needs[1]) g->dx[1] = DO_WITH(g->s, as_strided, (g->attr[0], g->attr[1], g->attr[2]), dy);
}

NNL_OP(as_strided_scatter,
    .sig = "input:any, source:any, size:int*, stride:int*, offset:int -> same",
    .doc = "A contiguous copy of input in which the elements that as_strided would show are "
           "source's.",
    .infer = nnl_infer_same,
    .run = scatter_run,
    .grad = scatter_grad,
    .traits = NNL_HIDDEN);
