/* The figure of an evaluation: modalities and tasks from top to bottom, a point with its interval for each model. It takes its colours of
 * text from the page (currentColor), so that it suits a light and a dark one. See eval_report.h. */
#include "launch/eval/eval_report.h"

#include "launch/plot/colour.h"
#include "launch/plot/svg.h"

enum { WIDTH = 900, LEFT = 250, RIGHT = 24, TOP = 34, LINE = 13, GAP = 12, COLOURS = 5 };

typedef struct figure_row {
    const char *name;
    const um_interval *interval; /* [models]; of one that is not there low > high */
    const double *score;         /* [models] */
} figure_row;

static double x_of(double share) { return LEFT + share * (WIDTH - LEFT - RIGHT); }

static const char *colour_of(int model) { return um_colour_modality(model % COLOURS); }

static void text(um_text *to, double x, double y, const char *anchor, const char *s)
{
    um_svg_label(to, x, y, &(um_svg_font){.size = 12, .anchor = anchor, .fill = "currentColor"}, s);
}

static void row_draw(um_text *to, const figure_row *row, int models, double y)
{
    text(to, LEFT - 12, y + (models - 1) * LINE / 2.0 + 4, "end", row->name);
    for (int k = 0; k < models; k++, y += LINE) {
        const um_interval *i = &row->interval[k];
        if (i->low > i->high) continue;
        um_svg_line(to, x_of(i->low), y, x_of(i->high), y, colour_of(k), 2.5, "");
        um_svg_dot(to, x_of(row->score[k]), y, 4, colour_of(k));
    }
}

/* A measure or a modality; false when it has no shares to show. */
static bool row_make(figure_row *row, const um_outcome *o, int i, um_arena *arena)
{
    size_t M = (size_t)o->models->n;
    um_interval *interval = um_arena_alloc(arena, M * sizeof *interval);
    double *score = um_arena_zero(arena, M * sizeof *score);
    bool modality = i < o->n_modalities;
    const um_measure *m = modality ? NULL : &o->measures[i - o->n_modalities];
    um_eval_metric metric = modality ? UM_METRIC_EXACT : o->tasks->list[m->task].task.metric;
    if (metric == UM_METRIC_WER || metric == UM_METRIC_CIDER) return false;
    for (size_t k = 0; k < M; k++) {
        const um_modality_score *s = modality ? &o->modalities[i].of[k] : NULL;
        interval[k] = (um_interval){1, 0};
        if (modality && s->n > 0) {
            interval[k] = s->interval;
            score[k] = s->score;
        } else if (!modality && m->of[k].there) {
            interval[k] = m->of[k].tally.rows[0].interval;
            score[k] = m->of[k].tally.rows[0].score;
        }
    }
    *row = (figure_row){modality ? o->modalities[i].name : um_measure_label(o, m, arena), interval,
                        score};
    return true;
}

static void axis_draw(um_text *to, double height, um_arena *arena)
{
    for (int i = 0; i <= 5; i++) {
        um_svg_line(to, x_of(i / 5.0), TOP - 6, x_of(i / 5.0), height - 24, "#888888", 0.5, "");
        text(to, x_of(i / 5.0), height - 8, "middle", um_arena_fmt(arena, "%d %%", 20 * i));
    }
}

static void legend_draw(um_text *to, const um_outcome *o)
{
    double x = LEFT;
    for (int k = 0; k < o->models->n; k++) {
        um_svg_dot(to, x + 4, 12, 4, colour_of(k));
        text(to, x + 14, 16, "start", o->models->list[k].name);
        x += 34 + um_svg_width(o->models->list[k].name, 12);
    }
}

void um_eval_figure(um_text *to, const um_outcome *o, const char *title)
{
    um_arena arena;
    um_text body = {0};
    figure_row row;
    double y = TOP;
    um_arena_init(&arena, "figure", 1 << 14);
    for (int i = 0; i < o->n_modalities + o->n_measures; i++) {
        if (!row_make(&row, o, i, &arena)) continue;
        row_draw(&body, &row, o->models->n, y + LINE / 2.0);
        y += o->models->n * LINE + GAP;
    }
    double height = y + 26;
    um_text_fmt(to,
                "<svg viewBox=\"0 0 %d %.6g\" role=\"img\" font-family=\"sans-serif\">\n<title>",
                WIDTH, height);
    um_xml_text(to, title);
    um_text_fmt(to, "</title>\n");
    axis_draw(to, height, &arena);
    legend_draw(to, o);
    um_text_add(to, body.s != NULL ? body.s : "", body.n);
    um_text_fmt(to, "</svg>\n");
    um_text_free(&body);
    um_arena_free(&arena);
}
