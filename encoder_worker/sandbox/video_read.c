/* See video_read.h. */
#include "encoder_worker/sandbox/video_read.h"

#include "encoder_worker/sandbox/frame_rgb.h"
#include "encoder_worker/sandbox/media_stream.h"

#include <libavutil/cpu.h>
#include <libavutil/display.h>

#include <inttypes.h>
#include <math.h>

enum {
    JUMP_FRAMES = 10, /* nearer than that, decoding on is as quick as looking for a key frame */
};

typedef struct video {
    um_media_stream media;
    const uint8_t *bytes;
    size_t n;
    um_video_limits limits;
    um_video_take take;
    void *ctx;
    um_arena *scratch;
    int want, given;
    double fps, seconds; /* of the whole video */
    int64_t step;        /* frames from one that is wanted to the next; 0: take every frame */
    int turns;
    double slack;    /* what rounding to the stream's ticks may add to a frame's time */
    int64_t seen;    /* frames decoded */
    bool jumps;      /* key frames may be jumped to */
    bool jumped;     /* at least once */
    int64_t landing; /* time of the key frame that was jumped to, until it comes; else none */
    int aimed;       /* the last number of a frame that was jumped to */
    int64_t start;   /* time of the first frame, in ticks */
    AVFrame *shown;  /* the newest frame; it is shown until the next one comes */
    bool shown_is;   /* there is one */
    double newest;   /* its time */
} video;

static double wanted_at(const video *c, int i) { return (double)((int64_t)i * c->step) / c->fps; }

static um_status give(video *c, const AVFrame *f, um_err *err)
{
    um_image p = {0};
    um_mark mark = um_arena_mark(c->scratch);
    um_status st = um_frame_rgb(&p, f, c->turns, c->limits.pixels, c->scratch, err);
    if (st == UM_OK) st = c->take(c->ctx, &p, err);
    um_arena_reset(c->scratch, mark);
    c->given++;
    return st;
}

static double time_of(video *c, const AVFrame *f)
{
    int64_t at = f->best_effort_timestamp;
    if (at == AV_NOPTS_VALUE) {
        c->jumps = false; /* counted frames must be all frames */
        return (double)c->seen / c->fps;
    }
    if (c->seen == 0) c->start = at;
    /* apart: a file may claim times whose difference no integer holds */
    return ((double)at - (double)c->start) * av_q2d(c->media.stream->time_base);
}

/* The newest frame has come: whatever was to be shown before it is now known. */
static um_status arrive(video *c, AVFrame *f, um_err *err)
{
    double at = time_of(c, f);
    if (at > (double)c->limits.seconds)
        return UM_FAIL(err, UM_E_DATA, "longer than %" PRId64 " s, the limit", c->limits.seconds);
    if (c->step == 0) {
        UM_TRY(give(c, f, err));
    } else {
        while (c->shown_is && c->given < c->want && wanted_at(c, c->given) + c->slack < at)
            UM_TRY(give(c, c->shown, err));
        av_frame_unref(c->shown);
        av_frame_move_ref(c->shown, f);
        c->shown_is = true;
        c->newest = at;
    }
    c->seen++;
    return UM_OK;
}

/* The last frame has been seen. It is shown to the end, unless much of what the header declares is missing. */
static um_status end(video *c, um_err *err)
{
    double declared = um_media_stream_declared(&c->media), last = 0;
    if (c->step == 0 && c->seen > 0) return UM_OK;
    if (!c->shown_is) return UM_FAIL(err, UM_E_DATA, "no frame could be decoded from it");
    last = c->newest;
    if (declared > 0 && last > 0 && last + 1 / c->fps < 0.9 * declared - 0.5)
        return UM_FAIL(err, UM_E_DATA, "cut off: %.1f s of %.1f s are there", last, declared);
    while (c->given < c->want) UM_TRY(give(c, c->shown, err));
    return UM_OK;
}

static um_status open_video(video *c, um_err *err)
{
    return um_media_stream_open(&c->media, AVMEDIA_TYPE_VIDEO, c->bytes, c->n, c->limits.pixels,
                                c->limits.seconds, err);
}

/* Decodes everything from the start: a jump has not led where it should. Frames that were given stay given, they were right. */
static um_status start_again(video *c, um_err *err)
{
    c->jumps = false;
    c->seen = 0;
    c->landing = AV_NOPTS_VALUE;
    av_frame_unref(c->shown);
    c->shown_is = false;
    um_media_stream_close(&c->media);
    return open_video(c, err);
}

/* Passes over what need not be decoded, where the file has an index of its key frames: the frame that is wanted next is decoded
 * from the last key frame before it. Where that does not work out, everything is decoded from the start. */
static um_status skip(video *c, um_err *err)
{
    double tick = av_q2d(c->media.stream->time_base), wanted = wanted_at(c, c->given);
    int64_t at = c->start + (int64_t)((wanted + c->slack) / tick),
            now = c->start + (int64_t)(c->newest / tick);
    bool there = false;
    if (!c->jumps || c->step == 0 || c->seen == 0 || c->aimed >= c->given) return UM_OK;
    if ((wanted - c->newest) * c->fps < JUMP_FRAMES) return UM_OK;
    c->aimed = c->given;
    if (!um_media_stream_may_jump(&c->media, now, at, !c->jumped)) return UM_OK;
    c->jumped = true;
    UM_TRY(um_media_stream_jump(&c->media, at, &there, &c->landing, err));
    av_frame_unref(c->shown);
    c->shown_is = false;
    return there ? UM_OK : start_again(c, err);
}

/* A frame after a jump. Those before the key frame may lean on what was passed over; they are not wanted. The key frame must come,
 * and be whole: some encoders call the beginning of a gradual refresh a key frame. */
static um_status land(video *c, um_err *err)
{
    AVFrame *f = c->media.frame;
    if (f->best_effort_timestamp != AV_NOPTS_VALUE && f->best_effort_timestamp < c->landing)
        return UM_OK;
    if (f->best_effort_timestamp != c->landing || f->pict_type != AV_PICTURE_TYPE_I)
        return start_again(c, err);
    c->landing = AV_NOPTS_VALUE;
    return arrive(c, f, err);
}

static um_status read_frames(video *c, um_err *err)
{
    while (c->given < c->want) {
        bool more = false;
        UM_TRY(skip(c, err));
        UM_TRY(um_media_stream_next(&c->media, &more, err));
        if (c->landing == AV_NOPTS_VALUE && !more) return end(c, err);
        if (c->landing == AV_NOPTS_VALUE)
            UM_TRY(arrive(c, c->media.frame, err));
        else
            UM_TRY(more ? land(c, err) : start_again(c, err));
    }
    return UM_OK;
}

/* Quarter turns clockwise that the file asks for. */
static int turns_of(const AVStream *st)
{
    const int32_t *matrix = NULL;
#if LIBAVFORMAT_VERSION_INT >= AV_VERSION_INT(60, 15, 100)
    const AVPacketSideData *d = av_packet_side_data_get(
        st->codecpar->coded_side_data, st->codecpar->nb_coded_side_data, AV_PKT_DATA_DISPLAYMATRIX);
    if (d != NULL && d->size >= 9 * sizeof *matrix) matrix = (const int32_t *)d->data;
#else
    size_t size = 0;
    const uint8_t *data = av_stream_get_side_data(st, AV_PKT_DATA_DISPLAYMATRIX, &size);
    if (data != NULL && size >= 9 * sizeof *matrix) matrix = (const int32_t *)(const void *)data;
#endif
    double angle = matrix != NULL ? -av_display_rotation_get(matrix) : 0; /* clockwise */
    if (!isfinite(angle)) return 0;
    long quarters = lround(angle / 90);
    return fabs(angle - 90 * (double)quarters) < 1 ? (int)((quarters % 4 + 4) % 4) : 0;
}

/* Seconds from the packets' own times, for files whose header does not say: live recordings. Uses up the packets. */
static um_status measure(um_media_stream *m, double *seconds, um_err *err)
{
    double first = 0, last = -1;
    int64_t n = 0;
    for (; av_read_frame(m->format, m->packet) >= 0; av_packet_unref(m->packet)) {
        const AVPacket *p = m->packet;
        if (p->stream_index != m->stream->index || p->pts == AV_NOPTS_VALUE) continue;
        double from = (double)p->pts * av_q2d(m->stream->time_base);
        double to = from + (double)p->duration * av_q2d(m->stream->time_base);
        if (n++ == 0 || from < first) first = from;
        if (n == 1 || to > last) last = to;
    }
    if (n == 0) return UM_FAIL(err, UM_E_DATA, "no frame with a time in it");
    *seconds = last - first;
    return UM_OK;
}

static um_status lengths(video *c, um_err *err)
{
    const AVFormatContext *f = c->media.format;
    AVRational rate = av_guess_frame_rate(c->media.format, c->media.stream, NULL);
    c->fps = rate.num > 0 && rate.den > 0 ? av_q2d(rate) : 25; /* as ffmpeg assumes */
    c->turns = turns_of(c->media.stream);
    c->slack = fmin(0.5 * av_q2d(c->media.stream->time_base), 0.5 / c->fps) + 1e-6;
    if (f->duration > 0 && f->duration_estimation_method != AVFMT_DURATION_FROM_BITRATE) {
        c->seconds = (double)f->duration / AV_TIME_BASE;
    } else {
        UM_TRY(measure(&c->media, &c->seconds, err));
        um_media_stream_close(&c->media);
        UM_TRY(open_video(c, err));
    }
    if (c->seconds > (double)c->limits.seconds)
        return UM_FAIL(err, UM_E_DATA, "%.1f s long, limit %" PRId64 " s", c->seconds,
                       c->limits.seconds);
    /* a microsecond more, for durations are kept cut off to whole ones */
    c->step = (int64_t)((c->seconds + 1e-6) * c->fps) / c->want;
    return UM_OK;
}

um_status um_video_read(const uint8_t *bytes, size_t n, int want, const um_video_limits *limits,
                        um_video_take take, void *ctx, um_arena *scratch, um_err *err)
{
    video c = {.bytes = bytes,
               .n = n,
               .limits = *limits,
               .take = take,
               .ctx = ctx,
               .scratch = scratch,
               .want = want,
               .jumps = true,
               .landing = AV_NOPTS_VALUE};
    UM_ASSERT(want > 0);
    av_force_cpu_flags(
        -1); /* all that the processor has: video decoders are exact by their standards */
    um_status st = open_video(&c, err);
    if (st == UM_OK) st = lengths(&c, err);
    c.shown = av_frame_alloc();
    if (st == UM_OK && c.shown == NULL)
        st = UM_FAIL(err, UM_E_MEMORY, "it needs more memory than a decoder may have");
    if (st == UM_OK) st = read_frames(&c, err);
    av_frame_free(&c.shown);
    um_media_stream_close(&c.media);
    return st;
}
