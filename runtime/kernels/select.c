/* The kernel tables that are built in, by instruction set. */
#include "kernels.h"
#include "../base/base.h"

const nnl_kernels *nnl_kernels_for(nnl_isa isa)
{
    switch (isa) {
    case NNL_ISA_BASE: return &nnl_kernels_base;
#if NNL_HAVE_AVX2
    case NNL_ISA_AVX2: return &nnl_kernels_avx2;
#endif
#if NNL_HAVE_AVX512
    case NNL_ISA_AVX512: return &nnl_kernels_avx512;
#endif
#if NNL_HAVE_NEON
    case NNL_ISA_NEON: return &nnl_kernels_neon;
#endif
    default: return NULL;
    }
}
