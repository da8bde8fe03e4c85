/* Images that pass between two-dimensional convolutions get columns of zeros on both sides of their
 * rows: a convolution with padding then reads them where they lie, instead of bringing windows with
 * zeros into a buffer. */
#include "program.h"

#include <string.h>

#define WIDEST 3 /* columns of zeros */

typedef struct image {
    bool framed; /* nothing but convolutions touch it, and all that is added to it or it is added to
                    is framed */
    bool wanted; /* by a convolution with padding */
} image;

static int32_t buffer_of(const nnl_program *p, int32_t value)
{
    return value < 0 ? -1 : p->value[value].buffer;
}

static bool is_planar(const nnl_program *p, const nnl_step *step)
{
    return !step->chain && step->op->variant == 2 && nnl_is_convolution(p, step);
}

static int64_t of_width(const nnl_value *value)
{
    return value->kind == NNL_KIND_INTS ? value->as.ints[1] : value->as.i;
}

/* Columns that a convolution wants beside its input. */
static int64_t columns_beside(const nnl_program *p, const nnl_step *step)
{
    const nnl_value *padding = &step->attr[NNL_CONV_PADDING];
    if (padding->kind != NNL_KIND_STRING) return of_width(padding);
    int64_t both = of_width(&step->attr[NNL_CONV_DILATION]) *
                   (p->value[step->in[NNL_CONV_WEIGHT]].form.shape[3] - 1);
    return strcmp(padding->as.s, "same") == 0 ? (both + 1) / 2 : 0;
}

static bool can_be_framed(const nnl_program *p, const nnl_buffer *b)
{
    const nnl_program_value *value = b->first_value < 0 ? NULL : &p->value[b->first_value];
    bool single = value && value->next < 0 && value->offset == 0;
    return b->kind == NNL_BUFFER_TEMP && !b->escapes && single && value->form.ndim == 4 &&
           nnl_is_channels_last(&value->form) &&
           (size_t)value->form.numel * nnl_width(value->form.dtype) == b->bytes;
}

/* Images that something else touches stay as they are. */
static void look_at(const nnl_program *p, const nnl_step *step, image *images)
{
    bool planar = is_planar(p, step);
    for (int k = 0; k < step->n_in; k++) {
        int32_t b = buffer_of(p, step->in[k]);
        if (b < 0) continue;
        if (!planar || (k > 0 && k != NNL_CONV_RESIDUAL)) images[b].framed = false;
        if (planar && k == 0 && columns_beside(p, step) > 0) images[b].wanted = true;
    }
    for (int k = 0; k < step->n_out; k++) {
        int32_t b = buffer_of(p, step->out[k]);
        if (b >= 0 && !planar) images[b].framed = false;
    }
}

/* A result and its residual lie in the same way; returns whether something changed. */
static bool agree(const nnl_program *p, const nnl_step *step, image *images)
{
    if (!is_planar(p, step) || step->n_in <= NNL_CONV_RESIDUAL || step->in[NNL_CONV_RESIDUAL] < 0)
        return false;
    image *a = &images[buffer_of(p, step->out[0])],
          *b = &images[buffer_of(p, step->in[NNL_CONV_RESIDUAL])];
    bool differ = a->framed != b->framed || a->wanted != b->wanted;
    a->framed = b->framed = a->framed && b->framed;
    a->wanted = b->wanted = a->wanted || b->wanted;
    return differ;
}

static void choose(const nnl_program *p, image *images)
{
    for (int b = 0; b < p->n_buffers; b++)
        images[b] = (image){.framed = can_be_framed(p, &p->buffer[b])};
    for (int i = 0; i < p->n_steps; i++) look_at(p, &p->step[i], images);
    for (bool again = true; again;) {
        again = false;
        for (int i = 0; i < p->n_steps; i++) again |= agree(p, &p->step[i], images);
    }
    for (int b = 0; b < p->n_buffers; b++) images[b].framed &= images[b].wanted;
}

static void set_frame(nnl_program *p, nnl_buffer *b, int64_t frame)
{
    nnl_program_value *value = &p->value[b->first_value];
    int64_t *stride = value->form.strides, channels = value->form.shape[1],
            width = (int64_t)nnl_width(value->form.dtype);
    stride[3] = channels;
    stride[2] = channels * (value->form.shape[3] + 2 * frame);
    stride[1] = 1;
    stride[0] = stride[2] * value->form.shape[2];
    value->form.contiguous = false;
    value->offset = frame * channels * width;
    b->bytes = (size_t)(value->form.shape[0] * stride[0] * width);
}

static nnl_status tell(nnl_program *p, nnl_step *step, const image *images, int64_t frame)
{
    if (!is_planar(p, step)) return NNL_OK;
    int32_t in = buffer_of(p, step->in[0]), out = buffer_of(p, step->out[0]);
    if (!images[in].framed && !images[out].framed) return NNL_OK;
    NNL_TRY(nnl_widen_convolution(p, step));
    if (images[in].framed) step->attr[NNL_CONV_FRAME_IN] = V_INT(frame);
    if (images[out].framed) step->attr[NNL_CONV_FRAME_OUT] = V_INT(frame);
    return NNL_OK;
}

static nnl_status frame_all(nnl_program *p, image *images)
{
    int64_t frame = 0;
    choose(p, images);
    for (int i = 0; i < p->n_steps; i++) {
        const nnl_step *step = &p->step[i];
        if (is_planar(p, step) && images[buffer_of(p, step->in[0])].framed)
            frame = NNL_MAX(frame, columns_beside(p, step));
    }
    if (frame == 0 || frame > WIDEST) return NNL_OK;
    for (int i = 0; i < p->n_steps; i++) NNL_TRY(tell(p, &p->step[i], images, frame));
    for (int b = 0; b < p->n_buffers; b++) {
        if (images[b].framed) set_frame(p, &p->buffer[b], frame);
    }
    return NNL_OK;
}

nnl_status nnl_program_frame(nnl_program *p)
{
    void *block;
    size_t bytes = sizeof(image) * (size_t)(p->n_buffers + 1);
    NNL_TRY(nnl_alloc(p->rt, bytes, &block));
    nnl_status status = frame_all(p, block);
    nnl_free(p->rt, block, bytes);
    return status;
}
