/* First image of a GIF to RGB: the one door to giflib.
 *
 * As PIL reads it: the canvas is the screen of the header, grown where the image goes beyond it; what the image does not cover
 * has the transparent colour, else colour 0; a transparent pixel has its colour of the table. Without a table a colour's number
 * is its gray level. */
#include "encoder_worker/sandbox/images/image_file.h"

#include "core/base/bytes.h"

#include <gif_lib.h>

#include <string.h>

typedef struct job {
    const uint8_t *at; /* what giflib has not read yet */
    size_t left;
    bool cut;        /* bytes were missing */
    int transparent; /* number of a colour, or -1 */
} job;

/* Where the file ends between two blocks of data, the end mark of the data is supplied: encoders forget it. */
static int on_read(GifFileType *gif, GifByteType *to, int n)
{
    job *j = gif->UserData;
    if (n == 1 && j->left == 0) {
        *to = 0;
        return 1;
    }
    size_t take = (size_t)n < j->left ? (size_t)n : j->left;
    if (take < (size_t)n) j->cut = true;
    memcpy(to, j->at, take);
    j->at += take;
    j->left -= take;
    return (int)take;
}

static um_status failed(const GifFileType *gif, const job *j, um_err *err)
{
    const char *why = GifErrorString(gif->Error);
    if (j->cut || j->left == 0) why = "the file is cut off";
    return UM_FAIL(err, UM_E_DATA, "corrupt GIF: %s",
                   why != NULL ? why : "its bytes break the format");
}

/* An extension: of the graphic control only the transparent colour matters. */
static um_status extension(GifFileType *gif, job *j, um_err *err)
{
    int code = 0;
    GifByteType *data = NULL;
    if (DGifGetExtension(gif, &code, &data) == GIF_ERROR) return failed(gif, j, err);
    if (code == GRAPHICS_EXT_FUNC_CODE && data != NULL && data[0] >= 4)
        j->transparent = (data[1] & 1) != 0 ? data[4] : -1;
    while (data != NULL)
        if (DGifGetExtensionNext(gif, &data) == GIF_ERROR) return failed(gif, j, err);
    return UM_OK;
}

/* Up to the first image. */
static um_status find_image(GifFileType *gif, job *j, um_err *err)
{
    GifRecordType type = UNDEFINED_RECORD_TYPE;
    for (;;) {
        /* bytes that begin no block stand between blocks in some files */
        for (; j->left > 0 && *j->at != ',' && *j->at != '!' && *j->at != ';'; j->left--) j->at++;
        if (DGifGetRecordType(gif, &type) == GIF_ERROR) return failed(gif, j, err);
        if (type == TERMINATE_RECORD_TYPE) return UM_FAIL(err, UM_E_DATA, "GIF without an image");
        if (type == EXTENSION_RECORD_TYPE) UM_TRY(extension(gif, j, err));
        if (type == IMAGE_DESC_RECORD_TYPE) break;
    }
    return DGifGetImageDesc(gif) == GIF_ERROR ? failed(gif, j, err) : UM_OK;
}

static void colour(uint8_t rgb[3], const ColorMapObject *table, int number)
{
    if (table == NULL) {
        memset(rgb, number, 3);
    } else if (number >= table->ColorCount) {
        memset(rgb, 0, 3);
    } else {
        const GifColorType *c = &table->Colors[number];
        rgb[0] = c->Red;
        rgb[1] = c->Green;
        rgb[2] = c->Blue;
    }
}

/* The row of the image that comes n-th in the file: four passes where it is interlaced. */
static int row_of(const GifImageDesc *d, int n)
{
    static const int from[] = {0, 4, 2, 1}, step[] = {8, 8, 4, 2};
    for (int pass = 0; d->Interlace && pass < 4; pass++) {
        int rows = d->Height > from[pass] ? (d->Height - from[pass] - 1) / step[pass] + 1 : 0;
        if (n < rows) return from[pass] + n * step[pass];
        n -= rows;
    }
    return n;
}

static um_status read_rows(const um_image *p, GifFileType *gif, job *j, um_arena *arena,
                           um_err *err)
{
    const GifImageDesc *d = &gif->Image;
    const ColorMapObject *table = d->ColorMap != NULL ? d->ColorMap : gif->SColorMap;
    uint8_t rgb[256][3], *line = um_arena_alloc(arena, (size_t)d->Width);
    for (int i = 0; i < 256; i++) colour(rgb[i], table, i);
    const uint8_t *empty = rgb[j->transparent >= 0 ? j->transparent : 0];
    for (size_t i = 0; i < (size_t)p->w * (size_t)p->h; i++) memcpy(p->rgb + 3 * i, empty, 3);
    for (int n = 0; n < d->Height; n++) {
        if (DGifGetLine(gif, line, d->Width) == GIF_ERROR) return failed(gif, j, err);
        size_t y = (size_t)(d->Top + row_of(d, n));
        uint8_t *to = p->rgb + um_at(y, (size_t)d->Left, (size_t)p->w) * 3;
        for (int x = 0; x < d->Width; x++) memcpy(to + 3 * x, rgb[line[x]], 3);
    }
    return UM_OK;
}

static um_status read_image(um_image *p, GifFileType *gif, job *j, int64_t max_pixels,
                            um_arena *arena, um_err *err)
{
    UM_TRY(find_image(gif, j, err));
    const GifImageDesc *d = &gif->Image;
    if (d->Width < 1 || d->Height < 1)
        return UM_FAIL(err, UM_E_DATA, "corrupt GIF: an image of %d x %d pixels", d->Width,
                       d->Height);
    int w = um_max_int(gif->SWidth, d->Left + d->Width);
    int h = um_max_int(gif->SHeight, d->Top + d->Height);
    UM_TRY(um_image_new(p, w, h, max_pixels, arena, err));
    um_mark mark = um_arena_mark(arena);
    UM_TRY(read_rows(p, gif, j, arena, err));
    um_arena_reset(arena, mark);
    return UM_OK;
}

um_status um_image_gif(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                       um_arena *arena, um_err *err)
{
    job j = {.at = bytes, .left = n, .transparent = -1};
    um_image p = {0};
    int code = 0;
    GifFileType *gif = DGifOpen(&j, on_read, &code);
    if (gif == NULL) {
        if (code == D_GIF_ERR_NOT_ENOUGH_MEM)
            return UM_FAIL(err, UM_E_MEMORY, "no memory for a GIF");
        return UM_FAIL(err, UM_E_DATA, "corrupt GIF: %s",
                       j.cut ? "the file is cut off" : "its bytes break the format");
    }
    um_status st = read_image(&p, gif, &j, max_pixels, arena, err);
    DGifCloseFile(gif, &code);
    if (st == UM_OK) *out = p;
    return st;
}
