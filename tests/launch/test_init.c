/* launch/init and launch/inspect: init writes a model that inspect and the loaders accept, with the same bytes every time. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/nn/checkpoint.h"
#include "launch/model_dir/audit.h"
#include "launch/model_dir/init.h"
#include "launch/model_dir/inspect.h"
#include "launch/model_dir/presets.h"
#include "launch/model_dir/shards.h"
#include "launch/model_dir/vocabulary.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GOLDEN UM_TEST_DATA "/golden/models/"

static const char *at(const char *name) { return um_path_join(&arena, dir, name); }

/* What a command printed into `to`, a file of tmpfile. */
static const char *text_of(FILE *to)
{
    size_t n = (size_t)ftell(to);
    char *text = um_arena_zero(&arena, n + 1);
    rewind(to);
    assert_int_equal(fread(text, 1, n, to), n);
    fclose(to);
    return text;
}

static um_config config_of(const char *preset, const char *file, const char *out)
{
    um_config cfg;
    um_config_default(&cfg);
    cfg.preset = preset;
    cfg.config = file;
    cfg.out = at(out);
    cfg.seed = 5;
    return cfg;
}

static um_status init(const um_config *cfg, um_err *err)
{
    FILE *to = tmpfile();
    um_status st = um_init_run(cfg, to, err);
    const char *said = text_of(to);
    if (st == UM_OK) says(said, cfg->out);
    return st;
}

static void init_ok(const um_config *cfg)
{
    um_err err = {0};
    if (init(cfg, &err) != UM_OK) fail_msg("%s", err.msg);
}

static const char *inspect(const char *folder, bool json, um_status want)
{
    um_config cfg;
    um_err err = {0};
    FILE *to = tmpfile();
    um_config_default(&cfg);
    cfg.args = (um_list){.item = {folder}, .n = 1};
    cfg.json = json;
    um_status st = um_inspect_run(&cfg, to, &err);
    const char *said = text_of(to);
    if (st != want) fail_msg("status %d: %s", st, err.msg);
    return said;
}

static bool same_files(const char *a, const char *b, const char *name)
{
    uint8_t *p, *q;
    size_t n, m;
    assert_int_equal(um_file_read(&p, &n, um_path_join(&arena, at(a), name), 1 << 26, &arena, NULL),
                     UM_OK);
    assert_int_equal(um_file_read(&q, &m, um_path_join(&arena, at(b), name), 1 << 26, &arena, NULL),
                     UM_OK);
    return n == m && memcmp(p, q, n) == 0;
}

/* Two runs give the same bytes; another seed changes only the weights. */
static void made_alike(const char *preset, const char *const *files, size_t n)
{
    um_config a = config_of(preset, "", "a"), b = config_of("", preset, "b"),
              c = config_of(preset, "", "c");
    c.seed = 6;
    init_ok(&a);
    init_ok(&b);
    init_ok(&c);
    for (size_t i = 0; i < n; i++) {
        assert_true(same_files("a", "b", files[i]));
        bool weights = strstr(files[i], "model.safetensors") != NULL;
        assert_true(same_files("a", "c", files[i]) == !weights);
        if (strstr(files[i], ".json") != NULL) {
            um_json *j = NULL;
            assert_int_equal(
                um_json_load(&j, um_path_join(&arena, at("a"), files[i]), 1 << 20, NULL), UM_OK);
            um_json_free(j);
        }
    }
    says(inspect(at("a"), false, UM_OK), "0 missing, 0 misshapen, 0 unexpected");
    um_err err = {0};
    assert_int_equal(init(&a, &err), UM_E_USAGE); /* never overwrites an existing model */
    has(&err, "already holds a model");
    folder_remove(at("a"));
    folder_remove(at("b"));
    folder_remove(at("c"));
}

static double std_of(const um_tensors *s, const char *name, double *mean)
{
    const um_tensor *t = um_tensors_find(s, name);
    assert_non_null(t);
    size_t n = t->bytes / um_dtype_size(t->dtype);
    float *v = um_arena_f32(&arena, 1, n);
    um_tensor_to_f32(v, t);
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)v[i];
        squares += (double)v[i] * (double)v[i];
    }
    *mean = sum / (double)n;
    return sqrt(squares / (double)n - *mean * *mean);
}

/* The preset of the first run has a tower of every kind. */
static void test_small(void **state)
{
    (void)state;
    static const char *const files[] = {"model.safetensors",
                                        "speech_tower/model.safetensors",
                                        "speech_tower/config.json",
                                        "speech_tower/preprocessor_config.json",
                                        "sound_tower/model.safetensors",
                                        "sound_tower/config.json"};
    made_alike("small", files, sizeof files / sizeof *files);
    um_config s = config_of("small", "", "small");
    um_checkpoint c;
    um_err err = {0};
    um_audit audit;
    double mean;
    init_ok(&s);
    if (um_checkpoint_open(&c, s.out, NULL, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_string_equal(c.model.variant, "unified");
    assert_int_equal(um_audit_run(&c, &audit, NULL, NULL, &err), UM_OK);
    assert_int_equal(audit.missing + audit.misshapen + audit.unexpected + audit.ignored, 0);
    assert_true(fabs(std_of(c.speech, "model.encoder.conv2.weight", &mean) - 0.02) < 0.002);
    assert_true(std_of(c.speech, "model.encoder.layer_norm.weight", &mean) == 0.0 && mean == 1.0);
    assert_true(std_of(c.sound, "encoder.pos_conv.0.weight_g", &mean) == 0.0 && mean == 1.0);
    assert_true(std_of(c.llm, "model.mm_speech_aligner.query_tokens", &mean) > 0.01);
    assert_true(std_of(c.llm, "model.mm_sound_aligner.query_tokens", &mean) > 0.01);
    um_checkpoint_close(&c);
    const char *said = inspect(s.out, false, UM_OK);
    says(said, "speech_tower\n              Whisper: hidden 64, layers 2, heads 2; 30 s of sound "
               "become 1500 rows\n"
               "              connector: 2 layers, ");
    says(said, "tensors model.mm_speech_aligner.*");
    says(said, "sound_tower\n              BEATs: hidden 64, layers 2, heads 4, patch 16; windows "
               "of 30 s\n");
    says(said, "  speech_aligner ");
    says(said, " MiB  f32\n");
    said = inspect(s.out, true, UM_OK);
    um_json *j = NULL;
    assert_int_equal(um_json_parse(&j, said, strlen(said), NULL), UM_OK);
    assert_int_equal(um_json_int(um_json_get(um_json_get(j, "speech"), "positions"), 0), 1500);
    assert_int_equal(um_json_int(um_json_get(um_json_get(j, "sound"), "connector_layers"), 0), 4);
    um_json_free(j);
}

static void test_tiny(void **state)
{
    (void)state;
    static const char *const files[] = {"model.safetensors",
                                        "tokenizer.model",
                                        "config.json",
                                        "generation_config.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "vision_tower/model.safetensors",
                                        "vision_tower/config.json",
                                        "vision_tower/preprocessor_config.json"};
    made_alike("tiny", files, sizeof files / sizeof *files);
}

static void test_values(void **state)
{
    (void)state;
    um_config f = config_of("tiny", "", "f32"), h = config_of("tiny", "", "bf16");
    h.dtype = "bf16";
    init_ok(&f);
    init_ok(&h);
    um_checkpoint a, b;
    um_err err = {0};
    assert_int_equal(um_checkpoint_open(&a, f.out, NULL, &err), UM_OK);
    assert_int_equal(um_checkpoint_open(&b, h.out, NULL, &err), UM_OK);
    double mean, std = std_of(a.llm, "model.embed_tokens.weight", &mean);
    assert_true(fabs(std - 0.02) < 0.001 && fabs(mean) < 0.001);
    std = std_of(a.llm, "model.norm.weight", &mean);
    assert_true(mean == 1.0 && std == 0.0);
    std = std_of(a.llm, "model.mm_projector.0.bias", &mean);
    assert_true(mean == 0.0 && std == 0.0);
    assert_true(std_of(a.llm, "model.layers.0.mlp.gate.weight", &mean) > 0.2);
    for (size_t i = 0; i < um_tensors_count(a.llm); i++) { /* bf16 is the same draw, rounded */
        const um_tensor *t = um_tensors_at(a.llm, i), *u = um_tensors_at(b.llm, i);
        assert_int_equal(u->dtype, UM_BF16);
        uint16_t *want = um_arena_alloc(&arena, t->bytes / 2);
        um_from_f32(want, UM_BF16, (const float *)(const void *)t->data, t->bytes / 4);
        assert_memory_equal(want, u->data, u->bytes);
    }
    const um_tensor *up = um_tensors_find(a.llm, "model.layers.0.mlp.experts.0.up_proj.weight");
    const um_tensor *next = um_tensors_find(a.llm, "model.layers.0.mlp.experts.1.up_proj.weight");
    assert_memory_not_equal(up->data, next->data, up->bytes);
    um_checkpoint_close(&a);
    um_checkpoint_close(&b);
}

/* A tensor's bits depend on its name, not on the other tensors of the model. */
static void test_same_bits(void **state)
{
    (void)state;
    static const char config[] =
        "{\"model_type\":\"llava_llama\",\"hidden_size\":32,\"intermediate_size\":48,\"num_hidden_"
        "layers\":%d,"
        "\"num_attention_heads\":2,\"vocab_size\":300,\"moe\":true,\"num_experts\":%d,\"moe_type\":"
        "\"dense\","
        "\"use_fm_block\":true,\"lora_r\":2,\"lora_alpha\":4,\"initializer_range\":0.5}";
    um_text t = {0};
    um_checkpoint c[2];
    for (int i = 0; i < 2; i++) {
        um_err err = {0};
        um_text_fmt(&t, config, 1 + i, 3 + 5 * i);
        folder_text(dir, "made.json", t.s);
        um_text_free(&t);
        um_config cfg = config_of("", at("made.json"), i == 0 ? "one" : "two");
        init_ok(&cfg);
        if (um_checkpoint_open(&c[i], cfg.out, NULL, &err) != UM_OK) fail_msg("%s", err.msg);
    }
    assert_int_equal(c[0].model.gate, UM_GATE_GSHARD);
    size_t shared = 0;
    for (size_t i = 0; i < um_tensors_count(c[0].llm); i++) {
        const um_tensor *a = um_tensors_at(c[0].llm, i), *b = um_tensors_find(c[1].llm, a->name);
        assert_non_null(b);
        if (strstr(a->name, "gate.wg") != NULL) continue; /* more experts, more rows */
        assert_memory_equal(a->data, b->data, a->bytes);
        shared++;
    }
    assert_int_equal(shared, 1 + 6 + 8 + 3 * 9 + 2);
    double mean;
    assert_true(std_of(c[0].llm, "model.layers.0.self_attn.q_proj.weight", &mean) > 0.4);
    assert_true(
        std_of(c[0].llm,
               "model.layers.0.mlp.deepspeed_moe.experts.deepspeed_experts.2.up_proj_lora_B.weight",
               &mean) == 0.0);
    for (int i = 0; i < 2; i++) um_checkpoint_close(&c[i]);
}

static void test_shards(void **state)
{
    (void)state;
    um_config whole = config_of("tiny", "", "whole"), parts = config_of("tiny", "", "parts");
    um_err err = {0};
    um_checkpoint a, b;
    FILE *to = tmpfile();
    init_ok(&whole);
    if (um_init_make(&parts, 150000, to, &err) != UM_OK) fail_msg("%s", err.msg);
    text_of(to);
    assert_true(um_file_exists(um_path_join(&arena, parts.out, "model.safetensors.index.json")));
    assert_true(
        um_file_exists(um_path_join(&arena, parts.out, "model-00001-of-00007.safetensors")));
    assert_false(um_file_exists(um_path_join(&arena, parts.out, "model.safetensors")));
    if (um_checkpoint_open(&b, parts.out, NULL, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_int_equal(um_checkpoint_open(&a, whole.out, NULL, &err), UM_OK);
    assert_int_equal(um_tensors_count(a.llm), um_tensors_count(b.llm));
    for (size_t i = 0; i < um_tensors_count(a.llm); i++) {
        const um_tensor *t = um_tensors_at(a.llm, i), *u = um_tensors_at(b.llm, i);
        assert_string_equal(t->name, u->name);
        assert_memory_equal(t->data, u->data, t->bytes);
    }
    um_checkpoint_close(&a);
    um_checkpoint_close(&b);
    says(inspect(parts.out, false, UM_OK), "0 missing");
}

/* The config of a golden model, its tower's beside it. */
static void test_from_config(void **state)
{
    (void)state;
    static const char *const models[] = {"s4i", "s8", "s8fm", "a4"};
    for (int i = 0; i < 4; i++) {
        um_err err = {0};
        um_config cfg =
            config_of("", um_arena_fmt(&arena, GOLDEN "%s/config.json", models[i]), models[i]);
        init_ok(&cfg);
        um_checkpoint made, golden;
        um_audit audit;
        if (um_checkpoint_open(&made, cfg.out, NULL, &err) != UM_OK) fail_msg("%s", err.msg);
        assert_int_equal(
            um_checkpoint_open(&golden, um_arena_fmt(&arena, GOLDEN "%s", models[i]), NULL, &err),
            UM_OK);
        assert_true(made.model.fingerprint == golden.model.fingerprint);
        assert_int_equal(um_audit_run(&made, &audit, NULL, NULL, &err), UM_OK);
        assert_int_equal(audit.missing + audit.misshapen + audit.unexpected + audit.ignored, 0);
        for (size_t k = 0; k < um_tensors_count(made.llm); k++) {
            assert_non_null(um_tensors_find(golden.llm, um_tensors_at(made.llm, k)->name));
        }
        um_checkpoint_close(&made);
        um_checkpoint_close(&golden);
    }
}

static void refused(const um_config *cfg, um_status want, const char *word)
{
    um_err err = {0};
    um_status st = init(cfg, &err);
    if (st != want) fail_msg("%s: status %d, %s", word, st, err.msg);
    has(&err, word);
}

static void test_refused(void **state)
{
    (void)state;
    um_config cfg = config_of("", "", "x");
    refused(&cfg, UM_E_USAGE, "say what to make: --preset NAME (unimoe init --help lists them)");
    cfg.out = ""; /* the first missing key is reported first */
    refused(&cfg, UM_E_USAGE, "--preset NAME");
    cfg = config_of("tiny", "tiny", "x");
    refused(&cfg, UM_E_USAGE, "--preset excludes --config");
    cfg = config_of("smal", "", "x");
    refused(&cfg, UM_E_USAGE,
            "no preset and no file is called smal (did you mean small?): presets, with their "
            "parameters, are tiny (");
    refused(&cfg, UM_E_USAGE, "speech-8e-7b (37.");
    cfg = config_of("tiny", "", "x");
    cfg.out = "";
    refused(&cfg, UM_E_USAGE, "--out DIR");
    folder_text(dir, "c.json",
                "{\"hidden_size\":64,\"intermediate_size\":64,\"num_hidden_layers\":1,\"num_"
                "attention_heads\":2,"
                "\"vocab_size\":259,\"moe\":null}");
    cfg = config_of("", at("c.json"), "refused");
    refused(&cfg, UM_E_MODEL, "vocab_size: 259, at least 260");
    refused(&cfg, UM_E_MODEL, "vocab_size: 259, at least 260"); /* the folder is free again */
    folder_text(dir, "d.json",
                "{\"hidden_size\":64,\"intermediate_size\":64,\"num_hidden_layers\":1,\"num_"
                "attention_heads\":2,"
                "\"vocab_size\":300,\"moe\":1,\"num_experts\":4}");
    cfg = config_of("", at("d.json"), "d");
    refused(&cfg, UM_E_MODEL, "moe_type: missing");
    folder_text(dir, "e.json", "{\"mm_vision_tower\":\"/data/video\"}");
    cfg = config_of("", at("e.json"), "e");
    refused(&cfg, UM_E_MODEL, "mm_vision_tower: \"/data/video\"");
    folder_text(dir, "f.json", "{\"mm_vision_tower\":\"no_tower\"}");
    cfg = config_of("", at("f.json"), "f");
    refused(&cfg, UM_E_MODEL, "no_tower/config.json");
    folder_text(dir, "g.json", "{");
    cfg = config_of("", at("g.json"), "g");
    refused(&cfg, UM_E_MODEL, "g.json: not JSON");
    folder_text(dir, "h.json",
                "{\"hidden_size\":4096,\"intermediate_size\":1048576,\"num_hidden_layers\":1024,"
                "\"num_attention_heads\":32,"
                "\"vocab_size\":300,\"moe\":1,\"moe_type\":\"dense\",\"num_experts\":64}");
    cfg = config_of("", at("h.json"), "h");
    refused(&cfg, UM_E_IO, "GB are free"); /* before a byte of weights */
    refused(&cfg, UM_E_IO, at("h")); /* which names the folder asked for, not the temporary one */
}

static int names_in(const char *path)
{
    int n = 0;
    DIR *d = opendir(path);
    assert_non_null(d);
    while (readdir(d) != NULL) n++;
    closedir(d);
    return n - 2; /* . and .. */
}

/* A run that fails leaves no folder and no parent that it made, and an existing folder as it was. */
static void test_leaves_nothing(void **state)
{
    (void)state;
    folder_text(dir, "bad.json", "{\"hidden_size\":0}");
    int before = names_in(dir);
    um_config cfg = config_of("", at("bad.json"), "deep/er/model");
    refused(&cfg, UM_E_MODEL, "deep/er/model/config.json: hidden_size: 0");
    cfg = config_of("", at("bad.json"), "model");
    refused(&cfg, UM_E_MODEL, "hidden_size: 0");
    cfg = config_of("tiny", "", "bad.json/model"); /* a file where a folder should be */
    refused(&cfg, UM_E_IO, "bad.json");
    assert_int_equal(names_in(dir), before);
    folder_text(dir, "notes/readme", "mine");
    cfg = config_of("", at("bad.json"), "notes");
    refused(&cfg, UM_E_MODEL, "notes/config.json: hidden_size: 0");
    assert_int_equal(names_in(at("notes")), 1);
    um_err err = {0};
    cfg = config_of("tiny", "", "notes/"); /* but a model is written beside other files */
    if (init(&cfg, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_true(um_file_exists(at("notes/readme")) && um_file_exists(at("notes/config.json")) &&
                um_file_exists(at("notes/vision_tower/model.safetensors")));
    cfg = config_of("tiny", "", "one/two/three");
    if (init(&cfg, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_int_equal(names_in(at("one/two")), 1);
    um_checkpoint c;
    if (um_checkpoint_open(&c, at("notes"), NULL, &err) != UM_OK) fail_msg("%s", err.msg);
    um_checkpoint_close(&c);
}

/* Files whose headers would be too long for any reader become several; here the names are long. */
static um_status no_data(void *ctx, size_t i, um_tensors_writer *w, um_err *err)
{
    (void)ctx;
    (void)i;
    return um_tensors_writer_add(w, "", 0, err);
}

static void test_long_headers(void **state)
{
    (void)state;
    enum { TENSORS = 30, LONG = 4000000 };
    um_tensor list[TENSORS];
    um_err err = {0};
    um_tensors *s = NULL;
    for (int i = 0; i < TENSORS; i++) {
        char *name = um_arena_alloc(&arena, LONG + 1);
        memset(name, 'a' + i % 26, LONG);
        name[LONG] = '\0';
        name[0] = (char)('A' + i);
        list[i] = (um_tensor){.name = name, .dtype = UM_F32, .rank = 1, .shape = {0}};
    }
    assert_int_equal(um_tensors_write(at("long.safetensors"), list, TENSORS, NULL, &err),
                     UM_E_LIMIT);
    has(&err, "long.safetensors: 30 tensors need a header of 12");
    assert_false(um_file_exists(at("long.safetensors")));
    assert_int_equal(um_file_mkdirs(at("long"), &err), UM_OK);
    if (um_shards_write(at("long"), list, TENSORS, 1 << 30, no_data, NULL, &err) != UM_OK)
        fail_msg("%s", err.msg);
    if (um_tensors_open(&s, at("long"), &err) != UM_OK) fail_msg("%.300s", err.msg);
    assert_int_equal(um_tensors_count(s), TENSORS);
    um_tensors_close(s);
}

/* --- vocabulary --- */

static uint64_t varint(const uint8_t **p)
{
    uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
        uint8_t b = *(*p)++;
        v |= (uint64_t)(b & 0x7F) << shift;
        if (b < 0x80) return v;
    }
}

/* A SentencePiece message: 1 = piece, 2 = score, 3 = type. */
static void piece_read(const uint8_t *p, const uint8_t *end, const char **piece, int *type)
{
    while (p < end) {
        uint64_t key = varint(&p);
        if (key == (1 << 3 | 2)) {
            size_t n = (size_t)varint(&p);
            *piece = um_arena_strn(&arena, (const char *)p, n);
            p += n;
        } else if (key == (2 << 3 | 5)) {
            p += 4;
        } else {
            assert_int_equal(key, 3 << 3);
            *type = (int)varint(&p);
        }
    }
    assert_ptr_equal(p, end);
}

static int text_cmp(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void vocabulary(int n)
{
    um_text t = {0};
    um_vocabulary_write(&t, n);
    const char **piece = um_arena_alloc(&arena, (size_t)n * sizeof *piece);
    int count = 0, types[8] = {0}, others = 0;
    const uint8_t *p = (const uint8_t *)t.s, *end = p + t.n;
    while (p < end) {
        uint64_t key = varint(&p);
        size_t size = (size_t)varint(&p);
        if (key == (1 << 3 | 2)) {
            int type = 0;
            assert_true(count < n);
            piece_read(p, p + size, &piece[count++], &type);
            types[type & 7]++;
        } else {
            others++;
        }
        p += size;
    }
    assert_ptr_equal(p, end);
    assert_int_equal(count, n);
    assert_int_equal(others, 2); /* trainer and normaliser */
    assert_true(types[2] == 1 && types[3] == 2 && types[6] == 256);
    assert_int_equal(types[1] + types[5], n - 259);
    assert_string_equal(piece[0], "<unk>");
    assert_string_equal(piece[258], "<0xFF>");
    assert_string_equal(piece[259], "\xE2\x96\x81");
    qsort(piece, (size_t)n, sizeof *piece, text_cmp);
    for (int i = 1; i < n; i++) assert_string_not_equal(piece[i], piece[i - 1]);
    um_text_free(&t);
}

static void test_vocabulary(void **state)
{
    (void)state;
    vocabulary(UM_VOCABULARY_MIN);
    vocabulary(300);
    vocabulary(400);
    vocabulary(4096);
    vocabulary(32000);
    vocabulary(60000); /* past all words: fillers */
}

/* --- inspect --- */

static void test_inspect(void **state)
{
    (void)state;
    const char *said = inspect(GOLDEN "s8", false, UM_OK);
    says(said, "variant     speech-8e");
    says(said, "experts     8, top-2, gshard gate, in 2 of 4 layers (0 2)");
    says(said, "lora        rank 4, alpha 8");
    says(said, "0 missing, 0 misshapen, 0 unexpected, 77 not needed");
    says(said, "speech      " GOLDEN "s8/audio_tower\n");
    says(said, "sound       none\n");
    said = inspect(GOLDEN "a4", false, UM_OK);
    says(said, "variant     audio-4e");
    says(said, "speech      none\n");
    says(said, "sound       " GOLDEN "a4/audio_tower\n");
    said = inspect(GOLDEN "s4", true, UM_OK);
    um_json *j = NULL;
    assert_int_equal(um_json_parse(&j, said, strlen(said), NULL), UM_OK);
    assert_string_equal(um_json_str(um_json_get(j, "variant"), ""), "speech-4e");
    assert_int_equal(um_json_int(um_json_get(j, "total_parameters"), 0), 322752);
    assert_int_equal(um_json_int(um_json_get(j, "active_parameters"), 0), 212160);
    assert_int_equal(um_json_size(um_json_get(j, "moe_layers")), 3);
    assert_int_equal(um_json_int(um_json_get(um_json_get(j, "vision"), "run_layers"), 0), 2);
    int64_t bytes = 0;
    const char *key;
    void *iter = NULL;
    for (const um_json *v; (v = um_json_next(um_json_get(j, "parts"), &iter, &key)) != NULL;) {
        bytes += um_json_int(um_json_get(v, "bytes"), 0);
    }
    assert_int_equal(bytes, 1496704 + 182752 + 303616); /* and the audio side */
    assert_string_equal(um_json_str(um_json_get(um_json_get(j, "speech"), "connector_names"), ""),
                        "model.mm_audio_aligner.");
    assert_int_equal(um_json_kind_of(um_json_get(j, "sound")), UM_JSON_NULL);
    um_json_free(j);
}

static void test_inspect_problems(void **state)
{
    (void)state;
    static const char *const copied[] = {"config.json", "generation_config.json"};
    um_err err = {0};
    um_tensors *s = NULL;
    assert_int_equal(um_tensors_open(&s, GOLDEN "s4", &err), UM_OK);
    size_t n = um_tensors_count(s);
    um_tensor *list = um_arena_alloc(&arena, n * sizeof *list);
    for (size_t i = 0; i < n; i++) list[i] = *um_tensors_at(s, i);
    for (int i = 0; i < 2; i++)
        folder_link(dir, um_arena_fmt(&arena, "bad/%s", copied[i]),
                    um_arena_fmt(&arena, GOLDEN "s4/%s", copied[i]));
    folder_link(dir, "bad/vision_tower", GOLDEN "s4/vision_tower");
    folder_link(dir, "bad/audio_tower", GOLDEN "s4/audio_tower");
    list[0].name = "extra";
    assert_string_equal(um_tensors_at(s, 0)->name, "lm_head.weight");
    assert_int_equal(um_tensors_write(at("bad/model.safetensors"), list, n, NULL, &err), UM_OK);
    const char *said = inspect(at("bad"), false, UM_E_MODEL);
    says(said, "\nmissing lm_head.weight [400,64]\n");
    says(said, "\nunexpected extra F32 [400,64]\n");
    said = inspect(at("bad"), true, UM_E_MODEL);
    um_json *j = NULL;
    assert_int_equal(um_json_parse(&j, said, strlen(said), NULL), UM_OK);
    assert_int_equal(um_json_size(um_json_get(j, "problems")), 2);
    um_json_free(j);
    um_tensors_close(s);
    inspect(at("nowhere"), false, UM_E_MODEL);
}

static um_status add_values(void *ctx, const um_spec *s, um_err *err)
{
    (void)err;
    int64_t n = 1;
    for (int i = 0; i < s->rank; i++) n *= s->shape[i];
    *(int64_t *)ctx += n;
    return UM_OK;
}

/* Presets are readable models of the size that they state. */
static void test_presets(void **state)
{
    (void)state;
    static const double total[] = {0.00023, 0.0131, 0.01154, 0.376, 0.947, 19.72, 13.23, 37.04};
    for (int i = 0; um_preset_at(i) != NULL; i++) {
        const um_preset *p = um_preset_at(i);
        um_text t = {0};
        um_model m;
        um_err err = {0};
        int64_t all, active;
        um_preset_config(&t, p, "float32");
        folder_text(dir, "p/config.json", t.s);
        um_text_free(&t);
        if (p->vision.dim > 0) {
            um_preset_tower(&t, p, "float32");
            folder_text(at("p"), "vision_tower/config.json", t.s);
            um_text_free(&t);
            um_preset_preprocessor(&t, p);
            folder_text(at("p"), "vision_tower/preprocessor_config.json", t.s);
            um_text_free(&t);
        }
        if (p->speech.dim > 0) {
            um_preset_speech_tower(&t, p, "float32");
            folder_text(at("p"), "speech_tower/config.json", t.s);
            um_text_free(&t);
            um_preset_speech_preprocessor(&t, p);
            folder_text(at("p"), "speech_tower/preprocessor_config.json", t.s);
            um_text_free(&t);
        }
        if (p->sound.dim > 0) {
            um_preset_sound_tower(&t, p, "float32");
            folder_text(at("p"), "sound_tower/config.json", t.s);
            um_text_free(&t);
        }
        if (um_model_read(&m, at("p"), NULL, &arena, &err) != UM_OK)
            fail_msg("%s: %s", p->name, err.msg);
        int64_t params = 0;
        assert_int_equal(um_model_for_each_tensor(&m, add_values, &params, &err), UM_OK);
        if (params != p->params)
            fail_msg("%s: %" PRId64 " parameters, the table says %" PRId64, p->name, params,
                     p->params);
        um_model_params(&m, &all, &active);
        if (fabs((double)all / 1e9 / total[i] - 1) > 0.02)
            fail_msg("%s: %.4f B", p->name, (double)all / 1e9);
        assert_true(um_preset_find(p->name) == p && m.vision.present == (p->vision.dim > 0));
        assert_true(m.speech.present == (p->speech.dim > 0) &&
                    m.sound.present == (p->sound.dim > 0));
        if (strstr(p->name, "-7b") != NULL) { /* named after the released variant */
            assert_memory_equal(p->name, m.variant, strlen(m.variant));
            assert_string_equal(p->name + strlen(m.variant), "-7b");
        }
    }
    assert_null(um_preset_find("none"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiny),         cmocka_unit_test(test_small),
        cmocka_unit_test(test_values),       cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_shards),       cmocka_unit_test(test_from_config),
        cmocka_unit_test(test_refused),      cmocka_unit_test(test_vocabulary),
        cmocka_unit_test(test_inspect),      cmocka_unit_test(test_inspect_problems),
        cmocka_unit_test(test_presets),      cmocka_unit_test(test_leaves_nothing),
        cmocka_unit_test(test_long_headers),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}
