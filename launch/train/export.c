/* See export.h. */
#include "launch/train/export.h"

#include "core/base/file.h"
#include "core/nn/checkpoint.h"
#include "core/train/saved.h"
#include "core/train/select.h"
#include "launch/model_dir/copy.h"
#include "launch/model_dir/interrupt.h"
#include "launch/model_dir/json_text.h"
#include "launch/model_dir/peft.h"
#include "launch/model_dir/shards.h"
#include "launch/model_dir/staging.h"
#include "launch/model_dir/tree.h"
#include "launch/train/export_adapter.h"

#include <stdio.h>
#include <string.h>

static const int64_t shard_bytes = INT64_C(5) << 30;

/* One folder of weights that is being written. */
typedef struct job {
    const um_saved *saved;
    const um_tensors *from;
    um_tensor *list; /* [n] */
    size_t n;
    float scale; /* of adapters */
    um_arena scratch;
} job;

/* The adapter beside X.weight, or false. */
static bool adapter_of(const um_saved *saved, const char *name, const um_tensor **a,
                       const um_tensor **b)
{
    char lora[256];
    const size_t n = strlen(name), end = strlen(".weight");
    if (n <= end || strcmp(name + n - end, ".weight") != 0) return false;
    snprintf(lora, sizeof lora, "%.*s.lora_A.weight", (int)(n - end), name);
    *a = um_saved_tensor(saved, "master.", lora);
    snprintf(lora, sizeof lora, "%.*s.lora_B.weight", (int)(n - end), name);
    *b = um_saved_tensor(saved, "master.", lora);
    return *a != NULL && *b != NULL;
}

/* w[N,K] += scale B[N,r] A[r,K] */
static void merge(float *w, const um_tensor *a, const um_tensor *b, float scale, um_arena *scratch)
{
    const size_t r = (size_t)a->shape[0], K = um_tensor_values(a) / r, N = (size_t)b->shape[0];
    float *fa = um_arena_f32(scratch, r, K), *fb = um_arena_f32(scratch, N, r),
          *sum = um_arena_f32(scratch, 1, K);
    um_tensor_to_f32(fa, a);
    um_tensor_to_f32(fb, b);
    for (size_t i = 0; i < N; i++) um_peft_merge_row(w + i * K, sum, fa, fb + i * r, r, K, scale);
}

/* An um_shards_fn. */
static um_status write_one(void *ctx, size_t i, um_tensors_writer *w, um_err *err)
{
    job *j = ctx;
    const um_tensor *to = &j->list[i], *was = um_tensors_find(j->from, to->name), *a, *b;
    const um_tensor *master = um_saved_tensor(j->saved, "master.", to->name);
    const bool adapted = adapter_of(j->saved, to->name, &a, &b);
    UM_TRY(um_interrupt_check(err));
    if (master == NULL && !adapted) return um_tensors_writer_add(w, was->data, was->bytes, err);
    um_mark mark = um_arena_mark(&j->scratch);
    const size_t n = um_tensor_values(to);
    float *values = um_arena_f32(&j->scratch, 1, n);
    um_tensor_to_f32(values, master != NULL ? master : was);
    if (adapted) merge(values, a, b, j->scale, &j->scratch);
    uint8_t *bytes = um_arena_alloc(&j->scratch, to->bytes);
    um_from_f32(bytes, to->dtype, values, n);
    um_status st = um_tensors_writer_add(w, bytes, to->bytes, err);
    um_arena_reset(&j->scratch, mark);
    return st;
}

/* A bias of a gate that the training has begun, which the model did not have (--balance-bias). */
static bool begun_bias(const um_saved *saved, const um_model *m, int layer, um_tensor *out,
                       um_arena *arena)
{
    um_model with = *m;
    char name[200];
    with.expert_bias = true;
    if (m->expert_bias || !m->moe_layer[layer] ||
        !um_model_tensor_name(&with, um_place_of(UM_PART_GATE, UM_SLOT_GATE_BIAS, layer, -1),
                              UM_LEAF_WEIGHT, name))
        return false;
    const um_tensor *t = um_saved_tensor(saved, "master.", name);
    if (t == NULL) return false;
    *out = *t;
    out->name = um_arena_str(arena, name);
    return true;
}

static bool any_begun(const um_saved *saved, const um_model *m, um_arena *arena)
{
    um_tensor bias;
    for (int l = 0; l < m->layers; l++)
        if (begun_bias(saved, m, l, &bias, arena)) return true;
    return false;
}

/* m: the model whose own tensors they are, of which training may have begun some; NULL: a tower. */
static um_status write_weights(const um_saved *saved, const um_tensors *from, const um_model *m,
                               const char *folder, float scale, um_err *err)
{
    job j = {.saved = saved, .from = from, .n = um_tensors_count(from), .scale = scale};
    const int layers = m == NULL ? 0 : m->layers;
    um_arena_init(&j.scratch, "export", 1 << 20);
    j.list = um_arena_alloc(&j.scratch, (j.n + (size_t)layers + 1) * sizeof *j.list);
    for (size_t i = 0; i < j.n; i++) j.list[i] = *um_tensors_at(from, i);
    for (int l = 0; l < layers; l++)
        if (begun_bias(saved, m, l, &j.list[j.n], &j.scratch)) j.n++;
    um_status st = um_shards_write(folder, j.list, j.n, shard_bytes, write_one, &j, err);
    um_arena_free(&j.scratch);
    return st;
}

/* Whether a training makes an expert: stage 2 of a dense model. */
static bool makes_expert(const um_config *cfg, const um_model *m)
{
    return strcmp(cfg->stage, "2") == 0 && m->experts == 0;
}

/* folder/UM_EXPERT_STEM.safetensors: the MLPs of all layers, as write_weights writes them. */
static um_status write_expert(const um_saved *saved, const um_checkpoint *c, const char *folder,
                              float scale, um_err *err)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    job j = {.saved = saved, .from = c->llm, .scale = scale};
    um_tensors_writer *w = NULL;
    um_arena_init(&j.scratch, "expert file", 1 << 20);
    j.list = um_arena_alloc(&j.scratch, um_tensors_count(c->llm) * sizeof *j.list);
    for (size_t i = 0; i < um_tensors_count(c->llm); i++) {
        const um_tensor *t = um_tensors_at(c->llm, i);
        if (um_name_parse(t->name).is == UM_NAME_DENSE) j.list[j.n++] = *t;
    }
    um_status st =
        um_tensors_writer_open(&w, um_path_join(&j.scratch, folder, UM_EXPERT_STEM ".safetensors"),
                               j.list, j.n, metadata, err);
    for (size_t i = 0; i < j.n && st == UM_OK; i++) st = write_one(&j, i, w, err);
    if (st == UM_OK) st = um_tensors_writer_finish(w, err);
    um_tensors_writer_close(w);
    um_arena_free(&j.scratch);
    return st;
}

typedef struct tower {
    um_set set;
    bool present;
    const char *dir, *folder, *key, *other; /* key: of config.json; other: where there is no key */
} tower;

static um_status write_towers(const um_saved *saved, const um_checkpoint *c, const char *tmp,
                              um_edits *edits, float scale, const um_json *config, um_arena *arena,
                              um_err *err)
{
    const um_model *m = &c->model;
    const tower towers[] = {
        {UM_SET_VISION, m->vision.present, m->vision.dir, "vision_tower", "mm_vision_tower", NULL},
        {UM_SET_SPEECH, m->speech.present, m->speech.dir, "speech_tower", "mm_speech_tower",
         "mm_audio_tower"},
        {UM_SET_SOUND, m->sound.present, m->sound.dir, "sound_tower", "mm_sound_tower",
         "mm_audio_tower"}};
    for (size_t i = 0; i < sizeof towers / sizeof *towers; i++) {
        const tower *t = &towers[i];
        if (!t->present) continue;
        const bool other = t->other != NULL && um_json_get(config, t->key) == NULL;
        const char *folder = other ? "audio_tower" : t->folder;
        const char *to = um_path_join(arena, tmp, folder);
        UM_TRY(um_file_mkdirs(to, err));
        UM_TRY(um_copy_tower_files(to, t->dir, arena, err));
        UM_TRY(write_weights(saved, um_checkpoint_set_at(c, t->set), NULL, to, scale, err));
        um_edit(edits, other ? t->other : t->key, um_arena_fmt(arena, "\"%s\"", folder));
    }
    return UM_OK;
}

static um_status write_config(const char *tmp, const um_json *config, const um_edits *edits,
                              um_arena *arena, um_err *err)
{
    um_text text = {0};
    um_json_edited(&text, config, edits, 0);
    um_text_add(&text, "\n", 1);
    um_status st = um_file_write(um_path_join(arena, tmp, "config.json"), text.s, text.n, err);
    um_text_free(&text);
    return st;
}

static um_status write_model(const um_config *cfg, const um_saved *saved, const um_checkpoint *c,
                             float scale, um_arena *arena, um_err *err)
{
    static const char *const made[] = {"vision_tower", "speech_tower", "sound_tower",
                                       "audio_tower"};
    um_staging s;
    um_edits edits = {0};
    um_json *config = NULL;
    UM_TRY(um_json_load_loose(&config, um_path_join(arena, c->model.dir, "config.json"),
                              UM_SMALL_FILE_MAX, err));
    um_status st = um_staging_begin(&s, cfg->out, arena, err);
    if (st == UM_OK) st = um_copy_model_files(s.tmp, c->model.dir, "", arena, err);
    if (st == UM_OK) st = write_weights(saved, c->llm, &c->model, s.tmp, scale, err);
    if (st == UM_OK && makes_expert(cfg, &c->model)) st = write_expert(saved, c, s.tmp, scale, err);
    if (st == UM_OK) st = write_towers(saved, c, s.tmp, &edits, scale, config, arena, err);
    if (any_begun(saved, &c->model, arena)) um_edit(&edits, "use_expert_bias", "true");
    if (st == UM_OK) st = write_config(s.tmp, config, &edits, arena, err);
    for (size_t i = 0; i < sizeof made / sizeof *made && st == UM_OK; i++)
        um_tree_remove(um_path_join(arena, cfg->out, made[i])); /* of an export before */
    if (st == UM_OK) st = um_staging_commit(&s, "config.json", arena, err);
    um_staging_end(&s, st, err);
    um_json_free(config);
    return st;
}

um_status um_export(const um_config *cfg, const char *checkpoint, um_err *err)
{
    um_arena arena;
    um_saved saved = {0};
    um_checkpoint c = {0};
    um_select select = {0};
    um_interrupt interrupt;
    const um_towers towers = {cfg->vision_tower, cfg->speech_tower, cfg->sound_tower};
    um_arena_init(&arena, "export", 1 << 16);
    um_interrupt_begin(&interrupt);
    um_status st = um_saved_open(&saved, checkpoint, true, err);
    if (st == UM_OK) st = um_checkpoint_open(&c, cfg->model, &towers, err);
    if (st == UM_OK) st = um_select_open(&select, cfg, &c.model, &arena, err);
    if (st == UM_OK) {
        const um_adapter_rules *a = &select.adapters;
        const float scale = a->r > 0 ? a->alpha / (float)a->r : 0;
        const bool adapter = strcmp(cfg->save, "adapter") == 0;
        st = adapter ? um_export_adapter(cfg, &saved, &select, &arena, err)
                     : write_model(cfg, &saved, &c, scale, &arena, err);
        if (st == UM_OK && adapter && makes_expert(cfg, &c.model))
            st = write_expert(&saved, &c, cfg->out, scale, err);
    }
    um_select_close(&select);
    if (c.llm != NULL) um_checkpoint_close(&c);
    um_saved_close(&saved);
    um_arena_free(&arena);
    um_interrupt_end(&interrupt);
    return um_wrap(err, st, "write %s", cfg->out);
}
