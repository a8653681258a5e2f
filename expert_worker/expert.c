/* See expert.h: the numerics of an expert rank. */
#include "expert_worker/expert.h"

#include "core/base/bytes.h"

um_status um_experts_load(um_experts *out, um_params *ps, const um_placement *place, int me,
                          um_err *err)
{
    const um_model *m = &ps->ck->model;
    um_arena *host = ps->how.host;
    um_experts e = {.model = m};
    size_t E = (size_t)m->experts;
    for (int l = 0; l < m->layers; l++)
        if (m->moe_layer[l]) e.owned += um_placement_owned(place, me, l);
    e.moe_index = um_arena_alloc(host, (size_t)m->layers * sizeof(int));
    e.at = um_arena_i32(host, (size_t)m->moe_layers * E);
    e.ffn = um_arena_zero(host, (size_t)e.owned * sizeof(um_ffn));
    size_t before = ps->how.device->used;
    for (int l = 0, moe = 0, n = 0; l < m->layers; l++) {
        e.moe_index[l] = m->moe_layer[l] ? moe++ : -1;
        for (int x = 0; m->moe_layer[l] && x < m->experts; x++) {
            int32_t *at = &e.at[um_at((size_t)e.moe_index[l], (size_t)x, E)];
            *at = um_placement_owns(place, me, l, x) ? n++ : -1;
            if (*at >= 0) UM_TRY(um_ffn_load(&e.ffn[*at], ps, UM_PART_EXPERT, l, x, err));
        }
    }
    e.weight_bytes = ps->how.device->used - before;
    *out = e;
    return UM_OK;
}

int um_experts_groups(um_ffn_group *group, const um_experts *e, const um_dispatch_batch *batch,
                      int from, int n)
{
    int groups = 0, moe = e->moe_index[batch->key.layer];
    for (int i = 0; i < n; i++) {
        int expert = batch->expert[from + i];
        if (i > 0 && expert == batch->expert[from + i - 1]) {
            group[groups - 1].T++;
            continue;
        }
        int32_t at = e->at[um_at((size_t)moe, (size_t)expert, (size_t)e->model->experts)];
        UM_CHECK(at >= 0); /* um_dispatch_batch_read let it pass */
        group[groups++] = (um_ffn_group){.w = &e->ffn[at], .row = i, .T = 1};
    }
    return groups;
}

um_status um_experts_layer(const um_experts *e, uint32_t layer, um_err *err)
{
    if (layer < (uint32_t)e->model->layers && e->moe_index[layer] >= 0) return UM_OK;
    return UM_FAIL(err, UM_E_CORRUPT, "dispatch frame: layer %u has no experts", layer);
}

um_status um_experts_run(const um_experts *e, float *y, const um_dispatch_batch *batch,
                         um_expert_acts *acts, um_dev *dev, um_arena *scratch, um_err *err)
{
    UM_TRY(um_experts_layer(e, batch->key.layer, err));
    um_mark mark = um_arena_mark(scratch);
    um_ffn_group *group = um_arena_alloc(scratch, (size_t)acts->most * sizeof *group);
    for (int from = 0, n; from < batch->pairs; from += n) {
        n = um_min_int(acts->most, batch->pairs - from);
        int groups = um_experts_groups(group, e, batch, from, n);
        dev->ops->gather(dev, acts->x, batch->x, batch->pair_row + from, n, batch->D);
        um_ffn_grouped_fwd(dev, y + um_at((size_t)from, 0, (size_t)batch->D), acts, group, groups,
                           n, scratch);
    }
    um_arena_reset(scratch, mark);
    return UM_OK;
}
