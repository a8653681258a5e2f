/* See media_cache.h. */
#include "router/engine/media_cache.h"

#include "core/base/status.h"

#include <string.h>

enum {
    BUCKETS = 4096,
    KEY_DIGITS = 3
};                        /* by the first digits of the hash, which are spread evenly */
enum { IDLE_MAX = 4096 }; /* entries that nobody uses */

typedef struct entry {
    um_media_rows shown; /* first, so that it leads back to its entry */
    um_media_cache *cache;
    float *memory;
    size_t bytes;
    int refs;
    struct entry *chain;         /* next in its bucket */
    struct entry *newer, *older; /* among those that nobody uses */
} entry;

struct um_media_cache {
    entry *bucket[BUCKETS];
    entry *newest, *oldest; /* of those that nobody uses */
    int idle;
    size_t bytes, room; /* of those that nobody uses */
};

um_media_cache *um_media_cache_open(size_t bytes)
{
    um_media_cache *c = um_zalloc(sizeof *c);
    c->room = bytes;
    return c;
}

static entry **bucket_of(um_media_cache *c, const char *key)
{
    unsigned b = 0;
    for (int i = 0; i < KEY_DIGITS; i++)
        b = b * 16 + (unsigned)(key[i] <= '9' ? key[i] - '0' : key[i] - 'a' + 10);
    return &c->bucket[b % BUCKETS];
}

static entry *lookup(um_media_cache *c, const char *key)
{
    entry *e = *bucket_of(c, key);
    while (e != NULL && memcmp(e->shown.key, key, UM_SHA256_HEX) != 0) e = e->chain;
    return e;
}

/* Takes it off the list of those that nobody uses. */
static void idle_leave(um_media_cache *c, entry *e)
{
    *(e->newer != NULL ? &e->newer->older : &c->newest) = e->older;
    *(e->older != NULL ? &e->older->newer : &c->oldest) = e->newer;
    e->newer = e->older = NULL;
    c->bytes -= e->bytes;
    c->idle--;
}

static void idle_join(um_media_cache *c, entry *e)
{
    e->older = c->newest;
    *(c->newest != NULL ? &c->newest->newer : &c->oldest) = e;
    c->newest = e;
    c->bytes += e->bytes;
    c->idle++;
}

static void remove_entry(um_media_cache *c, entry *e)
{
    entry **at = bucket_of(c, e->shown.key);
    while (*at != e) at = &(*at)->chain;
    *at = e->chain;
    um_free(e->memory);
    um_free(e);
}

void um_media_cache_close(um_media_cache *c)
{
    if (c == NULL) return;
    for (int i = 0; i < BUCKETS; i++)
        while (c->bucket[i] != NULL) {
            UM_ASSERT(c->bucket[i]->refs == 0);
            remove_entry(c, c->bucket[i]);
        }
    um_free(c);
}

static const um_media_rows *hold(entry *e)
{
    if (e->refs++ == 0) idle_leave(e->cache, e);
    return &e->shown;
}

const um_media_rows *um_media_cache_find(um_media_cache *c, const char key[UM_SHA256_HEX])
{
    entry *e = lookup(c, key);
    return e == NULL ? NULL : hold(e);
}

const um_media_rows *um_media_cache_put(um_media_cache *c, const char key[UM_SHA256_HEX],
                                        const float *rows, int n, int D)
{
    entry *e = lookup(c, key);
    if (e != NULL) return hold(e);
    entry **bucket = bucket_of(c, key);
    e = um_zalloc(sizeof *e);
    e->bytes = (size_t)n * (size_t)D * sizeof *rows;
    e->memory = um_alloc_aligned(e->bytes);
    memcpy(e->memory, rows, e->bytes);
    memcpy(e->shown.key, key, UM_SHA256_HEX);
    e->shown.rows = e->memory;
    e->shown.n = n;
    e->cache = c;
    e->refs = 1;
    e->chain = *bucket;
    *bucket = e;
    return &e->shown;
}

const um_media_rows *um_media_rows_hold(const um_media_rows *r)
{
    return hold((entry *)(uintptr_t)r);
}

void um_media_rows_drop(const um_media_rows *r)
{
    entry *e = (entry *)(uintptr_t)r;
    if (r == NULL) return;
    um_media_cache *c = e->cache;
    UM_CHECK(e->refs > 0);
    if (--e->refs > 0) return;
    idle_join(c, e);
    if (e->bytes > c->room) { /* it would drive out all others, and not stay either */
        idle_leave(c, e);
        remove_entry(c, e);
    }
    while (c->idle > IDLE_MAX || c->bytes > c->room) {
        e = c->oldest;
        idle_leave(c, e);
        remove_entry(c, e);
    }
}
