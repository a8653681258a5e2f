/* Backward through the layers of a pass that kept its activations: the transpose of um_pass_run, with the same stops.
 *
 *   um_backward_run   last layers' norms, attention ... gradient of the experts' rows, DISPATCH_GRAD ─► returns: rows are under way
 *   um_backward_run   shared experts, COMBINE_GRAD, gate, second norm, attention, first norm, next layer below ... ─► returns
 *   ...               below the first layer: done, dx is the gradient of the embeddings
 *
 * Gradients of trained parameters are added to theirs (core/nn/params.h); what is frozen costs nothing but its share of dx. */
#pragma once

#include "router/backbone/aux_losses.h"

/* What a backward pass needs beside the activations of forward, for one micro-batch. Device memory. */
typedef struct um_backward_acts {
    float *dln2;     /* [T,D] */
    float *dweights; /* [T,K] of the routed experts' weights; dynamic gate: of its slots */
    float *drows;    /* [T*K,D] gradient of the experts' rows, in the order of the plan's pairs */
    float *dinput;   /* [T*K,D] the answers: gradient of the rows that they read */
} um_backward_acts;
void um_backward_acts_bind(um_backward_acts *a, um_arena *device, const um_model *m, int T);

typedef struct um_backward {
    um_pass *pass; /* done, with `keep` */
    um_backward_acts acts;
    /* device [T,D]: of the output (um_pass_rows) to begin with; behind every layer, of its input */
    float *dx;
    const um_aux *aux;        /* or NULL */
    float aux_scale;          /* multiplies auxiliary gradients: target tokens of the micro-batch */
    const um_gate_rows *rows; /* the samples, for the terms that look at them */
    int layer;                /* in work; -1: done */
    bool away;                /* the gradients of this layer are under way */
} um_backward;

/* Begins behind the last layer; all other fields are set. */
void um_backward_begin(um_backward *b);
/* Runs until gradients are under way or all is done (um_backward_done). Group: the router and all expert ranks; thread: main. */
um_status um_backward_run(um_backward *b, um_err *err);
static inline bool um_backward_done(const um_backward *b) { return b->layer < 0; }
