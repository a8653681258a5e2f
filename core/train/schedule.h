/* The learning rate over the steps, as a share of --lr: linear warm-up, then
 *
 *   cosine    half a cosine from 1 to the last share at the last step (transformers' get_cosine_schedule_with_warmup, where that is 0)
 *   wsd       1, then a straight line to the last share over the decay steps (Hu et al. 2024, arXiv 2404.06395)
 *   constant  1
 *
 * Step s of S (from 1) has the rate that transformers' trainer uses for it: the warm-up's first step has 0 / W, since its scheduler moves
 * after the optimiser. */
#pragma once

#include "core/options/config.h"

typedef enum um_schedule_kind { UM_COSINE, UM_WSD, UM_CONSTANT } um_schedule_kind;

typedef struct um_schedule {
    um_schedule_kind kind;
    uint64_t steps, warmup, decay;
    double last; /* share at the end */
} um_schedule;

/* From the options, for a training of `steps` steps. */
um_schedule um_schedule_of(const um_config *cfg, uint64_t steps);
/* The share of step 1..steps. */
double um_schedule_share(const um_schedule *s, uint64_t step);
