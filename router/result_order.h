/* Result lines put back into the order of their requests: one that is ready too early is held until its turn. */
#pragma once

#include "core/base/status.h"

#include <stdint.h>

typedef struct um_result_order {
    char **line;        /* [cap], request number n at n mod cap; NULL: not there yet */
    uint64_t next, cap; /* whose turn it is; how far ahead of it a line may come */
} um_result_order;

void um_result_order_open(um_result_order *o, uint64_t cap);
void um_result_order_close(um_result_order *o); /* accepts a zeroed one */
/* Whether request number may be begun: its line will have a place. */
bool um_result_order_room(const um_result_order *o, uint64_t number);
/* Holds a copy of the line of request number. UM_E_CORRUPT when none is expected of that number, or it came before. */
um_status um_result_order_put(um_result_order *o, uint64_t number, const char *line, um_err *err);
/* The next line in order, or NULL when it is not there yet. The caller frees it (um_free). */
char *um_result_order_take(um_result_order *o);
