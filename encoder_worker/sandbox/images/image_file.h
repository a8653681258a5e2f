/* Images: the bytes of a file to 8-bit RGB, first step of an image's way (bytes -> image -> pixels -> rows). The bytes say which
 * format it is, never the name: datasets have GIFs called .jpg.
 *
 * The colours are those that the reference gets from PIL's convert("RGB"): alpha and transparency are dropped, never composited;
 * palettes are looked up (an index past the palette is black); 1, 2 and 4 bit gray is stretched to 0..255, 16-bit gray is
 * clipped at 255, 16-bit colour keeps the high byte; CMYK JPEGs are taken as inverted, as Adobe writes them. Gamma and colour
 * profiles are not applied, since the reference applies none; of an animation the first frame is read. A TIFF is turned by its
 * orientation, as PIL 10 does; other files only when um_image_orient is called.
 *
 * Strict: what is cut off, corrupt or over a limit is an error, and the limits are checked before memory is asked for. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "encoder_worker/frontend/image.h"

enum { UM_IMAGE_SIDE = 65535 }; /* most pixels of a side */

/* Decodes n bytes; the first of them say which format it is. At most max_pixels (w*h) are accepted. UM_E_DATA says what was wrong,
 * UM_E_MEMORY that there was no room. Memory: arena (rgb, and while decoding up to 8 more bytes a pixel); on error nothing is
 * kept. Thread: any. */
um_status um_image_read(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                        um_arena *arena, um_err *err);
/* The same; messages begin with "image name: ". */
um_status um_image_decode(um_image *out, const char *name, const uint8_t *bytes, size_t n,
                          int64_t max_pixels, um_arena *arena, um_err *err);

/* Turns an image that was read from these bytes as their EXIF data say, as PIL's ImageOps.exif_transpose does: JPEG, PNG (eXIf, or
 * XMP), WebP, and AVIF (irot and imir, else EXIF). Without such data the image stays as it is. Memory: arena, given back. */
um_status um_image_orient(um_image *p, const uint8_t *bytes, size_t n, um_arena *arena,
                          um_err *err);

/* ---- formats (image_format.c) ---- */

typedef um_status um_image_reader(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                                  um_arena *arena, um_err *err);

typedef struct um_image_format {
    const char *name;      /* "PNG", "TIFF", "ZIP archive", ... */
    um_image_reader *read; /* NULL: it is not read */
    const char *remedy;    /* then: what to do about it */
    bool sound_or_video;
} um_image_format;

/* What the first bytes tell, or NULL. */
const um_image_format *um_image_format_of(const uint8_t *bytes, size_t n);

/* ---- for the decoders ---- */

/* Checks the sides and the pixel count that a header claims; then makes room for the image. */
um_status um_image_size(int64_t w, int64_t h, int64_t max_pixels, um_err *err);
um_status um_image_new(um_image *out, int64_t w, int64_t h, int64_t max_pixels, um_arena *arena,
                       um_err *err);
/* rgb [n,3] of cmyk [n,4] by PIL's formula. flip: 255 where 255 stands for no ink, else 0. */
void um_image_cmyk(uint8_t *rgb, const uint8_t *cmyk, int n, uint8_t flip);
/* Turns an image by an EXIF orientation, 1..8; others leave it as it is. Memory: arena, given back. */
um_status um_image_turn(um_image *p, int orientation, um_arena *arena, um_err *err);
/* The orientation that a block of EXIF data (a small TIFF, perhaps behind "Exif\0\0") names; 0 when it names none. */
int um_exif_orientation(const uint8_t *exif, size_t n);
/* That of an AVIF file, by its properties irot and imir, else by its EXIF data. */
int um_avif_orientation(const uint8_t *bytes, size_t n);

/* The decoders, each the one door to its library. */
um_image_reader um_image_png, um_image_jpeg, um_image_webp, um_image_gif, um_image_tiff,
    um_image_avif;
/* By FFmpeg (image_ffmpeg.c). */
um_image_reader um_image_bmp, um_image_tga, um_image_pnm, um_image_pcx, um_image_qoi, um_image_sgi,
    um_image_jpeg2000;
/* A list of PNG and BMP images, of which the largest is read. */
um_image_reader um_image_ico;
