/* unimoe inspect: what a model directory holds, and what is wrong with it. */
#pragma once

#include "core/options/config.h"

#include <stdio.h>

/* With cfg->verify the files are held against manifest.json instead, and UM_E_MODEL tells that they differ.
 * Prints cfg->model (or the first positional word) to out, as text or, with cfg->json, as one JSON object. UM_E_MODEL when a tensor
 * is missing or has another shape, after printing all of them. */
um_status um_inspect_run(const um_config *cfg, FILE *out, um_err *err);
