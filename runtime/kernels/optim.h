/* What the optimizer kernels (optim.c) and their caller (ops/optim.c) agree upon: the numbers of one step. */
#ifndef NNL_KERNELS_OPTIM_H
#define NNL_KERNELS_OPTIM_H

#include <stdbool.h>

typedef struct nnl_sgd {
    double lr, momentum, dampening, weight_decay;
    bool nesterov, maximize;
    bool first; /* the momentum starts as this gradient */
} nnl_sgd;

typedef struct nnl_adam {
    double step_size;    /* lr / (1 - beta1^t) */
    double second_scale; /* 1 / sqrt(1 - beta2^t) */
    double beta1, beta2, eps;
    double weight_decay; /* added to the gradient */
    double shrink;       /* AdamW: the parameter is multiplied by 1 - lr weight_decay; else 1 */
    bool maximize;
} nnl_adam;

typedef struct nnl_rmsprop {
    double lr, alpha, eps, weight_decay, momentum;
    bool maximize;
} nnl_rmsprop;

typedef struct nnl_adagrad {
    double lr; /* lr / (1 + (t - 1) lr_decay) */
    double eps, weight_decay;
    bool maximize;
} nnl_adagrad;

#endif
