/* Loads the backbone; see backbone.h. */
#include "router/backbone/backbone.h"

static um_place at(um_slot slot, int layer)
{
    return um_place_of(UM_PART_BACKBONE, slot, layer, -1);
}

static um_status gate_load(um_layer *b, um_params *ps, int layer, um_err *err)
{
    UM_TRY(um_linear_load(&b->gate, ps, um_place_of(UM_PART_GATE, UM_SLOT_GATE, layer, -1), err));
    const um_place bias = um_place_of(UM_PART_GATE, UM_SLOT_GATE_BIAS, layer, -1);
    const float *values;
    if (ps->ck->model.expert_bias) {
        UM_TRY(um_vector_load(&values, ps, bias, UM_LEAF_WEIGHT, err));
        b->gate_bias = um_params_find(ps, bias, UM_LEAF_WEIGHT);
    }
    for (int i = 0; ps->ck->model.fm_block && i < UM_FMS; i++) {
        const um_place fm = um_place_of(UM_PART_GATE, UM_SLOT_FM, layer, i);
        if (um_params_has(ps, fm, UM_LEAF_WEIGHT)) UM_TRY(um_linear_load(&b->fm[i], ps, fm, err));
    }
    return UM_OK;
}

static um_status shared_load(um_layer *b, um_params *ps, int layer, um_err *err)
{
    int F = ps->ck->model.dynamic.shared;
    b->shared = um_arena_zero(ps->how.host, (size_t)F * sizeof *b->shared);
    for (int j = 0; j < F; j++)
        UM_TRY(um_ffn_load(&b->shared[j], ps, UM_PART_BACKBONE, layer, j, err));
    return UM_OK;
}

static um_status layer_load(um_layer *b, um_params *ps, int layer, um_err *err)
{
    UM_TRY(um_rmsnorm_load(&b->norm1, ps, at(UM_SLOT_NORM1, layer), err));
    UM_TRY(um_rmsnorm_load(&b->norm2, ps, at(UM_SLOT_NORM2, layer), err));
    UM_TRY(um_linear_load(&b->attention.q, ps, at(UM_SLOT_Q, layer), err));
    UM_TRY(um_linear_load(&b->attention.k, ps, at(UM_SLOT_K, layer), err));
    UM_TRY(um_linear_load(&b->attention.v, ps, at(UM_SLOT_V, layer), err));
    UM_TRY(um_linear_load(&b->attention.out, ps, at(UM_SLOT_O, layer), err));
    b->attention.shape = um_backbone_attention(&ps->ck->model);
    b->moe = ps->ck->model.moe_layer[layer];
    if (!b->moe) return um_ffn_load(&b->dense, ps, UM_PART_BACKBONE, layer, -1, err);
    UM_TRY(gate_load(b, ps, layer, err));
    return shared_load(b, ps, layer, err);
}

um_status um_backbone_load(um_backbone *out, um_params *ps, um_err *err)
{
    const um_model *m = &ps->ck->model;
    size_t before = ps->how.device->used;
    um_backbone t = {.model = m};
    UM_TRY(um_embedding_load(&t.embedding, ps, at(UM_SLOT_EMBED, -1), err));
    t.blocks = um_arena_zero(ps->how.host, (size_t)m->layers * sizeof *t.blocks);
    for (int l = 0; l < m->layers; l++) UM_TRY(layer_load(&t.blocks[l], ps, l, err));
    UM_TRY(um_rmsnorm_load(&t.norm, ps, at(UM_SLOT_NORM, -1), err));
    UM_TRY(um_linear_load(&t.head, ps, at(m->tied ? UM_SLOT_EMBED : UM_SLOT_HEAD, -1), err));
    um_rope_open(&t.rope, ps->how.dev, m->head_dim, m->rope_theta, m->rope_factor);
    t.weight_bytes = ps->how.device->used - before;
    *out = t;
    return UM_OK;
}

void um_backbone_close(um_backbone *t) { um_rope_close(&t->rope); }
