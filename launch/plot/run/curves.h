/* Curves over the steps of a run, in a panel with axes: linear from 0, or logarithmic where the values span more than a factor of 20. */
#pragma once

#include "launch/plot/svg.h"

#include "core/base/arena.h"

typedef struct um_curve {
    const char *name, *colour;
    const double *y; /* [n] NaN: none at this step */
    bool raw;        /* the values themselves too, pale */
    bool dots;       /* a dot for each value, joined; else the running mean */
} um_curve;

typedef struct um_curves {
    const double *step; /* [n] rising */
    size_t n;
    double steps;          /* where the axis ends at least */
    const um_curve *curve; /* [curves] */
    int curves;
    const char *unit; /* along the y axis */
    double even;      /* a dashed line there; NaN: none */
} um_curves;

/* The running mean that a curve is drawn as: exponential, without bias at the beginning, over about a thirtieth of its values. NaN stay
 * NaN. */
void um_curve_smooth(double *out, const double *y, size_t n);
/* The plot itself x .. x + w, y .. y + h with what is left of it (60 pixels) and below it (32), and the legend in the line above it. */
void um_curves_draw(um_text *to, const um_curves *c, double x, double y, double w, double h,
                    um_arena *scratch);
