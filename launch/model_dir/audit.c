/* See audit.h. */
#include "launch/model_dir/audit.h"

#include "core/base/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct auditor {
    const um_checkpoint *c;
    um_audit a;
    um_audit_fn fn;
    void *ctx;
    uint8_t *seen[UM_SETS]; /* [tensors] for each set */
} auditor;

static void say(auditor *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(auditor *a, const char *fmt, ...)
{
    if (a->fn == NULL) return;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    a->fn(a->ctx, line);
}

static um_status audit_wanted(void *ctx, const um_spec *spec, um_err *err)
{
    (void)err;
    auditor *a = ctx;
    const um_tensors *set = um_checkpoint_set(a->c, spec->at.part);
    const um_tensor *t = um_tensors_find(set, spec->name), *fit = NULL;
    um_err why = {0};
    char want[96];
    if (t == NULL && spec->optional) return UM_OK;
    a->a.wanted++;
    um_shape_text(want, spec->rank, spec->shape);
    if (t == NULL) {
        a->a.missing++;
        say(a, "missing %s %s", spec->name, want);
        return UM_OK;
    }
    a->seen[um_set_of(spec->at.part)][t - um_tensors_at(set, 0)] = 1;
    a->a.found++;
    a->a.params += (int64_t)um_tensor_values(t);
    a->a.bytes += (int64_t)t->bytes;
    if (um_tensors_want(set, &fit, spec->name, spec->rank, spec->shape, &why) != UM_OK) {
        char found[96];
        um_shape_text(found, t->rank, t->shape);
        a->a.misshapen++;
        say(a, "misshapen %s %s %s, want %s of a float type", spec->name, um_dtype_name(t->dtype),
            found, want);
    }
    return UM_OK;
}

static bool begins_one_of(const char *name, const char *const *prefix, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (um_starts_with(name, prefix[i])) return true;
    return false;
}

/* True for a connector that no tower of the config uses, and for the token table of one in use, whose input is queries, not
 * tokens. */
static bool is_idle_connector(const um_model *m, const char *name)
{
    static const char *const prefix[] = {"model.mm_audio_aligner.", "model.mm_speech_aligner.",
                                         "model.mm_sound_aligner."};
    const um_aligner_names *speech = &m->speech.names, *sound = &m->sound.names;
    if (m->speech.present && um_starts_with(name, speech->prefix))
        return um_ends_with(name, "decoder.audio_decoder.embed_tokens.weight");
    if (m->sound.present && um_starts_with(name, sound->prefix)) return false;
    if (strcmp(name, "model.query_tokens") == 0)
        return !m->speech.present || strcmp(speech->queries, name) != 0;
    return begins_one_of(name, prefix, sizeof prefix / sizeof *prefix);
}

/* True for tensors that the original checkpoints contain but this program does not need: computed buffers, copies of the towers,
 * the text half of a CLIP file, Whisper's own decoder, BEATs' masking and class head, a pre-projection that the config does not
 * enable. */
static bool is_ignored(const um_model *m, um_set set, const char *name)
{
    static const char *const llm[] = {"model.vision_tower.", "model.audio_tower."};
    static const char *const vision[] = {"text_model.", "text_projection.", "visual_projection.",
                                         "logit_scale"};
    static const char *const speech[] = {"model.decoder.", "decoder.", "proj_out."};
    static const char *const sound[] = {"mask_emb", "predictor."};
    if (um_ends_with(name, "rotary_emb.inv_freq") || um_ends_with(name, "position_ids"))
        return true;
    switch (set) {
    case UM_SET_VISION:
        return begins_one_of(name, vision, 4);
    case UM_SET_SPEECH:
        return begins_one_of(name, speech, 3);
    case UM_SET_SOUND:
        return begins_one_of(name, sound, 2) ||
               um_ends_with(name, ".relative_attention_bias.weight");
    default:
        if (m->tied && strcmp(name, "lm_head.weight") == 0) return true;
        if (!m->fm_block && strstr(name, ".deepspeed_moe.fm_") != NULL) return true;
        return begins_one_of(name, llm, 2) || is_idle_connector(m, name);
    }
}

static void audit_rest(auditor *a, um_set which)
{
    const um_tensors *set = um_checkpoint_set_at(a->c, which);
    const uint8_t *seen = a->seen[which];
    for (size_t i = 0; set != NULL && i < um_tensors_count(set); i++) {
        const um_tensor *t = um_tensors_at(set, i);
        if (seen[i]) continue;
        if (is_ignored(&a->c->model, which, t->name)) {
            a->a.ignored++;
            continue;
        }
        char shape[96];
        um_shape_text(shape, t->rank, t->shape);
        a->a.unexpected++;
        say(a, "unexpected %.800s %s %s", t->name, um_dtype_name(t->dtype), shape);
    }
}

um_status um_audit_run(const um_checkpoint *c, um_audit *out, um_audit_fn fn, void *ctx,
                       um_err *err)
{
    auditor a = {.c = c, .fn = fn, .ctx = ctx};
    um_arena scratch;
    um_arena_init(&scratch, "audit", 1 << 16);
    for (int i = 0; i < UM_SETS; i++) {
        const um_tensors *set = um_checkpoint_set_at(c, (um_set)i);
        a.seen[i] = um_arena_zero(&scratch, set != NULL ? um_tensors_count(set) : 0);
    }
    um_status st = um_model_for_each_tensor(&c->model, audit_wanted, &a, err);
    for (int i = 0; i < UM_SETS; i++) audit_rest(&a, (um_set)i);
    um_arena_free(&scratch);
    if (st == UM_OK) *out = a.a;
    return st;
}
