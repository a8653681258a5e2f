/* A request as people and the launcher write it: one JSON object, checked once, here.
 *
 *   {"id": "7", "sample": {"conversations": [{"from": "human", "value": TEXT}, {"from": "gpt", "value": ""}], "image": PATH},
 *    "max_new_tokens": 12, "temperature": 0.2, "top_k": 50, "top_p": 0.9, "seed": 1, "ignore_eos": true}
 *   {"prompt": TEXT, "image": [PATH, ...], "speech": ..., "sound": ..., "video": ..., "video_audio": "speech", ...}
 *   {"prompt": [TEXT, {"image": PATH}, {"speech": PATH}, {"video": PATH, "audio": "sound"}, TEXT]}
 *
 * sample is one element of a Uni-MoE data file (spec 1.1). A medium is a path or a list of paths; "voice" is another name of
 * "speech". A video is a video file or a list of its frames: a list of image files under "video" is one video (the original's
 * form), other lists hold a video an item. video_audio takes the videos' sound tracks along, as speech or sound, each before its video.
 *
 * In a text, <image>, <video>, <speech> and <sound> stand for the next medium of their kind; <audio> for the next speech, then the
 * next sound. Every placeholder needs its medium and every medium its placeholder; only a prompt without a kind's placeholders
 * gets them in front, as the interactive programs of the reference do. Where a prompt or value is a list of parts, its texts are
 * texts: what spells a placeholder there stays text.
 *
 * A key that nobody knows is an error that offers the nearest. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "core/model/modality.h"

#include <stdbool.h>
#include <stdint.h>

/* One medium. */
typedef struct um_item {
    um_modality modality;
    const char **paths; /* [n]: one file, or the frames of a video */
    int n;
    bool frames; /* the files are images */
    bool track;  /* speech or sound out of a video's sound track */
} um_item;

/* A stretch of a turn: a text, or a medium. */
typedef struct um_content_part {
    const char *text; /* NULL: a medium */
    int item;
} um_content_part;

typedef struct um_turn {
    bool human; /* else the assistant */
    um_content_part *parts;
    int n; /* 0: an empty turn, which ends the prompt in a bare "ASSISTANT:" */
} um_turn;

typedef struct um_request {
    const char *id; /* NULL when absent */
    um_turn *turns; /* [n_turns], human first, alternating */
    int n_turns;
    um_item *items; /* [n_items] in the order in which they stand in the turns */
    int n_items;
    int64_t max_new_tokens, top_k; /* -1: unset */
    double temperature, top_p;     /* < 0: unset */
    bool has_seed, has_ignore_eos;
    int64_t seed;
    bool ignore_eos;
    const char **stop; /* [n_stop] texts that end the answer, none of them empty */
    int n_stop;
} um_request;

/* "<image>", "<audio>" (speech and sound) or "<video>": how a medium is written in a text. */
const char *um_media_placeholder(um_modality modality);

/* Reads json[0..n). Relative media paths are taken from folder. UM_E_DATA names the key ("sample.conversations[2]").
 * Everything that out points to lives in arena. */
um_status um_request_parse(um_request *out, const char *json, size_t n, const char *folder,
                           um_arena *arena, um_err *err);
/* The "id" of a request that could not be read, if that much can be: a text in arena, else NULL. */
const char *um_request_id(const char *json, size_t n, um_arena *arena);
