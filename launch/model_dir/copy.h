/* The small files of a model directory, copied when another directory is made from it. Each is read whole: at most 256 MB. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

#define UM_EXPERT_STEM "mlp_expert" /* the file of an expert in the folder of its training */

enum { UM_SMALL_FILE_MAX = 1 << 28 }; /* bytes */

um_status um_copy_small_file(const char *to, const char *from, um_arena *arena, um_err *err);
/* To the folder `to`: the files of the tokeniser and of generation, each from the first of two folders that has it ("": no folder).
 * UM_E_MODEL when neither has tokenizer.model. */
um_status um_copy_model_files(const char *to, const char *first, const char *second,
                              um_arena *arena, um_err *err);
/* To the folder `to`: config.json of a tower, and preprocessor_config.json if there is one. */
um_status um_copy_tower_files(const char *to, const char *from, um_arena *arena, um_err *err);
