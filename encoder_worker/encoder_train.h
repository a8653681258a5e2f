/* Training of an encoder rank's towers and connectors: media forward with what backward needs kept, gradients of their rows backward.
 *
 *   ENCODE (train) ─► values where training begins ─► forward, kept as (step, micro-batch, item) ─► rows
 *                       frozen part, cached by key                │
 *   ENCODE_GRAD ─► waits for the others of its micro-batch ─► backward, item after item ─► um_grad_tree, by micro-batch
 *
 * For each kept item that was answered with rows one gradient comes, with no rows when the router did not use them. When those of all items
 * of a micro-batch have come, backward runs over them by rising item, from gradients that are zero, and the sum goes into the tree. So the
 * bits depend on neither the order of the frames nor the number of routers. Thread: the rank's. */
#pragma once

#include "core/train/grad_tree.h"
#include "encoder_worker/medium.h"

typedef struct um_encoder_train um_encoder_train;

typedef struct um_encoder_settings {
    size_t tower_cache,
        activation_memory; /* --tower-cache, --activation-memory; of the second, 0: no limit */
    /* keep the values where training begins, and compute the rest again for backward */
    bool recompute;
    float dropout; /* of LoRA branches, where a medium is kept */
    uint64_t seed; /* of what they drop */
} um_encoder_settings;

/* What is trained in ps is known (um_params_train). e, ps and lora (NULL where there is no branch) must outlive it. */
um_encoder_train *um_encoder_train_open(const um_encode *e, um_params *ps, um_lora *lora,
                                        const um_encoder_settings *how);
void um_encoder_train_close(um_encoder_train *t); /* accepts NULL */

/* Encodes a request of a training job to rows[*n, D] on the host, in step, and keeps what backward needs when the request says so and
 * something is trained on the way to them. *item: UM_OK, or why this medium cannot be used, with *why; only this request is concerned. Any
 * status returned ends the job: UM_E_LIMIT when the activations take more than --activation-memory. */
um_status um_encoder_train_rows(um_encoder_train *t, float **rows, int *n, um_status *item,
                                um_err *why, const Um__EncodeRequest *req, um_arena *step,
                                um_err *err);
/* A request of a later step: computes and caches what does not depend on the weights that are trained, so far as it can be used. */
void um_encoder_train_ahead(um_encoder_train *t, const Um__EncodeRequest *req, um_arena *step);

typedef struct um_item_key {
    uint64_t step;
    uint32_t batch, item;
} um_item_key;

/* Where the gradient of an item's n rows belongs: device memory [n, D]; NULL when n is 0. UM_E_CORRUPT: no such item is kept, or it has
 * another number of rows. After the rows are there, um_encoder_train_grad. */
um_status um_encoder_train_room(um_encoder_train *t, float **rows, um_item_key key, int n,
                                um_err *err);
/* The gradient has come; runs backward for the micro-batch if it was the last one that was missing. */
um_status um_encoder_train_grad(um_encoder_train *t, um_item_key key, um_err *err);

/* Kept items whose gradient has not come. */
int um_encoder_train_open_items(const um_encoder_train *t);
/* The end of a step: ps->grads becomes the sum over its micro-batches. No item is open. */
void um_encoder_train_sum(um_encoder_train *t);
/* The weights have changed, and the next step begins. */
um_status um_encoder_train_next(um_encoder_train *t, um_err *err);

/* For logs and tests: bytes of activations that are kept now; lookups of frozen parts that the cache answered, and the others. */
typedef struct um_encoder_counts {
    size_t kept;
    uint64_t cached, computed;
} um_encoder_counts;
um_encoder_counts um_encoder_train_counts(const um_encoder_train *t);
