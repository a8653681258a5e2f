/* A whole cluster as threads of one process on the in-process transport: the same role functions that the programs run. */
#pragma once

#include "core/options/config.h"
#include "core/comm/comm.h"
#include "router/router.h"

enum { CLUSTER_LINES = 256 };

typedef struct cluster {
    um_config cfg;       /* routers, experts, encoders and all other options; model must be set */
    um_comm_fault fault; /* or NULL */
    void *fault_ctx;
    int64_t delay_us; /* of every message, as over a slow network */
    /* NULL, or what router 0 does instead of um_router_run_to, in the thread that called cluster_run */
    um_status (*lead)(void *ctx, const um_config *cfg, um_comm *comm, um_err *err);
    void *lead_ctx;
    /* NULL, or what all ranks of a role do instead of their own function, but router 0 when it has a lead */
    um_status (*role[UM_ROLES])(void *ctx, const um_config *cfg, um_comm *comm, um_err *err);
    void *role_ctx[UM_ROLES];
    um_emit tap; /* NULL, or sees router 0's lines; may refuse them, as a closed output does */
    void *tap_ctx;
    const char *other_model; /* or NULL: what rank other_rank reads instead of cfg.model */
    int other_rank;
    bool guarded;    /* every rank computes on a guarded op table (tests/support/guarded_ops.h) */
    int freeze_rank; /* -1, or a rank that never starts (as if it were stopped) */
    /* after cluster_run */
    char *lines[CLUSTER_LINES]; /* the first that router 0 emitted */
    int n_lines, all_lines;     /* how many of these, and of all lines */
    int accept;           /* lines before emit fails, as a closed output does; 0: it never fails */
    um_status status[64]; /* of each rank: routers, experts, encoders */
    um_err err[64];
    bool follows[64]; /* failed only because another rank had failed, and reports nothing */
    int ranks;
} cluster;

void cluster_init(cluster *c, const char *model);
/* Runs to the end; returns the first status of a router that is not UM_OK, else the first of any rank. */
um_status cluster_run(cluster *c);
void cluster_free(cluster *c);
/* The first emitted line that contains text, or NULL. */
const char *cluster_line(const cluster *c, const char *text);
