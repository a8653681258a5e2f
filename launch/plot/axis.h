/* Axes with round ends and steps and with labels that do not overlap, and the heat-maps drawn on them. */
#pragma once

#include "launch/plot/svg.h"

/* The smallest round number (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10 times a power of ten) that is not below v (v > 0), and the
 * number of round parts that it divides into. */
double um_axis_end(double v);
int um_axis_parts(double end);
/* The smallest number of the form 1, 2 or 5 times a power of ten that is not below n. */
int um_axis_step(double n);
/* A share in percent, such as "12.5"; with its sign when sign is set. */
void um_axis_percent(char out[32], double share, bool sign);

/* n items, `each` of them per slot: experts in columns, layers in rows. */
typedef struct um_bins {
    int n, each, slots;
} um_bins;
um_bins um_bins_of(int n, int most);
int um_bin_from(const um_bins *b, int slot);
int um_bin_to(const um_bins *b, int slot);

/* Writes the numbers of the items below (or left of) their slots of `size` pixels, as many as fit. number NULL: their positions. */
void um_axis_columns(um_text *to, double x, double y, double size, const um_bins *b);
void um_axis_rows(um_text *to, double x, double y, double size, const um_bins *b,
                  const int *number);

/* A heat-map of rows x cols values, row by row; NaN is grey. The values are shares, or changes when change is set; end is the
 * value at the end of the scale. numbers: write percentages into the cells. */
typedef struct um_heat {
    double x, y, cell_w, cell_h;
    int rows, cols;
    const double *value;
    double end;
    bool change, numbers;
} um_heat;
void um_heat_draw(um_text *to, const um_heat *h, um_arena *scratch);
/* The colour bar, w pixels wide, with its percentages below it. mark: a share to mark on it; negative: no mark. */
void um_heat_bar(um_text *to, double x, double y, double w, double end, bool change, double mark,
                 const char *mark_text);
