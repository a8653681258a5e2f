/* `unimoe train --check-data`: every sample that cannot be used, with its place and the reason; the search never stops at the first. */
#pragma once

#include "router/data/dataset.h"

typedef struct um_data_fault {
    um_data_fault_kind kind;
    const char *where;  /* "train.json[3]" */
    const char *id;     /* of the sample; NULL: it has none that can be read */
    const char *reason; /* one sentence */
} um_data_fault;

typedef struct um_data_report {
    int64_t samples, usable; /* usable: without a fault that is not usable */
    int64_t files_bad;       /* files that cannot be read or have no samples */
    int64_t faults
        [UM_DATA_FAULT_KINDS]; /* samples with a fault of the kind; one sample may have several */
    int64_t kinds[UM_MEDIA_SETS]; /* usable samples of each combination of media */
    int64_t ids, targets;         /* of all usable samples */
    int longest;                  /* ids of the longest */
    int64_t media;                /* files and data looked at, each once */
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

/* Checks every sample of the files, in their order. Bad samples and files are no failure. Fails only where the check itself cannot go
 * on: UM_E_STOPPED, UM_E_MODEL (as um_sample_make), and what decode returns other than UM_E_DATA. */
um_status um_dataset_check(um_data_report *out, const um_data_file *files, int n_files,
                           const um_dataset_how *how, const um_data_checker *checker, um_err *err);
