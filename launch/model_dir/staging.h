/* A folder that is made completely or not at all. The files are written to a temporary folder beside it (or inside it, when it
 * already exists) and moved to their place at the end; a failure removes what was written and the parent folders that were made
 * for it. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

typedef struct um_staging {
    const char *dir;  /* the destination of the files */
    const char *tmp;  /* where they are written */
    const char *made; /* the topmost parent that had to be made, "" when all existed */
    bool inside;      /* dir existed before */
} um_staging;

um_status um_staging_begin(um_staging *s, const char *dir, um_arena *arena, um_err *err);
/* Moves the files to dir; `last`, the file that makes it a model, is moved last. */
um_status um_staging_commit(um_staging *s, const char *last, um_arena *arena, um_err *err);
/* Removes what is left of the temporary folder. After a failure also removes the parents and replaces tmp by dir in err's message. */
void um_staging_end(um_staging *s, um_status st, um_err *err);
