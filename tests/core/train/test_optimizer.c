/* The optimiser over a list of parameters: torch.optim.AdamW's arithmetic in double as the reference, rules by parameter, parameters that
 * take no part, and state that goes on elsewhere. */
#include "core/base/arena.h"
#include "core/base/rng.h"
#include "core/nn/linear.h"
#include "core/train/optimizer.h"
#include "tests/support/fixture.h"
#include "tests/support/made_params.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

enum { MATRIX, NORM, BIAS, IDLE, LISTED, STEPS = 6, MOST = 64 };

static const struct {
    um_slot slot;
    um_leaf leaf;
    int64_t a, b;
} listed[LISTED] = {{UM_SLOT_Q, UM_LEAF_WEIGHT, 5, 7},
                    {UM_SLOT_NORM, UM_LEAF_WEIGHT, 9, 0},
                    {UM_SLOT_Q, UM_LEAF_BIAS, 5, 0},
                    {UM_SLOT_K, UM_LEAF_WEIGHT, 3, 4}};

typedef struct list {
    um_dev dev;
    um_arena host, device;
    made_params made;
    um_optimizer *o;
} list;

/* The norm learns ten times as fast; the last matrix is as --lr-for K:0 would have it. */
static void rule(const void *ctx, const um_spec *s, um_optimizer_rule *r)
{
    (void)ctx;
    if (s->at.slot == UM_SLOT_NORM) r->lr_factor = 10.0;
    if (s->at.slot == UM_SLOT_K) r->lr_factor = 0.0;
}

static const um_optimizer_settings how = {
    .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.1, .rule = rule};

static um_param *at(list *l, int i)
{
    return um_params_find(&l->made.ps, made_at(listed[i].slot), listed[i].leaf);
}

static void list_open(list *l)
{
    um_err err = {0};
    um_linear q, k;
    const float *norm;
    *l = (list){0};
    um_arena_init(&l->host, "host", 1 << 16);
    assert_int_equal(um_dev_open_cpu(&l->dev, UM_ISA_AUTO, 1, &err), UM_OK);
    um_dev_arena(&l->device, &l->dev, "device", 1 << 16);
    l->made.a = &l->host;
    for (int i = 0; i < LISTED; i++)
        made_add(&l->made, listed[i].slot, listed[i].leaf, UM_F32, listed[i].a, listed[i].b, 0);
    const um_loading loading = {.dev = &l->dev, .host = &l->host, .device = &l->device};
    made_open(&l->made, dir, &loading);
    um_params *ps = &l->made.ps;
    assert_int_equal(um_linear_load(&q, ps, made_at(UM_SLOT_Q), &err), UM_OK);
    assert_int_equal(um_linear_load(&k, ps, made_at(UM_SLOT_K), &err), UM_OK);
    assert_int_equal(um_vector_load(&norm, ps, made_at(UM_SLOT_NORM), UM_LEAF_WEIGHT, &err), UM_OK);
    train(ps, trains_all, NULL);
    l->o = um_optimizer_open(ps, &how);
}

static void list_close(list *l)
{
    um_optimizer_close(l->o);
    made_close(&l->made);
    um_arena_free(&l->device);
    um_arena_free(&l->host);
}

static size_t values_of(const um_param *p) { return um_spec_values(&p->spec); }

/* Gradients of a step; the bias takes part in even steps only. */
static bool gradient(float g[MOST], int i, int step)
{
    um_rng rng = um_rng_seed((uint64_t)step, (uint64_t)i);
    um_rng_normal_f32(&rng, g, MOST, 3.0f);
    return i != BIAS || step % 2 == 0;
}

static void give(list *l, int step)
{
    um_params_zero_grads(&l->made.ps);
    for (int i = 0; i < LISTED; i++) {
        float g[MOST];
        if (!gradient(g, i, step)) continue;
        um_param *p = at(l, i);
        l->dev.ops->put(&l->dev, um_param_grad(p), g, values_of(p) * sizeof *g);
    }
}

static double lr_of(int step) { return 1e-2 * step; }
enum { SCALE_BITS = 4 };
static const double scale = 1.0 / (1 << SCALE_BITS);

/* Loshchilov, Hutter 2019, as torch writes it. */
static void reference(double *p, double *m, double *v, const float *g, size_t n, int steps,
                      double lr, double decay)
{
    for (size_t k = 0; k < n; k++) {
        const double h = scale * (double)g[k];
        p[k] *= 1.0 - lr * decay;
        m[k] += (h - m[k]) * (1.0 - how.beta1);
        v[k] = v[k] * how.beta2 + (1.0 - how.beta2) * h * h;
        const double bias1 = 1.0 - pow(how.beta1, steps), bias2 = 1.0 - pow(how.beta2, steps);
        p[k] -= lr / bias1 * m[k] / (sqrt(v[k]) / sqrt(bias2) + how.eps);
    }
}

static void it_is_adamw(void **state)
{
    list l;
    double p[LISTED][MOST], m[LISTED][MOST] = {{0}}, v[LISTED][MOST] = {{0}};
    int steps[LISTED] = {0};
    float got[MOST], start[LISTED][MOST];
    (void)state;
    list_open(&l);
    assert_int_equal(um_optimizer_params(l.o), LISTED);
    for (int i = 0; i < LISTED; i++) {
        um_param_read(at(&l, i), start[i]);
        for (size_t k = 0; k < values_of(at(&l, i)); k++) p[i][k] = (double)start[i][k];
    }
    for (int step = 1; step <= STEPS; step++) {
        give(&l, step);
        for (int i = 0; i < LISTED; i++) {
            float g[MOST];
            if (!gradient(g, i, step) || i == IDLE) continue;
            reference(p[i], m[i], v[i], g, values_of(at(&l, i)), ++steps[i],
                      lr_of(step) * (i == NORM ? 10.0 : 1.0), i == MATRIX ? 0.1 : 0.0);
        }
        um_optimizer_step(l.o, lr_of(step), scale);
    }
    assert_int_equal(steps[BIAS], STEPS / 2);
    for (int i = 0; i < LISTED; i++) {
        um_param_read(at(&l, i), got);
        for (size_t k = 0; k < values_of(at(&l, i)); k++) {
            assert_float_equal(got[k], (float)p[i][k], 1e-5f);
            if (i == IDLE) assert_float_equal(got[k], start[i][k], 0.0f);
        }
    }
    list_close(&l);
}

static void norms_are_sums_of_squares(void **state)
{
    list l;
    double squares[LISTED];
    (void)state;
    list_open(&l);
    give(&l, 1);
    um_optimizer_squares(squares, l.o);
    for (size_t i = 0; i < LISTED; i++) {
        const um_param *p = um_optimizer_param(l.o, i);
        float g[MOST];
        double want = 0;
        um_param_fetch(p, g, p->grad);
        for (size_t k = 0; k < values_of(p); k++) want += (double)g[k] * (double)g[k];
        assert_true(fabs(squares[i] - want) <= 1e-12 * want);
        assert_true((want == 0.0) == !p->touched);
    }
    const float bad = NAN;
    um_param *p = at(&l, NORM);
    l.dev.ops->put(&l.dev, p->grad + 4, &bad, sizeof bad);
    um_optimizer_squares(squares, l.o);
    int broken = 0;
    for (size_t i = 0; i < LISTED; i++) broken += !isfinite(squares[i]);
    assert_int_equal(broken, 1);
    list_close(&l);
}

/* What is read and written into another optimiser goes on with the same bits. */
static void its_state_goes_on_elsewhere(void **state)
{
    list a, b;
    float m[MOST], v[MOST], x[MOST], y[MOST];
    uint64_t steps;
    (void)state;
    list_open(&a);
    list_open(&b);
    for (int step = 1; step <= 3; step++) {
        give(&a, step);
        um_optimizer_step(a.o, lr_of(step), scale);
    }
    for (int i = LISTED - 1; i >= 0; i--) { /* in any order */
        um_param *p = um_optimizer_param(a.o, (size_t)i);
        um_param_read(p, x);
        um_param_write(um_optimizer_param(b.o, (size_t)i), x);
        um_optimizer_read(a.o, (size_t)i, m, v, &steps);
        assert_int_equal(steps, p == at(&a, BIAS) ? 1 : p == at(&a, IDLE) ? 0 : 3);
        um_optimizer_write(b.o, (size_t)i, m, v, steps);
    }
    for (int step = 4; step <= STEPS; step++) {
        give(&a, step);
        give(&b, step);
        um_optimizer_step(a.o, lr_of(step), scale);
        um_optimizer_step(b.o, lr_of(step), scale);
    }
    for (int i = 0; i < LISTED; i++) {
        um_param_read(at(&a, i), x);
        um_param_read(at(&b, i), y);
        assert_memory_equal(x, y, values_of(at(&a, i)) * sizeof *x);
    }
    list_close(&a);
    list_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_adamw),
        cmocka_unit_test(norms_are_sums_of_squares),
        cmocka_unit_test(its_state_goes_on_elsewhere),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}
