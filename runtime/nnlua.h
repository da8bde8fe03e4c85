/* nnlua: deep learning in C, told what to do by Lua.  The one public header.
 *
 * Everything hangs off an nnl_runtime.  A runtime and its tensors are used by one thread at a time;
 * different runtimes share nothing.  Functions that can fail return an nnl_status, and
 * nnl_error_message() then says what, where, got and wanted.  A call that fails changes nothing.
 * NULL for a runtime, or for the only tensor, is NNL_EINVAL without a message from functions with a status.
 * The library never exits, aborts, prints, raises signals or changes process-wide settings. */
#ifndef NNLUA_H
#define NNLUA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NNL_VERSION_MAJOR 0
#define NNL_VERSION_MINOR 1
#define NNL_VERSION_PATCH 0
#define NNL_VERSION "0.1.0"

#if defined(__GNUC__) && !defined(NNL_STATIC)
#define NNL_API __attribute__((visibility("default")))
#else
#define NNL_API
#endif

#define NNL_MAX_DIMS 8

/* ------------------------------------------------------------------ status */

typedef enum nnl_status {
    NNL_OK = 0,
    NNL_EINVAL,       /* an argument's value */
    NNL_ESHAPE,       /* a tensor's shape */
    NNL_ETYPE,        /* a tensor's type */
    NNL_EINDEX,       /* a position out of range, in an argument or in tensor data */
    NNL_ENOMEM,       /* the allocator or the memory limit said no */
    NNL_ESTATE,       /* the call is not allowed now (graph already freed, value changed in place ...) */
    NNL_ECANCELLED,   /* nnl_runtime_cancel() was called */
    NNL_EIO,          /* the operating system refused a file operation */
    NNL_EFORMAT,      /* a file's contents */
    NNL_EUNSUPPORTED, /* not available in this build or for this case */
    NNL_ECALLBACK     /* a host's or a script's own function failed */
} nnl_status;

/* "NNL_ESHAPE" etc.; never NULL. */
NNL_API const char *nnl_status_name(nnl_status status);

/* ------------------------------------------------------------------ runtime */

typedef struct nnl_runtime nnl_runtime;

/* Host allocator, as Lua's: new_size 0 frees and returns NULL; old_size 0 (pointer NULL) allocates;
 * otherwise reallocates.  Returns NULL on failure.  Called only by the thread that uses the runtime. */
typedef void *(*nnl_allocator)(void *user, void *pointer, size_t old_size, size_t new_size);

/* Host's parallel-for: calls task(context, i) once for each i in [0, count), in any order, on any
 * threads, and returns when all have returned.  worker identity is not needed. */
typedef void (*nnl_parallel_for)(void *user, int64_t count, void (*task)(void *context, int64_t i),
                                 void *context);

typedef enum nnl_log_level { NNL_LOG_DEBUG, NNL_LOG_INFO, NNL_LOG_WARNING } nnl_log_level;
typedef void (*nnl_log)(void *user, nnl_log_level level, const char *message);

typedef enum nnl_isa { NNL_ISA_AUTO, NNL_ISA_BASE, NNL_ISA_AVX2, NNL_ISA_AVX512, NNL_ISA_NEON } nnl_isa;

typedef struct nnl_runtime_config {
    size_t size;                   /* sizeof(nnl_runtime_config); nnl_runtime_defaults() sets it */
    nnl_allocator allocate;        /* NULL: malloc, realloc, free; on Linux large blocks are mapped */
    void *allocate_user;
    size_t memory_limit;           /* bytes held from the allocator at most; 0: no limit */
    int threads;                   /* 0: the processors this process may use; 1: no worker threads */
    nnl_parallel_for parallel_for; /* NULL: the runtime's own pool of `threads` */
    void *parallel_user;
    nnl_log log;                   /* NULL: silent */
    void *log_user;
    uint64_t seed;                 /* first seed of the random numbers; 0 is a seed like others */
    nnl_isa isa;                   /* NNL_ISA_AUTO: the best that the processor has */
} nnl_runtime_config;

NNL_API nnl_runtime_config nnl_runtime_defaults(void);

/* Makes a runtime.  On failure *out is NULL.  NNL_EUNSUPPORTED: this processor or build lacks the ISA. */
NNL_API nnl_status nnl_runtime_new(const nnl_runtime_config *config, nnl_runtime **out);

/* Frees a runtime and its caches.  Tensors that are still referenced must be unreferenced first;
 * those that were not are leaked, and their number is returned (0 is right). */
NNL_API int64_t nnl_runtime_free(nnl_runtime *rt);

/* The message of the last call on rt that did not return NNL_OK; valid until the next such call. */
NNL_API const char *nnl_error_message(const nnl_runtime *rt);

/* Asks a running call to stop; safe from any thread and from signal handlers.  The call returns
 * NNL_ECANCELLED and clears the request; a request made between calls stops the next one. */
NNL_API void nnl_runtime_cancel(nnl_runtime *rt);

NNL_API void nnl_manual_seed(nnl_runtime *rt, uint64_t seed);
NNL_API nnl_isa nnl_runtime_isa(const nnl_runtime *rt);
NNL_API const char *nnl_isa_name(nnl_isa isa); /* "base", "avx2", "avx512", "neon", "auto" */
NNL_API int nnl_runtime_threads(const nnl_runtime *rt);
/* From now on; 0: the processors this process may use.  Without effect with the host's own parallel-for.
 * Results do not depend on it. */
NNL_API nnl_status nnl_runtime_set_threads(nnl_runtime *rt, int threads);

typedef struct nnl_memory {
    size_t size;      /* sizeof(nnl_memory), set by the caller */
    size_t live;      /* bytes in use */
    size_t held;      /* bytes held from the allocator: live and cached */
    size_t peak;      /* highest `held` since the start or the last reset */
    size_t limit;     /* 0: none */
    uint64_t calls;   /* calls of the host allocator so far */
    int64_t tensors;  /* tensors alive */
    size_t peak_live; /* highest `live` since the start or the last reset */
} nnl_memory;
NNL_API void nnl_memory_stats(const nnl_runtime *rt, nnl_memory *out);
NNL_API void nnl_memory_reset_peak(nnl_runtime *rt);
NNL_API void nnl_memory_trim(nnl_runtime *rt); /* gives cached blocks back to the allocator */
NNL_API void nnl_memory_set_limit(nnl_runtime *rt, size_t bytes);
/* Fault injection: of the requests for memory made from now on, number `countdown` (1: the next) fails,
 * and all after it while `sticky`.  0 switches it off. */
NNL_API void nnl_memory_fail_after(nnl_runtime *rt, int64_t countdown, bool sticky);

/* ------------------------------------------------------------------ tensors */

typedef enum nnl_dtype { NNL_BOOL, NNL_U8, NNL_I32, NNL_I64, NNL_F32, NNL_F64 } nnl_dtype;
#define NNL_DTYPES 6

NNL_API const char *nnl_dtype_name(nnl_dtype dtype); /* "bool" "u8" "i32" "i64" "f32" "f64" */
NNL_API size_t nnl_dtype_size(nnl_dtype dtype);      /* bytes an element */

typedef struct nnl_tensor nnl_tensor;

/* New contiguous tensors.  *out receives a new reference.  _new leaves the elements unset; _from copies
 * them from `data` (row-major, of type dtype); _wrap uses the caller's memory (aligned to the element)
 * in place and calls release(user, data) when the last reference to it goes. */
NNL_API nnl_status nnl_tensor_new(nnl_runtime *rt, nnl_dtype dtype, int ndim, const int64_t *shape,
                                  nnl_tensor **out);
NNL_API nnl_status nnl_tensor_zeros(nnl_runtime *rt, nnl_dtype dtype, int ndim, const int64_t *shape,
                                    nnl_tensor **out);
NNL_API nnl_status nnl_tensor_from(nnl_runtime *rt, nnl_dtype dtype, int ndim, const int64_t *shape,
                                   const void *data, nnl_tensor **out);
NNL_API nnl_status nnl_tensor_wrap(nnl_runtime *rt, nnl_dtype dtype, int ndim, const int64_t *shape,
                                   void *data, void (*release)(void *user, void *data), void *user,
                                   nnl_tensor **out);

NNL_API nnl_tensor *nnl_tensor_ref(nnl_tensor *t);  /* returns t */
NNL_API void nnl_tensor_unref(nnl_tensor *t);       /* NULL is allowed */

NNL_API nnl_runtime *nnl_tensor_runtime(const nnl_tensor *t);
NNL_API nnl_dtype nnl_tensor_dtype(const nnl_tensor *t);
NNL_API int nnl_tensor_ndim(const nnl_tensor *t);
NNL_API const int64_t *nnl_tensor_shape(const nnl_tensor *t);   /* ndim sizes */
NNL_API const int64_t *nnl_tensor_strides(const nnl_tensor *t); /* ndim steps, in elements */
NNL_API int64_t nnl_tensor_numel(const nnl_tensor *t);
NNL_API bool nnl_tensor_is_contiguous(const nnl_tensor *t);

/* First element.  Writing through _data() counts as a change in place. */
NNL_API void *nnl_tensor_data(nnl_tensor *t);
NNL_API const void *nnl_tensor_const_data(const nnl_tensor *t);
/* Copies all elements in row-major order, converted to dtype; `bytes` is the size of the buffer. */
NNL_API nnl_status nnl_tensor_read(nnl_tensor *t, nnl_dtype dtype, void *buffer, size_t bytes);

NNL_API bool nnl_tensor_requires_grad(const nnl_tensor *t);
NNL_API nnl_status nnl_tensor_set_requires_grad(nnl_tensor *t, bool on); /* NNL_ETYPE, NNL_ESTATE */
NNL_API nnl_tensor *nnl_tensor_grad(const nnl_tensor *t);                /* borrowed, or NULL */
NNL_API nnl_status nnl_tensor_set_grad(nnl_tensor *t, nnl_tensor *grad); /* NULL clears */

/* ------------------------------------------------------------------ ops */

typedef struct nnl_op nnl_op;

/* NULL when there is none.  The record is static: keep the pointer.  Some ops are for the library's own use, as
 * relu_backward is: nnl_apply refuses them with NNL_EUNSUPPORTED. */
NNL_API const nnl_op *nnl_op_find(const char *name);
NNL_API const char *nnl_op_name(const nnl_op *op);
NNL_API const char *nnl_op_signature(const nnl_op *op);
NNL_API int nnl_op_count(void);
NNL_API const nnl_op *nnl_op_at(int place); /* 0 .. nnl_op_count() - 1 */

/* Arguments other than tensors, by name; a list ends with NNL_END.  Dimensions and positions count from 0,
 * negative ones from the end. */
typedef enum nnl_kind {
    NNL_KIND_NONE, /* not given: the default */
    NNL_KIND_INT,
    NNL_KIND_FLOAT,
    NNL_KIND_BOOL,   /* in .i */
    NNL_KIND_STRING, /* also the word of an enum, and the name of a dtype */
    NNL_KIND_INTS,
    NNL_KIND_FLOATS
} nnl_kind;

typedef struct nnl_value {
    nnl_kind kind;
    int32_t count; /* of INTS and FLOATS */
    union {
        int64_t i;
        double f;
        const char *s;
        const int64_t *ints;
        const double *floats;
    } as;
} nnl_value;

typedef struct nnl_attr {
    const char *name;
    nnl_value value;
} nnl_attr;

#define NNL_INT(name_, v) {(name_), {NNL_KIND_INT, 0, {.i = (v)}}}
#define NNL_FLOAT(name_, v) {(name_), {NNL_KIND_FLOAT, 0, {.f = (v)}}}
#define NNL_FLAG(name_, v) {(name_), {NNL_KIND_BOOL, 0, {.i = (v)}}}
#define NNL_WORD(name_, v) {(name_), {NNL_KIND_STRING, 0, {.s = (v)}}}
#define NNL_INTS(name_, n, v) {(name_), {NNL_KIND_INTS, (n), {.ints = (v)}}}
#define NNL_FLOATS(name_, n, v) {(name_), {NNL_KIND_FLOATS, (n), {.floats = (v)}}}
#define NNL_END {NULL, {NNL_KIND_NONE, 0, {.i = 0}}}

/* Runs an op.  Inputs stand in the signature's order, NULL for an optional one that is absent; the tensors
 * of a list parameter follow one another.  attrs is NULL or a list ended by NNL_END.  outputs receives
 * n_outputs new references (surplus results are dropped; too few results is an error).  Records for
 * gradients when an input requires them and the grad mode is on. */
NNL_API nnl_status nnl_apply(nnl_runtime *rt, const nnl_op *op, nnl_tensor *const *inputs, int n_inputs,
                             const nnl_attr *attrs, nnl_tensor **outputs, int n_outputs);
/* The in-place twin: the result is written into inputs[0].  NNL_EUNSUPPORTED when the op has none. */
NNL_API nnl_status nnl_apply_inplace(nnl_runtime *rt, const nnl_op *op, nnl_tensor *const *inputs,
                                     int n_inputs, const nnl_attr *attrs);

/* ------------------------------------------------------------------ gradients */

NNL_API bool nnl_grad_mode(const nnl_runtime *rt);
NNL_API bool nnl_set_grad_mode(nnl_runtime *rt, bool on); /* returns the mode before */

/* Adds d root / d leaf to the grad of every leaf that requires it.  seed is d result / d root, of root's
 * shape; NULL means 1, and then root must have one element.  On failure no grad changes. */
NNL_API nnl_status nnl_backward(nnl_tensor *root, nnl_tensor *seed, bool retain_graph, bool create_graph);

/* d root / d inputs[i] as new references, .grad untouched.  Inputs that root does not depend on give NULL
 * with allow_unused, else NNL_EINVAL. */
NNL_API nnl_status nnl_grad_of(nnl_tensor *root, nnl_tensor *seed, nnl_tensor *const *inputs, int n_inputs,
                               bool retain_graph, bool create_graph, bool allow_unused,
                               nnl_tensor **grads);

/* ------------------------------------------------------------------ captured programs */

/* Between begin and end, calls on rt are taken down and not computed: tensors have shapes and no values, and
 * nnl_tensor_data() of stand-ins and results is NULL.  The program that comes of them computes the results when a
 * context runs it, with the same bits, and without shape work.  It holds references to the tensors from outside that
 * the calls use; what they change outside (in place, or as .grad of a leaf) a run changes. */
typedef struct nnl_program nnl_program;
typedef struct nnl_context nnl_context;

/* stand_ins[i] receives a new reference to a tensor that stands for an argument of inputs[i]'s form. */
NNL_API nnl_status nnl_capture_begin(nnl_runtime *rt, nnl_tensor *const *inputs, int n_inputs,
                                     nnl_tensor **stand_ins);
/* The program under way may add up in other orders than the calls do; by default it has their bits.  f32 convolutions of
 * 3x3 taps with stride 1, and their input's gradient, then go by Winograd's F(4x4, 3x3) where the shapes make that quicker:
 * errors of up to 2e-5 of the largest sum of |x||w|, and a NaN or infinity reaches all 4x4 results of a tile.
 * NNL_ESTATE when no capture is under way. */
NNL_API nnl_status nnl_capture_inexact(nnl_runtime *rt);
/* *out receives a new reference.  After a failure nothing is captured and *out is NULL. */
NNL_API nnl_status nnl_capture_end(nnl_runtime *rt, nnl_tensor *const *results, int n_results, nnl_program **out);
NNL_API void nnl_capture_abandon(nnl_runtime *rt);
NNL_API nnl_program *nnl_program_ref(nnl_program *program);
NNL_API void nnl_program_unref(nnl_program *program); /* by the thread of the runtime that captured it */

/* What one run needs: memory, numbers that change.  rt is the runtime that the program was captured on, or another
 * one, used by another thread: then the tensors from outside are shared, and must not be changed by any run. */
NNL_API nnl_status nnl_context_new(nnl_program *program, nnl_runtime *rt, nnl_context **out);
NNL_API void nnl_context_free(nnl_context *context); /* before its program's last reference goes */
/* Runs the program on tensors of the forms that were captured (NNL_ESHAPE, NNL_ETYPE).  outputs receives new
 * references to fresh tensors.  Until the first change outside a failure changes nothing. */
NNL_API nnl_status nnl_context_run(nnl_context *context, nnl_tensor *const *inputs, int n_inputs,
                                   nnl_tensor **outputs, int n_outputs);

#ifdef __cplusplus
}
#endif
#endif
