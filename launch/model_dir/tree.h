/* For programs that make a folder: lists its files and removes it. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

typedef struct um_names {
    const char **name;
    size_t n;
} um_names;

/* The regular files below dir, sorted, as paths relative to dir ("vision_tower/config.json"). Links are followed. Folders may be
 * nested 8 deep. */
um_status um_tree_list(um_names *out, const char *dir, um_arena *arena, um_err *err);
/* Removes dir and everything in it, as far as the system allows. Links are removed, not followed. */
void um_tree_remove(const char *dir);
