/* The sizes of the audio connectors as their tensors show them. Files of one model family differ here (4 or 12 layers), and most
 * configs say nothing, so the tensors decide; where config.json does say, both must agree (spec 12 #1). */
#pragma once

#include "core/model/model.h"
#include "core/nn/safetensors.h"

/* Puts into m->speech and m->sound what the tensors show. llm: those of the model's own folder; speech: those of the speech tower's
 * folder, or NULL. A connector with no tensors at all keeps the sizes of the configs: whoever loads it names what is missing.
 * UM_E_MODEL names the tensor, or the key, that cannot be. um_model_resolve must follow. */
um_status um_connectors_resolve(um_model *m, const um_tensors *llm, const um_tensors *speech,
                                um_err *err);
