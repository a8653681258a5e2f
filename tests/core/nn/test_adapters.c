/* Adapters beside linear layers, and what becomes of values on their way between files, masters and gradients; on guarded memory too. */
#include "core/nn/embedding.h"

#include "core/base/rng.h"
#include "core/nn/ffn.h"
#include "tests/core/nn/block_fixture.h"
#include "tests/support/made_params.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define MODELS UM_TEST_DATA "/golden/models/"

static um_rng rng;

static const uint64_t attention_slots =
    1ull << UM_SLOT_Q | 1ull << UM_SLOT_K | 1ull << UM_SLOT_V | 1ull << UM_SLOT_O;

static um_loading how(void)
{
    return (um_loading){.dev = &dev, .host = &arena, .device = &device, .lora = &lora};
}

static float *normal(size_t n)
{
    float *x = um_arena_f32(&arena, 1, n);
    um_rng_normal_f32(&rng, x, n, 0.5f);
    return x;
}

static float *on_device(const float *x, size_t n) { return um_dev_put_f32(&dev, &device, x, n); }

static float *on_host(const float *x, size_t n)
{
    float *to = um_arena_f32(&arena, 1, n);
    dev.ops->get(&dev, to, x, n * sizeof *to);
    return to;
}

static float *read_values(const um_param *p)
{
    float *to = um_arena_f32(&arena, 1, um_spec_values(&p->spec));
    um_param_read(p, to);
    return to;
}

static bool trains_factors(const void *ctx, const um_spec *s)
{
    (void)ctx;
    return s->leaf == UM_LEAF_ADAPTER_A || s->leaf == UM_LEAF_ADAPTER_B;
}

static um_params list_of(const um_checkpoint *ck, uint32_t parts)
{
    um_params ps = {0};
    um_err err = {0};
    const um_selection sel = {.parts = parts};
    const um_loading into = how();
    ok(um_params_open(&ps, ck, &sel, &into, &err), &err);
    return ps;
}

/* --- the list --- */

/* Beside each matrix of the slots, and beside those named: with PEFT's names, right behind it. */
static void adapters_stand_beside_what_the_rules_name(void **state)
{
    (void)state;
    static const char *const names[] = {"model.layers.0.mlp.gate.lora_A.weight",
                                        "model.layers.0.mlp.gate.lora_B.weight",
                                        "model.norm.lora_A.weight", "no such tensor"};
    um_checkpoint ck;
    um_err err = {0};
    const um_adapter_rules rules = {.parts = 1u << UM_PART_BACKBONE,
                                    .slots = attention_slots | 1ull << UM_SLOT_EMBED |
                                             1ull << UM_SLOT_NORM1,
                                    .name = names,
                                    .names = 4,
                                    .r = 3,
                                    .alpha = 6};
    ok(um_checkpoint_open(&ck, MODELS "a4", NULL, &err), &err);
    um_params ps = list_of(&ck, UM_ALL_PARTS);
    const size_t before = ps.n;
    ok(um_params_adapt(&ps, &rules, &err), &err);
    assert_int_equal(ps.n, before + (size_t)(2 * (4 * ck.model.layers + 1)));
    for (size_t i = 0; i < ps.n; i++) {
        const um_param *p = &ps.list[i], *w = p - 1;
        assert_ptr_equal(um_params_find(&ps, p->spec.at, p->spec.leaf), p);
        if (p->spec.leaf != UM_LEAF_ADAPTER_A) continue;
        const size_t stem = strlen(w->spec.name) - strlen(".weight");
        assert_memory_equal(p->spec.name, w->spec.name, stem);
        assert_string_equal(p->spec.name + stem, ".lora_A.weight");
        assert_string_equal(p[1].spec.name + stem, ".lora_B.weight");
        assert_true(p->spec.shape[0] == 3 && p->spec.shape[1] == w->spec.shape[1]);
        assert_true(p[1].spec.shape[0] == w->spec.shape[0] && p[1].spec.shape[1] == 3);
        assert_true(um_params_has(&ps, p->spec.at, UM_LEAF_ADAPTER_B));
    }
    um_checkpoint_close(&ck);
}

/* How an adapter begins depends on its name and the seed, not on the list that it is in. */
static void first_values_are_of_the_name_alone(void **state)
{
    (void)state;
    um_checkpoint ck;
    um_err err = {0};
    um_adapter_rules rules = {.parts = UM_ALL_PARTS, .slots = attention_slots, .r = 8, .alpha = 1};
    const um_place at = um_place_of(UM_PART_BACKBONE, UM_SLOT_V, 1, -1);
    ok(um_checkpoint_open(&ck, MODELS "s4", NULL, &err), &err);
    um_params all = list_of(&ck, UM_ALL_PARTS), some = list_of(&ck, 1u << UM_PART_BACKBONE),
              other = list_of(&ck, 1u << UM_PART_BACKBONE);
    ok(um_params_adapt(&all, &rules, &err), &err);
    ok(um_params_adapt(&some, &rules, &err), &err);
    rules.seed = 1;
    ok(um_params_adapt(&other, &rules, &err), &err);
    const um_param *a = um_params_find(&all, at, UM_LEAF_ADAPTER_A);
    const size_t n = um_spec_values(&a->spec);
    const float *x = read_values(a), *y = read_values(um_params_find(&some, at, UM_LEAF_ADAPTER_A)),
                *z = read_values(um_params_find(&other, at, UM_LEAF_ADAPTER_A)),
                *b = read_values(um_params_find(&all, at, UM_LEAF_ADAPTER_B));
    const float bound = 1.0f / sqrtf((float)a->spec.shape[1]);
    double squares = 0;
    assert_memory_equal(x, y, n * sizeof *x);
    assert_memory_not_equal(x, z, n * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        assert_true(fabsf(x[i]) <= bound);
        squares += (double)x[i] * (double)x[i];
    }
    assert_float_equal((float)(squares / (double)n), bound * bound / 3, bound * bound / 20);
    for (int64_t i = 0; i < a->spec.shape[1] * 8; i++) assert_true(b[i] == 0.0f);
    um_checkpoint_close(&ck);
}

/* --- the model's own LoRA --- */

typedef struct own_lora {
    made_params m;
    const float *w, *a, *b;
} own_lora;
enum { N = 18, K = 13, R = 2 };

static bool trains_own(const void *ctx, const um_spec *s)
{
    (void)ctx;
    return s->leaf == UM_LEAF_LORA_A || s->leaf == UM_LEAF_LORA_B;
}

static bool trains_weights(const void *ctx, const um_spec *s)
{
    (void)ctx;
    return s->leaf == UM_LEAF_WEIGHT;
}

static void own_open(own_lora *o, um_trained_fn trained)
{
    um_loading into = how();
    into.trained = trained;
    *o = (own_lora){.m = {.a = &arena, .ck = {.model = {.lora_r = R, .lora_alpha = 5.0f}}}};
    o->w = made_add(&o->m, UM_SLOT_UP_PROJ, UM_LEAF_WEIGHT, UM_F32, N, K, 0);
    o->a = made_add(&o->m, UM_SLOT_UP_PROJ, UM_LEAF_LORA_A, UM_F32, R, K, 0);
    o->b = made_add(&o->m, UM_SLOT_UP_PROJ, UM_LEAF_LORA_B, UM_F32, N, R, 0);
    made_open(&o->m, dir, &into);
}

/* y[n] of one row, in double; c, d: the factors of an adapter of rank r and its scale, or NULL. */
static double output(const own_lora *o, const float *x, int n, const float *c, const float *d,
                     int r, double scale)
{
    double y = 0;
    for (int k = 0; k < K; k++) y += (double)o->w[n * K + k] * (double)x[k];
    for (int j = 0; j < R; j++)
        for (int k = 0; k < K; k++)
            y += 2.5 * (double)o->b[n * R + j] * (double)o->a[j * K + k] * (double)x[k];
    for (int j = 0; j < r; j++)
        for (int k = 0; k < K; k++)
            y += scale * (double)d[n * r + j] * (double)c[j * K + k] * (double)x[k];
    return y;
}

static um_linear load(made_params *m, um_slot slot)
{
    um_linear l;
    um_err err = {0};
    ok(um_linear_load(&l, &m->ps, made_at(slot), &err), &err);
    return l;
}

/* It is live where it or its matrix is trained, merged elsewhere; beside an adapter it is merged, and the adapter is live. */
static void what_is_trained_decides_what_is_merged(void **state)
{
    (void)state;
    static const um_trained_fn trained[] = {NULL, trains_own, trains_weights, trains_factors};
    for (int i = 0; i < 4; i++) {
        own_lora o;
        um_err err = {0};
        const um_adapter_rules rules = {
            .parts = 1, .slots = 1ull << UM_SLOT_UP_PROJ, .r = 3, .alpha = 1.5f, .seed = 9};
        own_open(&o, trained[i]);
        if (i == 3) ok(um_params_adapt(&o.m.ps, &rules, &err), &err);
        const um_linear l = load(&o.m, UM_SLOT_UP_PROJ);
        assert_int_equal(l.branches, i == 0 ? 0 : 1);
        if (trained[i] != NULL) train(&o.m.ps, trained[i], NULL);
        float *c = NULL, *d = NULL, *x = normal(K), *y = um_arena_f32(&device, 1, N);
        if (i == 3) { /* B that is not zero */
            um_param *b = um_params_find(&o.m.ps, made_at(UM_SLOT_UP_PROJ), UM_LEAF_ADAPTER_B);
            d = normal(N * 3);
            um_param_write(b, d);
            um_params_repack(&o.m.ps);
            c = read_values(b - 1);
        }
        um_linear_fwd(&dev, y, on_device(x, K), 1, &l);
        const float *got = on_host(y, N);
        for (int n = 0; n < N; n++)
            assert_float_equal(got[n], (float)output(&o, x, n, c, d, i == 3 ? 3 : 0, 0.5), 1e-4f);
        made_close(&o.m);
    }
}

/* Both would be two branches of one matrix. */
static void one_branch_is_trained_not_two(void **state)
{
    (void)state;
    own_lora o;
    um_err err = {0};
    const um_adapter_rules rules = {.parts = 1, .slots = 1ull << UM_SLOT_UP_PROJ, .r = 3};
    own_open(&o, trains_own);
    assert_int_equal(um_params_adapt(&o.m.ps, &rules, &err), UM_E_USAGE);
    has(&err, "train one of the two");
    has(&err, ".lora_A.weight");
    made_close(&o.m);
}

/* --- masters and files --- */

/* A convolution's master lies otherwise in memory, but is read, written and started in the file's layout, as are gradients; a stack's part
 * is written alone; what is written is what forward uses. */
static void values_travel_in_the_files_layout(void **state)
{
    (void)state;
    enum { OUT = 19, C = 6, TAPS = 3, PART = 5 };
    made_params m = {.a = &arena};
    um_linear conv, stack;
    um_err err = {0};
    const um_loading into = how();
    const um_place at[] = {made_at(UM_SLOT_Q), made_at(UM_SLOT_K)};
    made_add(&m, UM_SLOT_CONV1, UM_LEAF_WEIGHT, UM_BF16, OUT, C, TAPS);
    made_add(&m, UM_SLOT_Q, UM_LEAF_WEIGHT, UM_F32, PART, K, 0);
    made_add(&m, UM_SLOT_K, UM_LEAF_WEIGHT, UM_F32, PART, K, 0);
    made_open(&m, dir, &into);
    ok(um_linear_load_conv(&conv, &m.ps, made_at(UM_SLOT_CONV1), &err), &err);
    ok(um_linear_load_stacked(&stack, &m.ps, at, 2, &err), &err);
    train(&m.ps, trains_all, NULL);
    assert_int_equal(m.ps.n_grads, OUT * C * TAPS + 2 * PART * K);
    for (size_t i = 0; i < m.ps.n; i++) {
        um_param *p = &m.ps.list[i];
        const size_t n = um_spec_values(&p->spec);
        float *stored = um_arena_f32(&arena, 1, n), *value = normal(n);
        um_tensor_to_f32(stored, p->stored);
        assert_memory_equal(read_values(p), stored, n * sizeof *stored);
        um_param_write(p, value);
        assert_memory_equal(read_values(p), value, n * sizeof *value);
        um_param_store(p, p->grad, value);
        um_param_fetch(p, stored, p->grad);
        assert_memory_equal(stored, value, n * sizeof *value);
    }
    um_params_repack(&m.ps);
    const float *w = read_values(&m.ps.list[2]), *row = normal(K);
    float *y = um_arena_f32(&device, 1, 2 * PART);
    um_linear_fwd(&dev, y, on_device(row, K), 1, &stack);
    const float *got = on_host(y, 2 * PART);
    for (int n = 0; n < PART; n++) {
        double sum = 0;
        for (int k = 0; k < K; k++) sum += (double)w[n * K + k] * (double)row[k];
        assert_float_equal(got[PART + n], (float)sum, 1e-5f);
    }
    made_close(&m);
}

/* um_params_start sets every trained parameter, and names what it misses. */
static void a_start_is_whole(void **state)
{
    (void)state;
    made_params m = {.a = &arena};
    um_err err = {0};
    um_tensors *values;
    const um_loading into = how();
    made_add(&m, UM_SLOT_Q, UM_LEAF_WEIGHT, UM_F32, N, K, 0);
    made_add(&m, UM_SLOT_Q, UM_LEAF_BIAS, UM_F32, N, 0, 0);
    made_open(&m, dir, &into);
    (void)load(&m, UM_SLOT_Q);
    train(&m.ps, trains_all, NULL);
    float *w = normal(N * K), *b = normal(N);
    um_tensor list[] = {{.name = "another", .rank = 1, .shape = {N}},
                        {.name = m.ps.list[0].spec.name, .rank = 2, .shape = {N, K}},
                        {.name = m.ps.list[1].spec.name, .rank = 1, .shape = {N}}};
    const float *data[] = {b, w, b};
    for (int i = 0; i < 3; i++) {
        list[i].dtype = UM_F32;
        list[i].data = (const uint8_t *)data[i];
        list[i].bytes = (size_t)(i == 1 ? N * K : N) * sizeof(float);
    }
    const char *path = um_arena_fmt(&arena, "%s/start.safetensors", dir);
    for (size_t n = 3; n > 1; n--) {
        ok(um_tensors_write(path, list, n, NULL, &err), &err);
        ok(um_tensors_open(&values, path, &err), &err);
        if (n == 3) {
            ok(um_params_start(&m.ps, values, &err), &err);
            assert_memory_equal(read_values(&m.ps.list[0]), w, N * K * sizeof *w);
            assert_memory_equal(read_values(&m.ps.list[1]), b, N * sizeof *b);
        } else {
            assert_int_equal(um_params_start(&m.ps, values, &err), UM_E_MODEL);
            has(&err, m.ps.list[1].spec.name);
        }
        um_tensors_close(values);
    }
    made_close(&m);
}

/* --- the token table --- */

/* From the file and from the master the rows are the same bits; rows of negative ids are left; gradients are added in order. */
static void embedding_rows(um_dtype stored)
{
    enum { V = 11, D = 9, ROWS = 7 };
    static const int32_t ids[ROWS] = {3, -1, 0, 10, 3, -5, 3};
    made_params m = {.a = &arena};
    um_embedding e;
    um_err err = {0};
    const um_loading into = how();
    const float *table = made_add(&m, UM_SLOT_EMBED, UM_LEAF_WEIGHT, stored, V, D, 0);
    made_open(&m, dir, &into);
    m.ps.list[0].spec.mapped = true;
    ok(um_embedding_load(&e, &m.ps, made_at(UM_SLOT_EMBED), &err), &err);
    float *out = um_arena_f32(&device, ROWS, D);
    for (int trained = 0; trained < 2; trained++) {
        if (trained) train(&m.ps, trains_all, NULL);
        dev.ops->fill(&dev, out, 7.0f, ROWS * D);
        um_embed_rows(&dev, out, &e, ids, ROWS, &arena, &device);
        const float *got = on_host(out, ROWS * D);
        for (int i = 0; i < ROWS; i++)
            for (int k = 0; k < D; k++)
                assert_float_equal(got[i * D + k], ids[i] < 0 ? 7.0f : table[ids[i] * D + k], 0);
    }
    const float *dy = normal(ROWS * D), *grad;
    float want[V * D] = {0};
    um_embed_bwd(&dev, &e, on_device(dy, ROWS * D), ids + 1, 1, &device);
    assert_false(m.ps.list[0].touched);
    um_embed_bwd(&dev, &e, on_device(dy, ROWS * D), ids, ROWS, &device);
    assert_true(m.ps.list[0].touched);
    grad = on_host(m.ps.list[0].grad, V * D);
    for (int i = 0; i < ROWS; i++)
        for (int k = 0; k < D && ids[i] >= 0; k++) want[ids[i] * D + k] += dy[i * D + k];
    assert_memory_equal(grad, want, sizeof want);
    um_params_zero_grads(&m.ps);
    assert_false(m.ps.list[0].touched);
    made_close(&m);
}

static void tokens_come_from_the_file_or_the_master(void **state)
{
    (void)state;
    for (um_dtype t = UM_F32; t <= UM_F16; t++) embedding_rows(t);
}

/* A tied table is the head too: one gradient for both. */
static void a_tied_table_has_one_gradient(void **state)
{
    (void)state;
    enum { V = 6, D = 5 };
    static const int32_t id = 4;
    made_params m = {.a = &arena};
    um_embedding e;
    um_err err = {0};
    const um_loading into = how();
    made_add(&m, UM_SLOT_EMBED, UM_LEAF_WEIGHT, UM_F32, V, D, 0);
    made_open(&m, dir, &into);
    ok(um_embedding_load(&e, &m.ps, made_at(UM_SLOT_EMBED), &err), &err);
    const um_linear head = load(&m, UM_SLOT_EMBED);
    train(&m.ps, trains_all, NULL);
    const float *x = normal(D), *dy = normal(V), *drow = normal(D);
    um_linear_bwd(&dev, NULL, &head, on_device(dy, V), on_device(x, D), 1, &scratch);
    um_embed_bwd(&dev, &e, on_device(drow, D), &id, 1, &device);
    const float *grad = on_host(m.ps.list[0].grad, V * D);
    for (int v = 0; v < V; v++)
        for (int k = 0; k < D; k++)
            assert_float_equal(grad[v * D + k], dy[v] * x[k] + (v == id ? drow[k] : 0), 1e-6f);
    /* after a step rows and head are the new values */
    um_param_write(&m.ps.list[0], normal(V * D));
    um_params_repack(&m.ps);
    float *row = um_arena_f32(&device, 1, D), *y = um_arena_f32(&device, 1, V);
    um_embed_rows(&dev, row, &e, &id, 1, &arena, &device);
    um_linear_fwd(&dev, y, row, 1, &head);
    const float *value = on_host(row, D), *logit = on_host(y, V);
    double square = 0;
    for (int k = 0; k < D; k++) square += (double)value[k] * (double)value[k];
    assert_float_equal(logit[id], (float)square, 1e-5f);
    made_close(&m);
}

static int setup(void **state)
{
    rng = um_rng_seed(29, 0);
    return block_setup(state);
}

/* Any argument: on guarded memory. */
int main(int argc, char **argv)
{
    (void)argv;
    guarded = argc > 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adapters_stand_beside_what_the_rules_name),
        cmocka_unit_test(first_values_are_of_the_name_alone),
        cmocka_unit_test(what_is_trained_decides_what_is_merged),
        cmocka_unit_test(one_branch_is_trained_not_two),
        cmocka_unit_test(values_travel_in_the_files_layout),
        cmocka_unit_test(a_start_is_whole),
        cmocka_unit_test(tokens_come_from_the_file_or_the_master),
        cmocka_unit_test(a_tied_table_has_one_gradient),
    };
    return cmocka_run_group_tests(tests, setup, block_teardown);
}
