/* See sound.h. A wave is cut into windows; each passes through the filter bank and BEATs (beats.h), the Q-Former (qformer.h) and the
 * projector. */
#include "encoder_worker/towers/sound.h"

#include "encoder_worker/towers/beats.h"
#include "encoder_worker/towers/qformer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

struct um_sound {
    const um_sound_model *model;
    um_beats beats;
    um_qformer qformer;
    um_linear *projector; /* [proj_layers] */
    int dim_out;          /* width of the language model */
};

um_status um_sound_load(um_sound **out, const um_checkpoint *ck, um_dev *dev, const char *weights,
                        um_arena *model, um_err *err)
{
    const um_sound_model *m = &ck->model.sound;
    um_tower_loader l = {um_checkpoint_set(ck, UM_PART_SOUND), dev, weights, model, err};
    um_sound *s = um_arena_zero(model, sizeof *s);
    if (!m->present || l.set == NULL)
        return UM_FAIL(err, UM_E_MODEL, "the model has no sound tower");
    *s = (um_sound){.model = m, .dim_out = ck->model.dim};
    UM_TRY(um_beats_load(&s->beats, m, &l));
    l.set = um_checkpoint_set(ck, UM_PART_SOUND_ALIGNER);
    UM_TRY(um_qformer_load(&s->qformer, m, &l));
    char prefix[100];
    snprintf(prefix, sizeof prefix, "%sprojector", m->names.prefix);
    UM_TRY(um_tower_load_projector(&l, &s->projector, prefix, m->proj, m->proj_layers, s->dim_out,
                                   m->q_dim));
    *out = s;
    return UM_OK;
}

int64_t um_sound_rows(const um_sound_model *m, int64_t n)
{
    return (n + UM_WAVE_WINDOW - 1) / UM_WAVE_WINDOW * m->queries;
}

um_status um_sound_encode(float *rows, const um_sound *s, const float *wave, int64_t n, um_dev *dev,
                          um_arena *scratch, um_err *err)
{
    const um_sound_model *m = s->model;
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(wave[i]))
            return UM_FAIL(err, UM_E_DATA, "sample %" PRId64 " is not finite", i);
    um_mark mark = um_arena_mark(scratch);
    float *x = um_arena_f32(scratch, (size_t)s->beats.rows, (size_t)m->dim);
    float *y = um_arena_f32(scratch, (size_t)m->queries, (size_t)m->q_dim);
    for (int64_t at = 0; at < n; at += UM_WAVE_WINDOW) {
        const int64_t left = n - at;
        um_mark window = um_arena_mark(scratch);
        um_beats_encode(x, &s->beats, wave + at, left < UM_WAVE_WINDOW ? left : UM_WAVE_WINDOW, dev,
                        scratch);
        um_qformer_encode(y, &s->qformer, x, s->beats.rows, dev, scratch);
        um_tower_project(dev, rows, s->projector, m->proj_layers, y, m->queries, scratch);
        rows += (size_t)m->queries * (size_t)s->dim_out;
        um_arena_reset(scratch, window);
    }
    um_arena_reset(scratch, mark);
    return UM_OK;
}
