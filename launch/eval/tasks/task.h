/* An evaluation: questions about media, and what people answered. Every reader makes this of its format, and nothing behind the readers
 * knows formats. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"
#include "core/base/text.h"
#include "core/model/modality.h"

typedef enum um_eval_metric {
    UM_METRIC_EXACT,  /* one of the references, word for word after normalisation */
    UM_METRIC_KEY,    /* a sentence that holds a reference, which is the words that decide */
    UM_METRIC_VQA,    /* accuracy of VQA: how many people said so */
    UM_METRIC_CHOICE, /* the right one of the options */
    UM_METRIC_YES_NO, /* the right one of yes and no; F1, precision and recall of yes too */
    UM_METRIC_F1,     /* words shared with the best reference */
    UM_METRIC_WER,    /* word error rate of a transcript: less is better */
    UM_METRIC_CIDER,  /* captions */
    UM_EVAL_METRICS
} um_eval_metric;
/* "exact", "key", "vqa", "choice", "yes-no", "f1", "wer", "cider"; and the metric of a name, UM_EVAL_METRICS when there is none. */
const char *um_eval_metric_name(um_eval_metric metric);
um_eval_metric um_eval_metric_of(const char *name);

enum { UM_EVAL_OPTIONS = 26 }; /* of a choice, at most: they are named by letters */

typedef struct um_eval_medium {
    um_modality modality;
    const char *source; /* a path, or base64 of the file, as a request may say it */
} um_eval_medium;

typedef struct um_eval_item {
    const char *id;
    const char *question; /* without placeholders */
    const char *context;  /* a passage or hint before it, "" when there is none */
    const char **
        refs; /* [n_refs] what people answered; of a choice the right option's text, of yes-no "yes" or "no" */
    int n_refs;
    const char **options;  /* [n_options] of a choice */
    int n_options, right;  /* right: the option that is; -1: not a choice */
    um_eval_medium *media; /* [n_media] */
    int n_media;
    const char
        *group; /* of the benchmark: answer type, category, level, task; "" when it has none */
    const char
        *modality; /* as the file says it, else of the media: "image", "speech+image", "text" */
    const char *speaker; /* whose voice it is; "" when nobody says */
    const char *split;   /* of the data; "" when nobody says */
    const char *
        messages; /* JSON of what is asked, as it stands in the file; NULL: media in front, then um_eval_prompt */
    const char *open_messages; /* of a choice: the same without its options, NULL with messages */
} um_eval_item;

typedef struct um_eval_task {
    const char *name; /* of the format */
    um_eval_metric metric;
    um_eval_item *items;
    size_t n, cap;
    size_t left_out; /* entries without an answer, as those of a test split */
    um_arena *arena; /* of all texts */
} um_eval_task;

/* A place for one more item, empty but for right = -1 and texts "". Its pointers are valid until the next one. */
um_eval_item *um_eval_item_add(um_eval_task *t);
void um_eval_ref_add(um_eval_task *t, um_eval_item *item, const char *text);
void um_eval_option_add(um_eval_task *t, um_eval_item *item, const char *text);
void um_eval_medium_add(um_eval_task *t, um_eval_item *item, um_modality modality,
                        const char *source);
/* Makes the option `right` the answer of a choice. UM_E_DATA when there is no such option, when an option is empty, when there are fewer
 * than two or more than UM_EVAL_OPTIONS. */
um_status um_eval_right_set(um_eval_task *t, um_eval_item *item, int right, um_err *err);

/* The item's modality: what the file says, else the kinds of its media. In arena. */
const char *um_eval_modality(const um_eval_item *item, um_arena *arena);
/* What is put to the model: context, question, options by letter, and how it is to answer. In arena. */
char *um_eval_prompt(const um_eval_item *item, um_eval_metric metric, um_arena *arena);
/* One line of requests.jsonl that asks how likely option `choice` is as the answer: the question is put without its options. White space
 * around the option does not count. With its newline. */
void um_eval_score_request(um_text *out, const um_eval_item *item, int choice);
/* One line of requests.jsonl that asks it (router/request/request.h), with its newline. */
void um_eval_request(um_text *out, const um_eval_item *item, um_eval_metric metric,
                     int max_new_tokens);
