/* A media file in memory, opened with libavformat: nothing but these bytes is ever read, and only formats and codecs of the lists in
 * media_stream.c. Which format it is, its bytes say, never its name. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

enum { UM_MEDIA_STREAMS = 32 };

typedef struct um_media_stream {
    const uint8_t *bytes;
    size_t n, at;
    AVIOContext *io;
    AVFormatContext *format;
    AVStream *stream; /* the one that is read; packets of others are thrown away */
    AVCodecContext *codec;
    AVPacket *packet;
    AVFrame *frame;
    bool drained;         /* no packets are left, the decoder was told so */
    int64_t packets, bad; /* packets read, and those of them that did not decode */
} um_media_stream;

/* Opens the bytes and the decoder of the best stream of type (AVMEDIA_TYPE_AUDIO or _VIDEO). Images of more than max_pixels are
 * not decoded; a declared length beyond `seconds` is refused. um_media_stream_close in any case. */
um_status um_media_stream_open(um_media_stream *m, enum AVMediaType type, const uint8_t *bytes,
                               size_t n, int64_t max_pixels, int64_t seconds, um_err *err);
void um_media_stream_close(um_media_stream *m);

/* The next frame into m->frame; *more false at the end. Thread: one. */
um_status um_media_stream_next(um_media_stream *m, bool *more, um_err *err);

/* Goes to the last key frame that is shown at or before `at` (ticks of the stream); *key is its time. *there false: the file does not
 * lead there, and where the reading now stands is unknown. */
um_status um_media_stream_jump(um_media_stream *m, int64_t at, bool *there, int64_t *key,
                               um_err *err);
/* Whether a jump may lead past `now`: only files with an index of their key frames are asked. first: none was made so far. */
bool um_media_stream_may_jump(const um_media_stream *m, int64_t now, int64_t at, bool first);

/* Seconds that the stream's header declares, or < 0 where it does not say or only guesses. */
double um_media_stream_declared(const um_media_stream *m);
/* The header was written before the length was known: a live recording, or an AVI that went into a pipe. */
bool um_media_stream_unfinished(const um_media_stream *m);
/* All bytes that the headers of a Matroska or MP4 file announce are there. false: not so, or another format. */
bool um_media_stream_whole(const um_media_stream *m);
/* Samples of sound without those that an encoder added at the end, where an MP4 file says so; else -1. */
int64_t um_media_stream_samples(const um_media_stream *m);
