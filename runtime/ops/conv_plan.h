/* What the directions of a convolution share: an image in memory, the result cut into blocks of
 * pixels that threads take, and the window of the image that a block reads. */
#ifndef NNL_OPS_CONV_PLAN_H
#define NNL_OPS_CONV_PLAN_H

#include "conv.h"

/* Bytes of the image that a block may read: a piece of L2. */
#define NNL_CONV_WINDOW 131072
/* Multiplications that are worth a block, and blocks enough for the threads to feed. */
#define NNL_CONV_BLOCK_WORK 400000
#define NNL_CONV_BLOCKS 16
/* Such work is worth a task while workers are held awake. */
#define NNL_CONV_TASK_WORK 100000.0

static inline int64_t nnl_divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t nnl_round_up(int64_t a, int64_t b) { return nnl_divide_up(a, b) * b; }

/* N x C x depth x height x width with its steps in elements. */
typedef struct nnl_conv_image {
    const char *data;
    int64_t sample, channel, place[3];
} nnl_conv_image;

nnl_conv_image nnl_conv_image_of(const nnl_tensor *t, const nnl_conv *v);
/* The steps of a dense image whose channels are together. */
nnl_conv_image nnl_conv_image_dense(const void *data, int64_t channels, const int64_t sizes[3]);

/* What every block of one call has in common. */
typedef struct nnl_conv_plan {
    const nnl_conv *v;
    nnl_conv shape; /* *v, with dimensions joined where nothing tells them apart */
    const nnl_kernels *kernels;
    nnl_dtype dtype;
    int64_t size;                      /* bytes an element */
    int64_t channels_in, channels_out; /* of a group; depthwise, of all that are walked together */
    bool depthwise; /* a group for each channel: kernels with channels as lanes */
    nnl_conv_image x;
    bool direct;           /* the image is read where it lies */
    int64_t rows, columns; /* of a block */
    int64_t row_blocks, column_blocks, blocks;
    int64_t window_bytes; /* of a block's buffer */
    /* bytes of each lane's memory, and how the blocks go to lanes */
    char *memory;
    int64_t lane_bytes, lanes, tasks;
    void (*task)(const struct nnl_conv_plan *p, int64_t i, char *buffer);
    /* results that are pooled: the side of windows, a row of them, where the maxima go, and the
     * task that makes the results; y lies in the lane's memory then, block by block */
    int64_t pool;
    const nnl_pool_row *pool_row;
    char *pooled;
    void (*before_pool)(const struct nnl_conv_plan *p, int64_t i, char *buffer);
    /* the calls' own */
    const char *weight, *bias, *residual;
    const char *center, *scale, *shift; /* a normalisation of the result; or NULL */
    bool relu;
    nnl_conv_image y;
    int64_t frame;    /* columns of zeros to write beside the rows of y */
    int64_t frame_in; /* and those that lie beside the rows of x */
    char *sums;
    char *dx;
    int64_t row_bytes; /* of a row of dx */
    int64_t parts, panels, panel_width, sums_step, sums_bytes, group_bytes, part_bytes;
    int64_t dy_bytes; /* of a block's dy, where its channels are apart; else 0 */
    bool with_bias, lane_sums, across;
    char *dw, *db;
    nnl_conv_order order;
    nnl_conv_flat flat; /* of one input channel and few output channels: what its blocks share */
} nnl_conv_plan;

static inline const void *nnl_conv_at(const nnl_conv_plan *p, const char *base, int64_t place)
{
    return base + place * p->size;
}

static inline int64_t nnl_conv_lanes(const nnl_conv_plan *p)
{
    return p->kernels->vector_bytes / p->size;
}
static inline int64_t nnl_conv_taps(const nnl_conv *v)
{
    return v->kernel[0] * v->kernel[1] * v->kernel[2];
}

/* Places of the input that a run of results reads. */
static inline int64_t nnl_conv_reach_of(const nnl_conv *v, int d, int64_t results)
{
    return (results - 1) * v->stride[d] + nnl_conv_reach(v, d);
}

double nnl_conv_work(const nnl_conv *v); /* multiplications */
/* What they are worth with empty lanes of vectors and the last pass over the results. */
double nnl_conv_lane_work(const nnl_conv_plan *p);
/* Fills what the plan says of groups and channels; depthwise, all channels are walked together. */
void nnl_conv_walk_groups(nnl_conv_plan *p);
/* pixels: results are pixels, whose bits depend neither on blocks nor on runs: rows may be joined
 * and taps read in the runs that memory allows.  Else these are the same wherever the image is. */
nnl_conv_plan nnl_conv_plan_make(nnl_runtime *rt, const nnl_conv *v, nnl_dtype dtype,
                                 const nnl_conv_image *x, bool pixels);
/* Of pixels, where so many columns of zeros lie beside the image's rows; rows of pixels are joined
 * only where the result allows it. */
nnl_conv_plan nnl_conv_plan_framed(nnl_runtime *rt, const nnl_conv *v, nnl_dtype dtype,
                                   const nnl_conv_image *x, int64_t frame, bool joins);
/* Cuts a plan of pixels further, for threads that are held awake. */
void nnl_conv_cut(const nnl_runtime *rt, nnl_conv_plan *p);
/* The same into blocks of so many rows. */
void nnl_conv_cut_rows(nnl_conv_plan *p, int64_t rows);
/* Where results are pooled: into blocks of whole rows of windows. */
void nnl_conv_cut_windows(nnl_conv_plan *p);
/* A task's memory: the block's window of the image, and its results where they are pooled. */
int64_t nnl_conv_lane_bytes(const nnl_conv_plan *p);
/* Runs p->tasks, each with p->lane_bytes of memory of its own.  work: multiplications. */
nnl_status nnl_conv_run_tasks(nnl_runtime *rt, nnl_conv_plan *p, double work);
/* The same in two steps, of which the second may be repeated: how tasks go to lanes, with less work
 * for each where workers are held awake; and the run. */
void nnl_conv_share(const nnl_runtime *rt, nnl_conv_plan *p, double work, bool held);
nnl_status nnl_conv_run_lanes(nnl_runtime *rt, nnl_conv_plan *p);

/* One block: results [r0, r1) x [c0, c1) of a plane of the result, and its window. */
typedef struct nnl_conv_part {
    int64_t sample, group, plane, r0, r1, c0, c1;
    const char *x; /* first tap of its first pixel */
    int64_t x_row, x_column, taps[3], x_tap[3], run;
    int64_t first_row, end_row; /* of the window: those that lie in the image */
} nnl_conv_part;

nnl_conv_part nnl_conv_part_at(const nnl_conv_plan *p, int64_t i);
/* Fills the block's description of what it reads, from the image or from the buffer. */
void nnl_conv_part_open(const nnl_conv_plan *p, nnl_conv_part *b, char *buffer);

/* `columns` places of a row of an image, their channels together. */
void nnl_conv_copy_row(const nnl_conv_plan *p, char *out, const nnl_conv_image *image,
                       const void *from, int64_t columns, int64_t channels);

/* The steps of a weight out_channels x in_channels of a group x taps, in elements. */
typedef struct nnl_conv_steps {
    int64_t out, in, tap[3];
} nnl_conv_steps;

nnl_conv_steps nnl_conv_steps_of(const nnl_tensor *w, const nnl_conv *v);
/* Taps x input channels, output channels being the lanes; the order of sums in every kernel. */
nnl_conv_order nnl_conv_order_of(const nnl_conv_plan *p, const nnl_conv_steps *w);

/* ---- by Winograd's tiles (conv_winograd.c): of pixels, like nnl_conv_plan_framed(); x has its
 * channels together. row_blocks, column_blocks and blocks count tiles, columns those of each of the
 * parts. */

nnl_conv_plan nnl_conv_winograd_plan(nnl_runtime *rt, const nnl_conv *v, const nnl_conv_image *x,
                                     int64_t frame);
/* nnl_conv_share() for it, in a program. */
void nnl_conv_winograd_share(const nnl_runtime *rt, nnl_conv_plan *p);
int64_t nnl_conv_winograd_weight_bytes(const nnl_conv_plan *p);
/* The transforms of a weight that lies in the given order. */
nnl_status nnl_conv_winograd_pack(nnl_runtime *rt, const nnl_conv_plan *p, void *out,
                                  const void *weight, const nnl_conv_order *order);

/* ---- one input channel and few output channels (conv_flat.c) */

bool nnl_conv_is_flat(const nnl_runtime *rt, const nnl_conv *v, nnl_dtype dtype);
nnl_conv_plan nnl_conv_flat_plan(nnl_runtime *rt, const nnl_conv *v, const nnl_conv_image *x);
/* nnl_conv_share() for it, in a program. */
void nnl_conv_flat_share(const nnl_runtime *rt, nnl_conv_plan *p);
/* Its weight, packed with room for the bias, which is set afterwards and may be NULL. */
int64_t nnl_conv_flat_weight_bytes(const nnl_conv_plan *p);
void nnl_conv_flat_pack(nnl_conv_plan *p, void *out, const nnl_tensor *weight);
void nnl_conv_flat_set_bias(nnl_conv_plan *p, const void *bias);
/* out is a dense image, bias contiguous. */
nnl_status nnl_conv_flat_forward(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *out,
                                 const nnl_tensor *input, const nnl_tensor *weight,
                                 const nnl_tensor *bias, bool relu);
nnl_status nnl_conv_flat_grad_weight(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *dw,
                                     nnl_tensor *db, const nnl_tensor *dy, const nnl_tensor *input);

#endif
