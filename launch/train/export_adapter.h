/* The adapter of a training apart from its model, as PEFT writes and reads it. */
#pragma once

#include "core/options/config.h"
#include "core/train/saved.h"
#include "core/train/select.h"

/* cfg->out/adapter: adapter_model.safetensors and adapter_config.json with the factors of all adapters; what else was trained is in
 * non_lora_trainables.safetensors under the model's names. */
um_status um_export_adapter(const um_config *cfg, const um_saved *saved, const um_select *select,
                            um_arena *arena, um_err *err);
