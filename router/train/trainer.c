/* See trainer.h. */
#include "router/train/trainer.h"

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/process.h"
#include "core/comm/join.h"
#include "core/comm/role.h"
#include "core/train/log/train_log.h"
#include "core/train/record.h"
#include "core/train/saved.h"
#include "core/train/schedule.h"
#include "core/train/state.h"
#include "router/train/aux_coefficients.h"
#include "router/train/evaluate.h"
#include "router/train/trace_train.h"
#include "router/train/train_step.h"
#include "router/train/trainer_state.h"

#include <inttypes.h>
#include <math.h>
#include <unistd.h>

enum {
    AHEAD = 3
}; /* steps whose samples are read and whose media are asked for: this one and the next two */

typedef struct trainer {
    const um_config *cfg;
    um_train_emit emit;
    void *ctx;
    um_role_base base;
    um_tokenizer *tok;
    um_backbone backbone;
    um_select select;
    um_optimizer *optimizer;
    um_state state;
    um_step *step;
    um_exchange *exchange;
    um_train_engine engine;
    um_aux aux;
    um_train_feed feed;
    um_train_plan plan[AHEAD]; /* step s is in plan[s % AHEAD] */
    uint64_t planned;          /* the last step that is there */
    uint64_t first, steps;     /* the first of this run; the last of all */
    um_schedule schedule;
    um_trainer_state run;
    um_run_origin origin;
    um_saved from; /* --resume; closed when it was read */
    /* a data set */
    um_dataset *data;
    um_order *order;
    um_data_feed data_feed;
    um_evaluation *evaluation; /* router 0; NULL: none */
    /* a training file */
    um_train_trace trace;
    bool tracing;
    bool leads;
    bool stopped;       /* a signal ended the run */
    um_train_log *log;  /* router 0, of a run with a folder; else NULL */
    um_routing *load;   /* counts the rows of a step by expert; NULL: none are counted */
    bool log_failed;    /* a record could not be written, which was told */
    int lock;           /* router 0: of the run's folder, or -1 */
    const char *states; /* of a training file: the folder for its gradients */
    um_arena step_arena;
} trainer;

/* --- coming up --- */

static um_sample_maker maker_of(const trainer *t)
{
    return (um_sample_maker){
        .model = &t->base.ck.model, .tokenizer = t->tok, .max_ids = (int)t->cfg->max_length};
}

static um_status open_trace(trainer *t, um_err *err)
{
    const um_sample_maker maker = maker_of(t);
    t->tracing = true;
    UM_TRY(um_train_trace_open(&t->trace, t->cfg, &maker, t->leads, err));
    t->feed = um_train_trace_feed(&t->trace);
    t->steps = um_train_trace_steps(&t->trace);
    t->engine.on_loss = um_train_trace_loss;
    t->engine.ctx = &t->trace;
    t->engine.all_terms = true;
    if (!t->leads) return UM_OK;
    t->states = um_arena_fmt(&t->base.model, "%s.states", t->cfg->out);
    return um_file_mkdirs(t->states, err);
}

static um_status open_data(trainer *t, um_err *err)
{
    const um_config *cfg = t->cfg;
    const um_topology *topo = &t->base.link.comm->topo;
    const um_order_how how = {.seed = (uint64_t)cfg->seed,
                              .batch = (int)cfg->batch,
                              .micro = um_min_int((int)cfg->micro_batch, (int)cfg->batch),
                              .by_kinds = true,
                              .by_length = cfg->group_by_length,
                              .shuffle = true};
    UM_TRY(um_training_data_open(&t->data, &cfg->data, "--data", cfg, maker_of(t), &t->base.model,
                                 err));
    t->origin = um_run_origin_of(&t->base.ck, um_dataset_digest(t->data));
    UM_TRY(um_order_open(&t->order, t->data, &how, err));
    t->data_feed = (um_data_feed){.data = t->data,
                                  .order = t->order,
                                  .routers = topo->count[UM_ROLE_ROUTER],
                                  .router = topo->ranks[t->base.link.comm->rank].index};
    t->feed = um_data_feed_of(&t->data_feed);
    t->steps =
        cfg->steps > 0 ? (uint64_t)cfg->steps : (uint64_t)um_order_total(t->order, cfg->epochs);
    if (t->steps == 0)
        return UM_FAIL(err, UM_E_USAGE, "--epochs %g of these samples make no step", cfg->epochs);
    if (t->leads && cfg->eval_data.n > 0)
        UM_TRY(
            um_evaluation_open(&t->evaluation, cfg, maker_of(t), &t->engine, &t->base.model, err));
    return UM_OK;
}

/* A run whose course is another one from here on says so. */
static void tell_changes(const trainer *t)
{
    um_text what = {0};
    if (t->leads && um_trainer_state_changes(&what, t->from.state, t->cfg) > 0)
        um_log_warn("from step %" PRIu64 " on the run has %s", t->from.step + 1, what.s);
    um_text_free(&what);
}

/* The state of a checkpoint: the weights of this rank, and where the run was. */
static um_status resume(trainer *t, um_err *err)
{
    if (t->cfg->resume[0] == '\0' || t->tracing) return UM_OK;
    UM_TRY(um_saved_open(&t->from, t->cfg->resume, false, err));
    UM_TRY(um_trainer_state_read(&t->run, t->from.state, t->cfg, &t->origin, err));
    if (t->from.step > t->steps)
        return UM_FAIL(err, UM_E_USAGE,
                       "--resume: the run is at step %" PRIu64 ", beyond the %" PRIu64
                       " steps that --steps or --epochs ask for",
                       t->from.step, t->steps);
    UM_TRY(um_state_load(&t->state, &t->from, err));
    t->first = t->from.step + 1;
    t->data_feed.cursor = t->run.cursor;
    tell_changes(t);
    um_log_info("going on from %s at step %" PRIu64, t->from.folder, t->first);
    um_saved_close(&t->from);
    return UM_OK;
}

static um_status load(trainer *t, um_err *err)
{
    um_role_base *b = &t->base;
    b->link.phase = "loading the backbone";
    UM_TRY(um_select_open(&t->select, t->cfg, &b->ck.model, &b->model, err));
    if (t->leads) UM_TRY(um_select_check(&t->select, err));
    UM_TRY(um_role_own(b, 0, err));
    UM_TRY(um_select_adapt(&t->select, &b->params, err));
    UM_TRY(um_wrap(err, um_backbone_load(&t->backbone, &b->params, err), "load backbone"));
    UM_TRY(um_select_begin(&t->select, &b->params, err));
    t->optimizer = um_optimizer_open(&b->params, &t->select.optimizer);
    t->state = (um_state){&b->params, t->optimizer, t->leads ? "router" : NULL};
    return UM_OK;
}

/* What steps run with, after the weights are there. */
static void open_engine(trainer *t)
{
    um_role_base *b = &t->base;
    const um_topology *topo = &b->link.comm->topo;
    if (!t->tracing && um_expert_load_cells(&b->ck.model) > 0)
        t->load = um_routing_open(&b->ck.model);
    t->exchange = um_exchange_open(&b->link, &b->dev, b->ck.model.dim);
    t->step = um_step_open(&b->link, &b->params, t->optimizer, UM_SUMS, um_state_save, &t->state);
    um_train_engine *e = &t->engine;
    e->link = &b->link;
    e->lora = &b->lora;
    e->dropout = (float)t->select.dropout;
    e->gate_noise = t->cfg->gate_noise;
    e->step = t->step;
    e->aux = &t->aux;
    e->pad_rows = t->feed.pad_rows;
    e->media =
        um_train_media_open(t->cfg, &b->ck.model, &b->link, um_select_modalities(&t->select));
    um_arena_init(&e->scratch, "step scratch", 1 << 20);
    const um_micro_batch_setup setup = {.backbone = &t->backbone,
                                        .exchange = t->exchange,
                                        .dev = &b->dev,
                                        .host = &b->step,
                                        .device = &b->device_step,
                                        .lora = &b->lora,
                                        .seed = (uint64_t)t->cfg->seed,
                                        .expert_ranks = topo->count[UM_ROLE_EXPERT],
                                        .recompute = um_recompute_from_name(t->cfg->recompute),
                                        .routing = t->load,
                                        .aux = &t->aux};
    for (int i = 0; i < 2; i++) um_micro_batch_open(&e->micro[i], &setup);
}

/* Routers ask for media of their own accord, so they wait until router 0 knows that all ranks are ready. */
static um_status begin_all(trainer *t, um_err *err)
{
    um_link *l = &t->base.link;
    uint64_t first = t->first;
    if (t->leads)
        UM_TRY(um_join_all_ready(l, err));
    else
        UM_TRY(um_join_ready(l, t->backbone.weight_bytes, 0, err));
    l->phase = "waiting for all ranks";
    UM_TRY(um_step_begin(t->step, &first, err));
    if (first == t->first) return UM_OK;
    return UM_FAIL(err, UM_E_DATA,
                   "router 0 begins with step %" PRIu64 ", this router with step %" PRIu64
                   ": --resume %s is not the same checkpoint on all machines",
                   first, t->first, t->cfg->resume);
}

/* Router 0: the run's folder is this job's alone. */
static um_status claim_out(trainer *t, um_err *err)
{
    if (!t->leads || t->tracing || t->cfg->out[0] == '\0') return UM_OK;
    UM_TRY(um_file_mkdirs(t->cfg->out, err));
    return um_saved_lock(&t->lock, t->cfg->out, err);
}

/* Router 0, when all ranks have loaded what they go on with: what was behind that is out of the way. */
static um_status settle_out(trainer *t, um_err *err)
{
    if (!t->leads || t->tracing || t->cfg->out[0] == '\0') return UM_OK;
    um_saved_set_aside(t->cfg->out, t->first - 1);
    um_saved_prune(t->cfg->out, INT64_MAX, 0); /* what a killed run has left half written */
    return um_train_log_open(&t->log, t->cfg->out, t->first - 1, err);
}

static um_status start(trainer *t, um_comm *comm, um_err *err)
{
    um_role_base *b = &t->base;
    UM_TRY(um_role_begin(b, t->cfg, comm, err));
    UM_TRY(um_tokenizer_open(&t->tok, t->cfg->model, err));
    UM_TRY(um_role_join(b, err));
    UM_TRY(load(t, err));
    UM_TRY(t->cfg->request[0] != '\0' ? open_trace(t, err) : open_data(t, err));
    UM_TRY(claim_out(t, err));
    UM_TRY(resume(t, err));
    UM_TRY(um_aux_read(&t->aux, t->trace.off, t->cfg, &b->ck.model, t->trace.file.aux, &b->model,
                       err));
    open_engine(t);
    t->schedule = um_schedule_of(t->cfg, t->steps);
    t->planned = t->first - 1;
    UM_TRY(begin_all(t, err));
    return settle_out(t, err);
}

/* --- steps --- */

static um_train_plan *plan_of(trainer *t, uint64_t step) { return &t->plan[step % AHEAD]; }

/* Reads the samples of steps up to AHEAD - 1 beyond `step` and asks for their media. */
static um_status plan_ahead(trainer *t, uint64_t step, um_err *err)
{
    while (t->planned < t->steps && t->planned + 1 < step + AHEAD) {
        um_train_plan *p = plan_of(t, t->planned + 1);
        const um_arena arena = p->arena;
        *p = (um_train_plan){.step = t->planned + 1, .arena = arena};
        UM_TRY(t->feed.plan(t->feed.ctx, p, err));
        for (int i = 0; i < p->n; i++)
            for (int k = 0; k < p->work[i].items; k++)
                UM_TRY(um_train_media_ask(t->engine.media, &p->work[i].item[k], err));
        t->planned++;
    }
    return UM_OK;
}

/* Whether a checkpoint is due behind this step. */
static bool save_due(trainer *t, uint64_t step, bool stop)
{
    const uint64_t every = (uint64_t)t->cfg->save_every;
    if (t->cfg->out[0] == '\0') return false;
    bool asked = um_signals_save();
    return asked || stop || (every > 0 && step % every == 0);
}

/* Router 0: the checkpoint of a step cannot be written. The run goes on without it, unless it is the last. */
static um_status unsaved(trainer *t, uint64_t step, bool last, const char *why, um_err *err)
{
    um_saved_drop(t->cfg->out, step);
    if (last)
        return UM_FAIL(err, UM_E_IO,
                       "%s; the checkpoints in %s are as they were: --resume auto goes on from the "
                       "newest",
                       why, t->cfg->out);
    um_log_warn("step %" PRIu64
                ": %s; training goes on, and tries again at the next checkpoint, or "
                "when SIGUSR1 asks for one",
                step, why);
    return UM_OK;
}

/* Router 0: the folder that all ranks shall write into. */
static um_status begin_save(trainer *t, uint64_t step, um_step_orders *out, um_arena *arena,
                            um_err *err)
{
    um_err why = {0};
    const um_status st = um_saved_begin(&out->save, t->cfg->out, step, arena, &why);
    if (st == UM_OK) return UM_OK;
    um_wrap(&why, st, "the checkpoint cannot be written");
    return unsaved(t, step, out->stop, why.msg, err);
}

/* Router 0: what becomes of a step. */
static um_status decide(trainer *t, const um_step_totals *totals, double squares,
                        um_step_orders *out, um_train_record *r, um_arena *arena, um_err *err)
{
    um_step_verdict v = um_trainer_state_judge(&t->run, totals, squares, t->cfg);
    *out = (um_step_orders){.lr = t->select.lr * um_schedule_share(&t->schedule, r->step),
                            .scale = v.scale,
                            .skip = v.skip != NULL};
    r->lr = out->lr;
    r->norm = v.norm;
    r->skipped = v.skip;
    if (t->tracing) {
        const bool shows = um_train_trace_shows(&t->trace, r->step), last = r->step == t->steps;
        out->stop = last;
        out->gradients = shows;
        out->save = shows || last ? t->states : NULL;
        out->lr = t->select.lr;
        out->skip = out->skip || shows;
        return UM_OK;
    }
    if (v.skip != NULL && t->run.row >= t->cfg->give_up)
        return UM_FAIL(err, UM_E_LIMIT,
                       "training gives up at step %" PRIu64 ": %d steps in a row were skipped, the "
                       "last because %s; a smaller --lr or --clip may help; the checkpoints in %s "
                       "are as they were",
                       r->step, t->run.row, v.skip, t->cfg->out);
    t->stopped = um_signals_stop();
    out->stop = t->stopped || r->step == t->steps;
    return save_due(t, r->step, out->stop) ? begin_save(t, r->step, out, arena, err) : UM_OK;
}

/* Router 0: all ranks have written theirs. */
static um_status commit(trainer *t, um_train_record *r, const um_order_cursor *cursor,
                        const um_saved_file *files, int n, um_arena *arena, um_err *err)
{
    um_text state = {0};
    t->run.cursor = *cursor;
    um_trainer_state_write(&state, &t->run, r->step, t->steps, t->cfg, &t->origin);
    um_status st = um_saved_commit(&r->saved, t->cfg->out, r->step, files, n, state.s, arena, err);
    um_text_free(&state);
    if (st == UM_OK) um_saved_prune(t->cfg->out, t->cfg->keep, t->run.best_step);
    return um_wrap(err, st, "the checkpoint cannot be written");
}

/* The sums of a step as means. */
static void fill(um_train_record *r, const um_step_totals *totals)
{
    const double n = totals->targets > 0 ? (double)totals->targets : NAN, *sum = totals->value;
    r->samples = totals->samples;
    r->targets = totals->targets;
    r->cross_entropy = sum[UM_SUM_LOSS] / n;
    r->loss = (sum[UM_SUM_LOSS] + sum[UM_SUM_ADDED]) / n;
    for (int k = 0; k < UM_RECORD_TERMS; k++) r->aux[k] = sum[UM_SUM_AUX + k] / n;
    for (int m = 0; m < UM_MODALITIES; m++)
        r->by_modality[m] =
            sum[UM_SUM_TARGETS_OF + m] > 0 ? sum[UM_SUM_OF + m] / sum[UM_SUM_TARGETS_OF + m] : NAN;
    r->rows = (uint64_t)sum[UM_SUM_ROWS];
    r->lost = (uint64_t)sum[UM_SUM_LOST];
    r->eval_loss = NAN;
}

/* Whether a step has a record whatever comes of it: all routers count its rows by expert. */
static bool logged(const trainer *t, uint64_t step)
{
    return step % (uint64_t)t->cfg->log_every == 0 || step == t->steps;
}

/* The record of a step goes into the log before its checkpoint gets its name: a run that is killed between the two goes on from an earlier
 * checkpoint and makes the record again; the other way round it would be missing. A log that cannot be written ends no training. */
static void log_add(trainer *t, um_train_record *r, const um_step_orders *orders, int64_t since)
{
    um_err why = {0};
    r->steps = t->steps;
    r->seconds = (double)(um_now_ns() - since) * 1e-9;
    r->rows_per_second = r->seconds > 0 ? (double)r->rows / r->seconds : 0;
    t->run.pace = t->run.pace > 0 ? 0.9 * t->run.pace + 0.1 * r->seconds : r->seconds;
    r->left_seconds = t->run.pace * (double)(t->steps - r->step);
    const bool news =
        orders->save != NULL || r->skipped != NULL || r->lost > 0 || isfinite(r->eval_loss);
    if (t->log == NULL || !(logged(t, r->step) || news)) return;
    if (um_train_log_add(t->log, r, &why) == UM_OK) return;
    if (!t->log_failed)
        um_log_warn("step %" PRIu64 ": %s; training goes on without this record of its log",
                    r->step, why.msg);
    t->log_failed = true;
}

/* The line of a step for whoever started the job. */
static um_status report(trainer *t, um_train_record *r, um_err *err)
{
    um_text line = {0};
    r->load = (um_expert_load){0}; /* the log has it */
    um_record_json(&line, r);
    um_status st = t->emit(t->ctx, line.s, err);
    um_text_free(&line);
    return st;
}

/* Whether an evaluation is due behind this step. */
static bool evaluation_due(const trainer *t, uint64_t step, bool last)
{
    const uint64_t every = (uint64_t)t->cfg->eval_every;
    return t->evaluation != NULL && (last || (every > 0 && step % every == 0));
}

/* Router 0: all ranks have written theirs, or one could not. before: the state in front of the evaluation. */
static um_status finish_save(trainer *t, um_train_record *r, const um_step_orders *orders,
                             const um_order_cursor *cursor, const um_saved_file *files, int n,
                             const um_trainer_state *before, um_err *err)
{
    um_err why = {0};
    const um_status st = orders->unsaved != NULL
                             ? um_fail(&why, UM_E_IO, "%s", orders->unsaved)
                             : commit(t, r, cursor, files, n, &t->step_arena, &why);
    if (st == UM_OK) return UM_OK;
    if (st != UM_E_IO) return um_fail(err, st, "%s", why.msg);
    t->run.best_step = before->best_step; /* the best one that is there */
    t->run.best_loss = before->best_loss;
    return unsaved(t, r->step, orders->stop, why.msg, err);
}

/* Router 0, between apply and the next step. */
static um_status after(trainer *t, um_train_record *r, const um_step_orders *orders,
                       const um_order_cursor *cursor, const um_saved_file *files, int n,
                       int64_t since, um_err *err)
{
    if (t->tracing) {
        if (orders->save == NULL) return UM_OK;
        if (orders->unsaved != NULL) return UM_FAIL(err, UM_E_IO, "%s", orders->unsaved);
        UM_TRY(um_train_trace_states(&t->trace, r->step, t->states, files, n, orders->scale, err));
        if (!orders->stop) return UM_OK;
        rmdir(t->states);
        return um_trace_write(t->trace.trace, t->cfg->out, err);
    }
    const um_trainer_state before = t->run;
    if (evaluation_due(t, r->step, orders->stop)) {
        UM_TRY(um_evaluation_run(t->evaluation, r->step, &r->eval_loss, err));
        um_trainer_state_evaluated(&t->run, r->step, r->eval_loss,
                                   orders->save != NULL && orders->unsaved == NULL);
    }
    log_add(t, r, orders, since);
    if (orders->save != NULL) UM_TRY(finish_save(t, r, orders, cursor, files, n, &before, err));
    return report(t, r, err);
}

/* This router's rows of the step by expert, for its end. */
static void count_load(trainer *t, uint64_t step, um_arena *arena)
{
    const size_t cells = um_expert_load_cells(&t->base.ck.model);
    if (t->load == NULL || !logged(t, step)) return;
    uint64_t *rows = um_arena_alloc(arena, cells * sizeof *rows);
    um_routing_rows(t->load, UM_PREFILL, rows);
    um_step_count(t->step, rows, cells);
}

/* One step, all of it. *stop: it was the last. */
static um_status step_run(trainer *t, uint64_t step, bool *stop, um_err *err)
{
    um_train_plan *p = plan_of(t, step);
    um_arena *arena = &t->step_arena;
    const int64_t since = um_now_ns();
    um_step_batch *done = um_arena_zero(arena, (size_t)(p->n + 1) * sizeof *done);
    um_step_totals totals = {0};
    um_step_norm *norms = NULL;
    um_step_orders orders = {0};
    um_saved_file *files = NULL;
    um_train_record r = {.step = step, .media = um_kinds_name(p->media)};
    double squares = 0;
    int n_norms = 0, n_files = 0;
    if (t->load != NULL) um_routing_clear(t->load);
    UM_TRY(um_train_step_run(&t->engine, p, done, arena, err));
    count_load(t, step, arena);
    UM_TRY(
        um_step_finish(t->step, step, done, p->n, &totals, &norms, &n_norms, &squares, arena, err));
    if (t->leads) {
        fill(&r, &totals);
        if (totals.counts > 0) um_expert_load_of(&r.load, &t->base.ck.model, totals.count, arena);
        if (!t->tracing)
            r.epoch = (double)p->cursor.epoch +
                      (double)p->cursor.step / (double)um_order_steps(t->order, p->cursor.epoch);
        UM_TRY(decide(t, &totals, squares, &orders, &r, arena, err));
    }
    UM_TRY(um_step_apply(t->step, &orders, &files, &n_files, arena, err));
    *stop = orders.stop;
    if (!t->leads) return UM_OK;
    return after(t, &r, &orders, &p->cursor, files, n_files, since, err);
}

static um_status steps_run(trainer *t, um_err *err)
{
    const um_mark begin = um_arena_mark(&t->step_arena);
    bool stop = t->first > t->steps;
    for (uint64_t step = t->first; !stop; step++) {
        UM_TRY(plan_ahead(t, step, err));
        UM_TRY(step_run(t, step, &stop, err));
        um_arena_reset(&t->step_arena, begin);
        um_train_plan *p = plan_of(t, step);
        um_arena_free(&p->arena);
        *p = (um_train_plan){0};
        um_arena_init(&p->arena, "step samples", 1 << 18);
    }
    return UM_OK;
}

/* --- the end --- */

static um_status shutdown_all(trainer *t, um_err *err)
{
    Um__Shutdown bye = UM__SHUTDOWN__INIT;
    um_link *l = &t->base.link;
    bye.reason = "done";
    for (int p = 0; p < l->comm->topo.n; p++)
        if (p != l->comm->rank) UM_TRY(um_link_control(l, p, UM_KIND_SHUTDOWN, &bye.base, err));
    return UM_OK;
}

static um_status await_shutdown(trainer *t, um_err *err)
{
    um_link *l = &t->base.link;
    for (l->phase = "waiting for the end";;) {
        um_inbound in = {0};
        UM_TRY(um_link_next_any(l, &in, -1, err));
        if (in.msg.data == NULL) continue;
        const bool bye =
            in.frame.kind == UM_KIND_SHUTDOWN && in.msg.peer == um_join_leader(l->comm);
        um_status st = bye ? UM_OK : um_link_unwanted(l, &in, "the end of the training", err);
        um_link_release(l, &in);
        if (st != UM_OK || bye) return st;
    }
}

static um_status finish(trainer *t, um_err *err)
{
    um_text line = {0};
    UM_TRY(shutdown_all(t, err));
    um_text_fmt(&line,
                "{\"kind\":\"trained\",\"step\":%" PRIu64 ",\"steps\":%" PRIu64
                ",\"stopped\":%s,\"skipped\":%" PRIu64 ",\"lost\":%" PRIu64 "}",
                t->stopped ? t->run.last_step : t->steps, t->steps, t->stopped ? "true" : "false",
                t->run.skipped, t->run.lost);
    um_status st = t->emit(t->ctx, line.s, err);
    um_text_free(&line);
    return st;
}

static void close_all(trainer *t)
{
    for (int i = 0; i < 2; i++) um_micro_batch_close(&t->engine.micro[i]);
    um_evaluation_close(t->evaluation);
    for (int i = 0; i < AHEAD; i++) um_train_plan_drop(&t->plan[i]);
    um_train_media_close(t->engine.media);
    um_step_close(t->step);
    um_exchange_close(t->exchange);
    um_arena_free(&t->engine.scratch);
    for (int i = 0; i < AHEAD; i++) um_arena_free(&t->plan[i].arena);
    um_order_close(t->order);
    um_dataset_close(t->data);
    um_saved_close(&t->from);
    if (t->tracing) um_train_trace_close(&t->trace);
    um_optimizer_close(t->optimizer);
    um_select_close(&t->select);
    um_backbone_close(&t->backbone);
    um_tokenizer_close(t->tok);
    um_arena_free(&t->step_arena);
    um_train_log_close(t->log);
    um_routing_close(t->load);
    if (t->lock >= 0) close(t->lock);
}

um_status um_trainer_run(const um_config *cfg, um_comm *comm, um_train_emit emit, void *ctx,
                         um_err *err)
{
    trainer t = {.cfg = cfg, .emit = emit, .ctx = ctx, .first = 1, .lock = -1};
    t.leads = comm->rank == um_join_leader(comm);
    um_arena_init(&t.step_arena, "step", 1 << 20);
    for (int i = 0; i < AHEAD; i++) um_arena_init(&t.plan[i].arena, "step samples", 1 << 18);
    um_signals_watch();
    um_status st = start(&t, comm, err);
    if (st == UM_OK) st = steps_run(&t, err);
    if (st == UM_OK) st = t.leads ? finish(&t, err) : await_shutdown(&t, err);
    close_all(&t);
    um_role_end(&t.base, st, err);
    return st;
}
