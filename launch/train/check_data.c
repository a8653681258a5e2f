/* See check_data.h. */
#include "launch/train/check_data.h"

#include "core/base/file.h"
#include "core/base/progress.h"
#include "core/nn/checkpoint.h"
#include "encoder_worker/decode/decoder.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

/* What the check's callbacks share. */
typedef struct looking {
    const um_config *cfg;
    FILE *to;
    um_decoder *decoder;
    um_progress progress;
    um_arena scratch; /* one medium, decoded */
} looking;

static um_status wave_decode(looking *l, const char *name, const uint8_t *bytes, size_t n,
                             um_err *err)
{
    um_wave wave = {0};
    UM_TRY(um_decode_wave(l->decoder, &wave, name, bytes, n, &l->scratch, err));
    return wave.n > 0 ? UM_OK : UM_FAIL(err, UM_E_DATA, "%s: holds no sound", name);
}

/* *left: bytes that --media-max-bytes leaves to this file of the item and those behind it, as in training. */
static um_status file_decode(looking *l, const um_item *item, int i, size_t *left, um_err *err)
{
    const char *name = item->paths[i];
    const bool here = item->data != NULL && item->data[i].bytes != NULL;
    const uint8_t *bytes = here ? item->data[i].bytes : NULL;
    size_t n = here ? item->data[i].n : 0;
    um_image image, *frames = NULL;
    int n_frames = 0;
    if (!here) {
        uint8_t *data = NULL;
        if (um_file_read_regular(&data, &n, name, *left, &l->scratch, err) != UM_OK)
            return UM_E_DATA;
        bytes = data;
    }
    if (n > *left)
        return UM_FAIL(err, UM_E_DATA, "%s: larger than --media-max-bytes, which is %" PRId64, name,
                       l->cfg->media_max_bytes);
    *left -= n;
    if (item->modality == UM_SPEECH || item->modality == UM_SOUND)
        return wave_decode(l, name, bytes, n, err);
    if (item->modality == UM_VIDEO && !item->frames)
        return um_decode_video(l->decoder, &frames, &n_frames, (int)l->cfg->video_frames, name,
                               bytes, n, &l->scratch, err);
    return um_decode_image(l->decoder, &image, name, bytes, n, &l->scratch, err);
}

static um_status item_decode(void *ctx, const um_item *item, um_err *err)
{
    looking *l = ctx;
    um_mark mark = um_arena_mark(&l->scratch);
    size_t left = (size_t)l->cfg->media_max_bytes;
    um_status st = UM_OK;
    for (int i = 0; i < item->n && st == UM_OK; i++) {
        st = file_decode(l, item, i, &left, err);
        um_arena_reset(&l->scratch, mark);
    }
    return st;
}

static void fault_print(void *ctx, const um_data_fault *f)
{
    looking *l = ctx;
    um_progress_line_clear(&l->progress.line);
    bool named = f->id != NULL;
    fprintf(l->to, "%s%s%s%s: %s%s\n", f->where, named ? " (id " : "", named ? f->id : "",
            named ? ")" : "", um_data_fault_usable(f->kind) ? "used, but: " : "", f->reason);
}

static void bytes_read(void *ctx, int64_t bytes)
{
    um_progress_add(&((looking *)ctx)->progress, bytes);
}

static void summary_print(FILE *to, const um_data_report *r)
{
    fprintf(to,
            "%" PRId64 " of %" PRId64 " samples can be used: %" PRId64 " tokens, %" PRId64
            " of them learnt, the longest sample has %d; %" PRId64 " media\n",
            r->usable, r->samples, r->ids, r->targets, r->longest, r->media);
    for (unsigned k = 0; k < UM_MEDIA_SETS; k++)
        if (r->kinds[k] > 0) fprintf(to, "  %10" PRId64 "  %s\n", r->kinds[k], um_kinds_name(k));
    for (int k = 1; k < UM_DATA_FAULT_KINDS; k++)
        if (r->faults[k] > 0)
            fprintf(to, "  %10" PRId64 "  %s%s\n", r->faults[k],
                    um_data_fault_usable((um_data_fault_kind)k) ? "used, but: " : "left out: ",
                    um_data_fault_name((um_data_fault_kind)k));
}

static int64_t bytes_of(const um_data_file *files, int n)
{
    int64_t bytes = 0;
    struct stat s;
    for (int i = 0; i < n; i++)
        if (stat(files[i].path, &s) == 0) bytes += s.st_size;
    return bytes;
}

static um_status check(looking *l, const um_model *model, const um_data_file *files, int n_files,
                       um_err *err)
{
    const um_config *cfg = l->cfg;
    um_tokenizer *tok = NULL;
    um_data_report r = {0};
    const um_data_checker checker = {.fault = fault_print, .decode = item_decode, .ctx = l};
    UM_TRY(um_tokenizer_open(&tok, cfg->model, err));
    const um_dataset_how how = {.maker = {model, tok, (int)cfg->max_length},
                                .media_folder = cfg->media_folder,
                                .progress = bytes_read,
                                .ctx = l};
    um_progress_begin(&l->progress, cfg->quiet ? NULL : stderr, "checking samples",
                      UM_PROGRESS_BYTES, bytes_of(files, n_files));
    um_status st = um_dataset_check(&r, files, n_files, &how, &checker, err);
    um_progress_end(&l->progress);
    um_tokenizer_close(tok);
    if (st != UM_OK) return st;
    summary_print(l->to, &r);
    if (r.usable == r.samples && r.files_bad == 0) return UM_OK;
    return UM_FAIL(err, UM_E_DATA, "%" PRId64 " of %" PRId64 " samples cannot be used%s",
                   r.samples - r.usable, r.samples,
                   r.files_bad > 0 ? ", and files cannot be read" : "");
}

um_status um_check_data(const um_config *cfg, const um_data_file *files, int n_files, FILE *to,
                        um_err *err)
{
    const um_towers towers = {cfg->vision_tower, cfg->speech_tower, cfg->sound_tower};
    const um_media_limits limits = {.pixels = cfg->image_max_pixels,
                                    .seconds = cfg->media_max_seconds,
                                    .frames = cfg->video_frames,
                                    .wait_ms = cfg->media_wait_ms};
    looking l = {.cfg = cfg, .to = to};
    um_checkpoint ck;
    UM_TRY(um_checkpoint_open(&ck, cfg->model, &towers, err));
    um_arena_init(&l.scratch, "data check", 1 << 20);
    um_status st = um_decoder_open(&l.decoder, cfg->decoder, &limits, err);
    if (st == UM_OK) {
        um_decoder_orient(l.decoder, cfg->image_orientation[0] == 'e');
        st = check(&l, &ck.model, files, n_files, err);
    }
    um_decoder_close(l.decoder);
    um_arena_free(&l.scratch);
    um_checkpoint_close(&ck);
    return st;
}
