/* See text.h. */
#include "core/base/text.h"

#include "core/base/arena.h"
#include "core/base/status.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool um_starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool um_ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), k = strlen(suffix);
    return n >= k && strcmp(s + n - k, suffix) == 0;
}

void um_count_text(char out[32], int64_t n)
{
    static const struct {
        double size;
        const char *name;
    } unit[] = {{1e12, " T"}, {1e9, " B"}, {1e6, " M"}, {1e3, " k"}};
    for (size_t i = 0; i < 4; i++) {
        if ((double)n < unit[i].size) continue;
        snprintf(out, 32, "%.2f%s", (double)n / unit[i].size, unit[i].name);
        return;
    }
    snprintf(out, 32, "%" PRId64, n);
}

void um_bytes_text(char out[32], int64_t bytes)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    int u = 0;
    for (; u < 4 && v >= 1024; u++) v /= 1024;
    snprintf(out, 32, u == 0 ? "%.0f %s" : "%.1f %s", v, unit[u]);
}

/* Room for n more bytes and the closing 0. */
static void text_reserve(um_text *t, size_t n)
{
    size_t want = t->n + n + 1;
    if (want <= t->cap) return;
    t->cap = want > 2 * t->cap ? want : 2 * t->cap;
    if (t->cap < 256) t->cap = 256;
    t->s = um_realloc(t->s, t->cap);
}

void um_text_add(um_text *t, const char *s, size_t n)
{
    text_reserve(t, n);
    if (n > 0) memcpy(t->s + t->n, s, n);
    t->n += n;
    t->s[t->n] = '\0';
}

void um_text_fmt(um_text *t, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    UM_ASSERT(n >= 0);
    text_reserve(t, (size_t)n);
    vsnprintf(t->s + t->n, (size_t)n + 1, fmt, again);
    va_end(again);
    t->n += (size_t)n;
}

/* Bytes of the UTF-8 character at s (RFC 3629: no overlong form, no surrogate, at most U+10FFFF), or 0. Never reads past the
 * closing 0, which is no continuation byte. */
static size_t utf8_length(const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    if (p[0] < 0x80) return 1;
    size_t n = p[0] >= 0xC2 && p[0] < 0xE0   ? 2
               : p[0] >= 0xE0 && p[0] < 0xF0 ? 3
               : p[0] >= 0xF0 && p[0] < 0xF5 ? 4
                                             : 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80) return 0;
    }
    if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F)) return 0;
    if ((p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F)) return 0;
    return n;
}

static void text_escape(um_text *t, unsigned char c)
{
    static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    const char *at = memchr(plain, c, sizeof plain - 1);
    if (at != NULL)
        um_text_fmt(t, "\\%c", letter[at - plain]);
    else
        um_text_fmt(t, "\\u%04x", c);
}

/* Characters at the front that stand in JSON as they are: ASCII without quotes, backslashes and controls. */
static size_t plain_run(const char *s)
{
    size_t n = 0;
    while ((unsigned char)s[n] >= 0x20 && (unsigned char)s[n] < 0x80 && s[n] != '"' && s[n] != '\\')
        n++;
    return n;
}

void um_text_json(um_text *t, const char *s)
{
    um_text_add(t, "\"", 1);
    while (*s != '\0') {
        size_t run = plain_run(s);
        um_text_add(t, s, run);
        s += run;
        if (*s == '\0') break;
        unsigned char c = (unsigned char)*s;
        size_t n = utf8_length(s);
        if (c < 0x20 || c == '"' || c == '\\')
            text_escape(t, c);
        else if (n == 0)
            um_text_add(t, "\xEF\xBF\xBD", 3);
        else
            um_text_add(t, s, n);
        s += n == 0 ? 1 : n;
    }
    um_text_add(t, "\"", 1);
}

void um_text_free(um_text *t)
{
    um_free(t->s);
    *t = (um_text){0};
}
