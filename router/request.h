/* A request as people and the launcher write it: one JSON object, checked once, here.
 *
 *   {"id": "7", "sample": {"conversations": [{"from": "human", "value": TEXT}, {"from": "gpt", "value": ""}], "image": PATH},
 *    "max_new_tokens": 12, "temperature": 0.2, "top_k": 50, "top_p": 0.9, "seed": 1, "ignore_eos": true}
 *   {"prompt": TEXT, "image": [PATH, ...], ...}
 *
 * sample is one element of a Uni-MoE data file (spec 1.1). A medium is a path or a list of paths. A prompt with media but without
 * their placeholders gets them in front, as the interactive programs of the reference do. A key that nobody knows is an error
 * that offers the nearest. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

#include <stdbool.h>
#include <stdint.h>

/* What a placeholder stands for. Speech and sound share one. */
typedef enum um_media_kind {
    UM_MEDIA_IMAGE,
    UM_MEDIA_AUDIO,
    UM_MEDIA_VIDEO,
    UM_MEDIA_KINDS
} um_media_kind;

/* "<image>", "<audio>" or "<video>". */
const char *um_media_placeholder(um_media_kind kind);

typedef struct um_turn {
    bool human;       /* else the assistant */
    const char *text; /* "" ends the prompt in a bare "ASSISTANT:" */
} um_turn;

typedef struct um_request {
    const char *id; /* NULL when absent */
    um_turn *turns; /* [n_turns], human first, alternating */
    int n_turns;
    const char **media[UM_MEDIA_KINDS]; /* paths of each kind in their order: voice before
                                         * sound; video: the frames of one clip */
    int n_media[UM_MEDIA_KINDS];
    int64_t max_new_tokens, top_k; /* -1: unset */
    double temperature, top_p;     /* < 0: unset */
    bool has_seed, has_ignore_eos;
    int64_t seed;
    bool ignore_eos;
} um_request;

/* Reads json[0..n). Relative media paths are taken from folder. UM_E_DATA names the key ("sample.conversations[2]").
 * Everything that out points to lives in arena. */
um_status um_request_parse(um_request *out, const char *json, size_t n, const char *folder,
                           um_arena *arena, um_err *err);
