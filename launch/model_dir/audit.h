/* Compares every tensor of a checkpoint with what its model wants: for `inspect`, and for `convert` before it finishes. */
#pragma once

#include "core/nn/checkpoint.h"

typedef struct um_audit {
    int64_t wanted, found, missing, misshapen, unexpected,
        ignored; /* numbers of tensors; ignored = known but not needed (Whisper's own decoder, inv_freq, ...) */
    int64_t params, bytes; /* of the tensors found */
} um_audit;
typedef void (*um_audit_fn)(void *ctx, const char *line); /* one line for every problem */
um_status um_audit_run(const um_checkpoint *c, um_audit *out, um_audit_fn fn, void *ctx,
                       um_err *err);
