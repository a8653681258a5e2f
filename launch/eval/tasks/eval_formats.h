/* One reader a format. Each adds the items of its files to t, whose arena they live in. Only eval_read.c uses these. */
#pragma once

#include "core/base/json.h"
#include "launch/eval/tasks/eval_read.h"

um_status um_read_vqa(um_eval_task *t, const um_eval_source *from, um_err *err);
um_status um_read_aokvqa(um_eval_task *t, const um_eval_source *from, um_err *err);
um_status um_read_aokvqa_choice(um_eval_task *t, const um_eval_source *from, um_err *err);
um_status um_read_textvqa(um_eval_task *t, const um_eval_source *from, um_err *err);
um_status um_read_mmbench(um_eval_task *t, const um_eval_source *from, um_err *err);
um_status um_read_seed(um_eval_task *t, const um_eval_source *from, um_err *err);
um_status um_read_clothoaqa(um_eval_task *t, const um_eval_source *from, um_err *err);
um_status um_read_msvdqa(um_eval_task *t, const um_eval_source *from, um_err *err);
um_status um_read_activitynetqa(um_eval_task *t, const um_eval_source *from, um_err *err);
um_status um_read_pope(um_eval_task *t, const um_eval_source *from, um_err *err);
um_status um_read_race(um_eval_task *t, const um_eval_source *from, um_err *err);
um_status um_read_eval_lines(um_eval_task *t, const um_eval_source *from, um_err *err);

/* --- what they share --- */

/* A text, or a number as its digits; "" for anything else. In arena. */
const char *um_eval_text(const um_json *j, um_arena *arena);
/* The file `name` of the media folder. */
const char *um_eval_media_path(const um_eval_source *from, const char *name, um_arena *arena);
/* The first of the names that exists there, else the first of them. */
const char *um_eval_media_find(const um_eval_source *from, const char *const *names, int n,
                               um_arena *arena);
/* Opens a JSON file of any size. */
um_status um_eval_json(um_json **root, const char *path, um_err *err);
/* Calls item for each line or array element of a file that is an object. number counts from 1. */
um_status um_eval_lines(const char *path,
                        um_status (*item)(void *ctx, const um_json *object, const char *text,
                                          size_t n, long number, um_err *err),
                        void *ctx, um_err *err);
/* The option that an answer names by letter; -1: none. */
int um_eval_letter(const char *answer);
