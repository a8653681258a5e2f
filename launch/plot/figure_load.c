/* Panel c: for each layer how even the load is. See figure_panels.h. */
#include "launch/plot/figure_panels.h"

#include "launch/plot/colour.h"

#include <math.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The load of each expert in layer slot r: v [experts]. */
static void load_values(const um_figure *f, double *v, int r)
{
    int l0 = um_bin_from(&f->rows, r), l1 = um_bin_to(&f->rows, r);
    double all = um_routes_sum(f->a, -1, l0, l1, 0, f->a->experts),
           other = f->b == NULL ? 0 : um_routes_sum(f->b, -1, l0, l1, 0, f->b->experts);
    for (int e = 0; e < f->a->experts; e++) {
        v[e] = um_panel_ratio(um_routes_sum(f->a, -1, l0, l1, e, e + 1), all);
        if (f->b != NULL) v[e] -= um_panel_ratio(um_routes_sum(f->b, -1, l0, l1, e, e + 1), other);
    }
}

typedef struct plot {
    double x, y, w, h, low, high;
} plot;

static double plot_y(const plot *p, double v)
{
    return p->y + p->h * (1 - (v - p->low) / (p->high - p->low));
}
static double plot_x(const um_figure *f, const plot *p, int slot)
{
    return p->x + (slot + 0.5) * p->w / f->rows.slots;
}

/* Draws a line for every expert. v: [slots, E] */
static void load_lines(um_figure *f, const plot *p, const double *v)
{
    int E = f->a->experts, slots = f->rows.slots;
    for (int e = 0; e < E; e++) {
        bool pen = false;
        um_text_fmt(&f->body, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" d=\"",
                    um_colour_expert(e));
        for (int r = 0; r < slots; r++) {
            double at = v[r * E + e];
            if (!isnan(at))
                um_text_fmt(&f->body, "%c%.6g %.6g", pen ? 'L' : 'M', plot_x(f, p, r),
                            plot_y(p, at));
            pen = !isnan(at);
        }
        um_text_fmt(&f->body, "%s\"/>\n", pen || slots > 1 ? "" : "M0 0");
        for (int r = 0; r < slots; r++)
            if (!isnan(v[r * E + e]))
                um_svg_dot(&f->body, plot_x(f, p, r), plot_y(p, v[r * E + e]), 2.6,
                           um_colour_expert(e));
    }
}

/* What is drawn for a layer of many experts. */
enum { LEAST, LOW, MEDIAN, HIGH, MOST, MARKS };

/* The marks of every layer. [slots, MARKS] */
static double *load_marks(um_figure *f)
{
    int E = f->a->experts, slots = f->rows.slots;
    double *out = um_arena_alloc(&f->arena, (size_t)slots * MARKS * sizeof *out);
    double *s = um_arena_alloc(&f->arena, (size_t)E * sizeof *s);
    for (int r = 0; r < slots; r++) {
        double *to = out + (size_t)r * MARKS;
        load_values(f, s, r); /* either all are numbers or all are NaN */
        if (!isnan(s[0])) qsort(s, (size_t)E, sizeof *s, by_value);
        to[LEAST] = s[0];
        to[LOW] = s[(E - 1) / 10];
        to[MEDIAN] = (s[(E - 1) / 2] + s[E / 2]) / 2;
        to[HIGH] = s[E - 1 - (E - 1) / 10];
        to[MOST] = s[E - 1];
    }
    return out;
}

static void load_boxes(um_figure *f, const plot *p, const double *marks)
{
    int slots = f->rows.slots;
    double w = p->w / slots * 0.6;
    if (w > 26) w = 26;
    for (int r = 0; r < slots; r++) {
        const double *m = marks + (size_t)r * MARKS;
        if (isnan(m[LEAST])) continue;
        double y[MARKS], x = plot_x(f, p, r);
        for (int i = 0; i < MARKS; i++) y[i] = plot_y(p, m[i]);
        double tall = y[LOW] - y[HIGH];
        um_svg_line(&f->body, x, y[LEAST], x, y[MOST], "#225ea8", 1, "");
        um_svg_rect(&f->body, x - w / 2, y[HIGH], w, tall > 1 ? tall : 1, "#8fb8de");
        um_svg_line(&f->body, x - w / 2, y[MEDIAN], x + w / 2, y[MEDIAN], "#081d58", 2, "");
    }
}

/* The value of every expert in every layer. [slots, E] */
static double *load_all(um_figure *f)
{
    size_t E = (size_t)f->a->experts, slots = (size_t)f->rows.slots;
    double *out = um_arena_alloc(&f->arena, slots * E * sizeof *out);
    for (size_t r = 0; r < slots; r++) load_values(f, out + r * E, (int)r);
    return out;
}

static double key(um_figure *f, double x, double y, const char *text)
{
    um_panel_label(f, x, y, 11, NULL, um_panel_black, false, text);
    return x + um_svg_width(text, 11) + 12;
}

static void load_legend(um_figure *f, double x, double y)
{
    um_text *to = &f->body;
    um_svg_line(to, x, y - 4, x + 22, y - 4, um_panel_black, 1.2, "5 3");
    x = key(f, x + 26, y,
            f->b != NULL ? "no change" : um_arena_fmt(&f->arena, "even: 1/%d", f->a->experts));
    if (f->a->experts > UM_PANEL_FEW) {
        um_svg_line(to, x, y - 4, x + 14, y - 4, "#081d58", 2, "");
        x = key(f, x + 18, y, "median");
        um_svg_rect(to, x, y - 9, 12, 10, "#8fb8de");
        x = key(f, x + 16, y, "middle 80 % of experts");
        um_svg_line(to, x + 5, y - 10, x + 5, y + 2, "#225ea8", 1, "");
        key(f, x + 12, y, "least to most");
        return;
    }
    x = key(f, x, y, "expert");
    for (int e = 0; e < f->a->experts; e++) {
        um_svg_dot(to, x, y - 4, 4, um_colour_expert(e));
        x = key(f, x + 7, y, um_arena_fmt(&f->arena, "%d", e));
    }
}

static void layer_ticks(um_figure *f, const plot *p)
{
    const um_svg_font font = {.size = 10, .anchor = "middle", .fill = um_panel_grey};
    int n = f->rows.n;
    double slot = p->w / f->rows.slots, room = 26 / slot;
    int step = um_axis_step(room < 1 ? f->rows.each : room * f->rows.each);
    for (int i = 0; i < n; i += step) {
        const char *text = um_arena_fmt(&f->arena, "%d", f->a->layer[i]);
        um_svg_label(&f->body, plot_x(f, p, i / f->rows.each), p->y + p->h + 12, &font, text);
    }
}

void um_panel_load(um_figure *f, double x, double y, double w, double h)
{
    int E = f->a->experts, slots = f->rows.slots;
    bool change = f->b != NULL;
    double even = change ? 0 : 1.0 / E;
    bool few = E <= UM_PANEL_FEW;
    const double *v = few ? load_all(f) : load_marks(f);
    double end = um_panel_scale_end(v, (size_t)slots * (size_t)(few ? E : MARKS), change);
    if (end < even) end = um_axis_end(even);
    plot p = {.x = x, .y = y + 32, .w = w, .h = h, .low = change ? -end : 0, .high = end};
    um_panel_heading(f, x - UM_PANEL_LEFT + 14, y, "c", "How even the load is", "");
    load_legend(f, x - UM_PANEL_LEFT + 30, y + 18);
    um_panel_frame(f, p.x, p.y, p.w, p.h, p.low, p.high);
    um_svg_line(&f->body, p.x, plot_y(&p, even), p.x + p.w, plot_y(&p, even), um_panel_black, 1.2,
                "5 3");
    if (few)
        load_lines(f, &p, v);
    else
        load_boxes(f, &p, v);
    layer_ticks(f, &p);
    um_panel_upwards(f, x - 48, p.y + p.h / 2,
                     change ? "change (percentage points)" : "share of assignments (%)");
    um_panel_label(f, p.x + p.w / 2, p.y + p.h + 27, 11, "middle", um_panel_black, false,
                   um_panel_layer_axis(f));
}
