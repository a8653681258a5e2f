/* The option table: the one place where an option is described. See config_table.h. */
#include "core/options/config_table.h"

#include <inttypes.h>
#include <string.h>

/* Who takes what: the ranks of a job, and the commands that start one. ROUTE, TEACH: of the ranks the routers alone. */
#define JOB (UM_PROG_RANKS | UM_PROG_LAUNCH | UM_PROG_BENCH)
#define ANSWER (UM_PROG_RANKS | UM_PROG_SERVE | UM_PROG_BENCH)
#define ROUTE (UM_PROG_ROUTER | UM_PROG_SERVE | UM_PROG_BENCH)
#define LEARN (UM_PROG_RANKS | UM_PROG_TRAIN)
#define TEACH (UM_PROG_ROUTER | UM_PROG_TRAIN)
#define WRITE (UM_PROG_CONVERT | UM_PROG_ASSEMBLE)
#define START (UM_PROG_LAUNCH | UM_PROG_BENCH)
#define ANY (JOB | UM_PROG_INSPECT | UM_PROG_DOCTOR | UM_PROG_INIT | UM_PROG_PLOT | WRITE)

#define AT(field) offsetof(um_config, field)
#define STR(name, fallback, choices, who, group, meaning)                                          \
    {                                                                                              \
#name, UM_OPT_STR, AT(name), fallback, 0, 0, choices, who, group, meaning                  \
    }
#define NUM(type, name, fallback, min, max, who, group, meaning)                                   \
    {                                                                                              \
#name, type, AT(name), fallback, min, max, NULL, who, group, meaning                       \
    }
#define BOOL(name, who, group, meaning)                                                            \
    {                                                                                              \
#name, UM_OPT_BOOL, AT(name), "false", 0, 1, NULL, who, group, meaning                     \
    }
#define LIST(name, who, group, meaning)                                                            \
    {                                                                                              \
#name, UM_OPT_LIST, AT(name), NULL, 0, 0, NULL, who, group, meaning                        \
    }

#define WHAT "what to run"
#define WHERE "ranks and hosts"
#define WIRE "numbers and wire"
#define TIME "time and threads"
#define TEXT "generation"
#define MEDIA "media"
#define STUDY "training"
#define TUNE "what trains"
#define KEEP "checkpoints and evaluation"
#define EVAL "evaluation"
#define MAKE "making a model"
#define DRAW "drawing"
#define CONVERT "converting a checkpoint"
#define MIX "making a mixture of experts"
#define MISC "this program"

/* clang-format off */
const um_option um_options[] = {
    STR(model, "", NULL, (JOB & ~UM_PROG_EVAL) | UM_PROG_INSPECT | UM_PROG_CONVERT, WHAT,
        "model directory: config.json, safetensors, tokenizer.model"),
    STR(vision_tower, "", NULL, JOB | UM_PROG_INSPECT | UM_PROG_CONVERT, WHAT,
        "folder of the vision tower, instead of the one that config.json names"),
    STR(speech_tower, "", NULL, JOB | UM_PROG_INSPECT | UM_PROG_CONVERT, WHAT,
        "folder of the speech tower (Whisper), instead of the one that config.json names"),
    STR(sound_tower, "", NULL, JOB | UM_PROG_INSPECT | UM_PROG_CONVERT, WHAT,
        "folder of the sound tower (BEATs), instead of the one that config.json names; convert also reads its .pt file"),
    STR(prompt, "", NULL, UM_PROG_GENERATE, WHAT, "the question; - reads it from standard input"),
    STR(prompt_file, "", NULL, UM_PROG_GENERATE, WHAT,
        "file with the question, for one that is too long for the command line; - is standard input"),
    LIST(image, UM_PROG_GENERATE, WHAT, "an image for the question; may be given again"),
    LIST(video, UM_PROG_GENERATE, WHAT, "a video for the question; may be given again"),
    LIST(speech, UM_PROG_GENERATE, WHAT, "an audio file to encode as speech; may be given again"),
    LIST(sound, UM_PROG_GENERATE, WHAT, "an audio file to encode as sound; may be given again"),
    STR(video_audio, "", "speech sound", UM_PROG_GENERATE, WHAT,
        "also encode the sound tracks of the videos, as speech or as sound"),
    STR(requests, "", NULL, UM_PROG_ROUTER | UM_PROG_GENERATE, WHAT,
        "file of requests, one JSON object a line, or one JSON array of samples; - is standard input"),
    BOOL(in_order, UM_PROG_ROUTER | UM_PROG_GENERATE, WHAT,
        "print answers in the order of their requests; else each as soon as it is done"),
    BOOL(stream, UM_PROG_ROUTER | UM_PROG_GENERATE, WHAT,
         "print each token as soon as it is there; with --json as lines of their own before the result"),
    STR(media_folder, "", NULL, UM_PROG_ROUTER | UM_PROG_GENERATE | UM_PROG_TRAIN | UM_PROG_EVAL, WHAT,
        "where relative media paths in requests and samples start; empty is the folder of their file"),
    STR(request, "", NULL, UM_PROG_ROUTER | UM_PROG_TRACE, WHAT,
        "the one request to trace (unimoe trace takes it as its first word)"),
    STR(out, "", NULL, UM_PROG_RANKS | UM_PROG_TRACE | UM_PROG_INIT | UM_PROG_PLOT | WRITE | UM_PROG_TRAIN | UM_PROG_EVAL, WHAT,
        "file or folder to write"),
    STR(routing, "", NULL, UM_PROG_ROUTER | UM_PROG_GENERATE, WHAT,
        "count which experts the tokens go to: NAME.csv is the numbers, NAME.svg a figure and the numbers beside it"),
    BOOL(json, UM_PROG_GENERATE | UM_PROG_INSPECT | UM_PROG_DOCTOR | UM_PROG_BENCH, WHAT, "print JSON instead of plain text"),
    BOOL(verify, UM_PROG_INSPECT, WHAT, "check every file against the sizes and checksums of manifest.json"),

    NUM(UM_OPT_INT, routers, "1", 1, 4096, START, WHERE, "router ranks"),
    NUM(UM_OPT_INT, experts, "4", 0, 65536, START, WHERE,
        "expert ranks; at most one is started for each expert"),
    STR(encoders, "1", NULL, START, WHERE,
        "encoder ranks, or ranks by modality: image=1,speech=2,sound=1; a model without towers has none by default"),
    STR(modalities, "all", NULL, UM_PROG_ENCODER, WHERE,
        "what this encoder rank reads, of image, video, speech and sound: image,speech"),
    STR(hostfile, "", NULL, START | UM_PROG_DOCTOR, WHERE, "file of hosts, in the form of mpirun's --hostfile"),
    STR(mpirun_args, "", NULL, START | UM_PROG_DOCTOR, WHERE, "extra arguments for mpirun, space-separated"),
    NUM(UM_OPT_INT, start_timeout_ms, "0", 0, 86400000, UM_PROG_LAUNCH | UM_PROG_DOCTOR, WHERE,
        "time for mpirun to start all ranks; 0 is 60 s and 1 s more for each rank"),
    BOOL(dry_run, START | WRITE | UM_PROG_LOCAL, WHERE,
        "print the mpirun line and the memory of every rank, or what would be written, and stop there"),

    STR(isa, "auto", "auto generic avx2 avx512", JOB | UM_PROG_DOCTOR, WIRE,
        "vector instructions; every choice gives the same bits"),
    STR(weights, "auto", "auto f32 bf16", JOB | WRITE, WIRE,
        "type of the weights in memory, or of those that convert and assemble write; auto is the type in the file"),
    STR(lora, "merge", "merge live", JOB, WIRE,
        "a LoRA inside the model: added to its matrices when they are loaded, or computed beside them"),
    STR(wire, "f32", "f32 bf16", JOB, WIRE, "type of rows on the wire; bf16 rounds every row once"),
    STR(codec, "none", "none zstd", JOB, WIRE, "compression of rows; every choice gives the same bits"),
    NUM(UM_OPT_INT, zstd_level, "0", -131072, 22, JOB, WIRE, "zstd's level; 0 is the codec's own fast one"),
    NUM(UM_OPT_SIZE, credit, "64M", 65536, INT64_C(1) << 40, JOB, WIRE,
        "bytes of rows that may be under way between a router and one expert rank; more must wait"),

    NUM(UM_OPT_INT, threads, "0", 0, 4096, JOB, TIME,
        "compute threads of a host, divided among its ranks; 0 is one for each core"),
    NUM(UM_OPT_INT, deadline_ms, "3500", 100, 86400000, JOB, TIME,
        "a peer that is silent for longer ends the job"),
    NUM(UM_OPT_INT, stall_ms, "1800000", 0, 86400000, JOB, TIME,
        "a rank that lives but has owed an answer for longer ends the job; 0 waits for ever"),
    NUM(UM_OPT_INT, yield_us, "500", 0, 60000000, JOB, TIME,
        "how long a waiting rank yields its core before it sleeps"),

    NUM(UM_OPT_INT, max_new_tokens, "128", 0, 1 << 24, ROUTE, TEXT,
        "tokens to generate at most; 0 reads the prompt and answers with an empty text"),
    NUM(UM_OPT_REAL, temperature, "-1", -1, 100, ROUTE & ~UM_PROG_EVAL, TEXT,
        "0 always takes the likeliest token; below 0: as generation_config.json says"),
    NUM(UM_OPT_REAL, top_p, "-1", -1, 1, ROUTE & ~UM_PROG_EVAL, TEXT,
        "sample from the likeliest tokens of this total probability; below 0: as generation_config.json says"),
    NUM(UM_OPT_INT, top_k, "-1", -1, 1 << 24, ROUTE & ~UM_PROG_EVAL, TEXT,
        "sample from this many of the likeliest tokens; 0 is all; below 0: as generation_config.json says"),
    NUM(UM_OPT_INT, seed, "0", 0, INT64_MAX, ROUTE | LEARN | UM_PROG_INIT | UM_PROG_ASSEMBLE, TEXT,
        "seed of sampling and gate noise, from which each request without its own seed derives one; for init, seed of the weights; for assemble, of gates and noise; for train, of the order, the adapters and dropout"),
    BOOL(ignore_eos, ROUTE & ~UM_PROG_EVAL, TEXT, "generate past the end tokens, up to max_new_tokens"),
    NUM(UM_OPT_INT, context, "0", 0, 1 << 24, ANSWER, TEXT,
        "prompt rows, those of media counted, and new tokens that a request may have together; 0 is what the model has positions for"),
    NUM(UM_OPT_SIZE, request_memory, "0", 0, INT64_C(1) << 50, ROUTE, TEXT,
        "memory of a router for the keys and values of its requests; 0 is what is free on its host"),
    NUM(UM_OPT_SIZE, prefix_cache, "256M", 0, INT64_C(1) << 50, ROUTE, TEXT,
        "memory of a router for keys and values that no request uses, kept for prompts that begin alike; 0 shares none"),
    NUM(UM_OPT_INT, prefill_chunk, "256", 1, 1 << 20, ANSWER, TEXT,
        "rows of a prompt that go through the layers together"),
    NUM(UM_OPT_INT, max_batch, "32", 1, 4096, ANSWER, TEXT, "requests decoded together in a micro-batch"),
    NUM(UM_OPT_INT, micro_batches, "0", 0, 8, ANSWER, TEXT,
        "micro-batches under way at once, so that a router works while expert ranks do; 0 is 2 with expert ranks on other hosts, else 1"),
    BOOL(gate_noise, ROUTE | UM_PROG_TRAIN, TEXT,
        "choose the second expert of GShard gates with noise, as the original does in training; evaluations during training have none"),

    STR(image_aspect, "", "square pad", UM_PROG_ROUTER | UM_PROG_ENCODER | START, MEDIA,
        "square crops to a square, pad fills up to one; empty: as config.json says"),
    STR(image_orientation, "none", "none exif", UM_PROG_ROUTER | UM_PROG_ENCODER | START, MEDIA,
        "exif turns images as their EXIF data say; none leaves them as the original does"),
    NUM(UM_OPT_SIZE, image_max_pixels, "50M", 1, INT64_C(1) << 32, UM_PROG_ROUTER | UM_PROG_ENCODER | START, MEDIA,
        "larger images and frames are refused"),
    NUM(UM_OPT_SIZE, media_max_bytes, "64M", 1, INT64_C(192) << 20, UM_PROG_ROUTER | START, MEDIA,
        "larger media files are refused"),
    NUM(UM_OPT_INT, media_max_seconds, "3600", 1, 86400, UM_PROG_ENCODER | START, MEDIA,
        "longer audio and videos are refused"),
    NUM(UM_OPT_INT, media_wait_ms, "60000", 100, 86400000, UM_PROG_ENCODER | START, MEDIA,
        "time limit for decoding one media file; the request fails when it is exceeded"),
    NUM(UM_OPT_SIZE, media_cache, "256M", 0, INT64_C(1) << 40, ROUTE | UM_PROG_TRAIN, MEDIA,
        "memory of each router for encoded media: a file that comes again is not encoded again"),
    NUM(UM_OPT_INT, video_frames, "8", 1, 1024, UM_PROG_ENCODER | START, MEDIA,
        "frames to take from a video file"),
    BOOL(speech_exact_windows, UM_PROG_ENCODER | START, MEDIA,
        "cut speech every 480000 samples; else as the original does, which loses one of 480001"),
    STR(decoder, "", NULL, UM_PROG_ENCODER | START, MEDIA,
        "path of unimoe-decoder, when it is not beside the other programs"),

    LIST(data, TEACH, STUDY,
         "samples: a JSON array or a JSONL file of conversations, FILE or FILE:WEIGHT; may be given again"),
    BOOL(check_data, UM_PROG_TRAIN, STUDY, "list every sample that cannot be used, with the reason, and train nothing"),
    NUM(UM_OPT_INT, steps, "0", 0, INT64_MAX, TEACH, STUDY,
        "optimiser steps; 0 is as many as the epochs have"),
    NUM(UM_OPT_REAL, epochs, "1", 0, 1000000, TEACH, STUDY, "times that the samples are used"),
    NUM(UM_OPT_INT, batch, "8", 1, 1 << 20, TEACH, STUDY, "samples of an optimiser step"),
    NUM(UM_OPT_INT, micro_batch, "1", 1, 1 << 16, TEACH, STUDY,
        "samples that go through the model together; the weights depend on it in their last bits only"),
    NUM(UM_OPT_INT, max_length, "2048", 16, 1 << 24, TEACH, STUDY,
        "tokens of a sample, media not counted; longer ones lose their last rounds"),
    BOOL(group_by_length, TEACH, STUDY, "make steps of samples of similar length"),
    NUM(UM_OPT_REAL, lr, "-1", -1, 1000, TEACH, STUDY,
        "learning rate; below 0 is the stage's: 3e-4, 2e-5, 4e-5, 4e-5 for 0 to 3"),
    STR(lr_for, "", NULL, LEARN, STUDY, "factors of the learning rate, PATTERN:FACTOR,...; of several that fit a tensor the last counts"),
    STR(schedule, "cosine", "cosine wsd constant", TEACH, STUDY,
        "course of the learning rate: cosine falls from the end of the warm-up, wsd is constant and falls over --decay"),
    NUM(UM_OPT_REAL, warmup, "0.03", 0, INT64_C(1) << 40, TEACH, STUDY,
        "steps of linear warm-up; below 1 a share of all steps"),
    NUM(UM_OPT_REAL, decay, "0.1", 0, INT64_C(1) << 40, TEACH, STUDY,
        "last steps, over which wsd falls; below 1 a share of all steps"),
    NUM(UM_OPT_REAL, min_lr, "0", 0, 1, TEACH, STUDY, "learning rate of the last step, as a share of --lr"),
    NUM(UM_OPT_REAL, weight_decay, "0", 0, 1000, LEARN, STUDY, "weight decay of AdamW, of matrices only"),
    NUM(UM_OPT_REAL, adam_beta1, "0.9", 0, 1, LEARN, STUDY, "beta 1 of AdamW"),
    NUM(UM_OPT_REAL, adam_beta2, "0.999", 0, 1, LEARN, STUDY, "beta 2 of AdamW"),
    NUM(UM_OPT_REAL, adam_epsilon, "1e-8", 0, 1, LEARN, STUDY, "epsilon of AdamW"),
    NUM(UM_OPT_REAL, clip, "0", 0, INT64_C(1) << 40, TEACH, STUDY,
        "largest norm of the gradient; 0 clips nothing, as the original does"),
    NUM(UM_OPT_REAL, spike, "0", 0, INT64_C(1) << 40, TEACH, STUDY,
        "a step whose gradient has so many times the usual norm is skipped; 0 skips none"),
    NUM(UM_OPT_INT, give_up, "10", 1, 1 << 20, TEACH, STUDY,
        "training ends with an error after so many skipped steps in a row"),
    NUM(UM_OPT_REAL, balance_coef, "-1", -1, INT64_C(1) << 40, TEACH, STUDY,
        "coefficient of the balance loss; below 0: as config.json says"),
    NUM(UM_OPT_REAL, multimodal_coef, "-1", -1, INT64_C(1) << 40, TEACH, STUDY,
        "coefficient of the loss that draws modalities to their experts; below 0: as config.json says"),
    NUM(UM_OPT_REAL, kl_coef, "-1", -1, INT64_C(1) << 40, TEACH, STUDY,
        "coefficient of the loss that keeps the gates of modalities apart; below 0: as config.json says"),
    NUM(UM_OPT_REAL, z_coef, "0", 0, INT64_C(1) << 40, TEACH, STUDY,
        "coefficient of the router z loss"),
    NUM(UM_OPT_REAL, balance_bias, "0", 0, 1, TEACH, STUDY,
        "balance by a bias on the choice of each expert, changed by so much a step, without a loss; 0 has none"),
    STR(recompute, "none", "none ffn layer", LEARN, STUDY,
        "what the backward pass computes again instead of keeping it: nothing, the experts' insides, whole layers too"),
    NUM(UM_OPT_SIZE, activation_memory, "0", 0, INT64_C(1) << 50, LEARN, STUDY,
        "memory of each rank for what it keeps for the backward pass; 0 is without a limit"),
    NUM(UM_OPT_SIZE, tower_cache, "256M", 0, INT64_C(1) << 50, UM_PROG_ENCODER | UM_PROG_TRAIN, STUDY,
        "memory of each encoder rank for what a frozen tower has made of media"),

    STR(stage, "", "0 1 2 3", LEARN, TUNE,
        "what trains: 0 everything, 1 the connectors, 2 adapters on the MLPs and the projectors, 3 adapters on attention and experts, gates and projectors"),
    STR(connector, "", NULL, LEARN, TUNE, "connectors of stage 1, of image, speech and sound, comma-separated; empty: those of audio, else of images"),
    STR(train_what, "", NULL, LEARN, TUNE, "tensors that train beside those of the stage: patterns of their names, comma-separated, * for any text"),
    STR(freeze, "", NULL, LEARN, TUNE, "tensors that do not train: patterns of their names, comma-separated"),
    NUM(UM_OPT_INT, lora_r, "-1", -1, 4096, LEARN, TUNE, "rank of the adapters; below 0 is the stage's, 0 has none"),
    NUM(UM_OPT_REAL, lora_alpha, "-1", -1, INT64_C(1) << 40, LEARN, TUNE, "alpha of the adapters; below 0 is the stage's"),
    NUM(UM_OPT_REAL, lora_dropout, "-1", -1, 1, LEARN, TUNE, "dropout before the adapters; below 0 is the stage's"),
    STR(lora_what, "", NULL, LEARN, TUNE, "matrices that get adapters, instead of the stage's: patterns of their names, comma-separated"),
    BOOL(train, UM_PROG_RANKS | UM_PROG_TRACE, TUNE,
         "the job trains: unimoe train sets it; unimoe trace --train FILE traces the steps of a training file"),
    STR(train_start, "", NULL, UM_PROG_RANKS, TUNE, "the tensors of this safetensors file train, from its values; unimoe trace sets it"),

    NUM(UM_OPT_INT, save_every, "500", 0, INT64_MAX, TEACH, KEEP,
        "steps between checkpoints; 0 saves at the end only"),
    NUM(UM_OPT_INT, keep, "2", 1, 1 << 20, TEACH, KEEP, "newest checkpoints to keep, beside the best"),
    STR(resume, "", NULL, LEARN, KEEP, "checkpoint to go on from: its folder, or auto for the newest of --out that is whole"),
    STR(save, "model", "model adapter", TEACH, KEEP,
        "what is written at the end: a model directory with the adapters merged, or the adapter in PEFT form"),
    LIST(eval_data, TEACH, KEEP, "samples on which the loss is measured; may be given again"),
    NUM(UM_OPT_INT, log_every, "1", 1, INT64_MAX, TEACH, KEEP,
        "steps between records of the logs; the last step, and one that was skipped, saved, evaluated or has lost samples, always has one"),
    NUM(UM_OPT_INT, eval_every, "0", 0, INT64_MAX, TEACH, KEEP, "steps between evaluations; 0 evaluates at the end only"),

    LIST(task, UM_PROG_EVAL, EVAL,
         "questions: [NAME=][FORMAT:]QUESTIONS[:ANNOTATIONS[:MEDIA_FOLDER]]; may be given again"),
    STR(format, "jsonl", "jsonl vqa aokvqa aokvqa-choice textvqa pope mmbench seed race clothoaqa msvdqa activitynetqa", UM_PROG_EVAL, EVAL,
        "format of the tasks that do not name theirs"),
    STR(metric, "", "exact key vqa choice yes-no f1 wer cider", UM_PROG_EVAL, EVAL,
        "how answers are scored; empty: as the format is, and of jsonl by what its first line has: key, options, or an answer"),
    STR(choices, "both", "both generated likelihood", UM_PROG_EVAL, EVAL,
        "how an option is chosen: the one that the answer names, the likeliest one, or both beside each other"),
    NUM(UM_OPT_INT, limit, "0", 0, INT64_MAX, UM_PROG_EVAL, EVAL,
        "put the first questions of each task only, so many; 0 is all"),
    LIST(answers, UM_PROG_EVAL, EVAL,
         "answers of another program: NAME=FILE, or NAME=FOLDER with a file TASK.jsonl for each task; may be given again"),
    LIST(specialist, UM_PROG_EVAL, EVAL,
         "MODALITY=NAME: the model that the others are compared with for the bias index; may be given again"),
    STR(bias_by, "modality", "modality task", UM_PROG_EVAL, EVAL,
        "the bias index compares the scores of all questions of a modality, or those of each task"),

    STR(preset, "", NULL, UM_PROG_INIT | UM_PROG_BENCH, MAKE, "sizes of the model to make, by name"),
    STR(config, "", NULL, UM_PROG_INIT | UM_PROG_CONVERT, MAKE, "sizes of the model to make, from a config.json"),
    STR(dtype, "f32", "f32 bf16", UM_PROG_INIT | UM_PROG_BENCH, MAKE, "type of the weights written"),
    STR(tokenizer, "", NULL, UM_PROG_INIT, MAKE,
        "tokenizer.model to use, with at most vocab_size pieces; empty: a vocabulary is made"),

    STR(compare, "", NULL, UM_PROG_PLOT, DRAW, "counters of another run, to be subtracted: the figure shows the difference"),
    STR(phase, "all", "all prefill decode", UM_PROG_PLOT, DRAW, "which rows to count: those of prompts, of new tokens, or both"),
    STR(csv, "", NULL, UM_PROG_PLOT, DRAW, "write the table behind the image to this file"),
    STR(base, "", NULL, UM_PROG_CONVERT, CONVERT, "folder of the base weights of a release"),
    STR(tuned, "", NULL, UM_PROG_CONVERT, CONVERT,
        "folder of what was trained on them: adapter, gates, projector, aligner, experts"),
    STR(expert_files, "", NULL, UM_PROG_CONVERT, CONVERT, "folder of the mlp_*.bin files of an 8-expert release"),
    STR(adapter, "merge", "merge keep", UM_PROG_CONVERT, CONVERT,
        "add the adapter to the weights, or keep it beside them in PEFT form"),
    NUM(UM_OPT_SIZE, shard_size, "5G", 1, INT64_C(1) << 50, WRITE, CONVERT,
        "size of a weight file; more weights are written as several files of about this size"),
    STR(to, "", "peft hf", UM_PROG_CONVERT, CONVERT,
        "write --model out: its LoRA as a PEFT adapter, or its parts as transformers names them"),

    STR(manifest, "", NULL, UM_PROG_ASSEMBLE, MIX,
        "file that names the base model and the experts (unimoe assemble takes it as its first word)"),
    STR(upcycle, "", NULL, UM_PROG_ASSEMBLE, MIX, "dense model whose MLP becomes every expert, without a manifest"),
    NUM(UM_OPT_INT, num_experts, "0", 0, 1 << 22, UM_PROG_ASSEMBLE, MIX,
        "experts of a layer: needed with --upcycle; of a manifest the experts are counted"),
    NUM(UM_OPT_INT, experts_per_token, "0", 0, 1 << 22, UM_PROG_ASSEMBLE, MIX,
        "experts that each token uses; 0: as the manifest says, else 2"),
    STR(gate, "", "mixtral gshard dynamic", UM_PROG_ASSEMBLE, MIX,
        "gate of the layers: that of the 4-expert models, of the 8-expert models, or the dynamic one; empty: as the manifest says, else by the base's model_type"),
    STR(moe_layers, "", NULL, UM_PROG_ASSEMBLE, MIX,
        "layers that get experts: all, interval (every second), first-half, second-half, or numbers as 0,2,4-7; empty: as the manifest says, else all"),
    NUM(UM_OPT_REAL, noise, "0", 0, 1, UM_PROG_ASSEMBLE, MIX,
        "normal noise added to each copied expert, in standard deviations of the matrix, so that copies differ"),

    STR(config_file, "", NULL, ANY | UM_PROG_LOCAL, MISC, "file of options, name = value a line"),
    BOOL(print_config, ANY | UM_PROG_LOCAL, MISC,
        "print every option with its value and origin, do nothing else"),
    BOOL(quiet, UM_PROG_LAUNCH, MISC, "answers and errors only: no progress and no line of figures"),
    BOOL(check_start, UM_PROG_RANKS, MISC, "meet the other ranks, print who this one is, and end: for unimoe doctor"),
    BOOL(progress, UM_PROG_ROUTER, MISC, "write a line of kind progress to standard output once a second; unimoe generate sets it"),
    STR(log_level, "warn", "error warn info debug trace", ANY, MISC, "minimum severity to log"),
};
/* clang-format on */
const int um_option_count = (int)(sizeof um_options / sizeof um_options[0]);
_Static_assert(sizeof um_options / sizeof um_options[0] <= UM_MAX_OPTIONS, "grow UM_MAX_OPTIONS");

static const struct {
    um_program who;
    const char *name, *usage, *purpose, *example;
} programs[] = {
    {UM_PROG_ROUTER, "unimoe-router", "[OPTION]...",
     "A router rank: tokeniser, backbone, gate, sampling. Started by mpirun.", ""},
    {UM_PROG_EXPERT, "unimoe-expert", "[OPTION]...",
     "An expert rank: the experts it owns, for all layers. Started by mpirun.", ""},
    {UM_PROG_ENCODER, "unimoe-encoder", "[OPTION]...",
     "An encoder rank: images, videos, speech and sounds to rows. Started by mpirun.", ""},
    {UM_PROG_GENERATE, "unimoe generate",
     "--model DIR --prompt TEXT | --prompt-file FILE [--image FILE]... [--video FILE]... [--speech "
     "FILE]... [--sound "
     "FILE]... | --requests FILE",
     "Answers a question, or a file of requests, with an MPI job.",
     "unimoe generate -m DIR -p \"What is in the image?\" --image photo.jpg\n"
     "unimoe generate -m DIR --requests questions.jsonl --json >answers.jsonl\n"
     "unimoe generate -m DIR -p x --dry-run        # the mpirun line and the memory; starts "
     "nothing\n"},
    {UM_PROG_TRACE, "unimoe trace", "[--train] REQUEST.json --out FILE.safetensors",
     "Runs one request, or the steps of a training file, and writes every tensor on the way.",
     "unimoe trace request.json -o tensors.safetensors\n"
     "unimoe trace --train training.json -o tensors.safetensors\n"},
    {UM_PROG_TRAIN, "unimoe train", "MODEL --data FILE --stage 0|1|2|3 --out DIR",
     "Trains a model, or some of its tensors, with an MPI job.",
     "unimoe train MODEL --data samples.json --stage 3 --epochs 2 -o RUN\n"
     "unimoe train MODEL --data samples.json --stage 3 -o RUN --resume auto\n"
     "unimoe train MODEL --data a.json:2,b.jsonl --check-data\n"},
    {UM_PROG_EVAL, "unimoe eval", "[NAME=]MODEL... --task FILE... --out DIR",
     "Asks models the questions of tasks and scores their answers, side by side.",
     "unimoe eval MODEL --task questions.jsonl -o DIR\n"
     "unimoe eval dense=A moe=B --task mmbench:mmbench_dev_en.tsv --task vqa:q.json:a.json:images "
     "-o DIR\n"
     "unimoe eval --answers other=answers.jsonl --task questions.jsonl -o DIR\n"},
    {UM_PROG_INSPECT, "unimoe inspect", "DIR",
     "Shows what a model directory holds and what is wrong with it.",
     "unimoe inspect DIR\n"
     "unimoe inspect DIR --verify\n"},
    {UM_PROG_DOCTOR, "unimoe doctor", "[--hostfile FILE]",
     "Checks this machine and its MPI, with a remedy for every fault.",
     "unimoe doctor\n"
     "unimoe doctor --hostfile hosts\n"},
    {UM_PROG_INIT, "unimoe init", "--preset NAME | --config FILE, --out DIR",
     "Makes a model directory with random weights.",
     "unimoe init --preset small -o DIR\n"
     "unimoe init --config config.json --dtype bf16 -o DIR\n"},
    {UM_PROG_PLOT, "unimoe plot", "routing FILE.csv | training RUN, --out FILE.svg",
     "Draws what generate --routing counted, which experts the tokens of each modality go to, or "
     "the log of a training.",
     "unimoe generate -m DIR -p x --routing run.csv\n"
     "unimoe plot routing run.csv -o run.svg\n"
     "unimoe plot routing run.csv --compare other.csv -o difference.svg\n"
     "unimoe plot training RUN -o training.svg\n"},
    {UM_PROG_CONVERT, "unimoe convert",
     "--base DIR [--tuned DIR] --out DIR | --model DIR --to WORD --out DIR",
     "Makes a model directory from released checkpoints, or writes one in the form of other "
     "programs.",
     "unimoe convert --base llava --tuned uni-moe -o DIR\n"
     "unimoe convert -m DIR --to hf -o OTHER\n"},
    {UM_PROG_ASSEMBLE, "unimoe assemble",
     "MANIFEST.json | --upcycle DIR --num-experts N, --out DIR",
     "Makes a mixture of experts of a dense model and of experts that were trained apart, or of "
     "copies "
     "of its own MLP.",
     "unimoe assemble experts.json -o DIR\n"
     "unimoe assemble --upcycle DENSE --num-experts 4 --noise 0.01 -o DIR\n"},
    {UM_PROG_BENCH, "bench", "[OPTION]...", "Measures.", ""},
};

static int program_index(um_program who)
{
    int n = (int)(sizeof programs / sizeof programs[0]);
    for (int i = 0; i < n; i++)
        if (programs[i].who == who) return i;
    return n - 1;
}

const char *um_program_name(um_program who) { return programs[program_index(who)].name; }
const char *um_program_usage(um_program who) { return programs[program_index(who)].usage; }
const char *um_program_purpose(um_program who) { return programs[program_index(who)].purpose; }

const char *um_program_example(um_program who) { return programs[program_index(who)].example; }

const char *um_program_list(unsigned who, um_arena *arena)
{
    const char *s = "";
    for (size_t i = 0; i < sizeof programs / sizeof programs[0]; i++)
        if (who & programs[i].who)
            s = um_arena_fmt(arena, "%s%s%s", s, s[0] ? ", " : "", programs[i].name);
    return s;
}

static bool same_name(const char *a, const char *b)
{
    for (; *a != '\0' || *b != '\0'; a++, b++)
        if ((*a == '-' ? '_' : *a) != (*b == '-' ? '_' : *b)) return false;
    return true;
}

/* The names that transformers' trainer has for some of them. */
static const struct {
    const char *other, *name;
} aliases[] = {{"learning_rate", "lr"},
               {"lr_scheduler_type", "schedule"},
               {"warmup_ratio", "warmup"},
               {"warmup_steps", "warmup"},
               {"max_steps", "steps"},
               {"num_train_epochs", "epochs"},
               {"train_batch_size", "batch"},
               {"per_device_train_batch_size", "micro_batch"},
               {"max_grad_norm", "clip"},
               {"model_max_length", "max_length"},
               {"save_steps", "save_every"},
               {"save_total_limit", "keep"},
               {"eval_steps", "eval_every"},
               {"output_dir", "out"},
               {"resume_from_checkpoint", "resume"},
               {"router_aux_loss_coef", "balance_coef"}};

const um_option *um_option_find(const char *name)
{
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++)
        if (same_name(aliases[i].other, name)) name = aliases[i].name;
    for (int i = 0; i < um_option_count; i++)
        if (same_name(um_options[i].name, name)) return &um_options[i];
    return NULL;
}

static const struct {
    char letter;
    const char *name;
} shorts[] = {{'m', "model"}, {'p', "prompt"}, {'n', "max_new_tokens"}, {'o', "out"}};
enum { SHORTS = (int)(sizeof shorts / sizeof shorts[0]) };

const um_option *um_option_short(char letter)
{
    for (int i = 0; i < SHORTS; i++)
        if (shorts[i].letter == letter) return um_option_find(shorts[i].name);
    return NULL;
}

char um_option_letter(const um_option *o)
{
    for (int i = 0; i < SHORTS; i++)
        if (strcmp(shorts[i].name, o->name) == 0) return shorts[i].letter;
    return '\0';
}

const char *um_option_flag(const um_option *o, um_arena *arena)
{
    char *s = um_arena_str(arena, o->name);
    for (char *p = s; *p != '\0'; p++)
        if (*p == '_') *p = '-';
    return s;
}

int um_option_items(const um_config *cfg, const um_option *o)
{
    return o->type == UM_OPT_LIST ? ((const um_list *)((const char *)cfg + o->offset))->n : 1;
}

static const char *size_text(int64_t v, um_arena *arena)
{
    static const char *const unit[] = {"", "K", "M", "G"};
    int u = 0;
    for (; u < 3 && v != 0 && v % 1024 == 0; u++) v /= 1024;
    return um_arena_fmt(arena, "%" PRId64 "%s", v, unit[u]);
}

const char *um_option_value(const um_config *cfg, const um_option *o, int i, um_arena *arena,
                            bool exact)
{
    const void *at = (const char *)cfg + o->offset;
    switch (o->type) {
    case UM_OPT_BOOL:
        return *(const bool *)at ? "true" : "false";
    case UM_OPT_INT:
        return um_arena_fmt(arena, "%" PRId64, *(const int64_t *)at);
    case UM_OPT_SIZE:
        return size_text(*(const int64_t *)at, arena);
    case UM_OPT_REAL:
        return um_arena_fmt(arena, exact ? "%.17g" : "%g", *(const double *)at);
    case UM_OPT_LIST:
        return ((const um_list *)at)->item[i];
    case UM_OPT_STR:
        break;
    }
    return *(const char *const *)at;
}
