/* Many tensors into one folder: model.safetensors, or numbered files of a given size with model.safetensors.index.json, as Hugging
 * Face lays them out. */
#pragma once

#include "core/nn/safetensors.h"

/* Gives the data of list[i] to w, in pieces. */
typedef um_status (*um_shards_fn)(void *ctx, size_t i, um_tensors_writer *w, um_err *err);

/* Writes n tensors in the order of the list. A file holds about shard_bytes, and at least one tensor. The index comes last. fn tells
 * its own progress, and asks um_interrupt_check, for every piece. */
um_status um_shards_write(const char *dir, const um_tensor *list, size_t n, int64_t shard_bytes,
                          um_shards_fn fn, void *ctx, um_err *err);
