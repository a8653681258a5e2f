/* Requests on their way to rank 0: the bytes of --requests as they come, or one request made of --prompt and the media flags. What they
 * say is the routers' to judge (router/request/request.h); the launcher neither parses nor changes them. */
#pragma once

#include "core/options/config.h"
#include "core/base/json.h"

typedef struct um_requests {
    um_text head;     /* goes first; all there is when fd is -1 */
    int fd;           /* what follows */
    const char *name; /* of the source, for messages */
    bool file;        /* --requests, not --prompt */
} um_requests;

/* Sets cfg->media_folder, where relative media paths start: absolute, for rank 0 may run in another folder. Reads the beginning of a
 * file, and of standard input what is there already. UM_E_DATA names the file. */
um_status um_requests_open(um_requests *out, um_config *cfg, um_arena *arena, um_err *err);
void um_requests_close(um_requests *r);
