/* Optimizer updates of n elements in the type REAL; NAME(x) is the kernel's name.  All arrays are dense.  What is
 * absent is NULL.  Operations stand in torch's order (torch.optim, single-tensor forms), each rounded by itself,
 * so that every instruction set gives the same bits. */

static inline __attribute__((always_inline)) void NAME(sgd_loop)(
    REAL *restrict p, REAL *restrict momentum, const REAL *restrict g, int64_t n, const nnl_sgd *c, bool first,
    bool nesterov)
{
    const REAL lr = (REAL)c->lr, mu = (REAL)c->momentum, share = (REAL)(1 - c->dampening);
    const REAL decay = (REAL)c->weight_decay, sign = c->maximize ? -1 : 1;
    for (int64_t i = 0; i < n; i++) {
        REAL d = sign * g[i];
        if (decay != 0) d += decay * p[i];
        if (momentum) {
            REAL b = first ? d : momentum[i] * mu + share * d;
            momentum[i] = b;
            d = nesterov ? d + mu * b : b;
        }
        p[i] -= lr * d;
    }
}

void K(NAME(sgd))(REAL *p, REAL *momentum, const REAL *g, int64_t n, const nnl_sgd *c)
{
    if (!momentum) NAME(sgd_loop)(p, NULL, g, n, c, false, false);
    else if (c->first && c->nesterov) NAME(sgd_loop)(p, momentum, g, n, c, true, true);
    else if (c->first) NAME(sgd_loop)(p, momentum, g, n, c, true, false);
    else if (c->nesterov) NAME(sgd_loop)(p, momentum, g, n, c, false, true);
    else NAME(sgd_loop)(p, momentum, g, n, c, false, false);
}

/* m = m + (1 - beta1)(g - m), v = beta2 v + (1 - beta2) g^2, p = p - step m / (sqrt(v) scale + eps); with amsgrad
 * the largest v so far stands for v. */
static inline __attribute__((always_inline)) void NAME(adam_loop)(
    REAL *restrict p, REAL *restrict m, REAL *restrict v, REAL *restrict largest, const REAL *restrict g, int64_t n,
    const nnl_adam *c)
{
    const REAL step = (REAL)c->step_size, scale = (REAL)c->second_scale, eps = (REAL)c->eps;
    const REAL w1 = (REAL)(1 - c->beta1), beta2 = (REAL)c->beta2, w2 = (REAL)(1 - c->beta2);
    const REAL decay = (REAL)c->weight_decay, shrink = (REAL)c->shrink, sign = c->maximize ? -1 : 1;
    for (int64_t i = 0; i < n; i++) {
        REAL x = p[i] * shrink, d = sign * g[i];
        if (decay != 0) d += decay * x;
        REAL first = m[i] + w1 * (d - m[i]);
        REAL second = v[i] * beta2 + w2 * d * d;
        m[i] = first;
        v[i] = second;
        if (largest) {
            second = second > largest[i] || second != second ? second : largest[i];
            largest[i] = second;
        }
        p[i] = x - step * first / (SQRT(second) * scale + eps);
    }
}

void K(NAME(adam))(REAL *p, REAL *m, REAL *v, REAL *largest, const REAL *g, int64_t n, const nnl_adam *c)
{
    if (largest) NAME(adam_loop)(p, m, v, largest, g, n, c);
    else NAME(adam_loop)(p, m, v, NULL, g, n, c);
}

/* v = alpha v + (1 - alpha) g^2, d = g / (sqrt(v - mean^2) + eps), where mean (centered) is the running mean of g. */
static inline __attribute__((always_inline)) void NAME(rmsprop_loop)(
    REAL *restrict p, REAL *restrict v, REAL *restrict mean, REAL *restrict momentum, const REAL *restrict g, int64_t n,
    const nnl_rmsprop *c)
{
    const REAL lr = (REAL)c->lr, alpha = (REAL)c->alpha, rest = (REAL)(1 - c->alpha), eps = (REAL)c->eps;
    const REAL decay = (REAL)c->weight_decay, mu = (REAL)c->momentum, sign = c->maximize ? -1 : 1;
    for (int64_t i = 0; i < n; i++) {
        REAL d = sign * g[i];
        if (decay != 0) d += decay * p[i];
        REAL square = v[i] * alpha + rest * d * d;
        v[i] = square;
        if (mean) {
            REAL average = mean[i] + rest * (d - mean[i]);
            mean[i] = average;
            square -= average * average;
        }
        REAL size = SQRT(square) + eps;
        if (momentum) {
            REAL b = momentum[i] * mu + d / size;
            momentum[i] = b;
            p[i] -= lr * b;
        } else {
            p[i] -= lr * d / size;
        }
    }
}

void K(NAME(rmsprop))(REAL *p, REAL *v, REAL *mean, REAL *momentum, const REAL *g, int64_t n, const nnl_rmsprop *c)
{
    if (mean && momentum) NAME(rmsprop_loop)(p, v, mean, momentum, g, n, c);
    else if (mean) NAME(rmsprop_loop)(p, v, mean, NULL, g, n, c);
    else if (momentum) NAME(rmsprop_loop)(p, v, NULL, momentum, g, n, c);
    else NAME(rmsprop_loop)(p, v, NULL, NULL, g, n, c);
}

void K(NAME(adagrad))(REAL *restrict p, REAL *restrict sum, const REAL *restrict g, int64_t n, const nnl_adagrad *c)
{
    const REAL lr = (REAL)c->lr, eps = (REAL)c->eps;
    const REAL decay = (REAL)c->weight_decay, sign = c->maximize ? -1 : 1;
    for (int64_t i = 0; i < n; i++) {
        REAL d = sign * g[i];
        if (decay != 0) d += decay * p[i];
        REAL total = sum[i] + d * d;
        sum[i] = total;
        p[i] -= lr * d / (SQRT(total) + eps);
    }
}
