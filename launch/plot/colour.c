/* See colour.h. */
#include "launch/plot/colour.h"

#include "core/base/status.h"

#include <stdio.h>

/* The scales YlGnBu and RdBu (reversed) of ColorBrewer, by Cynthia Brewer, www.colorbrewer.org; between stops the channels are
 * interpolated, as an SVG gradient does. */
static const unsigned share_stop[UM_SCALE_STOPS] = {
    0xffffd9, 0xedf8b1, 0xc7e9b4, 0x7fcdbb, 0x41b6c4, 0x1d91c0, 0x225ea8, 0x253494, 0x081d58};
static const unsigned change_stop[UM_SCALE_STOPS] = {
    0x2166ac, 0x4393c3, 0x92c5de, 0xd1e5f0, 0xf7f7f7, 0xfddbc7, 0xf4a582, 0xd6604d, 0xb2182b};

static double channel(unsigned rgb, int shift) { return (double)(rgb >> shift & 255); }

static um_colour on_scale(const unsigned *stop, double t)
{
    if (!(t > 0)) t = 0;
    if (t > 1) t = 1;
    double at = t * (UM_SCALE_STOPS - 1);
    int i = at < UM_SCALE_STOPS - 2 ? (int)at : UM_SCALE_STOPS - 2;
    double part[3];
    for (int c = 0; c < 3; c++) {
        double from = channel(stop[i], 16 - 8 * c), to = channel(stop[i + 1], 16 - 8 * c);
        part[c] = from + (to - from) * (at - i);
    }
    um_colour out = {.luminance = (0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2]) / 255.0};
    snprintf(out.hex, sizeof out.hex, "#%02x%02x%02x", (unsigned)(part[0] + 0.5) & 255,
             (unsigned)(part[1] + 0.5) & 255, (unsigned)(part[2] + 0.5) & 255);
    return out;
}

um_colour um_colour_share(double t) { return on_scale(share_stop, t); }
um_colour um_colour_change(double t) { return on_scale(change_stop, (t + 1) / 2); }

/* Okabe and Ito, Color Universal Design, 2008. */
const char *um_colour_modality(int modality)
{
    static const char *const set[] = {"#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9"};
    UM_ASSERT(modality >= 0 && modality < (int)(sizeof set / sizeof *set));
    return set[modality];
}

/* Paul Tol, Colour Schemes, 2021: muted. */
const char *um_colour_expert(int i)
{
    static const char *const set[UM_COLOUR_EXPERTS] = {"#332288", "#cc6677", "#117733", "#ddaa33",
                                                       "#44aa99", "#aa4499", "#88ccee", "#882255"};
    UM_ASSERT(i >= 0 && i < UM_COLOUR_EXPERTS);
    return set[i];
}
