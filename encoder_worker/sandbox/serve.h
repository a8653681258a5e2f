/* The life of unimoe-decoder: hello, walls, then files until the other end is closed. */
#pragma once

#include "core/base/status.h"

/* Speaks decode_wire.h over the socket fd. Enters the sandbox before it reads the first byte of media. UM_OK when the other end
 * closed between two requests. Thread: the process's only one. */
um_status um_decode_serve(int fd, um_err *err);
