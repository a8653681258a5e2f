/* WebP to RGB: the one door to libwebp. Alpha is dropped. Of an animation the first frame is read, on the canvas's size; what it
 * does not cover is black, as the reference has it. */
#include "encoder_worker/sandbox/images/image_file.h"

#include <webp/decode.h>
#include <webp/demux.h>

#include <stddef.h>
#include <string.h>

static const char *why(VP8StatusCode code)
{
    switch (code) {
    case VP8_STATUS_OUT_OF_MEMORY:
        return "no memory";
    case VP8_STATUS_NOT_ENOUGH_DATA:
        return "the file is cut off";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
        return "it uses an unknown feature";
    default:
        return "its bytes break the format";
    }
}

static um_status failed(VP8StatusCode code, um_err *err)
{
    return UM_FAIL(err, code == VP8_STATUS_OUT_OF_MEMORY ? UM_E_MEMORY : UM_E_DATA,
                   "corrupt WebP: %s", why(code));
}

/* A still image, or a frame, of w x h pixels to (x, y) of the image. */
static um_status decode(um_image *p, int x, int y, int w, int h, const uint8_t *bytes, size_t n,
                        um_err *err)
{
    WebPDecoderConfig c;
    size_t stride = (size_t)p->w * 3, first = (size_t)y * stride + (size_t)x * 3;
    if (WebPInitDecoderConfig(&c) == 0)
        return UM_FAIL(err, UM_E_MEMORY, "libwebp could not start: built for another version");
    if (x < 0 || y < 0 || w < 1 || h < 1 || x > p->w - w || y > p->h - h)
        return UM_FAIL(err, UM_E_DATA, "corrupt WebP: its first frame is larger than the image");
    c.output.colorspace = MODE_RGB;
    c.output.is_external_memory = 1;
    c.output.u.RGBA.rgba = p->rgb + first;
    c.output.u.RGBA.stride = (int)stride;
    c.output.u.RGBA.size = (size_t)(h - 1) * stride + (size_t)w * 3;
    VP8StatusCode code = WebPGetFeatures(bytes, n, &c.input);
    if (code == VP8_STATUS_OK && (c.input.width != w || c.input.height != h))
        code = VP8_STATUS_BITSTREAM_ERROR;
    if (code == VP8_STATUS_OK) code = WebPDecode(bytes, n, &c);
    WebPFreeDecBuffer(&c.output);
    return code == VP8_STATUS_OK ? UM_OK : failed(code, err);
}

static um_status first_frame(um_image *p, const uint8_t *bytes, size_t n, um_err *err)
{
    WebPIterator frame;
    WebPData data = {.bytes = bytes, .size = n};
    memset(p->rgb, 0, (size_t)p->w * (size_t)p->h * 3);
    WebPDemuxer *d = WebPDemux(&data);
    if (d == NULL) return failed(VP8_STATUS_NOT_ENOUGH_DATA, err);
    um_status st = UM_OK;
    if (WebPDemuxGetFrame(d, 1, &frame) == 0)
        st = UM_FAIL(err, UM_E_DATA, "corrupt WebP: an animation without a frame");
    else
        st = decode(p, frame.x_offset, frame.y_offset, frame.width, frame.height,
                    frame.fragment.bytes, frame.fragment.size, err);
    WebPDemuxReleaseIterator(&frame);
    WebPDemuxDelete(d);
    return st;
}

um_status um_image_webp(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                        um_arena *arena, um_err *err)
{
    WebPBitstreamFeatures f;
    um_image p = {0};
    VP8StatusCode code = WebPGetFeatures(bytes, n, &f);
    if (code != VP8_STATUS_OK) return failed(code, err);
    UM_TRY(um_image_new(&p, f.width, f.height, max_pixels, arena, err));
    UM_TRY(f.has_animation ? first_frame(&p, bytes, n, err)
                           : decode(&p, 0, 0, p.w, p.h, bytes, n, err));
    *out = p;
    return UM_OK;
}
