/* Panel a: for each modality a heat-map, layer x expert. See figure_panels.h. */
#include "launch/plot/figure_panels.h"

#include "core/base/bytes.h"
#include "launch/plot/colour.h"

#include <math.h>

enum { GAP = 26 };

typedef struct grid {
    int across, down;
    double map_w, cell_w, cell_h;
    bool numbers;
} grid;

static grid grid_of(const um_figure *f)
{
    int cols = f->cols.slots, rows = f->rows.slots;
    double least = cols <= UM_PANEL_FEW ? um_max_int(34 * cols, 140)
                   : cols <= 16         ? 16 * cols
                                        : 13 * cols;
    if (least > um_panel_inner) least = um_panel_inner;
    grid g = {.across = um_min_int(f->kinds, (int)((um_panel_inner + GAP) / (least + GAP)))};
    g.down = (f->kinds + g.across - 1) / g.across;
    g.across = (f->kinds + g.down - 1) / g.down;
    double most = um_max_int(72 * cols, 180);
    g.map_w = (um_panel_inner - (g.across - 1) * GAP) / g.across;
    if (g.map_w > most) g.map_w = most;
    g.cell_w = g.map_w / cols;
    double room = 1200.0 / (g.down * rows); /* all maps together fit on one or two screens */
    g.cell_h = rows <= 24 ? 20 : rows <= 40 ? 14 : 8;
    if (g.cell_h > room) g.cell_h = room < 6 ? 6 : floor(room);
    g.numbers = cols <= UM_PANEL_FEW && f->cols.each == 1 && g.cell_h >= 14;
    return g;
}

/* For each row of layers: the share of this modality's assignments that went to the experts of each column. [rows, cols] */
static double *share_values(um_figure *f, int kind)
{
    const um_routes *a = f->a, *b = f->b;
    int rows = f->rows.slots, cols = f->cols.slots;
    double *v = um_arena_alloc(&f->arena, (size_t)rows * (size_t)cols * sizeof *v);
    for (int r = 0; r < rows; r++) {
        int l0 = um_bin_from(&f->rows, r), l1 = um_bin_to(&f->rows, r);
        double all = um_routes_sum(a, kind, l0, l1, 0, a->experts),
               other = b == NULL ? 0 : um_routes_sum(b, kind, l0, l1, 0, b->experts);
        for (int c = 0; c < cols; c++) {
            int e0 = um_bin_from(&f->cols, c), e1 = um_bin_to(&f->cols, c);
            double *to = &v[um_at((size_t)r, (size_t)c, (size_t)cols)];
            *to = um_panel_ratio(um_routes_sum(a, kind, l0, l1, e0, e1), all);
            if (b != NULL) *to -= um_panel_ratio(um_routes_sum(b, kind, l0, l1, e0, e1), other);
        }
    }
    return v;
}

static void map_title(um_figure *f, double x, double y, int kind)
{
    const char *name = um_modality_name((um_modality)kind);
    um_svg_rect(&f->body, x, y - 8, 8, 8, um_colour_modality(kind));
    um_panel_label(f, x + 12, y, 11, NULL, um_panel_black, true, name);
    if (f->b != NULL) return;
    um_panel_label(
        f, x + 20 + um_svg_width(name, 12.5), y, 10, NULL, um_panel_grey, false,
        um_panel_grouped(f, um_routes_sum(f->a, kind, 0, f->a->moe_layers, 0, f->a->experts)));
}

/* The colour bar of the panel, in the right half of its heading. */
static void scale_bar(um_figure *f, double y, double end, bool ideal)
{
    double w = 170, x = UM_PANEL_WIDTH - UM_PANEL_RIGHT - w - 8;
    bool change = f->b != NULL;
    double even = (double)f->cols.each / f->a->experts;
    um_panel_label(f, x - 12, y + 9, 10, "end", um_panel_grey, false,
                   change ? "percentage points" : "%");
    um_heat_bar(&f->body, x, y, w, end, change, ideal && !change ? even : -1,
                f->cols.each == 1 ? "1/E" : "even");
}

double um_panel_share(um_figure *f, double y)
{
    const um_routes *a = f->a;
    grid g = grid_of(f);
    int rows = f->rows.slots, cols = f->cols.slots;
    size_t cells = (size_t)rows * (size_t)cols;
    double *value[UM_MODALITIES], end = 0;
    for (int i = 0; i < f->kinds; i++) {
        value[i] = share_values(f, f->kind[i]);
        double e = um_panel_scale_end(value[i], cells, f->b != NULL);
        if (e > end) end = e;
    }
    um_panel_heading(
        f, 14, y, f->letter, "Where the tokens of each modality go",
        f->b == NULL
            ? "share of the modality's assignments in a layer; beside the names: assignments"
            : "change of the share of the modality's assignments in a layer");
    scale_bar(f, y - 6, end, true);
    y += 46;
    for (int i = 0; i < f->kinds; i++) {
        int col = i % g.across;
        double x = UM_PANEL_LEFT + col * (g.map_w + GAP), bottom = y + rows * g.cell_h;
        map_title(f, x, y - 6, f->kind[i]);
        um_heat h = {.x = x,
                     .y = y,
                     .cell_w = g.cell_w,
                     .cell_h = g.cell_h,
                     .rows = rows,
                     .cols = cols,
                     .value = value[i],
                     .end = end,
                     .change = f->b != NULL,
                     .numbers = g.numbers};
        um_heat_draw(&f->body, &h, &f->arena);
        um_axis_columns(&f->body, x, bottom, g.cell_w, &f->cols);
        if (col == 0) {
            um_axis_rows(&f->body, x, y, g.cell_h, &f->rows, a->layer);
            um_panel_upwards(f, x - 36, y + rows * g.cell_h / 2, um_panel_layer_axis(f));
        }
        um_panel_label(f, x + g.map_w / 2, bottom + 27, 11, "middle", um_panel_black, false,
                       um_panel_expert_axis(f));
        if (col == g.across - 1 || i == f->kinds - 1) y = bottom + 58;
    }
    return y;
}
