/* Gradients of the blocks that towers, connectors and the backbone are made of, everything in them trained, against central differences of
 * a forward in double along random directions: attention in all three layouts of layers (self, causal, cross, shared key heads, gated
 * bias, LoRA adapters), the feed-forward block, norms, a convolution, experts side by side. On guarded memory too. */
#include "core/nn/attention.h"
#include "core/nn/ffn.h"
#include "core/nn/mlp.h"
#include "core/nn/norm.h"

#include "core/base/rng.h"
#include "tests/core/nn/block_fixture.h"
#include "tests/support/made_params.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static um_rng rng;
static const float adapter_alpha = 3.0f;

static float *normal(size_t n)
{
    float *x = um_arena_f32(&arena, 1, n);
    um_rng_normal_f32(&rng, x, n, 0.5f);
    return x;
}

static float *on_device(const float *x, size_t n) { return um_dev_put_f32(&dev, &device, x, n); }

static double *doubles(size_t n) { return um_arena_zero(&arena, n * sizeof(double)); }

/* --- what a check has: inputs and parameters, their values, their gradients --- */

enum { MOST = 40 };

typedef struct check {
    made_params m;
    float *value[MOST];    /* host */
    float *gradient[MOST]; /* device, of inputs; of parameters NULL: that of param */
    um_param *param[MOST];
    size_t n[MOST];
    int count;
    const float *c; /* host: loss = sum of c * y */
    double (*loss)(const struct check *k, double *const *in);
    const void *ctx;
} check;

/* An input of n values; *on_dev: where it is in device memory. */
static int input(check *k, size_t n, float **on_dev)
{
    const int i = k->count++;
    k->n[i] = n;
    k->value[i] = normal(n);
    k->gradient[i] = zeroed(n);
    *on_dev = on_device(k->value[i], n);
    return i;
}

/* The file, with adapters of rank r beside the slots. */
static void open_list(check *k, uint64_t slots, int r)
{
    um_err err = {0};
    const um_loading how = {.dev = &dev, .host = &arena, .device = &device, .lora = &lora};
    const um_adapter_rules rules = {.parts = 1, .slots = slots, .r = r, .alpha = adapter_alpha};
    made_open(&k->m, dir, &how);
    if (slots != 0) ok(um_params_adapt(&k->m.ps, &rules, &err), &err);
}

/* Trains everything that is listed; adapters get a B that is not zero. */
static void train_list(check *k)
{
    um_params *ps = &k->m.ps;
    train(ps, trains_all, NULL);
    for (size_t i = 0; i < ps->n; i++) {
        um_param *p = &ps->list[i];
        const int at = k->count++;
        assert_true(at < MOST);
        k->param[at] = p;
        k->n[at] = um_spec_values(&p->spec);
        if (p->spec.leaf == UM_LEAF_ADAPTER_B) um_param_write(p, normal(k->n[at]));
        k->value[at] = um_arena_f32(&arena, 1, k->n[at]);
        um_param_read(p, k->value[at]);
    }
    um_params_repack(ps);
}

/* Which input a parameter is; -1 when there is none. */
static int find(const check *k, um_slot slot, um_leaf leaf)
{
    for (int i = 0; i < k->count; i++) {
        const um_param *p = k->param[i];
        if (p != NULL && p->spec.at.slot == slot && p->spec.leaf == leaf) return i;
    }
    return -1;
}

static void compare(const check *k)
{
    double *moved[MOST];
    for (int i = 0; i < k->count; i++) moved[i] = doubles(k->n[i]);
    for (int which = 0; which < k->count; which++) {
        float *direction = normal(k->n[which]), *grad = um_arena_f32(&arena, 1, k->n[which]);
        double side[2], dot = 0;
        if (k->param[which] != NULL) {
            um_param_fetch(k->param[which], grad, k->param[which]->grad);
            assert_true(k->param[which]->touched);
        } else {
            dev.ops->get(&dev, grad, k->gradient[which], k->n[which] * sizeof *grad);
        }
        for (size_t i = 0; i < k->n[which]; i++) dot += (double)direction[i] * (double)grad[i];
        for (int s = 0; s < 2; s++) {
            for (int j = 0; j < k->count; j++)
                for (size_t i = 0; i < k->n[j]; i++)
                    moved[j][i] = (double)k->value[j][i] +
                                  (j == which ? (s == 0 ? 1e-4 : -1e-4) * (double)direction[i] : 0);
            side[s] = k->loss(k, moved);
        }
        const double slope = (side[0] - side[1]) / 2e-4;
        if (fabs(slope - dot) > 1e-4 * (1 + fabs(slope)))
            fail_msg("%s: gradient says %g, differences say %g",
                     k->param[which] == NULL ? "input" : k->param[which]->spec.name, dot, slope);
    }
}

static double dot_c(const check *k, const double *y, size_t n)
{
    double loss = 0;
    for (size_t i = 0; i < n; i++) loss += (double)k->c[i] * y[i];
    return loss;
}

/* --- layers in double --- */

static void layer_add(check *k, um_slot slot, int N, int K, bool bias)
{
    made_add(&k->m, slot, UM_LEAF_WEIGHT, UM_F32, N, K, 0);
    if (bias) made_add(&k->m, slot, UM_LEAF_BIAS, UM_F32, N, 0, 0);
}

/* y[T,N] = x W^T + b + alpha/r (x A^T) B^T of the slot's parameters */
static double *layer_double(const check *k, double *const *in, um_slot slot, const double *x, int T)
{
    const int w = find(k, slot, UM_LEAF_WEIGHT), b = find(k, slot, UM_LEAF_BIAS),
              a = find(k, slot, UM_LEAF_ADAPTER_A), l = find(k, slot, UM_LEAF_ADAPTER_B);
    const int N = (int)k->param[w]->spec.shape[0], K = (int)(k->n[w] / (size_t)N);
    const int r = a < 0 ? 0 : (int)k->param[a]->spec.shape[0];
    double *y = doubles((size_t)(T * N));
    for (int t = 0; t < T; t++)
        for (int n = 0; n < N; n++) {
            double sum = b < 0 ? 0 : in[b][n];
            for (int c = 0; c < K; c++) sum += in[w][n * K + c] * x[t * K + c];
            for (int j = 0; j < r; j++) {
                double low = 0;
                for (int c = 0; c < K; c++) low += in[a][j * K + c] * x[t * K + c];
                sum += (double)adapter_alpha / r * in[l][n * r + j] * low;
            }
            y[t * N + n] = sum;
        }
    return y;
}

/* --- attention --- */

typedef struct attention_case {
    um_attention_shape shape;
    int T, n, D, from_dim; /* from_dim 0: self-attention */
    bool causal, biased, adapters;
} attention_case;

static double attention_loss(const check *k, double *const *in)
{
    const attention_case *a = k->ctx;
    const um_attention_shape *s = &a->shape;
    const bool cross = a->from_dim > 0;
    const double *x = in[0], *from = cross ? in[1] : x;
    const double *table = a->biased ? in[1] : NULL, *gate = a->biased ? in[2] : NULL;
    const int H = s->heads, hd = s->head_dim, share = H / s->kv_heads, ld = H * hd,
              ldkv = s->kv_heads * hd;
    const double *q = layer_double(k, in, UM_SLOT_Q, x, a->T),
                 *key = layer_double(k, in, UM_SLOT_K, from, a->n),
                 *v = layer_double(k, in, UM_SLOT_V, from, a->n);
    double *heads = doubles((size_t)(a->T * ld)), *score = doubles((size_t)a->n);
    for (int t = 0; t < a->T; t++)
        for (int h = 0; h < H; h++) {
            const int n = a->causal ? t + 1 : a->n;
            double sum = 0;
            for (int i = 0; i < n; i++) {
                score[i] = 0;
                for (int c = 0; c < hd; c++)
                    score[i] += q[t * ld + h * hd + c] * key[i * ldkv + h / share * hd + c];
                score[i] /= sqrt(hd);
                if (a->biased)
                    score[i] += gate[t * H + h] * table[h * (2 * a->T) + a->T - 1 + i - t];
                sum += score[i] = exp(score[i]);
            }
            for (int i = 0; i < n; i++)
                for (int c = 0; c < hd; c++)
                    heads[t * ld + h * hd + c] += score[i] / sum * v[i * ldkv + h / share * hd + c];
        }
    return dot_c(k, layer_double(k, in, UM_SLOT_O, heads, a->T), (size_t)(a->T * a->D));
}

static const um_slot attention_slot[] = {UM_SLOT_Q, UM_SLOT_K, UM_SLOT_V, UM_SLOT_O};

static void attention_load(check *k, um_attention *w, const attention_case *a)
{
    um_place at[4];
    um_err err = {0};
    for (int i = 0; i < 4; i++) at[i] = made_at(attention_slot[i]);
    *w = (um_attention){.shape = a->shape};
    switch (a->shape.layers) {
    case UM_ATTENTION_Q_K_V:
        ok(um_linear_load(&w->q, &k->m.ps, at[0], &err), &err);
        ok(um_linear_load(&w->k, &k->m.ps, at[1], &err), &err);
        ok(um_linear_load(&w->v, &k->m.ps, at[2], &err), &err);
        break;
    case UM_ATTENTION_Q_KV:
        ok(um_linear_load(&w->q, &k->m.ps, at[0], &err), &err);
        ok(um_linear_load_stacked(&w->k, &k->m.ps, at + 1, 2, &err), &err);
        break;
    case UM_ATTENTION_QKV:
        ok(um_linear_load_stacked(&w->q, &k->m.ps, at, 3, &err), &err);
    }
    ok(um_linear_load(&w->out, &k->m.ps, at[3], &err), &err);
}

/* The steps one by one, as a tower with a bias has them. */
static void run_biased(check *k, const um_attention *w, um_attention_acts *acts,
                       const um_attention_pages *pages, const float *x, float *y, const float *dy,
                       const float *table, const float *gate)
{
    const attention_case *a = k->ctx;
    const um_kv kv = um_attention_pages_kv(pages, &a->shape);
    const um_span rows = {.T = a->T, .n = a->n};
    const int32_t key_row = 0;
    um_attention_grads g;
    um_attention_project(&dev, acts, w, x, a->T, x, a->n);
    um_attention_write(&dev, acts, &kv, &rows, 1);
    um_attention_attend_biased(&dev, acts, &a->shape, &kv, &rows, 1, table, 2 * a->T, gate);
    um_attention_output(&dev, y, acts, w, x, a->T);
    um_attention_grads_start(&dev, &g, &scratch, &a->shape, a->T, a->n);
    um_attention_output_bwd(&dev, &g, acts, w, dy, a->T, &scratch);
    um_attention_attend_biased_bwd(&dev, &g, acts, &a->shape, &rows, &key_row, 1, k->gradient[1],
                                   table, 2 * a->T, k->gradient[2], gate);
    um_attention_project_bwd(&dev, k->gradient[0], k->gradient[0], &g, w, x, a->T, x, a->n,
                             &scratch);
}

static void check_attention(const attention_case *a)
{
    check k = {.m = {.a = &arena}, .loss = attention_loss, .ctx = a};
    const um_attention_shape *s = &a->shape;
    const size_t T = (size_t)a->T, out = T * (size_t)a->D;
    const int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim,
              from_dim = a->from_dim > 0 ? a->from_dim : a->D;
    uint64_t slots = 0;
    float *x, *from = NULL, *table = NULL, *gate = NULL;
    um_attention w;
    um_attention_acts acts;
    um_attention_pages pages;
    um_mark mark = um_arena_mark(&device);
    input(&k, out, &x);
    if (a->from_dim > 0) input(&k, (size_t)(a->n * from_dim), &from);
    if (a->biased) input(&k, (size_t)(s->heads * 2 * a->T), &table);
    if (a->biased) input(&k, (size_t)(a->T * s->heads), &gate);
    layer_add(&k, UM_SLOT_Q, q, a->D, true);
    layer_add(&k, UM_SLOT_K, kv, from_dim, false);
    layer_add(&k, UM_SLOT_V, kv, from_dim, true);
    layer_add(&k, UM_SLOT_O, a->D, q, true);
    for (int i = 0; i < 4 && a->adapters; i++)
        if (i != 1) slots |= 1ull << attention_slot[i]; /* not beside all parts of a stack */
    open_list(&k, slots, 3);
    attention_load(&k, &w, a);
    train_list(&k);
    k.c = normal(out);
    const float *dy = on_device(k.c, out);
    float *y = um_arena_f32(&device, 1, out);
    um_attention_acts_bind(&acts, &device, s, a->T, a->n);
    um_attention_pages_bind(&pages, &arena, &device, um_kv_page_floats(s->kv_heads, s->head_dim),
                            a->n);
    um_attention_pages_start(&dev, &pages);
    if (a->biased) {
        run_biased(&k, &w, &acts, &pages, x, y, dy, table, gate);
    } else {
        const float *keys = from == NULL ? x : from;
        um_attention_fwd(&dev, &acts, &w, &pages, x, a->T, keys, a->n, a->causal);
        um_attention_output(&dev, y, &acts, &w, x, a->T);
        um_attention_bwd(&dev, k.gradient[0], k.gradient[from == NULL ? 0 : 1], &acts, &w, dy, x,
                         a->T, keys, a->n, a->causal, &scratch);
    }
    compare(&k);
    made_close(&k.m);
    um_arena_reset(&device, mark);
}

static void attention_matches_differences(void **state)
{
    (void)state;
    static const attention_case cases[] = {
        {{2, 2, 5, UM_ATTENTION_Q_K_V}, 7, 7, 9, 0, true, false, false},
        {{4, 2, 3, UM_ATTENTION_Q_K_V}, 19, 19, 6, 0, true, false, true},
        {{2, 2, 4, UM_ATTENTION_QKV}, 6, 6, 8, 0, false, false, true},
        {{6, 3, 2, UM_ATTENTION_QKV}, 5, 5, 7, 0, true, false, false},
        {{2, 2, 6, UM_ATTENTION_Q_KV}, 4, 11, 5, 7, false, false, false},
        {{3, 1, 4, UM_ATTENTION_Q_KV}, 5, 18, 6, 3, false, false, true},
        {{2, 2, 8, UM_ATTENTION_Q_K_V}, 3, 9, 5, 4, false, false, true},
        {{2, 2, 5, UM_ATTENTION_Q_K_V}, 9, 9, 6, 0, false, true, false},
        {{4, 4, 3, UM_ATTENTION_QKV}, 17, 17, 5, 0, false, true, true},
        {{1, 1, 2, UM_ATTENTION_Q_K_V}, 1, 1, 2, 0, true, false, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_attention(&cases[i]);
}

/* --- the feed-forward block of towers --- */

typedef struct mlp_case {
    int T, D, F;
    um_mlp_act act;
    bool adapters;
} mlp_case;

static double mlp_loss(const check *k, double *const *in)
{
    const mlp_case *c = k->ctx;
    double *h = layer_double(k, in, UM_SLOT_FC1, in[0], c->T);
    for (int i = 0; i < c->T * c->F; i++)
        h[i] = c->act == UM_MLP_GELU ? h[i] / 2 * (1 + erf(h[i] / sqrt(2)))
                                     : h[i] / (1 + exp(-1.702 * h[i]));
    return dot_c(k, layer_double(k, in, UM_SLOT_FC2, h, c->T), (size_t)(c->T * c->D));
}

static void mlp_matches_differences(void **state)
{
    (void)state;
    static const mlp_case cases[] = {{1, 2, 3, UM_MLP_GELU, false},
                                     {7, 9, 20, UM_MLP_GELU, true},
                                     {5, 17, 6, UM_MLP_QUICK_GELU, false},
                                     {18, 4, 33, UM_MLP_QUICK_GELU, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const mlp_case *c = &cases[i];
        check k = {.m = {.a = &arena}, .loss = mlp_loss, .ctx = c};
        const size_t n = (size_t)(c->T * c->D);
        um_mlp w = {.act = c->act};
        um_mlp_acts acts;
        um_err err = {0};
        float *x;
        um_mark mark = um_arena_mark(&device);
        input(&k, n, &x);
        layer_add(&k, UM_SLOT_FC1, c->F, c->D, true);
        layer_add(&k, UM_SLOT_FC2, c->D, c->F, true);
        open_list(&k, c->adapters ? 1ull << UM_SLOT_FC1 | 1ull << UM_SLOT_FC2 : 0, 2);
        ok(um_linear_load(&w.fc1, &k.m.ps, made_at(UM_SLOT_FC1), &err), &err);
        ok(um_linear_load(&w.fc2, &k.m.ps, made_at(UM_SLOT_FC2), &err), &err);
        train_list(&k);
        k.c = normal(n);
        float *y = um_arena_f32(&device, 1, n);
        um_mlp_acts_bind(&acts, &device, c->T, c->F, true);
        um_mlp_fwd(&dev, y, &acts, &w, x, x, c->T);
        um_mlp_bwd(&dev, k.gradient[0], &w, &acts, on_device(k.c, n), x, c->T, &scratch);
        compare(&k);
        made_close(&k.m);
        um_arena_reset(&device, mark);
    }
}

/* --- norms --- */

enum { NORM_T = 6, NORM_D = 19 };
static const double norm_eps = 1e-5;

static double norm_loss(const check *k, double *const *in)
{
    const bool rms = find(k, UM_SLOT_NORM1, UM_LEAF_BIAS) < 0;
    const double *w = in[find(k, UM_SLOT_NORM1, UM_LEAF_WEIGHT)],
                 *b = rms ? NULL : in[find(k, UM_SLOT_NORM1, UM_LEAF_BIAS)];
    double *y = doubles(NORM_T * NORM_D);
    for (int t = 0; t < NORM_T; t++) {
        const double *x = in[0] + t * NORM_D;
        double mean = 0, var = 0;
        for (int i = 0; i < NORM_D && !rms; i++) mean += x[i] / NORM_D;
        for (int i = 0; i < NORM_D; i++) var += (x[i] - mean) * (x[i] - mean) / NORM_D;
        for (int i = 0; i < NORM_D; i++)
            y[t * NORM_D + i] = (x[i] - mean) / sqrt(var + norm_eps) * w[i] + (rms ? 0 : b[i]);
    }
    return dot_c(k, y, NORM_T * NORM_D);
}

static void norms_match_differences(void **state)
{
    (void)state;
    for (int rms = 0; rms < 2; rms++) {
        check k = {.m = {.a = &arena}, .loss = norm_loss};
        const size_t n = NORM_T * NORM_D;
        um_norm norm = {0};
        um_rmsnorm rmsnorm = {0};
        um_err err = {0};
        float *x, *y = um_arena_f32(&device, 1, n), *rstd = um_arena_f32(&device, 1, NORM_T);
        input(&k, n, &x);
        made_add(&k.m, UM_SLOT_NORM1, UM_LEAF_WEIGHT, UM_F32, NORM_D, 0, 0);
        if (!rms) made_add(&k.m, UM_SLOT_NORM1, UM_LEAF_BIAS, UM_F32, NORM_D, 0, 0);
        open_list(&k, 0, 0);
        if (rms)
            ok(um_rmsnorm_load(&rmsnorm, &k.m.ps, made_at(UM_SLOT_NORM1), &err), &err);
        else
            ok(um_norm_load(&norm, &k.m.ps, made_at(UM_SLOT_NORM1), &err), &err);
        train_list(&k);
        k.c = normal(n);
        const float *dy = on_device(k.c, n);
        if (rms) {
            um_rmsnorm_fwd(&dev, y, rstd, x, &rmsnorm, NORM_T, NORM_D, (float)norm_eps);
            um_rmsnorm_bwd(&dev, k.gradient[0], dy, x, rstd, &rmsnorm, NORM_T, NORM_D);
        } else {
            um_norm_fwd(&dev, y, x, &norm, NORM_T, NORM_D, (float)norm_eps);
            um_norm_bwd(&dev, k.gradient[0], dy, x, &norm, NORM_T, NORM_D, (float)norm_eps);
        }
        compare(&k);
        made_close(&k.m);
    }
}

/* --- a convolution --- */

enum { CONV_OUT = 7, CONV_C = 5, CONV_TAPS = 3, CONV_T = 6 };

static double conv_loss(const check *k, double *const *in)
{
    const int step = *(const int *)k->ctx;
    const double *w = in[find(k, UM_SLOT_CONV1, UM_LEAF_WEIGHT)],
                 *b = in[find(k, UM_SLOT_CONV1, UM_LEAF_BIAS)];
    double *y = doubles(CONV_T * CONV_OUT);
    for (int t = 0; t < CONV_T; t++)
        for (int n = 0; n < CONV_OUT; n++) {
            double sum = b[n];
            for (int c = 0; c < CONV_C; c++)
                for (int tap = 0; tap < CONV_TAPS; tap++)
                    sum += w[(n * CONV_C + c) * CONV_TAPS + tap] *
                           in[0][(t * step + tap) * CONV_C + c];
            y[t * CONV_OUT + n] = sum;
        }
    return dot_c(k, y, CONV_T * CONV_OUT);
}

/* Windows that overlap by two rows, by one, and not at all; the weight in bf16 has a master in f32. */
static void convolution_matches_differences(void **state)
{
    (void)state;
    for (int step = 1; step <= 3; step++) {
        check k = {.m = {.a = &arena}, .loss = conv_loss, .ctx = &step};
        um_linear l;
        um_err err = {0};
        float *x, *y = um_arena_f32(&device, CONV_T, CONV_OUT);
        input(&k, (size_t)(((CONV_T - 1) * step + CONV_TAPS) * CONV_C), &x);
        made_add(&k.m, UM_SLOT_CONV1, UM_LEAF_WEIGHT, UM_BF16, CONV_OUT, CONV_C, CONV_TAPS);
        made_add(&k.m, UM_SLOT_CONV1, UM_LEAF_BIAS, UM_F32, CONV_OUT, 0, 0);
        open_list(&k, 0, 0);
        ok(um_linear_load_conv(&l, &k.m.ps, made_at(UM_SLOT_CONV1), &err), &err);
        train_list(&k);
        k.c = normal(CONV_T * CONV_OUT);
        um_conv_fwd(&dev, y, x, step * CONV_C, CONV_T, &l);
        um_conv_bwd(&dev, k.gradient[0], &l, on_device(k.c, CONV_T * CONV_OUT), x, step * CONV_C,
                    CONV_T, &scratch);
        compare(&k);
        made_close(&k.m);
    }
}

/* --- experts side by side --- */

enum { EXPERTS = 3, EX_D = 11, EX_F = 18, EX_T = 13 };
static const um_slot ffn_slot[] = {UM_SLOT_GATE_PROJ, UM_SLOT_UP_PROJ, UM_SLOT_DOWN_PROJ};

/* Three experts of a layer (index 0..2), the middle one with adapters. */
static void experts_open(check *k, um_ffn *w)
{
    um_err err = {0};
    for (int e = 0; e < EXPERTS; e++)
        for (int i = 0; i < 3; i++) {
            const bool down = i == 2;
            made_add(&k->m, ffn_slot[i], UM_LEAF_WEIGHT, UM_F32, down ? EX_D : EX_F,
                     down ? EX_F : EX_D, 0);
            um_spec *s = &k->m.spec[k->m.n - 1];
            s->at.index = e;
            s->name = um_arena_fmt(&arena, "e%d.%s", e, s->name);
            k->m.tensor[k->m.n - 1].name = s->name;
        }
    const um_loading how = {.dev = &dev, .host = &arena, .device = &device, .lora = &lora};
    static const char *const names[] = {"e1.s14.lora_A.weight", "e1.s15.lora_A.weight",
                                        "e1.s16.lora_A.weight"};
    const um_adapter_rules rules = {.name = names, .names = 3, .r = 2, .alpha = 1};
    assert_int_equal(UM_SLOT_GATE_PROJ, 14);
    made_open(&k->m, dir, &how);
    ok(um_params_adapt(&k->m.ps, &rules, &err), &err);
    assert_int_equal(k->m.ps.n, 15);
    for (int e = 0; e < EXPERTS; e++)
        ok(um_ffn_load(&w[e], &k->m.ps, UM_PART_BACKBONE, -1, e, &err), &err);
}

/* Input gradients of all experts at once and the weights' gradients later, one expert after another and out of order, are what each expert
 * gives alone; an expert without rows takes no part. */
static void experts_together_match_each_alone(void **state)
{
    (void)state;
    static const um_ffn_group shares[][EXPERTS] = {
        {{.row = 0, .T = 4}, {.row = 4, .T = 6}, {.row = 10, .T = 3}},
        {{.row = 0, .T = 1}, {.row = 1, .T = 12}, {.row = 13, .T = 0}}};
    check k = {.m = {.a = &arena}};
    um_ffn w[EXPERTS];
    const size_t n = EX_T * EX_D;
    experts_open(&k, w);
    train_list(&k);
    for (size_t c = 0; c < 2; c++) {
        um_ffn_group group[EXPERTS];
        um_expert_acts acts, alone;
        memcpy(group, shares[c], sizeof group);
        for (int e = 0; e < EXPERTS; e++) group[e].w = &w[e];
        float *xs = normal(n), *dys = normal(n), *y = um_arena_f32(&device, 1, n),
              *dx = um_arena_f32(&device, 1, n), *want_dx = zeroed(n);
        const float *dy = on_device(dys, n);
        um_params *ps = &k.m.ps;
        float *got = um_arena_f32(&arena, 1, ps->n_grads),
              *want = um_arena_f32(&arena, 1, ps->n_grads), *got_dx = um_arena_f32(&arena, 1, n),
              *wanted_dx = um_arena_f32(&arena, 1, n);
        um_expert_acts_bind(&acts, &device, EX_T, EX_D, EX_F, true);
        um_expert_acts_bind(&alone, &device, EX_T, EX_D, EX_F, true);
        dev.ops->put(&dev, acts.x, xs, n * sizeof *xs);
        const int groups = group[2].T > 0 ? 3 : 2;
        um_params_zero_grads(ps);
        um_ffn_grouped_fwd(&dev, y, &acts, group, groups, EX_T, &arena);
        um_ffn_grouped_bwd(&dev, dx, &acts, group, groups, dy, EX_T, &arena, &scratch);
        for (int e = EXPERTS; e-- > 0;) um_ffn_group_grads(&dev, &acts, &group[e], dy, &scratch);
        dev.ops->get(&dev, got, ps->grads, ps->n_grads * sizeof *got);
        dev.ops->get(&dev, got_dx, dx, n * sizeof *got_dx);
        assert_int_equal(
            um_params_find(ps, (um_place){.slot = UM_SLOT_UP_PROJ, .layer = -1, .index = 2},
                           UM_LEAF_WEIGHT)
                ->touched,
            group[2].T > 0);
        um_params_zero_grads(ps);
        for (int e = 0; e < EXPERTS; e++) {
            const size_t at = (size_t)(group[e].row * EX_D);
            if (group[e].T == 0) continue;
            um_ffn_fwd(&dev, y, &alone.ffn, &w[e], acts.x + at, group[e].T);
            um_ffn_bwd(&dev, want_dx + at, &w[e], dy + at, acts.x + at, &alone.ffn, group[e].T,
                       &scratch);
        }
        dev.ops->get(&dev, want, ps->grads, ps->n_grads * sizeof *want);
        dev.ops->get(&dev, wanted_dx, want_dx, n * sizeof *wanted_dx);
        assert_memory_equal(got, want, ps->n_grads * sizeof *want);
        for (size_t i = 0; i < n; i++) assert_float_equal(got_dx[i], wanted_dx[i], 1e-5f);
    }
    made_close(&k.m);
}

/* --- dropout of LoRA branches --- */

typedef struct dropped {
    made_params m;
    um_linear l;
    const float *x;
    int T, N, K;
} dropped;

static void forward(dropped *p, float *y, int threads)
{
    const size_t n = (size_t)(p->T * p->N);
    float *out = um_arena_f32(&device, 1, n);
    dev.threads = threads;
    um_linear_fwd(&dev, out, on_device(p->x, (size_t)(p->T * p->K)), p->T, &p->l);
    dev.ops->get(&dev, y, out, n * sizeof *y);
    dev.threads = 2;
}

static double dropped_loss(dropped *p, const float *c)
{
    const size_t n = (size_t)(p->T * p->N);
    float *y = um_arena_f32(&arena, 1, n);
    double loss = 0;
    forward(p, y, 2);
    for (size_t i = 0; i < n; i++) loss += (double)c[i] * (double)y[i];
    return loss;
}

/* The loss is linear in x, in A and in B each, what is dropped held fixed: a difference along a direction of any length is the slope. */
static void dropout_is_the_same_forward_and_back(void **state)
{
    (void)state;
    dropped p = {.m = {.a = &arena}, .T = 29, .N = 17, .K = 40};
    const um_loading how = {.dev = &dev, .host = &arena, .device = &device, .lora = &lora};
    const um_adapter_rules rules = {.parts = 1, .slots = 1ull << UM_SLOT_Q, .r = 4, .alpha = 8};
    const size_t in = (size_t)(p.T * p.K), out = (size_t)(p.T * p.N);
    um_err err = {0};
    made_add(&p.m, UM_SLOT_Q, UM_LEAF_WEIGHT, UM_F32, p.N, p.K, 0);
    made_open(&p.m, dir, &how);
    ok(um_params_adapt(&p.m.ps, &rules, &err), &err);
    ok(um_linear_load(&p.l, &p.m.ps, made_at(UM_SLOT_Q), &err), &err);
    train(&p.m.ps, trains_all, NULL);
    um_param *a = &p.m.ps.list[1], *b = &p.m.ps.list[2];
    um_param_write(b, normal((size_t)(p.N * 4)));
    um_params_repack(&p.m.ps);
    float *x = normal(in), *c = normal(out), *y = um_arena_f32(&arena, 1, out),
          *z = um_arena_f32(&arena, 1, out), *dx = zeroed(in);
    p.x = x;
    forward(&p, z, 2);
    lora.dropout = 0.05f;
    lora.seed = um_lora_seed(1, 2, 3);
    forward(&p, y, 1);
    assert_memory_not_equal(y, z, out * sizeof *y);
    for (int threads = 2; threads <= 4; threads++) {
        forward(&p, z, threads);
        assert_memory_equal(y, z, out * sizeof *y);
    }
    lora.seed = um_lora_seed(1, 2, 4);
    forward(&p, z, 2);
    assert_memory_not_equal(y, z, out * sizeof *y);
    um_linear_bwd(&dev, dx, &p.l, on_device(c, out), on_device(x, in), p.T, &scratch);
    const double before = dropped_loss(&p, c);
    for (int which = 0; which < 3; which++) {
        um_param *q = which == 0 ? NULL : which == 1 ? a : b;
        const size_t n = which == 0 ? in : um_spec_values(&q->spec);
        float *direction = normal(n), *grad = um_arena_f32(&arena, 1, n),
              *moved = um_arena_f32(&arena, 1, n);
        double dot = 0;
        dev.ops->get(&dev, grad, which == 0 ? dx : q->grad, n * sizeof *grad);
        if (which > 0) um_param_read(q, moved);
        for (size_t i = 0; i < n; i++) {
            dot += (double)direction[i] * (double)grad[i];
            direction[i] += which == 0 ? x[i] : moved[i];
        }
        if (which == 0) {
            p.x = direction;
        } else {
            um_param_write(q, direction);
            um_params_repack(&p.m.ps);
        }
        assert_float_equal((float)(dropped_loss(&p, c) - before), (float)dot,
                           (float)(1e-4 * (1 + fabs(dot))));
        p.x = x;
        if (which > 0) um_param_write(q, moved);
        um_params_repack(&p.m.ps);
    }
    lora.dropout = 0;
    made_close(&p.m);
}

static int setup(void **state)
{
    rng = um_rng_seed(31, 0);
    return block_setup(state);
}

/* Any argument: on guarded memory. */
int main(int argc, char **argv)
{
    (void)argv;
    guarded = argc > 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_matches_differences),
        cmocka_unit_test(mlp_matches_differences),
        cmocka_unit_test(norms_match_differences),
        cmocka_unit_test(convolution_matches_differences),
        cmocka_unit_test(experts_together_match_each_alone),
        cmocka_unit_test(dropout_is_the_same_forward_and_back),
    };
    return cmocka_run_group_tests(tests, setup, block_teardown);
}
