/* Encoder ranks in a job that trains, with routers that make up the gradients of media rows: requests that come too early wait, a medium
 * that cannot be decoded is an answer, and the weights after some steps have the same bits for any number of routers and encoder ranks.
 * Model: tests/golden/towers. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/comm/join.h"
#include "core/comm/role.h"
#include "core/train/saved.h"
#include "core/train/step.h"
#include "tests/cluster/cluster.h"
#include "tests/support/fixture.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define GOLDEN UM_TEST_DATA "/golden/"

enum { STEPS = 3, BATCHES = 3, ITEMS = 5, MAX_ROWS = 64, BROKEN = 3 };

/* The media of every micro-batch; one of them is cut off. */
static const struct {
    um_modality modality;
    const char *file;
} media[ITEMS] = {{UM_IMAGE, "tall.png"},
                  {UM_SPEECH, "speech.wav"},
                  {UM_SOUND, "siren.wav"},
                  {UM_IMAGE, "wide.png"},
                  {UM_IMAGE, "small.png"}};

/* What a job leaves behind. */
typedef struct job {
    cluster c;
    pthread_mutex_t lock;
    double loss[STEPS];   /* of all rows, before the step */
    int broken;           /* answers of the medium that is cut off */
    int norms;            /* of the last step, on router 0 */
    uint64_t first, last; /* steps */
} job;

typedef struct answer {
    bool here;
    uint32_t n;
    float *rows;
} answer;

typedef struct router {
    job *j;
    um_role_base base;
    um_step *step;
    uint64_t now;
    answer got[2][BATCHES][ITEMS]; /* of the step that is under way, and of the next */
} router;

/* A um_link_take. */
static um_status encoded(void *ctx, const um_inbound *in, um_err *err)
{
    router *r = ctx;
    const um_frame *f = &in->frame;
    ProtobufCMessage *msg = NULL;
    assert_true(f->step >= r->now && f->step <= r->now + 1 && f->batch < BATCHES &&
                f->layer < ITEMS);
    answer *a = &r->got[f->step % 2][f->batch][f->layer];
    UM_TRY(um_link_unpack(&msg, &um__encode_result__descriptor, in, &r->base.model, err));
    const Um__EncodeResult *res = (const Um__EncodeResult *)msg;
    assert_false(a->here);
    assert_int_equal(res->status != UM_OK, f->layer == BROKEN);
    if (res->status != UM_OK) {
        assert_non_null(strstr(res->text, media[BROKEN].file));
        pthread_mutex_lock(&r->j->lock);
        r->j->broken++;
        pthread_mutex_unlock(&r->j->lock);
    }
    a->here = true;
    a->n = f->rows;
    a->rows = um_arena_f32(&r->base.model, MAX_ROWS, f->cols);
    assert_true(f->rows <= MAX_ROWS);
    return f->rows > 0 ? um_link_rows(&r->base.link, a->rows, in, &r->base.step, err) : UM_OK;
}

/* The first encoder rank that reads a modality. */
static int encoder_of(const router *r, um_modality m)
{
    const um_topology *topo = &r->base.link.comm->topo;
    for (int i = 0; i < topo->count[UM_ROLE_ENCODER]; i++) {
        const int rank = topo->of_role[UM_ROLE_ENCODER][i];
        if ((topo->ranks[rank].modalities >> m & 1) != 0) return rank;
    }
    fail_msg("no encoder rank reads modality %d", (int)m);
    return -1;
}

static um_status request(router *r, uint64_t step, uint32_t b, uint32_t i, um_err *err)
{
    const um_mark mark = um_arena_mark(&r->base.step);
    ProtobufCBinaryData file;
    Um__EncodeRequest req = UM__ENCODE_REQUEST__INIT;
    Um__EncodeTraining train = UM__ENCODE_TRAINING__INIT;
    UM_TRY(um_file_read(&file.data, &file.len,
                        um_arena_fmt(&r->base.step, GOLDEN "media/%s", media[i].file), 1 << 22,
                        &r->base.step, err));
    if (i == BROKEN) file.len = 60;
    train.step = step;
    train.batch = b;
    train.item = i;
    train.keep = true;
    req.modality = (Um__Modality)media[i].modality;
    req.name = (char *)(uintptr_t)media[i].file;
    req.key = (char *)(uintptr_t)media[i].file;
    req.media = &file;
    req.n_media = 1;
    req.train = &train;
    um_status st = um_link_control(&r->base.link, encoder_of(r, media[i].modality), UM_KIND_ENCODE,
                                   &req.base, err);
    um_arena_reset(&r->base.step, mark);
    return st;
}

static um_status requests(router *r, uint64_t step, uint32_t from, uint32_t to, um_err *err)
{
    for (uint32_t b = from; b < to; b++)
        for (uint32_t i = 0; i < ITEMS; i++) UM_TRY(request(r, step, b, i, err));
    return UM_OK;
}

/* The gradient of half the square of what an item's rows are away from what is wanted; the picture of an odd micro-batch is not used. */
static um_status gradient(router *r, uint32_t b, uint32_t i, double *loss, um_err *err)
{
    answer *a = &r->got[r->now % 2][b][i];
    const size_t D = (size_t)r->base.ck.model.dim;
    const bool used = i != 4 || b % 2 == 0;
    for (size_t k = 0; k < (size_t)a->n * D; k++) {
        a->rows[k] -= (k + b) % 5 < 2 ? 1.0f : -0.5f;
        *loss += used ? (double)a->rows[k] * (double)a->rows[k] : 0.0;
    }
    const um_data_frame f = {.kind = UM_KIND_ENCODE_GRAD,
                             .step = r->now,
                             .batch = b,
                             .layer = i,
                             .rows = a->rows,
                             .n = used ? a->n : 0,
                             .cols = (uint32_t)D};
    return um_link_send_rows(&r->base.link, encoder_of(r, media[i].modality), &f, &r->base.step,
                             err);
}

static um_status one_batch(router *r, uint32_t b, double *loss, um_err *err)
{
    for (uint32_t i = 0; i < ITEMS; i++)
        while (!r->got[r->now % 2][b][i].here) {
            um_inbound in = {0};
            UM_TRY(um_link_next_any(&r->base.link, &in, -1, err));
            um_link_release(&r->base.link, &in);
        }
    for (uint32_t i = 0; i < ITEMS; i++)
        if (i != BROKEN) UM_TRY(gradient(r, b, i, loss, err));
    um_step_take(r->step, b);
    return UM_OK;
}

/* Makes a checkpoint of what the ranks wrote after the step before r->now. */
static um_status commit(router *r, const um_saved_file *files, int n, um_err *err)
{
    const char *folder;
    return um_saved_commit(&folder, dir, r->now - 1, files, n, "{}", &r->base.model, err);
}

static um_status one_step(router *r, um_err *err)
{
    um_role_base *b = &r->base;
    const um_topology *topo = &b->link.comm->topo;
    const bool leads = b->link.comm->rank == um_join_leader(b->link.comm),
               last = r->now == r->j->last;
    um_step_batch own[BATCHES];
    um_step_totals totals;
    um_step_norm *norms = NULL;
    um_saved_file *files = NULL;
    int n_norms = 0, n_files = 0, n = 0;
    uint32_t from, to;
    double squares = 0.0, loss = 0.0;
    um_grad_range(BATCHES, topo->count[UM_ROLE_ROUTER], topo->ranks[b->link.comm->rank].index,
                  &from, &to);
    if (r->now == r->j->first) UM_TRY(requests(r, r->now, from, to, err));
    if (!last) UM_TRY(requests(r, r->now + 1, from, to, err)); /* before their step */
    for (uint32_t m = from; m < to; m++) {
        UM_TRY(one_batch(r, m, &loss, err));
        own[n++] = (um_step_batch){.batch = m, .samples = 1, .targets = 1};
    }
    pthread_mutex_lock(&r->j->lock);
    r->j->loss[r->now - 1] += loss;
    pthread_mutex_unlock(&r->j->lock);
    memset(r->got[r->now % 2], 0, sizeof r->got[0]);
    UM_TRY(um_step_finish(r->step, r->now, own, n, &totals, &norms, &n_norms, &squares, &b->step,
                          err));
    um_step_orders o = {.lr = 1e-2, .scale = 1.0 / (double)totals.targets};
    if (last && leads) UM_TRY(um_saved_begin(&o.save, dir, r->now, &b->model, err));
    r->now++; /* answers of the next step may come from now on */
    UM_TRY(um_step_apply(r->step, &o, &files, &n_files, &b->step, err));
    if (leads) {
        assert_int_equal(totals.batches, BATCHES);
        assert_true(isfinite(squares) && squares > 0.0);
        r->j->norms = n_norms;
    }
    return last && leads ? commit(r, files, n_files, err) : UM_OK;
}

static um_status work(router *r, um_err *err)
{
    um_link *l = &r->base.link;
    const bool leads = l->comm->rank == um_join_leader(l->comm);
    UM_TRY(um_role_own(&r->base, 0, err));
    r->step = um_step_open(l, &r->base.params, NULL, 0, NULL, NULL);
    um_link_handle(l, UM_KIND_ENCODED, encoded, r);
    UM_TRY(leads ? um_join_all_ready(l, err) : um_join_ready(l, 0, 0, err));
    r->now = r->j->first;
    UM_TRY(um_step_begin(r->step, &r->now, err));
    while (r->now <= r->j->last) UM_TRY(one_step(r, err));
    if (leads) {
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
    router *r = um_zalloc(sizeof *r);
    r->j = ctx;
    um_status st = um_role_begin(&r->base, cfg, comm, err);
    if (st == UM_OK) st = um_role_join(&r->base, err);
    if (st == UM_OK) st = work(r, err);
    um_step_close(r->step);
    um_role_end(&r->base, st, err);
    um_free(r);
    return st;
}

/* How a job runs. */
typedef struct way {
    int routers, ranks;
    const char *encoders, *recompute;
    bool guarded;
    uint64_t broken_off; /* 0, or the step after which it ends and another one goes on */
} way;

/* Runs steps first .. last; what the encoder ranks write is dir/checkpoint-LAST. */
static void run(job *j, const way *w, uint64_t first, uint64_t last)
{
    memset(j, 0, sizeof *j);
    j->first = first;
    j->last = last;
    cluster_init(&j->c, GOLDEN "towers");
    pthread_mutex_init(&j->lock, NULL);
    j->c.cfg.train = true;
    j->c.cfg.stage = "0";
    j->c.cfg.routers = w->routers;
    j->c.cfg.experts = 0;
    j->c.cfg.encoders = w->encoders;
    j->c.cfg.recompute = w->recompute;
    if (first > 1) j->c.cfg.resume = um_arena_fmt(&arena, "%s/checkpoint-%d", dir, (int)first - 1);
    j->c.guarded = w->guarded;
    j->c.role[UM_ROLE_ROUTER] = router_run;
    j->c.role_ctx[UM_ROLE_ROUTER] = j;
    um_status st = cluster_run(&j->c);
    for (int i = 0; i < j->c.ranks && st != UM_OK; i++)
        if (j->c.status[i] != UM_OK) print_message("rank %d: %s\n", i, j->c.err[i].msg);
    assert_int_equal(st, UM_OK);
    cluster_free(&j->c);
    pthread_mutex_destroy(&j->lock);
}

/* A tensor that an encoder rank wrote. */
typedef struct kept {
    const char *name;
    void *data;
    size_t bytes;
} kept;

/* Copies of all tensors in the files of the encoder ranks, which the next run replaces. */
static size_t copy_all(kept *out, size_t most, int ranks)
{
    um_err err = {0};
    size_t n = 0;
    for (int i = 0; i < ranks; i++) {
        um_tensors *set = NULL;
        const char *path =
            um_arena_fmt(&arena, "%s/checkpoint-%d/encoder-%d.safetensors", dir, STEPS, i);
        if (um_tensors_open(&set, path, &err) != UM_OK) fail_msg("%s", err.msg);
        for (size_t k = 0; k < um_tensors_count(set); k++) {
            const um_tensor *t = um_tensors_at(set, k);
            assert_true(n < most);
            out[n] =
                (kept){um_arena_str(&arena, t->name), um_arena_alloc(&arena, t->bytes), t->bytes};
            memcpy(out[n++].data, t->data, t->bytes);
        }
        um_tensors_close(set);
    }
    return n;
}

static void test_same_weights(void **state)
{
    (void)state;
    static const char *const apart = "image=1,speech=1,sound=1";
    const way ways[] = {{1, 1, "1", "none", false, 0},   {2, 1, "1", "layer", false, 0},
                        {3, 3, apart, "none", false, 0}, {2, 3, apart, "none", true, 0},
                        {1, 1, "1", "none", false, 2},   {2, 3, apart, "layer", false, 1}};
    enum { MOST = 2000 };
    kept *first = um_arena_alloc(&arena, MOST * sizeof *first),
         *then = um_arena_alloc(&arena, MOST * sizeof *then);
    size_t n = 0;
    double loss[STEPS];
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        const uint64_t off = ways[w].broken_off;
        job j;
        if (off > 0) run(&j, &ways[1], 1, off); /* on other numbers of ranks */
        run(&j, &ways[w], off + 1, STEPS);
        assert_int_equal(j.broken, (STEPS - off) * BATCHES);
        if (w == 0) {
            assert_true(j.loss[STEPS - 1] < 0.95 * j.loss[0]);
            n = copy_all(first, MOST, ways[w].ranks);
            assert_true(n > 4 * 50 && j.norms > 50);
            memcpy(loss, j.loss, sizeof loss);
            continue;
        }
        for (uint64_t s = off; s < STEPS; s++) /* whose sum has another order */
            if (!(fabs(j.loss[s] - loss[s]) < 1e-9 * loss[s]))
                fail_msg("way %zu, step %d: loss %.12g, want %.12g", w, (int)s + 1, j.loss[s],
                         loss[s]);
        assert_int_equal(copy_all(then, MOST, ways[w].ranks), n);
        for (size_t i = 0; i < n; i++) {
            size_t k = 0;
            while (k < n && strcmp(then[k].name, first[i].name) != 0) k++;
            if (k == n) fail_msg("%s is missing", first[i].name);
            if (then[k].bytes != first[i].bytes ||
                memcmp(then[k].data, first[i].data, first[i].bytes) != 0)
                fail_msg("way %zu: %s has other bits", w, first[i].name);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_same_weights, folder_setup, folder_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
