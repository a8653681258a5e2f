/* What a model has answered of a task, in a file that grows as answers come, so that an evaluation that was ended goes on where it was:
 *
 *   {"kind":"answers","model":"dense","weights":HEX,"task":HEX,"settings":TEXT,"version":TEXT}     the first line
 *   {"kind":"result","id":"7","answer":"A bus."}
 *   {"kind":"likelihood","id":"8","choice":0,"score":-2.31,"tokens":4}
 *
 * um_answers_read reads it too. A file whose first line differs was made by another model, of another task or with other settings: it is
 * begun anew, and what was in it stays as TASK.jsonl.old until that happens again. What went wrong is not kept, so that it is asked
 * again. */
#pragma once

#include "launch/eval/tasks/task.h"

#include <stdio.h>

typedef struct um_kept_score {
    double sum; /* log-probability of the option's tokens */
    int tokens; /* 0: it is not known yet */
} um_kept_score;

typedef struct um_kept {
    const um_eval_task *task;
    const char *path;
    const char **answer;        /* [n] of the task; NULL: none yet */
    um_kept_score **likelihood; /* [n] each [n_options], of questions with options */
    const char **failure;       /* [n] why it could not be answered, in this run; NULL */
    const char *begun; /* why what was in the file does not count: "the weights have changed"; "" */
    um_arena *arena;
    FILE *out;
} um_kept;

/* Reads what there is, and makes the file if need be. origin: the first line, without its newline. UM_E_DATA names the file and a line
 * that cannot be read. Results live in arena, which must stay as long as k. */
um_status um_kept_open(um_kept *k, const char *path, const char *origin, const um_eval_task *t,
                       um_arena *arena, um_err *err);
/* Adds what was asked, and writes it at once. */
um_status um_kept_answer(um_kept *k, size_t item, const char *answer, um_err *err);
um_status um_kept_likelihood(um_kept *k, size_t item, int choice, um_kept_score score, um_err *err);
/* Notes why item i was not answered; the first reason stays. */
void um_kept_failure(um_kept *k, size_t item, const char *why);
/* Every option's likelihood is known. */
bool um_kept_scored(const um_kept *k, size_t item);
um_status um_kept_close(um_kept *k, um_err *err); /* accepts a zeroed one */
