/* Training in a whole cluster of threads: the golden training files, on several numbers of ranks. */
#include "tests/cluster/cluster.h"
#include "tests/support/test_support.h"

#include "core/base/file.h"
#include "core/train/training_file.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

typedef struct fixture {
    um_arena arena;
    char folder[64];
    um_err err;
} fixture;

static int setup(void **state)
{
    fixture *f = um_zalloc(sizeof *f);
    um_arena_init(&f->arena, "test", 1 << 16);
    snprintf(f->folder, sizeof f->folder, "test.XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    char line[128];
    snprintf(line, sizeof line, "rm -r %s", f->folder);
    assert_int_equal(system(line), 0);
    um_arena_free(&f->arena);
    um_free(f);
    return 0;
}

static void run(cluster *c)
{
    um_status st = cluster_run(c);
    for (int r = 0; r < c->ranks && st != UM_OK; r++)
        if (c->status[r] != UM_OK) print_message("rank %d: %s\n", r, c->err[r].msg);
    assert_int_equal(st, UM_OK);
    cluster_free(c);
}

/* Traces a golden training file; returns the path of what was written. */
static const char *trace(fixture *f, const char *model, int routers, int experts, int encoders,
                         bool guarded)
{
    cluster c;
    um_training_file file = {0};
    const char *out = um_arena_fmt(&f->arena, "%s/%s-%d-%d-%d.safetensors", f->folder, model,
                                   routers, experts, encoders);
    cluster_init(&c, "");
    c.cfg.request = golden_path(&f->arena, "training/%s/training.json", model);
    if (um_training_file_open(&file, c.cfg.request, &f->arena, &f->err) != UM_OK ||
        um_training_file_options(&file, &c.cfg, &f->arena, &f->err) != UM_OK)
        fail_msg("%s", f->err.msg);
    um_training_file_close(&file);
    c.cfg.out = out;
    c.cfg.routers = routers;
    c.cfg.experts = experts;
    c.cfg.encoders = um_arena_fmt(&f->arena, "%d", encoders);
    c.guarded = guarded;
    run(&c);
    return out;
}

static um_tensors *open_tensors(fixture *f, const char *path)
{
    um_tensors *s = NULL;
    if (um_tensors_open(&s, path, &f->err) != UM_OK) fail_msg("%s", f->err.msg);
    return s;
}

/* How far a tensor may be off, as a share of the largest value wanted; by its name. */
static float bound(const char *name)
{
    if (strncmp(name, "losses", 6) == 0) return 2e-4f;
    if (strstr(name, ".loss") != NULL || strstr(name, ".balance") != NULL) return 1e-5f;
    return 1e-4f;
}

static void compare(const char *name, const um_tensor *got, const um_tensor *want, float most,
                    um_arena *arena)
{
    um_mark mark = um_arena_mark(arena);
    const size_t n = um_tensor_values(want);
    if (got == NULL) fail_msg("%s is missing", name);
    if (um_tensor_values(got) != n || got->rank != want->rank ||
        memcmp(got->shape, want->shape, (size_t)want->rank * sizeof *want->shape) != 0)
        fail_msg("%s has another shape", name);
    if (want->dtype == UM_I32) {
        if (memcmp(got->data, want->data, want->bytes) != 0) fail_msg("%s differs", name);
        return;
    }
    float *x = um_arena_f32(arena, 1, n), *y = um_arena_f32(arena, 1, n);
    um_tensor_to_f32(x, got);
    um_tensor_to_f32(y, want);
    float d = distance(x, y, n);
    if (!(d <= most)) fail_msg("%s is off by %.3g of its largest value", name, (double)d);
    um_arena_reset(arena, mark);
}

/* Everything that the original wrote is there and near, and no gradient that it has not. */
static void matches(fixture *f, const char *model, const char *path)
{
    um_tensors *got = open_tensors(f, path),
               *want = open_tensors(
                   f, golden_path(&f->arena, "training/%s/expected.safetensors", model)),
               *after = open_tensors(
                   f, golden_path(&f->arena, "training/%s/trainable_after10.safetensors", model));
    um_json *file = golden_json(golden_path(&f->arena, "training/%s/training.json", model));
    const um_json *losses = um_json_get(file, "losses");
    char name[256];
    for (size_t i = 0; i < um_tensors_count(want); i++) {
        const um_tensor *w = um_tensors_at(want, i);
        compare(w->name, um_tensors_find(got, w->name), w, bound(w->name), &f->arena);
    }
    for (size_t i = 0; i < um_tensors_count(got); i++) {
        const um_tensor *g = um_tensors_at(got, i);
        if (strstr(g->name, ".grad.") != NULL && um_tensors_find(want, g->name) == NULL)
            fail_msg("%s has no gradient in the original", g->name);
    }
    for (size_t i = 0; i < um_tensors_count(after); i++) {
        const um_tensor *w = um_tensors_at(after, i);
        snprintf(name, sizeof name, "after.%s", w->name);
        compare(name, um_tensors_find(got, name), w, 1e-2f, &f->arena);
    }
    const um_tensor *l = um_tensors_find(got, "losses");
    assert_non_null(l);
    assert_int_equal(um_tensor_values(l), um_json_size(losses));
    for (size_t i = 0; i < um_json_size(losses); i++) {
        float v = 0;
        memcpy(&v, l->data + i * sizeof v, sizeof v);
        double wanted = um_json_num(um_json_at(losses, i), 0);
        if (!(fabs((double)v - wanted) <= 2e-4 * wanted))
            fail_msg("loss %zu is %.7g, want %.7g", i, (double)v, wanted);
    }
    um_json_free(file);
    um_tensors_close(after);
    um_tensors_close(want);
    um_tensors_close(got);
}

static void same_bytes(fixture *f, const char *a, const char *b)
{
    uint8_t *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    if (um_file_read(&x, &n, a, 1 << 28, &f->arena, &f->err) != UM_OK ||
        um_file_read(&y, &m, b, 1 << 28, &f->arena, &f->err) != UM_OK)
        fail_msg("%s", f->err.msg);
    if (n != m || memcmp(x, y, n) != 0) fail_msg("%s and %s differ", a, b);
}

static void golden(void **state, const char *model)
{
    fixture *f = *state;
    const char *one = trace(f, model, 1, 1, 1, false);
    matches(f, model, one);
    same_bytes(f, one, trace(f, model, 2, 3, 2, true));
}

static void the_four_expert_speech_model(void **state) { golden(state, "s4"); }
static void the_four_expert_audio_model(void **state) { golden(state, "a4"); }
static void the_eight_expert_model(void **state) { golden(state, "s8"); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_four_expert_speech_model, setup, teardown),
        cmocka_unit_test_setup_teardown(the_four_expert_audio_model, setup, teardown),
        cmocka_unit_test_setup_teardown(the_eight_expert_model, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
