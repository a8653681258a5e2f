/* Clusters of threads that run models of the dynamic style (spec 10.1): the same bits however the work is divided, whoever else is
 * served, and whatever config.json says about dropping; and the MoE block of the backbone, through the real exchange, against the
 * layer computed in one piece and against the golden layers. */
#include "tests/cluster/cluster.h"
#include "tests/support/dynamic_layer.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"
#include "tests/support/golden.h"
#include "tests/support/made_params.h"

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/comm/join.h"
#include "core/comm/role.h"
#include "expert_worker/expert.h"
#include "launch/model_dir/init.h"
#include "launch/model_dir/inspect.h"
#include "router/backbone/backbone.h"

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define GOLDEN UM_TEST_DATA "/golden/dynamic/"
#define BACKBONE_KEYS                                                                              \
    "\"hidden_size\": 48, \"intermediate_size\": 64, \"num_attention_heads\": 4, "                 \
    "\"num_key_value_heads\": 2, \"num_hidden_layers\": 3, \"vocab_size\": 300, "                  \
    "\"initializer_range\": 0.2, \"rms_norm_eps\": 1e-5, "

static const char *at(const char *name) { return um_path_join(&arena, dir, name); }

/* Layers 0 and 2 with top-p, null and shared experts; every layer with top-k alone. Both ask for dropping at a capacity that nearly
 * every expert is over, which serving must not do. */
static const char *const configs[][2] = {
    {"top_p", "{" BACKBONE_KEYS "\"moe_type\": \"sparse\", \"moe_stride\": 2, "
              "\"mlp_dynamic_expert_num\": 5, \"mlp_dynamic_null_expert_num\": 1, "
              "\"mlp_fixed_expert_num\": 2, \"mlp_dynamic_top_p\": 0.7, "
              "\"dynamic_mlp_size_factor\": 2, \"shared_intermediate_size\": 20, "
              "\"token_drop\": true, \"min_capacity\": 1, \"capacity_factor\": 0.3}"},
    {"top_k", "{" BACKBONE_KEYS "\"mlp_dynamic_expert_num\": 4, \"mlp_dynamic_top_p\": 0, "
              "\"mlp_dynamic_top_k\": 2, \"dynamic_intermediate_size\": 40, "
              "\"token_drop\": true, \"drop_policy\": \"position\", \"min_capacity\": 1, "
              "\"capacity_factor\": 0.3}"},
};

static void make_model(int which)
{
    um_config cfg;
    um_err err = {0};
    const char *name = configs[which][0], *file = um_arena_fmt(&arena, "%s.json", name);
    FILE *said = tmpfile();
    folder_text(dir, file, configs[which][1]);
    um_config_default(&cfg);
    cfg.config = at(file);
    cfg.out = at(name);
    cfg.seed = 7;
    if (um_init_run(&cfg, said, &err) != UM_OK) fail_msg("%s", err.msg);
    fclose(said);
}

static int setup(void **state)
{
    folder_setup(state);
    folder_text(dir, "request.json",
                "{\"sample\": {\"conversations\": [{\"from\": \"human\", \"value\": \"How many "
                "experts does a token need?\"}, {\"from\": \"gpt\", \"value\": \"\"}]}, "
                "\"max_new_tokens\": 6, \"temperature\": 0, \"ignore_eos\": true}");
    folder_text(dir, "crowd.jsonl",
                "{\"prompt\": \"Who else?\", \"max_new_tokens\": 3, \"temperature\": 0}\n"
                "{\"prompt\": \"And a longer one, to be read in the same batches.\", "
                "\"max_new_tokens\": 5, \"temperature\": 0}\n"
                "{\"prompt\": \"x\", \"max_new_tokens\": 7, \"temperature\": 0}\n");
    make_model(0);
    make_model(1);
    return 0;
}

/* --- whole jobs --- */

typedef struct variation {
    const char *tag;
    int routers, experts, chunk;
    const char *isa, *codec;
    bool crowd, scattered;
    int flights;
    bool guarded;
} variation;

static int scattered; /* calls of scatter */

/* Another placement in every layer; an expert is on one rank or on several. */
static um_status scatter(um_placement *out, int layers, int E, int ranks, um_arena *a, um_err *err)
{
    um_placement p = {.experts = E, .ranks = ranks, .layers = layers};
    (void)err;
    scattered++;
    p.at = um_arena_i32(a, (size_t)layers * (size_t)(E + 1));
    p.owner = um_arena_i32(a, (size_t)layers * (size_t)E * (size_t)ranks);
    int32_t n = 0;
    for (int l = 0; l < layers; l++) {
        for (int e = 0; e < E; e++) {
            p.at[l * (E + 1) + e] = n;
            int first = (7 * e + 3 * l + 1) % ranks;
            for (int x = 0; x < ranks; x++)
                if (x == first || (x + e + l) % 3 == 0) p.owner[n++] = x;
        }
        p.at[l * (E + 1) + E] = n;
    }
    *out = p;
    return UM_OK;
}

static void run(const variation *v, const char *model, const char *out)
{
    cluster c;
    cluster_init(&c, at(model));
    c.cfg.request = at("request.json");
    c.cfg.out = out;
    c.cfg.experts = v->experts;
    c.cfg.encoders = "0";
    if (v->routers) c.cfg.routers = v->routers;
    if (v->chunk) c.cfg.prefill_chunk = v->chunk;
    if (v->isa) c.cfg.isa = v->isa;
    if (v->codec) c.cfg.codec = v->codec;
    if (v->crowd) c.cfg.requests = at("crowd.jsonl");
    if (v->scattered) c.cfg.placer = scatter;
    if (v->flights) c.cfg.micro_batches = v->flights;
    c.guarded = v->guarded;
    um_status st = cluster_run(&c);
    for (int r = 0; r < c.ranks; r++)
        if (c.status[r] != UM_OK) print_message("rank %d: %s\n", r, c.err[r].msg);
    assert_int_equal(st, UM_OK);
    assert_null(cluster_line(&c, "\"kind\":\"error\""));
    cluster_free(&c);
}

static bool isa_here(const char *name)
{
    um_dev dev;
    um_err err = {0};
    return um_dev_open_cpu(&dev, (um_isa)um_isa_from_name(name), 1, &err) == UM_OK;
}

static void the_same_bits_however_it_is_divided(void **state)
{
    (void)state;
    static const variation plain = {.tag = "base", .experts = 1};
    static const variation list[] = {
        {.tag = "2 experts", .experts = 2},
        {.tag = "3 experts, zstd", .experts = 3, .codec = "zstd"},
        {.tag = "7 experts, some idle", .experts = 7},
        {.tag = "2 experts, scattered", .experts = 2, .scattered = true},
        {.tag = "4 experts, scattered", .experts = 4, .scattered = true, .crowd = true},
        {.tag = "chunks of 7", .experts = 2, .chunk = 7},
        {.tag = "chunks of 1", .experts = 1, .chunk = 1},
        {.tag = "in a crowd", .experts = 2, .chunk = 16, .crowd = true},
        {.tag = "2 routers in a crowd", .routers = 2, .experts = 2, .crowd = true},
        {.tag = "2 micro-batches", .experts = 2, .chunk = 5, .flights = 2, .crowd = true},
        {.tag = "guarded", .experts = 3, .chunk = 16, .flights = 2, .guarded = true},
        {.tag = "generic", .experts = 2, .isa = "generic"},
        {.tag = "avx2", .experts = 2, .isa = "avx2"},
        {.tag = "avx512", .experts = 2, .isa = "avx512"},
    };
    const char *base = at("base.safetensors"), *other = at("other.safetensors");
    for (int m = 0; m < 2; m++) {
        run(&plain, configs[m][0], base);
        for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
            if (list[i].isa != NULL && !isa_here(list[i].isa)) continue;
            run(&list[i], configs[m][0], other);
            if (!golden_same_bits(base, other))
                fail_msg("model %s: %s", configs[m][0], list[i].tag);
        }
    }
    assert_int_equal(scattered, 4); /* router 0 alone decides, once a job */
}

static const uint8_t *traced(const um_tensors *t, const char *name, int64_t cols, int64_t *rows)
{
    const um_tensor *x = um_tensors_find(t, name);
    if (x == NULL) fail_msg("no %s in the trace", name);
    assert_int_equal(x->rank, 2);
    assert_int_equal(x->shape[1], cols);
    *rows = x->shape[0];
    return x->data;
}

/* The slots of a token are filled from the front, the rest is -1 with weight 0; tokens differ in the number of filled slots. */
static void traces_show_how_many_experts_a_token_had(void **state)
{
    (void)state;
    enum { R = 5, C = 8 };
    const variation v = {.experts = 2};
    um_err err = {0};
    um_tensors *t = NULL;
    int64_t rows, n;
    int had[R + 1] = {0};
    const char *out = at("trace.safetensors");
    run(&v, "top_p", out);
    if (um_tensors_open(&t, out, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_null(um_tensors_find(t, "layers.1.experts"));
    traced(t, "layers.2.router_logits", C, &rows);
    const uint8_t *experts = traced(t, "layers.2.experts", R, &n),
                  *weights = traced(t, "layers.2.weights", R, &n);
    assert_int_equal(n, rows);
    for (int64_t i = 0; i < rows; i++) {
        int filled = 0;
        for (int k = 0; k < R; k++) {
            int32_t e;
            float w;
            memcpy(&e, experts + 4 * (i * R + k), 4);
            memcpy(&w, weights + 4 * (i * R + k), 4);
            assert_true(e >= -1 && e < R);
            assert_true(e == -1 ? w == 0.0f : w > 0.0f && w < 1.0f && k == filled);
            filled += e >= 0;
        }
        had[filled]++;
    }
    assert_true(rows > 20 && had[1] > 0 && had[2] > 0 && had[4] + had[5] < rows / 2);
    um_tensors_close(t);
}

static void inspect_counts_every_tensor(void **state)
{
    (void)state;
    um_config cfg;
    um_err err = {0};
    um_config_default(&cfg);
    cfg.json = true;
    for (int m = 0; m < 2; m++) {
        cfg.model = at(configs[m][0]);
        FILE *to = tmpfile();
        if (um_inspect_run(&cfg, to, &err) != UM_OK) fail_msg("%s", err.msg);
        char text[4096] = "";
        rewind(to);
        text[fread(text, 1, sizeof text - 1, to)] = '\0';
        fclose(to);
        um_json *j = NULL;
        assert_int_equal(um_json_parse(&j, text, strlen(text), &err), UM_OK);
        double total = um_json_num(um_json_get(j, "total_parameters"), 0);
        double values = 0;
        static const char *const parts[] = {"backbone", "gates", "experts"};
        for (int i = 0; i < 3; i++)
            values += um_json_num(
                um_json_get(um_json_get(um_json_get(j, "parts"), parts[i]), "values"), 0);
        assert_true(total == values); /* the formula against the tensors */
        assert_string_equal(um_json_str(um_json_get(j, "variant"), ""), "dynamic");
        assert_string_equal(um_json_str(um_json_get(j, "gate"), ""), "dynamic");
        assert_non_null(strstr(text, "\"problems\": []"));
        um_json_free(j);
    }
}

/* --- the block alone --- */

typedef struct rank_arg {
    um_comm *comm;
    const um_config *cfg;
    um_status st;
    um_err err;
} rank_arg;

static void *expert_main(void *p)
{
    rank_arg *a = p;
    a->st = um_expert_run(a->cfg, a->comm, &a->err);
    um_comm_close(a->comm, a->st);
    return NULL;
}

/* The router rank: joins, loads, runs one MoE block over x, says goodbye. */
typedef struct block {
    const um_checkpoint *ck;
    const float *x; /* [S,D] */
    int S;
    float *y; /* [S,D] */
} block;

static um_status router_block(block *b, const um_config *cfg, um_comm *comm, um_dev *dev,
                              um_err *err)
{
    um_link link;
    um_exchange *ex = NULL;
    um_backbone backbone = {0};
    um_acts acts = {0};
    um_arena device;
    const um_model *m = &b->ck->model;
    size_t n = (size_t)b->S * (size_t)m->dim;
    um_dev_arena(&device, dev, "test", 1 << 20);
    um_batch batch = {.T = b->S, .h = um_arena_f32(&device, 1, n), .step = 1};
    um_link_open(&link, comm);
    um_status st = um_join_lead(&link, cfg, b->ck, &arena, err);
    um_params params =
        params_of(b->ck, um_role_parts(UM_ROLE_ROUTER, 0), "f32", dev, &arena, &arena);
    if (st == UM_OK) st = um_backbone_load(&backbone, &params, err);
    if (st == UM_OK) st = um_join_all_ready(&link, err);
    if (st == UM_OK) {
        ex = um_exchange_open(&link, dev, m->dim);
        um_pass pass = {.backbone = &backbone,
                        .batch = &batch,
                        .acts = &acts,
                        .exchange = ex,
                        .dev = dev,
                        .host = &arena,
                        .device = &device};
        um_acts_bind(&acts, (um_acts_arenas){&arena, &device}, m, comm->topo.count[UM_ROLE_EXPERT],
                     batch.h, b->S, false);
        dev->ops->put(dev, acts.ln2, b->x, n * sizeof(float));
        st = um_pass_moe(&pass, 0, &acts, err);
        b->y = um_arena_f32(&arena, 1, n);
        dev->ops->get(dev, b->y, acts.y, n * sizeof(float));
    }
    Um__Shutdown bye = UM__SHUTDOWN__INIT;
    bye.reason = "done";
    for (int p = 1; st == UM_OK && p < comm->topo.n; p++)
        st = um_link_control(&link, p, UM_KIND_SHUTDOWN, &bye.base, err);
    um_exchange_close(ex);
    um_backbone_close(&backbone);
    um_link_close(&link);
    um_arena_free(&device);
    return st;
}

static void run_block(block *b, const char *model, int ranks, um_dev *dev)
{
    um_config cfg;
    um_comm *comms[8];
    pthread_t threads[8];
    rank_arg args[8];
    um_role roles[8] = {UM_ROLE_ROUTER};
    um_err err = {0};
    um_config_default(&cfg);
    cfg.model = model;
    cfg.threads = 1;
    cfg.deadline_ms = 20000;
    for (int r = 1; r <= ranks; r++) roles[r] = UM_ROLE_EXPERT;
    assert_int_equal(um_comm_inproc_open(comms, roles, 1 + ranks, &err), UM_OK);
    for (int r = 1; r <= ranks; r++) {
        args[r] = (rank_arg){.comm = comms[r], .cfg = &cfg};
        pthread_create(&threads[r], NULL, expert_main, &args[r]);
    }
    um_status st = router_block(b, &cfg, comms[0], dev, &err);
    um_comm_close(comms[0], st);
    for (int r = 1; r <= ranks; r++) pthread_join(threads[r], NULL);
    if (st != UM_OK) fail_msg("%s", err.msg);
    for (int r = 1; r <= ranks; r++)
        if (args[r].st != UM_OK) fail_msg("%s", args[r].err.msg);
}

/* Compares the real rows, if the case drops none, within 1e-4 of the largest value. */
static void near_golden(const char *name, const um_tensors *want, const float *y, int S, int D)
{
    const um_tensor *t = um_tensors_find(want, "y"), *mask = um_tensors_find(want, "token_mask");
    size_t n = (size_t)S * (size_t)D;
    float *w = um_arena_f32(&arena, 1, n), largest = 0;
    um_tensor_to_f32(w, t);
    for (size_t i = 0; i < n; i++) largest = fmaxf(largest, fabsf(w[i]));
    for (size_t i = 0; i < n; i++) {
        int32_t real;
        memcpy(&real, mask->data + 4 * (i / (size_t)D), 4);
        if (real && !(fabsf(y[i] - w[i]) <= 1e-4f * largest))
            fail_msg("%s: y[%zu] = %g, want %g", name, i, (double)y[i], (double)w[i]);
    }
}

static void the_block_is_the_layer(void **state)
{
    (void)state;
    static const char *const names[] = {"p07", "p07_wide", "topk_noshared", "drop_probs"};
    um_dev dev;
    um_err err = {0};
    assert_int_equal(um_dev_open_cpu(&dev, UM_ISA_AUTO, 1, &err), UM_OK);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        um_checkpoint ck;
        um_tensors *want = NULL;
        dynamic_layer l;
        const char *model = at(um_arena_fmt(&arena, "block_%s", names[i]));
        assert_int_equal(um_file_mkdirs(model, &err), UM_OK);
        dynamic_model_make(model, names[i], &arena);
        if (um_checkpoint_open(&ck, model, NULL, &err) != UM_OK) fail_msg("%s", err.msg);
        assert_int_equal(
            um_tensors_open(&want, um_arena_fmt(&arena, GOLDEN "%s/layer.safetensors", names[i]),
                            &err),
            UM_OK);
        const um_tensor *x = um_tensors_find(want, "x");
        int D = ck.model.dim, S = (int)(x->shape[0] * x->shape[1]);
        float *rows = um_arena_f32(&arena, (size_t)S, (size_t)D);
        um_tensor_to_f32(rows, x);
        dynamic_layer_run(&l, &ck, rows, S, NULL, false, &dev, &arena);
        for (int ranks = 1; ranks <= 3; ranks++) {
            block b = {.ck = &ck, .x = rows, .S = S};
            run_block(&b, model, ranks, &dev);
            assert_memory_equal(b.y, l.y, (size_t)S * (size_t)D * sizeof(float));
        }
        if (!ck.model.dynamic.token_drop) near_golden(names[i], want, l.y, S, D);
        um_tensors_close(want);
        um_checkpoint_close(&ck);
    }
}

/* A token whose dynamic experts are all null: no row is sent, and without shared experts the block gives zero. */
static void a_token_without_any_expert_gives_zero(void **state)
{
    (void)state;
    um_dev dev;
    um_err err = {0};
    um_checkpoint ck;
    const char *model = at("block_drop_position");
    assert_int_equal(um_dev_open_cpu(&dev, UM_ISA_AUTO, 1, &err), UM_OK);
    assert_int_equal(um_file_mkdirs(model, &err), UM_OK);
    dynamic_model_make(model, "drop_position", &arena); /* R 4, Z 1, F 0 */
    if (um_checkpoint_open(&ck, model, NULL, &err) != UM_OK) fail_msg("%s", err.msg);
    int D = ck.model.dim, R = ck.model.experts;
    const um_tensor *gate = um_tensors_find(ck.llm, "model.layers.0.mlp.gate.weight");
    float *w = um_arena_f32(&arena, (size_t)R + 1, (size_t)D),
          *x = um_arena_zero(&arena, 2 * (size_t)D * sizeof *x);
    um_tensor_to_f32(w, gate);
    for (int i = 0; i < D; i++) x[i] = 50.0f * w[R * D + i]; /* along the null expert's row */
    for (int i = 0; i < D; i++) x[D + i] = 50.0f * w[i];
    block b = {.ck = &ck, .x = x, .S = 2};
    run_block(&b, model, 2, &dev);
    float largest = 0;
    for (int i = 0; i < D; i++) {
        assert_true(b.y[i] == 0.0f);
        largest = fmaxf(largest, fabsf(b.y[D + i]));
    }
    assert_true(largest > 0.01f);
    um_checkpoint_close(&ck);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_bits_however_it_is_divided),
        cmocka_unit_test(traces_show_how_many_experts_a_token_had),
        cmocka_unit_test(inspect_counts_every_tensor),
        cmocka_unit_test(the_block_is_the_layer),
        cmocka_unit_test(a_token_without_any_expert_gives_zero),
    };
    return cmocka_run_group_tests(tests, setup, folder_teardown);
}
