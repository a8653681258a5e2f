/* Training data: files of samples (sample.h), found once and read again when they are needed.
 *
 *   files --um_dataset_open: one pass, each sample checked--> index: 24 bytes a sample --um_dataset_sample: pread, parse--> um_data_sample
 *
 * A file is JSON Lines or one array. Opening reads every file once and keeps of each sample its place, its kinds of media, its length
 * and nothing of its text; a million samples take 24 MB whatever they hold. Samples that cannot be used are left out of the index,
 * counted, and the first of them kept as messages (check.h lists them all).
 *
 * Every router opens the same files and so has the same index. */
#pragma once

#include "router/data/sample.h"

typedef struct um_data_file {
    const char *path;
    double
        weight; /* times that each of its samples is seen in an epoch, on average; 1 is usual, more than 0 */
} um_data_file;

typedef struct um_dataset_how {
    um_sample_maker maker;
    const char
        *media_folder; /* relative media paths start here; NULL: in the folder of their file */
    void (*progress)(void *ctx,
                     int64_t bytes); /* bytes more are read; NULL: nobody wants to know */
    void *ctx;
} um_dataset_how;

/* One sample of the index. */
typedef struct um_data_entry {
    uint64_t at;     /* where its text begins in its file */
    uint32_t bytes;  /* of its text */
    uint32_t number; /* element or line, from 1 */
    uint32_t
        length; /* as given ("tokens" of the sample) or estimated: to sort by, not to allocate by */
    uint16_t file;
    uint8_t kinds; /* UM_KIND_* */
    bool element;  /* of an array, else a line */
} um_data_entry;

enum { UM_DATA_FILES_MAX = 256, UM_DATA_FAULTS_KEPT = 8 };
/* Weights of files. */
#define UM_DATA_WEIGHT_MIN 0.001
#define UM_DATA_WEIGHT_MAX 1000.0

typedef struct um_dataset um_dataset;

/* UM_E_DATA names the file: missing, empty, no JSON, or not one sample in it that can be used. */
um_status um_dataset_open(um_dataset **out, const um_data_file *files, int n_files,
                          const um_dataset_how *how, um_err *err);
void um_dataset_close(um_dataset *ds); /* accepts NULL */

size_t um_dataset_size(const um_dataset *ds); /* samples that can be used */
const um_data_entry *um_dataset_entry(const um_dataset *ds, size_t i); /* i < size */
const um_data_file *um_dataset_files(const um_dataset *ds, int *n);
/* Samples left out, and the first UM_DATA_FAULTS_KEPT of them as "train.json[3]: no answer". */
size_t um_dataset_left_out(const um_dataset *ds);
const char *um_dataset_fault(const um_dataset *ds, size_t i); /* NULL behind the last one kept */
/* SHA-256 over the content and weight of the files, 64 digits: whether a checkpoint belongs to this data. */
const char *um_dataset_digest(const um_dataset *ds);

/* Reads sample i again and makes it. UM_E_DATA also when the file has changed since it was opened. Thread: any, several at a time. */
um_status um_dataset_sample(const um_dataset *ds, size_t i, um_data_sample *out, um_arena *arena,
                            um_err *err);
