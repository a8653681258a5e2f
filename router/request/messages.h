/* The messages of a chat, as OpenAI's API writes them, made turns. Only request.c uses this. */
#pragma once

#include "router/request/request_media.h"

/* Sets system and turns of r. Texts are cut at their placeholders when the request has flat media keys (cut). The last message must be
 * the user's, unless it may be answered. */
um_status um_messages_read(um_request *r, um_media_set *media, const um_json *list, bool cut,
                           bool answered, const char *folder, um_err *err);
/* "system": a text, or a list of texts. where names it in messages. */
um_status um_system_read(um_request *r, const um_json *j, const char *where, um_arena *arena,
                         um_err *err);
