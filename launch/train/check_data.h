/* unimoe train --check-data: looks at every sample of the files, media decoded, and trains nothing. */
#pragma once

#include "core/options/config.h"
#include "router/data/check.h"

#include <stdio.h>

/* Writes a line for each fault and a summary to `to`, and progress to stderr unless cfg->quiet. media are decoded in the sandboxed
 * process, each file once. UM_E_DATA says how many samples and files cannot be used. */
um_status um_check_data(const um_config *cfg, const um_data_file *files, int n_files, FILE *to,
                        um_err *err);
