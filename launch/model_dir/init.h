/* unimoe init: makes a model directory with random weights, in the layout of released models. */
#pragma once

#include "core/options/config.h"

#include <stdint.h>
#include <stdio.h>

/* Makes cfg->out from a preset (cfg->preset, or cfg->config naming one) or from the config.json cfg->config, with weights of
 * cfg->dtype from cfg->seed. cfg->tokenizer becomes its tokenizer.model, "": one is made. The same seed gives the same bytes on every
 * machine; a tensor's bits depend on its name and on the seed alone. Only one piece of one tensor is in memory at a time. A folder
 * that already contains a model is refused, and a run that fails or is stopped leaves nothing behind. Prints to out what it made. */
um_status um_init_run(const um_config *cfg, FILE *out, um_err *err);
/* The same, with another size at which the next weight file starts. */
um_status um_init_make(const um_config *cfg, int64_t shard_bytes, FILE *out, um_err *err);
/* Prints the presets with their sizes and purposes, for --help. */
void um_init_presets(FILE *out);
