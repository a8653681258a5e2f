/* See record.h. */
#include "core/train/record.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const char *const term_name[UM_RECORD_TERMS] = {"balance", "multimodal", "kl", "z"};

const char *um_record_term(int term) { return term_name[term]; }

/* --- JSON --- */

static void real(um_text *out, const char *key, double v)
{
    if (isfinite(v))
        um_text_fmt(out, ",\"%s\":%.9g", key, v);
    else
        um_text_fmt(out, ",\"%s\":null", key);
}

static void word(um_text *out, const char *key, const char *v)
{
    if (v == NULL) return;
    um_text_fmt(out, ",\"%s\":", key);
    um_text_json(out, v);
}

void um_record_json(um_text *out, const um_train_record *r)
{
    um_text_fmt(out, "{\"kind\":\"step\",\"step\":%" PRIu64 ",\"steps\":%" PRIu64, r->step,
                r->steps);
    real(out, "epoch", r->epoch);
    real(out, "loss", r->loss);
    real(out, "cross_entropy", r->cross_entropy);
    real(out, "lr", r->lr);
    real(out, "norm", r->norm);
    for (int t = 0; t < UM_RECORD_TERMS; t++) real(out, term_name[t], r->aux[t]);
    um_text_fmt(out, ",\"loss_of\":{");
    for (int m = 0, n = 0; m < UM_MODALITIES; m++)
        if (isfinite(r->by_modality[m]))
            um_text_fmt(out, "%s\"%s\":%.9g", n++ > 0 ? "," : "", um_modality_name((um_modality)m),
                        r->by_modality[m]);
    um_text_fmt(out,
                "},\"samples\":%" PRIu64 ",\"targets\":%" PRIu64 ",\"rows\":%" PRIu64
                ",\"lost\":%" PRIu64,
                r->samples, r->targets, r->rows, r->lost);
    word(out, "media", r->media);
    real(out, "seconds", r->seconds);
    real(out, "rows_per_second", r->rows_per_second);
    real(out, "left_seconds", r->left_seconds);
    word(out, "skipped", r->skipped);
    if (isfinite(r->eval_loss)) real(out, "eval_loss", r->eval_loss);
    word(out, "saved", r->saved);
    if (r->load.layers > 0) {
        um_text_fmt(out, ",\"load\":");
        um_expert_load_json(out, &r->load);
    }
    um_text_add(out, "}", 1);
}

static double number(const um_json *j, const char *key)
{
    return um_json_num(um_json_get(j, key), NAN);
}

static uint64_t count(const um_json *j, const char *key)
{
    int64_t v = um_json_int(um_json_get(j, key), 0);
    return v > 0 ? (uint64_t)v : 0;
}

bool um_record_read(um_train_record *out, const um_json *j)
{
    if (strcmp(um_json_str(um_json_get(j, "kind"), ""), "step") != 0) return false;
    um_train_record r = {.step = count(j, "step"),
                         .steps = count(j, "steps"),
                         .epoch = number(j, "epoch"),
                         .loss = number(j, "loss"),
                         .cross_entropy = number(j, "cross_entropy"),
                         .lr = number(j, "lr"),
                         .norm = number(j, "norm"),
                         .samples = count(j, "samples"),
                         .targets = count(j, "targets"),
                         .rows = count(j, "rows"),
                         .lost = count(j, "lost"),
                         .media = um_json_str(um_json_get(j, "media"), NULL),
                         .seconds = number(j, "seconds"),
                         .rows_per_second = number(j, "rows_per_second"),
                         .left_seconds = number(j, "left_seconds"),
                         .skipped = um_json_str(um_json_get(j, "skipped"), NULL),
                         .eval_loss = number(j, "eval_loss"),
                         .saved = um_json_str(um_json_get(j, "saved"), NULL)};
    for (int t = 0; t < UM_RECORD_TERMS; t++) r.aux[t] = number(j, term_name[t]);
    for (int m = 0; m < UM_MODALITIES; m++)
        r.by_modality[m] = number(um_json_get(j, "loss_of"), um_modality_name((um_modality)m));
    *out = r;
    return r.step > 0;
}

/* --- for people --- */

static void time_left(um_text *out, double s)
{
    if (!isfinite(s)) return;
    if (s < 90)
        um_text_fmt(out, "  %.0f s left", s);
    else if (s < 5400)
        um_text_fmt(out, "  %.0f min left", s / 60);
    else
        um_text_fmt(out, "  %.1f h left", s / 3600);
}

void um_record_line(um_text *out, const um_train_record *r)
{
    um_text_fmt(out, "step %" PRIu64 "/%" PRIu64 "  loss %.4f  lr %.2e  norm %.3g", r->step,
                r->steps, r->loss, r->lr, r->norm);
    if (r->rows_per_second >= 10000)
        um_text_fmt(out, "  %.1fk tokens/s", r->rows_per_second / 1000);
    else
        um_text_fmt(out, "  %.0f tokens/s", r->rows_per_second);
    time_left(out, r->left_seconds);
    for (int m = 0; m < UM_MODALITIES; m++)
        if (isfinite(r->by_modality[m]))
            um_text_fmt(out, "  %s %.3f", um_modality_name((um_modality)m), r->by_modality[m]);
    if (isfinite(r->eval_loss)) um_text_fmt(out, "  held-out loss %.4f", r->eval_loss);
    if (r->lost > 0) um_text_fmt(out, "  %" PRIu64 " samples left out", r->lost);
    if (r->skipped != NULL) um_text_fmt(out, "  skipped: %s", r->skipped);
    if (r->saved != NULL) um_text_fmt(out, "  saved %s", r->saved);
}

/* --- a table --- */

static void field(um_text *out, const char *v)
{
    um_text_add(out, ",", 1);
    if (v == NULL) return;
    if (strpbrk(v, ",\"\r\n") == NULL) {
        um_text_add(out, v, strlen(v));
        return;
    }
    um_text_add(out, "\"", 1);
    for (const char *c = v; *c != '\0'; c++)
        um_text_add(out, *c == '"' ? "\"\"" : c, *c == '"' ? 2 : 1);
    um_text_add(out, "\"", 1);
}

static void real_field(um_text *out, double v)
{
    if (isfinite(v))
        um_text_fmt(out, ",%.9g", v);
    else
        um_text_add(out, ",", 1);
}

/* Of what is computed from the record's JSON too: with the digits that both ways have. */
static void figure_field(um_text *out, double v)
{
    if (isfinite(v))
        um_text_fmt(out, ",%.6g", v);
    else
        um_text_add(out, ",", 1);
}

static void whole_field(um_text *out, uint64_t v) { um_text_fmt(out, ",%" PRIu64, v); }

void um_record_csv_columns(um_text *out)
{
    um_text_fmt(out, "step,steps,epoch,media,loss,cross_entropy,lr,norm");
    for (int t = 0; t < UM_RECORD_TERMS; t++) um_text_fmt(out, ",%s", term_name[t]);
    for (int m = 0; m < UM_MODALITIES; m++)
        um_text_fmt(out, ",loss_%s", um_modality_name((um_modality)m));
    um_text_fmt(out, ",samples,targets,rows,lost,seconds,rows_per_second,left_seconds,"
                     "load_max_over_mean,load_entropy,load_idle,skipped,eval_loss\r\n");
}

void um_record_csv(um_text *out, const um_train_record *r)
{
    um_text_fmt(out, "%" PRIu64, r->step);
    whole_field(out, r->steps);
    real_field(out, r->epoch);
    field(out, r->media);
    const double of_step[] = {r->loss, r->cross_entropy, r->lr, r->norm};
    for (size_t i = 0; i < sizeof of_step / sizeof *of_step; i++) real_field(out, of_step[i]);
    for (int t = 0; t < UM_RECORD_TERMS; t++) real_field(out, r->aux[t]);
    for (int m = 0; m < UM_MODALITIES; m++) real_field(out, r->by_modality[m]);
    const uint64_t counts[] = {r->samples, r->targets, r->rows, r->lost};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) whole_field(out, counts[i]);
    real_field(out, r->seconds);
    real_field(out, r->rows_per_second);
    real_field(out, r->left_seconds);
    figure_field(out, um_expert_load_max_over_mean(&r->load));
    figure_field(out, um_expert_load_entropy(&r->load));
    if (r->load.layers > 0)
        whole_field(out, (uint64_t)um_expert_load_idle(&r->load));
    else
        field(out, NULL);
    field(out, r->skipped);
    real_field(out, r->eval_loss);
    um_text_fmt(out, "\r\n");
}
