/* The pool of pages of keys and values, and the tables of the sequences that hold them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "router/engine/kv_pool.h"
#include "tests/support/death.h"

#include <math.h>
#include <string.h>

static um_kv_pool *pool_of(um_dev *dev, int64_t pages)
{
    um_err err = {0};
    um_kv_pool *pool = NULL;
    assert_int_equal(um_dev_open_cpu(dev, UM_ISA_GENERIC, 1, &err), UM_OK);
    assert_int_equal(um_kv_pool_open(&pool, dev, (um_kv_shape){1, 1, 1}, pages, &err), UM_OK);
    return pool;
}

/* free, used, shared, idle. */
static void counts_are(const um_kv_pool *pool, int free, int used, int shared, int idle)
{
    um_kv_counts c = um_kv_pool_count(pool);
    assert_int_equal(c.free, free);
    assert_int_equal(c.used, used);
    assert_int_equal(c.shared, shared);
    assert_int_equal(c.idle, idle);
    assert_int_equal(c.free + c.used + c.idle, c.all);
    assert_true(um_kv_pool_check(pool));
}

/* --- memory --- */

static void sizes_are_checked(void **state)
{
    (void)state;
    um_dev dev;
    um_err err = {0};
    um_kv_pool *pool = NULL;
    size_t bytes = 0;
    assert_int_equal(um_dev_open_cpu(&dev, UM_ISA_GENERIC, 1, &err), UM_OK);
    assert_true(um_kv_page_bytes(&bytes, (um_kv_shape){3, 2, 20}));
    assert_int_equal(bytes, 3 * 2 * 16 * (20 + 32) * sizeof(float));
    assert_false(um_kv_page_bytes(&bytes, (um_kv_shape){1, INT32_MAX, INT32_MAX}));
    assert_false(um_kv_page_bytes(&bytes, (um_kv_shape){INT32_MAX, INT32_MAX, 64}));
    const um_kv_shape one = {1, 1, 1}, huge = {INT32_MAX, 1 << 20, 1};
    assert_int_equal(um_kv_pool_open(&pool, &dev, one, 0, &err), UM_E_LIMIT);
    assert_non_null(strstr(err.msg, "--request-memory"));
    assert_int_equal(um_kv_pool_open(&pool, &dev, one, -1, &err), UM_E_LIMIT);
    assert_int_equal(um_kv_pool_open(&pool, &dev, one, (int64_t)INT32_MAX + 1, &err), UM_E_LIMIT);
    assert_int_equal(um_kv_pool_open(&pool, &dev, huge, INT32_MAX, &err), UM_E_LIMIT);
    assert_null(pool);
    assert_int_equal(um_kv_pages_of(0), 0);
    assert_int_equal(um_kv_pages_of(1), 1);
    assert_int_equal(um_kv_pages_of(16), 1);
    assert_int_equal(um_kv_pages_of(17), 2);
    assert_int_equal(um_kv_pages_of(INT32_MAX), 1 << 27);
}

static void *no_memory(um_dev *d, size_t bytes)
{
    (void)d, (void)bytes;
    return NULL;
}

static void a_device_without_room_is_an_error(void **state)
{
    (void)state;
    um_dev dev;
    um_err err = {0};
    um_kv_pool *pool = NULL;
    assert_int_equal(um_dev_open_cpu(&dev, UM_ISA_GENERIC, 1, &err), UM_OK);
    um_ops ops = *dev.ops;
    ops.alloc = no_memory;
    dev.ops = &ops;
    assert_int_equal(um_kv_pool_open(&pool, &dev, (um_kv_shape){1, 1, 1}, 4, &err), UM_E_MEMORY);
    assert_null(pool);
    um_kv_pool_close(NULL);
}

/* Every page of every layer has floats of its own. */
static void pages_and_layers_are_apart(void **state)
{
    (void)state;
    enum { LAYERS = 3, PAGES = 5 };
    const um_kv_shape shape = {LAYERS, 2, 20};
    const size_t n = um_kv_page_floats(2, 20);
    um_dev dev;
    um_err err = {0};
    um_kv_pool *pool = NULL;
    float got[2 * 16 * (20 + 32)];
    const int32_t table[1] = {0};
    assert_int_equal(n * sizeof(float), sizeof got);
    assert_int_equal(um_dev_open_cpu(&dev, UM_ISA_GENERIC, 1, &err), UM_OK);
    assert_int_equal(um_kv_pool_open(&pool, &dev, shape, PAGES, &err), UM_OK);
    for (int i = 0; i < PAGES; i++) assert_int_equal(um_kv_pool_alloc(pool), i);
    for (int l = 0; l < LAYERS; l++) {
        um_kv kv = um_kv_pool_layer(pool, l, table);
        assert_int_equal(kv.kv_heads, 2);
        assert_int_equal(kv.head_dim, 20);
        assert_ptr_equal(kv.table, table);
        assert_int_equal((uintptr_t)kv.pages % 64, 0);
        assert_int_equal(kv.stride * sizeof(float) % 64, 0);
        for (int p = 0; p < PAGES; p++)
            dev.ops->fill(&dev, kv.pages + (size_t)p * kv.stride, (float)(10 * l + p), n);
    }
    for (int l = 0; l < LAYERS; l++) {
        um_kv kv = um_kv_pool_layer(pool, l, table);
        for (int p = 0; p < PAGES; p++) {
            dev.ops->get(&dev, got, kv.pages + (size_t)p * kv.stride, sizeof got);
            for (size_t i = 0; i < n; i++) assert_true(got[i] == (float)(10 * l + p));
        }
    }
    um_kv_pool_close(pool);
}

/* Reserving takes no memory, whatever is reserved. */
static void a_large_pool_opens_at_once(void **state)
{
    (void)state;
    um_dev dev;
    um_err err = {0};
    um_kv_pool *pool = NULL;
    const um_kv_shape shape = {32, 8, 128};
    assert_int_equal(um_dev_open_cpu(&dev, UM_ISA_GENERIC, 1, &err), UM_OK);
    assert_int_equal(um_kv_pool_open(&pool, &dev, shape, 1 << 14, &err), UM_OK); /* 64 GiB */
    assert_int_equal(um_kv_pool_alloc(pool), 0);
    counts_are(pool, (1 << 14) - 1, 1, 0, 0);
    um_kv_pool_close(pool);
}

/* --- one page --- */

static void a_full_pool_refuses(void **state)
{
    (void)state;
    um_dev dev;
    um_kv_pool *pool = pool_of(&dev, 3);
    counts_are(pool, 3, 0, 0, 0);
    for (int i = 0; i < 3; i++) assert_int_equal(um_kv_pool_alloc(pool), i);
    assert_int_equal(um_kv_pool_alloc(pool), UM_NO_PAGE);
    counts_are(pool, 0, 3, 0, 0);
    um_kv_pool_release(pool, 1);
    counts_are(pool, 1, 2, 0, 0);
    assert_int_equal(um_kv_pool_alloc(pool), 1);
    assert_int_equal(um_kv_pool_alloc(pool), UM_NO_PAGE);
    assert_int_equal(um_kv_pool_count(pool).peak, 3);
    um_kv_pool_close(pool);
}

/* What was in use comes before what was never touched: the resident part stays as small as the peak. */
static void freed_pages_come_first(void **state)
{
    (void)state;
    um_dev dev;
    um_kv_pool *pool = pool_of(&dev, 100);
    for (int turn = 0; turn < 50; turn++) {
        int32_t page[4];
        for (int i = 0; i < 4; i++) page[i] = um_kv_pool_alloc(pool);
        for (int i = 0; i < 4; i++) um_kv_pool_release(pool, page[(i + turn) % 4]);
    }
    assert_int_equal(um_kv_pool_count(pool).touched, 4);
    assert_int_equal(um_kv_pool_count(pool).peak, 4);
    counts_are(pool, 100, 0, 0, 0);
    um_kv_pool_close(pool);
}

static void cached_pages_become_idle(void **state)
{
    (void)state;
    um_dev dev;
    um_kv_pool *pool = pool_of(&dev, 4);
    for (int i = 0; i < 4; i++) um_kv_pool_alloc(pool);
    for (int i = 0; i < 3; i++) um_kv_pool_cache(pool, i);
    um_kv_pool_retain(pool, 0);
    counts_are(pool, 0, 4, 1, 0);
    um_kv_pool_release(pool, 0);
    counts_are(pool, 0, 4, 0, 0);
    for (int i = 0; i < 4; i++) um_kv_pool_release(pool, i);
    counts_are(pool, 1, 0, 0, 3);
    assert_int_equal(um_kv_pool_oldest(pool), 0);
    um_kv_pool_retain(pool, 1); /* out of the middle */
    counts_are(pool, 1, 1, 0, 2);
    um_kv_pool_retain(pool, 0); /* the first */
    assert_int_equal(um_kv_pool_oldest(pool), 2);
    um_kv_pool_release(pool, 1);
    um_kv_pool_release(pool, 0);
    counts_are(pool, 1, 0, 0, 3);
    const int32_t order[] = {2, 1, 0};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(um_kv_pool_oldest(pool), order[i]);
        um_kv_pool_uncache(pool, order[i]);
        counts_are(pool, 2 + i, 0, 0, 2 - i);
    }
    assert_int_equal(um_kv_pool_oldest(pool), UM_NO_PAGE);
    assert_int_equal(um_kv_pool_alloc(pool), 0);
    um_kv_pool_cache(pool, 0);
    um_kv_pool_uncache(pool, 0); /* one that is held stays with its sequence */
    counts_are(pool, 3, 1, 0, 0);
    um_kv_pool_close(pool);
}

/* Every legal order of six operations on three pages, beside a list of what each page is. */
enum { FEW = 3, DEPTH = 6, KINDS = 4, OPERATIONS = 1 + KINDS * FEW };

typedef struct few {
    int refs[FEW];
    bool cached[FEW];
} few;

static bool is_legal(const few *f, int op)
{
    const int page = (op - 1) / KINDS;
    if (op == 0) return true;
    switch ((op - 1) % KINDS) {
    case 0:
        return f->refs[page] > 0 || f->cached[page];
    case 1:
        return f->refs[page] > 0;
    case 2:
        return f->refs[page] > 0 && !f->cached[page];
    default:
        return f->cached[page];
    }
}

static void apply(um_kv_pool *pool, few *f, int op)
{
    int page = (op - 1) / KINDS;
    if (op == 0) {
        bool room = false;
        for (int i = 0; i < FEW; i++) room = room || (f->refs[i] == 0 && !f->cached[i]);
        page = um_kv_pool_alloc(pool);
        assert_int_equal(page != UM_NO_PAGE, room);
        if (!room) return;
        assert_true(f->refs[page] == 0 && !f->cached[page]);
        f->refs[page] = 1;
        return;
    }
    switch ((op - 1) % KINDS) {
    case 0:
        um_kv_pool_retain(pool, page), f->refs[page]++;
        break;
    case 1:
        um_kv_pool_release(pool, page), f->refs[page]--;
        break;
    case 2:
        um_kv_pool_cache(pool, page), f->cached[page] = true;
        break;
    default:
        um_kv_pool_uncache(pool, page), f->cached[page] = false;
        break;
    }
}

static void few_are(const um_kv_pool *pool, const few *f)
{
    int free = 0, used = 0, shared = 0, idle = 0;
    for (int i = 0; i < FEW; i++) {
        assert_int_equal(um_kv_pool_refs(pool, i), f->refs[i]);
        assert_int_equal(um_kv_pool_cached(pool, i), f->cached[i]);
        used += f->refs[i] > 0;
        shared += f->refs[i] > 1;
        idle += f->refs[i] == 0 && f->cached[i];
        free += f->refs[i] == 0 && !f->cached[i];
    }
    counts_are(pool, free, used, shared, idle);
}

static int orders(um_dev *dev, const int *done, int n)
{
    um_err err = {0};
    um_kv_pool *pool = NULL;
    few f = {0};
    int tried = 1, more[DEPTH];
    assert_int_equal(um_kv_pool_open(&pool, dev, (um_kv_shape){1, 1, 1}, FEW, &err), UM_OK);
    for (int i = 0; i < n; i++) apply(pool, &f, done[i]);
    few_are(pool, &f);
    um_kv_pool_close(pool);
    memcpy(more, done, (size_t)n * sizeof *done);
    for (int op = 0; n < DEPTH && op < OPERATIONS; op++) {
        if (!is_legal(&f, op)) continue;
        more[n] = op;
        tried += orders(dev, more, n + 1);
    }
    return tried;
}

static void every_order_of_a_few_operations(void **state)
{
    (void)state;
    um_dev dev;
    um_err err = {0};
    assert_int_equal(um_dev_open_cpu(&dev, UM_ISA_GENERIC, 1, &err), UM_OK);
    assert_true(orders(&dev, (const int[DEPTH]){0}, 0) > 1000);
}

/* --- mistakes end the program, in every build --- */

typedef struct scene {
    um_dev dev;
    um_kv_pool *
        pool; /* page 0 held once, page 1 free after use, page 2 idle, page 3 held by both tables */
    um_page_table a, b;
} scene;

static void scene_open(scene *s)
{
    memset(s, 0, sizeof *s);
    s->pool = pool_of(&s->dev, 6);
    for (int i = 0; i < 3; i++) um_kv_pool_alloc(s->pool);
    um_kv_pool_cache(s->pool, 2);
    um_kv_pool_release(s->pool, 2);
    assert_true(um_page_table_reserve(s->pool, &s->a, 16));
    um_page_table_advance(s->pool, &s->a, 16);
    um_page_table_share(s->pool, &s->b, s->a.pages[0]);
    assert_int_equal(s->a.pages[0], 3);
    um_kv_pool_release(s->pool, 1);
}

static void release_free(void *s) { um_kv_pool_release(((scene *)s)->pool, 1); }
static void release_idle(void *s) { um_kv_pool_release(((scene *)s)->pool, 2); }
static void release_untouched(void *s) { um_kv_pool_release(((scene *)s)->pool, 5); }
static void release_outside(void *s) { um_kv_pool_release(((scene *)s)->pool, 6); }
static void release_none(void *s) { um_kv_pool_release(((scene *)s)->pool, UM_NO_PAGE); }
static void retain_free(void *s) { um_kv_pool_retain(((scene *)s)->pool, 1); }
static void cache_free(void *s) { um_kv_pool_cache(((scene *)s)->pool, 1); }
static void cache_idle(void *s) { um_kv_pool_cache(((scene *)s)->pool, 2); }
static void uncache_used(void *s) { um_kv_pool_uncache(((scene *)s)->pool, 0); }
static void layer_outside(void *s) { um_kv_pool_layer(((scene *)s)->pool, 1, NULL); }
static void advance_unreserved(void *s)
{
    um_page_table_advance(((scene *)s)->pool, &((scene *)s)->a, 1);
}
static void write_shared(void *p)
{
    scene *s = p;
    s->a.positions = 15; /* as if its last position were still empty */
    um_page_table_advance(s->pool, &s->a, 1);
}
static void share_in_the_middle(void *p)
{
    scene *s = p;
    um_page_table_reserve(s->pool, &s->b, 20);
    um_page_table_advance(s->pool, &s->b, 4);
    um_page_table_share(s->pool, &s->b, 0);
}

static void mistakes_are_caught(void **state)
{
    (void)state;
    void (*const mistakes[])(void *) = {
        release_free, release_idle,       release_untouched,  release_outside, release_none,
        retain_free,  cache_free,         cache_idle,         uncache_used,    layer_outside,
        write_shared, advance_unreserved, share_in_the_middle};
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        scene s;
        scene_open(&s);
        counts_are(s.pool, 3, 2, 1, 1);
        if (!aborts(mistakes[i], &s)) fail_msg("mistake %zu is not caught", i);
        um_page_table_release(s.pool, &s.a);
        um_page_table_release(s.pool, &s.b);
        um_kv_pool_close(s.pool);
    }
}

/* Check builds only: what is free, and what was never written, is NaN. */
static void free_pages_are_poisoned(void **state)
{
    (void)state;
#ifdef UM_SLOW_CHECKS
    um_dev dev;
    um_kv_pool *pool = pool_of(&dev, 2);
    um_kv kv = um_kv_pool_layer(pool, 0, NULL);
    float got[16 * 17];
    assert_int_equal(um_kv_pool_alloc(pool), 0);
    dev.ops->get(&dev, got, kv.pages, sizeof got);
    for (size_t i = 0; i < sizeof got / sizeof *got; i++) assert_true(isnan(got[i]));
    dev.ops->fill(&dev, kv.pages, 1, kv.stride);
    um_kv_pool_cache(pool, 0);
    um_kv_pool_release(pool, 0); /* idle: its content stays */
    dev.ops->get(&dev, got, kv.pages, sizeof got);
    for (size_t i = 0; i < sizeof got / sizeof *got; i++) assert_true(got[i] == 1);
    um_kv_pool_uncache(pool, 0);
    dev.ops->get(&dev, got, kv.pages, sizeof got);
    for (size_t i = 0; i < sizeof got / sizeof *got; i++) assert_true(isnan(got[i]));
    um_kv_pool_close(pool);
#else
    skip();
#endif
}

/* --- the pages of a sequence --- */

static void all_or_nothing(void **state)
{
    (void)state;
    um_dev dev;
    um_kv_pool *pool = pool_of(&dev, 4);
    um_page_table a = {0}, b = {0};
    assert_true(um_page_table_reserve(pool, &a, 0));
    assert_int_equal(a.n, 0);
    assert_int_equal(um_page_table_missing(&a, 33), 3);
    assert_true(um_page_table_reserve(pool, &a, 33));
    assert_int_equal(a.n, 3);
    assert_int_equal(um_page_table_missing(&a, 48), 0);
    assert_true(um_page_table_reserve(pool, &a, 48)); /* there already */
    assert_true(um_page_table_reserve(pool, &a, 1));
    assert_int_equal(a.n, 3);
    assert_false(um_page_table_reserve(pool, &b, 17));
    assert_int_equal(b.n, 0);
    counts_are(pool, 1, 3, 0, 0);
    assert_false(um_page_table_reserve(pool, &a, INT32_MAX));
    assert_int_equal(a.n, 3);
    assert_true(um_page_table_reserve(pool, &b, 16));
    assert_false(um_page_table_reserve(pool, &a, 49));
    um_page_table_release(pool, &a);
    assert_null(a.pages);
    counts_are(pool, 3, 1, 0, 0);
    um_page_table_release(pool, &a); /* an empty one */
    assert_true(um_page_table_reserve(pool, &b, 64));
    um_page_table_release(pool, &b);
    counts_are(pool, 4, 0, 0, 0);
    um_kv_pool_close(pool);
}

static void tables_grow(void **state)
{
    (void)state;
    um_dev dev;
    um_kv_pool *pool = pool_of(&dev, 1000);
    um_page_table t = {0};
    bool seen[1000] = {0};
    for (int32_t p = 1; p <= 16000; p += 7) {
        assert_true(um_page_table_reserve(pool, &t, p));
        assert_true(um_page_table_writable(pool, &t, t.positions, p - t.positions));
        um_page_table_advance(pool, &t, p - t.positions);
        assert_int_equal(t.n, um_kv_pages_of(p));
    }
    assert_false(um_page_table_writable(pool, &t, t.positions, 17));
    assert_false(um_page_table_writable(pool, &t, INT32_MAX, INT32_MAX));
    assert_false(um_page_table_writable(pool, &t, -1, 1));
    for (int i = 0; i < t.n; i++) {
        assert_false(seen[t.pages[i]]);
        seen[t.pages[i]] = true;
    }
    um_page_table_release(pool, &t);
    counts_are(pool, 1000, 0, 0, 0);
    um_kv_pool_close(pool);
}

static void whole_pages_are_shared(void **state)
{
    (void)state;
    um_dev dev;
    um_kv_pool *pool = pool_of(&dev, 6);
    um_page_table a = {0}, b = {0};
    assert_true(um_page_table_reserve(pool, &a, 40));
    um_page_table_advance(pool, &a, 40);
    assert_true(um_page_table_reserve(pool, &b, 16)); /* gets released by the share */
    counts_are(pool, 2, 4, 0, 0);
    um_page_table_share(pool, &b, a.pages[0]);
    um_page_table_share(pool, &b, a.pages[1]);
    assert_int_equal(b.positions, 32);
    assert_int_equal(b.n, 2);
    counts_are(pool, 3, 3, 2, 0);
    assert_false(um_page_table_writable(pool, &b, 31, 1));
    assert_false(um_page_table_writable(pool, &a, 31, 1));
    assert_true(um_page_table_writable(pool, &a, 40, 8));
    um_kv_pool_cache(pool, a.pages[2]);
    assert_false(um_page_table_writable(pool, &a, 40, 8)); /* a later prompt may find it */
    um_kv_pool_uncache(pool, a.pages[2]);
    assert_true(um_page_table_reserve(pool, &b, 33)); /* behind them it writes into its own */
    assert_int_not_equal(b.pages[2], a.pages[2]);
    um_page_table_advance(pool, &b, 1);
    um_page_table_release(pool, &a);
    counts_are(pool, 3, 3, 0, 0);
    um_page_table_release(pool, &b);
    counts_are(pool, 6, 0, 0, 0);
    um_kv_pool_close(pool);
}

/* Of a prefix the end is idle for longest. */
static void released_from_the_end(void **state)
{
    (void)state;
    um_dev dev;
    um_kv_pool *pool = pool_of(&dev, 3);
    um_page_table t = {0};
    assert_true(um_page_table_reserve(pool, &t, 48));
    int32_t pages[3];
    memcpy(pages, t.pages, sizeof pages);
    for (int i = 0; i < 3; i++) um_kv_pool_cache(pool, pages[i]);
    um_page_table_release(pool, &t);
    counts_are(pool, 0, 0, 0, 3);
    for (int i = 2; i >= 0; i--) {
        assert_int_equal(um_kv_pool_oldest(pool), pages[i]);
        um_kv_pool_uncache(pool, pages[i]);
    }
    um_kv_pool_close(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(a_device_without_room_is_an_error),
        cmocka_unit_test(pages_and_layers_are_apart),
        cmocka_unit_test(a_large_pool_opens_at_once),
        cmocka_unit_test(a_full_pool_refuses),
        cmocka_unit_test(freed_pages_come_first),
        cmocka_unit_test(cached_pages_become_idle),
        cmocka_unit_test(every_order_of_a_few_operations),
        cmocka_unit_test(mistakes_are_caught),
        cmocka_unit_test(free_pages_are_poisoned),
        cmocka_unit_test(all_or_nothing),
        cmocka_unit_test(tables_grow),
        cmocka_unit_test(whole_pages_are_shared),
        cmocka_unit_test(released_from_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
