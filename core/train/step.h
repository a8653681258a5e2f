/* How a step of training ends: when all micro-batches are through, the sums of all ranks come together, router 0 decides what becomes of
 * them, and every rank changes its own weights.
 *
 *   router 0        ─ begin: all are ready, first step ──►        router r           once
 *
 *   router r        ─ done: its micro-batches, loss sums ─►       router 0
 *   router r + s    ─ reduce: sums of gradients ────────►         router r           s = 1, 2, 4 ...: the tree goes on between routers
 *   router 0        ─ finish: micro-batches, totals ────►         every rank         (and to the routers the sum of all)
 *   expert, encoder ─ norms: squares of its gradients ──►         router 0           when they are complete
 *   router 0        ─ apply: learning rate, scale, skip, save ─►  every rank         who then changes its weights and begins the next step
 *   every rank      ─ saved: its files ─────────────────►         router 0           after an "apply" that says save
 *
 * Bits: routers add by the tree of grad_tree.h, experts by rising micro-batch, encoders by the tree; squares are added in one order over
 * the ranks: routers' list, experts by layer and number, encoders by part. So weights do not depend on who computed what.
 *
 * Frames of a later step may overtake "apply", because they come from other routers: experts and encoders hold them (um_step_hold).
 * An evaluation after step s has frames of step s + 1 with UM_BATCH_FORWARD in their number (core/comm/exchange.h): so it waits for "apply"
 * too. Frames of step 0 never wait, and nothing is kept of them. */
#pragma once

#include "core/comm/link.h"
#include "core/train/grad_tree.h"
#include "core/train/optimizer.h"
#include "core/train/saved.h"

/* What router 0 decides. */
typedef struct um_step_orders {
    double lr, scale;    /* scale: what gradients are multiplied by */
    bool skip;           /* no weight changes */
    bool evaluate, stop; /* an evaluation follows; this was the last step */
    const char *save;    /* folder into which every rank writes its state, or NULL */
    bool gradients;      /* and its gradients, which are still there then, not scaled */
    /* Router 0, after um_step_apply: why a rank could not write its state, or NULL. */
    const char *unsaved;
} um_step_orders;

/* Writes the state of a rank into orders->save, after step number `step` has changed its weights. Lists the files in *files (arena).
 * UM_E_IO, for a full disk, is told to router 0, which decides; another error ends the job. */
typedef um_status (*um_step_saver)(void *ctx, const um_step_orders *orders, uint64_t step,
                                   um_saved_file **files, int *n, um_arena *arena, um_err *err);

/* --- routers --- */

/* One of a router's micro-batches, when it is through. */
typedef struct um_step_batch {
    uint32_t batch, samples;
    uint64_t targets;
    const double *value; /* [values] sums, the same list on every router */
} um_step_batch;

/* Of all micro-batches of the step. */
typedef struct um_step_totals {
    uint32_t batches;
    uint64_t samples, targets;
    double *value; /* [values] added by rising micro-batch */
    int values;
    uint64_t *count; /* router 0: [counts] of um_step_count, added over the routers */
    size_t counts;
} um_step_totals;

/* The square of the gradient of one parameter of some rank, not scaled. */
typedef struct um_step_norm {
    um_part part;
    int layer, index; /* as in um_place */
    double squares;
    bool touched;
} um_step_norm;

typedef struct um_step um_step;

/* values: of um_step_batch. ps and o (NULL when no parameter of the routers is trained) must outlive it. save may be NULL. From here on
 * the link's step-end and reduce frames come here. */
um_step *um_step_open(um_link *l, um_params *ps, um_optimizer *o, int values, um_step_saver save,
                      void *save_ctx);
void um_step_close(um_step *s); /* accepts NULL */

/* Once, before the first step: router 0, for which all ranks are ready (um_join_all_ready), says so to the other routers, which wait for
 * it; before that, a rank could get rows while it is still joining. *first, the number of the first step, is router 0's on all of them.
 * Collective over the routers. */
um_status um_step_begin(um_step *s, uint64_t *first, um_err *err);
/* Optional, before the first um_step_take of a step: this router will take n micro-batches. The last one is then not copied. */
void um_step_expect(um_step *s, int n);
/* Micro-batch b is through: its gradients go into the tree, and those of ps are zero again, unless it is the last that was expected. */
void um_step_take(um_step *s, uint32_t b);
/* Optional, before um_step_finish: integers of this router that belong to the step as a whole, such as rows by expert. All routers give
 * as many (n). count must live until um_step_finish returns, which forgets it. */
void um_step_count(um_step *s, const uint64_t *count, size_t n);
/* Ends step number `step`. own: this router's micro-batches, none or more, by rising number. A number that no
 * router has is left out of all sums. Afterwards the gradients in ps are those of the whole step on every router. *totals
 * lives in `step_arena`; router 0 also gets the squares of all trained parameters of the job in *norms, NULL elsewhere, and squares is
 * their sum. Collective over the routers; experts and encoders answer. UM_E_PEER names who owes what. */
um_status um_step_finish(um_step *s, uint64_t step, const um_step_batch *own, int n,
                         um_step_totals *totals, um_step_norm **norms, int *n_norms,
                         double *squares, um_arena *step_arena, um_err *err);
/* Router 0 sends *orders to all; the others receive them. Then this router's weights change, unless skip, and its gradients are zero. When
 * orders->save is set, every rank writes its state: *files (router 0; may be NULL) lists those of all ranks, by rank, unless
 * orders->unsaved says that one could not. Strings lie in arena. */
um_status um_step_apply(um_step *s, um_step_orders *orders, um_saved_file **files, int *n_files,
                        um_arena *arena, um_err *err);

/* --- experts and encoders --- */

/* One rank's end of it, in its loop. */
typedef struct um_step_follower {
    um_link *link;
    um_params *params;
    um_optimizer *optimizer; /* NULL: nothing is trained here */
    um_step_saver save;      /* or NULL */
    void *save_ctx;
    uint64_t step;    /* whose frames are worked on */
    bool finishing;   /* "finish" has come, and the norms have not been sent */
    bool finished;    /* "finish" has come, and "apply" has not */
    uint32_t batches; /* of the step, when "finish" has come: its micro-batches */
    um_inbound *held; /* [n_held] frames of later steps, in the order they came */
    int n_held, cap_held;
    int replay; /* of these, how many are due */
} um_step_follower;

/* first: the number of the first step, 1 or what follows a checkpoint. */
void um_step_follower_open(um_step_follower *f, um_link *l, um_params *ps, um_optimizer *o,
                           um_step_saver save, void *save_ctx, uint64_t first);
void um_step_follower_close(um_step_follower *f); /* releases what is held */
/* A frame of `step` has come. *later: it belongs to a step that has not begun here, and is to be held. UM_E_CORRUPT: it belongs to one that
 * is over. */
um_status um_step_check(um_step_follower *f, bool *later, uint64_t step, const um_inbound *in,
                        um_err *err);
void um_step_hold(um_step_follower *f, um_inbound *in); /* takes it over */
/* The next frame that was held and is due now; the caller works on it as if it had just come, and releases it. */
bool um_step_held(um_step_follower *f, um_inbound *out);
/* A step-end frame of router 0. "finish" sets f->finishing: as soon as its gradients are complete, the role calls um_step_norms. "apply"
 * changes the weights, saves if it says so, sets the gradients to zero, and begins the next step: *applied is true, and then frames that
 * were held are due. */
um_status um_step_follow(um_step_follower *f, const um_inbound *in, bool *applied, um_err *err);
/* Sends the squares of this rank's gradients. */
um_status um_step_norms(um_step_follower *f, um_err *err);
