/* A micro-batch of training: samples as the rows of one um_batch, on their way forward and back.
 *
 *   um_micro_batch_build   rows and targets; binds the activations
 *   um_pass_run            on m->pass, until um_pass_done
 *   um_loss_run            head and loss; the gradient of the last layer's output in m->backward.dx
 *   um_backward_run        on m->backward, until um_backward_done
 *   um_micro_batch_finish  gradient of the embeddings; those of the media's rows lie in m->backward.dx
 *
 * Without pad rows the samples stand one behind the other. With them (parity with the reference, spec 1.5, 1.6) every sample is as long as
 * the longest: ids are padded with id 0 to the longest list of ids, then with zero rows; pad rows are real rows of the gate, attend to all
 * positions of their sample, and are attended to by none.
 *
 * Memory is the micro-batch's own and is used again by the next build. Two may be in flight: but from um_loss_run with its gradient to
 * um_micro_batch_finish all gradients are added to the parameters' own, so meanwhile another may only go forward. Thread: main. */
#pragma once

#include "core/nn/attention.h"
#include "router/backbone/backward.h"
#include "router/request/prompt.h"

enum { UM_NO_TARGET = -1, UM_NO_ID = -1 };

/* The rows that an encoder made of one medium. */
typedef struct um_sample_medium {
    um_modality modality;
    int n;
    const float *rows; /* [n,D] host; may go when um_micro_batch_build returns */
} um_sample_medium;

/* A sample whose media have all come. Everything may go when um_micro_batch_build returns. */
typedef struct um_train_sample {
    const int32_t *ids;    /* [n]; negative: UM_ID_* of the next medium */
    const int32_t *labels; /* [n] UM_LABEL_IGNORED, or the id itself */
    int n;
    const um_sample_medium *media; /* [media_n] in the order of their placeholders */
    int media_n;
} um_train_sample;

/* A sample in a micro-batch: rows row .. row+T-1, of which the first `real` are not padding. */
typedef struct um_sample_rows {
    int row, T, real;
} um_sample_rows;

/* Rows row .. row+n-1 are medium `medium` of sample `sample`. */
typedef struct um_media_place {
    int sample, medium, row, n;
    um_modality modality;
} um_media_place;

/* What all micro-batches of a router have in common. */
typedef struct um_micro_batch_setup {
    um_backbone *backbone;
    um_exchange *exchange;
    um_dev *dev;
    um_arena *host, *device; /* scratch of passes */
    um_lora *lora;           /* the router's live LoRA branches, or NULL */
    uint64_t seed;           /* of what LoRA dropout drops, and of gate noise */
    int expert_ranks;
    um_recompute recompute;
    const um_aux *aux;   /* or NULL */
    um_routing *routing; /* counts where rows go in steps (not in evaluations); or NULL */
    bool gate_noise;     /* GShard gates draw their second choice, by seed, step, number and row */
} um_micro_batch_setup;

typedef struct um_micro_batch {
    um_micro_batch_setup setup;
    um_batch batch;
    um_pass pass;
    um_backward backward;
    int T, samples;
    um_sample_rows *sample; /* host [samples] */
    int32_t *id; /* host [T] row of the embedding table, UM_NO_ID: a medium's row or a zero row */
    int32_t *
        target; /* host [T] the id that the row should predict: the label of the next one of its sample, or UM_NO_TARGET */
    int targets;           /* rows that have one */
    uint8_t *modality;     /* host [T] um_modality; pad rows are text */
    um_media_place *media; /* host [media_n] */
    int media_n;
    um_acts *acts;            /* host [layers] */
    um_attention_pages pages; /* of keys and values, which all layers use one after another */
    um_arena host, device;
} um_micro_batch;

/* m must stay where it is until it is closed. */
void um_micro_batch_open(um_micro_batch *m, const um_micro_batch_setup *setup);
void um_micro_batch_close(um_micro_batch *m); /* accepts a zeroed one */

/* Makes the rows of n >= 1 samples and binds their activations; m->pass is ready to run. step: of the optimiser, from 1; number: of the
 * micro-batch within it. UM_E_DATA names the sample (0..n-1) and its fault: media and placeholders that do not match, an id or a label
 * outside the vocabulary, no rows. UM_E_LIMIT: too many rows for one frame to the experts; UM_E_MEMORY. */
um_status um_micro_batch_build(um_micro_batch *m, const um_train_sample *sample, int n,
                               bool pad_rows, uint64_t step, uint32_t number, um_err *err);
/* What um_micro_batch_build takes of the device for `samples` samples of `rows` rows each, without scratch. */
size_t um_micro_batch_bytes(const um_model *model, int expert_ranks, um_recompute recompute,
                            int samples, int rows);
/* After the backward pass: adds the gradient of the token rows to the embedding table's, when it is trained. */
um_status um_micro_batch_finish(um_micro_batch *m, um_err *err);
/* Copies the gradient of a medium's rows [n,D] to the host. */
void um_micro_batch_media_grad(const um_micro_batch *m, int medium, float *out);
