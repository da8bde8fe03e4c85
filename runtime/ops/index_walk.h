/* What the ops that index by tensors share.
 *
 * All of them walk three operands together over one shape: the packed side (result or source), byte
 * offsets made from the positions, and the indexed tensor seen with step 0 along the dimensions
 * that the offsets stand for. */
#ifndef NNL_INDEX_WALK_H
#define NNL_INDEX_WALK_H

#include "index.h"
#include "window.h"

/* ---------------------------------------------------------------- positions */

/* Contiguous data as a tensor. */
nnl_tensor nnl_header_of(nnl_runtime *rt, nnl_dtype dtype, void *data, int ndim,
                         const int64_t *shape);
/* The error that names the first position that is out of range, and where it stands. */
nnl_status nnl_position_fail(nnl_call *c, int place, int dim, int64_t size);
/* Room for count offsets and one more. */
nnl_status nnl_offsets_new(nnl_runtime *rt, int64_t count, nnl_offsets *out);
/* True when input `place` can be used as it lies: i64, contiguous, all in range and none counted
 * from the end.  Then *out borrows its elements. */
bool nnl_positions_plain(nnl_call *c, int place, int64_t size, nnl_offsets *out);
/* nnl_offsets_read into a block of the tensor's number of elements. */
nnl_status nnl_positions_read(nnl_call *c, int place, int dim, int64_t size, int64_t scale,
                              int64_t *out);

/* ---------------------------------------------------------------- the walk */

/* Three operands over one shape.  `packed` is the first, so that its steps order the walk. */
typedef struct nnl_walk {
    nnl_tensor packed, offset, base;
    int64_t first, scale;     /* an offset is (element - first) * scale bytes */
    bool apart[NNL_MAX_DIMS]; /* places along this dimension never meet in base: it may be split
                                 among threads */
    const char *begin; /* what base holds when the walk begins: copied as the walk goes, with */
    int64_t slab;      /* so many bytes a step of dimension 0, which is apart; or NULL */
} nnl_walk;

#define AT(type, address) (*(type *)(void *)(address))
#define DISTANCE(address) (*(const int64_t *)(const void *)(address))

/* A walk over packed's shape with offsets of strides in elements, and base with strides of base.
 * The caller sets apart. */
void nnl_walk_set(nnl_walk *w, const nnl_tensor *packed, const nnl_tensor *base, int64_t *offsets,
                  const int64_t *offset_strides, const int64_t *base_strides);
/* Offsets in packed's shape that stand for all dimensions of base. */
void nnl_flat_walk(nnl_walk *w, const nnl_tensor *packed, const nnl_tensor *base, int64_t *offsets);
nnl_loop_body *nnl_by_width(int width, nnl_loop_body *one, nnl_loop_body *four,
                            nnl_loop_body *eight);

/* The walk's offsets are positions along dim of t, as nnl_positions_plain lent them. */
static inline void nnl_walk_plain(nnl_walk *w, const nnl_call *c, const nnl_tensor *t, int dim)
{
    w->first = c->index_base;
    w->scale = t->strides[dim] * (int64_t)nnl_dtype_size((nnl_dtype)t->dtype);
}

/* packed = base; base = packed; base += alpha packed. */
nnl_status nnl_gather_walk(nnl_runtime *rt, nnl_walk *w);
nnl_status nnl_set_walk(nnl_runtime *rt, const nnl_walk *w);
nnl_status nnl_add_walk(nnl_runtime *rt, const nnl_walk *w, double alpha);
/* packed from a copy of base, which is spoilt: of several only the last one gets the element. */
nnl_status nnl_take_last_walk(nnl_runtime *rt, const nnl_walk *w);

/* ---------------------------------------------------------------- results */

/* What an op with an in-place twin begins with. */
nnl_status nnl_begin_with(nnl_tensor *out, const nnl_tensor *input);
void nnl_set_zero(nnl_tensor *out);
/* Output 0: input 0's type and the shape of an attribute. */
nnl_status nnl_shape_attr_infer(nnl_call *c, const nnl_value *shape);

static inline int64_t nnl_stride_bytes(const nnl_tensor *t, int dim)
{
    return t->strides[dim] * (int64_t)nnl_dtype_size((nnl_dtype)t->dtype);
}

/* ---------------------------------------------------------------- masks (mask.c) */

int64_t nnl_count_true(const nnl_tensor *mask);
/* Byte offsets of a mask's true places from its dimensions' first, in a target whose dimension dim
 * is the mask's first.  out has room for one more than there are. */
void nnl_mask_offsets(const nnl_tensor *mask, const nnl_tensor *target, int dim, int64_t *out);

#endif
