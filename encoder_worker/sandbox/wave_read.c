/* See wave_read.h. */
#include "encoder_worker/sandbox/wave_read.h"

#include "encoder_worker/sandbox/media_stream.h"

#include <libavutil/cpu.h>

#include <inttypes.h>
#include <math.h>
#include <soxr.h>
#include <string.h>

enum {
    SOXR_ROOM = 1 << 24,    /* more than libsoxr takes for any rate that is read */
    PART = 1 << 16,         /* samples of one part of the result */
    COVER_PIXELS = 1 << 25, /* of videos that libavformat looks into beside the sound */
};

/* The result as it grows. */
typedef struct part {
    struct part *next;
    size_t n;
    float *samples; /* [PART] */
} part;

typedef struct reader {
    um_media_stream media;
    int64_t seconds; /* limit */
    int rate;        /* of the file */
    int64_t in, out; /* samples read and made so far */
    soxr_t soxr;     /* NULL at 16 kHz */
    um_arena arena;  /* the parts */
    part *first, *last;
} reader;

/* Sample i of channel c in [-1, 1), as libsndfile scales it. */
static float sample_at(const AVFrame *f, int c, int i)
{
    enum AVSampleFormat format = f->format;
    bool planar = av_sample_fmt_is_planar(format) != 0;
    size_t at = planar ? (size_t)i : (size_t)i * (size_t)f->ch_layout.nb_channels + (size_t)c;
    const void *data = f->extended_data[planar ? c : 0];
    switch (av_get_packed_sample_fmt(format)) {
    case AV_SAMPLE_FMT_U8:
        return (float)(((const uint8_t *)data)[at] - 128) / 128.0f;
    case AV_SAMPLE_FMT_S16:
        return (float)((const int16_t *)data)[at] / 32768.0f;
    case AV_SAMPLE_FMT_S32: /* 24 bits are in the upper bytes */
        return (float)((const int32_t *)data)[at] / 2147483648.0f;
    case AV_SAMPLE_FMT_S64:
        return (float)((const int64_t *)data)[at] / 9223372036854775808.0f;
    case AV_SAMPLE_FMT_FLT:
        return ((const float *)data)[at];
    case AV_SAMPLE_FMT_DBL:
        return (float)((const double *)data)[at];
    default:
        return NAN;
    }
}

static um_status no_memory(um_err *err)
{
    return UM_FAIL(err, UM_E_MEMORY, "it needs more memory than a decoder may have");
}

/* Room for at least one more sample at the end of the result. */
static um_status grow(reader *r, um_err *err)
{
    if (r->last != NULL && r->last->n < PART) return UM_OK;
    if (!um_arena_reserve(&r->arena, sizeof(part) + 64 + PART * sizeof(float)))
        return no_memory(err);
    part *p = um_arena_zero(&r->arena, sizeof *p);
    p->samples = um_arena_f32(&r->arena, 1, PART);
    if (r->last != NULL)
        r->last->next = p;
    else
        r->first = p;
    r->last = p;
    return UM_OK;
}

/* Appends n samples at the file's rate to the result; in NULL: no more will come. */
static um_status push(reader *r, const float *in, size_t n, um_err *err)
{
    for (size_t done = 0, made = 1; in != NULL ? done < n : made > 0;) {
        size_t used = 0;
        UM_TRY(grow(r, err));
        float *to = r->last->samples + r->last->n;
        size_t room = PART - r->last->n;
        if (r->soxr == NULL) {
            used = made = in == NULL ? 0 : room < n - done ? room : n - done;
            if (made > 0) memcpy(to, in + done, made * sizeof *to);
        } else {
            soxr_error_t e = soxr_process(r->soxr, in == NULL ? NULL : in + done, n - done, &used,
                                          to, room, &made);
            if (e != NULL) return UM_FAIL(err, UM_E_MEMORY, "resampling: %s", e);
        }
        done += used;
        r->last->n += made;
        r->out += (int64_t)made;
    }
    return UM_OK;
}

um_status um_wave_rate_ok(int rate, um_err *err)
{
    if (rate >= UM_WAVE_RATE_MIN && rate <= UM_WAVE_RATE_MAX) return UM_OK;
    return UM_FAIL(err, UM_E_DATA, "%d samples a second: %d to %d are read", rate, UM_WAVE_RATE_MIN,
                   UM_WAVE_RATE_MAX);
}

static um_status begin(reader *r, int rate, um_err *err)
{
    r->rate = rate;
    if (rate == UM_WAVE_RATE) return UM_OK;
    /* libsoxr does not survive a lack of memory, so that there is enough is tried first */
    void *room = av_malloc(SOXR_ROOM);
    av_free(room);
    if (room == NULL) return no_memory(err);
    soxr_error_t e = NULL;
    soxr_io_spec_t io = soxr_io_spec(SOXR_FLOAT32_I, SOXR_FLOAT32_I);
    soxr_quality_spec_t quality = soxr_quality_spec(SOXR_HQ, 0);
    soxr_runtime_spec_t runtime = soxr_runtime_spec(1);
    r->soxr = soxr_create(rate, UM_WAVE_RATE, 1, &e, &io, &quality, &runtime);
    return e == NULL ? UM_OK : UM_FAIL(err, UM_E_MEMORY, "resampling: %s", e);
}

/* One decoded frame: to floats, to their mean, to the result. */
static um_status take(reader *r, const AVFrame *f, um_err *err)
{
    int channels = f->ch_layout.nb_channels;
    if (channels < 1) return UM_FAIL(err, UM_E_DATA, "sound of no channels");
    UM_TRY(um_wave_rate_ok(f->sample_rate, err));
    if (r->rate == 0) UM_TRY(begin(r, f->sample_rate, err));
    if (f->sample_rate != r->rate)
        return UM_FAIL(err, UM_E_DATA, "its sample rate changes from %d to %d after %.1f s",
                       r->rate, f->sample_rate, (double)r->in / r->rate);
    if (r->in + f->nb_samples > r->seconds * r->rate)
        return UM_FAIL(err, UM_E_DATA, "longer than %" PRId64 " s, the limit", r->seconds);
    float mono[1024];
    for (int from = 0; from < f->nb_samples;) {
        int n = 0;
        for (; n < 1024 && from < f->nb_samples; n++, from++) {
            float sum = 0;
            for (int c = 0; c < channels; c++) sum += sample_at(f, c, from);
            mono[n] = sum / (float)channels;
            if (!isfinite(mono[n]))
                return UM_FAIL(err, UM_E_DATA, "a sample at %.3f s is no finite number",
                               (double)(r->in + n) / r->rate);
        }
        UM_TRY(push(r, mono, (size_t)n, err));
        r->in += n;
    }
    return UM_OK;
}

/* Headers that count samples are held to it (recorders of PCM miscount by a few bytes); others are rounded or guessed, so only much
 * that is missing counts. */
static um_status whole(const reader *r, um_err *err)
{
    double have = (double)r->in / r->rate, declared = um_media_stream_declared(&r->media);
    enum AVCodecID id = r->media.stream->codecpar->codec_id;
    bool exact = id == AV_CODEC_ID_FLAC || av_get_exact_bits_per_sample(id) > 0;
    double slack = id == AV_CODEC_ID_FLAC ? 0.5 / r->rate : exact ? 0.05 : 1.0 + 0.02 * declared;
    if (declared < 0 || have >= declared - slack) return UM_OK;
    return UM_FAIL(err, UM_E_DATA, "cut off: %.3f s of %.3f s are there", have, declared);
}

static um_status read_all(reader *r, um_err *err)
{
    for (;;) {
        bool more = false;
        UM_TRY(um_media_stream_next(&r->media, &more, err));
        if (!more) break;
        UM_TRY(take(r, r->media.frame, err));
    }
    if (r->in == 0) return UM_FAIL(err, UM_E_DATA, "no sample of sound could be decoded from it");
    UM_TRY(whole(r, err));
    return push(r, NULL, 0, err);
}

/* The parts one after another: exactly ceil(in 16000 / rate) samples, as librosa cuts or fills up with zeros. */
static um_status finish(um_wave *out, const reader *r, um_arena *arena, um_err *err)
{
    int64_t n = (r->in * UM_WAVE_RATE + r->rate - 1) / r->rate;
    if (!um_arena_reserve(arena, (size_t)n * sizeof(float))) return no_memory(err);
    float *to = um_arena_f32(arena, 1, (size_t)n);
    int64_t at = 0;
    for (const part *p = r->first; p != NULL && at < n; p = p->next) {
        int64_t take_n = (int64_t)p->n < n - at ? (int64_t)p->n : n - at;
        memcpy(to + at, p->samples, (size_t)take_n * sizeof *to);
        at += take_n;
    }
    if (at < n) memset(to + at, 0, (size_t)(n - at) * sizeof *to);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(to[i]))
            return UM_FAIL(err, UM_E_DATA, "its samples are too large to be resampled");
    *out = (um_wave){.samples = to, .n = n};
    return UM_OK;
}

um_status um_wave_read(um_wave *out, const uint8_t *bytes, size_t n, int64_t seconds,
                       um_arena *arena, um_err *err)
{
    reader r = {.seconds = seconds};
    um_mark mark = um_arena_mark(arena);
    um_arena_init(&r.arena, "wave", 1 << 20);
    av_force_cpu_flags(0);
    um_status st =
        um_media_stream_open(&r.media, AVMEDIA_TYPE_AUDIO, bytes, n, COVER_PIXELS, seconds, err);
    if (st == UM_OK) st = read_all(&r, err);
    if (st == UM_OK) st = finish(out, &r, arena, err);
    if (st != UM_OK) um_arena_reset(arena, mark);
    soxr_delete(r.soxr);
    um_media_stream_close(&r.media);
    um_arena_free(&r.arena);
    return st;
}
