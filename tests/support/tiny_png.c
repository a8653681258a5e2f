/* See tiny_png.h. */
#include "tests/support/tiny_png.h"

#include "core/base/status.h"

#include <string.h>

static void put(tiny_png *p, const void *data, size_t n)
{
    UM_ASSERT(p->n + n <= sizeof p->bytes);
    memcpy(p->bytes + p->n, data, n);
    p->n += n;
}

static void put_u32(tiny_png *p, uint32_t v) /* big-endian, as PNG has it */
{
    put(p, (uint8_t[]){(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v}, 4);
}

static uint32_t crc32_of(const uint8_t *data, size_t n)
{
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        c ^= data[i];
        for (int k = 0; k < 8; k++) c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
    }
    return ~c;
}

void tiny_png_chunk(tiny_png *p, const char *type, const uint8_t *data, size_t n)
{
    put_u32(p, (uint32_t)n);
    size_t from = p->n;
    put(p, type, 4);
    if (n > 0) put(p, data, n);
    put_u32(p, crc32_of(p->bytes + from, p->n - from));
}

void tiny_png_begin(tiny_png *p, uint32_t w, uint32_t h, int depth, int kind, bool interlaced)
{
    tiny_png head = {.n = 0};
    put_u32(&head, w);
    put_u32(&head, h);
    put(&head, (uint8_t[]){(uint8_t)depth, (uint8_t)kind, 0, 0, interlaced}, 5);
    p->n = 0;
    put(p, "\x89PNG\r\n\x1a\n", 8);
    tiny_png_chunk(p, "IHDR", head.bytes, head.n);
}

void tiny_png_rows(tiny_png *p, const uint8_t *rows, size_t n, size_t row_bytes)
{
    tiny_png raw = {.n = 0}, z = {.n = 0};
    if (row_bytes == 0) put(&raw, rows, n);
    for (size_t at = 0; row_bytes != 0 && at + row_bytes <= n; at += row_bytes) {
        put(&raw, "", 1);
        put(&raw, rows + at, row_bytes);
    }
    uint32_t a = 1, b = 0; /* adler-32 */
    for (size_t i = 0; i < raw.n; i++) {
        a = (a + raw.bytes[i]) % 65521;
        b = (b + a) % 65521;
    }
    uint16_t len = (uint16_t)raw.n, inv = (uint16_t)~len;
    put(&z,
        (uint8_t[]){0x78, 0x01, 0x01, (uint8_t)len, (uint8_t)(len >> 8), (uint8_t)inv,
                    (uint8_t)(inv >> 8)},
        7);
    put(&z, raw.bytes, raw.n);
    put_u32(&z, b << 16 | a);
    tiny_png_chunk(p, "IDAT", z.bytes, z.n);
}

void tiny_png_end(tiny_png *p) { tiny_png_chunk(p, "IEND", NULL, 0); }
