/* See backward_fixture.h. */
#include "tests/cluster/train/backward_fixture.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/rng.h"
#include "core/comm/join.h"
#include "core/train/training_file.h"
#include "launch/model_dir/init.h"
#include "router/request/prompt.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"
#include "tests/support/test_support.h"

#include <stdio.h>
#include <string.h>

void work_ok(um_status st, const um_err *err)
{
    if (st != UM_OK) fail_msg("%s", err->msg);
}

static bool every(const void *ctx, const um_spec *s)
{
    (void)ctx;
    (void)s;
    return true;
}

static void adapt(um_params *ps, um_err *err)
{
    const um_adapter_rules rules = {
        .parts = 1u << UM_PART_BACKBONE,
        .slots = UINT64_C(1) << UM_SLOT_Q | UINT64_C(1) << UM_SLOT_K | UINT64_C(1) << UM_SLOT_V |
                 UINT64_C(1) << UM_SLOT_O | UINT64_C(1) << UM_SLOT_GATE_PROJ |
                 UINT64_C(1) << UM_SLOT_UP_PROJ | UINT64_C(1) << UM_SLOT_DOWN_PROJ |
                 UINT64_C(1) << UM_SLOT_HEAD,
        .r = 3,
        .alpha = 6,
        .seed = 1};
    work_ok(um_params_adapt(ps, &rules, err), err);
}

/* B of an adapter begins at zero, and A would have no gradient. */
static void fill_adapters(work *w)
{
    um_params *ps = &w->base.params;
    um_rng rng = um_rng_seed(3, 3);
    for (size_t i = 0; i < ps->n; i++) {
        um_param *p = &ps->list[i];
        const size_t n = um_spec_values(&p->spec);
        if (p->adapter == NULL || p->spec.leaf != UM_LEAF_ADAPTER_B) continue;
        um_mark mark = um_arena_mark(&w->host);
        float *v = um_arena_f32(&w->host, 1, n);
        um_rng_normal_f32(&rng, v, n, 0.2f);
        um_param_write(p, v);
        um_arena_reset(&w->host, mark);
    }
    um_params_repack(ps);
    w->base.lora.dropout = 0.2f;
}

/* Loads the router's weights and makes what trains trainable. */
static void load(work *w, const um_config *cfg, um_err *err)
{
    um_params *ps = &w->base.params;
    const bool golden = w->trains == WORK_GOLDEN;
    if (golden) {
        work_ok(um_select_open(&w->select, cfg, &w->base.ck.model, &w->base.model, err), err);
        work_ok(um_select_adapt(&w->select, ps, err), err);
    } else {
        ps->how.trained = every;
        if (w->trains == WORK_ADAPTERS) adapt(ps, err);
    }
    work_ok(um_backbone_load(&w->backbone, ps, err), err);
    if (golden)
        work_ok(um_select_begin(&w->select, ps, err), err);
    else
        work_ok(um_params_train(ps, every, NULL, err), err);
    if (w->trains == WORK_ADAPTERS) fill_adapters(w);
}

static void finish(work *w, um_err *err)
{
    Um__Shutdown bye = UM__SHUTDOWN__INIT;
    um_micro_batch_close(&w->batch);
    um_arena_free(&w->host);
    for (int p = 1; p < w->base.link.comm->topo.n; p++)
        work_ok(um_link_control(&w->base.link, p, UM_KIND_SHUTDOWN, &bye.base, err), err);
    um_exchange_close(w->exchange);
    um_backbone_close(&w->backbone);
    um_select_close(&w->select);
    um_role_end(&w->base, UM_OK, err);
}

static um_status lead(void *ctx, const um_config *cfg, um_comm *comm, um_err *err)
{
    work *w = ctx;
    um_arena_init(&w->host, "test", 1 << 16);
    work_ok(um_role_begin(&w->base, cfg, comm, err), err);
    work_ok(um_role_join(&w->base, err), err);
    work_ok(um_role_own(&w->base, 0, err), err);
    load(w, cfg, err);
    work_ok(um_join_all_ready(&w->base.link, err), err);
    w->exchange = um_exchange_open(&w->base.link, &w->base.dev, w->base.ck.model.dim);
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
    finish(w, err);
    return UM_OK;
}

static void run(work *w, int experts, int threads, void (*body)(work *w))
{
    w->c.cfg.experts = experts;
    w->c.cfg.threads = threads;
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

void work_run(const char *model, work_trains trains, int experts, int threads,
              void (*body)(work *w))
{
    work *w = um_zalloc(sizeof *w);
    cluster_init(&w->c, model);
    w->trains = trains;
    run(w, experts, threads, body);
}

void work_run_golden(const char *name, void (*body)(work *w))
{
    work *w = um_zalloc(sizeof *w);
    um_err err = {0};
    um_training_file file;
    const char *path = golden_path(&arena, "training/%s/training.json", name);
    work_ok(um_training_file_open(&file, path, &arena, &err), &err);
    cluster_init(&w->c, "");
    work_ok(um_training_file_options(&file, &w->c.cfg, &arena, &err), &err);
    w->trains = WORK_GOLDEN;
    w->expected = golden_path(&arena, "training/%s/expected.safetensors", name);
    run(w, 2, 1, body);
    um_training_file_close(&file);
}

void work_sample(work *w, int n, int answer, um_modality modality, int rows)
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

void work_samples(work *w)
{
    const um_model *m = &w->base.ck.model;
    const bool media = m->vision.present || m->experts == 0; /* of a dense model nobody asks */
    work_sample(w, 13, 6, UM_IMAGE, media ? 5 : 0);
    work_sample(w, 9, 4, UM_TEXT, 0);
    work_sample(w, 20, 5, UM_SPEECH, media ? 7 : 0);
}

char *work_dense_model(const char *tied)
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
    work_ok(um_init_run(&init, said, &err), &err);
    fclose(said);
    return name;
}

double work_pass(work *w, bool gradient)
{
    um_err err = {0};
    um_loss loss;
    um_micro_batch *m = &w->batch;
    um_mark mark = um_arena_mark(&w->host);
    const uint32_t number = w->number | (gradient ? 0 : UM_BATCH_FORWARD);
    if (!w->same_number) w->number++;
    work_ok(um_micro_batch_build(m, w->sample, w->samples, w->pad_rows, 1, number, &err), &err);
    while (!um_pass_done(&m->pass)) work_ok(um_pass_run(&m->pass, &err), &err);
    work_ok(um_loss_run(&loss, m, gradient, false, &w->host, &err), &err);
    while (gradient && !um_backward_done(&m->backward))
        work_ok(um_backward_run(&m->backward, &err), &err);
    if (gradient) work_ok(um_micro_batch_finish(m, &err), &err);
    const double total = loss.sum + loss.targets * um_loss_aux(&loss, &w->aux);
    um_arena_reset(&w->host, mark);
    return total;
}

float *work_gradients(work *w, const um_micro_batch *m, size_t *n)
{
    const um_params *ps = &w->base.params;
    const size_t rows = (size_t)m->T * (size_t)w->base.ck.model.dim;
    um_dev *dev = &w->base.dev;
    *n = ps->n_grads + rows;
    float *g = um_arena_f32(&w->host, 1, *n);
    dev->ops->get(dev, g, ps->grads, ps->n_grads * sizeof *g);
    dev->ops->get(dev, g + ps->n_grads, m->backward.dx, rows * sizeof *g);
    return g;
}
