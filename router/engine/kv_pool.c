/* See kv_pool.h. */
#include "router/engine/kv_pool.h"

#include "core/base/bytes.h"

#include <math.h>

typedef struct page_state {
    uint32_t refs;      /* sequences that hold it */
    int32_t prev, next; /* in the list of free pages (next alone) or of idle pages */
    bool cached;
} page_state;

struct um_kv_pool {
    um_dev *dev;
    um_kv_shape shape;
    float *memory;
    size_t layer_floats, page_floats; /* of a page in one layer, and in all */
    page_state *page;                 /* [all]; entries from `touched` on were never in use */
    int32_t freed;                    /* the free page that was in use last */
    int32_t oldest, newest;           /* of the idle pages */
    um_kv_counts count;
};

/* --- the pool --- */

/* Floats of a page in one layer and in all; false when the bytes overflow. */
static bool page_sizes(size_t *layer, size_t *all, um_kv_shape s)
{
    size_t most, bytes; /* most: what um_kv_page_floats must not exceed on its way */
    UM_ASSERT(s.layers > 0 && s.kv_heads > 0 && s.head_dim > 0);
    if (!um_mul_ok(&most, 2 * ((size_t)s.head_dim + UM_PANEL), (size_t)s.kv_heads * UM_PAGE))
        return false;
    *layer = um_kv_page_floats(s.kv_heads, s.head_dim);
    UM_ASSERT(*layer <= most);
    return um_mul_ok(all, *layer, (size_t)s.layers) && um_mul_ok(&bytes, *all, sizeof(float));
}

bool um_kv_page_bytes(size_t *bytes, um_kv_shape shape)
{
    size_t layer, all;
    if (!page_sizes(&layer, &all, shape)) return false;
    *bytes = all * sizeof(float);
    return true;
}

int32_t um_kv_pages_of(int32_t positions)
{
    UM_CHECK(positions >= 0);
    return positions / UM_PAGE + (positions % UM_PAGE != 0);
}

um_status um_kv_pool_open(um_kv_pool **out, um_dev *dev, um_kv_shape shape, int64_t pages,
                          um_err *err)
{
    size_t layer, all, bytes;
    if (pages < 1)
        return UM_FAIL(err, UM_E_LIMIT,
                       "keys and values: there is no room for one page of %d positions: raise "
                       "--request-memory",
                       UM_PAGE);
    if (pages > INT32_MAX || !page_sizes(&layer, &all, shape) ||
        !um_mul_ok(&bytes, all, (size_t)pages * sizeof(float)))
        return UM_FAIL(err, UM_E_LIMIT,
                       "keys and values: %lld pages of %d layers, %d heads of %d values are more "
                       "than can be counted: lower --request-memory",
                       (long long)pages, shape.layers, shape.kv_heads, shape.head_dim);
    float *memory = dev->ops->alloc(dev, bytes);
    if (memory == NULL)
        return UM_FAIL(err, UM_E_MEMORY,
                       "keys and values: the device has no %zu bytes for %lld pages of %d "
                       "positions: lower --request-memory",
                       bytes, (long long)pages, UM_PAGE);
    um_kv_pool *pool = um_zalloc(sizeof *pool);
    *pool = (um_kv_pool){.dev = dev,
                         .shape = shape,
                         .memory = memory,
                         .layer_floats = layer,
                         .page_floats = all,
                         .page = um_zalloc((size_t)pages * sizeof *pool->page),
                         .freed = UM_NO_PAGE,
                         .oldest = UM_NO_PAGE,
                         .newest = UM_NO_PAGE,
                         .count = {.all = (int32_t)pages, .free = (int32_t)pages}};
    *out = pool;
    return UM_OK;
}

void um_kv_pool_close(um_kv_pool *pool)
{
    if (pool == NULL) return;
    pool->dev->ops->free(pool->dev, pool->memory);
    um_free(pool->page);
    um_free(pool);
}

um_kv um_kv_pool_layer(const um_kv_pool *pool, int layer, const int32_t *table)
{
    UM_CHECK(layer >= 0 && layer < pool->shape.layers);
    return (um_kv){.kv_heads = pool->shape.kv_heads,
                   .head_dim = pool->shape.head_dim,
                   .pages = pool->memory + (size_t)layer * pool->layer_floats,
                   .stride = pool->page_floats,
                   .table = table};
}

um_kv_counts um_kv_pool_count(const um_kv_pool *pool) { return pool->count; }

/* --- one page --- */

static bool is_touched(const um_kv_pool *pool, int32_t page)
{
    return page >= 0 && page < pool->count.touched;
}

/* In check builds a free page is full of NaN, which no answer survives: who reads a page that it does not hold, or a position that
 * nobody wrote, is seen. */
static void poison(um_kv_pool *pool, int32_t page)
{
#ifdef UM_SLOW_CHECKS
    float *at = pool->memory + (size_t)page * pool->page_floats;
    pool->dev->ops->fill(pool->dev, at, NAN, pool->page_floats);
#else
    (void)pool, (void)page;
#endif
}

static void free_push(um_kv_pool *pool, int32_t page)
{
    poison(pool, page);
    pool->page[page].next = pool->freed;
    pool->freed = page;
    pool->count.free++;
}

static void idle_append(um_kv_pool *pool, int32_t page)
{
    page_state *p = &pool->page[page];
    p->prev = pool->newest;
    p->next = UM_NO_PAGE;
    *(pool->newest == UM_NO_PAGE ? &pool->oldest : &pool->page[pool->newest].next) = page;
    pool->newest = page;
    pool->count.idle++;
}

static void idle_remove(um_kv_pool *pool, int32_t page)
{
    const page_state *p = &pool->page[page];
    *(p->prev == UM_NO_PAGE ? &pool->oldest : &pool->page[p->prev].next) = p->next;
    *(p->next == UM_NO_PAGE ? &pool->newest : &pool->page[p->next].prev) = p->prev;
    pool->count.idle--;
}

static void count_used(um_kv_pool *pool)
{
    um_kv_counts *c = &pool->count;
    c->used++;
    if (c->used > c->peak) c->peak = c->used;
}

int32_t um_kv_pool_alloc(um_kv_pool *pool)
{
    int32_t page = pool->freed;
    if (pool->count.free == 0) return UM_NO_PAGE;
    if (page != UM_NO_PAGE) {
        pool->freed = pool->page[page].next;
    } else {
        page = pool->count.touched++;
        poison(pool, page);
    }
    UM_CHECK(is_touched(pool, page) && pool->page[page].refs == 0 && !pool->page[page].cached);
    pool->page[page].refs = 1;
    pool->count.free--;
    count_used(pool);
    return page;
}

void um_kv_pool_retain(um_kv_pool *pool, int32_t page)
{
    UM_CHECK(is_touched(pool, page));
    page_state *p = &pool->page[page];
    UM_CHECK((p->refs > 0 || p->cached) && p->refs < UINT32_MAX);
    if (p->refs == 0) {
        idle_remove(pool, page);
        count_used(pool);
    }
    pool->count.shared += p->refs == 1;
    p->refs++;
}

void um_kv_pool_release(um_kv_pool *pool, int32_t page)
{
    UM_CHECK(is_touched(pool, page) && pool->page[page].refs > 0);
    page_state *p = &pool->page[page];
    p->refs--;
    pool->count.shared -= p->refs == 1;
    if (p->refs > 0) return;
    pool->count.used--;
    (p->cached ? idle_append : free_push)(pool, page);
}

uint32_t um_kv_pool_refs(const um_kv_pool *pool, int32_t page)
{
    UM_CHECK(page >= 0 && page < pool->count.all);
    return pool->page[page].refs;
}

void um_kv_pool_cache(um_kv_pool *pool, int32_t page)
{
    UM_CHECK(is_touched(pool, page) && pool->page[page].refs > 0 && !pool->page[page].cached);
    pool->page[page].cached = true;
}

void um_kv_pool_uncache(um_kv_pool *pool, int32_t page)
{
    UM_CHECK(um_kv_pool_cached(pool, page));
    pool->page[page].cached = false;
    if (pool->page[page].refs > 0) return;
    idle_remove(pool, page);
    free_push(pool, page);
}

bool um_kv_pool_cached(const um_kv_pool *pool, int32_t page)
{
    UM_CHECK(page >= 0 && page < pool->count.all);
    return pool->page[page].cached;
}

int32_t um_kv_pool_oldest(const um_kv_pool *pool) { return pool->oldest; }

/* --- invariants --- */

/* The free pages that were in use: none is held or cached, and the list ends. */
static bool free_list_ok(const um_kv_pool *pool)
{
    int32_t n = 0, most = pool->count.free - (pool->count.all - pool->count.touched);
    for (int32_t i = pool->freed; i != UM_NO_PAGE; i = pool->page[i].next) {
        if (n++ == most || !is_touched(pool, i)) return false;
        if (pool->page[i].refs != 0 || pool->page[i].cached) return false;
    }
    return n == most;
}

static bool idle_list_ok(const um_kv_pool *pool)
{
    int32_t n = 0, prev = UM_NO_PAGE;
    for (int32_t i = pool->oldest; i != UM_NO_PAGE; prev = i, i = pool->page[i].next) {
        if (n++ == pool->count.idle || !is_touched(pool, i)) return false;
        const page_state *p = &pool->page[i];
        if (p->refs != 0 || !p->cached || p->prev != prev) return false;
    }
    return n == pool->count.idle && pool->newest == prev;
}

bool um_kv_pool_check(const um_kv_pool *pool)
{
    const um_kv_counts *c = &pool->count;
    int32_t free = c->all - c->touched, used = 0, shared = 0, idle = 0;
    for (int32_t i = 0; i < c->touched; i++) {
        const page_state *p = &pool->page[i];
        used += p->refs > 0;
        shared += p->refs > 1;
        idle += p->refs == 0 && p->cached;
        free += p->refs == 0 && !p->cached;
    }
    return free == c->free && used == c->used && shared == c->shared && idle == c->idle &&
           c->peak >= used && c->touched <= c->all && free_list_ok(pool) && idle_list_ok(pool);
}

/* --- the pages of one sequence --- */

int32_t um_page_table_missing(const um_page_table *t, int32_t positions)
{
    int32_t pages = um_kv_pages_of(positions);
    return pages > t->n ? pages - t->n : 0;
}

/* Room for so many pages; at least twice as many as before, so that growing page by page copies little. */
static void make_room(um_page_table *t, int32_t pages)
{
    if (pages <= t->cap) return;
    int32_t cap = t->cap > INT32_MAX / 2 ? INT32_MAX : um_max_int(2 * t->cap, 8);
    t->cap = um_max_int(cap, pages);
    t->pages = um_realloc(t->pages, (size_t)t->cap * sizeof *t->pages);
}

bool um_page_table_reserve(um_kv_pool *pool, um_page_table *t, int32_t positions)
{
    int32_t missing = um_page_table_missing(t, positions);
    if (missing > pool->count.free) return false;
    make_room(t, t->n + missing);
    for (; missing > 0; missing--) t->pages[t->n++] = um_kv_pool_alloc(pool);
    UM_ASSERT_SLOW(um_kv_pool_check(pool));
    return true;
}

bool um_page_table_writable(const um_kv_pool *pool, const um_page_table *t, int32_t from,
                            int32_t rows)
{
    const int64_t end = (int64_t)from + rows;
    if (from < 0 || rows < 0 || end > INT32_MAX || end > (int64_t)t->n * UM_PAGE) return false;
    for (int32_t i = from / UM_PAGE; i < um_kv_pages_of((int32_t)end); i++) {
        const page_state *p = &pool->page[t->pages[i]];
        if (p->refs != 1 || p->cached) return false;
    }
    return true;
}

void um_page_table_advance(um_kv_pool *pool, um_page_table *t, int32_t rows)
{
    UM_CHECK(um_page_table_writable(pool, t, t->positions, rows));
    t->positions += rows;
}

void um_page_table_replace(um_kv_pool *pool, um_page_table *t, int32_t i, int32_t page)
{
    UM_CHECK(i >= 0 && i < t->n);
    um_kv_pool_retain(pool, page);
    um_kv_pool_release(pool, t->pages[i]);
    t->pages[i] = page;
}

void um_page_table_share(um_kv_pool *pool, um_page_table *t, int32_t page)
{
    int32_t i = t->positions / UM_PAGE;
    UM_CHECK(t->positions % UM_PAGE == 0 && t->positions <= INT32_MAX - UM_PAGE);
    if (i < t->n) {
        um_page_table_replace(pool, t, i, page);
    } else {
        make_room(t, t->n + 1);
        um_kv_pool_retain(pool, page);
        t->pages[t->n++] = page;
    }
    t->positions += UM_PAGE;
}

void um_page_table_release(um_kv_pool *pool, um_page_table *t)
{
    for (int32_t i = t->n; i-- > 0;) um_kv_pool_release(pool, t->pages[i]);
    um_free(t->pages);
    *t = (um_page_table){0};
    UM_ASSERT_SLOW(um_kv_pool_check(pool));
}
