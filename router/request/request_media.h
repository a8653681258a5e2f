/* The media of a request: lists of items by kind, and the turns' texts cut at their placeholders. Only request.c uses this. */
#pragma once

#include "core/base/json.h"
#include "router/request/request.h"

enum { UM_MEDIA_MAX = 4096, UM_MARKS = 5 }; /* items of one kind, frames of one video */

/* What the flat keys (image, speech, voice, sound, video, video_audio) of an object give, in order, and how far it is used up. */
typedef struct um_media_list {
    um_item *items;
    int n, next;
} um_media_list;

typedef struct um_request_media {
    um_media_list kind[UM_MODALITIES];
    um_media_list used; /* in the order in which they stand in the turns */
    int seen[UM_MARKS]; /* placeholders in the texts, by their spelling */
    bool lacking;       /* one found no medium */
    const char *track;  /* "speech" or "sound": videos bring their sound track; else NULL */
    const char *folder;
    um_arena *arena;
} um_request_media;

/* Reads the flat keys of object. */
um_status um_request_media_read(um_request_media *m, const um_json *object, um_err *err);
/* Cuts a text at its placeholders, each taking its medium. */
um_status um_request_media_cut(um_request_media *m, um_turn *turn, const char *text, um_err *err);
/* A list of parts: [TEXT, {"image": PATH}, ...]. where names it in messages. */
um_status um_request_media_parts(um_request_media *m, um_turn *turn, const um_json *parts,
                                 const char *where, um_err *err);
/* The text with a line for each medium of the kinds whose placeholders it lacks in front (spec 1.1). Lives in the arena. */
const char *um_request_media_fronted(const um_request_media *m, const char *text);
/* Nothing may be left over. */
um_status um_request_media_check(const um_request_media *m, um_err *err);
