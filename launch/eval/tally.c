/* See tally.h. */
#include "launch/eval/tally.h"

#include "launch/eval/metrics/cider.h"

#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 1000, SEED = 1 };

/* --- scores of items --- */

static double yes_no_score(um_yes_no *c, const um_eval_item *item, const char *answer,
                           um_arena *scratch)
{
    bool want = strcmp(item->refs[0], "yes") == 0;
    bool said = answer[0] != '\0' && um_yes_no_of(answer, scratch) != 0; /* neither counts as yes */
    if (answer[0] == '\0') said = !want; /* no answer is a wrong one */
    if (want)
        *(said ? &c->true_yes : &c->false_no) += 1;
    else
        *(said ? &c->false_yes : &c->true_no) += 1;
    return said == want;
}

/* An option that reads as the right one does is right too. */
static bool is_right(const um_eval_item *item, int choice)
{
    return choice >= 0 && (choice == item->right ||
                           strcmp(item->options[choice], item->options[item->right]) == 0);
}

static double item_score(um_tally *t, const um_eval_item *item, const char *answer,
                         um_arena *scratch)
{
    if (answer[0] == '\0' && t->metric != UM_METRIC_YES_NO) return 0;
    switch (t->metric) {
    case UM_METRIC_EXACT:
        return um_exact_match(answer, item->refs, item->n_refs, scratch);
    case UM_METRIC_KEY:
        return um_holds_match(answer, item->refs, item->n_refs, scratch);
    case UM_METRIC_VQA:
        return um_vqa_accuracy(answer, item->refs, item->n_refs, scratch);
    case UM_METRIC_CHOICE:
        return is_right(item, um_choice_of(answer, item->options, item->n_options, scratch));
    case UM_METRIC_YES_NO:
        return yes_no_score(&t->yes_no, item, answer, scratch);
    default:
        return um_token_f1(answer, item->refs, item->n_refs, scratch);
    }
}

static void word_errors(um_tally *out, const um_eval_task *t, const char *const *answers,
                        um_arena *scratch)
{
    long words = 0;
    for (size_t i = 0; i < t->n; i++) {
        um_word_errors e =
            um_word_errors_of(answers[i] != NULL ? answers[i] : "", t->items[i].refs[0], scratch);
        out->score[i] = (double)e.errors;
        words += e.words;
    }
    for (size_t i = 0; i < t->n && words > 0; i++) out->score[i] *= (double)t->n / (double)words;
}

static um_status captions(um_tally *out, const um_eval_task *t, const char *const *answers,
                          um_arena *scratch, um_err *err)
{
    um_caption *c = um_arena_alloc(scratch, (t->n + 1) * sizeof *c);
    double mean = 0;
    for (size_t i = 0; i < t->n; i++)
        c[i] = (um_caption){answers[i] != NULL ? answers[i] : "", t->items[i].refs,
                            t->items[i].n_refs};
    return um_cider(out->score, &mean, c, (int)t->n, err);
}

static um_status scores_make(um_tally *out, const um_eval_task *t, const char *const *answers,
                             um_arena *scratch, um_err *err)
{
    if (t->metric == UM_METRIC_CIDER) return captions(out, t, answers, scratch, err);
    if (t->metric == UM_METRIC_WER)
        word_errors(out, t, answers, scratch);
    else
        for (size_t i = 0; i < t->n; i++)
            out->score[i] =
                item_score(out, &t->items[i], answers[i] != NULL ? answers[i] : "", scratch);
    return UM_OK;
}

/* --- rows --- */

/* An item under one of its names. */
typedef struct named {
    const char *name;
    double score;
} named;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const named *)a)->name, ((const named *)b)->name);
}

static bool is_right_or_wrong(um_eval_metric m)
{
    return m == UM_METRIC_EXACT || m == UM_METRIC_KEY || m == UM_METRIC_CHOICE ||
           m == UM_METRIC_YES_NO;
}

static um_tally_row row_of(const um_tally *t, const char *by, const char *name, const double *score,
                           long n)
{
    double sum = 0;
    for (long i = 0; i < n; i++) sum += score[i];
    um_tally_row row = {.by = by, .name = name, .n = n, .score = n > 0 ? sum / (double)n : 0};
    row.interval = is_right_or_wrong(t->metric)
                       ? um_interval_wilson((long)(sum + 0.5), n)
                       : um_interval_bootstrap(score, (int)n, ROUNDS, SEED);
    return row;
}

/* A row for each name of list[0..n), but for items without a name. rows has room for n more. */
static void rows_by(um_tally *t, const char *by, named *list, size_t n, um_arena *scratch)
{
    double *score = um_arena_alloc(scratch, (n + 1) * sizeof *score);
    qsort(list, n, sizeof *list, by_name);
    for (size_t i = 0, k; i < n; i = k) {
        for (k = i; k < n && strcmp(list[k].name, list[i].name) == 0; k++)
            score[k - i] = list[k].score;
        if (list[i].name[0] != '\0')
            t->rows[t->n_rows++] = row_of(t, by, list[i].name, score, (long)(k - i));
    }
}

um_status um_tally_of(um_tally *out, const um_eval_task *t, const char *const *answers,
                      um_arena *arena, um_err *err)
{
    enum { BY = 4 };
    static const char *const by[BY] = {"modality", "group", "split", "speaker"};
    um_tally r = {.metric = t->metric};
    um_arena scratch;
    if (t->n > INT32_MAX / 4) return UM_FAIL(err, UM_E_LIMIT, "%zu questions are too many", t->n);
    um_arena_init(&scratch, "tally", 1 << 16);
    r.score = um_arena_zero(arena, (t->n + 1) * sizeof *r.score);
    r.rows = um_arena_alloc(arena, (BY * t->n + 1) * sizeof *r.rows);
    um_status st = scores_make(&r, t, answers, &scratch, err);
    r.rows[r.n_rows++] = row_of(&r, "all", "", r.score, (long)t->n);
    for (int k = 0; k < BY && st == UM_OK; k++) {
        named *list = um_arena_alloc(&scratch, (t->n + 1) * sizeof *list);
        for (size_t i = 0; i < t->n; i++) {
            const um_eval_item *item = &t->items[i];
            list[i] = (named){k == 0   ? um_eval_modality(item, arena)
                              : k == 1 ? item->group
                              : k == 2 ? item->split
                                       : item->speaker,
                              r.score[i]};
        }
        rows_by(&r, by[k], list, t->n, &scratch);
    }
    um_arena_free(&scratch);
    if (st == UM_OK) *out = r;
    return st;
}

void um_tally_json(um_text *out, const um_tally *t)
{
    um_text_fmt(out, "{\"metric\":\"%s\",\"rows\":[", um_eval_metric_name(t->metric));
    for (int i = 0; i < t->n_rows; i++) {
        const um_tally_row *r = &t->rows[i];
        um_text_fmt(out, "%s{\"by\":\"%s\",\"name\":", i > 0 ? "," : "", r->by);
        um_text_json(out, r->name);
        um_text_fmt(out, ",\"n\":%ld,\"score\":%.6g,\"low\":%.6g,\"high\":%.6g}", r->n, r->score,
                    r->interval.low, r->interval.high);
    }
    um_text_fmt(out, "]");
    if (t->metric == UM_METRIC_YES_NO)
        um_text_fmt(out, ",\"precision\":%.6g,\"recall\":%.6g,\"f1\":%.6g",
                    um_yes_no_precision(&t->yes_no), um_yes_no_recall(&t->yes_no),
                    um_yes_no_f1(&t->yes_no));
    um_text_fmt(out, "}");
}
