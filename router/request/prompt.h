/* From turns to token ids: the conversation template of the reference, byte for byte (spec 1.2), and the split at media
 * placeholders (spec 1.3). */
#pragma once

#include "core/model/model.h"
#include "router/request/request.h"
#include "router/request/tokenizer.h"

/* Ids that stand where the rows of an image, sound or video will be spliced in, and the label of ids that the loss does not cover (spec
 * 0.3). */
enum { UM_ID_IMAGE = -200, UM_ID_AUDIO = -300, UM_ID_VIDEO = -400, UM_LABEL_IGNORED = -100 };

/* The whole text: system sentence, then the turns; it ends in "ASSISTANT:" when the answer is left out or empty. */
char *um_prompt_text(const um_request *r, um_arena *arena);
/* Bytes of all texts of the turns, without the template: to tell a prompt that is too long before it is encoded. */
size_t um_prompt_bytes(const um_request *r);
/* Rows that the media of a request have at least: those of images and videos, and one window of each sound. */
int64_t um_prompt_media_rows(const um_request *r, const um_model *m);
/* The id that stands for a medium; speech and sound share one. */
int32_t um_prompt_id(um_modality modality);
/* BOS, then the ids of the pieces between media, each encoded alone, with the negative id of every medium between them. ids live
 * in arena. */
um_status um_prompt_ids(const um_tokenizer *t, const um_request *r, int32_t **ids, int *n,
                        um_arena *arena, um_err *err);
/* A conversation as ids and labels, for training (spec 1.4). */
typedef struct um_labelled {
    int32_t *ids;    /* [n] as um_prompt_ids gives them */
    int32_t *labels; /* [n] UM_LABEL_IGNORED, or in an answer the id itself */
    int n;
    int *round_end; /* [rounds] where in ids the round ends: behind the </s> of its answer */
    int rounds;
} um_labelled;

/* The labels cover of every answer that is not empty what stands between "ASSISTANT:" and the </s> behind it, and that </s>; media in an
 * answer are ignored. An id that begins before the answer does, as the tokenizer's offsets say, is ignored. Lives in arena. */
um_status um_prompt_labelled(const um_tokenizer *t, const um_request *r, um_labelled *out,
                             um_arena *arena, um_err *err);
/* Only kinds of media that this model has a tower for, and ids of its vocabulary. */
um_status um_prompt_check(const um_request *r, const int32_t *ids, int n, const um_model *m,
                          um_err *err);
