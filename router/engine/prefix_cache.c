/* See prefix_cache.h. */
#include "router/engine/prefix_cache.h"

#include "core/base/bytes.h"

#include <string.h>

/* --- what stands in the rows of a sequence --- */

/* 64 hexadecimal digits. */
static um_prefix_key key_of_hex(const char *hex)
{
    um_prefix_key k = {{0}};
    for (int i = 0; i < UM_SHA256_HEX - 1; i++) {
        int digit = hex[i] <= '9' ? hex[i] - '0' : hex[i] - 'a' + 10;
        k.word[i / 16] = k.word[i / 16] << 4 | (uint64_t)digit;
    }
    return k;
}

static bool key_equal(const um_prefix_key *a, const um_prefix_key *b)
{
    return memcmp(a->word, b->word, sizeof a->word) == 0;
}

static void key_append(um_prefix_chain *c, const um_prefix_key *k)
{
    if (c->n == c->cap) {
        c->cap = c->cap == 0 ? 8 : 2 * c->cap;
        c->keys = um_realloc(c->keys, (size_t)c->cap * sizeof *c->keys);
    }
    c->keys[c->n++] = *k;
}

/* The key of the page whose rows are in rest[0..bytes). */
static um_status page_key(um_prefix_key *out, const um_prefix_chain *c, size_t bytes, um_err *err)
{
    uint8_t text[sizeof out->word + sizeof c->rest] = {0};
    size_t at = 0;
    char hex[UM_SHA256_HEX];
    for (int i = 0; i < 4; i++, at += 8)
        um_put_u64(text + at, c->n == 0 ? 0 : c->keys[c->n - 1].word[i]);
    memcpy(text + at, c->rest, bytes);
    UM_TRY(um_sha256_of(hex, text, at + bytes, err));
    *out = key_of_hex(hex);
    return UM_OK;
}

/* A row as it is hashed: its kind (0 a token, else the modality), its number, and of a medium the key. Each kind has one length, so
 * different rows never make the same bytes. */
static um_status push(um_prefix_chain *c, uint8_t kind, int32_t number, const char *media,
                      um_err *err)
{
    UM_CHECK(c->rows < INT32_MAX && c->rest_bytes + UM_PREFIX_ROW_BYTES <= sizeof c->rest);
    size_t at = c->rest_bytes;
    c->rest[at++] = kind;
    um_put_u32(c->rest + at, (uint32_t)number);
    at += 4;
    if (media != NULL) {
        memcpy(c->rest + at, media, UM_SHA256_HEX - 1);
        at += UM_SHA256_HEX - 1;
    }
    if (c->rows % UM_PAGE == UM_PAGE - 1) {
        um_prefix_key key;
        UM_TRY(page_key(&key, c, at, err));
        key_append(c, &key);
        at = 0;
    }
    c->rest_bytes = at;
    c->rows++;
    return UM_OK;
}

um_status um_prefix_token(um_prefix_chain *c, int32_t id, um_err *err)
{
    return push(c, UM_TEXT, id, NULL, err);
}

um_status um_prefix_media(um_prefix_chain *c, const char media[UM_SHA256_HEX], um_modality modality,
                          int32_t n, um_err *err)
{
    UM_ASSERT(modality > UM_TEXT && modality < UM_MODALITIES && strlen(media) == UM_SHA256_HEX - 1);
    for (int32_t row = 0; row < n; row++) UM_TRY(push(c, (uint8_t)modality, row, media, err));
    return UM_OK;
}

void um_prefix_chain_free(um_prefix_chain *c)
{
    um_free(c->keys);
    *c = (um_prefix_chain){0};
}

/* --- the cache --- */

/* What the cache knows of a cached page. */
typedef struct entry {
    um_prefix_key key;
    int32_t before; /* the page before it; UM_NO_PAGE: it is the first of its prefix */
    int32_t next;   /* in its bucket */
    int32_t behind; /* cached pages that have it before them */
} entry;

struct um_prefix_cache {
    um_kv_pool *pool;
    int32_t most_idle;
    entry *entry;    /* [pages of the pool], by page number */
    int32_t *bucket; /* [mask + 1] number + 1 of the first page with such keys, 0: none */
    uint64_t mask;
    um_prefix_counts count;
};

um_prefix_cache *um_prefix_cache_open(um_kv_pool *pool, int32_t most_idle)
{
    const size_t pages = (size_t)um_kv_pool_count(pool).all;
    size_t buckets = 1;
    while (buckets < pages) buckets *= 2;
    um_prefix_cache *c = um_zalloc(sizeof *c);
    c->pool = pool;
    c->most_idle = most_idle;
    c->entry = um_zalloc(pages * sizeof *c->entry);
    c->bucket = um_zalloc(buckets * sizeof *c->bucket);
    c->mask = buckets - 1;
    return c;
}

void um_prefix_cache_close(um_prefix_cache *c)
{
    if (c == NULL) return;
    for (int32_t i = 0; i < um_kv_pool_count(c->pool).touched; i++)
        if (um_kv_pool_cached(c->pool, i)) um_kv_pool_uncache(c->pool, i);
    um_free(c->entry);
    um_free(c->bucket);
    um_free(c);
}

static int32_t *bucket_of(const um_prefix_cache *c, const um_prefix_key *key)
{
    return &c->bucket[key->word[0] & c->mask];
}

static int32_t lookup(const um_prefix_cache *c, const um_prefix_key *key)
{
    int32_t i = *bucket_of(c, key) - 1;
    while (i != UM_NO_PAGE && !key_equal(&c->entry[i].key, key)) i = c->entry[i].next;
    return i;
}

static void insert(um_prefix_cache *c, int32_t page, int32_t before, const um_prefix_key *key)
{
    int32_t *bucket = bucket_of(c, key);
    UM_CHECK(before == UM_NO_PAGE || um_kv_pool_cached(c->pool, before));
    um_kv_pool_cache(c->pool, page);
    c->entry[page] = (entry){.key = *key, .before = before, .next = *bucket - 1};
    *bucket = page + 1;
    if (before != UM_NO_PAGE) c->entry[before].behind++;
    c->count.cached++;
}

static void evict(um_prefix_cache *c, int32_t page)
{
    const entry *e = &c->entry[page];
    int32_t *bucket = bucket_of(c, &e->key), i = *bucket - 1;
    UM_CHECK(e->behind == 0);
    if (i == page) {
        *bucket = e->next + 1;
    } else {
        while (c->entry[i].next != page) i = c->entry[i].next;
        c->entry[i].next = e->next;
    }
    if (e->before != UM_NO_PAGE) c->entry[e->before].behind--;
    um_kv_pool_uncache(c->pool, page);
    c->count.cached--;
    c->count.evicted++;
}

int32_t um_prefix_find(um_prefix_cache *c, um_page_table *t, const um_prefix_chain *chain)
{
    const int32_t from = t->positions;
    UM_CHECK(chain->ends || from <= chain->rows);
    if (from > chain->rows) return 0;
    const int32_t most = chain->rows == 0 ? 0 : (chain->rows - 1) / UM_PAGE;
    if (from % UM_PAGE != 0 || t->cached != from / UM_PAGE || t->cached >= most) return 0;
    while (t->cached < most) {
        int32_t page = lookup(c, &chain->keys[t->cached]);
        if (page == UM_NO_PAGE) break;
        um_page_table_share(c->pool, t, page);
        t->cached++;
        c->count.found++;
    }
    UM_ASSERT_SLOW(um_prefix_check(c));
    return t->positions - from;
}

void um_prefix_put(um_prefix_cache *c, um_page_table *t, const um_prefix_chain *chain)
{
    const int32_t whole = um_min_int(t->positions, chain->rows) / UM_PAGE;
    UM_CHECK(chain->ends || t->positions <= chain->rows);
    for (; t->cached < whole; t->cached++) {
        const int32_t i = t->cached;
        const int32_t page = lookup(c, &chain->keys[i]);
        if (page == UM_NO_PAGE) {
            insert(c, t->pages[i], i == 0 ? UM_NO_PAGE : t->pages[i - 1], &chain->keys[i]);
            c->count.put++;
        } else {
            um_page_table_replace(c->pool, t, i, page);
            c->count.merged++;
        }
    }
    UM_ASSERT_SLOW(um_prefix_check(c));
}

bool um_prefix_evict(um_prefix_cache *c, int32_t pages)
{
    while (um_kv_pool_count(c->pool).free < pages) {
        int32_t page = um_kv_pool_oldest(c->pool);
        if (page == UM_NO_PAGE) return false;
        evict(c, page);
    }
    return true;
}

bool um_prefix_reserve(um_prefix_cache *c, um_page_table *t, int32_t positions)
{
    const int32_t missing = um_page_table_missing(t, positions);
    um_kv_counts n = um_kv_pool_count(c->pool);
    if (missing > n.free + n.idle) return false;
    for (; n.idle > c->most_idle; n.idle--) evict(c, um_kv_pool_oldest(c->pool));
    bool enough = um_prefix_evict(c, missing) && um_page_table_reserve(c->pool, t, positions);
    UM_CHECK(enough);
    return true;
}

um_prefix_counts um_prefix_count(const um_prefix_cache *c) { return c->count; }

/* --- invariants --- */

static bool entry_ok(const um_prefix_cache *c, int32_t page, int32_t *behind, uint32_t *held)
{
    const entry *e = &c->entry[page];
    if (lookup(c, &e->key) != page) return false;
    if (e->before == UM_NO_PAGE) return true;
    if (!um_kv_pool_cached(c->pool, e->before)) return false;
    behind[e->before]++;
    held[e->before] += um_kv_pool_refs(c->pool, page);
    return true;
}

bool um_prefix_check(const um_prefix_cache *c)
{
    const int32_t n = um_kv_pool_count(c->pool).touched, oldest = um_kv_pool_oldest(c->pool);
    int32_t *behind = um_zalloc((size_t)n * sizeof *behind), cached = 0;
    uint32_t *held = um_zalloc((size_t)n * sizeof *held); /* of the pages behind it */
    bool ok = oldest == UM_NO_PAGE || c->entry[oldest].behind == 0;
    for (int32_t i = 0; ok && i < n; i++) {
        if (!um_kv_pool_cached(c->pool, i)) continue;
        cached++;
        ok = entry_ok(c, i, behind, held);
    }
    for (int32_t i = 0; ok && i < n; i++) {
        if (!um_kv_pool_cached(c->pool, i)) continue;
        ok = behind[i] == c->entry[i].behind && held[i] <= um_kv_pool_refs(c->pool, i);
    }
    um_free(behind);
    um_free(held);
    return ok && cached == c->count.cached;
}
