/* One layer of a recurrent network in one direction over a whole sequence: what its ops
 * (recurrent.c) and their runs (recurrent_scan.c) share. */
#ifndef NNL_RECURRENT_H
#define NNL_RECURRENT_H

#include "op.h"

enum { NNL_RNN, NNL_GRU, NNL_LSTM }; /* the variant of a record */

/* Places of tensors and results of the forward ops, and of the flag that says from which end they
 * begin. */
enum {
    NNL_REC_INPUT,
    NNL_REC_W_IH,
    NNL_REC_W_HH,
    NNL_REC_B_IH,
    NNL_REC_B_HH,
    NNL_REC_H0,
    NNL_REC_C0,
    NNL_REC_W_HR
};
enum { NNL_REC_OUTPUT, NNL_REC_H_N };

int nnl_recurrent_gates(int variant); /* 1, 3 or 4 */

nnl_status nnl_recurrent_run(nnl_call *c);
nnl_status nnl_lstm_backward_run(nnl_call *c);
nnl_status nnl_gru_backward_run(nnl_call *c);
nnl_status nnl_rnn_backward_run(nnl_call *c);

#endif
