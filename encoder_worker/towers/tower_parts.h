/* What the towers and their connectors share: loading of norms and of layers of a part, steps with a norm, projectors.
 *
 * A tower writes its activations into a struct that the caller binds (um_vision_acts and its like). With keep every layer has buffers
 * of its own, and no buffer is written after something that backward reads was put there; without it all layers share one set. The
 * structs themselves and what goes to the device lie in a host arena, the buffers in one of the device's memory; bound to a measuring
 * arena they give the bytes that a tower takes. */
#pragma once

#include "core/nn/attention.h"
#include "core/nn/mlp.h"
#include "core/nn/norm.h"

/* Points on the way from a medium to its rows. What lies between two of them is computed, kept and trained as a whole: forward may begin
 * at any of them with values that were computed before, and backward goes down to where it began. */
typedef enum um_tower_point {
    UM_AT_INPUT, /* what the front end makes of one image or window: patches or frames, host memory */
    UM_AT_TOWER,     /* the rows of the tower */
    UM_AT_CONNECTOR, /* the rows of the aligner, which the projector reads; of an image the tower's */
    UM_AT_ROWS       /* rows of the language model's width */
} um_tower_point;

/* A layer of a part whose tensors are loaded; layer is -1 for what belongs to no layer. */
typedef struct um_tower_layer {
    um_params *ps;
    um_part part;
    int layer;
} um_tower_layer;

um_status um_tower_load_linear(const um_tower_layer *l, um_linear *out, um_slot slot, um_err *err);
/* Several layers with the same input as one, the first slot's outputs first. */
um_status um_tower_load_stacked(const um_tower_layer *l, um_linear *out, const um_slot *slot, int n,
                                um_err *err);
um_status um_tower_load_norm(const um_tower_layer *l, um_norm *out, um_slot slot, um_err *err);

/* Loads the layers that project the rows of a part to the language model's width into *out (in the host arena): one, or the layers of an
 * MLP with GELU between them (spec 3.1). */
um_status um_tower_load_projector(um_linear **out, um_params *ps, um_part part, int layers,
                                  um_err *err);

/* A step with the norm behind it: sum = in + f(in), out = norm(sum). */
typedef struct um_postnorm_acts {
    float *in, *sum, *out; /* [T,D] */
} um_postnorm_acts;

/* Two buffers [T,D] that the steps of a stack use in turn unless their activations are kept. */
typedef struct um_postnorm_chain {
    um_arena *arena;
    size_t T, D;
    bool keep;
    float *in, *spare; /* what the next step reads; the buffer that it may write */
} um_postnorm_chain;

/* The first step will read `in`. */
um_postnorm_chain um_postnorm_begin(um_arena *arena, float *in, int T, int D, bool keep);
/* The next step reads what this one writes. */
um_postnorm_acts um_postnorm_next(um_postnorm_chain *c);
/* Backward of the norm of a step: from d [T,D], the gradient of s->out, that of s->sum. Returns it in scratch, for f, and has it in d too,
 * for what goes past f to s->in. The norm's own gradients += ... */
const float *um_postnorm_bwd(um_dev *dev, float *d, const um_postnorm_acts *s, const um_norm *norm,
                             int T, int D, float eps, um_arena *scratch);

/* Between two layers of a projector: what the first computes, and GELU of it. */
typedef struct um_projector_acts {
    float *inner, *act; /* [n,N]; one buffer unless they are kept */
} um_projector_acts;

/* *a becomes a list of layers-1, in host. n rows of width N. */
void um_projector_acts_bind(um_projector_acts **a, um_arena *host, um_arena *device, int layers,
                            int n, int N, bool keep);
/* rows[n,N] = linear, or linear GELU linear ..., of x[n,K]. Writes a. */
void um_tower_project(um_dev *d, float *rows, um_projector_acts *a, const um_linear *projector,
                      int layers, const float *x, int n);

/* Its backward: the gradients of what is trained += ..., and dx[n,K] += ..., from drows [n,N]. dx may be NULL. a was bound to be kept. */
void um_tower_project_bwd(um_dev *d, float *dx, const um_projector_acts *a,
                          const um_linear *projector, int layers, const float *drows,
                          const float *x, int n, um_arena *scratch);

/* The gradient of a vector or table of a part, where it is trained and takes part now; else NULL. */
float *um_tower_grad(um_params *ps, um_part part, um_slot slot, int layer, um_leaf leaf);
/* n floats of device memory, zero. */
float *um_tower_zeros(um_dev *d, um_arena *device, size_t n);

/* UM_E_DATA names the first of n values that is not a number: "sample 77 is not finite". */
um_status um_tower_check_finite(const float *host, int64_t n, const char *what, um_err *err);
