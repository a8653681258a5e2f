/* See run_figure.h. */
#include "launch/plot/run/run_figure.h"

#include "core/base/bytes.h"
#include "launch/plot/colour.h"
#include "launch/plot/figure_panels.h"
#include "launch/plot/run/curves.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PLOT_H = 170, COLUMNS_MAX = 256, ROWS_MAX = 64 };
enum { LAYERS_FEW = 4 }; /* so many have a curve each */

static const char held_out[] = "#d55e00", typical[] = "#225ea8", extreme[] = "#cc6677";

/* Where half-width panel i (0, 1) has its plot. */
static const double half = (UM_PANEL_WIDTH - 2.0 * UM_PANEL_LEFT - 14 - UM_PANEL_RIGHT) / 2;
static double left_of(int i) { return UM_PANEL_LEFT + i * (half + UM_PANEL_LEFT + 14); }

static um_curves curves_of(const um_run_log *l, const um_curve *list, int n, const char *unit)
{
    return (um_curves){.step = l->step,
                       .n = l->n,
                       .steps = l->steps,
                       .curve = list,
                       .curves = n,
                       .unit = unit,
                       .even = NAN};
}

static void panel(um_figure *f, int i, double y, const char *letter, const char *head,
                  const um_curves *c)
{
    um_panel_heading(f, left_of(i) - UM_PANEL_LEFT + 14, y, letter, head, "");
    um_curves_draw(&f->body, c, left_of(i), y + 34, half, PLOT_H, &f->arena);
}

static void losses(um_figure *f, const um_run_log *l, double y)
{
    const um_curve total[] = {
        {.name = "loss", .colour = um_panel_black, .y = l->loss, .raw = true},
        {.name = "held-out samples", .colour = held_out, .y = l->eval_loss, .dots = true}};
    um_curve kind[UM_MODALITIES];
    for (int m = 0; m < UM_MODALITIES; m++)
        kind[m] = (um_curve){.name = um_modality_name((um_modality)m),
                             .colour = um_colour_modality(m),
                             .y = l->by_modality[m]};
    const um_curves a = curves_of(l, total, 2, "loss"),
                    b = curves_of(l, kind, UM_MODALITIES, "cross-entropy");
    panel(f, 0, y, "a", "Loss", &a);
    panel(f, 1, y, "b", "Loss of samples with each modality", &b);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of many layers: the most even, the middle and the least even one at each step. */
static void summary(um_figure *f, const um_run_log *l, um_curve out[3])
{
    static const char *const name[] = {"least even layer", "median", "most even layer"};
    static const char *const colour[] = {extreme, um_panel_black, typical};
    double *y[3], *v = um_arena_alloc(&f->arena, (size_t)l->layers * sizeof *v);
    for (int k = 0; k < 3; k++) y[k] = um_arena_alloc(&f->arena, (l->n + 1) * sizeof **y);
    for (size_t i = 0; i < l->n; i++) {
        size_t n = 0;
        for (int k = 0; k < l->layers; k++)
            if (isfinite(l->imbalance[k][i])) v[n++] = l->imbalance[k][i];
        if (n > 0) qsort(v, n, sizeof *v, by_value);
        y[0][i] = n > 0 ? v[n - 1] : NAN;
        y[1][i] = n > 0 ? v[n / 2] : NAN;
        y[2][i] = n > 0 ? v[0] : NAN;
    }
    for (int k = 0; k < 3; k++)
        out[k] = (um_curve){.name = name[k], .colour = colour[k], .y = y[k]};
}

static void norm_and_balance(um_figure *f, const um_run_log *l, double y)
{
    const um_curve norm = {
        .name = "norm before clipping", .colour = um_panel_black, .y = l->norm, .raw = true};
    um_curve list[LAYERS_FEW];
    int n = 3;
    const um_curves c = curves_of(l, &norm, 1, "norm");
    panel(f, 0, y, "c", "Norm of the gradient", &c);
    if (l->layers == 0) return;
    if (l->layers > LAYERS_FEW)
        summary(f, l, list);
    else
        for (n = 0; n < l->layers; n++)
            list[n] = (um_curve){.name = um_arena_fmt(&f->arena, "layer %d", l->layer[n]),
                                 .colour = um_colour_expert(n),
                                 .y = l->imbalance[n]};
    um_curves d = curves_of(l, list, n, "rows, divided by the mean");
    d.even = 1;
    panel(f, 1, y, "d", "Most loaded expert of each layer", &d);
}

static double last_loads(um_figure *f, const um_run_log *l, double y)
{
    f->a = &l->load;
    f->letter = "e";
    f->cols = um_bins_of(l->load.experts, COLUMNS_MAX);
    f->rows = um_bins_of(l->load.moe_layers, ROWS_MAX);
    for (int m = 0; m < UM_MODALITIES; m++)
        if (l->load.seen[m]) f->kind[f->kinds++] = m;
    return f->kinds > 0 ? um_panel_share(f, y) : y;
}

/* The last value that there is, or NaN. */
static double last_of(const double *v, size_t n)
{
    while (n > 0 && !isfinite(v[n - 1])) n--;
    return n > 0 ? v[n - 1] : NAN;
}

static const char *subtitle(um_figure *f, const um_run_log *l)
{
    const double loss = last_of(l->loss, l->n), eval = last_of(l->eval_loss, l->n);
    const char *s = um_arena_fmt(&f->arena, "step %.0f of %.0f", l->step[l->n - 1], l->steps);
    if (isfinite(loss)) s = um_arena_fmt(&f->arena, "%s; loss %.4g", s, loss);
    if (isfinite(eval)) s = um_arena_fmt(&f->arena, "%s, of held-out samples %.4g", s, eval);
    if (l->load.moe_layers > 0)
        s = um_arena_fmt(&f->arena, "%s; %d experts in %d layers; panel e: steps %.0f to %.0f", s,
                         l->load.experts, l->load.moe_layers, l->load_from, l->step[l->n - 1]);
    return s;
}

void um_run_figure_draw(um_text *svg, const um_run_log *l)
{
    um_figure f = {0};
    um_arena_init(&f.arena, "figure", 1 << 16);
    const char *head =
                   um_arena_fmt(&f.arena, "Training of %s", um_panel_shortened(&f, l->name, 80)),
               *under = subtitle(&f, l);
    double y = 84;
    um_panel_label(&f, 14, 28, 17, NULL, um_panel_black, true, head);
    um_panel_label(&f, 14, 47, 11.5, NULL, um_panel_grey, false, under);
    losses(&f, l, y);
    y += 34 + PLOT_H + 64;
    norm_and_balance(&f, l, y);
    y += 34 + PLOT_H + 64;
    y = l->load.moe_layers > 0 ? last_loads(&f, l, y) : y - 16;
    const char *desc = um_arena_fmt(
        &f.arena,
        "%s. Panel a: the loss over the steps. Panel b: the loss of samples with each modality. "
        "Panel c: the norm of the gradient.%s",
        under,
        l->layers > 0 ? " Panel d: for each layer the rows of its most loaded expert, divided by "
                        "the mean. Panel e: for each modality the share of its rows that each "
                        "expert had."
                      : "");
    um_svg_document(svg, UM_PANEL_WIDTH, y, head, desc, &f.body);
    um_text_free(&f.body);
    um_arena_free(&f.arena);
}
