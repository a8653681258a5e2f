/* The SwiGLU feed-forward block: down(silu(gate(x)) * up(x)). One expert, or the MLP of a dense layer (spec 4.1, 4.3).
 * Shazeer 2020, arXiv 2002.05202; LlamaMLP. */
#pragma once

#include "core/nn/linear.h"

typedef struct um_ffn {
    um_linear gate, up; /* [F,D] */
    um_linear down;     /* [D,F] */
} um_ffn;

/* The activations that backward needs. Training binds one per layer; inference binds one for all layers. */
typedef struct um_ffn_acts {
    float *gate, *up, *act; /* [T,F] */
} um_ffn_acts;

void um_ffn_acts_bind(um_ffn_acts *a, um_arena *arena, int T, int F);

/* The block of a layer in a part: expert `index` (UM_PART_EXPERT), shared expert `index` or, with -1, the dense MLP (UM_PART_BACKBONE).
 * Its LoRA is merged or stays live, see um_linear_load. */
um_status um_ffn_load(um_ffn *out, um_params *ps, um_part part, int layer, int index, um_err *err);

/* y[T,D] = down(silu(gate x) * up x), x[T,D]. Writes acts. */
void um_ffn_fwd(um_dev *d, float *y, um_ffn_acts *acts, const um_ffn *w, const float *x, int T);

/* Rows of several blocks of one shape, as an expert rank computes them: rows row .. row+T-1 go through w. */
typedef struct um_ffn_group {
    const um_ffn *w;
    int row, T;
} um_ffn_group;

/* What backward needs of them beside the groups. */
typedef struct um_expert_acts {
    int most;        /* rows that fit */
    float *x;        /* [most, D] each row as its expert reads it */
    um_ffn_acts ffn; /* [most, F] */
} um_expert_acts;
enum { UM_EXPERT_ROWS = 1024 }; /* rows at a time, unless they are kept */
/* Room for `rows` rows at once when they are kept, else for UM_EXPERT_ROWS of them at most. */
void um_expert_acts_bind(um_expert_acts *a, um_arena *device, int rows, int D, int F, bool keep);

/* y[T,D]: every group of a->x [T,D] through its block, with the bits of um_ffn_fwd for each. The groups cover rows 0..T-1.
 * scratch: host. */
void um_ffn_grouped_fwd(um_dev *d, float *y, um_expert_acts *a, const um_ffn_group *group,
                        int groups, int T, um_arena *scratch);

/* Backward of um_ffn_grouped_fwd for the inputs: dx[T,D] = (not +=) the gradients of a->x's rows from those of y, dy[T,D]. Afterwards
 * a->ffn.gate and a->ffn.up have their own gradients in place of their values, which um_ffn_group_grads reads. Rows of a group have the
 * bits that they have alone. host, device: scratch, not the weights' arenas. */
void um_ffn_grouped_bwd(um_dev *d, float *dx, um_expert_acts *a, const um_ffn_group *group,
                        int groups, const float *dy, int T, um_arena *host, um_arena *device);
/* Adds the gradients of what is trained in one group's block, after um_ffn_grouped_bwd and as late as the caller likes: += the sums over
 * the group's rows, in order. dy [T,D] as there: rows of all groups. A group without rows takes no part. */
void um_ffn_group_grads(um_dev *d, const um_expert_acts *a, const um_ffn_group *group,
                        const float *dy, um_arena *device);

/* dx[T,D] += ..., and the gradients of what is trained += ..., from dy[T,D], the x of forward and its acts. */
void um_ffn_bwd(um_dev *d, float *dx, const um_ffn *w, const float *dy, const float *x,
                const um_ffn_acts *acts, int T, um_arena *scratch);
