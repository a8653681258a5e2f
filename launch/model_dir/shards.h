/* Writes many tensors to one folder: as model.safetensors, or as numbered files of a given size with model.safetensors.index.json,
 * in Hugging Face's layout. */
#pragma once

#include "core/nn/safetensors.h"

/* Writes the data of list[i] to w, piece by piece. */
typedef um_status (*um_shards_fn)(void *ctx, size_t i, um_tensors_writer *w, um_err *err);

/* Writes n tensors in the order of the list. A file contains about shard_bytes, and at least one tensor. The index is written
 * last. fn reports its own progress and calls um_interrupt_check for every piece. */
um_status um_shards_write(const char *dir, const um_tensor *list, size_t n, int64_t shard_bytes,
                          um_shards_fn fn, void *ctx, um_err *err);
