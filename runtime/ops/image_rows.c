/* Batches of images: rows chosen by positions, converted and scaled in one pass over memory. */
#include "index_walk.h"

#include <string.h>

#define CHUNK 4096 /* elements a task */

static nnl_status image_rows_infer(nnl_call *c)
{
    const nnl_tensor *images = c->in[0], *positions = c->in[1];
    char text[NNL_NAMED_TEXT];
    if (images->ndim == 0 || !images->contiguous)
        return nnl_call_fail(c, NNL_ESHAPE, "%s must be contiguous and have a dimension to choose from",
                             nnl_call_input_text(c, 0, text));
    if (positions->ndim != 1)
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have one dimension", nnl_call_input_text(c, 1, text));
    nnl_spec_set(&c->spec[0], NNL_F32, images->ndim, images->shape);
    c->spec[0].shape[0] = positions->numel;
    return NNL_OK;
}

typedef struct job {
    const nnl_kernels *kernels;
    const nnl_tensor *images;
    const int64_t *offsets; /* bytes, of each row */
    float *out, scale;
    int64_t rows, length, per_task;
} job;

static void rows_task(void *context, int64_t i)
{
    const job *j = context;
    int64_t end = NNL_MIN((i + 1) * j->per_task, j->rows);
    int64_t bytes = j->length * (int64_t)nnl_width(j->images->dtype);
    for (int64_t r = i * j->per_task; r < end; r++) {
        float *row = j->out + r * j->length;
        if (r + 1 < end) nnl_fetch_ahead(j->images->data + j->offsets[r + 1], bytes);
        j->kernels->convert_divided(j->images->dtype, row, j->images->data + j->offsets[r], j->scale, j->length);
    }
}

static nnl_status image_rows_run(nnl_call *c)
{
    const nnl_tensor *images = c->in[0];
    int64_t length = nnl_shape_numel(images->ndim - 1, images->shape + 1);
    nnl_offsets offsets;
    NNL_TRY(nnl_offsets_read(c, 1, 0, images->shape[0], length * (int64_t)nnl_width(images->dtype), &offsets));
    job j = {.kernels = c->rt->kernels, .images = images, .offsets = offsets.at, .rows = offsets.count, .length = length,
             .out = (float *)(void *)c->out[0]->data, .scale = (float)nnl_value_double(&c->attr[0]),
             .per_task = NNL_MAX(1, CHUNK / NNL_MAX(length, 1))};
    int64_t tasks = (j.rows + j.per_task - 1) / j.per_task;
    nnl_status status = NNL_OK;
    if (j.rows * length > nnl_serial_work(c->rt)) status = nnl_parallel(c->rt, tasks, rows_task, &j);
    else for (int64_t i = 0; i < tasks; i++) rows_task(&j, i);
    nnl_offsets_free(c->rt, &offsets);
    return status;
}

NNL_OP(image_rows,
    .sig = "images:number, positions:index, scale:num -> f32",
    .doc = "The images at the positions as f32, divided by scale.",
    .infer = image_rows_infer,
    .run = image_rows_run,
    NNL_NO_GRAD("images are data"),
    .traits = NNL_HIDDEN);
