/* Configuration is one table (config.c): name, type, default, range, sentence. It makes --help, the UNIMOE_* environment names,
 * the config file keys, the validation and docs/OPTIONS.md. No other file reads argv or the environment.
 *
 * Precedence: flag > UNIMOE_* environment > config file (--config-file, "name = value" lines, # comments) > built-in.
 * "max_new_tokens" is --max-new-tokens (or --max_new_tokens) and UNIMOE_MAX_NEW_TOKENS. An unknown flag is UM_E_USAGE and the
 * message offers the nearest name. */
#pragma once

#include "core/base/arena.h"
#include "core/base/status.h"

#include <stdint.h>
#include <stdio.h>

enum { UM_MAX_FILES = 256 };   /* --image and the like may be repeated this often */
enum { UM_MAX_OPTIONS = 160 }; /* rows of the option table */

struct um_placement;

typedef struct um_list {
    const char *item[UM_MAX_FILES];
    int n;
} um_list;

/* Who takes an option: a bit each. Flags of another program are refused by name ("--image belongs to unimoe generate"). */
typedef enum um_program {
    UM_PROG_ROUTER = 1,
    UM_PROG_EXPERT = 2,
    UM_PROG_ENCODER = 4,
    UM_PROG_RANKS = 7, /* all three */
    UM_PROG_GENERATE = 8,
    UM_PROG_TRACE = 16,
    UM_PROG_INSPECT = 32,
    UM_PROG_DOCTOR = 64,
    UM_PROG_INIT = 128,
    UM_PROG_BENCH = 256,
    UM_PROG_PLOT = 512,
    UM_PROG_CONVERT = 1024,
    UM_PROG_TRAIN = 2048,
    UM_PROG_EVAL = 4096,
    UM_PROG_ASSEMBLE = 8192,
    UM_PROG_SERVE = 8 | 16 | 4096,         /* commands that start a job which answers */
    UM_PROG_LAUNCH = 8 | 16 | 2048 | 4096, /* commands that start a job */
} um_program;

typedef struct um_config {
    /* what to run */
    const char *model;        /* model directory */
    const char *vision_tower; /* override the tower folders of config.json; "" = as it says */
    const char *speech_tower, *sound_tower;
    bool in_order;        /* answers in the order of their requests */
    bool stream;          /* tokens as they come */
    const char *requests; /* JSONL of requests, "-" = standard input */
    const char
        *media_folder;   /* where relative media paths of requests start; "" = beside the file */
    const char *request; /* trace: the one request.json (positional) */
    const char *out;     /* output file, "" = standard output */
    const char *routing; /* CSV of what the gates chose, "" = do not count */
    const char *prompt, *prompt_file;
    um_list image, video, speech, sound;
    const char *video_audio; /* "" speech sound: what the sound tracks of --video are taken as */
    bool json;               /* generate: print JSON lines */
    /* placement */
    int64_t routers, experts; /* number of ranks */
    const char *encoders;     /* the same, or ranks by modality (model/modality.h) */
    const char *modalities;   /* what an encoder rank reads */
    const char *hostfile;
    const char *mpirun_args; /* further words for mpirun */
    bool dry_run, print_config;
    int64_t start_timeout_ms; /* for all ranks to come up; 0 = by their number */
    bool quiet;               /* no progress and no figures */
    bool check_start;         /* a rank: meet the others, print its name, end */
    bool progress;            /* a router: report progress on standard output */
    /* numbers and wire */
    const char *isa;     /* auto generic avx2 avx512 */
    const char *weights; /* auto f32 bf16: type weights are kept in */
    const char *lora;    /* merge live: what becomes of a LoRA inside the model */
    const char *wire;    /* f32 bf16 */
    const char *codec;   /* none zstd */
    int64_t zstd_level;
    int64_t credit; /* bytes of rows that may be under way between a router and one expert rank */
    /* time and threads */
    int64_t threads;     /* compute threads of one host, shared by its ranks; 0 = its cores */
    int64_t deadline_ms; /* a silent peer ends the job after this */
    int64_t stall_ms;    /* a living one that owes an answer does after this; 0 = never */
    int64_t yield_us;    /* a waiting rank yields its core for so long before it sleeps */
    /* generation */
    int64_t prefill_chunk, max_batch, micro_batches, max_new_tokens;
    int64_t
        context; /* prompt rows and new tokens of a request together; 0 = the model's positions */
    int64_t request_memory,
        prefix_cache;          /* of a router, for its requests; 0 = what is free on its host */
    double temperature, top_p; /* < 0: as generation_config.json says */
    int64_t top_k;             /* < 0: as generation_config.json says; 0 = all */
    int64_t seed;
    bool ignore_eos, gate_noise;
    const char *image_orientation; /* none, exif */
    const char *image_aspect;      /* "" = as the config says, square, pad */
    int64_t image_max_pixels, media_max_bytes, media_max_seconds, media_wait_ms, media_cache;
    int64_t video_frames;      /* of a video file */
    bool speech_exact_windows; /* 480000 samples, not the reference's 480001 */
    const char *decoder;       /* path of unimoe-decoder; "" beside the program */
    /* training */
    bool train;              /* a rank: the job trains; a router runs the trainer's loop */
    const char *train_start; /* the tensors of this file train, from its values; "" = by --stage */
    um_list data, eval_data; /* FILE or FILE:WEIGHT */
    bool check_data;         /* look at every sample, train nothing */
    const char *stage;       /* "" 0 1 2 3: presets of what trains */
    const char *connector;   /* stage 1: whose connector, "image,speech,sound" */
    const char *train_what, *freeze; /* patterns of tensor names, comma-separated */
    int64_t steps;                   /* 0: as many as the epochs have */
    double epochs;
    int64_t batch, micro_batch; /* samples of a step; of a micro-batch */
    double lr;                  /* < 0: of the stage */
    const char *lr_for;         /* "PATTERN:FACTOR,..." */
    const char *schedule;       /* cosine wsd constant */
    double warmup, decay;       /* below 1: a share of the steps; else steps */
    double min_lr;              /* at the end, as a share of lr */
    double weight_decay, adam_beta1, adam_beta2, adam_epsilon, clip;
    int64_t lora_r;                  /* < 0: of the stage; 0: no adapters */
    double lora_alpha, lora_dropout; /* < 0: of the stage */
    const char *lora_what;           /* patterns of the matrices that get adapters; "": the stage */
    double balance_coef, multimodal_coef, kl_coef; /* < 0: as config.json says */
    double z_coef, balance_bias;
    const char *recompute; /* none ffn layer */
    int64_t activation_memory, tower_cache;
    int64_t max_length;       /* ids of a sample */
    int64_t save_every, keep; /* steps between checkpoints; how many stay */
    int64_t eval_every;       /* steps between evaluations */
    int64_t log_every;        /* steps between records of the logs */
    const char *resume;       /* "", auto, or the folder of a checkpoint */
    const char *save;         /* model adapter */
    double spike;    /* a step with a norm so many times the usual one is skipped; 0 none */
    int64_t give_up; /* after so many skipped steps in a row */
    bool group_by_length;
    /* eval */
    um_list task, answers, specialist; /* lists.h of launch/eval; MODALITY=NAME */
    const char *format;                /* of tasks that do not say theirs */
    const char *metric;                /* "": the format's own */
    const char *choices;               /* both generated likelihood */
    const char *bias_by;               /* modality task */
    int64_t limit;                     /* questions of each task; 0: all */
    /* init */
    const char *preset; /* positional of init is not used; --preset NAME or --config FILE */
    const char *config;
    const char *dtype;     /* f32 bf16 */
    const char *tokenizer; /* a tokenizer.model to copy; "": one is made */
    /* plot */
    const char *compare; /* the other run, "" = none */
    const char *phase;   /* all prefill decode */
    const char *csv;     /* the table behind the image, "" = none */
    /* convert */
    const char *base, *tuned, *expert_files; /* folders of a release */
    const char *adapter;                     /* merge keep */
    const char *to;                          /* "" peft hf */
    int64_t shard_size;
    bool verify; /* inspect: against the manifest */
    /* assemble */
    const char *manifest;                   /* which experts; "" with upcycle */
    const char *upcycle;                    /* the dense model that every expert is a copy of */
    int64_t num_experts, experts_per_token; /* 0: as the manifest says */
    const char *gate;                       /* "" mixtral gshard dynamic */
    const char *moe_layers;                 /* all interval first-half second-half, or numbers */
    double noise;                           /* of copies, in standard deviations of each matrix */
    /* log */
    const char *log_level;
    /* what is not an option: how router 0 places the experts (core/comm/placement.h); NULL: in blocks */
    um_status (*placer)(struct um_placement *out, int layers, int E, int ranks, um_arena *arena,
                        um_err *err);
    /* what is not a flag: positional words */
    um_list args;
    const char *config_file;
    uint8_t
        origin[UM_MAX_OPTIONS]; /* where each option's value came from, in table order: um_origin */
} um_config;

typedef enum um_origin {
    UM_FROM_DEFAULT,
    UM_FROM_FILE,
    UM_FROM_ENVIRONMENT,
    UM_FROM_FLAG
} um_origin;

/* Reads environment, config file and argv[1..] into *out (strings live in arena). argv[0] is not looked at.
 * --help and --version set *help to the text to print and leave the rest at defaults; *help is else NULL.
 * Sets the log level. A UNIMOE_* variable that names no option is a warning, an unknown name in the file an error. */
um_status um_config_load(um_config *out, um_program who, int argc, char **argv, um_arena *arena,
                         const char **help, um_err *err);
/* The same from defaults alone: for tests and in-process clusters. */
void um_config_default(um_config *out);
/* Appends "--name value" words for every option of `who` whose value is not the default, or was set to the default by a flag,
 * the environment or the file, to argv (list of n words, at most max): how `unimoe` hands its options to the ranks. */
um_status um_config_words(const um_config *cfg, um_program who, const char **words, int max, int *n,
                          um_arena *arena, um_err *err);
/* Where the value of the option called name came from. */
um_origin um_config_origin(const um_config *cfg, const char *name);
/* The text of --help. */
const char *um_config_help(um_program who, um_arena *arena);
/* A variable of the system's ("PATH", "TERM"), or fallback where it is unset or empty. */
const char *um_config_system(const char *name, const char *fallback);
/* The folder for temporary files as Open MPI chooses it: the first of TMPDIR, TEMP and TMP that is set, else /tmp. */
const char *um_config_temporary(void);
/* The environment without UNIMOE_* variables, for programs that get their options by um_config_words. Ends with NULL. */
char **um_config_environment(um_arena *arena);
/* Each option with its value and where it came from (flag, environment, file, default). */
void um_config_print(const um_config *cfg, um_program who, FILE *to);
/* The table as Markdown, for docs/OPTIONS.md; a test compares. */
void um_config_markdown(FILE *to);
