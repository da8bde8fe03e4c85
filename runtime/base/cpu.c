/* What the processor and the operating system offer. */
#define _GNU_SOURCE
#include "base.h"

#include <string.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#endif

#if defined(__x86_64__) || defined(__i386__)

#include <cpuid.h>

/* Bits of CPUID leaves 1, 7 and 0x80000001. */
#define LEAF1_C_AVX2 \
    (1u << 12 | 1u << 22 | 1u << 27 | 1u << 28 | 1u << 29) /* FMA MOVBE OSXSAVE AVX F16C */
#define LEAF7_B_AVX2 (1u << 3 | 1u << 5 | 1u << 8)         /* BMI1 AVX2 BMI2 */
#define LEAF8_C_AVX2 (1u << 5)                             /* LZCNT */
#define LEAF7_B_AVX512 (1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31) /* F DQ CD BW VL */
/* Registers that the operating system saves: XMM and YMM; opmask and both parts of ZMM. */
#define XCR0_AVX2 0x06u
#define XCR0_AVX512 0xe6u

static bool processor_has(nnl_isa isa)
{
    if (isa == NNL_ISA_BASE) return true;
    if (isa != NNL_ISA_AVX2 && isa != NNL_ISA_AVX512) return false;
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & LEAF1_C_AVX2) != LEAF1_C_AVX2) return false;
    unsigned saved, high;
    __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    unsigned need = isa == NNL_ISA_AVX512 ? XCR0_AVX512 : XCR0_AVX2;
    if ((saved & need) != need) return false;
    if (!__get_cpuid(0x80000001u, &a, &b, &c, &d) || (c & LEAF8_C_AVX2) != LEAF8_C_AVX2)
        return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & LEAF7_B_AVX2) != LEAF7_B_AVX2)
        return false;
    return isa == NNL_ISA_AVX2 || (b & LEAF7_B_AVX512) == LEAF7_B_AVX512;
}

#else

static bool processor_has(nnl_isa isa)
{
#if defined(__aarch64__)
    if (isa == NNL_ISA_NEON) return true; /* part of the architecture */
#endif
    return isa == NNL_ISA_BASE;
}

#endif

static const char *const isa_names[] = {
    [NNL_ISA_AUTO] = "auto",     [NNL_ISA_BASE] = "base", [NNL_ISA_AVX2] = "avx2",
    [NNL_ISA_AVX512] = "avx512", [NNL_ISA_NEON] = "neon",
};

bool nnl_isa_supported(nnl_isa isa) { return nnl_kernels_for(isa) && processor_has(isa); }

nnl_isa nnl_isa_best(void)
{
    static const nnl_isa wanted[] = {NNL_ISA_AVX512, NNL_ISA_AVX2, NNL_ISA_NEON};
    for (int i = 0; i < NNL_COUNT(wanted); i++) {
        if (nnl_isa_supported(wanted[i])) return wanted[i];
    }
    return NNL_ISA_BASE;
}

const char *nnl_isa_name(nnl_isa isa)
{
    unsigned place = (unsigned)isa;
    return place < (unsigned)NNL_COUNT(isa_names) ? isa_names[place] : "unknown";
}

nnl_status nnl_isa_parse(const char *name, nnl_isa *out)
{
    for (int i = 0; i < NNL_COUNT(isa_names); i++) {
        if (strcmp(name, isa_names[i]) == 0) {
            *out = (nnl_isa)i;
            return NNL_OK;
        }
    }
    return NNL_EINVAL;
}

int nnl_processors(void)
{
#if defined(__linux__)
    /* cpu_set_t ends at 1024 processors, and the call fails on machines with more */
    union {
        cpu_set_t set;
        unsigned char bytes[2048];
    } mask;
    memset(&mask, 0, sizeof mask);
    if (sched_getaffinity(0, sizeof mask, &mask.set) == 0) {
        int count = 0;
        for (size_t i = 0; i < sizeof mask.bytes; i++) count += __builtin_popcount(mask.bytes[i]);
        if (count > 0) return count;
    }
#endif
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 && online < 1 << 20 ? (int)online : 1;
}
