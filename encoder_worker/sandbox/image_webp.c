/* WebP to RGB: the one door to libwebp. Still images only; alpha is dropped. */
#include "encoder_worker/sandbox/image_file.h"

#include <webp/decode.h>

#include <stddef.h>

static const char *why(VP8StatusCode code)
{
    switch (code) {
    case VP8_STATUS_OUT_OF_MEMORY:
        return "no memory";
    case VP8_STATUS_NOT_ENOUGH_DATA:
        return "the file is cut off";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
        return "a feature that is not known";
    default:
        return "its bytes break the format";
    }
}

um_status um_image_webp(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                        um_arena *arena, um_err *err)
{
    WebPDecoderConfig c;
    um_image p = {0};
    if (WebPInitDecoderConfig(&c) == 0)
        return UM_FAIL(err, UM_E_MEMORY, "libwebp could not start: built for another version");
    VP8StatusCode code = WebPGetFeatures(bytes, n, &c.input);
    if (code != VP8_STATUS_OK) return UM_FAIL(err, UM_E_DATA, "corrupt WebP: %s", why(code));
    if (c.input.has_animation)
        return UM_FAIL(err, UM_E_DATA,
                       "animated WebP: give a still image, or make it a GIF or MP4 and give it as "
                       "a video");
    UM_TRY(um_image_new(&p, c.input.width, c.input.height, max_pixels, arena, err));
    c.output.colorspace = MODE_RGB;
    c.output.is_external_memory = 1;
    c.output.u.RGBA.rgba = p.rgb;
    c.output.u.RGBA.stride = p.w * 3;
    c.output.u.RGBA.size = (size_t)p.w * (size_t)p.h * 3;
    code = WebPDecode(bytes, n, &c);
    WebPFreeDecBuffer(&c.output);
    if (code != VP8_STATUS_OK)
        return UM_FAIL(err, code == VP8_STATUS_OUT_OF_MEMORY ? UM_E_MEMORY : UM_E_DATA,
                       "corrupt WebP: %s", why(code));
    *out = p;
    return UM_OK;
}
