/* Reading and writing .npy files (numpy/lib/format.py describes them). */
#include "npy.h"

#include "../base/file.h"

#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "npy files are written as they lie in memory: this needs a little-endian machine"
#endif

#define MAGIC "\x93NUMPY"
#define MAGIC_SIZE 6
#define MAX_HEADER 65536 /* enough for the three fields; NumPy reads 10 000 by default */
#define ALIGNMENT 64

/* ---------------------------------------------------------------- types */

static float half_to_float(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    const uint32_t exponent = half >> 10 & 31, fraction = half & 0x3FF;
    uint32_t bits = sign | (exponent + 112) << 23 | fraction << 13;
    float value;
    if (exponent == 31) bits = sign | 0x7F800000 | fraction << 13;
    if (exponent == 0) { /* zero and subnormal: fraction * 2^-24, exact */
        value = (float)fraction * 0x1p-24f;
        memcpy(&bits, &value, 4);
        bits |= sign;
    }
    memcpy(&value, &bits, 4);
    return value;
}

/* Widening: `from` lies at the end of the buffer that begins at `to`, so that it is read before it
 * is overwritten. */
#define WIDEN(name, from_type, to_type, expression)                           \
    static void name(unsigned char *to, const unsigned char *from, int64_t n) \
    {                                                                         \
        for (int64_t i = 0; i < n; i++) {                                     \
            from_type x;                                                      \
            memcpy(&x, from + i * (int64_t)sizeof x, sizeof x);               \
            const to_type y = (expression);                                   \
            memcpy(to + i * (int64_t)sizeof y, &y, sizeof y);                 \
        }                                                                     \
    }
WIDEN(widen_i1, int8_t, int32_t, x)
WIDEN(widen_i2, int16_t, int32_t, x)
WIDEN(widen_u2, uint16_t, int32_t, x)
WIDEN(widen_u4, uint32_t, int64_t, x)
WIDEN(widen_f2, uint16_t, float, half_to_float(x))

static const struct {
    char name[3];
    uint8_t size;
    nnl_dtype dtype;
    void (*widen)(unsigned char *to, const unsigned char *from, int64_t n);
} types[] = {
    {"b1", 1, NNL_BOOL, NULL},    {"u1", 1, NNL_U8, NULL},      {"i4", 4, NNL_I32, NULL},
    {"i8", 8, NNL_I64, NULL},     {"f4", 4, NNL_F32, NULL},     {"f8", 8, NNL_F64, NULL},
    {"i1", 1, NNL_I32, widen_i1}, {"i2", 2, NNL_I32, widen_i2}, {"u2", 2, NNL_I32, widen_u2},
    {"u4", 4, NNL_I64, widen_u4}, {"f2", 2, NNL_F32, widen_f2},
};

static void swap_bytes(unsigned char *bytes, int64_t n, int size)
{
    for (int64_t i = 0; i < n; i++, bytes += size) {
        for (int k = 0; k < size / 2; k++) {
            const unsigned char kept = bytes[k];
            bytes[k] = bytes[size - 1 - k];
            bytes[size - 1 - k] = kept;
        }
    }
}

/* ---------------------------------------------------------------- the header */

typedef struct header {
    nnl_reader *reader;
    const char *text, *place, *end; /* the dictionary's text, which begins at ... */
    int64_t at;                     /* ... this byte of the file */
    int type;                       /* place in types[] */
    bool swapped, fortran;
    int ndim;
    int64_t shape[NNL_MAX_DIMS];
} header;

static nnl_status bad(const header *h, const char *what)
{
    char clip[NNL_CLIP_SIZE];
    nnl_clip(clip, h->place, (size_t)NNL_MIN(h->end - h->place, 20));
    return nnl_reader_error(
        h->reader, h->at + (h->place - h->text),
        NNL_FAIL(h->reader->rt, NNL_EFORMAT, "the header wants %s, got '%s'", what, clip));
}

static void skip_space(header *h)
{
    while (h->place < h->end && (*h->place == ' ' || *h->place == '\n' || *h->place == '\t'))
        h->place++;
}

/* Takes `word` if it comes next. */
static bool take(header *h, const char *word)
{
    const size_t n = strlen(word);
    skip_space(h);
    if ((size_t)(h->end - h->place) < n || memcmp(h->place, word, n) != 0) return false;
    h->place += n;
    return true;
}

/* A string without escapes, in either kind of quotes. */
static nnl_status read_string(header *h, const char **text, size_t *length)
{
    skip_space(h);
    const char quote = h->place < h->end ? *h->place : '\0';
    if (quote != '\'' && quote != '"') return bad(h, "a string");
    const char *start = h->place + 1, *p = start;
    while (p < h->end && *p != quote && *p != '\\' && (unsigned char)*p >= 0x20) p++;
    if (p == h->end || *p != quote) return bad(h, "a plain string");
    *text = start;
    *length = (size_t)(p - start);
    h->place = p + 1;
    return NNL_OK;
}

static nnl_status read_descr(header *h)
{
    const char *text;
    size_t length;
    char clip[NNL_CLIP_SIZE];
    nnl_runtime *rt = h->reader->rt;
    skip_space(h);
    const int64_t at = h->at + (h->place - h->text);
    if (h->place < h->end && *h->place == '[') {
        return nnl_reader_error(
            h->reader, at,
            NNL_FAIL(rt, NNL_EUNSUPPORTED, "arrays of records cannot be read, only of numbers"));
    }
    NNL_TRY(read_string(h, &text, &length));
    const bool order = length == 3 && strchr("<>|=", text[0]) != NULL;
    for (h->type = 0; order && h->type < NNL_COUNT(types); h->type++) {
        if (memcmp(text + 1, types[h->type].name, 2) != 0) continue;
        if (text[0] == '|' && types[h->type].size > 1) break;
        h->swapped = text[0] == '>' && types[h->type].size > 1;
        return NNL_OK;
    }
    nnl_clip(clip, text, length);
    if (length > 1 && text[length - 1] == 'O') {
        return nnl_reader_error(
            h->reader, at,
            NNL_FAIL(rt, NNL_EUNSUPPORTED,
                     "the array holds Python objects, which are code and never loaded"));
    }
    return nnl_reader_error(
        h->reader, at,
        NNL_FAIL(rt, NNL_EUNSUPPORTED,
                 "type '%s' cannot be read: b1, u1, u2, u4, i1, i2, i4, i8, f2, f4, f8 can", clip));
}

static nnl_status read_order(header *h)
{
    h->fortran = take(h, "True");
    if (!h->fortran && !take(h, "False")) return bad(h, "True or False");
    return NNL_OK;
}

static nnl_status read_size(header *h, int64_t *out)
{
    int64_t value = 0;
    const char *start = h->place;
    while (h->place < h->end && *h->place >= '0' && *h->place <= '9') {
        if (!nnl_mul_size(value, 10, &value) || !nnl_add_size(value, *h->place - '0', &value)) {
            h->place = start;
            return bad(h, "a size that fits in 64 bits");
        }
        h->place++;
    }
    if (h->place == start) return bad(h, "a size");
    if (h->place < h->end && *h->place == 'L') h->place++; /* as Python 2 wrote them */
    *out = value;
    return NNL_OK;
}

/* "()", "(3,)", "(3, 4)" or "(3, 4,)" */
static nnl_status read_shape(header *h)
{
    if (!take(h, "(")) return bad(h, "the shape as a tuple");
    for (h->ndim = 0; !take(h, ")"); h->ndim++) {
        if (h->ndim == NNL_MAX_DIMS) return bad(h, "at most 8 dimensions");
        NNL_TRY(read_size(h, &h->shape[h->ndim]));
        if (take(h, ",")) continue;
        if (h->ndim == 0 || !take(h, ")")) return bad(h, "','");
        h->ndim++;
        return NNL_OK;
    }
    return NNL_OK;
}

static nnl_status read_dictionary(header *h)
{
    static const struct {
        const char *name;
        nnl_status (*read)(header *h);
    } fields[] = {{"descr", read_descr}, {"fortran_order", read_order}, {"shape", read_shape}};
    bool seen[NNL_COUNT(fields)] = {false};
    const char *name;
    size_t length;

    if (!take(h, "{")) return bad(h, "a dictionary");
    while (!take(h, "}")) {
        NNL_TRY(read_string(h, &name, &length));
        int f = 0;
        while (f < NNL_COUNT(fields) &&
               (length != strlen(fields[f].name) || memcmp(name, fields[f].name, length) != 0)) {
            f++;
        }
        h->place = f == NNL_COUNT(fields) || seen[f] ? name - 1 : h->place;
        if (f == NNL_COUNT(fields)) return bad(h, "descr, fortran_order or shape");
        if (seen[f]) return bad(h, "each field once");
        seen[f] = true;
        if (!take(h, ":")) return bad(h, "':'");
        NNL_TRY(fields[f].read(h));
        if (take(h, ",")) continue;
        if (!take(h, "}")) return bad(h, "',' or '}'");
        break;
    }
    skip_space(h);
    if (h->place != h->end) return bad(h, "nothing behind the dictionary");
    for (int f = 0; f < NNL_COUNT(fields); f++) {
        if (!seen[f]) return bad(h, fields[f].name);
    }
    return NNL_OK;
}

/* The magic, the version and the header's length. */
static nnl_status read_start(nnl_reader *reader, size_t *length)
{
    unsigned char start[MAGIC_SIZE + 2], bytes[4] = {0};
    NNL_TRY(nnl_reader_read(reader, start, sizeof start));
    if (memcmp(start, MAGIC, MAGIC_SIZE) != 0) {
        return nnl_reader_error(reader, 0, NNL_FAIL(reader->rt, NNL_EFORMAT, "not an npy file"));
    }
    const unsigned major = start[MAGIC_SIZE], minor = start[MAGIC_SIZE + 1];
    if (major < 1 || major > 3 || minor != 0) {
        return nnl_reader_error(reader, MAGIC_SIZE,
                                NNL_FAIL(reader->rt, NNL_EUNSUPPORTED,
                                         "version %u.%u, but 1.0, 2.0 and 3.0 can be read", major,
                                         minor));
    }
    NNL_TRY(nnl_reader_read(reader, bytes, major == 1 ? 2 : 4));
    const uint32_t n = (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
                       (uint32_t)bytes[3] << 24;
    if (n > MAX_HEADER || n > (uint64_t)(reader->size - reader->offset)) {
        return nnl_reader_error(
            reader, MAGIC_SIZE + 2,
            NNL_FAIL(reader->rt, NNL_EFORMAT,
                     "a header of %u bytes, but %lld follow and at most %d are read", (unsigned)n,
                     (long long)(reader->size - reader->offset), MAX_HEADER));
    }
    *length = n;
    return NNL_OK;
}

/* ---------------------------------------------------------------- reading */

/* Bytes of the elements in the file, which must be all that is left of it. */
static nnl_status check_size(const header *h, int64_t *bytes)
{
    const nnl_reader *reader = h->reader;
    const int64_t left = reader->size - reader->offset;
    int64_t product = types[h->type].size;
    bool fits = true, empty = false;
    for (int d = 0; d < h->ndim; d++) {
        if (h->shape[d] == 0)
            empty = true;
        else
            fits = fits && nnl_mul_size(product, h->shape[d], &product);
    }
    *bytes = empty ? 0 : product;
    if (fits && *bytes == left) return NNL_OK;
    char shape[NNL_SHAPE_TEXT];
    return nnl_reader_error(reader, reader->offset,
                            NNL_FAIL(reader->rt, NNL_EFORMAT,
                                     "%s elements of %d bytes are declared, but %lld bytes follow",
                                     nnl_shape_text(shape, h->ndim, h->shape),
                                     (int)types[h->type].size, (long long)left));
}

/* Other bytes than 0 and 1 in a bool are undefined behaviour in C. */
static nnl_status check_bools(const header *h, const unsigned char *data, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (data[i] <= 1) continue;
        return nnl_reader_error(
            h->reader, h->reader->size - n + i,
            NNL_FAIL(h->reader->rt, NNL_EFORMAT, "a bool holds the byte %u", (unsigned)data[i]));
    }
    return NNL_OK;
}

static nnl_status fill_tensor(const header *h, int64_t bytes, nnl_tensor *t)
{
    const int64_t n = nnl_tensor_numel(t), size = types[h->type].size;
    unsigned char *buffer = nnl_tensor_data(t);
    unsigned char *from = buffer + (n * (int64_t)nnl_dtype_size(nnl_tensor_dtype(t)) - bytes);
    NNL_TRY(nnl_reader_read(h->reader, from, (size_t)bytes));
    if (h->swapped) swap_bytes(from, n, (int)size);
    if (types[h->type].widen) types[h->type].widen(buffer, from, n);
    return types[h->type].dtype == NNL_BOOL ? check_bools(h, buffer, n) : NNL_OK;
}

/* From Fortran order: t has the dimensions reversed; the result is a new tensor with them turned
 * round. */
static nnl_status turn_round(const header *h, nnl_tensor *t, nnl_tensor **out)
{
    nnl_tensor *view, *result;
    nnl_spec spec = {.dtype = nnl_tensor_dtype(t), .ndim = h->ndim, .view = true};
    for (int d = 0; d < h->ndim; d++) {
        spec.shape[d] = h->shape[d];
        spec.strides[d] = nnl_tensor_strides(t)[h->ndim - 1 - d];
    }
    NNL_TRY(nnl_tensor_new(h->reader->rt, spec.dtype, h->ndim, h->shape, &result));
    nnl_status status = nnl_tensor_make(h->reader->rt, &spec, t, &view);
    if (status == NNL_OK) {
        status = nnl_copy(result, view);
        nnl_tensor_unref(view);
    }
    if (status == NNL_OK)
        *out = result;
    else
        nnl_tensor_unref(result);
    return status;
}

static nnl_status read_elements(const header *h, nnl_tensor **out)
{
    nnl_tensor *t;
    int64_t bytes, shape[NNL_MAX_DIMS];
    NNL_TRY(check_size(h, &bytes));
    for (int d = 0; d < h->ndim; d++) shape[d] = h->shape[h->fortran ? h->ndim - 1 - d : d];
    NNL_TRY(nnl_tensor_new(h->reader->rt, types[h->type].dtype, h->ndim, shape, &t));
    nnl_status status = fill_tensor(h, bytes, t);
    if (status == NNL_OK && h->fortran && h->ndim > 1) {
        nnl_tensor *turned;
        status = turn_round(h, t, &turned);
        if (status == NNL_OK) {
            *out = turned;
            nnl_tensor_unref(t);
            return NNL_OK;
        }
    }
    if (status == NNL_OK)
        *out = t;
    else
        nnl_tensor_unref(t);
    return status;
}

static nnl_status read_npy(nnl_reader *reader, nnl_tensor **out)
{
    size_t length = 0;
    void *block;
    NNL_TRY(read_start(reader, &length));
    header h = {.reader = reader, .at = reader->offset};
    NNL_TRY(nnl_alloc(reader->rt, length, &block));
    nnl_status status = nnl_reader_read(reader, block, length);
    if (status == NNL_OK) {
        h.text = h.place = block;
        h.end = h.text + length;
        status = read_dictionary(&h);
    }
    nnl_free(reader->rt, block, length);
    return status == NNL_OK ? read_elements(&h, out) : status;
}

nnl_status nnl_npy_load(nnl_runtime *rt, const char *path, nnl_tensor **out)
{
    nnl_reader reader;
    *out = NULL;
    NNL_TRY(nnl_reader_open(rt, path, &reader));
    nnl_status status = read_npy(&reader, out);
    nnl_reader_close(&reader);
    return status;
}

nnl_status nnl_npy_read_memory(nnl_runtime *rt, const char *name, const void *bytes, size_t size,
                               nnl_tensor **out)
{
    nnl_reader reader = nnl_reader_of_memory(rt, name, bytes, size);
    *out = NULL;
    return read_npy(&reader, out);
}

/* ---------------------------------------------------------------- writing */

/* Eight sizes of at most 19 digits, the fixed text and the padding. */
#define HEADER_ROOM 320

static size_t make_header(const nnl_tensor *t, char bytes[HEADER_ROOM])
{
    static const char *const names[NNL_DTYPES] = {
        [NNL_BOOL] = "|b1", [NNL_U8] = "|u1",  [NNL_I32] = "<i4",
        [NNL_I64] = "<i8",  [NNL_F32] = "<f4", [NNL_F64] = "<f8"};
    const size_t start = MAGIC_SIZE + 4;
    size_t n = start;
    const int ndim = nnl_tensor_ndim(t);
    n += (size_t)nnl_format(bytes + n, HEADER_ROOM - n,
                            "{'descr': '%s', 'fortran_order': False, 'shape': (",
                            names[nnl_tensor_dtype(t)]);
    for (int d = 0; d < ndim; d++) {
        n += (size_t)nnl_format(bytes + n, HEADER_ROOM - n, d > 0 ? ", %lld" : "%lld",
                                (long long)nnl_tensor_shape(t)[d]);
    }
    n += (size_t)nnl_format(bytes + n, HEADER_ROOM - n, ndim == 1 ? ",), }" : "), }");
    while ((n + 1) % ALIGNMENT != 0) bytes[n++] = ' ';
    bytes[n++] = '\n';
    memcpy(bytes, MAGIC "\x01\x00", MAGIC_SIZE + 2);
    bytes[MAGIC_SIZE + 2] = (char)((n - start) & 0xFF);
    bytes[MAGIC_SIZE + 3] = (char)((n - start) >> 8);
    return n;
}

nnl_status nnl_npy_save(nnl_runtime *rt, const char *path, nnl_tensor *t)
{
    char bytes[HEADER_ROOM];
    nnl_writer writer;
    const size_t head = make_header(t, bytes);
    const size_t size = (size_t)nnl_tensor_numel(t) * nnl_dtype_size(nnl_tensor_dtype(t));
    const bool copied = !nnl_tensor_is_contiguous(t);
    void *block = NULL;
    nnl_status status = NNL_OK;
    if (copied) {
        NNL_TRY(nnl_alloc(rt, size, &block));
        status = nnl_tensor_read(t, nnl_tensor_dtype(t), block, size);
    }
    if (status == NNL_OK) status = nnl_writer_open(rt, path, &writer);
    if (status == NNL_OK) {
        status = nnl_writer_write(&writer, bytes, head);
        if (status == NNL_OK) {
            status = nnl_writer_write(&writer, copied ? block : nnl_tensor_const_data(t), size);
        }
        if (status == NNL_OK)
            status = nnl_writer_commit(&writer);
        else
            nnl_writer_abort(&writer);
    }
    nnl_free(rt, block, size);
    return status;
}
