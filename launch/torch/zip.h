/* Reader of ZIP files as torch.save writes them: entries stored uncompressed, found through the directory at the end of the file,
 * including the zip64 records of files over 4 GB. Nothing is copied: an entry is a range of the mapped file.
 *
 * Refused: compressed and encrypted entries, archives in several parts, entries outside the file, names with a 0 byte. Checksums
 * are not verified: torch has an option to omit them. Source: APPNOTE.TXT 6.3 of PKWARE. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

#include <stdint.h>

enum { UM_ZIP_ENTRIES = 1 << 20 }; /* more are refused */

typedef struct um_zip_entry {
    const char *name;
    const uint8_t *data;
    size_t size;
} um_zip_entry;

typedef struct um_zip {
    um_zip_entry *entry; /* sorted by name */
    size_t n;
} um_zip;

/* Names live in arena, data in the caller's buffer. UM_E_CORRUPT, or UM_E_DATA for what is not supported. */
um_status um_zip_read(um_zip *out, const uint8_t *data, size_t size, um_arena *arena, um_err *err);
const um_zip_entry *um_zip_find(const um_zip *z, const char *name); /* NULL when absent */
