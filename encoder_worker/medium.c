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

void um_part_rows_begin(um_part_rows *r, const um_encode *e, const um_medium *m)
{
    const um_tower tower = um_medium_tower(e, m->modality);
    const size_t D = (size_t)e->towers.model->dim;
    *r = (um_part_rows){.video = m->modality == UM_VIDEO,
                        .one = (size_t)um_tower_rows(&tower) * D,
                        .rows = um_arena_f32(e->device, (size_t)m->rows, D)};
    r->next = r->rows;
    if (r->video) um_frame_mean_begin(&r->mean, e->dev, e->device, r->one);
}

void um_part_rows_add(um_part_rows *r)
{
    if (r->video)
        um_frame_mean_add(&r->mean, r->next);
    else
        r->next += r->one;
}

const float *um_part_rows_end(um_part_rows *r)
{
    if (!r->video) return r->rows;
    um_frame_mean_end(&r->mean);
    return r->mean.total;
}

/* What the parts of a medium use one after another. */
typedef struct reading {
    const um_encode *e;
    um_arena *host;
    um_tower tower;
    um_tower_acts acts; /* of one part, bound once */
    um_medium *out;
    um_part_rows rows; /* at UM_AT_ROWS */
} reading;

/* The medium has so many rows, which fit, and parts. */
static void parts_begin(reading *r, int rows, size_t parts)
{
    r->out->rows = rows;
    r->out->part = um_arena_zero(r->host, parts * sizeof *r->out->part);
    if (r->out->at == UM_AT_ROWS) um_part_rows_begin(&r->rows, r->e, r->out);
}

/* A part with room for its values; of UM_AT_ROWS the medium has one for all. */
static um_medium_part *part_new(const reading *r, int real)
{
    um_medium *m = r->out;
    if (m->at == UM_AT_ROWS) return NULL;
    um_medium_part *p = &m->part[m->parts++];
    *p = (um_medium_part){.real = real, .values = um_tower_values(&r->tower, m->at, real)};
    p->value = um_arena_f32(r->host, 1, p->values);
    return p;
}

/* The front end has written the part's input into the acts: goes on to the point that is wanted. */
static um_status part_fwd(reading *r, um_medium_part *p, int real, um_err *err)
{
    const um_tower_point at = r->out->at;
    um_dev *dev = r->e->dev;
    if (at == UM_AT_ROWS) {
        um_tower_fwd(r->rows.next, &r->tower, &r->acts, UM_AT_INPUT, at, real, dev);
        um_part_rows_add(&r->rows);
        return UM_OK;
    }
    const size_t bytes = p->values * sizeof *p->value;
    if (at == UM_AT_INPUT) {
        memcpy(p->value, um_tower_at(&r->acts, &r->tower, UM_AT_INPUT), bytes);
        return UM_OK;
    }
    um_tower_fwd(NULL, &r->tower, &r->acts, UM_AT_INPUT, at, real, dev);
    dev->ops->get(dev, p->value, um_tower_at(&r->acts, &r->tower, at), bytes);
    return um_dev_sync(dev, err);
}

static um_status image_add(reading *r, um_medium_part *p, const um_image *image, const char *name,
                           um_err *err)
{
    const um_vision_model *v = &r->tower.model->vision;
    const size_t side = (size_t)v->image_size;
    const um_mark mark = um_arena_mark(r->host);
    float *pixels = um_arena_f32(r->host, (size_t)v->channels, side * side);
    um_status st = um_wrap(err, um_image_pixels(pixels, image, v, r->host, err), "%s", name);
    if (st == UM_OK) st = um_vision_input(&r->acts.vision, v, pixels, err);
    um_arena_reset(r->host, mark);
    return st == UM_OK ? part_fwd(r, p, 0, err) : st;
}

/* Images one after another: only one is in memory at a time, because there may be many large ones. */
static um_status images_read(reading *r, const Um__EncodeRequest *req, um_err *err)
{
    um_status st = UM_OK;
    parts_begin(r, um_tower_rows(&r->tower), req->n_media);
    for (size_t i = 0; i < req->n_media && st == UM_OK; i++) {
        um_medium_part *p = part_new(r, 0);
        const um_mark mark = um_arena_mark(r->host);
        um_image image = {0};
        st = um_decode_image(r->e->decoder, &image, req->name, req->media[i].data,
                             req->media[i].len, r->host, err);
        if (st == UM_OK) st = image_add(r, p, &image, req->name, err);
        um_arena_reset(r->host, mark);
    }
    return st;
}

/* A selection of a video file's frames. */
static um_status video_read(reading *r, const Um__EncodeRequest *req, um_err *err)
{
    um_image *frames = NULL;
    int count = 0;
    UM_TRY(um_decode_video(r->e->decoder, &frames, &count, r->e->video_frames, req->name,
                           req->media[0].data, req->media[0].len, r->host, err));
    parts_begin(r, um_tower_rows(&r->tower), (size_t)count);
    for (int i = 0; i < count; i++)
        UM_TRY(image_add(r, part_new(r, 0), &frames[i], req->name, err));
    return UM_OK;
}

static um_status vision_read(reading *r, const Um__EncodeRequest *req, um_err *err)
{
    UM_TRY(um_encode_rows_fit(r->e, um_tower_rows(&r->tower), req->name, err));
    return r->out->modality == UM_VIDEO && !req->frames ? video_read(r, req, err)
                                                        : images_read(r, req, err);
}

/* The windows of a wave. */
static um_status wave_read(reading *r, const Um__EncodeRequest *req, um_err *err)
{
    const bool exact = r->e->exact_windows;
    const int64_t window = um_tower_window(&r->tower), step = um_tower_step(&r->tower, exact);
    um_wave w = {0};
    UM_TRY(um_decode_wave(r->e->decoder, &w, req->name, req->media[0].data, req->media[0].len,
                          r->host, err));
    const int64_t rows = um_tower_wave_rows(&r->tower, w.n, exact);
    UM_TRY(um_encode_rows_fit(r->e, rows, req->name, err));
    UM_TRY(um_tower_check_finite(w.samples, w.n, "sample", err));
    parts_begin(r, (int)rows, (size_t)(rows / um_tower_rows(&r->tower)));
    for (int64_t at = 0; at < w.n; at += step) {
        const int64_t n = w.n - at < window ? w.n - at : window;
        const int real = um_tower_wave_input(&r->acts, &r->tower, w.samples + at, n, r->host);
        UM_TRY(part_fwd(r, part_new(r, real), real, err));
    }
    return UM_OK;
}

/* UM_AT_ROWS: one part with the rows of all. */
static um_status rows_bring(reading *r, um_err *err)
{
    const um_encode *e = r->e;
    um_medium *m = r->out;
    m->parts = 1;
    m->part[0].values = (size_t)m->rows * (size_t)e->towers.model->dim;
    m->part[0].value = um_arena_f32(r->host, 1, m->part[0].values);
    e->dev->ops->get(e->dev, m->part[0].value, um_part_rows_end(&r->rows),
                     m->part[0].values * sizeof(float));
    return um_dev_sync(e->dev, err);
}

um_status um_medium_read(um_medium *out, const um_encode *e, um_tower_point at,
                         const Um__EncodeRequest *req, um_arena *host, um_err *err)
{
    const um_mark mark = um_arena_mark(e->device);
    um_medium m = {.modality = (um_modality)req->modality, .at = at};
    reading r = {.e = e, .host = host, .out = &m};
    r.tower = um_medium_tower(e, m.modality);
    um_tower_acts_bind(&r.acts, &r.tower, host, e->device, UM_AT_INPUT, false);
    um_status st = r.tower.vision != NULL ? vision_read(&r, req, err) : wave_read(&r, req, err);
    if (st == UM_OK && at == UM_AT_ROWS) st = rows_bring(&r, err);
    um_arena_reset(e->device, mark);
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
