/* What is known of one step when it is over: one line of trainer_log.jsonl, and of the console. Figures and summaries of a
 * training are made from these records. */
#pragma once

#include "core/base/json.h"
#include "core/base/text.h"
#include "core/model/modality.h"
#include "core/train/expert_load.h"

#include <stdint.h>

enum { UM_RECORD_TERMS = 4 }; /* auxiliary losses: balance, multimodal, kl, z */

typedef struct um_train_record {
    uint64_t step, steps; /* of all */
    double epoch;
    double loss; /* mean over target tokens, with what auxiliary losses add */
    double cross_entropy;
    double aux[UM_RECORD_TERMS]; /* without coefficient, summed over layers */
    /* mean cross-entropy of samples with the modality; NaN: there were none */
    double by_modality[UM_MODALITIES];
    double lr, norm;                       /* norm of the gradient, before clipping */
    uint64_t samples, targets, rows, lost; /* lost: samples left out */
    const char *media;                     /* combination of media of the step: "image+audio" */
    double seconds, rows_per_second;       /* of this step */
    double left_seconds;                   /* until the end, at this speed */
    const char *skipped;                   /* why no weight changed; NULL: they did */
    double eval_loss;                      /* NaN: not measured at this step */
    const char *saved;                     /* the checkpoint written after this step, or NULL */
    um_expert_load load;                   /* layers 0: not counted at this step */
} um_train_record;

/* The names of UM_RECORD_TERMS: "balance" ... */
const char *um_record_term(int term);

/* The record as one JSON object; numbers that are not finite are null. */
void um_record_json(um_text *out, const um_train_record *r);
/* The same read back, but for the load (um_expert_load_read of its "load"): strings live as long as the JSON. False: it is no record. */
bool um_record_read(um_train_record *out, const um_json *j);
/* "step 120/1000  loss 1.2345  lr 3.0e-05  norm 1.23  8.1k tokens/s  12 min left  image 1.1 speech 1.4" */
void um_record_line(um_text *out, const um_train_record *r);
/* The columns of a table of records, and a record as its row, in CSV (RFC 4180): a field without a value is empty. The columns do not
 * depend on the model or the options. */
void um_record_csv_columns(um_text *out);
void um_record_csv(um_text *out, const um_train_record *r);
