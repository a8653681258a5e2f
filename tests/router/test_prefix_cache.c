/* The prefix cache: keys of prefixes, what is found and shared, and what leaves when room is needed. The random run is in
 * test_prefix_model.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "router/engine/prefix_cache.h"
#include "tests/support/death.h"

#include <stdio.h>
#include <string.h>

typedef struct world {
    um_dev dev;
    um_kv_pool *pool;
    um_prefix_cache *cache;
} world;

static void world_open(world *w, int64_t pages, int32_t most_idle)
{
    um_err err = {0};
    assert_int_equal(um_dev_open_cpu(&w->dev, UM_ISA_GENERIC, 1, &err), UM_OK);
    assert_int_equal(um_kv_pool_open(&w->pool, &w->dev, (um_kv_shape){1, 1, 1}, pages, &err),
                     UM_OK);
    w->cache = um_prefix_cache_open(w->pool, most_idle);
}

static void world_close(world *w)
{
    um_prefix_cache_close(w->cache);
    assert_true(um_kv_pool_check(w->pool));
    assert_int_equal(um_kv_pool_count(w->pool).free, um_kv_pool_count(w->pool).all);
    um_kv_pool_close(w->pool);
}

/* free, used, shared, idle. */
static void counts_are(const world *w, int free, int used, int shared, int idle)
{
    um_kv_counts c = um_kv_pool_count(w->pool);
    assert_int_equal(c.free, free);
    assert_int_equal(c.used, used);
    assert_int_equal(c.shared, shared);
    assert_int_equal(c.idle, idle);
    assert_true(um_kv_pool_check(w->pool));
    assert_true(um_prefix_check(w->cache));
}

typedef struct prompt {
    um_prefix_chain chain;
    um_page_table table;
} prompt;

static void tokens(prompt *p, int n, int32_t id)
{
    um_err err = {0};
    for (int i = 0; i < n; i++) assert_int_equal(um_prefix_token(&p->chain, id, &err), UM_OK);
}

static void medium(prompt *p, const char *of, um_modality modality, int n)
{
    um_err err = {0};
    char key[UM_SHA256_HEX];
    assert_int_equal(um_sha256_of(key, of, strlen(of), &err), UM_OK);
    assert_int_equal(um_prefix_media(&p->chain, key, modality, n, &err), UM_OK);
}

/* Everything that it has rows for is computed and put. */
static void run(world *w, prompt *p)
{
    assert_true(um_prefix_reserve(w->cache, &p->table, p->chain.rows));
    um_page_table_advance(w->pool, &p->table, p->chain.rows - p->table.positions);
    um_prefix_put(w->cache, &p->table, &p->chain);
}

static int find(world *w, prompt *p) { return um_prefix_find(w->cache, &p->table, &p->chain); }

static void end(world *w, prompt *p)
{
    um_page_table_release(w->pool, &p->table);
    um_prefix_chain_free(&p->chain);
}

/* --- keys --- */

static bool same(const prompt *a, const prompt *b, int page)
{
    return memcmp(&a->chain.keys[page], &b->chain.keys[page], sizeof a->chain.keys[page]) == 0;
}

static void the_key_of_a_page_covers_all_before_it(void **state)
{
    (void)state;
    prompt a = {0}, b = {0};
    tokens(&a, 56, 7);
    assert_int_equal(a.chain.n, 3);
    assert_int_equal(a.chain.rows, 56);
    assert_false(same(&a, &(prompt){.chain.keys = a.chain.keys + 1},
                      0)); /* equal rows, not equal prefixes */
    for (int at = 0; at < 48; at++) {
        tokens(&b, at, 7);
        tokens(&b, 1, 8);
        tokens(&b, 47 - at, 7);
        for (int page = 0; page < 3; page++) assert_int_equal(same(&a, &b, page), page < at / 16);
        um_prefix_chain_free(&b.chain);
    }
    tokens(&b, 48, 7);
    for (int page = 0; page < 3; page++) assert_true(same(&a, &b, page));
    um_prefix_chain_free(&a.chain);
    um_prefix_chain_free(&b.chain);
}

/* One page of each kind: no two have the same key. */
static void what_a_row_is_made_of_counts(void **state)
{
    (void)state;
    enum { KINDS = 9 };
    prompt p[KINDS] = {0};
    medium(&p[0], "a", UM_IMAGE, 16);
    medium(&p[1], "b", UM_IMAGE, 16);
    medium(&p[2], "a", UM_SPEECH, 16);
    medium(&p[3], "a", UM_SOUND, 16);
    medium(&p[4], "a", UM_VIDEO, 16);
    medium(&p[5], "a", UM_IMAGE, 8), medium(&p[5], "a", UM_IMAGE, 8); /* rows 0..7 twice */
    medium(&p[6], "a", UM_IMAGE, 15), tokens(&p[6], 1, 15);
    for (int i = 0; i < 16; i++) tokens(&p[7], 1, i); /* ids like the numbers of rows */
    tokens(&p[8], 16, -1);
    for (int i = 0; i < KINDS; i++) {
        assert_int_equal(p[i].chain.n, 1);
        for (int k = 0; k < i; k++) assert_false(same(&p[i], &p[k], 0));
    }
    for (int i = 0; i < KINDS; i++) um_prefix_chain_free(&p[i].chain);
    um_prefix_chain_free(&p[0].chain); /* an empty one */
}

/* Whatever the machine and the build, a key is the SHA-256 of these bytes. */
static void keys_are_sha256(void **state)
{
    (void)state;
    um_err err = {0};
    uint8_t text[32 + 16 * 5] = {0};
    char hex[UM_SHA256_HEX], got[UM_SHA256_HEX];
    prompt p = {0};
    tokens(&p, 16, 0x01020304);
    for (int i = 0; i < 16; i++) memcpy(text + 32 + 5 * i, (const uint8_t[]){0, 4, 3, 2, 1}, 5);
    assert_int_equal(um_sha256_of(hex, text, sizeof text, &err), UM_OK);
    for (int i = 0; i < 4; i++)
        snprintf(got + 16 * i, 17, "%016llx", (unsigned long long)p.chain.keys[0].word[i]);
    assert_string_equal(got, hex);
    um_prefix_chain_free(&p.chain);
}

/* --- finding and sharing --- */

/* The last row of a prompt is always computed. */
static void the_last_row_is_not_found(void **state)
{
    (void)state;
    world w;
    prompt first = {0};
    world_open(&w, 16, 16);
    tokens(&first, 64, 1);
    run(&w, &first);
    for (int rows = 0; rows <= 70; rows++) {
        prompt p = {0};
        tokens(&p, rows, 1);
        int want = rows == 0 ? 0 : (rows - 1) / 16 * 16;
        assert_int_equal(find(&w, &p), want);
        assert_int_equal(p.table.positions, want);
        assert_int_equal(p.table.n, want / 16);
        counts_are(&w, 12, 4, want / 16, 0);
        run(&w, &p);
        end(&w, &p);
    }
    end(&w, &first);
    counts_are(&w, 12, 0, 0, 4);
    world_close(&w);
}

static void a_prefix_is_shared_and_the_rest_is_not(void **state)
{
    (void)state;
    world w;
    prompt a = {0}, b = {0};
    world_open(&w, 16, 16);
    tokens(&a, 40, 1);
    tokens(&b, 32, 1), tokens(&b, 20, 2);
    assert_int_equal(find(&w, &a), 0);
    run(&w, &a);
    counts_are(&w, 13, 3, 0, 0); /* two whole pages are cached */
    assert_int_equal(um_prefix_count(w.cache).cached, 2);
    assert_int_equal(find(&w, &b), 32);
    counts_are(&w, 13, 3, 2, 0);
    assert_memory_equal(a.table.pages, b.table.pages, 2 * sizeof(int32_t));
    run(&w, &b);
    assert_int_not_equal(a.table.pages[2], b.table.pages[2]);
    counts_are(&w, 11, 5, 2, 0);
    end(&w, &a);
    counts_are(&w, 12, 4, 0, 0);
    end(&w, &b);
    counts_are(&w, 13, 0, 0, 3);
    world_close(&w);
}

/* The image of a prompt is part of its prefix, by its content. */
static void media_are_found_by_content(void **state)
{
    (void)state;
    world w;
    prompt a = {0}, b = {0}, c = {0}, d = {0};
    world_open(&w, 32, 32);
    tokens(&a, 5, 1), medium(&a, "cat", UM_IMAGE, 40), tokens(&a, 6, 2);
    tokens(&b, 5, 1), medium(&b, "cat", UM_IMAGE, 40), tokens(&b, 9, 3);
    tokens(&c, 5, 1), medium(&c, "dog", UM_IMAGE, 40), tokens(&c, 6, 2);
    tokens(&d, 5, 1), medium(&d, "cat", UM_VIDEO, 40), tokens(&d, 6, 2);
    run(&w, &a);
    assert_int_equal(find(&w, &b), 32);
    assert_int_equal(find(&w, &c), 0);
    assert_int_equal(find(&w, &d), 0);
    end(&w, &a), end(&w, &b), end(&w, &c), end(&w, &d);
    world_close(&w);
}

/* Two that begin at the same time compute the same pages; the later put drops its own. */
static void equal_pages_are_merged(void **state)
{
    (void)state;
    world w;
    prompt a = {0}, b = {0};
    world_open(&w, 16, 16);
    tokens(&a, 40, 1);
    tokens(&b, 60, 1);
    assert_int_equal(find(&w, &a) + find(&w, &b), 0);
    run(&w, &a);
    run(&w, &b);
    assert_memory_equal(a.table.pages, b.table.pages, 2 * sizeof(int32_t));
    assert_int_equal(um_prefix_count(w.cache).merged, 2);
    assert_int_equal(um_prefix_count(w.cache).put, 3);
    counts_are(&w, 11, 5, 2, 0); /* 3 of a, and 2 of b alone */
    end(&w, &a);
    end(&w, &b);
    world_close(&w);
}

/* A sequence that another one has overtaken takes over from it at the end of a page, and gives up what it had reserved. */
static void found_in_the_middle_of_a_prompt(void **state)
{
    (void)state;
    world w;
    prompt a = {0}, b = {0};
    world_open(&w, 16, 16);
    tokens(&a, 80, 1);
    tokens(&b, 80, 1);
    assert_true(um_prefix_reserve(w.cache, &b.table, 48));
    um_page_table_advance(w.pool, &b.table, 8);
    run(&w, &a);
    assert_int_equal(find(&w, &b), 0); /* not at the end of a page */
    um_page_table_advance(w.pool, &b.table, 8);
    assert_int_equal(find(&w, &b), 0); /* its page was not put */
    um_prefix_put(w.cache, &b.table, &b.chain);
    assert_int_equal(find(&w, &b), 48);
    assert_int_equal(b.table.positions, 64);
    counts_are(&w, 11, 5, 4, 0);
    run(&w, &b);
    end(&w, &a);
    end(&w, &b);
    world_close(&w);
}

/* Generated tokens are rows like others: the next turn of a conversation finds the answer too. */
static void an_answer_is_part_of_the_next_prompt(void **state)
{
    (void)state;
    world w;
    prompt a = {0}, b = {0};
    world_open(&w, 16, 16);
    tokens(&a, 20, 1);
    run(&w, &a);
    for (int i = 0; i < 30; i++) {
        tokens(&a, 1, 100 + i);
        run(&w, &a);
    }
    end(&w, &a);
    tokens(&b, 20, 1);
    for (int i = 0; i < 30; i++) tokens(&b, 1, 100 + i);
    tokens(&b, 10, 1);
    assert_int_equal(find(&w, &b), 48);
    end(&w, &b);
    world_close(&w);
}

/* Keys whose first word is the same are in one place; the rest of the key decides. */
static void colliding_keys_are_told_apart(void **state)
{
    (void)state;
    enum { N = 40 };
    world w;
    prompt p[N] = {0}, again = {0};
    world_open(&w, N, N);
    for (int i = 0; i < N; i++) {
        tokens(&p[i], 16, i), tokens(&p[i], 1, 0);
        p[i].chain.keys[0].word[0] = 42;
        assert_int_equal(find(&w, &p[i]), 0);
        assert_true(um_prefix_reserve(w.cache, &p[i].table, 16));
        um_page_table_advance(w.pool, &p[i].table, 16);
        um_prefix_put(w.cache, &p[i].table, &p[i].chain);
    }
    counts_are(&w, 0, N, 0, 0);
    for (int i = 0; i < N; i += 3) { /* out of the middle, the front and the end of the list */
        um_page_table_release(w.pool, &p[i].table);
        assert_true(um_prefix_evict(w.cache, i / 3 + 1));
    }
    for (int i = 0; i < N; i++) {
        um_page_table *t = &again.table;
        assert_int_equal(um_prefix_find(w.cache, t, &p[i].chain), i % 3 == 0 ? 0 : 16);
        if (i % 3 != 0) assert_int_equal(t->pages[0], p[i].table.pages[0]);
        um_page_table_release(w.pool, t);
    }
    for (int i = 0; i < N; i++) end(&w, &p[i]);
    world_close(&w);
}

/* --- room --- */

static void the_longest_idle_leave_first(void **state)
{
    (void)state;
    world w;
    prompt p[3] = {0}, q = {0};
    world_open(&w, 9, 9);
    for (int i = 0; i < 3; i++) {
        tokens(&p[i], 16, 0), tokens(&p[i], 32, 1 + i); /* they share the first page */
        find(&w, &p[i]);
        run(&w, &p[i]);
    }
    counts_are(&w, 2, 7, 1, 0);
    end(&w, &p[1]);
    end(&w, &p[0]);
    counts_are(&w, 2, 3, 0, 4);
    assert_true(um_prefix_evict(w.cache, 3)); /* the last page of 1 */
    tokens(&q, 16, 0), tokens(&q, 33, 2);
    assert_int_equal(find(&w, &q), 32);
    assert_int_equal(um_prefix_count(w.cache).evicted, 1);
    end(&w, &q); /* makes what is left of 1 younger than 0 */
    assert_true(um_prefix_evict(w.cache, 5));
    tokens(&q, 16, 0), tokens(&q, 33, 1);
    assert_int_equal(find(&w, &q), 16); /* 0 is gone, but for what it shares with 2, which runs */
    end(&w, &q);
    tokens(&q, 16, 0), tokens(&q, 33, 2);
    assert_int_equal(find(&w, &q), 32);
    end(&w, &q);
    assert_false(um_prefix_evict(w.cache, 9)); /* evicts all that is idle */
    counts_are(&w, 6, 3, 0, 0);
    end(&w, &p[2]);
    assert_true(um_prefix_evict(w.cache, 9));
    assert_int_equal(um_prefix_count(w.cache).cached, 0);
    world_close(&w);
}

static void reserve_evicts_what_it_needs_or_nothing(void **state)
{
    (void)state;
    world w;
    prompt a = {0}, b = {0}, c = {0};
    world_open(&w, 6, 6);
    tokens(&a, 48, 1);
    run(&w, &a);
    end(&w, &a);
    tokens(&b, 32, 2);
    run(&w, &b);
    counts_are(&w, 1, 2, 0, 3);
    assert_false(um_prefix_reserve(w.cache, &c.table, 16 * 5));
    counts_are(&w, 1, 2, 0, 3);
    assert_true(um_prefix_reserve(w.cache, &c.table, 16));
    counts_are(&w, 0, 3, 0, 3);
    assert_true(um_prefix_reserve(w.cache, &c.table, 17));
    counts_are(&w, 0, 4, 0, 2);
    tokens(&a, 48, 1);
    assert_int_equal(find(&w, &a), 32); /* its end left */
    counts_are(&w, 0, 6, 0, 0);
    assert_false(um_prefix_reserve(w.cache, &a.table, 33));
    assert_true(um_prefix_reserve(w.cache, &a.table, 32));
    end(&w, &a), end(&w, &b), end(&w, &c);
    world_close(&w);
}

static void no_more_are_idle_than_allowed(void **state)
{
    (void)state;
    world w;
    prompt a = {0}, b = {0};
    world_open(&w, 16, 2);
    tokens(&a, 80, 1);
    run(&w, &a);
    end(&w, &a);
    tokens(&b, 1, 2);
    run(&w, &b);
    counts_are(&w, 13, 1, 0, 2);
    tokens(&a, 80, 1);
    assert_int_equal(find(&w, &a), 32); /* the beginning stayed */
    end(&w, &a), end(&w, &b);
    world_close(&w);
    world_open(&w, 16, 0); /* nothing outlives its sequences */
    tokens(&a, 80, 1);
    run(&w, &a);
    tokens(&b, 80, 1);
    assert_int_equal(find(&w, &b), 64);
    end(&w, &a);
    run(&w, &b);
    counts_are(&w, 11, 5, 0, 0);
    end(&w, &b);
    assert_true(um_prefix_reserve(w.cache, &b.table, 0));
    counts_are(&w, 16, 0, 0, 0);
    end(&w, &b);
    world_close(&w);
}

/* Two sequences grow until the pool is full; the younger one is put back, and continues when the older one has ended. */
static void the_youngest_is_put_back(void **state)
{
    (void)state;
    world w;
    prompt old = {0}, young = {0};
    world_open(&w, 8, 8);
    tokens(&old, 50, 1);
    tokens(&young, 50, 2);
    run(&w, &old);
    run(&w, &young);
    counts_are(&w, 0, 8, 0, 0);
    tokens(&young, 14, 3); /* generated, as far as its pages go */
    run(&w, &young);
    tokens(&old, 15, 3);
    assert_false(um_prefix_reserve(w.cache, &old.table, 65));
    um_page_table_release(w.pool, &young.table);
    counts_are(&w, 0, 4, 0, 4);
    run(&w, &old);
    counts_are(&w, 0, 5, 0, 3); /* the end of the young one left */
    assert_int_equal(find(&w, &young), 48);
    assert_false(um_prefix_reserve(w.cache, &young.table, young.chain.rows)); /* nothing is left */
    um_page_table_release(w.pool, &young.table);
    end(&w, &old);
    assert_int_equal(find(&w, &young), 48);
    run(&w, &young);
    assert_int_equal(young.table.positions, 64);
    assert_int_equal(young.chain.rows, 64);
    end(&w, &young);
    world_close(&w);
}

/* A sequence outlives the cache. */
static void pages_stay_when_the_cache_closes(void **state)
{
    (void)state;
    world w;
    prompt a = {0}, b = {0};
    world_open(&w, 8, 8);
    tokens(&a, 33, 1);
    run(&w, &a);
    tokens(&b, 33, 2);
    run(&w, &b);
    end(&w, &b);
    um_prefix_cache_close(w.cache);
    um_prefix_cache_close(NULL);
    assert_int_equal(um_kv_pool_count(w.pool).used, 3);
    assert_int_equal(um_kv_pool_count(w.pool).free, 5);
    w.cache = um_prefix_cache_open(w.pool, 8);
    end(&w, &a);
    world_close(&w);
}

/* --- mistakes --- */

typedef struct mistake {
    world w;
    prompt p;
} mistake;

static void put_without_rows(void *arg)
{
    mistake *m = arg;
    m->p.chain.rows = 31;
    um_prefix_put(m->w.cache, &m->p.table, &m->p.chain);
}

static void find_without_rows(void *arg)
{
    mistake *m = arg;
    m->p.chain.rows = 31;
    um_prefix_find(m->w.cache, &m->p.table, &m->p.chain);
}

/* Its first page is no longer cached, as if it had been evicted under the sequence. */
static void put_behind_nothing(void *arg)
{
    mistake *m = arg;
    um_kv_pool_uncache(m->w.pool, m->p.table.pages[0]);
    um_prefix_put(m->w.cache, &m->p.table, &m->p.chain);
}

static void mistakes_are_caught(void **state)
{
    (void)state;
    void (*const mistakes[])(void *) = {put_without_rows, find_without_rows, put_behind_nothing};
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        mistake m = {0};
        world_open(&m.w, 8, 8);
        tokens(&m.p, 32, 1);
        assert_true(um_prefix_reserve(m.w.cache, &m.p.table, 32));
        um_page_table_advance(m.w.pool, &m.p.table, 16);
        um_prefix_put(m.w.cache, &m.p.table, &m.p.chain);
        um_page_table_advance(m.w.pool, &m.p.table, 16);
        if (!aborts(mistakes[i], &m)) fail_msg("mistake %zu is not caught", i);
        end(&m.w, &m.p);
        world_close(&m.w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_key_of_a_page_covers_all_before_it),
        cmocka_unit_test(what_a_row_is_made_of_counts),
        cmocka_unit_test(keys_are_sha256),
        cmocka_unit_test(the_last_row_is_not_found),
        cmocka_unit_test(a_prefix_is_shared_and_the_rest_is_not),
        cmocka_unit_test(media_are_found_by_content),
        cmocka_unit_test(equal_pages_are_merged),
        cmocka_unit_test(found_in_the_middle_of_a_prompt),
        cmocka_unit_test(an_answer_is_part_of_the_next_prompt),
        cmocka_unit_test(colliding_keys_are_told_apart),
        cmocka_unit_test(the_longest_idle_leave_first),
        cmocka_unit_test(reserve_evicts_what_it_needs_or_nothing),
        cmocka_unit_test(no_more_are_idle_than_allowed),
        cmocka_unit_test(the_youngest_is_put_back),
        cmocka_unit_test(pages_stay_when_the_cache_closes),
        cmocka_unit_test(mistakes_are_caught),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
