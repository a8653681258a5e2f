/* The log of a training run, in its folder:
 *
 *   trainer_log.jsonl                    a record (core/train/record.h) a line
 *   trainer_log.csv                      the same as a table
 *   tensorboard/events.out.tfevents.*    the same for TensorBoard, a file for each life of the run
 *
 * A run that goes on from step s makes the records of later steps again. So those that an earlier life has written are taken out of
 * trainer_log.jsonl; trainer_log.csv is made anew from what is left, so that the two agree whatever a crash has left; and a new event file
 * begins with the mark by which TensorBoard forgets what other files say of steps behind s. Group: router 0. Thread: main. */
#pragma once

#include "core/train/record.h"

typedef struct um_train_log um_train_log;

/* Opens the log of the run in `folder`, which exists, for records of steps behind `step`; 0: a new run. */
um_status um_train_log_open(um_train_log **out, const char *folder, uint64_t step, um_err *err);
/* Appends a record to each file. UM_E_IO: to one of them not, which has no part of it; the next record may be added all the same. */
um_status um_train_log_add(um_train_log *l, const um_train_record *r, um_err *err);
void um_train_log_close(um_train_log *l); /* accepts NULL */
