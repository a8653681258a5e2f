/* The loss of a micro-batch: cross-entropy of the next token, summed over the rows that have a target, and the gates' auxiliary terms.
 *
 * The head runs over slices of UM_LOSS_ROWS rows, and only over rows that have a target: their logits are the largest tensor of a step and
 * live as long as their slice. The slice is a constant because the head's gradient is added slice by slice: its bits depend on it. */
#pragma once

#include "router/train/micro_batch.h"

enum { UM_LOSS_ROWS = 256 };

typedef struct um_loss {
    double sum; /* of the cross-entropy over the targets; nothing divided */
    int targets;
    double by_modality
        [UM_MODALITIES]; /* sum over samples that hold the modality (text: those without media) */
    int targets_by_modality[UM_MODALITIES];
    int moe_layers;
    double *aux
        [UM_AUX_TERMS]; /* [moe_layers] values without coefficient, host, in the arena given; 0 where not computed */
} um_loss;

/* Computes the loss of a micro-batch whose pass is done. gradient: sets m->backward.dx to the gradient of `sum`, begins m->backward, and
 * adds to the gradients of head and last norm. all: every auxiliary term is computed, else those with a coefficient. Lists lie in arena
 * (host). */
um_status um_loss_run(um_loss *out, um_micro_batch *m, bool gradient, bool all, um_arena *arena,
                      um_err *err);
/* Sum over layers and terms of coefficient * value: what the auxiliary terms add to the mean loss of the micro-batch. */
double um_loss_aux(const um_loss *l, const um_aux *aux);
