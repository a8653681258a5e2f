/* The terms that gates add to the loss, on guarded memory too: values against sums in double that follow the definition, gradients against
 * central differences of those, and the gate that is balanced by a bias. */
#include "core/nn/gate_loss.h"

#include "core/base/rng.h"
#include "tests/support/guarded_ops.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

enum { T = 23, E = 7, K = 2, SAMPLES = 3 };

static bool guarded;
static um_dev dev;
static um_arena host, device;
static um_rng rng;

/* Three samples: text, image and text; speech, video and text; text alone, whose last rows are padding. */
static const int sample_row[SAMPLES] = {0, 9, 18}, sample_T[SAMPLES] = {9, 9, 5};
static const uint8_t modality[T] = {UM_TEXT,  UM_IMAGE, UM_IMAGE, UM_IMAGE,  UM_TEXT,   UM_TEXT,
                                    UM_TEXT,  UM_TEXT,  UM_TEXT,  UM_SPEECH, UM_SPEECH, UM_VIDEO,
                                    UM_VIDEO, UM_TEXT,  UM_TEXT,  UM_SOUND,  UM_SOUND,  UM_TEXT,
                                    UM_TEXT,  UM_TEXT,  UM_TEXT,  UM_TEXT,   UM_TEXT};
static const um_gate_rows rows = {sample_row, sample_T, SAMPLES, modality};
static const uint8_t for_images[E] = {0, 1, 0, 0, 1, 0, 0}, for_audio[E] = {1, 0, 0, 0, 0, 0, 1};
static const uint8_t *const meant[UM_FMS] = {
    [UM_FM_IMAGE] = for_images, [UM_FM_AUDIO] = for_audio}; /* video is left out */

typedef double (*loss_fn)(const double *z);

static void softmax_double(double *p, const double *z, int n)
{
    double most = z[0], sum = 0;
    for (int e = 1; e < n; e++) most = fmax(most, z[e]);
    for (int e = 0; e < n; e++) sum += p[e] = exp(z[e] - most);
    for (int e = 0; e < n; e++) p[e] /= sum;
}

static int first_choice[T];

static double balance_double(const double *z)
{
    double mean[E] = {0}, share[E] = {0}, p[E], value = 0;
    for (int t = 0; t < T; t++) {
        softmax_double(p, z + t * E, E);
        for (int e = 0; e < E; e++) mean[e] += p[e] / T;
        share[first_choice[t]] += 1.0 / T;
    }
    for (int e = 0; e < E; e++) value += E * mean[e] * share[e];
    return value;
}

static double z_double(const double *z)
{
    double value = 0;
    for (int t = 0; t < T; t++) {
        double sum = 0;
        for (int e = 0; e < E; e++) sum += exp(z[t * E + e]);
        value += log(sum) * log(sum) / T;
    }
    return value;
}

/* p of the sample's rows of a kind: how many, and the mean of f over them and their columns, or the mean of every column. */
static int rows_of_kind(int sample, um_fm kind, int *at)
{
    int n = 0;
    for (int t = sample_row[sample]; t < sample_row[sample] + sample_T[sample]; t++)
        if (um_fm_of((um_modality)modality[t]) == kind) at[n++] = t;
    return n;
}

static double multimodal_double(const double *z)
{
    double value = 0, p[E];
    int at[T];
    for (int i = 0; i < SAMPLES; i++)
        for (int m = UM_FM_IMAGE; m < UM_FMS; m++) {
            const int n = rows_of_kind(i, (um_fm)m, at);
            double mean = 0;
            if (n == 0 || meant[m] == NULL) continue;
            for (int k = 0; k < n; k++) {
                softmax_double(p, z + at[k] * E, E);
                for (int e = 0; e < E; e++) mean += fabs(p[e] - meant[m][e]) / (n * E);
            }
            value += (double)n / sample_T[i] * mean;
        }
    return value;
}

/* false: the sample has no rows of the kind. */
static bool kind_double(double *soft, const double *z, int sample, um_fm kind)
{
    int at[T];
    const int n = rows_of_kind(sample, kind, at);
    double p[E], mean[E] = {0};
    for (int k = 0; k < n; k++) {
        softmax_double(p, z + at[k] * E, E);
        for (int e = 0; e < E; e++) mean[e] += p[e] / n;
    }
    if (n > 0) softmax_double(soft, mean, E);
    return n > 0;
}

static double kl_double(const double *z)
{
    static const um_fm pair[][2] = {{UM_FM_IMAGE, UM_FM_AUDIO},
                                    {UM_FM_IMAGE, UM_FM_TEXT},
                                    {UM_FM_AUDIO, UM_FM_TEXT},
                                    {UM_FM_AUDIO, UM_FM_VIDEO},
                                    {UM_FM_VIDEO, UM_FM_TEXT}};
    double value = 0, r[E], q[E];
    for (int i = 0; i < SAMPLES; i++) {
        double sum = 0;
        int pairs = 0;
        for (size_t k = 0; k < 5; k++) {
            double kl = 0;
            if (!kind_double(r, z, i, pair[k][0]) || !kind_double(q, z, i, pair[k][1])) continue;
            for (int e = 0; e < E; e++) kl += q[e] * log(q[e] / r[e]) / E;
            sum += 1 - kl;
            pairs++;
        }
        if (pairs > 0) value += sum / pairs;
    }
    return value;
}

static double term(int which, float *dlogits, const um_route *r, float coef)
{
    switch (which) {
    case 0:
        return um_gate_balance_loss(&dev, dlogits, r, coef, &host, &device);
    case 1:
        return um_gate_z_loss(&dev, dlogits, r, coef, &host, &device);
    case 2:
        return um_gate_multimodal_loss(&dev, dlogits, r, &rows, meant, coef, &host, &device);
    default:
        return um_gate_kl_loss(&dev, dlogits, r, &rows, coef, &host, &device);
    }
}

/* A route with random logits, which z gets, chosen by the GShard rule. */
static um_route route_made(float *z)
{
    um_route r;
    int32_t experts[T * K];
    um_rng_normal_f32(&rng, z, T * E, 1.0f);
    um_route_bind(&r, &device, T, K, E);
    dev.ops->put(&dev, r.logits, z, T * E * sizeof *z);
    um_gate_choose(&dev, &r, UM_GATE_GSHARD, 0, NULL);
    dev.ops->get(&dev, experts, r.experts, sizeof experts);
    for (int t = 0; t < T; t++) first_choice[t] = experts[t * K];
    return r;
}

static void check_slopes(const char *name, loss_fn loss, const float *z, const float *grad,
                         float coef)
{
    double moved[T * E];
    for (int i = 0; i < T * E; i++) {
        double side[2];
        for (int k = 0; k < T * E; k++) moved[k] = (double)z[k];
        for (int s = 0; s < 2; s++) {
            moved[i] = (double)z[i] + (s == 0 ? 1e-5 : -1e-5);
            side[s] = loss(moved);
        }
        const double slope = (double)coef * (side[0] - side[1]) / 2e-5;
        if (fabs(slope - (double)grad[i]) > 1e-6 + 1e-4 * fabs(slope))
            fail_msg("%s, logit %d: gradient says %g, differences say %g", name, i, (double)grad[i],
                     slope);
    }
}

static void terms_match_their_definitions(void **state)
{
    (void)state;
    static const char *const names[] = {"balance", "z", "multimodal", "KL"};
    static const loss_fn loss[] = {balance_double, z_double, multimodal_double, kl_double};
    for (int which = 0; which < 4; which++) {
        const float coef = 0.75f;
        float z[T * E], grad[T * E];
        double wide[T * E];
        um_mark h = um_arena_mark(&host), v = um_arena_mark(&device);
        const um_route r = route_made(z);
        float *dlogits = um_arena_f32(&device, T, E);
        for (int i = 0; i < T * E; i++) wide[i] = (double)z[i];
        const double want = loss[which](wide), got = term(which, NULL, &r, coef);
        if (fabs(got - want) > 1e-6 * fabs(want))
            fail_msg("%s: %.9g, want %.9g", names[which], got, want);
        dev.ops->fill(&dev, dlogits, 1.0f, T * E); /* gradients are added */
        assert_true(term(which, dlogits, &r, coef) == got);
        dev.ops->get(&dev, grad, dlogits, sizeof grad);
        for (int i = 0; i < T * E; i++) grad[i] -= 1.0f;
        check_slopes(names[which], loss[which], z, grad, coef);
        um_arena_reset(&device, v);
        um_arena_reset(&host, h);
    }
}

/* 1 for uniform p and uniform first choices, E for all on one expert (spec 13). */
static void balance_value_has_its_two_ends(void **state)
{
    (void)state;
    for (int end = 0; end < 2; end++) {
        float z[T * E] = {0};
        um_route r;
        um_mark v = um_arena_mark(&device);
        um_route_bind(&r, &device, 2 * E, 1, E);
        for (int t = 0; t < 2 * E; t++) z[t * E + (end == 0 ? 0 : t % E)] = end == 0 ? 100 : 1e-4f;
        dev.ops->put(&dev, r.logits, z, 2 * E * E * sizeof *z);
        um_gate_choose(&dev, &r, UM_GATE_GSHARD, 0, NULL);
        const double value = um_gate_balance_loss(&dev, NULL, &r, 1.0f, &host, &device);
        assert_float_equal(value, end == 0 ? E : 1, 1e-3);
        um_arena_reset(&device, v);
    }
}

/* Without a bias the choice and the weights are the gate's own; a large bias forces an expert in, whose weight is that of its clean logit,
 * so larger weights still come first. */
static void a_bias_decides_the_choice_alone(void **state)
{
    (void)state;
    float z[T * E], bias[E] = {0}, want[T * K], got[T * K];
    int32_t chosen[T * K], again[T * K];
    um_mark v = um_arena_mark(&device);
    um_route r = route_made(z);
    um_gate_choose(&dev, &r, UM_GATE_MIXTRAL, 0, NULL);
    dev.ops->get(&dev, want, r.weights, sizeof want);
    dev.ops->get(&dev, chosen, r.experts, sizeof chosen);
    um_gate_choose_biased(&dev, &r, um_dev_put_f32(&dev, &device, bias, E), &host, &device);
    dev.ops->get(&dev, got, r.weights, sizeof got);
    dev.ops->get(&dev, again, r.experts, sizeof again);
    assert_memory_equal(chosen, again, sizeof chosen);
    for (int i = 0; i < T * K; i++) assert_float_equal(got[i], want[i], 1e-6f);
    bias[3] = 100.0f;
    um_gate_choose_biased(&dev, &r, um_dev_put_f32(&dev, &device, bias, E), &host, &device);
    dev.ops->get(&dev, got, r.weights, sizeof got);
    dev.ops->get(&dev, again, r.experts, sizeof again);
    for (int t = 0; t < T; t++) {
        const int32_t *e = again + t * K;
        const double a = exp((double)z[t * E + e[0]]), b = exp((double)z[t * E + e[1]]);
        assert_true(e[0] == 3 || e[1] == 3);
        assert_true(a >= b);
        assert_float_equal(got[t * K], (float)(a / (a + b)), 1e-6f);
        assert_float_equal(got[t * K + 1], (float)(b / (a + b)), 1e-6f);
    }
    um_arena_reset(&device, v);
}

/* Updates lower what is chosen too often until all experts have their share. */
static void a_bias_balances(void **state)
{
    (void)state;
    enum { ROWS = 512, STEPS = 300 };
    float bias[E] = {0}, *z = um_arena_f32(&host, ROWS, E);
    int32_t *experts = um_arena_i32(&host, ROWS * K);
    float load[E], most[2] = {0}, *on_dev = um_arena_f32(&device, 2, E), *sums = on_dev + E;
    um_route r;
    um_route_bind(&r, &device, ROWS, K, E);
    um_rng_normal_f32(&rng, z, (uint64_t)ROWS * E, 1.0f);
    for (int t = 0; t < ROWS; t++) z[t * E + 2] += 2.0f;
    dev.ops->put(&dev, r.logits, z, (size_t)ROWS * E * sizeof *z);
    for (int step = 0; step < STEPS; step++) {
        dev.ops->put(&dev, on_dev, bias, sizeof bias);
        dev.ops->fill(&dev, sums, 0.0f, E);
        um_gate_choose_biased(&dev, &r, on_dev, &host, &device);
        dev.ops->get(&dev, experts, r.experts, ROWS * K * sizeof *experts);
        um_gate_add_load(&dev, sums, experts, ROWS, K, E, &host, &device);
        dev.ops->get(&dev, load, sums, sizeof load);
        um_gate_bias_update(bias, load, E, 0.02f);
        for (int e = 0; e < E; e++)
            if (step == 0 || step == STEPS - 1)
                most[step > 0] = load[e] > most[step > 0] || e == 0 ? load[e] : most[step > 0];
    }
    assert_true(most[0] > 2 * ROWS * K / E);
    assert_true(most[1] < ROWS * K / E * 6 / 5);
    um_gate_bias_update(bias, (float[E]){5, 5, 5, 5, 5, 5, 5}, E, 1.0f);
    for (int e = 0; e < E; e++) assert_true(fabsf(bias[e]) < 6.1f); /* nothing changes at balance */
}

/* --- the gate with a varying number of experts --- */

enum { ROUTED = 4, NULLS = 1, SHARED = 2, DYNAMIC = ROUTED + NULLS, COLUMNS = DYNAMIC + SHARED };

/* N sum of f_e q_e with the choices of mask held fixed. */
static double dynamic_double(const double *z, const uint8_t *mask, const float *weight)
{
    double f[DYNAMIC] = {0}, q[DYNAMIC] = {0}, all = 0, value = 0;
    for (int t = 0; t < T; t++) {
        double sum = 0;
        all += (double)weight[t];
        for (int e = 0; e < DYNAMIC; e++)
            if (mask[t * COLUMNS + e]) sum += exp(z[t * COLUMNS + e]);
        for (int e = 0; e < DYNAMIC; e++) {
            if (!mask[t * COLUMNS + e]) continue;
            f[e] += (double)weight[t];
            q[e] += (double)weight[t] * exp(z[t * COLUMNS + e]) / sum;
        }
    }
    for (int e = 0; e < DYNAMIC; e++) value += DYNAMIC * (f[e] / all) * (q[e] / all);
    return value;
}

static void the_dynamic_gate_is_balanced_too(void **state)
{
    (void)state;
    enum { CELLS = T * COLUMNS };
    const um_dynamic_model m = {
        .routed = ROUTED, .nulls = NULLS, .shared = SHARED, .top_p = 0.7f, .eps = 0.01f};
    const float coef = 0.5f;
    float z[CELLS], weight[T], grad[CELLS];
    double moved[CELLS];
    uint8_t mask[CELLS], real[T];
    um_dynamic g;
    um_mark v = um_arena_mark(&device);
    um_rng_normal_f32(&rng, z, CELLS, 1.0f);
    for (int t = 0; t < T; t++) {
        real[t] = t % 6 != 5;
        weight[t] = real[t] ? (t % 3 == 0 ? 10.0f : 1.0f) : 0.0f;
    }
    um_dynamic_bind(&g, &device, &m, T, ROUTED);
    dev.ops->put(&dev, g.logits, z, sizeof z);
    uint8_t *on_dev = um_arena_alloc(&device, T);
    dev.ops->put(&dev, on_dev, real, T);
    um_dynamic_choose(&dev, &g, on_dev, false);
    dev.ops->get(&dev, mask, g.mask, sizeof mask);
    float *dlogits = um_arena_f32(&device, T, COLUMNS);
    dev.ops->fill(&dev, dlogits, 0.0f, CELLS);
    const double value = um_dynamic_balance_loss(&dev, dlogits, &g, weight, coef, &host, &device);
    dev.ops->get(&dev, grad, dlogits, sizeof grad);
    for (int i = 0; i < CELLS; i++) moved[i] = (double)z[i];
    assert_float_equal(value, dynamic_double(moved, mask, weight), 1e-6);
    for (int i = 0; i < CELLS; i++) {
        double side[2];
        for (int s = 0; s < 2; s++) {
            moved[i] = (double)z[i] + (s == 0 ? 1e-5 : -1e-5);
            side[s] = dynamic_double(moved, mask, weight);
        }
        moved[i] = (double)z[i];
        const double slope = (double)coef * (side[0] - side[1]) / 2e-5;
        assert_true(fabs(slope - (double)grad[i]) <= 1e-7 + 1e-4 * fabs(slope));
    }
    um_arena_reset(&device, v);
}

static int setup(void **state)
{
    (void)state;
    um_err err = {0};
    rng = um_rng_seed(23, 0);
    um_arena_init(&host, "host", 1 << 16);
    const um_status st = guarded ? um_dev_open_guarded(&dev, UM_ISA_AUTO, 2, &err)
                                 : um_dev_open_cpu(&dev, UM_ISA_AUTO, 2, &err);
    um_dev_arena(&device, &dev, "device", 1 << 16);
    return st == UM_OK ? 0 : 1;
}

static int teardown(void **state)
{
    (void)state;
    um_arena_free(&device);
    um_arena_free(&host);
    if (guarded) um_dev_close_guarded(&dev);
    return 0;
}

/* Any argument: on guarded memory. */
int main(int argc, char **argv)
{
    (void)argv;
    guarded = argc > 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(terms_match_their_definitions),
        cmocka_unit_test(balance_value_has_its_two_ends),
        cmocka_unit_test(the_dynamic_gate_is_balanced_too),
        cmocka_unit_test(a_bias_decides_the_choice_alone),
        cmocka_unit_test(a_bias_balances),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
