/* Writes PNGs of any kind for tests, stored and not compressed: what no encoder makes (palette indices past the palette, 16-bit
 * gray, interlaced 3 x 3) is what a decoder must be tried on. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tiny_png {
    uint8_t bytes[4096];
    size_t n;
} tiny_png;

/* kind: 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGBA. */
void tiny_png_begin(tiny_png *p, uint32_t w, uint32_t h, int depth, int kind, bool interlaced);
void tiny_png_chunk(tiny_png *p, const char *type, const uint8_t *data, size_t n);
/* One IDAT of a filter byte and row_bytes bytes a row, as given. raw already has the filter bytes when row_bytes is 0. */
void tiny_png_rows(tiny_png *p, const uint8_t *rows, size_t n, size_t row_bytes);
void tiny_png_end(tiny_png *p);
