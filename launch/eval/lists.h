/* What the words of unimoe eval name: tasks, models, and files of answers. */
#pragma once

#include "core/base/sha256.h"
#include "core/options/config.h"
#include "launch/eval/tasks/eval_read.h"

/* A --task: [NAME=][FORMAT:]QUESTIONS[:ANNOTATIONS[:MEDIA_FOLDER]]. Without NAME it has that of the file of questions, without its
 * ending. */
typedef struct um_listed_task {
    const char *name; /* of its own among the tasks; fit for a file name */
    const char *path; /* of the questions */
    char digest
        [UM_SHA256_HEX]; /* of the files of questions and annotations, the format and the metric; not of media */
    um_eval_task task;
} um_listed_task;

typedef struct um_task_list {
    um_listed_task *list; /* [n] */
    int n;
} um_task_list;
/* Reads the tasks of cfg->task; --format, --media-folder and --metric are for those whose word does not say. Ids that stand twice in a task
 * are UM_E_DATA. Lives in arena. */
um_status um_task_list_read(um_task_list *out, const um_config *cfg, um_arena *arena, um_err *err);

/* A model folder, [NAME=]FOLDER, or a --answers of another program: NAME=FILE, or NAME=FOLDER with a file TASK.jsonl for each task. */
typedef struct um_listed_model {
    const char *name, *path;
    bool answers; /* path holds answers */
    char digest
        [UM_SHA256_HEX]; /* of a model's files: config, weights, tokenizer, towers; "" of answers */
} um_listed_model;

typedef struct um_model_list {
    um_listed_model *list; /* [n] the models, then the answers */
    int n;
} um_model_list;
um_status um_model_list_read(um_model_list *out, const um_config *cfg, um_arena *arena,
                             um_err *err);
