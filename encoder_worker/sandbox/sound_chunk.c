/* See sound_chunk.h. */
#include "encoder_worker/sandbox/sound_chunk.h"

#include "core/base/bytes.h"
#include "core/base/status.h"

#include <string.h>

/* Formats that are a row of chunks: name, size, content, padding. */
typedef struct layout {
    char mark[5], at8[5]; /* the first bytes, and those at offset 8; "" = any */
    uint8_t head;         /* bytes before the first chunk */
    uint8_t name, size;   /* bytes of a chunk's name and of its size */
    uint8_t align;        /* chunks begin at multiples of it */
    bool big;             /* the size is big-endian */
    bool whole;           /* the size counts name and size too */
    char data[5];         /* name of the chunk of samples */
    uint8_t skip;         /* bytes at its beginning that are not samples */
} layout;

static const layout layouts[] = {
    {"RIFF", "WAVE", 12, 4, 4, 2, false, false, "data", 0},
    {"RIFX", "WAVE", 12, 4, 4, 2, true, false, "data", 0},
    {"RF64", "WAVE", 12, 4, 4, 2, false, false, "data", 0},
    {"riff", "", 40, 16, 8, 8, false, true, "data", 0},
    {"FORM", "AIFF", 12, 4, 4, 2, true, false, "SSND", 8},
    {"FORM", "AIFC", 12, 4, 4, 2, true, false, "SSND", 8},
    {"caff", "", 8, 4, 8, 1, true, false, "data", 4},
};

static uint64_t number(const uint8_t *p, int bytes, bool big)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++) v = v << 8 | p[big ? i : bytes - 1 - i];
    return v;
}

/* A length that nobody has counted. */
static bool is_open(uint64_t size, int bytes, size_t n)
{
    if (size == 0 || size == UINT64_MAX) return true;
    return bytes == 4 && size >= 0x7ffff000 && size > n;
}

static bool find_chunk(um_sound_chunk *out, const layout *l, const uint8_t *bytes, size_t n)
{
    size_t lead = (size_t)l->name + l->size;
    uint64_t wide = 0; /* RF64: the length of "data" stands in "ds64" */
    for (size_t at = l->head; at < n && n - at >= lead;) {
        uint64_t size = number(bytes + at + l->name, l->size, l->big);
        const uint8_t *content = bytes + at + lead;
        size_t left = n - at - lead;
        if (l->whole && size >= lead) size -= lead;
        if (memcmp(bytes + at, "ds64", 4) == 0 && left >= 16) wide = um_get_u64(content + 8);
        if (memcmp(bytes + at, l->data, 4) == 0) {
            if (size == UINT32_MAX && wide > 0) size = wide;
            bool open = is_open(size, l->size, n);
            size_t skip = l->skip < left ? l->skip : left;
            *out = (um_sound_chunk){.at = n - left + skip,
                                    .size = open || size < skip ? size : size - skip,
                                    .open = open};
            return true;
        }
        if (size > left) return false;
        at = um_round_up(n - left + (size_t)size, l->align);
    }
    return false;
}

/* AU: mark, offset of the samples, their bytes. */
static bool find_au(um_sound_chunk *out, const uint8_t *bytes, size_t n)
{
    bool big = memcmp(bytes, ".snd", 4) == 0;
    if ((!big && memcmp(bytes, "dns.", 4) != 0) || n < 24) return false;
    uint64_t at = number(bytes + 4, 4, big), size = number(bytes + 8, 4, big);
    if (at > n) return false;
    *out = (um_sound_chunk){.at = (size_t)at, .size = size, .open = is_open(size, 4, n)};
    return true;
}

bool um_sound_chunk_find(um_sound_chunk *out, const uint8_t *bytes, size_t n)
{
    if (n < 12) return false;
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        const layout *l = &layouts[i];
        if (memcmp(bytes, l->mark, 4) == 0 &&
            (l->at8[0] == '\0' || memcmp(bytes + 8, l->at8, 4) == 0))
            return find_chunk(out, l, bytes, n);
    }
    return find_au(out, bytes, n);
}

/* An Ogg page: 27 bytes ("OggS", version, flags, clock (u64) at 6, ...), a count of segments at 26, their lengths, the segments. */
typedef struct page {
    const uint8_t *head;
    const uint8_t *content;
    size_t bytes; /* of head and content */
} page;

static bool page_at(page *out, const uint8_t *bytes, size_t n, size_t at)
{
    enum { HEAD = 27 };
    if (n - at < HEAD || memcmp(bytes + at, "OggS", 4) != 0) return false;
    size_t segments = bytes[at + 26], size = HEAD + segments;
    if (n - at < size) return false;
    for (size_t i = 0; i < segments; i++) size += bytes[at + HEAD + i];
    if (n - at < size) return false;
    *out = (page){bytes + at, bytes + at + HEAD + segments, size};
    return true;
}

/* Flag 2: the first page of a stream. All first pages of one file stand before its other pages. */
size_t um_ogg_stream_bytes(const uint8_t *bytes, size_t n)
{
    bool others = false;
    page p = {0};
    for (size_t at = 0; page_at(&p, bytes, n, at); at += p.bytes) {
        bool first = (p.head[5] & 2) != 0;
        if (first && others) return at;
        others |= !first;
    }
    return n;
}

/* Samples at 48 kHz of an Opus packet (RFC 6716, 3.1): its first byte names the length of its frames and how many there are. */
static int64_t opus_samples(const uint8_t *p, size_t n)
{
    static const int celt[] = {120, 240, 480, 960}, silk[] = {480, 960, 1920, 2880};
    if (n == 0) return 0;
    int mode = p[0] >> 3, count = p[0] & 3;
    int frame = mode >= 16 ? celt[mode & 3] : mode >= 12 ? silk[mode & 1] : silk[mode & 3];
    return frame * (count == 0 ? 1 : count < 3 ? 2 : n > 1 ? p[1] & 0x3f : 0);
}

bool um_ogg_opus_late(const uint8_t *bytes, size_t n)
{
    page p = {0};
    size_t at = 0;
    for (int i = 0; page_at(&p, bytes, n, at); i++, at += p.bytes) {
        if (i == 0 && (p.bytes < 36 || memcmp(p.content, "OpusHead", 8) != 0)) return false;
        uint64_t clock = um_get_u64(p.head + 6);
        if (i < 2 || clock == 0 || clock > INT64_MAX) continue; /* headers; no packet ends here */
        int64_t samples = 0;
        size_t packet = 0, from = 0;
        for (size_t s = 0; s < p.head[26]; s++) {
            packet += p.head[27 + s];
            if (p.head[27 + s] == 255) continue; /* goes on in the next segment */
            samples += opus_samples(p.content + from, packet);
            from += packet;
            packet = 0;
        }
        return (int64_t)clock > samples;
    }
    return false;
}
