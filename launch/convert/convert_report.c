/* Reports how every tensor of the sources was used: conversion.json, and a short summary for the user. See convert_job.h. */
#include "launch/convert/convert_job.h"

#include "core/base/file.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

void um_convert_note(um_convert *cv, const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    um_text_fmt(&cv->notes, "%s\n", line);
}

static void tensor_line(um_text *t, const um_source_tensor *x)
{
    char shape[96];
    um_shape_text(shape, x->rank, x->shape);
    um_text_fmt(t, "  {\"file\": ");
    um_text_json(t, x->file);
    um_text_fmt(t, ", \"tensor\": ");
    um_text_json(t, x->name);
    um_text_fmt(t, ", \"dtype\": \"%s\", \"shape\": %s, \"%s\": ", um_dtype_name(x->dtype), shape,
                x->used != NULL ? "used" : "unused");
    um_text_json(t, x->used != NULL ? x->used : x->unused != NULL ? x->unused : "not asked for");
    um_text_fmt(t, "}");
}

static void lines_json(um_text *t, const char *key, const um_text *lines)
{
    const char *s = lines->n > 0 ? lines->s : "";
    um_text_fmt(t, " \"%s\": [", key);
    for (bool first = true; *s != '\0'; first = false) {
        size_t n = strcspn(s, "\n");
        um_text line = {0};
        um_text_add(&line, s, n);
        um_text_fmt(t, "%s\n  ", first ? "" : ",");
        um_text_json(t, line.s);
        um_text_free(&line);
        s += n + (s[n] == '\n');
    }
    um_text_fmt(t, "],\n");
}

um_status um_convert_report(um_convert *cv, um_err *err)
{
    um_text t = {0};
    um_text_fmt(&t, "{\n \"variant\": \"%s\",\n \"config\": ", cv->model.variant);
    um_text_json(&t, cv->config_path);
    um_text_fmt(&t, ",\n \"adapter\": \"%s\",\n \"weights\": \"%s\",\n",
                cv->adapter.list == NULL ? "none" : cv->cfg->adapter, cv->cfg->weights);
    lines_json(&t, "notes", &cv->notes);
    um_text_fmt(&t, " \"tensors\": [\n");
    bool first = true;
    for (size_t l = 0; l < cv->src.lists; l++) {
        for (size_t i = 0; i < cv->src.list[l]->n; i++) {
            if (!first) um_text_fmt(&t, ",\n");
            first = false;
            tensor_line(&t, &cv->src.list[l]->item[i]);
        }
    }
    um_text_fmt(&t, "\n ]\n}\n");
    um_status st =
        um_file_write(um_path_join(&cv->arena, cv->tmp, "conversion.json"), t.s, t.n, err);
    um_text_free(&t);
    return st;
}

enum { REASONS = 64 };

/* "unused: 12 computed from the config": one line for each reason. */
static void unused_lines(um_convert *cv)
{
    const char *reason[REASONS];
    int64_t count[REASONS] = {0}, others = 0;
    int n = 0;
    for (size_t l = 0; l < cv->src.lists; l++) {
        for (size_t i = 0; i < cv->src.list[l]->n; i++) {
            const um_source_tensor *t = &cv->src.list[l]->item[i];
            const char *why = t->unused != NULL ? t->unused : "not asked for";
            int k = 0;
            if (t->used != NULL) continue;
            while (k < n && strcmp(reason[k], why) != 0) k++;
            if (k == REASONS) {
                others++;
                continue;
            }
            if (k == n) reason[n++] = why;
            count[k]++;
        }
    }
    for (int k = 0; k < n; k++)
        fprintf(cv->out, "  unused      %" PRId64 ": %s\n", count[k], reason[k]);
    if (others > 0) fprintf(cv->out, "  unused      %" PRId64 ": for other reasons\n", others);
}

void um_convert_summary(um_convert *cv)
{
    int64_t used = 0, all = 0;
    for (size_t l = 0; l < cv->src.lists; l++) {
        for (size_t i = 0; i < cv->src.list[l]->n; i++)
            used += cv->src.list[l]->item[i].used != NULL;
        all += (int64_t)cv->src.list[l]->n;
    }
    fprintf(cv->out, "%s\n", cv->cfg->out);
    fprintf(cv->out, "  variant     %s\n",
            cv->model.variant != NULL ? cv->model.variant : "unknown");
    fprintf(cv->out, "  tensors     %" PRId64 " of %" PRId64 " used\n", used, all);
    unused_lines(cv);
    if (cv->written > 0)
        fprintf(cv->out, "  written     %" PRId64 " bytes of weights\n", cv->written);
    for (const char *s = cv->notes.n > 0 ? cv->notes.s : ""; *s != '\0';) {
        size_t n = strcspn(s, "\n");
        fprintf(cv->out, "  note        %.*s\n", (int)n, s);
        s += n + (s[n] == '\n');
    }
    if (cv->problems.n > 0) fprintf(cv->out, "%s", cv->problems.s);
}
