/* The kernels of recurrent.c for one type: T the element, V its vector, T_() and V_() names for
 * them. Included twice, hence without a guard. */

/* n lanes of an array at its tile's row r, column j; `whole`: n is all of them. */
VEC_INLINE V T_(at)(const void *array, int64_t place, int64_t n, bool whole)
{
    const T *from = (const T *)array + place;
    return whole ? V_(load)(from) : V_(load_n)(from, n);
}

VEC_INLINE void T_(put)(void *array, int64_t place, V x, int64_t n, bool whole)
{
    T *to = (T *)array + place;
    if (whole)
        V_(store)(to, x);
    else
        V_(store_n)(to, x, n);
}

#define READ(array, place) T_(at)(t->array, place, n, whole)
#define WRITE(array, place, x) T_(put)(t->array, place, x, n, whole)
#define ONE V_(set1)(1)

/* The kernel that calls name_at(t, r, j, n, whole) for vectors of columns of every row. */
#define BY_VECTORS(name)                                                                     \
    static void T_(name)(const nnl_recurrent_tile *t)                                        \
    {                                                                                        \
        for (int64_t r = 0; r < t->rows; r++) {                                              \
            int64_t j = 0;                                                                   \
            for (; j + LANES <= t->columns; j += LANES) T_(name##_at)(t, r, j, LANES, true); \
            if (j < t->columns) T_(name##_at)(t, r, j, t->columns - j, false);               \
        }                                                                                    \
    }

/* The gradient of h at a place: through this step's result and through later steps. */
VEC_INLINE V T_(state_grad)(const nnl_recurrent_tile *t, int64_t r, int64_t j, int64_t n,
                            bool whole)
{
    V dh = READ(dstate, r * t->size + j);
    return t->dy ? dh + READ(dy, r * t->dy_row + j) : dh;
}

/* x (1 - x) dy and (1 - x^2) dy: through the logistic function and tanh, x being what they gave. */
VEC_INLINE V T_(through_sigmoid)(V x, V dy) { return dy * (x * (ONE - x)); }
VEC_INLINE V T_(through_tanh)(V x, V dy) { return dy * V_(fnma)(x, x, ONE); }

/* ---------------------------------------------------------------- LSTM */

/* c = f c' + i g, h = o tanh(c) */
VEC_INLINE void T_(lstm_step_at)(const nnl_recurrent_tile *t, int64_t r, int64_t j, int64_t n,
                                 const bool whole)
{
    const int64_t at = r * t->size + j, gate = 4 * r * t->size + j;
    V i = V_(sigmoid)(READ(gates, gate)), f = V_(sigmoid)(READ(gates, gate + t->size));
    V g = V_(tanh)(READ(gates, gate + 2 * t->size));
    V o = V_(sigmoid)(READ(gates, gate + 3 * t->size));
    V c = V_(fma)(f, READ(cell_before, at), i * g);
    WRITE(gates, gate, i);
    WRITE(gates, gate + t->size, f);
    WRITE(gates, gate + 2 * t->size, g);
    WRITE(gates, gate + 3 * t->size, o);
    WRITE(cell, at, c);
    WRITE(state, at, o * V_(tanh)(c));
}
BY_VECTORS(lstm_step)

VEC_INLINE void T_(lstm_back_at)(const nnl_recurrent_tile *t, int64_t r, int64_t j, int64_t n,
                                 const bool whole)
{
    const int64_t at = r * t->size + j, gate = 4 * r * t->size + j;
    V i = READ(gates, gate), f = READ(gates, gate + t->size);
    V g = READ(gates, gate + 2 * t->size), o = READ(gates, gate + 3 * t->size);
    V dh = T_(state_grad)(t, r, j, n, whole), squashed = V_(tanh)(READ(cell, at));
    V dc = READ(dcell, at) + T_(through_tanh)(squashed, dh * o);
    WRITE(dgates, gate, T_(through_sigmoid)(i, dc * g));
    WRITE(dgates, gate + t->size, T_(through_sigmoid)(f, dc * READ(cell_before, at)));
    WRITE(dgates, gate + 2 * t->size, T_(through_tanh)(g, dc * i));
    WRITE(dgates, gate + 3 * t->size, T_(through_sigmoid)(o, dh * squashed));
    WRITE(dcell, at, dc * f);
}
BY_VECTORS(lstm_back)

/* ---------------------------------------------------------------- GRU */

/* n = tanh(.. + r (W_hn h' + b_hn)), h = (1 - z) n + z h' */
VEC_INLINE void T_(gru_step_at)(const nnl_recurrent_tile *t, int64_t r, int64_t j, int64_t n,
                                const bool whole)
{
    const int64_t at = r * t->size + j, gate = 3 * r * t->size + j;
    V reset = V_(sigmoid)(READ(gates, gate)), update = V_(sigmoid)(READ(gates, gate + t->size));
    V fresh = V_(tanh)(V_(fma)(reset, READ(recurrent, at), READ(gates, gate + 2 * t->size)));
    WRITE(gates, gate, reset);
    WRITE(gates, gate + t->size, update);
    WRITE(gates, gate + 2 * t->size, fresh);
    WRITE(state, at, V_(fma)(update, READ(state_before, at) - fresh, fresh));
}
BY_VECTORS(gru_step)

VEC_INLINE void T_(gru_back_at)(const nnl_recurrent_tile *t, int64_t r, int64_t j, int64_t n,
                                const bool whole)
{
    const int64_t at = r * t->size + j, gate = 3 * r * t->size + j;
    V reset = READ(gates, gate), update = READ(gates, gate + t->size);
    V fresh = READ(gates, gate + 2 * t->size), dh = T_(state_grad)(t, r, j, n, whole);
    V dfresh = T_(through_tanh)(fresh, dh * (ONE - update));
    WRITE(dgates, gate, T_(through_sigmoid)(reset, dfresh * READ(recurrent, at)));
    WRITE(dgates, gate + t->size,
          T_(through_sigmoid)(update, dh * (READ(state_before, at) - fresh)));
    WRITE(dgates, gate + 2 * t->size, dfresh);
    WRITE(drecurrent, at, dfresh * reset);
    WRITE(dstate, at, dh * update);
}
BY_VECTORS(gru_back)

/* ---------------------------------------------------------------- RNN */

VEC_INLINE void T_(rnn_step_at)(const nnl_recurrent_tile *t, int64_t r, int64_t j, int64_t n,
                                const bool whole)
{
    const int64_t at = r * t->size + j;
    V x = READ(gates, at);
    WRITE(gates, at, t->relu ? V_(max)(V_(zero)(), x) : V_(tanh)(x));
}
BY_VECTORS(rnn_step)

VEC_INLINE void T_(rnn_back_at)(const nnl_recurrent_tile *t, int64_t r, int64_t j, int64_t n,
                                const bool whole)
{
    const int64_t at = r * t->size + j;
    V h = READ(gates, at), dh = T_(state_grad)(t, r, j, n, whole);
    V through =
        t->relu ? V_(select)(V_(gt)(h, V_(zero)()), dh, V_(zero)()) : T_(through_tanh)(h, dh);
    WRITE(dgates, at, through);
}
BY_VECTORS(rnn_back)

#undef READ
#undef WRITE
#undef ONE
#undef BY_VECTORS
