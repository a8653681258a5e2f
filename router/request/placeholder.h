/* Placeholders: how media are written in a text, and which medium each stands for. The media of a request, as lists by kind, and the
 * turns' texts cut at their placeholders. */
#pragma once

#include "router/request/request.h"

enum { UM_PLACEHOLDERS = 5 }; /* spellings */

/* Media of one kind in the order given, and how many have been placed. */
typedef struct um_media_list {
    um_item *items;
    int n, next;
} um_media_list;

typedef struct um_media_set {
    um_media_list kind[UM_MODALITIES];
    um_media_list used;        /* in the order in which they stand in the turns */
    int seen[UM_PLACEHOLDERS]; /* in the texts, by spelling */
    bool lacking;              /* one found no medium */
    const char *track;         /* "speech" or "sound": videos bring their sound track; else NULL */
    bool voice_is_sound;       /* what the key "voice" means */
    um_arena *arena;
} um_media_set;

/* A place for one more item of the list, which the caller fills. */
um_item *um_media_list_add(um_media_list *l, um_arena *arena);
/* Appends to a turn: text[0..n) as it is; or a medium (a video behind its sound track, when track says what that is). */
void um_turn_text(um_media_set *m, um_turn *turn, const char *text, size_t n);
um_status um_turn_item(um_media_set *m, um_turn *turn, const um_item *item, const char *track,
                       um_err *err);

/* "<image>", "<audio>" (speech and sound) or "<video>": how a medium is written in a text. */
const char *um_media_placeholder(um_modality modality);
/* Appends a text to a turn, cut at its placeholders, each of which takes the next medium of its kind. */
um_status um_placeholder_cut(um_media_set *m, um_turn *turn, const char *text, um_err *err);
/* The text with a line in front for each medium of the kinds whose placeholders it lacks (spec 1.1). Lives in the arena. */
const char *um_placeholder_front(const um_media_set *m, const char *text);
/* Every placeholder found a medium, and every medium a placeholder. */
um_status um_placeholder_check(const um_media_set *m, um_err *err);
