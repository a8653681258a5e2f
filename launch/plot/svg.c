/* See svg.h. */
#include "launch/plot/svg.h"

#include <string.h>

/* Decodes the character at s and sets *n to its length; returns U+FFFD with length 1 for invalid bytes. Accepts shortest forms
 * only (RFC 3629). */
static uint32_t next_char(const unsigned char *s, size_t *n)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    size_t len = s[0] < 0x80   ? 1
                 : s[0] < 0xC0 ? 0
                 : s[0] < 0xE0 ? 2
                 : s[0] < 0xF0 ? 3
                 : s[0] < 0xF8 ? 4
                               : 0;
    *n = 1;
    if (len == 1) return s[0];
    if (len == 0) return 0xFFFD;
    uint32_t c = s[0] & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xC0) != 0x80) return 0xFFFD;
        c = c << 6 | (s[i] & 0x3Fu);
    }
    if (c < least[len]) return 0xFFFD;
    *n = len;
    return c;
}

/* The production Char of XML 1.0. */
static bool allowed(uint32_t c)
{
    return c == '\t' || c == '\n' || (c >= 0x20 && c <= 0xD7FF) || (c >= 0xE000 && c < 0xFFFD) ||
           (c >= 0x10000 && c <= 0x10FFFF);
}

void um_xml_text(um_text *to, const char *s)
{
    for (size_t n = 0; *s != '\0'; s += n) {
        uint32_t c = next_char((const unsigned char *)s, &n);
        const char *as = c == '&'      ? "&amp;"
                         : c == '<'    ? "&lt;"
                         : c == '>'    ? "&gt;"
                         : c == '"'    ? "&quot;"
                         : c == '\''   ? "&#39;"
                         : !allowed(c) ? "\xEF\xBF\xBD"
                                       : NULL;
        um_text_add(to, as != NULL ? as : s, as != NULL ? strlen(as) : n);
    }
}

void um_svg_document(um_text *to, double w, double h, const char *title, const char *desc,
                     const um_text *body)
{
    um_text_fmt(to,
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.6g\" height=\"%.6g\" "
                "viewBox=\"0 0 %.6g %.6g\" role=\"img\" aria-labelledby=\"title desc\" "
                "font-family=\"Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif\">\n"
                "<title id=\"title\">",
                w, h, w, h);
    um_xml_text(to, title);
    um_text_fmt(to, "</title>\n<desc id=\"desc\">");
    um_xml_text(to, desc);
    um_text_fmt(to, "</desc>\n");
    um_svg_rect(to, 0, 0, w, h, "#ffffff");
    um_text_add(to, body->s, body->n);
    um_text_fmt(to, "</svg>\n");
}

void um_svg_label(um_text *to, double x, double y, const um_svg_font *font, const char *s)
{
    um_text_fmt(to, "<text x=\"%.6g\" y=\"%.6g\" font-size=\"%.6g\" fill=\"%s\"", x, y, font->size,
                font->fill != NULL ? font->fill : "#1a1a1a");
    if (font->anchor != NULL) um_text_fmt(to, " text-anchor=\"%s\"", font->anchor);
    if (font->bold) um_text_fmt(to, " font-weight=\"bold\"");
    if (font->upwards) um_text_fmt(to, " transform=\"rotate(-90 %.6g %.6g)\"", x, y);
    um_text_fmt(to, ">");
    um_xml_text(to, s);
    um_text_fmt(to, "</text>\n");
}

void um_svg_rect(um_text *to, double x, double y, double w, double h, const char *fill)
{
    um_text_fmt(to, "<rect x=\"%.6g\" y=\"%.6g\" width=\"%.6g\" height=\"%.6g\" fill=\"%s\"/>\n", x,
                y, w, h, fill);
}

void um_svg_line(um_text *to, double x1, double y1, double x2, double y2, const char *stroke,
                 double width, const char *dash)
{
    um_text_fmt(to,
                "<line x1=\"%.6g\" y1=\"%.6g\" x2=\"%.6g\" y2=\"%.6g\" stroke=\"%s\" "
                "stroke-width=\"%.6g\"",
                x1, y1, x2, y2, stroke, width);
    if (dash[0] != '\0') um_text_fmt(to, " stroke-dasharray=\"%s\"", dash);
    um_text_fmt(to, "/>\n");
}

void um_svg_dot(um_text *to, double x, double y, double r, const char *fill)
{
    um_text_fmt(to, "<circle cx=\"%.6g\" cy=\"%.6g\" r=\"%.6g\" fill=\"%s\"/>\n", x, y, r, fill);
}

double um_svg_width(const char *s, double size)
{
    size_t chars = 0;
    for (; *s != '\0'; s++) chars += ((unsigned char)*s & 0xC0) != 0x80;
    return 0.6 * size * (double)chars;
}
