/* Encoded media at the router: the cache alone, and a cluster in which the same image comes again and again. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/json.h"
#include "router/engine/media_cache.h"
#include "tests/cluster/cluster.h"
#include "tests/support/test_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void key_of(char key[UM_SHA256_HEX], int i)
{
    um_err err = {0};
    assert_int_equal(um_sha256_of(key, &i, sizeof i, &err), UM_OK);
}

static void put(um_media_cache *c, int i, int rows)
{
    float x[64];
    char key[UM_SHA256_HEX];
    for (int k = 0; k < 64; k++) x[k] = (float)(i * 100 + k);
    key_of(key, i);
    um_media_rows_drop(um_media_cache_put(c, key, x, rows, 4));
}

static int held(um_media_cache *c, int i)
{
    char key[UM_SHA256_HEX];
    key_of(key, i);
    const um_media_rows *r = um_media_cache_find(c, key);
    if (r == NULL) return 0;
    int rows = r->n;
    assert_string_equal(r->key, key);
    for (int k = 0; k < 4 * rows; k++) assert_true(r->rows[k] == (float)(i * 100 + k));
    um_media_rows_drop(r);
    return rows;
}

static void the_least_recently_used_leave(void **state)
{
    (void)state;
    um_media_cache *c = um_media_cache_open(3 * 4 * 4 * sizeof(float)); /* twelve rows of four */
    for (int i = 0; i < 3; i++) put(c, i, 4);
    assert_int_equal(held(c, 0), 4); /* now 1 is the oldest */
    put(c, 3, 2);
    assert_int_equal(held(c, 1), 0);
    assert_int_equal(held(c, 0), 4);
    assert_int_equal(held(c, 2), 4);
    assert_int_equal(held(c, 3), 2);
    put(c, 4, 13); /* larger than the cache: it is not stored, and nothing is evicted */
    assert_int_equal(held(c, 4), 0);
    assert_int_equal(held(c, 0), 4);
    put(c, 5, 12);
    assert_int_equal(held(c, 5), 12);
    assert_int_equal(held(c, 0), 0);
    um_media_cache_close(c);
    c = um_media_cache_open(0);
    put(c, 0, 1);
    assert_int_equal(held(c, 0), 0);
    um_media_cache_close(c);
    um_media_cache_close(NULL);
}

/* Rows in use are stored once, whatever the room; the room is for those that nobody uses. */
static void rows_in_use_stay(void **state)
{
    (void)state;
    float x[64] = {1, 2, 3};
    char key[UM_SHA256_HEX];
    um_media_cache *c = um_media_cache_open(4 * 4 * sizeof(float)); /* four rows of four */
    key_of(key, 1);
    const um_media_rows *a = um_media_cache_put(c, key, x, 16, 4),
                        *b = um_media_cache_put(c, key, x, 16, 4), *d = um_media_rows_hold(a);
    assert_ptr_equal(a, b);
    for (int i = 2; i < 9; i++) put(c, i, 4); /* each drives out the one before, not rows in use */
    assert_int_equal(held(c, 7), 0);
    assert_int_equal(held(c, 8), 4);
    um_media_rows_drop(a);
    um_media_rows_drop(b);
    assert_memory_equal(d->rows, x, sizeof x);
    const um_media_rows *again = um_media_cache_find(c, key);
    assert_ptr_equal(again, d);
    um_media_rows_drop(again);
    um_media_rows_drop(d); /* the last reference, and more than the room */
    assert_null(um_media_cache_find(c, key));
    assert_int_equal(held(c, 8), 4);
    um_media_cache_close(c);
}

/* Many more entries than the cache keeps. */
static void many_entries(void **state)
{
    (void)state;
    um_media_cache *c = um_media_cache_open((size_t)1 << 30);
    for (int i = 0; i < 5000; i++) put(c, i, 1);
    assert_int_equal(held(c, 0), 0);
    assert_int_equal(held(c, 4999), 1);
    um_media_cache_close(c);
}

static int64_t figure(const cluster *c, const char *key)
{
    const char *line = cluster_line(c, "\"summary\"");
    um_json *j = NULL;
    um_err err = {0};
    assert_non_null(line);
    assert_int_equal(um_json_parse(&j, line, strlen(line), &err), UM_OK);
    int64_t v = um_json_int(um_json_get(j, key), -1);
    um_json_free(j);
    return v;
}

/* Three requests with four images, of which two are the same bytes under other names. */
static void pictures_that_come_again(int64_t room, int max_batch, int encoded, int cached)
{
    um_arena a;
    um_err err = {0};
    cluster c;
    char file[] = "media_client.XXXXXX";
    um_arena_init(&a, "test", 1 << 16);
    int fd = mkstemp(file);
    assert_true(fd >= 0);
    close(fd);
    const char *tall = golden_path(&a, "media/tall.png"), *wide = golden_path(&a, "media/wide.png");
    um_text lines = {0};
    um_text_fmt(&lines, "{\"id\": \"a\", \"prompt\": \"q\", \"image\": [\"%s\", \"%s\"]}\n", tall,
                tall);
    um_text_fmt(&lines, "{\"id\": \"b\", \"prompt\": \"q\", \"image\": \"%s\"}\n", wide);
    um_text_fmt(&lines, "{\"id\": \"c\", \"prompt\": \"q\", \"image\": [\"%s\", \"%s\"]}\n", tall,
                tall);
    assert_int_equal(um_file_write(file, lines.s, lines.n, &err), UM_OK);
    um_text_free(&lines);
    cluster_init(&c, golden_path(&a, "models/s4"));
    c.cfg.requests = file;
    c.cfg.encoders = "image=2";
    c.cfg.experts = 2;
    c.cfg.temperature = 0;
    c.cfg.max_new_tokens = 3;
    c.cfg.max_batch = max_batch;
    c.cfg.media_cache = room;
    assert_int_equal(cluster_run(&c), UM_OK);
    assert_int_equal(figure(&c, "errors"), 0);
    assert_int_equal(figure(&c, "media_encoded"), encoded);
    assert_int_equal(figure(&c, "media_cached"), cached);
    const char *first = strstr(cluster_line(&c, "\"id\":\"a\""), "\"ids\""),
               *last = strstr(cluster_line(&c, "\"id\":\"c\""), "\"ids\"");
    assert_int_equal(strncmp(first, last, strcspn(first, "]")), 0);
    cluster_free(&c);
    unlink(file);
    um_arena_free(&a);
}

static void encoded_once(void **state)
{
    (void)state;
    pictures_that_come_again(1 << 20, 1, 2, 3); /* one after another: found in the cache */
    pictures_that_come_again(1 << 20, 3, 2, 3); /* together: found under way */
    /* without a cache: once per request, whose second image joins the encoding under way */
    pictures_that_come_again(0, 1, 3, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_least_recently_used_leave),
        cmocka_unit_test(rows_in_use_stay),
        cmocka_unit_test(many_entries),
        cmocka_unit_test(encoded_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
