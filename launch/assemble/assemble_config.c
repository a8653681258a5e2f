/* The config.json of a mixture of experts: that of the base, with the keys that say which layers have experts, how many and which gate
 * (spec 7.3, 10.1). See assemble_job.h. */
#include "launch/assemble/assemble_job.h"

#include "launch/model_dir/json_text.h"

#include <inttypes.h>
#include <string.h>

/* moe_type and moe_stride can say a regular placement from layer 0; for any other the gates among the tensors decide. */
static void edit_layers(um_assembly *a, um_edits *e)
{
    const int64_t stride = um_convert_stride(a->moe_layer, a->base.model.layers);
    um_edit(e, "moe_type", stride == 0 ? "null" : stride == 1 ? "\"dense\"" : "\"sparse\"");
    um_edit(e, "moe_stride", stride == 0 ? "null" : um_arena_fmt(&a->cv.arena, "%" PRId64, stride));
}

/* Experts of the dynamic gate are as wide as the dense MLP: it was not cut (spec 10.1 does, with moe_copy). */
static void edit_dynamic(um_assembly *a, um_edits *e)
{
    const um_recipe *r = &a->recipe;
    const char *width = um_arena_fmt(&a->cv.arena, "%d", a->base.model.ffn_dim);
    um_edit(e, "mlp_dynamic_expert_num", um_arena_fmt(&a->cv.arena, "%d", r->experts));
    um_edit(e, "mlp_fixed_expert_num", um_arena_fmt(&a->cv.arena, "%d", r->shareds));
    um_edit(e, "dynamic_intermediate_size", width);
    if (r->shareds > 0) um_edit(e, "shared_intermediate_size", width);
    if (r->per_token == 0) return;
    um_edit(e, "mlp_dynamic_top_p", "0.0");
    um_edit(e, "mlp_dynamic_top_k", um_arena_fmt(&a->cv.arena, "%d", r->per_token));
}

static void edit_gate(um_assembly *a, um_edits *e)
{
    const um_recipe *r = &a->recipe;
    const bool was_gshard = a->base.model.gate == UM_GATE_GSHARD;
    const int most = r->experts < 2 ? r->experts : 2;
    um_edit(e, "moe", "true");
    if (a->gate == UM_GATE_DYNAMIC) {
        edit_dynamic(a, e);
        return;
    }
    um_edit(e, "num_experts", um_arena_fmt(&a->cv.arena, "%d", r->experts));
    um_edit(e, "num_experts_per_tok",
            um_arena_fmt(&a->cv.arena, "%d", r->per_token > 0 ? r->per_token : most));
    if ((a->gate == UM_GATE_GSHARD) != was_gshard)
        um_edit(e, "model_type", was_gshard ? "\"llava\"" : "\"llava_llama\"");
}

static void edit_given(um_assembly *a, um_edits *e)
{
    const char *key;
    void *iter = NULL;
    for (const um_json *v; (v = um_json_next(a->recipe.config, &iter, &key)) != NULL;)
        um_edit(e, key, um_json_compact(v, &a->cv.arena));
}

um_status um_assemble_config(um_assembly *a, um_err *err)
{
    um_edits e = {0};
    if (a->recipe.config != NULL) edit_given(a, &e);
    edit_gate(a, &e);
    edit_layers(a, &e);
    return um_convert_config_save(&a->cv, &e, err);
}
