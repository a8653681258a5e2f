/* What router 0 makes of the gradients of a step: their mean, clipping, and whether the step is skipped because they are not finite or far
 * larger than usual. And what of it a checkpoint has, with the options that a run must go on with. Thread: router 0's. */
#pragma once

#include "core/options/config.h"
#include "core/train/step.h"
#include "router/data/order.h"

typedef struct um_verdicts {
    double usual;                      /* running mean of the norms of steps that counted */
    uint64_t seen;                     /* of them */
    int row;                           /* steps skipped in a row until now */
    uint64_t skipped, lost, last_step; /* in all */
    uint64_t best_step; /* of the checkpoint with the least loss on held-out samples; 0: none */
    double best_loss;
    um_order_cursor cursor; /* behind last_step */
    double pace;            /* seconds a step, of late */
    char why[160];
} um_verdicts;

typedef struct um_verdict {
    double norm;      /* of the mean gradient, before clipping */
    double scale;     /* what gradients are multiplied by */
    const char *skip; /* why no weight changes, or NULL; valid until the next verdict */
} um_verdict;

/* squares: the sum of squares of the gradients' sums over all target tokens. */
um_verdict um_verdicts_judge(um_verdicts *v, const um_step_totals *totals, double squares,
                             const um_config *cfg);
/* The loss on held-out samples behind a step; saved: a checkpoint of that step is written. */
void um_verdicts_evaluated(um_verdicts *v, uint64_t step, double loss, bool saved);

/* trainer_state.json. */
void um_verdicts_state(um_text *out, const um_verdicts *v, uint64_t step, uint64_t steps,
                       const um_config *cfg, const char *digest);
/* The same read back. UM_E_USAGE names an option that differs from the run's, or says that the data has changed: the order of samples would
 * be another. */
um_status um_verdicts_resume(um_verdicts *v, const um_json *state, const um_config *cfg,
                             const char *digest, um_err *err);
