/* Binds the activations of the backbone; see backbone.h. This is also the table of their sizes: it runs on measuring arenas. */
#include "router/backbone/backward.h"

#include <string.h>

um_attention_shape um_backbone_attention(const um_model *m)
{
    return (um_attention_shape){.heads = m->heads,
                                .kv_heads = m->kv_heads,
                                .head_dim = m->head_dim,
                                .layers = UM_ATTENTION_Q_K_V};
}

um_recompute um_recompute_from_name(const char *name)
{
    return strcmp(name, "layer") == 0 ? UM_RECOMPUTE_LAYER
           : strcmp(name, "ffn") == 0 ? UM_RECOMPUTE_FFN
                                      : UM_RECOMPUTE_NONE;
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

/* What a layer of experts must keep even where the rest is computed again: routing, plan and the experts' rows. */
static void bind_routed(um_acts *a, um_acts_arenas to, const um_model *m, int expert_ranks, int T)
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
    } else {
        um_route_bind(&a->route, to.device, T, m->top_k, m->experts);
    }
    a->routed = um_arena_i32(to.host, rows * K);
    a->rows = um_arena_f32(to.device, rows * K, D);
    um_dispatch_plan_bind(&a->plan, to.host, to.device, T, m->top_k, expert_ranks);
}

/* Which kinds of layers the activations are for. */
typedef struct kinds {
    bool moe, dense;
} kinds;

/* Both norms and attention, and the gate's input. */
static void bind_upper(um_acts *a, um_arena *d, const um_model *m, int T, bool moe)
{
    size_t rows = (size_t)T, D = (size_t)m->dim;
    um_attention_shape shape = um_backbone_attention(m);
    a->ln1 = um_arena_f32(d, rows, D);
    a->ln2 = um_arena_f32(d, rows, D);
    a->rstd1 = um_arena_f32(d, 1, rows);
    a->rstd2 = um_arena_f32(d, 1, rows);
    um_attention_acts_bind(&a->attention, d, &shape, T, T);
    a->gate_in = moe && m->fm_block ? um_arena_f32(d, rows, D) : a->ln2;
}

/* The MLP of a dense layer, and the shared experts. */
static void bind_ffn(um_acts *a, um_acts_arenas to, const um_model *m, int T, bool keep, kinds of)
{
    if (of.moe && m->dynamic.shared > 0) bind_shared(a, to, m, T, keep);
    if (of.dense) um_ffn_acts_bind(&a->dense, to.device, T, m->ffn_dim);
}

/* What ends with its layer, also when something is to go backwards. */
static void bind_brief(um_acts *a, um_arena *device, const um_model *m, int T)
{
    size_t rows = (size_t)T, D = (size_t)m->dim;
    a->y = um_arena_f32(device, rows, D);
    a->fm_in = m->fm_block ? um_arena_f32(device, rows, D) : NULL;
    a->fm_out = m->fm_block ? um_arena_f32(device, rows, D) : NULL;
}

/* The kinds of layers that the model has. */
static kinds kinds_of(const um_model *m)
{
    return (kinds){.moe = m->experts > 0, .dense = m->moe_layers < m->layers};
}

void um_acts_bind(um_acts *a, um_acts_arenas to, const um_model *m, int expert_ranks, float *in,
                  int T, bool keep)
{
    size_t rows = (size_t)T, D = (size_t)m->dim;
    *a = (um_acts){.in = in, .mid = in, .out = in};
    if (keep) {
        a->mid = um_arena_f32(to.device, rows, D);
        a->out = um_arena_f32(to.device, rows, D);
    }
    bind_upper(a, to.device, m, T, m->experts > 0);
    bind_ffn(a, to, m, T, keep, kinds_of(m));
    if (m->experts > 0) bind_routed(a, to, m, expert_ranks, T);
    bind_brief(a, to.device, m, T);
}

void um_acts_bind_layers(um_acts *a, um_acts_arenas to, const um_model *m, int expert_ranks,
                         float *in, int T, um_recompute again)
{
    size_t rows = (size_t)T, D = (size_t)m->dim;
    um_acts work = {0};
    bind_brief(&work, to.device, m, T);
    if (again == UM_RECOMPUTE_LAYER) {
        work.mid = um_arena_f32(to.device, rows, D);
        bind_upper(&work, to.device, m, T, m->experts > 0);
    }
    if (again != UM_RECOMPUTE_NONE) bind_ffn(&work, to, m, T, true, kinds_of(m));
    for (int l = 0; l < m->layers; l++) {
        const bool moe = m->moe_layer[l];
        a[l] = work;
        if (again != UM_RECOMPUTE_LAYER) {
            a[l].mid = um_arena_f32(to.device, rows, D);
            bind_upper(&a[l], to.device, m, T, moe);
        }
        if (again == UM_RECOMPUTE_NONE)
            bind_ffn(&a[l], to, m, T, true, (kinds){.moe = moe, .dense = !moe});
        if (moe) bind_routed(&a[l], to, m, expert_ranks, T);
        if (!moe && l == m->layers - 1)
            a[l].last_heads = um_arena_f32(to.device, rows, (size_t)m->heads * (size_t)m->head_dim);
        a[l].in = l == 0 ? in : a[l - 1].out;
        a[l].out = um_arena_f32(to.device, rows, D);
    }
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

void um_backward_acts_bind(um_backward_acts *a, um_arena *device, const um_model *m, int T)
{
    const size_t rows = (size_t)T, D = (size_t)m->dim, K = (size_t)m->top_k;
    *a = (um_backward_acts){.dln2 = um_arena_f32(device, rows, D)};
    if (m->experts == 0) return;
    a->dweights = um_arena_f32(device, rows, K);
    a->drows = um_arena_f32(device, rows * K, D);
    a->dinput = a->drows; /* the answers replace the question */
}
