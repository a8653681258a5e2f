/* The loop of an encoder rank: one EncodeRequest in, one EncodeResult with rows out. See encoder.h. */
#include "encoder_worker/encoder.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/comm/join.h"
#include "core/comm/role.h"
#include "encoder_worker/encoder_steps.h"

#include <stdio.h>

typedef struct worker {
    um_role_base base;
    um_encode encode;
    um_encoder_steps steps; /* of a job that trains */
} worker;

/* Sends the packed EncodeResult followed by the rows. Of a training medium the frame says which it is. */
static um_status answer(worker *w, int peer, const Um__EncodeRequest *req,
                        const Um__EncodeResult *res, const float *rows, int n, um_err *err)
{
    const Um__EncodeTraining *train = req->train;
    size_t bytes = um_control_size(&res->base);
    uint8_t *meta = um_arena_alloc(&w->base.step, bytes);
    um_control_pack(&res->base, meta);
    um_data_frame f = {.kind = UM_KIND_ENCODED,
                       .meta = meta,
                       .meta_bytes = (uint32_t)bytes,
                       .rows = rows,
                       .n = (uint32_t)n,
                       .cols = (uint32_t)w->base.ck.model.dim};
    if (train != NULL) {
        f.step = train->step;
        f.batch = train->batch;
        f.layer = train->item;
    }
    return um_link_send_rows(&w->base.link, peer, &f, &w->base.step, err);
}

static um_status encode(worker *w, int peer, const Um__EncodeRequest *req, um_err *err)
{
    Um__EncodeResult res = UM__ENCODE_RESULT__INIT;
    float *rows = NULL;
    um_err why = {0};
    um_status item = UM_OK;
    const int64_t start = um_now_ns();
    int n = 0;
    w->base.link.phase = "encoding media";
    if (req->train != NULL && w->base.cfg->train)
        UM_TRY(
            um_encoder_train_rows(w->steps.train, &rows, &n, &item, &why, req, &w->base.step, err));
    else
        item = um_encode_item(&w->encode, &rows, &n, req, &w->base.step, &why);
    res.key = req->key;
    res.status = (uint32_t)item;
    res.text = why.msg;
    res.encode_us = (uint64_t)((um_now_ns() - start) / 1000);
    w->base.link.stats.compute_ns += um_now_ns() - start;
    return answer(w, peer, req, &res, rows, item == UM_OK ? n : 0, err);
}

static um_status work(void *ctx, um_inbound *in, um_err *err)
{
    worker *w = ctx;
    um_mark mark = um_arena_mark(&w->base.step);
    ProtobufCMessage *msg = NULL;
    bool later = false;
    um_status st = um_link_unpack(&msg, &um__encode_request__descriptor, in, &w->base.step, err);
    const Um__EncodeRequest *req = (const Um__EncodeRequest *)msg;
    if (st == UM_OK && req->train != NULL && w->base.cfg->train)
        st = um_encoder_steps_later(&w->steps, &later, req, in, err);
    if (st == UM_OK && !later) st = encode(w, in->msg.peer, req, err);
    um_arena_reset(&w->base.step, mark);
    return st;
}

/* The gradient of a medium's rows. */
static um_status back(void *ctx, um_inbound *in, um_err *err)
{
    worker *w = ctx;
    return um_encoder_steps_grad(&w->steps, in, err);
}

/* A frame that was held until its step began. */
static um_status held(void *ctx, um_inbound *in, um_err *err)
{
    return in->frame.kind == UM_KIND_ENCODE ? work(ctx, in, err) : back(ctx, in, err);
}

/* The end of a step, and then what was held for the next one. */
static um_status step_end(void *ctx, um_inbound *in, um_err *err)
{
    worker *w = ctx;
    bool applied = false;
    UM_TRY(um_encoder_steps_end(&w->steps, in, &applied, err));
    return applied ? um_training_rank_replay(&w->steps.rank, held, w, err) : UM_OK;
}

static const char *set_text(uint32_t set, char out[64])
{
    int n = 0;
    out[0] = '\0';
    for (int m = UM_IMAGE; m < UM_MODALITIES; m++)
        if (set >> m & 1)
            n += snprintf(out + n, 64 - (size_t)n, "%s%s", n > 0 ? ", " : "",
                          um_modality_name((um_modality)m));
    return n > 0 ? out : "nothing";
}

static um_status load(worker *w, um_err *err)
{
    const um_config *cfg = w->base.cfg;
    um_media_limits limits = {.pixels = cfg->image_max_pixels,
                              .seconds = cfg->media_max_seconds,
                              .frames = cfg->video_frames,
                              .wait_ms = cfg->media_wait_ms};
    size_t before = w->base.device.used;
    uint32_t set = 0;
    char text[64];
    w->base.link.phase = "loading encoders";
    w->encode = (um_encode){.dev = &w->base.dev,
                            .device = &w->base.device_step,
                            .video_frames = (int)cfg->video_frames,
                            .exact_windows = cfg->speech_exact_windows,
                            .max_values = um_link_values_max(&w->base.link)};
    UM_TRY(um_join_modalities(&set, cfg, &w->base.ck.model, err));
    UM_TRY(um_role_own(&w->base, set, err));
    if (cfg->train) UM_TRY(um_training_rank_choose(&w->steps.rank, &w->base, err));
    UM_TRY(um_decoder_open(&w->encode.decoder, cfg->decoder, &limits, err));
    um_decoder_orient(w->encode.decoder, cfg->image_orientation[0] == 'e');
    UM_TRY(um_wrap(err, um_encode_load(&w->encode, &w->base.params, set, err), "load encoders"));
    if (cfg->train) UM_TRY(um_encoder_steps_begin(&w->steps, &w->encode, err));
    um_log_info("encoders: %s, %.1f MiB", set_text(set, text),
                (double)(w->base.device.used - before) / 1048576.0);
    return um_join_ready(&w->base.link, w->base.device.used - before, 0, err);
}

static um_status serve(worker *w, um_err *err)
{
    const char *idle = "waiting for media";
    const um_role_task answers[] = {{UM_KIND_ENCODE, work, false}},
                       trains[] = {{UM_KIND_ENCODE, work, false},
                                   {UM_KIND_ENCODE_GRAD, back, false},
                                   {UM_KIND_STEP_END, step_end, true}};
    if (w->base.cfg->train) return um_role_serve(&w->base, trains, 3, idle, w, err);
    return um_role_serve(&w->base, answers, 1, idle, w, err);
}

um_status um_encoder_run(const um_config *cfg, um_comm *comm, um_err *err)
{
    worker w = {0};
    um_status st = um_role_begin(&w.base, cfg, comm, err);
    if (st == UM_OK) st = um_role_join(&w.base, err);
    if (st == UM_OK && cfg->image_aspect[0] != '\0')
        w.base.ck.model.vision.pad_square = cfg->image_aspect[0] == 'p';
    if (st == UM_OK) st = load(&w, err);
    if (st == UM_OK) st = serve(&w, err);
    um_encoder_steps_close(&w.steps);
    um_decoder_close(w.encode.decoder);
    um_role_end(&w.base, st, err);
    return st;
}
