/* Files: read in pieces, mapped whole, written whole or not at all.  Only regular files are
 * touched, so that a name like /dev/null is never replaced and a pipe never blocks. */
#ifndef NNL_FILE_H
#define NNL_FILE_H

#include "base.h"

/* Puts "path: byte N: " (or "path: " when offset is negative) before the message that stands, and
 * returns status: return nnl_file_error(rt, path, 8, NNL_FAIL(rt, NNL_EFORMAT, "...")). */
nnl_status nnl_file_error(nnl_runtime *rt, const char *path, int64_t offset, nnl_status status);

/* Bytes of a file made fit for a message: clipped, control bytes as '?'.  Returns buffer. */
#define NNL_CLIP_SIZE 96
const char *nnl_clip(char buffer[NNL_CLIP_SIZE], const void *bytes, size_t length);

/* ---- reading in pieces: a file, or bytes in memory that stand for one */

typedef struct nnl_reader {
    nnl_runtime *rt;
    const char *name; /* borrowed: must outlive the reader */
    int fd;           /* -1: memory */
    const uint8_t *memory;
    int64_t size, offset;
} nnl_reader;

/* NNL_EIO: missing, not allowed, a directory or another thing that is no regular file. */
nnl_status nnl_reader_open(nnl_runtime *rt, const char *path, nnl_reader *out);
/* `bytes` is borrowed; `name` stands for the path in messages. */
nnl_reader nnl_reader_of_memory(nnl_runtime *rt, const char *name, const void *bytes, size_t size);
/* Exactly `size` bytes from the reader's offset, which moves.  NNL_EFORMAT when the file ends
 * before, NNL_ECANCELLED. */
nnl_status nnl_reader_read(nnl_reader *reader, void *buffer, size_t size);
void nnl_reader_close(nnl_reader *reader);
/* The message that stands, preceded by the reader's name and a place in it. */
nnl_status nnl_reader_error(const nnl_reader *reader, int64_t offset, nnl_status status);

/* ---- a whole file in memory, without reading it: changes to the bytes stay private.  The pages
 * belong to the operating system's cache and are not counted by the runtime.  Another process that
 * cuts the file short meanwhile makes them unreadable (SIGBUS); nnl_writer never does that, it
 * replaces files. */

typedef struct nnl_mapping {
    int32_t refs;
    nnl_runtime *rt;
    void *data; /* page-aligned; NULL when the file is empty */
    size_t size;
} nnl_mapping;

nnl_status nnl_mapping_open(nnl_runtime *rt, const char *path, nnl_mapping **out);
nnl_mapping *nnl_mapping_ref(nnl_mapping *mapping);
void nnl_mapping_unref(nnl_mapping *mapping); /* NULL is allowed */

/* ---- writing: into a temporary file of the same folder, which takes the name at commit.  Readers
 * see the old file or the new one.  A symbolic link is followed; the permissions of a file that is
 * replaced stay. */

typedef struct nnl_writer {
    nnl_runtime *rt;
    const char *path; /* borrowed */
    int fd;
    char *names; /* one block: temporary name, final name */
    size_t names_size, final_at;
    int64_t offset; /* bytes written so far */
} nnl_writer;

nnl_status nnl_writer_open(nnl_runtime *rt, const char *path, nnl_writer *out);
nnl_status nnl_writer_write(nnl_writer *writer, const void *bytes, size_t size);
/* Writes through to the disk (fsync of file and folder) and puts the file in its place.  The writer
 * is finished whatever is returned; after a failure the old file stands. */
nnl_status nnl_writer_commit(nnl_writer *writer);
void nnl_writer_abort(nnl_writer *writer); /* forgets it all; does nothing after a commit */

#endif
