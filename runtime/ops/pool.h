/* What max and mean pooling share: windows, their checks, and the walk over rows (pool.c). */
#ifndef NNL_OPS_POOL_H
#define NNL_OPS_POOL_H

#include "image.h"

#define NNL_POOL_DIMS 3 /* depth, height, width; missing ones have one place */

/* How windows lie over one dimension. */
typedef struct nnl_pool_dim {
    int64_t in, out, kernel, stride, padding, dilation;
    bool adaptive;    /* out windows share the places out, of no fixed size */
    bool inside_only; /* means divide by the places inside the input */
} nnl_pool_dim;

typedef struct nnl_pool {
    int dims; /* 1, 2 or 3 */
    bool adaptive, ceil;
    int64_t divisor; /* instead of the extents, or 0 */
    nnl_pool_dim dim[NNL_POOL_DIMS];
} nnl_pool;

/* A number for each of n dimensions, from one value or a list of n. */
void nnl_pool_sizes(const nnl_value *value, int n, int64_t *out);
/* Reads kernel_size, stride (kernel_size where absent), padding and dilation (or NULL: 1) and
 * checks them. */
nnl_status nnl_pool_read(nnl_call *c, nnl_pool *pool, int dims, const nnl_value *kernel,
                         const nnl_value *stride, const nnl_value *padding,
                         const nnl_value *dilation);
nnl_status nnl_pool_read_adaptive(nnl_call *c, nnl_pool *pool, int dims,
                                  const nnl_value *output_size);
/* Sets the sizes of input 0 and the results (of regular windows by the rule of ceil_mode), and
 * fills the spec. */
nnl_status nnl_pool_infer(nnl_call *c, nnl_pool *pool, nnl_spec *spec);
/* For backward: sizes of the input from an attribute, those of the results from the last input; the
 * spec is the input's. */
void nnl_pool_infer_backward(nnl_call *c, nnl_pool *pool, const nnl_value *input_size,
                             nnl_spec *spec);

/* A walk.  forward: row (plane, out depth, out height) of results reads the input's rows; backward:
 * row (plane, depth, height) of the input collects from the rows of results that reach it. */
typedef struct nnl_pool_walk {
    nnl_runtime *rt;
    size_t bytes; /* of this, with the windows behind it */
    nnl_pool pool;
    int dtype; /* of the images */
    bool wide; /* codes are i32 */
    int64_t width, code_width, outer, inner;
    nnl_pool_window *window[NNL_POOL_DIMS];
    struct nnl_pool_range {
        int64_t first, end;
    } * range[NNL_POOL_DIMS - 1];  /* backward: windows that may reach a place */
    bool tiles;                    /* along the width every place is in just one window */
    bool paired;                   /* along the width window o has the places 2 o and 2 o + 1 */
    nnl_pool_pairs pairs;          /* then */
    int64_t first_column, columns; /* places along the width that windows reach */
    char *out;                     /* written */
    const char *in;                /* read: the input, or the results' gradient */
    char *code;                    /* written by forward (may be NULL), read by backward */
    int64_t rows_per_task;
    void (*row)(const struct nnl_pool_walk *walk, int64_t plane, int64_t depth, int64_t height);
} nnl_pool_walk;

/* images: of the results' or the input's batch, channels and type; channels_last: how all that is
 * walked over lies.  One block of memory, that a program may keep: out, in, code and row are the
 * caller's. */
nnl_status nnl_pool_walk_new(nnl_runtime *rt, const nnl_pool *pool, const nnl_tensor *images,
                             bool channels_last, nnl_pool_walk **out);
/* The walk of a program's step over input 0 as its plan; where a copy of that is walked, no plan.
 */
nnl_status nnl_pool_walk_keep(nnl_ready *r, const nnl_pool *pool, bool channels_last,
                              nnl_status (*run)(nnl_ready *r));
nnl_status nnl_pool_walk_run(nnl_pool_walk *walk, bool backward);
void nnl_pool_walk_free(nnl_pool_walk *walk);
/* The windows of the row of results at (depth, height), for the kernels; *first is the offset in
 * elements, within a plane, of the first row of the input that they reach. */
nnl_pool_row nnl_pool_row_at(const nnl_pool_walk *walk, int64_t depth, int64_t height,
                             int64_t *first);
/* Sets a row of the input's gradient to 0 and hands every row of results that reaches it to add(),
 * with the windows whose code is that of their taps in this row; at is the element number where the
 * row of results begins. */
typedef void nnl_pool_add(const nnl_pool_walk *walk, const nnl_pool_row *row, char *dx, int64_t at);
void nnl_pool_collect(const nnl_pool_walk *walk, int64_t plane, int64_t depth, int64_t height,
                      nnl_pool_add *add);
/* A row of square windows that tile images with so many places in a row, channels together, in
 * memory of that many bytes: for ops that pool what they have just made. */
size_t nnl_pool_tiles_bytes(int64_t side, int64_t places);
const nnl_pool_row *nnl_pool_tiles(const nnl_kernels *kernels, int64_t side, int64_t places,
                                   int64_t channels, void *memory);
/* Element numbers where rows of results and of inputs begin. */
int64_t nnl_pool_result_row(const nnl_pool_walk *walk, int64_t plane, int64_t depth,
                            int64_t height);
int64_t nnl_pool_input_row(const nnl_pool_walk *walk, int64_t plane, int64_t depth, int64_t height);

#endif
