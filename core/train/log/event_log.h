/* The records of a training run as TensorBoard's event files (proto/events.h), in the folder tensorboard of the run:
 *
 *   train/loss cross_entropy learning_rate grad_norm tokens_per_second epoch     of each step
 *   train_loss/image ...                 of samples with the modality, at steps that have some
 *   train_aux/balance multimodal kl z    auxiliary losses, without coefficient
 *   expert_max_over_mean/layer_0 ...     how even the experts' load is (core/train/expert_load.h)
 *   expert_entropy/layer_0 ...
 *   eval/loss                            of held-out samples, at steps that have measured it
 *
 * Thread: router 0's. */
#pragma once

#include "core/train/record.h"

typedef struct um_event_log um_event_log;

/* A new file for records of steps behind `step`; what other files of the folder say of these is void from now on. */
um_status um_event_log_open(um_event_log **out, const char *folder, uint64_t step, um_err *err);
um_status um_event_log_add(um_event_log *l, const um_train_record *r, um_err *err);
void um_event_log_close(um_event_log *l); /* accepts NULL */
