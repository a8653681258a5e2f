/* A pass through the layers with activations of their own for every layer, as a backward pass needs them: the same bits as with one for
 * all, nothing of a layer overwritten by a later one, and the experts' rows, plan and routing kept. On guarded memory. */
#include "tests/cluster/cluster.h"
#include "tests/support/test_support.h"

#include "core/comm/join.h"
#include "core/comm/role.h"
#include "router/backbone/backbone.h"
#include "router/engine/kv_pool.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

enum { T = 37, PAGES = (T + UM_PAGE - 1) / UM_PAGE };

static void ok(um_status st, const um_err *err)
{
    if (st != UM_OK) fail_msg("%s", err->msg);
}

/* Router 0 with everything that a pass needs. */
typedef struct bench {
    um_role_base base;
    um_backbone backbone;
    um_exchange *exchange;
    um_kv_pool *pool;
    uint64_t steps;
} bench;

/* A copy of n values on the host. */
static float *values(bench *b, const float *device, size_t n)
{
    float *v = um_arena_f32(&b->base.model, 1, n);
    b->base.dev.ops->get(&b->base.dev, v, device, n * sizeof *v);
    return v;
}

static void same(bench *b, const float *x, const float *y, size_t n, const char *what, int layer)
{
    if (memcmp(values(b, x, n), values(b, y, n), n * sizeof *x) != 0)
        fail_msg("layer %d: %s", layer, what);
}

static um_batch batch_make(bench *b)
{
    const um_model *m = &b->base.ck.model;
    um_arena *host = &b->base.model, *device = &b->base.device;
    um_dev *dev = &b->base.dev;
    float *h = um_arena_f32(host, T, (size_t)m->dim);
    int32_t pos[T], table[PAGES];
    um_kv *kv = um_arena_alloc(host, (size_t)m->layers * sizeof *kv);
    um_span *span = um_arena_zero(host, sizeof *span);
    um_segment *seg = um_arena_zero(host, sizeof *seg);
    for (int t = 0; t < T; t++) {
        um_backbone_embed(&b->backbone, h + t * m->dim, 3 + 7 * t % (m->vocab - 3));
        pos[t] = t;
    }
    for (int i = 0; i < PAGES; i++) table[i] = um_kv_pool_alloc(b->pool);
    const int32_t *there = um_dev_put_i32(dev, device, table, PAGES);
    for (int l = 0; l < m->layers; l++) kv[l] = um_kv_pool_layer(b->pool, l, there);
    um_rope_reserve(&b->backbone.rope, T);
    *span = (um_span){.T = T, .n = T};
    *seg = (um_segment){.T = T};
    um_batch batch = {.T = T,
                      .h = um_dev_put_f32(dev, device, h, (size_t)T * (size_t)m->dim),
                      .pos = um_dev_put_i32(dev, device, pos, T),
                      .modality = um_arena_zero(host, T),
                      .seg = seg,
                      .span = span,
                      .segs = 1,
                      .kv = kv,
                      .step = ++b->steps};
    um_batch_modalities(&batch, dev, device, host);
    return batch;
}

static um_acts *acts_make(bench *b, const um_batch *batch, bool keep)
{
    const um_model *m = &b->base.ck.model;
    const um_acts_arenas to = {&b->base.model, &b->base.device};
    int n = keep ? m->layers : 1;
    um_acts *a = um_arena_alloc(&b->base.model, (size_t)n * sizeof *a);
    for (int l = 0; l < n; l++)
        um_acts_bind(&a[l], to, m, b->base.link.comm->topo.count[UM_ROLE_EXPERT], batch->h, T,
                     keep);
    return a;
}

/* Returns the output. */
static const float *run(bench *b, um_batch *batch, um_acts *acts, bool keep)
{
    um_err err = {0};
    um_pass pass = {.backbone = &b->backbone,
                    .batch = batch,
                    .acts = acts,
                    .keep = keep,
                    .exchange = b->exchange,
                    .dev = &b->base.dev,
                    .host = &b->base.step,
                    .device = &b->base.device_step};
    while (!um_pass_done(&pass)) ok(um_pass_run(&pass, &err), &err);
    return um_pass_out(&pass);
}

/* What a layer has kept still fits together. */
static void layer_holds(bench *b, um_acts *a, int l)
{
    const um_model *m = &b->base.ck.model;
    const um_layer *w = &b->backbone.blocks[l];
    um_dev *dev = &b->base.dev;
    size_t n = (size_t)T * (size_t)m->dim;
    float *y = um_arena_f32(&b->base.device, 1, n);
    if (l > 0) assert_ptr_equal(a[l].in, a[l - 1].out);
    dev->ops->rmsnorm_fwd(dev, y, NULL, a[l].in, w->norm1.w, T, m->dim, m->rms_eps);
    same(b, y, a[l].ln1, n, "ln1 is not the norm of in", l);
    dev->ops->rmsnorm_fwd(dev, y, NULL, a[l].mid, w->norm2.w, T, m->dim, m->rms_eps);
    same(b, y, a[l].ln2, n, "ln2 is not the norm of mid", l);
    um_attention_output(dev, y, &a[l].attention, &w->attention, a[l].in, T);
    same(b, y, a[l].mid, n, "mid is not in + attention", l);
    if (w->moe) {
        dev->ops->combine(dev, y, a[l].rows, a[l].plan.device_slot, a[l].route.weights, T, m->top_k,
                          m->dim);
        same(b, y, a[l].y, n, "y is not the sum of the experts' rows", l);
    }
    dev->ops->copy(dev, y, a[l].mid, n * sizeof *y);
    dev->ops->add(dev, y, a[l].y, n);
    same(b, y, a[l].out, n, "out is not mid + y", l);
}

static um_status lead(void *ctx, const um_config *cfg, um_comm *comm, um_err *err)
{
    bench b = {0};
    (void)ctx;
    ok(um_role_begin(&b.base, cfg, comm, err), err);
    ok(um_role_join(&b.base, err), err);
    ok(um_role_own(&b.base, 0, err), err);
    ok(um_backbone_load(&b.backbone, &b.base.params, err), err);
    ok(um_join_all_ready(&b.base.link, err), err);
    const um_model *m = &b.base.ck.model;
    const um_kv_shape shape = {m->layers, m->kv_heads, m->head_dim};
    b.exchange = um_exchange_open(&b.base.link, &b.base.dev, m->dim);
    ok(um_kv_pool_open(&b.pool, &b.base.dev, shape, 2 * PAGES, err), err);
    um_batch one = batch_make(&b), each = batch_make(&b);
    const float *want = run(&b, &one, acts_make(&b, &one, false), false);
    um_acts *kept = acts_make(&b, &each, true);
    same(&b, want, run(&b, &each, kept, true), (size_t)T * (size_t)m->dim, "the output differs",
         m->layers);
    for (int l = 0; l < m->layers; l++) layer_holds(&b, kept, l);
    Um__Shutdown bye = UM__SHUTDOWN__INIT;
    for (int p = 1; p < comm->topo.n; p++)
        ok(um_link_control(&b.base.link, p, UM_KIND_SHUTDOWN, &bye.base, err), err);
    um_kv_pool_close(b.pool);
    um_exchange_close(b.exchange);
    um_backbone_close(&b.backbone);
    um_role_end(&b.base, UM_OK, err);
    return UM_OK;
}

static void every_layer_keeps_its_activations(void **state)
{
    (void)state;
    const char *models[] = {"s4", "s8", "s8fm"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        um_arena a;
        cluster c;
        um_arena_init(&a, "test", 4096);
        cluster_init(&c, golden_path(&a, "models/%s", models[i]));
        c.cfg.experts = 2;
        c.cfg.encoders = "0";
        c.guarded = true;
        c.lead = lead;
        um_status st = cluster_run(&c);
        for (int r = 0; r < c.ranks; r++)
            if (c.status[r] != UM_OK) print_message("rank %d: %s\n", r, c.err[r].msg);
        assert_int_equal(st, UM_OK);
        cluster_free(&c);
        um_arena_free(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layer_keeps_its_activations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
