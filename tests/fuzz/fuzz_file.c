/* See fuzz_file.h. */
#include "tests/fuzz/fuzz_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char folder[] = "/tmp/unimoe-fuzz-XXXXXX", path[256];
static int made;

static void clean(void)
{
    unlink(path);
    rmdir(folder);
}

const char *fuzz_folder(void)
{
    if (!made) {
        if (mkdtemp(folder) == NULL) {
            perror(folder);
            abort();
        }
        made = 1;
        atexit(clean);
    }
    return folder;
}

const char *fuzz_file(const char *name, const uint8_t *data, size_t size)
{
    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    unlink(path); /* a file that is cut to nothing and written again would be flushed to the disk */
    FILE *f = fopen(path, "wb");
    if (f == NULL || (size > 0 && fwrite(data, 1, size, f) != size) || fclose(f) != 0) {
        perror(path);
        abort();
    }
    return path;
}
