/* unimoe assemble: makes a mixture of experts of a dense model and of the MLPs of models that were trained apart (spec 6.2), or of
 * copies of its own MLP. The step between stage 2 and stage 3. */
#pragma once

#include "core/options/config.h"

#include <stdio.h>

/* Makes the model directory cfg->out of the manifest cfg->manifest, or of the dense model cfg->upcycle. Prints to out what was done.
 * Everything but experts, gates and the connectors that the manifest names comes from the base model. The directory appears complete
 * or not at all. UM_E_MODEL when a tensor is missing or does not fit, after printing all of them to out, and for a manifest that cannot
 * be used. */
um_status um_assemble_run(const um_config *cfg, FILE *out, um_err *err);
