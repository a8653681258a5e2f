/* The dynamic-capacity gate and layer (spec 10.1): the golden layers forward and backward, the numbers of the specification, the
 * rules of choice, dropping and pads, gradients against central differences. */
#include "tests/support/dynamic_layer.h"
#include "tests/support/folder.h"
#include "tests/support/made_params.h"

#include "core/base/bytes.h"
#include "core/base/log.h"
#include "core/base/rng.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define GOLDEN UM_TEST_DATA "/golden/dynamic/"

static um_arena arena, scratch;
static um_dev dev;

static float *zeros(size_t n) { return um_arena_zero(&arena, n * sizeof(float)); }

/* --- the golden layers --- */

typedef struct golden {
    um_checkpoint ck;
    um_tensors *want;
    int S, D;
    const float *x, *dy;
    uint8_t *real; /* [S] */
} golden;

static const float *floats(const um_tensors *set, const char *name)
{
    const um_tensor *t = um_tensors_find(set, name);
    if (t == NULL) fail_msg("no tensor %s", name);
    float *v = um_arena_f32(&arena, 1, t->bytes / 4);
    um_tensor_to_f32(v, t);
    return v;
}

static const int32_t *ints(const um_tensors *set, const char *name)
{
    const um_tensor *t = um_tensors_find(set, name);
    if (t == NULL) fail_msg("no tensor %s", name);
    int32_t *v = um_arena_i32(&arena, t->bytes / 4);
    memcpy(v, t->data, t->bytes);
    return v;
}

static void golden_open(golden *g, const char *dir, const char *name)
{
    um_err err = {0};
    char path[512];
    dynamic_model_make(dir, name, &arena);
    if (um_checkpoint_open(&g->ck, dir, NULL, &err) != UM_OK) fail_msg("%s", err.msg);
    snprintf(path, sizeof path, GOLDEN "%s/layer.safetensors", name);
    if (um_tensors_open(&g->want, path, &err) != UM_OK) fail_msg("%s", err.msg);
    const um_tensor *x = um_tensors_find(g->want, "x");
    g->S = (int)(x->shape[0] * x->shape[1]);
    g->D = (int)x->shape[2];
    g->x = floats(g->want, "x");
    g->dy = floats(g->want, "grad_y");
    g->real = um_arena_alloc(&arena, (size_t)g->S);
    const int32_t *mask = ints(g->want, "token_mask");
    for (int t = 0; t < g->S; t++) g->real[t] = mask[t] != 0;
}

static void golden_close(golden *g)
{
    um_checkpoint_close(&g->ck);
    um_tensors_close(g->want);
}

/* Within 1e-4 of the tensor's largest value; rows whose flag is 0 are left out. */
static void near(const char *name, const char *what, const golden *g, const float *got,
                 const uint8_t *flag)
{
    const um_tensor *t = um_tensors_find(g->want, what);
    const float *want = floats(g->want, what);
    size_t n = t->bytes / 4, cols = n / (size_t)(flag != NULL ? g->S : 1);
    double largest = 0;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)want[i]));
    for (size_t i = 0; i < n; i++) {
        if (flag != NULL && !flag[i / cols]) continue;
        if (!(fabs((double)got[i] - (double)want[i]) <= 1e-4 * largest))
            fail_msg("%s %s[%zu] = %g, want %g", name, what, i, (double)got[i], (double)want[i]);
    }
}

/* Backward of the layer for sum(y * dy): through every expert with the row's weight, and through the weights and the gate. */
static void layer_bwd(float *dx, const golden *g, const dynamic_layer *l)
{
    const um_dynamic_model *m = l->gate.m;
    size_t S = (size_t)g->S, D = (size_t)g->D, C = (size_t)l->gate.C;
    float *dw = zeros(S * C), *dz = zeros(S * C), *dout = zeros(S * D);
    for (int b = 0; b < l->blocks; b++) {
        size_t c = (size_t)(b < m->routed ? b : b + m->nulls);
        for (size_t t = 0; t < S; t++) {
            for (size_t i = 0; i < D; i++) {
                dw[t * C + c] += g->dy[t * D + i] * l->rows[b][t * D + i];
                dout[t * D + i] = g->dy[t * D + i] * l->gate.weights[t * C + c];
            }
        }
        um_ffn_bwd(&dev, dx, &l->ffn[b], dout, g->x, &l->acts[b], g->S, &scratch);
    }
    um_dynamic_bwd(&dev, dz, dw, &l->gate);
    um_linear_bwd(&dev, dx, &l->gate_w, dz, g->x, g->S, &scratch);
}

static void golden_layers_match(void **state)
{
    (void)state;
    static const char *const names[] = {"p07", "p07_wide", "topk_noshared", "drop_probs",
                                        "drop_position"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        golden g;
        dynamic_layer l;
        char *dir = folder_make();
        golden_open(&g, dir, names[i]);
        const um_dynamic_model *m = &g.ck.model.dynamic;
        assert_string_equal(g.ck.model.variant, "dynamic");
        assert_true(m->token_drop == (strncmp(names[i], "drop", 4) == 0));
        dynamic_layer_run(&l, &g.ck, g.x, g.S, g.real, m->token_drop, &dev, &arena);
        size_t cells = (size_t)g.S * (size_t)l.gate.C;
        const int32_t *mask = ints(g.want, "expert_mask"), *k = ints(g.want, "top_k");
        for (size_t c = 0; c < cells; c++) assert_int_equal(l.gate.mask[c], mask[c]);
        for (int t = 0; t < g.S; t++) assert_int_equal(l.gate.count[t], k[t]);
        near(names[i], "router_logits", &g, l.gate.logits, NULL);
        near(names[i], "expert_weight", &g, l.gate.weights, g.real);
        near(names[i], "y", &g, l.y, NULL);
        float balance =
            (float)um_dynamic_balance(&l.gate, floats(g.want, "balance_weight"), &arena);
        near(names[i], "balance", &g, &balance, NULL);
        um_param *gate = um_params_find(&l.params, um_place_of(UM_PART_GATE, UM_SLOT_GATE, 0, -1),
                                        UM_LEAF_WEIGHT);
        train(&l.params, trains_name, gate->spec.name);
        float *dx = zeros((size_t)g.S * (size_t)g.D);
        layer_bwd(dx, &g, &l);
        near(names[i], "grad_x", &g, dx, NULL);
        near(names[i], "grad_gate", &g, gate->grad, NULL);
        golden_close(&g);
        folder_remove(dir);
        um_free(dir);
    }
}

/* --- the rules --- */

/* A gate of S rows with these logits. */
static um_dynamic gate_of(const um_dynamic_model *m, int S, const float *z)
{
    um_dynamic g;
    um_dynamic_bind(&g, &arena, m, S, m->top_p > 0 ? m->routed : um_min_int(m->top_k, m->routed));
    memcpy(g.logits, z, (size_t)S * (size_t)g.C * sizeof *z);
    return g;
}

static um_dynamic chosen(const um_dynamic_model *m, int S, const float *z)
{
    um_dynamic g = gate_of(m, S, z);
    um_dynamic_choose(&dev, &g, NULL, false);
    return g;
}

static void logs(float *z, const float *p, int n)
{
    for (int i = 0; i < n; i++) z[i] = (float)um_log((double)p[i]);
}

/* Spec 13: p = (0.5, 0.3, 0.1, 0.1) and P = 0.7 give k = 2, p = (0.71, ...) gives 1. */
static void as_many_as_reach_top_p(void **state)
{
    (void)state;
    const um_dynamic_model m = {.routed = 3, .nulls = 1, .top_p = 0.7f, .top_k = 2, .eps = 0.01f};
    const struct {
        float p[4];
        int k;
    } cases[] = {{{0.5f, 0.3f, 0.1f, 0.1f}, 2},
                 {{0.71f, 0.2f, 0.05f, 0.04f}, 1},
                 {{0.1f, 0.1f, 0.3f, 0.5f}, 2},
                 {{0.35f, 0.3f, 0.2f, 0.15f}, 3},
                 {{0.25f, 0.25f, 0.25f, 0.25f}, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float z[4];
        logs(z, cases[i].p, 4);
        um_dynamic g = chosen(&m, 1, z);
        assert_int_equal(g.count[0], cases[i].k);
        float sum = 0;
        for (int c = 0; c < 4; c++) sum += g.weights[c];
        assert_float_equal(sum, 1.0f, 1e-5f);
    }
    um_dynamic_model all = m, two = m;
    float z[4] = {1, 2, 3, 4};
    all.top_p = 1.0f;
    two.top_p = 0.0f;
    assert_int_equal(chosen(&all, 1, z).count[0], 4); /* three of them have 0.968 */
    assert_int_equal(chosen(&two, 1, z).count[0], 2);
}

/* Slots hold the routed experts in order of choice; a null expert takes a share of the weight but no slot. */
static void null_experts_take_weight_and_no_slot(void **state)
{
    (void)state;
    const um_dynamic_model m = {.routed = 3, .nulls = 1, .top_p = 0.8f, .top_k = 2, .eps = 0.01f};
    float z[8];
    logs(z, (const float[]){0.1f, 0.15f, 0.35f, 0.4f}, 4);
    logs(z + 4, (const float[]){0.05f, 0.02f, 0.03f, 0.9f}, 4);
    um_dynamic g = chosen(&m, 2, z);
    assert_int_equal(g.count[0], 3); /* null, 2, 1 */
    assert_int_equal(g.experts[0], 2);
    assert_int_equal(g.experts[1], 1);
    assert_int_equal(g.experts[2], UM_NO_EXPERT);
    assert_float_equal(g.slots[0], 1.0f / 3, 1e-5f); /* no logit is within 2 eps: equal shares */
    assert_true(g.slots[2] == 0.0f && g.weights[3] > 0.3f && g.weights[0] == 0.0f);
    for (int k = 0; k < 3; k++) { /* the second row chose only its null expert */
        assert_int_equal(g.experts[3 + k], UM_NO_EXPERT);
        assert_true(g.slots[3 + k] == 0.0f);
    }
    assert_float_equal(g.weights[7], 1.0f, 1e-5f);
}

/* Logits within 2 eps of the winner share its step's softmax: m = 1 / (1 + exp(-0.05)) for 5 and 4.95, then 1 for what is left. */
static void near_ties_share_weight(void **state)
{
    (void)state;
    const um_dynamic_model m = {.routed = 3, .top_p = 0.0f, .top_k = 2, .eps = 0.01f};
    float z[6] = {4.95f, 1.0f, 5.0f, -4.0f, -3.97f, -9.0f};
    um_dynamic g = chosen(&m, 2, z);
    double a = 1 / (1 + exp(-0.05)), b = 1 / (1 + exp(-0.03));
    assert_true(g.pick[0] == 2 && g.pick[1] == 0 && g.pick[3] == 1 && g.pick[4] == 0);
    assert_float_equal(g.share[0], (float)a, 1e-6f);
    assert_float_equal(g.share[1], 1.0f, 0.0f);
    assert_float_equal(g.weights[2], (float)(a / (1 + a)), 1e-5f);
    assert_float_equal(g.weights[0], (float)(1 / (1 + a)), 1e-5f);
    assert_float_equal(g.share[3], (float)b, 1e-6f);
    float far[3] = {4.85f, 1.0f, 5.0f}; /* 3 % away */
    assert_float_equal(chosen(&m, 1, far).share[0], 1.0f, 0.0f);
}

static void ties_go_to_the_lowest_column(void **state)
{
    (void)state;
    const um_dynamic_model m = {.routed = 4, .top_p = 0.0f, .top_k = 3, .eps = 0.01f};
    float z[12] = {0, 0, 0, 0, 2, 7, 2, 7, NAN, NAN, NAN, NAN};
    um_dynamic g = chosen(&m, 3, z);
    const int32_t want[9] = {0, 1, 2, 1, 3, 0, 0, 1, 2};
    for (int t = 0; t < 3; t++)
        for (int k = 0; k < 3; k++) assert_int_equal(g.pick[t * 4 + k], want[t * 3 + k]);
}

/* As long as nothing is dropped, a row alone gives the same bits as among others. */
static void rows_do_not_depend_on_one_another(void **state)
{
    (void)state;
    const um_dynamic_model m = {
        .routed = 5, .nulls = 2, .shared = 2, .top_p = 0.7f, .top_k = 2, .eps = 0.01f};
    enum { S = 40, C = 9 };
    float z[S * C];
    um_rng rng = um_rng_seed(9, 0);
    um_rng_normal_f32(&rng, z, S * C, 1.5f);
    um_dynamic all = chosen(&m, S, z);
    int counts[8] = {0};
    for (int t = 0; t < S; t++) {
        um_dynamic one = chosen(&m, 1, z + t * C);
        assert_memory_equal(one.weights, all.weights + t * C, C * sizeof(float));
        assert_memory_equal(one.experts, all.experts + t * 5, 5 * sizeof(int32_t));
        assert_memory_equal(one.slots, all.slots + t * 5, 5 * sizeof(float));
        counts[one.count[0]]++;
    }
    assert_true(counts[1] > 0 && counts[2] > 0 && counts[3] > 0);
}

static void pads_have_the_shared_experts_only(void **state)
{
    (void)state;
    const um_dynamic_model m = {.routed = 2, .shared = 2, .top_p = 0.7f, .top_k = 2, .eps = 0.01f};
    float z[8] = {3, 1, 0, 0, 3, 1, 0, 0};
    um_dynamic g = gate_of(&m, 2, z);
    um_dynamic_choose(&dev, &g, (const uint8_t[]){1, 0}, false);
    assert_true(g.mask[0] && !g.mask[1] && g.mask[2] && g.mask[3]);
    assert_true(!g.mask[4] && !g.mask[5] && g.mask[6] && g.mask[7]);
    assert_true(g.experts[0] == 0 && g.experts[2] == UM_NO_EXPERT && g.experts[3] == UM_NO_EXPERT);
    assert_float_equal(g.weights[6], 0.5f, 1e-6f);
    assert_true(g.weights[4] == 0.0f && g.weights[5] == 0.0f);
    /* and the balance value ignores it: 2 * (1 * 1 + 0 * 0) for one real row on one expert */
    assert_float_equal((float)um_dynamic_balance(&g, (const float[]){1, 0}, &arena), 2.0f, 1e-6f);
}

/* --- dropping --- */

static void capacity_follows_the_formula(void **state)
{
    (void)state;
    um_dynamic_model m = {.routed = 4, .nulls = 1, .min_capacity = 4, .capacity_factor = 1.0f};
    assert_int_equal(um_dynamic_capacity(&m, 46), 10); /* ceil(9.2) */
    assert_int_equal(um_dynamic_capacity(&m, 10), 4);  /* at least min_capacity */
    assert_int_equal(um_dynamic_capacity(&m, 3), 3);   /* at most all */
    m.capacity_factor = 3.0f;
    assert_int_equal(um_dynamic_capacity(&m, 45), 27);
    m.capacity_factor = 1e6f;
    assert_int_equal(um_dynamic_capacity(&m, 1000000), 1000000);
    assert_int_equal(um_dynamic_capacity(&m, 0), 0);
}

/* Four rows choose experts 0 and 1, which have room for two rows each. */
static void drop_case(um_dynamic *g, um_dynamic_model *m, um_drop_policy policy)
{
    const float z[12] = {3, 2.5f, 0, 4, 2.5f, 0, 3, 2.6f, 0, 5, 2.4f, 0};
    *m = (um_dynamic_model){.routed = 3,
                            .top_p = 0.0f,
                            .top_k = 2,
                            .eps = 0.01f,
                            .token_drop = true,
                            .drop_policy = policy,
                            .min_capacity = 1,
                            .capacity_factor = 1.5f};
    assert_int_equal(um_dynamic_capacity(m, 4), 2);
    *g = gate_of(m, 4, z);
    um_dynamic_choose(&dev, g, NULL, true);
}

static void experts_keep_their_highest_logits(void **state)
{
    (void)state;
    um_dynamic g;
    um_dynamic_model m;
    drop_case(&g, &m, UM_DROP_PROBS);
    /* expert 0 keeps rows 3 (5) and 1 (4); expert 1 keeps row 2 (2.6) and, of the equal rows 0 and 1, the first */
    const uint8_t want[12] = {0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0};
    assert_memory_equal(g.mask, want, 12);
    assert_float_equal(g.weights[1], 1.0f, 1e-5f); /* what is left adds up to 1 */
    assert_true(g.experts[0] == 1 && g.experts[1] == UM_NO_EXPERT && g.slots[1] == 0.0f);
}

static void experts_keep_the_first_rows(void **state)
{
    (void)state;
    um_dynamic g;
    um_dynamic_model m;
    drop_case(&g, &m, UM_DROP_POSITION);
    const uint8_t want[12] = {1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0};
    assert_memory_equal(g.mask, want, 12);
    for (int i = 6; i < 12; i++) assert_true(g.weights[i] == 0.0f); /* lost all */
    for (int i = 4; i < 8; i++) assert_int_equal(g.experts[i], UM_NO_EXPERT);
}

/* --- gradients --- */

/* The weights of g's rows at logits z in double, with its choices, windows and mask held; sum of c * weight. */
static double held_loss(const um_dynamic *g, const double *z, const float *c)
{
    const um_dynamic_model *m = g->m;
    int N = m->routed + m->nulls, C = g->C;
    double loss = 0;
    for (int t = 0; t < g->T; t++, z += C, c += C) {
        const float *z0 = g->logits + (size_t)t * (size_t)C;
        const int32_t *pick = g->pick + (size_t)t * (size_t)N;
        const uint8_t *mask = g->mask + (size_t)t * (size_t)C;
        double r[32], sum = 0, kept = 0, all = 0, dynamic = 0;
        for (int i = 0; i < g->count[t]; i++) {
            double window = 0;
            float top = z0[pick[i]];
            for (int j = 0; j < N; j++) {
                bool before = false;
                for (int k = 0; k < i; k++) before = before || pick[k] == j;
                if (before || (top - z0[j]) / fmaxf(fabsf(z0[j]), fabsf(top)) > 2 * m->eps)
                    continue;
                window += exp(z[j] - z[pick[i]]);
            }
            sum += r[i] = 1 / window;
        }
        for (int i = 0; i < g->count[t]; i++) {
            r[i] = mask[pick[i]] ? r[i] / (sum + 1e-6) : 0;
            kept += r[i];
        }
        for (int j = 0; j < C; j++) {
            if (!mask[j]) continue;
            all += exp(z[j]);
            if (j < N) dynamic += exp(z[j]);
        }
        for (int i = 0; i < g->count[t]; i++)
            loss += (double)c[pick[i]] * r[i] / (g->dropped ? kept + 1e-6 : 1) *
                    (m->shared > 0 ? dynamic / all : 1);
        for (int j = N; j < C; j++) loss += (double)c[j] * exp(z[j]) / all;
    }
    return loss;
}

static void backward_matches_central_differences(void **state)
{
    (void)state;
    const um_dynamic_model models[] = {
        {.routed = 4, .nulls = 1, .shared = 2, .top_p = 0.8f, .eps = 0.1f},
        {.routed = 6, .shared = 1, .top_p = 0.9f, .eps = 0.1f, .capacity_factor = 1.0f},
        {.routed = 5, .nulls = 2, .top_p = 0.7f, .eps = 0.1f, .capacity_factor = 0.8f},
        {.routed = 6, .top_p = 0.0f, .top_k = 3, .eps = 0.01f}};
    um_rng rng = um_rng_seed(21, 0);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        enum { S = 13 };
        const um_dynamic_model *m = &models[i];
        int C = m->routed + m->nulls + m->shared;
        size_t n = (size_t)(S * C);
        float *z = zeros(n), *c = zeros(n), *grad = zeros(n);
        um_rng_normal_f32(&rng, z, n, 1.0f);
        um_rng_normal_f32(&rng, c, n, 1.0f);
        um_dynamic g = gate_of(m, S, z);
        um_dynamic_choose(&dev, &g, NULL, m->capacity_factor > 0);
        bool shared_step = false;
        for (size_t k = 0; k < (size_t)S; k++)
            shared_step = shared_step || g.share[k * (size_t)(m->routed + m->nulls)] < 0.99f;
        assert_true(shared_step || m->eps < 0.1f); /* windows of several logits take part */
        um_dynamic_bwd(&dev, grad, c, &g);
        double *moved = um_arena_alloc(&arena, n * sizeof *moved), side[2];
        for (size_t k = 0; k < n; k++) {
            for (int s = 0; s < 2; s++) {
                for (size_t j = 0; j < n; j++) moved[j] = (double)z[j];
                moved[k] += s == 0 ? 1e-4 : -1e-4;
                side[s] = held_loss(&g, moved, c);
            }
            double slope = (side[0] - side[1]) / 2e-4;
            if (fabs(slope - (double)grad[k]) > 2e-5 * (1 + fabs(slope)))
                fail_msg("model %zu, logit %zu: gradient %g, differences %g", i, k, (double)grad[k],
                         slope);
        }
        um_dynamic_bwd(&dev, grad, c, &g); /* adds to what is there */
        side[0] = (double)grad[0];
        memset(grad, 0, n * sizeof *grad);
        um_dynamic_bwd(&dev, grad, c, &g);
        assert_float_equal((float)side[0], 2 * grad[0], 1e-6f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_layers_match),
        cmocka_unit_test(as_many_as_reach_top_p),
        cmocka_unit_test(null_experts_take_weight_and_no_slot),
        cmocka_unit_test(near_ties_share_weight),
        cmocka_unit_test(ties_go_to_the_lowest_column),
        cmocka_unit_test(rows_do_not_depend_on_one_another),
        cmocka_unit_test(pads_have_the_shared_experts_only),
        cmocka_unit_test(capacity_follows_the_formula),
        cmocka_unit_test(experts_keep_their_highest_logits),
        cmocka_unit_test(experts_keep_the_first_rows),
        cmocka_unit_test(backward_matches_central_differences),
    };
    um_err err = {0};
    um_log_set_level(UM_LOG_ERROR);
    um_arena_init(&arena, "test", 1 << 20);
    um_arena_init(&scratch, "scratch", 1 << 16);
    if (um_dev_open_cpu(&dev, UM_ISA_AUTO, 2, &err) != UM_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    um_arena_free(&arena);
    um_arena_free(&scratch);
    return failed;
}
