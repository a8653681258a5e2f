/* The plan of a training job's memory: what is trained takes its master, gradient and moments; what only lies on the way back takes its
 * transposed matrices; longer samples, more of them and less recomputation take more; what cannot fit is refused with the numbers. */
#include "core/nn/params.h"
#include "core/train/grad_tree.h"
#include "launch/job/training_plan.h"
#include "tests/support/launch_fixture.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static const um_training_load load = {
    .samples = 100, .longest = 200, .media = {[UM_IMAGE] = 50, [UM_SPEECH] = 30, [UM_SOUND] = 30}};

static void plan_of(um_memory_plan *out, launch_fixture *f, const um_checkpoint *ck,
                    const um_training_load *l)
{
    if (um_memory_plan_make(out, &f->cfg, ck, 1, &f->arena, &f->err) != UM_OK ||
        um_training_plan_add(out, &f->cfg, ck, l, &f->arena, &f->err) != UM_OK)
        fail_msg("%s", f->err.msg);
}

static void begin(launch_fixture *f, um_checkpoint *ck)
{
    if (um_checkpoint_open(ck, UM_TEST_DATA "/golden/models/s4", NULL, &f->err) != UM_OK)
        fail_msg("%s", f->err.msg);
    f->cfg.routers = 1;
    f->cfg.experts = 2;
    f->cfg.encoders = "1";
    f->cfg.stage = "0";
    f->cfg.batch = 8;
    f->cfg.micro_batch = 1;
}

/* s4 is stored as f32; ranks: the router, two experts, an encoder. */
static void what_trains_has_a_master_a_gradient_and_moments(void **state)
{
    launch_fixture *f = *state;
    um_checkpoint ck = {0};
    um_memory_plan all, connectors;
    begin(f, &ck);
    const um_model *m = &ck.model;
    plan_of(&all, f, &ck, &load);
    assert_int_equal(all.n, 4);
    /* two experts of each layer: three matrices */
    const int64_t values = (int64_t)m->moe_layers * 2 * 3 * m->dim * m->expert_dim;
    assert_int_equal(all.rank[1].training, values * 16 + all.rank[1].weights);
    assert_int_equal(all.rank[2].training, all.rank[1].training);
    /* the router's and the encoder's gradients lie in the tree too: three vectors for eight micro-batches */
    const int64_t before = all.rank[0].training, encoder = all.rank[3].training;
    f->cfg.micro_batch = 8;
    plan_of(&all, f, &ck, &load);
    const int64_t tree = before - all.rank[0].training;
    assert_true(tree > 0 && tree % 3 == 0);
    assert_true(all.rank[0].training > 4 * (tree / 3) && encoder > all.rank[3].training);
    /* connectors alone: nothing of the experts, but their rows go back through them */
    f->cfg.stage = "1";
    f->cfg.connector = "image";
    plan_of(&connectors, f, &ck, &load);
    assert_int_equal(connectors.rank[1].training, connectors.rank[1].weights);
    assert_true(connectors.rank[0].training < all.rank[0].training / 4);
    assert_true(connectors.rank[3].training > 0 &&
                connectors.rank[3].training < all.rank[3].training / 4);
    um_checkpoint_close(&ck);
}

static int64_t buffers_of(launch_fixture *f, const um_checkpoint *ck, const um_training_load *l,
                          int rank)
{
    um_memory_plan p;
    plan_of(&p, f, ck, l);
    return p.rank[rank].buffers;
}

static void buffers_follow_the_samples_and_the_options(void **state)
{
    launch_fixture *f = *state;
    um_checkpoint ck = {0};
    um_training_load longer = load;
    begin(f, &ck);
    longer.longest *= 4;
    int64_t now[4];
    for (int r = 0; r < 4; r++) now[r] = buffers_of(f, &ck, &load, r);
    for (int r = 0; r < 3; r++) assert_true(buffers_of(f, &ck, &longer, r) > now[r]);
    f->cfg.recompute = "layer";
    for (int r = 0; r < 4; r++) assert_true(buffers_of(f, &ck, &load, r) < now[r]);
    f->cfg.recompute = "none";
    f->cfg.micro_batch = 4;
    for (int r = 0; r < 3; r++) assert_true(buffers_of(f, &ck, &load, r) > now[r]);
    f->cfg.micro_batch = 1;
    /* experts keep what waits for the turns of another router's micro-batches, unless they may not */
    f->cfg.routers = 2;
    const int64_t two = buffers_of(f, &ck, &load, 2);
    assert_true(two > now[1]);
    f->cfg.activation_memory = 4096;
    assert_true(buffers_of(f, &ck, &load, 2) < two);
    um_checkpoint_close(&ck);
}

static void what_cannot_fit_is_refused(void **state)
{
    launch_fixture *f = *state;
    const int64_t gib = INT64_C(1) << 30;
    um_memory_plan_rank ranks[] = {
        {.role = UM_ROLE_ROUTER, .weights = 3 * gib, .training = 4 * gib, .buffers = gib},
        {.role = UM_ROLE_EXPERT, .weights = 5 * gib, .training = 8 * gib}};
    um_memory_plan p = {ranks, 2};
    assert_int_equal(um_training_plan_check(&p, 20 * gib, &f->err), UM_OK);
    assert_int_equal(um_training_plan_check(&p, 0, &f->err), UM_OK); /* nobody knows */
    assert_int_equal(um_training_plan_check(&p, 20 * gib - 1, &f->err), UM_E_MEMORY);
    assert_non_null(strstr(f->err.msg,
                           "needs at least 20.0 GiB (weights 8.0 GiB; masters, gradients "
                           "and moments 12.0 GiB), and 20.0 GiB are free"));
    assert_non_null(strstr(f->err.msg, "--stage"));
    /* what only the longest samples need is a warning */
    const char *s = um_memory_plan_shortage(&p, 20 * gib, &f->arena);
    assert_non_null(strstr(s, "need about 21.0 GiB"));
    assert_non_null(strstr(s, "--recompute"));
}

static void the_table_shows_it(void **state)
{
    launch_fixture *f = *state;
    um_memory_plan_rank ranks[] = {
        {.role = UM_ROLE_ROUTER, .weights = 1 << 20, .training = 4 << 20, .buffers = 2 << 20}};
    um_memory_plan p = {ranks, 1};
    char text[1024] = "";
    (void)f;
    for (int trains = 1; trains >= 0; trains--) {
        FILE *to = fmemopen(text, sizeof text, "w");
        if (trains == 0) ranks[0].training = 0;
        um_memory_plan_print(&p, to);
        fclose(to);
        assert_int_equal(strstr(text, "training") != NULL, trains);
        assert_int_equal(strstr(text, "4.0 MiB") != NULL, trains);
    }
}

/* As many as a binary counter has digits, while it counts. */
static void vectors_of_the_tree(void **state)
{
    (void)state;
    for (uint32_t n = 1; n < 70; n++) {
        int most = 0;
        for (uint32_t b = 0; b + 1 < n; b++) { /* the last one is lent */
            int held = 1;
            for (uint32_t x = b; x > 0; x &= x - 1) held++;
            if (held > most) most = held;
        }
        assert_int_equal(um_grad_tree_vectors(n), most);
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, launch_setup, launch_teardown)
    const struct CMUnitTest tests[] = {
        T(what_trains_has_a_master_a_gradient_and_moments),
        T(buffers_follow_the_samples_and_the_options),
        T(what_cannot_fit_is_refused),
        T(the_table_shows_it),
        T(vectors_of_the_tree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
