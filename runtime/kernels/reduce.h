/* What the reduction and scan kernels (reduce.c, scan.c) and their callers agree upon. */
#ifndef NNL_KERNELS_REDUCE_H
#define NNL_KERNELS_REDUCE_H

/* What is accumulated over the elements x.  Accumulators take 8 bytes: f64 for f32 and f64, i64 for bool
 * and integers, for which the last seven kinds have no meaning. */
typedef enum nnl_reduce_kind {
    NNL_REDUCE_SUM,
    NNL_REDUCE_PROD,
    NNL_REDUCE_MIN, /* NaN wins, here and below */
    NNL_REDUCE_MAX,
    NNL_REDUCE_NONZERO,    /* how many */
    NNL_REDUCE_ABS,        /* sum of |x| */
    NNL_REDUCE_SQUARES,    /* sum of x^2 */
    NNL_REDUCE_POWERS,     /* sum of |x|^p, p the parameter */
    NNL_REDUCE_DEVIATIONS, /* sum of (x - m)^2, m a parameter for each result */
    NNL_REDUCE_EXPS,       /* sum of e^(x - m) */
    NNL_REDUCE_MAX_ABS,    /* largest |x| */
    NNL_REDUCE_MIN_ABS
} nnl_reduce_kind;

/* Running results along a dimension (scan.c). */
typedef enum nnl_scan_kind {
    NNL_SCAN_SUM,
    NNL_SCAN_PROD,
    NNL_SCAN_LINEAR /* y[i] = x[i] + a[i] y[i - 1]; in reverse y[i - 1] = x[i - 1] + a[i] y[i] */
} nnl_scan_kind;

#endif
