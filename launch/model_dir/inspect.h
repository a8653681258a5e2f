/* unimoe inspect: shows what a model directory contains and what is wrong with it. */
#pragma once

#include "core/options/config.h"

#include <stdio.h>

/* Describes the directory cfg->model (or the first positional argument) on out, as text or, with cfg->json, as one JSON object.
 * UM_E_MODEL when a tensor is missing or has another shape, after printing all of them. With cfg->verify the files are compared
 * with manifest.json instead, and UM_E_MODEL means that they differ. */
um_status um_inspect_run(const um_config *cfg, FILE *out, um_err *err);
