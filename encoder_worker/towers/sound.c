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

int64_t um_sound_window(const um_sound_model *m) { return um_beats_window(m); }

um_sound_acts *um_sound_acts_bind(um_arena *host, um_arena *device, const um_sound_model *m,
                                  int dim_out, um_tower_point from, bool keep)
{
    um_sound_acts *a = um_arena_zero(host, sizeof *a);
    if (from == UM_AT_INPUT) um_beats_acts_bind(&a->beats, host, device, m, keep);
    if (from == UM_AT_TOWER)
        a->beats.out = um_arena_f32(device, (size_t)um_beats_rows(m), (size_t)m->dim);
    if (from <= UM_AT_TOWER)
        um_qformer_acts_bind(&a->qformer, host, device, m, um_beats_rows(m), keep);
    else
        a->qformer.last = um_arena_f32(device, (size_t)m->queries, (size_t)m->q_dim);
    um_projector_acts_bind(&a->projector, host, device, m->proj_layers, m->queries, dim_out, keep);
    return a;
}

float *um_sound_at(const um_sound_acts *a, um_tower_point at)
{
    UM_ASSERT(at != UM_AT_ROWS);
    return at == UM_AT_INPUT ? a->beats.staged : at == UM_AT_TOWER ? a->beats.out : a->qformer.last;
}

size_t um_sound_values(const um_sound_model *m, um_tower_point at, int real)
{
    UM_ASSERT(at != UM_AT_ROWS);
    if (at == UM_AT_INPUT) return (size_t)real * (size_t)m->patch * (size_t)m->patch;
    if (at == UM_AT_TOWER) return (size_t)um_beats_rows(m) * (size_t)m->dim;
    return (size_t)m->queries * (size_t)m->q_dim;
}

int um_sound_input(um_sound_acts *a, const um_sound *s, const float *wave, int64_t n,
                   um_arena *host)
{
    return um_beats_input(&a->beats, &s->beats, wave, n, host);
}

void um_sound_fwd(float *rows, const um_sound *s, um_sound_acts *a, um_tower_point from,
                  um_tower_point to, int real, um_dev *dev)
{
    const um_sound_model *m = s->model;
    if (from == UM_AT_INPUT) um_beats_fwd(&a->beats, &s->beats, real, dev);
    if (from <= UM_AT_TOWER && to > UM_AT_TOWER)
        um_qformer_fwd(&a->qformer, &s->qformer, a->beats.out, s->beats.rows, dev);
    if (to == UM_AT_ROWS)
        um_tower_project(dev, rows, a->projector, s->projector, m->proj_layers, a->qformer.last,
                         m->queries);
}

um_status um_sound_encode(float *rows, const um_sound *s, um_sound_acts *a, const float *wave,
                          int64_t n, um_dev *dev, um_arena *host, um_err *err)
{
    const um_sound_model *m = s->model;
    const int64_t window = um_beats_window(m);
    UM_TRY(um_tower_check_finite(wave, n, "sample", err));
    for (int64_t at = 0; at < n; at += window) {
        const int64_t left = n - at;
        const int real = um_sound_input(a, s, wave + at, left < window ? left : window, host);
        um_sound_fwd(rows, s, a, UM_AT_INPUT, UM_AT_ROWS, real, dev);
        rows += (size_t)m->queries * (size_t)s->dim_out;
    }
    return UM_OK;
}

void um_sound_bwd(um_sound *s, const um_sound_acts *a, um_tower_point from, int real,
                  const float *drows, um_dev *dev, um_arena *scratch)
{
    const um_sound_model *m = s->model;
    const um_mark mark = um_arena_mark(scratch);
    const size_t Q = um_sound_values(m, UM_AT_CONNECTOR, real),
                 T = um_sound_values(m, UM_AT_TOWER, real);
    float *dlast = from <= UM_AT_TOWER ? um_tower_zeros(dev, scratch, Q) : NULL;
    um_tower_project_bwd(dev, dlast, a->projector, s->projector, m->proj_layers, drows,
                         a->qformer.last, m->queries, scratch);
    if (from <= UM_AT_TOWER) {
        float *dout = from == UM_AT_INPUT ? um_tower_zeros(dev, scratch, T) : NULL;
        um_qformer_bwd(&a->qformer, &s->qformer, dout, dlast, a->beats.out, s->beats.rows, dev,
                       scratch);
        if (from == UM_AT_INPUT) um_beats_bwd(&s->beats, &a->beats, real, dout, dev, scratch);
    }
    um_arena_reset(scratch, mark);
}

um_status um_sound_grads(um_sound *s, um_err *err) { return um_beats_grads(&s->beats, err); }
