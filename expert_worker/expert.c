/* See expert.h: the numerics of an expert rank. */
#include "expert_worker/expert.h"

#include "core/base/bytes.h"

enum { ROWS_AT_ONCE = 256 }; /* limits scratch memory */

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

um_status um_experts_run(const um_experts *e, float *y, const um_dispatch_batch *batch, um_dev *dev,
                         um_arena *scratch, um_err *err)
{
    size_t D = (size_t)batch->D;
    int layer = (int)batch->key.layer;
    if (batch->key.layer >= (uint32_t)e->model->layers || e->moe_index[layer] < 0)
        return UM_FAIL(err, UM_E_CORRUPT, "dispatch frame: layer %u has no experts",
                       batch->key.layer);
    for (int from = 0, n; from < batch->pairs; from += n) {
        um_mark mark = um_arena_mark(scratch);
        int expert = batch->expert[from];
        for (n = 1;
             n < ROWS_AT_ONCE && from + n < batch->pairs && batch->expert[from + n] == expert;)
            n++;
        um_ffn_acts acts;
        float *x = um_arena_f32(scratch, (size_t)n, D);
        um_ffn_acts_bind(&acts, scratch, n, e->model->expert_dim, e->model->lora_r);
        dev->ops->gather(dev, x, batch->x, batch->pair_row + from, n, batch->D);
        int32_t at =
            e->at[um_at((size_t)e->moe_index[layer], (size_t)expert, (size_t)e->model->experts)];
        UM_CHECK(at >= 0); /* um_dispatch_batch_read let it pass */
        um_ffn_fwd(dev, y + um_at((size_t)from, 0, D), &acts, &e->ffn[at], x, n);
        um_arena_reset(scratch, mark);
    }
    return UM_OK;
}
