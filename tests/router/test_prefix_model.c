/* Page pool and prefix cache beside a plain model of them, over many thousands of random operations: sequences open, look for their
 * prefix, grow, are put back, end, and pages are evicted.
 *
 * The model names every prefix, row by row, by a number, and writes it into the pages in place of keys and values. So at any time each
 * position of each sequence must hold the number of its own prefix, whatever was shared, merged, evicted and used again. Which pages
 * are cached, and which leave, it works out by looking at everything. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/bytes.h"
#include "core/base/rng.h"
#include "router/engine/prefix_cache.h"

#include <string.h>

enum {
    PAGES = 16,
    SEQUENCES = 7,
    LONGEST = 6, /* pages of a sequence */
    ROWS = LONGEST * UM_PAGE,
    NAMES = 1 << 17,
    OPERATIONS = 20000,
};

/* What a row is: one of two tokens, or the row of an image that stands at this place of a page. */
enum { SEVEN, NINE, IMAGE, VALUES };

typedef struct sequence {
    bool open;
    int born;       /* the larger, the younger */
    int rows;       /* that it has, prompt and generated */
    int name[ROWS]; /* of the prefix up to each row */
    um_prefix_chain chain;
    um_page_table table;
} sequence;

typedef struct kept_page {
    int name; /* of the prefix that ends with it */
    int32_t page;
    int since; /* when its last sequence released it; 0: in use */
} kept_page;

typedef struct model {
    um_dev dev;
    um_kv_pool *pool;
    um_prefix_cache *cache;
    um_rng rng;
    int most_idle;
    bool collide; /* all keys begin alike */
    int next[NAMES][VALUES], names;
    int content[PAGES][UM_PAGE]; /* in place of keys and values: the name of a prefix; 0: nothing */
    sequence s[SEQUENCES];
    kept_page kept[PAGES];
    int n_kept, clock, births;
    int found, merged, evicted, put_back, overtaken; /* so that a run shows that all happened */
} model;

static int below(model *m, int n) { return (int)um_rng_below(&m->rng, (uint64_t)n); }

/* --- what should be --- */

static bool in_use(const model *m, int32_t page)
{
    for (int i = 0; i < SEQUENCES; i++)
        for (int k = 0; k < m->s[i].table.n; k++)
            if (m->s[i].table.pages[k] == page) return true;
    return false;
}

static kept_page *kept_of(model *m, int name)
{
    for (int i = 0; i < m->n_kept; i++)
        if (m->kept[i].name == name) return &m->kept[i];
    return NULL;
}

static bool is_kept(const model *m, int32_t page)
{
    for (int i = 0; i < m->n_kept; i++)
        if (m->kept[i].page == page) return true;
    return false;
}

static int idle_pages(const model *m)
{
    int n = 0;
    for (int i = 0; i < m->n_kept; i++) n += m->kept[i].since > 0;
    return n;
}

static int free_pages(const model *m)
{
    int n = 0;
    for (int32_t i = 0; i < PAGES; i++) n += !in_use(m, i) && !is_kept(m, i);
    return n;
}

/* The n longest idle ones leave, or all. */
static void model_evict(model *m, int n)
{
    for (; n > 0; n--) {
        int oldest = -1;
        for (int i = 0; i < m->n_kept; i++)
            if (m->kept[i].since > 0 && (oldest < 0 || m->kept[i].since < m->kept[oldest].since))
                oldest = i;
        if (oldest < 0) return;
        m->kept[oldest] = m->kept[--m->n_kept];
        m->evicted++;
    }
}

static void rows_are_its_own(const model *m, const sequence *s)
{
    assert_true(s->table.positions <= s->table.n * UM_PAGE);
    for (int p = 0; p < s->table.positions; p++)
        if (m->content[s->table.pages[p / UM_PAGE]][p % UM_PAGE] != s->name[p])
            fail_msg("a sequence of %d rows has another's row at position %d", s->rows, p);
}

static void everything_agrees(model *m)
{
    um_kv_counts c = um_kv_pool_count(m->pool);
    um_prefix_counts k = um_prefix_count(m->cache);
    int held[PAGES] = {0}, used = 0, shared = 0;
    for (int i = 0; i < SEQUENCES; i++) {
        for (int p = 0; p < m->s[i].table.n; p++) held[m->s[i].table.pages[p]]++;
        rows_are_its_own(m, &m->s[i]);
    }
    for (int32_t i = 0; i < PAGES; i++) {
        assert_int_equal(um_kv_pool_refs(m->pool, i), held[i]);
        assert_int_equal(um_kv_pool_cached(m->pool, i), is_kept(m, i));
        if (held[i] == 0 && !is_kept(m, i)) memset(m->content[i], 0, sizeof m->content[i]);
        used += held[i] > 0;
        shared += held[i] > 1;
    }
    assert_int_equal(c.used, used);
    assert_int_equal(c.shared, shared);
    assert_int_equal(c.idle, idle_pages(m));
    assert_int_equal(c.free, free_pages(m));
    assert_int_equal(k.cached, m->n_kept);
    assert_int_equal(k.evicted, m->evicted);
    assert_int_equal(k.merged, m->merged);
    assert_int_equal(k.found, m->found);
    assert_true(um_kv_pool_check(m->pool));
    assert_true(um_prefix_check(m->cache));
}

/* --- rows --- */

static void name_row(model *m, sequence *s, int value)
{
    int before = s->rows == 0 ? 0 : s->name[s->rows - 1];
    int *next = &m->next[before][value];
    if (*next == 0) *next = ++m->names;
    assert_true(m->names + 1 < NAMES);
    s->name[s->rows++] = *next;
}

/* Keys are made of the keys before them, so each is changed as soon as it is there. */
static void keys_collide(const model *m, const sequence *s)
{
    if (m->collide && s->chain.n > 0) s->chain.keys[s->chain.n - 1].word[0] = 5;
}

/* Rows up to `rows`, page by page of one value, so that prefixes often are equal. An image is not generated, and ends with its page. */
static void push_rows(model *m, sequence *s, int rows, bool generated)
{
    static const char image[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    um_err err = {0};
    while (s->rows < rows) {
        const int page_end = (s->rows / UM_PAGE + 1) * UM_PAGE;
        const int n = um_min_int(page_end, rows) - s->rows;
        const int draw = below(m, 20), value = draw < 16 ? SEVEN : draw < 18 ? NINE : IMAGE;
        if (value == IMAGE && !generated && s->rows % UM_PAGE == 0) {
            assert_int_equal(um_prefix_media(&s->chain, image, UM_IMAGE, n, &err), UM_OK);
            for (int i = 0; i < n; i++) name_row(m, s, IMAGE);
        } else {
            for (int i = 0; i < n; i++) {
                assert_int_equal(um_prefix_token(&s->chain, value == NINE ? 9 : 7, &err), UM_OK);
                name_row(m, s, value == NINE ? NINE : SEVEN);
            }
        }
        keys_collide(m, s);
    }
}

/* --- operations, each with what it should do --- */

static void find(model *m, sequence *s)
{
    const int from = s->table.positions;
    int n = 0;
    for (int k = from / UM_PAGE; from % UM_PAGE == 0 && k < (s->rows - 1) / UM_PAGE; k++, n++)
        if (kept_of(m, s->name[k * UM_PAGE + UM_PAGE - 1]) == NULL) break;
    assert_int_equal(um_prefix_find(m->cache, &s->table, &s->chain), n * UM_PAGE);
    for (int k = from / UM_PAGE; k < from / UM_PAGE + n; k++) {
        kept_page *kept = kept_of(m, s->name[k * UM_PAGE + UM_PAGE - 1]);
        assert_int_equal(s->table.pages[k], kept->page);
        kept->since = 0;
    }
    m->found += n;
    m->overtaken += from > 0 && n > 0;
}

static void release(model *m, sequence *s)
{
    int32_t pages[LONGEST];
    const int n = s->table.n;
    memcpy(pages, s->table.pages == NULL ? pages : s->table.pages, (size_t)n * sizeof *pages);
    um_page_table_release(m->pool, &s->table);
    for (int i = n - 1; i >= 0; i--)
        for (int k = 0; k < m->n_kept; k++)
            if (m->kept[k].page == pages[i] && !in_use(m, pages[i])) m->kept[k].since = ++m->clock;
}

static void put(model *m, sequence *s)
{
    const int from = s->table.cached, whole = s->table.positions / UM_PAGE;
    int32_t want[LONGEST];
    for (int k = from; k < whole; k++) {
        const int name = s->name[k * UM_PAGE + UM_PAGE - 1];
        kept_page *kept = kept_of(m, name);
        m->merged += kept != NULL;
        if (kept == NULL) {
            kept = &m->kept[m->n_kept++];
            *kept = (kept_page){.name = name, .page = s->table.pages[k]};
        }
        kept->since = 0;
        want[k] = kept->page;
    }
    um_prefix_put(m->cache, &s->table, &s->chain);
    for (int k = from; k < whole; k++) assert_int_equal(s->table.pages[k], want[k]);
}

static void put_youngest_back(model *m)
{
    sequence *youngest = NULL;
    for (int i = 0; i < SEQUENCES; i++)
        if (m->s[i].table.n > 0 && (youngest == NULL || m->s[i].born > youngest->born))
            youngest = &m->s[i];
    assert_non_null(youngest);
    release(m, youngest);
    m->put_back++;
}

/* Rows up to `rows` are computed, or the youngest is put back. */
static void step(model *m, sequence *s, int rows)
{
    const int missing = um_max_int(0, um_kv_pages_of(rows) - s->table.n);
    const bool room = missing <= free_pages(m) + idle_pages(m);
    if (room) {
        model_evict(m, idle_pages(m) - m->most_idle);
        model_evict(m, missing - free_pages(m));
    }
    assert_int_equal(um_prefix_reserve(m->cache, &s->table, rows), room);
    if (!room) {
        put_youngest_back(m);
        return;
    }
    const int from = s->table.positions;
    assert_true(um_page_table_writable(m->pool, &s->table, from, rows - from));
    for (int p = from; p < rows; p++)
        m->content[s->table.pages[p / UM_PAGE]][p % UM_PAGE] = s->name[p];
    um_page_table_advance(m->pool, &s->table, rows - from);
    put(m, s);
}

static void end(model *m, sequence *s)
{
    release(m, s);
    um_prefix_chain_free(&s->chain);
    *s = (sequence){0};
}

static void evict(model *m, int pages)
{
    const bool enough = free_pages(m) + idle_pages(m) >= pages;
    model_evict(m, pages - free_pages(m));
    assert_int_equal(um_prefix_evict(m->cache, pages), enough);
}

/* Often to the end of a page, where a sequence can look again for its prefix. */
static int rows_of_step(model *m, const sequence *s)
{
    return below(m, 2) ? UM_PAGE - s->table.positions % UM_PAGE : 1 + below(m, 24);
}

static void operate(model *m)
{
    sequence *s = &m->s[below(m, SEQUENCES)];
    const int what = below(m, 40);
    if (!s->open) {
        *s = (sequence){.open = true, .born = ++m->births};
        push_rows(m, s, 1 + below(m, ROWS), false);
        find(m, s);
    } else if (what == 0) {
        evict(m, below(m, PAGES));
    } else if (what == 1) {
        end(m, s);
    } else if (what < 20 || s->table.n == 0) {
        find(m, s);
        step(m, s, um_min_int(s->rows, s->table.positions + rows_of_step(m, s)));
    } else if (s->table.positions < s->rows) {
        step(m, s, um_min_int(s->rows, s->table.positions + rows_of_step(m, s)));
    } else if (s->rows < ROWS && below(m, 3) > 0) {
        push_rows(m, s, um_min_int(ROWS, s->rows + 1 + below(m, 8)), true);
    } else {
        end(m, s);
    }
}

static void runs(uint64_t seed, int most_idle, bool collide)
{
    um_err err = {0};
    model *m = um_zalloc(sizeof *m);
    m->rng = um_rng_seed(seed, 0);
    m->most_idle = most_idle;
    m->collide = collide;
    assert_int_equal(um_dev_open_cpu(&m->dev, UM_ISA_GENERIC, 1, &err), UM_OK);
    assert_int_equal(um_kv_pool_open(&m->pool, &m->dev, (um_kv_shape){1, 1, 1}, PAGES, &err),
                     UM_OK);
    m->cache = um_prefix_cache_open(m->pool, most_idle);
    for (int i = 0; i < OPERATIONS; i++) {
        operate(m);
        everything_agrees(m);
    }
    assert_true(m->found > OPERATIONS / 50 && m->merged > OPERATIONS / 200);
    assert_true(m->evicted > OPERATIONS / 50 && m->put_back > OPERATIONS / 200);
    assert_true(m->overtaken > OPERATIONS / 2000);
    for (int i = 0; i < SEQUENCES; i++) end(m, &m->s[i]);
    everything_agrees(m);
    evict(m, PAGES);
    everything_agrees(m);
    assert_int_equal(um_kv_pool_count(m->pool).free, PAGES);
    um_prefix_cache_close(m->cache);
    um_kv_pool_close(m->pool);
    um_free(m);
}

static void as_the_model_says(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) runs(seed, PAGES, false);
}

static void with_few_idle_pages(void **state)
{
    (void)state;
    runs(11, 3, false);
    runs(12, 0, false);
}

static void with_keys_that_collide(void **state)
{
    (void)state;
    for (uint64_t seed = 21; seed <= 23; seed++) runs(seed, PAGES, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_the_model_says),
        cmocka_unit_test(with_few_idle_pages),
        cmocka_unit_test(with_keys_that_collide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
