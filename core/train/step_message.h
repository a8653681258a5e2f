/* What both ends of the step protocol have in common (step.h). */
#pragma once

#include "core/train/step.h"

/* Sends a step-end message to a rank. */
um_status um_step_send(um_link *l, int rank, const Um__StepEnd *m, um_err *err);
/* Unpacks a step-end frame of a rank, which must be of one of these phases (bits 1 << phase): UM_E_CORRUPT names the sender. */
um_status um_step_unpack(Um__StepEnd **out, const um_link *l, const um_inbound *in, unsigned phases,
                         um_arena *arena, um_err *err);
const char *um_step_phase_name(Um__StepPhase phase); /* "norms" */

/* The squares of this rank's gradients, as the message that reports them. Lives in arena. o may be NULL. */
void um_step_norms_fill(Um__StepEnd *m, const um_optimizer *o, um_arena *arena);
/* The orders of an apply message; the string stays in the message. */
um_step_orders um_step_orders_of(const Um__StepEnd *m);
/* Does what the orders say, on this rank: changes the weights, writes the state, sets the gradients to zero. *saved becomes the message
 * "saved" with the files that were written; its strings live in arena. */
um_status um_step_obey(Um__StepEnd *saved, const um_step_orders *orders, uint64_t step,
                       um_params *ps, um_optimizer *o, um_step_saver save, void *save_ctx,
                       um_arena *arena, um_err *err);
