/* See tower_parts.h. */
#include "encoder_worker/towers/tower_parts.h"

#include <inttypes.h>
#include <math.h>

static um_place place(const um_tower_layer *l, um_slot slot)
{
    return um_place_of(l->part, slot, l->layer, -1);
}

um_status um_tower_load_linear(const um_tower_layer *l, um_linear *out, um_slot slot, um_err *err)
{
    return um_linear_load(out, l->ps, place(l, slot), err);
}

um_status um_tower_load_stacked(const um_tower_layer *l, um_linear *out, const um_slot *slot, int n,
                                um_err *err)
{
    um_place at[3];
    UM_ASSERT(n <= 3);
    for (int i = 0; i < n; i++) at[i] = place(l, slot[i]);
    return um_linear_load_stacked(out, l->ps, at, n, err);
}

um_status um_tower_load_norm(const um_tower_layer *l, um_norm *out, um_slot slot, um_err *err)
{
    return um_norm_load(out, l->ps, place(l, slot), err);
}

um_status um_tower_load_projector(um_linear **out, um_params *ps, um_part part, int layers,
                                  um_err *err)
{
    um_linear *list = um_arena_zero(ps->how.host, (size_t)layers * sizeof *list);
    for (int i = 0; i < layers; i++)
        UM_TRY(um_linear_load(&list[i], ps, um_place_of(part, UM_SLOT_PROJECTOR, -1, i), err));
    *out = list;
    return UM_OK;
}

um_postnorm_chain um_postnorm_begin(um_arena *arena, float *in, int T, int D, bool keep)
{
    um_postnorm_chain c = {arena, (size_t)T, (size_t)D, keep, in, NULL};
    if (!keep) c.spare = um_arena_f32(arena, c.T, c.D);
    return c;
}

um_postnorm_acts um_postnorm_next(um_postnorm_chain *c)
{
    um_postnorm_acts s = {.in = c->in, .sum = c->in, .out = c->spare};
    if (c->keep) {
        s.sum = um_arena_f32(c->arena, c->T, c->D);
        s.out = um_arena_f32(c->arena, c->T, c->D);
    }
    c->spare = c->in;
    c->in = s.out;
    return s;
}

/* Forward was out = norm(sum). */
const float *um_postnorm_bwd(um_dev *dev, float *d, const um_postnorm_acts *s, const um_norm *norm,
                             int T, int D, float eps, um_arena *scratch)
{
    const size_t n = (size_t)T * (size_t)D;
    float *dsum = um_tower_zeros(dev, scratch, n);
    um_norm_bwd(dev, dsum, d, s->sum, norm, T, D, eps);
    dev->ops->copy(dev, d, dsum, n * sizeof *d);
    return dsum;
}

void um_projector_acts_bind(um_projector_acts **a, um_arena *host, um_arena *device, int layers,
                            int n, int N, bool keep)
{
    um_projector_acts *list = um_arena_zero(host, (size_t)layers * sizeof *list);
    for (int i = 0; i < layers - 1; i++) {
        list[i].inner = um_arena_f32(device, (size_t)n, (size_t)N);
        list[i].act = keep ? um_arena_f32(device, (size_t)n, (size_t)N) : list[i].inner;
    }
    *a = list;
}

void um_tower_project(um_dev *d, float *rows, um_projector_acts *a, const um_linear *projector,
                      int layers, const float *x, int n)
{
    for (int i = 0; i < layers - 1; i++) {
        um_linear_fwd(d, a[i].inner, x, n, &projector[i]);
        d->ops->gelu(d, a[i].act, a[i].inner, (size_t)n * (size_t)projector[i].w.N);
        x = a[i].act;
    }
    um_linear_fwd(d, rows, x, n, &projector[layers - 1]);
}

/* Forward was x_0 = x, x_(i+1) = gelu(linear_i(x_i)), rows = linear of the last. */
void um_tower_project_bwd(um_dev *d, float *dx, const um_projector_acts *a,
                          const um_linear *projector, int layers, const float *drows,
                          const float *x, int n, um_arena *scratch)
{
    const um_mark mark = um_arena_mark(scratch);
    for (int i = layers - 1; i > 0; i--) {
        const size_t values = (size_t)n * (size_t)projector[i].w.K;
        float *dact = um_tower_zeros(d, scratch, values),
              *dinner = um_tower_zeros(d, scratch, values);
        um_linear_bwd(d, dact, &projector[i], drows, a[i - 1].act, n, scratch);
        d->ops->gelu_bwd(d, dinner, dact, a[i - 1].inner, values);
        drows = dinner;
    }
    um_linear_bwd(d, dx, &projector[0], drows, x, n, scratch);
    um_arena_reset(scratch, mark);
}

float *um_tower_grad(um_params *ps, um_part part, um_slot slot, int layer, um_leaf leaf)
{
    return um_param_grad(um_params_find(ps, um_place_of(part, slot, layer, -1), leaf));
}

float *um_tower_zeros(um_dev *d, um_arena *device, size_t n)
{
    float *x = um_arena_f32(device, 1, n);
    d->ops->fill(d, x, 0.0f, n);
    return x;
}

um_status um_tower_check_finite(const float *host, int64_t n, const char *what, um_err *err)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(host[i]))
            return UM_FAIL(err, UM_E_DATA, "%s %" PRId64 " is not finite", what, i);
    return UM_OK;
}
