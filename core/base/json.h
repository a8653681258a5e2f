/* JSON: the one door to jansson, for reading. JSON is written with um_text (text.h).
 *
 * Reading is strict (RFC 8259, UTF-8, no duplicate keys, nesting at most 2048 deep). A um_json is a borrowed node of a document;
 * it lives until um_json_free of the root. Accessors of a NULL node or of the wrong kind return the fallback. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "core/base/text.h"

#include <stdint.h>

typedef struct um_json um_json;
typedef enum um_json_kind {
    UM_JSON_NONE, /* no node */
    UM_JSON_OBJECT,
    UM_JSON_ARRAY,
    UM_JSON_STRING,
    UM_JSON_INT,
    UM_JSON_REAL,
    UM_JSON_BOOL,
    UM_JSON_NULL,
} um_json_kind;

um_status um_json_parse(um_json **root, const void *data, size_t size, um_err *err);
/* The same for data of people and other programs: a number that neither int64 nor double can hold becomes a string of its text,
 * so that whoever reads that key decides about it (an id may have any number of digits); a byte order mark in front is skipped. */
um_status um_json_parse_large(um_json **root, const void *data, size_t size, um_err *err);
/* Reads and parses a file of at most limit bytes; errors name the path. */
um_status um_json_load(um_json **root, const char *path, size_t limit, um_err *err);
/* The same as Python's json module reads, for files that Python programs write: NaN and Infinity (as strings), a key that stands twice
 * (the last one counts), and a byte order mark, which Python refuses. */
um_status um_json_load_loose(um_json **root, const char *path, size_t limit, um_err *err);
void um_json_free(um_json *root);
/* The member key of the object in text, if it is a string or a whole number: its text, in arena, else NULL. Reads as far as it must
 * and parses nothing else, so that it finds the id of an object that is damaged or cut off. */
const char *um_json_find(const char *text, size_t size, const char *key, um_arena *arena);

/* The text of a node, without needless white space, in arena. */
const char *um_json_compact(const um_json *j, um_arena *arena);

um_json_kind um_json_kind_of(const um_json *j);
const um_json *um_json_get(const um_json *object, const char *key); /* NULL when absent */
size_t um_json_size(const um_json *j); /* members or elements, else 0 */
const um_json *um_json_at(const um_json *array, size_t i);
/* Iterates over the members in file order: *iter is NULL to begin; returns NULL at the end. */
const um_json *um_json_next(const um_json *object, void **iter, const char **key);
const char *um_json_str(const um_json *j, const char *fallback);
int64_t um_json_int(const um_json *j, int64_t fallback);
double um_json_num(const um_json *j, double fallback); /* ints and reals */
bool um_json_bool(const um_json *j, bool fallback);

/* object[key] as an integer in [min, max]. Absent or null: *out stays, UM_OK, unless required. Wrong kind or range: UM_E_MODEL
 * with "key: 7, allowed 1..4". */
um_status um_json_read_int(const um_json *object, const char *key, bool required, int64_t min,
                           int64_t max, int64_t *out, um_err *err);
/* The same of a key that may be absent, where 3.0 and 1e2 are whole numbers too. */
um_status um_json_read_whole(const um_json *object, const char *key, int64_t min, int64_t max,
                             int64_t *out, um_err *err);
um_status um_json_read_num(const um_json *object, const char *key, bool required, double min,
                           double max, double *out, um_err *err);
/* Of 64 bits without sign; a string of digits counts as a number, as um_json_parse_large makes them. *given: it is there, and *out
 * set. */
um_status um_json_read_u64(const um_json *object, const char *key, uint64_t *out, bool *given,
                           um_err *err);
um_status um_json_read_bool(const um_json *object, const char *key, bool *out, bool *given,
                            um_err *err);
/* *out is copied into arena. */
um_status um_json_read_str(const um_json *object, const char *key, bool required, const char **out,
                           um_arena *arena, um_err *err);
