/* The loop of an encoder rank: one EncodeRequest in, one EncodeResult with rows out. See encoder.h. */
#include "encoder_worker/encoder.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/comm/join.h"
#include "encoder_worker/encode.h"

#include <stdio.h>

typedef struct worker {
    um_link link;
    um_dev dev;
    um_checkpoint ck;
    um_encode encode;
    um_arena model, step;
} worker;

static void beat(void *ctx)
{
    worker *w = ctx;
    um_err ignored = {0}; /* a peer that cannot be told now is noticed at the next receive */
    um_link_heartbeat(&w->link, &ignored);
}

/* Packs the result's words in front of the rows and sends both. */
static um_status answer(worker *w, int peer, const Um__EncodeResult *res, const float *rows, int n,
                        um_err *err)
{
    size_t bytes = um_control_size(&res->base);
    uint8_t *meta = um_arena_alloc(&w->step, bytes);
    um_control_pack(&res->base, meta);
    um_data_frame f = {.kind = UM_KIND_ENCODED,
                       .meta = meta,
                       .meta_bytes = (uint32_t)bytes,
                       .rows = rows,
                       .n = (uint32_t)n,
                       .cols = (uint32_t)w->ck.model.dim};
    return um_link_send_rows(&w->link, peer, &f, &w->step, err);
}

static um_status serve_encode(worker *w, const um_inbound *in, um_err *err)
{
    um_mark mark = um_arena_mark(&w->step);
    ProtobufCMessage *msg = NULL;
    um_status st = um_link_unpack(&msg, &um__encode_request__descriptor, in, &w->step, err);
    if (st == UM_OK) {
        const Um__EncodeRequest *req = (const Um__EncodeRequest *)msg;
        Um__EncodeResult res = UM__ENCODE_RESULT__INIT;
        float *rows = NULL;
        um_err why = {0};
        int64_t start = um_now_ns();
        int n = 0;
        w->link.phase = "encoding media";
        um_status item = um_encode_item(&w->encode, &rows, &n, req, &w->step, &why);
        res.key = req->key;
        res.status = (uint32_t)item;
        res.text = why.msg;
        res.encode_us = (uint64_t)((um_now_ns() - start) / 1000);
        w->link.stats.compute_ns += um_now_ns() - start;
        st = answer(w, in->msg.peer, &res, rows, item == UM_OK ? n : 0, err);
    }
    um_arena_reset(&w->step, mark);
    return st;
}

static um_status serve(worker *w, um_err *err)
{
    for (;;) {
        um_inbound in = {0};
        Um__Stats s;
        um_status st = UM_OK;
        w->link.phase = "waiting for media";
        UM_TRY(um_link_next(&w->link, &in, -1, err));
        um_kind kind = in.frame.kind;
        if (kind == UM_KIND_ENCODE) {
            st = serve_encode(w, &in, err);
        } else if (kind == UM_KIND_STATS) {
            um_join_stats(&w->link, &s);
            st = um_link_control(&w->link, in.msg.peer, UM_KIND_STATS, &s.base, err);
        } else if (kind != UM_KIND_SHUTDOWN) {
            st = UM_FAIL(err, UM_E_CORRUPT, "%s frame of rank %d: an encoder rank does not take it",
                         um_kind_name(kind), in.msg.peer);
        }
        um_link_release(&w->link, &in);
        if (st != UM_OK || kind == UM_KIND_SHUTDOWN) return st;
    }
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

static um_status load(worker *w, const um_config *cfg, um_err *err)
{
    um_media_limits limits = {.pixels = cfg->image_max_pixels,
                              .seconds = cfg->media_max_seconds,
                              .frames = cfg->video_frames,
                              .wait_ms = cfg->media_wait_ms};
    size_t before = w->model.used;
    uint32_t set = 0;
    char text[64];
    w->link.phase = "loading encoders";
    w->encode = (um_encode){.dev = &w->dev,
                            .video_frames = (int)cfg->video_frames,
                            .exact_windows = cfg->speech_exact_windows,
                            .max_values = um_link_values_max(&w->link),
                            .beat = beat,
                            .beat_ctx = w};
    UM_TRY(um_join_modalities(&set, cfg, &w->ck.model, err));
    UM_TRY(um_decoder_open(&w->encode.decoder, cfg->decoder, &limits, beat, w, err));
    um_decoder_orient(w->encode.decoder, cfg->image_orientation[0] == 'e');
    UM_TRY(um_wrap(err, um_encode_load(&w->encode, &w->ck, set, cfg->weights, &w->model, err),
                   "load encoders"));
    um_log_info("encoders: %s, %.1f MiB", set_text(set, text),
                (double)(w->model.used - before) / 1048576.0);
    return um_join_ready(&w->link, w->model.used - before, 0, err);
}

um_status um_encoder_run(const um_config *cfg, um_comm *comm, um_err *err)
{
    worker w = {0};
    um_arena_init(&w.model, "encoder weights", 1 << 20);
    um_arena_init(&w.step, "encoder step", 1 << 20);
    um_link_open(&w.link, comm);
    um_towers towers = {cfg->vision_tower, cfg->speech_tower, cfg->sound_tower};
    um_status st = um_dev_open_cpu(&w.dev, (um_isa)um_isa_from_name(cfg->isa),
                                   um_join_threads(comm, cfg->threads), err);
    if (st == UM_OK) st = um_checkpoint_open(&w.ck, cfg->model, &towers, err);
    if (st == UM_OK) st = um_join_follow(&w.link, cfg, &w.ck.model, &w.model, err);
    if (st == UM_OK && cfg->image_aspect[0] != '\0')
        w.ck.model.vision.pad_square = cfg->image_aspect[0] == 'p';
    if (st == UM_OK) st = load(&w, cfg, err);
    if (st == UM_OK) st = serve(&w, err);
    if (st != UM_OK && st != UM_E_STOPPED) um_link_error(&w.link, st, err->msg);
    um_decoder_close(w.encode.decoder);
    um_link_close(&w.link);
    um_checkpoint_close(&w.ck);
    um_arena_free(&w.step);
    um_arena_free(&w.model);
    return st;
}
