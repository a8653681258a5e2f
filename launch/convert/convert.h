/* unimoe convert: turns released checkpoints of Uni-MoE into one model directory, and a model directory into the formats that
 * other programs read. */
#pragma once

#include "core/options/config.h"

#include <stdio.h>

/* With --base and its options: makes the directory --out. With --model and --to: writes the other format to --out. Prints to out
 * what was done. The directory appears complete or not at all: it is written under another name first. When wanted tensors are
 * missing: UM_E_MODEL, after printing all of them to out. */
um_status um_convert_run(const um_config *cfg, FILE *out, um_err *err);
