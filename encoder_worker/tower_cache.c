/* See tower_cache.h: a hash table whose entries also are a list from the one used last to the one used longest ago. */
#include "encoder_worker/tower_cache.h"

#include "core/base/arena.h"

#include <string.h>

enum { FIRST_BUCKETS = 64 };

typedef struct entry {
    char *key;
    uint64_t hash;
    um_medium *medium;
    size_t bytes;                /* with the key and this */
    struct entry *next;          /* in the bucket */
    struct entry *newer, *older; /* in the list */
} entry;

struct um_tower_cache {
    size_t most, used, entries, buckets;
    entry **bucket;
    entry *newest, *oldest;
};

um_tower_cache *um_tower_cache_open(size_t bytes)
{
    um_tower_cache *c = um_zalloc(sizeof *c);
    c->most = bytes;
    c->buckets = FIRST_BUCKETS;
    c->bucket = um_zalloc(c->buckets * sizeof *c->bucket);
    return c;
}

/* FNV-1a, 64 bits. */
static uint64_t hash_of(const char *key)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (const char *p = key; *p != '\0'; p++) h = (h ^ (uint8_t)*p) * 0x100000001B3u;
    return h;
}

static entry **place_of(um_tower_cache *c, const char *key, uint64_t hash)
{
    entry **at = &c->bucket[hash & (c->buckets - 1)];
    while (*at != NULL && ((*at)->hash != hash || strcmp((*at)->key, key) != 0)) at = &(*at)->next;
    return at;
}

static void list_take(um_tower_cache *c, entry *e)
{
    *(e->newer != NULL ? &e->newer->older : &c->newest) = e->older;
    *(e->older != NULL ? &e->older->newer : &c->oldest) = e->newer;
}

static void list_put(um_tower_cache *c, entry *e)
{
    e->newer = NULL;
    e->older = c->newest;
    *(c->newest != NULL ? &c->newest->newer : &c->oldest) = e;
    c->newest = e;
}

static void drop_oldest(um_tower_cache *c)
{
    entry *e = c->oldest;
    list_take(c, e);
    *place_of(c, e->key, e->hash) = e->next;
    c->used -= e->bytes;
    c->entries--;
    um_free(e->medium);
    um_free(e->key);
    um_free(e);
}

void um_tower_cache_close(um_tower_cache *c)
{
    if (c == NULL) return;
    while (c->oldest != NULL) drop_oldest(c);
    um_free(c->bucket);
    um_free(c);
}

const um_medium *um_tower_cache_get(um_tower_cache *c, const char *key)
{
    entry *e = *place_of(c, key, hash_of(key));
    if (e == NULL) return NULL;
    list_take(c, e);
    list_put(c, e);
    return e->medium;
}

/* Twice as many buckets. */
static void grow(um_tower_cache *c)
{
    entry **was = c->bucket;
    const size_t n = c->buckets;
    c->buckets *= 2;
    c->bucket = um_zalloc(c->buckets * sizeof *c->bucket);
    for (size_t i = 0; i < n; i++)
        for (entry *e = was[i], *next; e != NULL; e = next) {
            entry **to = &c->bucket[e->hash & (c->buckets - 1)];
            next = e->next;
            e->next = *to;
            *to = e;
        }
    um_free(was);
}

void um_tower_cache_put(um_tower_cache *c, const char *key, const um_medium *m)
{
    const size_t bytes = um_medium_bytes(m) + sizeof(entry) + strlen(key) + 1;
    const uint64_t hash = hash_of(key);
    if (bytes > c->most || *place_of(c, key, hash) != NULL) return;
    while (c->used + bytes > c->most) drop_oldest(c);
    if (c->entries == c->buckets) grow(c);
    entry *e = um_zalloc(sizeof *e);
    *e = (entry){.key = um_strdup(key), .hash = hash, .bytes = bytes};
    e->medium = um_medium_copy(m);
    *place_of(c, key, hash) = e;
    list_put(c, e);
    c->used += bytes;
    c->entries++;
}

size_t um_tower_cache_used(const um_tower_cache *c) { return c->used; }
