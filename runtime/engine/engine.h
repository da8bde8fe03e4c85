/* The door through which every op goes, the tape that it leaves, and the way back along it. */
#ifndef NNL_ENGINE_H
#define NNL_ENGINE_H

#include "../ops/op.h"

/* ---------------------------------------------------------------- the door (apply.c) */

/* A call as the bindings prepare it: tensors and numbers standing for tensors, attributes in the
 * signature's order.  Everything is borrowed. */
typedef struct nnl_request {
    const nnl_op *op;
    nnl_tensor *const *in; /* n_in; NULL where absent or where a number stands */
    const nnl_value
        *numbers; /* n_in values for "|scalar" parameters, or NULL when there are none */
    int n_in;
    const int16_t *start;  /* of list parameters, as in nnl_call; NULL when the op takes none */
    const nnl_value *attr; /* n_attr of the signature's attributes; missing ones are defaults */
    int n_attr;
    int index_base;
    bool inplace;
    bool by_define;  /* run the composition instead, for specs */
    uint64_t random; /* 0: draw a new call number; else one used before, + 1 */
} nnl_request;

/* Runs it.  *n_out says how many results there is room for, and receives how many there were; when
 * the op makes more than there is room for, *more receives a block of all of them that the caller
 * frees with nnl_results_free().  Results are new references. */
typedef struct nnl_results {
    int count;
    nnl_tensor *out[NNL_CALL_INLINE];
    nnl_tensor **many; /* out, or a block */
    size_t block_size;
} nnl_results;
nnl_status nnl_request_run(nnl_runtime *rt, const nnl_request *request, nnl_results *results);
void nnl_results_free(nnl_runtime *rt, nnl_results *results); /* the block, not the tensors */

/* ---------------------------------------------------------------- values that are computed again
 * (checkpoint.c) */

typedef struct nnl_segment nnl_segment;

/* What calls that are recorded do with the values that backward will read. */
typedef struct nnl_keeping {
    enum {
        NNL_KEEP_ALL,
        NNL_KEEP_NONE,   /* leaves apart; their nodes belong to `segment`, whose function will run
                            again */
        NNL_KEEP_AGAIN,  /* it does: they go into the nodes of its first run */
        NNL_KEEP_NOWHERE /* inside of that, what another segment will compute again */
    } mode;
    nnl_segment *segment;
    uint64_t run; /* number of the run again that is under way, 0 in none */
} nnl_keeping;

/* From here to nnl_segment_close() calls belong to a function whose values are not kept:
 * again(user) runs it again, drop(user) forgets it (at once where an outer segment's function
 * brings it again).  Takes over user, not on failure; *before is for close. */
nnl_status nnl_segment_open(nnl_runtime *rt, nnl_status (*again)(void *user),
                            void (*drop)(void *user), void *user, nnl_keeping *before);
void nnl_segment_close(nnl_runtime *rt, const nnl_keeping *before);

/* ---------------------------------------------------------------- state of a runtime's engine */

/* Takes down calls instead of running them, while a function is captured (program/).  Tensors have
 * shapes then, but no values. */
typedef struct nnl_recorder nnl_recorder;
struct nnl_recorder {
    /* Stands for c->op->run: inputs and results are as run would see them. */
    nnl_status (*call)(nnl_recorder *r, nnl_call *c);
    /* leaf->grad is about to be read (or only set). */
    nnl_status (*grad)(nnl_recorder *r, nnl_tensor *leaf, bool read);
};

typedef struct nnl_profile_row {
    uint64_t calls, nanoseconds, bytes;
} nnl_profile_row;

struct nnl_engine {
    nnl_sig *sig[NNL_OP_TOTAL]; /* parsed signatures, NULL until first used */
    bool grad_enabled;
    bool anomaly;           /* look at every result for NaN and infinity */
    nnl_recorder *recorder; /* while a function is captured, else NULL */
    uint64_t sequence;      /* of the next node */
    uint64_t mark;          /* of the current walk */
    nnl_keeping keeping;
    uint64_t runs_again; /* functions that ran again for backward, so far */
    int hooks_running;
    nnl_node *dead; /* nodes whose count reached 0, being freed one after the other */
    bool draining;
    nnl_profile_row *rows;    /* one an op: counts of the last profile */
    nnl_profile_row *profile; /* rows while profiling, else NULL */
    /* Asked in anomaly mode and by the recorder: writes the script's place ("train.lua:12"), or
     * nothing. */
    void (*where)(void *user, char *buffer, size_t size);
    void *where_user;
    /* Frees memory that only the host knows to be garbage; false: nothing was done.  Asked between
     * the steps of a backward walk, which cannot be begun again: what it has used is gone. */
    bool (*relieve)(void *user);
    void *relieve_user;
};

/* To be asked before leaf->grad is read, or with read = false before it is set. */
static inline nnl_status nnl_grad_touch(nnl_tensor *leaf, bool read)
{
    nnl_recorder *r = leaf->rt->engine->recorder;
    return NNL_LIKELY(!r) ? NNL_OK : r->grad(r, leaf, read);
}
/* Fails when t's elements cannot be read: they are only being noted down, or were. */
nnl_status nnl_check_values(const nnl_tensor *t, const char *who);
/* count pointers or values that a host says stand at `list`: neither negative nor NULL. */
nnl_status nnl_check_list(nnl_runtime *rt, const char *who, const char *what, int count,
                          const void *list);

nnl_status nnl_profile_start(nnl_runtime *rt);
void nnl_profile_stop(nnl_runtime *rt); /* the rows stay until the next start */

/* ---------------------------------------------------------------- the tape (tape.c) */

typedef struct nnl_edge {
    nnl_node *node;   /* reference; who made the input, or */
    nnl_tensor *leaf; /* reference; the leaf that it is; both NULL: needs no gradient */
    int32_t result;
} nnl_edge;

struct nnl_grad_hook {
    nnl_grad_hook *next;
    int64_t id;
    int32_t result;
    bool removed; /* while hooks ran; it goes when they are done */
    /* Sees a gradient; may put another tensor (a new reference) into *replace. */
    nnl_status (*call)(void *user, nnl_tensor *grad, nnl_tensor **replace);
    void (*drop)(void *user);
    void *user;
};

struct nnl_node {
    int32_t refs;
    int32_t n_in, n_out, n_attr;
    const nnl_op *op;
    uint64_t sequence;
    uint64_t random, seed; /* of NNL_RANDOM ops: which numbers the call drew */
    size_t block_size;
    int8_t index_base;
    bool consumed;        /* saved values were given up by a backward walk */
    bool filled;          /* of a segment: its function ran again, and all is saved */
    nnl_segment *segment; /* reference, or NULL */
    int32_t place;        /* in the segment */
    nnl_edge *edge;       /* n_in */
    nnl_tensor **saved;   /* n_in inputs, then n_out results; NULL where not saved */
    uint32_t *version;    /* of the saved ones, when saved */
    nnl_layout *layout;   /* n_in inputs, then n_out results */
    nnl_value *attr;
    int16_t *start; /* NULL unless the op takes lists */
    nnl_grad_hook *hooks;
    char *where; /* script line, in anomaly mode */
    size_t where_size;
    /* scratch of a backward walk */
    uint64_t mark;
    bool needed, busy; /* busy: a walk is under way, with gradients in grad */
    nnl_tensor **grad; /* n_out, references */
    nnl_node *next_dead;
};

/* Notes how c->out comes from c->in, in two steps: prepare does all that can fail, commit (or
 * forget) the rest.  write and view are the history of the base of a view that is changed in place.
 */
typedef struct nnl_record {
    nnl_node *node, *write, *view;
} nnl_record;
nnl_status nnl_tape_prepare(nnl_call *c, nnl_record *record);
void nnl_tape_commit(nnl_call *c, nnl_record *record);
void nnl_tape_forget(nnl_runtime *rt, nnl_record *record);
nnl_node *nnl_node_ref(nnl_node *node);
void nnl_node_unref(nnl_runtime *rt, nnl_node *node);
void nnl_node_release(nnl_runtime *rt, nnl_node *node); /* gives up the saved values */
/* Saves what backward reads and is not saved yet: all, or leaves only, which live anyway. */
nnl_status nnl_node_save(const nnl_call *c, nnl_node *node, bool leaves_only);
/* In another mode than NNL_KEEP_ALL: the node of a call, complete but for what that mode leaves
 * out. */
nnl_status nnl_segment_note(const nnl_call *c, nnl_node *node);
/* How many nodes were noted, to go back to when a call fails afterwards. */
int nnl_segment_mark(const nnl_runtime *rt);
void nnl_segment_rewind(nnl_runtime *rt, int mark);
nnl_status nnl_segment_again(nnl_segment *segment);
void nnl_segment_leave(nnl_runtime *rt, nnl_node *node);
/* The history of a view is that of its base, seen through the view: brings it up to date before
 * use. */
nnl_status nnl_tape_refresh(nnl_tensor *t);
bool nnl_tracks(const nnl_tensor *t); /* a gradient can flow to it */

/* Calls hook with each gradient of t; *id is for removal. */
nnl_status nnl_hook_add(nnl_tensor *t, nnl_status (*call)(void *, nnl_tensor *, nnl_tensor **),
                        void (*drop)(void *), void *user, int64_t *id);
void nnl_hook_remove(nnl_tensor *t, int64_t id);

#endif
