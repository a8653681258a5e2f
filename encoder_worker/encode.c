/* See encode.h. */
#include "encoder_worker/encode.h"

#include "encoder_worker/medium.h"

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

um_status um_encode_prepare(const um_encode *e, um_err *err)
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
    um_medium m;
    UM_TRY(um_encode_check(e, req, err));
    UM_TRY(um_medium_read(&m, e, UM_AT_ROWS, req, step, err));
    *rows = m.part[0].value;
    *n = m.rows;
    return UM_OK;
}
