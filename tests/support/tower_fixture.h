/* What the tests of the towers have in common: a golden model's files and a device, whose memory may be guarded (guarded_ops.h). */
#pragma once

#include "core/nn/checkpoint.h"
#include "core/tensor/ops.h"

/* Opens model of tests/golden/models with arenas on the host and on the device. */
void tower_open(um_arena *host, um_arena *device, um_dev *dev, um_checkpoint *ck, const char *model,
                um_isa isa, int threads, bool guarded);
void tower_close(um_arena *host, um_arena *device, um_dev *dev, um_checkpoint *ck, bool guarded);
