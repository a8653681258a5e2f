/* One sample of training data: token ids, labels and media, as the template and the masking of the reference make them (spec 1.2 to 1.4).
 *
 * Formats, one JSON object a sample (spec 1.1; the media keys are those of router/request/request.h):
 *   {"conversations": [{"from": "human", "value": TEXT}, {"from": "gpt", "value": TEXT}, ...], "image": PATH, "voice": [PATH, ...]}
 *   the same with {"role": "user", "content": TEXT} turns, under "conversations" or "messages"; a first turn may be the system's
 *   {"sample": {"conversations": ...}}
 * Other keys are ignored. A model that hears sounds but no speech reads "voice" as sounds, as the original's files for it mean it.
 *
 * A round is a question and its answer. The loss covers the tokens of every answer and the </s> behind it; which tokens these are, the
 * tokenizer's own offsets say, so that no sample is masked whole because a text holds an unknown character or the template's own words.
 * A question at the end that nobody answered is left out, with its media. */
#pragma once

#include "core/model/model.h"
#include "router/request/prompt.h"

/* Kinds of media, a bit each: a combination of them is what a training step has in common (spec 4.7). */
enum { UM_KIND_IMAGE = 1, UM_KIND_AUDIO = 2, UM_KIND_VIDEO = 4, UM_MEDIA_SETS = 8 };
/* "text", "image", "image+audio" ...: a combination, for messages and logs. */
const char *um_kinds_name(unsigned kinds);

/* What is wrong with a sample, or with a file of samples. With the last three the sample is used all the same. */
typedef enum um_data_fault_kind {
    UM_FAULT_NONE,
    UM_FAULT_FILE,        /* a file that cannot be read, or has no samples */
    UM_FAULT_JSON,        /* no JSON object, or none of the forms above */
    UM_FAULT_PLACEHOLDER, /* placeholders and media do not match */
    UM_FAULT_ANSWER,      /* no question has an answer */
    UM_FAULT_MEDIA, /* a kind that the model has no tower for; a file that is missing or cannot be decoded (check.h) */
    UM_FAULT_LONG,       /* not even its first round fits */
    UM_FAULT_CUT,        /* rounds at its end are left out, because it is too long */
    UM_FAULT_UNANSWERED, /* its last question has no answer and is left out */
    UM_FAULT_MASKED,     /* the original would have masked it whole (spec 12, 13) */
    UM_DATA_FAULT_KINDS
} um_data_fault_kind;
/* "bad JSON", "placeholders" ... */
const char *um_data_fault_name(um_data_fault_kind kind);
/* Whether a sample with such a fault is used all the same. */
bool um_data_fault_usable(um_data_fault_kind kind);

typedef struct um_data_sample {
    int32_t *ids; /* [n] before splicing: UM_ID_* (router/request/prompt.h) where media stand */
    int32_t
        *labels; /* [n] ids[i] where the loss covers it, else UM_LABEL_IGNORED; not yet shifted */
    int n;
    int targets;    /* labels that are not ignored; at least 1 */
    um_item *items; /* [n_items]: the medium of each negative id, in order */
    int n_items;
    unsigned kinds;  /* UM_KIND_* of items */
    int64_t length;  /* rows after splicing, with one window for each sound: at least so many */
    int rounds;      /* in ids */
    int cut;         /* rounds left out because ids would have been longer than max_ids */
    bool unanswered; /* a question at the end was left out */
    bool
        reference_masks; /* the original would have masked this sample whole: a counter of these is kept (spec 12, 13) */
    int64_t tokens;           /* ids as the file says, -1: it does not */
    um_data_fault_kind fault; /* of the sample that could not be made, else UM_FAULT_NONE */
    const char *id;           /* as the file gives it, else its place */
    const char *where; /* "train.json[12]" (element, from 0) or "train.jsonl:13" (line, from 1) */
} um_data_sample;

/* What samples are made for and with. All borrowed. */
typedef struct um_sample_maker {
    const um_model *model;
    const um_tokenizer *tokenizer; /* NULL: ids and labels are not made, and length is estimated */
    int max_ids; /* model_max_length: longer samples lose whole rounds at their end */
} um_sample_maker;

/* Makes a sample of its JSON. from->folder is where relative media paths start; from->number and element say where it stands in the
 * file named file. UM_E_DATA says what is wrong with it: no JSON, no answer, placeholders that do not match the media, a medium that
 * the model has no tower for, a first round of more than max_ids ids; then only fault, id and where of out are set. UM_E_MODEL: the
 * tokenizer has ids that the model has not. Everything lives in arena. Thread: any. */
um_status um_sample_make(um_data_sample *out, const um_sample_maker *maker,
                         const um_request_source *from, const char *file, um_arena *arena,
                         um_err *err);
/* "file[12]" or "file:13": the place of the item with this number. */
const char *um_sample_where(const char *file, uint64_t number, bool element, um_arena *arena);
