/* Pillow's antialiased bicubic resize of 8-bit RGB, bit for bit, limited to the window that a crop keeps. */
#pragma once

#include "encoder_worker/frontend/image.h"

/* An image on a larger canvas of one colour: canvas pixel (x, y) is image pixel (x - left, y - top), else fill. */
typedef struct um_canvas {
    const um_image *image;
    int w, h, left, top;
    uint8_t fill[3];
} um_canvas;

/* A rectangle of the resized canvas. */
typedef struct um_window {
    int64_t x, y; /* of its first pixel in the resized canvas, which must contain the rectangle */
    int w, h;
} um_window;

/* rgb[win.h, win.w, 3] = window of the canvas resized to out_w x out_h. The canvas and the window are resized in two passes, first
 * along rows, then along columns, and rounded to 8 bits after each. A pass that does not change the size is the identity.
 *
 * One output x of n sums the inputs within support = 2 max(1, in/n) of centre = (x + 1/2) in/n, weighted by the cubic kernel with
 * a = -1/2 of their distance (Keys 1981), the weights divided by their sum, and rounded to 22 fraction bits; the sum of
 * products begins at 1/2 and is clipped to 0..255. Only the rows and columns that the window needs are computed, so memory and
 * time are bounded by the canvas, not by out_w x out_h. */
void um_resample(uint8_t *rgb, const um_canvas *canvas, int64_t out_w, int64_t out_h, um_window win,
                 um_arena *scratch);
