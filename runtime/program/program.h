/* Captured functions: calls taken down once (record.c), made simpler (simplify.c, slope.c, fold.c,
 * absorb.c, join.c, frame.c, winograd.c, fuse.c), laid out in memory (plan.c) and replayed
 * (context.c) without Lua, shape work or allocation.
 *
 * A program is a list of steps over values.  A value is a tensor's form over a buffer; a buffer is
 * what was one storage during capture.  Programs do not change once they are made; what a replay
 * needs is a context. */
#ifndef NNL_PROGRAM_H
#define NNL_PROGRAM_H

#include "../engine/engine.h"

/* ---------------------------------------------------------------- memory that goes as a whole
 * (bump.c) */

typedef struct nnl_bump_block nnl_bump_block;
typedef struct nnl_bump {
    nnl_runtime *rt;
    nnl_bump_block *blocks;
    size_t used;
} nnl_bump;

/* Zeroed, aligned to 16; lives until nnl_bump_free(). */
nnl_status nnl_bump_alloc(nnl_bump *bump, size_t size, void *out);
void nnl_bump_free(nnl_bump *bump);
/* Room for one more element in an array of `count`, whose capacity is the power of two from 16 on
 * that holds it. */
nnl_status nnl_bump_grow(nnl_bump *bump, size_t element, int count, void *array);

/* ---------------------------------------------------------------- the parts of a program */

typedef enum nnl_buffer_kind {
    NNL_BUFFER_INPUT, /* an argument's, other at every run */
    NNL_BUFFER_OUTER, /* made outside and kept: parameters, optimizer state, constants of the script
                       */
    NNL_BUFFER_CONST, /* filled during capture: numbers, seeds of gradients */
    NNL_BUFFER_GRAD,  /* the gradient that stood when the run began */
    NNL_BUFFER_TEMP   /* a result of a step */
} nnl_buffer_kind;

typedef struct nnl_buffer {
    nnl_buffer_kind kind;
    int32_t source;       /* INPUT: which; GRAD: of which slot */
    nnl_storage *storage; /* as it was during capture; a reference (dropped for TEMP when the
                             program is done) */
    size_t bytes;
    bool written;        /* by some step */
    bool escapes;        /* TEMP: a result or a gradient, with storage of its own */
    uint32_t version;    /* OUTER: before the capture */
    int32_t first, last; /* TEMP: first and last step that touches it, -1 before planning */
    int64_t place;       /* TEMP: in the arena, bytes */
    int32_t first_value; /* chain of its values, -1 ends it */
} nnl_buffer;

/* A constant that steps write into, or that is handed out, is copied afresh for each run. */
static inline bool nnl_buffer_is_copied(const nnl_buffer *b)
{
    return b->kind == NNL_BUFFER_CONST && (b->written || b->escapes);
}

/* Once lifetimes are known. */
static inline bool nnl_buffer_is_in_arena(const nnl_buffer *b)
{
    return (b->kind == NNL_BUFFER_TEMP || nnl_buffer_is_copied(b)) && !b->escapes && b->first >= 0;
}

/* What steps may take as unchanging: tensors from outside that no step writes.  The script may
 * still change them between runs, which their versions tell. */
static inline bool nnl_buffer_is_fixed(const nnl_buffer *b)
{
    return !b->written && !nnl_buffer_is_copied(b) &&
           (b->kind == NNL_BUFFER_OUTER || b->kind == NNL_BUFFER_CONST);
}

typedef struct nnl_program_value {
    int32_t buffer, next; /* next value of the same buffer */
    int64_t
        offset; /* bytes from the buffer's beginning; for INPUT from the argument's first element */
    nnl_tensor form; /* type, shape and strides; its pointers mean nothing */
} nnl_program_value;

/* ---- elementwise chains: several loops run block by block, so that what passes between them stays
 * in L1 */

#define NNL_CHAIN_LINKS 32
#define NNL_CHAIN_SLOTS 8
#define NNL_CHAIN_SLOT_BYTES 4096
#define NNL_CHAIN_ROWS 4

typedef enum nnl_pace {
    NNL_PACE_EACH,
    NNL_PACE_ONE /* one element for all */,
    NNL_PACE_ROW /* a row, repeated */
} nnl_pace;

typedef struct nnl_operand {
    int32_t value; /* or -1: */
    int16_t slot;  /* a block that an earlier link left; of a ROW: which of the chain's repeated
                      ones, or -1 */
    int8_t width;  /* bytes an element */
    nnl_pace pace;
} nnl_operand;

typedef struct nnl_link {
    const nnl_op *op;
    int16_t map, dtype; /* of nnl_kernels.map */
    int16_t inputs;
    nnl_operand in[3], out;
    double param[3];
} nnl_link;

typedef struct nnl_chain {
    int64_t numel, row; /* row: elements of the repeated rows, 0 when there are none */
    int64_t block;      /* elements a block: whole rows, or part of one */
    int n_links, work;  /* work: elementary operations an element */
    nnl_link *link;
    int n_rows; /* rows shorter than half a block lie repeated beside the slots */
    int32_t row_value[NNL_CHAIN_ROWS];
    int8_t row_width[NNL_CHAIN_ROWS];
} nnl_chain;

typedef struct nnl_step {
    const nnl_op *op;
    const nnl_chain
        *chain; /* instead of op's run; in and out are what the chain reads and writes */
    int16_t n_in, n_out;
    int32_t *in, *out; /* values; -1 where absent */
    int n_attr;
    nnl_value *attr;
    nnl_spec *spec;  /* of the results */
    int16_t *start;  /* of list parameters, or NULL */
    uint64_t random; /* number of the call, from the run's first */
    int8_t index_base;
    bool inplace, keep;
    bool relu;  /* the positive part of result 0, in the op's last pass */
    bool draws; /* uses .random */
    int16_t
        call_attr; /* attribute that holds an earlier call's number (from the run's first), or -1 */
    uint64_t
        run_again; /* number of the checkpointed function's run again that it belongs to, 0: none */
    int32_t live;  /* attributes come from the live table of this number, or -1 */
    const char *where; /* script line */
} nnl_step;

/* A leaf whose .grad the function reads or sets. */
typedef struct nnl_slot {
    nnl_tensor *leaf;   /* reference; NULL for an argument's */
    int32_t input;      /* the argument that stands for it, or -1 */
    bool read;          /* its gradient at the beginning matters: */
    bool present;       /* there was one */
    bool set;           /* the function leaves another one: */
    int32_t value;      /* this, or -1 for none */
    int32_t entry;      /* value of the one that stood, or -1 when no step uses it */
    nnl_tensor *before; /* during capture: the gradient to put back */
} nnl_slot;

struct nnl_program {
    nnl_runtime *rt;
    nnl_bump bump;
    int32_t refs;
    int n_buffers, n_values, n_steps, n_slots, n_inputs, n_results;
    nnl_buffer *buffer;
    nnl_program_value *value;
    nnl_step *step;
    nnl_slot *slot;
    nnl_tensor **input;   /* during capture: the stand-ins */
    int32_t *input_value; /* value of each argument, -1 when it is not used */
    int32_t *result;      /* values */
    uint64_t draws;       /* random calls a run makes */
    size_t arena_bytes;
    int captured_steps; /* before simplification */
    bool inexact;       /* other orders of adding up may be used */
};

/* ---------------------------------------------------------------- capture (record.c) */

/* nnl_capture_end() without the passes, for comparing. */
nnl_status nnl_capture_take(nnl_runtime *rt, nnl_tensor *const *results, int n_results,
                            nnl_program **out);
/* The number that the next recorded call's attributes come from; -1: none. */
void nnl_capture_live(nnl_runtime *rt, int live);
/* Whether two captures of one function agree.  *difference receives a sentence when they do not;
 * *number whether only a number differs, at script line *where (or NULL). */
bool nnl_program_agrees(const nnl_program *a, const nnl_program *b, bool *number,
                        const char **where);
/* Capturing off and on again around what is made once, such as an optimizer's state. */
typedef struct nnl_capture_pause {
    nnl_recorder *recorder;
    bool capturing;
} nnl_capture_pause;
nnl_capture_pause nnl_capture_suspend(nnl_runtime *rt);
void nnl_capture_resume(nnl_runtime *rt, nnl_capture_pause pause);

bool nnl_same_form(const nnl_tensor *a, const nnl_tensor *b); /* type, shape, strides */
bool nnl_same_attribute(const nnl_value *a, const nnl_value *b);

/* step.c */
bool nnl_buffer_is_outside(const nnl_buffer *b); /* what is neither temporary nor constant */
/* Adds to writes, how many steps write into each buffer; returns how many of this one's lie
 * outside. */
int nnl_step_count_writes(const nnl_program *p, const nnl_step *step, uint32_t *writes);
/* Whether the step does nothing but fill temporary buffers that no other writes, from its inputs
 * alone. */
bool nnl_step_is_pure(const nnl_program *p, const nnl_step *step, const uint32_t *writes);

/* Whether a step from `first` up to `end` writes the buffer. */
bool nnl_is_written(const nnl_program *p, int32_t buffer, int first, int end);
/* Adds a value like another one, over a temporary buffer of its own. */
nnl_status nnl_program_temporary(nnl_program *p, int32_t like, int32_t *out);
/* A value where `of` lies, with the form of `like`, which has as many elements: `of`, or another.
 */
nnl_status nnl_program_view(nnl_program *p, int32_t of, int32_t like, int32_t *out);

/* Steps whose op a pass has set to NULL are gone. */
void nnl_program_close_up(nnl_program *p);

/* ---------------------------------------------------------------- passes: each keeps the meaning
 */

nnl_status
nnl_program_finish(nnl_program *p); /* all of them, between capture and the first context */
nnl_status
nnl_program_simplify(nnl_program *p); /* simplify.c: steps that nobody needs go, and equal ones */
nnl_status nnl_program_constants(
    nnl_program *p); /* constants.c: what depends on constants only is computed now */
nnl_status
nnl_program_reorder(nnl_program *p); /* reorder.c: relu's gradient before that of max pooling */
nnl_status
nnl_program_slope(nnl_program *p); /* slope.c: gelu leaves its derivative to its gradient */
nnl_status nnl_program_fold(
    nnl_program *p); /* fold.c: normalisations and sums go into the last pass before them */
nnl_status
nnl_program_absorb(nnl_program *p); /* absorb.c: relu goes into the last pass of the op before it */
nnl_status nnl_program_join(nnl_program *p); /* join.c: parts are made where cat would put them */
nnl_status nnl_program_frame(
    nnl_program *p); /* frame.c: images between convolutions get columns of zeros beside them */
nnl_status nnl_program_winograd(
    nnl_program *p); /* winograd.c: convolutions in another order of adding up, if that may be */
nnl_status nnl_program_pool(nnl_program *p); /* pool.c: convolutions pool what they have made */
nnl_status nnl_program_fuse(nnl_program *p); /* fuse.c: elementwise steps become chains */
nnl_status nnl_program_plan(nnl_program *p); /* plan.c: places in the arena */

/* Whether a step is a convolution that can be one of conv2d_fused or its kin, or is; and makes it
 * one (fold.c). */
bool nnl_is_convolution(const nnl_program *p, const nnl_step *step);
nnl_status nnl_widen_convolution(nnl_program *p, nnl_step *step);
/* Inputs and attributes of conv2d_fused and its kin, as ops/conv.c has them. */
enum {
    NNL_CONV_WEIGHT = 1,
    NNL_CONV_BIAS,
    NNL_CONV_MEAN,
    NNL_CONV_VAR,
    NNL_CONV_NORM_WEIGHT,
    NNL_CONV_NORM_BIAS,
    NNL_CONV_RESIDUAL,
    NNL_CONV_INPUTS
};
enum {
    NNL_CONV_STRIDE,
    NNL_CONV_PADDING,
    NNL_CONV_DILATION,
    NNL_CONV_GROUPS,
    NNL_CONV_EPS,
    NNL_CONV_FRAME_IN,
    NNL_CONV_FRAME_OUT,
    NNL_CONV_POOL,
    NNL_CONV_ATTRIBUTES
};

/* How often steps touch a buffer, and the step that makes it, or -1. */
typedef struct nnl_touch {
    int32_t count, maker;
} nnl_touch;
void nnl_count_touches(const nnl_program *p, nnl_touch *touches); /* one a buffer */
/* Whether a step from `first` up to `end` touches the buffer. */
bool nnl_is_touched(const nnl_program *p, int32_t buffer, int first, int end);
/* Whether elements of one form lie where those of the other do. */
bool nnl_same_places(const nnl_tensor *a, const nnl_tensor *b);

/* Its steps and memory as text (explain.c), with the times of a context that was profiled.  Returns
 * the length that the whole text has; writes at most size - 1 characters. */
size_t nnl_program_explain(const nnl_program *p, const nnl_context *times, char *buffer,
                           size_t size);

/* ---------------------------------------------------------------- replay (context.c, chain.c) */

/* values: the context's tensors. */
nnl_status nnl_chain_run(nnl_runtime *rt, const nnl_chain *chain, const nnl_tensor *values);

/* nnl_context_new() that shares the memory between the steps with another context of the runtime
 * (NULL: none). */
nnl_status nnl_context_new_beside(nnl_program *program, nnl_runtime *rt, nnl_context *other,
                                  nnl_context **out);
/* Sets an attribute of a step for the runs to come: a number that the script may change between
 * runs. */
void nnl_context_set(nnl_context *context, int step, int attr, nnl_value value);
/* Microseconds that a step took in the quickest run under the profiler; -1 when there was none. */
double nnl_context_step_us(const nnl_context *context, int step);
/* True while the gradients that stand agree with those that were captured. */
bool nnl_context_fits(const nnl_context *context, nnl_tensor *const *inputs);

#endif
