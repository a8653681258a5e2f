/* unimoe plot: images of what runs have counted. */
#pragma once

#include "core/options/config.h"

/* unimoe plot routing FILE.csv [--compare OTHER.csv] --out FILE.svg [--phase ...] [--csv TABLE.csv] */
um_status um_plot(const um_config *cfg, um_err *err);
typedef enum um_plot_format { UM_PLOT_SVG, UM_PLOT_CSV } um_plot_format;
/* What the file is to hold, by the ending of its name: .svg or .csv. A name without an ending means `fallback`; UM_E_USAGE that names
 * flag for any other ending (.png, .pdf, ...): nothing is written under a name that says something else. */
um_status um_plot_format_of(um_plot_format *out, const char *flag, const char *path,
                            um_plot_format fallback, um_err *err);
/* The image of one routing file, all phases. */
um_status um_plot_routing(const char *csv, const char *svg, um_err *err);
