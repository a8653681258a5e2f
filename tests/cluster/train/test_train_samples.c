/* What a run makes of its samples and of its options, in whole runs: media that no sample has, experts without tokens, routers without
 * micro-batches, samples that cannot be used; learning rates, clipping and spikes; what evaluations measure; noise and biases of gates. */
#include "tests/cluster/train/training_fixture.h"
#include "tests/support/fixture.h"
#include "tests/support/folder.h"
#include "tests/support/test_support.h"

#include "core/base/file.h"
#include "core/train/saved.h"
#include "core/train/training_file.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static um_err why;

static void ok(um_status st)
{
    if (st != UM_OK) fail_msg("%s", why.msg);
}

/* A data file of the samples with these numbers of the golden training file. */
static const char *data_of(const int *number, int n)
{
    um_json *file = golden_json(golden_path(&arena, "training/s4/training.json"));
    const char *path = um_path_join(&arena, dir, "some.json");
    um_text t = {0};
    for (int i = 0; i < n; i++) {
        const um_json *sample = um_json_at(um_json_get(file, "samples"), (size_t)number[i]);
        um_text_fmt(&t, "%s%s", i == 0 ? "[" : ",\n", um_json_compact(sample, &arena));
    }
    um_text_fmt(&t, "]\n");
    ok(um_file_write(path, t.s, t.n, &why));
    um_text_free(&t);
    um_json_free(file);
    return path;
}

/* --- what a checkpoint says of a tensor --- */

typedef struct kept {
    bool zero;     /* both moments */
    int64_t steps; /* that have changed it */
} kept;

static kept kept_of(const um_saved *s, const char *name)
{
    const um_tensor *steps = um_saved_tensor(s, "steps.", name), *moment[2];
    kept k = {.zero = true};
    moment[0] = um_saved_tensor(s, "m.", name);
    moment[1] = um_saved_tensor(s, "v.", name);
    assert_non_null(steps);
    memcpy(&k.steps, steps->data, sizeof k.steps);
    for (int i = 0; i < 2; i++)
        for (size_t b = 0; b < moment[i]->bytes; b++) k.zero = k.zero && moment[i]->data[b] == 0;
    return k;
}

/* Calls see for each tensor that trains; returns how many there are. */
static int each_trained(const um_saved *s, void (*see)(void *ctx, const um_saved *s, const char *),
                        void *ctx)
{
    const char *begin = "master.";
    int n = 0;
    for (int k = 0; k < s->n_sets; k++)
        for (size_t i = 0; i < um_tensors_count(s->sets[k]); i++) {
            const char *name = um_tensors_at(s->sets[k], i)->name;
            if (strncmp(name, begin, strlen(begin)) != 0) continue;
            see(ctx, s, name + strlen(begin));
            n++;
        }
    return n;
}

/* Whether the master in the checkpoint has the model's own values. */
static bool as_in_model(const um_saved *s, const char *name, const char *const *files)
{
    const um_tensor *t = um_saved_tensor(s, "master.", name);
    for (; *files != NULL; files++) {
        um_tensors *set = NULL;
        ok(um_tensors_open(&set, *files, &why));
        const um_tensor *was = um_tensors_find(set, name);
        const bool found = was != NULL;
        const bool same = found && memcmp(was->data, t->data, t->bytes) == 0;
        um_tensors_close(set);
        if (found) return same;
    }
    fail_msg("%s is nowhere in the model", name);
    return false;
}

/* --- media and experts without part in it --- */

static void decays(um_config *cfg) { cfg->weight_decay = 0.1; }

typedef struct parts {
    const char *const *files;
    int idle, busy;
} parts;

static void see_part(void *ctx, const um_saved *s, const char *name)
{
    parts *p = ctx;
    const kept k = kept_of(s, name);
    const bool speech = strstr(name, "audio") != NULL || strncmp(name, "encoder.", 8) == 0 ||
                        strstr(name, "whisper");
    if (speech) {
        if (k.steps != 0 || !k.zero || !as_in_model(s, name, p->files))
            fail_msg("%s has changed without a sample that needs it", name);
        p->idle++;
    } else if (k.steps > 0) {
        p->busy++;
    }
}

/* Pictures and text only: nothing of speech trains, not even by weight decay, and nobody waits for it. */
static void a_modality_without_samples_does_not_train(void **state)
{
    const int number[] = {0, 1, 4};
    const char *files[] = {golden_path(&arena, "models/s4/model.safetensors"),
                           golden_path(&arena, "models/s4/audio_tower/model.safetensors"),
                           golden_path(&arena, "models/s4/vision_tower/model.safetensors"), NULL};
    parts p = {.files = files};
    um_saved s;
    (void)state;
    training_run j = {.routers = 2,
                      .experts = 2,
                      .encoders = 2,
                      .out = "run",
                      .stage = "0",
                      .data = data_of(number, 3),
                      .options = decays};
    const char *last = training_go(&j);
    assert_int_equal(j.st, UM_OK);
    ok(um_saved_open(&s, last, true, &why));
    each_trained(&s, see_part, &p);
    um_saved_close(&s);
    assert_true(p.idle > 50);
    assert_true(p.busy > 50);
}

/* A copy of the golden model whose gates are zero, so that all rows choose the first two experts. */
static const char *model_of_two(void)
{
    static const char *const others[] = {
        "config.json",           "generation_config.json",  "tokenizer.model",
        "tokenizer_config.json", "special_tokens_map.json", "audio_tower",
        "vision_tower"};
    const char *from = golden_path(&arena, "models/s4"), *to = um_path_join(&arena, dir, "two");
    um_tensors *set = NULL;
    ok(um_file_mkdirs(to, &why));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        folder_link(to, others[i], um_path_join(&arena, from, others[i]));
    ok(um_tensors_open(&set, um_path_join(&arena, from, "model.safetensors"), &why));
    const size_t n = um_tensors_count(set);
    um_tensor *list = um_arena_alloc(&arena, n * sizeof *list);
    for (size_t i = 0; i < n; i++) {
        list[i] = *um_tensors_at(set, i);
        if (um_ends_with(list[i].name, ".mlp.gate.weight"))
            list[i].data = um_arena_zero(&arena, list[i].bytes);
    }
    ok(um_tensors_write(um_path_join(&arena, to, "model.safetensors"), list, n, NULL, &why));
    um_tensors_close(set);
    return to;
}

static void see_expert(void *ctx, const um_saved *s, const char *name)
{
    parts *p = ctx;
    const char *at = strstr(name, ".mlp.experts.");
    if (at == NULL) return;
    const int expert = (int)strtol(at + strlen(".mlp.experts."), NULL, 10);
    const kept k = kept_of(s, name);
    if (expert < 2) {
        assert_int_equal(k.steps, TRAINING_STEPS);
        assert_false(k.zero);
        p->busy++;
    } else {
        if (k.steps != 0 || !k.zero || !as_in_model(s, name, p->files))
            fail_msg("%s has changed without a token", name);
        p->idle++;
    }
}

/* As torch, which skips parameters without a gradient: weights, moments and the count of steps stay, whoever owns the expert. */
static void an_expert_without_tokens_does_not_train(void **state)
{
    const char *model = model_of_two(), *at[2];
    const char *files[] = {um_path_join(&arena, model, "model.safetensors"), NULL};
    (void)state;
    for (int i = 0; i < 2; i++) {
        parts p = {.files = files};
        um_saved s;
        training_run j = {.routers = 1 + i,
                          .experts = i == 0 ? 4 : 1,
                          .encoders = 1,
                          .out = um_arena_fmt(&arena, "run%d", i),
                          .stage = "0",
                          .freeze = "*.mlp.gate.weight",
                          .model = model,
                          .options = decays};
        at[i] = training_go(&j);
        assert_int_equal(j.st, UM_OK);
        ok(um_saved_open(&s, at[i], true, &why));
        each_trained(&s, see_expert, &p);
        um_saved_close(&s);
        assert_int_equal(p.idle, p.busy);
        assert_true(p.busy >= 18);
    }
    training_same(at[0], at[1]);
}

static void one_at_a_time(um_config *cfg) { cfg->batch = 1; }

/* Steps of one micro-batch: all routers but one have nothing to do in them. */
static void routers_without_a_micro_batch(void **state)
{
    const char *at[3];
    (void)state;
    for (int i = 0; i < 3; i++) {
        training_run j = {.routers = i == 0   ? 1
                                     : i == 1 ? 2
                                              : 4,
                          .experts = 2,
                          .encoders = 1,
                          .out = um_arena_fmt(&arena, "run%d", i),
                          .options = one_at_a_time};
        at[i] = training_go(&j);
        assert_int_equal(j.st, UM_OK);
        if (i > 0) training_same(at[0], at[i]);
    }
}

/* Alone in its step: the step changes nothing, says so, and the run goes on behind it, on any ranks and after a resume. */
static void a_step_whose_samples_cannot_be_used(void **state)
{
    const char *at[2];
    (void)state;
    for (int i = 0; i < 2; i++) {
        training_run j = {.routers = 1 + 2 * i,
                          .experts = 1 + i,
                          .encoders = 1,
                          .out = um_arena_fmt(&arena, "run%d", i),
                          .broken = "no/such.png",
                          .save_every = 1,
                          .options = one_at_a_time};
        at[i] = training_go(&j);
        assert_int_equal(j.st, UM_OK);
        if (i == 1) break;
        /* seven samples, six steps: the broken one is among them, or the run goes once more through */
        if (strstr(j.lines, "none of its samples could be used") == NULL)
            fail_msg("another seed is needed: the sample that is broken was not drawn");
    }
    training_same(at[0], at[1]);
    training_run on = {.routers = 2,
                       .experts = 1,
                       .encoders = 1,
                       .out = "run1",
                       .broken = "no/such.png",
                       .resume = um_arena_fmt(&arena, "%s/run1/checkpoint-1", dir),
                       .options = one_at_a_time};
    training_same(at[0], training_go(&on));
}

/* --- rates, clipping, spikes --- */

/* Values of a key in the lines of the steps; returns how many there were. */
static int values_of(const training_run *j, const char *key, double *out, int most)
{
    const char *wanted = um_arena_fmt(&arena, "\"%s\":", key);
    int n = 0;
    for (const char *at = j->lines; (at = strstr(at, wanted)) != NULL && n < most;) {
        at += strlen(wanted);
        out[n++] = strtod(at, NULL);
    }
    return n;
}

static void warm_up_stay_and_fall(um_config *cfg)
{
    cfg->schedule = "wsd";
    cfg->warmup = 2;
    cfg->decay = 2;
    cfg->min_lr = 0.1;
}

static void the_rates_of_a_run(void **state)
{
    /* warm-up over 2 steps from 0, then 1, and over the last 2 down to a tenth, which the step behind the last one would have */
    static const double want[] = {0, 0.5e-3, 1e-3, 1e-3, 1e-3, 0.55e-3};
    double lr[TRAINING_STEPS];
    (void)state;
    training_run j = {
        .routers = 1, .experts = 1, .encoders = 1, .out = "run", .options = warm_up_stay_and_fall};
    training_go(&j);
    assert_int_equal(j.st, UM_OK);
    assert_int_equal(values_of(&j, "lr", lr, TRAINING_STEPS), TRAINING_STEPS);
    for (int i = 0; i < TRAINING_STEPS; i++)
        if (fabs(lr[i] - want[i]) > 1e-12)
            fail_msg("step %d has the rate %g, want %g", i + 1, lr[i], want[i]);
}

static void add_squares(void *ctx, const um_saved *s, const char *name)
{
    const um_tensor *m = um_saved_tensor(s, "m.", name);
    double *sum = ctx;
    for (size_t i = 0; i < m->bytes / sizeof(float); i++) {
        float v;
        memcpy(&v, m->data + i * sizeof v, sizeof v);
        *sum += (double)v * (double)v;
    }
}

static void clipped(um_config *cfg)
{
    cfg->clip = 0.01;
    cfg->steps = 1;
}

static void not_clipped(um_config *cfg) { cfg->steps = 1; }

/* After one step the first moments are a tenth of the gradients: over all ranks their norm is that of the log, or the limit. */
static void clipping_limits_the_norm_over_all_ranks(void **state)
{
    (void)state;
    for (int clip = 0; clip < 2; clip++) {
        double squares = 0, norm = 0;
        um_saved s;
        training_run j = {.routers = 2,
                          .experts = 3,
                          .encoders = 2,
                          .out = um_arena_fmt(&arena, "run%d", clip),
                          .options = clip ? clipped : not_clipped};
        const char *last = training_go(&j);
        assert_int_equal(j.st, UM_OK);
        ok(um_saved_open(&s, last, true, &why));
        assert_true(each_trained(&s, add_squares, &squares) > 50);
        um_saved_close(&s);
        assert_int_equal(values_of(&j, "norm", &norm, 1), 1);
        assert_true(norm > 0.02);
        const double want = clip ? 0.01 : norm, got = sqrt(squares) / 0.1;
        if (fabs(got - want) > 1e-4 * want)
            fail_msg("the gradients have norm %g, want %g", got, want);
    }
}

static void every_step_is_a_spike(um_config *cfg)
{
    cfg->spike = 1e-6;
    cfg->give_up = 3;
    cfg->steps = 40;
    cfg->lr = 1e-6;
}

/* The usual norm is known after 20 steps. */
static void spikes_are_skipped_until_it_gives_up(void **state)
{
    (void)state;
    training_run j = {
        .routers = 1, .experts = 1, .encoders = 1, .out = "run", .options = every_step_is_a_spike};
    training_go(&j);
    assert_int_equal(j.st, UM_E_LIMIT);
    has(&j.err, "gives up at step 23: 3 steps in a row were skipped, the last because the gradient "
                "has norm");
    has(&j.err, "a smaller --lr or --clip may help");
}

/* --- evaluations --- */

static void as_the_golden_file_begins(um_config *cfg)
{
    um_training_file file = {0};
    const um_list data = cfg->data;
    ok(um_training_file_open(&file, golden_path(&arena, "training/s4/training.json"), &arena,
                             &why));
    ok(um_training_file_options(&file, cfg, &arena, &why));
    um_training_file_close(&file);
    cfg->request = "";
    cfg->data = cfg->eval_data = data;
    cfg->lr = 0;
    cfg->steps = 1;
    cfg->clip = 0;
}

/* Targets of a golden batch: labels but the first of each row that are not -100. */
static int targets_of(const um_tensor *labels)
{
    int n = 0;
    const int64_t T = labels->shape[1];
    assert_int_equal(labels->dtype, UM_I32);
    for (int64_t i = 0; i < labels->shape[0] * T; i++) {
        int32_t v;
        memcpy(&v, labels->data + (size_t)i * sizeof v, sizeof v);
        n += i % T > 0 && v != -100;
    }
    return n;
}

/* The losses that the original program has for the golden batches, together the mean over all target tokens. */
static void an_evaluation_measures_what_the_original_does(void **state)
{
    const int number[] = {0, 1, 2, 3, 4, 4, 5, 2}; /* the samples of the four batches */
    double sum = 0, targets = 0, got = 0;
    um_tensors *golden = NULL;
    (void)state;
    ok(um_tensors_open(&golden, golden_path(&arena, "training/s4/expected.safetensors"), &why));
    for (int b = 0; b < 4; b++) {
        float loss;
        const double n =
            targets_of(um_tensors_find(golden, um_arena_fmt(&arena, "batch%d.labels", b)));
        memcpy(&loss, um_tensors_find(golden, um_arena_fmt(&arena, "batch%d.loss", b))->data,
               sizeof loss);
        sum += (double)loss * n;
        targets += n;
    }
    um_tensors_close(golden);
    for (int i = 0; i < 2; i++) {
        training_run j = {.routers = 1 + i,
                          .experts = 1 + 2 * i,
                          .encoders = 1,
                          .out = um_arena_fmt(&arena, "run%d", i),
                          .data = data_of(number, 8),
                          .held_out = true,
                          .options = as_the_golden_file_begins};
        training_go(&j);
        assert_int_equal(j.st, UM_OK);
        assert_int_equal(values_of(&j, "eval_loss", &got, 1), 1);
        if (fabs(got - sum / targets) > 1e-5 * sum / targets)
            fail_msg("the loss on held-out samples is %.9g, want %.9g", got, sum / targets);
    }
}

/* --- gates --- */

static void noisy(um_config *cfg) { cfg->gate_noise = true; }

static void noisy_otherwise(um_config *cfg)
{
    cfg->gate_noise = true;
    cfg->seed = 1;
}

static void seed_alone(um_config *cfg) { cfg->seed = 1; }

static double first_loss(training_run *j)
{
    double loss = 0;
    assert_int_equal(j->st, UM_OK);
    assert_true(values_of(j, "loss", &loss, 1) == 1);
    return loss;
}

/* Drawn by seed, step, micro-batch and row: the same on any ranks, other with another seed; evaluations have none. */
static void noise_of_gates(void **state)
{
    const char *at[2], *model = golden_path(&arena, "models/s8");
    double loss[5], eval[2];
    void (*const options[])(um_config *) = {noisy, noisy, NULL, noisy_otherwise, seed_alone};
    (void)state;
    for (int i = 0; i < 5; i++) {
        training_run j = {.routers = i == 1 ? 3 : 1,
                          .experts = i == 1 ? 3 : 1,
                          .encoders = 1,
                          .out = um_arena_fmt(&arena, "run%d", i),
                          .model = model,
                          .options = options[i]};
        const char *last = training_go(&j);
        if (i < 2) at[i] = last;
        loss[i] = first_loss(&j);
    }
    training_same(at[0], at[1]);
    assert_true(loss[0] == loss[1]);
    assert_true(loss[0] != loss[2]); /* noise or none */
    assert_true(loss[3] != loss[4]);
    for (int i = 0; i < 2; i++) {
        training_run j = {.routers = 1,
                          .experts = 2,
                          .encoders = 1,
                          .out = um_arena_fmt(&arena, "held-out%d", i),
                          .model = model,
                          .held_out = true,
                          .lr = 1e-30,
                          .options = i == 0 ? noisy : NULL};
        training_go(&j);
        assert_int_equal(j.st, UM_OK);
        assert_true(values_of(&j, "eval_loss", &eval[i], 1) == 1);
    }
    assert_true(eval[0] == eval[1]);
}

static void biased(um_config *cfg) { cfg->balance_bias = 0.01; }

typedef struct biases {
    int n, moved;
} biases;

static void see_bias(void *ctx, const um_saved *s, const char *name)
{
    biases *b = ctx;
    if (!um_ends_with(name, ".e_score_correction_bias")) return;
    const um_tensor *t = um_saved_tensor(s, "master.", name);
    for (size_t i = 0; i < t->bytes / sizeof(float); i++) {
        float v;
        memcpy(&v, t->data + i * sizeof v, sizeof v);
        b->moved += v != 0;
        b->n++;
    }
}

/* Moved by the rows of all routers together. */
static void biases_of_gates_do_not_depend_on_the_ranks(void **state)
{
    static const int ranks[][3] = {{1, 1, 1}, {2, 3, 1}, {4, 2, 2}};
    const char *at[3];
    biases b = {0};
    um_saved s;
    (void)state;
    for (int i = 0; i < 3; i++) {
        training_run j = {.routers = ranks[i][0],
                          .experts = ranks[i][1],
                          .encoders = ranks[i][2],
                          .out = um_arena_fmt(&arena, "run%d", i),
                          .options = biased};
        at[i] = training_go(&j);
        assert_int_equal(j.st, UM_OK);
        if (i > 0) training_same(at[0], at[i]);
    }
    ok(um_saved_open(&s, at[0], true, &why));
    each_trained(&s, see_bias, &b);
    um_saved_close(&s);
    assert_true(b.n >= 12 && b.moved > b.n / 2);
}

/* --- instruction sets --- */

static const char *isa; /* of the next run */

static void twenty_steps(um_config *cfg)
{
    cfg->isa = isa;
    cfg->steps = 20;
}

/* The kernels are written once against a vector of sixteen lanes (core/tensor/cpu/v16.h), so all instruction sets add in one order: 20
 * steps of each that this machine has, on other numbers of ranks. */
static void weights_do_not_depend_on_the_instruction_set(void **state)
{
    static const struct {
        const char *isa;
        int routers, experts, encoders;
    } runs[] = {{"avx2", 1, 1, 1}, {"generic", 2, 3, 1}, {"avx2", 4, 4, 2},
                {"avx2", 2, 2, 1}, {"avx512", 1, 2, 1},  {"avx512", 4, 3, 1}};
    const char *first = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        um_dev dev;
        isa = runs[i].isa;
        if (um_dev_open_cpu(&dev, (um_isa)um_isa_from_name(isa), 1, &why) != UM_OK) {
            print_message("left out: %s\n", why.msg);
            continue;
        }
        training_run j = {.routers = runs[i].routers,
                          .experts = runs[i].experts,
                          .encoders = runs[i].encoders,
                          .out = um_arena_fmt(&arena, "run%zu", i),
                          .options = twenty_steps};
        const char *last = training_go(&j);
        assert_int_equal(j.st, UM_OK);
        if (first == NULL)
            first = last;
        else
            training_same(first, last);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_modality_without_samples_does_not_train, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(an_expert_without_tokens_does_not_train, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(routers_without_a_micro_batch, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(a_step_whose_samples_cannot_be_used, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(the_rates_of_a_run, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(clipping_limits_the_norm_over_all_ranks, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(spikes_are_skipped_until_it_gives_up, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(an_evaluation_measures_what_the_original_does, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(noise_of_gates, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(biases_of_gates_do_not_depend_on_the_ranks, folder_setup,
                                        folder_teardown),
        cmocka_unit_test_setup_teardown(weights_do_not_depend_on_the_instruction_set, folder_setup,
                                        folder_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
