/* What answers to a task are worth: of all of it, of each modality, group, split and speaker, with 95 % intervals. */
#pragma once

#include "launch/eval/metrics/interval.h"
#include "launch/eval/metrics/scores.h"
#include "launch/eval/tasks/task.h"

typedef struct um_tally_row {
    const char *by;   /* "all", "modality", "group", "split", "speaker" */
    const char *name; /* "" of all */
    long n;
    double score;         /* mean; 0..1, of CIDEr-D 0..10, a word error rate may exceed 1 */
    um_interval interval; /* Wilson's where each answer is right or wrong, else by bootstrap */
} um_tally_row;

typedef struct um_tally {
    um_eval_metric metric;
    um_tally_row *
        rows; /* [n_rows], that of all first, then by modality, group, split and speaker, each by name */
    int n_rows;
    double *
        score; /* [n] of each item; of word error rates errors, weighted so that their mean is the rate */
    um_yes_no yes_no; /* of UM_METRIC_YES_NO */
} um_tally;

/* answers[i] is the model's to item i; NULL: it gave none, which counts as an empty one. Results live in arena. */
um_status um_tally_of(um_tally *out, const um_eval_task *t, const char *const *answers,
                      um_arena *arena, um_err *err);
/* {"metric": ..., "rows": [{"by", "name", "n", "score", "low", "high"}, ...]} */
void um_tally_json(um_text *out, const um_tally *t);
