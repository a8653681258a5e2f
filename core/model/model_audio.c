/* The audio parts of a model: which towers its config.json names, what the tower's own files say, and the keys of their connectors.
 * Sources: spec 2.4, 2.5, 3.2, 3.3, 7.3; defaults are those of transformers 4.31's WhisperConfig, WhisperFeatureExtractor,
 * Blip2QFormerConfig, and of BEATs' config class. */
#include "core/model/model_read.h"

#include "core/base/file.h"

#include <stdio.h>
#include <string.h>

typedef enum kind { SPEECH, SOUND, KINDS } kind;

static const char *const flag[KINDS] = {"--speech-tower", "--sound-tower"};
static const char *const own_key[KINDS] = {"mm_speech_tower", "mm_sound_tower"};
static const char *const kind_name[KINDS] = {"speech", "sound"};

enum {
    MAX_BINS = 4096, /* mel bins */
    MAX_FFT = 1 << 15,
    MAX_SECONDS = 3600, /* of one window */
};

/* The folder of a tower, from config.json and the flags. */
typedef struct place {
    const char *dir; /* NULL: the model does not have this tower */
    bool legacy;     /* named by mm_audio_tower: its connector has the original's names */
} place;

/* Limits the number of parameters. The sizes are already checked, so the product fits 64 bits. */
static void check_count(um_reader *r, const char *what, int64_t layers, int64_t dim, int64_t ffn)
{
    if (r->st == UM_OK && layers * (8 * dim * dim + 2 * dim * ffn) > UM_MAX_PARAMS)
        um_refuse(r, "the sizes of the %s make more than 2^50 parameters", what);
}

static void check_heads(um_reader *r, const char *key, int heads, const char *width, int dim)
{
    if (r->st == UM_OK && dim % heads != 0)
        um_refuse(r, "%s: %d, must divide %s %d", key, heads, width, dim);
}

static void check_gelu(um_reader *r, const char *key)
{
    const char *act = "gelu";
    um_take_str(r, key, &act);
    if (strcmp(act, "gelu") != 0) um_refuse(r, "%s: \"%.64s\", allowed \"gelu\"", key, act);
}

/* --- speech: Whisper --- */

static void whisper_sizes(um_speech_model *s, um_reader *r)
{
    s->mel_bins = 80;
    s->positions = 1500;
    s->dec_positions = 448;
    um_take_int(r, "d_model", true, 1, UM_MAX_WIDTH, &s->dim);
    um_take_int(r, "encoder_layers", true, 1, UM_MAX_LAYERS, &s->layers);
    um_take_int(r, "encoder_attention_heads", true, 1, UM_MAX_HEADS, &s->heads);
    um_take_int(r, "encoder_ffn_dim", true, 1, UM_MAX_WIDTH, &s->ffn_dim);
    s->dec_layers = s->layers;
    s->dec_ffn_dim = s->ffn_dim;
    um_take_int(r, "num_mel_bins", false, 1, MAX_BINS, &s->mel_bins);
    um_take_int(r, "max_source_positions", false, 1, UM_MAX_ROWS, &s->positions);
    um_take_int(r, "decoder_layers", false, 1, UM_MAX_LAYERS, &s->dec_layers);
    um_take_int(r, "decoder_attention_heads", true, 1, UM_MAX_HEADS, &s->dec_heads);
    um_take_int(r, "decoder_ffn_dim", false, 1, UM_MAX_WIDTH, &s->dec_ffn_dim);
    um_take_int(r, "max_target_positions", false, 1, UM_MAX_ROWS, &s->dec_positions);
    check_gelu(r, "activation_function");
    um_take_fixed(r, "scale_embedding", false, false, "rows are not scaled");
    check_heads(r, "encoder_attention_heads", s->heads, "d_model", s->dim);
    check_heads(r, "decoder_attention_heads", s->dec_heads, "d_model", s->dim);
    check_count(r, "encoder", s->layers, s->dim, s->ffn_dim);
    check_count(r, "decoder", s->dec_layers, s->dim, s->dec_ffn_dim);
}

/* A window must give exactly as many positions as the tower has; conv2 halves the number of frames. */
static void check_window(const um_speech_model *s, um_reader *r)
{
    if (r->st != UM_OK) return;
    int64_t samples = (int64_t)s->rate * s->window_seconds;
    if (samples % s->hop != 0 || samples / s->hop != 2 * (int64_t)s->positions) {
        um_refuse(r,
                  "chunk_length %d s x sampling_rate %d / hop_length %d, must be 2 x "
                  "max_source_positions %d of the tower",
                  s->window_seconds, s->rate, s->hop, s->positions);
    }
    if (s->n_fft % 2 != 0) um_refuse(r, "n_fft: %d, must be even", s->n_fft);
    if (s->n_fft / 2 >= samples)
        um_refuse(r, "n_fft: %d, too long for windows of %d s", s->n_fft, s->window_seconds);
}

/* Reads preprocessor_config.json; the library's defaults replace missing keys or a missing file. */
static um_status whisper_front(um_speech_model *s, um_arena *arena, um_err *err)
{
    um_json *root;
    um_reader r;
    const char *path = um_path_join(arena, s->dir, "preprocessor_config.json");
    um_status st = um_reader_open(&r, &root, path, true, arena, err);
    s->rate = 16000;
    s->n_fft = 400;
    s->hop = 160;
    s->window_seconds = 30;
    if (st == UM_OK && root != NULL) {
        int bins = 80;
        float padding = 0.0f, dither = 0.0f;
        um_take_int(&r, "sampling_rate", false, 16000, 16000, &s->rate);
        um_take_int(&r, "n_fft", false, 2, MAX_FFT, &s->n_fft);
        um_take_int(&r, "hop_length", false, 1, MAX_FFT, &s->hop);
        um_take_int(&r, "chunk_length", false, 1, MAX_SECONDS, &s->window_seconds);
        um_take_int(&r, "feature_size", false, 1, MAX_BINS, &bins);
        um_take_f32(&r, "padding_value", false, 0.0, 0.0, &padding);
        um_take_f32(&r, "dither", false, 0.0, 0.0, &dither);
        um_take_fixed(&r, "do_normalize", false, false, "waves are taken as they are");
        if (bins != s->mel_bins)
            um_refuse(&r, "feature_size: %d, the tower has num_mel_bins %d", bins, s->mel_bins);
    }
    check_window(s, &r);
    st = r.st;
    um_json_free(root);
    return st;
}

static um_status read_whisper(um_speech_model *s, um_reader *r)
{
    s->encoder_prefix = true;
    whisper_sizes(s, r);
    return r->st == UM_OK ? whisper_front(s, r->arena, r->err) : r->st;
}

/* --- sound: BEATs --- */

/* Switches of BEATs' code that would change the numbers; the released model has these values. */
static void beats_switches(um_reader *r)
{
    check_gelu(r, "activation_fn");
    um_take_fixed(r, "layer_norm_first", false, false, "layers are normalised behind (DeepNorm)");
    um_take_fixed(r, "deep_norm", false, true, "layers are normalised behind (DeepNorm)");
    um_take_fixed(r, "conv_bias", false, false, "the patch convolution has no bias");
    um_take_fixed(r, "relative_position_embedding", false, true, "attention has a relative bias");
    um_take_fixed(r, "finetuned_model", false, false, "features are wanted, not class scores");
}

static um_status read_beats(um_sound_model *s, um_reader *r)
{
    s->conv_pos = 128;
    s->conv_groups = 16;
    s->buckets = 320;
    s->max_distance = 1280;
    s->window_seconds = 30;
    um_take_int(r, "encoder_embed_dim", true, 1, UM_MAX_WIDTH, &s->dim);
    um_take_int(r, "encoder_layers", true, 1, UM_MAX_LAYERS, &s->layers);
    um_take_int(r, "encoder_attention_heads", true, 1, UM_MAX_HEADS, &s->heads);
    um_take_int(r, "encoder_ffn_embed_dim", true, 1, UM_MAX_WIDTH, &s->ffn_dim);
    um_take_int(r, "input_patch_size", true, 1, 128, &s->patch); /* 128: bins of the filter bank */
    um_take_int(r, "embed_dim", true, 1, UM_MAX_WIDTH, &s->patch_dim);
    um_take_int(r, "conv_pos", false, 1, 4096, &s->conv_pos);
    um_take_int(r, "conv_pos_groups", false, 1, UM_MAX_WIDTH, &s->conv_groups);
    um_take_int(r, "num_buckets", false, 4, UM_MAX_ROWS, &s->buckets);
    um_take_int(r, "max_distance", false, 1, UM_MAX_POSITIONS, &s->max_distance);
    um_take_bool(r, "gru_rel_pos", &s->gated);
    um_take_int(r, "window_seconds", false, 1, MAX_SECONDS, &s->window_seconds);
    beats_switches(r);
    check_heads(r, "encoder_attention_heads", s->heads, "encoder_embed_dim", s->dim);
    check_heads(r, "conv_pos_groups", s->conv_groups, "encoder_embed_dim", s->dim);
    check_count(r, "encoder", s->layers, s->dim, s->ffn_dim);
    if (r->st == UM_OK && s->buckets % 4 != 0)
        um_refuse(r, "num_buckets: %d, must be a multiple of 4", s->buckets);
    if (r->st == UM_OK && s->max_distance <= s->buckets / 4)
        um_refuse(r, "max_distance: %d, must be more than num_buckets / 4 = %d", s->max_distance,
                  s->buckets / 4);
    return r->st;
}

/* --- connectors --- */

/* Names of the connector's tensors; see um_aligner_names. */
static um_aligner_names names_of(kind k, bool legacy)
{
    um_aligner_names n = {0};
    snprintf(n.prefix, sizeof n.prefix, "model.mm_%s_aligner.", legacy ? "audio" : kind_name[k]);
    if (legacy && k == SPEECH)
        snprintf(n.queries, sizeof n.queries, "model.query_tokens");
    else
        snprintf(n.queries, sizeof n.queries, "%squery_tokens", n.prefix);
    return n;
}

/* The key belongs to mm_audio_tower. Towers named by modality may differ in it: for them only init uses it, and the tensors decide. */
static void read_queries(um_reader *r, bool legacy, int *queries, bool *given)
{
    *queries = 50; /* of all released models */
    *given = legacy && um_given(r, "query_tokens_size");
    um_take_int(r, "query_tokens_size", false, 1, UM_MAX_ROWS, queries);
}

/* Keys common to speech and sound. mm_audio_hidden_size is the width of the tower in mm_audio_tower. */
static void read_shared(um_reader *r, const char *dir, bool legacy, int dim)
{
    int select = 0, width = dim;
    um_take_int(r, "mm_audio_select_layer", false, -UM_MAX_LAYERS, UM_MAX_LAYERS, &select);
    if (select != 0) {
        um_refuse(r, "mm_audio_select_layer: %d, allowed 0 (the tower's last hidden state)",
                  select);
    }
    if (legacy) um_take_int(r, "mm_audio_hidden_size", false, 1, UM_MAX_WIDTH, &width);
    if (width != dim) {
        um_refuse(r, "mm_audio_hidden_size: %d, the tower in %s has %d", width, dir, dim);
    }
}

static void read_speech_connector(um_speech_model *s, um_reader *r, bool legacy)
{
    s->names = names_of(SPEECH, legacy);
    read_shared(r, s->dir, legacy, s->dim);
    read_queries(r, legacy, &s->queries, &s->queries_given);
    um_take_projector(r, "audio_projector_type", &s->proj, &s->proj_layers);
}

/* "mm_audio_qformer": null, or an object with values that tensors do not show (heads, eps) and sizes that they must match. */
static void read_qformer(um_sound_model *s, um_reader *r)
{
    s->q_dim = s->dim;
    s->q_layers = s->q_heads = 12;
    s->q_ffn_dim = 3072;
    s->q_cross = 2;
    s->q_eps = 1e-12f;
    s->qformer_given = um_given(r, "mm_audio_qformer");
    if (!s->qformer_given || r->st != UM_OK) return;
    um_reader in = *r;
    in.j = um_json_get(r->j, "mm_audio_qformer");
    if (um_json_kind_of(in.j) != UM_JSON_OBJECT)
        um_refuse(&in, "mm_audio_qformer: allowed null or an object");
    int from = s->dim;
    um_take_int(&in, "hidden_size", true, 1, UM_MAX_WIDTH, &s->q_dim);
    um_take_int(&in, "num_hidden_layers", true, 1, UM_MAX_LAYERS, &s->q_layers);
    um_take_int(&in, "num_attention_heads", false, 1, UM_MAX_HEADS, &s->q_heads);
    um_take_int(&in, "intermediate_size", true, 1, UM_MAX_WIDTH, &s->q_ffn_dim);
    um_take_int(&in, "cross_attention_frequency", false, 1, UM_MAX_LAYERS, &s->q_cross);
    um_take_int(&in, "encoder_hidden_size", false, 1, UM_MAX_WIDTH, &from);
    um_take_f32(&in, "layer_norm_eps", false, 0.0, 0.1, &s->q_eps);
    check_gelu(&in, "hidden_act");
    if (in.st == UM_OK && from != s->dim) {
        um_refuse(&in, "mm_audio_qformer: encoder_hidden_size: %d, the tower in %s has %d", from,
                  s->dir, s->dim);
    }
    check_heads(&in, "mm_audio_qformer: num_attention_heads", s->q_heads, "hidden_size", s->q_dim);
    check_count(&in, "Q-Former", s->q_layers, s->q_dim, s->q_ffn_dim);
    r->st = in.st;
}

static void read_sound_connector(um_sound_model *s, um_reader *r, bool legacy)
{
    s->names = names_of(SOUND, legacy);
    read_shared(r, s->dir, legacy, s->dim);
    read_queries(r, legacy, &s->queries, &s->queries_given);
    um_take_projector(r, "audio_projector_type", &s->proj, &s->proj_layers);
    read_qformer(s, r);
}

/* --- which tower is where --- */

static bool has_config(um_arena *arena, const char *dir)
{
    return um_file_exists(um_path_join(arena, dir, "config.json"));
}

/* Whisper or BEATs, according to the tower's config.json; KINDS when it is neither. */
static kind kind_of(const um_json *j)
{
    const char *type = um_json_str(um_json_get(j, "model_type"), "");
    if (strcmp(type, "whisper") == 0) return SPEECH;
    if (strcmp(type, "beats") == 0) return SOUND;
    if (type[0] != '\0') return KINDS;
    if (um_json_kind_of(um_json_get(j, "d_model")) != UM_JSON_NONE) return SPEECH;
    bool beats = um_json_kind_of(um_json_get(j, "encoder_embed_dim")) != UM_JSON_NONE;
    return beats || um_json_kind_of(um_json_get(j, "conv_pos")) != UM_JSON_NONE ? SOUND : KINDS;
}

static um_status kind_read(kind *out, const char *dir, um_arena *arena, um_err *err)
{
    um_json *root;
    um_reader r;
    um_status st =
        um_reader_open(&r, &root, um_path_join(arena, dir, "config.json"), false, arena, err);
    if (st == UM_OK && (*out = kind_of(r.j)) == KINDS) {
        um_refuse(&r,
                  "model_type: \"%.64s\", neither a Whisper (\"whisper\") nor a BEATs "
                  "(\"beats\") tower",
                  um_json_str(um_json_get(r.j, "model_type"), ""));
        st = r.st;
    }
    um_json_free(root);
    return st;
}

/* The modality of mm_audio_tower: what its folder says or, when the folder is missing, the one flag that can replace it. The original
 * has one audio tower per model, and the keys of a Q-Former only with BEATs. */
static um_status legacy_kind(kind *out, um_reader *llm, const char *dir, const char *name,
                             const char *const override[KINDS], const bool own[KINDS])
{
    const char *at = um_path_join(llm->arena, dir, name);
    if (has_config(llm->arena, at)) return llm->st = kind_read(out, at, llm->arena, llm->err);
    bool may[KINDS];
    for (int k = 0; k < KINDS; k++) may[k] = override[k][0] != '\0' && !own[k];
    kind likely =
        um_given(llm, "mm_audio_qformer") || strcasestr(name, "beats") != NULL ? SOUND : SPEECH;
    if (may[SPEECH] || may[SOUND]) {
        *out = may[SPEECH] && may[SOUND] ? likely : may[SOUND] ? SOUND : SPEECH;
        return UM_OK;
    }
    um_refuse(llm,
              "mm_audio_tower: \"%.300s\", no config.json is there: say where the tower is with "
              "%s DIR (%s with %s DIR)",
              name, flag[likely], likely == SPEECH ? "BEATs" : "Whisper", flag[1 - likely]);
    return llm->st;
}

/* Fills place[SPEECH] and place[SOUND] from the three keys and the two flags. */
static um_status places(place out[KINDS], um_reader *llm, const char *dir,
                        const char *const override[KINDS])
{
    const char *legacy = "", *name[KINDS] = {"", ""};
    um_take_str(llm, "mm_audio_tower", &legacy);
    for (int k = 0; k < KINDS; k++) um_take_str(llm, own_key[k], &name[k]);
    if (llm->st != UM_OK) return llm->st;
    bool own[KINDS] = {name[SPEECH][0] != '\0', name[SOUND][0] != '\0'};
    for (int k = 0; k < KINDS; k++)
        out[k] = (place){own[k] ? um_path_join(llm->arena, dir, name[k]) : NULL, false};
    if (legacy[0] != '\0') {
        kind k = SPEECH;
        UM_TRY(legacy_kind(&k, llm, dir, legacy, override, own));
        if (own[k]) {
            um_refuse(llm, "mm_audio_tower and %s both name a %s tower: drop one of them",
                      own_key[k], kind_name[k]);
            return llm->st;
        }
        out[k] = (place){um_path_join(llm->arena, dir, legacy), true};
        name[k] = legacy;
    }
    for (int k = 0; k < KINDS; k++) {
        if (override[k][0] != '\0' && out[k].dir == NULL) {
            um_refuse(llm,
                      "names no %s tower (%s, or mm_audio_tower of that kind), but %s is given",
                      kind_name[k], own_key[k], flag[k]);
        } else if (override[k][0] != '\0') {
            out[k].dir = um_arena_str(llm->arena, override[k]);
            if (!has_config(llm->arena, out[k].dir))
                return llm->st =
                           UM_FAIL(llm->err, UM_E_MODEL, "%s tower %s: no config.json is there",
                                   kind_name[k], out[k].dir);
        } else if (out[k].dir != NULL && !has_config(llm->arena, out[k].dir)) {
            um_refuse(llm,
                      "%s: \"%.300s\", no config.json is there: say where the tower is with "
                      "%s DIR",
                      own_key[k], name[k], flag[k]);
        }
    }
    return llm->st;
}

/* Reads the tower's own files, whichever model_type its config.json has. */
static um_status read_tower(um_speech_model *speech, um_sound_model *sound, kind k, um_reader *llm)
{
    um_json *root = NULL;
    um_reader r;
    const char *dir = k == SPEECH ? speech->dir : sound->dir;
    kind found = KINDS;
    UM_TRY(kind_read(&found, dir, llm->arena, llm->err));
    if (found != k) {
        return UM_FAIL(llm->err, UM_E_MODEL, "%s/config.json: a %s tower, wanted a %s tower", dir,
                       found == SPEECH ? "Whisper" : "BEATs", k == SPEECH ? "Whisper" : "BEATs");
    }
    um_status st = um_reader_open(&r, &root, um_path_join(llm->arena, dir, "config.json"), false,
                                  llm->arena, llm->err);
    if (st == UM_OK) st = k == SPEECH ? read_whisper(speech, &r) : read_beats(sound, &r);
    um_json_free(root);
    return st;
}

static const char *or_empty(const char *s) { return s == NULL ? "" : s; }

um_status um_model_read_audio(um_speech_model *speech, um_sound_model *sound, um_reader *llm,
                              const char *dir, const um_towers *towers)
{
    const char *const override[KINDS] = {or_empty(towers->speech), or_empty(towers->sound)};
    place at[KINDS];
    UM_TRY(places(at, llm, dir, override));
    *speech = (um_speech_model){.present = at[SPEECH].dir != NULL, .dir = at[SPEECH].dir};
    *sound = (um_sound_model){.present = at[SOUND].dir != NULL, .dir = at[SOUND].dir};
    if (speech->present) {
        llm->st = read_tower(speech, sound, SPEECH, llm);
        if (llm->st == UM_OK) read_speech_connector(speech, llm, at[SPEECH].legacy);
    }
    if (sound->present && llm->st == UM_OK) {
        llm->st = read_tower(speech, sound, SOUND, llm);
        if (llm->st == UM_OK) read_sound_connector(sound, llm, at[SOUND].legacy);
    }
    return llm->st;
}
