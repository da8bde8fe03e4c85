/* Pieces of convolutions, as ops/conv_run.c hands them to the kernels of conv.c.  Images lie with
 * their channels together; pixels are walked by rows and columns.  Steps are in elements. */
#ifndef NNL_KERNELS_CONV_H
#define NNL_KERNELS_CONV_H

#include <stdbool.h>
#include <stdint.h>

/* y[pixel][c] = act(norm(sum over taps and the run r of x[pixel + tap + r] w[tap][r][c] + bias[c])
 * + residual[pixel][c]), norm(z) = (z - center[c]) scale[c] + shift[c].  A result is one chain of
 * fma in the order of taps and run, whatever tile it lies in. */
typedef struct nnl_conv_block {
    int64_t rows, columns;
    const void *x; /* first tap of pixel (0, 0); with fewer than 4 columns, 4 can be read */
    int64_t x_row, x_column; /* from pixel to pixel */
    int64_t taps[3], x_tap[3];
    /* Rows of x, counted from pixel row 0 and tap 0, outside of [first_row, end_row) are zeros and
     * are not read.  From pixel row to pixel row they are row_step, from tap to tap row_tap; 0: all
     * rows are read. */
    int64_t first_row, end_row, row_step, row_tap;
    int64_t run;   /* elements of x that lie together at a tap */
    const void *w; /* as conv_pack lays it: taps x run rows */
    int64_t channels;
    void *y;
    int64_t y_row, y_column;
    const void *bias;                   /* channels, or NULL */
    const void *center, *scale, *shift; /* channels each, or all NULL */
    const void *residual;               /* lies as y does, and is another array; or NULL */
    bool relu;
} nnl_conv_block;

/* sums[r][c] += sum over pixels of x[pixel + r] dy[pixel][c], for the run r. */
typedef struct nnl_conv_sums {
    int64_t rows, columns;
    const void *x;
    int64_t x_row, x_column;
    int64_t run;
    const void *dy;
    int64_t dy_row, dy_column;
    int64_t channels;
    void *sums; /* run x sums_step, whose rows have room for whole vectors */
    int64_t sums_step;
} nnl_conv_sums;

/* dx[pixel + i] += sum over d of dy[pixel][d] w[d][i]: windows of n adjacent elements, which may overlap and are added
 * column by column of pixels.  A sum is one chain of fma. */
typedef struct nnl_conv_spread {
    int64_t rows, columns, depth, n;
    const void *dy; /* elements of a pixel are adjacent */
    int64_t dy_row, dy_column;
    const void *w; /* whole vectors are read, beyond the last row, too */
    int64_t w_row;
    void *dx;
    int64_t dx_row, dx_column;
} nnl_conv_spread;

/* One input channel and few output channels: lanes are the elements of a row of results as they lie, columns x channels.
 * period: vectors after which the same channels stand in the same lanes. */
typedef struct nnl_conv_flat {
    int64_t rows, columns, channels, period;
    const float *x; /* first tap of pixel (0, 0); whole vectors are read, beyond the last row, too */
    int64_t x_row;
    int64_t taps[2]; /* rows x adjacent places; at most NNL_CONV_FLAT_TAPS of each */
    float *y;        /* results, written; or their gradient, read */
    int64_t y_row;
    const float *w, *bias; /* taps x period vectors; period vectors, or NULL */
    bool relu;
    float *sums; /* instead of w: taps x period vectors, and for the bias, of sums over pixels */
} nnl_conv_flat;

#define NNL_CONV_FLAT_TAPS 11

/* A 3x3 convolution with stride 1 by F(4x4, 3x3): tiles of 4 x 4 results of 6 x 6 places of the image.
 * Tiles are counted over images, their rows and their columns of tiles; blocks of them are computed
 * at once.  The ending is nnl_conv_block's; an element does not depend on the block it lies in. */
typedef struct nnl_conv_winograd {
    int64_t tile, tiles; /* of this block: the first, and how many */
    int64_t tile_rows, tile_columns; /* of an image */
    const float *x; /* place (0, 0) of image 0, channels together */
    int64_t x_sample, x_row, x_column;
    int64_t rows, first_column, end_column; /* rows of x, and columns that can be read; others are zeros */
    int64_t low[2]; /* zeros above and to the left of place (0, 0) */
    int64_t depth;  /* channels of x */
    const float *w; /* 36 matrices as conv_winograd_weight lays them, */
    int64_t w_step; /* so far apart */
    float *y; /* result (0, 0) of image 0 */
    int64_t y_sample, y_row, y_column;
    int64_t y_rows, y_columns, channels;
    const float *bias, *center, *scale, *shift, *residual;
    bool relu;
    float *memory; /* aligned to 64 bytes; NNL_CONV_WINOGRAD_ROOM vectors */
} nnl_conv_winograd;

/* Vectors of memory for `tiles` tiles, `in` and `out` vectors of channels: 36 matrices of each, whose
 * distance is an odd number of vectors, so that they do not share the sets of a cache. */
#define NNL_CONV_WINOGRAD_ROOM(tiles, in, out) (36 * (((tiles) + 3) / 4 * 4 * ((in) + (out)) + 2))

/* A weight in memory, and lanes: element (a, b, c, d, lane) at a step[0] + b step[1] + ... + lane
 * lane_step. */
typedef struct nnl_conv_order {
    int64_t size[4], step[4];
    int64_t lanes, lane_step;
} nnl_conv_order;

#endif
