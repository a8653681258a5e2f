/* An encoder rank: media files in, rows of the language model's width out. A medium that cannot be read is answered with a status; the
 * rank goes on. */
#pragma once

#include "core/options/config.h"
#include "core/comm/link.h"

/* The role: joins, loads the towers and connectors that the rank is assigned, serves until shutdown. The caller keeps ownership of
 * comm. Thread: the calling thread is the rank's main thread. */
um_status um_encoder_run(const um_config *cfg, um_comm *comm, um_err *err);
