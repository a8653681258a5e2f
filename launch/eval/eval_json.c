/* eval.json. See eval_report.h. */
#include "launch/eval/eval_report.h"

#include <string.h>

static void key(um_text *to, const char *name, const char *value)
{
    um_text_fmt(to, "\"%s\":", name);
    um_text_json(to, value);
}

static void models_write(um_text *to, const um_outcome *o)
{
    um_text_fmt(to, ",\n\"models\":[");
    for (int k = 0; k < o->models->n; k++) {
        const um_listed_model *m = &o->models->list[k];
        um_text_fmt(to, "%s\n{", k > 0 ? "," : "");
        key(to, "name", m->name);
        um_text_fmt(to, ",");
        key(to, m->answers ? "answers" : "folder", m->path);
        if (!m->answers) um_text_fmt(to, ",\"sha256\":\"%s\"", m->digest);
        um_text_fmt(to, "}");
    }
    um_text_fmt(to, "],\n\"tasks\":[");
    for (int t = 0; t < o->tasks->n; t++) {
        const um_listed_task *l = &o->tasks->list[t];
        um_text_fmt(to, "%s\n{", t > 0 ? "," : "");
        key(to, "name", l->name);
        um_text_fmt(to, ",");
        key(to, "file", l->path);
        um_text_fmt(to,
                    ",\"format\":\"%s\",\"metric\":\"%s\",\"questions\":%zu,\"left_out\":%zu,"
                    "\"sha256\":\"%s\"}",
                    l->task.name, um_eval_metric_name(l->task.metric), l->task.n, l->task.left_out,
                    l->digest);
    }
    um_text_fmt(to, "]");
}

/* The questions that failed, with the reasons; of many the first. */
static void failures_write(um_text *to, const um_outcome *o, const um_measure *m, int model)
{
    enum { MOST = 100 };
    const um_given *g = &o->given[model * o->tasks->n + m->task];
    const um_eval_task *t = &o->tasks->list[m->task].task;
    int n = 0;
    if (!m->main || g->failure == NULL) return;
    um_text_fmt(to, ",\"failures\":[");
    for (size_t i = 0; i < t->n && n < MOST; i++) {
        if (g->failure[i] == NULL) continue;
        um_text_fmt(to, "%s{", n++ > 0 ? "," : "");
        key(to, "id", t->items[i].id);
        um_text_fmt(to, ",");
        key(to, "why", g->failure[i]);
        um_text_fmt(to, "}");
    }
    um_text_fmt(to, "]");
}

static void marks_write(um_text *to, const um_outcome *o, const um_measure *m, int model)
{
    const um_marks *p = &m->of[model];
    um_text_fmt(to, "{");
    key(to, "model", o->models->list[model].name);
    um_text_fmt(to, ",\"n\":%ld,\"answered\":%ld,\"no_answer\":%ld,\"failed\":%ld,\"lacking\":%ld",
                p->there ? p->tally.rows[0].n : 0, p->answered, p->silent, p->failed, p->lacking);
    if (strncmp(m->name, "likelihood", 10) == 0) um_text_fmt(to, ",\"ties\":%ld", p->ties);
    failures_write(to, o, m, model);
    if (p->there) {
        um_text_fmt(to, ",\"scores\":");
        um_tally_json(to, &p->tally);
    }
    um_text_fmt(to, "}");
}

static void pairs_write(um_text *to, const um_outcome *o, const um_measure *m)
{
    um_text_fmt(to, ",\n \"pairs\":[");
    for (int i = 0; i < m->n_pairs; i++) {
        const um_pair *p = &m->pairs[i];
        um_text_fmt(to, "%s{", i > 0 ? "," : "");
        key(to, "a", o->models->list[p->a].name);
        um_text_fmt(to, ",");
        key(to, "b", o->models->list[p->b].name);
        um_text_fmt(to, ",\"n\":%ld,\"difference\":%.6g,\"low\":%.6g,\"high\":%.6g", p->found.n,
                    p->found.difference, p->found.interval.low, p->found.interval.high);
        if (p->found.counts)
            um_text_fmt(to, ",\"only_a\":%ld,\"only_b\":%ld,\"mcnemar_p\":%.6g", p->found.only_a,
                        p->found.only_b, p->found.p);
        um_text_fmt(to, "}");
    }
    um_text_fmt(to, "]");
}

static void worst_write(um_text *to, const um_outcome *o, const um_measure *m)
{
    const um_eval_task *t = &o->tasks->list[m->task].task;
    um_text_fmt(to, ",\n \"worst\":[");
    for (int i = 0; i < m->n_worst; i++) {
        um_text_fmt(to, i > 0 ? "," : "");
        um_text_json(to, t->items[m->worst[i]].id);
    }
    um_text_fmt(to, "]");
}

static void measures_write(um_text *to, const um_outcome *o)
{
    um_text_fmt(to, ",\n\"measures\":[");
    for (int i = 0; i < o->n_measures; i++) {
        const um_measure *m = &o->measures[i];
        um_text_fmt(to, "%s\n{", i > 0 ? "," : "");
        key(to, "task", o->tasks->list[m->task].name);
        um_text_fmt(to, ",\"measure\":\"%s\",\"main\":%s,\n \"models\":[", m->name,
                    m->main ? "true" : "false");
        for (int k = 0; k < o->models->n; k++) {
            um_text_fmt(to, k > 0 ? ",\n  " : "\n  ");
            marks_write(to, o, m, k);
        }
        um_text_fmt(to, "]");
        pairs_write(to, o, m);
        worst_write(to, o, m);
        um_text_fmt(to, "}");
    }
    um_text_fmt(to, "]");
}

static void modalities_write(um_text *to, const um_outcome *o)
{
    um_text_fmt(to, ",\n\"modalities\":[");
    for (int r = 0; r < o->n_modalities; r++) {
        um_text_fmt(to, "%s\n{", r > 0 ? "," : "");
        key(to, "modality", o->modalities[r].name);
        um_text_fmt(to, ",\"models\":[");
        for (int k = 0; k < o->models->n; k++) {
            const um_modality_score *s = &o->modalities[r].of[k];
            um_text_fmt(to, "%s{", k > 0 ? "," : "");
            key(to, "model", o->models->list[k].name);
            um_text_fmt(to, ",\"n\":%ld", s->n);
            if (s->n > 0)
                um_text_fmt(to, ",\"score\":%.6g,\"low\":%.6g,\"high\":%.6g", s->score,
                            s->interval.low, s->interval.high);
            um_text_fmt(to, "}");
        }
        um_text_fmt(to, "]}");
    }
    um_text_fmt(to, "]");
}

static void bias_row_write(um_text *to, const um_outcome *o, const um_bias_row *row)
{
    um_text_fmt(to, "\n {");
    key(to, "name", row->name);
    if (row->specialist >= 0) {
        um_text_fmt(to, ",");
        key(to, "specialist", o->models->list[row->specialist].name);
        um_text_fmt(to, ",\"models\":[");
        for (int k = 0; k < o->models->n; k++) {
            um_text_fmt(to, "%s{", k > 0 ? "," : "");
            key(to, "model", o->models->list[k].name);
            um_text_fmt(to, ",\"n\":%ld,\"score\":%.6g,\"specialist\":%.6g}", row->n[k],
                        row->score[k], row->best[k]);
        }
        um_text_fmt(to, "]");
    }
    um_text_fmt(to, "}");
}

static void bias_write(um_text *to, const um_outcome *o)
{
    const um_bias *b = &o->bias;
    if (!o->has_bias) return;
    um_text_fmt(to, ",\n\"bias\":{\"by\":\"%s\",\"models\":[",
                o->bias_by_task ? "task" : "modality");
    for (int k = 0; k < o->models->n; k++) {
        const um_bias_interval *i = &b->interval[k];
        um_text_fmt(to, "%s\n {", k > 0 ? "," : "");
        key(to, "model", o->models->list[k].name);
        um_text_fmt(to, ",\"n\":%d", b->index[k].n);
        if (b->index[k].n > 0)
            um_text_fmt(to,
                        ",\"mean\":%.6g,\"mean_low\":%.6g,\"mean_high\":%.6g,\"deviation\":%.6g,"
                        "\"deviation_low\":%.6g,\"deviation_high\":%.6g",
                        b->index[k].mean, i->mean.low, i->mean.high, b->index[k].deviation,
                        i->deviation.low, i->deviation.high);
        um_text_fmt(to, "}");
    }
    um_text_fmt(to, "],\n\"rows\":[");
    for (int r = 0; r < b->n; r++) {
        if (r > 0) um_text_fmt(to, ",");
        bias_row_write(to, o, &b->rows[r]);
    }
    um_text_fmt(to, "]}");
}

void um_eval_json_write(um_text *to, const um_outcome *o)
{
    um_text_fmt(to, "{\"format\":\"unimoe-eval\",\"version\":1,\"unimoe\":\"%s\"", UM_VERSION);
    models_write(to, o);
    measures_write(to, o);
    modalities_write(to, o);
    bias_write(to, o);
    um_text_fmt(to, "}\n");
}
