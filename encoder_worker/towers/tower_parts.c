/* See tower_parts.h. */
#include "encoder_worker/towers/tower_parts.h"

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

void um_tower_project(um_dev *d, float *rows, const um_linear *projector, int layers,
                      const float *x, int n, um_arena *scratch)
{
    for (int i = 0; i < layers; i++) {
        const size_t N = (size_t)projector[i].w.N;
        float *y = i == layers - 1 ? rows : um_arena_f32(scratch, (size_t)n, N);
        um_linear_fwd(d, y, x, n, &projector[i]);
        if (i < layers - 1) d->ops->gelu(d, y, y, (size_t)n * N);
        x = y;
    }
}
