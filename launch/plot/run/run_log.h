/* The log of a training (docs/LOGS.md) as numbers to draw. */
#pragma once

#include "core/train/record.h"
#include "launch/plot/routes.h"

typedef struct um_run_log {
    const char *path, *name; /* of trainer_log.jsonl; name: of the folder it lies in */
    size_t n;                /* records, by rising step */
    double steps;            /* of the whole run, as the last record says */
    double *step, *loss, *cross_entropy, *lr, *norm, *eval_loss; /* [n] NaN where there is none */
    double *by_modality[UM_MODALITIES];                          /* [n] each */
    int layers;         /* that route; 0: no record has loads */
    int *layer;         /* [layers] their numbers */
    double **imbalance; /* [layers], each [n]: max_over_mean */
    um_routes load;     /* rows of the last tenth of the steps, as prompts; layers 0: not listed */
    double load_from;   /* the first of these steps */
} um_run_log;

/* path: trainer_log.jsonl, or the folder of a run. What a killed run has left of a last line is passed over. UM_E_DATA names the line of
 * any other fault, and says when there is no record. table: NULL, or gets the
 * records as CSV (um_record_csv). Memory: arena. */
um_status um_run_log_read(um_run_log *out, const char *path, um_text *table, um_arena *arena,
                          um_err *err);
