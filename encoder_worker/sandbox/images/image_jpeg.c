/* JPEG to RGB: the one door to libjpeg.
 *
 * libjpeg leaves by longjmp when it meets an error. The jump starts in give_up and ends in decode, both here, and everything
 * that must outlive it is in the job. Warnings that mean lost image data are errors too; those about odd but whole files
 * (bytes between markers, unknown revisions) are not. */
#include "encoder_worker/sandbox/images/image_file.h"

#include <stdio.h> /* jpeglib.h wants it first */

#include <jpeglib.h>
#include <jerror.h>

#include <setjmp.h>

/* A progressive image is decoded once per scan; a file made to waste time has thousands. Cameras and encoders use about ten. */
enum { SCANS_MAX = 256 };

typedef struct job {
    struct jpeg_decompress_struct jpeg; /* client_data points back here */
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    struct jpeg_progress_mgr progress;
    int64_t max_pixels;
    um_arena *arena;
    um_err *err;
    um_image image;
    bool complete; /* all rows are there */
    char why[JMSG_LENGTH_MAX];
    jmp_buf jump;
} job;

static void give_up(job *j, const char *why) __attribute__((noreturn));
static void give_up(job *j, const char *why)
{
    snprintf(j->why, sizeof j->why, "%s", why);
    longjmp(j->jump, 1);
}

static void on_error(j_common_ptr c) __attribute__((noreturn));
static void on_error(j_common_ptr c)
{
    char why[JMSG_LENGTH_MAX];
    c->err->format_message(c, why);
    give_up(c->client_data, why);
}

/* level -1 is a warning, 0 and more is tracing. */
static void on_message(j_common_ptr c, int level)
{
    if (level >= 0) return;
    switch (c->err->msg_code) {
    case JWRN_ADOBE_XFORM:
    case JWRN_BOGUS_ICC:
    case JWRN_BOGUS_PROGRESSION:
    case JWRN_EXTRANEOUS_DATA:
    case JWRN_JFIF_MAJOR:
    case JWRN_NOT_SEQUENTIAL:
        c->err->num_warnings++;
        break;
    default:
        on_error(c);
    }
}

static void on_output(j_common_ptr c) { (void)c; }

static void on_source(j_decompress_ptr c) { (void)c; }

/* All bytes are in the buffer from the beginning: a request for more means that some are missing. Behind the last row only the end
 * marker can be missing, and it is supplied. */
static boolean on_fill(j_decompress_ptr c)
{
    static const JOCTET end[] = {0xff, JPEG_EOI};
    job *j = c->client_data;
    if (!j->complete) give_up(j, "the file is cut off");
    c->src->next_input_byte = end;
    c->src->bytes_in_buffer = sizeof end;
    return TRUE;
}

static void on_skip(j_decompress_ptr c, long n)
{
    if (n <= 0) return;
    if ((size_t)n > c->src->bytes_in_buffer) {
        (void)on_fill(c);
        return;
    }
    c->src->next_input_byte += n;
    c->src->bytes_in_buffer -= (size_t)n;
}

static void on_progress(j_common_ptr c)
{
    job *j = c->client_data;
    if (j->jpeg.input_scan_number > SCANS_MAX) give_up(j, "more than 256 scans");
}

/* Reads the whole image. Everything that libjpeg calls an error leaves by the jump. */
static um_status read_image(job *j)
{
    struct jpeg_decompress_struct *c = &j->jpeg;
    jpeg_read_header(c, TRUE);
    UM_TRY(
        um_image_new(&j->image, c->image_width, c->image_height, j->max_pixels, j->arena, j->err));
    if (c->num_components != 1 && c->num_components != 3 && c->num_components != 4)
        return UM_FAIL(j->err, UM_E_DATA,
                       "JPEG with %d components: 1 (gray), 3 (colour) and 4 (CMYK) are read",
                       c->num_components);
    bool cmyk = c->num_components == 4;
    c->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(c);
    um_mark mark = um_arena_mark(j->arena);
    if (!um_arena_reserve(j->arena, (size_t)j->image.w * 4)) give_up(j, "no memory");
    uint8_t *line = cmyk ? um_arena_alloc(j->arena, (size_t)j->image.w * 4) : NULL;
    while (c->output_scanline < c->output_height) {
        uint8_t *rgb = j->image.rgb + (size_t)c->output_scanline * (size_t)j->image.w * 3;
        JSAMPROW row = cmyk ? line : rgb;
        jpeg_read_scanlines(c, &row, 1);
        if (cmyk) um_image_cmyk(rgb, line, j->image.w, 255); /* inverted, as Adobe writes them */
    }
    um_arena_reset(j->arena, mark);
    j->complete = true;
    jpeg_finish_decompress(c); /* up to the end marker */
    return UM_OK;
}

static um_status decode(job *j)
{
    if (setjmp(j->jump) != 0) return UM_FAIL(j->err, UM_E_DATA, "corrupt JPEG: %s", j->why);
    jpeg_create_decompress(&j->jpeg);
    j->jpeg.src = &j->source;
    j->jpeg.progress = &j->progress;
    return read_image(j);
}

um_status um_image_jpeg(um_image *out, const uint8_t *bytes, size_t n, int64_t max_pixels,
                        um_arena *arena, um_err *err)
{
    job j = {.max_pixels = max_pixels, .arena = arena, .err = err};
    j.jpeg.err = jpeg_std_error(&j.errors);
    j.jpeg.client_data = &j;
    j.errors.error_exit = on_error;
    j.errors.emit_message = on_message;
    j.errors.output_message = on_output;
    j.source = (struct jpeg_source_mgr){
        .next_input_byte = bytes,
        .bytes_in_buffer = n,
        .init_source = on_source,
        .fill_input_buffer = on_fill,
        .skip_input_data = on_skip,
        .resync_to_restart = jpeg_resync_to_restart,
        .term_source = on_source,
    };
    j.progress.progress_monitor = on_progress;
    um_status st = decode(&j);
    jpeg_destroy_decompress(&j.jpeg); /* also after an error, from whatever state */
    if (st == UM_OK) *out = j.image;
    return st;
}
