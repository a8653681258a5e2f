/* Control messages: what is packed comes back, in the arena alone; damaged bytes are refused and leave the arena as it was. */
#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "core/base/rng.h"
#include "proto/control.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

/* Packs m into an exactly sized buffer. */
static uint8_t *pack(const ProtobufCMessage *m, size_t *n)
{
    *n = um_control_size(m);
    uint8_t *buf = um_zalloc(*n);
    assert_int_equal(um_control_pack(m, buf), *n);
    return buf;
}

static void *unpack(const ProtobufCMessageDescriptor *type, const uint8_t *buf, size_t n,
                    um_arena *arena)
{
    ProtobufCMessage *m = NULL;
    um_err err = {0};
    if (um_control_unpack(&m, type, buf, n, arena, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_ptr_equal(m->descriptor, type);
    return m;
}

/* Packs, unpacks and packs again: the same bytes. Returns the unpacked message. */
static void *there_and_back(const ProtobufCMessage *m, um_arena *arena)
{
    size_t n, again;
    uint8_t *buf = pack(m, &n);
    ProtobufCMessage *got = unpack(m->descriptor, buf, n, arena);
    uint8_t *buf2 = pack(got, &again);
    assert_int_equal(n, again);
    assert_memory_equal(buf, buf2, n);
    um_free(buf);
    um_free(buf2);
    return got;
}

static void expect_bad(const ProtobufCMessageDescriptor *type, const uint8_t *buf, size_t n,
                       const char *text)
{
    um_arena arena;
    um_arena_init(&arena, "test", 4096);
    ProtobufCMessage *m = NULL;
    um_err err = {0};
    um_arena_alloc(&arena, 100);
    size_t used = arena.used;
    assert_int_equal(um_control_unpack(&m, type, buf, n, &arena, &err), UM_E_CORRUPT);
    assert_null(m);
    assert_int_equal(arena.used, used);
    if (strstr(err.msg, text) == NULL) fail_msg("\"%s\" does not say \"%s\"", err.msg, text);
    um_arena_free(&arena);
}

static void test_messages(void **state)
{
    (void)state;
    um_arena arena;
    um_arena_init(&arena, "test", 4096);

    Um__Hello hello = UM__HELLO__INIT;
    hello.wire_version = 1;
    hello.role = UM__ROLE__ROLE_ENCODER;
    hello.index = 3;
    hello.host = (char *)"node-17";
    hello.pid = 4242;
    hello.fingerprint = 0x8877665544332211;
    hello.isa = (char *)"avx2";
    hello.memory_bytes = 1ull << 40;
    hello.build = (char *)"0.1.0";
    Um__Hello *h = there_and_back(&hello.base, &arena);
    assert_int_equal(h->role, UM__ROLE__ROLE_ENCODER);
    assert_string_equal(h->host, "node-17");
    assert_true(h->fingerprint == hello.fingerprint && h->memory_bytes == hello.memory_bytes);

    uint8_t bytes[300];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)i;
    Um__EncodeRequest request = UM__ENCODE_REQUEST__INIT;
    ProtobufCBinaryData media[2] = {{sizeof bytes, bytes}, {1, bytes}};
    request.key = (char *)"k";
    request.modality = UM__MODALITY__MODALITY_IMAGE;
    request.name = (char *)"cat.png";
    request.n_media = 2;
    request.media = media;
    Um__EncodeRequest *r = there_and_back(&request.base, &arena);
    assert_int_equal(r->n_media, 2);
    assert_int_equal(r->media[0].len, sizeof bytes);
    assert_memory_equal(r->media[0].data, bytes, sizeof bytes);
    assert_string_equal(r->key, "k");

    Um__Error error = UM__ERROR__INIT;
    error.status = UM_E_MODEL;
    error.text = (char *)"expert 2: tensor missing";
    Um__Error *e = there_and_back(&error.base, &arena);
    assert_string_equal(e->text, error.text);
    um_arena_free(&arena);
}

static void test_plan(void **state)
{
    (void)state;
    enum { RANKS = 40, EXPERTS = 5000 };
    um_arena arena;
    um_arena_init(&arena, "test", 4096);
    Um__RankInfo info[RANKS], *ranks[RANKS];
    uint32_t owner[EXPERTS], count[EXPERTS];
    for (uint32_t i = 0; i < RANKS; i++) {
        info[i] = (Um__RankInfo)UM__RANK_INFO__INIT;
        info[i].role = i == 0 ? UM__ROLE__ROLE_ROUTER : UM__ROLE__ROLE_EXPERT;
        info[i].index = i;
        info[i].host = i % 2 ? (char *)"b" : (char *)"";
        ranks[i] = &info[i];
    }
    for (uint32_t i = 0; i < EXPERTS; i++) {
        owner[i] = i * 31 % 39;
        count[i] = 1;
    }
    Um__ExpertOwners list = UM__EXPERT_OWNERS__INIT, *lists[] = {&list, &list};
    list.n_owner = list.n_count = EXPERTS;
    list.owner = owner;
    list.count = count;
    Um__Placement place = UM__PLACEMENT__INIT;
    place.experts = EXPERTS;
    place.n_layers = 2;
    place.layers = lists;
    Um__JobConfig plan = UM__JOB_CONFIG__INIT;
    plan.n_ranks = RANKS;
    plan.ranks = ranks;
    plan.placement = &place;
    plan.wire = (char *)"bf16";
    plan.zstd_level = -100;
    Um__JobConfig *p = there_and_back(&plan.base, &arena);
    assert_int_equal(p->n_ranks, RANKS);
    assert_int_equal(p->placement->n_layers, 2);
    assert_int_equal(p->placement->layers[1]->n_owner, EXPERTS);
    assert_memory_equal(p->placement->layers[1]->owner, owner, sizeof owner);
    assert_memory_equal(p->placement->layers[1]->count, count, sizeof count);
    assert_int_equal(p->ranks[39]->index, 39);
    assert_string_equal(p->ranks[2]->host, "");
    assert_int_equal(p->zstd_level, -100);

    size_t n;
    uint8_t *buf = pack(&plan.base, &n);
    for (size_t cut = 0; cut < n;
         cut += 1 + cut / 50) { /* a prefix may end between two fields, and is then a message */
        uint8_t *part = um_zalloc(cut);
        memcpy(part, buf, cut);
        ProtobufCMessage *m = NULL;
        um_status st = um_control_unpack(&m, &um__job_config__descriptor, part, cut, &arena, NULL);
        assert_true(st == UM_OK ? m != NULL : st == UM_E_CORRUPT && m == NULL);
        um_free(part);
    }
    um_free(buf);
    um_arena_free(&arena);
}

static void test_empty(void **state)
{
    (void)state;
    um_arena arena;
    um_arena_init(&arena, "test", 4096);
    Um__Hello *h = unpack(&um__hello__descriptor, NULL, 0, &arena);
    assert_string_equal(h->host, "");
    assert_int_equal(h->role, UM__ROLE__ROLE_ROUTER);
    Um__Stats stats = UM__STATS__INIT;
    assert_int_equal(um_control_size(&stats.base), 0);
    um_arena_free(&arena);
}

static void test_damage(void **state)
{
    (void)state;
    const uint8_t cut_varint[] = {0x08, 0x80}, long_string[] = {0x22, 0x7F, 'a'},
                  group[] = {0x0B, 0x0C}, wrong_type[] = {0x0A, 0x01, 'x'};
    const uint8_t zero[] = {0x80, 0x00, 0x05}, zero_in_plan[] = {0x12, 0x03, 0x80, 0x00, 0x05};
    expect_bad(&um__hello__descriptor, zero, sizeof zero,
               "message um.Hello: a field has the number 0");
    expect_bad(&um__job_config__descriptor, zero_in_plan, sizeof zero_in_plan,
               "a field has the number 0");
    const uint8_t role9[] = {0x10, 0x09}, role9_in_plan[] = {0x12, 0x02, 0x08, 0x09};
    expect_bad(&um__hello__descriptor, cut_varint, sizeof cut_varint,
               "message um.Hello: its 2 bytes do not decode");
    expect_bad(&um__hello__descriptor, long_string, sizeof long_string, "do not decode");
    expect_bad(&um__hello__descriptor, group, sizeof group, "do not decode");
    expect_bad(&um__hello__descriptor, wrong_type, sizeof wrong_type, "do not decode");
    expect_bad(&um__hello__descriptor, role9, sizeof role9,
               "message um.Hello: field role holds 9, which has no name");
    expect_bad(&um__job_config__descriptor, role9_in_plan, sizeof role9_in_plan,
               "field role holds 9");
}

static void test_limits(void **state)
{
    (void)state;
    const uint8_t none[1] = {0};
    expect_bad(&um__hello__descriptor, none, UM_CONTROL_MAX + 1,
               "268435457 bytes, at most 268435456"); /* not even looked at */
    /* a million empty sub-messages: 2 MB that would become more than 100 MB */
    enum { MANY = 1000000 };
    uint8_t *bomb = um_zalloc(2 * MANY);
    for (size_t i = 0; i < MANY; i++) bomb[2 * i] = 0x12;
    expect_bad(&um__job_config__descriptor, bomb, 2 * MANY, "do not decode");
    um_arena arena;
    um_arena_init(&arena, "test", 4096);
    Um__JobConfig *p = unpack(&um__job_config__descriptor, bomb, 20000,
                              &arena); /* as many as the largest clusters have ranks */
    assert_int_equal(p->n_ranks, 10000);
    um_arena_free(&arena);
    um_free(bomb);
}

static void test_noise(void **state)
{
    (void)state;
    const ProtobufCMessageDescriptor *types[] = {
        &um__hello__descriptor, &um__job_config__descriptor, &um__stats__descriptor,
        &um__encode_request__descriptor, &um__result__descriptor};
    um_arena arena;
    um_arena_init(&arena, "test", 4096);
    um_rng r = um_rng_seed(3, 0);
    for (int i = 0; i < 20000; i++) {
        size_t n = um_rng_below(&r, 40);
        uint8_t *buf = um_zalloc(n);
        for (size_t k = 0; k < n; k++) buf[k] = (uint8_t)(um_rng_u64(&r) & (i % 2 ? 0x1F : 0xFF));
        um_mark mark = um_arena_mark(&arena);
        ProtobufCMessage *m = NULL;
        um_status st = um_control_unpack(&m, types[i % 5], buf, n, &arena, NULL);
        assert_true(st == UM_OK || st == UM_E_CORRUPT);
        um_arena_reset(&arena, mark);
        um_free(buf);
    }
    um_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages), cmocka_unit_test(test_plan),
        cmocka_unit_test(test_empty),    cmocka_unit_test(test_damage),
        cmocka_unit_test(test_limits),   cmocka_unit_test(test_noise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
