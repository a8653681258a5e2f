/* See aux_losses.h. */
#include "router/backbone/aux_losses.h"

static float coefficient(const um_aux *aux, um_aux_term term)
{
    return aux == NULL ? 0.0f : aux->coef[term];
}

/* The balance of the dynamic gate: rows count alike. */
static double dynamic_balance(const um_pass *p, const um_acts *a, float *dlogits, float coef)
{
    um_mark mark = um_arena_mark(p->host);
    float *weight = um_arena_f32(p->host, 1, (size_t)p->batch->T);
    for (int t = 0; t < p->batch->T; t++) weight[t] = 1.0f;
    const double value =
        um_dynamic_balance_loss(p->dev, dlogits, &a->dynamic, weight, coef, p->host, p->device);
    um_arena_reset(p->host, mark);
    return value;
}

/* One term of one layer: returns its value, and dlogits += coef * gradient unless it is NULL. */
static double run_term(const um_pass *p, const um_acts *a, um_aux_term term, float *dlogits,
                       const um_aux *aux, float coef, const um_gate_rows *rows)
{
    const um_route *r = &a->route;
    switch (term) {
    case UM_AUX_BALANCE:
        if (p->backbone->model->gate == UM_GATE_DYNAMIC)
            return dynamic_balance(p, a, dlogits, coef);
        return um_gate_balance_loss(p->dev, dlogits, r, coef, p->host, p->device);
    case UM_AUX_MULTIMODAL:
        return um_gate_multimodal_loss(p->dev, dlogits, r, rows, aux->meant, coef, p->host,
                                       p->device);
    case UM_AUX_KL:
        return um_gate_kl_loss(p->dev, dlogits, r, rows, coef, p->host, p->device);
    case UM_AUX_Z:
        return um_gate_z_loss(p->dev, dlogits, r, coef, p->host, p->device);
    case UM_AUX_TERMS:
        break;
    }
    return 0;
}

void um_aux_bwd(const um_pass *p, const um_acts *a, float *dlogits, const um_aux *aux, float scale,
                const um_gate_rows *rows)
{
    for (int k = 0; k < UM_AUX_TERMS; k++) {
        const float coef = coefficient(aux, (um_aux_term)k) * scale;
        if (coef != 0.0f) run_term(p, a, (um_aux_term)k, dlogits, aux, coef, rows);
    }
}

void um_aux_values(const um_pass *p, const um_aux *aux, const um_gate_rows *rows, bool all,
                   double *value)
{
    static const um_aux none = {0};
    const um_model *m = p->backbone->model;
    const um_aux *how = aux != NULL ? aux : &none;
    for (int k = 0; k < UM_AUX_TERMS; k++) {
        const bool wanted = all || coefficient(aux, (um_aux_term)k) != 0.0f;
        for (int l = 0, i = 0; wanted && l < m->layers; l++) {
            if (!m->moe_layer[l]) continue;
            value[k * m->moe_layers + i++] =
                run_term(p, &p->acts[l], (um_aux_term)k, NULL, how, 1.0f, rows);
        }
    }
}
