/* Writes JSON values as text: for configs that are copied with a few keys changed. */
#pragma once

#include "core/base/json.h"

enum { UM_EDITS_MAX = 32 };

/* The keys to set, each with its value as JSON text. */
typedef struct um_edits {
    const char *key[UM_EDITS_MAX], *value[UM_EDITS_MAX];
    int n;
} um_edits;
void um_edit(um_edits *e, const char *key, const char *value);

/* Writes the value, indented by one space per level, starting at `level`. Real numbers read back as the same number. */
void um_json_write(um_text *t, const um_json *j, int level);
/* Writes object (NULL: an empty one) with the edits: existing keys keep their place, new ones come last. */
void um_json_edited(um_text *t, const um_json *object, const um_edits *e, int level);
/* Writes a real number with the fewest digits that read back as the same number. */
void um_json_real(um_text *t, double v);
