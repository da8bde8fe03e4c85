/* Reading IDX files.  Sizes are checked against the file before the tensor is made; of a compressed
 * file, whose length is not known before it is unpacked, against the most that deflate can pack. */
#include "idx.h"

#include "../base/file.h"

#include <string.h>

#if NNL_HAVE_ZLIB
#include <zlib.h>
#endif

static const struct {
    uint8_t code, file_size;
    nnl_dtype dtype;
} types[] = {
    {0x08, 1, NNL_U8},  {0x09, 1, NNL_I32}, {0x0B, 2, NNL_I32},
    {0x0C, 4, NNL_I32}, {0x0D, 4, NNL_F32}, {0x0E, 8, NNL_F64},
};

/* Where the bytes come from: the file itself, or what it unpacks to. */
typedef struct source {
    nnl_reader *reader;
    int64_t most; /* bytes that can come, at most */
    bool exact;   /* and at least */
    nnl_status (*read)(struct source *source, void *buffer, size_t size);
    nnl_status (*finish)(struct source *source); /* nothing may be left */
#if NNL_HAVE_ZLIB
    z_stream stream;
    bool ended; /* the last byte unpacked was the last of a member of the gzip file */
    unsigned char input[1 << 14];
#endif
} source;

static nnl_status bad(const source *s, int64_t at, nnl_status status)
{
    return nnl_reader_error(s->reader, at, status);
}

static nnl_status plain_read(source *s, void *buffer, size_t size)
{
    return nnl_reader_read(s->reader, buffer, size);
}

static nnl_status plain_finish(source *s)
{
    const int64_t left = s->reader->size - s->reader->offset;
    if (left == 0) return NNL_OK;
    return bad(s, s->reader->offset,
               NNL_FAIL(s->reader->rt, NNL_EFORMAT, "%lld bytes follow the last element",
                        (long long)left));
}

/* ---------------------------------------------------------------- gzip */

#if NNL_HAVE_ZLIB
/* zlib does not say at the end how large a block was: its size stands before it. */
#define BLOCK_HEAD 64

static void *zlib_alloc(void *user, unsigned count, unsigned size)
{
    void *block;
    const size_t bytes = BLOCK_HEAD + (size_t)count * size;
    if (nnl_alloc(user, bytes, &block) != NNL_OK) return NULL;
    memcpy(block, &bytes, sizeof bytes);
    return (char *)block + BLOCK_HEAD;
}

static void zlib_free(void *user, void *address)
{
    size_t bytes;
    if (!address) return;
    void *block = (char *)address - BLOCK_HEAD;
    memcpy(&bytes, block, sizeof bytes);
    nnl_free(user, block, bytes);
}

static nnl_status refill(source *s)
{
    const int64_t left = s->reader->size - s->reader->offset;
    const size_t n = (size_t)NNL_MIN(left, (int64_t)sizeof s->input);
    NNL_TRY(nnl_reader_read(s->reader, s->input, n));
    s->stream.next_in = s->input;
    s->stream.avail_in = (unsigned)n;
    return NNL_OK;
}

/* Unpacks until `size` bytes are there, or the file has come to its proper end: *got is then
 * smaller. */
static nnl_status unpack(source *s, unsigned char *buffer, size_t size, size_t *got)
{
    nnl_runtime *rt = s->reader->rt;
    z_stream *stream = &s->stream;
    for (*got = 0; *got < size;) {
        if (stream->avail_in == 0) NNL_TRY(refill(s));
        if (s->ended) { /* the next member of the file, if there is one */
            if (stream->avail_in == 0) return NNL_OK;
            inflateReset(stream);
            s->ended = false;
        }
        const size_t piece = NNL_MIN(size - *got, (size_t)1 << 24);
        stream->next_out = buffer + *got;
        stream->avail_out = (unsigned)piece;
        const int result = inflate(stream, Z_NO_FLUSH);
        *got += piece - stream->avail_out;
        s->ended = result == Z_STREAM_END;
        if (s->ended || result == Z_OK) continue;

        if (result == Z_MEM_ERROR) return NNL_FAIL(rt, NNL_ENOMEM, "out of memory while unpacking");
        const char *what = result == Z_BUF_ERROR ? "the file ends here, unfinished"
                           : stream->msg         ? stream->msg
                                                 : "damaged data";
        return bad(s, s->reader->offset - (int64_t)stream->avail_in,
                   NNL_FAIL(rt, NNL_EFORMAT, "gzip: %s", what));
    }
    return NNL_OK;
}

static nnl_status gzip_read(source *s, void *buffer, size_t size)
{
    size_t got;
    NNL_TRY(unpack(s, buffer, size, &got));
    if (got == size) return NNL_OK;
    return bad(s, s->reader->size,
               NNL_FAIL(s->reader->rt, NNL_EFORMAT,
                        "the unpacked data end here, %zu bytes are missing", size - got));
}

static nnl_status gzip_finish(source *s)
{
    size_t got;
    unsigned char more;
    NNL_TRY(unpack(s, &more, 1, &got));
    if (got == 0) return NNL_OK;
    return bad(
        s, s->reader->offset - (int64_t)s->stream.avail_in,
        NNL_FAIL(s->reader->rt, NNL_EFORMAT, "the unpacked data go on behind the last element"));
}

#define DEFLATE_MOST 1032 /* bytes from one, zlib's technical details */

static nnl_status gzip_open(source *s)
{
    s->stream = (z_stream){.zalloc = zlib_alloc, .zfree = zlib_free, .opaque = s->reader->rt};
    s->read = gzip_read;
    s->finish = gzip_finish;
    s->exact = s->ended = false;
    if (!nnl_mul_size(s->reader->size, DEFLATE_MOST, &s->most)) s->most = INT64_MAX;
    if (inflateInit2(&s->stream, 16 + MAX_WBITS) == Z_OK) return NNL_OK;
    return NNL_FAIL(s->reader->rt, NNL_ENOMEM, "out of memory while unpacking");
}

static void gzip_close(source *s) { inflateEnd(&s->stream); }
#else
static nnl_status gzip_open(source *s)
{
    return bad(
        s, 0,
        NNL_FAIL(
            s->reader->rt, NNL_EUNSUPPORTED,
            "the file is compressed by gzip, but this build has no zlib: unpack it with gunzip, "
            "or build with zlib"));
}

static void gzip_close(source *s) { (void)s; }
#endif

/* ---------------------------------------------------------------- the file */

static uint32_t big_endian(const unsigned char bytes[4])
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* Turns n elements of `size` big-endian bytes into this machine's, in place; i8 and i16 become i32
 * and lie at the buffer's end, so that the growing copy stays behind what is still to be read. */
static void convert(unsigned char *buffer, int64_t n, int type)
{
    const unsigned char *from = buffer + n * (4 - types[type].file_size);
    switch (types[type].code) {
    case 0x09:
        for (int64_t i = 0; i < n; i++) {
            const int32_t value = (int8_t)from[i];
            memcpy(buffer + 4 * i, &value, 4);
        }
        return;
    case 0x0B:
        for (int64_t i = 0; i < n; i++) {
            const int32_t value = (int16_t)(from[2 * i] << 8 | from[2 * i + 1]);
            memcpy(buffer + 4 * i, &value, 4);
        }
        return;
    case 0x0C:
    case 0x0D:
        for (int64_t i = 0; i < n; i++) {
            const uint32_t value = big_endian(buffer + 4 * i);
            memcpy(buffer + 4 * i, &value, 4);
        }
        return;
    case 0x0E:
        for (int64_t i = 0; i < n; i++) {
            const uint64_t value =
                (uint64_t)big_endian(buffer + 8 * i) << 32 | big_endian(buffer + 8 * i + 4);
            memcpy(buffer + 8 * i, &value, 8);
        }
        return;
    default: return; /* single bytes */
    }
}

typedef struct header {
    int type, ndim; /* place in types[] */
    int64_t shape[NNL_MAX_DIMS];
    int64_t numel, bytes; /* of the elements in the file */
} header;

static nnl_status read_header(source *s, header *h)
{
    nnl_runtime *rt = s->reader->rt;
    unsigned char bytes[4 + 4 * NNL_MAX_DIMS];
    NNL_TRY(s->read(s, bytes, 4));
    if (bytes[0] != 0 || bytes[1] != 0) {
        return bad(s, 0,
                   NNL_FAIL(rt, NNL_EFORMAT, "not an IDX file: it begins with bytes %u %u, not 0 0",
                            (unsigned)bytes[0], (unsigned)bytes[1]));
    }
    h->type = 0;
    while (h->type < NNL_COUNT(types) && types[h->type].code != bytes[2]) h->type++;
    if (h->type == NNL_COUNT(types)) {
        return bad(s, 2,
                   NNL_FAIL(rt, NNL_EFORMAT, "type 0x%02x does not exist", (unsigned)bytes[2]));
    }
    h->ndim = bytes[3];
    if (h->ndim > NNL_MAX_DIMS) {
        return bad(s, 3,
                   NNL_FAIL(rt, NNL_EFORMAT, "%d dimensions, but at most %d can be read", h->ndim,
                            NNL_MAX_DIMS));
    }
    if (h->ndim > 0) NNL_TRY(s->read(s, bytes + 4, 4 * (size_t)h->ndim));

    /* the product without the zeros must fit, since strides are made of it */
    int64_t product = types[h->type].file_size;
    bool fits = true, empty = false;
    for (int d = 0; d < h->ndim; d++) {
        h->shape[d] = big_endian(bytes + 4 + 4 * d);
        if (h->shape[d] == 0)
            empty = true;
        else
            fits = fits && nnl_mul_size(product, h->shape[d], &product);
    }
    h->bytes = empty ? 0 : product;
    h->numel = h->bytes / types[h->type].file_size;
    const int64_t start = 4 + 4 * h->ndim, left = s->most - start;
    if (fits && (s->exact ? h->bytes == left : h->bytes <= left)) return NNL_OK;
    char shape[NNL_SHAPE_TEXT];
    return bad(s, 4,
               NNL_FAIL(rt, NNL_EFORMAT,
                        "%s elements of %d bytes are declared, but %s%lld bytes follow",
                        nnl_shape_text(shape, h->ndim, h->shape), (int)types[h->type].file_size,
                        s->exact ? "" : "at most ", (long long)left));
}

static nnl_status read_elements(source *s, const header *h, nnl_tensor **out)
{
    nnl_tensor *t;
    const nnl_dtype dtype = types[h->type].dtype;
    NNL_TRY(nnl_tensor_new(s->reader->rt, dtype, h->ndim, h->shape, &t));
    unsigned char *buffer = nnl_tensor_data(t);
    const int64_t behind = h->numel * (int64_t)nnl_dtype_size(dtype) - h->bytes;
    nnl_status status = h->bytes > 0 ? s->read(s, buffer + behind, (size_t)h->bytes) : NNL_OK;
    if (status == NNL_OK) status = s->finish(s);
    if (status != NNL_OK) {
        nnl_tensor_unref(t);
        return status;
    }
    convert(buffer, h->numel, h->type);
    *out = t;
    return NNL_OK;
}

static nnl_status read_idx(nnl_reader *reader, nnl_tensor **out)
{
    unsigned char magic[2] = {0};
    header h;
    source s;
    s.reader = reader;
    s.most = reader->size;
    s.exact = true;
    s.read = plain_read;
    s.finish = plain_finish;
    if (reader->size >= 2) NNL_TRY(nnl_reader_read(reader, magic, 2));
    reader->offset = 0;
    const bool gzip = magic[0] == 0x1F && magic[1] == 0x8B;
    if (gzip) NNL_TRY(gzip_open(&s));
    nnl_status status = read_header(&s, &h);
    if (status == NNL_OK) status = read_elements(&s, &h, out);
    if (gzip) gzip_close(&s);
    return status;
}

nnl_status nnl_idx_load(nnl_runtime *rt, const char *path, nnl_tensor **out)
{
    nnl_reader reader;
    *out = NULL;
    NNL_TRY(nnl_reader_open(rt, path, &reader));
    nnl_status status = read_idx(&reader, out);
    nnl_reader_close(&reader);
    return status;
}

nnl_status nnl_idx_read_memory(nnl_runtime *rt, const char *name, const void *bytes, size_t size,
                               nnl_tensor **out)
{
    nnl_reader reader = nnl_reader_of_memory(rt, name, bytes, size);
    *out = NULL;
    return read_idx(&reader, out);
}
