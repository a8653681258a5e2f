/* A folder that is made as a whole or not at all. The files are written into a temporary one beside it (or inside it, when it exists
 * already), and move to their place at the end; a failure removes what was written and the parents that were made for it. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

typedef struct um_staging {
    const char *dir;  /* where the files are to be */
    const char *tmp;  /* where they are written */
    const char *made; /* the topmost folder that was made on the way, "" for none */
    bool inside;      /* dir was there before */
} um_staging;

um_status um_staging_begin(um_staging *s, const char *dir, um_arena *arena, um_err *err);
/* Moves the files to dir, `last` (the one that makes it a model) at the end. */
um_status um_staging_commit(um_staging *s, const char *last, um_arena *arena, um_err *err);
/* Removes what is left of the temporary folder; after a failure also the parents. The message in err names dir for tmp then. */
void um_staging_end(um_staging *s, um_status st, um_err *err);
