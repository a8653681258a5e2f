/* Routing counters: what is counted equals what traces record, and does not depend on how the work is divided. */
#include "router/backbone/routing.h"
#include "tests/cluster/cluster.h"
#include "tests/support/folder.h"

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/nn/safetensors.h"
#include "launch/model_dir/init.h"

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
#define NAMES "phase,layer,modality,expert,tokens,first_choice,weight"

static char *folder;

static const char *in_folder(um_arena *a, const char *name)
{
    return um_arena_fmt(a, "%s/%s", folder, name);
}

static void run_ok(cluster *c)
{
    um_status st = cluster_run(c);
    for (int r = 0; r < c->ranks; r++)
        if (c->status[r] != UM_OK) printf("rank %d: %s\n", r, c->err[r].msg);
    assert_int_equal(st, UM_OK);
}

static char *read_text(const char *path, um_arena *a)
{
    uint8_t *data = NULL;
    size_t n = 0;
    um_err err = {0};
    if (um_file_read(&data, &n, path, 1 << 26, a, &err) != UM_OK) fail_msg("%s", err.msg);
    return um_arena_strn(a, (char *)data, n);
}

/* ---- a trace, counted by hand ---- */

/* A placeholder, the kind of the rows that stand for it, and the tensor of those rows, [media, rows, D]. */
static const struct {
    int32_t placeholder;
    um_modality kind;
    const char *features;
} media[] = {{-200, UM_IMAGE, "image_features"}, {-400, UM_VIDEO, "video_features"}};

/* The kind of every row of a traced prompt, by the order of its placeholders. */
static uint8_t *kinds_of(const um_tensors *t, int *T, um_arena *a)
{
    const um_tensor *ids = um_tensors_find(t, "input_ids"), *h = um_tensors_find(t, "embeddings");
    assert_non_null(ids);
    *T = (int)h->shape[0];
    uint8_t *kind = um_arena_zero(a, (size_t)*T);
    int row = 0;
    for (int64_t i = 0; i < ids->shape[0]; i++) {
        int32_t id = (int32_t)um_get_u32(ids->data + 4 * i);
        int rows = 1;
        for (size_t m = 0; m < sizeof media / sizeof *media && id < 0; m++) {
            if (media[m].placeholder != id) continue;
            rows = (int)um_tensors_find(t, media[m].features)->shape[1];
            memset(kind + row, (int)media[m].kind, (size_t)rows);
        }
        row += rows;
    }
    assert_int_equal(row, *T);
    return kind;
}

/* What the file must say of the prompt of a trace. */
static void recount(um_text *out, const um_tensors *t, int layers, int E, um_arena *a)
{
    int T = 0;
    const uint8_t *kind = kinds_of(t, &T, a);
    for (int l = 0; l < layers; l++) {
        const um_tensor *x = um_tensors_find(t, um_arena_fmt(a, "layers.%d.experts", l)),
                        *w = um_tensors_find(t, um_arena_fmt(a, "layers.%d.weights", l));
        if (x == NULL) continue;
        assert_int_equal(x->shape[0], T);
        int K = (int)x->shape[1];
        for (int m = 0; m < UM_MODALITIES; m++)
            for (int e = 0; e < E; e++) {
                int tokens = 0, first = 0;
                double weight = 0;
                for (int s = 0; s < T * K; s++) {
                    if (kind[s / K] != m || (int32_t)um_get_u32(x->data + 4 * s) != e) continue;
                    bool earlier = false; /* holes are -1 */
                    for (int k = s / K * K; k < s; k++)
                        earlier |= (int32_t)um_get_u32(x->data + 4 * k) >= 0;
                    tokens++;
                    first += !earlier;
                    /* in units of 2^-28, whose sums are exact in a double */
                    double units = (double)um_bits_f32(um_get_u32(w->data + 4 * s)) * 268435456.0;
                    weight += (double)(int64_t)(units + 0.5);
                }
                if (tokens > 0)
                    um_text_fmt(out, "prefill,%d,%s,%d,%d,%d,%.9f\n", l,
                                um_modality_name((um_modality)m), e, tokens, first,
                                weight / 268435456.0);
            }
    }
}

/* Runs one request with trace and counters. Gives the rows of its prompt in the file, once they equal the trace. */
static char *traced(const char *model, const char *request, int experts, um_arena *a)
{
    cluster c;
    um_err err = {0};
    um_tensors *t = NULL;
    um_text want = {0};
    cluster_init(&c, model);
    c.cfg.request = request;
    c.cfg.out = in_folder(a, "trace.safetensors");
    c.cfg.routing = in_folder(a, "one.csv");
    c.cfg.experts = 2;
    c.cfg.prefill_chunk = 7;
    run_ok(&c);
    const char *bad = cluster_line(&c, "\"kind\":\"error\"");
    if (bad != NULL) fail_msg("%s", bad);
    cluster_free(&c);
    assert_int_equal(um_tensors_open(&t, c.cfg.out, &err), UM_OK);
    recount(&want, t, 64, experts, a);
    char *rows = strstr(read_text(c.cfg.routing, a), NAMES "\n");
    assert_non_null(rows);
    rows += strlen(NAMES) + 1;
    char *decode = strstr(rows, "decode,"); /* they come behind; traces have none of them */
    if (decode != NULL) *decode = '\0';
    assert_string_equal(rows, want.s);
    um_text_free(&want);
    um_tensors_close(t);
    return rows;
}

static void counts_equal_the_trace(void **state)
{
    (void)state;
    static const struct {
        const char *model, *name;
        int experts;
        bool images;
    } cases[] = {{"s4", "image", 4, true}, {"s4", "text", 4, false}, {"s4i", "image", 4, true},
                 {"s8", "image", 8, true}, {"s8", "turns", 8, true}, {"s8fm", "image", 8, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        um_arena a;
        um_arena_init(&a, "test", 4096);
        const char *rows =
            traced(um_arena_fmt(&a, DATA "models/%s", cases[i].model),
                   um_arena_fmt(&a, DATA "cases/%s/%s/request.json", cases[i].model, cases[i].name),
                   cases[i].experts, &a);
        assert_int_equal(strstr(rows, ",image,") != NULL, cases[i].images);
        um_arena_free(&a);
    }
}

static void pictures_between_texts_are_counted_as_traced(void **state)
{
    (void)state;
    um_arena a;
    um_arena_init(&a, "test", 4096);
    folder_text(folder, "two.json",
                "{\"prompt\": [\"First\", {\"image\": \"" DATA "media/small.png\"}, \"then\", "
                "{\"image\": \"" DATA "media/wide.png\"}, \"what?\"], \"max_new_tokens\": 2}");
    const char *rows = traced(DATA "models/s4", in_folder(&a, "two.json"), 4, &a);
    assert_non_null(strstr(rows, "prefill,0,image,"));
    um_arena_free(&a);
}

/* Slots without an expert, and null and shared experts that are no part of the exchange. */
static void a_varying_number_of_experts_is_counted_as_traced(void **state)
{
    (void)state;
    um_arena a;
    um_config cfg;
    um_err err = {0};
    um_arena_init(&a, "test", 4096);
    folder_text(folder, "dynamic.json",
                "{\"hidden_size\": 48, \"intermediate_size\": 64, \"num_attention_heads\": 4, "
                "\"num_key_value_heads\": 2, \"num_hidden_layers\": 3, \"vocab_size\": 300, "
                "\"initializer_range\": 0.2, \"rms_norm_eps\": 1e-5, \"moe_type\": \"sparse\", "
                "\"moe_stride\": 2, \"mlp_dynamic_expert_num\": 5, "
                "\"mlp_dynamic_null_expert_num\": 1, \"mlp_fixed_expert_num\": 2, "
                "\"mlp_dynamic_top_p\": 0.7, \"dynamic_mlp_size_factor\": 2, "
                "\"shared_intermediate_size\": 20}");
    folder_text(folder, "ask.json", "{\"prompt\": \"How many experts?\", \"max_new_tokens\": 3}");
    um_config_default(&cfg);
    cfg.config = in_folder(&a, "dynamic.json");
    cfg.out = in_folder(&a, "dynamic");
    FILE *said = tmpfile();
    if (um_init_run(&cfg, said, &err) != UM_OK) fail_msg("%s", err.msg);
    fclose(said);
    const char *rows = traced(cfg.out, in_folder(&a, "ask.json"), 5, &a);
    assert_non_null(strstr(rows, "prefill,2,text,"));
    assert_null(strstr(rows, "prefill,1,")); /* a dense layer */
    um_arena_free(&a);
}

/* ---- the same bytes ---- */

static void write_requests(const char *path)
{
    um_text text = {0};
    um_err err = {0};
    for (int i = 0; i < 5; i++)
        um_text_fmt(&text,
                    "{\"prompt\":\"%sWhat is number %d?\",%s\"max_new_tokens\":%d,"
                    "\"temperature\":0,\"ignore_eos\":true}\n",
                    i % 2 == 0 ? "<image>\\n" : "", i,
                    i % 2 == 0 ? "\"image\":\"" DATA "media/wide.png\"," : "", 2 + i);
    assert_int_equal(um_file_write(path, text.s, text.n, &err), UM_OK);
    um_text_free(&text);
}

enum { NEW_TOKENS = 2 + 3 + 4 + 5 + 6, REQUESTS = 5 };

typedef struct division {
    int routers, experts, chunk, batch;
    const char *isa;
} division;

static char *run_divided(const division *d, const char *model, um_arena *a)
{
    cluster c;
    cluster_init(&c, um_arena_fmt(a, DATA "models/%s", model));
    c.cfg.requests = in_folder(a, "requests.jsonl");
    c.cfg.routing = in_folder(a, "many.csv");
    c.cfg.routers = d->routers;
    c.cfg.experts = d->experts;
    if (d->chunk > 0) c.cfg.prefill_chunk = d->chunk;
    if (d->batch > 0) c.cfg.max_batch = d->batch;
    if (d->isa != NULL) c.cfg.isa = d->isa;
    write_requests(c.cfg.requests);
    run_ok(&c);
    assert_null(cluster_line(&c, "\"kind\":\"error\""));
    cluster_free(&c);
    return read_text(c.cfg.routing, a);
}

static void the_same_bytes_however_the_work_is_divided(void **state)
{
    (void)state;
    const division ways[] = {{2, 1, 0, 0, NULL},     {3, 2, 0, 0, NULL}, {1, 3, 0, 0, NULL},
                             {1, 1, 7, 0, NULL},     {2, 3, 1, 0, NULL}, {1, 2, 0, 1, NULL},
                             {1, 1, 0, 0, "generic"}};
    const char *models[] = {"s4", "s8"};
    for (size_t m = 0; m < 2; m++) {
        um_arena a;
        um_arena_init(&a, "test", 4096);
        const char *base = run_divided(&(division){1, 1, 0, 0, NULL}, models[m], &a);
        assert_non_null(strstr(base, um_arena_fmt(&a, "# model: %s\n", models[m])));
        assert_non_null(strstr(base, "# requests: 5\n# failed: 0\n"));
        for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
            assert_string_equal(run_divided(&ways[i], models[m], &a), base);
        um_arena_free(&a);
    }
}

/* n new tokens are n - 1 rows, in every layer, all of them text. */
static void new_tokens_are_counted_apart(void **state)
{
    (void)state;
    um_arena a;
    um_arena_init(&a, "test", 4096);
    char *text = run_divided(&(division){2, 2, 5, 0, NULL}, "s4", &a);
    int64_t tokens[3] = {0}, first[3] = {0};
    double weight[3] = {0};
    for (char *line = strstr(text, "\ndecode,"); line != NULL;
         line = strstr(line + 1, "\ndecode,")) {
        int layer = 0, expert = 0;
        long long t = 0, f = 0;
        double w = 0;
        assert_int_equal(
            sscanf(line, "\ndecode,%d,text,%d,%lld,%lld,%lf", &layer, &expert, &t, &f, &w), 5);
        assert_in_range(layer, 0, 2);
        tokens[layer] += t;
        first[layer] += f;
        weight[layer] += w;
    }
    for (int l = 0; l < 3; l++) {
        assert_int_equal(first[l], NEW_TOKENS - REQUESTS);
        assert_int_equal(tokens[l], 2 * (NEW_TOKENS - REQUESTS));
        assert_true(weight[l] > NEW_TOKENS - REQUESTS - 1e-5 &&
                    weight[l] < NEW_TOKENS - REQUESTS + 1e-5);
    }
    um_arena_free(&a);
}

/* A request that fails is reported and does not prevent the others from being counted. */
static void failed_requests_are_told(void **state)
{
    (void)state;
    um_arena a;
    cluster c;
    um_err err = {0};
    um_arena_init(&a, "test", 4096);
    cluster_init(&c, DATA "models/s4");
    c.cfg.requests = in_folder(&a, "requests.jsonl");
    c.cfg.routing = in_folder(&a, "many.csv");
    c.cfg.experts = 1;
    const char *text = "{\"prompt\":\"Hello\",\"max_new_tokens\":1}\n{\"prompt\":3}\n";
    assert_int_equal(um_file_write(c.cfg.requests, text, strlen(text), &err), UM_OK);
    run_ok(&c);
    cluster_free(&c);
    const char *csv = read_text(c.cfg.routing, &a);
    assert_non_null(strstr(csv, "# requests: 2\n# failed: 1\n"));
    assert_non_null(strstr(csv, "\nprefill,0,text,"));
    assert_null(strstr(csv, "\ndecode,")); /* one new token is no row */
    um_arena_free(&a);
}

static void a_folder_that_is_not_there_is_told_before_the_work(void **state)
{
    (void)state;
    cluster c;
    cluster_init(&c, DATA "models/s4");
    c.cfg.routing = "no/such/folder/x.csv";
    c.cfg.experts = 1;
    c.cfg.encoders = "0";
    assert_int_equal(cluster_run(&c), UM_E_IO);
    assert_non_null(strstr(c.err[0].msg, "--routing: folder no/such/folder: No such file"));
    assert_int_equal(c.n_lines, 0);
    cluster_free(&c);
}

/* ---- counting, packing, merging ---- */

static um_model small_model(int experts)
{
    static const uint8_t moe[] = {1, 0, 1};
    return (um_model){.dir = "some/where/odd\nname//",
                      .variant = "custom",
                      .layers = 3,
                      .moe_layer = moe,
                      .moe_layers = 2,
                      .experts = experts,
                      .top_k = 3};
}

static void a_slot_without_an_expert_counts_nowhere(void **state)
{
    (void)state;
    um_model m = small_model(4);
    um_routing *r = um_routing_open(&m);
    const uint8_t kind[] = {UM_TEXT, UM_VIDEO, UM_TEXT, UM_SOUND};
    const int32_t experts[] = {2, -1, 0, -1, 3, -1, -1, -1, -1, 1, 2, 3};
    const float weights[] = {0.5f, 9, 0.25f, 9, 1.0f, 9, 9, 9, 9, 0.5f, 0.0f, -1.0f};
    um_routing_count(r, 2, UM_DECODE, kind, experts, weights, 4, 3);
    um_routed c = um_routing_at(r, 2, UM_DECODE, UM_TEXT, 2);
    assert_int_equal(c.tokens, 1);
    assert_int_equal(c.first, 1);
    assert_int_equal(c.weight, UINT64_C(1) << 27);
    c = um_routing_at(r, 2, UM_DECODE, UM_TEXT, 0);
    assert_int_equal(c.first, 0);
    assert_int_equal(c.weight, UINT64_C(1) << 26);
    c = um_routing_at(r, 2, UM_DECODE, UM_VIDEO, 3);
    assert_int_equal(c.tokens, 1);
    assert_int_equal(c.first, 1); /* the first slot that has an expert */
    assert_int_equal(c.weight, UINT64_C(1) << 28);
    assert_int_equal(um_routing_at(r, 2, UM_DECODE, UM_SOUND, 3).tokens, 1);
    assert_int_equal(um_routing_at(r, 2, UM_DECODE, UM_SOUND, 3).weight, 0);
    assert_int_equal(um_routing_at(r, 2, UM_PREFILL, UM_TEXT, 2).tokens, 0);
    um_text text = {0};
    um_routing_text(r, &text, 7, 2);
    assert_string_equal(text.s, "# unimoe routing 1\n# model: odd name\n# variant: custom\n"
                                "# layers: 3\n# moe_layers: 0 2\n# experts: 4\n# top_k: 3\n"
                                "# requests: 7\n# failed: 2\n"
                                "phase,layer,modality,expert,tokens,first_choice,weight\n"
                                "decode,2,text,0,1,0,0.250000000\n"
                                "decode,2,text,2,1,1,0.500000000\n"
                                "decode,2,sound,1,1,1,0.500000000\n"
                                "decode,2,sound,2,1,0,0.000000000\n"
                                "decode,2,sound,3,1,0,0.000000000\n"
                                "decode,2,video,3,1,1,1.000000000\n");
    um_text_free(&text);
    um_routing_close(r);
}

static void weights_are_exact_near_one_and_held_in_range(void **state)
{
    (void)state;
    assert_int_equal(um_weight_units(1.0f), UINT64_C(1) << 28);
    assert_int_equal(um_weight_units(um_bits_f32(0x3f7fffff)), (UINT64_C(1) << 28) - 16);
    assert_int_equal(um_weight_units(1e-9f), 0);
    assert_int_equal(um_weight_units(2e-9f), 1);
    assert_int_equal(um_weight_units(0.0f), 0);
    assert_int_equal(um_weight_units(-3.0f), 0);
    assert_int_equal(um_weight_units(7.0f), UINT64_C(1) << 28);
    assert_int_equal(um_weight_units(um_bits_f32(0x7fc00000)), 0);
}

/* 65,536 experts: the counters of one router reach another in pieces far below the limits, and arrive complete. */
static void many_experts_travel_in_pieces(void **state)
{
    (void)state;
    enum { E = 65536 };
    um_model m = small_model(E);
    um_routing *from = um_routing_open(&m), *to = um_routing_open(&m);
    for (int e = 0; e < E; e++) {
        const uint8_t kind = (uint8_t)(e % 3 == 0 ? UM_IMAGE : UM_TEXT);
        const int32_t x[3] = {e, (e * 7 + 1) % E, -1};
        const float w[3] = {0.75f, 0.25f, 0};
        for (int l = 0; l < 3; l += 2)
            um_routing_count(from, l, e % 2 ? UM_DECODE : UM_PREFILL, &kind, x, w, 1, 3);
        if (e == 5) um_routing_count(to, 0, UM_DECODE, &kind, x, w, 1, 3); /* its own */
    }
    um_arena a;
    um_err err = {0};
    um_arena_init(&a, "test", 4096);
    um_routing_cursor cursor = {0};
    int pieces = 0;
    for (bool last = false; !last; pieces++) {
        Um__Routing piece;
        um_routing_pack(from, &cursor, &piece, &a);
        size_t n = um_control_size(&piece.base);
        assert_true(n < 1 << 20);
        uint8_t *bytes = um_arena_alloc(&a, n);
        um_control_pack(&piece.base, bytes);
        ProtobufCMessage *got = NULL;
        assert_int_equal(um_control_unpack(&got, &um__routing__descriptor, bytes, n, &a, &err),
                         UM_OK);
        last = ((const Um__Routing *)got)->last;
        assert_int_equal(um_routing_merge(to, (const Um__Routing *)got, &err), UM_OK);
    }
    assert_true(pieces > 8);
    for (int l = 0; l < 3; l++)
        for (int p = 0; p < UM_PHASES; p++)
            for (int k = 0; k < UM_MODALITIES; k++)
                for (int e = 0; e < E; e++) {
                    um_routed x = um_routing_at(from, l, (um_phase)p, (um_modality)k, e),
                              y = um_routing_at(to, l, (um_phase)p, (um_modality)k, e);
                    bool own = l == 0 && p == UM_DECODE && k == UM_TEXT && (e == 5 || e == 36);
                    assert_int_equal(y.tokens, x.tokens + own);
                    assert_int_equal(y.first, x.first + (own && e == 5));
                    uint64_t more = !own ? 0 : e == 5 ? 3u << 26 : 1u << 26;
                    assert_int_equal(y.weight, x.weight + more);
                }
    um_arena_free(&a);
    um_routing_close(from);
    um_routing_close(to);
}

static void a_router_that_counted_nothing_says_so_at_once(void **state)
{
    (void)state;
    um_model m = small_model(4);
    um_arena a;
    um_err err = {0};
    um_arena_init(&a, "test", 4096);
    um_routing *r = um_routing_open(&m);
    um_routing_cursor cursor = {0};
    Um__Routing piece;
    um_routing_pack(r, &cursor, &piece, &a);
    assert_true(piece.last);
    assert_int_equal(piece.n_expert, 0);
    assert_int_equal(um_routing_merge(r, &piece, &err), UM_OK);
    um_routing_close(r);
    um_arena_free(&a);
}

static void counters_out_of_range_are_refused(void **state)
{
    (void)state;
    um_model m = small_model(4);
    um_routing *r = um_routing_open(&m);
    uint32_t expert[2] = {1, 3};
    uint64_t count[2] = {5, 6};
    const Um__Routing good = {.base = PROTOBUF_C_MESSAGE_INIT(&um__routing__descriptor),
                              .phase = 1,
                              .layer = 2,
                              .modality = UM_VIDEO,
                              .n_expert = 2,
                              .expert = expert,
                              .n_tokens = 2,
                              .tokens = count,
                              .n_first = 2,
                              .first = count,
                              .n_weight = 2,
                              .weight = count};
    for (int i = 0; i < 7; i++) {
        um_err err = {0};
        Um__Routing bad = good;
        static const char *const says[] = {"phase 2", "layer 3",   "kind 5",  "1 counts",
                                           "1 first", "1 weights", "expert 4"};
        expert[1] = 3;
        if (i == 0) bad.phase = 2;
        if (i == 1) bad.layer = 3;
        if (i == 2) bad.modality = UM_MODALITIES;
        if (i == 3) bad.n_tokens = 1;
        if (i == 4) bad.n_first = 1;
        if (i == 5) bad.n_weight = 1;
        if (i == 6) expert[1] = 4;
        assert_int_equal(um_routing_merge(r, &bad, &err), UM_E_CORRUPT);
        assert_non_null(strstr(err.msg, says[i]));
        assert_int_equal(um_routing_at(r, 2, UM_DECODE, UM_VIDEO, 1).tokens, 0); /* untouched */
    }
    expert[1] = 3;
    assert_int_equal(um_routing_merge(r, &good, NULL), UM_OK);
    assert_int_equal(um_routing_at(r, 2, UM_DECODE, UM_VIDEO, 3).tokens, 6);
    um_routing_close(r);
}

static void a_router_draws_no_image(void **state)
{
    (void)state;
    um_model m = small_model(4);
    um_err err = {0};
    assert_int_equal(um_routing_check(&m, "x.svg", &err), UM_E_USAGE);
    assert_non_null(strstr(err.msg, "unimoe plot routing"));
    assert_int_equal(um_routing_check(&m, "x.csv", &err), UM_OK);
}

static void a_dense_model_has_nothing_to_count(void **state)
{
    (void)state;
    um_model m = small_model(0);
    um_err err = {0};
    assert_int_equal(um_routing_check(&m, "x.csv", &err), UM_E_USAGE);
    assert_non_null(strstr(err.msg, "is dense"));
}

static int make_folder(void **state)
{
    (void)state;
    folder = folder_make();
    return 0;
}

static int clear_folder(void **state)
{
    (void)state;
    folder_remove(folder);
    um_free(folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_equal_the_trace),
        cmocka_unit_test(pictures_between_texts_are_counted_as_traced),
        cmocka_unit_test(a_varying_number_of_experts_is_counted_as_traced),
        cmocka_unit_test(the_same_bytes_however_the_work_is_divided),
        cmocka_unit_test(new_tokens_are_counted_apart),
        cmocka_unit_test(failed_requests_are_told),
        cmocka_unit_test(a_folder_that_is_not_there_is_told_before_the_work),
        cmocka_unit_test(a_slot_without_an_expert_counts_nowhere),
        cmocka_unit_test(weights_are_exact_near_one_and_held_in_range),
        cmocka_unit_test(many_experts_travel_in_pieces),
        cmocka_unit_test(a_router_that_counted_nothing_says_so_at_once),
        cmocka_unit_test(counters_out_of_range_are_refused),
        cmocka_unit_test(a_router_draws_no_image),
        cmocka_unit_test(a_dense_model_has_nothing_to_count),
    };
    return cmocka_run_group_tests(tests, make_folder, clear_folder);
}
