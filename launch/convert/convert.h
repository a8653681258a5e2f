/* unimoe convert: released checkpoints of Uni-MoE into one model directory, and back into the forms that other programs read. */
#pragma once

#include "core/options/config.h"

#include <stdio.h>

/* --base and what belongs to it: makes the directory --out. --model with --to: writes the other form to --out. What was done is
 * told to out. The directory is whole or not there: it is made under another name first. UM_E_MODEL, with all of them on out, when
 * wanted tensors are missing. */
um_status um_convert_run(const um_config *cfg, FILE *out, um_err *err);
