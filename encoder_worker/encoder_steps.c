/* See encoder_steps.h. */
#include "encoder_worker/encoder_steps.h"

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

/* What trains on this rank if it trains at all. */
typedef struct here {
    const um_select *select;
    uint32_t parts; /* bits 1 << um_part */
} here;

static uint32_t parts_here(const um_comm *c)
{
    static const struct {
        uint32_t modalities, parts;
    } towers[] = {{UM_READS_VISION, 1u << UM_PART_VISION | 1u << UM_PART_PROJECTOR},
                  {1u << UM_SPEECH, 1u << UM_PART_SPEECH | 1u << UM_PART_SPEECH_ALIGNER},
                  {1u << UM_SOUND, 1u << UM_PART_SOUND | 1u << UM_PART_SOUND_ALIGNER}};
    uint32_t parts = 0;
    for (size_t i = 0; i < sizeof towers / sizeof *towers; i++)
        if (is_first(c, towers[i].modalities)) parts |= towers[i].parts;
    return parts;
}

/* A um_trained_fn. */
static bool trains_here(const void *ctx, const um_spec *s)
{
    const here *h = ctx;
    return (h->parts >> s->at.part & 1) != 0 && um_select_trains(h->select, s);
}

um_status um_encoder_steps_begin(um_encoder_steps *t, const um_encode *e, um_err *err)
{
    um_role_base *b = t->rank.base;
    const um_config *cfg = b->cfg;
    const here h = {&t->rank.select, parts_here(b->link.comm)};
    const um_encoder_settings how = {.tower_cache = (size_t)cfg->tower_cache,
                                     .activation_memory = (size_t)cfg->activation_memory,
                                     .recompute = strcmp(cfg->recompute, "layer") == 0,
                                     .dropout = (float)t->rank.select.dropout,
                                     .seed = (uint64_t)cfg->seed};
    UM_TRY(um_training_rank_begin(&t->rank, trains_here, &h, err));
    UM_TRY(um_encode_prepare(e, err));
    t->train = um_encoder_train_open(e, &b->params, &b->lora, &how);
    return UM_OK;
}

void um_encoder_steps_close(um_encoder_steps *t)
{
    um_encoder_train_close(t->train);
    um_training_rank_close(&t->rank);
    *t = (um_encoder_steps){0};
}

um_status um_encoder_steps_later(um_encoder_steps *t, bool *later, const Um__EncodeRequest *req,
                                 um_inbound *in, um_err *err)
{
    UM_TRY(um_step_check(&t->rank.step, later, req->train->step, in, err));
    if (!*later) return UM_OK;
    t->rank.base->link.phase = "encoding media of a later step";
    um_encoder_train_ahead(t->train, req, &t->rank.base->step);
    um_step_hold(&t->rank.step, in);
    return UM_OK;
}

/* When the routers are through and all gradients are here: the sum of the step, and its norms to router 0. */
static um_status finish(um_encoder_steps *t, um_err *err)
{
    if (!t->rank.step.finishing || um_encoder_train_open_items(t->train) > 0) return UM_OK;
    um_encoder_train_sum(t->train);
    return um_step_norms(&t->rank.step, err);
}

um_status um_encoder_steps_grad(um_encoder_steps *t, um_inbound *in, um_err *err)
{
    um_role_base *b = t->rank.base;
    const um_frame *f = &in->frame;
    const um_item_key key = {f->step, f->batch, f->layer};
    bool later = false;
    float *rows = NULL;
    b->link.phase = "backward of encoders";
    UM_TRY(um_step_check(&t->rank.step, &later, f->step, in, err));
    if (later) {
        um_step_hold(&t->rank.step, in);
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

um_status um_encoder_steps_end(um_encoder_steps *t, const um_inbound *in, bool *applied,
                               um_err *err)
{
    t->rank.base->link.phase = "ending a step";
    UM_TRY(um_step_follow(&t->rank.step, in, applied, err));
    return *applied ? um_encoder_train_next(t->train, err) : finish(t, err);
}
