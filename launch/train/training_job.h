/* A training job from the launcher's side: starts it, shows how far it is, and says how it ended. Used by unimoe train and by
 * unimoe trace --train. */
#pragma once

#include "core/options/config.h"
#include "core/train/record.h"
#include "launch/job/mpirun_line.h"

#include <stdio.h>

/* What a job that ended well has done. */
typedef struct um_train_outcome {
    uint64_t steps;         /* of the whole run */
    uint64_t skipped, lost; /* of these, and samples left out, as often as they were drawn */
    um_train_record
        last; /* of the last step, its strings NULL; step 0: a run that goes on had none left to do */
} um_train_outcome;

/* Runs the job. training.svg in the folder of the run is the figure of its log, drawn when a checkpoint is written, at most one twentieth
 * of the time, and at the end. Unless quiet, writes a line to `to` for each step at which something happened (skipped, saved, evaluated,
 * samples left out) and for the last one; for other steps at most one in two seconds. UM_E_SAVED when it was asked to stop and has saved;
 * else err names what ended the job. Thread: main. */
um_status um_train_job_run(um_train_outcome *out, const um_job *job, const um_config *cfg, FILE *to,
                           bool quiet, um_err *err);
