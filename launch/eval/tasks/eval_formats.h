/* One reader a format. Each adds the items of its files to t, whose arena they live in. Only eval_read.c uses these. */
#pragma once

#include "launch/eval/tasks/eval_lines.h"
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

/* The file `name` of the media folder. */
const char *um_eval_media_path(const um_eval_source *from, const char *name, um_arena *arena);
/* The first of the names that exists there, else the first of them. */
const char *um_eval_media_find(const um_eval_source *from, const char *const *names, int n,
                               um_arena *arena);
/* Opens a JSON file of any size. */
um_status um_eval_json(um_json **root, const char *path, um_err *err);
/* UM_E_DATA, "want WANT", unless j is a list. */
um_status um_eval_want_list(const um_json *j, const char *want, um_err *err);
/* The option that an answer names by letter; -1: none. */
int um_eval_letter(const char *answer);
