/* See sound.h. A wave is cut into windows; each passes through the filter bank and BEATs (beats.h), the Q-Former (qformer.h) and the
 * projector. */
#include "encoder_worker/towers/sound.h"

#include "encoder_worker/towers/beats.h"
#include "encoder_worker/towers/qformer.h"

struct um_sound {
    const um_sound_model *model;
    um_beats beats;
    um_qformer qformer;
    um_linear *projector; /* [proj_layers] */
    int dim_out;          /* width of the language model */
};

struct um_sound_acts {
    um_beats_acts beats;
    um_qformer_acts qformer;
    um_projector_acts *projector;
};

um_status um_sound_load(um_sound **out, um_params *ps, um_err *err)
{
    const um_sound_model *m = &ps->ck->model.sound;
    if (!m->present) return UM_FAIL(err, UM_E_MODEL, "the model has no sound tower");
    um_sound *s = um_arena_zero(ps->how.host, sizeof *s);
    *s = (um_sound){.model = m, .dim_out = ps->ck->model.dim};
    UM_TRY(um_beats_load(&s->beats, ps, err));
    UM_TRY(um_qformer_load(&s->qformer, ps, err));
    UM_TRY(um_tower_load_projector(&s->projector, ps, UM_PART_SOUND_ALIGNER, m->proj_layers, err));
    UM_TRY(um_sound_prepare(s, err));
    *out = s;
    return UM_OK;
}

um_status um_sound_prepare(um_sound *s, um_err *err) { return um_beats_prepare(&s->beats, err); }

int64_t um_sound_rows(const um_sound_model *m, int64_t n)
{
    const int64_t window = um_beats_window(m);
    return (n + window - 1) / window * m->queries;
}

um_sound_acts *um_sound_acts_bind(um_arena *host, um_arena *device, const um_sound_model *m,
                                  int dim_out, bool keep)
{
    um_sound_acts *a = um_arena_zero(host, sizeof *a);
    um_beats_acts_bind(&a->beats, host, device, m, keep);
    um_qformer_acts_bind(&a->qformer, host, device, m, um_beats_rows(m), keep);
    um_projector_acts_bind(&a->projector, host, device, m->proj_layers, m->queries, dim_out, keep);
    return a;
}

um_status um_sound_encode(float *rows, const um_sound *s, um_sound_acts *a, const float *wave,
                          int64_t n, um_dev *dev, um_arena *host, um_err *err)
{
    const um_sound_model *m = s->model;
    UM_TRY(um_tower_check_finite(wave, n, "sample", err));
    const int64_t window = um_beats_window(m);
    for (int64_t at = 0; at < n; at += window) {
        const int64_t left = n - at;
        um_beats_encode(&a->beats, &s->beats, wave + at, left < window ? left : window, dev, host);
        um_qformer_encode(&a->qformer, &s->qformer, a->beats.out, s->beats.rows, dev);
        um_tower_project(dev, rows, a->projector, s->projector, m->proj_layers, a->qformer.last,
                         m->queries);
        rows += (size_t)m->queries * (size_t)s->dim_out;
    }
    return UM_OK;
}
