/* Chooses the config.json of a release and writes the converted one: it names the tower folders and contains what the released
 * programs hard-code (placement of experts, sizes of the audio Q-Former). See convert_job.h. */
#include "launch/convert/convert_job.h"

#include "core/base/file.h"
#include "launch/model_dir/json_text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_MAX = 1 << 24 };

/* --- the source --- */

static bool has_slots(um_convert *cv)
{
    const char *dir = cv->cfg->tuned;
    if (dir[0] == '\0') return false;
    return um_file_exists(um_path_join(&cv->arena, dir, "0_mlp_experts.bin")) ||
           um_file_exists(um_path_join(&cv->arena, dir, "0_mlp_experts.safetensors"));
}

/* The config of a 4-expert model is in the tuned folder; that of an 8-expert model is 8config.json in the base folder (spec 7.4). */
static const char *config_choose(um_convert *cv, bool eight)
{
    const um_config *cfg = cv->cfg;
    if (cfg->config[0] != '\0') return cfg->config;
    const char *names[3];
    int n = 0;
    if (eight) names[n++] = um_path_join(&cv->arena, cfg->base, "8config.json");
    if (!eight && cfg->tuned[0] != '\0')
        names[n++] = um_path_join(&cv->arena, cfg->tuned, "config.json");
    names[n++] = um_path_join(&cv->arena, cfg->base, "config.json");
    for (int i = 0; i + 1 < n; i++) {
        if (um_file_exists(names[i])) return names[i];
    }
    return names[n - 1];
}

um_status um_convert_config_open(um_convert *cv, um_err *err)
{
    bool eight = cv->cfg->expert_files[0] != '\0' || has_slots(cv);
    cv->config_path = config_choose(cv, eight);
    if (um_json_load_loose(&cv->config, cv->config_path, CONFIG_MAX, err) != UM_OK)
        return um_wrap(err, UM_E_MODEL, "the model's config (--config names another)");
    if (um_json_kind_of(cv->config) != UM_JSON_OBJECT)
        return UM_FAIL(err, UM_E_MODEL, "%s: not a JSON object", cv->config_path);
    const char *type = um_json_str(um_json_get(cv->config, "model_type"), "");
    cv->gshard = strcmp(type, "llava_llama") == 0;
    if (eight && !cv->gshard)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: model_type: \"%.64s\", want \"llava_llama\" for a model of expert "
                       "files: name its 8config.json with --config",
                       cv->config_path, type);
    return UM_OK;
}

/* --- what the tensors show --- */

/* Reads the number between prefix and a dot; *rest is what follows the dot. */
static int number_behind(const char *name, const char *prefix, const char **rest)
{
    size_t n = strlen(prefix);
    char *end = NULL;
    if (strncmp(name, prefix, n) != 0 || name[n] < '0' || name[n] > '9') return -1;
    long v = strtol(name + n, &end, 10);
    if (*end != '.' || v > UM_MAX_LAYERS) return -1;
    *rest = end + 1;
    return (int)v;
}

/* moe[l] = 1 where layer l has a gate or experts of this model's kind. */
static void placement_find(const um_convert *cv, uint8_t *moe, int64_t layers)
{
    const um_folder *s = &cv->folder[UM_SET_LLM];
    for (size_t i = 0; i < s->n; i++) {
        const char *rest = "";
        int l = number_behind(s->claim[i].name, "model.layers.", &rest);
        if (l < 0 || l >= layers) continue;
        bool deep = strncmp(rest, "mlp.deepspeed_moe.", 18) == 0;
        bool mixtral =
            strcmp(rest, "mlp.gate.weight") == 0 || strncmp(rest, "mlp.experts.", 12) == 0;
        if (cv->gshard ? deep : mixtral) moe[l] = 1;
    }
}

static bool given(const um_json *config, const char *key)
{
    um_json_kind kind = um_json_kind_of(um_json_get(config, key));
    return kind != UM_JSON_NONE && kind != UM_JSON_NULL;
}

int64_t um_convert_stride(const uint8_t *moe, int64_t layers)
{
    int64_t stride = 1;
    if (!moe[0]) return 0;
    while (stride < layers && !moe[stride]) stride++;
    for (int64_t l = 0; l < layers; l++) {
        if (moe[l] != (l % stride == 0)) return 0;
    }
    return stride;
}

/* The released 4-expert variants define the placement only in their code (spec 4.2). */
static um_status edit_placement(um_convert *cv, um_edits *e, um_err *err)
{
    int64_t layers = um_json_int(um_json_get(cv->config, "num_hidden_layers"), 0);
    if (!given(cv->config, "moe") || given(cv->config, "moe_type") || layers < 1 ||
        layers > UM_MAX_LAYERS)
        return UM_OK; /* no experts, or already in the config; um_model_read checks the rest */
    uint8_t *moe = um_arena_zero(&cv->arena, (size_t)layers);
    placement_find(cv, moe, layers);
    int64_t stride = um_convert_stride(moe, layers);
    if (stride == 0)
        return UM_FAIL(err, UM_E_MODEL,
                       "the tensors have experts in a row of layers that moe_stride cannot "
                       "describe: layer 0 and every n-th must have them, and no other");
    um_edit(e, "moe_type", stride == 1 ? "\"dense\"" : "\"sparse\"");
    um_edit(e, "moe_stride", um_arena_fmt(&cv->arena, "%" PRId64, stride));
    const char *nth = um_arena_fmt(&cv->arena, "%" PRId64 ". ", stride);
    um_convert_note(cv,
                    "moe_type and moe_stride are written as the tensors show: every %slayer has "
                    "experts",
                    stride == 1 ? "" : nth);
    return UM_OK;
}

/* The gate's pre-projection is used only when both the config and the files have it (spec 4.4.3). */
static void edit_fm(um_convert *cv, um_edits *e)
{
    const um_folder *s = &cv->folder[UM_SET_LLM];
    if (!um_json_bool(um_json_get(cv->config, "use_fm_block"), false)) return;
    for (size_t i = 0; i < s->n; i++) {
        if (strstr(s->claim[i].name, ".deepspeed_moe.fm_") != NULL) return;
    }
    um_edit(e, "use_fm_block", "false");
    um_convert_note(cv, "use_fm_block is set to false: there is no fm_adapter");
}

/* --- the audio Q-Former --- */

static const char qformer[] = "model.mm_audio_aligner.qformer.qformer.encoder.layer.";

static const um_source_tensor *qformer_tensor(const um_convert *cv, int layer, const char *rest)
{
    char name[200];
    snprintf(name, sizeof name, "%s%d.%s", qformer, layer, rest);
    const um_claim *c = um_convert_find(cv, UM_SET_LLM, name);
    return c != NULL && c->t->rank == 2 ? c->t : NULL;
}

/* Sets a size that the tensors show, unless the config already has it. */
static void qformer_size(um_convert *cv, um_edits *e, const um_json *said, const char *key,
                         int64_t found)
{
    if (!given(said, key)) um_edit(e, key, um_arena_fmt(&cv->arena, "%" PRId64, found));
}

/* BLIP-2's Q-Former defines heads, norm eps and cross-attention spacing only in code: the defaults here are 12, 1e-12 and what the
 * layers show. */
static um_status edit_qformer(um_convert *cv, um_edits *edits, um_err *err)
{
    const um_source_tensor *query = qformer_tensor(cv, 0, "attention.attention.query.weight");
    const um_json *said = um_json_get(cv->config, "mm_audio_qformer");
    if (query == NULL) return UM_OK;
    const um_source_tensor *key = qformer_tensor(cv, 0, "crossattention.attention.key.weight");
    const um_source_tensor *ffn = qformer_tensor(cv, 0, "intermediate_query.dense.weight");
    if (key == NULL || ffn == NULL)
        return UM_FAIL(err, UM_E_MODEL, "the audio Q-Former's layer 0 is incomplete");
    int layers = 1, cross = 1;
    while (qformer_tensor(cv, layers, "attention.attention.query.weight") != NULL) layers++;
    while (cross < layers && !qformer_tensor(cv, cross, "crossattention.attention.key.weight"))
        cross++;
    if (!given(said, "num_attention_heads") && query->shape[0] % 12 != 0)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: mm_audio_qformer: num_attention_heads is missing, and the usual 12 do "
                       "not divide the hidden size %" PRId64,
                       cv->config_path, query->shape[0]);
    um_edits e = {0};
    um_text t = {0};
    qformer_size(cv, &e, said, "hidden_size", query->shape[1]);
    qformer_size(cv, &e, said, "num_hidden_layers", layers);
    qformer_size(cv, &e, said, "num_attention_heads", 12);
    qformer_size(cv, &e, said, "intermediate_size", ffn->shape[0]);
    qformer_size(cv, &e, said, "cross_attention_frequency", cross);
    qformer_size(cv, &e, said, "encoder_hidden_size", key->shape[1]);
    if (!given(said, "layer_norm_eps")) um_edit(&e, "layer_norm_eps", "1e-12");
    um_json_edited(&t, said, &e, 1);
    um_edit(edits, "mm_audio_qformer", um_arena_str(&cv->arena, t.s));
    um_text_free(&t);
    return UM_OK;
}

/* --- writing --- */

static void edit_towers(um_convert *cv, um_edits *e)
{
    for (int id = UM_SET_VISION; id < UM_SETS; id++) {
        if (cv->tower[id] == NULL) continue;
        um_edit(e, cv->key[id], um_arena_fmt(&cv->arena, "\"%s\"", cv->folder[id].name));
    }
}

um_status um_convert_config_save(um_convert *cv, um_edits *e, um_err *err)
{
    um_text t = {0};
    edit_towers(cv, e);
    if (strcmp(cv->cfg->weights, "f32") == 0) um_edit(e, "torch_dtype", "\"float32\"");
    if (strcmp(cv->cfg->weights, "bf16") == 0) um_edit(e, "torch_dtype", "\"bfloat16\"");
    um_json_edited(&t, cv->config, e, 0);
    um_text_add(&t, "\n", 1);
    um_status st = um_file_write(um_path_join(&cv->arena, cv->tmp, "config.json"), t.s, t.n, err);
    um_text_free(&t);
    return st;
}

um_status um_convert_config_write(um_convert *cv, um_err *err)
{
    um_edits e = {0};
    UM_TRY(edit_placement(cv, &e, err));
    UM_TRY(edit_qformer(cv, &e, err));
    if (cv->gshard) edit_fm(cv, &e);
    return um_convert_config_save(cv, &e, err);
}
