/* Tensors as text: shape and type, then aligned values, elided in the middle when there are many.
 */
#include "tensor.h"

#include <math.h>
#include <string.h>

#define EDGE \
    3 /* rows and columns shown at either end of a long dimension, fewer when that is too much */
#define FULL 1000   /* up to so many elements everything is shown */
#define COLUMNS 100 /* a line's length */

typedef struct text {
    char *buffer;
    size_t size, length;
} text;

static void add(text *out, const char *piece)
{
    size_t n = strlen(piece);
    if (out->length + n < out->size)
        memcpy(out->buffer + out->length, piece, n + 1);
    else if (out->length < out->size)
        out->buffer[out->length] = 0;
    out->length += n;
}

static void add_spaces(text *out, int count)
{
    while (count-- > 0) add(out, " ");
}

/* How numbers are written: all alike, so that columns align. */
typedef struct style {
    bool integers; /* floats without a fraction, too */
    bool exponent;
    int digits; /* behind the point */
    int width;
} style;

static void element_text(const nnl_tensor *t, int64_t offset, const style *s, char piece[48])
{
    if (t->dtype == NNL_BOOL) {
        nnl_format(piece, 48, "%s", nnl_element_int(t, offset) ? "true" : "false");
    } else if (!nnl_is_float((nnl_dtype)t->dtype)) {
        nnl_format(piece, 48, "%lld", (long long)nnl_element_int(t, offset));
    } else {
        double value = nnl_element_double(t, offset);
        if (!isfinite(value))
            nnl_format(piece, 48, "%s", value != value ? "nan" : value > 0 ? "inf" : "-inf");
        else if (s->exponent)
            nnl_format(piece, 48, "%.*e", s->digits, value);
        else if (s->integers)
            nnl_format(piece, 48, "%.0f.", value);
        else
            nnl_format(piece, 48, "%.*f", s->digits, value);
    }
}

/* How much is shown at either end of each dimension; 0: everything. */
static int choose_edge(const nnl_tensor *t)
{
    int64_t shown = t->numel;
    if (shown <= FULL) return 0;
    for (int edge = EDGE;; edge--) {
        shown = 1;
        for (int d = 0; d < t->ndim; d++) shown *= NNL_MIN(t->shape[d], 2 * edge);
        if (shown <= FULL || edge == 1) return edge;
    }
}

/* Visits what will be shown. */
static void visit(const nnl_tensor *t, int dim, int64_t offset, int edge,
                  void (*see)(void *context, const nnl_tensor *t, int64_t offset), void *context)
{
    if (dim == t->ndim) {
        see(context, t, offset);
        return;
    }
    for (int64_t i = 0; i < t->shape[dim]; i++) {
        if (edge && i == edge && t->shape[dim] > 2 * edge) i = t->shape[dim] - edge;
        visit(t, dim + 1, offset + i * t->strides[dim], edge, see, context);
    }
}

typedef struct range {
    bool fraction;
    double largest, smallest; /* magnitudes of finite values, smallest apart from 0 */
} range;

static void see_range(void *context, const nnl_tensor *t, int64_t offset)
{
    range *r = context;
    double value = fabs(nnl_element_double(t, offset));
    if (!isfinite(value)) return;
    if (value != floor(value)) r->fraction = true;
    if (value > r->largest) r->largest = value;
    if (value > 0 && value < r->smallest) r->smallest = value;
}

typedef struct widest {
    const style *s;
    int width;
} widest;

static void see_width(void *context, const nnl_tensor *t, int64_t offset)
{
    widest *w = context;
    char piece[48];
    element_text(t, offset, w->s, piece);
    w->width = NNL_MAX(w->width, (int)strlen(piece));
}

static style choose_style(const nnl_tensor *t, int edge)
{
    style s = {.digits = 4};
    if (nnl_is_float((nnl_dtype)t->dtype)) {
        range r = {.smallest = INFINITY};
        visit(t, 0, 0, edge, see_range, &r);
        s.integers = !r.fraction && r.largest < 1e9;
        s.exponent = !s.integers && (r.largest >= 1e8 || (r.largest > 0 && r.largest < 1e-3) ||
                                     r.largest > r.smallest * 1e8);
        if (s.integers) s.digits = 0;
    }
    widest w = {.s = &s};
    visit(t, 0, 0, edge, see_width, &w);
    s.width = w.width;
    return s;
}

static void add_row(text *out, const nnl_tensor *t, int64_t offset, const style *s, int edge,
                    int indent)
{
    int64_t n = t->shape[t->ndim - 1], step = t->strides[t->ndim - 1];
    int column = indent;
    add(out, "{");
    for (int64_t i = 0; i < n; i++) {
        char piece[48];
        if (edge && i == edge && n > 2 * edge) {
            add(out, ", ...");
            i = n - edge;
        }
        element_text(t, offset + i * step, s, piece);
        if (column > indent && column + s->width + 2 > COLUMNS) {
            add(out, ",\n");
            add_spaces(out, indent + 1);
            column = indent;
        } else if (i > 0) {
            add(out, ", ");
        }
        add_spaces(out, s->width - (int)strlen(piece));
        add(out, piece);
        column += s->width + 2;
    }
    add(out, "}");
}

static void add_level(text *out, const nnl_tensor *t, int dim, int64_t offset, const style *s,
                      int edge)
{
    if (dim == t->ndim - 1) {
        add_row(out, t, offset, s, edge, dim);
        return;
    }
    add(out, "{");
    for (int64_t i = 0; i < t->shape[dim]; i++) {
        if (i > 0) {
            add(out, ",\n");
            if (dim < t->ndim - 2) add(out, "\n");
            add_spaces(out, dim + 1);
        }
        if (edge && i == edge && t->shape[dim] > 2 * edge) {
            add(out, dim < t->ndim - 2 ? "...,\n\n" : "...,\n");
            add_spaces(out, dim + 1);
            i = t->shape[dim] - edge;
        }
        add_level(out, t, dim + 1, offset + i * t->strides[dim], s, edge);
    }
    add(out, "}");
}

size_t nnl_tensor_print(const nnl_tensor *t, char *buffer, size_t size)
{
    text out = {.buffer = buffer, .size = size};
    char shape[NNL_SHAPE_TEXT], head[NNL_SHAPE_TEXT + 40];
    int edge = choose_edge(t);
    if (size > 0) buffer[0] = 0;
    if (t->ndim == 0) {
        char piece[48];
        style s = choose_style(t, 0);
        s.integers = false;
        if (nnl_is_float((nnl_dtype)t->dtype)) {
            if (t->dtype == NNL_F32)
                nnl_format_float(piece, sizeof piece, *(const float *)t->data);
            else
                nnl_format_double(piece, sizeof piece, *(const double *)t->data);
        } else {
            element_text(t, 0, &s, piece);
        }
        add(&out, piece);
    } else if (t->numel == 0) {
        add(&out, "{}");
    } else {
        style s = choose_style(t, edge);
        add_level(&out, t, 0, 0, &s, edge);
    }
    nnl_format(head, sizeof head, "%s[%s %s%s]", t->ndim == 0 || t->numel == 0 ? "  " : "\n",
               nnl_dtype_name((nnl_dtype)t->dtype), nnl_shape_text(shape, t->ndim, t->shape),
               t->requires_grad ? ", requires_grad" : "");
    add(&out, head);
    return out.length;
}
