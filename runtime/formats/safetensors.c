/* Reading and writing safetensors files. */
#include "safetensors.h"

#include "../base/file.h"
#include "../engine/engine.h"
#include "json.h"

#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors files are mapped as they are: this needs a little-endian machine"
#endif

#define METADATA "__metadata__"
#define DATA_ALIGNMENT 64

static const char *const type_names[NNL_DTYPES] = {
    [NNL_BOOL] = "BOOL", [NNL_U8] = "U8",   [NNL_I32] = "I32",
    [NNL_I64] = "I64",   [NNL_F32] = "F32", [NNL_F64] = "F64"};

/* Heap sort: the C library's qsort may allocate. */
static void sort(const void **list, int64_t n, int (*compare)(const void *, const void *))
{
    for (int64_t start = n / 2, end = n; end > 1;) {
        if (start > 0) {
            start--;
        } else {
            end--;
            const void *last = list[end];
            list[end] = list[0];
            list[0] = last;
        }
        const void *moved = list[start];
        int64_t place = start;
        for (int64_t child; (child = 2 * place + 1) < end; place = child) {
            if (child + 1 < end && compare(list[child], list[child + 1]) < 0) child++;
            if (compare(moved, list[child]) >= 0) break;
            list[place] = list[child];
        }
        list[place] = moved;
    }
}

static int compare_text(const char *a, size_t a_length, const char *b, size_t b_length)
{
    const int order = memcmp(a, b, NNL_MIN(a_length, b_length));
    return order != 0 ? order : (a_length > b_length) - (a_length < b_length);
}

static int compare_pairs(const void *a, const void *b)
{
    const nnl_text_pair *x = a, *y = b;
    return compare_text(x->key, x->key_length, y->key, y->key_length);
}

/* ---------------------------------------------------------------- reading */

/* A tensor as the header tells of it. */
typedef struct entry {
    const char *name;
    size_t name_length;
    int64_t at; /* of its name, in the file */
    nnl_dtype dtype;
    int ndim;
    int64_t shape[NNL_MAX_DIMS];
    int64_t begin, end; /* in the data */
} entry;

typedef struct parser {
    nnl_runtime *rt;
    const char *path;
    const char *bytes;
    int64_t data_at, data_size;
    nnl_json json;
    entry *entries;
    int64_t count, room;
    const void **order; /* `room` places to sort in */
    nnl_tensor_file *file;
} parser;

static nnl_status wrong(const parser *p, int64_t at, nnl_status status)
{
    return nnl_file_error(p->rt, p->path, at, status);
}

/* Room for one element more in a list that begins empty. */
static nnl_status grow(nnl_runtime *rt, void **list, int64_t count, int64_t *room, size_t element)
{
    if (count < *room) return NNL_OK;
    const int64_t more = *room == 0 ? 16 : *room * 2;
    if (*list)
        NNL_TRY(nnl_resize(rt, (size_t)*room * element, (size_t)more * element, list));
    else
        NNL_TRY(nnl_alloc(rt, (size_t)more * element, list));
    *room = more;
    return NNL_OK;
}

static nnl_status read_size(parser *p, const char *what, int64_t *out)
{
    if (p->json.kind != NNL_JSON_INT || p->json.integer < 0) {
        return wrong(p, p->json.at,
                     NNL_FAIL(p->rt, NNL_EFORMAT, "%s must be integers from 0", what));
    }
    *out = p->json.integer;
    return NNL_OK;
}

static nnl_status read_dtype(parser *p, entry *e)
{
    char name[NNL_CLIP_SIZE], got[NNL_CLIP_SIZE];
    NNL_TRY(nnl_json_expect(&p->json, NNL_JSON_STRING, "dtype"));
    for (int d = 0; d < NNL_DTYPES; d++) {
        if (!nnl_json_is(&p->json, type_names[d])) continue;
        e->dtype = (nnl_dtype)d;
        return NNL_OK;
    }
    nnl_clip(name, e->name, e->name_length);
    nnl_clip(got, p->json.string, p->json.length);
    return wrong(p, p->json.at,
                 NNL_FAIL(p->rt, NNL_EUNSUPPORTED,
                          "tensor '%s' has type %s, but BOOL, U8, I32, I64, F32, F64 can be read",
                          name, got));
}

static nnl_status read_shape(parser *p, entry *e)
{
    NNL_TRY(nnl_json_expect(&p->json, NNL_JSON_ARRAY, "shape"));
    for (e->ndim = 0;; e->ndim++) {
        NNL_TRY(nnl_json_next(&p->json));
        if (p->json.kind == NNL_JSON_ARRAY_END) return NNL_OK;
        if (e->ndim == NNL_MAX_DIMS) {
            char name[NNL_CLIP_SIZE];
            return wrong(p, p->json.at,
                         NNL_FAIL(p->rt, NNL_EUNSUPPORTED,
                                  "tensor '%s' has more than %d dimensions",
                                  nnl_clip(name, e->name, e->name_length), NNL_MAX_DIMS));
        }
        NNL_TRY(read_size(p, "sizes", &e->shape[e->ndim]));
    }
}

static nnl_status read_offsets(parser *p, entry *e)
{
    NNL_TRY(nnl_json_expect(&p->json, NNL_JSON_ARRAY, "data_offsets"));
    NNL_TRY(nnl_json_next(&p->json));
    NNL_TRY(read_size(p, "data_offsets", &e->begin));
    NNL_TRY(nnl_json_next(&p->json));
    NNL_TRY(read_size(p, "data_offsets", &e->end));
    return nnl_json_expect(&p->json, NNL_JSON_ARRAY_END, "data_offsets after two integers");
}

/* The three facts agree: the data lie in the file and are as long as type and shape say. */
static nnl_status check_entry(const parser *p, const entry *e)
{
    char name[NNL_CLIP_SIZE], shape[NNL_SHAPE_TEXT];
    nnl_clip(name, e->name, e->name_length);
    if (e->begin > e->end || e->end > p->data_size) {
        return wrong(
            p, e->at,
            NNL_FAIL(p->rt, NNL_EFORMAT,
                     "tensor '%s' lies at bytes %lld to %lld, but there are %lld bytes of data",
                     name, (long long)e->begin, (long long)e->end, (long long)p->data_size));
    }
    /* the product without the zeros must fit, since strides are made of it */
    int64_t product = (int64_t)nnl_dtype_size(e->dtype);
    bool fits = true, empty = false;
    for (int d = 0; d < e->ndim; d++) {
        if (e->shape[d] == 0)
            empty = true;
        else
            fits = fits && nnl_mul_size(product, e->shape[d], &product);
    }
    if (fits && (empty ? 0 : product) == e->end - e->begin) return NNL_OK;
    nnl_shape_text(shape, e->ndim, e->shape);
    if (!fits) {
        return wrong(p, e->at,
                     NNL_FAIL(p->rt, NNL_EFORMAT,
                              "tensor '%s' of shape %s is larger than any memory", name, shape));
    }
    return wrong(p, e->at,
                 NNL_FAIL(p->rt, NNL_EFORMAT,
                          "tensor '%s' of type %s and shape %s takes %lld bytes, got %lld", name,
                          type_names[e->dtype], shape, (long long)(empty ? 0 : product),
                          (long long)(e->end - e->begin)));
}

static nnl_status read_entry(parser *p, entry *e)
{
    static const struct {
        const char *name;
        nnl_status (*read)(parser *p, entry *e);
    } fields[] = {{"dtype", read_dtype}, {"shape", read_shape}, {"data_offsets", read_offsets}};
    bool seen[NNL_COUNT(fields)] = {false};
    char name[NNL_CLIP_SIZE], got[NNL_CLIP_SIZE];

    NNL_TRY(nnl_json_expect(&p->json, NNL_JSON_OBJECT, "a tensor"));
    for (;;) {
        NNL_TRY(nnl_json_next(&p->json));
        if (p->json.kind == NNL_JSON_OBJECT_END) break;
        int f = 0;
        while (f < NNL_COUNT(fields) && !nnl_json_is(&p->json, fields[f].name)) f++;
        if (f == NNL_COUNT(fields) || seen[f]) {
            const char *what = f == NNL_COUNT(fields) ? "has an unknown field" : "says twice its";
            nnl_clip(name, e->name, e->name_length);
            nnl_clip(got, p->json.string, p->json.length);
            return wrong(p, p->json.at,
                         NNL_FAIL(p->rt, NNL_EFORMAT, "tensor '%s' %s '%s'", name, what, got));
        }
        seen[f] = true;
        NNL_TRY(fields[f].read(p, e));
    }
    for (int f = 0; f < NNL_COUNT(fields); f++) {
        if (seen[f]) continue;
        nnl_clip(name, e->name, e->name_length);
        return wrong(p, e->at,
                     NNL_FAIL(p->rt, NNL_EFORMAT, "tensor '%s' has no %s", name, fields[f].name));
    }
    return check_entry(p, e);
}

static nnl_status read_metadata(parser *p)
{
    nnl_tensor_file *file = p->file;
    NNL_TRY(nnl_json_expect(&p->json, NNL_JSON_OBJECT, METADATA));
    for (;;) {
        NNL_TRY(nnl_json_next(&p->json));
        if (p->json.kind == NNL_JSON_OBJECT_END) return NNL_OK;
        void *list = file->meta;
        nnl_status status =
            grow(p->rt, &list, file->meta_count, &file->meta_room, sizeof *file->meta);
        file->meta = list;
        NNL_TRY(status);
        nnl_text_pair pair = {.key = p->json.string, .key_length = p->json.length};
        NNL_TRY(nnl_json_expect(&p->json, NNL_JSON_STRING, "a value of " METADATA));
        pair.value = p->json.string;
        pair.value_length = p->json.length;
        file->meta[file->meta_count++] = pair;
    }
}

static nnl_status read_header(parser *p)
{
    bool metadata = false;
    NNL_TRY(nnl_json_expect(&p->json, NNL_JSON_OBJECT, "the header"));
    for (;;) {
        NNL_TRY(nnl_json_next(&p->json));
        if (p->json.kind == NNL_JSON_OBJECT_END) break;
        if (nnl_json_is(&p->json, METADATA)) {
            if (metadata) {
                return wrong(p, p->json.at, NNL_FAIL(p->rt, NNL_EFORMAT, METADATA " stands twice"));
            }
            metadata = true;
            NNL_TRY(read_metadata(p));
            continue;
        }
        void *list = p->entries;
        nnl_status status = grow(p->rt, &list, p->count, &p->room, sizeof *p->entries);
        p->entries = list;
        NNL_TRY(status);
        entry *e = &p->entries[p->count++];
        *e = (entry){.name = p->json.string, .name_length = p->json.length, .at = p->json.at};
        NNL_TRY(read_entry(p, e));
    }
    return nnl_json_next(&p->json); /* nothing but spaces may follow */
}

static int compare_entries_by_name(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    const int order = compare_text(x->name, x->name_length, y->name, y->name_length);
    return order != 0 ? order : (x->at > y->at) - (x->at < y->at);
}

/* Empty tensors stand before the tensor that begins at the same place. */
static int compare_entries_by_place(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin > y->begin ? 1 : -1;
    return (x->end > y->end) - (x->end < y->end);
}

static nnl_status check_names(parser *p)
{
    char name[NNL_CLIP_SIZE];
    for (int64_t i = 0; i < p->count; i++) p->order[i] = &p->entries[i];
    sort(p->order, p->count, compare_entries_by_name);
    for (int64_t i = 1; i < p->count; i++) {
        const entry *a = p->order[i - 1], *b = p->order[i];
        if (compare_text(a->name, a->name_length, b->name, b->name_length) != 0) continue;
        nnl_clip(name, b->name, b->name_length);
        return wrong(p, b->at, NNL_FAIL(p->rt, NNL_EFORMAT, "tensor '%s' stands twice", name));
    }
    return NNL_OK;
}

static nnl_status check_places(parser *p)
{
    char name[NNL_CLIP_SIZE];
    int64_t place = 0;
    for (int64_t i = 0; i < p->count; i++) p->order[i] = &p->entries[i];
    sort(p->order, p->count, compare_entries_by_place);
    for (int64_t i = 0; i < p->count; i++) {
        const entry *e = p->order[i];
        if (e->begin != place) {
            const char *what =
                e->begin < place ? "overlaps the data before it" : "leaves a gap before it";
            nnl_clip(name, e->name, e->name_length);
            return wrong(p, e->at,
                         NNL_FAIL(p->rt, NNL_EFORMAT,
                                  "tensor '%s' %s: it begins at byte %lld of the data, not %lld",
                                  name, what, (long long)e->begin, (long long)place));
        }
        place = e->end;
    }
    if (place == p->data_size) return NNL_OK;
    return wrong(p, p->data_at + place,
                 NNL_FAIL(p->rt, NNL_EFORMAT, "%lld bytes behind the last tensor belong to none",
                          (long long)(p->data_size - place)));
}

static nnl_status check_metadata(parser *p, const void **order)
{
    const nnl_tensor_file *file = p->file;
    char key[NNL_CLIP_SIZE];
    for (int64_t i = 0; i < file->meta_count; i++) order[i] = &file->meta[i];
    sort(order, file->meta_count, compare_pairs);
    for (int64_t i = 1; i < file->meta_count; i++) {
        if (compare_pairs(order[i - 1], order[i]) != 0) continue;
        const nnl_text_pair *pair = order[i];
        nnl_clip(key, pair->key, pair->key_length);
        return wrong(p, -1, NNL_FAIL(p->rt, NNL_EFORMAT, METADATA " has '%s' twice", key));
    }
    return NNL_OK;
}

static nnl_status check_lists(parser *p)
{
    void *block;
    const size_t size = sizeof(void *) * (size_t)NNL_MAX(p->count, p->file->meta_count);
    NNL_TRY(nnl_alloc(p->rt, size, &block));
    p->order = block;
    nnl_status status = check_names(p);
    if (status == NNL_OK) status = check_places(p);
    if (status == NNL_OK) status = check_metadata(p, p->order);
    nnl_free(p->rt, block, size);
    return status;
}

/* Other bytes than 0 and 1 in a bool are undefined behaviour in C. */
static nnl_status check_bools(const parser *p, const entry *e)
{
    char name[NNL_CLIP_SIZE];
    const unsigned char *data = (const unsigned char *)p->bytes + p->data_at;
    for (int64_t i = e->begin; i < e->end; i++) {
        if (data[i] <= 1) continue;
        nnl_clip(name, e->name, e->name_length);
        return wrong(p, p->data_at + i,
                     NNL_FAIL(p->rt, NNL_EFORMAT, "tensor '%s' is BOOL, but holds the byte %u",
                              name, (unsigned)data[i]));
    }
    return NNL_OK;
}

static void release_mapping(void *user, void *data)
{
    (void)data;
    nnl_mapping_unref(user);
}

static nnl_status make_tensor(const parser *p, const entry *e, nnl_mapping *mapping,
                              nnl_tensor **out)
{
    char *data = (char *)(uintptr_t)p->bytes + p->data_at + e->begin;
    if (e->dtype == NNL_BOOL) NNL_TRY(check_bools(p, e));
    const bool aligned = (uintptr_t)data % nnl_dtype_size(e->dtype) == 0;
    if (!mapping || !aligned || e->begin == e->end) {
        return nnl_tensor_from(p->rt, e->dtype, e->ndim, e->shape, data, out);
    }
    NNL_TRY(
        nnl_tensor_wrap(p->rt, e->dtype, e->ndim, e->shape, data, release_mapping, mapping, out));
    nnl_mapping_ref(mapping);
    return NNL_OK;
}

static nnl_status make_tensors(parser *p, nnl_mapping *mapping)
{
    void *block;
    nnl_tensor_file *file = p->file;
    NNL_TRY(nnl_alloc(p->rt, sizeof *file->tensors * (size_t)p->count, &block));
    file->tensors = block;
    file->tensors_room = p->count;
    for (int64_t i = 0; i < p->count; i++) {
        const entry *e = &p->entries[i];
        nnl_tensor *tensor;
        NNL_TRY(nnl_poll_cancel(p->rt));
        NNL_TRY(make_tensor(p, e, mapping, &tensor));
        file->tensors[file->count++] =
            (nnl_named_tensor){.name = e->name, .name_length = e->name_length, .tensor = tensor};
    }
    return NNL_OK;
}

static nnl_status read_length(nnl_runtime *rt, const char *path, const unsigned char *bytes,
                              size_t size, int64_t *out)
{
    if (size < 8) {
        return nnl_file_error(
            rt, path, (int64_t)size,
            NNL_FAIL(rt, NNL_EFORMAT, "the file ends within the 8 bytes of the header's length"));
    }
    uint64_t length = 0;
    for (int i = 0; i < 8; i++) length |= (uint64_t)bytes[i] << (8 * i);
    if (length > NNL_SAFETENSORS_MAX_HEADER) {
        return nnl_file_error(rt, path, 0,
                              NNL_FAIL(rt, NNL_EFORMAT,
                                       "a header of %llu bytes, but at most %d are read",
                                       (unsigned long long)length, NNL_SAFETENSORS_MAX_HEADER));
    }
    if (length > size - 8) {
        return nnl_file_error(rt, path, 0,
                              NNL_FAIL(rt, NNL_EFORMAT, "a header of %llu bytes, but %zu follow",
                                       (unsigned long long)length, size - 8));
    }
    if (length == 0 || bytes[8] != '{') {
        return nnl_file_error(rt, path, 8,
                              NNL_FAIL(rt, NNL_EFORMAT, "the header does not begin with '{'"));
    }
    *out = (int64_t)length;
    return NNL_OK;
}

static nnl_status parse(nnl_runtime *rt, const char *path, const void *bytes, size_t size,
                        nnl_mapping *mapping, nnl_tensor_file **out)
{
    int64_t length = 0;
    void *block;
    *out = NULL;
    NNL_TRY(read_length(rt, path, bytes, size, &length));
    NNL_TRY(nnl_alloc_zeroed(rt, sizeof(nnl_tensor_file), &block));
    nnl_tensor_file *file = block;
    file->rt = rt;

    parser p = {.rt = rt, .path = path, .bytes = bytes, .file = file};
    p.data_at = 8 + length;
    p.data_size = (int64_t)size - p.data_at;
    nnl_status status = nnl_alloc(rt, (size_t)length, &block);
    if (status == NNL_OK) {
        file->strings = block;
        file->strings_size = (size_t)length;
        p.json = nnl_json_open(rt, path, 8, p.bytes + 8, (size_t)length, file->strings);
        status = read_header(&p);
    }
    if (status == NNL_OK) status = check_lists(&p);
    if (status == NNL_OK) status = make_tensors(&p, mapping);
    if (p.entries) nnl_free(rt, p.entries, sizeof *p.entries * (size_t)p.room);
    if (status == NNL_OK)
        *out = file;
    else
        nnl_tensor_file_free(file);
    return status;
}

nnl_status nnl_safetensors_load(nnl_runtime *rt, const char *path, bool copy, nnl_tensor_file **out)
{
    nnl_mapping *mapping;
    *out = NULL;
    NNL_TRY(nnl_mapping_open(rt, path, &mapping));
    nnl_status status = parse(rt, path, mapping->data, mapping->size, copy ? NULL : mapping, out);
    nnl_mapping_unref(mapping);
    return status;
}

nnl_status nnl_safetensors_read_memory(nnl_runtime *rt, const char *name, const void *bytes,
                                       size_t size, nnl_tensor_file **out)
{
    return parse(rt, name, bytes, size, NULL, out);
}

void nnl_tensor_file_free(nnl_tensor_file *file)
{
    if (!file) return;
    nnl_runtime *rt = file->rt;
    for (int64_t i = 0; i < file->count; i++) nnl_tensor_unref(file->tensors[i].tensor);
    if (file->tensors)
        nnl_free(rt, file->tensors, sizeof *file->tensors * (size_t)file->tensors_room);
    if (file->meta) nnl_free(rt, file->meta, sizeof *file->meta * (size_t)file->meta_room);
    if (file->strings) nnl_free(rt, file->strings, file->strings_size);
    nnl_free(rt, file, sizeof *file);
}

/* ---------------------------------------------------------------- writing */

/* By size of element, then name: each tensor then begins at a multiple of its element's size. */
static int compare_for_file(const void *a, const void *b)
{
    const nnl_named_tensor *x = a, *y = b;
    const size_t x_size = nnl_dtype_size(nnl_tensor_dtype(x->tensor));
    const size_t y_size = nnl_dtype_size(nnl_tensor_dtype(y->tensor));
    if (x_size != y_size) return x_size < y_size ? 1 : -1;
    return compare_text(x->name, x->name_length, y->name, y->name_length);
}

static int compare_names(const void *a, const void *b)
{
    const nnl_named_tensor *x = a, *y = b;
    return compare_text(x->name, x->name_length, y->name, y->name_length);
}

typedef struct saver {
    nnl_runtime *rt;
    const char *path;
    const void **tensors; /* nnl_named_tensor, in the file's order */
    const void **meta;    /* nnl_text_pair, by key */
    int64_t count, meta_count;
} saver;

static nnl_status check_text(const saver *s, const char *what, const char *text, size_t length)
{
    char clip[NNL_CLIP_SIZE];
    if (nnl_utf8_valid(text, length)) return NNL_OK;
    for (size_t i = 0; i < length && i < sizeof clip; i++) { /* shown without what is not ASCII */
        clip[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
    }
    char shown[NNL_CLIP_SIZE];
    nnl_clip(shown, clip, NNL_MIN(length, sizeof clip));
    return NNL_FAIL(s->rt, NNL_EINVAL, "%s '%s' is not valid UTF-8", what, shown);
}

static nnl_status check_tensor(const saver *s, const nnl_named_tensor *t)
{
    NNL_TRY(check_text(s, "tensor name", t->name, t->name_length));
    if (compare_text(t->name, t->name_length, METADATA, strlen(METADATA)) == 0) {
        return NNL_FAIL(s->rt, NNL_EINVAL, "no tensor can have the name '" METADATA "'");
    }
    return nnl_check_values(t->tensor, "save");
}

static nnl_status order_all(saver *s, const nnl_named_tensor *tensors, const nnl_text_pair *meta)
{
    char clip[NNL_CLIP_SIZE];
    for (int64_t i = 0; i < s->count; i++) {
        NNL_TRY(check_tensor(s, &tensors[i]));
        s->tensors[i] = &tensors[i];
    }
    for (int64_t i = 0; i < s->meta_count; i++) {
        NNL_TRY(check_text(s, "metadata key", meta[i].key, meta[i].key_length));
        NNL_TRY(check_text(s, "metadata value", meta[i].value, meta[i].value_length));
        s->meta[i] = &meta[i];
    }
    sort(s->meta, s->meta_count, compare_pairs);
    for (int64_t i = 1; i < s->meta_count; i++) {
        if (compare_pairs(s->meta[i - 1], s->meta[i]) != 0) continue;
        const nnl_text_pair *pair = s->meta[i];
        return NNL_FAIL(s->rt, NNL_EINVAL, "metadata has the key '%s' twice",
                        nnl_clip(clip, pair->key, pair->key_length));
    }
    sort(s->tensors, s->count, compare_names);
    for (int64_t i = 1; i < s->count; i++) {
        if (compare_names(s->tensors[i - 1], s->tensors[i]) != 0) continue;
        const nnl_named_tensor *t = s->tensors[i];
        return NNL_FAIL(s->rt, NNL_EINVAL, "two tensors have the name '%s'",
                        nnl_clip(clip, t->name, t->name_length));
    }
    sort(s->tensors, s->count, compare_for_file);
    return NNL_OK;
}

/* Text that is measured first (data NULL) and then written. */
typedef struct text {
    char *data;
    size_t size;
} text;

static void put(text *out, const char *bytes)
{
    const size_t n = strlen(bytes);
    if (out->data) memcpy(out->data + out->size, bytes, n);
    out->size += n;
}

static void put_quoted(text *out, const char *bytes, size_t length)
{
    out->size += nnl_json_quote(out->data ? out->data + out->size : NULL, bytes, length);
}

static void put_int(text *out, int64_t value)
{
    char digits[24];
    nnl_format(digits, sizeof digits, "%lld", (long long)value);
    put(out, digits);
}

static int64_t tensor_bytes(const nnl_tensor *t)
{
    return nnl_tensor_numel(t) * (int64_t)nnl_dtype_size(nnl_tensor_dtype(t));
}

static void put_header(const saver *s, text *out)
{
    int64_t offset = 0;
    put(out, "{");
    if (s->meta_count > 0) {
        put(out, "\"" METADATA "\":{");
        for (int64_t i = 0; i < s->meta_count; i++) {
            const nnl_text_pair *pair = s->meta[i];
            if (i > 0) put(out, ",");
            put_quoted(out, pair->key, pair->key_length);
            put(out, ":");
            put_quoted(out, pair->value, pair->value_length);
        }
        put(out, s->count > 0 ? "}," : "}");
    }
    for (int64_t i = 0; i < s->count; i++) {
        const nnl_named_tensor *named = s->tensors[i];
        const nnl_tensor *t = named->tensor;
        if (i > 0) put(out, ",");
        put_quoted(out, named->name, named->name_length);
        put(out, ":{\"dtype\":\"");
        put(out, type_names[nnl_tensor_dtype(t)]);
        put(out, "\",\"shape\":[");
        for (int d = 0; d < nnl_tensor_ndim(t); d++) {
            if (d > 0) put(out, ",");
            put_int(out, nnl_tensor_shape(t)[d]);
        }
        put(out, "],\"data_offsets\":[");
        put_int(out, offset);
        put(out, ",");
        put_int(out, offset += tensor_bytes(t));
        put(out, "]}");
    }
    put(out, "}");
    while ((8 + out->size) % DATA_ALIGNMENT != 0) put(out, " ");
}

static nnl_status write_header(const saver *s, nnl_writer *writer)
{
    void *block;
    text out = {0};
    put_header(s, &out);
    const size_t size = 8 + out.size;
    if (out.size > NNL_SAFETENSORS_MAX_HEADER) {
        return NNL_FAIL(s->rt, NNL_EINVAL,
                        "the header would have %zu bytes, but at most %d can be read", out.size,
                        NNL_SAFETENSORS_MAX_HEADER);
    }
    NNL_TRY(nnl_alloc(s->rt, size, &block));
    unsigned char *bytes = block;
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)((uint64_t)out.size >> (8 * i));
    out = (text){.data = (char *)block + 8};
    put_header(s, &out);
    nnl_status status = nnl_writer_write(writer, block, size);
    nnl_free(s->rt, block, size);
    return status;
}

static nnl_status write_tensor(const saver *s, nnl_tensor *t, nnl_writer *writer)
{
    const size_t size = (size_t)tensor_bytes(t);
    void *block;
    if (nnl_tensor_is_contiguous(t))
        return nnl_writer_write(writer, nnl_tensor_const_data(t), size);
    NNL_TRY(nnl_alloc(s->rt, size, &block));
    nnl_status status = nnl_tensor_read(t, nnl_tensor_dtype(t), block, size);
    if (status == NNL_OK) status = nnl_writer_write(writer, block, size);
    nnl_free(s->rt, block, size);
    return status;
}

static nnl_status write_file(const saver *s)
{
    nnl_writer writer;
    NNL_TRY(nnl_writer_open(s->rt, s->path, &writer));
    nnl_status status = write_header(s, &writer);
    for (int64_t i = 0; i < s->count && status == NNL_OK; i++) {
        status = write_tensor(s, ((const nnl_named_tensor *)s->tensors[i])->tensor, &writer);
    }
    if (status == NNL_OK) return nnl_writer_commit(&writer);
    nnl_writer_abort(&writer);
    return status;
}

nnl_status nnl_safetensors_save(nnl_runtime *rt, const char *path, const nnl_named_tensor *tensors,
                                int64_t count, const nnl_text_pair *meta, int64_t meta_count)
{
    saver s = {.rt = rt, .path = path, .count = count, .meta_count = meta_count};
    const size_t size = sizeof(void *) * (size_t)(count + meta_count);
    void *block;
    NNL_TRY(nnl_alloc(rt, size, &block));
    s.tensors = block;
    s.meta = s.tensors + count;
    nnl_status status = order_all(&s, tensors, meta);
    if (status == NNL_OK) status = write_file(&s);
    nnl_free(rt, block, size);
    return status;
}
