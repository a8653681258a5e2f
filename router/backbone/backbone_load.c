/* Loads the backbone; see backbone.h. */
#include "router/backbone/backbone.h"

#include <stdio.h>
#include <string.h>

typedef struct loader {
    const um_checkpoint *ck;
    um_dev *dev;
    const char *keep;
    um_arena *model;
} loader;

static um_status linear(const loader *ld, um_linear *out, int layer, const char *leaf, int N, int K,
                        um_err *err)
{
    char name[200];
    um_name_layer(name, layer, leaf);
    return um_linear_load_plain(out, ld->ck->llm, name, NULL, N, K, ld->keep, ld->dev, ld->model,
                                err);
}

static um_status norm(const loader *ld, const float **out, int layer, const char *leaf, um_err *err)
{
    char name[200];
    um_name_layer(name, layer, leaf);
    return um_vector_load(out, ld->ck->llm, name, ld->ck->model.dim, ld->model, err);
}

/* The gate and its pre-projections are always f32 (DESIGN 7). */
static um_status gate_load(const loader *ld, um_layer *b, int layer, um_err *err)
{
    const um_model *m = &ld->ck->model;
    char name[200], bias[200];
    um_name_gate(name, m, layer);
    UM_TRY(um_linear_load_plain(&b->gate, ld->ck->llm, name, NULL, um_model_gate_rows(m), m->dim,
                                "f32", ld->dev, ld->model, err));
    for (int i = 0; m->fm_block && i < UM_FMS; i++) {
        um_name_fm(name, layer, (um_fm)i, "weight");
        um_name_fm(bias, layer, (um_fm)i, "bias");
        if (um_tensors_find(ld->ck->llm, name) == NULL) continue;
        UM_TRY(um_linear_load_plain(&b->fm[i], ld->ck->llm, name, bias, m->dim, m->dim, "f32",
                                    ld->dev, ld->model, err));
    }
    return UM_OK;
}

static um_status shared_load(const loader *ld, um_layer *b, int layer, um_err *err)
{
    int F = ld->ck->model.dynamic.shared;
    b->shared = um_arena_zero(ld->model, (size_t)F * sizeof *b->shared);
    for (int j = 0; j < F; j++)
        UM_TRY(
            um_ffn_load_shared(&b->shared[j], ld->ck, layer, j, ld->keep, ld->dev, ld->model, err));
    return UM_OK;
}

static um_status block_load(const loader *ld, um_layer *b, int layer, um_err *err)
{
    const um_model *m = &ld->ck->model;
    int Q = m->heads * m->head_dim, KV = m->kv_heads * m->head_dim;
    UM_TRY(norm(ld, &b->norm1, layer, "input_layernorm.weight", err));
    UM_TRY(norm(ld, &b->norm2, layer, "post_attention_layernorm.weight", err));
    UM_TRY(linear(ld, &b->q, layer, "self_attn.q_proj.weight", Q, m->dim, err));
    UM_TRY(linear(ld, &b->k, layer, "self_attn.k_proj.weight", KV, m->dim, err));
    UM_TRY(linear(ld, &b->v, layer, "self_attn.v_proj.weight", KV, m->dim, err));
    UM_TRY(linear(ld, &b->o, layer, "self_attn.o_proj.weight", m->dim, Q, err));
    b->moe = m->moe_layer[layer];
    if (b->moe) {
        UM_TRY(gate_load(ld, b, layer, err));
        return shared_load(ld, b, layer, err);
    }
    return um_ffn_load(&b->dense, ld->ck, layer, -1, ld->keep, ld->dev, ld->model, err);
}

um_status um_backbone_load(um_backbone *out, const um_checkpoint *ck, um_dev *dev, const char *keep,
                           um_arena *model, um_err *err)
{
    const um_model *m = &ck->model;
    loader ld = {ck, dev, keep, model};
    size_t before = model->used;
    um_backbone t = {.model = m};
    int64_t embed_shape[2] = {m->vocab, m->dim};
    const char *embed = "model.embed_tokens.weight", *head = m->tied ? embed : "lm_head.weight";
    UM_TRY(um_tensors_want(ck->llm, &t.embed, embed, 2, embed_shape, err));
    t.blocks = um_arena_zero(model, (size_t)m->layers * sizeof *t.blocks);
    for (int l = 0; l < m->layers; l++) UM_TRY(block_load(&ld, &t.blocks[l], l, err));
    UM_TRY(um_vector_load(&t.norm, ck->llm, "model.norm.weight", m->dim, model, err));
    UM_TRY(um_linear_load_plain(&t.head, ck->llm, head, NULL, m->vocab, m->dim, keep, dev, model,
                                err));
    um_rope_open(&t.rope, m->head_dim, m->rope_theta, m->rope_factor);
    t.weight_bytes = model->used - before;
    *out = t;
    return UM_OK;
}

void um_backbone_close(um_backbone *t) { um_rope_close(&t->rope); }
