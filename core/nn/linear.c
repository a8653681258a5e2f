/* See linear.h: loading of linear layers and vectors, forward and backward. */
#include "core/nn/linear.h"

#include "core/base/bytes.h"

#include <string.h>

/* --- loading --- */

um_matrix um_matrix_pack(const um_loading *how, const float *w, int N, int K, um_dtype kept)
{
    um_matrix m = {.dtype = kept, .N = N, .K = K};
    m.data = um_arena_alloc(how->device, um_matrix_bytes(kept, N, K));
    how->dev->ops->pack(how->dev, &m, w, UM_F32, K, false);
    return m;
}

static int rows_of(const um_param *p) { return (int)p->spec.shape[0]; }
static int columns_of(const um_param *p)
{
    return (int)(um_spec_values(&p->spec) / (size_t)p->spec.shape[0]);
}

static um_dtype kept_of(const um_params *ps, const um_param *p)
{
    return um_kept_dtype(p->spec.exact ? UM_KEEP_F32 : ps->how.keep, p->stored->dtype);
}

/* A weight of these parameters, one above the other. Their matrix is not packed yet. */
static um_weight *weight_new(um_params *ps, um_param *const *part, int parts)
{
    um_weight *w = um_arena_zero(ps->how.host, sizeof *w);
    w->device = ps->how.device;
    w->parts = parts;
    w->part = um_arena_alloc(ps->how.host, (size_t)parts * sizeof(um_param *));
    for (int i = 0; i < parts; i++) {
        w->part[i] = part[i];
        part[i]->weight = w;
        part[i]->row = w->w.N;
        w->w.N += rows_of(part[i]);
    }
    w->w.K = columns_of(part[0]);
    return w;
}

/* Packs a tensor as it is stored. */
static um_weight *pack_stored(um_params *ps, um_param *p)
{
    um_dev *dev = ps->how.dev;
    um_weight *w = weight_new(ps, &p, 1);
    w->w.dtype = kept_of(ps, p);
    w->w.data = um_arena_alloc(ps->how.device, um_matrix_bytes(w->w.dtype, w->w.N, w->w.K));
    dev->ops->pack(dev, &w->w, p->stored->data, p->stored->dtype, w->w.K, false);
    um_tensors_forget(p->set, p->stored);
    return w;
}

/* w[N,K] += scale * B[N,r] A[r,K], in f32, r in order. */
static void add_product(float *w, const float *a, const float *b, float scale, size_t N, size_t K,
                        size_t R)
{
    for (size_t n = 0; n < N; n++)
        for (size_t r = 0; r < R; r++) {
            const float s = scale * b[um_at(n, r, R)], *row = a + um_at(r, 0, K);
            float *to = w + um_at(n, 0, K);
            for (size_t k = 0; k < K; k++) to[k] += s * row[k];
        }
}

static float *to_f32(const um_param *p, um_arena *arena)
{
    float *v = um_arena_f32(arena, 1, um_spec_values(&p->spec));
    um_tensor_to_f32(v, p->stored);
    um_tensors_forget(p->set, p->stored);
    return v;
}

static um_weight *pack_merged(um_params *ps, um_param *p, um_param *a, um_param *b, float scale)
{
    um_weight *l = weight_new(ps, &p, 1);
    um_arena scratch;
    um_arena_init(&scratch, "lora", 1 << 20);
    float *w = to_f32(p, &scratch);
    add_product(w, to_f32(a, &scratch), to_f32(b, &scratch), scale, (size_t)l->w.N, (size_t)l->w.K,
                (size_t)rows_of(a));
    l->w = um_matrix_pack(&ps->how, w, l->w.N, l->w.K, UM_F32);
    um_arena_free(&scratch);
    p->derived = a->derived = b->derived = true;
    return l;
}

/* The bias of a weight's first parameter, if the model has one there. */
static um_status load_bias(um_linear *l, um_params *ps, um_place at, um_err *err)
{
    if (um_params_find(ps, at, UM_LEAF_BIAS) == NULL) return UM_OK;
    UM_TRY(um_vector_load(&l->bias, ps, at, UM_LEAF_BIAS, err));
    um_param *p = um_params_find(ps, at, UM_LEAF_BIAS);
    p->weight = l->weight;
    l->weight->bias = p->vector;
    return UM_OK;
}

um_status um_linear_load(um_linear *out, um_params *ps, um_place at, um_err *err)
{
    const um_model *m = &ps->ck->model;
    um_linear l = {0};
    um_param *w, *a = NULL, *b = NULL;
    UM_TRY(um_params_want(ps, &w, at, UM_LEAF_WEIGHT, err));
    if (um_params_has(ps, at, UM_LEAF_LORA_A) || um_params_has(ps, at, UM_LEAF_LORA_B)) {
        UM_TRY(um_params_want(ps, &a, at, UM_LEAF_LORA_A, err));
        UM_TRY(um_params_want(ps, &b, at, UM_LEAF_LORA_B, err));
        l.lora_scale = m->lora_alpha / (float)m->lora_r;
    }
    if (a != NULL && !ps->how.lora_live) {
        l.weight = pack_merged(ps, w, a, b, l.lora_scale);
    } else {
        l.weight = pack_stored(ps, w);
        if (a != NULL) l.lora_a = pack_stored(ps, a);
        if (b != NULL) l.lora_b = pack_stored(ps, b);
    }
    UM_TRY(load_bias(&l, ps, at, err));
    l.w = l.weight->w;
    *out = l;
    return UM_OK;
}

/* The parameters of a stack and their biases (NULL where there is none), and the type that holds all matrices. */
typedef struct stack {
    um_param **weight, **bias;
    int n, N, K;
    um_dtype kept;
    bool biased;
} stack;

static um_status stack_find(stack *s, um_params *ps, const um_place *at, int n, um_err *err)
{
    um_dtype stored = UM_F32;
    s->n = n;
    s->weight = um_arena_zero(ps->how.host, (size_t)n * sizeof(um_param *));
    s->bias = um_arena_zero(ps->how.host, (size_t)n * sizeof(um_param *));
    for (int i = 0; i < n; i++) {
        UM_TRY(um_params_want(ps, &s->weight[i], at[i], UM_LEAF_WEIGHT, err));
        if (um_params_find(ps, at[i], UM_LEAF_BIAS) != NULL)
            UM_TRY(um_params_want(ps, &s->bias[i], at[i], UM_LEAF_BIAS, err));
        UM_ASSERT(!um_params_has(ps, at[i], UM_LEAF_LORA_A));
        UM_ASSERT(i == 0 || columns_of(s->weight[i]) == s->K);
        s->K = columns_of(s->weight[i]);
        s->N += rows_of(s->weight[i]);
        if (i == 0) stored = s->weight[i]->stored->dtype;
        /* mixed types: the one that holds them all */
        if (s->weight[i]->stored->dtype != stored) stored = UM_F32;
    }
    s->kept = um_kept_dtype(s->weight[0]->spec.exact ? UM_KEEP_F32 : ps->how.keep, stored);
    return UM_OK;
}

/* Weights and biases of the stack, in f32, into w[N,K] and bias[N]. */
static void stack_read(float *w, float *bias, const stack *s)
{
    memset(bias, 0, (size_t)s->N * sizeof *bias);
    for (int i = 0; i < s->n; i++) {
        um_tensor_to_f32(w, s->weight[i]->stored);
        um_tensors_forget(s->weight[i]->set, s->weight[i]->stored);
        if (s->bias[i] != NULL) um_tensor_to_f32(bias, s->bias[i]->stored);
        w += um_spec_values(&s->weight[i]->spec);
        bias += rows_of(s->weight[i]);
    }
}

um_status um_linear_load_stacked(um_linear *out, um_params *ps, const um_place *at, int n,
                                 um_err *err)
{
    const um_loading *how = &ps->how;
    stack s = {0};
    um_arena scratch;
    UM_TRY(stack_find(&s, ps, at, n, err));
    um_arena_init(&scratch, "stacked weights", 1 << 20);
    float *w = um_arena_f32(&scratch, (size_t)s.N, (size_t)s.K);
    float *bias = um_arena_f32(&scratch, 1, (size_t)s.N);
    stack_read(w, bias, &s);
    um_weight *l = weight_new(ps, s.weight, n);
    l->w = um_matrix_pack(how, w, s.N, s.K, s.kept);
    l->bias = um_dev_put_f32(how->dev, how->device, bias, (size_t)s.N);
    um_arena_free(&scratch);
    for (int i = 0; i < n; i++) {
        if (s.bias[i] == NULL) continue;
        s.bias[i]->weight = l;
        s.bias[i]->row = s.weight[i]->row;
        s.bias[i]->vector = l->bias + s.weight[i]->row;
    }
    *out = (um_linear){.w = l->w, .bias = l->bias, .weight = l};
    return UM_OK;
}

um_status um_linear_load_conv(um_linear *out, um_params *ps, um_place at, um_err *err)
{
    um_linear l = {0};
    um_param *p;
    um_arena scratch;
    UM_TRY(um_params_want(ps, &p, at, UM_LEAF_WEIGHT, err));
    const size_t N = (size_t)p->spec.shape[0], C = (size_t)p->spec.shape[1],
                 taps = (size_t)p->spec.shape[2], n = C * taps;
    um_arena_init(&scratch, "convolution", 1 << 20);
    float *from = to_f32(p, &scratch), *w = um_arena_f32(&scratch, N, n);
    for (size_t row = 0; row < N * n; row += n)
        for (size_t c = 0; c < C; c++)
            for (size_t tap = 0; tap < taps; tap++)
                w[row + tap * C + c] = from[row + c * taps + tap];
    p->derived = true;
    l.weight = weight_new(ps, &p, 1);
    l.weight->w = um_matrix_pack(&ps->how, w, (int)N, (int)n, kept_of(ps, p));
    um_arena_free(&scratch);
    UM_TRY(load_bias(&l, ps, at, err));
    l.w = l.weight->w;
    *out = l;
    return UM_OK;
}

um_status um_vector_load(const float **out, um_params *ps, um_place at, um_leaf leaf, um_err *err)
{
    um_param *p;
    um_arena scratch;
    UM_TRY(um_params_want(ps, &p, at, leaf, err));
    const size_t n = um_spec_values(&p->spec);
    um_arena_init(&scratch, "vector", n * sizeof(float));
    p->vector = um_dev_put_f32(ps->how.dev, ps->how.device, to_f32(p, &scratch), n);
    um_arena_free(&scratch);
    *out = p->vector;
    return UM_OK;
}

um_status um_values_read(float **out, um_params *ps, um_place at, um_leaf leaf, um_arena *arena,
                         um_err *err)
{
    um_param *p;
    UM_TRY(um_params_want(ps, &p, at, leaf, err));
    p->derived = true;
    *out = to_f32(p, arena);
    return UM_OK;
}

/* --- forward and backward --- */

void um_linear_lora(um_dev *d, float *y, float *low, const float *x, int T, const um_linear *l)
{
    if (l->lora_a == NULL) return;
    const um_matrix *a = &l->lora_a->w, *b = &l->lora_b->w;
    d->ops->gemm(d, low, a->N, x, a->K, T, a, NULL, false);
    d->ops->scale(d, low, l->lora_scale, (size_t)T * (size_t)a->N);
    d->ops->gemm(d, y, b->N, low, b->K, T, b, NULL, true);
}

/* dw[N,K] += dy[T,N]^T x[T,K], when the matrix is trained. */
static void matrix_grad(um_dev *d, um_weight *w, const float *dy, const float *x, int T,
                        um_arena *scratch)
{
    const int N = w->w.N, K = w->w.K;
    if (w->grad == NULL) return;
    um_matrix xt = {.dtype = UM_F32, .N = K, .K = T};
    xt.data = um_arena_alloc(scratch, um_matrix_bytes(UM_F32, K, T));
    d->ops->pack_device(d, &xt, x, K, true);
    float *dyt = um_arena_f32(scratch, (size_t)N, (size_t)T);
    d->ops->transpose(d, dyt, dy, T, N);
    d->ops->gemm(d, w->grad, K, dyt, T, N, &xt, NULL, true);
}

/* dx[T,K] += dy[T,N] W: a gemm whose outputs are the columns of W. */
static void input_grad(um_dev *d, float *dx, um_weight *w, const float *dy, int T)
{
    d->ops->gemm(d, dx, w->w.K, dy, w->w.N, T, um_weight_transposed(d, w), NULL, true);
}

/* Forward was low = scale x A^T, y += low B^T, so
 *   dB += dy^T low,   dlow = scale dy B,   dA += dlow^T x,   dx += dlow A. */
static void lora_bwd(um_dev *d, float *dx, const um_linear *l, const float *dy, const float *x,
                     const float *low, int T, um_arena *scratch)
{
    const size_t n = (size_t)T * (size_t)l->lora_a->w.N;
    matrix_grad(d, l->lora_b, dy, low, T, scratch);
    float *dlow = um_arena_f32(scratch, 1, n);
    d->ops->fill(d, dlow, 0.0f, n);
    input_grad(d, dlow, l->lora_b, dy, T);
    d->ops->scale(d, dlow, l->lora_scale, n);
    matrix_grad(d, l->lora_a, dlow, x, T, scratch);
    if (dx != NULL) input_grad(d, dx, l->lora_a, dlow, T);
}

void um_linear_bwd(um_dev *d, float *dx, const um_linear *l, const float *dy, const float *x,
                   const float *low, int T, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    um_weight *w = l->weight;
    UM_ASSERT(w != NULL && w->device != scratch && (l->lora_a == NULL || low != NULL));
    if (dx != NULL) input_grad(d, dx, w, dy, T);
    matrix_grad(d, w, dy, x, T, scratch);
    if (w->bias_grad != NULL) d->ops->sum_rows(d, w->bias_grad, dy, T, w->w.N);
    if (l->lora_a != NULL) lora_bwd(d, dx, l, dy, x, low, T, scratch);
    um_arena_reset(scratch, mark);
}
