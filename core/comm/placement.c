/* See placement.h. */
#include "core/comm/placement.h"

/* First expert of rank x of X: floor(x*E/X). */
static int first_expert(int x, int E, int X) { return (int)((int64_t)x * E / X); }

um_status um_placement_blocks(um_placement *out, int layers, int E, int ranks, um_arena *arena,
                              um_err *err)
{
    (void)layers; /* the same for all */
    if (E < 0) return UM_FAIL(err, UM_E_USAGE, "placement: %d experts", E);
    if (E > 0 && ranks == 0)
        return UM_FAIL(err, UM_E_USAGE,
                       "placement: the model has %d experts but the job has no expert rank: start "
                       "at least one unimoe-expert",
                       E);
    um_placement p = {.experts = E, .ranks = ranks, .layers = 1};
    p.at = um_arena_i32(arena, (size_t)E + 1);
    p.owner = um_arena_i32(arena, (size_t)E);
    for (int x = 0; x < ranks; x++)
        for (int e = first_expert(x, E, ranks); e < first_expert(x + 1, E, ranks); e++)
            p.owner[e] = x;
    for (int e = 0; e <= E; e++) p.at[e] = e;
    *out = p;
    return UM_OK;
}

/* The owners of one layer's experts. */
static um_status list_check(const um_placement *p, int layer, um_err *err)
{
    const int32_t *at = um_placement_list(p, layer);
    for (int e = 0; e < p->experts; e++) {
        if (at[e + 1] <= at[e])
            return UM_FAIL(err, UM_E_CORRUPT, "placement: expert %d of layer %d has no owner", e,
                           layer);
        for (int32_t i = at[e]; i < at[e + 1]; i++) {
            if (p->owner[i] < 0 || p->owner[i] >= p->ranks)
                return UM_FAIL(err, UM_E_CORRUPT,
                               "placement: expert %d of layer %d is on expert rank %d of %d", e,
                               layer, p->owner[i], p->ranks);
            if (i > at[e] && p->owner[i] <= p->owner[i - 1])
                return UM_FAIL(err, UM_E_CORRUPT,
                               "placement: the ranks of expert %d of layer %d do not ascend", e,
                               layer);
        }
    }
    return UM_OK;
}

um_status um_placement_check(const um_placement *p, int layers, int E, int ranks,
                             const uint8_t *moe, um_err *err)
{
    if (p->experts != E || p->ranks != ranks)
        return UM_FAIL(err, UM_E_CORRUPT,
                       "placement: %d experts on %d ranks, want %d experts on %d ranks", p->experts,
                       p->ranks, E, ranks);
    if (p->layers != 1 && p->layers != layers)
        return UM_FAIL(err, UM_E_CORRUPT, "placement: lists of %d layers, want %d or 1", p->layers,
                       layers);
    for (int l = 0; l < layers; l++)
        if (moe[l]) UM_TRY(list_check(p, l, err));
    return UM_OK;
}

bool um_placement_owns(const um_placement *p, int rank, int layer, int expert)
{
    const int32_t *at = um_placement_list(p, layer) + expert;
    for (int32_t i = at[0]; i < at[1]; i++)
        if (p->owner[i] == rank) return true;
    return false;
}

int um_placement_owned(const um_placement *p, int rank, int layer)
{
    int n = 0;
    for (int e = 0; e < p->experts; e++) n += um_placement_owns(p, rank, layer, e);
    return n;
}
