/* Answers that a model has given, from a file: the results of unimoe generate --json, or those of other programs in the forms that the
 * benchmarks and the original use. */
#pragma once

#include "launch/eval/tasks/task.h"

typedef struct um_answers {
    const char **text; /* [n] of each item of the task; NULL: it has none */
    size_t n, given;   /* given: those that have one */
    size_t failed;     /* {"kind": "error"} of an item */
    size_t others;     /* answers to ids that the task does not have */
} um_answers;

/* A line or array element is {"kind": "result", "id", "answer"} (other kinds are passed over), or {"id" | "question_id", "answer" |
 * "text" | "prediction"}. Of two answers to one id the last counts. UM_E_DATA names the file and the line, or says that two items of the
 * task have one id. Everything lives in arena. */
um_status um_answers_read(um_answers *out, const um_eval_task *t, const char *path, um_arena *arena,
                          um_err *err);
