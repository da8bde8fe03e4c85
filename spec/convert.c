/* Bytes that are divided while they become floats, against divisions, on every instruction set that this machine has:
 * every divisor whose quotients are made of products, and those beside them. */
#include "../runtime/kernels/kernels.h"
#include "../runtime/base/base.h"
#include "check.h"

#include <math.h>

enum { BYTES = 256, GUARD = 16, BITS = 12 };

static uint8_t bytes[BYTES];

/* All bytes by one divisor, of n at a time; nothing behind them is written. */
static bool quotients_hold(const nnl_kernels *k, float divisor, int64_t n)
{
    float out[BYTES + GUARD];
    bool good = true;
    for (int64_t from = 0; from + n <= BYTES; from += n) {
        for (int64_t i = n; i < n + GUARD; i++) out[i] = -1;
        k->convert_divided(NNL_U8, out, bytes + from, divisor, n);
        for (int64_t i = 0; i < n; i++) {
            const float wanted = (float)bytes[from + i] / divisor;
            good = good && (memcmp(&out[i], &wanted, sizeof wanted) == 0 || (isnan(wanted) && isnan(out[i])));
        }
        for (int64_t i = n; i < n + GUARD; i++) good = good && out[i] == -1;
    }
    return good;
}

/* Divisors of 13 bits and, a little above, of 24, where products would often round otherwise; also around the smallest
 * and largest powers. */
static void divisors(const nnl_kernels *k)
{
    static const int exponents[] = {-149, -127, -65, -64, 0, 7, 63, 64, 127};
    for (int e = 0; e < COUNT(exponents); e++) {
        float wrong = 0;
        for (int m = 0; m < 1 << BITS; m++) {
            const float divisor = ldexpf(1 + (float)m / (1 << BITS), exponents[e]);
            if (!quotients_hold(k, divisor, BYTES)) wrong = divisor;
            if (!quotients_hold(k, -divisor, BYTES)) wrong = -divisor;
            if (!quotients_hold(k, nextafterf(divisor, INFINITY), BYTES)) wrong = nextafterf(divisor, INFINITY);
        }
        CHECK(wrong == 0, "%s: a byte / %a", k->name, (double)wrong);
    }
    static const float odd[] = {255, 0.3f, 1.0f / 255, 16777215, 0, -0.0f, INFINITY, -INFINITY, NAN};
    for (int d = 0; d < COUNT(odd); d++) {
        int64_t n = 1;
        while (n < 70 && quotients_hold(k, odd[d], n)) n++;
        CHECK(n == 70, "%s: %lld bytes / %a", k->name, (long long)n, (double)odd[d]);
    }
}

static void other_types(const nnl_kernels *k)
{
    const int64_t whole[] = {0, -7, 1000, INT64_C(1) << 40};
    const double real[] = {0.1, -1e300, 2.5, 1e-50};
    float out[4];
    k->convert_divided(NNL_I64, out, whole, 255, 4);
    for (int i = 0; i < 4; i++) CHECK(out[i] == (float)whole[i] / 255.0f, "%s: i64 %d", k->name, i);
    k->convert_divided(NNL_F64, out, real, 255, 4);
    for (int i = 0; i < 4; i++) CHECK(out[i] == (float)real[i] / 255.0f, "%s: f64 %d", k->name, i);
}

int main(void)
{
    for (int i = 0; i < BYTES; i++) bytes[i] = (uint8_t)i;
    for (nnl_isa isa = NNL_ISA_BASE; isa <= NNL_ISA_NEON; isa++) {
        if (!nnl_isa_supported(isa)) continue;
        divisors(nnl_kernels_for(isa));
        other_types(nnl_kernels_for(isa));
    }
    return report();
}
