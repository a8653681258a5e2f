/* Exports a model directory under the names that transformers uses: the language model as LlamaForCausalLM or MixtralForCausalLM,
 * the vision tower as CLIPVisionModel, the speech tower with the aligner's decoder as WhisperModel. Both gates of spec 4.4 weigh
 * their two experts as Mixtral's does. Tensors that belong to none of these classes go to connectors/. See convert_job.h. */
#include "launch/convert/convert_job.h"

#include "core/base/file.h"
#include "core/base/text.h"
#include "launch/model_dir/copy.h"
#include "launch/model_dir/json_text.h"

#include <inttypes.h>
#include <string.h>

enum { CONFIG_MAX = 1 << 24 };

static void claim(um_convert *cv, int id, const char *name, um_source_tensor *t)
{
    um_convert_claim(cv, id, um_arena_str(&cv->arena, name), t, UM_STAGE_BASE);
    um_claim *c = &cv->folder[id].claim[cv->folder[id].n - 1];
    c->wanted = true;
    t->used = id == UM_SET_LLM ? c->name
                               : um_arena_fmt(&cv->arena, "%s/%s", cv->folder[id].name, c->name);
}

/* --- the language model --- */

typedef struct walk {
    um_convert *cv;
    const um_source_list *llm;
} walk;

/* Mixtral's name for a tensor of a MoE layer; other tensors keep their own. */
static const char *mixtral_name(um_arena *arena, const um_spec *s)
{
    const char *leaf = s->at.slot == UM_SLOT_GATE_PROJ ? "w1"
                       : s->at.slot == UM_SLOT_UP_PROJ ? "w3"
                                                       : "w2";
    if (s->at.part == UM_PART_GATE)
        return um_arena_fmt(arena, "model.layers.%d.block_sparse_moe.gate.weight", s->at.layer);
    if (s->at.part == UM_PART_EXPERT)
        return um_arena_fmt(arena, "model.layers.%d.block_sparse_moe.experts.%d.%s.weight",
                            s->at.layer, s->at.index, leaf);
    return s->name;
}

/* A factor of the LoRA that is built into a layer, t NULL when it is absent. The model's list has both right after their weight, into which
 * they are merged. */
static um_status claim_lora(walk *w, const um_spec *s, um_source_tensor *t, um_err *err)
{
    um_folder *f = &w->cv->folder[UM_SET_LLM];
    um_claim *c = &f->claim[f->n - 1];
    if (s->leaf == UM_LEAF_LORA_A) {
        c->a = t;
        return UM_OK;
    }
    if ((c->a == NULL) != (t == NULL))
        return UM_FAIL(err, UM_E_MODEL, "%s: the LoRA of %s has lora_%c but no lora_%c",
                       w->cv->cfg->model, c->name, t == NULL ? 'A' : 'B', t == NULL ? 'B' : 'A');
    c->b = t;
    if (t != NULL) c->a->used = t->used = um_arena_fmt(&w->cv->arena, "merged into %s", c->name);
    return UM_OK;
}

static um_status claim_llm(void *ctx, const um_spec *s, um_err *err)
{
    walk *w = ctx;
    um_source_tensor *t = um_source_get(w->llm, s->name);
    if (s->leaf == UM_LEAF_LORA_A || s->leaf == UM_LEAF_LORA_B) return claim_lora(w, s, t, err);
    if (t == NULL && s->optional) return UM_OK;
    if (t == NULL)
        return UM_FAIL(err, UM_E_MODEL, "tensor %s: missing in %s", s->name, w->cv->cfg->model);
    claim(w->cv, UM_SET_LLM, mixtral_name(&w->cv->arena, s), t);
    return UM_OK;
}

static const char *dtype_word(const um_convert *cv, const um_source_list *llm)
{
    const um_place embed = um_place_of(UM_PART_BACKBONE, UM_SLOT_EMBED, -1, -1);
    char name[200] = "";
    (void)um_model_tensor_name(&cv->model, embed, UM_LEAF_WEIGHT, name);
    const um_source_tensor *t = um_source_get(llm, name);
    um_dtype dtype = t == NULL ? UM_F32 : t->dtype;
    if (strcmp(cv->cfg->weights, "auto") != 0)
        dtype = strcmp(cv->cfg->weights, "bf16") == 0 ? UM_BF16 : UM_F32;
    return dtype == UM_BF16 ? "bfloat16" : dtype == UM_F16 ? "float16" : "float32";
}

/* "2", "[2,7]" or "null" */
static const char *eos_text(const um_model *m, um_arena *arena)
{
    const char *s = "";
    if (m->n_eos == 0) return "null";
    if (m->n_eos == 1) return um_arena_fmt(arena, "%d", m->eos[0]);
    for (int i = 0; i < m->n_eos; i++)
        s = um_arena_fmt(arena, "%s%s%d", s, i > 0 ? "," : "[", m->eos[i]);
    return um_arena_fmt(arena, "%s]", s);
}

static um_status llm_config(um_convert *cv, const um_source_list *llm, um_err *err)
{
    const um_model *m = &cv->model;
    bool moe = m->experts > 0;
    um_text t = {0};
    um_text_fmt(&t, "{\n \"architectures\": [\"%s\"],\n \"model_type\": \"%s\",\n",
                moe ? "MixtralForCausalLM" : "LlamaForCausalLM", moe ? "mixtral" : "llama");
    um_text_fmt(&t,
                " \"vocab_size\": %d,\n \"hidden_size\": %d,\n \"intermediate_size\": %d,\n"
                " \"num_hidden_layers\": %d,\n \"num_attention_heads\": %d,\n"
                " \"num_key_value_heads\": %d,\n \"head_dim\": %d,\n"
                " \"max_position_embeddings\": %d,\n",
                m->vocab, m->dim, moe ? m->expert_dim : m->ffn_dim, m->layers, m->heads,
                m->kv_heads, m->head_dim, m->max_positions);
    um_text_fmt(&t, " \"hidden_act\": \"silu\",\n \"rms_norm_eps\": ");
    um_json_real(&t, (double)m->rms_eps);
    um_text_fmt(&t, ",\n \"rope_theta\": ");
    um_json_real(&t, (double)m->rope_theta);
    if (m->rope_factor != 1.0f) {
        um_text_fmt(&t, ",\n \"rope_scaling\": {\"type\": \"linear\", \"factor\": ");
        um_json_real(&t, (double)m->rope_factor);
        um_text_add(&t, "}", 1);
    }
    if (moe)
        um_text_fmt(&t,
                    ",\n \"num_local_experts\": %d,\n \"num_experts_per_tok\": %d,\n"
                    " \"sliding_window\": null",
                    m->experts, m->top_k);
    um_text_fmt(&t,
                ",\n \"bos_token_id\": %d,\n \"eos_token_id\": %s,\n \"pad_token_id\": %d,\n"
                " \"tie_word_embeddings\": %s,\n \"torch_dtype\": \"%s\"\n}\n",
                m->bos, eos_text(m, &cv->arena), m->pad, m->tied ? "true" : "false",
                dtype_word(cv, llm));
    um_status st = um_file_write(um_path_join(&cv->arena, cv->tmp, "config.json"), t.s, t.n, err);
    um_text_free(&t);
    return st;
}

static um_status llm_take(um_convert *cv, const um_source_list *llm, um_err *err)
{
    walk w = {cv, llm};
    if (cv->model.experts > 0 && cv->model.gate == UM_GATE_DYNAMIC)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: no class of transformers has a gate that takes as many experts as a "
                       "token needs",
                       cv->config_path);
    if (cv->model.fm_block)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: use_fm_block: no class of transformers has a gate with a "
                       "pre-projection for each modality",
                       cv->config_path);
    if (cv->model.lora_r > 0)
        cv->adapter.scale = (double)cv->model.lora_alpha / (double)cv->model.lora_r;
    if (cv->model.experts > 0 && cv->model.moe_layers < cv->model.layers)
        um_convert_note(cv,
                        "MixtralForCausalLM has experts in every layer, this model in %d of %d: "
                        "the names are Mixtral's, but transformers cannot load it",
                        cv->model.moe_layers, cv->model.layers);
    const um_selection llm_parts = {.parts = 1u << UM_PART_BACKBONE | 1u << UM_PART_GATE |
                                             1u << UM_PART_EXPERT};
    UM_TRY(um_model_for_each_selected(&cv->model, &llm_parts, claim_llm, &w, err));
    return llm_config(cv, llm, err);
}

/* --- towers --- */

/* Writes a tower's config with its class; the config of a complete CLIP model contains the vision part as vision_config. */
static um_status class_config(um_convert *cv, const char *from, const char *folder, um_edits *e,
                              um_err *err)
{
    um_json *root = NULL;
    um_text t = {0};
    UM_TRY(
        um_json_load_loose(&root, um_path_join(&cv->arena, from, "config.json"), CONFIG_MAX, err));
    const um_json *inner = um_json_get(root, "vision_config");
    const char *to = um_path_join(&cv->arena, cv->tmp, folder);
    um_json_edited(&t, um_json_kind_of(inner) == UM_JSON_OBJECT ? inner : root, e, 0);
    um_text_add(&t, "\n", 1);
    um_status st = um_file_mkdirs(to, err);
    if (st == UM_OK) st = um_file_write(um_path_join(&cv->arena, to, "config.json"), t.s, t.n, err);
    um_text_free(&t);
    um_json_free(root);
    const char *small = um_path_join(&cv->arena, from, "preprocessor_config.json");
    if (st != UM_OK || !um_file_exists(small)) return st;
    return um_convert_copy(cv, small,
                           um_arena_fmt(&cv->arena, "%s/preprocessor_config.json", folder), err);
}

static um_status tower_open(um_convert *cv, const um_source_list **out, const char *dir,
                            um_err *err)
{
    UM_TRY(um_source_find(&cv->src, out, dir, NULL, err));
    return *out != NULL ? UM_OK : UM_FAIL(err, UM_E_MODEL, "%s: no weights are there", dir);
}

static um_status vision_take(um_convert *cv, um_err *err)
{
    const um_source_list *list;
    um_edits e = {0};
    UM_TRY(tower_open(cv, &list, cv->model.vision.dir, err));
    for (size_t i = 0; i < list->n; i++) {
        if (um_starts_with(list->item[i].name, "vision_model."))
            claim(cv, UM_SET_VISION, list->item[i].name, &list->item[i]);
        else
            list->item[i].unused = "the text half of CLIP";
    }
    um_edit(&e, "architectures", "[\"CLIPVisionModel\"]");
    um_edit(&e, "model_type", "\"clip_vision_model\"");
    return class_config(cv, cv->model.vision.dir, "vision_tower", &e, err);
}

/* The part of a name after the prefix of the speech aligner's decoder; NULL for other names. */
static const char *decoder_rest(const um_convert *cv, const char *name)
{
    static const char decoder[] = "decoder.audio_decoder.";
    const char *prefix = cv->model.speech.names.prefix;
    if (!um_starts_with(name, prefix)) return NULL;
    name += strlen(prefix);
    return um_starts_with(name, decoder) ? name + sizeof decoder - 1 : NULL;
}

/* Claims the aligner's decoder in place of the one that the tower's file may contain. */
static um_status decoder_take(um_convert *cv, const um_source_list *llm,
                              const um_source_list *tower, int *layers, um_err *err)
{
    static const char *const pieces[] = {"model.decoder.embed_tokens.weight",
                                         "decoder.embed_tokens.weight"};
    bool has_pieces = false;
    *layers = 0;
    for (size_t i = 0; i < llm->n; i++) {
        const char *rest = decoder_rest(cv, llm->item[i].name);
        if (rest == NULL) continue;
        has_pieces = has_pieces || strcmp(rest, "embed_tokens.weight") == 0;
        *layers += strstr(rest, ".fc1.weight") != NULL;
        claim(cv, UM_SET_SPEECH, um_arena_fmt(&cv->arena, "decoder.%s", rest), &llm->item[i]);
    }
    for (int i = 0; i < 2 && !has_pieces; i++) {
        um_source_tensor *t = um_source_get(tower, pieces[i]);
        if (t == NULL) continue;
        claim(cv, UM_SET_SPEECH, "decoder.embed_tokens.weight", t);
        has_pieces = true;
    }
    if (!has_pieces)
        um_convert_note(cv, "no file has the speech decoder's table of word pieces, which nothing "
                            "here uses: WhisperModel starts with a random one");
    if (*layers > 0) return UM_OK;
    return UM_FAIL(err, UM_E_MODEL, "%s: the speech aligner's decoder is incomplete",
                   cv->cfg->model);
}

static um_status speech_take(um_convert *cv, const um_source_list *llm, um_err *err)
{
    const um_source_list *list;
    um_edits e = {0};
    int layers = 0;
    UM_TRY(tower_open(cv, &list, cv->model.speech.dir, err));
    for (size_t i = 0; i < list->n; i++) {
        const char *name = list->item[i].name;
        if (um_starts_with(name, "model.")) name += strlen("model.");
        if (um_starts_with(name, "encoder."))
            claim(cv, UM_SET_SPEECH, name, &list->item[i]);
        else
            list->item[i].unused = "the aligner's decoder is taken";
    }
    UM_TRY(decoder_take(cv, llm, list, &layers, err));
    um_edit(&e, "architectures", "[\"WhisperModel\"]");
    um_edit(&e, "model_type", "\"whisper\"");
    um_edit(&e, "decoder_layers", um_arena_fmt(&cv->arena, "%d", layers));
    return class_config(cv, cv->model.speech.dir, "speech_tower", &e, err);
}

/* --- the export --- */

static bool is_connector(const char *name)
{
    return um_starts_with(name, "model.mm_") || strcmp(name, "model.query_tokens") == 0;
}

static void rest_take(um_convert *cv, const um_source_list *llm)
{
    for (size_t i = 0; i < llm->n; i++) {
        um_source_tensor *t = &llm->item[i];
        if (t->used != NULL) continue;
        if (is_connector(t->name))
            claim(cv, UM_FOLDER_REST, t->name, t);
        else
            t->unused = "the model does not use it";
    }
}

um_status um_convert_to_hf(um_convert *cv, um_err *err)
{
    const um_source_list *llm;
    const char *dir = cv->cfg->model;
    cv->config_path = um_path_join(&cv->arena, dir, "config.json");
    cv->folder[UM_SET_VISION].name = "vision_tower";
    cv->folder[UM_SET_SPEECH].name = "speech_tower";
    cv->folder[UM_FOLDER_REST].name = "connectors";
    UM_TRY(tower_open(cv, &llm, dir, err));
    UM_TRY(llm_take(cv, llm, err));
    if (cv->model.vision.present) UM_TRY(vision_take(cv, err));
    if (cv->model.speech.present) UM_TRY(speech_take(cv, llm, err));
    if (cv->model.sound.present)
        um_convert_note(cv, "transformers has no BEATs: the sound tower stays in %s",
                        cv->model.sound.dir);
    rest_take(cv, llm);
    um_convert_resolve(cv);
    if (cv->cfg->dry_run) return UM_OK;
    if (cv->folder[UM_FOLDER_REST].n > 0)
        UM_TRY(um_file_mkdirs(um_path_join(&cv->arena, cv->tmp, "connectors"), err));
    UM_TRY(um_convert_weights(cv, err));
    return um_copy_model_files(cv->tmp, dir, "", &cv->arena, err);
}
