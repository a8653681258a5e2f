/* See outcome.h. The bias index is in outcome_bias.c. */
#include "launch/eval/outcome.h"

#include "launch/eval/outcome_parts.h"

#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 1000, SEED = 1 };

/* --- one measure of one model --- */

/* Which option is the likeliest; *tie: another is as likely. */
static int likeliest(const um_kept_score *s, int n, bool mean, bool *tie)
{
    int best = 0;
    double top = 0;
    *tie = false;
    for (int i = 0; i < n; i++) {
        double value = mean ? s[i].sum / s[i].tokens : s[i].sum;
        if (i > 0 && value <= top) {
            *tie = *tie || value == top;
            continue;
        }
        *tie = false;
        best = i;
        top = value;
    }
    return best;
}

static bool all_scored(const um_kept_score *s, int n)
{
    for (int i = 0; i < n; i++)
        if (s == NULL || s[i].tokens == 0) return false;
    return n > 0;
}

/* The answer to item i under a measure; *counted: it counts. */
static const char *answer_of(um_marks *m, const um_given *g, const um_eval_item *item, size_t i,
                             int way, bool *counted, um_arena *arena)
{
    if (way == 0) {
        *counted = g->answer[i] != NULL || g->silence;
        return g->answer[i];
    }
    bool tie = false;
    *counted = g->likelihood != NULL && all_scored(g->likelihood[i], item->n_options);
    if (!*counted) return NULL;
    int k = likeliest(g->likelihood[i], item->n_options, way == 2, &tie);
    m->ties += tie;
    return um_arena_fmt(arena, "%c", 'A' + k);
}

/* way: 0 the generated answer, 1 the likeliest option, 2 by the mean of its tokens. */
static um_status marks_make(um_marks *m, const um_eval_task *t, const um_given *g, int way,
                            um_arena *arena, um_err *err)
{
    um_eval_task part = *t; /* the items that count */
    const char **answers = um_arena_zero(arena, (t->n + 1) * sizeof *answers);
    part.items = um_arena_alloc(arena, (t->n + 1) * sizeof *part.items);
    part.n = 0;
    *m = (um_marks){.there = way == 0 ? true : g->likelihood != NULL};
    m->score = um_arena_zero(arena, (t->n + 1) * sizeof *m->score);
    m->counted = um_arena_zero(arena, (t->n + 1) * sizeof *m->counted);
    for (size_t i = 0; i < t->n; i++) {
        bool lacking = g->lacking != NULL && g->lacking[i];
        bool failed = !lacking && g->failure != NULL && g->failure[i] != NULL;
        m->lacking += lacking;
        m->failed += failed;
        if (lacking || failed) continue;
        const char *answer = answer_of(m, g, &t->items[i], i, way, &m->counted[i], arena);
        if (!m->counted[i]) continue;
        m->answered += answer != NULL;
        m->silent += answer == NULL;
        answers[part.n] = answer;
        part.items[part.n++] = t->items[i];
    }
    if (!m->there || part.n == 0) {
        m->there = false;
        return UM_OK;
    }
    UM_TRY(um_tally_of(&m->tally, &part, answers, arena, err));
    for (size_t i = 0, k = 0; i < t->n; i++)
        if (m->counted[i]) m->score[i] = m->tally.score[k++];
    return UM_OK;
}

/* --- measures --- */

/* The worst items first; of those that are equally bad the earlier. */
typedef struct ranked {
    double score;
    size_t item;
} ranked;

static int worse_first(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? -1 : 1;
    return (x->item > y->item) - (x->item < y->item);
}

static void worst_find(um_measure *m, size_t n, int models, um_arena *arena)
{
    ranked *list = um_arena_alloc(arena, (n + 1) * sizeof *list);
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        int by = 0;
        for (int k = 0; k < models; k++) {
            if (!m->of[k].there || !m->of[k].counted[i]) continue;
            sum += m->less ? -m->of[k].score[i] : m->of[k].score[i];
            by++;
        }
        bool perfect = by > 0 && (m->less ? sum == 0 : sum >= by);
        if (by > 0 && !perfect) list[found++] = (ranked){sum / by, i};
    }
    qsort(list, found, sizeof *list, worse_first);
    for (m->n_worst = 0; m->n_worst < UM_WORST && (size_t)m->n_worst < found; m->n_worst++)
        m->worst[m->n_worst] = list[m->n_worst].item;
}

static void pairs_make(um_measure *m, size_t n, int models, um_arena *arena)
{
    double *a = um_arena_alloc(arena, (n + 1) * sizeof *a);
    double *b = um_arena_alloc(arena, (n + 1) * sizeof *b);
    m->pairs = um_arena_alloc(arena, (size_t)(models * models + 1) * sizeof *m->pairs);
    for (int x = 0; x < models; x++)
        for (int y = x + 1; y < models; y++) {
            const um_marks *p = &m->of[x], *q = &m->of[y];
            long both = 0;
            for (size_t i = 0; i < n && p->there && q->there; i++) {
                if (!p->counted[i] || !q->counted[i]) continue;
                a[both] = p->score[i];
                b[both++] = q->score[i];
            }
            if (both > 0)
                m->pairs[m->n_pairs++] = (um_pair){x, y, um_paired_of(a, b, both, ROUNDS, SEED)};
        }
}

static um_status measure_add(um_outcome *o, int t, int way, const char *name, bool main,
                             um_arena *arena, um_err *err)
{
    const um_eval_task *task = &o->tasks->list[t].task;
    um_measure *m = &o->measures[o->n_measures];
    bool any = false;
    *m = (um_measure){.task = t, .name = name, .main = main, .less = task->metric == UM_METRIC_WER};
    m->of = um_arena_zero(arena, (size_t)o->models->n * sizeof *m->of);
    for (int k = 0; k < o->models->n; k++) {
        UM_TRY(um_wrap(err,
                       marks_make(&m->of[k], task, &o->given[k * o->tasks->n + t], way, arena, err),
                       "%s", o->tasks->list[t].name));
        any = any || m->of[k].there;
    }
    if (!any && !main) return UM_OK;
    pairs_make(m, task->n, o->models->n, arena);
    worst_find(m, task->n, o->models->n, arena);
    o->n_measures++;
    return UM_OK;
}

static um_status measures_make(um_outcome *o, const char *choices, um_arena *arena, um_err *err)
{
    o->measures = um_arena_zero(arena, 3 * (size_t)o->tasks->n * sizeof *o->measures);
    for (int t = 0; t < o->tasks->n; t++) {
        um_eval_metric metric = o->tasks->list[t].task.metric;
        bool choice = metric == UM_METRIC_CHOICE;
        bool generated = !choice || strcmp(choices, "likelihood") != 0;
        if (generated) UM_TRY(measure_add(o, t, 0, um_eval_metric_name(metric), true, arena, err));
        if (!choice || strcmp(choices, "generated") == 0) continue;
        UM_TRY(measure_add(o, t, 1, "likelihood", !generated, arena, err));
        UM_TRY(measure_add(o, t, 2, "likelihood-mean", false, arena, err));
    }
    return UM_OK;
}

/* --- modalities --- */

bool um_measure_is_share(const um_outcome *o, const um_measure *m)
{
    um_eval_metric metric = o->tasks->list[m->task].task.metric;
    return m->main && metric != UM_METRIC_WER && metric != UM_METRIC_CIDER;
}

static void modalities_list(um_outcome *o, um_arena *arena)
{
    size_t cap = 8;
    o->modalities = um_arena_alloc(arena, cap * sizeof *o->modalities);
    for (int k = 0; k < o->n_measures; k++) {
        const um_eval_task *t = &o->tasks->list[o->measures[k].task].task;
        if (!um_measure_is_share(o, &o->measures[k])) continue;
        for (size_t i = 0; i < t->n; i++) {
            const char *name = um_eval_modality(&t->items[i], arena);
            int at = 0;
            while (at < o->n_modalities && strcmp(o->modalities[at].name, name) != 0) at++;
            if (at < o->n_modalities) continue;
            if ((size_t)at == cap) {
                um_modality_row *old = o->modalities;
                o->modalities = um_arena_alloc(arena, 2 * cap * sizeof *o->modalities);
                memcpy(o->modalities, old, cap * sizeof *old);
                cap *= 2;
            }
            o->modalities[o->n_modalities++] = (um_modality_row){name, NULL};
        }
    }
}

static void modality_score(um_modality_score *out, const um_outcome *o, const char *name, int model,
                           double *score, um_arena *scratch)
{
    double sum = 0;
    bool counts = true; /* each answer is right or wrong */
    *out = (um_modality_score){0};
    for (int k = 0; k < o->n_measures; k++) {
        const um_measure *m = &o->measures[k];
        const um_eval_task *t = &o->tasks->list[m->task].task;
        if (!um_measure_is_share(o, m) || !m->of[model].there) continue;
        for (size_t i = 0; i < t->n; i++) {
            if (!m->of[model].counted[i] ||
                strcmp(um_eval_modality(&t->items[i], scratch), name) != 0)
                continue;
            double one = m->of[model].score[i];
            counts = counts && (one == 0 || one == 1);
            sum += one;
            score[out->n++] = one;
        }
    }
    if (out->n == 0) return;
    out->score = sum / (double)out->n;
    out->interval = counts ? um_interval_wilson((long)(sum + 0.5), out->n)
                           : um_interval_bootstrap(score, (int)out->n, ROUNDS, SEED);
}

static void modalities_make(um_outcome *o, um_arena *arena)
{
    size_t all = 0;
    for (int t = 0; t < o->tasks->n; t++) all += o->tasks->list[t].task.n;
    double *score = um_arena_alloc(arena, (all + 1) * sizeof *score);
    modalities_list(o, arena);
    for (int r = 0; r < o->n_modalities; r++) {
        um_modality_row *row = &o->modalities[r];
        row->of = um_arena_zero(arena, (size_t)o->models->n * sizeof *row->of);
        for (int k = 0; k < o->models->n; k++)
            modality_score(&row->of[k], o, row->name, k, score, arena);
    }
}

um_status um_outcome_make(um_outcome *out, const um_model_list *models, const um_task_list *tasks,
                          const um_given *given, const um_config *cfg, um_arena *arena, um_err *err)
{
    um_outcome o = {.models = models, .tasks = tasks, .given = given};
    UM_TRY(measures_make(&o, cfg->choices, arena, err));
    modalities_make(&o, arena);
    UM_TRY(um_outcome_bias(&o, cfg, arena, err));
    *out = o;
    return UM_OK;
}

const char *um_measure_label(const um_outcome *o, const um_measure *m, um_arena *arena)
{
    const char *task = o->tasks->list[m->task].name;
    return um_arena_fmt(arena, "%s, %s", task, m->name);
}
