/* See media_stream.h. */
#include "encoder_worker/sandbox/media_stream.h"

#include "core/base/bytes.h"
#include "encoder_worker/sandbox/images/image_file.h"
#include "encoder_worker/sandbox/sound_chunk.h"
#include "encoder_worker/sandbox/wave_read.h"

#include <libavutil/avstring.h>
#include <libavutil/opt.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { IO_BYTES = 1 << 15 };

/* Containers that are read, by libavformat's names. None of them reads a second file. */
static const char *const formats[] = {"wav",
                                      "w64",
                                      "aiff",
                                      "au",
                                      "caf",
                                      "flac",
                                      "mp3",
                                      "aac",
                                      "ogg",
                                      "mov,mp4,m4a,3gp,3g2,mj2",
                                      "matroska,webm",
                                      "avi",
                                      "gif",
                                      "apng",
                                      "mpegts",
                                      "mpeg",
                                      "flv",
                                      "asf",
                                      "amr",
                                      "ac3",
                                      "voc"};

/* Decoders that are used, by libavcodec's names. */
static const char codecs[] =
    "pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,"
    "pcm_f64le,pcm_f64be,pcm_alaw,pcm_mulaw,adpcm_ms,adpcm_ima_wav,adpcm_ima_qt,g722,"
    "g726,gsm,gsm_ms,flac,alac,mp3float,"
    "mp3,mp2float,mp2,aac,vorbis,libopus,opus,speex,ac3,eac3,amrnb,amrwb,wmav1,wmav2,"
    "h264,hevc,vp8,vp9,libdav1d,mpeg4,mpeg2video,mpeg1video,h263,flv,msmpeg4,msmpeg4v2,wmv1,wmv2,"
    "wmv3,vc1,theora,mjpeg,prores,ffv1,huffyuv,ffvhuff,utvideo,qtrle,png,apng,gif,rawvideo";

static const char reads[] = "wav, aiff, flac, mp3, ogg, m4a, mp4, webm, mkv, avi and gif are read";

static int on_read(void *opaque, uint8_t *to, int room)
{
    um_media_stream *m = opaque;
    size_t left = m->n - m->at, n = left < (size_t)room ? left : (size_t)room;
    if (n == 0) return AVERROR_EOF;
    memcpy(to, m->bytes + m->at, n);
    m->at += n;
    return (int)n;
}

static int64_t on_seek(void *opaque, int64_t to, int whence)
{
    um_media_stream *m = opaque;
    whence &= ~AVSEEK_FORCE;
    if (whence == AVSEEK_SIZE) return (int64_t)m->n;
    if (whence == SEEK_CUR) to += (int64_t)m->at;
    if (whence == SEEK_END) to += (int64_t)m->n;
    if (to < 0 || to > (int64_t)m->n) return AVERROR(EINVAL);
    m->at = (size_t)to;
    return to;
}

/* What a file names is not opened. */
static int on_open(AVFormatContext *s, AVIOContext **io, const char *url, int flags,
                   AVDictionary **o)
{
    (void)s, (void)url, (void)flags, (void)o;
    *io = NULL;
    return AVERROR(EACCES);
}

/* rc of a libav* function as a status with a message. */
static um_status failed(um_err *err, int rc, const char *what)
{
    char why[AV_ERROR_MAX_STRING_SIZE] = "";
    if (rc == AVERROR(ENOMEM))
        return UM_FAIL(err, UM_E_MEMORY, "it needs more memory than a decoder may have");
    av_strerror(rc, why, sizeof why);
    return UM_FAIL(err, UM_E_DATA, "corrupt or cut off %s (%s)", what, why);
}

/* The format's name as people say it. */
static const char *said_of(const AVInputFormat *f)
{
    if (strncmp(f->name, "mov,", 4) == 0) return "mp4";
    if (strncmp(f->name, "matroska,", 9) == 0) return "webm";
    return f->name;
}

static const char *said(const um_media_stream *m) { return said_of(m->format->iformat); }

static um_status unknown(const um_media_stream *m, const char *format, um_err *err)
{
    const um_image_format *f = um_image_format_of(m->bytes, m->n);
    if (f != NULL && f->read != NULL)
        return UM_FAIL(err, UM_E_DATA, "%s image: %s as sound or video", f->name, reads);
    if (f != NULL && !f->sound_or_video)
        return UM_FAIL(err, UM_E_DATA, "%s: %s as sound or video", f->name, reads);
    if (format != NULL) return UM_FAIL(err, UM_E_DATA, "format \"%s\": only %s", format, reads);
    char first[3 * 8 + 1] = "";
    for (size_t i = 0; i < (m->n < 8 ? m->n : 8); i++)
        snprintf(first + 3 * i, 4, " %02x", m->bytes[i]);
    return UM_FAIL(err, UM_E_DATA, "no sound or video that is known (first bytes%s): %s", first,
                   reads);
}

static um_status probe(um_media_stream *m, const AVInputFormat **format, um_err *err)
{
    const AVInputFormat *f = NULL;
    if (m->n == 0) return UM_FAIL(err, UM_E_DATA, "empty: %s", reads);
    uint8_t *buffer = av_malloc(IO_BYTES);
    if (buffer != NULL) m->io = avio_alloc_context(buffer, IO_BYTES, 0, m, on_read, NULL, on_seek);
    if (m->io == NULL) {
        av_free(buffer);
        return failed(err, AVERROR(ENOMEM), "");
    }
    int rc = av_probe_input_buffer2(m->io, &f, NULL, NULL, 0, 0);
    if (rc == AVERROR(ENOMEM)) return failed(err, rc, "");
    if (rc < 0 || f == NULL) return unknown(m, NULL, err);
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        if (strcmp(f->name, formats[i]) != 0) continue;
        *format = f;
        return UM_OK;
    }
    return unknown(m, f->name, err);
}

/* Matroska counts a length from zero, even where the first packet comes later. */
static double late(const um_media_stream *m)
{
    int64_t start = m->format->start_time;
    bool counts = strcmp(said(m), "webm") == 0 && start != AV_NOPTS_VALUE && start > 0;
    return counts ? (double)start / AV_TIME_BASE : 0;
}

double um_media_stream_declared(const um_media_stream *m)
{
    const AVStream *st = m->stream;
    const AVCodecParameters *p = st->codecpar;
    um_sound_chunk c = {0};
    int bits = av_get_exact_bits_per_sample(p->codec_id);
    /* libavformat cuts the number down to what the file has */
    if (bits > 0 && p->ch_layout.nb_channels > 0 && p->sample_rate > 0 &&
        um_sound_chunk_find(&c, m->bytes, m->n) && !c.open)
        return (double)c.size * 8 / ((double)bits * p->ch_layout.nb_channels) / p->sample_rate;
    if (m->format->duration_estimation_method == AVFMT_DURATION_FROM_BITRATE) return -1;
    if (um_media_stream_unfinished(m)) return -1;
    if (strcmp(said(m), "ogg") == 0) return -1; /* taken from its last page: no declaration */
    if (st->duration != AV_NOPTS_VALUE && st->duration >= 0)
        return (double)st->duration * av_q2d(st->time_base) - late(m);
    /* the container's length is that of its longest stream */
    return m->format->nb_streams == 1 && m->format->duration > 0
               ? (double)m->format->duration / AV_TIME_BASE - late(m)
               : -1;
}

/* Samples of the sound by the tag in which iTunes keeps what its encoder added: "zero delay padding samples ...", in hexadecimal. */
static int64_t itunes_samples(const um_media_stream *m)
{
    const AVDictionaryEntry *e = av_dict_get(m->format->metadata, "iTunSMPB", NULL, 0);
    unsigned zero = 0, delay = 0, padding = 0;
    unsigned long long samples = 0;
    if (e == NULL || sscanf(e->value, "%x %x %x %llx", &zero, &delay, &padding, &samples) != 4)
        return -1;
    return samples > 0 && samples < (unsigned long long)1 << 40 ? (int64_t)samples : -1;
}

int64_t um_media_stream_samples(const um_media_stream *m)
{
    const AVStream *st = m->stream;
    int count = avformat_index_get_entries_count(st);
    if (strcmp(said(m), "mp4") != 0 || count < 2 || st->duration <= 0 ||
        st->codecpar->sample_rate <= 0)
        return -1;
    const AVIndexEntry *before = avformat_index_get_entry((AVStream *)st, count - 2),
                       *last = avformat_index_get_entry((AVStream *)st, count - 1);
    AVRational sample = {1, st->codecpar->sample_rate};
    int64_t frame = last->timestamp - before->timestamp, start = st->start_time;
    if (frame <= 0 || start == AV_NOPTS_VALUE) return -1;
    int64_t itunes = itunes_samples(m);
    int64_t kept = itunes > 0 ? av_rescale_q(itunes, sample, st->time_base) : st->duration;
    int64_t end = start + kept;
    /* an end elsewhere than in the last two packets is a header that is wrong */
    if (end <= before->timestamp || end >= last->timestamp + frame) return -1;
    return itunes > 0 ? itunes : av_rescale_q(kept, st->time_base, sample);
}

bool um_media_stream_unfinished(const um_media_stream *m)
{
    enum { HEAD = 52, RIFF_BYTES = 4, TOTAL_FRAMES = 48 };
    if (strcmp(said(m), "avi") != 0) return m->format->duration <= 0;
    if (m->n < HEAD || memcmp(m->bytes + 12, "LIST", 4) != 0) return false;
    uint32_t bytes = um_get_u32(m->bytes + RIFF_BYTES);
    return bytes == 0 || bytes == UINT32_MAX || um_get_u32(m->bytes + TOTAL_FRAMES) == 0;
}

static um_status length_ok(const um_media_stream *m, int64_t limit, um_err *err)
{
    double seconds = um_media_stream_declared(m);
    bool guessed = um_media_stream_unfinished(m);
    if (seconds < 0 && !guessed && m->format->duration > 0 &&
        m->format->duration_estimation_method != AVFMT_DURATION_FROM_BITRATE &&
        m->stream->codecpar->codec_type == AVMEDIA_TYPE_VIDEO)
        seconds = (double)m->format->duration / AV_TIME_BASE;
    if (seconds <= (double)limit) return UM_OK;
    return UM_FAIL(err, UM_E_DATA, "%.1f s long by its header, limit %" PRId64 " s", seconds,
                   limit);
}

static bool is_video(const AVStream *s)
{
    return s->codecpar->codec_type == AVMEDIA_TYPE_VIDEO &&
           (s->disposition & AV_DISPOSITION_ATTACHED_PIC) == 0;
}

/* The first stream of the type, else what there is instead. */
static um_status pick(um_media_stream *m, enum AVMediaType type, um_err *err)
{
    int sounds = 0, videos = 0, covers = 0;
    for (unsigned i = 0; i < m->format->nb_streams; i++) {
        AVStream *s = m->format->streams[i];
        bool sound = s->codecpar->codec_type == AVMEDIA_TYPE_AUDIO, video = is_video(s);
        bool fits = type == AVMEDIA_TYPE_AUDIO ? sound : video;
        if (fits && m->stream == NULL) m->stream = s;
        sounds += sound;
        videos += video;
        covers += !video && s->codecpar->codec_type == AVMEDIA_TYPE_VIDEO;
    }
    if (m->stream != NULL) return UM_OK;
    if (type == AVMEDIA_TYPE_AUDIO)
        return UM_FAIL(err, UM_E_DATA, "no sound in it (%d video streams)", videos);
    return UM_FAIL(err, UM_E_DATA, "no video in it (%d sound streams, %d cover images)", sounds,
                   covers);
}

static um_status sizes_ok(const um_media_stream *m, int64_t max_pixels, um_err *err)
{
    const AVCodecParameters *p = m->stream->codecpar;
    if (p->codec_type == AVMEDIA_TYPE_AUDIO && p->sample_rate > 0)
        return um_wave_rate_ok(p->sample_rate, err);
    if (p->codec_type != AVMEDIA_TYPE_VIDEO || p->width <= 0 || p->height <= 0) return UM_OK;
    return um_image_size(p->width, p->height, max_pixels, err);
}

/* Looks into the first packets for what headers leave out. The decoders that it opens for that are held to the limits too. */
static um_status look(um_media_stream *m, int64_t max_pixels, um_err *err)
{
    unsigned n = m->format->nb_streams;
    AVDictionary **options = av_calloc(n + 1, sizeof *options);
    int rc = options == NULL ? AVERROR(ENOMEM) : 0;
    for (unsigned i = 0; i < n && rc >= 0; i++)
        rc = av_dict_set_int(&options[i], "max_pixels", max_pixels, 0);
    if (rc >= 0) rc = avformat_find_stream_info(m->format, options);
    for (unsigned i = 0; i < n && options != NULL; i++) av_dict_free(&options[i]);
    av_free(options);
    return rc < 0 ? failed(err, rc, said(m)) : UM_OK;
}

static um_status open_format(um_media_stream *m, const AVInputFormat *format, um_err *err)
{
    m->format = avformat_alloc_context();
    if (m->format == NULL) return failed(err, AVERROR(ENOMEM), "");
    m->format->pb = m->io;
    m->format->flags |= AVFMT_FLAG_CUSTOM_IO;
    m->format->io_open = on_open;
    m->format->error_recognition |= AV_EF_CRCCHECK;
    m->format->codec_whitelist = av_strdup(codecs);
    m->format->protocol_whitelist = av_strdup("none");
    if (m->format->codec_whitelist == NULL || m->format->protocol_whitelist == NULL)
        return failed(err, AVERROR(ENOMEM), "");
    const char *name = said_of(format);
    int rc = avformat_open_input(&m->format, NULL, format, NULL); /* frees it when it fails */
    if (rc < 0) return failed(err, rc, name);
    if (m->format->nb_streams > UM_MEDIA_STREAMS)
        return UM_FAIL(err, UM_E_DATA, "%u streams, limit %d", m->format->nb_streams,
                       UM_MEDIA_STREAMS);
    return UM_OK;
}

/* Opus by libopus, as libsndfile reads it, where libavcodec was built with it; FFmpeg's own decoder differs audibly at low rates. */
static const AVCodec *decoder_for(enum AVCodecID id)
{
    const AVCodec *c = id == AV_CODEC_ID_OPUS ? avcodec_find_decoder_by_name("libopus") : NULL;
    return c != NULL ? c : avcodec_find_decoder(id);
}

static um_status open_codec(um_media_stream *m, int64_t max_pixels, um_err *err)
{
    const AVCodecParameters *p = m->stream->codecpar;
    const AVCodec *c = decoder_for(p->codec_id);
    if (c == NULL || av_match_list(c->name, codecs, ',') <= 0)
        return UM_FAIL(err, UM_E_DATA, "codec %s is not read: convert it",
                       avcodec_get_name(p->codec_id));
    m->codec = avcodec_alloc_context3(c);
    m->packet = av_packet_alloc();
    m->frame = av_frame_alloc();
    if (m->codec == NULL || m->packet == NULL || m->frame == NULL)
        return failed(err, AVERROR(ENOMEM), "");
    int rc = avcodec_parameters_to_context(m->codec, p);
    m->codec->pkt_timebase = m->stream->time_base;
    m->codec->thread_count = 1; /* threads cannot be made in the sandbox */
    m->codec->max_pixels = max_pixels;
    m->codec->request_sample_fmt = AV_SAMPLE_FMT_FLT; /* libopus has 16-bit integers too */
    m->codec->flags |= AV_CODEC_FLAG_BITEXACT;
    if (p->codec_id == AV_CODEC_ID_FLAC)
        m->codec->err_recognition |= AV_EF_CRCCHECK | AV_EF_EXPLODE;
    if (rc >= 0) rc = avcodec_open2(m->codec, c, NULL);
    return rc < 0 ? failed(err, rc, c->name) : UM_OK;
}

um_status um_media_stream_open(um_media_stream *m, enum AVMediaType type, const uint8_t *bytes,
                               size_t n, int64_t max_pixels, int64_t seconds, um_err *err)
{
    const AVInputFormat *format = NULL;
    *m = (um_media_stream){.bytes = bytes, .n = n};
    av_log_set_level(AV_LOG_QUIET);
    UM_TRY(probe(m, &format, err));
    UM_TRY(open_format(m, format, err));
    for (int looked = 0; looked < 2;
         looked++) { /* what the header says, before anything is decoded */
        m->stream = NULL;
        um_status st = pick(m, type, err);
        if (st == UM_OK) st = sizes_ok(m, max_pixels, err);
        if (st == UM_OK) st = length_ok(m, seconds, err);
        bool none_yet = m->stream == NULL && !looked; /* some formats tell their streams late */
        if (st != UM_OK && !none_yet) return st;
        if (!looked) UM_TRY(look(m, max_pixels, err));
    }
    if (m->format->nb_streams > UM_MEDIA_STREAMS)
        return UM_FAIL(err, UM_E_DATA, "%u streams, limit %d", m->format->nb_streams,
                       UM_MEDIA_STREAMS);
    for (unsigned i = 0; i < m->format->nb_streams; i++)
        if (m->format->streams[i] != m->stream) m->format->streams[i]->discard = AVDISCARD_ALL;
    return open_codec(m, max_pixels, err);
}

void um_media_stream_close(um_media_stream *m)
{
    avcodec_free_context(&m->codec);
    av_packet_free(&m->packet);
    av_frame_free(&m->frame);
    avformat_close_input(&m->format); /* leaves our io alone */
    if (m->io != NULL) av_freep(&m->io->buffer);
    avio_context_free(&m->io);
}

/* A packet that does not decode: fatal where every bit counts; lossy formats have junk between frames now and then, which players
 * pass over. */
static um_status bad_packet(um_media_stream *m, int rc, um_err *err)
{
    const AVCodecDescriptor *d = avcodec_descriptor_get(m->stream->codecpar->codec_id);
    bool lossless = d != NULL && (d->props & AV_CODEC_PROP_LOSSY) == 0;
    m->bad++;
    if (rc == AVERROR(ENOMEM)) return failed(err, rc, "");
    if (!lossless && (m->bad <= 4 || m->bad * 4 <= m->packets)) return UM_OK;
    return failed(err, rc, said(m));
}

/* The next packet of the stream into m->packet, or the end. */
static um_status next_packet(um_media_stream *m, um_err *err)
{
    int rc = 0;
    do {
        av_packet_unref(m->packet);
        rc = av_read_frame(m->format, m->packet);
    } while (rc >= 0 && m->packet->stream_index != m->stream->index);
    if (rc < 0 && rc != AVERROR_EOF) return failed(err, rc, said(m));
    m->drained = rc == AVERROR_EOF;
    m->packets += !m->drained;
    return UM_OK;
}

/* Gives the decoder that packet, or tells it that there is none. */
static um_status feed(um_media_stream *m, um_err *err)
{
    int rc = avcodec_send_packet(m->codec, m->drained ? NULL : m->packet);
    av_packet_unref(m->packet);
    return rc < 0 && rc != AVERROR_EOF ? bad_packet(m, rc, err) : UM_OK;
}

um_status um_media_stream_next(um_media_stream *m, bool *more, um_err *err)
{
    for (;;) {
        int rc = avcodec_receive_frame(m->codec, m->frame);
        *more = rc >= 0;
        if (rc >= 0 || rc == AVERROR_EOF) return UM_OK;
        if (rc != AVERROR(EAGAIN)) UM_TRY(bad_packet(m, rc, err));
        if (m->drained && rc != AVERROR(EAGAIN)) continue;
        if (m->drained) return UM_OK; /* a decoder that asks for more at the end has no more */
        UM_TRY(next_packet(m, err));
        UM_TRY(feed(m, err));
    }
}

/* Matroska and MP4: the end of the last element or box at the top, by its header, is within the file. */
static bool boxes_end(const um_media_stream *m)
{
    for (uint64_t at = 0; m->n - at >= 16;) {
        uint64_t size = (uint64_t)m->bytes[at] << 24 | (uint64_t)m->bytes[at + 1] << 16 |
                        (uint64_t)m->bytes[at + 2] << 8 | m->bytes[at + 3];
        if (size == 1)
            for (int i = 8; i < 16; i++) size = (size - (i == 8)) << 8 | m->bytes[at + (size_t)i];
        if (size == 0 || at + size == m->n) return true;
        if (size < 8 || size > m->n - at) return false;
        at += size;
    }
    return false;
}

/* A number of Matroska: the leading zeros of its first byte say how many bytes follow. 0: none, or one without a value. */
static size_t ebml_size(const uint8_t *p, size_t n, uint64_t *value)
{
    int more = 0;
    if (n == 0 || p[0] == 0) return 0;
    while ((p[0] & (0x80 >> more)) == 0) more++;
    if (n <= (size_t)more) return 0;
    *value = p[0] & (0x7fu >> more);
    for (int i = 1; i <= more; i++) *value = *value << 8 | p[i];
    bool unknown = *value == ((uint64_t)1 << (7 * (more + 1))) - 1;
    return unknown ? 0 : (size_t)more + 1;
}

static bool segment_ends(const um_media_stream *m)
{
    enum { NAME = 4 }; /* bytes of the names of both elements at the top */
    uint64_t size = 0;
    size_t head = m->n > NAME ? ebml_size(m->bytes + NAME, m->n - NAME, &size) : 0;
    if (head == 0 || size > m->n - NAME - head) return false;
    size_t at = NAME + head + (size_t)size;
    if (m->n - at <= NAME || memcmp(m->bytes + at, "\x18\x53\x80\x67", NAME) != 0) return false;
    at += NAME;
    head = ebml_size(m->bytes + at, m->n - at, &size);
    return head > 0 && size <= m->n - at - head;
}

bool um_media_stream_whole(const um_media_stream *m)
{
    const char *name = said(m);
    return strcmp(name, "mp4") == 0 ? boxes_end(m) : strcmp(name, "webm") == 0 && segment_ends(m);
}

bool um_media_stream_may_jump(const um_media_stream *m, int64_t now, int64_t at, bool first)
{
    const char *name = said(m);
    bool mp4 = strcmp(name, "mp4") == 0, webm = strcmp(name, "webm") == 0;
    if (!mp4 && !(webm && !first)) return webm; /* the index of a webm is read at the first jump */
    const AVIndexEntry *e =
        avformat_index_get_entry_from_timestamp(m->stream, at, AVSEEK_FLAG_BACKWARD);
    return e != NULL && e->timestamp > now;
}

um_status um_media_stream_jump(um_media_stream *m, int64_t at, bool *there, int64_t *key,
                               um_err *err)
{
    *there = false;
    if (av_seek_frame(m->format, m->stream->index, at, AVSEEK_FLAG_BACKWARD) < 0) return UM_OK;
    avcodec_flush_buffers(m->codec);
    UM_TRY(next_packet(m, err));
    const AVPacket *p = m->packet;
    if (m->drained || (p->flags & AV_PKT_FLAG_KEY) == 0 || p->pts == AV_NOPTS_VALUE || p->pts > at)
        return UM_OK;
    *there = true;
    *key = p->pts;
    return feed(m, err);
}
