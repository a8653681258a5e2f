/* See linear.h. */
#include "core/nn/linear.h"

#include "core/base/bytes.h"

#include <string.h>

static um_dtype kept_dtype(const char *keep, um_dtype stored, bool merged)
{
    if (merged || strcmp(keep, "f32") == 0) return UM_F32;
    if (strcmp(keep, "bf16") == 0) return UM_BF16;
    return stored == UM_BF16 || stored == UM_F16 ? stored : UM_F32;
}

/* The tensor with N rows of K values, whatever its further dimensions: a convolution's are counted as one row. */
static um_status weight_want(const um_tensors *set, const um_tensor **out, const char *name, int N,
                             int K, um_err *err)
{
    const um_tensor *t = um_tensors_find(set, name);
    int64_t shape[UM_MAX_DIMS] = {N, K}, per_row = 1;
    int rank = 2;
    for (int i = 1; t != NULL && i < t->rank; i++) per_row *= t->shape[i];
    if (t != NULL && t->rank > 2 && per_row == K) {
        rank = t->rank;
        memcpy(shape + 1, t->shape + 1, (size_t)(rank - 1) * sizeof *shape);
    }
    return um_tensors_want(set, out, name, rank, shape, err);
}

/* w[N,K] += scale * B[N,r] A[r,K], in f32, r in order. */
static um_status lora_add(float *w, const um_tensors *set, const um_linear_names *names, int N,
                          int K, um_arena *scratch, um_err *err)
{
    const um_tensor *a = NULL, *b = NULL;
    int64_t shape_a[2] = {names->lora_r, K}, shape_b[2] = {N, names->lora_r};
    UM_TRY(um_tensors_want(set, &a, names->lora_a, 2, shape_a, err));
    UM_TRY(um_tensors_want(set, &b, names->lora_b, 2, shape_b, err));
    float *fa = um_arena_f32(scratch, (size_t)names->lora_r, (size_t)K);
    float *fb = um_arena_f32(scratch, (size_t)N, (size_t)names->lora_r);
    um_tensor_to_f32(fa, a);
    um_tensor_to_f32(fb, b);
    for (int n = 0; n < N; n++) {
        for (int r = 0; r < names->lora_r; r++) {
            float s = names->lora_scale * fb[um_at((size_t)n, (size_t)r, (size_t)names->lora_r)];
            const float *row = fa + um_at((size_t)r, 0, (size_t)K);
            float *to = w + um_at((size_t)n, 0, (size_t)K);
            for (int k = 0; k < K; k++) to[k] += s * row[k];
        }
    }
    return UM_OK;
}

um_status um_linear_load(um_linear *out, const um_tensors *set, const um_linear_names *names, int N,
                         int K, const char *keep, um_dev *dev, um_arena *model, um_err *err)
{
    const um_tensor *t = NULL;
    um_linear l = {0};
    UM_TRY(weight_want(set, &t, names->weight, N, K, err));
    if (names->bias != NULL) UM_TRY(um_vector_load(&l.bias, set, names->bias, N, model, err));
    bool merged = names->lora_a != NULL && um_tensors_find(set, names->lora_a) != NULL;
    l.w = (um_matrix){.dtype = kept_dtype(keep, t->dtype, merged), .N = N, .K = K};
    l.w.data = um_arena_alloc(model, um_matrix_bytes(l.w.dtype, N, K));
    um_status st = UM_OK;
    if (merged) {
        um_arena scratch;
        um_arena_init(&scratch, "lora", 1 << 20);
        float *w = um_arena_f32(&scratch, (size_t)N, (size_t)K);
        um_tensor_to_f32(w, t);
        st = lora_add(w, set, names, N, K, &scratch, err);
        if (st == UM_OK) dev->ops->pack(dev, &l.w, w, UM_F32, K, false);
        um_arena_free(&scratch);
    } else {
        dev->ops->pack(dev, &l.w, t->data, t->dtype, K, false);
    }
    um_tensors_forget(set, t);
    if (st == UM_OK) *out = l;
    return st;
}

um_status um_linear_load_plain(um_linear *out, const um_tensors *set, const char *weight,
                               const char *bias, int N, int K, const char *keep, um_dev *dev,
                               um_arena *model, um_err *err)
{
    um_linear_names names = {.weight = weight, .bias = bias};
    return um_linear_load(out, set, &names, N, K, keep, dev, model, err);
}

/* Packs w[N,K] of f32 into the type that a layer stored so is kept in. */
static um_matrix pack_kept(const float *w, int N, int K, const char *keep, um_dtype stored,
                           um_dev *dev, um_arena *model)
{
    um_matrix m = {.dtype = kept_dtype(keep, stored, false), .N = N, .K = K};
    m.data = um_arena_alloc(model, um_matrix_bytes(m.dtype, N, K));
    dev->ops->pack(dev, &m, w, UM_F32, K, false);
    return m;
}

/* Weights and biases of the parts, in f32, into w[N,K] and bias[N]. */
static um_status parts_read(float *w, float *bias, um_dtype *stored, const um_tensors *set,
                            const um_linear_part *part, int parts, int K, um_err *err)
{
    for (int i = 0; i < parts; i++) {
        const um_tensor *t = NULL, *b = NULL;
        int64_t vector[1] = {part[i].N};
        UM_TRY(weight_want(set, &t, part[i].weight, part[i].N, K, err));
        if (part[i].bias != NULL) UM_TRY(um_tensors_want(set, &b, part[i].bias, 1, vector, err));
        um_tensor_to_f32(w, t);
        memset(bias, 0, (size_t)part[i].N * sizeof *bias);
        if (b != NULL) um_tensor_to_f32(bias, b);
        um_tensors_forget(set, t);
        w += um_at((size_t)part[i].N, 0, (size_t)K);
        bias += part[i].N;
        if (i == 0) *stored = t->dtype;
        if (t->dtype != *stored) *stored = UM_F32; /* mixed types: the one that holds them all */
    }
    return UM_OK;
}

um_status um_linear_load_stacked(um_linear *out, const um_tensors *set, const um_linear_part *part,
                                 int parts, int K, const char *keep, um_dev *dev, um_arena *model,
                                 um_err *err)
{
    int N = 0;
    um_dtype stored = UM_F32;
    um_arena scratch;
    for (int i = 0; i < parts; i++) N += part[i].N;
    um_arena_init(&scratch, "stacked weights", 1 << 20);
    float *w = um_arena_f32(&scratch, (size_t)N, (size_t)K);
    float *bias = um_arena_f32(model, 1, (size_t)N);
    um_status st = parts_read(w, bias, &stored, set, part, parts, K, err);
    if (st == UM_OK)
        *out = (um_linear){.w = pack_kept(w, N, K, keep, stored, dev, model), .bias = bias};
    um_arena_free(&scratch);
    return st;
}

um_status um_linear_load_conv(um_linear *out, const um_tensors *set, const char *weight,
                              const char *bias, int N, int C, int taps, const char *keep,
                              um_dev *dev, um_arena *model, um_err *err)
{
    const um_tensor *t = NULL;
    int64_t shape[3] = {N, C, taps};
    um_linear l = {0};
    size_t n = (size_t)C * (size_t)taps, all = (size_t)N * n;
    um_arena scratch;
    UM_TRY(um_tensors_want(set, &t, weight, 3, shape, err));
    if (bias != NULL) UM_TRY(um_vector_load(&l.bias, set, bias, N, model, err));
    um_arena_init(&scratch, "convolution", 1 << 20);
    float *from = um_arena_f32(&scratch, (size_t)N, n), *w = um_arena_f32(&scratch, (size_t)N, n);
    um_tensor_to_f32(from, t);
    for (size_t row = 0; row < all; row += n)
        for (size_t c = 0; c < (size_t)C; c++)
            for (size_t tap = 0; tap < (size_t)taps; tap++)
                w[row + tap * (size_t)C + c] = from[row + c * (size_t)taps + tap];
    l.w = pack_kept(w, N, (int)n, keep, t->dtype, dev, model);
    um_tensors_forget(set, t);
    um_arena_free(&scratch);
    *out = l;
    return UM_OK;
}

um_status um_vector_load(const float **out, const um_tensors *set, const char *name, int n,
                         um_arena *model, um_err *err)
{
    const um_tensor *t = NULL;
    int64_t shape[1] = {n};
    UM_TRY(um_tensors_want(set, &t, name, 1, shape, err));
    float *v = um_arena_f32(model, 1, (size_t)n);
    um_tensor_to_f32(v, t);
    *out = v;
    return UM_OK;
}

static void transpose(float *to, const float *from, int rows, int cols)
{
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++)
            to[um_at((size_t)c, (size_t)r, (size_t)rows)] =
                from[um_at((size_t)r, (size_t)c, (size_t)cols)];
}

static um_matrix packed(um_dev *d, const float *src, int N, int K, int ld, um_arena *scratch)
{
    um_matrix m = {.dtype = UM_F32, .N = N, .K = K};
    m.data = um_arena_alloc(scratch, um_matrix_bytes(UM_F32, N, K));
    d->ops->pack(d, &m, src, UM_F32, ld, true);
    return m;
}

void um_linear_bwd(um_dev *d, float *dx, float *dw, float *db, const float *dy, const float *x,
                   const float *w, int T, int N, int K, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    if (dx !=
        NULL) { /* forward was y = x W^T, so dx += dy W: a gemm whose K outputs are the columns of W */
        um_matrix wt = packed(d, w, K, N, K, scratch);
        d->ops->gemm(d, dx, K, dy, N, T, &wt, NULL, true);
    }
    if (dw != NULL) { /* dw += dy^T x */
        um_matrix xt = packed(d, x, K, T, K, scratch);
        float *dyt = um_arena_f32(scratch, (size_t)N, (size_t)T);
        transpose(dyt, dy, T, N);
        d->ops->gemm(d, dw, K, dyt, T, N, &xt, NULL, true);
    }
    for (int t = 0; db != NULL && t < T; t++)
        for (int n = 0; n < N; n++) db[n] += dy[um_at((size_t)t, (size_t)n, (size_t)N)];
    um_arena_reset(scratch, mark);
}
