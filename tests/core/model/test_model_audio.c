/* core/model: the audio towers that configs may name and what their files may contain; the rest is refused with a helpful message. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/model/model.h"
#include "tests/support/edit.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define GOLDEN UM_TEST_DATA "/golden/models/"

/* --- configs made from pairs --- */

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

/* Whisper and BEATs, small. */
static const edit whisper_base[] = {
    {"model_type", "\"whisper\""},    {"d_model", "32"},         {"encoder_layers", "2"},
    {"encoder_attention_heads", "2"}, {"encoder_ffn_dim", "64"}, {"decoder_layers", "3"},
    {"decoder_attention_heads", "4"}, {"decoder_ffn_dim", "72"}, {"max_target_positions", "100"},
};
static const edit front_base[] = {{"feature_size", "80"}, {"chunk_length", "30"}};
static const edit beats_base[] = {
    {"model_type", "\"beats\""},
    {"encoder_layers", "3"},
    {"encoder_embed_dim", "48"},
    {"encoder_ffn_embed_dim", "80"},
    {"encoder_attention_heads", "4"},
    {"input_patch_size", "16"},
    {"embed_dim", "32"},
    {"relative_position_embedding", "true"},
    {"deep_norm", "true"},
};

/* Folders "speech" and "sound", with one key of each file changed where a change is given. */
static void audio_folders(const edit *whisper, const edit *front, const edit *beats)
{
    edit_config(dir, "speech/config.json", whisper_base, EDIT_COUNT(whisper_base), whisper,
                whisper != NULL);
    edit_config(dir, "speech/preprocessor_config.json", front_base, EDIT_COUNT(front_base), front,
                front != NULL);
    edit_config(dir, "sound/config.json", beats_base, EDIT_COUNT(beats_base), beats, beats != NULL);
}

static void test_audio(void **state)
{
    (void)state;
    um_model m;
    um_err err = {0};
    audio_folders(NULL, NULL, NULL);
    uint64_t none = read_ok(NULL, 0).fingerprint;
    m = read_ok((edit[]){{"mm_audio_tower", "\"speech\""}}, 1);
    const um_speech_model *s = &m.speech;
    assert_true(s->present && !m.sound.present && m.fingerprint != none);
    assert_string_equal(m.variant, "speech-4e");
    assert_string_equal(s->names.queries, "model.query_tokens");
    assert_true(s->dim == 32 && s->layers == 2 && s->ffn_dim == 64 && s->dec_heads == 4 &&
                s->dec_layers == 3 && s->dec_ffn_dim == 72 && s->dec_positions == 100);
    assert_true(s->mel_bins == 80 && s->positions == 1500 && s->rate == 16000 && s->n_fft == 400 &&
                s->hop == 160 && s->queries == 50 && !s->queries_given);
    m = read_ok(
        (edit[]){{"mm_audio_tower", "\"sound\""}, {"audio_projector_type", "\"mlp3x_gelu\""}}, 2);
    assert_true(m.sound.present && !m.speech.present && m.sound.proj == UM_PROJ_MLP &&
                m.sound.proj_layers == 3 && !m.sound.gated && m.sound.max_distance == 1280);
    assert_string_equal(m.sound.names.queries, "model.mm_audio_aligner.query_tokens");
    /* a config without model_type, and one behind other keys */
    audio_folders(&(edit){"model_type", NULL}, NULL, &(edit){"model_type", NULL});
    m = read_ok((edit[]){{"mm_speech_tower", "\"speech\""}, {"mm_audio_tower", "\"sound\""}}, 2);
    assert_true(m.speech.present && m.sound.present);
    assert_string_equal(m.variant, "unified");
    assert_string_equal(m.speech.names.prefix, "model.mm_speech_aligner.");
    assert_string_equal(m.sound.names.prefix, "model.mm_audio_aligner.");
    assert_int_equal(unlink(um_arena_fmt(&arena, "%s/speech/preprocessor_config.json", dir)), 0);
    m = read_ok((edit[]){{"mm_speech_tower", "\"speech\""}, {"query_tokens_size", "7"}}, 2);
    assert_true(m.speech.n_fft == 400 && m.speech.queries == 7 && !m.speech.queries_given);
    assert_string_equal(m.variant, "speech-4e");
    audio_folders(NULL, &(edit){"chunk_length", "10"}, NULL);
    assert_int_equal(read_with(&m, (edit[]){{"mm_audio_tower", "\"speech\""}}, 1, &err),
                     UM_E_MODEL);
    has(&err, "preprocessor_config.json: chunk_length 10 s x sampling_rate 16000 / hop_length 160, "
              "must be 2 x max_source_positions 1500");
    audio_folders(&(edit){"max_source_positions", "500"}, &(edit){"chunk_length", "10"}, NULL);
    m = read_ok((edit[]){{"mm_audio_tower", "\"speech\""}}, 1);
    assert_true(m.speech.positions == 500 && m.speech.window_seconds == 10);
    m = read_ok((edit[]){{"mm_audio_tower", "\"sound\""}}, 1);
    assert_int_equal(m.sound.window_seconds, 30);
    const uint64_t usual = m.fingerprint;
    audio_folders(NULL, NULL, &(edit){"window_seconds", "4"});
    m = read_ok((edit[]){{"mm_audio_tower", "\"sound\""}}, 1);
    assert_true(m.sound.window_seconds == 4 && m.fingerprint != usual);
    audio_folders(NULL, NULL, &(edit){"window_seconds", "0"});
    assert_int_equal(read_with(&m, (edit[]){{"mm_audio_tower", "\"sound\""}}, 1, &err), UM_E_MODEL);
    has(&err, "sound/config.json: window_seconds: 0");
}

/* Which folder is used for which kind, and the message when there is none. */
static void test_audio_places(void **state)
{
    (void)state;
    static const struct {
        edit change[3];
        um_towers towers;
        const char *says;
    } bad[] = {
        {{{"mm_audio_tower", "\"/data/whisper-small\""}},
         {0},
         "mm_audio_tower: \"/data/whisper-small\", no config.json is there: say where the tower is "
         "with --speech-tower DIR (BEATs with --sound-tower DIR)"},
        {{{"mm_audio_tower", "\"/data/BEATs_iter3\""}}, {0}, "with --sound-tower DIR (Whisper"},
        {{{"mm_speech_tower", "\"/data/x\""}},
         {0},
         "mm_speech_tower: \"/data/x\", no config.json is there: say where the tower is with "
         "--speech-tower DIR"},
        {{{"mm_sound_tower", "\"/data/x\""}}, {0}, "with --sound-tower DIR"},
        {{{"mm_sound_tower", "\"speech\""}},
         {0},
         "speech/config.json: a Whisper tower, wanted a BEATs"},
        {{{"mm_speech_tower", "\"sound\""}},
         {0},
         "sound/config.json: a BEATs tower, wanted a Whisper"},
        {{{"mm_speech_tower", "\"speech\""}, {"mm_audio_tower", "\"speech\""}},
         {0},
         "mm_audio_tower and mm_speech_tower both name a speech tower: drop one of them"},
        {{{"mm_sound_tower", "\"sound\""}, {"mm_audio_tower", "\"sound\""}},
         {0},
         "mm_audio_tower and mm_sound_tower both"},
        {{{"mm_audio_tower", "3"}}, {0}, "mm_audio_tower: 3, allowed a string"},
        {{{"mm_audio_tower", "\"speech\""}},
         {.speech = "nowhere"},
         "speech tower nowhere: no config.json is there"},
        {{{"mm_audio_tower", "\"speech\""}},
         {.sound = "nowhere"},
         "names no sound tower (mm_sound_tower, or mm_audio_tower of that kind), but --sound-tower "
         "is given"},
        {{{"moe", "true"}}, {.speech = "x"}, "names no speech tower"},
        {{{"mm_audio_tower", "\"speech\""}},
         {.speech = GOLDEN "a4/audio_tower"},
         "a BEATs tower, wanted"},
        {{{"mm_audio_tower", "\"tower\""}}, {0}, "neither a Whisper (\"whisper\") nor a BEATs"},
    };
    um_model m;
    um_err err = {0};
    audio_folders(NULL, NULL, NULL);
    folder_text(dir, "tower/config.json", "{\"hidden_size\": 32}");
    for (size_t i = 0; i < EDIT_COUNT(bad); i++) {
        edit_config(dir, "config.json", edit_text_model, EDIT_TEXT_MODEL, bad[i].change,
                    bad[i].change[1].key != NULL ? 2 : 1);
        um_status st = um_model_read(&m, dir, &bad[i].towers, &arena, &err);
        if (st != UM_E_MODEL) fail_msg("%s: status %d, %s", bad[i].says, st, err.msg);
        has(&err, bad[i].says);
    }
    /* a flag names a folder elsewhere and its kind */
    edit_config(dir, "config.json", edit_text_model, EDIT_TEXT_MODEL,
                (edit[]){{"mm_audio_tower", "\"/data/x\""}}, 1);
    um_towers towers = {.speech = GOLDEN "s4/audio_tower"};
    if (um_model_read(&m, dir, &towers, &arena, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_string_equal(m.speech.dir, towers.speech);
    assert_string_equal(m.speech.names.queries, "model.query_tokens");
    towers = (um_towers){.sound = GOLDEN "a4/audio_tower"};
    if (um_model_read(&m, dir, &towers, &arena, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_true(m.sound.present && !m.speech.present);
    edit_config(dir, "config.json", edit_text_model, EDIT_TEXT_MODEL,
                (edit[]){{"mm_audio_tower", "\"/data/x\""}, {"mm_speech_tower", "\"speech\""}}, 2);
    if (um_model_read(&m, dir, &towers, &arena, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_true(m.sound.present && m.speech.present);
    assert_string_equal(m.sound.names.prefix, "model.mm_audio_aligner.");
}

static void test_audio_refused(void **state)
{
    (void)state;
    static const struct {
        char where; /* l: config.json, w: Whisper's, p: its preprocessor_config.json, b: BEATs' */
        edit change;
        const char *says;
    } bad[] = {
        {'l', {"mm_audio_select_layer", "-1"}, "mm_audio_select_layer: -1, allowed 0"},
        {'l', {"mm_audio_hidden_size", "768"}, "mm_audio_hidden_size: 768, the tower in "},
        {'l', {"audio_projector_type", "\"mlp\""}, "audio_projector_type: \"mlp\", allowed"},
        {'l', {"query_tokens_size", "0"}, "query_tokens_size: 0"},
        {'l', {"mm_audio_qformer", "3"}, "mm_audio_qformer: allowed null or an object"},
        {'l', {"mm_audio_qformer", "{}"}, "hidden_size: missing"},
        {'l',
         {"mm_audio_qformer", "{\"hidden_size\":48,\"num_hidden_layers\":4,\"intermediate_size\":9,"
                              "\"encoder_hidden_size\":49}"},
         "encoder_hidden_size: 49, the tower in "},
        {'l',
         {"mm_audio_qformer", "{\"hidden_size\":48,\"num_hidden_layers\":4,\"intermediate_size\":9,"
                              "\"num_attention_heads\":5}"},
         "num_attention_heads: 5, must divide hidden_size 48"},
        {'w', {"d_model", NULL}, "d_model: missing"},
        {'w', {"d_model", "2097152"}, "d_model: 2097152, allowed 1..1048576"},
        {'w',
         {"encoder_attention_heads", "3"},
         "encoder_attention_heads: 3, must divide d_model 32"},
        {'w', {"decoder_attention_heads", "5"}, "decoder_attention_heads: 5, must divide d_model"},
        {'w', {"encoder_layers", "0"}, "encoder_layers: 0, allowed 1.."},
        {'w',
         {"activation_function", "\"relu\""},
         "activation_function: \"relu\", allowed \"gelu\""},
        {'w', {"scale_embedding", "true"}, "scale_embedding: true, allowed false"},
        {'w', {"num_mel_bins", "128"}, "feature_size: 80, the tower has num_mel_bins 128"},
        {'w', {"max_source_positions", "1499"}, "must be 2 x max_source_positions 1499"},
        {'w', {"max_source_positions", "100000"}, "max_source_positions: 100000, allowed"},
        {'p', {"sampling_rate", "8000"}, "sampling_rate: 8000, allowed 16000..16000"},
        {'p', {"n_fft", "401"}, "n_fft: 401, must be even"},
        {'p', {"hop_length", "161"}, "hop_length 161, must be 2 x"},
        {'p', {"padding_value", "0.5"}, "padding_value: 0.5"},
        {'p', {"do_normalize", "true"}, "do_normalize: true, allowed false"},
        {'b', {"encoder_embed_dim", "50"}, "must divide encoder_embed_dim 50"},
        {'b', {"conv_pos_groups", "5"}, "conv_pos_groups: 5, must divide encoder_embed_dim 48"},
        {'b', {"layer_norm_first", "true"}, "layer_norm_first: true, allowed false"},
        {'b', {"deep_norm", NULL}, "deep_norm: false, allowed true"},
        {'b', {"conv_bias", "true"}, "conv_bias: true, allowed false"},
        {'b',
         {"relative_position_embedding", "false"},
         "relative_position_embedding: false, allowed"},
        {'b', {"finetuned_model", "true"}, "finetuned_model: true, allowed false"},
        {'b', {"activation_fn", "\"relu\""}, "activation_fn: \"relu\", allowed \"gelu\""},
        {'b', {"num_buckets", "322"}, "num_buckets: 322, must be a multiple of 4"},
        {'b', {"max_distance", "80"}, "max_distance: 80, must be more than num_buckets / 4 = 80"},
        {'b', {"input_patch_size", "256"}, "input_patch_size: 256, allowed 1..128"},
        {'b', {"embed_dim", NULL}, "embed_dim: missing"},
    };
    for (size_t i = 0; i < EDIT_COUNT(bad); i++) {
        const edit *e = &bad[i].change;
        char w = bad[i].where;
        bool sound = w == 'b' || strcmp(e->key, "mm_audio_qformer") == 0;
        um_model m;
        um_err err = {0};
        audio_folders(w == 'w' ? e : NULL, w == 'p' ? e : NULL, w == 'b' ? e : NULL);
        edit llm[2] = {{"mm_audio_tower", sound ? "\"sound\"" : "\"speech\""}, *e};
        if (read_with(&m, llm, w == 'l' ? 2 : 1, &err) != UM_E_MODEL)
            fail_msg("taken: %s %s", e->key, e->value);
        has(&err, bad[i].says);
        has(&err, "config.json: ");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_audio),
        cmocka_unit_test(test_audio_places),
        cmocka_unit_test(test_audio_refused),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}
