/* One step of SGD, Adam, RMSprop and Adagrad over an array, each in one pass. */
#include "vec.h"

#include "optim.h"

#define REAL float
#define NAME(x) x##_f32
#define SQRT(x) __builtin_sqrtf(x)
#include "optim_update.h"
#undef REAL
#undef NAME
#undef SQRT

#define REAL double
#define NAME(x) x##_f64
#define SQRT(x) __builtin_sqrt(x)
#include "optim_update.h"
