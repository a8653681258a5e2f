/* The questions of a task by id. */
#pragma once

#include "launch/eval/tasks/task.h"

#define UM_NO_ITEM SIZE_MAX

typedef struct um_indexed_item {
    const char *id;
    size_t item;
} um_indexed_item;

typedef struct um_item_index {
    um_indexed_item *list; /* [n] sorted by id */
    size_t n;
} um_item_index;

/* UM_E_DATA when two questions have one id. Lives in arena. */
um_status um_item_index_make(um_item_index *out, const um_eval_task *t, um_arena *arena,
                             um_err *err);
/* Where in the task; UM_NO_ITEM: it has none of this id. */
size_t um_item_index_find(const um_item_index *index, const char *id);
