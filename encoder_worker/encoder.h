/* An encoder rank: media files in, rows of the language model's width out. An image that cannot be read is an answer with a
 * status, never the end of the rank. */
#pragma once

#include "core/options/config.h"
#include "core/comm/link.h"

/* The role: joins, loads the towers and connectors the model has, serves until shutdown. comm stays the caller's.
 * Thread: the calling thread is the rank's main thread. */
um_status um_encoder_run(const um_config *cfg, um_comm *comm, um_err *err);
