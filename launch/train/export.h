/* What a training leaves: a model directory in the layout of Hugging Face, or the adapter apart. Both are made of the model that was
 * trained and of a checkpoint of the run, so that they can be made again. */
#pragma once

#include "core/options/config.h"

/* Makes of cfg->model and the checkpoint in cfg->out, as --save says:
 *   model     config.json, tokenizer, weights and towers: trained tensors as they are in the checkpoint, in the type of the file's;
 *             adapters merged, W + alpha/r B A, in f32 before they are rounded
 *   adapter   adapter/: the adapter in PEFT's form, and non_lora_trainables.safetensors with what else was trained */
um_status um_export(const um_config *cfg, const char *checkpoint, um_err *err);
