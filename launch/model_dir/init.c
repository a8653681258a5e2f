/* See init.h. Writes the config files first and reads them back as a model (um_model_read), so that a new model is checked like a
 * loaded one; um_model_for_each_tensor then lists the tensors to generate. */
#include "launch/model_dir/init.h"

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/nearest.h"
#include "core/base/progress.h"
#include "core/base/rng.h"
#include "core/model/model.h"
#include "core/nn/safetensors.h"
#include "launch/model_dir/copy.h"
#include "launch/model_dir/interrupt.h"
#include "launch/model_dir/presets.h"
#include "launch/model_dir/shards.h"
#include "launch/model_dir/staging.h"
#include "launch/model_dir/vocabulary.h"
#include "router/request/tokenizer.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

enum { PIECE = 65536, CONFIG_MAX = 1 << 24 };
#define SHARD_BYTES INT64_C(4000000000) /* approximate size at which the next file starts */

/* Everything one run needs. */
typedef struct maker {
    const um_config *cfg;
    const char *dir;
    um_arena arena; /* names, tensor lists */
    um_dtype dtype;
    um_model model;
    int64_t shard_bytes;
    double range;   /* initializer_range */
    float *values;  /* [PIECE] */
    uint8_t *bytes; /* [PIECE] in dtype */
    int64_t params; /* of everything written, including the towers */
    um_progress progress;
} maker;

/* The tensors to write into one folder, with what to generate for each. */
typedef struct batch {
    maker *m;
    um_set set; /* the set that they belong to */
    um_tensor *list;
    um_spec *spec; /* in the order of um_model_for_each_tensor */
    size_t n, cap;
} batch;

/* --- config files --- */

static um_status put_text(maker *m, const char *name, um_text *t, um_err *err)
{
    um_status st = um_file_write(um_path_join(&m->arena, m->dir, name), t->s, t->n, err);
    um_text_free(t);
    return st;
}

static const char *long_name(um_dtype t) { return t == UM_BF16 ? "bfloat16" : "float32"; }

typedef void (*write_fn)(um_text *t, const um_preset *p, const char *dtype);

/* A tower's folder: config.json, and preprocessor_config.json unless pre is NULL. */
static um_status tower_from_preset(maker *m, const um_preset *p, const char *folder,
                                   write_fn config, void (*pre)(um_text *t, const um_preset *p),
                                   um_err *err)
{
    um_text t = {0};
    UM_TRY(um_file_mkdirs(um_path_join(&m->arena, m->dir, folder), err));
    config(&t, p, long_name(m->dtype));
    UM_TRY(put_text(m, um_arena_fmt(&m->arena, "%s/config.json", folder), &t, err));
    if (pre == NULL) return UM_OK;
    pre(&t, p);
    return put_text(m, um_arena_fmt(&m->arena, "%s/preprocessor_config.json", folder), &t, err);
}

static um_status configs_from_preset(maker *m, const um_preset *p, um_err *err)
{
    um_text t = {0};
    if (p->vision.dim > 0)
        UM_TRY(
            tower_from_preset(m, p, "vision_tower", um_preset_tower, um_preset_preprocessor, err));
    if (p->speech.dim > 0)
        UM_TRY(tower_from_preset(m, p, "speech_tower", um_preset_speech_tower,
                                 um_preset_speech_preprocessor, err));
    if (p->sound.dim > 0)
        UM_TRY(tower_from_preset(m, p, "sound_tower", um_preset_sound_tower, NULL, err));
    um_preset_config(&t, p, long_name(m->dtype));
    return put_text(m, "config.json", &t, err);
}

static um_status copy_file(maker *m, const char *from, const char *name, um_err *err)
{
    uint8_t *data;
    size_t size;
    UM_TRY(um_model_fault(um_file_read(&data, &size, from, CONFIG_MAX, &m->arena, err)));
    return um_file_write(um_path_join(&m->arena, m->dir, name), data, size, err);
}

/* Copies the files of the tower that `key` of the config names, from the folder beside the config. An audio tower may lack
 * preprocessor_config.json. */
static um_status tower_from_file(maker *m, const char *path, const um_json *root, const char *key,
                                 um_err *err)
{
    const char *tower = um_arena_str(&m->arena, um_json_str(um_json_get(root, key), ""));
    if (tower[0] == '\0') return UM_OK;
    if (tower[0] == '/' || strncmp(tower, "..", 2) == 0 || strstr(tower, "/..") != NULL) {
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: %s: \"%s\", allowed a folder beside the file, as \"%s\"", path, key,
                       tower, key + 3);
    }
    const char *from = um_path_join(&m->arena, um_path_dir(&m->arena, path), tower);
    const char *pre = um_path_join(&m->arena, from, "preprocessor_config.json");
    UM_TRY(um_file_mkdirs(um_path_join(&m->arena, m->dir, tower), err));
    um_status st = copy_file(m, um_path_join(&m->arena, from, "config.json"),
                             um_arena_fmt(&m->arena, "%s/config.json", tower), err);
    if (st == UM_OK && (strcmp(key, "mm_vision_tower") == 0 || um_file_exists(pre)))
        st = copy_file(m, pre, um_arena_fmt(&m->arena, "%s/preprocessor_config.json", tower), err);
    return um_wrap(err, st, "%s: %s names a folder that must have its sizes", path, key);
}

/* Copies the config file unchanged, and the files of its towers. */
static um_status configs_from_file(maker *m, const char *path, um_err *err)
{
    static const char *const keys[] = {"mm_vision_tower", "mm_audio_tower", "mm_speech_tower",
                                       "mm_sound_tower"};
    um_json *root = NULL;
    UM_TRY(um_model_fault(um_json_load_loose(&root, path, CONFIG_MAX, err)));
    um_status st = UM_OK;
    for (int i = 0; i < 4 && st == UM_OK; i++) st = tower_from_file(m, path, root, keys[i], err);
    um_json_free(root);
    return st == UM_OK ? copy_file(m, path, "config.json", err) : st;
}

static um_status preset_unknown(const char *name, um_err *err)
{
    const char *names[32];
    um_text all = {0};
    int n = 0;
    for (const um_preset *p; n < 32 && (p = um_preset_at(n)) != NULL; n++) {
        char size[32];
        um_count_text(size, p->params);
        names[n] = p->name;
        um_text_fmt(&all, "%s%s (%s)", n > 0 ? ", " : "", p->name, size);
    }
    const char *near = um_nearest(name, names, n);
    um_status st = UM_FAIL(err, UM_E_USAGE,
                           "no preset and no file is called %s%s%s%s: presets, with their "
                           "parameters, are %s; unimoe init --help describes them",
                           name, near != NULL ? " (did you mean " : "", near != NULL ? near : "",
                           near != NULL ? "?)" : "", all.s);
    um_text_free(&all);
    return st;
}

static bool is_file(const um_config *cfg)
{
    return cfg->config[0] != '\0' && um_file_exists(cfg->config);
}

/* --config also accepts the name of a preset. */
static const um_preset *preset_of(const um_config *cfg)
{
    return um_preset_find(cfg->preset[0] != '\0' ? cfg->preset : cfg->config);
}

static um_status usage_check(const um_config *cfg, um_err *err)
{
    bool by_name = cfg->preset[0] != '\0', by_file = cfg->config[0] != '\0';
    if (!by_name && !by_file)
        return UM_FAIL(err, UM_E_USAGE,
                       "say what to make: --preset NAME (unimoe init --help lists them) or "
                       "--config FILE");
    if (by_name && by_file)
        return UM_FAIL(err, UM_E_USAGE, "--preset excludes --config: give one of them");
    if (preset_of(cfg) == NULL && !is_file(cfg))
        return preset_unknown(by_name ? cfg->preset : cfg->config, err);
    if (cfg->out[0] == '\0')
        return UM_FAIL(err, UM_E_USAGE, "say where to put the model: --out DIR");
    return UM_OK;
}

static um_status configs_write(maker *m, um_err *err)
{
    const um_config *cfg = m->cfg;
    const um_preset *p = preset_of(cfg);
    return is_file(cfg) ? configs_from_file(m, cfg->config, err) : configs_from_preset(m, p, err);
}

/* tokenizer.model: that of --tokenizer, which must be readable and have no more pieces than the model has rows; else one is made. */
static um_status tokenizer_write(maker *m, um_err *err)
{
    const char *from = m->cfg->tokenizer;
    um_text t = {0};
    um_tokenizer *tok = NULL;
    if (from[0] == '\0') {
        um_vocabulary_write(&t, m->model.vocab);
        return put_text(m, "tokenizer.model", &t, err);
    }
    um_status st = um_model_fault(um_copy_small_file(
        um_path_join(&m->arena, m->dir, "tokenizer.model"), from, &m->arena, err));
    if (st == UM_OK) st = um_model_tokenizer_check(m->dir, err);
    if (st == UM_OK) st = um_tokenizer_open(&tok, m->dir, err);
    if (st == UM_OK && um_tokenizer_vocab(tok) > m->model.vocab)
        st = UM_FAIL(err, UM_E_MODEL,
                     "%d pieces, but vocab_size is %d: a model of this config needs at least %d",
                     um_tokenizer_vocab(tok), m->model.vocab, um_tokenizer_vocab(tok));
    um_tokenizer_close(tok);
    return um_wrap(err, st, "--tokenizer %s", from);
}

/* Greedy by default, so that a random model always gives the same answer. */
static um_status small_files(maker *m, um_err *err)
{
    static const char token[] =
        "{\"content\": \"%s\", \"lstrip\": false, \"normalized\": false, \"rstrip\": false, "
        "\"single_word\": false}";
    static const char *const name[] = {"bos_token", "eos_token", "unk_token"}, *const text[] = {
                                                                                   "<s>", "</s>",
                                                                                   "<unk>"};
    um_text t = {0}, special = {0};
    um_text_fmt(&t,
                "{\n \"bos_token_id\": %d,\n \"eos_token_id\": %d,\n \"pad_token_id\": %d,\n "
                "\"do_sample\": false\n}\n",
                m->model.bos, m->model.n_eos > 0 ? m->model.eos[0] : -1, m->model.pad);
    UM_TRY(put_text(m, "generation_config.json", &t, err));
    UM_TRY(tokenizer_write(m, err));
    um_text_fmt(&t, "{\n \"add_bos_token\": true,\n \"add_eos_token\": false,\n");
    um_text_fmt(&special, "{\n");
    for (int i = 0; i < 3; i++) {
        um_text piece = {0};
        um_text_fmt(&piece, token, text[i]);
        um_text_fmt(&special, " \"%s\": %s,\n", name[i], piece.s);
        um_text_fmt(&t, " \"%s\": {\"__type\": \"AddedToken\", %s,\n", name[i], piece.s + 1);
        um_text_free(&piece);
    }
    um_text_fmt(&special, " \"pad_token\": \"<unk>\"\n}\n");
    um_text_fmt(
        &t,
        " \"pad_token\": null,\n \"clean_up_tokenization_spaces\": false,\n \"legacy\": true,\n"
        " \"model_max_length\": 2048,\n \"padding_side\": \"right\",\n \"sp_model_kwargs\": {},\n"
        " \"tokenizer_class\": \"LlamaTokenizer\"\n}\n");
    um_status st = put_text(m, "special_tokens_map.json", &special, err);
    if (st != UM_OK) {
        um_text_free(&t);
        return st;
    }
    return put_text(m, "tokenizer_config.json", &t, err);
}

/* --- weights --- */

static um_status collect(void *ctx, const um_spec *s, um_err *err)
{
    (void)err;
    batch *w = ctx;
    maker *m = w->m;
    if (um_set_of(s->at.part) != w->set) return UM_OK;
    if (w->n == w->cap) {
        w->cap = w->cap == 0 ? 256 : w->cap * 2;
        w->list = um_realloc(w->list, w->cap * sizeof *w->list);
        w->spec = um_realloc(w->spec, w->cap * sizeof *w->spec);
    }
    um_tensor t = {.name = um_arena_str(&m->arena, s->name),
                   .dtype = m->dtype,
                   .rank = s->rank,
                   .bytes = um_dtype_size(m->dtype)};
    for (int i = 0; i < s->rank; i++) {
        t.shape[i] = s->shape[i];
        t.bytes *=
            (size_t)s->shape[i]; /* cannot overflow: um_model_read keeps the total under 2^50 */
    }
    w->spec[w->n] = *s;
    w->spec[w->n].name = t.name;
    w->list[w->n++] = t;
    return UM_OK;
}

/* Gates see normalised rows of size sqrt(D): wide weights make the experts' shares differ from token to token. */
static float std_of(const maker *m, const um_spec *s)
{
    double root = sqrt((double)m->model.dim);
    if (s->at.part != UM_PART_GATE) return (float)m->range;
    return (float)(s->rank == 2 ? 2.0 / root : 1.0 / root);
}

static void fill(maker *m, const um_spec *s, um_rng *rng, size_t n)
{
    if (s->init == UM_INIT_NORMAL) {
        um_rng_normal_f32(rng, m->values, n, std_of(m, s));
        return;
    }
    for (size_t i = 0; i < n; i++) m->values[i] = s->init == UM_INIT_ONES ? 1.0f : 0.0f;
}

/* An um_shards_fn. */
static um_status draw(void *ctx, size_t i, um_tensors_writer *w, um_err *err)
{
    batch *b = ctx;
    maker *m = b->m;
    size_t size = um_dtype_size(m->dtype);
    um_rng rng = um_rng_seed((uint64_t)m->cfg->seed, um_rng_stream(b->list[i].name));
    for (size_t left = b->list[i].bytes / size; left > 0;) {
        size_t n = left < PIECE ? left : PIECE;
        fill(m, &b->spec[i], &rng, n);
        um_from_f32(m->bytes, m->dtype, m->values, n);
        UM_TRY(um_interrupt_check(err));
        UM_TRY(um_tensors_writer_add(w, m->bytes, n * size, err));
        um_progress_add(&m->progress, (int64_t)(n * size));
        left -= n;
    }
    return UM_OK;
}

static um_status part_write(maker *m, um_set set, const char *dir, um_err *err)
{
    batch w = {.m = m, .set = set};
    um_status st = um_model_for_each_tensor(&m->model, collect, &w, err);
    if (st == UM_OK) st = um_shards_write(dir, w.list, w.n, m->shard_bytes, draw, &w, err);
    um_free(w.list);
    um_free(w.spec);
    return st;
}

/* --- the run --- */

/* An um_spec_fn. */
static um_status count(void *ctx, const um_spec *s, um_err *err)
{
    (void)err;
    int64_t n = 1;
    for (int i = 0; i < s->rank; i++) n *= s->shape[i];
    ((maker *)ctx)->params += n;
    return UM_OK;
}

static int64_t bytes_of(const maker *m) { return m->params * (int64_t)um_dtype_size(m->dtype); }

/* Reports a disk that is too small before hours of writing, not after. */
static um_status room_check(maker *m, um_err *err)
{
    struct statvfs fs;
    UM_TRY(um_model_for_each_tensor(&m->model, count, m, err));
    if (statvfs(m->dir, &fs) != 0) return UM_OK;
    double want = (double)bytes_of(m), room = (double)fs.f_bavail * (double)fs.f_frsize;
    if (room >= want) return UM_OK;
    return UM_FAIL(err, UM_E_IO, "%s: the model needs %.3f GB, %.3f GB are free there", m->dir,
                   want / 1e9, room / 1e9);
}

static um_status range_read(maker *m, um_err *err)
{
    um_json *root = NULL;
    const char *path = um_path_join(&m->arena, m->dir, "config.json");
    UM_TRY(um_json_load_loose(&root, path, CONFIG_MAX, err));
    m->range = 0.02;
    um_status st = um_json_read_num(root, "initializer_range", false, 0.0, 10.0, &m->range, err);
    um_json_free(root);
    return um_wrap(err, st, "%s", path);
}

static um_status model_check(maker *m, um_err *err)
{
    UM_TRY(um_model_read(&m->model, m->dir, NULL, &m->arena, err));
    if (m->model.experts > 0 && m->model.moe_unplaced) {
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: moe_type: missing; say \"dense\" (experts in every layer) or "
                       "\"sparse\" with moe_stride",
                       m->cfg->config);
    }
    if (m->model.vocab < UM_VOCABULARY_MIN) {
        return UM_FAIL(
            err, UM_E_MODEL,
            "%s: vocab_size: %d, at least %d are needed for a vocabulary that can write every byte",
            m->cfg->config, m->model.vocab, UM_VOCABULARY_MIN);
    }
    UM_TRY(range_read(m, err));
    return room_check(m, err);
}

static um_status make(maker *m, um_err *err)
{
    UM_TRY(configs_write(m, err));
    UM_TRY(model_check(m, err));
    UM_TRY(small_files(m, err));
    const um_model *model = &m->model;
    um_progress_begin(&m->progress, stderr, "writing weights", UM_PROGRESS_BYTES, bytes_of(m));
    if (model->vision.present) UM_TRY(part_write(m, UM_SET_VISION, model->vision.dir, err));
    if (model->speech.present) UM_TRY(part_write(m, UM_SET_SPEECH, model->speech.dir, err));
    if (model->sound.present) UM_TRY(part_write(m, UM_SET_SOUND, model->sound.dir, err));
    return part_write(m, UM_SET_LLM, m->dir, err);
}

static bool holds_model(const char *dir, um_arena *arena)
{
    static const char *const signs[] = {"config.json", "model.safetensors",
                                        "model.safetensors.index.json"};
    for (int i = 0; i < 3; i++)
        if (um_file_named(um_path_join(arena, dir, signs[i]))) return true;
    return false;
}

static um_status make_staged(maker *m, um_err *err)
{
    um_staging staging;
    um_interrupt interrupt;
    if (holds_model(m->cfg->out, &m->arena))
        return UM_FAIL(err, UM_E_USAGE,
                       "%s already holds a model: choose another --out, or delete it first",
                       m->cfg->out);
    um_interrupt_begin(&interrupt);
    um_status st = um_staging_begin(&staging, m->cfg->out, &m->arena, err);
    m->dir = staging.tmp;
    if (st == UM_OK) st = make(m, err);
    um_progress_end(&m->progress);
    if (st == UM_OK) st = um_interrupt_check(err);
    if (st == UM_OK) st = um_staging_commit(&staging, "config.json", &m->arena, err);
    um_staging_end(&staging, st, err);
    um_interrupt_end(&interrupt);
    return st;
}

static void summary(const maker *m, FILE *out)
{
    int64_t total, active;
    char all[32], llm[32], token[32], bytes[32];
    um_model_params(&m->model, &total, &active);
    um_count_text(all, m->params);
    um_count_text(llm, total);
    um_count_text(token, active);
    um_bytes_text(bytes, bytes_of(m));
    fprintf(out,
            "%s: random weights of seed %" PRId64 ", %s parameters (language model %s, %s active "
            "for a token), %s in %s\n",
            m->cfg->out, m->cfg->seed, all, llm, token, bytes, um_dtype_lower(m->dtype));
}

um_status um_init_make(const um_config *cfg, int64_t shard_bytes, FILE *out, um_err *err)
{
    UM_TRY(usage_check(cfg, err));
    maker m = {.cfg = cfg, .shard_bytes = shard_bytes};
    m.dtype = strcmp(cfg->dtype, "bf16") == 0 ? UM_BF16 : UM_F32;
    um_arena_init(&m.arena, "init", 1 << 16);
    m.values = um_arena_f32(&m.arena, 1, PIECE);
    m.bytes = um_arena_alloc(&m.arena, PIECE * sizeof(float));
    um_status st = make_staged(&m, err);
    if (st == UM_OK) summary(&m, out);
    um_arena_free(&m.arena);
    return st;
}

um_status um_init_run(const um_config *cfg, FILE *out, um_err *err)
{
    return um_init_make(cfg, SHARD_BYTES, out, err);
}

void um_init_presets(FILE *out)
{
    fprintf(out, "\npresets (parameters with towers; size in f32, half of it in bf16)\n");
    for (int i = 0; um_preset_at(i) != NULL; i++) {
        const um_preset *p = um_preset_at(i);
        char params[32], bytes[32];
        um_count_text(params, p->params);
        um_bytes_text(bytes, p->params * 4);
        fprintf(out, "  %-22s %8s  %10s  %s\n", p->name, params, bytes, p->what);
    }
}
