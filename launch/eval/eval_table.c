/* The console's table, and the words that the reports share. See eval_report.h. */
#include "launch/eval/eval_report.h"

#include <string.h>

const char *um_eval_number(const um_outcome *o, const um_measure *m, double score, um_arena *arena)
{
    um_eval_metric metric = o->tasks->list[m->task].task.metric;
    if (metric == UM_METRIC_CIDER || metric == UM_METRIC_WER)
        return um_arena_fmt(arena, "%.3f", score);
    return um_arena_fmt(arena, "%.1f", 100 * score);
}

const char *um_eval_questions(long n, um_arena *arena)
{
    return um_arena_fmt(arena, "%ld question%s", n, n == 1 ? "" : "s");
}

const char *um_eval_reason(const um_outcome *o, const um_measure *m, int model)
{
    const um_given *g = &o->given[model * o->tasks->n + m->task];
    for (size_t i = 0; g->failure != NULL && i < o->tasks->list[m->task].task.n; i++)
        if (g->failure[i] != NULL) return g->failure[i];
    return "";
}

/* --- columns --- */

/* Characters, not bytes. */
static int width_of(const char *s)
{
    int n = 0;
    for (; *s != '\0'; s++) n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

static void pad_print(FILE *to, int n)
{
    for (; n > 0; n--) fputc(' ', to);
}

typedef struct grid {
    const char **cell; /* [rows][cols] */
    int rows, cols;
    um_arena *arena;
} grid;

static const char **grid_row(grid *g)
{
    const char **row = &g->cell[g->rows++ * g->cols];
    for (int i = 0; i < g->cols; i++) row[i] = "";
    return row;
}

static void grid_print(FILE *to, const grid *g)
{
    for (int r = 0; r < g->rows; r++) {
        for (int c = 0; c < g->cols; c++) {
            int width = 0;
            for (int k = 0; k < g->rows; k++) {
                int w = width_of(g->cell[k * g->cols + c]);
                if (w > width) width = w;
            }
            const char *s = g->cell[r * g->cols + c];
            if (c > 0) pad_print(to, 2 + width - width_of(s));
            fputs(s, to);
            if (c == 0) pad_print(to, width - width_of(s));
        }
        fputc('\n', to);
    }
}

static const char *score_text(const um_outcome *o, const um_measure *m, int k, um_arena *arena)
{
    const um_marks *p = &m->of[k];
    if (!p->there) return "-";
    const um_tally_row *all = &p->tally.rows[0];
    return um_arena_fmt(arena, "%s [%s, %s]", um_eval_number(o, m, all->score, arena),
                        um_eval_number(o, m, all->interval.low, arena),
                        um_eval_number(o, m, all->interval.high, arena));
}

static const char *modality_text(const um_modality_score *s, um_arena *arena)
{
    if (s->n == 0) return "-";
    return um_arena_fmt(arena, "%.1f [%.1f, %.1f]", 100 * s->score, 100 * s->interval.low,
                        100 * s->interval.high);
}

/* The number of questions, where models have unequal numbers the most. */
static long most_counted(const um_outcome *o, const um_measure *m, const um_modality_row *row)
{
    long n = 0;
    for (int k = 0; k < o->models->n; k++) {
        long own = m != NULL ? (m->of[k].there ? m->of[k].tally.rows[0].n : 0) : row->of[k].n;
        if (own > n) n = own;
    }
    return n;
}

static void scores_print(FILE *to, const um_outcome *o, um_arena *arena)
{
    int M = o->models->n;
    grid g = {.cols = 2 + M, .arena = arena};
    g.cell = um_arena_alloc(arena, (size_t)((o->n_measures + o->n_modalities + 1) * g.cols) *
                                       sizeof *g.cell);
    const char **row = grid_row(&g);
    row[1] = "n";
    for (int k = 0; k < M; k++) row[2 + k] = o->models->list[k].name;
    for (int i = 0; i < o->n_measures; i++) {
        const um_measure *m = &o->measures[i];
        row = grid_row(&g);
        row[0] = um_measure_label(o, m, arena);
        row[1] = um_arena_fmt(arena, "%ld", most_counted(o, m, NULL));
        for (int k = 0; k < M; k++) row[2 + k] = score_text(o, m, k, arena);
    }
    for (int i = 0; i < o->n_modalities; i++) {
        row = grid_row(&g);
        row[0] = um_arena_fmt(arena, "  %s", o->modalities[i].name);
        row[1] = um_arena_fmt(arena, "%ld", most_counted(o, NULL, &o->modalities[i]));
        for (int k = 0; k < M; k++) row[2 + k] = modality_text(&o->modalities[i].of[k], arena);
    }
    grid_print(to, &g);
}

/* --- what was left out --- */

static void left_out_print(FILE *to, const um_outcome *o, um_arena *arena)
{
    for (int t = 0; t < o->tasks->n; t++)
        if (o->tasks->list[t].task.left_out > 0)
            fprintf(to, "%s: %s without an answer in the file, left out\n", o->tasks->list[t].name,
                    um_eval_questions((long)o->tasks->list[t].task.left_out, arena));
    for (int i = 0; i < o->n_measures; i++)
        for (int k = 0; k < o->models->n; k++) {
            const um_measure *m = &o->measures[i];
            const um_marks *p = &m->of[k];
            const char *who = um_arena_fmt(arena, "%s, %s", o->models->list[k].name,
                                           o->tasks->list[m->task].name);
            if (!m->main) continue;
            if (p->lacking > 0)
                fprintf(to, "%s: %s not asked, for the model does not read their media\n", who,
                        um_eval_questions(p->lacking, arena));
            if (p->failed > 0)
                fprintf(to, "%s: %s not answered: %s\n", who, um_eval_questions(p->failed, arena),
                        um_eval_reason(o, m, k));
            if (p->silent > 0)
                fprintf(to, "%s: %s without an answer, which counts as a wrong one\n", who,
                        um_eval_questions(p->silent, arena));
        }
}

static void bias_print(FILE *to, const um_outcome *o)
{
    const um_bias *b = &o->bias;
    if (!o->has_bias) return;
    fprintf(to, "\nbias index, by %s: score as a share of the specialist's\n",
            o->bias_by_task ? "task" : "modality");
    for (int k = 0; k < o->models->n; k++) {
        const um_bias_index *x = &b->index[k];
        if (x->n == 0)
            fprintf(to, "  %s: no questions in common with a specialist\n",
                    o->models->list[k].name);
        else
            fprintf(to, "  %s: mean %.3f [%.3f, %.3f], deviation %.3f [%.3f, %.3f] over %d\n",
                    o->models->list[k].name, x->mean, b->interval[k].mean.low,
                    b->interval[k].mean.high, x->deviation, b->interval[k].deviation.low,
                    b->interval[k].deviation.high, x->n);
    }
    for (int r = 0; r < b->n; r++)
        if (b->rows[r].specialist < 0)
            fprintf(to, "  %s has no --specialist and is not in it\n", b->rows[r].name);
}

void um_eval_table(FILE *to, const um_outcome *o)
{
    um_arena arena;
    um_arena_init(&arena, "table", 1 << 14);
    scores_print(to, o, &arena);
    left_out_print(to, o, &arena);
    bias_print(to, o);
    um_arena_free(&arena);
}
