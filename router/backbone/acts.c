/* Binds the activations of the backbone; see backbone.h. This is also the table of their sizes: it runs on measuring arenas. */
#include "router/backbone/backbone.h"

#include "core/base/bytes.h"

um_attention_shape um_backbone_attention(const um_model *m)
{
    return (um_attention_shape){.heads = m->heads,
                                .kv_heads = m->kv_heads,
                                .head_dim = m->head_dim,
                                .layers = UM_ATTENTION_Q_K_V};
}

static void bind_shared(um_acts *a, um_acts_arenas to, const um_model *m, int T, bool keep)
{
    size_t F = (size_t)m->dynamic.shared, rows = (size_t)T;
    a->shared = um_arena_alloc(to.host, F * sizeof *a->shared);
    um_ffn_acts one;
    for (size_t j = 0; j < F; j++) {
        if (keep || j == 0) um_ffn_acts_bind(&one, to.device, T, m->dynamic.shared_dim);
        if (to.host->kind != UM_ARENA_MEASURE) a->shared[j] = one;
    }
    a->parts = um_arena_f32(to.device, (1 + F) * rows, (size_t)m->dim);
    a->part_index = um_arena_i32(to.device, rows * (1 + F));
    a->part_weight = um_arena_f32(to.device, rows, 1 + F);
}

static void bind_moe(um_acts *a, um_acts_arenas to, const um_model *m, int expert_ranks, int T,
                     bool keep)
{
    size_t rows = (size_t)T, D = (size_t)m->dim, K = (size_t)m->top_k;
    if (m->gate == UM_GATE_DYNAMIC) {
        um_dynamic_bind(&a->dynamic, to.device, &m->dynamic, T, m->top_k);
        a->route = (um_route){.T = T,
                              .K = m->top_k,
                              .E = a->dynamic.C,
                              .logits = a->dynamic.logits,
                              .experts = a->dynamic.experts,
                              .weights = a->dynamic.slots};
        if (m->dynamic.shared > 0) bind_shared(a, to, m, T, keep);
    } else {
        um_route_bind(&a->route, to.device, T, m->top_k, m->experts);
    }
    a->routed = um_arena_i32(to.host, rows * K);
    a->rows = um_arena_f32(to.device, rows * K, D);
    um_dispatch_plan_bind(&a->plan, to.host, to.device, T, m->top_k, expert_ranks);
}

void um_acts_bind(um_acts *a, um_acts_arenas to, const um_model *m, int expert_ranks, float *in,
                  int T, bool keep)
{
    size_t rows = (size_t)T, D = (size_t)m->dim;
    um_attention_shape shape = um_backbone_attention(m);
    um_arena *d = to.device;
    *a = (um_acts){.in = in, .mid = in, .out = in};
    if (keep) {
        a->mid = um_arena_f32(d, rows, D);
        a->out = um_arena_f32(d, rows, D);
    }
    a->ln1 = um_arena_f32(d, rows, D);
    a->ln2 = um_arena_f32(d, rows, D);
    a->rstd1 = um_arena_f32(d, 1, rows);
    a->rstd2 = um_arena_f32(d, 1, rows);
    um_attention_acts_bind(&a->attention, d, &shape, T, T);
    a->gate_in = a->ln2;
    if (m->fm_block) {
        a->gate_in = um_arena_f32(d, rows, D);
        a->fm_in = um_arena_f32(d, rows, D);
        a->fm_out = um_arena_f32(d, rows, D);
    }
    if (m->experts > 0) bind_moe(a, to, m, expert_ranks, T, keep);
    if (m->moe_layers < m->layers) um_ffn_acts_bind(&a->dense, d, T, m->ffn_dim);
    a->y = um_arena_f32(d, rows, D);
}

size_t um_acts_bytes(const um_model *m, int expert_ranks, int T)
{
    um_acts a;
    um_arena host, device;
    um_arena_init_measure(&host, "host");
    um_arena_init_measure(&device, "device");
    um_arena_f32(&device, (size_t)T, (size_t)m->dim); /* in */
    um_acts_bind(&a, (um_acts_arenas){&host, &device}, m, expert_ranks, NULL, T, false);
    return host.peak + device.peak;
}
