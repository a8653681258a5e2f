/* See training_loop.h. */
#include "encoder_worker/training_loop.h"

#include "core/base/clock.h"

#include <string.h>

/* Whether this rank is the first encoder rank that reads one of the modalities. */
static bool is_first(const um_comm *c, uint32_t modalities)
{
    const um_topology *topo = &c->topo;
    for (int i = 0; i < topo->count[UM_ROLE_ENCODER]; i++) {
        const int rank = topo->of_role[UM_ROLE_ENCODER][i];
        if ((topo->ranks[rank].modalities & modalities) != 0) return rank == c->rank;
    }
    return false;
}

static bool trains_here(const void *ctx, const um_spec *s)
{
    const um_training_loop *t = ctx;
    return (t->parts >> s->at.part & 1) != 0 && um_select_trains(&t->select, s);
}

um_status um_training_choose(um_training_loop *t, um_role_base *base, um_err *err)
{
    const um_comm *c = base->link.comm;
    static const struct {
        uint32_t modalities, parts;
    } towers[] = {{UM_READS_VISION, 1u << UM_PART_VISION | 1u << UM_PART_PROJECTOR},
                  {1u << UM_SPEECH, 1u << UM_PART_SPEECH | 1u << UM_PART_SPEECH_ALIGNER},
                  {1u << UM_SOUND, 1u << UM_PART_SOUND | 1u << UM_PART_SOUND_ALIGNER}};
    UM_TRY(um_select_open(&t->select, base->cfg, &base->ck.model, &base->model, err));
    t->base = base;
    for (size_t i = 0; i < sizeof towers / sizeof *towers; i++)
        if (is_first(c, towers[i].modalities)) t->parts |= towers[i].parts;
    return um_select_adapt(&t->select, &base->params, err);
}

/* Masters and gradients of what trains here, and their first values. */
static um_status start(um_training_loop *t, um_err *err)
{
    um_params *ps = &t->base->params;
    UM_TRY(um_params_train(ps, trains_here, t, err));
    return t->select.start != NULL ? um_params_start(ps, t->select.start, err) : UM_OK;
}

um_status um_training_begin(um_training_loop *t, um_encode *encode, um_err *err)
{
    um_role_base *b = t->base;
    const um_config *cfg = b->cfg;
    const um_encoder_settings how = {.tower_cache = (size_t)cfg->tower_cache,
                                     .activation_memory = (size_t)cfg->activation_memory,
                                     .recompute = strcmp(cfg->recompute, "layer") == 0,
                                     .dropout = (float)t->select.dropout,
                                     .seed = (uint64_t)cfg->seed};
    um_saved saved = {0};
    um_status st = UM_OK;
    UM_TRY(start(t, err));
    t->encode = encode;
    t->optimizer = um_optimizer_open(&b->params, &t->select.optimizer);
    t->state = (um_state){.params = &b->params,
                          .optimizer = t->optimizer,
                          .name = um_arena_fmt(&b->model, "encoder-%d",
                                               b->link.comm->topo.ranks[b->link.comm->rank].index)};
    if (cfg->resume[0] != '\0') st = um_saved_open(&saved, cfg->resume, false, err);
    if (st == UM_OK && cfg->resume[0] != '\0') st = um_state_load(&t->state, &saved, err);
    const uint64_t first = saved.step + 1;
    um_saved_close(&saved);
    UM_TRY(st);
    UM_TRY(um_encode_prepare(encode, err));
    t->train = um_encoder_train_open(encode, &b->params, &b->lora, &how);
    um_step_follower_open(&t->step, &b->link, &b->params, t->optimizer, um_state_save, &t->state,
                          first);
    return UM_OK;
}

void um_training_close(um_training_loop *t)
{
    if (t->base == NULL) return;
    if (t->train != NULL) um_step_follower_close(&t->step);
    um_encoder_train_close(t->train);
    um_optimizer_close(t->optimizer);
    um_select_close(&t->select);
    *t = (um_training_loop){0};
}

um_status um_training_later(um_training_loop *t, bool *later, const Um__EncodeRequest *req,
                            um_inbound *in, um_err *err)
{
    UM_TRY(um_step_check(&t->step, later, req->train->step, in, err));
    if (!*later) return UM_OK;
    t->base->link.phase = "encoding media of a later step";
    um_encoder_train_ahead(t->train, req, &t->base->step);
    um_step_hold(&t->step, in);
    return UM_OK;
}

/* When the routers are through and all gradients are here: the sum of the step, and its norms to router 0. */
static um_status finish(um_training_loop *t, um_err *err)
{
    if (!t->step.finishing || um_encoder_train_open_items(t->train) > 0) return UM_OK;
    um_encoder_train_sum(t->train);
    return um_step_norms(&t->step, err);
}

um_status um_training_grad(um_training_loop *t, um_inbound *in, um_err *err)
{
    um_role_base *b = t->base;
    const um_frame *f = &in->frame;
    const um_item_key key = {f->step, f->batch, f->layer};
    bool later = false;
    float *rows = NULL;
    b->link.phase = "backward of encoders";
    UM_TRY(um_step_check(&t->step, &later, f->step, in, err));
    if (later) {
        um_step_hold(&t->step, in);
        return UM_OK;
    }
    if (f->rows > INT32_MAX || (f->rows > 0 && f->cols != (uint32_t)b->ck.model.dim))
        return UM_FAIL(err, UM_E_CORRUPT, "gradient of %u rows of %u values, the model has %d",
                       f->rows, f->cols, b->ck.model.dim);
    const int64_t from = um_now_ns();
    UM_TRY(um_encoder_train_room(t->train, &rows, key, (int)f->rows, err));
    if (rows != NULL) UM_TRY(um_link_rows_in(&b->link, &b->dev, rows, in, &b->step, err));
    UM_TRY(um_encoder_train_grad(t->train, key, err));
    b->link.stats.compute_ns += um_now_ns() - from;
    return finish(t, err);
}

um_status um_training_step(um_training_loop *t, const um_inbound *in, bool *applied, um_err *err)
{
    t->base->link.phase = "ending a step";
    UM_TRY(um_step_follow(&t->step, in, applied, err));
    return *applied ? um_encoder_train_next(t->train, err) : finish(t, err);
}
