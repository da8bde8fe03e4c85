/* Runs an elementwise kernel over broadcast, strided operands. */
#include "op.h"

#include <string.h>

#define BLOCK 512 /* elements gathered at a time when an operand is strided */
#define SHORT 32  /* rows up to this length are put together to blocks; of longer ones pieces, where an operand is turned */
#define MAX_INPUTS 4

typedef struct map_job {
    const nnl_kernels *kernels;
    nnl_map_kernel *kernel;
    const double *param;
    int width[NNL_LOOP_MAX]; /* bytes an element: out, then inputs */
    bool direct;             /* no operand needs gathering */
    int32_t step[MAX_INPUTS];
} map_job;

static void run_direct(void *context, const nnl_loop *loop, char *const *address, int64_t n)
{
    (void)loop;
    const map_job *job = context;
    job->kernel(address[0], (const void *const *)(address + 1), job->step, job->param, n);
}

static void run_gathered(void *context, const nnl_loop *loop, char *const *address, int64_t n)
{
    const map_job *job = context;
    int inner = loop->ndim - 1;
    _Alignas(64) char blocks[MAX_INPUTS + 1][BLOCK * 8];
    const void *in[MAX_INPUTS];
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t count = NNL_MIN(BLOCK, n - i);
        for (int o = 1; o < loop->operands; o++) {
            int64_t step = loop->step[o][inner];
            const char *from = address[o] + i * step;
            if (step == 0 || step == job->width[o]) {
                in[o - 1] = from;
            } else {
                job->kernels->copy_strided(job->width[o], blocks[o], job->width[o], from, step,
                                           count);
                in[o - 1] = blocks[o];
            }
        }
        int64_t out_step = loop->step[0][inner];
        char *to = address[0] + i * out_step;
        if (out_step == job->width[0]) {
            job->kernel(to, in, job->step, job->param, count);
        } else {
            job->kernel(blocks[0], in, job->step, job->param, count);
            job->kernels->copy_strided(job->width[0], to, out_step, blocks[0], job->width[0],
                                       count);
        }
    }
}

/* `count` rows of n elements from row r, element c on: operands that do not lie as a block of rows does are copied, those
 * whose rows are another one's columns are turned. */
static void run_block(const map_job *job, const nnl_loop *loop, char *const *address, int64_t r, int64_t count, int64_t c, int64_t n)
{
    const int row = loop->ndim - 2, inner = loop->ndim - 1;
    _Alignas(64) char blocks[MAX_INPUTS + 1][BLOCK * 8];
    const void *in[MAX_INPUTS];
    int32_t step[MAX_INPUTS];
    for (int o = loop->operands - 1; o >= 0; o--) {
        const int64_t width = job->width[o], row_step = loop->step[o][row], element = loop->step[o][inner];
        char *at = address[o] + r * row_step + c * element;
        const bool dense = element == width && (row_step == n * width || count == 1), one = element == 0 && row_step == 0;
        if (o == 0) { /* the result, last */
            job->kernel(dense ? at : blocks[0], in, step, job->param, count * n);
            if (!dense) job->kernels->copy_rows((int)width, at, row_step, element, blocks[0], n * width, width, count, n);
            break;
        }
        in[o - 1] = dense || one ? at : blocks[o];
        step[o - 1] = !one;
        if (dense || one) continue;
        if (row_step == width && element != width) job->kernels->transpose((int)width, blocks[o], n * width, at, element, count, n);
        else job->kernels->copy_rows((int)width, blocks[o], n * width, width, at, row_step, element, count, n);
    }
}

static void run_rows(void *context, const nnl_loop *loop, char *const *address, int64_t rows)
{
    const int64_t piece = NNL_MIN(loop->inner, SHORT), most = BLOCK / piece;
    for (int64_t c = 0; c < loop->inner; c += piece) {
        for (int64_t r = 0; r < rows; r += most)
            run_block(context, loop, address, r, NNL_MIN(most, rows - r), c, NNL_MIN(piece, loop->inner - c));
    }
}

/* Whether an operand's elements lie together from row to row, but not within a row. */
static bool is_turned(const nnl_loop *loop, const map_job *job)
{
    for (int o = 0; o < loop->operands && loop->ndim > 1; o++) {
        if (loop->step[o][loop->ndim - 2] == job->width[o] && loop->step[o][loop->ndim - 1] > job->width[o]) return true;
    }
    return false;
}

/* A few elements that lie together, the frequent case of small networks: no loop is planned for
 * them. */
static bool run_small(nnl_runtime *rt, nnl_map_kernel *kernel, int work, int inputs,
                      nnl_tensor *const *in, nnl_tensor *out, const double *param)
{
    if (!out->contiguous || out->numel > nnl_serial_work(rt) / work) return false;
    const void *from[MAX_INPUTS];
    int32_t step[MAX_INPUTS];
    for (int i = 0; i < inputs; i++) {
        if (!in[i]->contiguous || (in[i]->numel != out->numel && in[i]->numel != 1)) return false;
        from[i] = in[i]->data;
        step[i] = in[i]->numel != 1;
    }
    if (out->numel > 0) kernel(out->data, from, step, param, out->numel);
    return true;
}

nnl_status nnl_map_run(nnl_runtime *rt, int map, int inputs, nnl_tensor *const *in, nnl_tensor *out,
                       const double *param)
{
    nnl_map_kernel *kernel = rt->kernels->map[map][in[inputs - 1]->dtype];
    int work = map >= NNL_MAP_reciprocal ? 8 : 2;
    if (run_small(rt, kernel, work, inputs, in, out, param)) return NNL_OK;
    nnl_tensor *operands[MAX_INPUTS + 1] = {out};
    for (int i = 0; i < inputs; i++) operands[i + 1] = in[i];
    nnl_loop loop;
    nnl_loop_plan(&loop, out->ndim, out->shape, inputs + 1, operands);
    map_job job = {.kernels = rt->kernels, .kernel = kernel, .param = param, .direct = true};
    for (int o = 0; o <= inputs; o++) {
        job.width[o] = (int)nnl_width(operands[o]->dtype);
        int64_t step = loop.step[o][loop.ndim - 1];
        if (o > 0) job.step[o - 1] = step != 0;
        job.direct &= step == job.width[o] || (o > 0 && step == 0);
    }
    /* One element has step 0 everywhere. */
    if (loop.inner <= 1) job.direct = true;
    if (loop.ndim > 1 && (loop.inner <= SHORT || is_turned(&loop, &job))) return nnl_loop_run_rows(rt, &loop, work, run_rows, &job);
    return nnl_loop_run(rt, &loop, work, job.direct ? run_direct : run_gathered, &job);
}

bool nnl_map_form_of(nnl_call *c, nnl_map_form *form)
{
    if (c->op->run != nnl_run_map && !c->op->map) return false;
    *form = (nnl_map_form){.map = c->op->kernel, .inputs = c->n_in};
    for (int i = 0; i < NNL_MIN(c->n_in, 3); i++) form->in[i] = c->in[i];
    int n = 0;
    for (int i = 0; i < c->sig->attrs && n < 3; i++) {
        if (c->attr[i].kind != NNL_KIND_STRING) form->param[n++] = nnl_value_double(&c->attr[i]);
    }
    return !c->op->map || c->op->map(c, form);
}

nnl_status nnl_run_map(nnl_call *c)
{
    nnl_map_form form;
    nnl_map_form_of(c, &form);
    return nnl_map_run(c->rt, form.map, form.inputs, form.in, c->out[0], form.param);
}
