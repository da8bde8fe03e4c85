/* The floating-point control word: rounding, flush-to-zero, exceptions.  Kernels assume the
 * defaults; a host may have set others.  The sticky exception flags are left as arithmetic leaves
 * them. */
#include "base.h"

#if defined(__x86_64__) || (defined(__i386__) && defined(__SSE__))

#include <xmmintrin.h>

#define MXCSR_DEFAULT 0x1f80u /* all exceptions masked, round to nearest, no flush-to-zero */
#define MXCSR_FLAGS 0x003fu   /* sticky */
#define MXCSR_FLUSH 0x8040u   /* subnormal results and operands are 0 */

void nnl_fp_enter(nnl_fp_state *state)
{
    unsigned control = _mm_getcsr();
    state->control = control;
    /* loading the register is much dearer than reading it */
    state->changed = (control & ~MXCSR_FLAGS) != MXCSR_DEFAULT;
    if (NNL_UNLIKELY(state->changed)) _mm_setcsr(MXCSR_DEFAULT);
}

void nnl_fp_flush(nnl_fp_state *state)
{
    state->control = _mm_getcsr();
    state->changed = true;
    _mm_setcsr(MXCSR_DEFAULT | MXCSR_FLUSH);
}

void nnl_fp_leave(const nnl_fp_state *state)
{
    if (NNL_UNLIKELY(state->changed)) _mm_setcsr((unsigned)state->control);
}

#elif defined(__aarch64__)

void nnl_fp_enter(nnl_fp_state *state)
{
    uint64_t control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    state->control = control;
    state->changed = control != 0;
    if (NNL_UNLIKELY(state->changed))
        __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0) : "memory");
}

void nnl_fp_flush(nnl_fp_state *state)
{
    __asm__ volatile("mrs %0, fpcr" : "=r"(state->control));
    state->changed = true;
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)1 << 24) : "memory"); /* FZ */
}

void nnl_fp_leave(const nnl_fp_state *state)
{
    if (NNL_UNLIKELY(state->changed)) {
        __asm__ volatile("msr fpcr, %0" : : "r"(state->control) : "memory");
    }
}

#else

#include <fenv.h>

void nnl_fp_enter(nnl_fp_state *state)
{
    int rounding = fegetround();
    state->control = (uint64_t)rounding;
    state->changed = rounding >= 0 && rounding != FE_TONEAREST;
    if (state->changed) fesetround(FE_TONEAREST);
}

void nnl_fp_flush(nnl_fp_state *state) { nnl_fp_enter(state); } /* C has no way to ask for it */

void nnl_fp_leave(const nnl_fp_state *state)
{
    if (state->changed) fesetround((int)state->control);
}

#endif
