/* See linear.h: loading of linear layers and vectors, forward and backward. */
#include "core/nn/linear.h"

#include "core/base/bytes.h"
#include "core/base/rng.h"

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
    return um_kept_dtype(p->spec.exact ? UM_KEEP_F32 : ps->how.keep,
                         p->stored == NULL ? UM_F32 : p->stored->dtype);
}

/* A weight of these parameters, one above the other. Their matrix is not packed yet. */
static um_weight *weight_new(um_params *ps, um_param *const *part, int parts)
{
    um_weight *w = um_arena_zero(ps->how.host, sizeof *w);
    w->device = ps->how.device;
    w->parts = parts;
    w->part = um_arena_alloc(ps->how.host, (size_t)parts * sizeof(um_param *));
    w->part_bias = um_arena_zero(ps->how.host, (size_t)parts * sizeof(um_param *));
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
    um_param_initial(p, v);
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
    um_param *p = um_params_find(ps, at, UM_LEAF_BIAS);
    if (p == NULL) return UM_OK;
    UM_TRY(um_vector_load(&l->bias, ps, at, UM_LEAF_BIAS, err));
    p->weight = l->weight;
    l->weight->bias = p->vector;
    l->weight->part_bias[0] = p;
    return UM_OK;
}

/* A factor of a branch, packed in f32. */
static um_status load_factor(um_weight **out, um_params *ps, um_place at, um_leaf leaf, um_err *err)
{
    um_param *p;
    um_arena scratch;
    UM_TRY(um_params_want(ps, &p, at, leaf, err));
    if (p->stored != NULL) {
        *out = pack_stored(ps, p);
        return UM_OK;
    }
    um_arena_init(&scratch, "adapter", 1 << 16);
    um_weight *w = weight_new(ps, &p, 1);
    w->w = um_matrix_pack(&ps->how, to_f32(p, &scratch), w->w.N, w->w.K, UM_F32);
    um_arena_free(&scratch);
    *out = w;
    return UM_OK;
}

/* Adds the branch of factors a (and the leaf after it, b) at a place, beside the rows of the layer that begin at row. */
static um_status load_branch(um_linear *l, um_params *ps, um_place at, um_leaf a, int row,
                             um_err *err)
{
    const um_model *m = &ps->ck->model;
    const um_leaf b = a == UM_LEAF_LORA_A ? UM_LEAF_LORA_B : UM_LEAF_ADAPTER_B;
    um_branch *branch = &l->branch[l->branches];
    UM_TRY(load_factor(&branch->a, ps, at, a, err));
    UM_TRY(load_factor(&branch->b, ps, at, b, err));
    const um_param *p = branch->a->part[0];
    branch->scale = p->adapter != NULL ? p->adapter->alpha / (float)p->adapter->r
                                       : m->lora_alpha / (float)m->lora_r;
    branch->row = row;
    branch->stream = um_name_stream(p->spec.name);
    UM_ASSERT(ps->how.lora != NULL && ps->how.lora->scratch != NULL);
    l->lora = ps->how.lora;
    l->branches++;
    return UM_OK;
}

/* The matrix alone, or with its LoRA merged into it. */
static um_status load_matrix(um_linear *l, um_params *ps, um_place at, um_err *err)
{
    const um_model *m = &ps->ck->model;
    um_param *w, *a, *b;
    UM_TRY(um_params_want(ps, &w, at, UM_LEAF_WEIGHT, err));
    if (um_params_has(ps, at, UM_LEAF_LORA_A) || um_params_has(ps, at, UM_LEAF_LORA_B)) {
        UM_TRY(um_params_want(ps, &a, at, UM_LEAF_LORA_A, err));
        UM_TRY(um_params_want(ps, &b, at, UM_LEAF_LORA_B, err));
        if (um_params_lora_merges(ps, at)) {
            l->weight = pack_merged(ps, w, a, b, m->lora_alpha / (float)m->lora_r);
            return UM_OK;
        }
    }
    l->weight = pack_stored(ps, w);
    return UM_OK;
}

um_status um_linear_load(um_linear *out, um_params *ps, um_place at, um_err *err)
{
    um_linear l = {0};
    const bool adapter = um_params_has(ps, at, UM_LEAF_ADAPTER_A),
               lora = um_params_has(ps, at, UM_LEAF_LORA_A) && !um_params_lora_merges(ps, at);
    UM_TRY(load_matrix(&l, ps, at, err));
    if (adapter || lora) {
        l.branch = um_arena_zero(ps->how.host, sizeof *l.branch);
        UM_TRY(load_branch(&l, ps, at, adapter ? UM_LEAF_ADAPTER_A : UM_LEAF_LORA_A, 0, err));
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

/* The adapters beside parts of a stack. */
static um_status stack_branches(um_linear *l, um_params *ps, const um_place *at, int n, um_err *err)
{
    l->branch = um_arena_zero(ps->how.host, (size_t)n * sizeof *l->branch);
    for (int i = 0; i < n; i++)
        if (um_params_has(ps, at[i], UM_LEAF_ADAPTER_A))
            UM_TRY(load_branch(l, ps, at[i], UM_LEAF_ADAPTER_A, l->weight->part[i]->row, err));
    return UM_OK;
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
        l->part_bias[i] = s.bias[i];
        s.bias[i]->weight = l;
        s.bias[i]->row = s.weight[i]->row;
        s.bias[i]->vector = l->bias + s.weight[i]->row;
    }
    um_linear all = {.w = l->w, .bias = l->bias, .weight = l};
    UM_TRY(stack_branches(&all, ps, at, n, err));
    *out = all;
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
    p->conv = true;
    um_param_permute(p, w, from);
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

/* --- forward --- */

/* Whether a branch drops inputs: where it is trained. */
static bool drops(const um_linear *l, const um_branch *b)
{
    return l->lora->dropout > 0.0f && (b->a->part[0]->trained || b->b->part[0]->trained);
}

static uint64_t drop_seed(const um_linear *l, const um_branch *b)
{
    um_rng rng = um_rng_seed(l->lora->seed, b->stream);
    return um_rng_u64(&rng);
}

/* drop(x): x itself where nothing is dropped. Under the same seed the same values are dropped. */
static const float *dropped(um_dev *d, const um_linear *l, const um_branch *b, const float *x,
                            int T, um_arena *scratch)
{
    const size_t n = (size_t)T * (size_t)b->a->w.K;
    if (!drops(l, b)) return x;
    float *y = um_arena_f32(scratch, 1, n);
    d->ops->dropout(d, y, x, n, l->lora->dropout, drop_seed(l, b));
    return y;
}

/* scale x A^T, of x as it is after dropping: [T,r] */
static float *low_of(um_dev *d, const um_branch *b, const float *x, int T, um_arena *scratch)
{
    const um_matrix *a = &b->a->w;
    float *low = um_arena_f32(scratch, (size_t)T, (size_t)a->N);
    d->ops->gemm(d, low, a->N, x, a->K, T, a, NULL, false);
    d->ops->scale(d, low, b->scale, (size_t)T * (size_t)a->N);
    return low;
}

void um_linear_lora(um_dev *d, float *y, const float *x, int T, const um_linear *l)
{
    for (int i = 0; i < l->branches; i++) {
        const um_branch *b = &l->branch[i];
        um_arena *scratch = l->lora->scratch;
        um_mark mark = um_arena_mark(scratch);
        const float *in = dropped(d, l, b, x, T, scratch);
        const float *low = low_of(d, b, in, T, scratch);
        d->ops->gemm(d, y + b->row, l->w.N, low, b->b->w.K, T, &b->b->w, NULL, true);
        um_arena_reset(scratch, mark);
    }
}

/* --- backward --- */

static bool is_trained(const um_weight *w, bool bias)
{
    for (int i = 0; i < w->parts; i++) {
        const um_param *p = bias ? w->part_bias[i] : w->part[i];
        if (p != NULL && p->trained) return true;
    }
    return false;
}

/* dw[N,K] += dyt[N,T] x[T,K], x packed as xt [K,T]. */
static void matrix_grads(um_dev *d, um_weight *w, const float *dy, const float *x, int ldx, int T,
                         um_arena *scratch)
{
    const int N = w->w.N, K = w->w.K;
    um_matrix xt = {.dtype = UM_F32, .N = K, .K = T};
    xt.data = um_arena_alloc(scratch, um_matrix_bytes(UM_F32, K, T));
    d->ops->pack_device(d, &xt, x, ldx, true);
    for (int i = 0; i < w->parts; i++) {
        um_param *p = w->part[i];
        float *grad = um_param_grad(p);
        if (grad == NULL) continue;
        d->ops->gemm_tn(d, grad, K, dy + p->row, N, rows_of(p), &xt, true);
    }
}

/* db += the rows of dy. In a stack the sum of all biases continues from what the trained ones have. */
static void bias_grads(um_dev *d, um_weight *w, const float *dy, int T, um_arena *scratch)
{
    const int N = w->w.N;
    if (w->parts == 1) {
        d->ops->sum_rows(d, um_param_grad(w->part_bias[0]), dy, T, N);
        return;
    }
    float *sum = um_arena_f32(scratch, 1, (size_t)N);
    d->ops->fill(d, sum, 0.0f, (size_t)N);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < w->parts; i++) {
            um_param *p = w->part_bias[i];
            float *grad = um_param_grad(p);
            if (grad == NULL) continue;
            const size_t bytes = um_spec_values(&p->spec) * sizeof *grad;
            if (pass == 0)
                d->ops->copy(d, sum + p->row, grad, bytes);
            else
                d->ops->copy(d, grad, sum + p->row, bytes);
        }
        if (pass == 0) d->ops->sum_rows(d, sum, dy, T, N);
    }
}

void um_weight_grad(um_dev *d, um_weight *w, const float *dy, const float *x, int ldx, int T,
                    um_arena *scratch)
{
    if (T == 0) return;
    um_mark mark = um_arena_mark(scratch);
    UM_ASSERT(w->device != scratch);
    if (is_trained(w, false)) matrix_grads(d, w, dy, x, ldx, T, scratch);
    if (is_trained(w, true)) bias_grads(d, w, dy, T, scratch);
    um_arena_reset(scratch, mark);
}

/* A gemm whose outputs are the columns of W. */
void um_weight_input_grad(um_dev *d, float *dx, int ldx, um_weight *w, const float *dy, int T)
{
    d->ops->gemm(d, dx, ldx, dy, w->w.N, T, um_weight_transposed(d, w), NULL, true);
}

/* Forward was in = drop(x), low = scale in A^T, y += low B^T, so
 *   dB += dy^T low,   dlow = scale dy B,   dA += dlow^T in,   dx += drop(dlow A).
 * dx NULL: the parameters alone; x NULL: the input alone. */
static void branch_bwd(um_dev *d, float *dx, const um_linear *l, const um_branch *b,
                       const float *dy, const float *x, int T, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    const um_matrix *A = &b->a->w, *B = &b->b->w;
    const size_t rows = (size_t)T, n = rows * (size_t)A->N;
    const bool to_b = x != NULL && is_trained(b->b, false),
               to_a = x != NULL && is_trained(b->a, false);
    const float *in = to_a || to_b ? dropped(d, l, b, x, T, scratch) : NULL;
    const float *part = dy;
    if (B->N != l->w.N) {
        float *own = um_arena_f32(scratch, rows, (size_t)B->N);
        d->ops->copy_2d(d, own, B->N, dy + b->row, l->w.N, T, B->N);
        part = own;
    }
    if (to_b) {
        const float *low = low_of(d, b, in, T, scratch);
        um_weight_grad(d, b->b, part, low, B->K, T, scratch);
    }
    float *dlow = um_arena_f32(scratch, 1, n);
    d->ops->fill(d, dlow, 0.0f, n);
    um_weight_input_grad(d, dlow, B->K, b->b, part, T);
    d->ops->scale(d, dlow, b->scale, n);
    if (to_a) um_weight_grad(d, b->a, dlow, in, A->K, T, scratch);
    if (dx != NULL && !drops(l, b)) um_weight_input_grad(d, dx, A->K, b->a, dlow, T);
    if (dx != NULL && drops(l, b)) {
        const size_t all = rows * (size_t)A->K;
        float *din = um_arena_f32(scratch, 1, all);
        d->ops->gemm(d, din, A->K, dlow, A->N, T, um_weight_transposed(d, b->a), NULL, false);
        d->ops->dropout(d, din, din, all, l->lora->dropout, drop_seed(l, b));
        d->ops->add(d, dx, din, all);
    }
    um_arena_reset(scratch, mark);
}

void um_linear_bwd(um_dev *d, float *dx, const um_linear *l, const float *dy, const float *x, int T,
                   um_arena *scratch)
{
    um_weight *w = l->weight;
    if (T == 0) return;
    UM_ASSERT(w != NULL && w->device != scratch);
    if (dx != NULL) um_weight_input_grad(d, dx, w->w.K, w, dy, T);
    um_weight_grad(d, w, dy, x, w->w.K, T, scratch);
    for (int i = 0; i < l->branches; i++) branch_bwd(d, dx, l, &l->branch[i], dy, x, T, scratch);
}

void um_linear_lora_input_bwd(um_dev *d, float *dx, const um_linear *l, const float *dy, int T,
                              um_arena *scratch)
{
    for (int i = 0; i < l->branches && T > 0; i++)
        branch_bwd(d, dx, l, &l->branch[i], dy, NULL, T, scratch);
}

void um_conv_bwd(um_dev *d, float *dx, const um_linear *l, const float *dy, const float *x,
                 int step, int T, um_arena *scratch)
{
    um_weight *w = l->weight;
    um_mark mark = um_arena_mark(scratch);
    if (T == 0) return;
    um_weight_grad(d, w, dy, x, step, T, scratch);
    if (dx != NULL) {
        const size_t n = (size_t)T * (size_t)w->w.K;
        float *cols = um_arena_f32(scratch, 1, n);
        d->ops->fill(d, cols, 0.0f, n);
        um_weight_input_grad(d, cols, w->w.K, w, dy, T);
        d->ops->windows_add(d, dx, cols, T, w->w.K, step);
    }
    um_arena_reset(scratch, mark);
}
