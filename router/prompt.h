/* From turns to token ids: the conversation template of the reference, byte for byte (spec 1.2), and the split at media
 * placeholders (spec 1.3). */
#pragma once

#include "core/model/model.h"
#include "router/request.h"
#include "router/tokenizer.h"

/* Ids that stand where the rows of a picture, sound or clip will be spliced in (spec 0.3). */
enum { UM_ID_IMAGE = -200, UM_ID_AUDIO = -300, UM_ID_VIDEO = -400 };

/* The whole text: system sentence, then the turns; it ends in "ASSISTANT:" when the answer is left out or empty. */
char *um_prompt_text(const um_request *r, um_arena *arena);
/* The um_media_kind that a placeholder id stands for, or -1. */
int um_prompt_kind(int32_t id);
/* BOS, then the ids of the pieces between placeholders, each encoded alone, with the negative id of every placeholder between
 * them. A text without placeholders gives what um_tokenizer_encode gives. ids live in arena. */
um_status um_prompt_ids(const um_tokenizer *t, const char *text, int32_t **ids, int *n,
                        um_arena *arena, um_err *err);
/* As many placeholders of each kind as media, only kinds that this model and program can take, and ids of its vocabulary. */
um_status um_prompt_check(const um_request *r, const int32_t *ids, int n, const um_model *m,
                          um_err *err);
