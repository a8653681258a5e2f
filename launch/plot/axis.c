/* See axis.h. */
#include "launch/plot/axis.h"

#include "core/base/bytes.h"
#include "launch/plot/colour.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LEVELS = 100 }; /* colours of a heat-map on each side of the one for 0 */

static const char grey[] = "#555555", no_value[] = "#e4e4e4";

static const struct {
    double end;
    int parts;
} rounds[] = {{1, 4}, {1.2, 4}, {1.5, 3}, {2, 4}, {2.5, 5}, {3, 3},
              {4, 4}, {5, 5},   {6, 3},   {8, 4}, {10, 4}};
enum { ROUNDS = (int)(sizeof rounds / sizeof *rounds) };

static double power_below(double v)
{
    double power = 1;
    while (power * 10 <= v) power *= 10;
    while (power > v) power /= 10;
    return power;
}

double um_axis_end(double v)
{
    double power = power_below(v);
    for (int i = 0; i < ROUNDS - 1; i++)
        if (rounds[i].end * power >= v * (1 - 1e-9)) return rounds[i].end * power;
    return 10 * power;
}

int um_axis_parts(double end)
{
    double power = power_below(end * (1 + 1e-9));
    for (int i = 0; i < ROUNDS; i++)
        if (fabs(rounds[i].end * power - end) < 1e-6 * end) return rounds[i].parts;
    return 4;
}

int um_axis_step(double n)
{
    int power = 1;
    while (power * 10 <= n) power *= 10;
    return n <= power       ? power
           : n <= 2 * power ? 2 * power
           : n <= 5 * power ? 5 * power
                            : 10 * power;
}

/* Writes 100 * share in format, which formats one double. The minus is U+2212, as wide as the plus; zero has no sign. */
__attribute__((format(printf, 3, 0))) static void percent(char out[32], double share,
                                                          const char *format, bool sign)
{
    char digits[24];
    snprintf(digits, sizeof digits, format, fabs(100 * share));
    bool zero = strspn(digits, "0.") == strlen(digits);
    const char *mark = zero ? "" : share < 0 ? "\xE2\x88\x92" : sign ? "+" : "";
    snprintf(out, 32, "%s%s", mark, digits);
}

void um_axis_percent(char out[32], double share, bool sign)
{
    percent(out, fabs(share) < 1e-11 ? 0 : share, "%.3g", sign);
}

um_bins um_bins_of(int n, int most)
{
    int each = (n + most - 1) / most;
    return (um_bins){.n = n, .each = each, .slots = (n + each - 1) / each};
}
int um_bin_from(const um_bins *b, int slot) { return slot * b->each; }
int um_bin_to(const um_bins *b, int slot) { return um_min_int(b->n, (slot + 1) * b->each); }

void um_axis_columns(um_text *to, double x, double y, double size, const um_bins *b)
{
    const um_svg_font font = {.size = 10, .anchor = "middle", .fill = grey};
    char last[16];
    snprintf(last, sizeof last, "%d", b->n - 1);
    double slots = (um_svg_width(last, font.size) + 3) / size;
    int step = um_axis_step(slots < 1 ? b->each : slots * b->each);
    for (int i = 0; i < b->n; i += step) {
        char label[16];
        snprintf(label, sizeof label, "%d", i);
        um_svg_label(to, x + ((double)(i / b->each) + 0.5) * size, y + 12, &font, label);
    }
}

void um_axis_rows(um_text *to, double x, double y, double size, const um_bins *b, const int *number)
{
    const um_svg_font font = {.size = 10, .anchor = "end", .fill = grey};
    int step = um_axis_step(size >= 11 ? b->each : 11 / size * b->each);
    for (int i = 0; i < b->n; i += step) {
        char label[16];
        snprintf(label, sizeof label, "%d", number != NULL ? number[i] : i);
        um_svg_label(to, x - 5, y + ((double)(i / b->each) + 0.5) * size + 3.5, &font, label);
    }
}

/* ---- heat-maps ---- */

static um_colour colour_of(bool change, double t)
{
    return change ? um_colour_change(t) : um_colour_share(t);
}

/* -LEVELS..LEVELS; LEVELS + 1 when there is no value. */
static int level_of(const um_heat *h, double v)
{
    if (isnan(v)) return LEVELS + 1;
    double t = v / h->end;
    return (int)floor((t < -1 ? -1 : t > 1 ? 1 : t) * LEVELS + 0.5);
}

/* Draws all cells of one colour as one path, so that the file of a large map stays small. */
static void heat_cells(um_text *to, const um_heat *h, const int *level, int which)
{
    size_t n = (size_t)h->rows * (size_t)h->cols;
    double gap = h->cell_w >= 10 && h->cell_h >= 10 ? 1 : 0;
    bool begun = false;
    for (size_t i = 0; i < n; i++) {
        if (level[i] != which) continue;
        int row = (int)(i / (size_t)h->cols), col = (int)(i % (size_t)h->cols), run = 1;
        while (gap == 0 && col + run < h->cols && level[i + 1] == which) {
            run++;
            i++;
        }
        if (!begun)
            um_text_fmt(to, "<path fill=\"%s\" d=\"",
                        which > LEVELS ? no_value
                                       : colour_of(h->change, (double)which / LEVELS).hex);
        begun = true;
        um_text_fmt(to, "M%.6g %.6gh%.6gv%.6gh-%.6gz", h->x + col * h->cell_w,
                    h->y + row * h->cell_h, run * h->cell_w - gap, h->cell_h - gap,
                    run * h->cell_w - gap);
    }
    if (begun) um_text_fmt(to, "\"/>\n");
}

static void heat_numbers(um_text *to, const um_heat *h)
{
    double size = h->cell_h >= 18 ? 10 : 9;
    for (int r = 0; r < h->rows; r++)
        for (int c = 0; c < h->cols; c++) {
            double v = h->value[um_at((size_t)r, (size_t)c, (size_t)h->cols)];
            char label[32];
            if (isnan(v)) continue;
            percent(label, v, fabs(v) < 0.0995 ? "%.1f" : "%.0f", h->change);
            bool dark = colour_of(h->change, v / h->end).luminance < 0.52;
            const um_svg_font font = {
                .size = size, .anchor = "middle", .fill = dark ? "#ffffff" : "#1a1a1a"};
            um_svg_label(to, h->x + (c + 0.5) * h->cell_w - 0.5,
                         h->y + (r + 0.5) * h->cell_h + 0.34 * size - 0.5, &font, label);
        }
}

void um_heat_draw(um_text *to, const um_heat *h, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    size_t n = (size_t)h->rows * (size_t)h->cols;
    int *level = um_arena_alloc(scratch, n * sizeof *level);
    bool used[2 * LEVELS + 2] = {false};
    for (size_t i = 0; i < n; i++) used[(level[i] = level_of(h, h->value[i])) + LEVELS] = true;
    um_text_fmt(to, "<g shape-rendering=\"crispEdges\">\n");
    for (int l = -LEVELS; l <= LEVELS + 1; l++)
        if (used[l + LEVELS]) heat_cells(to, h, level, l);
    um_text_fmt(to, "</g>\n");
    if (h->numbers) heat_numbers(to, h);
    um_arena_reset(scratch, mark);
}

void um_heat_bar(um_text *to, double x, double y, double w, double end, bool change, double mark,
                 const char *mark_text)
{
    const char *id = change ? "change" : "share";
    const um_svg_font font = {.size = 10, .anchor = "middle", .fill = grey};
    um_text_fmt(to, "<defs><linearGradient id=\"%s\">", id);
    for (int i = 0; i < UM_SCALE_STOPS; i++) {
        double t = (double)i / (UM_SCALE_STOPS - 1);
        um_text_fmt(to, "<stop offset=\"%.6g\" stop-color=\"%s\"/>", t,
                    colour_of(change, change ? 2 * t - 1 : t).hex);
    }
    um_text_fmt(to,
                "</linearGradient></defs>\n<rect x=\"%.6g\" y=\"%.6g\" width=\"%.6g\" "
                "height=\"10\" fill=\"url(#%s)\" stroke=\"#999999\" stroke-width=\"0.5\"/>\n",
                x, y, w, id);
    for (int i = 0; i <= 2; i++) {
        char label[40], number[32];
        double v = change ? end * (i - 1) : end * i / 2;
        um_axis_percent(number, v, change);
        snprintf(label, sizeof label, "%s", number);
        um_svg_line(to, x + w * i / 2, y + 10, x + w * i / 2, y + 13, grey, 0.7, "");
        um_svg_label(to, x + w * i / 2, y + 23, &font, label);
    }
    if (mark >= 0 && mark <= end) {
        double at = x + w * mark / end;
        um_svg_line(to, at, y - 3, at, y + 10, "#1a1a1a", 1, "");
        um_svg_label(to, at, y - 5, &font, mark_text);
    }
}
