/* See dynamic_layer.h. */
#include "tests/support/dynamic_layer.h"

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/base/rng.h"
#include "tests/support/folder.h"
#include "tests/support/made_params.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define GOLDEN UM_TEST_DATA "/golden/dynamic/"

static void ok(um_status st, const um_err *err)
{
    if (st != UM_OK) fail_msg("%s", err->msg);
}

/* --- the model directory --- */

typedef struct maker {
    um_arena *a;
    const um_tensors *golden;
    um_tensor list[128];
    size_t n;
} maker;

/* The golden layer's tensor where there is one, else random numbers. */
static um_status collect(void *ctx, const um_spec *s, um_err *err)
{
    (void)err;
    maker *m = ctx;
    char name[256];
    const char *mlp = strstr(s->name, ".mlp.");
    snprintf(name, sizeof name, "weights.%s", mlp == NULL ? "" : mlp + strlen(".mlp."));
    const um_tensor *g = um_tensors_find(m->golden, name);
    um_tensor *t = &m->list[m->n++];
    assert_true(m->n <= sizeof m->list / sizeof *m->list);
    assert_true(mlp == NULL || g != NULL);
    *t = (um_tensor){.name = um_arena_str(m->a, s->name), .dtype = UM_F32, .rank = s->rank};
    size_t values = 1;
    for (int i = 0; i < s->rank; i++) {
        t->shape[i] = s->shape[i];
        values *= (size_t)s->shape[i];
    }
    float *v = um_arena_f32(m->a, 1, values);
    um_rng rng = um_rng_seed(3, m->n);
    um_rng_normal_f32(&rng, v, values, 0.1f);
    for (size_t i = 0; s->init == UM_INIT_ONES && i < values; i++) v[i] = 1.0f;
    t->bytes = values * sizeof *v;
    if (g != NULL) assert_int_equal(g->bytes, t->bytes);
    t->data = g != NULL ? g->data : (const uint8_t *)v;
    return UM_OK;
}

void dynamic_model_make(const char *dir, const char *name, um_arena *a)
{
    um_err err = {0};
    um_model m;
    uint8_t *text;
    size_t n;
    maker mk = {.a = a};
    um_tensors *golden = NULL;
    ok(um_file_read(&text, &n, um_arena_fmt(a, GOLDEN "%s/config.json", name), 1 << 16, a, &err),
       &err);
    const char *keys = um_arena_strn(a, (const char *)text, n);
    while (*keys != '\0' && *keys++ != '{') {
    }
    folder_text(dir, "config.json",
                um_arena_fmt(a,
                             "{\"intermediate_size\": 96, \"num_hidden_layers\": 1, "
                             "\"num_attention_heads\": 4, \"vocab_size\": 32,%s",
                             keys));
    ok(um_model_read(&m, dir, NULL, a, &err), &err);
    ok(um_tensors_open(&golden, um_arena_fmt(a, GOLDEN "%s/layer.safetensors", name), &err), &err);
    mk.golden = golden;
    ok(um_model_for_each_tensor(&m, collect, &mk, &err), &err);
    ok(um_tensors_write(um_path_join(a, dir, "model.safetensors"), mk.list, mk.n, NULL, &err),
       &err);
    um_tensors_close(golden);
}

/* --- the layer --- */

static void load(dynamic_layer *l, const um_checkpoint *ck, um_dev *dev, um_arena *a)
{
    const um_model *m = &ck->model;
    um_err err = {0};
    const um_place gate = um_place_of(UM_PART_GATE, UM_SLOT_GATE, 0, -1);
    l->params = params_of(ck, UM_ALL_PARTS, "f32", dev, a, a);
    ok(um_linear_load(&l->gate_w, &l->params, gate, &err), &err);
    l->blocks = m->experts + m->dynamic.shared;
    l->ffn = um_arena_zero(a, (size_t)l->blocks * sizeof *l->ffn);
    for (int e = 0; e < m->experts; e++)
        ok(um_ffn_load(&l->ffn[e], &l->params, UM_PART_EXPERT, 0, e, &err), &err);
    for (int j = 0; j < m->dynamic.shared; j++)
        ok(um_ffn_load(&l->ffn[m->experts + j], &l->params, UM_PART_BACKBONE, 0, j, &err), &err);
}

/* The terms of one value: routed experts in slot order, then shared ones; the first a product, then fma. */
static float sum_one(const dynamic_layer *l, const um_dynamic_model *m, size_t t, size_t at)
{
    const um_dynamic *g = &l->gate;
    float sum = 0.0f;
    for (int k = 0; k < g->K; k++) {
        int32_t e = g->experts[t * (size_t)g->K + (size_t)k];
        float w = g->slots[t * (size_t)g->K + (size_t)k];
        if (e >= 0) sum = k == 0 ? w * l->rows[e][at] : fmaf(w, l->rows[e][at], sum);
    }
    for (int j = 0; j < m->shared; j++) {
        float w = g->weights[t * (size_t)g->C + (size_t)(m->routed + m->nulls + j)];
        sum = fmaf(w, l->rows[m->routed + j][at], sum);
    }
    return sum;
}

void dynamic_layer_run(dynamic_layer *l, const um_checkpoint *ck, const float *x, int S,
                       const uint8_t *real, bool drop, um_dev *dev, um_arena *a)
{
    const um_model *m = &ck->model;
    size_t D = (size_t)m->dim;
    load(l, ck, dev, a);
    um_dynamic_bind(&l->gate, a, &m->dynamic, S, m->top_k);
    um_linear_fwd(dev, l->gate.logits, x, S, &l->gate_w);
    um_dynamic_choose(dev, &l->gate, real, drop);
    l->acts = um_arena_zero(a, (size_t)l->blocks * sizeof *l->acts);
    l->rows = um_arena_alloc(a, (size_t)l->blocks * sizeof *l->rows);
    for (int b = 0; b < l->blocks; b++) {
        l->rows[b] = um_arena_f32(a, (size_t)S, D);
        um_ffn_acts_bind(&l->acts[b], a, S, l->ffn[b].gate.w.N);
        um_ffn_fwd(dev, l->rows[b], &l->acts[b], &l->ffn[b], x, S);
    }
    l->y = um_arena_f32(a, (size_t)S, D);
    for (size_t i = 0; i < (size_t)S * D; i++) l->y[i] = sum_one(l, &m->dynamic, i / D, i);
}
