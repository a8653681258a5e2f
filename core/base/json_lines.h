/* The texts of a stream of JSON values, cut out of its bytes as they come and not parsed: one value a line (JSON Lines), or the
 * elements of one array, as data files are written. Which of the two it is, the first byte that is not white space says: '['.
 *
 * A byte order mark in front of a line, empty lines and '\r' before '\n' are skipped. Memory is bounded by the longest item kept, whatever
 * the stream holds; a longer item is reported with its size, and the next one is found all the same. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct um_json_item {
    const char *text; /* [n], and a 0 behind; valid until the next call */
    size_t n;
    uint64_t number; /* from 1: of the line, empty ones counted too, or of the element */
    bool element;    /* of an array */
    uint64_t at;     /* byte of the stream at which text begins */
    size_t
        bytes; /* n, or when that is more than the limit, the item's size; text is then its beginning */
} um_json_item;

/* Zero all but limit to begin. */
typedef struct um_json_lines {
    size_t limit; /* longest item that is kept, in bytes */
    char *buf;    /* the beginning of the item that is being read */
    size_t n, cap, bytes;
    uint64_t line, elements; /* lines ended so far; elements begun */
    uint64_t read, at;       /* bytes read before this call; where the item begins */
    int state, bom, depth;
    bool string, escape; /* within an element */
} um_json_lines;

/* Reads data[0..n) up to the end of the next item and returns how many bytes that took. The item is in *out; its text is NULL when
 * the data ended first. */
size_t um_json_lines_read(um_json_lines *l, um_json_item *out, const char *data, size_t n);
/* At the end of the stream: the last item, which may lack its end. Text NULL when there is none. */
void um_json_lines_end(um_json_lines *l, um_json_item *out);
void um_json_lines_free(um_json_lines *l);
