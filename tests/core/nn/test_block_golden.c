/* Blocks and gate terms against float64 autograd of PyTorch (tests/ref/make_blocks.py), on guarded memory too. */
#include "core/nn/attention.h"
#include "core/nn/ffn.h"
#include "core/nn/gate_loss.h"
#include "core/nn/norm.h"

#include "tests/core/nn/block_fixture.h"
#include "tests/support/made_params.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static um_tensors *golden;

/* --- golden values --- */

static const um_tensor *find(const char *name, const char *kind, const char *of)
{
    const um_tensor *t =
        um_tensors_find(golden, um_arena_fmt(&arena, "%s.%s%s%s", name, kind, *of ? "." : "", of));
    if (t == NULL) fail_msg("no golden tensor %s.%s.%s", name, kind, of);
    return t;
}

static const float *values(const um_tensor *t)
{
    float *x = um_arena_f32(&arena, 1, um_tensor_values(t));
    um_tensor_to_f32(x, t);
    return x;
}

static float *on_device(const um_tensor *t)
{
    return um_dev_put_f32(&dev, &device, values(t), um_tensor_values(t));
}

/* Within 1e-5 of the tensor's largest value. */
static void near(const char *what, const float *got, const um_tensor *t)
{
    const float *want = values(t);
    double largest = 0;
    for (size_t i = 0; i < um_tensor_values(t); i++) largest = fmax(largest, fabs((double)want[i]));
    for (size_t i = 0; i < um_tensor_values(t); i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= 1e-5 * largest))
            fail_msg("%s of %s: value %zu is %g, want %g", what, t->name, i, (double)got[i],
                     (double)want[i]);
}

static void near_device(const char *what, const float *got, const um_tensor *t)
{
    float *host = um_arena_f32(&arena, 1, um_tensor_values(t));
    dev.ops->get(&dev, host, got, um_tensor_values(t) * sizeof *host);
    near(what, host, t);
}

/* --- parameters with golden values --- */

typedef struct named {
    const char *name; /* of the golden values: NAME.weight, NAME.bias, NAME.lora_A, NAME.lora_B */
    um_slot slot;
} named;

static const char *leaf_name(um_leaf leaf)
{
    switch (leaf) {
    case UM_LEAF_BIAS:
        return "bias";
    case UM_LEAF_ADAPTER_A:
        return "lora_A";
    case UM_LEAF_ADAPTER_B:
        return "lora_B";
    default:
        return "weight";
    }
}

/* Lists what a case has under these names; adapters of rank r beside the slots. */
static void open_case(made_params *m, const char *which, const named *list, int n, uint64_t slots,
                      int r)
{
    um_err err = {0};
    const um_loading how = {.dev = &dev, .host = &arena, .device = &device, .lora = &lora};
    const um_adapter_rules rules = {.parts = 1, .slots = slots, .r = r, .alpha = 3.0f};
    for (int i = 0; i < n; i++)
        for (um_leaf leaf = UM_LEAF_WEIGHT; leaf <= UM_LEAF_BIAS; leaf++) {
            const char *of = um_arena_fmt(&arena, "%s.%s", list[i].name, leaf_name(leaf));
            const um_tensor *t =
                um_tensors_find(golden, um_arena_fmt(&arena, "%s.in.%s", which, of));
            if (t == NULL) continue;
            made_add(m, list[i].slot, leaf, UM_F32, t->shape[0], t->rank > 1 ? t->shape[1] : 0, 0);
        }
    made_open(m, dir, &how);
    ok(um_params_adapt(&m->ps, &rules, &err), &err);
}

/* The golden tensor of a parameter. */
static const um_tensor *of_param(const char *which, const char *kind, const named *list,
                                 const um_param *p)
{
    int i = 0;
    while (list[i].slot != p->spec.at.slot) i++;
    return find(which, kind, um_arena_fmt(&arena, "%s.%s", list[i].name, leaf_name(p->spec.leaf)));
}

static void train_case(made_params *m, const char *which, const named *list)
{
    train(&m->ps, trains_all, NULL);
    for (size_t i = 0; i < m->ps.n; i++)
        um_param_write(&m->ps.list[i], values(of_param(which, "in", list, &m->ps.list[i])));
    um_params_repack(&m->ps);
}

static void compare_case(made_params *m, const char *which, const named *list)
{
    for (size_t i = 0; i < m->ps.n; i++) {
        const um_param *p = &m->ps.list[i];
        float *got = um_arena_f32(&arena, 1, um_spec_values(&p->spec));
        um_param_fetch(p, got, p->grad);
        near("gradient", got, of_param(which, "grad", list, p));
    }
    made_close(m);
}

/* --- the cases --- */

/* A norm, causal attention with shared key heads and the residual stream. */
static void attention_matches_autograd(void **state)
{
    (void)state;
    enum { T = 14, D = 10 };
    static const named list[] = {{"norm", UM_SLOT_NORM1},
                                 {"q", UM_SLOT_Q},
                                 {"k", UM_SLOT_K},
                                 {"v", UM_SLOT_V},
                                 {"o", UM_SLOT_O}};
    const uint64_t slots =
        1ull << UM_SLOT_Q | 1ull << UM_SLOT_K | 1ull << UM_SLOT_V | 1ull << UM_SLOT_O;
    made_params m = {.a = &arena};
    um_attention w = {.shape = {4, 2, 6, UM_ATTENTION_Q_K_V}};
    um_attention_acts acts;
    um_attention_pages pages;
    um_norm norm = {0};
    um_err err = {0};
    open_case(&m, "attention", list, 5, slots, 3);
    ok(um_norm_load(&norm, &m.ps, made_at(UM_SLOT_NORM1), &err), &err);
    ok(um_linear_load(&w.q, &m.ps, made_at(UM_SLOT_Q), &err), &err);
    ok(um_linear_load(&w.k, &m.ps, made_at(UM_SLOT_K), &err), &err);
    ok(um_linear_load(&w.v, &m.ps, made_at(UM_SLOT_V), &err), &err);
    ok(um_linear_load(&w.out, &m.ps, made_at(UM_SLOT_O), &err), &err);
    train_case(&m, "attention", list);
    const float *x = on_device(find("attention", "in", "x")),
                *dy = on_device(find("attention", "dy", ""));
    float *normed = um_arena_f32(&device, T, D), *y = um_arena_f32(&device, T, D),
          *dnormed = zeroed(T * D), *dx = zeroed(T * D);
    um_attention_acts_bind(&acts, &device, &w.shape, T, T);
    um_attention_pages_bind(&pages, &arena, &device, um_kv_page_floats(2, 6), T);
    um_attention_pages_start(&dev, &pages);
    um_norm_fwd(&dev, normed, x, &norm, T, D, 1e-5f);
    um_attention_fwd(&dev, &acts, &w, &pages, normed, T, normed, T, true);
    um_attention_output(&dev, y, &acts, &w, x, T);
    near_device("output", y, find("attention", "out", ""));
    dev.ops->add(&dev, dx, dy, T * D);
    um_attention_bwd(&dev, dnormed, dnormed, &acts, &w, dy, normed, T, normed, T, true, &scratch);
    um_norm_bwd(&dev, dx, dnormed, x, &norm, T, D, 1e-5f);
    near_device("gradient", dx, find("attention", "grad", "x"));
    compare_case(&m, "attention", list);
}

static void swiglu_matches_autograd(void **state)
{
    (void)state;
    enum { T = 11, D = 9, F = 20 };
    static const named list[] = {
        {"gate", UM_SLOT_GATE_PROJ}, {"up", UM_SLOT_UP_PROJ}, {"down", UM_SLOT_DOWN_PROJ}};
    const uint64_t slots =
        1ull << UM_SLOT_GATE_PROJ | 1ull << UM_SLOT_UP_PROJ | 1ull << UM_SLOT_DOWN_PROJ;
    made_params m = {.a = &arena};
    um_ffn w;
    um_ffn_acts acts;
    um_err err = {0};
    open_case(&m, "ffn", list, 3, slots, 2);
    ok(um_ffn_load(&w, &m.ps, UM_PART_BACKBONE, -1, -1, &err), &err);
    train_case(&m, "ffn", list);
    const float *x = on_device(find("ffn", "in", "x"));
    float *y = um_arena_f32(&device, T, D), *dx = zeroed(T * D);
    um_ffn_acts_bind(&acts, &device, T, F);
    um_ffn_fwd(&dev, y, &acts, &w, x, T);
    near_device("output", y, find("ffn", "out", ""));
    um_ffn_bwd(&dev, dx, &w, on_device(find("ffn", "dy", "")), x, &acts, T, &scratch);
    near_device("gradient", dx, find("ffn", "grad", "x"));
    compare_case(&m, "ffn", list);
}

/* KINDS, SAMPLES and MEANT of the script. */
static void gate_terms_match_autograd(void **state)
{
    (void)state;
    enum { T = 20, E = 6 };
    static const uint8_t modality[T] = {UM_TEXT,   UM_IMAGE,  UM_IMAGE, UM_IMAGE, UM_TEXT,
                                        UM_SPEECH, UM_SPEECH, UM_TEXT,  UM_TEXT,  UM_TEXT,
                                        UM_SOUND,  UM_VIDEO,  UM_VIDEO, UM_VIDEO, UM_TEXT,
                                        UM_TEXT,   UM_TEXT,   UM_TEXT,  UM_TEXT,  UM_TEXT};
    static const int row[] = {0, 9, 16}, rows[] = {9, 7, 4};
    static const uint8_t images[E] = {0, 1, 0, 0, 1, 0}, audio[E] = {0, 0, 1, 0, 0, 1},
                         video[E] = {0, 0, 0, 1, 1, 0};
    const uint8_t *const meant[UM_FMS] = {
        [UM_FM_IMAGE] = images, [UM_FM_AUDIO] = audio, [UM_FM_VIDEO] = video};
    const um_gate_rows samples = {row, rows, 3, modality};
    static const char *const names[] = {"balance", "z", "multimodal", "kl"};
    um_route r;
    um_route_bind(&r, &device, T, 2, E);
    dev.ops->put(&dev, r.logits, values(find("gates", "in", "logits")), T * E * sizeof(float));
    um_gate_choose(&dev, &r, UM_GATE_GSHARD, 0, NULL);
    for (int i = 0; i < 4; i++) {
        float *dz = zeroed(T * E);
        const double value =
            i == 0   ? um_gate_balance_loss(&dev, dz, &r, 1, &arena, &scratch)
            : i == 1 ? um_gate_z_loss(&dev, dz, &r, 1, &arena, &scratch)
            : i == 2 ? um_gate_multimodal_loss(&dev, dz, &r, &samples, meant, 1, &arena, &scratch)
                     : um_gate_kl_loss(&dev, dz, &r, &samples, 1, &arena, &scratch);
        const float got = (float)value;
        near("value", &got, find(names[i], "out", ""));
        near_device("gradient", dz, find(names[i], "grad", "logits"));
    }
}

static int setup(void **state)
{
    um_err err = {0};
    if (block_setup(state) != 0) return 1;
    return um_tensors_open(&golden, UM_TEST_DATA "/golden/blocks/backward.safetensors", &err) ==
                   UM_OK
               ? 0
               : 1;
}

static int teardown(void **state)
{
    um_tensors_close(golden);
    return block_teardown(state);
}

/* Any argument: on guarded memory. */
int main(int argc, char **argv)
{
    (void)argv;
    guarded = argc > 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_matches_autograd),
        cmocka_unit_test(swiglu_matches_autograd),
        cmocka_unit_test(gate_terms_match_autograd),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
