/* Whole training runs in a cluster of threads, with the real trainer: on the six samples of a golden training file, or on others. The arena
 * and the folder of tests/support/fixture.h must be there. */
#pragma once

#include "core/options/config.h"
#include "tests/cluster/cluster.h"

enum { TRAINING_STEPS = 6 };

/* A run on the samples of the golden training file of the model. */
typedef struct training_run {
    int routers, experts, encoders;
    const char *out, *resume, *recompute, *stage, *freeze;
    const char *broken; /* the image of one sample more, which cannot be used */
    uint64_t stop; /* a signal asks for the end when the line of this step comes; 0: none does */
    double lr;
    int64_t save_every, give_up, log_every;
    bool held_out;
    const char *model;               /* NULL: the golden model of four experts, speech and images */
    const char *data;                /* NULL: the samples of its golden training file */
    void (*options)(um_config *cfg); /* NULL, or sets more of them */
    um_comm_fault fault;             /* or NULL */
    /* afterwards */
    char lines[1 << 15];
    um_status st;
    um_err err;
} training_run;

/* Runs it; returns the folder of the last checkpoint of the run, or NULL. */
const char *training_go(training_run *j);
/* Two checkpoints have the same tensors with the same bits, however they are divided among files. */
void training_same(const char *a, const char *b);
