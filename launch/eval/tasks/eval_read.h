/* The annotation formats of benchmarks, from local copies, made um_eval_task.
 *
 * name           questions                              annotations               media, in media_folder
 * vqa            VQAv2, OK-VQA questions .json           their annotations .json    SUBTYPE/COCO_SUBTYPE_%012d.jpg, or without the folder
 * aokvqa         aokvqa_v1p0_val.json                    -                          %012d.jpg
 * aokvqa-choice  the same, as a choice of four
 * textvqa        TextVQA_0.5.1_val.json                  -                          train_images/ID.jpg, or ID.jpg
 * pope           coco_pope_random.json (one object a line)                          IMAGE
 * mmbench        mmbench_dev_en.tsv                      -                          (within, base64)
 * seed           SEED-Bench.json                         -                          SEED-Bench-image/ID, or ID
 * race           RACE passages, one object a file or line                           ID.mp3 .wav .flac read aloud; else the passage as text
 * clothoaqa      clotho_aqa_val.csv                      -                          FILE_NAME
 * msvdqa         val_qa.json                             -                          vidID.mp4 .avi .webm .mkv, or ID.mp4 ...
 * activitynetqa  val_q.json                              val_a.json                 NAME.mp4 .mkv .webm .avi, or v_NAME.mp4 ...
 * jsonl          one object a line, or an array of them; of two forms:
 *                {"id", "question", "context", "image" | "speech" | "voice" | "sound" | "video": PATH or list (these may stand
 *                 under "media"), "answer" | "answers": TEXT or list, "options": [TEXT, ...] with "answer" a letter, an option or its
 *                 number from 0, "key": words that a right answer has, "group" | "task", "modality", "speaker", "split"}
 *                a training sample (router/data/sample.h), whose last answer is wanted
 *                Its questions are put as they stand, placeholders and all.
 *
 * Entries without an answer, as in test splits, are left out and counted. */
#pragma once

#include "launch/eval/tasks/task.h"

typedef struct um_eval_source {
    const char *format;
    const char *questions, *annotations; /* files; annotations "": none */
    const char *media_folder;            /* "": the folder of questions */
    const char *
        metric; /* "": the format's own; of jsonl: key, choice or exact, as its first line has it */
} um_eval_source;

/* UM_E_USAGE: a format that is not known; UM_E_DATA names the file, and the entry when it is one's fault. Everything lives in arena. */
um_status um_eval_read(um_eval_task *out, const um_eval_source *from, um_arena *arena, um_err *err);
bool um_eval_format_known(const char *name);
/* The known formats with blanks between, for messages. In arena. */
const char *um_eval_formats(um_arena *arena);
