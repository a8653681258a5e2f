/* See inspect.h. */
#include "launch/model_dir/inspect.h"

#include "core/base/json.h"
#include "core/base/text.h"
#include "core/nn/checkpoint.h"
#include "launch/model_dir/audit.h"
#include "launch/model_dir/manifest.h"

#include <inttypes.h>
#include <string.h>

enum { PARTS = UM_PARTS };

static const char *const part_name[PARTS] = {
    [UM_PART_BACKBONE] = "backbone",
    [UM_PART_GATE] = "gates",
    [UM_PART_EXPERT] = "experts",
    [UM_PART_PROJECTOR] = "projector",
    [UM_PART_VISION] = "vision",
    [UM_PART_SPEECH] = "speech",
    [UM_PART_SPEECH_ALIGNER] = "speech_aligner",
    [UM_PART_SOUND] = "sound",
    [UM_PART_SOUND_ALIGNER] = "sound_aligner",
};

/* The result of inspecting a folder. */
typedef struct findings {
    const um_checkpoint *c;
    um_audit audit;
    int64_t total, active;
    int64_t params[PARTS], bytes[PARTS]; /* of the tensors found */
    uint32_t dtypes[PARTS];              /* of the tensors found: bit 1 << um_dtype */
    um_text problems;                    /* a line each, or JSON strings */
    bool json;
} findings;

static void problem(void *ctx, const char *line)
{
    findings *f = ctx;
    if (!f->json) {
        um_text_fmt(&f->problems, "%s\n", line);
        return;
    }
    if (f->problems.n > 0) um_text_add(&f->problems, ", ", 2);
    um_text_json(&f->problems, line);
}

static um_status part_count(void *ctx, const um_spec *s, um_err *err)
{
    (void)err;
    findings *f = ctx;
    const um_tensor *t = um_tensors_find(um_checkpoint_set(f->c, s->at.part), s->name);
    if (t == NULL) return UM_OK;
    f->params[s->at.part] += (int64_t)um_tensor_values(t);
    f->bytes[s->at.part] += (int64_t)t->bytes;
    f->dtypes[s->at.part] |= 1u << t->dtype;
    return UM_OK;
}

/* The MoE layers as "0 2 4", or "all" or "none". */
static void layers_text(um_text *t, const um_model *m)
{
    if (m->moe_layers == 0 || m->moe_layers == m->layers) {
        um_text_fmt(t, "%s", m->moe_layers == 0 ? "none" : "all");
        return;
    }
    const char *blank = "";
    for (int i = 0; i < m->layers; i++) {
        if (!m->moe_layer[i]) continue;
        um_text_fmt(t, "%s%d", blank, i);
        blank = " ";
    }
}

static const char *gate_name(const um_model *m)
{
    static const char *const name[UM_GATE_STYLES] = {
        [UM_GATE_MIXTRAL] = "mixtral", [UM_GATE_GSHARD] = "gshard", [UM_GATE_DYNAMIC] = "dynamic"};
    return name[m->gate];
}

/* Types as "f32" or "bf16+f32". */
static void dtypes_text(char out[64], uint32_t set)
{
    size_t n = 0;
    out[0] = '\0';
    for (int t = 0; t < UM_DTYPES && n < 64; t++) {
        if (set >> t & 1)
            n += (size_t)snprintf(out + n, 64 - n, "%s%s", n > 0 ? "+" : "",
                                  um_dtype_lower((um_dtype)t));
    }
}

static const char *plural(int n) { return n == 1 ? "" : "s"; }

static void print_audio(FILE *out, const um_model *m)
{
    const um_speech_model *s = &m->speech;
    const um_sound_model *q = &m->sound;
    fprintf(out, "  speech      %s\n", s->present ? s->dir : "none");
    if (s->present) {
        fprintf(
            out,
            "              Whisper: hidden %d, layers %d, heads %d; %d s of sound become %d rows\n"
            "              connector: %d layer%s, %d queries, projector of %d linear layer%s; "
            "tensors %s*\n",
            s->dim, s->layers, s->heads, s->window_seconds, s->positions, s->dec_layers,
            plural(s->dec_layers), s->queries, s->proj_layers, plural(s->proj_layers),
            s->names.prefix);
    }
    fprintf(out, "  sound       %s\n", q->present ? q->dir : "none");
    if (q->present) {
        fprintf(
            out,
            "              BEATs: hidden %d, layers %d, heads %d, patch %d; windows of %d s\n"
            "              connector: hidden %d, %d layer%s, %d queries, projector of %d linear "
            "layer%s; tensors %s*\n",
            q->dim, q->layers, q->heads, q->patch, q->window_seconds, q->q_dim, q->q_layers,
            plural(q->q_layers), q->queries, q->proj_layers, plural(q->proj_layers),
            q->names.prefix);
    }
}

/* The ids that end an answer. */
static void print_ends(FILE *out, const um_model *m)
{
    fprintf(out, "  end tokens  ");
    for (int i = 0; i < m->n_eos; i++) fprintf(out, "%s%d", i > 0 ? ", " : "", m->eos[i]);
    fprintf(out, "%s\n", m->n_eos == 0 ? "none" : "");
}

static void print_experts(FILE *out, const um_model *m)
{
    const um_dynamic_model *d = &m->dynamic;
    um_text layers = {0};
    layers_text(&layers, m);
    if (m->gate != UM_GATE_DYNAMIC) {
        fprintf(out, "  experts     %d, top-%d, %s gate%s, in %d of %d layers (%s)\n", m->experts,
                m->top_k, gate_name(m), m->fm_block ? " with per-modality pre-projection" : "",
                m->moe_layers, m->layers, layers.s);
    } else {
        char choice[32];
        if (d->top_p > 0)
            snprintf(choice, sizeof choice, "top-p %g", (double)d->top_p);
        else
            snprintf(choice, sizeof choice, "top-%d", d->top_k);
        fprintf(
            out,
            "  experts     %d of width %d, %d null, %s, dynamic gate, in %d of %d layers (%s)\n",
            m->experts, m->expert_dim, d->nulls, choice, m->moe_layers, m->layers, layers.s);
        if (d->shared > 0)
            fprintf(out, "              %d shared of width %d\n", d->shared, d->shared_dim);
    }
    um_text_free(&layers);
}

static void print_model(FILE *out, const findings *f)
{
    const um_model *m = &f->c->model;
    const um_vision_model *v = &m->vision;
    char total[32], active[32];
    um_count_text(total, f->total);
    um_count_text(active, f->active);
    fprintf(out, "%s\n", m->dir);
    fprintf(out, "  variant     %s\n", m->variant);
    fprintf(out, "  parameters  %s total, %s%s active for a token (%" PRId64 ", %" PRId64 ")\n",
            total, m->gate == UM_GATE_DYNAMIC ? "at most " : "", active, f->total, f->active);
    fprintf(out,
            "  sizes       hidden %d, layers %d, heads %d x %d, key/value heads %d, feed-forward "
            "%d, vocabulary %d, positions %d\n",
            m->dim, m->layers, m->heads, m->head_dim, m->kv_heads, m->ffn_dim, m->vocab,
            m->max_positions);
    print_ends(out, m);
    if (m->experts > 0)
        print_experts(out, m);
    else
        fprintf(out, "  experts     none\n");
    if (m->lora_r > 0)
        fprintf(out, "  lora        rank %d, alpha %g\n", m->lora_r, (double)m->lora_alpha);
    if (v->present) {
        fprintf(out, "  vision      %s\n", v->dir);
        fprintf(
            out,
            "              CLIP: hidden %d, layers %d of %d used, heads %d, image %d x %d, patch "
            "%d; projector of %d linear layer%s\n",
            v->dim, v->run_layers, v->layers, v->heads, v->image_size, v->image_size, v->patch,
            v->proj_layers, plural(v->proj_layers));
    } else {
        fprintf(out, "  vision      none\n");
    }
    print_audio(out, m);
}

static void print_text(FILE *out, const findings *f)
{
    const um_audit *a = &f->audit;
    print_model(out, f);
    for (int i = 0; i < PARTS; i++) {
        char params[32], bytes[32], dtypes[64];
        if (f->bytes[i] == 0) continue;
        um_count_text(params, f->params[i]);
        um_bytes_text(bytes, f->bytes[i]);
        dtypes_text(dtypes, f->dtypes[i]);
        fprintf(out, "  %-14s %9s values %11s  %s\n", part_name[i], params, bytes, dtypes);
    }
    fprintf(out,
            "  tensors     %" PRId64 " wanted, %" PRId64 " found, %" PRId64 " missing, %" PRId64
            " misshapen, %" PRId64 " unexpected, %" PRId64 " not needed\n",
            a->wanted, a->found, a->missing, a->misshapen, a->unexpected, a->ignored);
    for (int i = 0; i < f->c->model.notes.n; i++)
        fprintf(out, "note: %s\n", f->c->model.notes.line[i]);
    if (f->problems.n > 0) fprintf(out, "%s", f->problems.s);
}

static void json_model(um_text *t, const findings *f)
{
    const um_model *m = &f->c->model;
    um_text_fmt(t, "{\"model\": ");
    um_text_json(t, m->dir);
    um_text_fmt(t,
                ", \"variant\": \"%s\", \"total_parameters\": %" PRId64
                ", \"active_parameters\": %" PRId64,
                m->variant, f->total, f->active);
    um_text_fmt(t,
                ", \"hidden_size\": %d, \"layers\": %d, \"heads\": %d, \"head_dim\": %d, "
                "\"kv_heads\": %d, \"ffn\": %d, \"vocab\": %d, \"positions\": %d, \"eos\": [",
                m->dim, m->layers, m->heads, m->head_dim, m->kv_heads, m->ffn_dim, m->vocab,
                m->max_positions);
    for (int i = 0; i < m->n_eos; i++) um_text_fmt(t, "%s%d", i > 0 ? ", " : "", m->eos[i]);
    um_text_fmt(t, "]");
    um_text_fmt(t, ", \"experts\": %d, \"top_k\": %d, \"gate\": ", m->experts, m->top_k);
    if (m->experts > 0)
        um_text_fmt(t, "\"%s\"", gate_name(m));
    else
        um_text_fmt(t, "null");
    if (m->gate == UM_GATE_DYNAMIC) {
        const um_dynamic_model *d = &m->dynamic;
        um_text_fmt(t,
                    ", \"expert_ffn\": %d, \"null_experts\": %d, \"shared_experts\": %d, "
                    "\"shared_ffn\": %d, \"top_p\": %g, \"token_drop\": %s",
                    m->expert_dim, d->nulls, d->shared, d->shared_dim, (double)d->top_p,
                    d->token_drop ? "true" : "false");
    }
    um_text_fmt(t, ", \"fm_block\": %s, \"lora_r\": %d, \"moe_layers\": [",
                m->fm_block ? "true" : "false", m->lora_r);
    int n = 0;
    for (int i = 0; i < m->layers; i++) {
        if (m->moe_layer[i]) um_text_fmt(t, "%s%d", n++ > 0 ? ", " : "", i);
    }
    um_text_fmt(t, "]");
}

static void json_vision(um_text *t, const um_vision_model *v)
{
    um_text_fmt(t, ", \"vision\": ");
    if (!v->present) {
        um_text_fmt(t, "null");
        return;
    }
    um_text_fmt(t, "{\"tower\": ");
    um_text_json(t, v->dir);
    um_text_fmt(t,
                ", \"hidden_size\": %d, \"layers\": %d, \"run_layers\": %d, \"heads\": %d, "
                "\"image_size\": %d, \"patch\": %d, "
                "\"projector_layers\": %d}",
                v->dim, v->layers, v->run_layers, v->heads, v->image_size, v->patch,
                v->proj_layers);
}

/* Writes , "speech": null or the start of an object; returns true when the caller must complete the object. */
static bool json_tower(um_text *t, const char *key, bool present, const char *dir)
{
    um_text_fmt(t, ", \"%s\": %s", key, present ? "{\"tower\": " : "null");
    if (present) um_text_json(t, dir);
    return present;
}

static void json_audio(um_text *t, const um_model *m)
{
    const um_speech_model *s = &m->speech;
    const um_sound_model *q = &m->sound;
    if (json_tower(t, "speech", s->present, s->dir)) {
        um_text_fmt(t,
                    ", \"hidden_size\": %d, \"layers\": %d, \"heads\": %d, \"positions\": %d, "
                    "\"connector_layers\": %d, \"queries\": %d, \"projector_layers\": %d, "
                    "\"connector_names\": \"%s\"}",
                    s->dim, s->layers, s->heads, s->positions, s->dec_layers, s->queries,
                    s->proj_layers, s->names.prefix);
    }
    if (json_tower(t, "sound", q->present, q->dir)) {
        um_text_fmt(t,
                    ", \"hidden_size\": %d, \"layers\": %d, \"heads\": %d, "
                    "\"connector_hidden_size\": %d, \"connector_layers\": %d, \"queries\": %d, "
                    "\"projector_layers\": %d, \"connector_names\": \"%s\"}",
                    q->dim, q->layers, q->heads, q->q_dim, q->q_layers, q->queries, q->proj_layers,
                    q->names.prefix);
    }
}

static void print_json(FILE *out, const findings *f)
{
    const um_audit *a = &f->audit;
    um_text t = {0};
    json_model(&t, f);
    json_vision(&t, &f->c->model.vision);
    json_audio(&t, &f->c->model);
    um_text_fmt(&t, ", \"parts\": {");
    for (int i = 0; i < PARTS; i++) {
        char dtypes[64];
        dtypes_text(dtypes, f->dtypes[i]);
        um_text_fmt(
            &t, "%s\"%s\": {\"values\": %" PRId64 ", \"bytes\": %" PRId64 ", \"dtype\": \"%s\"}",
            i > 0 ? ", " : "", part_name[i], f->params[i], f->bytes[i], dtypes);
    }
    um_text_fmt(&t,
                "}, \"tensors\": {\"wanted\": %" PRId64 ", \"found\": %" PRId64
                ", \"missing\": %" PRId64 ", \"misshapen\": %" PRId64 ", \"unexpected\": %" PRId64
                ", \"not_needed\": %" PRId64 "}",
                a->wanted, a->found, a->missing, a->misshapen, a->unexpected, a->ignored);
    um_text_fmt(&t, ", \"notes\": [");
    for (int i = 0; i < f->c->model.notes.n; i++) {
        um_text_fmt(&t, "%s", i > 0 ? ", " : "");
        um_text_json(&t, f->c->model.notes.line[i]);
    }
    um_text_fmt(&t, "], \"problems\": [%s]}\n", f->problems.n > 0 ? f->problems.s : "");
    fprintf(out, "%s", t.s);
    um_text_free(&t);
}

static um_status look(findings *f, um_err *err)
{
    um_model_params(&f->c->model, &f->total, &f->active);
    UM_TRY(um_model_for_each_tensor(&f->c->model, part_count, f, err));
    return um_audit_run(f->c, &f->audit, problem, f, err);
}

/* --- verifying the files --- */

static void verdict_print(FILE *out, const char *dir, const findings *f, const um_verdict *v)
{
    const char *problems = f->problems.n > 0 ? f->problems.s : "";
    if (!f->json) {
        fprintf(out,
                "%s%s: %" PRId64 " files with %" PRId64 " bytes are as the manifest says, %" PRId64
                " are not, %" PRId64 " are missing, %" PRId64 " are not in it\n",
                problems, dir, v->files, v->bytes, v->bad, v->missing, v->extra);
        return;
    }
    um_text t = {0};
    um_text_fmt(&t, "{\"model\": ");
    um_text_json(&t, dir);
    um_text_fmt(&t,
                ", \"files\": %" PRId64 ", \"bytes\": %" PRId64 ", \"bad\": %" PRId64
                ", \"missing\": %" PRId64 ", \"extra\": %" PRId64 ", \"problems\": [%s]}\n",
                v->files, v->bytes, v->bad, v->missing, v->extra, problems);
    fprintf(out, "%s", t.s);
    um_text_free(&t);
}

static um_status verify(const char *dir, bool json, FILE *out, um_err *err)
{
    findings f = {.json = json};
    um_verdict v = {0};
    um_status st = um_manifest_verify(dir, &v, problem, &f, err);
    if (st == UM_OK) verdict_print(out, dir, &f, &v);
    if (st == UM_OK && v.bad + v.missing + v.extra > 0)
        st = UM_FAIL(err, UM_E_MODEL, "%s: not as its manifest.json says", dir);
    um_text_free(&f.problems);
    return st;
}

um_status um_inspect_run(const um_config *cfg, FILE *out, um_err *err)
{
    const char *dir = cfg->model != NULL && cfg->model[0] != '\0' ? cfg->model
                      : cfg->args.n > 0                           ? cfg->args.item[0]
                                                                  : "";
    if (dir[0] == '\0') return UM_FAIL(err, UM_E_USAGE, "say which model directory to look at");
    if (cfg->verify) return verify(dir, cfg->json, out, err);
    um_towers towers = {cfg->vision_tower, cfg->speech_tower, cfg->sound_tower};
    um_checkpoint c = {0};
    UM_TRY(um_checkpoint_open(&c, dir, &towers, err));
    findings f = {.c = &c, .json = cfg->json};
    um_status st = look(&f, err);
    if (st == UM_OK && f.json)
        print_json(out, &f);
    else if (st == UM_OK)
        print_text(out, &f);
    if (st == UM_OK && f.audit.missing + f.audit.misshapen > 0) {
        st = UM_FAIL(err, UM_E_MODEL,
                     "%s: %" PRId64 " tensors are missing, %" PRId64 " have another shape", dir,
                     f.audit.missing, f.audit.misshapen);
    }
    if (st == UM_OK) st = um_model_tokenizer_check(dir, err);
    um_text_free(&f.problems);
    um_checkpoint_close(&c);
    return st;
}
