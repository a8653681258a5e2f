/* See encode.h. */
#include "encoder_worker/encode.h"

#include "encoder_worker/frame_mean.h"
#include "encoder_worker/frontend/preprocess.h"

#include <limits.h>

um_status um_encode_load(um_encode *e, um_params *ps, uint32_t set, um_err *err)
{
    um_towers_held *t = &e->towers;
    t->set = set;
    t->model = &ps->ck->model;
    if ((set & UM_READS_VISION) != 0) UM_TRY(um_vision_load(&t->vision, ps, err));
    if (set >> UM_SPEECH & 1) UM_TRY(um_speech_load(&t->speech, ps, err));
    if (set >> UM_SOUND & 1) UM_TRY(um_sound_load(&t->sound, ps, err));
    return UM_OK;
}

um_status um_encode_prepare(um_encode *e, um_err *err)
{
    return e->towers.sound == NULL ? UM_OK : um_sound_prepare(e->towers.sound, err);
}

um_status um_encode_rows_fit(const um_encode *e, int64_t rows, const char *name, um_err *err)
{
    size_t most = e->max_values / (size_t)e->towers.model->dim;
    if (rows >= 1 && (uint64_t)rows <= most && rows <= INT_MAX) return UM_OK;
    return UM_FAIL(err, UM_E_DATA,
                   "%s: makes %lld rows, one frame holds 1 to %zu: raise --credit or make it "
                   "shorter",
                   name, (long long)rows, most);
}

/* Brings n rows from the device to *rows, in step. */
static um_status rows_bring(const um_encode *e, float **rows, const float *device, int n,
                            um_arena *step, um_err *err)
{
    const size_t D = (size_t)e->towers.model->dim;
    *rows = um_arena_f32(step, (size_t)n, D);
    e->dev->ops->get(e->dev, *rows, device, (size_t)n * D * sizeof(float));
    return um_dev_sync(e->dev, err);
}

/* rows[um_vision_rows, D], device memory, of one image. */
static um_status pixels_encode(const um_encode *e, float *rows, um_vision_acts *a,
                               const um_image *p, const char *name, um_arena *step, um_err *err)
{
    const um_vision_model *v = &e->towers.model->vision;
    um_mark mark = um_arena_mark(step);
    size_t side = (size_t)v->image_size;
    float *pixels = um_arena_f32(step, (size_t)v->channels, side * side);
    um_status st = um_wrap(err, um_image_pixels(pixels, p, v, step, err), "%s", name);
    if (st == UM_OK) st = um_vision_encode(rows, &e->towers.vision, a, pixels, e->dev, err);
    um_arena_reset(step, mark);
    return st;
}

static um_status image_encode(const um_encode *e, float **rows, int *n,
                              const Um__EncodeRequest *req, um_arena *step, um_err *err)
{
    const um_model *m = e->towers.model;
    um_image p = {0};
    um_vision_acts a = {0};
    *n = um_vision_rows(&m->vision);
    UM_TRY(um_encode_rows_fit(e, *n, req->name, err));
    UM_TRY(um_decode_image(e->decoder, &p, req->name, req->media[0].data, req->media[0].len, step,
                           err));
    um_vision_acts_bind(&a, step, e->device, &m->vision, m->dim, false);
    float *out = um_arena_f32(e->device, (size_t)*n, (size_t)m->dim);
    UM_TRY(pixels_encode(e, out, &a, &p, req->name, step, err));
    return rows_bring(e, rows, out, *n, step, err);
}

/* What the frames of a video use one after another. */
typedef struct video {
    um_vision_acts acts;
    um_frame_mean mean;
    float *rows; /* device: of one frame */
} video;

static void video_begin(const um_encode *e, video *v, size_t n, um_arena *step)
{
    const um_model *m = e->towers.model;
    um_vision_acts_bind(&v->acts, step, e->device, &m->vision, m->dim, false);
    um_frame_mean_begin(&v->mean, e->dev, e->device, n * (size_t)m->dim);
    v->rows = um_arena_f32(e->device, n, (size_t)m->dim);
}

static um_status frame_add(const um_encode *e, video *v, const um_image *p, const char *name,
                           um_arena *step, um_err *err)
{
    UM_TRY(pixels_encode(e, v->rows, &v->acts, p, name, step, err));
    um_frame_mean_add(&v->mean, v->rows);
    return UM_OK;
}

/* Adds a list of images. Only one is in memory at a time, because there may be many large ones. */
static um_status list_add(const um_encode *e, video *v, const Um__EncodeRequest *req,
                          um_arena *step, um_err *err)
{
    um_status st = UM_OK;
    for (size_t i = 0; i < req->n_media && st == UM_OK; i++) {
        um_image p = {0};
        um_mark mark = um_arena_mark(step);
        st = um_decode_image(e->decoder, &p, req->name, req->media[i].data, req->media[i].len, step,
                             err);
        if (st == UM_OK) st = frame_add(e, v, &p, req->name, step, err);
        um_arena_reset(step, mark);
    }
    return st;
}

/* Mean over the frames, in their order, after the projector. The frames are a list of images or a selection from a video file. */
static um_status video_encode(const um_encode *e, float **rows, int *n,
                              const Um__EncodeRequest *req, um_arena *step, um_err *err)
{
    um_image *frames = NULL;
    video v = {0};
    int count = (int)req->n_media;
    *n = um_vision_rows(&e->towers.model->vision);
    UM_TRY(um_encode_rows_fit(e, *n, req->name, err));
    video_begin(e, &v, (size_t)*n, step);
    if (req->frames) {
        UM_TRY(list_add(e, &v, req, step, err));
    } else {
        UM_TRY(um_decode_video(e->decoder, &frames, &count, e->video_frames, req->name,
                               req->media[0].data, req->media[0].len, step, err));
        for (int i = 0; i < count; i++) UM_TRY(frame_add(e, &v, &frames[i], req->name, step, err));
    }
    um_frame_mean_end(&v.mean);
    return rows_bring(e, rows, v.mean.total, *n, step, err);
}

static um_status wave_encode(const um_encode *e, float **rows, int *n, const Um__EncodeRequest *req,
                             um_arena *step, um_err *err)
{
    const um_model *m = e->towers.model;
    bool speech = req->modality == UM__MODALITY__MODALITY_SPEECH;
    um_wave w = {0};
    UM_TRY(um_decode_wave(e->decoder, &w, req->name, req->media[0].data, req->media[0].len, step,
                          err));
    int64_t want =
        speech ? um_speech_rows(&m->speech, w.n, e->exact_windows) : um_sound_rows(&m->sound, w.n);
    UM_TRY(um_encode_rows_fit(e, want, req->name, err));
    *n = (int)want;
    float *out = um_arena_f32(e->device, (size_t)want, (size_t)m->dim);
    if (speech) {
        um_speech_acts *a = um_speech_acts_bind(step, e->device, &m->speech, m->dim, false);
        UM_TRY(um_speech_encode(out, e->towers.speech, a, w.samples, w.n, e->exact_windows, e->dev,
                                step, err));
    } else {
        um_sound_acts *a = um_sound_acts_bind(step, e->device, &m->sound, m->dim, false);
        UM_TRY(um_sound_encode(out, e->towers.sound, a, w.samples, w.n, e->dev, step, err));
    }
    return rows_bring(e, rows, out, *n, step, err);
}

um_status um_encode_check(const um_encode *e, const Um__EncodeRequest *req, um_err *err)
{
    const um_modality modality = (um_modality)req->modality;
    const bool vision = modality == UM_IMAGE || modality == UM_VIDEO,
               single = req->n_media == 1 || (modality == UM_VIDEO && req->n_media > 0);
    if ((int)modality <= UM_TEXT || modality >= UM_MODALITIES || !single)
        return UM_FAIL(err, UM_E_DATA, "%s: %zu files of modality %d", req->name, req->n_media,
                       (int)modality);
    const uint32_t need = vision ? (uint32_t)UM_READS_VISION : 1u << modality; /* checked above */
    if ((e->towers.set & need) == 0)
        return UM_FAIL(err, UM_E_DATA, "%s: this encoder rank does not read %s", req->name,
                       um_modality_name(modality));
    return UM_OK;
}

um_status um_encode_item(const um_encode *e, float **rows, int *n, const Um__EncodeRequest *req,
                         um_arena *step, um_err *err)
{
    const um_modality modality = (um_modality)req->modality;
    UM_TRY(um_encode_check(e, req, err));
    um_mark mark = um_arena_mark(e->device);
    um_status st = modality == UM_IMAGE   ? image_encode(e, rows, n, req, step, err)
                   : modality == UM_VIDEO ? video_encode(e, rows, n, req, step, err)
                                          : wave_encode(e, rows, n, req, step, err);
    um_arena_reset(e->device, mark);
    return st;
}
