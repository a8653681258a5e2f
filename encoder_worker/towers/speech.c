/* See speech.h. Source: Radford et al. 2022, arXiv 2212.04356; transformers 4.31, WhisperEncoder and WhisperDecoder; spec 2.4, 3.2.
 * Letters: T rows of the encoder (1500), Q queries (50), D width, F feed-forward width. */
#include "encoder_worker/towers/speech.h"

#include "core/base/bytes.h"
#include "encoder_worker/towers/speech_parts.h"

static const float eps = 1e-5f; /* of all norms; Whisper's config has no key for it */

static int64_t window_samples(const um_speech_model *m)
{
    return (int64_t)m->rate * m->window_seconds;
}

/* Samples between the starts of two adjacent windows. */
static int64_t window_step(const um_speech_model *m, bool exact)
{
    return window_samples(m) + (exact ? 0 : 1);
}

static int64_t windows_of(const um_speech_model *m, int64_t n, bool exact)
{
    int64_t step = window_step(m, exact);
    return n <= 0 ? 0 : (n - 1) / step + 1;
}

int64_t um_speech_rows(const um_speech_model *m, int64_t n, bool exact)
{
    return windows_of(m, n, exact) * m->queries;
}

um_attention_shape um_speech_attention(int D, int heads, um_attention_layers layers)
{
    return (um_attention_shape){heads, heads, D / heads, layers};
}

/* T rows. F, heads: of the stack. keys: rows that cross-attention reads, 0 in the encoder, which has none. */
static void layer_acts_bind(um_speech_layer_acts *l, um_arena *device, float *in, int T, int D,
                            int F, int heads, int keys, bool keep)
{
    const um_attention_shape self = um_speech_attention(D, heads, UM_ATTENTION_QKV);
    const um_attention_shape cross = um_speech_attention(D, heads, UM_ATTENTION_Q_KV);
    const size_t rows = (size_t)T, cols = (size_t)D;
    l->in = in;
    l->mid = keep ? um_arena_f32(device, rows, cols) : in;
    l->cross = keep && keys > 0 ? um_arena_f32(device, rows, cols) : l->mid;
    l->out = keep ? um_arena_f32(device, rows, cols) : in;
    l->self_norm = um_arena_f32(device, rows, cols);
    l->cross_norm = keep && keys > 0 ? um_arena_f32(device, rows, cols) : l->self_norm;
    l->ffn_norm = keep ? um_arena_f32(device, rows, cols) : l->self_norm;
    um_attention_acts_bind(&l->self_attention, device, &self, T, T);
    if (keys > 0) um_attention_acts_bind(&l->cross_attention, device, &cross, T, keys);
    um_mlp_acts_bind(&l->mlp, device, T, F, keep);
}

static void stack_acts_bind(um_speech_stack_acts *s, um_arena *host, um_arena *device, int layers,
                            int T, int D, int F, int heads, int keys, bool keep)
{
    s->first = s->last = um_arena_f32(device, (size_t)T, (size_t)D);
    s->normed = um_arena_f32(device, (size_t)T, (size_t)D);
    s->layer = um_arena_zero(host, (size_t)layers * sizeof *s->layer);
    for (int i = 0; i < layers; i++) {
        if (i == 0 || keep)
            layer_acts_bind(&s->layer[i], device, s->last, T, D, F, heads, keys, keep);
        else
            s->layer[i] = s->layer[0];
        s->last = s->layer[i].out;
    }
}

um_speech_acts *um_speech_acts_bind(um_arena *host, um_arena *device, const um_speech_model *m,
                                    int dim_out, bool keep)
{
    um_speech_acts *a = um_arena_zero(host, sizeof *a);
    const size_t T = (size_t)m->positions, D = (size_t)m->dim, bins = (size_t)m->mel_bins;
    const size_t page = um_kv_page_floats(m->heads, m->dim / m->heads),
                 dec_page = um_kv_page_floats(m->dec_heads, m->dim / m->dec_heads);
    a->staged = um_arena_f32(host, 2 * T, bins);
    a->mel = um_arena_f32(device, 2 * T + 2, bins);
    a->act1 = um_arena_f32(device, 2 * T + 2, D);
    a->conv1 = keep ? um_arena_f32(device, 2 * T, D) : a->act1 + D;
    stack_acts_bind(&a->encoder, host, device, m->layers, m->positions, m->dim, m->ffn_dim,
                    m->heads, 0, keep);
    a->conv2 = keep ? um_arena_f32(device, T, D) : a->encoder.first;
    stack_acts_bind(&a->decoder, host, device, m->dec_layers, m->queries, m->dim, m->dec_ffn_dim,
                    m->dec_heads, m->positions, keep);
    um_attention_pages_bind(&a->pages, host, device, page > dec_page ? page : dec_page,
                            um_max_int(m->positions, m->queries));
    um_projector_acts_bind(&a->projector, host, device, m->proj_layers, m->queries, dim_out, keep);
    return a;
}

/* What every step of one forward pass needs. */
typedef struct run {
    const um_speech *s;
    um_speech_acts *a;
    um_dev *dev;
} run;

static void norm_fwd(const run *r, float *y, const float *x, const um_norm *n, int T)
{
    um_norm_fwd(r->dev, y, x, n, T, r->s->model->dim, eps);
}

/* causal: in the decoder, as in the reference, although its queries are not tokens. */
static void layer_fwd(const run *r, um_speech_layer_acts *a, const um_speech_layer *l, int T,
                      bool decoder)
{
    um_dev *d = r->dev;
    const um_attention_pages *pages = &r->a->pages;
    norm_fwd(r, a->self_norm, a->in, &l->self_norm, T);
    um_attention_fwd(d, &a->self_attention, &l->self, pages, a->self_norm, T, a->self_norm, T,
                     decoder);
    um_attention_output(d, a->mid, &a->self_attention, &l->self, a->in, T);
    if (decoder) {
        norm_fwd(r, a->cross_norm, a->mid, &l->cross_norm, T);
        um_attention_fwd(d, &a->cross_attention, &l->cross, pages, a->cross_norm, T,
                         r->a->encoder.normed, r->s->model->positions, false);
        um_attention_output(d, a->cross, &a->cross_attention, &l->cross, a->mid, T);
    }
    norm_fwd(r, a->ffn_norm, a->cross, &l->ffn_norm, T);
    um_mlp_fwd(d, a->out, &a->mlp, &l->mlp, a->ffn_norm, a->cross, T);
}

/* The stack's rows from a->first to a->normed. */
static void stack_fwd(const run *r, um_speech_stack_acts *a, const um_speech_layer *l, int layers,
                      const um_norm *norm, int T, bool decoder)
{
    for (int i = 0; i < layers; i++) layer_fwd(r, &a->layer[i], &l[i], T, decoder);
    norm_fwd(r, a->normed, a->last, norm, T);
}

/* y[T,N] = a convolution with three taps over the rows of x[stride T, C] between two rows of zeros, act = gelu(y). The three rows are
 * adjacent in memory, so a row of the gemm starts at the first of them. */
static void conv_fwd(um_dev *d, float *act, float *y, float *x, int C, int T, int stride,
                     const um_linear *l)
{
    const size_t row = (size_t)C;
    d->ops->fill(d, x, 0.0f, row);
    d->ops->fill(d, x + um_at((size_t)T * (size_t)stride + 1, 0, row), 0.0f, row);
    d->ops->gemm(d, y, l->w.N, x, stride * C, T, &l->w, l->bias, false);
    d->ops->gelu(d, act, y, um_at((size_t)T, 0, (size_t)l->w.N));
}

/* encoder.first[T,D] = gelu(conv2(gelu(conv1(mel)))) + positions.   mel [2T, bins], conv1 stride 1, conv2 stride 2 */
static void embed(const run *r, const float *wave, int64_t n, um_arena *host)
{
    const um_speech *s = r->s;
    um_speech_acts *a = r->a;
    um_dev *d = r->dev;
    const int D = s->model->dim, T = s->model->positions, frames = s->mel.frames,
              bins = s->mel.bins;
    UM_ASSERT(frames == 2 * T);
    um_mel_frames(a->staged, &s->mel, wave, n, host);
    d->ops->put(d, a->mel + bins, a->staged,
                um_at((size_t)frames, 0, (size_t)bins) * sizeof *a->mel);
    conv_fwd(d, a->act1 + D, a->conv1, a->mel, bins, frames, 1, &s->conv1);
    conv_fwd(d, a->encoder.first, a->conv2, a->act1, D, T, 2, &s->conv2);
    d->ops->add(d, a->encoder.first, s->positions, um_at((size_t)T, 0, (size_t)D));
}

static void window_fwd(const run *r, float *rows, const float *wave, int64_t n, um_arena *host)
{
    const um_speech *s = r->s;
    const um_speech_model *m = s->model;
    um_dev *d = r->dev;
    um_speech_acts *a = r->a;
    const size_t queries = um_at((size_t)m->queries, 0, (size_t)m->dim);
    embed(r, wave, n, host);
    stack_fwd(r, &a->encoder, s->encoder, m->layers, &s->encoder_norm, m->positions, false);
    d->ops->copy(d, a->decoder.first, s->queries, queries * sizeof(float));
    d->ops->add(d, a->decoder.first, s->query_positions, queries);
    stack_fwd(r, &a->decoder, s->decoder, m->dec_layers, &s->decoder_norm, m->queries, true);
    um_tower_project(d, rows, a->projector, s->projector, m->proj_layers, a->decoder.normed,
                     m->queries);
}

um_status um_speech_encode(float *rows, const um_speech *s, um_speech_acts *a, const float *wave,
                           int64_t n, bool exact, um_dev *dev, um_arena *host, um_err *err)
{
    const um_speech_model *m = s->model;
    const int64_t most = window_samples(m), step = window_step(m, exact);
    const run r = {s, a, dev};
    UM_TRY(um_tower_check_finite(wave, n, "sample", err));
    um_attention_pages_start(dev, &a->pages);
    for (int64_t at = 0; at < n; at += step) {
        const int64_t left = n - at;
        window_fwd(&r, rows, wave + at, left < most ? left : most, host);
        rows += um_at((size_t)m->queries, 0, (size_t)s->dim_out);
    }
    return UM_OK;
}
