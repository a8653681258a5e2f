/* The dynamic style (spec 10.1) as a model: the keys of config.json, the names and totals, and configs that the tensors contradict. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/nn/checkpoint.h"
#include "launch/model_dir/audit.h"
#include "tests/support/dynamic_layer.h"
#include "tests/support/edit.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"

#include <stdio.h>
#include <string.h>

/* As the golden layer p07, with two layers. */
static const edit base[] = {
    {"hidden_size", "48"},
    {"intermediate_size", "96"},
    {"num_hidden_layers", "2"},
    {"num_attention_heads", "4"},
    {"vocab_size", "32"},
    {"mlp_dynamic_expert_num", "4"},
    {"mlp_dynamic_null_expert_num", "1"},
    {"mlp_fixed_expert_num", "2"},
    {"mlp_dynamic_top_p", "0.7"},
    {"mlp_dynamic_top_k", "2"},
    {"dynamic_intermediate_size", "40"},
    {"shared_intermediate_size", "24"},
    {"router_jitter_noise", "0.02"},
    {"min_capacity", "8"},
    {"capacity_factor", "3.0"},
    {"token_drop", "false"},
    {"drop_policy", "\"probs\""},
};

static um_status read_with(um_model *m, const edit *change, size_t n, um_err *err)
{
    edit_config(dir, "config.json", base, EDIT_COUNT(base), change, n);
    return um_model_read(m, dir, NULL, &arena, err);
}

static void read_ok(um_model *m, const edit *change, size_t n)
{
    um_err err = {0};
    if (read_with(m, change, n, &err) != UM_OK) fail_msg("%s", err.msg);
}

static void keys_are_read(void **state)
{
    (void)state;
    um_model m;
    const um_dynamic_model *d = &m.dynamic;
    read_ok(&m, NULL, 0);
    assert_true(m.gate == UM_GATE_DYNAMIC && m.experts == 4 && m.expert_dim == 40 && m.top_k == 4);
    assert_true(d->routed == 4 && d->nulls == 1 && d->shared == 2 && d->shared_dim == 24);
    assert_true(d->top_p == 0.7f && d->top_k == 2 && d->eps == 0.02f);
    assert_true(!d->token_drop && d->drop_policy == UM_DROP_PROBS && d->min_capacity == 8 &&
                d->capacity_factor == 3.0f);
    assert_true(m.moe_layers == 2 && !m.moe_unplaced); /* every layer when no key selects some */
    assert_int_equal(um_model_gate_rows(&m), 7);
    assert_string_equal(m.variant, "dynamic");
    int64_t total, active, backbone = 2 * 32 * 48 + 48 + 2 * (4 * 48 * 48 + 2 * 48);
    um_model_params(&m, &total, &active);
    assert_int_equal(total, backbone + 2 * (7 * 48 + 3 * 48 * (4 * 40 + 2 * 24)));
    assert_int_equal(active, total); /* a token may need them all */
}

static void other_forms_of_the_keys(void **state)
{
    (void)state;
    um_model m;
    const edit factors[] = {{"dynamic_intermediate_size", NULL},
                            {"shared_intermediate_size", NULL},
                            {"dynamic_mlp_size_factor", "4"},
                            {"fixed_mlp_size_factor", "8"}};
    read_ok(&m, factors, EDIT_COUNT(factors));
    assert_true(m.expert_dim == 24 && m.dynamic.shared_dim == 12);
    const edit top_k[] = {{"mlp_dynamic_top_p", "0"},
                          {"mlp_fixed_expert_num", "0"},
                          {"shared_intermediate_size", NULL},
                          {"mlp_dynamic_null_expert_num", NULL}};
    read_ok(&m, top_k, EDIT_COUNT(top_k));
    assert_true(m.top_k == 2 && m.dynamic.nulls == 0 && m.dynamic.shared_dim == 0);
    int64_t total, active;
    um_model_params(&m, &total, &active);
    assert_int_equal(total - active,
                     2 * 2 * 3 * 48 * 40); /* two of four experts idle in two layers */
    const edit sparse[] = {{"moe_type", "\"sparse\""},
                           {"moe_stride", "2"},
                           {"token_drop", "true"},
                           {"drop_policy", "\"position\""}};
    read_ok(&m, sparse, EDIT_COUNT(sparse));
    assert_true(m.moe_layers == 1 && m.moe_layer[0] && !m.moe_layer[1]);
    assert_true(m.dynamic.token_drop && m.dynamic.drop_policy == UM_DROP_POSITION);
    const edit off[] = {{"moe", "false"}};
    read_ok(&m, off, 1);
    assert_true(m.experts == 0 && um_model_gate_rows(&m) == 0);
    assert_string_equal(m.variant, "dense");
}

/* Ranks that read other sizes must not join; keys that do not affect answers may differ. */
static void fingerprint_tells_models_apart(void **state)
{
    (void)state;
    um_model m, o;
    const edit differ[] = {
        {"mlp_dynamic_null_expert_num", "2"}, {"mlp_fixed_expert_num", "1"},
        {"mlp_dynamic_top_p", "0.8"},         {"dynamic_intermediate_size", "41"},
        {"shared_intermediate_size", "25"},   {"router_jitter_noise", "0.01"}};
    read_ok(&m, NULL, 0);
    for (size_t i = 0; i < EDIT_COUNT(differ); i++) {
        read_ok(&o, &differ[i], 1);
        assert_true(o.fingerprint != m.fingerprint);
    }
    const edit drop = {"token_drop", "true"};
    read_ok(&o, &drop, 1);
    assert_true(o.fingerprint == m.fingerprint);
}

static void bad_keys_are_named(void **state)
{
    (void)state;
    const struct {
        edit change[2];
        const char *says;
    } cases[] = {
        {{{"mlp_dynamic_expert_num", "0"}}, "mlp_dynamic_expert_num"},
        {{{"mlp_dynamic_null_expert_num", "-1"}}, "mlp_dynamic_null_expert_num"},
        {{{"mlp_fixed_expert_num", "\"two\""}}, "mlp_fixed_expert_num"},
        {{{"mlp_dynamic_top_p", "1.5"}}, "mlp_dynamic_top_p"},
        {{{"mlp_dynamic_top_p", "0"}, {"mlp_dynamic_top_k", "6"}}, "allowed 1..5"},
        {{{"dynamic_intermediate_size", NULL}},
         "dynamic_intermediate_size: missing (or dynamic_mlp_size_factor)"},
        {{{"shared_intermediate_size", NULL}}, "shared_intermediate_size: missing"},
        {{{"dynamic_intermediate_size", NULL}, {"dynamic_mlp_size_factor", "5"}},
         "dynamic_mlp_size_factor: 5, must divide intermediate_size 96"},
        {{{"router_jitter_noise", "-1"}}, "router_jitter_noise"},
        {{{"drop_policy", "\"random\""}}, "drop_policy: \"random\", allowed \"probs\""},
        {{{"capacity_factor", "-1"}}, "capacity_factor"},
        {{{"moe_type", "\"odd\""}}, "moe_type"},
        {{{"num_hidden_layers", "4096"}, {"mlp_fixed_expert_num", "4194304"}}, "2^50 parameters"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        um_err err = {0};
        um_model m;
        edit change[2] = {cases[i].change[0], cases[i].change[1]};
        size_t n = change[1].key == NULL ? 1 : 2;
        if (i + 1 == sizeof cases / sizeof *cases) {
            edit wide[3] = {change[0], change[1], {"shared_intermediate_size", "1048576"}};
            assert_int_equal(read_with(&m, wide, 3, &err), UM_E_MODEL);
        } else {
            assert_int_equal(read_with(&m, change, n, &err), UM_E_MODEL);
        }
        has(&err, cases[i].says);
    }
}

/* --- config against tensors --- */

static int lines;
static void count_line(void *ctx, const char *line)
{
    (void)ctx;
    print_message("%s\n", line);
    lines++;
}

static void every_tensor_is_known(void **state)
{
    (void)state;
    um_checkpoint c;
    um_audit a;
    um_err err = {0};
    dynamic_model_make(dir, "p07", &arena);
    if (um_checkpoint_open(&c, dir, NULL, &err) != UM_OK) fail_msg("%s", err.msg);
    assert_int_equal(um_audit_run(&c, &a, count_line, NULL, &err), UM_OK);
    assert_int_equal(a.missing + a.misshapen + a.unexpected + a.ignored, 0);
    assert_int_equal(a.wanted, 3 + 6 + 1 + 3 * (4 + 2));
    int64_t total, active;
    um_model_params(&c.model, &total, &active);
    assert_int_equal(a.params, total);
    um_checkpoint_close(&c);
}

static void contradictions_are_found(void **state)
{
    (void)state;
    const edit plain[] = {{"mlp_dynamic_expert_num", NULL}, {"moe", "true"}, {"num_experts", "4"}};
    const struct {
        edit change[3];
        size_t n;
        const char *says;
    } cases[] = {
        {{{"mlp_dynamic_null_expert_num", "0"}}, 1, "4 + 0 + 2, but the gate"},
        {{{"mlp_dynamic_null_expert_num", "0"}}, 1, "must add up to 7"},
        {{{"mlp_dynamic_expert_num", "3"}, {"mlp_dynamic_null_expert_num", "2"}},
         2,
         "mlp_dynamic_expert_num: 3, but there is a tensor "
         "model.layers.0.mlp.dynamic_real_moe.deepspeed_moe.experts.deepspeed_experts.3."},
        {{{"mlp_fixed_expert_num", "1"}, {"mlp_dynamic_null_expert_num", "2"}},
         2,
         "mlp_fixed_expert_num: 1, but there is a tensor model.layers.0.mlp.fixed_real_moe.1."},
        {{{"moe", "false"}}, 1, "mlp_dynamic_expert_num: absent, or moe is false"},
        {{plain[0], plain[1], plain[2]},
         3,
         "mlp_dynamic_expert_num: missing, but the tensors have mlp.dynamic_real_moe names"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        um_checkpoint c;
        um_err err = {0};
        edit change[4];
        dynamic_model_make(dir, "p07", &arena); /* writes the tensors; its config is replaced */
        memcpy(change, cases[i].change, cases[i].n * sizeof *change);
        change[cases[i].n] = (edit){"num_hidden_layers", "1"};
        edit_config(dir, "config.json", base, EDIT_COUNT(base), change, cases[i].n + 1);
        assert_int_equal(um_checkpoint_open(&c, dir, NULL, &err), UM_E_MODEL);
        has(&err, cases[i].says);
    }
}

/* Sizes of the dynamic style over the tensors of a Mixtral style model. */
static void another_styles_tensors_are_refused(void **state)
{
    (void)state;
    um_checkpoint c;
    um_err err = {0};
    const edit change[] = {
        {"hidden_size", "64"}, {"vocab_size", "400"}, {"num_hidden_layers", "3"}};
    edit_config(dir, "config.json", base, EDIT_COUNT(base), change, EDIT_COUNT(change));
    remove(um_path_join(&arena, dir, "model.safetensors"));
    folder_link(dir, "model.safetensors", UM_TEST_DATA "/golden/models/s4/model.safetensors");
    assert_int_equal(um_checkpoint_open(&c, dir, NULL, &err), UM_E_MODEL);
    has(&err, "mlp_dynamic_expert_num: 4, but the tensors have mlp.gate and mlp.experts names");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_read),
        cmocka_unit_test(other_forms_of_the_keys),
        cmocka_unit_test(fingerprint_tells_models_apart),
        cmocka_unit_test(bad_keys_are_named),
        cmocka_unit_test(every_tensor_is_known),
        cmocka_unit_test(contradictions_are_found),
        cmocka_unit_test(another_styles_tensors_are_refused),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}
