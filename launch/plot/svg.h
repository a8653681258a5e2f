/* Writes SVG 1.1: the few shapes that the figures consist of, as text. All text from outside goes through um_xml_text. An image
 * does not refer to fonts, scripts or other files, so any viewer can show it. */
#pragma once

#include "core/base/json.h"

/* s with &, <, > and quotes escaped; bytes that are not UTF-8 and characters that XML forbids become U+FFFD. */
void um_xml_text(um_text *to, const char *s);

/* Wraps body into a document of w x h pixels on white, with a title and a description for screen readers. */
void um_svg_document(um_text *to, double w, double h, const char *title, const char *desc,
                     const um_text *body);

typedef struct um_svg_font {
    double size;
    const char *anchor; /* start, middle or end */
    const char *fill;
    bool bold, upwards; /* upwards: rotated by 90 degrees */
} um_svg_font;
void um_svg_label(um_text *to, double x, double y, const um_svg_font *font, const char *s);

void um_svg_rect(um_text *to, double x, double y, double w, double h, const char *fill);
/* dash: "" or a dash pattern. */
void um_svg_line(um_text *to, double x1, double y1, double x2, double y2, const char *stroke,
                 double width, const char *dash);
void um_svg_dot(um_text *to, double x, double y, double r, const char *fill);

/* The width of s in pixels in a sans-serif face of this size, slightly overestimated. */
double um_svg_width(const char *s, double size);
