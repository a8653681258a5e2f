/* See item_index.h. */
#include "launch/eval/item_index.h"

#include <stdlib.h>
#include <string.h>

static int by_id(const void *a, const void *b)
{
    return strcmp(((const um_indexed_item *)a)->id, ((const um_indexed_item *)b)->id);
}

um_status um_item_index_make(um_item_index *out, const um_eval_task *t, um_arena *arena,
                             um_err *err)
{
    um_item_index index = {um_arena_alloc(arena, (t->n + 1) * sizeof *index.list), t->n};
    for (size_t i = 0; i < t->n; i++) index.list[i] = (um_indexed_item){t->items[i].id, i};
    qsort(index.list, index.n, sizeof *index.list, by_id);
    for (size_t i = 1; i < index.n; i++)
        if (strcmp(index.list[i - 1].id, index.list[i].id) == 0)
            return UM_FAIL(err, UM_E_DATA,
                           "two questions have the id %s: answers cannot be told apart",
                           index.list[i].id);
    *out = index;
    return UM_OK;
}

size_t um_item_index_find(const um_item_index *index, const char *id)
{
    const um_indexed_item key = {id, 0};
    const um_indexed_item *found = bsearch(&key, index->list, index->n, sizeof *index->list, by_id);
    return found == NULL ? UM_NO_ITEM : found->item;
}
