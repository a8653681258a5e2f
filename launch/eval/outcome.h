/* What an evaluation has found, computed from answers alone: every table, figure and file of it is made of this.
 *
 * A measure is a task under one metric: of a choice there may be three, for the answer that was generated and for the likeliest option, by
 * the sum and by the mean of its tokens' log-probabilities. A question counts for a model unless it was not put to it, because the model
 * lacks a tower, or could not be answered, because its media cannot be read; those are told apart. No answer in a file of another
 * program's counts as a wrong one. */
#pragma once

#include "launch/eval/kept.h"
#include "launch/eval/lists.h"
#include "launch/eval/metrics/paired.h"
#include "launch/eval/tally.h"

/* What there is of a model and a task. */
typedef struct um_given {
    const char **answer;        /* [n] NULL: none */
    um_kept_score **likelihood; /* [n] of [n_options], or NULL */
    const char **failure;       /* [n] why there is none, or NULL */
    const bool *lacking;        /* [n] the model cannot read the media, or NULL */
    bool silence;               /* no answer is a wrong one */
} um_given;

typedef struct um_marks {
    bool there;    /* the model has this measure */
    double *score; /* [n] of the task's items */
    bool *counted; /* [n] */
    um_tally tally;
    long answered, silent, failed, lacking; /* of all questions; silent ones count too */
    long ties; /* of likelihood: the first of several equal ones was taken */
} um_marks;

/* Two models on the questions that count for both. */
typedef struct um_pair {
    int a, b;
    um_paired found;
} um_pair;

enum { UM_WORST = 20 };

typedef struct um_measure {
    int task;
    const char *name; /* "key", "vqa", ...; of a choice "choice", "likelihood", "likelihood-mean" */
    bool main;        /* of its task: what modalities and the bias index are made of */
    bool less;        /* is better */
    um_marks *of;     /* [models] */
    um_pair *pairs;   /* [n_pairs] */
    int n_pairs;
    size_t worst[UM_WORST]; /* items, by their mean score over the models */
    int n_worst;
} um_measure;

/* All questions of a modality, over the main measures whose scores are shares (not of word errors and CIDEr). */
typedef struct um_modality_score {
    long n;
    double score;
    um_interval interval;
} um_modality_score;
typedef struct um_modality_row {
    const char *name;
    um_modality_score *of; /* [models] */
} um_modality_row;

typedef struct um_bias_row {
    const char *name;     /* a modality, or "TASK, MODALITY" */
    int specialist;       /* which model; -1: none was named */
    double *score, *best; /* [models] of the model, and of the specialist on the same questions */
    long *n;              /* [models] */
} um_bias_row;
typedef struct um_bias {
    um_bias_row *rows; /* [n] */
    int n;
    um_bias_index *index;       /* [models] */
    um_bias_interval *interval; /* [models] */
} um_bias;

typedef struct um_outcome {
    const um_model_list *models;
    const um_task_list *tasks;
    const um_given *given; /* [models][tasks] */
    um_measure *measures;  /* [n_measures] in the order of the tasks */
    int n_measures;
    um_modality_row *modalities; /* [n_modalities] */
    int n_modalities;
    bool has_bias;
    bool bias_by_task;
    um_bias bias;
} um_outcome;

/* specialists: "MODALITY=NAME" words, none: no index. UM_E_USAGE: a modality that no question has, or a name of no model. UM_E_DATA: of
 * metrics. Everything lives in arena. */
um_status um_outcome_make(um_outcome *out, const um_model_list *models, const um_task_list *tasks,
                          const um_given *given, const um_config *cfg, um_arena *arena,
                          um_err *err);
/* A label of a measure: its task and, unless it is the main one, its name. In arena. */
const char *um_measure_label(const um_outcome *o, const um_measure *m, um_arena *arena);
