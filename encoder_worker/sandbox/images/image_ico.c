/* Icons (ICO): a list of images of several sizes, each a whole PNG or a BMP without its file header. As PIL, the largest is read, of
 * equal ones that with most colours; the mask is dropped like any alpha. */
#include "encoder_worker/sandbox/images/image_file.h"

#include "core/base/bytes.h"

#include <string.h>

enum { HEAD = 6, ENTRY = 16, BMP_FILE = 14, DIB = 40 };

/* The entry to read: 16 bytes {w, h, colours, 0, planes, bits, bytes, offset}; a side of 0 is 256. */
static const uint8_t *best_entry(const uint8_t *bytes, size_t n)
{
    const uint8_t *best = NULL;
    long best_area = 0;
    int best_bits = 0, count = um_get_u16(bytes + 4);
    for (int i = 0; i < count && n >= HEAD + ((size_t)i + 1) * ENTRY; i++) {
        const uint8_t *e = bytes + HEAD + (size_t)i * ENTRY;
        long area = (e[0] > 0 ? e[0] : 256L) * (e[1] > 0 ? e[1] : 256L);
        int bits = um_get_u16(e + 6);
        if (best != NULL && (area < best_area || (area == best_area && bits <= best_bits)))
            continue;
        best = e;
        best_area = area;
        best_bits = bits;
    }
    return best;
}

/* Puts a file header in front of the BMP and halves its height, which counts the mask too. */
static um_status read_bmp(um_image *out, const uint8_t *dib, size_t n, int64_t max_pixels,
                          um_arena *arena, um_err *err)
{
    if (n < DIB || um_get_u32(dib) != DIB) return UM_FAIL(err, UM_E_DATA, "corrupt icon: bad BMP");
    uint16_t bits = um_get_u16(dib + 14);
    uint32_t colours = um_get_u32(dib + 32), height = um_get_u32(dib + 8);
    if (bits > 8) colours = 0;
    if (bits <= 8 && (colours == 0 || colours > 256)) colours = 1u << bits;
    UM_TRY(um_image_size((int32_t)um_get_u32(dib + 4), (int32_t)height / 2, max_pixels, err));
    if (!um_arena_reserve(arena, 2 * n + BMP_FILE))
        return UM_FAIL(err, UM_E_MEMORY, "no memory for an icon");
    uint8_t *file = um_arena_zero(arena, n + BMP_FILE);
    memcpy(file, "BM", 2);
    um_put_u32(file + 2, (uint32_t)(n + BMP_FILE));
    um_put_u32(file + 10, BMP_FILE + DIB + 4 * colours);
    memcpy(file + BMP_FILE, dib, n);
    um_put_u32(file + BMP_FILE + 8, height / 2);
    return um_image_bmp(out, file, n + BMP_FILE, max_pixels, arena, err);
}

um_status um_image_ico(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                       um_arena *arena, um_err *err)
{
    const uint8_t *e = n > HEAD ? best_entry(bytes, n) : NULL;
    if (e == NULL) return UM_FAIL(err, UM_E_DATA, "corrupt icon: no image in it");
    size_t length = um_get_u32(e + 8), offset = um_get_u32(e + 12);
    if (offset > n || length > n - offset || length < 8)
        return UM_FAIL(err, UM_E_DATA, "corrupt icon: the file is cut off");
    if (memcmp(bytes + offset, "\x89PNG", 4) == 0)
        return um_image_png(out, bytes + offset, length, max_pixels, arena, err);
    return read_bmp(out, bytes + offset, length, max_pixels, arena, err);
}
