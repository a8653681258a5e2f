/* JSON files made of pairs, for tests that change one key after another. */
#pragma once

#include <stddef.h>

typedef struct edit {
    const char *key, *value; /* value is JSON; NULL drops the key */
} edit;

#define EDIT_COUNT(list) (sizeof(list) / sizeof *(list))

/* The config.json of a small text model with four experts, for tests that change or add keys. */
enum { EDIT_TEXT_MODEL = 11 };
extern const edit edit_text_model[EDIT_TEXT_MODEL];

/* dir/name: the pairs of base (n), with some changed, added or dropped. */
void edit_config(const char *dir, const char *name, const edit *base, size_t n, const edit *change,
                 size_t changes);
