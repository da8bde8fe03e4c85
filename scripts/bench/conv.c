/* GFLOP/s of convolutions by shape, forward and both gradients, with one thread and with all, and
 * the part of the rate that the own product of 512^3 reaches on one thread just before.
 *
 *     bench_conv [base|avx2|avx512|neon] [NAME]
 *
 * Figures are the best of several runs with warm caches; one thread's are by the time that it had
 * the processor. */
#include "../../runtime/ops/conv.h"
#include "../../runtime/ops/gemm.h"
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct shape {
    const char *name;
    int64_t samples, in_channels, out_channels, size, kernel, stride, padding, groups;
} shape;

static const shape shapes[] = {
    {"lenet 1", 64, 1, 6, 28, 5, 1, 2, 1},        {"lenet 2", 64, 6, 16, 14, 5, 1, 0, 1},
    {"cnn 1", 64, 1, 32, 28, 3, 1, 0, 1},         {"cnn 2", 64, 32, 64, 26, 3, 1, 0, 1},
    {"resnet in", 64, 3, 16, 32, 3, 1, 1, 1},     {"resnet 16", 64, 16, 16, 32, 3, 1, 1, 1},
    {"resnet 16-32", 64, 16, 32, 32, 3, 2, 1, 1}, {"resnet short", 64, 16, 32, 32, 1, 2, 0, 1},
    {"resnet 32", 64, 32, 32, 16, 3, 1, 1, 1},    {"resnet 32-64", 64, 32, 64, 16, 3, 2, 1, 1},
    {"resnet 64", 64, 64, 64, 8, 3, 1, 1, 1},     {"one image", 1, 64, 64, 8, 3, 1, 1, 1},
    {"1x1", 16, 64, 128, 28, 1, 1, 0, 1},         {"wide", 4, 256, 256, 14, 3, 1, 1, 1},
    {"depthwise", 16, 64, 64, 28, 3, 1, 1, 64},   {"groups", 16, 64, 64, 28, 3, 1, 1, 4}};

enum { FORWARD, GRAD_INPUT, GRAD_WEIGHT };

typedef struct job {
    nnl_conv v;
    nnl_tensor *x, *w, *b, *y, *dx, *dw, *db;
} job;

static nnl_status run(nnl_runtime *rt, const job *j, int what)
{
    if (what == FORWARD) return nnl_conv_forward(rt, &j->v, j->y, j->x, j->w, j->b, false);
    if (what == GRAD_INPUT) return nnl_conv_grad_input(rt, &j->v, j->dx, j->y, j->w);
    return nnl_conv_grad_weight(rt, &j->v, j->dw, j->db, j->y, j->x);
}

static double rate(nnl_runtime *rt, const job *j, int what, double flops)
{
    clockid_t clock = nnl_runtime_threads(rt) == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    double best = 1e9;
    int64_t repeat = (int64_t)(1e8 / flops) + 1;
    for (int round = 0; round < 7; round++) {
        double start = bench_now(clock);
        for (int64_t i = 0; i < repeat; i++) {
            if (run(rt, j, what) != NNL_OK) return 0;
        }
        best = NNL_MIN(best, (bench_now(clock) - start) / (double)repeat);
    }
    return flops / best * 1e-9;
}

static nnl_tensor *tensor(nnl_runtime *rt, bool channels_last, int ndim, const int64_t *size)
{
    nnl_spec spec;
    nnl_tensor *t;
    nnl_spec_set(&spec, NNL_F32, ndim, size);
    spec.channels_last = channels_last;
    if (nnl_tensor_make(rt, &spec, NULL, &t) != NNL_OK) exit(1);
    for (int64_t i = 0; i < t->numel; i++)
        ((float *)(void *)t->data)[i] = (float)(i * 7919 % 2001 - 1000) / 1000;
    return t;
}

static job make(nnl_runtime *rt, const shape *s)
{
    int64_t out = (s->size + 2 * s->padding - s->kernel) / s->stride + 1;
    job j = {.v = {.rank = 2,
                   .batched = true,
                   .samples = s->samples,
                   .groups = s->groups,
                   .in_channels = s->in_channels,
                   .out_channels = s->out_channels,
                   .in = {1, s->size, s->size},
                   .out = {1, out, out},
                   .kernel = {1, s->kernel, s->kernel},
                   .stride = {1, s->stride, s->stride},
                   .dilation = {1, 1, 1},
                   .low = {0, s->padding, s->padding},
                   .high = {0, s->padding, s->padding}}};
    int64_t x[4] = {s->samples, s->in_channels, s->size, s->size},
            y[4] = {s->samples, s->out_channels, out, out},
            w[4] = {s->out_channels, s->in_channels / s->groups, s->kernel, s->kernel};
    j.x = tensor(rt, true, 4, x);
    j.dx = tensor(rt, true, 4, x);
    j.y = tensor(rt, true, 4, y);
    j.w = tensor(rt, false, 4, w);
    j.dw = tensor(rt, false, 4, w);
    j.b = tensor(rt, false, 1, w);
    j.db = tensor(rt, false, 1, w);
    return j;
}

static void drop(job *j)
{
    nnl_tensor *all[] = {j->x, j->w, j->b, j->y, j->dx, j->dw, j->db};
    for (int i = 0; i < NNL_COUNT(all); i++) nnl_tensor_unref(all[i]);
}

/* The own product of 512^3 on one thread. */
static double product_rate(nnl_runtime *rt)
{
    int64_t size[2] = {512, 512};
    nnl_tensor *a = tensor(rt, false, 2, size), *b = tensor(rt, false, 2, size),
               *c = tensor(rt, false, 2, size);
    nnl_gemm_call call = {.dtype = NNL_F32,
                          .m = 512,
                          .n = 512,
                          .k = 512,
                          .a = a->data,
                          .lda = 512,
                          .b = b->data,
                          .ldb = 512,
                          .c = c->data,
                          .ldc = 512,
                          .alpha = 1,
                          .batch = 1};
    double best = 1e9;
    for (int i = 0; i < 20; i++) {
        double start = bench_now(CLOCK_THREAD_CPUTIME_ID);
        if (nnl_gemm(rt, &call) != NNL_OK) return 0;
        best = NNL_MIN(best, bench_now(CLOCK_THREAD_CPUTIME_ID) - start);
    }
    nnl_tensor_unref(a);
    nnl_tensor_unref(b);
    nnl_tensor_unref(c);
    return 2.0 * 512 * 512 * 512 / best * 1e-9;
}

int main(int argc, char **argv)
{
    nnl_isa isa = NNL_ISA_AUTO;
    int place = 1;
    if (place < argc && nnl_isa_parse(argv[place], &isa) == NNL_OK) place++;
    nnl_runtime *rt[2];
    if (!bench_open("bench_conv", isa, rt)) return 1;
    printf("%s\n%-14s %8s %8s | %-26s| %-26s| %-26s\n", nnl_isa_name(nnl_runtime_isa(rt[0])), "",
           "MFLOP", "512^3", "forward: 1, of 512^3, all", "input's gradient", "weight's gradient");
    for (int i = 0; i < NNL_COUNT(shapes); i++) {
        const shape *s = &shapes[i];
        if (place < argc && strncmp(argv[place], s->name, strlen(argv[place])) != 0) continue;
        double one[3], all[3], flops = 0, product = product_rate(rt[0]);
        for (int t = 0; t < 2; t++) {
            job j = make(rt[t], s);
            flops = 2.0 * (double)j.y->numel *
                    (double)(s->in_channels / s->groups * s->kernel * s->kernel);
            for (int what = 0; what < 3; what++)
                (t == 0 ? one : all)[what] = rate(rt[t], &j, what, flops);
            drop(&j);
        }
        printf("%-14s %8.1f %8.1f ", s->name, flops * 1e-6, product);
        for (int what = 0; what < 3; what++)
            printf("| %7.1f  %5.1f %%  %7.1f  ", one[what], 100 * one[what] / product, all[what]);
        printf("\n");
        fflush(stdout);
    }
    for (int i = 0; i < 2; i++) nnl_runtime_free(rt[i]);
    return 0;
}
