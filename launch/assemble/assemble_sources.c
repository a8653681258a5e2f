/* Finds the source of every tensor: experts in expert files and dense models, connectors in the models that trained them, gates nowhere,
 * all others in the base. See assemble_job.h. */
#include "launch/assemble/assemble_job.h"

#include "core/base/file.h"
#include "launch/model_dir/copy.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

enum { PIECE_BYTES = 1 << 24 };

/* --- opening --- */

static um_status file_digest(char hex[UM_SHA256_HEX], const char *path, um_err *err)
{
    um_file f = {0};
    um_sha256 h;
    UM_TRY(um_file_map(&f, path, err));
    um_sha256_init(&h);
    for (size_t at = 0; at < f.size; at += PIECE_BYTES) {
        const size_t n = f.size - at < PIECE_BYTES ? f.size - at : PIECE_BYTES;
        um_sha256_update(&h, f.data + at, n);
        um_file_forget(&f, at, n);
    }
    um_status st = um_sha256_final(&h, hex, err);
    um_file_unmap(&f);
    return st;
}

/* Reports name files by their whole path: of several models each has a model.safetensors. */
static void name_file(const um_source_list *list, const char *path)
{
    for (size_t i = 0; i < list->n; i++) list->item[i].file = path;
}

/* What a folder that holds no weights holds instead. */
static um_status folder_refuse(um_assembly *a, const char *dir, um_err *err)
{
    const char *adapter = um_path_join(&a->cv.arena, dir, "adapter_config.json");
    if (um_file_exists(adapter))
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: it holds an adapter, not a model: unimoe convert --base MODEL --tuned "
                       "%s --out DIR makes the model of it",
                       dir, dir);
    return UM_FAIL(err, UM_E_MODEL,
                   "%s: no weights: neither model.safetensors nor pytorch_model.bin nor an index "
                   "of shards is there",
                   dir);
}

static um_status folder_open(um_assembly *a, const um_source_list **out, const char *dir,
                             const char *other, um_err *err)
{
    UM_TRY(um_source_find(&a->cv.src, out, dir, NULL, err));
    if (*out == NULL && other != NULL) UM_TRY(um_source_find(&a->cv.src, out, dir, other, err));
    if (*out == NULL) return folder_refuse(a, dir, err);
    name_file(*out, dir);
    return UM_OK;
}

static um_status stock_open(um_assembly *a, um_stock *s, um_err *err)
{
    if (um_file_is_folder(s->from)) {
        if (strcmp(s->from, a->base.model.dir) == 0)
            s->list = a->base_list;
        else
            UM_TRY(folder_open(a, &s->list, s->from, UM_EXPERT_STEM, err));
        return UM_OK;
    }
    UM_TRY(um_source_file(&a->cv.src, &s->list, s->from, err));
    name_file(s->list, s->from);
    return file_digest(s->sha256, s->from, err);
}

static um_status stock_of(um_assembly *a, um_stock **out, const um_ingredient *x, um_err *err)
{
    int i = 0;
    while (i < a->stocks && strcmp(a->stock[i].from, x->from) != 0) i++;
    um_stock *s = &a->stock[i];
    if (i == a->stocks) {
        s->from = x->from;
        s->digest = um_arena_zero(&a->cv.arena, (size_t)a->base.model.layers * sizeof *s->digest);
        UM_TRY(stock_open(a, s, err));
        a->stocks++;
    }
    if (x->sha256[0] != '\0' && strcmp(x->sha256, s->sha256) != 0)
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: its SHA-256 is %s, but the manifest says %s: it is another file, or "
                       "was changed",
                       x->from, s->sha256, x->sha256);
    *out = s;
    return UM_OK;
}

static um_status stocks_open(um_assembly *a, um_stock ***out, const um_ingredient *x, int n,
                             um_err *err)
{
    *out = um_arena_alloc(&a->cv.arena, (size_t)n * sizeof **out);
    for (int e = 0; e < n; e++)
        UM_TRY(um_wrap(err, stock_of(a, &(*out)[e], &x[e], err), "expert %d (%s)", e, x[e].name));
    return UM_OK;
}

static bool has_tower(const um_model *m, um_modality modality)
{
    return modality == UM_IMAGE    ? m->vision.present
           : modality == UM_SPEECH ? m->speech.present
                                   : m->sound.present;
}

static um_status no_connector(const char *dir, um_modality m, um_err *err)
{
    return UM_FAIL(err, UM_E_MODEL, "%s has no %s connector: its config.json names no tower", dir,
                   um_modality_name(m));
}

/* Of a model, or of a run that has left its adapter: what was trained beside it is in one file, under the base's names. */
static um_status connector_open(um_assembly *a, um_modality m, um_err *err)
{
    const char *dir = a->recipe.connector[m];
    if (dir == NULL) return UM_OK;
    if (!has_tower(&a->base.model, m)) return no_connector(a->recipe.base, m, err);
    if (!um_file_exists(um_path_join(&a->cv.arena, dir, "config.json"))) {
        const char *beside = um_path_join(&a->cv.arena, dir, "adapter");
        const bool run = um_file_is_folder(beside);
        return folder_open(a, &a->connector_list[m], run ? beside : dir, "non_lora_trainables",
                           err);
    }
    UM_TRY(um_checkpoint_open(&a->connector[m], dir, NULL, err));
    if (!has_tower(&a->connector[m].model, m)) return no_connector(dir, m, err);
    return folder_open(a, &a->connector_list[m], dir, NULL, err);
}

um_status um_assemble_open(um_assembly *a, um_err *err)
{
    const um_recipe *r = &a->recipe;
    const size_t most = (size_t)r->experts + (size_t)r->shareds;
    a->stock = um_arena_zero(&a->cv.arena, most * sizeof *a->stock);
    UM_TRY(folder_open(a, &a->base_list, a->base.model.dir, NULL, err));
    UM_TRY(stocks_open(a, &a->expert, r->expert, r->experts, err));
    UM_TRY(stocks_open(a, &a->shared, r->shared, r->shareds, err));
    for (int m = 0; m < UM_MODALITIES; m++)
        UM_TRY(um_wrap(err, connector_open(a, (um_modality)m, err), "connectors: %s",
                       um_modality_name((um_modality)m)));
    return UM_OK;
}

/* --- finding --- */

static void problem(um_assembly *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void problem(um_assembly *a, const char *fmt, ...)
{
    char line[768];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (a->first_problem[0] == '\0')
        snprintf(a->first_problem, sizeof a->first_problem, "%s", line);
    um_text_fmt(&a->cv.problems, "%s\n", line);
}

/* The name that a dense model has for the tensor of an expert. */
static const char *dense_name(um_assembly *a, const um_spec *s)
{
    const char *proj = s->at.slot == UM_SLOT_GATE_PROJ ? "gate_proj"
                       : s->at.slot == UM_SLOT_UP_PROJ ? "up_proj"
                                                       : "down_proj";
    const char *leaf = s->leaf == UM_LEAF_LORA_A   ? "_lora_A.weight"
                       : s->leaf == UM_LEAF_LORA_B ? "_lora_B.weight"
                                                   : ".weight";
    return um_arena_fmt(&a->cv.arena, "model.layers.%d.mlp.%s%s", s->at.layer, proj, leaf);
}

/* Expert files of PEFT have its prefix before each name. */
static um_source_tensor *stock_find(um_assembly *a, const um_stock *s, const char *name)
{
    um_source_tensor *t = um_source_get(s->list, name);
    if (t != NULL) return t;
    return um_source_get(s->list, um_arena_fmt(&a->cv.arena, "base_model.model.%s", name));
}

static bool is_mixture(const um_stock *s, const char **tensor)
{
    for (size_t i = 0; i < s->list->n; i++) {
        const um_name_parts p = um_name_parse(um_convert_bare(s->list->item[i].name));
        *tensor = s->list->item[i].name;
        if (p.is == UM_NAME_EXPERT || p.is == UM_NAME_SHARED) return true;
    }
    return false;
}

/* Where a tensor of the mixture is to come from. */
typedef struct origin {
    const um_source_list *list;
    const char *name; /* there */
    const char *path; /* for messages */
    const um_ingredient *expert;
} origin;

static bool connector_of(const um_spec *s, um_modality *out)
{
    switch (s->at.part) {
    case UM_PART_PROJECTOR:
        *out = UM_IMAGE;
        return true;
    case UM_PART_SPEECH_ALIGNER:
        *out = UM_SPEECH;
        return true;
    case UM_PART_SOUND_ALIGNER:
        *out = UM_SOUND;
        return true;
    default:
        return false;
    }
}

static bool is_shared(const um_spec *s)
{
    return s->at.part == UM_PART_BACKBONE && s->at.index >= 0 &&
           (s->at.slot == UM_SLOT_GATE_PROJ || s->at.slot == UM_SLOT_UP_PROJ ||
            s->at.slot == UM_SLOT_DOWN_PROJ);
}

static um_source_tensor *tensor_find(um_assembly *a, const um_spec *s, origin *o)
{
    um_modality m;
    char name[200];
    *o = (origin){a->base_list, s->name, a->base.model.dir, NULL};
    if (s->at.part == UM_PART_EXPERT || is_shared(s)) {
        const bool shared = s->at.part != UM_PART_EXPERT;
        const um_stock *from = (shared ? a->shared : a->expert)[s->at.index];
        o->name = dense_name(a, s);
        o->path = from->from;
        o->expert = &(shared ? a->recipe.shared : a->recipe.expert)[s->at.index];
        return stock_find(a, from, o->name);
    }
    if (!connector_of(s, &m) || a->connector_list[m] == NULL)
        return um_source_get(o->list, o->name);
    if (a->connector[m].llm == NULL) { /* a run's: what it has not trained is the base's */
        um_source_tensor *t = um_source_get(a->connector_list[m], o->name);
        if (t == NULL) return um_source_get(o->list, o->name);
        o->path = a->recipe.connector[m];
        return t;
    }
    o->list = a->connector_list[m];
    o->path = a->recipe.connector[m];
    if (um_model_tensor_name(&a->connector[m].model, s->at, s->leaf, name))
        o->name = um_arena_str(&a->cv.arena, name);
    return um_source_get(o->list, o->name);
}

/* --- claiming --- */

/* Gates begin small, their pre-projections as PyTorch begins a convolution (spec 5.2), with a normal distribution of its variance. */
static void claim_drawn(um_assembly *a, const um_spec *s)
{
    um_convert *cv = &a->cv;
    const char *name = um_arena_str(&cv->arena, s->name);
    const bool fm = s->at.slot == UM_SLOT_FM;
    um_source_tensor *t =
        um_source_described(&cv->src, name, s->at.slot == UM_SLOT_GATE_BIAS ? "zeros" : "drawn",
                            a->dtype, s->rank, s->shape);
    um_convert_claim(cv, UM_SET_LLM, name, t, UM_STAGE_BASE);
    um_claim *c = &cv->folder[UM_SET_LLM].claim[cv->folder[UM_SET_LLM].n - 1];
    c->wanted = true;
    c->noise_seed = a->recipe.seed;
    c->noise = s->at.slot == UM_SLOT_GATE_BIAS ? 0.0
               : fm                            ? 1.0 / sqrt(3.0 * (double)cv->model.dim)
                                               : a->gate_std;
}

static bool fits(const um_source_tensor *t, const um_spec *s)
{
    bool same = t->rank == s->rank && um_source_is_float(t);
    for (int i = 0; same && i < s->rank; i++) same = t->shape[i] == s->shape[i];
    return same;
}

static const char *expert_words(um_assembly *a, const um_spec *s, const origin *o)
{
    if (o->expert == NULL) return "";
    return um_arena_fmt(&a->cv.arena, ", for %s %d (%.64s)",
                        is_shared(s) ? "shared expert" : "expert", s->at.index, o->expert->name);
}

/* An um_spec_fn. */
static um_status claim_one(void *ctx, const um_spec *s, um_err *err)
{
    um_assembly *a = ctx;
    um_convert *cv = &a->cv;
    char want[96], found[96];
    origin o;
    (void)err;
    if (um_set_of(s->at.part) != UM_SET_LLM) return UM_OK; /* towers go as they are */
    if (s->at.part == UM_PART_GATE) {
        claim_drawn(a, s);
        return UM_OK;
    }
    um_source_tensor *t = tensor_find(a, s, &o);
    um_shape_text(want, s->rank, s->shape);
    if (t == NULL && s->optional) return UM_OK;
    if (t == NULL) {
        cv->missing++;
        problem(a, "%s: tensor %s %s is missing%s", o.path, o.name, want, expert_words(a, s, &o));
        return UM_OK;
    }
    if (!fits(t, s)) {
        um_shape_text(found, t->rank, t->shape);
        cv->misshapen++;
        problem(a, "%s: tensor %s is %s %s, want %s of a float type%s", o.path, t->name,
                um_dtype_name(t->dtype), found, want, expert_words(a, s, &o));
        return UM_OK;
    }
    um_convert_claim(cv, UM_SET_LLM, um_arena_str(&cv->arena, s->name), t, UM_STAGE_BASE);
    um_claim *c = &cv->folder[UM_SET_LLM].claim[cv->folder[UM_SET_LLM].n - 1];
    c->wanted = true;
    if (o.expert != NULL && s->leaf == UM_LEAF_WEIGHT) {
        c->noise = o.expert->noise;
        c->noise_seed = a->recipe.seed;
    }
    return UM_OK;
}

/* An expert with more layers than the base, or with experts of its own, is of another model. */
static um_status stock_check(um_assembly *a, const um_stock *s, um_err *err)
{
    const char *tensor = "";
    if (is_mixture(s, &tensor))
        return UM_FAIL(err, UM_E_MODEL,
                       "%s: tensor %.400s: it is a mixture of experts already: give a dense model "
                       "or an expert file",
                       s->from, tensor);
    for (size_t i = 0; i < s->list->n; i++) {
        const char *name = um_convert_bare(s->list->item[i].name);
        const um_name_parts p = um_name_parse(name);
        if (p.is == UM_NAME_DENSE && p.layer >= a->base.model.layers)
            return UM_FAIL(err, UM_E_MODEL, "%s: tensor %.400s, but the base %s has %d layers",
                           s->from, name, a->base.model.dir, a->base.model.layers);
    }
    return UM_OK;
}

/* Each type of a weight is kept as it is: whoever wants one type for all must say which. */
static void note_types(um_assembly *a)
{
    um_convert *cv = &a->cv;
    const um_folder *s = &cv->folder[UM_SET_LLM];
    uint32_t types = 0;
    for (size_t i = 0; i < s->n; i++) types |= 1u << s->claim[i].t->dtype;
    if ((types & (types - 1)) == 0 || strcmp(cv->cfg->weights, "auto") != 0) return;
    um_text names = {0};
    for (int d = 0; d < 32; d++)
        if (types >> d & 1)
            um_text_fmt(&names, "%s%s", names.n > 0 ? ", " : "", um_dtype_name((um_dtype)d));
    um_convert_note(cv,
                    "the sources have different types (%s), and each tensor keeps its own; "
                    "--weights f32 or bf16 writes one",
                    names.s);
    um_text_free(&names);
}

/* What the converter says of tensors that nobody claimed. */
static void say_unused(um_assembly *a)
{
    for (int i = 0; i < a->stocks; i++)
        for (size_t k = 0; a->stock[i].list != a->base_list && k < a->stock[i].list->n; k++)
            a->stock[i].list->item[k].unused = "of the models of experts only the MLPs are taken";
    for (int m = 0; m < UM_MODALITIES; m++)
        for (size_t k = 0; a->connector_list[m] != NULL && k < a->connector_list[m]->n; k++)
            a->connector_list[m]->item[k].unused = "only the connector is taken";
    for (size_t k = 0; k < a->base_list->n; k++) {
        const um_name_parts p = um_name_parse(a->base_list->item[k].name);
        um_source_tensor *t = &a->base_list->item[k];
        t->unused = p.is == UM_NAME_DENSE
                        ? "experts are in its place"
                        : "the model has no such tensor, or it is taken elsewhere";
    }
}

um_status um_assemble_claim(um_assembly *a, um_err *err)
{
    um_convert *cv = &a->cv;
    for (int i = 0; i < a->stocks; i++) UM_TRY(stock_check(a, &a->stock[i], err));
    UM_TRY(um_model_for_each_tensor(&cv->model, claim_one, a, err));
    const long long others = (long long)(cv->missing + cv->misshapen) - 1;
    if (others > 0)
        return UM_FAIL(err, UM_E_MODEL, "%s; and %lld more: nothing is written", a->first_problem,
                       others);
    if (others == 0) return UM_FAIL(err, UM_E_MODEL, "%s: nothing is written", a->first_problem);
    note_types(a);
    say_unused(a);
    return UM_OK;
}
