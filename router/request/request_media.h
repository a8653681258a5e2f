/* The media of a request's JSON: flat keys and lists of parts. Only request.c and messages.c use this. */
#pragma once

#include "core/base/json.h"
#include "router/request/placeholder.h"

enum { UM_MEDIA_MAX = 4096 }; /* items of one kind, frames of one video */

/* The names of the flat keys, [UM_MEDIA_KEYS]. */
enum { UM_MEDIA_KEYS = 6 };
extern const char *const um_media_keys[UM_MEDIA_KEYS];

/* Reads the flat keys of object. Relative paths are taken from folder. */
um_status um_request_media_read(um_media_set *m, const um_json *object, const char *folder,
                                um_err *err);
/* A list of parts: [TEXT, {"image": PATH}, ...], or as OpenAI's API writes them. where names it in messages. */
um_status um_request_media_parts(um_media_set *m, um_turn *turn, const um_json *parts,
                                 const char *folder, const char *where, um_err *err);
