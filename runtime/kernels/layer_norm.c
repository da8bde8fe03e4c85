/* Layer, group and root mean square normalisation: y = (x - mean) / sqrt(var + eps) w + b for each row.
 * Sums run in the vectors' lanes over BLOCK elements and in f64 beyond, so that long rows stay exact. */
#include "kernels.h"
#include "vec.h"

#define BLOCK 1024
#define FEW 4 /* rows that pass through backward together */

#define T float
#define V vf
#define T_(name) NNL_JOIN(name, _f32)
#define V_(name) NNL_JOIN(vf_, name)
#define FIRST(n) mf_first(n)
#define LANES VF_LANES
#include "layer_norm_rows.h"
#undef T
#undef V
#undef T_
#undef V_
#undef FIRST
#undef LANES

#define T double
#define V vd
#define T_(name) NNL_JOIN(name, _f64)
#define V_(name) NNL_JOIN(vd_, name)
#define FIRST(n) md_first(n)
#define LANES VD_LANES
#include "layer_norm_rows.h"

void K(layer_norm_rows)(int dtype, const nnl_norm *norm, void *y, double *mean, double *rstd, const void *x,
                        int64_t first, int64_t rows)
{
    if (dtype == 4) forward_f32(norm, y, mean, rstd, x, first, rows);
    else forward_f64(norm, y, mean, rstd, x, first, rows);
}

void K(layer_norm_back_rows)(int dtype, const nnl_norm *norm, void *dx, void *dweight, void *dbias, const void *dy,
                             const void *x, const void *residual, const double *mean, const double *rstd, int64_t first,
                             int64_t rows)
{
    if (dtype == 4) backward_f32(norm, dx, dweight, dbias, dy, x, residual, mean, rstd, first, rows);
    else backward_f64(norm, dx, dweight, dbias, dy, x, residual, mean, rstd, first, rows);
}

void K(layer_norm_fold)(int dtype, double *sum, void *part, int64_t n)
{
    if (dtype == 4) fold_f32(sum, part, n);
    else fold_f64(sum, part, n);
}
