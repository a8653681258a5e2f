/* The bias index of an evaluation (spec 9.3): each model against the specialists of the modalities. See outcome.h. */
#include "launch/eval/outcome_parts.h"

#include <string.h>

enum { ROUNDS = 1000, SEED = 1 };

/* The specialist of each modality: which model; -1: none. */
static um_status specialists_find(int *out, const um_outcome *o, const um_list *words,
                                  um_arena *arena, um_err *err)
{
    for (int r = 0; r < o->n_modalities; r++) out[r] = -1;
    for (int i = 0; i < words->n; i++) {
        const char *eq = strrchr(words->item[i], '='), *known = "";
        int r = 0, k = 0;
        if (eq == NULL || eq == words->item[i])
            return UM_FAIL(err, UM_E_USAGE, "--specialist %s: want MODALITY=NAME", words->item[i]);
        const char *modality = um_arena_strn(arena, words->item[i], (size_t)(eq - words->item[i]));
        while (r < o->n_modalities && strcmp(o->modalities[r].name, modality) != 0) r++;
        while (k < o->models->n && strcmp(o->models->list[k].name, eq + 1) != 0) k++;
        for (int n = 0; n < (r == o->n_modalities ? o->n_modalities : o->models->n); n++)
            known = um_arena_fmt(arena, "%s%s%s", known, n > 0 ? ", " : "",
                                 r == o->n_modalities ? o->modalities[n].name
                                                      : o->models->list[n].name);
        if (r == o->n_modalities)
            return UM_FAIL(err, UM_E_USAGE,
                           "--specialist %s: no question has this modality, but %s", words->item[i],
                           known);
        if (k == o->models->n)
            return UM_FAIL(err, UM_E_USAGE, "--specialist %s: no model has this name, but %s",
                           words->item[i], known);
        out[r] = k;
    }
    return UM_OK;
}

/* What a row covers: all questions of a modality, or those of one measure. */
typedef struct extent {
    const char *modality;
    int measure; /* -1: every one */
} extent;

/* The scores of both models on the questions that count for both. */
static um_bias_cell cell_make(const um_outcome *o, extent e, int model, int specialist,
                              um_arena *arena)
{
    um_bias_cell cell = {0};
    size_t all = 0;
    for (int t = 0; t < o->tasks->n; t++) all += o->tasks->list[t].task.n;
    double *a = um_arena_alloc(arena, (all + 1) * sizeof *a);
    double *b = um_arena_alloc(arena, (all + 1) * sizeof *b);
    for (int k = 0; k < o->n_measures; k++) {
        const um_measure *m = &o->measures[k];
        const um_eval_task *t = &o->tasks->list[m->task].task;
        const um_marks *p = &m->of[model], *q = &m->of[specialist];
        if (!um_measure_is_share(o, m) || (e.measure >= 0 && e.measure != k)) continue;
        if (!p->there || !q->there) continue;
        for (size_t i = 0; i < t->n; i++) {
            if (!p->counted[i] || !q->counted[i] ||
                strcmp(um_eval_modality(&t->items[i], arena), e.modality) != 0)
                continue;
            a[cell.n] = p->score[i];
            b[cell.n++] = q->score[i];
        }
    }
    cell.score = a;
    cell.specialist = b;
    return cell;
}

static double mean_of(const double *v, long n)
{
    double sum = 0;
    for (long i = 0; i < n; i++) sum += v[i];
    return n > 0 ? sum / (double)n : 0;
}

/* The index of one model over all rows that have a specialist and questions for both. */
static void model_index(um_outcome *o, const extent *extents, int model, um_arena *arena)
{
    um_bias *b = &o->bias;
    um_bias_cell *cells = um_arena_alloc(arena, (size_t)(b->n + 1) * sizeof *cells);
    double *score = um_arena_alloc(arena, (size_t)(b->n + 1) * sizeof *score);
    double *best = um_arena_alloc(arena, (size_t)(b->n + 1) * sizeof *best);
    int n = 0;
    for (int r = 0; r < b->n; r++) {
        um_bias_row *row = &b->rows[r];
        if (row->specialist < 0) continue;
        cells[n] = cell_make(o, extents[r], model, row->specialist, arena);
        row->n[model] = cells[n].n;
        row->score[model] = mean_of(cells[n].score, cells[n].n);
        row->best[model] = mean_of(cells[n].specialist, cells[n].n);
        if (cells[n].n == 0) continue;
        score[n] = row->score[model];
        best[n++] = row->best[model];
    }
    b->index[model] = um_bias_index_of(score, best, n);
    b->interval[model] = um_bias_bootstrap(cells, n, ROUNDS, SEED);
}

static bool measure_has(const um_outcome *o, int measure, const char *modality, um_arena *arena)
{
    const um_eval_task *t = &o->tasks->list[o->measures[measure].task].task;
    for (size_t i = 0; i < t->n; i++)
        if (strcmp(um_eval_modality(&t->items[i], arena), modality) == 0) return true;
    return false;
}

/* Rows: a modality each, or with bias_by_task each modality of each task. */
static void rows_make(um_outcome *o, extent *extents, const int *specialist, um_arena *arena)
{
    um_bias *b = &o->bias;
    for (int r = 0; r < o->n_modalities; r++) {
        const char *modality = o->modalities[r].name;
        for (int k = 0; k < (o->bias_by_task ? o->n_measures : 1); k++) {
            if (o->bias_by_task &&
                (!um_measure_is_share(o, &o->measures[k]) || !measure_has(o, k, modality, arena)))
                continue;
            const char *task = o->tasks->list[o->measures[k].task].name;
            um_bias_row *row = &b->rows[b->n];
            extents[b->n++] = (extent){modality, o->bias_by_task ? k : -1};
            row->name = o->bias_by_task ? um_arena_fmt(arena, "%s, %s", task, modality) : modality;
            row->specialist = specialist[r];
            row->score = um_arena_zero(arena, (size_t)o->models->n * sizeof *row->score);
            row->best = um_arena_zero(arena, (size_t)o->models->n * sizeof *row->best);
            row->n = um_arena_zero(arena, (size_t)o->models->n * sizeof *row->n);
        }
    }
}

um_status um_outcome_bias(um_outcome *o, const um_config *cfg, um_arena *arena, um_err *err)
{
    if (cfg->specialist.n == 0) return UM_OK;
    size_t most = (size_t)o->n_modalities * (size_t)(o->n_measures + 1) + 1;
    int *specialist = um_arena_alloc(arena, most * sizeof *specialist);
    extent *extents = um_arena_alloc(arena, most * sizeof *extents);
    um_bias *b = &o->bias;
    UM_TRY(specialists_find(specialist, o, &cfg->specialist, arena, err));
    o->has_bias = true;
    o->bias_by_task = strcmp(cfg->bias_by, "task") == 0;
    b->rows = um_arena_zero(arena, most * sizeof *b->rows);
    b->index = um_arena_zero(arena, (size_t)o->models->n * sizeof *b->index);
    b->interval = um_arena_zero(arena, (size_t)o->models->n * sizeof *b->interval);
    rows_make(o, extents, specialist, arena);
    for (int k = 0; k < o->models->n; k++) model_index(o, extents, k, arena);
    return UM_OK;
}
