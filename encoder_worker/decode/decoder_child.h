/* One process of unimoe-decoder: starts it, exchanges bytes with it under a deadline, ends it. */
#pragma once

#include "core/base/status.h"

#include <stdint.h>
#include <sys/types.h>

typedef struct um_decoder_child {
    pid_t pid; /* 0: not running */
    int fd;    /* the rank's end of the socket */
} um_decoder_child;

/* The deadline of a wait: deadline_ns is the time of the call + wait_ms. */
typedef struct um_decoder_wait {
    int64_t wait_ms, deadline_ns;
} um_decoder_wait;

um_decoder_wait um_decoder_wait_new(int64_t wait_ms);

/* Starts the program with an empty environment; its only open files are its end of the socket (standard input) and /dev/null. */
um_status um_decoder_child_start(um_decoder_child *c, const char *program, um_err *err);
/* False when it is not running. A process that died is reaped and its socket closed. */
bool um_decoder_child_alive(um_decoder_child *c);
/* Kills, reaps and closes; does nothing when it is not running. */
void um_decoder_child_stop(um_decoder_child *c);

/* Transfers all n bytes, or returns an error that says what happened to the process: that it crashed and by which signal, that it
 * ended, or that it was silent until the deadline. After an error only um_decoder_child_stop may be called. */
um_status um_decoder_child_send(um_decoder_child *c, const void *data, size_t n,
                                const um_decoder_wait *w, um_err *err);
um_status um_decoder_child_receive(um_decoder_child *c, void *data, size_t n,
                                   const um_decoder_wait *w, um_err *err);
