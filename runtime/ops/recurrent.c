/* Recurrent layers: plain, GRU and LSTM.  An op is one layer in one direction over a whole sequence; layers are
 * stacked in Lua.  The gates are kept for the way back, which gives their gradients; those of the weights are
 * products over the whole sequence then. */
#include "recurrent.h"

/* ---------------------------------------------------------------- shapes */

static nnl_status wrong_ndim(nnl_call *c, int place, int ndim, const char *wanted)
{
    char text[NNL_NAMED_TEXT];
    if (!c->in[place] || c->in[place]->ndim == ndim) return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE, "%s must be %s", nnl_call_input_text(c, place, text), wanted);
}

/* Checks one input against the sizes that it must have; why says where they come from. */
static nnl_status check_shape(nnl_call *c, int place, int ndim, const int64_t *shape, const char *why)
{
    const nnl_tensor *t = c->in[place];
    char text[NNL_NAMED_TEXT], wanted[NNL_SHAPE_TEXT];
    bool fits = !t || t->ndim == ndim;
    for (int d = 0; t && fits && d < ndim; d++) fits = t->shape[d] == shape[d];
    if (fits) return NNL_OK;
    return nnl_call_fail(c, NNL_ESHAPE, "%s must be %s, %s", nnl_call_input_text(c, place, text),
                         nnl_shape_text(wanted, ndim, shape), why);
}

static nnl_status check_weights(nnl_call *c, int gates, nnl_tensor *w_hr)
{
    const nnl_tensor *x = c->in[NNL_REC_INPUT], *w_hh = c->in[NNL_REC_W_HH];
    char text[NNL_NAMED_TEXT];
    NNL_TRY(wrong_ndim(c, NNL_REC_INPUT, 3, "steps x batch x features"));
    NNL_TRY(wrong_ndim(c, NNL_REC_W_HH, 2, "gates times hidden size x size of the state"));
    if (x->shape[0] == 0)
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have 1 step or more", nnl_call_input_text(c, NNL_REC_INPUT, text));
    int64_t rows = w_hh->shape[0], size = rows / gates;
    if (size == 0 || rows % gates != 0)
        return nnl_call_fail(c, NNL_ESHAPE, "%s must have %s rows for each of its %d gates",
                             nnl_call_input_text(c, NNL_REC_W_HH, text), "1 or more", gates);
    if (w_hr) {
        NNL_TRY(check_shape(c, NNL_REC_W_HR, 2, (int64_t[]){w_hh->shape[1], size}, "size of the state x hidden size"));
    } else if (w_hh->shape[1] != size) {
        return nnl_call_fail(c, NNL_ESHAPE, "%s has %lld columns, but the state has %lld elements",
                             nnl_call_input_text(c, NNL_REC_W_HH, text), (long long)w_hh->shape[1], (long long)size);
    }
    NNL_TRY(check_shape(c, NNL_REC_W_IH, 2, (int64_t[]){rows, x->shape[2]}, "rows of weight_hh x features of input"));
    NNL_TRY(check_shape(c, NNL_REC_B_IH, 1, &rows, "one element for each row of weight_hh"));
    return check_shape(c, NNL_REC_B_HH, 1, &rows, "one element for each row of weight_hh");
}

/* Results: output, h_n, and with an LSTM c_n; then what the way back needs. */
static nnl_status layer_infer(nnl_call *c)
{
    int variant = c->op->variant, gates = nnl_recurrent_gates(variant);
    const nnl_tensor *x = c->in[NNL_REC_INPUT], *w_hh = c->in[NNL_REC_W_HH];
    nnl_dtype dtype = (nnl_dtype)x->dtype;
    NNL_TRY(check_weights(c, gates, variant == NNL_LSTM ? c->in[NNL_REC_W_HR] : NULL));
    int64_t steps = x->shape[0], batch = x->shape[1], size = w_hh->shape[0] / gates, states = w_hh->shape[1];
    const int64_t state[] = {batch, states}, cell[] = {batch, size}, cells[] = {steps, batch, size};
    NNL_TRY(check_shape(c, NNL_REC_H0, 2, state, "batch x size of the state"));
    nnl_spec_set(&c->spec[NNL_REC_OUTPUT], dtype, 3, (int64_t[]){steps, batch, states});
    nnl_spec_set(&c->spec[NNL_REC_H_N], dtype, 2, state);
    if (variant == NNL_RNN) return NNL_OK;
    bool lstm = variant == NNL_LSTM;
    if (lstm) {
        NNL_TRY(check_shape(c, NNL_REC_C0, 2, cell, "batch x hidden size"));
        nnl_spec_set(&c->spec[2], dtype, 2, cell);
    }
    nnl_spec_set(&c->spec[lstm ? 3 : 2], dtype, 3, (int64_t[]){steps, batch, gates * size});
    nnl_spec_set(&c->spec[lstm ? 4 : 3], dtype, 3, cells);
    return NNL_OK;
}

/* ---------------------------------------------------------------- gradients of weights */

static nnl_tensor *narrowed(nnl_scope *s, nnl_tensor *t, int64_t dim, int64_t first, int64_t count)
{
    return DO_WITH(s, narrow, (V_INT(dim), V_INT(first), V_INT(count)), t);
}

/* steps x batch x n as a matrix of all rows. */
static nnl_tensor *all_rows(nnl_scope *s, nnl_tensor *t)
{
    return t ? nnl_reshaped(s, t, 2, (int64_t[]){t->shape[0] * t->shape[1], t->shape[2]}) : NULL;
}

static nnl_tensor *sum_of_rows(nnl_scope *s, nnl_tensor *t)
{
    return DO_WITH(s, sum, (V_INTS(1, (int64_t[]){0}), V_FLAG(false)), t);
}

/* a^T b */
static nnl_tensor *transposed_product(nnl_scope *s, nnl_tensor *a, nnl_tensor *b)
{
    return DO_WITH(s, gemm, (V_FLAG(true), V_FLAG(false)), a, b);
}

/* The gradients of the input and of what meets it, from those of the gates. */
static void input_grads(nnl_grad *g, nnl_tensor *dgates)
{
    nnl_scope *s = g->s;
    const nnl_layout *lx = &g->in_layout[NNL_REC_INPUT];
    nnl_tensor *d = all_rows(s, dgates);
    if (g->needs[NNL_REC_INPUT])
        g->dx[NNL_REC_INPUT] = nnl_reshaped(s, DO(s, gemm, d, g->in[NNL_REC_W_IH]), 3, lx->shape);
    if (g->needs[NNL_REC_W_IH]) g->dx[NNL_REC_W_IH] = transposed_product(s, d, all_rows(s, g->in[NNL_REC_INPUT]));
}

/* The sum over steps of d^T h, h being the state before the step. */
static nnl_tensor *state_product(nnl_grad *g, nnl_tensor *d, bool reverse)
{
    nnl_scope *s = g->s;
    nnl_tensor *output = g->out[NNL_REC_OUTPUT], *h0 = g->in[NNL_REC_H0], *sum = NULL;
    if (!d || !output) return NULL;
    int64_t later = d->shape[0] - 1;
    if (later > 0)
        sum = transposed_product(s, all_rows(s, narrowed(s, d, 0, reverse ? 0 : 1, later)),
                                 all_rows(s, narrowed(s, output, 0, reverse ? 1 : 0, later)));
    if (!h0) return sum ? sum : nnl_full(s, (nnl_dtype)d->dtype, 2, (int64_t[]){d->shape[2], output->shape[2]}, 0);
    nnl_tensor *first = DO_WITH(s, select, (V_INT(0), V_INT(reverse ? later : 0)), d);
    if (!sum) return transposed_product(s, first, h0);
    return DO_WITH(s, addmm, (V_NUM(1), V_NUM(1)), sum, DO_WITH(s, transpose, (V_INT(0), V_INT(1)), first), h0);
}

/* ---------------------------------------------------------------- compositions */

typedef nnl_tensor *step_of(nnl_define *d, nnl_tensor *from_input, nnl_tensor **h, nnl_tensor **c);

/* The state before the first step, or zeros. */
static nnl_tensor *initial(nnl_scope *s, nnl_tensor *given, const nnl_tensor *x, int64_t size)
{
    return given ? given : nnl_full(s, (nnl_dtype)x->dtype, 2, (int64_t[]){x->shape[1], size}, 0);
}

/* n pieces of the columns of t. */
static void pieces(nnl_scope *s, nnl_tensor *t, int n, nnl_tensor **out)
{
    nnl_do_many(s, &nnl_op_chunk, 1, &t, 2, (nnl_value[]){V_INT(n), V_INT(1)}, n, out);
}

/* Applies step to every position of the input, in order or from the end. */
static void define_layer(nnl_define *d, step_of *step, bool reverse, nnl_tensor *c)
{
    nnl_scope *s = d->s;
    const nnl_tensor *x = d->in[NNL_REC_INPUT];
    int64_t steps = x->shape[0];
    nnl_tensor *h = initial(s, d->in[NNL_REC_H0], x, d->in[NNL_REC_W_HH]->shape[1]);
    nnl_tensor *sums = DO(s, linear, d->in[NNL_REC_INPUT], d->in[NNL_REC_W_IH], d->in[NNL_REC_B_IH]);
    size_t bytes = 2 * (size_t)steps * sizeof(nnl_tensor *);
    void *block;
    nnl_status status = nnl_alloc(s->rt, bytes, &block);
    if (status != NNL_OK) {
        nnl_scope_fail(s, status);
        return;
    }
    nnl_tensor **in = block, **out = in + steps;
    nnl_do_many(s, &nnl_op_unbind, 1, &sums, 1, (nnl_value[]){V_INT(0)}, (int)steps, in);
    for (int64_t i = 0; i < steps; i++) {
        int64_t t = reverse ? steps - 1 - i : i;
        out[t] = step(d, in[t], &h, &c);
    }
    d->out[NNL_REC_OUTPUT] = nnl_do(s, &nnl_op_stack, (int)steps, out, 1, &V_INT(0));
    d->out[NNL_REC_H_N] = h;
    if (c) d->out[2] = c;
    nnl_free(s->rt, block, bytes);
}

static nnl_tensor *from_state(nnl_define *d, nnl_tensor *h)
{
    return DO(d->s, linear, h, d->in[NNL_REC_W_HH], d->in[NNL_REC_B_HH]);
}

/* ---------------------------------------------------------------- LSTM */

static nnl_tensor *lstm_step(nnl_define *d, nnl_tensor *from_input, nnl_tensor **h, nnl_tensor **c)
{
    nnl_scope *s = d->s;
    nnl_tensor *gate[4];
    pieces(s, DO(s, add, from_input, from_state(d, *h)), 4, gate);
    nnl_tensor *kept = DO(s, mul, DO(s, sigmoid, gate[1]), *c);
    *c = DO(s, add, kept, DO(s, mul, DO(s, sigmoid, gate[0]), DO(s, tanh, gate[2])));
    *h = DO(s, mul, DO(s, sigmoid, gate[3]), DO(s, tanh, *c));
    if (d->in[NNL_REC_W_HR]) *h = DO(s, linear, *h, d->in[NNL_REC_W_HR]);
    return *h;
}

static void lstm_define(nnl_define *d)
{
    int64_t size = d->in[NNL_REC_W_HH]->shape[0] / 4;
    define_layer(d, lstm_step, d->attr[0].as.i, initial(d->s, d->in[NNL_REC_C0], d->in[NNL_REC_INPUT], size));
}

/* Through the projection h = m W_hr^T, m = o tanh(c). */
static nnl_tensor *projection_grad(nnl_grad *g, nnl_tensor *dh)
{
    nnl_scope *s = g->s;
    const nnl_tensor *cells = g->out[4];
    if (!cells) return NULL;
    int64_t size = cells->shape[2];
    nnl_tensor *m = DO(s, mul, narrowed(s, g->out[3], 2, 3 * size, size), DO(s, tanh, g->out[4]));
    return transposed_product(s, all_rows(s, dh), all_rows(s, m));
}

static void lstm_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    bool reverse = g->attr[0].as.i;
    nnl_tensor *in[] = {g->dy[0], g->dy[1], g->dy[2], g->out[3], g->out[4], g->in[NNL_REC_W_HH], g->in[NNL_REC_C0],
                        g->in[NNL_REC_W_HR]};
    nnl_tensor *out[4];
    nnl_do_many(s, &nnl_op_lstm_layer_backward, NNL_COUNT(in), in, 2,
                (nnl_value[]){V_FLAG(reverse), V_FLAG(g->needs[NNL_REC_H0])}, 4, out);
    nnl_tensor *dgates = out[0];
    input_grads(g, dgates);
    if (g->needs[NNL_REC_W_HH]) g->dx[NNL_REC_W_HH] = state_product(g, dgates, reverse);
    if (g->needs[NNL_REC_B_IH] || g->needs[NNL_REC_B_HH])
        g->dx[NNL_REC_B_IH] = g->dx[NNL_REC_B_HH] = sum_of_rows(s, all_rows(s, dgates));
    g->dx[NNL_REC_H0] = out[1];
    g->dx[NNL_REC_C0] = out[2];
    if (g->needs[NNL_REC_W_HR]) g->dx[NNL_REC_W_HR] = projection_grad(g, out[3]);
}

NNL_OP(lstm_layer,
    .sig = "input:float, weight_ih:float, weight_hh:float, bias_ih:float?, bias_hh:float?, h0:float?, c0:float?, "
           "weight_hr:float?, reverse:flag=false -> output:same, h_n:same, c_n:same, gates:same!, cells:same!",
    .doc = "One layer of an LSTM over input, steps x batch x features, from the end if reverse: i, f, g, o = the four parts of "
           "weight_ih x + bias_ih + weight_hh h + bias_hh; c = sigmoid(f) c + sigmoid(i) tanh(g); h = sigmoid(o) tanh(c), times "
           "weight_hr if given.  output: h of every step; h_n and c_n: of the last one.  h0 and c0 are zeros if absent.  "
           "Hochreiter and Schmidhuber, Neural Computation 9 (1997).",
    .example = "nn.F.lstm_layer(nn.ones(5, 2, 3), nn.ones(16, 3), nn.ones(16, 4))",
    .infer = layer_infer,
    .run = nnl_recurrent_run,
    .variant = NNL_LSTM,
    .grad = lstm_grad,
    .define = lstm_define,
    .saves = NNL_SAVE_INPUTS | NNL_SAVE_OUTPUT(0) | NNL_SAVE_OUTPUT(3) | NNL_SAVE_OUTPUT(4),
    .sample = "input:3x4x3 weight_ih:16x3[-1,1] weight_hh:16x4[-1,1] bias_ih:16 bias_hh:16 h0:4x4 c0:4x4; "
              "input:3x1x2 weight_ih:4x2 weight_hh:4x1 reverse=true; "
              "input:3x3x2 weight_ih:12x2[-1,1] weight_hh:12x2[-1,1] bias_ih:12 h0:3x2 c0:3x3 weight_hr:2x3 reverse=true; "
              "input:2x2x3 weight_ih:8x3 weight_hh:8x1 weight_hr:1x2; "
              "input:1x3x2 weight_ih:8x2 weight_hh:8x2 bias_hh:8",
    .traits = NNL_PROMOTE | NNL_NO_METHOD);

static nnl_status lstm_backward_infer(nnl_call *c)
{
    const nnl_tensor *w_hh = c->in[5], *w_hr = c->in[7];
    int64_t steps = c->in[4]->shape[0], batch = c->in[4]->shape[1];
    nnl_dtype dtype = (nnl_dtype)w_hh->dtype;
    nnl_spec_like(&c->spec[0], c->in[3]);
    nnl_spec_set(&c->spec[1], dtype, 2, (int64_t[]){batch, w_hh->shape[1]});
    nnl_spec_set(&c->spec[2], dtype, 2, (int64_t[]){batch, w_hh->shape[0] / 4});
    nnl_spec_set(&c->spec[3], dtype, 3, (int64_t[]){steps, batch, w_hh->shape[1]});
    return nnl_call_results(c, w_hr ? 4 : 3);
}

NNL_OP(lstm_layer_backward,
    .sig = "dy:float?, dh_n:float?, dc_n:float?, gates:float, cells:float, weight_hh:float, c0:float?, weight_hr:float?, "
           "reverse:flag, initial:flag -> dgates:same, dh0:same, dc0:same, dh:same",
    .doc = "Gradients of lstm_layer: of the gates before their activations, of c0, of h0 if initial, and with weight_hr of "
           "output through all steps after it.",
    .infer = lstm_backward_infer,
    .run = nnl_lstm_backward_run,
    NNL_NO_GRAD("second derivatives go by the composition"),
    .traits = NNL_HIDDEN);

/* ---------------------------------------------------------------- GRU */

static nnl_tensor *gru_step(nnl_define *d, nnl_tensor *from_input, nnl_tensor **h, nnl_tensor **c)
{
    nnl_scope *s = d->s;
    nnl_tensor *x[3], *y[3];
    (void)c;
    pieces(s, from_input, 3, x);
    pieces(s, from_state(d, *h), 3, y);
    nnl_tensor *reset = DO(s, sigmoid, DO(s, add, x[0], y[0])), *update = DO(s, sigmoid, DO(s, add, x[1], y[1]));
    nnl_tensor *fresh = DO(s, tanh, DO(s, add, x[2], DO(s, mul, reset, y[2])));
    *h = DO(s, add, fresh, DO(s, mul, update, DO(s, sub, *h, fresh)));
    return *h;
}

static void gru_define(nnl_define *d) { define_layer(d, gru_step, d->attr[0].as.i, NULL); }

static nnl_tensor *joined(nnl_scope *s, nnl_tensor *a, nnl_tensor *b)
{
    return nnl_do(s, &nnl_op_cat, 2, (nnl_tensor *[]){a, b}, 1, &V_INT(0));
}

/* n's part from the state is multiplied by r: its gradient is another one than that of the part from the input. */
static void gru_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    bool reverse = g->attr[0].as.i;
    nnl_tensor *in[] = {g->dy[0], g->dy[1], g->out[2], g->out[3], g->out[0], g->in[NNL_REC_W_HH], g->in[NNL_REC_H0]};
    nnl_tensor *out[3];
    nnl_do_many(s, &nnl_op_gru_layer_backward, NNL_COUNT(in), in, 2,
                (nnl_value[]){V_FLAG(reverse), V_FLAG(g->needs[NNL_REC_H0])}, 3, out);
    nnl_tensor *dgates = out[0], *drecurrent = out[1];
    if (s->status != NNL_OK) return;
    int64_t both = 2 * drecurrent->shape[2];
    input_grads(g, dgates);
    if (g->needs[NNL_REC_W_HH])
        g->dx[NNL_REC_W_HH] = joined(s, state_product(g, narrowed(s, dgates, 2, 0, both), reverse),
                                     state_product(g, drecurrent, reverse));
    if (g->needs[NNL_REC_B_IH] || g->needs[NNL_REC_B_HH]) g->dx[NNL_REC_B_IH] = sum_of_rows(s, all_rows(s, dgates));
    if (g->needs[NNL_REC_B_HH])
        g->dx[NNL_REC_B_HH] = joined(s, narrowed(s, g->dx[NNL_REC_B_IH], 0, 0, both), sum_of_rows(s, all_rows(s, drecurrent)));
    g->dx[NNL_REC_H0] = out[2];
}

NNL_OP(gru_layer,
    .sig = "input:float, weight_ih:float, weight_hh:float, bias_ih:float?, bias_hh:float?, h0:float?, reverse:flag=false "
           "-> output:same, h_n:same, gates:same!, recurrent:same!",
    .doc = "One layer of a GRU over input, steps x batch x features, from the end if reverse: with the three parts a of "
           "weight_ih x + bias_ih and b of weight_hh h + bias_hh, r = sigmoid(a1 + b1), z = sigmoid(a2 + b2), "
           "n = tanh(a3 + r b3); h = (1 - z) n + z h.  output: h of every step; h_n: of the last one.  h0 is zeros if absent.  "
           "Cho et al., arXiv:1406.1078.",
    .example = "nn.F.gru_layer(nn.ones(5, 2, 3), nn.ones(12, 3), nn.ones(12, 4))",
    .infer = layer_infer,
    .run = nnl_recurrent_run,
    .variant = NNL_GRU,
    .grad = gru_grad,
    .define = gru_define,
    .saves = NNL_SAVE_INPUTS | NNL_SAVE_OUTPUT(0) | NNL_SAVE_OUTPUT(2) | NNL_SAVE_OUTPUT(3),
    .sample = "input:3x4x3 weight_ih:12x3[-1,1] weight_hh:12x4[-1,1] bias_ih:12 bias_hh:12 h0:4x4; "
              "input:3x1x2 weight_ih:3x2 weight_hh:3x1 reverse=true; "
              "input:2x2x3 weight_ih:6x3 weight_hh:6x2 bias_hh:6 h0:2x2 reverse=true; "
              "input:1x3x2 weight_ih:6x2 weight_hh:6x2 bias_ih:6",
    .traits = NNL_PROMOTE | NNL_NO_METHOD);

static nnl_status gru_backward_infer(nnl_call *c)
{
    nnl_spec_like(&c->spec[0], c->in[2]);
    nnl_spec_like(&c->spec[1], c->in[3]);
    nnl_spec_set(&c->spec[2], (nnl_dtype)c->in[3]->dtype, 2, c->in[3]->shape + 1);
    return NNL_OK;
}

NNL_OP(gru_layer_backward,
    .sig = "dy:float?, dh_n:float?, gates:float, recurrent:float, output:float, weight_hh:float, h0:float?, reverse:flag, "
           "initial:flag -> dgates:same, drecurrent:same, dh0:same",
    .doc = "Gradients of gru_layer: of the gates before their activations, of what comes from the state in n, and of h0 if "
           "initial.",
    .infer = gru_backward_infer,
    .run = nnl_gru_backward_run,
    NNL_NO_GRAD("second derivatives go by the composition"),
    .traits = NNL_HIDDEN);

/* ---------------------------------------------------------------- plain */

static nnl_tensor *rnn_step(nnl_define *d, nnl_tensor *from_input, nnl_tensor **h, nnl_tensor **c)
{
    nnl_scope *s = d->s;
    (void)c;
    nnl_tensor *sum = DO(s, add, from_input, from_state(d, *h));
    return *h = d->attr[0].as.i ? DO(s, relu, sum) : DO(s, tanh, sum);
}

static void rnn_define(nnl_define *d) { define_layer(d, rnn_step, d->attr[1].as.i, NULL); }

static void rnn_grad(nnl_grad *g)
{
    nnl_scope *s = g->s;
    bool reverse = g->attr[1].as.i;
    nnl_tensor *in[] = {g->dy[0], g->dy[1], g->out[0], g->in[NNL_REC_W_HH]}, *out[2];
    nnl_do_many(s, &nnl_op_rnn_layer_backward, NNL_COUNT(in), in, 3,
                (nnl_value[]){g->attr[0], V_FLAG(reverse), V_FLAG(g->needs[NNL_REC_H0])}, 2, out);
    input_grads(g, out[0]);
    if (g->needs[NNL_REC_W_HH]) g->dx[NNL_REC_W_HH] = state_product(g, out[0], reverse);
    if (g->needs[NNL_REC_B_IH] || g->needs[NNL_REC_B_HH])
        g->dx[NNL_REC_B_IH] = g->dx[NNL_REC_B_HH] = sum_of_rows(s, all_rows(s, out[0]));
    g->dx[NNL_REC_H0] = out[1];
}

NNL_OP(rnn_layer,
    .sig = "input:float, weight_ih:float, weight_hh:float, bias_ih:float?, bias_hh:float?, h0:float?, "
           "nonlinearity:{tanh|relu}=tanh, reverse:flag=false -> output:same, h_n:same",
    .doc = "One layer of an Elman network over input, steps x batch x features, from the end if reverse: "
           "h = tanh(weight_ih x + bias_ih + weight_hh h + bias_hh), or max(0, ..).  output: h of every step; h_n: of the last "
           "one.  h0 is zeros if absent.",
    .example = "nn.F.rnn_layer(nn.ones(5, 2, 3), nn.ones(4, 3), nn.ones(4, 4))",
    .infer = layer_infer,
    .run = nnl_recurrent_run,
    .variant = NNL_RNN,
    .grad = rnn_grad,
    .define = rnn_define,
    .saves = NNL_SAVE_INPUTS | NNL_SAVE_OUTPUT(0),
    .sample = "input:3x4x3 weight_ih:4x3[-1,1] weight_hh:4x4[-1,1] bias_ih:4 bias_hh:4 h0:4x4; "
              "input:3x1x2 weight_ih:1x2 weight_hh:1x1 reverse=true; "
              "input:2x2x3[0.1,1] weight_ih:2x3[0.1,1] weight_hh:2x2[0.1,1] bias_hh:2[0.1,1] h0:2x2[0.1,1] nonlinearity=\"relu\" reverse=true; "
              "input:1x3x2 weight_ih:2x2 weight_hh:2x2 bias_ih:2",
    .traits = NNL_PROMOTE | NNL_NO_METHOD);

static nnl_status rnn_backward_infer(nnl_call *c)
{
    nnl_spec_like(&c->spec[0], c->in[2]);
    nnl_spec_set(&c->spec[1], (nnl_dtype)c->in[2]->dtype, 2, c->in[2]->shape + 1);
    return NNL_OK;
}

NNL_OP(rnn_layer_backward,
    .sig = "dy:float?, dh_n:float?, output:float, weight_hh:float, nonlinearity:{tanh|relu}, reverse:flag, initial:flag "
           "-> dgates:same, dh0:same",
    .doc = "Gradients of rnn_layer: of the sums before the nonlinearity, and of h0 if initial.",
    .infer = rnn_backward_infer,
    .run = nnl_rnn_backward_run,
    NNL_NO_GRAD("second derivatives go by the composition"),
    .traits = NNL_HIDDEN);
