/* Shared by the files that list a model's tensors: model_names.c begins the visit, model_names_audio.c continues with the audio parts,
 * model_name_parse.c reads names.
 * Only core/model/ includes this. */
#pragma once

#include "core/model/model.h"

/* What stands behind "model.layers.N." in the names of an MoE layer, for each gate style: the routed experts and the number after them,
 * the gate. The shared experts and the pre-projections belong to one style. */
extern const char *const um_experts_name[UM_GATE_STYLES], *const um_gate_name[UM_GATE_STYLES];
#define UM_GATE_BIAS_NAME                                                                          \
    "e_score_correction_bias" /* beside the gate's weight; transformers has this name in DeepSeek-V3 */
#define UM_SHARED_NAME "mlp.fixed_real_moe."
#define UM_FM_NAME "mlp.deepspeed_moe.fm_"

/* One visit: what is selected, the function to call, and the first status other than UM_OK. */
typedef struct um_tensor_visitor {
    const um_model *m;
    um_selection sel;
    um_spec_fn fn;
    void *ctx;
    um_err *err;
    um_status st;
    um_spec
        s; /* at.part, at.layer, at.index, optional, idle and exact keep their values until changed */
    char name[200];
} um_tensor_visitor;

/* Calls fn with shape [a], [a,b], ...: the first 0 ends it. The name is PREFIX NAME; s.leaf and s.init are already set. */
void um_visit_tensor(um_tensor_visitor *w, um_slot slot, const char *prefix, const char *name,
                     int64_t a, int64_t b, int64_t c, int64_t d);
/* A weight PREFIX NAME of any shape, of random numbers; of ones; a bias [n]. */
void um_visit_normal(um_tensor_visitor *w, um_slot slot, const char *prefix, const char *name,
                     int64_t a, int64_t b, int64_t c, int64_t d);
void um_visit_ones(um_tensor_visitor *w, um_slot slot, const char *prefix, const char *name,
                   int64_t a, int64_t b, int64_t c, int64_t d);
void um_visit_bias(um_tensor_visitor *w, um_slot slot, const char *prefix, const char *name,
                   int64_t n);
/* A linear layer [n,k], or a norm [n] when k is 0: PREFIX NAME.weight and PREFIX NAME.bias. */
void um_visit_pair(um_tensor_visitor *w, um_slot slot, const char *prefix, const char *name,
                   int64_t n, int64_t k);
/* A projector from in to out: PREFIX{weight,bias}, or PREFIX{0,2,4,...}.{weight,bias}. */
void um_visit_projector(um_tensor_visitor *w, const char *prefix, um_projector proj, int layers,
                        int64_t in, int64_t out);

/* Visits the audio towers and connectors of the model. */
void um_visit_audio(um_tensor_visitor *w);
