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
