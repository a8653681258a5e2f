/* Images: the bytes of a PNG, JPEG or WebP file to 8-bit RGB, first step of an image's way (bytes -> image -> pixels -> rows).
 *
 * The colours are those that the reference gets from PIL's convert("RGB"): alpha and transparency are dropped, never composited;
 * palettes are looked up (an index past the palette is black); 1, 2 and 4 bit gray is stretched to 0..255, 16-bit gray is
 * clipped at 255, 16-bit colour keeps the high byte; CMYK JPEGs are taken as inverted, as Adobe writes them. Gamma, colour
 * profiles and EXIF rotation are not applied, since the reference applies none.
 *
 * Strict: what is cut off, corrupt, animated or over a limit is an error, and the limits are checked before memory is asked for. */
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

/* The format that the first bytes tell ("PNG", "TIFF", ...), or NULL. */
const char *um_image_format(const uint8_t *bytes, size_t n);

/* For the decoders: checks the sides and the pixel count that a header claims; then makes room for the image. */
um_status um_image_size(int64_t w, int64_t h, int64_t max_pixels, um_err *err);
um_status um_image_new(um_image *out, int64_t w, int64_t h, int64_t max_pixels, um_arena *arena,
                       um_err *err);
/* The three decoders, each the one door to its library. */
um_status um_image_png(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                       um_arena *arena, um_err *err);
um_status um_image_jpeg(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                        um_arena *arena, um_err *err);
um_status um_image_webp(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                        um_arena *arena, um_err *err);
