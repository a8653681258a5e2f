/* One file of samples: read once from its beginning to its end, item by item, and at any place again. Only dataset.c and check.c use
 * this. */
#pragma once

#include "core/base/json_lines.h"
#include "core/base/sha256.h"
#include "router/data/dataset.h"

typedef struct um_data_reader {
    const char *path;
    int fd;
    int64_t size;  /* bytes when it was opened */
    int64_t mtime; /* its last change then, ns */
} um_data_reader;

/* UM_E_DATA names the path. */
um_status um_data_reader_open(um_data_reader *r, const char *path, um_err *err);
void um_data_reader_close(um_data_reader *r); /* accepts a zeroed one */

/* Calls item for each item of the file, whose text is valid during the call only, until it returns other than UM_OK. digest, if it is
 * not NULL, gets all bytes. UM_E_DATA names the path. */
um_status um_data_reader_all(const um_data_reader *r, const um_dataset_how *how, um_sha256 *digest,
                             um_status (*item)(void *ctx, const um_json_item *item, um_err *err),
                             void *ctx, um_err *err);
/* The n bytes at `at`, with a 0 behind, in arena. UM_E_DATA when the file has changed since it was opened. Thread: any. */
um_status um_data_reader_text(const um_data_reader *r, char **out, uint64_t at, size_t n,
                              um_arena *arena, um_err *err);
/* The folder where the relative media paths of a file start. */
const char *um_data_folder(const um_dataset_how *how, const char *path, um_arena *arena);
