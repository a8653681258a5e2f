/* See messages.h. */
#include "router/request/messages.h"

#include <stdio.h>
#include <string.h>

enum { MESSAGES_MAX = 4096 };

um_status um_system_read(um_request *r, const um_json *j, const char *where, um_arena *arena,
                         um_err *err)
{
    bool list = um_json_kind_of(j) == UM_JSON_ARRAY;
    const char *all = r->system != NULL ? um_arena_fmt(arena, "%s\n", r->system) : "";
    for (size_t i = 0; i < (list ? um_json_size(j) : 1); i++) {
        const um_json *one = list ? um_json_at(j, i) : j;
        const char *text = um_json_str(
            um_json_kind_of(one) == UM_JSON_OBJECT ? um_json_get(one, "text") : one, NULL);
        if (text == NULL)
            return UM_FAIL(err, UM_E_DATA, "%s: want a text or a list of texts", where);
        all = um_arena_fmt(arena, "%s%s", all, text);
    }
    r->system = all;
    return UM_OK;
}

/* Empty for an assistant's null, as messages that called a tool have it. */
static um_status content_read(um_media_set *media, um_turn *turn, const um_json *content, bool cut,
                              const char *folder, const char *where, um_err *err)
{
    const char *text = um_json_str(content, NULL);
    if (um_json_kind_of(content) == UM_JSON_ARRAY)
        return um_request_media_parts(media, turn, content, folder, where, err);
    if (text == NULL && um_json_kind_of(content) == UM_JSON_NULL && !turn->human) return UM_OK;
    if (text == NULL) return UM_FAIL(err, UM_E_DATA, "%s: want a text or a list of parts", where);
    if (cut) return um_placeholder_cut(media, turn, text, err);
    um_turn_text(media, turn, text, strlen(text));
    return UM_OK;
}

um_status um_messages_read(um_request *r, um_media_set *media, const um_json *list, bool cut,
                           bool answered, const char *folder, um_err *err)
{
    size_t n = um_json_size(list);
    bool alone = r->system == NULL; /* else "system" stands beside the messages */
    if (um_json_kind_of(list) != UM_JSON_ARRAY || n == 0 || n > MESSAGES_MAX)
        return UM_FAIL(err, UM_E_DATA, "messages: want a list of 1 to %d messages", MESSAGES_MAX);
    r->turns = um_arena_zero(media->arena, n * sizeof *r->turns);
    for (size_t i = 0; i < n; i++) {
        const um_json *content = um_json_get(um_json_at(list, i), "content");
        const char *role = um_json_str(um_json_get(um_json_at(list, i), "role"), "");
        char where[64];
        snprintf(where, sizeof where, "messages[%zu].content", i);
        if (strcmp(role, "system") == 0 || strcmp(role, "developer") == 0) {
            if (r->n_turns > 0 || !alone)
                return UM_FAIL(err, UM_E_DATA, "messages[%zu]: %s", i,
                               alone ? "a system message must be the first"
                                     : "system is given twice, here and beside the messages");
            UM_TRY(um_system_read(r, content, where, media->arena, err));
            continue;
        }
        bool human = strcmp(role, "user") == 0;
        if (!human && strcmp(role, "assistant") != 0)
            return UM_FAIL(err, UM_E_DATA,
                           "messages[%zu]: role \"%.60s\", known are system, user and assistant", i,
                           role);
        if (human != (r->n_turns % 2 == 0))
            return UM_FAIL(err, UM_E_DATA,
                           "messages[%zu]: user and assistant must take turns, user first", i);
        um_turn *turn = &r->turns[r->n_turns++];
        turn->human = human;
        UM_TRY(content_read(media, turn, content, cut, folder, where, err));
    }
    if (r->n_turns == 0) return UM_FAIL(err, UM_E_DATA, "messages: none is the user's");
    if (!answered && !r->turns[r->n_turns - 1].human && r->turns[r->n_turns - 1].n > 0)
        return UM_FAIL(err, UM_E_DATA, "messages[%zu]: the last message must be the user's", n - 1);
    return UM_OK;
}
