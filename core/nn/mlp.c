/* See mlp.h. */
#include "core/nn/mlp.h"

#include "core/base/bytes.h"

void um_mlp_acts_bind(um_mlp_acts *a, um_arena *arena, int T, int F, bool keep)
{
    a->inner = um_arena_f32(arena, (size_t)T, (size_t)F);
    a->act = keep ? um_arena_f32(arena, (size_t)T, (size_t)F) : a->inner;
}

void um_mlp_hidden(um_dev *d, um_mlp_acts *a, const um_mlp *w, const float *x, int T)
{
    const size_t n = um_at((size_t)T, 0, (size_t)w->fc1.w.N);
    um_linear_fwd(d, a->inner, x, T, &w->fc1);
    if (w->act == UM_MLP_QUICK_GELU)
        d->ops->quick_gelu(d, a->act, a->inner, n);
    else
        d->ops->gelu(d, a->act, a->inner, n);
}

void um_mlp_output(um_dev *d, float *y, const um_mlp_acts *a, const um_mlp *w, const float *in,
                   int T)
{
    um_linear_residual(d, y, in, a->act, T, &w->fc2);
}

void um_mlp_fwd(um_dev *d, float *y, um_mlp_acts *a, const um_mlp *w, const float *x,
                const float *in, int T)
{
    um_mlp_hidden(d, a, w, x, T);
    um_mlp_output(d, y, a, w, in, T);
}

void um_mlp_bwd(um_dev *d, float *dx, const um_mlp *w, const um_mlp_acts *a, const float *dy,
                const float *x, int T, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    const size_t n = um_at((size_t)T, 0, (size_t)w->fc1.w.N);
    float *d2 = um_arena_f32(scratch, 2, n), *dact = d2, *dinner = d2 + n;
    UM_ASSERT(a->act != a->inner);
    d->ops->fill(d, d2, 0.0f, 2 * n);
    /* y = in + fc2(act) */
    um_linear_bwd(d, dact, &w->fc2, dy, a->act, T, scratch);
    /* act = gelu(inner) */
    if (w->act == UM_MLP_QUICK_GELU)
        d->ops->quick_gelu_bwd(d, dinner, dact, a->inner, n);
    else
        d->ops->gelu_bwd(d, dinner, dact, a->inner, n);
    /* inner = fc1(x) */
    um_linear_bwd(d, dx, &w->fc1, dinner, x, T, scratch);
    um_arena_reset(scratch, mark);
}
