/* See tower.h. */
#include "encoder_worker/towers/tower.h"

/* Frames of a video: a few hundred rows, which make products of a good size and bound the memory of the rest. */
enum { IMAGES_AT_ONCE = 8 };

int um_tower_at_once(const um_tower *t) { return t->vision != NULL ? IMAGES_AT_ONCE : 1; }

void um_tower_acts_bind(um_tower_acts *a, const um_tower *t, um_arena *host, um_arena *device,
                        um_tower_point from, bool keep)
{
    um_tower_acts_bind_parts(a, 1, t, host, device, from, keep);
}

void um_tower_acts_bind_parts(um_tower_acts *a, int parts, const um_tower *t, um_arena *host,
                              um_arena *device, um_tower_point from, bool keep)
{
    const um_model *m = t->model;
    UM_ASSERT(parts >= 1 && parts <= um_tower_at_once(t));
    *a = (um_tower_acts){0};
    if (t->vision != NULL)
        um_vision_acts_bind_images(&a->vision, parts, host, device, &m->vision, m->dim, from, keep);
    else if (t->speech != NULL)
        a->speech = um_speech_acts_bind(host, device, &m->speech, m->dim, from, keep);
    else
        a->sound = um_sound_acts_bind(host, device, &m->sound, m->dim, from, keep);
}

float *um_tower_at(const um_tower_acts *a, const um_tower *t, um_tower_point at)
{
    if (t->vision != NULL) return um_vision_at(&a->vision, at);
    return t->speech != NULL ? um_speech_at(a->speech, at) : um_sound_at(a->sound, at);
}

size_t um_tower_values(const um_tower *t, um_tower_point at, int real)
{
    const um_model *m = t->model;
    if (t->vision != NULL) return um_vision_values(&m->vision, at);
    return t->speech != NULL ? um_speech_values(&m->speech, at)
                             : um_sound_values(&m->sound, at, real);
}

int um_tower_rows(const um_tower *t)
{
    const um_model *m = t->model;
    if (t->vision != NULL) return um_vision_rows(&m->vision);
    return t->speech != NULL ? m->speech.queries : m->sound.queries;
}

int64_t um_tower_window(const um_tower *t)
{
    const um_model *m = t->model;
    return t->speech != NULL ? um_speech_window(&m->speech) : um_sound_window(&m->sound);
}

int64_t um_tower_step(const um_tower *t, bool exact)
{
    return t->speech != NULL ? um_speech_step(&t->model->speech, exact) : um_tower_window(t);
}

int64_t um_tower_wave_rows(const um_tower *t, int64_t n, bool exact)
{
    const um_model *m = t->model;
    return t->speech != NULL ? um_speech_rows(&m->speech, n, exact) : um_sound_rows(&m->sound, n);
}

int um_tower_wave_input(um_tower_acts *a, const um_tower *t, const float *wave, int64_t n,
                        um_arena *host)
{
    if (t->speech == NULL) return um_sound_input(a->sound, t->sound, wave, n, host);
    um_speech_input(a->speech, t->speech, wave, n, host);
    return 0;
}

void um_tower_fwd(float *rows, const um_tower *t, um_tower_acts *a, um_tower_point from,
                  um_tower_point to, int real, um_dev *dev)
{
    if (t->vision != NULL)
        um_vision_fwd(rows, t->vision, &a->vision, from, to, dev);
    else if (t->speech != NULL)
        um_speech_fwd(rows, t->speech, a->speech, from, to, dev);
    else
        um_sound_fwd(rows, t->sound, a->sound, from, to, real, dev);
}

void um_tower_bwd(const um_tower *t, const um_tower_acts *a, um_tower_point from, int real,
                  const float *drows, um_dev *dev, um_arena *scratch)
{
    if (t->vision != NULL)
        um_vision_bwd(t->vision, &a->vision, from, drows, dev, scratch);
    else if (t->speech != NULL)
        um_speech_bwd(t->speech, a->speech, from, drows, dev, scratch);
    else
        um_sound_bwd(t->sound, a->sound, from, real, drows, dev, scratch);
}

/* The point before what a tensor of the parts computes. */
static um_tower_point point_of(const um_spec *s, um_part tower, um_part connector)
{
    if (s->at.part == tower) return UM_AT_INPUT;
    if (s->at.part != connector) return UM_AT_ROWS;
    return s->at.slot == UM_SLOT_PROJECTOR ? UM_AT_CONNECTOR : UM_AT_TOWER;
}

um_tower_point um_tower_lowest(const um_tower *t, const um_params *ps)
{
    const um_part tower = t->vision != NULL   ? UM_PART_VISION
                          : t->speech != NULL ? UM_PART_SPEECH
                                              : UM_PART_SOUND,
                  connector = t->vision != NULL   ? UM_PART_PROJECTOR
                              : t->speech != NULL ? UM_PART_SPEECH_ALIGNER
                                                  : UM_PART_SOUND_ALIGNER;
    um_tower_point lowest = UM_AT_ROWS;
    for (size_t i = 0; i < ps->n; i++) {
        if (!ps->list[i].trained) continue;
        const um_tower_point at = point_of(&ps->list[i].spec, tower, connector);
        if (at < lowest) lowest = at;
    }
    return lowest;
}
