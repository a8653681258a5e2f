/* A request as people and other programs write it: one JSON object, checked once, here.
 *
 *   {"id": "7", "prompt": TEXT, "image": [PATH, ...], "speech": ..., "sound": ..., "video": ..., "video_audio": "speech",
 *    "system": TEXT, "stop": [TEXT, ...], "max_new_tokens": 12, "temperature": 0.2, "top_k": 50, "top_p": 0.9, "seed": 1, ...}
 *   {"prompt": TEXT, "score": TEXT, ...}                        (nothing is generated: how likely is this answer?)
 *   {"prompt": [TEXT, {"image": PATH}, {"speech": PATH}, {"video": PATH, "audio": "sound"}, TEXT]}
 *   {"messages": [{"role": "user", "content": TEXT or list of parts}, ...], "max_tokens": 12}      (OpenAI's form)
 *   {"custom_id": "7", "method": "POST", "url": "/v1/chat/completions", "body": REQUEST}           (its batch form)
 *   {"sample": {"conversations": [{"from": "human", "value": TEXT}, {"from": "gpt", "value": ""}], "image": PATH}}
 *   {"conversations": [...], "image": PATH, ...}
 *
 * The last two are an element of a Uni-MoE or LLaVA data file (spec 1.1), whose turns may also say {"role": "user", "content": TEXT};
 * a first turn from "system" is the system text. Its last question is asked: an answer behind it is left out, earlier ones stay. Keys
 * of a sample that mean nothing here are ignored, and listed in um_request; anywhere else a key that nobody knows is an error that
 * offers the nearest.
 *
 * A medium is a path, a file: or data: URL, or base64, or a list of those; null, "" and [] are none. "voice" is another name of
 * "speech". A video is a video file or a list of its frames: a list of images under "video" is one video (the original's form), other
 * lists hold a video an item. video_audio takes the videos' sound tracks along, as speech or sound, each before its video.
 *
 * In a text, <image>, <video>, <speech> and <sound> stand for the next medium of their kind; <audio> for the next speech, then the
 * next sound. Every placeholder needs its medium and every medium its placeholder; only a prompt without a kind's placeholders
 * gets them in front, as the interactive programs of the reference do. In a list of parts, and in messages without flat media
 * keys, texts are texts: what spells a placeholder there stays text. */
#pragma once

#include "core/base/arena.h"
#include "core/base/json.h"
#include "core/base/status.h"
#include "core/model/modality.h"
#include "router/request/media_source.h"

#include <stdbool.h>
#include <stdint.h>

#define UM_REQUEST_BYTES_MAX                                                                       \
    ((size_t)64 << 20) /* of one request's JSON; it must fit a control message */

/* One medium. */
typedef struct um_item {
    um_modality modality;
    const char **
        paths; /* [n]: one file, or the frames of a video; or names, for messages, of what data holds */
    um_media_data *data; /* [n]: content that stands in the request; NULL: none does */
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
    const char *id;  /* as given, else its number */
    uint64_t number; /* where it stood, from 1: the line of the file, or the element of the array */
    bool element;    /* of an array */
    const char *system; /* instead of the template's own sentence; NULL: that one */
    um_turn *turns;     /* [n_turns], human first, alternating */
    int n_turns;
    um_item *items; /* [n_items] in the order in which they stand in the turns */
    int n_items;
    const char **stop; /* [n_stop]: the answer ends before the first of these */
    int n_stop;
    int64_t max_new_tokens, top_k; /* -1: unset */
    double temperature, top_p;     /* < 0: unset */
    bool has_seed, has_ignore_eos;
    uint64_t seed;
    bool ignore_eos;
    bool logprobs; /* the result shall have the log-probability of each token */
    const char *
        score; /* the answer whose likelihood is wanted, which is then the last turn; NULL: one is to be generated */
    const char **ignored; /* [n_ignored]: keys of a sample that mean nothing here */
    int n_ignored;
    int64_t
        tokens; /* of a training sample: its "tokens", or those of its "multi_info"; -1: neither */
    bool mismatched; /* it could not be parsed because its placeholders and media do not match */
} um_request;

/* Where a request comes from. */
typedef struct um_request_source {
    const char *json;
    size_t n, bytes;    /* bytes > n: too long, and json only its beginning */
    const char *folder; /* relative media paths start here */
    uint64_t number;
    bool element;
    bool
        recorded; /* a traced run: what is noted there about its answer ("answer", "smallest_...") is passed over */
    bool
        answered; /* a training sample: of the forms only conversations, messages and sample; the answer at the end is kept, and keys
                   * other than theirs, "system" and those of media are passed over. Texts of messages are cut at placeholders too */
    bool
        voice_is_sound; /* "voice" means sounds, as in the original's files for models that hear no speech */
} um_request_source;

/* UM_E_DATA names the key ("sample.conversations[2]"). On failure only id (if it can be read at all, else the number), number, element
 * and mismatched of out are set. Everything that out points to lives in arena. */
um_status um_request_parse(um_request *out, const um_request_source *from, um_arena *arena,
                           um_err *err);
/* The id of a request that may not parse, as a text in arena; NULL when it cannot be read. */
const char *um_request_id(const char *json, size_t n, um_arena *arena);

/* Whether the text is no request but a line {"cancel": ID}: nobody wants the unfinished requests of this id any more. *id is then the id,
 * as a text in arena, or NULL when it is neither a text nor a whole number, or stands beside other keys. */
bool um_request_is_cancel(const char **id, const char *json, size_t n, um_arena *arena);

/* What a line about a request begins with: {"kind":KIND,"id":ID,"line":NUMBER (or "element"), without its end. */
void um_request_head(um_text *out, const um_request *req, const char *kind);
/* {"kind":"error",...,"error":MESSAGE}; reads id, number and element of req only. */
void um_request_error(um_text *out, const um_request *req, const char *message);
