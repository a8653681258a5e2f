/* See loss.h. */
#include "router/train/loss.h"

#include "core/base/bytes.h"

/* One slice: n of the rows that have a target, from number `from`; `row` (host) are those of the micro-batch. */
typedef struct slice {
    const int32_t *row;
    int from, n;
} slice;

/* Where the rows of a slice are in the last layer's output and in dx (device). */
static const int32_t *places(const um_micro_batch *m, const slice *s, int32_t *scratch)
{
    const bool narrow = um_pass_narrows(&m->pass, m->setup.backbone->model->layers - 1);
    for (int i = 0; i < s->n; i++) scratch[i] = narrow ? s->from + i : s->row[i];
    return um_dev_put_i32(m->setup.dev, m->setup.device, scratch, (size_t)s->n);
}

/* Head and loss of a slice; loss [n] (host). gradient: adds the head's and the norm's, and writes the rows of dx. */
static void run_slice(um_micro_batch *m, const slice *s, float *loss, bool gradient)
{
    um_dev *dev = m->setup.dev;
    um_arena *device = m->setup.device, *host = m->setup.host;
    const um_backbone *t = m->setup.backbone;
    const um_model *model = t->model;
    const size_t n = (size_t)s->n, D = (size_t)model->dim, V = (size_t)model->vocab;
    um_mark mark = um_arena_mark(device), host_mark = um_arena_mark(host);
    int32_t *target = um_arena_i32(host, n);
    const int32_t *row = places(m, s, target);
    for (size_t i = 0; i < n; i++) target[i] = m->target[s->row[i]];
    const int32_t *want = um_dev_put_i32(dev, device, target, n);
    float *x = um_arena_f32(device, n, D), *y = um_arena_f32(device, n, D);
    float *rstd = um_arena_f32(device, 1, n), *each = um_arena_f32(device, 1, n);
    float *logits = um_arena_f32(device, n, V);
    dev->ops->gather(dev, x, um_pass_out(&m->pass), row, s->n, model->dim);
    um_rmsnorm_fwd(dev, y, rstd, x, &t->norm, s->n, model->dim, model->rms_eps);
    um_linear_fwd(dev, logits, y, s->n, &t->head);
    dev->ops->cross_entropy(dev, each, gradient ? logits : NULL, logits, want, s->n, model->vocab,
                            1.0f);
    dev->ops->get(dev, loss, each, n * sizeof *loss);
    if (gradient) {
        float *dxy = um_arena_f32(device, 2 * n, D), *dx = dxy, *dy = dxy + n * D;
        dev->ops->fill(dev, dxy, 0.0f, 2 * n * D);
        um_linear_bwd(dev, dy, &t->head, logits, y, s->n, device);
        um_rmsnorm_bwd(dev, dx, dy, x, rstd, &t->norm, s->n, model->dim);
        dev->ops->scatter(dev, m->backward.dx, dx, row, s->n, model->dim);
    }
    um_arena_reset(device, mark);
    um_arena_reset(host, host_mark);
}

/* Bit 1 << um_modality for each medium of every sample; a sample without media is text. */
static uint32_t *kinds_of(const um_micro_batch *m, um_arena *arena)
{
    uint32_t *kinds = um_arena_zero(arena, (size_t)m->samples * sizeof *kinds);
    for (int i = 0; i < m->media_n; i++) kinds[m->media[i].sample] |= 1u << m->media[i].modality;
    for (int i = 0; i < m->samples; i++)
        if (kinds[i] == 0) kinds[i] = 1u << UM_TEXT;
    return kinds;
}

/* Adds up the losses of rows[n], rising. */
static void add_up(um_loss *out, const um_micro_batch *m, const int32_t *row, const float *loss,
                   int n, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    const uint32_t *kinds = kinds_of(m, scratch);
    int sample = 0;
    for (int i = 0; i < n; i++) {
        while (row[i] >= m->sample[sample].row + m->sample[sample].T) sample++;
        out->sum += (double)loss[i];
        for (int k = 0; k < UM_MODALITIES; k++) {
            if ((kinds[sample] >> k & 1) == 0) continue;
            out->by_modality[k] += (double)loss[i];
            out->targets_by_modality[k]++;
        }
    }
    um_arena_reset(scratch, mark);
}

static void head(um_loss *out, um_micro_batch *m, bool gradient)
{
    um_arena *host = m->setup.host;
    um_mark mark = um_arena_mark(host);
    const size_t n = (size_t)m->targets;
    int32_t *row = um_arena_i32(host, n);
    float *loss = um_arena_f32(host, 1, n);
    for (int t = 0, i = 0; t < m->T; t++)
        if (m->target[t] != UM_NO_TARGET) row[i++] = t;
    const um_model *model = m->setup.backbone->model;
    const size_t rows = (size_t)um_pass_rows(&m->pass, model->layers - 1);
    if (gradient)
        m->setup.dev->ops->fill(m->setup.dev, m->backward.dx, 0.0f, rows * (size_t)model->dim);
    for (int from = 0; from < m->targets; from += UM_LOSS_ROWS) {
        const slice s = {
            .row = row + from, .from = from, .n = um_min_int(UM_LOSS_ROWS, m->targets - from)};
        run_slice(m, &s, loss + from, gradient);
    }
    add_up(out, m, row, loss, m->targets, host);
    um_arena_reset(host, mark);
}

um_status um_loss_run(um_loss *out, um_micro_batch *m, bool gradient, bool all, um_arena *arena,
                      um_err *err)
{
    const int layers = m->setup.backbone->model->moe_layers;
    UM_ASSERT(um_pass_done(&m->pass));
    um_loss l = {.targets = m->targets, .moe_layers = layers};
    double *aux = um_arena_zero(arena, UM_AUX_TERMS * (size_t)layers * sizeof *aux);
    for (int i = 0; i < UM_AUX_TERMS; i++) l.aux[i] = aux + (size_t)i * (size_t)layers;
    UM_ASSERT(!gradient || m->setup.backbone->backward == NULL); /* one backward pass at a time */
    if (gradient) m->setup.backbone->backward = &m->backward;
    um_pass_seed(&m->pass);
    head(&l, m, gradient);
    um_aux_values(&m->pass, m->setup.aux, m->backward.rows, all, aux);
    if (gradient) um_backward_begin(&m->backward);
    UM_TRY(um_dev_sync(m->setup.dev, err));
    *out = l;
    return UM_OK;
}

double um_loss_aux(const um_loss *l, const um_aux *aux)
{
    if (aux == NULL) return 0;
    double sum = 0;
    for (int k = 0; k < UM_AUX_TERMS; k++)
        for (int i = 0; i < l->moe_layers; i++) sum += (double)aux->coef[k] * l->aux[k][i];
    return sum;
}
