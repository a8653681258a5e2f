/* What an expert rank keeps when the job trains: of every (step, layer, micro-batch), from its dispatch frame until its gradients are in
 * those of the weights.
 *
 *   dispatch       rows of a micro-batch ─► through the experts ─► combine          kept: what backward needs
 *   dispatch-grad  gradient of the results ─► gradient of the rows ─► combine-grad  at once
 *                  gradient of the weights                                          when all lower micro-batches of the layer are added
 *   finish         what still waits, by rising micro-batch                          nothing is kept
 *
 * So the weights' gradients are a sum by rising micro-batch, whichever router computes which: the bits do not depend on it. A micro-batch
 * whose turn has not come keeps its activations and its gradient. A number that does not exist is noticed at "finish" only.
 *
 * With recompute only the rows are kept, and the rest is computed again. What is kept at a time is bounded (--activation-memory).
 *
 * A frame that comes again is answered as it was before, and nothing is added again. */
#pragma once

#include "expert_worker/expert.h"

typedef struct um_expert_train um_expert_train;

typedef struct um_expert_train_settings {
    bool recompute;  /* --recompute ffn, or layer */
    uint64_t memory; /* bytes of device memory, 0: no bound */
    uint64_t seed;   /* of LoRA dropout */
    float dropout;   /* of trained LoRA branches */
} um_expert_train_settings;

/* lora: what the experts' branches run with; or NULL. All must outlive it. */
um_expert_train *um_expert_train_open(const um_experts *e, um_link *l, um_dev *dev, um_lora *lora,
                                      const um_expert_train_settings *s);
void um_expert_train_close(um_expert_train *k); /* accepts NULL */

/* Works on a dispatch frame of a router and answers it. Of a micro-batch that is only computed forward (its step is 0, or UM_BATCH_FORWARD
 * is in its number) nothing is kept, and no branch drops anything. host and device: for one frame. UM_E_LIMIT: over the bound, names the
 * options. */
um_status um_expert_train_dispatch(um_expert_train *k, const um_inbound *in, um_arena *host,
                                   um_arena *device, um_err *err);
/* Works on a dispatch-grad frame and answers it. UM_E_CORRUPT: it belongs to no dispatch frame of this router. */
um_status um_expert_train_gradient(um_expert_train *k, const um_inbound *in, um_arena *host,
                                   um_arena *device, um_err *err);
/* All gradients of the step have come: adds what waits, and forgets what got no gradient. */
void um_expert_train_finish(um_expert_train *k, um_arena *host, um_arena *device);

/* Entries and bytes that are kept now, and the most bytes that were. */
int um_expert_train_entries(const um_expert_train *k);
uint64_t um_expert_train_bytes(const um_expert_train *k, uint64_t *peak);
