/* What trains: stages, patterns, adapters, on the golden models. */
#include "core/train/select.h"
#include "tests/support/test_support.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

typedef struct fixture {
    um_arena arena;
    um_checkpoint ck;
    um_config cfg;
    um_select select;
    um_err err;
} fixture;

static void open_model(fixture *f, const char *model)
{
    *f = (fixture){0};
    um_arena_init(&f->arena, "test", 1 << 16);
    um_config_default(&f->cfg);
    f->cfg.model = golden_path(&f->arena, "models/%s", model);
    if (um_checkpoint_open(&f->ck, f->cfg.model, NULL, &f->err) != UM_OK)
        fail_msg("%s", f->err.msg);
}

static void close_model(fixture *f)
{
    um_select_close(&f->select);
    um_checkpoint_close(&f->ck);
    um_arena_free(&f->arena);
}

static void choose(fixture *f)
{
    um_select_close(&f->select);
    if (um_select_open(&f->select, &f->cfg, &f->ck.model, &f->arena, &f->err) != UM_OK)
        fail_msg("%s", f->err.msg);
}

typedef struct seeker {
    const um_select *s;
    const char *name;
    int trained, found;
} seeker;

static um_status seek(void *ctx, const um_spec *s, um_err *err)
{
    seeker *k = ctx;
    (void)err;
    if (strstr(s->name, k->name) == NULL) return UM_OK;
    k->found++;
    k->trained += um_select_trains(k->s, s);
    return UM_OK;
}

/* Of the tensors whose names contain text: do all train (1), none (0), some (-1)? */
static int trains(fixture *f, const char *text)
{
    seeker k = {&f->select, text, 0, 0};
    assert_int_equal(um_model_for_each_tensor(&f->ck.model, seek, &k, &f->err), UM_OK);
    if (k.found == 0) fail_msg("no tensor %s", text);
    return k.trained == k.found ? 1 : k.trained == 0 ? 0 : -1;
}

static bool adapted(fixture *f, const char *name)
{
    for (size_t i = 0; i < f->select.adapters.names; i++)
        if (strcmp(f->select.adapters.name[i], name) == 0) return true;
    return false;
}

static void refused(fixture *f, um_status (*check)(fixture *), const char *part)
{
    assert_int_equal(check(f), UM_E_USAGE);
    if (strstr(f->err.msg, part) == NULL) fail_msg("\"%s\" lacks \"%s\"", f->err.msg, part);
}

static um_status open_again(fixture *f)
{
    um_select_close(&f->select);
    return um_select_open(&f->select, &f->cfg, &f->ck.model, &f->arena, &f->err);
}

static um_status check_again(fixture *f)
{
    choose(f);
    return um_select_check(&f->select, &f->err);
}

static void stage_3_of_the_four_expert_model(void **state)
{
    fixture f;
    (void)state;
    open_model(&f, "s4");
    f.cfg.stage = "3";
    choose(&f);
    assert_int_equal(um_select_check(&f.select, &f.err), UM_OK);
    assert_int_equal(trains(&f, "mlp.gate.weight"), 1);
    assert_int_equal(trains(&f, "model.mm_projector."), 1);
    assert_int_equal(trains(&f, "model.mm_audio_aligner.projector."), 1);
    assert_int_equal(trains(&f, "embed_tokens"), 0);
    assert_int_equal(trains(&f, "layernorm"), 0);
    assert_int_equal(trains(&f, "mlp.experts."), 0);
    assert_int_equal(trains(&f, "vision_model."), 0);
    assert_true(adapted(&f, "model.layers.0.self_attn.q_proj.lora_A.weight"));
    assert_true(adapted(&f, "model.layers.0.mlp.experts.3.down_proj.lora_A.weight"));
    assert_false(adapted(&f, "model.layers.0.mlp.gate.lora_A.weight"));
    assert_int_equal(f.select.adapters.r, 8);
    assert_true(f.select.adapters.alpha == 16.0f && f.select.dropout == 0.05);
    assert_int_equal(um_select_modalities(&f.select),
                     1 << UM_IMAGE | 1 << UM_VIDEO | 1 << UM_SPEECH);
    close_model(&f);
}

/* What the stage adds to a rank's list trains, whatever the layer: um_select_trains knows it by what it is, not by its name. */
static void adapters_train(void **state)
{
    fixture f;
    um_params ps = {0};
    const um_selection sel = {.parts = 1u << UM_PART_BACKBONE | 1u << UM_PART_EXPERT};
    size_t adapters = 0;
    (void)state;
    open_model(&f, "s8");
    f.cfg.stage = "3";
    choose(&f);
    const um_loading how = {.host = &f.arena, .device = &f.arena};
    assert_int_equal(um_params_open(&ps, &f.ck, &sel, &how, &f.err), UM_OK);
    assert_int_equal(um_select_adapt(&f.select, &ps, &f.err), UM_OK);
    for (size_t i = 0; i < ps.n; i++) {
        const um_spec *s = &ps.list[i].spec;
        if (s->leaf != UM_LEAF_ADAPTER_A && s->leaf != UM_LEAF_ADAPTER_B) continue;
        assert_true(um_select_trains(&f.select, s));
        adapters++;
    }
    assert_int_equal(adapters, 2 * f.select.adapters.names);
    close_model(&f);
}

static void stage_3_of_the_eight_expert_model_trains_its_own_lora(void **state)
{
    fixture f;
    (void)state;
    open_model(&f, "s8");
    f.cfg.stage = "3";
    choose(&f);
    assert_int_equal(trains(&f, "deepspeed_experts.0.gate_proj_lora_A"), 1);
    assert_int_equal(trains(&f, "layers.1.mlp.gate_proj_lora_A"), 0); /* dense */
    assert_int_equal(trains(&f, "gate.wg"), 1);
    assert_true(adapted(&f, "model.layers.1.mlp.gate_proj.lora_A.weight"));
    for (size_t i = 0; i < f.select.adapters.names; i++)
        assert_null(strstr(f.select.adapters.name[i], "experts"));
    close_model(&f);
}

static void the_other_stages(void **state)
{
    fixture f;
    (void)state;
    open_model(&f, "a4");
    f.cfg.stage = "0";
    choose(&f);
    assert_int_equal(trains(&f, ""), 1);
    assert_int_equal(f.select.adapters.names, 0);
    f.cfg.stage = "1";
    choose(&f);
    assert_int_equal(trains(&f, "model.mm_audio_aligner."), 1);
    assert_int_equal(trains(&f, "model.layers."), 0);
    assert_int_equal(trains(&f, "mm_projector"), 0);
    assert_int_equal(um_select_modalities(&f.select), 1 << UM_SOUND);
    f.cfg.connector = "image";
    choose(&f);
    assert_int_equal(trains(&f, "mm_projector"), 1);
    assert_int_equal(trains(&f, "model.mm_audio_aligner."), 0);
    f.cfg.connector = "image,speech";
    refused(&f, open_again, "no such tower");
    f.cfg.connector = "smell";
    refused(&f, open_again, "--connector: smell, allowed: image speech sound");
    f.cfg.connector = "";
    f.cfg.stage = "2";
    choose(&f);
    assert_int_equal(f.select.adapters.r, 64);
    assert_true(adapted(&f, "model.layers.1.mlp.up_proj.lora_A.weight"));
    assert_false(adapted(&f, "model.layers.1.self_attn.q_proj.lora_A.weight"));
    assert_int_equal(trains(&f, "mm_projector"), 1);
    close_model(&f);
}

static void patterns_add_and_remove(void **state)
{
    fixture f;
    um_optimizer_rule rule = {1, 0};
    um_spec s = {.name = "model.mm_projector.0.weight"};
    (void)state;
    open_model(&f, "s4");
    f.cfg.stage = "3";
    f.cfg.train_what = "model.layers.1.*norm.weight,lm_head";
    f.cfg.freeze = "mm_projector.0";
    f.cfg.lora_what = "*.q_proj.weight";
    f.cfg.lr_for = "mm_:0.5,mm_projector.0:0.25,lora_B:16";
    choose(&f);
    assert_int_equal(um_select_check(&f.select, &f.err), UM_OK);
    assert_int_equal(trains(&f, "layers.1.input_layernorm.weight"), 1);
    assert_int_equal(trains(&f, "layers.0.input_layernorm.weight"), 0);
    assert_int_equal(trains(&f, "lm_head"), 1);
    assert_int_equal(trains(&f, "mm_projector.0."), 0);
    assert_int_equal(trains(&f, "mm_projector.2."), 1);
    assert_true(adapted(&f, "model.layers.0.self_attn.q_proj.lora_A.weight"));
    assert_false(adapted(&f, "model.layers.0.self_attn.k_proj.lora_A.weight"));
    f.select.optimizer.rule(f.select.optimizer.ctx, &s, &rule);
    assert_true(rule.lr_factor == 0.25);
    s.name = "model.norm.weight";
    rule.lr_factor = 1;
    f.select.optimizer.rule(f.select.optimizer.ctx, &s, &rule);
    assert_true(rule.lr_factor == 1);
    close_model(&f);
}

static void mistakes_are_named(void **state)
{
    fixture f;
    (void)state;
    open_model(&f, "s4");
    refused(&f, check_again, "nothing trains");
    f.cfg.stage = "3";
    f.cfg.freeze = "no_such_tensor";
    refused(&f, check_again, "--freeze: no_such_tensor fits no tensor");
    f.cfg.freeze = "";
    f.cfg.train_what = "model.layers.9.*";
    refused(&f, check_again, "--train-what: model.layers.9.* fits no tensor");
    f.cfg.train_what = "";
    f.cfg.lr_for = "mm_projector";
    refused(&f, open_again, "want PATTERN:FACTOR");
    f.cfg.lr_for = "mm_projector:-1";
    refused(&f, open_again, "want PATTERN:FACTOR");
    close_model(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stage_3_of_the_four_expert_model),
        cmocka_unit_test(adapters_train),
        cmocka_unit_test(stage_3_of_the_eight_expert_model_trains_its_own_lora),
        cmocka_unit_test(the_other_stages),
        cmocka_unit_test(patterns_add_and_remove),
        cmocka_unit_test(mistakes_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
