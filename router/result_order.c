/* See result_order.h. */
#include "router/result_order.h"

#include "core/base/arena.h"

void um_result_order_open(um_result_order *o, uint64_t cap)
{
    UM_ASSERT(cap > 0);
    *o = (um_result_order){.line = um_zalloc((size_t)cap * sizeof *o->line), .cap = cap};
}

void um_result_order_close(um_result_order *o)
{
    for (uint64_t i = 0; i < o->cap; i++) um_free(o->line[i]);
    um_free(o->line);
    *o = (um_result_order){0};
}

bool um_result_order_room(const um_result_order *o, uint64_t number)
{
    return number - o->next < o->cap;
}

um_status um_result_order_put(um_result_order *o, uint64_t number, const char *line, um_err *err)
{
    if (number < o->next || number - o->next >= o->cap || o->line[number % o->cap] != NULL)
        return UM_FAIL(err, UM_E_CORRUPT, "a result of request %llu, which none was expected of",
                       (unsigned long long)number);
    o->line[number % o->cap] = um_strdup(line);
    return UM_OK;
}

char *um_result_order_take(um_result_order *o)
{
    char *line = o->line[o->next % o->cap];
    if (line == NULL) return NULL;
    o->line[o->next++ % o->cap] = NULL;
    return line;
}
