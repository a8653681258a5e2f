/* See saved.h. */
#include "core/train/saved.h"

#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "proto/frame.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { JSON_LIMIT = 64 << 20, LOCK_MS = 10000, LOCK_TRY_US = 50000 };

static const char prefix[] = "checkpoint-", temporary[] = ".tmp-checkpoint-",
                  aside[] = "set-aside-checkpoint-", format[] = "unimoe-training";
/* Ends of temporary names: what a checkpoint of the same step replaces, and what is being removed. */
static const char replaced[] = ".old", removed[] = ".gone";

/* --- folders --- */

static const char *named(um_arena *arena, const char *out, const char *begin, uint64_t step)
{
    return um_path_join(arena, out, um_arena_fmt(arena, "%s%" PRIu64, begin, step));
}

/* A checkpoint has no folders in it. */
static void remove_folder(const char *folder)
{
    um_arena a;
    DIR *d = opendir(folder);
    if (d == NULL) return;
    um_arena_init(&a, "remove", 4096);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            unlink(um_path_join(&a, folder, e->d_name));
    closedir(d);
    rmdir(folder);
    um_arena_free(&a);
}

/* The step in a folder's name, or 0. */
static uint64_t step_of(const char *name, const char *begin)
{
    size_t n = strlen(begin);
    char *end = NULL;
    if (strncmp(name, begin, n) != 0 || name[n] < '1' || name[n] > '9') return 0;
    uint64_t step = strtoumax(name + n, &end, 10);
    return *end == '\0' ? step : 0;
}

static int newest_first(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* The steps of the folders of out that begin so, newest first. */
static uint64_t *steps_in(const char *out, const char *begin, int *n, um_arena *arena)
{
    uint64_t *found = um_arena_alloc(arena, UM_SAVED_FILES * sizeof *found);
    DIR *d = opendir(out);
    *n = 0;
    if (d == NULL) return found;
    for (struct dirent *e; (e = readdir(d)) != NULL && *n < UM_SAVED_FILES;) {
        uint64_t step = step_of(e->d_name, begin);
        if (step > 0) found[(*n)++] = step;
    }
    closedir(d);
    qsort(found, (size_t)*n, sizeof *found, newest_first);
    return found;
}

/* Removes a whole checkpoint, of which no part shall ever be found under its name. */
static void remove_checkpoint(const char *out, uint64_t step, um_arena *arena)
{
    const char *folder = named(arena, out, prefix, step),
               *gone = um_arena_fmt(arena, "%s%s", named(arena, out, temporary, step), removed);
    remove_folder(gone);
    if (rename(folder, gone) == 0) remove_folder(gone);
}

/* A job may have been killed when it had taken a checkpoint away and its replacement was not in place yet. */
static void restore(const char *out)
{
    um_arena a;
    DIR *d = opendir(out);
    if (d == NULL) return;
    um_arena_init(&a, "restore", 4096);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        const size_t n = strlen(e->d_name), end = strlen(replaced);
        if (!um_starts_with(e->d_name, temporary) || !um_ends_with(e->d_name, replaced)) continue;
        const uint64_t step =
            step_of(um_arena_strn(&a, e->d_name, n - end) + strlen(temporary), "");
        const char *to = named(&a, out, prefix, step);
        if (step > 0 && !um_file_named(to)) rename(um_path_join(&a, out, e->d_name), to);
    }
    closedir(d);
    um_arena_free(&a);
}

/* --- writing --- */

um_status um_saved_lock(int *fd, const char *out, um_err *err)
{
    um_arena a;
    um_status st = UM_OK;
    const int64_t until = um_now_ns() + (int64_t)LOCK_MS * 1000000;
    um_arena_init(&a, "lock", 4096);
    const char *path = um_path_join(&a, out, ".lock");
    int f = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (f < 0) st = UM_FAIL(err, UM_E_IO, "%s: %s", path, strerror(errno));
    while (st == UM_OK && flock(f, LOCK_EX | LOCK_NB) != 0) {
        const int why = errno;
        if (why == EINTR) continue;
        if (why != EWOULDBLOCK) { /* a file system without locks */
            close(f);
            f = -1;
            break;
        }
        if (um_now_ns() > until)
            st = UM_FAIL(err, UM_E_USAGE,
                         "another training writes into %s: stop it, or give another --out", out);
        else
            um_sleep_us(LOCK_TRY_US);
    }
    if (st == UM_OK)
        *fd = f;
    else if (f >= 0)
        close(f);
    um_arena_free(&a);
    return st;
}

void um_saved_set_aside(const char *out, uint64_t step)
{
    um_arena a;
    int n = 0;
    um_arena_init(&a, "set aside", 1 << 16);
    restore(out);
    uint64_t *steps = steps_in(out, prefix, &n, &a);
    for (int i = 0; i < n && steps[i] > step; i++) {
        const char *from = named(&a, out, prefix, steps[i]), *to = named(&a, out, aside, steps[i]);
        remove_folder(to);
        if (rename(from, to) != 0)
            um_log_warn("rename %s to %s: %s", from, to, strerror(errno));
        else
            um_log_warn("training goes on from step %" PRIu64 ": %s, which is later, is now %s and "
                        "may be deleted",
                        step, from, to);
    }
    um_arena_free(&a);
}

um_status um_saved_begin(const char **folder, const char *out, uint64_t step, um_arena *arena,
                         um_err *err)
{
    const char *tmp = named(arena, out, temporary, step);
    remove_folder(tmp);
    UM_TRY(um_file_mkdirs(tmp, err));
    *folder = tmp;
    return UM_OK;
}

void um_saved_drop(const char *out, uint64_t step)
{
    um_arena a;
    um_arena_init(&a, "drop", 4096);
    remove_folder(named(&a, out, temporary, step));
    um_arena_free(&a);
}

um_status um_saved_measure(um_saved_file *f, const char *folder, um_err *err)
{
    um_arena a;
    um_file file = {0};
    um_arena_init(&a, "measure", 4096);
    um_status st = um_file_map(&file, um_path_join(&a, folder, f->name), err);
    um_arena_free(&a);
    UM_TRY(st);
    f->bytes = file.size;
    f->xxh3 = um_xxh3(file.size > 0 ? (const void *)file.data : "", file.size);
    um_file_unmap(&file);
    return UM_OK;
}

static um_status write_manifest(const char *folder, uint64_t step, const um_saved_file *files,
                                int n, um_arena *arena, um_err *err)
{
    um_text t = {0};
    um_text_fmt(&t, "{\"format\":\"%s\",\"version\":1,\"step\":%" PRIu64 ",\"files\":[", format,
                step);
    for (int i = 0; i < n; i++) {
        um_text_fmt(&t, "%s\n {\"name\":", i > 0 ? "," : "");
        um_text_json(&t, files[i].name);
        um_text_fmt(&t, ",\"size\":%" PRIu64 ",\"xxh3\":\"%016" PRIx64 "\"}", files[i].bytes,
                    files[i].xxh3);
    }
    um_text_fmt(&t, "]}\n");
    um_status st = um_file_write(um_path_join(arena, folder, "manifest.json"), t.s, t.n, err);
    um_text_free(&t);
    return st;
}

/* The temporary folder gets its name. Killed between the two renames, the one that was there is found again (restore). */
static um_status put_in_place(const char *tmp, const char *to, um_arena *arena, um_err *err)
{
    const char *old = um_arena_fmt(arena, "%s%s", tmp, replaced);
    const bool there = um_file_named(to);
    remove_folder(old);
    if (there && !um_file_is_folder(to))
        return UM_FAIL(err, UM_E_IO, "%s: a file of this name is in the way", to);
    if (there && rename(to, old) != 0)
        return UM_FAIL(err, UM_E_IO, "rename %s to %s: %s", to, old, strerror(errno));
    if (rename(tmp, to) != 0) {
        UM_FAIL(err, UM_E_IO, "rename %s to %s: %s", tmp, to, strerror(errno));
        if (there) rename(old, to);
        return UM_E_IO;
    }
    if (there) remove_folder(old);
    return UM_OK;
}

um_status um_saved_commit(const char **folder, const char *out, uint64_t step,
                          const um_saved_file *files, int n, const char *state, um_arena *arena,
                          um_err *err)
{
    const char *tmp = named(arena, out, temporary, step), *to = named(arena, out, prefix, step);
    um_saved_file *all = um_arena_alloc(arena, (size_t)(n + 1) * sizeof *all);
    if (n > 0) memcpy(all, files, (size_t)n * sizeof *all);
    all[n] = (um_saved_file){.name = "trainer_state.json"};
    UM_TRY(um_file_write(um_path_join(arena, tmp, all[n].name), state, strlen(state), err));
    UM_TRY(um_saved_measure(&all[n], tmp, err));
    UM_TRY(write_manifest(tmp, step, all, n + 1, arena, err));
    um_file_sync_folder(tmp);
    UM_TRY(put_in_place(tmp, to, arena, err));
    um_file_sync_folder(out);
    *folder = to;
    return UM_OK;
}

void um_saved_prune(const char *out, int64_t keep, uint64_t best)
{
    um_arena a;
    int n = 0;
    um_arena_init(&a, "checkpoints", 1 << 16);
    restore(out);
    uint64_t *steps = steps_in(out, prefix, &n, &a);
    for (int i = 0; i < n; i++)
        if (i >= keep && steps[i] != best) remove_checkpoint(out, steps[i], &a);
    DIR *d = opendir(out);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;)
        if (um_starts_with(e->d_name, temporary)) remove_folder(um_path_join(&a, out, e->d_name));
    if (d != NULL) closedir(d);
    um_arena_free(&a);
}

/* --- reading --- */

/* One file of the manifest; a state is opened. */
static um_status check_file(um_saved *s, const um_json *f, bool verify, um_err *err)
{
    um_saved_file found = {.name = um_json_str(um_json_get(f, "name"), "")};
    uint64_t bytes = (uint64_t)um_json_int(um_json_get(f, "size"), -1);
    uint64_t xxh3 = strtoumax(um_json_str(um_json_get(f, "xxh3"), ""), NULL, 16);
    struct stat sb;
    const char *path = um_path_join(&s->arena, s->folder, found.name);
    if (found.name[0] == '\0' || strchr(found.name, '/') != NULL)
        return UM_FAIL(err, UM_E_DATA, "manifest.json names no file");
    if (stat(path, &sb) != 0) return UM_FAIL(err, UM_E_DATA, "%s: %s", found.name, strerror(errno));
    if ((uint64_t)sb.st_size != bytes)
        return UM_FAIL(err, UM_E_DATA, "%s has %lld bytes, manifest.json says %" PRIu64, found.name,
                       (long long)sb.st_size, bytes);
    if (verify) UM_TRY(um_saved_measure(&found, s->folder, err));
    if (verify && found.xxh3 != xxh3)
        return UM_FAIL(err, UM_E_DATA, "%s is damaged: its XXH3 is not that of manifest.json",
                       found.name);
    if (!um_ends_with(found.name, ".safetensors")) return UM_OK;
    return um_tensors_open(&s->sets[s->n_sets], path, err) == UM_OK ? (s->n_sets++, UM_OK)
                                                                    : UM_E_DATA;
}

static um_status read_all(um_saved *s, bool verify, um_err *err)
{
    um_json *manifest = NULL;
    const char *path = um_path_join(&s->arena, s->folder, "manifest.json");
    if (!um_file_is_folder(s->folder)) return UM_FAIL(err, UM_E_DATA, "there is no such folder");
    if (!um_file_exists(path))
        return UM_FAIL(err, UM_E_DATA,
                       "manifest.json is missing: this is no checkpoint, or only a "
                       "part of one");
    if (um_json_load(&manifest, path, JSON_LIMIT, err) != UM_OK) return UM_E_DATA;
    const um_json *files = um_json_get(manifest, "files");
    size_t n = um_json_size(files);
    um_status st = UM_OK;
    if (strcmp(um_json_str(um_json_get(manifest, "format"), ""), format) != 0)
        st = UM_FAIL(err, UM_E_DATA, "manifest.json is not that of a training's checkpoint");
    s->step = (uint64_t)um_json_int(um_json_get(manifest, "step"), 0);
    s->sets = um_arena_zero(&s->arena, (n + 1) * sizeof(um_tensors *));
    for (size_t i = 0; i < n && st == UM_OK; i++)
        st = check_file(s, um_json_at(files, i), verify, err);
    um_json_free(manifest);
    UM_TRY(st);
    path = um_path_join(&s->arena, s->folder, "trainer_state.json");
    return um_json_load(&s->state, path, JSON_LIMIT, err) == UM_OK ? UM_OK : UM_E_DATA;
}

const char *um_saved_folder(const char *out, uint64_t step, um_arena *arena)
{
    return named(arena, out, prefix, step);
}

um_status um_saved_open(um_saved *out, const char *folder, bool verify, um_err *err)
{
    um_saved s = {0};
    um_arena_init(&s.arena, "checkpoint", 1 << 14);
    s.folder = um_arena_str(&s.arena, folder);
    um_status st = read_all(&s, verify, err);
    if (st == UM_OK)
        *out = s;
    else
        um_saved_close(&s);
    return um_wrap(err, st, "checkpoint %s", folder);
}

void um_saved_close(um_saved *s)
{
    for (int i = 0; i < s->n_sets; i++) um_tensors_close(s->sets[i]);
    um_json_free(s->state);
    um_arena_free(&s->arena);
    *s = (um_saved){0};
}

const um_tensor *um_saved_tensor(const um_saved *s, const char *begin, const char *name)
{
    char full[256];
    const um_tensor *t = NULL;
    if (snprintf(full, sizeof full, "%s%s", begin, name) >= (int)sizeof full) return NULL;
    for (int i = 0; i < s->n_sets && t == NULL; i++) t = um_tensors_find(s->sets[i], full);
    return t;
}

um_status um_saved_newest(const char **folder, const char *out, um_arena *arena, um_err *err)
{
    int n = 0;
    um_err why = {0};
    restore(out);
    uint64_t *steps = steps_in(out, prefix, &n, arena);
    *folder = NULL;
    for (int i = 0; i < n; i++) {
        um_saved s = {0};
        const char *path = named(arena, out, prefix, steps[i]);
        um_status st = um_saved_open(&s, path, true, &why);
        if (st == UM_OK) {
            um_saved_close(&s);
            *folder = path;
            return UM_OK;
        }
        if (st != UM_E_DATA) return um_fail(err, st, "%s", why.msg);
        if (i + 1 < n) um_log_warn("%s: the one before it is tried", why.msg);
    }
    if (n == 0) return UM_OK;
    return um_fail(err, UM_E_DATA, "%s%s", why.msg,
                   n > 1 ? ": none of the checkpoints is whole" : ", and there is no other");
}
