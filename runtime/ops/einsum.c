/* Einstein summation, as a sequence of matrix products. */
#include "op.h"

#include <stdarg.h>
#include <string.h>

#define MAX_OPERANDS 16
#define LETTERS 64

/* Labels are letters, and digits from '0' for the dimensions of an ellipsis, counted from its last one. */
typedef struct term {
    int count;
    char label[NNL_MAX_DIMS];
    nnl_tensor *t;
} term;

typedef struct equation {
    nnl_scope *s;
    int terms;
    term term[MAX_OPERANDS], out;
    int64_t size[128]; /* of each label, 0: not met */
    bool explicit_out;
} equation;

static nnl_tensor *fail(equation *e, const char *format, ...) NNL_PRINTF(2, 3);
static nnl_tensor *fail(equation *e, const char *format, ...)
{
    char text[NNL_MESSAGE_SIZE];
    va_list list;
    va_start(list, format);
    nnl_format_list(text, sizeof text, format, list);
    va_end(list);
    nnl_scope_fail(e->s, NNL_FAIL(e->s->rt, NNL_EINVAL, "einsum: %s", text));
    return NULL;
}

static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/* Reads the labels of one term; ellipsis dimensions fill it up to ndim. */
static const char *read_term(equation *e, const char *text, term *out, int ndim)
{
    int letters = 0;
    for (const char *c = text; *c && *c != ',' && *c != '-'; c++) letters += is_letter(*c);
    out->count = 0;
    bool ellipsis = false;
    for (; *text && *text != ',' && *text != '-'; text++) {
        if (*text == ' ') continue;
        if (out->count >= NNL_MAX_DIMS) {
            fail(e, "a term has more than %d labels", NNL_MAX_DIMS);
            return NULL;
        }
        if (is_letter(*text)) {
            out->label[out->count++] = *text;
        } else if (strncmp(text, "...", 3) == 0 && !ellipsis) {
            ellipsis = true;
            for (int d = ndim - letters - 1; d >= 0 && out->count < NNL_MAX_DIMS; d--) out->label[out->count++] = (char)('0' + d);
            text += 2;
        } else {
            fail(e, "the equation has an unexpected '%c'", *text);
            return NULL;
        }
    }
    return text;
}

static bool holds(const term *t, char label) { return memchr(t->label, label, (size_t)t->count) != NULL; }

static int64_t size_of(const term *t, char label)
{
    const char *place = memchr(t->label, label, (size_t)t->count);
    return t->t ? t->t->shape[place - t->label] : 1;
}

/* A label twice in a term means its diagonal. */
static void take_diagonals(equation *e, term *t)
{
    for (int i = 0; i < t->count; i++) {
        for (int j = i + 1; j < t->count; j++) {
            if (t->label[i] != t->label[j] || !t->t) continue;
            t->t = DO_WITH(e->s, diagonal, (V_INT(0), V_INT(i), V_INT(j)), t->t);
            char label = t->label[i];
            memmove(t->label + j, t->label + j + 1, (size_t)(t->count - j - 1));
            memmove(t->label + i, t->label + i + 1, (size_t)(t->count - i - 1));
            t->count--;
            t->label[t->count - 1] = label;
            take_diagonals(e, t);
            return;
        }
    }
}

static bool needed_later(const equation *e, int from, char label)
{
    for (int i = from; i < e->terms; i++) {
        if (holds(&e->term[i], label)) return true;
    }
    return holds(&e->out, label);
}

/* Sums away what occurs in this term alone. */
static void sum_alone(equation *e, term *t, const term *partner, int from)
{
    int64_t dims[NNL_MAX_DIMS];
    int count = 0, kept = 0;
    for (int i = 0; i < t->count; i++) {
        char label = t->label[i];
        if ((partner && holds(partner, label)) || needed_later(e, from, label)) t->label[kept++] = label;
        else dims[count++] = i;
    }
    t->count = kept;
    if (count > 0) t->t = DO_WITH(e->s, sum, (V_INTS(count, dims), V_FLAG(false)), t->t);
}

/* t with its dimensions in the order of labels, those of each group joined into one. */
static nnl_tensor *grouped(equation *e, const term *t, const char *labels, const int group[3])
{
    int64_t dims[NNL_MAX_DIMS], shape[3];
    int at = 0;
    for (int g = 0; g < 3; g++) {
        shape[g] = 1;
        for (int i = 0; i < group[g]; i++, at++) {
            const char *place = memchr(t->label, labels[at], (size_t)t->count);
            dims[at] = place - t->label;
            shape[g] *= t->t ? t->t->shape[dims[at]] : 1;
        }
    }
    nnl_tensor *permuted = DO_WITH(e->s, permute, (V_INTS(t->count, dims)), t->t);
    return nnl_reshaped(e->s, permuted, 3, shape);
}

/* Brings broadcast dimensions of size 1 to the label's size, where the partner has it too. */
static void widen(equation *e, term *t, const term *partner)
{
    int64_t shape[NNL_MAX_DIMS];
    bool grows = false;
    if (!t->t) return;
    for (int i = 0; i < t->count; i++) {
        shape[i] = t->t->shape[i];
        if (holds(partner, t->label[i]) && shape[i] != e->size[(int)t->label[i]]) {
            shape[i] = e->size[(int)t->label[i]];
            grows = true;
        }
    }
    if (grows) t->t = nnl_expanded(e->s, t->t, t->count, shape);
}

/* a and b become one term: a stack of matrix products over the labels that go away. */
static void contract(equation *e, term *a, term *b, int from)
{
    sum_alone(e, a, b, from);
    sum_alone(e, b, a, from);
    widen(e, a, b);
    widen(e, b, a);
    if (e->s->status != NNL_OK) return;
    char batch[LETTERS], rows[LETTERS], columns[LETTERS], inner[LETTERS], labels[LETTERS];
    int n_batch = 0, n_rows = 0, n_columns = 0, n_inner = 0;
    for (int i = 0; i < a->count; i++) {
        char label = a->label[i];
        if (!holds(b, label)) rows[n_rows++] = label;
        else if (needed_later(e, from, label)) batch[n_batch++] = label;
        else inner[n_inner++] = label;
    }
    for (int i = 0; i < b->count; i++) {
        if (!holds(a, b->label[i])) columns[n_columns++] = b->label[i];
    }
    int result = n_batch + n_rows + n_columns;
    if (result > NNL_MAX_DIMS) {
        fail(e, "an intermediate result has more than %d dimensions", NNL_MAX_DIMS);
        return;
    }
    memcpy(labels, batch, (size_t)n_batch);
    memcpy(labels + n_batch, rows, (size_t)n_rows);
    memcpy(labels + n_batch + n_rows, inner, (size_t)n_inner);
    nnl_tensor *left = grouped(e, a, labels, (int[]){n_batch, n_rows, n_inner});
    memcpy(labels + n_batch, inner, (size_t)n_inner);
    memcpy(labels + n_batch + n_inner, columns, (size_t)n_columns);
    nnl_tensor *right = grouped(e, b, labels, (int[]){n_batch, n_inner, n_columns});
    /* A size may be 1 still, where a later term has the label's own. */
    term product = {.t = DO(e->s, bmm, left, right)};
    int64_t shape[NNL_MAX_DIMS];
    const struct {
        const term *from;
        const char *labels;
        int count;
    } groups[] = {{a, batch, n_batch}, {a, rows, n_rows}, {b, columns, n_columns}};
    for (int g = 0; g < 3; g++) {
        for (int i = 0; i < groups[g].count; i++) {
            shape[product.count] = size_of(groups[g].from, groups[g].labels[i]);
            product.label[product.count++] = groups[g].labels[i];
        }
    }
    product.t = nnl_reshaped(e->s, product.t, product.count, shape);
    *a = product;
}

static nnl_status read_equation(equation *e, const char *text, int n_in, nnl_tensor *const *in)
{
    nnl_runtime *rt = e->s->rt;
    const char *at = text;
    if (n_in == 0 || n_in > MAX_OPERANDS) return NNL_FAIL(rt, NNL_EINVAL, "einsum: 1 to %d operands are possible", MAX_OPERANDS);
    for (e->terms = 0;; at++) {
        if (e->terms == n_in) return NNL_FAIL(rt, NNL_EINVAL, "einsum: the equation has more terms than the %d operands", n_in);
        term *t = &e->term[e->terms];
        t->t = in[e->terms];
        at = read_term(e, at, t, t->t->ndim);
        if (!at) return NNL_EINVAL;
        e->terms++;
        char shape[NNL_SHAPE_TEXT];
        if (t->count != t->t->ndim)
            return NNL_FAIL(rt, NNL_ESHAPE, "einsum: term %d has %d labels, but operand %d is %s", e->terms, t->count, e->terms,
                            nnl_shape_text(shape, t->t->ndim, t->t->shape));
        for (int i = 0; i < t->count; i++) {
            int64_t *size = &e->size[(int)t->label[i]], here = t->t->shape[i];
            if (*size == -1 || *size == 1) *size = here;
            else if (here != *size && here != 1)
                return NNL_FAIL(rt, NNL_ESHAPE, "einsum: label '%c' is %lld in one operand and %lld in operand %d", t->label[i],
                                (long long)*size, (long long)here, e->terms);
        }
        if (*at != ',') break;
    }
    if (e->terms != n_in) return NNL_FAIL(rt, NNL_EINVAL, "einsum: the equation has %d terms, but there are %d operands", e->terms, n_in);
    if (strncmp(at, "->", 2) == 0) {
        int dots = 0;
        for (int label = '0'; label <= '9'; label++) dots += e->size[label] != -1;
        int letters = 0;
        for (const char *c = at + 2; *c; c++) letters += is_letter(*c);
        if (!read_term(e, at + 2, &e->out, letters + dots)) return NNL_EINVAL;
        for (int i = 0; i < e->out.count; i++) {
            if (e->size[(int)e->out.label[i]] == -1)
                return NNL_FAIL(rt, NNL_EINVAL, "einsum: label '%c' of the result is in no operand", e->out.label[i]);
            if (memchr(e->out.label, e->out.label[i], (size_t)i))
                return NNL_FAIL(rt, NNL_EINVAL, "einsum: label '%c' is twice in the result", e->out.label[i]);
        }
        return NNL_OK;
    }
    /* Without an arrow: the ellipsis, then the labels that occur once, in alphabetical order. */
    e->out.count = 0;
    for (int label = '9'; label >= '0'; label--) {
        if (e->size[label] != -1 && e->out.count < NNL_MAX_DIMS) e->out.label[e->out.count++] = (char)label;
    }
    for (int label = 'A'; label <= 'z'; label++) {
        int times = 0;
        for (int i = 0; i < e->terms; i++) {
            for (int j = 0; j < e->term[i].count; j++) times += e->term[i].label[j] == label;
        }
        if (times == 1 && e->out.count < NNL_MAX_DIMS) e->out.label[e->out.count++] = (char)label;
    }
    return NNL_OK;
}

static void einsum_define(nnl_define *d)
{
    equation e = {.s = d->s};
    for (int i = 0; i < 128; i++) e.size[i] = -1;
    nnl_status status = read_equation(&e, d->attr[0].as.s, d->n_in, d->in);
    if (status != NNL_OK) {
        nnl_scope_fail(d->s, status);
        return;
    }
    for (int i = 0; i < e.terms; i++) take_diagonals(&e, &e.term[i]);
    term *result = &e.term[0];
    for (int i = 1; i < e.terms; i++) contract(&e, result, &e.term[i], i + 1);
    sum_alone(&e, result, NULL, e.terms);
    int64_t dims[NNL_MAX_DIMS];
    for (int i = 0; i < e.out.count; i++) {
        const char *place = memchr(result->label, e.out.label[i], (size_t)result->count);
        dims[i] = place ? place - result->label : 0;
    }
    d->out[0] = result->t ? DO_WITH(d->s, permute, (V_INTS(e.out.count, dims)), result->t) : NULL;
}

NNL_OP(einsum,
    .sig = "equation:string, operands:number... -> same",
    .doc = "Einstein summation: every label of the equation names a dimension; labels that are not in the result are summed "
           "over.  \"...\" stands for any dimensions, a label twice in a term for the diagonal.  Operands are contracted from "
           "left to right.",
    .example = "nn.einsum(\"ij,jk->ik\", nn.ones(2, 3), nn.ones(3, 4))",
    .define = einsum_define,
    .sample = "equation=\"ij,jk->ik\" operands:3x4+4x2; equation=\"bij,bjk\" operands:2x3x4+2x4x2; "
              "equation=\"i,j->ij\" operands:3+4; equation=\"ii\" operands:3x3; equation=\"...ij->...ji\" operands:2x3x4; "
              "equation=\"ij,ij,jk->k\" operands:3x4+3x4+4x2",
    .traits = NNL_PROMOTE);
