/* SHA-256: checksums of files and keys of caches. The one door to libcrypto. */
#pragma once

#include "core/base/status.h"

#include <stddef.h>

enum { UM_SHA256_HEX = 65 }; /* 64 lower-case digits and a 0 */

typedef struct um_sha256 {
    void *state; /* libcrypto's; NULL after a failure, which final reports */
} um_sha256;

/* init, any number of updates, then final or drop: both release the state. Thread: any, one state at a time. */
void um_sha256_init(um_sha256 *h);
void um_sha256_update(um_sha256 *h, const void *data, size_t bytes);
/* UM_E_MEMORY when libcrypto could not compute. */
um_status um_sha256_final(um_sha256 *h, char hex[UM_SHA256_HEX], um_err *err);
void um_sha256_drop(um_sha256 *h); /* accepts a zeroed one */

/* All at once. */
um_status um_sha256_of(char hex[UM_SHA256_HEX], const void *data, size_t bytes, um_err *err);
