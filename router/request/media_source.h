/* Where one medium is: what a request writes for it (a path, a file: URL, a data: URL, base64) made a path or its bytes. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

#include <stdbool.h>
#include <stdint.h>

/* Content that stands in the request itself; bytes NULL: in a file. */
typedef struct um_media_data {
    const uint8_t *bytes;
    size_t n;
} um_media_data;

/* *path: the file, relative ones in folder; or, when *data has the bytes, a name for messages. where is the key ("image[2]"), which
 * messages begin with. Other URLs are refused: nothing is fetched. Results live in arena. */
um_status um_media_source(const char **path, um_media_data *data, const char *text,
                          const char *folder, const char *where, um_arena *arena, um_err *err);
/* The bytes of base64 text; the URL-safe alphabet, white space and missing padding are accepted. */
um_status um_base64_decode(um_media_data *out, const char *text, size_t n, const char *where,
                           um_arena *arena, um_err *err);
/* Whether the text means an image: by the ending of its path, or by what its data: URL or base64 begins with. */
bool um_media_is_image(const char *text);
