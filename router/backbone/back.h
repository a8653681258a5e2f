/* Backward through the layers of a pass that kept its activations: the transpose of um_pass_run, with the same stops.
 *
 *   um_back_run   last layers' norms, attention ... gradient of the experts' rows, DISPATCH_GRAD ─► returns: rows are under way
 *   um_back_run   shared experts, COMBINE_GRAD, gate, second norm, attention, first norm, next layer below ... ─► returns
 *   ...           below the first layer: done, dx is the gradient of the embeddings
 *
 * Gradients of trained parameters are added to theirs (core/nn/params.h); what is frozen costs nothing but its share of dx. */
#pragma once

#include "core/nn/gate_loss.h"
#include "router/backbone/backbone.h"

/* The terms that the gates of the MoE layers add to the loss (spec 4.5). A coefficient of 0 leaves a term out. */
typedef struct um_aux {
    float balance, multimodal, kl, z;
    const uint8_t *meant
        [UM_FMS]; /* host [E] 1: the expert is one of those meant for rows of this kind; NULL: none is */
} um_aux;

typedef enum um_aux_term {
    UM_AUX_BALANCE,
    UM_AUX_MULTIMODAL,
    UM_AUX_KL,
    UM_AUX_Z,
    UM_AUX_TERMS
} um_aux_term;

/* What a backward pass needs beside the activations of forward, for one micro-batch. Device memory. */
typedef struct um_back_acts {
    float *dln2;     /* [T,D] */
    float *dweights; /* [T,K] of the routed experts' weights; dynamic gate: of its slots */
    float *drows;    /* [T*K,D] gradient of the experts' rows, in the order of the plan's pairs */
    float *dinput;   /* [T*K,D] the answers: gradient of the rows that they read */
} um_back_acts;
void um_back_acts_bind(um_back_acts *a, um_arena *device, const um_model *m, int T);

/* Bytes of one micro-batch of training of T rows: what um_acts_bind_layers and um_back_acts_bind take, embeddings, their gradient and
 * pages. For plans of memory. */
size_t um_back_bytes(const um_model *m, int expert_ranks, int T, um_recompute again);

typedef struct um_back {
    um_pass *pass; /* done, with `keep` */
    um_back_acts acts;
    float *dx; /* device [T,D]: of the output to begin with; behind every layer, of its input */
    const um_aux *aux;        /* or NULL */
    float aux_scale;          /* multiplies auxiliary gradients: target tokens of the micro-batch */
    const um_gate_rows *rows; /* the samples, for the terms that look at them */
    int layer;                /* in work; -1: done */
    bool away;                /* the gradients of this layer are under way */
} um_back;

/* Begins behind the last layer; all other fields are set. */
void um_back_begin(um_back *b);
/* Runs until gradients are under way or all is done (um_back_done). Group: the router and all expert ranks; thread: main. */
um_status um_back_run(um_back *b, um_err *err);
static inline bool um_back_done(const um_back *b) { return b->layer < 0; }

/* dlogits[T,E] += scale * coefficient * gradient of every term of one layer. */
void um_aux_back(const um_pass *p, const um_acts *a, float *dlogits, const um_aux *aux, float scale,
                 const um_gate_rows *rows);
/* The auxiliary terms of a pass that is done, without coefficients: value[term][i] of the i-th MoE layer (host,
 * [UM_AUX_TERMS][moe_layers]). Terms whose coefficient is 0 are computed only when `all`; else they are 0. */
void um_aux_values(const um_pass *p, const um_aux *aux, const um_gate_rows *rows, bool all,
                   double *value);
