/* Max pooling behind a two-dimensional convolution: the convolution pools each block of its results
 * while they are in L1, and nobody ever sees them.  Where no gradient asks which places the maxima
 * came from, and windows tile the results. */
#include "program.h"

static int32_t buffer_of(const nnl_program *p, int32_t value) { return p->value[value].buffer; }

/* The number that stands for all of an attribute's dimensions, or -1. */
static int64_t one_for_all(const nnl_value *value)
{
    if (value->kind != NNL_KIND_INTS) return nnl_value_int(value);
    return value->as.ints[0] == value->as.ints[1] ? value->as.ints[0] : -1;
}

/* The side of windows that lie side by side, without padding, over all of the image; 0 of others.
 */
static int64_t side_of_tiles(const nnl_program *p, const nnl_step *pool)
{
    enum { KERNEL_SIZE, STRIDE, PADDING, DILATION };
    const nnl_tensor *image = &p->value[pool->in[0]].form;
    const nnl_value *attr = pool->attr;
    int64_t side = one_for_all(&attr[KERNEL_SIZE]);
    if (side < 2 || image->ndim != 4 || image->shape[2] % side || image->shape[3] % side) return 0;
    bool apart = !nnl_given(&attr[STRIDE]) || one_for_all(&attr[STRIDE]) == side;
    return apart && one_for_all(&attr[PADDING]) == 0 && one_for_all(&attr[DILATION]) == 1 ? side
                                                                                          : 0;
}

/* Whether the buffer is the step's alone: it makes it, and `readers` steps read it. */
static bool is_own(const nnl_program *p, const nnl_touch *touches, int32_t value, int maker,
                   int readers)
{
    int32_t b = buffer_of(p, value);
    return p->buffer[b].kind == NNL_BUFFER_TEMP && touches[b].maker == maker &&
           (readers < 0 || (!p->buffer[b].escapes && touches[b].count == 1 + readers));
}

/* The convolution whose results step i pools, alone, so that both may be one step; NULL when there
 * is none. */
static nnl_step *convolution_of(nnl_program *p, const nnl_touch *touches, int i)
{
    const nnl_step *pool = &p->step[i];
    int32_t image = pool->in[0];
    if (pool->n_out != 2 || !is_own(p, touches, pool->out[0], i, -1) ||
        !is_own(p, touches, pool->out[1], i, 0))
        return NULL;
    int place = touches[buffer_of(p, image)].maker;
    if (place < 0 || !is_own(p, touches, image, place, 1)) return NULL;
    nnl_step *step = &p->step[place];
    bool plain = step->op == &nnl_op_conv2d || step->op == &nnl_op_conv2d_fused;
    if (!plain || step->chain || step->out[0] != image || !nnl_is_convolution(p, step)) return NULL;
    bool more = step->n_in > NNL_CONV_RESIDUAL &&
                (step->in[NNL_CONV_RESIDUAL] >= 0 || step->attr[NNL_CONV_FRAME_OUT].as.i > 0);
    return more || step->attr[NNL_CONV_GROUPS].as.i != 1 ? NULL : step;
}

static nnl_status pool_all(nnl_program *p, const nnl_touch *touches)
{
    for (int i = 0; i < p->n_steps; i++) {
        nnl_step *pool = &p->step[i];
        int64_t side = pool->op == &nnl_op_max_pool2d ? side_of_tiles(p, pool) : 0;
        nnl_step *step = side ? convolution_of(p, touches, i) : NULL;
        if (!step) continue;
        NNL_TRY(nnl_widen_convolution(p, step));
        step->attr[NNL_CONV_POOL] = V_INT(side);
        step->out[0] = pool->out[0];
        pool->op = NULL;
    }
    nnl_program_close_up(p);
    return NNL_OK;
}

nnl_status nnl_program_pool(nnl_program *p)
{
    void *touches;
    size_t bytes = sizeof(nnl_touch) * (size_t)(p->n_buffers + 1);
    NNL_TRY(nnl_alloc(p->rt, bytes, &touches));
    nnl_count_touches(p, touches);
    nnl_status status = pool_all(p, touches);
    nnl_free(p->rt, touches, bytes);
    return status;
}
