/* What the benchmarks in C share: the clock, and runtimes with one thread and with all. */
#ifndef BENCH_H
#define BENCH_H

#include "nnlua.h"

#include <stdio.h>
#include <time.h>

static inline double bench_now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* rt[0] with one thread, rt[1] with all; says why and is false where isa cannot be had. */
static inline bool bench_open(const char *program, nnl_isa isa, nnl_runtime *rt[2])
{
    for (int i = 0; i < 2; i++) {
        nnl_runtime_config config = nnl_runtime_defaults();
        config.isa = isa;
        config.threads = i == 0 ? 1 : 0;
        if (nnl_runtime_new(&config, &rt[i]) != NNL_OK) {
            fprintf(stderr, "%s: this build or processor lacks %s\n", program, nnl_isa_name(isa));
            return false;
        }
    }
    return true;
}

#endif
