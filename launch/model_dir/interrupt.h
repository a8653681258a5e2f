/* Ctrl-C while a command writes files: the command stops at the next piece and removes what it has written. */
#pragma once

#include "core/base/status.h"

#include <signal.h>

typedef struct um_interrupt {
    struct sigaction old[3];
} um_interrupt;

/* From begin to end, SIGINT, SIGTERM and SIGHUP are only recorded. Thread: main. */
void um_interrupt_begin(um_interrupt *i);
void um_interrupt_end(const um_interrupt *i);
/* UM_E_STOPPED, "stopped by SIGINT", once one of them has arrived. */
um_status um_interrupt_check(um_err *err);
