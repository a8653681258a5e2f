/* See trainer_state.h. */
#include "router/train/trainer_state.h"

#include "core/base/log.h"
#include "proto/frame.h"
#include "router/train/train_step.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { SETTLED = 20 }; /* steps after which the usual norm is known */

um_step_verdict um_trainer_state_judge(um_trainer_state *v, const um_step_totals *totals,
                                       double squares, const um_config *cfg)
{
    um_step_verdict out = {.norm = NAN};
    const double n = (double)totals->targets, *sum = totals->value;
    const double loss = sum[UM_SUM_LOSS] + sum[UM_SUM_ADDED];
    v->last_step++;
    v->lost += (uint64_t)sum[UM_SUM_LOST];
    if (totals->targets > 0) {
        out.scale = 1 / n;
        out.norm = sqrt(squares) / n;
    }
    if (totals->targets == 0)
        out.skip = "none of its samples could be used";
    else if (!isfinite(loss))
        out.skip = "the loss is not a finite number";
    else if (!isfinite(out.norm))
        out.skip = "the gradient is not finite";
    else if (cfg->spike > 0 && v->seen >= SETTLED && out.norm > cfg->spike * v->usual) {
        snprintf(v->why, sizeof v->why, "the gradient has norm %.3g, of late it was %.3g", out.norm,
                 v->usual);
        out.skip = v->why;
    }
    if (out.skip != NULL) {
        v->skipped++;
        v->row++;
        um_log_warn("step %" PRIu64 " changes nothing: %s", v->last_step, out.skip);
        return out;
    }
    v->row = 0;
    v->usual = v->seen == 0 ? out.norm : 0.95 * v->usual + 0.05 * out.norm;
    v->seen++;
    if (cfg->clip > 0 && out.norm > cfg->clip) /* as torch.nn.utils.clip_grad_norm_ */
        out.scale *= cfg->clip / (out.norm + 1e-6);
    return out;
}

void um_trainer_state_evaluated(um_trainer_state *v, uint64_t step, double loss, bool saved)
{
    if (!saved || !isfinite(loss)) return;
    if (v->best_step > 0 && loss >= v->best_loss) return;
    v->best_step = step;
    v->best_loss = loss;
}

/* --- what must agree --- */

um_run_origin um_run_origin_of(const um_checkpoint *model, const char *data)
{
    um_run_origin o = {.data = data};
    um_arena a;
    um_weight_prints prints;
    um_arena_init(&a, "prints", 1 << 12);
    um_checkpoint_prints(model, &prints, &a);
    snprintf(o.model, sizeof o.model, "%016" PRIx64,
             um_xxh3(prints.print, (size_t)prints.n * sizeof *prints.print));
    um_arena_free(&a);
    return o;
}

/* Options that decide what a step is, and what trains. */
static void text_of(const um_config *cfg, const um_run_origin *origin, const char *name,
                    um_text *out)
{
    const struct {
        const char *name, *value;
    } texts[] = {{"data", origin->data},          {"model", origin->model},
                 {"stage", cfg->stage},           {"connector", cfg->connector},
                 {"train-what", cfg->train_what}, {"freeze", cfg->freeze},
                 {"lora-what", cfg->lora_what}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (strcmp(name, texts[i].name) == 0) um_text_fmt(out, "%s", texts[i].value);
    if (strcmp(name, "lora-r") == 0) um_text_fmt(out, "%" PRId64, cfg->lora_r);
    if (strcmp(name, "lora-alpha") == 0) um_text_fmt(out, "%g", cfg->lora_alpha);
    if (strcmp(name, "seed") == 0) um_text_fmt(out, "%" PRId64, cfg->seed);
    if (strcmp(name, "batch") == 0) um_text_fmt(out, "%" PRId64, cfg->batch);
    if (strcmp(name, "micro-batch") == 0) um_text_fmt(out, "%" PRId64, cfg->micro_batch);
    if (strcmp(name, "max-length") == 0) um_text_fmt(out, "%" PRId64, cfg->max_length);
    if (strcmp(name, "group-by-length") == 0)
        um_text_fmt(out, "%s", cfg->group_by_length ? "true" : "false");
}

/* Options that say how far and how fast a run goes on: a number, or a text when it is not NULL. */
typedef struct pace_option {
    const char *name, *text;
    double value;
} pace_option;

enum { PACE_OPTIONS = 19 };

static void pace_options(pace_option out[PACE_OPTIONS], const um_config *cfg)
{
    const pace_option list[PACE_OPTIONS] = {{"steps", NULL, (double)cfg->steps},
                                            {"epochs", NULL, cfg->epochs},
                                            {"lr", NULL, cfg->lr},
                                            {"lr-for", cfg->lr_for, 0},
                                            {"schedule", cfg->schedule, 0},
                                            {"warmup", NULL, cfg->warmup},
                                            {"decay", NULL, cfg->decay},
                                            {"min-lr", NULL, cfg->min_lr},
                                            {"weight-decay", NULL, cfg->weight_decay},
                                            {"adam-beta1", NULL, cfg->adam_beta1},
                                            {"adam-beta2", NULL, cfg->adam_beta2},
                                            {"adam-epsilon", NULL, cfg->adam_epsilon},
                                            {"clip", NULL, cfg->clip},
                                            {"spike", NULL, cfg->spike},
                                            {"balance-coef", NULL, cfg->balance_coef},
                                            {"multimodal-coef", NULL, cfg->multimodal_coef},
                                            {"kl-coef", NULL, cfg->kl_coef},
                                            {"balance-bias", NULL, cfg->balance_bias},
                                            {"z-coef", NULL, cfg->z_coef}};
    memcpy(out, list, sizeof list);
}

static void pace_text(um_text *out, const pace_option *o)
{
    if (o->text != NULL)
        um_text_fmt(out, "%s", o->text);
    else
        um_text_fmt(out, "%.15g", o->value);
}

static const char *const agreed[] = {
    "data",  "model",     "seed",       "batch",  "micro-batch", "max-length", "group-by-length",
    "stage", "connector", "train-what", "freeze", "lora-r",      "lora-alpha", "lora-what"};
enum { AGREED = (int)(sizeof agreed / sizeof *agreed) };

void um_trainer_state_write(um_text *out, const um_trainer_state *v, uint64_t step, uint64_t steps,
                            const um_config *cfg, const um_run_origin *origin)
{
    um_text_fmt(out,
                "{\"step\":%" PRIu64 ",\"steps\":%" PRIu64 ",\n \"cursor\":{\"epoch\":%" PRId64
                ",\"step\":%" PRId64 "},\n",
                step, steps, v->cursor.epoch, v->cursor.step);
    um_text_fmt(out,
                " \"usual_norm\":%.17g,\"counted\":%" PRIu64 ",\"skipped_in_a_row\":%d,"
                "\"skipped\":%" PRIu64 ",\"lost\":%" PRIu64 ",\n",
                v->usual, v->seen, v->row, v->skipped, v->lost);
    um_text_fmt(out, " \"best\":{\"step\":%" PRIu64 ",\"loss\":%.17g},\n \"options\":{",
                v->best_step, v->best_loss);
    for (int i = 0; i < AGREED; i++) {
        um_text value = {0};
        text_of(cfg, origin, agreed[i], &value);
        um_text_fmt(out, "%s\"%s\":", i > 0 ? "," : "", agreed[i]);
        um_text_json(out, value.s == NULL ? "" : value.s);
        um_text_free(&value);
    }
    pace_option pace[PACE_OPTIONS];
    pace_options(pace, cfg);
    for (int i = 0; i < PACE_OPTIONS; i++) {
        um_text value = {0};
        pace_text(&value, &pace[i]);
        um_text_fmt(out, ",\"%s\":", pace[i].name);
        um_text_json(out, value.s == NULL ? "" : value.s);
        um_text_free(&value);
    }
    um_text_fmt(out, "}}\n");
}

static um_status compare(const um_json *options, const char *name, const um_config *cfg,
                         const um_run_origin *origin, um_err *err)
{
    const char *was = um_json_str(um_json_get(options, name), NULL);
    um_text text = {0};
    text_of(cfg, origin, name, &text);
    const char *is = text.s == NULL ? "" : text.s;
    um_status st = UM_OK;
    if (was == NULL || strcmp(was, is) == 0) /* NULL: a checkpoint from before it was kept */
        st = UM_OK;
    else if (strcmp(name, "data") == 0)
        st = UM_FAIL(err, UM_E_USAGE,
                     "--resume: the files of --data, or their weights, are not those that the run "
                     "was started with");
    else if (strcmp(name, "model") == 0)
        st = UM_FAIL(err, UM_E_USAGE,
                     "--resume: the weights of %s are not those that the run was started with",
                     cfg->model);
    else
        st = UM_FAIL(err, UM_E_USAGE, "--resume: the run was started with --%s \"%s\", not \"%s\"",
                     name, was, is);
    um_text_free(&text);
    return st;
}

um_status um_trainer_state_read(um_trainer_state *v, const um_json *state, const um_config *cfg,
                                const um_run_origin *origin, um_err *err)
{
    const um_json *cursor = um_json_get(state, "cursor"), *best = um_json_get(state, "best"),
                  *options = um_json_get(state, "options");
    for (int i = 0; i < AGREED; i++) UM_TRY(compare(options, agreed[i], cfg, origin, err));
    v->last_step = (uint64_t)um_json_int(um_json_get(state, "step"), 0);
    v->cursor = (um_order_cursor){um_json_int(um_json_get(cursor, "epoch"), 0),
                                  um_json_int(um_json_get(cursor, "step"), 0)};
    v->usual = um_json_num(um_json_get(state, "usual_norm"), 0);
    v->seen = (uint64_t)um_json_int(um_json_get(state, "counted"), 0);
    v->row = (int)um_json_int(um_json_get(state, "skipped_in_a_row"), 0);
    v->skipped = (uint64_t)um_json_int(um_json_get(state, "skipped"), 0);
    v->lost = (uint64_t)um_json_int(um_json_get(state, "lost"), 0);
    v->best_step = (uint64_t)um_json_int(um_json_get(best, "step"), 0);
    v->best_loss = um_json_num(um_json_get(best, "loss"), 0);
    return UM_OK;
}

int um_trainer_state_changes(um_text *out, const um_json *state, const um_config *cfg)
{
    const um_json *options = um_json_get(state, "options");
    pace_option pace[PACE_OPTIONS];
    int n = 0;
    pace_options(pace, cfg);
    for (int i = 0; i < PACE_OPTIONS; i++) {
        const char *was = um_json_str(um_json_get(options, pace[i].name), NULL);
        um_text is = {0};
        pace_text(&is, &pace[i]);
        const char *now = is.s == NULL ? "" : is.s;
        if (was != NULL && strcmp(was, now) != 0)
            um_text_fmt(out, "%s--%s %s, which was %s", n++ > 0 ? "; " : "", pace[i].name,
                        now[0] == '\0' ? "none" : now, was[0] == '\0' ? "none" : was);
        um_text_free(&is);
    }
    return n;
}
