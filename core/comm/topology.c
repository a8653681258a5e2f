/* See topology.h. */
#include "core/comm/topology.h"

#include <stdio.h>
#include <string.h>

const char *um_role_name(um_role role)
{
    switch (role) {
    case UM_ROLE_ROUTER:
        return "router";
    case UM_ROLE_EXPERT:
        return "expert";
    case UM_ROLE_ENCODER:
        return "encoder";
    default:
        return "unknown";
    }
}

um_status um_topology_build(um_topology *out, const um_rank *ranks, int n, um_arena *arena,
                            um_err *err)
{
    um_topology t = {.n = n};
    if (n < 1) return UM_FAIL(err, UM_E_USAGE, "topology: %d ranks, want at least one router", n);
    for (int r = 0; r < n; r++) {
        if ((unsigned)ranks[r].role >= UM_ROLES)
            return UM_FAIL(err, UM_E_USAGE, "topology: rank %d has role %d, known are 0..%d", r,
                           (int)ranks[r].role, UM_ROLES - 1);
        t.count[ranks[r].role]++;
    }
    if (t.count[UM_ROLE_ROUTER] == 0)
        return UM_FAIL(err, UM_E_USAGE,
                       "topology: no router among %d ranks (%d expert, %d encoder): start at least "
                       "one unimoe-router",
                       n, t.count[UM_ROLE_EXPERT], t.count[UM_ROLE_ENCODER]);
    t.ranks = um_arena_alloc(arena, (size_t)n * sizeof *t.ranks);
    int filled[UM_ROLES] = {0};
    for (int role = 0; role < UM_ROLES; role++)
        t.of_role[role] = um_arena_alloc(arena, (size_t)t.count[role] * sizeof(int));
    for (int r = 0; r < n; r++) {
        um_role role = ranks[r].role;
        t.ranks[r] = ranks[r];
        t.ranks[r].index = filled[role];
        t.ranks[r].hostname[sizeof t.ranks[r].hostname - 1] = '\0';
        t.of_role[role][filled[role]++] = r;
    }
    *out = t;
    return UM_OK;
}

uint32_t um_role_parts(um_role role, uint32_t modalities)
{
    uint32_t parts = 0;
    if (role == UM_ROLE_ROUTER) return 1u << UM_PART_BACKBONE | 1u << UM_PART_GATE;
    if (role == UM_ROLE_EXPERT) return 1u << UM_PART_EXPERT;
    if ((modalities & UM_READS_VISION) != 0)
        parts |= 1u << UM_PART_VISION | 1u << UM_PART_PROJECTOR;
    if ((modalities >> UM_SPEECH & 1) != 0)
        parts |= 1u << UM_PART_SPEECH | 1u << UM_PART_SPEECH_ALIGNER;
    if ((modalities >> UM_SOUND & 1) != 0)
        parts |= 1u << UM_PART_SOUND | 1u << UM_PART_SOUND_ALIGNER;
    return parts;
}

/* Whether this expert rank has an expert. */
static bool owns(const void *ctx, int layer, int expert)
{
    const um_owner *who = ctx;
    return um_placement_owns(&who->topo->place, who->topo->ranks[who->rank].index, layer, expert);
}

um_selection um_topology_selection(const um_owner *who, uint32_t modalities)
{
    return (um_selection){.parts = um_role_parts(who->topo->ranks[who->rank].role, modalities),
                          .owns = owns,
                          .ctx = who};
}

bool um_topology_watches(const um_topology *t, int rank, int peer)
{
    if (peer == rank) return false;
    return t->ranks[rank].role == UM_ROLE_ROUTER || t->ranks[peer].role == UM_ROLE_ROUTER;
}

void um_topology_label(const um_topology *t, int rank, char out[128])
{
    if (rank < 0 || rank >= t->n) {
        snprintf(out, 128, "rank %d (not of this job)", rank);
        return;
    }
    const um_rank *r = &t->ranks[rank];
    snprintf(out, 128, "%s/%d (rank %d, host %s)", um_role_name(r->role), r->index, rank,
             r->hostname);
}
