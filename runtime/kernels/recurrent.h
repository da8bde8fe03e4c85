/* One time step of a recurrent layer for some rows of the batch and some of the hidden columns, as
 * ops/recurrent_scan.c hands it to the kernels of kernels/recurrent.c. */
#ifndef NNL_KERNELS_RECURRENT_H
#define NNL_KERNELS_RECURRENT_H

#include <stdbool.h>
#include <stdint.h>

/* Every array begins at the tile's first row and column and holds whole rows of the layer: `size`
 * elements, and those of the gates as many for each gate, one gate after the other. */
typedef struct nnl_recurrent_tile {
    int64_t rows, columns, size;
    void *gates; /* sums of products and biases; step: then their activations.  LSTM: i f g o;
                    GRU: r z n, without what comes from the state in n; RNN: the state itself */
    const void *recurrent;    /* GRU: what comes from the state in n, W_hn h + b_hn */
    void *state;              /* step: h */
    const void *state_before; /* GRU */
    void *cell;               /* LSTM: c */
    const void *cell_before;
    bool relu; /* RNN: max(0, x) instead of tanh */
    /* gradients; those with respect to the gates are of the sums before the activations */
    const void *dy; /* of the step's result, rows dy_row elements apart, or NULL */
    int64_t dy_row;
    void *dstate; /* of h through later steps; GRU: becomes that of the state before through z */
    void *dcell;  /* LSTM: of c through later steps; becomes that of the cell before */
    void *dgates;
    void *drecurrent; /* GRU */
} nnl_recurrent_tile;

#endif
