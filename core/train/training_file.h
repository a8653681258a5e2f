/* A training file: samples, the batches that are made of them, and the optimiser's settings, as `unimoe trace --train` reads it:
 *
 *   {"model": DIR, "lora": {"r": 4, "alpha": 8, "dropout": 0}, "samples": [SAMPLE, ...], "batches": [[0, 1], ...],
 *    "adamw": {"lr": 2e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0, "clip": 0, "steps": 10},
 *    "aux": {"aux_balance_loss": true, "aux_balance_loss_coef": 0.01, ...}}
 *
 * Beside it lies trainable_start.safetensors: the tensors that train, with the values that they begin with. Paths are relative to its
 * folder. aux replaces the keys of the same names in the model's config.json. */
#pragma once

#include "core/base/json.h"
#include "core/options/config.h"

typedef struct um_training_file {
    um_json *root;
    const char *path, *folder;
    int batches;
    int64_t steps;
    const um_json *aux; /* NULL: none */
} um_training_file;

/* UM_E_DATA names what is wrong with it. Strings live in arena. */
um_status um_training_file_open(um_training_file *out, const char *path, um_arena *arena,
                                um_err *err);
void um_training_file_close(um_training_file *f); /* accepts a zeroed one */
/* The samples of a batch: *n of them, sample k is um_json_at(*samples, (*index)[k]). */
um_status um_training_file_batch(const um_training_file *f, int batch, const um_json **samples,
                                 const int **index, int *n, um_arena *arena, um_err *err);
/* Sets the options that the file has keys for (model unless it is set, start values, adapters, optimiser), and cfg->train. */
um_status um_training_file_options(const um_training_file *f, um_config *cfg, um_arena *arena,
                                   um_err *err);
