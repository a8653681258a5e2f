/* See shards.h. */
#include "launch/model_dir/shards.h"

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/log.h"

#include <inttypes.h>

/* The end of the file that starts with tensor `from`: its data reach shard_bytes, or its header reaches the longest allowed
 * header. */
static size_t shard_end(const um_tensor *list, size_t n, size_t from, int64_t shard_bytes)
{
    enum { HEADER_ROOM = UM_TENSORS_HEADER_MAX - 4096 }; /* room for metadata and padding */
    int64_t bytes = 0;
    size_t header = 0, i = from;
    for (; i < n; i++) {
        bytes += (int64_t)list[i].bytes;
        header += um_tensors_entry_bytes(&list[i]);
        if (i > from && (bytes > shard_bytes || header > HEADER_ROOM)) break;
    }
    return i;
}

typedef struct range {
    const um_tensor *list;
    size_t from, to;
} range;

static um_status shard_write(const char *path, range r, um_shards_fn fn, void *ctx, um_err *err)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    um_tensors_writer *w = NULL;
    um_status st = um_tensors_writer_open(&w, path, r.list + r.from, r.to - r.from, metadata, err);
    for (size_t i = r.from; i < r.to && st == UM_OK; i++) st = fn(ctx, i, w, err);
    if (st == UM_OK) st = um_tensors_writer_finish(w, err);
    um_tensors_writer_close(w);
    um_log_info("wrote %s", path);
    return st;
}

um_status um_shards_write(const char *dir, const um_tensor *list, size_t n, int64_t shard_bytes,
                          um_shards_fn fn, void *ctx, um_err *err)
{
    um_arena arena;
    um_text index = {0};
    um_status st = UM_OK;
    int64_t bytes = 0;
    int files = 0, k = 0;
    um_arena_init(&arena, "shards", 1 << 12);
    for (size_t at = 0; at < n; at = shard_end(list, n, at, shard_bytes)) files++;
    for (size_t i = 0; i < n; i++) bytes += (int64_t)list[i].bytes;
    um_text_fmt(&index, "{\n \"metadata\": {\"total_size\": %" PRId64 "},\n \"weight_map\": {",
                bytes);
    for (size_t at = 0, end; at < n && st == UM_OK; at = end) {
        end = shard_end(list, n, at, shard_bytes);
        const char *name = files == 1
                               ? "model.safetensors"
                               : um_arena_fmt(&arena, "model-%05d-of-%05d.safetensors", ++k, files);
        st = shard_write(um_path_join(&arena, dir, name), (range){list, at, end}, fn, ctx, err);
        for (size_t i = at; i < end; i++) {
            um_text_fmt(&index, "%s\n  ", i > 0 ? "," : "");
            um_text_json(&index, list[i].name);
            um_text_fmt(&index, ": \"%s\"", name);
        }
    }
    um_text_fmt(&index, "\n }\n}\n");
    if (st == UM_OK && files > 1)
        st = um_file_write(um_path_join(&arena, dir, "model.safetensors.index.json"), index.s,
                           index.n, err);
    um_text_free(&index);
    um_arena_free(&arena);
    return st;
}
