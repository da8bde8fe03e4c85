/* What a convolution is, for its records (conv.c) and for what computes it (conv_run.c). */
#ifndef NNL_OPS_CONV_H
#define NNL_OPS_CONV_H

#include "op.h"

/* input N x C x in, weight out_channels x C / groups x kernel, result N x out_channels x out.
 * Places have three sizes, depth, height and width; those that a 1d or 2d convolution lacks are 1.
 */
typedef struct nnl_conv {
    int rank;     /* 1, 2 or 3 */
    bool batched; /* else input and result lack the dimension N, which is 1 */
    int64_t samples, groups, in_channels, out_channels;
    int64_t in[3], out[3], kernel[3], stride[3], dilation[3];
    int64_t low[3], high[3]; /* zeros before and behind the input */
} nnl_conv;

static inline int64_t nnl_conv_reach(const nnl_conv *v, int d)
{
    return v->dilation[d] * (v->kernel[d] - 1) + 1;
}

/* result = input * weight + bias, its positive part with relu; result lies channels last.  bias may
 * be NULL. */
nnl_status nnl_conv_forward(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *out,
                            const nnl_tensor *input, const nnl_tensor *weight,
                            const nnl_tensor *bias, bool relu);
/* What becomes of the sums in the last pass: relu(batch_norm_eval(sum + bias) + residual), each of
 * them where it is given; and of that the maxima of windows. */
typedef struct nnl_conv_last {
    const nnl_tensor *bias, *mean, *var, *norm_weight, *norm_bias;
    double eps;
    bool residual, relu;
    bool winograd;               /* of a convolution that suits: nnl_conv_suits_winograd() */
    int64_t frame_in, frame_out; /* columns of zeros: beside the rows of the input, and to write
                                    beside those of the result */
    int64_t pool; /* the side of square windows that tile the result, of which the maxima are
                     wanted, or 0; of one group, without a residual, frame_out or Winograd */
} nnl_conv_last;

/* Whether Winograd's tiles are the quicker way, by shape alone: 3x3 with stride 1, f32.  fixed: the
 * weight is, from run to run. */
bool nnl_conv_suits_winograd(const nnl_runtime *rt, const nnl_conv *v, nnl_dtype dtype, bool fixed);
/* The same of a step conv2d, conv2d_fused or conv_grad_input over tensors of these forms. */
bool nnl_conv_call_suits_winograd(const nnl_runtime *rt, const nnl_op *op, const nnl_tensor *input,
                                  const nnl_tensor *weight, const nnl_tensor *out,
                                  const nnl_value *attr, bool fixed);

/* A convolution that is run again and again with a weight, and statistics, that stay: they lie
 * packed in the plan, one block of *bytes from nnl_alloc(), and only addresses change; a residual
 * lies as the result does.  *out stays
 * NULL where it cannot be so: the result has no dimension N or no elements, or the bias is not
 * adjacent. */
typedef struct nnl_conv_ready nnl_conv_ready;
nnl_status nnl_conv_get_ready(nnl_runtime *rt, const nnl_conv *v, const nnl_tensor *y,
                              const nnl_tensor *input, const nnl_tensor *weight,
                              const nnl_conv_last *last, nnl_conv_ready **out, size_t *bytes);
nnl_status nnl_conv_run_ready(nnl_runtime *rt, nnl_conv_ready *ready, void *y,
                              const nnl_tensor *input, const void *bias, const void *residual);
/* The gradient of the input, which lies channels last. */
nnl_status nnl_conv_grad_input(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *dx,
                               const nnl_tensor *dy, const nnl_tensor *weight);
/* The same by Winograd's tiles, of dx that is dense and a convolution that, turned around, suits.
 */
nnl_status nnl_conv_winograd_grad_input(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *dx,
                                        const nnl_tensor *dy, const nnl_tensor *weight);
/* With strides of 1 it is a convolution of dy with the weight turned around: this one. */
nnl_conv nnl_conv_turned(const nnl_conv *v);
/* The gradients of weight and bias, both contiguous.  db may be NULL. */
nnl_status nnl_conv_grad_weight(nnl_runtime *rt, const nnl_conv *v, nnl_tensor *dw, nnl_tensor *db,
                                const nnl_tensor *dy, const nnl_tensor *input);

#endif
