/* The list of parameters: what each rank of a job owns is exactly what its loader asks for, in every variant; together the ranks own the
 * whole model; the bytes that the memory plan counts are those that loading takes; what is asked for and missing is named. */
#include "core/nn/params.h"

#include "core/base/bytes.h"
#include "core/comm/topology.h"
#include "encoder_worker/encode.h"
#include "expert_worker/expert.h"
#include "router/backbone/backbone.h"
#include "tests/support/dynamic_layer.h"
#include "tests/support/fixture.h"
#include "tests/support/made_params.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#define MODELS UM_TEST_DATA "/golden/models/"

static um_dev dev;

/* One rank of a job: its list, and its own arena of weights. */
typedef struct rank {
    um_params ps;
    um_arena host, device;
} rank;

static um_arena lora_scratch;
static um_lora lora = {.scratch = &lora_scratch};

static void rank_open(rank *r, const um_checkpoint *ck, const um_owner *who, uint32_t reads,
                      bool live)
{
    um_err err = {0};
    const um_selection sel = um_topology_selection(who, reads);
    um_arena_init(&r->host, "host", 1 << 16);
    um_dev_arena(&r->device, &dev, "device", 1 << 16);
    const um_loading how = {
        .dev = &dev, .host = &r->host, .device = &r->device, .lora_live = live, .lora = &lora};
    if (um_params_open(&r->ps, ck, &sel, &how, &err) != UM_OK) fail_msg("%s", err.msg);
}

static void rank_close(rank *r)
{
    um_arena_free(&r->host);
    um_arena_free(&r->device);
}

static void ok(um_status st, const um_err *err)
{
    if (st != UM_OK) fail_msg("%s", err->msg);
}

static void rank_load(rank *r, const um_owner *who, uint32_t reads)
{
    um_err err = {0};
    um_backbone b = {0};
    um_experts e;
    um_encode n = {.dev = &dev};
    switch (who->topo->ranks[who->rank].role) {
    case UM_ROLE_ROUTER:
        ok(um_backbone_load(&b, &r->ps, &err), &err);
        um_backbone_close(&b);
        break;
    case UM_ROLE_EXPERT:
        ok(um_experts_load(&e, &r->ps, &who->topo->place, who->topo->ranks[who->rank].index, &err),
           &err);
        break;
    default:
        ok(um_encode_load(&n, &r->ps, reads, &err), &err);
    }
}

/* Nothing in the list is left unused, what is absent is optional, every matrix lies in device memory. */
static void all_used(const rank *r)
{
    for (size_t i = 0; i < r->ps.n; i++) {
        const um_param *p = &r->ps.list[i];
        const bool factor = p->spec.leaf == UM_LEAF_LORA_A || p->spec.leaf == UM_LEAF_LORA_B;
        if (p->stored == NULL && !p->spec.optional) fail_msg("%s is missing", p->spec.name);
        if (p->stored != NULL && !p->loaded) fail_msg("%s is not used", p->spec.name);
        if (p->stored == NULL || p->derived || p->computed || p->spec.mapped) continue;
        if (um_spec_is_matrix(&p->spec) ? p->weight == NULL : p->vector == NULL)
            fail_msg("%s is not loaded", p->spec.name);
        assert_true(!factor || r->ps.how.lora_live);
    }
}

/* Of a router and an expert rank the list says the bytes exactly; towers keep some values that are computed from others. */
static void bytes_match(const rank *r, um_role role)
{
    size_t mapped;
    const size_t planned = um_params_bytes(&r->ps, &mapped), used = r->device.used;
    assert_int_equal(mapped > 0, role == UM_ROLE_ROUTER && !r->ps.ck->model.tied);
    um_arena one;
    um_arena_init(&one, "one", 64);
    (void)um_arena_alloc(&one, 64);
    const size_t gap = one.used - 64; /* of a sanitized build, behind every allocation */
    um_arena_free(&one);
    if (role != UM_ROLE_ENCODER)
        assert_in_range(used, planned, planned + r->ps.n * gap);
    else
        assert_true(used > planned / 2 &&
                    used < planned + planned / 2 + ((size_t)1 << 17) + r->ps.n * gap);
}

static um_status count_one(void *ctx, const um_spec *s, um_err *err)
{
    (void)err;
    *(size_t *)ctx += !s->idle;
    return UM_OK;
}

/* A job of one router, `experts` expert ranks and one encoder for each tower. */
static void job(const char *model, int experts, bool live)
{
    static const uint32_t reads[] = {UM_READS_VISION, 1u << UM_SPEECH, 1u << UM_SOUND};
    um_checkpoint ck;
    um_topology topo;
    um_rank who[16] = {{.role = UM_ROLE_ROUTER}};
    um_err err = {0};
    size_t all = 0, owned = 0;
    int n = 1;
    ok(um_checkpoint_open(&ck, model, NULL, &err), &err);
    const um_model *m = &ck.model;
    const bool has[] = {m->vision.present, m->speech.present, m->sound.present};
    for (int i = 0; m->experts > 0 && i < experts; i++) who[n++].role = UM_ROLE_EXPERT;
    for (int i = 0; i < 3; i++) {
        if (!has[i]) continue;
        who[n].role = UM_ROLE_ENCODER;
        who[n++].modalities = reads[i];
    }
    ok(um_topology_build(&topo, who, n, &arena, &err), &err);
    ok(um_placement_blocks(&topo.place, m->layers, m->experts, topo.count[UM_ROLE_EXPERT], &arena,
                           &err),
       &err);
    for (int i = 0; i < n; i++) {
        rank r = {0};
        const um_owner me = {&topo, i};
        rank_open(&r, &ck, &me, topo.ranks[i].modalities, live);
        rank_load(&r, &me, topo.ranks[i].modalities);
        all_used(&r);
        bytes_match(&r, topo.ranks[i].role);
        owned += r.ps.n;
        rank_close(&r);
    }
    ok(um_model_for_each_tensor(m, count_one, &all, &err), &err);
    assert_int_equal(owned, all); /* no tensor is left out, none is listed twice */
    um_checkpoint_close(&ck);
}

static void every_rank_owns_what_it_loads(void **state)
{
    (void)state;
    static const char *const names[] = {"s4", "s4i", "s8", "s8fm", "a4"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int experts = 1; experts <= 5; experts += 2) {
            const char *model = um_arena_fmt(&arena, MODELS "%s", names[i]);
            job(model, experts, false);
            job(model, experts, true);
        }
}

static void the_dynamic_style_too(void **state)
{
    (void)state;
    dynamic_model_make(dir, "p07", &arena);
    job(dir, 1, false);
    job(dir, 2, true);
}

/* Each parameter is found by its place, and by no other. */
static void places_are_unique(void **state)
{
    (void)state;
    um_checkpoint ck;
    um_err err = {0};
    ok(um_checkpoint_open(&ck, MODELS "s8fm", NULL, &err), &err);
    um_params ps = params_of(&ck, UM_ALL_PARTS, "auto", &dev, &arena, &arena);
    for (size_t i = 0; i < ps.n; i++)
        assert_ptr_equal(um_params_find(&ps, ps.list[i].spec.at, ps.list[i].spec.leaf),
                         &ps.list[i]);
    assert_null(um_params_find(
        &ps, um_place_of(UM_PART_EXPERT, UM_SLOT_UP_PROJ, 0, ck.model.experts), UM_LEAF_WEIGHT));
    assert_null(um_params_find(&ps, um_place_of(UM_PART_BACKBONE, UM_SLOT_Q, 0, -1), UM_LEAF_BIAS));
    um_checkpoint_close(&ck);
}

/* A tensor that is renamed in the list is what loading looks for: no loader has a name of its own. */
static void loaders_know_no_names(void **state)
{
    (void)state;
    um_checkpoint ck;
    um_err err = {0};
    um_backbone b = {0};
    ok(um_checkpoint_open(&ck, MODELS "s4i", NULL, &err), &err);
    um_params ps = params_of(&ck, UM_ALL_PARTS, "auto", &dev, &arena, &arena);
    um_param *p =
        um_params_find(&ps, um_place_of(UM_PART_BACKBONE, UM_SLOT_V, 1, -1), UM_LEAF_WEIGHT);
    p->spec.name = "model.layers.1.self_attn.values.weight";
    assert_int_equal(um_backbone_load(&b, &ps, &err), UM_E_MODEL);
    has(&err, "tensor model.layers.1.self_attn.values.weight: missing in ");
    assert_null(b.blocks);
    p->spec.name = p->stored->name;
    p->spec.shape[1] = 7;
    assert_int_equal(um_backbone_load(&b, &ps, &err), UM_E_MODEL);
    has(&err, "model.layers.1.self_attn.v_proj.weight");
    has(&err, "want [32,7]");
    um_checkpoint_close(&ck);
}

static bool trains_some(const void *ctx, const um_spec *s)
{
    (void)ctx;
    return s->at.slot == UM_SLOT_EMBED || (s->at.slot == UM_SLOT_NORM && s->at.layer < 0) ||
           (s->at.slot == UM_SLOT_Q && s->at.layer == 0);
}

/* What may be trained: a tensor that is loaded as it is. The table of tokens moves from the file into device memory. */
static void training_needs_the_tensor_itself(void **state)
{
    (void)state;
    um_checkpoint ck;
    um_err err = {0};
    um_backbone b = {0};
    ok(um_checkpoint_open(&ck, MODELS "s8", NULL, &err), &err);
    um_params ps = params_of(&ck, um_role_parts(UM_ROLE_ROUTER, 0), "auto", &dev, &arena, &arena);
    um_param *q =
        um_params_find(&ps, um_place_of(UM_PART_BACKBONE, UM_SLOT_Q, 0, -1), UM_LEAF_WEIGHT);
    um_param *merged =
        um_params_find(&ps, um_place_of(UM_PART_BACKBONE, UM_SLOT_UP_PROJ, 1, -1), UM_LEAF_WEIGHT);
    um_param *embed =
        um_params_find(&ps, um_place_of(UM_PART_BACKBONE, UM_SLOT_EMBED, -1, -1), UM_LEAF_WEIGHT);
    um_param *norm =
        um_params_find(&ps, um_place_of(UM_PART_BACKBONE, UM_SLOT_NORM, -1, -1), UM_LEAF_WEIGHT);
    assert_int_equal(um_params_train(&ps, trains_name, q->spec.name, &err), UM_E_USAGE);
    has(&err, "it is not loaded");
    ok(um_backbone_load(&b, &ps, &err), &err);
    assert_int_equal(um_params_train(&ps, trains_name, merged->spec.name, &err), UM_E_USAGE);
    has(&err, merged->spec.name);
    train(&ps, trains_some, NULL);
    assert_true(q->trained && q->master == q->weight->master && q->grad != NULL);
    assert_ptr_equal(norm->master, norm->vector);
    float *want = um_arena_f32(&arena, 1, um_spec_values(&embed->spec));
    um_tensor_to_f32(want, embed->stored);
    assert_memory_equal(embed->master, want, um_spec_values(&embed->spec) * sizeof *want);
    um_backbone_close(&b);
    um_checkpoint_close(&ck);
}

/* Every feed-forward block of the golden models with a LoRA: the branch gives what merging gives, each matrix and the whole block. */
static void blocks_match(const um_ffn *merged, const um_ffn *live, int D, int F)
{
    enum { T = 5 };
    um_ffn_acts a, b;
    um_rng rng = um_rng_seed(5, (uint64_t)D);
    const size_t n[] = {(size_t)T * (size_t)F, (size_t)T * (size_t)F, (size_t)T * (size_t)D};
    float *x = um_arena_f32(&arena, T, (size_t)D), *y = um_arena_f32(&arena, T, (size_t)D),
          *z = um_arena_f32(&arena, T, (size_t)D);
    um_rng_normal_f32(&rng, x, n[2], 1.0f);
    um_ffn_acts_bind(&a, &arena, T, F);
    um_ffn_acts_bind(&b, &arena, T, F);
    um_ffn_fwd(&dev, y, &a, merged, x, T);
    um_ffn_fwd(&dev, z, &b, live, x, T);
    const float *const want[] = {a.gate, a.up, y}, *const got[] = {b.gate, b.up, z};
    for (int i = 0; i < 3; i++) {
        double largest = 0, off = 0;
        for (size_t k = 0; k < n[i]; k++) {
            largest = fmax(largest, fabs((double)want[i][k]));
            off = fmax(off, fabs((double)want[i][k] - (double)got[i][k]));
        }
        if (!(off <= 1e-6 * largest)) fail_msg("%g off, largest value %g", off, largest);
    }
}

static void golden_lora_branches_match(void **state)
{
    (void)state;
    static const char *const names[] = {"s8", "s8fm"};
    int blocks = 0;
    for (size_t i = 0; i < 2; i++) {
        um_checkpoint ck;
        um_err err = {0};
        ok(um_checkpoint_open(&ck, um_arena_fmt(&arena, MODELS "%s", names[i]), NULL, &err), &err);
        const um_model *m = &ck.model;
        um_params ps = params_of(&ck, UM_ALL_PARTS, "auto", &dev, &arena, &arena);
        ps.how.lora = &lora;
        for (int l = 0; l < m->layers; l++)
            for (int e = m->moe_layer[l] ? 0 : -1; e < (m->moe_layer[l] ? m->experts : 0); e++) {
                const um_part part = e < 0 ? UM_PART_BACKBONE : UM_PART_EXPERT;
                um_ffn merged, live;
                ps.how.lora_live = false;
                ok(um_ffn_load(&merged, &ps, part, l, e, &err), &err);
                ps.how.lora_live = true;
                ok(um_ffn_load(&live, &ps, part, l, e, &err), &err);
                if (live.gate.branches == 0) continue;
                blocks_match(&merged, &live, m->dim, live.gate.w.N);
                blocks++;
            }
        um_checkpoint_close(&ck);
    }
    assert_true(blocks >= 8);
}

static int setup(void **state)
{
    folder_setup(state);
    um_arena_init(&lora_scratch, "scratch", 1 << 16);
    return um_dev_open_cpu(&dev, UM_ISA_AUTO, 1, NULL) == UM_OK ? 0 : 1;
}

static int teardown(void **state)
{
    um_arena_free(&lora_scratch);
    return folder_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_owns_what_it_loads),
        cmocka_unit_test(the_dynamic_style_too),
        cmocka_unit_test(places_are_unique),
        cmocka_unit_test(loaders_know_no_names),
        cmocka_unit_test(training_needs_the_tensor_itself),
        cmocka_unit_test(golden_lora_branches_match),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
