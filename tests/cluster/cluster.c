/* See cluster.h. */
#include "tests/cluster/cluster.h"

#include "core/options/encoders.h"
#include "core/base/arena.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/model/modality.h"
#include "encoder_worker/encoder.h"
#include "expert_worker/expert.h"
#include "router/router.h"
#include "tests/support/guarded_ops.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

typedef struct thread_arg {
    cluster *c;
    um_config cfg; /* of this rank */
    um_comm *comm;
    int rank;
} thread_arg;

void cluster_init(cluster *c, const char *model)
{
    memset(c, 0, sizeof *c);
    um_config_default(&c->cfg);
    c->cfg.model = model;
    c->cfg.threads = 1;
    c->cfg.decoder = UM_DECODER; /* test programs are not beside it */
    c->cfg.deadline_ms = 20000;  /* sanitizers are slow */
    c->freeze_rank = -1;
}

static um_status keep_line(void *ctx, const char *line, um_err *err)
{
    cluster *c = ctx;
    c->all_lines++;
    if (c->tap != NULL) UM_TRY(c->tap(c->tap_ctx, line, err));
    if (c->n_lines < CLUSTER_LINES) c->lines[c->n_lines++] = um_strdup(line);
    return UM_OK;
}

static void *rank_main(void *p)
{
    thread_arg *a = p;
    cluster *c = a->c;
    const um_rank *me = &a->comm->topo.ranks[a->rank];
    um_err *err = &c->err[a->rank];
    char name[32];
    snprintf(name, sizeof name, "%s/%d", um_role_name(me->role), me->index);
    um_log_set_name(name);
    um_status st = UM_OK;
    if (a->rank == c->freeze_rank) {
        for (;;) { /* does not answer, like a stopped process; ends when the others have given up */
            um_msg msg = {0};
            /* it has no pulse */
            st = um_comm_recv(a->comm, &msg, 50000, err);
            if (st == UM_OK)
                um_comm_release(a->comm, &msg);
            else if (st != UM_E_TIMEOUT)
                break;
        }
    } else if (a->rank == 0 && c->lead != NULL) {
        st = c->lead(c->lead_ctx, &c->cfg, a->comm, err);
    } else if (c->role[me->role] != NULL) {
        st = c->role[me->role](c->role_ctx[me->role], &a->cfg, a->comm, err);
    } else if (me->role == UM_ROLE_ROUTER) {
        st = um_router_run_to(&c->cfg, a->comm, keep_line, c, err);
    } else if (me->role == UM_ROLE_EXPERT) {
        st = um_expert_run(&a->cfg, a->comm, err);
    } else {
        st = um_encoder_run(&a->cfg, a->comm, err);
    }
    c->status[a->rank] = st;
    c->follows[a->rank] = a->comm->follows;
    um_comm_close(a->comm, st);
    return NULL;
}

um_status cluster_run(cluster *c)
{
    um_role roles[64];
    const char *modalities[64] = {0};
    um_comm *comms[64];
    pthread_t threads[64];
    thread_arg args[64];
    int n = 0;
    for (int64_t i = 0; i < c->cfg.routers; i++) roles[n++] = UM_ROLE_ROUTER;
    for (int64_t i = 0; i < c->cfg.experts; i++) roles[n++] = UM_ROLE_EXPERT;
    um_arena arena;
    um_encoders encoders;
    um_arena_init(&arena, "cluster", 4096);
    um_status st = um_encoders_parse(&encoders, c->cfg.encoders, &arena, &c->err[0]);
    if (st != UM_OK) return st;
    for (int g = 0; g < encoders.n; g++)
        for (int i = 0; i < encoders.group[g].ranks; i++) {
            modalities[n] = encoders.group[g].modalities;
            roles[n++] = UM_ROLE_ENCODER;
        }
    c->ranks = n;
    st = um_comm_inproc_open(comms, roles, n, &c->err[0]);
    if (st != UM_OK) goto out;
    if (c->fault != NULL) um_comm_inproc_fault(comms[0], c->fault, c->fault_ctx);
    if (c->delay_us > 0) um_comm_inproc_delay(comms[0], c->delay_us);
    for (int r = 0; r < n; r++) {
        args[r] = (thread_arg){c, c->cfg, comms[r], r};
        if (c->other_model != NULL && r == c->other_rank) args[r].cfg.model = c->other_model;
        if (c->guarded) comms[r]->dev_open = um_dev_open_guarded;
        if (c->guarded) comms[r]->dev_close = um_dev_close_guarded;
        if (modalities[r] != NULL) args[r].cfg.modalities = modalities[r];
        if (r > 0 || c->lead == NULL) pthread_create(&threads[r], NULL, rank_main, &args[r]);
    }
    if (c->lead != NULL) rank_main(&args[0]);
    for (int r = c->lead != NULL; r < n; r++) pthread_join(threads[r], NULL);
    for (int r = 0; r < n && st == UM_OK; r++) st = c->status[r]; /* routers come first */
out:
    um_arena_free(&arena);
    return st;
}

void cluster_free(cluster *c)
{
    for (int i = 0; i < c->n_lines; i++) um_free(c->lines[i]);
    c->n_lines = 0;
}

const char *cluster_line(const cluster *c, const char *text)
{
    for (int i = 0; i < c->n_lines; i++)
        if (strstr(c->lines[i], text) != NULL) return c->lines[i];
    return NULL;
}
