/* See data_file.h. */
#include "router/data/data_file.h"

#include "core/base/file.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 1 << 20 };

static int64_t changed(const struct stat *s)
{
    return (int64_t)s->st_mtim.tv_sec * 1000000000 + s->st_mtim.tv_nsec;
}

um_status um_data_reader_open(um_data_reader *r, const char *path, um_err *err)
{
    um_data_reader out = {.path = path, .fd = -1};
    struct stat s;
    um_status st = um_file_open_regular(&out.fd, &out.size, path, err);
    if (st != UM_OK) return UM_E_DATA;
    if (fstat(out.fd, &s) == 0) out.mtime = changed(&s);
    *r = out;
    return UM_OK;
}

void um_data_reader_close(um_data_reader *r)
{
    if (r->path != NULL && r->fd >= 0) close(r->fd);
    *r = (um_data_reader){.fd = -1};
}

static um_status items_take(um_json_lines *lines, const char *data, size_t n,
                            um_status (*take)(void *ctx, const um_json_item *item, um_err *err),
                            void *ctx, um_err *err)
{
    for (size_t at = 0; at < n;) {
        um_json_item item;
        at += um_json_lines_read(lines, &item, data + at, n - at);
        if (item.text != NULL) UM_TRY(take(ctx, &item, err));
    }
    return UM_OK;
}

um_status um_data_reader_all(const um_data_reader *r, const um_dataset_how *how, um_sha256 *digest,
                             um_status (*item)(void *ctx, const um_json_item *item, um_err *err),
                             void *ctx, um_err *err)
{
    um_json_lines lines = {.limit = UM_REQUEST_BYTES_MAX};
    char *block = um_alloc_aligned(BLOCK);
    um_status st = UM_OK;
    for (int64_t at = 0; st == UM_OK;) {
        ssize_t n = pread(r->fd, block, BLOCK, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) st = UM_FAIL(err, UM_E_DATA, "%s: %s", r->path, strerror(errno));
        if (n <= 0) break;
        if (digest != NULL) um_sha256_update(digest, block, (size_t)n);
        st = items_take(&lines, block, (size_t)n, item, ctx, err);
        if (how->progress != NULL) how->progress(how->ctx, n);
        at += n;
    }
    if (st == UM_OK) {
        um_json_item last;
        um_json_lines_end(&lines, &last);
        if (last.text != NULL) st = item(ctx, &last, err);
    }
    um_json_lines_free(&lines);
    um_free(block);
    return st;
}

um_status um_data_reader_text(const um_data_reader *r, char **out, uint64_t at, size_t n,
                              um_arena *arena, um_err *err)
{
    struct stat s;
    char *text = um_arena_alloc(arena, n + 1);
    size_t got = 0;
    if (fstat(r->fd, &s) != 0) return UM_FAIL(err, UM_E_DATA, "%s: %s", r->path, strerror(errno));
    if (s.st_size != r->size || changed(&s) != r->mtime)
        return UM_FAIL(err, UM_E_DATA,
                       "%s: has changed since it was opened; leave data files as they are while "
                       "they are in use",
                       r->path);
    while (got < n) {
        ssize_t k = pread(r->fd, text + got, n - got, (off_t)(at + got));
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0)
            return UM_FAIL(err, UM_E_DATA, "%s: %s", r->path,
                           k < 0 ? strerror(errno) : "ends before the sample does");
        got += (size_t)k;
    }
    text[n] = '\0';
    *out = text;
    return UM_OK;
}

const char *um_data_folder(const um_dataset_how *how, const char *path, um_arena *arena)
{
    return how->media_folder != NULL && how->media_folder[0] != '\0' ? how->media_folder
                                                                     : um_path_dir(arena, path);
}
