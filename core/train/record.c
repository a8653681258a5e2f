/* See record.h. */
#include "core/train/record.h"

#include "core/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

enum { LOG_LIMIT = 1 << 30 };

static const char *const term_name[UM_RECORD_TERMS] = {"balance", "multimodal", "kl", "z"};

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

/* --- the log --- */

/* Bytes of the records up to a step: lines that are whole and in order. */
static size_t kept(const char *text, size_t size, uint64_t step)
{
    size_t end = 0;
    while (end < size) {
        const char *nl = memchr(text + end, '\n', size - end);
        um_json *j = NULL;
        um_train_record r;
        um_err why = {0};
        if (nl == NULL) break;
        size_t n = (size_t)(nl - text) - end;
        bool fits = um_json_parse(&j, text + end, n, &why) == UM_OK && um_record_read(&r, j) &&
                    r.step <= step;
        um_json_free(j);
        if (!fits) break;
        end += n + 1;
    }
    return end;
}

um_status um_record_log_open(int *fd, const char *out, uint64_t step, um_err *err)
{
    um_arena a;
    uint8_t *text = NULL;
    size_t size = 0;
    um_arena_init(&a, "log", 1 << 16);
    const char *path = um_path_join(&a, out, "trainer_log.jsonl");
    um_status st = UM_OK;
    if (step > 0 && um_file_exists(path)) st = um_file_read(&text, &size, path, LOG_LIMIT, &a, err);
    if (st == UM_OK)
        st = um_file_write(path, text == NULL ? "" : (const char *)text,
                           kept((const char *)text, size, step), err);
    *fd = st == UM_OK ? open(path, O_WRONLY | O_APPEND | O_CLOEXEC) : -1;
    if (st == UM_OK && *fd < 0) st = UM_FAIL(err, UM_E_IO, "%s: %s", path, strerror(errno));
    um_arena_free(&a);
    return st;
}

um_status um_record_log_add(int fd, const um_train_record *r, um_err *err)
{
    um_text t = {0};
    um_record_json(&t, r);
    um_text_add(&t, "\n", 1);
    um_status st = um_file_put(fd, t.s, t.n, "trainer_log.jsonl", err);
    um_text_free(&t);
    return st;
}
