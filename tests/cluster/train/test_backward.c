/* Backward through the backbone, with the experts at their ranks: the gradients of every parameter of the router, and of the rows of media,
 * are those of the loss by central differences. And how samples become rows. On guarded memory. */
#include "tests/cluster/train/backward_fixture.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/rng.h"
#include "router/request/prompt.h"
#include "tests/support/dynamic_layer.h"
#include "tests/support/fixture.h"
#include "tests/support/test_support.h"

#include <math.h>
#include <string.h>

/* Where every row of every layer went. */
static uint64_t routes(const work *w)
{
    const um_model *model = &w->base.ck.model;
    uint64_t hash = 1469598103934665603u;
    for (int l = 0; l < model->layers; l++) {
        if (!model->moe_layer[l]) continue;
        const int32_t *to = w->batch.acts[l].routed;
        for (int i = 0; i < w->batch.T * model->top_k; i++)
            hash = (hash ^ (uint32_t)to[i]) * 1099511628211u;
    }
    return hash;
}

static double length(const float *x, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += (double)x[i] * (double)x[i];
    return sqrt(s);
}

/* The loss of `values` along a direction: (loss(x + h d) - loss(x - h d)) / 2h. *same: no row went elsewhere. */
typedef struct probe {
    work *w;
    um_param *param;
    float *x; /* of a medium: where its rows are read from; NULL: the parameter's */
    const float *start, *direction;
    size_t n;
    uint64_t routes;
} probe;

static double loss_at(const probe *p, double h, bool *same)
{
    float *x = um_arena_f32(&p->w->host, 1, p->n);
    for (size_t i = 0; i < p->n; i++)
        x[i] = (float)((double)p->start[i] + h * (double)p->direction[i]);
    if (p->x != NULL) {
        memcpy(p->x, x, p->n * sizeof *x);
    } else {
        um_param_write(p->param, x);
        um_params_repack(&p->w->base.params);
    }
    const double loss = work_pass(p->w, false);
    *same = *same && routes(p->w) == p->routes;
    return loss;
}

/* The gradient g [n] of what p names is that of the loss, along a random direction. */
static void check(probe *p, const float *g, const char *name)
{
    work *w = p->w;
    um_mark mark = um_arena_mark(&w->host);
    um_rng rng = um_rng_seed(11, p->n);
    float *d = um_arena_f32(&w->host, 1, p->n);
    double along = 0, off = 0, found = 0;
    const double size = length(g, p->n);
    for (size_t i = 0; i < p->n; i++) {
        d[i] = um_rng_below(&rng, 2) == 0 ? -1.0f : 1.0f;
        if (size > 0) d[i] += (float)((double)g[i] / size * sqrt((double)p->n));
        along += (double)d[i] * (double)g[i];
    }
    p->direction = d;
    if (!(size > 0)) fail_msg("%s has no gradient", name);
    for (double h = 0.05 / along, tries = 0; tries < 4; tries++, h *= 0.3) {
        bool same = true;
        found = (loss_at(p, h, &same) - loss_at(p, -h, &same)) / (2 * h);
        off = fabs(found - along) / fabs(along);
        if (same && off < 0.01) break;
    }
    bool same = true;
    loss_at(p, 0, &same);
    if (!(off < 0.01)) fail_msg("%s: gradient %g, differences %g", name, along, found);
    um_arena_reset(&w->host, mark);
}

/* Every parameter of the router that takes part, and the rows of every medium. */
static void check_all(work *w)
{
    um_params *ps = &w->base.params;
    um_params_zero_grads(ps);
    work_pass(w, true);
    const uint64_t there = routes(w);
    const size_t D = (size_t)w->base.ck.model.dim;
    int checked = 0;
    float *media[4];
    for (int i = 0; i < w->batch.media_n; i++) {
        media[i] = um_arena_f32(&w->host, (size_t)w->batch.media[i].n, D);
        um_micro_batch_media_grad(&w->batch, i, media[i]);
    }
    const int n_media = w->batch.media_n;
    for (size_t i = 0; i < ps->n; i++) {
        um_param *p = &ps->list[i];
        const size_t n = um_spec_values(&p->spec);
        if (!p->trained || !p->touched) continue;
        um_mark mark = um_arena_mark(&w->host);
        float *g = um_arena_f32(&w->host, 1, n), *x = um_arena_f32(&w->host, 1, n);
        um_param_fetch(p, g, p->grad);
        um_param_read(p, x);
        check(&(probe){.w = w, .param = p, .start = x, .n = n, .routes = there}, g, p->spec.name);
        um_arena_reset(&w->host, mark);
        checked++;
    }
    assert_true(checked > 10);
    for (int i = 0, k = 0; i < w->samples; i++) {
        if (w->sample[i].media_n == 0) continue;
        const size_t n = (size_t)w->media[i].n * D;
        float *at = (float *)(uintptr_t)w->media[i].rows, *start = um_arena_f32(&w->host, 1, n);
        memcpy(start, at, n * sizeof *at);
        assert_true(k < n_media);
        check(&(probe){.w = w, .x = at, .start = start, .n = n, .routes = there}, media[k++],
              "rows of a medium");
    }
}

static void dense_body(work *w)
{
    work_samples(w);
    check_all(w);
    w->pad_rows = true;
    check_all(w);
}

/* --- experts at their ranks --- */

static void experts_body(work *w)
{
    work_samples(w);
    w->aux = (um_aux){.coef = {[UM_AUX_BALANCE] = 0.05f, [UM_AUX_Z] = 0.01f}};
    check_all(w);
}

static void experts_at_two_ranks(void **state)
{
    (void)state;
    const char *models[] = {"s4", "a4", "s8fm"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        work_run(golden_path(&arena, "models/%s", models[i]), WORK_ALL, 2, 1, experts_body);
}

/* Pad rows are rows of the gate: with a balance loss they have a gradient. */
static void padded_body(work *w)
{
    w->pad_rows = true;
    experts_body(w);
}

static void pad_rows_at_two_ranks(void **state)
{
    (void)state;
    work_run(golden_path(&arena, "models/s8"), WORK_ALL, 2, 1, padded_body);
}

static void shared_experts(void **state)
{
    (void)state;
    char *model = um_arena_fmt(&arena, "%s/dynamic", dir);
    um_err err = {0};
    work_ok(um_file_mkdirs(model, &err), &err);
    dynamic_model_make(model, "p07", &arena);
    work_run(model, WORK_ALL, 2, 1, experts_body);
}

static void a_dense_model(void **state)
{
    (void)state;
    work_run(work_dense_model("false"), WORK_ALL, 0, 1, dense_body);
}

static void a_tied_model(void **state)
{
    (void)state;
    work_run(work_dense_model("true"), WORK_ALL, 0, 1, dense_body);
}

static void adapters_body(work *w)
{
    work_samples(w);
    w->same_number = true;
    check_all(w);
}

static void adapters_with_dropout(void **state)
{
    (void)state;
    work_run(work_dense_model("false"), WORK_ADAPTERS, 0, 1, adapters_body);
}

/* --- the rows of a micro-batch --- */

/* Two samples: five ids and two rows of an image, and three ids. */
static void small_samples(work *w)
{
    static const int32_t ids[] = {1, 10, UM_ID_IMAGE, 11, 12},
                         labels[] = {-100, -100, -100, 11, 12};
    static const int32_t other[] = {1, 20, 21}, learnt[] = {-100, -100, 21};
    const size_t n = 2 * (size_t)w->base.ck.model.dim;
    w->media[0] = (um_sample_medium){
        .modality = UM_IMAGE, .n = 2, .rows = um_arena_zero(&w->host, n * sizeof(float))};
    w->sample[0] =
        (um_train_sample){.ids = ids, .labels = labels, .n = 5, .media = w->media, .media_n = 1};
    w->sample[1] = (um_train_sample){.ids = other, .labels = learnt, .n = 3};
    w->samples = 2;
}

static void rows_are(const work *w, int n, const int32_t *id, const int32_t *target)
{
    assert_int_equal(w->batch.T, n);
    assert_memory_equal(w->batch.id, id, (size_t)n * sizeof *id);
    assert_memory_equal(w->batch.target, target, (size_t)n * sizeof *target);
}

static void span_is(const um_span *s, int row, int T, int pos, int n, int page)
{
    const um_span want = {.row = row, .T = T, .pos = pos, .n = n, .page = page};
    assert_memory_equal(s, &want, sizeof want);
}

static void rows_body(work *w)
{
    um_err err = {0};
    um_micro_batch *m = &w->batch;
    small_samples(w);
    work_ok(um_micro_batch_build(m, w->sample, 2, false, 1, 0, &err), &err);
    rows_are(w, 9, (int32_t[]){1, 10, -1, -1, 11, 12, 1, 20, 21},
             (int32_t[]){-1, -1, -1, 11, 12, -1, -1, 21, -1});
    assert_int_equal(m->targets, 3);
    assert_int_equal(m->batch.pads, 0);
    span_is(&m->batch.span[1], 6, 3, 0, 3, 1);
    assert_int_equal(m->media_n, 1);
    assert_int_equal(m->media[0].row, 2);
    assert_int_equal(m->modality[3], UM_IMAGE);
    assert_int_equal(m->modality[4], UM_TEXT);
    /* ids are padded to five with id 0, then rows to six with zeros */
    work_ok(um_micro_batch_build(m, w->sample, 2, true, 1, 0, &err), &err);
    rows_are(w, 12, (int32_t[]){1, 10, -1, -1, 11, 12, 1, 20, 21, 0, 0, -1},
             (int32_t[]){-1, -1, -1, 11, 12, -1, -1, 21, -1, -1, -1, -1});
    assert_int_equal(m->batch.pads, 1);
    span_is(&m->batch.span[1], 6, 3, 0, 3, 1);
    span_is(&m->batch.pad[0], 9, 3, 0, 3, 1);
    assert_int_equal(m->batch.pad_key_row[0], 6);
}

static void refused(work *w, const char *word)
{
    um_err err = {0};
    assert_int_equal(um_micro_batch_build(&w->batch, w->sample, 2, false, 1, 0, &err), UM_E_DATA);
    has(&err, word);
}

static void faults_body(work *w)
{
    small_samples(w);
    w->sample[0].media_n = 0;
    refused(w, "sample 0 has more placeholders than media");
    w->sample[0].media_n = 1;
    w->media[0].modality = UM_VIDEO;
    refused(w, "sample 0: placeholder -200");
    w->media[0].modality = UM_IMAGE;
    w->media[0].n = 0;
    refused(w, "sample 0: medium 0 has no rows");
    w->media[0].n = 2;
    w->sample[1].media = w->media;
    w->sample[1].media_n = 1;
    refused(w, "sample 1 has 1 media for 0 placeholders");
    w->sample[1].media_n = 0;
    w->sample[1].ids = (int32_t[]){1, 300, 21};
    refused(w, "sample 1: id 300");
    w->sample[1].ids = (int32_t[]){1, 20, 21};
    w->sample[1].labels = (int32_t[]){-100, -7, 21};
    refused(w, "sample 1: label -7");
    w->sample[1].n = 0;
    refused(w, "sample 1 has no ids");
}

/* Nothing to learn: no loss, and gradients that are zero. */
static void ignored_body(work *w)
{
    size_t n;
    work_samples(w);
    for (int i = 0; i < w->samples; i++) {
        int32_t *labels = um_arena_i32(&w->host, (size_t)w->sample[i].n);
        for (int k = 0; k < w->sample[i].n; k++) labels[k] = UM_LABEL_IGNORED;
        w->sample[i].labels = labels;
    }
    w->aux = (um_aux){.coef[UM_AUX_BALANCE] = 0.05f};
    um_params_zero_grads(&w->base.params);
    assert_true(work_pass(w, true) == 0);
    assert_int_equal(w->batch.targets, 0);
    const float *g = work_gradients(w, &w->batch, &n);
    for (size_t i = 0; i < n; i++) assert_true(g[i] == 0.0f);
}

static void samples_without_targets(void **state)
{
    (void)state;
    work_run(golden_path(&arena, "models/s8"), WORK_ALL, 2, 1, ignored_body);
}

/* More rows than one frame to the experts has room for. */
static void credit_body(work *w)
{
    um_err err = {0};
    work_samples(w);
    w->base.link.credit = 16 << 10;
    assert_int_equal(um_micro_batch_build(&w->batch, w->sample, 3, false, 1, 0, &err), UM_E_LIMIT);
    has(&err, "micro-batch of 52 rows is over --credit");
    w->base.link.credit = 64 << 20;
    work_pass(w, true);
}

static void too_many_rows(void **state)
{
    (void)state;
    work_run(golden_path(&arena, "models/s8"), WORK_ALL, 2, 1, credit_body);
}

static void the_rows_of_samples(void **state)
{
    (void)state;
    work_run(work_dense_model("false"), WORK_ALL, 0, 1, rows_body);
}

static void faults_of_samples(void **state)
{
    (void)state;
    work_run(work_dense_model("true"), WORK_ALL, 0, 1, faults_body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rows_of_samples),     cmocka_unit_test(faults_of_samples),
        cmocka_unit_test(samples_without_targets), cmocka_unit_test(too_many_rows),
        cmocka_unit_test(a_dense_model),           cmocka_unit_test(a_tied_model),
        cmocka_unit_test(adapters_with_dropout),   cmocka_unit_test(experts_at_two_ranks),
        cmocka_unit_test(pad_rows_at_two_ranks),   cmocka_unit_test(shared_experts),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}
