/* unimoe init: a model directory with random weights, in the layout that released models have. */
#pragma once

#include "core/options/config.h"

#include <stdint.h>
#include <stdio.h>

/* Makes cfg->out from a preset (cfg->preset, or cfg->config naming one) or from the config.json cfg->config, with weights of
 * cfg->dtype from cfg->seed. The same seed gives the same bytes on every machine; a tensor's bits depend on its name and on the seed
 * alone. Nothing is held in memory but one piece of one tensor. A folder that already has a model is refused, and a run that fails or is
 * stopped leaves nothing behind. Prints what it made to out. */
um_status um_init_run(const um_config *cfg, FILE *out, um_err *err);
/* The same with another size at which a weight file ends and the next one begins. */
um_status um_init_make(const um_config *cfg, int64_t shard_bytes, FILE *out, um_err *err);
/* The presets with their sizes and what each is for, for --help. */
void um_init_presets(FILE *out);
