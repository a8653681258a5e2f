/* The loss on held-out samples during training, on router 0 alone: the samples in the order of their files, forward only. Other routers go
 * on with their next step meanwhile; the weights stay as they are until router 0 takes part in it. Thread: main. */
#pragma once

#include "core/options/config.h"
#include "router/train/train_step.h"

typedef struct um_evaluation um_evaluation;

/* cfg->eval_data. engine must outlive it. */
um_status um_evaluation_open(um_evaluation **out, const um_config *cfg, um_sample_maker maker,
                             um_train_engine *engine, um_arena *arena, um_err *err);
void um_evaluation_close(um_evaluation *e); /* accepts NULL */
/* After step number `step` was applied: *loss, the mean cross-entropy over all target tokens; NaN when no sample could be used. */
um_status um_evaluation_run(um_evaluation *e, uint64_t step, double *loss, um_err *err);
