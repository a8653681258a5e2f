/* See ffn.h. */
#include "core/nn/ffn.h"

void um_ffn_acts_bind(um_ffn_acts *a, um_arena *arena, int T, int F, int r)
{
    a->gate = um_arena_f32(arena, (size_t)T, (size_t)F);
    a->up = um_arena_f32(arena, (size_t)T, (size_t)F);
    a->act = um_arena_f32(arena, (size_t)T, (size_t)F);
    a->gate_low = r > 0 ? um_arena_f32(arena, (size_t)T, (size_t)r) : NULL;
    a->up_low = r > 0 ? um_arena_f32(arena, (size_t)T, (size_t)r) : NULL;
    a->down_low = r > 0 ? um_arena_f32(arena, (size_t)T, (size_t)r) : NULL;
}

um_status um_ffn_load(um_ffn *out, um_params *ps, um_part part, int layer, int index, um_err *err)
{
    um_ffn f = {0};
    UM_TRY(um_linear_load(&f.gate, ps, um_place_of(part, UM_SLOT_GATE_PROJ, layer, index), err));
    UM_TRY(um_linear_load(&f.up, ps, um_place_of(part, UM_SLOT_UP_PROJ, layer, index), err));
    UM_TRY(um_linear_load(&f.down, ps, um_place_of(part, UM_SLOT_DOWN_PROJ, layer, index), err));
    *out = f;
    return UM_OK;
}

void um_ffn_fwd(um_dev *d, float *y, um_ffn_acts *acts, const um_ffn *w, const float *x, int T)
{
    um_linear_fwd(d, acts->gate, x, T, &w->gate);
    um_linear_lora(d, acts->gate, acts->gate_low, x, T, &w->gate);
    um_linear_fwd(d, acts->up, x, T, &w->up);
    um_linear_lora(d, acts->up, acts->up_low, x, T, &w->up);
    d->ops->swiglu_fwd(d, acts->act, acts->gate, acts->up, (size_t)T * (size_t)w->gate.w.N);
    um_linear_fwd(d, y, acts->act, T, &w->down);
    um_linear_lora(d, y, acts->down_low, acts->act, T, &w->down);
}

void um_expert_acts_bind(um_expert_acts *a, um_arena *device, int rows, int D, int F, int r,
                         bool keep)
{
    a->most = keep || rows < UM_EXPERT_ROWS ? rows : UM_EXPERT_ROWS;
    a->x = um_arena_f32(device, (size_t)a->most, (size_t)D);
    um_ffn_acts_bind(&a->ffn, device, a->most, F, r);
}

enum which { GATE, UP, DOWN };

static const um_linear *layer_of(const um_ffn *w, enum which which)
{
    return which == GATE ? &w->gate : which == UP ? &w->up : &w->down;
}

/* y = one linear layer of every group. A LoRA may have left a matrix in another type than its neighbours': there a call ends. */
static void project(um_dev *d, float *y, float *low, const float *x, const um_ffn_group *group,
                    int groups, enum which which, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    um_group *list = um_arena_alloc(scratch, (size_t)groups * sizeof *list);
    for (int from = 0, n; from < groups; from += n) {
        const um_matrix *first = &layer_of(group[from].w, which)->w;
        for (n = 0; from + n < groups; n++) {
            const um_ffn_group *g = &group[from + n];
            const um_linear *l = layer_of(g->w, which);
            if (l->w.dtype != first->dtype) break;
            list[n] = (um_group){.w = &l->w, .bias = l->bias, .row = g->row, .T = g->T};
        }
        d->ops->gemm_grouped(d, y, first->N, x, first->K, list, n);
    }
    for (int i = 0; i < groups; i++) {
        const um_linear *l = layer_of(group[i].w, which);
        size_t row = (size_t)group[i].row, r = (size_t)um_linear_lora_rank(l);
        if (r > 0)
            um_linear_lora(d, y + row * (size_t)l->w.N, low + row * r, x + row * (size_t)l->w.K,
                           group[i].T, l);
    }
    um_arena_reset(scratch, mark);
}

void um_ffn_grouped_fwd(um_dev *d, float *y, um_expert_acts *a, const um_ffn_group *group,
                        int groups, int T, um_arena *scratch)
{
    um_ffn_acts *f = &a->ffn;
    if (groups == 0) return;
    UM_CHECK(T <= a->most);
    project(d, f->gate, f->gate_low, a->x, group, groups, GATE, scratch);
    project(d, f->up, f->up_low, a->x, group, groups, UP, scratch);
    d->ops->swiglu_fwd(d, f->act, f->gate, f->up, (size_t)T * (size_t)group[0].w->gate.w.N);
    project(d, y, f->down_low, f->act, group, groups, DOWN, scratch);
}

void um_ffn_bwd(um_dev *d, float *dx, const um_ffn *w, const float *dy, const float *x,
                const um_ffn_acts *acts, int T, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    const size_t F = (size_t)w->gate.w.N, n = (size_t)T * F;
    float *d3 = um_arena_f32(scratch, 3, n), *dact = d3, *dgate = d3 + n, *dup = d3 + 2 * n;
    d->ops->fill(d, d3, 0.0f, 3 * n);
    /* y = down(act) */
    um_linear_bwd(d, dact, &w->down, dy, acts->act, acts->down_low, T, scratch);
    /* act = silu(gate) * up */
    d->ops->swiglu_bwd(d, dgate, dup, dact, acts->gate, acts->up, n);
    /* gate = x Wg^T, up = x Wu^T */
    um_linear_bwd(d, dx, &w->gate, dgate, x, acts->gate_low, T, scratch);
    um_linear_bwd(d, dx, &w->up, dup, x, acts->up_low, T, scratch);
    um_arena_reset(scratch, mark);
}
