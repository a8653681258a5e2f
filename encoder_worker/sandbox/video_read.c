/* See video_read.h. */
#include "encoder_worker/sandbox/video_read.h"

#include "encoder_worker/sandbox/frame_rgb.h"
#include "encoder_worker/sandbox/media_stream.h"

#include <libavutil/cpu.h>

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define GAP_LEAST 0.1      /* seconds; less is the delay of an encoder */
#define TICK_MOST 1.001e-3 /* seconds */

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
    um_turn turn;
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
    double until;    /* when it ends, where the file says so; else newest */
} video;

static double wanted_at(const video *c, int i) { return (double)((int64_t)i * c->step) / c->fps; }

static um_status give(video *c, const AVFrame *f, um_err *err)
{
    um_image p = {0};
    um_mark mark = um_arena_mark(c->scratch);
    um_status st = um_frame_rgb(&p, f, c->turn, c->limits.pixels, c->scratch, err);
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

/* Ticks of the stream that a frame is shown by the file's word; 0: it does not say. */
static int64_t duration_of(const AVFrame *f)
{
#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(57, 30, 100)
    return f->duration > 0 ? f->duration : 0;
#else
    return f->pkt_duration > 0 ? f->pkt_duration : 0;
#endif
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
        c->until = at + (double)duration_of(c->shown) * av_q2d(c->media.stream->time_base);
    }
    c->seen++;
    return UM_OK;
}

/* Whether the frames up to `last` seconds are all. Where much of what the header declares is missing, a file that is whole by its boxes
 * holds its last frame; another is cut off. */
static um_status complete(const video *c, double last, um_err *err)
{
    double declared = um_media_stream_declared(&c->media);
    if (declared <= 0 || last >= 0.9 * declared - 0.5 || um_media_stream_whole(&c->media))
        return UM_OK;
    return UM_FAIL(err, UM_E_DATA, "cut off: %.1f s of %.1f s are there", last, declared);
}

/* The last frame has been seen. It is shown to the end, however long that is. A video of one frame gives it once. */
static um_status end(video *c, um_err *err)
{
    if (c->step == 0 && c->seen > 0) return UM_OK;
    if (!c->shown_is) return UM_FAIL(err, UM_E_DATA, "no frame could be decoded from it");
    if (c->newest > 0) UM_TRY(complete(c, fmax(c->newest + 1 / c->fps, c->until), err));
    if (c->seen == 1) return give(c, c->shown, err);
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

static const int32_t *display_matrix(const AVStream *st)
{
#if LIBAVFORMAT_VERSION_INT >= AV_VERSION_INT(60, 15, 100)
    const AVPacketSideData *d = av_packet_side_data_get(
        st->codecpar->coded_side_data, st->codecpar->nb_coded_side_data, AV_PKT_DATA_DISPLAYMATRIX);
    bool there = d != NULL && d->size >= 9 * sizeof(int32_t);
    return there ? (const int32_t *)(const void *)d->data : NULL;
#else
    size_t size = 0;
    const uint8_t *data = av_stream_get_side_data(st, AV_PKT_DATA_DISPLAYMATRIX, &size);
    bool there = data != NULL && size >= 9 * sizeof(int32_t);
    return there ? (const int32_t *)(const void *)data : NULL;
#endif
}

/* How the file asks to be shown. Its matrix moves (x, y), y downwards, to (a x + c y, b x + d y); other angles than quarter turns, to
 * a degree, are left as they are. */
static um_turn turn_of(const AVStream *st)
{
    const int32_t *m = display_matrix(st);
    if (m == NULL) return (um_turn){0};
    double a = m[0], b = m[1], c = m[3], d = m[4];
    bool mirrored = a * d - b * c < 0;
    if (mirrored) { /* the swap of left and right comes first; what is left is a turn */
        a = -a;
        b = -b;
    }
    double quarters = atan2(b, a) / acos(0);
    double nearest = round(quarters);
    if (fabs(quarters - nearest) > 1.0 / 90) return (um_turn){0};
    return (um_turn){.quarters = ((int)nearest + 4) % 4, .mirrored = mirrored};
}

/* What the packets' own times say. */
typedef struct span {
    double first,
        last; /* seconds: the earliest beginning of the frames, the latest end of all streams */
    int64_t packets;          /* of the stream that is read */
    double shortest, longest; /* of their durations but the last, which may be held */
    double sum, newest;       /* of those durations; the last one */
} span;

static void count_frame(span *s, double from, double shown)
{
    double before = s->newest;
    if (s->packets == 0 || from < s->first) s->first = from;
    if (s->packets > 0) {
        s->shortest = s->packets == 1 ? before : fmin(s->shortest, before);
        s->longest = fmax(s->longest, before);
        s->sum += before;
    }
    s->newest = shown;
    s->packets++;
}

/* Uses up the packets of all streams. */
static um_status measure(const video *c, span *out, um_err *err)
{
    const um_media_stream *m = &c->media;
    span s = {.last = -INFINITY};
    for (unsigned i = 0; i < m->format->nb_streams; i++)
        m->format->streams[i]->discard = AVDISCARD_DEFAULT;
    for (; av_read_frame(m->format, m->packet) >= 0; av_packet_unref(m->packet)) {
        const AVPacket *p = m->packet;
        double tick = av_q2d(m->format->streams[p->stream_index]->time_base);
        bool read = p->stream_index == m->stream->index;
        int64_t at = p->pts != AV_NOPTS_VALUE ? p->pts : p->dts;
        if (at == AV_NOPTS_VALUE) continue;
        double from = (double)at * tick, shown = (double)p->duration * tick;
        if (read && shown <= 0) shown = 1 / c->fps;
        s.last = fmax(s.last, from + shown);
        if (read) count_frame(&s, from, shown);
    }
    if (s.packets == 0) return UM_FAIL(err, UM_E_DATA, "no frame with a time in it");
    *out = s;
    return UM_OK;
}

/* Frames a second of GIF and APNG, whose frames have durations and no rate: their mean where they differ by rounding only, else the
 * shortest. libavformat's guess depends on its version. */
static double animation_fps(const span *s, double tick)
{
    bool even = s->longest - s->shortest < 1.5 * tick;
    bool held = s->packets > 1 && s->newest - s->longest > 1.5 * tick;
    if (!even) return 1 / fmax(s->shortest, tick);
    return held ? (double)(s->packets - 1) / s->sum : (double)s->packets / (s->sum + s->newest);
}

static bool is_format(const video *c, const char *name)
{
    return strncmp(c->media.format->iformat->name, name, strlen(name)) == 0;
}

/* Headers that do not tell the length: those written before it was known, and those of Matroska and MP4 files that begin late, whose length
 * may count from zero or not. Of GIF and APNG the frame rate is only in the durations of their frames. */
static bool must_measure(const video *c)
{
    const AVFormatContext *f = c->media.format;
    bool late = f->start_time != AV_NOPTS_VALUE && f->start_time > 0;
    if (f->duration <= 0 || f->duration_estimation_method == AVFMT_DURATION_FROM_BITRATE ||
        um_media_stream_unfinished(&c->media) || is_format(c, "gif") || is_format(c, "apng"))
        return true;
    return late && (is_format(c, "matroska") || is_format(c, "mov"));
}

/* Seconds from the first frame to the end of the file, its sound included, as the reference counts. */
static um_status lengths(video *c, um_err *err)
{
    const AVFormatContext *f = c->media.format;
    const AVStream *st = c->media.stream;
    AVRational rate = av_guess_frame_rate(c->media.format, c->media.stream, NULL);
    double tick = av_q2d(st->time_base);
    c->fps = rate.num > 0 && rate.den > 0 ? av_q2d(rate) : 25; /* as ffmpeg assumes */
    c->turn = turn_of(st);
    if (must_measure(c)) {
        span s = {0};
        UM_TRY(measure(c, &s, err));
        c->seconds = s.last - s.first;
        UM_TRY(complete(c, c->seconds, err));
        if (is_format(c, "gif") || is_format(c, "apng")) c->fps = animation_fps(&s, tick);
        um_media_stream_close(&c->media);
        UM_TRY(open_video(c, err));
    } else {
        double gap = 0; /* from the beginning of the file to the first frame */
        if (st->start_time != AV_NOPTS_VALUE && f->start_time != AV_NOPTS_VALUE)
            gap = (double)st->start_time * tick - (double)f->start_time / AV_TIME_BASE;
        c->seconds = (double)f->duration / AV_TIME_BASE;
        if (gap > GAP_LEAST && gap < c->seconds) c->seconds -= gap;
    }
    if (c->seconds > (double)c->limits.seconds)
        return UM_FAIL(err, UM_E_DATA, "%.1f s long, limit %" PRId64 " s", c->seconds,
                       c->limits.seconds);
    c->slack = fmin(0.5 * tick, 0.5 / c->fps) + 1e-6;
    /* lengths are kept cut off to whole ticks, or to microseconds */
    c->step = (int64_t)((c->seconds + fmin(tick, TICK_MOST) + 1e-6) * c->fps) / c->want;
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
