/* JSON values as text again: configs that are copied with a few keys changed. */
#pragma once

#include "core/base/json.h"

enum { UM_EDITS_MAX = 32 };

/* Keys to set, each with its value as JSON text. */
typedef struct um_edits {
    const char *key[UM_EDITS_MAX], *value[UM_EDITS_MAX];
    int n;
} um_edits;
void um_edit(um_edits *e, const char *key, const char *value);

/* The value, indented by one blank a level from `level` on. Real numbers are written so that they read back as the same number. */
void um_json_write(um_text *t, const um_json *j, int level);
/* object (NULL: none) with the edits: keys that it has stay in their place, new ones come last. */
void um_json_edited(um_text *t, const um_json *object, const um_edits *e, int level);
/* A real number with as few digits as read back as the same number. */
void um_json_real(um_text *t, double v);
