/* What the three roles have in common: open the device and the checkpoint, join the job, serve frames until router 0 ends it, report
 * an error once, close. A role function (um_router_run, um_expert_run, um_encoder_run) is this frame and its own work inside:
 *
 *   um_role_begin ─► um_role_join ─► um_role_own, load ─► um_join_ready ─► um_role_serve ─► um_role_end
 *       │ device, checkpoint, pulse      hello, job config                     frames            error report, closing
 *
 * From um_role_begin on the pulse beats: none of the steps may be long enough to look like death. Thread: the rank's main thread. */
#pragma once

#include "core/comm/link.h"
#include "core/nn/params.h"
#include "core/options/config.h"
#include "core/tensor/ops.h"

typedef struct um_role_base {
    const um_config *cfg;
    um_link link;
    um_dev dev;
    um_checkpoint ck;
    um_arena model, step;         /* host: for the life of the rank; for one frame */
    um_arena device, device_step; /* the device's memory, likewise: weights; activations */
    um_params params;             /* what this rank owns of the model, after um_role_own */
    um_lora lora; /* what the LoRA branches of params run with; training sets dropout and seed */
} um_role_base;

/* After it um_role_end must be called, whatever it returns. */
um_status um_role_begin(um_role_base *w, const um_config *cfg, um_comm *comm, um_err *err);
/* Collective over all ranks. Router 0 leads, the others follow (join.h). */
um_status um_role_join(um_role_base *w, um_err *err);
/* Lists the parameters of this rank in w->params; after um_role_join. modalities: of an encoder. */
um_status um_role_own(um_role_base *w, uint32_t modalities, um_err *err);
/* One frame of a kind that the role works on. Who keeps it for later takes it over (um_link_defer does) and leaves *in empty. */
typedef um_status (*um_role_work)(void *ctx, um_inbound *in, um_err *err);
typedef struct um_role_task {
    um_kind kind;
    um_role_work work;
    bool leader; /* only router 0 may send it; else any router */
} um_role_task;
/* Experts and encoders: works on frames of the kinds that have a task and answers router 0's question for counters, until router 0 says
 * that the job is done. Frames of other kinds, or of ranks that may not send them, are UM_E_CORRUPT. idle: for messages, what it does in
 * between. */
um_status um_role_serve(um_role_base *w, const um_role_task *task, int tasks, const char *idle,
                        void *ctx, um_err *err);
/* Reports a failure to the others, when this rank is the first of its host that has one to report, and closes. */
void um_role_end(um_role_base *w, um_status st, const um_err *err);
