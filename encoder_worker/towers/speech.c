/* See speech.h. Source: Radford et al. 2022, arXiv 2212.04356; transformers 4.31, WhisperEncoder and WhisperDecoder; spec 2.4, 3.2.
 * Letters: T rows of the encoder (1500), Q queries (50), D width, F feed-forward width. */
#include "encoder_worker/towers/speech.h"

#include "core/base/bytes.h"
#include "encoder_worker/towers/speech_parts.h"

#include <math.h>
#include <string.h>

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

/* Buffers of one window; the layers of both stacks share them. */
typedef struct acts {
    float *x;     /* [T,D] rows of the encoder */
    float *last;  /* [T,D] rows of the encoder after the last norm */
    float *norm;  /* [T,D] */
    float *qkv;   /* [T,3D] */
    float *heads; /* [T,D] */
    float *inner; /* [T,F] */
    float *kv;    /* keys and values in the layout of the attention op */
    float *y;     /* [Q,D] rows of the decoder */
} acts;

static acts acts_bind(const um_speech_model *m, um_arena *a)
{
    size_t Q = (size_t)m->queries, D = (size_t)m->dim;
    int T = um_max_int(m->positions, m->queries); /* the decoder reuses the encoder's buffers */
    size_t rows = (size_t)T;
    int heads = m->heads, dec_heads = m->dec_heads;
    size_t kv = um_kv_flat_floats(heads, m->dim / heads, T),
           dec_kv = um_kv_flat_floats(dec_heads, m->dim / dec_heads, T);
    acts s = {.x = um_arena_f32(a, rows, D), .norm = um_arena_f32(a, rows, D)};
    s.qkv = um_arena_f32(a, rows, 3 * D);
    s.heads = um_arena_f32(a, rows, D);
    s.last = um_arena_f32(a, rows, D);
    s.inner = um_arena_f32(a, rows, (size_t)um_max_int(m->ffn_dim, m->dec_ffn_dim));
    s.kv = um_arena_f32(a, 1, kv > dec_kv ? kv : dec_kv);
    s.y = um_arena_f32(a, Q, D);
    return s;
}

/* What every step of one forward pass needs. */
typedef struct run {
    const um_speech *s;
    um_dev *dev;
    acts a;
} run;

static void norm_fwd(const run *r, float *y, const float *x, const um_norm *n, int T)
{
    um_norm_fwd(r->dev, y, x, n, T, r->s->model->dim, eps);
}

/* x[T,D] += out(softmax(q k^T / sqrt(head_dim)) v), q has row stride ldq, keys and values [n,D] have row stride ldk. */
static void attend(const run *r, float *x, int T, const float *q, int ldq, const float *k,
                   const float *v, int ldk, int n, int heads, bool causal, const um_linear *out)
{
    um_dev *d = r->dev;
    int D = r->s->model->dim, head_dim = D / heads;
    float scale = (float)(1.0 / sqrt((double)head_dim));
    um_kv_flat kv = {0};
    um_kv_flat_bind(&kv, r->a.kv, heads, head_dim, n);
    d->ops->kv_append_flat(d, &kv, k, ldk, v, ldk, n);
    d->ops->attention_flat(d, r->a.heads, D, NULL, q, ldq, &kv, heads, T, 0, scale, causal);
    um_linear_add(d, x, r->a.heads, T, out);
}

/* x[T,D] += out(self-attention of norm(x)) */
static void self_fwd(const run *r, float *x, int T, const um_speech_layer *l, int heads,
                     bool causal)
{
    int D = r->s->model->dim;
    float *qkv = r->a.qkv;
    norm_fwd(r, r->a.norm, x, &l->self_norm, T);
    um_linear_fwd(r->dev, qkv, r->a.norm, T, &l->qkv);
    attend(r, x, T, qkv, 3 * D, qkv + D, qkv + 2 * D, 3 * D, T, heads, causal, &l->out);
}

/* y[Q,D] += cross_out(attention of norm(y) to the rows of the encoder) */
static void cross_fwd(const run *r, float *y, const um_speech_layer *l)
{
    const um_speech_model *m = r->s->model;
    int D = m->dim, Q = m->queries, T = m->positions;
    float *kv = r->a.qkv, *q = r->a.inner;
    um_linear_fwd(r->dev, kv, r->a.last, T, &l->cross_kv);
    norm_fwd(r, r->a.norm, y, &l->cross_norm, Q);
    um_linear_fwd(r->dev, q, r->a.norm, Q, &l->cross_q);
    attend(r, y, Q, q, D, kv, kv + D, 2 * D, T, m->dec_heads, false, &l->cross_out);
}

/* x[T,D] += fc2(gelu(fc1(norm(x)))) */
static void ffn_fwd(const run *r, float *x, int T, const um_speech_layer *l)
{
    um_dev *d = r->dev;
    norm_fwd(r, r->a.norm, x, &l->ffn_norm, T);
    um_linear_fwd(d, r->a.inner, r->a.norm, T, &l->fc1);
    d->ops->gelu(d, r->a.inner, r->a.inner, um_at((size_t)T, 0, (size_t)l->fc1.w.N));
    um_linear_add(d, x, r->a.inner, T, &l->fc2);
}

/* y[T,N] = gelu(a convolution with three taps over the rows of x[stride T, C], padded with a row of zeros before and after). The three
 * rows are adjacent in memory, so a row of the gemm starts at the first of them. */
static void conv_fwd(um_dev *d, float *y, float *x, int C, int T, int stride, const um_linear *l)
{
    size_t row = (size_t)C;
    memset(x, 0, row * sizeof *x);
    memset(x + um_at((size_t)T * (size_t)stride + 1, 0, row), 0, row * sizeof *x);
    d->ops->gemm(d, y, l->w.N, x, stride * C, T, &l->w, l->bias, false);
    d->ops->gelu(d, y, y, um_at((size_t)T, 0, (size_t)l->w.N));
}

/* Rows of C values, with space for the two rows of zeros. */
static float *padded(um_arena *a, int rows, int C)
{
    return um_arena_f32(a, (size_t)rows + 2, (size_t)C);
}

/* x[T,D] = gelu(conv2(gelu(conv1(mel)))) + positions.   mel [2T, bins], conv1 stride 1, conv2 stride 2 */
static void embed(const run *r, const float *wave, int64_t n, um_arena *scratch)
{
    const um_speech *s = r->s;
    um_dev *d = r->dev;
    int D = s->model->dim, T = s->model->positions, frames = s->mel.frames, bins = s->mel.bins;
    um_mark mark = um_arena_mark(scratch);
    float *mel = padded(scratch, frames, bins), *inner = padded(scratch, frames, D);
    um_mel_frames(mel + bins, &s->mel, wave, n, scratch);
    conv_fwd(d, inner + D, mel, bins, frames, 1, &s->conv1);
    conv_fwd(d, r->a.x, inner, D, T, 2, &s->conv2);
    d->ops->add(d, r->a.x, s->positions, um_at((size_t)T, 0, (size_t)D));
    um_arena_reset(scratch, mark);
}

/* a.last[T,D] = the tower's last hidden state */
static void encode_fwd(const run *r)
{
    const um_speech *s = r->s;
    int T = s->model->positions;
    for (int i = 0; i < s->model->layers; i++) {
        self_fwd(r, r->a.x, T, &s->encoder[i], s->model->heads, false);
        ffn_fwd(r, r->a.x, T, &s->encoder[i]);
    }
    norm_fwd(r, r->a.last, r->a.x, &s->encoder_norm, T);
}

/* a.norm[Q,D] = the decoder's last hidden state; causal as in the reference, although the queries are not tokens. */
static void decode_fwd(const run *r)
{
    const um_speech *s = r->s;
    int Q = s->model->queries;
    float *y = r->a.y;
    memcpy(y, s->queries, um_at((size_t)Q, 0, (size_t)s->model->dim) * sizeof *y);
    for (int i = 0; i < s->model->dec_layers; i++) {
        self_fwd(r, y, Q, &s->decoder[i], s->model->dec_heads, true);
        cross_fwd(r, y, &s->decoder[i]);
        ffn_fwd(r, y, Q, &s->decoder[i]);
    }
    norm_fwd(r, r->a.norm, y, &s->decoder_norm, Q);
}

static void window_fwd(const run *r, float *rows, const float *wave, int64_t n, um_arena *scratch)
{
    um_mark mark = um_arena_mark(scratch);
    embed(r, wave, n, scratch);
    encode_fwd(r);
    decode_fwd(r);
    um_tower_project(r->dev, rows, r->s->projector, r->s->model->proj_layers, r->a.norm,
                     r->s->model->queries, scratch);
    um_arena_reset(scratch, mark);
}

um_status um_speech_encode(float *rows, const um_speech *s, const float *wave, int64_t n,
                           bool exact, um_dev *dev, um_arena *scratch, um_err *err)
{
    const um_speech_model *m = s->model;
    int64_t most = window_samples(m), step = window_step(m, exact);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(wave[i]))
            return UM_FAIL(err, UM_E_DATA, "sample %lld is not finite", (long long)i);
    um_mark mark = um_arena_mark(scratch);
    run r = {s, dev, acts_bind(m, scratch)};
    for (int64_t at = 0; at < n; at += step) {
        int64_t left = n - at;
        window_fwd(&r, rows, wave + at, left < most ? left : most, scratch);
        rows += um_at((size_t)m->queries, 0, (size_t)s->dim_out);
    }
    um_arena_reset(scratch, mark);
    return UM_OK;
}
