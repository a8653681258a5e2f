/* See ffn.h. */
#include "core/nn/ffn.h"

#include <stdio.h>
#include <string.h>

void um_ffn_acts_bind(um_ffn_acts *a, um_arena *arena, int T, int F)
{
    a->gate = um_arena_f32(arena, (size_t)T, (size_t)F);
    a->up = um_arena_f32(arena, (size_t)T, (size_t)F);
    a->act = um_arena_f32(arena, (size_t)T, (size_t)F);
}

/* Which block of a layer: routed expert `expert`, shared expert `shared`, or the dense MLP when both are -1. */
typedef struct block {
    int layer, expert, shared;
} block;

static void proj_name(char out[200], const um_model *m, const block *b, const char *which)
{
    char rest[64];
    if (b->expert >= 0) {
        um_name_expert(out, m, b->layer, b->expert, which);
    } else if (b->shared >= 0) {
        um_name_shared(out, b->layer, b->shared, which);
    } else {
        snprintf(rest, sizeof rest, "mlp.%s.weight", which);
        um_name_layer(out, b->layer, rest);
    }
}

static um_status proj_load(um_linear *out, const um_checkpoint *ck, const block *at,
                           const char *proj, int N, int K, const char *keep, um_dev *dev,
                           um_arena *model, um_err *err)
{
    char name[200], a[200], b[200], which[32];
    const um_model *m = &ck->model;
    um_linear_names names = {.weight = name};
    proj_name(name, m, at, proj);
    if (m->lora_r > 0) {
        snprintf(which, sizeof which, "%s_lora_A", proj);
        proj_name(a, m, at, which);
        snprintf(which, sizeof which, "%s_lora_B", proj);
        proj_name(b, m, at, which);
        names.lora_a = a;
        names.lora_b = b;
        names.lora_r = m->lora_r;
        names.lora_scale = m->lora_alpha / (float)m->lora_r;
    }
    return um_linear_load(out, ck->llm, &names, N, K, keep, dev, model, err);
}

static um_status block_load(um_ffn *out, const um_checkpoint *ck, const block *b, int F,
                            const char *keep, um_dev *dev, um_arena *model, um_err *err)
{
    int D = ck->model.dim;
    um_ffn f = {0};
    UM_TRY(proj_load(&f.gate, ck, b, "gate_proj", F, D, keep, dev, model, err));
    UM_TRY(proj_load(&f.up, ck, b, "up_proj", F, D, keep, dev, model, err));
    UM_TRY(proj_load(&f.down, ck, b, "down_proj", D, F, keep, dev, model, err));
    *out = f;
    return UM_OK;
}

um_status um_ffn_load(um_ffn *out, const um_checkpoint *ck, int layer, int expert, const char *keep,
                      um_dev *dev, um_arena *model, um_err *err)
{
    block b = {.layer = layer, .expert = expert, .shared = -1};
    int F = expert >= 0 ? ck->model.expert_dim : ck->model.ffn_dim;
    return block_load(out, ck, &b, F, keep, dev, model, err);
}

um_status um_ffn_load_shared(um_ffn *out, const um_checkpoint *ck, int layer, int shared,
                             const char *keep, um_dev *dev, um_arena *model, um_err *err)
{
    block b = {.layer = layer, .expert = -1, .shared = shared};
    return block_load(out, ck, &b, ck->model.dynamic.shared_dim, keep, dev, model, err);
}

void um_ffn_fwd(um_dev *d, float *y, um_ffn_acts *acts, const um_ffn *w, const float *x, int T)
{
    um_linear_fwd(d, acts->gate, x, T, &w->gate);
    um_linear_fwd(d, acts->up, x, T, &w->up);
    d->ops->swiglu_fwd(d, acts->act, acts->gate, acts->up, (size_t)T * (size_t)w->gate.w.N);
    um_linear_fwd(d, y, acts->act, T, &w->down);
}

void um_ffn_bwd(um_dev *d, float *dx, um_ffn_master *grad, const float *dy, const float *x,
                const um_ffn_acts *acts, const um_ffn_master *w, int T, int D, int F,
                um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    size_t n = (size_t)T * (size_t)F;
    float *dact = um_arena_f32(scratch, (size_t)T, (size_t)F);
    float *dgate = um_arena_f32(scratch, (size_t)T, (size_t)F);
    float *dup = um_arena_f32(scratch, (size_t)T, (size_t)F);
    memset(dact, 0, n * sizeof(float));
    memset(dgate, 0, n * sizeof(float));
    memset(dup, 0, n * sizeof(float));
    /* y = down(act) */
    um_linear_bwd(d, dact, grad->down, NULL, dy, acts->act, w->down, T, D, F, scratch);
    /* act = silu(gate) * up */
    d->ops->swiglu_bwd(d, dgate, dup, dact, acts->gate, acts->up, n);
    /* gate = x Wg^T, up = x Wu^T */
    um_linear_bwd(d, dx, grad->gate, NULL, dgate, x, w->gate, T, F, D, scratch);
    um_linear_bwd(d, dx, grad->up, NULL, dup, x, w->up, T, F, D, scratch);
    um_arena_reset(scratch, mark);
}
