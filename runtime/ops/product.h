/* Products of tensors as stacks of matrices: what matmul, linear and their kin run. */
#ifndef NNL_PRODUCT_H
#define NNL_PRODUCT_H

#include "gemm.h"
#include "op.h"

/* out (contiguous, batch dimensions then m x n) = A B.  A and B have two dimensions or more, each
 * transposed if asked for; their batch dimensions broadcast to out's. */
nnl_status nnl_product(nnl_tensor *out, nnl_tensor *a, bool trans_a, nnl_tensor *b, bool trans_b);
/* out = act((alpha A B [+ out] + bias) with what lies beside), that contiguous; of integers A B
 * only. */
nnl_status nnl_product_with(nnl_tensor *out, nnl_tensor *a, bool trans_a, nnl_tensor *b,
                            bool trans_b, const nnl_tensor *bias, const nnl_tensor *beside,
                            nnl_beside how, double alpha, bool accumulate,
                            nnl_activation activation);
/* Makes a plan of the product of in[0] and in[1], seen as a and b, into out[0], seen as out, if
 * that is one call of nnl_gemm(); else r stays as it is.  run() gives what lies beside, if
 * anything does. */
nnl_status nnl_product_ready(nnl_ready *r, nnl_status (*run)(nnl_ready *), const nnl_tensor *out,
                             nnl_tensor *a, bool trans_a, nnl_tensor *b, bool trans_b,
                             const nnl_tensor *beside, nnl_beside how);

#endif
