/* Backward ops against what float64 autograd of PyTorch gave (tests/ref/make_ops.py), on every instruction set. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/nn/safetensors.h"
#include "core/tensor/ops.h"

#include <math.h>
#include <string.h>

static um_tensors *golden;
static um_arena arena;

static const um_tensor *find(const char *op, const char *name)
{
    const char *whole = um_arena_fmt(&arena, "%s.%s", op, name);
    const um_tensor *t = um_tensors_find(golden, whole);
    if (t == NULL) fail_msg("%s is missing", whole);
    return t;
}

static float *floats(const char *op, const char *name)
{
    const um_tensor *t = find(op, name);
    float *x = um_arena_f32(&arena, 1, um_tensor_values(t));
    um_tensor_to_f32(x, t);
    return x;
}

static const int32_t *ints(const char *op, const char *name)
{
    const um_tensor *t = find(op, name);
    int32_t *x = um_arena_i32(&arena, um_tensor_values(t));
    memcpy(x, t->data, t->bytes);
    return x;
}

static int size(const char *op, const char *name, int dim)
{
    return (int)find(op, name)->shape[dim];
}

/* A gradient to be, zeros of the size of an input. */
static float *zeros(const char *op, const char *name)
{
    return um_arena_zero(&arena, um_tensor_values(find(op, name)) * sizeof(float));
}

static void same(const char *op, const char *name, const float *got)
{
    const float *want = floats(op, name);
    const size_t n = um_tensor_values(find(op, name));
    double largest = 0;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)want[i]));
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= 2e-6 * largest))
            fail_msg("%s.%s[%zu] is %.9g, autograd gave %.9g (largest %g)", op, name, i,
                     (double)got[i], (double)want[i], largest);
}

/* --- attention: one span --- */

static void attention(um_dev *d, const char *op, bool causal)
{
    const bool biased = strcmp(op, "biased") == 0;
    const int T = size(op, "in.q", 0), H = size(op, "in.q", 1), D = size(op, "in.q", 2),
              n = size(op, "in.k", 0), KH = size(op, "in.k", 1),
              pages = (n + UM_PAGE - 1) / UM_PAGE;
    const um_span span = {0, T, causal ? n - T : 0, n, 0}, all = {0, n, 0, n, 0};
    const float *q = floats(op, "in.q"), *k = floats(op, "in.k"), *v = floats(op, "in.v"),
                *dy = floats(op, "dy");
    float *out = zeros(op, "in.q"), *lse = um_arena_f32(&arena, (size_t)T, (size_t)H);
    float *dq = zeros(op, "in.q"), *dk = zeros(op, "in.k"), *dv = zeros(op, "in.v");
    int32_t *table = um_arena_i32(&arena, (size_t)pages);
    const int32_t key_row = 0;
    for (int i = 0; i < pages; i++) table[i] = i;
    um_kv kv = {KH, D, NULL, um_kv_page_floats(KH, D), table};
    const float scale = 1.0f / sqrtf((float)D);
    kv.pages = um_arena_f32(&arena, (size_t)pages, kv.stride);
    d->ops->kv_write(d, &kv, &all, 1, k, KH * D, v, KH * D);
    if (biased) {
        float *dtable = zeros(op, "in.table"), *dgate = zeros(op, "in.gate");
        const float *bias = floats(op, "in.table"), *gate = floats(op, "in.gate");
        const int ld = size(op, "in.table", 1);
        d->ops->attention_biased(d, out, H * D, lse, q, H * D, &kv, &span, 1, H, scale, bias, ld,
                                 gate);
        d->ops->attention_biased_bwd(d, dq, dk, dv, dy, out, H * D, lse, q, H * D, k, v, KH * D,
                                     &span, &key_row, 1, H, KH, D, scale, dtable, bias, ld, dgate,
                                     gate);
        same(op, "grad.table", dtable);
        same(op, "grad.gate", dgate);
    } else {
        d->ops->attention(d, out, H * D, lse, q, H * D, &kv, &span, 1, H, scale, causal);
        d->ops->attention_bwd(d, dq, dk, dv, dy, out, H * D, lse, q, H * D, k, v, KH * D, &span,
                              &key_row, 1, H, KH, D, scale, causal);
    }
    same(op, "out", out);
    same(op, "grad.q", dq);
    same(op, "grad.k", dk);
    same(op, "grad.v", dv);
}

/* --- rows --- */

static void norms(um_dev *d)
{
    const int T = size("rmsnorm", "in.x", 0), D = size("rmsnorm", "in.x", 1);
    float *dx = zeros("rmsnorm", "in.x"), *dw = zeros("rmsnorm", "in.w"),
          *y = zeros("rmsnorm", "in.x"), *rstd = um_arena_f32(&arena, 1, (size_t)T);
    const float *x = floats("rmsnorm", "in.x"), *w = floats("rmsnorm", "in.w");
    d->ops->rmsnorm_fwd(d, y, rstd, x, w, T, D, 1e-5f);
    d->ops->rmsnorm_bwd(d, dx, dw, floats("rmsnorm", "dy"), x, w, rstd, T, D);
    same("rmsnorm", "out", y);
    same("rmsnorm", "grad.x", dx);
    same("rmsnorm", "grad.w", dw);
    float *db = zeros("layernorm", "in.b");
    dx = zeros("layernorm", "in.x"), dw = zeros("layernorm", "in.w");
    d->ops->layernorm_bwd(d, dx, dw, db, floats("layernorm", "dy"), floats("layernorm", "in.x"),
                          floats("layernorm", "in.w"), T, D, 1e-5f);
    same("layernorm", "grad.x", dx);
    same("layernorm", "grad.w", dw);
    same("layernorm", "grad.b", db);
}

static void activations(um_dev *d)
{
    const int T = size("softmax", "in.x", 0), D = size("softmax", "in.x", 1);
    const size_t n = um_tensor_values(find("gelu", "in.input"));
    float *dx = zeros("gelu", "in.input");
    d->ops->gelu_bwd(d, dx, floats("gelu", "dy"), floats("gelu", "in.input"), n);
    same("gelu", "grad.input", dx);
    dx = zeros("quick_gelu", "in.x");
    d->ops->quick_gelu_bwd(d, dx, floats("quick_gelu", "dy"), floats("quick_gelu", "in.x"), n);
    same("quick_gelu", "grad.x", dx);
    float *du = zeros("swiglu", "in.u");
    dx = zeros("swiglu", "in.g");
    d->ops->swiglu_bwd(d, dx, du, floats("swiglu", "dy"), floats("swiglu", "in.g"),
                       floats("swiglu", "in.u"), n);
    same("swiglu", "grad.g", dx);
    same("swiglu", "grad.u", du);
    float *p = floats("softmax", "in.x");
    dx = zeros("softmax", "in.x");
    d->ops->softmax(d, p, p, T, D);
    d->ops->softmax_bwd(d, dx, floats("softmax", "dy"), D, p, T, D);
    same("softmax", "out", p);
    same("softmax", "grad.x", dx);
}

static void turns_and_losses(um_dev *d)
{
    int T = size("rope", "in.x", 0);
    const int heads = size("rope", "in.x", 1), D = size("rope", "in.x", 2);
    int32_t *pos = um_arena_i32(&arena, (size_t)T);
    for (int t = 0; t < T; t++) pos[t] = t;
    float *dx = floats("rope", "dy");
    d->ops->rope_bwd(d, dx, heads * D, floats("rope", "in.cs"), pos, T, heads, D);
    same("rope", "grad.x", dx);

    const char *op = "cross_entropy";
    T = size(op, "in.x", 0);
    float *loss = zeros(op, "dy");
    dx = zeros(op, "in.x");
    d->ops->cross_entropy(d, loss, dx, floats(op, "in.x"), ints(op, "in.target"), T,
                          size(op, "in.x", 1), floats(op, "dy")[0]);
    same(op, "out", loss);
    same(op, "grad.x", dx);

    op = "bias_gate";
    float *da = zeros(op, "in.a");
    dx = zeros(op, "in.x");
    d->ops->bias_gate_bwd(d, dx, da, floats(op, "dy"), floats(op, "in.x"), floats(op, "in.a"),
                          size(op, "in.x", 0), size(op, "in.x", 1));
    same(op, "grad.x", dx);
    same(op, "grad.a", da);
}

static void moves(um_dev *d)
{
    const char *op = "combine";
    float *drows = zeros(op, "in.rows"), *dweight = zeros(op, "in.weight");
    d->ops->combine_bwd(d, drows, dweight, floats(op, "dy"), floats(op, "in.rows"),
                        ints(op, "in.index"), floats(op, "in.weight"), size(op, "in.index", 0),
                        size(op, "in.index", 1), size(op, "in.rows", 1));
    same(op, "grad.rows", drows);
    same(op, "grad.weight", dweight);
    op = "gather";
    float *dx = zeros(op, "in.x");
    d->ops->scatter_add(d, dx, floats(op, "dy"), ints(op, "in.index"), size(op, "in.index", 0),
                        size(op, "in.x", 1));
    same(op, "grad.x", dx);
    op = "windows";
    dx = zeros(op, "in.x");
    d->ops->windows_add(d, dx, floats(op, "dy"), size(op, "dy", 0), size(op, "dy", 1), 4);
    same(op, "grad.x", dx);
}

/* dx = dy W, dW = dy^T x */
static void linear(um_dev *d)
{
    const int T = size("linear", "in.x", 0), K = size("linear", "in.x", 1),
              N = size("linear", "in.w", 0);
    const float *x = floats("linear", "in.x"), *dy = floats("linear", "dy");
    float *dx = zeros("linear", "in.x"), *dw = zeros("linear", "in.w"),
          *dyt = zeros("linear", "dy");
    um_matrix wt = {UM_F32, K, N, um_arena_alloc(&arena, um_matrix_bytes(UM_F32, K, N))},
              xt = {UM_F32, K, T, um_arena_alloc(&arena, um_matrix_bytes(UM_F32, K, T))};
    d->ops->pack(d, &wt, floats("linear", "in.w"), UM_F32, K, true);
    d->ops->pack_device(d, &xt, x, K, true);
    d->ops->transpose(d, dyt, dy, T, N);
    d->ops->gemm(d, dx, K, dy, N, T, &wt, NULL, true);
    d->ops->gemm(d, dw, K, dyt, T, N, &xt, NULL, true);
    same("linear", "grad.x", dx);
    same("linear", "grad.w", dw);
}

static void adamw(um_dev *d)
{
    const size_t n = um_tensor_values(find("adamw", "in.p"));
    const int steps = size("adamw", "in.g", 0);
    float *p = floats("adamw", "in.p"), *g = floats("adamw", "in.g"), *m = zeros("adamw", "in.p"),
          *v = zeros("adamw", "in.p");
    for (int s = 0; s < steps; s++) {
        const um_adamw how = {
            3e-3, 0.9, 0.999, 1e-8, 0.1, 1.0, 1 - pow(0.9, s + 1), 1 - pow(0.999, s + 1)};
        d->ops->adamw(d, p, g + (size_t)s * n, m, v, n, &how);
    }
    same("adamw", "out.p", p);
    same("adamw", "out.m", m);
    same("adamw", "out.v", v);
}

static void autograd(void **state)
{
    (void)state;
    um_err err;
    um_arena_init(&arena, "golden", 1 << 20);
    if (um_tensors_open(&golden, UM_TEST_DATA "/golden/ops/backward.safetensors", &err) != UM_OK)
        fail_msg("%s", err.msg);
    for (um_isa isa = UM_ISA_GENERIC; isa <= UM_ISA_AVX512; isa++) {
        um_dev d;
        if (um_dev_open_cpu(&d, isa, 2, &err) != UM_OK) continue;
        attention(&d, "causal", true);
        attention(&d, "cross", false);
        attention(&d, "biased", false);
        norms(&d);
        activations(&d);
        turns_and_losses(&d);
        moves(&d);
        linear(&d);
        adamw(&d);
    }
    um_tensors_close(golden);
    um_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(autograd)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
