/* Joining: how a rank becomes part of the job. Every rank sends Hello to router 0; router 0 checks that all are the same build and read
 * the same model with the same weights, and sends the JobConfig; every rank then knows the placement, the wire, the codec and the
 * deadline, loads what it owns and sends Ready. Loading may take as long as it takes: only a rank that shows no sign of life any more
 * ends the wait. Group: all ranks, once at the start. */
#pragma once

#include "core/options/config.h"
#include "core/comm/link.h"
#include "core/model/model.h"
#include "core/nn/checkpoint.h"
#include "core/tensor/ops.h"

/* The rank of router 0. */
int um_join_leader(const um_comm *comm);

/* How many compute threads this rank may use: cores of the host (or --threads), shared by the ranks of its role on that host.
 * Router and expert ranks of a host rarely compute at the same time, so each role gets the full number of cores. */
int um_join_threads(const um_comm *comm, int64_t threads);

/* Router 0: collects the Hellos, places the experts, sends the JobConfig, agrees on the link. `place` keeps the topology's lists. */
um_status um_join_lead(um_link *l, const um_config *cfg, const um_checkpoint *ck, um_arena *place,
                       um_err *err);
/* Every other rank: the counterpart. isa is for the log of router 0. */
um_status um_join_follow(um_link *l, const um_config *cfg, const um_checkpoint *ck, um_isa isa,
                         um_arena *place, um_err *err);
/* What an encoder rank reads: what its --modalities says and the model has towers for. UM_E_USAGE names an unknown word. */
um_status um_join_modalities(uint32_t *set, const um_config *cfg, const um_model *m, um_err *err);

/* After loading. Router 0 waits for all Readys; the others send theirs with the bytes of weights they hold. */
um_status um_join_all_ready(um_link *l, um_err *err);
um_status um_join_ready(um_link *l, uint64_t weight_bytes, int experts, um_err *err);

/* This rank's counters, with memory and processor time of the process. */
void um_join_stats(const um_link *l, Um__Stats *out);
