/* Tensors: a shape and strides over reference-counted storage.  Knows nothing of ops; the fields
 * for gradients are carried here and looked after by engine/. */
#ifndef NNL_TENSOR_H
#define NNL_TENSOR_H

#include "../base/base.h"

typedef struct nnl_node nnl_node;           /* engine/engine.h: how a tensor was made */
typedef struct nnl_grad_hook nnl_grad_hook; /* engine/engine.h */

typedef struct nnl_storage {
    int32_t refs;
    uint32_t version; /* counts changes in place: a saved value whose version moved is an error in
                         backward */
    size_t bytes;
    void *data;        /* behind this header in the same block, or foreign memory */
    size_t block_size; /* of the block that holds this header */
    uint32_t unset; /* made while calls were only noted down, in the capture of this number: holds
                     * no values, now or later; 0: has values */
    bool hollow;    /* and has no memory for them: its addresses only tell offsets */
    nnl_runtime *rt;
    void (*release)(void *user, void *data); /* of foreign memory, else NULL */
    void *release_user;
} nnl_storage;

struct nnl_tensor {
    int32_t refs;
    uint8_t dtype, ndim;
    bool requires_grad; /* of a leaf: asked for; of a result: some input did */
    bool contiguous;
    int64_t shape[NNL_MAX_DIMS];
    int64_t strides[NNL_MAX_DIMS]; /* in elements; 0 where broadcast */
    int64_t numel;
    char *data; /* first element */
    nnl_storage *storage;
    nnl_runtime *rt;

    /* looked after by engine/ */
    nnl_node *node; /* reference; NULL for a leaf */
    int32_t result; /* which of the node's results */
    uint32_t
        history; /* of a base: rewrites in place so far; of a view: those of its base it has seen */
    nnl_tensor
        *base; /* of a view: the tensor that owns the storage's history (reference), else NULL */
    nnl_tensor *grad;     /* reference */
    nnl_grad_hook *hooks; /* of a leaf; a result's are its node's */
};

/* What a result will be: filled by infer, turned into a tensor by the door. */
typedef struct nnl_spec {
    nnl_dtype dtype;
    int ndim;
    int64_t shape[NNL_MAX_DIMS];
    bool channels_last; /* new elements lie as images do: see nnl_strides_channels_last() */
    bool ordered;       /* new elements lie densely, with these strides */
    bool view;          /* shares the storage of input 0 with ... */
    int64_t strides[NNL_MAX_DIMS]; /* ... these strides, and ... */
    int64_t offset;                /* ... this distance in elements from input 0's first element */
} nnl_spec;

/* New elements, in the order of their dimensions. */
static inline void nnl_spec_plain(nnl_spec *spec)
{
    spec->channels_last = spec->ordered = spec->view = false;
}

/* ---- numbers and arguments */
static inline bool nnl_given(const nnl_value *v) { return v->kind != NNL_KIND_NONE; }
static inline double nnl_value_double(const nnl_value *v)
{
    return v->kind == NNL_KIND_FLOAT ? v->as.f : (double)v->as.i;
}
static inline int64_t nnl_value_int(const nnl_value *v)
{
    return v->kind == NNL_KIND_FLOAT ? (int64_t)v->as.f : v->as.i;
}

/* ---- making (tensor.c) */
nnl_status nnl_storage_new(nnl_runtime *rt, size_t bytes, nnl_storage **out);
void nnl_storage_unref(nnl_storage *storage);
nnl_status nnl_tensor_make(nnl_runtime *rt, const nnl_spec *spec, nnl_tensor *source,
                           nnl_tensor **out);
nnl_status nnl_tensor_make_hollow(nnl_runtime *rt, const nnl_spec *spec, nnl_tensor *source,
                                  nnl_tensor **out);
/* A second header on the same storage, without history: detach(). */
nnl_status nnl_tensor_alias(nnl_tensor *t, nnl_tensor **out);
/* A 0-d tensor holding a number. */
nnl_status nnl_tensor_scalar(nnl_runtime *rt, nnl_dtype dtype, nnl_value number, nnl_tensor **out);
void nnl_tensor_touch(nnl_tensor *t); /* counts a change in place */

/* ---- shapes (shape.c) */
int64_t nnl_shape_numel(int ndim, const int64_t *shape); /* of shapes known to be valid */
nnl_status nnl_shape_check(nnl_runtime *rt, const char *who, nnl_dtype dtype, int ndim,
                           const int64_t *shape); /* sizes >= 0, bytes fit */
void nnl_strides_contiguous(int ndim, const int64_t *shape, int64_t *strides);
bool nnl_is_contiguous(int ndim, const int64_t *shape, const int64_t *strides);
/* The order in which convolution and pooling keep batch x channels x ... images: channels adjacent,
 * then places, then samples.  From 3 dimensions on, and other than contiguous. */
void nnl_strides_channels_last(int ndim, const int64_t *shape, int64_t *strides);
bool nnl_is_channels_last(const nnl_tensor *t);
/* Strides of dense elements whose dimensions lie one inside the other as those of t do, which shape
 * extends or replaces from the last one on.  Those of which t tells nothing (missing, 1, repeated)
 * lie outside all behind them. */
void nnl_strides_like(int ndim, const int64_t *shape, const nnl_tensor *t, int64_t *strides);
static inline bool nnl_same_shape(const nnl_tensor *a, const nnl_tensor *b)
{
    if (a->ndim != b->ndim) return false;
    for (int d = 0; d < a->ndim; d++) {
        if (a->shape[d] != b->shape[d]) return false;
    }
    return true;
}
/* Broadcasts shape b into a (in place, a's ndim may grow); false when they do not fit. */
bool nnl_broadcast(int *ndim, int64_t *shape, int b_ndim, const int64_t *b_shape);
/* "8x1x28x28"; "0-d" for no dimensions.  Returns buffer. */
#define NNL_SHAPE_TEXT 192
const char *nnl_shape_text(char buffer[NNL_SHAPE_TEXT], int ndim, const int64_t *shape);
/* Strides that show (shape, strides) as another shape without copying; false when a copy is needed.
 */
bool nnl_reshape_strides(int ndim, const int64_t *shape, const int64_t *strides, int new_ndim,
                         const int64_t *new_shape, int64_t *new_strides);

/* ---- types (dtype.c) */
/* nnl_dtype_size() of a valid type, for what every call asks. */
static inline size_t nnl_width(unsigned dtype)
{
    static const uint8_t bytes[NNL_DTYPES] = {1, 1, 4, 8, 4, 8};
    return bytes[dtype];
}
static inline bool nnl_is_float(nnl_dtype d) { return d >= NNL_F32; }
static inline bool nnl_is_int(nnl_dtype d) { return d >= NNL_U8 && d <= NNL_I64; }
nnl_status nnl_dtype_parse(const char *name, nnl_dtype *out); /* NNL_EINVAL, no message */

/* ---- N-d iteration (loop.c) */

#define NNL_LOOP_MAX 6

/* Several operands walked together over one shape.  Dimensions of size 1 are dropped and neighbours
 * that can be joined are, so that the innermost run is as long as possible.  steps are in bytes. */
typedef struct nnl_loop {
    int operands, ndim;         /* ndim >= 1 after planning; size 1 for 0-d */
    int64_t size[NNL_MAX_DIMS]; /* outermost first */
    int64_t step[NNL_LOOP_MAX][NNL_MAX_DIMS];
    char *data[NNL_LOOP_MAX];
    int64_t numel, inner, outer; /* inner = size[ndim - 1]; outer = numel / inner */
} nnl_loop;

/* shape is the walked shape; each operand must broadcast to it (NULL operands are not allowed). */
void nnl_loop_plan(nnl_loop *loop, int ndim, const int64_t *shape, int operands,
                   nnl_tensor *const *tensors);
/* Walks it by the runtime's threads in chunks fixed by the shape: body sees runs of n elements
 * along the innermost dimension.  work: elementary operations an element, to tell whether a worker
 * is worth waking. */
typedef void nnl_loop_body(void *context, const nnl_loop *loop, char *const *address, int64_t n);
nnl_status nnl_loop_run(nnl_runtime *rt, const nnl_loop *loop, int work, nnl_loop_body *body,
                        void *context);
/* The same for loops of two or more dimensions, with n rows instead: runs along the last dimension
 * but one. */
nnl_status nnl_loop_run_rows(nnl_runtime *rt, const nnl_loop *loop, int work, nnl_loop_body *body,
                             void *context);
/* Addresses of every operand at outer place `row` (its first inner element). */
void nnl_loop_at(const nnl_loop *loop, int64_t row, char *address[NNL_LOOP_MAX]);

/* ---- copying (copy.c): between any layouts and types, by the runtime's threads */
nnl_status nnl_copy(nnl_tensor *dst, const nnl_tensor *src); /* src broadcasts to dst's shape */
nnl_status nnl_fill(nnl_tensor *dst, nnl_value number);
/* A new tensor as spec describes (no view), with src's values; *out is NULL after a failure. */
nnl_status nnl_copy_as(const nnl_spec *spec, const nnl_tensor *src, nnl_tensor **out);
nnl_status nnl_copy_new(const nnl_tensor *src,
                        nnl_tensor **out); /* contiguous, of src's type and shape */

/* ---- text (print.c) */
/* As print(x) shows it: shape, type and aligned values, elided in the middle when large.  Returns
 * the length that the whole text has; writes at most size - 1 characters. */
size_t nnl_tensor_print(const nnl_tensor *t, char *buffer, size_t size);
double nnl_element_double(const nnl_tensor *t, int64_t element_offset);
int64_t nnl_element_int(const nnl_tensor *t, int64_t element_offset);

#endif
