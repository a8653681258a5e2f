/* eval.html: one page without scripts that refers to nothing outside it. All text of files and models goes through um_xml_text. See
 * eval_report.h. */
#include "launch/eval/eval_report.h"

#include "launch/plot/svg.h"

#include <string.h>

static const char style[] =
    ":root{color-scheme:light "
    "dark;--back:#fff;--text:#1a1a1a;--soft:#666;--line:#ccc;--row:#f4f4f4}\n"
    "@media (prefers-color-scheme:dark){:root{--back:#16181c;--text:#e8e8e8;--soft:#a0a0a0;"
    "--line:#444;--row:#20242a}}\n"
    "body{background:var(--back);color:var(--text);font:15px/1.45 sans-serif;max-width:60rem;"
    "margin:2rem auto;padding:0 1rem}\n"
    "h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.2rem}h3{font-size:1rem}\n"
    "table{border-collapse:collapse;margin:.6rem 0}.wide{overflow-x:auto}\n"
    "th,td{padding:.25rem .7rem;text-align:left;vertical-align:top;border-bottom:1px solid "
    "var(--line)}\n"
    "tr:nth-child(even) td{background:var(--row)}td.n,th.n{text-align:right;"
    "font-variant-numeric:tabular-nums}\n"
    ".soft{color:var(--soft);font-size:.88rem}code{font-size:.85rem;word-break:break-all}\n"
    "svg{width:100%;height:auto}\n";

/* --- pieces --- */

static void put(um_text *to, const char *html) { um_text_add(to, html, strlen(html)); }

/* <TAG>text</TAG>; tag may have attributes. */
static void element(um_text *to, const char *tag, const char *s)
{
    um_text_fmt(to, "<%s>", tag);
    um_xml_text(to, s);
    um_text_fmt(to, "</%.*s>", (int)strcspn(tag, " "), tag);
}

static void number(um_text *to, const char *s) { element(to, "td class=\"n\"", s); }

static void table_begin(um_text *to, const char *const *head, int n, int numbers_from)
{
    put(to, "<div class=\"wide\"><table><tr>");
    for (int i = 0; i < n; i++) element(to, i >= numbers_from ? "th class=\"n\"" : "th", head[i]);
    put(to, "</tr>\n");
}

static void table_end(um_text *to) { put(to, "</table></div>\n"); }

static void interval_cell(um_text *to, const um_outcome *o, const um_measure *m, double score,
                          um_interval i, um_arena *arena)
{
    put(to, "<td class=\"n\">");
    um_xml_text(to, um_eval_number(o, m, score, arena));
    um_text_fmt(to, " <span class=\"soft\">[%s, %s]</span></td>",
                um_eval_number(o, m, i.low, arena), um_eval_number(o, m, i.high, arena));
}

/* The heads of a table with a column for each model behind `n` others. */
static const char **heads(const um_outcome *o, const char *const *first, int n, um_arena *arena)
{
    const char **head = um_arena_alloc(arena, (size_t)(n + o->models->n) * sizeof *head);
    for (int i = 0; i < n; i++) head[i] = first[i];
    for (int k = 0; k < o->models->n; k++) head[n + k] = o->models->list[k].name;
    return head;
}

/* --- scores --- */

static void modalities_put(um_text *to, const um_outcome *o, um_arena *arena)
{
    static const char *const first[] = {"modality", "n"};
    if (o->n_modalities == 0) return;
    element(to, "h3", "Modalities");
    table_begin(to, heads(o, first, 2, arena), 2 + o->models->n, 1);
    for (int r = 0; r < o->n_modalities; r++) {
        const um_modality_row *row = &o->modalities[r];
        long n = 0;
        for (int k = 0; k < o->models->n; k++) n = row->of[k].n > n ? row->of[k].n : n;
        put(to, "<tr>");
        element(to, "td", row->name);
        number(to, um_arena_fmt(arena, "%ld", n));
        for (int k = 0; k < o->models->n; k++) {
            const um_modality_score *s = &row->of[k];
            if (s->n == 0)
                number(to, "–");
            else
                um_text_fmt(to,
                            "<td class=\"n\">%.1f <span class=\"soft\">[%.1f, %.1f]</span></td>",
                            100 * s->score, 100 * s->interval.low, 100 * s->interval.high);
        }
        put(to, "</tr>\n");
    }
    table_end(to);
}

static void measures_put(um_text *to, const um_outcome *o, um_arena *arena)
{
    static const char *const first[] = {"task", "measure"};
    element(to, "h3", "Tasks");
    table_begin(to, heads(o, first, 2, arena), 2 + o->models->n, 2);
    for (int i = 0; i < o->n_measures; i++) {
        const um_measure *m = &o->measures[i];
        put(to, "<tr>");
        element(to, "td", o->tasks->list[m->task].name);
        element(to, "td", um_arena_fmt(arena, "%s%s", m->name, m->less ? " (less is better)" : ""));
        for (int k = 0; k < o->models->n; k++) {
            const um_marks *p = &m->of[k];
            if (p->there)
                interval_cell(to, o, m, p->tally.rows[0].score, p->tally.rows[0].interval, arena);
            else
                number(to, "–");
        }
        put(to, "</tr>\n");
    }
    table_end(to);
    put(to,
        "<p class=\"soft\">Scores in percent (word error rates and CIDEr-D as they are), with 95 % "
        "intervals: Wilson's where an answer is right or wrong, else by bootstrap. "
        "<code>likelihood</code>: the option with the largest probability as the whole answer; "
        "<code>likelihood-mean</code>: by the mean over its tokens.</p>\n");
}

static void left_out_put(um_text *to, const um_outcome *o, um_arena *arena)
{
    static const char *const head[] = {"model",  "task",      "counted",     "no answer (wrong)",
                                       "failed", "not asked", "first reason"};
    table_begin(to, head, 7, 2);
    for (int i = 0; i < o->n_measures; i++)
        for (int k = 0; k < o->models->n; k++) {
            const um_measure *m = &o->measures[i];
            const um_marks *p = &m->of[k];
            const long counts[] = {p->answered + p->silent, p->silent, p->failed, p->lacking};
            if (!m->main) continue;
            put(to, "<tr>");
            element(to, "td", o->models->list[k].name);
            element(to, "td", o->tasks->list[m->task].name);
            for (int c = 0; c < 4; c++) number(to, um_arena_fmt(arena, "%ld", counts[c]));
            element(to, "td",
                    p->lacking > 0 && p->failed == 0 ? "the model does not read their media"
                                                     : um_eval_reason(o, m, k));
            put(to, "</tr>\n");
        }
    table_end(to);
}

/* --- comparison --- */

static void pairs_put(um_text *to, const um_outcome *o, um_arena *arena)
{
    static const char *const head[] = {"task",       "measure",    "models",      "n",
                                       "difference", "only first", "only second", "McNemar p"};
    if (o->models->n < 2) return;
    element(to, "h2", "On the same questions");
    table_begin(to, head, 8, 3);
    for (int i = 0; i < o->n_measures; i++)
        for (int k = 0; k < o->measures[i].n_pairs; k++) {
            const um_measure *m = &o->measures[i];
            const um_pair *p = &m->pairs[k];
            put(to, "<tr>");
            element(to, "td", o->tasks->list[m->task].name);
            element(to, "td", m->name);
            element(to, "td",
                    um_arena_fmt(arena, "%s → %s", o->models->list[p->a].name,
                                 o->models->list[p->b].name));
            number(to, um_arena_fmt(arena, "%ld", p->found.n));
            interval_cell(to, o, m, p->found.difference, p->found.interval, arena);
            number(to, p->found.counts ? um_arena_fmt(arena, "%ld", p->found.only_a) : "");
            number(to, p->found.counts ? um_arena_fmt(arena, "%ld", p->found.only_b) : "");
            number(to, p->found.counts ? um_arena_fmt(arena, "%.3g", p->found.p) : "");
            put(to, "</tr>\n");
        }
    table_end(to);
    put(to,
        "<p class=\"soft\">Difference: second minus first, in points, with its 95 % interval by "
        "bootstrap over questions. McNemar's exact test looks at the questions that one of the two "
        "alone has right.</p>\n");
}

/* --- bias --- */

static void bias_put(um_text *to, const um_outcome *o, um_arena *arena)
{
    static const char *const first[] = {"", "specialist"};
    const um_bias *b = &o->bias;
    if (!o->has_bias) return;
    element(to, "h2", "Bias index");
    table_begin(to, heads(o, first, 2, arena), 2 + o->models->n, 2);
    for (int r = 0; r < b->n; r++) {
        const um_bias_row *row = &b->rows[r];
        put(to, "<tr>");
        element(to, "td", row->name);
        element(to, "td",
                row->specialist < 0 ? "none named" : o->models->list[row->specialist].name);
        for (int k = 0; k < o->models->n; k++) {
            if (row->specialist < 0 || row->n[k] == 0 || !(row->best[k] > 0))
                number(to, "–");
            else
                number(to, um_arena_fmt(arena, "%.3f = %.1f / %.1f", row->score[k] / row->best[k],
                                        100 * row->score[k], 100 * row->best[k]));
        }
        put(to, "</tr>\n");
    }
    for (int which = 0; which < 2; which++) {
        put(to, "<tr>");
        element(to, "th", which == 0 ? "mean" : "deviation");
        put(to, "<td></td>");
        for (int k = 0; k < o->models->n; k++) {
            const um_interval *i = which == 0 ? &b->interval[k].mean : &b->interval[k].deviation;
            double v = which == 0 ? b->index[k].mean : b->index[k].deviation;
            if (b->index[k].n == 0)
                number(to, "–");
            else
                um_text_fmt(to,
                            "<td class=\"n\">%.3f <span class=\"soft\">[%.3f, %.3f]</span></td>", v,
                            i->low, i->high);
        }
        put(to, "</tr>\n");
    }
    table_end(to);
    put(to,
        "<p class=\"soft\">Each model's score as a share of the specialist's on the same "
        "questions. "
        "A mean near 1 with a small deviation: as good as the specialists, on all alike.</p>\n");
}

/* --- rows of a task --- */

static const um_tally_row *row_find(const um_marks *p, const um_tally_row *like)
{
    for (int i = 0; p->there && i < p->tally.n_rows; i++)
        if (strcmp(p->tally.rows[i].by, like->by) == 0 &&
            strcmp(p->tally.rows[i].name, like->name) == 0)
            return &p->tally.rows[i];
    return NULL;
}

static void rows_put(um_text *to, const um_outcome *o, const um_measure *m, um_arena *arena)
{
    static const char *const first[] = {"by", "", "n"};
    const um_tally *t = NULL;
    for (int k = 0; k < o->models->n; k++)
        if (m->of[k].there && (t == NULL || m->of[k].tally.n_rows > t->n_rows)) t = &m->of[k].tally;
    if (t == NULL || t->n_rows < 2) return;
    put(to, "<details><summary>by modality, group, split and speaker</summary>\n");
    table_begin(to, heads(o, first, 3, arena), 3 + o->models->n, 2);
    for (int i = 1; i < t->n_rows; i++) {
        put(to, "<tr>");
        element(to, "td", t->rows[i].by);
        element(to, "td", t->rows[i].name);
        number(to, um_arena_fmt(arena, "%ld", t->rows[i].n));
        for (int k = 0; k < o->models->n; k++) {
            const um_tally_row *row = row_find(&m->of[k], &t->rows[i]);
            if (row != NULL)
                interval_cell(to, o, m, row->score, row->interval, arena);
            else
                number(to, "–");
        }
        put(to, "</tr>\n");
    }
    table_end(to);
    put(to, "</details>\n");
}

/* --- worst items --- */

/* Paths as they are; content that stands in the file itself is only named. */
static void media_put(um_text *to, const um_eval_item *item, um_arena *arena)
{
    for (int i = 0; i < item->n_media; i++) {
        const char *s = item->media[i].source;
        bool within = strlen(s) > 4096 || um_starts_with(s, "data:");
        put(to, "<br><code>");
        um_xml_text(to, within ? um_arena_fmt(arena, "%s in the file itself",
                                              um_modality_name(item->media[i].modality))
                               : s);
        put(to, "</code>");
    }
}

static const char *said(const um_outcome *o, const um_measure *m, int model, size_t item,
                        um_arena *arena)
{
    const um_given *g = &o->given[model * o->tasks->n + m->task];
    const char *answer = g->answer[item];
    if (!m->of[model].there || !m->of[model].counted[item]) return "–";
    return um_arena_fmt(arena, "%s (%s)", answer != NULL ? answer : "no answer",
                        um_eval_number(o, m, m->of[model].score[item], arena));
}

static void worst_put(um_text *to, const um_outcome *o, const um_measure *m, um_arena *arena)
{
    static const char *const first[] = {"question", "wanted"};
    const um_eval_task *t = &o->tasks->list[m->task].task;
    if (m->n_worst == 0) return;
    table_begin(to, heads(o, first, 2, arena), 2 + o->models->n, 99);
    for (int i = 0; i < m->n_worst; i++) {
        const um_eval_item *item = &t->items[m->worst[i]];
        put(to, "<tr><td><span class=\"soft\">");
        um_xml_text(to, item->id);
        put(to, "</span><br>");
        um_xml_text(to, item->question);
        media_put(to, item, arena);
        put(to, "</td><td>");
        for (int k = 0; k < item->n_refs && k < 3; k++) {
            if (k > 0) put(to, "<br>");
            um_xml_text(to, item->refs[k]);
        }
        put(to, "</td>");
        for (int k = 0; k < o->models->n; k++) element(to, "td", said(o, m, k, m->worst[i], arena));
        put(to, "</tr>\n");
    }
    table_end(to);
}

static void tasks_put(um_text *to, const um_outcome *o, um_arena *arena)
{
    element(to, "h2", "The worst questions of each task");
    for (int i = 0; i < o->n_measures; i++) {
        const um_measure *m = &o->measures[i];
        if (!m->main) continue;
        element(to, "h3", um_measure_label(o, m, arena));
        rows_put(to, o, m, arena);
        worst_put(to, o, m, arena);
    }
}

/* --- the page --- */

static void origin_put(um_text *to, const um_outcome *o, um_arena *arena)
{
    element(to, "h2", "What was evaluated");
    put(to, "<table>");
    for (int k = 0; k < o->models->n; k++) {
        const um_listed_model *m = &o->models->list[k];
        put(to, "<tr>");
        element(to, "td", m->name);
        put(to, "<td><code>");
        um_xml_text(to, m->path);
        um_xml_text(to, m->answers ? " (answers of another program)"
                                   : um_arena_fmt(arena, " sha256 %s", m->digest));
        put(to, "</code></td></tr>\n");
    }
    for (int t = 0; t < o->tasks->n; t++) {
        const um_listed_task *l = &o->tasks->list[t];
        put(to, "<tr>");
        element(to, "td", l->name);
        put(to, "<td><code>");
        um_xml_text(to, um_arena_fmt(arena, "%s (%s), %s, sha256 %s", l->path, l->task.name,
                                     um_eval_questions((long)l->task.n, arena), l->digest));
        put(to, "</code></td></tr>\n");
    }
    um_text_fmt(to, "</table>\n<p class=\"soft\">unimoe %s</p>\n", UM_VERSION);
}

void um_eval_page(um_text *to, const um_outcome *o)
{
    um_arena arena;
    um_arena_init(&arena, "page", 1 << 16);
    put(to, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
            "<meta name=\"viewport\" "
            "content=\"width=device-width\">\n<title>Evaluation</title>\n<style>");
    put(to, style);
    put(to, "</style></head><body>\n<h1>Evaluation</h1>\n");
    um_eval_figure(to, o, "Scores of modalities and tasks with 95 % intervals");
    modalities_put(to, o, &arena);
    measures_put(to, o, &arena);
    left_out_put(to, o, &arena);
    bias_put(to, o, &arena);
    pairs_put(to, o, &arena);
    tasks_put(to, o, &arena);
    origin_put(to, o, &arena);
    put(to, "</body></html>\n");
    um_arena_free(&arena);
}
