/* The golden training cases, as far as the router computes them: losses, auxiliary terms, and the gradients of what it trains. */
#include "tests/cluster/train/backward_fixture.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/fixture.h"
#include "tests/support/test_support.h"

#include <math.h>

/* Sample `row` of batch `b`, as the original's collator has it, without its padding. */
static void golden_sample(work *w, const um_tensors *want, int b, int row)
{
    const um_tensor *ids = um_tensors_find(want, um_arena_fmt(&w->host, "batch%d.input_ids", b));
    const um_tensor *labels = um_tensors_find(want, um_arena_fmt(&w->host, "batch%d.labels", b));
    assert_non_null(ids);
    assert_non_null(labels);
    const int L = (int)ids->shape[1];
    const int32_t *id = (const int32_t *)ids->data + row * L;
    int n = L;
    while (n > 0 && id[n - 1] == 0) n--;
    w->sample[w->samples++] =
        (um_train_sample){.ids = id, .labels = (const int32_t *)labels->data + row * L, .n = n};
}

static double golden_value(work *w, const um_tensors *want, int b, const char *name, int i)
{
    const um_tensor *t = um_tensors_find(want, um_arena_fmt(&w->host, "batch%d.%s", b, name));
    if (t == NULL) fail_msg("batch%d.%s is missing", b, name);
    float v[16];
    um_tensor_to_f32(v, t);
    return (double)v[i];
}

static void near(double got, double want, double tolerance, const char *what)
{
    if (!(fabs(got - want) <= tolerance * fmax(1.0, fabs(want))))
        fail_msg("%s: %.8g, want %.8g", what, got, want);
}

/* What an auxiliary term adds to the loss. */
static double term(const um_loss *l, um_aux_term k, double coef)
{
    double sum = 0;
    for (int i = 0; i < l->moe_layers; i++) sum += coef * l->aux[k][i];
    return sum;
}

static void golden_losses(work *w, const um_tensors *want, int b, const um_loss *l)
{
    const double loss = l->sum / l->targets + um_loss_aux(l, &w->aux);
    near(loss, golden_value(w, want, b, "loss", 0), 1e-5, "loss");
    if (w->base.ck.model.gate != UM_GATE_GSHARD) return;
    for (int i = 0; i < l->moe_layers; i++)
        near(l->aux[UM_AUX_BALANCE][i], golden_value(w, want, b, "balance", i), 1e-5, "balance");
    near(loss + term(l, UM_AUX_MULTIMODAL, 0.05),
         golden_value(w, want, b, "loss_with_aux_multimodal_loss", 0), 1e-5, "multimodal");
    near(loss + term(l, UM_AUX_KL, 0.02), golden_value(w, want, b, "loss_with_aux_kl_loss", 0),
         1e-5, "kl");
}

/* The sum of the gradients of the rows of some modalities: that of the bias of their projector's last layer. */
static void golden_media(work *w, const um_tensors *want, int b, uint32_t modalities,
                         const char *bias)
{
    const size_t D = (size_t)w->base.ck.model.dim;
    const um_tensor *t = um_tensors_find(want, um_arena_fmt(&w->host, "batch%d.grad.%s", b, bias));
    float *sum = um_arena_zero(&w->host, D * sizeof *sum), *v = um_arena_f32(&w->host, 1, D);
    bool any = false;
    for (int i = 0; i < w->batch.media_n; i++) {
        const um_media_place *p = &w->batch.media[i];
        if ((modalities >> p->modality & 1) == 0) continue;
        float *g = um_arena_f32(&w->host, (size_t)p->n, D);
        um_micro_batch_media_grad(&w->batch, i, g);
        for (size_t k = 0; k < (size_t)p->n * D; k++) sum[k % D] += g[k] / (float)w->batch.targets;
        any = true;
    }
    assert_true(any == (t != NULL));
    if (t == NULL) return;
    um_tensor_to_f32(v, t);
    if (!(distance(sum, v, D) < 1e-4f))
        fail_msg("%s: off by %g", bias, (double)distance(sum, v, D));
}

/* The gradients of what the router trains. */
static void golden_gradients(work *w, const um_tensors *want, int b)
{
    const um_params *ps = &w->base.params;
    for (size_t i = 0; i < ps->n; i++) {
        const um_param *p = &ps->list[i];
        const size_t n = um_spec_values(&p->spec);
        if (!p->trained) continue;
        const um_tensor *t =
            um_tensors_find(want, um_arena_fmt(&w->host, "batch%d.grad.%s", b, p->spec.name));
        if (t == NULL) fail_msg("batch%d: %s has no gradient there", b, p->spec.name);
        assert_true(p->touched);
        float *g = um_arena_f32(&w->host, 1, n), *v = um_arena_f32(&w->host, 1, n);
        um_param_fetch(p, g, p->grad);
        um_tensor_to_f32(v, t);
        for (size_t k = 0; k < n; k++) g[k] /= (float)w->batch.targets;
        const float off = distance(g, v, n);
        if (!(off < 1e-4f)) fail_msg("batch%d: %s: off by %g", b, p->spec.name, (double)off);
    }
    golden_media(w, want, b, UM_READS_VISION, "model.mm_projector.2.bias");
    golden_media(w, want, b, 1u << UM_SPEECH | 1u << UM_SOUND,
                 "model.mm_audio_aligner.projector.bias");
}

static void golden_batch(work *w, const um_tensors *want, int b)
{
    um_err err = {0};
    um_loss loss;
    um_micro_batch *m = &w->batch;
    um_params_zero_grads(&w->base.params);
    work_ok(um_micro_batch_build(m, w->sample, w->samples, true, 1, w->number++, &err), &err);
    while (!um_pass_done(&m->pass)) work_ok(um_pass_run(&m->pass, &err), &err);
    work_ok(um_loss_run(&loss, m, true, true, &w->host, &err), &err);
    golden_losses(w, want, b, &loss);
    while (!um_backward_done(&m->backward)) work_ok(um_backward_run(&m->backward, &err), &err);
    work_ok(um_micro_batch_finish(m, &err), &err);
    golden_gradients(w, want, b);
}

static void golden_body(work *w)
{
    static const uint8_t image[8] = {[1] = 1, [4] = 1}, audio[8] = {[2] = 1, [5] = 1},
                         video[8] = {[3] = 1, [4] = 1}; /* of s8's config.json */
    um_err err = {0};
    um_tensors *want;
    w->aux =
        (um_aux){.meant = {[UM_FM_IMAGE] = image, [UM_FM_AUDIO] = audio, [UM_FM_VIDEO] = video}};
    if (w->base.ck.model.gate == UM_GATE_GSHARD) w->aux.coef[UM_AUX_BALANCE] = 0.01f;
    work_ok(um_tensors_open(&want, w->expected, &err), &err);
    golden_sample(w, want, 2, 0);
    golden_sample(w, want, 2, 1);
    golden_batch(w, want, 2);
    um_tensors_close(want);
}

/* The text batch of each case: the others need encoders (tests/cluster/test_training.c). */
static void golden_text_batches(void **state)
{
    (void)state;
    const char *models[] = {"s4", "a4", "s8"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        work_run_golden(models[i], golden_body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_text_batches),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}
