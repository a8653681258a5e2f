/* The writing half of safetensors.h: writes a header built from the list, then the data as it arrives, into a temporary file, which is
 * renamed once everything is on the disk. */
#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/nn/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct um_tensors_writer {
    um_arena arena;
    const char *path, *tmp;
    int fd;
    size_t want, given; /* bytes of data: expected, written so far */
};

static um_status sys_fail(um_err *err, const char *path)
{
    return UM_FAIL(err, UM_E_IO, "%s: %s", path, strerror(errno));
}

static void metadata_text(um_text *t, const char *const *metadata)
{
    um_text_fmt(t, "\"__metadata__\":{");
    for (const char *const *p = metadata; p[0] != NULL; p += 2) {
        if (p != metadata) um_text_add(t, ",", 1);
        um_text_json(t, p[0]);
        um_text_add(t, ":", 1);
        um_text_json(t, p[1]);
    }
    um_text_add(t, "}", 1);
}

/* Checks the caller's sizes in every build: otherwise only the next reader would notice a wrong header. */
static um_status list_check(const um_tensor *list, size_t n, um_err *err)
{
    for (size_t i = 0; i < n; i++) {
        const um_tensor *t = &list[i];
        size_t bytes = um_dtype_size(t->dtype);
        bool ok = t->rank >= 0 && t->rank <= UM_MAX_DIMS;
        for (int k = 0; ok && k < t->rank; k++)
            ok = t->shape[k] >= 0 && um_mul_ok(&bytes, bytes, (size_t)t->shape[k]);
        if (!ok || bytes != t->bytes) {
            return UM_FAIL(err, UM_E_LIMIT, "tensor %s: %zu bytes do not fit its shape", t->name,
                           t->bytes);
        }
    }
    return UM_OK;
}

/* {"dtype":"F32","shape":[4,64],"data_offsets":[0,1024]} */
static void entry_text(um_text *t, const um_tensor *x, size_t from)
{
    um_text_json(t, x->name);
    um_text_fmt(t, ":{\"dtype\":\"%s\",\"shape\":[", um_dtype_name(x->dtype));
    for (int i = 0; i < x->rank; i++) um_text_fmt(t, "%s%" PRId64, i > 0 ? "," : "", x->shape[i]);
    um_text_fmt(t, "],\"data_offsets\":[%zu,%zu]}", from, from + x->bytes);
}

/* The header, preceded by its length and padded with spaces so that the data begins at a multiple of 8. */
static void header_text(um_text *t, size_t *data_bytes, const um_tensor *list, size_t n,
                        const char *const *metadata)
{
    um_text_add(t, "\0\0\0\0\0\0\0\0{", 9);
    if (metadata != NULL) metadata_text(t, metadata);
    size_t from = 0;
    for (size_t i = 0; i < n; i++) {
        if (i > 0 || metadata != NULL) um_text_add(t, ",", 1);
        entry_text(t, &list[i], from);
        from += list[i].bytes;
    }
    um_text_add(t, "}", 1);
    while (t->n % 8 != 0) um_text_add(t, " ", 1);
    um_put_u64((uint8_t *)t->s, t->n - 8);
    *data_bytes = from;
}

size_t um_tensors_entry_bytes(const um_tensor *t)
{
    enum {
        SYMBOLS = 64,
        DIGITS = 20
    }; /* quotes, keys and brackets; digits of a size or an offset, with its comma */
    return 6 * strlen(t->name) + SYMBOLS +
           (size_t)(t->rank + 2) * DIGITS; /* an escape such as \\u0001 has six bytes */
}

static um_status header_check(const um_text *header, size_t tensors, um_err *err)
{
    if (header->n - 8 <= UM_TENSORS_HEADER_MAX) return UM_OK;
    return UM_FAIL(err, UM_E_LIMIT,
                   "%zu tensors need a header of %zu bytes, and a file may have %d: use smaller "
                   "shards",
                   tensors, header->n - 8, UM_TENSORS_HEADER_MAX);
}

um_status um_tensors_writer_open(um_tensors_writer **out, const char *path, const um_tensor *list,
                                 size_t n, const char *const *metadata, um_err *err)
{
    UM_TRY(um_wrap(err, list_check(list, n, err), "%s", path));
    if (um_file_is_special(path)) /* the rename would replace a device or pipe */
        return UM_FAIL(err, UM_E_IO, "%s: not a regular file", path);
    um_tensors_writer *w = um_zalloc(sizeof *w);
    um_text header = {0};
    um_arena_init(&w->arena, "safetensors", 4096);
    w->path = um_arena_str(&w->arena, path);
    w->tmp = um_arena_fmt(&w->arena, "%s.tmp.%ld", path, (long)getpid());
    header_text(&header, &w->want, list, n, metadata);
    w->fd = -1;
    um_status st = um_wrap(err, header_check(&header, n, err), "%s", path);
    if (st == UM_OK) w->fd = open(w->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (st == UM_OK)
        st = w->fd < 0 ? sys_fail(err, w->tmp)
                       : um_file_put_part(w->fd, header.s, header.n, w->want, w->tmp, err);
    um_text_free(&header);
    if (st == UM_OK)
        *out = w;
    else
        um_tensors_writer_close(w);
    return st;
}

um_status um_tensors_writer_add(um_tensors_writer *w, const void *data, size_t bytes, um_err *err)
{
    if (bytes > w->want - w->given) {
        return UM_FAIL(err, UM_E_LIMIT, "%s: more data than the header's %zu bytes", w->path,
                       w->want);
    }
    w->given += bytes;
    return um_file_put_part(w->fd, data, bytes, w->want - w->given, w->tmp, err);
}

um_status um_tensors_writer_finish(um_tensors_writer *w, um_err *err)
{
    if (w->given != w->want) {
        return UM_FAIL(err, UM_E_LIMIT, "%s: %zu bytes of data given, the header promises %zu",
                       w->path, w->given, w->want);
    }
    int fd = w->fd;
    w->fd = -1;
    return um_file_commit(fd, w->tmp, w->path, err);
}

void um_tensors_writer_close(um_tensors_writer *w)
{
    if (w == NULL) return;
    if (w->fd >= 0) {
        close(w->fd);
        unlink(w->tmp);
    }
    um_arena_free(&w->arena);
    um_free(w);
}

um_status um_tensors_write(const char *path, const um_tensor *list, size_t n,
                           const char *const *metadata, um_err *err)
{
    um_tensors_writer *w = NULL;
    um_status st = um_tensors_writer_open(&w, path, list, n, metadata, err);
    for (size_t i = 0; i < n && st == UM_OK; i++)
        st = um_tensors_writer_add(w, list[i].data, list[i].bytes, err);
    if (st == UM_OK) st = um_tensors_writer_finish(w, err);
    um_tensors_writer_close(w);
    return st;
}
