/* See trace_train.h. */
#include "router/train/trace_train.h"

#include "core/base/file.h"
#include "core/base/text.h"
#include "core/nn/safetensors.h"
#include "router/train/aux_coefficients.h"

#include <stdio.h>
#include <string.h>

um_status um_train_trace_open(um_train_trace *t, const um_config *cfg, const um_sample_maker *maker,
                              bool leads, um_err *err)
{
    *t = (um_train_trace){.maker = *maker, .leads = leads};
    um_arena_init(&t->arena, "training file", 1 << 16);
    t->balanced = maker->model->gate == UM_GATE_GSHARD && maker->model->moe_layers > 0;
    t->trace = um_trace_open();
    return um_training_file_open(&t->file, cfg->request, &t->arena, err);
}

void um_train_trace_close(um_train_trace *t)
{
    um_training_file_close(&t->file);
    um_trace_close(t->trace);
    um_arena_free(&t->arena);
}

uint64_t um_train_trace_steps(const um_train_trace *t)
{
    return (uint64_t)t->file.batches + (uint64_t)t->file.steps;
}

/* The batch of a step. */
static int batch_of(const um_train_trace *t, uint64_t step)
{
    return (int)((step - 1) % (uint64_t)t->file.batches);
}

/* --- samples --- */

/* input_ids and labels of a batch, padded at the right to its longest sample. */
static void trace_ids(const um_train_trace *t, int batch, const um_train_work *w, um_arena *arena)
{
    char name[64];
    int longest = 0;
    for (int i = 0; i < w->n; i++)
        if (w->sample[i].n > longest) longest = w->sample[i].n;
    const size_t n = (size_t)w->n * (size_t)longest;
    int32_t *ids = um_arena_zero(arena, n * sizeof *ids),
            *labels = um_arena_alloc(arena, n * sizeof *labels);
    for (size_t i = 0; i < n; i++) labels[i] = UM_LABEL_IGNORED;
    for (int i = 0; i < w->n; i++) {
        const um_data_sample *s = &w->sample[i];
        memcpy(ids + (size_t)i * (size_t)longest, s->ids, (size_t)s->n * sizeof *ids);
        memcpy(labels + (size_t)i * (size_t)longest, s->labels, (size_t)s->n * sizeof *labels);
    }
    snprintf(name, sizeof name, "batch%d.input_ids", batch);
    um_trace_rows(t->trace, name, UM_I32, ids, w->n, longest);
    snprintf(name, sizeof name, "batch%d.labels", batch);
    um_trace_rows(t->trace, name, UM_I32, labels, w->n, longest);
}

/* An um_train_feed.plan. */
static um_status plan(void *ctx, um_train_plan *p, um_err *err)
{
    um_train_trace *t = ctx;
    const um_json *samples = NULL;
    const int *index = NULL;
    const int batch = batch_of(t, p->step);
    p->batches = 1;
    if (!t->leads) return UM_OK;
    p->n = 1;
    um_train_work *w = p->work = um_arena_zero(&p->arena, sizeof *p->work);
    UM_TRY(um_training_file_batch(&t->file, batch, &samples, &index, &w->n, &p->arena, err));
    w->sample = um_arena_zero(&p->arena, (size_t)w->n * sizeof *w->sample);
    for (int i = 0; i < w->n; i++) {
        const char *json = um_json_compact(um_json_at(samples, (size_t)index[i]), &p->arena);
        const um_request_source from = {.json = json,
                                        .n = strlen(json),
                                        .bytes = strlen(json),
                                        .folder = t->file.folder,
                                        .number = (uint64_t)index[i] + 1,
                                        .element = true};
        UM_TRY(um_sample_make(&w->sample[i], &t->maker, &from, "samples", &p->arena, err));
    }
    um_train_work_items(w, p->step, &p->arena);
    if (um_train_trace_shows(t, p->step)) trace_ids(t, batch, w, &p->arena);
    return UM_OK;
}

um_train_feed um_train_trace_feed(um_train_trace *t)
{
    return (um_train_feed){.plan = plan, .ctx = t, .pad_rows = true};
}

/* --- losses --- */

static void trace_float(const um_train_trace *t, const char *name, double v)
{
    const float f = (float)v;
    um_trace_rows(t->trace, name, UM_F32, &f, 1, 0);
}

um_status um_train_trace_loss(void *ctx, const um_train_work *w, const um_micro_batch *m,
                              const um_loss *l, um_err *err)
{
    um_train_trace *t = ctx;
    const uint64_t step = m->batch.step;
    const double loss = l->sum / l->targets + um_loss_aux(l, m->backward.aux);
    const int batch = batch_of(t, step);
    char name[96];
    (void)err;
    (void)w;
    if (!um_train_trace_shows(t, step)) {
        trace_float(t, "losses", loss);
        return UM_OK;
    }
    snprintf(name, sizeof name, "batch%d.loss", batch);
    trace_float(t, name, loss);
    if (!t->balanced) return UM_OK;
    snprintf(name, sizeof name, "batch%d.balance", batch);
    for (int k = 0; k < l->moe_layers; k++) trace_float(t, name, l->aux[UM_AUX_BALANCE][k]);
    for (int term = 0; term < UM_AUX_TERMS; term++) {
        double sum = 0;
        if (um_aux_name((um_aux_term)term) == NULL || t->off[term] == 0) continue;
        if (m->backward.aux != NULL && m->backward.aux->coef[term] > 0)
            continue; /* the loss has it already */
        for (int k = 0; k < l->moe_layers; k++) sum += l->aux[term][k];
        snprintf(name, sizeof name, "batch%d.loss_with_%s", batch, um_aux_name((um_aux_term)term));
        trace_float(t, name, loss + (double)t->off[term] * sum);
    }
    return UM_OK;
}

/* --- gradients and weights --- */

/* One tensor of a state, scaled. */
static void trace_state(um_train_trace *t, const char *name, const um_tensor *x, double scale)
{
    um_mark mark = um_arena_mark(&t->arena);
    const size_t n = um_tensor_values(x);
    float *values = um_arena_f32(&t->arena, 1, n);
    um_tensor_to_f32(values, x);
    for (size_t i = 0; i < n; i++) values[i] *= (float)scale;
    um_trace_tensor(t->trace, name, UM_F32, values, x->rank, x->shape);
    um_arena_reset(&t->arena, mark);
}

/* All tensors of a set whose names begin with `begin`, under as + the rest of the name. */
static void trace_set(um_train_trace *t, const um_tensors *set, const char *begin, const char *as,
                      double scale)
{
    char name[256];
    for (size_t i = 0; i < um_tensors_count(set); i++) {
        const um_tensor *x = um_tensors_at(set, i);
        if (!um_starts_with(x->name, begin)) continue;
        snprintf(name, sizeof name, "%s%s", as, x->name + strlen(begin));
        trace_state(t, name, x, scale);
    }
}

um_status um_train_trace_states(um_train_trace *t, uint64_t number, const char *folder,
                                const um_saved_file *files, int n, double scale, um_err *err)
{
    char as[64];
    snprintf(as, sizeof as, "batch%d.grad.", batch_of(t, number));
    for (int i = 0; i < n; i++) {
        um_tensors *set = NULL;
        const char *path = um_path_join(&t->arena, folder, files[i].name);
        UM_TRY(um_tensors_open(&set, path, err));
        if (um_train_trace_shows(t, number)) trace_set(t, set, "grad.", as, scale);
        if (number == um_train_trace_steps(t)) trace_set(t, set, "master.", "after.", 1);
        um_tensors_close(set);
        remove(path);
    }
    return UM_OK;
}
