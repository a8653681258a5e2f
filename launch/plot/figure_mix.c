/* Panel b: for each expert the share of each modality. See figure_panels.h. */
#include "launch/plot/figure_panels.h"

#include "launch/plot/colour.h"

#include <math.h>

/* The share of this modality in the assignments of these experts. */
static double mix(const um_routes *r, int kind, int e0, int e1)
{
    return um_panel_ratio(um_routes_sum(r, kind, 0, r->moe_layers, e0, e1),
                          um_routes_sum(r, -1, 0, r->moe_layers, e0, e1));
}

static double shown_mix(const um_figure *f, int kind, int e0, int e1)
{
    double v = mix(f->a, kind, e0, e1);
    return f->b == NULL ? v : v - mix(f->b, kind, e0, e1);
}

/* The names of the modalities with their colours, in one line. */
static void kinds_legend(um_figure *f, double x, double y)
{
    for (int i = 0; i < f->kinds; i++) {
        const char *name = um_modality_name((um_modality)f->kind[i]);
        um_svg_rect(&f->body, x, y - 9, 10, 10, um_colour_modality(f->kind[i]));
        um_panel_label(f, x + 14, y, 11, NULL, um_panel_black, false, name);
        x += 14 + um_svg_width(name, 11) + 14;
    }
}

static void stack(um_figure *f, double x, double y, double w, double h, int e0, int e1)
{
    double from = y + h;
    for (int i = 0; i < f->kinds; i++) {
        double part = mix(f->a, f->kind[i], e0, e1);
        if (isnan(part)) {
            um_svg_rect(&f->body, x, y, w, h, "#f0f0f0");
            return;
        }
        from -= part * h;
        if (part > 0) um_svg_rect(&f->body, x, from, w, part * h, um_colour_modality(f->kind[i]));
    }
}

/* Stacked bars, the first of which is for all experts together. */
static void mix_bars(um_figure *f, double x, double y, double w, double h)
{
    double whole = 26, slot = (w - whole - 12) / f->cols.slots, thick = slot >= 6 ? 0.8 : 1;
    if (slot > 100) thick = 80 / slot;
    um_panel_frame(f, x, y, w, h, 0, 1);
    um_text_fmt(&f->body, "<g%s>\n", thick < 1 ? "" : " shape-rendering=\"crispEdges\"");
    stack(f, x + 2, y, whole - 4, h, 0, f->a->experts);
    for (int c = 0; c < f->cols.slots; c++)
        stack(f, x + whole + 12 + (c + (1 - thick) / 2) * slot, y, thick * slot, h,
              um_bin_from(&f->cols, c), um_bin_to(&f->cols, c));
    um_text_fmt(&f->body, "</g>\n");
    um_panel_label(f, x + whole / 2, y + h + 12, 10, "middle", um_panel_grey, false, "all");
    um_axis_columns(&f->body, x + whole + 12, y + h, slot, &f->cols);
    um_panel_upwards(f, x - 48, y + h / 2, "share of assignments (%)");
    um_panel_label(f, x + whole + 12 + (w - whole - 12) / 2, y + h + 27, 11, "middle",
                   um_panel_black, false, um_panel_expert_axis(f));
}

/* The differences as a heat-map, modalities x experts. Returns the y below it. */
static double mix_changes(um_figure *f, double x, double y, double w, double h)
{
    int rows = f->kinds, cols = f->cols.slots;
    double *v = um_arena_alloc(&f->arena, (size_t)rows * (size_t)cols * sizeof *v);
    double bar = 110, end = 0, map_h = h - 44 < 30 * rows ? h - 44 : 30 * rows;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++)
            v[r * cols + c] =
                shown_mix(f, f->kind[r], um_bin_from(&f->cols, c), um_bin_to(&f->cols, c));
    end = um_panel_scale_end(v, (size_t)rows * (size_t)cols, true);
    um_heat map = {.x = x,
                   .y = y,
                   .cell_w = w / cols,
                   .cell_h = map_h / rows,
                   .rows = rows,
                   .cols = cols,
                   .value = v,
                   .end = end,
                   .change = true,
                   .numbers = cols <= UM_PANEL_FEW && f->cols.each == 1 && map_h / rows >= 13};
    um_heat_draw(&f->body, &map, &f->arena);
    for (int r = 0; r < rows; r++)
        um_panel_label(f, x - 5, y + (r + 0.5) * map.cell_h + 3.5, 10, "end", um_panel_black, false,
                       um_modality_name((um_modality)f->kind[r]));
    um_axis_columns(&f->body, x, y + map_h, map.cell_w, &f->cols);
    um_panel_label(f, x + w / 2, y + map_h + 27, 11, "middle", um_panel_black, false,
                   um_panel_expert_axis(f));
    um_heat_bar(&f->body, x + w - bar - 8, y + map_h + 44, bar, end, true, -1, "");
    um_panel_label(f, x + w - bar - 20, y + map_h + 53, 10, "end", um_panel_grey, false,
                   "percentage points");
    return y + map_h + 68;
}

double um_panel_mix(um_figure *f, double x, double y, double w, double h)
{
    um_panel_heading(
        f, x - UM_PANEL_LEFT + 14, y, "b", "Whom each expert serves, all layers together",
        f->b == NULL ? "" : "change of each modality's share in the expert's assignments");
    if (f->b != NULL) return mix_changes(f, x, y + 32, w, h);
    kinds_legend(f, x - UM_PANEL_LEFT + 30, y + 18);
    mix_bars(f, x, y + 32, w, h);
    return y + 32 + h + 28;
}
