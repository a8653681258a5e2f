/* How much memory each rank of a job takes: the weights it owns, counted over the model's own list of tensors, and an upper
 * estimate of its buffers and of what every rank takes. */
#pragma once

#include "core/options/config.h"
#include "core/comm/topology.h"
#include "core/nn/checkpoint.h"

#include <stdio.h>

/* What a rank takes that owns nothing: program, libraries and Open MPI's own memory (resident 16 to 19 MiB, measured with six ranks on
 * one host). */
static const int64_t um_memory_plan_idle = INT64_C(18) << 20;

typedef struct um_memory_plan_rank {
    um_role role;
    int index;
    uint32_t reads;           /* encoder ranks: which modalities (model/modality.h) */
    int first, experts;       /* expert ranks: which experts, [first, first + experts) */
    int64_t weights, buffers; /* bytes */
    int64_t training; /* beside the weights, in a job that trains (training_plan.h); else 0 */
} um_memory_plan_rank;

typedef struct um_memory_plan {
    um_memory_plan_rank *rank; /* [n] */
    int n;
} um_memory_plan;

/* cfg has its settled numbers of ranks (um_job_resolve). sequences: requests, of which as many are worked on together as
 * --max-batch and --micro-batches allow. */
um_status um_memory_plan_make(um_memory_plan *out, const um_config *cfg, const um_checkpoint *c,
                              int64_t sequences, um_arena *arena, um_err *err);
/* Who is who in the job of a plan, and which expert rank has which experts. Memory: arena. */
um_status um_memory_plan_topology(um_topology *out, const um_memory_plan *p, const um_model *m,
                                  um_arena *arena, um_err *err);
void um_memory_plan_print(const um_memory_plan *p, FILE *to);
/* Weights and buffers of all ranks, in bytes; weights with what training takes beside them. */
void um_memory_plan_total(const um_memory_plan *p, int64_t *weights, int64_t *buffers);
/* One sentence with the numbers when the ranks need more than `available` bytes (um_memory_available; 0 is unknown), and what helps;
 * "" when it is enough. For ranks that all run on the machine whose memory is given. */
const char *um_memory_plan_shortage(const um_memory_plan *p, int64_t available, um_arena *arena);
