/* See codec.h. The door to zstd. */
#include "proto/codec.h"

#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "core/tensor/dtype.h"
#include "proto/planes.h"

#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "rows travel as they lie in memory, which must be little-endian");

enum {
    BLOCK =
        65536, /* values per block of codec zstd: the exponents of a block fit the L1 and L2 caches */
    BLOCK_HEADER = 4, /* u24 bytes of zstd, u8 mode */
    FAST_LEVEL =
        -131072,       /* does not search for matches, so all exponents become Huffman literals */
    WORTH_TRYING = 64, /* values; with fewer, zstd's own headers outweigh the savings */
};
enum { MODE_STORED, MODE_PLANES };

struct um_codec {
    um_codec_id id;
    const um_planes *planes;
    ZSTD_CCtx *cctx; /* codec zstd only */
    ZSTD_DCtx *dctx; /* for every codec: the peer chooses the codec of a frame */
    uint8_t *exps;   /* [BLOCK] */
};

/* The functions of a codec. n > 0 in all of them. */
typedef struct codec_entry {
    const char *name;
    size_t (*bound)(size_t value_bytes, size_t n);
    size_t (*least)(size_t value_bytes, size_t n); /* lower bound of an encoding of n values */
    size_t (*encode)(um_codec *c, uint8_t *out, const uint8_t *src, um_dtype dtype, size_t n);
    um_status (*decode)(um_codec *c, uint8_t *dst, um_dtype dtype, size_t n, const uint8_t *buf,
                        size_t len, um_err *err);
} codec_entry;

static size_t value_bytes(um_dtype dtype)
{
    UM_ASSERT(dtype == UM_F32 || dtype == UM_BF16);
    return dtype == UM_F32 ? 4 : 2;
}

/* --- none --------------------------------------------------------------------------------------------------------------- */

static size_t none_size(size_t size, size_t n) { return size * n; }

static size_t none_encode(um_codec *c, uint8_t *out, const uint8_t *src, um_dtype dtype, size_t n)
{
    (void)c;
    size_t bytes = value_bytes(dtype) * n;
    memcpy(out, src, bytes);
    return bytes;
}

static um_status none_decode(um_codec *c, uint8_t *dst, um_dtype dtype, size_t n,
                             const uint8_t *buf, size_t len, um_err *err)
{
    (void)c;
    size_t bytes = value_bytes(dtype) * n;
    if (len != bytes)
        return UM_FAIL(err, UM_E_CORRUPT, "codec none: %zu bytes for %zu values, want %zu", len, n,
                       bytes);
    memcpy(dst, buf, bytes);
    return UM_OK;
}

/* --- zstd --------------------------------------------------------------------------------------------------------------- */

static size_t zstd_blocks(size_t n) { return (n + BLOCK - 1) / BLOCK; }
static size_t zstd_bound(size_t size, size_t n) { return zstd_blocks(n) * BLOCK_HEADER + size * n; }
/* Every block has at least one byte of zstd, and s-1 bytes of every value. */
static size_t zstd_least(size_t size, size_t n)
{
    return zstd_blocks(n) * (BLOCK_HEADER + 1) + (size - 1) * n;
}

static size_t block_store(uint8_t *out, const uint8_t *src, size_t bytes)
{
    um_put_u32(out, (uint32_t)MODE_STORED << 24);
    memcpy(out + BLOCK_HEADER, src, bytes);
    return BLOCK_HEADER + bytes;
}

static size_t block_encode(um_codec *c, uint8_t *out, const uint8_t *src, um_dtype dtype, size_t n)
{
    size_t size = value_bytes(dtype), rest = (size - 1) * n;
    if (n < WORTH_TRYING) return block_store(out, src, size * n);
    (dtype == UM_F32 ? c->planes->split_f32 : c->planes->split_bf16)(c->exps, out + BLOCK_HEADER,
                                                                     src, n);
    /* one byte less than a stored block: when zstd needs more it reports an error, and the block is stored */
    size_t used = ZSTD_compress2(c->cctx, out + BLOCK_HEADER + rest, n - 1, c->exps, n);
    if (ZSTD_isError(used)) return block_store(out, src, size * n);
    um_put_u32(out, (uint32_t)MODE_PLANES << 24 | (uint32_t)used);
    return BLOCK_HEADER + rest + used;
}

static size_t zstd_encode(um_codec *c, uint8_t *out, const uint8_t *src, um_dtype dtype, size_t n)
{
    size_t size = value_bytes(dtype), used = 0;
    for (size_t i = 0; i < n; i += BLOCK)
        used += block_encode(c, out + used, src + size * i, dtype, n - i < BLOCK ? n - i : BLOCK);
    return used;
}

/* Decodes one block of n values at the start of buf; *used is its length in bytes. The message says what is wrong; the caller adds
 * where. */
static um_status block_decode(um_codec *c, uint8_t *dst, um_dtype dtype, size_t n,
                              const uint8_t *buf, size_t len, size_t *used, um_err *err)
{
    size_t size = value_bytes(dtype), rest = (size - 1) * n;
    if (len < BLOCK_HEADER)
        return UM_FAIL(err, UM_E_CORRUPT, "%zu bytes, a block header has %d", len, BLOCK_HEADER);
    unsigned mode = buf[3];
    size_t zstd = um_get_u32(buf) & 0xFFFFFF, room = len - BLOCK_HEADER;
    const uint8_t *body = buf + BLOCK_HEADER;
    if (mode != MODE_STORED && mode != MODE_PLANES)
        return UM_FAIL(err, UM_E_CORRUPT, "mode %u, known are 0 and 1", mode);
    if (mode == MODE_STORED) {
        if (zstd != 0)
            return UM_FAIL(err, UM_E_CORRUPT, "%zu bytes of zstd in a stored block", zstd);
        if (room < size * n)
            return UM_FAIL(err, UM_E_CORRUPT, "%zu bytes, stored values take %zu", room, size * n);
        memcpy(dst, body, size * n);
        *used = BLOCK_HEADER + size * n;
        return UM_OK;
    }
    if (zstd == 0 || zstd >= n)
        return UM_FAIL(err, UM_E_CORRUPT, "%zu bytes of zstd for %zu exponents", zstd, n);
    if (room < rest + zstd)
        return UM_FAIL(err, UM_E_CORRUPT, "%zu bytes, planes take %zu", room, rest + zstd);
    size_t got = ZSTD_decompressDCtx(c->dctx, c->exps, n, body + rest, zstd);
    if (ZSTD_isError(got))
        return UM_FAIL(err, UM_E_CORRUPT, "exponents: %s", ZSTD_getErrorName(got));
    if (got != n) return UM_FAIL(err, UM_E_CORRUPT, "%zu exponents, want %zu", got, n);
    (dtype == UM_F32 ? c->planes->merge_f32 : c->planes->merge_bf16)(dst, c->exps, body, n);
    *used = BLOCK_HEADER + rest + zstd;
    return UM_OK;
}

static um_status zstd_decode(um_codec *c, uint8_t *dst, um_dtype dtype, size_t n,
                             const uint8_t *buf, size_t len, um_err *err)
{
    size_t size = value_bytes(dtype), at = 0;
    for (size_t i = 0; i < n; i += BLOCK) {
        size_t used = 0;
        um_status st = block_decode(c, dst + size * i, dtype, n - i < BLOCK ? n - i : BLOCK,
                                    buf + at, len - at, &used, err);
        if (st != UM_OK)
            return um_wrap(err, st, "codec zstd: block %zu at byte %zu", i / BLOCK, at);
        at += used;
    }
    if (at != len)
        return UM_FAIL(err, UM_E_CORRUPT, "codec zstd: %zu bytes for %zu values, they end at %zu",
                       len, n, at);
    return UM_OK;
}

/* --- the table ---------------------------------------------------------------------------------------------------------- */

static const codec_entry codecs[UM_CODECS] = {
    [UM_CODEC_NONE] = {"none", none_size, none_size, none_encode, none_decode},
    [UM_CODEC_ZSTD] = {"zstd", zstd_bound, zstd_least, zstd_encode, zstd_decode},
};

static void *zstd_alloc(void *opaque, size_t bytes)
{
    (void)opaque;
    return um_alloc_aligned(bytes);
}
static void zstd_free(void *opaque, void *p)
{
    (void)opaque;
    um_free(p);
}

static ZSTD_CCtx *encoder_new(int level)
{
    ZSTD_CCtx *z = ZSTD_createCCtx_advanced((ZSTD_customMem){zstd_alloc, zstd_free, NULL});
    if (z == NULL) return NULL;
    const int set[][2] = {
        {ZSTD_c_compressionLevel, level == 0 ? FAST_LEVEL : level},
        {ZSTD_c_literalCompressionMode,
         ZSTD_lcm_huffman}, /* fast levels would not compress literals */
        {ZSTD_c_format, ZSTD_f_zstd1_magicless},
        {ZSTD_c_contentSizeFlag, 0}, /* n is known from the block */
    };
    for (size_t i = 0; i < sizeof set / sizeof set[0]; i++) {
        size_t st = ZSTD_CCtx_setParameter(z, (ZSTD_cParameter)set[i][0], set[i][1]);
        UM_ASSERT(!ZSTD_isError(st));
        (void)st;
    }
    return z;
}

static ZSTD_DCtx *decoder_new(void)
{
    ZSTD_DCtx *z = ZSTD_createDCtx_advanced((ZSTD_customMem){zstd_alloc, zstd_free, NULL});
    if (z == NULL) return NULL;
    size_t st = ZSTD_DCtx_setParameter(z, ZSTD_d_format, ZSTD_f_zstd1_magicless);
    UM_ASSERT(!ZSTD_isError(st));
    (void)st;
    return z;
}

um_status um_codec_open(um_codec **out, um_codec_id id, int level, um_err *err)
{
    if ((unsigned)id >= UM_CODECS)
        return UM_FAIL(err, UM_E_USAGE, "codec %d, known are 0..%d", (int)id, UM_CODECS - 1);
    if (id == UM_CODEC_ZSTD && (level < ZSTD_minCLevel() || level > ZSTD_maxCLevel()))
        return UM_FAIL(err, UM_E_USAGE, "zstd level %d, allowed %d..%d", level, ZSTD_minCLevel(),
                       ZSTD_maxCLevel());
    um_codec *c = um_zalloc(sizeof *c);
    c->id = id;
    c->planes = um_planes_best();
    c->exps = um_alloc_aligned(BLOCK);
    c->dctx = decoder_new();
    if (id == UM_CODEC_ZSTD) c->cctx = encoder_new(level);
    if (c->dctx == NULL || (id == UM_CODEC_ZSTD && c->cctx == NULL)) {
        um_codec_close(c);
        return UM_FAIL(err, UM_E_MEMORY, "codec %s: zstd gives no context", codecs[id].name);
    }
    *out = c;
    return UM_OK;
}

void um_codec_close(um_codec *c)
{
    if (c == NULL) return;
    ZSTD_freeCCtx(c->cctx);
    ZSTD_freeDCtx(c->dctx);
    um_free(c->exps);
    um_free(c);
}

um_codec_id um_codec_id_of(const um_codec *c) { return c->id; }

int um_codec_from_name(const char *name)
{
    for (int i = 0; i < UM_CODECS; i++)
        if (strcmp(name, codecs[i].name) == 0) return i;
    return -1;
}

const char *um_codec_name(um_codec_id id)
{
    return (unsigned)id < UM_CODECS ? codecs[id].name : "unknown";
}

/* Ensures that size * n plus the block headers does not overflow. Frames are far smaller. */
static bool countable(size_t n) { return n <= SIZE_MAX / 16; }

size_t um_codec_bound(um_dtype dtype, size_t n)
{
    size_t most = 0;
    if (!countable(n)) return SIZE_MAX;
    for (int i = 0; n > 0 && i < UM_CODECS; i++) {
        size_t b = codecs[i].bound(value_bytes(dtype), n);
        if (b > most) most = b;
    }
    return most;
}

bool um_codec_plausible(um_codec_id id, um_dtype dtype, size_t n, size_t bytes)
{
    if (n == 0 || !countable(n)) return n == 0 && bytes == 0;
    return bytes >= codecs[id].least(value_bytes(dtype), n) &&
           bytes <= codecs[id].bound(value_bytes(dtype), n);
}

size_t um_codec_encode(um_codec *c, uint8_t *out, const void *src, um_dtype dtype, size_t n)
{
    return n == 0 ? 0 : codecs[c->id].encode(c, out, src, dtype, n);
}

um_status um_codec_decode(um_codec *c, um_codec_id id, void *dst, um_dtype dtype, size_t n,
                          const uint8_t *buf, size_t len, um_err *err)
{
    if ((unsigned)id >= UM_CODECS)
        return UM_FAIL(err, UM_E_CORRUPT, "codec %d, known are 0..%d", (int)id, UM_CODECS - 1);
    if (dtype != UM_F32 && dtype != UM_BF16)
        return UM_FAIL(err, UM_E_CORRUPT, "codec %s: dtype %d, want %d (f32) or %d (bf16)",
                       codecs[id].name, (int)dtype, UM_F32, UM_BF16);
    if (!um_codec_plausible(id, dtype, n, len))
        return UM_FAIL(err, UM_E_CORRUPT, "codec %s: %zu bytes cannot be %zu values",
                       codecs[id].name, len, n);
    return n == 0 ? UM_OK : codecs[id].decode(c, dst, dtype, n, buf, len, err);
}
