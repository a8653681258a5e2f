/* Who is who: the role, index and host of every rank, and the placement of the experts. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "core/comm/placement.h"
#include "core/model/model.h"

#include <stdint.h>

typedef enum um_role { UM_ROLE_ROUTER, UM_ROLE_EXPERT, UM_ROLE_ENCODER, UM_ROLES } um_role;
const char *um_role_name(um_role role); /* "router" "expert" "encoder" */

typedef struct um_rank {
    um_role role;
    int index; /* among the ranks of its role */
    int host;  /* ranks with the same number share memory */
    char hostname[64];
    int pid;
    uint32_t
        modalities; /* encoders: what the rank reads (model/modality.h), known once it has joined */
} um_rank;

typedef struct um_topology {
    um_rank *ranks; /* [n] */
    int n;
    int count[UM_ROLES];    /* ranks of each role */
    int *of_role[UM_ROLES]; /* [count] rank numbers */
    um_placement place;     /* without experts until the rank has joined */
} um_topology;

/* From the roles, hosts, names and pids of ranks[0..n) (index is filled in). UM_E_USAGE when a router is missing. */
um_status um_topology_build(um_topology *out, const um_rank *ranks, int n, um_arena *arena,
                            um_err *err);
/* The parts of a model that ranks of a role own, as bits 1 << um_part: routers the backbone and the gates, expert ranks the experts that
 * are placed on them, encoders the towers and connectors of the modalities that they read (a set, model/modality.h). */
uint32_t um_role_parts(um_role role, uint32_t modalities);
/* The parameters that a rank of a placed topology owns. who must live as long as the selection. modalities: of an encoder. */
typedef struct um_owner {
    const um_topology *topo;
    int rank;
} um_owner;
um_selection um_topology_selection(const um_owner *who, uint32_t modalities);
/* Whether rank watches the liveness of peer: routers watch everybody, the others watch the routers. The same in both directions. */
bool um_topology_watches(const um_topology *t, int rank, int peer);
/* "expert/1 (rank 2, host node3)" into out. */
void um_topology_label(const um_topology *t, int rank, char out[128]);
