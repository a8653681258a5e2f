/* What the files of the figure share (figure.c and its panels a, b and c). Positions are pixels, y downwards. Only figure*.c
 * include this. */
#pragma once

#include "launch/plot/axis.h"
#include "launch/plot/routes.h"

enum { UM_PANEL_WIDTH = 960, UM_PANEL_LEFT = 64, UM_PANEL_RIGHT = 24 };
/* Up to this many experts are drawn one by one: numbers in cells, a line each. */
enum { UM_PANEL_FEW = 8 };
static const double um_panel_inner = UM_PANEL_WIDTH - UM_PANEL_LEFT - UM_PANEL_RIGHT;
static const char um_panel_grey[] = "#555555", um_panel_black[] = "#1a1a1a";

typedef struct um_figure {
    const um_routes *a, *b; /* b NULL: one run */
    um_bins cols, rows;     /* experts and layers in slots */
    const char *letter;     /* of um_panel_share */
    int kind[UM_MODALITIES], kinds;
    um_text body;
    um_arena arena;
} um_figure;

/* The panels; each starts at y. a and b return the y below them. */
double um_panel_share(um_figure *f, double y);
double um_panel_mix(um_figure *f, double x, double y, double w, double h);
void um_panel_load(um_figure *f, double x, double y, double w, double h);

/* part / whole; NaN when whole is 0. */
double um_panel_ratio(double part, double whole);
/* A round end of the scale that covers all n values. */
double um_panel_scale_end(const double *v, size_t n, bool change);

/* At most `most` characters of s, with an ellipsis for the rest. */
const char *um_panel_shortened(um_figure *f, const char *s, int most);
void um_panel_label(um_figure *f, double x, double y, double size, const char *anchor,
                    const char *fill, bool bold, const char *s);
/* 1234567 -> "1,234,567" */
const char *um_panel_grouped(um_figure *f, double n);
const char *um_panel_expert_axis(um_figure *f);
const char *um_panel_layer_axis(um_figure *f);
void um_panel_upwards(um_figure *f, double x, double y, const char *s);
/* "a  What it shows" with a line of explanation below it. */
void um_panel_heading(um_figure *f, double x, double y, const char *letter, const char *head,
                      const char *under);
/* The frame of a plot with grid lines at round percentages from low to high. */
void um_panel_frame(um_figure *f, double x, double y, double w, double h, double low, double high);
