/* See sound_file.h. */
#include "encoder_worker/sandbox/sound_file.h"

#include "core/base/bytes.h"
#include "encoder_worker/sandbox/sound_chunk.h"

#include <sndfile.h>

#include <stdio.h>
#include <string.h>

enum { BLOCK = 4096 /* samples, of all channels together, that are read at a time */ };

struct um_sound_file {
    const uint8_t *bytes;
    size_t n;        /* of the whole file */
    size_t from, to; /* what libsndfile sees: all behind an ID3 tag, or one Ogg stream of a chain */
    size_t at;       /* where it reads, counted from `from` */
    SNDFILE *file;
    SF_INFO info;
    int64_t read;    /* frames of them so far */
    double declared; /* seconds; < 0: the header does not say */
    float block[BLOCK];
};

/* The marks of the formats that libsndfile may see: first bytes, and those at offset 8 where several formats share the first. It also
 * guesses at formats that have no mark; such files do not reach it. MP3 is libavformat's (ADR 10). */
static const struct {
    const char *first, *at8;
} marks[] = {
    {"RIFF", "WAVE"},
    {"RIFX", "WAVE"},
    {"RF64", "WAVE"},
    {"riff\x2e\x91\xcf\x11", NULL}, /* W64 */
    {"FORM", "AIFF"},
    {"FORM", "AIFC"},
    {"FORM", "8SVX"},
    {"FORM", "16SV"},
    {".snd", NULL},
    {"dns.", NULL},
    {"caff", NULL},
    {"fLaC", NULL},
    {"OggS", NULL},
    {"NIST_1A", NULL},
    {"Creative Voice File", NULL},
    {"PVF1\n", NULL},
    {" paf", NULL},
    {"fap ", NULL},
    {"2BIT", NULL},         /* AVR */
    {"\x64\xa3\x01", NULL}, /* IRCAM */
    {"\x64\xa3\x02", NULL},
    {"\x64\xa3\x03", NULL},
    {"\x64\xa3\x04", NULL},
};

static bool starts(const uint8_t *p, size_t n, const char *with)
{
    size_t k = strlen(with);
    return n >= k && memcmp(p, with, k) == 0;
}

/* MP3 without a bit rate in its frames ("free format"), which libavformat does not know. */
static bool free_mp3(const uint8_t *p, size_t n)
{
    return n >= 4 && p[0] == 0xff && (p[1] & 0xe6) == 0xe2 && (p[1] & 0x18) != 0x08 &&
           (p[2] & 0xfc) <= 0x08;
}

static bool marked(const uint8_t *p, size_t n)
{
    if (free_mp3(p, n)) return true;
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
        if (starts(p, n, marks[i].first) &&
            (marks[i].at8 == NULL || (n >= 12 && memcmp(p + 8, marks[i].at8, 4) == 0)))
            return true;
    return false;
}

/* Bytes of an ID3v2 tag in front of p: 10, and a size in four times seven bits. */
static size_t id3_bytes(const uint8_t *p, size_t n)
{
    size_t size = 0;
    if (n < 10 || memcmp(p, "ID3", 3) != 0) return 0;
    for (int i = 6; i < 10; i++) size = size << 7 | (p[i] & 0x7f);
    return size + 10 < n ? size + 10 : 0;
}

/* ---- libsndfile's view of the bytes from..to ---- */

static sf_count_t on_length(void *ctx)
{
    const um_sound_file *f = ctx;
    return (sf_count_t)(f->to - f->from);
}

static sf_count_t on_seek(sf_count_t to, int whence, void *ctx)
{
    um_sound_file *f = ctx;
    sf_count_t length = on_length(ctx);
    if (whence == SEEK_CUR) to += (sf_count_t)f->at;
    if (whence == SEEK_END) to += length;
    if (to < 0) return -1;
    f->at = (size_t)(to < length ? to : length);
    return (sf_count_t)f->at;
}

static sf_count_t on_read(void *to, sf_count_t count, void *ctx)
{
    um_sound_file *f = ctx;
    size_t left = f->to - f->from - f->at;
    size_t n = count < 0 ? 0 : (size_t)count < left ? (size_t)count : left;
    if (n > 0) memcpy(to, f->bytes + f->from + f->at, n);
    f->at += n;
    return (sf_count_t)n;
}

static sf_count_t on_write(const void *from, sf_count_t count, void *ctx)
{
    (void)from, (void)count, (void)ctx;
    return 0;
}

static sf_count_t on_tell(void *ctx) { return (sf_count_t)((const um_sound_file *)ctx)->at; }

/* Opens the bytes from..to; false: libsndfile does not read them. */
static bool open_part(um_sound_file *f)
{
    SF_VIRTUAL_IO io = {on_length, on_seek, on_read, on_write, on_tell};
    if (f->file != NULL) sf_close(f->file);
    f->info = (SF_INFO){0};
    f->at = 0;
    f->read = 0;
    f->file = sf_open_virtual(&io, SFM_READ, &f->info, f);
    return f->file != NULL && f->info.channels > 0 && f->info.samplerate > 0 && f->info.frames > 0;
}

/* ---- lengths ---- */

static bool has_length(const um_sound_file *f) { return f->info.frames < (sf_count_t)1 << 60; }

/* libsndfile cuts the length of the sound data down to what the file has; what its header says beyond that is added here. */
static double declared(const um_sound_file *f)
{
    um_sound_chunk c = {0};
    bool found = um_sound_chunk_find(&c, f->bytes + f->from, f->to - f->from);
    if (!has_length(f) || (found && c.open)) return -1;
    double seconds = (double)f->info.frames / f->info.samplerate;
    size_t have = f->to - f->from - c.at;
    if (found && have > 0 && c.size > have) seconds *= (double)c.size / (double)have;
    return seconds;
}

int um_sound_file_rate(const um_sound_file *f) { return f->info.samplerate; }

double um_sound_file_declared(const um_sound_file *f) { return f->declared; }

/* FLAC counts its samples; recorders of other formats miscount by a few bytes. */
double um_sound_file_slack(const um_sound_file *f)
{
    bool flac = (f->info.format & SF_FORMAT_TYPEMASK) == SF_FORMAT_FLAC;
    return flac ? 0.5 / f->info.samplerate : 0.05;
}

/* ---- opening, reading ---- */

static um_status refuse_by_name(const uint8_t *p, size_t n, um_err *err)
{
    enum { HEAD = 1024 };
    char head[HEAD + 1] = "";
    if (!starts(p, n, "NIST_1A")) return UM_OK;
    memcpy(head, p, n < HEAD ? n : HEAD);
    for (size_t i = 0; i < HEAD; i++)
        if (head[i] == '\0') head[i] = ' ';
    if (strstr(head, "shorten") != NULL || strstr(head, "shortpack") != NULL ||
        strstr(head, "wavpack") != NULL)
        return UM_FAIL(err, UM_E_DATA,
                       "NIST SPHERE file whose samples are compressed (shorten, shortpack or "
                       "wavpack): convert it, for example with sph2pipe");
    return UM_OK;
}

/* A file with the mark of a format that only libsndfile reads, or that libavformat mistakes for another, and that does not open. */
static um_status unreadable(const uint8_t *p, size_t n, um_err *err)
{
    if (starts(p, n, "RIFX"))
        return UM_FAIL(err, UM_E_DATA, "corrupt or cut off RIFX (big-endian WAV)");
    if (starts(p, n, "NIST_1A")) return UM_FAIL(err, UM_E_DATA, "corrupt or cut off NIST SPHERE");
    return UM_OK;
}

um_status um_sound_file_open(um_sound_file **out, const uint8_t *bytes, size_t n, um_arena *arena,
                             um_err *err)
{
    size_t from = id3_bytes(bytes, n);
    *out = NULL;
    if (n == 0 || !marked(bytes + from, n - from)) return UM_OK;
    if (um_ogg_opus_late(bytes + from, n - from)) return UM_OK;
    UM_TRY(refuse_by_name(bytes + from, n - from, err));
    if (!um_arena_reserve(arena, sizeof(um_sound_file) + 64))
        return UM_FAIL(err, UM_E_MEMORY, "it needs more memory than a decoder may have");
    um_sound_file *f = um_arena_zero(arena, sizeof *f);
    *f = (um_sound_file){.bytes = bytes, .n = n, .from = from};
    f->to = from + um_ogg_stream_bytes(bytes + from, n - from);
    if (!open_part(f)) {
        um_sound_file_close(f);
        return unreadable(bytes + from, n - from, err);
    }
    f->declared = f->to < n ? -1 : declared(f);
    *out = f;
    return UM_OK;
}

void um_sound_file_close(um_sound_file *f)
{
    if (f != NULL && f->file != NULL) sf_close(f->file);
}

/* The next Ogg stream of a chain. *more false: there is none, or what follows is none. */
static um_status next_part(um_sound_file *f, bool *more, um_err *err)
{
    *more = false;
    if (f->to == f->n) return UM_OK;
    f->from = f->to;
    f->to += um_ogg_stream_bytes(f->bytes + f->from, f->n - f->from);
    if (!starts(f->bytes + f->from, f->to - f->from, "OggS")) return UM_OK;
    if (!open_part(f))
        return UM_FAIL(err, UM_E_DATA,
                       "corrupt or cut off ogg: a stream of its chain cannot be read");
    *more = true;
    return UM_OK;
}

um_status um_sound_file_read(um_sound_file *f, float *mono, size_t room, size_t *n, int *rate,
                             um_err *err)
{
    for (bool more = true; more;) {
        int channels = f->info.channels;
        size_t want = (size_t)(BLOCK / channels);
        UM_ASSERT(want > 0); /* libsndfile reads at most 1,024 channels */
        if (want > room) want = room;
        /* not past the last one: tags behind it are no error */
        if ((sf_count_t)want > f->info.frames - f->read) want = (size_t)(f->info.frames - f->read);
        sf_count_t got = sf_readf_float(f->file, f->block, (sf_count_t)want);
        if (want > 0 && sf_error(f->file) != SF_ERR_NO_ERROR)
            return UM_FAIL(err, UM_E_DATA, "corrupt or cut off sound (%s)", sf_strerror(f->file));
        *rate = f->info.samplerate;
        *n = got > 0 ? (size_t)got : 0;
        f->read += (int64_t)*n;
        for (size_t i = 0; i < *n; i++) {
            float sum = 0;
            for (int c = 0; c < channels; c++) sum += f->block[i * (size_t)channels + (size_t)c];
            mono[i] = sum / (float)channels;
        }
        if (*n > 0) return UM_OK;
        UM_TRY(next_part(f, &more, err));
    }
    return UM_OK;
}
