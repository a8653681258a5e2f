/* The gate with a varying number of experts for each token (dynamic capacity, spec 10.1), for inference and training but without
 * their noise. Always f32, every sum by rising column or in order of choice, ties to the lowest column: the same bits everywhere.
 *
 * Columns C = R + Z + F of the logits: R routed experts (they run at the expert ranks), Z null experts (they compute nothing but
 * keep their share of the weight), F shared experts (every token uses them). A token chooses its dynamic experts, routed or null, one
 * after another, the largest logit first, until their softmax probabilities reach top_p. At each step m is the winner's softmax among the
 * logits that come within 2 eps of it, relatively; r = m / (sum of m + 1e-6). With s = softmax of all columns that the token
 * uses, a dynamic expert weighs r * (sum of s over the dynamic ones), a shared one s; without shared experts it is r alone.
 *
 * Dropping depends on all T rows: a row's answer then depends on the rows beside it (docs/adr/0006-dynamic-capacity.md). */
#pragma once

#include "core/model/model.h"
#include "core/tensor/ops.h"

/* What the gate decided for T rows, in device memory. A pad row chooses no dynamic expert but uses the shared experts like any
 * other row. */
typedef struct um_dynamic {
    const um_dynamic_model *m;
    int T, K, C;
    float *logits;  /* [T,C] */
    int32_t *count; /* [T] dynamic experts chosen, before pads and dropping */
    int32_t *pick;  /* [T,R+Z] their columns in order of choice; count of them are set */
    float *share;   /* [T,R+Z] m of each pick */
    uint8_t *real;  /* [T] 0 = pad */
    uint8_t *mask;  /* [T,C] 1 = the row uses the column */
    float *weights; /* [T,C] 0 where mask is 0 */
    bool dropped;   /* rows were dropped */
    /* for the exchange: the routed experts of mask in order of choice, then holes */
    int32_t *experts; /* [T,K] UM_NO_EXPERT in a hole */
    float *slots;     /* [T,K] their weights, 0 in a hole */
} um_dynamic;

/* K: slots for the routed experts of a token, um_model.top_k. */
void um_dynamic_bind(um_dynamic *g, um_arena *arena, const um_dynamic_model *m, int T, int K);

/* Fills everything from logits. real [T] (device memory): 0 = pad; NULL: all rows are real. drop: each dynamic expert keeps at most
 * um_dynamic_capacity of its rows; what is left of a row's weights then adds up to what it was. */
void um_dynamic_choose(um_dev *d, um_dynamic *g, const uint8_t *real, bool drop);

/* Rows that a dynamic expert may keep out of T, pads counted: max(min_capacity, ceil(T / (R + Z) * capacity_factor)), at most T. */
int um_dynamic_capacity(const um_dynamic_model *m, int T);

/* Backward of the weights w.r.t. the logits, with the choices held fixed: dlogits [T,C] += ..., from dweights [T,C]. */
void um_dynamic_bwd(um_dev *d, float *dlogits, const float *dweights, const um_dynamic *g);

/* From g's tables on the host: the balance value (R+Z) * sum_e f_e q_e over dynamic experts, before dropping:
 * f_e = weighted mean over rows of "e is chosen",
 * q_e = weighted mean of the softmax over the chosen dynamic experts. weight [T]; 0 on pads. */
double um_dynamic_balance(const um_dynamic *g, const float *weight, um_arena *scratch);
