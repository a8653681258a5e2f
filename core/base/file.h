/* Files: mapped reading, whole reading, durable writing. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

#include <stdint.h>

typedef struct um_file {
    const uint8_t *data; /* NULL when empty or not mapped */
    size_t size;
} um_file;

/* Maps path read-only. An empty file maps to data NULL, size 0. Errors name the path. */
um_status um_file_map(um_file *f, const char *path, um_err *err);
void um_file_unmap(um_file *f);
/* Tells the kernel that [offset, offset+bytes) will not be read again soon, so that it leaves our resident set. */
void um_file_forget(const um_file *f, size_t offset, size_t bytes);

/* The whole of a regular file or pipe of at most limit bytes, with a 0 byte behind it that *size does not count. */
um_status um_file_read(uint8_t **out, size_t *size, const char *path, size_t limit, um_arena *arena,
                       um_err *err);
/* The same of a regular file only, whatever its name ("-" too): a pipe or a device, which may never end or never answer, is an error. */
um_status um_file_read_regular(uint8_t **out, size_t *size, const char *path, size_t limit,
                               um_arena *arena, um_err *err);
/* Opens a regular file for reading in pieces, whatever its name; *size is what it has now. The caller closes *fd. */
um_status um_file_open_regular(int *fd, int64_t *size, const char *path, um_err *err);
/* Reads exactly n bytes from where fd stands. UM_E_IO when there are fewer: the file was cut off meanwhile. */
um_status um_file_read_piece(int fd, void *to, size_t n, const char *path, um_err *err);
/* Writes path.tmp, fsync, rename, fsync of the folder: path holds the old or the new content, never part of either. A path that is
 * a device or a pipe (/dev/stdout) is written to as it is. */
um_status um_file_write(const char *path, const void *data, size_t size, um_err *err);
/* The steps of a durable write, for files that are written piece by piece. um_file_put writes all of data to fd; um_file_commit
 * does fsync and close of fd (closed in any case), renames tmp to path, and does fsync of its folder; on failure it removes tmp.
 * Messages name tmp or path. */
um_status um_file_put(int fd, const void *data, size_t size, const char *tmp, um_err *err);
/* The same of a part of the file, behind which `rest` bytes are still to come: the message of a full disk counts them too. */
um_status um_file_put_part(int fd, const void *data, size_t size, size_t rest, const char *tmp,
                           um_err *err);
um_status um_file_commit(int fd, const char *tmp, const char *path, um_err *err);
/* Writes all of data behind the end of the file of fd, which is open with O_APPEND, or nothing: what a full disk has taken of it is cut
 * off again. */
um_status um_file_append(int fd, const void *data, size_t size, const char *name, um_err *err);
/* fsync of a folder, so that the names in it survive a power cut. A file system that does not support it is not an error. */
void um_file_sync_folder(const char *dir);
bool um_file_exists(const char *path);
/* true also for a symbolic link that leads nowhere, which opening then explains. */
bool um_file_named(const char *path);
bool um_file_is_folder(const char *path);
/* A device, a pipe or a socket. */
bool um_file_is_special(const char *path);
/* mkdir -p. UM_E_IO names what is in the way: a file of that name, for example. */
um_status um_file_mkdirs(const char *path, um_err *err);

/* dir + "/" + name, or name itself when it is absolute. */
char *um_path_join(um_arena *arena, const char *dir, const char *name);
/* The folder part of path ("." when there is none). */
char *um_path_dir(um_arena *arena, const char *path);
