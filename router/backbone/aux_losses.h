/* The auxiliary losses of a pass: what the gates of its MoE layers add to the loss (spec 4.5), and the gradients of their logits. The
 * formulas of one layer are in core/nn/gate_loss.h. */
#pragma once

#include "core/nn/gate_loss.h"
#include "router/backbone/backbone.h"

typedef enum um_aux_term {
    UM_AUX_BALANCE,
    UM_AUX_MULTIMODAL,
    UM_AUX_KL,
    UM_AUX_Z,
    UM_AUX_TERMS
} um_aux_term;

/* How much of each term is added. A coefficient of 0 leaves a term out. */
typedef struct um_aux {
    float coef[UM_AUX_TERMS];
    /* host [E] 1: the expert is one of those meant for rows of this kind; NULL: none is */
    const uint8_t *meant[UM_FMS];
} um_aux;

/* dlogits[T,E] (device) += scale * coefficient * gradient of every term of one layer. aux may be NULL: nothing. */
void um_aux_bwd(const um_pass *p, const um_acts *a, float *dlogits, const um_aux *aux, float scale,
                const um_gate_rows *rows);
/* The terms of a pass that is done, without coefficients: value[term][i] of the i-th MoE layer (host, [UM_AUX_TERMS][moe_layers]).
 * Terms whose coefficient is 0 are computed only when `all`; others are left as they are. aux may be NULL. */
void um_aux_values(const um_pass *p, const um_aux *aux, const um_gate_rows *rows, bool all,
                   double *value);
