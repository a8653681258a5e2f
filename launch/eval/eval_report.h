/* An evaluation as people and programs read it. */
#pragma once

#include "launch/eval/outcome.h"

#include <stdio.h>

/* The table on the console: a line for each measure and each modality, a column for each model; then what was left out, and the index. */
void um_eval_table(FILE *to, const um_outcome *o);
/* eval.json: every figure. */
void um_eval_json_write(um_text *to, const um_outcome *o);
/* eval.html: one page that refers to nothing outside it. */
void um_eval_page(um_text *to, const um_outcome *o);
/* Its figure: for each row of scores a point and an interval for each model. An <svg> element without a header. */
void um_eval_figure(um_text *to, const um_outcome *o, const char *title);

/* --- what the reports share --- */

/* "71.2" of a share, "0.412" of word errors and CIDEr. */
const char *um_eval_number(const um_outcome *o, const um_measure *m, double score, um_arena *arena);
/* "1 question", "12 questions" */
const char *um_eval_questions(long n, um_arena *arena);
/* The reason for which most of a model's questions of a measure failed, "" when none did. */
const char *um_eval_reason(const um_outcome *o, const um_measure *m, int model);
