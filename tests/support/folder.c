/* See folder.h. */
#include "tests/support/folder.h"

#include "core/base/arena.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void check(int ok, const char *what, const char *path)
{
    if (ok) return;
    fprintf(stderr, "test folder: cannot %s %s\n", what, path);
    abort();
}

char *folder_make(void)
{
    char *dir = um_strdup("test.XXXXXX");
    check(mkdtemp(dir) != NULL, "make", dir);
    return dir;
}

static int remove_one(const char *path, const struct stat *sb, int type, struct FTW *at)
{
    (void)sb;
    (void)type;
    (void)at;
    return remove(path);
}

void folder_remove(const char *dir)
{
    check(nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0, "remove", dir);
}

/* dir/name, after making the one folder that name may stand in. */
static void path_in(char out[512], const char *dir, const char *name)
{
    const char *slash = strchr(name, '/');
    if (slash != NULL) {
        snprintf(out, 512, "%s/%.*s", dir, (int)(slash - name), name);
        mkdir(out, 0755); /* may be there already */
    }
    snprintf(out, 512, "%s/%s", dir, name);
}

void folder_write(const char *dir, const char *name, const void *data, size_t size)
{
    char path[512];
    path_in(path, dir, name);
    FILE *f = fopen(path, "wb");
    check(f != NULL && fwrite(data, 1, size, f) == size && fclose(f) == 0, "write", path);
}

void folder_text(const char *dir, const char *name, const char *text)
{
    folder_write(dir, name, text, strlen(text));
}

void folder_json(const char *dir, const char *name, const char *text)
{
    char *s = um_strdup(text);
    for (char *p = s; (p = strchr(p, '\'')) != NULL;) *p = '"';
    folder_text(dir, name, s);
    um_free(s);
}

void folder_link(const char *dir, const char *name, const char *target)
{
    char path[512];
    path_in(path, dir, name);
    check(symlink(target, path) == 0, "link", path);
}
