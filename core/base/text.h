/* Text: a growing string for what the programs write (JSON, CSV, SVG, file headers), and small questions about strings. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A growing text. Zero it to begin; um_text_free at the end. s is always 0-terminated once something was added. */
typedef struct um_text {
    char *s;
    size_t n, cap;
} um_text;
void um_text_add(um_text *t, const char *s, size_t n);
void um_text_fmt(um_text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* s with JSON quotes and escapes; bytes that are not UTF-8 become U+FFFD. */
void um_text_json(um_text *t, const char *s);
void um_text_free(um_text *t);

bool um_starts_with(const char *s, const char *prefix);
bool um_ends_with(const char *s, const char *suffix);
/* "13.2 B", "376 M", "987" into out: parameters as people name them. */
void um_count_text(char out[32], int64_t n);
/* "1.5 GiB" into out. */
void um_bytes_text(char out[32], int64_t bytes);
