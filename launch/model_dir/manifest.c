/* See manifest.h. */
#include "launch/model_dir/manifest.h"

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/progress.h"
#include "core/base/sha256.h"
#include "launch/model_dir/interrupt.h"
#include "launch/model_dir/tree.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { MANIFEST_MAX = 1 << 28 };
static const char manifest_name[] = "manifest.json";

/* --- writing --- */

/* Hashes a file in blocks and drops each from the resident set when done. Writes each block's sum to t unless t is NULL. */
static um_status sums_of(char whole[UM_SHA256_HEX], um_text *t, const um_file *f, size_t block,
                         um_progress *p, um_err *err)
{
    um_sha256 all;
    um_status st = UM_OK;
    um_sha256_init(&all);
    for (size_t at = 0; at < f->size && st == UM_OK; at += block) {
        char hex[UM_SHA256_HEX];
        size_t n = f->size - at < block ? f->size - at : block;
        um_sha256_update(&all, f->data + at, n);
        if (t != NULL) {
            st = um_sha256_of(hex, f->data + at, n, err);
            um_text_fmt(t, "%s\n    \"%s\"", at > 0 ? "," : "", hex);
        }
        um_file_forget(f, at, n);
        um_progress_add(p, (int64_t)n);
        if (st == UM_OK) st = um_interrupt_check(err);
    }
    if (st == UM_OK) return um_sha256_final(&all, whole, err);
    um_sha256_drop(&all);
    return st;
}

/* The total bytes of all files: the target of the progress of reading them. */
static int64_t bytes_of(const um_names *files, const char *dir, um_arena *arena)
{
    struct stat sb;
    int64_t sum = 0;
    for (size_t i = 0; i < files->n; i++)
        if (stat(um_path_join(arena, dir, files->name[i]), &sb) == 0) sum += (int64_t)sb.st_size;
    return sum;
}

static um_status file_entry(um_text *t, const char *dir, const char *name, size_t block,
                            um_progress *p, um_arena *arena, um_err *err)
{
    um_file f = {0};
    um_text blocks = {0};
    char whole[UM_SHA256_HEX];
    UM_TRY(um_file_map(&f, um_path_join(arena, dir, name), err));
    um_status st = sums_of(whole, f.size > block ? &blocks : NULL, &f, block, p, err);
    if (st == UM_OK) {
        um_text_fmt(t, "  {\"name\": ");
        um_text_json(t, name);
        um_text_fmt(t, ", \"size\": %zu, \"sha256\": \"%s\"", f.size, whole);
        if (blocks.n > 0) um_text_fmt(t, ", \"blocks\": [%s]", blocks.s);
        um_text_fmt(t, "}");
    }
    um_text_free(&blocks);
    um_file_unmap(&f);
    return st;
}

um_status um_manifest_write(const char *dir, const char *source, um_err *err)
{
    um_arena arena;
    um_names names = {0};
    um_text t = {0};
    um_progress progress = {0};
    um_arena_init(&arena, "manifest", 1 << 16);
    um_status st = um_tree_list(&names, dir, &arena, err);
    if (st == UM_OK)
        um_progress_begin(&progress, stderr, "checksums", UM_PROGRESS_BYTES,
                          bytes_of(&names, dir, &arena));
    um_text_fmt(&t, "{\n \"format\": \"unimoe-manifest\",\n \"version\": 1,\n \"source\": ");
    um_text_json(&t, source);
    um_text_fmt(&t, ",\n \"block_bytes\": %zu,\n \"files\": [\n", UM_MANIFEST_BLOCK);
    bool first = true;
    for (size_t i = 0; i < names.n && st == UM_OK; i++) {
        if (strcmp(names.name[i], manifest_name) == 0) continue;
        if (!first) um_text_fmt(&t, ",\n");
        first = false;
        st = file_entry(&t, dir, names.name[i], UM_MANIFEST_BLOCK, &progress, &arena, err);
    }
    um_progress_end(&progress);
    um_text_fmt(&t, "\n ]\n}\n");
    if (st == UM_OK) st = um_file_write(um_path_join(&arena, dir, manifest_name), t.s, t.n, err);
    um_text_free(&t);
    um_arena_free(&arena);
    return st;
}

/* --- verifying --- */

typedef struct verifier {
    const char *dir;
    um_arena arena;
    um_names there;
    uint8_t *seen; /* one for each file of `there` */
    size_t block;
    um_verdict v;
    um_verdict_fn fn;
    void *ctx;
    um_progress progress;
    um_err *err;
} verifier;

static void say(verifier *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(verifier *v, const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    v->fn(v->ctx, line);
}

/* Finds the first block of f whose sum differs from that in the manifest. */
static um_status bad_block(verifier *v, const um_file *f, const um_json *blocks, size_t *from,
                           size_t *to)
{
    *from = 0;
    *to = f->size;
    for (size_t i = 0, at = 0; at < f->size && i < um_json_size(blocks); i++, at += v->block) {
        char hex[UM_SHA256_HEX];
        size_t n = f->size - at < v->block ? f->size - at : v->block;
        UM_TRY(um_sha256_of(hex, f->data + at, n, v->err));
        if (strcmp(hex, um_json_str(um_json_at(blocks, i), "")) == 0) continue;
        *from = at;
        *to = at + n;
        return UM_OK;
    }
    return UM_OK;
}

static um_status content_check(verifier *v, const um_json *entry, const char *name)
{
    um_file f = {0};
    char hex[UM_SHA256_HEX];
    size_t from, to;
    UM_TRY(um_file_map(&f, um_path_join(&v->arena, v->dir, name), v->err));
    int64_t want = um_json_int(um_json_get(entry, "size"), -1);
    um_status st = UM_OK;
    if ((int64_t)f.size != want) {
        v->v.bad++;
        say(v, "bad %s: %zu bytes, the manifest says %" PRId64, name, f.size, want);
        goto out;
    }
    st = sums_of(hex, NULL, &f, v->block, &v->progress, v->err);
    if (st != UM_OK) goto out;
    if (strcmp(hex, um_json_str(um_json_get(entry, "sha256"), "")) == 0) {
        v->v.files++;
        v->v.bytes += want;
        goto out;
    }
    st = bad_block(v, &f, um_json_get(entry, "blocks"), &from, &to);
    v->v.bad++;
    say(v, "bad %s: its bytes are not those of the manifest, first somewhere in %zu..%zu", name,
        from, to);
out:
    um_file_unmap(&f);
    return st;
}

static um_status entry_check(verifier *v, const um_json *entry)
{
    const char *name = um_json_str(um_json_get(entry, "name"), "");
    if (name[0] == '\0') return UM_FAIL(v->err, UM_E_MODEL, "a file of the manifest has no name");
    for (size_t i = 0; i < v->there.n; i++) {
        if (strcmp(v->there.name[i], name) != 0) continue;
        v->seen[i] = 1;
        return content_check(v, entry, name);
    }
    v->v.missing++;
    say(v, "missing %s", name);
    return UM_OK;
}

static um_status manifest_check(verifier *v, const um_json *root)
{
    int64_t version = um_json_int(um_json_get(root, "version"), -1),
            block = um_json_int(um_json_get(root, "block_bytes"), 0);
    const um_json *files = um_json_get(root, "files");
    if (strcmp(um_json_str(um_json_get(root, "format"), ""), "unimoe-manifest") != 0 ||
        um_json_kind_of(files) != UM_JSON_ARRAY || block <= 0)
        return UM_FAIL(v->err, UM_E_MODEL, "not a manifest that unimoe convert wrote");
    if (version != 1)
        return UM_FAIL(v->err, UM_E_MODEL, "version %" PRId64 ", this program reads version 1",
                       version);
    v->block = (size_t)block;
    for (size_t i = 0; i < um_json_size(files); i++) UM_TRY(entry_check(v, um_json_at(files, i)));
    for (size_t i = 0; i < v->there.n; i++) {
        if (v->seen[i] || strcmp(v->there.name[i], manifest_name) == 0) continue;
        v->v.extra++;
        say(v, "extra %s", v->there.name[i]);
    }
    return UM_OK;
}

um_status um_manifest_verify(const char *dir, um_verdict *out, um_verdict_fn fn, void *ctx,
                             um_err *err)
{
    verifier v = {.dir = dir, .fn = fn, .ctx = ctx, .err = err};
    um_json *root = NULL;
    um_arena_init(&v.arena, "verify", 1 << 16);
    const char *path = um_path_join(&v.arena, dir, manifest_name);
    um_status st = um_file_named(path)
                       ? um_json_load(&root, path, MANIFEST_MAX, err)
                       : UM_FAIL(err, UM_E_MODEL,
                                 "%s is missing, so nothing can be verified: unimoe convert "
                                 "writes one",
                                 path);
    if (st == UM_OK) st = um_tree_list(&v.there, dir, &v.arena, err);
    if (st == UM_OK) {
        v.seen = um_arena_zero(&v.arena, v.there.n);
        um_progress_begin(&v.progress, stderr, "verifying", UM_PROGRESS_BYTES,
                          bytes_of(&v.there, dir, &v.arena));
        st = um_wrap(err, manifest_check(&v, root), "%s", path);
        um_progress_end(&v.progress);
    }
    st = um_model_fault(st);
    if (st == UM_OK) *out = v.v;
    um_json_free(root);
    um_arena_free(&v.arena);
    return st;
}
