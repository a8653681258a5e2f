/* Which questions a model is still to be asked, of all tasks, and where its answers go.
 *
 *   um_asking_plan -> um_asking_write (requests.jsonl) -> a job -> um_asking_take, a line of the job's results at a time
 *
 * A question whose media the model cannot read is not asked. A choice is asked once for the answer, and once for each option whose
 * likelihood is wanted. */
#pragma once

#include "core/base/json.h"
#include "core/model/model.h"
#include "launch/eval/kept.h"
#include "launch/eval/lists.h"

typedef struct um_asked {
    size_t item;
    int task, choice; /* choice: the option that is scored; -1: an answer is generated */
} um_asked;

typedef struct um_asking {
    const um_task_list *tasks;
    um_kept *kept;  /* [tasks->n] */
    um_asked *list; /* [n]; a request's id is its place here */
    size_t n;
    size_t lacking; /* questions that are not asked */
    um_status st;   /* of writing what came */
    um_err err;
} um_asking;

/* Whether the model has no tower for one of the media of an item; then which kind. */
bool um_asking_lacks(um_modality *kind, const um_eval_item *item, const um_model *m);
/* choices: both, generated, likelihood. The list lives in arena. */
void um_asking_plan(um_asking *out, const um_task_list *tasks, um_kept *kept, const um_model *m,
                    const char *choices, um_arena *arena);
/* Writes the requests. Media whose content stands in the questions themselves (base64) become files of the folder `media`, for a choice
 * asks about each several times. */
um_status um_asking_write(const um_asking *a, const char *path, const char *media,
                          int max_new_tokens, um_err *err);
/* A line of kind result or error. False when it could not be kept: then st and err say why. */
bool um_asking_take(um_asking *a, const um_json *line);
