/* See figure_panels.h. */
#include "launch/plot/figure_panels.h"

#include <math.h>
#include <stdio.h>

double um_panel_ratio(double part, double whole) { return whole > 0 ? part / whole : NAN; }

double um_panel_scale_end(const double *v, size_t n, bool change)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        if (!isnan(v[i]) && fabs(v[i]) > most) most = fabs(v[i]);
    if (most == 0) return change ? 0.001 : 1; /* two equal runs */
    return most > 0.8 ? 1 : um_axis_end(most);
}

const char *um_panel_shortened(um_figure *f, const char *s, int most)
{
    int chars = 0;
    size_t cut = 0; /* end of the last character that is kept */
    for (size_t i = 0; s[i] != '\0'; i++) {
        if (((unsigned char)s[i] & 0xC0) == 0x80) continue;
        if (chars++ == most - 1) cut = i;
    }
    if (chars <= most) return s;
    return um_arena_fmt(&f->arena, "%s\xE2\x80\xA6", um_arena_strn(&f->arena, s, cut));
}

void um_panel_label(um_figure *f, double x, double y, double size, const char *anchor,
                    const char *fill, bool bold, const char *s)
{
    const um_svg_font font = {.size = size, .anchor = anchor, .fill = fill, .bold = bold};
    um_svg_label(&f->body, x, y, &font, s);
}

const char *um_panel_grouped(um_figure *f, double n)
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

const char *um_panel_expert_axis(um_figure *f)
{
    if (f->cols.each == 1) return "expert";
    return um_arena_fmt(&f->arena, "expert (%d experts a column)", f->cols.each);
}

const char *um_panel_layer_axis(um_figure *f)
{
    if (f->rows.each == 1) return "layer";
    return um_arena_fmt(&f->arena, "layer (%d layers a row)", f->rows.each);
}

void um_panel_upwards(um_figure *f, double x, double y, const char *s)
{
    const um_svg_font font = {
        .size = 11, .anchor = "middle", .fill = um_panel_black, .upwards = true};
    um_svg_label(&f->body, x, y, &font, s);
}

void um_panel_heading(um_figure *f, double x, double y, const char *letter, const char *head,
                      const char *under)
{
    um_panel_label(f, x, y, 14, NULL, um_panel_black, true, letter);
    um_panel_label(f, x + 16, y, 13, NULL, um_panel_black, true, head);
    if (under[0]) um_panel_label(f, x + 16, y + 16, 11, NULL, um_panel_grey, false, under);
}

void um_panel_frame(um_figure *f, double x, double y, double w, double h, double low, double high)
{
    const um_svg_font font = {.size = 10, .anchor = "end", .fill = um_panel_grey};
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
