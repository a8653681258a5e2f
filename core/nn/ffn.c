/* See ffn.h. */
#include "core/nn/ffn.h"

void um_ffn_acts_bind(um_ffn_acts *a, um_arena *arena, int T, int F)
{
    a->gate = um_arena_f32(arena, (size_t)T, (size_t)F);
    a->up = um_arena_f32(arena, (size_t)T, (size_t)F);
    a->act = um_arena_f32(arena, (size_t)T, (size_t)F);
}

um_status um_ffn_load(um_ffn *out, um_params *ps, um_part part, int layer, int index, um_err *err)
{
    um_ffn f = {0};
    UM_TRY(um_linear_load(&f.gate, ps, um_place_of(part, UM_SLOT_GATE_PROJ, layer, index), err));
    UM_TRY(um_linear_load(&f.up, ps, um_place_of(part, UM_SLOT_UP_PROJ, layer, index), err));
    UM_TRY(um_linear_load(&f.down, ps, um_place_of(part, UM_SLOT_DOWN_PROJ, layer, index), err));
    *out = f;
    return UM_OK;
}

void um_ffn_fwd(um_dev *d, float *y, um_ffn_acts *acts, const um_ffn *w, const float *x, int T)
{
    um_linear_fwd(d, acts->gate, x, T, &w->gate);
    um_linear_fwd(d, acts->up, x, T, &w->up);
    d->ops->swiglu_fwd(d, acts->act, acts->gate, acts->up, (size_t)T * (size_t)w->gate.w.N);
    um_linear_fwd(d, y, acts->act, T, &w->down);
}

void um_expert_acts_bind(um_expert_acts *a, um_arena *device, int rows, int D, int F, bool keep)
{
    a->most = keep || rows < UM_EXPERT_ROWS ? rows : UM_EXPERT_ROWS;
    a->x = um_arena_f32(device, (size_t)a->most, (size_t)D);
    um_ffn_acts_bind(&a->ffn, device, a->most, F);
}

enum which { GATE, UP, DOWN };

static const um_linear *layer_of(const um_ffn *w, enum which which)
{
    return which == GATE ? &w->gate : which == UP ? &w->up : &w->down;
}

/* y[rows,N] = x[rows,K] W^T + bias of every group, W the matrix that `matrix` chooses. A LoRA may have left a matrix in another type than
 * its neighbours': there a call ends. */
typedef const um_matrix *(*matrix_fn)(um_dev *d, const um_linear *l);

static const um_matrix *forward(um_dev *d, const um_linear *l)
{
    (void)d;
    return &l->w;
}

static const um_matrix *backward(um_dev *d, const um_linear *l)
{
    return um_weight_transposed(d, l->weight);
}

static void multiply(um_dev *d, float *y, const float *x, const um_ffn_group *group, int groups,
                     enum which which, matrix_fn matrix, um_arena *host)
{
    um_mark mark = um_arena_mark(host);
    um_group *list = um_arena_alloc(host, (size_t)groups * sizeof *list);
    for (int from = 0, n; from < groups; from += n) {
        const um_matrix *first = matrix(d, layer_of(group[from].w, which));
        for (n = 0; from + n < groups; n++) {
            const um_ffn_group *g = &group[from + n];
            const um_linear *l = layer_of(g->w, which);
            const um_matrix *w = matrix(d, l);
            if (w->dtype != first->dtype) break;
            list[n] = (um_group){.w = w, .row = g->row, .T = g->T};
            if (matrix == forward) list[n].bias = l->bias;
        }
        d->ops->gemm_grouped(d, y, first->N, x, first->K, list, n);
    }
    um_arena_reset(host, mark);
}

/* y = one linear layer of every group. */
static void project(um_dev *d, float *y, const float *x, const um_ffn_group *group, int groups,
                    enum which which, um_arena *host)
{
    multiply(d, y, x, group, groups, which, forward, host);
    for (int i = 0; i < groups; i++) {
        const um_linear *l = layer_of(group[i].w, which);
        const size_t row = (size_t)group[i].row;
        um_linear_lora(d, y + row * (size_t)l->w.N, x + row * (size_t)l->w.K, group[i].T, l);
    }
}

void um_ffn_grouped_fwd(um_dev *d, float *y, um_expert_acts *a, const um_ffn_group *group,
                        int groups, int T, um_arena *scratch)
{
    um_ffn_acts *f = &a->ffn;
    if (groups == 0) return;
    UM_CHECK(T <= a->most);
    project(d, f->gate, a->x, group, groups, GATE, scratch);
    project(d, f->up, a->x, group, groups, UP, scratch);
    d->ops->swiglu_fwd(d, f->act, f->gate, f->up, (size_t)T * (size_t)group[0].w->gate.w.N);
    project(d, y, f->act, group, groups, DOWN, scratch);
}

/* dx = (not +=) what goes to the input of one linear layer of every group. */
static void project_bwd(um_dev *d, float *dx, const float *dy, const um_ffn_group *group,
                        int groups, enum which which, um_arena *host, um_arena *device)
{
    multiply(d, dx, dy, group, groups, which, backward, host);
    for (int i = 0; i < groups; i++) {
        const um_linear *l = layer_of(group[i].w, which);
        const size_t row = (size_t)group[i].row;
        um_linear_lora_input_bwd(d, dx + row * (size_t)l->w.K, l, dy + row * (size_t)l->w.N,
                                 group[i].T, device);
    }
}

void um_ffn_grouped_bwd(um_dev *d, float *dx, um_expert_acts *a, const um_ffn_group *group,
                        int groups, const float *dy, int T, um_arena *host, um_arena *device)
{
    if (groups == 0) return;
    UM_CHECK(T <= a->most);
    um_mark mark = um_arena_mark(device);
    um_ffn_acts *f = &a->ffn;
    const um_ffn *w = group[0].w;
    UM_ASSERT(w->gate.weight->device != device);
    const size_t n = (size_t)T * (size_t)w->gate.w.N, in = (size_t)T * (size_t)w->gate.w.K;
    float *dact = um_arena_f32(device, 1, n), *d2 = um_arena_f32(device, 2, n), *dgate = d2,
          *dup = d2 + n, *more = um_arena_f32(device, 1, in);
    /* y = down(act) */
    project_bwd(d, dact, dy, group, groups, DOWN, host, device);
    /* act = silu(gate) * up */
    d->ops->fill(d, d2, 0.0f, 2 * n);
    d->ops->swiglu_bwd(d, dgate, dup, dact, f->gate, f->up, n);
    d->ops->copy(d, f->gate, dgate, n * sizeof *dgate);
    d->ops->copy(d, f->up, dup, n * sizeof *dup);
    /* gate = x Wg^T, up = x Wu^T */
    project_bwd(d, dx, f->gate, group, groups, GATE, host, device);
    project_bwd(d, more, f->up, group, groups, UP, host, device);
    d->ops->add(d, dx, more, in);
    um_arena_reset(device, mark);
}

void um_ffn_group_grads(um_dev *d, const um_expert_acts *a, const um_ffn_group *group,
                        const float *dy, um_arena *device)
{
    const um_ffn *w = group->w;
    const size_t row = (size_t)group->row, D = (size_t)w->gate.w.K, F = (size_t)w->gate.w.N;
    const float *x = a->x + row * D;
    um_linear_bwd(d, NULL, &w->down, dy + row * D, a->ffn.act + row * F, group->T, device);
    um_linear_bwd(d, NULL, &w->gate, a->ffn.gate + row * F, x, group->T, device);
    um_linear_bwd(d, NULL, &w->up, a->ffn.up + row * F, x, group->T, device);
}

void um_ffn_bwd(um_dev *d, float *dx, const um_ffn *w, const float *dy, const float *x,
                const um_ffn_acts *acts, int T, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    const size_t F = (size_t)w->gate.w.N, n = (size_t)T * F;
    float *d3 = um_arena_f32(scratch, 3, n), *dact = d3, *dgate = d3 + n, *dup = d3 + 2 * n;
    d->ops->fill(d, d3, 0.0f, 3 * n);
    /* y = down(act) */
    um_linear_bwd(d, dact, &w->down, dy, acts->act, T, scratch);
    /* act = silu(gate) * up */
    d->ops->swiglu_bwd(d, dgate, dup, dact, acts->gate, acts->up, n);
    /* gate = x Wg^T, up = x Wu^T */
    um_linear_bwd(d, dx, &w->gate, dgate, x, T, scratch);
    um_linear_bwd(d, dx, &w->up, dup, x, T, scratch);
    um_arena_reset(scratch, mark);
}
