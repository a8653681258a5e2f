/* See tree.h. */
#include "launch/model_dir/tree.h"

#include "core/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEEPEST = 8 };

typedef struct lister {
    const char *dir;
    um_arena *arena;
    um_err *err;
    const char **name; /* grown by um_realloc */
    size_t n, cap;
} lister;

static bool is_dot(const char *name) { return strcmp(name, ".") == 0 || strcmp(name, "..") == 0; }

static um_status list_folder(lister *l, const char *below, int depth);

static um_status list_entry(lister *l, const char *below, const char *name, int depth)
{
    struct stat sb;
    const char *from_dir = below[0] == '\0' ? um_arena_str(l->arena, name)
                                            : um_arena_fmt(l->arena, "%s/%s", below, name);
    const char *path = um_path_join(l->arena, l->dir, from_dir);
    if (stat(path, &sb) != 0) return UM_FAIL(l->err, UM_E_IO, "%s: %s", path, strerror(errno));
    if (S_ISDIR(sb.st_mode)) return list_folder(l, from_dir, depth + 1);
    if (!S_ISREG(sb.st_mode)) return UM_OK;
    if (l->n == l->cap) {
        l->cap = l->cap == 0 ? 64 : l->cap * 2;
        l->name = um_realloc(l->name, l->cap * sizeof *l->name);
    }
    l->name[l->n++] = from_dir;
    return UM_OK;
}

static um_status list_folder(lister *l, const char *below, int depth)
{
    const char *path = below[0] == '\0' ? l->dir : um_path_join(l->arena, l->dir, below);
    if (depth > DEEPEST)
        return UM_FAIL(l->err, UM_E_LIMIT, "%s: folders nested deeper than %d", path, DEEPEST);
    DIR *d = opendir(path);
    if (d == NULL) return UM_FAIL(l->err, UM_E_IO, "%s: %s", path, strerror(errno));
    um_status st = UM_OK;
    for (struct dirent *e; st == UM_OK && (e = readdir(d)) != NULL;) {
        if (!is_dot(e->d_name)) st = list_entry(l, below, e->d_name, depth);
    }
    closedir(d);
    return st;
}

static int text_cmp(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

um_status um_tree_list(um_names *out, const char *dir, um_arena *arena, um_err *err)
{
    lister l = {.dir = dir, .arena = arena, .err = err};
    um_status st = list_folder(&l, "", 0);
    if (st == UM_OK) {
        *out = (um_names){um_arena_alloc(arena, l.n * sizeof *l.name), l.n};
        if (l.n > 0) {
            memcpy(out->name, l.name, l.n * sizeof *l.name);
            qsort(out->name, l.n, sizeof *out->name, text_cmp);
        }
    }
    um_free(l.name);
    return st;
}

static void remove_in(int parent, const char *name, int depth)
{
    if (unlinkat(parent, name, 0) == 0 || depth > DEEPEST) return;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (d == NULL) {
        if (fd >= 0) close(fd);
        return;
    }
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (!is_dot(e->d_name)) remove_in(fd, e->d_name, depth + 1);
    }
    closedir(d);
    unlinkat(parent, name, AT_REMOVEDIR);
}

void um_tree_remove(const char *dir) { remove_in(AT_FDCWD, dir, 0); }
