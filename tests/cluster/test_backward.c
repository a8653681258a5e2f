/* Backward through the backbone, with the experts at their ranks: gradients of every parameter of the router, and of the rows of media, are
 * those of the loss by central differences; the same bits with activations that are computed again; on guarded memory. And the golden
 * training cases, as far as the router computes them. */
#include "tests/cluster/cluster.h"
#include "tests/support/dynamic_layer.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"
#include "tests/support/test_support.h"

#include "core/base/file.h"
#include "core/base/rng.h"
#include "core/comm/join.h"
#include "core/comm/role.h"
#include "core/train/select.h"
#include "core/train/training_file.h"
#include "launch/model_dir/init.h"
#include "router/request/prompt.h"
#include "router/train/loss.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

/* What a test does on router 0, and with what. */
typedef struct work {
    cluster c;
    void (*body)(struct work *w);
    const char *ctx; /* of a golden case: what is expected */
    um_select select;
    /* there */
    um_role_base base;
    um_backbone backbone;
    um_exchange *exchange;
    um_micro_batch_setup setup;
    um_micro_batch batch;
    um_train_sample sample[4];
    um_sample_medium media[4];
    int samples;
    bool pad_rows;
    um_aux aux;
    uint32_t number; /* of the next micro-batch */
    um_arena host;
} work;

static void ok(um_status st, const um_err *err)
{
    if (st != UM_OK) fail_msg("%s", err->msg);
}

static bool every(const void *ctx, const um_spec *s)
{
    (void)ctx;
    (void)s;
    return true;
}

static um_status lead(void *ctx, const um_config *cfg, um_comm *comm, um_err *err)
{
    work *w = ctx;
    ok(um_role_begin(&w->base, cfg, comm, err), err);
    ok(um_role_join(&w->base, err), err);
    ok(um_role_own(&w->base, 0, err), err);
    um_params *ps = &w->base.params;
    if (w->ctx == NULL) {
        ps->how.trained = every;
    } else {
        ok(um_select_open(&w->select, cfg, &w->base.ck.model, &w->base.model, err), err);
        ok(um_select_adapt(&w->select, ps, err), err);
    }
    ok(um_backbone_load(&w->backbone, ps, err), err);
    if (w->ctx == NULL)
        ok(um_params_train(ps, every, NULL, err), err);
    else
        ok(um_select_begin(&w->select, ps, err), err);
    ok(um_join_all_ready(&w->base.link, err), err);
    w->exchange = um_exchange_open(&w->base.link, &w->base.dev, w->base.ck.model.dim);
    um_arena_init(&w->host, "test", 1 << 16);
    w->setup = (um_micro_batch_setup){.backbone = &w->backbone,
                                      .exchange = w->exchange,
                                      .dev = &w->base.dev,
                                      .host = &w->base.step,
                                      .device = &w->base.device_step,
                                      .lora = &w->base.lora,
                                      .expert_ranks = comm->topo.count[UM_ROLE_EXPERT],
                                      .aux = &w->aux};
    um_micro_batch_open(&w->batch, &w->setup);
    w->body(w);
    um_micro_batch_close(&w->batch);
    um_arena_free(&w->host);
    Um__Shutdown bye = UM__SHUTDOWN__INIT;
    for (int p = 1; p < comm->topo.n; p++)
        ok(um_link_control(&w->base.link, p, UM_KIND_SHUTDOWN, &bye.base, err), err);
    um_exchange_close(w->exchange);
    um_backbone_close(&w->backbone);
    um_select_close(&w->select);
    um_role_end(&w->base, UM_OK, err);
    return UM_OK;
}

/* Runs body on router 0 of a job of the model. */
static void run_work(work *w, int experts, void (*body)(work *w))
{
    w->c.cfg.experts = experts;
    w->c.cfg.encoders = "0";
    w->c.cfg.train = true;
    w->c.guarded = true;
    w->c.lead = lead;
    w->c.lead_ctx = w;
    w->body = body;
    um_status st = cluster_run(&w->c);
    for (int r = 0; r < w->c.ranks; r++)
        if (w->c.status[r] != UM_OK) print_message("rank %d: %s\n", r, w->c.err[r].msg);
    assert_int_equal(st, UM_OK);
    cluster_free(&w->c);
    um_free(w);
}

static void run(const char *model, int experts, void (*body)(work *w))
{
    work *w = um_zalloc(sizeof *w);
    cluster_init(&w->c, model);
    run_work(w, experts, body);
}

/* The same with what a golden training file trains. */
static void run_golden(const char *name, void (*body)(work *w))
{
    work *w = um_zalloc(sizeof *w);
    um_err err = {0};
    um_training_file file;
    const char *path = golden_path(&arena, "training/%s/training.json", name);
    ok(um_training_file_open(&file, path, &arena, &err), &err);
    cluster_init(&w->c, NULL);
    w->c.cfg.model = "";
    ok(um_training_file_options(&file, &w->c.cfg, &arena, &err), &err);
    w->ctx = golden_path(&arena, "training/%s/expected.safetensors", name);
    run_work(w, 2, body);
    um_training_file_close(&file);
}

/* --- samples --- */

/* A sample of n ids, the last `answer` of which are to be predicted. media: rows of one medium in the middle, or 0. */
static void add_sample(work *w, int n, int answer, um_modality modality, int rows)
{
    um_train_sample *s = &w->sample[w->samples];
    const um_model *m = &w->base.ck.model;
    um_rng rng = um_rng_seed(5, (uint64_t)w->samples);
    int32_t *ids = um_arena_i32(&w->host, (size_t)n), *labels = um_arena_i32(&w->host, (size_t)n);
    for (int i = 0; i < n; i++) {
        ids[i] = 3 + (int32_t)um_rng_below(&rng, (uint64_t)(m->vocab - 3));
        labels[i] = i < n - answer ? UM_LABEL_IGNORED : ids[i];
    }
    *s = (um_train_sample){.ids = ids, .labels = labels, .n = n};
    if (rows > 0) {
        const size_t values = (size_t)rows * (size_t)m->dim;
        float *x = um_arena_f32(&w->host, 1, values);
        um_rng_normal_f32(&rng, x, values, 0.5f);
        ids[n / 3] = um_prompt_id(modality);
        labels[n / 3] = UM_LABEL_IGNORED;
        w->media[w->samples] = (um_sample_medium){.modality = modality, .n = rows, .rows = x};
        s->media = &w->media[w->samples];
        s->media_n = 1;
    }
    w->samples++;
}

/* --- loss and gradients --- */

/* Forward: the loss whose gradient is computed. gradient: and backward. */
static double pass(work *w, bool gradient)
{
    um_err err = {0};
    um_loss loss;
    um_micro_batch *m = &w->batch;
    um_mark mark = um_arena_mark(&w->host);
    const uint32_t number = w->number++ | (gradient ? 0 : UM_BATCH_FORWARD);
    ok(um_micro_batch_build(m, w->sample, w->samples, w->pad_rows, 1, number, &err), &err);
    while (!um_pass_done(&m->pass)) ok(um_pass_run(&m->pass, &err), &err);
    ok(um_loss_run(&loss, m, gradient, false, &w->host, &err), &err);
    while (gradient && !um_back_done(&m->back)) ok(um_back_run(&m->back, &err), &err);
    if (gradient) ok(um_micro_batch_finish(m, &err), &err);
    um_arena_reset(&w->host, mark);
    return loss.sum + loss.targets * um_loss_aux(&loss, &w->aux);
}

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
    const double loss = pass(p->w, false);
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
    pass(w, true);
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

/* All gradients of one micro-batch, and the rows' own, as they are in memory. */
static float *all_gradients(work *w, size_t *n)
{
    um_params *ps = &w->base.params;
    const size_t rows = (size_t)w->batch.T * (size_t)w->base.ck.model.dim;
    um_dev *dev = &w->base.dev;
    um_params_zero_grads(ps);
    pass(w, true);
    *n = ps->n_grads + rows;
    float *g = um_arena_f32(&w->host, 1, *n);
    dev->ops->get(dev, g, ps->grads, ps->n_grads * sizeof *g);
    dev->ops->get(dev, g + ps->n_grads, w->batch.back.dx, rows * sizeof *g);
    return g;
}

/* Computing activations again changes no bit. */
static void check_recompute(work *w)
{
    size_t n, again;
    pass(w, false);
    const float *kept = all_gradients(w, &n);
    w->batch.setup.recompute = true;
    const float *g = all_gradients(w, &again);
    w->batch.setup.recompute = false;
    assert_int_equal(n, again);
    assert_memory_equal(kept, g, n * sizeof *g);
}

/* --- models --- */

static void mixed_samples(work *w)
{
    add_sample(w, 13, 6, UM_IMAGE, 5);
    add_sample(w, 9, 4, UM_TEXT, 0);
    add_sample(w, 20, 5, UM_SPEECH, 7);
}

static void text_samples(work *w)
{
    add_sample(w, 13, 6, UM_TEXT, 0);
    add_sample(w, 19, 4, UM_TEXT, 0);
}

static void dense_body(work *w)
{
    mixed_samples(w);
    check_all(w);
    check_recompute(w);
    w->pad_rows = true;
    check_all(w);
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
    ok(um_micro_batch_build(m, w->sample, 2, false, 1, 0, &err), &err);
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
    ok(um_micro_batch_build(m, w->sample, 2, true, 1, 0, &err), &err);
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

/* Of 2 layers; tied: "true" or "false". */
static char *dense_model(const char *tied)
{
    static const char sizes[] =
        "{\"architectures\": [\"LlavaLlamaForCausalLM\"], \"model_type\": \"llava\","
        "\"hidden_size\": 24, \"intermediate_size\": 40, \"num_hidden_layers\": 2,"
        "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"vocab_size\": 300,"
        "\"max_position_embeddings\": 256, \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0,"
        "\"hidden_act\": \"silu\", \"bos_token_id\": 1, \"eos_token_id\": 2, \"pad_token_id\": 0,"
        "\"initializer_range\": 0.2, \"moe\": false, \"torch_dtype\": \"float32\","
        "\"tie_word_embeddings\": %s}";
    um_config init;
    um_err err = {0};
    char *name = um_arena_fmt(&arena, "%s/dense-%s", dir, tied);
    if (um_file_exists(um_path_join(&arena, name, "config.json"))) return name;
    folder_text(dir, "sizes.json", um_arena_fmt(&arena, sizes, tied));
    um_config_default(&init);
    init.config = um_path_join(&arena, dir, "sizes.json");
    init.out = name;
    FILE *said = fopen("/dev/null", "w");
    ok(um_init_run(&init, said, &err), &err);
    fclose(said);
    return name;
}

static void a_dense_model(void **state)
{
    (void)state;
    run(dense_model("false"), 0, dense_body);
}

static void a_tied_model(void **state)
{
    (void)state;
    run(dense_model("true"), 0, dense_body);
}

static void the_rows_of_samples(void **state)
{
    (void)state;
    run(dense_model("false"), 0, rows_body);
}

static void faults_of_samples(void **state)
{
    (void)state;
    run(dense_model("true"), 0, faults_body);
}

/* --- experts at their ranks --- */

static void experts_body(work *w)
{
    const bool media = w->base.ck.model.vision.present;
    if (media)
        mixed_samples(w);
    else
        text_samples(w);
    w->aux = (um_aux){.balance = 0.05f, .z = 0.01f};
    check_all(w);
    check_recompute(w);
}

static void experts_at_two_ranks(void **state)
{
    (void)state;
    const char *models[] = {"s4", "a4", "s8fm"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        run(golden_path(&arena, "models/%s", models[i]), 2, experts_body);
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
    run(golden_path(&arena, "models/s8"), 2, padded_body);
}

static void shared_experts(void **state)
{
    (void)state;
    char *model = um_arena_fmt(&arena, "%s/dynamic", dir);
    um_err err = {0};
    ok(um_file_mkdirs(model, &err), &err);
    dynamic_model_make(model, "p07", &arena);
    run(model, 2, experts_body);
}

/* --- the golden training cases --- */

/* Sample `row` of batch `b`, as the original's collator has it, without its padding. */
static void golden_sample(work *w, const um_tensors *want, int b, int row)
{
    const um_tensor *ids = um_tensors_find(want, um_arena_fmt(&w->host, "batch%d.input_ids", b));
    const um_tensor *labels = um_tensors_find(want, um_arena_fmt(&w->host, "batch%d.labels", b));
    assert_non_null(ids);
    assert_non_null(labels);
    const int L = (int)ids->shape[1];
    const int32_t *id = (const int32_t *)ids->data + row * L;
    int n = L;
    while (n > 0 && id[n - 1] == 0) n--;
    w->sample[w->samples++] =
        (um_train_sample){.ids = id, .labels = (const int32_t *)labels->data + row * L, .n = n};
}

static double golden_value(work *w, const um_tensors *want, int b, const char *name, int i)
{
    const um_tensor *t = um_tensors_find(want, um_arena_fmt(&w->host, "batch%d.%s", b, name));
    if (t == NULL) fail_msg("batch%d.%s is missing", b, name);
    float v[16];
    um_tensor_to_f32(v, t);
    return (double)v[i];
}

static void near(double got, double want, double tolerance, const char *what)
{
    if (!(fabs(got - want) <= tolerance * fmax(1.0, fabs(want))))
        fail_msg("%s: %.8g, want %.8g", what, got, want);
}

/* What an auxiliary term adds to the loss. */
static double term(const um_loss *l, um_aux_term k, double coef)
{
    double sum = 0;
    for (int i = 0; i < l->moe_layers; i++) sum += coef * l->aux[k][i];
    return sum;
}

static void golden_losses(work *w, const um_tensors *want, int b, const um_loss *l)
{
    const double loss = l->sum / l->targets + um_loss_aux(l, &w->aux);
    near(loss, golden_value(w, want, b, "loss", 0), 1e-5, "loss");
    if (w->base.ck.model.gate != UM_GATE_GSHARD) return;
    for (int i = 0; i < l->moe_layers; i++)
        near(l->aux[UM_AUX_BALANCE][i], golden_value(w, want, b, "balance", i), 1e-5, "balance");
    near(loss + term(l, UM_AUX_MULTIMODAL, 0.05),
         golden_value(w, want, b, "loss_with_aux_multimodal_loss", 0), 1e-5, "multimodal");
    near(loss + term(l, UM_AUX_KL, 0.02), golden_value(w, want, b, "loss_with_aux_kl_loss", 0),
         1e-5, "kl");
}

/* The sum of the gradients of the rows of some modalities: that of the bias of their projector's last layer. */
static void golden_media(work *w, const um_tensors *want, int b, uint32_t modalities,
                         const char *bias)
{
    const size_t D = (size_t)w->base.ck.model.dim;
    const um_tensor *t = um_tensors_find(want, um_arena_fmt(&w->host, "batch%d.grad.%s", b, bias));
    float *sum = um_arena_zero(&w->host, D * sizeof *sum), *v = um_arena_f32(&w->host, 1, D);
    bool any = false;
    for (int i = 0; i < w->batch.media_n; i++) {
        const um_media_place *p = &w->batch.media[i];
        if ((modalities >> p->modality & 1) == 0) continue;
        float *g = um_arena_f32(&w->host, (size_t)p->n, D);
        um_micro_batch_media_grad(&w->batch, i, g);
        for (size_t k = 0; k < (size_t)p->n * D; k++) sum[k % D] += g[k] / (float)w->batch.targets;
        any = true;
    }
    assert_true(any == (t != NULL));
    if (t == NULL) return;
    um_tensor_to_f32(v, t);
    if (!(distance(sum, v, D) < 1e-4f))
        fail_msg("%s: off by %g", bias, (double)distance(sum, v, D));
}

/* The gradients of what the router trains. */
static void golden_gradients(work *w, const um_tensors *want, int b)
{
    const um_params *ps = &w->base.params;
    for (size_t i = 0; i < ps->n; i++) {
        const um_param *p = &ps->list[i];
        const size_t n = um_spec_values(&p->spec);
        if (!p->trained) continue;
        const um_tensor *t =
            um_tensors_find(want, um_arena_fmt(&w->host, "batch%d.grad.%s", b, p->spec.name));
        if (t == NULL) fail_msg("batch%d: %s has no gradient there", b, p->spec.name);
        assert_true(p->touched);
        float *g = um_arena_f32(&w->host, 1, n), *v = um_arena_f32(&w->host, 1, n);
        um_param_fetch(p, g, p->grad);
        um_tensor_to_f32(v, t);
        for (size_t k = 0; k < n; k++) g[k] /= (float)w->batch.targets;
        const float off = distance(g, v, n);
        if (!(off < 1e-4f)) fail_msg("batch%d: %s: off by %g", b, p->spec.name, (double)off);
    }
    golden_media(w, want, b, UM_READS_VISION, "model.mm_projector.2.bias");
    golden_media(w, want, b, 1u << UM_SPEECH | 1u << UM_SOUND,
                 "model.mm_audio_aligner.projector.bias");
}

static void golden_batch(work *w, const um_tensors *want, int b)
{
    um_err err = {0};
    um_loss loss;
    um_micro_batch *m = &w->batch;
    um_params_zero_grads(&w->base.params);
    ok(um_micro_batch_build(m, w->sample, w->samples, true, 1, w->number++, &err), &err);
    while (!um_pass_done(&m->pass)) ok(um_pass_run(&m->pass, &err), &err);
    ok(um_loss_run(&loss, m, true, true, &w->host, &err), &err);
    golden_losses(w, want, b, &loss);
    while (!um_back_done(&m->back)) ok(um_back_run(&m->back, &err), &err);
    ok(um_micro_batch_finish(m, &err), &err);
    golden_gradients(w, want, b);
}

static void golden_body(work *w)
{
    static const uint8_t image[8] = {[1] = 1, [4] = 1}, audio[8] = {[2] = 1, [5] = 1},
                         video[8] = {[3] = 1, [4] = 1}; /* of s8's config.json */
    um_err err = {0};
    um_tensors *want;
    w->aux =
        (um_aux){.meant = {[UM_FM_IMAGE] = image, [UM_FM_AUDIO] = audio, [UM_FM_VIDEO] = video}};
    if (w->base.ck.model.gate == UM_GATE_GSHARD) w->aux.balance = 0.01f;
    ok(um_tensors_open(&want, w->ctx, &err), &err);
    golden_sample(w, want, 2, 0);
    golden_sample(w, want, 2, 1);
    golden_batch(w, want, 2);
    um_tensors_close(want);
}

/* The text batch of each case: the others need encoders (tests/cluster/test_training.c). */
static void golden_text_batches(void **state)
{
    (void)state;
    const char *models[] = {"s4", "a4", "s8"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) run_golden(models[i], golden_body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rows_of_samples),  cmocka_unit_test(faults_of_samples),
        cmocka_unit_test(a_dense_model),        cmocka_unit_test(a_tied_model),
        cmocka_unit_test(experts_at_two_ranks), cmocka_unit_test(pad_rows_at_two_ranks),
        cmocka_unit_test(shared_experts),       cmocka_unit_test(golden_text_batches),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}
