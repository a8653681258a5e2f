/* A training job from the launcher's side: starts it, shows how far it is, and says how it ended. Used by unimoe train and by
 * unimoe trace --train. */
#pragma once

#include "core/options/config.h"
#include "core/train/record.h"
#include "launch/job/mpirun_line.h"

#include <stdio.h>

/* How a job ended. */
typedef struct um_train_outcome {
    bool told;    /* its last line came */
    bool stopped; /* a signal ended it after it had saved */
    uint64_t step, steps, skipped, lost;
    um_train_record last; /* of the last step; its strings are not kept */
} um_train_outcome;

/* Runs the job; a line for each step that is told goes to `to`, at most one in a while unless something happened. quiet: none. err names
 * what ended the job. UM_E_SAVED after a signal. */
um_status um_train_job_run(um_train_outcome *out, const um_job *job, const um_config *cfg, FILE *to,
                           bool quiet, um_err *err);
