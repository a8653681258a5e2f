/* AVIF to RGB: the one door to libavif, which decodes with dav1d here. Alpha is dropped; of a sequence the first image is read. */
#include "encoder_worker/sandbox/images/image_file.h"

#include <avif/avif.h>

#include <stddef.h>
#include <string.h>

static um_status failed(const avifDecoder *d, avifResult code, um_err *err)
{
    if (code == AVIF_RESULT_OUT_OF_MEMORY)
        return UM_FAIL(err, UM_E_MEMORY, "no memory for an AVIF");
    if (code == AVIF_RESULT_NO_CODEC_AVAILABLE)
        return UM_FAIL(err, UM_E_DATA,
                       "AVIF: this machine's libavif is built without dav1d; convert it to PNG");
    if (code == AVIF_RESULT_TRUNCATED_DATA)
        return UM_FAIL(err, UM_E_DATA, "corrupt AVIF: the file is cut off");
    return UM_FAIL(err, UM_E_DATA, "corrupt AVIF: %s%s%s", avifResultToString(code),
                   d->diag.error[0] != '\0' ? ": " : "", d->diag.error);
}

/* The header only. *out is to be destroyed in any case, if it is not NULL. */
static avifResult open_avif(avifDecoder **out, const uint8_t *bytes, size_t n)
{
    avifDecoder *d = avifDecoderCreate();
    *out = d;
    if (d == NULL) return AVIF_RESULT_OUT_OF_MEMORY;
    d->maxThreads = 1; /* threads cannot be made in the sandbox */
    d->codecChoice = AVIF_CODEC_CHOICE_DAV1D;
    d->imageDimensionLimit = UM_IMAGE_SIDE;
    d->imageCountLimit = 0;
    /* as Pillow reads AVIF: encoders leave out pixi, and write a clap that does not fit */
    d->strictFlags &= ~(avifStrictFlags)(AVIF_STRICT_CLAP_VALID | AVIF_STRICT_PIXI_REQUIRED);
    avifResult code = avifDecoderSetIOMemory(d, bytes, n);
    return code == AVIF_RESULT_OK ? avifDecoderParse(d) : code;
}

/* To 8-bit RGB (3 samples a pixel), or RGBA (4). */
static um_status convert(avifDecoder *d, uint8_t *to, uint32_t samples, int w, um_err *err)
{
    avifRGBImage rgb;
    avifRGBImageSetDefaults(&rgb, d->image);
    rgb.format = samples == 3 ? AVIF_RGB_FORMAT_RGB : AVIF_RGB_FORMAT_RGBA;
    rgb.ignoreAlpha = samples == 3;
    rgb.depth = 8;
    rgb.pixels = to;
    rgb.rowBytes = (uint32_t)w * samples;
    avifResult code = avifImageYUVToRGB(d->image, &rgb);
    return code == AVIF_RESULT_OK ? UM_OK : failed(d, code, err);
}

/* An image with alpha: libavif gives its colours as they are only together with alpha; alone they would lie on black. */
static um_status convert_with_alpha(um_image *out, avifDecoder *d, um_arena *arena, um_err *err)
{
    size_t n = (size_t)out->w * (size_t)out->h;
    um_mark mark = um_arena_mark(arena);
    if (!um_arena_reserve(arena, n * 4)) return UM_FAIL(err, UM_E_MEMORY, "no memory for an AVIF");
    uint8_t *rgba = um_arena_alloc(arena, n * 4);
    UM_TRY(convert(d, rgba, 4, out->w, err));
    for (size_t i = 0; i < n; i++) memcpy(out->rgb + 3 * i, rgba + 4 * i, 3);
    um_arena_reset(arena, mark);
    return UM_OK;
}

static um_status read_image(um_image *out, avifDecoder *d, int64_t max_pixels, um_arena *arena,
                            um_err *err)
{
    UM_TRY(um_image_new(out, d->image->width, d->image->height, max_pixels, arena, err));
    avifResult code = avifDecoderNextImage(d);
    if (code != AVIF_RESULT_OK) return failed(d, code, err);
    if ((int64_t)d->image->width != out->w || (int64_t)d->image->height != out->h)
        return UM_FAIL(err, UM_E_DATA, "corrupt AVIF: its pixels are not of the size it says");
    return d->image->alphaPlane != NULL ? convert_with_alpha(out, d, arena, err)
                                        : convert(d, out->rgb, 3, out->w, err);
}

um_status um_image_avif(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                        um_arena *arena, um_err *err)
{
    avifDecoder *d = NULL;
    um_image p = {0};
    avifResult code = open_avif(&d, bytes, n);
    if (d == NULL) return UM_FAIL(err, UM_E_MEMORY, "no memory for an AVIF");
    um_status st =
        code == AVIF_RESULT_OK ? read_image(&p, d, max_pixels, arena, err) : failed(d, code, err);
    avifDecoderDestroy(d);
    if (st == UM_OK) *out = p;
    return st;
}

/* irot: quarter turns against the clock; imir, applied after it: axis 0 exchanges top and bottom, 1 left and right. */
static int properties_orientation(const avifImage *im)
{
    static const uint8_t turned[4] = {1, 8, 3, 6};
    static const uint8_t mirrored[2][4] = {{4, 5, 2, 7}, {2, 7, 4, 5}};
    int angle = (im->transformFlags & AVIF_TRANSFORM_IROT) != 0 ? im->irot.angle & 3 : 0;
    if ((im->transformFlags & AVIF_TRANSFORM_IMIR) == 0) return turned[angle];
#if AVIF_VERSION_MAJOR >= 1
    return mirrored[im->imir.axis & 1][angle];
#else
    return mirrored[im->imir.mode & 1][angle];
#endif
}

int um_avif_orientation(const uint8_t *bytes, size_t n)
{
    avifDecoder *d = NULL;
    int orientation = 0;
    if (open_avif(&d, bytes, n) == AVIF_RESULT_OK) {
        const avifTransformFlags turns = AVIF_TRANSFORM_IROT | AVIF_TRANSFORM_IMIR;
        orientation = (d->image->transformFlags & turns) != 0
                          ? properties_orientation(d->image)
                          : um_exif_orientation(d->image->exif.data, d->image->exif.size);
    }
    if (d != NULL) avifDecoderDestroy(d);
    return orientation;
}
