/* See figure.h. Positions are pixels, y downwards; every part gets the y where it begins and gives the y where it ends. */
#include "launch/plot/figure.h"

#include "core/base/bytes.h"
#include "launch/plot/axis.h"
#include "launch/plot/colour.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 960, LEFT = 64, RIGHT = 24, GAP = 26, COLUMNS_MAX = 256, ROWS_MAX = 64 };
enum { FEW = 8 }; /* experts that are drawn one by one: numbers in cells, a line each */
static const double inner = WIDTH - LEFT - RIGHT;
static const char grey[] = "#555555", black[] = "#1a1a1a";

typedef struct figure {
    const um_routes *a, *b; /* b NULL: one run */
    um_bins cols, rows;     /* experts and layers in slots */
    int kind[UM_MODALITIES], kinds;
    um_text body;
    um_arena arena;
} figure;

/* ---- values ---- */

static double ratio(double part, double whole) { return whole > 0 ? part / whole : NAN; }

/* Of what these experts got, the share that is of this kind. */
static double mix(const um_routes *r, int kind, int e0, int e1)
{
    return ratio(um_routes_sum(r, kind, 0, r->moe_layers, e0, e1),
                 um_routes_sum(r, -1, 0, r->moe_layers, e0, e1));
}

static double shown_mix(const figure *f, int kind, int e0, int e1)
{
    double v = mix(f->a, kind, e0, e1);
    return f->b == NULL ? v : v - mix(f->b, kind, e0, e1);
}

/* A round end of the scale that holds all n values. */
static double scale_end(const double *v, size_t n, bool change)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        if (!isnan(v[i]) && fabs(v[i]) > most) most = fabs(v[i]);
    if (most == 0) return change ? 0.001 : 1; /* two runs that are alike */
    return most > 0.8 ? 1 : um_axis_end(most);
}

/* ---- words ---- */

static void label(figure *f, double x, double y, double size, const char *anchor, const char *fill,
                  bool bold, const char *s)
{
    const um_svg_font font = {.size = size, .anchor = anchor, .fill = fill, .bold = bold};
    um_svg_label(&f->body, x, y, &font, s);
}

/* 1234567 -> "1,234,567" */
static const char *grouped(figure *f, double n)
{
    char digits[32];
    int len = snprintf(digits, sizeof digits, "%.0f", n), at = 0;
    char *out = um_arena_alloc(&f->arena, 48);
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0) out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = '\0';
    return out;
}

/* At most `most` characters of s, with an ellipsis for the rest. */
static const char *shortened(figure *f, const char *s, int most)
{
    int chars = 0;
    size_t cut = 0; /* where the last character that may stay ends */
    for (size_t i = 0; s[i] != '\0'; i++) {
        if (((unsigned char)s[i] & 0xC0) == 0x80) continue;
        if (chars++ == most - 1) cut = i;
    }
    if (chars <= most) return s;
    return um_arena_fmt(&f->arena, "%s\xE2\x80\xA6", um_arena_strn(&f->arena, s, cut));
}

static const char *names(figure *f, const bool *which)
{
    const char *s = "";
    for (int m = 0; m < UM_MODALITIES; m++)
        if (which[m])
            s = um_arena_fmt(&f->arena, "%s%s%s", s, s[0] ? ", " : "",
                             um_modality_name((um_modality)m));
    return s;
}

static const char *title(figure *f)
{
    const um_routes *a = f->a, *b = f->b;
    if (b == NULL)
        return um_arena_fmt(&f->arena, "Routing of %s",
                            shortened(f, a->model[0] ? a->model : a->name, 80));
    bool alike = strcmp(a->name, b->name) == 0; /* two folders */
    return um_arena_fmt(&f->arena, "Routing of %s minus %s",
                        shortened(f, alike ? a->path : a->name, 42),
                        shortened(f, alike ? b->path : b->name, 42));
}

static const char *phase_words(const char *phase)
{
    return strcmp(phase, "prefill") == 0  ? "rows of prompts"
           : strcmp(phase, "decode") == 0 ? "rows of new tokens"
                                          : "rows of prompts and of new tokens";
}

static const char *run_words(figure *f, const um_routes *r)
{
    return um_arena_fmt(&f->arena, "%s%s%s assignments of %" PRId64 " request%s",
                        f->b == NULL ? "" : shortened(f, r->name, 60), f->b == NULL ? "" : ": ",
                        grouped(f, um_routes_sum(r, -1, 0, r->moe_layers, 0, r->experts)),
                        r->requests, r->requests == 1 ? "" : "s");
}

static const char *subtitle(figure *f, const char *phase)
{
    const um_routes *a = f->a;
    const char *what =
        um_arena_fmt(&f->arena, "%s%s%d expert%s, top-%d, in %d of %d layers; %s", a->variant,
                     a->variant[0] ? ", " : "", a->experts, a->experts == 1 ? "" : "s", a->top_k,
                     a->moe_layers, a->layers, phase_words(phase));
    return f->b != NULL ? what : um_arena_fmt(&f->arena, "%s; %s", what, run_words(f, a));
}

static const char *expert_axis(figure *f)
{
    if (f->cols.each == 1) return "expert";
    return um_arena_fmt(&f->arena, "expert (%d experts a column)", f->cols.each);
}

static const char *layer_axis(figure *f)
{
    if (f->rows.each == 1) return "layer";
    return um_arena_fmt(&f->arena, "layer (%d layers a row)", f->rows.each);
}

static void upwards(figure *f, double x, double y, const char *s)
{
    const um_svg_font font = {.size = 11, .anchor = "middle", .fill = black, .upwards = true};
    um_svg_label(&f->body, x, y, &font, s);
}

/* "a  What it shows" with a line of explanation under it. */
static void heading(figure *f, double x, double y, const char *letter, const char *head,
                    const char *under)
{
    label(f, x, y, 14, NULL, black, true, letter);
    label(f, x + 16, y, 13, NULL, black, true, head);
    if (under[0]) label(f, x + 16, y + 16, 11, NULL, grey, false, under);
}

/* ---- a: heat-maps ---- */

typedef struct grid {
    int across, down;
    double map_w, cell_w, cell_h;
    bool numbers;
} grid;

static grid grid_of(const figure *f)
{
    int cols = f->cols.slots, rows = f->rows.slots;
    double least = cols <= FEW ? um_max_int(34 * cols, 140) : cols <= 16 ? 16 * cols : 13 * cols;
    if (least > inner) least = inner;
    grid g = {.across = um_min_int(f->kinds, (int)((inner + GAP) / (least + GAP)))};
    g.down = (f->kinds + g.across - 1) / g.across;
    g.across = (f->kinds + g.down - 1) / g.down;
    double most = um_max_int(72 * cols, 180);
    g.map_w = (inner - (g.across - 1) * GAP) / g.across;
    if (g.map_w > most) g.map_w = most;
    g.cell_w = g.map_w / cols;
    double room = 1200.0 / (g.down * rows); /* all maps together stay on a screen or two */
    g.cell_h = rows <= 24 ? 20 : rows <= 40 ? 14 : 8;
    if (g.cell_h > room) g.cell_h = room < 6 ? 6 : floor(room);
    g.numbers = cols <= FEW && f->cols.each == 1 && g.cell_h >= 14;
    return g;
}

/* Of what a kind sent in the layers of a row, the share that went to the experts of a column. [rows, cols] */
static double *share_values(figure *f, int kind)
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
            *to = ratio(um_routes_sum(a, kind, l0, l1, e0, e1), all);
            if (b != NULL) *to -= ratio(um_routes_sum(b, kind, l0, l1, e0, e1), other);
        }
    }
    return v;
}

static void map_title(figure *f, double x, double y, int kind)
{
    const char *name = um_modality_name((um_modality)kind);
    um_svg_rect(&f->body, x, y - 8, 8, 8, um_colour_modality(kind));
    label(f, x + 12, y, 11, NULL, black, true, name);
    if (f->b != NULL) return;
    label(f, x + 20 + um_svg_width(name, 12.5), y, 10, NULL, grey, false,
          grouped(f, um_routes_sum(f->a, kind, 0, f->a->moe_layers, 0, f->a->experts)));
}

/* The colour bar of one panel, in its heading's right half. */
static void scale_bar(figure *f, double y, double end, bool ideal)
{
    double w = 170, x = WIDTH - RIGHT - w - 8;
    bool change = f->b != NULL;
    double even = (double)f->cols.each / f->a->experts;
    label(f, x - 12, y + 9, 10, "end", grey, false, change ? "percentage points" : "%");
    um_heat_bar(&f->body, x, y, w, end, change, ideal && !change ? even : -1,
                f->cols.each == 1 ? "1/E" : "even");
}

static double panel_share(figure *f, double y)
{
    const um_routes *a = f->a;
    grid g = grid_of(f);
    int rows = f->rows.slots, cols = f->cols.slots;
    size_t cells = (size_t)rows * (size_t)cols;
    double *value[UM_MODALITIES], end = 0;
    for (int i = 0; i < f->kinds; i++) {
        value[i] = share_values(f, f->kind[i]);
        double e = scale_end(value[i], cells, f->b != NULL);
        if (e > end) end = e;
    }
    heading(f, 14, y, "a", "Where the tokens of each modality go",
            f->b == NULL
                ? "share of the modality's assignments in a layer; beside the names: assignments"
                : "change of the share of the modality's assignments in a layer");
    scale_bar(f, y - 6, end, true);
    y += 46;
    for (int i = 0; i < f->kinds; i++) {
        int col = i % g.across;
        double x = LEFT + col * (g.map_w + GAP), bottom = y + rows * g.cell_h;
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
            upwards(f, x - 36, y + rows * g.cell_h / 2, layer_axis(f));
        }
        label(f, x + g.map_w / 2, bottom + 27, 11, "middle", black, false, expert_axis(f));
        if (col == g.across - 1 || i == f->kinds - 1) y = bottom + 58;
    }
    return y;
}

/* ---- b: who an expert serves ---- */

/* Names of the kinds with their colours, in a line. */
static void kinds_legend(figure *f, double x, double y)
{
    for (int i = 0; i < f->kinds; i++) {
        const char *name = um_modality_name((um_modality)f->kind[i]);
        um_svg_rect(&f->body, x, y - 9, 10, 10, um_colour_modality(f->kind[i]));
        label(f, x + 14, y, 11, NULL, black, false, name);
        x += 14 + um_svg_width(name, 11) + 14;
    }
}

/* The frame of a plot with round lines and their percentages, from low to high. */
static void frame(figure *f, double x, double y, double w, double h, double low, double high)
{
    const um_svg_font font = {.size = 10, .anchor = "end", .fill = grey};
    int parts = low < 0 ? 4 : um_axis_parts(high);
    for (int i = 0; i <= parts; i++) {
        double at = y + h - h * i / parts;
        char text[32];
        um_axis_percent(text, low + (high - low) * i / parts, low < 0);
        um_svg_line(&f->body, x, at, x + w, at, i == 0 ? "#777777" : "#e0e0e0", i == 0 ? 1 : 0.7,
                    "");
        um_svg_label(&f->body, x - 5, at + 3.5, &font, text);
    }
}

static void stack(figure *f, double x, double y, double w, double h, int e0, int e1)
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

/* Stacked bars, one for all experts together first. */
static void mix_bars(figure *f, double x, double y, double w, double h)
{
    double whole = 26, slot = (w - whole - 12) / f->cols.slots, thick = slot >= 6 ? 0.8 : 1;
    if (slot > 100) thick = 80 / slot;
    frame(f, x, y, w, h, 0, 1);
    um_text_fmt(&f->body, "<g%s>\n", thick < 1 ? "" : " shape-rendering=\"crispEdges\"");
    stack(f, x + 2, y, whole - 4, h, 0, f->a->experts);
    for (int c = 0; c < f->cols.slots; c++)
        stack(f, x + whole + 12 + (c + (1 - thick) / 2) * slot, y, thick * slot, h,
              um_bin_from(&f->cols, c), um_bin_to(&f->cols, c));
    um_text_fmt(&f->body, "</g>\n");
    label(f, x + whole / 2, y + h + 12, 10, "middle", grey, false, "all");
    um_axis_columns(&f->body, x + whole + 12, y + h, slot, &f->cols);
    upwards(f, x - 48, y + h / 2, "share of assignments (%)");
    label(f, x + whole + 12 + (w - whole - 12) / 2, y + h + 27, 11, "middle", black, false,
          expert_axis(f));
}

/* The differences: kinds x experts as a heat-map. Gives the y under it. */
static double mix_changes(figure *f, double x, double y, double w, double h)
{
    int rows = f->kinds, cols = f->cols.slots;
    double *v = um_arena_alloc(&f->arena, (size_t)rows * (size_t)cols * sizeof *v);
    double bar = 110, end = 0, map_h = h - 44 < 30 * rows ? h - 44 : 30 * rows;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++)
            v[r * cols + c] =
                shown_mix(f, f->kind[r], um_bin_from(&f->cols, c), um_bin_to(&f->cols, c));
    end = scale_end(v, (size_t)rows * (size_t)cols, true);
    um_heat map = {.x = x,
                   .y = y,
                   .cell_w = w / cols,
                   .cell_h = map_h / rows,
                   .rows = rows,
                   .cols = cols,
                   .value = v,
                   .end = end,
                   .change = true,
                   .numbers = cols <= FEW && f->cols.each == 1 && map_h / rows >= 13};
    um_heat_draw(&f->body, &map, &f->arena);
    for (int r = 0; r < rows; r++)
        label(f, x - 5, y + (r + 0.5) * map.cell_h + 3.5, 10, "end", black, false,
              um_modality_name((um_modality)f->kind[r]));
    um_axis_columns(&f->body, x, y + map_h, map.cell_w, &f->cols);
    label(f, x + w / 2, y + map_h + 27, 11, "middle", black, false, expert_axis(f));
    um_heat_bar(&f->body, x + w - bar - 8, y + map_h + 44, bar, end, true, -1, "");
    label(f, x + w - bar - 20, y + map_h + 53, 10, "end", grey, false, "percentage points");
    return y + map_h + 68;
}

/* Gives the y under it. */
static double panel_mix(figure *f, double x, double y, double w, double h)
{
    heading(f, x - LEFT + 14, y, "b", "Whom each expert serves, all layers together",
            f->b == NULL ? "" : "change of each modality's share in the expert's assignments");
    if (f->b != NULL) return mix_changes(f, x, y + 32, w, h);
    kinds_legend(f, x - LEFT + 30, y + 18);
    mix_bars(f, x, y + 32, w, h);
    return y + 32 + h + 28;
}

/* ---- c: load ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Values of layer slot r, by expert: [experts]. */
static void load_values(const figure *f, double *v, int r)
{
    int l0 = um_bin_from(&f->rows, r), l1 = um_bin_to(&f->rows, r);
    double all = um_routes_sum(f->a, -1, l0, l1, 0, f->a->experts),
           other = f->b == NULL ? 0 : um_routes_sum(f->b, -1, l0, l1, 0, f->b->experts);
    for (int e = 0; e < f->a->experts; e++) {
        v[e] = ratio(um_routes_sum(f->a, -1, l0, l1, e, e + 1), all);
        if (f->b != NULL) v[e] -= ratio(um_routes_sum(f->b, -1, l0, l1, e, e + 1), other);
    }
}

typedef struct plot {
    double x, y, w, h, low, high;
} plot;

static double plot_y(const plot *p, double v)
{
    return p->y + p->h * (1 - (v - p->low) / (p->high - p->low));
}
static double plot_x(const figure *f, const plot *p, int slot)
{
    return p->x + (slot + 0.5) * p->w / f->rows.slots;
}

/* A line for every expert. v: [slots, E] */
static void load_lines(figure *f, const plot *p, const double *v)
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

/* What is drawn of a layer's many experts. */
enum { LEAST, LOW, MEDIAN, HIGH, MOST, MARKS };

/* The marks of every layer. [slots, MARKS] */
static double *load_marks(figure *f)
{
    int E = f->a->experts, slots = f->rows.slots;
    double *out = um_arena_alloc(&f->arena, (size_t)slots * MARKS * sizeof *out);
    double *s = um_arena_alloc(&f->arena, (size_t)E * sizeof *s);
    for (int r = 0; r < slots; r++) {
        double *to = out + (size_t)r * MARKS;
        load_values(f, s, r); /* all are numbers, or none */
        if (!isnan(s[0])) qsort(s, (size_t)E, sizeof *s, by_value);
        to[LEAST] = s[0];
        to[LOW] = s[(E - 1) / 10];
        to[MEDIAN] = (s[(E - 1) / 2] + s[E / 2]) / 2;
        to[HIGH] = s[E - 1 - (E - 1) / 10];
        to[MOST] = s[E - 1];
    }
    return out;
}

static void load_boxes(figure *f, const plot *p, const double *marks)
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
static double *load_all(figure *f)
{
    size_t E = (size_t)f->a->experts, slots = (size_t)f->rows.slots;
    double *out = um_arena_alloc(&f->arena, slots * E * sizeof *out);
    for (size_t r = 0; r < slots; r++) load_values(f, out + r * E, (int)r);
    return out;
}

static double key(figure *f, double x, double y, const char *text)
{
    label(f, x, y, 11, NULL, black, false, text);
    return x + um_svg_width(text, 11) + 12;
}

static void load_legend(figure *f, double x, double y)
{
    um_text *to = &f->body;
    um_svg_line(to, x, y - 4, x + 22, y - 4, black, 1.2, "5 3");
    x = key(f, x + 26, y,
            f->b != NULL ? "no change" : um_arena_fmt(&f->arena, "even: 1/%d", f->a->experts));
    if (f->a->experts > FEW) {
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

static void layer_ticks(figure *f, const plot *p)
{
    const um_svg_font font = {.size = 10, .anchor = "middle", .fill = grey};
    int n = f->rows.n;
    double slot = p->w / f->rows.slots, room = 26 / slot;
    int step = um_axis_step(room < 1 ? f->rows.each : room * f->rows.each);
    for (int i = 0; i < n; i += step) {
        const char *text = um_arena_fmt(&f->arena, "%d", f->a->layer[i]);
        um_svg_label(&f->body, plot_x(f, p, i / f->rows.each), p->y + p->h + 12, &font, text);
    }
}

static void panel_load(figure *f, double x, double y, double w, double h)
{
    int E = f->a->experts, slots = f->rows.slots;
    bool change = f->b != NULL;
    double even = change ? 0 : 1.0 / E;
    bool few = E <= FEW;
    const double *v = few ? load_all(f) : load_marks(f);
    double end = scale_end(v, (size_t)slots * (size_t)(few ? E : MARKS), change);
    if (end < even) end = um_axis_end(even);
    plot p = {.x = x, .y = y + 32, .w = w, .h = h, .low = change ? -end : 0, .high = end};
    heading(f, x - LEFT + 14, y, "c", "How even the load is", "");
    load_legend(f, x - LEFT + 30, y + 18);
    frame(f, p.x, p.y, p.w, p.h, p.low, p.high);
    um_svg_line(&f->body, p.x, plot_y(&p, even), p.x + p.w, plot_y(&p, even), black, 1.2, "5 3");
    if (few)
        load_lines(f, &p, v);
    else
        load_boxes(f, &p, v);
    layer_ticks(f, &p);
    upwards(f, x - 48, p.y + p.h / 2,
            change ? "change (percentage points)" : "share of assignments (%)");
    label(f, p.x + p.w / 2, p.y + p.h + 27, 11, "middle", black, false, layer_axis(f));
}

/* ---- the whole ---- */

/* Kinds that only one of two runs has: nothing to subtract. */
static const char *left_out(figure *f)
{
    bool only_a[UM_MODALITIES], only_b[UM_MODALITIES];
    for (int m = 0; m < UM_MODALITIES; m++) {
        only_a[m] = f->b != NULL && f->a->seen[m] && !f->b->seen[m];
        only_b[m] = f->b != NULL && f->b->seen[m] && !f->a->seen[m];
    }
    const char *a = names(f, only_a), *b = names(f, only_b), *s = "";
    if (a[0])
        s = um_arena_fmt(&f->arena, "only in %s, left out of a and b: %s",
                         shortened(f, f->a->name, 40), a);
    if (b[0])
        s = um_arena_fmt(&f->arena, "%s%sonly in %s, left out of a and b: %s", s, s[0] ? "; " : "",
                         shortened(f, f->b->name, 40), b);
    return s;
}

static double panels(figure *f, double y)
{
    double h = 170;
    y = panel_share(f, y);
    if (f->cols.slots <= 16) {
        double w = (inner - LEFT - 14) / 2;
        panel_mix(f, LEFT, y, w, h);
        panel_load(f, LEFT + w + LEFT + 14, y, w, h);
        return y + 32 + h + 44;
    }
    y = panel_mix(f, LEFT, y, inner, h) + 32;
    panel_load(f, LEFT, y, inner, h);
    return y + 32 + h + 44;
}

void um_figure_draw(um_text *svg, const um_routes *a, const um_routes *b, const char *phase)
{
    figure f = {.a = a,
                .b = b,
                .cols = um_bins_of(a->experts, COLUMNS_MAX),
                .rows = um_bins_of(a->moe_layers, ROWS_MAX)};
    um_arena_init(&f.arena, "figure", 1 << 16);
    for (int m = 0; m < UM_MODALITIES; m++)
        if (a->seen[m] && (b == NULL || b->seen[m])) f.kind[f.kinds++] = m;
    const char *head = title(&f), *under = subtitle(&f, phase), *note = left_out(&f);
    label(&f, 14, 28, 17, NULL, black, true, head);
    label(&f, 14, 47, 11.5, NULL, grey, false, under);
    double y = 84;
    if (b != NULL) {
        label(&f, 14, 63, 11.5, NULL, grey, false, run_words(&f, a));
        label(&f, 14, 79, 11.5, NULL, grey, false, run_words(&f, b));
        if (note[0]) label(&f, 14, 95, 11.5, NULL, grey, false, note);
        y = note[0] ? 132 : 116;
    }
    double bottom = panels(&f, y);
    const char *desc = um_arena_fmt(
        &f.arena,
        "%s. Panel a: for each modality (%s) the %s of its assignments, layers down, experts "
        "across. Panel b: for each expert the %s of each modality. Panel c: for each layer the %s "
        "of each expert, and the even share.",
        under, names(&f, a->seen), b == NULL ? "share" : "change of the share",
        b == NULL ? "share" : "change of the share", b == NULL ? "load" : "change of the load");
    um_svg_document(svg, WIDTH, bottom, head, desc, &f.body);
    um_text_free(&f.body);
    um_arena_free(&f.arena);
}
