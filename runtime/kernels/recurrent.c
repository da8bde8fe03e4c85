/* The elementwise part of recurrent layers: all gates of a time step in one pass, and their
 * gradients. */
#include "kernels.h"
#include "math_f32.h"
#include "recurrent.h"

#define T float
#define V vf
#define T_(name) NNL_JOIN(name, _f32)
#define V_(name) NNL_JOIN(vf_, name)
#define LANES VF_LANES
#include "recurrent_tile.h"
#undef T
#undef V
#undef T_
#undef V_
#undef LANES

#define T double
#define V vd
#define T_(name) NNL_JOIN(name, _f64)
#define V_(name) NNL_JOIN(vd_, name)
#define LANES VD_LANES
#include "recurrent_tile.h"

#define BY_TYPE(name)                                    \
    void K(name)(int dtype, const nnl_recurrent_tile *t) \
    {                                                    \
        if (dtype == 4)                                  \
            name##_f32(t);                               \
        else                                             \
            name##_f64(t);                               \
    }
BY_TYPE(lstm_step)
BY_TYPE(lstm_back)
BY_TYPE(gru_step)
BY_TYPE(gru_back)
BY_TYPE(rnn_step)
BY_TYPE(rnn_back)
