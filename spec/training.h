/* A small network trained through nnlua.h alone: linear, relu, dropout, linear, cross entropy, backward, and an update
 * with momentum.  Used by the programs that look at memory and at threads. */
#ifndef TRAINING_H
#define TRAINING_H

#include "check.h"

#define PARAMS 4

typedef struct network {
    nnl_runtime *rt;
    nnl_tensor *param[PARAMS], *momentum[PARAMS];
    nnl_tensor *steps;   /* i64, one a parameter */
    nnl_tensor *x, *labels;
} network;

/* Numbers between -1 and 1 that are the same everywhere. */
static inline float some_number(int64_t i)
{
    uint64_t z = (uint64_t)i * 0x9e3779b97f4a7c15u + 0x1234567u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (float)((double)(z >> 40) / 8388608.0 - 1.0);
}

static inline nnl_tensor *some_tensor(nnl_runtime *rt, int ndim, const int64_t *shape, float scale, int64_t first)
{
    nnl_tensor *t;
    if (nnl_tensor_new(rt, NNL_F32, ndim, shape, &t) != NNL_OK) return NULL;
    float *data = nnl_tensor_data(t);
    for (int64_t i = 0; i < nnl_tensor_numel(t); i++) data[i] = scale * some_number(first + i);
    return t;
}

static inline void network_new(network *n, nnl_runtime *rt, int64_t batch, int64_t in, int64_t hidden, int64_t classes)
{
    const int64_t shapes[PARAMS][2] = {{hidden, in}, {hidden, 0}, {classes, hidden}, {classes, 0}};
    n->rt = rt;
    for (int i = 0; i < PARAMS; i++) {
        int ndim = i % 2 == 0 ? 2 : 1;
        n->param[i] = some_tensor(rt, ndim, shapes[i], 0.2f, 1000000 * i);
        if (nnl_tensor_set_requires_grad(n->param[i], true) != NNL_OK) exit(2);
        if (nnl_tensor_zeros(rt, NNL_F32, ndim, shapes[i], &n->momentum[i]) != NNL_OK) exit(2);
    }
    n->x = some_tensor(rt, 2, (int64_t[]){batch, in}, 1, 77000000);
    if (nnl_tensor_zeros(rt, NNL_I64, 1, (int64_t[]){PARAMS}, &n->steps) != NNL_OK) exit(2);
    if (nnl_tensor_new(rt, NNL_I64, 1, &batch, &n->labels) != NNL_OK) exit(2);
    int64_t *label = nnl_tensor_data(n->labels);
    for (int64_t i = 0; i < batch; i++) label[i] = (i * 7 + 3) % classes;
}

static inline void network_drop(network *n)
{
    for (int i = 0; i < PARAMS; i++) {
        nnl_tensor_unref(n->param[i]);
        nnl_tensor_unref(n->momentum[i]);
    }
    nnl_tensor_unref(n->x);
    nnl_tensor_unref(n->labels);
    nnl_tensor_unref(n->steps);
}

/* The loss as a new reference. */
static inline nnl_status network_loss(network *n, nnl_tensor **loss)
{
    nnl_runtime *rt = n->rt;
    nnl_tensor *h1 = NULL, *h2 = NULL, *h3 = NULL, *out = NULL;
    const nnl_attr half[] = {NNL_FLOAT("p", 0.5), NNL_END};
    nnl_status status = apply(rt, "linear", 3, (nnl_tensor *[]){n->x, n->param[0], n->param[1]}, NULL, &h1);
    if (status == NNL_OK) status = apply(rt, "relu", 1, &h1, NULL, &h2);
    if (status == NNL_OK) status = apply(rt, "dropout", 1, &h2, half, &h3);
    if (status == NNL_OK) status = apply(rt, "linear", 3, (nnl_tensor *[]){h3, n->param[2], n->param[3]}, NULL, &out);
    if (status == NNL_OK) status = apply(rt, "cross_entropy", 2, (nnl_tensor *[]){out, n->labels}, NULL, loss);
    nnl_tensor_unref(h1);
    nnl_tensor_unref(h2);
    nnl_tensor_unref(h3);
    nnl_tensor_unref(out);
    return status;
}

static inline nnl_status network_update(network *n)
{
    const nnl_attr options[] = {NNL_FLOAT("lr", 0.1), NNL_FLOAT("momentum", 0.9), NNL_END};
    nnl_tensor *all[3 * PARAMS + 1];
    for (int i = 0; i < PARAMS; i++) {
        all[i] = n->param[i];
        all[PARAMS + i] = nnl_tensor_grad(n->param[i]);
        all[2 * PARAMS + i] = n->momentum[i];
    }
    all[3 * PARAMS] = n->steps;
    return nnl_apply(n->rt, nnl_op_find("sgd_step"), all, COUNT(all), options, NULL, 0);
}

static inline void network_zero_grad(network *n)
{
    for (int i = 0; i < PARAMS; i++) (void)nnl_tensor_set_grad(n->param[i], NULL);
}

static inline nnl_status network_step(network *n, float *loss_value)
{
    nnl_tensor *loss = NULL;
    nnl_status status = network_loss(n, &loss);
    if (status == NNL_OK) status = nnl_backward(loss, NULL, false, false);
    if (status == NNL_OK) status = network_update(n);
    if (status == NNL_OK && loss_value) *loss_value = *(const float *)nnl_tensor_const_data(loss);
    nnl_tensor_unref(loss);
    network_zero_grad(n);
    return status;
}

#endif
