/* See curves.h. */
#include "launch/plot/run/curves.h"

#include "core/base/bytes.h"
#include "launch/plot/axis.h"

#include <math.h>
#include <stdio.h>

enum { RATIO = 20, WINDOWS = 30 };

static const char grey[] = "#555555", black[] = "#1a1a1a", pale[] = "#d0d0d0";

typedef struct plot {
    um_text *to;
    double x, y, w, h;
    double steps, low, high; /* ends of the axes */
    bool log;
} plot;

static double x_of(const plot *p, double step) { return p->x + p->w * step / p->steps; }

static double y_of(const plot *p, double v)
{
    const double t = p->log ? log(fmax(v, p->low) / p->low) / log(p->high / p->low)
                            : (v - p->low) / (p->high - p->low);
    return p->y + p->h * (1 - fmax(0, fmin(1, t)));
}

void um_curve_smooth(double *out, const double *y, size_t n)
{
    size_t values = 0;
    for (size_t i = 0; i < n; i++) values += isfinite(y[i]) != 0;
    const double window = fmax(1, (double)values / WINDOWS), keep = (window - 1) / (window + 1);
    double sum = 0, weight = 0;
    for (size_t i = 0; i < n; i++) {
        out[i] = NAN;
        if (!isfinite(y[i])) continue;
        sum = keep * sum + (1 - keep) * y[i];
        weight = keep * weight + (1 - keep);
        out[i] = sum / weight;
    }
}

/* --- axes --- */

/* The ends of the y axis, from all values that are drawn. */
static void scale(plot *p, const um_curves *c)
{
    double least = INFINITY, most = 0;
    for (int k = 0; k < c->curves; k++)
        for (size_t i = 0; i < c->n; i++) {
            const double v = c->curve[k].y[i];
            if (!isfinite(v)) continue;
            least = fmin(least, v);
            most = fmax(most, v);
        }
    if (!isnan(c->even)) {
        least = fmin(least, c->even);
        most = fmax(most, c->even);
    }
    p->log = least > 0 && most > RATIO * least;
    if (!p->log) {
        p->low = least < 0 ? -um_axis_end(-least) : 0;
        p->high = most > 0 ? um_axis_end(most) : least < 0 ? 0 : 1;
        return;
    }
    p->low = pow(10, floor(log10(least)));
    if (5 * p->low <= least)
        p->low *= 5;
    else if (2 * p->low <= least)
        p->low *= 2;
    p->high = um_axis_end(most);
}

static void grid_line(const plot *p, double v, bool strong)
{
    const um_svg_font font = {.size = 10, .anchor = "end", .fill = grey};
    const double y = y_of(p, v);
    char text[32];
    snprintf(text, sizeof text, "%.3g", v);
    um_svg_line(p->to, p->x, y, p->x + p->w, y, strong ? "#777777" : "#e0e0e0", strong ? 1 : 0.7,
                "");
    um_svg_label(p->to, p->x - 5, y + 3.5, &font, text);
}

static void y_axis(const plot *p)
{
    static const double parts_of_ten[] = {1, 2, 5};
    if (!p->log) {
        const int parts = p->low < 0 ? 1 : um_axis_parts(p->high);
        if (p->low < 0) grid_line(p, p->low, false);
        for (int i = 0; i <= parts && (i == 0 || p->high > 0); i++)
            grid_line(p, p->high * i / parts, i == 0);
        return;
    }
    um_svg_line(p->to, p->x, p->y + p->h, p->x + p->w, p->y + p->h, "#777777", 1, "");
    const double decades = log10(p->high / p->low), every = p->h / decades;
    const int step = (int)ceil(14 / every); /* decades from label to label */
    int count = 0;
    for (double ten = pow(10, floor(log10(p->low))); ten <= p->high * 1.001; ten *= 10, count++)
        for (int i = 0; i < 3; i++) {
            const double v = ten * parts_of_ten[i];
            if (v < p->low * 0.999 || v > p->high * 1.001) continue;
            if (i == 0 ? count % step == 0 : every >= 60) grid_line(p, v, false);
        }
}

static void x_axis(const plot *p)
{
    const um_svg_font font = {.size = 10, .anchor = "middle", .fill = grey};
    char text[32];
    snprintf(text, sizeof text, "%.0f", p->steps);
    const double room = (um_svg_width(text, 10) + 14) / p->w * p->steps;
    double step = 1;
    while (step < room) step = step * 10 <= room ? step * 10 : um_axis_end(room);
    step = ceil(step);
    for (double s = 0; s <= p->steps * (1 + 1e-9); s += step) {
        snprintf(text, sizeof text, "%.0f", s);
        um_svg_line(p->to, x_of(p, s), p->y + p->h, x_of(p, s), p->y + p->h + 3, grey, 0.7, "");
        um_svg_label(p->to, x_of(p, s), p->y + p->h + 13, &font, text);
    }
    const um_svg_font name = {.size = 11, .anchor = "middle", .fill = black};
    um_svg_label(p->to, p->x + p->w / 2, p->y + p->h + 28, &name, "step");
}

/* --- curves --- */

/* A line through the values that there are; of several in one pixel's width their least and largest. */
static void line(const plot *p, const um_curves *c, const double *y, const char *colour,
                 double width)
{
    bool pen = false;
    for (size_t i = 0; i < c->n;) {
        const double column = floor(x_of(p, c->step[i]));
        double least = INFINITY, most = -INFINITY, first = NAN, x = x_of(p, c->step[i]);
        for (; i < c->n && floor(x_of(p, c->step[i])) == column; i++) {
            if (!isfinite(y[i])) continue;
            if (isnan(first)) {
                first = y[i];
                x = x_of(p, c->step[i]);
            }
            least = fmin(least, y[i]);
            most = fmax(most, y[i]);
        }
        if (isnan(first)) continue;
        if (!pen)
            um_text_fmt(p->to,
                        "<path fill=\"none\" stroke=\"%s\" stroke-width=\"%.6g\" "
                        "stroke-linejoin=\"round\" d=\"",
                        colour, width);
        um_text_fmt(p->to, "%c%.6g %.6g", pen ? 'L' : 'M', x, y_of(p, first));
        if (least < most) um_text_fmt(p->to, "V%.6gV%.6g", y_of(p, least), y_of(p, most));
        pen = true;
    }
    if (pen) um_text_fmt(p->to, "\"/>\n");
}

static size_t values_of(const double *y, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) k += isfinite(y[i]) != 0;
    return k;
}

static void curve(const plot *p, const um_curves *c, const um_curve *k, um_arena *scratch)
{
    enum { DOTS = 100 }; /* more than so many would be a line */
    const size_t values = values_of(k->y, c->n);
    if (k->dots || values < 2) {
        line(p, c, k->y, k->colour, 1.2);
        for (size_t i = 0; i < c->n && values <= DOTS; i++)
            if (isfinite(k->y[i]))
                um_svg_dot(p->to, x_of(p, c->step[i]), y_of(p, k->y[i]), 2.4, k->colour);
        return;
    }
    double *mean = um_arena_alloc(scratch, (c->n + 1) * sizeof *mean);
    um_curve_smooth(mean, k->y, c->n);
    line(p, c, mean, k->colour, 1.5);
}

static void legend(const plot *p, const um_curves *c)
{
    const um_svg_font font = {.size = 11, .fill = black};
    double x = p->x;
    for (int k = 0; k < c->curves; k++) {
        if (values_of(c->curve[k].y, c->n) == 0) continue;
        um_svg_line(p->to, x, p->y - 12, x + 14, p->y - 12, c->curve[k].colour, 2, "");
        um_svg_label(p->to, x + 18, p->y - 8, &font, c->curve[k].name);
        x += 18 + um_svg_width(c->curve[k].name, 11) + 10;
    }
}

void um_curves_draw(um_text *to, const um_curves *c, double x, double y, double w, double h,
                    um_arena *scratch)
{
    const um_svg_font unit = {.size = 11, .anchor = "middle", .fill = black, .upwards = true};
    plot p = {.to = to, .x = x, .y = y, .w = w, .h = h, .steps = fmax(1, c->steps)};
    if (c->n > 0) p.steps = fmax(p.steps, c->step[c->n - 1]);
    scale(&p, c);
    y_axis(&p);
    x_axis(&p);
    um_svg_label(to, x - 48, y + h / 2, &unit, c->unit);
    if (!isnan(c->even))
        um_svg_line(to, x, y_of(&p, c->even), x + w, y_of(&p, c->even), black, 1.2, "5 3");
    for (int k = 0; k < c->curves; k++)
        if (c->curve[k].raw) line(&p, c, c->curve[k].y, pale, 1);
    for (int k = 0; k < c->curves; k++) curve(&p, c, &c->curve[k], scratch);
    legend(&p, c);
}
