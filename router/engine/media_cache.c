/* See media_cache.h. */
#include "router/engine/media_cache.h"

#include <string.h>

enum { ENTRIES_MAX = 4096 }; /* found by looking at all of them: far less work than encoding one */

typedef struct entry {
    char key[UM_SHA256_HEX];
    float *rows;
    int n;
    size_t bytes;
    uint64_t used; /* when it was last asked for */
} entry;

struct um_media_cache {
    entry list[ENTRIES_MAX];
    int n;
    size_t bytes, room;
    uint64_t now;
};

um_media_cache *um_media_cache_open(size_t bytes)
{
    um_media_cache *c = um_zalloc(sizeof *c);
    c->room = bytes;
    return c;
}

void um_media_cache_close(um_media_cache *c)
{
    if (c == NULL) return;
    for (int i = 0; i < c->n; i++) um_free(c->list[i].rows);
    um_free(c);
}

static entry *find(um_media_cache *c, const char *key)
{
    for (int i = 0; i < c->n; i++)
        if (memcmp(c->list[i].key, key, UM_SHA256_HEX) == 0) return &c->list[i];
    return NULL;
}

const float *um_media_cache_find(um_media_cache *c, const char key[UM_SHA256_HEX], int *rows)
{
    entry *e = find(c, key);
    if (e == NULL) return NULL;
    e->used = ++c->now;
    *rows = e->n;
    return e->rows;
}

static void evict_oldest(um_media_cache *c)
{
    int oldest = 0;
    for (int i = 1; i < c->n; i++)
        if (c->list[i].used < c->list[oldest].used) oldest = i;
    c->bytes -= c->list[oldest].bytes;
    um_free(c->list[oldest].rows);
    c->list[oldest] = c->list[--c->n];
}

void um_media_cache_put(um_media_cache *c, const char key[UM_SHA256_HEX], const float *rows, int n,
                        int D)
{
    size_t bytes = (size_t)n * (size_t)D * sizeof *rows;
    if (bytes > c->room || find(c, key) != NULL) return;
    while (c->n > 0 && (c->n == ENTRIES_MAX || c->bytes + bytes > c->room)) evict_oldest(c);
    entry *e = &c->list[c->n++];
    *e = (entry){.rows = um_alloc_aligned(bytes), .n = n, .bytes = bytes, .used = ++c->now};
    memcpy(e->key, key, UM_SHA256_HEX);
    memcpy(e->rows, rows, bytes);
    c->bytes += bytes;
}
