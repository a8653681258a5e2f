/* What one rank has of a checkpoint (saved.h): its trained parameters' masters, moments and counts of steps, each under the name of its
 * tensor: master.NAME in the file's layout, m.NAME and v.NAME as the optimiser has them, steps.NAME.
 *
 * All routers have the same parameters: the first one writes them. Reading asks for names, whoever wrote them. Thread: the rank's. */
#pragma once

#include "core/train/step.h"

typedef struct um_state {
    um_params *params;
    um_optimizer *optimizer; /* NULL: nothing trains here, and nothing is written */
    /* of its file, without .safetensors: "expert-3"; NULL: another rank writes the same */
    const char *name;
} um_state;

/* An um_step_saver; ctx is the um_state. With orders->gradients also grad.NAME, in the file's layout and not scaled, of every parameter
 * that took part. UM_E_IO names the file when the disk is full; what was written of it is removed. */
um_status um_state_save(void *ctx, const um_step_orders *orders, uint64_t step,
                        um_saved_file **files, int *n, um_arena *arena, um_err *err);
/* Sets masters, moments and counts to those of a checkpoint, and packs what changed. UM_E_DATA names a tensor that is not there, or has
 * another shape: the run was started with other options. */
um_status um_state_load(const um_state *s, const um_saved *from, um_err *err);
