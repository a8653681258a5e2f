/* Requests on their way to the routers: one JSON object a line (router/request/request.h says what it may hold), each with an "id", and
 * with media paths made absolute, for rank 0 may start in another folder or on another host. */
#pragma once

#include "core/options/config.h"
#include "core/base/json.h"

/* The request of --prompt and --image, or all those of --requests, into out (which the caller frees). *count is how many.
 * UM_E_DATA names file and line. */
um_status um_requests_build(um_text *out, int *count, const um_config *cfg, um_arena *arena,
                            um_err *err);
