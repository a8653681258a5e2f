/* See tower_parts.h. */
#include "encoder_worker/towers/tower_parts.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

enum { NAME = 256 };

um_status um_tower_load_linear(const um_tower_loader *l, um_linear *out, const char *prefix,
                               const char *name, int N, int K)
{
    char weight[NAME], bias[NAME];
    snprintf(weight, sizeof weight, "%s%s.weight", prefix, name);
    snprintf(bias, sizeof bias, "%s%s.bias", prefix, name);
    return um_linear_load_plain(out, l->set, weight, bias, N, K, l->keep, l->dev, l->model, l->err);
}

um_status um_tower_load_pair(const um_tower_loader *l, um_linear *out, const char *prefix,
                             const char *keys, const char *values, int N, int K)
{
    const char *const name[2] = {keys, values};
    char weight[2][NAME], bias[2][NAME];
    um_linear_part part[2];
    for (int i = 0; i < 2; i++) {
        snprintf(weight[i], sizeof weight[i], "%s%s.weight", prefix, name[i]);
        snprintf(bias[i], sizeof bias[i], "%s%s.bias", prefix, name[i]);
        part[i] = (um_linear_part){.weight = weight[i], .bias = bias[i], .N = N};
    }
    return um_linear_load_stacked(out, l->set, part, 2, K, l->keep, l->dev, l->model, l->err);
}

um_status um_tower_load_norm(const um_tower_loader *l, um_norm *out, const char *prefix,
                             const char *name, int D)
{
    char full[NAME];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    UM_TRY(um_vector_load(&out->w, l->set, full, D, l->model, l->err));
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    return um_vector_load(&out->b, l->set, full, D, l->model, l->err);
}

um_status um_tower_load_values(const um_tower_loader *l, const float **out, const char *prefix,
                               const char *name, int rank, const int64_t *shape)
{
    char full[NAME];
    const um_tensor *t = NULL;
    size_t n = 1;
    snprintf(full, sizeof full, "%s%s", prefix, name);
    UM_TRY(um_tensors_want(l->set, &t, full, rank, shape, l->err));
    for (int i = 0; i < rank; i++) n *= (size_t)shape[i];
    float *values = um_arena_f32(l->model, 1, n);
    um_tensor_to_f32(values, t);
    um_tensors_forget(l->set, t);
    *out = values;
    return UM_OK;
}

um_status um_tower_load_projector(const um_tower_loader *l, um_linear **out, const char *prefix,
                                  um_projector kind, int layers, int N, int K)
{
    um_linear *list = um_arena_zero(l->model, (size_t)layers * sizeof *list);
    for (int i = 0; i < layers; i++) {
        char number[16] = "";
        if (kind == UM_PROJ_MLP) snprintf(number, sizeof number, ".%d", 2 * i);
        UM_TRY(um_tower_load_linear(l, &list[i], prefix, number, N, i == 0 ? K : N));
    }
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

um_status um_tower_check_finite(const float *host, int64_t n, const char *what, um_err *err)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(host[i]))
            return UM_FAIL(err, UM_E_DATA, "%s %" PRId64 " is not finite", what, i);
    return UM_OK;
}
