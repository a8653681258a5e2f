/* Which format bytes are, by their first ones; and what to do about those that are not read. */
#include "encoder_worker/sandbox/images/image_file.h"

#include "core/base/bytes.h"

#include <string.h>

#define CONVERT "not read, convert it to PNG or JPEG"
#define AS_VIDEO "give it as a video, or a still image of it"
#define AS_SOUND "an audio file, give it as speech or as sound"
#define UNPACK "not an image: unpack it and give the image in it"

typedef struct magic {
    um_image_format format;
    const char *mark;
    size_t offset, n;
} magic;

/* In this order: a longer mark comes before a shorter one that it begins with. */
static const magic magics[] = {
    {{"PNG", um_image_png, NULL, false}, "\x89PNG\r\n\x1a\n", 0, 8},
    {{"JPEG", um_image_jpeg, NULL, false}, "\xff\xd8\xff", 0, 3},
    {{"WebP", um_image_webp, NULL, false}, "WEBP", 8, 4},
    {{"GIF", um_image_gif, NULL, false}, "GIF87a", 0, 6},
    {{"GIF", um_image_gif, NULL, false}, "GIF89a", 0, 6},
    {{"BMP", um_image_bmp, NULL, false}, "BM", 0, 2},
    {{"TIFF", um_image_tiff, NULL, false}, "II*\0", 0, 4},
    {{"TIFF", um_image_tiff, NULL, false}, "MM\0*", 0, 4},
    {{"TIFF", um_image_tiff, NULL, false}, "II+\0", 0, 4},
    {{"TIFF", um_image_tiff, NULL, false}, "MM\0+", 0, 4},
    {{"AVIF", um_image_avif, NULL, false}, "ftypavif", 4, 8},
    {{"AVIF", um_image_avif, NULL, false}, "ftypavis", 4, 8},
    {{"icon (ICO)", um_image_ico, NULL, false}, "\0\0\1\0", 0, 4},
    {{"QOI", um_image_qoi, NULL, false}, "qoif", 0, 4},
    {{"PCX", um_image_pcx, NULL, false}, "\x0a\2\1", 0, 3},
    {{"PCX", um_image_pcx, NULL, false}, "\x0a\3\1", 0, 3},
    {{"PCX", um_image_pcx, NULL, false}, "\x0a\5\1", 0, 3},
    {{"SGI", um_image_sgi, NULL, false}, "\1\xda", 0, 2},
    {{"JPEG 2000", um_image_jpeg2000, NULL, false}, "\0\0\0\x0cjP  \r\n\x87\n", 0, 12},
    {{"JPEG 2000", um_image_jpeg2000, NULL, false}, "\xff\x4f\xff\x51", 0, 4},
    /* not read */
    {{"HEIC image", NULL, CONVERT, false}, "ftyphei", 4, 7},
    {{"HEIC image", NULL, CONVERT, false}, "ftyphev", 4, 7},
    {{"HEIF image", NULL, CONVERT, false}, "ftypmsf1", 4, 8},
    {{"JPEG XL image", NULL, CONVERT, false}, "\xff\x0a", 0, 2},
    {{"JPEG XL image", NULL, CONVERT, false}, "JXL ", 4, 4},
    {{"PDF document", NULL, "not an image: convert the page to PNG", false}, "%PDF", 0, 4},
    {{"PostScript document", NULL, "not read, convert the page to PNG", false}, "%!PS", 0, 4},
    {{"Photoshop image", NULL, CONVERT, false}, "8BPS", 0, 4},
    {{"DDS texture", NULL, CONVERT, false}, "DDS ", 0, 4},
    {{"OpenEXR image", NULL, CONVERT, false}, "\x76\x2f\x31\x01", 0, 4},
    {{"Radiance HDR image", NULL, CONVERT, false}, "#?RADIANCE", 0, 10},
    {{"FITS image", NULL, CONVERT, false}, "SIMPLE  =", 0, 9},
    {{"GIMP image", NULL, CONVERT, false}, "gimp xcf", 0, 8},
    {{"DjVu document", NULL, CONVERT, false}, "AT&TFORM", 0, 8},
    {{"MP4 video", NULL, AS_VIDEO, true}, "ftyp", 4, 4},
    {{"Matroska or WebM video", NULL, AS_VIDEO, true}, "\x1a\x45\xdf\xa3", 0, 4},
    {{"AVI video", NULL, AS_VIDEO, true}, "AVI ", 8, 4},
    {{"WAV", NULL, AS_SOUND, true}, "WAVE", 8, 4},
    {{"FLAC", NULL, AS_SOUND, true}, "fLaC", 0, 4},
    {{"Ogg", NULL, AS_SOUND, true}, "OggS", 0, 4},
    {{"MP3", NULL, AS_SOUND, true}, "ID3", 0, 3},
    {{"ZIP archive", NULL, UNPACK, false}, "PK\3\4", 0, 4},
    {{"gzip archive", NULL, UNPACK, false}, "\x1f\x8b", 0, 2},
    {{"xz archive", NULL, UNPACK, false},
     "\xfd"
     "7zXZ",
     0,
     5},
    {{"7z archive", NULL, UNPACK, false}, "7z\xbc\xaf\x27\x1c", 0, 6},
    {{"zstd archive", NULL, UNPACK, false}, "\x28\xb5\x2f\xfd", 0, 4},
    {{"NumPy array", NULL, "not an image: save it as PNG", false}, "\x93NUMPY", 0, 6},
    {{"Python pickle", NULL, "not an image: save the image in it as PNG", false}, "\x80\2", 0, 2},
    {{"Python pickle", NULL, "not an image: save the image in it as PNG", false}, "\x80\3", 0, 2},
    {{"Python pickle", NULL, "not an image: save the image in it as PNG", false},
     "\x80\4\x95",
     0,
     3},
    {{"Python pickle", NULL, "not an image: save the image in it as PNG", false},
     "\x80\5\x95",
     0,
     3},
    {{"Git LFS pointer", NULL, "the file itself is missing, fetch it with: git lfs pull", false},
     "version https://git-lfs",
     0,
     23},
};

static const um_image_format pnm = {"PNM", um_image_pnm, NULL, false};
static const um_image_format tga = {"TGA", um_image_tga, NULL, false};
static const um_image_format avif = {"AVIF", um_image_avif, NULL, false};
static const um_image_format heif = {"HEIF image", NULL, CONVERT, false};
static const um_image_format svg = {"SVG drawing", NULL, "not read, draw it to PNG", false};
static const um_image_format html = {"HTML page", NULL,
                                     "not an image: a download may have gone wrong", false};
static const um_image_format xml = {"XML text", NULL, "not an image", false};
static const um_image_format text = {"text", NULL, "not an image", false};

static bool has_word(const uint8_t *bytes, size_t n, const char *word)
{
    enum { LOOK = 1024 };
    size_t length = strlen(word), most = n < LOOK ? n : LOOK;
    for (size_t i = 0; i + length <= most; i++) {
        size_t k = 0;
        while (k < length && (bytes[i + k] | (word[k] >= 'a' ? 0x20 : 0)) == word[k]) k++;
        if (k == length) return true;
    }
    return false;
}

static bool is_text(const uint8_t *bytes, size_t n)
{
    enum { LOOK = 256 };
    for (size_t i = 0; i < n && i < LOOK; i++)
        if (bytes[i] < ' ' && bytes[i] != '\n' && bytes[i] != '\r' && bytes[i] != '\t')
            return false;
    return n > 0;
}

static const um_image_format *text_format(const uint8_t *bytes, size_t n)
{
    size_t at = n >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    if (!is_text(bytes + at, n - at)) return NULL;
    while (at < n && (bytes[at] == ' ' || (bytes[at] >= '\t' && bytes[at] <= '\r'))) at++;
    if (at == n || bytes[at] != '<') return &text;
    if (has_word(bytes + at, n - at, "<svg")) return &svg;
    if (has_word(bytes + at, n - at, "<html") || has_word(bytes + at, n - at, "<!doctype html"))
        return &html;
    return &xml;
}

/* "P1" to "P6" and white space or a comment. */
static bool is_pnm(const uint8_t *bytes, size_t n)
{
    return n > 3 && bytes[0] == 'P' && bytes[1] >= '1' && bytes[1] <= '6' &&
           (bytes[2] == ' ' || bytes[2] == '#' || (bytes[2] >= '\t' && bytes[2] <= '\r'));
}

/* A TGA begins with no mark: its header must make sense throughout. */
static bool is_tga(const uint8_t *bytes, size_t n)
{
    enum { HEAD = 18 };
    if (n <= HEAD) return false;
    int table = bytes[1], kind = bytes[2] & ~8, depth = bytes[16];
    int entry = bytes[7], w = um_get_u16(bytes + 12), h = um_get_u16(bytes + 14);
    bool entry_ok = entry == 15 || entry == 16 || entry == 24 || entry == 32;
    if (table > 1 || (bytes[2] & ~(8 | 3)) != 0 || w == 0 || h == 0 || (bytes[17] & 0xc0) != 0)
        return false;
    if (kind == 1) return table == 1 && entry_ok && depth == 8;
    if (kind == 2) return depth == 16 || depth == 24 || depth == 32;
    return kind == 3 && depth == 8;
}

/* "mif1" and "miaf" may be AVIF or HEIC: the other brands of the file tell. */
static const um_image_format *heif_format(const uint8_t *bytes, size_t n)
{
    if (n < 16 || memcmp(bytes + 4, "ftyp", 4) != 0) return NULL;
    if (memcmp(bytes + 8, "mif1", 4) != 0 && memcmp(bytes + 8, "miaf", 4) != 0) return NULL;
    size_t end = (size_t)bytes[2] << 8 | bytes[3];
    for (size_t at = 16; at + 4 <= end && at + 4 <= n; at += 4)
        if (memcmp(bytes + at, "avif", 4) == 0) return &avif;
    return &heif;
}

const um_image_format *um_image_format_of(const uint8_t *bytes, size_t n)
{
    const um_image_format *f = heif_format(bytes, n);
    if (f != NULL) return f;
    if (is_pnm(bytes, n)) return &pnm;
    for (size_t i = 0; i < sizeof magics / sizeof magics[0]; i++) {
        const magic *m = &magics[i];
        if (n >= m->offset + m->n && memcmp(bytes + m->offset, m->mark, m->n) == 0)
            return &m->format;
    }
    if (is_tga(bytes, n)) return &tga;
    return text_format(bytes, n);
}
