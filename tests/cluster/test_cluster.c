/* Whole clusters as threads: the golden cases, and the same bits however the work is divided. */
#include "tests/cluster/cluster.h"
#include "tests/support/golden.h"

#include "core/base/arena.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/tensor/ops.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define DATA UM_TEST_DATA "/golden/"

static char folder[256]; /* for the traces of this run */

static const char *trace_path(const char *tag)
{
    static char paths[8][512];
    static int turn;
    char *p = paths[turn = (turn + 1) % 8];
    snprintf(p, 512, "%s/%s.safetensors", folder, tag);
    return p;
}

/* A cluster that traces one golden case; options may be changed before cluster_run. */
static void traced(cluster *c, const char *model, const char *name, const char *out, um_arena *a)
{
    cluster_init(c, um_arena_fmt(a, DATA "models/%s", model));
    c->cfg.request = um_arena_fmt(a, DATA "cases/%s/%s/request.json", model, name);
    c->cfg.out = um_arena_str(a, out);
    c->cfg.experts = 2;
}

static void run_ok(cluster *c)
{
    um_status st = cluster_run(c);
    for (int r = 0; r < c->ranks; r++)
        if (c->status[r] != UM_OK) printf("rank %d: %s\n", r, c->err[r].msg);
    assert_int_equal(st, UM_OK);
    const char *bad = cluster_line(c, "\"kind\":\"error\"");
    if (bad != NULL) printf("%s\n", bad);
    assert_null(bad);
    cluster_free(c);
}

/* guarded: every rank on a table whose memory faults outside an op. */
static void golden_cases(bool guarded)
{
    const char *cases[][2] = {
        {"s4", "text"},    {"s4", "image"},   {"s4", "turns"},   {"s4", "audio"},
        {"s4", "video"},   {"s4", "mixed"},   {"s4", "files"},   {"s4i", "text"},
        {"s4i", "image"},  {"a4", "text"},    {"a4", "image"},   {"a4", "turns"},
        {"a4", "audio"},   {"a4", "video"},   {"a4", "mixed"},   {"s8", "text"},
        {"s8", "image"},   {"s8", "turns"},   {"s8", "audio"},   {"s8", "video"},
        {"s8", "mixed"},   {"s8fm", "text"},  {"s8fm", "image"}, {"s8fm", "turns"},
        {"s8fm", "audio"}, {"s8fm", "video"}, {"s8fm", "mixed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        um_arena a;
        cluster c;
        um_arena_init(&a, "test", 4096);
        const char *out = trace_path("golden");
        traced(&c, cases[i][0], cases[i][1], out, &a);
        c.guarded = guarded;
        run_ok(&c);
        bool ok = golden_matches(
            out,
            um_arena_fmt(&a, DATA "cases/%s/%s/expected.safetensors", cases[i][0], cases[i][1]),
            1e-4);
        if (!ok) printf("case %s/%s\n", cases[i][0], cases[i][1]);
        assert_true(ok);
        um_arena_free(&a);
    }
}

static void golden_cases_match(void **state)
{
    (void)state;
    golden_cases(false);
}

static void golden_cases_match_on_guarded_memory(void **state)
{
    (void)state;
    golden_cases(true);
}

/* A way to run the job that must not change a bit of the answer. */
typedef struct variation {
    const char *tag;
    int routers, experts, chunk, threads;
    const char *encoders;
    const char *isa, *codec, *wire, *lora;
    bool crowd; /* other requests in the same batches */
    int flights;
    bool guarded;
} variation;

static void run_variation(const variation *v, const char *model, const char *name, const char *out)
{
    um_arena a;
    cluster c;
    um_arena_init(&a, "test", 4096);
    traced(&c, model, name, out, &a);
    if (v->routers) c.cfg.routers = v->routers;
    if (v->experts) c.cfg.experts = v->experts;
    if (v->encoders) c.cfg.encoders = v->encoders;
    if (v->chunk) c.cfg.prefill_chunk = v->chunk;
    if (v->threads) c.cfg.threads = v->threads;
    if (v->isa) c.cfg.isa = v->isa;
    if (v->codec) c.cfg.codec = v->codec;
    if (v->wire) c.cfg.wire = v->wire;
    if (v->lora) c.cfg.lora = v->lora;
    if (v->flights) c.cfg.micro_batches = v->flights;
    c.guarded = v->guarded;
    if (v->crowd) {
        const char *path = um_arena_fmt(&a, "%s/crowd.jsonl", folder);
        um_text text = {0};
        um_err err = {0};
        for (int i = 0; i < 5; i++)
            um_text_fmt(
                &text,
                "{\"prompt\":\"<image>\\nWhat is this, number "
                "%d?\",\"image\":\"%smedia/wide.png\",\"max_new_tokens\":%d,\"temperature\":0}\n",
                i, DATA, 3 + i);
        assert_int_equal(um_file_write(path, text.s, text.n, &err), UM_OK);
        um_text_free(&text);
        c.cfg.requests = path;
    }
    run_ok(&c);
    um_arena_free(&a);
}

static bool isa_here(const char *name)
{
    um_dev dev;
    um_err err = {0};
    return um_dev_open_cpu(&dev, (um_isa)um_isa_from_name(name), 1, &err) == UM_OK;
}

static void same_bits(const char *model, const char *name, const variation *list, size_t n,
                      const char *wire)
{
    const char *base = trace_path("base");
    variation plain = {.tag = "base", .experts = 1, .wire = wire};
    run_variation(&plain, model, name, base);
    for (size_t i = 0; i < n; i++) {
        variation v = list[i];
        if (v.isa != NULL && !isa_here(v.isa)) continue;
        v.wire = wire;
        const char *out = trace_path("other");
        run_variation(&v, model, name, out);
        bool same = golden_same_bits(base, out);
        if (!same) printf("%s/%s: %s\n", model, name, v.tag);
        assert_true(same);
    }
}

static const variation four[] = {
    {.tag = "2 experts", .experts = 2},
    {.tag = "3 experts", .experts = 3},
    {.tag = "4 experts, 2 encoders", .experts = 4, .encoders = "2"},
    {.tag = "chunks of 7", .experts = 2, .chunk = 7},
    {.tag = "chunks of 1", .experts = 1, .chunk = 1},
    {.tag = "zstd", .experts = 4, .codec = "zstd"},
    {.tag = "3 threads", .experts = 2, .threads = 3},
    {.tag = "generic", .experts = 2, .isa = "generic"},
    {.tag = "avx2", .experts = 2, .isa = "avx2"},
    {.tag = "avx512", .experts = 2, .isa = "avx512"},
    {.tag = "in a crowd", .experts = 3, .chunk = 16, .crowd = true},
    {.tag = "2 routers in a crowd", .routers = 2, .experts = 2, .crowd = true},
    {.tag = "2 micro-batches", .experts = 3, .chunk = 5, .flights = 2, .crowd = true},
    {.tag = "3 micro-batches, zstd", .experts = 2, .chunk = 3, .flights = 3, .codec = "zstd"},
    {.tag = "guarded", .experts = 2, .chunk = 16, .flights = 2, .codec = "zstd", .guarded = true},
};

static const variation eight[] = {
    {.tag = "2 experts", .experts = 2},
    {.tag = "3 experts", .experts = 3, .codec = "zstd"},
    {.tag = "5 experts", .experts = 5, .chunk = 11},
    {.tag = "8 experts", .experts = 8, .crowd = true},
    {.tag = "9 experts, one idle", .experts = 9},
    {.tag = "2 micro-batches", .experts = 3, .chunk = 7, .flights = 2, .crowd = true},
    {.tag = "guarded", .experts = 5, .chunk = 9, .flights = 3, .guarded = true},
    {.tag = "generic", .experts = 2, .isa = "generic"},
    {.tag = "avx2", .experts = 2, .isa = "avx2"},
};

static void the_same_bits_however_four_experts_are_divided(void **state)
{
    (void)state;
    same_bits("s4", "image", four, sizeof four / sizeof *four, "f32");
    same_bits("s4i", "text", four, sizeof four / sizeof *four, "f32"); /* weights stored as bf16 */
}

static void the_same_bits_however_four_experts_are_divided_bf16(void **state)
{
    (void)state;
    same_bits("s4", "image", four, sizeof four / sizeof *four, "bf16");
}

static void the_same_bits_however_eight_experts_are_divided(void **state)
{
    (void)state;
    same_bits("s8", "turns", eight, sizeof eight / sizeof *eight, "f32");
    same_bits("s8fm", "image", eight, sizeof eight / sizeof *eight, "f32");
}

/* A LoRA beside its matrices, on several ranks, gives the golden data, what merging gives up to rounding, and the same bits however the
 * experts are divided. */
static void a_live_lora_gives_what_merging_gives(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"s8", "text"}, {"s8fm", "mixed"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *model = cases[i][0], *name = cases[i][1];
        const char *merged = trace_path("base"), *live = trace_path("golden"),
                   *other = trace_path("other");
        um_arena a;
        um_arena_init(&a, "test", 4096);
        run_variation(&(variation){.experts = 2}, model, name, merged);
        run_variation(&(variation){.experts = 2, .lora = "live"}, model, name, live);
        run_variation(&(variation){.experts = 5, .lora = "live", .chunk = 7, .crowd = true}, model,
                      name, other);
        assert_false(golden_same_bits(merged, live)); /* the option reached the ranks */
        assert_true(golden_matches(live, merged, 1e-5));
        assert_true(golden_matches(
            live, um_arena_fmt(&a, DATA "cases/%s/%s/expected.safetensors", model, name), 1e-4));
        assert_true(golden_same_bits(live, other));
        um_arena_free(&a);
    }
}

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "trace.XXXXXX");
    return mkdtemp(folder) == NULL;
}

static int remove_folder(void **state)
{
    (void)state;
    const char *tags[] = {"golden.safetensors", "base.safetensors", "other.safetensors",
                          "crowd.jsonl"};
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, tags[i]);
        unlink(path);
    }
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_cases_match),
        cmocka_unit_test(golden_cases_match_on_guarded_memory),
        cmocka_unit_test(the_same_bits_however_four_experts_are_divided),
        cmocka_unit_test(the_same_bits_however_four_experts_are_divided_bf16),
        cmocka_unit_test(a_live_lora_gives_what_merging_gives),
        cmocka_unit_test(the_same_bits_however_eight_experts_are_divided),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
