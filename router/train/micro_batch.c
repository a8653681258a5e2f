/* See micro_batch.h. */
#include "router/train/micro_batch.h"

#include "core/base/bytes.h"
#include "core/base/rng.h"

#include <limits.h>
#include <string.h>

enum { PAD_ID = 0 }; /* spec 1.5 */

void um_micro_batch_open(um_micro_batch *m, const um_micro_batch_setup *setup)
{
    *m = (um_micro_batch){.setup = *setup};
    um_arena_init(&m->host, "micro-batch", 1 << 16);
    um_dev_arena(&m->device, setup->dev, "micro-batch", 1 << 20);
}

void um_micro_batch_close(um_micro_batch *m)
{
    um_arena_free(&m->host);
    um_arena_free(&m->device);
}

/* --- where the samples lie --- */

static um_status label_check(int32_t label, int at, int i, const um_model *m, um_err *err)
{
    if (label == UM_LABEL_IGNORED || (label >= 0 && label < m->vocab)) return UM_OK;
    return UM_FAIL(err, UM_E_DATA, "sample %d: label %d of id %d is not in the vocabulary of %d",
                   at, label, i, m->vocab);
}

/* The medium of a placeholder, the k-th of the sample. */
static um_status medium_check(const um_train_sample *s, int at, int32_t id, int k, um_err *err)
{
    if (k >= s->media_n)
        return UM_FAIL(err, UM_E_DATA, "sample %d has more placeholders than media (%d)", at,
                       s->media_n);
    const um_sample_medium *x = &s->media[k];
    if (um_prompt_id(x->modality) != id)
        return UM_FAIL(err, UM_E_DATA, "sample %d: placeholder %d is not one of %s", at, id,
                       um_modality_name(x->modality));
    if (x->n < 1) return UM_FAIL(err, UM_E_DATA, "sample %d: medium %d has no rows", at, k);
    return UM_OK;
}

/* Checks a sample and counts its rows, media spliced in. */
static um_status count_rows(int64_t *rows, const um_train_sample *s, int at, const um_model *m,
                            um_err *err)
{
    int64_t n = 0;
    int next = 0;
    for (int i = 0; i < s->n; i++) {
        if (s->ids[i] >= m->vocab)
            return UM_FAIL(err, UM_E_DATA, "sample %d: id %d is not in the vocabulary of %d", at,
                           s->ids[i], m->vocab);
        UM_TRY(label_check(s->labels[i], at, i, m, err));
        if (s->ids[i] < 0) UM_TRY(medium_check(s, at, s->ids[i], next, err));
        n += s->ids[i] < 0 ? s->media[next++].n : 1;
    }
    if (n == 0) return UM_FAIL(err, UM_E_DATA, "sample %d has no ids", at);
    if (next < s->media_n)
        return UM_FAIL(err, UM_E_DATA, "sample %d has %d media for %d placeholders", at, s->media_n,
                       next);
    *rows = n;
    return UM_OK;
}

/* Fills m->sample and T. *ids: the longest list of ids. */
static um_status lay_out(um_micro_batch *m, int *ids, const um_train_sample *sample, int n,
                         bool pad_rows, um_err *err)
{
    int64_t longest = 0, T = 0, real = 0;
    int most = 0;
    m->samples = n;
    m->media_n = 0;
    m->sample = um_arena_alloc(&m->host, (size_t)n * sizeof *m->sample);
    for (int i = 0; i < n; i++) most = um_max_int(most, sample[i].n);
    for (int i = 0; i < n; i++) {
        UM_TRY(count_rows(&real, &sample[i], i, m->setup.backbone->model, err));
        const int64_t with_ids = real + (most - sample[i].n);
        if (with_ids > longest) longest = with_ids;
        if (longest > INT_MAX / 2 || T > INT_MAX / 2)
            return UM_FAIL(err, UM_E_LIMIT, "sample %d: too many rows for one micro-batch", i);
        m->sample[i] = (um_sample_rows){.row = (int)T, .T = (int)real, .real = (int)real};
        m->media_n += sample[i].media_n;
        T += real;
    }
    if (pad_rows) {
        T = longest * n;
        if (T > INT_MAX / 2)
            return UM_FAIL(err, UM_E_LIMIT, "too many rows for one micro-batch: %d samples of %d",
                           n, (int)longest);
        for (int i = 0; i < n; i++) {
            m->sample[i].row = i * (int)longest;
            m->sample[i].T = (int)longest;
        }
    }
    m->T = (int)T;
    *ids = most;
    return UM_OK;
}

/* One frame to an expert rank holds all rows of a micro-batch in the worst case, and so does its answer. */
static um_status frames_check(const um_micro_batch *m, um_err *err)
{
    const um_model *model = m->setup.backbone->model;
    int most;
    if (model->experts == 0) return UM_OK;
    UM_TRY(um_exchange_max_rows(um_exchange_link(m->setup.exchange), model->dim, model->top_k,
                                &most, err));
    if (m->T <= most) return UM_OK;
    return UM_FAIL(err, UM_E_LIMIT,
                   "a micro-batch of %d rows is over --credit, which has room for %d: fewer "
                   "samples in a micro-batch (--micro-batch), shorter ones, or a larger --credit",
                   m->T, most);
}

/* --- memory --- */

static int pages_of(int positions) { return (positions + UM_PAGE - 1) / UM_PAGE; }

/* Everything in device memory. Lists of the host that it needs go into m->host. */
static void bind(um_micro_batch *m, um_arena *device)
{
    const um_model *model = m->setup.backbone->model;
    const um_acts_arenas to = {&m->host, device};
    const size_t T = (size_t)m->T, D = (size_t)model->dim;
    int pages = 0;
    for (int i = 0; i < m->samples; i++) pages += pages_of(m->sample[i].real);
    m->batch.h = um_arena_f32(device, T, D);
    m->backward.dx = um_arena_f32(device, T, D);
    um_attention_pages_bind(&m->pages, &m->host, device,
                            um_kv_page_floats(model->kv_heads, model->head_dim), pages * UM_PAGE);
    m->acts = um_arena_alloc(&m->host, (size_t)model->layers * sizeof *m->acts);
    um_acts_bind_layers(m->acts, to, model, m->setup.expert_ranks, m->batch.h, m->T,
                        m->setup.recompute);
    um_backward_acts_bind(&m->backward.acts, device, model, m->T);
}

size_t um_micro_batch_bytes(const um_model *model, int expert_ranks, um_recompute recompute,
                            int samples, int rows)
{
    um_arena measure;
    um_backbone backbone = {.model = model};
    um_micro_batch m = {
        .setup = {.backbone = &backbone, .expert_ranks = expert_ranks, .recompute = recompute},
        .T = samples * rows,
        .samples = samples};
    um_arena_init(&m.host, "lists", 1 << 16);
    um_arena_init_measure(&measure, "micro-batch");
    m.sample = um_arena_alloc(&m.host, (size_t)samples * sizeof *m.sample);
    for (int i = 0; i < samples; i++)
        m.sample[i] = (um_sample_rows){.row = i * rows, .T = rows, .real = rows};
    bind(&m, &measure);
    um_arena_free(&m.host);
    return measure.peak;
}

/* In one block, so that the next micro-batch finds it again. */
static um_status bind_in_block(um_micro_batch *m, um_err *err)
{
    um_arena measure;
    um_mark mark = um_arena_mark(&m->host);
    um_arena_init_measure(&measure, "micro-batch");
    bind(m, &measure);
    um_arena_reset(&m->host, mark);
    if (!um_arena_reserve(&m->device, measure.peak))
        return UM_FAIL(err, UM_E_MEMORY,
                       "no memory for the activations of a micro-batch of %d rows: %.1f MiB (fewer "
                       "samples in a micro-batch, or --recompute layer)",
                       m->T, (double)measure.peak / (1 << 20));
    bind(m, &m->device);
    return UM_OK;
}

/* --- rows --- */

/* Writes the rows of one sample: ids, targets, modalities, and the media's rows of h. */
static void write_rows(um_micro_batch *m, const um_train_sample *s, int index, int ids, int *media)
{
    const um_sample_rows *at = &m->sample[index];
    const size_t D = (size_t)m->setup.backbone->model->dim;
    um_dev *dev = m->setup.dev;
    int row = at->row, k = 0;
    for (int i = 0; i < s->n; i++) {
        if (s->ids[i] >= 0) {
            if (row > at->row && s->labels[i] != UM_LABEL_IGNORED)
                m->target[row - 1] = s->labels[i];
            m->id[row++] = s->ids[i];
            continue;
        }
        const um_sample_medium *x = &s->media[k];
        m->media[(*media)++] = (um_media_place){
            .sample = index, .medium = k++, .row = row, .n = x->n, .modality = x->modality};
        memset(m->modality + row, (int)x->modality, (size_t)x->n);
        dev->ops->put(dev, m->batch.h + (size_t)row * D, x->rows, (size_t)x->n * D * sizeof(float));
        row += x->n;
    }
    for (int i = s->n; i < ids && row < at->row + at->T; i++) m->id[row++] = PAD_ID;
}

static void fill_rows(um_micro_batch *m, const um_train_sample *sample, int ids)
{
    const size_t T = (size_t)m->T, D = (size_t)m->setup.backbone->model->dim;
    um_dev *dev = m->setup.dev;
    int media = 0;
    m->id = um_arena_i32(&m->host, T);
    m->target = um_arena_i32(&m->host, T);
    m->modality = um_arena_zero(&m->host, T);
    m->media = um_arena_alloc(&m->host, (size_t)m->media_n * sizeof *m->media);
    for (size_t t = 0; t < T; t++) {
        m->id[t] = UM_NO_ID;
        m->target[t] = UM_NO_TARGET;
    }
    dev->ops->fill(dev, m->batch.h, 0.0f, T * D);
    for (int i = 0; i < m->samples; i++) write_rows(m, &sample[i], i, ids, &media);
    um_embed_rows(dev, m->batch.h, &m->setup.backbone->embedding, m->id, m->T, m->setup.host,
                  m->setup.device);
    m->targets = 0;
    for (size_t t = 0; t < T; t++) m->targets += m->target[t] != UM_NO_TARGET;
}

/* --- what the passes need --- */

/* The spans and segments of the samples, and the spans of their pad rows. */
static void fill_spans(um_micro_batch *m)
{
    um_batch *b = &m->batch;
    const size_t n = (size_t)m->samples;
    um_segment *seg = um_arena_zero(&m->host, n * sizeof *seg);
    um_span *span = um_arena_alloc(&m->host, n * sizeof *span);
    um_span *pad = um_arena_alloc(&m->host, n * sizeof *pad);
    int32_t *key = um_arena_i32(&m->host, n), *pad_key = um_arena_i32(&m->host, n);
    int page = 0;
    b->pads = 0;
    for (int i = 0; i < m->samples; i++) {
        const um_sample_rows *s = &m->sample[i];
        seg[i] = (um_segment){.row = s->row, .T = s->real, .phase = UM_PREFILL};
        span[i] = (um_span){.row = s->row, .T = s->real, .n = s->real, .page = page};
        key[i] = s->row;
        if (s->T > s->real) {
            pad_key[b->pads] = s->row;
            pad[b->pads++] =
                (um_span){.row = s->row + s->real, .T = s->T - s->real, .n = s->real, .page = page};
        }
        page += pages_of(s->real);
    }
    b->seg = seg;
    b->span = span;
    b->segs = m->samples;
    b->pad = pad;
    b->key_row = key;
    b->pad_key_row = pad_key;
}

/* The samples as the gates' auxiliary terms see them. */
static void fill_gate_rows(um_micro_batch *m)
{
    um_gate_rows *g = um_arena_alloc(&m->host, sizeof *g);
    int *row = um_arena_alloc(&m->host, (size_t)m->samples * sizeof *row);
    int *T = um_arena_alloc(&m->host, (size_t)m->samples * sizeof *T);
    for (int i = 0; i < m->samples; i++) {
        row[i] = m->sample[i].row;
        T[i] = m->sample[i].T;
    }
    *g = (um_gate_rows){
        .sample_row = row, .sample_T = T, .samples = m->samples, .modality = m->modality};
    m->backward.rows = g;
}

/* Noise and dropout of a micro-batch that only goes forward are those of the number that it has there. */
static uint64_t seed_of(const um_micro_batch *m)
{
    return um_lora_seed(m->setup.seed, m->batch.step, m->batch.micro & ~UM_BATCH_FORWARD);
}

static void fill_noise(um_micro_batch *m)
{
    const size_t T = (size_t)m->T;
    um_dev *dev = m->setup.dev;
    uint64_t *noise = um_arena_alloc(&m->host, T * sizeof *noise);
    uint64_t *to = um_arena_alloc(&m->device, T * sizeof *to);
    for (size_t t = 0; t < T; t++) {
        um_rng rng = um_rng_seed(~seed_of(m), t);
        noise[t] = um_rng_u64(&rng);
    }
    dev->ops->put(dev, to, noise, T * sizeof *to);
    m->batch.noise = to;
    m->batch.noise_seed = m->setup.seed;
}

/* Of the last layer only the rows that have a target are wanted. */
static void fill_last(um_micro_batch *m)
{
    if (m->targets == 0) return;
    um_mark mark = um_arena_mark(m->setup.host);
    int32_t *row = um_arena_i32(m->setup.host, (size_t)m->targets);
    for (int t = 0, n = 0; t < m->T; t++)
        if (m->target[t] != UM_NO_TARGET) row[n++] = t;
    m->batch.last_row = um_dev_put_i32(m->setup.dev, &m->device, row, (size_t)m->targets);
    m->batch.last_n = m->targets;
    um_arena_reset(m->setup.host, mark);
}

static void fill_batch(um_micro_batch *m, uint64_t step, uint32_t number)
{
    um_batch *b = &m->batch;
    const um_model *model = m->setup.backbone->model;
    const um_attention_shape shape = um_backbone_attention(model);
    int32_t *pos = um_arena_i32(&m->host, (size_t)m->T);
    um_kv *kv = um_arena_alloc(&m->host, (size_t)model->layers * sizeof *kv);
    int longest = 0;
    for (int i = 0; i < m->samples; i++) {
        longest = um_max_int(longest, m->sample[i].T);
        for (int t = 0; t < m->sample[i].T; t++) pos[m->sample[i].row + t] = t;
    }
    um_rope_reserve(&m->setup.backbone->rope, longest);
    um_attention_pages_start(m->setup.dev, &m->pages);
    for (int l = 0; l < model->layers; l++) kv[l] = um_attention_pages_kv(&m->pages, &shape);
    b->T = m->T;
    b->pos = um_dev_put_i32(m->setup.dev, &m->device, pos, (size_t)m->T);
    b->modality = m->modality;
    b->kv = kv;
    b->step = step;
    b->micro = number;
    b->routing = (number & UM_BATCH_FORWARD) == 0 ? m->setup.routing : NULL;
    if (m->setup.gate_noise) fill_noise(m);
    fill_last(m);
    fill_spans(m);
    um_batch_modalities(b, m->setup.dev, &m->device, m->setup.host);
}

static void ready(um_micro_batch *m)
{
    const um_micro_batch_setup *s = &m->setup;
    m->pass = (um_pass){.backbone = s->backbone,
                        .batch = &m->batch,
                        .acts = m->acts,
                        .keep = true,
                        .recompute = s->recompute,
                        .exchange = s->exchange,
                        .dev = s->dev,
                        .host = s->host,
                        .device = s->device,
                        .lora = s->lora,
                        .lora_seed = seed_of(m)};
    m->backward.pass = &m->pass;
    m->backward.aux = s->aux;
    m->backward.aux_scale = (float)m->targets;
    fill_gate_rows(m);
}

um_status um_micro_batch_build(um_micro_batch *m, const um_train_sample *sample, int n,
                               bool pad_rows, uint64_t step, uint32_t number, um_err *err)
{
    int ids = 0;
    UM_ASSERT(n >= 1);
    um_arena_reset(&m->host, (um_mark){0});
    um_arena_reset(&m->device, (um_mark){0});
    m->batch = (um_batch){.T = 0};
    m->backward = (um_backward){.layer = -1};
    UM_TRY(lay_out(m, &ids, sample, n, pad_rows, err));
    UM_TRY(frames_check(m, err));
    UM_TRY(bind_in_block(m, err));
    fill_rows(m, sample, ids);
    fill_batch(m, step, number);
    ready(m);
    return um_dev_sync(m->setup.dev, err);
}

um_status um_micro_batch_finish(um_micro_batch *m, um_err *err)
{
    const um_micro_batch_setup *s = &m->setup;
    UM_ASSERT(um_backward_done(&m->backward) && s->backbone->backward == &m->backward);
    s->backbone->backward = NULL;
    um_embed_bwd(s->dev, &s->backbone->embedding, m->backward.dx, m->id, m->T, s->device);
    return um_dev_sync(s->dev, err);
}

void um_micro_batch_media_grad(const um_micro_batch *m, int medium, float *out)
{
    const um_media_place *x = &m->media[medium];
    const size_t D = (size_t)m->setup.backbone->model->dim;
    m->setup.dev->ops->get(m->setup.dev, out, m->backward.dx + (size_t)x->row * D,
                           (size_t)x->n * D * sizeof *out);
}
