/* JSON files made of pairs, for tests that change one key after another. */
#pragma once

#include <stddef.h>

typedef struct edit {
    const char *key, *value; /* value is JSON; NULL drops the key */
} edit;

#define EDIT_COUNT(list) (sizeof(list) / sizeof *(list))

/* dir/name: the pairs of base (n), with some changed, added or dropped. */
void edit_config(const char *dir, const char *name, const edit *base, size_t n, const edit *change,
                 size_t changes);
