/* Runs a fuzz program without libFuzzer: every file of a folder, then mutations of them, the same ones each time.
 * usage: PROGRAM CORPUS_FOLDER MUTATIONS */
#include "core/base/arena.h"
#include "core/base/file.h"
#include "core/base/rng.h"
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEEDS_MAX = 256 };

typedef struct seed {
    uint8_t *data;
    size_t size;
} seed;

static int read_corpus(seed *seeds, const char *folder)
{
    struct dirent **names = NULL;
    int n =
        scandir(folder, &names, NULL, alphasort); /* sorted: mutations do not depend on the disk */
    int found = 0;
    bool readable = true;
    for (int i = 0; i < n; i++) {
        char path[4096];
        um_file f = {0};
        um_err err = {0};
        bool hidden = names[i]->d_name[0] == '.';
        snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
        um_free(names[i]);
        if (hidden || !readable || found == SEEDS_MAX) continue;
        if (um_file_map(&f, path, &err) != UM_OK) {
            fprintf(stderr, "%s\n", err.msg);
            readable = false;
            continue;
        }
        seeds[found] = (seed){um_zalloc(f.size), f.size};
        memcpy(seeds[found++].data, f.data, f.size);
        um_file_unmap(&f);
    }
    um_free(names);
    return readable ? found : 0;
}

static size_t below(um_rng *r, size_t n) { return n == 0 ? 0 : (size_t)(um_rng_u64(r) % n); }

/* One to four small changes: a byte, a run of a byte, a piece moved, the end cut off. */
static size_t mutate(um_rng *r, uint8_t *data, size_t size)
{
    static const uint8_t telling[] = {0, 1, 0x7f, 0x80, 0xff, '"', '{', '[', '-', '9'};
    size_t changes = 1 + below(r, 4);
    for (size_t i = 0; i < changes && size > 0; i++) {
        size_t at = below(r, size), run = 1 + below(r, size - at < 16 ? size - at : 16);
        switch (below(r, 5)) {
        case 0:
            data[at] = (uint8_t)um_rng_u64(r);
            break;
        case 1:
            data[at] ^= (uint8_t)(1u << below(r, 8));
            break;
        case 2:
            memset(data + at, telling[below(r, sizeof telling)], run);
            break;
        case 3:
            memmove(data + at, data + below(r, size - run + 1), run);
            break;
        default:
            size = below(r, 4) == 0 ? at : size;
            break;
        }
    }
    return size;
}

/* In a block of exactly its size, so that a sanitizer sees any read beyond it. */
static void run_once(const uint8_t *data, size_t size)
{
    uint8_t *copy = um_zalloc(size);
    memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    um_free(copy);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s CORPUS_FOLDER MUTATIONS\n", argv[0]);
        return 2;
    }
    seed seeds[SEEDS_MAX];
    int n = read_corpus(seeds, argv[1]);
    if (n == 0) {
        fprintf(stderr, "%s: no corpus\n", argv[1]);
        return 1;
    }
    for (int i = 0; i < n; i++) run_once(seeds[i].data, seeds[i].size);
    um_rng rng = um_rng_seed(1, 1);
    long mutations = strtol(argv[2], NULL, 10);
    for (long i = 0; i < mutations; i++) {
        const seed *from = &seeds[below(&rng, (size_t)n)];
        uint8_t *data = um_zalloc(from->size);
        memcpy(data, from->data, from->size);
        run_once(data, mutate(&rng, data, from->size));
        um_free(data);
    }
    printf("%d seeds, %ld mutations\n", n, mutations);
    for (int i = 0; i < n; i++) um_free(seeds[i].data);
    return 0;
}
