/* Optimizer steps: one call updates all parameters of a group, and clipping of all gradients by their norm.
 * Everything is checked, and what cannot be used as it lies is copied, before the first write. */
#include "op.h"
#include "dense.h"

#include <math.h>
#include <string.h>

#define WORK 8 /* elementary operations an element */
#define SHARES_A_THREAD 4
#define SHARE 4096  /* elements, at least */
#define LINE 64     /* elements that no two threads share */
#define CHUNK 16384 /* of a gradient whose norm is taken: its sums are split by its size only */

/* ---------------------------------------------------------------- lists of tensors */

static int list_count(const nnl_call *c, int list) { return c->start[list + 1] - c->start[list]; }
static nnl_tensor **list_of(const nnl_call *c, int list) { return c->in + c->start[list]; }

static bool is_list(const nnl_call *c, int list) { return c->sig->tensor[list]->list; }

/* A state list, or the gradients: absent, or one tensor like each parameter. */
static nnl_status check_list(nnl_call *c, int list)
{
    const nnl_param *param = c->sig->tensor[list];
    nnl_tensor **params = list_of(c, 0), **t = list_of(c, list);
    int count = list_count(c, list), wanted = list_count(c, 0);
    if (count == 0 && param->optional) return NNL_OK;
    if (count != wanted)
        return nnl_call_fail(c, NNL_EINVAL, "%s has %d tensors, but params has %d", param->name, count, wanted);
    for (int i = 0; i < count; i++) {
        if (!t[i]) { /* a parameter without gradient stays as it is */
            if (list == 1 || !list_count(c, 1) || !list_of(c, 1)[i]) continue;
            return nnl_call_fail(c, NNL_EINVAL, "%s of parameter %d is missing", param->name, i + c->index_base);
        }
        if (t[i]->dtype != params[i]->dtype || !nnl_same_shape(t[i], params[i])) {
            char a[NNL_SHAPE_TEXT], b[NNL_SHAPE_TEXT];
            return nnl_call_fail(c, NNL_ESHAPE, "%s of parameter %d is %s %s, but the parameter is %s %s", param->name,
                                 i + c->index_base, nnl_dtype_name((nnl_dtype)t[i]->dtype),
                                 nnl_shape_text(a, t[i]->ndim, t[i]->shape), nnl_dtype_name((nnl_dtype)params[i]->dtype),
                                 nnl_shape_text(b, params[i]->ndim, params[i]->shape));
        }
        if (list > 1 && !t[i]->contiguous)
            return nnl_call_fail(c, NNL_EINVAL, "%s of parameter %d is not contiguous", param->name, i + c->index_base);
    }
    return NNL_OK;
}

/* Tensor parameters are: params, grads, state lists, and steps if there is one that is no list. */
static nnl_status update_infer(nnl_call *c)
{
    nnl_tensor **params = list_of(c, 0);
    int count = list_count(c, 0);
    for (int i = 0; i < count; i++) {
        for (int d = 0; d < params[i]->ndim; d++) {
            if (params[i]->strides[d] == 0 && params[i]->shape[d] > 1)
                return nnl_call_fail(c, NNL_ESTATE, "parameter %d is expanded and cannot be changed in place",
                                     i + c->index_base);
        }
    }
    for (int list = 1; list < c->sig->tensors; list++) {
        if (is_list(c, list)) {
            NNL_TRY(check_list(c, list));
            continue;
        }
        const nnl_tensor *steps = list_of(c, list)[0];
        if (steps->dtype != NNL_I64 || steps->ndim != 1 || steps->numel != count || !steps->contiguous)
            return nnl_call_fail(c, NNL_ESHAPE, "steps must be a contiguous i64 tensor with a place for each parameter");
    }
    return NNL_OK;
}

/* ---------------------------------------------------------------- running over all parameters */

typedef struct update update;

struct update {
    nnl_call *call;
    int count;
    nnl_tensor **param, **grad; /* dense ones: the call's own or copies */
    int64_t elements, shares;
    int64_t *steps;             /* of each parameter before this call, or NULL */
    void (*run)(const update *u, int i, int64_t from, int64_t n);
    void *block;
    size_t block_size;
};

/* Elements of a state list from a place on, or NULL when the list is absent. */
static void *state_at(const update *u, int list, int i, int64_t from)
{
    const nnl_call *c = u->call;
    if (list_count(c, list) == 0) return NULL;
    nnl_tensor *t = list_of(c, list)[i];
    return t->data + (size_t)from * nnl_dtype_size((nnl_dtype)t->dtype);
}

static void *element(const nnl_tensor *t, int64_t from)
{
    return t->data + (size_t)from * nnl_dtype_size((nnl_dtype)t->dtype);
}

/* Where share `place` of so many begins in n elements: at a cache line. */
static int64_t share_begin(int64_t n, int64_t place, int64_t shares)
{
    return place == shares ? n : n * place / shares / LINE * LINE;
}

/* A share is a part of every parameter, so that a thread finds in its cache what it has made itself: products, too,
 * give each thread a range of a weight's rows.
 *
 * Where gradients are 0 for long (pixels that are always black), moments decay to subnormal numbers and stay there:
 * 0.9 times the smallest four rounds to themselves.  Arithmetic on those takes a hundred times as long, and no weight
 * sees them, so subnormal numbers count as 0. */
static void run_share(void *context, int64_t place)
{
    const update *u = context;
    nnl_fp_state fp;
    nnl_fp_flush(&fp);
    for (int i = 0; i < u->count; i++) {
        if (!u->grad[i]) continue;
        int64_t n = u->param[i]->numel, from = share_begin(n, place, u->shares);
        int64_t end = share_begin(n, place + 1, u->shares);
        if (end > from) u->run(u, i, from, end - from);
    }
    nnl_fp_leave(&fp);
}

static size_t lists_size(const nnl_call *c)
{
    size_t n = (size_t)list_count(c, 0);
    return 2 * n * sizeof(nnl_tensor *);
}

/* Lays out the lists in a block of lists_size(). */
static void share_out(update *u, nnl_call *c, void *block)
{
    int n = u->count = list_count(c, 0), last = c->sig->tensors - 1;
    u->call = c;
    if (!is_list(c, last)) u->steps = (int64_t *)(void *)list_of(c, last)[0]->data;
    u->param = block;
    u->grad = u->param + n;
    u->elements = 0;
    for (int i = 0; i < n; i++) {
        u->param[i] = list_of(c, 0)[i];
        u->grad[i] = list_count(c, 1) ? list_of(c, 1)[i] : NULL;
        if (u->grad[i]) u->elements += u->param[i]->numel;
    }
}

static nnl_status prepare(update *u, nnl_call *c)
{
    u->block_size = lists_size(c);
    NNL_TRY(nnl_alloc(c->rt, u->block_size, &u->block));
    share_out(u, c, u->block);
    for (int i = 0; i < u->count; i++) {
        if (!u->grad[i]) continue;
        if (!u->param[i]->contiguous) NNL_TRY(nnl_dense(list_of(c, 0)[i], &u->param[i]));
        if (!u->grad[i]->contiguous) NNL_TRY(nnl_dense(list_of(c, 1)[i], &u->grad[i]));
    }
    return NNL_OK;
}

static void finish(update *u)
{
    nnl_call *c = u->call;
    if (!u->block) return;
    for (int i = 0; i < u->count; i++) {
        if (u->param[i] != list_of(c, 0)[i]) nnl_tensor_unref(u->param[i]);
        if (u->grad[i] && u->grad[i] != list_of(c, 1)[i]) nnl_tensor_unref(u->grad[i]);
    }
    nnl_free(c->rt, u->block, u->block_size);
}

/* Elements do not depend on each other: shares may follow the number of threads. */
static nnl_status run_shares(update *u)
{
    nnl_runtime *rt = u->call->rt;
    bool together = u->elements * WORK >= nnl_serial_work(rt);
    u->shares = together ? NNL_MIN(SHARES_A_THREAD * (int64_t)rt->threads, u->elements / SHARE + 1) : 1;
    if (together) return nnl_parallel(rt, u->shares, run_share, u);
    run_share(u, 0);
    return NNL_OK;
}

/* What changed is counted, copies go back, and the counts of steps move on. */
static nnl_status commit(update *u, nnl_tensor *steps)
{
    nnl_call *c = u->call;
    for (int i = 0; i < u->count; i++) {
        if (!u->grad[i]) continue;
        nnl_tensor *param = list_of(c, 0)[i];
        if (u->param[i] != param) NNL_TRY(nnl_copy(param, u->param[i]));
        nnl_tensor_touch(param);
        for (int list = 2; list < c->sig->tensors; list++) {
            if (is_list(c, list) && list_count(c, list)) nnl_tensor_touch(list_of(c, list)[i]);
        }
        if (steps) u->steps[i]++;
    }
    if (steps) nnl_tensor_touch(steps);
    return NNL_OK;
}

static nnl_status run_update(nnl_call *c, void (*run)(const update *u, int i, int64_t from, int64_t n))
{
    update u = {.call = c, .run = run};
    int last = c->sig->tensors - 1;
    nnl_status status = prepare(&u, c);
    if (status == NNL_OK) status = nnl_poll_cancel(c->rt);
    if (status == NNL_OK) {
        c->rt->hold_cancel = true;
        status = run_shares(&u);
        if (status == NNL_OK) status = commit(&u, is_list(c, last) ? NULL : list_of(c, last)[0]);
        c->rt->hold_cancel = false;
    }
    finish(&u);
    return status;
}

/* A program counts what changed, and polls, by itself. */
static nnl_status run_ready(nnl_ready *r)
{
    update *u = r->plan;
    NNL_TRY(run_shares(u));
    for (int i = 0; i < u->count && u->steps; i++) u->steps[i] += u->grad[i] != NULL;
    return NNL_OK;
}

static nnl_status ready_update(nnl_ready *r, void (*run)(const update *u, int i, int64_t from, int64_t n))
{
    nnl_call *c = r->call;
    for (int i = 0; i < list_count(c, 0); i++) {
        const nnl_tensor *grad = list_count(c, 1) ? list_of(c, 1)[i] : NULL;
        if (!list_of(c, 0)[i]->contiguous || (grad && !grad->contiguous)) return NNL_OK;
    }
    r->plan_bytes = sizeof(update) + lists_size(c);
    NNL_TRY(nnl_alloc_zeroed(c->rt, r->plan_bytes, &r->plan));
    update *u = r->plan;
    u->run = run;
    share_out(u, c, u + 1);
    r->run = run_ready;
    return NNL_OK;
}

static double number(const nnl_call *c, int place) { return nnl_value_double(&c->attr[place]); }
static bool flag(const nnl_call *c, int place) { return c->attr[place].as.i != 0; }

/* base^n by squaring: the same everywhere, unlike pow(). */
static double whole_power(double base, int64_t n)
{
    double result = 1;
    for (; n > 0; n >>= 1) {
        if (n & 1) result *= base;
        base *= base;
    }
    return result;
}

#define NO_GRADIENT NNL_NO_GRAD("it changes parameters in place"), .traits = NNL_IN_PLACE | NNL_HIDDEN

/* ---------------------------------------------------------------- SGD */

static void sgd_chunk(const update *u, int i, int64_t from, int64_t n)
{
    const nnl_call *c = u->call;
    const nnl_kernels *k = c->rt->kernels;
    nnl_sgd numbers = {.lr = number(c, 0), .momentum = number(c, 1), .dampening = number(c, 2),
                       .weight_decay = number(c, 3), .nesterov = flag(c, 4), .maximize = flag(c, 5),
                       .first = u->steps[i] == 0};
    nnl_tensor *p = u->param[i];
    void *x = element(p, from), *momentum = state_at(u, 2, i, from);
    const void *g = element(u->grad[i], from);
    if (p->dtype == NNL_F32) k->sgd_f32(x, momentum, g, n, &numbers);
    else k->sgd_f64(x, momentum, g, n, &numbers);
}

static nnl_status sgd_run(nnl_call *c) { return run_update(c, sgd_chunk); }
static nnl_status sgd_ready(nnl_ready *r) { return ready_update(r, sgd_chunk); }

NNL_OP(sgd_step,
    .sig = "params:float*, grads:float*?, momentum_buffer:float*?, steps:integral, lr:num, momentum:num=0, "
           "dampening:num=0, weight_decay:num=0, nesterov:flag=false, maximize:flag=false ->",
    .doc = "One step of gradient descent for every parameter that has a gradient: d = g + weight_decay p; "
           "b = momentum b + (1 - dampening) d (d at the first step); p = p - lr b, or p - lr (d + momentum b) with "
           "nesterov.  Sutskever et al., ICML 2013.",
    .infer = update_infer,
    .run = sgd_run,
    .ready = sgd_ready,
    NO_GRADIENT);

/* ---------------------------------------------------------------- Adam, AdamW */

static void adam_chunk(const update *u, int i, int64_t from, int64_t n)
{
    const nnl_call *c = u->call;
    const nnl_kernels *k = c->rt->kernels;
    double lr = number(c, 0), beta1 = number(c, 1), beta2 = number(c, 2), decay = number(c, 4);
    bool decoupled = flag(c, 5);
    int64_t t = u->steps[i] + 1;
    nnl_adam numbers = {.step_size = lr / (1 - whole_power(beta1, t)),
                        .second_scale = 1 / sqrt(1 - whole_power(beta2, t)), .beta1 = beta1, .beta2 = beta2,
                        .eps = number(c, 3), .weight_decay = decoupled ? 0 : decay,
                        .shrink = decoupled ? 1 - lr * decay : 1, .maximize = flag(c, 6)};
    nnl_tensor *p = u->param[i];
    void *x = element(p, from), *m = state_at(u, 2, i, from), *v = state_at(u, 3, i, from);
    void *largest = state_at(u, 4, i, from);
    const void *g = element(u->grad[i], from);
    if (p->dtype == NNL_F32) k->adam_f32(x, m, v, largest, g, n, &numbers);
    else k->adam_f64(x, m, v, largest, g, n, &numbers);
}

static nnl_status adam_run(nnl_call *c) { return run_update(c, adam_chunk); }
static nnl_status adam_ready(nnl_ready *r) { return ready_update(r, adam_chunk); }

NNL_OP(adam_step,
    .sig = "params:float*, grads:float*?, exp_avg:float*, exp_avg_sq:float*, max_exp_avg_sq:float*?, steps:integral, "
           "lr:num, beta1:num=0.9, beta2:num=0.999, eps:num=1e-8, weight_decay:num=0, decoupled:flag=false, "
           "maximize:flag=false ->",
    .doc = "One step of Adam for every parameter that has a gradient: m = beta1 m + (1 - beta1) g, v = beta2 v + "
           "(1 - beta2) g^2, p = p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps).  weight_decay p is "
           "added to g, or taken off p before (decoupled: AdamW); with max_exp_avg_sq the largest v so far stands "
           "for v.  Subnormal numbers count as 0.  Kingma and Ba, arXiv:1412.6980; Loshchilov and Hutter, "
           "arXiv:1711.05101; Reddi et al., arXiv:1904.09237.",
    .infer = update_infer,
    .run = adam_run,
    .ready = adam_ready,
    NO_GRADIENT);

/* ---------------------------------------------------------------- RMSprop */

static void rmsprop_chunk(const update *u, int i, int64_t from, int64_t n)
{
    const nnl_call *c = u->call;
    const nnl_kernels *k = c->rt->kernels;
    nnl_rmsprop numbers = {.lr = number(c, 0), .alpha = number(c, 1), .eps = number(c, 2),
                           .weight_decay = number(c, 3), .momentum = number(c, 4), .maximize = flag(c, 5)};
    nnl_tensor *p = u->param[i];
    void *x = element(p, from), *v = state_at(u, 2, i, from), *mean = state_at(u, 3, i, from);
    void *momentum = state_at(u, 4, i, from);
    const void *g = element(u->grad[i], from);
    if (p->dtype == NNL_F32) k->rmsprop_f32(x, v, mean, momentum, g, n, &numbers);
    else k->rmsprop_f64(x, v, mean, momentum, g, n, &numbers);
}

static nnl_status rmsprop_run(nnl_call *c) { return run_update(c, rmsprop_chunk); }
static nnl_status rmsprop_ready(nnl_ready *r) { return ready_update(r, rmsprop_chunk); }

NNL_OP(rmsprop_step,
    .sig = "params:float*, grads:float*?, square_avg:float*, grad_avg:float*?, momentum_buffer:float*?, lr:num, "
           "alpha:num=0.99, eps:num=1e-8, weight_decay:num=0, momentum:num=0, maximize:flag=false ->",
    .doc = "One step of RMSprop for every parameter that has a gradient: v = alpha v + (1 - alpha) g^2, d = g / "
           "(sqrt(v) + eps), p = p - lr d; with grad_avg (centered) the square of g's running mean is taken off v; "
           "with momentum_buffer b = momentum b + d stands for d.  Hinton, lecture 6e (2012); Graves, "
           "arXiv:1308.0850.",
    .infer = update_infer,
    .run = rmsprop_run,
    .ready = rmsprop_ready,
    NO_GRADIENT);

/* ---------------------------------------------------------------- Adagrad */

static void adagrad_chunk(const update *u, int i, int64_t from, int64_t n)
{
    const nnl_call *c = u->call;
    const nnl_kernels *k = c->rt->kernels;
    nnl_adagrad numbers = {.lr = number(c, 0) / (1 + (double)u->steps[i] * number(c, 1)), .eps = number(c, 2),
                           .weight_decay = number(c, 3), .maximize = flag(c, 4)};
    nnl_tensor *p = u->param[i];
    void *x = element(p, from), *sum = state_at(u, 2, i, from);
    const void *g = element(u->grad[i], from);
    if (p->dtype == NNL_F32) k->adagrad_f32(x, sum, g, n, &numbers);
    else k->adagrad_f64(x, sum, g, n, &numbers);
}

static nnl_status adagrad_run(nnl_call *c) { return run_update(c, adagrad_chunk); }
static nnl_status adagrad_ready(nnl_ready *r) { return ready_update(r, adagrad_chunk); }

NNL_OP(adagrad_step,
    .sig = "params:float*, grads:float*?, sum:float*, steps:integral, lr:num, lr_decay:num=0, eps:num=1e-10, "
           "weight_decay:num=0, maximize:flag=false ->",
    .doc = "One step of Adagrad for every parameter that has a gradient: s = s + g^2, p = p - lr / (1 + (t - 1) "
           "lr_decay) g / (sqrt(s) + eps).  Duchi et al., JMLR 12 (2011).",
    .infer = update_infer,
    .run = adagrad_run,
    .ready = adagrad_ready,
    NO_GRADIENT);

/* ---------------------------------------------------------------- clipping by the norm of all gradients */

static nnl_status clip_infer(nnl_call *c)
{
    nnl_tensor **grads = list_of(c, 0);
    nnl_dtype dtype = NNL_F32;
    for (int i = 0; i < list_count(c, 0); i++) {
        if (!grads[i]->contiguous)
            return nnl_call_fail(c, NNL_EINVAL, "gradient %d is not contiguous", i + c->index_base);
        if (grads[i]->dtype == NNL_F64) dtype = NNL_F64;
    }
    if (!(number(c, 1) > 0))
        return nnl_call_fail(c, NNL_EINVAL, "norm_type must be above 0, got %g", number(c, 1));
    nnl_spec_set(&c->spec[0], dtype, 0, NULL);
    return NNL_OK;
}

typedef struct clip {
    const nnl_kernels *kernels;
    nnl_tensor **grad;
    int count;
    int64_t *first;
    double *part; /* one a chunk */
    nnl_reduce_kind kind;
    double p, coefficient;
} clip;

static int clip_place(const clip *job, int64_t chunk, int64_t *from, int64_t *n)
{
    int low = 0, high = job->count - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (job->first[middle] <= chunk) low = middle;
        else high = middle - 1;
    }
    *from = (chunk - job->first[low]) * CHUNK;
    *n = NNL_MIN(CHUNK, job->grad[low]->numel - *from);
    return low;
}

static void measure_chunk(void *context, int64_t chunk)
{
    clip *job = context;
    int64_t from, n;
    const nnl_tensor *t = job->grad[clip_place(job, chunk, &from, &n)];
    job->part[chunk] = 0;
    job->kernels->reduce_rows(job->kind, t->dtype, &job->part[chunk], element(t, from), 0, 1, n, &job->p);
}

static void scale_chunk(void *context, int64_t chunk)
{
    const clip *job = context;
    int64_t from, n;
    const nnl_tensor *t = job->grad[clip_place(job, chunk, &from, &n)];
    float narrow = (float)job->coefficient;
    void *x = element(t, from);
    const void *factor = t->dtype == NNL_F32 ? (const void *)&narrow : (const void *)&job->coefficient;
    job->kernels->map[NNL_MAP_mul][t->dtype](x, (const void *const[]){x, factor}, (const int32_t[]){1, 0}, NULL, n);
}

/* The norm from the chunks' parts, in their order. */
static double total_norm(const clip *job, int64_t chunks)
{
    double total = 0;
    for (int64_t i = 0; i < chunks; i++) {
        if (job->kind != NNL_REDUCE_MAX_ABS) total += job->part[i];
        else if (job->part[i] > total || job->part[i] != job->part[i]) total = job->part[i];
    }
    if (job->kind == NNL_REDUCE_SQUARES) return sqrt(total);
    if (job->kind == NNL_REDUCE_POWERS) return pow(total, 1 / job->p);
    return total;
}

static nnl_status clip_run(nnl_call *c)
{
    nnl_runtime *rt = c->rt;
    int n = list_count(c, 0);
    double max_norm = number(c, 0), p = number(c, 1);
    int64_t chunks = 0, elements = 0;
    for (int i = 0; i < n; i++) {
        chunks += (list_of(c, 0)[i]->numel + CHUNK - 1) / CHUNK;
        elements += list_of(c, 0)[i]->numel;
    }
    void *block;
    size_t size = (size_t)(n + 1) * sizeof(int64_t) + (size_t)chunks * sizeof(double);
    NNL_TRY(nnl_alloc(rt, size, &block));
    clip job = {.kernels = rt->kernels, .grad = list_of(c, 0), .count = n, .first = block, .p = p};
    job.kind = isinf(p) ? NNL_REDUCE_MAX_ABS : p == 1 ? NNL_REDUCE_ABS : p == 2 ? NNL_REDUCE_SQUARES : NNL_REDUCE_POWERS;
    job.part = (double *)(void *)(job.first + n + 1);
    job.first[0] = 0;
    for (int i = 0; i < n; i++) job.first[i + 1] = job.first[i] + (job.grad[i]->numel + CHUNK - 1) / CHUNK;
    bool together = elements * 2 >= nnl_serial_work(rt);
    nnl_status status = NNL_OK;
    if (together) status = nnl_parallel(rt, chunks, measure_chunk, &job);
    else for (int64_t i = 0; i < chunks; i++) measure_chunk(&job, i);
    double total = status == NNL_OK ? total_norm(&job, chunks) : 0;
    /* torch's rule; a norm that is no number spoils all gradients visibly */
    job.coefficient = max_norm / (total + 1e-6);
    if (status == NNL_OK && flag(c, 2) && !isfinite(total))
        status = nnl_call_fail(c, NNL_EINVAL, "the norm of the gradients is %g", total);
    if (status == NNL_OK) status = nnl_poll_cancel(rt);
    if (status == NNL_OK && !(job.coefficient >= 1)) {
        rt->hold_cancel = true;
        if (together) status = nnl_parallel(rt, chunks, scale_chunk, &job);
        else for (int64_t i = 0; i < chunks; i++) scale_chunk(&job, i);
        rt->hold_cancel = false;
        for (int i = 0; i < n; i++) nnl_tensor_touch(job.grad[i]);
    }
    if (c->out[0]->dtype == NNL_F32) *(float *)(void *)c->out[0]->data = (float)total;
    else *(double *)(void *)c->out[0]->data = total;
    nnl_free(rt, block, size);
    return status;
}

NNL_OP(clip_grad_norm,
    .sig = "grads:float*, max_norm:num, norm_type:num=2, error_if_nonfinite:flag=false -> total:float",
    .doc = "The norm of all elements of all gradients together; when it exceeds max_norm, the gradients are scaled in "
           "place by max_norm / (norm + 1e-6).  Pascanu et al., ICML 2013.",
    .infer = clip_infer,
    .run = clip_run,
    NO_GRADIENT);
