/* See select.h. */
#include "core/train/select.h"

#include "core/base/text.h"

#include <stdlib.h>
#include <string.h>

/* What the stages say (spec 5.1, 5.2, 6.3). */
static const struct {
    int r;
    double alpha, dropout, lr;
} presets[] = {{0, 0, 0, 3e-4}, {0, 0, 0, 2e-5}, {64, 16, 0, 4e-5}, {8, 16, 0.05, 4e-5}};

/* --- patterns --- */

/* Whether text fits a pattern in which * stands for any text. */
static bool fits(const char *pattern, const char *text)
{
    const char *star = NULL, *back = NULL;
    while (*text != '\0') {
        if (*pattern == '*') {
            star = pattern++;
            back = text;
        } else if (*pattern == *text) {
            pattern++;
            text++;
        } else if (star != NULL) {
            pattern = star + 1;
            text = ++back;
        } else {
            return false;
        }
    }
    while (*pattern == '*') pattern++;
    return *pattern == '\0';
}

static bool pattern_fits(const char *pattern, const char *name)
{
    return strchr(pattern, '*') != NULL ? fits(pattern, name) : strstr(name, pattern) != NULL;
}

static bool any_fits(const um_patterns *p, const char *name)
{
    for (int i = 0; i < p->n; i++)
        if (pattern_fits(p->item[i], name)) return true;
    return false;
}

/* The words of a list whose commas separate them; empty ones are passed over. */
static um_patterns split(const char *list, um_arena *arena)
{
    um_patterns p = {.item = um_arena_alloc(arena, (strlen(list) / 2 + 1) * sizeof *p.item)};
    for (const char *at = list; *at != '\0';) {
        size_t n = strcspn(at, ",");
        if (n > 0) p.item[p.n++] = um_arena_strn(arena, at, n);
        at += n + (at[n] == ',');
    }
    return p;
}

/* "PATTERN:FACTOR,..." */
static um_status read_factors(um_select *s, const char *text, um_arena *arena, um_err *err)
{
    um_patterns words = split(text, arena);
    s->factor = um_arena_alloc(arena, (size_t)words.n * sizeof *s->factor);
    for (int i = 0; i < words.n; i++) {
        const char *colon = strrchr(words.item[i], ':');
        char *end = NULL;
        double factor = colon == NULL ? -1 : strtod(colon + 1, &end);
        if (colon == NULL || colon == words.item[i] || end == colon + 1 || *end != '\0' ||
            !(factor >= 0 && factor < 1e9))
            return UM_FAIL(err, UM_E_USAGE,
                           "--lr-for: %s, want PATTERN:FACTOR with a factor of 0 or more",
                           words.item[i]);
        const char *pattern = um_arena_strn(arena, words.item[i], (size_t)(colon - words.item[i]));
        s->factor[s->factors++] = (um_lr_factor){pattern, factor};
    }
    return UM_OK;
}

/* --- what a stage trains --- */

/* A factor of a LoRA that is built into the model. */
static bool is_factor(const um_spec *s)
{
    return s->leaf == UM_LEAF_LORA_A || s->leaf == UM_LEAF_LORA_B;
}

/* A factor of an adapter that um_select_adapt adds. */
static bool is_adapter(const um_spec *s)
{
    return s->leaf == UM_LEAF_ADAPTER_A || s->leaf == UM_LEAF_ADAPTER_B;
}

/* The last piece of each connector: rows of the language model come out of it. */
static bool is_projector(const um_spec *s)
{
    return s->at.slot == UM_SLOT_PROJECTOR &&
           (s->at.part == UM_PART_PROJECTOR || s->at.part == UM_PART_SPEECH_ALIGNER ||
            s->at.part == UM_PART_SOUND_ALIGNER);
}

static bool stage_trains(const um_select *s, const um_spec *spec)
{
    switch (s->stage) {
    case 0:
        return !is_adapter(spec);
    case 1:
        return (s->parts >> spec->at.part & 1) != 0;
    case 2:
        return is_projector(spec);
    case 3: /* in dense layers the original's own LoRA is frozen */
        return is_projector(spec) || spec->at.part == UM_PART_GATE ||
               (spec->at.part == UM_PART_EXPERT && is_factor(spec));
    default:
        return false;
    }
}

bool um_select_trains(const void *ctx, const um_spec *spec)
{
    const um_select *s = ctx;
    if (s->start != NULL) return um_tensors_find(s->start, spec->name) != NULL;
    if (any_fits(&s->freeze, spec->name)) return false;
    if (spec->at.slot == UM_SLOT_GATE_BIAS) return s->optimizer.gate_bias_rate > 0;
    return is_adapter(spec) || stage_trains(s, spec) || any_fits(&s->what, spec->name);
}

/* Whether a stage puts an adapter beside a matrix. */
static bool stage_adapts(const um_select *s, const um_spec *spec)
{
    const bool llm = spec->at.part == UM_PART_BACKBONE || spec->at.part == UM_PART_EXPERT;
    if (!llm || spec->at.layer < 0) return false;
    switch (spec->at.slot) {
    case UM_SLOT_Q:
    case UM_SLOT_K:
    case UM_SLOT_V:
    case UM_SLOT_O:
        return s->stage == 3;
    case UM_SLOT_GATE_PROJ:
    case UM_SLOT_UP_PROJ:
    case UM_SLOT_DOWN_PROJ: /* experts with a LoRA of their own train that one */
        return (s->stage == 2 || s->stage == 3) &&
               !(spec->at.part == UM_PART_EXPERT && s->model->lora_r > 0);
    default:
        return false;
    }
}

static bool adapts(const um_select *s, const um_spec *spec)
{
    if (spec->leaf != UM_LEAF_WEIGHT || !um_spec_is_matrix(spec)) return false;
    return s->lora.n > 0 ? any_fits(&s->lora, spec->name) : stage_adapts(s, spec);
}

/* --- adapters --- */

typedef struct naming {
    const um_select *s;
    um_arena *arena;
    const char **name;
    size_t n, cap;
} naming;

/* An um_spec_fn: adds X.lora_A.weight for a matrix X.weight that gets an adapter. */
static um_status name_adapter(void *ctx, const um_spec *spec, um_err *err)
{
    naming *g = ctx;
    (void)err;
    const char *name = adapts(g->s, spec) ? um_adapter_name(g->arena, spec, "lora_A") : NULL;
    if (name == NULL) return UM_OK;
    if (g->n == g->cap) {
        g->cap = g->cap == 0 ? 256 : 2 * g->cap;
        g->name = um_realloc(g->name, g->cap * sizeof *g->name);
    }
    g->name[g->n++] = name;
    return UM_OK;
}

static void name_adapters(um_select *s, um_arena *arena)
{
    naming g = {.s = s, .arena = arena};
    (void)um_model_for_each_tensor(s->model, name_adapter, &g, NULL);
    const char **list = um_arena_alloc(arena, (g.n + 1) * sizeof *list);
    if (g.n > 0) memcpy(list, g.name, g.n * sizeof *list);
    um_free(g.name);
    s->adapters.name = list;
    s->adapters.names = g.n;
}

/* Those of a file of start values: every X.lora_A.weight in it. */
static void name_started(um_select *s, um_arena *arena)
{
    size_t n = um_tensors_count(s->start);
    const char **list = um_arena_alloc(arena, (n + 1) * sizeof *list);
    for (size_t i = 0; i < n; i++) {
        const um_tensor *t = um_tensors_at(s->start, i);
        if (!um_ends_with(t->name, ".lora_A.weight")) continue;
        list[s->adapters.names++] = t->name;
        s->adapters.r = t->rank == 2 ? (int)t->shape[0] : 0;
    }
    s->adapters.name = list;
}

static void open_adapters(um_select *s, const um_config *cfg, um_arena *arena)
{
    const bool staged = s->stage >= 0;
    const double alpha = staged ? presets[s->stage].alpha : 16;
    const double dropout = staged ? presets[s->stage].dropout : 0;
    s->adapters = (um_adapter_rules){.seed = (uint64_t)cfg->seed};
    s->adapters.alpha = (float)(cfg->lora_alpha >= 0 ? cfg->lora_alpha : alpha);
    s->dropout = cfg->lora_dropout >= 0 ? cfg->lora_dropout : dropout;
    if (s->start != NULL) {
        name_started(s, arena);
        return;
    }
    int r = staged ? presets[s->stage].r : 0;
    if (r == 0 && s->lora.n > 0) r = 8;
    s->adapters.r = cfg->lora_r >= 0 ? (int)cfg->lora_r : r;
    if (s->adapters.r > 0) name_adapters(s, arena);
}

/* --- options --- */

static um_status read_connectors(um_select *s, const um_config *cfg, um_arena *arena, um_err *err)
{
    const um_model *m = s->model;
    const um_patterns words = split(cfg->connector, arena);
    for (int i = 0; i < words.n; i++) {
        const char *w = words.item[i];
        const bool image = strcmp(w, "image") == 0, speech = strcmp(w, "speech") == 0,
                   sound = strcmp(w, "sound") == 0;
        if (!image && !speech && !sound)
            return UM_FAIL(err, UM_E_USAGE, "--connector: %s, allowed: image speech sound", w);
        if (image ? !m->vision.present : speech ? !m->speech.present : !m->sound.present)
            return UM_FAIL(err, UM_E_USAGE, "--connector %s: %s has no such tower", w, m->dir);
        s->parts |= 1u << (image    ? UM_PART_PROJECTOR
                           : speech ? UM_PART_SPEECH_ALIGNER
                                    : UM_PART_SOUND_ALIGNER);
    }
    if (words.n > 0) return UM_OK;
    if (m->speech.present) s->parts |= 1u << UM_PART_SPEECH_ALIGNER;
    if (m->sound.present) s->parts |= 1u << UM_PART_SOUND_ALIGNER;
    if (s->parts == 0 && m->vision.present) s->parts = 1u << UM_PART_PROJECTOR;
    return UM_OK;
}

/* An um_optimizer_settings.rule. */
static void factor_rule(const void *ctx, const um_spec *spec, um_optimizer_rule *rule)
{
    const um_select *s = ctx;
    for (int i = 0; i < s->factors; i++)
        if (pattern_fits(s->factor[i].pattern, spec->name)) rule->lr_factor = s->factor[i].factor;
}

um_status um_select_open(um_select *out, const um_config *cfg, const um_model *m, um_arena *arena,
                         um_err *err)
{
    um_select *s = out;
    *s = (um_select){.model = m, .stage = cfg->stage[0] == '\0' ? -1 : cfg->stage[0] - '0'};
    s->what = split(cfg->train_what, arena);
    s->freeze = split(cfg->freeze, arena);
    s->lora = split(cfg->lora_what, arena);
    s->lr = cfg->lr >= 0 ? cfg->lr : s->stage >= 0 ? presets[s->stage].lr : 4e-5;
    s->optimizer = (um_optimizer_settings){.beta1 = cfg->adam_beta1,
                                           .beta2 = cfg->adam_beta2,
                                           .eps = cfg->adam_epsilon,
                                           .weight_decay = cfg->weight_decay,
                                           .gate_bias_rate = cfg->balance_bias,
                                           .rule = factor_rule,
                                           .ctx = s};
    UM_TRY(read_factors(s, cfg->lr_for, arena, err));
    if (s->stage == 1) UM_TRY(read_connectors(s, cfg, arena, err));
    if (cfg->train_start[0] != '\0')
        UM_TRY(um_wrap(err, um_tensors_open(&s->start, cfg->train_start, err), "--train-start"));
    open_adapters(s, cfg, arena);
    return UM_OK;
}

void um_select_close(um_select *s)
{
    um_tensors_close(s->start);
    s->start = NULL;
}

/* --- the whole model --- */

typedef struct looking {
    const um_select *s;
    size_t trained;
    bool *found; /* of each pattern: what, freeze, lora, factors */
} looking;

static void mark(const um_patterns *p, const char *name, bool *found)
{
    for (int i = 0; i < p->n; i++) found[i] = found[i] || pattern_fits(p->item[i], name);
}

/* An um_spec_fn. */
static um_status look(void *ctx, const um_spec *spec, um_err *err)
{
    looking *l = ctx;
    const um_select *s = l->s;
    bool *factors = l->found + s->what.n + s->freeze.n + s->lora.n;
    (void)err;
    if (spec->idle) return UM_OK;
    l->trained += um_select_trains(s, spec);
    mark(&s->what, spec->name, l->found);
    mark(&s->freeze, spec->name, l->found + s->what.n);
    if (spec->leaf == UM_LEAF_WEIGHT && um_spec_is_matrix(spec))
        mark(&s->lora, spec->name, l->found + s->what.n + s->freeze.n);
    for (int i = 0; i < s->factors; i++)
        factors[i] = factors[i] || pattern_fits(s->factor[i].pattern, spec->name) ||
                     strstr(s->factor[i].pattern, "lora_") != NULL;
    return UM_OK;
}

static um_status unused(const char *option, const char *pattern, const um_model *m, um_err *err)
{
    return UM_FAIL(err, UM_E_USAGE,
                   "%s: %s fits no tensor of %s; unimoe inspect %s lists their names", option,
                   pattern, m->dir, m->dir);
}

um_status um_select_check(const um_select *s, um_err *err)
{
    const int patterns = s->what.n + s->freeze.n + s->lora.n + s->factors;
    looking l = {.s = s, .found = um_zalloc((size_t)patterns + 1)};
    const bool *found = l.found;
    um_status st = um_model_for_each_tensor(s->model, look, &l, err);
    for (int i = 0; i < s->what.n && st == UM_OK; i++, found++)
        if (!*found) st = unused("--train-what", s->what.item[i], s->model, err);
    for (int i = 0; i < s->freeze.n && st == UM_OK; i++, found++)
        if (!*found && strstr(s->freeze.item[i], "lora_") == NULL)
            st = unused("--freeze", s->freeze.item[i], s->model, err);
    for (int i = 0; i < s->lora.n && st == UM_OK; i++, found++)
        if (!*found) st = unused("--lora-what", s->lora.item[i], s->model, err);
    for (int i = 0; i < s->factors && st == UM_OK; i++, found++)
        if (!*found) st = unused("--lr-for", s->factor[i].pattern, s->model, err);
    if (st == UM_OK && l.trained == 0 && s->adapters.names == 0)
        st = UM_FAIL(err, UM_E_USAGE,
                     "nothing trains: give --stage 0|1|2|3, or name tensors with --train-what");
    um_free(l.found);
    return st;
}

typedef struct parts {
    const um_select *s;
    uint32_t trained; /* 1 << um_part of each of which something trains */
} parts;

/* An um_spec_fn. */
static um_status part_of(void *ctx, const um_spec *spec, um_err *err)
{
    parts *p = ctx;
    (void)err;
    if (!spec->idle && um_select_trains(p->s, spec)) p->trained |= 1u << spec->at.part;
    return UM_OK;
}

uint32_t um_select_modalities(const um_select *s)
{
    parts p = {.s = s};
    (void)um_model_for_each_tensor(s->model, part_of, &p, NULL);
    for (size_t i = 0; i < s->adapters.names; i++) { /* adapters of towers and connectors */
        const char *name = s->adapters.name[i];
        if (um_starts_with(name, "model.layers.") || um_starts_with(name, "lm_head")) continue;
        p.trained |= um_starts_with(name, "model.mm_projector.") || um_starts_with(name, "vision_")
                         ? 1u << UM_PART_PROJECTOR
                         : 1u << UM_PART_SPEECH_ALIGNER | 1u << UM_PART_SOUND_ALIGNER;
    }
    uint32_t set = 0;
    if (p.trained & (1u << UM_PART_PROJECTOR | 1u << UM_PART_VISION)) set |= UM_READS_VISION;
    if (p.trained & (1u << UM_PART_SPEECH_ALIGNER | 1u << UM_PART_SPEECH)) set |= 1u << UM_SPEECH;
    if (p.trained & (1u << UM_PART_SOUND_ALIGNER | 1u << UM_PART_SOUND)) set |= 1u << UM_SOUND;
    return set;
}

/* --- a rank --- */

um_status um_select_adapt(const um_select *s, um_params *ps, um_err *err)
{
    ps->how.trained = um_select_trains;
    ps->how.trained_ctx = s;
    return s->adapters.r > 0 && s->adapters.names > 0 ? um_params_adapt(ps, &s->adapters, err)
                                                      : UM_OK;
}

um_status um_select_begin(const um_select *s, um_params *ps, um_err *err)
{
    UM_TRY(um_params_train(ps, um_select_trains, s, err));
    return s->start != NULL ? um_params_start(ps, s->start, err) : UM_OK;
}
