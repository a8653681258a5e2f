/* Reads the sizes of the audio connectors from their tensors. Files of one model family differ here (4 or 12 layers) and most configs
 * do not give the sizes, so the tensors decide. Where config.json gives a size, it must agree with the tensors (spec 12 #1). */
#pragma once

#include "core/model/model.h"
#include "core/nn/safetensors.h"

/* Sets the sizes in m->speech and m->sound from the tensors. llm: the tensors of the model's own folder; speech: those of the speech
 * tower's folder, or NULL. A connector without tensors keeps the sizes of the configs; its loader names the missing tensors. UM_E_MODEL
 * names the tensor or the key that is invalid. The caller must call um_model_resolve afterwards. */
um_status um_connectors_resolve(um_model *m, const um_tensors *llm, const um_tensors *speech,
                                um_err *err);
