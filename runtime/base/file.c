/* Files by POSIX calls: stdio would allocate behind the host's back and hide short writes. */
#define _XOPEN_SOURCE 700
#define _FILE_OFFSET_BITS 64

#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The cancel flag is looked at between pieces of this size. */
#define PIECE ((size_t)16 << 20)

/* ---------------------------------------------------------------- messages */

const char *nnl_clip(char buffer[NNL_CLIP_SIZE], const void *bytes, size_t length)
{
    const unsigned char *text = bytes;
    const size_t room = NNL_CLIP_SIZE - 4;
    size_t n = NNL_MIN(length, room);
    /* a character of several bytes is not cut in the middle */
    while (n < length && n > 0 && (text[n] & 0xC0) == 0x80) n--;
    for (size_t i = 0; i < n; i++)
        buffer[i] = text[i] < 0x20 || text[i] == 0x7F ? '?' : (char)text[i];
    memcpy(buffer + n, n < length ? "..." : "", n < length ? 4 : 1);
    return buffer;
}

nnl_status nnl_file_error(nnl_runtime *rt, const char *path, int64_t offset, nnl_status status)
{
    /* the end of a long path says more than its beginning */
    const size_t length = strlen(path), most = 400;
    const char *dots = length > most ? "..." : "";
    const char *end = length > most ? path + (length - most) : path;
    if (offset < 0)
        nnl_error_prefix(rt, "%s%s", dots, end);
    else
        nnl_error_prefix(rt, "%s%s: byte %lld", dots, end, (long long)offset);
    return status;
}

/* As strerror, which follows the locale. */
static const struct {
    int error;
    const char *text;
} reasons[] = {
    {ENOENT, "no such file or directory"},
    {EACCES, "permission denied"},
    {EPERM, "operation not permitted"},
    {EISDIR, "is a directory"},
    {ENOTDIR, "a part of the path is not a directory"},
    {ENAMETOOLONG, "the name is too long"},
    {ELOOP, "too many symbolic links"},
    {ENOSPC, "no space left on the device"},
    {EDQUOT, "the disk quota is used up"},
    {EFBIG, "the file would be larger than allowed"},
    {EROFS, "the file system is read-only"},
    {EMFILE, "too many open files in this process"},
    {ENFILE, "too many open files in the system"},
    {ENOMEM, "the operating system is out of memory"},
    {EIO, "input/output error"},
    {EBUSY, "the file is in use"},
    {ENODEV, "the file system does not map files"},
};

static nnl_status os_error(nnl_runtime *rt, const char *path, int64_t offset, const char *what,
                           int error)
{
    char number[32];
    const char *text = NULL;
    for (int i = 0; i < NNL_COUNT(reasons); i++) {
        if (reasons[i].error == error) text = reasons[i].text;
    }
    if (!text) {
        nnl_format(number, sizeof number, "system error %d", error);
        text = number;
    }
    return nnl_file_error(rt, path, offset, NNL_FAIL(rt, NNL_EIO, "%s: %s", what, text));
}

/* ---------------------------------------------------------------- reading */

/* Without O_NONBLOCK, opening a pipe would wait for its writer; regular files ignore it. */
static nnl_status open_regular(nnl_runtime *rt, const char *path, int *out, int64_t *size)
{
    int fd;
    do {
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) return os_error(rt, path, -1, "cannot be opened", errno);

    struct stat info;
    int error = fstat(fd, &info) != 0 ? errno : S_ISDIR(info.st_mode) ? EISDIR : 0;
    if (error == 0 && S_ISREG(info.st_mode)) {
        *out = fd;
        *size = info.st_size;
        return NNL_OK;
    }
    close(fd);
    if (error != 0) return os_error(rt, path, -1, "cannot be read", error);
    return nnl_file_error(rt, path, -1,
                          NNL_FAIL(rt, NNL_EIO, "cannot be read: not a regular file"));
}

nnl_status nnl_reader_open(nnl_runtime *rt, const char *path, nnl_reader *out)
{
    nnl_reader reader = {.rt = rt, .name = path, .fd = -1};
    NNL_TRY(open_regular(rt, path, &reader.fd, &reader.size));
    *out = reader;
    return NNL_OK;
}

nnl_reader nnl_reader_of_memory(nnl_runtime *rt, const char *name, const void *bytes, size_t size)
{
    return (nnl_reader){.rt = rt, .name = name, .fd = -1, .memory = bytes, .size = (int64_t)size};
}

nnl_status nnl_reader_error(const nnl_reader *reader, int64_t offset, nnl_status status)
{
    return nnl_file_error(reader->rt, reader->name, offset, status);
}

static nnl_status ends_early(const nnl_reader *reader, int64_t missing)
{
    return nnl_reader_error(reader, reader->size,
                            NNL_FAIL(reader->rt, NNL_EFORMAT,
                                     "the file ends here, %lld bytes are missing",
                                     (long long)missing));
}

nnl_status nnl_reader_read(nnl_reader *reader, void *buffer, size_t size)
{
    const int64_t left = reader->size - reader->offset;
    if (left < 0 || size > (uint64_t)left) return ends_early(reader, (int64_t)size - left);
    if (reader->fd < 0) {
        if (size > 0) memcpy(buffer, reader->memory + reader->offset, size);
        reader->offset += (int64_t)size;
        return NNL_OK;
    }
    char *place = buffer;
    while (size > 0) {
        NNL_TRY(nnl_poll_cancel(reader->rt));
        const ssize_t got = pread(reader->fd, place, NNL_MIN(size, PIECE), (off_t)reader->offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return os_error(reader->rt, reader->name, reader->offset, "cannot be read", errno);
        if (got == 0) { /* somebody cut the file since it was opened */
            reader->size = reader->offset;
            return ends_early(reader, (int64_t)size);
        }
        place += got;
        size -= (size_t)got;
        reader->offset += got;
    }
    return NNL_OK;
}

void nnl_reader_close(nnl_reader *reader)
{
    if (reader->fd >= 0) close(reader->fd);
    reader->fd = -1;
    reader->size = reader->offset = 0;
}

/* ---------------------------------------------------------------- mapping */

nnl_status nnl_mapping_open(nnl_runtime *rt, const char *path, nnl_mapping **out)
{
    void *block;
    int fd;
    int64_t size;
    NNL_TRY(nnl_alloc(rt, sizeof(nnl_mapping), &block));
    nnl_status status = open_regular(rt, path, &fd, &size);
    if (status != NNL_OK) {
        nnl_free(rt, block, sizeof(nnl_mapping));
        return status;
    }
    void *data = NULL;
    int error = (uint64_t)size > SIZE_MAX / 2 ? EFBIG : 0;
    if (error == 0 && size > 0) {
        data = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) error = errno;
    }
    close(fd);
    if (error != 0) {
        nnl_free(rt, block, sizeof(nnl_mapping));
        return os_error(rt, path, -1, "cannot be mapped", error);
    }
    nnl_mapping *mapping = block;
    *mapping = (nnl_mapping){.refs = 1, .rt = rt, .data = data, .size = (size_t)size};
    *out = mapping;
    return NNL_OK;
}

nnl_mapping *nnl_mapping_ref(nnl_mapping *mapping)
{
    mapping->refs++;
    return mapping;
}

void nnl_mapping_unref(nnl_mapping *mapping)
{
    if (!mapping || --mapping->refs > 0) return;
    if (mapping->data) munmap(mapping->data, mapping->size);
    nnl_free(mapping->rt, mapping, sizeof *mapping);
}

/* ---------------------------------------------------------------- writing */

/* Where the bytes will stand: the path, or what it links to.  mode: the permissions to give. */
static nnl_status find_target(nnl_runtime *rt, const char *path, char resolved[PATH_MAX],
                              const char **target, mode_t *mode)
{
    struct stat info;
    *target = path;
    *mode = 0;
    if (path[0] == '\0') return NNL_FAIL(rt, NNL_EIO, "an empty path cannot be written");
    if (lstat(path, &info) != 0) {
        return errno == ENOENT ? NNL_OK : os_error(rt, path, -1, "cannot be written", errno);
    }
    if (S_ISLNK(info.st_mode)) {
        if (!realpath(path, resolved))
            return os_error(rt, path, -1, "the link leads nowhere", errno);
        *target = resolved;
        if (stat(resolved, &info) != 0) return os_error(rt, path, -1, "cannot be written", errno);
    }
    if (S_ISDIR(info.st_mode)) return os_error(rt, path, -1, "cannot be written", EISDIR);
    if (!S_ISREG(info.st_mode)) {
        return nnl_file_error(rt, path, -1,
                              NNL_FAIL(rt, NNL_EIO, "cannot be written: not a regular file"));
    }
    *mode = info.st_mode & 07777;
    return NNL_OK;
}

static void forget_names(nnl_writer *writer)
{
    nnl_free(writer->rt, writer->names, writer->names_size);
    writer->names = NULL;
}

/* The temporary name does not hold the final one, which may be as long as a name can be. */
#define TEMPORARY_ROOM 64
#define TEMPORARY_TRIES 1000

static nnl_status open_temporary(nnl_writer *writer, size_t folder)
{
    for (int i = 0; i < TEMPORARY_TRIES; i++) {
        nnl_format(writer->names + folder, TEMPORARY_ROOM, ".nnlua-%ld-%d.tmp", (long)getpid(), i);
        do {
            writer->fd = open(writer->names, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        } while (writer->fd < 0 && errno == EINTR);
        if (writer->fd >= 0) return NNL_OK;
        if (errno != EEXIST) break;
    }
    return os_error(writer->rt, writer->path, -1, "cannot be written", errno);
}

nnl_status nnl_writer_open(nnl_runtime *rt, const char *path, nnl_writer *out)
{
    char resolved[PATH_MAX];
    const char *target;
    mode_t mode;
    void *block;
    NNL_TRY(find_target(rt, path, resolved, &target, &mode));

    const char *slash = strrchr(target, '/');
    const size_t folder = slash ? (size_t)(slash - target) + 1 : 0;
    const size_t length = strlen(target) + 1;
    nnl_writer writer = {.rt = rt, .path = path, .fd = -1};
    writer.final_at = folder + TEMPORARY_ROOM;
    writer.names_size = writer.final_at + length;
    NNL_TRY(nnl_alloc(rt, writer.names_size, &block));
    writer.names = block;
    memcpy(writer.names, target, folder);
    memcpy(writer.names + writer.final_at, target, length);

    nnl_status status = open_temporary(&writer, folder);
    if (status != NNL_OK) {
        forget_names(&writer);
        return status;
    }
    /* where permissions cannot be kept (foreign file systems), the default ones serve */
    if (mode != 0 && fchmod(writer.fd, mode) != 0) errno = 0;
    *out = writer;
    return NNL_OK;
}

nnl_status nnl_writer_write(nnl_writer *writer, const void *bytes, size_t size)
{
    const char *place = bytes;
    while (size > 0) {
        NNL_TRY(nnl_poll_cancel(writer->rt));
        const ssize_t put = write(writer->fd, place, NNL_MIN(size, PIECE));
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) {
            return os_error(writer->rt, writer->path, writer->offset, "cannot be written",
                            put < 0 ? errno : EIO);
        }
        place += put;
        size -= (size_t)put;
        writer->offset += put;
    }
    return NNL_OK;
}

/* The name is durable only when the folder is.  Folders that cannot be opened or synchronised (by
 * right or by kind of file system) are left to the operating system. */
static int sync_folder(const char *final)
{
    char name[PATH_MAX];
    const char *slash = strrchr(final, '/');
    const size_t length = slash ? (size_t)(slash - final) + 1 : 1;
    if (length >= sizeof name) return 0;
    memcpy(name, slash ? final : ".", length);
    name[length] = '\0';
    const int fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return 0;
    const int error = fsync(fd) != 0 ? errno : 0;
    close(fd);
    return error == EIO ? error : 0;
}

nnl_status nnl_writer_commit(nnl_writer *writer)
{
    nnl_runtime *rt = writer->rt;
    const char *final = writer->names + writer->final_at;
    int error = fsync(writer->fd) != 0 ? errno : 0;
    if (close(writer->fd) != 0 && error == 0) error = errno;
    writer->fd = -1;
    if (error == 0 && rename(writer->names, final) != 0) error = errno;
    if (error != 0) {
        unlink(writer->names);
        forget_names(writer);
        return os_error(rt, writer->path, writer->offset, "cannot be written", error);
    }
    error = sync_folder(final);
    forget_names(writer);
    if (error != 0)
        return os_error(rt, writer->path, -1, "written, but its folder is not on disk", error);
    return NNL_OK;
}

void nnl_writer_abort(nnl_writer *writer)
{
    if (!writer->names) return;
    if (writer->fd >= 0) {
        close(writer->fd);
        unlink(writer->names);
    }
    writer->fd = -1;
    forget_names(writer);
}
