/* See train_job.h. */
#include "tests/cluster/train/train_job.h"

#include "core/base/rng.h"
#include "core/comm/join.h"
#include "core/comm/role.h"
#include "core/train/step.h"
#include "expert_worker/expert_steps.h"
#include "router/backbone/backbone.h"
#include "tests/support/made_params.h"
#include "tests/support/test_support.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* --- results --- */

const train_result *train_job_get(const train_job *j, const char *name)
{
    for (int i = 0; i < j->n; i++)
        if (strcmp(j->result[i].name, name) == 0) return &j->result[i];
    return NULL;
}

void train_job_put(train_job *j, const char *name, const float *value, size_t n)
{
    pthread_mutex_lock(&j->lock);
    const train_result *r = train_job_get(j, name);
    bool differs = r != NULL && (r->n != n || memcmp(r->value, value, n * sizeof *value) != 0);
    if (r == NULL && j->n < TRAIN_MAX) {
        train_result *to = &j->result[j->n++];
        *to = (train_result){um_strdup(name), um_zalloc(n * sizeof *value + 1), n};
        memcpy(to->value, value, n * sizeof *value);
    }
    pthread_mutex_unlock(&j->lock);
    if (differs) {
        fprintf(stderr, "two ranks disagree about %s\n", name);
        abort();
    }
}

/* --- what is made up --- */

static um_rng stream(uint64_t step, uint32_t b, int layer, uint64_t what)
{
    return um_rng_seed(1000 * step + b, 100 * what + (uint64_t)layer);
}

train_rows train_rows_make(const um_model *m, uint64_t step, uint32_t b, int layer, um_arena *a)
{
    um_rng rng = stream(step, b, layer, 1);
    train_rows r = {.T = 1 + (int)(b * 5 + step) % TRAIN_ROWS, .K = m->top_k, .D = m->dim};
    const size_t T = (size_t)r.T, K = (size_t)r.K, D = (size_t)r.D;
    const int E = step == 1 ? m->experts - 1 : m->experts; /* the last has no tokens in step 1 */
    r.experts = um_arena_i32(a, T * K);
    r.x = um_arena_f32(a, T, D);
    r.dslot = um_arena_f32(a, T * K, D);
    um_rng_normal_f32(&rng, r.x, T * D, 1.0f);
    um_rng_normal_f32(&rng, r.dslot, T * K * D, 0.1f);
    for (size_t t = 0; t < T; t++)
        for (size_t k = 0; k < K; k++) {
            int32_t e = (int32_t)um_rng_below(&rng, (uint32_t)E);
            r.experts[t * K + k] = e;
            for (size_t i = 0; i < k; i++)
                if (r.experts[t * K + i] == e) r.experts[t * K + k] = UM_NO_EXPERT;
        }
    return r;
}

bool train_exists(const train_job *j, uint64_t step, uint32_t b)
{
    return !(j->leave_out && step == 2 && b == 4);
}

bool train_of_router(const void *ctx, const um_spec *s)
{
    (void)ctx;
    return s->at.part == UM_PART_GATE || (s->at.part == UM_PART_BACKBONE && s->rank == 1);
}

bool train_router_grad(float *g, size_t n, size_t number, uint64_t step, uint32_t b,
                       const float *dx, size_t dx_n)
{
    if (number % 4 == 1 && step == 1) return false; /* nothing in the whole step */
    if (number % 4 == 2 && b != 2) return false;    /* one micro-batch only */
    for (size_t i = 0; i < n; i++)
        g[i] = dx[(i * 7 + number) % dx_n] * (1.0f + (float)(i % 3)) + 0.01f * (float)b;
    return true;
}

double train_lr(uint64_t step) { return 1e-2 / (double)step; }
double train_scale(uint64_t targets, double squares)
{
    const double norm = sqrt(squares) / (double)targets;
    return (norm > 0.05 ? 0.05 / norm : 1.0) / (double)targets;
}

void train_values(double value[TRAIN_VALUES], uint64_t *targets, uint64_t step, uint32_t b)
{
    value[0] = 1.0 / (double)(b + 3);
    value[1] = (double)step * 0.1 * (double)b;
    *targets = 5 + b;
}

/* --- saving --- */

typedef struct saver {
    train_job *j;
    um_role_base *base;
} saver;

/* An um_step_saver: leaves the weights of this rank as results. */
static um_status save(void *ctx, const um_step_orders *orders, uint64_t step, um_saved_file **files,
                      int *n, um_arena *a, um_err *err)
{
    saver *s = ctx;
    um_params *ps = &s->base->params;
    (void)err;
    for (size_t i = 0; i < ps->n; i++) {
        const um_param *p = &ps->list[i];
        const size_t values = um_spec_values(&p->spec);
        if (!p->trained) continue;
        float *v = um_arena_f32(a, 1, values);
        um_param_read(p, v);
        train_job_put(s->j, p->spec.name, v, values);
        um_param_fetch(p, v, p->grad);
        if (orders->gradients && p->touched)
            train_job_put(s->j, um_arena_fmt(a, "grad.%s", p->spec.name), v, values);
    }
    *files = um_arena_zero(a, sizeof **files);
    (*files)->name = um_arena_fmt(a, "rank-%d", s->base->link.comm->rank);
    (*files)->bytes = step;
    *n = 1;
    return UM_OK;
}

um_optimizer *train_optimizer(um_params *ps)
{
    const um_optimizer_settings how = {
        .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
    return um_optimizer_open(ps, &how);
}

/* --- an expert rank --- */

typedef struct expert {
    um_experts experts;
    um_expert_steps steps;
    train_job *j;
    int frames;
} expert;

static um_status expert_frame(void *ctx, um_inbound *in, um_err *err)
{
    expert *x = ctx;
    const um_comm *c = x->steps.rank.base->link.comm;
    if (x->j->fails_after > 0 && c->rank == c->topo.n - 1 && ++x->frames > x->j->fails_after)
        return UM_FAIL(err, UM_E_IO, "its memory is on fire");
    return um_expert_steps_frame(&x->steps, in, err);
}

static um_status expert_serve(expert *x, um_role_base *b, saver *s, um_err *err)
{
    const um_role_task tasks[] = {{UM_KIND_DISPATCH, expert_frame, false},
                                  {UM_KIND_DISPATCH_GRAD, expert_frame, false},
                                  {UM_KIND_STEP_END, expert_frame, true}};
    const um_topology *topo = &b->link.comm->topo;
    UM_TRY(um_role_own(b, 0, err));
    UM_TRY(um_experts_load(&x->experts, &b->params, &topo->place,
                           topo->ranks[b->link.comm->rank].index, err));
    UM_TRY(um_params_train(&b->params, trains_all, NULL, err));
    um_training_rank *t = &x->steps.rank;
    t->base = b;
    t->select.dropout = s->j->dropout;
    t->optimizer = train_optimizer(&b->params);
    um_step_follower_open(&t->step, &b->link, &b->params, t->optimizer, save, s, 1);
    UM_TRY(um_expert_steps_open(&x->steps, &x->experts, err));
    UM_TRY(um_join_ready(&b->link, 0, x->experts.owned, err));
    return um_role_serve(b, tasks, 3, "waiting for rows", x, err);
}

static um_status expert_run(void *ctx, const um_config *cfg, um_comm *comm, um_err *err)
{
    train_job *j = ctx;
    um_role_base b = {0};
    expert x = {.j = j};
    saver s = {j, &b};
    um_status st = um_role_begin(&b, cfg, comm, err);
    if (st == UM_OK) st = um_role_join(&b, err);
    if (st == UM_OK) st = expert_serve(&x, &b, &s, err);
    if (x.steps.train != NULL) {
        uint64_t peak;
        assert_int_equal(st == UM_OK ? um_expert_train_entries(x.steps.train) : 0, 0);
        um_expert_train_bytes(x.steps.train, &peak);
        pthread_mutex_lock(&j->lock);
        if (peak > j->kept_peak) j->kept_peak = peak;
        pthread_mutex_unlock(&j->lock);
    }
    um_expert_steps_close(&x.steps);
    um_role_end(&b, st, err);
    return st;
}

/* --- a router --- */

typedef struct router {
    train_job *j;
    um_role_base base;
    um_backbone backbone;
    um_exchange *exchange;
    um_optimizer *optimizer;
    um_step *step;
} router;

/* A micro-batch at one layer. */
typedef struct leg {
    train_rows r;
    um_exchange_key key;
    um_dispatch_plan plan;
    float *x, *rows, *y, *weights, *drows, *dinput, *dx; /* device */
} leg;

static void leg_make(leg *g, router *r, uint64_t step, uint32_t b, int layer)
{
    um_role_base *base = &r->base;
    um_arena *host = &base->step, *device = &base->device_step;
    um_dev *dev = &base->dev;
    um_err err = {0};
    g->r = train_rows_make(&base->ck.model, step, b, layer, host);
    g->key = (um_exchange_key){.step = step, .layer = (uint32_t)layer, .batch = b};
    const size_t D = (size_t)g->r.D, pairs = (size_t)(g->r.T * g->r.K), T = (size_t)g->r.T;
    um_dispatch_plan_bind(&g->plan, host, device, g->r.T, g->r.K,
                          base->link.comm->topo.count[UM_ROLE_EXPERT]);
    if (um_dispatch_plan_build(&g->plan, &base->link.comm->topo.place, layer, g->r.experts, g->r.T,
                               dev, host, &err) != UM_OK)
        abort();
    g->x = um_dev_put_f32(dev, device, g->r.x, T * D);
    g->rows = um_arena_f32(device, pairs, D);
    g->y = um_arena_f32(device, T, D);
    g->weights = um_arena_f32(device, T, (size_t)g->r.K);
    dev->ops->fill(dev, g->weights, 0.5f, pairs);
    float *drows = um_arena_f32(host, pairs, D);
    for (size_t i = 0; i < pairs; i++)
        if (g->plan.slot[i] >= 0)
            memcpy(drows + (size_t)g->plan.slot[i] * D, g->r.dslot + i * D, D * sizeof *drows);
    g->drows = um_dev_put_f32(dev, device, drows, pairs * D);
    g->dinput = um_arena_f32(device, pairs, D);
    g->dx = um_arena_f32(device, T, D);
    dev->ops->fill(dev, g->dx, 0.0f, T * D);
}

static float *host_of(router *r, const float *device, size_t n)
{
    float *h = um_arena_f32(&r->base.step, 1, n);
    r->base.dev.ops->get(&r->base.dev, h, device, n * sizeof *h);
    return h;
}

/* The gradients of the router's parameters, as a backward pass would leave them. */
static void router_grads(router *r, const leg *lowest)
{
    um_params *ps = &r->base.params;
    um_dev *dev = &r->base.dev;
    const size_t dx_n = (size_t)(lowest->r.T * lowest->r.D);
    const float *dx = host_of(r, lowest->dx, dx_n);
    for (size_t i = 0, number = 0; i < ps->n; i++) {
        um_param *p = &ps->list[i];
        const size_t n = um_spec_values(&p->spec);
        if (!p->trained) continue;
        float *g = um_arena_f32(&r->base.step, 1, n);
        if (train_router_grad(g, n, number++, lowest->key.step, lowest->key.batch, dx, dx_n))
            dev->ops->put(dev, um_param_grad(p), g, n * sizeof *g);
    }
}

enum { FLIGHT = 2 };

/* Micro-batches from .. to-1, at most FLIGHT, through all layers and back. */
static um_status flight(router *r, uint64_t step, uint32_t from, uint32_t to, um_err *err)
{
    const um_model *m = &r->base.ck.model;
    um_mark h = um_arena_mark(&r->base.step), d = um_arena_mark(&r->base.device_step);
    leg *legs = um_arena_zero(&r->base.step, (size_t)(FLIGHT * m->layers) * sizeof *legs);
    um_exchange *x = r->exchange;
    for (int l = 0; l < m->layers; l++) {
        if (!m->moe_layer[l]) continue;
        for (uint32_t b = from; b < to; b++) {
            leg *g = &legs[(int)(b - from) * m->layers + l];
            leg_make(g, r, step, b, l);
            UM_TRY(um_exchange_dispatch(x, &g->plan, g->rows, g->x, g->key, err));
        }
        for (uint32_t b = from; b < to; b++) {
            leg *g = &legs[(int)(b - from) * m->layers + l];
            UM_TRY(um_exchange_combine(x, g->y, g->weights, g->key, err));
        }
    }
    leg *lowest[FLIGHT] = {0};
    for (int l = m->layers - 1; l >= 0; l--) {
        if (!m->moe_layer[l]) continue;
        for (uint32_t b = from; b < to; b++) {
            leg *g = lowest[b - from] = &legs[(int)(b - from) * m->layers + l];
            UM_TRY(um_exchange_dispatch_grad(x, &g->plan, g->dinput, g->drows, g->key, err));
        }
        for (uint32_t b = from; b < to; b++)
            UM_TRY(um_exchange_combine_grad(x, lowest[b - from]->dx, lowest[b - from]->key, err));
    }
    for (uint32_t b = from; b < to; b++) {
        const leg *g = lowest[b - from];
        char name[64];
        snprintf(name, sizeof name, "dx.%d.%u", (int)step, b);
        train_job_put(r->j, name, host_of(r, g->dx, (size_t)(g->r.T * g->r.D)),
                      (size_t)(g->r.T * g->r.D));
        router_grads(r, g);
        um_step_take(r->step, b);
    }
    um_arena_reset(&r->base.device_step, d);
    um_arena_reset(&r->base.step, h);
    return UM_OK;
}

static um_status end_of_step(router *r, uint64_t step, const um_step_batch *own, int n, um_err *err)
{
    um_role_base *b = &r->base;
    um_step_totals totals;
    um_step_norm *norms;
    um_saved_file *files;
    int n_norms, n_files;
    double squares;
    char name[64];
    UM_TRY(
        um_step_finish(r->step, step, own, n, &totals, &norms, &n_norms, &squares, &b->step, err));
    float bits[2 * TRAIN_VALUES + 2];
    memcpy(bits, totals.value, TRAIN_VALUES * sizeof(double));
    snprintf(name, sizeof name, "totals.%d", (int)step);
    train_job_put(r->j, name, bits, 2 * TRAIN_VALUES);
    um_step_orders o = {.lr = train_lr(step),
                        .scale = train_scale(totals.targets, squares),
                        .stop = step == (uint64_t)r->j->steps};
    if (o.stop) o.save = "end";
    o.gradients = o.stop;
    if (norms != NULL) {
        memcpy(bits, &squares, sizeof squares);
        snprintf(name, sizeof name, "squares.%d", (int)step);
        train_job_put(r->j, name, bits, 2);
    }
    UM_TRY(um_step_apply(r->step, &o, &files, &n_files, &b->step, err));
    if (norms != NULL) assert_int_equal(n_files, o.stop ? b->link.comm->topo.n : 0);
    for (int i = 0; i < n_files; i++)
        assert_string_equal(files[i].name, um_arena_fmt(&b->step, "rank-%d", i));
    return UM_OK;
}

static um_status one_step(router *r, uint64_t step, um_err *err)
{
    const um_topology *topo = &r->base.link.comm->topo;
    um_step_batch own[TRAIN_BATCHES];
    double value[TRAIN_BATCHES][TRAIN_VALUES];
    uint32_t from, to;
    int n = 0;
    um_mark h = um_arena_mark(&r->base.step);
    um_grad_range(TRAIN_BATCHES, topo->count[UM_ROLE_ROUTER],
                  topo->ranks[r->base.link.comm->rank].index, &from, &to);
    int all = 0;
    for (uint32_t b = from; b < to; b++) all += train_exists(r->j, step, b);
    if ((topo->ranks[r->base.link.comm->rank].index + step) % 2 == 0) um_step_expect(r->step, all);
    for (uint32_t b = from; b < to; b++) {
        if (!train_exists(r->j, step, b)) continue;
        const uint32_t end = b + 1 < to && train_exists(r->j, step, b + 1) ? b + 2 : b + 1;
        UM_TRY(flight(r, step, b, end, err));
        for (; b < end; b++) {
            own[n] = (um_step_batch){.batch = b, .samples = 1, .value = value[n]};
            train_values(value[n], &own[n].targets, step, b);
            n++;
        }
        b--;
    }
    um_status st = end_of_step(r, step, own, n, err);
    um_arena_reset(&r->base.step, h);
    return st;
}

static um_status router_start(router *r, saver *s, um_err *err)
{
    um_role_base *b = &r->base;
    UM_TRY(um_role_join(b, err));
    UM_TRY(um_role_own(b, 0, err));
    UM_TRY(um_backbone_load(&r->backbone, &b->params, err));
    UM_TRY(um_params_train(&b->params, train_of_router, NULL, err));
    r->optimizer = train_optimizer(&b->params);
    r->exchange = um_exchange_open(&b->link, &b->dev, b->ck.model.dim);
    r->step = um_step_open(&b->link, &b->params, r->optimizer, TRAIN_VALUES, save, s);
    if (b->link.comm->rank == um_join_leader(b->link.comm)) return um_join_all_ready(&b->link, err);
    return um_join_ready(&b->link, 0, 0, err);
}

static um_status router_work(router *r, um_err *err)
{
    um_link *l = &r->base.link;
    uint64_t first = 1;
    UM_TRY(um_step_begin(r->step, &first, err));
    for (uint64_t step = first; step <= (uint64_t)r->j->steps; step++)
        UM_TRY(one_step(r, step, err));
    if (l->comm->rank == um_join_leader(l->comm)) {
        Um__Shutdown bye = UM__SHUTDOWN__INIT;
        for (int p = 1; p < l->comm->topo.n; p++)
            UM_TRY(um_link_control(l, p, UM_KIND_SHUTDOWN, &bye.base, err));
        return UM_OK;
    }
    um_inbound in = {0};
    UM_TRY(um_link_next(l, &in, -1, err)); /* the shutdown */
    um_link_release(l, &in);
    return UM_OK;
}

static um_status router_run(void *ctx, const um_config *cfg, um_comm *comm, um_err *err)
{
    train_job *j = ctx;
    router r = {.j = j};
    saver s = {j, &r.base};
    um_status st = um_role_begin(&r.base, cfg, comm, err);
    if (st == UM_OK) st = router_start(&r, &s, err);
    if (st == UM_OK) st = router_work(&r, err);
    if (r.exchange != NULL) {
        pthread_mutex_lock(&j->lock);
        j->repeats += um_exchange_repeats(r.exchange);
        pthread_mutex_unlock(&j->lock);
    }
    um_step_close(r.step);
    um_exchange_close(r.exchange);
    um_optimizer_close(r.optimizer);
    um_backbone_close(&r.backbone);
    um_role_end(&r.base, st, err);
    return st;
}

/* --- the job --- */

void train_job_open(train_job *j, const char *model, int routers, int experts, um_arena *a)
{
    memset(j, 0, sizeof *j);
    cluster_init(&j->c, golden_path(a, "models/%s", model));
    j->c.cfg.train = true;
    j->c.cfg.routers = routers;
    j->c.cfg.experts = experts;
    j->c.cfg.encoders = "0";
    j->c.cfg.weights = "f32";
    j->c.role[UM_ROLE_ROUTER] = router_run;
    j->c.role[UM_ROLE_EXPERT] = expert_run;
    j->c.role_ctx[UM_ROLE_ROUTER] = j->c.role_ctx[UM_ROLE_EXPERT] = j;
    j->steps = TRAIN_STEPS;
    pthread_mutex_init(&j->lock, NULL);
}

um_status train_job_run(train_job *j) { return cluster_run(&j->c); }

void train_job_close(train_job *j)
{
    for (int i = 0; i < j->n; i++) {
        um_free(j->result[i].name);
        um_free(j->result[i].value);
    }
    cluster_free(&j->c);
    pthread_mutex_destroy(&j->lock);
}
