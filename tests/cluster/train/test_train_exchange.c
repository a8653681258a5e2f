/* Training between routers and expert ranks: whatever their numbers, the weights have the same bits, those of one process that computes
 * everything by itself; frames that come twice, late or never; ranks that fall silent in the middle of a step. */
#include "core/base/arena.h"
#include "core/train/optimizer.h"
#include "expert_worker/expert.h"
#include "tests/cluster/train/train_job.h"
#include "tests/support/made_params.h"
#include "tests/support/test_support.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static void ok(um_status st, const um_err *err)
{
    if (st != UM_OK) fail_msg("%s", err->msg);
}

static void runs(train_job *j)
{
    um_status st = train_job_run(j);
    for (int r = 0; r < j->c.ranks && st != UM_OK; r++)
        if (j->c.status[r] != UM_OK) print_message("rank %d: %s\n", r, j->c.err[r].msg);
    assert_int_equal(st, UM_OK);
}

/* Every result of b is in a, with the same bits. Returns how many there are. */
static int same(const train_job *a, const train_job *b, const char *what)
{
    for (int i = 0; i < b->n; i++) {
        const train_result *y = &b->result[i], *x = train_job_get(a, y->name);
        if (x == NULL) fail_msg("%s: %s is missing", what, y->name);
        assert_int_equal(x->n, y->n);
        for (size_t v = 0; v < x->n; v++)
            if (memcmp(&x->value[v], &y->value[v], sizeof(float)) != 0)
                fail_msg("%s: %s[%zu] is %.9g, want %.9g", what, y->name, v, (double)x->value[v],
                         (double)y->value[v]);
    }
    return b->n;
}

/* --- one process --- */

typedef struct alone {
    train_job *out;
    um_dev dev;
    um_arena host, device, scratch;
    um_lora lora;
    um_checkpoint ck;
    um_params routers, experts;
    um_placement place;
    um_experts x;
    um_optimizer *router_opt, *expert_opt;
} alone;

static void alone_open(alone *a, train_job *out, const char *model)
{
    um_err err = {0};
    const um_towers towers = {"", "", ""};
    *a = (alone){.out = out};
    um_arena_init(&a->host, "host", 1 << 16);
    ok(um_dev_open_cpu(&a->dev, UM_ISA_AUTO, 1, &err), &err);
    um_dev_arena(&a->device, &a->dev, "device", 1 << 16);
    um_dev_arena(&a->scratch, &a->dev, "scratch", 1 << 16);
    a->lora.scratch = &a->scratch;
    ok(um_checkpoint_open(&a->ck, model, &towers, &err), &err);
    const um_loading how = {.dev = &a->dev,
                            .host = &a->host,
                            .device = &a->device,
                            .keep = UM_KEEP_F32,
                            .lora = &a->lora};
    const um_selection parts[] = {{.parts = 1u << UM_PART_BACKBONE | 1u << UM_PART_GATE},
                                  {.parts = 1u << UM_PART_EXPERT}};
    ok(um_params_open(&a->routers, &a->ck, &parts[0], &how, &err), &err);
    ok(um_params_open(&a->experts, &a->ck, &parts[1], &how, &err), &err);
    const um_model *m = &a->ck.model;
    ok(um_placement_blocks(&a->place, 1, m->experts, 1, &a->host, &err), &err);
    ok(um_experts_load(&a->x, &a->experts, &a->place, 0, &err), &err);
    for (size_t i = 0; i < a->routers.n; i++) {
        const um_spec *s = &a->routers.list[i].spec;
        const float *v;
        um_linear l;
        if (!train_of_router(NULL, s)) continue;
        if (um_spec_is_matrix(s) && s->leaf == UM_LEAF_WEIGHT)
            ok(um_linear_load(&l, &a->routers, s->at, &err), &err);
        else if (s->leaf != UM_LEAF_BIAS)
            ok(um_vector_load(&v, &a->routers, s->at, s->leaf, &err), &err);
    }
    ok(um_params_train(&a->routers, train_of_router, NULL, &err), &err);
    ok(um_params_train(&a->experts, trains_all, NULL, &err), &err);
    a->router_opt = train_optimizer(&a->routers);
    a->expert_opt = train_optimizer(&a->experts);
}

static void alone_close(alone *a)
{
    um_optimizer_close(a->router_opt);
    um_optimizer_close(a->expert_opt);
    um_checkpoint_close(&a->ck);
    um_arena_free(&a->scratch);
    um_arena_free(&a->device);
    um_arena_free(&a->host);
}

/* One layer of one micro-batch, forward and backward, expert by expert: the experts' gradients are added, dx is the rows' gradient. */
static void layer_back(alone *a, float *dx, uint64_t step, uint32_t b, int l)
{
    const um_model *m = &a->ck.model;
    const train_rows r = train_rows_make(m, step, b, l, &a->host);
    const int n = r.T * r.K;
    const size_t D = (size_t)r.D;
    float *dslot = um_arena_zero(&a->host, (size_t)n * D * sizeof(float));
    for (int e = 0; e < m->experts; e++) {
        int rows = 0, slot[TRAIN_ROWS * 8];
        const um_ffn *f = &a->x.ffn[a->x.at[a->x.moe_index[l] * m->experts + e]];
        float *x = um_arena_f32(&a->host, (size_t)r.T, D),
              *dy = um_arena_f32(&a->host, (size_t)r.T, D);
        for (int i = 0; i < n; i++) {
            if (r.experts[i] != e) continue;
            memcpy(x + (size_t)rows * D, r.x + (size_t)(i / r.K) * D, D * sizeof *x);
            memcpy(dy + (size_t)rows * D, r.dslot + (size_t)i * D, D * sizeof *x);
            slot[rows++] = i;
        }
        if (rows == 0) continue;
        um_mark mark = um_arena_mark(&a->scratch);
        um_ffn_acts acts;
        const size_t values = (size_t)rows * D;
        um_ffn_acts_bind(&acts, &a->scratch, rows, m->expert_dim);
        float *dev_x = um_dev_put_f32(&a->dev, &a->scratch, x, values),
              *dev_dy = um_dev_put_f32(&a->dev, &a->scratch, dy, values),
              *y = um_arena_f32(&a->scratch, 2, values), *back = y + values;
        um_ffn_fwd(&a->dev, y, &acts, f, dev_x, rows);
        a->dev.ops->fill(&a->dev, back, 0.0f, values);
        um_ffn_bwd(&a->dev, back, f, dev_dy, dev_x, &acts, rows, &a->scratch);
        for (int i = 0; i < rows; i++)
            a->dev.ops->get(&a->dev, dslot + (size_t)slot[i] * D, back + (size_t)i * D,
                            D * sizeof(float));
        um_arena_reset(&a->scratch, mark);
    }
    memset(dx, 0, (size_t)r.T * D * sizeof *dx);
    for (int i = 0; i < n; i++)
        for (size_t d = 0; d < D && r.experts[i] != UM_NO_EXPERT; d++)
            dx[(size_t)(i / r.K) * D + d] += dslot[(size_t)i * D + d];
}

/* Sum of g[b] over b in [i*2^l, (i+1)*2^l), added by the tree; false when there is none. */
static bool tree(float *out, float *const *g, int count, size_t n, int l, int i)
{
    if (i << l >= count) return false;
    if (l == 0) {
        if (g[i] != NULL) memcpy(out, g[i], n * sizeof *out);
        return g[i] != NULL;
    }
    float *right = um_zalloc(n * sizeof *right);
    const bool a = tree(out, g, count, n, l - 1, 2 * i),
               b = tree(right, g, count, n, l - 1, 2 * i + 1);
    for (size_t k = 0; b && k < n; k++) out[k] = a ? out[k] + right[k] : right[k];
    um_free(right);
    return a || b;
}

static void router_learns(alone *a, uint64_t step, float *const dx[TRAIN_BATCHES],
                          const size_t dx_n[TRAIN_BATCHES])
{
    for (size_t i = 0, number = 0; i < a->routers.n; i++) {
        um_param *p = &a->routers.list[i];
        const size_t n = um_spec_values(&p->spec);
        if (!p->trained) continue;
        float *g[TRAIN_BATCHES] = {0}, *sum = um_arena_zero(&a->host, n * sizeof *sum);
        bool touched = false;
        for (uint32_t b = 0; b < TRAIN_BATCHES; b++) {
            if (dx[b] == NULL) continue;
            g[b] = um_arena_zero(&a->host, n * sizeof(float));
            touched |= train_router_grad(g[b], n, number, step, b, dx[b], dx_n[b]);
        }
        number++;
        assert_true(tree(sum, g, TRAIN_BATCHES, n, 3, 0));
        if (touched) a->dev.ops->put(&a->dev, um_param_grad(p), sum, n * sizeof *sum);
    }
}

static double squares_of(um_optimizer *o, double sum)
{
    double q[TRAIN_MAX];
    assert_true(um_optimizer_params(o) <= TRAIN_MAX);
    um_optimizer_squares(q, o);
    for (size_t i = 0; i < um_optimizer_params(o); i++) sum += q[i];
    return sum;
}

static void keep_all(alone *a, const um_params *ps)
{
    for (size_t i = 0; i < ps->n; i++) {
        const um_param *p = &ps->list[i];
        if (!p->trained) continue;
        float *v = um_arena_f32(&a->host, 1, um_spec_values(&p->spec));
        um_param_read(p, v);
        train_job_put(a->out, p->spec.name, v, um_spec_values(&p->spec));
    }
}

static void alone_step(alone *a, uint64_t step)
{
    const um_model *m = &a->ck.model;
    float *dx[TRAIN_BATCHES] = {0};
    size_t dx_n[TRAIN_BATCHES] = {0};
    uint64_t targets = 0;
    for (uint32_t b = 0; b < TRAIN_BATCHES; b++) {
        uint64_t own;
        double value[TRAIN_VALUES];
        if (!train_exists(a->out, step, b)) continue;
        train_values(value, &own, step, b);
        targets += own;
        for (int l = m->layers - 1; l >= 0; l--) {
            if (!m->moe_layer[l]) continue;
            dx[b] = um_arena_f32(&a->host, TRAIN_ROWS, (size_t)m->dim);
            dx_n[b] = (size_t)train_rows_make(m, step, b, l, &a->host).T * (size_t)m->dim;
            layer_back(a, dx[b], step, b, l);
        }
        train_job_put(a->out, um_arena_fmt(&a->host, "dx.%d.%u", (int)step, b), dx[b], dx_n[b]);
    }
    router_learns(a, step, dx, dx_n);
    const double squares = squares_of(a->expert_opt, squares_of(a->router_opt, 0.0)),
                 scale = train_scale(targets, squares);
    float bits[2];
    memcpy(bits, &squares, sizeof squares);
    train_job_put(a->out, um_arena_fmt(&a->host, "squares.%d", (int)step), bits, 2);
    um_optimizer_step(a->router_opt, train_lr(step), scale);
    um_optimizer_step(a->expert_opt, train_lr(step), scale);
    um_params_zero_grads(&a->routers);
    um_params_zero_grads(&a->experts);
}

/* What one process learns that computes everything by itself, with other functions. */
static void learn_alone(train_job *out, const char *model, bool leave_out)
{
    alone a;
    memset(out, 0, sizeof *out);
    pthread_mutex_init(&out->lock, NULL);
    out->leave_out = leave_out;
    alone_open(&a, out, model);
    for (uint64_t step = 1; step <= TRAIN_STEPS; step++) alone_step(&a, step);
    keep_all(&a, &a.routers);
    keep_all(&a, &a.experts);
    alone_close(&a);
}

/* --- the same bits --- */

static void any_ranks_learn_the_same(void **state)
{
    um_arena a;
    train_job want, got;
    (void)state;
    um_arena_init(&a, "test", 4096);
    learn_alone(&want, golden_path(&a, "models/s4"), true);
    for (int routers = 1; routers <= 4; routers++)
        for (int experts = 1; experts <= 4; experts++) {
            char what[64];
            snprintf(what, sizeof what, "%d routers, %d expert ranks", routers, experts);
            train_job_open(&got, "s4", routers, experts, &a);
            got.leave_out = true;
            runs(&got);
            assert_true(same(&got, &want, what) > 2 * TRAIN_BATCHES);
            train_job_close(&got);
        }
    train_job_close(&want);
    um_arena_free(&a);
}

/* A job of two routers and three expert ranks that is started in another way learns the same. */
typedef void (*change_fn)(train_job *j);

static void recompute(train_job *j) { j->c.cfg.recompute = "ffn"; }
static void compressed(train_job *j) { j->c.cfg.codec = "zstd"; }
/* of an expert rank nothing fits beside the largest frame, and sums cross in small pieces */
static void little_credit(train_job *j) { j->c.cfg.credit = TRAIN_ROWS * 2 * 64 * 4; }
static void guarded(train_job *j) { j->c.guarded = true; }
static void guarded_recompute(train_job *j)
{
    j->c.guarded = true;
    j->c.cfg.recompute = "ffn";
}

static void other_ways_learn_the_same(void **state)
{
    const struct {
        const char *what;
        change_fn change;
    } way[] = {{"--recompute ffn", recompute},
               {"--codec zstd", compressed},
               {"little credit", little_credit},
               {"guarded memory", guarded},
               {"guarded memory, --recompute ffn", guarded_recompute}};
    um_arena a;
    train_job want, got;
    uint64_t peak[sizeof way / sizeof *way];
    (void)state;
    um_arena_init(&a, "test", 4096);
    learn_alone(&want, golden_path(&a, "models/s4"), false);
    for (size_t i = 0; i < sizeof way / sizeof *way; i++) {
        train_job_open(&got, "s4", 2, 3, &a);
        way[i].change(&got);
        runs(&got);
        same(&got, &want, way[i].what);
        peak[i] = got.kept_peak;
        train_job_close(&got);
    }
    assert_true(peak[0] > 0 && peak[0] < peak[1]); /* rows only */
    train_job_close(&want);
    um_arena_free(&a);
}

/* LoRA branches inside the experts, which drop a quarter of their inputs: by step, micro-batch and name, not by rank. */
static void dropped_inputs_do_not_depend_on_ranks(void **state)
{
    const int ranks[][2] = {{1, 1}, {2, 3}, {3, 2}, {4, 4}};
    um_arena a;
    train_job first, got, plain;
    (void)state;
    um_arena_init(&a, "test", 4096);
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
        train_job *j = i == 0 ? &first : &got;
        train_job_open(j, "s8", ranks[i][0], ranks[i][1], &a);
        j->c.cfg.lora = "live";
        j->dropout = 0.25f;
        if (i == 2) j->c.cfg.recompute = "ffn"; /* what was dropped is dropped again */
        runs(j);
        if (i == 0) continue;
        same(&got, &first, "with dropout");
        train_job_close(&got);
    }
    train_job_open(&plain, "s8", 1, 1, &a);
    plain.c.cfg.lora = "live";
    runs(&plain);
    int differ = 0;
    for (int i = 0; i < plain.n; i++) {
        const train_result *x = &plain.result[i], *y = train_job_get(&first, x->name);
        assert_non_null(y);
        differ += memcmp(x->value, y->value, x->n * sizeof(float)) != 0;
    }
    assert_true(differ > plain.n / 4);
    train_job_close(&plain);
    train_job_close(&first);
    um_arena_free(&a);
}

/* The last expert has no tokens in the first step: its gradient does not exist, and no weight of it changes. */
static void an_expert_without_tokens_takes_no_part(void **state)
{
    um_arena a;
    alone start;
    train_job got, initial;
    int none = 0, some = 0;
    (void)state;
    um_arena_init(&a, "test", 4096);
    memset(&initial, 0, sizeof initial);
    pthread_mutex_init(&initial.lock, NULL);
    alone_open(&start, &initial, golden_path(&a, "models/s4"));
    keep_all(&start, &start.experts);
    train_job_open(&got, "s4", 2, 2, &a);
    got.steps = 1;
    runs(&got);
    for (size_t i = 0; i < start.experts.n; i++) {
        const um_spec *s = &start.experts.list[i].spec;
        const bool idle = s->at.index == start.ck.model.experts - 1;
        const train_result *x = train_job_get(&initial, s->name), *y = train_job_get(&got, s->name);
        const bool changed = memcmp(x->value, y->value, x->n * sizeof(float)) != 0,
                   has_grad = train_job_get(&got, um_arena_fmt(&a, "grad.%s", s->name)) != NULL;
        if (changed == idle || has_grad == idle) fail_msg("%s", s->name);
        none += idle;
        some += !idle;
    }
    assert_true(none > 0 && some > 0);
    alone_close(&start);
    train_job_close(&initial);
    train_job_close(&got);
    um_arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_ranks_learn_the_same),
        cmocka_unit_test(other_ways_learn_the_same),
        cmocka_unit_test(dropped_inputs_do_not_depend_on_ranks),
        cmocka_unit_test(an_expert_without_tokens_takes_no_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
