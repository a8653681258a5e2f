/* See speech.h. Source: Radford et al. 2022, arXiv 2212.04356; transformers 4.31, WhisperEncoder and WhisperDecoder; spec 2.4, 3.2.
 * Letters: T rows of the encoder (1500), Q queries (50), D width, F feed-forward width. */
#include "encoder_worker/towers/speech.h"

#include "core/base/bytes.h"
#include "encoder_worker/towers/speech_parts.h"

static const float eps = 1e-5f; /* of all norms; Whisper's config has no key for it */

int64_t um_speech_window(const um_speech_model *m) { return (int64_t)m->rate * m->window_seconds; }

int64_t um_speech_step(const um_speech_model *m, bool exact)
{
    return um_speech_window(m) + (exact ? 0 : 1);
}

static int64_t windows_of(const um_speech_model *m, int64_t n, bool exact)
{
    int64_t step = um_speech_step(m, exact);
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

static void encoder_acts_bind(um_speech_acts *a, um_arena *host, um_arena *device,
                              const um_speech_model *m, bool keep)
{
    const size_t T = (size_t)m->positions, D = (size_t)m->dim, bins = (size_t)m->mel_bins;
    a->staged = um_arena_f32(host, 2 * T, bins);
    a->mel = um_arena_f32(device, 2 * T + 2, bins);
    a->act1 = um_arena_f32(device, 2 * T + 2, D);
    a->conv1 = keep ? um_arena_f32(device, 2 * T, D) : a->act1 + D;
    stack_acts_bind(&a->encoder, host, device, m->layers, m->positions, m->dim, m->ffn_dim,
                    m->heads, 0, keep);
    a->conv2 = keep ? um_arena_f32(device, T, D) : a->encoder.first;
}

um_speech_acts *um_speech_acts_bind(um_arena *host, um_arena *device, const um_speech_model *m,
                                    int dim_out, um_tower_point from, bool keep)
{
    um_speech_acts *a = um_arena_zero(host, sizeof *a);
    const size_t page = um_kv_page_floats(m->heads, m->dim / m->heads),
                 dec_page = um_kv_page_floats(m->dec_heads, m->dim / m->dec_heads);
    if (from == UM_AT_INPUT) encoder_acts_bind(a, host, device, m, keep);
    if (from == UM_AT_TOWER)
        a->encoder.normed = um_arena_f32(device, (size_t)m->positions, (size_t)m->dim);
    if (from <= UM_AT_TOWER) {
        stack_acts_bind(&a->decoder, host, device, m->dec_layers, m->queries, m->dim,
                        m->dec_ffn_dim, m->dec_heads, m->positions, keep);
        um_attention_pages_bind(&a->pages, host, device, page > dec_page ? page : dec_page,
                                um_max_int(m->positions, m->queries));
    } else {
        a->decoder.normed = um_arena_f32(device, (size_t)m->queries, (size_t)m->dim);
    }
    um_projector_acts_bind(&a->projector, host, device, m->proj_layers, m->queries, dim_out, keep);
    return a;
}

float *um_speech_at(const um_speech_acts *a, um_tower_point at)
{
    UM_ASSERT(at != UM_AT_ROWS);
    return at == UM_AT_INPUT   ? a->staged
           : at == UM_AT_TOWER ? a->encoder.normed
                               : a->decoder.normed;
}

size_t um_speech_values(const um_speech_model *m, um_tower_point at)
{
    UM_ASSERT(at != UM_AT_ROWS);
    if (at == UM_AT_INPUT) return um_at(2 * (size_t)m->positions, 0, (size_t)m->mel_bins);
    return um_at((size_t)(at == UM_AT_TOWER ? m->positions : m->queries), 0, (size_t)m->dim);
}

/* What every step of one pass needs. */
typedef struct run {
    const um_speech *s;
    const um_speech_acts *a;
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
static void stack_fwd(const run *r, const um_speech_stack_acts *a, const um_speech_layer *l,
                      int layers, const um_norm *norm, int T, bool decoder)
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
    um_conv_fwd(d, y, x, stride * C, T, l);
    d->ops->gelu(d, act, y, um_at((size_t)T, 0, (size_t)l->w.N));
}

/* encoder.first[T,D] = gelu(conv2(gelu(conv1(mel)))) + positions.   mel [2T, bins], conv1 stride 1, conv2 stride 2 */
static void embed(const run *r)
{
    const um_speech *s = r->s;
    const um_speech_acts *a = r->a;
    um_dev *d = r->dev;
    const int D = s->model->dim, T = s->model->positions, frames = s->mel.frames,
              bins = s->mel.bins;
    UM_ASSERT(frames == 2 * T);
    d->ops->put(d, a->mel + bins, a->staged,
                um_at((size_t)frames, 0, (size_t)bins) * sizeof *a->mel);
    conv_fwd(d, a->act1 + D, a->conv1, a->mel, bins, frames, 1, &s->conv1);
    conv_fwd(d, a->encoder.first, a->conv2, a->act1, D, T, 2, &s->conv2);
    d->ops->add(d, a->encoder.first, s->positions, um_at((size_t)T, 0, (size_t)D));
}

void um_speech_input(um_speech_acts *a, const um_speech *s, const float *wave, int64_t n,
                     um_arena *host)
{
    um_mel_frames(a->staged, &s->mel, wave, n, host);
}

void um_speech_fwd(float *rows, const um_speech *s, um_speech_acts *a, um_tower_point from,
                   um_tower_point to, um_dev *dev)
{
    const um_speech_model *m = s->model;
    const run r = {s, a, dev};
    const size_t queries = um_at((size_t)m->queries, 0, (size_t)m->dim);
    if (from <= UM_AT_TOWER) um_attention_pages_start(dev, &a->pages);
    if (from == UM_AT_INPUT) {
        embed(&r);
        stack_fwd(&r, &a->encoder, s->encoder, m->layers, &s->encoder_norm, m->positions, false);
    }
    if (from <= UM_AT_TOWER && to > UM_AT_TOWER) {
        dev->ops->copy(dev, a->decoder.first, s->queries, queries * sizeof(float));
        dev->ops->add(dev, a->decoder.first, s->query_positions, queries);
        stack_fwd(&r, &a->decoder, s->decoder, m->dec_layers, &s->decoder_norm, m->queries, true);
    }
    if (to == UM_AT_ROWS)
        um_tower_project(dev, rows, a->projector, s->projector, m->proj_layers, a->decoder.normed,
                         m->queries);
}

um_status um_speech_encode(float *rows, const um_speech *s, um_speech_acts *a, const float *wave,
                           int64_t n, bool exact, um_dev *dev, um_arena *host, um_err *err)
{
    const um_speech_model *m = s->model;
    const int64_t most = um_speech_window(m), step = um_speech_step(m, exact);
    UM_TRY(um_tower_check_finite(wave, n, "sample", err));
    for (int64_t at = 0; at < n; at += step) {
        const int64_t left = n - at;
        um_speech_input(a, s, wave + at, left < most ? left : most, host);
        um_speech_fwd(rows, s, a, UM_AT_INPUT, UM_AT_ROWS, dev);
        rows += um_at((size_t)m->queries, 0, (size_t)s->dim_out);
    }
    return UM_OK;
}

/* --- backward --- */

static void norm_bwd(const run *r, float *dx, const float *dy, const float *x, const um_norm *n,
                     int T)
{
    um_norm_bwd(r->dev, dx, dy, x, n, T, r->s->model->dim, eps);
}

/* Forward was y = in + attention(norm(in) to from), from being norm(in) unless dfrom says otherwise. d [T,D]: the gradient of y, which
 * becomes that of in. */
static void attention_bwd(const run *r, float *d, float *dfrom, const um_attention_acts *a,
                          const um_attention *w, const float *in, const float *normed,
                          const um_norm *norm, int T, const float *from, int n, bool causal,
                          um_arena *scratch)
{
    const um_mark mark = um_arena_mark(scratch);
    float *dnorm = um_tower_zeros(r->dev, scratch, um_at((size_t)T, 0, (size_t)r->s->model->dim));
    um_attention_bwd(r->dev, dnorm, from == normed ? dnorm : dfrom, a, w, d, normed, T, from, n,
                     causal, scratch);
    norm_bwd(r, d, dnorm, in, norm, T);
    um_arena_reset(scratch, mark);
}

/* d [T,D]: the gradient of a->out, which becomes that of a->in. drows [positions,D]: that of the encoder's rows += ...; NULL when nobody
 * wants it. */
static void layer_bwd(const run *r, float *d, float *drows, const um_speech_layer_acts *a,
                      const um_speech_layer *l, int T, bool decoder, um_arena *scratch)
{
    const um_mark mark = um_arena_mark(scratch);
    float *dnorm = um_tower_zeros(r->dev, scratch, um_at((size_t)T, 0, (size_t)r->s->model->dim));
    um_mlp_bwd(r->dev, dnorm, &l->mlp, &a->mlp, d, a->ffn_norm, T, scratch);
    norm_bwd(r, d, dnorm, a->cross, &l->ffn_norm, T);
    um_arena_reset(scratch, mark);
    if (decoder)
        attention_bwd(r, d, drows, &a->cross_attention, &l->cross, a->mid, a->cross_norm,
                      &l->cross_norm, T, r->a->encoder.normed, r->s->model->positions, false,
                      scratch);
    attention_bwd(r, d, NULL, &a->self_attention, &l->self, a->in, a->self_norm, &l->self_norm, T,
                  a->self_norm, T, decoder, scratch);
}

/* dfirst [T,D] (zero before) becomes the gradient of a->first, from that of a->normed. */
static void stack_bwd(const run *r, float *dfirst, float *drows, const float *dnormed,
                      const um_speech_stack_acts *a, const um_speech_layer *l, int layers,
                      const um_norm *norm, int T, bool decoder, um_arena *scratch)
{
    norm_bwd(r, dfirst, dnormed, a->last, norm, T);
    for (int i = layers - 1; i >= 0; i--)
        layer_bwd(r, dfirst, drows, &a->layer[i], &l[i], T, decoder, scratch);
}

/* Forward was act = gelu(y), y = the convolution of x (conv_fwd). dx [stride T + 2, C] += ...; it may be NULL. */
static void conv_bwd(um_dev *d, float *dx, const float *dact, const float *y, const float *x, int C,
                     int T, int stride, const um_linear *l, um_arena *scratch)
{
    const size_t n = um_at((size_t)T, 0, (size_t)l->w.N);
    float *dy = um_tower_zeros(d, scratch, n);
    d->ops->gelu_bwd(d, dy, dact, y, n);
    um_conv_bwd(d, dx, l, dy, x, stride * C, T, scratch);
}

/* dfirst [T,D]: the gradient of encoder.first. */
static void embed_bwd(const run *r, const float *dfirst, um_arena *scratch)
{
    const um_speech *s = r->s;
    const um_speech_acts *a = r->a;
    um_dev *d = r->dev;
    const int D = s->model->dim, T = s->model->positions;
    float *positions =
        um_tower_grad(s->params, UM_PART_SPEECH, UM_SLOT_POSITIONS, -1, UM_LEAF_WEIGHT);
    if (positions != NULL) d->ops->add(d, positions, dfirst, um_at((size_t)T, 0, (size_t)D));
    float *dact1 = um_tower_zeros(d, scratch, um_at(2 * (size_t)T + 2, 0, (size_t)D));
    conv_bwd(d, dact1, dfirst, a->conv2, a->act1, D, T, 2, &s->conv2, scratch);
    conv_bwd(d, NULL, dact1 + D, a->conv1, a->mel, s->mel.bins, 2 * T, 1, &s->conv1, scratch);
}

/* dfirst [queries,D]: the gradient of decoder.first, the queries and their positions. */
static void queries_bwd(const run *r, const float *dfirst)
{
    static const um_slot slots[] = {UM_SLOT_QUERIES, UM_SLOT_POSITIONS};
    const um_speech_model *m = r->s->model;
    for (int i = 0; i < 2; i++) {
        float *grad =
            um_tower_grad(r->s->params, UM_PART_SPEECH_ALIGNER, slots[i], -1, UM_LEAF_WEIGHT);
        if (grad != NULL)
            r->dev->ops->add(r->dev, grad, dfirst, um_at((size_t)m->queries, 0, (size_t)m->dim));
    }
}

void um_speech_bwd(const um_speech *s, const um_speech_acts *a, um_tower_point from,
                   const float *drows, um_dev *dev, um_arena *scratch)
{
    const um_speech_model *m = s->model;
    const um_mark mark = um_arena_mark(scratch);
    const run r = {s, a, dev};
    const size_t T = (size_t)m->positions, Q = (size_t)m->queries, D = (size_t)m->dim;
    float *dnormed = from <= UM_AT_TOWER ? um_tower_zeros(dev, scratch, Q * D) : NULL;
    um_tower_project_bwd(dev, dnormed, a->projector, s->projector, m->proj_layers, drows,
                         a->decoder.normed, m->queries, scratch);
    if (from <= UM_AT_TOWER) {
        float *dencoded = from == UM_AT_INPUT ? um_tower_zeros(dev, scratch, T * D) : NULL,
              *dfirst = um_tower_zeros(dev, scratch, Q * D);
        stack_bwd(&r, dfirst, dencoded, dnormed, &a->decoder, s->decoder, m->dec_layers,
                  &s->decoder_norm, m->queries, true, scratch);
        queries_bwd(&r, dfirst);
        if (from == UM_AT_INPUT) {
            float *d = um_tower_zeros(dev, scratch, T * D);
            stack_bwd(&r, d, NULL, dencoded, &a->encoder, s->encoder, m->layers, &s->encoder_norm,
                      m->positions, false, scratch);
            embed_bwd(&r, d, scratch);
        }
    }
    um_arena_reset(scratch, mark);
}
