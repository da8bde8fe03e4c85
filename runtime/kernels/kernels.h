/* The table of inner loops, one for each instruction set.  Kernels know arrays and sizes: no tensors, no
 * errors, no allocation, no threads.  The same sources are compiled for every instruction set with names
 * suffixed by K(); slots.def lists the functions, map.def the elementwise ones. */
#ifndef NNL_KERNELS_H
#define NNL_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "batch_norm.h"
#include "conv.h"
#include "attention.h"
#include "gemm_block.h"
#include "layer_norm.h"
#include "optim.h"
#include "pool.h"
#include "recurrent.h"
#include "reduce.h"

#define NNL_KERNEL_DTYPES 6 /* bool, u8, i32, i64, f32, f64: as nnl_dtype */

/* An elementwise loop: out[i] = f(in[0][i * step[0]], in[1][i * step[1]], ...; param) for i in [0, n).
 * step is 0 (the same element every time) or 1.  out may be the same array as an input, not overlap it
 * otherwise.  Arrays are aligned to their elements only. */
typedef void nnl_map_kernel(void *out, const void *const *in, const int32_t *step, const double *param, int64_t n);

/* Elementwise loops by name: map.def has a row X(name, inputs, types) each. */
typedef enum nnl_map {
#define X(name, inputs, types) NNL_MAP_##name,
#include "map.def"
#undef X
    NNL_MAP_COUNT
} nnl_map;

typedef struct nnl_kernels {
    const char *name; /* "base", "avx2", ... */
    int vector_bytes;
    /* by the type of the last input; NULL where the loop has no meaning for the type */
    nnl_map_kernel *map[NNL_MAP_COUNT][NNL_KERNEL_DTYPES];
#define SLOT(result, name, arguments) result (*name) arguments;
#include "slots.def"
#undef SLOT
} nnl_kernels;

extern const nnl_kernels nnl_kernels_base;
extern const nnl_kernels nnl_kernels_avx2;
extern const nnl_kernels nnl_kernels_avx512;
extern const nnl_kernels nnl_kernels_neon;

#endif
