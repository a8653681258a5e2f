/* The commands of `unimoe` that start or look at jobs, and what they share. */
#pragma once

#include "core/options/config.h"
#include "launch/job/results.h"
#include "launch/job/training_plan.h"
#include "launch/job/mpirun_line.h"
#include "launch/job/requests.h"

/* unimoe generate: answers on standard output, one line of figures on standard error; with --json the routers' lines. */
um_status um_generate(const um_config *cfg, um_err *err);
/* unimoe trace: every tensor of one request into cfg->out. */
um_status um_trace(const um_config *cfg, um_err *err);
/* unimoe doctor: one line a check to `to`, a remedy under each that is not well. UM_E_IO when one fails. */
um_status um_doctor(const um_config *cfg, FILE *to, um_err *err);

/* unimoe eval: the questions of tasks to models, and what their answers are worth. UM_E_DATA when questions could not be put. */
um_status um_eval(const um_config *cfg, um_err *err);
/* unimoe train: a training job, its console and its log; the model directory or adapter at the end. */
um_status um_train(const um_config *cfg, um_err *err);

/* Makes *path absolute, links resolved; "" stays. An error st says what it is the path of: "what *path: No such file". */
um_status um_absolute(const char **path, const char *what, um_status st, um_arena *arena,
                      um_err *err);
/* Opens the model, settles the ranks, composes the job. With --dry-run it prints the mpirun line and the memory of every rank
 * and leaves *job with no words. cfg's paths become absolute, for ranks may start elsewhere. sequences: decoded together. */
um_status um_prepare(um_job *job, um_config *cfg, int64_t sequences, um_arena *arena, um_err *err);
/* The same of a job that trains, when it does not fit the plan of its memory with UM_E_MEMORY: load is what it trains on. */
um_status um_prepare_training(um_job *job, um_config *cfg, const um_training_load *load,
                              um_arena *arena, um_err *err);
/* Checks what the start needs, runs the job with its result lines going to a, and returns how the requests fared. input may be
 * NULL. */
um_status um_run_job(const um_job *job, const um_config *cfg, const um_requests *input,
                     um_results *a, um_err *err);
