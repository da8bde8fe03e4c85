/* A number's digits, for formatting. */
#ifndef NNL_NUMBER_H
#define NNL_NUMBER_H

#include "base.h"

/* Exact integers and the longest %f of a double: 309 places before the point. */
#define NNL_PRECISION_MAX 99
#define NNL_DIGITS_MAX (310 + NNL_PRECISION_MAX)

/* Sign, point, exponent and precision beside the digits. */
#define NNL_NUMBER_TEXT (NNL_DIGITS_MAX + 16)

/* A finite number as fraction x 2^exponent, exactly. */
typedef struct nnl_binary {
    uint64_t fraction;
    int exponent;
    bool negative;
    bool narrow; /* the next number below is half as far as the one above */
} nnl_binary;

/* Of infinities and NaN only the sign is meant. */
nnl_binary nnl_take_apart(double value);
nnl_binary nnl_take_apart_float(float value);

/* conversion: f e g, or s for the shortest.  Without the sign; returns the length, at most
 * NNL_NUMBER_TEXT. */
int nnl_write_number(char *text, nnl_binary b, char conversion, int precision);

#endif
