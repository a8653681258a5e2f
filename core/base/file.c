/* See file.h. */
#include "core/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static um_status sys_fail(um_err *err, const char *path)
{
    return UM_FAIL(err, UM_E_IO, "%s: %s", path, strerror(errno));
}

/* open() failed. A link that leads nowhere is as common as a missing file: a model cache moved without its blobs, or a download that
 * was interrupted. */
static um_status open_fail(um_err *err, const char *path)
{
    char target[512];
    int why = errno;
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n > 0 && (why == ENOENT || why == ENOTDIR)) {
        target[n] = '\0';
        return UM_FAIL(err, UM_E_IO, "%s: a symbolic link to %s, which does not exist", path,
                       target);
    }
    if (why == ELOOP)
        return UM_FAIL(err, UM_E_IO, "%s: a symbolic link that leads back to itself", path);
    errno = why;
    return sys_fail(err, path);
}

static um_status not_regular(um_err *err, const char *path, const struct stat *sb)
{
    return UM_FAIL(err, UM_E_IO, "%s: %s", path,
                   S_ISDIR(sb->st_mode) ? "a folder, not a file" : "not a regular file");
}

um_status um_file_map(um_file *f, const char *path, um_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return open_fail(err, path);
    struct stat sb;
    um_status st = UM_OK;
    um_file out = {0};
    if (fstat(fd, &sb) != 0) {
        st = sys_fail(err, path);
    } else if (!S_ISREG(sb.st_mode)) {
        st = not_regular(err, path, &sb);
    } else if (sb.st_size > 0) {
        void *p = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            st = sys_fail(err, path);
        else
            out = (um_file){p, (size_t)sb.st_size};
    }
    close(fd);
    if (st == UM_OK) *f = out;
    return st;
}

void um_file_unmap(um_file *f)
{
    if (f->data != NULL) munmap((void *)(uintptr_t)f->data, f->size);
    *f = (um_file){0};
}

void um_file_forget(const um_file *f, size_t offset, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t from = (offset + page - 1) / page * page, to = (offset + bytes) / page * page;
    if (f->data != NULL && to > from)
        madvise((void *)(uintptr_t)(f->data + from), to - from, MADV_DONTNEED);
}

/* Reads fd to its end and closes it. */
static um_status read_all(uint8_t **out, size_t *size, int fd, const char *path, size_t limit,
                          um_arena *arena, um_err *err)
{
    uint8_t *buf = NULL;
    size_t cap = 0, n = 0;
    um_status st = UM_OK;
    for (;;) {
        if (n == cap) buf = um_realloc(buf, cap = cap == 0 ? 65536 : cap * 2);
        ssize_t got = read(fd, buf + n, cap - n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EISDIR)
            st = UM_FAIL(err, UM_E_IO, "%s: a folder, not a file", path);
        else if (got < 0)
            st = sys_fail(err, path);
        if (got <= 0) break;
        n += (size_t)got;
        if (n > limit) {
            st = UM_FAIL(err, UM_E_LIMIT, "%s: larger than the limit of %zu bytes", path, limit);
            break;
        }
    }
    if (st == UM_OK) {
        *out = (uint8_t *)um_arena_strn(arena, (const char *)buf, n);
        *size = n;
    }
    um_free(buf);
    close(fd);
    return st;
}

um_status um_file_read(uint8_t **out, size_t *size, const char *path, size_t limit, um_arena *arena,
                       um_err *err)
{
    int fd = strcmp(path, "-") == 0 ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return open_fail(err, path);
    return read_all(out, size, fd, path, limit, arena, err);
}

um_status um_file_open_regular(int *fd, int64_t *size, const char *path, um_err *err)
{
    int f = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC); /* a pipe would block */
    if (f < 0) return open_fail(err, path);
    struct stat sb;
    um_status st = UM_OK;
    if (fstat(f, &sb) != 0)
        st = sys_fail(err, path);
    else if (!S_ISREG(sb.st_mode))
        st = not_regular(err, path, &sb);
    if (st != UM_OK) {
        close(f);
        return st;
    }
    *fd = f;
    *size = (int64_t)sb.st_size;
    return UM_OK;
}

um_status um_file_read_piece(int fd, void *to, size_t n, const char *path, um_err *err)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = read(fd, (char *)to + done, n - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return sys_fail(err, path);
        if (got == 0) return UM_FAIL(err, UM_E_IO, "%s: was cut off while it was read", path);
        done += (size_t)got;
    }
    return UM_OK;
}

um_status um_file_read_regular(uint8_t **out, size_t *size, const char *path, size_t limit,
                               um_arena *arena, um_err *err)
{
    int fd = -1;
    int64_t now = 0;
    UM_TRY(um_file_open_regular(&fd, &now, path, err));
    return read_all(out, size, fd, path, limit, arena, err);
}

/* write() failed: says how much room was missing, where that is the cause. */
static um_status put_fail(um_err *err, int fd, const char *path, size_t missing)
{
    const int why = errno;
    struct statvfs fs;
    if (why == ENOSPC && fstatvfs(fd, &fs) == 0)
        UM_FAIL(err, UM_E_IO, "%s: %s: %zu more bytes were to be written, %llu are free", path,
                strerror(why), missing,
                (unsigned long long)fs.f_bavail * (unsigned long long)fs.f_frsize);
    else if (why == ENOSPC || why == EDQUOT)
        UM_FAIL(err, UM_E_IO, "%s: %s: %zu more bytes were to be written", path, strerror(why),
                missing);
    else if (why == EFBIG)
        UM_FAIL(err, UM_E_IO,
                "%s: %s: %zu more bytes were to be written, which the limit of this process "
                "(ulimit -f) or of the file system does not allow",
                path, strerror(why), missing);
    else
        UM_FAIL(err, UM_E_IO, "%s: %s", path, strerror(why));
    errno = why;
    return UM_E_IO;
}

um_status um_file_put_part(int fd, const void *data, size_t size, size_t rest, const char *tmp,
                           um_err *err)
{
    for (const char *p = data; size > 0;) {
        ssize_t n = write(fd, p, size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return put_fail(err, fd, tmp, size + rest);
        p += n;
        size -= (size_t)n;
    }
    return UM_OK;
}

um_status um_file_put(int fd, const void *data, size_t size, const char *tmp, um_err *err)
{
    return um_file_put_part(fd, data, size, 0, tmp, err);
}

um_status um_file_append(int fd, const void *data, size_t size, const char *name, um_err *err)
{
    const off_t end = lseek(fd, 0, SEEK_END);
    um_status st = um_file_put(fd, data, size, name, err);
    if (st == UM_OK || end < 0) return st;
    if (ftruncate(fd, end) != 0)
        return um_wrap(err, st, "%s cannot be cut off at byte %lld", name, (long long)end);
    return st;
}

void um_file_sync_folder(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    fsync(fd);
    close(fd);
}

um_status um_file_commit(int fd, const char *tmp, const char *path, um_err *err)
{
    um_status st = fsync(fd) != 0 ? sys_fail(err, tmp) : UM_OK;
    if (close(fd) != 0 && st == UM_OK) st = sys_fail(err, tmp);
    if (st == UM_OK && rename(tmp, path) != 0) st = sys_fail(err, path);
    if (st != UM_OK) {
        unlink(tmp);
        return st;
    }
    um_arena a;
    um_arena_init(&a, "path", 4096);
    um_file_sync_folder(um_path_dir(&a, path));
    um_arena_free(&a);
    return UM_OK;
}

bool um_file_is_special(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 && !S_ISREG(sb.st_mode) && !S_ISDIR(sb.st_mode);
}

/* A device or a pipe is written to; a rename would replace it. */
static um_status write_special(const char *path, const void *data, size_t size, um_err *err)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return sys_fail(err, path);
    um_status st = um_file_put(fd, data, size, path, err);
    if (close(fd) != 0 && st == UM_OK) st = sys_fail(err, path);
    return st;
}

um_status um_file_write(const char *path, const void *data, size_t size, um_err *err)
{
    if (um_file_is_special(path)) return write_special(path, data, size, err);
    um_arena a;
    um_arena_init(&a, "path", 4096);
    char *tmp = um_arena_fmt(&a, "%s.tmp.%ld", path, (long)getpid());
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    um_status st = fd < 0 ? sys_fail(err, tmp) : um_file_put(fd, data, size, tmp, err);
    if (st == UM_OK) {
        st = um_file_commit(fd, tmp, path, err);
    } else if (fd >= 0) {
        close(fd);
        unlink(tmp);
    }
    um_arena_free(&a);
    return st;
}

bool um_file_exists(const char *path) { return access(path, F_OK) == 0; }

bool um_file_named(const char *path)
{
    struct stat sb;
    return lstat(path, &sb) == 0;
}

bool um_file_is_folder(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
}

um_status um_file_mkdirs(const char *path, um_err *err)
{
    um_arena a;
    um_arena_init(&a, "path", 4096);
    char *p = um_arena_str(&a, path);
    um_status st = UM_OK;
    for (char *s = p + 1; st == UM_OK; s++) {
        char c = *s;
        if (c != '/' && c != '\0') continue;
        *s = '\0';
        if (mkdir(p, 0755) != 0 && errno != EEXIST)
            st = sys_fail(err, p);
        else if (!um_file_is_folder(p))
            st = UM_FAIL(err, UM_E_IO, "%s: a file, not a folder", p);
        *s = c;
        if (c == '\0') break;
    }
    um_arena_free(&a);
    return st;
}

char *um_path_join(um_arena *arena, const char *dir, const char *name)
{
    if (name[0] == '/') return um_arena_str(arena, name);
    return um_arena_fmt(arena, "%s/%s", dir, name);
}

char *um_path_dir(um_arena *arena, const char *path)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL) return um_arena_str(arena, ".");
    if (slash == path) return um_arena_str(arena, "/");
    return um_arena_strn(arena, path, (size_t)(slash - path));
}
