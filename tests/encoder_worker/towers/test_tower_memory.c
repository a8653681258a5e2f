/* The towers' activations: kept ones give the same rows and still hold what the next step read, and the bytes that binding measures are
 * those that a run takes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/rng.h"
#include "encoder_worker/towers/beats.h"
#include "encoder_worker/towers/qformer.h"
#include "encoder_worker/towers/sound.h"
#include "encoder_worker/towers/speech_parts.h"
#include "encoder_worker/towers/tower_bytes.h"
#include "encoder_worker/towers/vision.h"
#include "tests/support/made_params.h"
#include "tests/support/test_support.h"
#include "tests/support/tower_fixture.h"

#include <math.h>
#include <string.h>

enum { SAMPLES = 52000 };

static const float eps = 1e-5f; /* of the towers that have no key for it */

/* Whether the device's memory is one that nothing but ops may touch. */
static bool guarded;

/* One model, a medium of every kind, and the arenas of an encoder rank. */
typedef struct bench {
    um_arena model, host, device, weights;
    um_dev dev;
    um_checkpoint ck;
    um_params params;
    float *pixels, *wave;
} bench;

static float *noise(bench *b, size_t n, float std)
{
    um_rng rng = um_rng_seed(11, n);
    float *x = um_arena_f32(&b->model, 1, n);
    um_rng_normal_f32(&rng, x, n, std);
    return x;
}

static void open_model(bench *b, const char *model)
{
    *b = (bench){0};
    tower_open(&b->model, &b->device, &b->dev, &b->ck, model, UM_ISA_AUTO, 2, guarded);
    um_arena_init(&b->host, "host", 1 << 20);
    um_dev_arena(&b->weights, &b->dev, "weights", 1 << 20);
    b->params = params_of(&b->ck, UM_ALL_PARTS, "auto", &b->dev, &b->model, &b->weights);
    const size_t S = (size_t)b->ck.model.vision.image_size;
    b->pixels = noise(b, 3 * S * S, 1.0f);
    b->wave = noise(b, SAMPLES, 0.1f);
}

static void close_model(bench *b)
{
    um_arena_free(&b->weights);
    um_arena_free(&b->host);
    tower_close(&b->model, &b->device, &b->dev, &b->ck, guarded);
}

/* n floats of the device, on the host. */
static const float *brought(bench *b, const float *x, size_t n)
{
    float *y = um_arena_f32(&b->host, 1, n);
    b->dev.ops->get(&b->dev, y, x, n * sizeof *y);
    return y;
}

static void want_same(bench *b, const float *x, const float *y, int T, int D, const char *what)
{
    const size_t n = (size_t)T * (size_t)D;
    const um_mark mark = um_arena_mark(&b->host);
    if (memcmp(brought(b, x, n), brought(b, y, n), n * sizeof *x) != 0)
        fail_msg("%s: overwritten", what);
    um_arena_reset(&b->host, mark);
}

/* The norm of what a step read is still what the step computed: neither was overwritten. */
static void want_norm(bench *b, const float *in, const float *normed, const um_norm *norm, int T,
                      int D, float by, const char *what)
{
    const um_mark mark = um_arena_mark(&b->device);
    float *y = um_arena_f32(&b->device, (size_t)T, (size_t)D);
    assert_ptr_not_equal(in, normed);
    um_norm_fwd(&b->dev, y, in, norm, T, D, by);
    want_same(b, y, normed, T, D, what);
    um_arena_reset(&b->device, mark);
}

/* y = in + the block's second half: all that backward of an attention or an MLP reads is still there. */
static void want_mlp(bench *b, const um_mlp_acts *a, const um_mlp *w, const float *x,
                     const float *in, const float *y, int T)
{
    const um_mark mark = um_arena_mark(&b->device);
    const int D = w->fc2.w.N;
    um_mlp_acts again;
    float *z = um_arena_f32(&b->device, (size_t)T, (size_t)D);
    um_mlp_acts_bind(&again, &b->device, T, w->fc1.w.N, true);
    um_mlp_fwd(&b->dev, z, &again, w, x, in, T);
    want_same(b, again.inner, a->inner, T, w->fc1.w.N, "mlp inner");
    want_same(b, again.act, a->act, T, w->fc1.w.N, "mlp act");
    want_same(b, z, y, T, D, "mlp output");
    um_arena_reset(&b->device, mark);
}

static void want_attention(bench *b, const um_attention_acts *a, const um_attention *w,
                           const float *x, int T, const float *from, int n, const float *in,
                           const float *y, bool causal)
{
    const um_mark mark = um_arena_mark(&b->device), host = um_arena_mark(&b->host);
    const int D = w->out.w.N, cols = w->shape.heads * w->shape.head_dim;
    um_attention_acts again;
    um_attention_pages pages;
    float *z = um_arena_f32(&b->device, (size_t)T, (size_t)D);
    um_attention_acts_bind(&again, &b->device, &w->shape, T, n);
    um_attention_pages_bind(&pages, &b->host, &b->device,
                            um_kv_page_floats(w->shape.kv_heads, w->shape.head_dim), n);
    um_attention_pages_start(&b->dev, &pages);
    um_attention_fwd(&b->dev, &again, w, &pages, x, T, from, n, causal);
    um_attention_output(&b->dev, z, &again, w, in, T);
    want_same(b, again.q, a->q, T, again.ldq, "queries");
    if (w->shape.layers != UM_ATTENTION_QKV) want_same(b, again.k, a->k, n, again.ldkv, "keys");
    want_same(b, again.heads, a->heads, T, cols, "heads");
    want_same(b, again.lse, a->lse, T, w->shape.heads, "lse");
    want_same(b, z, y, T, D, "attention output");
    um_arena_reset(&b->device, mark);
    um_arena_reset(&b->host, host);
}

static void test_kept_image(void **state)
{
    (void)state;
    bench b;
    um_err err = {0};
    um_vision v;
    um_vision_acts a, one;
    open_model(&b, "s8fm");
    const um_vision_model *m = &b.ck.model.vision;
    const int dim = b.ck.model.dim, n = um_vision_rows(m), D = m->dim;
    const int T = n + (m->keep_class ? 0 : 1);
    if (um_vision_load(&v, &b.params, &err) != UM_OK) fail_msg("%s", err.msg);
    float *rows = um_arena_f32(&b.device, (size_t)n, (size_t)dim),
          *same = um_arena_f32(&b.device, (size_t)n, (size_t)dim);
    um_vision_acts_bind(&one, &b.host, &b.device, m, dim, UM_AT_INPUT, false);
    um_vision_acts_bind(&a, &b.host, &b.device, m, dim, UM_AT_INPUT, true);
    assert_int_equal(um_vision_encode(same, &v, &one, b.pixels, &b.dev, &err), UM_OK);
    assert_int_equal(um_vision_encode(rows, &v, &a, b.pixels, &b.dev, &err), UM_OK);
    want_same(&b, rows, same, n, dim, "rows");
    want_norm(&b, a.sum, a.first, &v.pre, T, D, m->eps, "embedding");
    for (int i = 0; i < m->run_layers; i++) {
        const um_vision_layer_acts *l = &a.layer[i];
        const um_vision_block *w = &v.blocks[i];
        assert_ptr_equal(l->in, i == 0 ? a.first : a.layer[i - 1].out);
        want_norm(&b, l->in, l->norm1, &w->norm1, T, D, m->eps, "norm1");
        want_attention(&b, &l->attention, &w->attention, l->norm1, T, l->norm1, T, l->in, l->mid,
                       false);
        want_norm(&b, l->mid, l->norm2, &w->norm2, T, D, m->eps, "norm2");
        want_mlp(&b, &l->mlp, &w->mlp, l->norm2, l->mid, l->out, T);
    }
    assert_ptr_equal(a.last, a.layer[m->run_layers - 1].out);
    close_model(&b);
}

static void want_stack(bench *b, const um_speech_stack_acts *a, const um_speech_layer *w,
                       int layers, int T, const float *from, int n)
{
    const int D = b->ck.model.speech.dim;
    for (int i = 0; i < layers; i++) {
        const um_speech_layer_acts *l = &a->layer[i];
        assert_ptr_equal(l->in, i == 0 ? a->first : a->layer[i - 1].out);
        want_norm(b, l->in, l->self_norm, &w[i].self_norm, T, D, eps, "self norm");
        want_attention(b, &l->self_attention, &w[i].self, l->self_norm, T, l->self_norm, T, l->in,
                       l->mid, from != NULL);
        if (from != NULL) {
            want_norm(b, l->mid, l->cross_norm, &w[i].cross_norm, T, D, eps, "cross norm");
            want_attention(b, &l->cross_attention, &w[i].cross, l->cross_norm, T, from, n, l->mid,
                           l->cross, false);
        }
        want_norm(b, l->cross, l->ffn_norm, &w[i].ffn_norm, T, D, eps, "ffn norm");
        want_mlp(b, &l->mlp, &w[i].mlp, l->ffn_norm, l->cross, l->out, T);
    }
}

static void test_kept_speech(void **state)
{
    (void)state;
    bench b;
    um_err err = {0};
    um_speech *s;
    open_model(&b, "s4");
    const um_speech_model *m = &b.ck.model.speech;
    const int dim = b.ck.model.dim, T = m->positions, Q = m->queries, D = m->dim;
    if (um_speech_load(&s, &b.params, &err) != UM_OK) fail_msg("%s", err.msg);
    float *rows = um_arena_f32(&b.device, (size_t)Q, (size_t)dim),
          *same = um_arena_f32(&b.device, (size_t)Q, (size_t)dim);
    um_speech_acts *one = um_speech_acts_bind(&b.host, &b.device, m, dim, UM_AT_INPUT, false),
                   *a = um_speech_acts_bind(&b.host, &b.device, m, dim, UM_AT_INPUT, true);
    assert_int_equal(um_speech_encode(same, s, one, b.wave, SAMPLES, false, &b.dev, &b.host, &err),
                     UM_OK);
    assert_int_equal(um_speech_encode(rows, s, a, b.wave, SAMPLES, false, &b.dev, &b.host, &err),
                     UM_OK);
    want_same(&b, rows, same, Q, dim, "rows");
    float *act = um_arena_f32(&b.device, (size_t)(2 * T), (size_t)D);
    b.dev.ops->gelu(&b.dev, act, a->conv1, (size_t)(2 * T) * (size_t)D);
    want_same(&b, act, a->act1 + D, 2 * T, D, "first convolution");
    b.dev.ops->gelu(&b.dev, act, a->conv2, (size_t)T * (size_t)D);
    b.dev.ops->add(&b.dev, act, s->positions, (size_t)T * (size_t)D);
    want_same(&b, act, a->encoder.first, T, D, "second convolution");
    want_stack(&b, &a->encoder, s->encoder, m->layers, T, NULL, 0);
    want_norm(&b, a->encoder.last, a->encoder.normed, &s->encoder_norm, T, D, eps, "encoder norm");
    b.dev.ops->copy(&b.dev, act, s->queries, (size_t)Q * (size_t)D * sizeof *act);
    b.dev.ops->add(&b.dev, act, s->query_positions, (size_t)Q * (size_t)D);
    want_same(&b, a->decoder.first, act, Q, D, "queries");
    want_stack(&b, &a->decoder, s->decoder, m->dec_layers, Q, a->encoder.normed, T);
    want_norm(&b, a->decoder.last, a->decoder.normed, &s->decoder_norm, Q, D, eps, "decoder norm");
    close_model(&b);
}

static void test_kept_beats(void **state)
{
    (void)state;
    bench b;
    um_err err = {0};
    um_beats w;
    um_beats_acts a, one;
    open_model(&b, "a4");
    const um_sound_model *m = &b.ck.model.sound;
    um_status st = um_beats_load(&w, &b.params, &err);
    if (st == UM_OK) st = um_beats_prepare(&w, &err);
    if (st != UM_OK) fail_msg("%s", err.msg);
    const int D = m->dim, real = um_beats_real_rows(&w, SAMPLES), T = real; /* rows to look at */
    um_beats_acts_bind(&one, &b.host, &b.device, m, false);
    um_beats_acts_bind(&a, &b.host, &b.device, m, true);
    um_beats_fwd(&one, &w, um_beats_input(&one, &w, b.wave, SAMPLES, &b.host), &b.dev);
    um_beats_fwd(&a, &w, um_beats_input(&a, &w, b.wave, SAMPLES, &b.host), &b.dev);
    want_same(&b, a.out, one.out, w.rows, D, "rows");
    float *y = um_arena_f32(&b.device, (size_t)T, (size_t)D);
    b.dev.ops->gelu(&b.dev, y, a.conv, (size_t)T * (size_t)D);
    want_same(&b, y, a.act, T, D, "positions");
    b.dev.ops->add(&b.dev, y, a.rows, (size_t)T * (size_t)D);
    want_same(&b, y, a.sum, T, D, "rows and positions");
    want_norm(&b, a.sum, a.first, &w.norm, T, D, eps, "first norm");
    for (int i = 0; i < m->layers; i++) {
        const um_beats_layer_acts *s = &a.layer[i];
        assert_ptr_equal(s->attend.in, i == 0 ? a.first : a.layer[i - 1].feed.out);
        assert_ptr_equal(s->feed.in, s->attend.out);
        um_linear_fwd(&b.dev, y, s->attend.in, T, &w.layers[i].attention.q);
        want_same(&b, y, s->attention.q, T, D, "queries");
        want_norm(&b, s->attend.sum, s->attend.out, &w.layers[i].attn_norm, T, D, eps, "norm");
        want_norm(&b, s->feed.sum, s->feed.out, &w.layers[i].end_norm, T, D, eps, "end norm");
        b.dev.ops->copy(&b.dev, y, s->feed.in, (size_t)T * (size_t)D * sizeof *y);
        b.dev.ops->scale(&b.dev, y, (float)sqrt(sqrt(2.0 * m->layers)), (size_t)T * (size_t)D);
        want_mlp(&b, &s->mlp, &w.layers[i].mlp, s->feed.in, y, s->feed.sum, T);
    }
    close_model(&b);
}

static void test_kept_qformer(void **state)
{
    (void)state;
    bench b;
    um_err err = {0};
    um_qformer w;
    um_qformer_acts a, one;
    open_model(&b, "a4");
    const um_sound_model *m = &b.ck.model.sound;
    if (um_qformer_load(&w, &b.params, &err) != UM_OK) fail_msg("%s", err.msg);
    enum { T = 83 };
    const int N = m->queries, Q = m->q_dim;
    const float *x = um_dev_put_f32(&b.dev, &b.device, noise(&b, (size_t)T * (size_t)m->dim, 1.0f),
                                    (size_t)T * (size_t)m->dim);
    um_qformer_acts_bind(&one, &b.host, &b.device, m, T, false);
    um_qformer_acts_bind(&a, &b.host, &b.device, m, T, true);
    um_qformer_fwd(&one, &w, x, T, &b.dev);
    um_qformer_fwd(&a, &w, x, T, &b.dev);
    want_same(&b, a.last, one.last, N, Q, "rows");
    want_norm(&b, w.queries, a.first, &w.query_norm, N, Q, m->q_eps, "queries");
    const float *in = a.first;
    for (int i = 0; i < m->q_layers; i++) {
        const um_qformer_layer_acts *s = &a.layer[i];
        const um_qformer_layer *q = &w.layers[i];
        assert_ptr_equal(s->self.in, in);
        want_attention(&b, &s->self_attention, &q->self.block, in, N, in, N, in, s->self.sum,
                       false);
        want_norm(&b, s->self.sum, s->self.out, &q->self.norm, N, Q, m->q_eps, "self norm");
        in = s->self.out;
        if (i % m->q_cross == 0) {
            assert_ptr_equal(s->cross.in, in);
            want_attention(&b, &s->cross_attention, &q->cross.block, in, N, x, T, in, s->cross.sum,
                           false);
            want_norm(&b, s->cross.sum, s->cross.out, &q->cross.norm, N, Q, m->q_eps, "cross norm");
            in = s->cross.out;
        }
        assert_ptr_equal(s->feed.in, in);
        want_mlp(&b, &s->mlp, &q->mlp, in, in, s->feed.sum, N);
        want_norm(&b, s->feed.sum, s->feed.out, &q->norm, N, Q, m->q_eps, "norm");
        in = s->feed.out;
    }
    assert_ptr_equal(a.last, in);
    close_model(&b);
}

/* Runs a medium as an encoder rank does: what it reads and what it answers on the host, everything else on the device. */
static um_tower_bytes run_medium(bench *b, um_modality modality)
{
    um_err err = {0};
    const um_model *m = &b->ck.model;
    um_status st;
    size_t n;
    const float *out;
    if (modality == UM_IMAGE) {
        um_vision v;
        um_vision_acts a;
        n = (size_t)um_vision_rows(&m->vision) * (size_t)m->dim;
        st = um_vision_load(&v, &b->params, &err);
        const size_t S = (size_t)m->vision.image_size;
        float *pixels = um_arena_f32(&b->host, 3, S * S);
        memcpy(pixels, b->pixels, 3 * S * S * sizeof *pixels);
        um_vision_acts_bind(&a, &b->host, &b->device, &m->vision, m->dim, UM_AT_INPUT, false);
        float *rows = um_arena_f32(&b->device, 1, n);
        if (st == UM_OK) st = um_vision_encode(rows, &v, &a, pixels, &b->dev, &err);
        out = rows;
    } else {
        const bool speech = modality == UM_SPEECH;
        float *wave = um_arena_zero(&b->host, UM_WAVE_WINDOW * sizeof *wave);
        memcpy(wave, b->wave, SAMPLES * sizeof *wave);
        n = (size_t)(speech ? m->speech.queries : m->sound.queries) * (size_t)m->dim;
        float *rows = um_arena_f32(&b->device, 1, n);
        um_speech *s = NULL;
        um_sound *sound = NULL;
        if (speech) {
            st = um_speech_load(&s, &b->params, &err);
            um_speech_acts *a =
                um_speech_acts_bind(&b->host, &b->device, &m->speech, m->dim, UM_AT_INPUT, false);
            if (st == UM_OK)
                st = um_speech_encode(rows, s, a, wave, UM_WAVE_WINDOW, false, &b->dev, &b->host,
                                      &err);
        } else {
            st = um_sound_load(&sound, &b->params, &err);
            um_sound_acts *a =
                um_sound_acts_bind(&b->host, &b->device, &m->sound, m->dim, UM_AT_INPUT, false);
            if (st == UM_OK)
                st = um_sound_encode(rows, sound, a, wave, UM_WAVE_WINDOW, &b->dev, &b->host, &err);
        }
        out = rows;
    }
    if (st != UM_OK) fail_msg("%s", err.msg);
    brought(b, out, n);
    return (um_tower_bytes){b->host.peak, b->device.peak};
}

/* At least what a run takes, and at most half as much again, on either side. */
static void want_measured(size_t plan, size_t run, const char *what)
{
    if (plan < run || plan > run + run / 2)
        fail_msg("%s: %zu bytes planned, %zu taken", what, plan, run);
}

static void test_bytes_are_measured(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        um_modality modality;
    } cases[] = {
        {"s4", UM_IMAGE},  {"s4i", UM_IMAGE}, {"s8fm", UM_IMAGE},
        {"s4", UM_SPEECH}, {"s8", UM_SPEECH}, {"a4", UM_SOUND},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bench b;
        open_model(&b, cases[i].model);
        const um_tower_bytes plan = um_tower_bytes_of(&b.ck.model, cases[i].modality);
        const um_tower_bytes run = run_medium(&b, cases[i].modality);
        want_measured(plan.host, run.host, cases[i].model);
        want_measured(plan.device, run.device, cases[i].model);
        close_model(&b);
    }
    const um_model none = {.dim = 64};
    for (int m = UM_TEXT; m < UM_MODALITIES; m++) {
        const um_tower_bytes bytes = um_tower_bytes_of(&none, (um_modality)m);
        assert_true(bytes.host == 0 && bytes.device == 0);
    }
}

/* Any argument: on guarded memory. */
int main(int argc, char **argv)
{
    (void)argv;
    guarded = argc > 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept_image),         cmocka_unit_test(test_kept_speech),
        cmocka_unit_test(test_kept_beats),         cmocka_unit_test(test_kept_qformer),
        cmocka_unit_test(test_bytes_are_measured),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
