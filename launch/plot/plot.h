/* unimoe plot: images of the counters of runs. */
#pragma once

#include "core/options/config.h"

/* unimoe plot routing FILE.csv [--compare OTHER.csv] --out FILE.svg [--phase ...] [--csv TABLE.csv]
 * unimoe plot training RUN|trainer_log.jsonl --out FILE.svg [--csv TABLE.csv] */
um_status um_plot(const um_config *cfg, um_err *err);
typedef enum um_plot_format { UM_PLOT_SVG, UM_PLOT_CSV } um_plot_format;
/* The format of a file, by the ending of its name: .svg or .csv. A name without an ending means `fallback`. Any other ending
 * (.png, .pdf, ...) is UM_E_USAGE and the message names flag, so that no file has a name that contradicts its contents. */
um_status um_plot_format_of(um_plot_format *out, const char *flag, const char *path,
                            um_plot_format fallback, um_err *err);
/* Writes the image of one routing file, all phases. */
um_status um_plot_routing(const char *csv, const char *svg, um_err *err);
/* Writes the image of the log of a training: its file or the folder of the run. */
um_status um_plot_training(const char *log, const char *svg, um_err *err);
