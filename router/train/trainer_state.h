/* Where a run of training stands, on router 0: the usual norm of its gradients, what was skipped and left out, and the best checkpoint; a
 * checkpoint keeps it in trainer_state.json. From it follows the verdict on a step: how its gradients are scaled (their mean, clipped), or
 * that it is skipped because they are not finite or far larger than usual. Thread: router 0's. */
#pragma once

#include "core/nn/checkpoint.h"
#include "core/options/config.h"
#include "core/train/step.h"
#include "router/data/order.h"

typedef struct um_trainer_state {
    double usual;                      /* running mean of the norms of steps that counted */
    uint64_t seen;                     /* of them */
    int row;                           /* steps skipped in a row until now */
    uint64_t skipped, lost, last_step; /* in all */
    uint64_t best_step; /* of the checkpoint with the least loss on held-out samples; 0: none */
    double best_loss;
    um_order_cursor cursor; /* behind last_step */
    double pace;            /* seconds a step, of late */
    char why[160];
} um_trainer_state;

/* What a run must go on with beside its options: digests of the data (um_dataset_digest) and of the model's weights. */
typedef struct um_run_origin {
    const char *data;
    char model[20];
} um_run_origin;

typedef struct um_step_verdict {
    double norm;      /* of the mean gradient, before clipping */
    double scale;     /* what gradients are multiplied by */
    const char *skip; /* why no weight changes, or NULL; valid until the next verdict */
} um_step_verdict;

/* Judges the next step. squares: the sum of squares of the gradients' sums over all target tokens. */
um_step_verdict um_trainer_state_judge(um_trainer_state *v, const um_step_totals *totals,
                                       double squares, const um_config *cfg);
/* The loss on held-out samples behind a step; saved: a checkpoint of that step is written. */
void um_trainer_state_evaluated(um_trainer_state *v, uint64_t step, double loss, bool saved);

um_run_origin um_run_origin_of(const um_checkpoint *model, const char *data);
/* Writes trainer_state.json, with the options that a run must go on with. */
void um_trainer_state_write(um_text *out, const um_trainer_state *v, uint64_t step, uint64_t steps,
                            const um_config *cfg, const um_run_origin *origin);
/* The same read back. UM_E_USAGE names an option that differs from the run's, or says that the model is another one or that the data has
 * changed: the order of samples would be another. */
um_status um_trainer_state_read(um_trainer_state *v, const um_json *state, const um_config *cfg,
                                const um_run_origin *origin, um_err *err);
/* How many options of the course of a run (steps, learning rate, schedule and the like) differ from those that the checkpoint was made
 * with; they may, and out gets what to tell of it: "--lr 0.001, which was 0.0003; ...". */
int um_trainer_state_changes(um_text *out, const um_json *state, const um_config *cfg);
