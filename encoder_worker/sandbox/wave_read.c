/* See wave_read.h. */
#include "encoder_worker/sandbox/wave_read.h"

#include "encoder_worker/sandbox/media_stream.h"
#include "encoder_worker/sandbox/sound_file.h"

#include <libavutil/cpu.h>

#include <inttypes.h>
#include <math.h>
#include <soxr.h>
#include <string.h>

enum {
    SOXR_ROOM = 1 << 24,    /* more than libsoxr takes for any rate that is read */
    PART = 1 << 16,         /* samples of one part of the result */
    COVER_PIXELS = 1 << 25, /* of videos that libavformat looks into beside the sound */
    MONO = 1024,            /* samples that are mixed at a time */
};

/* The result as it grows. */
typedef struct part {
    struct part *next;
    size_t n;
    float *samples; /* [PART] */
} part;

typedef struct reader {
    um_sound_file *file;   /* NULL: libavformat reads */
    um_media_stream media; /* else unused */
    int64_t seconds;       /* limit */
    int rate;              /* of the file */
    int64_t in, out;       /* samples read and made so far */
    soxr_t soxr;           /* NULL at 16 kHz */
    um_arena arena;        /* the parts */
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

/* n samples of one channel at `rate`: checked, resampled, added to the result. */
static um_status take(reader *r, const float *mono, size_t n, int rate, um_err *err)
{
    UM_TRY(um_wave_rate_ok(rate, err));
    if (r->rate == 0) UM_TRY(begin(r, rate, err));
    if (rate != r->rate)
        return UM_FAIL(err, UM_E_DATA, "its sample rate changes from %d to %d after %.1f s",
                       r->rate, rate, (double)r->in / r->rate);
    if (r->in + (int64_t)n > r->seconds * r->rate)
        return UM_FAIL(err, UM_E_DATA, "longer than %" PRId64 " s, the limit", r->seconds);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(mono[i]))
            return UM_FAIL(err, UM_E_DATA, "the sample at %.3f s is not a finite number",
                           (double)(r->in + (int64_t)i) / r->rate);
    UM_TRY(push(r, mono, n, err));
    r->in += (int64_t)n;
    return UM_OK;
}

/* The first `most` samples of a decoded frame: to floats, to their mean, to the result. */
static um_status take_frame(reader *r, const AVFrame *f, int most, um_err *err)
{
    int channels = f->ch_layout.nb_channels;
    float mono[MONO];
    if (channels < 1) return UM_FAIL(err, UM_E_DATA, "sound of no channels");
    for (int done = 0; done < most;) {
        int n = 0;
        for (; n < MONO && done < most; n++, done++) {
            float sum = 0;
            for (int c = 0; c < channels; c++) sum += sample_at(f, c, done);
            mono[n] = sum / (float)channels;
        }
        UM_TRY(take(r, mono, (size_t)n, f->sample_rate, err));
    }
    return UM_OK;
}

static um_status length_ok(const reader *r, double declared, double slack, um_err *err)
{
    double have = (double)r->in / r->rate;
    if (declared < 0 || have >= declared - slack) return UM_OK;
    return UM_FAIL(err, UM_E_DATA, "cut off: %.3f s of %.3f s are there", have, declared);
}

static um_status read_file(reader *r, um_err *err)
{
    double declared = um_sound_file_declared(r->file), slack = um_sound_file_slack(r->file);
    float mono[MONO];
    UM_TRY(um_wave_rate_ok(um_sound_file_rate(r->file), err));
    if (declared > (double)r->seconds)
        return UM_FAIL(err, UM_E_DATA, "%.1f s long by its header, limit %" PRId64 " s", declared,
                       r->seconds);
    for (;;) {
        size_t n = 0;
        int rate = 0;
        UM_TRY(um_sound_file_read(r->file, mono, MONO, &n, &rate, err));
        if (n == 0) break;
        UM_TRY(take(r, mono, n, rate, err));
    }
    if (r->in == 0) return UM_FAIL(err, UM_E_DATA, "no sample of sound could be decoded from it");
    return length_ok(r, declared, slack, err);
}

/* Formats that count their samples are held to it; others round or guess, so that only much that is missing counts. */
static double stream_slack(const reader *r, double declared)
{
    enum AVCodecID id = r->media.stream->codecpar->codec_id;
    if (id == AV_CODEC_ID_FLAC) return 0.5 / r->rate;
    return av_get_exact_bits_per_sample(id) > 0 ? 0.05 : 1.0 + 0.02 * declared;
}

static um_status read_stream(reader *r, um_err *err)
{
    int64_t most = um_media_stream_samples(&r->media);
    for (;;) {
        bool more = false;
        UM_TRY(um_media_stream_next(&r->media, &more, err));
        if (!more) break;
        int n = r->media.frame->nb_samples;
        if (most >= 0 && n > most - r->in) n = (int)(most > r->in ? most - r->in : 0);
        UM_TRY(take_frame(r, r->media.frame, n, err));
    }
    if (r->in == 0) return UM_FAIL(err, UM_E_DATA, "no sample of sound could be decoded from it");
    double declared = um_media_stream_declared(&r->media);
    return length_ok(r, declared, stream_slack(r, declared), err);
}

static um_status read_all(reader *r, const uint8_t *bytes, size_t n, um_err *err)
{
    UM_TRY(um_sound_file_open(&r->file, bytes, n, &r->arena, err));
    if (r->file != NULL) {
        UM_TRY(read_file(r, err));
    } else {
        UM_TRY(um_media_stream_open(&r->media, AVMEDIA_TYPE_AUDIO, bytes, n, COVER_PIXELS,
                                    r->seconds, err));
        UM_TRY(read_stream(r, err));
    }
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

/* Zeros in front of an MP3 hide its table of contents from libavformat, and with it what the encoder added. */
static size_t zeros_before_mp3(const uint8_t *bytes, size_t n)
{
    size_t at = 0;
    while (at < n && bytes[at] == 0) at++;
    bool frame = n - at >= 4 && bytes[at] == 0xff && (bytes[at + 1] & 0xe6) == 0xe2;
    return frame || (n - at >= 4 && memcmp(bytes + at, "ID3", 3) == 0) ? at : 0;
}

um_status um_wave_read(um_wave *out, const uint8_t *bytes, size_t n, int64_t seconds,
                       um_arena *arena, um_err *err)
{
    reader r = {.seconds = seconds};
    um_mark mark = um_arena_mark(arena);
    size_t zeros = zeros_before_mp3(bytes, n);
    um_arena_init(&r.arena, "wave", 1 << 20);
    av_force_cpu_flags(0);
    um_status st = read_all(&r, bytes + zeros, n - zeros, err);
    if (st == UM_OK) st = finish(out, &r, arena, err);
    if (st != UM_OK) um_arena_reset(arena, mark);
    soxr_delete(r.soxr);
    um_sound_file_close(r.file);
    um_media_stream_close(&r.media);
    um_arena_free(&r.arena);
    return st;
}
