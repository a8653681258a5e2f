/* See medium.h. */
#include "encoder_worker/medium.h"

#include "encoder_worker/frontend/preprocess.h"

#include <string.h>

um_tower um_medium_tower(const um_encode *e, um_modality modality)
{
    const um_towers_held *t = &e->towers;
    um_tower one = {.model = t->model};
    if (modality == UM_SPEECH)
        one.speech = t->speech;
    else if (modality == UM_SOUND)
        one.sound = t->sound;
    else
        one.vision = &t->vision;
    return one;
}

/* What the parts of a medium use one after another. */
typedef struct reading {
    const um_encode *e;
    const char *name;
    um_arena *host;
    um_tower tower;
    um_tower_acts acts; /* of one part, bound once */
    um_tower_point at;
    um_medium *out;
} reading;

/* The front end has written the part's input into the acts; goes on to r->at and keeps the values. */
static um_status part_add(const reading *r, int real, um_err *err)
{
    um_medium_part *p = &r->out->part[r->out->parts++];
    um_tower_acts acts = r->acts;
    *p = (um_medium_part){.real = real, .values = um_tower_values(&r->tower, r->at, real)};
    p->value = um_arena_f32(r->host, 1, p->values);
    const size_t bytes = p->values * sizeof *p->value;
    if (r->at == UM_AT_INPUT) {
        memcpy(p->value, um_tower_at(&acts, &r->tower, UM_AT_INPUT), bytes);
        return UM_OK;
    }
    um_tower_fwd(NULL, &r->tower, &acts, UM_AT_INPUT, r->at, real, r->e->dev);
    r->e->dev->ops->get(r->e->dev, p->value, um_tower_at(&acts, &r->tower, r->at), bytes);
    return um_dev_sync(r->e->dev, err);
}

static um_status image_add(reading *r, const um_image *image, um_arena *scratch, um_err *err)
{
    const um_vision_model *v = &r->tower.model->vision;
    const size_t side = (size_t)v->image_size;
    float *pixels = um_arena_f32(scratch, (size_t)v->channels, side * side);
    UM_TRY(um_wrap(err, um_image_pixels(pixels, image, v, scratch, err), "%s", r->name));
    UM_TRY(um_vision_input(&r->acts.vision, v, pixels, err));
    return part_add(r, 0, err);
}

/* Images one after another, because there may be many large ones. */
static um_status images_read(reading *r, const Um__EncodeRequest *req, um_arena *scratch,
                             um_err *err)
{
    um_status st = UM_OK;
    for (size_t i = 0; i < req->n_media && st == UM_OK; i++) {
        um_image image = {0};
        const um_mark mark = um_arena_mark(scratch);
        st = um_decode_image(r->e->decoder, &image, req->name, req->media[i].data,
                             req->media[i].len, scratch, err);
        if (st == UM_OK) st = image_add(r, &image, scratch, err);
        um_arena_reset(scratch, mark);
    }
    return st;
}

static um_status video_read(reading *r, const Um__EncodeRequest *req, um_arena *scratch,
                            um_err *err)
{
    um_image *frames = NULL;
    int count = 0;
    UM_TRY(um_decode_video(r->e->decoder, &frames, &count, r->e->video_frames, req->name,
                           req->media[0].data, req->media[0].len, scratch, err));
    r->out->part = um_arena_zero(r->host, (size_t)count * sizeof *r->out->part);
    for (int i = 0; i < count; i++) {
        const um_mark mark = um_arena_mark(scratch);
        UM_TRY(image_add(r, &frames[i], scratch, err));
        um_arena_reset(scratch, mark);
    }
    return UM_OK;
}

static um_status vision_read(reading *r, const Um__EncodeRequest *req, um_arena *scratch,
                             um_err *err)
{
    r->out->rows = um_tower_rows(&r->tower);
    UM_TRY(um_encode_rows_fit(r->e, r->out->rows, req->name, err));
    if (r->out->modality == UM_VIDEO && !req->frames) return video_read(r, req, scratch, err);
    r->out->part = um_arena_zero(r->host, req->n_media * sizeof *r->out->part);
    return images_read(r, req, scratch, err);
}

static um_status window_add(reading *r, const float *wave, int64_t n, um_arena *scratch,
                            um_err *err)
{
    int real = 0;
    if (r->tower.speech != NULL)
        UM_TRY(um_speech_input(r->acts.speech, r->tower.speech, wave, n, scratch, err));
    else
        UM_TRY(um_sound_input(r->acts.sound, &real, r->tower.sound, wave, n, scratch, err));
    return part_add(r, real, err);
}

static um_status wave_read(reading *r, const Um__EncodeRequest *req, um_arena *scratch, um_err *err)
{
    const um_model *m = r->tower.model;
    const bool speech = r->tower.speech != NULL;
    const int64_t most = speech ? um_speech_window(&m->speech) : um_sound_window(&m->sound),
                  step = speech ? um_speech_step(&m->speech, r->e->exact_windows) : most;
    um_wave w = {0};
    UM_TRY(um_decode_wave(r->e->decoder, &w, req->name, req->media[0].data, req->media[0].len,
                          scratch, err));
    const int64_t rows = speech ? um_speech_rows(&m->speech, w.n, r->e->exact_windows)
                                : um_sound_rows(&m->sound, w.n);
    UM_TRY(um_encode_rows_fit(r->e, rows, req->name, err));
    r->out->rows = (int)rows;
    const size_t windows = (size_t)(rows / um_tower_rows(&r->tower));
    r->out->part = um_arena_zero(r->host, windows * sizeof *r->out->part);
    for (int64_t at = 0; at < w.n; at += step)
        UM_TRY(window_add(r, w.samples + at, w.n - at < most ? w.n - at : most, scratch, err));
    return UM_OK;
}

/* Nothing is trained: the rows themselves. */
static um_status rows_read(um_medium *out, const um_encode *e, const Um__EncodeRequest *req,
                           um_arena *host, um_err *err)
{
    float *rows = NULL;
    UM_TRY(um_encode_item(e, &rows, &out->rows, req, host, err));
    out->parts = 1;
    out->part = um_arena_zero(host, sizeof *out->part);
    out->part[0] =
        (um_medium_part){.values = (size_t)out->rows * (size_t)e->towers.model->dim, .value = rows};
    return UM_OK;
}

um_status um_medium_read(um_medium *out, const um_encode *e, um_tower_point at,
                         const Um__EncodeRequest *req, um_arena *host, um_err *err)
{
    um_medium m = {.modality = (um_modality)req->modality, .at = at};
    um_arena scratch; /* what is decoded, which goes when the values are there */
    um_status st;
    if (at == UM_AT_ROWS) {
        st = rows_read(&m, e, req, host, err);
    } else {
        const um_mark mark = um_arena_mark(e->device);
        reading r = {.e = e, .name = req->name, .host = host, .at = at, .out = &m};
        um_arena_init(&scratch, "decoded media", 1 << 20);
        r.tower = um_medium_tower(e, m.modality);
        um_tower_acts_bind_once(&r.acts, &r.tower, &scratch, e->device);
        st = r.tower.vision != NULL ? vision_read(&r, req, &scratch, err)
                                    : wave_read(&r, req, &scratch, err);
        um_arena_free(&scratch);
        um_arena_reset(e->device, mark);
    }
    if (st == UM_OK) *out = m;
    return st;
}

size_t um_medium_bytes(const um_medium *m)
{
    size_t bytes = sizeof *m + (size_t)m->parts * sizeof *m->part;
    for (int i = 0; i < m->parts; i++) bytes += m->part[i].values * sizeof(float);
    return bytes;
}

/* Copies m to `copy`, behind which there is room for all that um_medium_bytes counts. */
static um_medium *copy_to(um_medium *copy, const um_medium *m, bool with_values)
{
    *copy = *m;
    copy->part = (um_medium_part *)(copy + 1);
    float *value = (float *)(copy->part + m->parts);
    for (int i = 0; i < m->parts; i++) {
        const um_medium_part *p = &m->part[i];
        copy->part[i] = *p;
        copy->part[i].value = with_values ? value : NULL;
        if (with_values && p->values > 0) memcpy(value, p->value, p->values * sizeof *value);
        value += with_values ? p->values : 0;
    }
    return copy;
}

um_medium *um_medium_copy(const um_medium *m)
{
    return copy_to(um_zalloc(um_medium_bytes(m)), m, true);
}

um_medium *um_medium_in(const um_medium *m, um_arena *host, bool with_values)
{
    const size_t bare = sizeof *m + (size_t)m->parts * sizeof *m->part;
    return copy_to(um_arena_alloc(host, with_values ? um_medium_bytes(m) : bare), m, with_values);
}
