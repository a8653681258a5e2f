/* What a training leaves: a model directory in the layout of Hugging Face, or the adapter apart. Both are made of the model that was
 * trained and of a checkpoint of the run, so that they can be made again. */
#pragma once

#include "core/options/config.h"

/* Makes of cfg->model and the checkpoint in cfg->out, as --save says:
 *   model     config.json, the files of the tokeniser and of generation, weights and towers: trained tensors as they are in the
 *             checkpoint, in the type that the model has them in; adapters merged, W + alpha/r B A, in f32 before they are rounded
 *   adapter   adapter/: the adapter in PEFT's form, and non_lora_trainables.safetensors with what else was trained
 * After stage 2 of a dense model also mlp_expert.safetensors: its MLPs (model.layers.N.mlp.{gate,up,down}_proj.weight, adapters merged),
 * which become one expert of each layer (spec 6.2, unimoe assemble).
 * The files of a model are moved to their place when all are written, config.json last. UM_E_STOPPED after Ctrl-C. Thread: main. */
um_status um_export(const um_config *cfg, const char *checkpoint, um_err *err);
