/* What the files of the outcome share. Only outcome*.c include this. */
#pragma once

#include "launch/eval/outcome.h"

/* The measure counts for modalities and the bias index: the main one of its task, with scores from 0 to 1. */
bool um_measure_is_share(const um_outcome *o, const um_measure *m);
/* The bias index, if specialists are named. */
um_status um_outcome_bias(um_outcome *o, const um_config *cfg, um_arena *arena, um_err *err);
