/* See staging.h. */
#include "launch/model_dir/staging.h"

#include "core/base/file.h"
#include "launch/model_dir/tree.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The topmost folder of path that does not exist; "" when all exist. */
static const char *first_missing(const char *path, um_arena *arena)
{
    char *p = um_arena_str(arena, path);
    for (char *s = p + 1;; s++) {
        char c = *s;
        if (c != '/' && c != '\0') continue;
        *s = '\0';
        if (!um_file_exists(p)) return p;
        *s = c;
        if (c == '\0') return "";
    }
}

um_status um_staging_begin(um_staging *s, const char *dir, um_arena *arena, um_err *err)
{
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/') n--;
    *s = (um_staging){.dir = um_arena_strn(arena, dir, n), .tmp = "", .made = ""};
    s->inside = um_file_exists(s->dir);
    const char *parent = um_path_dir(arena, s->dir);
    if (!s->inside && strcmp(parent, ".") != 0 && strcmp(parent, "/") != 0) {
        s->made = first_missing(parent, arena);
        UM_TRY(um_file_mkdirs(parent, err));
    }
    const char *tmp =
        um_arena_fmt(arena, s->inside ? "%s/.tmp.%ld" : "%s.tmp.%ld", s->dir, (long)getpid());
    if (mkdir(tmp, 0755) != 0) return UM_FAIL(err, UM_E_IO, "%s: %s", s->dir, strerror(errno));
    s->tmp = tmp;
    return UM_OK;
}

static um_status move(const um_staging *s, const char *name, um_arena *arena, um_err *err)
{
    const char *to = um_path_join(arena, s->dir, name);
    if (rename(um_path_join(arena, s->tmp, name), to) == 0) return UM_OK;
    return UM_FAIL(err, UM_E_IO, "%s: %s", to, strerror(errno));
}

um_status um_staging_commit(um_staging *s, const char *last, um_arena *arena, um_err *err)
{
    um_status st = UM_OK;
    if (!s->inside) {
        if (rename(s->tmp, s->dir) != 0)
            return UM_FAIL(err, UM_E_IO, "%s: %s", s->dir, strerror(errno));
        um_file_sync_folder(um_path_dir(arena, s->dir));
        s->tmp = "";
        return UM_OK;
    }
    DIR *d = opendir(s->tmp);
    if (d == NULL) return UM_FAIL(err, UM_E_IO, "%s: %s", s->tmp, strerror(errno));
    for (struct dirent *e; st == UM_OK && (e = readdir(d)) != NULL;) {
        bool skip = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
        if (!skip && strcmp(e->d_name, last) != 0) st = move(s, e->d_name, arena, err);
    }
    closedir(d);
    if (st == UM_OK) st = move(s, last, arena, err);
    um_file_sync_folder(s->dir);
    return st;
}

/* Replaces OUT.tmp.4711/config.json by OUT/config.json in a message: the temporary folder is gone when the user reads it. */
static void name_place(const um_staging *s, um_err *err)
{
    um_err old = *err;
    size_t k = strlen(s->tmp), used = 0;
    for (const char *at = old.msg; *at != '\0' && used + 1 < sizeof err->msg;) {
        bool hit = strncmp(at, s->tmp, k) == 0;
        int n = snprintf(err->msg + used, sizeof err->msg - used, "%s%.1s", hit ? s->dir : "",
                         hit ? "" : at);
        used += (size_t)n;
        at += hit ? k : 1;
    }
    if (used >= sizeof err->msg) used = sizeof err->msg - 1;
    err->msg[used] = '\0';
}

void um_staging_end(um_staging *s, um_status st, um_err *err)
{
    if (s->tmp[0] != '\0') um_tree_remove(s->tmp);
    if (st != UM_OK && s->tmp[0] != '\0') name_place(s, err);
    if (st == UM_OK || s->made[0] == '\0') return;
    um_arena a;
    um_arena_init(&a, "parents", 4096);
    for (const char *p = um_path_dir(&a, s->dir); strlen(p) >= strlen(s->made);
         p = um_path_dir(&a, p)) {
        if (rmdir(p) != 0) break; /* another program put something there */
    }
    um_arena_free(&a);
}
