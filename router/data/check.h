/* `unimoe train --check-data`: every sample that cannot be used, with its place and the reason; the search never stops at the first. */
#pragma once

#include "router/data/dataset.h"

typedef enum um_data_fault_kind {
    UM_FAULT_JSON,        /* no JSON object, or none of the forms of sample.h */
    UM_FAULT_PLACEHOLDER, /* placeholders and media do not match */
    UM_FAULT_ANSWER,      /* no round has an answer */
    UM_FAULT_MEDIA, /* a file that is missing, cannot be read or cannot be decoded; a kind that the model has no tower for */
    UM_FAULT_LONG,  /* not even its first round fits */
    UM_FAULT_CUT,   /* usable: rounds at its end are left out, because the sample is too long */
    UM_FAULT_MASKED,     /* usable: the original would have masked it whole */
    UM_FAULT_UNANSWERED, /* usable: its last question has no answer and is left out */
    UM_DATA_FAULT_KINDS
} um_data_fault_kind;
/* "bad JSON", "placeholders", ... */
const char *um_data_fault_name(um_data_fault_kind kind);
/* Whether a sample with such a fault is trained on all the same. */
bool um_data_fault_usable(um_data_fault_kind kind);

typedef struct um_data_fault {
    um_data_fault_kind kind;
    const char *where;  /* "train.json[3]" */
    const char *id;     /* of the sample; NULL when it has none that can be read */
    const char *reason; /* one sentence */
} um_data_fault;

typedef struct um_data_report {
    int64_t samples, usable; /* usable: without a fault that is not usable */
    int64_t faults
        [UM_DATA_FAULT_KINDS]; /* samples with a fault of the kind; one sample may have several */
    int64_t kinds[UM_KINDS];   /* usable samples of each combination of media */
    int64_t ids, targets;      /* of all usable samples */
    int longest;               /* ids of the longest */
    int64_t media;             /* files and data looked at, each once */
} um_data_report;

/* What the check asks its caller for. Messages and faults are valid during the call only. */
typedef struct um_data_checker {
    void (*fault)(void *ctx, const um_data_fault *fault);
    /* Decodes a medium and discards it; UM_E_DATA says what is wrong with it. NULL: only that files are there and can be read. Called
     * once for each path. */
    um_status (*decode)(void *ctx, const um_item *item, um_err *err);
    bool (*stop)(void *ctx); /* whether to end early; NULL: never */
    void *ctx;
} um_data_checker;

/* Checks every sample of the files, in their order. Fails only where the check itself cannot go on: UM_E_DATA for a file that cannot be
 * read, UM_E_STOPPED, and what decode returns other than UM_E_DATA. Bad samples are no failure. */
um_status um_dataset_check(um_data_report *out, const um_data_file *files, int n_files,
                           const um_dataset_how *how, const um_data_checker *checker, um_err *err);
