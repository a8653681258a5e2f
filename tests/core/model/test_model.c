/* core/model: what configs may contain, and that impossible ones are refused with a helpful message. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/model/model.h"
#include "tests/support/edit.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define GOLDEN UM_TEST_DATA "/golden/models/"

/* --- configs made from pairs --- */

/* CLIP at 56 pixels. */
static const edit tower_base[] = {
    {"hidden_size", "32"},        {"intermediate_size", "64"}, {"num_hidden_layers", "3"},
    {"num_attention_heads", "2"}, {"image_size", "56"},        {"patch_size", "14"},
};
static const edit pixels_base[] = {{"size", "{\"shortest_edge\":56}"}, {"crop_size", "56"}};

static um_status read_with(um_model *m, const edit *change, size_t changes, um_err *err)
{
    edit_config(dir, "config.json", edit_text_model, EDIT_TEXT_MODEL, change, changes);
    return um_model_read(m, dir, NULL, &arena, err);
}

static um_model read_ok(const edit *change, size_t changes)
{
    um_model m;
    um_err err = {0};
    if (read_with(&m, change, changes, &err) != UM_OK) fail_msg("%s", err.msg);
    return m;
}

/* --- what configs may say --- */

static void test_defaults(void **state)
{
    (void)state;
    um_model m =
        read_ok((edit[]){{"rms_norm_eps", NULL}, {"moe", "null"}, {"num_experts", NULL}}, 3);
    assert_string_equal(m.variant, "dense");
    assert_true(m.experts == 0 && m.moe_layers == 0 && m.rms_eps == 1e-6f && m.kv_heads == 4 &&
                m.max_positions == 2048);
    assert_false(m.vision.present);
    assert_false(m.speech.present || m.sound.present);
    m = read_ok((edit[]){{"moe", "false"}}, 1);
    assert_int_equal(m.experts, 0);
    m = read_ok((edit[]){{"moe", "{\"any\":1}"}}, 1);
    assert_int_equal(m.experts, 4);
    m = read_ok((edit[]){{"moe_type", "\"sparse\""}, {"moe_stride", "3"}}, 2);
    assert_memory_equal(m.moe_layer, ((uint8_t[]){1, 0, 0, 1}), 4);
    m = read_ok((edit[]){{"moe_type", NULL}}, 1);
    assert_true(m.moe_unplaced);
    m = read_ok(
        (edit[]){{"head_dim", "10"}, {"rope_theta", "1000000"}, {"tie_word_embeddings", "true"}},
        3);
    assert_true(m.head_dim == 10 && m.rope_theta == 1e6f && m.tied);
    m = read_ok((edit[]){{"rope_scaling", "{\"type\":\"linear\",\"factor\":4}"}}, 1);
    assert_true(m.rope_factor == 4.0f);
    m = read_ok((edit[]){{"model_type", "\"llava_llama\""},
                         {"num_experts", "8"},
                         {"lora_r", "4"},
                         {"lora_alpha", "8"}},
                4);
    assert_true(m.gate == UM_GATE_GSHARD && m.lora_r == 4 && m.lora_alpha == 8.0f);
    folder_text(dir, "generation_config.json",
                "{\"do_sample\":true,\"temperature\":0.9,\"top_p\":0.6,\"top_k\":7}");
    m = read_ok(NULL, 0);
    assert_true(m.do_sample && m.temperature == 0.9f && m.top_p == 0.6f && m.gen_top_k == 7);
    folder_text(dir, "generation_config.json", "{\"top_p\":2}");
    um_err err = {0};
    assert_int_equal(read_with(&m, NULL, 0, &err), UM_E_MODEL);
    has(&err, "generation_config.json: top_p: 2, allowed 0..1");
    assert_int_equal(unlink(um_arena_fmt(&arena, "%s/generation_config.json", dir)), 0);
}

/* The model with this eos_token_id in config.json (NULL: no such key) and this generation_config.json. */
static um_model generation(const char *eos, const char *file)
{
    const edit change[] = {{"eos_token_id", eos}};
    folder_text(dir, "generation_config.json", file);
    return read_ok(change, 1);
}

static void ends(const um_model *m, int n, const int *ids)
{
    assert_int_equal(m->n_eos, n);
    for (int i = 0; i < n; i++) assert_true(um_model_is_eos(m, ids[i]));
}

static void test_end_tokens(void **state)
{
    (void)state;
    um_model m = generation(NULL, "{}");
    ends(&m, 1, (int[]){2});
    assert_int_equal(m.notes.n, 0);
    m = generation("7", "{}");
    ends(&m, 1, (int[]){7});
    m = generation("[7, 9, 7]", "{}");
    ends(&m, 2, (int[]){7, 9});
    m = generation(NULL, "{\"eos_token_id\": [5, 6]}");
    ends(&m, 2, (int[]){5, 6});
    m = generation("2", "{\"eos_token_id\": [2, 3], \"pad_token_id\": 3, \"bos_token_id\": null}");
    ends(&m, 2, (int[]){2, 3});
    assert_true(m.pad == 3 && m.bos == 1);
    m = generation("2.0", "{\"eos_token_id\": 3}");
    ends(&m, 2, (int[]){2, 3});
    m = generation("null", "{}");
    ends(&m, 0, NULL);
    assert_non_null(strstr(m.notes.line[0], "eos_token_id names no token"));
    m = generation("[]", "{\"eos_token_id\": 4}");
    ends(&m, 1, (int[]){4});
    m = generation("-1", "{}");
    ends(&m, 0, NULL);
    m = generation("[2, 400]",
                   "{\"pad_token_id\": 32000}"); /* the vocabulary of 400 has no rows for them */
    ends(&m, 1, (int[]){2});
    assert_int_equal(m.notes.n, 2);
    assert_non_null(strstr(m.notes.line[0], "eos_token_id: 400 is outside the vocabulary of 400"));
    assert_non_null(strstr(m.notes.line[1], "pad_token_id: 32000"));
    /* ranks must agree on where answers end */
    assert_true(generation("[2, 3]", "{}").fingerprint != generation("[2, 4]", "{}").fingerprint);

    static const char *const bad[] = {"\"</s>\"", "[\"2\"]", "[[2]]", "{\"id\": 2}", "2.5", "true"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        um_err err = {0};
        assert_int_equal(read_with(&m, (edit[]){{"eos_token_id", bad[i]}}, 1, &err), UM_E_MODEL);
        has(&err, "config.json: eos_token_id: allowed a token id, a list of them or null");
    }
    assert_int_equal(unlink(um_arena_fmt(&arena, "%s/generation_config.json", dir)), 0);
}

static void test_generation_keys(void **state)
{
    (void)state;
    /* the keys of a released file, and values that request nothing */
    um_model m = generation(
        NULL,
        "{\"_from_model_config\": true, \"bos_token_id\": 1, \"eos_token_id\": 2, \"max_length\": "
        "4096, "
        "\"temperature\": 0.9, \"top_p\": 0.6, \"do_sample\": true, \"top_k\": null, "
        "\"num_beams\": 1, "
        "\"repetition_penalty\": 1.0, \"penalty_alpha\": null, \"typical_p\": 1, "
        "\"suppress_tokens\": [], "
        "\"no_repeat_ngram_size\": 0, \"use_cache\": true, \"transformers_version\": \"4.31.0\"}");
    assert_true(m.do_sample && m.temperature == 0.9f && m.top_p == 0.6f && m.gen_top_k == 50);
    assert_int_equal(m.notes.n, 0);
    m = generation(NULL, "{\"num_beams\": 4, \"repetition_penalty\": 1.2, \"penalty_alpha\": 0.6, "
                         "\"bad_words_ids\": [[3]], \"stop_strings\": \"x\", \"top_k\": -1}");
    assert_int_equal(m.gen_top_k, 0);
    assert_int_equal(m.notes.n, 1);
    assert_non_null(strstr(m.notes.line[0],
                           "generation_config.json: not supported and ignored: num_beams, "
                           "repetition_penalty, penalty_alpha, bad_words_ids, stop_strings"));
    assert_int_equal(unlink(um_arena_fmt(&arena, "%s/generation_config.json", dir)), 0);
}

static void test_impossible(void **state)
{
    (void)state;
    static const struct {
        edit change[2];
        const char *says;
    } bad[] = {
        {{{"num_hidden_layers", "0"}}, "config.json: num_hidden_layers: 0, allowed 1..4096"},
        {{{"num_hidden_layers", "-1"}}, "num_hidden_layers: -1, allowed 1.."},
        {{{"num_hidden_layers", "2147483648"}}, "num_hidden_layers: 2147483648, allowed 1.."},
        {{{"num_hidden_layers", "\"4\""}}, "num_hidden_layers: \"4\", allowed an integer"},
        {{{"num_hidden_layers", "4.0"}}, "num_hidden_layers: 4.0, allowed an integer"},
        {{{"num_hidden_layers", NULL}}, "num_hidden_layers: missing"},
        {{{"hidden_size", "null"}}, "hidden_size: missing"},
        {{{"hidden_size", "1152921504606846976"}}, "hidden_size: 1152921504606846976"},
        {{{"hidden_size", "66"}}, "num_attention_heads: 4, must divide hidden_size 66"},
        {{{"hidden_size", "60"}}, "head_dim: 15, must be even"},
        {{{"head_dim", "7"}}, "head_dim: 7, must be even"},
        {{{"head_dim", "1000000"}}, "num_attention_heads x head_dim"},
        {{{"num_attention_heads", "0"}}, "num_attention_heads: 0"},
        {{{"num_key_value_heads", "3"}},
         "num_key_value_heads: 3, must divide num_attention_heads 4"},
        {{{"num_key_value_heads", "8"}}, "num_key_value_heads: 8, must divide"},
        {{{"vocab_size", "-5"}}, "vocab_size: -5"},
        {{{"intermediate_size", "0"}}, "intermediate_size: 0"},
        {{{"rms_norm_eps", "\"nan\""}}, "rms_norm_eps: \"nan\", allowed a number"},
        {{{"rms_norm_eps", "-1e-5"}}, "rms_norm_eps: "},
        {{{"rms_norm_eps", "NaN"}}, "rms_norm_eps: \"?\", allowed a number"},
        {{{"rope_theta", "0"}}, "rope_theta: 0"},
        {{{"rope_scaling", "{\"type\":\"dynamic\",\"factor\":2}"}},
         "rope_scaling: type \"dynamic\", allowed \"linear\""},
        {{{"rope_scaling", "{\"type\":\"linear\"}"}}, "factor: missing"},
        {{{"rope_scaling", "3"}}, "rope_scaling: allowed null or an object"},
        {{{"hidden_act", "\"gelu\""}}, "hidden_act: \"gelu\", allowed \"silu\""},
        {{{"attention_bias", "true"}}, "attention_bias: true, allowed false"},
        {{{"tie_word_embeddings", "1"}}, "tie_word_embeddings: allowed true and false"},
        {{{"num_experts", "0"}}, "num_experts: 0, allowed 1.."},
        {{{"num_experts", NULL}}, "num_experts: missing"},
        {{{"num_experts", "99999999"}}, "num_experts: 99999999"},
        {{{"num_experts_per_tok", "5"}}, "num_experts_per_tok: 5, allowed 1..4 (num_experts)"},
        {{{"num_experts_per_tok", "0"}}, "num_experts_per_tok: 0"},
        {{{"moe_type", "\"odd\""}}, "moe_type: \"odd\", allowed \"dense\""},
        {{{"moe_type", "\"sparse\""}}, "moe_stride: missing"},
        {{{"moe_type", "\"sparse\""}, {"moe_stride", "0"}}, "moe_stride: 0, allowed 1.."},
        {{{"hidden_size", "1048576"}, {"num_experts", "4194304"}}, "more than 2^50 parameters"},
        {{{"hidden_size", "1048576"}, {"intermediate_size", "1048576"}},
         NULL}, /* large, but countable */
        {{{"lora_r", "-4"}}, "lora_r: -4"},
        {{{"mm_vision_tower", "7"}}, "mm_vision_tower: 7, allowed a string"},
    };
    for (size_t i = 0; i < EDIT_COUNT(bad); i++) {
        um_model m;
        um_err err = {0};
        um_status st = read_with(&m, bad[i].change, bad[i].change[1].key != NULL ? 2 : 1, &err);
        if (bad[i].says == NULL) {
            assert_int_equal(st, UM_OK);
            continue;
        }
        if (st != UM_E_MODEL)
            fail_msg("%s %s: status %d, %s", bad[i].change[0].key, bad[i].change[0].value, st,
                     err.msg);
        has(&err, "config.json: ");
        has(&err, bad[i].says);
    }
}

static void test_not_a_config(void **state)
{
    (void)state;
    um_model m;
    um_err err = {0};
    assert_int_equal(um_model_read(&m, GOLDEN "none", NULL, &arena, &err), UM_E_MODEL);
    has(&err, "/none: No such file");
    folder_text(dir, "config.json", "[]");
    assert_int_equal(um_model_read(&m, dir, NULL, &arena, &err), UM_E_MODEL);
    has(&err, "config.json: not a JSON object");
    um_text t = {0};
    for (int i = 0; i < 1000000; i++) um_text_add(&t, "[", 1);
    folder_text(dir, "config.json", t.s);
    assert_int_equal(um_model_read(&m, dir, NULL, &arena, &err), UM_E_MODEL);
    has(&err, "config.json: not JSON");
    has(&err, "depth");
    um_text_free(&t);
}

/* --- towers --- */

static um_status tower_with(um_model *m, const edit *llm, size_t n, const edit *tower, size_t t,
                            const edit *pixels, size_t p, um_err *err)
{
    edit all[8] = {{"mm_vision_tower", "\"tower\""}};
    for (size_t i = 0; i < n; i++) all[1 + i] = llm[i];
    edit_config(dir, "tower/config.json", tower_base, EDIT_COUNT(tower_base), tower, t);
    edit_config(dir, "tower/preprocessor_config.json", pixels_base, EDIT_COUNT(pixels_base), pixels,
                p);
    return read_with(m, all, n + 1, err);
}

static void test_tower(void **state)
{
    (void)state;
    um_model m;
    um_err err = {0};
    if (tower_with(&m, NULL, 0, NULL, 0, NULL, 0, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_true(m.vision.present && m.vision.proj == UM_PROJ_LINEAR && m.vision.run_layers == 2 &&
                m.vision.rescale > 0);
    assert_true(m.vision.mean[0] == 0.48145466f && m.vision.crop_w == 56 &&
                m.vision.resize_short == 56);
    static const edit whole[] = {{"mm_vision_select_layer", "0"},
                                 {"mm_vision_select_feature", "\"cls_patch\""},
                                 {"mm_projector_type", "\"mlp3x_gelu\""},
                                 {"image_aspect_ratio", "\"pad\""},
                                 {"mm_hidden_size", "32"}};
    static const edit act[] = {{"hidden_act", "\"gelu\""}};
    static const edit fixed[] = {{"size", "{\"height\":56,\"width\":56}"},
                                 {"do_center_crop", "false"},
                                 {"do_normalize", "false"},
                                 {"do_rescale", "false"}};
    if (tower_with(&m, whole, 5, act, 1, fixed, 4, &err) != UM_OK) fail_msg("%s", err.msg);
    const um_vision_model *v = &m.vision;
    assert_true(v->run_layers == 0 && v->keep_class && v->proj == UM_PROJ_MLP &&
                v->proj_layers == 3 && v->pad_square);
    assert_true(!v->quick_gelu && !v->crop && v->resize_w == 56 && v->resize_h == 56 &&
                v->resize_short == 0);
    assert_true(v->rescale == 1.0f && v->mean[0] == 0.0f && v->std[2] == 1.0f);
    assert_true(v->fill[0] > 0.0f); /* not normalised, but "pad" still fills with image_mean */
    for (int k = -4; k <= 3; k++) {
        char number[8];
        snprintf(number, sizeof number, "%d", k);
        assert_int_equal(
            tower_with(&m, (edit[]){{"mm_vision_select_layer", number}}, 1, NULL, 0, NULL, 0, &err),
            UM_OK);
        assert_int_equal(m.vision.run_layers, k >= 0 ? k : 4 + k);
    }
    static const edit ints[] = {{"size", "56"}, {"crop_size", "{\"height\":56,\"width\":56}"}};
    assert_int_equal(tower_with(&m, NULL, 0, NULL, 0, ints, 2, &err), UM_OK);
    assert_int_equal(m.vision.resize_short, 56);
}

static void test_tower_nested(void **state)
{
    (void)state;
    um_model m;
    um_err err = {0};
    assert_int_equal(tower_with(&m, NULL, 0, NULL, 0, NULL, 0, &err), UM_OK);
    folder_text(dir, "tower/config.json",
                "{\"text_config\":{\"hidden_size\":7},\"vision_config\":{\"hidden_size\":48,\"num_"
                "attention_heads\":3,"
                "\"image_size\":56,\"patch_size\":28}}");
    if (um_model_read(&m, dir, NULL, &arena, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_true(m.vision.dim == 48 && m.vision.heads == 3 && m.vision.layers == 12 &&
                m.vision.ffn_dim == 3072);
}

static void test_tower_folder(void **state)
{
    (void)state;
    um_model m;
    um_err err = {0};
    assert_int_equal(read_with(&m, (edit[]){{"mm_vision_tower", "\"/data/video\""}}, 1, &err),
                     UM_E_MODEL);
    has(&err, "config.json: mm_vision_tower: \"/data/video\"");
    has(&err, "--vision-tower");
    const char *tower = GOLDEN "s4/vision_tower";
    um_towers towers = {.vision = tower};
    if (um_model_read(&m, dir, &towers, &arena, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_string_equal(m.vision.dir, tower);
    towers.vision = "nowhere";
    assert_int_equal(um_model_read(&m, dir, &towers, &arena, &err), UM_E_MODEL);
    has(&err, "vision tower nowhere: no config.json");
}

static void test_tower_refused(void **state)
{
    (void)state;
    static const struct {
        char where; /* l: config.json, t: the tower's, p: preprocessor_config.json */
        edit change;
        const char *says;
    } bad[] = {
        {'l',
         {"mm_projector_type", "\"identity\""},
         "mm_projector_type: \"identity\", allowed \"linear\""},
        {'l', {"mm_projector_type", "\"mlp0x_gelu\""}, "mm_projector_type"},
        {'l', {"mm_projector_type", "\"mlp-2x_gelu\""}, "mm_projector_type"},
        {'l', {"mm_projector_type", "\"mlp2x_gelux\""}, "mm_projector_type"},
        {'l', {"mm_projector_type", "\"mlp2x\""}, "mm_projector_type"},
        {'l', {"mm_projector_type", "\"mlp\""}, "mm_projector_type"},
        {'l', {"mm_vision_select_layer", "4"}, "mm_vision_select_layer: 4, allowed -4..3"},
        {'l', {"mm_vision_select_layer", "-5"}, "mm_vision_select_layer: -5"},
        {'l', {"mm_vision_select_feature", "\"cls\""}, "mm_vision_select_feature: \"cls\""},
        {'l', {"image_aspect_ratio", "\"anyres\""}, "image_aspect_ratio: \"anyres\""},
        {'l', {"mm_hidden_size", "1024"}, "mm_hidden_size: 1024, the tower in "},
        {'t', {"num_attention_heads", "3"}, "num_attention_heads: 3, must divide hidden_size 32"},
        {'t', {"patch_size", "15"}, "patch_size: 15, must divide image_size 56"},
        {'t', {"patch_size", "112"}, "patch_size: 112"},
        {'t', {"image_size", "100000"}, "image_size: 100000"},
        {'t', {"num_channels", "1"}, "num_channels: 1, allowed 3..3"},
        {'t', {"hidden_act", "\"relu\""}, "hidden_act: \"relu\""},
        {'p', {"resample", "2"}, "resample: 2, allowed 3 (bicubic)"},
        {'p', {"crop_size", "336"}, "crop_size: 336 x 336, must be the tower's image_size 56 x 56"},
        {'p', {"do_center_crop", "false"}, "do_center_crop: off"},
        {'p', {"size", "{\"longest_edge\":56}"}, "size: allowed"},
        {'p', {"image_mean", "[0.5]"}, "image_mean: allowed a list of three numbers"},
        {'p', {"image_std", "[0.5,0,0.5]"}, "image_std"},
        {'p', {"rescale_factor", "0"}, "rescale_factor: 0"},
        {'p', {"do_resize", "\"yes\""}, "do_resize: allowed true and false"},
    };
    for (size_t i = 0; i < EDIT_COUNT(bad); i++) {
        const edit *e = &bad[i].change;
        char w = bad[i].where;
        um_model m;
        um_err err = {0};
        um_status st = tower_with(&m, e, w == 'l', e, w == 't', e, w == 'p', &err);
        if (st != UM_E_MODEL) fail_msg("taken: %s %s", e->key, e->value);
        has(&err, w == 'p'   ? "preprocessor_config.json: "
                  : w == 't' ? "tower/config.json: "
                             : "config.json: ");
        has(&err, bad[i].says);
    }
}

/* --- totals and fingerprint --- */

static void totals(const char *experts, const char *type, double total, double active)
{
    const edit e[] = {{"hidden_size", "4096"},
                      {"intermediate_size", "11008"},
                      {"num_hidden_layers", "32"},
                      {"num_attention_heads", "32"},
                      {"vocab_size", "32000"},
                      {"num_experts", experts},
                      {"moe", experts == NULL ? "null" : "true"},
                      {"moe_type", type},
                      {"moe_stride", "2"}};
    um_model m = read_ok(e, EDIT_COUNT(e));
    int64_t t, a;
    um_model_params(&m, &t, &a);
    if (fabs((double)t / 1e9 - total) > 0.005 || fabs((double)a / 1e9 - active) > 0.005) {
        fail_msg("%s experts %s: %.3f and %.3f, want %.2f and %.2f", experts, type, (double)t / 1e9,
                 (double)a / 1e9, total, active);
    }
    if (experts == NULL) assert_true(t == INT64_C(6738415616) && a == t);
}

/* Spec 0.2; its numbers come from Table 1 of the paper. */
static void test_params(void **state)
{
    (void)state;
    totals(NULL, "\"dense\"", 6.74, 6.74);
    totals("4", "\"sparse\"", 13.23, 8.90);
    totals("4", "\"dense\"", 19.72, 11.07);
    totals("8", "\"sparse\"", 21.89, 8.90);
    totals("8", "\"dense\"", 37.04, 11.07);
}

typedef struct sum {
    int64_t params, experts;
    int left;
} sum;

static um_status add_up(void *ctx, const um_spec *s, um_err *err)
{
    sum *w = ctx;
    int64_t n = 1;
    if (w->left-- == 0) return UM_FAIL(err, UM_E_STOPPED, "enough");
    for (int i = 0; i < s->rank; i++) n *= s->shape[i];
    if (s->at.part == UM_PART_EXPERT) w->experts++;
    w->params += n;
    return UM_OK;
}

/* The list of tensors and the formula agree. */
static void test_walk(void **state)
{
    (void)state;
    um_err err = {0};
    um_model m = read_ok(
        (edit[]){{"moe_type", "\"sparse\""}, {"moe_stride", "2"}, {"num_key_value_heads", "2"}}, 3);
    int64_t total, active;
    sum w = {.left = 100000};
    um_model_params(&m, &total, &active);
    assert_int_equal(um_model_for_each_tensor(&m, add_up, &w, &err), UM_OK);
    assert_int_equal(w.params, total);
    assert_int_equal(w.experts, 2 * 4 * 3);
    w = (sum){.left = 5};
    assert_int_equal(um_model_for_each_tensor(&m, add_up, &w, &err), UM_E_STOPPED);
    assert_int_equal(w.left, -1); /* not called again */
    m = read_ok((edit[]){{"model_type", "\"llava_llama\""},
                         {"use_fm_block", "true"},
                         {"tie_word_embeddings", "true"}},
                3);
    w = (sum){.left = 100000};
    um_model_params(&m, &total, &active);
    assert_int_equal(um_model_for_each_tensor(&m, add_up, &w, &err), UM_OK);
    assert_int_equal(w.params, total);
}

static void name_is(const um_model *m, um_place at, um_leaf leaf, const char *want)
{
    char name[200] = "";
    assert_true(um_model_tensor_name(m, at, leaf, name));
    assert_string_equal(name, want);
}

static void test_names(void **state)
{
    (void)state;
    char name[200];
    um_model m = read_ok((edit[]){{"num_hidden_layers", "4"}}, 1);
    const um_place norm = um_place_of(UM_PART_BACKBONE, UM_SLOT_NORM1, 3, -1),
                   gate = um_place_of(UM_PART_GATE, UM_SLOT_GATE, 2, -1),
                   up = um_place_of(UM_PART_EXPERT, UM_SLOT_UP_PROJ, 2, 1);
    name_is(&m, norm, UM_LEAF_WEIGHT, "model.layers.3.input_layernorm.weight");
    name_is(&m, gate, UM_LEAF_WEIGHT, "model.layers.2.mlp.gate.weight");
    name_is(&m, up, UM_LEAF_WEIGHT, "model.layers.2.mlp.experts.1.up_proj.weight");
    assert_false(um_model_tensor_name(&m, up, UM_LEAF_LORA_A, name));
    assert_false(um_model_tensor_name(&m, norm, UM_LEAF_BIAS, name));
    m.gate = UM_GATE_GSHARD;
    m.lora_r = 4;
    m.fm_block = true;
    name_is(&m, gate, UM_LEAF_WEIGHT, "model.layers.2.mlp.deepspeed_moe.gate.wg.weight");
    name_is(&m, um_place_of(UM_PART_EXPERT, UM_SLOT_DOWN_PROJ, 2, 3), UM_LEAF_LORA_A,
            "model.layers.2.mlp.deepspeed_moe.experts.deepspeed_experts.3.down_proj_lora_A.weight");
    name_is(&m, um_place_of(UM_PART_GATE, UM_SLOT_FM, 0, UM_FM_VIDEO), UM_LEAF_BIAS,
            "model.layers.0.mlp.deepspeed_moe.fm_video.bias");
}

static void test_fingerprint(void **state)
{
    (void)state;
    static const edit other[] = {
        {"hidden_size", "128"},
        {"intermediate_size", "97"},
        {"num_hidden_layers", "5"},
        {"num_key_value_heads", "2"},
        {"vocab_size", "401"},
        {"rms_norm_eps", "2e-5"},
        {"rope_theta", "10001"},
        {"num_experts", "5"},
        {"moe_stride", "2"},
        {"num_experts_per_tok", "3"},
        {"model_type", "\"llava_llama\""},
        {"moe", "null"},
        {"tie_word_embeddings", "true"},
        {"lora_r", "4"},
        {"eos_token_id", "3"},
        {"head_dim", "18"},
        {"max_position_embeddings", "99"},
    };
    uint64_t same = read_ok(NULL, 0).fingerprint, seen[EDIT_COUNT(other)];
    assert_true(read_ok(NULL, 0).fingerprint == same);
    for (size_t i = 0; i < EDIT_COUNT(other); i++) {
        edit change[2] = {other[i], {"moe_type", "\"sparse\""}};
        seen[i] = read_ok(change, strcmp(other[i].key, "moe_stride") == 0 ? 2 : 1).fingerprint;
        assert_true(seen[i] != same);
        for (size_t k = 0; k < i; k++) assert_true(seen[i] != seen[k]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),      cmocka_unit_test(test_impossible),
        cmocka_unit_test(test_end_tokens),    cmocka_unit_test(test_generation_keys),
        cmocka_unit_test(test_not_a_config),  cmocka_unit_test(test_tower),
        cmocka_unit_test(test_tower_nested),  cmocka_unit_test(test_tower_folder),
        cmocka_unit_test(test_tower_refused), cmocka_unit_test(test_params),
        cmocka_unit_test(test_walk),          cmocka_unit_test(test_names),
        cmocka_unit_test(test_fingerprint),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}
