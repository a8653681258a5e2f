/* The gate that is balanced by a bias on the choice of each expert: a tensor of the model where config.json has use_expert_bias, begun by
 * training where it has not; moved by the optimiser by the sign of each expert's load, and by nothing else. */
#include "core/nn/linear.h"
#include "core/train/optimizer.h"
#include "tests/support/fixture.h"
#include "tests/support/made_params.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#define MODELS UM_TEST_DATA "/golden/models/"

static um_dev dev;

static void ok(um_status st, const um_err *err)
{
    if (st != UM_OK) fail_msg("%s", err->msg);
}

static um_place bias_at(int layer)
{
    return um_place_of(UM_PART_GATE, UM_SLOT_GATE_BIAS, layer, -1);
}

static um_params gates_of(const um_checkpoint *ck)
{
    return params_of(ck, 1u << UM_PART_GATE, "auto", &dev, &arena, &arena);
}

static bool trains_biases(const void *ctx, const um_spec *s)
{
    (void)ctx;
    return s->at.slot == UM_SLOT_GATE_BIAS;
}

/* A model whose config asks for the biases must have them; one that training gives them begins at zero; others have none. */
static void a_bias_is_of_the_model_or_begins_at_zero(void **state)
{
    (void)state;
    static const char *const names[][2] = {
        {"s4", "model.layers.2.mlp.gate.e_score_correction_bias"},
        {"s8", "model.layers.2.mlp.deepspeed_moe.gate.e_score_correction_bias"}};
    for (int i = 0; i < 2; i++) {
        um_checkpoint ck;
        um_err err = {0};
        const float *values;
        char name[200];
        ok(um_checkpoint_open(&ck, um_arena_fmt(&arena, MODELS "%s", names[i][0]), NULL, &err),
           &err);
        um_params without = gates_of(&ck);
        assert_false(um_params_has(&without, bias_at(2), UM_LEAF_WEIGHT));
        ck.model.expert_bias = true;
        assert_true(um_model_tensor_name(&ck.model, bias_at(2), UM_LEAF_WEIGHT, name));
        assert_string_equal(name, names[i][1]);
        assert_int_equal(um_name_parse(name).is, UM_NAME_OTHER); /* not a dense MLP */
        um_params missing = gates_of(&ck);
        assert_int_equal(um_vector_load(&values, &missing, bias_at(2), UM_LEAF_WEIGHT, &err),
                         UM_E_MODEL);
        has(&err, names[i][1]);
        ck.model.expert_bias_begins = true;
        um_params begun = gates_of(&ck);
        ok(um_vector_load(&values, &begun, bias_at(2), UM_LEAF_WEIGHT, &err), &err);
        for (int e = 0; e < ck.model.experts; e++) assert_true(values[e] == 0.0f);
        assert_int_equal(begun.n, without.n + (size_t)ck.model.moe_layers);
        um_checkpoint_close(&ck);
    }
}

/* An expert above the mean load goes down by the rate, one below it up; neither learning rate, nor gradient scale, nor moments have a part,
 * and the norm does not see it. */
static void the_optimiser_moves_it_by_sign(void **state)
{
    (void)state;
    static const float load[] = {9, 3, 5, 3}, want[] = {-0.25f, 0.25f, 0, 0.25f};
    um_checkpoint ck;
    um_err err = {0};
    const float *values;
    const um_optimizer_settings how = {
        .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.5, .gate_bias_rate = 0.25};
    ok(um_checkpoint_open(&ck, MODELS "s4", NULL, &err), &err);
    ck.model.expert_bias = ck.model.expert_bias_begins = true;
    um_params ps = gates_of(&ck);
    for (int l = 0; l < ck.model.layers; l++)
        ok(um_vector_load(&values, &ps, bias_at(l), UM_LEAF_WEIGHT, &err), &err);
    train(&ps, trains_biases, NULL);
    um_optimizer *o = um_optimizer_open(&ps, &how);
    um_param *p = um_params_find(&ps, bias_at(1), UM_LEAF_WEIGHT),
             *idle = um_params_find(&ps, bias_at(0), UM_LEAF_WEIGHT);
    double squares[8];
    assert_int_equal(um_optimizer_params(o), 3);
    memcpy(um_param_grad(p), load, sizeof load);
    um_optimizer_squares(squares, o);
    for (int i = 0; i < 3; i++) assert_true(squares[i] == 0);
    um_optimizer_step(o, 1000.0, 0.001);
    for (int e = 0; e < 4; e++) {
        assert_float_equal(p->vector[e], want[e], 0);
        assert_float_equal(idle->vector[e], 0, 0); /* its layer had no rows */
    }
    um_optimizer_step(o, 0.0, 0.0);
    for (int e = 0; e < 4; e++) assert_float_equal(p->vector[e], 2 * want[e], 0);
    um_optimizer_close(o);
    um_checkpoint_close(&ck);
}

static int setup(void **state)
{
    arena_setup(state);
    return um_dev_open_cpu(&dev, UM_ISA_AUTO, 1, NULL) == UM_OK ? 0 : 1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bias_is_of_the_model_or_begins_at_zero),
        cmocka_unit_test(the_optimiser_moves_it_by_sign),
    };
    return cmocka_run_group_tests(tests, setup, arena_teardown);
}
