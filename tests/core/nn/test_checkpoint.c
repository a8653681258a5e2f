/* core/nn/checkpoint: the golden models are read, configs that the tensors contradict are refused, and the audit finds every fault. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/nn/checkpoint.h"
#include "launch/model_dir/audit.h"
#include "tests/support/edit.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define GOLDEN UM_TEST_DATA "/golden/models/"

/* --- the golden models --- */

static void count_line(void *ctx, const char *line)
{
    print_message("%s\n", line);
    ++*(int *)ctx;
}

static void golden(um_checkpoint *c, const char *name, int64_t wanted, int64_t ignored)
{
    um_err err = {0};
    um_audit a;
    int lines = 0;
    if (um_checkpoint_open(c, um_arena_fmt(&arena, GOLDEN "%s", name), NULL, &err) != UM_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(um_audit_run(c, &a, count_line, &lines, &err), UM_OK);
    assert_int_equal(lines, 0);
    assert_int_equal(a.missing + a.misshapen + a.unexpected, 0);
    assert_int_equal(a.wanted, wanted);
    assert_int_equal(a.found, wanted);
    assert_int_equal(a.ignored, ignored); /* speech: Whisper's own decoder and token table */
    assert_true(um_checkpoint_set(c, UM_PART_VISION) == c->vision &&
                um_checkpoint_set(c, UM_PART_PROJECTOR) == c->llm);
}

static void test_golden_s4(void **state)
{
    (void)state;
    um_checkpoint c;
    golden(&c, "s4", 234, 77);
    const um_model *m = &c.model;
    assert_string_equal(m->variant, "speech-4e");
    assert_int_equal(m->gate, UM_GATE_MIXTRAL);
    assert_true(m->dim == 64 && m->layers == 3 && m->heads == 4 && m->kv_heads == 4 &&
                m->head_dim == 16);
    assert_true(m->ffn_dim == 96 && m->vocab == 400 && m->max_positions == 4096);
    assert_true(m->experts == 4 && m->top_k == 2 && m->moe_layers == 3 && !m->moe_unplaced);
    assert_true(m->rms_eps == 1e-5f && m->rope_theta == 10000.0f && m->rope_factor == 1.0f);
    assert_true(m->bos == 1 && m->n_eos == 1 && m->eos[0] == 2 && m->pad == 0 && !m->tied &&
                m->lora_r == 0 && !m->fm_block);
    assert_true(!m->do_sample && m->temperature == 1.0f && m->top_p == 1.0f && m->gen_top_k == 50);
    const um_vision_model *v = &m->vision;
    assert_true(v->present && v->dim == 32 && v->layers == 3 && v->heads == 2 && v->ffn_dim == 64);
    assert_true(v->image_size == 56 && v->patch == 14 && v->channels == 3 && v->run_layers == 2);
    assert_true(!v->keep_class && v->quick_gelu && v->eps == 1e-5f && v->resize && v->crop &&
                !v->pad_square);
    assert_true(v->resize_short == 56 && v->crop_w == 56 && v->crop_h == 56 && v->resize_w == 0);
    assert_true(v->mean[1] == 0.4578275f && v->std[2] == 0.27577711f &&
                v->rescale == 0.00392156862745098f);
    assert_true(v->proj == UM_PROJ_MLP && v->proj_layers == 2);
    const um_speech_model *s = &m->speech;
    assert_true(s->present && !m->sound.present && s->dim == 32 && s->layers == 2 &&
                s->heads == 2 && s->ffn_dim == 64 && s->mel_bins == 80 && s->positions == 1500);
    assert_true(s->rate == 16000 && s->n_fft == 400 && s->hop == 160 && s->window_seconds == 30);
    assert_true(s->dec_layers == 3 && s->dec_heads == 2 && s->dec_ffn_dim == 72 &&
                s->dec_positions == 64 && s->queries == 50 && s->encoder_prefix);
    assert_true(s->proj == UM_PROJ_LINEAR && s->proj_layers == 1);
    assert_string_equal(s->names.prefix, "model.mm_audio_aligner.");
    assert_string_equal(s->names.queries, "model.query_tokens");
    assert_true(um_checkpoint_set(&c, UM_PART_SPEECH) == c.speech && c.speech != NULL &&
                um_checkpoint_set(&c, UM_PART_SPEECH_ALIGNER) == c.llm && c.sound == NULL);
    um_checkpoint_close(&c);
}

static void test_golden_others(void **state)
{
    (void)state;
    um_checkpoint c;
    golden(&c, "s4i", 233, 77);
    assert_string_equal(c.model.variant, "speech-4e-interval");
    assert_true(c.model.kv_heads == 2 && c.model.moe_layers == 2 && c.model.moe_layer[2] &&
                !c.model.moe_layer[1]);
    assert_true(c.model.vision.image_size == 336);
    um_checkpoint_close(&c);
    golden(&c, "a4", 250, 0);
    assert_string_equal(c.model.variant, "audio-4e");
    const um_sound_model *s = &c.model.sound;
    assert_true(s->present && !c.model.speech.present && s->dim == 48 && s->layers == 3 &&
                s->heads == 4 && s->ffn_dim == 80 && s->patch == 16 && s->patch_dim == 32);
    assert_true(s->conv_pos == 128 && s->conv_groups == 16 && s->buckets == 320 &&
                s->max_distance == 800 && s->gated);
    assert_true(s->q_dim == 48 && s->q_layers == 4 && s->q_heads == 4 && s->q_ffn_dim == 64 &&
                s->q_cross == 2 && s->queries == 50 && s->q_eps == 1e-12f);
    assert_true(s->proj == UM_PROJ_LINEAR && s->proj_layers == 1);
    assert_string_equal(s->names.prefix, "model.mm_audio_aligner.");
    assert_string_equal(s->names.queries, "model.mm_audio_aligner.query_tokens");
    assert_true(um_checkpoint_set(&c, UM_PART_SOUND) == c.sound && c.sound != NULL &&
                um_checkpoint_set(&c, UM_PART_SOUND_ALIGNER) == c.llm && c.speech == NULL);
    um_checkpoint_close(&c);
    golden(&c, "s8", 349, 77);
    assert_string_equal(c.model.variant, "speech-8e");
    assert_true(c.model.gate == UM_GATE_GSHARD && c.model.experts == 8 && c.model.moe_layers == 2);
    assert_true(c.model.lora_r == 4 && c.model.lora_alpha == 8.0f && !c.model.fm_block);
    um_checkpoint_close(&c);
    golden(&c, "s8fm", 333, 77);
    assert_true(c.model.fm_block && c.model.moe_layers == 2 &&
                c.model.vision.proj == UM_PROJ_LINEAR);
    um_checkpoint_close(&c);
}

/* --- config against tensors --- */

/* The golden model `name` with config keys changed; its tensors are linked. */
static um_status open_changed(um_checkpoint *c, const char *name, const edit *change,
                              size_t changes, um_err *err)
{
    um_json *root = NULL;
    const char *key;
    void *iter = NULL;
    edit all[64];
    size_t n = 0;
    const char *from = um_arena_fmt(&arena, GOLDEN "%s", name);
    assert_int_equal(um_json_load(&root, um_path_join(&arena, from, "config.json"), 1 << 20, err),
                     UM_OK);
    for (const um_json *v; (v = um_json_next(root, &iter, &key)) != NULL;) {
        um_json_kind kind = um_json_kind_of(v);
        um_text t = {0};
        if (kind == UM_JSON_STRING)
            um_text_json(&t, um_json_str(v, ""));
        else if (kind == UM_JSON_BOOL)
            um_text_fmt(&t, um_json_bool(v, false) ? "true" : "false");
        else if (kind == UM_JSON_INT || kind == UM_JSON_REAL)
            um_text_fmt(&t, "%.17g", um_json_num(v, 0));
        else
            continue;
        all[n++] = (edit){um_arena_str(&arena, key), um_arena_str(&arena, t.s)};
        um_text_free(&t);
    }
    um_json_free(root);
    edit_config(dir, "copy/config.json", all, n, change, changes);
    const char *copy = um_arena_fmt(&arena, "%s/copy", dir),
               *weights = um_path_join(&arena, copy, "model.safetensors");
    if (access(weights, F_OK) == 0) unlink(weights);
    folder_link(dir, "copy/model.safetensors", um_path_join(&arena, from, "model.safetensors"));
    um_towers towers = {.vision = um_path_join(&arena, from, "vision_tower")};
    *(name[0] == 'a' ? &towers.sound : &towers.speech) = um_path_join(&arena, from, "audio_tower");
    return um_checkpoint_open(c, copy, &towers, err);
}

static void test_contradictions(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        edit change[2];
        const char *says;
    } bad[] = {
        {"s4",
         {{"num_experts", "8"}},
         "num_experts: 8, but the gate model.layers.0.mlp.gate.weight has shape [4,64]: "
         "num_experts must be 4"},
        {"s4", {{"num_experts", "3"}}, "num_experts must be 4"},
        {"s8", {{"num_experts", "4"}}, "num_experts must be 8"},
        {"s4", {{"vocab_size", "401"}}, "vocab_size: 401"},
        {"s4",
         {{"num_hidden_layers", "2"}},
         "num_hidden_layers: 2, but there is a tensor model.layers.2."},
        {"s4",
         {{"moe", "null"}},
         "moe: absent or null, but there is a gate model.layers.0.mlp.gate.weight"},
        {"s4",
         {{"moe_type", "\"sparse\""}, {"moe_stride", "2"}},
         "layer 1 has no experts, but there is a gate model.layers.1."},
        {"s4i",
         {{"moe_type", "\"dense\""}},
         "layer 1 has experts, but it has no gate and there is a dense model.layers.1."},
        {"s8", {{"lora_r", NULL}}, "lora_r: missing, but there is a LoRA"},
        {"s8", {{"lora_alpha", NULL}}, "lora_alpha: missing, but there is a LoRA"},
        {"s4",
         {{"query_tokens_size", "49"}},
         "query_tokens_size: 49, but the tensor model.query_tokens has 50 rows"},
        {"a4",
         {{"query_tokens_size", "51"}},
         "query_tokens_size: 51, but the tensor model.mm_audio_aligner.query_tokens has 50 rows"},
        {"s4",
         {{"audio_projector_type", "\"mlp2x_gelu\""}},
         "mlp2x_gelu, but there is a tensor model.mm_audio_aligner.projector.weight: must be "
         "linear"},
        {"a4",
         {{"mm_audio_qformer",
           "{\"hidden_size\":48,\"num_hidden_layers\":5,\"intermediate_size\":64}"}},
         "mm_audio_qformer: num_hidden_layers: 5, but the tensors model.mm_audio_aligner.qformer. "
         "have 4"},
        {"a4",
         {{"mm_audio_qformer",
           "{\"hidden_size\":96,\"num_hidden_layers\":4,\"intermediate_size\":64}"}},
         "hidden_size: 96, but the tensors"},
        {"a4",
         {{"mm_audio_qformer",
           "{\"hidden_size\":48,\"num_hidden_layers\":4,\"intermediate_size\":65}"}},
         "intermediate_size: 65, but the tensors"},
        {"a4",
         {{"mm_audio_qformer", "{\"hidden_size\":48,\"num_hidden_layers\":4,\"intermediate_"
                               "size\":64,\"cross_attention_frequency\":3}"}},
         "layer 2 of model.mm_audio_aligner.qformer. has a cross-attention: with config.json's "
         "cross_attention_frequency 3 it must not"},
    };
    for (size_t i = 0; i < EDIT_COUNT(bad); i++) {
        um_checkpoint c;
        um_err err = {0};
        um_status st = open_changed(&c, bad[i].model, bad[i].change,
                                    bad[i].change[1].key != NULL ? 2 : 1, &err);
        if (st != UM_E_MODEL) fail_msg("%s: status %d, %s", bad[i].says, st, err.msg);
        has(&err, "copy");
        has(&err, bad[i].says);
    }
}

/* The released 4-expert configs do not say which layers have experts: the gates show it. */
static void test_unplaced(void **state)
{
    (void)state;
    um_checkpoint c;
    um_err err = {0};
    uint64_t placed = 0;
    if (open_changed(&c, "s4i", NULL, 0, &err) != UM_OK) fail_msg("%s", err.msg);
    placed = c.model.fingerprint;
    um_checkpoint_close(&c);
    if (open_changed(&c, "s4i", (edit[]){{"moe_type", NULL}, {"moe_stride", NULL}}, 2, &err) !=
        UM_OK)
        fail_msg("%s", err.msg);
    assert_memory_equal(c.model.moe_layer, ((uint8_t[]){1, 0, 1, 0}), 4);
    assert_true(!c.model.moe_unplaced && c.model.moe_layers == 2 && c.model.fingerprint == placed);
    assert_string_equal(c.model.variant, "speech-4e-interval");
    um_checkpoint_close(&c);
}

/* The names in the files decide the gate. */
static void test_style(void **state)
{
    (void)state;
    um_checkpoint c;
    um_err err = {0};
    if (open_changed(&c, "s4", (edit[]){{"model_type", "\"llava_llama\""}}, 1, &err) != UM_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(c.model.gate, UM_GATE_MIXTRAL);
    um_checkpoint_close(&c);
    if (open_changed(&c, "s8fm", (edit[]){{"model_type", "\"llava\""}}, 1, &err) != UM_OK)
        fail_msg("%s", err.msg);
    assert_true(c.model.gate == UM_GATE_GSHARD && c.model.lora_r == 4 && c.model.fm_block);
    um_checkpoint_close(&c);
    if (open_changed(&c, "s8", (edit[]){{"use_fm_block", "true"}}, 1, &err) != UM_OK)
        fail_msg("%s", err.msg);
    assert_false(c.model.fm_block); /* asked for, but the files have none */
    um_checkpoint_close(&c);
}

/* --- connectors --- */

typedef struct lines {
    char text[8][300];
    int n;
} lines;

static void take_line(void *ctx, const char *line)
{
    lines *l = ctx;
    if (l->n < 8) snprintf(l->text[l->n++], sizeof l->text[0], "%s", line);
}

/* Writes dir/copy/model.safetensors again: the tensors of `from` whose names do not contain `drop`. */
static void without(const char *from, const char *drop)
{
    um_tensors *s = NULL;
    um_err err = {0};
    const char *path = um_arena_fmt(&arena, "%s/copy/model.safetensors", dir);
    if (um_tensors_open(&s, um_arena_fmt(&arena, GOLDEN "%s", from), &err) != UM_OK)
        fail_msg("%s", err.msg);
    size_t n = um_tensors_count(s), m = 0;
    um_tensor *list = um_arena_zero(&arena, n * sizeof *list);
    for (size_t i = 0; i < n; i++)
        if (strstr(um_tensors_at(s, i)->name, drop) == NULL) list[m++] = *um_tensors_at(s, i);
    assert_true(m < n);
    assert_int_equal(unlink(path), 0);
    if (um_tensors_write(path, list, m, NULL, &err) != UM_OK) fail_msg("%s", err.msg);
    um_tensors_close(s);
}

static um_status open_copy(um_checkpoint *c, const char *name, um_err *err)
{
    const char *from = um_arena_fmt(&arena, GOLDEN "%s", name);
    um_towers towers = {.vision = um_path_join(&arena, from, "vision_tower")};
    *(name[0] == 'a' ? &towers.sound : &towers.speech) = um_path_join(&arena, from, "audio_tower");
    return um_checkpoint_open(c, um_arena_fmt(&arena, "%s/copy", dir), &towers, err);
}

/* Without keys, the tensors give the size of a connector. */
static void test_connector_sizes(void **state)
{
    (void)state;
    um_checkpoint c;
    um_err err = {0};
    um_audit a;
    if (open_changed(&c, "a4", (edit[]){{"query_tokens_size", NULL}}, 1, &err) != UM_OK)
        fail_msg("%s", err.msg); /* the copy has no mm_audio_qformer */
    const um_sound_model *s = &c.model.sound;
    assert_false(s->qformer_given);
    assert_true(s->q_dim == 48 && s->q_layers == 4 && s->q_heads == 12 && s->q_ffn_dim == 64 &&
                s->q_cross == 2 && s->queries == 50 && s->q_eps == 1e-12f);
    um_checkpoint_close(&c);
    without("a4", "encoder.layer.3.");
    if (open_copy(&c, "a4", &err) != UM_OK) fail_msg("%s", err.msg);
    assert_int_equal(c.model.sound.q_layers, 3);
    um_checkpoint_close(&c);
    without("a4", "layer.2.crossattention."); /* then only layer 0 has one */
    if (open_copy(&c, "a4", &err) != UM_OK) fail_msg("%s", err.msg);
    assert_true(c.model.sound.q_layers == 4 && c.model.sound.q_cross == 4);
    um_checkpoint_close(&c);
    without("a4", "layer.0.crossattention.");
    assert_int_equal(open_copy(&c, "a4", &err), UM_E_MODEL);
    has(&err, "layer 0 of model.mm_audio_aligner.qformer. has no cross-attention");

    if (open_changed(&c, "s4", NULL, 0, &err) != UM_OK) fail_msg("%s", err.msg);
    uint64_t before = c.model.fingerprint;
    um_checkpoint_close(&c);
    without("s4", "audio_decoder.layers.2.");
    if (open_copy(&c, "s4", &err) != UM_OK) fail_msg("%s", err.msg);
    assert_int_equal(c.model.speech.dec_layers, 2);
    assert_true(c.model.fingerprint != before);
    assert_int_equal(um_audit_run(&c, &a, NULL, NULL, &err), UM_OK);
    assert_int_equal(a.missing + a.misshapen + a.unexpected, 0);
    um_checkpoint_close(&c);
    /* a gap is reported as missing tensors, not read as a smaller model */
    without("s4", "audio_decoder.layers.1.");
    if (open_copy(&c, "s4", &err) != UM_OK) fail_msg("%s", err.msg);
    assert_int_equal(um_audit_run(&c, &a, NULL, NULL, &err), UM_OK);
    assert_true(c.model.speech.dec_layers == 3 && a.missing == 24);
    um_checkpoint_close(&c);
}

/* A tensor under another name: the prefix `from` becomes `to`, the rest of the name stays. */
static um_tensor renamed(const um_tensor *t, const char *from, const char *to)
{
    um_tensor r = *t;
    size_t n = strlen(from);
    if (strncmp(t->name, from, n) == 0) r.name = um_arena_fmt(&arena, "%s%s", to, t->name + n);
    return r;
}

/* s4 with a4's sound connector: `speech` is the prefix of s4's own connector, `queries` the name of the query tensor. */
static void both_write(const char *path, const char *speech, const char *queries)
{
    um_tensors *s = NULL, *a = NULL;
    um_err err = {0};
    assert_int_equal(um_tensors_open(&s, GOLDEN "s4", &err), UM_OK);
    assert_int_equal(um_tensors_open(&a, GOLDEN "a4", &err), UM_OK);
    size_t n = 0;
    um_tensor *list =
        um_arena_zero(&arena, (um_tensors_count(s) + um_tensors_count(a)) * sizeof *list);
    for (size_t i = 0; i < um_tensors_count(s); i++) {
        um_tensor t = renamed(um_tensors_at(s, i), "model.mm_audio_aligner.", speech);
        list[n++] = renamed(&t, "model.query_tokens", queries);
    }
    for (size_t i = 0; i < um_tensors_count(a); i++) {
        um_tensor t =
            renamed(um_tensors_at(a, i), "model.mm_audio_aligner.", "model.mm_sound_aligner.");
        if (t.name != um_tensors_at(a, i)->name) list[n++] = t;
    }
    if (um_tensors_write(path, list, n, NULL, &err) != UM_OK) fail_msg("%s", err.msg);
    um_tensors_close(s);
    um_tensors_close(a);
}

static void both(const char *folder, const char *speech_key, const char *speech,
                 const char *queries)
{
    um_checkpoint c;
    um_err err = {0};
    um_audit a;
    int told = 0;
    const edit config[] = {
        {"model_type", "\"llava\""},
        {"hidden_size", "64"},
        {"intermediate_size", "96"},
        {"num_hidden_layers", "3"},
        {"num_attention_heads", "4"},
        {"vocab_size", "400"},
        {"moe", "true"},
        {"num_experts", "4"},
        {"moe_type", "\"dense\""},
        {"mm_vision_tower", "\"vision_tower\""},
        {speech_key, "\"speech\""},
        {"mm_sound_tower", "\"sound\""},
        {"mm_audio_hidden_size", "32"},
        {"mm_projector_type", "\"mlp2x_gelu\""},
        /* applies to mm_audio_tower only; a tower named by kind has as many queries as its tensors */
        {"query_tokens_size", strcmp(speech_key, "mm_audio_tower") == 0 ? "50" : "7"},
    };
    size_t n = EDIT_COUNT(config);
    edit_config(dir, um_arena_fmt(&arena, "%s/config.json", folder), config, n, NULL, 0);
    folder_link(dir, um_arena_fmt(&arena, "%s/vision_tower", folder), GOLDEN "s4/vision_tower");
    folder_link(dir, um_arena_fmt(&arena, "%s/speech", folder), GOLDEN "s4/audio_tower");
    folder_link(dir, um_arena_fmt(&arena, "%s/sound", folder), GOLDEN "a4/audio_tower");
    both_write(um_arena_fmt(&arena, "%s/%s/model.safetensors", dir, folder), speech, queries);
    if (um_checkpoint_open(&c, um_arena_fmt(&arena, "%s/%s", dir, folder), NULL, &err) != UM_OK)
        fail_msg("%s", err.msg);
    assert_string_equal(c.model.variant, "unified");
    assert_true(c.model.speech.present && c.model.sound.present);
    assert_int_equal(c.model.speech.queries, 50);
    assert_int_equal(c.model.sound.queries, 50);
    assert_string_equal(c.model.speech.names.prefix, speech);
    assert_string_equal(c.model.speech.names.queries, queries);
    assert_string_equal(c.model.sound.names.queries, "model.mm_sound_aligner.query_tokens");
    assert_int_equal(um_audit_run(&c, &a, count_line, &told, &err), UM_OK);
    assert_int_equal(told, 0);
    assert_int_equal(a.missing + a.misshapen + a.unexpected, 0);
    assert_int_equal(a.wanted, 234 + 97 + 60);
    assert_int_equal(a.ignored, 77);
    um_checkpoint_close(&c);
}

static void test_both_kinds(void **state)
{
    (void)state;
    both("unified", "mm_speech_tower", "model.mm_speech_aligner.",
         "model.mm_speech_aligner.query_tokens");
    both("grown", "mm_audio_tower", "model.mm_audio_aligner.", "model.query_tokens");
}

/* A Whisper file without the outer model has encoder.* names; the message about tensors that the model does not use. */
static void test_tower_names(void **state)
{
    (void)state;
    um_tensors *s = NULL;
    um_checkpoint c;
    um_err err = {0};
    um_audit a;
    lines l = {0};
    assert_int_equal(um_tensors_open(&s, GOLDEN "s4/audio_tower", &err), UM_OK);
    size_t n = um_tensors_count(s);
    um_tensor *list = um_arena_zero(&arena, (n + 1) * sizeof *list);
    for (size_t i = 0; i < n; i++) list[i] = renamed(um_tensors_at(s, i), "model.", "");
    list[n] = *um_tensors_at(s, 0);
    list[n].name = "encoder.odd";
    folder_link(dir, "bare/config.json", GOLDEN "s4/audio_tower/config.json");
    const char *path = um_arena_fmt(&arena, "%s/bare/model.safetensors", dir);
    if (um_tensors_write(path, list, n + 1, NULL, &err) != UM_OK) fail_msg("%s", err.msg);
    um_tensors_close(s);
    um_towers towers = {.speech = um_arena_fmt(&arena, "%s/bare", dir)};
    if (um_checkpoint_open(&c, GOLDEN "s4", &towers, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_false(c.model.speech.encoder_prefix);
    assert_int_equal(um_audit_run(&c, &a, take_line, &l, &err), UM_OK);
    assert_true(a.missing == 0 && a.misshapen == 0 && a.ignored == 77 && l.n == 1);
    assert_non_null(strstr(l.text[0], "unexpected encoder.odd"));
    um_checkpoint_close(&c);
}

/* --- the audit --- */

/* s4 with one tensor missing, one of another shape, one of integers and one too many. */
static void spoilt_write(const um_checkpoint *c, const char *path)
{
    size_t n = um_tensors_count(c->llm), m = 0;
    um_tensor *list = um_arena_zero(&arena, (n + 1) * sizeof *list);
    um_err err = {0};
    for (size_t i = 0; i < n; i++) {
        um_tensor t = *um_tensors_at(c->llm, i);
        if (strcmp(t.name, "model.layers.1.self_attn.q_proj.weight") == 0) continue;
        if (strcmp(t.name, "model.layers.0.mlp.experts.2.up_proj.weight") == 0) {
            t.shape[0] = 64;
            t.shape[1] = 96;
        }
        if (strcmp(t.name, "model.norm.weight") == 0) t.dtype = UM_I32;
        list[m++] = t;
    }
    list[m] = *um_tensors_at(c->llm, 0);
    list[m++].name = "model.layers.1.self_attn.q_proj.wait";
    if (um_tensors_write(path, list, m, NULL, &err) != UM_OK) fail_msg("%s", err.msg);
}

static void test_audit(void **state)
{
    (void)state;
    um_checkpoint c;
    um_err err = {0};
    um_audit a;
    lines l = {0};
    assert_int_equal(open_changed(&c, "s4", NULL, 0, &err), UM_OK);
    const char *weights = um_arena_fmt(&arena, "%s/copy/model.safetensors", dir);
    assert_int_equal(unlink(weights), 0);
    spoilt_write(&c, weights);
    um_checkpoint_close(&c);
    um_towers towers = {.vision = GOLDEN "s4/vision_tower", .speech = GOLDEN "s4/audio_tower"};
    um_status st = um_checkpoint_open(&c, um_arena_fmt(&arena, "%s/copy", dir), &towers, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
    assert_int_equal(um_audit_run(&c, &a, take_line, &l, &err), UM_OK);
    assert_true(a.wanted == 234 && a.found == 233 && a.missing == 1 && a.misshapen == 2 &&
                a.unexpected == 1);
    assert_int_equal(l.n, 4);
    assert_string_equal(l.text[0], "misshapen model.layers.0.mlp.experts.2.up_proj.weight F32 "
                                   "[64,96], want [96,64] of a float type");
    assert_string_equal(l.text[1], "missing model.layers.1.self_attn.q_proj.weight [64,64]");
    assert_string_equal(l.text[2],
                        "misshapen model.norm.weight I32 [64], want [64] of a float type");
    assert_non_null(strstr(l.text[3], "unexpected model.layers.1.self_attn.q_proj.wait F32"));
    um_checkpoint_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_s4),      cmocka_unit_test(test_golden_others),
        cmocka_unit_test(test_contradictions), cmocka_unit_test(test_unplaced),
        cmocka_unit_test(test_style),          cmocka_unit_test(test_connector_sizes),
        cmocka_unit_test(test_both_kinds),     cmocka_unit_test(test_tower_names),
        cmocka_unit_test(test_audit),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}
