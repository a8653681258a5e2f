/* Which way up an image is meant to be: EXIF orientation, found and applied. Nothing here decodes pixels. */
#include "encoder_worker/sandbox/images/image_file.h"

#include "core/base/bytes.h"

#include <string.h>

/* ---- turning ---- */

/* Orientation o of EXIF as three steps: rows become columns, then left and right, then top and bottom change places. */
static bool rows_to_columns(int o) { return o >= 5; }
static bool mirrored(int o) { return o == 2 || o == 3 || o == 6 || o == 7; }
static bool upside_down(int o) { return o == 3 || o == 4 || o == 7 || o == 8; }

um_status um_image_turn(um_image *p, int orientation, um_arena *arena, um_err *err)
{
    if (orientation < 2 || orientation > 8) return UM_OK;
    size_t w = (size_t)p->w, h = (size_t)p->h, bytes = w * h * 3;
    um_mark mark = um_arena_mark(arena);
    if (!um_arena_reserve(arena, bytes))
        return UM_FAIL(err, UM_E_MEMORY, "no memory to turn %d x %d pixels", p->w, p->h);
    uint8_t *from = um_arena_alloc(arena, bytes);
    memcpy(from, p->rgb, bytes);
    bool swap = rows_to_columns(orientation);
    size_t W = swap ? h : w, H = swap ? w : h;
    for (size_t y = 0; y < H; y++)
        for (size_t x = 0; x < W; x++) {
            size_t u = mirrored(orientation) ? W - 1 - x : x;
            size_t v = upside_down(orientation) ? H - 1 - y : y;
            size_t at = swap ? um_at(u, v, w) : um_at(v, u, w);
            memcpy(p->rgb + um_at(y, x, W) * 3, from + at * 3, 3);
        }
    p->w = (int)W;
    p->h = (int)H;
    um_arena_reset(arena, mark);
    return UM_OK;
}

/* ---- EXIF data ---- */

static uint32_t number(const uint8_t *p, int bytes, bool big)
{
    uint32_t v = 0;
    for (int i = 0; i < bytes; i++) v = v << 8 | p[big ? i : bytes - 1 - i];
    return v;
}

int um_exif_orientation(const uint8_t *exif, size_t n)
{
    enum { HEAD = 8, ENTRY = 12, TAG = 0x112, BYTE = 1, SHORT = 3, LONG = 4 };
    if (n >= 6 && memcmp(exif, "Exif\0\0", 6) == 0) {
        exif += 6;
        n -= 6;
    }
    if (n < HEAD || (memcmp(exif, "II*\0", 4) != 0 && memcmp(exif, "MM\0*", 4) != 0)) return 0;
    bool big = exif[0] == 'M';
    size_t at = number(exif + 4, 4, big);
    if (at > n || n - at < 2) return 0;
    size_t entries = number(exif + at, 2, big);
    at += 2;
    for (size_t i = 0; i < entries && n - at >= ENTRY; i++, at += ENTRY) {
        uint32_t type = number(exif + at + 2, 2, big);
        int size = type == SHORT ? 2 : type == LONG ? 4 : type == BYTE ? 1 : 0;
        if (number(exif + at, 2, big) != TAG || size == 0 || number(exif + at + 4, 4, big) != 1)
            continue;
        uint32_t v = number(exif + at + 8, size, big);
        return v <= 8 ? (int)v : 0;
    }
    return 0;
}

/* ---- where files keep it ---- */

/* The last segment APP1 with EXIF data in front of the pixels. */
static int of_jpeg(const uint8_t *bytes, size_t n)
{
    int found = 0;
    for (size_t at = 2; n - at >= 4;) {
        if (bytes[at] != 0xff || bytes[at + 1] == 0xff || bytes[at + 1] == 0) {
            at++;
            continue;
        }
        uint8_t marker = bytes[at + 1];
        size_t length = (size_t)bytes[at + 2] << 8 | bytes[at + 3];
        if (marker == 0xda || length < 2 || length > n - at - 2) break;
        if (marker == 0xe1 && length >= 8 && memcmp(bytes + at + 4, "Exif\0", 5) == 0)
            found = um_exif_orientation(bytes + at + 4, length - 2);
        at += 2 + length;
    }
    return found;
}

/* tiff:Orientation="6" or <tiff:Orientation>6 in XMP. */
static int of_xmp(const uint8_t *text, size_t n)
{
    static const char key[] = "tiff:Orientation";
    size_t k = sizeof key - 1;
    for (size_t i = 0; i + k + 2 < n; i++) {
        if (memcmp(text + i, key, k) != 0) continue;
        size_t at = i + k;
        if (text[at] == '>')
            at++;
        else if (at + 2 < n && memcmp(text + at, "=\"", 2) == 0)
            at += 2;
        else
            continue;
        if (text[at] >= '0' && text[at] <= '9') return text[at] - '0';
    }
    return 0;
}

static int of_png(const uint8_t *bytes, size_t n)
{
    enum { MAGIC = 8, KEY = 17 };
    int exif = 0, xmp = 0;
    for (size_t at = MAGIC; at <= n && n - at >= 8;) {
        size_t length = number(bytes + at, 4, true);
        const uint8_t *name = bytes + at + 4, *data = bytes + at + 8;
        if (length > n - at - 8) break;
        if (memcmp(name, "eXIf", 4) == 0) exif = um_exif_orientation(data, length);
        if (memcmp(name, "iTXt", 4) == 0 && length > KEY &&
            memcmp(data, "XML:com.adobe.xmp", KEY) == 0)
            xmp = of_xmp(data + KEY, length - KEY);
        at += 8 + length + 4;
    }
    return exif > 0 ? exif : xmp;
}

static int of_webp(const uint8_t *bytes, size_t n)
{
    enum { HEAD = 12 };
    for (size_t at = HEAD; at <= n && n - at >= 8;) {
        size_t length = um_get_u32(bytes + at + 4);
        if (length > n - at - 8) break;
        if (memcmp(bytes + at, "EXIF", 4) == 0) return um_exif_orientation(bytes + at + 8, length);
        at += 8 + length + (length & 1);
    }
    return 0;
}

um_status um_image_orient(um_image *p, const uint8_t *bytes, size_t n, um_arena *arena, um_err *err)
{
    const um_image_format *f = um_image_format_of(bytes, n);
    int orientation = 0;
    if (f == NULL) return UM_OK;
    if (f->read == um_image_jpeg) orientation = of_jpeg(bytes, n);
    if (f->read == um_image_png) orientation = of_png(bytes, n);
    if (f->read == um_image_webp) orientation = of_webp(bytes, n);
    if (f->read == um_image_avif) orientation = um_avif_orientation(bytes, n);
    return um_image_turn(p, orientation, arena, err);
}
