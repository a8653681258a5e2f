/* Loads the image tower and its projector; see vision.h. */
#include "encoder_worker/towers/vision.h"

static um_status load_embeddings(um_vision *out, um_params *ps, um_err *err)
{
    const um_vision_model *m = out->model;
    const um_tower_layer l = {ps, UM_PART_VISION, -1};
    const um_place class_row = um_place_of(UM_PART_VISION, UM_SLOT_CLASS, -1, -1),
                   positions = um_place_of(UM_PART_VISION, UM_SLOT_POSITIONS, -1, -1);
    const int side = m->image_size / m->patch;
    UM_TRY(um_tower_load_linear(&l, &out->patch, UM_SLOT_PATCH, err));
    UM_TRY(um_vector_load(&out->class_row, ps, class_row, UM_LEAF_WEIGHT, err));
    um_status st = um_vector_load(&out->positions, ps, positions, UM_LEAF_WEIGHT, err);
    if (st != UM_OK)
        return um_wrap(err, st, "a %d pixel image in patches of %d has %d rows", m->image_size,
                       m->patch, side * side + 1);
    return um_tower_load_norm(&l, &out->pre, UM_SLOT_PRE_NORM, err);
}

static um_status load_block(um_vision_block *b, um_params *ps, int layer, um_err *err)
{
    const um_vision_model *m = &ps->ck->model.vision;
    const um_tower_layer l = {ps, UM_PART_VISION, layer};
    b->attention.shape = um_vision_attention(m);
    b->mlp.act = m->quick_gelu ? UM_MLP_QUICK_GELU : UM_MLP_GELU;
    UM_TRY(um_tower_load_norm(&l, &b->norm1, UM_SLOT_NORM1, err));
    UM_TRY(um_tower_load_linear(&l, &b->attention.q, UM_SLOT_Q, err));
    UM_TRY(um_tower_load_linear(&l, &b->attention.k, UM_SLOT_K, err));
    UM_TRY(um_tower_load_linear(&l, &b->attention.v, UM_SLOT_V, err));
    UM_TRY(um_tower_load_linear(&l, &b->attention.out, UM_SLOT_O, err));
    UM_TRY(um_tower_load_norm(&l, &b->norm2, UM_SLOT_NORM2, err));
    UM_TRY(um_tower_load_linear(&l, &b->mlp.fc1, UM_SLOT_FC1, err));
    return um_tower_load_linear(&l, &b->mlp.fc2, UM_SLOT_FC2, err);
}

um_status um_vision_load(um_vision *out, um_params *ps, um_err *err)
{
    const um_vision_model *m = &ps->ck->model.vision;
    um_vision v = {.model = m, .dim_out = ps->ck->model.dim, .params = ps};
    if (!m->present) return UM_FAIL(err, UM_E_MODEL, "the model has no vision tower");
    if (m->channels != 3)
        return UM_FAIL(err, UM_E_MODEL, "%s: num_channels %d, images have 3", m->dir, m->channels);
    UM_TRY(load_embeddings(&v, ps, err));
    v.blocks = um_arena_zero(ps->how.host, (size_t)m->run_layers * sizeof *v.blocks);
    for (int i = 0; i < m->run_layers; i++) UM_TRY(load_block(&v.blocks[i], ps, i, err));
    UM_TRY(um_tower_load_projector(&v.projector, ps, UM_PART_PROJECTOR, m->proj_layers, err));
    *out = v;
    return UM_OK;
}
