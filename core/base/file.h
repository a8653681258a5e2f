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
/* The same of a regular file only, whatever its name ("-" too): a pipe or a device, which may never end or answer, is an error. */
um_status um_file_read_regular(uint8_t **out, size_t *size, const char *path, size_t limit,
                               um_arena *arena, um_err *err);
/* Writes path.tmp, fsync, rename, fsync of the folder: path holds the old or the new content, never a part. */
um_status um_file_write(const char *path, const void *data, size_t size, um_err *err);
bool um_file_exists(const char *path);
/* mkdir -p. */
um_status um_file_mkdirs(const char *path, um_err *err);

/* dir + "/" + name, or name itself when it is absolute. */
char *um_path_join(um_arena *arena, const char *dir, const char *name);
/* The folder part of path ("." when there is none). */
char *um_path_dir(um_arena *arena, const char *path);
