/* A router rank of a training job: joins, loads what it owns, runs the steps, saves, and ends the job. Router 0 leads: it decides about
 * every step, keeps the log and the checkpoints, and measures the loss on held-out samples.
 *
 *   plan step s+2 (samples, media asked for) ─► run step s (train_step.h) ─► um_step_finish ─► decide ─► um_step_apply ─► record, save
 *
 * With cfg->request the steps are those of a training file (trace_train.h). */
#pragma once

#include "core/comm/comm.h"
#include "core/options/config.h"

/* Writes one line of JSON: a record of a step (core/train/record.h), or {"kind":"trained", ...} at the end. */
typedef um_status (*um_train_emit)(void *ctx, const char *line, um_err *err);

/* UM_OK when all steps are done, or a signal has ended the job after saving (the last line says so). Thread: the calling thread is the
 * rank's main thread. */
um_status um_trainer_run(const um_config *cfg, um_comm *comm, um_train_emit emit, void *ctx,
                         um_err *err);
