/* Tables in text: CSV (RFC 4180) and TSV, whose fields may stand in quotes and then hold anything. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

#include <stddef.h>

typedef struct um_table {
    const char *at, *end; /* what is left */
    char separator;
    const char **head; /* [n_head] names of the columns */
    int n_head;
    int line; /* of the row read last, from 1 */
} um_table;

/* Reads the names of the columns, which stand in the first row. data must stay; the names live in arena. UM_E_DATA: no row. */
um_status um_table_open(um_table *t, const char *data, size_t n, char separator, um_arena *arena,
                        um_err *err);
/* The fields of the next row [n_head] in arena; *row NULL at the end. Empty lines are passed over. UM_E_DATA names the line: another
 * number of fields, a quote that does not end. */
um_status um_table_next(um_table *t, const char ***row, um_arena *arena, um_err *err);
/* The column of a name, whatever its case; -1: there is none. */
int um_table_column(const um_table *t, const char *name);
