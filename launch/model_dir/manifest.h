/* manifest.json of a model directory: the name, size and SHA-256 of every file, so that a copy can be checked.
 *
 *   {"format": "unimoe-manifest", "version": 1, "source": TEXT, "block_bytes": N,
 *    "files": [{"name": "vision_tower/config.json", "size": N, "sha256": HEX, "blocks": [HEX, ...]}, ...]}
 *
 * A file of more than block_bytes also has the SHA-256 of each of its blocks, so that damage can be located to a range of bytes. */
#pragma once

#include "core/base/status.h"

#include <stdint.h>

#define UM_MANIFEST_BLOCK ((size_t)16 << 20)

/* Reads every file below dir except manifest.json and writes dir/manifest.json. source says where the weights came from. */
um_status um_manifest_write(const char *dir, const char *source, um_err *err);

typedef struct um_verdict {
    int64_t files, bytes;        /* that match the manifest */
    int64_t bad, missing, extra; /* numbers of files */
} um_verdict;
typedef void (*um_verdict_fn)(void *ctx, const char *line); /* one line for every problem */
/* Reads the whole directory again. A directory without a usable manifest is an error (UM_E_MODEL); damaged, missing or extra files
 * are not: they are counted in out and reported to fn. */
um_status um_manifest_verify(const char *dir, um_verdict *out, um_verdict_fn fn, void *ctx,
                             um_err *err);
