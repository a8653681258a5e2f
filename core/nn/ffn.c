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
