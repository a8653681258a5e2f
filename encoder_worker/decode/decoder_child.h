/* One process of unimoe-decoder: starting it, talking to it without ever waiting forever, ending it. */
#pragma once

#include "core/base/status.h"

#include <stdint.h>
#include <sys/types.h>

typedef struct um_decoder_child {
    pid_t pid; /* 0: there is none */
    int fd;    /* our end of the socket */
} um_decoder_child;

/* Until when to wait: deadline_ns is the time of the call + wait_ms. */
typedef struct um_decoder_wait {
    int64_t wait_ms, deadline_ns;
} um_decoder_wait;

um_decoder_wait um_decoder_wait_new(int64_t wait_ms);

/* Starts the program with an empty environment and no files but its end of the socket (as standard input) and /dev/null. */
um_status um_decoder_child_start(um_decoder_child *c, const char *program, um_err *err);
/* False when there is none, or it has died: then it is reaped and closed. */
bool um_decoder_child_alive(um_decoder_child *c);
/* Kills, reaps and closes; accepts one that is not there. */
void um_decoder_child_stop(um_decoder_child *c);

/* All n bytes, or an error that says what became of the process: that it crashed and by which signal, that it ended, that it was
 * silent until the deadline. After an error only um_decoder_child_stop makes sense. */
um_status um_decoder_child_send(um_decoder_child *c, const void *data, size_t n,
                                const um_decoder_wait *w, um_err *err);
um_status um_decoder_child_receive(um_decoder_child *c, void *data, size_t n,
                                   const um_decoder_wait *w, um_err *err);
