/* Encoded media at the router: the cache alone, and a cluster in which the same image comes again and again. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/json.h"
#include "router/engine/media_client.h"
#include "router/engine/media_reader.h"
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

/* --- the reader alone --- */

/* Reads an item in pieces of so many bytes. */
static um_status key_read(char key[UM_SHA256_HEX], const um_item *item, const um_config *cfg,
                          size_t piece, um_arena *a, um_err *err)
{
    um_media_reader r;
    um_status st = UM_OK;
    um_media_reader_begin(&r, item, cfg, a);
    while (st == UM_OK && !um_media_reader_complete(&r)) st = um_media_reader_read(&r, piece, err);
    if (st == UM_OK) st = um_media_reader_key(&r, err);
    memcpy(key, r.key, sizeof r.key);
    um_media_reader_end(&r);
    um_media_reader_end(&r);
    return st;
}

/* The bytes that media_reader.h lists, whether they come from files or with the request, and in whatever pieces. */
static void the_key_is_that_of_the_bytes(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {UM_VIDEO, 0,   1,   'n',             /* what the item is */
                                    3,        0,   0,   0,   0, 0, 0, 0, /* a size */
                                    'o',      'n', 'e',                  /* a content */
                                    0,        0,   0,   0,   0, 0, 0, 0, /* that of an empty file */
                                    5,        0,   0,   0,   0, 0, 0, 0, 't', 'h', 'r', 'e', 'e'};
    const char *content[] = {"one", "", "three"};
    char want[UM_SHA256_HEX], key[UM_SHA256_HEX];
    const char *path[3];
    um_err err = {0};
    um_arena a;
    um_config cfg;
    um_arena_init(&a, "test", 1 << 12);
    um_config_default(&cfg);
    cfg.image_orientation = "none";
    assert_int_equal(um_sha256_of(want, bytes, sizeof bytes, &err), UM_OK);
    um_media_data data[3] = {{0}};
    for (int i = 0; i < 3; i++) {
        path[i] = um_arena_fmt(&a, "test_media_reader.%d.%d", (int)getpid(), i);
        assert_int_equal(um_file_write(path[i], content[i], strlen(content[i]), &err), UM_OK);
    }
    data[2].bytes = (const uint8_t *)content[2];
    data[2].n = strlen(content[2]);
    um_item item = {.modality = UM_VIDEO, .paths = path, .data = data, .n = 3, .frames = true};
    const size_t pieces[] = {1, 2, SIZE_MAX};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(key_read(key, &item, &cfg, pieces[i], &a, &err), UM_OK);
        assert_string_equal(key, want);
    }
    item.track = true;
    assert_int_equal(key_read(key, &item, &cfg, SIZE_MAX, &a, &err), UM_OK);
    assert_string_not_equal(key, want);
    cfg.media_max_bytes = 7; /* of all files together; the last has the eighth */
    assert_int_equal(key_read(key, &item, &cfg, 1, &a, &err), UM_E_DATA);
    assert_non_null(strstr(err.msg, "larger than --media-max-bytes, which is 7"));
    assert_string_equal(key, "");
    cfg.media_max_bytes = 8;
    assert_int_equal(key_read(key, &item, &cfg, 1, &a, &err), UM_OK);
    for (int i = 0; i < 3; i++) assert_int_equal(unlink(path[i]), 0);
    assert_int_equal(key_read(key, &item, &cfg, 1, &a, &err), UM_E_DATA);
    um_arena_free(&a);
}

/* --- the client alone, against an encoder rank that the test plays --- */

enum { D = 8, WAITERS = 6 };

typedef struct desk {
    um_comm *comm[2]; /* router, encoder */
    um_link link[2];
    um_model model;
    um_config cfg;
    um_media_client *client;
    um_media_request *request[WAITERS];
    int rows[WAITERS], failed[WAITERS]; /* items that came, and failures */
    float first[WAITERS];               /* the first value of the newest */
    bool forget_on_rows;                /* the sink ends a request as soon as it gets something */
    um_arena a;
} desk;

static void sink_rows(void *ctx, void *waiter, int i, const um_media_rows *rows)
{
    desk *t = ctx;
    int w = (int)(intptr_t)waiter;
    (void)i;
    t->rows[w]++;
    t->first[w] = rows->rows[0];
    if (t->forget_on_rows) {
        for (int k = 0; k < WAITERS; k++) { /* others as well */
            um_media_client_forget(t->client, t->request[k]);
            t->request[k] = NULL;
        }
    }
}

static void sink_failed(void *ctx, void *waiter, um_status st, const um_err *why)
{
    desk *t = ctx;
    int w = (int)(intptr_t)waiter;
    assert_int_equal(st, UM_E_DATA);
    assert_true(why->msg[0] != '\0');
    t->failed[w]++;
    um_media_client_forget(t->client, t->request[w]);
    t->request[w] = NULL;
}

static desk *desk_open(int64_t cache)
{
    const um_role roles[] = {UM_ROLE_ROUTER, UM_ROLE_ENCODER};
    desk *t = um_zalloc(sizeof *t);
    um_err err = {0};
    um_arena_init(&t->a, "test", 1 << 16);
    um_config_default(&t->cfg);
    t->cfg.media_cache = cache;
    t->model.dim = D;
    assert_int_equal(um_comm_inproc_open(t->comm, roles, 2, &err), UM_OK);
    t->comm[0]->topo.ranks[1].modalities = UM_READS_VISION;
    for (int r = 0; r < 2; r++) {
        um_link_open(&t->link[r], t->comm[r]);
        assert_int_equal(um_codec_open(&t->link[r].codec, UM_CODEC_NONE, 0, &err), UM_OK);
    }
    um_media_sink sink = {sink_rows, sink_failed, t};
    t->client = um_media_client_open(&t->cfg, &t->model, &t->link[0], sink);
    return t;
}

static void desk_close(desk *t)
{
    for (int w = 0; w < WAITERS; w++) um_media_client_forget(t->client, t->request[w]);
    um_media_client_close(t->client);
    for (int r = 0; r < 2; r++) {
        um_link_close(&t->link[r]);
        um_comm_close(t->comm[r], UM_OK);
    }
    um_arena_free(&t->a);
    um_free(t);
}

/* The waiter asks for n images, whose contents are numbers. */
static void ask(desk *t, int waiter, const int *content, int n)
{
    um_item *items = um_arena_zero(&t->a, (size_t)n * sizeof *items);
    for (int i = 0; i < n; i++) {
        items[i].modality = UM_IMAGE;
        items[i].n = 1;
        items[i].paths = um_arena_zero(&t->a, sizeof *items[i].paths);
        items[i].paths[0] = um_arena_fmt(&t->a, "image %d", content[i]);
        items[i].data = um_arena_zero(&t->a, sizeof *items[i].data);
        items[i].data[0].n = sizeof(int);
        items[i].data[0].bytes =
            (uint8_t *)um_arena_strn(&t->a, (const char *)&content[i], sizeof(int));
    }
    t->request[waiter] = um_media_client_request(t->client, (void *)(intptr_t)waiter, items, n);
}

static void read_all(desk *t)
{
    um_err err = {0};
    while (um_media_client_runnable(t->client))
        assert_int_equal(um_media_client_read(t->client, &err), UM_OK);
}

/* The encoder answers the next item it was sent: the number in it as rows, or a refusal. False: it was sent none. */
static bool answer(desk *t, bool refuse)
{
    um_inbound in = {0};
    um_err err = {0};
    ProtobufCMessage *msg = NULL;
    um_mark mark = um_arena_mark(&t->a);
    if (um_link_next(&t->link[1], &in, 0, &err) == UM_E_TIMEOUT) return false;
    assert_int_equal(in.frame.kind, UM_KIND_ENCODE);
    assert_int_equal(um_link_unpack(&msg, &um__encode_request__descriptor, &in, &t->a, &err),
                     UM_OK);
    const Um__EncodeRequest *req = (const Um__EncodeRequest *)msg;
    int content = 0;
    memcpy(&content, req->media[0].data, sizeof content);
    float rows[2 * D];
    for (int k = 0; k < 2 * D; k++) rows[k] = (float)content;
    Um__EncodeResult res = UM__ENCODE_RESULT__INIT;
    res.key = req->key;
    res.status = refuse ? UM_E_DATA : UM_OK;
    res.text = (char *)(uintptr_t)(refuse ? "it is broken" : "");
    size_t bytes = um_control_size(&res.base);
    uint8_t *meta = um_arena_alloc(&t->a, bytes);
    um_control_pack(&res.base, meta);
    um_data_frame f = {.kind = UM_KIND_ENCODED,
                       .meta = meta,
                       .meta_bytes = (uint32_t)bytes,
                       .rows = refuse ? NULL : rows,
                       .n = refuse ? 0 : 2,
                       .cols = D};
    assert_int_equal(um_link_send_rows(&t->link[1], 0, &f, &t->a, &err), UM_OK);
    um_link_release(&t->link[1], &in);
    assert_int_equal(um_link_next(&t->link[0], &in, 1000000, &err), UM_OK);
    um_status st = um_media_client_encoded(t->client, &in, &t->a, &err);
    if (st != UM_OK) print_message("%s\n", err.msg);
    assert_int_equal(st, UM_OK);
    um_link_release(&t->link[0], &in);
    um_arena_reset(&t->a, mark);
    return true;
}

/* One encoding for all that ask for the same, whenever they ask, and whoever leaves. */
static void one_key_has_many_waiters(void **state)
{
    (void)state;
    desk *t = desk_open(1 << 20);
    um_media_owed owed = {0};
    assert_false(um_media_client_owed(t->client, &owed));
    for (int w = 0; w < 4; w++) ask(t, w, (int[]){7, w == 3 ? 8 : 7}, 2);
    read_all(t);
    assert_true(um_media_client_owed(t->client, &owed));
    assert_int_equal(owed.rank, 1);
    assert_int_equal(owed.items, 2);
    assert_true(owed.since_ns > 0);
    um_media_client_forget(t->client, t->request[0]); /* the one who asked first */
    t->request[0] = NULL;
    assert_true(answer(t, false));
    assert_int_equal(t->rows[0], 0);
    assert_int_equal(t->rows[1], 2);
    assert_int_equal(t->rows[2], 2);
    assert_int_equal(t->rows[3], 1);
    assert_true(t->first[1] == 7);
    assert_true(answer(t, false));
    assert_int_equal(t->rows[3], 2);
    assert_true(t->first[3] == 8);
    assert_false(answer(t, false));
    assert_false(um_media_client_owed(t->client, &owed));
    um_media_stats s = um_media_client_stats(t->client);
    assert_int_equal(s.encoded, 2);
    assert_int_equal(s.cached, 6);
    desk_close(t);
}

/* All leave: what was not read is not sent; what was sent goes to the cache. */
static void nobody_waits_any_more(void **state)
{
    (void)state;
    desk *t = desk_open(1 << 20);
    um_err err = {0};
    ask(t, 0, (int[]){1, 2, 3, 4}, 4);
    assert_int_equal(um_media_client_read(t->client, &err), UM_OK); /* the first is sent */
    um_media_client_forget(t->client, t->request[0]);
    t->request[0] = NULL;
    assert_false(um_media_client_runnable(t->client));
    ask(t, 1, (int[]){1}, 1); /* under way still: it is not sent again */
    read_all(t);
    um_media_client_forget(t->client, t->request[1]);
    t->request[1] = NULL;
    assert_true(answer(t, false));
    assert_false(answer(t, false));
    assert_int_equal(t->rows[0] + t->rows[1], 0);
    ask(t, 2, (int[]){1}, 1);
    read_all(t);
    assert_int_equal(t->rows[2], 1);
    assert_int_equal(um_media_client_stats(t->client).encoded, 1);
    desk_close(t);
}

/* A refusal fails all that wait for it, once, and their other items are dropped. The next who asks has it tried again. */
static void a_refusal_is_for_all(void **state)
{
    (void)state;
    desk *t = desk_open(1 << 20);
    ask(t, 0, (int[]){5, 5, 6}, 3);
    ask(t, 1, (int[]){5}, 1);
    ask(t, 2, (int[]){6}, 1);
    read_all(t);
    assert_true(answer(t, true));
    assert_int_equal(t->failed[0], 1);
    assert_int_equal(t->failed[1], 1);
    assert_int_equal(t->rows[0], 0);
    assert_true(answer(t, false));
    assert_int_equal(t->rows[2], 1);
    assert_int_equal(t->rows[0], 0);
    ask(t, 3, (int[]){5}, 1);
    read_all(t);
    assert_true(answer(t, false));
    assert_int_equal(t->rows[3], 1);
    desk_close(t);
}

/* What gets rows may end any request meanwhile. */
static void a_waiter_leaves_when_it_gets_rows(void **state)
{
    (void)state;
    desk *t = desk_open(0);
    t->forget_on_rows = true;
    for (int w = 0; w < 3; w++) ask(t, w, (int[]){9, 9, 10}, 3);
    read_all(t);
    assert_true(answer(t, false));
    assert_int_equal(t->rows[0] + t->rows[1] + t->rows[2], 1);
    assert_true(answer(t, false)); /* nobody waits, and there is no room to keep it */
    assert_int_equal(t->rows[0] + t->rows[1] + t->rows[2], 1);
    desk_close(t);
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
        cmocka_unit_test(the_key_is_that_of_the_bytes),
        cmocka_unit_test(one_key_has_many_waiters),
        cmocka_unit_test(nobody_waits_any_more),
        cmocka_unit_test(a_refusal_is_for_all),
        cmocka_unit_test(a_waiter_leaves_when_it_gets_rows),
        cmocka_unit_test(encoded_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
