/* The files of --data and --eval-data, as people write them: FILE, FILE:WEIGHT, or several of them with commas. */
#pragma once

#include "router/data/dataset.h"

/* words [n]. A file whose own name ends in :NUMBER is meant when there is such a file. UM_E_USAGE names the option and the word: no
 * file, or a weight that is none. Lists live in arena. */
um_status um_data_list_read(um_data_file **files, int *n_files, const char *const *words, int n,
                            const char *option, um_arena *arena, um_err *err);
