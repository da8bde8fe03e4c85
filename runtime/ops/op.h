/* What an op is: one record.  The registry, argument checks, Lua functions, help, annotations and
 * specs are made from records; runtime/README.md has the grammar of signatures and how to add an
 * op. */
#ifndef NNL_OP_H
#define NNL_OP_H

#include "../kernels/kernels.h"
#include "../tensor/tensor.h"

typedef struct nnl_call nnl_call;
typedef struct nnl_grad nnl_grad;
typedef struct nnl_scope nnl_scope;
typedef struct nnl_define nnl_define;

/* ---------------------------------------------------------------- the record */

enum {
    NNL_ELEMENTWISE =
        1 << 0, /* result elements depend on the input elements at the same (broadcast) place */
    NNL_PROMOTE = 1 << 1,    /* inputs (but bool and index ones) are brought to their common type */
    NNL_INPLACE_OK = 1 << 2, /* has an in-place twin; run allows out[0] to be in[0] */
    NNL_VIEW = 1 << 3,       /* infer may make results views of input 0 */
    NNL_RANDOM = 1 << 4,     /* draws random numbers: the door gives it a call number */
    NNL_HIDDEN = 1 << 5,     /* for other ops' use: no Lua name */
    NNL_IN_PLACE =
        1 << 6, /* writes its inputs (copy_, fill_, optimizer updates): results are listed inputs */
    NNL_NO_METHOD = 1 << 7, /* a function only, even though its first argument is a tensor */
    NNL_COMPLETE_RUN =
        1 << 8, /* infer sets no results for some calls and run makes them itself (nonzero) */
    NNL_FIRST_TYPE = 1 << 9, /* with NNL_PROMOTE: inputs are brought to input 0's type */
    NNL_SATURATE =
        1
        << 10, /* with NNL_PROMOTE: a number that an integer type cannot hold becomes its nearest */
    NNL_CAST =
        1 << 11, /* input 0 is first brought to the type that the attribute of kind dtype names */
    NNL_IDS =
        1 << 13, /* positions in data are ids, of which negative ones do not count from the end */
    NNL_TAKES_RELU = 1 << 14,   /* run applies call->relu to result 0 in its last pass; or it has an
                                   attribute relu */
    NNL_ROWS_APART = 1 << 15,   /* results may lie in other memory than dense one, as long as elements
                                   of the last dimension are adjacent */
    NNL_TRUE_QUOTIENT = 1 << 12 /* with NNL_PROMOTE: integers and bool become f32, unless attribute
                                   0 says how to round */
};

/* What backward will need of the forward call. */
#define NNL_SAVE_INPUT(i) (1u << (i))
#define NNL_SAVE_OUTPUT(i) (1u << (16 + (i)))
#define NNL_SAVE_INPUTS 0xffffu
#define NNL_SAVE_CROSS (1u << 31) /* each input only if another one requires a gradient: products \
                                   */

/* A call that is one elementwise loop over its inputs, in this order. */
typedef struct nnl_map_form {
    int map, inputs;
    nnl_tensor *in[3];
    double param[3];
} nnl_map_form;

/* A call that is run again and again on the same shapes, as a program's step: what depends on
 * shapes alone is made once, and only addresses change.  Inputs whose bit is set in `fixed` keep
 * their elements, too. */
typedef struct nnl_ready nnl_ready;
struct nnl_ready {
    nnl_status (*run)(nnl_ready *r);
    nnl_call *call; /* its tensors hold the addresses */
    uint32_t fixed;
    void *plan; /* of the op's own, from nnl_alloc(); freed with the step */
    size_t plan_bytes;
};

struct nnl_op {
    const char *name, *sig;
    const char *doc;     /* one sentence or more: shapes, formula, source */
    const char *example; /* a line of Lua, or NULL */
    nnl_status (*infer)(nnl_call *call);
    nnl_status (*run)(nnl_call *call);
    nnl_status (*ready)(nnl_ready *r); /* optional: sets run, and a plan, for many runs; else run is
                                          called each time */
    void (*grad)(nnl_grad *g);
    void (*define)(nnl_define *d); /* the composition of primitive ops that means the same; without
                                      run, it is what runs */
    const char *no_grad;           /* why there is no gradient */
    uint32_t saves, traits;
    int32_t kernel; /* nnl_map of an elementwise op with run = nnl_run_map, or */
    bool (*map)(nnl_call *call,
                nnl_map_form *form); /* what gives it, where it depends on the call */
    int32_t variant;                 /* tells records apart that share functions */
    const char *sample;              /* how the generated specs draw inputs: see spec/README.md */
    double error;                    /* c of the bound c eps sum|a||b| in specs; 0 means 8 */
    int32_t id;
};

/* NNL_OP(relu, .sig = ..., ...) defines nnl_op_relu; the build collects the names into op_list.h.
 */
#define NNL_OP(name_, ...) \
    const nnl_op nnl_op_##name_ = {.name = #name_, .id = NNL_ID_##name_, __VA_ARGS__}
#define NNL_NO_GRAD(reason) .no_grad = reason

enum {
#define X(name) NNL_ID_##name,
#include "op_list.h"
#undef X
    NNL_OP_TOTAL
};
#define X(name) extern const nnl_op nnl_op_##name;
#include "op_list.h"
#undef X

/* ---------------------------------------------------------------- signatures (signature.c) */

#define NNL_MAX_PARAMS 16
#define NNL_MAX_ATTRS 12
#define NNL_MAX_RESULTS 6

typedef enum nnl_param_type {
    /* tensors */
    NNL_T_ANY,      /* every type */
    NNL_T_NUMBER,   /* every type but bool */
    NNL_T_REAL,     /* f32, f64; other types are converted to f32 first */
    NNL_T_FLOAT,    /* f32, f64; other types are an error */
    NNL_T_INTEGRAL, /* u8, i32, i64 */
    NNL_T_BOOL,
    NNL_T_INDEX, /* positions: u8, i32, i64, counted from call->index_base */
    /* attributes */
    NNL_T_INT,
    NNL_T_SIZE /* >= 0 */,
    NNL_T_NUM /* a double */,
    NNL_T_SCALAR /* integer, float or boolean as given */,
    NNL_T_FLAG,
    NNL_T_WORD /* {a|b|c}: as.i is the place in the list */,
    NNL_T_DIM /* of input 0; normalised to 0 .. ndim - 1 by the door */,
    NNL_T_NEWDIM /* of the result, which has one dimension more */,
    NNL_T_POS /* a position or range end along a dimension; negative counts from the end */,
    NNL_T_DTYPE,
    NNL_T_STRING
} nnl_param_type;

typedef struct nnl_param {
    char name[24];
    nnl_param_type type;
    bool optional;     /* "?" or a default */
    bool list;         /* "*": a list */
    bool variadic;     /* "...": a list, or the remaining arguments */
    int8_t repeat;     /* "[2]": a list of two, or one value for both; 0 otherwise */
    bool scalar;       /* "|scalar": a number may stand for the tensor */
    int8_t place;      /* among the tensors, or among the attributes */
    nnl_value value;   /* default */
    const char *words; /* of {a|b|c} or "|{a|b}": points at the signature behind the brace */
} nnl_param;

typedef struct nnl_result {
    char name[24];
    char type[12];
    bool list;   /* "*": as many as the call makes */
    bool hidden; /* "!": not handed to Lua */
} nnl_result;

typedef struct nnl_sig {
    int params, tensors, attrs, results;
    bool list_input, list_result; /* some tensor parameter, some result is a list */
    bool plain; /* tensors first, none a list; every attribute may be absent; one result, no list */
    nnl_param param[NNL_MAX_PARAMS];
    nnl_param *tensor[NNL_MAX_PARAMS], *attr[NNL_MAX_PARAMS];
    nnl_result result[NNL_MAX_RESULTS];
} nnl_sig;

static inline bool nnl_is_tensor_type(nnl_param_type type) { return type <= NNL_T_INDEX; }
/* Fails (NNL_EINVAL) only for a wrong signature, which is this project's bug. */
nnl_status nnl_sig_parse(nnl_runtime *rt, const nnl_op *op, nnl_sig *out);
/* Parsed at its first use, kept by the runtime. */
nnl_status nnl_sig_of(nnl_runtime *rt, const nnl_op *op, const nnl_sig **out);
const char *nnl_param_type_name(nnl_param_type type);
/* Place of a word in a parameter's {a|b|c}, or -1. */
int nnl_word_place(const nnl_param *p, const char *word);

/* ---------------------------------------------------------------- a call */

#define NNL_CALL_INLINE 6

/* One call of an op, as infer and run see it. */
struct nnl_call {
    nnl_runtime *rt;
    const nnl_op *op;
    const nnl_sig *sig;
    nnl_tensor **in; /* n_in inputs; NULL where an optional one is absent */
    int n_in;
    /* parameter p's tensors are in[start[p]] .. in[start[p + 1] - 1]; only set when the op takes
     * lists */
    int16_t start[NNL_MAX_PARAMS + 1];
    nnl_value
        *attr; /* sig->attrs values; KIND_NONE where an optional one without default is absent */
    nnl_spec *spec;   /* n_out of them, for infer to fill */
    nnl_tensor **out; /* n_out results, for run to fill */
    int n_out;        /* the signature's number, or what infer asked for by nnl_call_results() */
    int index_base;   /* what positions in data and in messages count from: 0 (C) or 1 (Lua) */
    uint64_t random;  /* of NNL_RANDOM ops: the call's number */
    bool inplace;
    bool keep; /* results will be needed for gradients */
    bool relu; /* of NNL_TAKES_RELU ops in programs: the positive part of result 0 is wanted */
    nnl_tensor *in_[NNL_CALL_INLINE], *out_[NNL_CALL_INLINE];
    nnl_spec spec_[NNL_CALL_INLINE];
    nnl_value attr_[NNL_MAX_ATTRS];
    void *block;
    size_t block_size; /* when more results are asked for */
};

/* Makes a failure that names the op: "conv2d: weight has ...". */
nnl_status nnl_call_fail(nnl_call *c, nnl_status status, const char *format, ...) NNL_PRINTF(3, 4);
/* Fails with "... must have wanted dimensions". */
nnl_status nnl_call_wrong_ndim(nnl_call *c, int place, int wanted);
/* From infer: the call has n results. */
nnl_status nnl_call_results(nnl_call *c, int n);
/* Makes result i in infer, where its size depends on the data. */
nnl_status nnl_call_make(nnl_call *c, int i, nnl_dtype dtype, int ndim, const int64_t *shape);
/* From infer, where a result's size follows from elements: fails while a function is captured. */
nnl_status nnl_call_needs_values(nnl_call *c);
/* "input (2x3)": for messages. */
#define NNL_NAMED_TEXT (NNL_SHAPE_TEXT + 40)
const char *nnl_call_input_text(nnl_call *c, int place, char buffer[NNL_NAMED_TEXT]);
/* " at position 3", " at position {2, 3}" or "" (0-d), for element i (row-major) of t.  Returns the
 * buffer. */
#define NNL_PLACE_TEXT 192
const char *nnl_place_text(char text[NNL_PLACE_TEXT], const nnl_tensor *t, int64_t i, int base);

/* Common infer functions (infer.c). */
nnl_status nnl_infer_same(nnl_call *c);      /* like input 0 */
nnl_status nnl_infer_broadcast(nnl_call *c); /* all inputs broadcast; type of input 0 */
nnl_status nnl_infer_compare(nnl_call *c);   /* all inputs broadcast; bool */
nnl_status
nnl_infer_number(nnl_call *c); /* nnl_infer_broadcast, but the common type may not be bool */
void nnl_spec_like(nnl_spec *spec, const nnl_tensor *t);
void nnl_spec_set(nnl_spec *spec, nnl_dtype dtype, int ndim, const int64_t *shape);
/* Makes the result a view of input 0 with the spec's shape and these strides and offset. */
void nnl_spec_view(nnl_spec *spec, const int64_t *strides, int64_t offset);
/* The result's dimensions lie one inside the other as those of t do: see nnl_strides_like(). */
void nnl_spec_laid_like(nnl_spec *spec, const nnl_tensor *t);
/* A position along a dimension of the given size (negative from the end), checked: *out in [0,
 * size). */
nnl_status nnl_call_position(nnl_call *c, const char *what, int64_t position, int dim, int64_t size,
                             int64_t *out);
/* The dimensions of a "dim:dim*?" attribute as flags; absent or empty means all. */
void nnl_dim_flags(const nnl_value *dims, int ndim, bool flags[NNL_MAX_DIMS]);

/* Elementwise ops (map.c): runs what op->map says, or op->kernel, over broadcast inputs; the
 * numeric attributes, in order, are the kernel's parameters unless op->map sets others. */
nnl_status nnl_run_map(nnl_call *c);
/* The one loop that the call is, or false when it is something else.  Inputs without data are not
 * known yet. */
bool nnl_map_form_of(nnl_call *c, nnl_map_form *form);
nnl_status nnl_map_run(nnl_runtime *rt, int map, int inputs, nnl_tensor *const *in, nnl_tensor *out,
                       const double *param);

/* nnl_copy(), as a call that is taken down while a function is captured (engine/apply.c). */
nnl_status nnl_copy_noted(nnl_tensor *to, nnl_tensor *from);

/* ---------------------------------------------------------------- building graphs: gradients and
 * defines */

/* Ops applied from C, with results owned by the scope.  After a failure everything returns NULL and
 * does nothing, so a formula is written without checks and the status looked at once. */
struct nnl_scope {
    nnl_runtime *rt;
    nnl_status status;
    int index_base;
    nnl_tensor **held;
    int count, capacity;
    nnl_tensor *held_[24];
};
void nnl_scope_open(nnl_scope *s, nnl_runtime *rt, int index_base);
nnl_status nnl_scope_close(nnl_scope *s); /* drops everything held; returns the status */
/* Applies op; returns the first result, borrowed from the scope, or NULL after a failure. */
nnl_tensor *nnl_do(nnl_scope *s, const nnl_op *op, int n_in, nnl_tensor *const *in, int n_attr,
                   const nnl_value *attr);
/* The same with several results. */
void nnl_do_many(nnl_scope *s, const nnl_op *op, int n_in, nnl_tensor *const *in, int n_attr,
                 const nnl_value *attr, int n_out, nnl_tensor **out);
nnl_tensor *nnl_keep(nnl_scope *s, nnl_tensor *t); /* the scope takes over a reference */
void nnl_scope_fail(nnl_scope *s, nnl_status status);

/* nnl_op call in a formula: DO(s, mul, a, b), or with positional attributes: DO_WITH(s, sum,
 * (V_INTS(1, dims), V_FLAG(1)), x). */
#define NNL_TENSORS(...) \
    NNL_COUNT(((nnl_tensor *[]){__VA_ARGS__})), (nnl_tensor *[]) { __VA_ARGS__ }
#define NNL_STRIP_(...) __VA_ARGS__
#define NNL_VALUES_(...) \
    NNL_COUNT(((const nnl_value[]){__VA_ARGS__})), (const nnl_value[]) { __VA_ARGS__ }
#define NNL_VALUES(list) NNL_VALUES_ list
#define DO(s, op_, ...) nnl_do((s), &nnl_op_##op_, NNL_TENSORS(__VA_ARGS__), 0, NULL)
#define DO_WITH(s, op_, attrs, ...) \
    nnl_do((s), &nnl_op_##op_, NNL_TENSORS(__VA_ARGS__), NNL_VALUES(attrs))
#define V_NONE ((nnl_value){NNL_KIND_NONE, 0, {.i = 0}})
#define V_INT(v) ((nnl_value){NNL_KIND_INT, 0, {.i = (v)}})
#define V_NUM(v) ((nnl_value){NNL_KIND_FLOAT, 0, {.f = (v)}})
#define V_FLAG(v) ((nnl_value){NNL_KIND_BOOL, 0, {.i = (v)}})
#define V_INTS(n, v) ((nnl_value){NNL_KIND_INTS, (n), {.ints = (v)}})
#define V_WORD(v) \
    ((nnl_value){NNL_KIND_INT, 0, {.i = (v)}}) /* place of an enum's word, or a dtype */

/* Frequent pieces of formulas (build.c). */
nnl_tensor *nnl_number(nnl_scope *s, const nnl_tensor *like, double value); /* 0-d, like's type */
nnl_tensor *nnl_scaled(nnl_scope *s, nnl_tensor *x, double scale);          /* scale x */
nnl_tensor *nnl_shifted(nnl_scope *s, nnl_tensor *x, double shift);         /* x + shift */
nnl_tensor *nnl_sum_dims(nnl_scope *s, nnl_tensor *x, const nnl_value *dims, bool keepdim);
nnl_tensor *nnl_reshaped(nnl_scope *s, nnl_tensor *x, int ndim, const int64_t *shape);
nnl_tensor *nnl_expanded(nnl_scope *s, nnl_tensor *x, int ndim, const int64_t *shape);
nnl_tensor *nnl_converted(nnl_scope *s, nnl_tensor *x, nnl_dtype dtype);
nnl_tensor *nnl_full(nnl_scope *s, nnl_dtype dtype, int ndim, const int64_t *shape, double value);
/* x, a reduction's result without its dimensions, put back to the input's shape by expanding. */
nnl_tensor *nnl_unreduced(nnl_scope *s, nnl_tensor *x, const nnl_value *dims, bool keepdim,
                          int ndim, const int64_t *shape);

typedef struct nnl_layout { /* what is kept of a tensor's form */
    uint8_t dtype, ndim;
    int64_t shape[NNL_MAX_DIMS];
} nnl_layout;

/* A gradient: reads dy, saved values and attributes, and fills dx[i] for every i with needs[i].
 * What it leaves NULL is zero.  dx may have the broadcast shape: the engine sums it down to the
 * input's, and converts the type. */
struct nnl_grad {
    nnl_scope *s;
    const nnl_op *op;
    const nnl_sig *sig;
    int n_in, n_out;
    nnl_tensor *const *in;  /* saved inputs; NULL where not saved or absent */
    nnl_tensor *const *out; /* saved results */
    nnl_tensor *const *dy;  /* NULL where no gradient flows */
    nnl_tensor **dx;        /* to fill; borrowed from the scope */
    const bool *needs;
    const nnl_value *attr;
    const nnl_layout *in_layout, *out_layout;
    const int16_t *start;  /* as in nnl_call */
    uint64_t random, seed; /* of NNL_RANDOM ops: the call's number, and the seed at that time */
};

/* A composition: reads inputs and attributes, fills out. */
struct nnl_define {
    nnl_scope *s;
    const nnl_op *op;
    int n_in, n_out;
    nnl_tensor *const *in;
    nnl_tensor **out;
    const nnl_value *attr;
    const int16_t *start;
    uint64_t random, seed; /* of NNL_RANDOM ops: as in nnl_grad */
};

#endif
